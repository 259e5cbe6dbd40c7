// SPDX-License-Identifier: Apache-2.0
//! From resources to a [`Snapshot`], step by step: a changed resource recompiles the services that it
//! touches and nothing else. Called on the agent's thread with each delta. Refuses what it can't
//! compile, one resource at a time, and keeps the last good one of it in force.

mod far;
mod held;
mod outside;
mod pool;
mod service;
#[cfg(test)]
mod tests;

use crate::authorize::CompiledPolicy;
use crate::cluster::Share;
use crate::outlier::zone::ZoneNumbers;
use crate::quota::Counted;
use crate::route::CompiledRoute;
use crate::shard::label_of;
use crate::slot::{Slot, Slots};
use crate::snapshot::{MeshDefaults, Names, Snapshot, Words};
use crate::{Node, cluster::Member, edge};
use byrnie_base::Text;
use byrnie_model::Secret;
use byrnie_model::gateway::Gateway;
use byrnie_model::outside::Bundle;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::resource::{DefaultAccess, Mesh, Spec};
use byrnie_model::service::Service;
use byrnie_model::{Delta, Endpoint, Key, Kind, Labels, Resource, Revision, ServiceRef, Site, Workload};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Compiles one node's view.
#[derive(Debug)]
pub struct Compiler {
    held: Held,
    slots: ClusterSlots,
    members: Members,
    shares: HashMap<ServiceRef, Arc<Share>>,
    /// What was used of the quotas of a service, together with its parts.
    quotas: HashMap<ServiceRef, Arc<[Counted]>>,
    snapshot: Arc<Snapshot>,
    work: Work,
}

/// A resource that could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub key: Key,
    /// Why, in one sentence. It becomes the resource's status.
    pub reason: String,
}

/// How much was compiled so far: the measure of being incremental.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Services joined with their ports, routes, policies and endpoints.
    pub services: u64,
    /// Routes.
    pub routes: u64,
    /// Access policies.
    pub policies: u64,
}

/// The resources in force, and what depends on what.
#[derive(Debug, Default)]
struct Held {
    mesh: Option<Mesh>,
    own: Option<(Workload, Labels)>,
    services: BTreeMap<ServiceRef, Service>,
    endpoints: BTreeMap<ServiceRef, BTreeMap<byrnie_base::Text, Arc<Member>>>,
    routes: BTreeMap<Key, Arc<CompiledRoute>>,
    /// For the services outside that this node leads to.
    outward: outside::Outward,
    far: far::Far,
    /// For what comes in from outside.
    edge: AtEdge,
    /// Routes by parent.
    by_parent: HashMap<ServiceRef, BTreeSet<Key>>,
    policies: BTreeMap<Key, Arc<CompiledPolicy>>,
    traffic: BTreeMap<Key, Arc<TrafficPolicy>>,
    /// Traffic policies by target.
    by_target: HashMap<ServiceRef, BTreeSet<Key>>,
}

/// What the edge is compiled of, beside routes.
#[derive(Debug, Default)]
struct AtEdge {
    gateways: BTreeMap<Key, (Revision, Arc<Gateway>)>,
    secrets: BTreeMap<Key, Arc<Secret>>,
    bundles: BTreeMap<Key, Arc<Bundle>>,
    /// Other meshes, by name.
    sites: Arc<BTreeMap<byrnie_base::Text, Arc<Site>>>,
    /// What they may reach.
    exports: Arc<BTreeSet<ServiceRef>>,
    /// Whether a gateway, a secret or a route on a gateway has changed since.
    dirty: bool,
}

/// Slots of clusters, counted by who names them: a service's own port, and each backend of a route.
#[derive(Debug, Default)]
struct ClusterSlots {
    slots: Slots,
    by_port: HashMap<(ServiceRef, u16), (Slot, u32)>,
}

/// Slots of endpoints, and numbers of their zones.
#[derive(Debug, Default)]
struct Members {
    slots: Slots,
    zones: ZoneNumbers,
}

impl Compiler {
    /// A compiler that knows nothing yet: its snapshot answers every request with 404.
    pub fn new(node: Node) -> Self {
        let words = Words {
            none: "".into(),
            default: "default".into(),
            unknown: "unknown".into(),
            own: label_of(&node.identity),
        };
        let snapshot = Snapshot {
            revision: Revision::default(),
            node: Arc::new(node),
            mesh: MeshDefaults { default_access: DefaultAccess::Deny, otlp: None, traces: None },
            services: Names::default(),
            clusters: Vec::new(),
            check: None,
            outside: Arc::default(),
            sites: Arc::default(),
            exports: Arc::default(),
            edge: Arc::default(),
            words,
            spent: Arc::default(),
        };
        Self {
            held: Held::default(),
            slots: ClusterSlots::default(),
            members: Members::default(),
            shares: HashMap::new(),
            quotas: HashMap::new(),
            snapshot: Arc::new(snapshot),
            work: Work::default(),
        }
    }

