// SPDX-License-Identifier: Apache-2.0
//! Listeners, hosts and routes at the edge, through whole exchanges.

use crate::fixtures::*;
use crate::{Arrival, Direction, Exchange, Gate, Served, Tls};
use byrnie_model::gateway::{Carries, CertificateRef, From, Frontend, Gateway, Listener, Port, Validation};
use byrnie_model::outside::Bundle;
use byrnie_model::policy::access::{Action, Mode, Rule};
use byrnie_model::range::Range;
use byrnie_model::resource::{Resource, Spec};
use byrnie_model::route::{Parent, ParentKind, Redirect, Route, RouteFilter};
use byrnie_model::secret::{Private, Secret};
use byrnie_model::{Identity, Key, Kind, Protocol, Revision};
use std::net::SocketAddr;
use std::sync::Arc;

/// A gateway whose listeners `l0`, `l1`, ... are for these hosts; empty means any.
fn gateway(name: &str, hosts: &[&str]) -> Resource {
    gateway_at(80, name, hosts, |_| Carries::Http)
}

/// A gateway with a listener under TLS at port 443 for each host, which shows the Secret `c0`, `c1`, ...
fn secure(name: &str, hosts: &[&str]) -> Resource {
    let shown = |name: String| CertificateRef { namespace: "shop".into(), name: name.into(), unserved: None };
    gateway_at(443, name, hosts, |at| Carries::Https(vec![shown(format!("c{at}"))]))
}

fn gateway_at(port: u16, name: &str, hosts: &[&str], carries: impl Fn(usize) -> Carries) -> Resource {
    let listener = |(at, host): (usize, &&str)| Listener {
        name: format!("l{at}").into(),
        hostname: (!host.is_empty()).then(|| (*host).into()),
        port,
        carries: carries(at),
        from: From::All,
        kinds: vec![],
    };
    let listeners = hosts.iter().enumerate().map(listener).collect();
    let spec = Gateway { class: "byrnie".into(), listeners, ..Gateway::default() };
    resource(Kind::Gateway, "shop", name, Spec::Gateway(Arc::new(spec)))
}

fn secret(name: &str) -> Resource {
    let spec = Secret { chain: name.into(), key: Private::new("k") };
    resource(Kind::Secret, "shop", name, Spec::Secret(Arc::new(spec)))
}

/// A route on these listeners (`GATEWAY/LISTENER`) for these hosts: everything below `path` to `to`.
fn on(name: &str, listeners: &[&str], hosts: &[&str], path: &str, to: &str) -> Resource {
    let parent = |listener: &&str| {
        let (gateway, section) = listener.split_once('/').unwrap();
        Parent { kind: ParentKind::Gateway, name: sref(gateway), section: Some(section.into()), port: None }
    };
    let spec = Route {
        parents: listeners.iter().map(parent).collect(),
        hostnames: hosts.iter().map(|host| (*host).into()).collect(),
        rules: vec![rule(vec![prefix(path)], vec![backend(to, 1)])],
    };
    resource(Kind::HttpRoute, "shop", name, Spec::Route(Arc::new(spec)))
}

/// Services `a`, `b` and `c` with an endpoint each.
fn world(resources: Vec<Resource>) -> World {
    let mut all = Vec::new();
    for (n, name) in (1..).zip(["a", "b", "c"]) {
        all.push(service(name, Protocol::Http1));
        all.push(of_endpoint(endpoint(name, name, n)));
    }
    all.extend(resources);
    World::new(all)
}

/// The endpoint that a request from outside reaches, or its status.
fn ask(world: &mut World, url: &str) -> String {
    ask_at(world, Gate::Own, Tls::None, url)
}

fn ask_at(world: &mut World, gate: Gate<'_>, tls: Tls, url: &str) -> String {
    let remote = SocketAddr::from(([192, 0, 2, 1], 5555));
    let arrival = Arrival { direction: Direction::Edge(gate), source: None, remote, tls };
    let snapshot = world.snapshot();
    let (exchange, effect) = Exchange::begin(&snapshot, &mut world.shard, &arrival, &mut head("GET", url, &[]), ms(0));
    drop(exchange);
    match effect {
        crate::Effect::Send(plan) => endpoint_of(&plan),
        crate::Effect::Reply(answer) => answer.status.to_string(),
        other => panic!("{other:?}"),
    }
}

