// SPDX-License-Identifier: Apache-2.0
//! Sends spans and metrics to a collector for as long as a process runs: in batches, one request at a time for each
//! kind, tried again with growing pauses. The agent of a proxy and the control plane run one each. Whoever makes spans
//! puts them into a bounded box and never waits; what finds no room there, or isn't taken here, is counted.

use crate::runtime::{self, timeout};
use crate::serve::collector::{Answer, Collector};
use byrnie_base::Rng;
use byrnie_base::count::Counter;
use byrnie_base::mailbox::Receiver;
use byrnie_codec::otlp::{self, Attributes, Span};
use byrnie_model::code;
use byrnie_model::telemetry::Otlp;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Spans that wait to be sent; more are dropped.
pub const SPANS_WAITING_MAX: usize = 2048;
/// Spans in one request.
pub const BATCH_MAX: usize = 512;
/// How long a batch is gathered.
const GATHER: Duration = Duration::from_secs(1);
/// How long a batch of spans is tried again before it's given up.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long the last batch may take when the process ends.
pub const FLUSH_MAX: Duration = Duration::from_millis(800);
/// Pauses between two tries: the first, and the longest. Each is shortened at random by up to a half.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What is sent.
pub struct Feed {
    /// Who makes the spans.
    pub spans_by: Attributes,
    /// Whose metrics they are.
    pub metrics_by: Attributes,
    /// Spans, until nobody makes any more.
    pub spans: Receiver<Span>,
    /// The metrics, as a scrape shows them.
    pub scrape: Arc<dyn Fn() -> String + Send + Sync>,
    /// When counting began, in nanoseconds since 1970.
    pub began: u64,
    /// What becomes of spans.
    pub counts: Arc<Counts>,
}

/// What became of spans; written by one exporter.
#[derive(Debug, Default)]
pub struct Counts {
    /// Taken by the collector.
    pub sent: Counter,
    /// Refused by it.
    pub refused: Counter,
    /// Given up, as it couldn't be reached.
    pub unreached: Counter,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("spans_by", &self.spans_by).finish_non_exhaustive()
    }
}

/// Sends for as long as spans may come, to where the newest settings say; afterwards what is left, within [`FLUSH_MAX`].
pub async fn run(mut feed: Feed, mut settings: watch::Receiver<Option<Arc<Otlp>>>) {
    let mut batch = Vec::new();
    let mut closed = false;
    while !closed {
        let now = settings.borrow_and_update().clone();
        let changed = async {
            if settings.changed().await.is_err() {
                // Nobody changes it any more.
                std::future::pending::<()>().await;
            }
        };
        let report = Report { by: &feed.metrics_by, scrape: &*feed.scrape, began: feed.began };
        let mut spans =
            Gathered { by: &feed.spans_by, waiting: &mut feed.spans, batch: &mut batch, counts: &feed.counts };
        let work = async {
            match &now {
                // In a box, as it's large, and most processes never need it.
                Some(otlp) => Box::pin(export(otlp, spans, &report)).await,
                None => spans.discard().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = work => closed = true,
        }
    }
}

/// Metrics, and whose.
struct Report<'a> {
    by: &'a Attributes,
    scrape: &'a (dyn Fn() -> String + Send + Sync),
    began: u64,
}

/// Spans, and whose.
struct Gathered<'a> {
    by: &'a Attributes,
    waiting: &'a mut Receiver<Span>,
    /// Those that are sent next: they outlive a change of settings.
    batch: &'a mut Vec<Span>,
    counts: &'a Counts,
}

/// Sends by one set of settings, until no span can come any more.
async fn export(otlp: &Arc<Otlp>, mut spans: Gathered<'_>, report: &Report<'_>) {
    let (mut for_spans, mut for_metrics) = match Way::new(otlp).and_then(|way| Ok((way, Way::new(otlp)?))) {
        Ok(ways) => ways,
        Err(error) => {
            tracing::warn!(code = code::OTLP_UNREACHED.id, %error, "what vouches for the collector can't be used; nothing is sent");
            return spans.discard().await;
        }
    };
    let every = otlp.metrics;
    let metrics = async {
        let Some(every) = every else { return std::future::pending().await };
        // Proxies that start together don't report together.
        let mut pause = every.mul_f64(for_metrics.rng.below(1000) as f64 / 1000.0);
        loop {
            runtime::sleep(pause).await;
            // The next report says all that this one would have.
            for_metrics.deliver(METRICS, report.body(), every).await;
            pause = every;
        }
    };
    tokio::select! {
        () = spans.send(&mut for_spans) => {}
        () = metrics => {}
    }
    if every.is_some() {
        let _ = timeout(FLUSH_MAX, for_metrics.deliver(METRICS, report.body(), Duration::ZERO)).await;
    }
}

