// SPDX-License-Identifier: Apache-2.0
//! Frames of many streams, gathered into one run of bytes. What a stream adds right after its own last frame joins
//! it, as long as nothing of that frame has left: a body its DATA, and the end its DATA or its HEADERS.

use super::frame::{Frame, HEADER_BYTES, flag, kind};

/// A buffer that grew beyond this isn't kept.
const BUFFER_BYTES_KEPT: usize = 128 * 1024;

/// Gathers the frames of one connection.
#[derive(Debug, Default)]
pub(super) struct Writer {
    buffer: Vec<u8>,
    sent: usize,
    tail: Option<Tail>,
}

/// The last frame, if its stream may still add to it.
#[derive(Clone, Copy, Debug)]
struct Tail {
    frame: Frame,
    at: usize,
}

impl Writer {
    /// What waits to be sent.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.buffer[self.sent..]
    }

    /// So much of what waited has left.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes).min(self.buffer.len());
        if self.tail.is_some_and(|tail| tail.at < self.sent) {
            self.tail = None;
        }
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(BUFFER_BYTES_KEPT);
            (self.sent, self.tail) = (0, None);
        }
    }

    /// Adds a header block by `write`, in as many frames as it takes.
    pub(super) fn block(&mut self, stream: u32, end: bool, frame_max: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; HEADER_BYTES]);
        write(&mut self.buffer);
        let length = self.buffer.len() - at - HEADER_BYTES;
        let ends = if end { flag::END_STREAM } else { 0 };
        if length <= frame_max {
            let frame = Frame { length, kind: kind::HEADERS, flags: flag::END_HEADERS | ends, stream };
            return self.place(Tail { frame, at });
        }
        let block = self.buffer.split_off(at + HEADER_BYTES);
        self.buffer.truncate(at);
        let mut parts = block.chunks(frame_max).peekable();
        let (mut kind, mut flags) = (kind::HEADERS, ends);
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                flags |= flag::END_HEADERS;
            }
            self.frame(kind, flags, stream, part);
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }

    /// Adds a piece of a body that one frame may hold.
    pub(super) fn body(&mut self, stream: u32, piece: &[u8], frame_max: usize) {
        if let Some(mut tail) = self.tail
            && (tail.frame.stream, tail.frame.kind) == (stream, kind::DATA)
            && tail.frame.length + piece.len() <= frame_max
        {
            self.buffer.extend_from_slice(piece);
            tail.frame.length += piece.len();
            return self.place(tail);
        }
        let at = self.buffer.len();
        self.frame(kind::DATA, 0, stream, piece);
        self.tail = Some(Tail { frame: Frame { length: piece.len(), kind: kind::DATA, flags: 0, stream }, at });
    }

    /// Ends the stream's direction.
    pub(super) fn end(&mut self, stream: u32) {
        match self.tail {
            Some(mut tail) if tail.frame.stream == stream => {
                tail.frame.flags |= flag::END_STREAM;
                self.place(tail);
            }
            _ => self.frame(kind::DATA, flag::END_STREAM, stream, &[]),
        }
    }

    /// Adds a frame as it is.
    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.buffer.extend_from_slice(&Frame { length: payload.len(), kind, flags, stream }.to_bytes());
        self.buffer.extend_from_slice(payload);
        self.tail = None;
    }

    /// Adds bytes that are no frame.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn place(&mut self, tail: Tail) {
        if let Some(header) = self.buffer.get_mut(tail.at..tail.at + HEADER_BYTES) {
            header.copy_from_slice(&tail.frame.to_bytes());
        }
        self.tail = Some(tail).filter(|tail| !tail.frame.has(flag::END_STREAM));
    }
}
