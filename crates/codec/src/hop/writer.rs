// SPDX-License-Identifier: Apache-2.0
//! Frames of many streams, gathered into one run of bytes. What a stream adds right after its own last
//! frame joins it, as long as nothing of that frame has left: a head, its body and the end are one frame.

use super::frame::{HEADER_BYTES, VALUE_MAX};
use super::{FRAME_BYTES_MAX, Frame, JOIN_BYTES_MAX, Kind, StreamId};

/// A buffer that grew beyond this isn't kept.
const BUFFER_BYTES_KEPT: usize = 128 * 1024;

/// Gathers the frames of one connection.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
    sent: usize,
    /// Bytes that have left in all.
    gone: u64,
    tail: Option<Tail>,
    frames: usize,
}

/// The last frame, if its stream may still add to it.
#[derive(Clone, Copy, Debug)]
struct Tail {
    frame: Frame,
    at: usize,
}

impl Writer {
    /// What waits to be sent.
    pub fn waiting(&self) -> &[u8] {
        &self.buffer[self.sent..]
    }

    /// Frames that were added since nothing waited.
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// How many bytes will have left once all that waits has: where the next frame begins.
    pub fn position(&self) -> u64 {
        self.gone + self.waiting().len() as u64
    }

    /// Bytes that have left in all.
    pub const fn gone(&self) -> u64 {
        self.gone
    }

    /// So much of what waited has left.
    pub fn advance(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes).min(self.buffer.len());
        self.gone += bytes as u64;
        if self.tail.is_some_and(|tail| tail.at < self.sent) {
            self.tail = None;
        }
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
            (self.sent, self.frames, self.tail) = (0, 0, None);
        }
    }

    /// Adds a head by `write`, in a frame of that kind. False, and nothing added, if it is longer than a
    /// frame may be.
    pub fn head(&mut self, stream: StreamId, kind: Kind, end: bool, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        write(&mut self.buffer);
        let length = self.buffer.len() - at - HEADER_BYTES;
        if length > FRAME_BYTES_MAX {
            self.buffer.truncate(at);
            return false;
        }
        let frame = Frame { stream, kind, end, value: length as u32 };
        self.frames += 1;
        self.place(Tail { frame, at });
        true
    }

    /// Adds a piece of a body, of at most [`FRAME_BYTES_MAX`].
    pub fn data(&mut self, stream: StreamId, piece: &[u8]) {
        self.data_header(stream, piece.len());
        self.buffer.extend_from_slice(piece);
    }

    /// Begins a frame, or makes the stream's own last one longer, for a payload that is sent from elsewhere, or added next
    /// by [`Writer::rest`].
    pub fn data_header(&mut self, stream: StreamId, length: usize) {
        let length = length.min(VALUE_MAX as usize) as u32;
        let most = |kind| if kind == Kind::Open { JOIN_BYTES_MAX } else { FRAME_BYTES_MAX };
        if let Some(mut tail) = self.tail
            && tail.frame.stream == stream
            && matches!(tail.frame.kind, Kind::Open | Kind::Data)
            && (tail.frame.value + length) as usize <= most(tail.frame.kind)
        {
            tail.frame.value += length;
            return self.place(tail);
        }
        let frame = Frame::new(stream, Kind::Data, length);
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&frame.to_bytes());
        self.frames += 1;
        self.tail = Some(Tail { frame, at });
    }

    /// The part of a payload, begun by [`Writer::data_header`], that could not be sent from elsewhere.
    pub fn rest(&mut self, piece: &[u8]) {
        self.tail = None;
        self.buffer.extend_from_slice(piece);
    }

    /// So much of a payload was sent from elsewhere.
    pub fn skip(&mut self, bytes: usize) {
        self.gone += bytes as u64;
    }

    /// Ends the stream's direction.
    pub fn end(&mut self, stream: StreamId) {
        match self.tail {
            Some(mut tail) if tail.frame.stream == stream && matches!(tail.frame.kind, Kind::Open | Kind::Data) => {
                tail.frame.end = true;
                self.place(tail);
                self.tail = None;
            }
            _ => self.control(Frame { stream, kind: Kind::Data, end: true, value: 0 }),
        }
    }

    /// Adds a frame that has no payload.
    pub fn control(&mut self, frame: Frame) {
        self.buffer.extend_from_slice(&frame.to_bytes());
        self.frames += 1;
        self.tail = None;
    }

    fn place(&mut self, tail: Tail) {
        if let Some(header) = self.buffer.get_mut(tail.at..tail.at + HEADER_BYTES) {
            header.copy_from_slice(&tail.frame.to_bytes());
        }
        self.tail = Some(tail).filter(|tail| !tail.frame.end);
    }
}
