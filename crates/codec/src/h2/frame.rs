// SPDX-License-Identifier: Apache-2.0
//! The nine bytes before each frame's payload (RFC 9113 4.1).

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 9;

/// Kinds of frames (RFC 9113 6).
pub mod kind {
    /// A piece of a body.
    pub const DATA: u8 = 0;
    /// A head or trailers, or their beginning.
    pub const HEADERS: u8 = 1;
    /// Deprecated.
    pub const PRIORITY: u8 = 2;
    /// The end of a stream in both directions.
    pub const RST_STREAM: u8 = 3;
    /// What a side allows and wants.
    pub const SETTINGS: u8 = 4;
    /// Never allowed by us.
    pub const PUSH_PROMISE: u8 = 5;
    /// Is to be answered.
    pub const PING: u8 = 6;
    /// No more streams.
    pub const GOAWAY: u8 = 7;
    /// More may be sent.
    pub const WINDOW_UPDATE: u8 = 8;
    /// The rest of a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    /// Of DATA and HEADERS: the last of this direction.
    pub const END_STREAM: u8 = 1;
    /// Of SETTINGS and PING: an answer.
    pub const ACK: u8 = 1;
    /// The block is whole.
    pub const END_HEADERS: u8 = 4;
    /// The payload begins with the length of the padding at its end.
    pub const PADDED: u8 = 8;
    /// Five bytes of priority stand before the block.
    pub const PRIORITY: u8 = 32;
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of the payload, below 2^24.
    pub length: usize,
    /// One of [`kind`], or one that nobody knows.
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// The stream; 0 for the connection.
    pub stream: u32,
}

impl Frame {
    /// Reads the header of a frame.
    pub const fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, kind, flags, d, e, f, g] = bytes;
        let length = (a as usize) << 16 | (b as usize) << 8 | c as usize;
        // The first bit is reserved and means nothing.
        Self { length, kind, flags, stream: u32::from_be_bytes([d & 0x7f, e, f, g]) }
    }

    /// The header as bytes.
    pub const fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    pub(super) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
