// SPDX-License-Identifier: Apache-2.0
//! Requests that hide another one, sent through two proxies to a program that records every byte. What is
//! refused must not have been heard of there; what is passed on must be read alike by a large family of
//! lenient servers, and be exactly the requests that were sent.

use crate::frame::{GOAWAY, Link, RST_STREAM};
use crate::front::out;
use crate::hpack::Block;
use crate::payloads::{Reading, family, payloads};
use crate::world::{PATIENCE, Peer, Program, Proxy, World, header, status};
use crate::{cases, frame};
use byrnie_codec::h1::parse_request;
use byrnie_codec::{Head, Limits, RejectReason};
use byrnie_model::Protocol;
use byrnie_net::runtime;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Clients at a time.
const CLIENTS: usize = 4;

/// What reached the program: whole requests by target, and how many were begun and cut.
#[derive(Default)]
struct Recorded {
    heads: Vec<(String, Vec<u8>)>,
    begun: Vec<String>,
}

/// A program that records what it reads and answers every whole request with 200.
fn recorder() -> (Program, Arc<Mutex<Recorded>>) {
    let recorded = Arc::<Mutex<Recorded>>::default();
    let book = Arc::clone(&recorded);
    let program = Program::start(move |mut peer: Peer| {
        while let Some(head) = peer.read_until(b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head).into_owned();
            let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
            book.lock().unwrap().begun.push(target.clone());
            if crate::front::body_of(&mut peer, &text).is_none() {
                return;
            }
            book.lock().unwrap().heads.push((target, head));
            let body = if text.starts_with("HEAD ") { "" } else { "ok" };
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}"));
        }
        // What is left is the beginning of a head that nobody should have sent.
        let left = String::from_utf8_lossy(&peer.buffer).into_owned();
        if !left.is_empty() {
            book.lock().unwrap().begun.push(format!("half a head: {left}"));
        }
    });
    (program, recorded)
}

/// One payload, marked with its number, and what it is to us.
struct Payload {
    bytes: Vec<u8>,
    /// Targets of the requests in it, as a strict server reads them.
    targets: Vec<String>,
    /// Why its first head is none.
    refused: Option<RejectReason>,
    /// Whether the connection ends after those requests.
    ends: bool,
}

fn marked(number: usize, bytes: &[u8]) -> Payload {
    let text = bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let text = text.replacen(" / ", &format!(" /p{number} "), 1).replacen("/smuggled", &format!("/s{number}"), 1);
    let bytes: Vec<u8> = text.chars().map(|c| c as u8).collect();
    let refused = parse_request(&bytes, &Limits::default(), &mut Head::new()).err().map(|reject| reject.reason);
    let (seen, wrong, _) = cases::serve(&bytes);
    let closes = seen.last().is_some_and(|seen| !seen.keep_alive);
    let ends = closes || wrong.is_some_and(|reason| reason != RejectReason::Truncated);
    Payload { bytes, targets: seen.into_iter().map(|seen| seen.path_and_query).collect(), refused, ends }
}

/// Sends a payload; the statuses of its answers, and the text of the last.
fn send(caller: &Proxy, payload: &Payload) -> (Vec<u16>, String) {
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send(&payload.bytes);
    let (mut statuses, mut last) = (Vec::new(), String::new());
    while statuses.len() < payload.targets.len() || payload.ends {
        let Some(head) = client.read_head() else { break };
        statuses.push(status(&head));
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        last = String::from_utf8_lossy(&client.read_exact(length)).into_owned();
    }
    (statuses, last)
}

/// What is wrong with how a payload fared; `None` if nothing.
fn judge(payload: &Payload, (statuses, last): &(Vec<u16>, String)) -> Option<String> {
    if let Some(reason) = payload.refused {
        let told = last.contains(&format!("\"reason\":\"{}\"", reason.label()));
        return (statuses[..] != [reason.status()] || !told)
            .then(|| format!("{reason:?}, but answered {statuses:?} {last}"));
    }
    let whole = payload.targets.len();
    let well = statuses.len() >= whole && statuses[..whole].iter().all(|status| *status == 200);
    (!well || statuses.len() > whole + 1).then(|| format!("{whole} requests, but answered {statuses:?} {last}"))
}

