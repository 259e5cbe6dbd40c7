// SPDX-License-Identifier: Apache-2.0
//! HTTP/3 (RFC 9114), the side of a server, without IO: frames of a request's stream and of the streams of a
//! connection, and header blocks (RFC 9204) straight into and out of the one `Head`, by the rules of HTTP/2. QUIC
//! itself is somebody else's; `net/http/h3` moves the bytes. Nothing here reads a clock or panics on what a peer
//! sends.
//!
//! Blocks refer to no earlier ones: no dynamic table is offered, so none of a connection's streams ever waits for
//! another one, and a peer can't make us keep anything.

mod control;
mod frame;
mod qpack;
mod request;

pub use control::{Opened, Uni};
pub use frame::{write_data, write_response, write_trailers};
pub use request::{Event, Request};

#[cfg(test)]
mod tests;

use frame::kind;
pub(crate) use frame::{read_number, write_number};

/// Most bytes of one header block before it is decoded, and of the list that it stands for, by RFC 9114's count (32 bytes for each
/// line beside its text).
pub const HEADER_LIST_BYTES_MAX: u32 = crate::h2::HEADER_LIST_BYTES_MAX;
/// Frames of one stream that carry nothing: of unknown kinds, or empty.
pub const IDLE_FRAMES_MAX: u32 = 1_000;
/// The largest number that a stream's can be, and still be one of a client's requests: what a server names that is about to
/// name its last one (RFC 9114 5.2).
pub const STREAM_ID_MAX: u64 = (1 << 62) - 4;

/// Why a stream or a connection ended (RFC 9114 8.1, RFC 9204 6).
pub mod code {
    /// In order.
    pub const NO_ERROR: u64 = 0x100;
    /// Our fault.
    pub const INTERNAL_ERROR: u64 = 0x102;
    /// A stream that may not be opened.
    pub const STREAM_CREATION_ERROR: u64 = 0x103;
    /// A stream ended that lasts as long as its connection.
    pub const CLOSED_CRITICAL_STREAM: u64 = 0x104;
    /// A frame where it may not be.
    pub const FRAME_UNEXPECTED: u64 = 0x105;
    /// A frame that isn't what its kind says.
    pub const FRAME_ERROR: u64 = 0x106;
    /// Too much that costs work and carries nothing.
    pub const EXCESSIVE_LOAD: u64 = 0x107;
    /// A number that may not be used.
    pub const ID_ERROR: u64 = 0x108;
    /// Settings that contradict themselves.
    pub const SETTINGS_ERROR: u64 = 0x109;
    /// Something else came before the settings.
    pub const MISSING_SETTINGS: u64 = 0x10a;
    /// Nothing was done.
    pub const REQUEST_REJECTED: u64 = 0x10b;
    /// Given up.
    pub const REQUEST_CANCELLED: u64 = 0x10c;
    /// A stream ended before its request was whole.
    pub const REQUEST_INCOMPLETE: u64 = 0x10d;
    /// No message.
    pub const MESSAGE_ERROR: u64 = 0x10e;
    /// A header block that can't be read.
    pub const DECOMPRESSION_FAILED: u64 = 0x200;
    /// An instruction to a table that isn't there.
    pub const ENCODER_STREAM_ERROR: u64 = 0x201;
    /// An acknowledgement of what was never sent.
    pub const DECODER_STREAM_ERROR: u64 = 0x202;
}

/// What is wrong with what a peer sent on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The connection can't go on: one of [`code`].
    Connection(u64),
    /// The stream can't: one of [`code`].
    Stream(u64),
    /// It is a request, which is to be refused with this.
    Refused(crate::Reject),
}

/// A setting (RFC 9114 7.2.4.1).
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
/// The kind of a control stream (RFC 9114 6.2.1).
const CONTROL: u64 = 0;

/// Writes what a server's control stream begins with: its kind and our settings.
pub fn write_opening(out: &mut Vec<u8>) {
    let mut settings = Vec::new();
    write_number(MAX_FIELD_SECTION_SIZE, &mut settings);
    write_number(HEADER_LIST_BYTES_MAX.into(), &mut settings);
    write_number(CONTROL, out);
    frame::write(kind::SETTINGS, &settings, out);
}

/// Writes, on the control stream, that requests on streams from number `id` on aren't served.
pub fn write_goaway(id: u64, out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    write_number(id, &mut payload);
    frame::write(kind::GOAWAY, &payload, out);
}
