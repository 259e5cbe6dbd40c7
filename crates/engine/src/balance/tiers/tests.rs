// SPDX-License-Identifier: Apache-2.0
//! Shares of places by name: each has its own, whatever the rule within; who is lost moves nobody else; and what all of them
//! can't carry goes to whoever is nearest.

use super::*;
use crate::balance::{self, tests::NOTHING};
use crate::fixtures::*;
use crate::outlier::{Sign, note};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Balance, Choice, Distribution, Eject, Failover, Hash, HashOn, Nearness};
use byrnie_model::service::Area;
use byrnie_model::{Endpoint, Health, Protocol};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const RULES: [Balance; 7] = [
    Balance::PeakEwma,
    Balance::LeastRequest,
    Balance::RoundRobin,
    Balance::Random,
    Balance::WeightedRoundRobin,
    Balance::RingHash,
    Balance::Maglev,
];
const ROUNDS: u64 = 10_000;

fn area(text: &str) -> Area {
    let (region, zone) = text.split_once('/').unwrap_or((text, ""));
    Area { region: region.trim_matches('*').into(), zone: zone.into() }
}

fn entry(from: &str, to: &[(&str, u8)]) -> Distribution {
    Distribution { from: area(from), to: to.iter().map(|(place, share)| (area(place), *share)).collect() }
}

fn policy(distribute: Vec<Distribution>) -> TrafficPolicy {
    let failover = Failover { prefer: vec![Nearness::SameRegion], below_percent: 70, shares: vec![], distribute };
    TrafficPolicy { failover: Some(failover), ..TrafficPolicy::default() }
}

fn by(balance: Balance, policy: TrafficPolicy) -> TrafficPolicy {
    let hash = balance.hashes().then(|| Hash { on: HashOn::Header("x-user".into()), load_percent_max: None });
    TrafficPolicy { balance: Some(balance), hash, ..policy }
}

/// So many endpoints at each place, named `PLACE.N`.
fn spread_over(places: &[(&str, u8)]) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for (place, count) in places {
        for n in 0..*count {
            let mut one =
                endpoint("s", &format!("{}.{n}", place.replace('/', "-")), u8::try_from(all.len() + 1).unwrap());
            let at = area(place);
            (one.locality.region, one.locality.zone) = (at.region, at.zone);
            all.push(one);
        }
    }
    all
}

/// A proxy in `eu/a` that calls these.
fn world(endpoints: Vec<Endpoint>, policy: TrafficPolicy) -> World {
    let mut resources = vec![service("s", Protocol::Http1), traffic("s", policy)];
    resources.extend(endpoints.into_iter().map(of_endpoint));
    World::new(resources)
}

fn cluster(world: &World) -> Arc<Cluster> {
    Arc::clone(world.snapshot().clusters().next().unwrap())
}

/// Whom each of so many requests, each with a key of its own, goes to.
fn homes(world: &mut World, rounds: u64, at: u64) -> Vec<String> {
    let cluster = cluster(world);
    let home = |n: u64| {
        let key = NonZeroU64::new(hash(&n.to_le_bytes(), 0));
        balance::pick(&cluster, &mut world.shard, key, NOTHING, ms(at).mono).unwrap().name().to_string()
    };
    (0..rounds).map(home).collect()
}

/// How many of a hundred go to each place, and to each endpoint.
fn shares(homes: &[String]) -> (BTreeMap<String, f64>, BTreeMap<String, f64>) {
    let (mut places, mut members) = (BTreeMap::new(), BTreeMap::new());
    for home in homes {
        let one = 100.0 / homes.len() as f64;
        *places.entry(home.split('.').next().unwrap().to_owned()).or_default() += one;
        *members.entry(home.clone()).or_default() += one;
    }
    (places, members)
}

fn check(world: &mut World, expected: &[(&str, f64)]) {
    let (places, _) = shares(&homes(world, ROUNDS, 0));
    let names: Vec<&str> = places.keys().map(String::as_str).collect();
    assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{places:?}");
    for (place, share) in expected {
        assert!((places[*place] - share).abs() < 2.0, "{place} is meant to get {share}: {places:?}");
    }
}

