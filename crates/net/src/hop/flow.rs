// SPDX-License-Identifier: Apache-2.0
//! One stream, as its exchange sees it: heads and bodies both ways, like the other wires. What can't be
//! written for want of credit or room stays here. A flow dropped before both directions ended resets its
//! stream.

use super::link::{Link, State};
use crate::http::{Answered, Chunk, Error, Progress, Sink, scratch};
use byrnie_base::{Text, assert_size};
use byrnie_codec::h1::Asked;
use byrnie_codec::hop::{
    Asks, FRAME_BYTES_MAX, Frame, Kind, StreamId, code, emit_preamble, emit_request, emit_response, emit_trailers,
    parse_response,
};
use byrnie_codec::{Fields, Framing, Head, Known, Reject, RejectReason};
use std::rc::Rc;
use std::task::{Context, Poll};

/// One stream.
#[derive(Debug)]
pub struct Flow {
    pub(super) link: Rc<Link>,
    pub(super) key: u32,
    pub(super) id: StreamId,
    /// Of whoever opens it, until it's said.
    target: Option<Text>,
    /// Written, and not yet in a frame.
    backlog: Vec<u8>,
    /// How much of the backlog is in frames already.
    framed: usize,
    pub(super) reading: Reading,
    pub(super) writing: Writing,
    end: Fin,
    /// Where in all that the connection sends its first frame begins.
    opened_at: u64,
    /// Bytes handed out whose credit hasn't been given back: they may not have left yet.
    held: usize,
}

assert_size!(Flow, 128);

/// What may still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Nothing,
    Length(u64),
    UntilEnd,
}

/// What may still be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    Nothing,
    Length(u64),
    UntilEnd,
    /// As `UntilEnd`, of a request of which nothing has come yet: its end must not look like "no body".
    Bare,
    /// Nothing, unless the protocol is switched.
    Switching,
}

/// How far this side's end is.
#[derive(Debug)]
enum Fin {
    Open,
    Due(Option<Box<Fields>>),
    Written,
}

impl Flow {
    pub(super) fn new(link: Rc<Link>, key: u32, id: StreamId, target: Option<Text>) -> Self {
        Self {
            link,
            key,
            id,
            target,
            backlog: Vec::new(),
            framed: 0,
            reading: Reading::Nothing,
            writing: Writing::Nothing,
            end: Fin::Open,
            opened_at: u64::MAX,
            held: 0,
        }
    }

    /// From now on bytes pass as they are, in both directions.
    pub(super) fn begin_bytes(&mut self) {
        (self.reading, self.writing) = (Reading::UntilEnd, Writing::UntilEnd);
    }

    /// The stream as an opaque connection, once both sides have left HTTP.
    #[must_use]
    pub fn into_bytes(mut self) -> Self {
        self.begin_bytes();
        self
    }

    /// Serves a request with this head.
    pub(super) fn begin_serving(&mut self, head: &Head) {
        self.reading = match head.framing() {
            // Whoever asks for another protocol has no body to send, but more to say if it's granted.
            _ if head.upgrade().is_some() => Reading::Nothing,
            framing => reading(framing),
        };
    }

    /// Writes the head of a request.
    ///
    /// # Errors
    /// If it is too long for a frame, or the connection is gone.
    pub fn send_request(&mut self, head: &Head) -> Result<(), Error> {
        let target = self.target.take();
        self.writing = match writing(head.framing()) {
            Writing::Nothing | Writing::Length(0) if head.upgrade().is_some() => Writing::Switching,
            Writing::UntilEnd => Writing::Bare,
            other => other,
        };
        if head.header(Known::ByrnieNewcomer).is_some() {
            self.link.0.borrow_mut().session.curb(self.id);
        }
        self.send_head(Kind::Open, |out| {
            emit_preamble(Asks::Exchange, target.as_ref().map_or("", Text::as_str), out);
            emit_request(head, out);
        })
    }

    /// Writes the head of a response.
    ///
    /// # Errors
    /// As [`Flow::send_request`].
    pub fn send_response(&mut self, head: &Head) -> Result<(), Error> {
        let interim = (100..=199).contains(&head.status()) && head.status() != 101;
        if interim {
            return self.send_head(Kind::Interim, |out| emit_response(head, out));
        }
        self.writing = if head.status() == 101 { Writing::UntilEnd } else { writing(head.framing()) };
        self.send_head(Kind::Open, |out| emit_response(head, out))
    }