    /// Takes in a delta. What is refused stays as it was.
    pub fn apply(&mut self, delta: &Delta, revision: Revision) -> Vec<Refusal> {
        let mut dirty = BTreeSet::new();
        let mut refusals = Vec::new();
        for resource in &delta.changed {
            if let Err(reason) = self.put(resource, &mut dirty) {
                refusals.push(Refusal { key: resource.key.clone(), reason });
            }
        }
        for key in &delta.removed {
            self.remove(key, &mut dirty);
        }
        self.publish(&dirty, revision);
        refusals
    }

    /// Takes in where a host outside is by now, the address to be asked first at the beginning; none if that isn't known any more.
    /// Whether that is news.
    pub fn locate(&mut self, host: &Text, addresses: Vec<IpAddr>) -> bool {
        let is_news = self.held.far.locate(host, addresses);
        if is_news {
            let at_host = self.held.services.iter().filter(|(_, service)| service.outside.as_ref() == Some(host));
            let dirty = at_host.map(|(name, _)| name.clone()).collect();
            self.publish(&dirty, self.snapshot.revision);
        }
        is_news
    }

    /// The snapshot of what was applied so far.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// How much was compiled so far.
    pub fn work(&self) -> Work {
        self.work
    }

    fn publish(&mut self, dirty: &BTreeSet<ServiceRef>, revision: Revision) {
        let mut snapshot = (*self.snapshot).clone();
        snapshot.revision = revision;
        let mesh = self.held.mesh.as_ref();
        snapshot.mesh.default_access = mesh.map(|mesh| mesh.default_access).unwrap_or_default();
        snapshot.mesh.otlp = mesh.and_then(|mesh| mesh.otlp.clone());
        snapshot.mesh.traces = snapshot.mesh.otlp.as_ref().and_then(|otlp| otlp.traces);
        for service in dirty {
            self.compile_service(service, &mut snapshot);
        }
        self.name_outside(dirty, &mut snapshot);
        snapshot.sites = Arc::clone(&self.held.edge.sites);
        snapshot.exports = Arc::clone(&self.held.edge.exports);
        snapshot.check = self.own_check();
        if std::mem::take(&mut self.held.edge.dirty) {
            let mut gateways: Vec<_> = self.held.edge.gateways.iter().collect();
            gateways.sort_by(|a, b| edge::order((a.1.0, a.0), (b.1.0, b.0)));
            let gateways = gateways.into_iter().map(|(key, (_, gateway))| (key, &**gateway)).collect();
            let (secrets, bundles) = (&self.held.edge.secrets, &self.held.edge.bundles);
            snapshot.edge = Arc::new(edge::Edge::new(&gateways, &self.held.routes, secrets, bundles));
        }
        snapshot.clusters.resize(self.slots.slots.len(), None);
        self.snapshot = Arc::new(snapshot);
    }

