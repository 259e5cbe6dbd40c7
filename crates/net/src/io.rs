// SPDX-License-Identifier: Apache-2.0
//! One type for a connection's bytes, plain or under TLS. Drivers of HTTP, gRPC and the relay read and
//! write it. It never looks at what passes.

use crate::http::scratch;
use crate::runtime;
use crate::socket::{choose_congestion, keep_alive};
use crate::tls::session;
use byrnie_base::Timestamp;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpSocket;

pub use crate::socket::Socket;
pub use tokio::net::TcpStream;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are.
    Plain(Socket),
    /// TLS 1.3. Boxed, as its state is a hundred times that of a socket.
    Tls(Box<Tls>),
}

/// A TLS connection, which ends some time after the peer's certificate has, whatever is under way on it.
#[derive(Debug)]
pub struct Tls {
    stream: tokio_rustls::TlsStream<Socket>,
    /// When it ends; `None` for never.
    end: Option<Timestamp>,
    /// Whether the end of the connection below is the end of what comes by it, said or not.
    ends_unsaid: bool,
    /// Wakes whoever waits for bytes, to look at the wall clock.
    alarm: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// Bytes that TLS seals ahead of the socket: what is read at once and what was gathered before it. Less would cut
/// a large piece where no frame ends, and cost a copy, a record and a send for the rest of each.
const SEALED_BYTES_MAX: usize = 320 * 1024;
/// How long what is under way may go on after the peer's certificate has ended. Nothing new begins meanwhile.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(30);
/// Longest time between two looks at the wall clock, which may be set, or stand still while the machine sleeps.
const EXPIRY_GLANCE: Duration = Duration::from_secs(25);

impl Tls {
    /// A connection to a peer whose certificate ends at `not_after`.
    pub(crate) fn new(mut stream: tokio_rustls::TlsStream<Socket>, not_after: Option<Timestamp>) -> Self {
        let most = Some(SEALED_BYTES_MAX);
        match &mut stream {
            tokio_rustls::TlsStream::Client(tls) => tls.get_mut().1.set_buffer_limit(most),
            tokio_rustls::TlsStream::Server(tls) => tls.get_mut().1.set_buffer_limit(most),
        }
        Self { stream, end: not_after.map(|at| at + EXPIRY_GRACE), ends_unsaid: false, alarm: None }
    }

    /// The same of one whose peer may close it without a word (`close_notify`, RFC 8446 6.1): that is no error then. Whoever reads
    /// can't tell an end from a cut by it, as none can who reads TCP.
    #[must_use]
    pub(crate) fn ending_unsaid(self) -> Self {
        Self { ends_unsaid: true, ..self }
    }

    /// Reads, as much at once as the reader has room for.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = if buf.remaining() >= session::ROOM_BYTES_MIN {
            session::poll_read(&mut self.stream, cx, buf)
        } else {
            session::poll_few(&mut self.stream, cx, buf)
        };
        match read {
            Poll::Ready(Err(error)) if self.ends_unsaid && error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }

    /// The same, handed on from where it was decrypted.
    fn poll_pieces(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<io::Result<()>> {
        match session::poll_pieces(&mut self.stream, cx, take) {
            Poll::Pending => self.wait(cx),
            read => read,
        }
    }

    /// The TLS connection itself.
    pub fn session(&self) -> &tokio_rustls::TlsStream<Socket> {
        &self.stream
    }

    #[cfg(test)]
    pub(crate) fn into_session(self) -> tokio_rustls::TlsStream<Socket> {
        self.stream
    }

    /// Nothing came to be read: notices the end if it has come, or sees to it that it will be noticed.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(end) = self.end else { return Poll::Pending };
        loop {
            if let Some(alarm) = &mut self.alarm {
                if alarm.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.alarm = None;
            }
            let left = end.as_millis().saturating_sub(runtime::now().wall.as_millis());
            if left == 0 {
                return Poll::Ready(Err(expired()));
            }
            let glance = Duration::from_millis(left).min(EXPIRY_GLANCE);
            self.alarm = Some(Box::pin(tokio::time::sleep(glance)));
        }
    }

