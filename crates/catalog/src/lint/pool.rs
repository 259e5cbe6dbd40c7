// SPDX-License-Identifier: Apache-2.0
//! Pools of inference servers: a name that is taken, a picker that can't be asked, members that aren't there.

use crate::catalog::Catalog;
use crate::view::service_key;
use byrnie_model::{Diagnostic, InferencePool, Key, ServiceRef, Spec, code};

pub(crate) fn check(catalog: &Catalog, key: &Key, pool: &InferencePool) -> Vec<Diagnostic> {
    let at = ServiceRef::new(key.namespace.clone(), key.name.clone());
    let mut found = Vec::new();
    if matches!(catalog.spec(&service_key(&at)), Some(Spec::Service(service)) if service.pool.is_none()) {
        let message = format!("a Service \"{}\" is in namespace \"{}\" already", at.name, at.namespace);
        found.push(Diagnostic::error(&code::POOL_SHADOWED, "metadata.name", message));
        return found;
    }
    if let Some(why) = pool.picker.as_ref().and_then(|picker| catalog.picker_unfit(key, picker)) {
        found.push(Diagnostic::error(&code::PICKER_UNFIT, "spec.endpointPickerRef", why));
    }
    let wanted = pool.selector.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
    let ports = pool.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let (path, message) = match (catalog.services.members(&at).next(), catalog.endpoints(&at).next()) {
        (None, _) => {
            let message = format!("no workload in namespace \"{}\" has the labels {wanted}", at.namespace);
            ("spec.selector.matchLabels", message)
        }
        (Some(_), None) => {
            ("spec.targetPorts", format!("no workload with the labels {wanted} has any of the ports {ports}"))
        }
        (Some(_), Some(_)) => return found,
    };
    found.push(Diagnostic::warning(&code::SELECTS_NOTHING, path, message));
    found
}