fn check(world: &mut World, cases: &[(&str, &str)]) {
    for (url, expected) in cases {
        assert_eq!(ask(world, url), *expected, "{url}");
    }
}

#[test]
fn hosts_lead_to_routes() {
    let mut world = world(vec![
        gateway("gw", &[""]),
        on("exact", &["gw/l0"], &["www.a.test"], "/", "a"),
        on("wild", &["gw/l0"], &["*.a.test"], "/", "b"),
        on("any", &["gw/l0"], &[], "/", "c"),
    ]);
    check(
        &mut world,
        &[
            ("www.a.test/", "a"),
            ("WWW.a.test:8080/", "a"),
            ("x.a.test/", "b"),
            ("x.y.a.test/", "b"),
            ("a.test/", "c"),
            ("other.test/", "c"),
            // The names of services stay what they are.
            ("b.shop.mesh.localhost/", "b"),
        ],
    );
}

#[test]
fn a_route_counts_only_where_listener_and_route_agree_on_the_host() {
    let mut world = world(vec![
        gateway("gw", &["*.a.test"]),
        on("r", &["gw/l0"], &["x.a.test", "x.b.test"], "/", "a"),
        on("all", &["gw/l0"], &[], "/all", "b"),
    ]);
    check(
        &mut world,
        &[
            ("x.a.test/", "a"),
            ("x.b.test/", "404"),
            ("y.a.test/", "404"),
            ("y.a.test/all", "b"),
            ("x.a.test/all", "a"),
            ("a.test/all", "404"),
        ],
    );
}

#[test]
fn listeners_do_not_share_what_is_theirs() {
    let mut world = world(vec![
        gateway("gw", &["", "*.a.test", "www.a.test"]),
        on("any", &["gw/l0"], &[], "/", "a"),
        on("wild", &["gw/l1"], &[], "/wild", "b"),
        on("exact", &["gw/l2"], &[], "/exact", "c"),
    ]);
    check(
        &mut world,
        &[
            ("www.a.test/exact", "c"),
            ("www.a.test/wild", "404"),
            ("x.a.test/wild", "b"),
            ("x.a.test/", "404"),
            ("b.test/exact", "a"),
        ],
    );
}

#[test]
fn gateways_come_and_go_with_their_routes() {
    let mut world = world(vec![]);
    check(&mut world, &[("x.test/", "404")]);
    world.put(vec![on("r", &["one/l0"], &[], "/", "a")]);
    check(&mut world, &[("x.test/", "404")]);
    world.put(vec![gateway("one", &[""])]);
    check(&mut world, &[("x.test/", "a")]);
    // Of two with the same host, the older is asked first, and the other for what the first doesn't have.
    let mut older = gateway("two", &[""]);
    older.created = Revision(0);
    world.put(vec![older, on("s", &["two/l0"], &[], "/s", "b")]);
    check(&mut world, &[("x.test/", "a"), ("x.test/s", "b")]);
    world.remove(vec![Key::new(Kind::HttpRoute, "shop", "s")]);
    check(&mut world, &[("x.test/s", "a")]);
    world.remove(vec![Key::new(Kind::Gateway, "shop", "one")]);
    check(&mut world, &[("x.test/", "404")]);
}

