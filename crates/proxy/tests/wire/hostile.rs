// SPDX-License-Identifier: Apache-2.0
//! Servers that answer what nobody asked, or not what was asked, or that break off, and clients that leave in the
//! middle of an answer. Every request carries a mark; an answer with another's mark is the worst that can happen to a
//! proxy.

use crate::frame::{ACK, DATA, END_STREAM, GOAWAY, HEADERS, Link, RST_STREAM, SETTINGS};
use crate::front::out;
use crate::hpack::Block;
use crate::world::{Peer, Program, World, header, status};
use byrnie_model::Protocol;
use byrnie_net::runtime;
use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests in all, unless `BYRNIE_HOSTILE_REQUESTS` says otherwise.
const REQUESTS: u64 = 20_000;
/// Requests that a client has under way at once, where it doesn't ask one by one.
const AT_ONCE: u64 = 4;
/// How often the mark stands in a large answer: more than fits into what lies between a client and a server.
const MUCH: usize = 20_000;

/// How the server misbehaves on its nth answer to a request with this mark; false if its connection is of no use then.
fn answer(peer: &mut Peer, n: u64, head: &str) -> bool {
    let mark = header(head, "x-mark").unwrap_or_default();
    let body = if header(head, "x-much").is_some() { mark.repeat(MUCH) } else { mark.to_owned() };
    let well = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let text = match n % 14 {
        0 => format!("{}{}", well(&body), well("stolen")),
        1 => format!("HTTP/1.1 204 No Content\r\n\r\n{}", well("stolen")),
        2 => format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{}",
            well("stolen")
        ),
        3 => format!("{}{}", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(40), well(&body)),
        4 => format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n{body}"),
        5 => format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\nstolen{}", well("stolen")),
        6 => format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n{}",
            body.len(),
            well("stolen")
        ),
        7 => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len() + 90),
        8 => format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n{}", well("stolen")),
        9 => format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
        10 => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{mark}", body.len() * 2),
        11 => format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{mark}", body.len() * 2),
        _ => well(&body),
    };
    peer.send(text);
    match n % 14 {
        7 | 9 => drop(peer.stream.shutdown(Shutdown::Both)),
        10 | 11 => reset(&peer.stream),
        _ => return true,
    }
    false
}

/// The connection ends with a reset once it is closed, with no thought of what was sent.
fn reset(stream: &TcpStream) {
    let stream = stream.try_clone().unwrap();
    runtime::block_on(async {
        stream.set_nonblocking(true).unwrap();
        tokio::net::TcpStream::from_std(stream).unwrap().set_zero_linger().unwrap();
    })
    .unwrap();
}

/// A server whose every answer is another's trouble.
fn hostile() -> Program {
    let turn = Arc::new(AtomicU64::new(0));
    Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            let n = turn.fetch_add(1, Ordering::SeqCst);
            // Now and then before the request's body was read, or even sent.
            let early = n.is_multiple_of(5);
            if !early && crate::front::body_of(&mut peer, &head).is_none() {
                return;
            }
            if !answer(&mut peer, n, &head) || early && crate::front::body_of(&mut peer, &head).is_none() {
                return;
            }
        }
    })
}

/// What the clients count: requests whose answers they waited for, and those that were answered well.
#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    answered: AtomicU64,
}

fn request(n: u64, mark: &str, more: &str) -> String {
    let body = if n.is_multiple_of(3) { "body" } else { "" };
    let method = if n.is_multiple_of(3) { "POST" } else { "GET" };
    let length = body.len();
    format!("{method} /{n} HTTP/1.1\r\nhost: echo\r\nx-mark: {mark}\r\n{more}content-length: {length}\r\n\r\n{body}")
}

/// Asks so many at once on one connection, and waits for their answers in order.
fn asking(address: SocketAddr, client: &str, requests: u64, at_once: u64, counts: &Counts) {
    let mut peer = Peer::connect(address);
    for first in (0..requests).step_by(at_once as usize) {
        let marks: Vec<String> = (first..first + at_once).map(|n| format!("mark-{client}-{n};")).collect();
        peer.send((first..).zip(&marks).map(|(n, mark)| request(n, mark, "")).collect::<String>());
        for mark in &marks {
            counts.asked.fetch_add(1, Ordering::SeqCst);
            let whole = read(&mut peer, mark);
            counts.answered.fetch_add(u64::from(whole == Some(true)), Ordering::SeqCst);
            if whole.is_none() {
                peer = Peer::connect(address);
                break;
            }
        }
    }
}

