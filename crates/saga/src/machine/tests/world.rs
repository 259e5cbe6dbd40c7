// SPDX-License-Identifier: Apache-2.0
//! A small world around one machine: participants with a barrier, a journal, calls on their way, and
//! ghosts of calls whose coordinator died. It checks every promise at every step.

use crate::machine::{Ask, Effect, Event, Machine, Order, Reply};
use crate::{Branch, Call, End, Entry, Mode, Op, Outcome, Phase, Retry, Rules, Spec, Target};
use byrnie_base::Timestamp;

pub(super) fn call(path: &str) -> Call {
    let target = Target { method: "POST".into(), authority: "shop.default".into(), path: path.into(), raw: false };
    Call { target, body: Some("{}".into()), kind: "application/json".into(), headers: Vec::new(), late: None }
}

pub(super) fn branch(name: &str, after: &[u16]) -> Branch {
    Branch {
        name: name.into(),
        after: after.to_vec(),
        action: Some(call("/do")),
        undo: Some(call("/undo")),
        retry: Retry { first_ms: 1, cap_ms: 1, ..Retry::default() },
        ..Branch::default()
    }
}

/// One whose undo needs to know what its action answered.
pub(super) fn answered(name: &str, after: &[u16]) -> Branch {
    Branch { answer_first: true, ..branch(name, after) }
}

pub(super) fn pivot(name: &str, after: &[u16]) -> Branch {
    Branch { undo: None, pivot: true, ..branch(name, after) }
}

pub(super) fn spec(mode: Mode, branches: Vec<Branch>) -> Spec {
    Spec {
        mode,
        creator: "spiffe://mesh.local/ns/default/sa/web".into(),
        created: Timestamp::from_millis(1_000),
        deadline: None,
        open: false,
        check: None,
        branches,
        rules: Rules::default(),
        definition: "".into(),
        input: None,
        fingerprint: "".into(),
        parent: None,
    }
}

/// A fault of the machine or of its surroundings that a check must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bug {
    None,
    /// The direction is lost in a crash.
    ForgetsTurn,
    /// What may have been sent is not undone.
    ForgetsSent,
    /// The order of branches is not kept.
    IgnoresOrder,
    /// The point of no return is not known.
    IgnoresPivot,
    /// An undo doesn't wait for the answer that it needs.
    UndoesUnanswered,
    /// No answer is taken for a good one.
    BelievesSilence,
    /// Timers never run out.
    Sleeps,
    /// A saga within another ends without that one's word.
    EndsAlone,
    /// An answer that says no is taken for one that never came, and the call not repeated.
    DropsReplies,
}

/// What a participant has done of its part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) action: bool,
    pub(super) confirm: bool,
    pub(super) undo: bool,
    /// Its barrier has seen the undo before the action.
    closed: bool,
    /// It has said no and keeps to it. Whoever can be undone need not: the undo closes the barrier.
    refused: bool,
}

/// How many more faults there may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) lost: u8,
    pub(super) crashes: u8,
    pub(super) refusals: u8,
    pub(super) asks: u8,
}

/// Entries, and those that aren't durable yet.
#[derive(Clone, Debug, Default)]
struct Disk {
    durable: Vec<Entry>,
    loose: Vec<Entry>,
}

/// In which direction it goes.
#[derive(Clone, Copy, Debug, Default)]
struct Course {
    /// Something was undone.
    undoing: bool,
    /// What the saga above has said: keep it, or take it back.
    word: Option<bool>,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    machine: Machine,
    disk: Disk,
    calls: Vec<Order>,
    ghosts: Vec<(usize, Op)>,
    pub(super) parts: Vec<Part>,
    pub(super) budget: Budget,
    wake: Option<Timestamp>,
    now: Timestamp,
    asked: Spec,
    bug: Bug,
    course: Course,
    pub(super) broken: Option<String>,
}

