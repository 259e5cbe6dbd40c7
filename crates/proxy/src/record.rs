// SPDX-License-Identifier: Apache-2.0
//! Writes down how each exchange went: exact counters, one access-log line, and a decision record for
//! every failure and some of the rest. One [`Ledger`] per core, written by that core alone; other
//! threads read the counters it shares. No lock on the way but when a new set of labels appears.

mod line;
mod series;
mod span;

pub(crate) use line::Line;
pub(crate) use series::{Book, Cells, SERIES_MAX, Series};

use byrnie_base::count::{Counter, Gauge};
use byrnie_base::mailbox::Sender;
use byrnie_base::{Rng, Text, Timestamp};
use byrnie_codec::RejectReason;
use byrnie_codec::otlp::Span;
use byrnie_engine::Verdict;
use byrnie_model::{Record, record};
use byrnie_net::datagram::Dropped;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Access-log bytes that a core gathers before it hands them over.
const LOG_BYTES_MAX: usize = 32 * 1024;

/// What one core counts beside exchanges; read by any thread.
#[derive(Debug, Default)]
pub(crate) struct CoreCounts {
    /// Open connections from callers.
    pub(crate) connections: Gauge,
    /// Connections accepted.
    pub(crate) accepted: Counter,
    /// Handshakes of callers.
    pub(crate) handshakes: Handshakes,
    /// Requests refused before they were any (malformed), by reason.
    pub(crate) rejected: Rejected,
    /// Tries after the first.
    pub(crate) tries: Tries,
    /// Endpoints left out.
    pub(crate) ejections: Counter,
    /// Tries sent to other sites.
    pub(crate) elsewhere: Counter,
    /// What was dropped for want of room.
    pub(crate) dropped: DroppedCounts,
    /// What is done for want of memory, files or processor time.
    pub(crate) strain: Strained,
    /// What it stands at.
    pub(crate) level: Levels,
    /// Requests under an idempotency key.
    pub(crate) keyed: KeyedCounts,
    /// What was decided here alone.
    pub(crate) alone: Alone,
}

/// What a core stands at beside its callers' connections.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    /// Idle connections to upstreams.
    pub(crate) idle: Gauge,
    /// Revision of the configuration that it acts by.
    pub(crate) revision: Gauge,
}

/// Handshakes of callers, by what became of them.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    pub(crate) failed: Counter,
    /// Carried out in full over TCP.
    pub(crate) full: Counter,
    /// Those that went on with an earlier session.
    pub(crate) resumed: Counter,
}

/// What was decided by this proxy alone, as nobody could be asked.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    /// Requests under quotas that instances share.
    pub(crate) quotas: Counter,
    /// Requests for pools, balanced over all members.
    pub(crate) picks: Counter,
}

/// What was dropped for want of room.
#[derive(Debug, Default)]
pub(crate) struct DroppedCounts {
    /// Access-log lines.
    pub(crate) lines: Counter,
    /// Decision records.
    pub(crate) records: Counter,
    /// Copies of requests.
    pub(crate) copies: Counter,
    /// Spans.
    pub(crate) spans: Counter,
    /// Datagrams, in the order of [`Dropped::ALL`].
    pub(crate) datagrams: [Counter; Dropped::ALL.len()],
}

/// Tries after the first.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// After a failure.
    pub(crate) sent: Counter,
    /// Exchanges that one of them saved.
    pub(crate) won: Counter,
    /// Those that the budget did not let through.
    pub(crate) over_budget: Counter,
    /// Begun beside a slow one.
    pub(crate) hedges: Counter,
    /// Of these, those that answered first.
    pub(crate) hedges_won: Counter,
}

/// What is done for want of memory, files and processor time, which is the order of the arrays.
#[derive(Debug, Default)]
pub(crate) struct Strained {
    /// How short the process is of each, in percent.
    pub(crate) percents: [Gauge; 3],
    /// Requests and connections refused.
    pub(crate) shed: [Counter; 3],
    /// Times that no connection was accepted.
    pub(crate) accepts_paused: Counter,
    /// Connections of callers that were not kept.
    pub(crate) not_kept: Counter,
}

/// What became of requests under an idempotency key.
#[derive(Debug, Default)]
pub(crate) struct KeyedCounts {
    /// Run for the first time.
    pub(crate) granted: Counter,
    /// Run again after an ambiguous end, as the policy asks.
    pub(crate) again: Counter,
    /// Given the answer of the first time.
    pub(crate) replayed: Counter,
    /// Refused, as the first is under way.
    pub(crate) in_flight: Counter,
    /// Refused, as the key was used for another request.
    pub(crate) mismatch: Counter,
    /// Ended, or ended before, nobody knows how.
    pub(crate) ambiguous: Counter,
    /// Refused, as the ledger could not be asked.
    pub(crate) unreachable: Counter,
}

impl KeyedCounts {
    fn count(&self, note: &str) {
        let counter = match note {
            "granted" => &self.granted,
            "again" => &self.again,
            "replayed" => &self.replayed,
            "in-flight" => &self.in_flight,
            "mismatch" => &self.mismatch,
            "ambiguous" => &self.ambiguous,
            "unreachable" => &self.unreachable,
            _ => return,
        };
        counter.increment();
    }
}

