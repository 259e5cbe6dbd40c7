// SPDX-License-Identifier: Apache-2.0
//! Reads under TLS. The library takes four KiB from the socket at a time, which costs a bulk transfer
//! and a batch of many small messages most of their system calls; for readers with room for it, what the
//! socket has is read at once and decrypted from memory. Called by `io`.

use crate::socket::Socket;
use rustls::{ConnectionCommon, IoState};
use std::cell::Cell;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_rustls::TlsStream;

/// Read from the socket at once.
const READ_BYTES: usize = 64 * 1024;
/// Room that a reader must have: what is read, and what the library held of earlier records.
pub(crate) const ROOM_BYTES_MIN: usize = READ_BYTES + 64 * 1024;

thread_local! {
    static SEALED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Reads into `buf`, which must have room for [`ROOM_BYTES_MIN`].
pub(crate) fn poll_read(
    tls: &mut TlsStream<Socket>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    poll_pieces(tls, cx, &mut |piece| buf.put_slice(piece))
}

/// Reads into `buf` as much as it has room for, from the socket a few KiB at a time, which go nowhere else first.
pub(crate) fn poll_few(
    tls: &mut TlsStream<Socket>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    match tls {
        TlsStream::Client(tls) => {
            let (socket, session) = tls.get_mut();
            fill(socket, session, cx, buf)
        }
        TlsStream::Server(tls) => {
            let (socket, session) = tls.get_mut();
            fill(socket, session, cx, buf)
        }
    }
}

/// Reads, and hands on what was decrypted, record by record from where it lies; nothing: the other side closed.
pub(crate) fn poll_pieces(
    tls: &mut TlsStream<Socket>,
    cx: &mut Context<'_>,
    take: &mut dyn FnMut(&[u8]),
) -> Poll<io::Result<()>> {
    match tls {
        TlsStream::Client(tls) => {
            let (socket, session) = tls.get_mut();
            read(socket, session, cx, take)
        }
        TlsStream::Server(tls) => {
            let (socket, session) = tls.get_mut();
            read(socket, session, cx, take)
        }
    }
}

/// Seals as much as may wait for the socket, and sends nothing of it.
pub(crate) fn seal(tls: &mut TlsStream<Socket>, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    match tls {
        TlsStream::Client(tls) => tls.get_mut().1.writer().write_vectored(bufs),
        TlsStream::Server(tls) => tls.get_mut().1.writer().write_vectored(bufs),
    }
}

fn fill<Side>(
    socket: &Socket,
    session: &mut ConnectionCommon<Side>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let begun = buf.filled().len();
    loop {
        // It wants to read unless it holds something to be taken, or the end.
        let mut ended = false;
        if session.wants_read() {
            // Before the library makes room: most often there is nothing.
            ready!(socket.0.poll_read_ready(cx))?;
            match session.read_tls(&mut AtOnce(socket)) {
                Ok(count) => ended = count == 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            process(socket, session)?;
        }
        // As much of what was decrypted as there is room for.
        while ended || !session.wants_read() {
            let mut reader = session.reader();
            let piece = match reader.fill_buf() {
                // What came before the end, in order or not, is handed on first.
                Err(_) | Ok([]) if buf.filled().len() > begun => return Poll::Ready(Ok(())),
                piece => piece?,
            };
            let count = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..count]);
            reader.consume(count);
            if count == 0 || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        if buf.filled().len() > begun {
            return Poll::Ready(Ok(()));
        }
    }
}

fn read<Side>(
    socket: &mut Socket,
    session: &mut ConnectionCommon<Side>,
    cx: &mut Context<'_>,
    take: &mut dyn FnMut(&[u8]),
) -> Poll<io::Result<()>> {
    loop {
        // It wants to read unless it holds something to be taken, or the end.
        if !session.wants_read() {
            match open(session, take) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        let mut scratch = SEALED.take();
        if scratch.is_empty() {
            scratch.resize(READ_BYTES, 0);
        }
        let mut sealed = ReadBuf::new(&mut scratch);
        let read = Pin::new(&mut *socket).poll_read(cx, &mut sealed);
        let opened = match &read {
            Poll::Ready(Ok(())) => open_all(socket, session, sealed.filled(), take),
            _ => Ok(false),
        };
        SEALED.set(scratch);
        ready!(read)?;
        if opened? {
            return Poll::Ready(Ok(()));
        }
    }
}

/// Decrypts what came, all of it; nothing at all means that the socket has ended. Whether anything was handed on.
fn open_all<Side>(
    socket: &Socket,
    session: &mut ConnectionCommon<Side>,
    mut sealed: &[u8],
    take: &mut dyn FnMut(&[u8]),
) -> io::Result<bool> {
    let ended = sealed.is_empty();
    let mut any = false;
    loop {
        session.read_tls(&mut sealed)?;
        let state = process(socket, session)?;
        if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() || ended {
            match open(session, take) {
                Ok(()) => any = true,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
        }
        // What follows the end is nobody's, and would never be taken.
        if sealed.is_empty() || state.peer_has_closed() {
            return Ok(any);
        }
    }
}

/// Decrypts what the library has read.
fn process<Side>(socket: &Socket, session: &mut ConnectionCommon<Side>) -> io::Result<IoState> {
    session.process_new_packets().map_err(|error| {
        // Tells the other side why, if the socket takes it.
        let _ = session.write_tls(&mut AtOnce(socket));
        io::Error::new(io::ErrorKind::InvalidData, error)
    })
}

/// Hands on what is decrypted, or nothing at the end. `WouldBlock`: there is nothing, and may be later.
fn open<Side>(session: &mut ConnectionCommon<Side>, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut any = false;
    loop {
        let mut reader = session.reader();
        let piece = match reader.fill_buf() {
            // What came before the end, in order or not, is handed on first.
            Err(_) | Ok([]) if any => return Ok(()),
            piece => piece?,
        };
        let count = piece.len();
        take(piece);
        if count == 0 {
            return Ok(());
        }
        reader.consume(count);
        any = true;
    }
}

/// A socket read and written to without waiting.
struct AtOnce<'a>(&'a Socket);

impl Read for AtOnce<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
