// SPDX-License-Identifier: Apache-2.0
//! Traffic policies: targets and ports that aren't there, and two that want the same target.

use crate::catalog::Catalog;
use byrnie_model::outside::is_pattern;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::idempotency::KeyMode;
use byrnie_model::{Diagnostic, Key, ServiceRef, Spec, code};
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
        if let Some(number) = checked.filter(|number| service.ports.iter().all(|port| port.port != *number)) {
            let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
            let message = format!("Service \"{}\" has no port {number}; it has {}", target.name, ports.join(", "));
            found.push(Diagnostic::error(&code::PORT_ABSENT, "spec.endpoints.healthCheck.port", message));
        }
        let many = service.outside.as_ref().filter(|host| is_pattern(host));
        if let Some(many) = many.filter(|_| policy.health_check().is_some()) {
            let message = format!("Service \"{}\" stands for {many}, and a health check asks one host", target.name);
            found.push(Diagnostic::error(&code::NOT_ENFORCED, "spec.endpoints.healthCheck", message));
        }
        if let Some(first) = catalog.policies.traffic(target).find(|other| *other < key) {
            let message = format!("{first} targets \"{}\" already and comes first by name", target.name);
            found.push(Diagnostic::warning(&code::TRAFFIC_CONFLICT, at, message));
        }
    }
    found
}

/// A call that is waited for longer than the service's lease for keyed requests, after which the program is cut off.
pub(crate) fn outlasts(catalog: &Catalog, service: &ServiceRef, timeout: Duration, path: String) -> Option<Diagnostic> {
    let key = catalog.policies.traffic(service).next()?;
    let Some(Spec::Traffic(policy)) = catalog.spec(key) else { return None };
    let keyed = policy.idempotency.as_ref().filter(|keyed| keyed.mode != KeyMode::Off && keyed.lease < timeout)?;
    let message = format!(
        "the answer of Service \"{}\" is waited for {timeout:?}, but {key} gives a keyed request {:?}",
        service.name, keyed.lease
    );
    Some(Diagnostic::warning(&code::LEASE_SHORT, path, message))
}
