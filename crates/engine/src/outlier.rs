// SPDX-License-Identifier: Apache-2.0
//! Endpoints that fail, or stand out for the worse, are left out for a while. Each core learns by itself,
//! from its own tries, so that nothing is shared: an endpoint that is down is found by every core within a
//! few tries. The detectors are Envoy's (`outlier_detection`: consecutive errors of each origin, success
//! rate, failure percentage), and one of latency. Whoever is left out comes back through one probe: a single
//! request, while the others go elsewhere still; if that fails, it waits twice as long as the last time.
//! Called by `course` after each try and by `balance` before each.

pub(crate) mod zone;

use crate::balance::warm;
use crate::cluster::{Cluster, Member};
use crate::shard::Shard;
use byrnie_base::Instant;
use std::time::Duration;

/// How a try speaks for or against its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It answered.
    Good,
    /// The program answered with an error; `gateway`: with one that says that it could not be reached.
    Error { gateway: bool },
    /// It failed.
    Lost,
    /// It provably took nothing of the request: nobody is there.
    Absent,
}

/// What a core knows of one endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// In a row: errors of any origin, those of a gateway, and failures of the connection.
    errors: [u32; 3],
    /// Ejections that count for the length of the next one.
    ejections: u32,
    /// It's left out from then,
    since: Instant,
    /// until then.
    until: Instant,
    /// It has just come back: the next failure ejects it again.
    probation: bool,
    /// When its probe was sent.
    probed: Option<Instant>,
    window: Window,
    /// Others are asked first until then: a connection is being opened.
    pub(crate) cold_until: Instant,
    /// From then on one may be opened ahead of requests.
    pub(crate) ahead_at: Instant,
}

/// How an endpoint did in the interval under way.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    good: u32,
    bad: u32,
    micros: u64,
}

/// An ejection is at most so many times longer than the first.
const MULTIPLIER_MAX: u32 = 32;
/// Longest ejection, unless the policy's first one is longer.
const SPAN_MAX: Duration = Duration::from_secs(300);
/// First ejection of an endpoint at which nobody is: a probe costs no more than one retry.
const ABSENT_SPAN_MAX: Duration = Duration::from_secs(1);
/// An ejection is lengthened at random by up to this share, so that endpoints don't come back together.
const JITTER_PERCENT: u32 = 10;
/// A probe that nothing came of is forgotten after this time.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// Endpoints that are compared by success rate: fewer have no meaningful deviation (Envoy's
/// `success_rate_minimum_hosts`).
const RATES_MIN: usize = 5;
/// Endpoints that are compared by latency.
const LATENCIES_MIN: usize = 3;
/// A difference of latency below this is none.
const LATENCY_NOISE_MICROS: u64 = 5_000;

/// Whether the endpoint is left out now.
pub(crate) fn ejected(shard: &Shard, member: &Member, now: Instant) -> bool {
    shard.members.peek(member.slot).is_some_and(|standing| standing.is_out(now))
}

/// Whether it is, or others are to be asked first as there's no connection to it yet.
pub(crate) fn waits(shard: &Shard, member: &Member, now: Instant) -> bool {
    let waits = |standing: &Standing| standing.is_out(now) || standing.cold_until > now;
    member.load.is_sick() || shard.members.peek(member.slot).is_some_and(waits)
}

/// The endpoint gets a try: its probe, if it is to prove itself.
pub(crate) fn chosen(shard: &mut Shard, member: &Member, now: Instant) {
    zone::chosen(shard, member, now);
    if shard.members.peek(member.slot).is_some_and(|standing| standing.probation && standing.until <= now)
        && let Some(standing) = shard.members.entry(member.slot)
    {
        standing.probed = Some(now);
        member.load.leave_out(now + PROBE_MAX);
    }
}

/// Whether it or its whole zone is left out now, or it fails its checks.
pub(crate) fn out_of_service(shard: &Shard, member: &Member, now: Instant) -> bool {
    member.load.is_sick() || zone::out(shard, member, now) || ejected(shard, member, now)
}

