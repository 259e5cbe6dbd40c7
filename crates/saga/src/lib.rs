// SPDX-License-Identifier: Apache-2.0
//! Decides the next step of a transaction across services (saga, two-phase message, TCC and scope are one
//! machine), and what becomes of a request that carries an idempotency key. Pure: states and events in,
//! effects and answers out. It calls nobody, writes nothing, reads no clock and rolls no dice.

pub mod journal;
pub mod judge;
pub mod ledger;
pub mod machine;
mod mode;
pub mod nested;
pub mod plan;
pub mod shards;
pub mod timer;
pub mod transaction;

pub use journal::Entry;
pub use judge::{Outcome, Seen, judge};
pub use machine::{Ask, Effect, Event, Machine, Order, Refusal, Reply};
pub use shards::Term;
pub use transaction::{
    Branch, Call, Child, End, Late, Mode, Op, Parent, Phase, Progress, Retry, Rules, Slot, Spec, Target,
};
