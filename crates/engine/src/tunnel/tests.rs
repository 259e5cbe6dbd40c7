// SPDX-License-Identifier: Apache-2.0
//! Opaque connections through the state machine.

use super::*;
use crate::fixtures::*;
use crate::{Arrival, Direction, Gate, Target};
use byrnie_model::gateway::{Carries, From, Frontend, Gateway, Listener, Port};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::access::{Action, Mode, Rule as AccessRule};
use byrnie_model::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};
use byrnie_model::range::Range;
use byrnie_model::route::{Match, Parent, ParentKind, Route, Rule};
use byrnie_model::{Identity, Kind, Resource, ServiceRef, Spec};
use std::net::SocketAddr;
use std::time::Duration;

fn arrival<'a>(direction: Direction<'a>, source: Option<&'a Identity>) -> Arrival<'a> {
    Arrival { direction, source, remote: SocketAddr::from(([10, 0, 0, 9], 1)), tls: Tls::None }
}

fn outbound(world: &mut World, service: &ServiceRef) -> (Tunnel, Effect) {
    let snapshot = world.snapshot();
    Tunnel::begin(
        &snapshot,
        &mut world.shard,
        &arrival(Direction::Service { service, port: 80, sni: None }, None),
        ms(0),
    )
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

fn once() -> Idempotency {
    Idempotency {
        mode: KeyMode::Optional,
        guarantee: Guarantee::G1,
        key_ttl: Duration::from_secs(3600),
        lease: Duration::from_secs(60),
        on_ambiguous: OnAmbiguous::Hold,
        on_server_error: OnServerError::Ambiguous,
        mint_keys: false,
        status_only: false,
        enlist: Vec::new(),
    }
}

#[test]
fn opaque_bytes_pass_an_undeclared_port_by_rules_that_need_no_request() {
    let begin = |others: Vec<Resource>| {
        let everyone = access("web", "web", Action::Allow, Mode::Enforce, vec![AccessRule::default()]);
        let mut world = World::new(vec![own_workload(), service("web", Protocol::Undeclared), everyone]);
        assert_eq!(world.put(others), []);
        let (service, bob) = (sref("web"), identity("bob"));
        let arrival = arrival(Direction::Inbound { service: &service, port: 80 }, Some(&bob));
        Tunnel::begin(&world.snapshot(), &mut world.shard, &arrival, ms(0)).1
    };
    plan(begin(vec![]));
    // Whether it is a POST, nobody can tell.
    let no_posts = AccessRule { http: vec![http(&["POST"], &[])], ..AccessRule::default() };
    let denied = answer(begin(vec![access("no-posts", "web", Action::Deny, Mode::Enforce, vec![no_posts.clone()])]));
    assert_eq!(denied.reason, Reason::AccessDenied);
    plan(begin(vec![access("no-posts", "web", Action::Deny, Mode::Shadow, vec![no_posts])]));
    // Nor whether it carries a key that is to take effect once.
    let keyed = TrafficPolicy { idempotency: Some(once()), ..TrafficPolicy::default() };
    let refused = answer(begin(vec![traffic("web", keyed)]));
    assert_eq!(refused.reason, Reason::AccessDenied);
    assert!(refused.detail.contains("look at requests"), "{}", refused.detail);
}

#[test]
fn who_speaks_first_is_remembered_where_nothing_is_declared() {
    let world = World::new(vec![service("db", Protocol::Undeclared), service("web", Protocol::Undeclared)]);
    let (snapshot, mut shard) = (world.snapshot(), Shard::new(1));
    let silence = |shard: &Shard, name| shard.silence(&snapshot, &sref(name), 80);
    assert_eq!(silence(&shard, "db"), crate::SILENCE_MAX);
    shard.spoken(&snapshot, &sref("db"), 80, true);
    assert_eq!((silence(&shard, "db"), silence(&shard, "web")), (Duration::ZERO, crate::SILENCE_MAX));
    shard.spoken(&snapshot, &sref("db"), 80, false);
    assert_eq!(silence(&shard, "db"), crate::SILENCE_MAX);
    assert_eq!(silence(&shard, "nobody"), crate::SILENCE_MAX);
}

/// A route for connections on `parents`, with these backends and weights.
fn connections(kind: Kind, name: &str, parents: Vec<Parent>, hosts: &[&str], to: &[(&str, u32)]) -> Resource {
    let backends = to.iter().map(|(to, weight)| backend(to, *weight)).collect();
    let rule = Rule { backends, ..rule(vec![Match::default()], vec![]) };
    let hostnames = hosts.iter().map(|host| (*host).into()).collect();
    resource(kind, "shop", name, Spec::Route(Arc::new(Route { parents, hostnames, rules: vec![rule] })))
}

#[test]
fn a_route_on_a_service_spreads_its_connections() {
    let parent = Parent::service(sref("ledger"), None);
    let mut world = World::new(vec![
        service("ledger", Protocol::Tcp),
        of_endpoint(endpoint("ledger", "l1", 1)),
        service("old", Protocol::Tcp),
        of_endpoint(endpoint("old", "o1", 2)),
        connections(Kind::TcpRoute, "split", vec![parent.clone()], &[], &[("old", 3), ("ledger", 1), ("gone", 0)]),
        // What is for requests has no say here, however special.
        connections(Kind::GrpcRoute, "requests", vec![parent], &[], &[("gone", 1)]),
    ]);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..400 {
        let (tunnel, effect) = outbound(&mut world, &sref("ledger"));
        *counts.entry(endpoint_of(&plan(effect))).or_insert(0) += 1;
        let verdict = tunnel.finish(&mut world.shard, Outcome::default(), ms(1));
        assert_eq!((&*verdict.labels.destination, &*verdict.decided.route), ("ledger.shop", "shop/split[0]"));
    }
    assert!((250..350).contains(&counts["o1"]) && counts["l1"] > 50, "{counts:?}");
}

#[test]
fn connections_to_a_service_are_told_apart_by_the_host_that_their_tls_asks_for() {
    let parent = Parent::service(sref("ledger"), None);
    let mut world = World::new(vec![
        service("ledger", Protocol::Tcp),
        of_endpoint(endpoint("ledger", "l1", 1)),
        service("old", Protocol::Tcp),
        of_endpoint(endpoint("old", "o1", 2)),
        connections(Kind::TlsRoute, "all", vec![parent.clone()], &["*.db.test"], &[("ledger", 1)]),
        connections(Kind::TlsRoute, "one", vec![parent.clone()], &["old.db.test", "b.test"], &[("old", 1)]),
        // What knows no hosts has no say beside them (GEP-1294).
        connections(Kind::TcpRoute, "any", vec![parent], &[], &[("old", 1)]),
        service("open", Protocol::Tcp),
        // One for every host, beside one that names its own.
        connections(Kind::TlsRoute, "rest", vec![Parent::service(sref("open"), None)], &[], &[("old", 1)]),
        connections(Kind::TlsRoute, "some", vec![Parent::service(sref("open"), None)], &["a.test"], &[("ledger", 1)]),
    ]);
    let snapshot = world.snapshot();
    for (host, expected) in [("a.test", "l1"), ("any.test", "o1")] {
        let service = sref("open");
        let arrival = arrival(Direction::Service { service: &service, port: 80, sni: Some(host) }, None);
        let (_tunnel, effect) = Tunnel::begin(&snapshot, &mut world.shard, &arrival, ms(0));
        assert_eq!(endpoint_of(&plan(effect)), expected, "{host}");
    }
    assert!(snapshot.asks_for_hosts(&sref("ledger"), 80) && !snapshot.asks_for_hosts(&sref("old"), 80));
    for (sni, expected) in [
        (Some("a.db.test"), Ok("l1")),
        (Some("OLD.db.test"), Ok("o1")),
        (Some("b.test"), Ok("o1")),
        (Some("db.test"), Err(Reason::NoRoute)),
        (None, Err(Reason::NoRoute)),
    ] {
        let service = sref("ledger");
        let arrival = arrival(Direction::Service { service: &service, port: 80, sni }, None);
        let (_tunnel, effect) = Tunnel::begin(&snapshot, &mut world.shard, &arrival, ms(0));
        match expected {
            Ok(endpoint) => assert_eq!(endpoint_of(&plan(effect)), endpoint, "{sni:?}"),
            Err(reason) => assert_eq!(answer(effect).reason, reason, "{sni:?}"),
        }
    }
}

#[test]
fn what_comes_by_a_listener_follows_its_routes() {
    let listener = |name: &str, port: u16, carries: Carries| Listener {
        name: name.into(),
        hostname: None,
        port,
        carries,
        from: From::All,
        kinds: vec![],
    };
    let listeners = vec![listener("tcp", 5432, Carries::Tcp), listener("tls", 6379, Carries::Passthrough)];
    let gateway = Spec::Gateway(Arc::new(Gateway { class: "byrnie".into(), listeners, ..Gateway::default() }));
    let on = |section: &str| {
        vec![Parent { kind: ParentKind::Gateway, name: sref("gw"), section: Some(section.into()), port: None }]
    };
    let mut world = World::new(vec![
        service("ledger", Protocol::Tcp),
        of_endpoint(endpoint("ledger", "l1", 1)),
        service("cache", Protocol::Tcp),
        of_endpoint(endpoint("cache", "c1", 2)),
        resource(Kind::Gateway, "shop", "gw", gateway),
        connections(Kind::TcpRoute, "db", on("tcp"), &[], &[("ledger", 1)]),
        connections(Kind::TlsRoute, "cache", on("tls"), &["*.cache.test"], &[("cache", 1)]),
        connections(Kind::TlsRoute, "none", on("tls"), &["none.cache.test"], &[("gone", 1)]),
    ]);
    for (number, sni, expected) in [
        (5432, None, Ok("l1")),
        (6379, Some("a.cache.test"), Ok("c1")),
        (6379, Some("none.cache.test"), Err(Reason::BackendAbsent)),
        (6379, Some("a.test"), Err(Reason::NoRoute)),
        (6379, None, Err(Reason::NoRoute)),
        (80, Some("a.cache.test"), Err(Reason::NoRoute)),
    ] {
        let direction = Direction::Edge(Gate::Port { number, sni, certificate: None });
        let (tunnel, effect) = Tunnel::begin(&world.snapshot(), &mut world.shard, &arrival(direction, None), ms(0));
        match (effect, expected) {
            (Effect::Send(plan), Ok(name)) => assert_eq!(endpoint_of(&plan), name),
            (Effect::Reply(answer), Err(reason)) => assert_eq!(answer.reason, reason),
            (effect, expected) => panic!("{number} {sni:?}: {effect:?}, not {expected:?}"),
        }
        let verdict = tunnel.finish(&mut world.shard, Outcome::default(), ms(1));
        assert_eq!(verdict.labels.side, Side::Edge);
    }
}

#[test]
fn flows_from_outside_go_by_the_routes_of_their_listener_of_udp_and_by_weight() {
    let parent = |section: &str| Parent {
        kind: ParentKind::Gateway,
        name: sref("gw"),
        section: Some(section.into()),
        port: None,
    };
    let listener = |name: &str, port, carries| Listener {
        name: name.into(),
        hostname: None,
        port,
        carries,
        from: From::Same,
        kinds: vec![],
    };
    let of = |balancers: Vec<Range>| {
        let spec = Gateway {
            class: "byrnie".into(),
            parent: None,
            sets: None,
            balancers,
            parameters: None,
            frontend: Frontend::default(),
            listeners: vec![
                listener("tcp", 53, Carries::Tcp),
                listener("udp", 53, Carries::Udp),
                listener("mixed", 54, Carries::Udp),
                listener("bare", 55, Carries::Udp),
            ],
        };
        resource(Kind::Gateway, "shop", "gw", Spec::Gateway(Arc::new(spec)))
    };
    let to = [("dns", 3), ("other", 1)];
    let mut world = World::new(vec![
        service("dns", Protocol::Udp),
        of_endpoint(endpoint("dns", "d1", 1)),
        service("other", Protocol::Udp),
        of_endpoint(endpoint("other", "o1", 2)),
        service("db", Protocol::Tcp),
        of_endpoint(endpoint("db", "t1", 3)),
        of(Vec::new()),
        connections(Kind::TcpRoute, "tcp", vec![parent("tcp")], &[], &[("db", 1)]),
        connections(Kind::UdpRoute, "udp", vec![parent("udp")], &[], &to),
        connections(Kind::UdpRoute, "mixed", vec![parent("mixed")], &[], &[("db", 1)]),
    ]);
    let begin = |world: &mut World, gate, opaque| {
        let arrival = arrival(Direction::Edge(gate), None);
        Tunnel::begin_with(&world.snapshot(), &mut world.shard, (&arrival, opaque), ms(0)).1
    };
    let mut taken = [0; 2];
    for _ in 0..400 {
        let name = endpoint_of(&plan(begin(&mut world, Gate::Datagrams(53), Opaque::Datagrams)));
        taken[usize::from(name == "o1")] += 1;
    }
    assert!((250..350).contains(&taken[0]) && taken[0] + taken[1] == 400, "{taken:?}");
    let by_tcp = Gate::Port { number: 53, sni: None, certificate: None };
    assert_eq!(endpoint_of(&plan(begin(&mut world, by_tcp, Opaque::Bytes))), "t1");
    // A backend that takes none; a listener without routes; a port that is none of UDP.
    for (number, reason) in [(54, Reason::NotServed), (55, Reason::NoRoute), (80, Reason::NoRoute)] {
        let effect = begin(&mut world, Gate::Datagrams(number), Opaque::Datagrams);
        assert_eq!(answer(effect).reason, reason, "{number}");
    }
    assert_eq!(world.snapshot().gates()[&Port::Udp(53)], crate::Served::Udp);
    world.put(vec![of(Range::parse("10.0.0.0/8").into_iter().collect())]);
    assert!(!world.snapshot().gates().contains_key(&Port::Udp(53)), "no balancer says whom a datagram is from");
    assert!(world.snapshot().gates().contains_key(&Port::Tcp(53)));
}

/// What becomes of what passes to the own program's port, which speaks `protocol` and lets bob in.
fn into(protocol: Protocol, opaque: Opaque, by: &Identity) -> Effect {
    let rule = AccessRule { sources: vec![account("bob")], ..AccessRule::default() };
    let bob_alone = access("web", "web", Action::Allow, Mode::Enforce, vec![rule]);
    let mut world = World::new(vec![own_workload(), service("web", protocol), bob_alone]);
    let service = sref("web");
    let arrival = arrival(Direction::Inbound { service: &service, port: 80 }, Some(by));
    Tunnel::begin_with(&world.snapshot(), &mut world.shard, (&arrival, opaque), ms(0)).1
}

#[test]
fn datagrams_pass_to_ports_that_take_them_by_identity_and_nothing_else_does() {
    let (bob, eve) = (identity("bob"), identity("eve"));
    let passed = plan(into(Protocol::Udp, Opaque::Datagrams, &bob));
    assert_eq!(passed.target.protocol(), Protocol::Udp);
    assert_eq!(answer(into(Protocol::Udp, Opaque::Datagrams, &eve)).reason, Reason::AccessDenied);
    let mixed = answer(into(Protocol::Udp, Opaque::Bytes, &bob));
    assert_eq!(
        (mixed.reason, &*mixed.detail),
        (Reason::AccessDenied, "web.shop speaks udp on port 80, and takes no connections")
    );
    for other in [Protocol::Tcp, Protocol::Undeclared, Protocol::Http1] {
        assert_eq!(answer(into(other, Opaque::Datagrams, &bob)).reason, Reason::AccessDenied, "{other:?}");
    }
    // A request would come to whatever listens at that number by TCP.
    let everyone = access("web", "web", Action::Allow, Mode::Enforce, vec![AccessRule::default()]);
    let mut world = World::new(vec![own_workload(), service("web", Protocol::Udp), everyone]);
    let (_, effect) = world.begin_inbound(Some(&bob), &mut head("GET", "web/", &[]), ms(0));
    assert_eq!(answer(effect).reason, Reason::NotServed);
}

#[test]
fn a_caller_sends_datagrams_to_services_that_take_them_and_nothing_else() {
    let begin = |protocol, opaque| {
        let mut world = World::new(vec![service("dns", protocol), of_endpoint(endpoint("dns", "d1", 1))]);
        let service = sref("dns");
        let arrival = arrival(Direction::Service { service: &service, port: 80, sni: None }, None);
        Tunnel::begin_with(&world.snapshot(), &mut world.shard, (&arrival, opaque), ms(0)).1
    };
    assert_eq!(endpoint_of(&plan(begin(Protocol::Udp, Opaque::Datagrams))), "d1");
    assert_eq!(endpoint_of(&plan(begin(Protocol::Tcp, Opaque::Bytes))), "d1");
    assert_eq!(answer(begin(Protocol::Udp, Opaque::Bytes)).reason, Reason::NotServed);
    assert_eq!(answer(begin(Protocol::Tcp, Opaque::Datagrams)).reason, Reason::NotServed);
}

#[test]
fn who_may_not_call_a_service_is_told_so_though_nothing_else_is_known_of_it() {
    let Spec::Service(mut bare) = service("dns", Protocol::Udp).spec else { panic!() };
    bare.ports.clear();
    let bare = Resource { spec: Spec::Service(bare), ..service("dns", Protocol::Udp) };
    let (tunnel, effect) = outbound(&mut World::new(vec![bare]), &sref("dns"));
    assert_eq!(answer(effect).reason, Reason::AccessDenied);
    let verdict = tunnel.finish(&mut Shard::new(1), Outcome::default(), ms(1));
    assert_eq!(&*verdict.labels.destination, "dns.shop");
}
