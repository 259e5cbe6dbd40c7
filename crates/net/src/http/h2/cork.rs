// SPDX-License-Identifier: Apache-2.0
//! Gathers the frames of many streams into one send: a flush lets the other ready tasks of the worker
//! run first, and then sends what all of them wrote. An idle worker sends at once.

use super::guard::{Guard, Notes, Sender};
use crate::http::{Alarm, scratch};
use crate::io::Stream;
use crate::runtime;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are sent without waiting for other tasks.
const CORK_BYTES_MAX: usize = 64 * 1024;
/// What is read and forgotten of a client after the last frame to it: closing over unread bytes would
/// reset the connection and take the GOAWAY with it.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
const LINGER_MAX: Duration = Duration::from_secs(1);

/// A connection whose writes are gathered.
#[derive(Debug)]
pub(super) struct Cork {
    stream: Stream,
    /// Read before it was known that this is HTTP/2.
    prefix: Vec<u8>,
    buffer: Vec<u8>,
    sent: usize,
    /// A flush was asked for, and the other tasks are having their turn.
    waits: bool,
    guard: Guard,
    closing: Option<Closing>,
}

/// Our direction is closed; what still comes is read and forgotten.
#[derive(Debug)]
struct Closing {
    forgotten: usize,
    alarm: Alarm,
}

impl Cork {
    /// `prefix` has been read of `stream` already; `sender` is at the other end.
    pub(super) fn new(stream: Stream, prefix: Vec<u8>, sender: Sender) -> Self {
        let guard = Guard::new(sender, runtime::coarse().mono);
        Self { stream, prefix, buffer: Vec::new(), sent: 0, waits: false, guard, closing: None }
    }

    /// What the guard and the streams tell each other.
    pub(super) fn notes(&self) -> Rc<Notes> {
        Rc::clone(&self.guard.notes)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let taken = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..taken]);
        self.prefix.drain(..taken);
        Poll::Ready(Ok(()))
    }

    /// Nothing more is read of a peer that the guard has given up. A client is told why by whoever polls
    /// the connection.
    fn refuse(&self) -> Poll<io::Result<()>> {
        match self.guard.sender {
            Sender::Server => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            Sender::Client | Sender::Proxy => Poll::Pending,
        }
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closing = self.closing.get_or_insert_with(|| {
            let mut alarm = Alarm::new();
            alarm.after(LINGER_MAX);
            Closing { forgotten: 0, alarm }
        });
        while closing.forgotten < LINGER_BYTES_MAX && closing.alarm.poll(cx).is_pending() {
            match ready!(scratch::poll_read(&mut self.stream, cx, |_, new| new.len())) {
                Ok(0) | Err(_) => break,
                Ok(read) => closing.forgotten += read,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
            self.guard.sent(sent);
        }
        self.buffer.clear();
        self.sent = 0;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl AsyncRead for Cork {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.guard.notes.verdict.get().is_some() {
            return this.refuse();
        }
        let before = buf.filled().len();
        ready!(this.poll_fill(cx, buf))?;
        if let Err((passed, verdict)) = this.guard.look(&buf.filled()[before..], runtime::coarse().mono) {
            this.guard.notes.verdict.set(Some(verdict));
            buf.set_filled(before + passed);
            cx.waker().wake_by_ref();
            return if passed == 0 { this.refuse() } else { Poll::Ready(Ok(())) };
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cork {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffer.len() >= CORK_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        this.buffer.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffer.len() >= CORK_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        bufs.iter().for_each(|buf| this.buffer.extend_from_slice(buf));
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            return Pin::new(&mut this.stream).poll_flush(cx);
        }
        if !std::mem::replace(&mut this.waits, true) {
            // Woken at once, but behind the tasks that are ready already. Not Pending: the library
            // would take that for a blocked socket and stop writing frames.
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        this.waits = false;
        this.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            ready!(this.poll_send(cx))?;
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        if this.guard.sender == Sender::Server { Poll::Ready(Ok(())) } else { this.poll_linger(cx) }
    }
}
