// SPDX-License-Identifier: Apache-2.0
//! Opaque bytes both ways between two connections, with half-close, backpressure and an idle limit.
//! What can't be sent at once is the only thing kept, and while it is, its source isn't read.

use crate::datagram::Datagrams;
use crate::hop::Flow;
use crate::http::Alarm;
use crate::http::h2::Tube;
use crate::http::scratch;
use crate::io::Stream;
use crate::runtime;
use byrnie_base::{Instant, assert_size};
use byrnie_codec::sniff::{self, FirstLine, Opening};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
mod tests;

/// One end of a relay.
#[derive(Debug)]
pub enum Pipe {
    /// A connection.
    Stream(Stream),
    /// One stream of a mesh hop.
    Hop(Box<Flow>),
    /// One HTTP/2 stream.
    H2(Box<Tube>),
    /// A flow of datagrams, as capsules.
    Datagrams(Box<Datagrams>),
}

// Two of them stand in each tunnel.
assert_size!(Pipe, 40);

impl Pipe {
    /// Reads what comes next to the end of `into`, up to `most` bytes; 0 at the end. Dropped before its end, it loses nothing.
    ///
    /// # Errors
    /// If the connection failed.
    pub async fn read_on(&mut self, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            let had = into.len();
            into.resize(had + most, 0);
            let mut buf = ReadBuf::new(&mut into[had..]);
            let read = Pin::new(&mut *self).poll_read(cx, &mut buf);
            let count = buf.filled().len();
            into.truncate(had + count);
            read.map_ok(|()| count)
        })
        .await
    }

    /// Sees to it that what is dropped from now on isn't taken for ended in order: whoever has got a part would believe that it's all.
    fn abort(&self) {
        // Streams of a hop and of HTTP/2 are reset by themselves where they're dropped before their end.
        if let Self::Stream(stream) = self {
            // Best effort: the socket may be gone.
            let _ = stream.tcp().set_zero_linger();
        }
    }
}

impl From<Stream> for Pipe {
    fn from(stream: Stream) -> Self {
        Self::Stream(stream)
    }
}

impl From<Flow> for Pipe {
    fn from(flow: Flow) -> Self {
        Self::Hop(Box::new(flow))
    }
}

impl From<Tube> for Pipe {
    fn from(tube: Tube) -> Self {
        Self::H2(Box::new(tube))
    }
}

impl From<Datagrams> for Pipe {
    fn from(flow: Datagrams) -> Self {
        Self::Datagrams(Box::new(flow))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Stream(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Hop(flow) => Pin::new(&mut **flow).poll_read(cx, buf),
            Self::H2(tube) => Pin::new(&mut **tube).poll_read(cx, buf),
            Self::Datagrams(flow) => Pin::new(&mut **flow).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Stream(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Hop(flow) => Pin::new(&mut **flow).poll_write(cx, bytes),
            Self::H2(tube) => Pin::new(&mut **tube).poll_write(cx, bytes),
            Self::Datagrams(flow) => Pin::new(&mut **flow).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Stream(stream) => Pin::new(stream).poll_flush(cx),
            Self::Hop(flow) => AsyncWrite::poll_flush(Pin::new(&mut **flow), cx),
            Self::H2(tube) => Pin::new(&mut **tube).poll_flush(cx),
            Self::Datagrams(flow) => Pin::new(&mut **flow).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Hop(flow) => Pin::new(&mut **flow).poll_shutdown(cx),
            Self::H2(tube) => Pin::new(&mut **tube).poll_shutdown(cx),
            Self::Datagrams(flow) => Pin::new(&mut **flow).poll_shutdown(cx),
        }
    }
}

/// What a relay moved, and how it ended.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes from the first connection to the second.
    pub sent: u64,
    /// Bytes from the second to the first.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides closed in order.
    Closed,
    /// Nothing moved for the time allowed.
    Idle,
    /// A request of HTTP came, which may not pass.
    Request,
    /// The first connection failed.
    First(io::Error),
    /// The second connection failed.
    Second(io::Error),
}

/// What may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// Whatever comes.
    All,
    /// No request of HTTP from the first connection: its first line is kept back until it's sure that it is none, or looked through
    /// while it passes where it begins as none does, or the second connection has spoken first, as servers of HTTP don't. Where it is
    /// one, the relay ends with [`End::Request`], and the line's end hasn't passed.
    NoRequest,
}

/// One direction.
#[derive(Debug)]
struct Direction {
    waiting: Vec<u8>,
    sent: usize,
    bytes: u64,
    state: State,
    guard: Guard,
}

/// How far it's known that what passes is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    /// It is none, or may be one.
    Off,
    /// What waits is kept back until it's known.
    Held,
    /// Its first line is looked through as it passes.
    Watched(FirstLine),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The source has closed: what waits is sent, then the target is told.
    Closing,
    Closed,
}

enum Side {
    Source(io::Error),
    Target(io::Error),
    Request,
}

/// Relays until both sides have closed, one failed, or nothing moved for `idle`. Of each connection bytes may have been read
/// already. Where one failed the other one, once dropped, is reset, as if they were one connection.
pub async fn relay(
    first: (&mut Pipe, Vec<u8>),
    second: (&mut Pipe, Vec<u8>),
    passes: Passes,
    idle: Duration,
) -> Relayed {
    relay_heard(first, second, passes, idle, || ()).await
}

