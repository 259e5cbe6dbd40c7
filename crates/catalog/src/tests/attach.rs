// SPDX-License-Identifier: Apache-2.0
//! Who is attached to which listener, what may lead into other namespaces, and what is said of it.

use super::*;
use byrnie_model::gateway::{
    Carries, CertificateRef, Expression, From, Gateway, GatewayClass, Grant, Listener, Referent, Referrer, Selector,
    Wanted,
};
use byrnie_model::route::{ParentKind, Standing};
use byrnie_model::secret::{Private, Secret};

fn listener(name: &str, hostname: &str, from: From) -> Listener {
    let hostname = (!hostname.is_empty()).then(|| hostname.into());
    Listener { name: name.into(), hostname, port: 80, carries: Carries::Http, from, kinds: vec![] }
}

fn gateway(class: &str, listeners: Vec<Listener>) -> Change {
    put(
        Kind::Gateway,
        "gw",
        Labels::new(),
        Spec::Gateway(Gateway { class: class.into(), listeners, ..Gateway::default() }.into()),
    )
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
    let status = catalog.upstream_status(resource, &|_| None).unwrap();
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
        let spec = Spec::GatewayClass(GatewayClass { controller: controller.into(), description: None });
        Change::Put(Arc::new(Resource { key: Key::new(Kind::GatewayClass, "", "other"), spec, ..(*any).clone() }))
    };
    catalog.apply(&class("mesh.byrnie.dev/gateway"));
    assert_eq!(told(&catalog), (true, true));
    let resource = catalog.resource(&key(Kind::Gateway, "gw")).unwrap();
    let status = catalog.upstream_status(resource, &|_| None).unwrap();
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

pub(super) fn secret(namespace: &str, name: &str) -> Change {
    let spec = Secret { chain: "c".into(), key: Private::new("k") };
    let Change::Put(any) = put(Kind::Secret, name, Labels::new(), Spec::Secret(spec.into())) else { panic!() };
    let key = Key::new(Kind::Secret, namespace, name);
    Change::Put(Arc::new(Resource { key, ..(*any).clone() }))
}

/// A listener under TLS that shows these, as `NAMESPACE/NAME`.
fn secure(certificates: &[&str]) -> Listener {
    let one = |at: &&str| {
        let (namespace, name) = at.split_once('/').unwrap();
        CertificateRef { namespace: namespace.into(), name: name.into(), unserved: None }
    };
    let carries = Carries::Https(certificates.iter().map(one).collect());
    Listener { port: 443, carries, ..listener("tls", "", From::Same) }
}

/// The Secrets that the edge is sent, and those that the gateway may show there.
fn shown(catalog: &Catalog) -> (Vec<String>, usize) {
    let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
    let secrets = view.resources.iter().filter(|r| r.key.kind == Kind::Secret).map(|r| r.key.to_string());
    let gateway = view.find(&Key::new(Kind::Gateway, "ns", "gw"));
    let Some(Spec::Gateway(gateway)) = gateway.map(|r| &r.spec) else { panic!() };
    (secrets.collect(), gateway.listeners[0].carries.certificates().len())
}

