// SPDX-License-Identifier: Apache-2.0
//! Transactions on a virtual world: the real machine, the real journal on a simulated disk, participants with
//! a barrier, and a network that delays, loses and doubles. Power is lost again and again, also in the middle of
//! a write; every time the coordinator is read from the disk and goes on. Several coordinators share the journal by the
//! real leases: they are killed, and stand still for longer than their lease and go on as if nothing had been. Some branches are sagas
//! of their own (`nested`). One seed is one run.

mod nested;
#[cfg(test)]
mod tests;

use byrnie_base::{Clock, Instant, Now, Rng, Text, Timestamp};
use byrnie_saga::journal::What;
use byrnie_saga::shards::{BEAT, Tenure};
use byrnie_saga::{
    Branch, Call, Effect, End, Entry, Event, Machine, Mode, Op, Order, Outcome, Phase, Reply, Retry, Spec, Target, Term,
};
use byrnie_store::disk::{Fate, RamDisk};
use byrnie_store::log::Memory;
use byrnie_store::{Append, Error, Journal, Peers as _, Value};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time between two new transactions, for one coordinator and for several.
const PERIOD_MS: (u64, u64) = (40, 10);
/// More steps than any run takes.
const STEPS_MAX: u64 = 2_000_000;

/// How long a coordinator stands still, or stays away after it was killed: about as long as its lease.
const STILL_MS: std::ops::Range<u64> = 2_500..4_500;
/// Longest time that its next beat is late by, then.
const LATE_MAX_MS: u64 = 1_000;

/// How long after the last fault everything has to have ended.
const CALM_MS: u64 = 60_000;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Losses of power, and coordinators that were killed or stood still.
    pub crashes: u32,
    /// Writes of coordinators that were deposed without noticing, refused.
    pub deposed: u32,
    /// Shards that changed hands.
    pub taken: u32,
    /// Transactions acknowledged.
    pub begun: u32,
    /// Sagas that began as branches of others.
    pub nested: u32,
    /// Letters between coordinators that were answered.
    pub letters: u32,
    /// How many of them were done, and how many undone.
    pub ends: (u32, u32),
    /// Broken promises.
    pub violations: Vec<String>,
}

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How often something goes wrong.
    pub crashes: u32,
    /// Coordinators that share the journal; alone, one holds it for itself.
    pub coordinators: usize,
    /// What is broken.
    pub fault: Fault,
}

/// A planted fault, for the checks to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None: nothing may be found.
    #[default]
    None,
    /// The disk acknowledges some writes that it never makes.
    Lies,
    /// Writes are held neither to their epoch nor to what they follow on.
    Unfenced,
    /// A saga within another doesn't wait for that one's word.
    Unheld,
    /// The undo of a saga that isn't there leaves no trace, so that it can begin later.
    Unburied,
    /// What was asked by letter is taken for done.
    Unread,
}

/// Runs the world of this seed through so many losses of power, with one coordinator.
pub fn run(seed: u64, crashes: u32) -> Report {
    run_by(seed, Rules { crashes, coordinators: 1, fault: Fault::None })
}

/// The same, by other rules.
pub fn run_by(seed: u64, rules: Rules) -> Report {
    let mut world = World::new(seed, rules);
    world.start();
    for _ in 0..STEPS_MAX {
        if !world.step() {
            break;
        }
    }
    world.check();
    world.report
}

/// The clock of the journal.
#[derive(Debug, Default)]
struct Millis(AtomicU64);

impl Clock for Millis {
    fn now(&self) -> Now {
        let millis = self.0.load(Ordering::Relaxed);
        Now { mono: instant(millis), wall: Timestamp::from_millis(millis) }
    }
}

fn instant(millis: u64) -> Instant {
    Instant::from_nanos(millis.saturating_mul(1_000_000))
}

