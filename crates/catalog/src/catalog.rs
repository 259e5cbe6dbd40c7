// SPDX-License-Identifier: Apache-2.0
//! `Catalog`: changes in, each node's difference out. Control feeds it and asks it; it must never
//! look at all resources for one change.

use crate::change::Work;
use crate::index::policy::Caller;
use crate::index::policy::PolicyIndex;
use crate::index::route::RouteIndex;
use crate::index::service::ServiceIndex;
use crate::index::site::SiteIndex;
use crate::index::workload::WorkloadIndex;
use crate::node::{NodeId, NodeSpec, Nodes, Place, Role, Standing};
use crate::view::{self, View};
use byrnie_model::policy::traffic::Quota;
use byrnie_model::{Change, Delta, Identity, Key, Kind, Resource, ServiceRef, Slice, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All resources, how they relate, and what each listening node was given.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Applied ones and the derived Endpoints.
    pub(crate) resources: BTreeMap<Key, Arc<Resource>>,
    pub(crate) services: ServiceIndex,
    pub(crate) workloads: WorkloadIndex,
    pub(crate) routes: RouteIndex,
    pub(crate) policies: PolicyIndex,
    pub(crate) sites: SiteIndex,
    pub(crate) nodes: Nodes,
    visited: u64,
}

/// Nodes whose view may have changed: each should be asked for its [`Catalog::delta`], which may still
/// turn out empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// In order of name.
    pub nodes: BTreeSet<NodeId>,
}

impl Catalog {
    /// A catalog of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one change. A change that says what is already known (labels and spec are the same)
    /// affects nobody. Endpoints are derived: a change of one is ignored.
    pub fn apply(&mut self, change: &Change) -> Affected {
        let key = change.key();
        if key.kind == Kind::Endpoint {
            return Affected::default();
        }
        let new = match change {
            Change::Put(resource) => Some(Arc::clone(resource)),
            Change::Delete { .. } => None,
        };
        let mut work = Work::default();
        match key.kind {
            Kind::InferencePool => {
                self.store(key, new);
                self.stand_in(key, &mut work);
            }
            // Without a service of its own, callers ask for the pool of its name.
            Kind::Service => {
                let new = new.or_else(|| self.pooled(key));
                self.replace(key, new, &mut work);
            }
            _ => self.replace(key, new, &mut work),
        }
        self.visited += work.visited;
        let mut nodes = BTreeSet::new();
        for (id, keys) in work.marks {
            if let Some(node) = self.nodes.by_id.get_mut(&id) {
                node.dirty.extend(keys);
                nodes.insert(id);
            }
        }
        Affected { nodes }
    }

    /// One resource takes the place of another, or of none.
    pub(crate) fn replace(&mut self, key: &Key, new: Option<Arc<Resource>>, work: &mut Work) {
        let old = self.resources.get(key).cloned();
        self.store(key, new.clone());
        if !same(old.as_ref(), new.as_ref()) {
            self.relate(key, old.as_deref(), new.as_deref(), work);
        }
    }

    /// Lets a node listen: its next [`Self::delta`] is its whole view. A node that already listens
    /// begins anew.
    pub fn join(&mut self, id: NodeId, spec: NodeSpec) {
        self.leave(&id);
        let mut work = Work::default();
        let dirty = self.reach(&spec, &mut work);
        self.visited += work.visited;
        self.nodes.join(id.clone(), spec, dirty);
        self.stand(&id);
    }

    /// Forgets a node.
    pub fn leave(&mut self, id: &NodeId) {
        let callers = self.nodes.stand(id, Standing::default());
        self.note(&callers);
        self.nodes.leave(id);
    }

    /// What changed for a node since this was last asked; empty for a node that doesn't listen.
    /// Changes are ordered so that nothing names what the node doesn't have yet, removals the other
    /// way round, to be done after all changes.
    pub fn delta(&mut self, id: &NodeId) -> Delta {
        let Some(node) = self.nodes.by_id.get_mut(id) else { return Delta::default() };
        let (spec, dirty) = (node.spec.clone(), std::mem::take(&mut node.dirty));
        let mut work = Work::default();
        let wanted: Vec<(Key, Option<Arc<Resource>>)> = dirty
            .into_iter()
            .map(|key| {
                let r = self.shown(&spec, &key, &mut work);
                (key, r)
            })
            .collect();
        self.visited += work.visited;
        let Some(node) = self.nodes.by_id.get_mut(id) else { return Delta::default() };
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for (key, resource) in wanted {
            match resource {
                Some(resource) => {
                    let before = node.sent.insert(key, Arc::clone(&resource));
                    if !same(before.as_ref(), Some(&resource)) {
                        changed.push(resource);
                    }
                }
                None => removed.extend(node.sent.remove(&key)),
            }
        }
        changed.sort_by_cached_key(|resource| view::rank(resource));
        removed.sort_by_cached_key(|resource| std::cmp::Reverse(view::rank(resource)));
        Delta { changed, removed: removed.into_iter().map(|resource| resource.key.clone()).collect() }
    }