#[test]
fn a_key_goes_to_the_edge_that_shows_it_and_to_nobody_else() {
    let mut catalog = with(&[
        service("pay", "pay"),
        gateway("byrnie", vec![secure(&["ns/own", "far/guest"])]),
        secret("ns", "own"),
        secret("ns", "other"),
        secret("far", "guest"),
    ]);
    assert_eq!(shown(&catalog), (vec!["Secret/ns/own".to_owned()], 1));
    let view = catalog.view(&NodeSpec::sidecar("ns", "pay"));
    assert!(view.resources.iter().all(|r| r.key.kind != Kind::Secret));
    let listener = |catalog: &Catalog, closed: Option<&str>| {
        let resource = catalog.resource(&Key::new(Kind::Gateway, "ns", "gw")).unwrap();
        let status = catalog.upstream_status(resource, &|_| closed.map(Into::into)).unwrap();
        let said = |kind: &str| {
            let all = status["listeners"][0]["conditions"].as_array().unwrap();
            let one = all.iter().find(|c| c["type"] == kind).unwrap();
            format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())
        };
        [said("ResolvedRefs"), said("Programmed"), said("Accepted")]
    };
    let lint = |catalog: &Catalog| catalog.check().iter().filter(|d| d.code.id == "BYR-C057").count();
    assert_eq!(listener(&catalog, None), ["False RefNotPermitted", "True Programmed", "True Accepted"]);
    assert_eq!(lint(&catalog), 1);
    // A proxy is told only of what has another revision than it knows.
    let known = |catalog: &Catalog| {
        let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
        view.find(&Key::new(Kind::Gateway, "ns", "gw")).unwrap().revision
    };
    let before = known(&catalog);
    // A grant, a Secret that goes, one that comes back: the edge is told of each.
    catalog.join("byrnie/edge".into(), NodeSpec::gateway("byrnie", "edge"));
    catalog.delta(&"byrnie/edge".into());
    let group = "gateway.networking.k8s.io";
    let from = Referrer { group: group.into(), kind: "Gateway".into(), namespace: "ns".into() };
    let to = Referent { group: "".into(), kind: "Secret".into(), name: None };
    let spec = Spec::Grant(Grant { from: vec![from], to: vec![to] }.into());
    let Change::Put(any) = put(Kind::ReferenceGrant, "g", Labels::new(), spec) else { panic!() };
    let key = Key::new(Kind::ReferenceGrant, "far", "g");
    catalog.apply(&Change::Put(Arc::new(Resource { key, ..(*any).clone() })));
    let judged = catalog.delta(&"byrnie/edge".into());
    let told: Vec<String> = judged.changed.iter().map(|r| r.key.to_string()).collect();
    assert_eq!(told, ["Secret/far/guest", "Gateway/ns/gw"]);
    assert_ne!(known(&catalog), before);
    assert_eq!(listener(&catalog, None), ["True ResolvedRefs", "True Programmed", "True Accepted"]);
    assert_eq!(lint(&catalog), 0);
    for (namespace, name) in [("far", "guest"), ("ns", "own")] {
        catalog.apply(&Change::Delete { key: Key::new(Kind::Secret, namespace, name), revision: Revision(9) });
    }
    assert_eq!(catalog.delta(&"byrnie/edge".into()).removed.len(), 2);
    assert_eq!(listener(&catalog, None), ["False InvalidCertificateRef", "False Invalid", "True Accepted"]);
    catalog.apply(&secret("ns", "own"));
    assert_eq!(shown(&catalog), (vec!["Secret/ns/own".to_owned()], 1));
    assert_eq!(listener(&catalog, Some("in use"))[1..], ["False Invalid", "False PortUnavailable"]);
}

#[test]
fn another_judgement_of_a_route_is_another_revision() {
    let mut catalog = with(&[service("pay", "pay"), gateway("byrnie", vec![listener("all", "", From::All)])]);
    catalog.apply(&on("far", "guest", None, &[]));
    let revision = |catalog: &Catalog| {
        let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
        view.find(&Key::new(Kind::HttpRoute, "far", "guest")).unwrap().revision
    };
    let refused = revision(&catalog);
    let group = "gateway.networking.k8s.io";
    let from = Referrer { group: group.into(), kind: "HTTPRoute".into(), namespace: "far".into() };
    let to = Referent { group: "".into(), kind: "Service".into(), name: None };
    let grant = Spec::Grant(Grant { from: vec![from], to: vec![to] }.into());
    catalog.apply(&put(Kind::ReferenceGrant, "g", Labels::new(), grant));
    let granted = revision(&catalog);
    assert_ne!(refused, granted);
    let listeners = vec![listener("all", "", From::All), listener("more", "a.test", From::All)];
    catalog.apply(&gateway("byrnie", listeners));
    assert_ne!(revision(&catalog), granted, "it's attached to another listener too");
    catalog.apply(&gateway("byrnie", vec![listener("all", "", From::All)]));
    assert_eq!(revision(&catalog), granted, "the same judgement is the same revision, also after a restart");
}

