// SPDX-License-Identifier: Apache-2.0
//! Requests made by hand, each against one rule of HTTP/1, and what must come of each. They carry another
//! request with them: behind them, or hidden in the body, a chunk extension, a trailer or a header.

use byrnie_codec::RejectReason::{self as R};

/// What stands for a number of six digits that tells one payload from all others.
pub(crate) const NUMBER: &str = "@@@@@@";

/// What must come of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// So many requests, and the connection goes on.
    Passes(usize),
    /// So many requests, and the connection ends with the last of them.
    Ends(usize),
    /// So many requests, and then something that is refused for this.
    Refused(usize, R),
}
use Verdict::{Ends, Passes, Refused};

pub(crate) struct Crafted {
    pub(crate) bytes: Vec<u8>,
    pub(crate) verdict: Verdict,
}

/// All of them, for a server whose name is `host`.
pub(crate) fn crafted(host: &str) -> Vec<Crafted> {
    let mut out = Vec::new();
    let next = next(host);
    for (head, verdict) in heads(host) {
        // What hides behind the head, and how it is framed.
        let chunk = format!("{:x}\r\n{next}\r\n0\r\n\r\n", next.len());
        let framed = [
            (String::new(), String::new()),
            (format!("Content-Length: {}\r\n", next.len()), next.clone()),
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunk),
        ];
        for (line, body) in framed {
            let old = head.contains(" HTTP/1.0\r\n") && line.starts_with('T');
            let verdict = if old { Refused(0, R::EncodingInHttp10) } else { verdict };
            out.push(Crafted { bytes: latin1(&format!("{head}{line}\r\n{body}{next}")), verdict });
        }
    }
    for (body, verdict) in bodies(host) {
        for method in ["POST", "GET"] {
            let text = format!(
                "{method} /p{NUMBER} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n{body}{next}"
            );
            out.push(Crafted { bytes: latin1(&text), verdict });
        }
    }
    out.extend(places(host).into_iter().map(|(text, verdict)| Crafted { bytes: latin1(&text), verdict }));
    out
}

