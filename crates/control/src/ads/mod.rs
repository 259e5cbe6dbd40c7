// SPDX-License-Identifier: Apache-2.0
//! The role that tells each proxy what it must know, over delta ADS. `hub` decides and is pure; `serve`
//! moves its bytes.

pub mod hub;
pub mod serve;

pub use hub::{Close, EDGE, Hub, Out, Proxy, SessionId};
