// SPDX-License-Identifier: Apache-2.0
//! A client for programs of the mesh that call services: HTTP/1.1, or HTTP/2 as gRPC needs it, over connections that
//! are kept, with the caller's own header fields, and a whole answer up to a limit. Meant for a forward proxy on loopback, which
//! gets absolute URIs and does the rest. HTTP/1.1 is the proxy's own (`http::h1`): asked and read in the task that calls.

use super::client::{Error, Reply};
use super::{Executor, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use crate::http::h1::Conn;
use crate::http::{Answered, Progress};
use crate::runtime::{spawn, timeout};
use byrnie_codec::h1::Asked;
use byrnie_codec::{Head, Limits};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

/// Idle connections kept for each address.
pub const IDLE_MAX: usize = 64;

/// Addresses to which an HTTP/2 connection is kept; with more, those whose connection has ended are forgotten.
pub const SHARED_MAX: usize = 1024;

/// Kept connections by address.
#[derive(Debug, Default)]
pub struct Caller {
    idle: Mutex<BTreeMap<SocketAddr, Vec<Conn>>>,
    shared: Mutex<BTreeMap<SocketAddr, http2::SendRequest<Full<Bytes>>>>,
}

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
                // Boxed, as it takes more room than all the rest.
                true => Box::pin(self.exchange_shared(request)).await,
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
        let asked = if outgoing.method == Method::HEAD { Asked::Head } else { Asked::Other };
        let request = written(&outgoing)?;
        while let Some(mut conn) = self.take(to) {
            conn.send_whole(&request);
            match answer(&mut conn, asked, max).await {
                // The connection had ended meanwhile: nothing of the request was sent.
                Err(Error::Wire(_)) if !conn.has_sent() => {}
                answer => return self.keep(to, conn, answer?),
            }
        }
        let mut conn = Box::pin(self.connect(to)).await?;
        conn.send_whole(&request);
        let answer = answer(&mut conn, asked, max).await?;
        self.keep(to, conn, answer)
    }

    /// A new connection. Those that others have closed meanwhile, whoever they are, are let go at this opportunity.
    async fn connect(&self, to: SocketAddr) -> Result<Conn, Error> {
        self.idle().retain(|_, kept| {
            kept.retain(Conn::is_silent);
            !kept.is_empty()
        });
        let failed = |error| Error::Connect { server: to.to_string(), error };
        let tcp = crate::io::connect(to, super::client::CONNECT_TIMEOUT).await.map_err(failed)?;
        Ok(Conn::new(tcp.into(), Vec::new(), Limits::default()))
    }

    fn take(&self, to: SocketAddr) -> Option<Conn> {
        let mut idle = self.idle();
        let kept = idle.get_mut(&to)?;
        while let Some(conn) = kept.pop() {
            if conn.is_silent() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps the connection, if it can carry another request after this answer.
    fn keep(&self, to: SocketAddr, conn: Conn, (reply, reusable): (Reply, bool)) -> Result<Reply, Error> {
        let mut idle = self.idle();
        let kept = idle.entry(to).or_default();
        if reusable && kept.len() < IDLE_MAX && conn.is_silent() {
            kept.push(conn);
        }
        drop(idle);
        Ok(reply)
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Vec<Conn>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, http2::SendRequest<Full<Bytes>>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a request.
fn written(outgoing: &Outgoing) -> Result<Vec<u8>, Error> {
    let Outgoing { method, uri, headers, body, .. } = outgoing;
    let uri = http::Uri::try_from(uri).map_err(|error| Error::Request(error.into()))?;
    let lines: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let mut out = Vec::with_capacity(outgoing.uri.len() + lines + body.len() + 64);
    // A vector takes everything.
    let _ = write!(out, "{method} {uri} HTTP/1.1\r\n");
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    if !body.is_empty() {
        let _ = write!(out, "content-length: {}\r\n", body.len());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    Ok(out)
}

/// Sends what waits and reads the whole answer, and whether another request may follow it.
async fn answer(conn: &mut Conn, asked: Asked, max: usize) -> Result<(Reply, bool), Error> {
    let mut head = Head::new();
    loop {
        let answered = poll_fn(|cx| {
            // One that answers before it has read all gets the rest meanwhile.
            let sent = conn.poll_flush(cx);
            match (conn.poll_response(cx, asked, &mut head), sent) {
                (Poll::Pending, Poll::Ready(Err(error))) if !error.is_reset() => Poll::Ready(Err(error)),
                (answered, _) => answered,
            }
        });
        if answered.await? == Answered::Final {
            break;
        }
    }
    let mut body = Vec::new();
    let trailers = loop {
        let mut fits = true;
        let progress = poll_fn(|cx| {
            // What can't be sent any more doesn't matter: it's being answered.
            let _ = conn.poll_flush(cx);
            conn.poll_body(cx, &mut |_, chunk| {
                fits &= body.len() + chunk.as_slice().len() <= max;
                if fits {
                    body.extend_from_slice(chunk.as_slice());
                }
                Ok(())
            })
        });
        let progress = progress.await?;
        if !fits {
            return Err(Error::TooLarge(max));
        }
        if let Progress::End(trailers) = progress {
            break trailers;
        }
    };
    let status = StatusCode::from_u16(head.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let trailers = trailers.map_or_else(HeaderMap::new, |trailers| lines(trailers.iter()));
    Ok((Reply { status, headers: lines(head.headers()), body: body.into(), trailers }, head.keep_alive()))
}

fn lines<'l>(lines: impl Iterator<Item = (&'l str, &'l [u8])>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            map.append(name, value);
        }
    }
    map
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
