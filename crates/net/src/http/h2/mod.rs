// SPDX-License-Identifier: Apache-2.0
//! HTTP/2, both sides, on the `h2` crate: one [`Flow`] per stream, a [`Server`] per connection from a
//! client, a [`Client`] per connection to a server. Writes are corked until a worker has no more
//! ready task, so that many streams share one send. Resets and trailers pass both ways.

mod client;
mod cork;
mod fields;
mod guard;
mod server;
mod tunnel;

pub use client::{Client, connect};
pub use guard::Sender;
pub use server::{Accepted, Server};
pub use tunnel::Tube;

use super::{Answered, Error, Progress, Sink, websocket};
use crate::http::Chunk;
use byrnie_codec::{Fields, Framing, Head};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tunnel::Switch;

/// Receive window of one stream: what a peer may send before somebody reads it.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Receive window of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Streams that a client may have open on one connection.
pub const STREAMS_MAX: u32 = 256;
/// Largest header list accepted, by HTTP/2's count (32 bytes for each line beside its text).
pub const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Largest DATA frame accepted.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// Bytes of one stream that wait inside the library for the socket.
const SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Streams reset by the peer before anybody looked at them, until the connection is given up (rapid reset).
const RESETS_PENDING_MAX: usize = 20;
/// Streams that we reset for the peer's errors, until the connection is given up (`MadeYouReset`).
const RESETS_FOR_ERRORS_MAX: usize = 100;

/// The code for "given up" (RFC 9113 7).
pub const CANCEL: u32 = 8;
/// The code for "our fault".
pub const INTERNAL_ERROR: u32 = 2;
/// The code for "nothing was done".
pub const REFUSED_STREAM: u32 = 7;

/// One HTTP/2 stream.
#[derive(Debug)]
pub struct Flow {
    side: Side,
    recv: Option<RecvStream>,
    send: Option<SendStream<Bytes>>,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The end is to be written, or has been.
    fin: Fin,
    /// Bytes handed out whose window hasn't been given back: they may not have left yet.
    held: usize,
    /// Its place in the count of its connection.
    counted: Option<client::Open>,
    /// Whom to tell that it was answered to its end.
    notes: Option<Rc<guard::Notes>>,
    /// Whether it leaves HTTP.
    switch: Switch,
}

#[derive(Debug)]
enum Side {
    /// A client's request, until it's answered.
    Server(h2::server::SendResponse<Bytes>),
    /// To a server, before the request is written.
    Unsent(h2::client::SendRequest<Bytes>, Rc<guard::Notes>),
    /// To a server, until it answers.
    Asked(h2::client::ResponseFuture),
    /// The head has been answered.
    Answered,
}

#[derive(Debug)]
enum Fin {
    Open,
    Plain,
    Trailers(http::HeaderMap),
    Written,
}

impl Flow {
    fn accepted(recv: RecvStream, respond: h2::server::SendResponse<Bytes>, notes: Rc<guard::Notes>) -> Self {
        Self { notes: Some(notes), ..Self::new(Side::Server(respond), Some(recv)) }
    }

    fn new(side: Side, recv: Option<RecvStream>) -> Self {
        let (queue, fin, switch) = (VecDeque::new(), Fin::Open, Switch::Not);
        Self { side, recv, send: None, queue, queued: 0, fin, held: 0, counted: None, notes: None, switch }
    }

    /// Writes the head of a request.
    ///
    /// # Errors
    /// If the stream can't be opened.
    pub fn send_request(&mut self, head: &Head) -> Result<(), Error> {
        let Side::Unsent(connection, _) = &mut self.side else { return Err(Error::Closed) };
        let request = fields::to_request(head)?;
        self.switch = Switch::of(head);
        let end = is_bodiless(head) && !self.switch.is_asked();
        let (answer, send) = connection.send_request(request, end).map_err(from_h2)?;
        self.side = Side::Asked(answer);
        self.begin(send, end);
        Ok(())
    }

