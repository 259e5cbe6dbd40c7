// SPDX-License-Identifier: Apache-2.0
//! What hostile clients make two proxies hold, together with this test's own end of it.

use crate::frame::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Link, Out};
use crate::hpack::Block;
use crate::world::{Peer, get};
use crate::{alone, giving, held, metrics, pair};
use byrnie_net::runtime;
use std::io::Write;
use std::net::TcpStream;

const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;

fn out() -> Out {
    Out::default()
}

#[test]
fn a_client_that_is_slow_with_a_head_costs_a_few_kibibytes() {
    alone(|| assert!(held_by_slow("GET /2 HTTP/1.1\r\nhost: echo\r\nx-slow: ") <= 16 * KIB));
}

#[test]
fn a_client_that_is_slow_with_a_body_costs_some_kibibytes() {
    alone(|| {
        let each = held_by_slow("POST /2 HTTP/1.1\r\nhost: echo\r\ncontent-length: 1000000\r\n\r\nx");
        assert!(each <= 64 * KIB);
    });
}

/// What both proxies hold for each client that does nothing after `opening`.
fn held_by_slow(opening: &str) -> i64 {
    const CLIENTS: i64 = 300;
    let program = giving();
    let (_world, _server, caller) = pair(&program);
    let entry = caller.outbound("echo");
    let mut good = Peer::connect(entry);
    assert_eq!(good.ask(&get("/2")).0, 200);
    let before = held();
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| TcpStream::connect(entry).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.write_all(opening.as_bytes()).unwrap());
    // Whoever came before has been looked at when the next one is answered.
    (0..20).for_each(|_| assert_eq!(good.ask(&get("/2")).0, 200));
    let each = (held() - before) / CLIENTS;
    println!("{each} bytes for each client");
    each
}

/// One client without windows, another that doesn't read: what it was sent stays in few places.
#[test]
fn answers_that_nobody_reads_stay_where_they_came_from() {
    const STREAMS: u32 = 250;
    alone(|| {
        let program = giving();
        let (_world, _server, caller) = pair(&program);
        let entry = caller.outbound("echo");
        let mut good = Peer::connect(entry);
        assert_eq!(good.ask(&get("/2")).0, 200);
        let before = held();
        let mut greedy = Link::client(entry, out().setting(4, 0));
        for n in 0..STREAMS {
            greedy.send(out().whole(1 + 2 * n, Block::get("/16777216")));
        }
        while greedy.read().expect("a head").id != 2 * STREAMS - 1 {}
        (0..50).for_each(|_| assert_eq!(good.ask(&get("/1000")).0, 200));
        let grown = held() - before;
        println!("{STREAMS} answers without a window: {grown} bytes");
        // Credit of four connections between the proxies is 32 MiB; each answer's own state is counted beside.
        assert!(grown <= 64 * MIB, "{grown}");
    });
}

/// A byte stands for a line of forty, or of four thousand.
#[test]
fn header_blocks_that_unfold_are_given_up_before_they_have() {
    alone(|| give_bombs(4_000, 40));
}

#[test]
fn header_blocks_that_unfold_far_are_given_up_before_they_have() {
    alone(|| give_bombs(16_000, 40));
}

#[test]
fn header_blocks_that_unfold_to_long_lines_are_given_up_before_they_have() {
    alone(|| give_bombs(16_000, 3_900));
}

fn give_bombs(references: usize, value: usize) {
    let program = giving();
    let (_world, _server, caller) = pair(&program);
    let entry = caller.outbound("echo");
    let mut good = Peer::connect(entry);
    assert_eq!(good.ask(&get("/2")).0, 200);
    let before = held();
    let mut block = Block::get("/2").kept("cookie", &"v".repeat(value)).0;
    block.extend(std::iter::repeat_n(0xbe, references));
    let mut bombs = Vec::new();
    for _ in 0..20 {
        let mut bomb = Link::client(entry, out().setting(4, 0));
        for id in (1..200).step_by(2) {
            bomb.send(bombing(id, &block));
        }
        bombs.push(bomb);
    }
    assert_eq!(good.ask(&get("/2")).0, 200);
    let each = (held() - before) / 20;
    println!("{references} references to {value} bytes: {each} bytes for each connection");
    assert!(each <= 256 * KIB, "{each}");
    assert_eq!(runtime::panics(), 0);
}

fn bombing(id: u32, block: &[u8]) -> Out {
    let mut sends = out().frame(HEADERS, END_STREAM, id, []);
    let mut rest = block.chunks(16_000).peekable();
    while let Some(part) = rest.next() {
        sends = sends.frame(CONTINUATION, if rest.peek().is_none() { END_HEADERS } else { 0 }, id, part);
    }
    sends
}

#[test]
fn hosts_paths_and_methods_that_never_come_twice_leave_no_trace_in_metrics() {
    const REQUESTS: u32 = 3_000;
    alone(|| {
        let program = giving();
        let (_world, server, caller) = pair(&program);
        let mut client = Peer::connect(caller.outbound("echo"));
        let mut ask = |n: u32| {
            client.ask(&format!(
                "M{n} /2/{n}?q={n} HTTP/1.1\r\nhost: h{n}.example\r\nuser-agent: a{n}\r\nx-request-id: {n}\r\ncontent-length: 0\r\n\r\n"
            ))
        };
        (0..500).for_each(|n| assert_eq!(ask(n).0, 200));
        let (before, first) = (held(), metrics(&caller).lines().count());
        (500..REQUESTS).for_each(|n| assert_eq!(ask(n).0, 200));
        let (grown, lines) = (held() - before, metrics(&caller).lines().count());
        println!("{REQUESTS} requests unlike each other: {lines} lines of metrics, {grown} bytes more");
        assert!(lines <= first + 10 && lines < 300, "{first}, then {lines}");
        assert!(metrics(&server).lines().count() < 300);
        assert!(grown <= 4 * MIB, "{grown}");
    });
}