#[test]
fn a_port_serves_its_own_listeners_and_no_name_of_the_mesh() {
    let mut world = world(vec![
        gateway("gw", &[""]),
        secure("tls", &["one.test", "*.test", "six.test"]),
        secret("c0"),
        on("clear", &["gw/l0"], &[], "/", "a"),
        on("one", &["tls/l0"], &[], "/", "b"),
        on("many", &["tls/l1"], &[], "/", "c"),
        on("six", &["tls/l2"], &[], "/", "a"),
    ]);
    let at = |number, sni| Gate::Port { number, sni, certificate: None };
    for (gate, tls, url, expected) in [
        (Gate::Own, Tls::None, "one.test/", "a"),
        (Gate::Own, Tls::None, "a.shop.mesh.localhost/", "a"),
        (at(80, None), Tls::None, "one.test/", "a"),
        (at(443, Some("one.test")), Tls::Simple, "one.test/", "b"),
        (at(443, Some("two.test")), Tls::Simple, "two.test/", "c"),
        (at(443, Some("two.test")), Tls::Simple, "three.test/", "c"),
        // A certificate for several hosts may tempt a browser to send all of them by one connection.
        (at(443, Some("two.test")), Tls::Simple, "one.test/", "421"),
        (at(443, Some("one.test")), Tls::Simple, "one.example/", "421"),
        // As special as each other, and two listeners all the same.
        (at(443, Some("six.test")), Tls::Simple, "six.test/", "a"),
        (at(443, Some("six.test")), Tls::Simple, "one.test/", "421"),
        (at(443, None), Tls::Simple, "two.test/", "c"),
        (at(443, None), Tls::Simple, "b.shop.mesh/", "404"),
        (at(80, None), Tls::None, "b.shop.mesh/", "a"),
        (at(8443, Some("one.test")), Tls::Simple, "one.test/", "404"),
    ] {
        assert_eq!(ask_at(&mut world, gate, tls, url), expected, "{gate:?} {url}");
    }
    let snapshot = world.snapshot();
    assert_eq!(snapshot.gates()[&Port::Tcp(80)], Served::Http);
    let Served::Https(sites, None) = &snapshot.gates()[&Port::Tcp(443)] else { panic!() };
    let shown: Vec<_> = sites.iter().map(|site| (site.hostname.as_deref(), site.certificates.len())).collect();
    assert_eq!(
        shown,
        [(Some("one.test"), 1), (Some("*.test"), 0), (Some("six.test"), 0)],
        "a Secret that isn't there is not shown"
    );
}

#[test]
fn the_older_gateway_decides_what_a_port_speaks() {
    let mut old = secure("old", &[""]);
    old.created = Revision(1);
    let Spec::Gateway(spec) = &secure("new", &["new.test"]).spec else { panic!() };
    let mut spec = (**spec).clone();
    spec.listeners[0].carries = Carries::Http;
    let mut new = resource(Kind::Gateway, "shop", "new", Spec::Gateway(Arc::new(spec)));
    new.created = Revision(2);
    let mut world = world(vec![old, new, secret("c0"), on("new", &["new/l0"], &[], "/", "a")]);
    assert!(matches!(world.snapshot().gates()[&Port::Tcp(443)], Served::Https(..)));
    assert_eq!(ask_at(&mut world, Gate::Own, Tls::None, "new.test/"), "404");
}

fn bundle(name: &str) -> Resource {
    resource(Kind::ConfigMap, "shop", name, Spec::Bundle(Arc::new(Bundle { pem: name.into() })))
}

/// A gateway at port 443 whose callers have to prove who they are, by these authorities.
fn asking(name: &str, host: &str, authorities: &[&str], created: u64) -> Resource {
    let mut asking = secure(name, &[host]);
    let Spec::Gateway(spec) = &asking.spec else { panic!() };
    let one = |name: &&str| CertificateRef { namespace: "shop".into(), name: (*name).into(), unserved: None };
    let validation = Validation { authorities: authorities.iter().map(one).collect(), optional: false };
    let frontend = Frontend { default: Some(validation), ..Frontend::default() };
    asking.spec = Spec::Gateway(Arc::new(Gateway { frontend, ..(**spec).clone() }));
    asking.created = Revision(created);
    asking
}

#[test]
fn what_callers_have_to_prove_holds_for_all_hosts_of_a_port() {
    let mut old = secure("third", &["three.test"]);
    old.created = Revision(3);
    let mut world = world(vec![
        asking("first", "one.test", &["partners", "absent"], 1),
        asking("second", "two.test", &["partners"], 2),
        old,
        secret("c0"),
        bundle("partners"),
        bundle("other"),
        on("r", &["first/l0", "second/l0", "third/l0"], &[], "/", "a"),
    ]);
    let of = |world: &World| {
        let gates = world.snapshot();
        let served = &gates.gates()[&Port::Tcp(443)];
        let hosts: Vec<_> = served.sites().unwrap().iter().map(|site| site.hostname.clone().unwrap()).collect();
        let proof = served.proof().map(|proof| proof.authorities.values().map(|b| b.pem.clone()).collect::<Vec<_>>());
        (hosts, proof)
    };
    // The one that asks for nothing has no part in the port, where it would let everybody in to the others.
    assert_eq!(of(&world), (vec!["one.test".into(), "two.test".into()], Some(vec!["partners".into()])));
    let at = |sni| Gate::Port { number: 443, sni: Some(sni), certificate: None };
    assert_eq!(ask_at(&mut world, at("one.test"), Tls::Simple, "one.test/"), "a");
    assert_eq!(ask_at(&mut world, at("three.test"), Tls::Simple, "three.test/"), "404");
    // One that is known all at once counts for whoever names it, and whose authorities are gone has none.
    world.put(vec![bundle("absent")]);
    assert_eq!(of(&world), (vec!["one.test".into()], Some(vec!["absent".into(), "partners".into()])));
    world.remove(vec![bundle("absent").key, bundle("partners").key]);
    assert_eq!(of(&world), (vec!["one.test".into(), "two.test".into()], Some(vec![])));
}