/// One thing that may happen next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A call is performed and answered.
    Answer(usize),
    /// A call is performed, and its answer lost.
    Lose(usize),
    /// A call never arrives.
    Drop(usize),
    /// A participant says no.
    Refuse(usize),
    /// A call of a dead coordinator arrives.
    Haunt(usize),
    Crash,
    Cancel,
    Go,
    /// The saga above keeps it, or has it taken back.
    Word(bool),
    /// Time goes on to the next timer.
    Tick,
}

impl World {
    pub(super) fn new(spec: Spec, budget: Budget, bug: Bug) -> Self {
        let mut told = spec.clone();
        for branch in &mut told.branches {
            if bug == Bug::IgnoresOrder {
                branch.after.clear();
            }
            branch.pivot &= bug != Bug::IgnoresPivot;
            branch.free |= bug == Bug::IgnoresPivot;
            branch.answer_first &= bug != Bug::UndoesUnanswered;
        }
        if bug == Bug::EndsAlone {
            told.parent = None;
        }
        let now = spec.created;
        let (machine, first) = Machine::begin(told, now);
        let parts = vec![Part::default(); spec.branches.len()];
        let mut world = Self {
            machine,
            disk: Disk { durable: vec![first], loose: Vec::new() },
            calls: Vec::new(),
            ghosts: Vec::new(),
            parts,
            budget,
            wake: None,
            now,
            asked: spec,
            bug,
            course: Course::default(),
            broken: None,
        };
        world.event(Event::Wake);
        world
    }

    /// All that matters for the future, so that a world is explored once.
    pub(super) fn key(&self) -> String {
        let m = &self.machine;
        let live: Vec<_> =
            m.live.iter().map(|l| (l.op, l.in_flight, l.due > self.now, l.sent, l.doubt, l.refusals)).collect();
        let calls: Vec<_> = self.calls.iter().map(|c| (c.branch, c.op)).collect();
        let progress: Vec<_> = m.state.progress.iter().map(|p| (p.action, p.confirm, p.undo)).collect();
        let rest = (
            m.state.phase,
            &self.ghosts,
            &self.parts,
            &self.budget,
            self.course.undoing,
            self.late(),
            m.check.in_flight,
            self.course.word,
        );
        format!("{live:?}{calls:?}{progress:?}{rest:?}{}", self.disk.loose.len())
    }

    fn late(&self) -> bool {
        self.asked.deadline.is_some_and(|deadline| deadline <= self.now)
    }

