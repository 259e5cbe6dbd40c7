// SPDX-License-Identifier: Apache-2.0
//! One `HTTPRoute`, compiled once when it changes and shared by the tables of all its parents.

use super::{CompiledMatch, CompiledRule};
use crate::slot::Slot;
use byrnie_base::Text;
use byrnie_model::route::{Backend, Parent, Route};
use byrnie_model::{Key, ServiceRef};
use std::sync::Arc;

/// A route, compiled.
#[derive(Debug)]
pub(crate) struct CompiledRoute {
    pub(crate) spec: Arc<Route>,
    pub(crate) rules: Box<[CompiledRule]>,
    /// `NAMESPACE/NAME`: by it, routes of equal rank are ordered.
    name: Text,
}

impl CompiledRoute {
    /// Compiles a route; `slot_of` gives the cluster of a backend.
    pub(crate) fn new(key: &Key, spec: &Arc<Route>, mut slot_of: impl FnMut(&Backend) -> Slot) -> Result<Self, String> {
        let name: Text = format!("{}/{}", key.namespace, key.name).into();
        let mut rules = Vec::with_capacity(spec.rules.len());
        for (index, rule) in spec.rules.iter().enumerate() {
            let matches = rule.matches.iter().map(CompiledMatch::new).collect::<Result<Box<[_]>, _>>();
            rules.push(CompiledRule {
                label: format!("{name}[{index}]").into(),
                matches: matches.map_err(|error| format!("rule {index}: {error}"))?,
                clusters: rule.backends.iter().map(&mut slot_of).collect(),
                weight_total: rule.backends.iter().map(|backend| u64::from(backend.weight)).sum(),
            });
        }
        Ok(Self { spec: Arc::clone(spec), rules: rules.into(), name })
    }

    /// Whether the route is attached to this port.
    pub(crate) fn is_for(&self, service: &ServiceRef, port: u16) -> bool {
        let attached = |parent: &Parent| parent.service == *service && parent.port.is_none_or(|p| p == port);
        self.spec.parents.iter().any(attached)
    }

    /// Its place among routes of equal rank. Gateway API asks for the oldest one first; a resource
    /// does not carry its age here, so that the next criterion, the name, decides.
    pub(crate) fn order(&self) -> &str {
        &self.name
    }
}
