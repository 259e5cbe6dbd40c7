// SPDX-License-Identifier: Apache-2.0
//! RFC 9113 3, 4 and 6: the preface, the shape of frames, and each kind of frame.

use super::{CALM, COMPRESSION, Case, Expect, FLOW, NO_ERROR, PROTOCOL, SIZE, case, out};
use crate::frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY,
};
use crate::hpack::Block;
use Expect::{Alive, Answer, Close, Reset};

pub(crate) fn all() -> Vec<Case> {
    let mut cases = shapes();
    cases.extend(sizes());
    cases.extend(blocks());
    cases.extend(payloads());
    cases.extend(settings());
    cases.extend(windows());
    cases
}

/// 4.1: what isn't known is ignored.
fn shapes() -> Vec<Case> {
    let mut cases = vec![
        case("4.1", "a request and its answer", Answer(1, "200"), out().whole(1, Block::get("/"))),
        case("4.1", "the reserved bit is ignored", Answer(1, "200"), out().whole(0x8000_0001, Block::get("/"))),
        case("4.1", "the reserved bit of PING is ignored", Alive, out().frame(PING, 0, 0x8000_0000, [0; 8])),
    ];
    for kind in [10, 11, 16, 0x42, 0xff] {
        for id in [0, 1, 99] {
            let sends = out().frame(kind, 0xff, id, b"whatever").whole(1, Block::get("/"));
            cases.push(case("4.1", format!("frame {kind} on {id} is ignored"), Answer(1, "200"), sends));
        }
    }
    let flagged = out().frame(HEADERS, END_HEADERS | END_STREAM | 0xc2, 1, Block::get("/"));
    cases.push(case("4.1", "unknown flags of HEADERS are ignored", Answer(1, "200"), flagged));
    let flagged = out().head(1, Block::post("/")).frame(DATA, END_STREAM | 0xf6, 1, b"body");
    cases.push(case("4.1", "unknown flags of DATA are ignored", Answer(1, "200"), flagged));
    cases.push(case("4.1", "unknown flags of PING are ignored", Alive, out().frame(PING, 0xfe, 0, [0; 8])));
    cases.push(case("4.1", "unknown flags of SETTINGS are ignored", Alive, out().frame(SETTINGS, 0xfe, 0, [])));
    cases
}

/// 4.2 and 6: lengths.
fn sizes() -> Vec<Case> {
    let open = || out().head(1, Block::post("/bad"));
    let mut cases = vec![
        case("4.2", "DATA of 2^14", Answer(1, "200"), out().head(1, Block::post("/")).last(1, vec![0; 1 << 14])),
        case("4.2", "DATA above our limit", Close(&[SIZE]), open().data(1, vec![0; (1 << 16) + 1])),
        case("4.2", "HEADERS above our limit", Close(&[SIZE]), out().frame(HEADERS, 4, 1, vec![0; (1 << 16) + 1])),
        case("4.2", "an unknown frame above our limit", Close(&[SIZE]), out().frame(77, 0, 0, vec![0; (1 << 16) + 1])),
        case("6.5", "SETTINGS with ACK and a payload", Close(&[SIZE]), out().frame(SETTINGS, ACK, 0, [0; 6])),
    ];
    for length in [0, 1, 7, 9, 16] {
        cases.push(case("6.7", format!("PING of {length}"), Close(&[SIZE]), out().frame(PING, 0, 0, vec![0; length])));
    }
    for length in [1, 5, 7, 11] {
        let sends = out().frame(SETTINGS, 0, 0, vec![0; length]);
        cases.push(case("6.5", format!("SETTINGS of {length}"), Close(&[SIZE]), sends));
    }
    for length in [0, 3, 5, 8] {
        let sends = open().frame(RST_STREAM, 0, 1, vec![0; length]);
        cases.push(case("6.4", format!("RST_STREAM of {length}"), Close(&[SIZE]), sends));
        let sends = out().frame(WINDOW_UPDATE, 0, 0, vec![1; length]);
        cases.push(case("6.9", format!("WINDOW_UPDATE of {length}"), Close(&[SIZE]), sends));
        let sends = open().frame(WINDOW_UPDATE, 0, 1, vec![1; length]);
        cases.push(case("6.9", format!("WINDOW_UPDATE of {length} on a stream"), Close(&[SIZE]), sends));
    }
    for length in [0, 4, 6] {
        let sends = open().frame(PRIORITY, 0, 1, vec![0; length]);
        cases.push(case("6.3", format!("PRIORITY of {length}"), Close(&[SIZE]), sends));
    }
    for length in [0, 4, 7] {
        let sends = out().frame(GOAWAY, 0, 0, vec![0; length]);
        cases.push(case("6.8", format!("GOAWAY of {length}"), Close(&[SIZE]), sends));
    }
    cases
}

