// SPDX-License-Identifier: Apache-2.0
//! What goes on by itself: transactions that were under way when a shard was taken over, those that wait for a service
//! whose endpoints come back, the end of old histories, and that the audit is kept.

use super::actor::{Mailbox, Message};
use super::authorize::service;
use super::reach;
use super::run::Coordinator;
use super::shards;
use byrnie_base::{Text, Timestamp};
use byrnie_model::{Health, ServiceRef, Spec};
use byrnie_net::runtime;
use byrnie_saga::{Event, Target, Term};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Pause before the journal is asked again after an error.
const RETRY: Duration = Duration::from_secs(1);
/// Transactions that are read together.
const READ_AHEAD: usize = 64;
/// How long the history of a transaction is kept after its end.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often old histories are looked for, and how many are removed at once.
const SWEEP: (Duration, usize) = (Duration::from_secs(600), 1_000);

pub(super) async fn run(coordinator: Arc<Coordinator>) {
    let mut shutdown = coordinator.shutdown.clone();
    let work = async {
        tokio::join!(
            shards::run(&coordinator),
            follow(&coordinator),
            reach::follow(&coordinator),
            sweep(&coordinator),
            coordinator.audit.keep(&coordinator.state),
        );
    };
    tokio::select! {
        () = work => {}
        () = shutdown.wait() => {}
    }
}

/// Sets everything going that hasn't ended, in terms that have just begun.
pub(super) async fn resume(coordinator: Arc<Coordinator>, terms: Vec<Term>) {
    let held = |term: &Term| coordinator.terms.holds(*term, coordinator.state.now().mono);
    let ids = loop {
        let shards: Vec<u16> = terms.iter().filter(|term| held(term)).map(|term| term.shard).collect();
        if shards.is_empty() {
            return;
        }
        match coordinator.journal.unfinished(shards).await {
            Ok(ids) => break ids,
            Err(error) => tracing::error!(%error, "the journal of transactions does not answer; it is asked again"),
        }
        runtime::sleep(RETRY).await;
    };
    if !ids.is_empty() {
        tracing::info!(transactions = ids.len(), "transactions go on that were under way");
    }
    for ids in ids.chunks(READ_AHEAD) {
        // All are on their way before the first is waited for, so that they are read together.
        let reads: Vec<_> = ids.iter().map(|id| coordinator.read(id)).collect();
        for (id, read) in ids.iter().zip(reads) {
            let loaded = match read.await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => coordinator.load(id).await.map(drop),
                Err(problem) => Err(problem),
            };
            if let Err(problem) = loaded {
                tracing::error!(%id, problem = problem.detail, "a transaction can't be read; it is tried again");
                runtime::spawn("transaction reload", Arc::clone(&coordinator).reload(id.clone()));
            }
        }
    }
}

/// Wakes those that wait for a service as soon as it has an endpoint more.
async fn follow(coordinator: &Arc<Coordinator>) {
    let mut revisions = coordinator.state.revisions();
    let mut known: HashMap<Text, BTreeSet<Text>> = HashMap::new();
    loop {
        let waiting = waiting(coordinator, false);
        known.retain(|service, _| waiting.contains_key(service));
        for (authority, waiting) in waiting {
            let now = endpoints(coordinator, &authority);
            let before = known.insert(authority.clone(), now.clone()).unwrap_or_default();
            if now.is_subset(&before) {
                continue;
            }
            wake(&authority, &waiting);
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// A transaction that waits for a place.
pub(super) struct Waiting {
    mailbox: Mailbox,
    /// How often it calls is limited.
    pub(super) limited: bool,
}

impl Waiting {
    pub(super) fn tell(&self, event: Event) {
        // A full mailbox has events enough to look at.
        let _ = self.mailbox.try_send(Box::new(Message::Event(event)));
    }
}

/// Transactions by the service that they wait for, or by the address of this machine (`raw`).
pub(super) fn waiting(coordinator: &Coordinator, raw: bool) -> HashMap<Text, Vec<Waiting>> {
    let mut waiting: HashMap<Text, Vec<Waiting>> = HashMap::new();
    for handle in coordinator.live().values() {
        for wait in handle.sight.borrow().waits.iter().filter(|wait| wait.raw == raw) {
            let one = Waiting { mailbox: handle.mailbox.clone(), limited: wait.limited };
            waiting.entry(wait.place.clone()).or_default().push(one);
        }
    }
    waiting
}

/// Tells those who wait for `place` that it can be called again.
pub(super) fn wake(place: &Text, waiting: &[Waiting]) {
    for one in waiting {
        one.tell(Event::Healthy(place.clone()));
    }
}

fn endpoints(coordinator: &Coordinator, authority: &Text) -> BTreeSet<Text> {
    let target = Target { method: "GET".into(), authority: authority.clone(), path: "/".into(), raw: false };
    let Some(service): Option<ServiceRef> = service(&target) else { return BTreeSet::new() };
    coordinator.state.catalog(|catalog| {
        catalog
            .endpoints(&service)
            .filter_map(|resource| match &resource.spec {
                Spec::Endpoint(endpoint) if endpoint.health == Health::Healthy => Some(endpoint.workload.clone()),
                _ => None,
            })
            .collect()
    })
}

async fn sweep(coordinator: &Coordinator) {
    let (pause, count) = SWEEP;
    loop {
        let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        let before = Timestamp::from_millis(coordinator.now().as_millis().saturating_sub(kept));
        match coordinator.journal.forget(before, count).await {
            Ok(forgotten) if forgotten == count => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "old transactions can't be removed; it is tried again"),
        }
        runtime::sleep(pause).await;
    }
}
