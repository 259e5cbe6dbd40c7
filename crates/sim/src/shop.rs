// SPDX-License-Identifier: Apache-2.0
//! The mesh that is simulated: five workloads of four services and the edge, and the changes that an
//! operator makes to it. Every change keeps to what a careful operator promises: a route names only
//! services that exist, in every revision.

use byrnie_base::{Rng, Text};
use byrnie_catalog::NodeSpec;
use byrnie_control::ingest;
use byrnie_model::policy::access::{Action, HttpMatch, Mode, PathPattern, Rule as AccessRule, Source};
use byrnie_model::policy::traffic::Balance;
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::route::{Backend, Destination, Match, Parent, Rule};
use byrnie_model::service::{Locality, ServicePort, TargetPort};
use byrnie_model::workload::WorkloadPort;
use byrnie_model::{
    Health, Identity, Key, Kind, Protocol, Resource, Revision, Route, Service, ServiceRef, Spec, Workload, yaml,
};
use byrnie_store::{Expect, Txn};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// All resources at one revision.
pub type State = BTreeMap<Key, Arc<Resource>>;

/// The domain of every identity.
pub const TRUST_DOMAIN: &str = "sim";
/// The only namespace with workloads.
pub const NAMESPACE: &str = "default";
/// The port of every service.
pub const PORT: u16 = 80;
/// The port of every program.
pub const PROGRAM_PORT: u16 = 8080;
/// Services that are never deleted.
pub const SERVICES: [&str; 4] = ["web", "cart", "pay", "stock"];
/// Workload, its service, and the services that it uses.
const WORKLOADS: [(&str, &str, &[&str]); 5] = [
    ("web-1", "web", &["cart", "pay"]),
    ("cart-1", "cart", &["stock", "pay"]),
    ("cart-2", "cart", &["stock", "pay"]),
    ("pay-1", "pay", &["stock"]),
    ("stock-1", "stock", &[]),
];
/// Services that come and go, each beside a permanent one with the same endpoints.
const EXTRAS: [(&str, &str); 3] = [("cart-next", "cart"), ("pay-next", "pay"), ("stock-next", "stock")];
/// Access policies that come and go.
const POLICIES: u64 = 6;
/// What stands before a key in the store.
pub const PREFIX: &str = ingest::RESOURCES;

/// One proxy, as it's planned.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its node id.
    pub node: Text,
    /// Who it is.
    pub identity: Identity,
    /// What it may see.
    pub spec: NodeSpec,
    /// What it registers; the edge registers nothing.
    pub workload: Option<Arc<Resource>>,
    /// The service that it serves.
    pub serves: Option<ServiceRef>,
    /// Services that must never vanish from its view.
    pub uses: Vec<ServiceRef>,
}

/// Every proxy.
///
/// # Errors
/// Never: the names above are identities.
pub fn places() -> Result<Vec<Place>, byrnie_model::identity::Error> {
    let mut places = Vec::new();
    for (number, (name, app, uses)) in (1u8..).zip(WORKLOADS) {
        let identity = Identity::new(TRUST_DOMAIN, NAMESPACE, app)?;
        let uses: Vec<ServiceRef> = uses.iter().map(|name| service(name)).collect();
        let workload = workload(number, &identity, &uses);
        let resource = resource(Kind::Workload, name, Spec::Workload(Box::new(workload)));
        places.push(Place {
            node: format!("{NAMESPACE}/{name}").into(),
            identity,
            spec: NodeSpec::sidecar(NAMESPACE, name),
            workload: Some(Arc::new(Resource { labels: app_labels(app), ..resource })),
            serves: Some(service(app)),
            uses,
        });
    }
    places.push(Place {
        node: "byrnie/edge".into(),
        identity: Identity::new(TRUST_DOMAIN, Identity::SYSTEM_NAMESPACE, "edge")?,
        spec: NodeSpec::gateway(Identity::SYSTEM_NAMESPACE, "edge"),
        workload: None,
        serves: None,
        uses: SERVICES.iter().map(|name| service(name)).collect(),
    });
    Ok(places)
}