/// A count for each reason why bytes are no message.
#[derive(Debug)]
pub(crate) struct Rejected([Counter; RejectReason::ALL.len()]);

impl Default for Rejected {
    fn default() -> Self {
        Self([const { Counter::new() }; RejectReason::ALL.len()])
    }
}

impl Rejected {
    /// The count of `reason`.
    pub(crate) fn of(&self, reason: RejectReason) -> &Counter {
        // `ALL` has every reason, in the order in which they are numbered.
        &self.0[reason as usize]
    }
}

/// What a core writes down.
#[derive(Debug)]
pub(crate) struct Ledger {
    book: Arc<Book>,
    series: series::Index,
    counts: Arc<CoreCounts>,
    proxy: Text,
    records: Sender<Record>,
    spans: Sender<Span>,
    sample: Arc<AtomicU8>,
    rng: Rng,
    log: Option<Sender<Vec<u8>>>,
    buffer: Vec<u8>,
    /// Lines in it.
    lines: u64,
}

/// What was asked for, as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// `http/1.1`, `http/2`, `grpc`, `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    /// The method as sent.
    pub(crate) method: &'a str,
    /// The authority.
    pub(crate) host: &'a str,
    /// The canonical path.
    pub(crate) path: &'a str,
    /// The caller's address: the one that a balancer in front names, if there is one.
    pub(crate) client: SocketAddr,
    /// The caller's identity.
    pub(crate) source: Option<&'a byrnie_model::Identity>,
    /// Payload bytes from and to the caller.
    pub(crate) bytes: (u64, u64),
    /// When it ended.
    pub(crate) ended: Timestamp,
}

/// Where a ledger sends what it gathers, and who writes it.
#[derive(Clone, Debug)]
pub(crate) struct Outlets {
    /// Series of all cores.
    pub(crate) book: Arc<Book>,
    /// To the agent.
    pub(crate) records: Sender<Record>,
    /// To the agent, which sends them on.
    pub(crate) spans: Sender<Span>,
    /// To the log's writer.
    pub(crate) log: Option<Sender<Vec<u8>>>,
    /// Percent of successes of which a record is kept.
    pub(crate) sample: Arc<AtomicU8>,
    /// Name of the workload, for records.
    pub(crate) proxy: Text,
}

impl Ledger {
    pub(crate) fn new(outlets: Outlets, counts: Arc<CoreCounts>, seed: u64) -> Self {
        let Outlets { book, records, spans, log, sample, proxy } = outlets;
        let (series, rng) = (series::Index::default(), Rng::new(seed));
        Self { book, series, counts, proxy, records, spans, sample, rng, log, buffer: Vec::new(), lines: 0 }
    }

    /// Writes down one exchange or tunnel.
    pub(crate) fn write(&mut self, verdict: &Verdict, seen: &Seen<'_>) {
        let cells = self.series.cells(verdict, &self.book);
        cells.count(verdict.duration, seen.bytes, verdict.attempts.count());
        if let Some((_, note)) = verdict.decided.keyed {
            self.counts.keyed.count(note);
        }
        if self.log.is_some() {
            Line { verdict, seen }.append(&mut self.buffer);
            self.lines += 1;
            if self.buffer.len() >= LOG_BYTES_MAX {
                self.flush();
            }
        }
        if is_failure(verdict) || verdict.asked || self.rng.percent(u64::from(self.sample.load(Ordering::Relaxed))) {
            self.keep(verdict, seen);
        }
        if let Some(trace) = verdict.trace.as_ref().filter(|trace| span::is_sent(trace, verdict)) {
            let (own, onward) = span::spans(trace, verdict, seen);
            for span in [Some(own), onward].into_iter().flatten() {
                if self.spans.send(span).is_err() {
                    // A collector that can't keep up loses spans, never requests.
                    self.counts.dropped.spans.increment();
                }
            }
        }
    }

    fn keep(&mut self, verdict: &Verdict, seen: &Seen<'_>) {
        let request = record::Request {
            protocol: seen.protocol.into(),
            method: seen.method.into(),
            host: seen.host.into(),
            path: seen.path.into(),
        };
        let began = seen.ended.as_millis().saturating_sub(u64::try_from(verdict.duration.as_millis()).unwrap_or(0));
        let source = seen.source.map_or_else(Text::default, |identity| identity.to_string().into());
        let record = verdict.record(Timestamp::from_millis(began), self.proxy.clone(), request, source);
        if self.records.send(record).is_err() {
            self.counts.dropped.records.increment();
        }
    }

    /// Hands over the log lines gathered. Called every half second too.
    pub(crate) fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let (batch, lines) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.lines));
        if let Some(log) = &self.log
            && log.send(batch).is_err()
        {
            // A writer that can't keep up loses lines, never requests.
            self.counts.dropped.lines.add(lines);
        }
    }

    /// What this core counts beside exchanges.
    pub(crate) fn counts(&self) -> &CoreCounts {
        &self.counts
    }
}

/// Whether it is worth a record of its own.
fn is_failure(verdict: &Verdict) -> bool {
    verdict.status >= 500
        || verdict.reason.is_some_and(|reason| !reason.is_meant())
        || verdict.attempts.count() > 1
        || verdict.decided.keyed.is_some_and(|(_, note)| note != "granted")
}
