// SPDX-License-Identifier: Apache-2.0
//! Pools of inference servers: what stands for them, who their members are, and what is said of them.

use super::*;
use byrnie_model::InferencePool;
use byrnie_model::gateway::{Carries, From, Gateway, Grant, Listener, Referent, Referrer};
use byrnie_model::pool::Picker;
use byrnie_model::route::{ParentKind, Standing};

fn pool(name: &str, ports: &[u16], picker: &str) -> Change {
    let picker = (!picker.is_empty()).then(|| Picker { service: picker.into(), port: 80, fail_open: true });
    let spec = InferencePool { selector: labels("vllm"), ports: ports.to_vec(), protocol: Protocol::Http1, picker };
    put(Kind::InferencePool, name, Labels::new(), Spec::Pool(spec.into()))
}

/// A workload that declares these ports.
fn server(name: &str, ports: &[u16]) -> Change {
    let Change::Put(plain) = workload(name, "vllm", "vllm", &[]) else { panic!() };
    let mut resource = (*plain).clone();
    let Spec::Workload(spec) = &mut resource.spec else { panic!() };
    let port = |port: &u16| WorkloadPort { name: "".into(), port: *port, protocol: Protocol::Http1 };
    spec.ports = ports.iter().map(port).collect();
    Change::Put(Arc::new(resource))
}

/// A route of `namespace` on the gateway `ns/gw`, to the pool `ns/models`.
fn on_gateway(namespace: &str, name: &str) -> Change {
    let Change::Put(plain) = route(name, &[], &[]) else { panic!() };
    let Spec::Route(spec) = &plain.spec else { panic!() };
    let mut spec = (**spec).clone();
    spec.parents = vec![Parent { kind: ParentKind::Gateway, name: at("gw"), section: None, port: None }];
    let standing = if namespace == "ns" { Standing::Granted } else { Standing::Foreign };
    let to = Destination { standing, ..Destination::new(at("models"), 0) };
    spec.rules[0].backends = vec![Backend { to, weight: 1, filters: vec![] }];
    let key = Key::new(Kind::HttpRoute, namespace, name);
    Change::Put(Arc::new(Resource { key, spec: Spec::Route(spec.into()), ..(*plain).clone() }))
}

fn gateway() -> Change {
    let carries = Carries::Http;
    let listener = Listener { name: "l".into(), hostname: None, port: 80, carries, from: From::All, kinds: vec![] };
    let listeners = vec![listener];
    let spec = Gateway { class: "byrnie".into(), listeners, ..Gateway::default() };
    put(Kind::Gateway, "gw", Labels::new(), Spec::Gateway(spec.into()))
}

fn picker() -> Change {
    let Change::Put(plain) = service("epp", "epp") else { panic!() };
    let mut resource = (*plain).clone();
    let Spec::Service(spec) = &mut resource.spec else { panic!() };
    spec.ports.truncate(1);
    spec.ports[0].protocol = Protocol::Grpc;
    Change::Put(Arc::new(resource))
}

fn delete(kind: Kind, name: &str) -> Change {
    Change::Delete { key: key(kind, name), revision: Revision(2) }
}

/// The members of `models`, each with its ports.
fn members(catalog: &Catalog) -> Vec<String> {
    let models = at("models");
    let endpoints = catalog.endpoints(&models).map(|resource| {
        let Spec::Endpoint(endpoint) = &resource.spec else { panic!() };
        let ports: Vec<String> = endpoint.ports.iter().map(|pair| pair.target.to_string()).collect();
        format!("{} {}", endpoint.workload, ports.join(","))
    });
    endpoints.collect()
}

/// What is said of a resource: the codes, in order.
fn codes(catalog: &Catalog, kind: Kind, name: &str) -> Vec<&'static str> {
    catalog.check_one(catalog.resource(&key(kind, name)).unwrap()).iter().map(|found| found.code.id).collect()
}

fn conditions(catalog: &Catalog) -> Vec<String> {
    let resource = catalog.resource(&key(Kind::InferencePool, "models")).unwrap();
    let status = catalog.upstream_status(resource, &|_| None).unwrap();
    let parents = status["parents"].as_array().unwrap().clone();
    let said = parents.iter().flat_map(|parent| {
        let parent_name = parent["parentRef"]["name"].as_str().unwrap().to_owned();
        let each = parent["conditions"].as_array().unwrap().clone();
        each.into_iter().map(move |c| format!("{parent_name} {} {}", c["type"], c["reason"]).replace('"', ""))
    });
    said.collect()
}

