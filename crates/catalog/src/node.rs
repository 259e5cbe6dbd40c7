// SPDX-License-Identifier: Apache-2.0
//! The proxies that are listening: what each was last given and what may have changed since.

use byrnie_base::Text;
use byrnie_model::{Key, Resource};
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
}

impl NodeSpec {
    /// The proxy beside a workload.
    pub fn sidecar(namespace: impl Into<Text>, workload: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), workload: workload.into(), role: Role::Sidecar }
    }

    /// The proxy at the edge of the mesh.
    pub fn gateway(namespace: impl Into<Text>, workload: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), workload: workload.into(), role: Role::Gateway }
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

/// One listening proxy.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    /// What it was last given.
    pub(crate) sent: BTreeMap<Key, Arc<Resource>>,
    /// What may differ from that.
    pub(crate) dirty: BTreeSet<Key>,
}

/// All listening proxies, by name, workload and role.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    pub(crate) by_id: BTreeMap<NodeId, Node>,
    by_place: BTreeMap<Place, BTreeSet<NodeId>>,
    pub(crate) gateways: BTreeSet<NodeId>,
}

impl Nodes {
    pub(crate) fn join(&mut self, id: NodeId, spec: NodeSpec, dirty: BTreeSet<Key>) {
        self.leave(&id);
        match spec.role {
            Role::Gateway => {
                self.gateways.insert(id.clone());
            }
            Role::Sidecar => {
                let place = Place { namespace: spec.namespace.clone(), name: spec.workload.clone() };
                self.by_place.entry(place).or_default().insert(id.clone());
            }
        }
        self.by_id.insert(id, Node { spec, sent: BTreeMap::new(), dirty });
    }

    pub(crate) fn leave(&mut self, id: &NodeId) {
        let Some(node) = self.by_id.remove(id) else { return };
        self.gateways.remove(id);
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

    /// Every workload that has a sidecar listening.
    pub(crate) fn places(&self) -> impl Iterator<Item = &Place> {
        self.by_place.keys()
    }
}
