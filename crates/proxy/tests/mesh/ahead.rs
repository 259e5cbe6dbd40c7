// SPDX-License-Identifier: Apache-2.0
//! Connections ahead of requests: whoever joins, and whatever is renewed, no request waits for a handshake.

use crate::control::{self, Plane};
use crate::world::{self, Peer, Program, Proxy, World, endpoint_of, get, resource, until};
use byrnie_model::{Kind, Protocol, Site, Spec};
use byrnie_net::runtime;
use byrnie_net::tls::ca::Authority;
use byrnie_proxy::start;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Stands before a proxy, and counts who connects. A connection gets through once the gate is open.
struct Counted {
    relay: Program,
    /// How many more get through.
    gate: Arc<(Mutex<usize>, Condvar)>,
}

impl Counted {
    fn before(to: SocketAddr) -> Self {
        Self::letting(usize::MAX, to)
    }

    /// The gate shuts by itself after so many.
    fn letting(first: usize, to: SocketAddr) -> Self {
        let gate = Arc::new((Mutex::new(first), Condvar::new()));
        let held = Arc::clone(&gate);
        let relay = Program::start(move |peer| {
            let mut room = held.1.wait_while(held.0.lock().unwrap(), |room| *room == 0).unwrap();
            *room -= 1;
            drop(room);
            let Ok(far) = TcpStream::connect(to) else { return };
            let (mut near, mut back) = (peer.stream.try_clone().unwrap(), far.try_clone().unwrap());
            near.set_read_timeout(None).unwrap();
            let there = std::thread::spawn(move || {
                // One that is gone ends both.
                let _ = io::copy(&mut near, &mut back);
                let _ = back.shutdown(Shutdown::Write);
            });
            let (mut far, mut near) = (far, peer.stream);
            let _ = io::copy(&mut far, &mut near);
            let _ = near.shutdown(Shutdown::Write);
            there.join().unwrap();
        });
        Self { relay, gate }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.relay.port))
    }

    fn connections(&self) -> usize {
        self.relay.accepted.load(Ordering::SeqCst)
    }

    fn set_open(&self, open: bool) {
        *self.gate.0.lock().unwrap() = if open { usize::MAX } else { 0 };
        self.gate.1.notify_all();
    }
}

/// A program that answers with its name.
fn named(name: &'static str) -> Program {
    Program::start(move |mut peer| {
        while peer.read_head().is_some() {
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()));
        }
    })
}

fn ask(caller: &Proxy) -> String {
    let (status, body) = Peer::connect(caller.outbound("echo")).ask(&get("/"));
    assert_eq!(status, 200, "{body}");
    body
}

#[test]
fn an_endpoint_that_joins_is_asked_by_no_request_before_there_is_a_connection() {
    let (world, old, new) = (World::new(), named("old"), named("new"));
    let first = world.serving("echo", old.port, Protocol::Undeclared);
    let joiner = world.serving("echo", new.port, Protocol::Undeclared);
    let counted = Counted::before(joiner.inbound());
    let mut caller = world.calling(&[("echo", Protocol::Undeclared, &[&first])]);
    assert_eq!(ask(&caller), "old");
    counted.set_open(false);
    caller.apply(vec![endpoint_of("echo", 1, counted.address())]);
    until("a connection opened ahead", || counted.connections() == 1);
    // The handshake hangs, and no request does.
    for _ in 0..10 {
        assert_eq!(ask(&caller), "old");
    }
    counted.set_open(true);
    until("the new one asked", || ask(&caller) == "new");
    for _ in 0..20 {
        ask(&caller);
    }
    assert_eq!(counted.connections(), 1, "a request opened one of its own");
}

#[test]
fn before_a_peers_certificate_ends_there_is_another_connection_and_no_request_waits_for_it() {
    let program = named("it");
    // It's replaced half a minute before the end: that is three seconds from now, or at once on a machine that is slow.
    let mut world = World::new();
    world.lifetime = Duration::from_secs(33);
    let server = world.serving("echo", program.port, Protocol::Undeclared);
    world.lifetime = world::HOUR;
    let counted = Counted::letting(1, server.inbound());
    let caller = world.calling_at("echo", Protocol::Undeclared, counted.address());
    assert_eq!(ask(&caller), "it");
    until("a connection opened before the end", || {
        assert_eq!(ask(&caller), "it");
        counted.connections() == 2
    });
    // Its handshake hangs, and no request does.
    (0..10).for_each(|_| assert_eq!(ask(&caller), "it"));
    counted.set_open(true);
    (0..20).for_each(|_| assert_eq!(ask(&caller), "it"));
    assert_eq!(counted.connections(), 2, "a request opened one of its own");
}

#[test]
fn no_request_waits_while_the_credentials_are_renewed() {
    let program = named("it");
    let plane = Plane::new(vec![
        world::allow_all(),
        world::workload_of("web", program.port, Protocol::Http1),
        world::service_of("web", program.port, Protocol::Http1),
    ]);
    let (address, _trigger, _core) = plane.serve();
    let mut running = start(control::config(&plane, address, program.port, control::TOKEN)).unwrap();
    let ports = control::ready(&mut running).unwrap();
    let counted = Counted::before(ports.inbound.unwrap());
    plane.put(endpoint_of("web", 0, counted.address()));
    let outbound = ports.outbound[0].address;
    control::until(outbound, 200);
    assert_eq!(counted.connections(), 1);
    counted.set_open(false);
    // Whom the proxy believes has changed: all connections are to be made anew.
    let authority = Authority::create("east.test", runtime::now().wall).unwrap();
    let site = Site {
        trust_domain: "east.test".into(),
        authorities: authority.roots_pem().into(),
        gateways: Vec::new(),
        services: Vec::new(),
    };
    plane.put(resource(Kind::Site, "east", Spec::Site(Arc::new(site))));
    let ask = || assert_eq!(Peer::connect(outbound).ask(&get("/")), (200, "it".to_owned()));
    until("a connection under the new credentials", || {
        ask();
        counted.connections() == 2
    });
    // The new handshake hangs, and no request does.
    (0..10).for_each(|_| ask());
    counted.set_open(true);
    (0..20).for_each(|_| ask());
    assert_eq!(counted.connections(), 2, "a request opened one of its own");
    assert!(runtime::block_on(running.drain(Duration::from_secs(5))).unwrap());
}
