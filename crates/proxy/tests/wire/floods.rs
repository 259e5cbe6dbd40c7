// SPDX-License-Identifier: Apache-2.0
//! Frames sent for the work they cause. The default limits must end each flood, or bear it; a good client that asks
//! while it lasts must not notice.

use crate::frame::{
    ACK, CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, Link, Out, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use crate::front::{CALM, CLOSED, PROTOCOL, SIZE, body_of, out};
use crate::hpack::Block;
use crate::world::{Peer, Program, Proxy, World, get};
use byrnie_model::Protocol;
use byrnie_net::runtime;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Streams that a client may have open.
const STREAMS_MAX: usize = 256;
/// Requests that one connection may make reach the program before it's ended.
const BEGUN_MAX: usize = STREAMS_MAX + 100;
/// Requests of a good client, alone and while a flood lasts; a flood that has ended sooner is begun again.
const GOOD: usize = 40;
/// None of them waits longer, however busy the machine is with other things; where it's slow when it's alone already,
/// than so many times its longest wait alone.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(2);
const WAIT_RATIO_MAX: u32 = 20;
/// Connections to the program that may be the good client's.
const GOOD_CONNECTIONS: usize = 8;
/// Clients of a flood that come and go, and what each of them asks for.
const LEAVERS: usize = 200;
const LEFT_BEHIND: usize = 40;
/// What the good client asks for begins so.
const GOOD_PATH: &str = "/good/";

/// Sends `frames` times what `each` makes, until the peer closes or all of it was taken, and stays until then; the code of the GOAWAY
/// that came.
fn flood(caller: &Proxy, frames: u32, each: impl Fn(u32) -> Out) -> Option<u32> {
    let mut link = Link::client(caller.outbound("echo"), out());
    let mut reader = Link::over(link.stream.try_clone().unwrap());
    let heard = std::thread::spawn(move || {
        let mut code = None;
        while let Some(frame) = reader.read() {
            match frame.kind {
                GOAWAY => code = Some(frame.number(4)),
                PING if frame.has(ACK) && frame.payload == b"all sent" => break,
                _ => {}
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
    link.send(out().ping(b"all sent"));
    heard.join().unwrap()
}

/// A program that answers each whole request with its target, and the targets of all whose heads have come.
fn telling() -> (Program, Arc<Mutex<Vec<String>>>) {
    let targets = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&targets);
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            told.lock().unwrap().push(target.clone());
            if body_of(&mut peer, &head).is_none() {
                return;
            }
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len()));
        }
    });
    (program, targets)
}

/// What is answered, and after how long. Whom a busy machine makes a proxy tell to come again comes again, and waits on.
pub(crate) fn ask(client: &mut Peer, target: &str) -> (u16, String, Duration) {
    let begun = runtime::now().mono;
    loop {
        let (status, body) = client.ask(&get(target));
        let took = runtime::now().mono.since(begun);
        if status != 503 || !body.contains("short of processor time") || took > WAIT_MAX {
            return (status, body, took);
        }
    }
}

/// Asks until `enough` says so of how often it has been answered, each time for something else, and gets that; how long
/// the longest took.
fn good(entry: SocketAddr, mut enough: impl FnMut(usize) -> bool) -> Duration {
    let (mut client, mut longest, mut answered) = (Peer::connect(entry), Duration::ZERO, 0);
    while !enough(answered) {
        let target = format!("{GOOD_PATH}{answered}");
        let (status, body, took) = ask(&mut client, &target);
        assert_eq!((status, body.as_str()), (200, target.as_str()));
        longest = longest.max(took);
        answered += 1;
    }
    longest
}

/// Where floods go.
struct Scene<'a> {
    caller: &'a Proxy,
    /// Where the good client asks.
    entry: SocketAddr,
    /// The longest wait of a good client that was alone.
    alone: Duration,
    /// How often it asks beside a flood, at least.
    asks: usize,
    /// How many requests of others than the good client reached the program.
    begun: &'a dyn Fn() -> usize,
}

impl Scene<'_> {
    /// Floods, again and again, until a good client has asked often enough meanwhile; what came of each flood.
    fn beside<T>(&self, name: &str, mut flood: impl FnMut() -> T) -> Vec<T> {
        let (entry, answers, over) = (self.entry, AtomicUsize::new(0), AtomicBool::new(false));
        let mut came = Vec::new();
        let longest = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                good(entry, |answered| {
                    answers.store(answered, Ordering::SeqCst);
                    over.load(Ordering::SeqCst)
                })
            });
            while came.is_empty() || answers.load(Ordering::SeqCst) < self.asks && !client.is_finished() {
                came.push(flood());
            }
            over.store(true, Ordering::SeqCst);
            client.join().unwrap()
        });
        println!("beside {} floods of {name}: {longest:?} at the longest, {:?} alone", came.len(), self.alone);
        assert!(longest < WAIT_MAX.max(self.alone * WAIT_RATIO_MAX), "{name}: {longest:?}, alone {:?}", self.alone);
        came
    }
}

