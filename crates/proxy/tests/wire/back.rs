// SPDX-License-Identifier: Apache-2.0
//! The side of a proxy that servers see: each case is what a server answers to a request, and whether its
//! answer may reach the client. Between two cases the server answers well: one bad answer costs no other.

use crate::frame::{ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Link, Out, PREFACE, SETTINGS};
use crate::front::out;
use crate::hpack::Block;
use crate::world::{PATIENCE, Peer, Program, Proxy, World, status};
use byrnie_model::Protocol;
use byrnie_net::pool::SHARED_PER_KEY_MAX;
use byrnie_net::runtime;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

type Answer = Box<dyn Fn(u32) -> Out + Send + Sync>;

struct Case {
    section: &'static str,
    name: String,
    /// What the server sends for a request on this stream.
    answer: Answer,
    passes: bool,
}

fn case(section: &'static str, name: impl Into<String>, passes: bool, answer: Answer) -> Case {
    Case { section, name: name.into(), answer, passes }
}

fn good(section: &'static str, name: &str, answer: impl Fn(u32) -> Out + Send + Sync + 'static) -> Case {
    case(section, name, true, Box::new(answer))
}

fn bad(section: &'static str, name: impl Into<String>, answer: impl Fn(u32) -> Out + Send + Sync + 'static) -> Case {
    case(section, name, false, Box::new(answer))
}

fn ok() -> Block {
    Block::status("200")
}

fn well(id: u32) -> Out {
    out().head(id, ok()).last(id, b"ok")
}

/// A whole answer that must never be seen, with this header block.
fn evil(section: &'static str, name: impl Into<String>, block: Block) -> Case {
    bad(section, name, move |id| out().head(id, block.clone()).last(id, b"evil"))
}

fn all() -> Vec<Case> {
    let mut cases = frames();
    cases.extend(streams());
    cases.extend(messages());
    cases.extend(valid());
    cases
}

/// RFC 9113 4 and 6: what breaks the connection breaks the answer.
fn frames() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (section, name, before) in [
        ("4.2", "a frame above our limit", out().frame(77, 0, 0, vec![0; (1 << 16) + 1])),
        ("6.1", "DATA on stream 0", out().data(0, b"x")),
        ("6.2", "HEADERS on stream 0", out().head(0, ok())),
        ("6.4", "RST_STREAM on stream 0", out().reset(0, 8)),
        ("6.4", "RST_STREAM of 3", out().frame(3, 0, 1, [0; 3])),
        ("6.5", "SETTINGS of 5", out().frame(SETTINGS, 0, 0, [0; 5])),
        ("6.5", "SETTINGS with ACK and a payload", out().frame(SETTINGS, ACK, 0, [0; 6])),
        ("6.5", "SETTINGS on a stream", out().frame(SETTINGS, 0, 1, [])),
        ("6.5.2", "a window of 2^31", out().setting(4, 1 << 31)),
        ("6.5.2", "frames of 2^14 - 1", out().setting(5, (1 << 14) - 1)),
        ("6.5.2", "frames of 2^24", out().setting(5, 1 << 24)),
        ("6.5.2", "a server that enables push", out().setting(2, 1)),
        ("6.5.2", "push of 2", out().setting(2, 2)),
        ("6.7", "PING of 7", out().frame(6, 0, 0, [0; 7])),
        ("6.7", "PING on a stream", out().frame(6, 0, 1, [0; 8])),
        ("6.8", "GOAWAY of 7", out().frame(7, 0, 0, [0; 7])),
        ("6.8", "GOAWAY on a stream", out().frame(7, 0, 1, [0; 8])),
        ("6.9", "a window of 0 more", out().window(0, 0)),
        ("6.9", "WINDOW_UPDATE of 3", out().frame(8, 0, 0, [0; 3])),
        ("6.9.1", "a window above 2^31 - 1", out().window(0, (1 << 31) - 1)),
        ("6.10", "CONTINUATION of nothing", out().frame(CONTINUATION, END_HEADERS, 1, [])),
        ("8.2.2", "PUSH_PROMISE, which we disabled", out().frame(5, 4, 1, [&[0, 0, 0, 2][..], &ok().0].concat())),
        ("5.1.1", "HEADERS on a stream that we never opened", out().head(4_001, ok())),
        ("5.1.1", "HEADERS on a stream of its own", out().head(2, ok())),
        ("5.1", "DATA on a stream that we never opened", out().data(4_001, b"x")),
    ] {
        cases.push(bad(section, name, move |id| before.clone().head(id, ok()).last(id, b"evil")));
    }
    cases.push(bad("4.3", "a frame within a block", |id| {
        out().frame(HEADERS, 0, id, ok()).ping(&[0; 8]).frame(CONTINUATION, END_HEADERS, id, []).last(id, b"evil")
    }));
    cases.push(bad("4.3", "a block that can't be read", |id| out().head(id, ok().index(99)).last(id, b"evil")));
    cases.push(bad("4.3", "a block without end", |id| {
        (0..200).fold(out().frame(HEADERS, 0, id, ok()), |out, _| out.frame(CONTINUATION, 0, id, [0; 64]))
    }));
    cases
}

