// SPDX-License-Identifier: Apache-2.0
//! Programs that record all that reaches them, and answer each whole request with its target. What they recorded is
//! judged once their connections have ended: it must be requests and nothing else.

use crate::frame::{ACK, CONTINUATION, DATA, END_STREAM, HEADERS, Link, PREFACE, RST_STREAM, SETTINGS};
use crate::front::out;
use crate::hpack::{Block, Lines};
use crate::strict::{self, Message, Stop};
use crate::world::{PATIENCE, Peer, Program, Proxy};
use byrnie_net::runtime;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A request, as a program or a client understands it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
}

/// What reached a program.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    pub(crate) whole: Vec<Asked>,
    /// Method and target of the requests whose body was cut.
    pub(crate) cut: Vec<(String, String)>,
    /// Heads of HTTP/1, as bytes.
    pub(crate) heads: Vec<Vec<u8>>,
}

/// One stream of HTTP/2: its header blocks, its bytes, and how it ended.
#[derive(Debug, Default)]
struct Recorded {
    blocks: Vec<Lines>,
    data: Vec<u8>,
    ended: bool,
    reset: bool,
    /// More came after its end.
    late: bool,
}

type Streams = BTreeMap<u32, Recorded>;

/// The connections to a program: of HTTP/1 their bytes, of HTTP/2 their streams.
#[derive(Default)]
struct Book {
    bytes: Vec<Vec<u8>>,
    streams: Vec<Streams>,
}

pub(crate) struct Recorder {
    program: Program,
    book: Arc<Mutex<Book>>,
    ended: Arc<AtomicUsize>,
}

impl Recorder {
    fn start(serve: fn(Peer, &Mutex<Book>)) -> Self {
        let (book, ended) = (Arc::<Mutex<Book>>::default(), Arc::<AtomicUsize>::default());
        let (pages, count) = (Arc::clone(&book), Arc::clone(&ended));
        let program = Program::start(move |peer| {
            serve(peer, &pages);
            count.fetch_add(1, Ordering::SeqCst);
        });
        Self { program, book, ended }
    }

    /// A program of HTTP/1.
    pub(crate) fn http1() -> Self {
        Self::start(serve_http1)
    }

    /// A program of HTTP/2.
    pub(crate) fn http2() -> Self {
        Self::start(serve_http2)
    }

    pub(crate) fn port(&self) -> u16 {
        self.program.port
    }

    /// Ends the proxies, and judges what they have sent to the program.
    pub(crate) fn reached(self, proxies: impl IntoIterator<Item = Proxy>) -> Reached {
        for mut proxy in proxies {
            proxy.drain(PATIENCE);
        }
        let deadline = runtime::now().mono + PATIENCE;
        while self.ended.load(Ordering::SeqCst) < self.program.accepted.load(Ordering::SeqCst) {
            assert!(runtime::now().mono < deadline, "a connection to the program outlives the proxies");
            std::thread::yield_now();
        }
        let book = self.book.lock().unwrap();
        let mut reached = Reached::default();
        book.bytes.iter().for_each(|bytes| reached.add_bytes(bytes));
        book.streams.iter().flat_map(Streams::values).for_each(|stream| reached.add_stream(stream));
        reached
    }
}

impl Reached {
    fn add_bytes(&mut self, bytes: &[u8]) {
        let (messages, cut) = strict::read_all(bytes).unwrap_or_else(|wrong| panic!("{wrong}"));
        let mut at = 0;
        for Message { method, target, body, head_bytes, bytes: length } in messages {
            self.heads.push(bytes[at..at + head_bytes].to_vec());
            at += length;
            self.whole.push(Asked { method, target, body });
        }
        self.cut.extend(cut);
    }

