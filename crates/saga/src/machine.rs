// SPDX-License-Identifier: Apache-2.0
//! The machine: one transaction from its beginning to its end. The coordinator hands it events one after
//! the other and performs the effects in their order; a call never goes out before what it depends on is
//! durable. Everything that outlives a crash changes by entries alone (`state`); what is in flight, how
//! often something was tried and when it is due again lives only here.

mod ask;
mod reply;
mod state;
#[cfg(test)]
mod tests;

pub use ask::{Ask, Refusal};
pub use reply::Reply;
pub use state::State;

use crate::journal::{self, Entry, What};
use crate::timer::backoff;
use crate::transaction::{End, Op, Phase, Progress, Slot, Spec, Target};
use byrnie_base::{Text, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// How often a definite refusal is taken for a passing fault, where nobody may refuse for good: then an
/// operator has to look. As often is asked what nobody knows; then the way back is taken, or an operator has to look.
pub const REFUSALS_MAX: u32 = 3;
/// Unsuccessful calls of one transaction that are written to its history; later ones are only counted.
pub const TRIED_ENTRIES_MAX: u32 = 100;
/// Pause before an outcome that is being worked on is asked for again, unless the participant says.
pub const POLL_MS: u64 = 1_000;
/// Longest pause that a participant may ask for (`Retry-After`): then it is asked again all the same.
pub const AFTER_MAX: Duration = Duration::from_secs(3600);

/// A transaction that runs.
#[derive(Clone, Debug)]
pub struct Machine {
    state: State,
    live: Vec<Live>,
    check: Live,
    tried: u32,
}

/// What is known of a branch only as long as the process lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Live {
    op: Option<Op>,
    in_flight: bool,
    attempt: u32,
    /// Calls in a row without a definite answer.
    failures: u32,
    /// Those of them since its service had an endpoint more: what the next pause grows by.
    pauses: u32,
    refusals: u32,
    /// When the first of these calls ended, where that counts.
    since: Option<Timestamp>,
    due: Timestamp,
    /// When the time of the call is over that is under way, or was last.
    limit: Timestamp,
    /// When that of the last call of the action is over that was lost: until then the participant may be at work.
    until: Option<Timestamp>,
    /// The action may have reached the participant.
    sent: bool,
    /// An earlier call of the action may still be on its way, so that even a no isn't the last word.
    doubt: bool,
}

impl Live {
    /// Whether a call was made, and is to be made again after a pause.
    fn waits(&self, progress: &Progress) -> bool {
        !self.in_flight && self.op.is_some_and(|op| progress.slot(op) == Slot::Pending)
    }

    /// One more call without a definite answer.
    const fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.pauses = self.pauses.saturating_add(1);
    }
}

/// Something that happens to a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was begun, or read again after a crash; also a timer that has run out.
    Wake,
    /// A call has ended.
    Reply(Reply),
    /// What this names ([`Target::place`]) can be called again.
    Healthy(Text),
    /// A call that waits for what this names is to find out whether it can be called again.
    Probe(Text),
    /// A person or a program asks for something.
    Ask {
        /// What.
        ask: Ask,
        /// Who, as it goes into the history.
        by: Text,
    },
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write these down. What follows waits until they are durable, if `durable`.
    Persist {
        /// In this order.
        entries: Vec<Entry>,
        /// Whether anything depends on them.
        durable: bool,
    },
    /// Make a call, and report its end as [`Event::Reply`] whatever happens.
    Call(Order),
    /// Send [`Event::Wake`] at this moment.
    Wake(Timestamp),
    /// It has ended: forget it.
    End(End),
}

/// A call to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The branch, by position; absent for a check.
    pub branch: Option<u16>,
    /// What for.
    pub op: Op,
    /// The number of the call, from 1.
    pub attempt: u32,
    /// Where to ask instead, if the participant works on it.
    pub poll: Option<Text>,
    /// When its outcome is of no use any more.
    pub until: Timestamp,
}

impl Machine {
    /// A new transaction, and its first entry, to be durable before anybody hears of it. [`Event::Wake`]
    /// then sets it going.
    pub fn begin(spec: Spec, now: Timestamp) -> (Self, Entry) {
        Self::begin_in(spec, None, now)
    }

