// SPDX-License-Identifier: Apache-2.0
use crate::world::{Peer, Program, World};
use byrnie_model::Protocol;
use std::net::Shutdown;

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
