// SPDX-License-Identifier: Apache-2.0
//! What a refused caller is told of why.

use crate::route::{Chosen, Entry, Miss};
use crate::{Arrival, Direction, Gate};
use byrnie_base::Text;
use byrnie_codec::Head;
use byrnie_model::route::Standing;

/// Nobody of this name is known here.
pub(super) fn unknown_service(arrival: &Arrival<'_>, head: &Head) -> String {
    match arrival.direction {
        Direction::Service { service, port, .. }
        | Direction::Site { service, port }
        | Direction::Inbound { service, port } => {
            format!("no service {service} with port {port} is known here")
        }
        Direction::Forward | Direction::Edge(Gate::Own) => {
            format!("no service of the mesh is called {}", head.authority())
        }
        Direction::Edge(Gate::Port { number, .. } | Gate::Datagrams(number)) => {
            format!("no listener of a gateway at port {number} has a route for {}", head.authority())
        }
    }
}

/// A route leads to nobody.
pub(crate) fn absent_backend(chosen: &Chosen) -> String {
    match chosen.backend() {
        Some(backend) => {
            let (label, to) = (chosen.label(), &backend.to);
            match &to.standing {
                Standing::Granted if to.is_pool() => {
                    format!("{label} sends to the pool {}, which does not exist", to.service)
                }
                Standing::Granted => format!("{label} sends to {}:{}, which does not exist", to.service, to.port),
                Standing::Foreign => {
                    format!("{label} sends to {} in another namespace, which no ReferenceGrant allows", to.service)
                }
                Standing::Unserved(kind) => {
                    format!("{label} sends to {} of kind {kind}, which is not served", to.service.name)
                }
            }
        }
        None => format!("{} has no backend with a weight above 0", chosen.label()),
    }
}

/// The first match that asks for this path but for something else too, or else the first of all.
pub(super) fn nearest<'a, M: Iterator<Item = (&'a Entry, Option<Miss<'a>>)>>(misses: impl Fn() -> M) -> Option<Text> {
    let by_path = misses().find(|(_, miss)| !matches!(miss, Some(Miss::Path(_))));
    let (entry, miss) = by_path.or_else(|| misses().next())?;
    Some(format!("closest rule {}: {}", entry.label(), miss?).into())
}