    /// The same, as a part of a trace (see [`What::Begun`]).
    pub fn begin_in(spec: Spec, trace: Option<Text>, now: Timestamp) -> (Self, Entry) {
        let version = journal::version(&spec);
        let spec = Arc::new(spec);
        let entry = Entry { at: now, what: What::Begun { spec: Arc::clone(&spec), version, trace: trace.clone() } };
        (Self::fresh(spec, trace), entry)
    }

    fn fresh(spec: Arc<Spec>, trace: Option<Text>) -> Self {
        let live = vec![Live::default(); spec.branches.len()];
        Self { state: State::new(spec, trace), live, check: Live::default(), tried: 0 }
    }

    /// The transaction that these entries tell of, after a crash: whatever may have been sent counts as sent.
    ///
    /// # Errors
    /// If they don't begin with a beginning.
    pub fn replay(entries: impl IntoIterator<Item = Entry>) -> Result<Self, journal::Error> {
        let mut entries = entries.into_iter();
        let Some(Entry { what: What::Begun { spec, trace, .. }, .. }) = entries.next() else {
            return Err(journal::Error::Headless);
        };
        let mut machine = Self::fresh(spec, trace);
        for entry in entries {
            machine.remember(&entry);
            machine.apply(&entry);
        }
        if machine.state.phase == Phase::Acting {
            for at in 0..machine.live.len() {
                machine.live[at].sent = machine.state.is_ready(at);
            }
        }
        Ok(machine)
    }

    /// What is durable of it, once the effects of the last event are done.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Calls made so far for a branch's present op.
    pub fn attempts(&self, branch: usize) -> u32 {
        self.live.get(branch).map_or(0, |live| live.attempt)
    }

    /// Whether a call is under way.
    pub fn is_calling(&self, branch: usize) -> bool {
        self.live.get(branch).is_some_and(|live| live.in_flight)
    }

    /// What calls that wait for their next try go to, and whether their number is limited.
    pub fn waits_for(&self) -> impl Iterator<Item = (&Target, bool)> {
        let branches = self.live.iter().zip(&self.state.spec.branches);
        let branches =
            branches.filter_map(|(live, branch)| Some((live, branch.call(live.op?)?, branch.retry.attempts > 0)));
        let check = self.state.spec.check.iter().map(|check| (&self.check, check, false));
        let waiting = branches.chain(check.filter(|_| self.state.phase == Phase::Open));
        waiting.filter(|(live, ..)| live.failures > 0).map(|(_, call, limited)| (&call.target, limited))
    }

    /// When the first of the calls is due that are to be made again, if any is.
    pub fn next_try(&self) -> Option<Timestamp> {
        let branches = self.live.iter().zip(&self.state.progress);
        let branches = branches.filter(|(live, progress)| live.waits(progress)).map(|(live, _)| live.due);
        let check = (self.state.phase == Phase::Open && self.check.op.is_some() && !self.check.in_flight)
            .then_some(self.check.due);
        branches.chain(check).min()
    }

    /// Lets something happen.
    ///
    /// # Errors
    /// If what was asked for can't be done now; nothing has changed then.
    pub fn on(&mut self, now: Timestamp, event: Event) -> Result<Vec<Effect>, Refusal> {
        if let Phase::Ended(_) = self.state.phase {
            return match event {
                Event::Ask { ask, .. } => self.too_late(&ask).map(|()| Vec::new()),
                Event::Wake | Event::Reply(_) | Event::Healthy(_) | Event::Probe(_) => Ok(Vec::new()),
            };
        }
        let mut log = Log { now, entries: Vec::new(), durable: false };
        match event {
            Event::Wake => {}
            Event::Reply(reply) => self.on_reply(&mut log, reply),
            Event::Healthy(place) => self.on_healthy(now, &place),
            Event::Probe(place) => self.on_probe(now, &place),
            Event::Ask { ask, by } => self.on_ask(&mut log, ask, by)?,
        }
        self.advance(&mut log);
        Ok(self.effects(log))
    }

