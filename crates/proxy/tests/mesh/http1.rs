// SPDX-License-Identifier: Apache-2.0
use crate::world::{Peer, Program, Proxy, World, get, header, status};
use byrnie_model::Protocol;
use std::sync::atomic::Ordering;

/// A program behind its sidecar, and a caller's sidecar.
pub(crate) fn pair(world: &World, program: &Program) -> (Proxy, Proxy) {
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    (server, caller)
}

#[test]
fn requests_of_one_connection_share_connections_all_the_way() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    for path in ["/a", "/b?c=d", "/"] {
        assert_eq!(client.ask(&get(path)), (200, format!("GET {path} HTTP/1.1\n")));
    }
    assert_eq!(program.accepted.load(Ordering::SeqCst), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send((0..20).map(|n| get(&format!("/{n}"))).collect::<String>());
    for n in 0..20 {
        assert_eq!(client.response().1, format!("GET /{n} HTTP/1.1\n").into_bytes());
    }
}

#[test]
fn chunked_bodies_pass_both_ways_with_trailers() {
    let program = Program::start(|mut peer| {
        let head = peer.read_head().unwrap();
        assert!(header(&head, "content-length").is_none());
        let body = peer.read_body_of(&head);
        peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        peer.send(format!("{:x}\r\n", body.len()));
        peer.send(&body);
        peer.send("\r\n0\r\nx-sum: 7\r\n\r\n");
        peer.read_to_end();
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.send("4;x=y\r\ndefg\r\n0\r\nx-end: 1\r\n\r\n");
    let (head, body) = client.response();
    assert_eq!(status(&head), 200);
    assert_eq!(String::from_utf8(body).unwrap(), "helloabcdefg|x-end: 1|x-sum: 7");
}

#[test]
fn a_mebibyte_each_way_arrives_whole() {
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let body = peer.read_body_of(&head);
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()));
            peer.send(&body);
        }
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    let body: Vec<u8> = (0..1 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for _ in 0..3 {
        client.send(format!("PUT / HTTP/1.1\r\nhost: echo\r\ncontent-length: {}\r\n\r\n", body.len()));
        client.send(&body);
        let (head, echoed) = client.response();
        assert_eq!(status(&head), 200);
        assert!(echoed == body);
    }
}

#[test]
fn head_and_bodiless_answers_leave_the_connection_in_step() {
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            match head.split(' ').nth(1).unwrap() {
                "/none" => peer.send("HTTP/1.1 204 No Content\r\n\r\n"),
                "/same" => peer.send("HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n"),
                _ => peer.send("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n"),
            }
        }
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    for _ in 0..2 {
        client.send("HEAD /x HTTP/1.1\r\nhost: echo\r\n\r\n");
        let head = client.read_head().unwrap();
        assert_eq!((status(&head), header(&head, "content-length")), (200, Some("12345")));
        client.send(get("/none"));
        assert_eq!(status(&client.read_head().unwrap()), 204);
        client.send(get("/same"));
        assert_eq!(status(&client.read_head().unwrap()), 304);
    }
    assert_eq!(program.accepted.load(Ordering::SeqCst), 1);
}

#[test]
fn the_server_is_asked_before_an_expected_body_is_sent() {
    let program = Program::start(|mut peer| {
        let head = peer.read_head().unwrap();
        assert_eq!(header(&head, "expect"), Some("100-continue"));
        assert!(peer.buffer.is_empty());
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = peer.read_body_of(&head);
        peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()));
        peer.send(&body);
        peer.read_to_end();
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("POST / HTTP/1.1\r\nhost: echo\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    assert_eq!(status(&client.read_head().unwrap()), 100);
    client.send("body");
    let (head, body) = client.response();
    assert_eq!((status(&head), &body[..]), (200, &b"body"[..]));
}

#[test]
fn a_server_is_not_asked_whether_to_send_a_body_that_is_not_there() {
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let body = if header(&head, "expect").is_some() { "asked" } else { "fine!" };
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{body}"));
        }
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    for lines in ["", "content-length: 0\r\n"] {
        let request = format!("POST / HTTP/1.1\r\nhost: echo\r\nexpect: 100-continue\r\n{lines}\r\n");
        assert_eq!(client.ask(&request), (200, "fine!".to_owned()));
    }
}