/// What a participant has done of one branch.
#[derive(Clone, Debug, Default)]
struct Part {
    done: bool,
    /// Something of it may be done, and isn't undone.
    stands: bool,
    /// The undo came before the action.
    closed: bool,
    /// It says no, and keeps to it.
    refuses: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Begin,
    Beat(Who),
    Wake(Who, Text),
    Arrive(Text, u16, Sent),
    /// A call of a saga within: what was found to be done next, or to look at it.
    Nest(Text, u16, Sent, Option<nested::Todo>),
    /// Whoever holds a shard looks at what is asked of it.
    Letters(Who),
    Answer(Text, u16, Sent, Said),
    Crash,
}

/// A coordinator, and the how manieth life of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Who(usize, u32);

/// A call on its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    op: Op,
    attempt: u32,
    by: Who,
    answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Yes,
    No,
    Nothing,
    /// It's at it.
    Later,
}

struct World {
    rules: Rules,
    dice: Rng,
    now: u64,
    clock: Arc<Millis>,
    agenda: Agenda,
    disk: Disk,
    ups: Vec<Up>,
    truth: Truth,
    left: u32,
    report: Report,
}

/// What is to happen, and when.
#[derive(Default)]
struct Agenda {
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    number: u64,
    /// Of what is queued, that isn't a beat.
    pending: usize,
}

/// The disk, and the journal on it while there is power.
struct Disk {
    medium: RamDisk,
    journal: Option<Memory>,
}

/// What is so, whatever coordinators believe.
#[derive(Default)]
struct Truth {
    /// When something may have gone wrong last.
    fault: u64,
    /// The newest epoch of each shard, for those who don't keep to their own.
    epochs: BTreeMap<u16, u64>,
    parts: BTreeMap<(Text, u16), Part>,
    /// Acknowledged transactions, as asked for.
    known: BTreeMap<Text, Spec>,
    /// Directions and ends that somebody took for durable, by whom.
    decided: BTreeMap<Text, Vec<(Who, Phase)>>,
}

/// A coordinator.
struct Up {
    who: Who,
    tenure: Tenure,
    live: BTreeMap<Text, Running>,
    /// It stands still, and doesn't know.
    until: u64,
}

