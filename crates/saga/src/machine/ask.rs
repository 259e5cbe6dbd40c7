// SPDX-License-Identifier: Apache-2.0
//! What people and programs ask of a transaction. An answer of yes is given once it is durable; asking for
//! the same again is answered the same.

use super::{Log, Machine};
use crate::journal::What;
use crate::judge::Outcome;
use crate::plan;
use crate::transaction::{BRANCHES_MAX, Branch, End, Mode, Op, Phase, Slot};
use byrnie_base::Text;
use serde::{Deserialize, Serialize};

/// What is asked. One coordinator hands it to another as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Go: the message is sent, TCC confirmed, the scope closed.
    Go,
    /// Back: the saga compensated, the message dropped, TCC and the scope cancelled.
    Back {
        /// Why, in the caller's words.
        reason: Text,
    },
    /// The saga that it is a part of says what becomes of it.
    Parent {
        /// It's kept; otherwise it is taken back.
        keep: bool,
    },
    /// A participant joins.
    Enlist(Box<Branch>),
    /// The outcome of something that took its time.
    Complete {
        /// The branch's name.
        branch: Text,
        /// Done with an answer, or rejected.
        outcome: Outcome,
    },
    /// An operator has what is stuck called again.
    Retry,
    /// What waits for its next call is called now, and so is what is stuck. Where nothing of the kind is, nothing happens.
    Hurry,
    /// An operator has done what is stuck by other means.
    Skip {
        /// The branch's name.
        branch: Text,
    },
    /// An operator declares all of it settled.
    Resolve {
        /// In what way.
        reason: Text,
    },
    /// An operator ends it wherever it stands, stuck or not: what was done stays done, and nobody is called any more.
    Stop {
        /// Why.
        reason: Text,
    },
    /// The same of a part of one that has ended so: nobody above decides about it any more.
    Forsake {
        /// Why.
        reason: Text,
    },
}

/// Why something isn't done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It's in another state.
    #[error("it is {state}; {why}")]
    State {
        /// The state it is in.
        state: &'static str,
        /// Why that doesn't fit.
        why: &'static str,
    },
    /// No such branch.
    #[error("it has no branch {0}")]
    NoBranch(Text),
    /// The newcomer doesn't fit.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// A branch of this name joined already, with another part.
    #[error("branch {0} has joined already, with other calls")]
    Differs(Text),
}

impl Machine {
    pub(super) fn on_ask(&mut self, log: &mut Log, ask: Ask, by: Text) -> Result<(), Refusal> {
        match ask {
            Ask::Go => self.go(log, &by),
            Ask::Back { reason } => self.back(log, &reason, &by),
            Ask::Parent { keep } => self.by_parent(log, keep, &by),
            Ask::Enlist(branch) => self.enlist(log, branch, by),
            Ask::Complete { branch, outcome } => self.complete(log, &branch, outcome, &by),
            Ask::Retry => self.retry(log, &by),
            Ask::Hurry => {
                self.hurry(log.now);
                if self.state.is_stuck() { self.retry(log, &by) } else { Ok(()) }
            }
            Ask::Skip { branch } => self.skip(log, &branch, &by),
            Ask::Resolve { reason } => {
                self.stuck("only a transaction that is stuck can be declared settled")?;
                self.enter(log, What::Ended { end: End::Resolved, by, reason }, true);
                Ok(())
            }
            // The one above would take it for undone, or wait for it for ever.
            Ask::Stop { .. } if self.state.spec.parent.is_some() => {
                Err(self.refuse("the saga that it is a part of decides it"))
            }
            Ask::Forsake { .. } if self.state.spec.parent.is_none() => Err(self.refuse("it is a part of no other")),
            Ask::Stop { reason } | Ask::Forsake { reason } => {
                self.enter(log, What::Ended { end: End::Resolved, by, reason }, true);
                Ok(())
            }
        }
    }

    /// Answers what comes after the end.
    pub(super) fn too_late(&self, ask: &Ask) -> Result<(), Refusal> {
        match (ask, self.state.phase) {
            (Ask::Go | Ask::Parent { keep: true }, Phase::Ended(End::Done))
            | (Ask::Back { .. } | Ask::Parent { keep: false }, Phase::Ended(End::Undone))
            | (Ask::Hurry, _) => Ok(()),
            _ => Err(self.refuse("it is over")),
        }
    }

    fn refuse(&self, why: &'static str) -> Refusal {
        Refusal::State { state: self.state.name(), why }
    }

    fn go(&mut self, log: &mut Log, by: &str) -> Result<(), Refusal> {
        match self.state.phase {
            Phase::Open => {
                let turned = self.turn(Phase::Confirming, "", by);
                self.enter(log, turned, true);
                Ok(())
            }
            Phase::Confirming => Ok(()),
            Phase::Acting => Err(self.refuse("the coordinator decides it, once every action is done")),
            Phase::Held => Err(self.refuse("the saga that it is a part of decides it")),
            Phase::Undoing | Phase::Ended(_) => Err(self.refuse("it takes the way back")),
        }
    }

    fn back(&mut self, log: &mut Log, reason: &str, by: &str) -> Result<(), Refusal> {
        match self.state.phase {
            Phase::Undoing => Ok(()),
            Phase::Open => {
                let turned = self.turn(Phase::Undoing, reason, by);
                self.enter(log, turned, true);
                Ok(())
            }
            Phase::Acting if self.may_turn_back() => {
                let turned = self.turn(Phase::Undoing, reason, by);
                self.enter(log, turned, true);
                Ok(())
            }
            Phase::Acting => Err(self.refuse("what has been done, or may have been, can't be taken back any more")),
            Phase::Held => Err(self.refuse("the saga that it is a part of decides it")),
            Phase::Confirming | Phase::Ended(_) => Err(self.refuse("there is no way back any more")),
        }
    }

