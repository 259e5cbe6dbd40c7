// SPDX-License-Identifier: Apache-2.0
//! The workload's place in the registry: joins, sends a heartbeat each second, says goodbye. When the
//! stream breaks, it joins again; the program is not told.

use super::Own;
use super::link::{Backoff, Link};
use crate::config::{Config, Mount};
use crate::error::Error;
use crate::running::Goodbye;
use byrnie_base::Text;
use byrnie_model::{Health, Key, Kind, Resource, Revision, Spec};
use byrnie_net::grpc::{Code, Incoming, Status};
use byrnie_net::runtime::{self, Shutdown, Task};
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1::{
    Heartbeat, Join, JoinRequest, JoinResponse, Leave, join_request::What, join_response,
};
use byrnie_xds::{Bytes, JOIN_PATH, name, wire};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Time between heartbeats if the control plane names none.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the answer to a join may take.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// How long a goodbye may take.
const LEAVE_MAX: Duration = Duration::from_millis(500);

/// One workload's registration.
struct Membership {
    workload: Resource,
    service: Text,
    /// How the program is.
    health: watch::Receiver<Health>,
    link: Rc<Link>,
    goodbye: mpsc::UnboundedReceiver<Goodbye>,
    /// Whether a successor has joined, or is about to.
    handing: watch::Receiver<bool>,
    stop: Shutdown,
    leaving: bool,
}

/// One stream of it.
struct Stream {
    outgoing: mpsc::Sender<Bytes>,
    incoming: Incoming,
    heartbeat: Duration,
}

/// Why a join did not succeed.
enum Refusal {
    Final(Error),
    Later(String),
}

/// A registration under way.
pub(super) struct Joining {
    /// Ends after the goodbye.
    pub(super) task: Task,
    /// Learns whether the first try that was answered succeeded. While somebody listens, a refusal is the end.
    pub(super) joined: oneshot::Receiver<Result<(), Error>>,
}

/// Registers the workload, if this proxy has one, and keeps it registered.
pub(super) fn join(
    config: &Config,
    own: Own,
    link: &Rc<Link>,
    (health, goodbye, handing): (watch::Receiver<Health>, mpsc::UnboundedReceiver<Goodbye>, watch::Receiver<bool>),
    stop: Shutdown,
) -> Option<Joining> {
    let Mount::Sidecar(sidecar) = &config.mount else { return None };
    let mut workload = sidecar.workload.clone();
    workload.inbound = own.inbound;
    workload.admin = Some(own.admin);
    let key = Key::new(Kind::Workload, config.namespace.clone(), config.name.clone());
    let workload = Resource {
        key,
        revision: Revision(0),
        created: Revision(0),
        labels: sidecar.labels.clone(),
        origin: None,
        spec: Spec::Workload(Box::new(workload)),
    };
    let service = sidecar.service.clone();
    let link = Rc::clone(link);
    let mut membership = Membership { workload, service, health, link, goodbye, handing, stop, leaving: false };
    let (tell, joined) = oneshot::channel();
    let task = runtime::spawn_local("registry", async move {
        if let Some(stream) = membership.begin(tell).await {
            membership.keep(stream).await;
        }
    });
    Some(Joining { task, joined })
}

impl Membership {
    /// Joins with the program's health as it is.
    fn message(&mut self) -> Bytes {
        if let Spec::Workload(workload) = &mut self.workload.spec {
            workload.health = *self.health.borrow_and_update();
        }
        message(What::Join(Join {
            workload: String::new(),
            service: self.service.to_string(),
            name: name::of(&self.workload.key),
            resource: wire::encode(&self.workload),
        }))
    }

    fn heartbeat(&mut self) -> Bytes {
        let health = wire::health_out(*self.health.borrow_and_update());
        message(What::Heartbeat(Heartbeat { health }))
    }

    /// Opens a stream and joins by it.
    async fn open(&mut self) -> Result<Stream, Refusal> {
        let later = |cause: String| Refusal::Later(cause);
        let channel = self.link.channel().await.map_err(|error| later(error.to_string()))?;
        let (outgoing, mut incoming) = channel.open(JOIN_PATH).await.map_err(|status| refusal(&status))?;
        outgoing.send(self.message()).await.map_err(|error| later(error.to_string()))?;
        let answer = runtime::timeout(JOIN_MAX, incoming.next()).await.map_err(|error| later(error.to_string()))?;
        let answer = answer.map_err(|status| refusal(&status))?.ok_or_else(|| later("stream closed".to_owned()))?;
        let Ok(Some(join_response::What::Joined(joined))) = JoinResponse::decode(&*answer).map(|r| r.what) else {
            return Err(later("no answer to the join".to_owned()));
        };
        let heartbeat = Duration::from_millis(joined.heartbeat_millis.into());
        let heartbeat = if heartbeat.is_zero() { HEARTBEAT } else { heartbeat };
        Ok(Stream { outgoing, incoming, heartbeat })
    }

