// SPDX-License-Identifier: Apache-2.0
//! Answers DNS for the mesh's names (`SERVICE.NAMESPACE.mesh`) over UDP and TCP. `byrnie up` and node proxies start it
//! with their own [`Names`]. It is no resolver: it never asks anybody else, and refuses other names.

mod answer;
mod server;

pub use answer::{Transport, UDP_BYTES_MAX, answer};
pub use server::{Server, bind, serve};

use std::net::IpAddr;

#[cfg(test)]
mod tests;

/// Top-level domain of the mesh.
pub const ZONE: &str = "mesh";

/// Seconds that an answer may be kept: instances come and go within seconds.
pub const TTL: u32 = 5;

/// Addresses in one answer.
pub const ADDRESSES_MAX: usize = 64;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// There is no such name.
    Nothing,
    /// The name with its addresses of both families; those not asked for are left out of the answer.
    Addresses(Vec<IpAddr>),
    /// It can't be told now, say before the first view arrived.
    Unsure,
}

/// Who knows the names. Called on the server's own core for each query, so it must not block.
pub trait Names: Send + Sync + 'static {
    /// What is known of `name`: lower case, without a final dot, ending in `.mesh`.
    fn lookup(&self, name: &str) -> Known;
}
