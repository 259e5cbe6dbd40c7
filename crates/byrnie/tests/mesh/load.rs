// SPDX-License-Identifier: Apache-2.0
//! Load that notices whatever isn't as it must be, in each way that a mesh is spoken through, and the programs that answer it.
//! None of it tries anything a second time that may have been done.

use bytes::Bytes;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a program takes for an answer, or a part of one.
const PACE: Duration = Duration::from_millis(3);
/// Messages of a stream, a connection or a WebSocket: about half a second of them.
const MESSAGES: usize = 50;
const BETWEEN: Duration = Duration::from_millis(10);

/// What came of one kind of load: how much was done, or what went wrong.
pub type Outcome = Result<usize, String>;

fn pause(span: Duration) {
    let until = Instant::now() + span;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(to).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Ok(stream)
}

/// Asks over and over by one connection for as long as it's let, by GET and POST in turns.
pub fn keep_asking(edge: SocketAddr, host: &str, over: &AtomicBool) -> Outcome {
    let (mut stream, mut answered) = (None, 0);
    while !over.load(Ordering::SeqCst) {
        let reader = match stream.take() {
            Some(reader) => reader,
            None => BufReader::new(connect(edge)?),
        };
        let (reader, kept) = ask_once(reader, host, answered)?;
        answered += 1;
        stream = kept.then_some(reader);
    }
    Ok(answered)
}

/// Asks over and over, each time by a connection of its own.
pub fn ask_anew(edge: SocketAddr, host: &str, over: &AtomicBool) -> Outcome {
    let mut answered = 0;
    while !over.load(Ordering::SeqCst) {
        ask_once(BufReader::new(connect(edge)?), host, answered)?;
        answered += 1;
    }
    Ok(answered)
}

/// Asks once; whether the connection may be used again.
fn ask_once(
    mut reader: BufReader<TcpStream>,
    host: &str,
    number: usize,
) -> Result<(BufReader<TcpStream>, bool), String> {
    let method = if number.is_multiple_of(2) { "GET" } else { "POST" };
    let ask = format!("{method} / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n");
    reader.get_mut().write_all(ask.as_bytes()).map_err(|error| format!("{method}: {error}"))?;
    let (mut head, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) => return Err(format!("{method}: closed after {head:?}")),
            Ok(_) => head += &line,
            Err(error) => return Err(format!("{method}: {error}")),
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|n| n.parse().unwrap());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).map_err(|error| format!("{method}: {error} within the body"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{method}: {head}{}", String::from_utf8_lossy(&body)));
    }
    Ok((reader, !head.contains("connection: close")))
}

/// Sends messages by a connection that stays open for half a second, over and over; each has to come back.
pub fn talk(to: SocketAddr, over: &AtomicBool) -> Outcome {
    let mut whole = 0;
    while !over.load(Ordering::SeqCst) {
        echo(connect(to)?, "TCP")?;
        whole += 1;
    }
    Ok(whole)
}

/// The same by a WebSocket's connection.
pub fn talk_by_websocket(edge: SocketAddr, host: &str, over: &AtomicBool) -> Outcome {
    let mut whole = 0;
    while !over.load(Ordering::SeqCst) {
        let mut stream = connect(edge)?;
        let ask = format!(
            "GET /chat HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).map_err(|error| format!("WebSocket: {error}"))?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                other => return Err(format!("WebSocket: {other:?} after {}", String::from_utf8_lossy(&head))),
            }
        }
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(format!("WebSocket: {}", String::from_utf8_lossy(&head)));
        }
        echo(stream, "WebSocket")?;
        whole += 1;
    }
    Ok(whole)
}

fn echo(mut stream: TcpStream, what: &str) -> Result<(), String> {
    for number in 0..MESSAGES {
        let said = format!("{number:08}");
        stream.write_all(said.as_bytes()).map_err(|error| format!("{what}, message {number}: {error}"))?;
        let mut heard = [0; 8];
        stream.read_exact(&mut heard).map_err(|error| format!("{what}, answer {number}: {error}"))?;
        if heard != said.as_bytes() {
            return Err(format!("{what}: {heard:?} for {said}"));
        }
    }
    Ok(())
}

/// Runs a client of HTTP/2 on a reactor of its own.
fn by_h2(over: &AtomicBool, edge: SocketAddr, path: &str, host: &str, frames: usize) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let uri = format!("http://{host}{path}");
    runtime.block_on(async {
        let mut done = 0;
        while !over.load(Ordering::SeqCst) {
            let tcp = tokio::net::TcpStream::connect(edge).await.map_err(|error| format!("connect: {error}"))?;
            let (client, connection) = h2::client::handshake(tcp).await.map_err(|e| e.to_string())?;
            let connection = tokio::spawn(connection);
            // As long as the server lets it: its goodbye shows here, before anything is asked.
            let mut idle = Some(client);
            while let Some(client) = idle.take().filter(|_| !over.load(Ordering::SeqCst)) {
                let Ok(mut client) = client.ready().await else { break };
                let request = http::Request::post(&uri).header("content-type", "application/grpc").body(()).unwrap();
                let Ok((answer, _)) = client.send_request(request, true) else { break };
                // What crosses the last goodbye is told to be unprocessed, and belongs elsewhere (RFC 9113 6.8).
                if !read(answer, frames).await.map_err(|error| format!("{path} {done}: {error}"))? {
                    break;
                }
                done += 1;
                idle = Some(client);
            }
            drop(idle);
            // Until the last stream has ended.
            drop(connection.await);
        }
        Ok(done)
    })
}

