// SPDX-License-Identifier: Apache-2.0
//! Requests: what they are read as, or why they are refused.

use crate::h1::parse_request;
use crate::{Framing, Head, Limits, Parsed, RejectReason as R, Version};

/// `METHOD authority target body [close] [continue] [upgrade=..] [1.0] [https]`.
fn told(head: &Head) -> String {
    let mut out = format!("{} {} {} ", head.method(), head.authority(), head.path_and_query());
    out += &match head.framing() {
        Framing::None => "none".to_owned(),
        Framing::Length(n) => n.to_string(),
        Framing::Chunked => "chunked".to_owned(),
        other => format!("{other:?}"),
    };
    if !head.keep_alive() {
        out += " close";
    }
    if head.expects_continue() {
        out += " continue";
    }
    if let Some(upgrade) = head.upgrade() {
        out += &format!(" upgrade={}", String::from_utf8_lossy(upgrade));
    }
    if head.version() == Version::Http10 {
        out += " 1.0";
    }
    if head.scheme() == "https" {
        out += " https";
    }
    out
}

fn read(case: &[u8], limits: &Limits) -> Result<Option<String>, R> {
    let mut head = Head::new();
    match parse_request(case, limits, &mut head) {
        Ok(Parsed::Complete(used)) => {
            assert_eq!(used, case.len(), "{}", case.escape_ascii());
            Ok(Some(told(&head)))
        }
        Ok(Parsed::Partial) => Ok(None),
        Err(reject) => {
            assert_eq!(reject.status, reject.reason.status());
            Err(reject.reason)
        }
    }
}

#[track_caller]
fn check(case: &str, expected: Result<&str, R>) {
    let bytes = super::bytes(case);
    let found = read(&bytes, &Limits::default());
    assert_eq!(found, expected.map(|e| Some(e.to_owned())), "{case:?}");
}

/// A GET with these further lines.
#[track_caller]
fn line(lines: &str, expected: Result<&str, R>) {
    check(&format!("GET / HTTP/1.1|Host: a|{lines}||"), expected);
}

/// A POST with these further lines.
#[track_caller]
fn post(lines: &str, expected: Result<&str, R>) {
    check(&format!("POST / HTTP/1.1|Host: a|{lines}||"), expected);
}

#[test]
fn request_lines() {
    check("GET / HTTP/1.1|Host: a||", Ok("GET a / none"));
    check("|GET / HTTP/1.1|Host: a||", Ok("GET a / none"));
    check("||GET / HTTP/1.1|Host: a||", Err(R::LeadingLine));
    check("\nGET / HTTP/1.1|Host: a||", Err(R::LeadingLine));
    check("|\nGET / HTTP/1.1|Host: a||", Err(R::LeadingLine));
    check("get / HTTP/1.1|Host: a||", Ok("get a / none"));
    check("M-SEARCH / HTTP/1.1|Host: a||", Ok("M-SEARCH a / none"));
    check("PROPFIND /dav/ HTTP/1.1|Host: a||", Ok("PROPFIND a /dav/ none"));
    check("!#$%&'*+-.^_`~ / HTTP/1.1|Host: a||", Ok("!#$%&'*+-.^_`~ a / none"));
    check("GET  / HTTP/1.1|Host: a||", Err(R::RequestLine));
    check("GET /  HTTP/1.1|Host: a||", Err(R::Version));
    check("GET / HTTP/1.1 |Host: a||", Err(R::LineEnd));
    check(" GET / HTTP/1.1|Host: a||", Err(R::RequestLine));
    check("GET\t/ HTTP/1.1|Host: a||", Err(R::RequestLine));
    check("GET /\tHTTP/1.1|Host: a||", Err(R::RequestLine));
    check("GET|Host: a||", Err(R::RequestLine));
    check("GET /|Host: a||", Err(R::RequestLine));
    check("GET / |Host: a||", Err(R::Version));
    check("/ HTTP/1.1|Host: a||", Err(R::RequestLine));
    check("G(T / HTTP/1.1|Host: a||", Err(R::RequestLine));
    check("G\0T / HTTP/1.1|Host: a||", Err(R::RequestLine));
    check("GET /\0 HTTP/1.1|Host: a||", Err(R::RequestLine));
    check("AVERYLONGMETHODNAMETHATNOBODYEVERNEEDS / HTTP/1.1|Host: a||", Err(R::Method));
}

