// SPDX-License-Identifier: Apache-2.0
//! The framing between two proxies (`byrnie/1`, `docs/reference/hop.md`): many exchanges and opaque
//! connections as streams of one connection. Frames in and out, heads without a second message boundary,
//! and the state of one connection with its credit and its limits. `net/hop` moves the bytes; nothing
//! here reads a clock or panics on what a peer sends: a peer is authenticated, not trusted.

mod credit;
mod frame;
mod head;
mod reader;
mod session;
mod writer;

pub use credit::{Budget, Window};
pub use frame::{Frame, Kind, StreamId};
pub use head::{
    Asks, emit_preamble, emit_request, emit_response, emit_trailers, parse_preamble, parse_request, parse_response,
    parse_trailers,
};
pub use reader::{Piece, Reader};
pub use session::{Action, Grants, Session, Side};
pub use writer::Writer;

use std::time::Duration;

#[cfg(test)]
mod tests;

/// Most payload of one frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// A body that is there with its head, up to so many bytes in all, travels in the head's own frame: one
/// frame, one parse, one send.
pub const JOIN_BYTES_MAX: usize = 32 * 1024;
/// Streams that may be open on one connection.
pub const STREAMS_MAX: u32 = 1024;
/// What may be under way on one stream in one direction, in bytes, before the receiver has passed it on.
pub const STREAM_CREDIT_BYTES: u32 = 256 * 1024;
/// The same of an answer to a newcomer, which isn't known to take its answers, until it has taken so much: about half of what a
/// TCP connection begins with (RFC 6928).
pub const CURB_BYTES: u32 = 8 * 1024;
/// What `x-byrnie-newcomer` says, by which a proxy tells another that a request's answer is to be curbed. A proxy that says 1 knows of it
/// between hops alone: over HTTP/2 it gives back what it has passed on in steps that are larger than [`CURB_BYTES`].
pub const NEWCOMER: &[u8] = b"2";
/// What may be under way on all streams of a connection together.
pub const CONNECTION_CREDIT_BYTES: u32 = 8 * 1024 * 1024;
/// Heads and trailers need no credit but are counted; this far below zero is too far.
pub const HEADS_OVERDRAW_BYTES_MAX: i64 = 4 * 1024 * 1024;
/// The most credit that a peer may ever hold, in bytes.
pub const CREDIT_BYTES_MAX: i64 = 1 << 30;
/// Interim answers (1xx) on one stream.
pub const INTERIMS_MAX: u8 = 32;
/// Streams that an opener resets at once, beyond as many as were answered to their end ...
pub const RESETS_BURST: u32 = 4 * STREAMS_MAX;
/// ... and one more after each such pause. Those beyond wait, and keep their places.
pub const RESETS_EVERY: Duration = Duration::from_micros(500);
/// Resets that a server takes at once: those of an opener that keeps to its own budget and comes late with them. Behind a pause of
/// [`LATE_MAX`], longer than which no side is silent and not given up, may come what it earned meanwhile by time; and
/// answers that are still on their way to it have been counted here already.
pub const RESETS_LATE_BURST: u32 = 64 * STREAMS_MAX;
/// See [`RESETS_LATE_BURST`].
pub const LATE_MAX: Duration = Duration::from_secs(30);
const _: () = assert!(
    (RESETS_BURST + STREAMS_MAX) as u128 + LATE_MAX.as_micros() / RESETS_EVERY.as_micros() <= RESETS_LATE_BURST as u128
);
/// Frames that carry nothing (CREDIT, PONG, empty DATA that ends nothing, empty frames and CREDIT for streams that are gone)
/// that a peer may send at once, beyond what [`IDLES_PER_FRAME`] and its like allow ...
pub const IDLES_BURST: u32 = 16 * STREAMS_MAX;
/// ... and one more after each such pause.
pub const IDLES_EVERY: Duration = Duration::from_micros(500);
/// How many of them each frame with a payload allows that was sent to the peer, as what has come is given back ...
pub const IDLES_PER_FRAME: u64 = 4;
/// ... so much of its payload, in bytes, one more, as a long frame may be passed on in pieces ...
pub const IDLES_PER_BYTES: u64 = 1024;
/// ... and a stream that this side closed, as to its end and its credit something may still be on the way.
pub const IDLES_PER_CLOSED: u64 = 4;
/// PINGs that a peer may send at once ...
pub const PINGS_BURST: u32 = 16;
/// ... and one more after each such pause.
pub const PINGS_EVERY: Duration = Duration::from_secs(1);
/// Longest name of a service port in an OPEN, in bytes.
pub const TARGET_BYTES_MAX: usize = 255;

/// Why a stream was reset, as its code says.
pub mod code {
    /// Nothing more is wanted, after a complete answer.
    pub const DONE: u32 = 0;
    /// Nothing was done with the request: it may be sent again, elsewhere.
    pub const REFUSED: u32 = 1;
    /// Given up by the sender of the reset.
    pub const CANCEL: u32 = 2;
    /// The message broke off.
    pub const BROKEN: u32 = 3;
    /// The message can't be understood. Who doesn't know this one takes it for [`BROKEN`], as any other.
    pub const MALFORMED: u32 = 4;
}

/// What a peer did wrong, so that its connection can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// A kind of frame that doesn't exist.
    Kind,
    /// A frame longer than [`FRAME_BYTES_MAX`].
    Length,
    /// A frame that doesn't belong to a stream, on one, or the other way round.
    Place,
    /// The mark of the end where none can be, or missing where it must be.
    End,
    /// A stream number beyond [`STREAMS_MAX`], or one that was never opened.
    Slot,
    /// A stream opened where one is open.
    Occupied,
    /// A stream opened by the side that accepts them, or under its predecessor's number.
    Opened,
    /// A stream opened after its opener had said goodbye.
    AfterGoodbye,
    /// Goodbye said twice.
    Goodbye,
    /// A second head.
    SecondHead,
    /// A body before its head.
    BeforeHead,
    /// A frame after the end of its direction.
    AfterEnd,
    /// More than the credit allows.
    Overdrawn,
    /// More credit than may be held.
    Credit,
    /// An OPEN that doesn't say what it asks for.
    Preamble,
    /// More interim answers than [`INTERIMS_MAX`].
    Interims,
    /// More streams reset than [`RESETS_LATE_BURST`] and [`RESETS_EVERY`] allow.
    Resets,
    /// More frames that carry nothing than [`IDLES_BURST`] and [`IDLES_EVERY`] allow.
    Idles,
    /// PINGs faster than [`PINGS_EVERY`] allows.
    Pings,
}

impl Wrong {
    /// The words for it in a log.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kind => "unknown kind of frame",
            Self::Length => "frame too long",
            Self::Place => "frame on the wrong stream",
            Self::End => "misplaced end of stream",
            Self::Slot => "stream number out of range",
            Self::Occupied => "stream opened twice",
            Self::Opened => "stream may not be opened",
            Self::AfterGoodbye => "stream opened after goodbye",
            Self::Goodbye => "goodbye said twice",
            Self::SecondHead => "second head on a stream",
            Self::BeforeHead => "body before its head",
            Self::AfterEnd => "frame after the end of its stream",
            Self::Overdrawn => "credit overdrawn",
            Self::Credit => "more credit than may be held",
            Self::Preamble => "stream asks for no service port",
            Self::Interims => "too many interim answers",
            Self::Resets => "too many streams reset",
            Self::Idles => "too many frames that carry nothing",
            Self::Pings => "too many pings",
        }
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for Wrong {}
