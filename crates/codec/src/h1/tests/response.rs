// SPDX-License-Identifier: Apache-2.0
//! Responses: what they are read as, or why they are refused.

use crate::h1::{Asked, parse_response};
use crate::{Framing, Head, Limits, Parsed, RejectReason as R};

fn read(case: &str, asked: Asked) -> Result<String, R> {
    let bytes = super::bytes(case);
    let mut head = Head::new();
    match parse_response(&bytes, &Limits::default(), asked, &mut head) {
        Ok(Parsed::Complete(used)) => {
            assert_eq!(used, bytes.len(), "{case:?}");
            let mut out = format!("{} ", head.status());
            out += &match head.framing() {
                Framing::None => "none".to_owned(),
                Framing::Length(n) => n.to_string(),
                Framing::Chunked => "chunked".to_owned(),
                Framing::UntilClose => "until-close".to_owned(),
                Framing::Stream => "stream".to_owned(),
            };
            if let Some(length) = head.declared_length() {
                out += &format!(" declared={length}");
            }
            if !head.keep_alive() {
                out += " close";
            }
            if let Some(upgrade) = head.upgrade() {
                out += &format!(" upgrade={}", String::from_utf8_lossy(upgrade));
            }
            Ok(out)
        }
        Ok(Parsed::Partial) => Ok("partial".to_owned()),
        Err(reject) => {
            assert_eq!(reject.status, 502);
            Err(reject.reason)
        }
    }
}

#[track_caller]
fn check(case: &str, asked: Asked, expected: Result<&str, R>) {
    assert_eq!(read(case, asked), expected.map(str::to_owned), "{case:?} {asked:?}");
}

#[test]
fn status_lines() {
    let check = |case: &str, expected| check(case, Asked::Other, expected);
    check("HTTP/1.1 200 OK|Content-Length: 5||", Ok("200 5"));
    check("HTTP/1.1 200 |Content-Length: 5||", Ok("200 5"));
    check("HTTP/1.1 200|Content-Length: 5||", Ok("200 5"));
    check("HTTP/1.1 200 All is very well\tindeed|Content-Length: 5||", Ok("200 5"));
    check("HTTP/1.1 299 \u{e9}t\u{e9}|Content-Length: 5||", Ok("299 5"));
    check("HTTP/1.0 200 OK|Content-Length: 5||", Ok("200 5 close"));
    check("HTTP/1.0 200 OK|Content-Length: 5|Connection: keep-alive||", Ok("200 5"));
    check("HTTP/1.1 599 x|Content-Length: 5||", Ok("599 5"));
    check("HTTP/1.1 600 x||", Err(R::StatusLine));
    check("HTTP/1.1 099 x||", Err(R::StatusLine));
    check("HTTP/1.1 000 x||", Err(R::StatusLine));
    check("HTTP/1.1 20 OK||", Err(R::StatusLine));
    check("HTTP/1.1 2000 OK||", Err(R::StatusLine));
    check("HTTP/1.1 abc OK||", Err(R::StatusLine));
    check("HTTP/1.1  200 OK||", Err(R::StatusLine));
    check("HTTP/2 200||", Err(R::Version));
    check("HTTP/1.2 200 OK||", Err(R::Version));
    check("ICY 200 OK||", Err(R::Version));
    check("|HTTP/1.1 200 OK||", Err(R::LeadingLine));
    check("HTTP/1.1 200 OK\nContent-Length: 5||", Err(R::LineEnd));
    check("HTTP/1.1 200 O\rK|Content-Length: 5||", Err(R::StatusLine));
    check("HTTP/1.1 200 O\0K|Content-Length: 5||", Err(R::StatusLine));
    check("HTTP/1.1 200 OK|Content-Length", Ok("partial"));
}