#[test]
fn a_pool_is_a_service_of_its_name_whose_members_have_the_ports_that_they_declare() {
    let mut catalog = with(&[pool("models", &[8000, 8001], ""), server("a", &[8000]), server("b", &[8001, 8000, 9])]);
    assert_eq!(members(&catalog), ["a 8000", "b 8000,8001"]);
    catalog.apply(&server("c", &[9]));
    assert_eq!(members(&catalog).len(), 2, "it listens elsewhere");
    catalog.apply(&pool("models", &[8001], ""));
    assert_eq!(members(&catalog), ["b 8001"]);
    assert_eq!(codes(&catalog, Kind::InferencePool, "models"), [""; 0]);
    // Nobody is told of the pool itself; the edge is told of what stands for it.
    let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
    assert!(view.find(&key(Kind::InferencePool, "models")).is_none());
    let Spec::Service(told) = &view.find(&key(Kind::Service, "models")).unwrap().spec else { panic!() };
    assert_eq!(told.pool.as_ref().unwrap().ports, [8001]);
    // A Service that somebody applied takes its place, until it goes.
    catalog.apply(&service("models", "vllm"));
    assert_eq!(codes(&catalog, Kind::InferencePool, "models"), ["BYR-C090"]);
    assert_eq!(members(&catalog).len(), 3);
    catalog.apply(&pool("models", &[8000], ""));
    assert_eq!(members(&catalog).len(), 3);
    catalog.apply(&delete(Kind::Service, "models"));
    assert_eq!(members(&catalog), ["a 8000", "b 8000"]);
    catalog.apply(&delete(Kind::InferencePool, "models"));
    assert_eq!((members(&catalog).len(), catalog.resource(&key(Kind::Service, "models"))), (0, None));
}

#[test]
fn a_pool_says_at_each_parent_whether_it_is_reached_and_its_picker_there() {
    let mut catalog = with(&[gateway(), pool("models", &[8000], "epp"), server("a", &[8000]), on_gateway("ns", "r")]);
    assert_eq!(conditions(&catalog), ["gw Accepted Accepted", "gw ResolvedRefs InvalidExtensionRef"]);
    assert_eq!(codes(&catalog, Kind::InferencePool, "models"), ["BYR-C091"]);
    // On a port for HTTP/1 it can't be asked.
    catalog.apply(&service("epp", "epp"));
    assert_eq!(codes(&catalog, Kind::InferencePool, "models"), ["BYR-C091"]);
    catalog.apply(&picker());
    assert_eq!(conditions(&catalog), ["gw Accepted Accepted", "gw ResolvedRefs ResolvedRefs"]);
    assert_eq!(codes(&catalog, Kind::HttpRoute, "r"), [""; 0]);
    catalog.apply(&delete(Kind::Gateway, "gw"));
    assert_eq!(conditions(&catalog), ["gw Accepted HTTPRouteNotAccepted", "gw ResolvedRefs ResolvedRefs"]);
    catalog.apply(&delete(Kind::HttpRoute, "r"));
    assert_eq!(conditions(&catalog), [""; 0]);
}

#[test]
fn a_pool_of_another_namespace_is_reached_where_it_is_granted_by_its_own_kind() {
    let grant = |group: &str, kind: &str| {
        let from = vec![Referrer {
            group: "gateway.networking.k8s.io".into(),
            kind: "HTTPRoute".into(),
            namespace: "far".into(),
        }];
        let to = vec![Referent { group: group.into(), kind: kind.into(), name: None }];
        put(Kind::ReferenceGrant, "g", Labels::new(), Spec::Grant(Grant { from, to }.into()))
    };
    let mut catalog = with(&[gateway(), pool("models", &[8000], ""), on_gateway("far", "r"), grant("", "Service")]);
    let granted = |catalog: &Catalog| {
        let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
        let Spec::Route(route) = &view.find(&Key::new(Kind::HttpRoute, "far", "r")).unwrap().spec else { panic!() };
        route.destinations().all(|to| to.standing == Standing::Granted)
    };
    assert!(!granted(&catalog));
    catalog.apply(&grant("inference.networking.k8s.io", "InferencePool"));
    assert!(granted(&catalog));
}