    fn add_stream(&mut self, stream: &Recorded) {
        let lines = &stream.blocks[0];
        let told = |name: &str| -> Vec<String> {
            lines.iter().filter(|(found, _)| found == name).map(|(_, value)| value.clone()).collect()
        };
        let one = |name: &str| {
            let values = told(name);
            assert!(values.len() == 1, "{name}: {values:?}: {stream:?}");
            values.into_iter().next().unwrap()
        };
        let (method, target) = (one(":method"), one(":path"));
        assert!(!one(":authority").is_empty() && told("host").is_empty(), "{stream:?}");
        let visible = target.bytes().all(|b| (b'!'..=b'~').contains(&b) && b != b'#');
        assert!(visible && (target.starts_with('/') || target == "*"), "{stream:?}");
        let pseudo = lines.iter().take_while(|(name, _)| name.starts_with(':')).count();
        assert!(pseudo == 4, "{stream:?}");
        let blocks = stream.blocks.iter();
        for (name, value) in blocks.flat_map(|lines| lines.iter().filter(|(name, _)| !name.starts_with(':'))) {
            let token = name
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !b"\"(),/:;<=>?@[\\]{}".contains(&b));
            let of_one =
                ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];
            let te = name == "te" && value != "trailers";
            assert!(token && !name.is_empty() && !te && !of_one.contains(&&name[..]), "{name}: {stream:?}");
            assert!(!value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f), "{name}: {stream:?}");
        }
        let trailers = stream.blocks[1..].iter().flatten();
        assert!(stream.blocks.len() <= 2 && !stream.late, "{stream:?}");
        assert!(trailers.into_iter().all(|(name, _)| !name.starts_with(':') && name != "content-length"), "{stream:?}");
        if !stream.ended || stream.reset {
            return self.cut.push((method, target));
        }
        let lengths = told("content-length");
        let holds = lengths.iter().all(|length| *length == stream.data.len().to_string());
        assert!(lengths.len() <= 1 && holds, "{stream:?}");
        self.whole.push(Asked { method, target, body: stream.data.clone() });
    }
}

fn serve_http1(mut peer: Peer, book: &Mutex<Book>) {
    let mine = {
        let mut book = book.lock().unwrap();
        book.bytes.push(Vec::new());
        book.bytes.len() - 1
    };
    let (mut unread, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    while let Ok(count @ 1..) = peer.stream.read(&mut chunk) {
        book.lock().unwrap().bytes[mine].extend_from_slice(&chunk[..count]);
        unread.extend_from_slice(&chunk[..count]);
        loop {
            let (message, length) = match strict::read(&unread) {
                Ok(read) => read,
                Err(Stop::Partial(_)) => break,
                // Whoever waits for an answer needn't wait for long.
                Err(Stop::Malformed(_)) => return,
            };
            unread.drain(..length);
            let body = if message.method == "HEAD" { "" } else { &message.target };
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", message.target.len()));
        }
    }
}

fn serve_http2(peer: Peer, book: &Mutex<Book>) {
    let (mut link, mut streams) = (Link::over(peer.stream), Streams::new());
    if !link.skip(PREFACE.len()) {
        return;
    }
    // As much as all requests of a test, so that no window is ever used up.
    link.send(out().setting(4, 1 << 30).window(0, 1 << 30));
    loop {
        let Some(frame) = link.read() else {
            // It may rest for long, but not within a frame.
            if std::mem::take(&mut link.silent) {
                continue;
            }
            break;
        };
        if !matches!(frame.kind, HEADERS | CONTINUATION | DATA | RST_STREAM) {
            if frame.kind == SETTINGS && !frame.has(ACK) {
                link.send(out().frame(SETTINGS, ACK, 0, []));
            }
            continue;
        }
        let stream = streams.entry(frame.id).or_default();
        stream.late |= stream.ended && frame.kind != RST_STREAM;
        stream.reset |= frame.kind == RST_STREAM;
        match frame.kind {
            HEADERS | CONTINUATION => stream.blocks.extend(link.lines(&frame)),
            DATA => stream.data.extend_from_slice(&frame.payload),
            _ => {}
        }
        if frame.kind != RST_STREAM && frame.kind != CONTINUATION && frame.has(END_STREAM) {
            stream.ended = true;
            let lines = stream.blocks.first().into_iter().flatten();
            let told = |wanted: &str| lines.clone().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
            let (method, target) = (told(":method"), told(":path").unwrap_or_default());
            let head = Block::status("200").line("content-length", target.len().to_string());
            let body = if method == Some("HEAD") { "" } else { target };
            link.send(out().head(frame.id, head).last(frame.id, body));
        }
    }
    book.lock().unwrap().streams.push(streams);
}
