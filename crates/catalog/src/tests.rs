// SPDX-License-Identifier: Apache-2.0
//! The catalog as its users see it: what each node is told, and how much work that was.

mod attach;
mod callers;
mod naive;
mod pools;
mod random;
mod status;
mod views;
mod work;

use crate::{Catalog, NodeSpec};
use byrnie_model::outside::{BackendTls, Bundle, Target, Trust};
use byrnie_model::policy::access::{Action, Mode, Rule, Source};
use byrnie_model::policy::health::{Check, HealthCheck};
use byrnie_model::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};
use byrnie_model::policy::traffic::Choice;
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::route::{Backend, Destination, Match, Parent, Rule as RouteRule};
use byrnie_model::service::{Health, Locality, ServicePort, TargetPort};
use byrnie_model::site::Import;
use byrnie_model::slice::{Address, Slice, SlicePort};
use byrnie_model::workload::WorkloadPort;
use byrnie_model::{
    Change, Delta, Identity, Key, Kind, Labels, Protocol, Resource, Revision, Route, Service, ServiceRef, Site, Spec,
    Workload,
};
use std::net::SocketAddr;
use std::sync::Arc;

fn at(name: &str) -> ServiceRef {
    ServiceRef::new("ns", name)
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, "ns", name)
}

fn labels(app: &str) -> Labels {
    if app.is_empty() { Labels::new() } else { [("app".into(), app.into())].into() }
}

fn put(kind: Kind, name: &str, labels: Labels, spec: Spec) -> Change {
    let revision = Revision(1);
    Change::Put(Arc::new(Resource { key: key(kind, name), revision, created: Revision(0), labels, origin: None, spec }))
}

fn service(name: &str, selects: &str) -> Change {
    let port =
        |port: u16, target| ServicePort { name: "".into(), port, target, protocol: Protocol::Http1, prefixed: false };
    let ports = vec![port(80, TargetPort::Number(8080)), port(81, TargetPort::Name("extra".into()))];
    put(
        Kind::Service,
        name,
        Labels::new(),
        Spec::Service(Service {
            ports,
            selector: labels(selects),
            outside: None,
            publish_not_ready: false,
            pool: None,
        }),
    )
}

/// A service outside the mesh.
fn outside(name: &str) -> Change {
    let Change::Put(inside) = service(name, "") else { unreachable!() };
    let mut resource = (*inside).clone();
    if let Spec::Service(service) = &mut resource.spec {
        service.ports.truncate(1);
        service.outside = Some("api.test".into());
    }
    Change::Put(Arc::new(resource))
}

/// Addresses that serve a service, if it selects nothing.
fn slice(name: &str, service: &str) -> Change {
    let address = Address {
        ip: [192, 0, 2, 1].into(),
        health: Health::Healthy,
        locality: Locality::default(),
        zones: Vec::new(),
    };
    let ports = vec![SlicePort { name: "".into(), port: 8080 }];
    let spec = Slice { service: service.into(), ports, endpoints: vec![address] };
    put(Kind::EndpointSlice, name, Labels::new(), Spec::Slice(spec.into()))
}

/// The workload by which calls leave the mesh.
fn exit() -> Change {
    let Change::Put(plain) = workload("out", "", "p", &[]) else { unreachable!() };
    let mut resource = (*plain).clone();
    resource.key = Key::new(Kind::Workload, "byrnie", "out");
    if let Spec::Workload(workload) = &mut resource.spec {
        workload.identity = Identity::new("mesh.local", "byrnie", "egress").unwrap();
    }
    Change::Put(Arc::new(resource))
}

/// A policy that trusts the system, or the authorities of one ConfigMap.
fn backend_tls(name: &str, target: &str, bundle: &str) -> Change {
    let trust = if bundle.is_empty() { Trust::System } else { Trust::Bundles(vec![bundle.into()]) };
    let targets = vec![Target { service: at(target), section: None }];
    let policy = BackendTls { targets, hostname: "api.test".into(), names: Vec::new(), trust, certificate: None };
    put(Kind::BackendTlsPolicy, name, Labels::new(), Spec::BackendTls(policy.into()))
}

/// The same policy, by which hosts are shown the certificate of a Secret.
fn showing(secret: &str, policy: Change) -> Change {
    let Change::Put(resource) = policy else { panic!() };
    let Spec::BackendTls(spec) = &resource.spec else { panic!() };
    let spec = BackendTls { certificate: Some(secret.into()), ..(**spec).clone() };
    Change::Put(Arc::new(Resource { spec: Spec::BackendTls(spec.into()), ..(*resource).clone() }))
}

fn bundle(name: &str) -> Change {
    put(Kind::ConfigMap, name, Labels::new(), Spec::Bundle(Bundle { pem: "PEM".into() }.into()))
}

