// SPDX-License-Identifier: Apache-2.0
//! Bodies: what they carry, where they end, and why they are refused.

use crate::h1::{Body, chunk_end, chunk_start, last_chunk};
use crate::{Fields, Framing, Limits, RejectReason as R};

/// The payload, what is left behind it, and the trailers, fed `step` bytes at a time.
fn read(input: &[u8], framing: Framing, limits: &Limits, step: usize) -> Result<String, R> {
    let mut body = Body::new(framing, limits);
    let (mut payload, mut at) = (Vec::new(), 0);
    let mut end = 0;
    while at < input.len() && !body.is_done() {
        end = (end.max(at) + step).min(input.len());
        while at < end && !body.is_done() {
            let piece = body.decode(&input[at..end]).map_err(|reject| reject.reason)?;
            assert!(piece.consumed > 0, "no progress");
            assert_eq!(piece.done, body.is_done());
            payload.extend_from_slice(&input[at..end][piece.payload]);
            at += piece.consumed;
        }
    }
    body.end().map_err(|reject| reject.reason)?;
    let mut out = String::from_utf8(payload).unwrap();
    if at < input.len() {
        out += &format!(" + {} left", input.len() - at);
    }
    for (name, value) in body.into_trailers().iter().flat_map(Fields::iter) {
        out += &format!(" {name}={}", String::from_utf8_lossy(value));
    }
    Ok(out)
}

#[track_caller]
fn check_with(case: &str, framing: Framing, limits: &Limits, expected: Result<&str, R>) {
    let bytes = super::bytes(case);
    for step in [usize::MAX / 2, 1, 2, 3, 7] {
        assert_eq!(read(&bytes, framing, limits, step), expected.map(str::to_owned), "{case:?} in steps of {step}");
    }
}

#[track_caller]
fn check(case: &str, expected: Result<&str, R>) {
    check_with(case, Framing::Chunked, &Limits::default(), expected);
}

#[test]
fn plain_bodies() {
    let check = |case: &str, framing, expected| check_with(case, framing, &Limits::default(), expected);
    check("hello", Framing::Length(5), Ok("hello"));
    check("hello!!", Framing::Length(5), Ok("hello + 2 left"));
    check("hell", Framing::Length(5), Err(R::Truncated));
    check("", Framing::Length(0), Ok(""));
    check("x", Framing::None, Ok(" + 1 left"));
    check("hello", Framing::UntilClose, Ok("hello"));
    check("", Framing::UntilClose, Ok(""));
}

#[test]
fn chunks() {
    check("5|hello|0||", Ok("hello"));
    check("5|hello|1| |5|world|0||", Ok("hello world"));
    check("a|0123456789|0||", Ok("0123456789"));
    check("A|0123456789|0||", Ok("0123456789"));
    check("0005|hello|000||", Ok("hello"));
    check("0000000000000005|hello|0||", Ok("hello"));
    check("0||GET", Ok(" + 3 left"));
    check("", Err(R::Truncated));
    check("5|hel", Err(R::Truncated));
    check("5|hello|0|", Err(R::Truncated));
    check("00000000000000005|hello|0||", Err(R::ChunkSize));
    check("8000000000000000|", Err(R::ChunkSize));
    check("ffffffffffffffff|", Err(R::ChunkSize));
    check("10000000000000005|hello", Err(R::ChunkSize));
    check("|5|hello|0||", Err(R::ChunkSize));
    check("|", Err(R::ChunkSize));
    check("x|", Err(R::ChunkSize));
    check("-5|hello", Err(R::ChunkSize));
    check("+5|hello", Err(R::ChunkSize));
    check("0x5|hello", Err(R::ChunkSize));
    check("5g|hello", Err(R::ChunkSize));
    check(" 5|hello", Err(R::ChunkSize));
    check(";x|hello", Err(R::ChunkSize));
    check("5\nhello|0||", Err(R::LineEnd));
    check("5\rhello", Err(R::LineEnd));
    check("5\r\rhello", Err(R::LineEnd));
    check("5|hello0||", Err(R::ChunkEnd));
    check("5|hello\n0||", Err(R::ChunkEnd));
    check("5|hello\r0||", Err(R::ChunkEnd));
    check("5|hello!|0||", Err(R::ChunkEnd));
    check("5|hello|\n0||", Err(R::ChunkSize));
}