/// The same; `heard` is called once the first connection has said something beside what had been read of it.
pub async fn relay_heard(
    (first, first_bytes): (&mut Pipe, Vec<u8>),
    (second, second_bytes): (&mut Pipe, Vec<u8>),
    passes: Passes,
    idle: Duration,
    heard: impl FnOnce(),
) -> Relayed {
    let (before, mut heard) = (first_bytes.len() as u64, Some(heard));
    let mut there = Direction::new(first_bytes);
    let mut back = Direction::new(second_bytes);
    if passes == Passes::NoRequest {
        there.guard = Guard::Held;
    }
    let mut alarm = Alarm::new();
    let mut seen = (0, Instant::default());
    alarm.after(idle);
    let end = poll_fn(|cx| {
        let back_done = match back.poll(cx, second, first) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(Side::Source(error))) => return Poll::Ready(End::Second(error)),
            Poll::Ready(Err(Side::Target(error))) => return Poll::Ready(End::First(error)),
            Poll::Ready(Err(Side::Request)) => return Poll::Ready(End::Request),
            Poll::Pending => false,
        };
        if back.bytes > 0 {
            there.guard = Guard::Off;
        }
        let there_done = match there.poll(cx, first, second) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(Side::Source(error))) => return Poll::Ready(End::First(error)),
            Poll::Ready(Err(Side::Target(error))) => return Poll::Ready(End::Second(error)),
            Poll::Ready(Err(Side::Request)) => return Poll::Ready(End::Request),
            Poll::Pending => false,
        };
        if there.bytes > before
            && let Some(heard) = heard.take()
        {
            heard();
        }
        if there_done && back_done {
            return Poll::Ready(End::Closed);
        }
        let now = runtime::coarse().mono;
        if there.bytes + back.bytes != seen.0 || seen.1 == Instant::default() {
            seen = (there.bytes + back.bytes, now);
        }
        while alarm.poll(cx).is_ready() {
            if runtime::now().mono.since(seen.1) >= idle {
                return Poll::Ready(End::Idle);
            }
            alarm.set(Some(seen.1 + idle));
        }
        Poll::Pending
    })
    .await;
    match &end {
        End::First(_) => second.abort(),
        End::Second(_) => first.abort(),
        End::Closed | End::Idle | End::Request => {}
    }
    Relayed { sent: there.bytes, received: back.bytes, end }
}

impl Direction {
    fn new(waiting: Vec<u8>) -> Self {
        let bytes = waiting.len() as u64;
        Self { waiting, sent: 0, bytes, state: State::Open, guard: Guard::Off }
    }

    /// Moves what can be moved. Ready once the target has been told that no more comes.
    fn poll(&mut self, cx: &mut Context<'_>, source: &mut Pipe, target: &mut Pipe) -> Poll<Result<(), Side>> {
        loop {
            if !self.holds()? {
                ready!(self.poll_send(cx, target)).map_err(Side::Target)?;
            }
            match self.state {
                State::Open => {}
                State::Closing => {
                    match ready!(Pin::new(&mut *target).poll_shutdown(cx)) {
                        // A peer that has closed both ways already is told nothing new.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            return Poll::Ready(Err(Side::Target(error)));
                        }
                        _ => self.state = State::Closed,
                    }
                    continue;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
            let read = scratch::poll_read(source, cx, |cx, new| self.take(cx, new, target));
            let Poll::Ready(read) = read else {
                // TLS may hold records that the socket hasn't taken.
                ready!(Pin::new(&mut *target).poll_flush(cx)).map_err(Side::Target)?;
                return Poll::Pending;
            };
            read.map_err(Side::Source)??;
        }
    }

    /// Whether what waits is still kept back. A line that has no end is none to a server either.
    fn holds(&mut self) -> Result<bool, Side> {
        if self.guard == Guard::Held {
            self.guard = match sniff::opening(&self.waiting) {
                Opening::NeedMore if self.state == State::Open => return Ok(true),
                Opening::NeedMore | Opening::Opaque => Guard::Off,
                Opening::Unlikely(line) => Guard::Watched(line),
                Opening::Request => return Err(Side::Request),
            };
        }
        Ok(false)
    }

    /// Sends what was read, and keeps what can't be sent yet.
    fn take(&mut self, cx: &mut Context<'_>, new: &[u8], target: &mut Pipe) -> Result<(), Side> {
        if new.is_empty() {
            self.state = State::Closing;
            return Ok(());
        }
        self.bytes += new.len() as u64;
        match self.guard {
            Guard::Off => {}
            Guard::Held => {
                self.waiting.extend_from_slice(new);
                return Ok(());
            }
            Guard::Watched(line) => match line.read(new) {
                Opening::Unlikely(line) => self.guard = Guard::Watched(line),
                Opening::Request => return Err(Side::Request),
                Opening::NeedMore | Opening::Opaque => self.guard = Guard::Off,
            },
        }
        let taken = match Pin::new(target).poll_write(cx, new) {
            Poll::Ready(taken) => taken.map_err(Side::Target)?,
            Poll::Pending => 0,
        };
        if taken < new.len() {
            self.waiting = scratch::buffer();
            self.waiting.extend_from_slice(&new[taken..]);
        }
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, target: &mut Pipe) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            let sent = ready!(Pin::new(&mut *target).poll_write(cx, &self.waiting[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        if self.waiting.capacity() > 0 {
            self.sent = 0;
            scratch::recycle(std::mem::take(&mut self.waiting));
        }
        Poll::Ready(Ok(()))
    }
}
