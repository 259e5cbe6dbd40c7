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

/// Clients without windows: what they were sent stays where it came from, and another doesn't notice.
#[test]
fn answers_that_nobody_reads_stay_where_they_came_from() {
    alone(|| {
        let each = held_by_unread(1, 250);
        assert!(each <= 120 * KIB, "{each}");
    });
}

#[test]
fn many_answers_that_nobody_reads_cost_less_each() {
    alone(|| {
        let each = held_by_unread(5, 100);
        assert!(each <= 88 * KIB, "{each}");
    });
}

/// What both proxies hold for each of so many answers of 16 MiB on so many connections, with what is under way between the two:
/// there may be 32 MiB of that, whatever is asked for.
fn held_by_unread(clients: u32, streams: u32) -> i64 {
    let program = giving();
    let (_world, _server, caller) = pair(&program);
    let entry = caller.outbound("echo");
    let mut good = Peer::connect(entry);
    assert_eq!(good.ask(&get("/2")).0, 200);
    let before = held();
    let mut greedy: Vec<Link> = (0..clients).map(|_| Link::client(entry, out().setting(4, 0))).collect();
    for link in &mut greedy {
        for n in 0..streams {
            link.send(out().whole(1 + 2 * n, Block::get("/16777216")));
        }
        for _ in 0..streams {
            while link.read().expect("a head").kind != HEADERS {}
        }
    }
    for _ in 0..50 {
        let (status, body) = good.ask(&get("/1000"));
        // Of processor time a busy machine may be short whatever is held.
        assert!(status == 200 || body.contains("\"reason\":\"strain\""), "{status}: {body}");
    }
    let each = (held() - before) / i64::from(clients * streams);
    println!("{clients} clients with {streams} answers each: {each} bytes for each answer");
    each
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
