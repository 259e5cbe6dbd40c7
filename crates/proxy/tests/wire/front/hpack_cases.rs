// SPDX-License-Identifier: Apache-2.0
//! RFC 7541: tables, integers, strings, and what breaks them. A header block that can't be read leaves the
//! two tables apart, so that the connection must end (RFC 9113 4.3).

use super::{COMPRESSION, Case, Expect, case, out};
use crate::frame::Out;
use crate::hpack::Block;
use Expect::{Answer, Close, Refused};

pub(crate) fn all() -> Vec<Case> {
    let mut cases = broken();
    cases.extend(tables());
    cases.extend(indices());
    cases
}

/// What RFC 9113 4.3 wants.
const BROKEN: Expect = Close(&[COMPRESSION]);

fn bad(section: &'static str, name: &str, tail: &[u8]) -> Case {
    case(section, name, BROKEN, out().whole(1, Block::get("/bad").raw(tail)))
}

fn good(section: &'static str, name: &str, sends: Out) -> Case {
    case(section, name, Answer(1, "200"), sends)
}

fn broken() -> Vec<Case> {
    vec![
        bad("6.1", "index 0", &[0x80]),
        bad("2.3.3", "an index beyond both tables", &[0xbe]),
        bad("2.3.3", "an index far beyond", &[0xff, 0x80, 0x01]),
        bad("2.3.3", "a name beyond both tables", &[0x0f, 0xff, 0x7f, 1, b'x']),
        bad("2.3.3", "an indexed name beyond both tables", &[0x7f, 0x40, 1, b'x']),
        bad("5.1", "an integer without end", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        bad("5.1", "an integer that is cut", &[0xff, 0x80]),
        bad("5.2", "a string that is cut", &[0x00, 0x01, b'a', 0x05, b'b']),
        bad("5.2", "a name that is cut", &[0x00, 0x05, b'a']),
        bad("5.2", "a literal without its value", &[0x00, 0x01, b'a']),
        bad("5.2", "a literal without anything", &[0x00]),
        bad("5.2", "padding of more than 7 bits", &[0x00, 0x01, b'a', 0x82, 0x1f, 0xff]),
        bad("5.2", "padding of zeros", &[0x00, 0x01, b'a', 0x81, 0x18]),
        bad("5.2", "the end symbol", &[0x00, 0x01, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
        bad("6.3", "a table above the limit", &[0x3f, 0xe2, 0x1f]),
        bad("6.3", "a size far above the limit", &[0x3f, 0xff, 0xff, 0xff, 0x07]),
        bad("4.2", "a change of size at the end", &[0x20]),
        case(
            "4.2",
            "a change of size in the middle",
            BROKEN,
            out().whole(
                1,
                Block::default()
                    .line(":method", "GET")
                    .resize(0)
                    .line(":path", "/bad")
                    .line(":scheme", "http")
                    .line(":authority", "echo"),
            ),
        ),
        case(
            "4.2",
            "a table above the limit, at the beginning",
            BROKEN,
            out().whole(1, Block::default().resize(4097).raw(Block::get("/bad"))),
        ),
        case(
            "4.4",
            "an entry that a change of size has dropped",
            BROKEN,
            out()
                .whole(1, Block::get("/").kept("x-kept", "1"))
                .whole(3, Block::default().resize(0).raw(Block::get("/bad")).index(62)),
        ),
        case(
            "4.4",
            "an entry larger than the table empties it",
            BROKEN,
            out()
                .whole(1, Block::get("/").kept("x-kept", "1").kept("x-large", &"y".repeat(5000)))
                .whole(3, Block::get("/bad").index(62)),
        ),
        case(
            "9113 4.3",
            "trailers that can't be read",
            BROKEN,
            out().head(1, Block::post("/bad")).data(1, b"x").whole(1, Block::default().raw([0x80])),
        ),
        case(
            "9113 4.3",
            "a refused request still counts for the tables",
            Answer(3, "200"),
            out()
                .whole(1, Block::get("/bad").line("connection", "close").kept("x-kept", "1"))
                .whole(3, Block::get("/").index(62)),
        ),
        case("6.1", "a block of nothing", Refused(1), out().whole(1, Block::default())),
    ]
}

fn tables() -> Vec<Case> {
    let huffman = Block::default()
        .index(2)
        .index(6)
        .line(":authority", "echo")
        // `/sample/path` and `no-cache`, by the codes of appendix B (the latter is of C.4.2).
        .raw([0x04, 0x81, 0x63])
        .raw([0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]);
    let mut evicting = Block::get("/");
    for n in 0..80 {
        evicting = evicting.kept(&format!("x-{n}"), &"v".repeat(60));
    }
    vec![
        good("5.2", "strings by Huffman's code", out().whole(1, huffman)),
        good(
            "4.2",
            "a change of size at the beginning",
            out().whole(1, Block::default().resize(0).raw(Block::get("/"))),
        ),
        good(
            "4.2",
            "two changes of size",
            out().whole(1, Block::default().resize(0).resize(4096).raw(Block::get("/"))),
        ),
        good("6.2.3", "what is never indexed", out().whole(1, Block::get("/").never("x-secret", "1"))),
        case(
            "2.3.2",
            "an entry of an earlier request",
            Answer(3, "200"),
            out().whole(1, Block::get("/").kept("x-kept", "1")).whole(3, Block::get("/").index(62)),
        ),
        case(
            "2.3.2",
            "an entry of a request that was reset",
            Answer(3, "200"),
            out().head(1, Block::post("/bad").kept("x-kept", "1")).reset(1, 8).whole(3, Block::get("/").index(62)),
        ),
        good("4.4", "entries beyond the table's size", out().whole(1, evicting)),
        good(
            "5.1",
            "an integer longer than it need be",
            out().whole(1, Block::get("/").raw([0x0f, 0x80, 0x80, 0x00, 0x01, b'x'])),
        ),
        good(
            "5.2",
            "a name by index, its value in plain",
            out().whole(1, Block::get("/").raw([0x0f, 0x04, 0x03, b'*', b'/', b'*'])),
        ),
    ]
}

/// 6.1: every entry of the static table that a request may have.
fn indices() -> Vec<Case> {
    let mut cases = Vec::new();
    for index in 15..=61 {
        // Lines with an empty value; those that must not be empty or not be at all are refused.
        let block = Block::get("/").index(index);
        let refused = matches!(index, 28 | 35 | 38 | 57);
        if !refused {
            cases.push(good("6.1", &format!("static entry {index}"), out().whole(1, block)));
        }
    }
    let by_index = Block::default().index(2).index(4).index(6).line(":authority", "echo");
    cases.push(good("6.1", "a request by indices", out().whole(1, by_index)));
    cases
}
