// SPDX-License-Identifier: Apache-2.0
//! HTTP/1 as a whole: what is valid is accepted and forwarded alike, what is ambiguous is refused,
//! wherever the network cuts it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its own functions too")]

mod cases;
mod crafted;
mod differential;
mod odd;
mod payloads;
mod smuggling;
mod split;
