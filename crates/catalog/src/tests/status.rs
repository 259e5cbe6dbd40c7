// SPDX-License-Identifier: Apache-2.0
//! What is said of Gateway API's resources, in its own words.

use super::attach::secret;
use super::*;
use byrnie_model::gateway::{Carries, CertificateRef, From, Gateway, GatewayClass, Listener, Parameters, Port};
use byrnie_model::range::Range;
use byrnie_model::route::{Direct, DirectResponse, ParentKind, RouteFilter};
use serde_json::Value;

fn status(catalog: &Catalog, key: &Key) -> Value {
    catalog.upstream_status(catalog.resource(key).unwrap(), &|_| None).unwrap()
}

/// `STATUS REASON` of a condition.
fn said(holder: &Value, kind: &str) -> String {
    let all = holder["conditions"].as_array().unwrap();
    let one = all.iter().find(|condition| condition["type"] == kind).unwrap();
    format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())
}

fn listener(name: &str, port: u16, carries: Carries) -> Listener {
    Listener { name: name.into(), hostname: None, port, carries, from: From::All, kinds: vec![] }
}

fn gateway(name: &str, class: &str, parent: Option<&str>, listeners: Vec<Listener>) -> Change {
    let kind = if parent.is_some() { Kind::ListenerSet } else { Kind::Gateway };
    let spec =
        Gateway { class: class.into(), parent: parent.map(at), sets: Some(From::All), listeners, ..Gateway::default() };
    put(kind, name, Labels::new(), Spec::Gateway(spec.into()))
}

/// A service whose ports all speak this.
fn speaking(name: &str, protocol: Protocol) -> Change {
    let Change::Put(plain) = service(name, name) else { unreachable!() };
    let mut resource = (*plain).clone();
    if let Spec::Service(service) = &mut resource.spec {
        service.ports.iter_mut().for_each(|port| port.protocol = protocol);
    }
    Change::Put(Arc::new(resource))
}

/// A route of this kind by a parent, to a service.
fn of_kind(kind: Kind, parent: Parent, to: &str) -> Change {
    let Change::Put(plain) = route("r", &[], &[to]) else { unreachable!() };
    let Spec::Route(spec) = &plain.spec else { unreachable!() };
    let spec = Route { parents: vec![parent], ..(**spec).clone() };
    put(kind, "r", Labels::new(), Spec::Route(spec.into()))
}

/// A route on the gateway `gw` that leads to a service.
fn on_gateway(name: &str, gateway: &str, to: &str) -> Change {
    let Change::Put(plain) = route(name, &[], &[to]) else { unreachable!() };
    let Spec::Route(spec) = &plain.spec else { unreachable!() };
    let parent = Parent { kind: ParentKind::Gateway, name: at(gateway), section: None, port: None };
    let spec = Route { parents: vec![parent], ..(**spec).clone() };
    Change::Put(Arc::new(Resource { spec: Spec::Route(spec.into()), ..(*plain).clone() }))
}

fn aged(change: Change, created: u64, revision: u64) -> Change {
    let Change::Put(resource) = change else { unreachable!() };
    let (created, revision) = (Revision(created), Revision(revision));
    Change::Put(Arc::new(Resource { created, revision, ..(*resource).clone() }))
}

#[test]
fn an_answer_that_nobody_says_is_no_resolved_reference() {
    let Change::Put(plain) = route("r", &["a"], &[]) else { unreachable!() };
    let mut answers = (*plain).clone();
    if let Spec::Route(route) = &mut answers.spec {
        let direct = Direct { filter: "closed".into(), response: None };
        Arc::make_mut(route).rules[0].filters = vec![RouteFilter::Direct(direct)];
    }
    let mut catalog = with(&[service("a", "a"), Change::Put(Arc::new(answers))]);
    let resolved = |catalog: &Catalog| said(&status(catalog, &key(Kind::HttpRoute, "r"))["parents"][0], "ResolvedRefs");
    assert_eq!(resolved(&catalog), "False FilterNotFound");
    let says = DirectResponse { status: 503, content_type: None, body: "".into() };
    catalog.apply(&put(Kind::HttpRouteFilter, "closed", Labels::new(), Spec::Direct(says.into())));
    assert_eq!(resolved(&catalog), "True ResolvedRefs");
}

