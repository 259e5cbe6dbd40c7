// SPDX-License-Identifier: Apache-2.0
//! The program at the end of every path: `GET /b/N` answers N bytes, `GET /p/N` the same with head and body each in a
//! write of its own and Nagle's algorithm on, as programs do that think of neither; over HTTP/1.1 or HTTP/2, in clear or
//! (with certificates) over mutual TLS; a gRPC call is answered with its own message and a status in the
//! trailers. Also `/x/N/anything`: N bytes, counted from the head on and answered once the request's body has come;
//! `GET /count` over HTTP/1.1 tells how many.

use crate::pki;
use crate::words::Words;
use anyhow::{Context, Result, bail};
use byrnie_codec::sniff::Sniff;
use byrnie_codec::{Fields, Framing, Head, grpc};
use byrnie_net::http::h2::{Accepted, Flow, Sender, Server};
use byrnie_net::http::{Progress, sniff};
use byrnie_net::io::{Stream, TcpStream};
use byrnie_net::listen::{self, Share};
use byrnie_net::runtime;
use byrnie_net::tls::{self, ALPN_H2, ALPN_HTTP1, ServerTls};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of request heads that wait on one connection.
const HEADS_BYTES_MAX: usize = 64 * 1024;
/// Largest body that is served.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Requests for `/x/` that have begun.
static COUNTED: AtomicU64 = AtomicU64::new(0);
/// What large answers are made of.
static FILLING: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// `app listen=ADDR,... [pki=DIR]`.
pub(crate) async fn serve(words: Words) -> Result<()> {
    let tls = match words.text("pki") {
        Some(_) => Some(tls::server(&pki::credentials(&words.path("pki")?, "app")?, &[ALPN_H2, ALPN_HTTP1])?),
        None => None,
    };
    let mut accepting = Vec::new();
    for address in words.addresses("listen")? {
        let listener = listen::bind(address, Share::Alone).map_err(|error| error.error)?;
        let tls = tls.clone();
        accepting.push(runtime::spawn_local("accept", async move {
            loop {
                let (tcp, _) = listener.accept().await;
                runtime::spawn_local("connection", connection(tcp, tls.clone()));
            }
        }));
    }
    for task in accepting {
        task.ended().await;
    }
    Ok(())
}

async fn connection(tcp: TcpStream, tls: Option<ServerTls>) {
    // Whoever sees an error is the client, which counts it.
    let _ = match tls {
        Some(tls) => match tls::accept(tcp, &tls).await {
            Ok((stream, peer)) if peer.alpn.as_deref() == Some(ALPN_H2) => http2(stream, Vec::new()).await,
            Ok((stream, _)) => http1(stream, Vec::new()).await,
            Err(error) => Err(error.into()),
        },
        None => {
            let mut stream = Stream::from(tcp);
            match sniff(&mut stream).await {
                Ok((Sniff::Http2, bytes)) => http2(stream, bytes).await,
                Ok((_, bytes)) => http1(stream, bytes).await,
                Err(error) => Err(error.into()),
            }
        }
    };
}

async fn http1(mut stream: Stream, mut waiting: Vec<u8>) -> Result<()> {
    waiting.reserve(HEADS_BYTES_MAX);
    let mut answer = Answer::default();
    loop {
        let Some(end) = end_of_head(&waiting) else {
            if waiting.len() >= HEADS_BYTES_MAX || stream.read_buf(&mut waiting).await? == 0 {
                return Ok(());
            }
            continue;
        };
        if waiting.starts_with(b"GET /count ") {
            waiting.drain(..end);
            let count = COUNTED.load(Ordering::Relaxed).to_string();
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{count}", count.len());
            stream.write_all(text.as_bytes()).await?;
            continue;
        }
        if waiting[..end].split(|byte| *byte == b' ').nth(1).is_some_and(|path| path.starts_with(b"/x/")) {
            counted(&mut stream, &mut waiting, end).await?;
            continue;
        }
        answer.make(size_asked(&waiting[..end])?);
        let pieces = waiting.starts_with(b"GET /p/");
        waiting.drain(..end);
        if pieces {
            stream.tcp().set_nodelay(false)?;
            let (head, body) = answer.bytes.split_at(answer.head);
            stream.write_all(head).await?;
            stream.write_all(body).await?;
        } else {
            stream.write_all(&answer.bytes).await?;
        }
        stream.flush().await?;
    }
}

/// Serves a request for `/x/`, whose head is the first `end` bytes.
async fn counted(stream: &mut Stream, waiting: &mut Vec<u8>, end: usize) -> Result<()> {
    COUNTED.fetch_add(1, Ordering::Relaxed);
    let (mut left, mut body) = (size_asked(&waiting[..end])?, length_said(&waiting[..end]));
    waiting.drain(..end);
    loop {
        let here = body.min(waiting.len());
        waiting.drain(..here);
        body -= here;
        if body == 0 {
            break;
        }
        if stream.read_buf(waiting).await? == 0 {
            bail!("closed within a request");
        }
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {left}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    while left > 0 {
        let part = left.min(FILLING.len());
        stream.write_all(&FILLING[..part]).await?;
        left -= part;
    }
    Ok(stream.flush().await?)
}

/// The length that a request's head says.
fn length_said(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0)
}

