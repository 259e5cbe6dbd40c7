// SPDX-License-Identifier: Apache-2.0
//! Memory that the connections of one worker share: one read scratch, taken inside a poll and put
//! back before it ends, and a few spare buffers for what can't be sent at once, and for trailers. Idle connections own
//! no bytes.

use super::{HEAD_READ_BYTES_MAX, READ_BYTES_MAX};
use byrnie_codec::Fields;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// Size of the read scratch of a worker; see `dataplane.md` 5 in the design notes: the size decides the
/// price of large bodies, and 256 KiB is where it stops falling.
const READ_BYTES: usize = 256 * 1024;
/// Spare buffers kept by a worker ...
const SPARES_MAX: usize = 128;
/// ... and how many bytes of them in all: who is given a large one has use for a little of it, most often.
const SPARES_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Of those, so many are looked at for one of the right size.
const SPARES_SEEN_MAX: usize = 8;
/// A buffer that grew beyond this isn't kept.
const SPARE_BYTES_MAX: usize = 128 * 1024;
const SPARE_BYTES: usize = 4 * 1024;
/// Smaller ones, for copies that last as long as an exchange: how large each is at least, and how many are kept by a worker.
const SMALL_BYTES: usize = 1024;
const SMALL_MAX: usize = 64;
/// Spare trailers kept by a worker, and how large each may have become.
const TRAILERS_MAX: usize = 64;
const TRAILERS_BYTES_MAX: usize = 1024;

thread_local! {
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// The one of the usual size that was given back last: most often the next that is asked for.
    static LAST: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static SPARES: RefCell<Spares> = const { RefCell::new(Spares::new()) };
    static READ_MAX: Cell<usize> = const { Cell::new(READ_BYTES_MAX) };
    static HEAD_READ_MAX: Cell<usize> = const { Cell::new(HEAD_READ_BYTES_MAX) };
}

/// Buffers to be used again, and what they have room for in all; small ones; and trailers.
struct Spares {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    small: Vec<Vec<u8>>,
    #[expect(clippy::vec_box, reason = "trailers change hands in boxes")]
    trailers: Vec<Box<Fields>>,
}

impl Spares {
    const fn new() -> Self {
        Self { buffers: Vec::new(), bytes: 0, small: Vec::new(), trailers: Vec::new() }
    }
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

/// Sets [`read_max`] and [`head_read_max`].
pub(super) fn set_read_max(bytes: usize, head: usize) {
    READ_MAX.set(bytes);
    HEAD_READ_MAX.set(head);
}

/// Bytes that are read at once while a head is awaited.
pub(super) fn head_read_max() -> usize {
    HEAD_READ_MAX.get()
}

/// A buffer to own for a while.
pub(crate) fn buffer() -> Vec<u8> {
    buffer_for(SPARE_BYTES)
}

/// The same for so many bytes, which somebody else may leave lying: not much larger than that.
pub(crate) fn buffer_for(bytes: usize) -> Vec<u8> {
    let least = bytes.max(SPARE_BYTES);
    if least == SPARE_BYTES {
        let last = LAST.take();
        if last.capacity() > 0 {
            return last;
        }
    }
    let spare = SPARES.with_borrow_mut(|spares| {
        let last = spares.buffers.len().saturating_sub(SPARES_SEEN_MAX);
        let fits = |buffer: &Vec<u8>| (least..=2 * least).contains(&buffer.capacity());
        let at = last + spares.buffers[last..].iter().rposition(fits)?;
        let buffer = spares.buffers.swap_remove(at);
        spares.bytes -= buffer.capacity();
        Some(buffer)
    });
    spare.unwrap_or_else(|| Vec::with_capacity(least))
}

/// A buffer for so many bytes of which a copy is kept until an exchange is over: for a few no more room than that.
pub(crate) fn buffer_for_copy(bytes: usize) -> Vec<u8> {
    if bytes > SMALL_BYTES {
        return buffer_for(bytes);
    }
    SPARES.with_borrow_mut(|spares| spares.small.pop()).unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES))
}

/// Keeps `bytes` in `buffer`, for as long as somebody else pleases: a small piece in no more room than it needs.
pub(crate) fn keep_long(kept: &mut Vec<u8>, bytes: &[u8]) {
    if kept.capacity() == 0 {
        let small = bytes.len() <= SPARE_BYTES / 4;
        *kept = if small { Vec::with_capacity(bytes.len()) } else { buffer_for(bytes.len()) };
    }
    kept.extend_from_slice(bytes);
}

/// Gives a buffer back.
pub(crate) fn recycle(mut buffer: Vec<u8>) {
    if buffer.capacity() < SMALL_BYTES || buffer.capacity() > SPARE_BYTES_MAX {
        return;
    }
    buffer.clear();
    if buffer.capacity() < SPARE_BYTES {
        return SPARES.with_borrow_mut(|spares| {
            if spares.small.len() < SMALL_MAX {
                spares.small.push(buffer);
            }
        });
    }
    if buffer.capacity() <= 2 * SPARE_BYTES {
        buffer = LAST.replace(buffer);
        if buffer.capacity() == 0 {
            return;
        }
    }
    SPARES.with_borrow_mut(|spares| {
        if spares.buffers.len() < SPARES_MAX && spares.bytes + buffer.capacity() <= SPARES_BYTES_MAX {
            spares.bytes += buffer.capacity();
            spares.buffers.push(buffer);
        }
    });
}

/// Memory for trailers, without any.
pub(crate) fn trailers() -> Box<Fields> {
    SPARES.with_borrow_mut(|spares| spares.trailers.pop()).unwrap_or_default()
}

/// Gives trailers back.
pub(crate) fn recycle_trailers(mut trailers: Box<Fields>) {
    trailers.clear();
    SPARES.with_borrow_mut(|spares| {
        if spares.trailers.len() < TRAILERS_MAX && trailers.capacity() <= TRAILERS_BYTES_MAX {
            spares.trailers.push(trailers);
        }
    });
}
