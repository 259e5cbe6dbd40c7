// SPDX-License-Identifier: Apache-2.0
//! A proxy that runs, as its starter sees it.

use crate::{Config, Error};
use byrnie_model::ServiceRef;
use std::net::SocketAddr;
use std::time::Duration;

/// Where a proxy listens.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Mutual TLS from other proxies; `None` at the edge.
    pub inbound: Option<SocketAddr>,
    /// `/metrics` and its siblings.
    pub admin: SocketAddr,
    /// One for each port of each service that the program uses. A service that isn't known yet has a
    /// listener for port 80, which answers 404 or 503 until it is.
    pub outbound: Vec<Outbound>,
    /// The HTTP proxy for the program.
    pub forward: Option<SocketAddr>,
    /// Plain HTTP from outside.
    pub edge: Option<SocketAddr>,
}

/// One outbound listener.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// What is reached through it.
    pub service: ServiceRef,
    /// Which port of it.
    pub port: u16,
    /// Where the program connects.
    pub address: SocketAddr,
}

/// A proxy that runs. Dropping it stops it without draining.
#[derive(Debug)]
pub struct Running(());

impl Running {
    /// Waits until the first configuration is in force and every listener accepts.
    ///
    /// # Errors
    /// If the control plane refused the workload or wasn't reached in time.
    pub async fn ready(&mut self) -> Result<Ports, Error> {
        Err(Error::Stopped)
    }

    /// Stops accepting, lets running exchanges end for at most `deadline`, says goodbye to the
    /// registry, and stops.
    pub async fn drain(self, _deadline: Duration) {}
}

/// Starts a proxy: takes its ports, then works on threads of its own.
///
/// # Errors
/// If a port is busy or the state directory can't be used.
pub fn start(_config: Config) -> Result<Running, Error> {
    Err(Error::Stopped)
}
