// SPDX-License-Identifier: Apache-2.0
//! RFC 9113 8: what makes a request out of frames, and what makes none.

use super::{Case, Expect, case, out};
use crate::hpack::Block;
use Expect::{Answer, Refused};

pub(crate) fn all() -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(names());
    cases.extend(values());
    cases.extend(of_one_connection());
    cases.extend(pseudo());
    cases.extend(targets());
    cases.extend(odd());
    cases
}

fn bad(section: &'static str, name: impl Into<String>, block: Block) -> Case {
    case(section, name, Refused(1), out().whole(1, block))
}

fn good(section: &'static str, name: impl Into<String>, block: Block) -> Case {
    case(section, name, Answer(1, "200"), out().whole(1, block))
}

/// 8.1.1: Content-Length and the sum of DATA.
fn lengths() -> Vec<Case> {
    let post = |length: &str| Block::post("/bad").line("content-length", length);
    let mut cases = vec![
        bad("8.1.1", "a length and no body", post("5")),
        case("8.1.1", "a body longer than its length", Refused(1), out().head(1, post("3")).last(1, b"four")),
        case("8.1.1", "a body shorter than its length", Refused(1), out().head(1, post("5")).last(1, b"four")),
        case(
            "8.1.1",
            "a body in pieces, too long",
            Refused(1),
            out().head(1, post("5")).data(1, b"four").last(1, b"four"),
        ),
        case("8.1.1", "a body after a length of 0", Refused(1), out().head(1, post("0")).last(1, b"x")),
        case(
            "8.1.1",
            "a body cut by trailers",
            Refused(1),
            out().head(1, post("5")).data(1, b"four").whole(1, Block::default().line("x-sum", "1")),
        ),
        good("8.1.1", "a length of 0", Block::post("/").line("content-length", "0")),
        case(
            "8.1.1",
            "a length that holds",
            Answer(1, "200"),
            out().head(1, Block::post("/").line("content-length", "8")).data(1, b"four").data(1, []).last(1, b"four"),
        ),
        bad("8.1.1", "two lengths", post("4").line("content-length", "4")),
        bad("8.1.1", "two lengths that differ", post("0").line("content-length", "4")),
    ];
    for length in ["", "-1", "+4", "4 4", "4,4", "0x4", "4.0", "four", "18446744073709551616", "9223372036854775808"] {
        cases.push(case(
            "8.1.1",
            format!("length {length:?}"),
            Refused(1),
            out().head(1, post(length)).last(1, b"four"),
        ));
    }
    cases
}

/// 8.2.1: names.
fn names() -> Vec<Case> {
    let mut cases = Vec::new();
    for byte in (0..=0x20).chain(b'A'..=b'Z').chain([0x7f, 0x80, 0xc3, 0xff]).chain(*b"()<>@,;\\\"/[]?={}:") {
        let name = [b"x-", &[byte][..], b"y"].concat();
        cases.push(bad("8.2.1", format!("{byte:#04x} in a name"), Block::get("/bad").line(name, "1")));
    }
    cases.push(bad("8.2.1", "no name", Block::get("/bad").line("", "1")));
    cases.push(bad("8.2.1", "a whole name in capitals", Block::get("/bad").line("HOST", "echo")));
    cases.push(bad("8.2.1", "a line in a name", Block::get("/bad").line("x: y\r\nhost", "evil")));
    cases
}

/// 8.2.1: values.
fn values() -> Vec<Case> {
    let mut cases = Vec::new();
    for byte in (0..=8).chain(10..0x20).chain([0x7f]) {
        let value = [b"a", &[byte][..], b"b"].concat();
        cases.push(bad("8.2.1", format!("{byte:#04x} in a value"), Block::get("/bad").line("x-y", value)));
    }
    for value in ["a\r\nx-evil: 1", "a\r\n\r\nGET /bad HTTP/1.1\r\n\r\n", "\r\n", "a\n b"] {
        cases.push(bad("8.2.1", format!("value {value:?}"), Block::get("/bad").line("x-y", value)));
    }
    for value in ["", "a\tb", "a  b", "\u{e9}", "\"(),/:;<=>?@[\\]{}"] {
        cases.push(good("8.2.1", format!("value {value:?}"), Block::get("/").line("x-y", value)));
    }
    cases
}

/// 8.2.2: headers of one connection.
fn of_one_connection() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, value) in [
        ("connection", "close"),
        ("connection", "keep-alive"),
        ("connection", "x-y"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("transfer-encoding", ""),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", "chunked"),
    ] {
        cases.push(bad("8.2.2", format!("{name}: {value}"), Block::get("/bad").line(name, value)));
        let body = out().head(1, Block::post("/bad").line(name, value)).last(1, b"0\r\n\r\n");
        cases.push(case("8.2.2", format!("{name}: {value}, with a body"), Refused(1), body));
    }
    cases.push(good("8.2.2", "te: trailers", Block::get("/").line("te", "trailers")));
    cases
}

