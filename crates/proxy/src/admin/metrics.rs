// SPDX-License-Identifier: Apache-2.0
//! Prometheus' text format (0.0.4) of what the cores count. Label values come from configuration or
//! short fixed lists, never from requests, and are escaped all the same.

use crate::agent::State;
use crate::record::{CoreCounts, SERIES_MAX, Series};
use byrnie_base::count::{Counter, Distribution};
use byrnie_codec::RejectReason;
use byrnie_engine::Short;
use byrnie_net::datagram::Dropped;
use byrnie_net::runtime;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Bounds of the buckets shown, as powers of two of a microsecond (256 us to 67 s): there the counts are exact.
const BOUNDS: std::ops::RangeInclusive<u32> = 8..=26;

/// Label sets that are counted apart, whichever cores tell them; three lines each. What is more is counted under `other`.
const COUNTED_MAX: usize = SERIES_MAX;
/// Label sets whose durations are told apart; a line for each bound.
const TIMED_MAX: usize = 256;

/// All metrics of the proxy.
pub(crate) fn render(state: &State) -> String {
    let mut out = String::with_capacity(16 * 1024);
    requests(state, &mut out);
    cores(state, &mut out);
    configuration(state, &mut out);
    spans(state, &mut out);
    out
}

/// Counts of one label set over all cores.
#[derive(Default)]
struct Sum {
    requests: u64,
    received: u64,
    sent: u64,
}

fn requests(state: &State, out: &mut String) {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    let mut durations: BTreeMap<String, Distribution> = BTreeMap::new();
    for (series, cells) in state.book.entries() {
        let sum = place(&mut sums, &series, true, COUNTED_MAX);
        sum.requests += cells.requests.value();
        sum.received += cells.received.value();
        sum.sent += cells.sent.value();
        place(&mut durations, &series, false, TIMED_MAX).gather(&cells.durations);
    }
    family(out, "byrnie_requests_total", "counter", "Exchanges and tunnels that have ended.");
    for (labels, sum) in &sums {
        writeln!(out, "byrnie_requests_total{{{labels}}} {}", sum.requests).ok();
    }
    family(out, "byrnie_request_bytes_total", "counter", "Payload received from callers.");
    for (labels, sum) in &sums {
        writeln!(out, "byrnie_request_bytes_total{{{labels}}} {}", sum.received).ok();
    }
    family(out, "byrnie_response_bytes_total", "counter", "Payload sent to callers.");
    for (labels, sum) in &sums {
        writeln!(out, "byrnie_response_bytes_total{{{labels}}} {}", sum.sent).ok();
    }
    family(out, "byrnie_request_duration_seconds", "histogram", "From the request's head to the end of the answer.");
    for (labels, distribution) in &durations {
        histogram(out, labels, distribution);
    }
}

/// Where a label set is summed up: the first `most` that came stand for themselves.
fn place<'a, V: Default>(
    all: &'a mut BTreeMap<String, V>,
    series: &Series,
    with_reason: bool,
    most: usize,
) -> &'a mut V {
    let mut own = labels(series, with_reason);
    if all.len() >= most && !all.contains_key(&own) {
        own = labels(&series.among_others(), with_reason);
    }
    all.entry(own).or_default()
}

fn histogram(out: &mut String, labels: &str, distribution: &Distribution) {
    for power in BOUNDS {
        let bound = Duration::from_micros(1 << power);
        let (seconds, count) = (bound.as_secs_f64(), distribution.at_most(bound));
        writeln!(out, "byrnie_request_duration_seconds_bucket{{{labels},le=\"{seconds}\"}} {count}").ok();
    }
    let count = distribution.count();
    writeln!(out, "byrnie_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {count}").ok();
    let seconds = distribution.sum().as_secs_f64();
    writeln!(out, "byrnie_request_duration_seconds_sum{{{labels}}} {seconds}").ok();
    writeln!(out, "byrnie_request_duration_seconds_count{{{labels}}} {count}").ok();
}

fn labels(series: &Series, with_reason: bool) -> String {
    let labels = &series.labels;
    let mut out = String::with_capacity(192);
    let mut label = |name: &str, value: &str| {
        let comma = if out.is_empty() { "" } else { "," };
        write!(out, "{comma}{name}=\"{}\"", Escaped(value)).ok();
    };
    label("direction", labels.side.label());
    label("source", &labels.source);
    label("destination", &labels.destination);
    label("route", &series.route);
    label("method", labels.method);
    label("status", &series.status.to_string());
    if with_reason {
        label("reason", series.reason.map_or("", |reason| reason.label()));
    }
    label("tls", labels.tls.label());
    out
}

