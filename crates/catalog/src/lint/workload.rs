// SPDX-License-Identifier: Apache-2.0
//! Workloads: services that they use and that aren't there or won't let them in; listeners said twice.

use crate::catalog::Catalog;
use crate::index::policy::{callers, sets_of};
use crate::index::route::backends;
use crate::view::workload_key;
use byrnie_model::resource::DefaultAccess;
use byrnie_model::{Diagnostic, Identity, Key, Kind, ServiceRef, Spec, Workload, code};

pub(crate) fn check(catalog: &Catalog, key: &Key, workload: &Workload) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (i, service) in workload.uses.iter().enumerate() {
        let at = format!("spec.uses[{i}]");
        if catalog.service(service).is_none() {
            let mut absent = catalog.absent_service(&code::USES_ABSENT, at, service);
            absent.severity = byrnie_model::Severity::Warning;
            found.push(absent);
        } else if denies_by_default(catalog) && !lets_in(catalog, service, &workload.identity) {
            let account = workload.identity.service_account();
            let message = format!("no policy lets \"{account}\" call \"{}\", which this workload uses", service.name);
            let fix = format!("byrnie allow {account} {}", service.name);
            found.push(Diagnostic::warning(&code::USES_DENIED, at, message).fixed_by(fix));
        }
    }
    let mut there = workload.inbound.into_iter().flat_map(|address| catalog.workloads.listening(address));
    if let Some(twin) = there.find(|place| place.namespace != key.namespace || place.name != key.name) {
        let message = format!("{} says that it listens there too", workload_key(twin));
        found.push(Diagnostic::error(&code::ADDRESS_CONFLICT, "spec.inbound", message));
    }
    found
}

fn denies_by_default(catalog: &Catalog) -> bool {
    let allows = |spec: &Spec| matches!(spec, Spec::Mesh(mesh) if mesh.default_access == DefaultAccess::Allow);
    !catalog.iter(Kind::Mesh).any(|resource| allows(&resource.spec))
}

/// Whether some policy lets a caller make some call to the service, or to one that its routes lead to.
fn lets_in(catalog: &Catalog, service: &ServiceRef, caller: &Identity) -> bool {
    let allowed = |at: &ServiceRef| {
        let sets = sets_of(caller);
        catalog.policies.access(at).any(|key| {
            let Some(Spec::Access(policy)) = catalog.spec(key) else { return false };
            let callers = callers(policy);
            sets.iter().any(|set| callers.contains(set))
        })
    };
    let routed = catalog.routes.of_parent(service).filter_map(|key| match catalog.spec(key) {
        Some(Spec::Route(route)) => Some(backends(route)),
        _ => None,
    });
    allowed(service) || routed.flatten().any(|backend| allowed(&backend))
}
