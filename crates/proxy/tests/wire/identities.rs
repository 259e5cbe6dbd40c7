// SPDX-License-Identifier: Apache-2.0
//! Eight identities at once, over kept connections and streams: none is ever taken for another, neither by a
//! program behind a proxy nor by a server that looks at the certificate itself.

use crate::frame::{CONTINUATION, DATA, END_STREAM, HEADERS, Link};
use crate::front::out;
use crate::hpack::Block;
use crate::world::{PATIENCE, Peer, Program, Proxy, World, header, identity, loopback, status};
use byrnie_model::Protocol;
use byrnie_net::io::{self, Stream};
use byrnie_net::listen::{Share, bind};
use byrnie_net::{relay, runtime, tls};
use byrnie_proxy::Hop;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;

const IDENTITIES: usize = 8;
/// Requests in all, unless `BYRNIE_IDENTITY_REQUESTS` says otherwise.
const REQUESTS: u64 = 4_000;

fn account(number: usize) -> String {
    format!("caller-{number}")
}

fn who(number: usize) -> String {
    identity(&account(number)).to_string()
}

/// Asks again and again as `number`, pretending to be the next one, by HTTP/1 or by HTTP/2; answers how often. The
/// answer to each request is who asked.
fn ask(number: usize, entry: SocketAddr, requests: u64) -> u64 {
    let (own, other) = (who(number), who((number + 1) % IDENTITIES));
    if number.is_multiple_of(2) {
        let mut peer = Peer::connect(entry);
        for n in 0..requests {
            peer.send(format!(
                "GET /{n} HTTP/1.1\r\nhost: echo\r\nx-own: {own}\r\nforwarded-client-identity: {other}\r\n\r\n"
            ));
            let (head, body) = peer.response();
            assert_eq!((status(&head), String::from_utf8(body).unwrap()), (200, own.clone()), "{head}");
        }
        return requests;
    }
    let mut link = Link::client(entry, out());
    for n in 0..requests {
        let id = 1 + 2 * u32::try_from(n).unwrap();
        let block = Block::get("/").line("x-own", &own).line("forwarded-client-identity", &other);
        link.send(out().whole(id, block));
        let mut body = Vec::new();
        loop {
            let frame = link.read().expect("an answer");
            match frame.kind {
                HEADERS | CONTINUATION => {
                    if let Some(lines) = link.lines(&frame) {
                        assert!(lines.contains(&(":status".to_owned(), "200".to_owned())), "{lines:?}");
                    }
                }
                DATA => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if frame.id == id && frame.has(END_STREAM) {
                break;
            }
        }
        // What was read is given back.
        link.send(out().window(0, u32::try_from(body.len()).unwrap()));
        assert_eq!(String::from_utf8(body).unwrap(), own);
    }
    requests
}

/// Lets all callers ask at once.
fn interleave(callers: &[Proxy]) {
    let each = crate::wanted("BYRNIE_IDENTITY_REQUESTS", REQUESTS) / IDENTITIES as u64;
    let asked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (number, caller) in callers.iter().enumerate() {
            let (asked, entry) = (&asked, caller.outbound("echo"));
            scope.spawn(move || asked.fetch_add(ask(number, entry, each), Ordering::SeqCst));
        }
    });
    println!("{} requests under {IDENTITIES} identities, 0 under another", asked.into_inner());
}

#[test]
fn a_program_never_hears_of_another_identity_than_the_callers() {
    for hop in [Hop::Framed, Hop::Http1] {
        let program = Program::start(|mut peer| {
            while let Some(head) = peer.read_head() {
                let (own, seen) = (header(&head, "x-own"), header(&head, "forwarded-client-identity"));
                assert_eq!(head.matches("forwarded-client-identity").count(), 1, "{head}");
                let seen = if own == seen { seen.unwrap_or_default() } else { "another" };
                peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{seen}", seen.len()));
            }
        });
        let mut world = World::new();
        world.hop = hop;
        let server = world.serving("echo", program.port, Protocol::Http1);
        let call = |number| world.calling_as(&account(number), &[("echo", Protocol::Http1, &[&server])]);
        let callers: Vec<Proxy> = (0..IDENTITIES).map(call).collect();
        interleave(&callers);
    }
}

/// A server that takes connections of the mesh itself, and tells the program behind it who opened each.
fn origin(world: &World, port: u16) -> SocketAddr {
    let listener = bind(loopback(), Share::Alone).unwrap();
    let address = listener.local_addr();
    let keys = tls::server(&world.credentials("echo"), &[tls::ALPN_HTTP1]).unwrap();
    std::thread::spawn(move || {
        runtime::block_on(async move {
            loop {
                let (tcp, _) = listener.accept().await;
                let (stream, peer) = tls::accept(tcp, &keys).await.unwrap();
                let mut program = io::connect(([127, 0, 0, 1], port).into(), PATIENCE).await.unwrap();
                program.write_all(format!("{}\r\n", peer.identity.unwrap()).as_bytes()).await.unwrap();
                runtime::spawn_local("origin", async move {
                    let (mut near, mut far) = (stream.into(), Stream::from(program).into());
                    relay::relay((&mut near, Vec::new()), (&mut far, Vec::new()), relay::Passes::All, PATIENCE).await;
                });
            }
        })
    });
    address
}

#[test]
fn a_request_leaves_under_the_certificate_of_its_caller() {
    let program = Program::start(|mut peer| {
        let Some(proven) = peer.read_until(b"\r\n") else { return };
        let proven = String::from_utf8(proven).unwrap().trim().to_owned();
        while let Some(head) = peer.read_head() {
            let seen = if header(&head, "x-own") == Some(&*proven) { &*proven } else { "another" };
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{seen}", seen.len()));
        }
    });
    let world = World::new();
    let address = origin(&world, program.port);
    let call = |number| world.calling_at_as(&account(number), "echo", Protocol::Http1, address);
    let callers: Vec<Proxy> = (0..IDENTITIES).map(call).collect();
    interleave(&callers);
}
