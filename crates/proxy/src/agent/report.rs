// SPDX-License-Identifier: Apache-2.0
//! Reports each second to the control plane what was counted and decided since. What can't be sent is
//! counted into the next report; records that find no room are dropped, and their number told.

use super::State;
use super::link::Link;
use crate::record::{Cells, Series};
use byrnie_base::count::Distribution;
use byrnie_base::mailbox::Receiver;
use byrnie_model::gateway::Port;
use byrnie_model::{Health, Record};
use byrnie_net::runtime;
use byrnie_xds::REPORT_PATH;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1 as wire;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Time between two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// For so long after it was left out last an endpoint that hasn't answered since is told of: people look between two times too.
const LEFT_OUT_FOR: Duration = Duration::from_secs(60);
/// Records that wait for a report.
const RECORDS_WAITING_MAX: usize = 2000;
/// Records in one report.
const RECORDS_MAX: usize = 500;
/// Longest record sent, in bytes of JSON.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Keeps records for `/records` where there is no control plane to report to. As often as it would be told: if this waited for each of them, the
/// core that sent it would have to wake this thread.
pub(super) async fn keep_only(mut records: Receiver<Record>, state: Arc<State>) {
    loop {
        runtime::sleep(INTERVAL).await;
        while let Some(record) = records.take() {
            state.keep(record);
        }
    }
}

/// What one label set had counted when it was last reported.
#[derive(Default)]
struct Reported {
    durations: Distribution,
    requests: u64,
    received: u64,
    sent: u64,
    retries: u64,
}

/// Where the reports of a proxy stand.
struct Reports {
    records: Receiver<Record>,
    /// By the address of its cells.
    reported: HashMap<usize, Reported>,
    waiting: VecDeque<String>,
    sequence: u64,
    dropped: u64,
}

/// Reports for as long as the proxy runs.
pub(super) async fn run(records: Receiver<Record>, link: Rc<Link>, state: Arc<State>) {
    let mut reports = Reports { records, reported: HashMap::new(), waiting: VecDeque::new(), sequence: 0, dropped: 0 };
    runtime::keep("report", async || report(&mut reports, &link, &state).await, || {}).await;
}

async fn report(reports: &mut Reports, link: &Link, state: &State) {
    let Reports { records, reported, waiting, sequence, dropped } = reports;
    loop {
        runtime::sleep(INTERVAL).await;
        while let Some(record) = records.take() {
            *dropped += u64::from(!queue(waiting, &record));
            state.keep(record);
        }
        let Ok(channel) = link.channel().await else { continue };
        *sequence += 1;
        let mut report = wire::ReportRequest {
            node: state.node.to_string(),
            sequence: *sequence,
            at_millis: runtime::now().wall.as_millis(),
            span_millis: u32::try_from(INTERVAL.as_millis()).unwrap_or(u32::MAX),
            records: waiting.iter().take(RECORDS_MAX).cloned().collect(),
            records_dropped: *dropped,
            closed_ports: state
                .closed()
                .into_iter()
                .map(|(port, why)| wire::ClosedPort {
                    port: port.number().into(),
                    why,
                    udp: matches!(port, Port::Udp(_)),
                })
                .collect(),
            ..Default::default()
        };
        let taken = report.records.len();
        let next = fill(&mut report, state, reported);
        match channel.unary(REPORT_PATH, report.encode_to_vec().into()).await {
            Ok(answer) => {
                reported.extend(next);
                waiting.drain(..taken);
                *dropped = 0;
                if let Ok(answer) = wire::ReportResponse::decode(&*answer) {
                    state.set_sample(answer.sample_percent);
                }
            }
            Err(status) => tracing::debug!(status = ?status.code(), message = status.message(), "report not taken"),
        }
    }
}

/// Whether there was room for the record.
fn queue(waiting: &mut VecDeque<String>, record: &Record) -> bool {
    let Ok(json) = serde_json::to_string(record) else { return false };
    if waiting.len() >= RECORDS_WAITING_MAX || json.len() > RECORD_BYTES_MAX {
        return false;
    }
    waiting.push_back(json);
    true
}