    /// The first stream; `None` if it was refused while somebody waited for it, or it's time to stop.
    async fn begin(&mut self, tell: oneshot::Sender<Result<(), Error>>) -> Option<Stream> {
        let mut backoff = Backoff::new();
        loop {
            match self.open().await {
                Ok(stream) => {
                    let _ = tell.send(Ok(()));
                    return Some(stream);
                }
                Err(Refusal::Final(error)) => {
                    // The proxy may serve already, by what it kept: then nobody waits, and it goes on trying.
                    return match tell.send(Err(error)) {
                        Ok(()) => None,
                        Err(_) => self.again().await,
                    };
                }
                Err(Refusal::Later(cause)) => tracing::debug!(cause, "not registered yet"),
            }
            tokio::select! {
                () = backoff.pause() => {}
                () = self.stop.wait() => return None,
            }
        }
    }

    /// A further stream; `None` if it's time to stop.
    async fn again(&mut self) -> Option<Stream> {
        let mut backoff = Backoff::new();
        loop {
            tokio::select! {
                () = backoff.pause() => {}
                () = self.stop.wait() => return None,
            }
            match self.open().await {
                Ok(stream) => return Some(stream),
                Err(Refusal::Final(error)) => {
                    tracing::warn!(%error, code = error.code(), "registration refused; trying again")
                }
                Err(Refusal::Later(cause)) => tracing::debug!(cause, "not registered"),
            }
        }
    }

    /// Stays registered until told to stop.
    async fn keep(mut self, mut stream: Stream) {
        loop {
            if self.follow(&mut stream).await.is_done() {
                return;
            }
            // A successor has the place, unless it doesn't come after all: then this is the time to join again.
            tokio::select! {
                handing = self.handing.wait_for(|handing| !handing) => if handing.is_err() {
                    return;
                },
                () = self.stop.wait() => return,
            }
            tracing::info!("registration was lost; joining again");
            let Some(next) = self.again().await else { return };
            stream = next;
            if self.leaving && stream.outgoing.send(message(What::Leave(Leave { gone: false }))).await.is_err() {
                tracing::debug!("the registry was lost while leaving");
            }
        }
    }

    async fn follow(&mut self, stream: &mut Stream) -> Followed {
        let mut told: Vec<Goodbye> = Vec::new();
        loop {
            tokio::select! {
                answer = stream.incoming.next() => {
                    if !matches!(answer, Ok(Some(_))) {
                        return Followed::Lost;
                    }
                    // The first answer after the goodbye may be to an earlier heartbeat; the settling
                    // time of the drain covers that.
                    told.drain(..).for_each(|told| { let _ = told.send(()); });
                }
                () = runtime::sleep(stream.heartbeat) => {
                    if stream.outgoing.send(self.heartbeat()).await.is_err() {
                        return Followed::Lost;
                    }
                }
                // Callers are to know at once. Nobody tells any more: there is nothing to be checked.
                Ok(()) = self.health.changed() => {
                    if stream.outgoing.send(self.heartbeat()).await.is_err() {
                        return Followed::Lost;
                    }
                }
                Ok(()) = self.handing.changed() => {
                    // The successor may have joined before it ended: then the place is to be taken back.
                    if !*self.handing.borrow_and_update() {
                        return Followed::Lost;
                    }
                }
                Some(goodbye) = self.goodbye.recv() => {
                    self.leaving = true;
                    told.push(goodbye);
                    if stream.outgoing.send(message(What::Leave(Leave { gone: false }))).await.is_err() {
                        return Followed::Lost;
                    }
                }
                () = self.stop.wait() => {
                    if *self.handing.borrow() {
                        // The workload stays.
                        return Followed::Done;
                    }
                    let gone = async {
                        if stream.outgoing.send(message(What::Leave(Leave { gone: true }))).await.is_ok() {
                            while let Ok(Some(_)) = stream.incoming.next().await {}
                        }
                    };
                    let _ = runtime::timeout(LEAVE_MAX, gone).await;
                    return Followed::Done;
                }
            }
        }
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    Done,
    Lost,
}

impl Followed {
    fn is_done(self) -> bool {
        self == Self::Done
    }
}

fn message(what: What) -> Bytes {
    JoinRequest { what: Some(what) }.encode_to_vec().into()
}

fn refusal(status: &Status) -> Refusal {
    let cause = Text::from(status.message()).to_string();
    match status.code() {
        Code::AlreadyExists => Refusal::Final(Error::NameTaken { cause }),
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
            Refusal::Final(Error::Refused { cause })
        }
        _ => Refusal::Later(cause),
    }
}