#[test]
fn places_by_name_get_their_shares_and_nobody_else_gets_any() {
    let everywhere = spread_over(&[("eu/a", 4), ("eu/b", 3), ("us/a", 5), ("us/b", 1), ("ap/a", 6)]);
    let shared = policy(vec![entry("eu/a", &[("eu/a", 80), ("us", 20)])]);
    for balance in RULES {
        let mut world = world(everywhere.clone(), by(balance, shared.clone()));
        check(&mut world, &[("eu-a", 80.0), ("us-a", 20.0 * 5.0 / 6.0), ("us-b", 20.0 / 6.0)]);
    }
    // What says most of where one is counts, of callers and of endpoints; `*` is the rest.
    let several = vec![
        entry("*", &[("ap", 100)]),
        entry("eu", &[("us", 100)]),
        entry("eu/a", &[("*", 10), ("eu", 30), ("eu/a", 60)]),
    ];
    let mut nested = world(everywhere.clone(), policy(several));
    let ends: Vec<u32> = cluster(&nested).tiers.iter().map(|tier| tier.end).collect();
    assert_eq!(ends, [4, 7, 19, 19, 19], "the largest share first, and nobody is left for nearness");
    check(&mut nested, &[("ap-a", 5.0), ("eu-a", 60.0), ("eu-b", 30.0), ("us-a", 4.2), ("us-b", 0.8)]);
    // Callers elsewhere go by nearness, as without it.
    let mut elsewhere = world(everywhere, policy(vec![entry("us", &[("ap", 100)])]));
    check(&mut elsewhere, &[("eu-a", 57.0), ("eu-b", 43.0)]);
}

#[test]
fn a_place_that_cannot_carry_its_share_gives_it_to_the_others_as_they_share() {
    let shared = policy(vec![entry("eu/a", &[("eu/a", 50), ("us", 30), ("ap", 20)])]);
    let with = |sick: &[(&str, u8)]| {
        let mut all = spread_over(&[("eu/a", 10), ("us/a", 10), ("ap/a", 10), ("eu/b", 10)]);
        for (place, count) in sick {
            let of = all.iter_mut().filter(|one| one.workload.starts_with(place));
            of.take((*count).into()).for_each(|one| one.health = Health::Unhealthy);
        }
        world(all, shared.clone())
    };
    check(&mut with(&[("eu-a", 3)]), &[("ap-a", 20.0), ("eu-a", 50.0), ("us-a", 30.0)]);
    check(&mut with(&[("us-a", 3), ("ap-a", 3)]), &[("ap-a", 20.0), ("eu-a", 50.0), ("us-a", 30.0)]);
    // A third of all is lost, and two thirds carry 20/21 of what all do.
    check(&mut with(&[("eu-a", 10)]), &[("ap-a", 38.1), ("eu-b", 4.8), ("us-a", 57.1)]);
    check(&mut with(&[("eu-a", 10), ("us-a", 10), ("ap-a", 3)]), &[("ap-a", 33.3), ("eu-b", 66.7)]);
    // Half of it is left, which carries 5/7 of its share.
    check(&mut with(&[("eu-a", 5)]), &[("ap-a", 23.3), ("eu-a", 41.7), ("us-a", 35.0)]);
    // Weights and failover in one policy: what all places together can't carry goes to whoever is nearest of the others.
    check(
        &mut with(&[("eu-a", 9), ("us-a", 9), ("ap-a", 9)]),
        &[("ap-a", 2.9), ("eu-a", 7.1), ("eu-b", 85.7), ("us-a", 4.3)],
    );
    check(&mut with(&[("eu-a", 10), ("us-a", 10), ("ap-a", 10)]), &[("eu-b", 100.0)]);
}

