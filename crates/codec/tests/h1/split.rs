// SPDX-License-Identifier: Apache-2.0
//! Where the network cuts a message must not matter: cut at every byte, fed in random pieces, or
//! followed by another, it is read the same, requests and answers alike. And whatever the bytes, nothing panics.

use crate::cases;

use byrnie_codec::h1::{Asked, Body, emit_request, emit_response, parse_request, parse_response};
use byrnie_codec::headers::{Sender, strip_hop_by_hop, strip_untrusted};
use byrnie_codec::{Framing, Head, Limits, Parsed, Reject};
use proptest::prelude::*;

/// Payload and end of a body that arrives in pieces that end at `cuts`.
fn in_pieces(input: &[u8], framing: Framing, cuts: &[usize]) -> Result<(Vec<u8>, usize), Reject> {
    let mut body = Body::new(framing, &Limits::default());
    let (mut payload, mut at) = (Vec::new(), 0);
    for end in cuts.iter().copied().chain([input.len()]) {
        while at < end.min(input.len()) && !body.is_done() {
            let piece = body.decode(&input[at..end])?;
            payload.extend_from_slice(&input[at..end][piece.payload]);
            at += piece.consumed;
        }
    }
    body.end()?;
    Ok((payload, at))
}

#[test]
fn a_head_cut_anywhere_is_partial_and_then_the_same() {
    for message in cases::odd() {
        let mut whole = Head::new();
        let Ok(Parsed::Complete(used)) = parse_request(&message, &Limits::default(), &mut whole) else {
            panic!("{}", message.escape_ascii());
        };
        let mut head = Head::new();
        for cut in 0..used {
            let parsed = parse_request(&message[..cut], &Limits::default(), &mut head);
            assert_eq!(parsed, Ok(Parsed::Partial), "{cut} of {}", message.escape_ascii());
        }
        assert_eq!(parse_request(&message, &Limits::default(), &mut head), Ok(Parsed::Complete(used)));
        let mut outs = [Vec::new(), Vec::new()];
        emit_request(&whole, &mut outs[0]);
        emit_request(&head, &mut outs[1]);
        assert_eq!(outs[0], outs[1]);
    }
}

#[test]
fn a_body_cut_anywhere_is_the_same() {
    for message in cases::odd() {
        let mut head = Head::new();
        let Ok(Parsed::Complete(used)) = parse_request(&message, &Limits::default(), &mut head) else {
            panic!("{}", message.escape_ascii());
        };
        let body = &message[used..];
        let whole = in_pieces(body, head.framing(), &[]);
        for cut in 0..body.len() {
            assert_eq!(in_pieces(body, head.framing(), &[cut]), whole, "{cut} of {}", message.escape_ascii());
        }
    }
}

/// Answers as servers send them, with the kind of request that each is for: interim ones before the final one, every
/// way to frame a body, and what may stand behind it.
fn answers() -> Vec<(Vec<u8>, Asked)> {
    let interims = [
        "",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink:\r\n\r\n",
        "HTTP/1.1 102\r\n\r\nHTTP/1.1 100 \r\nX: y\r\n\r\nHTTP/1.1 199 x y\r\n\r\n",
    ];
    let finals = [
        ("200 OK\r\nContent-Length: 5\r\n", "a\r\n\r\nnext"),
        ("200\r\ncontent-length:0\r\nSet-Cookie: a\r\nset-cookie: b\r\n", "next"),
        (
            "200 \r\nTransfer-Encoding: chunked\r\n",
            "3;a=\"b\"\r\na\r\n\r\n00A\r\n0123456789\r\n0;c\r\nX-Sum: 1\r\nX:\r\n\r\nnext",
        ),
        ("404 Not \u{e9}\r\nTRANSFER-ENCODING:\tChunked \r\nConnection: close\r\n", "0\r\n\r\nnext"),
        ("599 a\tb\r\nX: y\r\n", "until\r\n\r\nit closes"),
        ("204 No Content\r\nX: y\r\n", "next"),
        ("304 Not Modified\r\nContent-Length: 9\r\nETag: \"x\"\r\n", "next"),
    ];
    let mut out = Vec::new();
    for interim in interims {
        for version in ["1.1", "1.0"] {
            for (head, body) in finals {
                let old = version == "1.0" && head.to_ascii_lowercase().contains("chunked");
                for asked in [Asked::Other, Asked::Head, Asked::Upgrade].into_iter().filter(|_| !old) {
                    out.push((format!("{interim}HTTP/{version} {head}\r\n{body}").into_bytes(), asked));
                }
            }
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes";
        out.push((format!("{interim}{switch}").into_bytes(), Asked::Upgrade));
        out.push((
            format!("{interim}HTTP/1.1 200 Tunnel\r\nContent-Length: 5\r\n\r\nbytes").into_bytes(),
            Asked::Connect,
        ));
    }
    out
}

/// What a client has of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    /// Every head, as it is passed on, and how its body is framed.
    heads: Vec<(Vec<u8>, Framing)>,
    payload: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    /// Bytes that belong to it.
    used: usize,
}

