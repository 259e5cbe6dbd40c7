// SPDX-License-Identifier: Apache-2.0
//! Reads one report of one proxy into the [`Observer`]. The report is untrusted: indexes, lengths and
//! names are checked here, and what doesn't fit is left out.

use super::flow::{Flow, Sample};
use super::{Endpoint, FLOWS_MAX, Load, NODES_MAX, Node, Observer};
use byrnie_base::{Instant, Text, Timestamp};
use byrnie_model::gateway::Port;
use byrnie_model::{Identity, Record};
use byrnie_xds::proto::byrnie::v1::{ClosedPort, ReportRequest, Series};
use std::time::Duration;

/// Most series read of one report.
const SERIES_MAX: usize = 5_000;
/// Most records read of one report.
const RECORDS_MAX: usize = 500;
/// Largest record read, in bytes of JSON.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Most endpoints remembered of one proxy.
const ENDPOINTS_MAX: usize = 1_000;
/// Most services remembered that one program serves.
const PROGRAMS_MAX: usize = 256;
/// Most closed ports remembered of one proxy.
const CLOSED_PORTS_MAX: usize = 256;
/// Longest label kept.
const LABEL_BYTES_MAX: usize = 256;

impl Observer {
    /// Takes in what the proxy `node` reported; who it is was checked by the caller.
    pub fn collect(&mut self, node: &str, report: &ReportRequest, now: Instant) {
        self.first.get_or_insert(now);
        self.reports += 1;
        let texts: Vec<Text> = report.texts.iter().map(|text| clip(text)).collect();
        for series in report.series.iter().take(SERIES_MAX).filter(|series| series.count > 0) {
            let sample = sample(series, &texts);
            let flow = flow(series, &texts, node);
            self.count(flow, &sample, now);
        }
        for record in report.records.iter().take(RECORDS_MAX).filter(|record| record.len() <= RECORD_BYTES_MAX) {
            if let Ok(record) = serde_json::from_str::<Record>(record) {
                self.records.push(record);
            }
        }
        if self.nodes.len() < NODES_MAX || self.nodes.contains_key(node) {
            let dropped = self.nodes.get(node).map_or(0, |before| before.records_dropped);
            let seen = Node {
                seen: now,
                revision: report.revision,
                certificate_not_after: Timestamp::from_millis(report.certificate_not_after.saturating_mul(1000)),
                records_dropped: dropped.saturating_add(report.records_dropped),
                endpoints: endpoints(report, &texts),
                programs: programs(report, &texts),
                closed: closed(report),
            };
            self.nodes.insert(node.into(), seen);
        }
    }

    /// Forgets flows and proxies of which nothing was heard for longer than one can look back.
    pub fn forget(&mut self, now: Instant) {
        self.flows.retain(|_, track| !track.is_stale(now));
        self.nodes.retain(|_, node| now.since(node.seen) < super::WINDOW_MAX);
    }

    fn count(&mut self, mut flow: Flow, sample: &Sample, now: Instant) {
        if self.flows.len() >= FLOWS_MAX && !self.flows.contains_key(&flow) {
            self.forget(now);
            if self.flows.len() >= FLOWS_MAX {
                (flow.route, flow.method) = ("other".into(), "other".into());
                (flow.source, flow.proxy) = ("other".into(), "other".into());
                if self.flows.len() >= 2 * FLOWS_MAX && !self.flows.contains_key(&flow) {
                    return;
                }
            }
        }
        self.flows.entry(flow).or_default().add(now, sample);
    }
}

fn flow(series: &Series, texts: &[Text], node: &str) -> Flow {
    Flow {
        destination: short(&text(texts, series.destination)),
        source: short(&text(texts, series.source)),
        direction: text(texts, series.direction),
        proxy: node.into(),
        route: text(texts, series.route),
        method: text(texts, series.method),
        tls: text(texts, series.tls),
    }
}

fn sample(series: &Series, texts: &[Text]) -> Sample {
    let buckets = series.bucket_index.iter().zip(&series.bucket_count);
    Sample {
        requests: series.count,
        retries: series.retries,
        status: u16::try_from(series.status).unwrap_or(0),
        reason: text(texts, series.reason),
        buckets: buckets.map(|(&i, &n)| (u16::try_from(i).unwrap_or(u16::MAX), n)).take(256).collect(),
        sum: Duration::from_micros(series.sum_us),
    }
}

fn endpoints(report: &ReportRequest, texts: &[Text]) -> Vec<Endpoint> {
    let read = |view: &byrnie_xds::proto::byrnie::v1::EndpointView| Endpoint {
        destination: short(&text(texts, view.destination)),
        workload: text(texts, view.workload),
        ejected: view.ejected,
        in_flight: view.in_flight,
    };
    report.endpoints.iter().take(ENDPOINTS_MAX).map(read).collect()
}

fn programs(report: &ReportRequest, texts: &[Text]) -> Vec<Load> {
    let read = |view: &byrnie_xds::proto::byrnie::v1::ProgramView| Load {
        destination: short(&text(texts, view.destination)),
        in_flight: view.in_flight,
        limit: Some(view.limit).filter(|limit| *limit > 0),
    };
    report.programs.iter().take(PROGRAMS_MAX).map(read).collect()
}

fn closed(report: &ReportRequest) -> Vec<(Port, Text)> {
    let ports = report.closed_ports.iter().take(CLOSED_PORTS_MAX);
    let read = |closed: &ClosedPort| {
        let number = u16::try_from(closed.port).ok()?;
        Some((if closed.udp { Port::Udp(number) } else { Port::Tcp(number) }, clip(&closed.why)))
    };
    ports.filter_map(read).collect()
}

fn text(texts: &[Text], index: u32) -> Text {
    usize::try_from(index).ok().and_then(|index| texts.get(index)).cloned().unwrap_or_default()
}

fn clip(text: &str) -> Text {
    let mut end = text.len().min(LABEL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// The name by which people know a service or a caller: an identity becomes the name of its service
/// account, and the namespace `default` is left out.
pub fn short(name: &str) -> Text {
    if let Ok(identity) = Identity::parse(name) {
        return match identity.namespace().as_str() {
            "default" => identity.service_account().clone(),
            namespace => format!("{}.{namespace}", identity.service_account()).into(),
        };
    }
    name.strip_suffix(".default").unwrap_or(name).into()
}
