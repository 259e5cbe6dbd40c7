// SPDX-License-Identifier: Apache-2.0
//! A small HTTP/1.1 and h2c server for the console and the admin ports, and in [`client`] its counterpart for the
//! command line. One function answers all requests. It never carries the mesh's own traffic: that has its own
//! codec. Whoever answers checks tokens, `Host` and `Origin`; here nothing is allowed or refused by content.

mod body;
pub mod caller;
pub mod client;
pub(crate) mod collector;
pub mod unary;

pub use body::Body;
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::BoxFuture;
use crate::listen::Listener;
use crate::runtime::{Group, Shutdown, catch, sleep, spawn, timeout};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

#[cfg(test)]
mod tests;

/// Bytes of a request's head, and header fields in it.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header fields of a request.
pub const HEADERS_MAX: usize = 100;
/// Time from an opened connection, or from the end of a request on it, to the end of the next head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's body: as many resources as one `apply` may send.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Time from the head of a request to the end of its body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections open at once on one port.
pub const CONNECTIONS_MAX: usize = 1024;
/// Requests open at once on one HTTP/2 connection.
pub const STREAMS_MAX: u32 = 128;
/// Time that open requests have to end after a shutdown began. Streams of events are cut then.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// A request with its whole body.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path as sent: percent-encoded, beginning with `/`.
    pub path: String,
    /// What follows `?`, as sent.
    pub query: Option<String>,
    /// The header fields; `host` is there for HTTP/2 too.
    pub headers: HeaderMap,
    /// The body, at most [`BODY_BYTES_MAX`].
    pub body: Bytes,
    /// Where it comes from.
    pub remote: SocketAddr,
}

impl Request {
    /// The header's first value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The bearer token in `authorization`, unchecked.
    pub fn token(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The header fields. Length, encoding and date are added by the server.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
}

impl Response {
    /// An answer with a body of `content_type`.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status, headers, body: body.into() }
    }

    /// An answer without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Body::empty() }
    }

    /// The same answer with one more header field. A value that no header may carry leaves it out.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }
}

/// Answers every request of a server.
pub type Answer = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// Serves `answer` on `listener` until `shutdown`; then lets open requests end, at most [`DRAIN_TIMEOUT`].
///
/// A panic while answering gives that request 500 and is counted; nothing else ends.
pub async fn serve(listener: Listener, answer: Answer, shutdown: Shutdown) {
    serve_if(listener, |_, _| true, answer, shutdown).await;
}

/// As [`serve`], for programs of the user that this process runs as; a connection of anybody else is closed.
pub async fn serve_own_user(listener: Listener, answer: Answer, shutdown: Shutdown) {
    serve_if(listener, crate::listen::is_own_user, answer, shutdown).await;
}

/// As [`serve`], for connections that `admit` lets in by their remote and local address.
async fn serve_if(
    listener: Listener,
    admit: fn(SocketAddr, SocketAddr) -> bool,
    answer: Answer,
    mut shutdown: Shutdown,
) {
    let mut connections = Group::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (tcp, remote) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => break,
        };
        if !admit(remote, listener.local_addr()) {
            tracing::warn!(%remote, "connection refused: it is another user's");
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%remote, limit = CONNECTIONS_MAX, "connection refused: too many are open");
            continue;
        };
        let (answer, shutdown) = (Arc::clone(&answer), shutdown.clone());
        connections.spawn("http connection", async move {
            connection(tcp, remote, answer, shutdown).await;
            drop(place);
        });
    }
    drop(listener);
    connections.end_within(DRAIN_TIMEOUT).await;
}

async fn connection(tcp: crate::io::TcpStream, remote: SocketAddr, answer: Answer, mut shutdown: Shutdown) {
    let spoke = Arc::new(AtomicBool::new(false));
    let service = Connected { answer, remote, spoke: Arc::clone(&spoke) };
    let mut builder = hyper_util::server::conn::auto::Builder::new(Executor("http request"));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(tcp), service).into_owned());
    // Until the version is known, the library waits without a limit of its own.
    let mut silent = pin!(sleep(HEAD_TIMEOUT));
    let mut waits_for_first = true;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return report(remote, ended),
            () = silent.as_mut(), if waits_for_first => {
                if !spoke.load(Ordering::Relaxed) {
                    return;
                }
                waits_for_first = false;
            }
            () = shutdown.wait() => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(DRAIN_TIMEOUT, connection.as_mut()).await {
        report(remote, ended);
    }
}

/// One connection's service. A named type: the compiler can't prove a closure `Send` across the library's bounds.
struct Connected {
    answer: Answer,
    remote: SocketAddr,
    spoke: Arc<AtomicBool>,
}

impl hyper::service::Service<http::Request<hyper::body::Incoming>> for Connected {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        self.spoke.store(true, Ordering::Relaxed);
        let (answer, remote) = (Arc::clone(&self.answer), self.remote);
        Box::pin(async move { Ok(respond(answer, remote, request).await) })
    }
}

/// Runs the tasks that hyper wants run beside a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Executor(pub(crate) &'static str);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        spawn(self.0, async {
            future.await;
        });
    }
}

fn report(remote: SocketAddr, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%remote, %error, "http connection broke");
    }
}

async fn respond(
    answer: Answer,
    remote: SocketAddr,
    request: http::Request<hyper::body::Incoming>,
) -> http::Response<Body> {
    let response = match read(remote, request).await {
        Ok(request) => catch("http request", async { answer(request).await }).await.unwrap_or_else(|_| {
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the server failed in an unexpected way; see its log\n")
        }),
        Err(refusal) => refusal,
    };
    let mut out = http::Response::new(response.body);
    *out.status_mut() = response.status;
    *out.headers_mut() = response.headers;
    out
}

async fn read(remote: SocketAddr, request: http::Request<hyper::body::Incoming>) -> Result<Request, Response> {
    let (mut head, body) = request.into_parts();
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(header::HOST, host);
    }
    let collected = timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 8 MiB\n"));
        }
        Ok(Err(_)) => return Err(plain(StatusCode::BAD_REQUEST, "the body ended early\n")),
        Err(_) => return Err(plain(StatusCode::REQUEST_TIMEOUT, "the body took too long\n")),
    };
    Ok(Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
        remote,
    })
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    Response::new(status, "text/plain; charset=utf-8", text)
}
