// SPDX-License-Identifier: Apache-2.0
//! Where tries go: by load, by weight, by nearness, and around what is broken.

use super::*;
use crate::fixtures::*;
use crate::outlier::{Sign, note};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Eject, Failover, Nearness};
use byrnie_model::{Endpoint, Health, Protocol};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn world(endpoints: Vec<Endpoint>, policy: TrafficPolicy) -> World {
    let mut resources = vec![service("s", Protocol::Http1), traffic("s", policy)];
    resources.extend(endpoints.into_iter().map(of_endpoint));
    World::new(resources)
}

fn some(count: u8, change: impl Fn(u8, &mut Endpoint)) -> Vec<Endpoint> {
    let one = |n| {
        let mut endpoint = endpoint("s", &format!("e{n}"), n + 1);
        change(n, &mut endpoint);
        endpoint
    };
    (0..count).map(one).collect()
}

fn cluster(world: &World) -> Arc<Cluster> {
    Arc::clone(world.snapshot().clusters().next().unwrap())
}

/// How often each endpoint is picked when nothing is under way.
fn spread(world: &mut World, picks: u32) -> BTreeMap<String, u32> {
    let cluster = cluster(world);
    let mut spread = BTreeMap::new();
    for _ in 0..picks {
        let member = pick(&cluster, &mut world.shard, &|_| false, ms(0).mono).unwrap();
        *spread.entry(member.name().to_string()).or_default() += 1;
    }
    spread
}

fn check_spread(balance: Balance, weights: &[u32], tolerance: u32) {
    let count = u8::try_from(weights.len()).unwrap();
    let endpoints = some(count, |n, e| e.weight = weights[usize::from(n)]);
    let mut world = world(endpoints, TrafficPolicy { balance: Some(balance), ..TrafficPolicy::default() });
    let spread = spread(&mut world, 10_000);
    let total: u32 = weights.iter().sum();
    for (n, weight) in weights.iter().enumerate() {
        let share = spread.get(&format!("e{n}")).copied().unwrap_or(0);
        let expected = 10_000 * weight / total;
        assert!(share.abs_diff(expected) <= tolerance, "{balance:?} {weights:?}: {spread:?}");
    }
}

#[test]
fn an_idle_cluster_is_used_by_weight() {
    for balance in [Balance::LeastRequest, Balance::Random, Balance::RoundRobin] {
        check_spread(balance, &[1, 1, 1, 1], 250);
        check_spread(balance, &[5, 1, 4], 300);
        check_spread(balance, &[1, 99], 100);
    }
    check_spread(Balance::RoundRobin, &[1, 1], 0);
    check_spread(Balance::RoundRobin, &[3, 1], 1);
}

#[test]
fn the_less_busy_of_two_gets_the_request() {
    let mut world = world(some(2, |_, _| {}), TrafficPolicy::default());
    let cluster = cluster(&world);
    for _ in 0..5 {
        cluster.members[0].load.enter();
    }
    let spread = spread(&mut world, 100);
    assert_eq!(spread.get("e1"), Some(&100));
}

#[test]
fn load_evens_out() {
    let mut world = world(some(10, |_, _| {}), TrafficPolicy::default());
    let cluster = cluster(&world);
    for _ in 0..1000 {
        pick(&cluster, &mut world.shard, &|_| false, ms(0).mono).unwrap().load.enter();
    }
    for member in cluster.members() {
        assert!((95..=105).contains(&member.in_flight()), "{}", member.in_flight());
    }
}

#[test]
fn the_near_are_preferred_until_too_few_are_left() {
    let place = |n: u8, e: &mut Endpoint| {
        let (region, zone) = [("eu", "a"), ("eu", "a"), ("eu", "b"), ("us", "a")][usize::from(n)];
        (e.locality.region, e.locality.zone) = (region.into(), zone.into());
    };
    let prefer = vec![Nearness::SameZone, Nearness::SameRegion, Nearness::Any];
    let failover = Failover { prefer, below_percent: 70 };
    let policy = TrafficPolicy { failover: Some(failover), ..TrafficPolicy::default() };
    let check = |sick: &[u8], expected: &[&str]| {
        let sick_ones = |n: u8, e: &mut Endpoint| {
            place(n, e);
            if sick.contains(&n) {
                e.health = Health::Unhealthy;
            }
        };
        let mut world = world(some(4, sick_ones), policy.clone());
        let used: Vec<String> = spread(&mut world, 500).into_keys().collect();
        assert_eq!(used, expected, "without {sick:?}");
    };
    check(&[], &["e0", "e1"]);
    check(&[0], &["e1", "e2"]);
    check(&[0, 2], &["e1", "e3"]);
    check(&[0, 1, 2], &["e3"]);
    check(&[3], &["e0", "e1"]);
}