/// The request that hides.
fn next(host: &str) -> String {
    format!("GET /s{NUMBER} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Bytes as they were meant: a character below U+0100 is one byte.
pub(crate) fn latin1(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for c in text.chars() {
        match u8::try_from(u32::from(c)) {
            Ok(byte) => out.push(byte),
            Err(_) => out.extend_from_slice(c.to_string().as_bytes()),
        }
    }
    out
}

/// Heads without their last line. `verdict` counts the request behind them.
fn heads(host: &str) -> Vec<(String, Verdict)> {
    let mut out = Vec::new();
    for (start, verdict) in [methods(), versions()].concat() {
        out.push((format!("{start}\r\nHost: {host}\r\n"), verdict));
    }
    for (target, verdict) in targets(host) {
        out.push((format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n"), verdict));
    }
    for (lines, verdict) in hosts(host) {
        out.push((format!("GET /p{NUMBER} HTTP/1.1\r\n{lines}"), verdict));
    }
    for (lines, verdict) in combinations() {
        out.push((format!("POST /p{NUMBER} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n"), verdict));
        out.push((format!("GET /p{NUMBER} HTTP/1.1\r\n{lines}\r\nHost: {host}\r\n"), verdict));
    }
    out.push((format!("GET http://{host}/p{NUMBER} HTTP/1.0\r\n"), Ends(1)));
    out
}

fn of(cases: &[(&str, Option<R>)]) -> Vec<(String, Verdict)> {
    let verdict = |reason: Option<R>| reason.map_or(Passes(2), |reason| Refused(0, reason));
    cases.iter().map(|(text, reason)| (text.replace("/p", &format!("/p{NUMBER}")), verdict(*reason))).collect()
}

fn methods() -> Vec<(String, Verdict)> {
    of(&[
        ("get /p HTTP/1.1", None),
        ("M-SEARCH /p HTTP/1.1", None),
        ("!#$%&'*+-.^_`~ /p HTTP/1.1", None),
        ("DELETE /p HTTP/1.1", None),
        ("OPTIONS /p HTTP/1.1", None),
        ("\r\nGET /p HTTP/1.1", None),
        ("\r\n\r\nGET /p HTTP/1.1", Some(R::LeadingLine)),
        ("\nGET /p HTTP/1.1", Some(R::LeadingLine)),
        ("\r\n\nGET /p HTTP/1.1", Some(R::LeadingLine)),
        (" GET /p HTTP/1.1", Some(R::RequestLine)),
        ("\tGET /p HTTP/1.1", Some(R::RequestLine)),
        ("\0GET /p HTTP/1.1", Some(R::RequestLine)),
        ("GET  /p HTTP/1.1", Some(R::RequestLine)),
        ("GET\t/p HTTP/1.1", Some(R::RequestLine)),
        ("GET\u{b}/p HTTP/1.1", Some(R::RequestLine)),
        ("GET\r/p HTTP/1.1", Some(R::RequestLine)),
        ("GET\n/p HTTP/1.1", Some(R::RequestLine)),
        ("GET\u{a0}/p HTTP/1.1", Some(R::RequestLine)),
        ("GET/p HTTP/1.1", Some(R::RequestLine)),
        ("/p HTTP/1.1", Some(R::RequestLine)),
        ("GET", Some(R::RequestLine)),
        ("G(T /p HTTP/1.1", Some(R::RequestLine)),
        ("G:T /p HTTP/1.1", Some(R::RequestLine)),
        ("G\0T /p HTTP/1.1", Some(R::RequestLine)),
        ("G\u{e9}T /p HTTP/1.1", Some(R::RequestLine)),
        ("G\u{7f}T /p HTTP/1.1", Some(R::RequestLine)),
        ("GET,POST /p HTTP/1.1", Some(R::RequestLine)),
        ("\"GET\" /p HTTP/1.1", Some(R::RequestLine)),
        ("GET: /p HTTP/1.1", Some(R::RequestLine)),
        ("Host: a\r\nGET /p HTTP/1.1", Some(R::RequestLine)),
        ("AVERYLONGMETHODNAMETHATNOBODYEVERNEEDS /p HTTP/1.1", Some(R::Method)),
        ("CONNECT /p HTTP/1.1", Some(R::TargetForm)),
        ("CONNECT http://a:80/p HTTP/1.1", Some(R::TargetForm)),
        ("CONNECT u@a:80 HTTP/1.1", Some(R::Userinfo)),
        ("CONNECT a:0 HTTP/1.1", Some(R::Host)),
    ])
}

fn versions() -> Vec<(String, Verdict)> {
    let mut out = Vec::new();
    for bad in [
        "HTTP/1.2",
        "HTTP/0.9",
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/1",
        "HTTP/01.1",
        "HTTP/11",
        "HTTP/1,1",
        "HTTP/-1.1",
        "HTTP/+1.1",
        "HTTP/ 1.1",
        "HTTP /1.1",
        "http/1.1",
        "Http/1.1",
        "HTTPS/1.1",
        "XTTP/1.1",
        "ICY",
        "/1.1",
        " HTTP/1.1",
        "\tHTTP/1.1",
        "HTTP\\1.1",
        "HTTP/1.\u{b2}",
        "HTTP/1.\u{661}",
        "GET /s HTTP/1.1",
        "\"HTTP/1.1\"",
    ] {
        out.push((format!("GET /p{NUMBER} {bad}"), Refused(0, R::Version)));
    }
    for bad in [
        "HTTP/1.1 ",
        "HTTP/1.1\t",
        "HTTP/1.10",
        "HTTP/1.1.1",
        "HTTP/1.1\u{b}",
        "HTTP/1.1\0",
        "HTTP/1.1\r",
        "HTTP/1.1\n",
        "HTTP/1.1 HTTP/1.1",
        "HTTP/1.1;x",
        "HTTP/1.0 ",
        "HTTP/1.1,",
        "HTTP/1.1\rX: y",
        "HTTP/1.1\nX: y",
    ] {
        out.push((format!("GET /p{NUMBER} {bad}"), Refused(0, R::LineEnd)));
    }
    out.push((format!("GET /p{NUMBER} HTTP/1.0"), Ends(1)));
    out.push((format!("GET /p{NUMBER} HTTP/1.0\r\nConnection: keep-alive"), Passes(2)));
    out.push((format!("GET /p{NUMBER} HTTP/1.0\r\nConnection: keep-alive, close"), Ends(1)));
    out
}

fn targets(host: &str) -> Vec<(String, Verdict)> {
    let mut out = of(&[
        ("/p?a=b&c", None),
        ("/x/../p", None),
        ("//p", None),
        ("/./p;a=b", None),
        ("/p%41?%zz", None),
        ("/p?x=HTTP/1.1%0d%0aHost:%20b%0d%0a%0d%0aGET%20/evil", None),
        ("/p%0d%0aX:%20y", None),
        ("/p?/../../evil", None),
        ("/p#f", Some(R::Fragment)),
        ("/p?a#f", Some(R::Fragment)),
        ("/p%2fb", Some(R::AmbiguousPath)),
        ("/p%5cb", Some(R::AmbiguousPath)),
        ("/p\\b", Some(R::AmbiguousPath)),
        ("/p/..;/x", Some(R::AmbiguousPath)),
        ("/p%00", Some(R::AmbiguousPath)),
        ("/p%zz", Some(R::PercentEncoding)),
        ("/p%", Some(R::PercentEncoding)),
        ("/p%4", Some(R::PercentEncoding)),
        ("/p\u{e9}", Some(R::Path)),
        ("/p\u{ff0f}x", Some(R::Path)),
        ("/p?\u{80}", Some(R::Path)),
        ("/p x", Some(R::Version)),
        ("/p\tx", Some(R::RequestLine)),
        ("/p\u{b}x", Some(R::RequestLine)),
        ("/p\0", Some(R::RequestLine)),
        ("/p\u{1}", Some(R::RequestLine)),
        ("/p\u{7f}", Some(R::RequestLine)),
        ("/p\r", Some(R::RequestLine)),
        ("/p\n", Some(R::RequestLine)),
        ("/p\nHost: b", Some(R::RequestLine)),
        ("p", Some(R::TargetForm)),
        ("?/p", Some(R::TargetForm)),
        ("*", Some(R::TargetForm)),
        ("\\p", Some(R::TargetForm)),
        ("a:80", Some(R::TargetForm)),
        ("http:/p", Some(R::TargetForm)),
        ("http:a/p", Some(R::TargetForm)),
        ("http:///p", Some(R::Host)),
        ("http://a b/p", Some(R::Version)),
        ("http://a\\b/p", Some(R::Host)),
        ("http://a,b/p", Some(R::Host)),
        ("http://a%2e/p", Some(R::Host)),
        ("http://a:0/p", Some(R::Host)),
        ("http://a:65536/p", Some(R::Host)),
        ("http://[::1/p", Some(R::Host)),
        ("ftp://a/p", Some(R::Scheme)),
        ("file:///p", Some(R::Scheme)),
        ("javascript://a/p", Some(R::Scheme)),
        ("http://another.example/p", Some(R::HostMismatch)),
        ("https://another.example/p", Some(R::HostMismatch)),
    ]);
    let number = format!("p{NUMBER}");
    for (target, verdict) in [
        (format!("http://{host}/{number}"), Passes(2)),
        (format!("HTTP://{}:80/{number}?x", host.to_uppercase()), Passes(2)),
        (format!("http://{host}:81/{number}"), Refused(0, R::HostMismatch)),
        (format!("http://x.{host}/{number}"), Refused(0, R::HostMismatch)),
        (format!("http://{host}@evil/{number}"), Refused(0, R::Userinfo)),
        (format!("http://u@{host}/{number}"), Refused(0, R::Userinfo)),
        (format!("http://u:p@{host}/{number}"), Refused(0, R::Userinfo)),
        (format!("http://@{host}/{number}"), Refused(0, R::Userinfo)),
        (format!("http://{host}/{number}#f"), Refused(0, R::Fragment)),
    ] {
        out.push((target, verdict));
    }
    out
}

fn hosts(host: &str) -> Vec<(String, Verdict)> {
    let mut out = vec![
        (String::new(), Refused(0, R::HostMissing)),
        ("X-Host: a\r\n".to_owned(), Refused(0, R::HostMissing)),
        (format!("Host : {host}\r\n"), Refused(0, R::HeaderName)),
        (format!(" Host: {host}\r\n"), Refused(0, R::HeaderName)),
        (format!("X: y\r\n Host: {host}\r\n"), Refused(0, R::HeaderName)),
        (format!("Host:\r\n {host}\r\n"), Refused(0, R::HeaderName)),
        (format!("Host\0: {host}\r\n"), Refused(0, R::HeaderName)),
        (format!("Host: {host}\0\r\n"), Refused(0, R::HeaderValue)),
        (format!("Host: {host}\rX: y\r\n"), Refused(0, R::HeaderValue)),
        (format!("Host: {host}\nX: y\r\n"), Refused(0, R::LineEnd)),
        (format!("Host: {host}\r\nHost: {host}\r\n"), Refused(0, R::HostRepeated)),
        (format!("Host: {host}\r\nHOST: another.example\r\n"), Refused(0, R::HostRepeated)),
        (format!("Host: another.example\r\nX: y\r\nhost: {host}\r\n"), Refused(0, R::HostRepeated)),
        (format!("Host: {host}\r\nHost:\r\n"), Refused(0, R::HostRepeated)),
        (format!("hOsT:{host}\r\n"), Passes(2)),
        (format!("Host:\t{} \t\r\n", host.to_uppercase()), Passes(2)),
        (format!("Host: {host}:80\r\n"), Passes(2)),
        (format!("Host: {host}\r\nX-Forwarded-Host: another.example\r\n"), Passes(2)),
        (format!("Host: u@{host}\r\n"), Refused(0, R::Userinfo)),
        (format!("Host: u:p@{host}\r\n"), Refused(0, R::Host)),
    ];
    for bad in [
        "",
        " ",
        "a, b",
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "http://a",
        "a:",
        "a:0",
        "a:-1",
        "a:65536",
        "a:8o",
        "a:80:80",
        "a..b",
        ".a",
        "a\\b",
        "a%2eb",
        "\u{e9}",
        "[::1",
        "[::1]x",
        "[::1%25lo]",
        "\"a\"",
        "a;b",
        "(a)",
        "*",
        "a\tb",
        "a&b",
        "a:+80",
    ] {
        let verdict = if bad == "a:" { continue } else { Refused(0, R::Host) };
        out.push((format!("Host: {bad}\r\n"), verdict));
    }
    out
}

/// Upgrade, Connection and Expect, alone and together.
fn combinations() -> Vec<(String, Verdict)> {
    let mut out = of(&[
        ("Connection: Upgrade\r\nUpgrade: h2c", None),
        ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", None),
        ("Connection: Upgrade\r\nUpgrade: HTTP/2.0", None),
        ("Connection: Upgrade\r\nUpgrade: TLS/1.0", None),
        ("Connection: Upgrade\r\nUpgrade: websocket, h2c", None),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c", None),
        ("Connection: Upgrade", None),
        ("Upgrade: websocket", None),
        ("Connection: Host", None),
        ("Connection: Content-Length", None),
        ("Connection: Transfer-Encoding", None),
        ("Connection: Content-Length, Transfer-Encoding, Host, Cookie", None),
        ("Connection: keep-alive\r\nKeep-Alive: timeout=5", None),
        ("Connection: closed", None),
        ("Connection: ,,", None),
        ("Proxy-Connection: close", None),
        ("Connection: TE\r\nTE: trailers, chunked", None),
        ("Expect: 100-continue", None),
        ("Expect: 100-CONTINUE\r\nConnection: Expect", None),
        ("Expect: 100-continue\r\nExpect: 100-continue", None),
        ("Expect: 100-continue\r\nConnection: Upgrade\r\nUpgrade: h2c", None),
        ("Expect:", Some(R::Expect)),
        ("Expect: 100", Some(R::Expect)),
        ("Expect: 200-ok", Some(R::Expect)),
        ("Expect: 100-continue, x", Some(R::Expect)),
        ("Expect: x, 100-continue", Some(R::Expect)),
        ("Expect: 100-continue;q=1", Some(R::Expect)),
        ("Expect: 100-continue\r\nExpect: x", Some(R::Expect)),
        ("Expect: \"100-continue\"", Some(R::Expect)),
        ("Expect : 100-continue", Some(R::HeaderName)),
        ("Connection : close", Some(R::HeaderName)),
        ("Connection: close\0", Some(R::HeaderValue)),
        ("Connection: close\rUpgrade: h2c", Some(R::HeaderValue)),
        ("Connection: Upgrade\nUpgrade: h2c", Some(R::LineEnd)),
        ("Connection: Upgrade,\r\n Transfer-Encoding", Some(R::HeaderName)),
    ]);
    for last in [
        "Connection: close",
        "Connection: CLOSE",
        "Connection: keep-alive, close",
        "Connection: close, Upgrade\r\nUpgrade: h2c",
        "Connection: keep-alive\r\nConnection: close",
        "Expect: 100-continue\r\nConnection: close",
    ] {
        out.push((last.to_owned(), Ends(1)));
    }
    out
}

/// Chunked bodies; the request that follows them counts.
pub(crate) fn bodies(host: &str) -> Vec<(String, Verdict)> {
    let mut out: Vec<(String, Verdict)> = Vec::new();
    for good in [
        "0\r\n\r\n",
        "1\r\nZ\r\n0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "0;\"\r\n\r\n",
        "1;a=\"\r\nZ\r\n0\r\n\r\n",
        "1;a=\"b;c\"\r\nZ\r\n0\r\n\r\n",
        "1;a\\\r\nZ\r\n0\r\n\r\n",
        "1 ;a\r\nZ\r\n0\r\n\r\n",
        "1;\r\nZ\r\n0\r\n\r\n",
        "1;0\r\nZ\r\n0;5\r\n\r\n",
        "1;GET /evil HTTP/1.1\r\nZ\r\n0\r\n\r\n",
        "0000000000000001\r\nZ\r\n0000\r\n\r\n",
        "a\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
        "2\r\n\r\n\r\n0\r\n\r\n",
        "0\r\nX: GET /evil HTTP/1.1\r\n\r\n",
        "0\r\nX-Y: 5\r\nX-Z:\r\n\r\n",
        "0\r\nGrpc-Status: 0\r\n\r\n",
    ] {
        out.push((good.to_owned(), Passes(2)));
    }
    let after = "\r\nZ\r\n0\r\n\r\n";
    let bad_sizes = [
        "",
        " 1",
        "\t1",
        "\r\n1",
        "\n1",
        "+1",
        "-1",
        "-0",
        "0x1",
        "0X1",
        "1x",
        "x1",
        "g",
        "1,0",
        "1.0",
        "1_0",
        "1'",
        "\"1\"",
        "1:",
        "1=",
        "\u{b2}",
        "\u{ff11}",
        "1\0",
        "1\u{b}",
        "1\u{c}",
        "1\u{a0}",
        "10000000000000001",
        "00000000000000001",
        "ffffffffffffffff",
        "fffffffffffffff0",
        "8000000000000000",
        "8000000000000001",
        "fffffffffffffffff",
        "-ffffffffffffffff",
    ];
    out.extend(bad_sizes.iter().map(|size| (format!("{size}{after}"), Refused(0, R::ChunkSize))));
    out.extend(
        [("1 ", R::ChunkExtension), ("1\t", R::ChunkExtension), ("1 a", R::ChunkExtension), ("1 1", R::ChunkExtension)]
            .iter()
            .chain(&[
                ("1;\0", R::ChunkExtension),
                ("1;a\u{7f}", R::ChunkExtension),
                ("1;a=\"\u{1}\"", R::ChunkExtension),
            ])
            .chain(&[("1;a\rb", R::LineEnd), ("1\r", R::LineEnd), ("1;a=\"\n\"", R::LineEnd), ("1;\n", R::LineEnd)])
            .chain(&[("1;a=\"\r\"", R::LineEnd), ("1\rb", R::LineEnd), ("1;a\r\r", R::LineEnd)])
            .map(|(line, reason)| (format!("{line}{after}"), Refused(0, *reason))),
    );
    out.push((format!("1;{}{after}", "a".repeat(5000)), Refused(0, R::ChunkExtensionTooLong)));
    for (body, reason) in [
        ("0\n\n", R::LineEnd),
        ("0\r\n\n", R::LineEnd),
        ("0\n\r\n", R::LineEnd),
        ("1\nZ\r\n0\r\n\r\n", R::LineEnd),
        ("1\r\nZ\n0\r\n\r\n", R::ChunkEnd),
        ("1\r\nZ\r0\r\n\r\n", R::ChunkEnd),
        ("1\r\nZ0\r\n\r\n", R::ChunkEnd),
        ("1\r\nZZ\r\n0\r\n\r\n", R::ChunkEnd),
        ("2\r\nZ\r\n0\r\n\r\n", R::ChunkEnd),
        ("1\r\n\r\n0\r\n\r\n", R::ChunkEnd),
        // A chunk that swallows the last one.
        ("6\r\nZ\r\n0\r\n\r\n", R::ChunkSize),
        ("5\r\nZ\r\n0\r\n\r\n", R::ChunkEnd),
        ("0\r\nX: y\n\r\n", R::LineEnd),
        ("0\r\nX: y\r\r\n\r\n", R::HeaderValue),
        ("0\r\nX: \0\r\n\r\n", R::HeaderValue),
        ("0\r\nX: y\r\n z\r\n\r\n", R::HeaderName),
        ("0\r\n : y\r\n\r\n", R::HeaderName),
        ("0\r\n: y\r\n\r\n", R::HeaderName),
        ("0\r\nX : y\r\n\r\n", R::HeaderName),
        ("0\r\nX\r\n\r\n", R::HeaderName),
        ("0\r\nX\0: y\r\n\r\n", R::HeaderName),
        ("0\r\n1\r\nZ\r\n0\r\n\r\n", R::HeaderName),
        ("0\r\n0\r\n\r\n", R::HeaderName),
    ] {
        out.push((body.to_owned(), Refused(0, reason)));
    }
    out.push((format!("0\r\nGET /evil HTTP/1.1\r\nHost: {host}\r\n\r\n"), Refused(0, R::HeaderName)));
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Connection",
        "Upgrade",
        "TE",
        "Trailer",
        "Expect",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Content-Encoding",
        "Content-Type",
        "Content-Range",
        "Range",
        "Cache-Control",
        "If-Match",
        "Max-Forwards",
        "Keep-Alive",
        "Proxy-Connection",
        "Forwarded",
        "X-Forwarded-For",
        "X-Byrnie-Decision",
        "CONTENT-LENGTH",
    ] {
        out.push((format!("0\r\nX: y\r\n{name}: 5\r\n\r\n"), Refused(0, R::TrailerForbidden)));
    }
    // A chunk after the last one is no request.
    out.push((format!("0\r\n\r\n1{after}"), Refused(1, R::RequestLine)));
    out.push((format!("0\r\n\r\n0{after}"), Refused(1, R::RequestLine)));
    out.push(("0\r\n\r\n\r\n".to_owned(), Passes(2)));
    out.push(("0\r\n\r\n\r\n\r\n".to_owned(), Refused(1, R::LeadingLine)));
    // Whoever counts in 32 bits believes that this is the end.
    out.push((format!("100000000{after}"), Refused(0, R::Truncated)));
    out
}

/// Hidden requests in places of their own.
fn places(host: &str) -> Vec<(String, Verdict)> {
    let next = next(host);
    let head = |method: &str, lines: &str| format!("{method} /p{NUMBER} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n");
    let mut out = Vec::new();
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "get"] {
        let within = head(method, &format!("Content-Length: {}\r\n", next.len()));
        out.push((format!("{within}{next}"), Passes(1)));
        out.push((format!("{within}{next}{next}"), Passes(2)));
        // A body that lacks its last byte takes the first of the next request, and then its own end is missing.
        out.push((head(method, &format!("Content-Length: {}\r\n", next.len() + 1)) + &next, Refused(0, R::Truncated)));
        out.push((head(method, "Content-Length: 0\r\n") + &next, Passes(2)));
        out.push((head(method, &format!("Content-Length: {}\r\n", next.len() - 2)) + &next, Passes(1)));
        let chunks = format!("{:x}\r\n{next}\r\n", next.len());
        out.push((head(method, "Transfer-Encoding: chunked\r\n") + &chunks, Refused(0, R::Truncated)));
    }
    let line = |text: &str, reason| (head("GET", &format!("{text}{next}")), Refused(0, reason));
    out.push(line("X: y\n\n", R::LineEnd));
    out.push(line("X: y\r\r", R::HeaderValue));
    out.push(line("X: y\r\n\n", R::LineEnd));
    out.push(line("X: y\r\n\r", R::LineEnd));
    out.push(line("X: y\0\r\n\r\n", R::HeaderValue));
    out.push(line("X\r\n\r\n", R::HeaderName));
    out.push(line("\0\r\n\r\n", R::HeaderName));
    out.push(line("X: y\r\n", R::HeaderName));
    for name in ["X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "Content_Length", "Transfer_Encoding"] {
        out.push((head("POST", &format!("{name}: /evil\r\nContent-Length: {}\r\n", next.len())) + &next, Passes(1)));
    }
    out
}
