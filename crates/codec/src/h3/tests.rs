// SPDX-License-Identifier: Apache-2.0
//! What clients send, cut anywhere, and what they may not send.

use super::frame::{kind, write, write_number};
use super::*;
use crate::{Framing, Head, RejectReason, Version};
use proptest::prelude::*;

/// A block of literal lines.
fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in lines {
        crate::h2::hpack::write_integer(name.len(), 3, 0x20, &mut out);
        out.extend_from_slice(name.as_bytes());
        crate::h2::hpack::write_integer(value.len(), 7, 0, &mut out);
        out.extend_from_slice(value.as_bytes());
    }
    out
}

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x?y")];

fn frames(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|(kind, payload)| write(*kind, payload, &mut out));
    out
}

/// What a stream that holds `bytes` and ends is taken for, given `cut` bytes at a time: its head, its body, whether it
/// had trailers.
fn read(bytes: &[u8], cut: usize) -> Result<(Head, Vec<u8>, Option<Fields>), Wrong> {
    let (mut request, mut head) = (Request::default(), Head::default());
    let (mut body, mut trailers) = (Vec::new(), None);
    let last = bytes.len().div_ceil(cut.max(1));
    for (nth, mut rest) in bytes.chunks(cut.max(1)).enumerate() {
        while let Some(event) = request.next(&mut rest)? {
            match event {
                Event::Head => request.head(nth + 1 == last && rest.is_empty(), &mut head)?,
                Event::Body(piece) => body.extend_from_slice(piece),
                Event::Trailers(fields) => trailers = Some(fields),
            }
        }
        assert!(rest.is_empty());
    }
    request.end().map(|()| (head, body, trailers))
}

use crate::Fields;

fn wrong(bytes: &[u8]) -> Wrong {
    let whole = read(bytes, bytes.len()).unwrap_err();
    assert_eq!(read(bytes, 1).unwrap_err(), whole, "it doesn't depend on where the bytes are cut");
    whole
}

#[test]
fn a_request_is_read_wherever_it_is_cut() {
    let lines = [&GET[..], &[("te", "trailers"), ("cookie", "a=b")]].concat();
    let bytes = frames(&[
        (0x21, b"grease".to_vec()),
        (kind::HEADERS, block(&lines)),
        (kind::DATA, b"hello ".to_vec()),
        (0x40, Vec::new()),
        (kind::DATA, Vec::new()),
        (kind::DATA, b"there".to_vec()),
        (kind::HEADERS, block(&[("grpc-status", "0")])),
        (0x21, b"grease".to_vec()),
    ]);
    for cut in 1..=bytes.len() {
        let (head, body, trailers) = read(&bytes, cut).unwrap();
        assert_eq!((head.method(), head.scheme(), head.authority()), ("GET", "https", "a.test"));
        assert_eq!((head.path_and_query(), head.version()), ("/x?y", Version::Http3));
        assert_eq!((head.framing(), head.get("cookie")), (Framing::Stream, Some(&b"a=b"[..])));
        assert_eq!((body, trailers.unwrap().get("grpc-status")), (b"hello there".to_vec(), Some(&b"0"[..])));
    }
    let (head, ..) = read(&frames(&[(kind::HEADERS, block(&GET))]), 1000).unwrap();
    assert_eq!(head.framing(), Framing::None, "a request whose stream ends with its head has no body");
}

