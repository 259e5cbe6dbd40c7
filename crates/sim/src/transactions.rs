// SPDX-License-Identifier: Apache-2.0
//! Transactions on a virtual world: the real machine, the real journal on a simulated disk, participants with
//! a barrier, and a network that delays, loses and doubles. Power is lost again and again, also in the middle of
//! a write; every time the coordinator is read from the disk and goes on. One seed is one run.

use byrnie_base::{Rng, Text, Timestamp};
use byrnie_saga::machine::State;
use byrnie_saga::nested::{self, Next};
use byrnie_saga::{
    Branch, Call, Child, Effect, End, Entry, Event, Machine, Mode, Op, Order, Outcome, Parent, Phase, Reply, Retry,
    Rules, Spec, Target,
};
use byrnie_store::disk::{Fate, RamDisk};
use byrnie_store::log::Memory;
use byrnie_store::{Append, Journal, Value};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Time between two new transactions.
const PERIOD_MS: u64 = 40;
/// Sagas stand so deep within one another.
const NESTED_DEPTH: u8 = 2;
/// Looks of one call at the saga within.
const NESTED_LOOKS: usize = 8;
/// More steps than any run takes.
const STEPS_MAX: u64 = 2_000_000;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Losses of power.
    pub crashes: u32,
    /// Transactions acknowledged.
    pub begun: u32,
    /// Of these, so many were parts of others.
    pub nested: u32,
    /// How many of them were done, and how many undone.
    pub ends: (u32, u32),
    /// Broken promises.
    pub violations: Vec<String>,
}

/// Runs the world of this seed through so many losses of power, on a disk that keeps what it has acknowledged.
pub fn run(seed: u64, crashes: u32) -> Report {
    run_on(seed, crashes, false)
}

/// The same; a disk that `lies` acknowledges some writes that it never makes.
pub fn run_on(seed: u64, crashes: u32, lies: bool) -> Report {
    let mut world = World::new(seed, crashes);
    world.lies = lies;
    world.start();
    for _ in 0..STEPS_MAX {
        if !world.step() {
            break;
        }
    }
    world.check();
    world.report
}

/// What a participant has done of one branch.
#[derive(Clone, Debug, Default)]
struct Part {
    done: bool,
    undone: bool,
    /// The undo came before the action.
    closed: bool,
    /// It says no, and keeps to it.
    refuses: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Begin,
    Wake(Text),
    Arrive(Text, u16, Sent),
    Answer(u32, Text, u16, Sent, Said),
    Crash,
}

/// A call on its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sent {
    op: Op,
    attempt: u32,
    incarnation: u32,
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
    dice: Rng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    number: u64,
    medium: RamDisk,
    up: Option<Up>,
    parts: BTreeMap<(Text, u16), Part>,
    /// Acknowledged transactions, as asked for.
    known: BTreeMap<Text, Spec>,
    left: u32,
    lies: bool,
    report: Report,
}

/// The coordinator, while it has power.
struct Up {
    journal: Memory,
    incarnation: u32,
    live: BTreeMap<Text, (Machine, u32)>,
}

impl World {
    fn new(seed: u64, crashes: u32) -> Self {
        Self {
            dice: Rng::new(seed),
            now: 1_000,
            queue: BinaryHeap::new(),
            number: 0,
            medium: RamDisk::new(),
            up: None,
            parts: BTreeMap::new(),
            known: BTreeMap::new(),
            left: crashes,
            lies: false,
            report: Report::default(),
        }
    }

    fn after(&mut self, millis: u64, happening: Happening) {
        self.number += 1;
        self.queue.push(Reverse((self.now + millis, self.number, happening)));
    }

    fn start(&mut self) {
        self.recover();
        self.after(1, Happening::Begin);
        self.arm();
    }

    /// Chooses the next loss of power: at a moment, or after some operations of the disk.
    fn arm(&mut self) {
        if self.left == 0 {
            return;
        }
        if self.dice.percent(50) {
            let operations = u32::try_from(1 + self.dice.below(60)).unwrap_or(1);
            self.medium.cut_power_after(operations);
        }
        let span = 1 + self.dice.below(400);
        self.after(span, Happening::Crash);
    }

    /// Lets the next thing happen; false when nothing is left to happen.
    fn step(&mut self) -> bool {
        let Some(Reverse((at, _, happening))) = self.queue.pop() else { return false };
        self.now = at;
        match happening {
            Happening::Begin => self.begin(),
            Happening::Wake(id) => {
                self.event(&id, Event::Wake);
            }
            Happening::Arrive(id, branch, sent) => self.arrive(&id, branch, sent),
            Happening::Answer(incarnation, id, branch, sent, said) => {
                if self.up.as_ref().is_some_and(|up| up.incarnation == incarnation) {
                    self.answer(&id, branch, &sent, said);
                }
            }
            Happening::Crash => self.crash(),
        }
        self.left > 0 || !self.settled()
    }

