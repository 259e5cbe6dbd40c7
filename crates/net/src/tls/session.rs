// SPDX-License-Identifier: Apache-2.0
//! Large reads under TLS. The library takes four KiB from the socket at a time, which costs a bulk transfer
//! and a batch of many small messages most of their system calls; here what the socket has is read at
//! once and decrypted from memory. Called by `io` for readers with room for it.

use crate::socket::Socket;
use rustls::ConnectionCommon;
use std::cell::Cell;
use std::io::{self, Read, Write};
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
    match tls {
        TlsStream::Client(tls) => {
            let (socket, session) = tls.get_mut();
            read(socket, session, cx, buf)
        }
        TlsStream::Server(tls) => {
            let (socket, session) = tls.get_mut();
            read(socket, session, cx, buf)
        }
    }
}

fn read<Side>(
    socket: &mut Socket,
    session: &mut ConnectionCommon<Side>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        // It wants to read unless it holds something to be taken, or the end.
        if !session.wants_read() {
            match open(session, buf) {
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
        let taken = match &read {
            Poll::Ready(Ok(())) => take(socket, session, sealed.filled(), buf),
            _ => Ok(()),
        };
        SEALED.set(scratch);
        ready!(read)?;
        taken?;
        if !buf.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
    }
}

/// Decrypts what came, all of it; nothing at all means that the socket has ended.
fn take<Side>(
    socket: &Socket,
    session: &mut ConnectionCommon<Side>,
    mut sealed: &[u8],
    buf: &mut ReadBuf<'_>,
) -> io::Result<()> {
    let ended = sealed.is_empty();
    loop {
        session.read_tls(&mut sealed)?;
        let state = match session.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                // Tells the other side why, if the socket takes it.
                let _ = session.write_tls(&mut AtOnce(socket));
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        let holds = state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() || ended;
        match if holds { open(session, buf) } else { Ok(()) } {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ if sealed.is_empty() => return Ok(()),
            _ => {}
        }
    }
}

/// Moves what is decrypted into `buf`. `WouldBlock`: there is nothing, and may be later.
fn open<Side>(session: &mut ConnectionCommon<Side>, buf: &mut ReadBuf<'_>) -> io::Result<()> {
    let read = session.reader().read(buf.initialize_unfilled())?;
    buf.advance(read);
    Ok(())
}

/// A socket written to without waiting.
struct AtOnce<'a>(&'a Socket);

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
