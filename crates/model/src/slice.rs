// SPDX-License-Identifier: Apache-2.0
//! Addresses that serve a service without workloads of its own (discovery.k8s.io `EndpointSlice`). No proxy of the mesh
//! stands before them, so they have no identity: they are reached by the mesh's egress, as hosts outside are.

use crate::ServiceRef;
use crate::service::{Health, Locality};
use byrnie_base::Text;
use std::net::IpAddr;

/// The label that says of which service a slice is a part.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The label that says in which region the addresses of a slice are.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Most endpoints of one slice, as upstream.
pub const ENDPOINTS_MAX: usize = 1000;
/// Most addresses of one service, over all its slices: those beyond, by the slices' names, are left out.
pub const ADDRESSES_MAX: usize = 5000;

/// Some of the addresses that serve a service. All slices of one service together are all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The service's name, in the slice's own namespace.
    pub service: Text,
    /// On each of the addresses; names are unique.
    pub ports: Vec<SlicePort>,
    /// At most [`ENDPOINTS_MAX`].
    pub endpoints: Vec<Address>,
}

/// A port of each address of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the service's port that it stands for; empty for one without a name.
    pub name: Text,
    /// Where the program at the address listens.
    pub port: u16,
}

/// An address at which a program listens that has no proxy of the mesh before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where.
    pub ip: IpAddr,
    /// Whether it may be sent requests, as whoever wrote the slice knows.
    pub health: Health,
    /// Where it is. The region is that of the whole slice.
    pub locality: Locality,
    /// The zones from which it's meant to be asked, if that isn't its own.
    pub zones: Vec<Text>,
}

impl Slice {
    /// The service in a namespace: that of the slice.
    pub fn service_in(&self, namespace: &Text) -> ServiceRef {
        ServiceRef::new(namespace.clone(), self.service.clone())
    }

    /// Where the program listens for a service port of this name.
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| *port.name == *name).map(|port| port.port)
    }
}
