// SPDX-License-Identifier: Apache-2.0
use crate::world::{
    ADMIN_TOKEN, PATIENCE, Peer, Program, Proxy, World, allow_all, endpoint_of, get, service_of, status,
};
use byrnie_codec::grpc::load::{BINARY_HEADER, HEADER};
use byrnie_model::Protocol;
use byrnie_net::io::{self, TcpStream};
use byrnie_net::listen::{Listener, Share, bind};
use byrnie_net::runtime;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// An HTTP/2 program that echoes bodies with trailers, which tell status 0, or of `/ends/N` status N; `/mute` says none,
/// `/busy` tells its load too. `/reset` resets, `/refuse` answers Trailers-Only.
async fn serve(listener: Listener) {
    loop {
        let (tcp, _) = listener.accept().await;
        runtime::spawn_local("h2 program", async move {
            let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                // A call may be reset at any point of its answer; what its caller makes of that is the test's.
                runtime::spawn_local("h2 request", async {
                    let _ = answer(request, respond).await;
                });
            }
        });
    }
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
    match request.uri().path() {
        "/reset" => {
            respond.send_reset(Reason::ENHANCE_YOUR_CALM);
            return Ok(());
        }
        "/refuse" => {
            let refused = Response::builder().header("content-type", "application/grpc").header("grpc-status", "7");
            respond.send_response(refused.body(()).unwrap(), true)?;
            return Ok(());
        }
        _ => {}
    }
    let path = request.uri().path().to_owned();
    let te = request.headers().get("te").map(|te| te.to_str().unwrap().to_owned()).unwrap_or_default();
    let mut ok = Response::builder().header("content-type", "application/grpc").header("x-te", te).body(()).unwrap();
    if path == "/busy" {
        tell_load(ok.headers_mut());
    }
    let mut send = respond.send_response(ok, false)?;
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        send_all(&mut send, chunk).await?;
    }
    let mut trailers = HeaderMap::new();
    if path != "/mute" {
        trailers.insert("grpc-status", path.strip_prefix("/ends/").unwrap_or("0").parse().unwrap());
    }
    if path == "/busy" {
        tell_load(&mut trailers);
    }
    send.send_trailers(trailers)
}

/// Both lines by which a program tells that half of its processors is used, and of its own what nobody else says.
fn tell_load(fields: &mut HeaderMap) {
    fields.insert("x-own", "kept".parse().unwrap());
    fields.insert(HEADER, "TEXT cpu_utilization=0.5,rps_fractional=100".parse().unwrap());
    fields.insert(BINARY_HEADER, "CQAAAAAAAOA/MQAAAAAAAFlA".parse().unwrap());
}

async fn send_all(send: &mut h2::SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len());
        let granted = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
        let granted = granted.unwrap_or(Err(Reason::CANCEL.into()))?;
        send.send_data(bytes.split_to(granted.min(bytes.len())), false)?;
    }
    Ok(())
}

pub(crate) async fn client(address: SocketAddr) -> SendRequest<Bytes> {
    let tcp: TcpStream = io::connect(address, Duration::from_secs(5)).await.unwrap();
    let (send, connection) = h2::client::handshake(tcp).await.unwrap();
    runtime::spawn_local("h2 test client", async move {
        let _ = connection.await;
    });
    send
}

/// Runs `test` against an HTTP/2 program behind two sidecars; the program lives on the test's own reactor.
fn through(protocol: Protocol, test: impl AsyncFnOnce(SendRequest<Bytes>, &Proxy)) {
    within(&World::new(), protocol, test);
}

fn within(world: &World, protocol: Protocol, test: impl AsyncFnOnce(SendRequest<Bytes>, &Proxy)) {
    let listener = bind(crate::world::loopback(), Share::Alone).unwrap();
    let server = world.serving("calls", listener.local_addr().port(), protocol);
    let caller = world.calling(&[("calls", protocol, &[&server])]);
    runtime::block_on(async {
        let _program = runtime::spawn_local("program", serve(listener)).abort_on_drop();
        let send = client(caller.outbound("calls")).await;
        let ran = runtime::timeout(Duration::from_secs(20), test(send, &caller)).await;
        ran.expect("in time");
    })
    .unwrap();
    assert_eq!(runtime::panics(), 0);
}

fn request(path: &str) -> Request<()> {
    let uri = format!("http://calls{path}");
    Request::post(uri).header("te", "trailers").header("content-type", "application/grpc").body(()).unwrap()
}

