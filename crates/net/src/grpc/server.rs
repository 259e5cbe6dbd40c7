// SPDX-License-Identifier: Apache-2.0
//! The serving half of `grpc`: accepts, proves the peer, and hands each call to the service. The control plane
//! starts it. A call that panics ends alone; a connection ends when its peer's certificate does.

use super::codec::Raw;
use super::{
    CALL_TIMEOUT, CONNECTION_WINDOW, CONNECTIONS_ANONYMOUS_MAX, CONNECTIONS_MAX, Call, DRAIN_TIMEOUT,
    HEADERS_BYTES_MAX, Incoming, MESSAGE_BYTES_MAX, PING_INTERVAL, PING_TIMEOUT, STREAM_QUEUE, STREAM_WINDOW,
    STREAMS_MAX, Service, Shape, Source,
};
use crate::BoxFuture;
use crate::io::{Stream, TcpStream};
use crate::listen::Listener;
use crate::runtime::{Group, Owned, Shutdown, catch, spawn};
use crate::serve::Executor;
use crate::tls::{Peer, ServerTls, accept};
use bytes::Bytes;
use http::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::Status;
use tonic::body::Body;
use tonic::server::{StreamingService, UnaryService};

/// Serves `service` on `listener` until `shutdown`; then lets open calls end, at most [`DRAIN_TIMEOUT`].
///
/// Use [`crate::tls::server_optional_client`] for a port that newcomers without a certificate may call.
pub async fn serve(listener: Listener, tls: ServerTls, service: Arc<dyn Service>, mut shutdown: Shutdown) {
    let mut connections = Group::new();
    let limits = Arc::new(Limits {
        all: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        anonymous: Arc::new(Semaphore::new(CONNECTIONS_ANONYMOUS_MAX)),
    });
    loop {
        let (tcp, remote) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => break,
        };
        let connection = Connection { remote, service: Arc::clone(&service), limits: Arc::clone(&limits) };
        connections.spawn("grpc connection", connection.run(tcp, tls.clone(), shutdown.clone()));
    }
    drop(listener);
    let aborted = connections.end_within(DRAIN_TIMEOUT).await;
    if aborted > 0 {
        tracing::info!(aborted, "grpc connections cut at shutdown");
    }
}

/// Serves `service` without TLS, for programs that stand behind a proxy: peers have no identity.
pub async fn serve_plain(listener: Listener, service: Arc<dyn Service>, mut shutdown: Shutdown) {
    let mut connections = Group::new();
    let anonymous = Arc::new(Semaphore::new(CONNECTIONS_ANONYMOUS_MAX));
    let limits = Arc::new(Limits { all: Arc::clone(&anonymous), anonymous });
    loop {
        let (tcp, remote) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => break,
        };
        let Ok(place) = Arc::clone(&limits.all).try_acquire_owned() else { continue };
        let connection = Connection { remote, service: Arc::clone(&service), limits: Arc::clone(&limits) };
        let shutdown = shutdown.clone();
        connections.spawn("grpc connection", async move {
            connection.http2(Stream::from(tcp), Peer::default(), shutdown).await;
            drop(place);
        });
    }
    connections.end_within(DRAIN_TIMEOUT).await;
}

/// How many connections may be open.
struct Limits {
    all: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
}

struct Connection {
    remote: SocketAddr,
    service: Arc<dyn Service>,
    limits: Arc<Limits>,
}

impl Connection {
    async fn run(self, tcp: TcpStream, tls: ServerTls, shutdown: Shutdown) {
        let remote = self.remote;
        let Ok(_place) = Arc::clone(&self.limits.all).try_acquire_owned() else {
            tracing::warn!(%remote, limit = CONNECTIONS_MAX, "connection refused: too many are open");
            return;
        };
        let (stream, peer) = match accept(tcp, &tls).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::info!(%remote, %error, "handshake on the control port failed");
                return;
            }
        };
        let _anonymous_place = match peer.identity {
            Some(_) => None,
            None => match Arc::clone(&self.limits.anonymous).try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => {
                    tracing::warn!(%remote, limit = CONNECTIONS_ANONYMOUS_MAX, "connection refused: too many without a certificate");
                    return;
                }
            },
        };
        self.http2(stream, peer, shutdown).await;
    }

    async fn http2(self, stream: Stream, peer: Peer, mut shutdown: Shutdown) {
        let remote = self.remote;
        let spoke = Arc::new(AtomicBool::new(false));
        let answer = {
            let (peer, spoke) = (peer.clone(), Arc::clone(&spoke));
            let service = self.service;
            hyper::service::service_fn(move |request| {
                spoke.store(true, Ordering::Relaxed);
                let answer = answer(Arc::clone(&service), peer.clone(), remote, request);
                async move { Ok::<_, Infallible>(answer.await) }
            })
        };
        let mut builder = hyper::server::conn::http2::Builder::new(Executor("grpc call"));
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
        let reason = tokio::select! {
            ended = connection.as_mut() => return report(remote, ended),
            () = peer.expired() => "certificate expired",
            () = stays_silent(&peer, &spoke) => "no call from a newcomer",
            () = shutdown.wait() => "shutdown",
        };
        tracing::debug!(%remote, reason, "grpc connection is being closed");
        connection.as_mut().graceful_shutdown();
        if let Ok(ended) = crate::runtime::timeout(DRAIN_TIMEOUT, connection.as_mut()).await {
            report(remote, ended);
        }
    }
}

