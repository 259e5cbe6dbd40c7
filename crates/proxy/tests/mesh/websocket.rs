// SPDX-License-Identifier: Apache-2.0
//! WebSockets between any two of: a client of HTTP/1 and one of HTTP/2 (RFC 8441), a program of either. What the
//! handshake of HTTP/1 proves by its headers is proven to whoever can check it, and invented for no one.

use crate::world::{HANDSHAKE, Peer, Program, Proxy, World, accept_of, header, loopback, status};
use byrnie_model::Protocol;
use byrnie_net::listen::{Listener, Share, bind};
use byrnie_net::{io, runtime};
use bytes::Bytes;
use h2::ext::Protocol as Asked;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// More than any window on the way.
const MANY: usize = 3_000_000;
const LIMIT: Duration = Duration::from_secs(20);

/// A program of HTTP/1 that answers the key of a handshake as `accept` says, then counts what it is sent.
fn http1_program(accept: impl Fn(&str) -> String + Send + Sync + 'static) -> Program {
    Program::start(move |mut peer| {
        let Some(head) = peer.read_head() else { return };
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert_eq!(header(&head, "content-length").or(header(&head, "transfer-encoding")), None);
        let key = header(&head, "sec-websocket-key").unwrap().to_owned();
        peer.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {}\r\n\r\nhello",
            accept(&key)
        ));
        let said = peer.read_to_end();
        peer.send(format!("{} bytes", said.len()));
    })
}

/// A program of HTTP/2 that takes extended CONNECTs, or one that doesn't know them and answers whatever it's asked with `plain`.
async fn serve(listener: Listener, plain: Option<u16>) {
    loop {
        let (tcp, _) = listener.accept().await;
        runtime::spawn_local("h2 program", async move {
            let mut builder = h2::server::Builder::new();
            if plain.is_none() {
                builder.enable_connect_protocol();
            }
            let Ok(mut connection) = builder.handshake::<_, Bytes>(tcp).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                runtime::spawn_local("h2 request", answer(request, respond, plain));
            }
        });
    }
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>, plain: Option<u16>) {
    if let Some(status) = plain {
        assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/chat"));
        assert!(!request.headers().contains_key("x-byrnie-overlooked"));
        let own = Response::builder().status(status).body(()).unwrap();
        let mut send = respond.send_response(own, status == 204).unwrap();
        if status != 204 {
            send.send_data(Bytes::from_static(b"own"), true).unwrap();
        }
        return;
    }
    assert_eq!(request.extensions().get::<Asked>().map(Asked::as_str), Some("websocket"));
    assert_eq!((request.method(), request.uri().path()), (&Method::CONNECT, "/chat"));
    assert!(!request.headers().contains_key("sec-websocket-key"));
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    send.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let said = read(request.into_body()).await.unwrap();
    send.send_data(format!("{} bytes", said.len()).into(), true).unwrap();
}

