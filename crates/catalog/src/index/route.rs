// SPDX-License-Identifier: Apache-2.0
//! Route.parents  =>  routes(Service);  Route.parents x Route.backends  =>  referrers(Service): the parents
//! whose routes name it as a backend.

use super::Multi;
use byrnie_base::Text;
use byrnie_model::route::Standing;
use byrnie_model::{Key, Route, ServiceRef};
use std::collections::BTreeSet;

/// Which routes stand on which services, and where they lead.
#[derive(Debug, Default)]
pub(crate) struct RouteIndex {
    by_parent: Multi<ServiceRef, Key>,
    /// Those that name a gateway.
    at_gateways: BTreeSet<Key>,
    /// With the route, as several may relate the same two services.
    referrers: Multi<ServiceRef, (ServiceRef, Key)>,
    /// By namespace and name of an HTTPRouteFilter, those that answer as it says.
    by_filter: Multi<(Text, Text), Key>,
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
            for direct in route.answers() {
                self.by_filter.remove(&(key.namespace.clone(), direct.filter.clone()), key);
            }
        }
        if new.is_some_and(|route| route.parents.iter().any(|parent| parent.as_service().is_none())) {
            self.at_gateways.insert(key.clone());
        } else {
            self.at_gateways.remove(key);
        }
        if let Some(route) = new {
            let backends = backends(route);
            for parent in parents(route) {
                for backend in &backends {
                    self.referrers.insert(backend.clone(), (parent.clone(), key.clone()));
                }
                self.by_parent.insert(parent, key.clone());
            }
            for direct in route.answers() {
                self.by_filter.insert((key.namespace.clone(), direct.filter.clone()), key.clone());
            }
        }
    }

    /// Routes that name a gateway.
    pub(crate) fn at_gateways(&self) -> impl Iterator<Item = &Key> {
        self.at_gateways.iter()
    }

    /// Routes that answer as this HTTPRouteFilter says.
    pub(crate) fn answering(&self, filter: &Key) -> impl Iterator<Item = &Key> {
        self.by_filter.of(&(filter.namespace.clone(), filter.name.clone()))
    }

    pub(crate) fn of_parent(&self, parent: &ServiceRef) -> impl Iterator<Item = &Key> {
        self.by_parent.of(parent)
    }

    /// Parents whose routes lead to this service, each with the route.
    pub(crate) fn referrers(&self, backend: &ServiceRef) -> impl Iterator<Item = &(ServiceRef, Key)> {
        self.referrers.of(backend)
    }
}

pub(crate) fn parents(route: &Route) -> BTreeSet<ServiceRef> {
    route.services().cloned().collect()
}

/// Whether a route in the namespace `own` is for callers of `caller` at this parent: a producer's is for
/// all, a consumer's for its own namespace.
pub(crate) fn is_for(own: &str, parent: &ServiceRef, caller: &str) -> bool {
    *parent.namespace == *own || *own == *caller
}

/// Services that requests or copies of them may go to.
pub(crate) fn backends(route: &Route) -> BTreeSet<ServiceRef> {
    let served = route.destinations().filter(|to| !matches!(to.standing, Standing::Unserved(_)));
    served.map(|to| to.service.clone()).collect()
}
