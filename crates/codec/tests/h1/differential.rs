// SPDX-License-Identifier: Apache-2.0
//! Against hyper, another strict server: what it accepts of valid messages we accept and read alike,
//! and what we accept and forward it accepts and reads alike.

use std::sync::{Arc, Mutex};

use byrnie_codec::h1::{Asked, Body, emit_request, last_chunk, parse_request, parse_response};
use byrnie_codec::headers::{Sender, strip_hop_by_hop, strip_untrusted};
use byrnie_codec::{Framing, Head, Limits, Parsed};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cases::{self, Seen};
use crate::payloads::payloads;

/// The requests that hyper reads from a stream that ends after these bytes.
fn hyper_serves(stream: &[u8]) -> Vec<Seen> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(stream).await.unwrap();
        client.shutdown().await.unwrap();
        let sink = Arc::clone(&seen);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let sink = Arc::clone(&sink);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let headers = parts.headers.iter().map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect();
                let path_and_query = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
                let method = parts.method.to_string();
                sink.lock().unwrap().push(Seen {
                    method,
                    path_and_query,
                    headers,
                    body: body.to_vec(),
                    keep_alive: true,
                    bytes: 0,
                });
                Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
            }
        });
        // An error is an answer: what was seen until then counts.
        let _ = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service)
            .await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    });
    Arc::into_inner(seen).unwrap().into_inner().unwrap()
}

/// The lines both keep as lines, names in lower case and in order of names.
fn comparable(seen: &Seen) -> Vec<(String, Vec<u8>)> {
    const TYPED: [&str; 6] =
        ["host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection"];
    let lower = seen.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut lines: Vec<_> = lower.filter(|(name, _)| !TYPED.contains(&name.as_str())).collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    lines
}

#[test]
fn hyper_reads_valid_messages_alike() {
    let mut compared = 0;
    for message in cases::odd() {
        let theirs = hyper_serves(&message);
        // A few things that RFC 9112 allows hyper does not take.
        let Some(theirs) = theirs.first() else { continue };
        let (ours, refused, _) = cases::serve(&message);
        assert_eq!(refused, None, "{}", message.escape_ascii());
        let ours = ours.first().unwrap();
        assert_eq!(ours.method, theirs.method);
        assert_eq!(ours.body, theirs.body, "{}", message.escape_ascii());
        assert_eq!(comparable(ours), comparable(theirs), "{}", message.escape_ascii());
        compared += 1;
    }
    assert!(compared >= 300, "{compared}");
}

/// A request as it is forwarded, with another one behind it; `None` if it isn't, as nobody could know where to or it becomes a
/// tunnel. With it the path as it is forwarded, and how many requests whoever reads it must see.
fn forwarded(message: &[u8], body: &[u8]) -> Option<(Vec<u8>, String, usize)> {
    let mut head = Head::new();
    let parsed = parse_request(message, &Limits::default(), &mut head);
    assert!(matches!(parsed, Ok(Parsed::Complete(_))));
    if head.authority().is_empty() || head.upgrade().is_some() {
        return None;
    }
    strip_untrusted(&mut head, Sender::Outside);
    strip_hop_by_hop(&mut head);
    let mut out = Vec::new();
    emit_request(&head, &mut out);
    match head.framing() {
        Framing::Chunked => {
            if !body.is_empty() {
                byrnie_codec::h1::chunk_start(body.len(), &mut out);
                out.extend_from_slice(body);
                byrnie_codec::h1::chunk_end(&mut out);
            }
            last_chunk(None, &mut out);
        }
        _ => out.extend_from_slice(body),
    }
    out.extend_from_slice(b"GET /last HTTP/1.1\r\nHost: z\r\n\r\n");
    Some((out, head.path_and_query().to_owned(), if head.keep_alive() { 2 } else { 1 }))
}

/// Demands that hyper reads a forwarded request as we read what came; false if it isn't forwarded.
fn reads_what_is_forwarded(message: &[u8], ours: &Seen) -> bool {
    let Some((out, path_and_query, expected)) = forwarded(message, &ours.body) else { return false };
    let theirs = hyper_serves(&out);
    assert_eq!(theirs.len(), expected, "{}", out.escape_ascii());
    assert_eq!(theirs[0].method, ours.method);
    assert_eq!(theirs[0].body, ours.body, "{}", out.escape_ascii());
    assert_eq!(theirs[0].path_and_query, path_and_query, "{}", out.escape_ascii());
    true
}

