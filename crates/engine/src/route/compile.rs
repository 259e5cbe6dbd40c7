// SPDX-License-Identifier: Apache-2.0
//! One route of whatever kind, compiled once when it changes and shared by the tables of all its parents.

use super::{CompiledMatch, CompiledRule, Copied};
use crate::filter::Changes;
use crate::slot::Slot;
use byrnie_base::Text;
use byrnie_model::gateway::{host_fits, host_rank};
use byrnie_model::route::{Destination, Mirror, Parent, Route, RouteFilter, mirrors};
use byrnie_model::{Key, Kind, Revision, ServiceRef};
use std::sync::Arc;

/// A route, compiled.
#[derive(Debug)]
pub(crate) struct CompiledRoute {
    pub(crate) spec: Arc<Route>,
    pub(crate) rules: Box<[CompiledRule]>,
    pub(crate) kind: Kind,
    namespace: Text,
    /// `NAMESPACE/NAME`.
    name: Text,
    created: Revision,
}

impl CompiledRoute {
    /// Compiles a route that began to exist at `created`; `slot_of` gives the cluster of a destination.
    pub(crate) fn new(
        key: &Key,
        created: Revision,
        spec: &Arc<Route>,
        mut slot_of: impl FnMut(&Destination) -> Slot,
    ) -> Result<Self, String> {
        let name: Text = format!("{}/{}", key.namespace, key.name).into();
        let mut rules = Vec::with_capacity(spec.rules.len());
        for (index, rule) in spec.rules.iter().enumerate() {
            let matches = rule.matches.iter().map(CompiledMatch::new).collect::<Result<Box<[_]>, _>>();
            let mut copies = Vec::new();
            copy(&rule.filters, None, &mut slot_of, &mut copies);
            for (at, backend) in rule.backends.iter().enumerate() {
                copy(&backend.filters, u16::try_from(at).ok(), &mut slot_of, &mut copies);
            }
            rules.push(CompiledRule {
                label: format!("{name}[{index}]").into(),
                matches: matches.map_err(|error| format!("rule {index}: {error}"))?,
                clusters: rule.backends.iter().map(|backend| slot_of(&backend.to)).collect(),
                weight_total: rule.backends.iter().map(|backend| u64::from(backend.weight)).sum(),
                copies: copies.into(),
                changes: Changes::of(&rule.filters),
                of_backends: rule.backends.iter().map(|backend| Changes::of(&backend.filters)).collect(),
            });
        }
        let (namespace, kind) = (key.namespace.clone(), key.kind);
        Ok(Self { spec: Arc::clone(spec), rules: rules.into(), kind, namespace, name, created })
    }

    /// Whether the route is attached to this port of a service, for a caller of this namespace, and as
    /// whose: the consumer's routes take the place of the producer's (GEP-1294).
    pub(crate) fn stands_on(&self, service: &ServiceRef, port: u16, caller: &str) -> Option<Side> {
        let attached = |parent: &Parent| parent.as_service() == Some(service) && parent.port.is_none_or(|p| p == port);
        if !self.spec.parents.iter().any(attached) {
            return None;
        }
        if self.namespace == service.namespace {
            return Some(Side::Producer);
        }
        (*self.namespace == *caller).then_some(Side::Consumer)
    }

    /// How special the most special of its host names is that fits; `None` if none does.
    pub(crate) fn host_rank(&self, host: &str) -> Option<(bool, usize)> {
        let any = self.spec.hostnames.is_empty().then_some(None);
        let names = self.spec.hostnames.iter().map(|name| Some(&**name)).chain(any);
        names.filter(|name| host_fits(*name, host)).map(host_rank).max()
    }

    /// Its place among routes of equal rank: the oldest comes first, then the first by name.
    pub(crate) fn order(&self) -> (Revision, &str) {
        (self.created, &self.name)
    }

    /// How special the kind is: of several on one port only the most special counts (GEP-1426).
    pub(crate) fn speciality(&self) -> u8 {
        match self.kind {
            Kind::GrpcRoute => 3,
            Kind::HttpRoute => 2,
            Kind::TlsRoute => 1,
            _ => 0,
        }
    }
}

/// Whose route it is, seen from the service that it's attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The service's own: for every caller.
    Producer,
    /// The caller's own.
    Consumer,
}

fn copy(
    filters: &[RouteFilter],
    backend: Option<u16>,
    slot_of: &mut impl FnMut(&Destination) -> Slot,
    into: &mut Vec<Copied>,
) {
    for Mirror { to, share, of } in mirrors(filters) {
        let granted = to.standing == byrnie_model::route::Standing::Granted;
        let cluster = slot_of(to);
        if granted && *share > 0 {
            into.push(Copied { cluster, backend, share: *share, of: *of });
        }
    }
}
