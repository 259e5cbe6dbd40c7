// SPDX-License-Identifier: Apache-2.0
//! One connection as what comes on it goes: which streams are open, how far each direction is, what the windows
//! allow, and whether a peer keeps the rules. Bytes go in, [`Event`]s come out; what is to be sent waits in
//! [`Session::waiting`]. What goes out on streams is in `send`.

use super::frame::{Frame, flag, kind};
use super::hpack::{Decoder, Encoder};
use super::message::{self, Blocks, Flaw};
use super::reader::{Piece, Reader};
use super::settings::{self, Settings};
use super::streams::{Direction, Stream, Streams};
use super::writer::Writer;
use super::{
    BLOCK_BYTES_MAX, CONNECTION_WINDOW_BYTES, CONTINUATIONS_MAX, INITIAL_WINDOW_BYTES, INTERIMS_MAX, PROXY_STREAMS_MAX,
    RESETS_FOR_ERRORS_MAX, STARVED_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX, WINDOW_BYTES_MAX, WINDOW_SMALL_BYTES, Wrong,
    code,
};
use crate::fields::Fields;
use crate::head::{Framing, HEAD_KEPT_BYTES_MAX, Head};
use crate::hop::{CURB_BYTES, Window};
use crate::reject::{Reject, RejectReason};
use std::borrow::Cow;

/// Heads kept for messages to come: one for each stream that a connection may have ...
const HEADS_SPARE_MAX: usize = STREAMS_MAX as usize;
/// ... but no more bytes than these in all, for as long as the connection lasts.
const SPARES_BYTES_MAX: usize = 64 * 1024;
/// The payload of the PING that tells that a goodbye has been heard.
pub(super) const GOODBYE_PING: [u8; 8] = *b"goodbye?";

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It opens the streams.
    Client,
    /// It serves them.
    Server,
}

/// What came. `key` is what the stream's owner calls it by.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request on a new stream, or why it is to be refused. The stream is to be given a key with [`Session::bind`].
    Opened {
        /// The stream.
        id: u32,
        /// The request. Give the memory back with [`Session::reuse`].
        head: Result<Box<Head>, Reject>,
        /// No body follows.
        ended: bool,
    },
    /// A request that was none: its stream was reset.
    Malformed {
        /// The rule that it broke.
        reason: RejectReason,
    },
    /// An answer, or an interim one.
    Answered {
        /// Whose it is.
        key: u32,
        /// Its head. Give the memory back with [`Session::reuse`].
        head: Box<Head>,
        /// A final one follows.
        interim: bool,
        /// No body follows.
        ended: bool,
    },
    /// A piece of a body. Say [`Session::consume`] when it has been passed on.
    Body {
        /// Whose it is.
        key: u32,
        /// The piece; may be empty.
        bytes: &'a [u8],
        /// It was the last, and there are no trailers.
        ended: bool,
    },
    /// The body has ended with these.
    Trailers {
        /// Whose they are.
        key: u32,
        /// The lines. Give memory back with [`Session::reuse_trailers`].
        fields: Box<Fields>,
    },
    /// The stream has ended in both directions.
    Reset {
        /// Which one.
        key: u32,
        /// Why.
        why: Why,
    },
    /// More may be sent on a stream, or (none) perhaps on any.
    Room {
        /// Which one.
        key: Option<u32>,
    },
    /// The peer's SETTINGS have come.
    Settled,
    /// The peer opens no more streams, or wants none.
    Goodbye,
}

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The peer did, with this code.
    Peer {
        /// One of [`code`], or any other.
        code: u32,
        /// What it had to say had come as a whole.
        complete: bool,
    },
    /// The peer did nothing with it.
    Refused,
    /// What the peer sent is no message.
    Malformed(Reject),
    /// What the peer sent breaks a rule of the stream; the code of that.
    Broken(u32),
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    pub(super) side: Side,
    reader: Reader,
    decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) writer: Writer,
    pub(super) streams: Streams,
    pub(super) peer: Settings,
    /// What may be sent on the connection, and what may come.
    pub(super) windows: (i64, Window),
    pub(super) ids: Ids,
    /// The header block under way.
    block: Option<Block>,
    spare: Spare,
    /// Streams that we reset for the peer's errors.
    faults: u32,
}

/// Numbers of streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    /// The highest that the peer opened.
    pub(super) heard: u32,
    /// The next that we open.
    pub(super) next: u32,
    /// The highest that we said we serve, if we said so.
    pub(super) last: Option<u32>,
    /// We said goodbye, or the peer did.
    pub(super) leaving: bool,
}

