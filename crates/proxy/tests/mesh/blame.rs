// SPDX-License-Identifier: Apache-2.0
//! What a caller does is no endpoint's fault: none is left out for it, and the others that call are served.

use crate::http1::pair;
use crate::http2::client;
use crate::websocket::by_http2;
use crate::world::*;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::{Kind, Protocol, Spec};
use byrnie_net::runtime;
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, StatusCode};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// More failures in a row than an endpoint of two may have before it's left out.
const MANY: usize = 16;

/// A handshake is given up after 5 s; where a busy machine takes so long for all else, nothing is shown.
const WAIT: Duration = Duration::from_secs(4);

/// A head is taken up to here.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Two endpoints of one program, of which one may be left out, and their caller.
fn endpoints(world: &World, program: &Program) -> ([Proxy; 2], Proxy) {
    let servers = [0, 1].map(|_| world.serving("echo", program.port, Protocol::Http1));
    let caller = world.calling(&[("echo", Protocol::Http1, &[&servers[0], &servers[1]])]);
    (servers, caller)
}

/// Nobody is left out, and who calls is answered.
fn unharmed(caller: &Proxy) {
    let metrics = caller.metrics();
    let ejections: Vec<&str> = metrics.lines().filter(|line| line.starts_with("byrnie_ejections_total")).collect();
    assert!(!ejections.is_empty() && ejections.iter().all(|line| line.ends_with(" 0")), "{ejections:?}");
    let mut client = Peer::connect(caller.outbound("echo"));
    for _ in 0..4 {
        assert_eq!(client.ask(&get("/")).0, 200);
    }
}

/// `head`, whose `~` becomes as much as makes it so long.
fn padded(head: &str, bytes: usize) -> String {
    head.replace('~', &"a".repeat(bytes - head.len() + 1))
}

#[test]
fn a_head_that_has_no_room_for_what_the_mesh_adds_is_its_callers_fault() {
    let (world, program) = (World::new(), Program::echo());
    let (_servers, caller) = endpoints(&world, &program);
    for _ in 0..MANY {
        let mut client = Peer::connect(caller.outbound("echo"));
        let long = padded("GET / HTTP/1.1\r\nhost: echo\r\nx-pad: ~\r\n\r\n", HEAD_BYTES_MAX - 20);
        let (code, told) = client.ask(&long);
        assert_eq!(code, 431, "{told}");
        assert!(told.contains("head_too_large"), "{told}");
    }
    unharmed(&caller);
    let mut client = Peer::connect(caller.outbound("echo"));
    let long = padded("GET / HTTP/1.1\r\nhost: echo\r\nx-pad: ~\r\n\r\n", HEAD_BYTES_MAX - 2048);
    assert_eq!(client.ask(&long).0, 200);
}

