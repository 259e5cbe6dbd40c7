// SPDX-License-Identifier: Apache-2.0
//! One stream, as its exchange sees it: heads and bodies both ways, like the other wires. What can't be
//! written for want of a window or room stays here. A flow dropped before both directions ended resets its
//! stream.

use super::client::Open;
use super::lane::End;
use super::link::{Link, State};
use super::tunnel::{self, Switch};
use super::{CANCEL, Sender, Tube, UNREAD_BYTES_MAX};
use crate::http::{Answered, Chunk, Error, Progress, Sink, scratch, websocket};
use byrnie_base::assert_size;
use byrnie_codec::h2::code::NO_ERROR;
use byrnie_codec::{Fields, Framing, Head, Known, Reject};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// One HTTP/2 stream.
#[derive(Debug)]
pub struct Flow {
    pub(super) link: Rc<Link>,
    /// Its lane; of no meaning before the request is written.
    pub(super) key: u32,
    /// The stream's number; 0 before the request is written.
    pub(super) id: u32,
    /// Of a request of ours: its place in the count of its connection.
    opened: Option<Open>,
    /// Written, and not yet in a frame.
    backlog: Vec<u8>,
    /// How much of the backlog is in frames already.
    framed: usize,
    fin: Fin,
    /// Nothing more is to be read.
    pub(super) read_all: bool,
    /// Bytes handed out whose window hasn't been given back: they may not have left yet.
    held: usize,
    /// Whether it leaves HTTP.
    switch: Switch,
}

// It stands in its exchange, in no box of its own.
assert_size!(Flow, 128);

/// How far this side's end is.
#[derive(Debug)]
enum Fin {
    Open,
    Due(Option<Box<Fields>>),
    Written,
}

impl Flow {
    fn new(link: Rc<Link>, key: u32, id: u32, opened: Option<Open>) -> Self {
        let (backlog, fin, switch) = (Vec::new(), Fin::Open, Switch::Not);
        Self { link, key, id, opened, backlog, framed: 0, fin, read_all: false, held: 0, switch }
    }

    /// A client's stream.
    pub(super) fn accepted(link: Rc<Link>, key: u32, id: u32) -> Self {
        Self::new(link, key, id, None)
    }

    /// A stream to a server, before its request is written.
    pub(super) fn opened(link: Rc<Link>, opened: Open) -> Self {
        Self::new(link, u32::MAX, 0, Some(opened))
    }

    /// Writes the head of a request.
    ///
    /// # Errors
    /// If the stream can't be opened.
    pub fn send_request(&mut self, head: &Head) -> Result<(), Error> {
        self.switch = Switch::of(head);
        let asked = self.switch.is_asked();
        let connect = asked.then_some((websocket::PROTOCOL, websocket::KEY));
        let end = is_bodiless(head) && !asked;
        let state = &mut *self.link.0.borrow_mut();
        // Another place may have been taken since it was seen to be free.
        if state.is_ended() || state.session.waiting().len() >= UNREAD_BYTES_MAX {
            return Err(Error::Refused);
        }
        let key = state.lanes.next_key();
        self.id = state.session.ask(key, head, connect, end).ok_or(Error::Refused)?;
        self.key = state.lanes.add(End::Open);
        // The other proxy is told so, too, and goes by what is given back.
        if head.header(Known::ByrnieNewcomer).is_some() {
            state.session.curb(self.id);
        }
        if end {
            self.fin = Fin::Written;
        }
        state.wrote();
        Ok(())
    }

    /// The answer is for a newcomer: little of it comes before it's passed on.
    pub(in crate::http) fn curb(&mut self) {
        self.link.0.borrow_mut().session.curb(self.id);
    }

