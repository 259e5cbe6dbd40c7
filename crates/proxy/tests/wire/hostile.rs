// SPDX-License-Identifier: Apache-2.0
//! Servers that answer what nobody asked, or not what was asked. Every request carries a mark; an answer
//! with another's mark is the worst that can happen to a proxy.

use crate::world::{Peer, Program, World, header, status};
use byrnie_model::Protocol;
use byrnie_net::runtime;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests in all, unless `BYRNIE_HOSTILE_REQUESTS` says otherwise.
const REQUESTS: u64 = 20_000;
const CLIENTS: u64 = 4;

/// How the server misbehaves on its nth answer to a request with this mark.
fn answer(peer: &mut Peer, n: u64, mark: &str) {
    let well = |mark: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{mark}", mark.len());
    let text = match n % 12 {
        0 => format!("{}{}", well(mark), well("stolen")),
        1 => format!("HTTP/1.1 204 No Content\r\n\r\n{}", well("stolen")),
        2 => format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{}",
            well("stolen")
        ),
        3 => format!("{}{}", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(40), well(mark)),
        4 => format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n{mark}"),
        5 => format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\nstolen{}", well("stolen")),
        6 => format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{mark}\r\n0\r\n\r\n{}",
            mark.len(),
            well("stolen")
        ),
        7 => format!("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{mark}"),
        8 => format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n{}", well("stolen")),
        9 => format!("HTTP/1.0 200 OK\r\n\r\n{mark}"),
        _ => well(mark),
    };
    peer.send(text);
    if matches!(n % 12, 7 | 9) {
        let _ = peer.stream.shutdown(std::net::Shutdown::Both);
    }
}

#[test]
fn no_answer_reaches_another_request() {
    let turn = Arc::new(AtomicU64::new(0));
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            let n = turn.fetch_add(1, Ordering::SeqCst);
            // Now and then before the request's body was read, or even sent.
            let early = n.is_multiple_of(7);
            if !early && crate::front::body_of(&mut peer, &head).is_none() {
                return;
            }
            let mark = header(&head, "x-mark").unwrap_or_default().to_owned();
            answer(&mut peer, n, &mark);
            if early && crate::front::body_of(&mut peer, &head).is_none() {
                return;
            }
        }
    });
    let world = World::new();
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let address = caller.outbound("echo");
    let requests = crate::wanted("BYRNIE_HOSTILE_REQUESTS", REQUESTS);
    let (asked, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (asked, answered) = (&asked, &answered);
            scope.spawn(move || {
                let mut peer = Peer::connect(address);
                for n in 0..requests / CLIENTS {
                    let mark = format!("mark-{client}-{n}");
                    let body = if n % 3 == 0 { "body" } else { "" };
                    let method = if n % 3 == 0 { "POST" } else { "GET" };
                    let length = body.len();
                    peer.send(format!("{method} /{n} HTTP/1.1\r\nhost: echo\r\nx-mark: {mark}\r\ncontent-length: {length}\r\n\r\n{body}"));
                    asked.fetch_add(1, Ordering::SeqCst);
                    let whole = read(&mut peer, &mark);
                    answered.fetch_add(u64::from(whole == Some(true)), Ordering::SeqCst);
                    if whole.is_none() {
                        peer = Peer::connect(address);
                    }
                }
            });
        }
    });
    let (asked, answered) = (asked.into_inner(), answered.into_inner());
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
