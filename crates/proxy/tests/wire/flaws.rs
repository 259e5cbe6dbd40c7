// SPDX-License-Identifier: Apache-2.0
//! Answers of HTTP/1 that are malformed, in their head or behind it: they are asked for once, and what is wrong with them is told.

use crate::world::{PATIENCE, Peer, Program, World, status};
use byrnie_codec::RejectReason;
use byrnie_model::Protocol;
use byrnie_net::runtime;
use byrnie_proxy::Hop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[test]
fn what_is_wrong_with_an_answer_is_told_once_wherever_in_it_that_is() {
    let cases = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok".to_owned(),
            RejectReason::ContentLengthRepeated,
        ),
        (format!("{CHUNKED}zz\r\n"), RejectReason::ChunkSize),
        (format!("{CHUNKED}3\r\nabc\r\n-1\r\n"), RejectReason::ChunkSize),
        (format!("{CHUNKED}3\r\nabcd\r\n"), RejectReason::ChunkEnd),
        (format!("{CHUNKED}3\r\nabc\r\n0\r\ncontent-length: 3\r\n\r\n"), RejectReason::TrailerForbidden),
    ];
    for hop in [Hop::Framed, Hop::Http1] {
        for (answer, reason) in cases.clone() {
            let asked = Arc::new(AtomicUsize::new(0));
            let (count, said) = (Arc::clone(&asked), answer.clone());
            let program = Program::start(move |mut peer| {
                while peer.read_head().is_some() {
                    count.fetch_add(1, Ordering::SeqCst);
                    peer.send(&said);
                }
            });
            let mut world = World::new();
            world.hop = hop;
            for protocol in [Protocol::Http1, Protocol::Undeclared] {
                let server = world.serving("calls", program.port, protocol);
                let caller = world.calling(&[("calls", protocol, &[&server])]);
                let before = asked.load(Ordering::SeqCst);
                let (status, body) =
                    Peer::connect(caller.outbound("calls")).ask("GET / HTTP/1.1\r\nhost: calls\r\n\r\n");
                assert!(status == 502 && body.contains("\"BYR-R015\""), "{answer:?}: {status} {body}");
                let told = format!("malformed answer: {}", reason.detail());
                assert!(body.contains(&told), "{answer:?}: {body}, not {told}");
                assert_eq!(asked.load(Ordering::SeqCst), before + 1, "{answer:?}");
            }
        }
    }
}

/// The caller has the beginning of it, which can't be taken back: it's cut, and both proxies write down why.
#[test]
fn an_answer_that_proves_malformed_once_it_has_begun_is_cut_and_both_sides_know_why() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let program = Program::start(move |mut peer| {
        peer.read_head().unwrap();
        peer.send(format!("{CHUNKED}5\r\nbegun\r\n"));
        wait.lock().unwrap().recv().unwrap();
        peer.send("zz\r\n");
        peer.read_to_end();
    });
    let world = World::new();
    let server = world.serving("calls", program.port, Protocol::Http1);
    let caller = world.calling(&[("calls", Protocol::Http1, &[&server])]);
    let mut client = Peer::connect(caller.outbound("calls"));
    client.send("GET / HTTP/1.1\r\nhost: calls\r\n\r\n");
    assert_eq!(status(&client.read_head().unwrap()), 200);
    assert_eq!(client.read_exact(10), b"5\r\nbegun\r\n");
    go.send(()).unwrap();
    assert_eq!(client.read_to_end(), b"");
    for name in ["calls", "caller"] {
        let begun = runtime::now().mono;
        let mut log = world.log(name);
        while !log.contains("BYR-R") {
            assert!(runtime::now().mono.since(begun) < PATIENCE, "{name}: {log}");
            std::thread::yield_now();
            log = world.log(name);
        }
        assert!(log.contains("BYR-R015"), "{name}: {log}");
    }
}
