// SPDX-License-Identifier: Apache-2.0
//! The command line's side of the console's HTTP API: one connection a request, whole answers or lines as they
//! come. It speaks plain HTTP only, so it is meant for loopback and for ports reached through the mesh.

use super::{HeaderMap, HeaderValue, Method, StatusCode, header};
use crate::runtime::{Owned, spawn, timeout};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;

/// Largest answer read whole, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest line of a stream, in bytes.
pub const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Time to reach the server.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's URL isn't `http://HOST[:PORT]`.
    #[error("not a server URL of the form http://HOST:PORT: {0}")]
    Url(String),
    /// The path or the token can't be sent.
    #[error("the request can't be sent: {0}")]
    Request(http::Error),
    /// Nobody answers there.
    #[error("can't reach {server}: {error}")]
    Connect {
        /// The server's host and port.
        server: String,
        /// What the system answered.
        error: std::io::Error,
    },
    /// The time given is over.
    #[error("no answer in time")]
    Timeout,
    /// The connection broke, or what came isn't HTTP.
    #[error("connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// The same.
    #[error("{0}")]
    Wire(#[from] crate::http::Error),
    /// The answer, or one line of it, is larger than the limit.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// A server's address, and what goes with each request to it.
#[derive(Clone, Debug)]
pub struct Client {
    authority: http::uri::Authority,
    token: Option<HeaderValue>,
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// Path and query, percent-encoded, beginning with `/`.
    pub path: String,
    /// Type of the body, if there is one.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Bytes,
}

impl Outgoing {
    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), content_type: None, body: Bytes::new() }
    }

    /// A request with a body.
    pub fn with_body(
        method: Method,
        path: impl Into<String>,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        Self { method, path: path.into(), content_type: Some(content_type), body: body.into() }
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body, at most [`ANSWER_BYTES_MAX`].
    pub body: Bytes,
    /// The header fields after it.
    pub trailers: HeaderMap,
}

impl Reply {
    /// Reads an answer, whose body has at most `max` bytes.
    pub(super) async fn read(response: http::Response<Incoming>, max: usize) -> Result<Self, Error> {
        let (head, body) = response.into_parts();
        let collected = Limited::new(body, max).collect().await;
        let collected = collected.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(broken) => Error::Http(*broken),
            Err(_) => Error::TooLarge(max),
        })?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Self { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }
}

impl Client {
    /// A client of the server at `url` (`http://HOST[:PORT]`), with a bearer token if given.
    ///
    /// # Errors
    /// If the URL has another form, or the token can't be sent.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, Error> {
        let bad = || Error::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad());
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?.clone();
        let token = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose();
        let token = token.map_err(|error| Error::Request(error.into()))?;
        Ok(Self { authority, token })
    }

    /// Host and port of the server.
    pub fn server(&self) -> &str {
        self.authority.as_str()
    }

    /// Sends `request` and reads the whole answer, within `limit`.
    ///
    /// # Errors
    /// If there is no answer; an answer of any status is none.
    pub async fn send(&self, request: Outgoing, limit: Duration) -> Result<Reply, Error> {
        let exchange = async {
            let (response, _connection) = self.start(request).await?;
            Reply::read(response, ANSWER_BYTES_MAX).await
        };
        timeout(limit, exchange).await.map_err(|_| Error::Timeout)?
    }

    /// Sends `request` and answers with the head, within `limit`, and the body's lines as they come, without limit.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn lines(&self, request: Outgoing, limit: Duration) -> Result<Lines, Error> {
        let (response, connection) = timeout(limit, self.start(request)).await.map_err(|_| Error::Timeout)??;
        let (head, body) = response.into_parts();
        Ok(Lines {
            status: head.status,
            headers: head.headers,
            body,
            held: BytesMut::new(),
            searched: 0,
            _connection: connection,
        })
    }

    async fn start(&self, request: Outgoing) -> Result<(http::Response<Incoming>, Owned), Error> {
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(request.path)
            .header(header::HOST, self.authority.as_str())
            .header(header::USER_AGENT, concat!("byrnie/", env!("CARGO_PKG_VERSION")));
        if let Some(content_type) = request.content_type {
            builder = builder.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(token) = &self.token {
            builder = builder.header(header::AUTHORIZATION, token);
        }
        let request = builder.body(Full::new(request.body)).map_err(Error::Request)?;
        let tcp = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        let connection = spawn("http client", async move {
            // Whoever reads the answer sees the same error there.
            let _ = connection.await;
        });
        let connection = connection.abort_on_drop();
        Ok((sender.send_request(request).await?, connection))
    }

    async fn connect(&self) -> Result<crate::io::TcpStream, Error> {
        let failed = |error| Error::Connect { server: self.authority.to_string(), error };
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = self.authority.port_u16().unwrap_or(80);
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((host, port)).await.map_err(failed)?.take(ADDRESSES_MAX).collect();
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        for address in addresses {
            match crate::io::connect(address, CONNECT_TIMEOUT).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }
}

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// An answer whose body is read line by line.
#[derive(Debug)]
pub struct Lines {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    body: Incoming,
    held: BytesMut,
    searched: usize,
    _connection: Owned,
}

impl Lines {
    /// The next line, without its end; `None` after the last. Bytes that aren't UTF-8 are replaced. Cancelling it
    /// loses nothing.
    ///
    /// # Errors
    /// If the connection breaks, or a line is longer than [`LINE_BYTES_MAX`].
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(at) = self.held[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(self.searched + at);
                self.held.advance(1);
                self.searched = 0;
                return Ok(Some(text(&line)));
            }
            self.searched = self.held.len();
            if self.held.len() > LINE_BYTES_MAX {
                return Err(Error::TooLarge(LINE_BYTES_MAX));
            }
            match self.body.frame().await.transpose()? {
                Some(frame) => {
                    if let Ok(piece) = frame.into_data() {
                        self.held.extend_from_slice(&piece);
                    }
                }
                None if self.held.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(text(&self.held.split())));
                }
            }
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
}