struct Running {
    machine: Machine,
    entries: u32,
    term: Term,
}

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        Self {
            rules,
            dice: Rng::new(seed),
            now: 1_000,
            clock: Arc::default(),
            agenda: Agenda::default(),
            disk: Disk { medium: RamDisk::new(), journal: None },
            ups: (0..rules.coordinators).map(|at| Up::new(Who(at, 0), rules)).collect(),
            truth: Truth::default(),
            left: rules.crashes,
            report: Report::default(),
        }
    }

    fn after(&mut self, millis: u64, happening: Happening) {
        self.at(self.now + millis, happening);
    }

    fn at(&mut self, moment: u64, happening: Happening) {
        self.agenda.number += 1;
        self.agenda.pending += usize::from(!happening.is_beat());
        self.agenda.queue.push(Reverse((moment, self.agenda.number, happening)));
    }

    fn start(&mut self) {
        self.open();
        self.after(1, Happening::Begin);
        for up in 0..self.ups.len() {
            self.beat(self.ups[up].who);
        }
        self.arm();
    }

    /// Chooses the next loss of power: at a moment, or after some operations of the disk.
    fn arm(&mut self) {
        if self.left == 0 {
            return;
        }
        if self.dice.percent(if self.ups.len() > 1 { 5 } else { 50 }) {
            let operations = u32::try_from(1 + self.dice.below(60)).unwrap_or(1);
            self.disk.medium.cut_power_after(operations);
        }
        let span = 1 + self.dice.below(if self.ups.len() > 1 { 2_500 } else { 400 });
        self.after(span, Happening::Crash);
    }

    /// Lets the next thing happen; false when nothing is left to happen.
    fn step(&mut self) -> bool {
        let Some(Reverse((at, _, happening))) = self.agenda.queue.pop() else { return false };
        self.now = at;
        self.agenda.pending -= usize::from(!happening.is_beat());
        if self.left > 0 {
            self.truth.fault = at;
        }
        self.clock.0.store(at, Ordering::Relaxed);
        let by = match &happening {
            Happening::Beat(who) | Happening::Wake(who, _) | Happening::Letters(who) => Some(*who),
            Happening::Answer(_, _, sent, _) | Happening::Nest(_, _, sent, _) => Some(sent.by),
            Happening::Begin | Happening::Arrive(..) | Happening::Crash => None,
        };
        if let Some(up) = by.and_then(|who| self.ups.get(who.0)) {
            if by != Some(up.who) {
                // It was for a life before.
                return true;
            }
            if up.until > self.now {
                // That it was deposed it learns last.
                let later = if happening.is_beat() { self.dice.below(LATE_MAX_MS) } else { 0 };
                let until = self.ups[up.who.0].until + later;
                self.at(until, happening);
                return true;
            }
        }
        match happening {
            Happening::Begin => self.begin(),
            Happening::Beat(who) => self.beat(who),
            Happening::Wake(who, id) => drop(self.event(who, &id, Event::Wake)),
            Happening::Arrive(id, branch, sent) => self.arrive(&id, branch, sent),
            Happening::Nest(id, branch, sent, todo) => self.nest(&id, branch, sent, todo),
            Happening::Letters(who) => self.read_letters(who),
            Happening::Answer(id, branch, sent, said) => self.answer(&id, branch, &sent, said),
            Happening::Crash => self.crash(),
        }
        self.left > 0 || !self.settled()
    }

    fn settled(&self) -> bool {
        let held: usize = self.ups.iter().map(|up| up.tenure.held()).sum();
        let all = if self.ups.len() > 1 { usize::from(byrnie_saga::shards::SHARDS) } else { 1 };
        let idle = self.agenda.pending == 0 && held == all && self.ups.iter().all(|up| up.live.is_empty());
        idle || self.now > self.truth.fault + CALM_MS
    }

    fn begin(&mut self) {
        if self.left > 0 {
            let (one, several) = PERIOD_MS;
            self.after(if self.ups.len() > 1 { several } else { one }, Happening::Begin);
        }
        let at = usize::try_from(self.dice.below(self.ups.len() as u64)).unwrap_or(0);
        let (roll, now) = (self.dice.next_u64(), instant(self.now));
        let up = &self.ups[at];
        let Some(term) = up.tenure.any(roll, now).filter(|_| up.until <= self.now) else { return };
        let who = up.who;
        let spec = self.spec(0);
        let id: Text = format!("t{:06}", self.agenda.number).into();
        if self.accept(who, &id, term, spec) {
            self.report.begun += 1;
        }
    }

    /// Writes a transaction down and sets it going; whether it's new.
    fn accept(&mut self, who: Who, id: &Text, term: Term, spec: Spec) -> bool {
        let (machine, entry) = Machine::begin(spec.clone(), Timestamp::from_millis(self.now));
        match self.append(id, term, 0, &[entry], None) {
            Ok(()) => {}
            Err(Error::Deposed { .. }) => {
                self.depose(who, term);
                return false;
            }
            // Somebody has begun one of this id.
            Err(Error::Conflict { .. }) => return false,
            // Nobody was told that it began; should it be on the disk all the same, it ends like any other.
            Err(_) => {
                self.lose_power();
                return false;
            }
        }
        self.truth.known.insert(id.clone(), spec);
        self.ups[who.0].live.insert(id.clone(), Running { machine, entries: 1, term });
        self.event(who, id, Event::Wake);
        true
    }

    /// A saga at random. Within another it can be taken back as a whole.
    fn spec(&mut self, depth: u8) -> Spec {
        let count = 1 + self.dice.below(4);
        let mut branches: Vec<Branch> = Vec::new();
        for at in 0..count {
            let after = (0..at).filter(|_| self.dice.percent(40)).filter_map(|b| u16::try_from(b).ok()).collect();
            let mut branch = Branch { after, undo: Some(call("/undo")), ..branch(at) };
            self.adopt(&mut branch, depth);
            branches.push(branch);
        }
        if depth == 0 && self.dice.percent(50) {
            let all = (0..count).filter_map(|b| u16::try_from(b).ok()).collect();
            branches.push(Branch { after: all, pivot: true, ..branch(count) });
        }
        let deadline = self.dice.percent(50).then(|| Timestamp::from_millis(self.now + 20 + self.dice.below(1_500)));
        Spec {
            mode: Mode::Saga,
            creator: "web".into(),
            created: Timestamp::from_millis(self.now),
            deadline,
            open: false,
            check: None,
            branches,
            rules: byrnie_saga::Rules::default(),
            definition: Text::default(),
            input: None,
            fingerprint: Text::default(),
            parent: None,
        }
    }

    /// Hands an event to a machine and does what it wants done, in order. Whether the lease is over isn't looked at: a
    /// coordinator that stood still hasn't noticed. Whether it was taken.
    fn event(&mut self, who: Who, id: &Text, event: Event) -> bool {
        let now = Timestamp::from_millis(self.now);
        let Some(running) = self.ups[who.0].live.get_mut(id) else { return false };
        let Ok(effects) = running.machine.on(now, event) else { return false };
        let (term, mut written, phase) = (running.term, running.entries, running.machine.state().phase);
        let ended = matches!(phase, Phase::Ended(_)).then_some(now);
        for effect in effects {
            match effect {
                Effect::Persist { entries, .. } => {
                    match self.append(id, term, written, &entries, ended) {
                        Ok(()) => {}
                        Err(Error::Deposed { .. }) => {
                            self.depose(who, term);
                            return false;
                        }
                        Err(Error::Conflict { .. }) if self.rules.fault == Fault::Unfenced => {
                            self.reload(who, id, term);
                            return false;
                        }
                        Err(error @ Error::Conflict { .. }) => {
                            self.report.violations.push(format!("{id} is written by two in one term: {error}"));
                            self.reload(who, id, term);
                            return false;
                        }
                        Err(_) => {
                            self.lose_power();
                            return false;
                        }
                    }
                    written += u32::try_from(entries.len()).unwrap_or(0);
                    if let Some(running) = self.ups[who.0].live.get_mut(id) {
                        running.entries = written;
                    }
                    self.note(who, id, &entries);
                }
                Effect::Call(order) => self.send(who, id, &order),
                Effect::Wake(at) => {
                    let span = at.as_millis().saturating_sub(self.now);
                    self.after(span, Happening::Wake(who, id.clone()));
                }
                Effect::End(_) => drop(self.ups[who.0].live.remove(id)),
            }
        }
        true
    }

    /// Remembers what was decided, for good.
    fn note(&mut self, who: Who, id: &Text, entries: &[Entry]) {
        for entry in entries {
            if let Some(phase) = decision(&entry.what) {
                self.truth.decided.entry(id.clone()).or_default().push((who, phase));
            }
        }
    }

    fn append(
        &mut self,
        id: &Text,
        mut term: Term,
        mut after: u32,
        entries: &[Entry],
        ended: Option<Timestamp>,
    ) -> Result<(), Error> {
        if self.rules.fault == Fault::Lies && self.dice.percent(5) {
            return Ok(());
        }
        let Some(journal) = &self.disk.journal else { return Err(Error::Closed) };
        if self.rules.fault == Fault::Unfenced {
            term.epoch = self.truth.epochs.get(&term.shard).copied().unwrap_or(term.epoch);
            after = u32::try_from(read(journal, id).len()).unwrap_or(after);
        }
        let entries = entries.iter().map(|entry| Value::from(entry.encode())).collect();
        let append = Append { term, id: id.clone(), after, entries, summary: Value::from(&b""[..]), ended };
        crate::control::at_once(journal.append(append))
    }

    /// A write was refused: somebody else drives that shard.
    fn depose(&mut self, who: Who, term: Term) {
        self.report.deposed += 1;
        let up = &mut self.ups[who.0];
        up.tenure.depose(term);
        up.live.retain(|_, running| running.term != term);
    }

    /// A coordinator tells of itself, and takes in what it's told, until nothing more follows from it.
    fn beat(&mut self, who: Who) {
        self.after(u64::try_from(BEAT.as_millis()).unwrap_or(u64::MAX), Happening::Beat(who));
        for _ in 0..4 {
            let Some(journal) = self.disk.journal.as_ref().filter(|_| self.ups[who.0].who == who) else { return };
            let Ok(board) = crate::control::at_once(journal.beat(self.ups[who.0].tenure.beat())) else {
                return self.lose_power();
            };
            self.truth.epochs.extend(board.seats.iter().map(|seat| (seat.term.shard, seat.term.epoch)));
            let up = &mut self.ups[who.0];
            let change = up.tenure.on_board(instant(self.now), &board);
            up.live.retain(|_, running| !change.lost.contains(&running.term));
            self.report.taken += u32::try_from(change.gained.len()).unwrap_or(0);
            self.take_over(who, &change.gained);
            if !change.again {
                break;
            }
        }
        self.read_letters(who);
    }

    /// Reads what hasn't ended in terms that begin, and lets it go on.
    fn take_over(&mut self, who: Who, terms: &[Term]) {
        let terms: BTreeMap<u16, Term> = terms.iter().map(|term| (term.shard, *term)).collect();
        let Some(journal) = &self.disk.journal else { return };
        let Ok(ids) = crate::control::at_once(journal.unfinished(terms.keys().copied().collect())) else {
            return self.lose_power();
        };
        for id in ids {
            let Some(journal) = self.disk.journal.as_ref().filter(|_| self.ups[who.0].who == who) else { return };
            let Ok(story) = crate::control::at_once(journal.read(&id)) else { return self.lose_power() };
            // Power may have been lost since.
            let held = |term: &&Term| self.ups[who.0].tenure.term(term.shard, instant(self.now)) == Some(**term);
            if let Some(term) = terms.get(&story.shard).filter(held) {
                self.reload(who, &id, *term);
            }
        }
    }

    fn reload(&mut self, who: Who, id: &Text, term: Term) {
        self.ups[who.0].live.remove(id);
        let Some(journal) = &self.disk.journal else { return };
        let Ok(story) = crate::control::at_once(journal.read(id)) else { return self.lose_power() };
        let entries = decode(&story.entries);
        let count = u32::try_from(entries.len()).unwrap_or(0);
        match Machine::replay(entries) {
            Ok(machine) if matches!(machine.state().phase, Phase::Ended(_)) => {}
            Ok(machine) => {
                self.truth.known.entry(id.clone()).or_insert_with(|| (*machine.state().spec).clone());
                self.ups[who.0].live.insert(id.clone(), Running { machine, entries: count, term });
                self.event(who, id, Event::Wake);
            }
            Err(error) => self.report.violations.push(format!("{id} can't be read: {error}")),
        }
    }

    fn send(&mut self, by: Who, id: &Text, order: &Order) {
        let Some(branch) = order.branch else { return };
        self.check_call(id, branch, order.op);
        let sent = Sent { op: order.op, attempt: order.attempt, by, answered: false };
        let delay = self.dice.below(if self.ups.len() > 1 { 600 } else { 120 });
        if self.child_of(id, branch).is_some() {
            return self.after(delay, Happening::Nest(id.clone(), branch, sent, None));
        }
        self.after(delay, Happening::Arrive(id.clone(), branch, sent.clone()));
        if self.dice.percent(5) {
            // Doubled on the way: the second comes late, and nobody hears its answer.
            let late = delay + self.dice.below(2_000);
            self.after(late, Happening::Arrive(id.clone(), branch, Sent { answered: true, ..sent }));
        }
    }

    fn arrive(&mut self, id: &Text, branch: u16, sent: Sent) {
        let fate = if self.left > 0 { self.dice.below(100) } else { 99 };
        // Lost before it arrives, answered by 503 without effect, or done and the answer lost.
        let said = if fate < 10 { Said::Nothing } else { self.perform(id, branch, sent.op) };
        let said = if fate < 20 { Said::Nothing } else { said };
        if sent.answered {
            return;
        }
        let delay = self.dice.below(120);
        self.after(delay, Happening::Answer(id.clone(), branch, sent, said));
    }

    fn perform(&mut self, id: &Text, branch: u16, op: Op) -> Said {
        let fresh = !self.truth.parts.contains_key(&(id.clone(), branch));
        // A disk that lies may have had another transaction of this id begin.
        let known = self.truth.known.get(id).and_then(|spec| spec.branches.get(usize::from(branch)));
        let after_all = known.is_none_or(|branch| branch.pivot);
        let refuses = fresh && self.dice.percent(if after_all { 5 } else { 12 });
        let part = self.truth.parts.entry((id.clone(), branch)).or_default();
        part.refuses |= refuses && op == Op::Action;
        match op {
            Op::Action if part.closed || part.refuses => Said::No,
            Op::Action => {
                part.done = true;
                part.stands = true;
                Said::Yes
            }
            _ => {
                part.closed = true;
                part.stands = false;
                Said::Yes
            }
        }
    }

    fn answer(&mut self, id: &Text, branch: u16, sent: &Sent, said: Said) {
        let outcome = match said {
            Said::Yes => Outcome::Done { answer: "ok".into() },
            Said::No => Outcome::Rejected { reason: "409".into() },
            Said::Nothing => Outcome::Unknown { reason: "no answer".into(), after: None, over: false },
            Said::Later => Outcome::Ongoing { after: Some(Duration::from_millis(20)), location: None },
        };
        let roll = self.dice.next_u64();
        let reply = Reply { branch: Some(branch), op: sent.op, attempt: sent.attempt, outcome, roll };
        self.event(sent.by, id, Event::Reply(reply));
    }

    /// Something goes wrong: with one coordinator it loses power, of several one dies or stands still, or the journal loses power.
    fn crash(&mut self) {
        if self.left == 0 {
            return;
        }
        let kind = if self.ups.len() > 1 { self.dice.below(100) } else { 0 };
        if kind < 10 {
            return self.lose_power();
        }
        self.left = self.left.saturating_sub(1);
        self.report.crashes += 1;
        let at = usize::try_from(self.dice.below(self.ups.len() as u64)).unwrap_or(0);
        let until = self.now + STILL_MS.start + self.dice.below(STILL_MS.end - STILL_MS.start);
        if kind < 40 {
            let Who(_, life) = self.ups[at].who;
            self.ups[at] = Up::new(Who(at, life + 1), self.rules);
            self.at(until, Happening::Beat(Who(at, life + 1)));
        } else {
            self.ups[at].until = until;
        }
        self.arm();
    }

    fn lose_power(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.report.crashes += 1;
        self.disk.journal = None;
        let dice = &mut self.dice;
        self.disk.medium.crash_with(|_| match dice.below(3) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            _ => Fate::Torn(usize::try_from(dice.below(64)).unwrap_or(0)),
        });
        self.open();
        let alone = self.ups.len() == 1;
        let mut beats = Vec::new();
        for up in &mut self.ups {
            // Alone, it was in the same machine. Others can't tell what was written last.
            if alone {
                *up = Up::new(Who(up.who.0, up.who.1 + 1), self.rules);
                beats.push(up.who);
            }
            up.tenure.drop_all();
            up.live.clear();
        }
        for who in beats {
            self.after(0, Happening::Beat(who));
        }
        self.arm();
    }

    fn open(&mut self) {
        match Memory::open(&self.disk.medium, self.clock.clone()) {
            Ok(journal) => self.disk.journal = Some(journal),
            Err(error) => {
                self.report.violations.push(format!("the journal can't be opened: {error}"));
                self.left = 0;
            }
        }
    }

    /// What became of a branch: at its participant, or of the saga that it is.
    fn part(&self, id: &Text, branch: usize) -> Part {
        let branch = u16::try_from(branch).unwrap_or(u16::MAX);
        if let Some((_, own)) = self.child_of(id, branch) {
            return self.part_within(&own);
        }
        self.truth.parts.get(&(id.clone(), branch)).cloned().unwrap_or_default()
    }

    /// The order of calls, forth and back.
    fn check_call(&mut self, id: &Text, branch: u16, op: Op) {
        let Some(spec) = self.truth.known.get(id) else { return };
        let own = usize::from(branch);
        let broken = match op {
            Op::Action => spec.branches[own].after.iter().any(|before| !self.part(id, usize::from(*before)).done),
            // What is kept is kept in any order.
            Op::Confirm | Op::Check => false,
            Op::Undo => spec.branches.iter().enumerate().any(|(at, other)| {
                let part = self.part(id, at);
                other.after.contains(&branch) && part.stands
            }),
        };
        if broken {
            self.report.violations.push(format!("{id}: branch {branch} is called out of order ({op:?})"));
        }
    }

    fn check(&mut self) {
        let Some(journal) = &self.disk.journal else { return };
        for id in self.ups.iter().flat_map(|up| up.live.keys()) {
            self.report.violations.push(format!("{id} never ended"));
        }
        let mut found = Vec::new();
        for (id, spec) in &self.truth.known {
            let entries = read(journal, id);
            let told = self.truth.decided.get(id).map(Vec::as_slice).unwrap_or_default();
            let decided: Vec<Phase> = entries.iter().filter_map(|entry| decision(&entry.what)).collect();
            if told.iter().any(|(_, phase)| !decided.contains(phase)) {
                found.push(format!("{id}: {told:?} were taken for decided, and {decided:?} is written"));
            }
            let ended = decided.iter().filter(|phase| matches!(phase, Phase::Ended(_))).count();
            let held = decided.iter().filter(|phase| **phase == Phase::Held).count();
            if ended > 1 || held > 1 || decided.len() > ended + held + 1 {
                found.push(format!("{id} is decided more than once: {decided:?}, by {told:?}"));
            }
            let Ok(machine) = Machine::replay(entries) else {
                found.push(format!("{id} was acknowledged and is lost"));
                continue;
            };
            let parts: Vec<Part> = (0..spec.branches.len()).map(|at| self.part(id, at)).collect();
            match machine.state().phase {
                Phase::Ended(End::Done) => {
                    self.report.ends.0 += 1;
                    if parts.iter().any(|part| !part.done || !part.stands) {
                        found.push(format!("{id} is done, and not all of it is"));
                    }
                }
                Phase::Ended(End::Undone) => {
                    self.report.ends.1 += 1;
                    if parts.iter().any(|part| part.stands) {
                        found.push(format!("{id} is undone, and something still stands"));
                    }
                }
                phase => found.push(format!("{id} is {phase:?}")),
            }
        }
        self.report.violations.extend(found);
    }
}