#[test]
fn framing() {
    let check = |lines: &str, expected| check(&format!("HTTP/1.1 200 OK|{lines}||"), Asked::Other, expected);
    check("Content-Length: 0", Ok("200 0"));
    check("Content-Length: 7|Connection: close", Ok("200 7 close"));
    check("Transfer-Encoding: chunked", Ok("200 chunked"));
    check("X: y", Ok("200 until-close close"));
    check("Content-Length: 7|Content-Length: 7", Err(R::ContentLengthRepeated));
    check("Content-Length: 7, 7", Err(R::ContentLength));
    check("Content-Length:", Err(R::ContentLength));
    check("Content-Length: 7|Transfer-Encoding: chunked", Err(R::LengthAndEncoding));
    check("Transfer-Encoding: gzip, chunked", Err(R::TransferEncoding));
    check("Transfer-Encoding: identity", Err(R::TransferEncoding));
    check("X: a| folded", Err(R::HeaderName));
    check("X : a", Err(R::HeaderName));
    check("X: a\nY: b", Err(R::LineEnd));
    check("X: a\0", Err(R::HeaderValue));
}

#[test]
fn answers_without_body() {
    check("HTTP/1.1 200 OK|Content-Length: 5||", Asked::Head, Ok("200 none declared=5"));
    check("HTTP/1.1 200 OK|Transfer-Encoding: chunked||", Asked::Head, Ok("200 none"));
    check("HTTP/1.1 200 OK||", Asked::Head, Ok("200 none"));
    check("HTTP/1.1 304 Not Modified|Content-Length: 5||", Asked::Other, Ok("304 none declared=5"));
    check("HTTP/1.1 304 Not Modified||", Asked::Other, Ok("304 none"));
    check("HTTP/1.1 204 No Content||", Asked::Other, Ok("204 none"));
    check("HTTP/1.1 204 No Content|Content-Length: 0||", Asked::Other, Ok("204 none"));
    check("HTTP/1.1 204 No Content|Content-Length: 5||", Asked::Other, Err(R::BodyNotAllowed));
    check("HTTP/1.1 204 No Content|Transfer-Encoding: chunked||", Asked::Other, Err(R::BodyNotAllowed));
    check("HTTP/1.1 100 Continue||", Asked::Other, Ok("100 none"));
    check("HTTP/1.1 100 Continue|Content-Length: 5||", Asked::Other, Err(R::BodyNotAllowed));
    check("HTTP/1.1 103 Early Hints|Link: </a>||", Asked::Other, Ok("103 none"));
    check("HTTP/1.1 205 Reset Content|Content-Length: 0||", Asked::Other, Ok("205 0"));
    check("HTTP/1.1 200 OK|Content-Length: 5|Transfer-Encoding: chunked||", Asked::Head, Err(R::LengthAndEncoding));
}

#[test]
fn tunnels_and_upgrades() {
    check("HTTP/1.1 200 OK||", Asked::Connect, Ok("200 none"));
    check("HTTP/1.1 200 OK|Content-Length: 5||", Asked::Connect, Ok("200 none"));
    check("HTTP/1.1 200 OK|Transfer-Encoding: chunked||", Asked::Connect, Ok("200 none"));
    check("HTTP/1.1 407 No|Content-Length: 5||", Asked::Connect, Ok("407 5"));
    let switch = "HTTP/1.1 101 Switching Protocols|Connection: Upgrade|Upgrade: websocket||";
    check(switch, Asked::Upgrade, Ok("101 none upgrade=websocket"));
    check(switch, Asked::Other, Err(R::UnexpectedUpgrade));
    check(switch, Asked::Connect, Err(R::UnexpectedUpgrade));
    check("HTTP/1.1 101 X|Upgrade: websocket||", Asked::Upgrade, Err(R::UnexpectedUpgrade));
    check("HTTP/1.1 101 X|Connection: Upgrade||", Asked::Upgrade, Err(R::UnexpectedUpgrade));
    check("HTTP/1.1 101 X|Connection: Upgrade|Upgrade: h2c||", Asked::Upgrade, Err(R::UnexpectedUpgrade));
    check("HTTP/1.1 200 OK|Content-Length: 5||", Asked::Upgrade, Ok("200 5"));
}