    /// Writes the head of a response.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn send_response(&mut self, head: &Head) -> Result<(), Error> {
        let switches = head.status() == 101 && self.switch.is_asked();
        let (status, but) = if switches { (200, Some(websocket::ACCEPT)) } else { (head.status(), None) };
        let interim = (100..=199).contains(&status);
        let end = is_bodiless(head) && !switches && !interim;
        let state = &mut *self.link.0.borrow_mut();
        if state.is_ended() || !state.session.answer_with(self.id, head, status, but, end) {
            return Err(Error::Closed);
        }
        if !interim {
            self.switch = if switches { Switch::Done } else { Switch::Not };
        }
        if end {
            self.fin = Fin::Written;
            state.note_answered();
        }
        state.wrote();
        Ok(())
    }

    /// Reads the head of the response.
    pub fn poll_response(&mut self, cx: &mut Context<'_>, head: &mut Head) -> Poll<Result<Answered, Error>> {
        let interim = {
            let state = &mut *self.link.0.borrow_mut();
            let Some(lane) = state.lanes.get(self.key) else { return Poll::Ready(Err(Error::Closed)) };
            // What is known to have broken off needn't be begun: another try may do better.
            if let Some(error) = lane.fault().filter(|_| !lane.has_begun()) {
                return Poll::Ready(Err(error));
            }
            let Some((mut came, interim)) = lane.heads.pop_front() else {
                if lane.has_ended() {
                    return Poll::Ready(Err(Error::Closed));
                }
                lane.wait(cx);
                return Poll::Pending;
            };
            std::mem::swap(head, &mut *came);
            state.session.reuse(came);
            interim
        };
        if interim {
            return Poll::Ready(Ok(Answered::Interim));
        }
        match self.switch {
            Switch::Asked { .. } if self.switch.is_agreed_by(head) => self.switch.agree(head)?,
            Switch::Asked { .. } => {
                self.switch = Switch::Not;
                self.end(None)?;
            }
            Switch::Not | Switch::Done => {}
        }
        Poll::Ready(Ok(Answered::Final))
    }

    /// Ready with whether `request` may ask for its protocol here: a WebSocket's handshake may, once the server has
    /// said that it takes them (RFC 8441 3).
    pub fn poll_offers_switch(&self, cx: &mut Context<'_>, request: &Head) -> Poll<bool> {
        if !websocket::is_handshake(request) {
            return Poll::Ready(false);
        }
        let state = &mut *self.link.0.borrow_mut();
        match state.session.offers_connect() {
            Some(offers) => Poll::Ready(offers),
            None if state.is_ended() => Poll::Ready(false),
            None => {
                state.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Serves a request with this head.
    pub(super) fn serve(&mut self, head: &mut Head) -> Result<(), Reject> {
        if head.upgrade().is_some() {
            tunnel::ask(head)?;
            self.switch = Switch::of(head);
            if let Switch::Asked { told, .. } = &mut self.switch {
                let proxy = self.link.0.borrow().guard.sender == Sender::Proxy;
                *told = proxy && head.get(websocket::OVERLOOKED).is_some();
            }
            head.remove(websocket::OVERLOOKED);
        }
        Ok(())
    }

    /// Whether `response` may be handed on.
    pub(in crate::http) fn may_be_answered_by(&self, response: &Head) -> bool {
        self.switch.may_be_answered_by(response)
    }

    /// See [`Wire::mark_overlooked`](crate::http::Wire::mark_overlooked).
    pub(in crate::http) fn mark_overlooked(&self, response: &mut Head) -> Result<(), Reject> {
        self.switch.mark_overlooked(response)
    }

    /// The stream as an opaque connection, if it has left HTTP.
    pub(in crate::http) fn into_tube(self) -> Option<Tube> {
        matches!(self.switch, Switch::Done).then(|| self.into())
    }

    /// Reads a piece of the body.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, sink: &mut Sink<'_>) -> Poll<Result<Progress, Error>> {
        if self.read_all || !matches!(self.switch, Switch::Not) {
            // Whoever asks for another protocol has no body to send, but more to say if it's granted.
            return Poll::Ready(Ok(Progress::End(None)));
        }
        let inbox = ready!(self.poll_inbox(cx))?;
        let taken = if inbox.is_empty() { Ok(()) } else { sink(cx, Chunk::Slice(&inbox)) };
        self.held = inbox.len();
        scratch::recycle(inbox);
        taken?;
        let state = &mut *self.link.0.borrow_mut();
        let Some(lane) = state.lanes.get(self.key) else { return Poll::Ready(Err(Error::Closed)) };
        if !lane.has_ended() || !lane.inbox.is_empty() {
            return Poll::Ready(Ok(Progress::More));
        }
        self.read_all = true;
        Poll::Ready(Ok(Progress::End(lane.trailers.take())))
    }

    /// What has come; nothing at the end. Whoever asks has taken what came before: only now may the peer send as
    /// much again.
    pub(super) fn poll_inbox(&mut self, cx: &Context<'_>) -> Poll<Result<Vec<u8>, Error>> {
        let state = &mut *self.link.0.borrow_mut();
        let held = std::mem::take(&mut self.held);
        if held > 0 {
            state.session.consume(self.id, held);
            state.wrote();
        }
        let Some(lane) = state.lanes.get(self.key) else { return Poll::Ready(Err(Error::Closed)) };
        if lane.inbox.is_empty() && !lane.has_ended() {
            if let Some(error) = lane.fault() {
                return Poll::Ready(Err(error));
            }
            lane.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(std::mem::take(&mut lane.inbox)))
    }

    /// So much of what [`Flow::poll_inbox`] answered has been passed on.
    pub(super) fn passed_on(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// If the stream is gone.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        if piece.is_empty() {
            return Ok(());
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
    /// None; other wires have some.
    pub fn end(&mut self, trailers: Option<&Fields>) -> Result<(), Error> {
        if !matches!(self.fin, Fin::Open) || self.switch.is_asked() {
            return Ok(());
        }
        let trailers = trailers.filter(|fields| !fields.is_empty());
        if self.backlog.is_empty() {
            self.write_end(&mut self.link.clone().0.borrow_mut(), trailers);
        } else {
            self.fin = Fin::Due(trailers.map(|fields| Box::new(fields.clone())));
        }
        Ok(())
    }

    /// Ends a body that has begun with these trailers; what of it lies here is forgotten. False if that can't be said, or would have to
    /// wait: the peer takes as little as one that takes nothing.
    pub(in crate::http) fn break_off(&mut self, trailers: &Fields) -> bool {
        let link = Rc::clone(&self.link);
        let state = &mut *link.0.borrow_mut();
        if matches!(self.fin, Fin::Written) || state.is_ended() || state.session.waiting().len() >= UNREAD_BYTES_MAX {
            return false;
        }
        self.backlog.clear();
        self.framed = 0;
        self.write_end(state, Some(trailers));
        state.wrote();
        true
    }

    fn write_end(&mut self, state: &mut State, trailers: Option<&Fields>) {
        self.fin = Fin::Written;
        state.session.end(self.id, trailers);
        if self.opened.is_none() {
            state.note_answered();
        }
    }

    /// Bytes that have come and wait to be read.
    pub fn unread(&self) -> usize {
        self.link.0.borrow_mut().lanes.get(self.key).map_or(0, |lane| lane.inbox.len())
    }

    /// Bytes that wait for the peer's window, or for room.
    pub fn unsent(&self) -> usize {
        self.backlog.len() - self.framed
    }

    /// Puts what waits into frames. Ready when all of it is; they leave when the worker has gathered what else
    /// there is.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.backlog.is_empty() && !matches!(self.fin, Fin::Due(_)) {
            let state = &mut *self.link.0.borrow_mut();
            state.wrote();
            return Poll::Ready(Ok(()));
        }
        let link = Rc::clone(&self.link);
        let state = &mut *link.0.borrow_mut();
        if !self.backlog.is_empty() {
            self.framed += state.write(self.id, &self.backlog[self.framed..])?;
            if self.framed < self.backlog.len() {
                state.wait_for_room(self.key, cx);
                state.wrote();
                return Poll::Pending;
            }
            self.framed = 0;
            scratch::recycle(std::mem::take(&mut self.backlog));
        }
        if let Fin::Due(trailers) = &mut self.fin {
            let trailers = trailers.take();
            self.write_end(state, trailers.as_deref());
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
        let state = &mut *self.link.0.borrow_mut();
        let ended = state.is_ended();
        state.lanes.get(self.key).is_none_or(|lane| ended || lane.fault().is_some() || lane.end == End::Complete)
    }

    /// Whether an answer may still come although nothing can be sent any more.
    pub(in crate::http) fn may_have_answered(&self) -> bool {
        self.link.0.borrow().is_deaf()
    }

    /// Resets the stream with `code`.
    pub fn reset(&mut self, code: u32) {
        self.backlog.clear();
        self.framed = 0;
        self.fin = Fin::Written;
        let state = &mut *self.link.0.borrow_mut();
        state.session.reset(self.id, code);
        state.wrote();
    }

    /// Whether the message to be read has been read to its end.
    pub fn has_read_all(&self) -> bool {
        let lanes = &mut self.link.0.borrow_mut().lanes;
        self.read_all
            || !matches!(self.switch, Switch::Not)
            || lanes.get(self.key).is_none_or(|lane| lane.has_ended() && lane.inbox.is_empty())
    }

    /// Reads nothing more. Once the flow is dropped, a client that has more to send is told that it needn't (RFC
    /// 9113 8.1), behind the answer.
    pub fn stop_reading(&mut self) {
        self.read_all = true;
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let Ok(mut state) = self.link.0.try_borrow_mut() else { return };
        state.drop_lane(self.key, self.held);
        if state.session.is_open(self.id) {
            // After a complete answer the rest of what was asked is of no interest.
            let answered = self.opened.is_none() && matches!(self.fin, Fin::Written);
            state.session.reset(self.id, if answered { NO_ERROR } else { CANCEL });
        }
        // The last stream of a connection that is leaving is waited for.
        if state.session.is_leaving() {
            state.call_driver();
        }
        state.wrote();
        // Its place is free with its count, which goes after this.
        state.call_waiters();
        drop(state);
        scratch::recycle(std::mem::take(&mut self.backlog));
    }
}

/// Whether nothing follows the head.
fn is_bodiless(head: &Head) -> bool {
    matches!(head.framing(), Framing::None | Framing::Length(0))
}
