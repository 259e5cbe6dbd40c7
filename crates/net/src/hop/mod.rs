// SPDX-License-Identifier: Apache-2.0
//! The hop between two proxies, as streams of one connection (`docs/reference/hop.md`): a [`Client`] for the
//! side that opened it, a [`Server`] for the side that accepted it, a [`Flow`] per exchange or opaque
//! connection. Frames are gathered while tasks of the worker are ready and leave in one write. It
//! decides nothing; what may be asked for is decided per stream, elsewhere.

mod client;
mod flow;
mod lane;
mod link;
mod pipe;
mod server;

pub use client::{Client, connect};
pub use flow::Flow;
pub use server::{Accepted, Asked, Server};

use byrnie_codec::hop::{CONNECTION_CREDIT_BYTES, HEADS_OVERDRAW_BYTES_MAX, LATE_MAX};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Frames gathered before they are sent without waiting for other tasks: more would make two proxies
/// take turns instead of working side by side.
const CORK_FRAMES_MAX: usize = 16;
/// Bytes gathered before they are sent at once.
const CORK_BYTES_MAX: usize = 64 * 1024;
/// Bytes read before those for whom they came have their turn: what they take at once needn't be kept.
const TURN_BYTES_MAX: usize = 64 * 1024;
/// A piece of an answer's body from here on is sealed from where it lies rather than copied behind what else goes into its record:
/// a record of its own costs about as much as a copy of some KiB.
const BYPASS_BYTES: usize = 8 * 1024;
/// The same of a request's, of which it's to be known for as long as possible that nothing has left.
const REQUEST_BYPASS_BYTES: usize = 32 * 1024;
/// Bytes that may wait to be sent on a server's side before nothing more is read: who opens streams, asks and gives credit and never
/// reads what comes of it stops here.
const SERVER_WAITING_BYTES_MAX: usize = 1024 * 1024;
/// The same on an opener's, which always reads, as otherwise both sides might wait for each other: more than all that credit allows.
/// Beyond it the connection ends.
const OPENER_WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
const _: () = assert!(OPENER_WAITING_BYTES_MAX as i64 > CONNECTION_CREDIT_BYTES as i64 + HEADS_OVERDRAW_BYTES_MAX);
/// Silence on a connection with open streams after which the other side is asked whether it's there ...
const PING_AFTER: Duration = Duration::from_secs(10);
/// ... and how long it may take to answer anything.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a goodbye may go unanswered.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the opener keeps a connection without streams.
const IDLE_OPENER: Duration = Duration::from_secs(45);
/// How long a server does: longer, so that the opener closes first.
const IDLE_SERVER: Duration = Duration::from_secs(75);
/// How often a connection is looked after.
const TEND_EVERY: Duration = Duration::from_secs(2);
const _: () = assert!(
    PING_AFTER.as_secs() + PING_TIMEOUT.as_secs() + 2 * TEND_EVERY.as_secs() < LATE_MAX.as_secs(),
    "whoever is later than that has been given up"
);