    /// Applies an entry and notes it for the journal.
    fn enter(&mut self, log: &mut Log, what: What, durable: bool) {
        let entry = Entry { at: log.now, what };
        self.apply(&entry);
        log.entries.push(entry);
        log.durable |= durable;
    }

    fn apply(&mut self, entry: &Entry) {
        self.state.apply(entry);
        self.live.resize(self.state.spec.branches.len(), Live::default());
    }

    /// What a history says of calls made before a crash, so that numbers go on from there.
    fn remember(&mut self, entry: &Entry) {
        if let What::Tried { branch, op, attempt, .. } = &entry.what {
            self.tried += 1;
            let live = match branch {
                Some(at) => self.live.get_mut(usize::from(*at)),
                None => Some(&mut self.check),
            };
            let timed = branch.and_then(|at| self.state.spec.branches.get(usize::from(at)));
            let timed = timed.is_some_and(|branch| branch.retry.for_ms > 0);
            if let Some(live) = live {
                let before = live.since.filter(|_| live.op == Some(*op));
                let since = timed.then(|| before.unwrap_or(entry.at));
                *live = Live { op: Some(*op), attempt: *attempt, since, ..Live::default() };
            }
        }
    }

    /// Decides all that follows from what is known, until nothing more does.
    fn advance(&mut self, log: &mut Log) {
        loop {
            let next = match self.state.phase {
                Phase::Open => self.after_open(log.now),
                Phase::Acting => self.after_acting(log.now),
                Phase::Held => None,
                Phase::Confirming => self.state.all(Op::Confirm).then_some(ended(End::Done)),
                Phase::Undoing => self.is_undone().then_some(ended(End::Undone)),
                Phase::Ended(_) => None,
            };
            let Some(what) = next else { return };
            self.enter(log, what, true);
        }
    }

    fn after_open(&self, now: Timestamp) -> Option<What> {
        // A prepared message is decided by its check alone.
        let over = self.state.spec.check.is_none() && self.state.is_late(now);
        over.then(|| self.turn(Phase::Undoing, "the deadline has passed", ""))
    }

    fn after_acting(&self, now: Timestamp) -> Option<What> {
        if self.state.all(Op::Action) && self.state.spec.parent.is_some() {
            return Some(self.turn(Phase::Held, "all of it is done", ""));
        }
        if self.state.all(Op::Action) {
            let more = self.state.progress.iter().any(|branch| branch.confirm != Slot::Absent);
            return Some(if more { self.turn(Phase::Confirming, "every try is done", "") } else { ended(End::Done) });
        }
        if let Some(branch) = self.state.rejected() {
            let progress = &self.state.progress[branch];
            let reason = format!("{}: {}", self.state.spec.branches[branch].name, progress.reason);
            return Some(self.turn(Phase::Undoing, &reason, ""));
        }
        let late = self.state.is_late(now) && self.may_turn_back();
        late.then(|| self.turn(Phase::Undoing, "the deadline has passed", ""))
    }

    /// Whether everything that may have been done can still be taken back.
    pub fn may_turn_back(&self) -> bool {
        let done = |at: usize| self.state.progress[at].action == Slot::Done;
        let open = |at: usize| !matches!(self.state.progress[at].action, Slot::Rejected | Slot::Absent);
        !self.state.spec.branches.iter().enumerate().any(|(at, branch)| {
            let bound = branch.must_answer() && !self.state.spec.rules.dtm;
            (branch.pivot && done(at)) || (bound && open(at) && (self.live[at].sent || done(at)))
        })
    }

    fn turn(&self, to: Phase, reason: &str, by: &str) -> What {
        let may_be_done = |at: &usize| {
            let slot = self.state.progress[*at].action;
            match self.state.phase {
                // Whoever joined may have been called by the creator.
                Phase::Open => true,
                _ if slot == Slot::Rejected => {
                    let keeps = self.is_answered_first(*at);
                    self.state.spec.rules.undo_rejected || (self.live[*at].doubt && !keeps)
                }
                // Nothing had to be called for it: it counts as done.
                _ if slot == Slot::Absent => self.state.phase == Phase::Acting,
                _ => slot == Slot::Done || (matches!(slot, Slot::Pending | Slot::Stuck) && self.live[*at].sent),
            }
        };
        let sent = (0..self.state.progress.len()).filter(may_be_done).filter_map(|at| u16::try_from(at).ok());
        What::Turned { to, reason: reason.into(), by: by.into(), sent: sent.collect() }
    }

