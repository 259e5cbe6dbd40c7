// SPDX-License-Identifier: Apache-2.0
//! Rates that many processes keep together: one of them counts, and leases deeds to the others, which do them without asking again. They
//! ask for what they do in a moment, by how fast the last lease was used. What isn't done in time is lost to all, so that a lease is
//! short. In memory of a fixed size, by key as in [`super::Paces`]; nothing
//! is locked.

use super::{Admitted, Padded};
use crate::clock::Instant;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Places of one line: what two cache lines hold.
const PLACES: usize = 4;
/// Low bits of a word hold a count, then one a flag, the others a time in milliseconds.
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// How long a lease may be used, in milliseconds.
const LEASE: u64 = 250;
/// What is asked for should last so long, in milliseconds: a fifth of that, as demand may fall.
const SPAN: u64 = 50;
/// Whoever is refused asks no earlier than after this: what comes meanwhile is refused, and nobody is asked.
const HOLD_MIN: Duration = Duration::from_millis(10);
/// How long an answer is waited for before another one asks for more than its own, in milliseconds.
const ASKED: u64 = 250;

#[derive(Debug, Default)]
struct Place {
    /// 0: free.
    key: AtomicU64,
    /// Deeds left, and until when; or, with the flag, until when there are none.
    held: AtomicU64,
    /// How many were leased last; and, with the flag, until when whoever has asked for more is waited for.
    asked: AtomicU64,
    /// What was left for all when it was last asked, and (the upper half) after how many milliseconds all is.
    told: AtomicU64,
}

/// Deeds leased to this process, by key.
#[derive(Debug)]
pub struct Leases {
    lines: Box<[Padded<[Place; PLACES]>]>,
    /// Until when nobody is asked.
    alone: Padded<AtomicU64>,
}

/// What one deed comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leased {
    /// It is one of those leased.
    Taken(Admitted),
    /// There are none for so long.
    Refused(Duration),
    /// Ask for this many, of which it is one.
    Ask(u32),
    /// Nobody can be asked just now.
    Alone,
}

/// What was leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// So many deeds: at least one.
    pub deeds: u32,
    /// What is left for all.
    pub left: Admitted,
}

impl Leases {
    /// Room for `keys`, rounded up to whole lines.
    pub fn new(keys: usize) -> Self {
        let lines = (0..keys.div_ceil(PLACES).max(1)).map(|_| Padded::default()).collect();
        Self { lines, alone: Padded::default() }
    }

    /// One deed of `key`, hashed as for [`super::Paces::admit`]. At most `most` are asked for at once.
    pub fn take(&self, key: u64, now: Instant, most: u32) -> Leased {
        let (place, at) = (self.place(key, now), millis(now));
        let taken = place.held.fetch_update(Relaxed, Relaxed, |word| {
            let held = Word::of(word);
            (!held.flag && held.at > at).then(|| held.count.checked_sub(1)).flatten().map(|count| held.with(count))
        });
        match taken.map(Word::of) {
            Ok(held) => {
                let told = place.told.load(Relaxed);
                let left = u32::try_from((told & u64::from(u32::MAX)) + held.count - 1).unwrap_or(u32::MAX);
                Leased::Taken(Admitted { left, rests_in: Duration::from_millis(told >> 32) })
            }
            Err(word) => match Word::of(word) {
                held if held.flag && held.at > at => Leased::Refused(Duration::from_millis(held.at - at)),
                _ if self.alone.0.load(Relaxed) > at => Leased::Alone,
                held => Leased::Ask(place.ask(held, at, most)),
            },
        }
    }

    /// Adds what was leased upon [`Leased::Ask`], but for the deed that asked.
    pub fn put(&self, key: u64, now: Instant, lease: Lease) -> Admitted {
        let (place, at) = (self.place(key, now), millis(now));
        let deeds = u64::from(lease.deeds.max(1));
        let rests = u64::try_from(lease.left.rests_in.as_millis()).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        place.told.store(rests << 32 | u64::from(lease.left.left), Relaxed);
        let last = Word::of(place.asked.load(Relaxed)).count;
        place.asked.store(Word { at: 0, flag: false, count: deeds.max(last) }.pack(), Relaxed);
        let mut own = 0;
        let _ = place.held.fetch_update(Relaxed, Relaxed, |word| {
            let held = Word::of(word);
            let kept = if !held.flag && held.at > at { held.count } else { 0 };
            own = kept + deeds - 1;
            Some(Word { at: at + LEASE, flag: false, count: own }.pack())
        });
        let own = u32::try_from(own).unwrap_or(u32::MAX);
        Admitted { left: lease.left.left.saturating_add(own), ..lease.left }
    }

    /// There are none for so long.
    pub fn close(&self, key: u64, now: Instant, wait: Duration) {
        let place = self.place(key, now);
        let last = Word::of(place.asked.load(Relaxed)).count;
        place.asked.store(Word { at: 0, flag: false, count: last }.pack(), Relaxed);
        place.held.store(Word { at: millis(now + wait.max(HOLD_MIN)) + 1, flag: true, count: 0 }.pack(), Relaxed);
    }

    /// Nobody is asked for so long: they can't be reached.
    pub fn leave_alone(&self, now: Instant, span: Duration) {
        self.alone.0.store(millis(now + span), Relaxed);
    }

    fn place(&self, key: u64, now: Instant) -> &Place {
        let key = key.max(1);
        let line = &self.lines[(key % self.lines.len() as u64) as usize].0;
        line.iter().find(|place| place.key.load(Relaxed) == key).unwrap_or_else(|| {
            // Free, else at rest, else the one that is nearest to it. Of two cores that take the same one loses it, and asks again.
            let at = millis(now);
            let rest = |place: &&Place| Word::of(place.held.load(Relaxed)).at.saturating_sub(at);
            let place = line.iter().min_by_key(rest).unwrap_or(&line[0]);
            place.held.store(0, Relaxed);
            place.asked.store(0, Relaxed);
            place.key.store(key, Relaxed);
            place
        })
    }
}

