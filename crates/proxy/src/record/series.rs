// SPDX-License-Identifier: Apache-2.0
//! Counters by label set. Every core has its own cells; all cells stand in one [`Book`], which the
//! admin and the agent read and merge. The number of label sets is bounded: what exceeds it is
//! counted under `other`.

use byrnie_base::Text;
use byrnie_base::count::{Counter, Histogram};
use byrnie_base::hash::{BuildQuick, Quick};
use byrnie_engine::{Labels, Reason, Verdict};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Label sets that one core tells apart.
pub(crate) const SERIES_MAX: usize = 1024;

/// What is told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Series {
    /// Sides, names, method, protection.
    pub(crate) labels: Labels,
    /// The route.
    pub(crate) route: Text,
    /// The access rule.
    pub(crate) rule: Text,
    /// The exact status.
    pub(crate) status: u16,
    /// Why the mesh itself answered.
    pub(crate) reason: Option<Reason>,
}

impl Series {
    /// What stands for this and all others of the same side and class of status.
    pub(crate) fn among_others(&self) -> Self {
        let labels =
            Labels { source: "other".into(), destination: "other".into(), method: "OTHER", ..self.labels.clone() };
        let status = self.status / 100 * 100;
        Self { labels, route: "other".into(), rule: "other".into(), status, reason: None }
    }
}

/// What is counted for one label set by one core.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    pub(crate) durations: Histogram,
    pub(crate) requests: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) retries: Counter,
}

impl Cells {
    pub(crate) fn count(&self, took: Duration, (received, sent): (u64, u64), attempts: usize) {
        self.requests.increment();
        self.durations.record(took);
        self.received.add(received);
        self.sent.add(sent);
        if attempts > 1 {
            self.retries.add(attempts as u64 - 1);
        }
    }
}

/// The cells of all cores.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Vec<Entry>>);

/// One label set, and what one core counts for it.
pub(crate) type Entry = (Arc<Series>, Arc<Cells>);

impl Book {
    /// Every label set with its cells; one label set may stand there once for each core.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, series: Arc<Series>, cells: Arc<Cells>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((series, cells));
    }
}

/// A core's own way from label sets to cells.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_hash: HashMap<u64, Vec<Entry>, BuildQuick>,
    count: usize,
    /// The one asked for last: most often the next exchange is labelled alike.
    last: Option<Entry>,
}

impl Index {
    /// The cells for what `verdict` is labelled with.
    pub(super) fn cells(&mut self, verdict: &Verdict, book: &Book) -> &Cells {
        let last = self.last.take().filter(|(series, _)| is_of(series, verdict));
        let entry = last.unwrap_or_else(|| self.find(verdict, book).clone());
        let (_, cells) = self.last.insert(entry);
        cells
    }

    fn find(&mut self, verdict: &Verdict, book: &Book) -> &Entry {
        let mut hash = hash(verdict);
        let known =
            self.by_hash.get(&hash).and_then(|bucket| bucket.iter().position(|(series, _)| is_of(series, verdict)));
        let at = match known {
            Some(at) => at,
            None if self.count < SERIES_MAX => {
                self.count += 1;
                self.add(hash, of(verdict), book)
            }
            None => {
                let series = of(verdict).among_others();
                // By side and status class alone, so that there are a dozen of them at most.
                hash = u64::from(series.status) << 8 | series.labels.side as u64;
                let known =
                    self.by_hash.get(&hash).and_then(|bucket| bucket.iter().position(|(known, _)| **known == series));
                known.unwrap_or_else(|| self.add(hash, series, book))
            }
        };
        &self.by_hash.entry(hash).or_default()[at]
    }

    fn add(&mut self, hash: u64, series: Series, book: &Book) -> usize {
        let (series, cells) = (Arc::new(series), Arc::new(Cells::default()));
        book.add(Arc::clone(&series), Arc::clone(&cells));
        let bucket = self.by_hash.entry(hash).or_default();
        bucket.push((series, cells));
        bucket.len() - 1
    }
}

fn of(verdict: &Verdict) -> Series {
    Series {
        labels: verdict.labels.clone(),
        route: verdict.decided.route.clone(),
        rule: verdict.decided.rule.clone(),
        status: verdict.status,
        reason: verdict.reason,
    }
}

fn is_of(series: &Series, verdict: &Verdict) -> bool {
    series.status == verdict.status
        && series.reason == verdict.reason
        && series.labels == verdict.labels
        && series.route == verdict.decided.route
        && series.rule == verdict.decided.rule
}

fn hash(verdict: &Verdict) -> u64 {
    let mut hasher = Quick::default();
    verdict.labels.hash(&mut hasher);
    verdict.decided.route.hash(&mut hasher);
    verdict.decided.rule.hash(&mut hasher);
    verdict.status.hash(&mut hasher);
    verdict.reason.hash(&mut hasher);
    hasher.finish()
}