#[test]
fn endpoints_that_are_ejected_are_no_part_of_what_a_place_carries() {
    let eject = Eject { consecutive_errors: Some(1), ejected_percent_max: 100, ..Eject::default() };
    let shared = policy(vec![entry("eu/a", &[("eu/a", 80), ("us", 10), ("ap", 10)])]);
    let all = spread_over(&[("eu/a", 2), ("us/a", 2), ("ap/a", 2), ("eu/b", 2)]);
    let mut world = world(all, TrafficPolicy { eject: Some(eject), ..shared });
    let cluster = cluster(&world);
    for member in cluster.members().iter().filter(|member| member.name().starts_with("eu-a")) {
        note(&mut world.shard, &cluster, member, Sign::Lost, Duration::ZERO, ms(0).mono);
    }
    check(&mut world, &[("ap-a", 47.0), ("eu-b", 5.0), ("us-a", 48.0)]);
    // Whoever was tried is left for another of these places before anybody else is asked.
    let tried = |member: &Member| member.name().starts_with("us-a") || member.name().starts_with("eu-b");
    let past = balance::Past { tried: &tried, ..NOTHING };
    for _ in 0..500 {
        let next = balance::pick(&cluster, &mut world.shard, None, past, ms(0).mono).unwrap();
        assert!(next.name().starts_with("ap-a"), "{}", next.name());
    }
    // They are back after ten seconds and a tenth: one probe each, then all is as before.
    let back = |world: &mut World| {
        let probes = homes(world, 500, 12_000);
        for member in cluster.members() {
            note(&mut world.shard, &cluster, member, Sign::Good, Duration::ZERO, ms(12_000).mono);
        }
        probes.iter().filter(|home| home.starts_with("eu-a")).count()
    };
    assert_eq!(back(&mut world), 2);
    let (places, _) = shares(&homes(&mut world, ROUNDS, 12_000));
    assert!((places["eu-a"] - 80.0).abs() < 2.0, "{places:?}");
}

