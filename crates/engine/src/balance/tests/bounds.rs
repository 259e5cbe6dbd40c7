// SPDX-License-Identifier: Apache-2.0
//! How much of a key's load stays at its endpoint (`hash.maxLoad`), where not all of the service may be chosen.

use super::*;

/// By key, with a bound.
fn bounded(balance: Balance, percent: u32) -> TrafficPolicy {
    TrafficPolicy { hash: Some(Hash { on: HashOn::Source, load_percent_max: Some(percent) }), ..by(balance) }
}

/// The far tier and those left out take no part in the mean: with them in it, everybody who may be chosen would be above the bound
/// at once, and one key would go to one endpoint however busy.
#[test]
fn a_bound_is_a_share_of_what_those_bear_who_may_be_chosen() {
    let far = |n: u8, e: &mut Endpoint| e.locality.region = if n < 4 { "eu".into() } else { "us".into() };
    let failover = Failover {
        prefer: vec![Nearness::SameRegion, Nearness::Any],
        below_percent: 0,
        shares: vec![],
        distribute: vec![],
    };
    let eject = Eject { consecutive_errors: Some(1), ejected_percent_max: 100, ..Eject::default() };
    let policy = TrafficPolicy { failover: Some(failover), eject: Some(eject), ..bounded(Balance::Maglev, 125) };
    let mut world = world(some(40, far), policy);
    let cluster = cluster(&world);
    let members = by_name(&cluster);
    note(&mut world.shard, &cluster, members["e3"], Sign::Lost, Duration::ZERO, ms(0).mono);
    let key = NonZeroU64::new(7);
    let mut picks = BTreeMap::<String, u32>::new();
    for _ in 0..300 {
        let member = pick(&cluster, &mut world.shard, key, NOTHING, ms(0).mono).unwrap();
        member.load.enter();
        *picks.entry(member.name().to_string()).or_default() += 1;
    }
    // Two as full as they may be, and the third has what is left: 125, 125 and 50.
    let mut loads: Vec<u32> = picks.values().copied().collect();
    loads.sort_unstable();
    assert_eq!(
        (loads, picks.keys().map(String::as_str).collect::<Vec<_>>()),
        (vec![50, 125, 125], vec!["e0", "e1", "e2"])
    );
}

proptest! {
    /// Of those that may be chosen, whoever gets a request is the first in the order of its key that has room, by the definition;
    /// and somebody always has.
    #[test]
    fn the_bound_is_by_weight_and_over_those_in_service(
        count in 2u8..16,
        out in prop::collection::vec(prop::bool::weighted(0.3), 16),
        weights in prop::collection::vec(1u32..5, 16),
        percent in 101u32..300,
        maglev in any::<bool>(),
        steps in prop::collection::vec((1u64..6, 0usize..4), 1..80),
    ) {
        let balance = if maglev { Balance::Maglev } else { Balance::RingHash };
        let eject = Eject { consecutive_errors: Some(1), ejected_percent_max: 100, ..Eject::default() };
        let policy = TrafficPolicy { eject: Some(eject), ..bounded(balance, percent) };
        let mut world = world(some(count, |n, e| e.weight = weights[usize::from(n)]), policy);
        let cluster = cluster(&world);
        let index = |member: &Member| usize::from(member.name()[1..].parse::<u8>().unwrap());
        for member in cluster.members().iter().filter(|member| out[index(member)]) {
            note(&mut world.shard, &cluster, member, Sign::Lost, Duration::ZERO, ms(0).mono);
        }
        let serving = |member: &&Arc<Member>| !outlier::ejected(&world.shard, member, ms(0).mono);
        let mut fit: Vec<Arc<Member>> = cluster.members().iter().filter(serving).map(Arc::clone).collect();
        if fit.is_empty() {
            fit = cluster.members().iter().map(Arc::clone).collect();
        }
        let weight = |member: &Member| u64::from(member.endpoint.weight);
        let all: u64 = fit.iter().map(|member| weight(member)).sum();
        let mut held = std::collections::VecDeque::new();
        for (key, ended) in steps {
            let key = NonZeroU64::new(hash::hash(&key.to_le_bytes(), 0)).unwrap();
            let busy: u64 = fit.iter().map(|member| member.in_flight()).sum();
            let bound = |member: &Member| ((busy + 1) * u64::from(percent) * weight(member)).div_ceil(100 * all);
            let has_room = |at: &usize| {
                let member = &cluster.members()[*at];
                fit.iter().any(|one| one.slot == member.slot) && member.in_flight() < bound(member)
            };
            let expected = cluster.table.walk(key).find(has_room);
            prop_assert!(expected.is_some(), "nobody has room");
            let picked = pick(&cluster, &mut world.shard, Some(key), NOTHING, ms(0).mono).unwrap();
            prop_assert_eq!(picked.name(), cluster.members()[expected.unwrap()].name());
            prop_assert!(picked.in_flight() < bound(picked));
            picked.load.enter();
            held.push_back(Arc::clone(picked));
            for member in held.drain(..ended.min(held.len())) {
                member.load.leave();
            }
        }
    }
}
