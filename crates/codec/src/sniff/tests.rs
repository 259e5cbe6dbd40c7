// SPDX-License-Identifier: Apache-2.0
//! First bytes, a line per case.

use super::*;
use proptest::prelude::*;

#[test]
fn protocols() {
    let check = |bytes: &[u8], expected: Sniff| assert_eq!(sniff(bytes), expected, "{}", bytes.escape_ascii());
    check(b"", Sniff::NeedMore);
    check(b"G", Sniff::NeedMore);
    check(b"GET", Sniff::NeedMore);
    check(b"GET ", Sniff::Http1);
    check(b"GET / HTTP/1.1\r\n", Sniff::Http1);
    check(b"P", Sniff::NeedMore);
    check(b"POST /", Sniff::Http1);
    check(b"PUT /", Sniff::Http1);
    check(b"PATCH /", Sniff::Http1);
    check(b"OPTIONS *", Sniff::Http1);
    check(b"CONNECT a:1", Sniff::Http1);
    check(b"\r", Sniff::NeedMore);
    check(b"\r\n", Sniff::NeedMore);
    check(b"\r\nGET /", Sniff::Http1);
    check(b"\r\nX", Sniff::Other);
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniff::Http2);
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Sniff::Http2);
    check(b"PRI * HTTP/2.0\r\n", Sniff::NeedMore);
    check(b"PRI * HTTP/2.1", Sniff::Other);
    check(b"PRX", Sniff::Other);
    check(b"get / HTTP/1.1", Sniff::Other);
    check(b"GETX", Sniff::Other);
    check(b"*1\r\n$4\r\nPING\r\n", Sniff::Other);
    check(b"SSH-2.0-x", Sniff::Other);
    check(b"EHLO x", Sniff::Other);
    check(b"\0\0\0\x08", Sniff::Other);
    check(b"\x16", Sniff::NeedMore);
    check(b"\x16\x03", Sniff::NeedMore);
    check(b"\x16\x03\x01\x02\x00", Sniff::NeedMore);
    check(b"\x16\x03\x01\x02\x00\x01", Sniff::Tls);
    check(b"\x16\x03\x01\x02\x00\x02", Sniff::Other);
    check(b"\x16\x03\x05\x02\x00\x01", Sniff::Other);
    check(b"\x16\x02", Sniff::Other);
    check(b"\x80\x2e\x01", Sniff::Other);
}

/// A ClientHello with these extensions, in records of at most `record` bytes.
fn hello(extensions: &[u8], record: usize) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([2, 9, 9]);
    body.extend([0, 2, 0x13, 1]);
    body.extend([1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    let mut out = Vec::new();
    for fragment in message.chunks(record) {
        out.extend([22, 3, 1]);
        out.extend((fragment.len() as u16).to_be_bytes());
        out.extend(fragment);
    }
    out
}

fn sni(kind: u8, name: &[u8]) -> Vec<u8> {
    let n = name.len() as u16;
    let mut out = vec![0, 0];
    out.extend((n + 5).to_be_bytes());
    out.extend((n + 3).to_be_bytes());
    out.push(kind);
    out.extend(n.to_be_bytes());
    out.extend(name);
    out
}

#[test]
fn server_names() {
    let alpn = [0u8, 16, 0, 5, 0, 3, 2, b'h', b'2'];
    let name = |text: &str| ServerName::Name(text.to_owned());
    let check = |extensions: &[u8], expected: ServerName| {
        for record in [16 * 1024, 50, 7, 1] {
            let bytes = hello(extensions, record);
            assert_eq!(server_name(&bytes), expected, "{extensions:?} in {record}");
            for cut in 0..bytes.len() {
                assert_eq!(server_name(&bytes[..cut]), ServerName::NeedMore, "{cut} of {}", bytes.len());
                let wanted = hello_bytes_wanted(&bytes[..cut]);
                assert!(wanted > cut && wanted <= bytes.len(), "{wanted} after {cut} of {}", bytes.len());
            }
            assert_eq!(server_name(&[bytes, vec![23, 3, 3, 0, 1, 0]].concat()), expected);
        }
    };
    check(&sni(0, b"80.payments.default.mesh"), name("80.payments.default.mesh"));
    check(&[alpn.as_slice(), &sni(0, b"A.Example.")].concat(), name("a.example"));
    check(&alpn, ServerName::Absent);
    check(&[], ServerName::Absent);
    check(&sni(1, b"a"), ServerName::Malformed);
    check(&sni(0, b""), ServerName::Malformed);
    check(&sni(0, b"a:80"), ServerName::Malformed);
    check(&sni(0, b"a b"), ServerName::Malformed);
    check(&[0, 0, 0, 9, 0, 7, 0, 0, 9, b'a'], ServerName::Malformed);
    check(&[0, 0, 0], ServerName::Malformed);
    assert_eq!(server_name(b"GET / HTTP/1.1\r\n"), ServerName::Malformed);
    assert_eq!(server_name(b"\x16\x03\x01\x00\x00"), ServerName::Malformed);
    assert_eq!(server_name(b"\x16\x03\x01\x50\x00"), ServerName::Malformed);
    assert_eq!(server_name(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"), ServerName::Malformed);
    assert_eq!(server_name(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff"), ServerName::Malformed);
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..128), tls in any::<bool>()) {
        let mut bytes = bytes;
        if tls {
            bytes.splice(..0, [22, 3, 1, 0, 60, 1, 0, 0, 56]);
        }
        let _ = server_name(&bytes);
        // Never asks for more than it needs, and never changes its mind.
        let whole = sniff(&bytes);
        for cut in 0..bytes.len() {
            let part = sniff(&bytes[..cut]);
            prop_assert!(part == Sniff::NeedMore || part == whole);
        }
        if bytes.len() >= BYTES_MAX {
            prop_assert_ne!(whole, Sniff::NeedMore);
        }
    }
}

#[test]
fn what_is_no_request_is_told_from_whatever_might_be_one() {
    let requests: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\n",
        b"GET /\r\n",
        b"\r\n \tANY x http/1.0\n",
        b"PROPFIND /a HTTP/1.1",
        b"PRI * HTTP/2.0\r\n",
        b"x\x0b/\x1cHTTP/1.1\n",
        b"x\xa0/\x85HTTP/1.1\n",
        b"x y\0 HTTP/1.1\n",
        &[b'a'; OPENING_BYTES_MAX],
    ];
    for bytes in requests {
        assert_eq!(opening(bytes), Opening::Request, "{}", bytes[..bytes.len().min(40)].escape_ascii());
    }
    let opaque: [&[u8]; 9] = [
        b"\x16\x03\x01",
        b"\0\0\0\x08",
        b"*1\r\n$4\r\nPING\r\n",
        b"get key\r\n",
        b"EHLO me\r\n",
        b"<?xml version='1.0'?>",
        b"{\"id\": 1}",
        b"AMQP\0\0\x09\x01",
        b"0032git-upload-pack /x\n",
    ];
    for bytes in opaque {
        assert_eq!(opening(bytes), Opening::Opaque, "{}", bytes.escape_ascii());
    }
    // Nothing is told before it's sure, and what is told once stays so with all that follows.
    for whole in requests.iter().chain(&opaque) {
        let verdicts: Vec<Opening> = (0..=whole.len().min(99)).map(|end| opening(&whole[..end])).collect();
        let undecided = verdicts.iter().take_while(|verdict| **verdict == Opening::NeedMore).count();
        assert!(verdicts[undecided..].windows(2).all(|pair| pair[0] == pair[1]), "{verdicts:?}");
    }
}
