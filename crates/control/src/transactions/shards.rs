// SPDX-License-Identifier: Apache-2.0
//! Which transactions are this coordinator's to drive: those of the shards that it holds. `saga::shards` decides; here the
//! journal is told and asked, again and again, and what is gained begins to run and what is lost stops.

#[cfg(test)]
mod tests;

use super::letters::Desk;
use super::problem::Problem;
use super::recover;
use super::run::Coordinator;
use byrnie_base::Instant;
use byrnie_model::code;
use byrnie_net::runtime::{self, Shutdown, Trigger};
use byrnie_saga::Term;
use byrnie_saga::shards::{BEAT, Beat, Board, Tenure};
use byrnie_store::Error;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long something new waits for a shard: others give one within two beats.
const PATIENCE: Duration = Duration::from_secs(5);
/// Beats that follow each other without a pause.
const AT_ONCE_MAX: usize = 4;
/// Shortest pause before news lead to a beat.
const BEAT_AGAIN: Duration = Duration::from_millis(100);
/// Longest wait for the last beat.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// The name of a coordinator that alone can open its journal: the same after every start, as what it held is its own.
const ALONE: &str = "alone";

/// The shards that are held.
pub(super) struct Terms {
    known: Mutex<Known>,
    held: watch::Sender<usize>,
    /// What others ask of them.
    pub(super) desk: Desk,
}

struct Known {
    tenure: Tenure,
    reigns: HashMap<u16, Reign>,
    /// Grows with every term that is gained.
    age: u64,
}

/// A term while it is held; whatever runs in it stops when this is dropped.
struct Reign {
    term: Term,
    since: u64,
    /// Dropped with it.
    stop: Trigger,
}

/// A term, and what tells of its end.
#[derive(Clone, Debug)]
pub(super) struct Office {
    pub(super) term: Term,
    pub(super) over: Shutdown,
}

/// Where a transaction is driven, as of some moment before.
pub(super) enum Place {
    Here(Office),
    Elsewhere,
    /// It has become this one's only since: what was read may be out of date.
    New,
}