#[test]
fn draining_and_unhealthy_endpoints_get_nothing() {
    let health =
        |n: u8, e: &mut Endpoint| e.health = [Health::Draining, Health::Unhealthy, Health::Healthy][usize::from(n)];
    let mut all = world(some(3, health), TrafficPolicy::default());
    assert_eq!(spread(&mut all, 200).into_keys().collect::<Vec<_>>(), ["e2"]);
    let none = world(some(2, health), TrafficPolicy::default());
    let (none, mut shard) = (cluster(&none), crate::Shard::new(1));
    assert!(pick(&none, &mut shard, &|_| false, ms(0).mono).is_none());
    assert_eq!(none.away(), 2);
}

fn ejecting(endpoints: u8, percent: u8) -> World {
    let eject = Eject { consecutive_errors: 2, span: Duration::from_secs(10), ejected_percent_max: percent };
    world(some(endpoints, |_, _| {}), TrafficPolicy { eject: Some(eject), ..TrafficPolicy::default() })
}

/// So many failures in a row at every endpoint; how many are left out.
fn fail_all(world: &mut World, failures: u32, at: Instant) -> usize {
    let cluster = cluster(world);
    for member in cluster.members() {
        for _ in 0..failures {
            note(&mut world.shard, &cluster, member, Sign::Bad, at);
        }
    }
    cluster.members().iter().filter(|member| outlier::ejected(&world.shard, member, at)).count()
}

#[test]
fn the_cap_bounds_ejections() {
    for (endpoints, percent, out) in
        [(1, 100, 0), (2, 10, 1), (2, 100, 2), (10, 50, 5), (10, 5, 1), (10, 0, 1), (10, 100, 10), (3, 50, 1)]
    {
        assert_eq!(fail_all(&mut ejecting(endpoints, percent), 2, ms(0).mono), out, "{endpoints} {percent}%");
    }
    assert_eq!(fail_all(&mut ejecting(10, 100), 1, ms(0).mono), 0, "one failure is none");
}

#[test]
fn if_all_are_out_all_are_used() {
    let mut world = ejecting(4, 100);
    assert_eq!(fail_all(&mut world, 2, ms(0).mono), 4);
    assert_eq!(spread(&mut world, 400).len(), 4);
}

#[test]
fn ejections_end_and_grow() {
    let mut world = ejecting(2, 50);
    let cluster = cluster(&world);
    let member = &cluster.members()[0];
    let out = |world: &World, at| outlier::ejected(&world.shard, member, ms(at).mono);
    let fail = |world: &mut World, at| note(&mut world.shard, &cluster, member, Sign::Bad, ms(at).mono);
    fail(&mut world, 0);
    fail(&mut world, 0);
    assert!(out(&world, 9_999) && !out(&world, 11_001), "ten seconds and at most a tenth more");
    // Back on probation: one failure is enough, and the next time is twice as long.
    fail(&mut world, 12_000);
    assert!(out(&world, 31_999) && !out(&world, 34_001));
    note(&mut world.shard, &cluster, member, Sign::Good, ms(35_000).mono);
    fail(&mut world, 36_000);
    assert!(!out(&world, 36_000), "a success ends the probation");
}

proptest! {
    /// As long as one endpoint is healthy and in service, no other is picked for a first try; a retry goes
    /// to one that wasn't tried, if there is one.
    #[test]
    fn the_broken_are_never_picked_while_others_are_not(
        health in prop::collection::vec(0u8..4, 1..12),
        balance in prop::sample::select(vec![Balance::LeastRequest, Balance::RoundRobin, Balance::Random]),
        weights in prop::collection::vec(1u32..5, 12),
        tried in prop::collection::vec(any::<bool>(), 12),
        seed in any::<u64>(),
    ) {
        let endpoints = some(u8::try_from(health.len()).unwrap(), |n, e| {
            e.weight = weights[usize::from(n)];
            e.health = match health[usize::from(n)] { 0 => Health::Draining, 1 => Health::Unhealthy, _ => Health::Healthy };
        });
        let eject = Eject { consecutive_errors: 1, span: Duration::from_secs(10), ejected_percent_max: 100 };
        let mut world = world(endpoints, TrafficPolicy { balance: Some(balance), eject: Some(eject), ..TrafficPolicy::default() });
        world.shard = crate::Shard::new(seed);
        let cluster = cluster(&world);
        let index = |member: &Member| usize::from(member.name()[1..].parse::<u8>().unwrap());
        for member in cluster.members().iter().filter(|m| health[index(m)] == 2) {
            note(&mut world.shard, &cluster, member, Sign::Bad, ms(0).mono);
        }
        let in_service = |member: &Member| !outlier::ejected(&world.shard, member, ms(0).mono);
        let fresh: Vec<usize> =
            cluster.members().iter().filter(|m| in_service(m)).map(|m| index(m)).filter(|i| !tried[*i]).collect();
        let all_tried = cluster.members().iter().all(|m| tried[index(m)]);
        for _ in 0..20 {
            let picked = pick(&cluster, &mut world.shard, &|m| tried[index(m)], ms(0).mono).map(|m| index(m));
            prop_assert_eq!(picked.is_none(), cluster.members().is_empty());
            let Some(picked) = picked else { break };
            prop_assert!(health[picked] >= 2);
            prop_assert!(all_tried || !tried[picked]);
            prop_assert!(fresh.is_empty() || fresh.contains(&picked));
        }
    }
}
