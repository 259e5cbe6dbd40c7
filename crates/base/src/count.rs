// SPDX-License-Identifier: Apache-2.0
//! Counters and histograms of one core. A cell has a single writer, its core, which pays a plain load
//! and store; a scrape on another thread reads the same cells and merges those of all cores. Never
//! let two threads write one cell: counts would be lost (nothing worse).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only grows, written by one thread and read by any.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`; wraps after 2^64.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// The count.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that rises and falls (connections, streams), written by one thread and read by any.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    pub fn rise(&self) {
        self.0.store(self.0.load(Relaxed).saturating_add(1), Relaxed);
    }

    /// One less; never below zero.
    pub fn fall(&self) {
        self.0.store(self.0.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// Sets the level.
    pub fn set(&self, level: u64) {
        self.0.store(level, Relaxed);
    }

    /// The level.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// log2 of the smallest time told apart, in microseconds: 16 us.
const LOWEST_POWER: u32 = 4;
/// log2 of the time from which on all is one bucket, in microseconds: 67.1 s.
const HIGHEST_POWER: u32 = 26;
/// log2 of the buckets per power of two: a bucket is at most 12.5 % wide.
const SUB_POWER: u32 = 3;
const SUB: usize = 1 << SUB_POWER;

/// Buckets of a histogram: one below 16 us, 8 for each power of two up to 67 s, one above.
pub const BUCKETS: usize = (HIGHEST_POWER - LOWEST_POWER) as usize * SUB + 2;

/// How long something took, as counts in log-linear buckets, written by one thread and read by any.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64; BUCKETS]>,
    sum_micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// No times. Takes 1.4 KiB.
    pub fn new() -> Self {
        Self { counts: Box::new([const { AtomicU64::new(0) }; BUCKETS]), sum_micros: AtomicU64::new(0) }
    }

    /// Counts one time.
    pub fn record(&self, took: Duration) {
        let micros = micros(took);
        let cell = &self.counts[bucket(micros)];
        cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum_micros.store(self.sum_micros.load(Relaxed).wrapping_add(micros), Relaxed);
    }
}

/// Counts of times gathered from histograms: what is merged, compared, reported and asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    counts: Box<[u64; BUCKETS]>,
    sum_micros: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self::new()
    }
}

impl Distribution {
    /// No times.
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), sum_micros: 0 }
    }

    /// Adds what a histogram has counted so far.
    pub fn gather(&mut self, from: &Histogram) {
        for (sum, cell) in self.counts.iter_mut().zip(from.counts.iter()) {
            *sum = sum.saturating_add(cell.load(Relaxed));
        }
        self.sum_micros = self.sum_micros.saturating_add(from.sum_micros.load(Relaxed));
    }

    /// Adds another distribution.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *sum = sum.saturating_add(*more);
        }
        self.sum_micros = self.sum_micros.saturating_add(other.sum_micros);
    }

    /// What came since `earlier`, an older state of the same histograms.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut fresh = self.clone();
        for (count, old) in fresh.counts.iter_mut().zip(earlier.counts.iter()) {
            *count = count.saturating_sub(*old);
        }
        fresh.sum_micros = fresh.sum_micros.saturating_sub(earlier.sum_micros);
        fresh
    }

    /// Counts one time.
    pub fn record(&mut self, took: Duration) {
        let micros = micros(took);
        self.add(bucket(micros), 1);
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum: u64, n| sum.saturating_add(*n))
    }

    /// All times together, to the microsecond.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// How many times were at most `bound`, rounded down to whole buckets: exact where `bound` is a
    /// bucket's border, as the powers of two of a microsecond are.
    pub fn at_most(&self, bound: Duration) -> u64 {
        let micros = micros(bound);
        let whole = (0..BUCKETS - 1).take_while(|i| end_micros(*i) <= micros).count();
        self.counts[..whole].iter().fold(0, |sum: u64, n| sum.saturating_add(*n))
    }

    /// The time below which the fraction `q` (0 to 1) of all lies, interpolated within its bucket and
    /// so at most 12.5 % off; `None` if nothing was counted. Above 67 s the answer is 67 s.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * count as f64;
        let mut before = 0.0;
        for (i, n) in self.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let n = *n as f64;
            if before + n >= rank {
                let (start, end) = (start_micros(i), end_micros(i));
                let within = ((rank - before) / n).clamp(0.0, 1.0);
                return Some(Duration::from_micros(start + ((end - start) as f64 * within) as u64));
            }
            before += n;
        }
        Some(Duration::from_micros(1 << HIGHEST_POWER))
    }

    /// The buckets that aren't empty as (index, count), in order: what travels in reports.
    pub fn sparse(&self) -> impl Iterator<Item = (u16, u64)> {
        // There are fewer than 2^16 buckets.
        self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, n)| (i as u16, *n))
    }

    /// Adds buckets that came in a report. An index that doesn't exist counts as the highest bucket,
    /// as reports come from other processes.
    pub fn add_sparse(&mut self, buckets: impl IntoIterator<Item = (u16, u64)>, sum: Duration) {
        for (index, n) in buckets {
            self.add(usize::from(index).min(BUCKETS - 1), n);
        }
        self.sum_micros = self.sum_micros.saturating_add(micros(sum));
    }

    fn add(&mut self, index: usize, n: u64) {
        self.counts[index] = self.counts[index].saturating_add(n);
    }
}

