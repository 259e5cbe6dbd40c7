// SPDX-License-Identifier: Apache-2.0
//! What has come of one flow and waits to be read, as capsules.

use super::{ANSWERED_IDLE, Dropped, count, fits};
use crate::runtime;
use byrnie_base::Instant;
use byrnie_codec::capsule;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::ReadBuf;

/// Bytes of one flow that may wait; what comes beyond them is dropped, as a socket drops it. As much as a stream of the hop may
/// have under way: four datagrams of the largest.
pub const QUEUED_BYTES_MAX: usize = 256 * 1024;
/// The same over all flows of a listening socket, and over all to programs of a core.
pub const QUEUED_ALL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Room that is kept once all has been read.
const KEPT_BYTES_MAX: usize = 4 * 1024;

/// How the incoming half of a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Over,
    Failed(io::ErrorKind),
}

/// One of those that a number counts, for as long as it's here.
#[derive(Debug)]
pub(super) struct One(Rc<Cell<usize>>);

impl One {
    pub(super) fn among(all: &Rc<Cell<usize>>) -> Self {
        all.set(all.get() + 1);
        Self(Rc::clone(all))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// How much of them has been read.
    from: usize,
    end: Option<End>,
    /// Nobody reads any more.
    left: bool,
    /// Until when nothing is taken in its place.
    shut_until: Option<Instant>,
    /// When something passed last, either way.
    pub(super) moved_at: Instant,
    /// How often something has; no further than [`u32::MAX`].
    moves: u32,
    reader: Option<Waker>,
    /// Among the flows of its door that take what comes.
    open: Option<One>,
    /// Bytes that wait in all inboxes beside this one.
    all: Rc<Cell<usize>>,
}

/// What becomes of one more datagram from a source.
pub(super) enum Fate {
    Kept,
    Dropped,
    /// Its flow has ended: it begins another.
    Anew,
}

impl Inbox {
    pub(super) fn new(all: Rc<Cell<usize>>, open: Option<One>) -> Self {
        let moved_at = runtime::now().mono;
        Self {
            bytes: Vec::new(),
            from: 0,
            end: None,
            left: false,
            shut_until: None,
            moved_at,
            moves: 0,
            reader: None,
            open,
            all,
        }
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.from
    }

    /// Keeps a datagram, if there is room.
    pub(super) fn put(&mut self, datagram: &[u8]) {
        if !fits(datagram) {
            return;
        }
        let most = datagram.len() + capsule::OVERHEAD_BYTES_MAX;
        if self.waiting() + most > QUEUED_BYTES_MAX || self.all.get() + most > QUEUED_ALL_BYTES_MAX {
            return count(Dropped::Queue);
        }
        if self.from > self.bytes.len() / 2 {
            self.bytes.drain(..std::mem::take(&mut self.from));
        }
        let before = self.bytes.len();
        capsule::emit(datagram, &mut self.bytes);
        self.all.set(self.all.get() + self.bytes.len() - before);
        self.wake();
    }

    /// The same of a datagram that came to a door.
    pub(super) fn offer(&mut self, datagram: &[u8], now: Instant) -> Fate {
        if self.is_open() {
            self.put(datagram);
            return Fate::Kept;
        }
        if self.shut_until.is_some_and(|until| until > now) {
            count(Dropped::Refused);
            return Fate::Dropped;
        }
        Fate::Anew
    }

    /// Hands out what waits, as much as there is room for; empty at the end.
    pub(super) fn poll_take(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let taken = self.waiting().min(buf.remaining());
        if taken > 0 {
            buf.put_slice(&self.bytes[self.from..self.from + taken]);
            self.from += taken;
            self.all.set(self.all.get().saturating_sub(taken));
            if self.waiting() == 0 {
                self.from = 0;
                self.bytes.clear();
                self.bytes.shrink_to(KEPT_BYTES_MAX);
            }
            self.moved();
            return Poll::Ready(Ok(()));
        }
        match self.end {
            Some(End::Over) => Poll::Ready(Ok(())),
            Some(End::Failed(kind)) => Poll::Ready(Err(kind.into())),
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Something has passed.
    pub(super) fn moved(&mut self) {
        self.moved_at = runtime::coarse().mono;
        self.moves = self.moves.saturating_add(1);
    }

    /// Until when its flow goes on if nothing more passes, where one may rest for `span`: after one thing has come and one has gone,
    /// and nothing else, no longer than [`ANSWERED_IDLE`].
    pub(super) fn rests_until(&self, span: Duration) -> Instant {
        let was_answered = self.moves == 2;
        self.moved_at + if was_answered { span.min(ANSWERED_IDLE) } else { span }
    }

    /// No more comes.
    pub(super) fn end(&mut self, end: End) {
        self.end = self.end.or(Some(end));
        self.open = None;
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Nobody reads any more, and nothing is taken in its place until then.
    pub(super) fn leave(&mut self, until: Option<Instant>) {
        (self.left, self.shut_until) = (true, until);
        self.open = None;
        self.give_back();
    }

    fn give_back(&mut self) {
        self.all.set(self.all.get().saturating_sub(self.waiting()));
        (self.bytes, self.from) = (Vec::new(), 0);
    }

    /// Whether it says nothing any more.
    pub(super) fn is_past(&self, now: Instant) -> bool {
        self.left && self.shut_until.is_none_or(|until| until <= now)
    }

    /// Whether its flow goes on.
    pub(super) fn is_open(&self) -> bool {
        !self.left && self.end.is_none()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.give_back();
    }
}