#[test]
fn every_condition_names_the_state_that_it_is_about() {
    let gw = aged(gateway("gw", "byrnie", None, vec![listener("l", 80, Carries::Http)]), 1, 41);
    let catalog = with(&[
        outside("bank"),
        gw,
        aged(on_gateway("r", "gw", "bank"), 2, 42),
        aged(backend_tls("t", "bank", ""), 3, 43),
    ]);
    fn all<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("conditions").and_then(Value::as_array).into_iter().flatten());
                fields.values().for_each(|value| all(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| all(value, found)),
            _ => {}
        }
    }
    for (kind, name, revision, count) in
        [(Kind::Gateway, "gw", 41, 7), (Kind::HttpRoute, "r", 42, 2), (Kind::BackendTlsPolicy, "t", 43, 4)]
    {
        let status = status(&catalog, &key(kind, name));
        let mut found = Vec::new();
        all(&status, &mut found);
        assert_eq!(found.len(), count, "{status}");
        assert!(found.iter().all(|condition| condition["observedGeneration"] == revision), "{status}");
    }
}

#[test]
fn a_gateway_is_as_good_as_its_listeners() {
    let of = |catalog: &Catalog, name: &str| {
        let status = status(catalog, &key(Kind::Gateway, name));
        ["Accepted", "Programmed", "ResolvedRefs"].map(|kind| said(&status, kind))
    };
    let (clear, tls) = (|| listener("clear", 80, Carries::Http), || listener("tls", 443, Carries::Https(vec![])));
    let mut catalog = with(&[gateway("gw", "byrnie", None, vec![clear()])]);
    assert_eq!(of(&catalog, "gw"), ["True Accepted", "True Programmed", "True ResolvedRefs"]);
    // Without a certificate nobody is let in by the one; the other goes on.
    catalog.apply(&gateway("gw", "byrnie", None, vec![clear(), tls()]));
    assert_eq!(of(&catalog, "gw")[..2], ["True Accepted", "True Programmed"]);
    catalog.apply(&gateway("gw", "byrnie", None, vec![tls()]));
    assert_eq!(of(&catalog, "gw")[..2], ["True Accepted", "False Invalid"]);
    // A port that an older gateway has taken.
    let late = |listeners| aged(gateway("late", "byrnie", None, listeners), 9, 9);
    catalog.apply(&late(vec![listener("l", 443, Carries::Http), clear()]));
    assert_eq!(of(&catalog, "late")[..2], ["True ListenersNotValid", "True Programmed"]);
    catalog.apply(&late(vec![listener("l", 443, Carries::Http)]));
    assert_eq!(of(&catalog, "late")[..2], ["False ListenersNotValid", "False Invalid"]);
    let of_listener = &status(&catalog, &key(Kind::Gateway, "late"))["listeners"][0];
    for (kind, wanted) in [
        ("Accepted", "False ProtocolConflict"),
        ("Programmed", "False ProtocolConflict"),
        ("Conflicted", "True ProtocolConflict"),
    ] {
        assert_eq!(said(of_listener, kind), wanted);
    }
}

#[test]
fn a_set_of_listeners_is_judged_and_counted() {
    let mut catalog = with(&[gateway("gw", "byrnie", None, vec![listener("own", 443, Carries::Https(vec![]))])]);
    let of = |catalog: &Catalog| {
        let set = status(catalog, &key(Kind::ListenerSet, "set"));
        let gateway = status(catalog, &key(Kind::Gateway, "gw"));
        (said(&set, "Accepted"), said(&set, "Programmed"), gateway["attachedListenerSets"].as_u64().unwrap())
    };
    let set = |listeners| aged(gateway("set", "", Some("gw"), listeners), 9, 9);
    catalog.apply(&set(vec![listener("more", 80, Carries::Http)]));
    assert_eq!(of(&catalog), ("True Accepted".into(), "True Programmed".into(), 1));
    catalog.apply(&set(vec![listener("clash", 443, Carries::Http)]));
    let nothing = ("False ListenersNotValid".into(), "False ListenersNotValid".into(), 0);
    assert_eq!(of(&catalog), nothing);
    // Nor is anybody let in without a certificate.
    let to = CertificateRef { namespace: "far".into(), name: "guest".into(), unserved: None };
    let secure = || listener("secure", 8443, Carries::Https(vec![to.clone()]));
    catalog.apply(&set(vec![secure()]));
    assert_eq!(of(&catalog), nothing);
    catalog.apply(&set(vec![secure(), listener("more", 80, Carries::Http)]));
    assert_eq!(of(&catalog), ("True ListenersNotValid".into(), "True Programmed".into(), 1));
}