/// An answer, kept for the next request of the same size.
#[derive(Default)]
struct Answer {
    size: Option<usize>,
    bytes: Vec<u8>,
    /// Where its head ends.
    head: usize,
}

impl Answer {
    fn make(&mut self, size: usize) {
        if self.size != Some(size) {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n");
            self.head = head.len();
            self.bytes = head.into_bytes();
            self.bytes.resize(self.bytes.len() + size, b'x');
            self.size = Some(size);
        }
    }
}

async fn http2(stream: Stream, bytes: Vec<u8>) -> Result<()> {
    let mut server = Server::handshake(stream, bytes, Sender::Proxy).await?;
    while let Some(accepted) = poll_fn(|cx| server.poll_accept(cx)).await {
        let Accepted { flow, head } = accepted;
        runtime::spawn_local("stream", async move {
            if let Ok(head) = head {
                // As above: the client counts it.
                let _ = stream_of(flow, head).await;
            }
        });
    }
    Ok(())
}

async fn stream_of(mut flow: Flow, mut head: Box<Head>) -> Result<()> {
    let mut message = Vec::new();
    while let Progress::More = poll_fn(|cx| {
        flow.poll_body(cx, &mut |_, chunk| {
            message.extend_from_slice(chunk.as_slice());
            Ok(())
        })
    })
    .await?
    {
        if message.len() > BODY_BYTES_MAX {
            bail!("too large");
        }
    }
    if !grpc::is_grpc(&head) && head.path().starts_with("/x/") {
        return counted_stream(flow, head).await;
    }
    let mut trailers = None;
    if grpc::is_grpc(&head) {
        head.start_response(200);
        head.append("content-type", b"application/grpc").map_err(reject)?;
        head.set_framing(Framing::Stream);
        let mut fields = Fields::new();
        fields.append("grpc-status", b"0").map_err(|reason| reject(reason.into()))?;
        trailers = Some(fields);
    } else {
        let size = size_of(head.path())?;
        message = vec![b'x'; size];
        head.start_response(200);
        head.append("content-type", b"text/plain").map_err(reject)?;
        head.set_framing(Framing::Length(size as u64));
    }
    flow.send_response(&head)?;
    flow.push(&message)?;
    flow.end(trailers.as_ref())?;
    poll_fn(|cx| match flow.poll_flush(cx) {
        Poll::Pending if flow.poll_gone(cx).is_ready() => Poll::Ready(Err(byrnie_net::http::Error::Closed)),
        flushed => flushed,
    })
    .await?;
    Ok(())
}

/// Serves a request for `/x/` over HTTP/2, in pieces as over HTTP/1.
async fn counted_stream(mut flow: Flow, mut head: Box<Head>) -> Result<()> {
    COUNTED.fetch_add(1, Ordering::Relaxed);
    let mut left = size_of(head.path())?;
    head.start_response(200);
    head.append("content-type", b"text/plain").map_err(reject)?;
    head.set_framing(Framing::Length(left as u64));
    flow.send_response(&head)?;
    loop {
        let part = left.min(FILLING.len());
        flow.push(&FILLING[..part])?;
        left -= part;
        if left == 0 {
            flow.end(None)?;
        }
        poll_fn(|cx| match flow.poll_flush(cx) {
            Poll::Pending if flow.poll_gone(cx).is_ready() => Poll::Ready(Err(byrnie_net::http::Error::Closed)),
            flushed => flushed,
        })
        .await?;
        if left == 0 {
            return Ok(());
        }
    }
}

fn reject(reject: byrnie_codec::Reject) -> anyhow::Error {
    anyhow::anyhow!("{reject}")
}

/// Where the first head in `bytes` ends.
pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn size_asked(head: &[u8]) -> Result<usize> {
    size_of(std::str::from_utf8(head)?.split(' ').nth(1).context("no path")?)
}

fn size_of(path: &str) -> Result<usize> {
    let size = ["/b/", "/p/", "/x/"].iter().find_map(|kind| path.strip_prefix(kind)).context("not /b/N")?;
    let size: usize = size.split('/').next().unwrap_or_default().parse()?;
    if size <= BODY_BYTES_MAX { Ok(size) } else { bail!("too large") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_in_the_path() {
        assert_eq!(size_asked(b"GET /b/100 HTTP/1.1\r\n\r\n").unwrap(), 100);
        assert_eq!(size_asked(b"GET /x/5/any HTTP/1.1\r\n\r\n").unwrap(), 5);
        assert_eq!(length_said(b"POST /x/5 HTTP/1.1\r\nContent-Length: 12\r\n\r\n"), 12);
        assert!(size_asked(b"GET /other HTTP/1.1\r\n\r\n").is_err());
        assert!(size_asked(b"GET /b/99999999999 HTTP/1.1\r\n\r\n").is_err());
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n\r\nGET"), Some(18));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n"), None);
    }
}