/// 8.3: pseudo-headers.
fn pseudo() -> Vec<Case> {
    let base = || Block::default().line(":method", "GET").line(":scheme", "http").line(":authority", "echo");
    let mut cases = vec![
        bad("8.3", "an unknown one", Block::get("/bad").line(":foo", "bar")),
        bad("8.3", "one of responses", Block::get("/bad").line(":status", "200")),
        bad("8.3", "one after a header", base().line("x-y", "1").line(":path", "/bad")),
        bad("8.3", "none at all", Block::default().line("x-y", "1")),
        bad("8.3", "an empty name after the colon", Block::get("/bad").line(":", "1")),
        bad("8.3", "capitals", base().line(":Path", "/bad")),
        bad("8.3.1", "no :path", base()),
        bad("8.3.1", "an empty :path", base().line(":path", "")),
        bad(
            "8.3.1",
            "no :method",
            Block::default().line(":scheme", "http").line(":authority", "echo").line(":path", "/bad"),
        ),
        bad(
            "8.3.1",
            "no :scheme",
            Block::default().line(":method", "GET").line(":authority", "echo").line(":path", "/bad"),
        ),
        bad("8.3.1", "an empty :method", Block::ask("", "/bad")),
        bad(
            "8.3.1",
            "neither :authority nor host",
            Block::default().line(":method", "GET").line(":scheme", "http").line(":path", "/bad"),
        ),
        good(
            "8.3.1",
            "host in place of :authority",
            Block::default().line(":method", "GET").line(":scheme", "http").line(":path", "/").line("host", "echo"),
        ),
        good("8.3.1", "host that agrees", Block::get("/").line("host", "echo")),
        bad("8.3.1", "host that differs", Block::get("/bad").line("host", "evil")),
        bad("8.3.1", "two hosts", Block::get("/bad").line("host", "echo").line("host", "evil")),
        good(
            "8.3",
            "pseudo-headers in another order",
            Block::default()
                .line(":path", "/")
                .line(":authority", "echo")
                .line(":scheme", "http")
                .line(":method", "GET"),
        ),
        bad("8.5", "CONNECT with :path", Block::ask("CONNECT", "/bad")),
        bad("8.5", "CONNECT without :authority", Block::default().line(":method", "CONNECT")),
        bad("8441 4", ":protocol of another method", Block::get("/bad").line(":protocol", "websocket")),
    ];
    for (name, value) in [(":method", "GET"), (":scheme", "http"), (":authority", "echo"), (":path", "/bad")] {
        cases.push(bad("8.3", format!("{name} twice"), Block::get("/bad").line(name, value)));
        let trailers = Block::default().line(name, value).line("x-sum", "1");
        let sends = out().head(1, Block::post("/bad")).data(1, b"x").whole(1, trailers);
        cases.push(case("8.1", format!("{name} in trailers"), Refused(1), sends));
    }
    cases
}

/// 8.3.1: methods, paths and authorities that HTTP/1 would read as something else.
fn targets() -> Vec<Case> {
    let of = |name: &str, value: &str| {
        let mut block = Block::default();
        for (own, usual) in [(":method", "GET"), (":scheme", "http"), (":authority", "echo"), (":path", "/bad")] {
            block = block.line(own, if own == name { value } else { usual });
        }
        block
    };
    let mut cases = Vec::new();
    for path in [
        "bad",
        "*",
        "//bad bad",
        "/bad bad",
        "/bad\r\nx: y",
        "/bad\t",
        "/bad HTTP/1.1\r\nhost: evil\r\n\r\nGET /bad",
        "http://evil/bad",
        "/bad\\..\\x",
        "/bad%2fx",
        "/bad%00",
        "/bad%zz",
        "/bad\u{0}",
        "/bad\u{7f}",
        "/bad/..;x/y",
    ] {
        cases.push(bad("8.3.1", format!("path {path:?}"), of(":path", path)));
    }
    for method in ["GET /bad HTTP/1.1\r\n", "GET ", " GET", "G T", "GET\0", "G:T", "GET\r\nx: y", "\u{e9}"] {
        cases.push(bad("8.3.1", format!("method {method:?}"), of(":method", method)));
    }
    for authority in [
        "",
        "echo evil",
        "user@echo",
        "echo\r\nx: y",
        "echo/x",
        "echo:99999",
        "echo:x",
        "a,b",
        "[::1",
        "%65cho",
        "echo#",
        "echo?x",
        "\u{e9}cho",
    ] {
        cases.push(bad("8.3.1", format!("authority {authority:?}"), of(":authority", authority)));
    }
    for scheme in ["", "ftp", "http ", "javascript", "http\r\n", "file"] {
        cases.push(bad("8.3.1", format!("scheme {scheme:?}"), of(":scheme", scheme)));
    }
    cases
}

/// What is valid, however seldom it's seen.
fn odd() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in ["/?", "/a;b=c", "/%41", "/~a?x=%zz", "/a//b", "/...", "/?a[]=1&b={}|", "/@:!$&'()*+,;="] {
        cases.push(good("8.3.1", format!("path {path:?}"), Block::get(path)));
    }
    for method in ["PROPFIND", "M-SEARCH", "X", "!", "a.b", "QUERY"] {
        cases.push(good("8.3.1", format!("method {method:?}"), Block::ask(method, "/")));
    }
    for (name, value) in [
        ("!#$%&'*+-.^_`|~09", "1"),
        ("cookie", "a=b"),
        ("content-lengths", "5"),
        ("x-forwarded-for", "1, 2"),
        ("expect", "100-continue"),
        ("authorization", "Basic Og=="),
        ("trailer", "x-sum"),
        ("via", "1.1 a"),
    ] {
        cases.push(good("8.2", format!("{name}: {value}"), Block::get("/").line(name, value)));
    }
    let crumbs = Block::get("/").line("cookie", "a=b").line("cookie", "c=d").line("cookie", "e=\"f g\"");
    cases.push(good("8.2.3", "a cookie in crumbs", crumbs));
    cases.push(case("8.3.1", "OPTIONS of the server", Answer(1, "200"), out().whole(1, Block::ask("OPTIONS", "*"))));
    cases
}
