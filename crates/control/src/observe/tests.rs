// SPDX-License-Identifier: Apache-2.0
//! What goes in as reports comes out as edges, metrics and records.

use super::{By, Filter, Observer, Wanted};
use byrnie_base::count::Distribution;
use byrnie_base::{Instant, Timestamp};
use byrnie_model::{Record, record};
use byrnie_xds::proto::byrnie::v1::{ReportRequest, Series};
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(30);

fn second(n: u64) -> Instant {
    Instant::from_nanos(n * 1_000_000_000)
}

fn report(direction: &str, source: &str, destination: &str, status: u32, count: u64) -> ReportRequest {
    let mut times = Distribution::new();
    (0..count).for_each(|_| times.record(Duration::from_millis(10)));
    let (index, counts): (Vec<u32>, Vec<u64>) = times.sparse().map(|(i, n)| (u32::from(i), n)).unzip();
    let texts = ["", direction, source, destination, "default", "GET", "mutual"].map(str::to_owned).to_vec();
    let series = Series {
        direction: 1,
        source: 2,
        destination: 3,
        route: 4,
        method: 5,
        status,
        tls: 6,
        count,
        bucket_index: index,
        bucket_count: counts,
        sum_us: count * 10_000,
        ..Series::default()
    };
    ReportRequest { texts, series: vec![series], ..ReportRequest::default() }
}

const WEB: &str = "spiffe://demo.local/ns/default/sa/web";

#[test]
fn an_exchange_seen_from_both_sides_counts_once() {
    let mut observer = Observer::new();
    observer.collect("default/web-1", &report("outbound", WEB, "cart.default", 200, 30), second(10));
    observer.collect("default/cart-1", &report("inbound", WEB, "cart.default", 200, 30), second(10));
    observer.collect("default/cart-1", &report("inbound", "", "cart.default", 503, 10), second(11));
    let edges = observer.edges(WINDOW, second(20));
    let seen: Vec<_> =
        edges.iter().map(|e| (e.source.as_str(), e.destination.as_str(), e.tls.as_str(), e.total.requests)).collect();
    assert_eq!(seen, [("", "cart", "mutual", 10), ("web", "cart", "mutual", 30)]);
    let stats = observer.stats(By::Service, &Filter::default(), WINDOW, second(20));
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].total.ok_percent(), stats[0].rps), (Some(75.0), 4.0));
    let p50 = stats[0].total.latency.quantile(0.5).unwrap();
    assert!((9..12).contains(&p50.as_millis()), "{p50:?}");
    let instances = observer.stats(By::Instance, &Filter::default(), WINDOW, second(20));
    assert_eq!((instances.len(), instances[0].total.requests), (1, 40));
}

#[test]
fn a_window_ends_and_an_hour_is_forgotten() {
    let mut observer = Observer::new();
    observer.collect("default/web-1", &report("outbound", WEB, "cart.default", 200, 5), second(100));
    assert_eq!(observer.edges(WINDOW, second(140)).len(), 0);
    assert_eq!(observer.edges(Duration::from_secs(600), second(140)).len(), 1);
    observer.forget(second(100 + 3700));
    assert_eq!((observer.flows(), observer.nodes().count()), (0, 0));
}

#[test]
fn nonsense_in_a_report_is_left_out() {
    let mut observer = Observer::new();
    let mut bad = report("outbound", WEB, "cart.default", 70_000, 1);
    bad.series[0].count = u64::MAX;
    bad.series[0].source = 4_000_000;
    bad.series[0].bucket_index.push(u32::MAX);
    bad.records = vec!["{".to_owned(), "x".repeat(1 << 20)];
    observer.collect("default/web-1", &bad, second(1));
    assert_eq!(observer.records(&Wanted::default()).len(), 0);
    for n in 0..5_000 {
        let name = format!("s{n}.default");
        observer.collect("default/web-1", &report("outbound", WEB, &name, 200, 1), second(2));
    }
    assert!(observer.flows() <= 2 * super::FLOWS_MAX);
}

#[test]
fn the_newest_record_is_the_newest_whoever_reports_first() {
    let mut observer = Observer::new();
    // Each proxy reports once a second, when it likes.
    for (proxy, at, reason) in [("cart-1", 20, "key_ambiguous"), ("edge", 10, "no_endpoint")] {
        let record = Record {
            id: proxy.into(),
            at: Timestamp::from_millis(at),
            proxy: proxy.into(),
            direction: "inbound".into(),
            request: record::Request::default(),
            source: "".into(),
            destination: "cart.default".into(),
            decision: record::Decision { reason: reason.into(), ..record::Decision::default() },
            attempts: Vec::new(),
            status: 503,
            duration_us: 1,
        };
        let records = vec![serde_json::to_string(&record).unwrap()];
        observer.collect(proxy, &ReportRequest { records, ..ReportRequest::default() }, second(1));
    }
    let found = |limit, failed| {
        let wanted = Wanted { service: Some("cart".into()), failed, limit, ..Wanted::default() };
        observer.records(&wanted).iter().map(|record| record.at.as_millis()).collect::<Vec<_>>()
    };
    assert_eq!((found(1, true), found(1, false), found(9, true)), (vec![20], vec![20], vec![20, 10]));
}

#[test]
fn saturation_is_in_flight_by_limit_in_the_mean_of_instances() {
    use byrnie_xds::proto::byrnie::v1::ProgramView;
    let mut observer = Observer::new();
    let fresh = Duration::from_secs(5);
    assert_eq!(observer.saturation("cart", fresh, second(1)), None);
    for (node, in_flight, limit, at) in [("a", 30, 40, 10), ("b", 10, 40, 10), ("c", 4, 0, 10), ("gone", 40, 40, 1)] {
        let texts = vec![String::new(), "cart.default".to_owned()];
        let programs = vec![ProgramView { destination: 1, in_flight, limit }];
        observer.collect(node, &ReportRequest { texts, programs, ..ReportRequest::default() }, second(at));
    }
    let found = observer.saturation("cart", fresh, second(11)).unwrap();
    assert_eq!((found.in_flight, found.limit), (44, 80));
    assert!((found.share - 1.0 / 3.0).abs() < 1e-9, "{found:?}");
}
