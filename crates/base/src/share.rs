// SPDX-License-Identifier: Apache-2.0
//! The few numbers that cores do share: requests in flight at an endpoint, budgets, ceilings. Each
//! stands in a cache line of its own, and an exchange may touch at most two of them. Anything else
//! that cores tell each other goes by [`crate::mailbox`].

mod keyed;
mod leased;

pub use keyed::Paces;
pub use leased::{Lease, Leased, Leases};

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Instant;

/// Keeps neighbours apart: 128 bytes, as two lines are fetched together on common processors.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// How many of something there are now, over all cores: in-flight requests of an endpoint.
#[derive(Debug, Default)]
pub struct InFlight(Padded<AtomicU64>);

impl InFlight {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more; tells how many there were before.
    pub fn enter(&self) -> u64 {
        self.0.0.fetch_add(1, Relaxed)
    }

    /// One less. Every `leave` must follow its own `enter`.
    pub fn leave(&self) {
        self.0.0.fetch_sub(1, Relaxed);
    }

    /// How many there are.
    pub fn value(&self) -> u64 {
        self.0.0.load(Relaxed)
    }
}

/// A few numbers about one thing, together in one cache line, so that cores that ask for one of them have
/// them all. Each is exact by itself; between two of them another core may write.
#[derive(Debug, Default)]
pub struct Line(Padded<[AtomicU64; Line::LEN]>);

impl Line {
    /// How many numbers there are; other places are taken for the last one.
    pub const LEN: usize = 8;

    fn cell(&self, at: usize) -> &AtomicU64 {
        &self.0.0[at.min(Self::LEN - 1)]
    }

    /// The number at a place; 0 to begin with.
    pub fn value(&self, at: usize) -> u64 {
        self.cell(at).load(Relaxed)
    }

    /// Writes a number. If two cores write at once, one of them wins.
    pub fn set(&self, at: usize, value: u64) {
        self.cell(at).store(value, Relaxed);
    }

    /// One more; tells how many there were before.
    pub fn increment(&self, at: usize) -> u64 {
        self.cell(at).fetch_add(1, Relaxed)
    }

    /// One less. Must follow its own `increment`.
    pub fn decrement(&self, at: usize) {
        self.cell(at).fetch_sub(1, Relaxed);
    }
}

/// A quantity that must not exceed a maximum: bytes of memory, connections, concurrent requests.
#[derive(Debug)]
pub struct Ceiling {
    used: Padded<AtomicU64>,
    max: AtomicU64,
}

impl Ceiling {
    /// Nothing used of `max`.
    pub fn new(max: u64) -> Self {
        Self { used: Padded::default(), max: AtomicU64::new(max) }
    }

    /// Takes `n` if that doesn't exceed the maximum. Who took it gives it back.
    #[must_use]
    pub fn take(&self, n: u64) -> bool {
        let before = self.used.0.fetch_add(n, Relaxed);
        if before.saturating_add(n) <= self.max.load(Relaxed) {
            return true;
        }
        self.give_back(n);
        false
    }

    /// Gives back what was taken.
    pub fn give_back(&self, n: u64) {
        self.used.0.fetch_sub(n, Relaxed);
    }

    /// Sets the maximum; what is taken above it stays taken until given back.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Relaxed);
    }

    /// How much is taken. May show for a moment more than the maximum while an attempt is undone.
    pub fn used(&self) -> u64 {
        self.used.0.load(Relaxed)
    }
}

/// A rate that all cores keep together: the generic cell rate algorithm, as one number, the time at
/// which the next deed is due.
#[derive(Debug, Default)]
pub struct Pace(Padded<AtomicU64>);

impl Pace {
    /// Nothing was done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Admits one deed, if there was at most one each `interval` in the long run and no more than
    /// `burst` (0 counts as 1) at once.
    ///
    /// # Errors
    /// How long to wait until the next would be admitted.
    pub fn admit(&self, now: Instant, interval: Duration, burst: u32) -> Result<(), Duration> {
        admit(&self.0.0, now, interval, burst).map(drop)
    }

    /// Counts one deed that was done whether the rate admits it or not. However many there were, they keep
    /// others waiting for no longer than a full burst does.
    pub fn charge(&self, now: Instant, interval: Duration, burst: u32) {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let (now, step) = (now.as_nanos(), nanos(interval));
        let most = now.saturating_add(nanos(interval.saturating_mul(burst.max(1))));
        let _ = self.0.0.fetch_update(Relaxed, Relaxed, |due| Some(due.max(now).saturating_add(step).min(most)));
    }
}

