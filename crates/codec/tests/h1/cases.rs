// SPDX-License-Identifier: Apache-2.0
//! Whole messages for the tests of this crate: odd but valid ones, and a server's view of a stream.

use byrnie_codec::h1::{Body, parse_request};
use byrnie_codec::{Framing, Head, Limits, Parsed, RejectReason};

/// One request as this crate understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path_and_query: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) keep_alive: bool,
    pub(crate) bytes: usize,
}

/// Reads a stream of requests until it ends, fails, or a request closes it. The last item tells what
/// was wrong, `None` if nothing was, and the bytes left over.
pub(crate) fn serve(stream: &[u8]) -> (Vec<Seen>, Option<RejectReason>, usize) {
    let limits = Limits::default();
    let (mut seen, mut at) = (Vec::new(), 0);
    let mut head = Head::new();
    while at < stream.len() {
        let start = at;
        match parse_request(&stream[at..], &limits, &mut head) {
            Ok(Parsed::Complete(used)) => at += used,
            Ok(Parsed::Partial) => break,
            Err(reject) => return (seen, Some(reject.reason), stream.len() - at),
        }
        let mut body = Body::new(head.framing(), &limits);
        let mut payload = Vec::new();
        while !body.is_done() && at < stream.len() {
            match body.decode(&stream[at..]) {
                Ok(piece) => {
                    payload.extend_from_slice(&stream[at..][piece.payload]);
                    at += piece.consumed;
                }
                Err(reject) => return (seen, Some(reject.reason), stream.len() - at),
            }
        }
        if !body.is_done() && head.framing() != Framing::None {
            return (seen, Some(RejectReason::Truncated), 0);
        }
        seen.push(Seen {
            method: head.method().to_owned(),
            path_and_query: head.path_and_query().to_owned(),
            headers: head.headers().map(|(n, v)| (n.to_owned(), v.to_vec())).collect(),
            body: payload,
            keep_alive: head.keep_alive(),
            bytes: at - start,
        });
        if !head.keep_alive() || head.upgrade().is_some() || head.method() == "CONNECT" {
            break;
        }
    }
    (seen, None, stream.len() - at)
}

