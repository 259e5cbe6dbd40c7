// SPDX-License-Identifier: Apache-2.0
//! A stream as an opaque connection: what the relay reads and writes like any other.

use super::flow::{Flow, Reading, Writing};
use crate::http::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

impl AsyncRead for Flow {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let state = &mut *this.link.0.borrow_mut();
        let Some(lane) = state.lanes.get(this.key) else { return Poll::Ready(Ok(())) };
        if lane.unread().is_empty() {
            if lane.has_ended() {
                this.reading = Reading::Nothing;
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = lane.fault() {
                return Poll::Ready(Err(from_http(error)));
            }
            lane.wait(cx);
            return Poll::Pending;
        }
        let taken = lane.unread().len().min(buf.remaining());
        buf.put_slice(&lane.unread()[..taken]);
        lane.advance(taken);
        // Its reader has room for it, or wouldn't have asked: it may as well be counted as gone.
        let grants = state.session.consume(this.id, taken);
        state.grant(this.id, grants);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flow {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.writing != Writing::UntilEnd {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let state = &mut *this.link.0.borrow_mut();
        let taken = state.write(this.id, bytes).map_err(from_http)?;
        state.wrote();
        if taken == 0 && !bytes.is_empty() {
            state.wait_for_room(this.key, cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written leaves by itself, and `poll_write` tells when it can't.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().end(None).map_err(from_http))
    }
}

fn from_http(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::ConnectionReset, other),
    }
}