    /// Writes the head of a response.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn send_response(&mut self, head: &Head) -> Result<(), Error> {
        let Side::Server(respond) = &mut self.side else { return Err(Error::Closed) };
        let switches = head.status() == 101 && self.switch.is_asked();
        let response = fields::to_response(head, switches)?;
        if (100..=199).contains(&head.status()) && !switches {
            return respond.send_informational(response).map_err(from_h2);
        }
        self.switch = if switches { Switch::Done } else { Switch::Not };
        let end = is_bodiless(head) && !switches;
        let send = respond.send_response(response, end).map_err(from_h2)?;
        self.side = Side::Answered;
        self.begin(send, end);
        Ok(())
    }

    fn begin(&mut self, send: SendStream<Bytes>, end: bool) {
        self.send = Some(send);
        self.fin = if end { Fin::Written } else { Fin::Open };
        if end {
            self.note_end();
        }
    }

    fn note_end(&self) {
        if let Some(notes) = &self.notes {
            notes.answered.set(notes.answered.get().saturating_add(1));
        }
    }

    /// Reads the head of the response.
    pub fn poll_response(&mut self, cx: &mut Context<'_>, head: &mut Head) -> Poll<Result<Answered, Error>> {
        let Side::Asked(answer) = &mut self.side else { return Poll::Ready(Err(Error::Closed)) };
        if let Poll::Ready(Some(interim)) = answer.poll_informational(cx) {
            let (parts, ()) = interim.map_err(from_h2)?.into_parts();
            fields::from_response(&parts, true, head)?;
            return Poll::Ready(Ok(Answered::Interim));
        }
        let (parts, recv) = ready!(Pin::new(answer).poll(cx)).map_err(from_h2)?.into_parts();
        fields::from_response(&parts, recv.is_end_stream(), head)?;
        self.recv = Some(recv);
        self.side = Side::Answered;
        match self.switch {
            Switch::Asked(_) if parts.status.is_success() => self.switch.agree(head)?,
            Switch::Asked(_) => {
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
        match &self.side {
            Side::Unsent(_, notes) if websocket::is_handshake(request) => notes.poll_offers_connect(cx),
            _ => Poll::Ready(false),
        }
    }

    /// Serves a request with this head.
    fn serve(&mut self, head: &Head) {
        self.switch = Switch::of(head);
    }

    /// Whether `response` may be handed on.
    pub(super) fn may_be_answered_by(&self, response: &Head) -> bool {
        self.switch.may_be_answered_by(response)
    }

    /// The stream as an opaque connection, if it has left HTTP.
    pub(super) fn into_tube(self) -> Option<Tube> {
        matches!(self.switch, Switch::Done).then(|| self.into())
    }

    /// Reads a piece of the body.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, sink: &mut Sink<'_>) -> Poll<Result<Progress, Error>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(Progress::End(None))) };
        if !matches!(self.switch, Switch::Not) {
            // Whoever asks for another protocol has no body to send, but more to say if it's granted.
            return Poll::Ready(Ok(Progress::End(None)));
        }
        // Whoever asks for more has taken what came before: only now may the peer send as much again.
        let held = std::mem::take(&mut self.held);
        if held > 0 {
            recv.flow_control().release_capacity(held).map_err(from_h2)?;
        }
        match ready!(recv.poll_data(cx)) {
            Some(Ok(bytes)) => {
                self.held = bytes.len();
                if !bytes.is_empty() {
                    sink(cx, Chunk::Shared(bytes))?;
                }
                Poll::Ready(Ok(Progress::More))
            }
            Some(Err(error)) => Poll::Ready(Err(from_h2(error))),
            None => {
                let trailers = ready!(recv.poll_trailers(cx)).map_err(from_h2)?;
                self.recv = None;
                let trailers = trailers.map(|map| fields::from_trailers(&map)).transpose()?;
                Poll::Ready(Ok(Progress::End(trailers.map(Box::new))))
            }
        }
    }

    /// Takes a piece of the body.
    pub fn push(&mut self, piece: Bytes) {
        self.queued += piece.len();
        self.queue.push_back(piece);
    }

    /// Ends the body.
    ///
    /// # Errors
    /// If the trailers can't be said.
    pub fn end(&mut self, trailers: Option<&Fields>) -> Result<(), Error> {
        if matches!(self.fin, Fin::Open) && !self.switch.is_asked() {
            self.fin = match trailers {
                Some(trailers) => Fin::Trailers(fields::to_trailers(trailers)?),
                None => Fin::Plain,
            };
        }
        Ok(())
    }

    /// Bytes that wait for the peer's window.
    pub fn unsent(&self) -> usize {
        self.queued
    }

    /// Hands over what the peer's window lets through.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Ok(())) };
        while let Some(front) = self.queue.front_mut() {
            send.reserve_capacity(front.len());
            if send.capacity() == 0 {
                match ready!(send.poll_capacity(cx)) {
                    Some(granted) => granted.map_err(from_h2)?,
                    None => return Poll::Ready(Err(Error::Closed)),
                };
            }
            let part = front.split_to(send.capacity().min(front.len()));
            self.queued -= part.len();
            if front.is_empty() {
                self.queue.pop_front();
            }
            let last = self.queue.is_empty() && matches!(self.fin, Fin::Plain);
            if last {
                self.fin = Fin::Written;
            }
            send.send_data(part, last).map_err(from_h2)?;
            if last {
                self.note_end();
                return Poll::Ready(Ok(()));
            }
        }
        match std::mem::replace(&mut self.fin, Fin::Written) {
            Fin::Open => {
                self.fin = Fin::Open;
                return Poll::Ready(Ok(()));
            }
            Fin::Plain => send.send_data(Bytes::new(), true).map_err(from_h2)?,
            Fin::Trailers(trailers) => send.send_trailers(trailers).map_err(from_h2)?,
            Fin::Written => return Poll::Ready(Ok(())),
        }
        self.note_end();
        Poll::Ready(Ok(()))
    }

    /// Ready when the client has reset the stream or its connection is gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (&mut self.side, &mut self.send) {
            (Side::Server(respond), _) => respond.poll_reset(cx).map(|_| ()),
            (_, Some(send)) => send.poll_reset(cx).map(|_| ()),
            _ => Poll::Pending,
        }
    }

    /// Resets the stream with `code`.
    pub fn reset(&mut self, code: u32) {
        let reason = Reason::from(code);
        match (&mut self.side, &mut self.send) {
            (Side::Server(respond), _) => respond.send_reset(reason),
            (_, Some(send)) => send.send_reset(reason),
            _ => {}
        }
        self.queue.clear();
        self.queued = 0;
        self.fin = Fin::Written;
    }

    /// Whether the message to be read has been read to its end.
    pub fn has_read_all(&self) -> bool {
        !matches!(self.switch, Switch::Not) || self.recv.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// Reads nothing more. Once the flow is dropped, a client that has more to send is told that it needn't (RFC
    /// 9113 8.1); by the library, behind the answer, which a reset of ours would overtake and drop.
    pub fn stop_reading(&mut self) {
        self.recv = None;
    }
}

/// Whether nothing follows the head.
fn is_bodiless(head: &Head) -> bool {
    matches!(head.framing(), Framing::None | Framing::Length(0))
}

/// What an error of the library means for an exchange.
fn from_h2(error: h2::Error) -> Error {
    if error.is_go_away() && error.is_remote() || error.reason() == Some(Reason::REFUSED_STREAM) {
        // The library answers so for streams above a GOAWAY's last id; those below it go on.
        return Error::Refused;
    }
    match error.reason() {
        Some(reason) if error.is_reset() => Error::Reset(reason.into()),
        _ if error.is_io() => Error::Io(error.into_io().unwrap_or_else(|| std::io::ErrorKind::ConnectionReset.into())),
        _ => Error::Closed,
    }
}