    /// What the saga above says. It may not say keep before all is done, and its word is the only one after that.
    fn by_parent(&mut self, log: &mut Log, keep: bool, by: &str) -> Result<(), Refusal> {
        match (self.state.phase, keep) {
            (Phase::Held, true) if self.state.all(Op::Confirm) => {
                self.enter(log, What::Ended { end: End::Done, by: by.into(), reason: Text::default() }, true);
                Ok(())
            }
            (Phase::Held, true) => {
                let turned = self.turn(Phase::Confirming, "", by);
                self.enter(log, turned, true);
                Ok(())
            }
            (Phase::Held, false) => {
                let turned = self.turn(Phase::Undoing, "the saga that it is a part of is taken back", by);
                self.enter(log, turned, true);
                Ok(())
            }
            (Phase::Confirming, true) => Ok(()),
            (_, true) => Err(self.refuse("not all of it is done")),
            (_, false) => self.back(log, "the saga that it is a part of is taken back", by),
        }
    }

    fn enlist(&mut self, log: &mut Log, mut branch: Box<Branch>, by: Text) -> Result<(), Refusal> {
        if !self.state.spec.mode.enlists() || self.state.phase != Phase::Open {
            return Err(self.refuse("nobody can join it"));
        }
        // Who joined later is undone earlier, and completed later.
        if self.state.spec.mode == Mode::Scope {
            branch.after = self
                .state
                .spec
                .branches
                .len()
                .checked_sub(1)
                .and_then(|at| u16::try_from(at).ok())
                .into_iter()
                .collect();
        }
        if let Some(known) = self.state.spec.branches.iter().find(|known| known.name == branch.name) {
            let same = known.confirm == branch.confirm && known.undo == branch.undo;
            return if same { Ok(()) } else { Err(Refusal::Differs(branch.name.clone())) };
        }
        if self.state.spec.branches.len() >= BRANCHES_MAX {
            return Err(plan::Error::TooMany(BRANCHES_MAX + 1).into());
        }
        plan::check_branch(&self.state.spec.branches, &branch)?;
        self.enter(log, What::Enlisted { branch, by }, true);
        Ok(())
    }

    fn find(&self, name: &Text) -> Result<usize, Refusal> {
        let found = self.state.spec.branches.iter().position(|branch| branch.name == *name);
        found.ok_or_else(|| Refusal::NoBranch(name.clone()))
    }

    fn complete(&mut self, log: &mut Log, name: &Text, outcome: Outcome, by: &Text) -> Result<(), Refusal> {
        let at = self.find(name)?;
        if self.state.spec.branches[at].child.is_some() {
            return Err(self.refuse("this branch is a saga, which answers for itself"));
        }
        let wanted = match self.state.phase {
            Phase::Acting => Some(Op::Action),
            Phase::Confirming => Some(Op::Confirm),
            Phase::Undoing if self.is_asked_first(at) => Some(Op::Action),
            Phase::Undoing => Some(Op::Undo),
            Phase::Open | Phase::Held | Phase::Ended(_) => None,
        };
        let Some(op) = wanted.filter(|op| self.state.progress[at].slot(*op) == Slot::Pending) else {
            return Err(self.refuse("nothing of this branch is waited for"));
        };
        if !self.has_its_turn(at, op) {
            return Err(self.refuse("this branch has not been called yet"));
        }
        match outcome {
            Outcome::Done { answer } => self.told(log, at, op, Slot::Done, answer, by),
            Outcome::Rejected { reason } if op == Op::Action && !self.state.pivot_is_done() => {
                self.told(log, at, op, Slot::Rejected, reason, by);
            }
            Outcome::Rejected { reason } => self.told(log, at, op, Slot::Stuck, reason, by),
            Outcome::Ongoing { .. }
            | Outcome::Unknown { .. }
            | Outcome::Ambiguous { .. }
            | Outcome::Elsewhere { .. }
            | Outcome::Misdirected { .. } => {
                return Err(self.refuse("an outcome is done or rejected"));
            }
        }
        Ok(())
    }

    fn stuck(&self, why: &'static str) -> Result<(), Refusal> {
        if self.state.is_stuck() { Ok(()) } else { Err(self.refuse(why)) }
    }

    fn retry(&mut self, log: &mut Log, by: &Text) -> Result<(), Refusal> {
        self.stuck("only what is stuck can be called again")?;
        for at in 0..self.live.len() {
            let Some(op) = self.state.progress[at].stuck() else { continue };
            self.afresh(at);
            let branch = u16::try_from(at).unwrap_or(u16::MAX);
            self.enter(log, What::Retried { branch, op, by: by.clone() }, true);
        }
        Ok(())
    }

    fn skip(&mut self, log: &mut Log, name: &Text, by: &Text) -> Result<(), Refusal> {
        let at = self.find(name)?;
        let Some(op) = self.state.progress[at].stuck() else {
            return Err(self.refuse("only a branch that is stuck can be skipped"));
        };
        self.told(log, at, op, Slot::Done, format!("skipped by {by}").into(), &Text::default());
        Ok(())
    }
}