/// Texts of one report, each said once. Index 0 is the empty text.
struct Texts {
    index: HashMap<String, u32>,
    texts: Vec<String>,
}

impl Texts {
    fn new() -> Self {
        Self { index: [(String::new(), 0)].into(), texts: vec![String::new()] }
    }

    fn of(&mut self, text: &str) -> u32 {
        if let Some(index) = self.index.get(text) {
            return *index;
        }
        let index = u32::try_from(self.texts.len()).unwrap_or(0);
        self.index.insert(text.to_owned(), index);
        self.texts.push(text.to_owned());
        index
    }
}

/// Fills in counts and gauges. Answers what is reported by it, to be kept once it has arrived.
fn fill(
    report: &mut wire::ReportRequest,
    state: &State,
    reported: &HashMap<usize, Reported>,
) -> Vec<(usize, Reported)> {
    let mut texts = Texts::new();
    let mut next = Vec::new();
    for (series, cells) in state.book.entries() {
        // Cells live as long as the book, so that their address names them.
        let place = Arc::as_ptr(&cells) as usize;
        let before = reported.get(&place);
        if before.is_some_and(|before| before.requests == cells.requests.value()) {
            continue;
        }
        let (message, now) = difference(&series, &cells, before, &mut texts);
        report.series.push(message);
        next.push((place, now));
    }
    if let Some(in_force) = state.in_force() {
        let now = runtime::now().mono;
        report.revision = in_force.snapshot.revision().0;
        report.certificate_not_after = in_force.keys.not_after;
        for cluster in in_force.snapshot.clusters() {
            let destination = texts.of(&cluster.service().to_string());
            report.endpoints.extend(cluster.members().iter().map(|member| wire::EndpointView {
                destination,
                workload: texts.of(member.name()),
                health: health(member.health()).into(),
                ejected: member.was_left_out(LEFT_OUT_FOR, now),
                in_flight: u32::try_from(member.in_flight()).unwrap_or(u32::MAX),
            }));
        }
    }
    let fits = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    if let Some(in_force) = state.in_force() {
        report.programs.extend(in_force.snapshot.programs().map(|cluster| wire::ProgramView {
            destination: texts.of(&cluster.service().to_string()),
            in_flight: fits(cluster.concurrency()),
            limit: cluster.concurrency_limit().map_or(0, fits),
        }));
    }
    let connections: u64 = state.counts.iter().map(|counts| counts.connections.value()).sum();
    report.gauges.push(wire::Gauge { name: texts.of("connections"), value: connections as f64 });
    report.texts = texts.texts;
    next
}

fn health(health: Health) -> wire::Health {
    match health {
        Health::Healthy => wire::Health::Healthy,
        Health::Draining => wire::Health::Draining,
        Health::Unhealthy => wire::Health::Unhealthy,
    }
}

fn difference(
    series: &Series,
    cells: &Cells,
    before: Option<&Reported>,
    texts: &mut Texts,
) -> (wire::Series, Reported) {
    let mut now = Reported {
        durations: Distribution::new(),
        requests: cells.requests.value(),
        received: cells.received.value(),
        sent: cells.sent.value(),
        retries: cells.retries.value(),
    };
    now.durations.gather(&cells.durations);
    let nothing = Reported::default();
    let before = before.unwrap_or(&nothing);
    let fresh = now.durations.since(&before.durations);
    let (bucket_index, bucket_count) = fresh.sparse().map(|(index, count)| (u32::from(index), count)).unzip();
    let labels = &series.labels;
    let message = wire::Series {
        direction: texts.of(labels.side.label()),
        source: texts.of(&labels.source),
        destination: texts.of(&labels.destination),
        route: texts.of(&series.route),
        method: texts.of(labels.method),
        status: u32::from(series.status),
        reason: texts.of(series.reason.map_or("", |reason| reason.label())),
        tls: texts.of(labels.tls.label()),
        rule: texts.of(&series.rule),
        count: now.requests - before.requests,
        bucket_index,
        bucket_count,
        sum_us: u64::try_from(fresh.sum().as_micros()).unwrap_or(u64::MAX),
        request_bytes: now.received - before.received,
        response_bytes: now.sent - before.sent,
        retries: now.retries - before.retries,
    };
    (message, now)
}
