// SPDX-License-Identifier: Apache-2.0
//! Keeps truth: revisioned keys with conditional atomic writes, watches and leases. The control plane
//! calls it; it never interprets what it keeps. [`Embedded`] is one file on a disk; [`Memory`]
//! is the same code without threads on a simulated disk. `suite` holds both to the same promises. `ledger`
//! keeps idempotency keys and `log` the histories of transactions, the same two ways, and in PostgreSQL as well.

mod core;
pub mod disk;
pub mod embedded;
mod encode;
pub mod ledger;
pub mod log;
pub mod memory;
mod persist;
pub mod postgres;
mod queue;
mod state;
pub mod store;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;
pub mod watch;

pub use embedded::Embedded;
pub use ledger::Ledger;
pub use log::{Append, Heading, Journal, Letter, Peers, Story};
pub use memory::Memory;
pub use persist::{OpenError, SCHEMA};
pub use store::{Entry, Error, Event, Expect, Lease, Pending, Store, Txn, Value, Write};
pub use watch::{Changes, Ended, Watch};
