// SPDX-License-Identifier: Apache-2.0
//! One request's stream, as its exchange sees it: a head and a body each way, like the other wires. What QUIC takes no more of
//! stays here. A flow dropped before its answer has ended resets its stream.

use super::server::Link;
use crate::http::{Chunk, Error, Progress, Sink, scratch};
use crate::quic::number;
use byrnie_codec::h3::{self, Event, Request, Wrong, code};
use byrnie_codec::{Fields, Framing, Head};
use quinn::{RecvStream, SendStream, WriteError};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// One HTTP/3 request.
pub struct Flow {
    link: Rc<Link>,
    send: SendStream,
    recv: RecvStream,
    request: Request,
    /// Read, and not looked at.
    rest: Vec<u8>,
    trailers: Option<Box<Fields>>,
    /// The client has said all.
    read_all: bool,
    /// Written, and not yet taken ...
    backlog: Vec<u8>,
    /// ... but for so much of it.
    taken: usize,
    fin: Fin,
    /// Ready once the client wants nothing more.
    stopped: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// The client has given it up.
    left: bool,
}

/// How far the answer's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    Open,
    Due,
    Written,
    /// Broken off.
    Reset,
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow").field("id", &self.send.id()).field("fin", &self.fin).finish_non_exhaustive()
    }
}

/// Why reading a body can't go on.
enum Halt {
    Sink(Error),
    Wrong(Wrong),
}

impl Flow {
    pub(super) fn new(link: Rc<Link>, send: SendStream, recv: RecvStream) -> Self {
        Self {
            link,
            send,
            recv,
            request: Request::default(),
            rest: Vec::new(),
            trailers: None,
            read_all: false,
            backlog: Vec::new(),
            taken: 0,
            fin: Fin::Open,
            stopped: None,
            left: false,
        }
    }

    /// Reads the request's head.
    ///
    /// # Errors
    /// If there is none: what is to be answered ([`Error::Reject`]), or that nothing can be.
    pub fn poll_head(&mut self, cx: &mut Context<'_>, head: &mut Head) -> Poll<Result<(), Error>> {
        loop {
            let bytes = std::mem::take(&mut self.rest);
            let mut rest = &bytes[..];
            match self.request.next(&mut rest) {
                Ok(None) => scratch::recycle(bytes),
                Ok(Some(_)) => {
                    self.rest.extend_from_slice(rest);
                    break;
                }
                Err(wrong) => return Poll::Ready(Err(self.fail(wrong))),
            }
            ready!(self.poll_more(cx))?;
            if self.read_all
                && let Err(wrong) = self.request.end()
            {
                return Poll::Ready(Err(self.fail(wrong)));
            }
        }
        // Whether a body follows is known only by whether the stream ends here, of which most clients tell with the head.
        if self.rest.is_empty()
            && !self.read_all
            && let Poll::Ready(more) = self.poll_more(cx)
        {
            more?;
        }
        let read = self.request.head(self.read_all, head);
        Poll::Ready(read.map_err(|wrong| self.fail(wrong)))
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Self { recv, rest, .. } = self;
        let read = scratch::poll_read_most(recv, scratch::head_read_max(), cx, |_, bytes| {
            scratch::keep_long(rest, bytes);
            bytes.is_empty()
        });
        match ready!(read) {
            Ok(end) => {
                self.read_all = end;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(self.lost(&error))),
        }
    }