    /// Whether all that was done is undone and nothing is on its way any more.
    fn is_undone(&self) -> bool {
        self.state.all(Op::Undo) && !self.live.iter().any(|live| live.in_flight)
    }

    /// Persists, then calls what may be called, then says when to look again.
    fn effects(&mut self, log: Log) -> Vec<Effect> {
        let Log { now, entries, durable } = log;
        let mut effects = Vec::new();
        if !entries.is_empty() {
            effects.push(Effect::Persist { entries, durable });
        }
        if let Phase::Ended(end) = self.state.phase {
            effects.push(Effect::End(end));
            return effects;
        }
        let mut wake: Option<Timestamp> = None;
        let mut at_latest = |moment: Timestamp| wake = Some(wake.map_or(moment, |sooner| sooner.min(moment)));
        if let Some(deadline) = self.state.spec.deadline.filter(|deadline| *deadline > now) {
            at_latest(deadline);
        }
        if self.state.phase == Phase::Open && self.state.spec.check.is_some() && !self.check.in_flight {
            let first = self.state.spec.deadline.unwrap_or(self.state.spec.created);
            let due = self.check.due.max(first);
            if due <= now {
                effects.push(Effect::Call(self.order(None, Op::Check, now)));
            } else {
                at_latest(due);
            }
        }
        for (at, op) in self.callable() {
            let live = &self.live[at];
            if live.op == Some(op) && live.due > now {
                at_latest(live.due);
            } else {
                effects.push(Effect::Call(self.order(Some(at), op, now)));
            }
        }
        effects.extend(wake.map(Effect::Wake));
        effects
    }

    /// Branches that may be called now, but for their pause.
    fn callable(&self) -> Vec<(usize, Op)> {
        let idle = |at: &usize| !self.live[*at].in_flight;
        let all = 0..self.live.len();
        match self.state.phase {
            Phase::Acting => all
                .filter(idle)
                .filter(|at| self.state.progress[*at].action == Slot::Pending && self.state.is_ready(*at))
                .map(|at| (at, Op::Action))
                .collect(),
            Phase::Confirming => all
                .filter(idle)
                .filter(|at| self.state.progress[*at].confirm == Slot::Pending && self.state.is_next(*at))
                .map(|at| (at, Op::Confirm))
                .collect(),
            Phase::Undoing => {
                let clear = self.clear();
                let free = |at: usize| self.state.followers(at).all(|follower| clear[follower]);
                all.filter(idle)
                    .filter(|at| self.state.progress[*at].undo == Slot::Pending)
                    .filter_map(|at| match self.state.progress[at].action {
                        Slot::Pending if self.is_answered_first(at) => Some((at, Op::Action)),
                        Slot::Stuck if self.is_answered_first(at) => None,
                        _ => free(at).then_some((at, Op::Undo)),
                    })
                    .collect()
            }
            Phase::Open | Phase::Held | Phase::Ended(_) => Vec::new(),
        }
    }

    /// Whether a call is made as soon as nothing else of its branch is under way: it was called, or is again after a
    /// crash. What is told of it before answers no call.
    fn has_its_turn(&self, at: usize, op: Op) -> bool {
        match op {
            Op::Action => self.state.is_ready(at),
            Op::Confirm => self.state.is_next(at),
            Op::Undo => {
                let clear = self.clear();
                let other = self.live[at].in_flight && self.live[at].op != Some(Op::Undo);
                !other && self.state.followers(at).all(|follower| clear[follower])
            }
            Op::Check => false,
        }
    }

    /// Whether an action is called on the way back, as its undo needs its answer.
    fn is_asked_first(&self, at: usize) -> bool {
        let progress = &self.state.progress[at];
        self.is_answered_first(at) && progress.action == Slot::Pending && progress.undo == Slot::Pending
    }