#[test]
fn an_answer_whose_head_has_no_room_for_what_the_mesh_adds_is_told_once() {
    let program = Program::start(|mut peer| {
        while peer.read_head().is_some() {
            // Passed on, each line has a blank.
            let lines = "x-short:y\r\n".repeat(50);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{lines}x-pad:~\r\n\r\n");
            peer.send(padded(&head, HEAD_BYTES_MAX));
        }
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    let (code, told) = client.ask(&get("/"));
    assert_eq!(code, 502, "{told}");
    assert!(told.contains("the head is too large"), "{told}");
    assert_eq!(program.accepted.load(Ordering::SeqCst), 1, "it's asked once");
}

#[test]
fn a_page_that_grants_no_websocket_is_not_to_blame() {
    let (world, program) = (World::new(), Program::echo());
    let (_servers, caller) = endpoints(&world, &program);
    for _ in 0..MANY {
        assert_eq!(by_http2(caller.outbound("echo"), "websocket", 0).0.status(), StatusCode::BAD_GATEWAY);
    }
    unharmed(&caller);
}

/// What comes of a request by HTTP/2 with these trailers: as HTTP/1 takes them, so that a service of it can be behind a hop.
async fn with_trailers(address: SocketAddr, count: usize, bytes: usize) -> Result<StatusCode, h2::Error> {
    let mut send = client(address).await;
    let request = Request::post("http://echo/").body(()).unwrap();
    let (response, mut body) = send.send_request(request, false)?;
    body.send_data(Bytes::from_static(b"body"), false)?;
    let mut trailers = HeaderMap::new();
    for at in 0..count {
        let name = format!("x-{at:02}");
        let name: http::HeaderName = name.parse().unwrap();
        trailers.insert(name, "v".repeat(bytes / count - "x-00: \r\n".len()).parse().unwrap());
    }
    body.send_trailers(trailers)?;
    Ok(response.await?.status())
}

#[test]
fn more_trailers_than_http1_takes_are_refused_where_they_come_from() {
    let (world, program) = (World::new(), Program::echo());
    let (_servers, caller) = endpoints(&world, &program);
    let address = caller.outbound("echo");
    let ask = |count, bytes| runtime::block_on(with_trailers(address, count, bytes)).unwrap();
    assert_eq!(ask(32, 8 * 1024 - 32).unwrap(), StatusCode::OK);
    for _ in 0..MANY / 2 {
        for (count, bytes) in [(33, 4 * 1024), (2, 8 * 1024 + 2)] {
            let refused = ask(count, bytes);
            let code = refused.as_ref().err().and_then(h2::Error::reason);
            assert_eq!(code, Some(Reason::PROTOCOL_ERROR), "{count} in {bytes} bytes: {refused:?}");
        }
    }
    // The last may be counted a moment after it was told.
    let count = format!("byrnie_rejected_total{{reason=\"trailers_too_large\"}} {MANY}\n");
    until(&count, || caller.metrics().contains(&count));
    unharmed(&caller);
}

/// Written without blanks a line is a byte shorter than it is passed on.
#[test]
fn as_many_trailers_as_http1_takes_pass_a_hop() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = pair(&world, &program);
    let line = |at| format!("x-{at:02}:{}\r\n", "v".repeat(8 * 1024 / 32 - "x-00:\r\n".len()));
    let mut trailers: String = (0..31).map(line).collect();
    trailers += &format!("x-31:{}\r\n\r\n", "v".repeat(8 * 1024 - trailers.len() - "x-31:\r\n\r\n".len()));
    assert_eq!(trailers.len(), 8 * 1024);
    let mut client = Peer::connect(caller.outbound("echo"));
    let request =
        format!("POST / HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n{trailers}");
    assert_eq!(client.ask(&request).0, 200);
}

/// What lets nothing through of the connections that it takes until it's told to; `came` is told of each.
fn held_up(to: SocketAddr, came: mpsc::Sender<()>) -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let (go, gone) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let mut held = Some(gone);
        for near in listener.incoming() {
            let near = near.unwrap();
            if came.send(()).is_err() {
                return;
            }
            if let Some(gone) = held.take() {
                let _ = gone.recv();
            }
            let far = TcpStream::connect(to).unwrap();
            let (near, far) = (Arc::new(near), Arc::new(far));
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to) = (Arc::clone(from), Arc::clone(to));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut &*from, &mut &*to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (address, go)
}

#[test]
fn who_has_little_time_or_leaves_gives_up_a_new_connection_for_nobody_else() {
    assert!((0..10).any(|_| hurried_and_patient() < WAIT), "the machine is never in time");
}

/// How long it took until the connection was there for which all wait.
fn hurried_and_patient() -> Duration {
    let (world, program) = (World::new(), Program::echo());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let (came, comes) = mpsc::channel();
    let (address, go) = held_up(server.inbound(), came);
    let mut caller = world.calling_at("echo", Protocol::Http1, address);
    let policy =
        TrafficPolicy { targets: vec![service("echo")], connect_timeout: Some(PATIENCE), ..TrafficPolicy::default() };
    caller.apply(vec![resource(Kind::TrafficPolicy, "echo", Spec::Traffic(Arc::new(policy)))]);
    let begun = runtime::now().mono;
    let mut hurried = Peer::connect(caller.outbound("echo"));
    hurried.send("GET /hurried HTTP/1.1\r\nhost: echo\r\nx-byrnie-deadline-ms: 300\r\n\r\n");
    comes.recv_timeout(PATIENCE).unwrap();
    let ask = |path: &str| {
        let mut client = Peer::connect(caller.outbound("echo"));
        client.send(get(path));
        client
    };
    let patient: Vec<Peer> = (0..4).map(|_| ask("/patient")).collect();
    drop(ask("/leaves"));
    let (head, told) = hurried.response();
    let told = String::from_utf8_lossy(&told).into_owned();
    // It's noticed while the connection is still being opened.
    caller.wait_for_record(&["/leaves", "caller gone"]);
    go.send(()).unwrap();
    for mut client in patient {
        assert_eq!(status(&client.response().0), 200);
    }
    // The handshake, too, takes longer on a busy machine.
    let held = runtime::now().mono.since(begun);
    if held < WAIT {
        assert_eq!(status(&head), 504, "{told}");
        assert!(comes.try_recv().is_err(), "all go by the one connection");
    }
    unharmed(&caller);
    held
}
