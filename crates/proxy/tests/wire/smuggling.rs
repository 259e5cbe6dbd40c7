// SPDX-License-Identifier: Apache-2.0
//! Requests that hide another one, sent through two proxies to a program that records every byte. What is
//! refused must not have been heard of there; what is passed on must be read alike by a large family of
//! lenient servers, and be exactly the requests that were sent, as a strict reader of its own finds them.

use crate::corpus::{Reasons, compare, corpus, counted, expected, play};
use crate::frame::{GOAWAY, Link, RST_STREAM};
use crate::front::out;
use crate::hpack::Block;
use crate::payloads::{Reading, family};
use crate::recorded::{Reached, Recorder};
use crate::world::{PATIENCE, Peer, World, allow_all, endpoint_of, service_of, status};
use crate::{cases, frame};
use byrnie_model::Protocol;
use byrnie_net::runtime;
use byrnie_proxy::Hop;

/// The name of the service at the port of the edge.
const AT_EDGE: &str = "echo.mesh.localhost";

/// Sends one in `step` payloads from a caller's sidecar to a program of this protocol, and judges all that came of it.
fn check(hop: Hop, protocol: Protocol, step: usize) -> Reached {
    let mut world = World::new();
    world.hop = hop;
    let h2 = protocol == Protocol::Http2;
    let recorder = if h2 { Recorder::http2() } else { Recorder::http1() };
    let server = world.serving("echo", recorder.port(), protocol);
    let caller = world.calling(&[("echo", protocol, &[&server])]);
    let payloads = corpus("a", step);
    play(caller.outbound("echo"), &payloads, h2);
    assert_eq!(counted(&caller), expected(&payloads), "refusals by reason");
    assert_eq!(counted(&server), Reasons::new(), "refusals at the other proxy");
    let reached = recorder.reached([caller, server]);
    compare(&payloads, &reached);
    unambiguous(&reached);
    let (whole, cut) = (reached.whole.len(), reached.cut.len());
    println!("{} payloads by {hop:?} to {protocol:?}: {whole} requests passed on, {cut} cut", payloads.len());
    assert!(payloads.len() >= 2000 && whole >= 500 && cut > 0, "{whole} {cut}");
    reached
}

#[test]
fn no_request_hides_another() {
    check(Hop::Framed, Protocol::Http1, 1);
}

#[test]
fn no_request_hides_another_where_proxies_speak_http1() {
    check(Hop::Http1, Protocol::Http1, 8);
}

#[test]
fn no_request_hides_another_when_http1_becomes_http2() {
    check(Hop::Framed, Protocol::Http2, 8);
}

#[test]
fn no_request_hides_another_at_the_edge() {
    let (world, recorder) = (World::new(), Recorder::http1());
    let server = world.serving("echo", recorder.port(), Protocol::Http1);
    let endpoint = endpoint_of("echo", 0, server.inbound());
    let edge = world.edge(vec![allow_all(), service_of("echo", 1, Protocol::Http1), endpoint]);
    let payloads = corpus(AT_EDGE, 8);
    play(edge.ports.edge.unwrap(), &payloads, false);
    assert_eq!(counted(&edge), expected(&payloads), "refusals by reason");
    let reached = recorder.reached([edge, server]);
    compare(&payloads, &reached);
    unambiguous(&reached);
}

/// All servers of the family frame what was passed on alike.
fn unambiguous(reached: &Reached) {
    for head in &reached.heads {
        let mut reads = family().map(|server| server.reads(head));
        let first = reads.next().unwrap();
        assert!(first != Reading::Both && reads.all(|other| other == first), "{}", head.escape_ascii());
    }
}

#[test]
fn odd_but_valid_requests_arrive() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (world, recorder) = (World::new(), Recorder::http1());
        // An HTTP/2 service is asked in HTTP/2 between the proxies; its program is of HTTP/1 here.
        let server = world.serving("echo", recorder.port(), Protocol::Http1);
        let caller = world.calling(&[("echo", protocol, &[&server])]);
        let messages = cases::odd();
        assert!(messages.len() >= 300);
        for message in &messages {
            let mut client = Peer::connect(caller.outbound("echo"));
            client.send(message);
            let head = client.read_head().unwrap_or_else(|| panic!("no answer to {}", message.escape_ascii()));
            let head = if status(&head) == 100 { client.read_head().unwrap() } else { head };
            assert_eq!(status(&head), 200, "{} answered {head}", message.escape_ascii());
        }
        let reached = recorder.reached([caller, server]);
        assert_eq!((reached.whole.len(), &reached.cut[..]), (messages.len(), &[][..]));
        unambiguous(&reached);
        println!("{} odd messages accepted", messages.len());
    }
}