async fn read(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok((all, body.trailers().await?))
}

#[test]
fn a_grpc_call_passes_with_body_and_trailers() {
    through(Protocol::Grpc, async |mut send, _| {
        for n in 0..3 {
            let (response, mut body) = send.send_request(request("/shop.Cart/Add"), false).unwrap();
            body.send_data(Bytes::from(format!("message {n}")), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(
                (response.status(), &response.headers()["x-te"]),
                (StatusCode::OK, &"trailers".parse().unwrap())
            );
            let (body, trailers) = read(response.into_body()).await.unwrap();
            assert_eq!(body, format!("message {n}").into_bytes());
            assert_eq!(trailers.unwrap()["grpc-status"], "0");
        }
    });
}

#[test]
fn streams_run_beside_each_other_and_large_bodies_keep_to_their_windows() {
    through(Protocol::Http2, async |send, _| {
        let mut tasks = Vec::new();
        for n in 0..20_u8 {
            let mut send = send.clone();
            tasks.push(async move {
                send = send.ready().await.unwrap();
                let (response, mut body) = send.send_request(request("/"), false).unwrap();
                let size = 300_000 + usize::from(n);
                let sending = async {
                    send_all(&mut body, vec![n; size].into()).await.unwrap();
                    body.send_data(Bytes::new(), true).unwrap();
                };
                let receiving = async { read(response.await.unwrap().into_body()).await.unwrap() };
                let ((), (echoed, trailers)) = tokio::join!(sending, receiving);
                assert!(echoed.len() == size && echoed.iter().all(|byte| *byte == n) && trailers.is_some());
            });
        }
        for task in tasks.into_iter().map(|task| runtime::spawn_local("stream", task)).collect::<Vec<_>>() {
            task.ended().await;
        }
    });
}

#[test]
fn trailers_only_answers_and_resets_pass_as_they_are() {
    through(Protocol::Grpc, async |mut send, _| {
        let (response, _) = send.send_request(request("/refuse"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "7");
        assert!(response.body().is_end_stream());
        let (response, _) = send.send_request(request("/reset"), true).unwrap();
        let answered = response.await;
        // Nothing of an answer had come: the mesh makes one, in the caller's language.
        let answered = answered.unwrap();
        assert_eq!(answered.status(), StatusCode::OK);
        assert_eq!(answered.headers()["grpc-status"], "14");
        let id = answered.headers()["x-byrnie-decision"].to_str().unwrap();
        // Programs are told in protobuf what a problem document would say.
        let details = unbase64(answered.headers()["grpc-status-details-bin"].as_bytes());
        for said in ["google.rpc.ErrorInfo", "BYR-R031", "mesh.byrnie.dev", "upstream_reset", "proxy", id] {
            assert!(details.windows(said.len()).any(|at| at == said.as_bytes()), "{said}");
        }
    });
}

fn unbase64(text: &[u8]) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |byte: &u8| alphabet.iter().position(|known| known == byte).unwrap();
    let bits: Vec<bool> =
        text.iter().flat_map(|byte| (0..6).rev().map(move |bit| value(byte) >> bit & 1 == 1)).collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit))).collect()
}