/// A header block that isn't whole.
#[derive(Debug)]
struct Block {
    id: u32,
    end: bool,
    /// Its priority depends on itself.
    flawed: bool,
    bytes: Vec<u8>,
    frames: u32,
}

/// Memory to be used again.
#[derive(Debug, Default)]
struct Spare {
    #[expect(clippy::vec_box, reason = "heads change hands, and a box is moved at a sixteenth of the price")]
    heads: Vec<Box<Head>>,
    /// What these keep beside themselves.
    bytes: usize,
    path: Vec<u8>,
    trailers: Option<Box<Fields>>,
}

/// A body that isn't as long as its head says: a request's is malformed, an answer's broken off.
fn wrong_length(side: Side) -> Why {
    match side {
        Side::Server => Why::Malformed(RejectReason::ContentLength.into()),
        Side::Client => Why::Broken(code::PROTOCOL_ERROR),
    }
}

type Came<'a> = Result<Option<Event<'a>>, Wrong>;

impl Session {
    /// A fresh connection; its SETTINGS wait to be sent.
    pub fn new(side: Side) -> Self {
        Self::with(side, Streams::new(STREAMS_MAX, false))
    }

    /// The same that serves another proxy of the mesh, which may have [`PROXY_STREAMS_MAX`] open.
    pub fn for_proxy() -> Self {
        Self::with(Side::Server, Streams::new(PROXY_STREAMS_MAX, false))
    }

    /// The same to a server that is no proxy and near: streams begin with windows of [`CURB_BYTES`]. Of those that aren't curbed they
    /// grow with the first message that isn't small.
    pub fn narrow() -> Self {
        Self::with(Side::Client, Streams::new(STREAMS_MAX, true))
    }

    fn with(side: Side, streams: Streams) -> Self {
        let mut session = Self {
            side,
            reader: Reader::new(side == Side::Server),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            writer: Writer::default(),
            streams,
            peer: Settings::new(),
            windows: (i64::from(INITIAL_WINDOW_BYTES), Window::new(CONNECTION_WINDOW_BYTES)),
            ids: Ids { heard: 0, next: 1, last: None, leaving: false },
            block: None,
            spare: Spare::default(),
            faults: 0,
        };
        session.greet();
        session
    }

    fn greet(&mut self) {
        if self.side == Side::Client {
            self.writer.raw(crate::sniff::PREFACE);
        }
        let window = if self.streams.narrow { CURB_BYTES } else { STREAM_WINDOW_BYTES };
        self.writer.frame(kind::SETTINGS, 0, 0, &settings::own(self.side, self.streams.most, window));
        self.grant(0, CONNECTION_WINDOW_BYTES - INITIAL_WINDOW_BYTES);
    }

