// SPDX-License-Identifier: Apache-2.0
//! What each node is told, step by step.

use super::attach::secret;
use super::*;
use byrnie_model::route::{Direct, DirectResponse, RouteFilter};

/// A shop: `web` may call `pay`, which splits to `pay1` and `pay2`.
fn shop() -> Vec<Change> {
    vec![
        service("web", "web"),
        service("pay", "pay"),
        service("pay1", "one"),
        service("pay2", "two"),
        workload("web-1", "web", "web", &["pay"]),
        workload("one-1", "one", "pay", &[]),
        workload("two-1", "two", "pay", &[]),
        route("split", &["pay"], &["pay1", "pay2"]),
        allow("pay", &["pay1", "pay2"], &["web"]),
        traffic("pay1", "pay1"),
    ]
}

#[test]
fn a_sidecar_sees_what_it_uses_and_what_lies_behind() {
    let mut catalog = with(&shop());
    catalog.join("ns/web-1".into(), sidecar("web-1"));
    assert_eq!(
        told(&catalog.delta(&"ns/web-1".into())),
        [
            "+Workload/ns/web-1",
            "+Service/ns/pay",
            "+Service/ns/pay1",
            "+Service/ns/pay2",
            "+Service/ns/web",
            "+Endpoint/ns/pay1/one-1",
            "+Endpoint/ns/pay2/two-1",
            "+TrafficPolicy/ns/pay1",
            "+HTTPRoute/ns/split",
        ]
    );
    catalog.join("ns/one-1".into(), sidecar("one-1"));
    assert_eq!(
        told(&catalog.delta(&"ns/one-1".into())),
        ["+Workload/ns/one-1", "+AccessPolicy/ns/pay", "+Service/ns/pay1"]
    );
}

#[test]
fn the_edge_sees_all_but_access() {
    let mut catalog = with(&shop());
    catalog.join("byrnie/edge".into(), NodeSpec::gateway("byrnie", "edge"));
    let told = told(&catalog.delta(&"byrnie/edge".into()));
    assert!(!told.iter().any(|line| line.contains("AccessPolicy") || line.contains("Workload")), "{told:?}");
    assert_eq!(told.len(), 4 + 3 + 1 + 1);
}

#[test]
fn what_a_route_answers_by_itself_comes_with_the_route() {
    let name = "closed";
    let Change::Put(plain) = route("split", &["pay"], &[]) else { unreachable!() };
    let mut answers = (*plain).clone();
    if let Spec::Route(route) = &mut answers.spec {
        Arc::make_mut(route).rules[0].filters =
            vec![RouteFilter::Direct(Direct { filter: name.into(), response: None })];
    }
    let mut changes = shop();
    changes.extend([Change::Put(Arc::new(answers)), workload("far-1", "far", "far", &[])]);
    let mut catalog = with(&changes);
    let nodes = [("ns/web-1", sidecar("web-1")), ("byrnie/edge", NodeSpec::gateway("byrnie", "edge"))];
    for (id, spec) in nodes.iter().chain(&[("ns/far-1", sidecar("far-1"))]) {
        catalog.join((*id).into(), spec.clone());
        catalog.delta(&(*id).into());
    }
    let filter = |status, revision| {
        let says = DirectResponse { status, content_type: None, body: "".into() };
        let Change::Put(mut put) = put(Kind::HttpRouteFilter, name, Labels::new(), Spec::Direct(says.into())) else {
            unreachable!()
        };
        Arc::make_mut(&mut put).revision = Revision(revision);
        Change::Put(put)
    };
    let gone = Change::Delete { key: key(Kind::HttpRouteFilter, name), revision: Revision(9) };
    let mut seen = Vec::new();
    for (change, expected) in [(filter(503, 7), Some(503)), (filter(410, 8), Some(410)), (gone, None)] {
        let affected = catalog.apply(&change).nodes;
        assert_eq!(affected.len(), 2, "those alone that have the route: {affected:?}");
        for (id, spec) in &nodes {
            let delta = catalog.delta(&(*id).into());
            assert_eq!(told(&delta), ["+HTTPRoute/ns/split"], "{id}");
            let Spec::Route(route) = &delta.changed[0].spec else { unreachable!() };
            let says = route.answers().next().unwrap().response.as_ref().map(|says| says.status);
            assert_eq!(says, expected, "{id}");
            assert_eq!(catalog.view(spec).find(&delta.changed[0].key).unwrap().spec, delta.changed[0].spec);
            seen.push((*id, delta.changed[0].revision));
        }
    }
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), all, "a proxy is told again only of what has another version");
}

