// SPDX-License-Identifier: Apache-2.0
//! The ground of a simulation: a virtual clock, seeded dice, a queue of what happens when, and a log
//! whose running hash tells whether two runs were the same. It knows nothing of a mesh.

use byrnie_base::{Clock, Instant, Now, Rng, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Lines of the log that a report keeps.
pub const LINES_MAX: usize = 200;

/// When the simulation begins on the wall: 2026-01-01T00:00:00Z.
const EPOCH_MILLIS: u64 = 1_767_225_600_000;

/// Both clocks of a simulation. The monotonic one moves with the queue alone.
#[derive(Debug, Default)]
pub struct VirtualClock {
    nanos: AtomicU64,
    /// How far the wall clock is off, in milliseconds.
    skew: AtomicI64,
}

impl VirtualClock {
    /// Sets the wall clock ahead or back.
    pub fn jump(&self, millis: i64) {
        self.skew.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Now {
        let nanos = self.nanos.load(Ordering::Relaxed);
        let wall = (EPOCH_MILLIS + nanos / 1_000_000).saturating_add_signed(self.skew.load(Ordering::Relaxed));
        Now { mono: Instant::from_nanos(nanos), wall: Timestamp::from_millis(wall) }
    }
}

/// Time, dice, events to come and events that were.
pub struct World<E> {
    /// The clock that all parts of the simulation read.
    pub clock: Arc<VirtualClock>,
    /// The only source of chance.
    pub rng: Rng,
    /// What happened.
    pub log: Log,
    queue: BTreeMap<(Instant, u64), E>,
    scheduled: u64,
}

impl<E> World<E> {
    /// A world at time zero.
    pub fn new(seed: u64) -> Self {
        Self { clock: Arc::default(), rng: Rng::new(seed), log: Log::default(), queue: BTreeMap::new(), scheduled: 0 }
    }

    /// The monotonic time.
    pub fn now(&self) -> Instant {
        self.clock.now().mono
    }

    /// Lets `event` happen `span` from now. Events of one instant happen in the order of these calls.
    pub fn after(&mut self, span: Duration, event: E) {
        self.at(self.now() + span, event);
    }

    /// Lets `event` happen at `instant`.
    pub fn at(&mut self, instant: Instant, event: E) {
        self.scheduled += 1;
        self.queue.insert((instant, self.scheduled), event);
    }

    /// The next event, with the clock moved to it; `None` when there is none before `end`.
    pub fn next(&mut self, end: Instant) -> Option<E> {
        let first = self.queue.first_entry()?;
        let at = first.key().0;
        if at > end {
            return None;
        }
        let event = first.remove();
        self.clock.nanos.store(at.as_nanos(), Ordering::Relaxed);
        Some(event)
    }

    /// A span between two others, thrown with the dice.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let range = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX);
        least + Duration::from_micros(self.rng.below(range.saturating_add(1)))
    }

    /// Writes a line into the log.
    pub fn note(&mut self, line: impl fmt::Display) {
        let now = self.now();
        self.log.note(now, &line);
    }
}

/// What happened: the last lines, and a hash of all (FNV-1a, 64 bits).
#[derive(Clone, Debug)]
pub struct Log {
    hash: u64,
    count: u64,
    lines: VecDeque<String>,
}

impl Default for Log {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, count: 0, lines: VecDeque::new() }
    }
}

impl Log {
    fn note(&mut self, now: Instant, line: &dyn fmt::Display) {
        let micros = now.as_nanos() / 1000;
        let line = format!("{:>4}.{:06} {line}", micros / 1_000_000, micros % 1_000_000);
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.count += 1;
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The hash of every line so far.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The last [`LINES_MAX`] lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

/// A short name for bytes in the log (FNV-1a, 32 bits).
pub(crate) fn digest(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
