// SPDX-License-Identifier: Apache-2.0
use crate::http1::pair;
use crate::world::{self, Peer, Program, World, allow_open, get, header, mesh, service_of, status};
use byrnie_base::Timestamp;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::fault::Fault;
use byrnie_model::policy::traffic::Limits;
use byrnie_model::resource::DefaultAccess;
use byrnie_model::{Kind, Protocol, Spec};
use byrnie_net::runtime;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

#[test]
fn one_dead_endpoint_of_three_costs_no_request() {
    let (world, program) = (World::new(), Program::echo());
    let live: Vec<_> = (0..2).map(|_| world.serving("echo", program.port, Protocol::Http1)).collect();
    let mut dead = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&live[0], &dead, &live[1]])]);
    dead.drain(Duration::ZERO);
    let mut client = Peer::connect(caller.outbound("echo"));
    for n in 0..100 {
        assert_eq!(client.ask(&get("/")).0, 200, "request {n}");
    }
    // Not even one that may not be repeated, as nothing of it was sent.
    for n in 0..100 {
        let post = "POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody";
        assert_eq!(client.ask(post).0, 200, "request {n}");
    }
}

#[test]
fn an_endpoint_that_dies_in_mid_run_costs_no_idempotent_request() {
    let (world, program) = (World::new(), Program::echo());
    let live = world.serving("echo", program.port, Protocol::Http1);
    let mut dying = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&live, &dying])]);
    let address = caller.outbound("echo");
    let (done, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (done, failed, stop) = (Arc::clone(&done), Arc::clone(&failed), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut client = Peer::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let body = "PUT / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody";
                    failed.fetch_add(usize::from(client.ask(body).0 != 200), Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let wait_for = |count: usize| {
        while done.load(Ordering::SeqCst) < count {
            std::thread::yield_now()
        }
    };
    wait_for(200);
    // Killed: threads and sockets go without a word.
    drop(dying.running.take());
    let killed_at = done.load(Ordering::SeqCst);
    wait_for(killed_at + 400);
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(failed.load(Ordering::SeqCst), 0);
}

#[test]
fn a_short_answer_that_breaks_off_costs_no_idempotent_request() {
    // So long an answer may wait for its end; on a busy machine the program itself may be kept from ending it in time, and then
    // nothing is shown.
    const WAIT: Duration = Duration::from_millis(100);
    let (seen, (ended, took)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
    let count = Arc::clone(&seen);
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            peer.read_body_of(&head);
            let dies = count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
            if dies {
                let begun = runtime::now().mono;
                peer.send(format!("{head}bo"));
                drop(peer);
                ended.send(runtime::now().mono.since(begun)).unwrap();
                return;
            }
            peer.send(format!("{head}body"));
        }
    });
    let world = World::new();
    let servers: Vec<_> = (0..2).map(|_| world.serving("echo", program.port, Protocol::Http1)).collect();
    let caller = world.calling(&[("echo", Protocol::Http1, &[&servers[0], &servers[1]])]);
    // What came of a request of which a try broke off in time, and how many tries there were.
    let ask = |request: &str| {
        for _ in 0..20 {
            seen.store(0, Ordering::SeqCst);
            let mut client = Peer::connect(caller.outbound("echo"));
            client.send(request.replacen("\r\n", "\r\nconnection: close\r\n", 1));
            let came = String::from_utf8(client.read_to_end()).unwrap();
            if took.recv().unwrap() < WAIT {
                let (head, body) = came.split_once("\r\n\r\n").unwrap();
                return (status(head), body.to_owned(), seen.load(Ordering::SeqCst));
            }
        }
        panic!("the program is never in time");
    };
    assert_eq!(ask(&get("/")), (200, "body".to_owned(), 2), "one try broke off, the other did not");
    // What may not be repeated isn't, and the caller is told rather than given half an answer.
    let (told, _, tries) = ask("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!((told, tries), (503, 1));
}

#[test]
fn a_short_answer_whose_body_waits_for_its_caller_begins_all_the_same() {
    let (go, gone) = mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let program = Program::start(move |mut peer| {
        peer.read_head().unwrap();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbo");
        gone.lock().unwrap().recv().unwrap();
        peer.send("dy");
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send(get("/"));
    assert_eq!(status(&client.read_head().unwrap()), 200);
    go.send(()).unwrap();
    assert_eq!(client.read_exact(4), b"body");
}

#[test]
fn a_post_is_never_sent_twice_once_it_was_sent() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let program = Program::start(move |mut peer| {
        let head = peer.read_head().unwrap();
        peer.read_body_of(&head);
        count.fetch_add(1, Ordering::SeqCst);
        // Gone without an answer.
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    let (code, _) = client.ask("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!(code, 503);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[test]
fn a_request_that_is_slow_to_come_is_no_reason_to_ask_somebody_else() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            count.fetch_add(1, Ordering::SeqCst);
            let body = String::from_utf8(peer.read_body_of(&head)).unwrap();
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        }
    });
    let world = World::new();
    let servers: Vec<_> = (0..2).map(|_| world.serving("echo", program.port, Protocol::Http1)).collect();
    let caller = world.calling(&[("echo", Protocol::Http1, &[&servers[0], &servers[1]])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("PUT / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbo");
    // Longer than another one would be asked after, if it were the first that says nothing.
    let (_caller, pauses) = mpsc::channel::<()>();
    let _ = pauses.recv_timeout(Duration::from_millis(1500));
    client.send("dy");
    let head = client.read_head().unwrap();
    assert_eq!((status(&head), client.read_body_of(&head)), (200, b"body".to_vec()));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[test]
fn access_is_decided_where_the_program_is_by_who_calls_and_what() {
    let (world, program) = (World::new(), Program::echo());
    let (mut server, caller) = pair(&world, &program);
    server.apply(vec![mesh(DefaultAccess::Deny), allow_open("echo", "caller")]);
    let mut client = Peer::connect(caller.outbound("echo"));
    // The core takes the news between two events: at the latest for the next connection's request.
    while client.ask(&get("/closed")).0 == 200 {}
    assert_eq!(client.ask(&get("/open/x")).0, 200);
    client.send(get("/closed"));
    let (head, body) = client.response();
    assert_eq!(status(&head), 403);
    assert!(header(&head, "x-byrnie-decision").is_some());
    assert_eq!(header(&head, "content-type"), Some("application/problem+json"));
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("access_denied") && body.contains("\"where\":\"the callee's proxy\""), "{body}");
    assert_eq!(client.ask("POST /open/x HTTP/1.1\r\nhost: echo\r\ncontent-length: 2\r\n\r\nhi").0, 403);
    assert_eq!(client.ask(&get("/open/../closed")).0, 403);
}

#[test]
fn the_edge_knows_services_by_host_and_nothing_else() {
    let (world, program) = (World::new(), Program::echo());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let endpoint = crate::world::endpoint_of("echo", 0, server.inbound());
    let edge = world.edge(vec![crate::world::allow_all(), service_of("echo", 1, Protocol::Http1), endpoint]);
    let mut client = Peer::connect(edge.ports.edge.unwrap());
    let ask = |host: &str| format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
    assert_eq!(client.ask(&ask("echo.default.mesh.localhost:7780")).0, 200);
    assert_eq!(client.ask(&ask("echo.mesh.localhost")).0, 200);
    assert_eq!(client.ask(&ask("nobody.mesh.localhost")).0, 404);
    assert_eq!(client.ask(&ask("example.com")).0, 404);
}

#[test]
fn a_caller_never_reaches_an_impostor() {
    let (world, other, program) = (World::new(), World::new(), Program::echo());
    // Same names, another authority.
    let impostor = other.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&impostor])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    let (code, problem) = client.ask(&get("/"));
    assert!(code == 502 || code == 503, "{code} {problem}");
    assert_eq!(program.accepted.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_no_request_is_refused_with_its_reason() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = pair(&world, &program);
    for (bytes, expected) in [
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nhost: a\n\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
        ("hello there\r\n\r\n", 400),
    ] {
        let mut client = Peer::connect(caller.outbound("echo"));
        client.send(bytes);
        let (head, body) = client.response();
        assert_eq!(status(&head), expected, "{bytes:?}");
        assert_eq!(header(&head, "connection"), Some("close"));
        assert_eq!(header(&head, "x-byrnie-decision").map(str::len), Some(13));
        assert!(String::from_utf8(body).unwrap().contains("\"reason\""));
        assert!(client.read_to_end().is_empty());
    }
    assert_eq!(program.accepted.load(Ordering::SeqCst), 0);
}

#[test]
fn a_hostile_server_poisons_no_other_answer() {
    let answers = [
        // Bytes after the body: a second answer that nobody asked for.
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        "HTTP/1.1 204 No Content\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nevil",
        "no answer at all\r\n\r\n",
    ];
    let turn = Arc::new(AtomicUsize::new(0));
    let program = Program::start(move |mut peer| {
        while peer.read_head().is_some() {
            peer.send(answers[turn.fetch_add(1, Ordering::SeqCst) % answers.len()]);
        }
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    for n in 0..60 {
        let mut client = Peer::connect(caller.outbound("echo"));
        client.send("POST / HTTP/1.1\r\nhost: echo\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        let all = String::from_utf8_lossy(&client.read_to_end()).into_owned();
        let code = status(&all);
        assert!(matches!(code, 200 | 204 | 502 | 503), "{n}: {all}");
        assert!(!all.contains("evil"), "{n}: {all}");
        // Of status lines: what is wrong with an answer may be told by the version's name.
        let lines = all.split("HTTP/1.1 ").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        assert_eq!(lines.count(), 1, "{n}: {all}");
    }
}

#[test]
fn an_answer_cut_short_is_cut_short_for_the_caller_too() {
    let program = Program::start(|mut peer| {
        peer.read_head().unwrap();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this");
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("POST / HTTP/1.1\r\nhost: echo\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let all = String::from_utf8(client.read_to_end()).unwrap();
    // If the break was known before the head had left, the mesh can still say so.
    let cut = all.contains("content-length: 100") && "only this".ends_with(all.rsplit("\r\n\r\n").next().unwrap());
    assert!(cut || status(&all) == 503, "{all}");
}

#[test]
fn a_client_that_leaves_is_noticed_by_the_program() {
    let (gone, noticed) = mpsc::channel();
    let gone = std::sync::Mutex::new(gone);
    let program = Program::start(move |mut peer| {
        peer.read_head().unwrap();
        gone.lock().unwrap().send("asked").unwrap();
        // Ends when the proxies have passed the news on.
        peer.read_to_end();
        gone.lock().unwrap().send("gone").unwrap();
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send(get("/slow"));
    assert_eq!(noticed.recv_timeout(Duration::from_secs(10)), Ok("asked"));
    drop(client);
    assert_eq!(noticed.recv_timeout(Duration::from_secs(10)), Ok("gone"));
}

#[test]
fn a_drain_lets_what_runs_end_and_takes_nothing_new() {
    let (asked, asking) = mpsc::channel();
    let (go, going) = mpsc::channel::<()>();
    let both = std::sync::Mutex::new((asked, going));
    let program = Program::start(move |mut peer| {
        peer.read_head().unwrap();
        let both = both.lock().unwrap();
        both.0.send(()).unwrap();
        both.1.recv().unwrap();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
        peer.read_to_end();
    });
    let world = World::new();
    let (_server, mut caller) = pair(&world, &program);
    let address = caller.outbound("echo");
    let mut idle = Peer::connect(address);
    let mut client = Peer::connect(address);
    client.send(get("/"));
    asking.recv_timeout(Duration::from_secs(10)).unwrap();
    let draining = std::thread::spawn(move || caller.drain(Duration::from_secs(15)));
    // The idle connection is closed at once: that is the sign that the drain has begun.
    assert!(idle.read_to_end().is_empty());
    go.send(()).unwrap();
    let (head, body) = client.response();
    assert_eq!((status(&head), &body[..]), (200, &b"done"[..]));
    assert_eq!(header(&head, "connection"), Some("close"));
    assert!(client.read_to_end().is_empty());
    assert!(draining.join().unwrap());
    assert!(std::net::TcpStream::connect(address).is_err());
    assert_eq!(runtime::panics(), 0);
}

#[test]
fn a_fault_on_purpose_strikes_callers_and_never_the_program_until_its_policy_changes() {
    let world = World::new();
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&heard);
    let program = Program::start(move |mut peer: Peer| {
        while peer.read_head().is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let server = world.serving("echo", program.port, Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let fault = Fault {
        percent: 100,
        delay: None,
        abort: None,
        reset: false,
        slow_body: None,
        method: None,
        path_prefix: None,
        header: Some(("x-struck".into(), "yes".into())),
        until: Timestamp::from_millis(u64::MAX / 2),
    };
    let mut suffer = |fault: Option<Fault>| {
        let policy = TrafficPolicy { targets: vec![world::service("echo")], fault, ..Default::default() };
        caller.apply(vec![world::resource(Kind::TrafficPolicy, "fault", Spec::Traffic(Arc::new(policy)))]);
        caller.outbound("echo")
    };
    let struck = "GET / HTTP/1.1\r\nhost: echo\r\nx-struck: yes\r\n\r\n";

    let mut client = Peer::connect(suffer(Some(Fault { abort: Some(418), ..fault.clone() })));
    let before = heard.load(Ordering::SeqCst);
    assert_eq!(client.ask(struck).0, 418);
    assert_eq!(heard.load(Ordering::SeqCst), before, "the program heard of it");
    assert_eq!(client.ask(&get("/")).0, 200, "one that doesn't fit");

    let address = suffer(Some(Fault { reset: true, ..fault.clone() }));
    let cut = || {
        let mut client = Peer::connect(address);
        client.send(struck);
        client.read_head().is_none()
    };
    let before = heard.load(Ordering::SeqCst);
    assert!(cut(), "a cut connection brings no answer");
    assert_eq!(heard.load(Ordering::SeqCst), before, "the program heard of it");

    let span = Duration::from_millis(300);
    let address = suffer(Some(Fault { delay: Some(span), ..fault.clone() }));
    let mut client = Peer::connect(address);
    let mut took = || {
        let began = byrnie_net::runtime::now().mono;
        assert_eq!(client.ask(struck).0, 200);
        byrnie_net::runtime::now().mono.since(began)
    };
    assert!(took() >= span);

    let address = suffer(Some(Fault { slow_body: Some(span), ..fault }));
    let body_took = || {
        let mut client = Peer::connect(address);
        client.send(struck);
        let head = client.read_head().unwrap();
        let began = byrnie_net::runtime::now().mono;
        assert_eq!((status(&head), client.read_body_of(&head)), (200, b"ok".to_vec()));
        byrnie_net::runtime::now().mono.since(began)
    };
    // From its head on, but a reader may look at the clock late; from the request on it can't be too early.
    while body_took() < span / 2 {}
    let began = byrnie_net::runtime::now().mono;
    body_took();
    assert!(byrnie_net::runtime::now().mono.since(began) >= span);

    let address = suffer(None);
    let quick = || {
        let began = byrnie_net::runtime::now().mono;
        assert_eq!(Peer::connect(address).ask(struck).0, 200);
        byrnie_net::runtime::now().mono.since(began) < span
    };
    while !quick() {}
}

/// What a client hears of a service whose policy lets nothing rest for longer than a moment.
fn restless(world: &World, protocol: Protocol, program: &Program, asks: &str) -> Vec<u8> {
    let server = world.serving("echo", program.port, protocol);
    let mut caller = world.calling(&[("echo", protocol, &[&server])]);
    let limits = Some(Limits { idle_max: Some(Duration::from_millis(300)), ..Limits::default() });
    let policy = TrafficPolicy { targets: vec![world::service("echo")], limits, ..Default::default() };
    caller.apply(vec![world::resource(Kind::TrafficPolicy, "idle", Spec::Traffic(Arc::new(policy)))]);
    // A core takes the news between two events; without it the client would wait for its program in vain.
    loop {
        let mut client = Peer::connect(caller.outbound("echo"));
        client.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        client.send(asks);
        let mut heard = Vec::new();
        if std::io::Read::read_to_end(&mut client.stream, &mut heard).is_ok() {
            return heard;
        }
    }
}

#[test]
fn a_call_or_connection_that_rests_for_too_long_is_ended() {
    let world = World::new();
    let half = Program::start(|mut peer: Peer| {
        while peer.read_head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf");
        }
    });
    let heard = restless(&world, Protocol::Http1, &half, "GET / HTTP/1.1\r\nhost: echo\r\n\r\n");
    assert!(heard.starts_with(b"HTTP/1.1 200 ") && heard.ends_with(b"half"), "{heard:?}");
    let switched = Program::start(|mut peer: Peer| {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello";
        while peer.read_head().is_some() {
            peer.send(answer);
        }
    });
    let asks = "GET / HTTP/1.1\r\nhost: echo\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let heard = restless(&world, Protocol::Http1, &switched, asks);
    assert!(heard.starts_with(b"HTTP/1.1 101 ") && heard.ends_with(b"hello"), "{heard:?}");
    let opaque = Program::start(|mut peer: Peer| {
        peer.send("hello");
        peer.read_to_end();
    });
    assert_eq!(restless(&world, Protocol::Tcp, &opaque, "x"), b"hello");
}