/// Takes note of how a try ended, after `span`.
pub(crate) fn note(shard: &mut Shard, cluster: &Cluster, member: &Member, sign: Sign, span: Duration, now: Instant) {
    let rule = &cluster.call.eject.rule;
    let Some(standing) = shard.members.entry(member.slot) else { return };
    if rule.compares() {
        standing.window.take(sign, span);
    }
    if sign == Sign::Good {
        praise(shard, cluster, member, span, now);
    } else if standing.until <= now {
        // It is judged as one of those in service.
        standing.probed = None;
        let due = standing
            .blame(sign, [rule.consecutive_errors, rule.consecutive_gateway_errors, rule.consecutive_local_errors]);
        // The cap bounds what suspicion may do. Whoever isn't there serves nobody, and each request sent to
        // it costs a retry, of which there are few; if all are left out, all are asked again.
        let certain = sign == Sign::Absent && cluster.members.len() >= 2;
        if due && (certain || may_eject(shard, cluster, now)) {
            let spans = if certain { (rule.span.min(ABSENT_SPAN_MAX), rule.span) } else { spans(rule.span) };
            eject(shard, cluster, member, spans, now);
        }
    }
    if rule.compares() {
        compare(shard, cluster, now);
    }
}

fn praise(shard: &mut Shard, cluster: &Cluster, member: &Member, took: Duration, now: Instant) {
    let span = cluster.call.eject.rule.span;
    let Some(standing) = shard.members.entry(member.slot) else { return };
    // An answer to what was asked before the ejection says nothing new.
    if standing.probation && now.since(standing.since) < took {
        return;
    }
    let back = std::mem::take(&mut standing.probation);
    standing.errors = [0; 3];
    standing.probed = None;
    // It answered although it was left out (all were, or it was the last one untried): it's back.
    standing.until = standing.until.min(now);
    // A span of peace for each ejection takes back one.
    if standing.ejections > 0 && now > standing.until + span.saturating_mul(standing.ejections) {
        standing.ejections -= 1;
    }
    if back {
        member.load.take_back();
        warm::restart(shard, member, now);
    }
}

impl Standing {
    fn is_out(&self, now: Instant) -> bool {
        let waits = self.probed.is_some_and(|at| now.since(at) < PROBE_MAX);
        self.until > now || self.probation && waits
    }

    /// Counts an error; whether it's one too many.
    fn blame(&mut self, sign: Sign, most: [Option<u32>; 3]) -> bool {
        let counts = match sign {
            Sign::Good => return false,
            Sign::Error { gateway } => [true, gateway, false],
            Sign::Lost | Sign::Absent => [true; 3],
        };
        let mut due = self.probation;
        for ((row, counts), most) in self.errors.iter_mut().zip(counts).zip(most) {
            *row = if counts { row.saturating_add(1) } else { 0 };
            due |= most.is_some_and(|most| *row >= most.max(1));
        }
        due
    }
}

impl Window {
    fn take(&mut self, sign: Sign, span: Duration) {
        let place = if sign == Sign::Good { &mut self.good } else { &mut self.bad };
        *place = place.saturating_add(1);
        self.micros = self.micros.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }

    const fn total(&self) -> u32 {
        self.good.saturating_add(self.bad)
    }

    /// Of a hundred.
    fn success(&self) -> f64 {
        f64::from(self.good) * 100.0 / f64::from(self.total().max(1))
    }

    fn latency(&self) -> u64 {
        self.micros / u64::from(self.total().max(1))
    }
}

