// SPDX-License-Identifier: Apache-2.0
//! A small mesh to try decisions on: resources in few words, and one proxy with one core. For the
//! tests of this crate alone.

use crate::{Arrival, Compiler, Direction, Effect, Exchange, Node, Plan, Refusal, Role, Shard, Snapshot, Target, Tls};
use byrnie_base::{Instant, Now, Timestamp};
use byrnie_codec::Head;
use byrnie_model::policy::access::{Action, HttpMatch, Mode, PathPattern, Rule as AccessRule, Source};
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::resource::{DefaultAccess, Mesh, Spec};
use byrnie_model::route::{Backend, Destination, Match, Parent, PathMatch, Route, Rule};
use byrnie_model::service::{Locality, PortPair, ServicePort, TargetPort};
use byrnie_model::{Delta, Endpoint, Health, Identity, Key, Kind, Labels, Protocol, Resource, Revision, Service};
use byrnie_model::{ServiceRef, Workload};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn sref(name: &str) -> ServiceRef {
    ServiceRef::from_word(name, "shop")
}

pub(crate) fn identity(account: &str) -> Identity {
    Identity::new("demo.local", "shop", account).unwrap()
}

pub(crate) fn ms(millis: u64) -> Now {
    Now {
        mono: Instant::from_nanos(100_000_000_000) + Duration::from_millis(millis),
        wall: Timestamp::from_millis(millis),
    }
}

pub(crate) fn resource(kind: Kind, namespace: &str, name: &str, spec: Spec) -> Resource {
    let key = Key::new(kind, namespace, name);
    Resource { key, revision: Revision(1), created: Revision(1), labels: Labels::new(), origin: None, spec }
}

pub(crate) fn mesh(default_access: DefaultAccess) -> Resource {
    resource(
        Kind::Mesh,
        "",
        "mesh",
        Spec::Mesh(Mesh { trust_domain: "demo.local".into(), default_access, otlp: None, limits: Box::default() }),
    )
}

/// A service on port 80, served by workloads labelled `app=NAME` on port 8080.
pub(crate) fn service(name: &str, protocol: Protocol) -> Resource {
    let name = sref(name);
    let port = ServicePort { name: "".into(), port: 80, target: TargetPort::Number(8080), protocol, prefixed: false };
    let selector = Labels::from([("app".into(), name.name.clone())]);
    let spec =
        Spec::Service(Service { ports: vec![port], selector, outside: None, publish_not_ready: false, pool: None });
    resource(Kind::Service, &name.namespace, &name.name, spec)
}