#[test]
fn a_gateway_that_asks_for_parameters_is_not_served() {
    let Change::Put(plain) = gateway("gw", "byrnie", None, vec![listener("l", 80, Carries::Http)]) else {
        unreachable!()
    };
    let Spec::Gateway(spec) = &plain.spec else { unreachable!() };
    let parameters = Some(Parameters { group: "a.test".into(), kind: "Shape".into(), name: "large".into() });
    let spec = Spec::Gateway(Arc::new(Gateway { parameters, ..(**spec).clone() }));
    let asks = Change::Put(Arc::new(Resource { spec, ..(*plain).clone() }));
    let mut catalog = with(&[service("pay", "pay"), asks, on_gateway("r", "gw", "pay")]);
    let of = |catalog: &Catalog| {
        let gateway = status(catalog, &key(Kind::Gateway, "gw"));
        let route = status(catalog, &key(Kind::HttpRoute, "r"));
        [said(&gateway, "Accepted"), said(&gateway, "Programmed"), said(&route["parents"][0], "Accepted")]
    };
    assert_eq!(of(&catalog), ["False InvalidParameters", "False Invalid", "False NoMatchingParent"]);
    let edge = |catalog: &Catalog| catalog.view(&NodeSpec::gateway("byrnie", "edge")).find(&plain.key).is_some();
    assert!(!edge(&catalog), "no proxy opens a port for it");
    assert_eq!(catalog.check().iter().filter(|found| found.code.id == "BYR-C097").count(), 1);
    catalog.apply(&gateway("gw", "byrnie", None, vec![listener("l", 80, Carries::Http)]));
    assert_eq!(of(&catalog), ["True Accepted", "True Programmed", "True Accepted"]);
    assert!(edge(&catalog));
}

#[test]
fn of_what_is_anothers_affair_nothing_is_said() {
    let mut catalog = with(&[
        service("pay", "pay"),
        gateway("gw", "other", None, vec![listener("l", 80, Carries::Http)]),
        on_gateway("r", "gw", "pay"),
    ]);
    let class = |controller: &str| {
        let Change::Put(any) = service("x", "x") else { unreachable!() };
        let spec = Spec::GatewayClass(GatewayClass { controller: controller.into(), description: None });
        Change::Put(Arc::new(Resource { key: Key::new(Kind::GatewayClass, "", "other"), spec, ..(*any).clone() }))
    };
    catalog.apply(&class("somebody.else/gateway"));
    let of_class = status(&catalog, &Key::new(Kind::GatewayClass, "", "other"));
    assert_eq!(said(&of_class, "Accepted"), "Unknown Pending");
    let of_gateway = status(&catalog, &key(Kind::Gateway, "gw"));
    assert_eq!(["Accepted", "Programmed"].map(|kind| said(&of_gateway, kind)), ["Unknown Pending", "Unknown Pending"]);
    assert!(status(&catalog, &key(Kind::HttpRoute, "r"))["parents"].as_array().unwrap().is_empty());
    catalog.apply(&class("mesh.byrnie.dev/gateway"));
    assert_eq!(said(&status(&catalog, &key(Kind::HttpRoute, "r"))["parents"][0], "Accepted"), "True Accepted");
}