/// Once in an interval: who stands out among those that had enough requests?
fn compare(shard: &mut Shard, cluster: &Cluster, now: Instant) {
    let rule = &cluster.call.eject.rule;
    let Some(memory) = shard.clusters.entry(cluster.slot) else { return };
    if memory.compared + rule.interval > now {
        return;
    }
    let first = memory.compared == Instant::default();
    memory.compared = now;
    let mut windows = Vec::with_capacity(cluster.members.len());
    for member in &cluster.members {
        let Some(standing) = shard.members.entry(member.slot) else { continue };
        windows.push((member, std::mem::take(&mut standing.window)));
    }
    if first {
        // The interval has only begun.
        for (member, window) in windows {
            if let Some(standing) = shard.members.entry(member.slot) {
                standing.window = window;
            }
        }
        return;
    }
    windows.retain(|(_, window)| window.total() >= rule.volume.max(1));
    let rate =
        rule.deviation_percent.filter(|_| windows.len() >= RATES_MIN).map(|factor| lowest_rate(&windows, factor));
    let slowest =
        rule.latency_percent.filter(|_| windows.len() >= LATENCIES_MIN).map(|share| highest_latency(&windows, share));
    for (member, window) in &windows {
        let fails = rule.failure_percent.is_some_and(|share| 100.0 - window.success() >= f64::from(share));
        let lags = slowest.is_some_and(|slowest| window.latency() > slowest);
        let out = fails || lags || rate.is_some_and(|rate| window.success() < rate);
        if out && !ejected(shard, member, now) && may_eject(shard, cluster, now) {
            eject(shard, cluster, member, spans(rule.span), now);
        }
    }
}

/// The mean of the success rates less so many (percent) of their standard deviations.
fn lowest_rate(windows: &[(&std::sync::Arc<Member>, Window)], factor_percent: u32) -> f64 {
    let count = windows.len() as f64;
    let mean = windows.iter().map(|(_, window)| window.success()).sum::<f64>() / count;
    let variance = windows.iter().map(|(_, window)| (window.success() - mean).powi(2)).sum::<f64>() / count;
    mean - variance.sqrt() * f64::from(factor_percent) / 100.0
}

/// So many percent of the median of the latencies.
fn highest_latency(windows: &[(&std::sync::Arc<Member>, Window)], percent: u32) -> u64 {
    let mut latencies: Vec<u64> = windows.iter().map(|(_, window)| window.latency()).collect();
    latencies.sort_unstable();
    let median = latencies[latencies.len() / 2];
    (median.saturating_mul(u64::from(percent)) / 100).max(median + LATENCY_NOISE_MICROS)
}

/// Whether the cap leaves room for one more: never more than the share, but always one of two or more.
fn may_eject(shard: &Shard, cluster: &Cluster, now: Instant) -> bool {
    let size = cluster.members.len();
    let out = cluster.members.iter().filter(|m| ejected(shard, m, now)).count();
    let share = usize::from(cluster.call.eject.rule.ejected_percent_max);
    size >= 2 && (out == 0 || (out + 1) * 100 <= share * size)
}

/// The first and the longest ejection on suspicion.
fn spans(first: Duration) -> (Duration, Duration) {
    (first, SPAN_MAX.max(first))
}

fn eject(shard: &mut Shard, cluster: &Cluster, member: &Member, (first, most): (Duration, Duration), now: Instant) {
    let jitter = u32::try_from(shard.rng.below(u64::from(JITTER_PERCENT) + 1)).unwrap_or(0);
    let Some(standing) = shard.members.entry(member.slot) else { return };
    let multiplier = 1u32.checked_shl(standing.ejections).unwrap_or(MULTIPLIER_MAX).min(MULTIPLIER_MAX);
    let span = first.saturating_mul(multiplier).min(most);
    standing.ejections = (standing.ejections + 1).min(MULTIPLIER_MAX);
    standing.since = now;
    standing.until = now + span + (span / 100).saturating_mul(jitter);
    standing.errors = [0; 3];
    standing.probation = true;
    standing.probed = None;
    let until = standing.until;
    member.load.leave_out(until);
    shard.counts.ejections += 1;
    if let Some(memory) = shard.clusters.entry(cluster.slot) {
        memory.ejected_until = memory.ejected_until.max(until);
    }
}
