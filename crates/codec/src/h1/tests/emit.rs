// SPDX-License-Identifier: Apache-2.0
//! What heads are written as.

use crate::h1::{Asked, emit_request, emit_response, fit_downstream, parse_request, parse_response};
use crate::headers::strip_hop_by_hop;
use crate::{Framing, Head, Limits, Version};

/// What a request is forwarded as.
#[track_caller]
fn forward(case: &str, edit: impl FnOnce(&mut Head), expected: &str) {
    let mut head = Head::new();
    parse_request(&super::bytes(case), &Limits::default(), &mut head).unwrap();
    strip_hop_by_hop(&mut head);
    edit(&mut head);
    let mut out = Vec::new();
    emit_request(&head, &mut out);
    assert_eq!(String::from_utf8(out).unwrap().replace("\r\n", "|"), expected);
}

/// What a response is passed on as, to a client of `version`.
#[track_caller]
fn pass(case: &str, asked: Asked, version: Version, expected: &str) {
    let mut head = Head::new();
    parse_response(&super::bytes(case), &Limits::default(), asked, &mut head).unwrap();
    strip_hop_by_hop(&mut head);
    fit_downstream(&mut head, version, true);
    let mut out = Vec::new();
    emit_response(&head, &mut out);
    assert_eq!(String::from_utf8(out).unwrap().replace("\r\n", "|"), expected);
}

#[test]
fn requests_are_forwarded_in_canonical_form() {
    let same = |_: &mut Head| {};
    forward("GET / HTTP/1.1|Host: a||", same, "GET / HTTP/1.1|host: a||");
    forward("GET /%61/../b?C HTTP/1.1|HOST: A.:80||", same, "GET /b?C HTTP/1.1|host: a:80||");
    forward("GET http://a/x HTTP/1.1|Host: a||", same, "GET /x HTTP/1.1|host: a||");
    forward("OPTIONS * HTTP/1.1|Host: a||", same, "OPTIONS * HTTP/1.1|host: a||");
    forward("CONNECT a:443 HTTP/1.1|Host: a:443||", same, "CONNECT a:443 HTTP/1.1|host: a:443||");
    forward("GET / HTTP/1.0||", same, "GET / HTTP/1.1|host: |connection: close||");
    forward("GET / HTTP/1.1|Host: a|X:1|Y:\t2 |Z: 3||", same, "GET / HTTP/1.1|host: a|X: 1|Y: 2|Z: 3||");
    forward(
        "POST / HTTP/1.1|X: 1|content-LENGTH: 007|Host: a|Y: 2||",
        same,
        "POST / HTTP/1.1|host: a|X: 1|Y: 2|content-length: 7||",
    );
    forward(
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: Chunked|Trailer: X||",
        same,
        "POST / HTTP/1.1|host: a|Trailer: X|transfer-encoding: chunked||",
    );
}

#[test]
fn lines_of_one_connection_end_here() {
    let same = |_: &mut Head| {};
    forward(
        "GET / HTTP/1.1|Host: a|Connection: keep-alive, X, TE|X: 1|TE: trailers|Keep-Alive: 5|Proxy-Connection: x|Y: 2||",
        same,
        "GET / HTTP/1.1|host: a|Y: 2||",
    );
    forward(
        "GET / HTTP/1.1|Host: a|Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Key: k||",
        same,
        "GET / HTTP/1.1|host: a|Upgrade: websocket|Sec-WebSocket-Key: k|connection: upgrade||",
    );
    forward(
        "GET / HTTP/1.1|Host: a|Connection: Upgrade, HTTP2-Settings|Upgrade: h2c|HTTP2-Settings: x||",
        same,
        "GET / HTTP/1.1|host: a||",
    );
    forward(
        "GET / HTTP/1.1|Host: a|Connection: close|X: 1||",
        |h| h.set_keep_alive(true),
        "GET / HTTP/1.1|host: a|X: 1||",
    );
}

#[test]
fn edits_are_applied() {
    let case = "GET /a HTTP/1.1|Host: a|A: 1|B: 2|C: 3|B: 4||";
    forward(case, |h| h.remove("b"), "GET /a HTTP/1.1|host: a|A: 1|C: 3||");
    forward(case, |h| h.append("D", b" 5 ").unwrap(), "GET /a HTTP/1.1|host: a|A: 1|B: 2|C: 3|B: 4|D: 5||");
    forward(case, |h| h.set("b", b"5").unwrap(), "GET /a HTTP/1.1|host: a|A: 1|C: 3|b: 5||");
    forward(case, |h| h.set_path_and_query("/x?y").unwrap(), "GET /x?y HTTP/1.1|host: a|A: 1|B: 2|C: 3|B: 4||");
    forward(case, |h| h.set_authority("B").unwrap(), "GET /a HTTP/1.1|host: b|A: 1|B: 2|C: 3|B: 4||");
    forward(
        "GET / HTTP/1.1|Host: a|Cookie: a=1|X: 1|Cookie: b=2||",
        |h| h.remove("x"),
        "GET / HTTP/1.1|host: a|cookie: a=1; b=2||",
    );
    forward(
        "GET / HTTP/1.1|Host: a||",
        |h| h.set_framing(Framing::Stream),
        "GET / HTTP/1.1|host: a|transfer-encoding: chunked||",
    );
}

