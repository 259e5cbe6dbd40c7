// SPDX-License-Identifier: Apache-2.0
//! Sagas: calls of services that aren't there.

use crate::catalog::Catalog;
use byrnie_model::saga::{self, Saga, Undo};
use byrnie_model::{Diagnostic, Key, Severity, code};

pub(crate) fn check(catalog: &Catalog, key: &Key, definition: &Saga) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (i, step) in definition.steps.iter().enumerate() {
        let undo = match &step.undo {
            Some(Undo::Call { call, .. }) => Some(("undo", call)),
            _ => None,
        };
        for (field, call) in [("call", &step.call)].into_iter().chain(undo) {
            let Some((_, authority, _)) = saga::target(call) else { continue };
            let service = saga::service(authority, &key.namespace);
            if catalog.service(&service).is_none() {
                let path = format!("spec.steps[{i}].{field}");
                let missing = catalog.absent_service(&code::STEP_SERVICE, path, &service);
                // It may come before the saga is started, which is judged again.
                found.push(Diagnostic { severity: Severity::Warning, ..missing });
            }
        }
    }
    found
}
