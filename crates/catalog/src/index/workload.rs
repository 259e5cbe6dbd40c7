// SPDX-License-Identifier: Apache-2.0
//! Workload.identity  =>  workloads of a service account or namespace;  Workload.labels  =>  workloads of a
//! label;  Service x Workload.inbound  =>  Endpoint.

use super::Multi;
use crate::node::Place;
use byrnie_base::Text;
use byrnie_model::service::{PortPair, TargetPort};
use byrnie_model::{Endpoint, Identity, Labels, Service, ServiceRef, Workload};

/// Workloads by what others look for.
#[derive(Debug, Default)]
pub(crate) struct WorkloadIndex {
    accounts: Multi<(Text, Text), Place>,
    namespaces: Multi<Text, Place>,
    labels: Multi<(Text, Text, Text), Place>,
    inbound: Multi<std::net::SocketAddr, Place>,
}

impl WorkloadIndex {
    pub(crate) fn replace(&mut self, at: &Place, old: Option<(&Workload, &Labels)>, new: Option<(&Workload, &Labels)>) {
        if let Some((workload, labels)) = old {
            self.accounts.remove(&account(workload), at);
            self.namespaces.remove(workload.identity.namespace(), at);
            if let Some(address) = workload.inbound {
                self.inbound.remove(&address, at);
            }
            for (k, v) in labels {
                self.labels.remove(&(at.namespace.clone(), k.clone(), v.clone()), at);
            }
        }
        if let Some((workload, labels)) = new {
            self.accounts.insert(account(workload), at.clone());
            self.namespaces.insert(workload.identity.namespace().clone(), at.clone());
            if let Some(address) = workload.inbound {
                self.inbound.insert(address, at.clone());
            }
            for (k, v) in labels {
                self.labels.insert((at.namespace.clone(), k.clone(), v.clone()), at.clone());
            }
        }
    }

    /// Workloads whose identity is of this service account.
    pub(crate) fn of_account(&self, namespace: &Text, name: &Text) -> impl Iterator<Item = &Place> {
        self.accounts.of(&(namespace.clone(), name.clone()))
    }

    /// Workloads by which calls leave the mesh.
    pub(crate) fn egress(&self) -> impl Iterator<Item = &Place> + use<'_> {
        self.accounts.of(&(Identity::SYSTEM_NAMESPACE.into(), Identity::EGRESS_ACCOUNT.into()))
    }

    /// Workloads whose identity is of this namespace.
    pub(crate) fn of_namespace(&self, namespace: &Text) -> impl Iterator<Item = &Place> {
        self.namespaces.of(namespace)
    }

    /// Workloads that say they listen here.
    pub(crate) fn listening(&self, address: std::net::SocketAddr) -> impl Iterator<Item = &Place> {
        self.inbound.of(&address)
    }

    /// Workloads that may fit a selector: those of its rarest label; each is still to be compared.
    pub(crate) fn candidates(&self, namespace: &Text, selector: &Labels) -> Vec<Place> {
        let labels = selector.iter().map(|(k, v)| (namespace.clone(), k.clone(), v.clone()));
        let Some(rarest) = labels.min_by_key(|label| self.labels.count(label)) else { return Vec::new() };
        self.labels.of(&rarest).cloned().collect()
    }
}

fn account(workload: &Workload) -> (Text, Text) {
    (workload.identity.namespace().clone(), workload.identity.service_account().clone())
}

/// What a caller's proxy needs to reach `workload` as one of `service`; `None` while its proxy hasn't
/// said where it listens, or if it has none of the service's ports.
pub(crate) fn endpoint(
    at: &ServiceRef,
    service: &Service,
    place: &Place,
    workload: &Workload,
    labels: &Labels,
) -> Option<Endpoint> {
    let address = workload.inbound?;
    let ports: Vec<PortPair> = service
        .ports
        .iter()
        .filter_map(|port| {
            // Where slices say it, each address may have a port of its own.
            let there = if service.takes_slices() { Some(port.port) } else { target(&port.target, workload) };
            // Of a pool's ports a member has those that it says it has: each is an endpoint of its own to the picker.
            let there = there.filter(|at| service.pool.is_none() || workload.ports.iter().any(|port| port.port == *at));
            Some(PortPair { service: port.port, target: there? })
        })
        .collect();
    if ports.is_empty() {
        return None;
    }
    Some(Endpoint {
        service: at.clone(),
        workload: place.name.clone(),
        way: None,
        identity: workload.identity.clone(),
        address,
        ports,
        labels: labels.clone(),
        locality: workload.locality.clone(),
        weight: workload.weight,
        health: workload.health,
    })
}

/// The number of a target port. A number needs no declaration, as in Kubernetes.
pub(crate) fn target(target: &TargetPort, workload: &Workload) -> Option<u16> {
    match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => workload.ports.iter().find(|port| port.name == *name).map(|port| port.port),
    }
}
