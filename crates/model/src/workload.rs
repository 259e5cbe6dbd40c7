// SPDX-License-Identifier: Apache-2.0
//! One running instance.

use crate::policy::HealthCheck;
use crate::service::{Health, Locality};
use crate::{Identity, Protocol, ServiceRef};
use byrnie_base::Text;
use std::net::{IpAddr, SocketAddr};

/// One running instance of a program, with its proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Who it is.
    pub identity: Identity,
    /// Where its proxy is reached by others.
    pub address: IpAddr,
    /// Ports on which the program listens.
    pub ports: Vec<WorkloadPort>,
    /// The inbound mTLS listener of its proxy; `None` until the proxy has said.
    pub inbound: Option<SocketAddr>,
    /// The admin listener of its proxy.
    pub admin: Option<SocketAddr>,
    /// Services that it says it calls. Grants nothing.
    pub uses: Vec<ServiceRef>,
    /// Where it runs.
    pub locality: Locality,
    /// Share of traffic beside its siblings; at least 1.
    pub weight: u32,
    /// Whether it may be sent requests.
    pub health: Health,
    /// How its proxy asks the program whether it is well, beside what policies of its services say. Its `port` is the
    /// program's own, and always there; its times are whole seconds.
    pub check: Option<HealthCheck>,
}

/// A port on which a program listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    /// Its name; empty if it has none.
    pub name: Text,
    /// Its number.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}