#[test]
fn hyper_reads_what_is_forwarded_alike() {
    let messages = cases::odd();
    let compared =
        messages.iter().filter(|message| reads_what_is_forwarded(message, &cases::serve(message).0[0])).count();
    assert!(compared >= 300, "{compared}");
}

/// What looks as if it hid a request, and is accepted as it hides none: hyper sees as many requests, and the same in each, as it
/// came and as it's forwarded. There is no difference to be excused.
#[test]
fn hyper_reads_hostile_messages_that_are_accepted_alike() {
    let (mut compared, mut forwards) = (0, 0);
    for payload in payloads() {
        let (ours, _, _) = cases::serve(&payload);
        let Some(first) = ours.first() else { continue };
        let theirs = hyper_serves(&payload);
        assert_eq!(ours.len(), theirs.len(), "{}", payload.escape_ascii());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!((&ours.method, &ours.body), (&theirs.method, &theirs.body), "{}", payload.escape_ascii());
            assert_eq!(comparable(ours), comparable(theirs), "{}", payload.escape_ascii());
        }
        compared += 1;
        forwards += usize::from(reads_what_is_forwarded(&payload, first));
    }
    println!("{compared} compared, {forwards} of them forwarded");
    assert!(compared >= 500 && forwards >= 500, "{compared}, {forwards}");
}

/// Status and body that hyper's client reads from a server that says these bytes and closes.
fn hyper_reads(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.ok()?;
        let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
        let reading = async {
            let answer = sender.send_request(request).await.ok()?;
            let status = answer.status().as_u16();
            Some((status, answer.into_body().collect().await.ok()?.to_bytes().to_vec()))
        };
        // An answer before its question would be refused.
        let serving = async {
            assert!(server.read(&mut [0; 1024]).await.unwrap() > 0);
            server.write_all(answer).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (_, read, ()) = tokio::join!(connection, reading, serving);
        read
    })
}

/// The same by this crate; interim answers are skipped.
fn we_read(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let limits = Limits::default();
    let (mut head, mut at) = (Head::new(), 0);
    loop {
        let Ok(Parsed::Complete(used)) = parse_response(&answer[at..], &limits, Asked::Other, &mut head) else {
            return None;
        };
        at += used;
        if head.status() >= 200 {
            break;
        }
    }
    let mut body = Body::new(head.framing(), &limits);
    let mut payload = Vec::new();
    while !body.is_done() && at < answer.len() {
        let piece = body.decode(&answer[at..]).ok()?;
        payload.extend_from_slice(&answer[at..][piece.payload]);
        at += piece.consumed;
    }
    body.end().ok()?;
    Some((head.status(), payload))
}

#[test]
fn hyper_reads_responses_alike() {
    let starts = [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 ",
        "HTTP/1.1 404 Not Found",
        "HTTP/1.0 200 OK",
        "HTTP/1.1 503 a b",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created",
        "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK",
    ];
    let ends = [
        ("", ""),
        ("", "until the end\r\n\r\n"),
        ("Content-Length: 0\r\n", ""),
        ("Content-Length: 5\r\n", "hello"),
        ("content-length:5\r\n", "hello"),
        ("Content-Length: 5\r\n", "hell"),
        ("Content-Length: 5\r\nX:\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5;a=b\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTrailer: X\r\n", "5\r\nhello\r\n0\r\nX: y\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhell"),
        ("Transfer-Encoding: chunked\r\n", "x\r\nhello\r\n0\r\n\r\n"),
        ("Connection: close\r\n", "hello"),
    ];
    for start in starts {
        for (lines, body) in ends {
            // hyper forgives an HTTP/1.0 server its chunks.
            if start.starts_with("HTTP/1.0") && lines.starts_with("Transfer") {
                continue;
            }
            let answer = format!("{start}\r\n{lines}\r\n{body}");
            assert_eq!(we_read(answer.as_bytes()), hyper_reads(answer.as_bytes()), "{answer:?}");
        }
    }
}
