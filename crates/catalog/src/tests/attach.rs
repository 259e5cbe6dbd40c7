// SPDX-License-Identifier: Apache-2.0
//! Who is attached to which listener, what may lead into other namespaces, and what is said of it.

use super::*;
use byrnie_model::gateway::{
    Expression, From, Gateway, GatewayClass, Grant, Listener, Referent, Referrer, Selector, Wanted,
};
use byrnie_model::route::{ParentKind, Standing};

fn listener(name: &str, hostname: &str, from: From) -> Listener {
    let hostname = (!hostname.is_empty()).then(|| hostname.into());
    Listener { name: name.into(), hostname, port: 80, from, kinds: vec![] }
}

fn gateway(class: &str, listeners: Vec<Listener>) -> Change {
    put(Kind::Gateway, "gw", Labels::new(), Spec::Gateway(Gateway { class: class.into(), listeners }.into()))
}

/// A route in `namespace` on the gateway `ns/gw`, to `pay` of `ns`.
fn on(namespace: &str, name: &str, section: Option<&str>, hosts: &[&str]) -> Change {
    let parent = Parent { kind: ParentKind::Gateway, name: at("gw"), section: section.map(Into::into), port: None };
    let standing = if namespace == "ns" { Standing::Granted } else { Standing::Foreign };
    let to = Destination { standing, ..Destination::new(at("pay"), 80) };
    let Change::Put(plain) = route(name, &[], &[]) else { panic!() };
    let Spec::Route(spec) = &plain.spec else { panic!() };
    let mut spec = (**spec).clone();
    spec.parents = vec![parent];
    spec.hostnames = hosts.iter().map(|host| (*host).into()).collect();
    spec.rules[0].backends = vec![Backend { to, weight: 1, filters: vec![] }];
    let key = Key::new(Kind::HttpRoute, namespace, name);
    Change::Put(Arc::new(Resource { key, spec: Spec::Route(spec.into()), ..(*plain).clone() }))
}

fn status(catalog: &Catalog, namespace: &str, name: &str, condition: &str) -> String {
    let resource = catalog.resource(&Key::new(Kind::HttpRoute, namespace, name)).unwrap();
    let status = catalog.upstream_status(resource).unwrap();
    let conditions = status["parents"][0]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|c| c["type"] == condition).unwrap();
    format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
}

/// The listeners by which the edge knows a route, and whether its backend may be sent requests.
fn at_edge(catalog: &Catalog, namespace: &str, name: &str) -> Option<(Vec<String>, bool)> {
    let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
    let resource = view.find(&Key::new(Kind::HttpRoute, namespace, name))?;
    let Spec::Route(route) = &resource.spec else { panic!() };
    let sections = route.parents.iter().map(|parent| parent.section.as_ref().unwrap().to_string()).collect();
    Some((sections, route.destinations().all(|to| to.standing == Standing::Granted)))
}

#[test]
fn routes_attach_where_they_are_let_in() {
    let team = Expression { key: "team".into(), value: Wanted::In(vec!["a".into(), "b".into()]) };
    let own = Expression { key: "kubernetes.io/metadata.name".into(), value: Wanted::NotIn(vec!["ns".into()]) };
    let selected = From::Selected(Selector { labels: Labels::new(), expressions: vec![team, own] });
    let listeners = vec![
        listener("same", "", From::Same),
        listener("all", "*.a.test", From::All),
        listener("some", "b.test", selected),
    ];
    let mut catalog = with(&[
        service("pay", "pay"),
        gateway("byrnie", listeners),
        on("ns", "own", None, &[]),
        on("ns", "named", Some("all"), &["x.a.test", "y.test"]),
        on("ns", "lost", Some("nowhere"), &[]),
        on("ns", "hostless", Some("all"), &["z.test"]),
        on("far", "guest", None, &[]),
        on("far", "barred", Some("same"), &[]),
        on("far", "some", Some("some"), &[]),
    ]);
    for (namespace, name, said, sections) in [
        ("ns", "own", "True Accepted", Some(vec!["same", "all"])),
        ("ns", "named", "True Accepted", Some(vec!["all"])),
        ("ns", "lost", "False NoMatchingParent", None),
        ("ns", "hostless", "False NoMatchingListenerHostname", None),
        ("far", "guest", "True Accepted", Some(vec!["all"])),
        ("far", "barred", "False NotAllowedByListeners", None),
        ("far", "some", "False NotAllowedByListeners", None),
    ] {
        assert_eq!(status(&catalog, namespace, name, "Accepted"), said, "{name}");
        let known = at_edge(&catalog, namespace, name).map(|(sections, _)| sections);
        assert_eq!(known, sections.map(|s| s.into_iter().map(String::from).collect()), "{name}");
    }
    // The labels of a namespace let its routes in.
    catalog.join("byrnie/edge".into(), NodeSpec::gateway("byrnie", "edge"));
    catalog.delta(&"byrnie/edge".into());
    let key = Key::new(Kind::Namespace, "", "far");
    let labels: Labels = [("team".into(), "a".into())].into();
    let Change::Put(any) = service("x", "x") else { panic!() };
    let namespace = Change::Put(Arc::new(Resource { key, labels, spec: Spec::Namespace, ..(*any).clone() }));
    assert!(catalog.apply(&namespace).nodes.contains("byrnie/edge"));
    let told: Vec<String> = catalog.delta(&"byrnie/edge".into()).changed.iter().map(|r| r.key.to_string()).collect();
    assert_eq!(told, ["HTTPRoute/far/guest", "HTTPRoute/far/some"]);
    assert_eq!(status(&catalog, "far", "some", "Accepted"), "True Accepted");
}