impl Happening {
    const fn is_beat(&self) -> bool {
        matches!(self, Self::Beat(_))
    }
}

impl Up {
    fn new(who: Who, rules: Rules) -> Self {
        let alone = rules.coordinators == 1;
        let name = if alone { "alone".to_owned() } else { format!("{}.{}", who.0, who.1) };
        let lease = (!alone).then_some(byrnie_saga::shards::LEASE);
        Self { who, tenure: Tenure::new(name.into(), lease), live: BTreeMap::new(), until: 0 }
    }
}

fn read(journal: &Memory, id: &Text) -> Vec<Entry> {
    let story = crate::control::at_once(journal.read(id)).unwrap_or_default();
    decode(&story.entries)
}

fn decode(values: &[Value]) -> Vec<Entry> {
    values.iter().filter_map(|value| Entry::decode(value).ok()).collect()
}

/// What an entry decides for good.
const fn decision(what: &What) -> Option<Phase> {
    match what {
        What::Turned { to, .. } => Some(*to),
        What::Ended { end, .. } => Some(Phase::Ended(*end)),
        _ => None,
    }
}

fn call(path: &str) -> Call {
    let target = Target { method: "POST".into(), authority: "shop.default".into(), path: path.into(), raw: false };
    Call { target, body: None, kind: "application/json".into(), headers: Vec::new(), late: None }
}

fn branch(number: u64) -> Branch {
    Branch {
        name: format!("b{number}").into(),
        action: Some(call("/do")),
        retry: Retry { first_ms: 20, cap_ms: 200, ..Retry::default() },
        ..Branch::default()
    }
}
