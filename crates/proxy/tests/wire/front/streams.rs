// SPDX-License-Identifier: Apache-2.0
//! RFC 9113 5: the life of streams, their numbers, and how many there may be.

use super::{CLOSED, Case, Expect, PROTOCOL, REFUSED, case, out};
use crate::frame::{CONTINUATION, END_HEADERS, HEADERS, PRIORITY, RST_STREAM, WINDOW_UPDATE};
use crate::hpack::Block;
use Expect::{Alive, Answer, Close, Reset};

/// Streams that a client may have open.
const STREAMS_MAX: u32 = 256;

pub(crate) fn all() -> Vec<Case> {
    let mut cases = states();
    cases.extend(numbers());
    cases.extend(priorities());
    cases
}

/// 5.1: which frames belong where.
fn states() -> Vec<Case> {
    let one = [0, 0, 0, 1];
    let open = || out().head(1, Block::post("/bad"));
    let half = || out().whole(1, Block::get("/"));
    // Half-closed for good: the program is not asked for this one, whatever comes.
    let reset = || out().head(1, Block::post("/bad")).reset(1, 8);
    vec![
        case("5.1", "DATA on an idle stream", Close(&[PROTOCOL]), out().last(1, b"x")),
        case("5.1", "RST_STREAM on an idle stream", Close(&[PROTOCOL]), out().reset(1, 8)),
        case("5.1", "WINDOW_UPDATE on an idle stream", Close(&[PROTOCOL]), out().window(1, 1)),
        case("5.1", "CONTINUATION on an idle stream", Close(&[PROTOCOL]), out().frame(CONTINUATION, 4, 1, [])),
        case("5.1", "DATA on an idle stream above", Close(&[PROTOCOL]), half().last(5, b"x")),
        case("5.1", "RST_STREAM on an idle stream above", Close(&[PROTOCOL]), half().reset(5, 8)),
        case("5.1", "WINDOW_UPDATE on an idle stream above", Close(&[PROTOCOL]), half().window(5, 1)),
        case("5.1", "PRIORITY on an idle stream", Alive, out().frame(PRIORITY, 0, 7, [0, 0, 0, 1, 1])),
        case(
            "5.1",
            "DATA after the end",
            Close(&[CLOSED, PROTOCOL]),
            out().head(1, Block::post("/")).last(1, b"x").data(1, b"y"),
        ),
        case("5.1", "HEADERS after the end", Close(&[CLOSED, PROTOCOL]), half().whole(1, Block::get("/bad"))),
        case("5.1", "WINDOW_UPDATE after the end", Answer(1, "200"), half().frame(WINDOW_UPDATE, 0, 1, one)),
        case("5.1", "PRIORITY after the end", Answer(1, "200"), half().frame(PRIORITY, 0, 1, [0, 0, 0, 3, 1])),
        case("5.1", "RST_STREAM after the end", Alive, half().frame(RST_STREAM, 0, 1, [0, 0, 0, 8])),
        case("5.1", "DATA after RST_STREAM", Reset(1, &[CLOSED]), reset().data(1, b"x")),
        case("5.1", "HEADERS after RST_STREAM", Close(&[CLOSED, PROTOCOL]), reset().whole(1, Block::get("/bad"))),
        case("5.1", "CONTINUATION after RST_STREAM", Close(&[PROTOCOL]), reset().frame(CONTINUATION, 4, 1, [])),
        case("5.1", "WINDOW_UPDATE after RST_STREAM", Alive, reset().window(1, 1)),
        case("5.1", "PRIORITY after RST_STREAM", Alive, reset().frame(PRIORITY, 0, 1, [0, 0, 0, 3, 1])),
        case("5.1", "RST_STREAM twice", Alive, reset().reset(1, 8)),
        case("5.1", "an open stream and another", Answer(3, "200"), open().whole(3, Block::get("/"))),
        case(
            "5.1",
            "trailers end a stream",
            Answer(1, "200"),
            out().head(1, Block::post("/")).data(1, b"x").whole(1, Block::default().line("x-sum", "1")),
        ),
        case("8.1", "HEADERS twice", Reset(1, &[PROTOCOL]), open().head(1, Block::default().line("x-sum", "1"))),
        case(
            "8.1",
            "trailers that do not end",
            Reset(1, &[PROTOCOL]),
            open().data(1, b"x").frame(HEADERS, END_HEADERS, 1, Block::default().line("x", "y")),
        ),
    ]
}

/// 5.1.1 and 5.1.2.
fn numbers() -> Vec<Case> {
    let mut many = out();
    for at in 0..=STREAMS_MAX {
        many = many.head(1 + 2 * at, Block::post("/bad"));
    }
    let mut ended = out();
    for at in 0..200 {
        ended = ended.whole(1 + 2 * at, Block::get("/"));
    }
    vec![
        case("5.1.1", "an even number", Close(&[PROTOCOL]), out().whole(2, Block::get("/bad"))),
        case(
            "5.1.1",
            "a number that goes down",
            Close(&[PROTOCOL, CLOSED]),
            out().whole(5, Block::get("/")).whole(3, Block::get("/bad")),
        ),
        case(
            "5.1.1",
            "numbers that jump",
            Answer(1001, "200"),
            out().whole(3, Block::get("/")).whole(1001, Block::get("/")),
        ),
        case("5.1.1", "the last number", Answer(0x7fff_ffff, "200"), out().whole(0x7fff_ffff, Block::get("/"))),
        case("5.1.2", "one stream too many", Reset(1 + 2 * STREAMS_MAX, &[REFUSED]), many),
        case("5.1.2", "many streams", Answer(399, "200"), ended),
    ]
}

/// 5.3: what is left of priorities.
fn priorities() -> Vec<Case> {
    let mut cases = Vec::new();
    for weight in [0, 15, 255] {
        for upon in [0_u32, 3, 0x8000_0003] {
            let mut payload = upon.to_be_bytes().to_vec();
            payload.push(weight);
            let sends = out().frame(PRIORITY, 0, 1, &payload).whole(1, Block::get("/"));
            cases.push(case("5.3", format!("weight {weight} upon {upon:#x}"), Answer(1, "200"), sends));
        }
    }
    cases
}