#[test]
fn extensions() {
    check("5;a=b|hello|0;c||", Ok("hello"));
    check("5;a=\"b c\\\"d\";e|hello|0||", Ok("hello"));
    check("5 ;a|hello|0||", Ok("hello"));
    check("5 \t ; a = b|hello|0||", Ok("hello"));
    check("5;|hello|0||", Ok("hello"));
    check("5 |hello|0||", Err(R::ChunkExtension));
    check("5\t|hello|0||", Err(R::ChunkExtension));
    check("5 a|hello|0||", Err(R::ChunkExtension));
    check("5;a\0|hello|0||", Err(R::ChunkExtension));
    check("5;a\nhello|0||", Err(R::LineEnd));
    check("5;a\rb|hello|0||", Err(R::LineEnd));
    check("5;a=\"\r\nb\"|hello|0||", Err(R::ChunkEnd));
    let small = Limits { chunk_extension_bytes_max: 4, body_extension_bytes_max: 6, ..Limits::default() };
    check_with("5;abc|hello|0||", Framing::Chunked, &small, Ok("hello"));
    check_with("5;abcd|hello|0||", Framing::Chunked, &small, Err(R::ChunkExtensionTooLong));
    check_with("5;abc|hello|0;a||", Framing::Chunked, &small, Ok("hello"));
    check_with("5;abc|hello|0;ab||", Framing::Chunked, &small, Err(R::ChunkExtensionTooLong));
    check_with("5      ;|hello|0||", Framing::Chunked, &small, Err(R::ChunkExtensionTooLong));
}

#[test]
fn trailers() {
    check("0|Grpc-Status: 0|Grpc-Message: fine||", Ok(" Grpc-Status=0 Grpc-Message=fine"));
    check("5|hello|0|X-Checksum:  abc ||GET", Ok("hello + 3 left X-Checksum=abc"));
    check("0|Digest:||", Ok(" Digest="));
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Connection",
        "Trailer",
        "TE",
        "Upgrade",
        "Authorization",
        "Cookie",
        "Set-Cookie",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Expect",
        "Max-Forwards",
        "Cache-Control",
        "Range",
        "If-Match",
        "Forwarded-Client-Identity",
        "X-Forwarded-For",
        "X-Byrnie-Anything",
        "Txn-Id",
        "Idempotency-Key",
        "X-Request-Id",
    ] {
        check(&format!("0|{name}: 1||"), Err(R::TrailerForbidden));
    }
    check("0|X: 1\nY: 2||", Err(R::LineEnd));
    check("0|X: 1\n\n", Err(R::LineEnd));
    check("0|\n", Err(R::LineEnd));
    check("0\n\n", Err(R::LineEnd));
    check("0|X : 1||", Err(R::HeaderName));
    check("0| X: 1||", Err(R::HeaderName));
    check("0|X: 1| 2||", Err(R::HeaderName));
    check("0|: 1||", Err(R::HeaderName));
    check("0|X||", Err(R::HeaderName));
    check("0|X: \0||", Err(R::HeaderValue));
    check("0|X: 1|", Err(R::Truncated));
    check("0|GET / HTTP/1.1|Host: a||", Err(R::HeaderName));
    let small = Limits { trailer_bytes_max: 16, trailers_max: 2, ..Limits::default() };
    check_with("0|X: 12345678||", Framing::Chunked, &small, Ok(" X=12345678"));
    check_with("0|X: 1234567890||", Framing::Chunked, &small, Err(R::TrailersTooLarge));
    check_with("0|A:|B:|C:||", Framing::Chunked, &small, Err(R::TrailersTooLarge));
}

#[test]
fn what_is_written_is_read() {
    for len in [1, 9, 15, 16, 17, 255, 256, 4095, 4096, 65_536] {
        let mut out = Vec::new();
        chunk_start(len, &mut out);
        assert_eq!(out, format!("{len:x}\r\n").as_bytes());
        out.resize(out.len() + len, b'x');
        chunk_end(&mut out);
        let mut trailers = Fields::new();
        trailers.append("grpc-status", b"0").unwrap();
        last_chunk(Some(&trailers), &mut out);
        let expected = format!("{} grpc-status=0", "x".repeat(len));
        assert_eq!(read(&out, Framing::Chunked, &Limits::default(), usize::MAX / 2), Ok(expected));
    }
}