    fn settled(&self) -> bool {
        self.up.as_ref().is_some_and(|up| up.live.is_empty()) && self.queue.is_empty()
    }

    fn begin(&mut self) {
        if self.left > 0 {
            self.after(PERIOD_MS, Happening::Begin);
        }
        let spec = self.spec(0);
        let id: Text = format!("t{:06}", self.number).into();
        let now = Timestamp::from_millis(self.now);
        let (machine, entry) = Machine::begin(spec.clone(), now);
        if !self.append(&id, 0, &[entry], None) {
            // Nobody was told that it began; should it be on the disk all the same, it ends like any other.
            return self.crash_now();
        }
        self.report.begun += 1;
        self.known.insert(id.clone(), spec);
        if let Some(up) = &mut self.up {
            up.live.insert(id.clone(), (machine, 1));
        }
        self.event(&id, Event::Wake);
    }

    /// A saga at random. Within another it can be taken back as a whole.
    fn spec(&mut self, depth: u8) -> Spec {
        let count = 1 + self.dice.below(4);
        let mut branches: Vec<Branch> = Vec::new();
        for at in 0..count {
            let after = (0..at).filter(|_| self.dice.percent(40)).filter_map(|b| u16::try_from(b).ok()).collect();
            let mut branch = Branch { after, undo: Some(call("/undo")), ..branch(at) };
            if depth < NESTED_DEPTH && self.dice.percent(6) {
                let spec = Box::new(self.spec(depth + 1));
                nested::adopt(&mut branch, Child::Given { spec, span_ms: None }, true);
            }
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
            rules: Rules::default(),
            definition: Text::default(),
            input: None,
            fingerprint: Text::default(),
            parent: None,
        }
    }

    /// Hands an event to a machine and does what it wants done, in order. Whether it was taken.
    fn event(&mut self, id: &Text, event: Event) -> bool {
        let now = Timestamp::from_millis(self.now);
        let Some((machine, entries)) = self.up.as_mut().and_then(|up| up.live.get_mut(id)) else { return false };
        let Ok(effects) = machine.on(now, event) else { return false };
        let mut written = *entries;
        let ended = matches!(machine.state().phase, Phase::Ended(_)).then_some(now);
        for effect in effects {
            match effect {
                Effect::Persist { entries, .. } => {
                    if !self.append(id, written, &entries, ended) {
                        self.crash_now();
                        return false;
                    }
                    written += u32::try_from(entries.len()).unwrap_or(0);
                    if let Some((_, count)) = self.up.as_mut().and_then(|up| up.live.get_mut(id)) {
                        *count = written;
                    }
                }
                Effect::Call(order) => self.send(id, &order),
                Effect::Wake(at) => {
                    let span = at.as_millis().saturating_sub(self.now);
                    self.after(span, Happening::Wake(id.clone()));
                }
                Effect::End(_) => {
                    if let Some(up) = &mut self.up {
                        up.live.remove(id);
                    }
                }
            }
        }
        true
    }

    fn append(&mut self, id: &Text, after: u32, entries: &[Entry], ended: Option<Timestamp>) -> bool {
        if self.lies && self.dice.percent(5) {
            return true;
        }
        let Some(up) = &self.up else { return false };
        let entries = entries.iter().map(|entry| Value::from(entry.encode())).collect();
        let append = Append { id: id.clone(), after, entries, summary: Value::from(&b""[..]), ended };
        crate::control::at_once(up.journal.append(append)).is_ok()
    }

    fn send(&mut self, id: &Text, order: &Order) {
        let Some(branch) = order.branch else { return };
        self.check_call(id, branch, order.op);
        let incarnation = self.up.as_ref().map_or(0, |up| up.incarnation);
        let sent = Sent { op: order.op, attempt: order.attempt, incarnation, answered: false };
        let delay = self.dice.below(120);
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
        let said = match self.child_of(id, branch) {
            // What the coordinator does by itself dies with it.
            Some(_) if self.up.as_ref().is_none_or(|up| up.incarnation != sent.incarnation) => return,
            _ if fate < 10 => Said::Nothing,
            Some((child, own)) => self.perform_child(&child, own, sent.op),
            None => self.perform(id, branch, sent.op),
        };
        let said = if fate < 20 { Said::Nothing } else { said };
        if sent.answered {
            return;
        }
        let delay = self.dice.below(120);
        self.after(delay, Happening::Answer(sent.incarnation, id.clone(), branch, sent, said));
    }