async fn read(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

async fn send_all(send: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        // A stream that is gone shows in what is read.
        let Some(Ok(granted)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
        let part = bytes.split_to(granted.min(bytes.len()));
        if send.send_data(part, bytes.is_empty()).is_err() {
            return;
        }
    }
}

/// What a client of HTTP/2 gets that asks for `protocol`, says `said` bytes and closes its half.
async fn ask_by_http2(address: SocketAddr, protocol: &str, said: usize) -> (Response<()>, Result<Vec<u8>, h2::Error>) {
    let tcp = io::connect(address, LIMIT).await.unwrap();
    let (send, mut connection) = h2::client::handshake(tcp).await.unwrap();
    // Only who has heard that it may asks so (RFC 8441 3).
    let mut pings = connection.ping_pong().unwrap();
    let mut pong = Box::pin(pings.ping(h2::Ping::opaque()));
    std::future::poll_fn(|cx| {
        assert!(std::pin::Pin::new(&mut connection).poll(cx).is_pending());
        pong.as_mut().poll(cx)
    })
    .await
    .unwrap();
    drop(pong);
    assert!(send.is_extended_connect_protocol_enabled());
    runtime::spawn_local("h2 test client", async move {
        let _ = connection.await;
    });
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "http://chat/chat".parse().unwrap();
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request.extensions_mut().insert(Asked::from(protocol));
    let (response, mut up) = send.ready().await.unwrap().send_request(request, false).unwrap();
    let (parts, body) = response.await.unwrap().into_parts();
    if !parts.status.is_success() {
        return (Response::from_parts(parts, ()), read(body).await);
    }
    let sending = send_all(&mut up, vec![b'x'; said].into());
    let (answer, ()) = tokio::join!(read(body), sending);
    (Response::from_parts(parts, ()), answer)
}

pub(crate) fn by_http2(address: SocketAddr, protocol: &str, said: usize) -> (Response<()>, Result<Vec<u8>, h2::Error>) {
    let asked = runtime::timeout(LIMIT, ask_by_http2(address, protocol, said));
    runtime::block_on(asked).unwrap().expect("in time")
}

/// What a client of HTTP/1 gets: the head of the answer, and the rest.
fn by_http1(address: SocketAddr, said: usize) -> (String, Vec<u8>) {
    let mut client = Peer::connect(address);
    client.send(HANDSHAKE);
    let head = client.read_head().unwrap();
    if status(&head) != 101 {
        let body = client.read_body_of(&head);
        return (head, body);
    }
    client.send(vec![b'x'; said]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    (head, client.read_to_end())
}

fn pair(world: &World, port: u16, protocol: Protocol) -> (Proxy, Proxy) {
    let server = world.serving("chat", port, protocol);
    let caller = world.calling(&[("chat", protocol, &[&server])]);
    (server, caller)
}

/// Runs `test` with the address of a program of HTTP/2 behind two sidecars. The program has a reactor of its own, as
/// clients may block.
fn with_http2_program(plain: Option<u16>, test: impl FnOnce(SocketAddr)) {
    let world = World::new();
    let listener = bind(loopback(), Share::Alone).unwrap();
    let (_server, caller) = pair(&world, listener.local_addr().port(), Protocol::Http2);
    let (trigger, mut stop) = runtime::shutdown();
    let program = runtime::spawn_core("program", None, move || async move {
        tokio::select! {
            () = serve(listener, plain) => {}
            () = stop.wait() => {}
        }
    });
    test(caller.outbound("chat"));
    drop((program, trigger));
    assert_eq!(runtime::panics(), 0);
}

fn whole() -> Vec<u8> {
    format!("hello{MANY} bytes").into_bytes()
}

#[test]
fn an_http2_client_reaches_a_websocket_of_http1() {
    let (world, program) = (World::new(), http1_program(accept_of));
    let (_server, caller) = pair(&world, program.port, Protocol::Http1);
    let (head, body) = by_http2(caller.outbound("chat"), "websocket", MANY);
    assert_eq!(head.status(), StatusCode::OK);
    let told = ["sec-websocket-accept", "upgrade", "connection", "content-length"];
    assert!(told.iter().all(|name| !head.headers().contains_key(*name)), "{head:?}");
    assert_eq!(body.unwrap(), whole());
}

#[test]
fn an_http1_client_reaches_a_websocket_of_http2() {
    with_http2_program(None, |address| {
        let (head, body) = by_http1(address, MANY);
        assert_eq!((status(&head), header(&head, "sec-websocket-accept")), (101, Some(ACCEPT)));
        assert_eq!((header(&head, "upgrade"), header(&head, "content-length")), (Some("websocket"), None));
        assert_eq!(body, whole());
    });
}

#[test]
fn an_http2_client_reaches_a_websocket_of_http2() {
    with_http2_program(None, |address| {
        let (head, body) = by_http2(address, "websocket", MANY);
        assert_eq!((head.status(), head.headers().contains_key("sec-websocket-accept")), (StatusCode::OK, false));
        assert_eq!(body.unwrap(), whole());
    });
}

#[test]
fn an_answer_that_proves_another_key_is_none() {
    let (world, program) = (World::new(), http1_program(|_| ACCEPT.to_owned()));
    let (_server, caller) = pair(&world, program.port, Protocol::Http1);
    let (head, _) = by_http2(caller.outbound("chat"), "websocket", 1);
    assert_eq!(head.status(), StatusCode::BAD_GATEWAY);
    // A client of HTTP/1 has sent that key itself, and checks the answer itself.
    assert_eq!(status(&by_http1(caller.outbound("chat"), 1).0), 101);
}

#[test]
fn a_program_of_http2_that_knows_no_websockets_answers_for_itself() {
    with_http2_program(Some(400), |address| {
        assert_eq!(status(&by_http1(address, 1).0), 400);
        assert_eq!(by_http2(address, "websocket", 1).0.status(), StatusCode::BAD_REQUEST);
    });
}

/// RFC 9110 7.8: a server may overlook an Upgrade. Only a client of HTTP/2 would take its success for consent.
#[test]
fn a_program_of_http2_may_overlook_a_handshake_and_its_answer_reaches_who_can_tell() {
    for (own, said) in [(200, &b"own"[..]), (204, b"")] {
        with_http2_program(Some(own), |address| {
            let (head, body) = by_http1(address, 1);
            assert_eq!((status(&head), &body[..]), (own, said), "{head}");
            let told = ["upgrade", "sec-websocket-accept", "x-byrnie-overlooked"];
            assert!(told.iter().all(|name| header(&head, name).is_none()), "{head}");
            // Its connection goes on as any.
            let mut client = Peer::connect(address);
            for _ in 0..2 {
                client.send(HANDSHAKE);
                let head = client.read_head().unwrap();
                assert_eq!((status(&head), &client.read_body_of(&head)[..]), (own, said), "{head}");
            }
            assert_eq!(by_http2(address, "websocket", 1).0.status(), StatusCode::BAD_GATEWAY);
        });
    }
}

#[test]
fn a_refused_handshake_is_an_ordinary_answer() {
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            assert_eq!(header(&head, "upgrade"), Some("websocket"));
            peer.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nno!\n");
        }
    });
    let world = World::new();
    let (_server, caller) = pair(&world, program.port, Protocol::Http1);
    for _ in 0..3 {
        let (head, body) = by_http2(caller.outbound("chat"), "websocket", 1);
        assert_eq!(head.status(), StatusCode::FORBIDDEN);
        // Its half isn't wanted any more, which it may be told by a reset that says so (RFC 9113 8.1).
        match body {
            Ok(body) => assert_eq!(body, b"no!\n"),
            Err(error) => assert_eq!(error.reason(), Some(Reason::NO_ERROR)),
        }
    }
}

