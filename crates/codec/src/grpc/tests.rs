// SPDX-License-Identifier: Apache-2.0
//! gRPC by its public documents, a line per case.

use super::*;
use proptest::prelude::*;

#[test]
fn timeouts() {
    let check = |text: &str, expected: Option<Duration>| assert_eq!(parse_timeout(text.as_bytes()), expected, "{text}");
    check("1H", Some(Duration::from_secs(3600)));
    check("2M", Some(Duration::from_secs(120)));
    check("3S", Some(Duration::from_secs(3)));
    check("4m", Some(Duration::from_millis(4)));
    check("5u", Some(Duration::from_micros(5)));
    check("6n", Some(Duration::from_nanos(6)));
    check("0n", Some(Duration::ZERO));
    check("00000001S", Some(Duration::from_secs(1)));
    check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
    for bad in [
        "",
        "S",
        "1",
        "1s",
        "1h",
        "-1S",
        "+1S",
        "1.5S",
        " 1S",
        "1S ",
        "1 S",
        "100000000S",
        "999999999999999999999H",
        "1SS",
        "1\u{b5}",
    ] {
        check(bad, None);
    }
}

#[test]
fn written_timeouts() {
    let check = |left: Duration, expected: &str| assert_eq!(format_timeout(left), expected);
    check(Duration::ZERO, "0n");
    check(Duration::from_nanos(99_999_999), "99999999n");
    check(Duration::from_nanos(100_000_000), "100000u");
    check(Duration::from_secs(1), "1000000u");
    check(Duration::from_secs(100), "100000m");
    check(Duration::from_secs(100_000), "100000S");
    check(Duration::MAX, "99999999H");
}

#[test]
fn statuses() {
    for code in 0..=16 {
        let status = Status::of(code).unwrap();
        assert_eq!(u32::from(status.code()), code);
        assert_eq!(Status::parse(code.to_string().as_bytes()), status);
        assert!(status.name().chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    }
    assert_eq!(Status::of(17), None);
    for odd in ["", "17", "99", "-1", "+1", "x", "1 ", "001", "4294967296"] {
        assert_eq!(Status::parse(odd.as_bytes()), Status::Unknown, "{odd}");
    }
    for (http, status) in [
        (400, Status::Internal),
        (401, Status::Unauthenticated),
        (403, Status::PermissionDenied),
        (404, Status::Unimplemented),
        (429, Status::Unavailable),
        (502, Status::Unavailable),
        (503, Status::Unavailable),
        (504, Status::Unavailable),
        (200, Status::Unknown),
        (500, Status::Unknown),
    ] {
        assert_eq!(Status::of_http(http), status, "{http}");
    }
}

#[test]
fn content_types() {
    let check = |value: &str, expected: bool| {
        let mut head = Head::new();
        head.start_response(200);
        head.append("content-type", value.as_bytes()).unwrap();
        assert_eq!(is_grpc(&head), expected, "{value}");
    };
    check("application/grpc", true);
    check("Application/gRPC+proto", true);
    check("application/grpc;charset=x", true);
    check("application/grpc-web", false);
    check("application/grpcx", false);
    check("application/json", false);
    check("", false);
    assert!(!is_grpc(&Head::new()));
}

#[test]
fn answers_without_messages() {
    let mut head = Head::new();
    let info = Details { reason: "GONE", domain: "example.com", metadata: &[] };
    trailers_only(&mut head, Status::Unavailable, "no healthy endpoint: 100%\n\u{e9}", &info).unwrap();
    assert_eq!((head.status(), head.framing()), (200, Framing::None));
    assert_eq!(head.get("grpc-status"), Some(&b"14"[..]));
    assert_eq!(head.get("grpc-message"), Some(&b"no healthy endpoint: 100%25%0A%C3%A9"[..]));
    assert!(head.get("grpc-status-details-bin").is_some_and(|details| details.starts_with(b"CA4S")));
    assert_eq!(encode_message(&"\u{e9}".repeat(2000)).len(), 3 * MESSAGE_BYTES_MAX);
}

#[test]
fn frames() {
    let check = |bytes: &[u8], expected: Result<Option<(bool, u32)>, ()>| {
        let found = FrameHeader::parse(bytes, 1000).map(|h| h.map(|h| (h.compressed, h.length))).map_err(drop);
        assert_eq!(found, expected, "{bytes:?}");
    };
    check(&[], Ok(None));
    check(&[0, 0, 0, 0], Ok(None));
    check(&[0, 0, 0, 0, 0], Ok(Some((false, 0))));
    check(&[1, 0, 0, 3, 232], Ok(Some((true, 1000))));
    check(&[1, 0, 0, 3, 233], Err(()));
    check(&[0, 255, 255, 255, 255], Err(()));
    check(&[2], Err(()));
    check(&[128, 0, 0, 0, 0], Err(()));
    assert_eq!(FrameHeader { compressed: true, length: 1000 }.bytes(), [1, 0, 0, 3, 232]);
}

#[test]
fn one_message_is_all_of_a_body() {
    assert_eq!(only_message(&framed(b"abc"), 3), Ok(&b"abc"[..]));
    assert_eq!(only_message(&framed(b""), 0), Ok(&b""[..]));
    assert_eq!(only_message(&framed(b"abc"), 2), Err(NotOne::TooLong));
    assert_eq!(only_message(&[1, 0, 0, 0, 1, 7], 10), Err(NotOne::Compressed));
    for bad in [&b""[..], &[0, 0, 0, 0], &[2, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 1]] {
        assert_eq!(only_message(bad, 10), Err(NotOne::Malformed), "{bad:?}");
    }
}

#[test]
fn messages_of_a_status_are_read_as_written() {
    for text in ["", "no money", "100% \u{e9}\n", "%41"] {
        assert_eq!(decode_message(encode_message(text).as_bytes()), text);
    }
    for (odd, read) in [(&b"%"[..], "%"), (b"%4", "%4"), (b"%zz", "%zz"), (b"%FF", "\u{fffd}")] {
        assert_eq!(decode_message(odd), read);
    }
}

proptest! {
    #[test]
    fn no_body_panics(bytes in any::<Vec<u8>>(), max in any::<u32>()) {
        if let Ok(message) = only_message(&bytes, max) {
            prop_assert_eq!(framed(message), bytes.clone());
        }
        decode_message(&bytes);
    }

    #[test]
    fn a_written_timeout_is_never_longer(nanos in any::<u64>()) {
        let left = Duration::from_nanos(nanos);
        let text = format_timeout(left);
        prop_assert!(text.len() <= 9);
        let read = parse_timeout(text.as_bytes()).unwrap();
        prop_assert!(read <= left);
        prop_assert!(left - read <= left / 100_000 + Duration::from_nanos(1));
    }
}