    /// An error once the end has come: for those who send and never wait for anything.
    fn check(&self) -> io::Result<()> {
        match self.end {
            Some(end) if end <= runtime::coarse().wall => Err(expired()),
            _ => Ok(()),
        }
    }
}

fn expired() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the peer's certificate has ended")
}

impl Stream {
    /// Acknowledges at once what has come. A peer that writes a message in pieces, and has not turned off Nagle's
    /// algorithm (RFC 896), holds back the next piece until the last one is acknowledged, which this side by itself puts
    /// off for 40 ms (RFC 1122 4.2.3.2) as it has nothing to say. A call to the system: for when a message stands still.
    /// Without effect under TLS, whose peers are proxies and write in one go, and where the system has no such call.
    pub fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Plain(socket) = self {
            // What isn't acknowledged now is later.
            let _ = rustix::net::sockopt::set_tcp_quickack(&socket.0, true);
        }
    }

    /// Reads once and hands on what came, in pieces; an empty one: the other side closed.
    pub(crate) fn poll_pieces(&mut self, cx: &mut Context<'_>, take: &mut dyn FnMut(&[u8])) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(tls) if scratch::read_max() >= session::ROOM_BYTES_MIN => tls.poll_pieces(cx, take),
            stream => scratch::poll_read(stream, cx, |_, bytes| take(bytes)),
        }
    }

    /// Takes as much as there is room for. Under TLS it's sealed, from where it lies, to be sent by the next flush; without, it's
    /// sent at once.
    pub(crate) fn seal(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => match Pin::new(socket).poll_write_vectored(cx, bufs) {
                Poll::Ready(sent) => sent,
                Poll::Pending => Ok(0),
            },
            Self::Tls(tls) => {
                tls.check()?;
                session::seal(&mut tls.stream, bufs)
            }
        }
    }

    /// Whether nothing waits to be read, as far as the reactor has noted; whoever polls is woken once there is something.
    /// Cheaper than a read, and only known of what isn't encrypted.
    pub(crate) fn is_silent(&self, cx: &mut Context<'_>) -> bool {
        matches!(self, Self::Plain(socket) if socket.0.poll_read_ready(cx).is_pending())
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.socket().0
    }

    /// The same, as this crate has it.
    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.stream.get_ref().0,
        }
    }

    /// Whether nothing waits to be read: not in the session, where what came in one record with what was taken may be left, nor, as
    /// far as the reactor has noted, in the socket. Nobody is woken once there is something.
    pub(crate) fn is_at_rest(&self) -> bool {
        let is_dry = match self {
            Self::Plain(_) => true,
            // Unless it holds something, or the end.
            Self::Tls(tls) => tls.stream.get_ref().1.wants_read(),
        };
        is_dry && self.socket().is_silent()
    }

    /// Whether the bytes are encrypted on the way.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Address of this end.
    ///
    /// # Errors
    /// If the socket is no longer connected.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// Address of the other end.
    ///
    /// # Errors
    /// If the socket is no longer connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(Socket(tcp))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => match tls.poll_read(cx, buf) {
                Poll::Pending => tls.wait(cx),
                read => read,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(tls) => {
                tls.check()?;
                Pin::new(&mut tls.stream).poll_write(cx, buf)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => {
                tls.check()?;
                Pin::new(&mut tls.stream).poll_write_vectored(cx, bufs)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }
}

/// Opens a TCP connection within `limit`, with small writes sent at once (`TCP_NODELAY`).
///
/// # Errors
/// The system's error, or [`io::ErrorKind::TimedOut`] after `limit`.
pub async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    choose_congestion(&socket, address);
    keep_alive(&socket, address);
    let tcp = tokio::time::timeout(limit, socket.connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
