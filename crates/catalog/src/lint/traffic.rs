// SPDX-License-Identifier: Apache-2.0
//! Traffic policies: targets, ports and endpoints that aren't there, and two that decide the same matter.

use crate::catalog::Catalog;
use byrnie_model::outside::is_pattern;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::service::Area;
use byrnie_model::{Diagnostic, Key, Service, ServiceRef, Spec, code};
use std::time::Duration;

pub(crate) fn check(catalog: &Catalog, key: &Key, policy: &TrafficPolicy) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (i, target) in policy.targets.iter().enumerate() {
        let at = format!("spec.targetRefs[{i}].name");
        let Some(service) = catalog.service(target) else {
            found.push(catalog.absent_service(&code::TARGET_ABSENT, at, target));
            continue;
        };
        let checked = policy.health_check().and_then(|check| check.port);
        let asked = policy.load_report().and_then(|report| report.port);
        found.extend(absent_port(service, target, checked, "spec.endpoints.healthCheck.port"));
        found.extend(absent_port(service, target, asked, "spec.endpoints.loadReport.port"));
        if service.outside.is_some() && policy.load_report().is_some() {
            let message = format!("Service \"{}\" is outside the mesh, where no proxy asks a program", target.name);
            found.push(Diagnostic::error(&code::NOT_ENFORCED, "spec.endpoints.loadReport", message));
        }
        let many = service.outside.as_ref().filter(|host| is_pattern(host));
        if let Some(many) = many.filter(|_| policy.health_check().is_some()) {
            let message = format!("Service \"{}\" stands for {many}, and a health check asks one host", target.name);
            found.push(Diagnostic::error(&code::NOT_ENFORCED, "spec.endpoints.healthCheck", message));
        }
        found.extend(chooses_nobody(catalog, key, target));
        found.extend(empty_place(catalog, key, policy, target));
        let why = overruled(catalog, key, policy, target);
        if let Some(message) = why.message() {
            let then = match why {
                Overruled::Wholly(_) => "Nothing of this policy is in force for it.",
                _ => "The rest of this policy is in force.",
            };
            found.push(Diagnostic::warning(&code::TRAFFIC_CONFLICT, at, message).so_that(then));
        }
    }
    found
}

/// A port that a program is asked at, and that the service hasn't.
fn absent_port(service: &Service, target: &ServiceRef, number: Option<u16>, at: &str) -> Option<Diagnostic> {
    let number = number.filter(|number| service.ports.iter().all(|port| port.port != *number))?;
    let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
    let message = format!("Service \"{}\" has no port {number}; it has {}", target.name, ports.join(", "));
    Some(Diagnostic::error(&code::PORT_ABSENT, at, message))
}

/// A call that is waited for longer than the service's lease for keyed requests, after which the program is cut off.
pub(crate) fn outlasts(catalog: &Catalog, service: &ServiceRef, timeout: Duration, path: String) -> Option<Diagnostic> {
    let key = catalog.policies.traffic(service).next()?;
    let Some(Spec::Traffic(policy)) = catalog.spec(key) else { return None };
    let keyed = policy.idempotency.as_ref().filter(|keyed| keyed.is_ledgered() && keyed.lease < timeout)?;
    let message = format!(
        "the answer of Service \"{}\" is waited for {timeout:?}, but {key} gives a keyed request {:?}",
        service.name, keyed.lease
    );
    Some(Diagnostic::warning(&code::LEASE_SHORT, path, message))
}

