// SPDX-License-Identifier: Apache-2.0
//! How many requests the own program is given at once, and who is turned away first when that is too many.
//! Asked by inbound exchanges, after access; on by default.
//!
//! The limit follows the program's latency (as Envoy's `adaptive_concurrency` and Netflix's
//! `concurrency-limits` do): there is a usual latency, the least one seen; a window of answers that took more
//! than its target multiplies the limit by `target / latency`, one within it adds the square root of the
//! limit. It is made for being on everywhere: the target is generous ([`TOLERANCE`], [`SLACK`]), there is no
//! limit until the target has been missed for [`BURST`], as a burst that passes by itself is no overload
//! ("Controlling Queue Delay" below tells a good queue from a bad one in the same way) or is being worked off ([`BURST_PART`]), never less than
//! [`LIMIT_MIN`], and if latency stays high down there, it's no queue that makes it high: that latency becomes
//! the usual one.
//!
//! Near the limit the less important go first: each class of `x-byrnie-criticality` (the four of "Site
//! Reliability Engineering", 2016, chapter 21) may use its share of the limit, and a caller that sends half
//! as much again as the callers do in the mean counts as two classes lower: that leaves room for the others. Requests of clients
//! that haven't taken an answer yet (`x-byrnie-newcomer`) count for each other alone: those who have share the limit among themselves.

use byrnie_base::Instant;
use byrnie_base::share::Line;
use std::time::Duration;

/// The limit of one service of the own program, shared by all cores.
#[derive(Debug, Default)]
pub(crate) struct Gate(Line);

const IN_FLIGHT: usize = 0;
/// 0: none.
const LIMIT: usize = 1;
/// The usual latency, in nanoseconds; 0: not known.
const USUAL: usize = 2;
/// Since when the limit has been at its least while latency stayed high, in nanoseconds; 0: it isn't so.
const STUCK_SINCE: usize = 3;
/// Since when every window has missed the target, and when the last of them ended, in nanoseconds; 0: it isn't so.
const MISSED_SINCE: usize = 4;
const MISSED_LAST: usize = 5;
/// The most in flight since then.
const MISSED_MOST: usize = 6;
/// Of those in flight, the ones of clients that haven't taken an answer yet.
const NEWCOMERS: usize = 7;

/// So many times the usual latency are still no sign of a queue.
const TOLERANCE: u64 = 3;
/// So much more than the usual latency isn't either.
const SLACK: Duration = Duration::from_millis(100);
/// A queue that is gone within this time was a burst; windows so far apart are not of one queue.
const BURST: Duration = Duration::from_secs(1);
/// One that has become shorter by this part within that time is going: a burst too, however large.
const BURST_PART: u64 = 8;
/// The limit is never less than this.
pub(crate) const LIMIT_MIN: u64 = 32;
/// Above this there is none.
const LIMIT_MAX: u64 = 1 << 16;
/// Latencies are judged so many answers and so much time at once, at least.
const WINDOW_ANSWERS: usize = 20;
const WINDOW: Duration = Duration::from_millis(100);
/// After so long at the least limit, the latency there is taken for the usual one.
const STUCK_MAX: Duration = Duration::from_secs(3);
/// The usual latency rises by this part with each window: a lucky hour isn't remembered for ever.
const USUAL_RISE: u64 = 4096;
/// When the caller is to come again.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How important a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Criticality {
    /// Nobody notices.
    Sheddable,
    /// Part of it may fail.
    SheddablePlus,
    /// A user notices. What a request is that says nothing.
    Critical,
    /// Many users notice.
    CriticalPlus,
}

impl Criticality {
    /// What the header says; anything unknown is as good as nothing.
    pub(crate) fn of(value: Option<&[u8]>) -> Self {
        match value {
            Some(value) if value.eq_ignore_ascii_case(b"critical-plus") => Self::CriticalPlus,
            Some(value) if value.eq_ignore_ascii_case(b"sheddable-plus") => Self::SheddablePlus,
            Some(value) if value.eq_ignore_ascii_case(b"sheddable") => Self::Sheddable,
            _ => Self::Critical,
        }
    }

    /// One class more.
    pub(crate) const fn higher(self) -> Self {
        match self {
            Self::Sheddable => Self::SheddablePlus,
            Self::SheddablePlus => Self::Critical,
            Self::Critical | Self::CriticalPlus => Self::CriticalPlus,
        }
    }

    /// One class less.
    pub(crate) const fn lower(self) -> Self {
        match self {
            Self::CriticalPlus => Self::Critical,
            Self::Critical => Self::SheddablePlus,
            Self::SheddablePlus | Self::Sheddable => Self::Sheddable,
        }
    }