#[test]
fn versions() {
    check("GET / HTTP/1.0||", Ok("GET  / none close 1.0"));
    check("GET / HTTP/1.0|Host: a||", Ok("GET a / none close 1.0"));
    check("GET / HTTP/1.0|Host: a|Connection: keep-alive||", Ok("GET a / none 1.0"));
    check("GET / HTTP/1.2|Host: a||", Err(R::Version));
    check("GET / HTTP/0.9|Host: a||", Err(R::Version));
    check("GET / HTTP/2.0|Host: a||", Err(R::Version));
    check("PRI * HTTP/2.0||SM||", Err(R::Version));
    check("GET / http/1.1|Host: a||", Err(R::Version));
    check("GET / HTTP/1.10|Host: a||", Err(R::LineEnd));
    check("GET / HTTP/01.1|Host: a||", Err(R::Version));
    check("GET / HTTP/1|Host: a||", Err(R::Version));
    check("GET / HTTPS/1.1|Host: a||", Err(R::Version));
    check("GET / XTTP/1.1|Host: a||", Err(R::Version));
}

#[test]
fn targets() {
    check("GET /a?b=c&d HTTP/1.1|Host: a||", Ok("GET a /a?b=c&d none"));
    check("GET /%7euser/../b HTTP/1.1|Host: a||", Ok("GET a /b none"));
    check("GET //evil.example/x HTTP/1.1|Host: a||", Ok("GET a /evil.example/x none"));
    check("GET a HTTP/1.1|Host: a||", Err(R::TargetForm));
    check("GET ?q HTTP/1.1|Host: a||", Err(R::TargetForm));
    check("GET /a#b HTTP/1.1|Host: a||", Err(R::Fragment));
    check("GET /a?b#c HTTP/1.1|Host: a||", Err(R::Fragment));
    check("GET /a%2fb HTTP/1.1|Host: a||", Err(R::AmbiguousPath));
    check("GET /a\\b HTTP/1.1|Host: a||", Err(R::AmbiguousPath));
    check("GET /a%zz HTTP/1.1|Host: a||", Err(R::PercentEncoding));
    check("GET /\u{e9} HTTP/1.1|Host: a||", Err(R::Path));
    check("GET * HTTP/1.1|Host: a||", Err(R::TargetForm));
    check("OPTIONS * HTTP/1.1|Host: a||", Ok("OPTIONS a * none"));
    check("OPTIONS /x HTTP/1.1|Host: a||", Ok("OPTIONS a /x none"));
    check("OPTIONS http://a HTTP/1.1|Host: a||", Ok("OPTIONS a * none"));
    check("OPTIONS *x HTTP/1.1|Host: a||", Err(R::TargetForm));
}

#[test]
fn absolute_targets() {
    check("GET http://a/x HTTP/1.1|Host: a||", Ok("GET a /x none"));
    check("GET http://a HTTP/1.1|Host: a||", Ok("GET a / none"));
    check("GET http://a?q HTTP/1.1|Host: a||", Ok("GET a /?q none"));
    check("GET HTTP://A:80/x HTTP/1.1|Host: a:80||", Ok("GET a:80 /x none"));
    check("GET https://a/x HTTP/1.1|Host: a||", Ok("GET a /x none https"));
    check("GET http://a/x HTTP/1.0||", Ok("GET a /x none close 1.0"));
    check("GET http://a/x HTTP/1.1|Host: b||", Err(R::HostMismatch));
    check("GET http://a:81/x HTTP/1.1|Host: a||", Err(R::HostMismatch));
    check("GET http://a/x HTTP/1.1|Host: a:81||", Err(R::HostMismatch));
    check("GET http://a:80/x HTTP/1.1|Host: a||", Ok("GET a:80 /x none"));
    check("GET http://a/x HTTP/1.1|Host: a:80||", Ok("GET a /x none"));
    check("GET https://a:443/x HTTP/1.1|Host: a||", Ok("GET a:443 /x none https"));
    check("GET https://a:80/x HTTP/1.1|Host: a||", Err(R::HostMismatch));
    check("GET http://a/x HTTP/1.1||", Err(R::HostMissing));
    check("GET http://u@a/x HTTP/1.1|Host: a||", Err(R::Userinfo));
    check("GET http://u:p@a/x HTTP/1.1|Host: a||", Err(R::Userinfo));
    check("GET http:///x HTTP/1.1|Host: a||", Err(R::Host));
    check("GET http:/x HTTP/1.1|Host: a||", Err(R::TargetForm));
    check("GET ftp://a/x HTTP/1.1|Host: a||", Err(R::Scheme));
    check("GET file:///etc HTTP/1.1|Host: a||", Err(R::Scheme));
    check("GET http://a#f HTTP/1.1|Host: a||", Err(R::Path));
    check("GET http://a\\b/ HTTP/1.1|Host: a||", Err(R::Host));
}

