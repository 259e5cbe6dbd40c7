// SPDX-License-Identifier: Apache-2.0
//! The listeners of a proxy beside one program: mutual TLS for others, and loopback listeners for the
//! program alone.

use super::Wanted;
use crate::config::Sidecar;
use crate::door::Door;
use byrnie_engine::Snapshot;
use byrnie_model::{Protocol, ServiceRef};
use std::net::{Ipv4Addr, SocketAddr};

/// Most outbound listeners: bounded by what `uses` may name.
const OUTBOUND_MAX: usize = 256;

pub(super) fn fixed(sidecar: &Sidecar) -> Vec<Wanted> {
    let inbound = Wanted { door: Door::Inbound, what: "inbound", address: sidecar.inbound };
    let forward =
        sidecar.forward.map(|address| Wanted { door: Door::Forward(sidecar.forward_for), what: "forward", address });
    std::iter::once(inbound).chain(forward).collect()
}

pub(super) fn outbound(sidecar: &Sidecar, snapshot: &Snapshot) -> Vec<Wanted> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut wanted = Vec::new();
    for service in &sidecar.workload.uses {
        let mut doors: Vec<Door> =
            snapshot.ports(service).map(|(port, protocol)| door(service, port, protocol)).collect();
        if doors.is_empty() {
            // Not there yet: the address must exist before the program starts, and leads on once it is.
            doors.push(Door::Main(service.clone()));
        }
        wanted.extend(doors.into_iter().map(|door| Wanted { door, what: "outbound", address }));
    }
    wanted.truncate(OUTBOUND_MAX);
    wanted
}

fn door(service: &ServiceRef, port: u16, protocol: Protocol) -> Door {
    match protocol {
        Protocol::Udp => Door::Datagrams(service.clone(), port),
        _ => Door::Service(service.clone(), port),
    }
}
