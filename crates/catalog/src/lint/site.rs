// SPDX-License-Identifier: Apache-2.0
//! Other sites: one that would speak for this mesh's own identities, and services that are named and aren't there.

use crate::catalog::Catalog;
use byrnie_model::gateway::Carries;
use byrnie_model::{Diagnostic, Key, Kind, ServiceRef, Site, Spec, code};

pub(crate) fn check(catalog: &Catalog, site: &Site) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if is_own(catalog, &site.trust_domain) {
        let message =
            format!("\"{}\" is this mesh's own trust domain, for which no other may speak", site.trust_domain);
        found.push(Diagnostic::error(&code::SITE_UNFIT, "spec.trustDomain", message));
    }
    for (i, import) in site.services.iter().enumerate() {
        if catalog.service(&import.service).is_none() {
            let at = format!("spec.services[{i}].name");
            let absent = catalog.absent_service(&code::SITE_SERVICE_ABSENT, at, &import.service);
            found.push(Diagnostic { severity: byrnie_model::Severity::Warning, ..absent });
        }
    }
    found
}

/// An export that nobody can follow.
pub(crate) fn export(catalog: &Catalog, key: &Key) -> Vec<Diagnostic> {
    let at = ServiceRef::new(key.namespace.clone(), key.name.clone());
    let Some(service) = catalog.service(&at) else {
        return vec![catalog.absent_service(&code::SITE_SERVICE_ABSENT, "metadata.name".to_owned(), &at)];
    };
    if service.outside.is_some() || service.takes_slices() {
        let message = format!("Service \"{}\" has no workloads of this mesh, which alone are exported", at.name);
        return vec![Diagnostic::warning(&code::EXPORT_UNREACHED, "metadata.name", message)];
    }
    let lets_in = |spec: &Spec| matches!(spec, Spec::Gateway(gateway) if gateway.listeners.iter().any(|l| l.carries == Carries::Sites));
    if Kind::GATEWAYS.into_iter().flat_map(|kind| catalog.iter(kind)).all(|resource| !lets_in(&resource.spec)) {
        let message = "no Gateway has a listener of protocol mesh.byrnie.dev/sites";
        return vec![Diagnostic::warning(&code::EXPORT_UNREACHED, "metadata.name", message)];
    }
    Vec::new()
}

/// Whether this is the mesh's own trust domain.
fn is_own(catalog: &Catalog, domain: &str) -> bool {
    catalog.iter(Kind::Mesh).any(|mesh| matches!(&mesh.spec, Spec::Mesh(mesh) if *mesh.trust_domain == *domain))
}

/// Whether another site has this trust domain.
pub(crate) fn has_domain(catalog: &Catalog, domain: &str) -> bool {
    catalog.iter(Kind::Site).any(|site| matches!(&site.spec, Spec::Site(site) if *site.trust_domain == *domain))
}
