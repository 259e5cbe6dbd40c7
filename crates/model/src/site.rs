// SPDX-License-Identifier: Apache-2.0
//! Another mesh, with a control plane and authorities of its own (`Site`): whose word counts for its identities, where it
//! lets this one's callers in, and which services are to be had there too. What this mesh lets others reach is said by a
//! `ServiceExport`, service by service.

use crate::{Identity, ServiceRef};
use byrnie_base::Text;
use std::net::SocketAddr;

/// Most gateways of one site.
pub const GATEWAYS_MAX: usize = 8;
/// Most services that one site serves for this mesh.
pub const IMPORTS_MAX: usize = 1000;
/// Longest text of authorities, in bytes.
pub const AUTHORITIES_BYTES_MAX: usize = 64 * 1024;
/// Ways to a service by one gateway. Each is a connection of its own, for which the gateway chooses an endpoint: a caller
/// spreads its calls over as many.
pub const WAYS: u8 = 4;

/// Another mesh, as this one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The trust domain of its identities; never this mesh's own.
    pub trust_domain: Text,
    /// Who vouches for its identities, and for no others: certificates as PEM. That they are certificates is checked where
    /// there is a crypto library.
    pub authorities: Text,
    /// Where it lets others in; empty if nothing of it is called from here. At most [`GATEWAYS_MAX`].
    pub gateways: Vec<SocketAddr>,
    /// What it serves beside this mesh. At most [`IMPORTS_MAX`]; each service once.
    pub services: Vec<Import>,
}

/// A service of this mesh that another site serves too, under the same name and port numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Which.
    pub service: ServiceRef,
    /// Who must be found there.
    pub identity: Identity,
}

/// One of the ways to a service at another site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The name of the site.
    pub site: Text,
    /// Tells ways by one gateway apart; below [`WAYS`].
    pub number: u8,
}

impl Site {
    /// Every way to a service there: its name, which no workload can have, where it begins, and its number.
    pub fn ways<'a>(&'a self, site: &'a str) -> impl Iterator<Item = (Text, SocketAddr, Way)> + 'a {
        let gateways = self.gateways.iter().zip(0u32..);
        gateways.flat_map(move |(address, at)| {
            (0..WAYS).map(move |number| {
                let name = format!("{site}.{}", at * u32::from(WAYS) + u32::from(number));
                (name.into(), *address, Way { site: site.into(), number })
            })
        })
    }
}