/// RFC 9113 5: the life of a stream.
fn streams() -> Vec<Case> {
    let mut cases = vec![
        bad("5.1", "DATA before HEADERS", |id| out().data(id, b"evil").head(id, ok()).last(id, b"evil")),
        bad("6.8", "GOAWAY below the stream", |_| out().goaway(0, 0)),
        bad("6.8", "GOAWAY with an error", |id| out().goaway(id, 2).raw([0; 0])),
        bad("5.1", "DATA without HEADERS, then the end", |id| out().last(id, b"evil")),
        bad("8.1", "only 1xx, then the end", |id| out().whole(id, Block::status("100"))),
        bad("8.1", "an answer cut by a reset", |id| out().head(id, ok()).data(id, b"par").reset(id, 2)),
    ];
    for code in 0..=13 {
        cases.push(bad("7", format!("RST_STREAM with code {code}"), move |id| out().reset(id, code)));
    }
    cases.push(bad("7", "RST_STREAM with an unknown code", |id| out().reset(id, 0xffff_ffff)));
    cases
}

/// RFC 9113 8: what is no answer.
fn messages() -> Vec<Case> {
    let of = |length: &str| ok().line("content-length", length);
    let mut cases = vec![
        evil("8.3.2", "no :status", Block::default().line("x-y", "1")),
        evil("8.3.2", ":status twice", ok().line(":status", "200")),
        evil("8.3.2", ":status after a header", Block::default().line("x-y", "1").line(":status", "200")),
        evil("8.3", "an unknown pseudo-header", ok().line(":foo", "1")),
        evil("8.6", "101", Block::status("101")),
        bad("8.1.1", "a body longer than its length", |id| {
            out().head(id, ok().line("content-length", "2")).last(id, b"evil")
        }),
        bad("8.1.1", "a body shorter than its length", |id| {
            out().head(id, ok().line("content-length", "9")).last(id, b"evi")
        }),
        bad("8.1.1", "a length and no body", |id| out().whole(id, ok().line("content-length", "9"))),
        evil("8.1.1", "two lengths", of("4").line("content-length", "4")),
        evil("8.1.1", "two lengths that differ", of("0").line("content-length", "4")),
        evil("8.1.1", "a length that is none", of("4, 4")),
        bad("8.1", "HEADERS twice", |id| out().head(id, ok()).head(id, ok()).last(id, b"evil")),
        bad("8.1", "trailers that do not end", |id| {
            out().head(id, ok()).data(id, b"par").head(id, Block::default().line("x-sum", "1")).last(id, b"evil")
        }),
        bad("8.1", "1xx without end", |id| {
            (0..64).fold(out(), |out, _| out.head(id, Block::status("103"))).head(id, ok()).last(id, b"evil")
        }),
    ];
    for code in ["", "20", "2000", "abc", "99", "600", "-20", "2x0", " 200", "200 OK", "000"] {
        cases.push(evil("8.3.2", format!("status {code:?}"), Block::status(code)));
    }
    for (name, value) in [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
    ] {
        cases.push(evil("8.2.2", format!("{name}: {value}"), ok().line(name, value)));
    }
    for byte in (0..=0x20).chain(b'A'..=b'Z').chain([0x7f, 0x80, 0xff]).chain(*b"()<>@,;\\\"/[]?={}:") {
        cases.push(evil("8.2.1", format!("{byte:#04x} in a name"), ok().line([b"x", &[byte][..], b"y"].concat(), "1")));
    }
    for byte in (0..=8).chain(10..0x20).chain([0x7f]) {
        cases.push(evil(
            "8.2.1",
            format!("{byte:#04x} in a value"),
            ok().line("x-y", [b"a", &[byte][..], b"b"].concat()),
        ));
    }
    for name in [":path", ":method", ":scheme", ":authority", ":protocol"] {
        cases.push(evil("8.3", format!("{name} in an answer"), ok().line(name, "/")));
        cases.push(bad("8.1", format!("{name} in trailers"), move |id| {
            out().head(id, ok()).data(id, b"par").whole(id, Block::default().line(name, "/"))
        }));
    }
    for value in ["a\r\nx-evil: 1", "a\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil", "a\nevil: 1"] {
        cases.push(evil("8.2.1", format!("value {value:?}"), ok().line("x-y", value)));
        cases.push(bad("8.2.1", format!("value {value:?} in trailers"), move |id| {
            out().head(id, ok()).data(id, b"par").whole(id, Block::default().line("x-y", value))
        }));
    }
    cases
}

