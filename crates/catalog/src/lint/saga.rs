// SPDX-License-Identifier: Apache-2.0
//! Sagas: calls of services that aren't there, steps that are sagas which aren't there, and circles of these.

use super::traffic;
use crate::catalog::Catalog;
use byrnie_base::Text;
use byrnie_model::saga::{self, Does, Saga, Undo};
use byrnie_model::{Diagnostic, Key, Kind, Severity, Spec, code};
use std::collections::BTreeSet;

pub(crate) fn check(catalog: &Catalog, key: &Key, definition: &Saga) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (i, step) in definition.steps.iter().enumerate() {
        let undo = match &step.undo {
            Some(Undo::Call { call, .. }) => Some(("undo", call)),
            _ => None,
        };
        let call = match &step.does {
            Does::Call { call, .. } => Some(("call", call)),
            Does::Saga { saga, .. } => {
                found.extend(check_nested(catalog, key, saga, format!("spec.steps[{i}].saga")));
                None
            }
        };
        for (field, call) in call.into_iter().chain(undo) {
            let Some((_, authority, _)) = saga::target(call) else { continue };
            let service = saga::service(authority, &key.namespace);
            let timeout = step.retry.timeout;
            let path = || format!("spec.steps[{i}].retry.timeout");
            found.extend(timeout.and_then(|timeout| traffic::outlasts(catalog, &service, timeout, path())));
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

fn check_nested(catalog: &Catalog, own: &Key, saga: &str, path: String) -> Option<Diagnostic> {
    let (namespace, name) = saga::named(saga, &own.namespace);
    let first = Key::new(Kind::Saga, namespace, name);
    let Some(mut parts) = parts_of(catalog, &first, own) else {
        let absent = Diagnostic::error(&code::STEP_SAGA, path, format!("there is no saga {name} in {namespace}"));
        return Some(Diagnostic { severity: Severity::Warning, ..absent });
    };
    // All that it leads to; each is looked at once.
    let mut seen: BTreeSet<Key> = [first.clone()].into();
    let mut leads_back = first == *own;
    while let Some(next) = parts.pop() {
        leads_back |= next == *own;
        if seen.insert(next.clone()) {
            parts.extend(parts_of(catalog, &next, own).unwrap_or_default());
        }
    }
    leads_back.then(|| Diagnostic::error(&code::STEP_SAGA, path, format!("{saga} leads back to {}", own.name)))
}

/// The sagas that are steps of one; nothing if it isn't there. `own` is the one that is looked at, perhaps before it is kept.
fn parts_of(catalog: &Catalog, key: &Key, own: &Key) -> Option<Vec<Key>> {
    let Some(Spec::Saga(saga)) = catalog.resource(key).map(|resource| &resource.spec) else {
        return (key == own).then(Vec::new);
    };
    let parts = saga.steps.iter().filter_map(|step| match &step.does {
        Does::Saga { saga, .. } => {
            let (namespace, name) = saga::named(saga, &key.namespace);
            Some(Key::new(Kind::Saga, Text::from(namespace), Text::from(name)))
        }
        Does::Call { .. } => None,
    });
    Some(parts.collect())
}
