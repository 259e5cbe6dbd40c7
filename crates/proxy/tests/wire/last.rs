// SPDX-License-Identifier: Apache-2.0
//! An answer that says the connection ends with it (RFC 9112 9.6), or that only ends with it (6.3): it does, and what the client
//! asks behind that reaches nobody.

use crate::back::bodies;
use crate::frame::Link;
use crate::front::out;
use crate::hpack::Block;
use crate::world::{Peer, Program, World, allow_all, endpoint_of, header, service_of};
use byrnie_model::Protocol;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const FIRST: &str = "GET /first HTTP/1.0\r\nhost: echo.mesh.localhost\r\nconnection: keep-alive\r\n\r\n";
const SECOND: [&str; 2] = [
    "GET /second HTTP/1.0\r\nhost: echo.mesh.localhost\r\nconnection: keep-alive\r\n\r\n",
    "GET /second HTTP/1.1\r\nhost: echo.mesh.localhost\r\n\r\n",
];

/// A program of HTTP/1 that answers like this and counts what it's asked.
fn saying(answer: &'static str, closes: bool) -> (Program, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let program = Program::start(move |mut peer| {
        while peer.read_head().is_some() {
            count.fetch_add(1, Ordering::SeqCst);
            peer.send(answer);
            if closes {
                return;
            }
        }
    });
    (program, asked)
}

/// The same in HTTP/2, of an answer without a length.
fn streaming() -> (Program, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let program = Program::start(move |peer| {
        let count = Arc::clone(&count);
        bodies(&mut Link::over(peer.stream), move |link, id, ended| {
            if ended {
                count.fetch_add(1, Ordering::SeqCst);
                link.send(out().head(id, Block::status("200")).data(id, b"wh").last(id, b"ole"));
            }
        });
    });
    (program, asked)
}

fn until_closed() -> (Program, Arc<AtomicUsize>) {
    saying("HTTP/1.1 200 OK\r\n\r\nwhole", true)
}

fn chunked() -> (Program, Arc<AtomicUsize>) {
    saying("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n", false)
}

#[test]
fn an_old_client_is_left_at_the_end_of_an_answer_of_unknown_length_and_nothing_behind_it_is_read() {
    for (protocol, (program, asked)) in [
        (Protocol::Http1, until_closed()),
        (Protocol::Http1, chunked()),
        (Protocol::Http2, streaming()),
        (Protocol::Undeclared, until_closed()),
        (Protocol::Undeclared, chunked()),
    ] {
        let world = World::new();
        let server = world.serving("echo", program.port, protocol);
        let caller = world.calling(&[("echo", protocol, &[&server])]);
        let edge =
            world.edge(vec![allow_all(), service_of("echo", 1, protocol), endpoint_of("echo", 0, server.inbound())]);
        for address in [caller.outbound("echo"), edge.ports.edge.unwrap()] {
            for behind in ["", SECOND[0], SECOND[1]] {
                let before = asked.load(Ordering::SeqCst);
                let mut client = Peer::connect(address);
                client.send([FIRST, behind].concat());
                let head = client.read_head().unwrap();
                assert_eq!(header(&head, "connection"), Some("close"), "{protocol:?} {head}");
                assert_eq!(client.read_exact(5), b"whole", "{protocol:?} {head}");
                // Nor what comes later.
                client.send(SECOND[1]);
                assert_eq!(client.read_to_end().escape_ascii().to_string(), "", "{protocol:?} {behind}");
                assert_eq!(asked.load(Ordering::SeqCst), before + 1, "{protocol:?} {behind}");
            }
        }
    }
}

#[test]
fn an_old_client_that_is_told_the_length_goes_on() {
    let (program, asked) = saying("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole", false);
    let world = World::new();
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    for _ in 0..3 {
        client.send(FIRST);
        let (head, body) = client.response();
        assert_eq!((header(&head, "connection"), &body[..]), (Some("keep-alive"), &b"whole"[..]), "{head}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}