/// What servers may do, however seldom they do.
fn valid() -> Vec<Case> {
    let ended = || Block::default().line("x-sum", "1");
    let mut cases = vec![
        good("8.1", "an answer", well),
        good("8.1", "an answer in pieces", |id| {
            out().head(id, ok()).data(id, b"o").data(id, []).data(id, b"k").last(id, [])
        }),
        good("8.1", "an answer with its length", |id| out().head(id, ok().line("content-length", "2")).last(id, b"ok")),
        good("8.1", "trailers", move |id| out().head(id, ok()).data(id, b"ok").whole(id, ended())),
        good("8.1", "an interim answer", |id| {
            out().head(id, Block::status("103").line("link", "</a>")).raw(well(id).0)
        }),
        good("8.1", "the code of a broken client after the answer", |id| well(id).reset(id, 0)),
        good("5.5", "unknown frames", |id| out().frame(0x42, 0xff, 0, b"x").frame(0x43, 0, id, b"y").raw(well(id).0)),
        good("6.1", "padding", |id| out().head(id, ok()).frame(0, 9, id, [&[3][..], b"ok", &[0; 3]].concat())),
        good("6.5", "settings", |id| out().setting(4, 1 << 20).setting(5, 1 << 15).setting(0xfa, 1).raw(well(id).0)),
        good("6.7", "a PING", |id| out().ping(b"are you?").raw(well(id).0)),
        good("6.3", "a PRIORITY", |id| out().frame(2, 0, id, [0, 0, 0, 0, 1]).raw(well(id).0)),
        good("6.9", "windows", |id| out().window(0, 1).window(id, 1).raw(well(id).0)),
        good("6.8", "GOAWAY above the stream", |id| out().goaway(id, 0).raw(well(id).0)),
        good("6.8", "two GOAWAYs", |id| out().goaway(0x7fff_ffff, 0).goaway(id, 0).raw(well(id).0)),
        good("6.10", "a block in pieces", |id| {
            let block = ok().line("x-y", "z").0;
            let (first, rest) = block.split_at(5);
            out().frame(HEADERS, 0, id, first).frame(CONTINUATION, END_HEADERS, id, rest).last(id, b"ok")
        }),
        good("7541 4.2", "a table of no size", |id| {
            out().head(id, Block::default().resize(0).raw(ok())).last(id, b"ok")
        }),
        good("7541 6.1", "a status by index", |id| out().head(id, Block::default().index(8)).last(id, b"ok")),
        good("8.1", "an empty frame at the end", |id| {
            out().head(id, ok()).data(id, b"ok").frame(0, END_STREAM, id, [])
        }),
    ];
    for value in ["", "a\tb", "\u{e9}", "a  b"] {
        cases.push(good("8.2.1", &format!("value {value:?}"), move |id| {
            out().head(id, ok().line("x-y", value)).last(id, b"ok")
        }));
    }
    cases
}

