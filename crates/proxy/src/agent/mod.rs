// SPDX-License-Identifier: Apache-2.0
//! What stands between the proxy and its control plane, on a thread of its own: credentials, the
//! registry, the configuration, reports. Traffic goes on without any of it. [`begin`] returns when
//! the first configuration is in force; from then on tasks keep it fresh.

mod ads;
mod cache;
mod certs;
mod circle;
mod enlist;
mod export;
mod ledger;
mod link;
mod load;
mod places;
mod probe;
mod publish;
mod quota;
mod registry;
mod report;
mod state;

pub(crate) use byrnie_xds::kept::Kept;
pub(crate) use export::start as export;
pub(crate) use state::State;

use self::enlist::Enlistments;
use self::ledger::Inquiries;
use self::quota::Quotas;
use crate::config::{Config, Source};
use crate::error::Error;
use crate::keys::{self, Keys};
use crate::running::Goodbye;
use crate::worker::InForce;
use byrnie_base::mailbox::Receiver;
use byrnie_model::Record;
use byrnie_net::runtime::{self, Shutdown, Task};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// What the agent supplies to the cores.
#[derive(Debug)]
pub(crate) struct Supply {
    /// What is in force, always the newest.
    pub(crate) in_force: watch::Receiver<InForce>,
    /// For the cores' dice.
    pub(crate) seed: u64,
    /// Where cores ask. Without a control plane nobody answers.
    pub(crate) lines: Lines,
    /// Ends after the registry has heard the goodbye.
    pub(crate) registered: Option<Task>,
}

/// Where cores ask the control plane what a request has to wait for.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    /// About idempotency keys.
    pub(crate) ledger: Inquiries,
    /// To take part in a transaction.
    pub(crate) coordinator: Enlistments,
    /// For requests under quotas that instances share.
    pub(crate) quotas: Quotas,
}

/// What they ask, for the tasks that carry it.
struct Asked {
    ledger: ledger::Asked,
    coordinator: enlist::Wanted,
    quotas: quota::Asked,
}

/// Both ends of all lines.
fn lines() -> (Lines, Asked) {
    let ((ledger, of_ledger), (coordinator, of_coordinator)) = (ledger::inquiries(), enlist::enlistments());
    let (quotas, of_quotas) = quota::quotas();
    let asked = Asked { ledger: of_ledger, coordinator: of_coordinator, quotas: of_quotas };
    (Lines { ledger, coordinator, quotas }, asked)
}

/// Where this proxy itself is reached, for the registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
}

/// The view that this proxy kept when it last ran, if it's whole and its own.
pub(crate) fn kept(config: &Config) -> Option<Kept> {
    let Source::Control(control) = &config.source else { return None };
    if !control.keep_view {
        return None;
    }
    let unfit = match cache::load(&config.state_dir) {
        Ok(kept) if *kept.origin.node == node_name(config) => return Some(kept),
        Ok(kept) => format!("it is of {}", kept.origin.node),
        Err(cache::Refused::Absent) => return None,
        Err(cache::Refused::Unfit(why)) => why,
    };
    let code = byrnie_model::code::KEPT_VIEW.id;
    tracing::warn!(code, why = unfit, folder = %config.state_dir.display(), "the kept configuration is not used");
    None
}

/// `NAMESPACE/NAME`.
pub(crate) fn node_name(config: &Config) -> String {
    format!("{}/{}", config.namespace, config.name)
}

/// Gets the first configuration, and starts what keeps it fresh.
pub(crate) async fn begin(
    config: &Config,
    (own, kept): (Own, Option<Kept>),
    state: Arc<State>,
    (records, goodbye): (Receiver<Record>, mpsc::UnboundedReceiver<Goodbye>),
    stop: Shutdown,
) -> Result<Supply, Error> {
    let seed = seed();
    let (lines, asked) = lines();
    let (in_force, registered) = match &config.source {
        Source::Given { snapshots, credentials } => {
            runtime::spawn_local("records", report::keep_only(records, Arc::clone(&state)));
            (
                given(
                    snapshots.clone(),
                    Keys::new(credentials, &keys::of_sites(&snapshots.borrow(), credentials.trust_domain()), 0)?,
                    &state,
                    stop,
                ),
                None,
            )
        }
        Source::Control(control) => {
            link::begin(config, control, (own, kept), Arc::clone(&state), (records, goodbye, asked), stop).await?
        }
    };
    state.watch(in_force.clone());
    runtime::spawn_local("load", load::run(in_force.clone(), state.drain.watches().inbound.draining()));
    Ok(Supply { in_force, seed, lines, registered })
}

/// Configuration from the starter itself.
fn given(
    mut snapshots: watch::Receiver<Arc<byrnie_engine::Snapshot>>,
    keys: Keys,
    state: &Arc<State>,
    mut stop: Shutdown,
) -> watch::Receiver<InForce> {
    let keys = Arc::new(keys);
    let snapshot = Arc::clone(&snapshots.borrow_and_update());
    let (news, in_force) = watch::channel(InForce::new(snapshot, keys));
    state.set_connected(true);
    runtime::spawn_local("given", async move {
        loop {
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() {
                    // The giver is gone: what it gave last stays in force.
                    return stop.wait().await;
                },
                () = stop.wait() => return,
            }
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            news.send_modify(|in_force| in_force.replace(snapshot));
        }
    });
    in_force
}

/// Dice that no two processes share. Not for secrets.
fn seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id())
}