#[test]
fn a_policy_for_tls_says_for_each_ancestor_what_it_comes_to() {
    let mut catalog = with(&[
        outside("bank"),
        service("pay", "pay"),
        gateway("gw", "byrnie", None, vec![listener("l", 80, Carries::Http)]),
        on_gateway("r", "gw", "bank"),
        aged(backend_tls("first", "bank", "ca"), 1, 1),
        bundle("ca"),
    ]);
    let of = |catalog: &Catalog, name: &str| -> Vec<String> {
        let status = status(catalog, &key(Kind::BackendTlsPolicy, name));
        let ancestors = status["ancestors"].as_array().unwrap().iter();
        let line = |ancestor: &Value| {
            let to = &ancestor["ancestorRef"];
            assert_eq!(ancestor["controllerName"], "mesh.byrnie.dev/gateway");
            let verdicts = ["Accepted", "ResolvedRefs"].map(|kind| said(ancestor, kind)).join(", ");
            format!("{}/{}: {verdicts}", to["kind"].as_str().unwrap(), to["name"].as_str().unwrap())
        };
        ancestors.map(line).collect()
    };
    assert_eq!(
        of(&catalog, "first"),
        ["Gateway/gw: True Accepted, True ResolvedRefs", "Service/bank: True Accepted, True ResolvedRefs"]
    );
    for (change, wanted) in [
        (aged(backend_tls("late", "bank", ""), 2, 2), "Service/bank: False Conflicted, True ResolvedRefs"),
        (backend_tls("late", "pay", ""), "Service/pay: False Invalid, True ResolvedRefs"),
        (backend_tls("late", "nobody", ""), "Service/nobody: False TargetNotFound, True ResolvedRefs"),
    ] {
        catalog.apply(&change);
        assert_eq!(of(&catalog, "late").last().unwrap(), wanted);
    }
    catalog.apply(&aged(showing("own", backend_tls("first", "bank", "ca")), 1, 1));
    assert_eq!(of(&catalog, "first")[1], "Service/bank: False Invalid, False InvalidClientCertificateRef");
    catalog.apply(&secret("ns", "own"));
    assert_eq!(of(&catalog, "first")[1], "Service/bank: True Accepted, True ResolvedRefs");
    catalog.apply(&delete(Kind::ConfigMap, "ca"));
    assert_eq!(of(&catalog, "first")[1], "Service/bank: False NoValidCACertificate, False InvalidCACertificateRef");
    catalog.apply(&delete(Kind::Service, "bank"));
    assert_eq!(of(&catalog, "first")[1], "Service/bank: False TargetNotFound, False InvalidCACertificateRef");
}

#[test]
fn a_traffic_policy_says_for_each_service_whether_it_is_in_force() {
    let speaking =
        |name: &str, of: TrafficPolicy| put(Kind::TrafficPolicy, name, Labels::new(), Spec::Traffic(Arc::new(of)));
    let both = || vec![at("pay"), at("bank")];
    let first = TrafficPolicy {
        targets: vec![at("pay")],
        unsafe_retry: true,
        connect_timeout: Some(std::time::Duration::from_secs(2)),
        ..TrafficPolicy::default()
    };
    let second = TrafficPolicy { targets: both(), unsafe_retry: true, ..TrafficPolicy::default() };
    let third = TrafficPolicy { balance: Some(byrnie_model::policy::traffic::Balance::Random), ..second.clone() };
    let catalog = with(&[service("pay", "pay"), speaking("a", first), speaking("b", second), speaking("c", third)]);
    let of = |name: &str| -> Vec<String> {
        let status = status(&catalog, &key(Kind::TrafficPolicy, name));
        let line = |ancestor: &Value| {
            let message = ancestor["conditions"][0]["message"].as_str().unwrap();
            format!("{}: {}: {message}", ancestor["ancestorRef"]["name"].as_str().unwrap(), said(ancestor, "Accepted"))
        };
        status["ancestors"].as_array().unwrap().iter().map(line).collect()
    };
    assert_eq!(of("a"), ["pay: True Accepted: "]);
    let decided = "TrafficPolicy/ns/a decides unsafeRetry and comes first by name";
    let absent = "bank: False TargetNotFound: no Service \"bank\" in namespace \"ns\"";
    assert_eq!(of("b"), [format!("pay: False Conflicted: {decided}"), absent.to_owned()]);
    assert_eq!(of("c"), [format!("pay: True Accepted: {decided}"), absent.to_owned()]);
}

#[test]
fn two_gateways_of_one_port_have_the_same_balancers_in_front() {
    let behind = |change: Change, text: &str| {
        let Change::Put(resource) = change else { unreachable!() };
        let Spec::Gateway(spec) = &resource.spec else { unreachable!() };
        let balancers = vec![Range::parse(text).unwrap()];
        let spec = Gateway { balancers, ..(**spec).clone() };
        Change::Put(Arc::new(Resource { spec: Spec::Gateway(spec.into()), ..(*resource).clone() }))
    };
    let of = |name: &str| gateway(name, "byrnie", None, vec![listener(name, 80, Carries::Http)]);
    let set = Listener { hostname: Some("s.test".into()), ..listener("s", 80, Carries::Http) };
    let set = aged(gateway("set", "", Some("gw"), vec![set]), 9, 9);
    let mut catalog = with(&[behind(of("gw"), "10.0.0.0/8"), aged(of("late"), 9, 9), set]);
    let conflicted = |catalog: &Catalog, kind: Kind, name: &str| {
        said(&status(catalog, &key(kind, name))["listeners"][0], "Conflicted")
    };
    assert_eq!(conflicted(&catalog, Kind::Gateway, "late"), "True ProtocolConflict");
    assert_eq!(conflicted(&catalog, Kind::ListenerSet, "set"), "False NoConflicts");
    catalog.apply(&aged(behind(of("late"), "10.0.0.0/8"), 9, 9));
    assert_eq!(conflicted(&catalog, Kind::Gateway, "late"), "False NoConflicts");
}