/// The time that a bucket's times lie below; that of the last bucket is where it starts.
pub fn bucket_end(index: usize) -> Duration {
    Duration::from_micros(end_micros(index))
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn bucket(micros: u64) -> usize {
    if micros < 1 << LOWEST_POWER {
        return 0;
    }
    let power = 63 - micros.leading_zeros();
    if power >= HIGHEST_POWER {
        return BUCKETS - 1;
    }
    let sub = (micros >> (power - SUB_POWER)) as usize & (SUB - 1);
    1 + (power - LOWEST_POWER) as usize * SUB + sub
}

fn start_micros(index: usize) -> u64 {
    let Some(i) = index.checked_sub(1) else { return 0 };
    let power = (LOWEST_POWER + (i / SUB) as u32).min(HIGHEST_POWER);
    let sub = if power == HIGHEST_POWER { 0 } else { (i % SUB) as u64 };
    (1 << power) + (sub << (power - SUB_POWER))
}

fn end_micros(index: usize) -> u64 {
    start_micros((index + 1).min(BUCKETS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_lie_side_by_side() {
        assert_eq!(BUCKETS, 178);
        assert_eq!(end_micros(0), 16);
        assert_eq!(start_micros(BUCKETS - 1), 1 << 26);
        for i in 0..BUCKETS - 1 {
            assert_eq!(bucket(start_micros(i)), i);
            assert_eq!(bucket(end_micros(i) - 1), i);
            assert_eq!(end_micros(i), start_micros(i + 1));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn counts_of_cores_merge_and_differ() {
        let (a, b) = (Histogram::new(), Histogram::new());
        for ms in 1..=100 {
            a.record(Duration::from_millis(ms));
            b.record(Duration::from_millis(ms));
        }
        let mut all = Distribution::new();
        all.gather(&a);
        let first = all.clone();
        all.gather(&b);
        assert_eq!((all.count(), all.sum()), (200, Duration::from_millis(10_100)));
        assert_eq!(all.since(&first), first);
        let mut sent = Distribution::new();
        sent.add_sparse(all.sparse(), all.sum());
        assert_eq!(sent, all);
        sent.add_sparse([(u16::MAX, 3)], Duration::MAX);
        assert_eq!(sent.count(), 203);
        assert_eq!(all.at_most(Duration::from_micros(1 << 16)), 130);
        assert_eq!(Distribution::new().quantile(0.5), None);
    }

    #[test]
    fn counters_and_gauges_count() {
        let (c, g) = (Counter::new(), Gauge::new());
        c.increment();
        c.add(4);
        g.fall();
        g.rise();
        g.rise();
        g.fall();
        assert_eq!((c.value(), g.value()), (5, 1));
    }

    proptest! {
        #[test]
        fn quantiles_are_within_a_bucket(mut micros in prop::collection::vec(16u64..60_000_000, 1..200), q in 0.01f64..1.0) {
            let mut times = Distribution::new();
            for m in &micros {
                times.record(Duration::from_micros(*m));
            }
            micros.sort_unstable();
            let rank = ((q * micros.len() as f64).ceil() as usize).clamp(1, micros.len());
            let exact = micros[rank - 1] as f64;
            let told = times.quantile(q).unwrap().as_micros() as f64;
            prop_assert!((told - exact).abs() <= exact * 0.126 + 1.0, "{told} for {exact}");
        }
    }
}
