// SPDX-License-Identifier: Apache-2.0
//! Which listeners exist, by what the proxy is for. One file a mount; nothing else of the proxy asks
//! what it is mounted as. `proxy` binds what a mount names.

mod gateway;
mod sidecar;

use crate::config::{Config, Mount};
use crate::door::Door;
use crate::error::Error;
use crate::running::Handed;
use byrnie_engine::{Node, Role, Snapshot};
use byrnie_model::service::Locality;
use byrnie_net::listen::{self, Listener, Ports};
use std::net::SocketAddr;

/// A listener that a mount wants.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// What it stands for.
    pub(crate) door: Door,
    /// Its name in errors.
    pub(crate) what: &'static str,
    /// Where it should be; port 0 takes any.
    pub(crate) address: SocketAddr,
}

/// Listeners that an earlier proxy has left, each with what it stands for. They are all that there is: the program knows
/// these addresses, and no others.
pub(crate) fn handed(handed: Vec<Handed>) -> Result<Vec<(Wanted, Vec<Listener>)>, Error> {
    let one = |handed: Handed| {
        let door = Door::parse(&handed.door).filter(|_| !handed.sockets.is_empty());
        let door = door.ok_or(Error::Handed { door: handed.door })?;
        let address = handed.sockets[0].local_addr();
        Ok((Wanted { door, what: "a listener of an earlier proxy", address }, handed.sockets))
    };
    handed.into_iter().map(one).collect()
}

/// Listeners that are known before any configuration.
pub(crate) fn fixed(mount: &Mount) -> Vec<Wanted> {
    match mount {
        Mount::Sidecar(sidecar) => sidecar::fixed(sidecar),
        Mount::Gateway(gateway) => gateway::fixed(gateway),
    }
}

/// Listeners that follow from the first configuration.
pub(crate) fn by_configuration(mount: &Mount, snapshot: &Snapshot) -> Vec<Wanted> {
    match mount {
        Mount::Sidecar(sidecar) => sidecar::outbound(sidecar, snapshot),
        Mount::Gateway(_) => Vec::new(),
    }
}

/// What is to be at the address of a listener too: of a service that isn't known yet, nobody knows what it takes.
pub(crate) fn beside(wanted: &Wanted, address: SocketAddr) -> Option<Wanted> {
    let Door::Main(service) = &wanted.door else { return None };
    Some(Wanted { door: Door::MainDatagrams(service.clone()), what: wanted.what, address })
}

/// The node as the engine's compiler wants it.
pub(crate) fn node(config: &Config) -> Node {
    let (role, locality) = match &config.mount {
        Mount::Sidecar(sidecar) => (Role::Sidecar, sidecar.workload.locality.clone()),
        Mount::Gateway(_) => (Role::Gateway, Locality::default()),
    };
    Node {
        name: config.name.clone(),
        namespace: config.namespace.clone(),
        identity: config.identity.clone(),
        locality,
        role,
    }
}

/// Like [`bind`], but an inbound listener that may be anywhere is where it was before, if it can: others
/// know it by that until the control plane tells them better.
pub(crate) fn bind_again(
    wanted: &Wanted,
    before: Option<SocketAddr>,
    cores: usize,
    strict: bool,
) -> Result<Vec<Listener>, Error> {
    let before = before.filter(|before| {
        wanted.door == Door::Inbound && wanted.address.port() == 0 && before.ip() == wanted.address.ip()
    });
    let again = before.and_then(|address| bind(&Wanted { address, ..wanted.clone() }, cores, true).ok());
    again.map_or_else(|| bind(wanted, cores, strict), Ok)
}

/// A bound listener for each of `cores` cores, all at one address.
pub(crate) fn bind(wanted: &Wanted, cores: usize, strict: bool) -> Result<Vec<Listener>, Error> {
    let ports = if strict { Ports::Strict } else { Ports::Next };
    let fail = |error: listen::Error| Error::Port { what: wanted.what, address: error.address, cause: error.error };
    listen::bind_per_core(wanted.address, cores, ports, wanted.door.kind()).map_err(fail)
}
