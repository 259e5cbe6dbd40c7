// SPDX-License-Identifier: Apache-2.0
//! Opaque connections through the state machine.

use super::*;
use crate::fixtures::*;
use crate::{Arrival, Direction, Target};
use byrnie_model::policy::access::{Action, Mode, Rule as AccessRule};
use byrnie_model::{Identity, ServiceRef};
use std::net::SocketAddr;

fn arrival<'a>(direction: Direction<'a>, source: Option<&'a Identity>) -> Arrival<'a> {
    Arrival { direction, source, remote: SocketAddr::from(([10, 0, 0, 9], 1)), tls: Tls::None }
}

fn outbound(world: &mut World, service: &ServiceRef) -> (Tunnel, Effect) {
    let snapshot = world.snapshot();
    Tunnel::begin(&snapshot, &mut world.shard, &arrival(Direction::Service { service, port: 80 }, None), ms(0))
}

fn ledger(endpoints: u8) -> World {
    let mut resources = vec![service("ledger", Protocol::Tcp)];
    resources.extend((1..=endpoints).map(|n| of_endpoint(endpoint("ledger", &format!("l{n}"), n))));
    World::new(resources)
}

#[test]
fn a_connection_that_can_not_be_opened_goes_elsewhere() {
    let mut world = ledger(3);
    let (mut tunnel, effect) = outbound(&mut world, &sref("ledger"));
    let first = plan(effect);
    let Target::Mesh(hop) = &first.target else { panic!("not over the mesh") };
    assert_eq!(
        (&**hop.sni(), hop.identity().to_string().as_str()),
        ("80.ledger.shop.mesh", "spiffe://demo.local/ns/shop/sa/ledger")
    );
    let second = plan(tunnel.on_failure(&mut world.shard, Failure::Connect, ms(1)));
    assert_ne!(endpoint_of(&second), endpoint_of(&first));
    tunnel.on_connect(&mut world.shard, ms(2));
    let load: u64 = world.snapshot().endpoints(&sref("ledger")).iter().map(|m| m.in_flight()).sum();
    assert_eq!(load, 1, "an open connection is load");
    let verdict = tunnel.finish(&mut world.shard, Outcome::default(), ms(50));
    assert_eq!((verdict.labels.method, verdict.labels.tls, verdict.reason), ("", Tls::Mutual, None));
    assert_eq!(verdict.attempts.iter().count(), 2);
}

#[test]
fn once_connected_nothing_is_tried_again() {
    let mut world = ledger(3);
    let (mut tunnel, effect) = outbound(&mut world, &sref("ledger"));
    plan(effect);
    tunnel.on_connect(&mut world.shard, ms(2));
    answer(tunnel.on_failure(&mut world.shard, Failure::Connect, ms(3)));
}

#[test]
fn nobody_there_is_an_answer() {
    let (_, effect) = outbound(&mut ledger(0), &sref("ledger"));
    assert_eq!(answer(effect).reason, Reason::NoEndpoint);
    let (tunnel, effect) = outbound(&mut ledger(0), &sref("nobody"));
    assert_eq!(answer(effect).reason, Reason::UnknownService);
    let verdict = tunnel.finish(&mut Shard::new(1), Outcome::default(), ms(1));
    assert_eq!(&*verdict.labels.destination, "unknown");
}

#[test]
fn access_is_by_identity_and_http_rules_never_fit() {
    let with = |rule| {
        let policy = access("web", "web", Action::Allow, Mode::Enforce, vec![rule]);
        World::new(vec![own_workload(), service("web", Protocol::Tcp), policy])
    };
    let check = |rule, allowed| {
        let mut world = with(rule);
        let (service, bob) = (sref("web"), identity("bob"));
        let arrival = arrival(Direction::Inbound { service: &service, port: 80 }, Some(&bob));
        let (tunnel, effect) = Tunnel::begin(&world.snapshot(), &mut world.shard, &arrival, ms(0));
        assert_eq!(matches!(effect, Effect::Send(_)), allowed);
        let verdict = tunnel.finish(&mut world.shard, Outcome::default(), ms(0));
        assert_eq!(&*verdict.decided.rule, if allowed { "shop/web[0]" } else { "default" });
        assert_eq!(&*verdict.labels.source, "bob.shop");
    };
    check(AccessRule { sources: vec![account("bob")], ..AccessRule::default() }, true);
    check(AccessRule { sources: vec![account("eve")], ..AccessRule::default() }, false);
    check(AccessRule { http: vec![http(&["GET"], &[])], ..AccessRule::default() }, false);
    check(AccessRule { http: vec![http(&[], &[])], ..AccessRule::default() }, false);
}

#[test]
fn opaque_bytes_can_not_pass_by_the_rules_of_an_http_port() {
    let everyone = access("web", "web", Action::Allow, Mode::Enforce, vec![AccessRule::default()]);
    let no_posts = AccessRule { http: vec![http(&["POST"], &[])], ..AccessRule::default() };
    let no_posts = access("no-posts", "web", Action::Deny, Mode::Enforce, vec![no_posts]);
    let mut world = World::new(vec![own_workload(), service("web", Protocol::Http1), everyone, no_posts]);
    let (service, bob) = (sref("web"), identity("bob"));
    let arrival = arrival(Direction::Inbound { service: &service, port: 80 }, Some(&bob));
    let (_, effect) = Tunnel::begin(&world.snapshot(), &mut world.shard, &arrival, ms(0));
    assert_eq!(answer(effect).reason, Reason::AccessDenied);
}