#[test]
fn connect_targets() {
    check("CONNECT a:443 HTTP/1.1|Host: a:443||", Ok("CONNECT a:443 / none"));
    check("CONNECT [::1]:443 HTTP/1.1|Host: [::1]:443||", Ok("CONNECT [::1]:443 / none"));
    check("CONNECT a:443 HTTP/1.1|Host: b:443||", Err(R::HostMismatch));
    check("CONNECT a:443 HTTP/1.1|Host: a:444||", Err(R::HostMismatch));
    check("CONNECT a:443 HTTP/1.1|Host: a||", Ok("CONNECT a:443 / none"));
    check("CONNECT a HTTP/1.1|Host: a||", Err(R::TargetForm));
    check("CONNECT /x HTTP/1.1|Host: a||", Err(R::TargetForm));
    check("CONNECT http://a:443/ HTTP/1.1|Host: a:443||", Err(R::TargetForm));
    check("CONNECT u@a:443 HTTP/1.1|Host: a:443||", Err(R::Userinfo));
    check("CONNECT a:0 HTTP/1.1|Host: a:0||", Err(R::Host));
    check("CONNECT a:443 HTTP/1.1|Host: a:443|Content-Length: 1||", Err(R::BodyNotAllowed));
    check("CONNECT a:443 HTTP/1.1|Host: a:443|Transfer-Encoding: chunked||", Err(R::BodyNotAllowed));
    check("GET a:443 HTTP/1.1|Host: a:443||", Err(R::TargetForm));
}

#[test]
fn hosts() {
    check("GET / HTTP/1.1||", Err(R::HostMissing));
    check("GET / HTTP/1.1|Host: a|Host: a||", Err(R::HostRepeated));
    check("GET / HTTP/1.1|Host: a|HOST: b||", Err(R::HostRepeated));
    check("GET / HTTP/1.0|Host: a|Host: b||", Err(R::HostRepeated));
    check("GET / HTTP/1.1|Host:||", Err(R::Host));
    check("GET / HTTP/1.1|Host: ||", Err(R::Host));
    check("GET / HTTP/1.1|Host: a, b||", Err(R::Host));
    check("GET / HTTP/1.1|Host: a b||", Err(R::Host));
    check("GET / HTTP/1.1|Host: u@a||", Err(R::Userinfo));
    check("GET / HTTP/1.1|Host: a/b||", Err(R::Host));
    check("GET / HTTP/1.1|Host: a?b||", Err(R::Host));
    check("GET / HTTP/1.1|Host: a#b||", Err(R::Host));
    check("GET / HTTP/1.1|Host: http://a||", Err(R::Host));
    check("GET / HTTP/1.1|Host:A.Example.:8080||", Ok("GET a.example:8080 / none"));
    check("GET / HTTP/1.1|Host: \t a \t ||", Ok("GET a / none"));
    check("GET / HTTP/1.1|Host : a||", Err(R::HeaderName));
    check("GET / HTTP/1.1| Host: a||", Err(R::HeaderName));
}

#[test]
fn header_lines() {
    line("X: 1", Ok("GET a / none"));
    line("X:", Ok("GET a / none"));
    line("X:\t \t", Ok("GET a / none"));
    line("X: \u{e9}\u{ff}", Ok("GET a / none"));
    line("X: a\tb", Ok("GET a / none"));
    line(": x", Err(R::HeaderName));
    line("X", Err(R::HeaderName));
    line("X Y: 1", Err(R::HeaderName));
    line("X : 1", Err(R::HeaderName));
    line("X\t: 1", Err(R::HeaderName));
    line("X\0: 1", Err(R::HeaderName));
    line("X(: 1", Err(R::HeaderName));
    line("X\u{e9}: 1", Err(R::HeaderName));
    line("\"X\": 1", Err(R::HeaderName));
    line("X: a| folded", Err(R::HeaderName));
    line("X: a|\tfolded", Err(R::HeaderName));
    line(" X: a", Err(R::HeaderName));
    line("X: a\0b", Err(R::HeaderValue));
    line("X: a\u{1}b", Err(R::HeaderValue));
    line("X: a\u{7f}b", Err(R::HeaderValue));
    line("X: a\rb", Err(R::HeaderValue));
    line("X: a\r\rb", Err(R::HeaderValue));
    line("X: a\nY: b", Err(R::LineEnd));
    line("X: a\n", Err(R::LineEnd));
    check("GET / HTTP/1.1\nHost: a||", Err(R::LineEnd));
    check("GET / HTTP/1.1|Host: a\n|", Err(R::LineEnd));
    check("GET / HTTP/1.1|Host: a|\n", Err(R::LineEnd));
    check("GET / HTTP/1.1\n\n", Err(R::LineEnd));
    check("GET / HTTP/1.1\rHost: a||", Err(R::LineEnd));
    check("GET / HTTP/1.1|Host: a|\r\r\n", Err(R::LineEnd));
}