/// What is left of a rate after one more deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// So many more would be admitted at once.
    pub left: u32,
    /// After this time without any, a full burst is.
    pub rests_in: Duration,
}

/// One deed by the generic cell rate algorithm (ITU-T I.371, annex A), whose state is when the next one is due.
fn admit(due: &AtomicU64, now: Instant, interval: Duration, burst: u32) -> Result<Admitted, Duration> {
    admit_some(due, now, interval, burst, 1).map(|(_, admitted)| admitted)
}

/// As many of `most` deeds (0 counts as 1) as the rate admits: at least one.
fn admit_some(
    due: &AtomicU64,
    now: Instant,
    interval: Duration,
    burst: u32,
    most: u32,
) -> Result<(u32, Admitted), Duration> {
    let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let (now, step) = (now.as_nanos(), nanos(interval));
    let tolerance = nanos(interval.saturating_mul(burst.saturating_sub(1)));
    let full = tolerance.saturating_add(step);
    let (mut early, mut next, mut count) = (0, 0, 0);
    let _ = due.fetch_update(Relaxed, Relaxed, |due| {
        let left = due.max(now) - now;
        // No further than a full burst, which is as far as deeds of this rate bring it: what a slower one left is forgiven
        // once the rate is another.
        let ahead = left.min(full);
        early = ahead.saturating_sub(tolerance);
        count = u64::from(most.max(1)).min(tolerance.saturating_sub(ahead) / step.max(1) + 1);
        next = now.saturating_add(ahead).saturating_add(step.saturating_mul(count));
        if early == 0 { Some(next) } else { (left > full).then_some(now.saturating_add(full)) }
    });
    if early > 0 {
        return Err(Duration::from_nanos(early));
    }
    let ahead = next - now;
    let left = tolerance.checked_sub(ahead).map_or(0, |room| room / step.max(1) + 1);
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    Ok((u32::try_from(count).unwrap_or(most), Admitted { left, rests_in: Duration::from_nanos(ahead) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_ceiling_holds_under_contention() {
        let ceiling = Arc::new(Ceiling::new(10));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let ceiling = Arc::clone(&ceiling);
                std::thread::spawn(move || {
                    for _ in 0..10_000 {
                        if ceiling.take(3) {
                            ceiling.give_back(3);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(ceiling.used(), 0);
        assert!(ceiling.take(10) && !ceiling.take(1));
        ceiling.set_max(11);
        assert!(ceiling.take(1));
    }

    #[test]
    fn a_pace_admits_a_burst_and_then_its_rate() {
        let pace = Pace::new();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let step = Duration::from_millis(10);
        for _ in 0..3 {
            assert_eq!(pace.admit(at(1000), step, 3), Ok(()));
        }
        assert_eq!(pace.admit(at(1000), step, 3), Err(step));
        assert_eq!(pace.admit(at(1004), step, 3), Err(Duration::from_millis(6)));
        assert_eq!(pace.admit(at(1010), step, 3), Ok(()));
        assert_eq!(pace.admit(at(1010), step, 3), Err(step));
        let slow = Pace::new();
        assert_eq!(slow.admit(at(0), Duration::MAX, u32::MAX), Ok(()));
        assert!(slow.admit(at(0), Duration::MAX, 0).is_err());
    }

    #[test]
    fn a_rate_that_is_raised_holds_from_then_on() {
        let pace = Pace::new();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let hour = Duration::from_secs(3600);
        assert_eq!((pace.admit(at(0), hour, 1), pace.admit(at(0), hour, 1)), (Ok(()), Err(hour)));
        let step = Duration::from_millis(10);
        assert_eq!(pace.admit(at(0), step, 3), Err(step));
        assert_eq!(pace.admit(at(10), step, 3), Ok(()));
    }

    #[test]
    fn what_is_charged_leaves_less_to_admit() {
        let pace = Pace::new();
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let step = Duration::from_millis(10);
        for _ in 0..1000 {
            pace.charge(at(1000), step, 3);
        }
        assert_eq!(pace.admit(at(1000), step, 3), Err(step));
        assert_eq!(pace.admit(at(1010), step, 3), Ok(()));
        assert!(pace.admit(at(1010), step, 3).is_err());
    }

    #[test]
    fn in_flight_rises_and_falls() {
        let load = InFlight::new();
        assert_eq!((load.enter(), load.enter()), (0, 1));
        load.leave();
        assert_eq!(load.value(), 1);
    }
}