/// Ends after [`CALL_TIMEOUT`] if the peer has no identity and has called nothing: a place of the few that there are
/// for newcomers isn't held for free.
async fn stays_silent(peer: &Peer, spoke: &AtomicBool) {
    if peer.identity.is_none() {
        crate::runtime::sleep(CALL_TIMEOUT).await;
        if !spoke.load(Ordering::Relaxed) {
            return;
        }
    }
    std::future::pending().await
}

fn report(remote: SocketAddr, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%remote, %error, "grpc connection broke");
    }
}

async fn answer(
    service: Arc<dyn Service>,
    peer: Peer,
    remote: SocketAddr,
    request: Request<hyper::body::Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let token = request
        .headers()
        .get(http::header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::to_owned);
    let shape = service.shape(&path);
    let call = Called { call: Call { path, peer, remote, token }, service };
    let mut grpc = tonic::server::Grpc::new(Raw)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    match shape {
        Some(Shape::Unary) => grpc.unary(call, request).await,
        Some(Shape::Stream) => grpc.streaming(call, request).await,
        None => Status::unimplemented(format!("no method {}", call.call.path)).into_http(),
    }
}

/// A call on its way to the service, in tonic's terms.
struct Called {
    call: Call,
    service: Arc<dyn Service>,
}

fn panicked() -> Status {
    Status::internal("the service failed in an unexpected way; see its log")
}

impl UnaryService<Bytes> for Called {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (service, call) = (Arc::clone(&self.service), self.call.clone());
        Box::pin(async move {
            let answer = catch("grpc call", async { service.unary(call, request.into_inner()).await }).await;
            answer.map_err(|_| panicked())?.map(tonic::Response::new)
        })
    }
}

impl StreamingService<Bytes> for Called {
    type Response = Bytes;
    type ResponseStream = Outgoing;
    type Future = std::future::Ready<Result<tonic::Response<Outgoing>, Status>>;

    fn call(&mut self, request: tonic::Request<tonic::Streaming<Bytes>>) -> Self::Future {
        let (sender, queue) = mpsc::channel(STREAM_QUEUE);
        let (ended, end) = oneshot::channel();
        let incoming = Incoming(Source::Wire { streaming: Box::new(request.into_inner()), _alive: None });
        let (service, call) = (Arc::clone(&self.service), self.call.clone());
        // A task of its own: it must see what comes in even while the peer takes nothing out.
        let task = spawn("grpc stream", async move {
            let status = catch("grpc stream", async { service.stream(call, incoming, sender).await }).await;
            // Nobody hears it if the caller went away first.
            let _ = ended.send(status.unwrap_or_else(|_| Err(panicked())));
        });
        let outgoing = Outgoing { queue, end: Some(end), _task: task.abort_on_drop() };
        std::future::ready(Ok(tonic::Response::new(outgoing)))
    }
}

/// What a stream's task sends, and how it ended.
struct Outgoing {
    queue: mpsc::Receiver<Bytes>,
    end: Option<oneshot::Receiver<Result<(), Status>>>,
    _task: Owned,
}

impl futures_util::Stream for Outgoing {
    type Item = Result<Bytes, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(end) = &mut this.end
            && let Poll::Ready(status) = Pin::new(end).poll(cx)
        {
            this.end = None;
            this.queue.close();
            if let Err(status) = status.unwrap_or_else(|_| Err(panicked())) {
                return Poll::Ready(Some(Err(status)));
            }
        }
        match this.queue.poll_recv(cx) {
            Poll::Ready(Some(message)) => Poll::Ready(Some(Ok(message))),
            // The queue is closed early when the service drops its sender; the status is still to come.
            Poll::Ready(None) if this.end.is_some() => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
