// SPDX-License-Identifier: Apache-2.0
//! Performs what the engine planned: gets a connection to the target, from the pool or fresh, under the
//! identity that the plan names. Called for each try; every way to fail is one of the engine's
//! failures.

use crate::worker::Core;
use byrnie_base::Timestamp;
use byrnie_engine::{Failure, Plan, Target};
use byrnie_net::http::h2::{self as http2, Client};
use byrnie_net::http::{Error, Wire, h1};
use byrnie_net::io::{self, Stream};
use byrnie_net::pool::{self, Key, Lease, Shared};
use byrnie_net::{runtime, tls};
use std::rc::Rc;
use std::time::Duration;

/// A connection or stream on which one request may be sent.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// The wire.
    pub(crate) wire: Wire,
    /// What it takes to give an HTTP/1 connection back; HTTP/2 needs nothing.
    pub(crate) lease: Option<Lease>,
}

/// Gets a connection for `plan`.
pub(crate) async fn open(core: &Rc<Core>, plan: &Plan) -> Result<Upstream, Failure> {
    let key = Rc::new(key(core, plan)?);
    if key.h2 { open_h2(core, plan, &key).await } else { open_h1(core, plan, &key).await }
}

fn key(core: &Core, plan: &Plan) -> Result<Key, Failure> {
    let generation = core.keys().generation;
    let (hop, generation) = match &plan.target {
        Target::Mesh(hop) => (Some((hop.identity().clone(), hop.sni().clone())), generation),
        Target::Local { .. } => (None, 0),
    };
    Ok(Key { address: plan.target.address(), hop, generation, h2: plan.target.protocol().is_h2() })
}

async fn open_h1(core: &Rc<Core>, plan: &Plan, key: &Rc<Key>) -> Result<Upstream, Failure> {
    let wall = runtime::coarse().wall;
    let pooled = std::future::poll_fn(|cx| std::task::Poll::Ready(core.pool.borrow_mut().take(cx, key, wall))).await;
    if let Some((conn, lease)) = pooled {
        return Ok(Upstream { wire: Wire::H1(conn), lease: Some(lease) });
    }
    let (stream, not_after) = connect(core, plan, tls::ALPN_HTTP1).await?;
    let conn = h1::Conn::new(stream, Vec::new(), core.limits);
    let lease = Lease { key: Rc::clone(key), reused: false, not_after };
    Ok(Upstream { wire: Wire::H1(Box::new(conn)), lease: Some(lease) })
}

async fn open_h2(core: &Rc<Core>, plan: &Plan, key: &Rc<Key>) -> Result<Upstream, Failure> {
    let shared = core.pool.borrow_mut().shared(key);
    let client = match shared.with_room(runtime::coarse().wall) {
        Some(client) => client,
        None => one_more(core, plan, &shared).await?,
    };
    Ok(Upstream { wire: Wire::H2(Box::new(client.open())), lease: None })
}

/// Opens one more HTTP/2 connection, or waits for the one that somebody else is opening.
async fn one_more(core: &Rc<Core>, plan: &Plan, shared: &Shared) -> Result<Client, Failure> {
    let asked = runtime::now();
    let mut failed_at = shared.opening.lock().await;
    if let Some(client) = shared.with_room(asked.wall) {
        return Ok(client);
    }
    // Whoever was before us in the queue has just failed: the same would happen to us.
    if failed_at.is_some_and(|at| at >= asked.mono) {
        return Err(Failure::Connect);
    }
    if let Some(mut client) = shared.crowded() {
        drop(failed_at);
        let room = runtime::timeout(plan.connect_timeout, pool::ready(&mut client)).await;
        return room.map_err(|_| Failure::Refused)?.map(|()| client).map_err(|_| Failure::Refused);
    }
    let opened = match connect(core, plan, tls::ALPN_H2).await {
        Ok((stream, not_after)) => match http2::connect(stream).await {
            Ok(client) => Ok((client, not_after)),
            Err(_) => Err(Failure::Connect),
        },
        Err(failure) => Err(failure),
    };
    match opened {
        Ok((client, not_after)) => {
            shared.add(client.clone(), not_after);
            Ok(client)
        }
        Err(failure) => {
            *failed_at = Some(runtime::now().mono);
            Err(failure)
        }
    }
}

/// Opens a connection for `plan` that speaks `alpn`, within the plan's limit.
pub(crate) async fn connect(core: &Core, plan: &Plan, alpn: &[u8]) -> Result<(Stream, Option<Timestamp>), Failure> {
    let now = runtime::coarse().mono;
    let left = plan.deadline.map_or(Duration::MAX, |deadline| deadline.since(now));
    let limit = plan.connect_timeout.min(left);
    let opening = async {
        let tcp = io::connect(plan.target.address(), limit).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => Failure::ConnectTimeout,
            _ => Failure::Connect,
        })?;
        let Target::Mesh(hop) = &plan.target else { return Ok((Stream::from(tcp), None)) };
        match tls::connect(tcp, &core.keys().client, hop.identity(), hop.sni(), &[alpn]).await {
            Ok((stream, peer)) => Ok((stream, peer.not_after)),
            Err(error) => {
                tracing::debug!(%error, address = %hop.address(), expected = %hop.identity(), "mesh connection not opened");
                Err(match error {
                    tls::Error::Refused(_) => Failure::TlsIdentity,
                    tls::Error::Timeout => Failure::ConnectTimeout,
                    _ => Failure::Connect,
                })
            }
        }
    };
    runtime::timeout(limit, Box::pin(opening)).await.unwrap_or(Err(Failure::ConnectTimeout))
}

/// What an error before the response's head means.
pub(crate) fn failure_before_head(error: &Error, request_sent: bool) -> Failure {
    match error {
        Error::Refused => Failure::Refused,
        Error::Reject(_) => Failure::BadResponse,
        Error::Io(_) | Error::Closed | Error::Reset(_) | Error::Length => Failure::ResetBeforeHead { request_sent },
    }
}