    /// Whether a branch can be undone only once its action is answered.
    fn is_answered_first(&self, at: usize) -> bool {
        self.state.spec.branches[at].answer_first
    }

    /// For each branch, whether it and all that come after it are undone.
    fn clear(&self) -> Vec<bool> {
        let count = self.live.len();
        let mut clear = vec![false; count];
        // Each round settles at least the last of what is left, so this many rounds settle all.
        for _ in 0..count {
            let before = clear.clone();
            for at in 0..count {
                let own = matches!(self.state.progress[at].undo, Slot::Absent | Slot::Done) && !self.live[at].in_flight;
                clear[at] = own && self.state.followers(at).all(|follower| clear[follower]);
            }
            if clear == before {
                break;
            }
        }
        clear
    }

    fn order(&mut self, branch: Option<usize>, op: Op, now: Timestamp) -> Order {
        let (spec, progress) = (&self.state.spec, branch.map(|at| &self.state.progress[at]));
        let retry = branch.map(|at| spec.branches[at].retry).unwrap_or_default();
        let over = now + Duration::from_millis(retry.timeout_ms);
        // An action is of no use after the deadline, unless there is no way back from it.
        let bound = branch.is_some_and(|at| spec.branches[at].must_answer())
            || self.state.phase == Phase::Undoing
            || self.state.pivot_is_done();
        let deadline = spec.deadline.filter(|_| op == Op::Action && !bound);
        let poll = progress.and_then(|progress| progress.poll.clone());
        let live = match branch {
            Some(at) => &mut self.live[at],
            None => &mut self.check,
        };
        if live.op != Some(op) {
            *live = Live { op: Some(op), sent: live.sent, ..Live::default() };
        }
        live.limit = deadline.map_or(over, |deadline| over.min(deadline));
        // Of what was sent before a crash no more is known than that it was sent before.
        live.until.get_or_insert(if live.sent { live.limit } else { now });
        live.doubt = live.sent;
        live.in_flight = true;
        live.attempt = live.attempt.saturating_add(1);
        live.sent |= op == Op::Action;
        Order {
            branch: branch.and_then(|at| u16::try_from(at).ok()),
            op,
            attempt: live.attempt,
            poll,
            until: live.limit,
        }
    }

    /// It's asked at once and then, as its program may still be starting, after pauses that are short again.
    fn on_healthy(&mut self, now: Timestamp, place: &str) {
        for live in self.calls_of(place) {
            live.pauses = 0;
            if live.failures > 0 {
                live.due = now;
            }
        }
    }

    /// One call is made now; pauses go on growing, as nothing is known yet.
    fn on_probe(&mut self, now: Timestamp, place: &str) {
        if let Some(live) = self.calls_of(place).find(|live| live.failures > 0 && !live.in_flight) {
            live.due = now;
        }
    }

    /// All that wait for their next call have it now; pauses go on growing, as nothing is known yet.
    fn hurry(&mut self, now: Timestamp) {
        let branches = self.live.iter_mut().zip(&self.state.progress);
        let branches = branches.filter(|(live, progress)| live.waits(progress)).map(|(live, _)| live);
        branches.chain([&mut self.check]).for_each(|live| live.due = live.due.min(now));
    }

    /// The calls of a place.
    fn calls_of(&mut self, place: &str) -> impl Iterator<Item = &mut Live> {
        let branches = self.live.iter_mut().zip(&self.state.spec.branches);
        let branches = branches.filter_map(|(live, branch)| Some((branch.call(live.op?)?, live)));
        let check = self.state.spec.check.iter().zip([&mut self.check]);
        branches.chain(check).filter(move |(call, _)| call.target.place() == place).map(|(_, live)| live)
    }
}

fn ended(end: End) -> What {
    What::Ended { end, by: Text::default(), reason: Text::default() }
}

/// What is to be written down of one event.
struct Log {
    now: Timestamp,
    entries: Vec<Entry>,
    durable: bool,
}

/// The moment of the next try.
fn again(now: Timestamp, retry: &crate::Retry, pauses: u32, after: Option<Duration>, roll: u64) -> Timestamp {
    now + backoff(retry, pauses, roll).max(after.unwrap_or_default().min(AFTER_MAX))
}
