// SPDX-License-Identifier: Apache-2.0
//! What differs between the modes: the names of their states and of their calls. The machine is one.

use crate::transaction::{End, Mode, Op, Phase};

impl Mode {
    /// The public name of a phase.
    pub const fn state(self, phase: Phase) -> &'static str {
        match (self, phase) {
            (_, Phase::Ended(End::Resolved)) => "RESOLVED",
            (Self::Saga, Phase::Open) => "ACCEPTED",
            (Self::Saga, Phase::Acting | Phase::Confirming) => "RUNNING",
            (_, Phase::Held) => "HELD",
            (Self::Saga, Phase::Undoing) => "COMPENSATING",
            (Self::Saga, Phase::Ended(End::Done)) => "SUCCEEDED",
            (Self::Saga, Phase::Ended(End::Undone)) => "COMPENSATED",
            (Self::Message, Phase::Open) => "PREPARED",
            (Self::Message, Phase::Acting | Phase::Confirming) => "DELIVERING",
            (Self::Message, Phase::Ended(End::Done)) => "DELIVERED",
            (Self::Message, Phase::Undoing | Phase::Ended(End::Undone)) => "ABORTED",
            (Self::Tcc, Phase::Open | Phase::Acting) => "TRYING",
            (Self::Tcc, Phase::Confirming) => "CONFIRMING",
            (Self::Tcc, Phase::Ended(End::Done)) => "CONFIRMED",
            (Self::Scope, Phase::Open | Phase::Acting) => "ACTIVE",
            (Self::Scope, Phase::Confirming) => "CLOSING",
            (Self::Scope, Phase::Ended(End::Done)) => "CLOSED",
            (Self::Tcc | Self::Scope, Phase::Undoing) => "CANCELLING",
            (Self::Tcc | Self::Scope, Phase::Ended(End::Undone)) => "CANCELLED",
        }
    }

    /// The name of a call in `Txn-Op`.
    pub const fn op(self, op: Op) -> &'static str {
        match (self, op) {
            (_, Op::Check) => "check",
            (Self::Saga | Self::Scope, Op::Action) | (Self::Message, Op::Action | Op::Confirm) => "action",
            (Self::Tcc, Op::Action) => "try",
            (Self::Tcc | Self::Saga, Op::Confirm) => "confirm",
            (Self::Scope, Op::Confirm) => "complete",
            (Self::Tcc, Op::Undo) => "cancel",
            (Self::Saga | Self::Scope | Self::Message, Op::Undo) => "compensate",
        }
    }

    /// Whether participants may join while it is open.
    pub const fn enlists(self) -> bool {
        matches!(self, Self::Tcc | Self::Scope)
    }

    /// The mode of this name.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Saga, Self::Message, Self::Tcc, Self::Scope].into_iter().find(|mode| mode.name() == word)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Saga => "saga",
            Self::Message => "message",
            Self::Tcc => "tcc",
            Self::Scope => "scope",
        }
    }
}
