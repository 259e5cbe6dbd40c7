// SPDX-License-Identifier: Apache-2.0
//! A proxy that runs, as its starter sees it.

use crate::Error;
use crate::door::Door;
use byrnie_base::drain::{Drain, Draining, Watch};
use byrnie_model::{Protocol, ServiceRef};
use byrnie_net::listen::Listener;
use byrnie_net::runtime::{self, Core, Trigger};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

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
    /// Of connections on which nothing is asked, when a successor takes what is new.
    resting: Drain,
    retires: Arc<AtomicBool>,
}

/// The ends of [`Drains`] for those who work.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    /// Connections from other proxies.
    pub(crate) inbound: Watch,
    /// All, these included.
    pub(crate) all: Watch,
    resting: Watch,
    retires: Arc<AtomicBool>,
}

/// Ready once a connection on which nothing is asked is to be closed. Without a successor that is when work ends.
/// With one there is time: a client that asks just then would find its connection closed, so it's answered, and told
/// by that answer to ask no more there.
#[derive(Debug)]
pub(crate) struct Closing {
    drain: Draining,
    resting: Draining,
    retires: Arc<AtomicBool>,
}

impl Future for Closing {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.drain).poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.retires.load(Ordering::Relaxed) { Pin::new(&mut self.resting).poll(cx) } else { Poll::Ready(()) }
    }
}

impl Watches {
    /// When a connection closes on which nothing is asked.
    pub(crate) fn closing(&self, inbound: bool) -> Closing {
        let drain = if inbound { &self.inbound } else { &self.all };
        Closing { drain: drain.draining(), resting: self.resting.draining(), retires: Arc::clone(&self.retires) }
    }
}

impl Drains {
    /// All is to end.
    pub(crate) fn start(&self) {
        self.inbound.start();
        self.all.start();
    }

    /// All is to end, as a successor takes what is new.
    fn retire(&self) {
        // Before the drains, which whoever sees it has seen begin.
        self.retires.store(true, Ordering::Relaxed);
        self.start();
    }

    pub(crate) fn watches(&self) -> Watches {
        Watches {
            inbound: self.inbound.watch(),
            all: self.all.watch(),
            resting: self.resting.watch(),
            retires: Arc::clone(&self.retires),
        }
    }
}

/// A listener that one proxy leaves to the next.
#[derive(Debug)]
pub struct Handed {
    /// What it stands for, in words that only proxies read.
    pub door: String,
    /// One or more sockets at one address.
    pub sockets: Vec<Listener>,
}

impl Handed {
    /// The same sockets again.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { door: self.door.clone(), sockets: self.sockets.iter().map(Listener::share).collect() }
    }
}

type Listeners = Vec<(Door, Vec<Listener>)>;

/// Every listener that is open, for a successor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Open(Arc<Mutex<Listeners>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more is open.
    pub(crate) fn add(&self, door: Door, sockets: &[Listener]) {
        self.lock().push((door, sockets.iter().map(Listener::share).collect()));
    }

    /// One is closed.
    pub(crate) fn remove(&self, door: &Door) {
        self.lock().retain(|(open, _)| open != door);
    }

    fn all(&self) -> Vec<Handed> {
        let handed = |(door, sockets): &(Door, Vec<Listener>)| Handed {
            door: door.to_string(),
            sockets: sockets.iter().map(Listener::share).collect(),
        };
        self.lock().iter().map(handed).collect()
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
    pub(crate) open: Open,
    /// Whether a successor stands for the workload at the control plane.
    pub(crate) handing: watch::Sender<bool>,
    /// Closes the admin listener.
    pub(crate) admin: Trigger,
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
        self.stop().await;
        whole
    }

    /// Every listener that is open, for a successor of the same workload.
    pub fn listeners(&self) -> Vec<Handed> {
        self.open.all()
    }

    /// A successor comes (`true`): the control plane will hear of it under this workload's name, so this proxy doesn't
    /// insist on its own streams. Or it doesn't come after all (`false`), and this one stands for the workload again.
    pub fn hand_over(&self, comes: bool) {
        self.handing.send_replace(comes);
    }

    /// A successor serves all listeners: accepts nothing more, lets what is under way end for at most `deadline`, and
    /// stops. The registry isn't told, as the workload stays. True if all of it ended in time.
    pub async fn retire(self, deadline: Duration) -> bool {
        self.left.store(true, Ordering::Relaxed);
        self.admin.fire();
        self.drain.retire();
        // Connections on which nothing is asked are no loss.
        let whole = ends(&self.drain.all, deadline).await || {
            self.drain.resting.start();
            ends(&self.drain.all, SETTLE).await
        };
        self.stop().await;
        whole
    }

    async fn stop(&self) {
        self.stop.fire();
        let stopped = async {
            while !self.agent.is_finished() {
                runtime::sleep(GLANCE).await;
            }
        };
        let _ = runtime::timeout(STOP_MAX, stopped).await;
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