/// More than 300 valid requests that real servers do receive and careless parsers stumble over.
pub(crate) fn odd() -> Vec<Vec<u8>> {
    let mut out: Vec<String> = Vec::new();
    let mut push = |message: String| out.push(message);
    let methods = [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "PATCH",
        "PROPFIND",
        "MKCOL",
        "M-SEARCH",
        "REPORT",
        "LOCK",
        "QUERY",
        "get",
        "X",
        "!",
        "a.b",
        "PURGE",
        "BAN",
        "SUBSCRIBE",
    ];
    for method in methods {
        push(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        push(format!("\r\n{method} /x HTTP/1.1\r\nhost:a\r\nX-Y:\r\n\r\n"));
    }
    let targets = [
        "/",
        "/?",
        "/??",
        "/?a",
        "/?=&=",
        "/a;b=c",
        "/a,b",
        "/~a",
        "/a:b",
        "/@",
        "/a!$&'()*+,;=",
        "/%41",
        "/%e2%82%ac",
        "/%20",
        "/%25",
        "/a?b/c?d",
        "/?%zz",
        "/?a[]=1",
        "/?{x}|y",
        "/?\"<>",
        "/a//b",
        "/./a",
        "/../a",
        "/a/..",
        "/...",
        "/-_.~",
        "/a?x=/../",
        "/index.html;v=1.1",
        "/?q=%00",
        "/;",
        "/:",
        "/0",
        "http://a",
        "http://a/",
        "http://a/x?y",
        "http://a?y",
        "HTTP://A/x",
        "https://a/x",
        "http://a:/",
        "/?\\",
        "/%7E",
        "/=",
        "/&",
    ];
    for target in targets {
        push(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        push(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"));
    }
    let hosts = [
        "a",
        "A",
        "a.b",
        "a.b.",
        "a:80",
        "a:",
        "a:65535",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:8080",
        "[2001:DB8::1]",
        "xn--nxasmq6b",
        "a-b",
        "a_b",
        "0",
        "1.2.3",
        "localhost",
        "80.payments.default.mesh",
        "a:080",
    ];
    for host in hosts {
        push(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        push(format!("GET / HTTP/1.1\r\nHOST:\t {host} \t\r\n\r\n"));
        push(format!("GET / HTTP/1.0\r\nhOsT:{host}\r\n\r\n"));
    }
    let lines = [
        "X:",
        "X: ",
        "X:\t",
        "X:1",
        "X:  1",
        "X: 1  ",
        "X:\t1\t",
        "X: a\tb",
        "X: \u{e9}",
        "X: \u{20ac}",
        "X: \"",
        "X: (",
        "X: ,,,",
        "X: :",
        "X: =",
        "!: 1",
        "#$%&'*+-.^_`|~: 1",
        "1: 1",
        "x-y_z: 1",
        "Connection:",
        "Connection: ,",
        "Connection: keep-alive",
        "Connection: x , y",
        "Connection: X\r\nConnection: Y",
        "Keep-Alive: timeout=5, max=9",
        "Keep-Alive: 300",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "TE: trailers, deflate;q=0.5",
        "TE:",
        "Trailer: X",
        "Upgrade: h2c",
        "Connection: Upgrade\r\nUpgrade: h2c",
        "Connection: upgrade\r\nUpgrade: websocket",
        "Upgrade: a, b/2",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Via: 1.0 a, 1.1 b",
        "Max-Forwards: 0",
        "Accept: */*",
        "Accept:",
        "Cookie: a=b; c=d",
        "Cookie: a=b\r\nCookie: c=d",
        "Cookie: a=\"b c\"",
        "Authorization: Basic Og==",
        "Range: bytes=0-",
        "If-None-Match: *",
        "If-None-Match: W/\"x\"",
        "Expect: 100-continue",
        "Date: x",
        "User-Agent: a (b; c) d/e",
        "Referer: http://b/",
        "Origin: null",
        "Content-Type: text/plain;charset=\"x\"",
        "X-A: 1\r\nX-A: 2\r\nX-A: 1",
        "Content-MD5: x",
        "Transfer_Encoding: chunked",
        "Content-Lengths: 5",
        "X-Content-Length: 5",
        "Sec-WebSocket-Key: x",
        "Forwarded: for=\"[::1]\"",
        "X-Forwarded-For: a, b,, c",
        "Pragma: no-cache",
        "Warning: 199 - x",
    ];
    for line in lines {
        push(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"));
        push(format!("GET / HTTP/1.1\r\n{line}\r\nHost: a\r\n\r\n"));
    }
    let bodies = [
        ("Content-Length: 0", ""),
        ("Content-Length: 00", ""),
        ("Content-Length: 1", "\r"),
        ("Content-Length: 2", "\r\n"),
        ("Content-Length: 0003", "abc"),
        ("content-length:3", "GET"),
        ("Content-Length: 16", "GET / HTTP/1.1\r\n"),
        ("Transfer-Encoding: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: Chunked", "3\r\nabc\r\n0\r\n\r\n"),
        ("transfer-encoding:chunked", "0003\r\nabc\r\n000\r\n\r\n"),
        ("Transfer-Encoding: chunked ", "a\r\n0123456789\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "A\r\n0123456789\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "3;a\r\nabc\r\n0;b=c\r\n\r\n"),
        ("Transfer-Encoding: chunked", "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "3 ;a\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\nX: 1\r\n\r\n"),
        ("Transfer-Encoding: chunked", "0\r\nX-Sum:\r\nDigest: a\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTrailer: X", "0\r\nX: y\r\n\r\n"),
        ("Expect: 100-continue\r\nContent-Length: 3", "abc"),
        ("Expect: 100-continue\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Connection: close\r\nContent-Length: 3", "abc"),
        ("Content-Encoding: gzip\r\nContent-Length: 1", "x"),
    ];
    for (line, body) in bodies {
        for method in ["POST", "PUT", "GET", "DELETE"] {
            push(format!("{method} / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n{body}"));
        }
    }
    out.into_iter().map(String::into_bytes).collect()
}