/// Its status of HTTP is 200 whatever becomes of a call.
#[test]
fn calls_that_fail_are_counted_logged_and_recorded_as_failures() {
    let paths = ["/ends/0", "/refuse", "/ends/5", "/ends/14", "/ends/2", "/mute"];
    let world = World::new();
    within(&world, Protocol::Grpc, async |mut send, caller| {
        for path in paths {
            let (response, mut body) = send.send_request(request(path), false).unwrap();
            body.send_data(Bytes::new(), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            read(response.into_body()).await.unwrap();
        }
        let mut admin = Peer::connect(caller.ports.admin);
        // The last is counted when its answer has left.
        let metrics = loop {
            let (_, metrics) = admin.ask(&get("/metrics"));
            let of = |line: &&str| line.starts_with("byrnie_requests_total{direction=\"outbound\"");
            let mut counted: Vec<(String, u64)> = metrics.lines().filter(of).map(counted).collect();
            counted.sort();
            if counted.iter().map(|(_, count)| count).sum::<u64>() >= paths.len() as u64 {
                break counted;
            }
        };
        let told = [("200", 1), ("403", 1), ("404", 1), ("500", 2), ("503", 1)];
        assert_eq!(metrics, told.map(|(status, count)| (status.to_owned(), count)));
        let records = loop {
            let ask = format!("GET /records HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n");
            let records: Vec<serde_json::Value> = serde_json::from_str(&admin.ask(&ask).1).unwrap();
            if records.iter().filter(|record| record["status"].as_u64() >= Some(500)).count() >= 3 {
                break records;
            }
        };
        for path in ["/ends/14", "/ends/2", "/mute"] {
            let status = if path == "/ends/14" { 503 } else { 500 };
            let kept = |record: &serde_json::Value| record["request"]["path"] == path && record["status"] == status;
            assert!(records.iter().any(kept), "{path}: {records:?}");
        }
        // Lines are written every half second.
        let lines = loop {
            let log = world.log("caller");
            if log.lines().count() >= paths.len() {
                break log;
            }
        };
        assert!(lines.contains("\"status\":503,\"grpcStatus\":\"UNAVAILABLE\""), "{lines}");
    });
}

/// The status and the count of a line of `byrnie_requests_total`.
fn counted(line: &str) -> (String, u64) {
    let (labels, count) = line.rsplit_once(' ').unwrap();
    let (_, rest) = labels.split_once("status=\"").unwrap();
    (rest.split('"').next().unwrap().to_owned(), count.parse().unwrap())
}

#[test]
fn an_http1_client_is_understood_by_an_http2_service() {
    through(Protocol::Http2, async |_send, caller| {
        let address = caller.outbound("calls");
        let (done, asked) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut client = Peer::connect(address);
            client.send("POST / HTTP/1.1\r\nhost: calls\r\ncontent-length: 5\r\n\r\nhello");
            let (head, body) = client.response();
            let _ = done.send((status(&head), body));
        });
        let (code, body) = asked.await.unwrap();
        assert_eq!((code, String::from_utf8(body).unwrap()), (200, "hello|grpc-status: 0".to_owned()));
    });
}

#[test]
fn an_http2_client_is_understood_by_an_http1_service() {
    let (world, program) = (World::new(), Program::echo());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    runtime::block_on(async {
        let mut send = client(caller.outbound("echo")).await;
        let request = Request::post("http://echo/x").body(()).unwrap();
        let (response, mut body) = send.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        let (body, _) = read(response.await.unwrap().into_body()).await.unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), "POST /x HTTP/1.1\nhello");
    })
    .unwrap();
    let mut client = Peer::connect(caller.outbound("echo"));
    assert_eq!(client.ask(&get("/")).0, 200);
}

#[test]
fn a_length_that_its_body_belies_is_refused() {
    through(Protocol::Http2, async |mut send, _| {
        let mut belied = request("/");
        belied.headers_mut().insert("content-length", 10.into());
        let (response, mut body) = send.send_request(belied, false).unwrap();
        body.send_data(Bytes::from_static(b"four"), true).unwrap();
        let answered = response.await;
        let refused = match answered {
            Ok(response) => response.status().is_client_error() || read(response.into_body()).await.is_err(),
            Err(error) => error.is_reset(),
        };
        assert!(refused);
    });
}

#[test]
fn an_answer_that_needs_no_more_of_the_body_is_heard_before_the_body_is_refused() {
    let program = Program::start(|mut peer| {
        peer.read_head().unwrap();
        peer.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno!");
        peer.read_to_end();
    });
    let world = World::new();
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    runtime::block_on(async {
        let send = client(caller.outbound("echo")).await;
        for _ in 0..5 {
            let request = Request::post("http://echo/x").body(()).unwrap();
            let (response, mut body) = send.clone().ready().await.unwrap().send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(b"some of it"), false).unwrap();
            let response = runtime::timeout(Duration::from_secs(20), response).await.expect("in time").unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            let told = std::future::poll_fn(|cx| body.poll_reset(cx));
            assert_eq!(runtime::timeout(Duration::from_secs(20), told).await.unwrap().unwrap(), Reason::NO_ERROR);
        }
    })
    .unwrap();
}

#[test]
fn http2_stays_http2_where_nothing_is_declared() {
    through(Protocol::Undeclared, async |send, _| {
        for kind in ["application/grpc", "text/plain"] {
            let mut asked = request("/");
            asked.headers_mut().insert("content-type", kind.parse().unwrap());
            let (response, mut body) = send.clone().ready().await.unwrap().send_request(asked, false).unwrap();
            body.send_data(Bytes::from_static(b"hello"), true).unwrap();
            let (said, trailers) = read(response.await.unwrap().into_body()).await.unwrap();
            assert_eq!(
                (said.as_slice(), trailers.unwrap().get("grpc-status").unwrap().as_bytes()),
                (&b"hello"[..], &b"0"[..])
            );
        }
    });
}

