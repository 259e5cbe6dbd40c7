// SPDX-License-Identifier: Apache-2.0
//! What an ordinary exchange asks for, over each wire: nothing. The two proxies have TLS between them, whose library asks for
//! memory twice for each record, to seal it and to open it; there is one each way. Clients and programs are aside.

use crate::frame::{ACK, DATA, END_STREAM, HEADERS, Link, Out, PING, PREFACE, SETTINGS};
use crate::hpack::Block;
use crate::world::{DOMAIN, Program, Proxy, resource};
use crate::{alone, aside, asked, pair_of};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::telemetry::{Endpoint, Otlp, Share};
use byrnie_model::{Kind, Protocol, Spec};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Exchanges that are counted together, and how often at most: timers and records of a few exchanges ask for memory too, but
/// not in every one of them. The busier the machine the longer it takes to find one without.
const EXCHANGES: u64 = 50;
const WINDOWS: usize = 1_000;
/// Exchanges before the first is counted.
const WARMING: u64 = 500;

/// To seal and to open a record, with the request and with its answer.
const OF_TLS: u64 = 4;

/// Room for all that tests here send.
const WINDOW_BYTES: u32 = 1 << 30;

/// Reads into `buffer` until `end` has come; false if nothing more does.
fn read_to(stream: &mut TcpStream, buffer: &mut [u8], end: &[u8]) -> bool {
    let mut len = 0;
    while !buffer[..len].ends_with(end) {
        match stream.read(&mut buffer[len..]) {
            Ok(read) if read > 0 => len += read,
            _ => return false,
        }
    }
    true
}

/// Fails unless exchanges ask for `wanted` each, in the fewest of many windows.
fn expect(wanted: u64, mut exchange: impl FnMut()) {
    aside();
    (0..WARMING).for_each(|_| exchange());
    let mut counts = Vec::with_capacity(WINDOWS);
    while counts.len() < WINDOWS && counts.last() != Some(&(wanted * EXCHANGES)) {
        let before = asked();
        (0..EXCHANGES).for_each(|_| exchange());
        counts.push(asked() - before);
    }
    println!("allocations of {EXCHANGES} exchanges each: {counts:?}");
    assert_eq!(counts.into_iter().min(), Some(wanted * EXCHANGES));
}

/// A program of HTTP/1.1 that answers every request which ends so with these bytes.
fn answering(ends: &'static [u8], answer: Vec<u8>) -> Program {
    Program::start(move |mut peer| {
        aside();
        let mut buffer = [0; 4096];
        while read_to(&mut peer.stream, &mut buffer, ends) {
            peer.stream.write_all(&answer).unwrap();
        }
    })
}

/// The same of HTTP/2: a request that has ended is answered with these frames.
fn answering_streams(answer: impl Fn(u32) -> Out + Send + Sync + 'static) -> Program {
    Program::start(move |peer| {
        aside();
        let mut link = Link::over(peer.stream);
        if !link.skip(PREFACE.len()) {
            return;
        }
        link.send(Out::default().setting(4, WINDOW_BYTES).window(0, WINDOW_BYTES));
        while let Some(frame) = link.read() {
            match frame.kind {
                SETTINGS if !frame.has(ACK) => link.send(Out::default().frame(SETTINGS, ACK, 0, [])),
                PING if !frame.has(ACK) => link.send(Out::default().frame(PING, ACK, 0, frame.payload)),
                HEADERS | DATA if frame.has(END_STREAM) => link.send(answer(frame.id)),
                _ => {}
            }
        }
    })
}

/// Exchanges over one connection of HTTP/1.1, one after the other.
fn expect_of_http1(wanted: u64, caller: &Proxy, request: &[u8], ends: &[u8]) {
    let mut stream = TcpStream::connect(caller.outbound("echo")).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    expect(wanted, || {
        stream.write_all(request).unwrap();
        assert!(read_to(&mut stream, &mut buffer, ends));
    });
}

/// The same over one of HTTP/2.
fn expect_of_http2(wanted: u64, caller: &Proxy, request: impl Fn(u32) -> Out) {
    aside();
    let settings = Out::default().setting(4, WINDOW_BYTES).window(0, WINDOW_BYTES);
    let mut link = Link::client(caller.outbound("echo"), settings);
    let mut ids = (1..).step_by(2);
    expect(wanted, || {
        let id = ids.next().unwrap();
        link.send(request(id));
        loop {
            let frame = link.read().expect("an answer");
            match frame.kind {
                PING if !frame.has(ACK) => link.send(Out::default().frame(PING, ACK, 0, frame.payload)),
                SETTINGS if !frame.has(ACK) => link.send(Out::default().frame(SETTINGS, ACK, 0, [])),
                _ if frame.id == id && frame.has(END_STREAM) => return,
                _ => {}
            }
        }
    });
}

