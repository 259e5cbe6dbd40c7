// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices: addresses that serve nothing, and more of them than are used.

use crate::catalog::Catalog;
use byrnie_model::service::Service;
use byrnie_model::slice::{ADDRESSES_MAX, SERVICE_LABEL, Slice};
use byrnie_model::{Diagnostic, Key, ServiceRef, code};
use std::collections::BTreeSet;
use std::net::IpAddr;

pub(crate) fn check(catalog: &Catalog, key: &Key, slice: &Slice) -> Vec<Diagnostic> {
    let (at, path) = (slice.service_in(&key.namespace), format!("metadata.labels[\"{SERVICE_LABEL}\"]"));
    let Some(service) = catalog.service(&at) else {
        return vec![catalog.absent_service(&code::SLICE_UNUSED, path, &at)];
    };
    if !service.takes_slices() {
        let by = if service.outside.is_some() { "the host that it names" } else { "the workloads that it selects" };
        let message = format!("Service \"{}\" is served by {by}, not by addresses of slices", at.name);
        return vec![Diagnostic::warning(&code::SLICE_UNUSED, path, message)];
    }
    let ports = slice.ports.iter().enumerate();
    let unknown = ports.filter(|(_, port)| service.ports.iter().all(|of| of.name != port.name));
    unknown
        .map(|(i, port)| {
            let message = format!("Service \"{}\" has no port named \"{}\"", at.name, port.name);
            Diagnostic::warning(&code::SLICE_UNUSED, format!("ports[{i}].name"), message)
        })
        .collect()
}

/// Ports of a service that no slice has, and addresses too many.
pub(crate) fn of_service(catalog: &Catalog, at: &ServiceRef, service: &Service) -> Vec<Diagnostic> {
    if !catalog.takes_slices(at, service) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (i, port) in service.ports.iter().enumerate() {
        if catalog.slices(at).all(|(_, slice)| slice.port(&port.name).is_none()) {
            let message = format!("no EndpointSlice of this service has a port named \"{}\"", port.name);
            found.push(Diagnostic::warning(&code::TARGET_PORT_ABSENT, format!("spec.ports[{i}].name"), message));
        }
    }
    let addresses = addresses(catalog, at).len();
    if addresses > ADDRESSES_MAX {
        let message = format!("its EndpointSlices have {addresses} addresses; {ADDRESSES_MAX} are used");
        found.push(Diagnostic::warning(&code::SLICES_TOO_MANY, "", message));
    }
    found
}

/// Whether all that serves a service is on this machine, where nobody is on the way.
pub(crate) fn is_local(catalog: &Catalog, at: &ServiceRef) -> bool {
    addresses(catalog, at).iter().all(IpAddr::is_loopback)
}

fn addresses(catalog: &Catalog, at: &ServiceRef) -> BTreeSet<IpAddr> {
    catalog.slices(at).flat_map(|(_, slice)| &slice.endpoints).map(|address| address.ip).collect()
}
