// SPDX-License-Identifier: Apache-2.0
//! How the rules compare where endpoints aren't alike: a queueing simulation by seed, on the real `pick`
//! with two cores. Its table stands in `docs/explanation/balancing.md`, and must.

use super::tests::NOTHING;
use super::*;
use crate::fixtures::*;
use byrnie_base::Rng;
use byrnie_model::Protocol;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Hash, HashOn};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

const DOCS: &str = include_str!("../../../../docs/explanation/balancing.md");
const ENDPOINTS: usize = 10;
/// Requests that one endpoint works on at once.
const WORKERS: usize = 4;
const REQUESTS: u64 = 12_000;
const MICROS_MEAN: u64 = 5_000;

/// What is wrong with the last endpoint.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// It takes ten times as long.
    Slow,
    /// It answers 503 at once.
    Fails,
    /// It does nothing for the third second.
    Stalls,
}

struct Endpoint {
    busy: usize,
    queue: VecDeque<(u64, u64)>,
}

#[derive(Default)]
struct Result {
    /// Microseconds of each good answer.
    spans: Vec<u64>,
    failed: u64,
    by_endpoint: Vec<u64>,
}

impl Result {
    fn percentile(&self, per_mille: usize) -> f64 {
        let mut spans = self.spans.clone();
        spans.sort_unstable();
        spans[(spans.len() - 1) * per_mille / 1000] as f64 / 1000.0
    }
}

