// SPDX-License-Identifier: Apache-2.0
//! Streams that leave HTTP by an extended CONNECT (RFC 8441). The rest of byrnie knows one way to leave it,
//! that of HTTP/1: a GET that asks for a protocol and a 101 that agrees. [`Switch`] translates between the
//! two on either side of a stream; a [`Tube`] is the stream afterwards, read and written like any connection.

use super::super::websocket;
use super::Flow;
use crate::http::{Error, scratch};
use byrnie_codec::{Framing, Head, Reject, RejectReason};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How far a stream is on its way out of HTTP.
#[derive(Debug, Default)]
pub(super) enum Switch {
    /// It stays.
    #[default]
    Not,
    /// It asks to leave.
    Asked {
        /// By this its handshake must be answered.
        accept: Box<str>,
        /// Whether the client understands [`websocket::OVERLOOKED`].
        told: bool,
    },
    /// It has left.
    Done,
}

impl Switch {
    /// For a request that may be a handshake.
    pub(super) fn of(request: &Head) -> Self {
        match request.get(websocket::KEY) {
            Some(key) if websocket::is_handshake(request) => {
                Self::Asked { accept: websocket::accept(key).into(), told: false }
            }
            _ => Self::Not,
        }
    }

    /// Whether the answer is still to come.
    pub(super) const fn is_asked(&self) -> bool {
        matches!(self, Self::Asked { .. })
    }

    /// Whether a client of HTTP/2 may be given `response`. It can't check a handshake's proof itself, and would take
    /// any success for consent, also that of a server that has overlooked what was asked; unless it's a proxy of the mesh that can
    /// be told so.
    pub(super) fn may_be_answered_by(&self, response: &Head) -> bool {
        match (self, response.status()) {
            (Self::Asked { accept, .. }, 101) => response.get(websocket::ACCEPT) == Some(accept.as_bytes()),
            (Self::Asked { told, .. }, status) => *told || !is_success(status),
            (Self::Not | Self::Done, status) => status != 101,
        }
    }

    /// Marks an answer that its client would take for consent.
    pub(super) fn mark_overlooked(&self, response: &mut Head) -> Result<(), Reject> {
        match self {
            Self::Asked { told: true, .. } if is_success(response.status()) => {
                response.set(websocket::OVERLOOKED, b"1")
            }
            _ => Ok(()),
        }
    }

    /// Whether `response` is consent to what was asked; what says that it isn't goes no further.
    pub(super) fn is_agreed_by(&self, response: &mut Head) -> bool {
        let overlooked = response.get(websocket::OVERLOOKED).is_some();
        if overlooked {
            response.remove(websocket::OVERLOOKED);
        }
        self.is_asked() && is_success(response.status()) && !overlooked
    }

    /// The server agreed: makes its answer the 101 that the client of the handshake waits for.
    pub(super) fn agree(&mut self, response: &mut Head) -> Result<(), Reject> {
        let Self::Asked { accept, .. } = std::mem::replace(self, Self::Done) else {
            return Err(Reject { status: 502, reason: RejectReason::UnexpectedUpgrade });
        };
        response.set_status(101);
        response.set_framing(Framing::None);
        response.set_declared_length(None);
        response.set_upgrade(Some(websocket::PROTOCOL))?;
        response.set(websocket::ACCEPT, accept.as_bytes())
    }
}

fn is_success(status: u16) -> bool {
    (200..=299).contains(&status)
}

/// Makes an extended CONNECT the handshake that it stands for.
pub(super) fn ask(head: &mut Head) -> Result<(), Reject> {
    if !head.upgrade().is_some_and(|protocol| protocol.eq_ignore_ascii_case(websocket::PROTOCOL.as_bytes())) {
        return Err(RejectReason::Protocol.into());
    }
    if !matches!(head.framing(), Framing::Stream | Framing::None) {
        return Err(RejectReason::BodyNotAllowed.into());
    }
    head.set_framing(Framing::None);
    head.set_upgrade(Some(websocket::PROTOCOL))?;
    match websocket::key() {
        Some(key) => head.set(websocket::KEY, key.as_bytes()),
        None => Err(Reject { status: 503, reason: RejectReason::Protocol }),
    }
}

/// A stream that has left HTTP.
#[derive(Debug)]
pub struct Tube {
    flow: Flow,
    /// Came, and not taken yet ...
    rest: Vec<u8>,
    /// ... but for so much of it.
    taken: usize,
}

impl From<Flow> for Tube {
    fn from(flow: Flow) -> Self {
        Self { flow, rest: Vec::new(), taken: 0 }
    }
}

impl AsyncRead for Tube {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { flow, rest, taken } = self.get_mut();
        if *taken == rest.len() {
            *taken = 0;
            scratch::recycle(std::mem::take(rest));
            // Nothing means the end.
            *rest = ready!(flow.poll_inbox(cx)).map_err(broken)?;
        }
        let part = &rest[*taken..(*taken + buf.remaining()).min(rest.len())];
        buf.put_slice(part);
        *taken += part.len();
        // Its reader has room for it, or wouldn't have asked: it may as well be counted as gone.
        flow.passed_on(part.len());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tube {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flow = &mut self.get_mut().flow;
        // One piece waits for the peer's window at a time.
        ready!(flow.poll_flush(cx)).map_err(broken)?;
        flow.push(bytes).map_err(broken)?;
        match flow.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().flow.poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flow = &mut self.get_mut().flow;
        flow.end(None).map_err(broken)?;
        flow.poll_flush(cx).map_err(broken)
    }
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::ConnectionReset, other),
    }
}
