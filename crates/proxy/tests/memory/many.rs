// SPDX-License-Identifier: Apache-2.0
//! Very many connections that last, all open at once through two proxies: WebSockets of either version of HTTP at either end, and
//! connections of TCP whose halves end one after the other. The right bytes reach the right one, each end is passed on as one, they
//! cost the proxies little, and nothing of them is left.

use crate::world::{HANDSHAKE, HOUR, Proxy, World, accept_of, header, loopback, status, until};
use crate::{alone, aside, held};
use byrnie_model::Protocol;
use byrnie_net::io::TcpStream;
use byrnie_net::listen::{Listener, Share, bind};
use byrnie_net::{io, runtime};
use byrnie_proxy::Hop;
use bytes::Bytes;
use h2::ext::Protocol as Asked;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream, client};
use http::{Method, Request, Response, StatusCode};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Barrier, Semaphore};

/// So many at once, and files that each may take on both sides of both proxies: where the system allows fewer there are fewer.
const MANY_MAX: u64 = 1_000;
const FILES_EACH: u64 = 16;
/// So many are being opened at any time.
const OPENING_MAX: usize = 20;
/// How long anything here may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is said on each WebSocket.
const MESSAGES: usize = 4;
/// Streams of HTTP/2 on a connection of a client.
const STREAMS_EACH: usize = 100;

/// The window of a connection of HTTP/2, as most programs have it: with it grows how many small messages this library lets wait.
const WINDOW_BYTES: u32 = 1024 * 1024;

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn many() -> usize {
    usize::try_from((runtime::open_files_max() / FILES_EACH).min(MANY_MAX)).unwrap()
}

/// Files that this process has open.
fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// So many bytes, as nobody else has them.
fn text(seed: usize, bytes: usize) -> Vec<u8> {
    let words = (0..bytes as u64 / 8 + 1).map(|at| (seed as u64 ^ at << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).take(bytes).collect()
}

/// One end of a way for bytes, in clear or in a stream of HTTP/2.
enum Pipe {
    Tcp(TcpStream),
    Stream(SendStream<Bytes>, RecvStream),
}

impl Pipe {
    async fn send(&mut self, bytes: Vec<u8>) {
        match self {
            Self::Tcp(tcp) => tcp.write_all(&bytes).await.unwrap(),
            Self::Stream(send, _) => {
                let mut bytes = Bytes::from(bytes);
                while !bytes.is_empty() {
                    send.reserve_capacity(bytes.len());
                    let granted = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                    send.send_data(bytes.split_to(granted.min(bytes.len())), false).unwrap();
                }
            }
        }
    }

    /// Nothing more is said.
    async fn end(&mut self) {
        match self {
            Self::Tcp(tcp) => tcp.shutdown().await.unwrap(),
            Self::Stream(send, _) => send.send_data(Bytes::new(), true).unwrap(),
        }
    }

    /// Reads something; false at the end.
    async fn more(&mut self, into: &mut Vec<u8>) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.read_buf(into).await.unwrap() > 0,
            Self::Stream(_, receive) => {
                let Some(chunk) = receive.data().await else { return false };
                let chunk = chunk.unwrap();
                receive.flow_control().release_capacity(chunk.len()).unwrap();
                into.extend_from_slice(&chunk);
                true
            }
        }
    }

    async fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.more(&mut all).await {}
        all
    }

    async fn read_head(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            assert!(self.more(&mut bytes).await, "no whole head");
        }
        String::from_utf8(bytes).unwrap()
    }
}