#[test]
fn lengths() {
    post("Content-Length: 0", Ok("POST a / 0"));
    post("Content-Length: 5", Ok("POST a / 5"));
    post("Content-Length: 005", Ok("POST a / 5"));
    post("content-length:5", Ok("POST a / 5"));
    post("Content-Length: \t5 ", Ok("POST a / 5"));
    post("Content-Length: 9223372036854775807", Ok("POST a / 9223372036854775807"));
    for bad in [
        "9223372036854775808",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999999999",
        "00000000000000000000005",
        "",
        " ",
        "-1",
        "+5",
        "5,5",
        "5, 6",
        "5 5",
        "0x5",
        "5.0",
        "5;",
        "\"5\"",
        "five",
        "5e1",
        "\u{665}",
    ] {
        post(&format!("Content-Length: {bad}"), Err(R::ContentLength));
    }
    post("Content-Length: 5|Content-Length: 5", Err(R::ContentLengthRepeated));
    post("Content-Length: 5|Content-Length: 6", Err(R::ContentLengthRepeated));
    post("Content-Length: 5|content-length:", Err(R::ContentLengthRepeated));
    post("Content-Length : 5", Err(R::HeaderName));
    post("Content-Length: 5| 5", Err(R::HeaderName));
    post("Content_Length: 5", Ok("POST a / none"));
    post("GET-Content-Length: 5", Ok("POST a / none"));
}

#[test]
fn encodings() {
    post("Transfer-Encoding: chunked", Ok("POST a / chunked"));
    post("transfer-encoding:CHUNKED", Ok("POST a / chunked"));
    post("Transfer-Encoding: \tchunked ", Ok("POST a / chunked"));
    for bad in [
        "",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "xchunked",
        "chunked\u{b}",
        "\"chunked\"",
        "chunk",
        "chunked chunked",
    ] {
        let reason = if bad.contains('\u{b}') { R::HeaderValue } else { R::TransferEncoding };
        post(&format!("Transfer-Encoding: {bad}"), Err(reason));
    }
    post("Transfer-Encoding: chunked|Transfer-Encoding: chunked", Err(R::TransferEncoding));
    post("Transfer-Encoding: chunked|Transfer-Encoding: identity", Err(R::TransferEncoding));
    post("Transfer-Encoding: identity|Transfer-Encoding: chunked", Err(R::TransferEncoding));
    post("Transfer-Encoding: chunked|Content-Length: 5", Err(R::LengthAndEncoding));
    post("Content-Length: 5|Transfer-Encoding: chunked", Err(R::LengthAndEncoding));
    post("Content-Length: 0|Transfer-Encoding: x", Err(R::LengthAndEncoding));
    post("Transfer-Encoding : chunked", Err(R::HeaderName));
    post(" Transfer-Encoding: chunked", Err(R::HeaderName));
    post("Transfer-Encoding:| chunked", Err(R::HeaderName));
    check("POST / HTTP/1.0|Transfer-Encoding: chunked||", Err(R::EncodingInHttp10));
    check("POST / HTTP/1.0|Content-Length: 5|Transfer-Encoding: chunked||", Err(R::EncodingInHttp10));
    check("TRACE / HTTP/1.1|Host: a|Content-Length: 5||", Err(R::BodyNotAllowed));
    check("GET / HTTP/1.1|Host: a|Content-Length: 5||", Ok("GET a / 5"));
    check("GET / HTTP/1.1|Host: a|Transfer-Encoding: chunked||", Ok("GET a / chunked"));
}