/// Serves HTTP/2 on one connection: a request for `/N` gets the Nth answer, any other a good one.
fn serve(peer: Peer, cases: &[Case]) {
    let mut link = Link::over(peer.stream);
    assert!(link.skip(PREFACE.len()));
    link.send(out().frame(SETTINGS, 0, 0, []));
    while let Some(frame) = link.read() {
        if frame.kind == SETTINGS && !frame.has(ACK) {
            link.send(out().frame(SETTINGS, ACK, 0, []));
        }
        if frame.kind != HEADERS {
            continue;
        }
        let lines = link.lines(&frame).expect("a small block");
        let path = lines.iter().find(|(name, _)| name == ":path").map(|(_, path)| &path[1..]).unwrap_or_default();
        let answer = path.parse::<usize>().map_or_else(|_| well(frame.id), |at| (cases[at].answer)(frame.id));
        link.send(answer);
    }
}

/// What a client of HTTP/1 gets to read.
fn ask(caller: &Proxy, path: &str) -> String {
    let mut client = Peer::connect(caller.outbound("calls"));
    client.send(format!("POST /{path} HTTP/1.1\r\nhost: calls\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"));
    String::from_utf8_lossy(&client.read_to_end()).into_owned()
}

/// The final answer: its status and what follows its head.
fn final_of(mut answer: &str) -> (u16, &str) {
    loop {
        let Some((head, rest)) = answer.split_once("\r\n\r\n") else { return (0, "") };
        let status = status(head);
        if !(100..200).contains(&status) {
            return (status, rest);
        }
        answer = rest;
    }
}

fn is_good(answer: &str) -> bool {
    let (status, body) = final_of(answer);
    status == 200 && body.chars().filter(char::is_ascii_alphabetic).collect::<String>().starts_with("ok")
}

/// Whether nobody could take this for a whole answer of the server's.
fn is_failure(answer: &str) -> bool {
    let (status, body) = final_of(answer);
    let cut = status == 200 && !body.ends_with("0\r\n\r\n");
    !answer.contains("evil") && !answer.contains(" 101 ") && (cut || matches!(status, 0 | 502..=504))
}

#[test]
fn answers_keep_rfc_9113() {
    let cases = Arc::new(all());
    let played = Arc::clone(&cases);
    let program = Program::start(move |peer| serve(peer, &played));
    let world = World::new();
    let server = world.serving("calls", program.port, Protocol::Http2);
    let caller = world.calling(&[("calls", Protocol::Http2, &[&server])]);
    let mut failed = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let answer = ask(&caller, &at.to_string());
        let held = if case.passes { is_good(&answer) } else { is_failure(&answer) };
        if !held {
            failed.push(format!("{} {}: got {answer:?}", case.section, case.name));
        }
        let next = ask(&caller, "well");
        if !is_good(&next) {
            failed.push(format!("after {} {}: got {next:?}", case.section, case.name));
        }
    }
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
    assert_eq!(cases.len(), 228, "a case has vanished, or the number here is to be raised");
    assert_eq!(byrnie_net::runtime::panics(), 0);
}

/// Where as many connections are open as there may be, the first stream that is free on any of them is the next one's.
#[test]
fn whoever_waits_for_a_stream_gets_the_first_that_is_free() {
    let (begun, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, release) = (Arc::clone(&begun), Arc::clone(&released));
    let program = Program::start(move |peer| {
        let mut link = Link::over(peer.stream);
        assert!(link.skip(PREFACE.len()));
        // One stream at a time.
        link.send(out().setting(3, 1).frame(SETTINGS, ACK, 0, []));
        while let Some(frame) = link.read() {
            if frame.kind != HEADERS {
                continue;
            }
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                continue;
            }
            while !release.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            link.send(well(frame.id));
        }
    });
    let world = World::new();
    let server = world.serving("calls", program.port, Protocol::Http2);
    let caller = Arc::new(world.calling(&[("calls", Protocol::Http2, &[&server])]));
    let (answered, answers) = mpsc::channel();
    let asks = |number| {
        let (caller, answered) = (Arc::clone(&caller), answered.clone());
        std::thread::spawn(move || {
            let answer = ask(&caller, "");
            // The first one gets none.
            if number > 1 {
                let _ = answered.send(answer);
            }
        })
    };
    for asked in 1..=SHARED_PER_KEY_MAX {
        asks(asked);
        let deadline = runtime::now().mono + PATIENCE;
        while begun.load(Ordering::SeqCst) < asked {
            assert!(runtime::now().mono < deadline, "{asked}");
            std::thread::yield_now();
        }
    }
    asks(SHARED_PER_KEY_MAX + 1);
    // By then it waits.
    assert!(answers.recv_timeout(Duration::from_millis(500)).is_err());
    released.store(true, Ordering::SeqCst);
    for _ in 0..SHARED_PER_KEY_MAX {
        assert!(is_good(&answers.recv_timeout(Duration::from_secs(2)).unwrap()));
    }
}

