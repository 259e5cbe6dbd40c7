// SPDX-License-Identifier: Apache-2.0
//! PROXY headers, a line per case.

use super::*;
use proptest::prelude::*;

fn proxied(client: &str, destination: &str) -> Source {
    Source::Proxied { client: client.parse().unwrap(), destination: destination.parse().unwrap() }
}

#[track_caller]
fn check(bytes: &[u8], expected: Option<Source>) {
    let whole = [bytes, b"GET /"].concat();
    match expected {
        Some(source) => {
            assert_eq!(parse(&whole), Ok((Parsed::Complete(bytes.len()), source)), "{}", bytes.escape_ascii());
            for cut in 0..bytes.len() {
                assert!(matches!(parse(&bytes[..cut]), Ok((Parsed::Partial, _))), "{cut} {}", bytes.escape_ascii());
            }
        }
        None => assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii()),
    }
}

#[test]
fn version_1() {
    check(b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n", Some(proxied("192.0.2.1:1234", "192.0.2.2:80")));
    check(b"PROXY TCP6 ::1 2001:db8::1 0 65535\r\n", Some(proxied("[::1]:0", "[2001:db8::1]:65535")));
    check(b"PROXY UNKNOWN\r\n", Some(Source::Local));
    check(b"PROXY UNKNOWN ffff:f...f:ffff 65535 65535\r\n", Some(Source::Local));
    for bad in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80 x\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1234 80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234 -1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234 +80\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234 080\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1234 \r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.2 1234 80\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1234 80\r\n",
        "PROXY TCP4 ::1 ::1 1234 80\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1234 80\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1234 80\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1234 80\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 1234 80\r\n",
        "POST / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n",
    ] {
        check(bad.as_bytes(), None);
    }
    check(format!("PROXY UNKNOWN {}", "x".repeat(100)).as_bytes(), None);
    check(b"PROXY TCP4 \xff\r\n", None);
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.extend([command, family]);
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

#[test]
fn version_2() {
    let four = [192, 0, 2, 1, 192, 0, 2, 2, 4, 210, 0, 80];
    let source = proxied("192.0.2.1:1234", "192.0.2.2:80");
    check(&v2(0x21, 0x11, &four), Some(source));
    let tlvs = |tlv: &[u8]| v2(0x21, 0x11, &[four.as_slice(), tlv].concat());
    check(&tlvs(&[1, 0, 2, b'h', b'2']), Some(source));
    check(&tlvs(&[4, 0, 0]), Some(source));
    check(&tlvs(&[4, 0, 0, 4, 0, 1, 9]), Some(source));
    check(&tlvs(&[4, 0, 1]), None);
    check(&tlvs(&[4, 0]), None);
    check(&tlvs(&[4]), None);
    check(&tlvs(&[4, 255, 255, 0]), None);
    check(&v2(0x20, 0x00, &[]), Some(Source::Local));
    check(&v2(0x20, 0x11, &four), Some(Source::Local));
    check(&v2(0x21, 0x00, &[1, 2, 3]), Some(Source::Local));
    check(&v2(0x21, 0x31, &[0; 216]), Some(Source::Local));
    check(&v2(0x21, 0x12, &four), Some(Source::Local));
    check(&v2(0x21, 0x11, &four[..11]), None);
    check(&v2(0x21, 0x21, &four), None);
    check(&v2(0x21, 0x41, &four), None);
    check(&v2(0x22, 0x11, &four), None);
    check(&v2(0x11, 0x11, &four), None);
    check(&v2(0x31, 0x11, &four), None);
    check(&v2(0x20, 0, &[0; 4080]), Some(Source::Local));
    check(&v2(0x20, 0, &[0; 4081]), None);
    check(b"\r\n\r\n\0\r\nQUIT\r", None);
    check(b"\r\nGET /", None);
}

#[test]
fn what_is_written_is_read() {
    for source in [proxied("192.0.2.1:1", "192.0.2.2:2"), proxied("[::1]:1", "[2001:db8::2]:65535"), Source::Local] {
        for emit in [emit_v1, emit_v2] {
            let mut out = Vec::new();
            emit(&source, &mut out);
            check(&out, Some(source));
        }
    }
    let mixed = Source::Proxied { client: ([127, 0, 0, 1], 1).into(), destination: ([0u16; 8], 2).into() };
    for emit in [emit_v1, emit_v2] {
        let mut out = Vec::new();
        emit(&mixed, &mut out);
        check(&out, Some(Source::Local));
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80), start in 0usize..3) {
        let bytes = match start {
            0 => bytes,
            1 => [b"PROXY TCP4 ".as_slice(), &bytes].concat(),
            _ => [SIGNATURE.as_slice(), &[0x21, 0x11, 0], &bytes].concat(),
        };
        if let Ok((Parsed::Complete(used), _)) = parse(&bytes) {
            prop_assert!(used <= bytes.len());
        }
    }
}
