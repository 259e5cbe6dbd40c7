// SPDX-License-Identifier: Apache-2.0
//! Clients that do next to nothing, and a log that nobody reads: both cost their own, and nobody else.

use crate::floods::{WAIT_MAX, ask};
use crate::frame::{DATA, END_STREAM, Link};
use crate::front::out;
use crate::hpack::Block;
#[cfg(target_os = "linux")]
use crate::world::queue;
use crate::world::{Peer, Program, Proxy, World, get, status};
use byrnie_model::Protocol;
use byrnie_net::runtime;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::net::TcpSocket;

/// A head, and the first message of a handshake, may take so long, a step of a body so long.
const HEAD_MAX: Duration = Duration::from_secs(15);
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const BODY_STEP_MAX: Duration = Duration::from_secs(30);
/// How much later they may be closed.
const LATER_MAX: Duration = Duration::from_secs(1);
/// How long an answer may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(20);
/// Slow clients of each kind, and files that each may take on both sides of both proxies: where the system allows fewer
/// there are fewer clients. `cargo xtask bench attacks` has ten times as many.
const CLIENTS_MAX: u64 = 1_000;
const FILES_EACH: u64 = 16;
const OPENED_AT_ONCE: usize = 20;
/// How often a good client beside them asks.
const PACE: Duration = Duration::from_millis(10);

/// So much the system may hold of what a program says, in bytes: by itself it takes mebibytes, which for hundreds of connections is more
/// than all that some machines have for sockets, and then none gets on.
const SAID_BYTES_MAX: u32 = 64 * 1024;

/// A program that answers `GET /BYTES` with so many, without keeping them.
fn giving() -> Program {
    Program::start(|mut peer| {
        TcpSocket::from_std_stream(peer.stream.try_clone().unwrap()).set_send_buffer_size(SAID_BYTES_MAX).unwrap();
        // It waits for a body as long as it has to.
        peer.stream.set_read_timeout(None).unwrap();
        while let Some(head) = peer.read_head() {
            let length = crate::world::header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            if peer.try_exact(length).is_none() {
                return;
            }
            let path = head.split(' ').nth(1).unwrap_or_default();
            let mut left: usize = path[1..].parse().unwrap_or(2);
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n\r\n"));
            while left > 0 {
                let part = left.min(PIECE.len());
                if peer.stream.write_all(&PIECE[..part]).is_err() {
                    return;
                }
                left -= part;
            }
        }
    })
}

static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

fn pair(world: &World, program: &Program) -> (Proxy, Proxy) {
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    (server, caller)
}

/// How many slow clients of a kind there are.
fn clients() -> usize {
    usize::try_from((runtime::open_files_max() / FILES_EACH).min(CLIENTS_MAX)).unwrap()
}

/// How a slow client's connection ended: how long after it had begun, and what it was told.
struct End {
    after: Duration,
    told: String,
}

/// Opens connections that begin with `opening` and say `more` every now and then, until the proxy ends them. The `good` client is
/// answered after every few: by then whoever came before has been looked at, from when on deadlines run.
fn hold(address: SocketAddr, good: &mut Peer, clients: usize, opening: &str, more: &str) -> Vec<End> {
    let open = |n| {
        let mut stream = TcpStream::connect(address).unwrap();
        let begun = runtime::now().mono;
        stream.write_all(opening.as_bytes()).unwrap();
        if n % OPENED_AT_ONCE == 0 {
            assert_eq!(ask(good, "/2").0, 200);
        }
        (begun, stream)
    };
    let held: Vec<_> = (0..clients).map(open).collect();
    let end = |(begun, mut stream): (_, TcpStream)| {
        stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => text.extend_from_slice(&chunk[..read]),
                // A byte now and then doesn't help.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let _ = stream.write_all(more.as_bytes());
                }
                Err(_) => break,
            }
        }
        End { after: runtime::now().mono.since(begun), told: String::from_utf8_lossy(&text).into_owned() }
    };
    held.into_iter().map(end).collect()
}