/// A frame of RFC 6455 5.2, whole, as a client masks it or as a server doesn't.
fn frame(opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let (mask, length) = (u8::from(masked) << 7, u16::try_from(payload.len()).unwrap());
    let mut bytes = vec![0x80 | opcode];
    match u8::try_from(length) {
        Ok(short @ ..126) => bytes.push(mask | short),
        _ => bytes.extend([mask | 126, (length >> 8) as u8, length as u8]),
    }
    let key = if masked { KEY } else { [0; 4] };
    if masked {
        bytes.extend(key);
    }
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A WebSocket after its handshake.
struct Socket {
    pipe: Pipe,
    bytes: Vec<u8>,
}

impl Socket {
    const fn new(pipe: Pipe) -> Self {
        Self { pipe, bytes: Vec::new() }
    }

    async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.bytes.len() < count {
            if !self.pipe.more(&mut self.bytes).await {
                assert!(self.bytes.is_empty(), "ended within a frame");
                return None;
            }
        }
        Some(self.bytes.drain(..count).collect())
    }

    /// The next frame: what it is, and what it carries.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, second] = self.take(2).await?[..] else { unreachable!() };
        let length = match second & 0x7f {
            126 => u16::from_be_bytes(self.take(2).await?.try_into().unwrap()).into(),
            short => usize::from(short),
        };
        let key = if second & 0x80 == 0 { vec![0; 4] } else { self.take(4).await? };
        let payload = if length > 0 { self.take(length).await? } else { Vec::new() };
        Some((first & 0xf, payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect()))
    }
}

/// A program's side: says all again until it's closed, and closes as RFC 6455 7 has it.
async fn echo(pipe: Pipe, path: String, closed: Arc<AtomicUsize>) {
    let (mut socket, own) = (Socket::new(pipe), path.strip_prefix("/chat/").unwrap().parse().unwrap());
    while let Some((opcode, payload)) = socket.next().await {
        socket.pipe.send(frame(opcode, false, &payload)).await;
        if opcode == CLOSE {
            socket.pipe.end().await;
            assert_eq!((payload, socket.next().await), (text(own, 2), None));
            closed.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}

async fn serve_http1(listener: Listener, closed: Arc<AtomicUsize>) {
    loop {
        let mut pipe = Pipe::Tcp(listener.accept().await.0);
        let closed = Arc::clone(&closed);
        runtime::spawn_local("http1 program", async move {
            let head = pipe.read_head().await;
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let accept = accept_of(header(&head, "sec-websocket-key").unwrap());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            );
            pipe.send(answer.into_bytes()).await;
            echo(pipe, path, closed).await;
        });
    }
}

/// The same, whose connections may have so many streams each, if that is said.
async fn serve_http2(listener: Listener, closed: Arc<AtomicUsize>, streams: Option<u32>) {
    loop {
        let (tcp, _) = listener.accept().await;
        let closed = Arc::clone(&closed);
        runtime::spawn_local("http2 program", async move {
            let mut builder = h2::server::Builder::new();
            builder.enable_connect_protocol().initial_connection_window_size(WINDOW_BYTES);
            if let Some(streams) = streams {
                builder.max_concurrent_streams(streams);
            }
            let mut connection = builder.handshake(tcp).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                runtime::spawn_local("http2 stream", answer(request, respond, Arc::clone(&closed)));
            }
        });
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, closed: Arc<AtomicUsize>) {
    assert_eq!(request.extensions().get::<Asked>().map(Asked::as_str), Some("websocket"));
    let path = request.uri().path().to_owned();
    let send = respond.send_response(Response::new(()), false).unwrap();
    echo(Pipe::Stream(send, request.into_body()), path, closed).await;
}

async fn upgrade(address: SocketAddr, n: usize) -> Pipe {
    let mut pipe = Pipe::Tcp(io::connect(address, PATIENCE).await.unwrap());
    pipe.send(HANDSHAKE.replace("/chat", &format!("/chat/{n}")).into_bytes()).await;
    let head = pipe.read_head().await;
    assert_eq!(status(&head), 101, "{head}");
    pipe
}

/// A connection of HTTP/2 whose server has said that CONNECT may be extended (RFC 8441 3).
async fn link(address: SocketAddr) -> client::SendRequest<Bytes> {
    let tcp = io::connect(address, PATIENCE).await.unwrap();
    let mut builder = client::Builder::new();
    let (send, mut connection) = builder.initial_connection_window_size(WINDOW_BYTES).handshake(tcp).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let mut pong = Box::pin(pings.ping(h2::Ping::opaque()));
    poll_fn(|cx| {
        assert!(std::pin::Pin::new(&mut connection).poll(cx).is_pending());
        pong.as_mut().poll(cx)
    })
    .await
    .unwrap();
    drop(pong);
    runtime::spawn_local("http2 client", async move {
        let _ = connection.await;
    });
    send
}

async fn extend(link: client::SendRequest<Bytes>, n: usize) -> Pipe {
    try_extend(link, n).await.unwrap()
}

/// The same, or the status by which it is refused.
async fn try_extend(link: client::SendRequest<Bytes>, n: usize) -> Result<Pipe, StatusCode> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = format!("http://chat/chat/{n}").parse().unwrap();
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request.extensions_mut().insert(Asked::from("websocket"));
    let (response, send) = link.ready().await.unwrap().send_request(request, false).unwrap();
    let response = response.await.unwrap();
    match response.status() {
        StatusCode::OK => Ok(Pipe::Stream(send, response.into_body())),
        other => Err(other),
    }
}

