// SPDX-License-Identifier: Apache-2.0
//! A proxy that runs, as its starter sees it.

use crate::Error;
use byrnie_base::drain::{Drain, Watch};
use byrnie_model::{Protocol, ServiceRef};
use byrnie_net::runtime::{self, Core, Trigger};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// When work ends: that of the callers of the own program, and all of it.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    inbound: Drain,
    all: Drain,
}

/// The ends of [`Drains`] for those who work.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    /// Connections from other proxies.
    pub(crate) inbound: Watch,
    /// All, these included.
    pub(crate) all: Watch,
}

impl Drains {
    /// All is to end.
    pub(crate) fn start(&self) {
        self.inbound.start();
        self.all.start();
    }

    pub(crate) fn watches(&self) -> Watches {
        Watches { inbound: self.inbound.watch(), all: self.all.watch() }
    }
}

/// A proxy that runs. Dropping it stops it without draining.
#[derive(Debug)]
pub struct Running {
    pub(crate) opened: oneshot::Receiver<Result<Ports, Error>>,
    pub(crate) ports: Option<Ports>,
    pub(crate) drain: Arc<Drains>,
    /// Whether the registry has been told that the workload leaves.
    pub(crate) left: AtomicBool,
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

    /// Says goodbye to the registry, takes no more from other proxies, and waits for at most `deadline` until what they
    /// have under way has ended: then the program may end without harm to anybody. It itself can still call others.
    /// True if all of it ended in time.
    pub async fn leave(&self, deadline: Duration) -> bool {
        self.say_goodbye(deadline).await;
        self.drain.inbound.start();
        ends(&self.drain.inbound, deadline).await
    }

    /// Says goodbye to the registry, stops accepting, lets running exchanges end for at most
    /// `deadline`, and stops. True if all of them ended in time.
    pub async fn drain(self, deadline: Duration) -> bool {
        self.say_goodbye(deadline).await;
        self.drain.start();
        let whole = ends(&self.drain.all, deadline).await;
        self.stop.fire();
        let stopped = async {
            while !self.agent.is_finished() {
                runtime::sleep(GLANCE).await;
            }
        };
        let _ = runtime::timeout(STOP_MAX, stopped).await;
        whole
    }

    async fn say_goodbye(&self, deadline: Duration) {
        let (told, heard) = oneshot::channel();
        if self.left.swap(true, Ordering::Relaxed) || self.goodbye.send(told).is_err() {
            return;
        }
        if matches!(runtime::timeout(GOODBYE_MAX, heard).await, Ok(Ok(()))) {
            runtime::sleep(SETTLE.min(deadline)).await;
        }
    }
}

async fn ends(drain: &Drain, deadline: Duration) -> bool {
    let ended = async {
        while drain.remaining() > 0 {
            runtime::sleep(GLANCE).await;
        }
    };
    runtime::timeout(deadline, ended).await.is_ok()
}