#[test]
fn heads_bodies_and_handshakes_that_never_end_are_ended_at_their_deadlines() {
    let (world, program) = (World::new(), giving());
    let clients = clients();
    let (server, caller) = pair(&world, &program);
    let (entry, inbound) = (caller.outbound("echo"), server.inbound());
    let declared = "POST /2 HTTP/1.1\r\nhost: echo\r\ncontent-length: 1000000\r\n\r\nx";
    let hello = "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}";
    let mut client = Peer::connect(entry);
    assert_eq!(client.ask(&get("/2")).0, 200);
    std::thread::scope(|scope| {
        let cases = [
            ("heads", entry, "GET /2 HTTP/1.1\r\nhost: echo\r\nx-slow: ", "x", HEAD_MAX),
            ("bodies", entry, declared, "x", BODY_STEP_MAX),
            ("handshakes", inbound, hello, "\u{1}", HANDSHAKE_MAX),
        ];
        let slow = cases.map(|(name, address, opening, more, limit)| {
            scope.spawn(move || {
                let mut good = Peer::connect(entry);
                let ends = hold(address, &mut good, clients, opening, more);
                let first = ends.iter().map(|end| end.after).min().unwrap();
                let last = ends.iter().map(|end| end.after).max().unwrap();
                println!("{name}: {clients} ended after {first:?} to {last:?}");
                assert!(first + LATER_MAX >= limit && last <= limit + LATER_MAX, "{name}: {first:?}, {last:?}");
                if name == "bodies" {
                    let other = ends.iter().find(|end| status(&end.told) != 408);
                    assert!(other.is_none(), "{:?}", other.map(|end| &end.told));
                }
            })
        });
        let (mut longest, mut asked) = (Duration::ZERO, 0);
        while !slow.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let (status, body, took) = ask(&mut client, "/2");
            assert_eq!((status, body.as_str()), (200, "xx"));
            (longest, asked) = (longest.max(took), asked + 1);
            std::thread::park_timeout(PACE);
        }
        println!("{asked} good requests beside {} slow ones: {longest:?} at the longest", 3 * clients);
        assert!(longest < WAIT_MAX, "{longest:?}");
    });
    assert_eq!(runtime::panics(), 0);
}

#[test]
fn answers_that_nobody_reads_keep_none_from_others() {
    let (world, program) = (World::new(), giving());
    let (_server, caller) = pair(&world, &program);
    let entry = caller.outbound("echo");
    // The least window that isn't taken for none.
    let mut greedy = Link::client(entry, out().setting(4, 4096));
    greedy.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for n in 0..250 {
        greedy.send(out().whole(1 + 2 * n, Block::get("/16777216")));
    }
    // Once the last is answered, all that can be under way is.
    greedy.send(out().ping(b"all sent"));
    while greedy.read().expect("a head").id != 499 {}
    // The program's 250 threads take the processors until their sockets are full, and for that long a proxy may be short of them.
    let deadline = runtime::now().mono + PATIENCE;
    let (mut first, mut in_a_row) = (Peer::connect(entry), 0);
    while in_a_row < 200 {
        in_a_row = if first.ask(&get("/2")).0 == 200 { in_a_row + 1 } else { 0 };
        assert!(runtime::now().mono < deadline, "others are kept out");
    }
    let mut client = Peer::connect(entry);
    for size in [1 << 20, 2, 1 << 20] {
        client.send(get(&format!("/{size}")));
        let (head, body) = client.response();
        let told = String::from_utf8_lossy(&body[..body.len().min(600)]);
        assert_eq!((status(&head), body.len()), (200, size), "{told}");
    }
}

#[test]
fn a_log_that_nobody_reads_delays_nobody_and_counts_what_it_lost() {
    let (world, program) = (World::new(), Program::echo());
    let pipe = world.state_dir("caller.log");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // To open one end waits for the other.
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::File::open(pipe).unwrap()
    });
    let (_server, caller) = pair(&world, &program);
    let unread = reader.join().unwrap();
    let long = "a".repeat(7000);
    let mut client = Peer::connect(caller.outbound("echo"));
    let mut admin = Peer::connect(caller.ports.admin);
    let lost = loop {
        for _ in 0..100 {
            assert_eq!(client.ask(&get(&format!("/{long}"))).0, 200);
        }
        let (_, metrics) = admin.ask("GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n");
        let line = metrics.lines().find_map(|line| line.strip_prefix("byrnie_log_lines_dropped_total "));
        let lost: u64 = line.unwrap().parse().unwrap();
        if lost > 0 {
            break lost;
        }
    };
    println!("{lost} lines lost, none of the requests");
    drop(unread);
}

