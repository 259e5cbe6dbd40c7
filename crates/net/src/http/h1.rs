// SPDX-License-Identifier: Apache-2.0
//! An HTTP/1 connection, either side of it, as a driver around the codec: it reads heads and bodies,
//! writes heads and bodies, and keeps only what can't be used or sent yet. Head and first body bytes
//! leave in one write. Whether it may be used again is for the caller to decide, from
//! [`Conn::is_clean`] and the heads.

use super::{Answered, Error, Progress, Sink, scratch};
use crate::http::Chunk;
use crate::io::Stream;
use byrnie_codec::h1::{self, Asked, Body};
use byrnie_codec::{Fields, Framing, Head, Limits, Parsed, Reject};
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Bytes of following requests that are read while an answer is awaited; beyond it the client isn't
/// watched until the answer is through.
const PIPELINED_BYTES_MAX: usize = 64 * 1024;
/// Less isn't worth a read, however little the other side takes.
const BODY_READ_BYTES_MIN: usize = 4 * 1024;
/// From here on a piece of a body is written at once rather than copied behind what waits.
const BYPASS_BYTES: usize = 16 * 1024;
/// The same of a body's last piece, after which nothing comes that could go out with it.
const LAST_BYPASS_BYTES: usize = 4 * 1024;

/// An HTTP/1 connection.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    limits: Limits,
    /// Read and not used: a partial head, the beginning of a body, following requests.
    inbox: Vec<u8>,
    used: usize,
    /// Most bytes of the message that are read at once.
    read_max: usize,
    /// Written and not sent.
    outbox: Vec<u8>,
    sent: usize,
    reading: Option<Body>,
    writing: Writing,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The other side has closed its direction.
    ended: bool,
    /// TLS holds records that the socket hasn't taken.
    sealed: bool,
    /// A byte was handed to the socket since the last head was written.
    sent_any: bool,
    /// The message can't be completed: close.
    broken: bool,
    /// It was said that no message follows the one written last, by its head or because it ends where the connection does.
    last: bool,
    /// While an answer was awaited the reactor was asked to wake whoever polls once the client says more.
    watched: bool,
}

impl State {
    /// The socket takes nothing more, whatever may still be read.
    fn fail(&mut self, error: std::io::Error) -> Error {
        self.broken = true;
        Error::Io(error)
    }
}

/// What may still be written of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Nothing,
    Length(u64),
    Chunked,
    UntilClose,
}

/// A request came, or the connection ended between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A request.
    Head,
    /// The client closed.
    Closed,
}

impl Conn {
    /// A connection on which `inbox` has been read already.
    pub fn new(stream: Stream, inbox: Vec<u8>, limits: Limits) -> Self {
        Self {
            stream,
            limits,
            inbox,
            used: 0,
            read_max: usize::MAX,
            outbox: Vec::new(),
            sent: 0,
            reading: None,
            writing: Writing::Nothing,
            state: State::default(),
        }
    }

    /// The connection below.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether both messages are complete, everything is sent, and nothing unasked for has come: only then
    /// may a client's connection be used again.
    pub fn is_clean(&self) -> bool {
        let State { ended, broken, last, .. } = self.state;
        let messages = self.reading.is_none() && self.writing == Writing::Nothing;
        messages && !ended && !broken && !last && self.inbox.len() == self.used && self.unsent() == 0
    }

    /// Whether the other side was told that the connection ends with the message written last (RFC 9112 9.6): no request
    /// is read from it any more.
    pub fn is_last(&self) -> bool {
        self.state.last
    }

    /// Whether the connection is clean and the other side hasn't said or done anything since it was last read, as
    /// far as the reactor has noted.
    pub fn is_silent(&self) -> bool {
        self.is_clean() && self.stream.is_at_rest()
    }

    /// Whether the body of the message being read has been read to its end.
    pub fn has_read_all(&self) -> bool {
        self.reading.is_none()
    }

    /// Bytes that have come and wait to be read.
    pub fn unread(&self) -> usize {
        self.inbox.len() - self.used
    }

    /// Looks ahead at what has come of the body, and takes none of it.
    ///
    /// # Errors
    /// If it's malformed.
    pub fn check_unread(&self) -> Result<(), Error> {
        let Some(mut body) = self.reading.clone() else { return Ok(()) };
        let mut rest = &self.inbox[self.used..];
        while !rest.is_empty() && !body.is_done() {
            rest = &rest[body.decode(rest)?.consumed..];
        }
        Ok(())
    }