impl Place {
    /// How many to ask for.
    fn ask(&self, held: Word, at: u64, most: u32) -> u32 {
        let mut want = 1;
        let _ = self.asked.fetch_update(Relaxed, Relaxed, |word| {
            let Word { at: until, flag, count: last } = Word::of(word);
            if flag && until > at {
                // Somebody else has asked for those that come.
                return None;
            }
            let used = last.saturating_sub(held.count);
            let took = at.saturating_sub(held.at.saturating_sub(LEASE)).max(1);
            let pace = if held.flag { last } else { used * SPAN / took };
            want = pace.min(last * 2).min(u64::from(most)).clamp(1, COUNT_MAX);
            Some(Word { at: at + ASKED, flag: true, count: want }.pack())
        });
        u32::try_from(want).unwrap_or(1)
    }
}

/// What one number holds.
#[derive(Clone, Copy)]
struct Word {
    at: u64,
    flag: bool,
    count: u64,
}

impl Word {
    const fn of(word: u64) -> Self {
        let flag = word >> COUNT_BITS & 1 == 1;
        Self { at: word >> (COUNT_BITS + 1), flag, count: word & COUNT_MAX }
    }

    fn pack(self) -> u64 {
        self.at << (COUNT_BITS + 1) | u64::from(self.flag) << COUNT_BITS | self.count.min(COUNT_MAX)
    }

    fn with(self, count: u64) -> u64 {
        Self { count, ..self }.pack()
    }
}

fn millis(at: Instant) -> u64 {
    at.as_nanos() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::share::Paces;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn lease(deeds: u32) -> Lease {
        Lease { deeds, left: Admitted { left: 5, rests_in: Duration::from_secs(1) } }
    }

    #[test]
    fn what_is_leased_is_done_without_asking_and_what_lapsed_is_not() {
        let leases = Leases::new(8);
        assert_eq!(leases.take(7, at(1000), 100), Leased::Ask(1));
        assert_eq!(leases.put(7, at(1001), lease(3)).left, 7);
        for left in [6, 5] {
            assert!(matches!(leases.take(7, at(1011), 100), Leased::Taken(a) if a.left == left));
        }
        assert_eq!(leases.take(7, at(1011), 100), Leased::Ask(6), "three in 10 ms, but at most twice as many");
        assert_eq!(leases.take(7, at(1011), 100), Leased::Ask(1), "one has asked for more already");
        leases.put(7, at(1011), lease(6));
        assert!(matches!(leases.take(7, at(1260), 100), Leased::Taken(_)));
        assert_eq!(leases.take(7, at(1261), 100), Leased::Ask(1), "it lapsed: two were done in 250 ms");
        leases.put(7, at(1300), lease(6));
        for _ in 0..5 {
            assert!(matches!(leases.take(7, at(1350), 100), Leased::Taken(_)));
        }
        assert_eq!(leases.take(7, at(1350), 4), Leased::Ask(4), "no more than the most");
    }

    #[test]
    fn who_is_refused_is_so_without_asking_until_it_may_be_otherwise() {
        let leases = Leases::new(8);
        leases.close(7, at(1000), Duration::from_millis(100));
        assert_eq!(leases.take(7, at(1050), 9), Leased::Refused(Duration::from_millis(51)));
        assert_eq!(leases.take(8, at(1050), 9), Leased::Ask(1));
        assert_eq!(leases.take(7, at(1101), 9), Leased::Ask(1));
        leases.leave_alone(at(1200), Duration::from_secs(1));
        assert_eq!(leases.take(9, at(1300), 9), Leased::Alone);
        assert_eq!(leases.take(9, at(2200), 9), Leased::Ask(1));
    }

    /// Many that share a rate, with demands that change: all together never do more than it admits, and not much less.
    #[test]
    fn together_they_do_what_the_rate_admits() {
        const REQUESTS: u32 = 1000;
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let (limit, step) = (Paces::new(1), Duration::from_secs(1) / REQUESTS);
            let holders: Vec<Leases> = (0..8).map(|_| Leases::new(4)).collect();
            let mut weights = [1; 8];
            let mut done = 0;
            for now in 0..20_000 {
                if now % 1000 == 0 {
                    weights = std::array::from_fn(|_| rng.below(8).pow(2));
                }
                // Half as much again as is admitted.
                for _ in 0..REQUESTS * 3 / 2 / 1000 + u32::try_from(now % 2).unwrap() {
                    let mut at_weight = rng.below(weights.iter().sum::<u64>().max(1));
                    let chosen = weights.iter().position(|weight| {
                        let here = at_weight < *weight;
                        at_weight = at_weight.saturating_sub(*weight);
                        here
                    });
                    let holder = &holders[chosen.unwrap_or(0)];
                    done += match holder.take(1, at(now), 100) {
                        Leased::Taken(_) => 1,
                        Leased::Refused(_) | Leased::Alone => 0,
                        Leased::Ask(want) => match limit.admit_some(1, at(now), (step, REQUESTS), want) {
                            Ok((deeds, left)) => {
                                holder.put(1, at(now), Lease { deeds, left });
                                1
                            }
                            Err(wait) => {
                                holder.close(1, at(now), wait);
                                0
                            }
                        },
                    };
                }
                // A burst, and the rate.
                assert!(done <= u64::from(REQUESTS) + now + 1, "seed {seed}: {done} after {now} ms");
            }
            assert!(done >= 19_000, "seed {seed}: {done}");
        }
    }
}