/// What waits to be accepted by a program that accepts nobody: one more has room behind these.
#[cfg(target_os = "linux")]
const QUEUED: i32 = 8;

/// A program with a short queue of connections, into which the system puts one when its first bytes come (`TCP_DEFER_ACCEPT`): so
/// several are let in before the first of them fills it.
#[cfg(target_os = "linux")]
fn short_queue() -> TcpListener {
    unsafe extern "C" {
        safe fn setsockopt(socket: i32, level: i32, name: i32, value: &i32, bytes: u32) -> i32;
    }
    const IPPROTO_TCP: i32 = 6;
    const TCP_DEFER_ACCEPT: i32 = 9;
    const SECONDS: i32 = 100;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    queue(&listener, QUEUED);
    assert_eq!(setsockopt(listener.as_raw_fd(), IPPROTO_TCP, TCP_DEFER_ACCEPT, &SECONDS, 4), 0);
    listener
}

#[cfg(target_os = "linux")]
fn answer(listener: &TcpListener) {
    let mut program = Peer::new(listener.accept().unwrap().0);
    program.read_head().unwrap();
    program.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
}

/// Connections to `port` that were closed before what was sent on them was acknowledged: the system keeps trying.
#[cfg(target_os = "linux")]
fn orphans(port: u16) -> usize {
    const FIN_WAIT_1: &str = "04";
    let (table, to) = (std::fs::read_to_string("/proc/net/tcp").unwrap(), format!(":{port:04X}"));
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2].ends_with(&to) && row[3] == FIN_WAIT_1).count()
}

/// The connections stand on this side alone: the program's system drops what comes on them, for about a minute.
#[cfg(target_os = "linux")]
#[test]
fn requests_that_nobody_acknowledges_are_given_up_when_a_connection_would_have_been() {
    const REQUESTS: u32 = 6;
    let (listener, world) = (short_queue(), World::new());
    let address = listener.local_addr().unwrap();
    let server = world.serving("echo", address.port(), Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let mut client = Link::client(caller.outbound("echo"), out());
    let read = |client: &mut Link, wanted: u32| {
        let (begun, mut ended, mut said) = (runtime::now().mono, 0, String::new());
        while ended < wanted {
            let Some(frame) = client.read() else {
                assert!(client.silent && runtime::now().mono.since(begun) < PATIENCE, "{ended} have ended: {said}");
                continue;
            };
            said.push_str(&String::from_utf8_lossy(&frame.payload));
            ended += u32::from(frame.id > 0 && frame.kind == DATA && frame.has(END_STREAM));
        }
        said
    };
    // The proxies know each other before it's tight.
    client.send(out().whole(1, Block::get("/2")));
    answer(&listener);
    read(&mut client, 1);
    let fill = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"x").unwrap();
        stream
    };
    let waiting: Vec<TcpStream> = (0..QUEUED).map(fill).collect();
    let posts = (1..=REQUESTS).fold(out(), |out, n| {
        let id = 1 + 2 * n;
        out.head(id, Block::post("/2")).last(id, "x")
    });
    client.send(posts);
    let said = read(&mut client, REQUESTS - 1);
    assert!(said.contains("\"reason\":\"upstream_reset\""), "their connections stood: {said}");
    // A program that has room again is sent none of them: what their callers were told has failed isn't to happen later.
    assert_eq!(orphans(address.port()), 0, "the system goes on sending what was given up");
    // The one whose connection the system keeps for the program has its answer as soon as that is back.
    waiting.iter().for_each(|_| drop(listener.accept().unwrap()));
    answer(&listener);
    assert!(read(&mut client, 1).contains("ok"));
}
