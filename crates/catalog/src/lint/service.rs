// SPDX-License-Identifier: Apache-2.0
//! Services: selectors that select nothing or too much, target ports and protocols that nobody has.

use crate::catalog::Catalog;
use crate::index::workload::target;
use byrnie_model::service::TargetPort;
use byrnie_model::{Diagnostic, Key, Protocol, Service, ServiceRef, Severity, Workload, code};
use std::collections::BTreeSet;

pub(crate) fn check(catalog: &Catalog, key: &Key, service: &Service) -> Vec<Diagnostic> {
    let at = ServiceRef::new(key.namespace.clone(), key.name.clone());
    let members: Vec<&Workload> = catalog.services.members(&at).filter_map(|place| catalog.workload(place)).collect();
    let mut found = Vec::new();
    if catalog.takes_slices(&at, service) {
        found.extend(super::slice::of_service(catalog, &at, service));
    } else if members.is_empty() {
        found.extend(selects_nothing(catalog, &at, service));
    } else {
        ports_fit(service, &members, &mut found);
        found.extend(one_identity(&members));
    }
    found.extend(twin(catalog, &at, service));
    found.extend(super::outside::in_the_clear(catalog, &at, service));
    found
}

/// A service that only holds routes to others, or is outside or at another site, needs no workloads of its own.
fn selects_nothing(catalog: &Catalog, at: &ServiceRef, service: &Service) -> Option<Diagnostic> {
    let elsewhere = catalog.sites.of(at).next().is_some();
    if service.outside.is_some() || elsewhere || catalog.routes.of_parent(at).next().is_some() {
        return None;
    }
    if service.selector.is_empty() {
        let message = "this service has no selector, and no EndpointSlice says where it is";
        return Some(Diagnostic::warning(&code::SELECTS_NOTHING, "spec.selector", message));
    }
    let wanted = service.selector.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
    let message = format!("no workload in namespace \"{}\" has the labels {wanted}", at.namespace);
    Some(Diagnostic::warning(&code::SELECTS_NOTHING, "spec.selector", message))
}

fn ports_fit(service: &Service, members: &[&Workload], found: &mut Vec<Diagnostic>) {
    for (i, port) in service.ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let declared = |workload: &&&Workload| {
            target(&port.target, workload).is_some_and(|number| workload.ports.iter().any(|p| p.port == number))
        };
        let Some(first) = members.iter().find(declared) else {
            // A number needs no declaration: only a name, or workloads that declare others, say it's wrong.
            let wrong = matches!(port.target, TargetPort::Name(_)) || members.iter().all(|w| !w.ports.is_empty());
            if wrong {
                let name = match &port.target {
                    TargetPort::Number(number) => format!("the port {number}"),
                    TargetPort::Name(name) => format!("a port named \"{name}\""),
                };
                let message = format!("none of the {} workloads that serve it has {name}", members.len());
                let path = if port.target == TargetPort::Number(port.port) { "port" } else { "targetPort" };
                found.push(Diagnostic::warning(&code::TARGET_PORT_ABSENT, format!("{at}.{path}"), message));
            }
            continue;
        };
        let number = target(&port.target, first);
        if let Some(other) = first.ports.iter().find(|p| Some(p.port) == number && p.protocol != port.protocol) {
            let (ours, theirs) = (port.protocol.name(), other.protocol.name());
            let message = format!("callers speak {ours} to this port, but the workloads say {theirs}");
            let path = if port.protocol == Protocol::Udp { "protocol" } else { "appProtocol" };
            found.push(Diagnostic::warning(&code::PROTOCOL_CONFLICT, format!("{at}.{path}"), message));
        }
    }
}

fn one_identity(members: &[&Workload]) -> Option<Diagnostic> {
    let accounts: BTreeSet<&str> = members.iter().map(|w| w.identity.service_account().as_str()).collect();
    if accounts.len() < 2 {
        return None;
    }
    let list = accounts.into_iter().take(5).collect::<Vec<_>>().join(", ");
    let message = format!("workloads of several service accounts serve it: {list}");
    Some(Diagnostic::warning(&code::MIXED_IDENTITIES, "spec.selector", message))
}

fn twin(catalog: &Catalog, at: &ServiceRef, service: &Service) -> Option<Diagnostic> {
    let (_, first) = (service.selector.first_key_value()?, catalog.services.members(at).next()?);
    let twin = catalog.services.serves(first).find(|other| {
        *other != at
            && catalog.service(other).is_some_and(|o| o.selector == service.selector && o.ports == service.ports)
    })?;
    let message = format!("Service \"{}\" has the same selector and ports", twin.name);
    let mut diagnostic = Diagnostic::warning(&code::SELECTOR_CONFLICT, "spec.selector", message);
    diagnostic.severity = Severity::Info;
    Some(diagnostic)
}
