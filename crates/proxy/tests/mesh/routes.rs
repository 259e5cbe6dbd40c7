// SPDX-License-Identifier: Apache-2.0
//! What routes ask of a proxy beside choosing a backend.

use crate::world::{PATIENCE, Peer, Program, World, endpoint_of, get, header, mesh, route_of, service_of, status};
use byrnie_model::Protocol;
use byrnie_model::resource::DefaultAccess;
use byrnie_model::route::{
    Backend, Carrier, Cors, Destination, Direct, DirectResponse, Match, Mirror, PathMatch, RouteFilter, Rule, Session,
};
use byrnie_net::runtime;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

fn to(name: &str) -> Destination {
    Destination::new(crate::world::service(name), 80)
}

pub(crate) fn rule(filters: Vec<RouteFilter>, backends: &[&str]) -> Rule {
    Rule {
        name: "".into(),
        matches: vec![byrnie_model::route::Match::default()],
        filters,
        backends: backends.iter().map(|name| Backend { to: to(name), weight: 1, filters: vec![] }).collect(),
        timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    }
}

/// A program that tells of each request that it gets, and never answers.
fn silent() -> (Program, mpsc::Receiver<(String, Vec<u8>)>) {
    let (seen, got) = mpsc::channel();
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            let body = peer.read_body_of(&head);
            let _ = seen.send((head, body));
        }
    });
    (program, got)
}