#[test]
fn a_set_adds_no_listener_for_a_host_that_its_gateway_or_an_older_set_has() {
    let on = |name: &str, host: &str| Listener { hostname: Some(host.into()), ..listener(name, 80, Carries::Http) };
    let set = |name: &str, age: u64, listeners| aged(gateway(name, "", Some("gw"), listeners), age, age);
    let mut catalog = with(&[
        service("pay", "pay"),
        gateway("gw", "byrnie", None, vec![on("own", "a.test")]),
        // Of another gateway: what it has is nothing to these.
        aged(gateway("other", "byrnie", None, vec![on("own", "c.test")]), 1, 1),
        set("old", 5, vec![on("same", "a.test"), on("more", "b.test")]),
        set("new", 9, vec![on("late", "b.test"), on("free", "c.test")]),
    ]);
    let conflicted = |catalog: &Catalog, name: &str| -> Vec<String> {
        let status = status(catalog, &key(Kind::ListenerSet, name));
        let all = status["listeners"].as_array().unwrap().iter();
        all.map(|one| ["Conflicted", "Accepted", "Programmed"].map(|kind| said(one, kind)).join(", ")).collect()
    };
    let taken = "True HostnameConflict, False HostnameConflict, False HostnameConflict";
    let free = "False NoConflicts, True Accepted, True Programmed";
    assert_eq!(conflicted(&catalog, "old"), [taken, free]);
    assert_eq!(conflicted(&catalog, "new"), [taken, free]);
    let told: Vec<_> = catalog.check().into_iter().filter(|d| d.code.id == "BYR-C062").map(|d| d.message).collect();
    assert_eq!(
        told,
        [
            "host \"b.test\" at port 80 is ListenerSet/ns/old's, which comes first",
            "host \"a.test\" at port 80 is Gateway/ns/gw's, which comes first"
        ]
    );
    // Nothing of it is served, and no route is attached to it.
    let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
    let Spec::Gateway(shown) = &view.find(&key(Kind::ListenerSet, "old")).unwrap().spec else { unreachable!() };
    assert_eq!(shown.listeners.iter().map(|listener| &*listener.name).collect::<Vec<_>>(), ["more"]);
    let Change::Put(plain) = on_gateway("r", "old", "pay") else { unreachable!() };
    let Spec::Route(spec) = &plain.spec else { unreachable!() };
    let mut spec = (**spec).clone();
    spec.parents[0].kind = ParentKind::ListenerSet;
    spec.parents[0].section = Some("same".into());
    catalog.apply(&Change::Put(Arc::new(Resource { spec: Spec::Route(spec.into()), ..(*plain).clone() })));
    let attached = |catalog: &Catalog| said(&status(catalog, &key(Kind::HttpRoute, "r"))["parents"][0], "Accepted");
    assert_eq!(attached(&catalog), "False NoMatchingParent");
    // Once the place is free, it's taken.
    catalog.apply(&gateway("gw", "byrnie", None, vec![on("own", "d.test")]));
    assert_eq!(conflicted(&catalog, "old"), [free, free]);
    assert_eq!(attached(&catalog), "True Accepted");
    // One that has nothing left isn't shown at all.
    catalog.apply(&set("new", 9, vec![on("late", "b.test")]));
    let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
    assert!(view.find(&key(Kind::ListenerSet, "new")).is_none());
}

