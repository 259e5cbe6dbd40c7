// SPDX-License-Identifier: Apache-2.0
//! Keeps truth: revisioned keys with conditional atomic writes, watches and leases. The control plane
//! calls it; it never interprets what it keeps. [`Memory`] runs on a simulated disk.

mod core;
pub mod disk;
pub mod memory;
mod state;
pub mod store;
pub mod watch;

pub use memory::Memory;
pub use store::{Entry, Error, Event, Expect, Lease, Pending, Store, Txn, Value, Write};
pub use watch::{Changes, Ended, Watch};
