// SPDX-License-Identifier: Apache-2.0
//! A proxy that runs, as its starter sees it.

use crate::Error;
use byrnie_base::drain::Drain;
use byrnie_model::{Protocol, ServiceRef};
use byrnie_net::runtime::{self, Core, Trigger};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the registry may take to hear that the workload leaves.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How long others may take to stop sending once they were told.
const SETTLE: Duration = Duration::from_millis(300);
/// How long the threads may take to end once they were told.
const STOP_MAX: Duration = Duration::from_secs(2);

/// How often it is looked whether all has ended.
const GLANCE: Duration = Duration::from_millis(5);

/// Where a proxy listens.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Mutual TLS from other proxies; `None` at the edge.
    pub inbound: Option<SocketAddr>,
    /// `/metrics` and its siblings.
    pub admin: SocketAddr,
    /// One for each port of each service that the program uses. A service that isn't known yet has one
    /// listener, which answers 404 or 503 until it is, and leads to its first port from then on.
    pub outbound: Vec<Outbound>,
    /// The HTTP proxy for the program.
    pub forward: Option<SocketAddr>,
    /// Plain HTTP from outside.
    pub edge: Option<SocketAddr>,
}

/// One outbound listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// What is reached through it.
    pub service: ServiceRef,
    /// Which port of it.
    pub port: u16,
    /// What the service speaks there; HTTP for one that isn't known yet.
    pub protocol: Protocol,
    /// Where the program connects.
    pub address: SocketAddr,
}

/// Asks the agent to take the workload out of the registry.
pub(crate) type Goodbye = oneshot::Sender<()>;

/// A proxy that runs. Dropping it stops it without draining.
#[derive(Debug)]
pub struct Running {
    pub(crate) opened: oneshot::Receiver<Result<Ports, Error>>,
    pub(crate) ports: Option<Ports>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) goodbye: mpsc::UnboundedSender<Goodbye>,
    pub(crate) stop: Trigger,
    pub(crate) agent: Core,
}

impl Running {
    /// Waits until the first configuration is in force and every listener accepts.
    ///
    /// # Errors
    /// If the control plane refused the workload or wasn't reached in time, or a port is busy. The
    /// proxy has stopped then.
    pub async fn ready(&mut self) -> Result<Ports, Error> {
        if let Some(ports) = &self.ports {
            return Ok(ports.clone());
        }
        let ports = (&mut self.opened).await.map_err(|_| Error::Stopped)??;
        self.ports = Some(ports.clone());
        Ok(ports)
    }

    /// Whether the proxy has ended by itself, which it never does but for a defect or a refusal.
    pub fn is_stopped(&self) -> bool {
        self.agent.is_finished()
    }

    /// Says goodbye to the registry, stops accepting, lets running exchanges end for at most
    /// `deadline`, and stops. True if all of them ended in time.
    pub async fn drain(self, deadline: Duration) -> bool {
        let (told, heard) = oneshot::channel();
        if self.goodbye.send(told).is_ok() && matches!(runtime::timeout(GOODBYE_MAX, heard).await, Ok(Ok(()))) {
            runtime::sleep(SETTLE.min(deadline)).await;
        }
        self.drain.start();
        let ended = async {
            while self.drain.remaining() > 0 {
                runtime::sleep(GLANCE).await;
            }
        };
        let whole = runtime::timeout(deadline, ended).await.is_ok();
        self.stop.fire();
        let stopped = async {
            while !self.agent.is_finished() {
                runtime::sleep(GLANCE).await;
            }
        };
        let _ = runtime::timeout(STOP_MAX, stopped).await;
        whole
    }
}
