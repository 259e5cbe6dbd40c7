// SPDX-License-Identifier: Apache-2.0
//! The proxies that are listening: what each was last given and what may have changed since.

use crate::index::Multi;
use crate::index::policy::{Caller, sets_of};
use byrnie_base::Text;
use byrnie_model::{Key, Resource, ServiceRef, Workload};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The name of a proxy: `NAMESPACE/WORKLOAD` for a sidecar, `byrnie/edge` for the edge.
pub type NodeId = Text;

/// What a node is, which settles what it may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Namespace of its workload.
    pub namespace: Text,
    /// Name of its workload.
    pub workload: Text,
    /// What it does.
    pub role: Role,
    /// Whether its program names whom it calls in each request, as to a proxy: then it's told of the services of its
    /// namespace that it may not call, by their names alone.
    pub forwards: bool,
}

impl NodeSpec {
    /// The proxy beside a workload.
    pub fn sidecar(namespace: impl Into<Text>, workload: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), workload: workload.into(), role: Role::Sidecar, forwards: false }
    }

    /// The same, with or without a forward listener.
    #[must_use]
    pub fn forwarding(self, forwards: bool) -> Self {
        Self { forwards, ..self }
    }

    /// The proxy at the edge of the mesh.
    pub fn gateway(namespace: impl Into<Text>, workload: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), workload: workload.into(), role: Role::Gateway, forwards: false }
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stands beside one workload (or inside it) and sees only what that workload needs.
    Sidecar,
    /// Lets requests in from outside and sees every service, but no access policy.
    Gateway,
}

/// A workload, as the key of an index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) namespace: Text,
    pub(crate) name: Text,
}

/// What the workload of a listening sidecar says of whom it calls; of nobody while there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The sets of callers that it is in.
    callers: Vec<Caller>,
    uses: Vec<ServiceRef>,
}

impl Standing {
    pub(crate) fn of(workload: Option<&Workload>) -> Self {
        workload.map_or_else(Self::default, |workload| Self {
            callers: sets_of(&workload.identity).into(),
            uses: workload.uses.clone(),
        })
    }
}

/// One listening proxy.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    standing: Standing,
    /// What it was last given.
    pub(crate) sent: BTreeMap<Key, Arc<Resource>>,
    /// What may differ from that.
    pub(crate) dirty: BTreeSet<Key>,
}

/// All listening proxies, by name, workload, role, and by what a change asks for: who calls.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) by_id: BTreeMap<NodeId, Node>,
    by_place: BTreeMap<Place, BTreeSet<NodeId>>,
    by_caller: Multi<Caller, NodeId>,
    users: Multi<ServiceRef, NodeId>,
    /// Sidecars with a forward listener, by namespace.
    forwarders: Multi<Text, NodeId>,
    pub(crate) gateways: BTreeSet<NodeId>,
}

impl Nodes {
    /// Lets a node listen that doesn't.
    pub(crate) fn join(&mut self, id: NodeId, spec: NodeSpec, dirty: BTreeSet<Key>) {
        match spec.role {
            Role::Gateway => {
                self.gateways.insert(id.clone());
            }
            Role::Sidecar => {
                let place = Place { namespace: spec.namespace.clone(), name: spec.workload.clone() };
                self.by_place.entry(place).or_default().insert(id.clone());
                if spec.forwards {
                    self.forwarders.insert(spec.namespace.clone(), id.clone());
                }
            }
        }
        self.by_id.insert(id, Node { spec, standing: Standing::default(), sent: BTreeMap::new(), dirty });
    }

    /// Notes what a node's workload says. Returns the callers for whom that may have changed whether
    /// anybody listens.
    pub(crate) fn stand(&mut self, id: &NodeId, standing: Standing) -> Vec<Caller> {
        let Some(node) = self.by_id.get_mut(id).filter(|node| node.standing != standing) else { return Vec::new() };
        let old = std::mem::replace(&mut node.standing, standing.clone());
        old.callers.iter().for_each(|caller| self.by_caller.remove(caller, id));
        old.uses.iter().for_each(|service| self.users.remove(service, id));
        for caller in &standing.callers {
            self.by_caller.insert(caller.clone(), id.clone());
        }
        for service in standing.uses {
            self.users.insert(service, id.clone());
        }
        old.callers.into_iter().chain(standing.callers).collect()
    }

    /// Forgets a node that stands for nothing any more.
    pub(crate) fn leave(&mut self, id: &NodeId) {
        let Some(node) = self.by_id.remove(id) else { return };
        self.gateways.remove(id);
        self.forwarders.remove(&node.spec.namespace, id);
        let place = Place { namespace: node.spec.namespace, name: node.spec.workload };
        if let Some(ids) = self.by_place.get_mut(&place) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_place.remove(&place);
            }
        }
    }

    /// The sidecars of one workload: more than one only while a restart overlaps.
    pub(crate) fn at<'a>(&'a self, place: &Place) -> impl Iterator<Item = &'a NodeId> {
        self.by_place.get(place).into_iter().flatten()
    }

    /// Sidecars whose workload is in a set of callers.
    pub(crate) fn called<'a>(&'a self, caller: &Caller) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        self.by_caller.of(caller)
    }

    /// Sidecars of a namespace that have a forward listener.
    pub(crate) fn forwarders<'a>(&'a self, namespace: &Text) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        self.forwarders.of(namespace)
    }

    /// Sidecars whose workload says that it uses a service.
    pub(crate) fn users<'a>(&'a self, service: &ServiceRef) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        self.users.of(service)
    }
}
