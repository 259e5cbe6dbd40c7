// SPDX-License-Identifier: Apache-2.0
//! Service.selector ⊆ Workload.labels, in one namespace  =>  members(Service), serves(Workload).
//! An empty selector selects nothing. A Service outside the mesh, or of which Slices say where it is, is served by every
//! workload by which calls leave the mesh.

use super::Multi;
use crate::node::Place;
use byrnie_base::Text;
use byrnie_model::{Key, Labels, Service, ServiceRef};
use std::collections::BTreeSet;

/// A label in a namespace.
type Label = (Text, Text, Text);

/// Which workloads serve which services.
#[derive(Debug, Default)]
pub(crate) struct ServiceIndex {
    /// Services by the first label of their selector: a workload asks only those that its own labels
    /// name.
    anchored: Multi<Label, ServiceRef>,
    members: Multi<ServiceRef, Place>,
    serves: Multi<Place, ServiceRef>,
    /// Services by namespace.
    namespaces: Multi<Text, ServiceRef>,
    /// Services outside the mesh.
    outside: BTreeSet<ServiceRef>,
    /// Slices by the service that they name.
    slices: Multi<ServiceRef, Key>,
}

impl ServiceIndex {
    /// Notes a service's new selector; its members are set by [`Self::link`].
    pub(crate) fn replace(&mut self, at: &ServiceRef, old: Option<&Service>, new: Option<&Service>) {
        if let Some(anchor) = old.and_then(|s| anchor(at, &s.selector)) {
            self.anchored.remove(&anchor, at);
        }
        if let Some(anchor) = new.and_then(|s| anchor(at, &s.selector)) {
            self.anchored.insert(anchor, at.clone());
        }
        if new.is_some_and(|service| service.outside.is_some()) {
            self.outside.insert(at.clone());
        } else {
            self.outside.remove(at);
        }
        match new {
            Some(_) => self.namespaces.insert(at.namespace.clone(), at.clone()),
            None => self.namespaces.remove(&at.namespace, at),
        }
    }

    /// Services that may select a workload with these labels; each is still to be compared.
    pub(crate) fn candidates(&self, namespace: &Text, labels: &Labels) -> BTreeSet<ServiceRef> {
        let anchors = labels.iter().map(|(k, v)| (namespace.clone(), k.clone(), v.clone()));
        anchors.flat_map(|anchor| self.anchored.of(&anchor).cloned().collect::<Vec<_>>()).collect()
    }

    /// Services outside the mesh: every workload by which calls leave it serves them all.
    pub(crate) fn outside(&self) -> &BTreeSet<ServiceRef> {
        &self.outside
    }

    pub(crate) fn link(&mut self, service: &ServiceRef, place: &Place, member: bool) {
        if member {
            self.members.insert(service.clone(), place.clone());
            self.serves.insert(place.clone(), service.clone());
        } else {
            self.members.remove(service, place);
            self.serves.remove(place, service);
        }
    }

    pub(crate) fn members(&self, service: &ServiceRef) -> impl Iterator<Item = &Place> {
        self.members.of(service)
    }

    pub(crate) fn serves(&self, place: &Place) -> impl Iterator<Item = &ServiceRef> {
        self.serves.of(place)
    }

    pub(crate) fn is_member(&self, service: &ServiceRef, place: &Place) -> bool {
        self.members.has(service, place)
    }

    /// Notes which service a slice names.
    pub(crate) fn slice(&mut self, key: &Key, old: Option<&ServiceRef>, new: Option<&ServiceRef>) {
        if let Some(old) = old {
            self.slices.remove(old, key);
        }
        if let Some(new) = new {
            self.slices.insert(new.clone(), key.clone());
        }
    }

    /// The slices that name a service, whether or not it takes any.
    pub(crate) fn slices(&self, service: &ServiceRef) -> impl Iterator<Item = &Key> + use<'_> {
        self.slices.of(service)
    }

    /// Services that slices name.
    pub(crate) fn sliced(&self) -> impl Iterator<Item = &ServiceRef> {
        self.slices.keys()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &ServiceRef> {
        self.namespaces.values()
    }

    pub(crate) fn in_namespace(&self, namespace: &Text) -> impl Iterator<Item = &ServiceRef> {
        self.namespaces.of(namespace)
    }
}

fn anchor(at: &ServiceRef, selector: &Labels) -> Option<Label> {
    selector.first_key_value().map(|(k, v)| (at.namespace.clone(), k.clone(), v.clone()))
}

/// Whether a workload with these labels is selected.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}