    fn perform(&mut self, id: &Text, branch: u16, op: Op) -> Said {
        let fresh = !self.parts.contains_key(&(id.clone(), branch));
        let after_all = self.known.get(id).is_none_or(|spec| spec.branches[usize::from(branch)].pivot);
        let refuses = fresh && self.dice.percent(if after_all { 5 } else { 12 });
        let part = self.parts.entry((id.clone(), branch)).or_default();
        part.refuses |= refuses && op == Op::Action;
        match op {
            Op::Action if part.closed || part.refuses => Said::No,
            Op::Action => {
                part.done = true;
                Said::Yes
            }
            _ => {
                part.closed = true;
                part.undone |= part.done;
                Said::Yes
            }
        }
    }

    fn answer(&mut self, id: &Text, branch: u16, sent: &Sent, said: Said) {
        let outcome = match said {
            Said::Yes => Outcome::Done { answer: "ok".into() },
            Said::No => Outcome::Rejected { reason: "409".into() },
            Said::Nothing => Outcome::Unknown { reason: "no answer".into(), after: None },
            Said::Later => Outcome::Ongoing { after: Some(std::time::Duration::from_millis(20)), location: None },
        };
        let roll = self.dice.next_u64();
        let reply = Reply { branch: Some(branch), op: sent.op, attempt: sent.attempt, outcome, roll };
        self.event(id, Event::Reply(reply));
    }

    fn crash(&mut self) {
        if self.left > 0 {
            self.crash_now();
        }
    }