/// Applies one change to the shop and says what `web-1` is told.
fn then(changes: &[Change]) -> Vec<String> {
    let mut catalog = with(&shop());
    catalog.join("ns/web-1".into(), sidecar("web-1"));
    catalog.delta(&"ns/web-1".into());
    for change in changes {
        catalog.apply(change);
    }
    told(&catalog.delta(&"ns/web-1".into()))
}

#[test]
fn changes_reach_those_concerned() {
    for (name, changes, expected) in [
        ("an instance more", vec![workload("one-2", "one", "pay", &[])], vec!["+Endpoint/ns/pay1/one-2"]),
        ("an instance gone", vec![delete(Kind::Workload, "one-1")], vec!["-Endpoint/ns/pay1/one-1"]),
        (
            "an instance of another identity",
            vec![workload("one-2", "one", "other", &[])],
            vec!["+Endpoint/ns/pay1/one-2"],
        ),
        (
            "a selector that fits others",
            vec![service("pay1", "two")],
            vec!["+Service/ns/pay1", "+Endpoint/ns/pay1/two-1", "-Endpoint/ns/pay1/one-1"],
        ),
        (
            "a route that leads elsewhere",
            vec![route("split", &["pay"], &["pay2", "web"])],
            vec![
                "+Endpoint/ns/web/web-1",
                "+HTTPRoute/ns/split",
                "-TrafficPolicy/ns/pay1",
                "-Endpoint/ns/pay1/one-1",
                "-Service/ns/pay1",
            ],
        ),
        ("a policy of no concern", vec![allow("x", &["web"], &["other"])], vec!["+AccessPolicy/ns/x"]),
        ("a service of no concern", vec![service("x", "x"), workload("x-1", "x", "x", &[])], vec![]),
        ("the same again", shop(), vec![]),
        ("gone and back", vec![delete(Kind::Service, "pay2"), service("pay2", "two")], vec![]),
    ] {
        let allowed_once = [allow("pay", &["none"], &["web"])];
        let _ = allowed_once;
        let told = then(&changes);
        // `web` may call pay1 and pay2 by policy, so they stay unless the policy goes too.
        let mut without_grant = vec![delete(Kind::AccessPolicy, "pay")];
        without_grant.extend(changes.clone());
        let told = if name.contains("elsewhere") { then(&without_grant) } else { told };
        assert_eq!(told, expected, "{name}");
    }
}

#[test]
fn a_grant_shows_a_service_and_its_end_hides_it() {
    let mut catalog = with(&shop());
    catalog.join("ns/one-1".into(), sidecar("one-1"));
    catalog.delta(&"ns/one-1".into());
    catalog.apply(&allow("web", &["web"], &["pay"]));
    assert_eq!(told(&catalog.delta(&"ns/one-1".into())), ["+Service/ns/web", "+Endpoint/ns/web/web-1"]);
    catalog.apply(&delete(Kind::AccessPolicy, "web"));
    assert_eq!(told(&catalog.delta(&"ns/one-1".into())), ["-Endpoint/ns/web/web-1", "-Service/ns/web"]);
}

