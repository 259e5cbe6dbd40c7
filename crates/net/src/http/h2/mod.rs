// SPDX-License-Identifier: Apache-2.0
//! HTTP/2, both sides: one [`Flow`] per stream, a [`Server`] per connection from a client, a [`Client`] per
//! connection to a server. `codec/h2` knows the protocol; here its bytes are moved and those woken for whom they
//! came. Writes are gathered until a worker has no more ready task, so that many streams share one send. Resets
//! and trailers pass both ways.

mod client;
mod flow;
mod guard;
mod lane;
mod link;
mod server;
mod tunnel;

pub use byrnie_codec::h2::code::{CANCEL, INTERNAL_ERROR, PROTOCOL_ERROR, REFUSED_STREAM};
pub use client::{Client, connect, connect_narrow};
pub use flow::Flow;
pub use guard::Sender;
pub use server::{Accepted, Server};
pub use tunnel::Tube;

use std::time::Duration;

/// Bytes gathered before they are sent without waiting for other tasks.
const CORK_BYTES_MAX: usize = 64 * 1024;
/// Bytes read before those for whom they came have their turn.
const TURN_BYTES_MAX: usize = 64 * 1024;
/// Bytes that wait for a client's socket before nothing more of it is read: heads and answers to control frames
/// need no window.
const UNREAD_BYTES_MAX: usize = 1024 * 1024;
/// Streams reset by the peer before anybody looked at them, until the connection is given up (rapid reset).
const RESETS_PENDING_MAX: usize = 20;
/// Longest time in which what was gathered for a connection in order must have left when it ends.
const CLOSE_MAX: Duration = Duration::from_secs(60);
/// How long it may go unanswered that a connection is about to end.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read and forgotten of a client after the last frame to it: closing over unread bytes would
/// reset the connection and take the GOAWAY with it.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
const LINGER_MAX: Duration = Duration::from_secs(1);
