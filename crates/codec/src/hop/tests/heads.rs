// SPDX-License-Identifier: Apache-2.0
//! Heads on a stream: the mark of the end is the only end.

use crate::h1::Asked;
use crate::hop::*;
use crate::{Fields, Framing, Head, Limits, RejectReason};

fn request(text: &str, end: bool) -> Result<(Framing, usize), RejectReason> {
    let mut head = Head::new();
    let parsed = parse_request(text.as_bytes(), end, &Limits::default(), &mut head);
    parsed.map(|used| (head.framing(), text.len() - used)).map_err(|reject| reject.reason)
}

fn response(text: &str, interim: bool, asked: Asked) -> Result<(u16, Framing), RejectReason> {
    let mut head = Head::new();
    let parsed = parse_response(text.as_bytes(), interim, asked, &Limits::default(), &mut head);
    parsed.map(|_| (head.status(), head.framing())).map_err(|reject| reject.reason)
}

#[test]
fn a_request_ends_where_its_stream_says() {
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(request(get, true), Ok((Framing::None, 0)));
    assert_eq!(request(get, false), Ok((Framing::Stream, 0)));
    assert_eq!(request(&format!("{get}body"), true), Ok((Framing::Stream, 4)));
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
    assert_eq!(request(&format!("{post}body"), true), Ok((Framing::Length(4), 4)));
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(request(chunked, false), Err(RejectReason::TransferEncoding));
    assert_eq!(request("GET / HTTP/1.1\r\nhost: a\r\n", true), Err(RejectReason::Truncated));
    assert_eq!(request("GET / HTTP/1.1\r\n\r\n", true), Err(RejectReason::HostMissing));
}

#[test]
fn a_response_comes_in_the_frame_that_is_for_it() {
    let ok = "HTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(response(ok, false, Asked::Other), Ok((200, Framing::Stream)));
    assert_eq!(response(ok, false, Asked::Head), Ok((200, Framing::None)));
    assert_eq!(response(ok, true, Asked::Other), Err(RejectReason::StatusLine));
    assert_eq!(response("HTTP/1.1 103 Early Hints\r\n\r\n", true, Asked::Other), Ok((103, Framing::None)));
    assert_eq!(response("HTTP/1.1 103 Early Hints\r\n\r\n", false, Asked::Other), Err(RejectReason::StatusLine));
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    assert_eq!(response(switch, false, Asked::Upgrade), Ok((101, Framing::None)));
    assert_eq!(response(switch, false, Asked::Other), Err(RejectReason::UnexpectedUpgrade));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(response(chunked, false, Asked::Other), Err(RejectReason::TransferEncoding));
}

#[test]
fn no_head_on_a_stream_says_how_its_body_is_cut_or_its_connection_ends() {
    let mut head = Head::new();
    head.start_request("POST", "http", "a", "/x").unwrap();
    head.append("x-y", b"z").unwrap();
    head.set_keep_alive(false);
    for framing in [Framing::Chunked, Framing::Stream, Framing::UntilClose] {
        head.set_framing(framing);
        let mut out = Vec::new();
        emit_request(&head, &mut out);
        assert_eq!(out, b"POST /x HTTP/1.1\r\nhost: a\r\nx-y: z\r\n\r\n");
    }
    head.start_response(200);
    head.set_keep_alive(false);
    head.set_framing(Framing::Chunked);
    let mut out = Vec::new();
    emit_response(&head, &mut out);
    assert_eq!(out, b"HTTP/1.1 200 OK\r\n\r\n");
    head.set_framing(Framing::Length(3));
    out.clear();
    emit_response(&head, &mut out);
    assert_eq!(out, b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n");
}

#[test]
fn trailers_fill_their_frame() {
    let mut trailers = Fields::new();
    trailers.append("grpc-status", b"0").unwrap();
    let mut out = Vec::new();
    emit_trailers(&trailers, &mut out);
    let mut read = Fields::new();
    parse_trailers(&out, &Limits::default(), &mut read).unwrap();
    assert_eq!(read.get("grpc-status"), Some(&b"0"[..]));
    for (payload, expected) in [
        (&b"a: b\r\n"[..], RejectReason::Truncated),
        (b"a: b\r\n\r\nmore", RejectReason::Truncated),
        (b"content-length: 4\r\n\r\n", RejectReason::TrailerForbidden),
        (b"a: b\n\n", RejectReason::LineEnd),
    ] {
        let refused = parse_trailers(payload, &Limits::default(), &mut read).map_err(|reject| reject.reason);
        assert_eq!(refused, Err(expected), "{}", payload.escape_ascii());
    }
    parse_trailers(b"\r\n", &Limits::default(), &mut read).unwrap();
    assert!(read.is_empty());
}

#[test]
fn an_open_names_its_service_port() {
    let mut out = Vec::new();
    emit_preamble(Asks::Bytes, "80.mail.default.mesh", &mut out);
    out.extend_from_slice(b"rest");
    for last in ["", "80.mail.default.mesh", "80.mail.default.mesh2"] {
        assert_eq!(parse_preamble(&out, last), Ok((Asks::Bytes, "80.mail.default.mesh", &b"rest"[..])));
    }
    for asks in [Asks::Exchange, Asks::Datagrams] {
        out.clear();
        emit_preamble(asks, "53.dns.default.mesh", &mut out);
        assert_eq!(parse_preamble(&out, ""), Ok((asks, "53.dns.default.mesh", &b""[..])));
    }
    for payload in [&b""[..], b"\x01", b"\x01\x00", b"\x04\x01a", b"\x01\x02a", b"\x01\x02A.", b"\x01\x01\xff"] {
        assert_eq!(parse_preamble(payload, ""), Err(Wrong::Preamble), "{payload:?}");
    }
}

#[test]
fn who_asks_for_another_protocol_sends_no_body_but_does_not_end() {
    let mut head = Head::new();
    let text = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    parse_request(text, false, &Limits::default(), &mut head).unwrap();
    assert_eq!((head.framing(), head.upgrade().is_some()), (Framing::None, true));
}
