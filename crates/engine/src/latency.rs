// SPDX-License-Identifier: Apache-2.0
//! How long a cluster takes to answer, as one core sees it: enough to say when a try is worth giving
//! up. Kept in a shard; fed with the time to each response head.

use std::time::Duration;

/// An estimate of the 99th percentile in 264 bytes. Older samples fade by halves.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    counts: [u32; BUCKETS],
    samples: u32,
    until_fresh: u32,
    p99: Option<Duration>,
}

/// Four buckets for each power of two, from 256 us to 16 s.
const BUCKETS: usize = 64;
const SUB_BITS: u32 = 2;
const FLOOR_BITS: u32 = 8;
/// The estimate is made anew after so many samples.
const FRESH_AFTER: u32 = 64;
/// Before so many the 99th percentile isn't known; up to [`FRESH_AFTER`] the longest stands for it.
const KNOWN_AFTER: u32 = 16;
/// Beyond so many samples all counts are halved.
const SAMPLES_MAX: u32 = 4096;

impl Default for Latency {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], samples: 0, until_fresh: KNOWN_AFTER, p99: None }
    }
}

impl Latency {
    /// Takes note of one time.
    pub(crate) fn note(&mut self, span: Duration) {
        self.counts[bucket(span)] += 1;
        self.samples += 1;
        self.until_fresh -= 1;
        if self.until_fresh == 0 {
            self.until_fresh = FRESH_AFTER;
            self.p99 = Some(self.estimate(99));
            if self.samples >= SAMPLES_MAX {
                self.fade();
            }
        }
    }

    /// The time within which 99 of 100 answers come (the upper end of its bucket); `None` before
    /// [`KNOWN_AFTER`] samples.
    pub(crate) const fn p99(&self) -> Option<Duration> {
        self.p99
    }

    /// The time within which so many of 100 answers come, as [`Latency::p99`]; `None` before [`FRESH_AFTER`] samples.
    pub(crate) fn percentile(&self, percent: u8) -> Option<Duration> {
        (self.samples >= FRESH_AFTER).then(|| self.estimate(percent))
    }

    fn estimate(&self, percent: u8) -> Duration {
        let beyond_max = self.samples * (100 - u32::from(percent.min(100))) / 100;
        let mut beyond = 0;
        for (index, count) in self.counts.iter().enumerate().rev() {
            beyond += count;
            if beyond > beyond_max {
                return upper(index);
            }
        }
        upper(0)
    }

    fn fade(&mut self) {
        for count in &mut self.counts {
            *count /= 2;
        }
        self.samples = self.counts.iter().sum();
    }
}

fn bucket(span: Duration) -> usize {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1 << FLOOR_BITS);
    let power = 63 - micros.leading_zeros();
    let sub = (micros >> (power - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    let index = u64::from(power - FLOOR_BITS) << SUB_BITS | sub;
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

fn upper(index: usize) -> Duration {
    let (power, sub) = ((index >> SUB_BITS) as u32 + FLOOR_BITS, (index & ((1 << SUB_BITS) - 1)) as u64);
    Duration::from_micros(((1u64 << SUB_BITS) + sub + 1) << (power - SUB_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_holds_ninety_nine_of_a_hundred() {
        let mut latency = Latency::default();
        assert_eq!(latency.p99(), None);
        for i in 0..6400u64 {
            latency.note(Duration::from_millis(if i % 200 == 0 { 900 } else { 10 }));
        }
        assert!(latency.percentile(50) <= latency.percentile(95) && latency.percentile(95) <= latency.p99());
        let p99 = latency.p99().unwrap();
        assert!(p99 >= Duration::from_millis(10) && p99 < Duration::from_millis(14), "{p99:?}");
        for _ in 0..600 {
            latency.note(Duration::from_secs(1));
        }
        assert!(latency.p99().unwrap() >= Duration::from_secs(1));
    }

    #[test]
    fn buckets_grow_and_stay_in_range() {
        let mut last = 0;
        for micros in [0, 1, 256, 300, 500, 1000, 5000, 1_000_000, 16_000_000, u64::MAX / 1000] {
            let index = bucket(Duration::from_micros(micros));
            assert!(index >= last && index < BUCKETS);
            if (256..16_000_000).contains(&micros) {
                assert!(upper(index) > Duration::from_micros(micros));
            }
            last = index;
        }
    }
}