#[test]
fn a_route_that_another_kind_leaves_no_say_at_any_port_is_not_accepted() {
    let of = |kind: Kind, name: &str, port: Option<u16>| {
        let Change::Put(plain) = route(name, &[], &["db"]) else { unreachable!() };
        let Spec::Route(spec) = &plain.spec else { unreachable!() };
        let spec = Route { parents: vec![Parent::service(at("db"), port)], ..(**spec).clone() };
        put(kind, name, Labels::new(), Spec::Route(spec.into()))
    };
    let mut catalog = with(&[speaking("db", Protocol::Tcp), of(Kind::TcpRoute, "low", None)]);
    let accepted =
        |catalog: &Catalog, kind: Kind, name: &str| said(&status(catalog, &key(kind, name))["parents"][0], "Accepted");
    assert_eq!(accepted(&catalog, Kind::TcpRoute, "low"), "True Accepted");
    // At one of its two ports it goes on.
    catalog.apply(&of(Kind::TlsRoute, "high", Some(80)));
    assert_eq!(accepted(&catalog, Kind::TcpRoute, "low"), "True Accepted");
    catalog.apply(&of(Kind::TcpRoute, "low", Some(80)));
    assert_eq!(accepted(&catalog, Kind::TcpRoute, "low"), "False Conflicted");
    assert_eq!(accepted(&catalog, Kind::TlsRoute, "high"), "True Accepted");
    let message = &status(&catalog, &key(Kind::TcpRoute, "low"))["parents"][0]["conditions"][0]["message"];
    assert!(message.as_str().unwrap().contains("TLSRoute/ns/high"), "{message}");
    catalog.apply(&of(Kind::TcpRoute, "low", None));
    catalog.apply(&of(Kind::TlsRoute, "high", None));
    assert_eq!(accepted(&catalog, Kind::TcpRoute, "low"), "False Conflicted");
    catalog.apply(&delete(Kind::TlsRoute, "high"));
    assert_eq!(accepted(&catalog, Kind::TcpRoute, "low"), "True Accepted");
    // Routes of requests and of gRPC calls are told apart in the same way.
    catalog.apply(&service("db", "db"));
    catalog.apply(&of(Kind::HttpRoute, "low", None));
    catalog.apply(&of(Kind::GrpcRoute, "high", None));
    assert_eq!(accepted(&catalog, Kind::HttpRoute, "low"), "False Conflicted");
    assert_eq!(accepted(&catalog, Kind::GrpcRoute, "high"), "True Accepted");
}

