// SPDX-License-Identifier: Apache-2.0
//! Answers that are compressed on their way: by the callee's proxy alone, as soon as there is anything of them, and only for who
//! takes them so.

use crate::world::{PATIENCE, Peer, Program, Proxy, World, get, header, resource, service, status};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::Compression;
use byrnie_model::{Kind, Protocol, Spec};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use zlib_rs::{Inflate, InflateFlush};

/// Bytes of an answer that takes several turns to compress.
const LARGE_BYTES: usize = 1 << 20;

fn text(bytes: usize) -> String {
    let all: String = (0..).map(|n: u32| format!("{{\"order\": {n}}}, ")).take(bytes / 14 + 1).collect();
    all[..bytes].to_owned()
}

/// What a compressed body says as far as it has come.
fn unpack(coded: &[u8]) -> String {
    let mut out = vec![0; 2 * LARGE_BYTES];
    let mut inflate = Inflate::new(true, 15 + 16);
    inflate.decompress(coded, &mut out, InflateFlush::SyncFlush).unwrap();
    out.truncate(inflate.total_out() as usize);
    String::from_utf8(out).unwrap()
}

/// A program that answers by path, and says when a client of `/events` has left; its second event waits for a word.
fn shop() -> (Program, Sender<()>, Receiver<()>) {
    let (next, wait) = channel::<()>();
    let (left, gone) = channel::<()>();
    let (wait, left) = (Mutex::new(wait), Mutex::new(left));
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let body = text(LARGE_BYTES);
            let json = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
            match &*path {
                "/large" if head.starts_with("HEAD") => {
                    peer.send(format!("{json}etag: \"v1\"\r\ncontent-length: {}\r\n\r\n", body.len()));
                }
                "/large" => {
                    peer.send(format!("{json}etag: \"v1\"\r\ncontent-length: {}\r\n\r\n", body.len()));
                    peer.send(body);
                }
                "/whole" => {
                    peer.send(format!("{json}content-length: 3000\r\n\r\n"));
                    peer.send(text(3000));
                }
                "/small" => peer.send(format!("{json}content-length: 2\r\n\r\n{{}}")),
                "/coded" => {
                    peer.send(format!("{json}content-encoding: br\r\ncontent-length: 2000\r\n\r\n{}", text(2000)))
                }
                "/trailers" => {
                    let chunk = text(5000);
                    peer.send(format!("{json}transfer-encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n", chunk.len()));
                    peer.send("0\r\nx-sum: 42\r\n\r\n");
                }
                "/events" => {
                    peer.send(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
                    );
                    for event in ["one", "two"] {
                        let event = format!("data: {event}\n\n");
                        peer.send(format!("{:x}\r\n{event}\r\n", event.len()));
                        if wait.lock().unwrap().recv_timeout(PATIENCE).is_err() {
                            return;
                        }
                    }
                    peer.read_to_end();
                    left.lock().unwrap().send(()).unwrap();
                }
                _ => peer.send("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"),
            }
        }
    });
    (program, next, gone)
}

/// The sidecar of the shop, whose answers are compressed, and that of a caller.
fn compressing(world: &World, program: &Program) -> (Proxy, Proxy) {
    let mut server = world.serving("echo", program.port, Protocol::Http1);
    let compression = Some(Compression { bytes_min: Compression::BYTES_MIN, kinds: Vec::new() });
    let policy = TrafficPolicy { targets: vec![service("echo")], compression, ..TrafficPolicy::default() };
    server.apply(vec![resource(Kind::TrafficPolicy, "echo", Spec::Traffic(policy.into()))]);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    // The policy may come into force a moment later.
    while !ask(&mut client, "GET", "/large").0.contains("content-encoding: gzip") {}
    (server, caller)
}

fn ask(client: &mut Peer, method: &str, path: &str) -> (String, Vec<u8>) {
    client.send(format!("{method} {path} HTTP/1.1\r\nhost: echo\r\naccept-encoding: gzip\r\n\r\n"));
    let head = client.read_head().unwrap();
    let body = if method == "HEAD" { Vec::new() } else { client.read_body_of(&head) };
    (head, body)
}