/// Whether it was answered as it must be, or not processed at all.
async fn read(answer: h2::client::ResponseFuture, frames: usize) -> Result<bool, String> {
    let answer = match tokio::time::timeout(super::PATIENCE, answer).await.map_err(|_| "no answer")? {
        Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => return Ok(false),
        answer => answer.map_err(|error| error.to_string())?,
    };
    if answer.status() != 200 {
        return Err(format!("{answer:?}"));
    }
    let mut body = answer.into_body();
    let mut bytes = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| format!("{error} after {bytes} bytes"))?;
        bytes += chunk.len();
        drop(body.flow_control().release_capacity(chunk.len()));
    }
    let trailers = body.trailers().await.map_err(|error| format!("{error} instead of trailers"))?;
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status")).map(|status| status.as_bytes());
    if bytes != frames * FRAME.len() || status != Some(b"0") {
        return Err(format!("{bytes} bytes and {trailers:?}"));
    }
    Ok(true)
}

/// Short calls over HTTP/2.
pub fn call(edge: SocketAddr, host: &str, over: &AtomicBool) -> Outcome {
    by_h2(over, edge, "/test.Rpc/Call", host, 1)
}

/// Calls over HTTP/2 whose answers stream for half a second.
pub fn stream(edge: SocketAddr, host: &str, over: &AtomicBool) -> Outcome {
    by_h2(over, edge, "/test.Rpc/Stream", host, MESSAGES)
}

/// One message of gRPC.
const FRAME: &[u8] = b"\0\0\0\0\x0bhello there";

/// A program in this process.
#[derive(Clone, Default)]
pub struct Server {
    pub port: u16,
    served: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> (Self, TcpListener) {
        let port = super::free_port();
        (Self { port, ..Self::default() }, TcpListener::bind(("127.0.0.1", port)).unwrap())
    }

    /// Requests or connections so far.
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    fn serves(&self) {
        self.served.fetch_add(1, Ordering::SeqCst);
    }

    fn each(&self, listener: TcpListener, serve: impl Fn(&Self, TcpStream) -> Option<()> + Copy + Send + 'static) {
        let own = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                drop(stream.set_nodelay(true));
                let own = own.clone();
                std::thread::Builder::new().stack_size(256 * 1024).spawn(move || serve(&own, stream)).unwrap();
            }
        });
    }
}

/// It answers HTTP/1, and talks by WebSocket.
pub fn web() -> Server {
    let (server, listener) = Server::start();
    server.each(listener, |own, mut stream| {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let (mut line, mut head) = (String::new(), String::new());
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
                head += &line.to_ascii_lowercase();
            }
            own.serves();
            if head.contains("upgrade: websocket") {
                let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                              sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                stream.write_all(agreed.as_bytes()).ok()?;
                return repeat(stream);
            }
            pause(PACE);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
        }
    });
    server
}

/// It sends back what it's sent, by and by.
pub fn repeater() -> Server {
    let (server, listener) = Server::start();
    server.each(listener, |own, stream| {
        own.serves();
        repeat(stream)
    });
    server
}

fn repeat(mut stream: TcpStream) -> Option<()> {
    let mut bytes = [0; 8];
    loop {
        stream.read_exact(&mut bytes).ok()?;
        pause(BETWEEN);
        stream.write_all(&bytes).ok()?;
    }
}

/// It answers gRPC, at once or by and by.
pub fn rpc() -> Server {
    let (server, listener) = Server::start();
    listener.set_nonblocking(true).unwrap();
    let own = server.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((tcp, _)) = listener.accept().await {
                drop(tcp.set_nodelay(true));
                let own = own.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        own.serves();
                        let frames = if request.uri().path().ends_with("Stream") { MESSAGES } else { 1 };
                        tokio::spawn(async move { drop(answer(respond, frames).await) });
                    }
                });
            }
        });
    });
    server
}

async fn answer(mut respond: h2::server::SendResponse<Bytes>, frames: usize) -> Result<(), h2::Error> {
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut body = respond.send_response(head, false)?;
    for _ in 0..frames {
        tokio::time::sleep(if frames == 1 { PACE } else { BETWEEN }).await;
        body.send_data(Bytes::from_static(FRAME), false)?;
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    body.send_trailers(trailers)
}
