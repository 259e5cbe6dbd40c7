// SPDX-License-Identifier: Apache-2.0
//! What flows: edges, golden metrics, records. Reads only, from the observer.

use super::wire::{found, list, parameter};
use super::{Console, Outcome, Problem};
use crate::observe::{By, Edge, Filter, Observer, Stat, Total, WINDOW_MAX, Wanted, short};
use crate::state::REPORT_FRESH;
use byrnie_base::Text;
use byrnie_model::{Kind, Record, Resource, Spec, code};
use byrnie_net::runtime;
use byrnie_net::serve::Request;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Window of golden metrics unless told otherwise.
const STATS_WINDOW: Duration = Duration::from_secs(60);
/// Window of edges unless told otherwise: whoever called at all in the last hour.
const EDGES_WINDOW: Duration = WINDOW_MAX;
/// Records listed unless told otherwise.
const RECORDS_DEFAULT: usize = 100;
/// Most records listed.
const RECORDS_MAX: usize = 1_000;

/// How long an answer waits for reports of what it's about.
const REPORTS_PATIENCE: Duration = Duration::from_millis(2_500);
/// Time between two looks at what was reported meanwhile, however many proxies report.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A report that comes so soon after a question may have been under way before it.
const UNDER_WAY: Duration = Duration::from_millis(50);

/// `GET /api/v1/edges?window=`.
pub(super) fn edges(console: &Console, request: &Request) -> Outcome {
    let window = window(request, EDGES_WINDOW)?;
    let now = console.state.now().mono;
    let edges = console.state.observe(|observer| observer.edges(window, now));
    Ok(found(&list(&edges, edge_row)))
}

/// `GET /api/v1/stats?by=service|edge|route|instance&window=&service=&source=`.
pub(super) fn stats(console: &Console, request: &Request) -> Outcome {
    let window = window(request, STATS_WINDOW)?;
    let by = match parameter(request, "by").as_deref() {
        None | Some("service" | "svc" | "") => By::Service,
        Some("edge") => By::Edge,
        Some("route") => By::Route,
        Some("instance") => By::Instance,
        Some(other) => {
            let detail = format!("by={other} is not known");
            return Err(Problem::bad_request(detail, "by=service, edge, route or instance"));
        }
    };
    let filter = Filter { destination: text(request, "service"), source: text(request, "source") };
    let seconds = parameter(request, "seconds").and_then(|n| n.parse().ok()).unwrap_or(0);
    let now = console.state.now().mono;
    let rows = console.state.observe(|observer| {
        let stats = observer.stats(by, &filter, window, now);
        list(&stats, |stat| {
            let mut row = stat_row(by, stat);
            if by == By::Service {
                let known = observer.saturation(&stat.flow.destination, REPORT_FRESH, now);
                row["saturation"] = json!(known.map(|known| round(known.share)));
                row["inFlight"] = json!(known.map(|known| known.in_flight));
                row["concurrencyLimit"] = json!(known.map(|known| known.limit).filter(|limit| *limit > 0));
            }
            if by == By::Service && seconds > 0 {
                let own = Filter { destination: Some(stat.flow.destination.clone()), source: None };
                row["seconds"] = list(observer.seconds(&own, seconds, now), |(all, ok)| json!([all, ok]));
            }
            row
        })
    });
    Ok(found(&rows))
}

/// `GET /api/v1/records?status=&service=&failed=&limit=`.
pub(super) fn records(console: &Console, request: &Request) -> Outcome {
    let wanted = wanted(request)?;
    let records = console.state.observe(|observer| observer.records(&wanted));
    let callers = Callers::of(console);
    Ok(found(&list(&records, |record| callers.row(record))))
}

/// `GET /api/v1/records/{id}`: the caller's side first.
pub(super) async fn record(console: &Console, id: &str) -> Outcome {
    let records = named(console, id).await;
    if records.is_empty() {
        let detail = format!("there is no record {id}: it is too old, or was a success that was not sampled");
        return Err(Problem::new(404, &code::NOT_FOUND, detail).next("`byrnie explain last` shows the newest failure"));
    }
    let callers = Callers::of(console);
    Ok(found(&list(&records, |record| callers.row(record))))
}

/// The records of this id, once they are reported.
pub(super) async fn named(console: &Console, id: &str) -> Vec<Arc<Record>> {
    reported(console, |observer| !observer.record(id).is_empty()).await;
    console.state.observe(|observer| observer.record(id))
}

/// Waits until what is asked for is there, or every proxy has told what it saw until now: a proxy reports once a
/// second, and people ask at once.
pub(super) async fn reported(console: &Console, is_there: impl Fn(&Observer) -> bool) {
    let mut reports = console.state.reports();
    let asked = console.state.now().mono;
    // One that has fallen silent isn't waited for.
    let awake = console.state.proxies().into_iter().filter(|proxy| proxy.silent.is_none());
    let awake: Vec<Text> = awake.map(|proxy| proxy.name).collect();
    let has_told = |observer: &Observer, name| observer.node(name).is_some_and(|node| node.seen >= asked + UNDER_WAY);
    let is_over = |observer: &mut Observer| is_there(observer) || awake.iter().all(|name| has_told(observer, name));
    let over = async {
        while !console.state.observe(is_over) && reports.changed().await.is_ok() {
            runtime::sleep(LOOK_AGAIN).await;
        }
    };
    // What is known by then is answered.
    runtime::timeout(REPORTS_PATIENCE, over).await.ok();
}

