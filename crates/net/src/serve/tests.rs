// SPDX-License-Identifier: Apache-2.0
//! The server over real sockets on loopback, asked by its own client and by raw bytes.

use super::client::{Client, Error, Outgoing};
use super::*;
use crate::listen::{Share, bind};
use crate::runtime::{Task, Trigger, block_on, panics, shutdown, spawn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(20);

struct World {
    address: SocketAddr,
    trigger: Trigger,
    server: Task,
}

fn start() -> World {
    let listener = bind("127.0.0.1:0".parse().unwrap(), Share::Alone).unwrap();
    let address = listener.local_addr();
    let (trigger, shutdown) = shutdown();
    let server = spawn("server", serve(listener, Arc::new(|request| Box::pin(respond_to(request))), shutdown));
    World { address, trigger, server }
}

async fn respond_to(request: Request) -> Response {
    match request.path.as_str() {
        "/panic" => panic!("on purpose"),
        "/lines" | "/endless" => {
            let (sender, queue) = mpsc::channel(4);
            let endless = request.path == "/endless";
            spawn("lines", async move {
                for piece in ["on", "e\ntwo\r\n", "th\u{fc}", "ree"] {
                    let _ = sender.send(Bytes::from(piece)).await;
                }
                if endless {
                    sender.closed().await;
                }
            });
            Response::new(StatusCode::OK, "text/plain", Body::stream(queue))
        }
        "/nothing" => Response::empty(StatusCode::NO_CONTENT),
        "/shop.v1.Shop/Echo" => unary::answer(unary::message(&request, 100).map(<[u8]>::to_vec)),
        "/shop.v1.Shop/Refuse" => unary::answer(Err(unary::Refusal::new(unary::Status::Aborted, "no \u{20ac}"))),
        _ => {
            let text = format!(
                "{} {} {:?} {:?} {:?} {}",
                request.method,
                request.path,
                request.query,
                request.header("host"),
                request.token(),
                request.body.len()
            );
            Response::new(StatusCode::OK, "text/plain", text).with(header::CACHE_CONTROL, "no-store")
        }
    }
}

impl World {
    fn client(&self, token: Option<&str>) -> Client {
        Client::new(&format!("http://{}", self.address), token).unwrap()
    }

    /// What the server answers to raw bytes, until it closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        // The server may close before it has read all: what it answered counts.
        let _ = tcp.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn run<F: Future>(test: F) -> F::Output {
    block_on(async { timeout(LIMIT, test).await.unwrap() }).unwrap()
}

#[test]
fn a_request_arrives_whole_and_so_does_its_answer() {
    run(async {
        let world = start();
        let request = Outgoing::with_body(Method::POST, "/a%20b?c=d", "text/plain", vec![1_u8; 1_000_000]);
        let reply = world.client(Some("s3cret")).send(request, LIMIT).await.unwrap();
        let expected = format!("POST /a%20b Some(\"c=d\") Some(\"{}\") Some(\"s3cret\") 1000000", world.address);
        assert_eq!((reply.status, &*reply.body), (StatusCode::OK, expected.as_bytes()));
        assert_eq!(reply.headers["cache-control"], "no-store");
        let reply = world.client(None).send(Outgoing::get("/nothing"), LIMIT).await.unwrap();
        assert_eq!((reply.status, reply.body.len()), (StatusCode::NO_CONTENT, 0));
    });
}

#[test]
fn a_panic_costs_its_request_and_is_counted() {
    run(async {
        let world = start();
        let counted = panics();
        let reply = world.client(None).send(Outgoing::get("/panic"), LIMIT).await.unwrap();
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(panics() > counted);
        assert_eq!(world.client(None).send(Outgoing::get("/"), LIMIT).await.unwrap().status, StatusCode::OK);
    });
}

#[test]
fn lines_are_read_as_they_come() {
    run(async {
        let world = start();
        let mut lines = world.client(None).lines(Outgoing::get("/lines"), LIMIT).await.unwrap();
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        assert_eq!(read, ["one", "two", "th\u{fc}ree"]);
        let mut lines = world.client(None).lines(Outgoing::get("/endless"), LIMIT).await.unwrap();
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("one"));
    });
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    run(async {
        let world = start();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            BODY_BYTES_MAX + 1
        );
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + BODY_BYTES_MAX + 1, b'x');
        let answer = world.raw(&bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413 "), "{answer}");
        let cut = world.raw(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").await;
        assert!(cut.starts_with("HTTP/1.1 400 "), "{cut}");
    });
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    run(async {
        let world = start();
        let long = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(HEAD_BYTES_MAX));
        assert!(world.raw(long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
        let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert!(world.raw(many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
        assert!(world.raw(b"\x16\x03\x01 hello\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    });
}

#[test]
fn http2_without_tls_is_spoken_too() {
    run(async {
        let world = start();
        let tcp = TcpStream::connect(world.address).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(tcp).await.unwrap();
        let connection = spawn("h2", async {
            let _ = connection.await;
        });
        let request = http::Request::get("http://console.test/x").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let text = body.data().await.unwrap().unwrap();
        assert_eq!(text, "GET /x None Some(\"console.test\") None 0");
        connection.abort();
    });
}

#[test]
fn a_shutdown_ends_idle_and_endless_connections() {
    run(async {
        let world = start();
        let mut lines = world.client(None).lines(Outgoing::get("/endless"), LIMIT).await.unwrap();
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("one"));
        let mut idle = TcpStream::connect(world.address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
        world.trigger.fire();
        world.server.ended().await;
        assert!(idle.read_to_end(&mut Vec::new()).await.is_ok());
        assert!(TcpStream::connect(world.address).await.is_err());
    });
}

#[test]
fn a_server_that_is_not_there_is_an_error_not_a_wait() {
    run(async {
        let listener = bind("127.0.0.1:0".parse().unwrap(), Share::Alone).unwrap();
        let address = listener.local_addr();
        let silent = Client::new(&format!("http://{address}"), None).unwrap();
        let waited = silent.send(Outgoing::get("/"), Duration::from_millis(50)).await;
        assert!(matches!(waited, Err(Error::Timeout)), "{waited:?}");
        drop(listener);
        let gone = silent.send(Outgoing::get("/"), LIMIT).await;
        assert!(matches!(gone, Err(Error::Connect { .. })), "{gone:?}");
        for bad in ["https://x", "x:1", "http://", "http://x/path", "http://x?q", "http://a:b@x", "http://x y"] {
            assert!(Client::new(bad, None).is_err(), "{bad}");
        }
        assert!(Client::new("http://localhost:7777/", Some("t")).is_ok());
        assert!(Client::new("http://[::1]:7777", Some("bad\ntoken")).is_err());
    });
}

#[test]
fn grpc_is_answered_beside_http_over_kept_connections() {
    run(async {
        let world = start();
        let caller = caller::Caller::new();
        let call = |path: &str, body: Bytes| {
            let outgoing = caller::Outgoing {
                to: world.address,
                method: Method::POST,
                uri: format!("http://{}{path}", world.address),
                headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static(unary::GRPC))],
                body,
                answer_bytes_max: 1000,
                http2: true,
            };
            caller.send(outgoing, LIMIT)
        };
        for message in [&b"hello"[..], b"", b"again"] {
            let reply = call("/shop.v1.Shop/Echo", unary::body(message)).await.unwrap();
            assert_eq!(unary::status(&reply), (unary::Status::Ok, String::new()), "{reply:?}");
            assert_eq!(reply.body, unary::body(message));
        }
        let reply = call("/shop.v1.Shop/Refuse", unary::body(b"")).await.unwrap();
        assert_eq!(unary::status(&reply), (unary::Status::Aborted, "no \u{20ac}".to_owned()));
        let reply = call("/shop.v1.Shop/Echo", unary::body(&[7; 101])).await.unwrap();
        assert_eq!(unary::status(&reply).0, unary::Status::ResourceExhausted);
        let reply = call("/shop.v1.Shop/Echo", Bytes::from_static(b"\x00\xff")).await.unwrap();
        assert_eq!(unary::status(&reply).0, unary::Status::Internal);
        // Somebody who doesn't speak gRPC is no success.
        let reply = call("/", unary::body(b"")).await.unwrap();
        assert_eq!(unary::status(&reply).0, unary::Status::Unknown);
        world.trigger.fire();
        world.server.ended().await;
        assert!(call("/shop.v1.Shop/Echo", unary::body(b"")).await.is_err(), "the kept connection has ended");
    });
}

/// A server that answers as it's told, on each connection as many requests as there are answers, which it closes then if it isn't to
/// `hold` it; it tells what came on which.
async fn scripted(answers: &'static [&'static str]) -> (SocketAddr, mpsc::UnboundedReceiver<(usize, String)>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, came) = mpsc::unbounded_channel();
    spawn("scripted", async move {
        for number in 1.. {
            let (mut tcp, _) = listener.accept().await.unwrap();
            for answer in answers {
                if *answer == "hold" {
                    std::future::pending::<()>().await;
                }
                let mut request = vec![0; 4096];
                let read = tcp.read(&mut request).await.unwrap();
                let _ = told.send((number, String::from_utf8_lossy(&request[..read]).into_owned()));
                tcp.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (address, came)
}

fn asked(to: SocketAddr, uri: &str, body: impl Into<Bytes>) -> caller::Outgoing {
    caller::Outgoing {
        to,
        method: Method::POST,
        uri: uri.to_owned(),
        headers: vec![
            (header::HOST, HeaderValue::from_static("pay")),
            (header::ACCEPT, HeaderValue::from_static("*/*")),
        ],
        body: body.into(),
        answer_bytes_max: 1000,
        http2: false,
    }
}

#[test]
fn calls_share_connections_as_long_as_these_live() {
    run(async {
        let answers = &[
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nretry-after: 1\r\n\r\nhi",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 Conflict\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        ];
        let (to, mut came) = scripted(answers).await;
        let caller = caller::Caller::new();
        for number in [1, 2] {
            let reply = caller.send(asked(to, "/do?id=1", "{}"), LIMIT).await.unwrap();
            assert_eq!((reply.status, &*reply.body), (StatusCode::OK, &b"hi"[..]));
            assert_eq!(reply.headers["retry-after"], "1");
            let request = "POST /do?id=1 HTTP/1.1\r\nhost: pay\r\naccept: */*\r\ncontent-length: 2\r\n\r\n{}";
            assert_eq!(came.recv().await.unwrap(), (number, request.to_owned()));
            let reply = caller.send(asked(to, "http://pay/do", ""), LIMIT).await.unwrap();
            assert_eq!((reply.status, &*reply.body), (StatusCode::CONFLICT, &b"no"[..]));
            let request = "POST http://pay/do HTTP/1.1\r\nhost: pay\r\naccept: */*\r\n\r\n";
            assert_eq!(came.recv().await.unwrap(), (number, request.to_owned()), "on the connection that was kept");
        }
        assert!(matches!(caller.send(asked(to, "/a b", ""), LIMIT).await, Err(Error::Request(_))));
    });
}

#[test]
fn an_answer_that_is_not_whole_or_too_large_is_none() {
    run(async {
        let caller = caller::Caller::new();
        let cut = scripted(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi"]).await.0;
        assert!(matches!(caller.send(asked(cut, "/", "{}"), LIMIT).await, Err(Error::Wire(_))));
        let long = scripted(&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"]).await.0;
        let little = caller::Outgoing { answer_bytes_max: 1, ..asked(long, "/", "{}") };
        assert!(matches!(caller.send(little, LIMIT).await, Err(Error::TooLarge(1))));
        // One that answers before it has read the request, and reads no more.
        let early = scripted(&["HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n", "hold"]).await.0;
        let reply = caller.send(asked(early, "/", vec![1; 32 << 20]), LIMIT).await.unwrap();
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    });
}
