// SPDX-License-Identifier: Apache-2.0
//! The streams of one connection that are open in any direction, and the numbers of those that we reset.

use super::{INITIAL_WINDOW_BYTES, RESETS_REMEMBERED, STREAM_WINDOW_BYTES};
use crate::hop::{CURB_BYTES, Window};
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
    /// What has still to be given back of an answer before it's like others; see [`CURB_BYTES`].
    pub(super) curb: u32,
    /// Its window was made for newcomers, and is still that.
    pub(super) narrow: bool,
    /// The other side may not have heard of that when it was opened.
    early: bool,
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
            curb: 0,
            narrow: false,
            early: false,
            left: None,
            interims: 0,
            heading: false,
            got: Direction::Begun,
            sent: Direction::Begun,
        }
    }

    /// One of ours to a server that lets nobody have more than [`CURB_BYTES`] before it's told otherwise; `heard`: it has said that it
    /// knows.
    pub(super) const fn narrow(self, heard: bool) -> Self {
        Self { window: Window::in_steps(CURB_BYTES, CURB_STEP_BYTES), narrow: true, early: !heard, ..self }
    }

    /// What is answered on it is for a newcomer. Of what a program sends the first [`CURB_BYTES`] that are passed on may lie between two
    /// proxies: only what is passed on after that says that somebody takes it.
    pub(super) const fn set_curb(&mut self) {
        self.curb = if self.narrow { 2 * CURB_BYTES } else { CURB_BYTES };
        self.window.set_step(CURB_STEP_BYTES);
    }

    /// So much has been passed on. Answers what to give back now; 0: nothing yet.
    pub(super) fn consume(&mut self, bytes: usize) -> u32 {
        let granted = self.window.consume(bytes);
        if self.curb == 0 || granted == 0 {
            return granted;
        }
        self.curb = self.curb.saturating_sub(granted);
        granted + if self.curb == 0 { self.open_up() } else { 0 }
    }

    /// Gives it the window that others have; what to give for it.
    fn open_up(&mut self) -> u32 {
        self.window.set_step(STREAM_WINDOW_BYTES / 2);
        let more = if std::mem::take(&mut self.narrow) { STREAM_WINDOW_BYTES - CURB_BYTES } else { 0 };
        self.window.widen(more);
        more
    }

    /// More than a small message has come: what to give for a window that others have, if it's none yet and may be one.
    pub(super) fn widen(&mut self) -> u32 {
        let due = self.narrow && self.curb == 0 && self.window.left() <= i64::from(CURB_BYTES - CURB_STEP_BYTES);
        if due { self.open_up() } else { 0 }
    }

    /// By how much more than its window may come: before it has heard of our SETTINGS a server goes by those of the protocol (RFC 9113 6.9.2).
    pub(super) fn leeway(&self) -> i64 {
        if self.narrow && self.early { i64::from(INITIAL_WINDOW_BYTES - CURB_BYTES) } else { 0 }
    }

    /// How much more may be sent now on a stream whose answer is for a newcomer, where the other side began with `window`.
    pub(super) fn curbed(&self, window: u32) -> i64 {
        let under_way = i64::from(window) - self.send;
        if self.curb > 0 { (i64::from(CURB_BYTES) - under_way).max(0) } else { i64::MAX }
    }
}

/// What is given back at once of what is curbed.
const CURB_STEP_BYTES: u32 = CURB_BYTES / 2;

/// The streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// So many a client may have open.
    pub(super) most: u32,
    /// There are never more than some hundred, so that numbers chosen for their hashes gain nothing.
    open: HashMap<u32, Stream, BuildQuick>,
    /// Those that we reset while the peer could still send, the last ones.
    reset: VecDeque<u32>,
    /// The highest of those that we reset and that aren't among the last ones any more; 0: none.
    forgotten: u32,
    /// Those of ours begin with little windows.
    pub(super) narrow: bool,
    /// The other side has acknowledged our SETTINGS.
    pub(super) heard: bool,
}

impl Streams {
    pub(super) fn new(most: u32, narrow: bool) -> Self {
        Self { most, narrow, ..Self::default() }
    }

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
        if self.reset.len() >= RESETS_REMEMBERED * self.most as usize {
            self.forgotten = self.forgotten.max(self.reset.pop_front().unwrap_or_default());
        }
        self.reset.push_back(id);
    }

    /// Whether we reset this stream not long ago.
    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }

    /// Whether we may have reset this stream once: no higher one is forgotten.
    pub(super) const fn may_have_been_reset(&self, id: u32) -> bool {
        id <= self.forgotten
    }
}