#[test]
fn references_from_gateways_into_other_namespaces_need_a_grant() {
    let mut catalog = with(&[
        service("pay", "pay"),
        gateway("byrnie", vec![listener("all", "", From::All)]),
        on("far", "guest", None, &[]),
    ]);
    assert_eq!(at_edge(&catalog, "far", "guest"), Some((vec!["all".into()], false)));
    assert_eq!(status(&catalog, "far", "guest", "ResolvedRefs"), "False RefNotPermitted");
    let codes = |catalog: &Catalog| catalog.check().iter().map(|d| d.code.id).collect::<Vec<_>>();
    assert!(codes(&catalog).contains(&"BYR-C052"), "{:?}", codes(&catalog));
    let grant = |kind: &str, namespace: &str, name: Option<&str>| {
        let group = "gateway.networking.k8s.io";
        let from = Referrer { group: group.into(), kind: kind.into(), namespace: namespace.into() };
        let to = Referent { group: "".into(), kind: "Service".into(), name: name.map(Into::into) };
        put(Kind::ReferenceGrant, "g", Labels::new(), Spec::Grant(Grant { from: vec![from], to: vec![to] }.into()))
    };
    for (change, granted) in [
        (grant("GRPCRoute", "far", None), false),
        (grant("HTTPRoute", "other", None), false),
        (grant("HTTPRoute", "far", Some("pat")), false),
        (grant("HTTPRoute", "far", Some("pay")), true),
        (grant("HTTPRoute", "far", None), true),
    ] {
        catalog.apply(&change);
        assert_eq!(at_edge(&catalog, "far", "guest").unwrap().1, granted);
    }
    assert_eq!(status(&catalog, "far", "guest", "ResolvedRefs"), "True ResolvedRefs");
    catalog.apply(&Change::Delete { key: key(Kind::Service, "pay"), revision: Revision(2) });
    assert_eq!(status(&catalog, "far", "guest", "ResolvedRefs"), "False BackendNotFound");
}

#[test]
fn only_gateways_of_our_class_are_served() {
    let mut catalog = with(&[service("pay", "pay"), gateway("other", vec![listener("l", "", From::Same)])]);
    catalog.apply(&on("ns", "r", None, &[]));
    let told = |catalog: &Catalog| {
        let edge = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
        (edge.find(&key(Kind::Gateway, "gw")).is_some(), at_edge(catalog, "ns", "r").is_some())
    };
    assert_eq!(told(&catalog), (false, false));
    assert_eq!(catalog.check().iter().filter(|d| d.code.id == "BYR-C053").count(), 1);
    let class = |controller: &str| {
        let Change::Put(any) = service("x", "x") else { panic!() };
        let spec = Spec::GatewayClass(GatewayClass { controller: controller.into() });
        Change::Put(Arc::new(Resource { key: Key::new(Kind::GatewayClass, "", "other"), spec, ..(*any).clone() }))
    };
    catalog.apply(&class("mesh.byrnie.dev/gateway"));
    assert_eq!(told(&catalog), (true, true));
    let resource = catalog.resource(&key(Kind::Gateway, "gw")).unwrap();
    let status = catalog.upstream_status(resource).unwrap();
    assert_eq!((&status["listeners"][0]["attachedRoutes"], &status["listeners"][0]["name"]), (&1.into(), &"l".into()));
    catalog.apply(&class("somebody.else/gateway"));
    assert_eq!(told(&catalog), (false, false));
}

#[test]
fn a_sidecar_never_hears_of_gateways() {
    let catalog = with(&[
        service("pay", "pay"),
        workload("web-1", "web", "web", &["pay"]),
        gateway("byrnie", vec![listener("all", "", From::All)]),
        on("ns", "r", None, &[]),
    ]);
    let view = catalog.view(&sidecar("web-1"));
    assert!(view.find(&key(Kind::Gateway, "gw")).is_none() && view.find(&key(Kind::HttpRoute, "r")).is_none());
}
