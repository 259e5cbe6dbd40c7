// SPDX-License-Identifier: Apache-2.0
//! The end of a call: what it settles, and when it is made again if it settles nothing.

use super::{AFTER_MAX, Live, Log, Machine, POLL_MS, REFUSALS_MAX, TRIED_ENTRIES_MAX, again};
use crate::journal::What;
use crate::judge::Outcome;
use crate::transaction::{Op, Phase, Slot};
use byrnie_base::Text;
use std::time::Duration;

/// The end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The branch, by position; absent for a check.
    pub branch: Option<u16>,
    /// What it was for.
    pub op: Op,
    /// The number of the call.
    pub attempt: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// Dice, evenly distributed.
    pub roll: u64,
}

impl Machine {
    pub(super) fn on_reply(&mut self, log: &mut Log, reply: Reply) {
        match reply.branch {
            None => self.on_check(log, reply),
            Some(at) => {
                let at = usize::from(at);
                let Some(live) = self.live.get_mut(at) else { return };
                if !live.in_flight || live.op != Some(reply.op) || live.attempt != reply.attempt {
                    return;
                }
                live.in_flight = false;
                // Settled meanwhile by somebody else's word.
                if self.state.progress[at].slot(reply.op) == Slot::Pending {
                    self.on_outcome(log, at, reply);
                }
            }
        }
    }

    fn on_outcome(&mut self, log: &mut Log, at: usize, reply: Reply) {
        let (op, attempt) = (reply.op, reply.attempt);
        match reply.outcome {
            Outcome::Done { answer } => self.settle(log, at, op, Slot::Done, attempt, answer),
            // It's undone whatever this call says: an earlier one may still arrive.
            Outcome::Rejected { reason }
                if self.state.phase == Phase::Undoing
                    && op == Op::Action
                    && self.live[at].doubt
                    && !self.is_answered_first(at) =>
            {
                self.note(log, Some(at), op, attempt, reason);
            }
            Outcome::Rejected { reason } if self.may_refuse(op) => {
                self.settle(log, at, op, Slot::Rejected, attempt, reason);
            }
            Outcome::Rejected { reason } | Outcome::Misdirected { reason } => {
                self.on_refusal(log, at, op, reason, reply.roll, REFUSALS_MAX);
            }
            Outcome::Elsewhere { reason } => self.on_refusal(log, at, op, reason, reply.roll, 1),
            Outcome::Ambiguous { reason } => self.on_ambiguity(log, at, op, reason, reply.roll),
            Outcome::Ongoing { after, location } => self.on_ongoing(log, at, op, after, location),
            Outcome::Unknown { reason, after, over } => {
                let retry = self.state.spec.branches[at].retry;
                let live = &mut self.live[at];
                if !over {
                    live.until = Some(live.limit);
                }
                live.fail();
                live.due = again(log.now, &retry, live.pauses, after, reply.roll);
                let counted = retry.attempts > 0 && live.failures >= retry.attempts;
                let over = retry.for_ms > 0
                    && *live.since.get_or_insert(log.now) + Duration::from_millis(retry.for_ms) <= log.now;
                self.note(log, Some(at), op, attempt, reason.clone());
                if (counted || over) && op == Op::Action && self.state.phase == Phase::Acting {
                    self.on_exhaustion(log, at, attempt, &reason, over);
                }
            }
        }
    }

    /// An action that was called as often, or as long, as it may be.
    fn on_exhaustion(&mut self, log: &mut Log, at: usize, attempt: u32, reason: &str, over: bool) {
        let name = &self.state.spec.branches[at].name;
        let text = format!("{name}: {attempt} calls failed: {reason}");
        if self.may_turn_back() {
            let turned = self.turn(Phase::Undoing, &text, "");
            self.enter(log, turned, true);
        } else if over {
            self.settle(log, at, Op::Action, Slot::Stuck, attempt, text.into());
        }
    }

    /// Whether a participant may say no for business reasons: to an action, while there is a way back or
    /// once the way back was taken.
    fn may_refuse(&self, op: Op) -> bool {
        op == Op::Action && !self.state.pivot_is_done()
    }

    fn settle(&mut self, log: &mut Log, at: usize, op: Op, slot: Slot, attempt: u32, answer: Text) {
        self.settled(log, at, op, slot, (attempt, answer, Text::default()));
    }

    /// What somebody tells of a call.
    pub(super) fn told(&mut self, log: &mut Log, at: usize, op: Op, slot: Slot, answer: Text, by: &Text) {
        self.settled(log, at, op, slot, (0, answer, by.clone()));
    }

