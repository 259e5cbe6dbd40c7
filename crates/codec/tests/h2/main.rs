// SPDX-License-Identifier: Apache-2.0
//! The same messages through our HTTP/2 and through the `h2` crate, each as either side of a connection: what one
//! says the other must read alike, whatever lines and bodies it has.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use byrnie_base::Rng;
use byrnie_codec::h2::{Event, Session, Side};
use byrnie_codec::{Fields, Framing, Head};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Exchanges in one run, all at once.
const EXCHANGES: usize = 40;
const RUNS: u64 = 12;

/// One message as both sides should know it: first line, lines in order of their names, body, trailers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message {
    start: String,
    lines: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

type Lines = Vec<(String, Vec<u8>)>;

fn lines(rng: &mut Rng) -> Lines {
    // Few names and values, so that they repeat and tables are used; some that are long, and some of any bytes.
    let names = ["accept", "user-agent", "x-a", "x-b", "x-tenant-of-somebody", "authorization", "etag", "grpc-status"];
    let mut lines: Lines = Vec::new();
    for name in names {
        if rng.below(2) == 0 {
            continue;
        }
        let value = match rng.below(8) {
            0 => Vec::new(),
            1 => (0..rng.below(60)).map(|_| b' ' + 1 + rng.below(94) as u8).collect(),
            2 => (0..rng.below(20)).map(|_| 0x80 | rng.below(128) as u8).collect(),
            3 => vec![b'v'; rng.below(6_000) as usize],
            n => format!("value {n}").into_bytes(),
        };
        lines.push((name.to_owned(), value));
    }
    lines.sort();
    lines
}

fn message(rng: &mut Rng, start: String) -> Message {
    let body = vec![b'b'; (rng.below(3) * rng.below(300) * rng.below(300)) as usize];
    let mut trailers = if rng.below(2) == 0 { Vec::new() } else { lines(rng) };
    // Neither may stand there.
    trailers.retain(|(name, _)| name != "accept" && name != "authorization");
    // Of a request's no more than 8 KiB are taken.
    trailers.iter_mut().for_each(|(_, value)| value.truncate(1_000));
    Message { start, lines: lines(rng), body, trailers }
}

fn request_of(n: usize, rng: &mut Rng) -> Message {
    message(rng, format!("POST shop:80 /{n}?q"))
}

fn answer_to(n: usize, rng: &mut Rng) -> Message {
    message(rng, (400 + n).to_string())
}

fn to_head(message: &Message) -> Head {
    let mut head = Head::new();
    match message.start.split(' ').collect::<Vec<_>>()[..] {
        [method, authority, path] => head.start_request(method, "http", authority, path).unwrap(),
        _ => head.start_response(message.start.parse().unwrap()),
    }
    message.lines.iter().for_each(|(name, value)| head.append(name, value).unwrap());
    head.set_framing(Framing::Stream);
    head
}

fn of_head(head: &Head) -> Message {
    let start = match head.status() {
        0 => format!("{} {} {}", head.method(), head.authority(), head.path_and_query()),
        status => status.to_string(),
    };
    Message { start, lines: sorted(head.headers()), ..Message::default() }
}

fn sorted<'a>(lines: impl Iterator<Item = (&'a str, &'a [u8])>) -> Lines {
    let mut all: Lines = lines.map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
    all.sort();
    all
}

fn of_map(map: &HeaderMap) -> Lines {
    sorted(map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

fn to_map(lines: &Lines) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value[..].try_into().unwrap()))
        .collect()
}

fn to_fields(lines: &Lines) -> Fields {
    let mut fields = Fields::new();
    lines.iter().for_each(|(name, value)| fields.append(name, value).unwrap());
    fields
}

/// Our side: sends `say` (as a client at once, as a server when a request has come whole), and notes what it hears by
/// the stream's place in the order of streams.
async fn ours(socket: DuplexStream, side: Side, say: Vec<Message>) -> BTreeMap<usize, Message> {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let mut session = Session::new(side);
    let (mut heard, mut whole) = (BTreeMap::<usize, Message>::new(), 0);
    let mut out: Vec<(u32, usize, usize)> = Vec::new();
    if side == Side::Client {
        for (n, message) in say.iter().enumerate() {
            out.push((session.ask(n as u32, &to_head(message), None, false).unwrap(), n, 0));
        }
    }
    let mut buffer = vec![0; 9_000];
    while whole < say.len() || !out.is_empty() || !session.waiting().is_empty() {
        out.retain_mut(|(id, n, sent)| {
            let message = &say[*n];
            while let more @ 1.. = session.write(*id, &message.body[*sent..]).unwrap() {
                *sent += more;
            }
            let ends = *sent == message.body.len();
            if ends {
                let trailers = to_fields(&message.trailers);
                session.end(*id, Some(&trailers).filter(|fields| !fields.is_empty()));
            }
            !ends
        });
        let read = tokio::select! {
            read = reader.read(&mut buffer), if whole < say.len() || !out.is_empty() => read.unwrap(),
            sent = writer.write(session.waiting()), if !session.waiting().is_empty() => {
                session.advance(sent.unwrap());
                continue;
            }
        };
        assert!(read > 0, "closed after {whole} messages");
        let mut rest = &buffer[..read];
        while let Some(event) = session.next(&mut rest).unwrap() {
            let ended = match event {
                Event::Opened { id, head, .. } => {
                    session.bind(id, id);
                    heard.insert(id as usize / 2, of_head(&head.unwrap()));
                    None
                }
                Event::Answered { key, head, .. } => {
                    heard.insert(key as usize, of_head(&head));
                    None
                }
                Event::Body { key, bytes, ended } => {
                    let (id, place) = if side == Side::Server { (key, key / 2) } else { (2 * key + 1, key) };
                    heard.get_mut(&(place as usize)).unwrap().body.extend_from_slice(bytes);
                    session.consume(id, bytes.len());
                    ended.then_some(key)
                }
                Event::Trailers { key, fields } => {
                    let place = if side == Side::Server { key / 2 } else { key };
                    heard.get_mut(&(place as usize)).unwrap().trailers = sorted(fields.iter());
                    Some(key)
                }
                Event::Reset { key, why } => panic!("stream {key} was reset: {why:?}"),
                Event::Malformed { reason } => panic!("a request was none: {reason:?}"),
                Event::Room { .. } | Event::Settled | Event::Goodbye => None,
            };
            if let Some(key) = ended {
                whole += 1;
                if side == Side::Server {
                    let n = key as usize / 2;
                    let head = to_head(&say[n]);
                    assert!(session.answer_with(key, &head, head.status(), None, false));
                    out.push((key, n, 0));
                }
            }
        }
    }
    heard
}

