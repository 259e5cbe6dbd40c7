// SPDX-License-Identifier: Apache-2.0
//! A client for programs of the mesh that call services: HTTP/1.1 over connections that are kept, with the
//! caller's own header fields, and a whole answer up to a limit. Meant for a forward proxy on loopback, which
//! gets absolute URIs and does the rest.

use super::client::{Error, Reply};
use super::{HeaderName, HeaderValue, Method};
use crate::runtime::{spawn, timeout};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Idle connections kept for each address.
pub const IDLE_MAX: usize = 64;

/// Kept connections by address.
#[derive(Debug, Default)]
pub struct Caller {
    idle: Mutex<BTreeMap<SocketAddr, Vec<Sender>>>,
}

type Sender = SendRequest<Full<Bytes>>;

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where the connection goes.
    pub to: SocketAddr,
    /// The method.
    pub method: Method,
    /// The request target: an absolute URI for a proxy.
    pub uri: String,
    /// The header fields, `host` among them.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// Most bytes of an answer's body that are read.
    pub answer_bytes_max: usize,
}

impl Caller {
    /// A client without connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends `request` and reads the whole answer, within `limit`. A request is sent twice only if nothing of
    /// it left the first time.
    ///
    /// # Errors
    /// If there is no answer; an answer of any status is none.
    pub async fn send(&self, request: Outgoing, limit: Duration) -> Result<Reply, Error> {
        timeout(limit, self.exchange(request)).await.map_err(|_| Error::Timeout)?
    }

    async fn exchange(&self, outgoing: Outgoing) -> Result<Reply, Error> {
        let (to, max) = (outgoing.to, outgoing.answer_bytes_max);
        let mut request = build(outgoing)?;
        while let Some(mut sender) = self.take(to) {
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(to, sender, response, max).await,
                Err(mut error) => match error.take_message() {
                    // The connection had ended meanwhile: nothing of the request was sent.
                    Some(unsent) => request = unsent,
                    None => return Err(Error::Http(error.into_error())),
                },
            }
        }
        let mut sender = connect(to).await?;
        let response = sender.send_request(request).await?;
        self.read(to, sender, response, max).await
    }

    async fn read(
        &self,
        to: SocketAddr,
        sender: Sender,
        response: http::Response<Incoming>,
        max: usize,
    ) -> Result<Reply, Error> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, max).collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(broken) => Error::Http(*broken),
            Err(_) => Error::TooLarge(max),
        })?;
        self.keep(to, sender);
        Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    fn take(&self, to: SocketAddr) -> Option<Sender> {
        let mut idle = self.idle();
        let kept = idle.get_mut(&to)?;
        while let Some(sender) = kept.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, to: SocketAddr, sender: Sender) {
        let mut idle = self.idle();
        let kept = idle.entry(to).or_default();
        if kept.len() < IDLE_MAX && !sender.is_closed() {
            kept.push(sender);
        }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Vec<Sender>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(to: SocketAddr) -> Result<Sender, Error> {
    let failed = |error| Error::Connect { server: to.to_string(), error };
    let tcp = crate::io::connect(to, super::client::CONNECT_TIMEOUT).await.map_err(failed)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    spawn("http caller", async move {
        // Whoever reads the answer sees the same error there; the task ends with its sender.
        let _ = connection.await;
    });
    Ok(sender)
}

fn build(outgoing: Outgoing) -> Result<http::Request<Full<Bytes>>, Error> {
    let mut builder = http::Request::builder().method(outgoing.method).uri(outgoing.uri);
    for (name, value) in outgoing.headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::new(outgoing.body)).map_err(Error::Request)
}
