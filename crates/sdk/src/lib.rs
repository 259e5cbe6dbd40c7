// SPDX-License-Identifier: Apache-2.0
//! What a Rust program needs to take part in the mesh's transactions by its own database. Programs that only call and are
//! called need nothing of this: their proxies do it.

pub mod barrier;
#[cfg(feature = "outbox")]
pub mod outbox;
