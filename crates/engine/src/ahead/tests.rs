// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::fixtures::*;
use byrnie_base::Now;
use byrnie_model::Protocol;
use std::collections::BTreeSet;

fn asked(world: &mut World, now: Now) -> String {
    let (exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), now);
    drop(exchange);
    endpoint_of(&plan(effect)).to_string()
}

fn wanted(world: &World, now: Now) -> Vec<Hop> {
    world.shard.ahead(&world.snapshot(), now.mono)
}

#[test]
fn what_is_in_use_has_connections_to_its_nearest_endpoints() {
    let mut world = World::payments(40);
    world.put(vec![service("idle", Protocol::Http1), of_endpoint(endpoint("idle", "i1", 99))]);
    assert!(wanted(&world, ms(0)).is_empty(), "nobody has asked");
    asked(&mut world, ms(0));
    let hops = wanted(&world, ms(1));
    assert_eq!(hops.len(), PER_SERVICE_MAX);
    assert!(hops.iter().all(|hop| hop.sni().starts_with("80.payments.")));
    assert!(wanted(&world, ms(60_000)).is_empty(), "nobody asks any more");
}

#[test]
fn one_that_joins_is_asked_last_until_there_is_a_connection_or_a_second_has_passed() {
    let mut world = World::payments(2);
    let joiner = wanted_of(&mut world, "p2");
    let opening = world.shard.missing(&joiner, false, ms(0).mono).unwrap();
    assert!(opening.delay < JITTER_MAX);
    assert!(world.shard.missing(&joiner, false, ms(4_999).mono).is_none(), "it's tried once in a while");
    let others: BTreeSet<String> = (0..50).map(|_| asked(&mut world, ms(10))).collect();
    assert_eq!(others, BTreeSet::from(["p1".to_owned()]));
    world.shard.joined(&joiner);
    let all: BTreeSet<String> = (0..50).map(|_| asked(&mut world, ms(20))).collect();
    assert_eq!(all.len(), 2);
    world.shard.missing(&joiner, false, ms(5_000).mono).unwrap();
    let late: BTreeSet<String> = (0..50).map(|_| asked(&mut world, ms(6_000))).collect();
    assert_eq!(late.len(), 2);
    // If there's nobody else, it's asked all the same.
    let mut world = World::payments(1);
    let only = wanted_of(&mut world, "p1");
    world.shard.missing(&only, false, ms(0).mono).unwrap();
    assert_eq!(asked(&mut world, ms(1)), "p1");
}

fn wanted_of(world: &mut World, name: &str) -> Hop {
    asked(world, ms(0));
    wanted(world, ms(0)).into_iter().find(|hop| **hop.endpoint() == *name).unwrap()
}
