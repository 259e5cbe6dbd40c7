// SPDX-License-Identifier: Apache-2.0
//! What all cores of a proxy know of one endpoint together: tries under way, how long it takes to answer,
//! and the load it reports of itself. One cache line, touched when a try begins and when it ends.
//!
//! The latency is a peak EWMA (Finagle's `PeakEwma`, 2015; linkerd2-proxy uses tower's): a slower answer
//! counts at once, a quicker one by and by, and silence is forgiven, so that a slow endpoint is tried again
//! now and then. Three changes: one answer raises the estimate at most fourfold, so that a single hiccup
//! doesn't starve an endpoint; a refusal (429, 503, `RESOURCE_EXHAUSTED`) or a failure counts as a second,
//! so that quick errors attract nothing; while a `Retry-After` runs, nothing is forgiven. The first answer of a new endpoint counts with
//! the connection that was opened for it, as Finagle's does and tower's doesn't: simulated, it's asked less for a second or two by
//! that, and how long answers take, to the 99.9th percentile, is the same.

use byrnie_base::Instant;
use byrnie_base::share::Line;
use std::time::Duration;

/// What is known of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Load(Line);

const IN_FLIGHT: usize = 0;
/// Nanoseconds; 0 if no answer has come yet.
const LATENCY: usize = 1;
/// When that estimate was made, or from when on it fades.
const LATENCY_AT: usize = 2;
/// Requests per second at full use, in thousandths; 0 if nothing was reported.
const CAPACITY: usize = 3;
const CAPACITY_AT: usize = 4;
/// Whether it fails the checks that this proxy itself makes.
const SICK: usize = 5;
/// When it last gave an answer, an error too; 0 if it never did.
const HEARD_AT: usize = 6;
/// Until when some core leaves it out; 0 if none does.
const OUT_UNTIL: usize = 7;

/// An estimate halves in this time, unless new answers confirm it. Finagle takes ten seconds to 37 %; ours
/// is shorter, as an endpoint that is slow once should be back before anybody notices its absence.
pub(crate) const HALF_LIFE: Duration = Duration::from_secs(2);
/// Latencies below this are one to the balancer: what differs there is noise.
pub(crate) const LATENCY_MIN: Duration = Duration::from_millis(1);
/// What a refusal or a failure counts as.
const PENALTY: Duration = Duration::from_secs(1);
/// Most time that an endpoint can keep requests away by `Retry-After`.
pub(crate) const HOLD_MAX: Duration = Duration::from_secs(60);
/// One answer raises the estimate at most so many times.
const RISE_MAX: u64 = 4;
/// A report of load is of no use after this time (gRFC A58, `weight_expiration_period`).
const REPORT_AGE_MAX: Duration = Duration::from_secs(180);

impl Load {
    /// One try more.
    pub(crate) fn enter(&self) {
        self.0.increment(IN_FLIGHT);
    }

    /// One try less.
    pub(crate) fn leave(&self) {
        self.0.decrement(IN_FLIGHT);
    }

    /// Tries under way.
    pub(crate) fn in_flight(&self) -> u64 {
        self.0.value(IN_FLIGHT)
    }

    /// What is thought of it by checks.
    pub(crate) fn judge(&self, well: bool) {
        self.0.set(SICK, u64::from(!well));
    }

    /// Whether checks find that it can't work.
    pub(crate) fn is_sick(&self) -> bool {
        self.0.value(SICK) != 0
    }

    /// An answer came after `span`.
    pub(crate) fn answered(&self, span: Duration, now: Instant) {
        let span = nanos(span).max(1);
        let (last, faded) = (self.0.value(LATENCY), self.faded(now));
        let estimate = if last == 0 {
            span
        } else if span >= faded {
            span.min(last.max(nanos(LATENCY_MIN)).saturating_mul(RISE_MAX)).max(faded)
        } else {
            // Between the answer and the last estimate, by the age of the latter.
            span + fade(last.saturating_sub(span), now.since(self.at()))
        };
        self.estimate(estimate, now);
    }

    /// An answer came that was an error: it can't make the endpoint look better, and a row of them makes
    /// it look worse and worse.
    pub(crate) fn erred(&self, span: Duration, now: Instant) {
        let worse = self.faded(now).max(nanos(LATENCY_MIN)).saturating_mul(2).min(nanos(PENALTY));
        self.estimate(worse.max(nanos(span)), now);
    }

    /// The endpoint refused or failed; it wants to be left alone for `hold`.
    pub(crate) fn refused(&self, hold: Duration, now: Instant) {
        self.estimate(self.faded(now).max(nanos(PENALTY)), now + hold.min(HOLD_MAX));
    }

    /// An answer came, whatever it said.
    pub(crate) fn heard(&self, now: Instant) {
        self.0.set(HEARD_AT, now.as_nanos());
    }

    /// When the last one came; the clock's start if none ever did.
    pub(crate) fn heard_at(&self) -> Instant {
        Instant::from_nanos(self.0.value(HEARD_AT))
    }

    /// A core leaves it out until then.
    pub(crate) fn leave_out(&self, until: Instant) {
        self.0.set(OUT_UNTIL, self.0.value(OUT_UNTIL).max(until.as_nanos()));
    }

    /// It has answered a core that had left it out.
    pub(crate) fn take_back(&self) {
        self.0.set(OUT_UNTIL, 0);
    }

