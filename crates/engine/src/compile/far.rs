// SPDX-License-Identifier: Apache-2.0
//! The addresses that slices say serve a service, on a node by which calls leave the mesh: all slices of the service
//! together, each address once; and those of a host outside, where its name stands for several. To the balance they are endpoints
//! like others; they have no identity of their own.

use super::Compiler;
use crate::Node;
use crate::cluster::Member;
use byrnie_base::Text;
use byrnie_model::service::{Locality, PortPair, ServicePort, TargetPort};
use byrnie_model::slice::{ADDRESSES_MAX, Address, Slice, SlicePort};
use byrnie_model::{Endpoint, Health, Key, Labels, Service, ServiceRef};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Slices by service, and the endpoints that they come to where this node leads to them.
#[derive(Debug, Default)]
pub(super) struct Far {
    slices: BTreeMap<Key, Arc<Slice>>,
    by_service: BTreeMap<ServiceRef, BTreeSet<Key>>,
    /// Where hosts are: first those of the kind, IPv4 or IPv6, that is to be asked first.
    hosts: BTreeMap<Text, Vec<IpAddr>>,
    members: BTreeMap<ServiceRef, BTreeMap<Text, Arc<Member>>>,
}

impl Far {
    /// Takes a slice in or out; answers whose endpoints that may change.
    pub(super) fn put(&mut self, key: &Key, slice: Option<Arc<Slice>>) -> BTreeSet<ServiceRef> {
        let mut touched = BTreeSet::new();
        if let Some(old) = self.slices.remove(key) {
            let service = old.service_in(&key.namespace);
            if let Some(keys) = self.by_service.get_mut(&service) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            touched.insert(service);
        }
        if let Some(slice) = slice {
            let service = slice.service_in(&key.namespace);
            self.by_service.entry(service.clone()).or_default().insert(key.clone());
            self.slices.insert(key.clone(), slice);
            touched.insert(service);
        }
        touched
    }

    /// Takes in where a host is; whether that is news.
    pub(super) fn locate(&mut self, host: &Text, mut addresses: Vec<IpAddr>) -> bool {
        let Some(first) = addresses.first().map(IpAddr::is_ipv4) else { return self.hosts.remove(host).is_some() };
        // The order among those of one kind is the resolver's dice.
        addresses.sort_unstable_by_key(|ip| (ip.is_ipv4() != first, *ip));
        if self.hosts.get(host) == Some(&addresses) {
            return false;
        }
        self.hosts.insert(host.clone(), addresses);
        true
    }

    /// Where the host of a service is, as far as that is known.
    pub(super) fn located(&self, service: &Service) -> &[IpAddr] {
        service.outside.as_ref().and_then(|host| self.hosts.get(host)).map_or(&[], Vec::as_slice)
    }

    /// Whether any slice says where a service is.
    pub(super) fn has(&self, service: &ServiceRef) -> bool {
        self.by_service.contains_key(service)
    }

    /// The endpoints of a service to which this node leads.
    pub(super) fn members(&self, service: &ServiceRef) -> Option<&BTreeMap<Text, Arc<Member>>> {
        self.members.get(service)
    }
}

impl Compiler {
    /// Whether calls of a service leave the mesh by this node for addresses of which it chooses: those of slices, or of a host that
    /// has several.
    pub(super) fn leads_far(&self, name: &ServiceRef, service: &Service) -> bool {
        let far = &self.held.far;
        self.is_exit() && (service.takes_slices() && far.has(name) || far.located(service).len() > 1)
    }

