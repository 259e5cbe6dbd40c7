// SPDX-License-Identifier: Apache-2.0
//! The calling half of `grpc`: one connection to a server of known identity. Agents of proxies open it; when it is
//! gone they open another, as only they know how long to wait and what to say again.

use super::codec::Raw;
use super::{
    CALL_TIMEOUT, CONNECTION_WINDOW, HEADERS_BYTES_MAX, Incoming, MESSAGE_BYTES_MAX, PING_INTERVAL, PING_TIMEOUT,
    STREAM_QUEUE, STREAM_WINDOW, Source,
};
use crate::BoxFuture;
use crate::io;
use crate::runtime::{Owned, spawn, timeout};
use crate::serve::Executor;
use crate::tls::{self, ClientTls, HANDSHAKE_TIMEOUT};
use byrnie_model::Identity;
use bytes::Bytes;
use http::uri::PathAndQuery;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataValue;

/// The server name sent in the handshake. It only tells the port what is meant; who answers is proven by
/// the expected identity.
pub const SERVER_NAME: &str = "control.byrnie.mesh";

/// Why a channel couldn't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers at the address.
    #[error("can't connect to {address}: {error}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system answered.
        error: std::io::Error,
    },
    /// Whoever answers isn't the one expected, or refused us.
    #[error("TLS with {address}: {error}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// What was wrong.
        error: tls::Error,
    },
    /// The connection ended before HTTP/2 began.
    #[error("HTTP/2 with {address}: {error}")]
    Http2 {
        /// Where.
        address: SocketAddr,
        /// What was wrong.
        error: hyper::Error,
    },
    /// The token has characters that no header may carry.
    #[error("token has characters that are not printable ASCII")]
    Token,
}

/// One connection to a server. Clones share it; it closes when the last clone and the last stream are gone.
#[derive(Clone, Debug)]
pub struct Channel {
    sender: SendRequest<Body>,
    token: Option<MetadataValue<tonic::metadata::Ascii>>,
    authority: Arc<str>,
    /// Longest message that is taken, in bytes.
    message_bytes_max: usize,
    closed: watch::Receiver<bool>,
    alive: Alive,
}

