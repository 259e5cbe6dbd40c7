// SPDX-License-Identifier: Apache-2.0
//! What is durable of a transaction: the fold of its entries. `apply` is the only thing that changes it,
//! whether the entry was just decided or is read again after a crash.

use crate::journal::{Entry, What};
use crate::transaction::{Mode, Op, Phase, Progress, Slot, Spec};
use byrnie_base::{Text, Timestamp};
use std::sync::Arc;

/// What is durable of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// As asked for, with those that joined.
    pub spec: Arc<Spec>,
    /// How far it has come.
    pub phase: Phase,
    /// How far each branch has come, as `spec.branches`.
    pub progress: Vec<Progress>,
    /// Why it took its present direction; empty if all is well.
    pub reason: Text,
    /// Where it stands in a trace, as a `traceparent`.
    pub trace: Option<Text>,
}

impl State {
    pub(super) fn new(spec: Arc<Spec>, trace: Option<Text>) -> Self {
        let has_actions = spec.branches.iter().any(|branch| branch.action.is_some());
        let phase = match (spec.open, spec.mode) {
            (true, _) => Phase::Open,
            (false, Mode::Message) => Phase::Confirming,
            (false, _) if has_actions => Phase::Acting,
            (false, _) => Phase::Confirming,
        };
        let mut state = Self { progress: Vec::new(), phase, reason: Text::default(), spec, trace };
        for _ in 0..state.spec.branches.len() {
            state.add_progress();
        }
        state
    }

    fn add_progress(&mut self) {
        let branch = &self.spec.branches[self.progress.len()];
        let wanted = |call: bool| if call { Slot::Pending } else { Slot::Absent };
        let action = wanted(branch.action.is_some());
        self.progress.push(Progress { action, confirm: wanted(branch.confirm.is_some()), ..Progress::default() });
    }

    /// The public name of where it stands.
    pub fn name(&self) -> &'static str {
        if self.is_stuck() { "STUCK" } else { self.spec.mode.state(self.phase) }
    }

    /// Whether an operator has to look.
    pub fn is_stuck(&self) -> bool {
        !matches!(self.phase, Phase::Ended(_)) && self.progress.iter().any(|branch| branch.stuck().is_some())
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        match &entry.what {
            What::Begun { .. } | What::Tried { .. } => {}
            What::Enlisted { branch, .. } => {
                Arc::make_mut(&mut self.spec).branches.push((**branch).clone());
                self.add_progress();
            }
            What::Ongoing { branch, location, .. } => {
                if let Some(progress) = self.progress.get_mut(usize::from(*branch)) {
                    progress.poll.clone_from(location);
                }
            }
            What::Settled { branch, op, slot, answer, .. } => self.settle(usize::from(*branch), *op, *slot, answer),
            What::Turned { to, reason, sent, .. } => self.turn(*to, reason, sent),
            What::Retried { branch, op, .. } => {
                if let Some(progress) = self.progress.get_mut(usize::from(*branch)) {
                    progress.set(*op, Slot::Pending);
                    progress.reason = Text::default();
                }
            }
            What::Ended { end, reason, .. } => {
                self.phase = Phase::Ended(*end);
                if !reason.is_empty() {
                    self.reason = reason.clone();
                }
            }
        }
    }

    fn settle(&mut self, at: usize, op: Op, slot: Slot, answer: &Text) {
        let undo_rejected = self.spec.rules.undo_rejected;
        let undoing = self.phase == Phase::Undoing;
        let Some(progress) = self.progress.get_mut(at) else { return };
        progress.set(op, slot);
        progress.poll = None;
        match slot {
            Slot::Done => progress.reason = Text::default(),
            _ => progress.reason = answer.clone(),
        }
        if op == Op::Action && slot == Slot::Done {
            progress.answer = Some(answer.clone());
        }
        // The answer of an action that came after the turn: nothing was done, so there is nothing to undo.
        if undoing && op == Op::Action && slot == Slot::Rejected && !undo_rejected {
            progress.undo = Slot::Absent;
        }
    }

    fn turn(&mut self, to: Phase, reason: &Text, sent: &[u16]) {
        self.phase = to;
        if to != Phase::Undoing {
            return;
        }
        self.reason = reason.clone();
        for (at, progress) in self.progress.iter_mut().enumerate() {
            let may_be_done = sent.iter().any(|sent| usize::from(*sent) == at);
            progress.poll = None;
            progress.confirm = Slot::Absent;
            // A stuck action is no longer of interest: what is left to do is its undo.
            if progress.action == Slot::Stuck {
                progress.action = Slot::Pending;
            }
            if may_be_done && self.spec.branches[at].undo.is_some() {
                progress.undo = Slot::Pending;
            }
        }
    }

    /// Whether an op is done wherever it is wanted.
    pub(super) fn all(&self, op: Op) -> bool {
        self.progress.iter().all(|branch| matches!(branch.slot(op), Slot::Absent | Slot::Done))
    }

    /// The first branch that said no while there is a way back.
    pub(super) fn rejected(&self) -> Option<usize> {
        self.progress.iter().position(|branch| branch.action == Slot::Rejected)
    }

    /// Whether all that come before a branch have their action done.
    pub(super) fn is_ready(&self, at: usize) -> bool {
        let done = |before: &u16| {
            self.progress.get(usize::from(*before)).is_none_or(|b| matches!(b.action, Slot::Done | Slot::Absent))
        };
        self.spec.branches[at].after.iter().all(done)
    }

    /// Whether all that come before a branch have their confirm done.
    pub(super) fn is_next(&self, at: usize) -> bool {
        let done = |before: &u16| {
            self.progress.get(usize::from(*before)).is_none_or(|b| matches!(b.confirm, Slot::Done | Slot::Absent))
        };
        self.spec.branches[at].after.iter().all(done)
    }

    /// Branches that come directly after one.
    pub(super) fn followers(&self, at: usize) -> impl Iterator<Item = usize> {
        let follows = move |after: &[u16]| after.iter().any(|before| usize::from(*before) == at);
        self.spec.branches.iter().enumerate().filter(move |(_, branch)| follows(&branch.after)).map(|(at, _)| at)
    }

    pub(super) fn is_late(&self, now: Timestamp) -> bool {
        self.spec.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Whether there is no way back any more.
    pub fn pivot_is_done(&self) -> bool {
        let mut branches = self.spec.branches.iter().zip(&self.progress);
        branches.any(|(branch, progress)| branch.pivot && progress.action == Slot::Done)
    }
}
