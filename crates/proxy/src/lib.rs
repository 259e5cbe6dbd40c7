// SPDX-License-Identifier: Apache-2.0
//! The data plane: the engine and the xDS client on `net`, in its mounts. `byrnie run`, `up` and
//! `agent` start one with [`start`], and one in place of another with [`succeed`]. It never imports the store or the catalog, and holds no lock
//! on the request path.

mod admin;
mod agent;
mod ahead;
mod broken;
mod carry;
pub mod config;
mod connection;
mod crew;
mod datagrams;
mod door;
pub mod error;
mod gates;
mod hop;
mod keyed;
mod keys;
mod laggards;
mod log;
mod mirror;
mod mount;
mod outside;
mod pick;
mod proxy;
#[cfg(feature = "http3")]
mod quic;
mod race;
mod record;
mod refusal;
mod rest;
mod resting;
pub mod running;
#[cfg(test)]
mod sizes;
mod spread;
mod strain;
mod tunnel;
mod undeclared;
mod upstream;
mod whole;
mod worker;

// One connection's defect is to end that connection and no other one.
#[cfg(panic = "abort")]
compile_error!("byrnie's proxy catches panics: build it with panic = \"unwind\"");

pub use config::{AccessLog, Address, Config, Control, Gateway, Hop, Mount, Sidecar, Source, Tokens, Users};
pub use error::Error;
pub use proxy::{start, succeed};
pub use running::{Handed, Outbound, Ports, Running};