    /// Reads a piece of the body.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, sink: &mut Sink<'_>) -> Poll<Result<Progress, Error>> {
        if !self.read_all || !self.rest.is_empty() {
            let Self { recv, request, rest, trailers, .. } = self;
            let mut end = false;
            let fed = if rest.is_empty() {
                let read = scratch::poll_read(recv, cx, |cx, bytes| {
                    end = bytes.is_empty();
                    feed(request, trailers, cx, bytes, sink)
                });
                match ready!(read) {
                    Ok(fed) => fed,
                    Err(error) => return Poll::Ready(Err(self.lost(&error))),
                }
            } else {
                let bytes = std::mem::take(rest);
                feed(request, trailers, cx, &bytes, sink)
            };
            match fed {
                Ok(()) => self.read_all |= end,
                Err(Halt::Sink(error)) => return Poll::Ready(Err(error)),
                Err(Halt::Wrong(wrong)) => return Poll::Ready(Err(self.fail(wrong))),
            }
        }
        if !self.read_all {
            return Poll::Ready(Ok(Progress::More));
        }
        if let Err(wrong) = self.request.end() {
            return Poll::Ready(Err(self.fail(wrong)));
        }
        Poll::Ready(Ok(Progress::End(self.trailers.take())))
    }

    /// Bytes that have come and weren't looked at; of what quinn holds nothing is known.
    pub(in crate::http) fn unread(&self) -> usize {
        self.rest.len()
    }

    /// Whether the client has said all that it has to say, and it was read.
    pub(in crate::http) fn has_read_all(&self) -> bool {
        self.read_all && self.rest.is_empty()
    }

    /// Writes the head of a response.
    ///
    /// # Errors
    /// If the answer has ended already.
    pub fn send_response(&mut self, head: &Head) -> Result<(), Error> {
        if self.fin != Fin::Open {
            return Err(Error::Closed);
        }
        h3::write_response(head, &mut self.backlog);
        let bodiless = matches!(head.framing(), Framing::None | Framing::Length(0));
        if bodiless && !(100..=199).contains(&head.status()) {
            self.fin = Fin::Due;
        }
        Ok(())
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn push(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Result<(), Error> {
        if piece.is_empty() || self.fin != Fin::Open {
            return Ok(());
        }
        h3::write_data(piece.len(), &mut self.backlog);
        let taken = if self.pour(cx)? { self.write(cx, piece)? } else { 0 };
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
        if self.fin == Fin::Open {
            if let Some(trailers) = trailers.filter(|fields| !fields.is_empty()) {
                h3::write_trailers(trailers, &mut self.backlog);
            }
            self.fin = Fin::Due;
        }
        Ok(())
    }

    /// Bytes that QUIC hasn't taken.
    pub(in crate::http) fn unsent(&self) -> usize {
        self.backlog.len() - self.taken
    }

    /// Gives what waits to QUIC. Ready when nothing waits any more.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.pour(cx)? {
            return Poll::Pending;
        }
        if self.fin == Fin::Due {
            self.fin = Fin::Written;
            // A client that has stopped the stream is seen elsewhere.
            let _ = self.send.finish();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the backlog as far as it's taken; true if all of it is.
    fn pour(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        if self.backlog.is_empty() {
            return Ok(true);
        }
        let backlog = std::mem::take(&mut self.backlog);
        let written = self.write(cx, &backlog[self.taken..]);
        self.backlog = backlog;
        self.taken += written?;
        if self.taken < self.backlog.len() {
            return Ok(false);
        }
        self.taken = 0;
        scratch::recycle(std::mem::take(&mut self.backlog));
        Ok(true)
    }

    /// Writes as much as is taken.
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<usize, Error> {
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut self.send).poll_write(cx, &bytes[written..]) {
                Poll::Ready(Ok(more)) => written += more,
                Poll::Ready(Err(error)) => {
                    self.left = true;
                    return Err(match error {
                        WriteError::Stopped(_) => Error::Reset(crate::http::h2::CANCEL),
                        _ => Error::Closed,
                    });
                }
                Poll::Pending => break,
            }
        }
        Ok(written)
    }

    /// Ready when the client wants no answer any more, or is gone.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let send = &self.send;
        let stopped = self.stopped.get_or_insert_with(|| {
            let stopped = send.stopped();
            Box::pin(async move {
                // Whatever it is, nothing more is wanted.
                let _ = stopped.await;
            })
        });
        ready!(stopped.as_mut().poll(cx));
        self.stopped = None;
        self.left = true;
        Poll::Ready(())
    }

    /// Whether the client was found to be gone.
    pub const fn is_gone(&self) -> bool {
        self.left
    }

    /// Waits until the client has all of an answer that was written to its end, or is gone.
    pub async fn delivered(self) {
        if self.fin == Fin::Written {
            // Either is an end.
            let _ = self.send.stopped().await;
        }
    }

    /// Breaks the answer off, and reads nothing more, with one of [`code`].
    pub fn reset(&mut self, code: u64) {
        if self.fin != Fin::Written {
            self.fin = Fin::Reset;
            // What is gone already needs no word.
            let _ = self.send.reset(number(code));
        }
        let _ = self.recv.stop(number(code));
        self.backlog.clear();
        self.taken = 0;
    }

    /// What came breaks a rule.
    fn fail(&mut self, wrong: Wrong) -> Error {
        match wrong {
            Wrong::Refused(reject) => return Error::Reject(reject),
            Wrong::Stream(code) => self.reset(code),
            Wrong::Connection(code) => self.link.quic.close(code),
        }
        self.left = true;
        Error::Reset(crate::http::h2::INTERNAL_ERROR)
    }

    /// Nothing more can be read.
    fn lost(&mut self, error: &io::Error) -> Error {
        self.left = true;
        match error.kind() {
            io::ErrorKind::ConnectionReset => Error::Reset(crate::http::h2::CANCEL),
            _ => Error::Closed,
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let answered = self.fin == Fin::Written;
        if !answered && self.fin != Fin::Reset {
            let _ = self.send.reset(number(code::REQUEST_CANCELLED));
        }
        if !self.read_all {
            // After a complete answer the rest of what was asked is of no interest (RFC 9114 4.1).
            let _ = self.recv.stop(number(if answered { code::NO_ERROR } else { code::REQUEST_CANCELLED }));
        }
        self.link.leave(self.left, answered);
        scratch::recycle(std::mem::take(&mut self.backlog));
    }
}

/// Hands what came of a body on.
fn feed(
    request: &mut Request,
    trailers: &mut Option<Box<Fields>>,
    cx: &mut Context<'_>,
    mut bytes: &[u8],
    sink: &mut Sink<'_>,
) -> Result<(), Halt> {
    while let Some(event) = request.next(&mut bytes).map_err(Halt::Wrong)? {
        match event {
            Event::Body(piece) => sink(cx, Chunk::Slice(piece)).map_err(Halt::Sink)?,
            Event::Trailers(fields) => *trailers = Some(Box::new(fields)).filter(|fields| !fields.is_empty()),
            // There is one head, which has been read.
            Event::Head => {}
        }
    }
    Ok(())
}