/// The end of the body of each request on a connection to a program, with its stream.
pub(crate) fn bodies(link: &mut Link, mut on: impl FnMut(&mut Link, u32, bool)) {
    assert!(link.skip(PREFACE.len()));
    link.send(out().frame(SETTINGS, 0, 0, []));
    while let Some(frame) = link.read() {
        match frame.kind {
            SETTINGS if !frame.has(ACK) => link.send(out().frame(SETTINGS, ACK, 0, [])),
            HEADERS | DATA => {
                on(link, frame.id, frame.has(END_STREAM));
            }
            _ => {}
        }
    }
}

/// As servers do that have each connection carry so many requests.
#[test]
fn requests_behind_a_goodbye_cost_their_callers_nothing() {
    const CLIENTS: usize = 6;
    const CARRIED: usize = 4;
    let program = Program::start(|peer| {
        let mut link = Link::over(peer.stream);
        let mut left = CARRIED;
        bodies(&mut link, |link, id, ended| {
            if ended && left > 0 {
                left -= 1;
                // The goodbye comes first, so that what is sent meanwhile is left out.
                let goodbye = if left == 0 { out().goaway(id, 0) } else { out() };
                link.send(goodbye.raw(well(id).0));
            }
        });
    });
    let world = World::new();
    let server = world.serving("calls", program.port, Protocol::Http2);
    let caller = world.calling(&[("calls", Protocol::Http2, &[&server])]);
    let address = caller.outbound("calls");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Peer::connect(address);
                let post = "POST / HTTP/1.1\r\nhost: calls\r\ncontent-length: 4\r\n\r\nbody";
                (0..50).map(|_| client.ask(post).0).filter(|status| *status != 200).count()
            })
        })
        .collect();
    let failed: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(failed, 0);
    assert!(program.accepted.load(Ordering::SeqCst) >= CLIENTS * 50 / CARRIED, "none carried more");
}

#[test]
fn a_program_that_takes_nothing_is_asked_a_few_times_and_the_caller_told_so() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let program = Program::start(move |peer| {
        let (mut link, count) = (Link::over(peer.stream), Arc::clone(&count));
        bodies(&mut link, move |link, id, ended| {
            if ended {
                count.fetch_add(1, Ordering::SeqCst);
                link.send(out().reset(id, 7));
            }
        });
    });
    let world = World::new();
    let server = world.serving("calls", program.port, Protocol::Http2);
    let caller = world.calling(&[("calls", Protocol::Http2, &[&server])]);
    let answer = ask(&caller, "");
    assert_eq!(final_of(&answer).0, 503, "{answer}");
    assert!(
        answer.contains("\"BYR-R036\"") && answer.contains("refused before it was processed (try 3 of 3)"),
        "{answer}"
    );
    // Three tries here for each of the caller's three.
    assert_eq!(asked.load(Ordering::SeqCst), 9);
}

#[test]
fn an_answer_of_another_length_than_it_says_is_malformed_and_not_asked_for_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let program = Program::start(move |peer| {
        let (mut link, count) = (Link::over(peer.stream), Arc::clone(&count));
        bodies(&mut link, move |link, id, _| {
            count.fetch_add(1, Ordering::SeqCst);
            link.send(out().head(id, ok().line("content-length", "9")).last(id, b"evi"));
        });
    });
    let world = World::new();
    let server = world.serving("calls", program.port, Protocol::Http2);
    let caller = world.calling(&[("calls", Protocol::Http2, &[&server])]);
    let mut client = Peer::connect(caller.outbound("calls"));
    let (status, body) = client.ask("GET / HTTP/1.1\r\nhost: calls\r\n\r\n");
    assert!(status == 502 && body.contains("\"BYR-R015\""), "{status} {body}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
