// SPDX-License-Identifier: Apache-2.0
//! Gathers the frames of many streams into one send: a flush lets the other ready tasks of the worker
//! run first, and then sends what all of them wrote. An idle worker sends at once.

use crate::io::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are sent without waiting for other tasks.
const CORK_BYTES_MAX: usize = 64 * 1024;

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
}

impl Cork {
    pub(super) fn new(stream: Stream, prefix: Vec<u8>) -> Self {
        Self { stream, prefix, buffer: Vec::new(), sent: 0, waits: false }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.buffer.len() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.buffer.clear();
        self.sent = 0;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl AsyncRead for Cork {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.prefix.is_empty() {
            let taken = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix[..taken]);
            this.prefix.drain(..taken);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
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
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