    fn settled(&mut self, log: &mut Log, at: usize, op: Op, slot: Slot, (attempt, answer, by): (u32, Text, Text)) {
        let live = &mut self.live[at];
        (live.failures, live.pauses, live.refusals, live.since) = (0, 0, 0, None);
        let branch = u16::try_from(at).unwrap_or(u16::MAX);
        self.enter(log, What::Settled { branch, op, slot, attempt, answer, by }, true);
    }

    /// Nobody knows what became of it, nor will: a late answer may still come in, so it's asked for a few times. An action
    /// that can be taken back whatever became of it is, once its participant has had all of its time; for anything else an operator has to look.
    fn on_ambiguity(&mut self, log: &mut Log, at: usize, op: Op, reason: Text, roll: u64) {
        let last = self.live[at].refusals.saturating_add(1) >= REFUSALS_MAX;
        let acting = self.state.phase == Phase::Acting && op == Op::Action;
        if last && acting && self.may_turn_back() && !self.is_answered_first(at) {
            self.note(log, Some(at), op, self.live[at].attempt, reason.clone());
            if let Some(until) = self.live[at].until.filter(|until| *until > log.now) {
                let live = &mut self.live[at];
                live.fail();
                live.due = until;
                return;
            }
            let text = format!("{}: {reason}", self.state.spec.branches[at].name);
            let turned = self.turn(Phase::Undoing, &text, "");
            self.enter(log, turned, true);
        } else {
            self.on_refusal(log, at, op, reason, roll, REFUSALS_MAX);
        }
    }

    /// A definite no where there can't be one: perhaps a fault of configuration that passes, if it may be heard more than once
    /// (`most`).
    fn on_refusal(&mut self, log: &mut Log, at: usize, op: Op, reason: Text, roll: u64, most: u32) {
        let retry = self.state.spec.branches[at].retry;
        // An action that is only waited for because of its undo: whether it was done isn't known.
        let undoing = self.state.phase == Phase::Undoing && op == Op::Action && !self.is_answered_first(at);
        let live = &mut self.live[at];
        live.refusals += 1;
        live.fail();
        live.due = again(log.now, &retry, live.pauses, None, roll);
        let attempt = live.attempt;
        if live.refusals >= most && !undoing {
            self.settle(log, at, op, Slot::Stuck, attempt, reason);
        } else {
            self.note(log, Some(at), op, attempt, reason);
        }
    }

    fn on_ongoing(&mut self, log: &mut Log, at: usize, op: Op, after: Option<Duration>, location: Option<Text>) {
        let live = &mut self.live[at];
        (live.failures, live.pauses, live.since) = (0, 0, None);
        live.due = log.now + after.unwrap_or(Duration::from_millis(POLL_MS)).min(AFTER_MAX);
        let known = &self.state.progress[at].poll;
        if location.is_some() && *known != location {
            let branch = u16::try_from(at).unwrap_or(u16::MAX);
            self.enter(log, What::Ongoing { branch, op, location }, false);
        }
    }

    fn on_check(&mut self, log: &mut Log, reply: Reply) {
        if !self.check.in_flight || self.check.attempt != reply.attempt {
            return;
        }
        self.check.in_flight = false;
        if self.state.phase != Phase::Open {
            return;
        }
        let retry = crate::Retry::default();
        let (reason, after) = match reply.outcome {
            Outcome::Done { .. } => {
                let turned = self.turn(Phase::Confirming, "the creator says that it has committed", "");
                return self.enter(log, turned, true);
            }
            Outcome::Rejected { reason } => {
                let turned = self.turn(Phase::Undoing, &format!("the creator says no: {reason}"), "");
                return self.enter(log, turned, true);
            }
            Outcome::Ongoing { after, .. } => (Text::from("not decided yet"), after),
            Outcome::Unknown { reason, after, .. } => (reason, after),
            Outcome::Misdirected { reason } | Outcome::Ambiguous { reason } | Outcome::Elsewhere { reason } => {
                (reason, None)
            }
        };
        self.check.fail();
        self.check.due = again(log.now, &retry, self.check.pauses, after, reply.roll);
        self.note(log, None, Op::Check, reply.attempt, reason);
    }

    /// Writes a call that settled nothing into the history, as long as there is room.
    fn note(&mut self, log: &mut Log, at: Option<usize>, op: Op, attempt: u32, reason: Text) {
        if self.tried >= TRIED_ENTRIES_MAX {
            return;
        }
        self.tried += 1;
        let branch = at.and_then(|at| u16::try_from(at).ok());
        self.enter(log, What::Tried { branch, op, attempt, reason }, false);
    }

    /// Forgets what was tried of a branch.
    pub(super) fn afresh(&mut self, at: usize) {
        let live = &mut self.live[at];
        let Live { op, in_flight, attempt, sent, doubt, .. } = *live;
        *live = Live { op, in_flight, attempt, sent, doubt, ..Live::default() };
    }
}