fn through(test: impl FnOnce(&Scene<'_>)) {
    let (world, (program, targets)) = (World::new(), telling());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let entry = caller.outbound("echo");
    let alone = good(entry, |answered| answered >= GOOD);
    let begun = || {
        let heads = targets.lock().unwrap().iter().filter(|target| !target.starts_with(GOOD_PATH)).count();
        heads.max(program.accepted.load(Ordering::SeqCst).saturating_sub(GOOD_CONNECTIONS))
    };
    test(&Scene { caller: &caller, entry, alone, asks: GOOD, begun: &begun });
    good(caller.outbound("echo"), |answered| answered > 0);
    assert_eq!(runtime::panics(), 0);
}

/// Who gives no window for an answer isn't waited for.
#[test]
fn who_sends_no_request_is_told_so_as_far_as_the_window_goes() {
    through(|scene| {
        let too_large = Block::get("/").kept("cookie", &"v".repeat(40)).raw(vec![0xbe; 4_000]);
        for (window, told) in [(65_535, true), (0, false)] {
            let mut link = Link::client(scene.caller.outbound("echo"), out().setting(4, window));
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
    through(|scene| {
        let lines = |name: &str, most: usize| (0..most).fold(Block::get("/"), |block, _| block.line(name, "a=b"));
        // Crumbs of a cookie are one line.
        for (block, wanted) in [(lines("x", 101), "431"), (lines("x", 100), "200"), (lines("cookie", 300), "200")] {
            let mut link = Link::client(scene.caller.outbound("echo"), out());
            link.send(out().whole(1, block));
            let status = loop {
                let frame = link.read().expect("an answer");
                if frame.kind == HEADERS {
                    break link.lines(&frame).unwrap().remove(0).1;
                }
            };
            assert_eq!(status, wanted);
        }
        assert_eq!((scene.begun)(), 2);
    });
}

#[test]
fn rapid_resets_are_ended_and_begin_little_work() {
    through(|scene| {
        let pairs = 20_000;
        let pair = |n| out().whole(1 + 2 * n, Block::get("/")).reset(1 + 2 * n, 8);
        let codes = scene.beside("resets", || flood(scene.caller, pairs, pair));
        let begun = (scene.begun)();
        println!("rapid reset: {pairs} pairs, GOAWAY {codes:?}, {begun} requests reached the program");
        assert!(codes.iter().all(|code| *code == Some(CALM)), "{codes:?}");
        assert!(begun <= codes.len() * BEGUN_MAX, "{begun}");
    });
}

/// A client that makes us reset (CVE-2025-8671): each way to err on a stream of its own. What RFC 9113 makes an error of the
/// connection, or lets be one, ends it at once.
#[test]
fn resets_that_a_client_provokes_are_ended_too() {
    type Provoke = fn(u32) -> Out;
    let ways: [(&str, &[u32], Provoke); 9] = [
        ("a window of too much", &[CALM], |id| out().head(id, Block::post("/")).window(id, i32::MAX as u32)),
        ("a window of no more", &[PROTOCOL], |id| out().head(id, Block::post("/")).window(id, 0)),
        ("a body longer than its length", &[CALM], |id| {
            out().head(id, Block::post("/").line("content-length", "1")).last(id, b"four")
        }),
        ("headers of one connection", &[CALM], |id| out().whole(id, Block::get("/").line("connection", "x"))),
        ("a second head", &[CALM], |id| out().head(id, Block::post("/")).head(id, Block::default().line("x-y", "1"))),
        ("a head after the end", &[CLOSED, PROTOCOL], |id| out().whole(id, Block::get("/")).whole(id, Block::get("/"))),
        ("a body after the end", &[CLOSED, PROTOCOL], |id| out().whole(id, Block::get("/")).data(id, b"x")),
        ("a stream that depends on itself", &[CALM], |id| {
            let upon = [&id.to_be_bytes()[..], &[1]].concat();
            out().head(id, Block::post("/")).frame(PRIORITY, 0, id, upon)
        }),
        ("a priority too short", &[SIZE], |id| out().head(id, Block::post("/")).frame(PRIORITY, 0, id, [0; 4])),
    ];
    through(|scene| {
        for (name, wanted, provoke) in ways {
            let before = (scene.begun)();
            let codes = scene.beside(name, || flood(scene.caller, 5_000, |n| provoke(1 + 2 * n)));
            let begun = (scene.begun)() - before;
            println!("made you reset by {name}: GOAWAY {codes:?}, {begun} requests reached the program");
            assert!(codes.iter().all(|code| code.is_some_and(|code| wanted.contains(&code))), "{name}: {codes:?}");
            assert!(begun <= codes.len() * BEGUN_MAX, "{name}: {begun}");
        }
    });
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
        ("CONTINUATION", &block),
        // Last, as what it begins may reach the program late.
        ("empty DATA", &data),
    ];
    through(|scene| {
        for (name, each) in floods {
            let before = (scene.begun)();
            // Less than is read and forgotten after a GOAWAY: beyond it a reset may take the GOAWAY with it.
            let codes = scene.beside(name, || flood(scene.caller, 50_000, each));
            println!("flood of {name}: GOAWAY {codes:?}");
            assert!(codes.iter().all(|code| *code == Some(CALM)), "{name}: {codes:?}");
            // Empty DATA follows a whole head, which may be passed on at once; nothing else is a request.
            let most = if name == "empty DATA" { codes.len() } else { 0 };
            assert!((scene.begun)() - before <= most, "{name}: {}", (scene.begun)() - before);
        }
    });
}

/// Clients that come, ask for much and are gone: they wait for nothing, so that there are always more of them. The good client asks
/// another program, as this one's threads, of which each cancelled request takes one, aren't the proxies' to guard.
#[test]
fn clients_that_leave_at_once_hold_up_nobody_who_stays() {
    let by_http1 = get("/left").repeat(LEFT_BEHIND).into_bytes();
    let opening = out().raw(PREFACE).frame(SETTINGS, 0, 0, []);
    let by_http2 = (0..LEFT_BEHIND as u32).fold(opening, |sends, n| sends.whole(1 + 2 * n, Block::get("/left"))).0;
    let (world, (program, targets), (calm, _)) = (World::new(), telling(), telling());
    let (left, stays) = [("echo", program.port), ("calm", calm.port)]
        .map(|(name, port)| world.serving(name, port, Protocol::Http1))
        .into();
    let caller =
        world.calling(&[("echo", Protocol::Http1, &[&left] as &[_]), ("calm", Protocol::Http1, &[&stays] as &[_])]);
    let entry = caller.outbound("calm");
    let alone = good(entry, |answered| answered >= GOOD);
    let scene = Scene { caller: &caller, entry, alone, asks: GOOD, begun: &|| targets.lock().unwrap().len() };
    for (name, asked) in [("leavers by HTTP/1", by_http1), ("leavers by HTTP/2", by_http2)] {
        let before = (scene.begun)();
        let came = scene.beside(name, || {
            for _ in 0..LEAVERS {
                // Who is refused has left, too.
                let _ = TcpStream::connect(caller.outbound("echo")).unwrap().write_all(&asked);
            }
        });
        let (begun, asked) = ((scene.begun)() - before, came.len() * LEAVERS * LEFT_BEHIND);
        println!("{name}: {begun} of {asked} requests reached the program");
    }
    good(caller.outbound("echo"), |answered| answered > 0);
    assert_eq!(runtime::panics(), 0);
}

/// A client whose limit no answer fits costs its own streams and nothing else.
#[test]
fn a_header_list_too_small_for_any_answer_is_the_clients_own_loss() {
    through(|scene| {
        let mut link = Link::client(scene.caller.outbound("echo"), out().setting(6, 1));
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
    let (world, (program, targets)) = (World::new(), telling());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let entry = caller.outbound("echo");
    let alone = good(entry, |answered| answered >= GOOD);
    // Each takes a debug build a while.
    let scene = Scene { caller: &caller, entry, alone, asks: 4, begun: &|| 0 };
    for (name, value) in [("x-y", "v"), ("cookie", "a=b"), ("x-large", "value of forty bytes, as cookies may be")] {
        for references in [90, 4_000, 16_000] {
            let mut block = Block::get(&format!("/{references}")).kept(name, value).0;
            block.extend(std::iter::repeat_n(0xbe, references));
            let bomb = |n| {
                let mut sends = out().frame(HEADERS, 1, 1 + 2 * n, []);
                let mut rest = block.chunks(16_000).peekable();
                while let Some(part) = rest.next() {
                    sends = sends.frame(CONTINUATION, if rest.peek().is_none() { 4 } else { 0 }, 1 + 2 * n, part);
                }
                sends
            };
            if references == 90 {
                // That's a request like any other: again and again it's no flood but load, which the program has to bear.
                flood(&caller, 40, bomb);
                good(caller.outbound("echo"), |answered| answered > 0);
            } else {
                scene.beside(&format!("{references} references"), || flood(&caller, 40, bomb));
            }
        }
    }
    good(caller.outbound("echo"), |answered| answered > 0);
    assert_eq!(runtime::panics(), 0);
    // A hundred lines are allowed; a bomb isn't.
    let allowed = |target: &&String| *target == "/90" || target.starts_with(GOOD_PATH);
    let bombs = targets.lock().unwrap().iter().filter(|target| !allowed(target)).count();
    assert_eq!(bombs, 0, "bombs reached the program");
}
