// SPDX-License-Identifier: Apache-2.0
//! A flow (who calls what, how, seen by whom) and its counts over time: a minute in slots of a second,
//! an hour in slots of ten.

use byrnie_base::count::Distribution;
use byrnie_base::{Instant, Text};
use std::collections::VecDeque;
use std::time::Duration;

/// What is counted apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The service asked for, as `NAME` or, outside `default`, `NAME.NAMESPACE`; empty if none was found.
    pub destination: Text,
    /// Who asked, in the same form; empty if unknown.
    pub source: Text,
    /// `inbound`, `outbound` or `edge`.
    pub direction: Text,
    /// The proxy that saw it, `NAMESPACE/WORKLOAD`.
    pub proxy: Text,
    /// The route that fitted, `NAMESPACE/NAME[RULE]` or `default`.
    pub route: Text,
    /// The method; empty for opaque bytes.
    pub method: Text,
    /// `mutual`, `simple` or `none`.
    pub tls: Text,
}

/// Seconds of the fine slots kept.
const FINE_SECONDS: u32 = 64;
/// Length of a coarse slot.
const COARSE_SECONDS: u32 = 10;
/// Coarse slots kept: a little more than an hour.
const COARSE_SLOTS: u32 = 366;
/// Most distinct status and reason pairs in one slot; further ones count without being told apart.
const STATUSES_MAX: usize = 24;

/// A flow's counts over time.
#[derive(Debug, Default)]
pub(super) struct Track {
    fine: VecDeque<Slot>,
    coarse: VecDeque<Slot>,
}

/// Counts of one slot.
#[derive(Debug, Default)]
struct Slot {
    /// The slot's number since the start of the clock.
    at: u32,
    requests: u32,
    ok: u32,
    retries: u32,
    sum: Duration,
    statuses: Vec<(u16, Text, u32)>,
    buckets: Vec<(u16, u32)>,
}

/// Counts to be added to a slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub requests: u64,
    pub retries: u64,
    pub status: u16,
    /// Why the mesh itself answered or failed; empty if it didn't.
    pub reason: Text,
    pub buckets: Vec<(u16, u64)>,
    pub sum: Duration,
}

impl Sample {
    /// Whether all went well: the mesh let it through and the program didn't fail.
    fn is_ok(&self) -> bool {
        self.reason.is_empty() && self.status < 500
    }
}

/// Counts over a span of time.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// Exchanges that ended.
    pub requests: u64,
    /// Those neither failed by the mesh nor answered 5xx.
    pub ok: u64,
    /// Further tries.
    pub retries: u64,
    /// How long they took.
    pub latency: Distribution,
    /// By status and the mesh's reason.
    pub statuses: std::collections::BTreeMap<(u16, Text), u64>,
}

impl Total {
    /// Percent of the exchanges that went well; `None` if there were none.
    pub fn ok_percent(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.ok as f64 * 100.0 / self.requests as f64)
    }

    /// Adds another total.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.ok += other.ok;
        self.retries += other.retries;
        self.latency.merge(&other.latency);
        for (status, count) in &other.statuses {
            *self.statuses.entry(status.clone()).or_default() += count;
        }
    }
}

impl Track {
    pub(super) fn add(&mut self, now: Instant, sample: &Sample) {
        let second = seconds(now);
        slot(&mut self.fine, second, FINE_SECONDS).add(sample);
        slot(&mut self.coarse, second / COARSE_SECONDS, COARSE_SLOTS).add(sample);
    }

    /// Whether nothing was counted within the longest window.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.coarse.back().is_none_or(|last| last.at + COARSE_SLOTS < seconds(now) / COARSE_SECONDS)
    }

    /// What was counted in the last `window`: to the second up to a minute, to ten seconds beyond.
    pub(super) fn total(&self, now: Instant, window: Duration, total: &mut Total) {
        let span = u32::try_from(window.as_secs()).unwrap_or(u32::MAX).max(1);
        let (slots, from) = if span < FINE_SECONDS {
            (&self.fine, seconds(now).saturating_sub(span))
        } else {
            (&self.coarse, (seconds(now).saturating_sub(span)) / COARSE_SECONDS)
        };
        for slot in slots.iter().rev().take_while(|slot| slot.at >= from) {
            slot.gather(total);
        }
    }

    /// Exchanges and good ones in each of the last `count` seconds, oldest first.
    pub(super) fn seconds(&self, now: Instant, into: &mut [(u64, u64)]) {
        let end = seconds(now);
        let count = u32::try_from(into.len()).unwrap_or(u32::MAX);
        for slot in &self.fine {
            let Some(back) = end.checked_sub(slot.at).filter(|back| *back >= 1 && *back <= count) else { continue };
            let cell = &mut into[(count - back) as usize];
            cell.0 += u64::from(slot.requests);
            cell.1 += u64::from(slot.ok);
        }
    }
}

fn seconds(now: Instant) -> u32 {
    u32::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX)
}

/// The slot of this number, made if it's new; the oldest goes when there are too many.
fn slot(slots: &mut VecDeque<Slot>, at: u32, most: u32) -> &mut Slot {
    if slots.back().is_none_or(|last| last.at < at) {
        slots.push_back(Slot { at, ..Slot::default() });
    }
    while slots.front().is_some_and(|first| first.at + most <= at) {
        slots.pop_front();
    }
    let last = slots.len() - 1;
    &mut slots[last]
}

impl Slot {
    fn add(&mut self, sample: &Sample) {
        let count = clamp(sample.requests);
        self.requests = self.requests.saturating_add(count);
        self.retries = self.retries.saturating_add(clamp(sample.retries));
        if sample.is_ok() {
            self.ok = self.ok.saturating_add(count);
        }
        self.sum = self.sum.saturating_add(sample.sum);
        match self.statuses.iter().position(|(s, r, _)| *s == sample.status && *r == sample.reason) {
            Some(at) => self.statuses[at].2 = self.statuses[at].2.saturating_add(count),
            None if self.statuses.len() < STATUSES_MAX => {
                self.statuses.push((sample.status, sample.reason.clone(), count));
            }
            None => {}
        }
        for &(index, count) in &sample.buckets {
            match self.buckets.binary_search_by_key(&index, |(i, _)| *i) {
                Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(clamp(count)),
                Err(at) => self.buckets.insert(at, (index, clamp(count))),
            }
        }
    }

    fn gather(&self, total: &mut Total) {
        total.requests += u64::from(self.requests);
        total.ok += u64::from(self.ok);
        total.retries += u64::from(self.retries);
        total.latency.add_sparse(self.buckets.iter().map(|&(i, n)| (i, u64::from(n))), self.sum);
        for (status, reason, count) in &self.statuses {
            *total.statuses.entry((*status, reason.clone())).or_default() += u64::from(*count);
        }
    }
}

fn clamp(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