/// 4.3 and 6.10: header blocks in one piece and in several.
fn blocks() -> Vec<Case> {
    let parts = |count: usize| {
        let block = Block::get("/").0;
        let size = block.len().div_ceil(count);
        let mut sends = out();
        let mut rest = block.chunks(size).peekable();
        let mut kind = HEADERS;
        while let Some(part) = rest.next() {
            let flags = if rest.peek().is_none() { END_HEADERS } else { 0 };
            sends = sends.frame(kind, flags | if kind == HEADERS { END_STREAM } else { 0 }, 1, part);
            kind = CONTINUATION;
        }
        sends
    };
    let begun = || out().frame(HEADERS, END_STREAM, 1, Block::get("/bad"));
    let mut cases = vec![
        case("6.10", "CONTINUATION of nothing", Close(&[PROTOCOL]), out().frame(CONTINUATION, 4, 1, [])),
        case("6.10", "CONTINUATION on stream 0", Close(&[PROTOCOL]), begun().frame(CONTINUATION, 4, 0, [])),
        case("6.10", "CONTINUATION of another", Close(&[PROTOCOL]), begun().frame(CONTINUATION, 4, 3, [])),
        case(
            "6.10",
            "CONTINUATION after the end",
            Close(&[PROTOCOL]),
            out().head(1, Block::post("/bad")).frame(CONTINUATION, 4, 1, []),
        ),
        case(
            "6.10",
            "CONTINUATION after DATA",
            Close(&[PROTOCOL]),
            out().head(1, Block::post("/bad")).data(1, b"x").frame(CONTINUATION, 4, 1, []),
        ),
        case(
            "6.10",
            "empty pieces of a block",
            Answer(1, "200"),
            out()
                .frame(HEADERS, END_STREAM, 1, [])
                .frame(CONTINUATION, 0, 1, [])
                .frame(CONTINUATION, 0, 1, Block::get("/"))
                .frame(CONTINUATION, END_HEADERS, 1, []),
        ),
    ];
    for count in [2, 3, 4, 5] {
        cases.push(case("4.3", format!("a block in {count} pieces"), Answer(1, "200"), parts(count)));
    }
    for (name, kind, id, payload) in [
        ("DATA", DATA, 1, vec![0]),
        ("HEADERS", HEADERS, 3, Block::get("/bad").0),
        ("HEADERS of the same stream", HEADERS, 1, Block::get("/bad").0),
        ("PRIORITY", PRIORITY, 1, vec![0; 5]),
        ("RST_STREAM", RST_STREAM, 1, vec![0; 4]),
        ("SETTINGS", SETTINGS, 0, vec![]),
        ("PING", PING, 0, vec![0; 8]),
        ("GOAWAY", GOAWAY, 0, vec![0; 8]),
        ("WINDOW_UPDATE", WINDOW_UPDATE, 1, vec![0, 0, 0, 1]),
        ("an unknown frame", 0x4a, 1, vec![]),
    ] {
        let sends = begun().frame(kind, 0, id, payload).frame(CONTINUATION, 4, 1, []);
        cases.push(case("4.3", format!("{name} within a block"), Close(&[PROTOCOL]), sends));
    }
    cases.push(case("10.5.1", "a block in 20 pieces, as nobody cuts it", Close(&[CALM]), parts(20)));
    let huge = Block::post("/bad").line("x-huge", vec![b'x'; 60_000]).0;
    let mut sends = out().frame(HEADERS, 0, 1, huge);
    for _ in 0..40 {
        sends = sends.frame(CONTINUATION, 0, 1, vec![0; 1 << 14]);
    }
    cases.push(case("10.5.1", "a block without end", Close(&[CALM, COMPRESSION, PROTOCOL]), sends));
    cases
}