/// What a client says on its WebSocket, and hears again; `met` once all have been opened, and once all have been heard.
async fn chat(pipe: Pipe, n: usize, met: &Barrier) {
    let mut socket = Socket::new(pipe);
    met.wait().await;
    for at in 0..MESSAGES {
        say(&mut socket, n, text(n * MESSAGES + at, (n * 37 + at * 1_009) % 8_000)).await;
    }
    met.wait().await;
    met.wait().await;
    part(socket, n).await;
}

async fn say(socket: &mut Socket, n: usize, said: Vec<u8>) {
    socket.pipe.send(frame(BINARY, true, &said)).await;
    assert_eq!(socket.next().await.unwrap(), (BINARY, said), "{n}");
}

async fn part(mut socket: Socket, n: usize) {
    socket.pipe.send(frame(CLOSE, true, &text(n, 2))).await;
    assert_eq!(socket.next().await, Some((CLOSE, text(n, 2))));
    assert_eq!(socket.next().await, None);
    socket.pipe.end().await;
}

/// All of them at once, numbered from 1; what the proxies hold for each when all have spoken.
async fn chats(address: SocketAddr, version: Protocol, count: usize) -> i64 {
    let before = held();
    let met = Rc::new(Barrier::new(count + 1));
    let opening = Rc::new(Semaphore::new(OPENING_MAX));
    let (mut links, mut open) = (Vec::new(), Vec::new());
    for n in 1..=count {
        if version == Protocol::Http2 && n % STREAMS_EACH == 1 {
            links.push(link(address).await);
        }
        let (met, opening, link) = (Rc::clone(&met), Rc::clone(&opening), links.last().cloned());
        open.push(runtime::spawn_local("client", async move {
            let turn = opening.acquire().await.unwrap();
            let pipe = match link {
                Some(link) => extend(link, n).await,
                None => upgrade(address, n).await,
            };
            drop(turn);
            chat(pipe, n, &met).await;
        }));
    }
    met.wait().await;
    met.wait().await;
    let each = (held() - before) / i64::try_from(count).unwrap();
    met.wait().await;
    for client in open {
        client.ended().await;
    }
    each
}

/// What clients say last leaves before they do, and the program, on a core of its own, has heard so many ends.
async fn all_closed(closed: &AtomicUsize, count: usize) {
    while closed.load(Ordering::SeqCst) < count {
        tokio::task::yield_now().await;
    }
}

/// Runs `client` against a program that runs on a core of its own, neither of which is counted, behind a pair of proxies that must
/// have nothing left to do when it has ended, nor leave anything open.
fn beside<S, C>(
    (hop, protocol): (Hop, Protocol),
    serve: impl FnOnce(Listener) -> S + Send + 'static,
    client: impl FnOnce(&Proxy) -> C + Send,
) -> i64
where
    S: Future<Output = ()> + 'static,
    C: Future<Output = i64>,
{
    // What a process has for its signals is made once.
    runtime::block_on(async {}).unwrap();
    let files_before = files();
    let mut world = World::new();
    (world.hop, world.logs, world.lifetime) = (hop, false, HOUR);
    let listener = bind(loopback(), Share::Alone).unwrap();
    let mut server = world.serving("chat", listener.local_addr().port(), protocol);
    let mut caller = world.calling(&[("chat", protocol, &[&server])]);
    let (trigger, mut stop) = runtime::shutdown();
    let program = runtime::spawn_core("program", None, move || {
        aside();
        async move {
            tokio::select! {
                () = serve(listener) => {}
                () = stop.wait() => {}
            }
        }
    });
    let run = || {
        aside();
        let limited = async { runtime::timeout(PATIENCE, client(&caller)).await.expect("in time") };
        runtime::block_on(limited).unwrap()
    };
    let each = std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    assert!(caller.drain(PATIENCE) && server.drain(PATIENCE), "something was cut that had ended");
    trigger.fire();
    program.unwrap().join().unwrap();
    drop((world, caller, server));
    // Threads that are slow to end are left behind, with what they have open.
    until("nothing is open that wasn't before", || files() == files_before);
    assert_eq!(runtime::panics(), 0);
    each
}

