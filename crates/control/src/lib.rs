// SPDX-License-Identifier: Apache-2.0
//! The control plane: configuration, identity, registry and observation, as roles over one [`State`].
//! `byrnie` starts it; a role never calls another role.

pub mod access;
pub mod ads;
pub mod apply;
pub mod ca;
mod clock;
mod conditions;
pub mod console;
pub mod control;
pub mod explain;
mod export;
pub mod history;
pub mod ingest;
pub mod keys;
pub mod ledger;
pub mod observe;
pub mod port;
pub mod quota;
pub mod registry;
pub mod state;
pub mod transactions;

pub use control::{Config, Error, Running, start};
pub use state::State;
