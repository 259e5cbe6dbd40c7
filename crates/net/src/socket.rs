// SPDX-License-Identifier: Apache-2.0
//! A TCP socket that asks the system directly. The C library's calls can be cancelled from another thread, which
//! costs each of them some tens of nanoseconds, and its `writev` is written for files: together some 2 % of what a small
//! request costs. Called by `io` and, below TLS, by its library.

use crate::listen::is_local;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg, sockopt};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A connected socket.
#[derive(Debug)]
pub struct Socket(pub(crate) TcpStream);

impl Socket {
    /// Moves up to `room` bytes by `call` once the system is ready for it. Less than that, and it has no more for now:
    /// that's noted without another call, as its notices are edge-triggered.
    fn poll_move(
        &self,
        cx: &mut Context<'_>,
        (interest, room): (Interest, usize),
        mut call: impl FnMut() -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(if interest.is_readable() { self.0.poll_read_ready(cx) } else { self.0.poll_write_ready(cx) })?;
            match self.try_move((interest, room), &mut call) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => return Poll::Ready(moved),
            }
        }
    }

    /// The same if the system is ready, as far as the reactor has noted; `WouldBlock` if not.
    fn try_move(
        &self,
        (interest, room): (Interest, usize),
        call: impl FnOnce() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        let mut moved = None;
        let tried = self.0.try_io(interest, || {
            let count = call()?;
            moved = Some(count);
            if (1..room).contains(&count) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match moved {
            Some(count) => Ok(count),
            None => tried.and(Err(io::ErrorKind::WouldBlock.into())),
        }
    }

    /// Reads without waiting; `WouldBlock` if there is nothing.
    pub(crate) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let room = bytes.len();
        self.try_move((Interest::READABLE, room), || recv(&self.0, bytes, RecvFlags::empty()).map(|(_, count)| count))
    }

    /// Whether nothing waits to be read, as far as the reactor has noted. Nobody is woken once there is something.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.try_io(Interest::READABLE, || Ok(())).is_err()
    }

    /// Whether the other side has closed its direction, or the connection is broken, as far as the reactor has noted; something
    /// may still wait to be read.
    pub(crate) fn is_closing(&self) -> bool {
        // Nearly always it's silent, which costs less to ask.
        !self.is_silent()
            && matches!(
                pin!(self.0.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop())),
                Poll::Ready(Ok(noted)) if noted.is_read_closed()
            )
    }
}

/// Chooses, for a socket that isn't connected yet and whose other end will be at `address`, or that will accept connections there, how
/// congestion is met: on loopback by what every system has and what never waits (RFC 5681, "reno"). There is no way that could be
/// congested, and a control that paces what it sends, as BBR does, sets a timer of the system for every piece of a body: a seventh of
/// what an answer of 10 KiB costs. The choice comes too late once a connection is open: it stays paced then. For all that leaves this
/// machine the owner of the machine has chosen.
pub(crate) fn choose_congestion(socket: &impl AsFd, address: SocketAddr) {
    #[cfg(target_os = "linux")]
    if is_local(address.ip()) {
        // A system without it has another, which is as good as it was.
        let _ = sockopt::set_tcp_congestion(socket, "reno");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, address);
}

/// Silence of a connection after which the other side's system is asked whether it's there ...
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// ... how long after one question the next one follows ...
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// ... and how many go unanswered until the connection is given up.
const KEEPALIVE_PROBES: u32 = 3;

/// Lets the system notice, on a connection with `address` or on all that a listener there accepts, that the machine at the other end is
/// gone (tcp(7): `SO_KEEPALIVE`, `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`): after 30 s in which nothing was to be sent, or
/// after the longer `TCP_USER_TIMEOUT` that connections of HTTP/2 to servers have, which counts then instead of the questions. What forgets connections at rest on the way, as translators of addresses do, sees each of
/// them at work. A program of this machine can't go without its system's word, so that nothing is asked on loopback.
pub(crate) fn keep_alive(socket: &impl AsFd, address: SocketAddr) {
    if is_local(address.ip()) {
        return;
    }
    // Whatever fails of it, the connection is as good as without.
    let _ = sockopt::set_tcp_keepidle(socket, KEEPALIVE_AFTER);
    let _ = sockopt::set_tcp_keepintvl(socket, KEEPALIVE_EVERY);
    let _ = sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES);
    let _ = sockopt::set_socket_keepalive(socket, true);
}

/// Whether the other side's system has acknowledged anything that was sent on a connection; `None` where that isn't known.
///
/// A connection may stand on this side alone: a server whose queue of connections is full drops the last step of the handshake, and
/// whatever comes after it, until there is room or about a minute has passed.
pub(crate) fn has_acknowledged(tcp: &TcpStream) -> Option<bool> {
    #[cfg(target_os = "linux")]
    {
        // No library has a call for it that is safe: `struct tcp_info` grows with the kernel.
        unsafe extern "C" {
            safe fn getsockopt(fd: i32, level: i32, name: i32, value: &mut [u8; INFO_BYTES], length: &mut u32) -> i32;
        }
        const IPPROTO_TCP: i32 = 6;
        const TCP_INFO: i32 = 11;
        /// Up to and with `tcpi_bytes_acked`, whose place is fixed (Linux 4.1).
        const INFO_BYTES: usize = 128;
        let (mut info, mut length) = ([0; INFO_BYTES], INFO_BYTES as u32);
        let told = getsockopt(tcp.as_raw_fd(), IPPROTO_TCP, TCP_INFO, &mut info, &mut length);
        let acknowledged = u64::from_ne_bytes(*info.last_chunk()?);
        // The first step of the handshake counts as one byte.
        (told == 0 && length as usize == INFO_BYTES).then_some(acknowledged > 1)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = tcp;
        None
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = buf.initialize_unfilled();
        let room = rest.len();
        let read = self.poll_move(cx, (Interest::READABLE, room), || {
            recv(&self.0, &mut *rest, RecvFlags::empty()).map(|(_, count)| count)
        });
        buf.advance(ready!(read)?);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Rust's programs have no signal for a closed pipe.
        self.poll_move(cx, (Interest::WRITABLE, buf.len()), || send(&self.0, buf, SendFlags::empty()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [one] = bufs {
            return self.poll_write(cx, one);
        }
        let room = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_move(cx, (Interest::WRITABLE, room), || {
            sendmsg(&self.0, bufs, &mut SendAncillaryBuffer::default(), SendFlags::empty())
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