    /// Everything that a node may see, whether or not it listens.
    pub fn view(&self, spec: &NodeSpec) -> View {
        let mut work = Work::default();
        let keys = self.reach(spec, &mut work);
        let mut resources: Vec<_> = keys.iter().filter_map(|key| self.shown(spec, key, &mut work)).collect();
        resources.sort_by_cached_key(|resource| view::rank(resource));
        View { resources }
    }

    /// What a listening node is.
    pub fn node(&self, id: &NodeId) -> Option<&NodeSpec> {
        self.nodes.by_id.get(id).map(|node| &node.spec)
    }

    /// Resources and nodes looked at since the beginning: the measure of work.
    pub const fn visited(&self) -> u64 {
        self.visited
    }

    /// Whether this workload, under this identity, is an instance of the service.
    pub fn is_instance(&self, service: &ServiceRef, namespace: &str, name: &str, identity: &Identity) -> bool {
        let place = Place { namespace: namespace.into(), name: name.into() };
        self.services.is_member(service, &place)
            && self.workload(&place).is_some_and(|workload| workload.identity == *identity)
    }

    /// Whether some instance of the service has this identity.
    pub fn serves(&self, service: &ServiceRef, identity: &Identity) -> bool {
        let mut members = self.services.members(service);
        members.any(|place| self.workload(place).is_some_and(|workload| workload.identity == *identity))
    }

    /// Whether a policy says that instances of the service share this quota.
    pub fn has_shared(&self, service: &ServiceRef, quota: &Quota) -> bool {
        quota.shared
            && self.policies.traffic(service).any(|key| match self.resource(key).map(|resource| &resource.spec) {
                Some(Spec::Traffic(policy)) => {
                    policy.limits.as_ref().is_some_and(|limits| limits.quotas.contains(quota))
                }
                _ => false,
            })
    }

    /// The resource of this name: applied, or a derived Endpoint (named `SERVICE/WORKLOAD`).
    pub fn resource(&self, key: &Key) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// All resources of a kind, in order of namespace and name.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.range(Key::new(kind, "", "")..).take_while(move |(key, _)| key.kind == kind).map(|(_, r)| r)
    }

    /// The derived endpoints of a service within this mesh, healthy or not, in order of workload.
    pub fn endpoints(&self, service: &ServiceRef) -> impl Iterator<Item = &Arc<Resource>> {
        self.services.members(service).filter_map(|place| self.resources.get(&view::endpoint_key(service, place)))
    }

    /// The ways to a service at other sites, in order of these.
    pub fn ways(&self, service: &ServiceRef) -> impl Iterator<Item = &Arc<Resource>> {
        self.way_keys(service).into_iter().filter_map(|key| self.resources.get(&key))
    }

    /// Whether other sites may reach a service.
    pub fn is_exported(&self, service: &ServiceRef) -> bool {
        self.resources.contains_key(&view::export_key(service))
    }

    /// The slices that name a service, in order of name, whether or not it takes its endpoints from any.
    pub fn slices<'a>(&'a self, service: &ServiceRef) -> impl Iterator<Item = (&'a Key, &'a Slice)> + use<'a> {
        self.services.slices(service).filter_map(|key| match self.spec(key) {
            Some(Spec::Slice(slice)) => Some((key, &**slice)),
            _ => None,
        })
    }

    pub(crate) fn store(&mut self, key: &Key, resource: Option<Arc<Resource>>) {
        match resource {
            Some(resource) => self.resources.insert(key.clone(), resource),
            None => self.resources.remove(key),
        };
    }

    /// Notes who a listening sidecar's workload is and what it uses, so that a change finds it by that.
    pub(crate) fn stand(&mut self, id: &NodeId) {
        let Some(node) = self.nodes.by_id.get(id).filter(|node| node.spec.role == Role::Sidecar) else { return };
        let standing = Standing::of(self.workload(&view::place(&node.spec)));
        let callers = self.nodes.stand(id, standing);
        self.note(&callers);
    }

    fn note(&mut self, callers: &[Caller]) {
        for caller in callers {
            self.policies.listen(caller, self.nodes.called(caller).next().is_some());
        }
    }

    pub(crate) fn spec(&self, key: &Key) -> Option<&Spec> {
        self.resources.get(key).map(|resource| &resource.spec)
    }
}

/// Whether a node would notice the difference: revision and origin don't matter.
pub(crate) fn same(a: Option<&Arc<Resource>>, b: Option<&Arc<Resource>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.labels == b.labels && a.spec == b.spec && a.created == b.created),
        _ => false,
    }
}