/// What of a policy others keep out of force for a service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Overruled {
    /// Nothing.
    Nowhere,
    /// These fields, each by a policy that comes first.
    Partly(Vec<(&'static str, Key)>),
    /// All that it says, by these.
    Wholly(Vec<(&'static str, Key)>),
}

impl Overruled {
    /// In words; nothing if there is nothing to say.
    pub(crate) fn message(&self) -> Option<String> {
        let (Self::Partly(fields) | Self::Wholly(fields)) = self else { return None };
        let of = |(field, first): &(&str, Key)| format!("{first} decides {field}");
        let all: Vec<String> = fields.iter().map(of).collect();
        Some(format!("{} and comes first by name", all.join(", ")))
    }
}

/// Of several policies for a service, the first by name that speaks of a matter decides it.
pub(crate) fn overruled(catalog: &Catalog, key: &Key, policy: &TrafficPolicy, target: &ServiceRef) -> Overruled {
    let earlier: Vec<(&Key, Vec<&str>)> = catalog
        .policies
        .traffic(target)
        .filter(|other| *other < key)
        .filter_map(|other| match catalog.spec(other) {
            Some(Spec::Traffic(policy)) => Some((other, policy.matters())),
            _ => None,
        })
        .collect();
    let matters = policy.matters();
    let first = |matter: &&'static str| {
        let (first, _) = earlier.iter().find(|(_, decided)| decided.contains(matter))?;
        Some((*matter, (*first).clone()))
    };
    let lost: Vec<_> = matters.iter().filter_map(first).collect();
    match (lost.is_empty(), earlier.first()) {
        // One that says nothing is of no use beside another.
        (_, Some((first, _))) if matters.is_empty() => Overruled::Wholly(vec![("all", (*first).clone())]),
        (true, _) => Overruled::Nowhere,
        _ if lost.len() == matters.len() => Overruled::Wholly(lost),
        _ => Overruled::Partly(lost),
    }
}

/// Labels that no endpoint has, of a service that has some.
fn chooses_nobody(catalog: &Catalog, key: &Key, target: &ServiceRef) -> Option<Diagnostic> {
    let (_, choice) = catalog.choice(target).filter(|(decides, _)| *decides == key)?;
    let mut there = catalog.endpoints(target).chain(catalog.ways(target)).peekable();
    // Addresses of slices have no labels.
    let far = catalog.service(target).is_some_and(|service| catalog.takes_slices(target, service));
    let fits = |spec: &Spec| matches!(spec, Spec::Endpoint(endpoint) if choice.admits(&endpoint.labels));
    if choice.labels.is_empty() || (there.peek().is_none() && !far) || there.any(|resource| fits(&resource.spec)) {
        return None;
    }
    let message = format!("no endpoint of Service \"{}\" has the labels {}", target.name, choice.wanted());
    Some(Diagnostic::warning(&code::CHOICE_EMPTY, "spec.endpoints.labels", message))
}

/// A place with a share and without an endpoint, of a service that has some.
fn empty_place(catalog: &Catalog, key: &Key, policy: &TrafficPolicy, target: &ServiceRef) -> Option<Diagnostic> {
    let decides = |key: &&Key| matches!(catalog.spec(key), Some(Spec::Traffic(policy)) if policy.failover.is_some());
    let failover = policy.failover.as_ref().filter(|_| catalog.policies.traffic(target).find(decides) == Some(key))?;
    // Where addresses of slices are is the egress's affair, and a host outside is nowhere.
    let service = catalog.service(target)?;
    if service.outside.is_some() || catalog.takes_slices(target, service) || catalog.endpoints(target).next().is_none()
    {
        return None;
    }
    let is_at = |area: &Area| {
        let there = |spec: &Spec| matches!(spec, Spec::Endpoint(endpoint) if area.has(&endpoint.locality));
        catalog.endpoints(target).any(|resource| there(&resource.spec))
    };
    let entries = failover.distribute.iter().enumerate();
    let mut empty = entries.flat_map(|(i, entry)| entry.to.iter().map(move |(area, _)| (i, area)));
    let (i, area) = empty.find(|(_, area)| !is_at(area))?;
    let message = format!("no endpoint of Service \"{}\" is in {area}", target.name);
    Some(Diagnostic::warning(&code::PLACE_EMPTY, format!("spec.failover.distribute[{i}].to"), message))
}