/// Poisson arrivals at `rate` per second; exponential times of service.
fn run(balance: Balance, trouble: Trouble, rate: u64) -> Result {
    let hash = balance.hashes().then_some(Hash { on: HashOn::Source, load_percent_max: Some(125) });
    let mut resources = vec![
        service("s", Protocol::Http1),
        traffic("s", TrafficPolicy { balance: Some(balance), hash, ..TrafficPolicy::default() }),
    ];
    resources.extend((0..ENDPOINTS).map(|n| of_endpoint(endpoint("s", &format!("e{n}"), n as u8 + 1))));
    let world = World::new(resources);
    let snapshot = world.snapshot();
    let cluster = snapshot.clusters().next().unwrap();
    let mut cores = [crate::Shard::new(1), crate::Shard::new(2)];
    let mut dice = Rng::new(42);
    let exponential = |dice: &mut Rng, mean: u64| {
        let unit = (dice.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64;
        ((-unit.ln()) * mean as f64) as u64 + 1
    };
    let at = |micros: u64| ms(0).mono + Duration::from_micros(micros);
    let mut endpoints: Vec<Endpoint> = (0..ENDPOINTS).map(|_| Endpoint { busy: 0, queue: VecDeque::new() }).collect();
    let mut result = Result { by_endpoint: vec![0; ENDPOINTS], ..Result::default() };
    // (when, endpoint, begun); an endpoint of MAX is an arrival.
    let mut events = BinaryHeap::from([Reverse((0u64, usize::MAX, 0u64))]);
    let mut arrived = 0;
    while let Some(Reverse((now, which, begun))) = events.pop() {
        let start = |endpoint: usize, from: u64, span: u64| {
            let stall =
                trouble == Trouble::Stalls && endpoint == ENDPOINTS - 1 && (2_000_000..3_000_000).contains(&from);
            (if stall { 3_000_000 } else { from }) + span
        };
        if which == usize::MAX {
            arrived += 1;
            if arrived < REQUESTS {
                events.push(Reverse((now + exponential(&mut dice, 1_000_000 / rate), usize::MAX, 0)));
            }
            cluster.call.share.pending.enter();
            let key = NonZeroU64::new(dice.next_u64() | 1);
            let core = &mut cores[dice.below(2) as usize];
            let member = pick(cluster, core, key, NOTHING, at(now)).unwrap();
            member.load.enter();
            let index = cluster.members.iter().position(|m| Arc::ptr_eq(m, member)).unwrap();
            result.by_endpoint[index] += 1;
            let mean = if trouble == Trouble::Slow && index == ENDPOINTS - 1 { 10 * MICROS_MEAN } else { MICROS_MEAN };
            let fails = trouble == Trouble::Fails && index == ENDPOINTS - 1;
            let span = if fails { 200 } else { exponential(&mut dice, mean) };
            let endpoint = &mut endpoints[index];
            if endpoint.busy < WORKERS {
                endpoint.busy += 1;
                events.push(Reverse((start(index, now, span), index, now)));
            } else {
                endpoint.queue.push_back((now, span));
            }
            continue;
        }
        let (member, taken) = (&cluster.members[which], Duration::from_micros(now - begun));
        member.load.leave();
        cluster.call.share.pending.leave();
        if trouble == Trouble::Fails && which == ENDPOINTS - 1 {
            member.load.refused(Duration::ZERO, at(now));
            result.failed += 1;
        } else {
            member.load.answered(taken, at(now));
            result.spans.push(now - begun);
            let slow = trouble == Trouble::Slow && which == ENDPOINTS - 1;
            member.load.reported(if slow { 80_000 } else { 800_000 }, at(now));
        }
        match endpoints[which].queue.pop_front() {
            Some((begun, span)) => events.push(Reverse((start(which, now, span), which, begun))),
            None => endpoints[which].busy -= 1,
        }
    }
    result
}

const RULES: [Balance; 7] = [
    Balance::PeakEwma,
    Balance::LeastRequest,
    Balance::RoundRobin,
    Balance::Random,
    Balance::WeightedRoundRobin,
    Balance::RingHash,
    Balance::Maglev,
];
/// Requests per second: a tenth of them is just what the slow endpoint can take.
const RATE: u64 = 700;

#[test]
fn the_documented_comparison_holds() {
    let mut table = String::new();
    let mut slow = Vec::new();
    for balance in RULES {
        let (equal, late) = (run(balance, Trouble::None, 4 * RATE), run(balance, Trouble::Slow, RATE));
        let (fails, stalls) = (run(balance, Trouble::Fails, RATE), run(balance, Trouble::Stalls, RATE));
        let failed = fails.failed as f64 * 100.0 / REQUESTS as f64;
        table += &format!(
            "| {balance:?} | {:.0} | {:.0} / {:.0} | {failed:.1} % | {:.0} |\n",
            equal.percentile(990),
            late.percentile(990),
            late.percentile(999),
            stalls.percentile(990),
        );
        slow.push((late.percentile(990), failed));
    }
    assert!(DOCS.contains(&table), "docs/explanation/balancing.md is to contain:\n{table}");
    let (ewma, least, robin) = (slow[0], slow[1], slow[2]);
    assert!(ewma.0 < least.0 && least.0 < robin.0, "{slow:?}");
    assert!(ewma.1 < 1.0 && robin.1 > 9.0 && least.1 > 9.0, "{slow:?}");
}

#[test]
fn a_large_mesh_is_balanced_too() {
    // 1,000 services of 100 endpoints, one proxy that calls them all.
    let mut world = World::new(Vec::new());
    for batch in 0..10 {
        let mut resources = Vec::new();
        for n in batch * 100..(batch + 1) * 100 {
            resources.push(service(&format!("s{n}"), Protocol::Http1));
            resources.extend((0..100).map(|e| of_endpoint(endpoint(&format!("s{n}"), &format!("s{n}-e{e}"), e + 1))));
        }
        world.put(resources);
    }
    let snapshot = world.snapshot();
    assert_eq!(snapshot.clusters().map(|cluster| cluster.members.len()).sum::<usize>(), 100_000);
    for (n, cluster) in snapshot.clusters().enumerate() {
        for request in 0..if n == 0 { 5_000 } else { 10 } {
            let now = ms(request).mono;
            let member = pick(cluster, &mut world.shard, None, NOTHING, now).unwrap();
            member.load.enter();
            if request >= 200 {
                continue;
            }
            member.load.leave();
            member.load.answered(Duration::from_millis(3), now);
        }
    }
    let first = snapshot.clusters().next().unwrap();
    let (least, most) = (
        first.members.iter().map(|m| m.in_flight()).min().unwrap(),
        first.members.iter().map(|m| m.in_flight()).max().unwrap(),
    );
    assert!(most - least <= 8, "48 each of 4800 under way: from {least} to {most}");
}