/// Where spans and metrics go at a collector.
const TRACES: &str = "/v1/traces";
const METRICS: &str = "/v1/metrics";

impl Report<'_> {
    fn body(&self) -> Vec<u8> {
        let now = runtime::clock().unix_nanos(runtime::clock().mono());
        otlp::metrics(self.by, &(self.scrape)(), self.began, now)
    }
}

impl Gathered<'_> {
    /// Nothing is to be sent: what was on its way when that was said is dropped.
    async fn discard(&mut self) {
        self.batch.clear();
        while self.waiting.receive().await.is_some() {}
    }

    /// Gathers spans and sends them until none can come any more.
    async fn send(&mut self, way: &mut Way) {
        loop {
            let closed = self.gather().await;
            if !self.batch.is_empty() {
                let (count, patience) = (self.batch.len() as u64, if closed { Duration::ZERO } else { RETRY_MAX });
                match way.deliver(TRACES, otlp::traces(self.by, self.batch), patience).await {
                    Delivered::Taken(rejected) => {
                        self.counts.sent.add(count.saturating_sub(rejected));
                        self.counts.refused.add(rejected.min(count));
                    }
                    Delivered::Refused => self.counts.refused.add(count),
                    Delivered::Not => self.counts.unreached.add(count),
                }
                self.batch.clear();
            }
            if closed {
                return;
            }
        }
    }

    /// Fills a batch, for [`GATHER`] from its first span on. Whether no more can come.
    async fn gather(&mut self) -> bool {
        if self.batch.is_empty() {
            match self.waiting.receive().await {
                Some(first) => self.batch.push(first),
                None => return true,
            }
        }
        let end = runtime::now().mono + GATHER;
        while self.batch.len() < BATCH_MAX {
            match timeout(end.since(runtime::now().mono), self.waiting.receive()).await {
                Ok(Some(span)) => self.batch.push(span),
                Ok(None) => return true,
                Err(runtime::Elapsed) => break,
            }
        }
        false
    }
}

/// What became of a request.
enum Delivered {
    /// Taken, but for so many spans or points.
    Taken(u64),
    Refused,
    /// Given up.
    Not,
}

/// A way to the collector that tries again.
struct Way {
    collector: Collector,
    rng: Rng,
    /// It was told that it fails.
    troubled: bool,
}

impl Way {
    fn new(otlp: &Arc<Otlp>) -> Result<Self, crate::tls::Error> {
        let seed = runtime::clock().unix_nanos(runtime::clock().mono());
        Ok(Self { collector: Collector::new(Arc::clone(otlp))?, rng: Rng::new(seed), troubled: false })
    }

    /// Sends a body, again and again for `patience`.
    async fn deliver(&mut self, path: &'static str, body: Vec<u8>, patience: Duration) -> Delivered {
        let body = bytes::Bytes::from(body);
        let end = runtime::now().mono + patience;
        let mut pause = PAUSES.0;
        loop {
            let (why, asked) = match self.collector.post(path, body.clone()).await {
                Answer::Taken(answer) => return Delivered::Taken(self.taken(path, &answer)),
                Answer::Refused(why) => {
                    self.warn(path, &why, "the collector refuses what it is sent");
                    return Delivered::Refused;
                }
                Answer::Later(why, asked) => (why, asked),
            };
            self.warn(path, &why, "the collector does not take what it is sent; it is tried again");
            let half = pause / 2;
            let jitter = Duration::from_nanos(self.rng.below(u64::try_from(half.as_nanos()).unwrap_or(u64::MAX)));
            let wait = asked.unwrap_or_default().max(half + jitter);
            if runtime::now().mono + wait >= end {
                return Delivered::Not;
            }
            runtime::sleep(wait).await;
            pause = (2 * pause).min(PAUSES.1);
        }
    }

    fn taken(&mut self, path: &str, answer: &[u8]) -> u64 {
        let partial = otlp::partial(answer);
        if partial.rejected > 0 {
            let otlp::Partial { rejected, message } = &partial;
            self.warn(path, message, &format!("the collector leaves {rejected} of what it is sent out"));
        } else if std::mem::take(&mut self.troubled) {
            tracing::info!(path, "the collector takes what it is sent again");
        }
        partial.rejected
    }

    /// Says so once, until it's well again.
    fn warn(&mut self, path: &str, why: &str, what: &str) {
        if !std::mem::replace(&mut self.troubled, true) {
            tracing::warn!(code = code::OTLP_UNREACHED.id, path, why, "{what}");
        }
    }
}