#[test]
fn the_example_of_the_rfc_and_coded_strings_are_read() {
    // RFC 9204 B.1: `:path` as a literal; then HPACK's example of a coded host (RFC 7541 C.4.1).
    let mut bytes = b"\x00\x00\xd1\xd7\x51\x0b/index.html\x50\x8c".to_vec();
    bytes.extend_from_slice(b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff");
    let (head, ..) = read(&frames(&[(kind::HEADERS, bytes)]), 7).unwrap();
    assert_eq!((head.method(), head.path(), head.authority()), ("GET", "/index.html", "www.example.com"));
}

#[test]
fn what_is_no_request_is_refused_as_in_http_2() {
    let with = |more: &[(&str, &str)]| frames(&[(kind::HEADERS, block(&[&GET[..], more].concat()))]);
    let malformed = Wrong::Stream(code::MESSAGE_ERROR);
    for more in [
        [(":path", "/again")],
        [(":status", "200")],
        [(":wrong", "x")],
        [("Upper", "x")],
        [("connection", "close")],
        [("transfer-encoding", "chunked")],
        [("te", "gzip")],
        [("x", "a\nb")],
    ] {
        assert_eq!(wrong(&with(&more)), malformed, "{more:?}");
    }
    assert_eq!(wrong(&with(&[("x", "y"), (":path", "/")])), malformed);
    assert_eq!(wrong(&frames(&[(kind::HEADERS, block(&GET[..3]))])), malformed);
    let connect = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/")];
    let extended = block(&[&connect[..], &[(":authority", "a.test")]].concat());
    assert_eq!(wrong(&frames(&[(kind::HEADERS, extended)])), malformed, "it was never offered");
    let refused = |reason: RejectReason| Wrong::Refused(reason.into());
    assert_eq!(wrong(&with(&[("host", "b.test")])), refused(RejectReason::HostMismatch));
    let nameless = block(&[(":method", "GET"), (":scheme", "https"), (":path", "/")]);
    assert_eq!(wrong(&frames(&[(kind::HEADERS, nameless)])), refused(RejectReason::HostMissing));
    let large = "v".repeat(HEADER_LIST_BYTES_MAX as usize);
    assert_eq!(wrong(&with(&[("x", &large)])), refused(RejectReason::HeadTooLarge));
    let most = crate::Limits::default().headers_max;
    assert_eq!(wrong(&with(&vec![("a", "b"); most + 1])), refused(RejectReason::TooManyHeaders));
    let crumbs = [vec![("a", "b"); most - 1], vec![("cookie", "c=d"); 200]].concat();
    assert!(read(&with(&crumbs), 1000).is_ok());
    let lines = vec![("a", "b"); HEADER_LIST_BYTES_MAX as usize / 34 + 1];
    assert_eq!(wrong(&with(&lines)), refused(RejectReason::HeadTooLarge), "lines count beside their text");
}

#[test]
fn a_body_is_as_long_as_was_said() {
    let body = |length: &str, pieces: &[&str]| {
        let lines = [&GET[..], &[("content-length", length)]].concat();
        let mut all = vec![(kind::HEADERS, block(&lines))];
        all.extend(pieces.iter().map(|piece| (kind::DATA, piece.as_bytes().to_vec())));
        frames(&all)
    };
    assert_eq!(read(&body("5", &["he", "llo"]), 1).unwrap().1, b"hello");
    for wrong_one in [body("5", &["hell"]), body("5", &["hello", "!"]), body("1", &[])] {
        assert_eq!(wrong(&wrong_one), Wrong::Stream(code::MESSAGE_ERROR));
    }
}

#[test]
fn frames_stand_where_they_may() {
    let head = || (kind::HEADERS, block(&GET));
    let (data, trailers) = ((kind::DATA, b"x".to_vec()), (kind::HEADERS, block(&[("a", "b")])));
    let unexpected = Wrong::Connection(code::FRAME_UNEXPECTED);
    for frame in [0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0d] {
        assert_eq!(wrong(&frames(&[head(), (frame, vec![0])])), unexpected, "{frame}");
    }
    assert_eq!(wrong(&frames(std::slice::from_ref(&data))), unexpected);
    assert_eq!(wrong(&frames(&[head(), trailers.clone(), data])), unexpected);
    assert_eq!(wrong(&frames(&[head(), trailers.clone(), trailers])), unexpected);
    let idle = vec![(0x21, Vec::new()); IDLE_FRAMES_MAX as usize + 1];
    assert_eq!(wrong(&frames(&idle)), Wrong::Connection(code::EXCESSIVE_LOAD));
    assert_eq!(Request::default().end(), Err(Wrong::Stream(code::REQUEST_INCOMPLETE)));
    let whole = frames(&[head()]);
    assert_eq!(wrong(&whole[..whole.len() - 1]), Wrong::Connection(code::FRAME_ERROR));
    // What refers to a table that wasn't offered.
    for bytes in [&[1, 0][..], &[0, 0, 0x80], &[0, 0, 0x40, 0], &[0, 0, 0x10], &[0, 0, 0x00, 0], &[0, 0, 0xff, 0x24]] {
        let broken = Wrong::Connection(code::DECOMPRESSION_FAILED);
        assert_eq!(wrong(&frames(&[(kind::HEADERS, bytes.to_vec())])), broken, "{bytes:?}");
    }
}

#[test]
fn what_is_written_is_what_the_rfc_says() {
    let mut head = Head::default();
    head.start_response(404);
    head.append("Content-Type", b"text/plain").unwrap();
    head.append("Set-Cookie", b"a").unwrap();
    head.append("X-Odd", b"b").unwrap();
    head.append("vary", b"c").unwrap();
    head.set_framing(Framing::Length(0));
    let mut out = Vec::new();
    write_response(&head, &mut out);
    let expected = b"\x01\x14\x00\x00\xdb\xf5\x7e\x01a\x25x-odd\x01b\x5f\x2c\x01c\xc4";
    assert_eq!(out, expected);
    out.clear();
    head.start_response(418);
    write_response(&head, &mut out);
    assert_eq!(out, b"\x01\x09\x00\x00\x5f\x09\x03418\xc4");
    out.clear();
    write_opening(&mut out);
    assert_eq!(out, b"\x00\x04\x05\x06\x80\x01\x00\x00");
    out.clear();
    write_goaway(STREAM_ID_MAX, &mut out);
    assert_eq!(out, b"\x07\x08\xff\xff\xff\xff\xff\xff\xff\xfc");
}

/// What a client's own streams are taken for: each a kind, and what follows.
fn streams(all: &[(u64, &[u8])]) -> Result<bool, u64> {
    let (mut opened, mut known) = (Opened::default(), true);
    for (kind, rest) in all {
        let mut uni = Uni::default();
        let mut bytes = Vec::new();
        write_number(*kind, &mut bytes);
        bytes.extend_from_slice(rest);
        for byte in bytes {
            known &= uni.take(&[byte], &mut opened)?;
            if !known {
                return Ok(false);
            }
        }
    }
    Ok(known)
}

#[test]
fn the_streams_of_a_connection_keep_their_rules() {
    let fine: &[u8] = b"\x04\x02\x06\x10\x0d\x01\x05\x07\x01\x00\x21\x00";
    assert_eq!(streams(&[(0, fine), (2, b"\x20"), (3, b"\x40\x7f\x81\x01")]), Ok(true));
    assert_eq!(streams(&[(0x21, b"x")]), Ok(false), "what isn't known isn't read");
    for (all, code) in [
        (&[(0, fine), (0, fine)][..], code::STREAM_CREATION_ERROR),
        (&[(1, b"")], code::STREAM_CREATION_ERROR),
        (&[(0, b"\x07\x01\x00")], code::MISSING_SETTINGS),
        (&[(0, b"\x04\x00\x04\x00")], code::FRAME_UNEXPECTED),
        (&[(0, b"\x04\x00\x00\x00")], code::FRAME_UNEXPECTED),
        (&[(0, b"\x04\x00\x02\x00")], code::FRAME_UNEXPECTED),
        (&[(0, b"\x04\x04\x06\x01\x06\x01")], code::SETTINGS_ERROR),
        (&[(0, b"\x04\x02\x02\x01")], code::SETTINGS_ERROR),
        (&[(0, b"\x04\x01\x06")], code::FRAME_ERROR),
        (&[(0, b"\x04\x80\x01\x00\x00")], code::EXCESSIVE_LOAD),
        (&[(0, b"\x04\x00\x07\x02\x00\x00")], code::FRAME_ERROR),
        (&[(0, b"\x04\x00\x07\x01\x00\x07\x01\x04")], code::ID_ERROR),
        (&[(0, b"\x04\x00\x0d\x01\x04\x0d\x01\x00")], code::ID_ERROR),
        (&[(0, b"\x04\x00\x03\x01\x00")], code::ID_ERROR),
        (&[(2, b"\x3f\x01")], code::ENCODER_STREAM_ERROR),
        (&[(3, b"\x80")], code::DECODER_STREAM_ERROR),
    ] {
        assert_eq!(streams(all), Err(code), "{all:?}");
    }
    assert_eq!(Uni::default().end(), Ok(()));
    let mut control = Uni::default();
    control.take(b"\x00", &mut Opened::default()).unwrap();
    assert_eq!(control.end(), Err(code::CLOSED_CRITICAL_STREAM));
}

proptest! {
    #[test]
    fn no_bytes_panic_or_mean_something_else_when_cut(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1_usize..20) {
        let whole = read(&bytes, bytes.len()).map(|(_, body, _)| body);
        prop_assert_eq!(read(&bytes, cut).map(|(_, body, _)| body), whole);
        let mut framed = frames(&[(kind::HEADERS, block(&GET))]);
        framed.extend_from_slice(&bytes);
        let whole = read(&framed, framed.len()).map(|(_, body, _)| body);
        prop_assert_eq!(read(&framed, cut).map(|(_, body, _)| body), whole);
        let _ = streams(&[(0, &bytes), (2, &bytes), (3, &bytes)]);
    }

    #[test]
    fn numbers_come_back(number in 0_u64..1 << 62) {
        let mut out = Vec::new();
        write_number(number, &mut out);
        prop_assert_eq!(super::frame::read_number(&out), Some((number, out.len())));
    }
}
