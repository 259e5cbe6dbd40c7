// SPDX-License-Identifier: Apache-2.0
//! The streams of one connection that are open in any direction, and the numbers of those that we reset.

use super::{RESETS_REMEMBERED, STREAM_WINDOW_BYTES};
use crate::hop::Window;
use byrnie_base::hash::BuildQuick;
use std::collections::{HashMap, VecDeque};

/// One stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// What its owner calls it by.
    pub(super) key: u32,
    /// What may be sent; negative once SETTINGS took back what was sent already.
    pub(super) send: i64,
    pub(super) window: Window,
    /// What must still come of a body whose length its head named.
    pub(super) left: Option<u64>,
    pub(super) interims: u8,
    /// It was asked by HEAD: a length announces nothing.
    pub(super) heading: bool,
    pub(super) got: Direction,
    pub(super) sent: Direction,
}

/// How far a direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    /// No final head yet.
    Begun,
    Headed,
    Ended,
}

impl Stream {
    pub(super) const fn new(key: u32, send: u32) -> Self {
        Self {
            key,
            send: send as i64,
            window: Window::new(STREAM_WINDOW_BYTES),
            left: None,
            interims: 0,
            heading: false,
            got: Direction::Begun,
            sent: Direction::Begun,
        }
    }
}

/// The streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// There are never more than some hundred, so that numbers chosen for their hashes gain nothing.
    open: HashMap<u32, Stream, BuildQuick>,
    /// Those that we reset while the peer could still send, the last ones.
    reset: VecDeque<u32>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn get(&mut self, id: u32) -> Option<&mut Stream> {
        self.open.get_mut(&id)
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.open.contains_key(&id)
    }

    pub(super) fn add(&mut self, id: u32, stream: Stream) {
        self.open.insert(id, stream);
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        self.open.remove(&id)
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.open.values_mut()
    }

    /// Takes those out whose number is above `last`.
    pub(super) fn take_above(&mut self, last: u32) -> Vec<u32> {
        self.open.extract_if(|id, _| *id > last).map(|(_, stream)| stream.key).collect()
    }

    /// Notes that we reset a stream on which the peer may still be sending.
    pub(super) fn note_reset(&mut self, id: u32) {
        if self.reset.len() >= RESETS_REMEMBERED {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    /// Whether we reset this stream not long ago.
    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }
}
