// SPDX-License-Identifier: Apache-2.0
//! Route.parents  =>  routes(Service);  Route.parents x Route.backends  =>  referrers(Service): the parents
//! whose routes name it as a backend.

use super::Multi;
use byrnie_model::{Key, Route, ServiceRef};
use std::collections::BTreeSet;

/// Which routes stand on which services, and where they lead.
#[derive(Debug, Default)]
pub(crate) struct RouteIndex {
    by_parent: Multi<ServiceRef, Key>,
    /// With the route, as several may relate the same two services.
    referrers: Multi<ServiceRef, (ServiceRef, Key)>,
}

impl RouteIndex {
    pub(crate) fn replace(&mut self, key: &Key, old: Option<&Route>, new: Option<&Route>) {
        if let Some(route) = old {
            let backends = backends(route);
            for parent in parents(route) {
                for backend in &backends {
                    self.referrers.remove(backend, &(parent.clone(), key.clone()));
                }
                self.by_parent.remove(&parent, key);
            }
        }
        if let Some(route) = new {
            let backends = backends(route);
            for parent in parents(route) {
                for backend in &backends {
                    self.referrers.insert(backend.clone(), (parent.clone(), key.clone()));
                }
                self.by_parent.insert(parent, key.clone());
            }
        }
    }

    pub(crate) fn of_parent(&self, parent: &ServiceRef) -> impl Iterator<Item = &Key> {
        self.by_parent.of(parent)
    }

    /// Parents whose routes lead to this service; one may come more than once.
    pub(crate) fn referrers(&self, backend: &ServiceRef) -> impl Iterator<Item = &ServiceRef> {
        self.referrers.of(backend).map(|(parent, _)| parent)
    }
}

pub(crate) fn parents(route: &Route) -> BTreeSet<ServiceRef> {
    route.parents.iter().map(|parent| parent.service.clone()).collect()
}

pub(crate) fn backends(route: &Route) -> BTreeSet<ServiceRef> {
    route.rules.iter().flat_map(|rule| &rule.backends).map(|backend| backend.service.clone()).collect()
}