#[test]
fn the_program_is_told_what_a_caller_has_proven_and_not_what_it_says() {
    let mut world = world(vec![secure("gw", &[""]), secret("c0"), on("r", &["gw/l0"], &[], "/", "a")]);
    let remote = SocketAddr::from(([192, 0, 2, 1], 5555));
    for certificate in [None, Some("Hash=1;Subject=\"CN=a\"")] {
        let gate = Gate::Port { number: 443, sni: None, certificate };
        let arrival = Arrival { direction: Direction::Edge(gate), source: None, remote, tls: Tls::Simple };
        let mut asked = head("GET", "f.test/", &[("x-forwarded-client-cert", "Hash=0")]);
        Exchange::begin(&world.snapshot(), &mut world.shard, &arrival, &mut asked, ms(0));
        let told: Vec<&[u8]> = asked.values("x-forwarded-client-cert").collect();
        assert_eq!(told, certificate.iter().map(|told| told.as_bytes()).collect::<Vec<_>>());
    }
}

#[test]
fn what_a_caller_from_outside_has_proven_is_told_by_the_own_edge_alone() {
    let name = "x-forwarded-client-cert";
    let let_in = || access("web", "web", Action::Allow, Mode::Enforce, vec![Rule::default()]);
    let of = |domain: &str, account: &str| Identity::new(domain, "byrnie", account).unwrap();
    for (from, told) in [
        (Some(of("demo.local", "edge")), Some(&b"Hash=1"[..])),
        (Some(of("other.site", "edge")), None),
        (Some(of("demo.local", "egress")), None),
        (Some(identity("edge")), None),
        (None, None),
    ] {
        let mut world = World::new(vec![own_workload(), service("web", Protocol::Http1), let_in()]);
        let mut request = head("GET", "web/", &[(name, "Hash=1")]);
        world.begin_inbound(from.as_ref(), &mut request, ms(0));
        assert_eq!(request.get(name), told, "{from:?}");
    }
    let mut world = World::payments(1);
    let mut request = head("GET", "payments/", &[(name, "Hash=1")]);
    world.begin(&mut request, ms(0));
    assert_eq!(request.get(name), None, "a program can't pass on what it was told");
}

#[test]
fn what_a_set_adds_is_served_with_its_own_routes() {
    let Spec::Gateway(spec) = &gateway("set", &["b.test"]).spec else { panic!() };
    let added = Gateway { parent: Some(sref("gw")), ..(**spec).clone() };
    let mut route = on("late", &["set/l0"], &[], "/", "b");
    let Spec::Route(spec) = &route.spec else { panic!() };
    let mut spec = (**spec).clone();
    spec.parents[0].kind = ParentKind::ListenerSet;
    route.spec = Spec::Route(Arc::new(spec));
    let mut world = world(vec![
        gateway("gw", &[""]),
        resource(Kind::ListenerSet, "shop", "set", Spec::Gateway(Arc::new(added))),
        on("early", &["gw/l0"], &[], "/", "a"),
        route,
    ]);
    check(&mut world, &[("b.test/", "b"), ("c.test/", "a")]);
    world.remove(vec![Key::new(Kind::ListenerSet, "shop", "set")]);
    check(&mut world, &[("b.test/", "a")]);
}