    /// The share (percent) of the limit that may be in use when a request of this class is let in.
    const fn share(self) -> u64 {
        match self {
            Self::CriticalPlus => 100,
            Self::Critical => 95,
            Self::SheddablePlus => 75,
            Self::Sheddable => 50,
        }
    }
}

impl Gate {
    /// One more request, unless its class has no room. `newcomer`: its client hasn't taken an answer yet; such are here for all to
    /// see but those who have, so that no crowd of them keeps these out. `greedy` is asked only when there is a limit.
    pub(crate) fn enter(&self, class: Criticality, newcomer: bool, greedy: impl FnOnce() -> bool) -> bool {
        let (all, limit) = (self.0.increment(IN_FLIGHT), self.0.value(LIMIT));
        if newcomer {
            self.0.increment(NEWCOMERS);
        }
        if limit == 0 {
            return true;
        }
        let before = if newcomer { all } else { all.saturating_sub(self.0.value(NEWCOMERS)) };
        let class = if greedy() { class.lower().lower() } else { class };
        let fits = before * 100 < limit * class.share();
        if !fits {
            self.leave(newcomer);
        }
        fits
    }

    /// One less.
    pub(crate) fn leave(&self, newcomer: bool) {
        self.0.decrement(IN_FLIGHT);
        if newcomer {
            self.0.decrement(NEWCOMERS);
        }
    }

    /// Requests under way.
    pub(crate) fn in_flight(&self) -> u64 {
        self.0.value(IN_FLIGHT)
    }

    /// The limit now; `None`: there is none.
    pub(crate) fn limit(&self) -> Option<u64> {
        Some(self.0.value(LIMIT)).filter(|limit| *limit > 0)
    }

    /// A core's window of answers has ended, with this latency.
    fn adapt(&self, latency: u64, now: Instant) {
        let usual = match self.0.value(USUAL) {
            0 => latency,
            usual => latency.min(usual + usual / USUAL_RISE + 1),
        };
        self.0.set(USUAL, usual);
        let target = (usual * TOLERANCE).max(usual + nanos(SLACK));
        let (limit, busy) = (self.0.value(LIMIT), self.0.value(IN_FLIGHT));
        if latency > target && (limit > 0 || self.lasts(busy, now)) {
            let from = if limit == 0 { busy.max(LIMIT_MIN) } else { limit };
            // At most halved at once.
            let lower = (u128::from(from) * u128::from(target) / u128::from(latency)) as u64;
            self.0.set(LIMIT, lower.max(from / 2).max(LIMIT_MIN));
            self.stuck(from <= LIMIT_MIN, latency, now);
        } else if latency <= target {
            self.0.set(MISSED_SINCE, 0);
            self.0.set(STUCK_SINCE, 0);
            // Only a limit that is felt is raised: else it would say nothing when it's needed.
            if limit > 0 && busy * 2 >= limit {
                let higher = limit + limit.isqrt();
                self.0.set(LIMIT, if higher > LIMIT_MAX { 0 } else { higher });
            }
        }
    }

    /// One more window has missed the target: whether all have, with more in flight than the least limit would
    /// let in, for longer than a burst lasts.
    fn lasts(&self, busy: u64, now: Instant) -> bool {
        if busy < LIMIT_MIN {
            self.0.set(MISSED_SINCE, 0);
            return false;
        }
        let at = |place| Instant::from_nanos(self.0.value(place));
        let most = self.0.value(MISSED_MOST);
        let shorter = busy < most - most / BURST_PART;
        if self.0.value(MISSED_SINCE) == 0 || now.since(at(MISSED_LAST)) > BURST || shorter {
            self.0.set(MISSED_SINCE, now.as_nanos().max(1));
            self.0.set(MISSED_MOST, 0);
        }
        self.0.set(MISSED_LAST, now.as_nanos());
        self.0.set(MISSED_MOST, self.0.value(MISSED_MOST).max(busy));
        now.since(at(MISSED_SINCE)) > BURST
    }

    fn stuck(&self, at_least: bool, latency: u64, now: Instant) {
        let since = self.0.value(STUCK_SINCE);
        if !at_least {
            self.0.set(STUCK_SINCE, 0);
        } else if since == 0 {
            self.0.set(STUCK_SINCE, now.as_nanos().max(1));
        } else if now.since(Instant::from_nanos(since)) > STUCK_MAX {
            self.0.set(USUAL, latency);
            self.0.set(STUCK_SINCE, 0);
        }
    }
}

/// The latencies that one core has seen in the window under way, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples {
    spans: [u32; SAMPLES_MAX],
    count: usize,
    ends: Instant,
}

/// Samples that a window keeps; the oldest give way.
const SAMPLES_MAX: usize = 64;

impl Default for Samples {
    fn default() -> Self {
        Self { spans: [0; SAMPLES_MAX], count: 0, ends: Instant::default() }
    }
}

