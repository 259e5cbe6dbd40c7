// SPDX-License-Identifier: Apache-2.0
//! A server for gRPC's negative cases of HTTP/2 (its `doc/negative-http2-interop-test-descriptions.md`), on bare frames, so that it
//! may do what no library does. Of what is asked it reads nothing but the message: its field `case` says what comes back, step by step.

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// The longest frame that anybody takes unasked.
const FRAME_BYTES_MAX: usize = 16_384;
/// What may be sent before there is a word about it.
const WINDOW_BYTES: i64 = 65_535;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// `:status: 200`, and `content-type: application/grpc`, by HPACK without its tables.
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`, likewise.
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// Bytes of an answer, as the cases have it.
const ANSWER_BYTES: usize = 314_159;

/// What was seen since it was last told.
#[derive(Default)]
struct Seen {
    /// The connection of each call that was answered.
    served: Vec<usize>,
    /// Pings that were sent, and how many of them answered.
    pings: (usize, usize),
    /// How many streams were open at once, at most, where one alone may be.
    most: usize,
    /// Whether connections are told so as they begin.
    limited: bool,
    /// Calls that came on a stream which a GOAWAY had left out.
    left_out: usize,
    /// A connection was left amid its calls.
    left: bool,
}

enum Step {
    /// Sends SETTINGS, and goes on once they are in force.
    Limit,
    /// Sends a PING, and goes on once it's answered.
    Ping,
    Head,
    Data(BytesMut),
    Trailers,
    /// RST_STREAM, without an error.
    Reset,
    /// GOAWAY: this stream is the last.
    Goaway,
}

/// A call on its way.
#[derive(Default)]
struct Stream {
    asked: BytesMut,
    window: i64,
    steps: VecDeque<Step>,
    /// What was sent that is to be acknowledged before it goes on.
    waits: bool,
}

struct Connection {
    number: usize,
    seen: Arc<Mutex<Seen>>,
    out: BytesMut,
    window: i64,
    initial_window: i64,
    streams: BTreeMap<u32, Stream>,
    /// Whether each SETTINGS that is unacknowledged allows but one stream.
    unacknowledged: VecDeque<bool>,
    limited: bool,
    /// The last stream that is served, once it has been told.
    last: Option<u32>,
}

pub(super) async fn serve(listener: TcpListener) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut number = 0;
    while let Ok((stream, _)) = listener.accept().await {
        number += 1;
        let limited = seen.lock().unwrap().limited;
        let mut connection = Connection {
            number,
            seen: Arc::clone(&seen),
            out: BytesMut::new(),
            window: WINDOW_BYTES,
            initial_window: WINDOW_BYTES,
            streams: BTreeMap::new(),
            unacknowledged: VecDeque::new(),
            limited: false,
            last: None,
        };
        connection.settings(limited);
        // How a connection ends is its client's business.
        tokio::spawn(async move { drop(connection.run(stream).await) });
    }
}

/// The message of a call: JSON, a line end, and what isn't looked at.
fn fields(asked: &[u8]) -> Value {
    let message = asked.get(5..).unwrap_or_default();
    let end = message.iter().position(|byte| *byte == b'\n').unwrap_or(message.len());
    serde_json::from_slice(&message[..end]).unwrap_or_default()
}

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> BytesMut {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed
}

impl Connection {
    async fn run(&mut self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await?;
        assert_eq!(preface, PREFACE, "not HTTP/2");
        loop {
            self.go_on();
            stream.write_all(&self.out.split()).await?;
            let mut head = [0; FRAME_HEAD_BYTES];
            stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            assert!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await?;
            self.take(head[3], head[4], id, &payload);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        self.out.put_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.put_slice(&[kind, flags]);
        self.out.put_u32(id);
        self.out.put_slice(payload);
    }

    fn settings(&mut self, limited: bool) {
        let one = [&MAX_CONCURRENT_STREAMS.to_be_bytes()[..], &1_u32.to_be_bytes()].concat();
        self.frame(SETTINGS, 0, 0, if limited { &one } else { &[] });
        self.unacknowledged.push_back(limited);
    }

    fn take(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let seen = Arc::clone(&self.seen);
        let mut seen = seen.lock().unwrap();
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            HEADERS if self.last.is_some_and(|last| id > last) => seen.left_out += 1,
            HEADERS => {
                self.streams.entry(id).or_insert_with(|| Stream { window: self.initial_window, ..Stream::default() });
                if self.limited {
                    seen.most = seen.most.max(self.streams.len());
                }
            }
            DATA => self.take_data(flags, id, payload),
            RST_STREAM => drop(self.streams.remove(&id)),
            SETTINGS if flags & ACK != 0 => {
                self.limited |= self.unacknowledged.pop_front().unwrap();
                self.answered(|step| matches!(step, Step::Limit));
            }
            SETTINGS => {
                for at in (0..payload.len()).step_by(6) {
                    if payload[at..at + 2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                        let grown = i64::from(number(at + 2)) - self.initial_window;
                        self.initial_window += grown;
                        self.streams.values_mut().for_each(|stream| stream.window += grown);
                    }
                }
                self.frame(SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK != 0 => {
                seen.pings.1 += 1;
                self.answered(|step| matches!(step, Step::Ping));
            }
            PING => self.frame(PING, ACK, 0, payload),
            WINDOW_UPDATE if id == 0 => self.window += i64::from(number(0)),
            WINDOW_UPDATE => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.window += i64::from(number(0));
                }
            }
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            self.plan(id, &mut seen);
        }
    }

    fn take_data(&mut self, flags: u8, id: u32, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        let more = (payload.len() as u32).to_be_bytes();
        self.frame(WINDOW_UPDATE, 0, 0, &more);
        if let Some(stream) = self.streams.get_mut(&id) {
            let (start, padding) = if flags & PADDED == 0 { (0, 0) } else { (1, payload[0] as usize) };
            stream.asked.extend_from_slice(&payload[start..payload.len() - padding]);
            self.frame(WINDOW_UPDATE, 0, id, &more);
        }
    }

    /// One call goes on whose step this is.
    fn answered(&mut self, is: impl Fn(&Step) -> bool) {
        let waits = |stream: &&mut Stream| stream.waits && stream.steps.front().is_some_and(&is);
        if let Some(stream) = self.streams.values_mut().find(waits) {
            stream.waits = false;
            stream.steps.pop_front();
        }
    }

    /// What a call that has been read is answered.
    fn plan(&mut self, id: u32, seen: &mut Seen) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let case = fields(&stream.asked)["case"].as_str().unwrap_or_default().to_owned();
        let mut answer = framed(&[b'x'; ANSWER_BYTES]);
        let half = answer.split_to(ANSWER_BYTES / 2);
        let (first, second) = (Step::Data(half), Step::Data(answer));
        stream.steps = match &*case {
            "rst_after_header" => [Step::Head, Step::Reset].into(),
            "rst_during_data" => [Step::Head, first, Step::Reset].into(),
            "rst_after_data" => [Step::Head, first, second, Step::Reset].into(),
            "goaway" => [Step::Head, first, second, Step::Trailers, Step::Goaway].into(),
            "goaway_amid_calls" if !std::mem::replace(&mut seen.left, true) => {
                [Step::Goaway, Step::Head, first, second, Step::Trailers].into()
            }
            "ping" => {
                let ping = || Step::Ping;
                [ping(), Step::Head, ping(), ping(), first, second, ping(), Step::Trailers].into()
            }
            "max_streams" if !std::mem::replace(&mut seen.limited, true) => {
                [Step::Limit, Step::Head, first, second, Step::Trailers].into()
            }
            "told" => {
                let told = json!({
                    "served": seen.served, "most": seen.most, "left_out": seen.left_out,
                    "pings": [seen.pings.0, seen.pings.1],
                });
                *seen = Seen::default();
                [Step::Head, Step::Data(framed(told.to_string().as_bytes())), Step::Trailers].into()
            }
            _ => [Step::Head, first, second, Step::Trailers].into(),
        };
        if case != "told" {
            seen.served.push(self.number);
        }
    }

    /// Each call goes as far as it may.
    fn go_on(&mut self) {
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            while self.step(id) {}
        }
    }

    /// Whether a call has gone a step further, and isn't at its end.
    fn step(&mut self, id: u32) -> bool {
        let Some(mut stream) = self.streams.remove(&id) else { return false };
        let moved = !stream.waits && self.take_step(id, &mut stream);
        let over = moved && stream.steps.is_empty();
        if !over {
            self.streams.insert(id, stream);
        }
        moved && !over
    }

    /// Whether there was a step that could be taken, in part at least.
    fn take_step(&mut self, id: u32, stream: &mut Stream) -> bool {
        match stream.steps.front_mut() {
            None => return false,
            Some(Step::Limit) => {
                self.settings(true);
                stream.waits = true;
                return false;
            }
            Some(Step::Ping) => {
                self.seen.lock().unwrap().pings.0 += 1;
                self.frame(PING, 0, 0, b"are you?");
                stream.waits = true;
                return false;
            }
            Some(Step::Data(left)) => {
                let room = self.window.min(stream.window).clamp(0, FRAME_BYTES_MAX as i64) as usize;
                if room == 0 {
                    return false;
                }
                let piece = left.split_to(room.min(left.len()));
                self.window -= piece.len() as i64;
                stream.window -= piece.len() as i64;
                self.frame(DATA, 0, id, &piece);
                if !left.is_empty() {
                    return true;
                }
            }
            Some(Step::Head) => self.frame(HEADERS, END_HEADERS, id, HEAD),
            Some(Step::Trailers) => self.frame(HEADERS, END_HEADERS | END_STREAM, id, TRAILERS),
            Some(Step::Reset) => self.frame(RST_STREAM, 0, id, &0_u32.to_be_bytes()),
            Some(Step::Goaway) => {
                let last = [id.to_be_bytes(), 0_u32.to_be_bytes()].concat();
                self.frame(GOAWAY, 0, 0, &last);
                self.last = Some(id);
                // What came behind it is nobody's from now on.
                self.seen.lock().unwrap().left_out += self.streams.split_off(&id).len();
            }
        }
        stream.steps.pop_front();
        true
    }
}