/// `count` WebSockets of clients of `version` with a program of `protocol`.
fn websockets(version: Protocol, protocol: Protocol) -> i64 {
    let (count, closed) = (many(), Arc::new(AtomicUsize::new(0)));
    let (told, seen) = (Arc::clone(&closed), Arc::clone(&closed));
    let serve = move |listener| async move {
        match protocol {
            Protocol::Http2 => serve_http2(listener, told, None).await,
            _ => serve_http1(listener, told).await,
        }
    };
    let each = beside((Hop::Framed, protocol), serve, |caller| {
        let address = caller.outbound("chat");
        async move {
            // What is made once, and kept, is no WebSocket's.
            chats(address, version, 1).await;
            let each = chats(address, version, count).await;
            all_closed(&seen, count + 1).await;
            each
        }
    });
    println!("{count} WebSockets of {version:?} to {protocol:?}: {each} bytes for each");
    assert_eq!(closed.load(Ordering::SeqCst), count + 1);
    each
}

#[test]
fn a_thousand_websockets_of_http1_cost_little_and_get_what_is_theirs() {
    alone(|| assert!(websockets(Protocol::Http1, Protocol::Http1) <= 32 * 1024));
}

#[test]
fn a_thousand_websockets_of_http1_reach_a_program_of_http2() {
    alone(|| assert!(websockets(Protocol::Http1, Protocol::Http2) <= 32 * 1024));
}

#[test]
fn a_thousand_websockets_of_http2_cost_little_and_get_what_is_theirs() {
    alone(|| assert!(websockets(Protocol::Http2, Protocol::Http1) <= 32 * 1024));
}

#[test]
fn a_thousand_websockets_of_http2_reach_a_program_of_http2() {
    alone(|| assert!(websockets(Protocol::Http2, Protocol::Http2) <= 32 * 1024));
}

/// Streams of a connection to a program that takes few, so that the half of newcomers is small.
const STREAMS_FEW: usize = 128;

/// Nothing shows that they have read what was agreed upon, or ever will. Whoever has said something isn't one of them.
#[test]
fn clients_that_upgrade_and_say_nothing_have_no_more_than_newcomers_have() {
    let closed = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&closed);
    let serve = move |listener| serve_http2(listener, told, u32::try_from(STREAMS_FEW).ok());
    alone(|| {
        beside((Hop::Framed, Protocol::Http2), serve, |caller| {
            let address = caller.outbound("chat");
            async move {
                let known = link(address).await;
                let mut sockets = vec![Socket::new(extend(known.clone(), 0).await)];
                say(&mut sockets[0], 0, text(0, 100)).await;
                let mut stranger = link(address).await;
                let refused = loop {
                    let n = sockets.len();
                    if n.is_multiple_of(STREAMS_EACH) {
                        stranger = link(address).await;
                    }
                    match try_extend(stranger.clone(), n).await {
                        Ok(pipe) => sockets.push(Socket::new(pipe)),
                        Err(status) => break status,
                    }
                };
                assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
                // How many there can be is known with the fourth connection.
                let silent = sockets.len() - 1;
                assert!((2 * STREAMS_FEW..=3 * STREAMS_FEW).contains(&silent), "{silent}");
                for n in sockets.len()..sockets.len() + 10 {
                    sockets.push(Socket::new(extend(known.clone(), n).await));
                }
                for (n, socket) in sockets.iter_mut().enumerate() {
                    say(socket, n, text(n, 100)).await;
                }
                let n = sockets.len();
                sockets.push(Socket::new(extend(link(address).await, n).await));
                let count = sockets.len();
                for (n, socket) in sockets.into_iter().enumerate() {
                    part(socket, n).await;
                }
                all_closed(&closed, count).await;
                0
            }
        });
    });
}

