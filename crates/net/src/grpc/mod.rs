// SPDX-License-Identifier: Apache-2.0
//! gRPC for the control streams, as raw bytes: what the messages mean is their owners' business. The control plane
//! serves a [`Service`] with [`serve`]; proxies open a [`Channel`]. The only door to tonic, whose own TLS and
//! transport stay unused: connections are this crate's, so every call knows its proven [`Peer`].

mod client;
mod codec;
mod server;

pub use client::{Channel, ConnectError, SERVER_NAME};
pub use server::{serve, serve_plain};
pub use tonic::{Code, Status};

use crate::BoxFuture;
use crate::tls::Peer;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;

#[cfg(test)]
mod tests;

/// Largest message in either direction, in bytes: gRPC's usual default.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages queued in a stream's direction before its sender waits.
pub const STREAM_QUEUE: usize = 32;

/// Calls open at once on one connection. A proxy needs three streams and now and then a unary call.
pub const STREAMS_MAX: u32 = 64;

/// Connections open at once on one port, with a certificate shown.
pub const CONNECTIONS_MAX: usize = 16 * 1024;

/// Connections open at once on one port without one: newcomers, and strangers.
pub const CONNECTIONS_ANONYMOUS_MAX: usize = 256;

/// Silence after which either side asks the other for a sign of life (HTTP/2 PING).
pub const PING_INTERVAL: Duration = Duration::from_secs(3);

/// Time the answer to a PING may take. With [`PING_INTERVAL`], a dead peer is noticed within 7 seconds.
pub const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// Time that a unary call or the opening of a stream may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that open calls have to end after a shutdown began.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest list of header fields, in bytes as HTTP/2 counts them.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Flow-control windows: one full message per stream, four per connection.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// One call, as the server sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// `/package.Service/Method`.
    pub path: String,
    /// Who calls; its identity is `None` if it showed no certificate.
    pub peer: Peer,
    /// Where it calls from.
    pub remote: SocketAddr,
    /// The bearer token in metadata `authorization`, unchecked.
    pub token: Option<String>,
}

/// What kind of method a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One message in, one out.
    Unary,
    /// Messages both ways, at any time.
    Stream,
}

/// What a server answers.
pub trait Service: Send + Sync + 'static {
    /// The kind of the method at `path`; `None` if there is none (the caller gets `UNIMPLEMENTED`).
    fn shape(&self, path: &str) -> Option<Shape>;

    /// Answers a unary call. Dropped if the caller goes away.
    fn unary(&self, call: Call, message: Bytes) -> BoxFuture<'static, Result<Bytes, Status>>;

    /// Carries out a stream: it ends with the future, with that status; messages sent before `Ok` are
    /// still delivered. The future is dropped if the caller goes away.
    fn stream(
        &self,
        call: Call,
        incoming: Incoming,
        outgoing: mpsc::Sender<Bytes>,
    ) -> BoxFuture<'static, Result<(), Status>>;
}

/// The messages that the other side of a stream sends.
#[derive(Debug)]
pub struct Incoming(Source);

#[derive(Debug)]
enum Source {
    /// The connection of a client lives as long as its streams.
    Wire {
        streaming: Box<tonic::Streaming<Bytes>>,
        _alive: Option<client::Alive>,
    },
    Local(mpsc::Receiver<Result<Bytes, Status>>),
}

impl Incoming {
    /// Messages from a queue in this process, for two halves of a stream that need no wire between them.
    pub fn local(queue: mpsc::Receiver<Result<Bytes, Status>>) -> Self {
        Self(Source::Local(queue))
    }

    /// The next message; `None` after the last one, if the other side ended well. Cancelling it loses nothing.
    ///
    /// # Errors
    /// The other side's final status, or `UNAVAILABLE` and the like if the connection broke. Nothing
    /// comes after it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        match &mut self.0 {
            Source::Wire { streaming, .. } => streaming.message().await,
            Source::Local(queue) => queue.recv().await.transpose(),
        }
    }
}