    /// Takes what came, up to the next event; none once all of `rest` was taken.
    ///
    /// # Errors
    /// If the peer broke a rule: say so with [`Session::give_up`], and close.
    pub fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Came<'a> {
        while let Some(piece) = self.reader.next(rest)? {
            let event = match piece {
                Piece::Whole(frame, payload) => {
                    let event = self.whole(&frame, &payload)?;
                    if let Cow::Owned(memory) = payload {
                        self.reader.reuse(memory);
                    }
                    event
                }
                Piece::Body { frame, first, bytes, last } => self.body(&frame, first, bytes, last)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn whole(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        self.check_order(frame)?;
        match frame.kind {
            kind::HEADERS => self.headers(frame, payload),
            kind::CONTINUATION => self.continuation(frame, payload),
            kind::PRIORITY => self.priority(frame, payload),
            kind::RST_STREAM => self.reset_came(frame, payload),
            kind::SETTINGS => self.settings(frame, payload),
            kind::PING => self.ping(frame, payload),
            kind::GOAWAY => self.goaway(frame, payload),
            kind::WINDOW_UPDATE => self.window_update(frame, payload),
            kind::PUSH_PROMISE => Err(Wrong(code::PROTOCOL_ERROR)),
            _ => Ok(None),
        }
    }

    /// A block goes on until its end (RFC 9113 4.3); SETTINGS come first of all (3.4).
    fn check_order(&self, frame: &Frame) -> Result<(), Wrong> {
        let block = self.block.as_ref().map(|block| block.id);
        let continues = (frame.kind == kind::CONTINUATION).then_some(frame.stream);
        let first = self.peer.heard || frame.kind == kind::SETTINGS && !frame.has(flag::ACK);
        if block != continues || !first { Err(Wrong(code::PROTOCOL_ERROR)) } else { Ok(()) }
    }

    fn headers(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        let mut part = payload;
        if frame.has(flag::PADDED) {
            let (padding, rest) = part.split_first().ok_or(Wrong(code::FRAME_SIZE_ERROR))?;
            let length = rest.len().checked_sub(usize::from(*padding)).ok_or(Wrong(code::PROTOCOL_ERROR))?;
            part = &rest[..length];
        }
        let mut flawed = false;
        if frame.has(flag::PRIORITY) {
            let (priority, rest) = part.split_first_chunk::<5>().ok_or(Wrong(code::FRAME_SIZE_ERROR))?;
            flawed = depends_on(priority) == frame.stream;
            part = rest;
        }
        if frame.stream == 0 {
            return Err(Wrong(code::PROTOCOL_ERROR));
        }
        let (id, end) = (frame.stream, frame.has(flag::END_STREAM));
        if frame.has(flag::END_HEADERS) {
            return self.block(id, end, flawed, part);
        }
        self.block = Some(Block { id, end, flawed, bytes: part.to_vec(), frames: 0 });
        Ok(None)
    }

    fn continuation(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        let Some(mut block) = self.block.take() else { return Err(Wrong(code::PROTOCOL_ERROR)) };
        block.frames += 1;
        block.bytes.extend_from_slice(payload);
        if block.frames > CONTINUATIONS_MAX || block.bytes.len() > BLOCK_BYTES_MAX {
            return Err(Wrong(code::ENHANCE_YOUR_CALM));
        }
        if frame.has(flag::END_HEADERS) {
            return self.block(block.id, block.end, block.flawed, &block.bytes);
        }
        self.block = Some(block);
        Ok(None)
    }

    /// A header block is whole.
    fn block(&mut self, id: u32, end: bool, flawed: bool, block: &[u8]) -> Came<'static> {
        let event = match self.streams.get(id).copied() {
            // RFC 9113 5.1.
            Some(stream) if stream.got == Direction::Ended => Err(Wrong(code::STREAM_CLOSED)),
            Some(stream) if stream.got == Direction::Headed => self.trailers(id, &stream, end, block),
            Some(stream) => self.answer(id, &stream, end, block),
            None if self.side == Side::Server && id % 2 == 1 && id > self.ids.heard => self.request(id, end, block),
            None if self.is_given_up(id) => {
                // It was on its way when we reset the stream.
                self.decoder.read(block, |_| {})?;
                Ok(None)
            }
            None if self.is_idle(id) => Err(Wrong(code::PROTOCOL_ERROR)),
            None => Err(Wrong(code::STREAM_CLOSED)),
        };
        if flawed && event.is_ok() && self.streams.has(id) {
            return self.fault(id, code::PROTOCOL_ERROR, Why::Broken(code::PROTOCOL_ERROR));
        }
        event
    }

    fn request(&mut self, id: u32, end: bool, block: &[u8]) -> Came<'static> {
        self.ids.heard = id;
        let mut head = self.spare_head();
        let read = message::read_request(&mut self.decoder, block, end, &mut head, &mut self.spare.path)?;
        let full = self.streams.len() >= self.streams.most as usize || self.is_starved();
        if full || self.ids.last.is_some_and(|last| id > last) {
            self.reuse(head);
            self.refuse(id, code::REFUSED_STREAM, end);
            return Ok(None);
        }
        let mut stream = Stream::new(u32::MAX, self.peer.window);
        stream.got = if end { Direction::Ended } else { Direction::Headed };
        let head = match read {
            Err(Flaw::Malformed(reject)) => {
                self.reuse(head);
                self.refuse(id, code::PROTOCOL_ERROR, end);
                return self.count_fault(Some(Event::Malformed { reason: reject.reason }));
            }
            Err(Flaw::Refused(reject)) => {
                self.reuse(head);
                Err(reject)
            }
            Ok(()) => {
                stream.left = length(&head);
                Ok(head)
            }
        };
        self.streams.add(id, stream);
        Ok(Some(Event::Opened { id, head, ended: end }))
    }

    /// Whether the peer's windows are so small that what it asks for now would lie here, as what it asked for before does.
    fn is_starved(&mut self) -> bool {
        if i64::from(self.peer.window) >= WINDOW_SMALL_BYTES {
            return false;
        }
        self.streams.all().filter(|stream| stream.send < WINDOW_SMALL_BYTES).count() >= STARVED_MAX
    }

