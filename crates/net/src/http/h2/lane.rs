// SPDX-License-Identifier: Apache-2.0
//! What has come on a stream and wasn't taken yet, and who waits for it. A lane lives as long as its
//! [`super::Flow`], which may be longer than the stream.

use super::INTERNAL_ERROR;
use crate::http::{Error, scratch};
use byrnie_base::assert_size;
use byrnie_codec::h2::Why;
use byrnie_codec::{Fields, Head, grpc};
use std::collections::VecDeque;
use std::task::{Context, Waker};

/// One stream's inbox.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) inbox: Vec<u8>,
    /// Heads of answers; and whether each is an interim one.
    pub(super) heads: VecDeque<(Box<Head>, bool)>,
    /// Some head has come.
    pub(super) answered: bool,
    pub(super) end: End,
    pub(super) trailers: Option<Box<Fields>>,
    /// In the list of those who wait for room to send.
    pub(super) queued: bool,
    /// Some flow has it, or will.
    live: bool,
    waker: Option<Waker>,
}

// A connection keeps one for each stream that it ever had at once.
assert_size!(Lane, 96);

/// How far the other side's direction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    Open,
    /// It has ended in order.
    Ended,
    /// It ended in order; then the stream was reset, and nothing more can be sent.
    Complete,
    /// The stream was reset.
    Reset(Why),
    /// The connection is gone.
    Lost,
}

impl Lane {
    /// Keeps what came.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.inbox.capacity() == 0 {
            self.inbox = scratch::buffer_for(bytes.len());
        }
        self.inbox.extend_from_slice(bytes);
    }

    /// Whether the other side's direction has ended in order.
    pub(super) const fn has_ended(&self) -> bool {
        matches!(self.end, End::Ended | End::Complete)
    }

    /// The other side's direction has ended, unless it had before.
    pub(super) fn finish(&mut self, end: End) {
        self.end = match (self.end, end) {
            (End::Open, end) => end,
            // What came is whole, whatever becomes of the rest.
            (End::Ended, End::Reset(_)) => End::Complete,
            (before, _) => before,
        };
        self.wake();
    }

    /// Why nothing more will come, if it didn't end in order.
    pub(super) const fn fault(&self) -> Option<Error> {
        match self.end {
            End::Open | End::Ended | End::Complete => None,
            End::Lost => Some(Error::Closed),
            // Who has begun to answer has done something with the request, whatever it says (RFC 9113 8.7).
            End::Reset(Why::Refused) if self.answered => Some(Error::Reset(INTERNAL_ERROR)),
            End::Reset(Why::Refused) => Some(Error::Refused),
            End::Reset(Why::Malformed(reject)) => Some(Error::Reject(reject)),
            End::Reset(Why::Peer { code, .. }) => Some(Error::Reset(code)),
            End::Reset(Why::Broken(code)) => Some(Error::Broken(code)),
        }
    }

    /// Whether a head lies here that is handed on though its server reset the stream or is gone: a refusal that comes behind an answer's
    /// head doesn't undo it, and a call of gRPC is being answered once there is one. Its caller has the messages that came, and goes by
    /// the reset's code, as it does without a proxy; whether all came at once is chance.
    pub(super) fn has_begun(&self) -> bool {
        match self.end {
            End::Reset(Why::Refused) => !self.heads.is_empty(),
            End::Reset(Why::Peer { .. }) | End::Lost => {
                self.heads.iter().any(|(head, interim)| !interim && grpc::is_grpc(head))
            }
            _ => false,
        }
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

/// The lanes of a connection, by key. They are used again with what memory they have.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    free: Vec<u32>,
}

impl Lanes {
    pub(super) fn next_key(&self) -> u32 {
        // There are at most as many as streams and flows: far below 2^32.
        self.free.last().copied().unwrap_or(self.lanes.len() as u32)
    }

    /// Adds one, under [`Lanes::next_key`].
    pub(super) fn add(&mut self, end: End) -> u32 {
        let key = self.next_key();
        if self.free.pop().is_none() {
            self.lanes.push(Lane::default());
        }
        if let Some(lane) = self.lanes.get_mut(key as usize) {
            (lane.end, lane.live) = (end, true);
        }
        key
    }

    pub(super) fn get(&mut self, key: u32) -> Option<&mut Lane> {
        self.lanes.get_mut(key as usize).filter(|lane| lane.live)
    }

    /// Frees a lane; what lies in it, `empty` takes out.
    pub(super) fn remove(&mut self, key: u32, empty: impl FnOnce(&mut Lane)) {
        let Some(lane) = self.get(key) else { return };
        empty(lane);
        (lane.live, lane.queued, lane.answered, lane.waker, lane.trailers) = (false, false, false, None, None);
        self.free.push(key);
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().filter(|lane| lane.live)
    }
}