#[test]
fn copies_arrive_whole_and_never_hold_up_the_request() {
    let (world, program) = (World::new(), Program::echo());
    let (shadow, got) = silent();
    let server = world.serving("echo", program.port, Protocol::Http1);
    let copied = world.serving("shadow", shadow.port, Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let mirror = || RouteFilter::Mirror(Mirror { to: to("shadow"), share: 1, of: 1 });
    caller.apply(vec![
        service_of("shadow", 1, Protocol::Http1),
        endpoint_of("shadow", 0, copied.inbound()),
        route_of("echo", vec![rule(vec![mirror(), mirror()], &["echo"])]),
    ]);
    let mut client = Peer::connect(caller.outbound("echo"));
    let post =
        "POST /pay?x=1 HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    // The first request may come before the route is in force, or its copies late.
    let deadline = runtime::now().mono + PATIENCE;
    let mut heads: Vec<(String, Vec<u8>)> = loop {
        assert_eq!(client.ask(post), (200, "POST /pay?x=1 HTTP/1.1\nabcde".into()));
        if let Ok(first) = got.recv_timeout(Duration::from_millis(200)) {
            break vec![first];
        }
        assert!(runtime::now().mono < deadline, "none is copied");
    };
    // The copies are never answered, and a body of this size is none that is copied.
    let large = vec![b'x'; 1 << 20];
    client.send(format!("POST /large HTTP/1.1\r\nhost: echo\r\ncontent-length: {}\r\n\r\n", large.len()));
    client.send(&large);
    assert_eq!(status(&client.response().0), 200);
    assert_eq!(client.ask(&get("/after")).0, 200);
    let is_after = |(head, _): &(String, Vec<u8>)| head.starts_with("GET /after ");
    while !heads.iter().any(is_after) || heads.iter().filter(|copy| !is_after(copy)).count() < 2 {
        heads.push(got.recv_timeout(PATIENCE).unwrap());
    }
    for (head, body) in heads.into_iter().filter(|copy| !is_after(copy)) {
        assert!(head.starts_with("POST /pay?x=1 HTTP/1.1\r\n"), "{head}");
        assert_eq!(body, b"abcde");
    }
    // Copies that nobody answers pile up to a bound; what is beyond it is dropped, and counted.
    let dropped = |metrics: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix("byrnie_copies_dropped_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let mut admin = Peer::connect(caller.ports.admin);
    assert_eq!(dropped(&admin.ask(&get("/metrics")).1), 0);
    for n in 0..130 {
        assert_eq!(client.ask(&get("/many")).0, 200, "request {n}");
    }
    assert!(dropped(&admin.ask(&get("/metrics")).1) > 0);
}

#[test]
fn a_cookie_brings_a_caller_back_to_its_instance() {
    let world = World::new();
    let programs: Vec<Program> = (0..3)
        .map(|n| {
            Program::start(move |mut peer| {
                while peer.read_head().is_some() {
                    peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{n}"));
                }
            })
        })
        .collect();
    let servers: Vec<_> = programs.iter().map(|p| world.serving("echo", p.port, Protocol::Http1)).collect();
    let mut caller = world.calling(&[("echo", Protocol::Http1, &servers.iter().collect::<Vec<_>>())]);
    let session = Session { name: "stick".into(), carrier: Carrier::Cookie, absolute: None, idle: None };
    caller.apply(vec![route_of("echo", vec![Rule { session: Some(session), ..rule(vec![], &["echo"]) }])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    let (cookie, first) = loop {
        client.send(get("/"));
        let (head, body) = client.response();
        if let Some(cookie) = header(&head, "set-cookie") {
            break (cookie.split(';').next().unwrap().to_owned(), body);
        }
    };
    for _ in 0..12 {
        client.send(format!("GET / HTTP/1.1\r\nhost: echo\r\ncookie: {cookie}\r\n\r\n"));
        let (head, body) = client.response();
        assert_eq!((body, header(&head, "set-cookie")), (first.clone(), None));
    }
}

#[test]
fn a_kept_connection_obeys_a_changed_route_and_a_changed_policy() {
    let (world, program) = (World::new(), Program::echo());
    let mut server = world.serving("echo", program.port, Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    let mut obeys = |status: u16| (0..8).for_each(|_| assert_eq!(client.ask(&get("/a")).0, status));
    obeys(200);
    let below = |path: &str| {
        let matched = Match { path: PathMatch::Prefix(path.into()), ..Match::default() };
        route_of("echo", vec![Rule { matches: vec![matched], ..rule(vec![], &["echo"]) }])
    };
    caller.apply(vec![below("/b")]);
    obeys(404);
    caller.apply(vec![below("/")]);
    obeys(200);
    server.apply(vec![mesh(DefaultAccess::Deny)]);
    obeys(403);
    server.apply(vec![mesh(DefaultAccess::Allow)]);
    obeys(200);
}

/// The system would keep what it holds of an answer for minutes, and tell nobody.
#[test]
fn what_a_client_leaves_lying_is_forgotten_with_its_connection() {
    let world = World::new();
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let pieces = if head.starts_with("GET /large") { 1024 } else { 0 };
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", pieces * 64 * 1024));
            if (0..pieces).any(|_| peer.stream.write_all(&[b'x'; 64 * 1024]).is_err()) {
                return;
            }
        }
    });
    let server = world.serving("echo", program.port, Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let session = Session { name: "stick".into(), carrier: Carrier::Cookie, absolute: None, idle: None };
    let limited = Rule { timeout: Some(Duration::from_secs(1)), session: Some(session), ..rule(vec![], &["echo"]) };
    caller.apply(vec![route_of("echo", vec![limited])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    loop {
        client.send(get("/"));
        if header(&client.response().0, "set-cookie").is_some() {
            break;
        }
    }
    drop(client);
    let mut lazy = Peer::connect(caller.outbound("echo"));
    // Who has taken an answer gets the next one without more ado, so that it fills what lies between within its second.
    lazy.send(get("/"));
    assert_eq!(status(&lazy.response().0), 200);
    lazy.send(get("/large"));
    assert_eq!(status(&lazy.read_head().unwrap()), 200);
    let mut admin = Peer::connect(caller.ports.admin);
    let deadline = runtime::now().mono + PATIENCE;
    while !admin.ask("GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n").1.contains("byrnie_connections{core=\"0\"} 0\n") {
        assert!(runtime::now().mono < deadline);
    }
    let mut chunk = vec![0; 64 * 1024];
    let end = loop {
        match lazy.stream.read(&mut chunk) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn what_a_route_answers_by_itself_never_reaches_the_program() {
    let (world, program) = (World::new(), Program::echo());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let says = DirectResponse { status: 410, content_type: Some("text/plain".into()), body: "gone".into() };
    let direct = RouteFilter::Direct(Direct { filter: "gone".into(), response: Some(says.into()) });
    let matched = Match { path: PathMatch::Prefix("/old".into()), ..Match::default() };
    let answered = Rule { matches: vec![matched], ..rule(vec![direct], &[]) };
    caller.apply(vec![route_of("echo", vec![answered, rule(vec![], &["echo"])])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    let first = loop {
        client.send(get("/old"));
        let (head, body) = client.response();
        if status(&head) == 410 {
            break (head, body);
        }
    };
    assert_eq!(first.1, b"gone");
    assert_eq!((header(&first.0, "content-type"), header(&first.0, "content-length")), (Some("text/plain"), Some("4")));
    assert!(header(&first.0, "x-byrnie-decision").is_some());
    // A body that nobody asked for is passed over, and the connection goes on, in step.
    let post = "POST /old/x HTTP/1.1\r\nhost: echo\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(client.ask(post), (410, "gone".into()));
    client.send("HEAD /old HTTP/1.1\r\nhost: echo\r\n\r\n");
    let head = client.read_head().unwrap();
    assert_eq!((status(&head), header(&head, "content-length")), (410, Some("4")));
    assert_eq!(client.ask(&get("/next")), (200, "GET /next HTTP/1.1\n".into()));
    let metrics = Peer::connect(caller.ports.admin).ask(&get("/metrics")).1;
    let told = |line: &&str| line.starts_with("byrnie_requests_total") && line.contains("reason=\"direct_response\"");
    assert!(metrics.lines().any(|line| told(&line)), "{metrics}");
}

#[test]
fn a_preflight_never_reaches_the_program() {
    let (world, program) = (World::new(), Program::echo());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let cors = Cors { origins: vec!["https://*.shop.test".into()], methods: vec!["*".into()], ..Cors::default() };
    caller.apply(vec![route_of("echo", vec![rule(vec![RouteFilter::Cors(cors)], &["echo"])])]);
    let mut client = Peer::connect(caller.outbound("echo"));
    let ask = "OPTIONS / HTTP/1.1\r\nhost: echo\r\norigin: https://www.shop.test\r\naccess-control-request-method: PUT\r\n\r\n";
    let head = loop {
        client.send(ask);
        let (head, _) = client.response();
        if status(&head) == 204 {
            break head;
        }
    };
    assert_eq!(header(&head, "access-control-allow-origin"), Some("https://www.shop.test"));
    assert_eq!(header(&head, "access-control-allow-methods"), Some("PUT"));
    assert_eq!(header(&head, "content-length"), None);
    // The connection goes on, in step.
    assert_eq!(client.ask(&get("/next")), (200, "GET /next HTTP/1.1\n".into()));
}
