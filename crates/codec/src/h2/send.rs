// SPDX-License-Identifier: Apache-2.0
//! What goes out on a connection: heads, bodies as far as the windows allow, ends, resets and goodbyes. All of it
//! waits in one run of bytes until its driver has sent it.

use super::frame::kind;
use super::message;
use super::session::{GOODBYE_PING, Session, Side};
use super::streams::{Direction, Stream};
use super::{Wrong, code};
use crate::fields::Fields;
use crate::head::Head;
use crate::hop::CURB_BYTES;

/// The highest number of a stream (RFC 9113 5.1.1).
const ID_MAX: u32 = i32::MAX as u32;

impl Session {
    /// What waits to be sent.
    pub fn waiting(&self) -> &[u8] {
        self.writer.waiting()
    }

    /// So much of what waited has left.
    pub fn advance(&mut self, bytes: usize) {
        self.writer.advance(bytes);
    }

    /// Streams that are open in any direction.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether a stream is open in any direction.
    pub fn is_open(&self, id: u32) -> bool {
        self.streams.has(id)
    }

    /// Whether the peer's first SETTINGS have come, and then whether it takes extended CONNECTs (RFC 8441).
    pub const fn offers_connect(&self) -> Option<bool> {
        if self.peer.heard { Some(self.peer.connects) } else { None }
    }

    /// How many streams the peer lets us have open.
    pub const fn streams_max(&self) -> usize {
        self.peer.streams as usize
    }

    /// Whether either side has said goodbye: no more streams are opened.
    pub const fn is_leaving(&self) -> bool {
        self.ids.leaving
    }

    /// Opens a stream with a request; none if there is no room, and nothing was sent then. `connect`: a protocol
    /// for which it is an extended CONNECT, and a header that is left out (RFC 8441 5). `end`: no body follows.
    pub fn ask(&mut self, key: u32, head: &Head, connect: Option<(&str, &str)>, end: bool) -> Option<u32> {
        let id = self.ids.next;
        // Once all numbers are used, a connection has served its time (RFC 9113 5.1.1).
        self.ids.leaving |= id > ID_MAX;
        if self.side != Side::Client || self.ids.leaving || self.streams.len() >= self.streams_max() {
            return None;
        }
        self.ids.next += 2;
        let Self { writer, encoder, .. } = self;
        writer.block(id, end, self.peer.frame, |out| message::write_request(encoder, head, connect, out));
        let mut stream = Stream::new(key, self.peer.window);
        if self.streams.narrow {
            stream = stream.narrow(self.streams.heard);
        }
        stream.heading = head.method() == "HEAD";
        stream.sent = if end { Direction::Ended } else { Direction::Headed };
        self.streams.add(id, stream);
        Some(id)
    }

    /// What is answered on the stream is for a newcomer: no more than [`crate::hop::CURB_BYTES`] are under way until so much was passed
    /// on. The side that answers sees to it by itself where the other is told so too; else that one's window does, where it's narrow.
    pub fn curb(&mut self, id: u32) {
        let side = self.side;
        match self.streams.get(id) {
            Some(stream) if side == Side::Client => stream.set_curb(),
            Some(stream) => stream.curb = CURB_BYTES,
            None => {}
        }
    }

    /// Gives a new stream its key.
    pub fn bind(&mut self, id: u32, key: u32) {
        if let Some(stream) = self.streams.get(id) {
            stream.key = key;
        }
    }

    /// Writes the head of an answer with `status`, without the header `but`. `end`: no body follows. False if
    /// the stream has ended.
    pub fn answer_with(&mut self, id: u32, head: &Head, status: u16, but: Option<&str>, end: bool) -> bool {
        let Some(stream) = self.streams.get(id).filter(|stream| stream.sent == Direction::Begun) else { return false };
        if status >= 200 {
            stream.sent = Direction::Headed;
        }
        let Self { writer, encoder, .. } = self;
        writer.block(id, end, self.peer.frame, |out| message::write_response(encoder, head, status, but, out));
        if end {
            self.sent_end(id);
        }
        true
    }