    pub(super) fn end(&self) -> Option<End> {
        match self.machine.state.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, order) in self.calls.iter().enumerate() {
            steps.push(Step::Answer(at));
            if self.budget.lost > 0 {
                steps.extend([Step::Lose(at), Step::Drop(at)]);
            }
            if self.budget.refusals > 0 && order.op == Op::Action && self.can_refuse(order) {
                steps.push(Step::Refuse(at));
            }
        }
        steps.extend((0..self.ghosts.len()).map(Step::Haunt));
        if self.budget.crashes > 0 && self.end().is_none() {
            steps.push(Step::Crash);
        }
        if self.budget.asks > 0 && self.end().is_none() {
            steps.extend([Step::Cancel, Step::Go]);
        }
        if self.asked.parent.is_some() && self.course.word.is_none() && self.end().is_none() {
            steps.extend([Step::Word(true), Step::Word(false)]);
        }
        if self.wake.is_some() && self.bug != Bug::Sleeps {
            steps.push(Step::Tick);
        }
        steps
    }

    /// What was done once is never refused later.
    fn can_refuse(&self, order: &Order) -> bool {
        order.branch.is_some_and(|at| !self.parts[usize::from(at)].action)
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Answer(at) => {
                let order = self.calls.remove(*at);
                let outcome = self.perform(&order);
                self.reply(&order, outcome);
            }
            Step::Lose(at) | Step::Drop(at) => {
                self.budget.lost -= 1;
                let order = self.calls.remove(*at);
                if matches!(step, Step::Lose(_)) {
                    self.perform(&order);
                }
                let outcome = match self.bug {
                    Bug::BelievesSilence => Outcome::Done { answer: "".into() },
                    _ => Outcome::Unknown { reason: "reset".into(), after: None, over: false },
                };
                self.reply(&order, outcome);
            }
            Step::Refuse(at) => {
                self.budget.refusals -= 1;
                let order = self.calls.remove(*at);
                if let Some(at) = order.branch.map(usize::from) {
                    let branch = &self.asked.branches[at];
                    self.parts[at].refused = branch.undo.is_none() || branch.answer_first;
                }
                if self.bug != Bug::DropsReplies {
                    self.reply(&order, Outcome::Rejected { reason: "409".into() });
                }
            }
            Step::Haunt(at) => {
                let (branch, op) = self.ghosts.remove(*at);
                self.act(branch, op);
            }
            Step::Crash => self.crash(),
            Step::Cancel | Step::Go => {
                self.budget.asks -= 1;
                let ask = if matches!(step, Step::Go) { Ask::Go } else { Ask::Back { reason: "asked".into() } };
                self.event(Event::Ask { ask, by: "web".into() });
            }
            Step::Word(keep) => {
                // One that refuses is asked again.
                if self.try_event(Event::Ask { ask: Ask::Parent { keep: *keep }, by: "parent".into() }) {
                    self.course.word = Some(*keep);
                }
            }
            Step::Tick => {
                self.now = self.wake.take().unwrap_or(self.now).max(self.now);
                self.event(Event::Wake);
            }
        }
        self.check_end();
    }

    fn reply(&mut self, order: &Order, outcome: Outcome) {
        let Order { branch, op, attempt, .. } = *order;
        self.event(Event::Reply(Reply { branch, op, attempt, outcome, roll: u64::MAX }));
    }

    /// What the participant does, and answers.
    fn perform(&mut self, order: &Order) -> Outcome {
        match order.branch {
            None => Outcome::Done { answer: "".into() },
            Some(at) => self.act(usize::from(at), order.op),
        }
    }

    fn act(&mut self, at: usize, op: Op) -> Outcome {
        let part = &mut self.parts[at];
        match op {
            Op::Action if part.closed || part.refused => return Outcome::Rejected { reason: "409 too late".into() },
            Op::Action => part.action = true,
            Op::Confirm => part.confirm = true,
            Op::Undo => {
                part.closed = true;
                part.undo |= part.action;
            }
            Op::Check => {}
        }
        Outcome::Done { answer: "ok".into() }
    }

    fn crash(&mut self) {
        self.budget.crashes -= 1;
        self.disk.loose.clear();
        let lost =
            |entry: &Entry| self.bug == Bug::ForgetsTurn && matches!(entry.what, crate::journal::What::Turned { .. });
        self.disk.durable.retain(|entry| !lost(entry));
        // Read back as the disk has it.
        let entries: Vec<Entry> = self.disk.durable.iter().map(|e| Entry::decode(&e.encode()).unwrap()).collect();
        self.machine = Machine::replay(entries).unwrap();
        let lost = self.calls.drain(..).filter_map(|order| Some((usize::from(order.branch?), order.op)));
        self.ghosts.extend(lost);
        self.wake = None;
        self.event(Event::Wake);
    }

    fn event(&mut self, event: Event) {
        self.try_event(event);
    }

    fn try_event(&mut self, event: Event) -> bool {
        let Ok(effects) = self.machine.on(self.now, event) else { return false };
        for effect in effects {
            match effect {
                Effect::Persist { entries, durable } => self.persist(entries, durable),
                Effect::Call(order) => {
                    self.check_call(&order);
                    self.calls.push(order);
                }
                Effect::Wake(at) => self.wake = Some(at),
                Effect::End(_) => self.wake = None,
            }
        }
        true
    }

    fn persist(&mut self, mut entries: Vec<Entry>, durable: bool) {
        if self.bug == Bug::ForgetsSent {
            for entry in &mut entries {
                if let crate::journal::What::Turned { sent, .. } = &mut entry.what {
                    sent.clear();
                    // As if the machine had decided so.
                    for progress in &mut self.machine.state.progress {
                        progress.undo = crate::Slot::Absent;
                    }
                }
            }
        }
        self.disk.loose.extend(entries);
        if durable {
            let Disk { durable, loose } = &mut self.disk;
            durable.append(loose);
        }
    }

    fn break_promise(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    fn check_call(&mut self, order: &Order) {
        let Some(at) = order.branch.map(usize::from) else { return };
        let name = self.asked.branches[at].name.clone();
        let before: Vec<usize> = self.asked.branches[at].after.iter().map(|b| usize::from(*b)).collect();
        match order.op {
            Op::Action => {
                if let Some(early) = before.iter().find(|b| !self.parts[**b].action) {
                    self.break_promise(format!("order: {name} is called before branch {early} is done"));
                }
                if self.course.undoing && !self.asked.branches[at].answer_first {
                    self.break_promise(format!("direction: the action of {name} is called after an undo"));
                }
            }
            Op::Undo => {
                self.course.undoing = true;
                if self.course.word == Some(true) {
                    self.break_promise(format!("held: {name} is undone after the saga above has kept it"));
                }
                if self.asked.branches[at].answer_first && self.machine.state.progress[at].answer.is_none() {
                    self.break_promise(format!("answer: {name} is undone before it is answered"));
                }
                let over = self.asked.branches.iter().zip(&self.parts).any(|(b, part)| b.pivot && part.action);
                if over {
                    self.break_promise(format!("pivot: {name} is undone after the point of no return"));
                }
                let follows = |b: &Branch| b.after.iter().any(|before| usize::from(*before) == at);
                let standing = |at: usize| self.parts[at].action && !self.parts[at].undo;
                let late = self.asked.branches.iter().enumerate().find(|(i, b)| follows(b) && standing(*i));
                if let Some((late, _)) = late {
                    self.break_promise(format!("undo order: {name} is undone before branch {late}"));
                }
                if self.parts.iter().any(|part| part.confirm) {
                    self.break_promise(format!("direction: {name} is undone after a confirm"));
                }
            }
            Op::Confirm | Op::Check => {}
        }
    }

    fn check_end(&mut self) {
        let stands = |(branch, part): (&Branch, &Part)| branch.action.is_some() && part.action && !part.undo;
        let broken = match self.end() {
            Some(End::Done) => {
                let all = self.asked.branches.iter().zip(&self.parts).all(|(branch, part)| {
                    (branch.action.is_none() || (part.action && !part.undo))
                        && (branch.confirm.is_none() || part.confirm)
                });
                let alone = self.asked.parent.is_some() && self.course.word != Some(true);
                if alone {
                    Some("held: done without the word of the saga above")
                } else {
                    (!all).then_some("end: done, and not everything is")
                }
            }
            Some(End::Undone) => {
                let left = self.asked.branches.iter().zip(&self.parts).any(|pair| !pair.0.free && stands(pair));
                let confirmed = self.parts.iter().any(|part| part.confirm);
                (left || confirmed).then_some("end: undone, and something still stands")
            }
            Some(End::Resolved) => Some("end: resolved without an operator"),
            None => {
                let stands_still = self.calls.is_empty() && (self.wake.is_none() || self.bug == Bug::Sleeps);
                let waits = matches!(self.machine.state.phase, Phase::Open | Phase::Held);
                (stands_still && !waits).then_some("progress: nothing is under way and nothing will be")
            }
        };
        if let Some(what) = broken {
            self.break_promise(what.to_owned());
        }
    }
}
