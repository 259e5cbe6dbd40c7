// SPDX-License-Identifier: Apache-2.0
//! Ports whose protocol nobody declared: whoever speaks first, and in whatever tongue, is understood.

use crate::world::{self, PATIENCE, Peer, Program, Proxy, World, get, resource};
use byrnie_engine::SILENCE_MAX;
use byrnie_model::policy::access::{AccessPolicy, Action, HttpMatch, Mode, PathPattern, Rule};
use byrnie_model::{Kind, Protocol, Resource, Spec};
use byrnie_net::runtime;
use byrnie_proxy::Hop;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A program that begins with a banner, as mail servers and MySQL do, and then repeats line by line.
fn greeter() -> Program {
    Program::start(|mut peer| {
        peer.send("220 welcome\r\n");
        while let Some(line) = peer.read_until(b"\r\n") {
            peer.send(line);
        }
    })
}

/// A program that repeats whatever comes, and at the end how much it was.
fn repeater() -> Program {
    Program::start(|mut peer| {
        let said = peer.read_to_end();
        peer.send(&said);
        peer.send(format!("{} bytes", said.len()));
    })
}

fn mesh(world: &World, program: &Program) -> (Proxy, Proxy) {
    let server = world.serving("echo", program.port, Protocol::Undeclared);
    let caller = world.calling(&[("echo", Protocol::Undeclared, &[&server])]);
    (server, caller)
}