impl Samples {
    /// Takes note of an answer; the gate learns once in a window, of the tenth part that was quickest: a queue
    /// makes all wait (Nichols, Jacobson, "Controlling Queue Delay", 2012), while slow requests and long polls
    /// say nothing of one.
    pub(crate) fn note(&mut self, gate: &Gate, span: Duration, now: Instant) {
        self.spans[self.count % SAMPLES_MAX] = u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        self.count += 1;
        if self.count < WINDOW_ANSWERS || now < self.ends {
            return;
        }
        let kept = &mut self.spans[..self.count.min(SAMPLES_MAX)];
        let tenth = (kept.len() / 10).min(kept.len() - 1);
        let (_, micros, _) = kept.select_nth_unstable(tenth);
        gate.adapt(u64::from(*micros).max(1) * 1000, now);
        (self.count, self.ends) = (0, now + WINDOW);
    }
}

/// How much each caller sends, as one core sees it: requests of the second under way and of the last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    second: u64,
    now: u32,
    last: u32,
}

impl Traffic {
    /// One more request.
    pub(crate) fn count(&mut self, now: Instant) {
        self.turn(now);
        self.now = self.now.saturating_add(1);
    }

    /// Requests of the second under way and the last.
    pub(crate) fn rate(&mut self, now: Instant) -> u64 {
        self.turn(now);
        u64::from(self.now) + u64::from(self.last)
    }

