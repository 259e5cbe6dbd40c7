// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 (RFC 9113) of one connection, both sides, without IO: frames in and out, header compression (RFC 7541)
//! straight into and out of the one `Head`, streams with their windows, and every limit. `net/http/h2` moves the
//! bytes and knows who waits for what. Nothing here reads a clock or panics on what a peer sends.

mod frame;
pub(crate) mod hpack;
pub(crate) mod message;
mod reader;
mod send;
mod session;
mod settings;
mod streams;
mod writer;

pub use frame::{Frame, HEADER_BYTES, flag, kind};
pub use session::{Event, Session, Side, Why};

#[cfg(test)]
mod tests;

/// Receive window of one stream: what a peer may send before somebody reads it.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Receive window of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Streams that a client may have open on one connection.
pub const STREAMS_MAX: u32 = 256;
/// The same of another proxy, which speaks for many clients: as many as on a hop.
pub const PROXY_STREAMS_MAX: u32 = crate::hop::STREAMS_MAX;
/// A client that lets less than this be sent on each of its streams takes next to nothing of an answer ...
pub const WINDOW_SMALL_BYTES: i64 = 4 * 1024;
/// ... and may have so many such streams open at once; what is more is refused, and nothing is done with it.
pub const STARVED_MAX: usize = 8;
/// Largest header list accepted, by HTTP/2's count (32 bytes for each line beside its text).
pub const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Largest frame accepted, in bytes of its payload.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest DATA frame sent, whatever a peer accepts: what others wait for behind it.
pub const SENT_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of one header block before it is decoded. It may be larger than the list it stands for, by little.
pub const BLOCK_BYTES_MAX: usize = 128 * 1024;
/// Frames of one header block after the first: a list of the largest size needs one.
pub const CONTINUATIONS_MAX: u32 = 6;
/// Streams that we reset for the peer's errors, until the connection is given up (`MadeYouReset`).
pub const RESETS_FOR_ERRORS_MAX: u32 = 100;
/// Streams that we reset, of which late frames are still expected and mean nothing: so many for each that a client may have open. Of
/// streams that we opened more are borne with.
pub const RESETS_REMEMBERED: usize = 2;
/// Interim answers (1xx) on one stream.
pub const INTERIMS_MAX: u8 = 32;
/// Streams that a server is taken to allow before it has said so.
const STREAMS_ASSUMED: u32 = 100;
/// Windows before SETTINGS change them (RFC 9113 6.9.2).
const INITIAL_WINDOW_BYTES: u32 = 65_535;
/// The largest window (RFC 9113 6.9.1).
const WINDOW_BYTES_MAX: i64 = (1 << 31) - 1;
/// Frames before SETTINGS change them (RFC 9113 4.2).
const INITIAL_FRAME_BYTES: usize = 16 * 1024;

/// Why a stream or a connection ended (RFC 9113 7).
pub mod code {
    /// In order.
    pub const NO_ERROR: u32 = 0;
    /// A rule was broken.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// Our fault.
    pub const INTERNAL_ERROR: u32 = 2;
    /// More than the window was sent, or the window became too large.
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    /// A frame on a stream that has ended.
    pub const STREAM_CLOSED: u32 = 5;
    /// A frame of a wrong size.
    pub const FRAME_SIZE_ERROR: u32 = 6;
    /// Nothing was done.
    pub const REFUSED_STREAM: u32 = 7;
    /// Given up.
    pub const CANCEL: u32 = 8;
    /// A header block that can't be read.
    pub const COMPRESSION_ERROR: u32 = 9;
    /// Too much that costs work and carries nothing.
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// What a peer did, so that its connection can't go on: one of [`code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrong(pub u32);

impl From<hpack::Broken> for Wrong {
    fn from(_: hpack::Broken) -> Self {
        Self(code::COMPRESSION_ERROR)
    }
}