#[test]
fn a_refusal_is_told_before_a_permission_and_both_before_the_service() {
    let mut catalog = with(&shop());
    catalog.apply(&access("a-deny", Action::Deny, &["pay1"], vec![]));
    catalog.join("ns/one-1".into(), sidecar("one-1"));
    assert_eq!(
        told(&catalog.delta(&"ns/one-1".into())),
        ["+Workload/ns/one-1", "+AccessPolicy/ns/a-deny", "+AccessPolicy/ns/pay", "+Service/ns/pay1"]
    );
}

#[test]
fn a_node_without_workload_is_told_of_the_mesh_alone() {
    let mut catalog = with(&shop());
    catalog.join("ns/ghost".into(), sidecar("ghost"));
    assert!(catalog.delta(&"ns/ghost".into()).is_empty());
    catalog.apply(&workload("ghost", "web", "ghost", &[]));
    assert_eq!(told(&catalog.delta(&"ns/ghost".into())), ["+Workload/ns/ghost", "+Service/ns/web"]);
}

#[test]
fn endpoints_cannot_be_written() {
    let mut catalog = with(&shop());
    let endpoint = catalog.endpoints(&at("pay1")).next().unwrap().clone();
    catalog.apply(&Change::Delete { key: endpoint.key.clone(), revision: Revision(9) });
    assert!(catalog.resource(&endpoint.key).is_some());
    assert!(catalog.apply(&Change::Put(endpoint)).nodes.is_empty());
}

#[test]
fn a_consumers_route_is_seen_by_its_own_namespace_alone() {
    let mut catalog = Catalog::new();
    let mut elsewhere = |change: Change, namespace: &str| {
        let Change::Put(resource) = change else { panic!() };
        let mut moved = (*resource).clone();
        moved.key.namespace = namespace.into();
        catalog.apply(&Change::Put(Arc::new(moved)));
    };
    for (namespace, name) in [("ns", "caller"), ("other", "stranger")] {
        elsewhere(workload(name, name, name, &["payments"]), namespace);
    }
    for name in ["payments", "hidden"] {
        elsewhere(service(name, name), "ns");
    }
    // The parent is `payments.ns`, the backend `hidden.ns`, the route another namespace's.
    elsewhere(route("consumer", &["payments"], &["hidden"]), "other");
    let sees = |namespace: &str, name: &str| {
        let view = catalog.view(&NodeSpec::sidecar(namespace, name));
        let has = |kind, namespace: &str, name: &str| view.find(&Key::new(kind, namespace, name)).is_some();
        (has(Kind::HttpRoute, "other", "consumer"), has(Kind::Service, "ns", "hidden"))
    };
    assert_eq!(sees("ns", "caller"), (false, false));
    assert_eq!(sees("other", "stranger"), (true, true));
}