    /// Makes the endpoints of a service anew. What cores know of one holds as long as there is one at its address.
    pub(super) fn settle_far(&mut self, name: &ServiceRef) {
        let service = self.held.services.get(name).filter(|service| self.leads_far(name, service));
        let keys = self.held.far.by_service.get(name);
        let slices = keys.into_iter().flatten().filter_map(|key| self.held.far.slices.get(key)).map(|slice| &**slice);
        let wanted = service.map(|service| {
            let host = self.held.far.located(service);
            if host.is_empty() {
                return endpoints(name, service, slices, &self.snapshot.node);
            }
            endpoints(name, service, std::iter::once(&of_host(service, host)), &self.snapshot.node)
        });
        let mut had = self.held.far.members.remove(name).unwrap_or_default();
        if let Some(wanted) = wanted {
            let members = wanted.into_iter().map(|endpoint| {
                let kept = had.remove(&endpoint.workload);
                let member = match kept {
                    Some(old) if old.endpoint == endpoint => old,
                    Some(old) => Arc::new(self.members.member(&endpoint, old.slot, Arc::clone(&old.load))),
                    None => {
                        let slot = self.members.slots.take();
                        Arc::new(self.members.member(&endpoint, slot, Arc::default()))
                    }
                };
                (endpoint.workload, member)
            });
            let members = members.collect();
            self.held.far.members.insert(name.clone(), members);
        }
        had.into_values().for_each(|gone| self.members.slots.give_back(gone.slot));
    }
}

/// Where a host is, as a slice would say it.
fn of_host(service: &Service, addresses: &[IpAddr]) -> Slice {
    let port = |port: &ServicePort| match port.target {
        TargetPort::Number(number) => Some(SlicePort { name: port.name.clone(), port: number }),
        TargetPort::Name(_) => None,
    };
    let address =
        |ip: &IpAddr| Address { ip: *ip, health: Health::Healthy, locality: Locality::default(), zones: Vec::new() };
    Slice {
        service: Text::default(),
        ports: service.ports.iter().filter_map(port).collect(),
        endpoints: addresses.iter().map(address).collect(),
    }
}

/// One endpoint for each address and port.
fn endpoints<'a>(
    name: &ServiceRef,
    service: &Service,
    slices: impl Iterator<Item = &'a Slice>,
    node: &Node,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for slice in slices {
        let ports = service.ports.iter().filter_map(|port| Some((port.port, slice.port(&port.name)?)));
        let ports: Vec<PortPair> = ports.map(|(service, target)| PortPair { service, target }).collect();
        for address in &slice.endpoints {
            if addresses.len() >= ADDRESSES_MAX && !addresses.contains(&address.ip) {
                continue;
            }
            addresses.insert(address.ip);
            let health = if service.publish_not_ready { Health::Healthy } else { address.health };
            for pair in &ports {
                let at = SocketAddr::new(address.ip, pair.target);
                let one = found.entry(at).or_insert_with(|| Endpoint {
                    service: name.clone(),
                    workload: at.to_string().into(),
                    way: None,
                    identity: node.identity.clone(),
                    address: at,
                    ports: Vec::new(),
                    labels: Labels::new(),
                    locality: locality(address, &node.locality),
                    weight: 1,
                    health,
                });
                if !one.ports.contains(pair) {
                    one.ports.push(*pair);
                }
                // While an address moves from one slice to another both have it: whoever calls it ready is right.
                one.health = better(one.health, health);
            }
        }
    }
    let mut endpoints: Vec<Endpoint> = found.into_values().collect();
    // As kube-proxy does: those that are leaving are better than none, for as long as they serve.
    if endpoints.iter().all(|one| one.health != Health::Healthy) {
        let leaving = endpoints.iter_mut().filter(|one| one.health == Health::Draining);
        leaving.for_each(|one| one.health = Health::Healthy);
    }
    endpoints
}

/// Where an address counts as being: what a hint says of the own zone comes first.
fn locality(address: &Address, own: &Locality) -> Locality {
    let region = address.locality.region.clone();
    let hinted = address.zones.iter().find(|zone| **zone == own.zone).or(address.zones.first());
    Locality { region, zone: hinted.unwrap_or(&address.locality.zone).clone() }
}

fn better(a: Health, b: Health) -> Health {
    match (a, b) {
        (Health::Healthy, _) | (_, Health::Healthy) => Health::Healthy,
        (Health::Draining, _) | (_, Health::Draining) => Health::Draining,
        (Health::Unhealthy, Health::Unhealthy) => Health::Unhealthy,
    }
}

#[cfg(test)]
mod tests;
