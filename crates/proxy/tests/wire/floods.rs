// SPDX-License-Identifier: Apache-2.0
//! Frames sent for the work they cause. The default limits must end each flood, or bear it; a good client
//! beside it must not notice.

use crate::frame::{
    CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, Link, Out, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::front::{CALM, noting, out};
use crate::hpack::Block;
use crate::world::{Peer, Proxy, World, get};
use byrnie_model::Protocol;

/// Streams that a client may have open.
const STREAMS_MAX: usize = 256;

/// Sends `frames` times what `each` makes, reading nothing until the peer closes or all is sent; the code
/// of the GOAWAY that came.
fn flood(caller: &Proxy, frames: u32, each: impl Fn(u32) -> Out) -> Option<u32> {
    use std::io::Write;
    let mut link = Link::client(caller.outbound("echo"), out());
    let mut reader = Link::over(link.stream.try_clone().unwrap());
    let heard = std::thread::spawn(move || {
        let mut code = None;
        while let Some(frame) = reader.read() {
            if frame.kind == GOAWAY {
                code = Some(frame.number(4));
            }
        }
        code
    });
    let mut pending = Vec::new();
    for n in 0..frames {
        pending.extend(each(n).0);
        if pending.len() > 16 * 1024 {
            if link.stream.write_all(&pending).is_err() {
                break;
            }
            pending.clear();
        }
    }
    let _ = link.stream.write_all(&pending);
    let _ = link.stream.shutdown(std::net::Shutdown::Write);
    link.skip(0);
    heard.join().unwrap()
}

fn through(test: impl FnOnce(&Proxy, &dyn Fn() -> usize)) {
    let (world, (program, targets)) = (World::new(), noting());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let begun = || targets.lock().unwrap().len().max(program.accepted.load(std::sync::atomic::Ordering::SeqCst));
    test(&caller, &begun);
    let mut client = Peer::connect(caller.outbound("echo"));
    assert_eq!(client.ask(&get("/after")).0, 200);
    assert_eq!(byrnie_net::runtime::panics(), 0);
}

/// Who gives no window for an answer isn't waited for.
#[test]
fn who_sends_no_request_is_told_so_as_far_as_the_window_goes() {
    through(|caller, _| {
        let too_large = Block::get("/").kept("cookie", &"v".repeat(40)).raw(vec![0xbe; 4_000]);
        for (window, told) in [(65_535, true), (0, false)] {
            let mut link = Link::client(caller.outbound("echo"), out().setting(4, window));
            link.send(out().whole(1, too_large.clone()));
            let (mut status, mut body) = (String::new(), String::new());
            let end = loop {
                let frame = link.read().expect("an answer");
                match frame.kind {
                    HEADERS => status = link.lines(&frame).unwrap().remove(0).1,
                    DATA => body.push_str(std::str::from_utf8(&frame.payload).unwrap()),
                    RST_STREAM => break RST_STREAM,
                    _ => {}
                }
                if frame.kind == DATA && frame.has(END_STREAM) {
                    break DATA;
                }
            };
            assert_eq!((status.as_str(), end), ("431", if told { DATA } else { RST_STREAM }));
            assert_eq!(body.contains("\"title\":\"malformed request\"") && body.ends_with("}\n"), told, "{body}");
        }
    });
}

/// As many as by HTTP/1, so that what one proxy lets in the next one takes.
#[test]
fn a_client_sends_no_more_header_lines_than_by_http_1() {
    through(|caller, begun| {
        let lines = |name: &str, most: usize| (0..most).fold(Block::get("/"), |block, _| block.line(name, "a=b"));
        // Crumbs of a cookie are one line.
        for (block, wanted) in [(lines("x", 101), "431"), (lines("x", 100), "200"), (lines("cookie", 300), "200")] {
            let mut link = Link::client(caller.outbound("echo"), out());
            link.send(out().whole(1, block));
            let status = loop {
                let frame = link.read().expect("an answer");
                if frame.kind == HEADERS {
                    break link.lines(&frame).unwrap().remove(0).1;
                }
            };
            assert_eq!(status, wanted);
        }
        assert_eq!(begun(), 2);
    });
}

#[test]
fn rapid_resets_are_ended_and_begin_little_work() {
    through(|caller, begun| {
        let pairs = 20_000;
        let code = flood(caller, pairs, |n| out().whole(1 + 2 * n, Block::get("/")).reset(1 + 2 * n, 8));
        println!("rapid reset: {pairs} pairs, GOAWAY {code:?}, {} requests reached the program", begun());
        assert_eq!(code, Some(CALM));
        assert!(begun() <= STREAMS_MAX + 100, "{}", begun());
    });
}

/// A client that makes us reset: each way to err on a stream of its own.
#[test]
fn resets_that_a_client_provokes_are_ended_too() {
    type Provoke = fn(u32) -> Out;
    let ways: [(&str, Provoke); 4] = [
        ("a window of too much", |id| out().head(id, Block::post("/")).window(id, i32::MAX as u32)),
        ("a body of another length", |id| {
            out().head(id, Block::post("/").line("content-length", "1")).last(id, b"four")
        }),
        ("headers of one connection", |id| out().whole(id, Block::get("/").line("connection", "x"))),
        ("a second head", |id| out().head(id, Block::post("/")).head(id, Block::default().line("x-y", "1"))),
    ];
    for (name, provoke) in ways {
        through(|caller, begun| {
            let code = flood(caller, 5_000, |n| provoke(1 + 2 * n));
            println!("made you reset by {name}: GOAWAY {code:?}, {} requests reached the program", begun());
            assert_eq!(code, Some(CALM), "{name}");
            assert!(begun() <= STREAMS_MAX + 100, "{name}: {}", begun());
        });
    }
}

#[test]
fn floods_of_frames_that_carry_nothing_are_ended() {
    let empty = |kind, flags, id, payload: &'static [u8]| move |_: u32| out().frame(kind, flags, id, payload);
    let ping = empty(PING, 0, 0, &[0; 8]);
    let settings = empty(SETTINGS, 0, 0, &[]);
    let priority = empty(PRIORITY, 0, 5, &[0, 0, 0, 3, 1]);
    let window = empty(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let unknown = empty(0x42, 0, 0, &[]);
    let data = |n: u32| if n == 0 { out().head(1, Block::post("/")) } else { out().frame(DATA, 0, 1, []) };
    let block =
        |n: u32| if n == 0 { out().frame(HEADERS, 0, 1, Block::get("/")) } else { out().frame(CONTINUATION, 0, 1, []) };
    let floods: [(&str, &dyn Fn(u32) -> Out); 7] = [
        ("PING", &ping),
        ("SETTINGS", &settings),
        ("PRIORITY", &priority),
        ("WINDOW_UPDATE", &window),
        ("unknown", &unknown),
        ("empty DATA", &data),
        ("CONTINUATION", &block),
    ];
    through(|caller, begun| {
        for (name, each) in floods {
            // Less than is read and forgotten after a GOAWAY: beyond it a reset may take the GOAWAY with it.
            let code = flood(caller, 50_000, each);
            println!("flood of {name}: GOAWAY {code:?}");
            assert_eq!(code, Some(CALM), "{name}");
        }
        // Empty DATA follows a whole head, which may be passed on at once; nothing else is a request.
        assert!(begun() <= 1, "{}", begun());
    });
}

/// A client whose limit no answer fits costs its own streams and nothing else.
#[test]
fn a_header_list_too_small_for_any_answer_is_the_clients_own_loss() {
    through(|caller, _| {
        let mut link = Link::client(caller.outbound("echo"), out().setting(6, 1));
        (0..50).for_each(|n| link.send(out().whole(1 + 2 * n, Block::get("/"))));
        link.send(out().ping(b"all sent"));
        while let Some(frame) = link.read() {
            if frame.kind == PING {
                break;
            }
        }
    });
}

/// One reference of a byte stands for a large line (HPACK bomb).
#[test]
fn references_are_charged_with_what_they_stand_for() {
    let (world, (program, targets)) = (World::new(), noting());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    for (name, value) in [("x-y", "v"), ("cookie", "a=b"), ("x-large", "value of forty bytes, as cookies may be")] {
        for references in [90, 4_000, 16_000] {
            let mut block = Block::get(&format!("/{references}")).kept(name, value).0;
            block.extend(std::iter::repeat_n(0xbe, references));
            let _ = flood(&caller, 40, |n| {
                let mut sends = out().frame(HEADERS, 1, 1 + 2 * n, []);
                let mut rest = block.chunks(16_000).peekable();
                while let Some(part) = rest.next() {
                    sends = sends.frame(CONTINUATION, if rest.peek().is_none() { 4 } else { 0 }, 1 + 2 * n, part);
                }
                sends
            });
        }
    }
    let mut client = Peer::connect(caller.outbound("echo"));
    assert_eq!(client.ask(&get("/after")).0, 200);
    assert_eq!(byrnie_net::runtime::panics(), 0);
    // A hundred lines are allowed; a bomb isn't.
    let bombs = targets.lock().unwrap().iter().filter(|target| !["/90", "/after"].contains(&target.as_str())).count();
    assert_eq!(bombs, 0, "bombs reached the program");
}