/// Whose half ends first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Client,
    Program,
}

/// What client `n` says, and what it's answered; of one in fifty more than a stream of the hop may have under way.
fn said(n: usize) -> (Vec<u8>, Vec<u8>) {
    let bytes = |seed: usize| if n.is_multiple_of(50) { 300_000 } else { 500 + seed * 37 % 8_000 };
    (text(2 * n, bytes(n)), text(2 * n + 1, bytes(n + 1)))
}

/// A program that is told by four bytes which client it is that it serves, and whose half ends first by another one; half of each
/// has ended when it and all the others go on.
async fn serve_halves(listener: Listener, count: usize, ended: Arc<AtomicUsize>) {
    let met = Rc::new(Barrier::new(count));
    loop {
        let (mut tcp, _) = listener.accept().await;
        let (met, ended) = (Rc::clone(&met), Arc::clone(&ended));
        runtime::spawn_local("program", async move {
            let (n, first) = (tcp.read_u32().await.unwrap(), tcp.read_u8().await.unwrap());
            let (question, answer) = said(n as usize);
            let mut pipe = Pipe::Tcp(tcp);
            if first == First::Program as u8 {
                pipe.send(answer).await;
                pipe.end().await;
                assert!(pipe.read_to_end().await == question, "{n}: said after the program's end");
            } else {
                assert!(pipe.read_to_end().await == question, "{n}: said before its end");
                met.wait().await;
                pipe.send(answer).await;
                pipe.end().await;
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
    }
}

/// Client `n`, by CONNECT if that is said.
async fn halve((address, connect): (SocketAddr, bool), n: usize, first: First, (turn, met): (&Semaphore, &Barrier)) {
    let turn = turn.acquire().await.unwrap();
    let mut pipe = Pipe::Tcp(io::connect(address, PATIENCE).await.unwrap());
    if connect {
        pipe.send(b"CONNECT chat:80 HTTP/1.1\r\nhost: chat:80\r\n\r\n".to_vec()).await;
        let head = pipe.read_head().await;
        assert_eq!(status(&head), 200, "{head}");
    }
    let (question, answer) = said(n);
    let mut opening = u32::try_from(n).unwrap().to_be_bytes().to_vec();
    opening.push(first as u8);
    pipe.send(opening).await;
    drop(turn);
    if first == First::Program {
        assert!(pipe.read_to_end().await == answer, "{n}: before the program's end");
        met.wait().await;
        pipe.send(question).await;
        pipe.end().await;
    } else {
        pipe.send(question).await;
        pipe.end().await;
        assert!(pipe.read_to_end().await == answer, "{n}: after its own end");
    }
}

/// As many of each kind, all at once, each with one half ended while the other goes on.
fn halves(hop: Hop, count: usize, connect: bool) {
    let ended = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&ended);
    beside(
        (hop, Protocol::Tcp),
        move |listener| serve_halves(listener, count, told),
        |caller| {
            let address = if connect { caller.ports.forward.unwrap() } else { caller.outbound("chat") };
            async move {
                let (turn, met) = (Rc::new(Semaphore::new(OPENING_MAX)), Rc::new(Barrier::new(count)));
                let open: Vec<_> = (0..2 * count)
                    .map(|n| {
                        let (turn, met) = (Rc::clone(&turn), Rc::clone(&met));
                        let first = if n % 2 == 0 { First::Client } else { First::Program };
                        runtime::spawn_local("client", async move {
                            halve((address, connect), n, first, (&turn, &met)).await;
                        })
                    })
                    .collect();
                for client in open {
                    client.ended().await;
                }
                0
            }
        },
    );
    assert_eq!(ended.load(Ordering::SeqCst), 2 * count);
}

#[test]
fn a_thousand_connections_end_one_half_first_at_either_end() {
    alone(|| halves(Hop::Framed, many() / 2, false));
}

#[test]
fn hundreds_of_connections_of_their_own_between_proxies_end_one_half_first() {
    alone(|| halves(Hop::Http1, many() / 4, false));
}

#[test]
fn hundreds_of_tunnels_by_connect_end_one_half_first() {
    alone(|| halves(Hop::Framed, many() / 2, true));
}