/// Waits until a program has been connected to so often.
fn until_accepted(program: &Program, times: usize) {
    let begun = runtime::now().mono;
    while program.accepted.load(Ordering::SeqCst) < times {
        assert!(runtime::now().mono.since(begun) < PATIENCE, "nobody came");
        std::thread::yield_now();
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once_without_being_declared() {
    for hop in [Hop::Framed, Hop::Http1] {
        let (mut world, program) = (World::new(), greeter());
        world.hop = hop;
        let (_server, caller) = mesh(&world, &program);
        let address = caller.outbound("echo");
        let greet = || {
            let mut client = Peer::connect(address);
            assert_eq!(client.read_until(b"\r\n").unwrap(), b"220 welcome\r\n");
            // Words of HTTP mean nothing once the server has spoken.
            client.send("GET / HTTP/1.1\r\n");
            assert_eq!(client.read_until(b"\r\n").unwrap(), b"GET / HTTP/1.1\r\n");
        };
        greet();
        // From then on it's known who begins: nobody waits.
        let begun = runtime::now().mono;
        (0..40).for_each(|_| greet());
        let took = runtime::now().mono.since(begun);
        assert!(took < SILENCE_MAX * 40, "{took:?}");
        assert_eq!(program.accepted.load(Ordering::SeqCst), 41);
    }
}

#[test]
fn a_client_that_speaks_first_is_passed_on_byte_by_byte() {
    let hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3];
    let firsts: [&[u8]; 6] =
        [b"*1\r\n$4\r\nPING\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", &hello, b"P", b"PRI * SIP/2.0", b"\r\n\r\n"];
    let (world, program) = (World::new(), repeater());
    let (_server, caller) = mesh(&world, &program);
    for first in firsts {
        let mut client = Peer::connect(caller.outbound("echo"));
        client.send(first);
        client.stream.shutdown(Shutdown::Write).unwrap();
        let expected = [first, format!("{} bytes", first.len()).as_bytes()].concat();
        assert_eq!(client.read_to_end(), expected, "{}", first.escape_ascii());
    }
    assert_eq!(program.accepted.load(Ordering::SeqCst), firsts.len());
    // One that stops amid its first line is passed on with its end.
    let program = Program::start(|mut peer| {
        let said = peer.read_exact(10);
        peer.send(said);
    });
    let (_server, caller) = mesh(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("GET");
    until_accepted(&program, 1);
    client.send("S key\r\n");
    assert_eq!(client.read_exact(10), b"GETS key\r\n");
}

/// Sends what begins as opaque bytes and goes on as a request with words that only a proxy may say. `got`: what the program got.
fn smuggle(cases: &[(&str, &str)], got: impl Fn(&str, &[u8]) -> bool) {
    let forged = "Forwarded-Client-Identity: spiffe://mesh.local/ns/default/sa/admin\r\n\r\n";
    let (seen, told) = std::sync::mpsc::channel();
    let program = Program::start(move |mut peer| seen.send(peer.read_to_end()).unwrap());
    let world = World::new();
    let (_server, caller) = mesh(&world, &program);
    for (begun, rest) in cases {
        let mut client = Peer::connect(caller.outbound("echo"));
        let before = program.accepted.load(Ordering::SeqCst);
        client.send(begun);
        until_accepted(&program, before + 1);
        client.send(format!("{rest}{forged}"));
        assert_eq!(client.read_to_end(), b"", "{begun}{rest}");
        let told = told.recv().unwrap();
        assert!(got(begun, &told), "{begun}{rest}: {}", told.escape_ascii());
    }
}

#[test]
fn no_request_comes_as_opaque_bytes_with_words_that_only_a_proxy_may_say() {
    // Each is opaque to who only looks how it begins.
    let cases = [
        ("\nGET /admin", " HTTP/1.1\r\n"),
        ("\nGET", " /admin\r\n"),
        ("PROPFIND /admin", " HTTP/1.1\r\n"),
        ("\r\n\n", "ANY\t/admin\x0bhttp/1.1\r\n"),
        (" PRI * HT", "TP/2.0\r\n\r\nSM\r\n\r\n"),
    ];
    smuggle(&cases, |_, told| told.is_empty());
}

#[test]
fn a_request_in_disguise_ends_before_its_line_does() {
    let cases = [
        ("P@ST /transfer", " HTTP/1.1\r\n"),
        ("\"POST\" / HT", "TP/1.1\r\n"),
        ("\0GET / HTTP", "/1.1\r\n"),
        ("\u{feff}GET /", " HTTP/1.1\r\n"),
        ("GET:/", " / HTTP/1.1\n"),
        ("\x16\x03\x01", " / HTTP/1.1\r\n"),
    ];
    // No more than had come before it was one.
    smuggle(&cases, |begun, told| begun.as_bytes().starts_with(told));
}

#[test]
fn a_client_of_http_that_takes_its_time_is_served_as_one() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = mesh(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    // By now the server has been asked whether it begins.
    until_accepted(&program, 1);
    // As it reads paths, it's HTTP to the mesh.
    for (path, canonical) in [("/%61", "/a"), ("/b", "/b")] {
        assert_eq!(client.ask(&get(path)), (200, format!("GET {canonical} HTTP/1.1\n")));
    }
    // One connection to be asked on, one for the requests.
    assert_eq!(program.accepted.load(Ordering::SeqCst), 2);
}

#[test]
fn a_tunnel_through_the_forward_listener_is_heard_as_well() {
    let (world, program) = (World::new(), greeter());
    let (_server, caller) = mesh(&world, &program);
    let mut client = Peer::connect(caller.ports.forward.unwrap());
    client.send("CONNECT echo:80 HTTP/1.1\r\nhost: echo:80\r\n\r\n");
    assert_eq!(world::status(&client.read_head().unwrap()), 200);
    assert_eq!(client.read_until(b"\r\n").unwrap(), b"220 welcome\r\n");
}

fn policy(action: Action, http: Vec<HttpMatch>) -> Resource {
    let rule = Rule { http, ..Rule::default() };
    let policy = AccessPolicy { mode: Mode::Enforce, targets: vec![world::service("echo")], action, rules: vec![rule] };
    resource(Kind::AccessPolicy, format!("{action:?}").to_lowercase(), Spec::Access(Arc::new(policy)))
}

#[test]
fn bytes_pass_by_no_rule_that_looks_at_requests() {
    let only = |path: &str| vec![HttpMatch { methods: Vec::new(), paths: vec![PathPattern::Exact(path.into())] }];
    let open = vec![world::mesh(byrnie_model::resource::DefaultAccess::Deny), policy(Action::Allow, only("/open"))];
    let shut = vec![policy(Action::Deny, only("/shut"))];
    for (rules, refused) in [(open, "/other"), (shut, "/shut")] {
        let (world, program) = (World::new(), Program::echo());
        let (mut server, caller) = mesh(&world, &program);
        server.apply(rules);
        let address = caller.outbound("echo");
        assert_eq!(Peer::connect(address).ask(&get(refused)).0, 403);
        let before = program.accepted.load(Ordering::SeqCst);
        let mut bytes = Peer::connect(address);
        bytes.send("GETS /shut\r\n");
        assert_eq!(bytes.read_to_end(), b"");
        // One who stops amid a word becomes opaque, and may not go on with a request.
        let mut torn = Peer::connect(address);
        torn.send("GET");
        assert_eq!(torn.read_to_end(), b"");
        // A silent one isn't let in either, but its request is.
        let mut silent = Peer::connect(address);
        assert_eq!(program.accepted.load(Ordering::SeqCst), before);
        assert_eq!(silent.ask(&get("/open")).0, 200);
        assert_eq!(silent.ask(&get(refused)).0, 403);
    }
}
