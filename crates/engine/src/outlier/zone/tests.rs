// SPDX-License-Identifier: Apache-2.0
//! Zones that are lost, and those that only look so.

use super::*;
use crate::balance::{Past, pick};
use crate::cluster::Cluster;
use crate::fixtures::*;
use byrnie_model::Protocol;
use std::sync::Arc;

/// `count` endpoints of `s`, by turns in these zones.
fn world(zones: &[&str], count: u8) -> World {
    let mut resources = vec![service("s", Protocol::Http1)];
    resources.extend((0..count).map(|n| {
        let mut endpoint = endpoint("s", &format!("e{n}"), n + 1);
        endpoint.locality = Locality { region: "eu".into(), zone: zones[usize::from(n) % zones.len()].into() };
        of_endpoint(endpoint)
    }));
    World::new(resources)
}

fn cluster(world: &World) -> Arc<Cluster> {
    Arc::clone(world.snapshot().clusters().next().unwrap())
}

fn of_zone(cluster: &Cluster, zone: &str) -> Vec<Arc<Member>> {
    cluster.members().iter().filter(|member| *member.locality().zone == *zone).cloned().collect()
}

/// So many tries at the first so many endpoints of a zone, by turns, end so.
fn tries(world: &mut World, zone: &str, endpoints: usize, count: usize, ending: Ending, at: u64) {
    let members = of_zone(&cluster(world), zone);
    for n in 0..count {
        note(&mut world.shard, &members[n % endpoints], ending, Duration::ZERO, ms(at).mono);
    }
}

const SILENT: Ending = Ending::Failed(Failure::ConnectTimeout);

fn is_out(world: &World, zone: &str, at: u64) -> bool {
    out(&world.shard, &of_zone(&cluster(world), zone)[0], ms(at).mono)
}

/// How many of a hundred first tries go to the zone.
fn share(world: &mut World, zone: &str, at: u64) -> usize {
    let cluster = cluster(world);
    let past = Past { tried: &|_| false, zones: ZoneSet::NONE, silent_since: None, stays: false };
    let mut picks = (0..100).map(|_| pick(&cluster, &mut world.shard, None, past, ms(at).mono).unwrap().clone());
    picks.by_ref().filter(|member| *member.locality().zone == *zone).count()
}

#[test]
fn a_zone_where_nobody_answers_is_left_as_a_whole_and_comes_back_by_one_probe() {
    let mut world = world(&["a", "b"], 20);
    tries(&mut world, "a", 4, 8, SILENT, 0);
    assert_eq!(share(&mut world, "a", 1), 0, "those never tried are left too");
    assert_eq!(share(&mut world, "a", 1_001), 1, "one looks");
    tries(&mut world, "a", 1, 1, SILENT, 1_100);
    assert_eq!((share(&mut world, "a", 1_200), share(&mut world, "a", 2_200)), (0, 1), "in vain");
    tries(&mut world, "a", 1, 1, Ending::Status(500), 2_300);
    assert!(share(&mut world, "a", 2_301) > 20, "any answer shows that it lives");
}

#[test]
fn what_is_less_than_a_zone_is_left_to_each_endpoint() {
    let mut world = world(&["a", "b"], 20);
    tries(&mut world, "a", 3, 50, SILENT, 0);
    assert!(!is_out(&world, "a", 1), "three endpoints are no zone");
    tries(&mut world, "a", 10, 7, SILENT, 2);
    tries(&mut world, "a", 10, 1, Ending::Status(503), 3);
    tries(&mut world, "a", 10, 7, SILENT, 4);
    assert!(!is_out(&world, "a", 5), "somebody answered");
    tries(&mut world, "a", 10, 50, Ending::Failed(Failure::Refused), 6);
    assert!(!is_out(&world, "a", 7), "who refuses is there");
}

#[test]
fn an_answer_to_what_was_asked_before_says_nothing_new() {
    let mut world = world(&["a", "b"], 20);
    tries(&mut world, "a", 4, 8, SILENT, 100);
    let member = &of_zone(&cluster(&world), "a")[5];
    note(&mut world.shard, member, Ending::Status(200), Duration::from_millis(60), ms(150).mono);
    assert!(is_out(&world, "a", 151));
    note(&mut world.shard, member, Ending::Status(200), Duration::from_millis(60), ms(161).mono);
    assert!(!is_out(&world, "a", 162));
}

#[test]
fn if_every_zone_is_lost_all_are_asked() {
    let mut world = world(&["a", "b"], 20);
    for zone in ["a", "b"] {
        tries(&mut world, zone, 4, 8, SILENT, 0);
    }
    assert!(share(&mut world, "a", 1) > 20);
}