    fn put(&mut self, resource: &Resource, dirty: &mut BTreeSet<ServiceRef>) -> Result<(), String> {
        let key = &resource.key;
        match &resource.spec {
            Spec::Mesh(mesh) => {
                // The trust domain is compiled into every access table, and limits into every service.
                let same = |old: &Mesh| (&old.trust_domain, &old.limits) == (&mesh.trust_domain, &mesh.limits);
                let moved = !self.held.mesh.as_ref().is_some_and(same);
                self.held.mesh = Some(mesh.clone());
                if moved {
                    dirty.extend(self.held.services.keys().cloned());
                }
            }
            Spec::Workload(workload) => self.put_workload(key, workload, &resource.labels, dirty),
            Spec::Service(service) => self.put_service(key, service, dirty),
            Spec::Endpoint(endpoint) => self.put_endpoint(endpoint, dirty)?,
            Spec::Route(route) => self.put_route((key, resource.created), route, dirty)?,
            Spec::Access(policy) => self.put_access(key, policy, dirty),
            Spec::Traffic(policy) => self.put_traffic(key, policy, dirty),
            Spec::Gateway(gateway) => {
                self.held.edge.dirty = true;
                self.held.edge.gateways.insert(key.clone(), (resource.created, Arc::clone(gateway)));
            }
            Spec::Secret(secret) => {
                self.held.edge.dirty = true;
                self.held.edge.secrets.insert(key.clone(), Arc::clone(secret));
                dirty.extend(self.held.outward.put_secret(key, Some(Arc::clone(secret))));
            }
            Spec::BackendTls(policy) => {
                dirty.extend(self.held.outward.put_policy(key, Some((resource.created, Arc::clone(policy)))));
            }
            Spec::Slice(slice) => dirty.extend(self.held.far.put(key, Some(Arc::clone(slice)))),
            Spec::Bundle(bundle) => {
                self.held.edge.dirty = true;
                self.held.edge.bundles.insert(key.clone(), Arc::clone(bundle));
                dirty.extend(self.held.outward.put_bundle(key, Some(Arc::clone(bundle))));
            }
            Spec::Site(site) => {
                Arc::make_mut(&mut self.held.edge.sites).insert(key.name.clone(), Arc::clone(site));
                self.touch_served(dirty);
            }
            Spec::Export => {
                Arc::make_mut(&mut self.held.edge.exports).insert(service_of(key));
                dirty.insert(service_of(key));
            }
            Spec::Namespace
            | Spec::GatewayClass(_)
            | Spec::Grant(_)
            | Spec::Saga(_)
            | Spec::Direct(_)
            | Spec::Pool(_) => {}
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key, dirty: &mut BTreeSet<ServiceRef>) {
        match key.kind {
            Kind::Mesh => {
                self.held.mesh = None;
                dirty.extend(self.held.services.keys().cloned());
            }
            Kind::Workload => self.remove_workload(key, dirty),
            Kind::Service => self.remove_service(key, dirty),
            Kind::Endpoint => self.remove_endpoint(key, dirty),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
                self.remove_route(key, dirty);
            }
            Kind::AccessPolicy => self.remove_access(key, dirty),
            Kind::TrafficPolicy => self.remove_traffic(key, dirty),
            Kind::Gateway | Kind::ListenerSet => {
                self.held.edge.dirty = true;
                self.held.edge.gateways.remove(key);
            }
            Kind::Secret => {
                self.held.edge.dirty = true;
                self.held.edge.secrets.remove(key);
                dirty.extend(self.held.outward.put_secret(key, None));
            }
            Kind::BackendTlsPolicy => dirty.extend(self.held.outward.put_policy(key, None)),
            Kind::EndpointSlice => dirty.extend(self.held.far.put(key, None)),
            Kind::ConfigMap => {
                self.held.edge.dirty = true;
                self.held.edge.bundles.remove(key);
                dirty.extend(self.held.outward.put_bundle(key, None));
            }
            Kind::Site => {
                Arc::make_mut(&mut self.held.edge.sites).remove(&key.name);
                self.touch_served(dirty);
            }
            Kind::ServiceExport => {
                Arc::make_mut(&mut self.held.edge.exports).remove(&service_of(key));
                dirty.insert(service_of(key));
            }
            Kind::Namespace
            | Kind::GatewayClass
            | Kind::ReferenceGrant
            | Kind::Saga
            | Kind::HttpRouteFilter
            | Kind::InferencePool => {}
        }
    }

    /// Whether calls leave the mesh by this node.
    fn is_exit(&self) -> bool {
        self.snapshot.node.is_exit()
    }

    fn is_own(&self, key: &Key) -> bool {
        key.name == self.snapshot.node.name && key.namespace == self.snapshot.node.namespace
    }
}

impl ClusterSlots {
    /// The slot of a service port, for one more holder.
    fn hold(&mut self, service: &ServiceRef, port: u16) -> Slot {
        let entry = self.by_port.entry((service.clone(), port)).or_insert_with(|| (self.slots.take(), 0));
        entry.1 += 1;
        entry.0
    }

    /// One holder less.
    fn let_go(&mut self, service: &ServiceRef, port: u16) {
        let key = (service.clone(), port);
        let Some(entry) = self.by_port.get_mut(&key) else { return };
        entry.1 = entry.1.saturating_sub(1);
        if entry.1 == 0 {
            self.slots.give_back(entry.0);
            self.by_port.remove(&key);
        }
    }

    /// The slot of a service port that somebody holds.
    fn find(&self, service: &ServiceRef, port: u16) -> Option<Slot> {
        self.by_port.get(&(service.clone(), port)).map(|(slot, _)| *slot)
    }
}

/// The service and workload that an Endpoint's key names: `SERVICE/WORKLOAD` is its name.
fn endpoint_key(key: &Key) -> Option<(ServiceRef, &str)> {
    let (service, workload) = key.name.split_once('/')?;
    Some((ServiceRef::new(key.namespace.clone(), service), workload))
}

/// The service of which a resource has the name.
fn service_of(key: &Key) -> ServiceRef {
    ServiceRef::new(key.namespace.clone(), key.name.clone())
}

/// Why an endpoint can't be used.
fn check_endpoint(endpoint: &Endpoint) -> Result<(), String> {
    if endpoint.address.port() == 0 || endpoint.address.ip().is_unspecified() {
        return Err(format!("the address {} can't be connected to", endpoint.address));
    }
    Ok(())
}