    fn send_head(&mut self, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        let state = &mut *self.link.0.borrow_mut();
        if state.is_ended() || !state.session.is_open(self.id) || !state.session.may_send_head() {
            return Err(Error::Closed);
        }
        let end = kind == Kind::Open && self.writing == Writing::Nothing;
        self.opened_at = self.opened_at.min(state.writer.position());
        let before = state.writer.waiting().len();
        if !state.writer.head(self.id, kind, end, write) {
            return Err(Error::Reject(Reject::from(RejectReason::HeadTooLarge)));
        }
        state.session.sent(self.id, state.writer.waiting().len() - before - FRAME_HEADER_BYTES);
        if end {
            self.end = Fin::Written;
            state.session.end(self.id);
        }
        state.call_driver();
        Ok(())
    }

    /// Reads the head of a response.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
        head: &mut Head,
    ) -> Poll<Result<Answered, Error>> {
        let mut guard = self.link.0.borrow_mut();
        let state = &mut *guard;
        let limits = state.inward.limits;
        let Some(lane) = state.lanes.get(self.key) else { return Poll::Ready(Err(Error::Closed)) };
        // What is known to have broken off needn't be begun: another try may do better.
        if let Some(error) = lane.fault().filter(|_| !lane.is_refused_late()) {
            return Poll::Ready(Err(error));
        }
        let interim = lane.interims > 0;
        if !interim && !lane.headed {
            lane.wait(cx);
            return Poll::Pending;
        }
        let used = parse_response(lane.unread(), interim, asked, &limits, head)?;
        lane.advance(used);
        let grants = state.session.consume(self.id, used);
        state.grant(self.id, grants);
        drop(guard);
        if interim {
            if let Some(lane) = self.link.0.borrow_mut().lanes.get(self.key) {
                lane.interims -= 1;
            }
            return Poll::Ready(Ok(Answered::Interim));
        }
        self.reading = reading(head.framing());
        if self.writing == Writing::Switching {
            if head.status() == 101 {
                self.begin_bytes();
            } else {
                self.writing = Writing::Nothing;
                self.end(None)?;
            }
        }
        Poll::Ready(Ok(Answered::Final))
    }

    /// Reads a piece of the body.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, sink: &mut Sink<'_>) -> Poll<Result<Progress, Error>> {
        if self.reading == Reading::Nothing {
            return Poll::Ready(Ok(Progress::End(None)));
        }
        let (inbox, from) = {
            let state = &mut *self.link.0.borrow_mut();
            // Whoever asks for more has taken what came before: only now may the other side send as much again.
            let held = std::mem::take(&mut self.held);
            if held > 0 {
                let grants = state.session.consume(self.id, held);
                state.grant(self.id, grants);
            }
            let Some(lane) = state.lanes.get(self.key) else { return Poll::Ready(Err(Error::Closed)) };
            if lane.unread().is_empty() && !lane.has_ended() {
                if let Some(error) = lane.fault() {
                    return Poll::Ready(Err(error));
                }
                lane.wait(cx);
                return Poll::Pending;
            }
            lane.take()
        };
        let fresh = &inbox[from..];
        // Nothing of the connection is borrowed while the other side's wire takes it.
        self.held = fresh.len();
        if let Reading::Length(left) = &mut self.reading {
            *left = left.checked_sub(fresh.len() as u64).ok_or(Error::Length)?;
        }
        let taken = if fresh.is_empty() { Ok(()) } else { sink(cx, Chunk::Slice(fresh)) };
        scratch::recycle(inbox);
        taken?;
        let state = &mut *self.link.0.borrow_mut();
        let Some(lane) = state.lanes.get(self.key) else { return Poll::Ready(Err(Error::Closed)) };
        if !lane.has_ended() {
            return Poll::Ready(Ok(Progress::More));
        }
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Length(left) if left > 0 => Poll::Ready(Err(Error::Length)),
            _ => Poll::Ready(Ok(Progress::End(lane.trailers.take()))),
        }
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// If the body is longer than its head said, or the stream is gone.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        match &mut self.writing {
            _ if piece.is_empty() => return Ok(()),
            Writing::Nothing | Writing::Switching => return Err(Error::Length),
            Writing::Length(left) => *left = left.checked_sub(piece.len() as u64).ok_or(Error::Length)?,
            Writing::Bare => self.writing = Writing::UntilEnd,
            Writing::UntilEnd => {}
        }
        let taken = if self.backlog.is_empty() { self.link.0.borrow_mut().write(self.id, piece)? } else { 0 };
        if taken < piece.len() {
            scratch::keep_long(&mut self.backlog, &piece[taken..]);
        }
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// If it's shorter than its head said.
    pub fn end(&mut self, trailers: Option<&Fields>) -> Result<(), Error> {
        match self.writing {
            Writing::Switching => return Ok(()),
            Writing::Length(left) if left > 0 => {
                self.reset(code::BROKEN);
                return Err(Error::Length);
            }
            _ => {}
        }
        let apart = std::mem::replace(&mut self.writing, Writing::Nothing) == Writing::Bare;
        if !matches!(self.end, Fin::Open) {
            return Ok(());
        }
        let trailers = trailers.filter(|fields| !fields.is_empty());
        if self.backlog.is_empty() {
            self.write_end(&mut self.link.clone().0.borrow_mut(), trailers, apart);
        } else {
            self.end = Fin::Due(trailers.map(|fields| Box::new(fields.clone())));
        }
        Ok(())
    }

    fn write_end(&mut self, state: &mut State, trailers: Option<&Fields>, apart: bool) {
        self.end = Fin::Written;
        if state.is_ended() || !state.session.is_open(self.id) {
            return;
        }
        match trailers {
            None if apart => {
                state.writer.control(Frame { stream: self.id, kind: Kind::Data, end: true, value: 0 });
            }
            None => state.writer.end(self.id),
            Some(trailers) => {
                let before = state.writer.waiting().len();
                // A section too long for a frame was never read: its limit is an eighth of it.
                state.writer.head(self.id, Kind::Trailers, true, |out| emit_trailers(trailers, out));
                state.session.sent(self.id, (state.writer.waiting().len() - before).saturating_sub(FRAME_HEADER_BYTES));
            }
        }
        state.session.end(self.id);
        state.wrote();
    }

    /// Bytes that have come and wait to be read.
    pub fn unread(&self) -> usize {
        self.link.0.borrow_mut().lanes.get(self.key).map_or(0, |lane| lane.unread().len())
    }

    /// Ready once more of a body may be written, with how much that is. What waits must have been flushed.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let state = &mut *self.link.0.borrow_mut();
        // Who has nothing to write, or nobody to write to, needn't wait.
        let over = matches!(self.writing, Writing::Nothing | Writing::Switching)
            || state.is_ended()
            || !state.session.is_open(self.id);
        match state.room(self.id) {
            0 if !over => {}
            // A whole frame and more may go: only who is short counts bytes.
            0 | FRAME_BYTES_MAX => return Poll::Ready(usize::MAX),
            room => return Poll::Ready(room),
        }
        state.wait_for_room(self.key, cx);
        // Room comes of what the other side takes, so what was written up to here mustn't wait for more.
        state.wrote();
        Poll::Pending
    }

    /// Bytes that wait for credit or room.
    pub fn unsent(&self) -> usize {
        self.backlog.len() - self.framed
    }

    /// Whether any byte of the stream may have left.
    pub fn has_sent(&self) -> bool {
        self.link.0.borrow().writer.gone() > self.opened_at
    }

    /// Puts what waits into frames. Ready when all of it is; they leave when the worker has gathered what else
    /// there is.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let link = Rc::clone(&self.link);
        let state = &mut *link.0.borrow_mut();
        if !self.backlog.is_empty() {
            self.framed += state.write(self.id, &self.backlog[self.framed..])?;
            if self.framed < self.backlog.len() {
                // What is in frames needn't lie here too, for as long as the rest waits.
                if self.framed > self.backlog.len() / 2 {
                    self.backlog.drain(..std::mem::take(&mut self.framed));
                    self.backlog.shrink_to(2 * self.backlog.len());
                }
                state.wait_for_room(self.key, cx);
                state.wrote();
                return Poll::Pending;
            }
            self.framed = 0;
            scratch::recycle(std::mem::take(&mut self.backlog));
        }
        if let Fin::Due(trailers) = &mut self.end {
            let trailers = trailers.take();
            self.write_end(state, trailers.as_deref(), false);
        }
        state.wrote();
        Poll::Ready(Ok(()))
    }

    /// Ready when the other side has reset the stream or its connection is gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_gone() {
            return Poll::Ready(());
        }
        if let Some(lane) = self.link.0.borrow_mut().lanes.get(self.key) {
            lane.wait(cx);
        }
        Poll::Pending
    }

    /// Whether the other side has reset the stream or its connection is gone.
    pub fn is_gone(&self) -> bool {
        let lanes = &mut self.link.0.borrow_mut().lanes;
        lanes.get(self.key).is_none_or(|lane| lane.fault().is_some() || lane.end == super::lane::End::Complete)
    }

    /// Whether the message to be read has been read to its end.
    pub fn has_read_all(&self) -> bool {
        self.reading == Reading::Nothing
    }

    /// Resets the stream, with one of [`byrnie_codec::hop::code`].
    pub fn reset(&mut self, code: u32) {
        self.backlog.clear();
        self.framed = 0;
        self.end = Fin::Written;
        let state = &mut *self.link.0.borrow_mut();
        if state.session.is_open(self.id) && !state.is_ended() {
            let said = self.opened_at != u64::MAX || state.lanes.get(self.key).is_some_and(|lane| lane.headed);
            state.give_up(self.id, said.then_some(code));
        }
    }

    /// Asks for an opaque connection, or a flow of datagrams. [`Flow::poll_agreed`] tells whether it stands.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn ask_for(&mut self, asks: Asks) -> Result<(), Error> {
        self.begin_bytes();
        let target = self.target.take();
        self.send_head(Kind::Open, |out| {
            emit_preamble(asks, target.as_ref().map_or("", Text::as_str), out);
        })
    }

    /// Says that the opaque connection stands.
    ///
    /// # Errors
    /// If the stream is gone.
    pub fn agree(&mut self) -> Result<(), Error> {
        self.send_head(Kind::Open, |_| {})
    }

    /// Ready when the other side has said that the opaque connection stands, or why it doesn't.
    pub fn poll_agreed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let state = &mut *self.link.0.borrow_mut();
        let Some(lane) = state.lanes.get(self.key) else { return Poll::Ready(Err(Error::Closed)) };
        match lane.fault() {
            _ if lane.headed => Poll::Ready(Ok(())),
            Some(error) => Poll::Ready(Err(error)),
            None => {
                lane.wait(cx);
                Poll::Pending
            }
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let Ok(mut guard) = self.link.0.try_borrow_mut() else { return };
        let state = &mut *guard;
        let lane = state.lanes.remove(self.key);
        let unread = lane.as_ref().map_or(0, |lane| lane.unread().len());
        let headed = lane.as_ref().is_some_and(|lane| lane.headed);
        let back = state.session.discard(self.held + unread);
        state.grant(self.id, byrnie_codec::hop::Grants { stream: 0, connection: back });
        if state.session.is_open(self.id) && !state.is_ended() {
            // After a complete answer the rest of what was asked is of no interest.
            let done = matches!(self.end, Fin::Written);
            let code = if done && headed { code::DONE } else { code::CANCEL };
            state.give_up(self.id, (self.opened_at != u64::MAX || headed).then_some(code));
        }
        if let Some(mut lane) = lane {
            scratch::recycle(lane.take().0);
        }
        // The last stream of a connection that is leaving is waited for.
        if state.session.is_leaving() {
            state.call_driver();
        }
        drop(guard);
        scratch::recycle(std::mem::take(&mut self.backlog));
    }
}

/// Bytes of a frame before its payload.
const FRAME_HEADER_BYTES: usize = 8;

const fn reading(framing: Framing) -> Reading {
    match framing {
        Framing::None => Reading::Nothing,
        Framing::Length(length) => Reading::Length(length),
        Framing::Chunked | Framing::UntilClose | Framing::Stream => Reading::UntilEnd,
    }
}

const fn writing(framing: Framing) -> Writing {
    match framing {
        Framing::None => Writing::Nothing,
        // Of a length of 0 too the end is said when it has come: what follows may belie it.
        Framing::Length(length) => Writing::Length(length),
        Framing::Chunked | Framing::UntilClose | Framing::Stream => Writing::UntilEnd,
    }
}