#[test]
fn a_port_with_balancers_in_front_is_for_them_alone() {
    let range = |text: &str| Range::parse(text).unwrap();
    let behind = |name: &str, port: u16, hosts: &[&str], balancers: Vec<Range>| {
        let mut gateway = gateway_at(port, name, hosts, |_| Carries::Http);
        let Spec::Gateway(spec) = &mut gateway.spec else { panic!() };
        *spec = Arc::new(Gateway { balancers, ..(**spec).clone() });
        gateway
    };
    let ranges = vec![range("10.0.0.0/8"), range("2001:db8::1")];
    let mut set = behind("set", 80, &["set.test"], Vec::new());
    set.key.kind = Kind::ListenerSet;
    let Spec::Gateway(spec) = &mut set.spec else { panic!() };
    *spec = Arc::new(Gateway { parent: Some(sref("one")), ..(**spec).clone() });
    let world = world(vec![
        behind("one", 80, &["a.test"], ranges.clone()),
        behind("two", 80, &["b.test"], Vec::new()),
        behind("two2", 81, &["c.test"], Vec::new()),
        set,
        on("a", &["one/l0"], &[], "/", "a"),
        on("b", &["two/l0"], &[], "/", "b"),
        on("c", &["two2/l0"], &[], "/", "c"),
    ]);
    let snapshot = world.snapshot();
    assert_eq!(snapshot.balancers().get(&80), Some(&ranges));
    assert_eq!(snapshot.balancers().get(&81), None);
    let finds = |gate, host: &str| snapshot.edge.choose(gate, &head("GET", &format!("{host}/"), &[])).is_some();
    let at = |number| Gate::Port { number, sni: None, certificate: None };
    assert!(finds(at(80), "a.test") && finds(at(81), "c.test"));
    assert!(!finds(at(80), "b.test"), "whoever connects can't know that a header is asked for");
    assert!(!finds(Gate::Own, "a.test") && finds(Gate::Own, "c.test"), "at the edge's own port there is no balancer");
    assert!(snapshot.edge.fitting(at(80), "set.test").next().is_some(), "a set is as its gateway");
}

#[test]
fn a_redirect_names_the_port_of_the_listener_that_was_asked() {
    let mut away = on("away", &["web/l0"], &[], "/", "a");
    let Spec::Route(route) = &away.spec else { panic!() };
    let mut redirects = (**route).clone();
    let redirect = Redirect { scheme: None, hostname: Some("o.test".into()), path: None, port: None, status: 302 };
    redirects.rules[0].filters = vec![RouteFilter::Redirect(redirect)];
    redirects.rules[0].backends.clear();
    away.spec = Spec::Route(Arc::new(redirects));
    let mut world = world(vec![gateway_at(8080, "web", &[""], |_| Carries::Http), away]);
    let remote = SocketAddr::from(([192, 0, 2, 1], 5555));
    let listener = Gate::Port { number: 8080, sni: None, certificate: None };
    for (gate, host, expected) in [
        (listener, "f.test", "http://o.test:8080/"),
        (listener, "f.test:9999", "http://o.test:8080/"),
        // The edge's own port is no listener's.
        (Gate::Own, "f.test:7780", "http://o.test:7780/"),
    ] {
        let arrival = Arrival { direction: Direction::Edge(gate), source: None, remote, tls: Tls::None };
        let mut asked = head("GET", &format!("{host}/"), &[]);
        let (_, effect) = Exchange::begin(&world.snapshot(), &mut world.shard, &arrival, &mut asked, ms(0));
        assert_eq!(answer(effect).fields, [("location", expected.into())], "{host}");
    }
}

#[test]
fn a_refusal_for_want_of_a_backend_says_no_more_than_is_so() {
    for (name, weight, detail) in [
        ("nobody", 1, "shop/r[0] sends to nobody.shop:80, which does not exist"),
        ("a", 0, "shop/r[0] has no backend with a weight above 0"),
    ] {
        let mut to = on("r", &["web/l0"], &[], "/", name);
        let Spec::Route(route) = &to.spec else { panic!() };
        let mut route = (**route).clone();
        route.rules[0].backends[0].weight = weight;
        to.spec = Spec::Route(Arc::new(route));
        let mut world = world(vec![gateway("web", &[""]), to]);
        let remote = SocketAddr::from(([192, 0, 2, 1], 5555));
        let arrival = Arrival { direction: Direction::Edge(Gate::Own), source: None, remote, tls: Tls::None };
        let mut asked = head("GET", "f.test/", &[]);
        let (exchange, effect) = Exchange::begin(&world.snapshot(), &mut world.shard, &arrival, &mut asked, ms(0));
        let answer = answer(effect);
        let body = String::from_utf8(answer.body(exchange.id())).unwrap();
        assert_eq!((answer.status, &*answer.detail), (500, detail));
        assert_eq!(body.contains("exist"), weight > 0, "{body}");
    }
}