    /// Whether bytes of a following message wait.
    pub fn has_pipelined(&self) -> bool {
        self.inbox.len() > self.used
    }

    /// The connection and what has been read of it but not used, once both sides left HTTP.
    pub fn into_tunnel(mut self) -> (Stream, Vec<u8>) {
        self.inbox.drain(..self.used);
        (self.stream, self.inbox)
    }

    /// Reads the head of a request. Once the connection [is said to end](Conn::is_last) there is none, whatever has come.
    pub fn poll_request(&mut self, cx: &mut Context<'_>, head: &mut Head) -> Poll<Result<Arrived, Error>> {
        if self.state.last {
            return Poll::Ready(Ok(Arrived::Closed));
        }
        // What was asked of the reactor holds for as long as it has noted nothing since: one task serves a client.
        if std::mem::take(&mut self.state.watched) && !self.has_pipelined() && self.stream.is_at_rest() {
            head.begin();
            return Poll::Pending;
        }
        let parsed = ready!(self.poll_head(cx, head, h1::parse_request))?;
        if parsed == Arrived::Head {
            self.begin_body(head.framing());
        }
        Poll::Ready(Ok(parsed))
    }

    /// Reads the head of a response.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
        head: &mut Head,
    ) -> Poll<Result<Answered, Error>> {
        match ready!(self.poll_head(cx, head, |buf, limits, head| h1::parse_response(buf, limits, asked, head)))? {
            Arrived::Closed => Poll::Ready(Err(Error::Closed)),
            Arrived::Head if (100..=199).contains(&head.status()) && head.status() != 101 => {
                Poll::Ready(Ok(Answered::Interim))
            }
            Arrived::Head => {
                self.begin_body(head.framing());
                Poll::Ready(Ok(Answered::Final))
            }
        }
    }

    fn begin_body(&mut self, framing: Framing) {
        let body = Body::new(framing, &self.limits);
        self.reading = Some(body).filter(|body| !body.is_done());
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Head,
        parse: impl Fn(&[u8], &Limits, &mut Head) -> Result<Parsed, Reject>,
    ) -> Poll<Result<Arrived, Error>> {
        if self.has_pipelined() {
            if let Parsed::Complete(used) = parse(&self.inbox[self.used..], &self.limits, head)? {
                self.advance(used);
                return Poll::Ready(Ok(Arrived::Head));
            }
        } else {
            // What is known of an earlier, broken message must not be taken for progress.
            head.begin();
        }
        loop {
            if self.state.ended {
                let result = if self.has_pipelined() { Err(Error::Closed) } else { Ok(Arrived::Closed) };
                return Poll::Ready(result);
            }
            let Self { stream, inbox, used, limits, state, read_max, .. } = self;
            let most = scratch::head_read_max().min(*read_max);
            let parsed = ready!(scratch::poll_read_most(stream, most, cx, |_, new| -> Result<Parsed, Error> {
                if new.is_empty() {
                    state.ended = true;
                    return Ok(Parsed::Partial);
                }
                if inbox.len() == *used {
                    let parsed = parse(new, limits, head)?;
                    let rest = match parsed {
                        Parsed::Complete(taken) => &new[taken..],
                        Parsed::Partial => new,
                    };
                    keep(inbox, used, rest);
                    // What follows the head is in the inbox from its beginning.
                    return Ok(match parsed {
                        Parsed::Complete(_) => Parsed::Complete(0),
                        Parsed::Partial => Parsed::Partial,
                    });
                }
                compact(inbox, used);
                inbox.extend_from_slice(new);
                Ok(parse(&inbox[*used..], limits, head)?)
            }))??;
            if let Parsed::Complete(taken) = parsed {
                self.advance(taken);
                return Poll::Ready(Ok(Arrived::Head));
            }
        }
    }

    /// Marks bytes of the inbox as used.
    fn advance(&mut self, used: usize) {
        self.used += used;
        if self.used >= self.inbox.len() {
            self.used = 0;
            scratch::recycle(std::mem::take(&mut self.inbox));
        }
    }

    /// Reads no more than so many bytes at once until the next head is written.
    pub fn read_at_most(&mut self, bytes: usize) {
        self.read_max = bytes;
    }

    /// Reads a piece of the body and hands it to `sink`.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, sink: &mut Sink<'_>) -> Poll<Result<Progress, Error>> {
        let Some(body) = &mut self.reading else { return Poll::Ready(Ok(Progress::End(None))) };
        if self.inbox.len() > self.used {
            let waits = &self.inbox[self.used..];
            let taken = decode(body, &waits[..waits.len().min(self.read_max)], cx, sink)?;
            self.advance(taken);
        } else if self.state.ended {
            body.end().map_err(|_| Error::Closed)?;
        } else {
            let Self { stream, inbox, used, state, read_max, .. } = self;
            let most = (*read_max).max(BODY_READ_BYTES_MIN.min(scratch::head_read_max()));
            ready!(scratch::poll_read_most(stream, most, cx, |cx, new| -> Result<(), Error> {
                if new.is_empty() {
                    state.ended = true;
                    return body.end().map_err(|_| Error::Closed);
                }
                let taken = decode(body, new, cx, sink)?;
                keep(inbox, used, &new[taken..]);
                Ok(())
            }))??;
        }
        if !self.reading.as_ref().is_some_and(Body::is_done) {
            return Poll::Ready(Ok(Progress::More));
        }
        let trailers = self.reading.take().and_then(Body::into_trailers).filter(|fields| !fields.is_empty());
        self.read_max = usize::MAX;
        Poll::Ready(Ok(Progress::End(trailers.map(Box::new))))
    }

    /// Writes the head of a request.
    pub fn send_request(&mut self, head: &Head) {
        self.begin_message(head, true);
        h1::emit_request(head, &mut self.outbox);
    }

    /// Writes a request whose bytes, all of them, were made elsewhere: with a target that no [`Head`] holds.
    pub fn send_whole(&mut self, request: &[u8]) {
        self.own_outbox();
        self.read_max = usize::MAX;
        self.state.sent_any = false;
        self.writing = Writing::Nothing;
        self.outbox.extend_from_slice(request);
    }

    /// Writes the head of a response.
    pub fn send_response(&mut self, head: &Head) {
        if (100..=199).contains(&head.status()) && head.status() != 101 {
            self.own_outbox();
            h1::emit_response(head, &mut self.outbox);
            return;
        }
        self.begin_message(head, false);
        h1::emit_response(head, &mut self.outbox);
    }

    fn begin_message(&mut self, head: &Head, request: bool) {
        self.own_outbox();
        self.read_max = usize::MAX;
        self.state.sent_any = false;
        self.state.last |= head.upgrade().is_none() && !head.keep_alive();
        self.writing = match head.framing() {
            Framing::None | Framing::Length(0) => Writing::Nothing,
            Framing::Length(length) => Writing::Length(length),
            Framing::UntilClose if !request => Writing::UntilClose,
            Framing::Chunked | Framing::Stream | Framing::UntilClose => Writing::Chunked,
        };
    }

    fn own_outbox(&mut self) {
        if self.outbox.capacity() == 0 {
            self.outbox = scratch::buffer();
        }
    }

    /// Writes a piece of the body.
    ///
    /// # Errors
    /// If the socket failed, or the body is longer than its head said.
    pub fn push(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Result<(), Error> {
        if piece.is_empty() {
            return Ok(());
        }
        self.own_outbox();
        match &mut self.writing {
            Writing::Nothing => return Err(Error::Length),
            Writing::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or(Error::Length)?;
            }
            Writing::Chunked => h1::chunk_start(piece.len(), &mut self.outbox),
            Writing::UntilClose => {}
        }
        let chunked = self.writing == Writing::Chunked;
        self.write_with(cx, piece)?;
        if chunked {
            h1::chunk_end(&mut self.outbox);
        }
        Ok(())
    }

    /// Sends what waits and `piece` in one go, if that is worth it, and keeps what wasn't taken.
    fn write_with(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Result<(), Error> {
        let mut taken = 0;
        let worth = if self.writing == Writing::Length(0) { LAST_BYPASS_BYTES } else { BYPASS_BYTES };
        if piece.len() >= worth {
            let slices = [IoSlice::new(&self.outbox[self.sent..]), IoSlice::new(piece)];
            let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &slices);
            if let Poll::Ready(written) = written.map_err(|error| self.state.fail(error))? {
                self.state.sent_any = true;
                self.state.sealed = self.stream.is_tls();
                let waited = self.unsent();
                self.sent += written.min(waited);
                taken = written.saturating_sub(waited);
            }
        }
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        }
        self.outbox.extend_from_slice(&piece[taken..]);
        Ok(())
    }

    /// Ends the body.
    ///
    /// # Errors
    /// If it's shorter than its head said.
    pub fn end(&mut self, trailers: Option<&Fields>) -> Result<(), Error> {
        match self.writing {
            Writing::Length(left) if left > 0 => {
                self.state.broken = true;
                return Err(Error::Length);
            }
            Writing::Chunked => {
                self.own_outbox();
                h1::last_chunk(trailers, &mut self.outbox);
            }
            // The end is the end of the connection: it can't carry another message.
            Writing::UntilClose => self.state.broken = true,
            Writing::Nothing | Writing::Length(_) => {}
        }
        self.writing = Writing::Nothing;
        Ok(())
    }

    /// Bytes that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// See [`Stream::acknowledge`].
    pub fn acknowledge(&self) {
        self.stream.acknowledge();
    }

    /// Whether a byte was handed to the socket since the last head was written.
    pub fn has_sent(&self) -> bool {
        self.state.sent_any
    }

    /// Sends what waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.sent < self.outbox.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outbox[self.sent..]));
            let written = written.map_err(|error| self.state.fail(error))?;
            if written == 0 {
                return Poll::Ready(Err(Error::Closed));
            }
            self.sent += written;
            self.state.sent_any = true;
            self.state.sealed = self.stream.is_tls();
        }
        if self.outbox.capacity() > 0 {
            self.sent = 0;
            scratch::recycle(std::mem::take(&mut self.outbox));
        }
        if self.state.sealed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(|error| self.state.fail(error))?;
            self.state.sealed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the other side has closed, as far as is known without a read.
    pub fn is_gone(&self) -> bool {
        self.state.ended || self.stream.socket().is_closing()
    }

    /// Ready when the other side closed. Keeps what else it sent.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.state.ended {
                return Poll::Ready(());
            }
            if self.inbox.len() - self.used >= PIPELINED_BYTES_MAX {
                return Poll::Pending;
            }
            if self.stream.is_silent(cx) {
                // A task that has used its turn up is told to wait without anything having been asked of the reactor.
                self.state.watched = tokio::task::coop::has_budget_remaining();
                return Poll::Pending;
            }
            let Self { stream, inbox, used, state, .. } = self;
            let read = ready!(scratch::poll_read_most(stream, PIPELINED_BYTES_MAX, cx, |_, new| {
                state.ended = new.is_empty();
                keep(inbox, used, new);
            }));
            if read.is_err() {
                self.state.ended = true;
            }
        }
    }

    /// Gives the message up: nothing more is written, and the connection must be closed.
    pub fn abort(&mut self) {
        if self.writing == Writing::UntilClose {
            // An orderly close would make a cut body look complete.
            self.forsake();
        }
        self.state.broken = true;
        self.outbox.clear();
        self.sent = 0;
        self.writing = Writing::Nothing;
    }

    /// The other side takes nothing: what waits for it is forgotten with the connection, by the system too, which would keep it for
    /// minutes else.
    pub fn forsake(&mut self) {
        // Best effort: the socket may be gone.
        let _ = self.stream.tcp().set_zero_linger();
    }

    /// Says that nothing more will be sent, after what waits.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx).map_err(Error::Io)
    }

    /// Reads and forgets. Ready with how much, 0 at the end.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        scratch::poll_read(&mut self.stream, cx, |_, new| new.len()).map_err(Error::Io)
    }
}

/// Decodes all of `input` that belongs to the body; answers how much that was.
fn decode(body: &mut Body, input: &[u8], cx: &mut Context<'_>, sink: &mut Sink<'_>) -> Result<usize, Error> {
    let mut at = 0;
    while at < input.len() && !body.is_done() {
        let piece = body.decode(&input[at..])?;
        if !piece.payload.is_empty() {
            sink(cx, Chunk::Slice(&input[at..][piece.payload.clone()]))?;
        }
        at += piece.consumed;
    }
    Ok(at)
}

/// Puts unused bytes into the inbox.
fn keep(inbox: &mut Vec<u8>, used: &mut usize, rest: &[u8]) {
    if rest.is_empty() {
        return;
    }
    if inbox.capacity() == 0 {
        *inbox = scratch::buffer_for(rest.len());
    }
    compact(inbox, used);
    inbox.extend_from_slice(rest);
}

/// Forgets what was used, once that is half of it: a client that never stops asking would have all of it kept.
fn compact(inbox: &mut Vec<u8>, used: &mut usize) {
    if *used * 2 >= inbox.len() {
        inbox.drain(..*used);
        *used = 0;
    }
}