#[test]
fn an_upgrade_becomes_a_tunnel_only_after_101() {
    let program = Program::start(|mut peer| {
        let head = peer.read_head().unwrap();
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        if head.starts_with("GET /no ") {
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno");
            assert!(peer.read_head().is_none_or(|next| next.starts_with("GET /next ")));
            return;
        }
        peer.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi ");
        let said = peer.read_to_end();
        peer.send(said);
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let ask = |path| format!("GET {path} HTTP/1.1\r\nhost: echo\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let mut refused = Peer::connect(caller.outbound("echo"));
    assert_eq!(refused.ask(&ask("/no")), (200, "no".to_owned()));
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send(ask("/yes"));
    let head = client.read_head().unwrap();
    assert_eq!((status(&head), header(&head, "upgrade")), (101, Some("websocket")));
    client.send("\0frames\r\n");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end(), b"hi \0frames\r\n");
}

#[test]
fn a_switch_to_what_nobody_asked_for_is_no_answer() {
    for (to, expected) in [("chat", 101), ("CHAT", 101), ("other", 502), ("chat, other", 502)] {
        let program = Program::start(move |mut peer| {
            peer.read_head();
            peer.send(format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {to}\r\n\r\n"));
        });
        let world = World::new();
        let (_server, caller) = pair(&world, &program);
        let mut client = Peer::connect(caller.outbound("echo"));
        client.send("GET / HTTP/1.1\r\nhost: echo\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n");
        assert_eq!(status(&client.read_head().unwrap()), expected, "{to}");
    }
}

#[test]
fn old_clients_and_servers_that_close_are_understood() {
    let program = Program::start(|mut peer| {
        peer.read_head().unwrap();
        peer.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("GET / HTTP/1.0\r\nhost: echo\r\n\r\n");
    let all = String::from_utf8(client.read_to_end()).unwrap();
    assert!(all.ends_with("\r\n\r\nuntil the end"), "{all}");
    assert!(all.contains("connection: close"), "{all}");
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send(get("/"));
    let (head, body) = client.response();
    assert_eq!((header(&head, "transfer-encoding"), &body[..]), (Some("chunked"), &b"until the end"[..]));
}

#[test]
fn an_early_answer_is_passed_on_and_both_connections_are_given_up() {
    let program = Program::start(|mut peer| {
        peer.read_head().unwrap();
        peer.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig");
        peer.read_to_end();
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 1000000\r\n\r\nbegin");
    let (head, body) = client.response();
    assert_eq!((status(&head), &body[..]), (413, &b"big"[..]));
    assert_eq!(header(&head, "connection"), Some("close"));
    assert!(client.read_to_end().is_empty());
}

/// A program that closes over what it hasn't read resets the connection, and what it said before lies here unread.
#[test]
fn an_answer_that_a_reset_follows_at_once_is_still_the_answer() {
    const CLIENTS: usize = 4;
    const POSTS: usize = 60;
    let program = Program::start(|mut peer| {
        peer.read_head().unwrap();
        peer.send("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig");
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let (outbound, body) = (caller.outbound("echo"), vec![b'z'; 3_000_000]);
    let post = || {
        let mut client = Peer::connect(outbound);
        client.send(format!("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: {}\r\n\r\n", body.len()));
        client.send(&body);
        let (head, said) = client.response();
        (status(&head), String::from_utf8(said).unwrap())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| (0..POSTS).map(|_| post()).collect::<Vec<_>>())).collect();
        for client in clients {
            assert_eq!(client.join().unwrap(), vec![(413, "big".to_owned()); POSTS]);
        }
    });
    // Each was asked once, and no connection twice.
    assert_eq!(program.accepted.load(Ordering::SeqCst), CLIENTS * POSTS);
}

/// The same of one that says nothing, or not all of it: that is no answer, and nobody waits for the rest.
#[test]
fn a_reset_after_half_a_head_is_no_answer_and_told_at_once() {
    for said in ["", "HTTP/1.1 413 Content Too Large\r\ncontent-le"] {
        let program = Program::start(move |mut peer| {
            peer.read_head().unwrap();
            peer.send(said);
        });
        let world = World::new();
        let (_server, caller) = pair(&world, &program);
        let body = vec![b'z'; 3_000_000];
        for _ in 0..20 {
            let mut client = Peer::connect(caller.outbound("echo"));
            client.send(format!("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: {}\r\n\r\n", body.len()));
            client.send(&body);
            let (head, problem) = client.response();
            let problem = String::from_utf8(problem).unwrap();
            assert!(status(&head) == 503 && problem.contains("upstream_reset"), "{head}{problem}");
        }
        assert_eq!(program.accepted.load(Ordering::SeqCst), 20);
    }
}

#[test]
fn the_forward_listener_takes_absolute_targets_and_connect() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = pair(&world, &program);
    let forward = caller.ports.forward.unwrap();
    let mut client = Peer::connect(forward);
    let ask = |host| format!("GET http://{host}/x HTTP/1.1\r\nhost: {host}\r\n\r\n");
    assert_eq!(client.ask(&ask("echo")).0, 200);
    assert_eq!(client.ask(&ask("echo.default.mesh")).0, 200);
    let (code, problem) = client.ask(&ask("nobody"));
    assert_eq!(code, 404);
    assert!(problem.contains("BYR-"), "{problem}");
    // A port that the service hasn't got is refused, not opened and then lost.
    let mut lost = Peer::connect(forward);
    lost.send("CONNECT echo:81 HTTP/1.1\r\nhost: echo:81\r\n\r\n");
    assert_eq!(status(&lost.response().0), 404);
    // At a door that opens no tunnels, nobody may come to believe that one is open.
    let mut outbound = Peer::connect(caller.outbound("echo"));
    outbound.send("CONNECT echo:80 HTTP/1.1\r\nhost: echo:80\r\n\r\n");
    assert_eq!(status(&outbound.response().0), 501);
    client.send("CONNECT echo:80 HTTP/1.1\r\nhost: echo:80\r\n\r\n");
    assert_eq!(status(&client.read_head().unwrap()), 200);
    assert_eq!(client.ask(&get("/through")), (200, "GET /through HTTP/1.1\n".to_owned()));
}

#[test]
fn a_malformed_body_is_refused_by_the_rule_that_it_breaks_and_counted_under_it() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = pair(&world, &program);
    let cases = [
        ("zz\r\n", "chunk_size"),
        ("3\r\nabcd\r\n0\r\n\r\n", "chunk_end"),
        ("3\nabc\r\n0\r\n\r\n", "line_end"),
        ("0\r\nauthorization: x\r\n\r\n", "trailer_forbidden"),
        ("0\r\nforwarded-client-identity: x\r\n\r\n", "trailer_forbidden"),
    ];
    for (body, reason) in cases {
        let mut client = Peer::connect(caller.outbound("echo"));
        client.send(format!("POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n{body}"));
        let head = client.read_head().unwrap();
        assert_eq!(status(&head), 400, "{body}");
        let said = String::from_utf8(client.read_body_of(&head)).unwrap();
        assert!(said.contains(&format!("\"code\":\"BYR-R008\",\"reason\":\"{reason}\"")), "{said}");
        let id = header(&head, "x-byrnie-decision").unwrap();
        assert!(said.contains(&format!("\"decision\":\"{id}\"")), "{said}");
        assert!(client.read_to_end().is_empty());
    }
    let metrics = caller.metrics();
    for (reason, times) in [("chunk_size", 1), ("chunk_end", 1), ("line_end", 1), ("trailer_forbidden", 2)] {
        assert!(metrics.contains(&format!("byrnie_rejected_total{{reason=\"{reason}\"}} {times}\n")), "{metrics}");
    }
    // Nor is it told as its caller's leaving.
    assert!(metrics.contains("reason=\"bad_request\""), "{metrics}");
    assert!(!metrics.contains("reason=\"downstream_gone\""), "{metrics}");
}