#[test]
fn no_request_hides_another() {
    let (world, (program, recorded)) = (World::new(), recorder());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let payloads: Vec<Payload> = payloads().iter().enumerate().map(|(n, bytes)| marked(n, bytes)).collect();
    assert!(payloads.len() >= 2000, "{}", payloads.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(payload) = payloads.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if let Some(wrong) = judge(payload, &send(&caller, payload)) {
                        failed.lock().unwrap().push(format!("{}: {wrong}", payload.bytes.escape_ascii()));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {}:\n{}",
        failed.len(),
        payloads.len(),
        failed[..failed.len().min(20)].join("\n")
    );
    let recorded = recorded.lock().unwrap();
    let mut reached: BTreeMap<&str, usize> = BTreeMap::new();
    recorded.heads.iter().for_each(|(target, _)| *reached.entry(target).or_default() += 1);
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    payloads.iter().flat_map(|payload| &payload.targets).for_each(|target| *expected.entry(target).or_default() += 1);
    assert_eq!(reached, expected, "requests that reached the program, and those that were sent");
    for (n, payload) in payloads.iter().enumerate().filter(|(_, payload)| payload.refused.is_some()) {
        let opened = recorded.begun.iter().any(|target| *target == format!("/p{n}"));
        assert!(!opened, "opened upstream, though malformed: {}", payload.bytes.escape_ascii());
    }
    assert!(!recorded.begun.iter().any(|target| target.starts_with("half")), "{:?}", recorded.begun.last());
    unambiguous(&recorded);
    let refused = payloads.iter().filter(|payload| payload.refused.is_some()).count();
    assert_eq!(counted(&caller), refused_in(&payloads), "refusals counted by reason");
    println!(
        "{} payloads: {refused} refused, {} requests passed on, 0 ambiguous",
        payloads.len(),
        recorded.heads.len()
    );
}

/// All servers of the family frame what was passed on alike.
fn unambiguous(recorded: &Recorded) {
    for (_, head) in &recorded.heads {
        let mut reads = family().map(|server| server.reads(head));
        let first = reads.next().unwrap();
        assert!(first != Reading::Both && reads.all(|other| other == first), "{}", head.escape_ascii());
    }
}

/// Refusals by reason: of first heads, and of what stood behind them.
fn refused_in(payloads: &[Payload]) -> usize {
    payloads
        .iter()
        .filter(|payload| cases::serve(&payload.bytes).1.is_some_and(|reason| reason != RejectReason::Truncated))
        .count()
}

/// The sum of the proxy's own count of refusals.
fn counted(caller: &Proxy) -> usize {
    let mut admin = Peer::connect(caller.ports.admin);
    let (_, text) = admin.ask("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n");
    let lines = text.lines().filter(|line| line.starts_with("byrnie_rejected_total{reason="));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

#[test]
fn odd_but_valid_requests_arrive() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (world, (program, recorded)) = (World::new(), recorder());
        // An HTTP/2 service is asked in HTTP/2 between the proxies; its program is of HTTP/1 here.
        let server = world.serving("echo", program.port, Protocol::Http1);
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
        let recorded = recorded.lock().unwrap();
        assert_eq!(recorded.heads.len(), messages.len());
        unambiguous(&recorded);
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
    let (world, (program, recorded)) = (World::new(), recorder());
    let server = world.serving("echo", program.port, Protocol::Http1);
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
    let recorded = recorded.lock().unwrap();
    unambiguous(&recorded);
    for (target, head) in &recorded.heads {
        let text = head.escape_ascii().to_string();
        assert!(!text.contains("evil") && !target.contains("evil"), "{text}");
        let framed = ["\\ncontent-length:", "\\ntransfer-encoding:"].map(|name| text.matches(name).count());
        assert_eq!(framed.iter().sum::<usize>(), 1, "{text}");
    }
    println!("{} header blocks, {} passed on, 0 ambiguous", blocks.len(), recorded.heads.len());
}

#[test]
fn what_is_no_request_in_http2_is_counted_as_in_http1() {
    let (world, (program, recorded)) = (World::new(), recorder());
    let server = world.serving("echo", program.port, Protocol::Http1);
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
    while counted(&caller) < sent {
        assert!(runtime::now().mono.since(begun) < PATIENCE, "{} of {sent} are counted", counted(&caller));
    }
    assert!(recorded.lock().unwrap().heads.is_empty());
}
