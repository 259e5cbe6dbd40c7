// SPDX-License-Identifier: Apache-2.0
//! Servers of HTTP/2 that answer and go, all in one segment: what came whole reaches its client whole, through two proxies, and what
//! was cut is told as that. Some of them say goodbye, some don't.

use crate::frame::{DATA, END_STREAM, HEADERS, Link, Out, PREFACE, RST_STREAM, SETTINGS};
use crate::front::out;
use crate::hpack::{Block, Lines};
use crate::world::{Program, World};
use byrnie_model::Protocol;
use byrnie_net::runtime;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

/// Each of them so often: what comes together may be read in parts.
const ROUNDS: u32 = 10;
const GRPC: &str = "application/grpc";
const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

/// What a server sends for the request on this stream.
type Answer = fn(u32) -> Out;

/// Keeps back what is sent, so that it leaves with what ends it.
#[cfg(target_os = "linux")]
fn cork(stream: &TcpStream) {
    const TCP: i32 = 6;
    const CORK: i32 = 3;
    unsafe extern "C" {
        safe fn setsockopt(socket: i32, level: i32, name: i32, value: &i32, size: u32) -> i32;
    }
    assert_eq!(setsockopt(stream.as_raw_fd(), TCP, CORK, &1, 4), 0);
}

#[cfg(not(target_os = "linux"))]
fn cork(_: &TcpStream) {}

/// A server whose connections carry one request each: it says what `answer` has for it, and closes.
fn going(answer: Answer) -> Program {
    Program::start(move |peer| {
        let mut link = Link::over(peer.stream);
        if !link.skip(PREFACE.len()) {
            return;
        }
        while let Some(frame) = link.read() {
            if frame.kind == HEADERS {
                cork(&link.stream);
                link.send(out().frame(SETTINGS, 0, 0, []).raw(answer(frame.id).0));
                let _ = link.stream.shutdown(Shutdown::Write);
                // Until the other side has gone too.
                while link.read().is_some() {}
            }
        }
    })
}

/// What a client heard, up to the end of the answer or a reset of its stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    status: String,
    body: Vec<u8>,
    /// That of gRPC.
    told: String,
    ended: bool,
}

fn hear(link: &mut Link, id: u32) -> Heard {
    let mut heard = Heard::default();
    let of = |lines: &Lines, name: &str| lines.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    loop {
        let frame = link.read().unwrap_or_else(|| panic!("the connection ended: {heard:?}"));
        if frame.id != id {
            continue;
        }
        match frame.kind {
            HEADERS => {
                let lines = link.lines(&frame).expect("a small block");
                heard.status.push_str(&of(&lines, ":status").unwrap_or_default());
                heard.told.push_str(&of(&lines, "grpc-status").unwrap_or_default());
            }
            DATA => heard.body.extend_from_slice(&frame.payload),
            RST_STREAM => return heard,
            _ => {}
        }
        heard.ended = frame.has(END_STREAM);
        if heard.ended {
            return heard;
        }
    }
}

/// What clients hear of servers of this kind; `more` of the request comes than its head.
fn heard_of(protocol: Protocol, answer: Answer, more: bool) -> Vec<Heard> {
    let program = going(answer);
    let world = World::new();
    let server = world.serving("calls", program.port, protocol);
    let caller = world.calling(&[("calls", protocol, &[&server])]);
    let mut link = Link::client(caller.outbound("calls"), out().frame(SETTINGS, 0, 0, []).window(0, 1 << 24));
    (0..ROUNDS)
        .map(|round| {
            let id = 2 * round + 1;
            let kind = if protocol == Protocol::Grpc { GRPC } else { "text/plain" };
            let block = Block::post("/shop.Cart/Add").line("te", "trailers").line("content-type", kind);
            let ask = out().head(id, block);
            link.send(if more { ask } else { ask.last(id, MESSAGE) });
            hear(&mut link, id)
        })
        .collect()
}

fn head(id: u32) -> Out {
    out().head(id, Block::status("200").line("content-type", GRPC))
}

fn told(id: u32, status: &str) -> Out {
    out().whole(id, Block::default().line("grpc-status", status))
}