/// Which records a request asks for.
///
/// # Errors
/// If a number isn't one.
pub(super) fn wanted(request: &Request) -> Result<Wanted, Problem> {
    let number = |name: &str| match parameter(request, name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse::<u16>() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Problem::bad_request(format!("{name}={text} is not a number"), format!("{name}=503"))),
        },
    };
    Ok(Wanted {
        status: number("status")?,
        service: text(request, "service"),
        failed: matches!(parameter(request, "failed").as_deref(), Some("true" | "1")),
        limit: number("limit")?.map_or(RECORDS_DEFAULT, usize::from).min(RECORDS_MAX),
    })
}

/// Names of callers: a caller's own proxy doesn't name it in its records.
pub(super) struct Callers(BTreeMap<Text, Text>);

impl Callers {
    /// The callers that are registered now, by workload.
    pub(super) fn of(console: &Console) -> Self {
        let account = |resource: &std::sync::Arc<Resource>| match &resource.spec {
            Spec::Workload(workload) => Some((resource.key.name.clone(), short(&workload.identity.to_string()))),
            _ => None,
        };
        Self(console.state.catalog(|catalog| catalog.iter(Kind::Workload).filter_map(account).collect()))
    }

    /// Who made the request of a record, as far as is known.
    pub(super) fn name(&self, record: &Record) -> Text {
        match (&*record.source, &*record.direction) {
            ("", "outbound") => self.0.get(&record.proxy).cloned().unwrap_or_else(|| record.proxy.clone()),
            ("", _) => "outside".into(),
            (identity, _) => short(identity),
        }
    }

    /// A record with the names of both sides as people say them.
    pub(super) fn row(&self, record: &Record) -> Value {
        let mut row = serde_json::to_value(record).unwrap_or_default();
        row["sourceName"] = json!(self.name(record));
        row["destinationName"] = json!(short(&record.destination));
        row
    }
}

fn edge_row(edge: &Edge) -> Value {
    let mut row = json!({
        "source": edge.source,
        "destination": edge.destination,
        "tls": edge.tls,
        "requests": edge.total.requests,
        "ok": edge.total.ok,
        "rps": round(edge.rps),
    });
    golden(&mut row, &edge.total);
    row
}

fn stat_row(by: By, stat: &Stat) -> Value {
    let flow = &stat.flow;
    let name = match by {
        By::Service => flow.destination.to_string(),
        By::Edge => format!("{} → {}", flow.source, flow.destination),
        By::Route => {
            let parts = [&flow.destination, &flow.method, &flow.route].into_iter().map(|part| &**part);
            parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
        }
        By::Instance => flow.proxy.to_string(),
    };
    let mut row = json!({"name": name, "requests": stat.total.requests, "rps": round(stat.rps)});
    golden(&mut row, &stat.total);
    row["service"] = json!(flow.destination);
    match by {
        By::Service => {}
        By::Edge => row["source"] = json!(flow.source),
        By::Route => (row["route"], row["method"]) = (json!(flow.route), json!(flow.method)),
        By::Instance => row["instance"] = json!(flow.proxy),
    }
    row
}

fn golden(row: &mut Value, total: &Total) {
    let millis = |q: f64| total.latency.quantile(q).map(|took| round(took.as_secs_f64() * 1000.0));
    row["okPercent"] = json!(total.ok_percent().map(round));
    row["p50Ms"] = json!(millis(0.5));
    row["p99Ms"] = json!(millis(0.99));
    row["retries"] = json!(total.retries);
    row["statuses"] =
        list(&total.statuses, |((status, reason), count)| json!({"status": status, "reason": reason, "count": count}));
}

/// Two decimals: what is shown, and what compares equal in scripts.
fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn text(request: &Request, name: &str) -> Option<Text> {
    let text = parameter(request, name).filter(|text| !text.is_empty())?;
    Some(text.strip_suffix(".default").unwrap_or(&text).into())
}

/// A span such as `30s`, `5m`, `1h` or bare seconds.
fn window(request: &Request, default: Duration) -> Result<Duration, Problem> {
    let Some(text) = parameter(request, "window").filter(|text| !text.is_empty()) else { return Ok(default) };
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    match digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).map(Duration::from_secs) {
        Some(window) if !window.is_zero() && window <= WINDOW_MAX => Ok(window),
        _ => Err(Problem::bad_request(format!("window={text} is not a span of at most 1h"), "window=30s, 5m or 1h")),
    }
}
