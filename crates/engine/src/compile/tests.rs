// SPDX-License-Identifier: Apache-2.0
//! Compiling step by step: how much is done for each change, what is refused, and what survives.

use super::*;
use crate::fixtures::*;
use crate::{Arrival, Direction, Effect, Exchange, Tls};
use byrnie_model::policy::access::{Action, Mode, Rule as AccessRule};
use byrnie_model::policy::traffic::Limits;
use byrnie_model::route::{Match, PathMatch};
use byrnie_model::{Health, Protocol};
use std::net::SocketAddr;
use std::time::Duration;

/// So many services `s0`, `s1`, ..., with an endpoint and a route each.
fn many(services: u8) -> World {
    let mut resources = vec![own_workload(), service("web", Protocol::Http1)];
    for n in 0..services {
        let name = format!("s{n}");
        resources.push(service(&name, Protocol::Http1));
        resources.push(of_endpoint(endpoint(&name, "e", n + 1)));
        resources.push(route(&name, &name, vec![rule(vec![prefix("/")], vec![backend(&name, 1)])]));
    }
    World::new(resources)
}

/// Applies a change; how much it took.
fn cost(world: &mut World, resources: Vec<Resource>) -> (u64, u64, u64) {
    let before = world.compiler.work();
    assert_eq!(world.put(resources), []);
    let after = world.compiler.work();
    (after.services - before.services, after.routes - before.routes, after.policies - before.policies)
}

#[test]
fn a_change_recompiles_what_it_touches_and_nothing_else() {
    let mut world = many(50);
    let untouched = Arc::clone(world.snapshot().subtree("shop", "s7").unwrap());
    let mut away = endpoint("s3", "e", 4);
    away.health = Health::Draining;
    assert_eq!(cost(&mut world, vec![of_endpoint(away.clone())]), (1, 0, 0));
    assert_eq!(cost(&mut world, vec![of_endpoint(away)]), (0, 0, 0), "the same again costs nothing");
    let changed = route("s3", "s3", vec![rule(vec![prefix("/x")], vec![backend("s4", 1)])]);
    assert_eq!(cost(&mut world, vec![changed]), (1, 1, 0));
    let moved = route("s3", "s5", vec![rule(vec![prefix("/x")], vec![backend("s4", 1)])]);
    assert_eq!(cost(&mut world, vec![moved]), (2, 1, 0), "the old parent and the new one");
    let policy = access("web", "web", Action::Allow, Mode::Enforce, vec![AccessRule::default()]);
    assert_eq!(cost(&mut world, vec![policy]), (1, 0, 1));
    assert_eq!(cost(&mut world, vec![traffic("s9", TrafficPolicy::default())]), (1, 0, 0));
    assert_eq!(cost(&mut world, vec![mesh(DefaultAccess::Allow)]).1, 0);
    assert_eq!(cost(&mut world, vec![mesh(DefaultAccess::Deny)]), (0, 0, 0));
    let snapshot = world.snapshot();
    assert!(!Arc::ptr_eq(&untouched, snapshot.subtree("shop", "s7").unwrap()), "the trust domain came new");
    let untouched = Arc::clone(snapshot.subtree("shop", "s7").unwrap());
    cost(&mut world, vec![service("s8", Protocol::Grpc)]);
    assert!(Arc::ptr_eq(&untouched, world.snapshot().subtree("shop", "s7").unwrap()));
}

#[test]
fn a_refused_resource_leaves_the_last_good_one_in_force() {
    let mut world = World::payments(1);
    let good = route("r", "payments", vec![rule(vec![prefix("/good")], vec![backend("payments", 1)])]);
    assert_eq!(world.put(vec![good]), []);
    let path = Match { path: PathMatch::Regex("(".into()), ..Match::default() };
    let bad = route("r", "payments", vec![rule(vec![path], vec![backend("elsewhere", 1)])]);
    let mut broken = endpoint("payments", "p9", 9);
    broken.address.set_port(0);
    let refusals = world.put(vec![bad, of_endpoint(broken), of_endpoint(endpoint("payments", "p2", 2))]);
    let keys: Vec<String> = refusals.iter().map(|refusal| refusal.key.to_string()).collect();
    assert_eq!(keys, ["HTTPRoute/shop/r", "Endpoint/shop/payments/p9"]);
    assert!(refusals[0].reason.contains("rule 0"), "{}", refusals[0].reason);
    // The rest of the delta is in force, and so is the old route.
    let (_, effect) = world.begin(&mut head("GET", "payments/good", &[]), ms(0));
    plan(effect);
    let (_, effect) = world.begin(&mut head("GET", "payments/bad", &[]), ms(0));
    assert_eq!(answer(effect).status, 404);
    assert_eq!(world.snapshot().endpoints(&sref("payments")).len(), 2);
}