async fn send(mut stream: h2::SendStream<Bytes>, message: &Message) {
    let mut body = Bytes::from(message.body.clone());
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        stream.send_data(body.split_to(granted.min(body.len())), false).unwrap();
    }
    if message.trailers.is_empty() {
        stream.send_data(Bytes::new(), true).unwrap();
    } else {
        stream.send_trailers(to_map(&message.trailers)).unwrap();
    }
}

async fn receive(mut stream: h2::RecvStream, mut message: Message) -> Message {
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        message.body.extend_from_slice(&piece);
    }
    message.trailers = stream.trailers().await.unwrap().map(|map| of_map(&map)).unwrap_or_default();
    message
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test());
}

fn messages(seed: u64) -> (Vec<Message>, Vec<Message>) {
    let mut rng = Rng::new(seed);
    (
        (0..EXCHANGES).map(|n| request_of(n, &mut rng)).collect(),
        (0..EXCHANGES).map(|n| answer_to(n, &mut rng)).collect(),
    )
}

fn expect(heard: &BTreeMap<usize, Message>, said: &[Message], seed: u64) {
    assert_eq!(heard.len(), said.len(), "seed {seed}");
    for (n, message) in said.iter().enumerate() {
        assert!(heard[&n] == *message, "seed {seed}, message {n}: {:?} for {:?}", heard[&n].lines, message.lines);
    }
}

#[test]
fn our_server_and_their_client_read_each_other() {
    for seed in 0..RUNS {
        run(async || {
            let (requests, answers) = messages(seed);
            let (here, there) = tokio::io::duplex(30_000);
            let server = tokio::task::spawn_local(ours(here, Side::Server, answers.clone()));
            let (client, connection) =
                h2::client::Builder::new().initial_window_size(20_000).handshake(there).await.unwrap();
            tokio::task::spawn_local(async { drop(connection.await) });
            let heard = Rc::new(RefCell::new(BTreeMap::new()));
            let mut asked = Vec::new();
            for (n, message) in requests.clone().into_iter().enumerate() {
                let (mut client, heard) = (client.clone().ready().await.unwrap(), Rc::clone(&heard));
                let path = message.start.split(' ').next_back().unwrap().to_owned();
                let mut request = Request::post(format!("http://shop:80{path}")).body(()).unwrap();
                *request.headers_mut() = to_map(&message.lines);
                let (answer, stream) = client.send_request(request, false).unwrap();
                asked.push(tokio::task::spawn_local(async move {
                    send(stream, &message).await;
                    let (parts, stream) = answer.await.unwrap().into_parts();
                    let start = parts.status.as_u16().to_string();
                    let begun = Message { start, lines: of_map(&parts.headers), ..Message::default() };
                    let message = receive(stream, begun).await;
                    heard.borrow_mut().insert(n, message);
                }));
            }
            for task in asked {
                task.await.unwrap();
            }
            expect(&heard.borrow(), &answers, seed);
            expect(&server.await.unwrap(), &requests, seed);
        });
    }
}

#[test]
fn our_client_and_their_server_read_each_other() {
    for seed in 0..RUNS {
        run(async || {
            let (requests, answers) = messages(seed);
            let (here, there) = tokio::io::duplex(30_000);
            let heard = Rc::new(RefCell::new(BTreeMap::new()));
            let (noted, said) = (Rc::clone(&heard), answers.clone());
            tokio::task::spawn_local(async move {
                let mut server = h2::server::Builder::new().initial_window_size(20_000).handshake(there).await.unwrap();
                while let Some(accepted) = server.accept().await {
                    let Ok((request, mut respond)) = accepted else { return };
                    let (noted, said) = (Rc::clone(&noted), said.clone());
                    tokio::task::spawn_local(async move {
                        let (parts, stream) = request.into_parts();
                        let (authority, path) = (parts.uri.authority().unwrap(), parts.uri.path_and_query().unwrap());
                        let start = format!("{} {authority} {path}", parts.method);
                        let n: usize = parts.uri.path()[1..].parse().unwrap();
                        let begun = Message { start, lines: of_map(&parts.headers), ..Message::default() };
                        let message = receive(stream, begun).await;
                        noted.borrow_mut().insert(n, message);
                        let mut answer = Response::builder().status(400 + n as u16).body(()).unwrap();
                        *answer.headers_mut() = to_map(&said[n].lines);
                        send(respond.send_response(answer, false).unwrap(), &said[n]).await;
                    });
                }
            });
            expect(&ours(here, Side::Client, requests.clone()).await, &answers, seed);
            expect(&heard.borrow(), &requests, seed);
        });
    }
}