impl Terms {
    /// `mark` tells this process from all others.
    pub(super) fn new(lease: Option<Duration>, mark: u64) -> Self {
        let name = if lease.is_some() { format!("{}-{mark:016x}", std::process::id()) } else { ALONE.to_owned() };
        let known = Known { tenure: Tenure::new(name.into(), lease), reigns: HashMap::new(), age: 0 };
        Self { known: Mutex::new(known), held: watch::Sender::new(0), desk: Desk::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A moment, to be compared by [`Terms::place`].
    pub(super) fn age(&self) -> u64 {
        self.known().age
    }

    /// Where a shard's transactions are driven, to who has read one since `age`.
    pub(super) fn place(&self, shard: u16, age: u64, now: Instant) -> Place {
        let known = self.known();
        match (known.tenure.term(shard, now), known.reigns.get(&shard)) {
            (Some(term), Some(reign)) if reign.term == term && reign.since <= age => Place::Here(reign.office()),
            (Some(term), Some(reign)) if reign.term == term => Place::New,
            _ => Place::Elsewhere,
        }
    }

    /// Whether a term is held still, by the clock too.
    pub(super) fn holds(&self, term: Term, now: Instant) -> bool {
        self.known().tenure.term(term.shard, now) == Some(term)
    }

    /// A term that is held still, by the clock too.
    pub(super) fn office(&self, term: Term, now: Instant) -> Option<Office> {
        let known = self.known();
        let held = known.tenure.term(term.shard, now) == Some(term);
        known.reigns.get(&term.shard).filter(|reign| held && reign.term == term).map(Reign::office)
    }

    /// A term for something new.
    async fn any(&self, coordinator: &Coordinator) -> Option<Office> {
        let mut held = self.held.subscribe();
        let found = async {
            loop {
                held.borrow_and_update();
                {
                    let known = self.known();
                    let term = known.tenure.any(coordinator.roll(), coordinator.state.now().mono);
                    if let Some(reign) = term.and_then(|term| known.reigns.get(&term.shard)) {
                        return Some(reign.office());
                    }
                }
                held.changed().await.ok()?;
            }
        };
        runtime::timeout(PATIENCE, found).await.ok().flatten()
    }

    /// The shards that are held.
    pub(super) fn shards(&self) -> Vec<u16> {
        self.known().reigns.keys().copied().collect()
    }

    fn beat(&self) -> Beat {
        self.known().tenure.beat()
    }

    /// Takes in what the journal says: the terms that begin and that are over, and whether to beat again at once.
    fn on_board(&self, asked: Instant, board: &Board) -> (Vec<Term>, Vec<Term>, bool) {
        let mut known = self.known();
        let change = known.tenure.on_board(asked, board);
        for term in &change.gained {
            known.age += 1;
            let reign = Reign { term: *term, since: known.age, stop: runtime::shutdown().0 };
            known.reigns.insert(term.shard, reign);
        }
        known.end(&change.lost);
        let count = known.reigns.len();
        drop(known);
        self.held.send_replace(count);
        (change.gained, change.lost, change.again)
    }

    fn lapse(&self, now: Instant) -> Vec<Term> {
        let mut known = self.known();
        let lost = known.tenure.lapse(now);
        known.end(&lost);
        lost
    }

    /// A write has failed: what that says of the terms. Those that are over by it.
    fn shake(&self, term: Term, error: &Error) -> Vec<Term> {
        let mut known = self.known();
        let lost = match error {
            Error::Deposed { .. } if known.tenure.depose(term) => vec![term],
            Error::Unreachable(_) | Error::Doubtful(_)
                if known.reigns.get(&term.shard).is_some_and(|r| r.term == term) =>
            {
                known.tenure.drop_all()
            }
            _ => Vec::new(),
        };
        known.end(&lost);
        lost
    }
}

impl Known {
    fn end(&mut self, lost: &[Term]) {
        for term in lost {
            if self.reigns.get(&term.shard).is_some_and(|reign| reign.term == *term) {
                self.reigns.remove(&term.shard);
            }
        }
    }
}

impl Reign {
    fn office(&self) -> Office {
        Office { term: self.term, over: self.stop.subscribe() }
    }
}

impl Coordinator {
    /// A term for a new transaction.
    pub(super) async fn office(&self) -> Result<Office, Problem> {
        let none =
            || Problem::new(503, &code::TXN_JOURNAL, "this coordinator holds no shard of the transactions' database");
        self.terms.any(self).await.ok_or_else(none)
    }

    /// An append of this term has failed. True if the term is over by that, and whoever holds it next goes on.
    pub(super) fn shaken(&self, term: Term, error: &Error) -> bool {
        let lost = self.terms.shake(term, error);
        if let Some(first) = lost.first() {
            let shards = lost.len();
            tracing::warn!(%error, shards, first = first.shard, "transactions stop here until their shards are taken over anew");
            self.dismiss(&lost);
        }
        matches!(error, Error::Deposed { .. } | Error::Unreachable(_) | Error::Doubtful(_))
    }

    /// Gives everything back, so that others go on at once. To be called when nothing is driven any more.
    pub async fn leave(&self) {
        // What was noted last is kept, too.
        if let Ok(Err(error)) = runtime::timeout(FAREWELL_MAX, self.audit.write(&self.state)).await {
            tracing::warn!(%error, "the last lines of the audit of transactions can't be kept");
        }
        if self.journal.lease().is_none() {
            return;
        }
        let farewell = {
            let mut known = self.terms.known();
            let farewell = known.tenure.leave();
            known.end(&farewell.give);
            farewell
        };
        self.dismiss(&farewell.give);
        match runtime::timeout(FAREWELL_MAX, self.journal.beat(farewell)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the shards of transactions can't be given back; others take them over")
            }
            Err(runtime::Elapsed) => {
                tracing::warn!("the shards of transactions aren't given back; others take them over")
            }
        }
    }
}

/// Holds as many shards as is fair, for as long as the coordinator runs, and answers what others ask of them.
pub(super) async fn run(coordinator: &Arc<Coordinator>) {
    let mut news = coordinator.journal.news();
    let (mut last, mut rest) = (None::<Instant>, Duration::ZERO);
    let mut answers = true;
    loop {
        tokio::select! {
            () = rest_for(rest) => {
                last = Some(coordinator.state.now().mono);
                answers = beat(coordinator, answers).await;
                // Alone, there is nothing to be renewed.
                let alone = coordinator.journal.lease().is_none() && answers;
                rest = if alone { Duration::MAX } else { BEAT };
            }
            // An error is no news. It may be a letter or a free shard; many letters are no reason to beat as often.
            _ = news.changed() => {
                let since = last.map_or(BEAT, |last| coordinator.state.now().mono.since(last));
                rest = BEAT_AGAIN.saturating_sub(since).min(rest);
            }
        }
        super::letters::answer_all(coordinator).await;
    }
}

/// Tells the journal and takes in what it says, until nothing more follows from it. Whether it answers; it did `before`.
async fn beat(coordinator: &Arc<Coordinator>, before: bool) -> bool {
    for _ in 0..AT_ONCE_MAX {
        let asked = coordinator.state.now().mono;
        match coordinator.journal.beat(coordinator.terms.beat()).await {
            Ok(board) => {
                if !take_in(coordinator, asked, &board) {
                    break;
                }
            }
            Err(error) => {
                if before {
                    tracing::error!(%error, "the journal of transactions does not answer; it is asked again");
                }
                coordinator.dismiss(&coordinator.terms.lapse(coordinator.state.now().mono));
                return false;
            }
        }
    }
    true
}

async fn rest_for(span: Duration) {
    if span == Duration::MAX {
        std::future::pending::<()>().await;
    }
    runtime::sleep(span).await;
}

fn take_in(coordinator: &Arc<Coordinator>, asked: Instant, board: &Board) -> bool {
    let (gained, lost, again) = coordinator.terms.on_board(asked, board);
    coordinator.dismiss(&lost);
    if !lost.is_empty() {
        tracing::info!(shards = lost.len(), coordinators = board.members.len(), "shards of transactions go to others");
    }
    if !gained.is_empty() {
        tracing::info!(
            shards = gained.len(),
            coordinators = board.members.len(),
            "shards of transactions are taken over"
        );
        let resumed = recover::resume(Arc::clone(coordinator), gained);
        let mut shutdown = coordinator.shutdown.clone();
        runtime::spawn("transactions taken over", async move {
            tokio::select! {
                () = resumed => {}
                () = shutdown.wait() => {}
            }
        });
    }
    again
}