#[test]
fn the_older_gateway_decides_what_a_port_speaks() {
    let mut catalog = with(&[gateway("byrnie", vec![secure(&[])])]);
    let clear = Listener { port: 443, ..listener("clear", "b.test", From::Same) };
    let spec = Spec::Gateway(Gateway { class: "byrnie".into(), listeners: vec![clear], ..Gateway::default() }.into());
    let Change::Put(any) = put(Kind::Gateway, "late", Labels::new(), spec) else { panic!() };
    catalog.apply(&Change::Put(Arc::new(Resource { created: Revision(9), ..(*any).clone() })));
    for (name, said) in [("gw", "NoConflicts"), ("late", "ProtocolConflict")] {
        let resource = catalog.resource(&Key::new(Kind::Gateway, "ns", name)).unwrap();
        let status = catalog.upstream_status(resource, &|_| None).unwrap();
        let all = status["listeners"][0]["conditions"].as_array().unwrap();
        assert_eq!(all.iter().find(|c| c["type"] == "Conflicted").unwrap()["reason"], said, "{name}");
    }
    let told: Vec<_> = catalog.check().into_iter().filter(|d| d.code.id == "BYR-C062").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].message, "port 443 is Gateway/ns/gw's, which comes first and speaks HTTPS there");
}

/// A ListenerSet of `namespace` that adds a listener to the gateway `ns/gw`.
fn set(namespace: &str, listeners: Vec<Listener>) -> Change {
    let spec =
        Spec::Gateway(Gateway { class: "".into(), parent: Some(at("gw")), listeners, ..Gateway::default() }.into());
    let Change::Put(any) = put(Kind::ListenerSet, "set", Labels::new(), spec) else { panic!() };
    let key = Key::new(Kind::ListenerSet, namespace, "set");
    Change::Put(Arc::new(Resource { key, ..(*any).clone() }))
}

#[test]
fn sets_add_to_gateways_that_take_them() {
    let owner = |sets: Option<From>| {
        let listeners = vec![listener("own", "", From::Same)];
        let spec = Gateway { class: "byrnie".into(), sets, listeners, ..Gateway::default() };
        put(Kind::Gateway, "gw", Labels::new(), Spec::Gateway(spec.into()))
    };
    let mut catalog = with(&[service("pay", "pay"), set("far", vec![listener("more", "b.test", From::Same)])]);
    let Change::Put(any) = on("far", "guest", None, &[]) else { panic!() };
    let Spec::Route(spec) = &any.spec else { panic!() };
    let mut spec = (**spec).clone();
    spec.parents[0] =
        Parent { kind: ParentKind::ListenerSet, name: ServiceRef::new("far", "set"), section: None, port: None };
    catalog.apply(&Change::Put(Arc::new(Resource { spec: Spec::Route(spec.into()), ..(*any).clone() })));
    let said = |catalog: &Catalog| {
        let resource = catalog.resource(&Key::new(Kind::ListenerSet, "far", "set")).unwrap();
        let status = catalog.upstream_status(resource, &|_| None).unwrap();
        let accepted = status["conditions"][0].clone();
        let lint = catalog.check().iter().filter(|d| d.code.id == "BYR-C063").count();
        let shown = catalog.view(&NodeSpec::gateway("byrnie", "edge")).find(&resource.key).is_some();
        (accepted["reason"].as_str().unwrap().to_owned(), lint, shown, at_edge(catalog, "far", "guest").is_some())
    };
    assert_eq!(said(&catalog), ("ParentNotAccepted".into(), 1, false, false));
    catalog.join("byrnie/edge".into(), NodeSpec::gateway("byrnie", "edge"));
    catalog.delta(&"byrnie/edge".into());
    for (sets, reason, served) in
        [(None, "NotAllowed", false), (Some(From::Same), "NotAllowed", false), (Some(From::All), "Accepted", true)]
    {
        catalog.apply(&owner(sets));
        let expected = (reason.to_owned(), usize::from(!served), served, served);
        assert_eq!(said(&catalog), expected);
        let changed = catalog.delta(&"byrnie/edge".into()).changed;
        assert_eq!(changed.iter().any(|r| r.key.kind == Kind::ListenerSet), served, "the edge is told");
    }
    let resource = catalog.resource(&Key::new(Kind::HttpRoute, "far", "guest")).unwrap();
    let status = catalog.upstream_status(resource, &|_| None).unwrap();
    assert_eq!(status["parents"][0]["parentRef"]["kind"], "ListenerSet");
    assert_eq!(status["parents"][0]["conditions"][0]["status"], "True");
}