/// Header blocks of HTTP/2 whose bytes would mean something else in HTTP/1.
fn downgrades() -> Vec<Block> {
    let bytes = [0, 1, 9, 10, 11, 12, 13, 32, 34, 35, 47, 58, 64, 65, 92, 0x7f, 0x80, 0xa0, 0xff];
    let parts = [
        "\r\n",
        "\r\n\r\n",
        "\nx: y",
        "\r\nhost: evil",
        "\r\ncontent-length: 9",
        " HTTP/1.1\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
    ];
    let pieces: Vec<Vec<u8>> =
        bytes.iter().map(|byte| vec![*byte]).chain(parts.iter().map(|part| part.as_bytes().to_vec())).collect();
    let placed = |word: &str, piece: &[u8]| {
        let (start, end) = word.as_bytes().split_at(word.len() / 2);
        [[piece, start, end].concat(), [start, piece, end].concat(), [start, end, piece].concat()]
    };
    let mut blocks = Vec::new();
    let usual = [(":method", "POST"), (":scheme", "http"), (":authority", "echo"), (":path", "/down")];
    for piece in &pieces {
        for (at, (_, value)) in usual.iter().enumerate() {
            for value in placed(value, piece) {
                let lines = usual.iter().enumerate();
                blocks.push(lines.fold(Block::default(), |block, (n, (name, usual))| {
                    if n == at { block.line(name, &value) } else { block.line(name, usual) }
                }));
            }
        }
        for (name, value) in
            [("x-own", "value"), ("content-length", "4"), ("transfer-encoding", "chunked"), ("host", "echo")]
        {
            for odd in placed(name, piece) {
                blocks.push(Block::post("/down").line(odd, value));
            }
            for odd in placed(value, piece) {
                blocks.push(Block::post("/down").line(name, odd));
            }
        }
    }
    for length in ["", "0", "3", "5", "4,4", "+4", "18446744073709551620", "0x4", "04"] {
        blocks.push(Block::post("/down").line("content-length", length));
        blocks.push(Block::post("/down").line("content-length", "4").line("content-length", length));
        blocks.push(Block::post("/down").line("content-length", length).line("transfer-encoding", "chunked"));
    }
    blocks
}

#[test]
fn no_request_hides_another_when_http2_becomes_http1() {
    let (world, recorder) = (World::new(), Recorder::http1());
    let server = world.serving("echo", recorder.port(), Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let blocks = downgrades();
    assert!(blocks.len() >= 500, "{}", blocks.len());
    for block in &blocks {
        let mut link = Link::client(caller.outbound("echo"), out());
        link.send(out().head(1, block.clone()).last(1, b"four"));
        // Answered, reset or sent away: each of them ends it.
        while let Some(frame) = link.read() {
            let ends = matches!(frame.kind, frame::DATA | frame::HEADERS) && frame.has(frame::END_STREAM);
            if ends || matches!(frame.kind, RST_STREAM | GOAWAY) {
                break;
            }
        }
        assert!(!link.silent, "nothing came of {}", block.0.escape_ascii());
    }
    let reached = recorder.reached([caller, server]);
    unambiguous(&reached);
    for (asked, head) in reached.whole.iter().zip(&reached.heads) {
        let text = head.escape_ascii().to_string();
        assert!(!text.contains("evil") && asked.body == b"four", "{text} {asked:?}");
        let framed = ["\\ncontent-length:", "\\ntransfer-encoding:"].map(|name| text.matches(name).count());
        assert_eq!(framed.iter().sum::<usize>(), 1, "{text}");
    }
    println!("{} header blocks, {} passed on, 0 ambiguous", blocks.len(), reached.whole.len());
}

#[test]
fn what_is_no_request_in_http2_is_counted_as_in_http1() {
    let (world, recorder) = (World::new(), Recorder::http1());
    let server = world.serving("echo", recorder.port(), Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let begun = || out().head(1, Block::post("/none"));
    let requests = [
        out().whole(1, Block::post("/none").line("connection", "close")),
        out().whole(1, Block::post("/none").line("X-Upper", "1")),
        out().whole(1, Block::post("/none").line("x-own", "a\r\nb: c")),
        begun().whole(1, Block::default().line("forwarded-client-identity", "x")),
        begun().whole(1, Block::default().line(":path", "/evil")),
        out().head(1, Block::post("/none").line("content-length", "9")).last(1, b"four"),
    ];
    let sent = requests.len();
    for request in requests {
        let mut link = Link::client(caller.outbound("echo"), out());
        link.send(request);
        while link.read().expect("a reset").kind != RST_STREAM {}
    }
    let begun = runtime::now().mono;
    while counted(&caller).values().sum::<usize>() < sent {
        assert!(runtime::now().mono.since(begun) < PATIENCE, "of {sent} are counted {:?}", counted(&caller));
    }
    let reached = recorder.reached([caller, server]);
    assert!(reached.whole.is_empty(), "{reached:?}");
}