/// 6.1 to 6.4, 6.6 to 6.8: streams, padding, flags.
fn payloads() -> Vec<Case> {
    let open = || out().head(1, Block::post("/"));
    let padded = |pad: u8, inner: &[u8], zeros: usize| [&[pad][..], inner, &vec![0; zeros]].concat();
    let deep = [&[0x80, 0, 0, 0, 200][..], &Block::get("/").0].concat();
    let both = [&[4, 0, 0, 0, 0, 9][..], &Block::get("/").0, &[0; 4]].concat();
    vec![
        case("6.1", "DATA on stream 0", Close(&[PROTOCOL]), out().data(0, b"x")),
        case("6.1", "padded DATA", Answer(1, "200"), open().frame(DATA, 9, 1, padded(5, b"body", 5))),
        case("6.1", "DATA of padding alone", Answer(1, "200"), open().frame(DATA, 9, 1, padded(255, b"", 255))),
        case("6.1", "padding of no length", Answer(1, "200"), open().frame(DATA, 9, 1, padded(0, b"body", 0))),
        case("6.1", "more padding than DATA", Close(&[PROTOCOL]), open().frame(DATA, 8, 1, padded(6, b"", 5))),
        case("6.1", "padding without its length", Close(&[PROTOCOL, SIZE]), open().frame(DATA, 8, 1, [])),
        case("6.1", "empty DATA", Answer(1, "200"), open().data(1, []).data(1, b"x").last(1, [])),
        case("6.2", "HEADERS on stream 0", Close(&[PROTOCOL]), out().whole(0, Block::get("/bad"))),
        case("6.2", "padded HEADERS", Answer(1, "200"), out().frame(HEADERS, 13, 1, padded(7, &Block::get("/").0, 7))),
        case("6.2", "more padding than HEADERS", Close(&[PROTOCOL]), out().frame(HEADERS, 13, 1, padded(9, b"", 8))),
        case(
            "6.2",
            "padding that takes the whole block",
            Close(&[PROTOCOL]),
            out().frame(HEADERS, 13, 1, padded(200, &Block::get("/bad").0, 0)),
        ),
        case("6.2", "HEADERS with priority", Answer(1, "200"), out().frame(HEADERS, 5 | WITH_PRIORITY, 1, deep)),
        case(
            "6.2",
            "padded HEADERS with priority",
            Answer(1, "200"),
            out().frame(HEADERS, 5 | WITH_PRIORITY | PADDED, 1, both),
        ),
        case(
            "6.2",
            "priority that is cut short",
            Close(&[PROTOCOL, SIZE]),
            out().frame(HEADERS, 5 | WITH_PRIORITY, 1, [0; 4]),
        ),
        case("6.3", "PRIORITY on stream 0", Close(&[PROTOCOL]), out().frame(PRIORITY, 0, 0, [0, 0, 0, 3, 1])),
        case("6.4", "RST_STREAM on stream 0", Close(&[PROTOCOL]), out().reset(0, 8)),
        case("6.4", "RST_STREAM of an unknown code", Alive, open().reset(1, 0xdead_beef)),
        case(
            "6.6",
            "PUSH_PROMISE of a client",
            Close(&[PROTOCOL]),
            out().whole(1, Block::get("/")).frame(PUSH_PROMISE, 4, 1, [0, 0, 0, 2]),
        ),
        case("6.7", "PING is answered", Alive, out().ping(b"\0\x01\x02\x03\x04\x05\x06\x07")),
        case("6.7", "an answer to no PING is ignored", Alive, out().frame(PING, ACK, 0, b"nobody??")),
        case("6.7", "PING on a stream", Close(&[PROTOCOL]), open().frame(PING, 0, 1, [0; 8])),
        case("6.8", "GOAWAY on a stream", Close(&[PROTOCOL]), open().frame(GOAWAY, 0, 1, [0; 8])),
        case("6.8", "GOAWAY lets what runs end", Close(&[NO_ERROR]), out().whole(1, Block::get("/")).goaway(0, 0)),
        case(
            "5.4.1",
            "after GOAWAY the connection ends",
            Close(&[PROTOCOL]),
            out().data(0, b"x").whole(1, Block::get("/bad")),
        ),
    ]
}

