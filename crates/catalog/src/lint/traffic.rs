// SPDX-License-Identifier: Apache-2.0
//! Traffic policies: targets that aren't there, and two that want the same target.

use crate::catalog::Catalog;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::{Diagnostic, Key, code};

pub(crate) fn check(catalog: &Catalog, key: &Key, policy: &TrafficPolicy) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (i, target) in policy.targets.iter().enumerate() {
        let at = format!("spec.targetRefs[{i}].name");
        if catalog.service(target).is_none() {
            found.push(catalog.absent_service(&code::TARGET_ABSENT, at, target));
            continue;
        }
        if let Some(first) = catalog.policies.traffic(target).find(|other| *other < key) {
            let message = format!("{first} targets \"{}\" already and comes first by name", target.name);
            found.push(Diagnostic::warning(&code::TRAFFIC_CONFLICT, at, message));
        }
    }
    found
}