pub(crate) fn endpoint(service: &str, workload: &str, last_byte: u8) -> Endpoint {
    let service = sref(service);
    Endpoint {
        identity: Identity::new("demo.local", &service.namespace, &service.name).unwrap(),
        service,
        workload: workload.into(),
        way: None,
        address: SocketAddr::from(([10, 0, 0, last_byte], 7781)),
        ports: vec![PortPair { service: 80, target: 8080 }],
        labels: Labels::new(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
    }
}

pub(crate) fn of_endpoint(endpoint: Endpoint) -> Resource {
    let name = format!("{}/{}", endpoint.service.name, endpoint.workload);
    let namespace = endpoint.service.namespace.clone();
    resource(Kind::Endpoint, &namespace, &name, Spec::Endpoint(Box::new(endpoint)))
}

pub(crate) fn backend(service: &str, weight: u32) -> Backend {
    Backend { to: Destination::new(sref(service), 80), weight, filters: Vec::new() }
}

pub(crate) fn prefix(path: &str) -> Match {
    Match { path: PathMatch::Prefix(path.into()), ..Match::default() }
}

pub(crate) fn rule(matches: Vec<Match>, backends: Vec<Backend>) -> Rule {
    let name = "".into();
    let (timeout, backend_timeout, retry, session) = (None, None, None, None);
    Rule { name, matches, filters: Vec::new(), backends, timeout, backend_timeout, retry, session }
}

pub(crate) fn route(name: &str, parent: &str, rules: Vec<Rule>) -> Resource {
    let parents = vec![Parent::service(sref(parent), None)];
    let spec = Spec::Route(Arc::new(Route { parents, hostnames: Vec::new(), rules }));
    resource(Kind::HttpRoute, "shop", name, spec)
}

pub(crate) fn account(name: &str) -> Source {
    Source::ServiceAccount { namespace: "shop".into(), name: name.into() }
}

pub(crate) fn http(methods: &[&str], paths: &[PathPattern]) -> HttpMatch {
    HttpMatch { methods: methods.iter().map(|m| (*m).into()).collect(), paths: paths.to_vec() }
}

pub(crate) fn access(name: &str, target: &str, action: Action, mode: Mode, rules: Vec<AccessRule>) -> Resource {
    let policy = AccessPolicy { mode, targets: vec![sref(target)], action, rules };
    resource(Kind::AccessPolicy, "shop", name, Spec::Access(Arc::new(policy)))
}

pub(crate) fn traffic(target: &str, policy: TrafficPolicy) -> Resource {
    let policy = TrafficPolicy { targets: vec![sref(target)], ..policy };
    resource(Kind::TrafficPolicy, "shop", target, Spec::Traffic(Arc::new(policy)))
}

/// The workload of the proxy that the tests are about: `web`.
pub(crate) fn own_workload() -> Resource {
    let workload = Workload {
        identity: identity("web"),
        address: [10, 0, 0, 200].into(),
        ports: Vec::new(),
        inbound: None,
        admin: None,
        uses: Vec::new(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
        check: None,
    };
    let mut resource = resource(Kind::Workload, "shop", "web-1", Spec::Workload(Box::new(workload)));
    resource.labels.insert("app".into(), "web".into());
    resource
}

/// One proxy with one core.
pub(crate) struct World {
    pub(crate) compiler: Compiler,
    pub(crate) shard: Shard,
    revision: u64,
}

impl World {
    pub(crate) fn new(resources: Vec<Resource>) -> Self {
        let locality = Locality { region: "eu".into(), zone: "a".into() };
        let node = Node {
            name: "web-1".into(),
            namespace: "shop".into(),
            identity: identity("web"),
            locality,
            role: Role::Sidecar,
        };
        let mut world = Self { compiler: Compiler::new(node), shard: Shard::new(7), revision: 0 };
        assert_eq!(world.put(resources), []);
        world
    }

    /// `payments` with so many endpoints `p1`, `p2`, ...
    pub(crate) fn payments(endpoints: u8) -> Self {
        let mut resources = vec![service("payments", Protocol::Http1)];
        resources.extend((1..=endpoints).map(|n| of_endpoint(endpoint("payments", &format!("p{n}"), n))));
        Self::new(resources)
    }

    pub(crate) fn put(&mut self, resources: Vec<Resource>) -> Vec<Refusal> {
        self.revision += 1;
        let changed = resources.into_iter().map(Arc::new).collect();
        self.compiler.apply(&Delta { changed, removed: Vec::new() }, Revision(self.revision))
    }

    pub(crate) fn remove(&mut self, keys: Vec<Key>) {
        self.revision += 1;
        let refusals = self.compiler.apply(&Delta { changed: Vec::new(), removed: keys }, Revision(self.revision));
        assert_eq!(refusals, []);
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.compiler.snapshot()
    }

    /// Begins a request of the own program to the service that the head's authority names.
    pub(crate) fn begin(&mut self, head: &mut Head, at: Now) -> (Exchange, Effect) {
        let arrival = Arrival {
            direction: Direction::Forward,
            source: None,
            remote: SocketAddr::from(([127, 0, 0, 1], 5555)),
            tls: Tls::None,
        };
        Exchange::begin(&self.snapshot(), &mut self.shard, &arrival, head, at)
    }

    /// Begins a request of another workload to the own program.
    pub(crate) fn begin_inbound(&mut self, from: Option<&Identity>, head: &mut Head, at: Now) -> (Exchange, Effect) {
        let service = sref("web");
        let arrival = Arrival {
            direction: Direction::Inbound { service: &service, port: 80 },
            source: from,
            remote: SocketAddr::from(([10, 0, 0, 9], 5555)),
            tls: Tls::Mutual,
        };
        Exchange::begin(&self.snapshot(), &mut self.shard, &arrival, head, at)
    }
}

/// The head of a request.
pub(crate) fn head(method: &str, url: &str, headers: &[(&str, &str)]) -> Head {
    let (authority, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let mut head = Head::new();
    head.start_request(method, "http", authority, path).unwrap();
    for (name, value) in headers {
        head.append(name, value.as_bytes()).unwrap();
    }
    head
}

/// The head of a response.
pub(crate) fn response(status: u16, headers: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    head.start_response(status);
    for (name, value) in headers {
        head.append(name, value.as_bytes()).unwrap();
    }
    head
}

pub(crate) fn plan(effect: Effect) -> Plan {
    match effect {
        Effect::Send(plan) => plan,
        other => panic!("expected a try, got {other:?}"),
    }
}

pub(crate) fn answer(effect: Effect) -> crate::Answer {
    match effect {
        Effect::Reply(answer) => *answer,
        other => panic!("expected an answer, got {other:?}"),
    }
}

/// The workload that a plan goes to; `program` for the own one.
pub(crate) fn endpoint_of(plan: &Plan) -> String {
    match &plan.target {
        Target::Mesh(hop) => hop.endpoint().to_string(),
        Target::Program { .. } => "program".into(),
    }
}
