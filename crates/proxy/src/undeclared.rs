// SPDX-License-Identifier: Apache-2.0
//! A connection to a port whose protocol nobody declared. What the client says first tells what it speaks. One that says
//! nothing may be waiting for the server: then an opaque connection is opened as well, and whoever speaks first decides. If it's
//! the server, or a client that doesn't begin with HTTP, the connection stays opaque; if it's a client of HTTP, the opaque one is
//! closed without a byte on it. Called by `connection`.

use crate::connection::{self, HEAD_MAX};
use crate::door::{Caller, Entry};
use crate::tunnel::{self, Way};
use crate::worker::Core;
use byrnie_codec::sniff::Sniff;
use byrnie_net::http;
use byrnie_net::io::Stream;
use byrnie_net::runtime;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// How long a client may stop amid what may become the first word of HTTP.
const WORD_MAX: Duration = Duration::from_millis(200);
/// What is read of what a server says first; the rest follows.
const SAID_BYTES: usize = 512;

/// What a client's first bytes are.
enum Word {
    Http1,
    Http2,
    /// Something else, or nothing and the end of its half.
    Opaque,
    /// The connection broke.
    Broken,
}

/// How a connection goes on.
enum Course<'a> {
    Http1,
    Http2,
    /// By this way, if one is open already.
    Opaque(Option<Box<Way<'a>>>),
    Over,
}

/// Serves such a connection to its end; `bytes` have been read of it already.
pub(crate) async fn serve(core: &Rc<Core>, caller: Caller, mut stream: Stream, mut bytes: Vec<u8>) {
    let mut said = Vec::new();
    match Box::pin(settle(core, &caller, (&mut stream, &mut bytes), &mut said)).await {
        Course::Http1 => Box::pin(connection::serve_h1(core, caller, stream, bytes)).await,
        Course::Http2 => Box::pin(connection::serve_h2(core, caller, stream, bytes)).await,
        Course::Opaque(Some(way)) => Box::pin(way.pass(core, &caller, stream.into(), bytes, said)).await,
        Course::Opaque(None) => Box::pin(tunnel::serve(core, &caller, stream.into(), bytes)).await,
        Course::Over => {}
    }
}

/// Finds out how a connection goes on. What is read of the client is added to `bytes`, of the server to `said`.
async fn settle<'a>(
    core: &'a Rc<Core>,
    caller: &Caller,
    (stream, bytes): (&mut Stream, &mut Vec<u8>),
    said: &mut Vec<u8>,
) -> Course<'a> {
    let Entry::Service(service, port) = &caller.entry else { return Course::Opaque(None) };
    let snapshot = core.snapshot();
    let silence = core.with_shard(|shard, _| shard.silence(&snapshot, service, *port));
    let early = runtime::timeout(silence, word(stream, bytes)).await;
    if let Ok(found) = early {
        return Course::of(found, None);
    }
    let mut closing = core.closing(false);
    let mut word = std::pin::pin!(word(stream, bytes));
    let mut opening = Box::pin(Way::open(core, caller, None));
    let mut way = tokio::select! {
        biased;
        found = &mut word => {
            if matches!(found, Word::Http1 | Word::Http2) {
                core.with_shard(|shard, _| shard.spoken(&snapshot, service, *port, false));
            }
            let way = if matches!(found, Word::Opaque) { Some(Box::new(opening.await)) } else { None };
            return Course::of(found, way);
        }
        way = &mut opening => Box::new(way.resting()),
        () = &mut closing => return Course::Over,
    };
    let Some((upstream, rests)) = way.upstream() else {
        // Bytes may not pass, or nobody is there; a request may be answered all the same.
        return tokio::select! {
            found = runtime::timeout(HEAD_MAX, word) => Course::of(found.unwrap_or(Word::Opaque), Some(way)),
            () = closing => Course::Over,
        };
    };
    let (found, server) = tokio::select! {
        biased;
        // What is wrong with it shows again when it's relayed.
        read = upstream.read_on(said, SAID_BYTES) => (Word::Opaque, matches!(read, Ok(1..))),
        found = word => (found, false),
        () = runtime::sleep(rests) => return Course::Over,
        () = closing => return Course::Over,
    };
    // A server of HTTP that has waited in vain says so.
    let server = server && !said.starts_with(b"HTTP/");
    if server || matches!(found, Word::Http1 | Word::Http2) {
        core.with_shard(|shard, _| shard.spoken(&snapshot, service, *port, server));
    }
    Course::of(found, Some(way))
}

impl<'a> Course<'a> {
    fn of(word: Word, way: Option<Box<Way<'a>>>) -> Self {
        match word {
            Word::Http1 => Self::Http1,
            Word::Http2 => Self::Http2,
            Word::Opaque => Self::Opaque(way),
            Word::Broken => Self::Over,
        }
    }
}

/// Waits for what a client says first, and adds it to `bytes`. Dropped before its end, it loses nothing.
async fn word(stream: &mut Stream, bytes: &mut Vec<u8>) -> Word {
    loop {
        let silent = bytes.is_empty();
        let hearing = http::hear(stream, bytes);
        let heard = if silent { Ok(hearing.await) } else { runtime::timeout(WORD_MAX, hearing).await };
        match heard {
            Ok(Ok(Sniff::NeedMore)) => {}
            Ok(Ok(Sniff::Http1)) => return Word::Http1,
            Ok(Ok(Sniff::Http2)) => return Word::Http2,
            Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => return Word::Broken,
            Ok(Ok(Sniff::Tls | Sniff::Other) | Err(_)) | Err(_) => return Word::Opaque,
        }
    }
}