#[test]
fn heads_can_not_be_edited_into_lies() {
    let mut head = Head::new();
    head.start_request("GET", "http", "a", "/").unwrap();
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("Connection", "close"),
        ("keep-alive", "x"),
        ("upgrade", "x"),
        ("te", "gzip"),
        ("host", "b"),
        ("x y", "1"),
        ("", "1"),
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        ("content-length", "1,2"),
    ] {
        assert!(head.append(name, value.as_bytes()).is_err(), "{name}: {value}");
    }
    assert!(head.append("content-length", b"5").is_ok() && head.append("content-length", b"6").is_err());
    assert!(head.append("host", b"A").is_ok() && head.append("te", b"trailers").is_ok());
    let mut out = Vec::new();
    emit_request(&head, &mut out);
    assert_eq!(out, b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n");
    for (method, scheme, authority, path) in [
        ("G T", "http", "a", "/"),
        ("", "http", "a", "/"),
        ("GET", "gopher", "a", "/"),
        ("GET", "http", "a b", "/"),
        ("GET", "http", "a", "x"),
        ("GET", "http", "a", "*"),
        ("GET", "http", "a", "/ HTTP/1.1\r\nx: y"),
    ] {
        assert!(head.start_request(method, scheme, authority, path).is_err(), "{method} {scheme} {authority} {path}");
    }
}

#[test]
fn responses_are_passed_on() {
    let other = |case, version, expected| pass(case, Asked::Other, version, expected);
    other("HTTP/1.1 200 Fine|Content-Length: 5|X:1||", Version::Http11, "HTTP/1.1 200 OK|X: 1|content-length: 5||");
    other("HTTP/1.0 200 OK|Content-Length: 5||", Version::Http11, "HTTP/1.1 200 OK|content-length: 5||");
    other(
        "HTTP/1.1 404|Content-Length: 0||",
        Version::Http10,
        "HTTP/1.1 404 Not Found|content-length: 0|connection: keep-alive||",
    );
    other("HTTP/1.1 299 Odd|Content-Length: 1||", Version::Http11, "HTTP/1.1 299 |content-length: 1||");
    other("HTTP/1.1 200 OK||", Version::Http11, "HTTP/1.1 200 OK|transfer-encoding: chunked||");
    other("HTTP/1.1 200 OK||", Version::Http10, "HTTP/1.1 200 OK|connection: close||");
    other("HTTP/1.1 200 OK|Transfer-Encoding: chunked||", Version::Http10, "HTTP/1.1 200 OK|connection: close||");
    other("HTTP/1.1 204 No Content||", Version::Http11, "HTTP/1.1 204 No Content||");
    other("HTTP/1.1 304 X|Content-Length: 9||", Version::Http11, "HTTP/1.1 304 Not Modified|content-length: 9||");
    pass("HTTP/1.1 200 OK|Content-Length: 9||", Asked::Head, Version::Http11, "HTTP/1.1 200 OK|content-length: 9||");
    pass(
        "HTTP/1.1 101 X|Connection: Upgrade|Upgrade: websocket||",
        Asked::Upgrade,
        Version::Http11,
        "HTTP/1.1 101 Switching Protocols|Upgrade: websocket|connection: upgrade||",
    );
    other(
        "HTTP/1.1 200 OK|Connection: X|X: 1|Content-Length: 0||",
        Version::Http11,
        "HTTP/1.1 200 OK|content-length: 0||",
    );
}

#[test]
fn answers_made_here_are_whole() {
    let mut head = Head::new();
    head.start_response(503);
    head.append("retry-after", b"1").unwrap();
    head.set_framing(Framing::Length(3));
    let mut out = Vec::new();
    emit_response(&head, &mut out);
    assert_eq!(out, b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 3\r\n\r\n");
    head.start_response(204);
    out.clear();
    emit_response(&head, &mut out);
    assert_eq!(out, b"HTTP/1.1 204 No Content\r\n\r\n");
    head.start_response(200);
    out.clear();
    emit_response(&head, &mut out);
    assert_eq!(out, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn what_a_426_asks_for_reaches_the_client() {
    let answer = |status: &str| format!("HTTP/1.1 {status}|Connection: upgrade|Upgrade: websocket|Content-Length: 0||");
    let kept = "HTTP/1.1 426 Upgrade Required|Upgrade: websocket|content-length: 0|connection: upgrade||";
    pass(&answer("426 x"), Asked::Other, Version::Http11, kept);
    pass(kept, Asked::Other, Version::Http11, kept);
    pass(&answer("200 OK"), Asked::Other, Version::Http11, "HTTP/1.1 200 OK|content-length: 0||");
}