/// Keeps a connection's task running.
#[derive(Clone, Debug)]
pub(super) struct Alive(#[expect(dead_code, reason = "held for its drop")] Arc<Owned>);

impl Channel {
    /// Connects to `address`, whose server must prove to be `expected`. `token` goes with each call as
    /// a bearer token.
    ///
    /// # Errors
    /// If nobody, or somebody else, answers there in time.
    pub async fn connect(
        address: SocketAddr,
        tls: &ClientTls,
        expected: &Identity,
        token: Option<&str>,
    ) -> Result<Self, ConnectError> {
        let token = token.map(|token| format!("Bearer {token}").parse()).transpose();
        let mut token: Option<MetadataValue<_>> = token.map_err(|_| ConnectError::Token)?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let tcp = io::connect(address, HANDSHAKE_TIMEOUT).await;
        let tcp = tcp.map_err(|error| ConnectError::Tcp { address, error })?;
        let stream = tls::connect(tcp, tls, expected, SERVER_NAME, &[tls::ALPN_H2]).await;
        let (stream, _) = stream.map_err(|error| ConnectError::Tls { address, error })?;
        Self::over(stream, address, token).await
    }

    /// Connects without TLS, for programs that stand behind a proxy.
    ///
    /// # Errors
    /// If nobody answers there in time.
    pub async fn connect_plain(address: SocketAddr) -> Result<Self, ConnectError> {
        let tcp = io::connect(address, HANDSHAKE_TIMEOUT).await;
        let tcp = tcp.map_err(|error| ConnectError::Tcp { address, error })?;
        Self::over(io::Stream::from(tcp), address, None).await
    }

    /// Over a connection to `address` that is open already; whoever is there is called by the name `authority`.
    ///
    /// # Errors
    /// If HTTP/2 isn't spoken there.
    pub async fn connect_over(stream: io::Stream, address: SocketAddr, authority: &str) -> Result<Self, ConnectError> {
        let channel = Self::over(stream, address, None).await?;
        Ok(Self { authority: authority.into(), ..channel })
    }

    /// Connects without TLS to a program of this machine, which says little: messages of up to `message_bytes_max`. There are no
    /// PINGs: many servers of gRPC end a connection over more than one each five minutes (gRFC A8), and of a program that is gone
    /// the machine itself tells.
    ///
    /// # Errors
    /// If nobody answers there in time, or HTTP/2 isn't spoken.
    pub async fn connect_beside(address: SocketAddr, message_bytes_max: usize) -> Result<Self, ConnectError> {
        let tcp = io::connect(address, HANDSHAKE_TIMEOUT).await;
        let tcp = tcp.map_err(|error| ConnectError::Tcp { address, error })?;
        let mut builder = hyper::client::conn::http2::Builder::new(Executor("grpc client"));
        builder.max_header_list_size(HEADERS_BYTES_MAX);
        // No more than a message lies here unread.
        builder.initial_stream_window_size(u32::try_from(message_bytes_max).ok());
        let channel = Self::by(&builder, io::Stream::from(tcp), address, None).await?;
        Ok(Self { authority: address.to_string().into(), message_bytes_max, ..channel })
    }

    async fn over(
        stream: io::Stream,
        address: SocketAddr,
        token: Option<MetadataValue<tonic::metadata::Ascii>>,
    ) -> Result<Self, ConnectError> {
        let mut builder = hyper::client::conn::http2::Builder::new(Executor("grpc client"));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Self::by(&builder, stream, address, token).await
    }

    async fn by(
        builder: &hyper::client::conn::http2::Builder<Executor>,
        stream: io::Stream,
        address: SocketAddr,
        token: Option<MetadataValue<tonic::metadata::Ascii>>,
    ) -> Result<Self, ConnectError> {
        let opened = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|error| ConnectError::Http2 { address, error })?;
        let (ended, closed) = watch::channel(false);
        let task = spawn("grpc connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "grpc connection broke");
            }
            ended.send_replace(true);
        });
        let alive = Alive(Arc::new(task.abort_on_drop()));
        let (authority, message_bytes_max) = (SERVER_NAME.into(), MESSAGE_BYTES_MAX);
        Ok(Self { sender, token, authority, message_bytes_max, closed, alive })
    }

    /// Calls the unary method at `path`, within [`CALL_TIMEOUT`].
    ///
    /// # Errors
    /// The server's status, `UNAVAILABLE` if the connection is gone, `DEADLINE_EXCEEDED` if it took too long,
    /// `OUT_OF_RANGE` if the message is larger than [`MESSAGE_BYTES_MAX`].
    pub async fn unary(&self, path: &str, message: Bytes) -> Result<Bytes, Status> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(Status::out_of_range(format!("message of {} bytes", message.len())));
        }
        let (mut grpc, path) = self.call(path)?;
        let call = async {
            ready(&mut grpc).await?;
            grpc.unary(self.request(message), path, Raw).await
        };
        let answer =
            timeout(CALL_TIMEOUT, call).await.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        Ok(answer.into_inner())
    }

    /// Opens the stream at `path`. Dropping the sender ends this side's half; dropping both ends the stream. A
    /// message larger than [`MESSAGE_BYTES_MAX`] ends it too.
    ///
    /// # Errors
    /// As [`Channel::unary`].
    pub async fn open(&self, path: &str) -> Result<(mpsc::Sender<Bytes>, Incoming), Status> {
        let (mut grpc, path) = self.call(path)?;
        let (sender, mut queue) = mpsc::channel(STREAM_QUEUE);
        let outgoing = futures_util::stream::poll_fn(move |cx| queue.poll_recv(cx));
        let call = async {
            ready(&mut grpc).await?;
            grpc.streaming(self.request(outgoing), path, Raw).await
        };
        let answer =
            timeout(CALL_TIMEOUT, call).await.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        let incoming = Source::Wire { streaming: Box::new(answer.into_inner()), _alive: Some(self.alive.clone()) };
        Ok((sender, Incoming(incoming)))
    }

    /// Asks the method at `path`, which answers by a stream, and waits for its first words as long as it takes. Dropping what is
    /// returned ends the stream, and so does a message that is too long.
    ///
    /// # Errors
    /// The server's status, or `UNAVAILABLE` if the connection is gone.
    pub async fn subscribe(&self, path: &str, message: Bytes) -> Result<Incoming, Status> {
        let (mut grpc, path) = self.call(path)?;
        ready(&mut grpc).await?;
        let answer = grpc.server_streaming(self.request(message), path, Raw).await?;
        let streaming = Box::new(answer.into_inner());
        Ok(Incoming(Source::Wire { streaming, _alive: Some(self.alive.clone()) }))
    }

    /// Waits until the connection is gone: closed by the server, broken, or dead for longer than the PINGs allow.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error means that the connection's task is gone, and the connection with it.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn call(&self, path: &str) -> Result<(tonic::client::Grpc<Sender>, PathAndQuery), Status> {
        let path = path.parse().map_err(|_| Status::internal("not a method path"))?;
        let origin = http::Uri::builder().scheme("https").authority(&*self.authority).path_and_query("/").build();
        let origin = origin.map_err(|_| Status::internal("not an origin"))?;
        let grpc = tonic::client::Grpc::with_origin(Sender(self.sender.clone()), origin)
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok((grpc, path))
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}

async fn ready(grpc: &mut tonic::client::Grpc<Sender>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::unavailable(format!("connection is gone: {error}")))
}

/// The connection's sender as tonic wants it.
struct Sender(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Sender {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