    /// Writes a piece of a body, as far as the windows allow; answers how much was taken.
    ///
    /// # Errors
    /// If the stream has ended.
    pub fn write(&mut self, id: u32, piece: &[u8]) -> Result<usize, Wrong> {
        let (frame_max, side, window) = (self.peer.frame, self.side, self.peer.window);
        let Some(stream) = self.streams.get(id).filter(|stream| stream.sent == Direction::Headed) else {
            return Err(Wrong(code::STREAM_CLOSED));
        };
        let curbed = if side == Side::Server { stream.curbed(window) } else { i64::MAX };
        let allowed = usize::try_from(stream.send.min(self.windows.0).min(curbed)).unwrap_or(0);
        let taken = piece.len().min(allowed).min(frame_max);
        if taken > 0 {
            stream.send -= taken as i64;
            self.windows.0 -= taken as i64;
            self.writer.body(id, &piece[..taken], frame_max);
        }
        Ok(taken)
    }

    /// Ends this side's direction, with trailers if there are any.
    pub fn end(&mut self, id: u32, trailers: Option<&Fields>) {
        if self.streams.get(id).is_none_or(|stream| stream.sent != Direction::Headed) {
            return;
        }
        match trailers {
            None => self.writer.end(id),
            Some(fields) => {
                let Self { writer, encoder, .. } = self;
                writer.block(id, true, self.peer.frame, |out| message::write_trailers(encoder, fields, out));
            }
        }
        self.sent_end(id);
    }

    fn sent_end(&mut self, id: u32) {
        let Some(stream) = self.streams.get(id) else { return };
        stream.sent = Direction::Ended;
        if stream.got == Direction::Ended {
            self.streams.remove(id);
        }
    }

    /// Resets a stream, unless it has ended.
    pub fn reset(&mut self, id: u32, code: u32) {
        if let Some(stream) = self.streams.remove(id) {
            self.refuse(id, code, stream.got == Direction::Ended);
        }
    }

    /// So much of what came on the stream has been passed on: the peer may send as much again.
    pub fn consume(&mut self, id: u32, bytes: usize) {
        self.discard(bytes);
        let side = self.side;
        if let Some(stream) = self.streams.get(id).filter(|stream| stream.got != Direction::Ended) {
            // What is given back of a request says nothing of its answer.
            let granted = if side == Side::Client { stream.consume(bytes) } else { stream.window.consume(bytes) };
            self.grant(id, granted);
        }
    }

    /// So much came for nobody.
    pub fn discard(&mut self, bytes: usize) {
        let granted = self.windows.1.consume(bytes);
        self.grant(0, granted);
    }

    pub(super) fn grant(&mut self, id: u32, bytes: u32) {
        if bytes > 0 {
            self.writer.frame(kind::WINDOW_UPDATE, 0, id, &bytes.to_be_bytes());
        }
    }

    /// Tells the peer to open no more streams; those that run, and those on their way, are still served. True if
    /// that is news.
    pub fn say_goodbye(&mut self) -> bool {
        if std::mem::replace(&mut self.ids.leaving, true) {
            return false;
        }
        match self.side {
            Side::Client => self.write_goaway(0, code::NO_ERROR),
            Side::Server => {
                self.write_goaway(ID_MAX, code::NO_ERROR);
                self.writer.frame(kind::PING, 0, 0, &GOODBYE_PING);
            }
        }
        true
    }

    /// Serves no streams but those that have come.
    pub fn close_door(&mut self) {
        if self.side == Side::Server && self.ids.last.is_none() {
            self.ids.last = Some(self.ids.heard);
            self.write_goaway(self.ids.heard, code::NO_ERROR);
        }
    }

    /// Whether the last stream of a connection that is leaving has ended.
    pub fn is_over(&self) -> bool {
        let shut = self.side == Side::Client || self.ids.last.is_some();
        self.ids.leaving && shut && self.streams.is_empty()
    }

    /// Tells the peer why the connection ends.
    pub fn give_up(&mut self, code: u32) {
        self.ids.leaving = true;
        self.ids.last = Some(self.ids.heard);
        self.write_goaway(self.ids.heard, code);
    }

    fn write_goaway(&mut self, last: u32, code: u32) {
        let payload = [last.to_be_bytes(), code.to_be_bytes()];
        self.writer.frame(kind::GOAWAY, 0, 0, payload.as_flattened());
    }
}
