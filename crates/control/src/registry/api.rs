// SPDX-License-Identifier: Apache-2.0
//! `/byrnie.v1.Registry/Join`: one stream for one workload, for as long as it runs. Called by `port` with
//! the peer's proven identity.

use super::lease::{Error, HEARTBEAT, Registry, Seat, TTL};
use crate::State;
use byrnie_model::yaml::{self, Defaults};
use byrnie_model::{Health, Identity, Kind, Resource, Revision};
use byrnie_net::grpc::{Code, Incoming, Status};
use byrnie_net::runtime;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1::{
    HeartbeatSeen, Join, JoinRequest, JoinResponse, Joined, Left, join_request, join_response,
};
use byrnie_xds::{Bytes, name, wire};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Largest message that is read.
const REQUEST_BYTES_MAX: usize = 256 << 10;

/// Speaks with one workload's proxy until it leaves or its stream breaks.
///
/// # Errors
/// Why the stream ends, in words for the operator of the workload.
pub async fn stream(
    state: Arc<State>,
    registry: Arc<Registry>,
    peer: Identity,
    mut incoming: Incoming,
    outgoing: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    let first = incoming.next().await?.ok_or_else(|| Status::invalid_argument("the stream ended before it joined"))?;
    let Some(join_request::What::Join(join)) = read(&first)? else {
        return Err(Status::invalid_argument("the first message of a registration must be join"));
    };
    let resource = resource_of(&join, &peer, &state)?;
    let seat = registry.join(&state, &peer, resource, &join.service).await.map_err(status)?;
    let joined = Joined {
        revision: seat.revision.0,
        heartbeat_millis: millis(HEARTBEAT),
        ttl_millis: millis(TTL),
        service_created: seat.service_created,
    };
    // From here on the workload is taken out when this ends, however it ends.
    let mut held = Held { state, registry, seat: Some(seat) };
    send(&outgoing, join_response::What::Joined(joined)).await?;
    loop {
        let Some(message) = incoming.next().await? else { return Ok(()) };
        match read(&message)? {
            Some(join_request::What::Heartbeat(beat)) => {
                held.beat().await?;
                // A word that isn't known says nothing.
                if let Ok(health) = wire::health_of(beat.health) {
                    held.health(health).await?;
                }
                send(&outgoing, join_response::What::Seen(HeartbeatSeen {})).await?;
            }
            Some(join_request::What::Leave(leave)) if leave.gone => {
                held.leave().await?;
                return send(&outgoing, join_response::What::Left(Left {})).await;
            }
            Some(join_request::What::Leave(_)) => {
                held.drain().await?;
                send(&outgoing, join_response::What::Seen(HeartbeatSeen {})).await?;
            }
            // What a newer proxy says beside heartbeats is no reason to drop it.
            None => {}
            Some(join_request::What::Join(_)) => {
                return Err(Status::invalid_argument("one stream registers one workload"));
            }
        }
    }
}

/// A registration that ends with this value.
struct Held {
    state: Arc<State>,
    registry: Arc<Registry>,
    seat: Option<Seat>,
}

impl Held {
    async fn beat(&mut self) -> Result<(), Status> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        self.registry.beat(&self.state, seat).await.map_err(status)
    }

    async fn health(&mut self, health: Health) -> Result<(), Status> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        self.registry.health(&self.state, seat, health).await.map_err(status)
    }

    async fn drain(&mut self) -> Result<(), Status> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        self.registry.drain(&self.state, seat).await.map_err(status)
    }

    async fn leave(&mut self) -> Result<(), Status> {
        let Some(seat) = self.seat.take() else { return Ok(()) };
        self.registry.leave(&self.state, &seat).await.map_err(status)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(seat) = self.seat.take() else { return };
        let (state, registry) = (Arc::clone(&self.state), Arc::clone(&self.registry));
        runtime::spawn("registry lost", async move { registry.lost(&state, &seat).await });
    }
}

fn read(bytes: &[u8]) -> Result<Option<join_request::What>, Status> {
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "a message of a registration is at most {REQUEST_BYTES_MAX} bytes"
        )));
    }
    JoinRequest::decode(bytes).map(|request| request.what).map_err(|_| Status::invalid_argument("no JoinRequest"))
}

/// The workload to register, from its document or its wire form.
fn resource_of(join: &Join, peer: &Identity, state: &State) -> Result<Resource, Status> {
    if join.workload.is_empty() {
        let key = name::parse(Kind::Workload, &join.name);
        let key = key.ok_or_else(|| Status::invalid_argument("the workload's name is not NAMESPACE/NAME"))?;
        return wire::decode(key, Revision(0), &join.resource)
            .map_err(|error| status(Error::Malformed(error.to_string().into())));
    }
    let value = serde_json::from_str(&join.workload)
        .map_err(|error| status(Error::Malformed(format!("no JSON: {error}").into())))?;
    let defaults = Defaults { namespace: peer.namespace().clone(), trust_domain: state.trust_domain.clone() };
    yaml::from_json(&value, &defaults).map_err(|diagnostics| {
        let first = diagnostics.first().map(|diagnostic| format!("{}: {}", diagnostic.path, diagnostic.message));
        status(Error::Malformed(first.unwrap_or_default().into()))
    })
}

async fn send(outgoing: &mpsc::Sender<Bytes>, what: join_response::What) -> Result<(), Status> {
    let response = JoinResponse { what: Some(what) };
    let sent = outgoing.send(response.encode_to_vec().into()).await;
    sent.map_err(|_| Status::cancelled("the workload has gone away"))
}

fn millis(span: std::time::Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

fn status(error: Error) -> Status {
    let code = match &error {
        Error::Malformed(_) | Error::NoPort(_) => Code::InvalidArgument,
        Error::NotYours { .. } => Code::PermissionDenied,
        Error::Taken { .. } | Error::ServiceTaken { .. } => Code::AlreadyExists,
        Error::Store(_) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}