#[test]
fn no_other_protocol_is_asked_for_by_connect() {
    let (world, program) = (World::new(), http1_program(accept_of));
    let (_server, caller) = pair(&world, program.port, Protocol::Http1);
    for protocol in ["h2c", "connect-udp"] {
        assert_eq!(by_http2(caller.outbound("chat"), protocol, 1).0.status(), StatusCode::NOT_IMPLEMENTED);
    }
    assert_eq!(program.accepted.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn who_overlooks_a_handshake_has_not_agreed_to_it() {
    let program = Program::start(|mut peer| {
        while peer.read_head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    // The program is of HTTP/1 either way; between the proxies it's asked in the first and in HTTP/2.
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let world = World::new();
        let server = world.serving("chat", program.port, Protocol::Http1);
        let caller = world.calling(&[("chat", protocol, &[&server])]);
        assert_eq!(by_http2(caller.outbound("chat"), "websocket", 1).0.status(), StatusCode::BAD_GATEWAY);
    }
    let world = World::new();
    let (_server, caller) = pair(&world, program.port, Protocol::Http1);
    assert_eq!(
        by_http1(caller.outbound("chat"), 1),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n".into(), b"ok".into())
    );
}

#[test]
fn a_program_that_breaks_off_is_heard_as_a_reset() {
    let program = Program::start(|mut peer| {
        let Some(head) = peer.read_head() else { return };
        let accept = accept_of(header(&head, "sec-websocket-key").unwrap());
        peer.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        ));
        // A connection that is closed with something unread is reset by the system: it waits until there is.
        peer.stream.peek(&mut [0]).unwrap();
    });
    let world = World::new();
    let (_server, caller) = pair(&world, program.port, Protocol::Http1);
    let (head, body) = by_http2(caller.outbound("chat"), "websocket", MANY);
    assert_eq!(head.status(), StatusCode::OK);
    assert!(body.is_err(), "{body:?}");
}