#[test]
fn datagrams_have_listeners_routes_and_backends_of_their_own() {
    let gw = |listeners| gateway("gw", "byrnie", None, listeners);
    let both = || vec![listener("tcp", 53, Carries::Tcp), listener("udp", 53, Carries::Udp)];
    let (dns, db) = (speaking("dns", Protocol::Udp), speaking("db", Protocol::Tcp));
    let mut catalog = with(&[gw(both()), dns, db]);
    let on = |section: Option<&str>, port: Option<u16>| Parent {
        kind: ParentKind::Gateway,
        name: at("gw"),
        section: section.map(Into::into),
        port,
    };
    let of_route = |catalog: &Catalog, kind: Kind| {
        let status = status(catalog, &key(kind, "r"));
        ["Accepted", "ResolvedRefs"].map(|kind| said(&status["parents"][0], kind))
    };
    for (kind, parent, to, wanted) in [
        (Kind::UdpRoute, on(None, None), "dns", ["True Accepted", "True ResolvedRefs"]),
        (Kind::UdpRoute, on(Some("udp"), Some(53)), "dns", ["True Accepted", "True ResolvedRefs"]),
        (Kind::UdpRoute, on(Some("tcp"), None), "dns", ["False NotAllowedByListeners", "True ResolvedRefs"]),
        (Kind::UdpRoute, on(Some("none"), None), "dns", ["False NoMatchingParent", "True ResolvedRefs"]),
        (Kind::UdpRoute, on(None, Some(54)), "dns", ["False NoMatchingParent", "True ResolvedRefs"]),
        (Kind::UdpRoute, on(None, None), "db", ["True Accepted", "False UnsupportedProtocol"]),
        (Kind::UdpRoute, on(None, None), "nobody", ["True Accepted", "False BackendNotFound"]),
        (Kind::TcpRoute, on(None, None), "db", ["True Accepted", "True ResolvedRefs"]),
        (Kind::TcpRoute, on(Some("udp"), None), "db", ["False NotAllowedByListeners", "True ResolvedRefs"]),
        (Kind::TcpRoute, on(None, None), "dns", ["True Accepted", "False UnsupportedProtocol"]),
        (Kind::UdpRoute, Parent::service(at("dns"), None), "dns", ["True Accepted", "True ResolvedRefs"]),
    ] {
        catalog.apply(&of_kind(kind, parent.clone(), to));
        assert_eq!(of_route(&catalog, kind), wanted, "{kind:?} {parent:?} {to}");
        let told = catalog.check().into_iter().filter(|found| found.code.id == "BYR-C099").count();
        assert_eq!(told, usize::from(wanted[1].ends_with("UnsupportedProtocol")), "{kind:?} {parent:?} {to}");
        catalog.apply(&delete(kind, "r"));
    }
    let astray = of_kind(Kind::UdpRoute, Parent::service(at("db"), None), "dns");
    catalog.apply(&astray);
    assert!(catalog.check().iter().any(|found| found.code.id == "BYR-C099"), "no port of db takes datagrams");
    catalog.apply(&of_kind(Kind::UdpRoute, on(None, None), "dns"));
    let listeners = |catalog: &Catalog| {
        let all = status(catalog, &key(Kind::Gateway, "gw"))["listeners"].clone();
        let one = |of: &Value| (of["supportedKinds"][0]["kind"].clone(), of["attachedRoutes"].clone());
        all.as_array().unwrap().iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(listeners(&catalog), [("TCPRoute".into(), 0.into()), ("UDPRoute".into(), 1.into())]);
    let wrong = Listener { kinds: vec!["TCPRoute.gateway.networking.k8s.io".into()], ..both().remove(1) };
    catalog.apply(&gw(vec![wrong]));
    let of_gateway = status(&catalog, &key(Kind::Gateway, "gw"));
    assert_eq!(said(&of_gateway["listeners"][0], "ResolvedRefs"), "False InvalidRouteKinds");
    assert_eq!(of_gateway["listeners"][0]["supportedKinds"], serde_json::json!([]));
}

#[test]
fn a_port_of_udp_is_another_than_that_of_tcp_with_its_number() {
    let both = || vec![listener("tcp", 53, Carries::Tcp), listener("udp", 53, Carries::Udp)];
    let mut catalog = with(&[gateway("gw", "byrnie", None, both())]);
    let conflicts = |catalog: &Catalog, kind: Kind, name: &str| {
        let all = status(catalog, &key(kind, name))["listeners"].clone();
        all.as_array().unwrap().iter().map(|one| said(one, "Conflicted")).collect::<Vec<_>>()
    };
    assert_eq!(conflicts(&catalog, Kind::Gateway, "gw"), ["False NoConflicts"; 2]);
    let late = |listeners| aged(gateway("late", "byrnie", None, listeners), 9, 9);
    catalog.apply(&late(both()));
    assert_eq!(conflicts(&catalog, Kind::Gateway, "late"), ["True ProtocolConflict"; 2]);
    catalog.apply(&gateway("gw", "byrnie", None, both().split_off(1)));
    assert_eq!(conflicts(&catalog, Kind::Gateway, "late"), ["False NoConflicts", "True ProtocolConflict"]);
    // A port that can't be opened is the one of UDP alone.
    catalog.apply(&gateway("gw", "byrnie", None, both()));
    let closed = |at: Port| (at == Port::Udp(53)).then(|| "somebody has it".into());
    let status = catalog.upstream_status(catalog.resource(&key(Kind::Gateway, "gw")).unwrap(), &closed).unwrap();
    let accepted: Vec<_> = status["listeners"].as_array().unwrap().iter().map(|one| said(one, "Accepted")).collect();
    assert_eq!(accepted, ["True Accepted", "False PortUnavailable"]);
    // No balancer says whom a datagram is from.
    let Change::Put(plain) = gateway("gw", "byrnie", None, both().split_off(1)) else { unreachable!() };
    let mut fronted = (*plain).clone();
    if let Spec::Gateway(spec) = &mut fronted.spec {
        let own = Arc::make_mut(spec);
        own.balancers = Range::parse("10.0.0.0/8").into_iter().collect();
        own.listeners = vec![listener("own", 80, Carries::Http)];
    }
    catalog.apply(&delete(Kind::Gateway, "late"));
    catalog.apply(&Change::Put(Arc::new(fronted)));
    catalog.apply(&aged(gateway("set", "", Some("gw"), both().split_off(1)), 9, 9));
    assert_eq!(conflicts(&catalog, Kind::ListenerSet, "set"), ["True ProtocolConflict"]);
    catalog.apply(&aged(gateway("free", "byrnie", None, both().split_off(1)), 10, 10));
    assert_eq!(conflicts(&catalog, Kind::Gateway, "free"), ["False NoConflicts"]);
}
