// SPDX-License-Identifier: Apache-2.0
//! Site.services  =>  imports(Service): the sites that serve it too;  Service x Site.ways  =>  Endpoint.

use super::Multi;
use byrnie_base::Text;
use byrnie_model::service::{Health, Locality, PortPair};
use byrnie_model::site::{Import, Way};
use byrnie_model::{Endpoint, Key, Labels, Service, ServiceRef, Site};
use std::net::SocketAddr;

/// Which sites serve which services.
#[derive(Debug, Default)]
pub(crate) struct SiteIndex {
    imports: Multi<ServiceRef, Key>,
}

impl SiteIndex {
    pub(crate) fn replace(&mut self, key: &Key, old: Option<&Site>, new: Option<&Site>) {
        for import in old.into_iter().flat_map(|site| &site.services) {
            self.imports.remove(&import.service, key);
        }
        for import in new.into_iter().flat_map(|site| &site.services) {
            self.imports.insert(import.service.clone(), key.clone());
        }
    }

    /// The sites that serve a service too.
    pub(crate) fn of<'a>(&'a self, service: &ServiceRef) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.imports.of(service)
    }
}

/// What a caller's proxy needs to reach a service at another site, by one way.
pub(crate) fn endpoint(service: &Service, import: &Import, (name, address, way): (Text, SocketAddr, Way)) -> Endpoint {
    Endpoint {
        service: import.service.clone(),
        workload: name,
        way: Some(way),
        identity: import.identity.clone(),
        address,
        // Which of its own ports stands behind the service's is the site's affair.
        ports: service.ports.iter().map(|port| PortPair { service: port.port, target: port.port }).collect(),
        labels: Labels::new(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
    }
}
