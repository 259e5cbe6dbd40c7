// SPDX-License-Identifier: Apache-2.0
//! The role that knows which workloads run. `lease` writes each under a lease and takes it out when it
//! stops; `api` speaks with it over a stream. `address` is for programs without a proxy, whose addresses the
//! console takes. Nothing here decides who may call whom.

pub mod address;
pub mod api;
pub mod lease;

pub use lease::{Error, Registry};