#[test]
fn what_a_server_said_as_a_whole_before_it_went_reaches_its_client() {
    let whole = |body: &[u8], told: &str| Heard {
        status: "200".to_owned(),
        body: body.to_vec(),
        told: told.to_owned(),
        ended: true,
    };
    let grpc: [(&str, Answer, Heard); 5] = [
        ("unary", |id| head(id).data(id, MESSAGE).raw(told(id, "0").0), whole(MESSAGE, "0")),
        ("a goodbye", |id| head(id).data(id, MESSAGE).raw(told(id, "0").0).goaway(id, 0), whole(MESSAGE, "0")),
        (
            "no message",
            |id| out().whole(id, Block::status("200").line("content-type", GRPC).line("grpc-status", "5")),
            whole(b"", "5"),
        ),
        (
            "several",
            |id| head(id).data(id, MESSAGE).data(id, MESSAGE).data(id, MESSAGE).raw(told(id, "9").0),
            whole(&MESSAGE.repeat(3), "9"),
        ),
        // Not all frames end where a read does.
        (
            "many",
            |id| (0..3_000).fold(head(id), |out, _| out.data(id, MESSAGE)).raw(told(id, "0").0),
            whole(&MESSAGE.repeat(3_000), "0"),
        ),
    ];
    for (name, answer, expected) in grpc {
        for more in [false, true] {
            for heard in heard_of(Protocol::Grpc, answer, more) {
                assert_eq!(heard, expected, "{name}, more: {more}");
            }
        }
    }
    let http: [(&str, Answer, Heard); 4] = [
        ("a head", |id| out().whole(id, Block::status("200")), whole(b"", "")),
        ("a body", |id| out().head(id, Block::status("200")).last(id, b"whole"), whole(b"whole", "")),
        (
            "a goodbye first",
            |id| out().goaway(id, 0).head(id, Block::status("200")).last(id, b"whole"),
            whole(b"whole", ""),
        ),
        (
            "trailers",
            |id| out().head(id, Block::status("200")).data(id, b"whole").whole(id, Block::default().line("x-sum", "1")),
            whole(b"whole", ""),
        ),
    ];
    for (name, answer, expected) in http {
        for more in [false, true] {
            for heard in heard_of(Protocol::Http2, answer, more) {
                assert_eq!(heard, expected, "{name}, more: {more}");
            }
        }
    }
    assert_eq!(runtime::panics(), 0);
}

/// As libraries of gRPC tell it without a mesh: the messages that came, and then that the server is lost.
#[test]
fn what_came_of_a_call_before_its_server_was_lost_reaches_the_caller_and_then_that_it_was() {
    let cut: [(&str, Answer, &[u8]); 4] = [
        ("a head", head, b""),
        ("a message", |id| head(id).data(id, MESSAGE), MESSAGE),
        ("a goodbye", |id| head(id).data(id, MESSAGE).goaway(id, 0), MESSAGE),
        ("a part of one", |id| head(id).data(id, MESSAGE).data(id, &MESSAGE[..7]), &[MESSAGE, &MESSAGE[..7]].concat()),
    ];
    for (name, answer, body) in cut {
        for heard in heard_of(Protocol::Grpc, answer, false) {
            let Heard { status, body: came, told, ended } = &heard;
            assert_eq!((&**status, &**came, &**told, *ended), ("200", body, "14", true), "{name}");
        }
    }
}

/// Nothing is to be taken for an answer that isn't one: where it's known before the head was handed on, it isn't.
#[test]
fn an_answer_that_its_server_cut_as_it_went_is_none() {
    let cut: [(&str, Answer); 3] = [
        ("a head", |id| out().head(id, Block::status("200"))),
        ("a part", |id| out().head(id, Block::status("200")).data(id, b"par")),
        ("a goodbye", |id| out().head(id, Block::status("200")).data(id, b"par").goaway(id, 0)),
    ];
    for (name, answer) in cut {
        for heard in heard_of(Protocol::Http2, answer, false) {
            assert!(!heard.ended || heard.status.starts_with('5'), "{name}: {heard:?}");
        }
    }
}