const REQUEST: &[u8] = b"GET /charge?id=1 HTTP/1.1\r\nhost: echo\r\nuser-agent: test/1.0\r\naccept: */*\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";

fn expect_plain(wanted: u64, prepare: impl FnOnce(&mut Proxy, &mut Proxy)) {
    let program = answering(b"\r\n\r\n", ANSWER.to_vec());
    let (_world, mut server, mut caller) = pair_of(program.port, Protocol::Http1);
    prepare(&mut server, &mut caller);
    expect_of_http1(wanted, &caller, REQUEST, b"\r\n\r\nok");
}

#[test]
fn a_plain_request_asks_for_no_memory_but_what_tls_asks_for() {
    alone(|| expect_plain(OF_TLS, |_, _| {}));
}

/// What is known of the trace, where it begins; those behind have nothing to know.
#[test]
fn a_trace_that_is_not_told_asks_for_two_pieces_of_memory() {
    let quiet = |server: &mut Proxy, caller: &mut Proxy| {
        let otlp = Otlp {
            endpoint: Endpoint::parse("http://127.0.0.1:9").unwrap(),
            ca: None,
            headers: Vec::new(),
            traces: Share::of_millionths(0),
            metrics: None,
        };
        let (trust_domain, otlp) = (DOMAIN.into(), Some(Arc::new(otlp)));
        let mesh = Mesh { trust_domain, default_access: DefaultAccess::Allow, otlp, limits: Box::default() };
        for proxy in [server, caller] {
            proxy.apply(vec![resource(Kind::Mesh, "mesh", Spec::Mesh(mesh.clone()))]);
        }
    };
    alone(|| expect_plain(OF_TLS + 2, quiet));
}

#[test]
fn small_bodies_both_ways_ask_for_none() {
    alone(|| {
        let body = "b".repeat(100);
        let request = format!("POST /charge HTTP/1.1\r\nhost: echo\r\ncontent-length: 103\r\n\r\n{body}end");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 103\r\n\r\n{body}end");
        let program = answering(b"end", answer.into_bytes());
        let (_world, _server, caller) = pair_of(program.port, Protocol::Http1);
        expect_of_http1(OF_TLS, &caller, request.as_bytes(), b"end");
    });
}

/// What TLS asks for: the answer comes in two records, of which the first holds its head with a part of the body and the second is
/// sealed from where the rest lies. The library makes a list of the pieces of that, and has its buffer for what comes
/// grow, grow again and shrink.
#[test]
fn an_answer_of_ten_kibibytes_asks_for_what_two_records_take() {
    const OF_TWO_RECORDS: u64 = OF_TLS + 2 + 1 + 3;
    alone(|| {
        let body = "b".repeat(10 * 1024 - 3);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 10240\r\n\r\n{body}end");
        let program = answering(b"\r\n\r\n", answer.into_bytes());
        let (_world, _server, caller) = pair_of(program.port, Protocol::Http1);
        expect_of_http1(OF_TWO_RECORDS, &caller, REQUEST, b"end");
    });
}

#[test]
fn a_request_of_http2_asks_for_none() {
    alone(|| {
        let program = answering_streams(|id| {
            let head = Block::status("200").line("content-type", "text/plain").line("content-length", "2");
            Out::default().head(id, head).last(id, b"ok")
        });
        let (_world, _server, caller) = pair_of(program.port, Protocol::Http2);
        expect_of_http2(OF_TLS, &caller, |id| {
            Out::default().whole(id, Block::get("/charge?id=1").line("user-agent", "test/1.0").line("accept", "*/*"))
        });
    });
}

/// A message both ways, and how it ended.
#[test]
fn a_call_of_grpc_asks_for_none() {
    const MESSAGE: &[u8] = b"\0\0\0\0\x0a0123456789";
    alone(|| {
        let program = answering_streams(|id| {
            let head = Block::status("200").line("content-type", "application/grpc");
            let trailers = Block::default().line("grpc-status", "0").line("grpc-message", "");
            Out::default().head(id, head).data(id, MESSAGE).whole(id, trailers)
        });
        let (_world, _server, caller) = pair_of(program.port, Protocol::Grpc);
        expect_of_http2(OF_TLS, &caller, |id| {
            let head = Block::post("/shop.Pay/Charge").line("te", "trailers").line("content-type", "application/grpc");
            Out::default().head(id, head).last(id, MESSAGE)
        });
    });
}

/// A piece each way.
#[test]
fn pieces_of_an_opaque_connection_ask_for_none() {
    alone(|| {
        let program = answering(b"end", b"a piece, end".repeat(8));
        let (_world, _server, caller) = pair_of(program.port, Protocol::Tcp);
        expect_of_http1(OF_TLS, &caller, b"one piece of a connection that nobody reads, end", b"end");
    });
}