#[test]
fn who_has_no_zone_is_never_left_for_it() {
    let mut world = world(&[""], 20);
    tries(&mut world, "", 10, 100, SILENT, 0);
    assert!(!is_out(&world, "", 1));
}

#[test]
fn a_second_try_goes_to_another_zone() {
    let mut world = world(&["a", "b"], 20);
    let cluster = cluster(&world);
    let first = of_zone(&cluster, "a").remove(0);
    let zones = ZoneSet::NONE.with(first.zone);
    let past = Past { tried: &|member| member.slot == first.slot, zones, silent_since: Some(ms(0).mono), stays: false };
    for _ in 0..50 {
        let second = pick(&cluster, &mut world.shard, None, past, ms(0).mono).unwrap();
        assert_eq!(*second.locality().zone, *"b");
    }
}

#[test]
fn a_second_try_goes_to_one_who_has_answered_since_the_first_was_begun_or_else_last() {
    let mut world = world(&["a", "b"], 20);
    let cluster = cluster(&world);
    let (near, far) = (of_zone(&cluster, "a"), of_zone(&cluster, "b"));
    let zones = ZoneSet::NONE.with(near[0].zone);
    let past = Past { tried: &|m| m.slot == near[0].slot, zones, silent_since: Some(ms(100).mono), stays: false };
    let mut second = || {
        let mut picks = (0..50).map(|_| pick(&cluster, &mut world.shard, None, past, ms(1_000).mono).unwrap().clone());
        let first = picks.next().unwrap();
        (picks.all(|other| other.slot == first.slot), first)
    };
    near[1].load.heard(ms(99).mono);
    assert_eq!(*second().1.locality().zone, *"b", "nobody of the zone has answered since");
    far[3].load.heard(ms(101).mono);
    let (always, who) = second();
    assert!(always && who.slot == far[3].slot, "one has, wherever it is");
}

#[test]
fn while_the_zone_lives_those_are_asked_who_answered_lately() {
    let mut world = world(&["a", "b"], 20);
    let cluster = cluster(&world);
    let near = of_zone(&cluster, "a");
    let zones = ZoneSet::NONE.with(near[0].zone);
    let past = Past { tried: &|m| m.slot == near[0].slot, zones, silent_since: Some(ms(2_000).mono), stays: false };
    (0..10).for_each(|n| near[n].load.heard(ms(if n < 5 { 1_500 } else { 500 }).mono));
    // An endpoint of some other service there answers.
    note(&mut world.shard, &near[9], Ending::Status(200), Duration::ZERO, ms(2_050).mono);
    let mut asked = [0; 10];
    for _ in 0..200 {
        let member = pick(&cluster, &mut world.shard, None, past, ms(3_000).mono).unwrap();
        // Zones come second where no policy prefers them.
        asked[near.iter().position(|one| one.slot == member.slot).unwrap()] += 1;
        member.load.enter();
    }
    assert!(asked[1..5].iter().all(|count| (45..=55).contains(count)), "{asked:?}");
}

#[test]
fn without_a_zone_those_who_answered_lately_are_asked_if_anybody_answers_at_all() {
    let mut world = world(&[""], 20);
    let cluster = cluster(&world);
    let all = cluster.members();
    let past = Past {
        tried: &|m| m.slot == all[0].slot,
        zones: ZoneSet::NONE,
        silent_since: Some(ms(100).mono),
        stays: false,
    };
    all[3].load.heard(ms(90).mono);
    let asked = |world: &mut World| {
        let picks = (0..50).map(|_| pick(&cluster, &mut world.shard, None, past, ms(1_000).mono).unwrap().slot.index);
        picks.collect::<std::collections::BTreeSet<_>>()
    };
    assert!(asked(&mut world).len() > 5, "nobody has answered since");
    world.shard.zones.heard = ms(150).mono;
    assert_eq!(asked(&mut world).into_iter().collect::<Vec<_>>(), [all[3].slot.index]);
}

#[test]
fn zones_beyond_those_that_are_told_apart_have_no_number() {
    let mut numbers = ZoneNumbers::default();
    let zone = |n: usize| Locality { region: "eu".into(), zone: format!("z{n}").into() };
    let all: Vec<ZoneNumber> = (0..100).map(|n| numbers.number(&zone(n))).collect();
    assert!(all[..ZONES_MAX].iter().all(|number| *number != ZoneNumber::default()));
    assert!(all[ZONES_MAX..].iter().all(|number| *number == ZoneNumber::default()));
    assert_eq!((numbers.number(&zone(0)), numbers.number(&zone(62))), (all[0], all[62]));
    let set = ZoneSet::NONE.with(all[0]).with(all[62]).with(all[99]);
    assert!(set.has(all[0]) && set.has(all[62]) && !set.has(all[99]) && !set.has(all[1]));
}
