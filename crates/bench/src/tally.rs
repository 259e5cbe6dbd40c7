// SPDX-License-Identifier: Apache-2.0
//! What all connections of a client count together, and how it's told: after a warm-up `begin N`, at the
//! end `end N` with the requests answered so far, so that whoever started the client reads CPU times at
//! these moments; then one line of JSON.

use anyhow::Result;
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Load before the measured span: connections, handshakes, pools and caches settle.
pub(crate) const WARM_UP: Duration = Duration::from_millis(700);
/// Latencies kept; later ones are left out.
const LATENCIES_MAX: usize = 16 << 20;

/// Kinds of errors that are told apart; what else goes wrong is only counted.
const KINDS_MAX: usize = 16;

/// What the client saw in the measured span.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Seen {
    requests: u64,
    errors: u64,
    seconds: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
}

/// What connections of the load share.
#[derive(Default)]
pub(crate) struct Tally {
    answered: Cell<u64>,
    errors: Cell<u64>,
    measuring: Cell<bool>,
    latencies: RefCell<Vec<u32>>,
    /// What went wrong, how often, and the first and last time in seconds: for the log.
    kinds: RefCell<BTreeMap<String, (u64, [f64; 2])>>,
    began: Cell<Option<Instant>>,
}

impl Tally {
    pub(crate) fn answered(&self, since: Instant) {
        self.answered.set(self.answered.get() + 1);
        let mut latencies = self.latencies.borrow_mut();
        if self.measuring.get() && latencies.len() < LATENCIES_MAX {
            latencies.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }

    pub(crate) fn failed(&self, error: &anyhow::Error) {
        self.errors.set(self.errors.get() + 1);
        let at = self.began.get().map_or(0.0, |began| began.elapsed().as_secs_f64());
        let (mut kinds, kind) = (self.kinds.borrow_mut(), format!("{error:#}"));
        if kinds.len() < KINDS_MAX || kinds.contains_key(&kind) {
            let (count, [_, last]) = kinds.entry(kind).or_insert((0, [at; 2]));
            (*count, *last) = (*count + 1, at);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.answered.get()
    }

    /// Latencies count from now on.
    pub(crate) fn measure(&self) {
        self.measuring.set(true);
        self.began.set(Some(now()));
    }

    /// What was seen until now; what went wrong goes to the log.
    pub(crate) fn seen(&self, requests: u64, seconds: f64) -> Seen {
        let mut latencies = self.latencies.take();
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index.min(latencies.len().saturating_sub(1))).copied().map_or(0, u64::from)
        };
        for (kind, (count, [first, last])) in self.kinds.take() {
            eprintln!("{count} errors from {first:.1} to {last:.1} s: {kind}");
        }
        let (p50_us, p99_us, p999_us) = (at(0.5), at(0.99), at(0.999));
        Seen { requests, errors: self.errors.get(), seconds, p50_us, p99_us, p999_us }
    }
}

/// Measures for `span` after the warm-up, or until `requests` have been answered in all if that isn't 0.
pub(crate) async fn measure(tally: &Rc<Tally>, span: Duration, requests: u64) -> Result<()> {
    if requests > 0 {
        let (start, until) = (now(), span + WARM_UP);
        while tally.count() < requests && start.elapsed() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seen = tally.seen(tally.count(), start.elapsed().as_secs_f64());
        return say(&serde_json::to_string(&seen)?);
    }
    tokio::time::sleep(WARM_UP).await;
    tally.measure();
    let (start, before) = (now(), tally.count());
    say(&format!("begin {before}"))?;
    tokio::time::sleep(span).await;
    let (took, after) = (start.elapsed(), tally.count());
    say(&format!("end {after}"))?;
    say(&serde_json::to_string(&tally.seen(after - before, took.as_secs_f64()))?)
}

/// One line, at once.
pub(crate) fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// The time.
#[expect(clippy::disallowed_methods, reason = "a developer's tool measures by the machine's clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
