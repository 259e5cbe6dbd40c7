// SPDX-License-Identifier: Apache-2.0
use crate::routes::rule;
use crate::world::{Peer, Program, World, resource, route_of, status};
use byrnie_model::{Kind, Protocol, Route, Spec};
use byrnie_proxy::Hop;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::sync::{Arc, mpsc};
use std::time::Duration;

#[test]
fn a_server_may_speak_first_and_half_close_is_kept() {
    let program = Program::start(|mut peer| {
        peer.send("220 welcome\r\n");
        let said = peer.read_to_end();
        // The client has closed its half: the answer still reaches it.
        peer.send(format!("{} bytes", said.len()));
    });
    let world = World::new();
    let server = world.serving("mail", program.port, Protocol::Tcp);
    let caller = world.calling(&[("mail", Protocol::Tcp, &[&server])]);
    let mut client = Peer::connect(caller.outbound("mail"));
    assert_eq!(client.read_until(b"\r\n").unwrap(), b"220 welcome\r\n");
    client.send(vec![b'x'; 3_000_000]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end(), b"3000000 bytes");
}

/// Closes with unread bytes, so that the system resets the connection.
fn break_off(peer: Peer) {
    assert_eq!(peer.stream.peek(&mut [0]).unwrap(), 1);
}

/// How it ends for whoever has read all that came.
fn end_of(peer: &mut Peer) -> Result<usize, ErrorKind> {
    peer.stream.read(&mut [0]).map_err(|error| error.kind())
}

#[test]
fn what_breaks_off_isnt_taken_for_whole_at_the_other_end() {
    for hop in [Hop::Framed, Hop::Http1] {
        let (seen, told) = mpsc::channel();
        let program = Program::start(move |mut peer| {
            peer.send("220 welcome\r\n");
            match peer.read_exact(5).as_slice() {
                b"break" => {
                    peer.send("a part");
                    // Until there is something that it leaves unread.
                    break_off(peer);
                }
                _ => seen.send(end_of(&mut peer)).unwrap(),
            }
        });
        let mut world = World::new();
        world.hop = hop;
        let server = world.serving("mail", program.port, Protocol::Tcp);
        let caller = world.calling(&[("mail", Protocol::Tcp, &[&server])]);
        let mut client = Peer::connect(caller.outbound("mail"));
        client.send("first");
        break_off(client);
        assert_eq!(told.recv().unwrap(), Err(ErrorKind::ConnectionReset));
        // In order, it's told so.
        client = Peer::connect(caller.outbound("mail"));
        assert_eq!(client.read_until(b"\r\n").unwrap(), b"220 welcome\r\n");
        client.send("first");
        drop(client);
        assert_eq!(told.recv().unwrap(), Ok(0));
        client = Peer::connect(caller.outbound("mail"));
        assert_eq!(client.read_until(b"\r\n").unwrap(), b"220 welcome\r\n");
        client.send("break");
        assert_eq!(client.read_exact(6), b"a part");
        client.send("unread");
        assert_eq!(end_of(&mut client), Err(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_dead_endpoint_of_a_tcp_service_is_passed_over() {
    let program = Program::start(|mut peer| peer.send("hello"));
    let world = World::new();
    let live = world.serving("mail", program.port, Protocol::Tcp);
    let mut dead = world.serving("mail", program.port, Protocol::Tcp);
    let caller = world.calling(&[("mail", Protocol::Tcp, &[&dead, &live])]);
    dead.drain(std::time::Duration::ZERO);
    for _ in 0..20 {
        assert_eq!(Peer::connect(caller.outbound("mail")).read_to_end(), b"hello");
    }
}

/// For so long a hello is waited for.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Nobody has told it yet which host it's for.
#[test]
fn a_connection_whose_hello_is_waited_for_holds_no_drain_up() {
    let program = Program::start(|mut peer| peer.send("hello"));
    let world = World::new();
    let server = world.serving("mail", program.port, Protocol::Tcp);
    let mut caller = world.calling(&[("mail", Protocol::Tcp, &[&server])]);
    assert_eq!(Peer::connect(caller.outbound("mail")).read_to_end(), b"hello");
    let Spec::Route(route) = route_of("mail", vec![rule(Vec::new(), &["mail"])]).spec else { unreachable!() };
    let hosts = Route { hostnames: vec!["a.mail.test".into()], ..Route::clone(&route) };
    caller.apply(vec![resource(Kind::TlsRoute, "mail", Spec::Route(Arc::new(hosts)))]);
    // Once it's in force, what is no hello goes nowhere.
    let mut peer = Peer::connect(caller.outbound("mail"));
    peer.send("no hello");
    assert_eq!(peer.read_to_end(), b"");
    let mut waits = Peer::connect(caller.outbound("mail"));
    waits.send([0x16, 3, 1]);
    assert!(caller.drain(HANDSHAKE_MAX - Duration::from_secs(1)), "it was cut");
    assert!(waits.read_to_end().is_empty());
}

#[test]
fn a_connect_is_granted_once_the_program_is_connected_and_refused_with_a_reason_otherwise() {
    let program = Program::start(|mut peer| peer.send("220 welcome\r\n"));
    let world = World::new();
    let server = world.serving("mail", program.port, Protocol::Tcp);
    // At port 1 nobody listens.
    let absent = world.serving("lost", 1, Protocol::Tcp);
    let caller = world.calling(&[("mail", Protocol::Tcp, &[&server]), ("lost", Protocol::Tcp, &[&absent])]);
    let connect = |name: &str| {
        let mut client = Peer::connect(caller.ports.forward.unwrap());
        client.send(format!("CONNECT {name}:80 HTTP/1.1\r\nhost: {name}:80\r\n\r\n"));
        let head = client.read_head().unwrap();
        (status(&head), String::from_utf8(client.read_to_end()).unwrap())
    };
    assert_eq!(connect("mail"), (200, "220 welcome\r\n".to_owned()));
    let (status, body) = connect("lost");
    assert!(status == 503 && body.contains("\"BYR-R010\""), "{status} {body}");
    // The next is told the same.
    assert_eq!(connect("lost").0, 503);
}
