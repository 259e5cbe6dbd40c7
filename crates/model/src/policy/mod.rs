// SPDX-License-Identifier: Apache-2.0
//! Policies: one concern each, attached to a target.

pub mod access;
pub mod enlist;
pub mod fault;
pub mod health;
pub mod idempotency;
pub mod traffic;

pub use access::AccessPolicy;
pub use health::HealthCheck;
pub use idempotency::Idempotency;
pub use traffic::TrafficPolicy;