#[test]
fn connections() {
    line("Connection: close", Ok("GET a / none close"));
    line("Connection: CLOSE", Ok("GET a / none close"));
    line("Connection: keep-alive, close", Ok("GET a / none close"));
    line("Connection: keep-alive|Connection: x,close", Ok("GET a / none close"));
    line("Connection: closed", Ok("GET a / none"));
    line("Connection: ,,", Ok("GET a / none"));
    line("Connection: Upgrade|Upgrade: websocket", Ok("GET a / none upgrade=websocket"));
    line("Connection: keep-alive, Upgrade|Upgrade: websocket", Ok("GET a / none upgrade=websocket"));
    line("Upgrade: websocket", Ok("GET a / none"));
    line("Connection: Upgrade", Ok("GET a / none"));
    line("Connection: Upgrade|Upgrade: h2c", Ok("GET a / none"));
    line("Connection: Upgrade|Upgrade: H2C", Ok("GET a / none"));
    line("Connection: Upgrade|Upgrade: websocket, h2c", Ok("GET a / none"));
    line("Connection: Upgrade|Upgrade: websocket|Upgrade: h2c", Ok("GET a / none"));
    line("Connection: Upgrade|Upgrade: HTTP/2.0", Ok("GET a / none"));
    line("Connection: Upgrade|Upgrade: TLS/1.0", Ok("GET a / none"));
    post("Connection: Upgrade|Upgrade: websocket|Content-Length: 5", Ok("POST a / 5"));
    post("Connection: Upgrade|Upgrade: tcp|Content-Length: 0", Ok("POST a / 0 upgrade=tcp"));
    check("GET / HTTP/1.0|Connection: Upgrade|Upgrade: websocket||", Ok("GET  / none close 1.0"));
}

#[test]
fn expectations() {
    post("Expect: 100-continue|Content-Length: 5", Ok("POST a / 5 continue"));
    post("Expect: 100-Continue|Transfer-Encoding: chunked", Ok("POST a / chunked continue"));
    line("Expect: 100-continue", Ok("GET a / none"));
    post("Expect: 200-ok", Err(R::Expect));
    post("Expect: 100-continue|Expect: x", Err(R::Expect));
    post("Expect:", Err(R::Expect));
    check("POST / HTTP/1.0|Expect: 100-continue|Content-Length: 5||", Ok("POST  / 5 close 1.0"));
}

#[test]
fn limits() {
    let limits = Limits {
        head_bytes_max: 64,
        headers_max: 2,
        request_line_bytes_max: 24,
        name_bytes_max: 8,
        ..Limits::default()
    };
    let read = |case: &str| read(&super::bytes(case), &limits);
    let ok = Ok(Some("GET a / none".to_owned()));
    assert_eq!(read("GET / HTTP/1.1|Host: a|X: 1||"), ok);
    assert_eq!(read("GET / HTTP/1.1|Host: a|X: 1|Y: 2||"), Err(R::TooManyHeaders));
    assert_eq!(read("GET / HTTP/1.1|Host: a|12345678: 1||"), ok);
    assert_eq!(read("GET / HTTP/1.1|Host: a|123456789: 1||"), Err(R::HeaderNameTooLong));
    assert_eq!(read("GET /90123456789 HTTP/1.1|Host: a||"), Err(R::RequestLineTooLong));
    assert_eq!(read("GET /9012345678901234567890"), Err(R::RequestLineTooLong));
    assert_eq!(read("GET /901234567890123"), Ok(None));
    // 64 bytes exactly, one more, and one more that never ends.
    assert_eq!(read(&format!("GET / HTTP/1.1|Host: a|X: {}||", "x".repeat(32))), ok);
    assert_eq!(read(&format!("GET / HTTP/1.1|Host: a|X: {}||", "x".repeat(33))), Err(R::HeadTooLarge));
    assert_eq!(read(&format!("GET / HTTP/1.1|Host: a|X: {}", "x".repeat(36))), Err(R::HeadTooLarge));
    assert_eq!(read(&format!("GET / HTTP/1.1|Host: a|X: {}", "x".repeat(35))), Ok(None));
}

#[test]
fn what_follows_is_left_alone() {
    let mut head = Head::new();
    let first = super::bytes("GET /1 HTTP/1.1|Host: a||");
    let both = [first.as_slice(), b"GET /2 HTTP/1.1\r\n"].concat();
    assert_eq!(parse_request(&both, &Limits::default(), &mut head), Ok(Parsed::Complete(first.len())));
    assert_eq!(head.path(), "/1");
    assert_eq!(parse_request(&both[first.len()..], &Limits::default(), &mut head), Ok(Parsed::Partial));
}

#[test]
fn a_head_that_trickles_in_is_found_at_its_last_byte() {
    for end in ["||", "\n\n", "\n|", "|\n"] {
        let whole = super::bytes(&format!("GET / HTTP/1.1|Host: a|X: {}{end}", "x".repeat(5000)));
        let mut head = Head::new();
        for cut in 1..whole.len() {
            let parsed = parse_request(&whole[..cut], &Limits::default(), &mut head);
            assert_eq!(parsed, Ok(Parsed::Partial), "{cut} {end:?}");
        }
        let parsed = parse_request(&whole, &Limits::default(), &mut head);
        match end {
            "||" => assert_eq!(parsed, Ok(Parsed::Complete(whole.len()))),
            _ => assert_eq!(parsed.unwrap_err().reason, R::LineEnd),
        }
    }
}