fn workload(number: u8, identity: &Identity, uses: &[ServiceRef]) -> Workload {
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
    Workload {
        identity: identity.clone(),
        address,
        ports: vec![WorkloadPort { name: "http".into(), port: PROGRAM_PORT, protocol: Protocol::Http1 }],
        inbound: Some(SocketAddr::new(address, 7770)),
        admin: Some(SocketAddr::new(address, 7771)),
        uses: uses.to_vec(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
        check: None,
    }
}

/// The mesh as it is set up.
pub fn first() -> Txn {
    let mesh = Spec::Mesh(Mesh {
        trust_domain: TRUST_DOMAIN.into(),
        default_access: DefaultAccess::Deny,
        otlp: None,
        limits: Box::default(),
    });
    let services = SERVICES.iter().map(|name| service_resource(name, name));
    let all = [resource(Kind::Mesh, "mesh", mesh)].into_iter().chain(services);
    all.fold(Txn::new(), |txn, resource| put(txn, &State::new(), &resource))
}

/// A change that somebody makes who believes that `state` is the newest.
pub fn change(rng: &mut Rng, state: &State) -> Txn {
    match rng.below(10) {
        0..3 => routes(rng, state),
        3..4 => vanish(rng, state),
        4..7 => policy(rng, Txn::new(), state),
        7..9 => (0..2 + rng.below(3)).fold(default_access(rng, Txn::new(), state), |txn, _| policy(rng, txn, state)),
        _ => traffic(rng, state),
    }
}

/// Sends some of a service's requests to services beside it, which come to exist with the same change.
fn routes(rng: &mut Rng, state: &State) -> Txn {
    let mut txn = expect_routing(state);
    let parent = SERVICES[pick(rng, SERVICES.len())];
    let mut backends = vec![parent];
    for (extra, beside) in EXTRAS {
        if !rng.percent(40) {
            continue;
        }
        backends.push(extra);
        if !state.contains_key(&key(Kind::Service, extra)) {
            txn = put(txn, state, &service_resource(extra, beside));
        }
    }
    let weight = |rng: &mut Rng| 1 + u32::try_from(rng.below(5)).unwrap_or(0);
    let backends = backends.iter().map(|name| Backend {
        to: Destination::new(service(name), PORT),
        weight: weight(rng),
        filters: Vec::new(),
    });
    put(txn, state, &route(parent, backends.collect()))
}

/// Removes a service that comes and goes, and all mention of it.
fn vanish(rng: &mut Rng, state: &State) -> Txn {
    let extra = EXTRAS[pick(rng, EXTRAS.len())].0;
    let mut txn = expect_routing(state);
    if !state.contains_key(&key(Kind::Service, extra)) {
        return txn;
    }
    txn = txn.delete(store_key(&key(Kind::Service, extra)));
    for parent in SERVICES {
        let route_key = key(Kind::HttpRoute, parent);
        let Some(Spec::Route(found)) = state.get(&route_key).map(|resource| &resource.spec) else { continue };
        let backends = || found.rules.iter().flat_map(|rule| &rule.backends);
        if !backends().any(|backend| *backend.to.service.name == *extra) {
            continue;
        }
        let kept: Vec<Backend> = backends().filter(|backend| *backend.to.service.name != *extra).cloned().collect();
        txn = put(txn, state, &route(parent, kept));
    }
    txn
}

fn policy(rng: &mut Rng, txn: Txn, state: &State) -> Txn {
    let name = format!("policy-{}", rng.below(POLICIES));
    let at = key(Kind::AccessPolicy, &name);
    if txn.writes.iter().any(|write| *write.key() == *store_key(&at)) {
        return txn;
    }
    if state.contains_key(&at) && rng.percent(35) {
        return expect(txn, state, &at).delete(store_key(&at));
    }
    let sources = (0..rng.below(3)).map(|_| source(rng)).collect();
    let http = if rng.percent(50) { vec![http(rng)] } else { Vec::new() };
    let ports = if rng.percent(20) { vec![PROGRAM_PORT] } else { Vec::new() };
    let policy = AccessPolicy {
        mode: if rng.percent(5) { Mode::Shadow } else { Mode::Enforce },
        targets: if rng.percent(15) { Vec::new() } else { vec![service(SERVICES[pick(rng, SERVICES.len())])] },
        action: if rng.percent(60) { Action::Allow } else { Action::Deny },
        rules: vec![AccessRule { sources, ports, http }],
    };
    put(txn, state, &resource(Kind::AccessPolicy, &name, Spec::Access(Arc::new(policy))))
}

fn source(rng: &mut Rng) -> Source {
    if rng.percent(10) {
        return Source::Namespace(NAMESPACE.into());
    }
    Source::ServiceAccount { namespace: NAMESPACE.into(), name: SERVICES[pick(rng, SERVICES.len())].into() }
}

fn http(rng: &mut Rng) -> HttpMatch {
    let methods = if rng.percent(50) { vec!["GET".into()] } else { Vec::new() };
    let paths = match rng.below(3) {
        0 => vec![PathPattern::Exact("/a".into())],
        1 => vec![PathPattern::Below("/b/".into())],
        _ => Vec::new(),
    };
    HttpMatch { methods, paths }
}

fn default_access(rng: &mut Rng, txn: Txn, state: &State) -> Txn {
    if rng.percent(50) {
        return txn;
    }
    let default_access = if rng.percent(50) { DefaultAccess::Allow } else { DefaultAccess::Deny };
    let mesh =
        Spec::Mesh(Mesh { trust_domain: TRUST_DOMAIN.into(), default_access, otlp: None, limits: Box::default() });
    put(txn, state, &resource(Kind::Mesh, "mesh", mesh))
}

fn traffic(rng: &mut Rng, state: &State) -> Txn {
    let target = SERVICES[pick(rng, SERVICES.len())];
    let balance = [Balance::LeastRequest, Balance::RoundRobin, Balance::Random][pick(rng, 3)];
    let connect_timeout = Some(Duration::from_millis(1 + rng.below(2_000)));
    let policy =
        TrafficPolicy { targets: vec![service(target)], balance: Some(balance), connect_timeout, ..Default::default() };
    put(Txn::new(), state, &resource(Kind::TrafficPolicy, target, Spec::Traffic(Arc::new(policy))))
}

fn route(parent: &str, backends: Vec<Backend>) -> Resource {
    let rule = Rule {
        name: Text::default(),
        matches: vec![Match::default()],
        filters: Vec::new(),
        backends,
        timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    };
    let parents = vec![Parent::service(service(parent), None)];
    let spec = Route { parents, hostnames: Vec::new(), rules: vec![rule] };
    resource(Kind::HttpRoute, parent, Spec::Route(Arc::new(spec)))
}

fn service_resource(name: &str, app: &str) -> Resource {
    let port = ServicePort {
        name: "http".into(),
        port: PORT,
        target: TargetPort::Number(PROGRAM_PORT),
        protocol: Protocol::Http1,
        prefixed: false,
    };
    resource(
        Kind::Service,
        name,
        Spec::Service(Service {
            ports: vec![port],
            selector: app_labels(app),
            outside: None,
            publish_not_ready: false,
            pool: None,
        }),
    )
}

/// Nobody may have changed any route, or any service that comes and goes, since `state`.
fn expect_routing(state: &State) -> Txn {
    let services = EXTRAS.iter().map(|(name, _)| key(Kind::Service, name));
    let routes = SERVICES.iter().map(|name| key(Kind::HttpRoute, name));
    services.chain(routes).fold(Txn::new(), |txn, key| expect(txn, state, &key))
}

fn expect(txn: Txn, state: &State, key: &Key) -> Txn {
    let expect = state.get(key).map_or(Expect::Absent, |resource| Expect::At(resource.revision));
    txn.expect(store_key(key), expect)
}

fn put(txn: Txn, state: &State, resource: &Resource) -> Txn {
    expect(txn, state, &resource.key).put(store_key(&resource.key), document(resource))
}

/// A resource as the store keeps it.
pub fn document(resource: &Resource) -> Vec<u8> {
    yaml::to_json(resource).to_string().into_bytes()
}

/// The name of a resource in the store.
pub fn store_key(key: &Key) -> Text {
    ingest::store_key(key)
}

/// The resource that the store has under this name.
pub fn read(entry: &byrnie_store::Entry) -> Option<Resource> {
    ingest::read(entry, &TRUST_DOMAIN.into()).ok()
}

/// The key that a name in the store stands for.
pub fn parse_key(name: &str) -> Option<Key> {
    ingest::resource_key(name)
}

/// A service of the namespace.
pub fn service(name: &str) -> ServiceRef {
    ServiceRef::new(NAMESPACE, name)
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, if kind.namespaced() { NAMESPACE } else { "" }, name)
}

fn resource(kind: Kind, name: &str, spec: Spec) -> Resource {
    Resource {
        key: key(kind, name),
        revision: Revision(0),
        created: Revision(0),
        labels: BTreeMap::new(),
        origin: None,
        spec,
    }
}

fn app_labels(app: &str) -> byrnie_model::Labels {
    [("app".into(), app.into())].into()
}

fn pick(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.below(count as u64)).unwrap_or(0)
}
