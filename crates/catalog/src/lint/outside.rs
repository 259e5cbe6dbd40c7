// SPDX-License-Identifier: Apache-2.0
//! Services outside the mesh, and the policies for TLS towards them: what goes out in the clear, and what is named and
//! isn't there.

use crate::catalog::Catalog;
use crate::view::certificate;
use byrnie_model::outside::{BackendTls, CLIENT_CERTIFICATE, Target, Trust, is_pattern};
use byrnie_model::{Diagnostic, Key, Kind, Resource, Service, ServiceRef, Spec, code};
use std::net::Ipv4Addr;

/// Ports of a service outside whose requests the mesh reads, and sends on without TLS.
pub(crate) fn in_the_clear(catalog: &Catalog, at: &ServiceRef, service: &Service) -> Vec<Diagnostic> {
    let (host, local) = match &service.outside {
        Some(host) => {
            let local = host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
            (host.as_str(), local || **host == *"localhost")
        }
        None if catalog.takes_slices(at, service) => {
            ("the addresses of its EndpointSlices", super::slice::is_local(catalog, at))
        }
        None => return Vec::new(),
    };
    if local {
        return Vec::new();
    }
    let fits = |target: &Target, port: &str| {
        target.service == *at && target.section.as_ref().is_none_or(|section| **section == *port)
    };
    let covered = |port: &str| policies(catalog).any(|(_, policy)| policy.targets.iter().any(|t| fits(t, port)));
    let ports = service.ports.iter().enumerate();
    let bare = ports.filter(|(_, port)| port.protocol.is_http() && !covered(&port.name));
    bare.map(|(i, port)| {
        let message = format!("calls of port {} leave the mesh for {host} without TLS", port.port);
        Diagnostic::warning(&code::OUTSIDE_IN_CLEAR, format!("spec.ports[{i}]"), message)
    })
    .collect()
}

pub(crate) fn check(catalog: &Catalog, resource: &Resource, policy: &BackendTls) -> Vec<Diagnostic> {
    let key = &resource.key;
    let mut found = Vec::new();
    for (i, target) in policy.targets.iter().enumerate() {
        let at = format!("spec.targetRefs[{i}]");
        let Some(service) = catalog.service(&target.service) else {
            found.push(catalog.absent_service(&code::TARGET_ABSENT, format!("{at}.name"), &target.service));
            continue;
        };
        let name = &target.service.name;
        if service.outside.is_none() && !catalog.takes_slices(&target.service, service) {
            let message =
                format!("Service \"{name}\" is inside the mesh, where mutual TLS protects every call already");
            found.push(Diagnostic::warning(&code::BACKEND_TLS_INSIDE, format!("{at}.name"), message));
        }
        if let Some(pattern) = service.outside.as_ref().filter(|host| is_pattern(host)) {
            let message = format!("Service \"{name}\" stands for {pattern}, and a policy verifies one host");
            found.push(Diagnostic::error(&code::NOT_ENFORCED, format!("{at}.name"), message));
        }
        let section = target.section.as_ref();
        if let Some(section) = section.filter(|section| service.ports.iter().all(|port| port.name != **section)) {
            let message = format!("Service \"{name}\" has no port named \"{section}\"");
            found.push(Diagnostic::error(&code::PORT_ABSENT, format!("{at}.sectionName"), message));
        }
        if let Some(first) = before(catalog, resource, target) {
            let message = format!("{first} is for the same target and older, or first by name");
            found.push(Diagnostic::warning(&code::BACKEND_TLS_CONFLICT, format!("{at}.name"), message));
        }
    }
    let names = match &policy.trust {
        Trust::System => &[][..],
        Trust::Bundles(names) => names,
    };
    for (i, name) in names.iter().enumerate() {
        let bundle = Key::new(Kind::ConfigMap, key.namespace.clone(), name.clone());
        if catalog.resource(&bundle).is_none() {
            let at = format!("spec.validation.caCertificateRefs[{i}].name");
            let message = format!("no ConfigMap \"{name}\" in namespace \"{}\"", key.namespace);
            found.push(Diagnostic::error(&code::BUNDLE_ABSENT, at, message));
        }
    }
    if let Some(secret) = certificate(key, policy).filter(|secret| catalog.resource(secret).is_none()) {
        let at = format!("spec.options[\"{CLIENT_CERTIFICATE}\"]");
        let message = format!("no Secret \"{}\" in namespace \"{}\"", secret.name, secret.namespace);
        found.push(Diagnostic::error(&code::CLIENT_CERTIFICATE_ABSENT, at, message));
    }
    found
}

/// Another policy for the same target that comes before this one.
pub(crate) fn before(catalog: &Catalog, resource: &Resource, target: &Target) -> Option<Key> {
    let others = policies(catalog).filter(|(other, _)| other.key != resource.key);
    let same = others.filter(|(_, policy)| policy.targets.contains(target));
    // One that is not stored yet is the youngest.
    let age = |of: &Resource| (if of.created.0 == 0 { u64::MAX } else { of.created.0 }, of.key.clone());
    same.map(|(other, _)| other).filter(|other| age(other) < age(resource)).map(|other| other.key.clone()).next()
}

fn policies(catalog: &Catalog) -> impl Iterator<Item = (&Resource, &BackendTls)> {
    catalog.iter(Kind::BackendTlsPolicy).filter_map(|resource| match &resource.spec {
        Spec::BackendTls(policy) => Some((&**resource, &**policy)),
        _ => None,
    })
}
