// SPDX-License-Identifier: Apache-2.0
//! What one change touches: updates the indexes and marks, for each node concerned, the keys that may
//! differ for it. Marks may be too many, never too few: `Catalog::delta` looks at each again.

use crate::catalog::{Catalog, same};
use crate::index::policy::{Caller, callers};
use crate::index::route::{backends, parents};
use crate::index::{service, site, workload};
use crate::node::{NodeId, Place};
use crate::view::{bundles, certificate, endpoint_key, export_key, service_key, way_key, workload_key};
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::{Endpoint, Key, Kind, Resource, Revision, Route, Service, ServiceRef, Site, Spec, Workload};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is being done, and how much of it was.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) visited: u64,
    pub(crate) marks: BTreeMap<NodeId, BTreeSet<Key>>,
}

impl Work {
    fn mark<'a>(&mut self, nodes: impl IntoIterator<Item = &'a NodeId>, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        for id in nodes {
            self.visited += keys.len() as u64;
            self.marks.entry(id.clone()).or_default().extend(keys.iter().cloned());
        }
    }
}

impl Catalog {
    pub(crate) fn relate(&mut self, key: &Key, old: Option<&Resource>, new: Option<&Resource>, work: &mut Work) {
        match key.kind {
            Kind::Service => self.relate_service(key, old, new, work),
            Kind::Workload => self.relate_workload(key, old, new, work),
            Kind::EndpointSlice => self.relate_slice(key, [old, new], work),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
                self.relate_route(key, old.and_then(route), new.and_then(route), work)
            }
            Kind::HttpRouteFilter => self.relate_filter(key, work),
            Kind::AccessPolicy => self.relate_access(key, old.and_then(access), new.and_then(access), work),
            Kind::TrafficPolicy => self.relate_traffic(key, old.and_then(traffic), new.and_then(traffic), work),
            Kind::Mesh => work.mark(self.nodes.by_id.keys(), std::slice::from_ref(key)),
            // Who may attach where, and refer to what, is decided anew for each route on a gateway: there
            // are few, and these change seldom.
            Kind::Gateway | Kind::ListenerSet | Kind::GatewayClass | Kind::ReferenceGrant | Kind::Namespace => {
                self.relate_edge(key, work)
            }
            Kind::Secret | Kind::ConfigMap => {
                self.relate_edge(key, work);
                self.relate_outward(key, [old, new], work);
            }
            Kind::BackendTlsPolicy => self.relate_outward(key, [old, new], work),
            Kind::Site => self.relate_site(key, old.and_then(site_of), new, work),
            Kind::ServiceExport => self.relate_export(key, work),
            // A pool is related as the service that stands for it.
            Kind::Saga | Kind::Endpoint | Kind::InferencePool => {}
        }
    }

    fn relate_service(&mut self, key: &Key, old: Option<&Resource>, new: Option<&Resource>, work: &mut Work) {
        let at = ServiceRef::new(key.namespace.clone(), key.name.clone());
        let spec = |r: Option<&Resource>| match r.map(|r| &r.spec) {
            Some(Spec::Service(service)) => Some(service.clone()),
            _ => None,
        };
        let (old_spec, new_spec) = (spec(old), spec(new));
        self.services.replace(&at, old_spec.as_ref(), new_spec.as_ref());
        let before: BTreeSet<Place> = self.services.members(&at).cloned().collect();
        let after = self.selected(&at, new_spec.as_ref(), work);
        for place in before.symmetric_difference(&after) {
            self.services.link(&at, place, after.contains(place));
        }
        let came_or_went = old_spec.is_some() != new_spec.is_some();
        let takes = |service: &Option<Service>| service.as_ref().is_some_and(Service::takes_slices);
        if takes(&old_spec) != takes(&new_spec) {
            self.mark_exits(&at, work);
        }
        let mut keys = vec![key.clone()];
        for place in before.union(&after) {
            keys.extend(self.derive(&at, place, work));
        }
        for site in self.sites.of(&at).cloned().collect::<Vec<_>>() {
            keys.extend(self.derive_ways(&site, None, &at, work));
        }
        if came_or_went {
            keys.extend(self.policies.traffic(&at).cloned());
            keys.extend(self.sites.of(&at).cloned());
        }
        let nodes = self.viewers(&at, work);
        work.mark(&nodes, &keys);
        for place in before.union(&after) {
            work.mark(self.nodes.at(place), std::slice::from_ref(key));
        }
        let mut policies: Vec<Key> = self.policies.access(&at).chain(self.policies.traffic(&at)).cloned().collect();
        policies.extend(self.site_keys().chain([export_key(&at)]));
        for place in before.symmetric_difference(&after) {
            work.mark(self.nodes.at(place), &policies);
        }
        // Routes count only while their parent exists, and so does what lies behind them.
        if came_or_went {
            work.mark(self.nodes.forwarders(&at.namespace), std::slice::from_ref(key));
            let behind = self.behind(&at);
            let nodes = self.rooted(&at, work);
            work.mark(&nodes, &behind);
        }
    }

    /// Which proxies serve a service depends on whether any slice names it.
    fn relate_slice(&mut self, key: &Key, of: [Option<&Resource>; 2], work: &mut Work) {
        let [old, new] = of.map(|resource| match resource.map(|r| &r.spec) {
            Some(Spec::Slice(slice)) => Some(slice.service_in(&key.namespace)),
            _ => None,
        });
        let services: BTreeSet<&ServiceRef> = old.iter().chain(&new).collect();
        let had: Vec<bool> = services.iter().map(|at| self.services.slices(at).next().is_some()).collect();
        self.services.slice(key, old.as_ref(), new.as_ref());
        for (at, had) in services.into_iter().zip(had) {
            if had != self.services.slices(at).next().is_some()
                && let Some(service) = self.resources.get(&service_key(at)).cloned()
            {
                self.relate_service(&service_key(at), Some(&service), Some(&service), work);
                self.mark_exits(at, work);
            }
        }
        for place in self.workloads.egress() {
            work.mark(self.nodes.at(place), std::slice::from_ref(key));
        }
    }

    /// The proxies by which calls leave the mesh are told of a service's slices, and how it's called, only while it
    /// takes any.
    fn mark_exits(&self, at: &ServiceRef, work: &mut Work) {
        let keys: Vec<Key> = self.services.slices(at).chain(self.policies.traffic(at)).cloned().collect();
        for place in self.workloads.egress() {
            work.mark(self.nodes.at(place), &keys);
        }
    }

    fn relate_workload(&mut self, key: &Key, old: Option<&Resource>, new: Option<&Resource>, work: &mut Work) {
        let at = Place { namespace: key.namespace.clone(), name: key.name.clone() };
        self.workloads.replace(&at, old.and_then(workload_of), new.and_then(workload_of));
        let ids: Vec<NodeId> = self.nodes.at(&at).cloned().collect();
        ids.iter().for_each(|id| self.stand(id));
        let before: BTreeSet<ServiceRef> = self.services.serves(&at).cloned().collect();
        let after = self.selecting(&at, new, work);
        for service in before.symmetric_difference(&after) {
            self.services.link(service, &at, after.contains(service));
        }
        for service in before.union(&after) {
            let changed = self.derive(service, &at, work);
            if changed.is_some() {
                let nodes = self.viewers(service, work);
                work.mark(&nodes, changed.as_slice());
            }
        }
        let mut keys = vec![key.clone()];
        for service in before.symmetric_difference(&after) {
            keys.push(service_key(service));
            keys.extend(self.policies.access(service).chain(self.policies.traffic(service)).cloned());
            keys.extend(self.site_keys().chain([export_key(service)]));
        }
        let who = |r: Option<&Resource>| r.and_then(workload_of).map(|(w, _)| (w.identity.clone(), w.uses.clone()));
        let other_view = who(old) != who(new);
        for id in &ids {
            work.mark([id], &keys);
            let Some(node) = self.nodes.by_id.get(id).filter(|_| other_view) else { continue };
            let mut all: Vec<Key> = node.sent.keys().cloned().collect();
            all.extend(self.reach(&node.spec, work));
            work.mark([id], &all);
        }
    }

    fn relate_route(&mut self, key: &Key, old: Option<&Route>, new: Option<&Route>, work: &mut Work) {
        self.routes.replace(key, old, new);
        let (old_parents, new_parents) = (old.map(parents).unwrap_or_default(), new.map(parents).unwrap_or_default());
        let (old_ends, new_ends) = (old.map(backends).unwrap_or_default(), new.map(backends).unwrap_or_default());
        let mut keys = vec![key.clone()];
        let moved = if old_parents == new_parents { &old_ends ^ &new_ends } else { &old_ends | &new_ends };
        for backend in &moved {
            keys.extend(self.bundle(backend));
        }
        for parent in old_parents.union(&new_parents) {
            let nodes = self.rooted(parent, work);
            work.mark(&nodes, &keys);
        }
        work.mark(&self.nodes.gateways, std::slice::from_ref(key));
    }

    /// What a filter says is told as part of the routes that name it.
    fn relate_filter(&self, key: &Key, work: &mut Work) {
        for at in self.routes.answering(key) {
            let Some(Spec::Route(route)) = self.spec(at) else { continue };
            for parent in parents(route) {
                let nodes = self.rooted(&parent, work);
                work.mark(&nodes, std::slice::from_ref(at));
            }
            work.mark(&self.nodes.gateways, std::slice::from_ref(at));
        }
    }

    fn relate_access(&mut self, key: &Key, old: Option<&AccessPolicy>, new: Option<&AccessPolicy>, work: &mut Work) {
        self.policies.replace_access(key, old, new);
        let targets = |policy: Option<&AccessPolicy>| policy.map(|p| self.targets(key, p)).unwrap_or_default();
        let (old_targets, new_targets) = (targets(old), targets(new));
        let all = &old_targets | &new_targets;
        for service in &all {
            for place in self.services.members(service) {
                work.mark(self.nodes.at(place), std::slice::from_ref(key));
            }
        }
        let (old_callers, new_callers) = (old.map(callers).unwrap_or_default(), new.map(callers).unwrap_or_default());
        let moved = if old_targets == new_targets { &old_callers ^ &new_callers } else { &old_callers | &new_callers };
        let mut keys = Vec::new();
        for service in all.iter().filter(|_| !moved.is_empty()) {
            keys.extend(self.bundle(service));
            keys.extend(self.behind(service));
        }
        for caller in &moved {
            let nodes = self.called(caller, work);
            work.mark(&nodes, &keys);
        }
    }

    fn relate_traffic(&mut self, key: &Key, old: Option<&TrafficPolicy>, new: Option<&TrafficPolicy>, work: &mut Work) {
        self.policies.replace_traffic(key, old, new);
        let targets: BTreeSet<&ServiceRef> = old.into_iter().chain(new).flat_map(|policy| &policy.targets).collect();
        for target in targets {
            let nodes = self.viewers(target, work);
            work.mark(&nodes, std::slice::from_ref(key));
            for place in self.services.members(target) {
                work.mark(self.nodes.at(place), std::slice::from_ref(key));
            }
        }
        // A policy without a target that exists is still the edge's to see.
        work.mark(&self.nodes.gateways, std::slice::from_ref(key));
    }

    fn relate_edge(&self, key: &Key, work: &mut Work) {
        let kinds = Kind::GATEWAYS.into_iter().chain([Kind::Secret, Kind::ConfigMap]);
        let gateways = kinds.flat_map(|kind| self.iter(kind)).map(|resource| resource.key.clone());
        let keys: Vec<Key> = self.routes.at_gateways().cloned().chain(gateways).chain([key.clone()]).collect();
        work.mark(&self.nodes.gateways, &keys);
    }

    /// Only the proxies by which calls leave the mesh are told.
    fn relate_outward(&self, key: &Key, of: [Option<&Resource>; 2], work: &mut Work) {
        let mut keys = vec![key.clone()];
        let policies = of.into_iter().flatten().filter_map(|resource| match &resource.spec {
            Spec::BackendTls(policy) => Some(policy),
            _ => None,
        });
        keys.extend(policies.flat_map(|policy| bundles(key, policy).chain(certificate(key, policy))));
        for place in self.workloads.egress() {
            work.mark(self.nodes.at(place), &keys);
        }
    }

    /// Workloads that serve a service.
    fn selected(&self, at: &ServiceRef, service: Option<&Service>, work: &mut Work) -> BTreeSet<Place> {
        let Some(service) = service else { return BTreeSet::new() };
        if service.outside.is_some() || self.takes_slices(at, service) {
            return self.workloads.egress().cloned().collect();
        }
        let selector = &service.selector;
        let candidates = self.workloads.candidates(&at.namespace, selector);
        work.visited += candidates.len() as u64;
        let fits = |place: &Place| {
            self.resources.get(&workload_key(place)).is_some_and(|r| service::selects(selector, &r.labels))
        };
        candidates.into_iter().filter(fits).collect()
    }

    /// Services that a workload serves.
    fn selecting(&self, at: &Place, workload: Option<&Resource>, work: &mut Work) -> BTreeSet<ServiceRef> {
        let Some(workload) = workload else { return BTreeSet::new() };
        let candidates = self.services.candidates(&at.namespace, &workload.labels);
        work.visited += candidates.len() as u64;
        let fits = |service: &ServiceRef| {
            self.service(service).is_some_and(|s| service::selects(&s.selector, &workload.labels))
        };
        let mut services: BTreeSet<ServiceRef> = candidates.into_iter().filter(fits).collect();
        if workload_of(workload).is_some_and(|(workload, _)| workload.identity.is_egress()) {
            services.extend(self.services.outside().iter().cloned());
            let sliced = self.services.sliced();
            services.extend(sliced.filter(|at| self.service(at).is_some_and(|s| s.takes_slices())).cloned());
        }
        services
    }

    /// Derives one endpoint anew; its key if it changed, came or went.
    fn derive(&mut self, at: &ServiceRef, place: &Place, work: &mut Work) -> Option<Key> {
        work.visited += 1;
        let key = endpoint_key(at, place);
        let new = self.endpoint(&key, at, place).map(Arc::new);
        if same(self.resources.get(&key), new.as_ref()) {
            return None;
        }
        self.store(&key, new);
        Some(key)
    }

    fn endpoint(&self, key: &Key, at: &ServiceRef, place: &Place) -> Option<Resource> {
        if !self.services.is_member(at, place) {
            return None;
        }
        let (parent, member) = (self.resources.get(&service_key(at))?, self.resources.get(&workload_key(place))?);
        let (Spec::Service(service), Spec::Workload(running)) = (&parent.spec, &member.spec) else { return None };
        let endpoint = workload::endpoint(at, service, place, running, &member.labels)?;
        Some(derived(key, parent.revision.max(member.revision), member.created, endpoint))
    }

    /// A site that comes, goes or changes. Who is told of it depends on what it serves: everybody looks anew, as there are
    /// few sites and they change seldom.
    fn relate_site(&mut self, key: &Key, old: Option<&Site>, new: Option<&Resource>, work: &mut Work) {
        self.sites.replace(key, old, new.and_then(site_of));
        let services = |site: Option<&Site>| -> BTreeSet<ServiceRef> {
            site.into_iter().flat_map(|site| &site.services).map(|import| import.service.clone()).collect()
        };
        for service in services(old).union(&services(new.and_then(site_of))) {
            let changed = self.derive_ways(key, old, service, work);
            let nodes = self.viewers(service, work);
            work.mark(&nodes, &changed);
        }
        work.mark(self.nodes.by_id.keys(), std::slice::from_ref(key));
    }

    /// Whether other sites' callers are let in decides whether those who serve it know these.
    fn relate_export(&mut self, key: &Key, work: &mut Work) {
        work.mark(&self.nodes.gateways, std::slice::from_ref(key));
        let sites: Vec<Key> = self.site_keys().chain([key.clone()]).collect();
        for place in self.services.members(&ServiceRef::new(key.namespace.clone(), key.name.clone())) {
            work.mark(self.nodes.at(place), &sites);
        }
    }

    /// Derives the ways to a service at a site anew, those of the site as it was before among them; the keys of those that
    /// changed, came or went.
    fn derive_ways(&mut self, site: &Key, before: Option<&Site>, at: &ServiceRef, work: &mut Work) -> Vec<Key> {
        let holder = self.resources.get(site).cloned();
        let now = holder.as_deref().and_then(site_of);
        let mut wanted: BTreeMap<Key, Option<Arc<Resource>>> = BTreeMap::new();
        if let Some(before) = before {
            wanted.extend(before.ways(&site.name).map(|(name, ..)| (way_key(at, &name), None)));
        }
        if let Some(now) = now {
            let import = now.services.iter().find(|import| import.service == *at);
            let parent = self.resources.get(&service_key(at)).cloned();
            for way in now.ways(&site.name) {
                let key = way_key(at, &way.0);
                let made = import.zip(parent.as_deref()).and_then(|(import, parent)| {
                    let Spec::Service(service) = &parent.spec else { return None };
                    let endpoint = site::endpoint(service, import, way);
                    let revision = parent.revision.max(holder.as_ref().map_or(Revision(0), |site| site.revision));
                    Some(Arc::new(derived(&key, revision, parent.created, endpoint)))
                });
                wanted.insert(key, made);
            }
        }
        let mut changed = Vec::new();
        for (key, new) in wanted {
            work.visited += 1;
            if !same(self.resources.get(&key), new.as_ref()) {
                self.store(&key, new);
                changed.push(key);
            }
        }
        changed
    }

    /// Nodes of the callers in a set.
    fn called(&self, caller: &Caller, work: &mut Work) -> BTreeSet<NodeId> {
        let nodes: BTreeSet<NodeId> = self.nodes.called(caller).cloned().collect();
        work.visited += nodes.len() as u64;
        nodes
    }

    /// Sidecars that may call a service by its own name.
    fn rooted(&self, service: &ServiceRef, work: &mut Work) -> BTreeSet<NodeId> {
        let mut nodes: BTreeSet<NodeId> = self.nodes.users(service).cloned().collect();
        work.visited += nodes.len() as u64;
        for caller in self.policies.listening(service) {
            work.visited += 1;
            nodes.append(&mut self.called(caller, work));
        }
        nodes
    }

    /// Nodes that see a service and its endpoints as a destination.
    fn viewers(&self, service: &ServiceRef, work: &mut Work) -> BTreeSet<NodeId> {
        let mut nodes = self.rooted(service, work);
        let referrers: BTreeSet<&ServiceRef> = self.routes.referrers(service).map(|(parent, _)| parent).collect();
        for parent in referrers {
            work.visited += 1;
            nodes.append(&mut self.rooted(parent, work));
        }
        nodes.extend(self.nodes.gateways.iter().cloned());
        nodes
    }

    /// A destination's own keys.
    pub(crate) fn bundle(&self, service: &ServiceRef) -> Vec<Key> {
        let mut keys = vec![service_key(service)];
        keys.extend(self.services.members(service).map(|place| endpoint_key(service, place)));
        keys.extend(self.way_keys(service));
        keys.extend(self.sites.of(service).cloned());
        keys.extend(self.policies.traffic(service).cloned());
        keys
    }

    /// The routes of a service, and the bundles of their backends.
    pub(crate) fn behind(&self, service: &ServiceRef) -> Vec<Key> {
        let mut keys = Vec::new();
        for key in self.routes.of_parent(service) {
            keys.push(key.clone());
            let Some(Spec::Route(route)) = self.spec(key) else { continue };
            keys.extend(backends(route).iter().flat_map(|backend| self.bundle(backend)));
        }
        keys
    }
}

/// An endpoint, as a resource.
fn derived(key: &Key, revision: Revision, created: Revision, endpoint: Endpoint) -> Resource {
    let labels = endpoint.labels.clone();
    Resource { key: key.clone(), revision, created, labels, origin: None, spec: Spec::Endpoint(Box::new(endpoint)) }
}

fn site_of(resource: &Resource) -> Option<&Site> {
    if let Spec::Site(site) = &resource.spec { Some(site) } else { None }
}

fn workload_of(resource: &Resource) -> Option<(&Workload, &byrnie_model::Labels)> {
    if let Spec::Workload(workload) = &resource.spec { Some((workload, &resource.labels)) } else { None }
}

fn route(resource: &Resource) -> Option<&Route> {
    if let Spec::Route(route) = &resource.spec { Some(route) } else { None }
}

fn access(resource: &Resource) -> Option<&AccessPolicy> {
    if let Spec::Access(policy) = &resource.spec { Some(policy) } else { None }
}

fn traffic(resource: &Resource) -> Option<&TrafficPolicy> {
    if let Spec::Traffic(policy) = &resource.spec { Some(policy) } else { None }
}
