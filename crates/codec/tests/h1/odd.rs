// SPDX-License-Identifier: Apache-2.0
//! Strictness must not cost honest clients: valid messages, however odd, are accepted whole.

use crate::cases;

use byrnie_codec::h1::{Asked, emit_request, parse_request, parse_response};
use byrnie_codec::headers::strip_hop_by_hop;
use byrnie_codec::{Head, Limits, Parsed};

#[test]
fn odd_but_valid_requests_are_accepted() {
    let messages = cases::odd();
    assert!(messages.len() >= 300, "{}", messages.len());
    for message in messages {
        let (seen, refused, left) = cases::serve(&message);
        assert_eq!((seen.len(), refused, left), (1, None, 0), "{}", message.escape_ascii());
    }
}

#[test]
fn odd_but_valid_responses_are_accepted() {
    let statuses =
        ["200 OK", "200 ", "200", "204 No Content", "299 x y", "302 Found", "404 \u{e9}", "503 a\tb", "100 Continue"];
    let lines = [
        "",
        "X: y\r\n",
        "X:\r\n",
        "Content-Length: 0\r\n",
        "connection: Close\r\n",
        "Set-Cookie: a\r\nSet-Cookie: b\r\n",
    ];
    for version in ["1.0", "1.1"] {
        for status in statuses {
            for line in lines {
                let message = format!("HTTP/{version} {status}\r\n{line}\r\n");
                let mut head = Head::new();
                let parsed = parse_response(message.as_bytes(), &Limits::default(), Asked::Other, &mut head);
                assert_eq!(parsed, Ok(Parsed::Complete(message.len())), "{message:?}");
            }
        }
    }
}

/// What is forwarded must be read by the next hop, itself of this crate, as what was decided on.
#[test]
fn what_is_forwarded_is_read_alike() {
    for message in cases::odd() {
        let (mut first, mut second) = (Head::new(), Head::new());
        parse_request(&message, &Limits::default(), &mut first).unwrap();
        strip_hop_by_hop(&mut first);
        if first.authority().is_empty() {
            continue;
        }
        let mut out = Vec::new();
        emit_request(&first, &mut out);
        let parsed = parse_request(&out, &Limits::default(), &mut second);
        assert_eq!(parsed, Ok(Parsed::Complete(out.len())), "{}", out.escape_ascii());
        assert_eq!(first.method(), second.method());
        assert_eq!(first.authority(), second.authority());
        assert_eq!(first.path_and_query(), second.path_and_query());
        assert_eq!(first.framing(), second.framing());
        assert_eq!(first.upgrade(), second.upgrade());
        assert_eq!(first.keep_alive(), second.keep_alive());
        let mut again = Vec::new();
        strip_hop_by_hop(&mut second);
        emit_request(&second, &mut again);
        assert_eq!(out.escape_ascii().to_string(), again.escape_ascii().to_string());
    }
}