    fn turn(&mut self, now: Instant) {
        let second = now.as_nanos() / 1_000_000_000;
        if second != self.second {
            self.last = if second == self.second + 1 { self.now } else { 0 };
            (self.now, self.second) = (0, second);
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_base::Rng;
    use std::cmp::Reverse;
    use std::collections::{BinaryHeap, VecDeque};

    const NEVER: fn() -> bool = || false;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(5_000_000_000_000 + micros * 1000)
    }

    /// A program of `workers` that takes `mean` microseconds, offered `rate(second)` requests a second.
    /// What was answered within a second (good), refused, and late, by second.
    fn run(workers: usize, mean: u64, seconds: u64, gated: bool, rate: impl Fn(u64) -> u64) -> Vec<[u32; 3]> {
        let (gate, mut samples, mut dice) = (Gate::default(), Samples::default(), Rng::new(7));
        let mut result = vec![[0; 3]; seconds as usize + 1];
        let (mut queue, mut free_at) = (VecDeque::new(), vec![0u64; workers]);
        // (when it ends, when it came), soonest first.
        let mut done = BinaryHeap::new();
        let mut now = 0;
        while now < seconds * 1_000_000 {
            now += 1_000_000 / rate(now / 1_000_000);
            // What has been answered by now, in order.
            while let Some(&Reverse((end, begun))) = done.peek().filter(|Reverse((end, _))| *end <= now) {
                done.pop();
                if gated {
                    gate.leave(false);
                    samples.note(&gate, Duration::from_micros(end - begun), at(end));
                }
                let place = if end - begun <= 1_000_000 { 0 } else { 2 };
                result[(begun / 1_000_000) as usize][place] += 1;
            }
            if gated && !gate.enter(Criticality::Critical, false, NEVER) {
                result[(now / 1_000_000) as usize][1] += 1;
                continue;
            }
            queue.push_back(now);
            while let Some(begun) = queue.pop_front() {
                let worker = free_at.iter().enumerate().min_by_key(|(_, at)| **at).map(|(n, _)| n).unwrap();
                let start = free_at[worker].max(begun);
                free_at[worker] = start + mean / 2 + dice.below(mean);
                done.push(Reverse((free_at[worker], begun)));
            }
        }
        result
    }

    #[test]
    fn three_times_too_much_ends_when_it_ends() {
        // 8 workers of 10 ms: 800 a second. 600, then 2,400 for 30 s, then 600 again.
        let rate = |second| if (10..40).contains(&second) { 2400 } else { 600 };
        let seen = run(8, 10_000, 50, true, rate);
        let sum = |range: std::ops::Range<usize>, place: usize| -> u32 { seen[range].iter().map(|s| s[place]).sum() };
        assert_eq!((sum(1..10, 1), sum(1..10, 2)), (0, 0), "nothing is refused while there is room");
        let good = sum(12..40, 0) / 28;
        assert!(good > 640, "under overload {good} of 800 a second are served in time");
        assert!(sum(42..49, 0) * 100 >= 99 * 600 * 7, "two seconds later all is well");
        // Without it every answer is late, and stays so until the queue has gone.
        let seen = run(8, 10_000, 50, false, rate);
        assert!(seen[20..45].iter().all(|second| second[0] == 0));
    }

    #[test]
    fn a_burst_that_is_being_worked_off_is_no_overload() {
        let gate = Gate::default();
        gate.adapt(1_000_000, at(0));
        assert_eq!((0..800).filter(|_| gate.enter(Criticality::Critical, false, NEVER)).count(), 800);
        // Four seconds, in which it gets shorter all the time.
        for n in 1..40 {
            (0..20).for_each(|_| gate.leave(false));
            gate.adapt(500_000_000, at(n * 100_000));
            assert_eq!(gate.limit(), None, "after {n} windows");
        }
        assert_eq!((0..400).filter(|_| gate.enter(Criticality::Critical, false, NEVER)).count(), 400);
        (40..52).for_each(|n| gate.adapt(500_000_000, at(n * 100_000)));
        assert!(gate.limit().is_some(), "one that stays is");
    }

    #[test]
    fn a_program_that_is_slow_by_nature_is_left_alone() {
        // 256 at once by design, 200 ms each: far from its 1,280 a second.
        let seen = run(256, 200_000, 20, true, |_| 900);
        assert!(seen.iter().all(|second| second[1] == 0), "{seen:?}");
    }

    #[test]
    fn the_less_important_go_first() {
        let gate = Gate::default();
        gate.0.set(LIMIT, 100);
        let fill = |class: Criticality| (0..200).filter(|_| gate.enter(class, false, NEVER)).count();
        assert_eq!(fill(Criticality::Sheddable), 50);
        assert_eq!(fill(Criticality::SheddablePlus), 25);
        assert_eq!(fill(Criticality::Critical), 20);
        assert_eq!(fill(Criticality::CriticalPlus), 5);
        for _ in 0..60 {
            gate.leave(false);
        }
        // 40 are left: a greedy caller counts two classes lower.
        assert_eq!((0..200).filter(|_| gate.enter(Criticality::Critical, false, || true)).count(), 10);
        assert!(gate.enter(Criticality::Critical, false, NEVER));
        assert!(Criticality::of(Some(b"Sheddable")) < Criticality::of(Some(b"nonsense")));
        assert_eq!(Criticality::of(None), Criticality::Critical);
    }

    #[test]
    fn a_crowd_that_never_took_an_answer_keeps_nobody_out_who_has() {
        let gate = Gate::default();
        let fill = |newcomer| (0..400).filter(|_| gate.enter(Criticality::Critical, newcomer, NEVER)).count();
        assert_eq!(fill(true), 400, "there is no limit yet");
        gate.0.set(LIMIT, 100);
        assert_eq!((fill(true), fill(false)), (0, 95));
        (0..400).for_each(|_| gate.leave(true));
        assert_eq!((fill(true), fill(false)), (0, 0), "of those who have there are as many as it can take");
        (0..45).for_each(|_| gate.leave(false));
        assert_eq!((fill(true), fill(false)), (45, 45));
    }

    #[test]
    fn a_burst_on_a_slow_machine_loses_nothing() {
        // 40 a second are served in 5 ms each; every two seconds 300 come at once, which takes the program 0.9 s.
        let (gate, mut samples) = (Gate::default(), Samples::default());
        let mut now = 0;
        for _ in 0..5 {
            for _ in 0..20 {
                now += 25_000;
                assert!(gate.enter(Criticality::Sheddable, false, NEVER));
                gate.leave(false);
                samples.note(&gate, Duration::from_micros(5000), at(now));
            }
            assert!((0..300).all(|_| gate.enter(Criticality::Sheddable, false, || true)), "a burst is let in");
            for n in 1..=300 {
                gate.leave(false);
                samples.note(&gate, Duration::from_micros(n * 3000), at(now + n * 3000));
            }
            now += 1_500_000;
        }
        assert_eq!(gate.limit(), None);
    }

    #[test]
    fn a_latency_that_no_limit_helps_becomes_the_usual_one() {
        let gate = Gate::default();
        gate.adapt(1_000_000, at(0));
        for _ in 0..LIMIT_MIN {
            gate.0.increment(IN_FLIGHT);
        }
        for n in 0..30 {
            gate.adapt(500_000_000, at(n * 100_000));
        }
        assert_eq!(gate.limit(), Some(LIMIT_MIN));
        for n in 30..60 {
            gate.adapt(500_000_000, at(n * 100_000));
        }
        assert!(gate.limit().unwrap() > LIMIT_MIN);
    }

    #[test]
    fn traffic_is_counted_by_the_second() {
        let mut traffic = Traffic::default();
        assert_eq!(traffic.rate(at(0)), 0);
        (0..5).for_each(|_| traffic.count(at(0)));
        assert_eq!((traffic.rate(at(900_000)), traffic.rate(at(1_500_000))), (5, 5));
        traffic.count(at(1_600_000));
        assert_eq!((traffic.rate(at(1_700_000)), traffic.rate(at(2_700_000)), traffic.rate(at(9_000_000))), (6, 1, 0));
    }
}