fn site(name: &str, serves: &[&str], gateways: u8) -> Change {
    let import = |service: &&str| Import {
        service: at(service),
        identity: Identity::new(&format!("{name}.test"), "ns", service).unwrap(),
    };
    let site = Site {
        trust_domain: format!("{name}.test").into(),
        authorities: "PEM".into(),
        gateways: (1..=gateways).map(|last| SocketAddr::from(([192, 0, 2, last], 7790))).collect(),
        services: serves.iter().map(import).collect(),
    };
    let Change::Put(mut put) = put(Kind::Site, name, Labels::new(), Spec::Site(site.into())) else { unreachable!() };
    Arc::make_mut(&mut put).key.namespace = "".into();
    Change::Put(put)
}

fn no_site(name: &str) -> Change {
    Change::Delete { key: Key::new(Kind::Site, "", name), revision: Revision(2) }
}

fn export(name: &str) -> Change {
    put(Kind::ServiceExport, name, Labels::new(), Spec::Export)
}

fn workload(name: &str, app: &str, account: &str, uses: &[&str]) -> Change {
    let workload = Workload {
        identity: Identity::new("mesh.local", "ns", account).unwrap(),
        address: [127, 0, 0, 1].into(),
        ports: vec![WorkloadPort { name: "extra".into(), port: 9090, protocol: Protocol::Http1 }],
        inbound: Some(([127, 0, 0, 1], 7781).into()),
        admin: None,
        uses: uses.iter().map(|name| at(name)).collect(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
        check: None,
    };
    put(Kind::Workload, name, labels(app), Spec::Workload(Box::new(workload)))
}

fn route(name: &str, parents: &[&str], backends: &[&str]) -> Change {
    let backend = |name: &&str| Backend { to: Destination::new(at(name), 80), weight: 1, filters: vec![] };
    let rule = RouteRule {
        name: "".into(),
        matches: vec![Match::default()],
        filters: vec![],
        backends: backends.iter().map(backend).collect(),
        timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    };
    let parents = parents.iter().map(|name| Parent::service(at(name), None)).collect();
    let route = Route { parents, hostnames: vec![], rules: vec![rule] };
    put(Kind::HttpRoute, name, Labels::new(), Spec::Route(route.into()))
}

fn access(name: &str, action: Action, targets: &[&str], sources: Vec<Source>) -> Change {
    let rules = vec![Rule { sources, ..Rule::default() }];
    let targets = targets.iter().map(|name| at(name)).collect();
    let policy = AccessPolicy { mode: Mode::Enforce, targets, action, rules };
    put(Kind::AccessPolicy, name, Labels::new(), Spec::Access(policy.into()))
}

fn allow(name: &str, targets: &[&str], accounts: &[&str]) -> Change {
    let source = |name: &&str| Source::ServiceAccount { namespace: "ns".into(), name: (*name).into() };
    access(name, Action::Allow, targets, accounts.iter().map(source).collect())
}

fn traffic(name: &str, target: &str) -> Change {
    traffic_of(name, target, None)
}

/// One that says how keyed requests are protected too.
fn keyed(name: &str, target: &str) -> Change {
    let idempotency = Idempotency {
        mode: KeyMode::Optional,
        guarantee: Guarantee::G1,
        key_ttl: Idempotency::KEY_TTL,
        lease: Idempotency::LEASE,
        on_ambiguous: OnAmbiguous::Hold,
        on_server_error: OnServerError::Ambiguous,
        mint_keys: false,
        status_only: false,
        enlist: Vec::new(),
    };
    traffic_of(name, target, Some(idempotency))
}

/// One that says how instances are checked.
fn checked(name: &str, target: &str) -> Change {
    let health = HealthCheck {
        how: Check::Tcp,
        port: None,
        interval: HealthCheck::INTERVAL,
        timeout: HealthCheck::TIMEOUT,
        sick_after: HealthCheck::SICK_AFTER,
        well_after: HealthCheck::WELL_AFTER,
    };
    let endpoints = Choice { health_check: Some(health), ..Choice::default() };
    let policy = TrafficPolicy { targets: vec![at(target)], endpoints: Some(endpoints), ..TrafficPolicy::default() };
    put(Kind::TrafficPolicy, name, Labels::new(), Spec::Traffic(policy.into()))
}

fn traffic_of(name: &str, target: &str, idempotency: Option<Idempotency>) -> Change {
    let policy = TrafficPolicy { targets: vec![at(target)], idempotency, ..TrafficPolicy::default() };
    put(Kind::TrafficPolicy, name, Labels::new(), Spec::Traffic(policy.into()))
}

fn delete(kind: Kind, name: &str) -> Change {
    Change::Delete { key: key(kind, name), revision: Revision(2) }
}

fn sidecar(name: &str) -> NodeSpec {
    NodeSpec::sidecar("ns", name)
}

/// `+` and the key of each change, then `-` and the key of each removal.
fn told(delta: &Delta) -> Vec<String> {
    let changed = delta.changed.iter().map(|r| format!("+{}", r.key));
    changed.chain(delta.removed.iter().map(|key| format!("-{key}"))).collect()
}

fn with(changes: &[Change]) -> Catalog {
    let mut catalog = Catalog::new();
    for change in changes {
        catalog.apply(change);
    }
    catalog
}
