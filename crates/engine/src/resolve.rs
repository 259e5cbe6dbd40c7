// SPDX-License-Identifier: Apache-2.0
//! From the door and the authority to the service port that is asked for. Names are compared with what
//! is in view and with nothing else: no DNS, and no way out but to hosts that a service stands for.

use crate::snapshot::{Port, Snapshot, Subtree};
use crate::{Direction, Gate, Reason};
use byrnie_model::ServiceRef;
use std::sync::Arc;

/// Endings of mesh names. The empty one is for the forward proxy, where `http://payments/` works.
const SUFFIXES: [&str; 4] = [".mesh.localhost", ".mesh", ".svc.cluster.local", ".svc"];
/// The port that an authority without one means.
const HTTP_PORT: u16 = 80;
/// The namespace that may be left out at the edge.
const EDGE_NAMESPACE: &str = "default";

/// What was asked for last, by service port: most requests ask for what one of the last few asked for. It holds for the one
/// snapshot that it was found in.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    snapshot: Option<Arc<Snapshot>>,
    found: [Option<Found>; RECENT_MAX],
    /// Which of them makes room next.
    turn: usize,
}

/// Service ports that a core knows without looking for them. Looking through more would cost what it saves.
const RECENT_MAX: usize = 4;

/// A service port that was asked for.
#[derive(Debug)]
struct Found {
    service: ServiceRef,
    number: u16,
    tree: Arc<Subtree>,
    /// Its place among the ports of the service.
    at: usize,
}

impl Recent {
    /// As [`resolve`]: the service, and the place of the port among its ports.
    pub(crate) fn resolve<'h>(
        &mut self,
        snapshot: &Arc<Snapshot>,
        direction: &Direction<'_>,
        authority: impl FnOnce() -> (&'h str, Option<u16>),
    ) -> Result<(Arc<Subtree>, usize), Reason> {
        let asked = match direction {
            Direction::Service { service, port, .. } | Direction::Inbound { service, port } => Some((*service, *port)),
            _ => None,
        };
        if !self.snapshot.as_ref().is_some_and(|held| Arc::ptr_eq(held, snapshot)) {
            *self = Self { snapshot: Some(Arc::clone(snapshot)), ..Self::default() };
        }
        let known = self.found.iter().flatten().find(|found| asked == Some((&found.service, found.number)));
        if let Some(known) = known {
            return Ok((Arc::clone(&known.tree), known.at));
        }
        let (tree, port) = resolve(snapshot, direction, authority)?;
        let at = tree.ports.iter().position(|other| std::ptr::eq(other, port)).unwrap_or_default();
        if let Some((service, number)) = asked {
            self.found[self.turn] = Some(Found { service: service.clone(), number, tree: Arc::clone(tree), at });
            self.turn = (self.turn + 1) % RECENT_MAX;
        }
        Ok((Arc::clone(tree), at))
    }
}

/// The service port asked for. `authority` tells host and port of the authority, where the door alone doesn't say.
pub(crate) fn resolve<'s, 'h>(
    snapshot: &'s Snapshot,
    direction: &Direction<'_>,
    authority: impl FnOnce() -> (&'h str, Option<u16>),
) -> Result<(&'s Arc<Subtree>, &'s Port), Reason> {
    match direction {
        Direction::Service { service, port, .. } | Direction::Inbound { service, port } => {
            snapshot.port(service, *port).ok_or(Reason::UnknownService)
        }
        // What isn't exported is as if it weren't there.
        Direction::Site { service, port } => {
            snapshot.exports.get(*service).and_then(|_| snapshot.port(service, *port)).ok_or(Reason::UnknownService)
        }
        Direction::Forward => {
            let (host, port) = authority();
            let (name, namespace) = split(strip(host).unwrap_or(host), &snapshot.node.namespace);
            let number = port.unwrap_or(HTTP_PORT);
            match snapshot.subtree(namespace, name) {
                Some(tree) if tree.closed && !snapshot.default_allows() => Err(Reason::AccessDenied),
                Some(tree) => Ok((tree, tree.port(number).ok_or(Reason::UnknownService)?)),
                None => outside(snapshot, host, number).ok_or(Reason::UnknownService),
            }
        }
        // What is for the outside has no names of the mesh.
        Direction::Edge(Gate::Port { .. } | Gate::Datagrams(_)) => Err(Reason::UnknownService),
        Direction::Edge(Gate::Own) => {
            let (host, port) = authority();
            let (name, namespace) = split(strip(host).ok_or(Reason::UnknownService)?, EDGE_NAMESPACE);
            let tree = snapshot.subtree(namespace, name).ok_or(Reason::UnknownService)?;
            // The authority's port is the edge's own, unless the service happens to have it too.
            let named = port.and_then(|port| tree.port(port)).filter(|port| port.protocol.is_http());
            let port = named.or_else(|| tree.main_port()).ok_or(Reason::UnknownService)?;
            Ok((tree, port))
        }
    }
}

/// The service that stands for a host outside: one of the own namespace before others.
fn outside<'s>(snapshot: &'s Snapshot, host: &str, number: u16) -> Option<(&'s Arc<Subtree>, &'s Port)> {
    let by_name = snapshot.outside.get(host);
    let services = by_name.or_else(|| patterns(host).find_map(|pattern| snapshot.outside.get(&*pattern)))?;
    let found = services.iter().filter_map(|at| snapshot.port(at, number));
    found.min_by_key(|(tree, _)| tree.service.namespace != snapshot.node.namespace)
}

/// `*.DOMAIN` for each domain that a host is below, the nearest first.
fn patterns(host: &str) -> impl Iterator<Item = String> {
    host.match_indices('.').map(|(at, _)| format!("*{}", &host[at..]))
}

impl Snapshot {
    /// The service that `host` names to the program beside this node, as on the forward proxy; of one that stands for a
    /// host outside, it must have this port.
    pub fn named(&self, host: &str, port: u16) -> Option<&ServiceRef> {
        let (name, namespace) = split(strip(host).unwrap_or(host), &self.node.namespace);
        let tree = self.subtree(namespace, name).or_else(|| outside(self, host, port).map(|(tree, _)| tree));
        tree.map(|tree| &tree.service)
    }
}

fn strip(host: &str) -> Option<&str> {
    SUFFIXES.iter().find_map(|suffix| host.strip_suffix(suffix)).filter(|name| !name.is_empty())
}

/// `NAME` or `NAME.NAMESPACE`.
fn split<'a>(name: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
    name.split_once('.').unwrap_or((name, namespace))
}

#[cfg(test)]
mod tests;