#[test]
fn the_load_of_a_program_is_told_to_its_callers_and_to_nobody_outside_by_head_or_trailers() {
    let world = World::new();
    let listener = bind(crate::world::loopback(), Share::Alone).unwrap();
    let server = world.serving("shop", listener.local_addr().port(), Protocol::Grpc);
    let mut caller = world.calling(&[("shop", Protocol::Grpc, &[&server])]);
    caller.apply(vec![crate::load::by_load(None)]);
    let at_edge = vec![allow_all(), service_of("shop", 1, Protocol::Grpc), endpoint_of("shop", 0, server.inbound())];
    let edge = world.edge([at_edge, vec![crate::load::by_load(None)]].concat());
    let ask = async |address: SocketAddr, host: &str| {
        let mut send = client(address).await;
        let request = Request::post(format!("http://{host}/busy")).header("content-type", "application/grpc");
        let (response, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"apple"), true).unwrap();
        let response = response.await.unwrap();
        let head = response.headers().clone();
        let (body, trailers) = read(response.into_body()).await.unwrap();
        assert_eq!(body, b"apple");
        let trailers = trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        [head, trailers].map(|fields| ["x-own", HEADER, BINARY_HEADER].map(|name| fields.contains_key(name)))
    };
    runtime::block_on(async {
        let _program = runtime::spawn_local("program", serve(listener)).abort_on_drop();
        let asked = async {
            assert_eq!(ask(caller.outbound("shop"), "shop").await, [[true; 3]; 2], "within the mesh");
            let told = ask(edge.ports.edge.unwrap(), "shop.default.mesh.localhost").await;
            assert_eq!(told, [[true, false, false]; 2], "outside of it");
        };
        runtime::timeout(PATIENCE, asked).await.unwrap();
    })
    .unwrap();
}

/// A program that begins to answer each request and then says that it refused it: by a RST_STREAM, or by a GOAWAY that leaves it
/// out; and how many there were.
fn refuses_late(goaway: bool) -> (Program, Arc<AtomicUsize>) {
    const HEADERS: u8 = 1;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let program = Program::start(move |mut peer| {
        if peer.try_exact(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()).is_none() {
            return;
        }
        peer.send(frame(4, 0, 0, &[]));
        while let Some(header) = peer.try_exact(9) {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            peer.read_exact(length as usize);
            if header[3] != HEADERS {
                continue;
            }
            count.fetch_add(1, Ordering::SeqCst);
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            // `:status: 200`, of the static table.
            let head = frame(HEADERS, 4, stream, &[0x88]);
            let refusal = if goaway { frame(7, 0, 0, &[0; 8]) } else { frame(3, 0, stream, &7_u32.to_be_bytes()) };
            peer.send([head, refusal].concat());
        }
    });
    (program, asked)
}

/// Whoever is told of a refusal asks again, whatever it asked.
#[test]
fn a_refusal_behind_an_answers_head_reaches_nobody_as_one() {
    for goaway in [false, true] {
        let (program, asked) = refuses_late(goaway);
        let world = World::new();
        let server = world.serving("calls", program.port, Protocol::Http2);
        let caller = world.calling(&[("calls", Protocol::Http2, &[&server])]);
        runtime::block_on(async {
            for n in 1..=20 {
                let mut send = client(caller.outbound("calls")).await;
                let (response, _) = send.send_request(Request::post("http://calls/").body(()).unwrap(), true).unwrap();
                let response = runtime::timeout(Duration::from_secs(20), response).await.expect("in time");
                let response = response.expect("a head");
                // Broken off behind it, or, where that was known before it was handed on, not begun.
                if response.status() == StatusCode::OK {
                    let broken = read(response.into_body()).await.unwrap_err();
                    assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR), "{broken}");
                } else {
                    assert!(response.status().is_server_error(), "{}", response.status());
                    let (body, _) = read(response.into_body()).await.unwrap();
                    let body = String::from_utf8(body).unwrap();
                    assert!(!body.contains("BYR-R036"), "{body}");
                }
                assert_eq!(asked.load(Ordering::SeqCst), n, "a POST that was begun is never sent again");
            }
        })
        .unwrap();
        assert_eq!(runtime::panics(), 0);
    }
}
