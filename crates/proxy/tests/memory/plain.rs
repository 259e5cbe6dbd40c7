// SPDX-License-Identifier: Apache-2.0
//! What an ordinary request asks for: nothing. The two proxies have TLS between them, whose library asks for memory
//! twice for each record, to seal it and to open it; there is one each way.

use crate::world::{DOMAIN, Program, Proxy, resource};
use crate::{alone, asked, pair};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::telemetry::{Endpoint, Otlp, Share};
use byrnie_model::{Kind, Spec};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

const REQUEST: &[u8] = b"GET /charge?id=1 HTTP/1.1\r\nhost: echo\r\nuser-agent: test/1.0\r\naccept: */*\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";
/// Requests that are counted together, and how often at most: timers and records of a few exchanges ask for memory too, but
/// not in every one of them. The busier the machine the longer it takes to find one without.
const REQUESTS: u64 = 50;
const WINDOWS: usize = 1_000;

/// To seal and to open a record, with the request and with its answer.
const OF_TLS: u64 = 4;

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

/// The fewest that a window of requests asks for, by two proxies as `prepare` leaves them; looked for until it's `wanted`.
fn fewest(wanted: u64, prepare: impl FnOnce(&mut Proxy, &mut Proxy)) -> u64 {
    let program = Program::start(|mut peer| {
        let mut buffer = [0; 4096];
        while read_to(&mut peer.stream, &mut buffer, b"\r\n\r\n") {
            peer.stream.write_all(ANSWER).unwrap();
        }
    });
    let (_world, mut server, mut caller) = pair(&program);
    prepare(&mut server, &mut caller);
    let mut stream = TcpStream::connect(caller.outbound("echo")).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let mut ask = || {
        stream.write_all(REQUEST).unwrap();
        assert!(read_to(&mut stream, &mut buffer, b"\r\n\r\nok"));
    };
    (0..500).for_each(|_| ask());
    let mut counts = Vec::with_capacity(WINDOWS);
    while counts.len() < WINDOWS && counts.last() != Some(&wanted) {
        let before = asked();
        (0..REQUESTS).for_each(|_| ask());
        counts.push(asked() - before);
    }
    println!("allocations of {REQUESTS} requests each: {counts:?}");
    counts.into_iter().min().unwrap()
}

#[test]
fn a_plain_request_asks_for_no_memory_but_what_tls_asks_for() {
    const WANTED: u64 = OF_TLS * REQUESTS;
    alone(|| assert_eq!(fewest(WANTED, |_, _| {}), WANTED));
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
    const WANTED: u64 = (OF_TLS + 2) * REQUESTS;
    alone(|| assert_eq!(fewest(WANTED, quiet), WANTED));
}