#[test]
fn subsets_slow_start_and_panic_hold_within_each_place() {
    let all = || spread_over(&[("eu/a", 30), ("us/a", 30), ("ap/a", 30)]);
    let shared = || policy(vec![entry("eu/a", &[("eu/a", 70), ("us", 30)])]);
    let choosing = |choice: Choice| TrafficPolicy { endpoints: Some(choice), ..shared() };
    let names = |endpoints: Vec<Endpoint>| {
        let mut world = world(endpoints, choosing(Choice { most: Some(5), ..Choice::default() }));
        let (places, members) = shares(&homes(&mut world, ROUNDS, 0));
        assert!((places["eu-a"] - 70.0).abs() < 2.0 && (places["us-a"] - 30.0).abs() < 2.0, "{places:?}");
        members.into_keys().collect::<Vec<_>>()
    };
    let before = names(all());
    assert_eq!(before.len(), 10, "five of each place");
    let after = names(all().into_iter().filter(|one| *one.workload != *before[7]).collect());
    assert_eq!(after.iter().filter(|name| before.contains(name)).count(), 9, "one is replaced");

    // One that is new in its place gets little of it, and the place its share all the same.
    let slow = choosing(Choice { slow_start: Some(Duration::from_secs(10)), ..Choice::default() });
    let mut world = self::world(spread_over(&[("eu/a", 3), ("us/a", 3)]), by(Balance::Random, slow));
    homes(&mut world, 1000, 0);
    homes(&mut world, 1000, 50_000);
    let mut new = endpoint("s", "us-a.new", 99);
    new.locality.region = "us".into();
    world.put(vec![of_endpoint(new)]);
    let (places, members) = shares(&homes(&mut world, ROUNDS, 60_000));
    assert!((places["us-a"] - 30.0).abs() < 2.0 && members["us-a.new"] < 2.0, "{members:?}");
    let (_, members) = shares(&homes(&mut world, ROUNDS, 71_000));
    assert!((members["us-a.new"] - 7.5).abs() < 1.5, "{members:?}");

    let sick = |mut one: Endpoint| {
        one.health = if one.workload.ends_with('9') { Health::Healthy } else { Health::Unhealthy };
        one
    };
    let panic = choosing(Choice { panic_percent: Some(50), ..Choice::default() });
    let mut world = self::world(all().into_iter().map(sick).collect(), panic);
    let (places, members) = shares(&homes(&mut world, ROUNDS, 0));
    assert!((places["eu-a"] - 70.0).abs() < 2.0 && members.len() == 60, "{places:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The law, under every rule: each place gets `share x min(1, usable / total / 70%)` in proportion, and within it each
    /// endpoint as much as any other. Where one place is lost, keys of the others stay where they are.
    #[test]
    fn each_place_has_its_share_and_a_loss_moves_nobody_else(
        balance in prop::sample::select(RULES.to_vec()),
        weights in prop::collection::vec((5u8..40, 1u8..8, 0u8..4), 2..5),
        lost in any::<prop::sample::Index>(),
    ) {
        let names = ["eu/a", "us/a", "ap/a", "sa/a"];
        let sum: u32 = weights.iter().map(|(weight, ..)| u32::from(*weight)).sum();
        let mut to: Vec<(&str, u8)> = weights.iter().zip(names).map(|((weight, ..), name)| (name, u8::try_from(u32::from(*weight) * 100 / sum).unwrap())).collect();
        to[0].1 += 100 - to.iter().map(|(_, share)| share).sum::<u8>();
        let counts: Vec<(&str, u8)> = weights.iter().zip(names).map(|((_, count, _), name)| (name, *count)).collect();
        let mut all = spread_over(&counts);
        for ((_, count, sick), name) in weights.iter().zip(names) {
            let of = all.iter_mut().filter(|one| one.workload.starts_with(&name.replace('/', "-")));
            // Never so many that the level spills.
            of.take(usize::from((*sick).min(*count / 4))).for_each(|one| one.health = Health::Unhealthy);
        }
        let shared = by(balance, policy(vec![entry("eu/a", &to)]));
        let mut before = world(all.clone(), shared.clone());
        let homes_before = homes(&mut before, ROUNDS, 0);
        let (places, members) = shares(&homes_before);
        for (place, share) in &to {
            let got = places.get(&place.replace('/', "-")).copied().unwrap_or(0.0);
            prop_assert!((got - f64::from(*share)).abs() < 2.5, "{balance:?} {place}: {got} of {share}");
            let own: Vec<f64> = members.iter().filter(|(name, _)| name.starts_with(&place.replace('/', "-"))).map(|(_, of)| *of).collect();
            let fair = got / own.len() as f64;
            let (least, most) = if balance.hashes() { (0.4, 1.8) } else { (0.75, 1.25) };
            prop_assert!(own.iter().all(|one| *one > fair * least - 0.5 && *one < fair * most + 0.5), "{balance:?} {place}: {own:?}");
        }
        let gone = counts[lost.index(counts.len())].0.replace('/', "-");
        let left: Vec<Endpoint> = all.into_iter().map(|mut one| {
            if one.workload.starts_with(&gone) { one.health = Health::Unhealthy; }
            one
        }).collect();
        // As long as the others are enough to carry all; beyond, keys go elsewhere with good reason.
        let (usable, total) = (left.iter().filter(|one| one.health == Health::Healthy).count(), left.len());
        let mut after = world(left, shared);
        let homes_after = homes(&mut after, ROUNDS, 0);
        prop_assert!(homes_after.iter().all(|home| !home.starts_with(&gone)));
        if balance == Balance::RingHash && usable * 100 >= total * 70 {
            let place = |home: &String| home.split('.').next().unwrap().to_owned();
            let moved = homes_before.iter().zip(&homes_after).filter(|(b, a)| !b.starts_with(&gone) && place(b) != place(a)).count();
            // Shares are rounded to millionths.
            prop_assert!(moved <= 3, "{moved} keys of places that are well have moved");
        }
    }
}
