// SPDX-License-Identifier: Apache-2.0
//! The two ways over the mesh side by side: what a client and a program see is the same, whether the
//! proxies speak streams or HTTP/1 to each other.

use crate::world::{Peer, Program, Proxy, World, get, header, status};
use byrnie_model::Protocol;
use byrnie_net::io::{self, Stream};
use byrnie_net::listen::{Share, bind};
use byrnie_net::{relay, runtime, tls};
use byrnie_proxy::Hop;
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

fn world(hop: Hop) -> World {
    let mut world = World::new();
    world.hop = hop;
    world
}

/// What a program saw and a client got, without what is drawn anew each time.
fn steady(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let drawn = ["x-request-id:", "x-byrnie-decision:", "x-byrnie-deadline-ms:"];
    let kept: Vec<&str> = text.split("\r\n").filter(|line| !drawn.iter().any(|name| line.starts_with(name))).collect();
    kept.join("\r\n")
}

/// How a client asks.
struct Case {
    name: &'static str,
    /// What it sends.
    sends: &'static [u8],
    /// What the program answers once it has read a head, and as much of a body as the head says.
    answers: &'static [u8],
    /// The program closes its connection then.
    closes: bool,
}

const CASES: &[Case] = &[
    Case { name: "get", sends: b"GET /a?b=c HTTP/1.1\r\nhost: echo\r\nx-a: 1\r\nx-a: 2\r\ncookie: d=e\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nset-cookie: a\r\nset-cookie: b\r\n\r\nhello", closes: false },
    Case { name: "post", sends: b"POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody",
        answers: b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\nlocation: /x\r\n\r\n", closes: false },
    Case { name: "chunks and trailers", closes: false,
        sends: b"POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-end: 1\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\nx-more: 8\r\n\r\n" },
    Case { name: "an empty chunked body", closes: false,
        sends: b"POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" },
    Case { name: "until the connection closes", sends: b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\n\r\nall there is", closes: true },
    Case { name: "an old server", sends: b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold", closes: true },
    Case { name: "an old client", sends: b"GET / HTTP/1.0\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", closes: false },
    Case { name: "a client that closes", sends: b"GET / HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", closes: false },
    Case { name: "a server that closes", sends: b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", closes: true },
    Case { name: "head", sends: b"HEAD / HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: \"1\"\r\n\r\n", closes: false },
    Case { name: "head of a chunked answer", sends: b"HEAD / HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", closes: false },
    Case { name: "no content", sends: b"DELETE / HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 204 No Content\r\n\r\n", closes: false },
    Case { name: "not modified", sends: b"GET / HTTP/1.1\r\nhost: echo\r\nif-none-match: \"1\"\r\n\r\n",
        answers: b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", closes: false },
    Case { name: "early hints", sends: b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n", closes: false,
        answers: b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" },
    Case { name: "an odd status", sends: b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 599 Odd\r\ncontent-length: 3\r\n\r\nodd", closes: false },
    Case { name: "options of the server", sends: b"OPTIONS * HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", closes: false },
    Case { name: "a switch that is refused", closes: false,
        sends: b"GET / HTTP/1.1\r\nhost: echo\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        answers: b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno" },
    Case { name: "no answer at all", sends: b"POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 2\r\n\r\nhi",
        answers: b"", closes: true },
    Case { name: "no answer that is one", sends: b"POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 2\r\n\r\nhi",
        answers: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", closes: true },
    Case { name: "a switch that nobody asked for", sends: b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n",
        answers: b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", closes: true },
];

/// What the program saw, and what the client got until its connection closed or it had a whole answer.
fn observe(hop: Hop, case: &Case) -> (String, String) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (kept, answers, closes) = (Arc::clone(&seen), case.answers, case.closes);
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            let body = peer.read_body_of(&head);
            kept.lock().unwrap().extend([head.as_bytes(), &body].concat());
            peer.send(answers);
            if closes {
                return;
            }
        }
    });
    let world = world(hop);
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send(case.sends);
    let mut got = Vec::new();
    while let Some(head) = client.read_head() {
        got.extend_from_slice(head.as_bytes());
        let informs = status(&head) < 200 && status(&head) != 101;
        if !informs && status(&head) != 304 && !case.sends.starts_with(b"HEAD") {
            let closes = header(&head, "connection") == Some("close");
            let body = if closes { client.read_to_end() } else { client.read_body_of(&head) };
            // Problem details tell the record's id.
            got.extend(if body.contains(&b'{') { b"(problem)".to_vec() } else { body });
        }
        if !informs {
            break;
        }
    }
    let seen = seen.lock().unwrap();
    (steady(&seen), steady(&got))
}

#[test]
fn both_ways_over_the_mesh_show_the_same() {
    for case in CASES {
        let framed = observe(Hop::Framed, case);
        assert!(!framed.1.is_empty(), "{}", case.name);
        assert_eq!(framed, observe(Hop::Http1, case), "{}", case.name);
    }
    assert_eq!(runtime::panics(), 0);
}

/// A proxy that serves and one that calls, over streams.
fn pair(world: &World, program: &Program, protocol: Protocol) -> (Proxy, Proxy) {
    let server = world.serving("echo", program.port, protocol);
    let caller = world.calling(&[("echo", protocol, &[&server])]);
    (server, caller)
}

#[test]
fn many_exchanges_share_one_connection_between_the_proxies() {
    let (world, program) = (world(Hop::Framed), Program::echo());
    let (server, caller) = pair(&world, &program, Protocol::Http1);
    let address = caller.outbound("echo");
    let clients: Vec<_> = (0..16)
        .map(|n| {
            std::thread::spawn(move || {
                let mut client = Peer::connect(address);
                for m in 0..20 {
                    let path = format!("/{n}/{m}");
                    assert_eq!(client.ask(&get(&path)), (200, format!("GET {path} HTTP/1.1\n")));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let metrics = server.metrics();
    let accepted = metrics.lines().find(|line| line.starts_with("byrnie_accepted_total"));
    assert!(accepted.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
}

/// Somebody with a certificate of the mesh who speaks HTTP/1.1 and has never heard of streams.
fn foreign(world: &World, name: &str, port: u16) -> std::net::SocketAddr {
    let listener = bind(crate::world::loopback(), Share::Alone).unwrap();
    let address = listener.local_addr();
    let keys = tls::server(&world.credentials(name), &[tls::ALPN_HTTP1]).unwrap();
    std::thread::spawn(move || {
        runtime::block_on(async move {
            loop {
                let (tcp, _) = listener.accept().await;
                let (stream, _) = tls::accept(tcp, &keys).await.unwrap();
                let program = io::connect(([127, 0, 0, 1], port).into(), Duration::from_secs(5)).await.unwrap();
                runtime::spawn_local("foreign", async move {
                    let (mut near, mut far) = (stream.into(), Stream::from(program).into());
                    relay::relay(
                        (&mut near, Vec::new()),
                        (&mut far, Vec::new()),
                        relay::Passes::All,
                        Duration::from_secs(60),
                    )
                    .await;
                });
            }
        })
    });
    address
}

#[test]
fn a_peer_that_knows_no_streams_is_spoken_to_in_http1() {
    let program = Program::echo();
    let world = world(Hop::Framed);
    let foreign = foreign(&world, "echo", program.port);
    let caller = world.calling_at("echo", Protocol::Http1, foreign);
    let mut client = Peer::connect(caller.outbound("echo"));
    for path in ["/a", "/b", "/c"] {
        assert_eq!(client.ask(&get(path)), (200, format!("GET {path} HTTP/1.1\n")));
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_else() {
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            if head.starts_with("GET /large ") {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 60000000\r\n\r\n");
                peer.send(vec![b'x'; 60_000_000]);
            } else {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        }
    });
    let world = world(Hop::Framed);
    let (_server, caller) = pair(&world, &program, Protocol::Http1);
    let address = caller.outbound("echo");
    let mut slow = Peer::connect(address);
    slow.send(get("/large"));
    slow.read_head().unwrap();
    let mut other = Peer::connect(address);
    for _ in 0..200 {
        assert_eq!(other.ask(&get("/small")), (200, "ok".to_owned()));
    }
    let mut got = slow.buffer.len();
    slow.buffer.clear();
    while got < 60_000_000 {
        got += slow.read_exact(1).len() + std::mem::take(&mut slow.buffer).len();
    }
}

/// Python's `http.server` answers so, and whoever builds on it.
#[test]
fn a_body_written_behind_its_head_reaches_a_client_that_has_taken_nothing_yet() {
    for length in [8192, 17_000, 29_000, 200_000] {
        let (headed, has_head) = mpsc::channel::<()>();
        let has_head = Mutex::new(has_head);
        let program = Program::start(move |mut peer| {
            while peer.read_head().is_some() {
                peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"));
                // A short answer's head waits for its body.
                if length > 16 * 1024 && has_head.lock().unwrap().recv().is_err() {
                    return;
                }
                peer.send(vec![b'x'; length]);
            }
        });
        let world = world(Hop::Framed);
        let (_server, caller) = pair(&world, &program, Protocol::Http1);
        let mut client = Peer::connect(caller.outbound("echo"));
        // Something else makes it come after half a minute.
        client.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.send(get("/"));
        let head = client.read_head().unwrap();
        headed.send(()).unwrap();
        assert_eq!(client.read_body_of(&head).len(), length);
    }
}

#[test]
fn a_proxy_killed_within_an_answer_cuts_it_and_its_callers_go_elsewhere() {
    let (asked, asking) = mpsc::channel();
    let asked = Mutex::new(asked);
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            if head.starts_with("GET /cut ") {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this");
                asked.lock().unwrap().send(()).unwrap();
            } else {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        }
    });
    let world = world(Hop::Framed);
    let (mut server, caller) = pair(&world, &program, Protocol::Http1);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send(get("/cut"));
    asking.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(client.read_until(b"only this").map(|_| ()), Some(()));
    drop(server.running.take());
    assert!(client.read_to_end().is_empty());
    let mut late = Peer::connect(caller.outbound("echo"));
    assert_eq!(late.ask(&get("/")).0, 503);
}

#[test]
fn a_switched_protocol_passes_both_ways_and_closes_by_halves() {
    let program = Program::start(|mut peer| {
        peer.read_head().unwrap();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        let said = peer.read_to_end();
        peer.send(format!("{} bytes", said.len()));
    });
    for hop in [Hop::Framed, Hop::Http1] {
        let world = world(hop);
        let (_server, caller) = pair(&world, &program, Protocol::Http1);
        let mut client = Peer::connect(caller.outbound("echo"));
        client.send("GET / HTTP/1.1\r\nhost: echo\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
        assert_eq!(status(&client.read_head().unwrap()), 101);
        client.send(vec![b'x'; 700_000]);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_to_end(), b"700000 bytes", "{hop:?}");
    }
}

#[test]
fn opaque_connections_close_by_halves_both_ways() {
    // The program closes first, and still hears what the client says.
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    let (done, ended) = mpsc::channel();
    let done = Mutex::new(done);
    let program = Program::start(move |mut peer| {
        peer.send("bye");
        peer.stream.shutdown(Shutdown::Write).unwrap();
        count.fetch_add(peer.read_to_end().len(), Ordering::SeqCst);
        done.lock().unwrap().send(()).unwrap();
    });
    for (round, hop) in [Hop::Framed, Hop::Http1].into_iter().enumerate() {
        let world = world(hop);
        let (_server, caller) = pair(&world, &program, Protocol::Tcp);
        let mut client = Peer::connect(caller.outbound("echo"));
        assert_eq!(client.read_to_end(), b"bye");
        client.send(vec![b'x'; 300_000]);
        client.stream.shutdown(Shutdown::Write).unwrap();
        ended.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(heard.load(Ordering::SeqCst), 300_000 * (round + 1), "{hop:?}");
    }
}

#[test]
fn an_opaque_connection_that_is_not_allowed_is_closed() {
    use crate::world::{allow_open, mesh};
    let program = Program::start(|mut peer| peer.send("hello"));
    let world = world(Hop::Framed);
    let (mut server, caller) = pair(&world, &program, Protocol::Tcp);
    server.apply(vec![mesh(byrnie_model::resource::DefaultAccess::Deny), allow_open("echo", "caller")]);
    let address = caller.outbound("echo");
    // The core takes the news between two events.
    while Peer::connect(address).read_to_end() == b"hello" {}
    let before = program.accepted.load(Ordering::SeqCst);
    assert!(Peer::connect(address).read_to_end().is_empty());
    assert_eq!(program.accepted.load(Ordering::SeqCst), before);
}

/// As many as it may send: what its proxy adds for the other one makes them more.
#[test]
fn a_clients_last_header_line_is_left_room_beside_the_meshs_own() {
    const LINES: usize = 100;
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let got = head.lines().filter(|line| line.starts_with("x-line-")).count().to_string();
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{got}", got.len()));
        }
    });
    let world = world(Hop::Framed);
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let lines: String = (1..LINES).map(|n| format!("x-line-{n}: 1\r\n")).collect();
    let asked = format!("GET / HTTP/1.1\r\nhost: echo\r\n{lines}\r\n");
    assert_eq!(Peer::connect(caller.outbound("echo")).ask(&asked), (200, (LINES - 1).to_string()));
}

/// Clients that ask and leave at once, far more of them than one connection's streams: whoever shares it is none the worse.
#[test]
fn clients_that_leave_break_nobody_elses_exchange() {
    const LEAVE: usize = 5000;
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            if head.starts_with("GET ") {
                // It never comes to its answer.
                peer.read_to_end();
                return;
            }
            let body = peer.read_body_of(&head);
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()));
            peer.send(body);
        }
    });
    let world = world(Hop::Framed);
    let (server, caller) = pair(&world, &program, Protocol::Http1);
    let address = caller.outbound("echo");
    let post = "POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody";
    // Who has had an answer isn't taken for one of the crowd, which is refused first where processor time is short.
    let mut client = Peer::connect(address);
    assert_eq!(client.ask(post), (200, "body".to_owned()));
    let left = std::thread::spawn(move || {
        for _ in 0..LEAVE {
            Peer::connect(address).send(get("/slow"));
        }
    });
    let mut asked = 0;
    while !left.is_finished() || asked < 100 {
        assert_eq!(client.ask(post), (200, "body".to_owned()), "after {asked}");
        asked += 1;
    }
    left.join().unwrap();
    let metrics = server.metrics();
    let accepted = metrics.lines().find(|line| line.starts_with("byrnie_accepted_total")).unwrap();
    let opened: usize = accepted.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(opened <= 4, "{accepted}");
    assert_eq!(runtime::panics(), 0);
}