    fn crash_now(&mut self) {
        self.up = None;
        self.left = self.left.saturating_sub(1);
        self.report.crashes += 1;
        let dice = &mut self.dice;
        self.medium.crash_with(|_| match dice.below(3) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            _ => Fate::Torn(usize::try_from(dice.below(64)).unwrap_or(0)),
        });
        self.recover();
        self.arm();
    }

    fn recover(&mut self) {
        let journal = match Memory::open(&self.medium) {
            Ok(journal) => journal,
            Err(error) => {
                self.report.violations.push(format!("the journal can't be opened: {error}"));
                self.left = 0;
                return;
            }
        };
        let ids = crate::control::at_once(journal.unfinished()).unwrap_or_default();
        let mut live = BTreeMap::new();
        for id in &ids {
            let values = crate::control::at_once(journal.read(id)).unwrap_or_default();
            let entries: Vec<Entry> = values.iter().filter_map(|value| Entry::decode(value).ok()).collect();
            let count = u32::try_from(entries.len()).unwrap_or(0);
            match Machine::replay(entries) {
                Ok(machine) => {
                    self.known.entry(id.clone()).or_insert_with(|| machine.state().spec.clone());
                    live.insert(id.clone(), (machine, count));
                }
                Err(error) => self.report.violations.push(format!("{id} can't be read: {error}")),
            }
        }
        self.up = Some(Up { journal, incarnation: self.report.crashes, live });
        for id in ids {
            self.event(&id, Event::Wake);
        }
    }

    /// The saga that a branch is, and whose part it says to be; nothing if it's a call.
    fn child_of(&self, id: &Text, branch: u16) -> Option<(Child, Parent)> {
        let spec = self.known.get(id)?;
        let branch = spec.branches.get(usize::from(branch))?;
        let depth = spec.parent.as_ref().map_or(1, |above| above.depth + 1);
        Some(((**branch.child.as_ref()?).clone(), Parent { id: id.clone(), branch: branch.name.clone(), depth }))
    }

    /// How a transaction stands, running or not; nothing if it isn't there.
    fn standing(&self, id: &Text) -> Option<State> {
        let up = self.up.as_ref()?;
        if let Some((machine, _)) = up.live.get(id) {
            return Some(machine.state().clone());
        }
        let entries = crate::control::at_once(up.journal.read(id)).unwrap_or_default();
        let entries: Vec<Entry> = entries.iter().filter_map(|value| Entry::decode(value).ok()).collect();
        Machine::replay(entries).ok().map(|machine| machine.state().clone())
    }

    /// As the coordinator does it.
    fn perform_child(&mut self, child: &Child, own: Parent, op: Op) -> Said {
        let Some(id) = nested::id(&own.id, &own.branch) else { return Said::No };
        for _ in 0..NESTED_LOOKS {
            let next = nested::next(op, &own, self.standing(&id).as_ref(), |_| "ok".into());
            let spec = match (next, child) {
                (Next::Over(Outcome::Done { .. }), _) => return Said::Yes,
                (Next::Over(Outcome::Rejected { .. }), _) => return Said::No,
                (Next::Over(lost), _) => {
                    self.report.violations.push(format!("{id} is lost to {op:?}: {lost:?}"));
                    return Said::Nothing;
                }
                (Next::Wait { .. }, _) => return Said::Later,
                (Next::Ask(ask), _) => {
                    if !self.event(&id, Event::Ask { ask, by: own.id.clone() }) {
                        return Said::Later;
                    }
                    continue;
                }
                (Next::Begin, Child::Given { spec, .. }) => Spec { parent: Some(own.clone()), ..(**spec).clone() },
                (Next::Begin, Child::Defined { .. }) => return Said::No,
                (Next::Bury, _) => {
                    let Some(above) = self.known.get(&own.id) else { return Said::Nothing };
                    nested::buried(above, own.clone())
                }
            };
            let (machine, entry) = Machine::begin(spec.clone(), Timestamp::from_millis(self.now));
            if !self.append(&id, 0, &[entry], None) {
                self.crash_now();
                return Said::Nothing;
            }
            self.report.nested += 1;
            self.known.insert(id.clone(), spec);
            if let Some(up) = &mut self.up {
                up.live.insert(id.clone(), (machine, 1));
            }
            self.event(&id, Event::Wake);
        }
        Said::Later
    }

    /// What became of a branch: at its participant, or of the saga that it is.
    fn part(&self, id: &Text, branch: usize) -> Part {
        let branch = u16::try_from(branch).unwrap_or(u16::MAX);
        if let Some((_, own)) = self.child_of(id, branch) {
            let standing = nested::id(id, &own.branch).and_then(|child| self.standing(&child));
            let phase = standing.map(|state| state.phase);
            let done = matches!(phase, Some(Phase::Held | Phase::Confirming | Phase::Ended(End::Done)));
            return Part { done, ..Part::default() };
        }
        self.parts.get(&(id.clone(), branch)).cloned().unwrap_or_default()
    }

    /// The order of calls, forth and back.
    fn check_call(&mut self, id: &Text, branch: u16, op: Op) {
        let Some(spec) = self.known.get(id) else { return };
        let own = usize::from(branch);
        let broken = match op {
            // What is kept is kept in any order.
            Op::Confirm | Op::Check => false,
            Op::Action => spec.branches[own].after.iter().any(|before| !self.part(id, usize::from(*before)).done),
            Op::Undo => spec.branches.iter().enumerate().any(|(at, other)| {
                let part = self.part(id, at);
                other.after.contains(&branch) && part.done && !part.undone
            }),
        };
        if broken {
            self.report.violations.push(format!("{id}: branch {branch} is called out of order ({op:?})"));
        }
    }

    fn check(&mut self) {
        let Some(up) = &self.up else { return };
        for id in up.live.keys() {
            self.report.violations.push(format!("{id} never ended"));
        }
        let mut found = Vec::new();
        for (id, spec) in &self.known {
            let entries = crate::control::at_once(up.journal.read(id)).unwrap_or_default();
            let entries: Vec<Entry> = entries.iter().filter_map(|value| Entry::decode(value).ok()).collect();
            let Ok(machine) = Machine::replay(entries) else {
                found.push(format!("{id} was acknowledged and is lost"));
                continue;
            };
            let parts: Vec<Part> = (0..spec.branches.len()).map(|at| self.part(id, at)).collect();
            match machine.state().phase {
                Phase::Ended(End::Done) => {
                    self.report.ends.0 += 1;
                    if parts.iter().any(|part| !part.done || part.undone) {
                        found.push(format!("{id} is done, and not all of it is"));
                    }
                }
                Phase::Ended(End::Undone) => {
                    self.report.ends.1 += 1;
                    if parts.iter().any(|part| part.done && !part.undone) {
                        found.push(format!("{id} is undone, and something still stands"));
                    }
                }
                phase => found.push(format!("{id} is {phase:?}")),
            }
        }
        self.report.violations.extend(found);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses of power in each run, and runs: together they take seconds. 200 seeds are 10,000 losses.
    const CRASHES: u32 = 50;
    const SEEDS: u64 = 40;

    #[test]
    fn nothing_is_lost_doubled_or_left_standing_through_thousands_of_crashes() {
        let mut total = Report::default();
        for seed in 0..SEEDS {
            let report = run(seed, CRASHES);
            assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
            total.crashes += report.crashes;
            total.begun += report.begun;
            total.nested += report.nested;
            total.ends = (total.ends.0 + report.ends.0, total.ends.1 + report.ends.1);
        }
        println!("{total:?}");
        assert!(u64::from(total.crashes) >= SEEDS * u64::from(CRASHES), "{total:?}");
        assert!(total.ends.0 > 100 && total.ends.1 > 100 && total.nested > 100, "{total:?}");
    }

    #[test]
    fn a_disk_that_lies_is_found_out() {
        assert!((0..5).all(|seed| !run_on(seed, CRASHES, true).violations.is_empty()));
    }
}