/// Reads an answer that arrives in pieces that end at `cuts`, and what comes behind them.
fn answered(input: &[u8], asked: Asked, cuts: impl IntoIterator<Item = usize>) -> Answer {
    let limits = Limits::default();
    let (mut heads, mut payload, mut head, mut body) = (Vec::new(), Vec::new(), Head::new(), None::<Body>);
    let mut at = 0;
    for end in cuts.into_iter().chain([input.len()]) {
        while body.is_none() {
            let parsed = parse_response(&input[at..end], &limits, asked, &mut head).unwrap();
            let Parsed::Complete(used) = parsed else { break };
            at += used;
            let mut out = Vec::new();
            emit_response(&head, &mut out);
            heads.push((out, head.framing()));
            if head.status() == 101 || head.status() >= 200 {
                body = Some(Body::new(head.framing(), &limits));
            }
        }
        while let Some(body) = body.as_mut().filter(|body| at < end && !body.is_done()) {
            let piece = body.decode(&input[at..end]).unwrap();
            payload.extend_from_slice(&input[at..end][piece.payload]);
            at += piece.consumed;
        }
    }
    let mut body = body.unwrap();
    body.end().unwrap();
    let trailers = body.into_trailers();
    let trailers = trailers.map(|trailers| trailers.iter().map(|(n, v)| (n.to_owned(), v.to_vec())).collect());
    Answer { heads, payload, trailers: trailers.unwrap_or_default(), used: at }
}

#[test]
fn an_answer_cut_anywhere_is_the_same() {
    let answers = answers();
    for (message, asked) in &answers {
        let whole = answered(message, *asked, []);
        for cut in 0..message.len() {
            let found = answered(message, *asked, [cut]);
            assert_eq!(found, whole, "{cut} of {}", message.escape_ascii());
        }
        let found = answered(message, *asked, 0..message.len());
        assert_eq!(found, whole, "byte by byte: {}", message.escape_ascii());
    }
    println!("{} answers, cut at every byte", answers.len());
}

#[test]
fn the_head_of_an_answer_is_partial_until_its_last_byte() {
    let limits = Limits::default();
    for (message, asked) in answers() {
        let (mut start, mut head) = (0, Head::new());
        loop {
            let Ok(Parsed::Complete(used)) = parse_response(&message[start..], &limits, asked, &mut head) else {
                panic!("{}", message[start..].escape_ascii());
            };
            let last = head.status() == 101 || head.status() >= 200;
            let mut head = Head::new();
            for cut in start..start + used {
                let parsed = parse_response(&message[start..cut], &limits, asked, &mut head);
                assert_eq!(parsed, Ok(Parsed::Partial), "{cut} of {}", message.escape_ascii());
            }
            if last {
                break;
            }
            start += used;
        }
    }
}

