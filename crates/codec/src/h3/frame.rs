// SPDX-License-Identifier: Apache-2.0
//! Frames (RFC 9114 7): apart, wherever the bytes are cut, and together.

use super::qpack;
use crate::fields::Fields;
use crate::head::Head;

/// Kinds of frames.
pub(super) mod kind {
    pub(in crate::h3) const DATA: u64 = 0x00;
    pub(in crate::h3) const HEADERS: u64 = 0x01;
    pub(in crate::h3) const CANCEL_PUSH: u64 = 0x03;
    pub(in crate::h3) const SETTINGS: u64 = 0x04;
    pub(in crate::h3) const PUSH_PROMISE: u64 = 0x05;
    pub(in crate::h3) const GOAWAY: u64 = 0x07;
    pub(in crate::h3) const MAX_PUSH_ID: u64 = 0x0d;

    /// Whether it is one of HTTP/2's that HTTP/3 hasn't (RFC 9114 7.2.8).
    pub(in crate::h3) const fn is_of_http2(kind: u64) -> bool {
        matches!(kind, 0x02 | 0x06 | 0x08 | 0x09)
    }
}

/// Bytes of the longest number (RFC 9000 16).
const NUMBER_BYTES_MAX: usize = 8;

/// Reads a number (RFC 9000 16), and how long it is; `None` if not all of it is there.
pub(crate) fn read_number(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let number = rest.iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte));
    Some((number, length))
}

/// Writes a number below 2^62 in as few bytes as may be.
pub(crate) fn write_number(number: u64, out: &mut Vec<u8>) {
    let (length, tag) = match number {
        0..0x40 => (1, 0),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (NUMBER_BYTES_MAX, 0xc0),
    };
    let bytes = number.to_be_bytes();
    let from = out.len();
    out.extend_from_slice(&bytes[NUMBER_BYTES_MAX - length..]);
    out[from] |= tag;
}

/// Some of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) kind: u64,
    /// The whole payload's.
    pub(super) length: u64,
    /// Whether the frame begins with this, and whether it ends.
    pub(super) first: bool,
    pub(super) last: bool,
    /// Of its payload.
    pub(super) bytes: &'a [u8],
}

/// Takes the frames of one stream apart.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Kind and length as they come.
    header: [u8; 2 * NUMBER_BYTES_MAX],
    header_len: usize,
    /// The frame that has begun: its kind, its length, what is still to come of it.
    open: Option<(u64, u64, u64)>,
}

impl Frames {
    /// Whether a frame has begun and not ended.
    pub(super) const fn is_within(&self) -> bool {
        self.header_len > 0 || self.open.is_some()
    }

    /// The next piece; `None` once all bytes are used.
    pub(super) fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Option<Piece<'a>> {
        let first = self.open.is_none();
        if first {
            self.open = Some(self.begin(rest)?);
        }
        let (kind, length, left) = self.open.as_mut()?;
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
        if most == 0 && *left > 0 && !first {
            return None;
        }
        let (bytes, after) = rest.split_at(most);
        *rest = after;
        *left -= most as u64;
        let piece = Piece { kind: *kind, length: *length, first, last: *left == 0, bytes };
        if piece.last {
            self.open = None;
        }
        Some(piece)
    }

    fn begin(&mut self, rest: &mut &[u8]) -> Option<(u64, u64, u64)> {
        loop {
            let header = &self.header[..self.header_len];
            if let Some((kind, used)) = read_number(header)
                && let Some((length, _)) = read_number(&header[used..])
            {
                self.header_len = 0;
                return Some((kind, length, length));
            }
            let (byte, after) = rest.split_first()?;
            // Two numbers are never longer.
            *self.header.get_mut(self.header_len)? = *byte;
            self.header_len += 1;
            *rest = after;
        }
    }
}

/// Writes a frame.
pub(super) fn write(kind: u64, payload: &[u8], out: &mut Vec<u8>) {
    write_number(kind, out);
    write_number(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// Writes the beginning of a frame of body with so many bytes, which are to follow.
pub fn write_data(bytes: usize, out: &mut Vec<u8>) {
    write_number(kind::DATA, out);
    write_number(bytes as u64, out);
}

/// Writes the head of a response.
pub fn write_response(head: &Head, out: &mut Vec<u8>) {
    let mut block = Vec::with_capacity(head.fields.bytes_len() + 16);
    qpack::write_response(head, &mut block);
    write(kind::HEADERS, &block, out);
}

/// Writes trailers.
pub fn write_trailers(fields: &Fields, out: &mut Vec<u8>) {
    let mut block = Vec::with_capacity(fields.bytes_len() + 16);
    qpack::write_trailers(fields, &mut block);
    write(kind::HEADERS, &block, out);
}
