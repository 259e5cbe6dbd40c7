// SPDX-License-Identifier: Apache-2.0
//! Rates of many keys at once, in memory of a fixed size: each is a [`super::Pace`] that is found by its key. A
//! key's line of eight places is chosen by the key; a new key takes a free place, else one whose rate is at rest, else
//! the one that is nearest to it, whose key may then do more than its rate allows. Nothing is locked.

use super::{Admitted, Padded, admit_some};
use crate::clock::Instant;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Places of one line: what two cache lines hold.
const PLACES: usize = 8;

#[derive(Debug, Default)]
struct Place {
    /// 0: free.
    key: AtomicU64,
    due: AtomicU64,
}

/// Rates of many keys.
#[derive(Debug)]
pub struct Paces(Box<[Padded<[Place; PLACES]>]>);

impl Paces {
    /// Room for `keys`, rounded up to whole lines.
    pub fn new(keys: usize) -> Self {
        let lines = keys.div_ceil(PLACES).max(1);
        Self((0..lines).map(|_| Padded::default()).collect())
    }

    /// Admits one deed of `key` as [`super::Pace::admit`] does. Keys are taken for the same if their hashes are, so
    /// they must be spread over all of 64 bits, by a hash that their choosers can't compute backwards.
    ///
    /// # Errors
    /// How long to wait until the next would be admitted.
    pub fn admit(&self, key: u64, now: Instant, interval: Duration, burst: u32) -> Result<Admitted, Duration> {
        self.admit_some(key, now, (interval, burst), 1).map(|(_, admitted)| admitted)
    }

    /// Admits as many of `most` deeds (0 counts as 1) as `rate`, an interval and a burst, does: at least one. Says how many.
    ///
    /// # Errors
    /// How long to wait until the next would be admitted.
    pub fn admit_some(
        &self,
        key: u64,
        now: Instant,
        (interval, burst): (Duration, u32),
        most: u32,
    ) -> Result<(u32, Admitted), Duration> {
        let key = key.max(1);
        let line = &self.0[(key % self.0.len() as u64) as usize].0;
        let place = line.iter().find(|place| place.key.load(Relaxed) == key).unwrap_or_else(|| {
            // Of two cores that take the same place at once one loses it, and what its key did is forgotten.
            let rest = |place: &&Place| place.due.load(Relaxed) * u64::from(place.key.load(Relaxed) != 0);
            let place = line.iter().min_by_key(rest).unwrap_or(&line[0]);
            place.key.store(key, Relaxed);
            place.due.store(0, Relaxed);
            place
        });
        admit_some(&place.due, now, interval, burst, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// As a hash would spread it.
    fn key(n: u64) -> u64 {
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn each_key_has_its_own_rate() {
        let paces = Paces::new(1024);
        for n in 1..=100 {
            for left in [2, 1, 0] {
                let admitted = paces.admit(key(n), at(1000), STEP, 3).unwrap();
                assert_eq!((admitted.left, admitted.rests_in), (left, STEP * (3 - left)), "{n}");
            }
            assert_eq!(paces.admit(key(n), at(1000), STEP, 3), Err(STEP), "{n}");
        }
        assert!(paces.admit(key(7), at(1010), STEP, 3).is_ok());
        assert!(paces.admit(0, at(1010), STEP, 1).is_ok() && paces.admit(0, at(1010), STEP, 1).is_err());
    }

    #[test]
    fn some_are_admitted_at_once_as_one_after_the_other() {
        let rate = (STEP, 10);
        let (some, single) = (Paces::new(8), Paces::new(8));
        for (now, most) in [(1000, 4), (1000, 4), (1000, 4), (1005, 1), (1010, 9), (1035, 9), (2000, 0), (2000, 100)] {
            let (count, told) =
                some.admit_some(1, at(now), rate, most).map_or_else(|wait| (0, Err(wait)), |(n, a)| (n, Ok(a)));
            let each: Vec<_> = (0..most.max(1)).map(|_| single.admit(1, at(now), rate.0, rate.1)).collect();
            let admitted: Vec<_> = each.iter().flatten().collect();
            assert_eq!(count as usize, admitted.len(), "{now} {most}");
            assert_eq!(told.ok(), admitted.last().map(|admitted| **admitted), "{now} {most}");
        }
    }

    #[test]
    fn keys_at_rest_make_room_and_no_crowd_takes_more_memory() {
        let paces = Paces::new(PLACES);
        for n in 1..=8 {
            assert!(paces.admit(n, at(1000 + n), STEP, 1).is_ok());
        }
        // All are known; the ninth takes the place of the one that is nearest to rest.
        assert!(paces.admit(9, at(1008), STEP, 1).is_ok());
        assert!((2..=9).all(|n| paces.admit(n, at(1008), STEP, 1).is_err()));
        assert!(paces.admit(1, at(1008), STEP, 1).is_ok(), "it was forgotten");
        for n in 0..100_000 {
            assert!(paces.admit(key(n + 10), at(2000), STEP, 1).is_ok());
        }
    }
}
