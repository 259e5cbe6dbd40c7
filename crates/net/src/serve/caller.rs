// SPDX-License-Identifier: Apache-2.0
//! A client for programs of the mesh that call services: HTTP/1.1, or HTTP/2 as gRPC needs it, over connections that
//! are kept, with the caller's own header fields, and a whole answer up to a limit. Meant for a forward proxy on loopback, which
//! gets absolute URIs and does the rest.

use super::client::{Error, Reply};
use super::{Executor, HeaderName, HeaderValue, Method};
use crate::runtime::{spawn, timeout};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Idle connections kept for each address.
pub const IDLE_MAX: usize = 64;

/// Addresses to which an HTTP/2 connection is kept; with more, those whose connection has ended are forgotten.
pub const SHARED_MAX: usize = 1024;

/// Kept connections by address.
#[derive(Debug, Default)]
pub struct Caller {
    idle: Mutex<BTreeMap<SocketAddr, Vec<Sender>>>,
    shared: Mutex<BTreeMap<SocketAddr, http2::SendRequest<Full<Bytes>>>>,
}

type Sender = http1::SendRequest<Full<Bytes>>;

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
    /// Over HTTP/2 without TLS, whose URI is absolute always.
    pub http2: bool,
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
        let exchange = async {
            match request.http2 {
                true => self.exchange_shared(request).await,
                false => self.exchange(request).await,
            }
        };
        timeout(limit, exchange).await.map_err(|_| Error::Timeout)?
    }

    async fn exchange_shared(&self, outgoing: Outgoing) -> Result<Reply, Error> {
        let (to, max) = (outgoing.to, outgoing.answer_bytes_max);
        let mut request = build(outgoing)?;
        let kept = self.shared().get(&to).filter(|sender| !sender.is_closed()).cloned();
        if let Some(mut sender) = kept {
            match sender.try_send_request(request).await {
                Ok(response) => return Reply::read(response, max).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Error::Http(error.into_error())),
                },
            }
        }
        let mut sender = connect_shared(to).await?;
        {
            let mut shared = self.shared();
            if shared.len() >= SHARED_MAX {
                shared.retain(|_, sender| !sender.is_closed());
            }
            if shared.len() < SHARED_MAX {
                shared.insert(to, sender.clone());
            }
        }
        Reply::read(sender.send_request(request).await?, max).await
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
        let reply = Reply::read(response, max).await?;
        self.keep(to, sender);
        Ok(reply)
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

    fn shared(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, http2::SendRequest<Full<Bytes>>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(to: SocketAddr) -> Result<Sender, Error> {
    let failed = |error| Error::Connect { server: to.to_string(), error };
    let tcp = crate::io::connect(to, super::client::CONNECT_TIMEOUT).await.map_err(failed)?;
    let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    spawn("http caller", async move {
        // Whoever reads the answer sees the same error there; the task ends with its sender.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn connect_shared(to: SocketAddr) -> Result<http2::SendRequest<Full<Bytes>>, Error> {
    let failed = |error| Error::Connect { server: to.to_string(), error };
    let tcp = crate::io::connect(to, super::client::CONNECT_TIMEOUT).await.map_err(failed)?;
    // No PINGs: servers of gRPC take them for an attack, and on loopback nobody is gone without a word.
    let (sender, connection) = http2::handshake(Executor("http caller"), TokioIo::new(tcp)).await?;
    spawn("http caller", async move {
        // Whoever reads the answer sees the same error there; the task ends with its senders.
        let _ = connection.await;
    });
    Ok(sender)
}

fn build(outgoing: Outgoing) -> Result<http::Request<Full<Bytes>>, Error> {
    let builder = http::Request::builder().method(outgoing.method).uri(outgoing.uri);
    let mut request = builder.body(Full::new(outgoing.body)).map_err(Error::Request)?;
    let mut headers = http::HeaderMap::with_capacity(outgoing.headers.len());
    for (name, value) in outgoing.headers {
        headers.append(name, value);
    }
    *request.headers_mut() = headers;
    Ok(request)
}