#[test]
fn answers_are_compressed_once_for_who_takes_them_so() {
    let world = World::new();
    let (program, ..) = shop();
    let (_server, caller) = compressing(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    let (head, body) = ask(&mut client, "GET", "/large");
    assert_eq!((status(&head), header(&head, "content-encoding")), (200, Some("gzip")));
    assert_eq!((header(&head, "content-length"), header(&head, "vary")), (None, Some("accept-encoding")));
    assert_eq!(header(&head, "etag"), Some("W/\"v1\""));
    assert!(body.len() < LARGE_BYTES / 5, "{} bytes", body.len());
    // Two proxies were passed, and once unpacked it's what the program has said.
    assert!(unpack(&body) == text(LARGE_BYTES));
    // A short one, which is waited for before its head goes on, is no other.
    let (head, body) = ask(&mut client, "GET", "/whole");
    assert_eq!((header(&head, "content-encoding"), unpack(&body)), (Some("gzip"), text(3000)));
    let (head, _) = ask(&mut client, "GET", "/large");
    let (told, _) = ask(&mut client, "HEAD", "/large");
    let of = |head: &str, name| header(head, name).map(str::to_owned);
    for name in ["content-encoding", "content-length", "vary", "etag"] {
        assert_eq!(of(&told, name), of(&head, name), "{name}");
    }
    // Who takes no gzip gets what was said, and caches are told that this depends.
    client.send(get("/large"));
    let (head, body) = client.response();
    assert_eq!((header(&head, "content-encoding"), header(&head, "vary")), (None, Some("accept-encoding")));
    assert_eq!((header(&head, "etag"), body.len()), (Some("\"v1\""), LARGE_BYTES));
    let (head, body) = ask(&mut client, "GET", "/small");
    assert_eq!((header(&head, "content-encoding"), &*body), (None, &b"{}"[..]));
    let (head, body) = ask(&mut client, "GET", "/coded");
    assert_eq!((header(&head, "content-encoding"), String::from_utf8(body).unwrap()), (Some("br"), text(2000)));
}

#[test]
fn trailers_follow_a_compressed_answer() {
    let world = World::new();
    let (program, ..) = shop();
    let (_server, caller) = compressing(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("GET /trailers HTTP/1.1\r\nhost: echo\r\nte: trailers\r\naccept-encoding: gzip\r\n\r\n");
    let head = client.read_head().unwrap();
    assert_eq!(header(&head, "content-encoding"), Some("gzip"));
    let mut body = Vec::new();
    loop {
        let size = String::from_utf8(client.read_until(b"\r\n").unwrap()).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend(client.read_exact(size));
        client.read_exact(2);
    }
    assert_eq!(unpack(&body), text(5000));
    let trailers = String::from_utf8(client.read_until(b"\r\n\r\n").unwrap()).unwrap();
    assert!(trailers.contains("x-sum: 42"), "{trailers}");
    assert_eq!(ask(&mut client, "GET", "/small").1, b"{}", "the connection goes on, in step");
}

#[test]
fn a_stream_of_events_is_compressed_and_none_is_held_back() {
    let world = World::new();
    let (program, next, gone) = shop();
    let (_server, caller) = compressing(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("GET /events HTTP/1.1\r\nhost: echo\r\naccept-encoding: gzip\r\n\r\n");
    let head = client.read_head().unwrap();
    assert_eq!(header(&head, "content-encoding"), Some("gzip"));
    let mut coded = Vec::new();
    // The second event is sent only once the first can be read, and nothing ends after it.
    for said in ["data: one\n\n", "data: one\n\ndata: two\n\n"] {
        while unpack(&coded) != said {
            let size = String::from_utf8(client.read_until(b"\r\n").unwrap()).unwrap();
            coded.extend(client.read_exact(usize::from_str_radix(size.trim(), 16).unwrap()));
            client.read_exact(2);
        }
        next.send(()).unwrap();
    }
    // A client that leaves is a client that leaves.
    drop(client);
    gone.recv_timeout(PATIENCE).unwrap();
}