    /// Whether some core leaves it out now.
    pub(crate) fn is_left_out(&self, now: Instant) -> bool {
        self.0.value(OUT_UNTIL) > now.as_nanos()
    }

    /// The endpoint has reported the load under which it stands (see [`crate::balance::report`]).
    pub(crate) fn reported(&self, capacity: u64, now: Instant) {
        self.0.set(CAPACITY, capacity);
        self.0.set(CAPACITY_AT, now.as_nanos());
    }

    /// How long an answer takes, in nanoseconds; `None` if none has come yet.
    pub(crate) fn latency(&self, now: Instant) -> Option<u64> {
        (self.0.value(LATENCY) > 0).then(|| self.faded(now))
    }

    /// What it reported, unless that's too old.
    pub(crate) fn capacity(&self, now: Instant) -> Option<u64> {
        let fresh = now.since(Instant::from_nanos(self.0.value(CAPACITY_AT))) <= REPORT_AGE_MAX;
        Some(self.0.value(CAPACITY)).filter(|capacity| *capacity > 0 && fresh)
    }

    fn at(&self) -> Instant {
        Instant::from_nanos(self.0.value(LATENCY_AT))
    }

    fn faded(&self, now: Instant) -> u64 {
        fade(self.0.value(LATENCY), now.since(self.at()))
    }

    fn estimate(&self, nanos: u64, from: Instant) {
        self.0.set(LATENCY, nanos);
        // A hold that runs is not cut short by an answer to an older request.
        self.0.set(LATENCY_AT, self.at().max(from).as_nanos());
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// What is left of `value` after `age`: half after each half-life, and in between along a straight line,
/// so that every machine computes the same.
fn fade(value: u64, age: Duration) -> u64 {
    let (age, half) = (nanos(age), nanos(HALF_LIFE));
    let halves = u32::try_from(age / half).unwrap_or(u32::MAX);
    let Some(start) = value.checked_shr(halves) else { return 0 };
    let lost = u128::from(start / 2) * u128::from(age % half) / u128::from(half);
    start - u64::try_from(lost).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000_000) + Duration::from_millis(ms)
    }

    fn ms(load: &Load, now: u64) -> u64 {
        load.latency(at(now)).unwrap() / 1_000_000
    }

    #[test]
    fn slower_counts_at_once_and_quicker_by_and_by() {
        let load = Load::default();
        assert_eq!(load.latency(at(0)), None);
        load.answered(Duration::from_millis(10), at(0));
        assert_eq!((ms(&load, 0), ms(&load, 2000), ms(&load, 3000), ms(&load, 4000)), (10, 5, 3, 2));
        load.answered(Duration::from_millis(500), at(0));
        assert_eq!(ms(&load, 0), 40, "one answer raises it fourfold");
        load.answered(Duration::from_millis(500), at(0));
        load.answered(Duration::from_millis(500), at(0));
        assert_eq!(ms(&load, 0), 500);
        load.answered(Duration::from_millis(10), at(0));
        assert_eq!(ms(&load, 0), 500, "no time has passed");
        load.answered(Duration::from_millis(10), at(2000));
        assert_eq!(ms(&load, 2000), 255);
        assert_eq!(load.latency(at(10_000_000)), Some(0));
    }

    #[test]
    fn refusals_hold_as_long_as_they_ask_for() {
        let load = Load::default();
        load.answered(Duration::from_millis(1), at(0));
        load.refused(Duration::from_secs(5), at(0));
        // An older request is answered meanwhile, quickly.
        load.answered(Duration::from_millis(1), at(3000));
        assert_eq!((ms(&load, 0), ms(&load, 5000), ms(&load, 7000)), (1000, 1000, 500));
        load.refused(Duration::from_secs(100_000), at(7000));
        assert_eq!((ms(&load, 67_000), ms(&load, 69_000)), (1000, 500), "a minute at most");
    }

    #[test]
    fn errors_never_look_quick() {
        let load = Load::default();
        load.answered(Duration::from_millis(10), at(0));
        load.erred(Duration::from_micros(1), at(0));
        assert_eq!(ms(&load, 0), 20);
        for _ in 0..20 {
            load.erred(Duration::from_micros(1), at(0));
        }
        assert_eq!(ms(&load, 0), 1000);
    }

    #[test]
    fn reports_grow_old() {
        let load = Load::default();
        assert_eq!(load.capacity(at(0)), None);
        load.reported(5, at(0));
        assert_eq!((load.capacity(at(180_000)), load.capacity(at(180_001))), (Some(5), None));
    }

    proptest! {
        /// The estimate lies between the quickest and the slowest answer, however they come, and
        /// only falls while none comes.
        #[test]
        fn the_estimate_stays_within_what_was_seen(answers in prop::collection::vec((0u64..10_000, 1u64..5_000), 1..50)) {
            let load = Load::default();
            let mut now = 0;
            let (mut least, mut most) = (u64::MAX, 0);
            for (pause, span) in answers {
                now += pause;
                let before = load.latency(at(now));
                prop_assert!(before.is_none() || load.latency(at(now + 1)) <= before);
                load.answered(Duration::from_millis(span), at(now));
                (least, most) = (least.min(span), most.max(span));
                let estimate = load.latency(at(now)).unwrap();
                prop_assert!((least * 1_000_000..=most * 1_000_000).contains(&estimate), "{least} {estimate} {most}");
            }
        }
    }
}