#[test]
fn load_counts_survive_a_change_and_die_with_the_address() {
    let mut world = World::payments(1);
    let (_exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    plan(effect);
    let load = |world: &World| world.snapshot().endpoints(&sref("payments"))[0].in_flight();
    assert_eq!(load(&world), 1);
    let mut heavier = endpoint("payments", "p1", 1);
    heavier.weight = 5;
    world.put(vec![of_endpoint(heavier), traffic("payments", TrafficPolicy::default())]);
    assert_eq!(load(&world), 1);
    world.put(vec![of_endpoint(endpoint("payments", "p1", 77))]);
    assert_eq!(load(&world), 0);
}

#[test]
fn slots_are_used_again_and_never_mixed_up() {
    let mut world = World::new(Vec::new());
    for round in 0..100u8 {
        let name = format!("s{round}");
        world.put(vec![service(&name, Protocol::Http1), of_endpoint(endpoint(&name, "e", 1))]);
        let (_, effect) = world.begin(&mut head("GET", &format!("{name}/"), &[]), ms(0));
        assert_eq!(endpoint_of(&plan(effect)), "e");
        let endpoint = Key::new(Kind::Endpoint, "shop", format!("{name}/e"));
        world.remove(vec![Key::new(Kind::Service, "shop", name.as_str()), endpoint]);
        let (_, effect) = world.begin(&mut head("GET", &format!("{name}/"), &[]), ms(0));
        assert_eq!(answer(effect).status, 404);
    }
    assert!(world.compiler.slots.slots.len() <= 2 && world.compiler.members.slots.len() <= 2);
    assert_eq!(world.snapshot().clusters().count(), 0);
    assert_eq!(world.snapshot().services().count(), 0);
}

#[test]
fn what_the_own_workload_serves_is_known() {
    let world = World::new(vec![own_workload(), service("web", Protocol::Grpc), service("other", Protocol::Http1)]);
    let snapshot = world.snapshot();
    let served: Vec<String> =
        snapshot.served().map(|(s, port, at)| format!("{s} {port} {}", at.beside().unwrap())).collect();
    assert_eq!(served, ["web.shop 80 127.0.0.1:8080"]);
    assert_eq!(snapshot.served_protocol(&sref("web"), 80), Some(Protocol::Grpc));
    assert_eq!(snapshot.served_protocol(&sref("other"), 80), None);
}

#[test]
fn resources_in_any_order_come_to_the_same() {
    let resources = || {
        vec![
            route("r", "payments", vec![rule(vec![prefix("/")], vec![backend("payments-v2", 1)])]),
            of_endpoint(endpoint("payments-v2", "e", 1)),
            traffic("payments-v2", TrafficPolicy::default()),
            access("web", "web", Action::Allow, Mode::Enforce, vec![AccessRule::default()]),
            service("payments-v2", Protocol::Http1),
            service("payments", Protocol::Http1),
            service("web", Protocol::Http1),
            own_workload(),
        ]
    };
    for rotation in 0..8 {
        let mut world = World::new(Vec::new());
        let mut order = resources();
        order.rotate_left(rotation);
        for resource in order {
            assert_eq!(world.put(vec![resource]), []);
        }
        let (_, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
        assert_eq!(endpoint_of(&plan(effect)), "e");
        let (_, effect) = world.begin_inbound(Some(&identity("x")), &mut head("GET", "web/", &[]), ms(0));
        assert_eq!(endpoint_of(&plan(effect)), "program");
    }
}

/// A service `web-v1` in the shop that selects a part of `web`, with this target port.
fn part_of_web(target: u16) -> Resource {
    let mut part = service("web-v1", Protocol::Http1);
    if let Spec::Service(service) = &mut part.spec {
        service.selector.insert("app".into(), "web".into());
        service.selector.insert("version".into(), "v1".into());
        service.ports[0].target = byrnie_model::service::TargetPort::Number(target);
    }
    part
}

/// The status of a call from `x` to a service of the own workload; 0 if it may pass.
fn knock(world: &mut World, service: &str) -> u16 {
    let (caller, service) = (identity("x"), sref(service));
    let arrival = Arrival {
        direction: Direction::Inbound { service: &service, port: 80 },
        source: Some(&caller),
        remote: SocketAddr::from(([10, 0, 0, 9], 5555)),
        tls: Tls::Mutual,
    };
    let (_, effect) =
        Exchange::begin(&world.snapshot(), &mut world.shard, &arrival, &mut head("GET", "web/", &[]), ms(0));
    if let Effect::Reply(answer) = effect { answer.status } else { 0 }
}

#[test]
fn a_policy_for_the_whole_protects_its_parts_and_not_the_other_way_round() {
    let mut own = own_workload();
    own.labels.insert("version".into(), "v1".into());
    let whole = || access("whole", "web", Action::Allow, Mode::Enforce, vec![AccessRule::default()]);
    let mut world = World::new(vec![own, service("web", Protocol::Http1), part_of_web(8080)]);
    assert_eq!((knock(&mut world, "web"), knock(&mut world, "web-v1")), (403, 403));
    world.put(vec![whole()]);
    assert_eq!((knock(&mut world, "web"), knock(&mut world, "web-v1")), (0, 0));
    // A port of the program that the whole doesn't lead to stays shut.
    world.put(vec![part_of_web(9090)]);
    assert_eq!((knock(&mut world, "web"), knock(&mut world, "web-v1")), (0, 403));
    world.put(vec![part_of_web(8080)]);
    world.put(vec![access("deny", "web", Action::Deny, Mode::Enforce, vec![AccessRule::default()])]);
    assert_eq!((knock(&mut world, "web"), knock(&mut world, "web-v1")), (403, 403));
    let key = |name: &str| Key::new(Kind::AccessPolicy, "shop", name);
    world.remove(vec![key("deny"), key("whole")]);
    world.put(vec![access("part", "web-v1", Action::Allow, Mode::Enforce, vec![AccessRule::default()])]);
    assert_eq!((knock(&mut world, "web"), knock(&mut world, "web-v1")), (403, 0));
}

#[test]
fn the_mesh_limits_what_no_policy_does_and_a_change_of_it_reaches_every_service() {
    let mut world = World::payments(2);
    let at_once = |world: &mut World| {
        let mut under_way = Vec::new();
        while under_way.len() < 9 {
            let (exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
            if !matches!(effect, Effect::Send(_)) {
                break;
            }
            under_way.push(exchange);
        }
        under_way.len()
    };
    let of_all = |pending_max| {
        let limits = Box::new(Limits { pending_max, ..Limits::default() });
        let spec = Mesh { trust_domain: "demo.local".into(), default_access: DefaultAccess::Deny, otlp: None, limits };
        vec![resource(Kind::Mesh, "", "mesh", Spec::Mesh(spec))]
    };
    let of_one = |limits| vec![traffic("payments", TrafficPolicy { limits: Some(limits), ..TrafficPolicy::default() })];
    assert_eq!(at_once(&mut world), 9);
    world.put(of_all(Some(2)));
    assert_eq!(at_once(&mut world), 2);
    // A policy that speaks of another matter says nothing of this one.
    world.put(of_one(Limits { idle_max: Some(Duration::from_secs(9)), ..Limits::default() }));
    assert_eq!(at_once(&mut world), 2);
    world.put(of_one(Limits { pending_max: Some(5), ..Limits::default() }));
    assert_eq!(at_once(&mut world), 5);
    world.remove(vec![Key::new(Kind::TrafficPolicy, "shop", "payments")]);
    assert_eq!(at_once(&mut world), 2);
    world.put(of_all(Some(3)));
    assert_eq!(at_once(&mut world), 3);
    // What says the same compiles nothing anew.
    assert_eq!(cost(&mut world, of_all(Some(3))), (0, 0, 0));
    world.remove(vec![Key::new(Kind::Mesh, "", "mesh")]);
    assert_eq!(at_once(&mut world), 9);
}