#[test]
fn hosts_outside_are_reached_by_the_exit_which_alone_knows_whom_to_trust() {
    let mut catalog = with(&[outside("bank"), exit(), allow("bank", &["bank"], &["web"])]);
    for change in
        [workload("web-1", "web", "web", &[]), backend_tls("tls", "bank", "ca"), bundle("ca"), bundle("other")]
    {
        catalog.apply(&change);
    }
    catalog.join("ns/web-1".into(), sidecar("web-1"));
    assert_eq!(
        told(&catalog.delta(&"ns/web-1".into())),
        ["+Workload/ns/web-1", "+Service/ns/bank", "+Endpoint/ns/bank/out"]
    );
    catalog.join("byrnie/out".into(), NodeSpec::sidecar("byrnie", "out"));
    let first = told(&catalog.delta(&"byrnie/out".into()));
    for key in ["AccessPolicy/ns/bank", "Service/ns/bank", "BackendTLSPolicy/ns/tls", "ConfigMap/ns/ca"] {
        assert!(first.contains(&format!("+{key}")), "{key} in {first:?}");
    }
    assert!(!first.contains(&"+ConfigMap/ns/other".to_owned()), "only what a policy names: {first:?}");
    catalog.apply(&backend_tls("tls", "bank", "other"));
    assert_eq!(
        told(&catalog.delta(&"byrnie/out".into())),
        ["+ConfigMap/ns/other", "+BackendTLSPolicy/ns/tls", "-ConfigMap/ns/ca"]
    );
    // A key is sent to the exit alone, and only while a policy says that its certificate is shown.
    catalog.join("byrnie/edge".into(), NodeSpec::gateway("byrnie", "edge"));
    catalog.delta(&"byrnie/edge".into());
    for name in ["own", "spare"] {
        catalog.apply(&secret("ns", name));
        catalog.apply(&secret("else", name));
    }
    assert!(catalog.delta(&"byrnie/out".into()).is_empty());
    catalog.apply(&showing("own", backend_tls("tls", "bank", "other")));
    assert_eq!(told(&catalog.delta(&"byrnie/out".into())), ["+Secret/ns/own", "+BackendTLSPolicy/ns/tls"]);
    assert!(catalog.delta(&"ns/web-1".into()).is_empty() && catalog.delta(&"byrnie/edge".into()).is_empty());
    catalog.apply(&showing("spare", backend_tls("tls", "bank", "other")));
    assert_eq!(
        told(&catalog.delta(&"byrnie/out".into())),
        ["+Secret/ns/spare", "+BackendTLSPolicy/ns/tls", "-Secret/ns/own"]
    );
    catalog.apply(&delete(Kind::Secret, "spare"));
    assert_eq!(told(&catalog.delta(&"byrnie/out".into())), ["-Secret/ns/spare"]);
    // A policy of the service reaches the exit, where it's enforced.
    catalog.apply(&access("no", Action::Deny, &["bank"], Vec::new()));
    assert_eq!(told(&catalog.delta(&"byrnie/out".into())), ["+AccessPolicy/ns/no"]);
    assert!(catalog.delta(&"ns/web-1".into()).is_empty());
}

#[test]
fn the_exit_alone_is_told_where_slices_say_a_service_is() {
    let mut catalog = with(&[service("db", ""), exit(), allow("db", &["db"], &["web"]), slice("db-1", "db")]);
    for change in [workload("web-1", "web", "web", &[]), slice("of-others", "web"), traffic("t", "db")] {
        catalog.apply(&change);
    }
    catalog.join("ns/web-1".into(), sidecar("web-1"));
    catalog.join("byrnie/out".into(), NodeSpec::sidecar("byrnie", "out"));
    let caller = told(&catalog.delta(&"ns/web-1".into()));
    assert_eq!(
        caller,
        ["+Workload/ns/web-1", "+Service/ns/db", "+Endpoint/ns/db/out", "+TrafficPolicy/ns/t"],
        "to callers the exit serves it"
    );
    let first = told(&catalog.delta(&"byrnie/out".into()));
    for key in ["EndpointSlice/ns/db-1", "Service/ns/db", "AccessPolicy/ns/db", "TrafficPolicy/ns/t"] {
        assert!(first.contains(&format!("+{key}")), "{key} in {first:?}");
    }
    assert!(!first.contains(&"+EndpointSlice/ns/of-others".to_owned()), "{first:?}");
    // Once it selects workloads, slices say nothing of it.
    catalog.apply(&service("db", "db"));
    assert_eq!(told(&catalog.delta(&"ns/web-1".into())), ["+Service/ns/db", "-Endpoint/ns/db/out"]);
    let gone = told(&catalog.delta(&"byrnie/out".into()));
    assert!(
        gone.contains(&"-EndpointSlice/ns/db-1".to_owned()) && gone.contains(&"-Service/ns/db".to_owned()),
        "{gone:?}"
    );
    catalog.apply(&service("db", ""));
    assert!(told(&catalog.delta(&"byrnie/out".into())).contains(&"+EndpointSlice/ns/db-1".to_owned()));
    catalog.apply(&delete(Kind::EndpointSlice, "db-1"));
    assert_eq!(told(&catalog.delta(&"ns/web-1".into())), ["+Service/ns/db"], "the endpoint came and went");
    assert!(told(&catalog.delta(&"byrnie/out".into())).contains(&"-Service/ns/db".to_owned()));
}