fn header() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[A-Za-z-]{1,12}: ?[!-~]{0,20}",
        1 => Just("Content-Length: 3".to_owned()),
        1 => Just("Transfer-Encoding: chunked".to_owned()),
        1 => Just("Connection: close, X".to_owned()),
        1 => "[ -~]{0,20}",
        1 => "X: [\\x00-\\x7f]{0,6}",
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![12 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    let line = prop_oneof![
        6 => "(GET|POST|OPTIONS) /[a-z/.%]{0,12}(\\?[a-z&=]{0,8})? HTTP/1\\.[01]",
        1 => "[ -~]{0,30}",
        1 => "(GET|CONNECT) (http://)?[a-z@:.]{1,8} HTTP/1\\.1",
    ];
    (line, prop::collection::vec(header(), 0..6), end, any::<bool>(), prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(line, headers, end, host, rest)| {
            let mut out = line.into_bytes();
            out.extend_from_slice(b"\r\n");
            if host {
                out.extend_from_slice(b"Host: a\r\n");
            }
            for header in headers {
                out.extend_from_slice(header.as_bytes());
                out.extend_from_slice(end.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(&rest);
            out
        })
}

/// A chunked body in most places right.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let chunk = prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 1..40).prop_map(|data| {
            [format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat()
        }),
        1 => "[0-9a-f]{0,18}(;[ -~]{0,8})?\r?\n?".prop_map(String::into_bytes),
    ];
    let trailer = "([A-Za-z-]{1,8}: ?[ -~]{0,8}\r\n){0,3}";
    (prop::collection::vec(chunk, 0..6), trailer).prop_map(|(chunks, trailer)| {
        let mut out = chunks.concat();
        out.extend_from_slice(b"0\r\n");
        out.extend_from_slice(trailer.as_bytes());
        out.extend_from_slice(b"\r\nrest");
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn heads_do_not_depend_on_cuts(message in request(), cut in any::<prop::sample::Index>()) {
        let limits = Limits::default();
        let (mut whole, mut head) = (Head::new(), Head::new());
        let expected = parse_request(&message, &limits, &mut whole);
        let found = match parse_request(&message[..cut.index(message.len() + 1)], &limits, &mut head) {
            Ok(Parsed::Partial) => parse_request(&message, &limits, &mut head),
            other => other,
        };
        // Bytes after an error may hold another one.
        prop_assert_eq!(found, expected);
        if let Ok(Parsed::Complete(_)) = found {
            strip_untrusted(&mut head, Sender::Outside);
            strip_hop_by_hop(&mut head);
            let (mut out, mut next) = (Vec::new(), Head::new());
            emit_request(&head, &mut out);
            if !head.authority().is_empty() {
                prop_assert_eq!(parse_request(&out, &limits, &mut next), Ok(Parsed::Complete(out.len())));
                prop_assert_eq!(next.framing(), head.framing());
                prop_assert_eq!(next.path_and_query(), head.path_and_query());
            }
        }
    }

    #[test]
    fn chunks_do_not_depend_on_cuts(body in chunks(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(in_pieces(&body, Framing::Chunked, &cuts), in_pieces(&body, Framing::Chunked, &[]));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), framing in 0u8..4) {
        let limits = Limits::default();
        let mut head = Head::new();
        let _ = parse_request(&bytes, &limits, &mut head);
        let _ = parse_request(&[b"GET / HTTP/1.1\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat(), &limits, &mut head);
        let response = [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat();
        for asked in [Asked::Other, Asked::Head, Asked::Connect, Asked::Upgrade] {
            if let Ok(Parsed::Complete(_)) = parse_response(&response, &limits, asked, &mut head) {
                emit_response(&head, &mut Vec::new());
            }
        }
        let framing = match framing {
            0 => Framing::Chunked,
            1 => Framing::Length(7),
            2 => Framing::UntilClose,
            _ => Framing::None,
        };
        let _ = in_pieces(&bytes, framing, &[bytes.len() / 2]);
    }
}