fn cores(state: &State, out: &mut String) {
    let sum = |of: fn(&CoreCounts) -> &Counter| state.counts.iter().map(|counts| of(counts).value()).sum::<u64>();
    family(out, "byrnie_connections", "gauge", "Open connections from callers.");
    for (core, counts) in state.counts.iter().enumerate() {
        writeln!(out, "byrnie_connections{{core=\"{core}\"}} {}", counts.connections.value()).ok();
    }
    family(out, "byrnie_idle_connections", "gauge", "Idle connections to upstreams.");
    let idle: u64 = state.counts.iter().map(|counts| counts.level.idle.value()).sum();
    writeln!(out, "byrnie_idle_connections {idle}").ok();
    family(out, "byrnie_handshakes_total", "counter", "Inbound handshakes that were carried out.");
    for (kind, of) in HANDSHAKES {
        writeln!(out, "byrnie_handshakes_total{{kind=\"{kind}\"}} {}", sum(*of)).ok();
    }
    family(out, "byrnie_retries_total", "counter", "Tries after the first, and what became of them.");
    for (outcome, of) in RETRIES {
        writeln!(out, "byrnie_retries_total{{outcome=\"{outcome}\"}} {}", sum(*of)).ok();
    }
    family(out, "byrnie_hedges_total", "counter", "Tries begun beside a slow one, and those that answered first.");
    for (outcome, of) in HEDGES {
        writeln!(out, "byrnie_hedges_total{{outcome=\"{outcome}\"}} {}", sum(*of)).ok();
    }
    family(out, "byrnie_txn_keys_total", "counter", "Requests under an idempotency key, and what became of them.");
    for (outcome, of) in KEYS {
        writeln!(out, "byrnie_txn_keys_total{{outcome=\"{outcome}\"}} {}", sum(*of)).ok();
    }
    let help = "Control planes beside the own one that can be asked about idempotency keys.";
    family(out, "byrnie_txn_keepers", "gauge", help);
    writeln!(out, "byrnie_txn_keepers {}", state.keepers()).ok();
    strain(state, out);
    for (name, help, of) in COUNTERS {
        family(out, name, "counter", help);
        writeln!(out, "{name} {}", sum(*of)).ok();
    }
    family(out, "byrnie_datagrams_dropped_total", "counter", "Datagrams that went nowhere, and why.");
    for (at, why) in Dropped::ALL.iter().enumerate() {
        let count: u64 = state.counts.iter().map(|counts| counts.dropped.datagrams[at].value()).sum();
        writeln!(out, "byrnie_datagrams_dropped_total{{reason=\"{}\"}} {count}", why.label()).ok();
    }
    family(out, "byrnie_rejected_total", "counter", "Malformed requests, by the rule that they broke.");
    for reason in RejectReason::ALL {
        let count: u64 = state.counts.iter().map(|counts| counts.rejected.of(*reason).value()).sum();
        if count > 0 {
            writeln!(out, "byrnie_rejected_total{{reason=\"{}\"}} {count}", reason.label()).ok();
        }
    }
    family(out, "byrnie_panics_total", "counter", "Caught panics; anything above zero is a defect.");
    writeln!(out, "byrnie_panics_total {}", runtime::panics()).ok();
}

/// What became of spans.
fn spans(state: &State, out: &mut String) {
    let counts = &state.exported;
    family(out, "byrnie_spans_sent_total", "counter", "Spans that the collector took.");
    writeln!(out, "byrnie_spans_sent_total {}", counts.sent.value()).ok();
    family(out, "byrnie_spans_dropped_total", "counter", "Spans that nobody will see, and why.");
    let full: u64 = state.counts.iter().map(|counts| counts.dropped.spans.value()).sum();
    for (cause, count) in [("full", full), ("refused", counts.refused.value()), ("unreached", counts.unreached.value())]
    {
        writeln!(out, "byrnie_spans_dropped_total{{cause=\"{cause}\"}} {count}").ok();
    }
}

/// How short the process is of what it lives by: of the core that is shortest.
fn strain(state: &State, out: &mut String) {
    family(
        out,
        "byrnie_strain_ratio",
        "gauge",
        "How much of a resource is in use or promised; for time, of the longest lag.",
    );
    for (at, short) in Short::ALL.iter().enumerate() {
        let most =
            state.counts.iter().filter_map(|counts| Some(counts.strain.percents.get(at)?.value())).max().unwrap_or(0);
        writeln!(out, "byrnie_strain_ratio{{resource=\"{}\"}} {}.{:02}", short.label(), most / 100, most % 100).ok();
    }
    family(out, "byrnie_shed_total", "counter", "Requests and connections refused for want of a resource.");
    for (at, short) in Short::ALL.iter().enumerate() {
        let sum: u64 = state.counts.iter().filter_map(|counts| Some(counts.strain.shed.get(at)?.value())).sum();
        writeln!(out, "byrnie_shed_total{{resource=\"{}\"}} {sum}", short.label()).ok();
    }
}

