// SPDX-License-Identifier: Apache-2.0
//! What has come on a stream and wasn't taken yet, and who waits for it. A lane lives as long as its
//! [`super::Flow`], which may be longer than the stream.

use crate::http::h2::{CANCEL, INTERNAL_ERROR, PROTOCOL_ERROR};
use crate::http::{Error, scratch};
use byrnie_base::assert_size;
use byrnie_codec::Fields;
use byrnie_codec::hop::code;
use std::task::{Context, Waker};

/// One stream's inbox.
#[derive(Debug)]
pub(super) struct Lane {
    inbox: Vec<u8>,
    /// How much of the inbox's beginning was taken.
    taken: usize,
    /// Interim heads at the beginning of what wasn't.
    pub(super) interims: u8,
    /// The head, but for interim ones, has come.
    pub(super) headed: bool,
    /// Some head has come, be it an interim one, or a request's.
    pub(super) answered: bool,
    pub(super) end: End,
    pub(super) trailers: Option<Box<Fields>>,
    /// In the list of those who wait for room to send.
    pub(super) queued: bool,
    waker: Option<Waker>,
}

// A connection keeps room for as many as it ever had streams at once.
assert_size!(Lane, 72);

/// How far the other side's direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// It has ended in order.
    Ended,
    /// It was reset, with this code.
    Reset(u32),
    /// It ended in order; then the stream was reset, and nothing more can be sent.
    Complete,
    /// The connection is gone.
    Lost,
}

impl Lane {
    pub(super) const fn new() -> Self {
        Self {
            inbox: Vec::new(),
            taken: 0,
            interims: 0,
            headed: false,
            answered: false,
            end: End::Open,
            trailers: None,
            queued: false,
            waker: None,
        }
    }

    /// Keeps what came.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.inbox.capacity() == 0 {
            self.inbox = scratch::buffer_for(bytes.len());
        }
        // What was taken goes once it's as much as what is left, so that it's moved once at most.
        if self.taken > self.inbox.len() / 2 {
            self.inbox.drain(..std::mem::take(&mut self.taken));
        }
        // To double it would leave half of it empty, for as long as nobody reads.
        if self.inbox.capacity() - self.inbox.len() < bytes.len() {
            self.inbox.reserve_exact(bytes.len().max(self.inbox.len() / 4));
        }
        self.inbox.extend_from_slice(bytes);
    }

    /// What came and wasn't taken.
    pub(super) fn unread(&self) -> &[u8] {
        &self.inbox[self.taken..]
    }

    /// Takes the beginning of it.
    pub(super) fn advance(&mut self, used: usize) {
        self.taken += used;
        if self.taken >= self.inbox.len() {
            scratch::recycle(self.take().0);
        }
    }

    /// Takes all of it: a buffer, and where in it begins what wasn't taken before.
    pub(super) fn take(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.inbox), std::mem::take(&mut self.taken))
    }

    /// Whether the other side's direction has ended in order.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.end, End::Ended | End::Complete)
    }

    /// Why nothing more will come, if it didn't end in order.
    pub(super) fn fault(&self) -> Option<Error> {
        match self.end {
            End::Open | End::Ended | End::Complete => None,
            End::Lost => Some(Error::Closed),
            // Who has begun to answer has done something with the request, whatever it says.
            End::Reset(code::REFUSED) if !self.answered => Some(Error::Refused),
            End::Reset(code::MALFORMED) => Some(Error::Broken(PROTOCOL_ERROR)),
            End::Reset(code::CANCEL) => Some(Error::Reset(CANCEL)),
            End::Reset(_) => Some(Error::Reset(INTERNAL_ERROR)),
        }
    }

    /// Whether a head lies here that is handed on though the stream was reset: a refusal that comes behind an answer's head
    /// doesn't undo it.
    pub(super) fn is_refused_late(&self) -> bool {
        self.end == End::Reset(code::REFUSED) && (self.interims > 0 || self.headed)
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The lanes of a connection, by key.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Option<Lane>>,
    free: Vec<u32>,
}

impl Lanes {
    pub(super) fn next_key(&self) -> u32 {
        // There are at most as many as streams and flows: far below 2^32.
        self.free.last().copied().unwrap_or(self.lanes.len() as u32)
    }

    /// Adds one, under [`Lanes::next_key`].
    pub(super) fn add(&mut self, lane: Lane) -> u32 {
        let key = self.next_key();
        if self.free.pop().is_some()
            && let Some(place) = self.lanes.get_mut(key as usize)
        {
            *place = Some(lane);
        } else {
            self.lanes.push(Some(lane));
        }
        key
    }

    pub(super) fn get(&mut self, key: u32) -> Option<&mut Lane> {
        self.lanes.get_mut(key as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: u32) -> Option<Lane> {
        let lane = self.lanes.get_mut(key as usize)?.take()?;
        self.free.push(key);
        Some(lane)
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().flatten()
    }
}
