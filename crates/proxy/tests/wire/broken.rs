// SPDX-License-Identifier: Apache-2.0
//! Calls of gRPC whose answers break off once they have begun: what their callers are told, through two proxies, is what they are
//! told without one, or what a server says whose deadline has passed.

use crate::back::bodies;
use crate::frame::{ACK, DATA, END_STREAM, HEADERS, Link, RST_STREAM, SETTINGS};
use crate::front::{NO_ERROR, out};
use crate::hpack::{Block, Lines};
use crate::world::{ADMIN_TOKEN, Peer, Program, Proxy, World, until};
use byrnie_model::Protocol;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const GRPC: &str = "application/grpc";
const CANCEL: u32 = 8;
/// Long enough for a call to be answered on a busy machine.
const TIMEOUT: &str = "2500m";
/// What a stream's client takes of an answer.
const WINDOW: u32 = 12;

/// What was heard of an answer.
#[derive(Debug)]
struct Heard {
    head: Lines,
    body: Vec<u8>,
    /// Trailers, or what a head says that is all.
    last: Option<Lines>,
    reset: Option<u32>,
}

fn of<'a>(lines: &'a [(String, String)], name: &str) -> &'a str {
    lines.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).unwrap_or_default()
}

/// A program of HTTP/2 whose answers are of this kind, which begins each and breaks it off as `begin` says.
fn program(kind: &'static str, begin: fn(&mut Link, u32, Block)) -> Program {
    Program::start(move |peer| {
        bodies(&mut Link::over(peer.stream), |link, id, _| {
            begin(link, id, Block::status("200").line("content-type", kind));
        });
    })
}

/// The proxy of a caller of `program`, which lives as long as what comes with it.
fn calling(program: &Program) -> (World, Proxy, Proxy) {
    let world = World::new();
    let server = world.serving("calls", program.port, Protocol::Grpc);
    let caller = world.calling(&[("calls", Protocol::Grpc, &[&server])]);
    (world, server, caller)
}

fn client(caller: &Proxy) -> Link {
    Link::client(caller.outbound("calls"), out().setting(4, WINDOW).frame(SETTINGS, ACK, 0, []))
}

/// A call that has more to say; with a time that is long enough to begin, or without.
fn call(link: &mut Link, id: u32, timeout: Option<&str>) {
    let mut block = Block::post("/shop.Cart/Add").line("te", "trailers").line("content-type", GRPC);
    if let Some(timeout) = timeout {
        block = block.line("grpc-timeout", timeout);
    }
    link.send(out().head(id, block));
}

/// What comes of a call, up to the end of its answer, or the reset of its stream where that follows.
fn hear(link: &mut Link, id: u32) -> Heard {
    hear_and(link, id, || ())
}

/// The same, which does this once a piece of its body has come.
fn hear_and(link: &mut Link, id: u32, on_body: impl Fn()) -> Heard {
    let mut heard = Heard { head: Lines::new(), body: Vec::new(), last: None, reset: None };
    while heard.reset.is_none() {
        let frame = link.read().unwrap_or_else(|| panic!("the connection ended: {heard:?}"));
        match frame.kind {
            HEADERS => {
                let lines = link.lines(&frame).expect("a small block");
                if frame.has(END_STREAM) {
                    heard.last = Some(lines);
                } else {
                    assert_eq!(frame.id, id);
                    heard.head = lines;
                }
            }
            DATA => {
                heard.body.extend_from_slice(&frame.payload);
                on_body();
            }
            RST_STREAM => heard.reset = Some(frame.number(0)),
            _ => {}
        }
    }
    heard
}

/// What a server says whose own deadline passes. Its call ends in order, and what its client still sends isn't wanted.
#[test]
fn a_call_whose_deadline_passes_amid_its_answer_is_told_so_in_its_trailers() {
    // The second piece has no window at the client, and is forgotten.
    let stalling =
        program(GRPC, |link, id, head| link.send(out().head(id, head).data(id, b"one message.").data(id, b"lost")));
    let (world, _server, caller) = calling(&stalling);
    let mut link = client(&caller);
    call(&mut link, 1, Some(TIMEOUT));
    let heard = hear(&mut link, 1);
    assert_eq!((of(&heard.head, ":status"), &*heard.body), ("200", &b"one message."[..]));
    let last = heard.last.unwrap();
    assert_eq!((of(&last, "grpc-status"), of(&last, "grpc-message")), ("4", "deadline passed"), "{last:?}");
    assert!(!of(&last, "grpc-status-details-bin").is_empty(), "{last:?}");
    assert_eq!(heard.reset, Some(NO_ERROR));
    let mut admin = Peer::connect(caller.ports.admin);
    let ask = format!("GET /records HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n");
    until("the decision that the caller was told", || admin.ask(&ask).1.contains(of(&last, "x-byrnie-decision")));
    until("the call in the log", || world.log("caller").contains("\"grpcStatus\":\"DEADLINE_EXCEEDED\""));
}

#[test]
fn an_answer_that_is_no_call_of_grpc_has_no_words_for_its_deadline() {
    let plain = program("application/octet-stream", |link, id, head| link.send(out().head(id, head).data(id, b"some")));
    // Trailers would end a body before the length that its head has told.
    let measured = program(GRPC, |link, id, head| {
        link.send(out().head(id, head.line("content-length", "9")).data(id, b"some"));
    });
    let meshes = [calling(&plain), calling(&measured)];
    let mut links = meshes.each_ref().map(|(_, _, caller)| client(caller));
    for link in &mut links {
        call(link, 1, Some(TIMEOUT));
    }
    for mut link in links {
        let heard = hear(&mut link, 1);
        assert!(heard.body == b"some" && heard.last.is_none() && heard.reset == Some(CANCEL), "{heard:?}");
    }
}

/// Libraries of gRPC say so of a connection that is lost.
#[test]
fn a_call_whose_server_is_lost_amid_its_answer_is_unavailable() {
    let heard_some = Arc::new(AtomicBool::new(false));
    let released = Arc::clone(&heard_some);
    let lost = Program::start(move |peer| {
        bodies(&mut Link::over(peer.stream), |link, id, _| {
            link.send(out().head(id, Block::status("200").line("content-type", GRPC)).data(id, b"one message."));
            while !released.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let _ = link.stream.shutdown(std::net::Shutdown::Write);
        });
    });
    let (_world, _server, caller) = calling(&lost);
    let mut link = client(&caller);
    call(&mut link, 1, None);
    let heard = hear_and(&mut link, 1, || heard_some.store(true, Ordering::SeqCst));
    assert_eq!((of(&heard.head, ":status"), &*heard.body), ("200", &b"one message."[..]));
    assert_eq!(of(&heard.last.unwrap(), "grpc-status"), "14");
    assert_eq!(heard.reset, Some(NO_ERROR));
}

/// The code tells callers what it tells them without a proxy, whether it comes with the head or later: libraries of gRPC make a
/// status of it. Only a refusal is none any more.
#[test]
fn a_call_that_is_reset_right_behind_its_head_is_told_the_code() {
    let together = program(GRPC, |link, id, head| link.send(out().head(id, head).reset(id, id / 2)));
    let (_world, _server, caller) = calling(&together);
    let mut link = client(&caller);
    for code in 0..=13 {
        let id = code * 2 + 1;
        call(&mut link, id, None);
        let heard = hear(&mut link, id);
        let told = if code == 7 { 2 } else { code };
        assert_eq!((of(&heard.head, ":status"), heard.reset), ("200", Some(told)), "{code}: {heard:?}");
        assert!(heard.last.is_none(), "{code}: {heard:?}");
    }
}