#[test]
fn another_site_is_known_to_those_who_call_it_and_those_it_calls() {
    let mut catalog = with(&shop());
    for name in ["web-1", "one-1"] {
        catalog.join(format!("ns/{name}").into(), sidecar(name));
        catalog.delta(&format!("ns/{name}").into());
    }
    let mut then = |change: Change| {
        catalog.apply(&change);
        let mut tell = |node: &str| told(&catalog.delta(&node.into()));
        (tell("ns/web-1"), tell("ns/one-1"))
    };
    // The site serves `pay1`, which lies behind what `web` calls: four ways there, and whose word counts.
    let (caller, callee) = then(site("east", &["pay1"], 1));
    let ways = (0..4).map(|n| format!("+Endpoint/ns/pay1/east.{n}"));
    assert_eq!(caller, std::iter::once("+Site/east".to_owned()).chain(ways).collect::<Vec<_>>());
    assert!(callee.is_empty(), "{callee:?}");
    // Once it may be called from there, it's told who vouches for those who call.
    assert_eq!(then(export("pay1")), (vec![], vec!["+Site/east".to_owned(), "+ServiceExport/ns/pay1".to_owned()]));
    // A second gateway is four more ways.
    let (caller, callee) = then(site("east", &["pay1"], 2));
    assert_eq!((caller.len(), callee), (5, vec!["+Site/east".to_owned()]));
    assert_eq!(
        then(delete(Kind::ServiceExport, "pay1")),
        (vec![], vec!["-ServiceExport/ns/pay1".to_owned(), "-Site/east".to_owned()])
    );
    let (caller, _) = then(no_site("east"));
    assert_eq!(caller.len(), 9, "{caller:?}");
    assert!(caller.iter().all(|line| line.starts_with('-')), "{caller:?}");
}

#[test]
fn a_forwarder_is_told_the_names_of_what_it_may_not_call() {
    let mut catalog = with(&shop());
    let id: crate::NodeId = "ns/one-1".into();
    catalog.join(id.clone(), sidecar("one-1").forwarding(true));
    let bare = |delta: &Delta| -> Vec<String> {
        let services = delta.changed.iter().filter(|r| matches!(&r.spec, Spec::Service(s) if s.is_bare()));
        services.map(|r| r.key.name.to_string()).collect()
    };
    // Its own is told in full, as it serves it; endpoints and routes aren't.
    let first = catalog.delta(&id);
    assert_eq!(bare(&first), ["pay", "pay2", "web"]);
    assert_eq!(told(&first).len(), 6, "{:?}", told(&first));
    // What changes about a service whose name alone is known is no news; that it comes and goes is.
    assert!(catalog.apply(&service("web", "other")).nodes.is_empty());
    for (change, line) in
        [(service("new", "new"), "+Service/ns/new"), (delete(Kind::Service, "new"), "-Service/ns/new")]
    {
        catalog.apply(&change);
        assert_eq!(told(&catalog.delta(&id)), [line]);
    }
    // Who may call it is told all of it, and the name alone again when that's over.
    catalog.apply(&allow("late", &["pay2"], &["pay"]));
    let delta = catalog.delta(&id);
    assert!(
        bare(&delta).is_empty() && told(&delta).contains(&"+Endpoint/ns/pay2/two-1".to_owned()),
        "{:?}",
        told(&delta)
    );
    catalog.apply(&delete(Kind::AccessPolicy, "late"));
    let delta = catalog.delta(&id);
    assert_eq!((bare(&delta), delta.removed.len()), (vec!["pay2".to_owned()], 1), "{:?}", told(&delta));
    // Whoever is asked by no name is told none.
    catalog.join(id.clone(), sidecar("one-1"));
    assert!(bare(&catalog.delta(&id)).is_empty());
}