/// A counter of each core.
type Of = fn(&CoreCounts) -> &Counter;

const RETRIES: &[(&str, Of)] = &[
    ("sent", |counts| &counts.tries.sent),
    ("won", |counts| &counts.tries.won),
    ("over_budget", |counts| &counts.tries.over_budget),
];

const HANDSHAKES: &[(&str, Of)] =
    &[("full", |counts| &counts.handshakes.full), ("resumed", |counts| &counts.handshakes.resumed)];

const HEDGES: &[(&str, Of)] = &[("sent", |counts| &counts.tries.hedges), ("won", |counts| &counts.tries.hedges_won)];

const KEYS: &[(&str, Of)] = &[
    ("granted", |counts| &counts.keyed.granted),
    ("again", |counts| &counts.keyed.again),
    ("replayed", |counts| &counts.keyed.replayed),
    ("in_flight", |counts| &counts.keyed.in_flight),
    ("mismatch", |counts| &counts.keyed.mismatch),
    ("ambiguous", |counts| &counts.keyed.ambiguous),
    ("unreachable", |counts| &counts.keyed.unreachable),
];

const COUNTERS: &[(&str, &str, Of)] = &[
    ("byrnie_accepted_total", "Connections accepted.", |counts| &counts.accepted),
    ("byrnie_handshakes_failed_total", "Inbound handshakes that failed.", |counts| &counts.handshakes.failed),
    ("byrnie_ejections_total", "Endpoints left out for a while.", |counts| &counts.ejections),
    ("byrnie_site_tries_total", "Tries sent to other sites.", |counts| &counts.elsewhere),
    ("byrnie_copies_dropped_total", "Mirrored requests not sent for want of room.", |counts| &counts.dropped.copies),
    ("byrnie_log_lines_dropped_total", "Access-log lines lost for want of room.", |counts| &counts.dropped.lines),
    ("byrnie_accept_pauses_total", "Times that no connection was accepted for want of a resource.", |counts| {
        &counts.strain.accepts_paused
    }),
    (
        "byrnie_not_kept_total",
        "Connections closed after an answer, or while their client rested, for want of a resource.",
        |counts| &counts.strain.not_kept,
    ),
    ("byrnie_unpicked_total", "Requests for pools balanced over all members for want of their picker.", |counts| {
        &counts.alone.picks
    }),
    ("byrnie_quotas_alone_total", "Requests under shared quotas, counted by this instance alone.", |counts| {
        &counts.alone.quotas
    }),
    ("byrnie_records_dropped_total", "Decision records lost for want of room.", |counts| &counts.dropped.records),
];

fn configuration(state: &State, out: &mut String) {
    family(out, "byrnie_control_connected", "gauge", "Whether the control plane is reached.");
    writeln!(out, "byrnie_control_connected {}", u8::from(state.is_connected())).ok();
    let Some(in_force) = state.in_force() else { return };
    family(out, "byrnie_config_revision", "gauge", "Revision of the configuration that every core acts by.");
    let revision = state.counts.iter().map(|counts| counts.level.revision.value()).min().unwrap_or_default();
    writeln!(out, "byrnie_config_revision {revision}").ok();
    family(out, "byrnie_cert_expiry_timestamp_seconds", "gauge", "When the proxy's certificate ends.");
    writeln!(out, "byrnie_cert_expiry_timestamp_seconds {}", in_force.keys.not_after).ok();
    family(out, "byrnie_endpoints", "gauge", "Endpoints of each service in view.");
    let mut lines = BTreeMap::new();
    for cluster in in_force.snapshot.clusters() {
        let destination = Escaped(&cluster.service().to_string()).to_string();
        let elsewhere = cluster.members().len() - cluster.at_home().len();
        if elsewhere > 0 {
            lines.insert((destination.clone(), "elsewhere"), elsewhere);
        }
        lines.insert((destination.clone(), "healthy"), cluster.at_home().len());
        lines.insert((destination, "away"), cluster.away() as usize);
    }
    let mut limits = BTreeMap::new();
    for cluster in in_force.snapshot.clusters() {
        if let Some(limit) = cluster.concurrency_limit() {
            limits.insert(Escaped(&cluster.service().to_string()).to_string(), limit);
        }
    }
    for ((destination, health), count) in lines {
        writeln!(out, "byrnie_endpoints{{destination=\"{destination}\",health=\"{health}\"}} {count}").ok();
    }
    family(
        out,
        "byrnie_concurrency_limit",
        "gauge",
        "Requests that the program is given at once, while that is limited.",
    );
    for (destination, limit) in limits {
        writeln!(out, "byrnie_concurrency_limit{{destination=\"{destination}\"}} {limit}").ok();
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").ok();
}

/// A label's value with `\`, `"` and line ends escaped.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