/// Asks for much, and leaves within the answer; then asks for little on a new connection.
fn leaving(address: SocketAddr, requests: u64, counts: &Counts) {
    for n in 0..requests / 2 {
        let mut peer = Peer::connect(address);
        peer.send(request(n, &format!("left-{n};"), "x-much: 1\r\n"));
        if peer.read_head().is_some() {
            assert!(!peer.buffer.windows(6).any(|bytes| bytes == b"stolen"));
        }
        drop(peer);
        asking(address, &format!("leaves-{n}"), 1, 1, counts);
    }
}

/// Asks in HTTP/2, several streams at once.
fn asking_http2(address: SocketAddr, requests: u64, counts: &Counts) {
    let (mut link, mut id) = (Link::client(address, out()), 1);
    for first in (0..requests).step_by(AT_ONCE as usize) {
        let mut open = BTreeMap::new();
        let mut sends = out();
        for n in first..first + AT_ONCE {
            let mark = format!("mark-h2-{n};");
            let block = Block::post(&format!("/{n}")).line("x-mark", &mark);
            sends = if n.is_multiple_of(3) { sends.head(id, block).last(id, b"body") } else { sends.whole(id, block) };
            open.insert(id, (mark, String::new(), Vec::new()));
            id += 2;
        }
        link.send(sends);
        counts.asked.fetch_add(AT_ONCE, Ordering::SeqCst);
        while !open.is_empty() {
            let Some(frame) = link.read().filter(|frame| frame.kind != GOAWAY) else {
                assert!(!link.silent, "nothing came of {open:?}");
                (link, id) = (Link::client(address, out()), 1);
                break;
            };
            match frame.kind {
                SETTINGS if !frame.has(ACK) => link.send(out().frame(SETTINGS, ACK, 0, [])),
                HEADERS => {
                    let lines = link.lines(&frame).expect("a small block");
                    let status = lines.iter().find(|(name, _)| name == ":status").map(|(_, status)| status.clone());
                    if let Some((stream, status)) = open.get_mut(&frame.id).zip(status) {
                        stream.1 = status;
                    }
                }
                DATA => {
                    link.send(out().window(0, (frame.payload.len() as u32).max(1)));
                    open.get_mut(&frame.id).expect("a stream that is open").2.extend_from_slice(&frame.payload);
                }
                _ => {}
            }
            let ended = matches!(frame.kind, HEADERS | DATA) && frame.has(END_STREAM);
            if (ended || frame.kind == RST_STREAM)
                && let Some((mark, status, body)) = open.remove(&frame.id)
            {
                let text = String::from_utf8_lossy(&body).into_owned();
                let own = status != "200" || mark.starts_with(&text) && (!ended || text == mark);
                assert!(own && !text.contains("stolen"), "{mark} got {status} {text}");
                counts.answered.fetch_add(u64::from(ended && status == "200"), Ordering::SeqCst);
            }
        }
    }
}

#[test]
fn no_answer_reaches_another_request() {
    let (world, program) = (World::new(), hostile());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let address = caller.outbound("echo");
    // The clients that leave ask a tenth of all, as they need a connection for each request; the others share the rest.
    let requests = crate::wanted("BYRNIE_HOSTILE_REQUESTS", REQUESTS);
    let (few, each) = (requests / 10, requests * 9 / 40);
    let counts = Counts::default();
    std::thread::scope(|scope| {
        for client in ["0", "1"] {
            let counts = &counts;
            scope.spawn(move || asking(address, client, each, 1, counts));
        }
        scope.spawn(|| asking(address, "pipe", each, AT_ONCE, &counts));
        scope.spawn(|| leaving(address, few, &counts));
        scope.spawn(|| asking_http2(address, each, &counts));
    });
    let (asked, answered) = (counts.asked.into_inner(), counts.answered.into_inner());
    println!("{asked} requests to hostile servers, {answered} answered with their own mark, 0 with another's");
    assert!(answered > asked / 4, "{answered} of {asked}");
    assert_eq!(runtime::panics(), 0);
}

/// Reads one answer: whether it is the server's, `None` if the connection is to be given up.
fn read(peer: &mut Peer, mark: &str) -> Option<bool> {
    let head = loop {
        let head = peer.read_head()?;
        if !(100..200).contains(&status(&head)) {
            break head;
        }
    };
    assert!(!head.contains("stolen"), "{head}");
    let body = match status(&head) {
        204 | 304 => Vec::new(),
        _ => crate::front::body_of(peer, &head)?,
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(!text.contains("stolen"), "{text}");
    if status(&head) == 200 {
        assert_eq!(text, mark, "another's answer");
    }
    if header(&head, "connection") == Some("close") { None } else { Some(status(&head) == 200) }
}