/// 6.5: settings.
fn settings() -> Vec<Case> {
    let then = |id, value| out().setting(id, value).whole(1, Block::get("/"));
    let mut cases = vec![
        case("6.5", "SETTINGS on a stream", Close(&[PROTOCOL]), out().frame(SETTINGS, 0, 1, [])),
        case("6.5", "an answer to no SETTINGS is harmless", Alive, out()),
        case("6.5.2", "a window of 2^31 - 1", Answer(1, "200"), then(4, (1 << 31) - 1)),
        case("6.5.2", "a window of 2^31", Close(&[FLOW]), out().setting(4, 1 << 31)),
        case("6.5.2", "a window of 2^32 - 1", Close(&[FLOW]), out().setting(4, u32::MAX)),
        case("6.5.2", "push of 2", Close(&[PROTOCOL]), out().setting(2, 2)),
        case("6.5.2", "push of 0", Answer(1, "200"), then(2, 0)),
        case("6.5.2", "frames of 2^14 - 1", Close(&[PROTOCOL]), out().setting(5, (1 << 14) - 1)),
        case("6.5.2", "frames of 0", Close(&[PROTOCOL]), out().setting(5, 0)),
        case("6.5.2", "frames of 2^24", Close(&[PROTOCOL]), out().setting(5, 1 << 24)),
        case("6.5.2", "frames of 2^24 - 1", Answer(1, "200"), then(5, (1 << 24) - 1)),
        case("6.5.2", "a table of 0", Answer(1, "200"), then(1, 0)),
        case("6.5.2", "a table of 2^32 - 1", Answer(1, "200"), then(1, u32::MAX)),
        case("6.5.2", "no streams of ours", Answer(1, "200"), then(3, 0)),
        case("6.5.2", "a header list of 2^32 - 1", Answer(1, "200"), then(6, u32::MAX)),
        case("8441 3", "connect protocol of 2", Close(&[PROTOCOL]), out().setting(8, 2)),
        case(
            "6.5.3",
            "the last of two values counts",
            Answer(1, "200"),
            out().setting(4, 0).setting(4, 65_535).whole(1, Block::get("/")),
        ),
    ];
    for id in [0, 7, 9, 0x10, 0xffff] {
        cases.push(case("6.5.2", format!("unknown setting {id}"), Answer(1, "200"), then(id, 7)));
    }
    cases
}

/// 6.9: windows.
fn windows() -> Vec<Case> {
    let open = || out().head(1, Block::post("/bad"));
    vec![
        case("6.9", "a window of 0 more, connection", Close(&[PROTOCOL]), out().window(0, 0)),
        case("6.9", "a window of 0 more, stream", Close(&[PROTOCOL]), open().window(1, 0)),
        case("6.9", "the reserved bit is ignored", Alive, out().window(0, 0x8000_0001)),
        case("6.9.1", "a window above 2^31 - 1, connection", Close(&[FLOW]), out().window(0, (1 << 31) - 1)),
        case("6.9.1", "a window above 2^31 - 1, stream", Reset(1, &[FLOW]), open().window(1, (1 << 31) - 1)),
        case(
            "6.9.2",
            "a stream's window above 2^31 - 1 by SETTINGS",
            Close(&[FLOW]),
            out().setting(4, 65_536).head(1, Block::post("/bad")).window(1, (1 << 31) - 65_537).setting(4, 65_537),
        ),
        case(
            "6.9.2",
            "an answer waits for the window that SETTINGS open",
            Answer(1, "200"),
            out().setting(4, 0).whole(1, Block::get("/")).setting(4, 1).setting(4, 2),
        ),
        case(
            "6.9.2",
            "an answer waits for the window of its stream",
            Answer(1, "200"),
            out().setting(4, 0).whole(1, Block::get("/")).window(1, 1).window(1, 1),
        ),
    ]
}
