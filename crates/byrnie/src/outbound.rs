// SPDX-License-Identifier: Apache-2.0
//! The coordinator's way out: calls of participants go through its own proxy's forward listener, which
//! gives them an identity, balancing and policy; HTTP/2 if they are gRPC. Raw URLs go straight to this machine.

use byrnie_base::Text;
use byrnie_control::transactions::{Outbound, Request};
use byrnie_net::serve::caller::{Caller, Outgoing};
use byrnie_net::serve::client::Reply;
use byrnie_net::serve::{HeaderValue, Method, header};
use byrnie_net::{BoxFuture, io};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long an address of this machine may take to be connected to.
const REACH_MAX: Duration = Duration::from_millis(250);
/// The port that a URL without one means.
const HTTP_PORT: u16 = 80;

/// Calls by way of a proxy.
pub(crate) struct ThroughProxy {
    caller: Arc<Caller>,
    forward: SocketAddr,
}

impl ThroughProxy {
    /// Calls by way of the forward listener there.
    pub(crate) fn new(forward: SocketAddr) -> Self {
        Self { caller: Arc::new(Caller::new()), forward }
    }

    fn outgoing(&self, request: Request) -> Result<Outgoing, Text> {
        let Request { method, authority, path, raw, grpc, headers, body } = request;
        let to = if raw { loopback(&authority).ok_or("not an address of this machine")? } else { self.forward };
        // HTTP/2 has the authority in the URI alone.
        let mut fields = headers;
        if !grpc {
            fields.insert(0, (header::HOST, value(&authority)?));
        }
        let uri = if raw && !grpc { path.to_string() } else { format!("http://{authority}{path}") };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Text::from("not a method"))?;
        Ok(Outgoing { to, method, uri, headers: fields, body, answer_bytes_max: ANSWER_BYTES_MAX, http2: grpc })
    }
}

impl Outbound for ThroughProxy {
    fn call(&self, request: Request, limit: Duration) -> BoxFuture<'static, Result<Reply, Text>> {
        let outgoing = self.outgoing(request);
        let caller = Arc::clone(&self.caller);
        Box::pin(async move { caller.send(outgoing?, limit).await.map_err(|error| Text::from(error.to_string())) })
    }

    fn reaches(&self, authority: &str) -> BoxFuture<'static, bool> {
        let address = loopback(authority);
        Box::pin(async move {
            let Some(address) = address else { return false };
            io::connect(address, REACH_MAX).await.is_ok()
        })
    }
}

fn value(text: &str) -> Result<HeaderValue, Text> {
    HeaderValue::from_str(text).map_err(|_| Text::from("a header has no valid value"))
}

/// The address that the authority of a raw URL means, on this machine alone.
fn loopback(authority: &str) -> Option<SocketAddr> {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return address.ip().is_loopback().then_some(address);
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, HTTP_PORT),
    };
    let ip = if host == "localhost" { Ipv4Addr::LOCALHOST } else { host.parse().ok()? };
    ip.is_loopback().then(|| SocketAddr::from((ip, port)))
}
