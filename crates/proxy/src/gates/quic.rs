// SPDX-License-Identifier: Apache-2.0
//! The ports of HTTP/3: one beside each port that serves HTTPS, with the same number. One that can't be opened is tried again,
//! and nobody is told of it meanwhile; HTTPS doesn't wait for it.

use crate::quic::Port;
use crate::worker::{Entrance, InForce};
use byrnie_model::gateway;
use byrnie_net::quic;
use byrnie_net::runtime::{self, Trigger};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tokio::sync::mpsc;

/// Those that are open.
#[derive(Default)]
pub(super) struct Ports {
    open: BTreeMap<u16, Trigger>,
    /// Why some are not.
    closed: BTreeMap<u16, String>,
    /// Opened so far: each goes to the next core.
    opened: usize,
    /// What the cores know.
    offered: BTreeSet<u16>,
}

impl Ports {
    /// Opens and closes what the configuration asks for, and tells the cores. Whether one has to be tried again.
    pub(super) fn attend(&mut self, own: SocketAddr, cores: &[mpsc::UnboundedSender<Entrance>], now: &InForce) -> bool {
        // Behind a balancer nobody could say who a client is: the PROXY protocol is one of connections.
        let wanted = |port: &u16| now.gates.quic(*port).filter(|_| !now.snapshot.balancers().contains_key(port));
        // What is under way there ends in order.
        self.open.retain(|port, _| wanted(port).is_some());
        self.closed.retain(|port, _| wanted(port).is_some());
        for (&port, config) in now.gates.served.keys().filter_map(|port| match port {
            gateway::Port::Tcp(number) => Some((number, wanted(number)?)),
            gateway::Port::Udp(_) => None,
        }) {
            if self.open.contains_key(&port) {
                continue;
            }
            match quic::bind(SocketAddr::new(own.ip(), port)) {
                Ok(socket) => {
                    let (trigger, until) = runtime::shutdown();
                    let entrance = Entrance::Quic(Port { number: port, socket, config: config.clone(), until });
                    if let Some(core) = cores.get(self.opened % cores.len().max(1)) {
                        // A core that has ended already is noticed by its absence in the counters.
                        let _ = core.send(entrance);
                    }
                    self.opened += 1;
                    self.open.insert(port, trigger);
                    self.closed.remove(&port);
                    tracing::info!(port, "HTTP/3 is served at a port of a gateway");
                }
                Err(error) => {
                    let why = error.to_string();
                    if self.closed.get(&port) != Some(&why) {
                        let code = byrnie_model::code::PORT_CLOSED.id;
                        tracing::warn!(code, error = why, "no HTTP/3 at a port of a gateway; trying again");
                        self.closed.insert(port, why);
                    }
                }
            }
        }
        let offers: BTreeSet<u16> = self.open.keys().copied().collect();
        if offers != self.offered {
            for core in cores {
                // As above.
                let _ = core.send(Entrance::Offers(offers.clone()));
            }
            self.offered = offers;
        }
        !self.closed.is_empty()
    }
}
