// SPDX-License-Identifier: Apache-2.0
//! Memory that the connections of one worker share: one read scratch, taken inside a poll and put
//! back before it ends, and a few spare buffers for what can't be sent at once. Idle connections own
//! no bytes.

use super::READ_BYTES_MAX;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Size of the read scratch of a worker; see `dataplane.md` 5 in the design notes: the size decides the
/// price of large bodies, and 256 KiB is where it stops falling.
const READ_BYTES: usize = 256 * 1024;
/// Spare buffers kept by a worker.
const SPARES_MAX: usize = 128;
/// A buffer that grew beyond this isn't kept.
const SPARE_BYTES_MAX: usize = 128 * 1024;
const SPARE_BYTES: usize = 4 * 1024;

thread_local! {
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static READ_MAX: Cell<usize> = const { Cell::new(READ_BYTES_MAX) };
}

/// Reads once into the scratch and hands what came to `take` (empty: the other side closed).
pub(crate) fn poll_read<T>(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    poll_read_most(stream, READ_BYTES, cx, take)
}

/// The same, of no more than `most` bytes.
pub(crate) fn poll_read_most<T>(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    let mut scratch = READ.take();
    if scratch.is_empty() {
        scratch.resize(READ_BYTES, 0);
    }
    let most = most.min(read_max()).min(scratch.len());
    let mut buf = ReadBuf::new(&mut scratch[..most]);
    let result = match Pin::new(stream).poll_read(cx, &mut buf) {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(take(cx, buf.filled()))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    };
    READ.set(scratch);
    let value = ready!(result)?;
    Poll::Ready(Ok(value))
}

/// Bytes that are read at once.
pub(crate) fn read_max() -> usize {
    READ_MAX.get()
}

/// Sets [`read_max`].
pub(super) fn set_read_max(bytes: usize) {
    READ_MAX.set(bytes);
}

/// A buffer to own for a while.
pub(crate) fn buffer() -> Vec<u8> {
    SPARES.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SPARE_BYTES))
}

/// Gives a buffer back.
pub(crate) fn recycle(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > SPARE_BYTES_MAX {
        return;
    }
    buffer.clear();
    SPARES.with_borrow_mut(|spares| {
        if spares.len() < SPARES_MAX {
            spares.push(buffer);
        }
    });
}
