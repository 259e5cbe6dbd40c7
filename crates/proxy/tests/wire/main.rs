// SPDX-License-Identifier: Apache-2.0
//! What goes over the wire, byte by byte: HTTP/2 by section of its RFCs on both sides of a proxy, requests
//! that hide another one, servers that answer what nobody asked. Raw frames and bytes from own writers,
//! through two sidecars with mutual TLS between them, to programs that record what reaches them.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod back;
mod broken;
#[path = "../../../codec/tests/h1/cases.rs"]
mod cases;
mod corpus;
#[path = "../../../codec/tests/h1/crafted.rs"]
mod crafted;
mod flaws;
mod floods;
mod frame;
mod front;
mod hostile;
mod hpack;
mod identities;
mod last;
mod origins;
mod parting;
#[path = "../../../codec/tests/h1/payloads.rs"]
mod payloads;
mod recorded;
mod slow;
mod smuggling;
mod strict;
#[expect(dead_code, reason = "the mesh tests use the rest of it")]
#[path = "../mesh/world.rs"]
mod world;

/// A number of requests: what the environment says, for a run by hand, or the usual one.
fn wanted(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.replace('_', "").parse().ok()).unwrap_or(usual)
}
