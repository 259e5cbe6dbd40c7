// SPDX-License-Identifier: Apache-2.0
//! The eight bytes that begin a frame: `u32 stream | u32 (flags << 24 | value)`, little endian. What the
//! value counts depends on the kind.

use super::{FRAME_BYTES_MAX, Wrong};

/// Bytes of a frame before its payload.
pub(super) const HEADER_BYTES: usize = 8;
/// Set on the last frame of a direction.
const END: u32 = 0x80;
const VALUE_BITS: u32 = 24;
pub(super) const VALUE_MAX: u32 = (1 << VALUE_BITS) - 1;
const SLOT_BITS: u32 = 20;
const SLOT_MAX: u32 = (1 << SLOT_BITS) - 1;
/// Generations of one slot, after which they begin anew.
const GENERATIONS: u16 = 1 << 12;

/// A stream: a place in the connection's table (20 bits), and which stream it is that has had the place
/// (12 bits), so that what is still on its way to a former one is known as such. 0 is the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// The connection itself.
    pub const CONNECTION: Self = Self(0);

    /// The stream at `slot` (from 1) of that generation; both are cut to their bits.
    pub const fn new(slot: u32, generation: u16) -> Self {
        Self((slot & SLOT_MAX) | ((generation % GENERATIONS) as u32) << SLOT_BITS)
    }

    /// Its place.
    pub const fn slot(self) -> u32 {
        self.0 & SLOT_MAX
    }

    /// Which one it is that has the place.
    pub const fn generation(self) -> u16 {
        (self.0 >> SLOT_BITS) as u16
    }

    /// The one that has the place after it.
    pub const fn next(self) -> Self {
        Self::new(self.slot(), self.generation() + 1)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A piece of a body, or of an opaque connection.
    Data = 0,
    /// The first frame of a direction but for interim answers: the whole head, and the start of the body.
    Open = 1,
    /// The head of an interim answer (1xx).
    Interim = 2,
    /// The trailer section; always the last frame of its direction.
    Trailers = 3,
    /// The stream ends at once in both directions; the value is one of [`super::code`].
    Reset = 4,
    /// The value may be sent more, on the stream or in all.
    Credit = 5,
    /// Answer with the same value.
    Ping = 6,
    /// The answer to a PING.
    Pong = 7,
    /// The sender opens no more streams, and asks the other side to open none.
    Goaway = 8,
}

impl Kind {
    const fn of(byte: u32) -> Option<Self> {
        Some(match byte {
            0 => Self::Data,
            1 => Self::Open,
            2 => Self::Interim,
            3 => Self::Trailers,
            4 => Self::Reset,
            5 => Self::Credit,
            6 => Self::Ping,
            7 => Self::Pong,
            8 => Self::Goaway,
            _ => return None,
        })
    }

    /// Whether a payload follows.
    pub const fn has_payload(self) -> bool {
        matches!(self, Self::Data | Self::Open | Self::Interim | Self::Trailers)
    }

    /// Whether the payload is of use only as a whole.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Open | Self::Interim | Self::Trailers)
    }
}

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whose it is.
    pub stream: StreamId,
    /// What it is.
    pub kind: Kind,
    /// Whether it's the last of its direction.
    pub end: bool,
    /// The length of the payload, or what the kind says; 24 bits.
    pub value: u32,
}

impl Frame {
    /// A frame without the mark of the end.
    pub const fn new(stream: StreamId, kind: Kind, value: u32) -> Self {
        Self { stream, kind, end: false, value }
    }

    /// Bytes that follow.
    pub const fn payload_bytes(&self) -> usize {
        if self.kind.has_payload() { self.value as usize } else { 0 }
    }

    /// As on the wire.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let flags = self.kind as u32 | if self.end { END } else { 0 };
        let second = flags << VALUE_BITS | self.value.min(VALUE_MAX);
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.stream.0.to_le_bytes());
        bytes[4..].copy_from_slice(&second.to_le_bytes());
        bytes
    }

    /// From the wire.
    ///
    /// # Errors
    /// If no frame begins so.
    pub fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Result<Self, Wrong> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let (stream, second) = (StreamId(u32::from_le_bytes([a, b, c, d])), u32::from_le_bytes([e, f, g, h]));
        let flags = second >> VALUE_BITS;
        let kind = Kind::of(flags & !END).ok_or(Wrong::Kind)?;
        let frame = Self { stream, kind, end: flags & END != 0, value: second & VALUE_MAX };
        if frame.payload_bytes() > FRAME_BYTES_MAX {
            return Err(Wrong::Length);
        }
        let fits = match kind {
            Kind::Ping | Kind::Pong | Kind::Goaway => stream == StreamId::CONNECTION,
            Kind::Credit => stream == StreamId::CONNECTION || stream.slot() > 0,
            Kind::Data | Kind::Open | Kind::Interim | Kind::Trailers | Kind::Reset => stream.slot() > 0,
        };
        if !fits {
            return Err(Wrong::Place);
        }
        match kind {
            Kind::Trailers if !frame.end => Err(Wrong::End),
            Kind::Data | Kind::Open | Kind::Trailers => Ok(frame),
            _ if frame.end => Err(Wrong::End),
            _ => Ok(frame),
        }
    }
}