    fn answer(&mut self, id: u32, stream: &Stream, end: bool, block: &[u8]) -> Came<'static> {
        let mut head = self.spare_head();
        let read = message::read_response(&mut self.decoder, block, end, &mut head)?;
        let interim = (100..=199).contains(&head.status());
        if let Err(flaw) = read {
            self.reuse(head);
            return self.fault(id, code::PROTOCOL_ERROR, Why::Malformed(flaw.reject()));
        }
        let lacks = end && !stream.heading && head.status() != 304 && head.declared_length().is_some_and(|n| n > 0);
        if interim && (end || stream.interims >= INTERIMS_MAX) || lacks {
            self.reuse(head);
            return self.fault(id, code::PROTOCOL_ERROR, Why::Broken(code::PROTOCOL_ERROR));
        }
        let Some(stream) = self.streams.get(id) else { return Ok(None) };
        let key = stream.key;
        if interim {
            stream.interims += 1;
        } else {
            stream.got = Direction::Headed;
            stream.left = if stream.heading { Some(0) } else { length(&head) };
        }
        if end {
            self.got_end(id);
        }
        Ok(Some(Event::Answered { key, head, interim, ended: end }))
    }

    fn trailers(&mut self, id: u32, stream: &Stream, end: bool, block: &[u8]) -> Came<'static> {
        let key = stream.key;
        let mut fields = self.spare.trailers.take().unwrap_or_default();
        match message::read_trailers(&mut self.decoder, block, self.side == Side::Server, &mut fields)? {
            Ok(()) if end && stream.left.is_none_or(|left| left == 0) => {
                self.got_end(id);
                Ok(Some(Event::Trailers { key, fields }))
            }
            Err(flaw) if end => self.fault(id, code::PROTOCOL_ERROR, Why::Malformed(flaw.reject())),
            _ => self.fault(id, code::PROTOCOL_ERROR, Why::Broken(code::PROTOCOL_ERROR)),
        }
    }

    fn body<'a>(&mut self, frame: &Frame, first: Option<usize>, bytes: &'a [u8], last: bool) -> Came<'a> {
        let id = frame.stream;
        if let Some(length) = first
            && let Some(event) = self.begin_body(frame, length)?
        {
            // What of the frame follows is nobody's.
            self.discard(bytes.len());
            return Ok(Some(event));
        }
        let ended = last && frame.has(flag::END_STREAM);
        let Some(stream) = self.streams.get(id).filter(|stream| stream.got == Direction::Headed) else {
            self.discard(bytes.len());
            return Ok(None);
        };
        let key = stream.key;
        if let Some(left) = &mut stream.left {
            *left = left.saturating_sub(bytes.len() as u64);
            if ended && *left > 0 {
                self.discard(bytes.len());
                return self.fault(id, code::PROTOCOL_ERROR, wrong_length(self.side));
            }
        }
        if ended {
            self.got_end(id);
        }
        Ok(Some(Event::Body { key, bytes, ended }))
    }

    /// A DATA frame has begun, of so many bytes without its padding. Answers with the end of its stream, if that
    /// is what it comes to.
    fn begin_body(&mut self, frame: &Frame, length: usize) -> Came<'static> {
        self.check_order(frame)?;
        let id = frame.stream;
        if id == 0 {
            return Err(Wrong(code::PROTOCOL_ERROR));
        }
        let window = &mut self.windows.1;
        if window.left() < frame.length as i64 {
            return Err(Wrong(code::FLOW_CONTROL_ERROR));
        }
        window.receive(frame.length);
        // Padding is passed on at once.
        self.discard(frame.length - length);
        let Some(stream) = self.streams.get(id) else {
            return match (self.is_idle(id), self.is_given_up(id)) {
                (true, _) => Err(Wrong(code::PROTOCOL_ERROR)),
                (false, true) => Ok(None),
                (false, false) => {
                    self.refuse(id, code::STREAM_CLOSED, false);
                    self.count_fault(None)
                }
            };
        };
        let broken = match stream.got {
            Direction::Ended => return Err(Wrong(code::STREAM_CLOSED)),
            Direction::Begun => Some((code::PROTOCOL_ERROR, Why::Broken(code::PROTOCOL_ERROR))),
            Direction::Headed if stream.window.left() + stream.leeway() < frame.length as i64 => {
                Some((code::FLOW_CONTROL_ERROR, Why::Broken(code::FLOW_CONTROL_ERROR)))
            }
            Direction::Headed if stream.left.is_some_and(|left| left < length as u64) => {
                Some((code::PROTOCOL_ERROR, wrong_length(self.side)))
            }
            Direction::Headed => None,
        };
        stream.window.receive(frame.length);
        let granted = stream.consume(frame.length - length) + stream.widen();
        if let Some((code, why)) = broken {
            return self.fault(id, code, why);
        }
        self.grant(id, granted);
        Ok(None)
    }

    fn priority(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        let (Ok(priority), 1..) = (<&[u8; 5]>::try_from(payload), frame.stream) else {
            return Err(Wrong(if frame.stream == 0 { code::PROTOCOL_ERROR } else { code::FRAME_SIZE_ERROR }));
        };
        if depends_on(priority) != frame.stream {
            return Ok(None);
        }
        self.fault(frame.stream, code::PROTOCOL_ERROR, Why::Broken(code::PROTOCOL_ERROR))
    }

    fn reset_came(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        let code = number(payload)?;
        if self.is_idle(frame.stream) {
            return Err(Wrong(code::PROTOCOL_ERROR));
        }
        let Some(stream) = self.streams.remove(frame.stream) else { return Ok(None) };
        let why = match code {
            code::REFUSED_STREAM => Why::Refused,
            _ => Why::Peer { code, complete: stream.got == Direction::Ended },
        };
        Ok(Some(Event::Reset { key: stream.key, why }))
    }

    fn settings(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        if frame.stream != 0 {
            return Err(Wrong(code::PROTOCOL_ERROR));
        }
        if frame.has(flag::ACK) {
            self.streams.heard = true;
            return if payload.is_empty() { Ok(None) } else { Err(Wrong(code::FRAME_SIZE_ERROR)) };
        }
        let before = self.peer.window;
        self.peer.take(payload, self.side)?;
        self.encoder.allow(self.peer.table);
        let change = i64::from(self.peer.window) - i64::from(before);
        for stream in self.streams.all() {
            stream.send += change;
            if stream.send > WINDOW_BYTES_MAX {
                return Err(Wrong(code::FLOW_CONTROL_ERROR));
            }
        }
        self.writer.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(Some(Event::Settled))
    }

    fn ping(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        if frame.stream != 0 {
            return Err(Wrong(code::PROTOCOL_ERROR));
        }
        if payload.len() != 8 {
            return Err(Wrong(code::FRAME_SIZE_ERROR));
        }
        if !frame.has(flag::ACK) {
            self.writer.frame(kind::PING, flag::ACK, 0, payload);
        } else if payload == GOODBYE_PING && self.ids.leaving {
            self.close_door();
        }
        Ok(None)
    }

    fn goaway(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        if frame.stream != 0 {
            return Err(Wrong(code::PROTOCOL_ERROR));
        }
        let Some(([last, reason], _)) = payload.split_first_chunk::<8>().map(|(head, rest)| (halves(*head), rest))
        else {
            return Err(Wrong(code::FRAME_SIZE_ERROR));
        };
        self.ids.leaving = true;
        if self.side == Side::Server {
            return Ok(Some(Event::Goodbye));
        }
        self.ids.last = Some(last & i32::MAX as u32);
        // A server that ends for an error of ours, as it says, ends for all of its streams.
        if reason == code::NO_ERROR { Ok(Some(Event::Goodbye)) } else { Err(Wrong(code::NO_ERROR)) }
    }

    /// Keys of the streams that the peer's goodbye leaves out: nothing was done with them.
    pub fn take_refused(&mut self) -> Vec<u32> {
        match (self.side, self.ids.last) {
            (Side::Client, Some(last)) => self.streams.take_above(last),
            _ => Vec::new(),
        }
    }

    fn window_update(&mut self, frame: &Frame, payload: &[u8]) -> Came<'static> {
        let more = i64::from(number(payload)? & i32::MAX as u32);
        let id = frame.stream;
        if more == 0 || id != 0 && self.is_idle(id) {
            return Err(Wrong(code::PROTOCOL_ERROR));
        }
        if id == 0 {
            self.windows.0 += more;
            return if self.windows.0 > WINDOW_BYTES_MAX {
                Err(Wrong(code::FLOW_CONTROL_ERROR))
            } else {
                Ok(Some(Event::Room { key: None }))
            };
        }
        let Some(stream) = self.streams.get(id) else { return Ok(None) };
        stream.send += more;
        if self.side == Side::Server {
            stream.curb = stream.curb.saturating_sub(u32::try_from(more).unwrap_or(u32::MAX));
        }
        let key = Some(stream.key);
        if stream.send > WINDOW_BYTES_MAX {
            return self.fault(id, code::FLOW_CONTROL_ERROR, Why::Broken(code::FLOW_CONTROL_ERROR));
        }
        Ok(Some(Event::Room { key }))
    }

    /// Whether nobody has opened this stream yet. 0 is no stream, and never opened.
    fn is_idle(&self, id: u32) -> bool {
        let ours = id % 2 == 1;
        match self.side {
            Side::Server => !ours || id > self.ids.heard,
            Side::Client => !ours || id >= self.ids.next,
        }
    }

    /// Whether what comes on a stream that isn't open any more may have been on its way when we reset it. Of all of ours up to the last
    /// one that was forgotten that is taken for granted: deadlines that pass at one moment reset any number, and what a server writes
    /// before it reads of that is no fault of its own. A client, who opens streams at will, is held to those that are remembered.
    fn is_given_up(&self, id: u32) -> bool {
        self.streams.was_reset(id)
            || self.side == Side::Client && !self.is_idle(id) && self.streams.may_have_been_reset(id)
    }

    /// The peer's direction has ended.
    fn got_end(&mut self, id: u32) {
        let Some(stream) = self.streams.get(id) else { return };
        stream.got = Direction::Ended;
        if stream.sent == Direction::Ended {
            self.streams.remove(id);
        }
    }

    /// Resets a stream for what the peer did on it.
    fn fault(&mut self, id: u32, code: u32, why: Why) -> Came<'static> {
        let stream = self.streams.remove(id);
        self.refuse(id, code, stream.is_some_and(|stream| stream.got == Direction::Ended));
        // Of a stream that nobody was told of nobody needs to hear.
        let known = stream.filter(|stream| stream.key != u32::MAX);
        self.count_fault(known.map(|stream| Event::Reset { key: stream.key, why }))
    }

    fn count_fault(&mut self, event: Option<Event<'static>>) -> Came<'static> {
        self.faults += 1;
        if self.faults > RESETS_FOR_ERRORS_MAX { Err(Wrong(code::ENHANCE_YOUR_CALM)) } else { Ok(event) }
    }

    /// Writes RST_STREAM. `ended`: the peer has nothing more to send on it.
    pub(super) fn refuse(&mut self, id: u32, code: u32, ended: bool) {
        self.writer.frame(kind::RST_STREAM, 0, id, &code.to_be_bytes());
        if !ended {
            self.streams.note_reset(id);
        }
    }

    /// Gives the memory of a head back.
    pub fn reuse(&mut self, head: Box<Head>) {
        let (spare, bytes) = (&mut self.spare, head.kept_bytes());
        if spare.heads.len() < HEADS_SPARE_MAX
            && bytes <= HEAD_KEPT_BYTES_MAX
            && spare.bytes + bytes <= SPARES_BYTES_MAX
        {
            spare.bytes += bytes;
            spare.heads.push(head);
        }
    }

    /// Gives memory for trailers back: these or others, no more than is to be kept for as long as the connection lasts.
    pub fn reuse_trailers(&mut self, mut fields: Box<Fields>) {
        fields.clear();
        self.spare.trailers = Some(fields);
    }

    /// A head to be filled.
    fn spare_head(&mut self) -> Box<Head> {
        let head = self.spare.heads.pop().unwrap_or_default();
        self.spare.bytes -= head.kept_bytes();
        head
    }
}

/// What a body must come to, if its head says so.
fn length(head: &Head) -> Option<u64> {
    match head.framing() {
        Framing::Length(length) => Some(length),
        Framing::None => Some(0),
        _ => None,
    }
}

/// The stream that a priority is given below (RFC 7540 5.3.1).
fn depends_on(priority: &[u8; 5]) -> u32 {
    let [a, b, c, d, _] = *priority;
    u32::from_be_bytes([a & 0x7f, b, c, d])
}

fn number(payload: &[u8]) -> Result<u32, Wrong> {
    let bytes = <[u8; 4]>::try_from(payload).map_err(|_| Wrong(code::FRAME_SIZE_ERROR))?;
    Ok(u32::from_be_bytes(bytes))
}

fn halves([a, b, c, d, e, f, g, h]: [u8; 8]) -> [u32; 2] {
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}
