// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 frames as bytes: a writer that refuses nothing, and a connection that reads what comes back.

use crate::hpack::{Block, Decoder, Lines};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const WITH_PRIORITY: u8 = 32;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a peer may say nothing where it must say something: generous, as the machine may be busy.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Bytes of frames, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Out(pub(crate) Vec<u8>);

impl Out {
    /// Any frame, with its true length.
    pub(crate) fn frame(self, kind: u8, flags: u8, id: u32, payload: impl AsRef<[u8]>) -> Self {
        let payload = payload.as_ref();
        self.claimed(payload.len(), kind, flags, id, payload)
    }

    /// Any frame, with a length that may be a lie.
    pub(crate) fn claimed(mut self, length: usize, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Self {
        self.0.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
        self.0.extend_from_slice(&[kind, flags]);
        self.0.extend_from_slice(&id.to_be_bytes());
        self.0.extend_from_slice(payload);
        self
    }

    /// HEADERS that end neither the stream.
    pub(crate) fn head(self, id: u32, block: Block) -> Self {
        self.frame(HEADERS, END_HEADERS, id, block)
    }

    /// HEADERS that end the stream.
    pub(crate) fn whole(self, id: u32, block: Block) -> Self {
        self.frame(HEADERS, END_HEADERS | END_STREAM, id, block)
    }

    pub(crate) fn data(self, id: u32, payload: impl AsRef<[u8]>) -> Self {
        self.frame(DATA, 0, id, payload)
    }

    pub(crate) fn last(self, id: u32, payload: impl AsRef<[u8]>) -> Self {
        self.frame(DATA, END_STREAM, id, payload)
    }

    pub(crate) fn setting(self, id: u16, value: u32) -> Self {
        self.frame(SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
    }

    pub(crate) fn window(self, id: u32, by: u32) -> Self {
        self.frame(WINDOW_UPDATE, 0, id, by.to_be_bytes())
    }

    pub(crate) fn reset(self, id: u32, code: u32) -> Self {
        self.frame(RST_STREAM, 0, id, code.to_be_bytes())
    }

    pub(crate) fn ping(self, payload: &[u8; 8]) -> Self {
        self.frame(PING, 0, 0, payload)
    }

    pub(crate) fn goaway(self, last: u32, code: u32) -> Self {
        self.frame(GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    /// Bytes as they are.
    pub(crate) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }
}

/// One frame that came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number at byte `at` of the payload.
    pub(crate) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// One end of an HTTP/2 connection.
pub(crate) struct Link {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    decoder: Decoder,
    block: Vec<u8>,
    /// Nothing came in time.
    pub(crate) silent: bool,
}

impl Link {
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), decoder: Decoder::default(), block: Vec::new(), silent: false }
    }

    /// A client that has said its preface and these settings.
    pub(crate) fn client(address: SocketAddr, settings: Out) -> Self {
        let mut link = Self::over(TcpStream::connect(address).unwrap());
        let settings = if settings.0.is_empty() { Out::default().frame(SETTINGS, 0, 0, []) } else { settings };
        link.send(Out::default().raw(PREFACE).raw(settings.0));
        link
    }

    pub(crate) fn send(&mut self, out: Out) {
        // A peer that is gone shows in what is read.
        let _ = self.stream.write_all(&out.0);
    }

    /// Takes `count` bytes as they come; false at the end.
    pub(crate) fn skip(&mut self, count: usize) -> bool {
        let filled = self.fill(count);
        self.buffer.drain(..count.min(self.buffer.len()));
        filled
    }

    fn fill(&mut self, count: usize) -> bool {
        let mut chunk = [0; 64 * 1024];
        while self.buffer.len() < count {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) => {
                    self.silent = error.kind() == std::io::ErrorKind::WouldBlock;
                    return false;
                }
            }
        }
        true
    }

    /// The next frame; `None` once the peer has closed.
    pub(crate) fn read(&mut self) -> Option<Frame> {
        if !self.fill(9) {
            return None;
        }
        let length = u32::from_be_bytes([0, self.buffer[0], self.buffer[1], self.buffer[2]]) as usize;
        if !self.fill(9 + length) {
            return None;
        }
        let whole: Vec<u8> = self.buffer.drain(..9 + length).collect();
        let id = u32::from_be_bytes(whole[5..9].try_into().unwrap());
        Some(Frame { kind: whole[3], flags: whole[4], id, payload: whole[9..].to_vec() })
    }

    /// The lines of a header block whose frames are given one by one; `None` until the last.
    pub(crate) fn lines(&mut self, frame: &Frame) -> Option<Lines> {
        let mut part = &frame.payload[..];
        if frame.kind == HEADERS && frame.has(PADDED) {
            part = &part[1..part.len() - usize::from(part[0])];
        }
        if frame.kind == HEADERS && frame.has(WITH_PRIORITY) {
            part = &part[5..];
        }
        self.block.extend_from_slice(part);
        if !frame.has(END_HEADERS) {
            return None;
        }
        let block = std::mem::take(&mut self.block);
        Some(self.decoder.read(&block))
    }
}
