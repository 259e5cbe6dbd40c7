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
        assert!(matches!(opening(bytes), Opening::Opaque | Opening::Unlikely(_)), "{}", bytes.escape_ascii());
    }
    // Nothing is told before it's sure, and what is told once stays so with all that follows.
    for whole in requests.iter().chain(&opaque) {
        let verdict = |end| match opening(&whole[..end]) {
            Opening::Unlikely(_) => Opening::Opaque,
            other => other,
        };
        let verdicts: Vec<Opening> = (0..=whole.len().min(99)).map(verdict).collect();
        let undecided = verdicts.iter().take_while(|verdict| **verdict == Opening::NeedMore).count();
        assert!(verdicts[undecided..].windows(2).all(|pair| pair[0] == pair[1]), "{verdicts:?}");
    }
}

/// What becomes of bytes that come in these pieces, and how many pass before that is told.
fn passing(pieces: &[&[u8]]) -> (Opening, usize) {
    let (mut read, mut passed, mut verdict) = (Vec::new(), 0, Opening::NeedMore);
    for piece in pieces {
        read.extend_from_slice(piece);
        verdict = match verdict {
            Opening::NeedMore => opening(&read),
            Opening::Unlikely(line) => line.read(piece),
            told => told,
        };
        if matches!(verdict, Opening::Opaque | Opening::Unlikely(_)) {
            passed = read.len();
        }
    }
    (verdict, passed)
}

#[test]
fn no_spelling_of_a_request_passes_in_whatever_pieces() {
    let spellings: [&[u8]; 34] = [
        b"P@ST /transfer HTTP/1.1\r\n",
        b"\"POST\" / HTTP/1.1\r\n",
        b"G(T / HTTP/1.1\r\n",
        b"{GET / HTTP/1.1\r\n",
        b"GET:/ / HTTP/1.1\r\n",
        b"GET,/ / HTTP/1.1\r\n",
        b"G/T / HTTP/1.1\r\n",
        b"/ / HTTP/1.1\r\n",
        b"G\xc3\xa9T / HTTP/1.1\r\n",
        b"\xef\xbb\xbfGET / HTTP/1.1\r\n",
        b"\xff\xfeGET / HTTP/1.1\r\n",
        b"\0GET / HTTP/1.1\r\n",
        b"\x7fGET / HTTP/1.1\r\n",
        b"\x08GET / HTTP/1.1\r\n",
        b"GET\0/\0HTTP/1.1\r\n",
        b"GET\xe2\x80\x83/\xe2\x80\x83HTTP/1.1\r\n",
        b"GET@/@HTTP/1.1\n",
        b"[::1] x http/1.0\n",
        b"<a> b hTtP/1.1 \0 c\r\n",
        b"a\\b / HTTP/1.1\r\n",
        b"=?;,() / HTTP/1.1\r\n",
        b"\r\n\r\n@ / HTTP/1.1\r\n",
        b"\0\r\n@ / HTTP/1.1\r\n",
        b"\0 \r\n\x01\n@ / HTTP/1.1\r\n",
        b"@\r/ HTTP/1.1\r\n",
        b"\x16\x03\x01 / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\0\x01 / http/1.1\r\n",
        b"\x16\x03\x01\x02\0\x01 /\x09http/1.1\r\n",
        b"\x08http/1.1 / \x08http/1.1\r\n",
        b"\0\0\0\x25 / HTTP/1.1\r\n",
        b"@PRI * HTTP/2.0\r\n",
        b"\xa0@\xa0/\xa0HTTP/1.1\r\n",
        b"@\t/\x0bHTTP/1.1\r\n",
        b"PROPFIND:a HTTP/1.1\r\n",
    ];
    for line in spellings {
        let whole = [line, b"Forwarded-Client-Identity: spiffe://mesh.local/ns/default/sa/admin\r\n\r\n"].concat();
        let version = whole.windows(5).position(|five| five.eq_ignore_ascii_case(b"HTTP/")).unwrap();
        let at_once = passing(&[&whole]);
        assert_eq!(at_once, (Opening::Request, 0), "{}", line.escape_ascii());
        for cut in 1..line.len() {
            let (verdict, passed) = passing(&[&whole[..cut], &whole[cut..]]);
            assert_eq!(verdict, Opening::Request, "{} cut at {cut}", line.escape_ascii());
            assert!(passed < line.len().min(version + 24), "{} cut at {cut}", line.escape_ascii());
        }
        let (verdict, _) = passing(&whole.chunks(1).collect::<Vec<_>>());
        assert_eq!(verdict, Opening::Request, "{} byte by byte", line.escape_ascii());
    }
    // However long the line is.
    let long = [b"@".as_slice(), &vec![b'a'; 3 * OPENING_BYTES_MAX], b" HTTP/1.1\r\n"].concat();
    assert_eq!(passing(&long.chunks(1000).collect::<Vec<_>>()).0, Opening::Request);
}

#[test]
fn no_client_that_speaks_first_waits_for_more_than_it_says() {
    let alpn = [0u8, 16, 0, 14, 0, 12, 2, b'h', b'2', 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1'];
    let tls = hello(&[&sni(0, b"a.example"), alpn.as_slice()].concat(), 16 * 1024);
    let firsts: [(&str, &[u8]); 19] = [
        ("TLS", &tls),
        ("Redis", b"*1\r\n$4\r\nPING\r\n"),
        ("Redis, HELLO", b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"),
        ("PostgreSQL asks for TLS", b"\0\0\0\x08\x04\xd2\x16\x2f"),
        ("PostgreSQL", b"\0\0\0\x20\0\x03\0\0user\0web\0database\0shop\0\0"),
        ("MySQL answers", b"\x20\0\0\x01\x85\xa6\xff\x01\0\0\0\x01\x21root\0"),
        ("MQTT", b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04a/bc"),
        ("Kafka", b"\0\0\0\x1e\0\x12\0\x03\0\0\0\x01\0\x04kaf1\0\x11apache-kafka-java"),
        ("memcached", b"get key\r\n"),
        ("memcached, store", b"set key 0 0 5\r\nhello\r\n"),
        ("memcached, binary", b"\x80\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0key"),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ("AMQP", b"AMQP\0\0\x09\x01"),
        ("MongoDB", b"\x29\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x14\0\0\0\x10hello\0\x01\0\0\0\0"),
        ("Cassandra", b"\x04\0\0\0\x01\0\0\0\x16\0\x01\0\x0bCQL_VERSION\0\x053.0.0"),
        ("STOMP", b"CONNECT\naccept-version:1.2\nhost:a\n\n\0"),
        ("ZeroMQ", b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL"),
        ("JSON", b"{\"id\": 1, \"method\": \"get\"}"),
        ("DNS", b"\0\x1d\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01"),
    ];
    for (name, bytes) in firsts {
        for cut in [1, bytes.len() / 2, bytes.len()] {
            let (verdict, passed) = passing(&[&bytes[..cut], &bytes[cut..]]);
            assert!(matches!(verdict, Opening::Opaque | Opening::Unlikely(_)), "{name} is taken for {verdict:?}");
            assert_eq!(passed, bytes.len(), "{name}, cut at {cut}, waits");
        }
        // What follows a line's end is never looked at.
        let ended = [bytes, b"\nGET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(passing(&[&ended]), (Opening::Opaque, ended.len()), "{name}");
    }
}

proptest! {
    #[test]
    fn a_version_in_the_first_line_never_passes(
        before in prop::collection::vec(any::<u8>().prop_filter("a line", |b| *b != b'\n'), 0..64),
        version in "[hH][tT][tT][pP]/",
        after in prop::collection::vec(any::<u8>(), 0..16),
        cuts in prop::collection::vec(1..24usize, 0..12),
    ) {
        // All but what a ClientHello's list of protocols has.
        prop_assume!(before.first() != Some(&0x16) || before.last() != Some(&8));
        let whole = [&before, version.as_bytes(), &after].concat();
        let mut rest = whole.as_slice();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, left) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = left;
        }
        pieces.push(rest);
        prop_assert_eq!(passing(&pieces).0, Opening::Request);
    }

    #[test]
    fn in_pieces_bytes_are_told_as_they_are_whole(bytes in prop::collection::vec(any::<u8>(), 0..128), cut in 0..128usize) {
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        prop_assert_eq!(passing(&[first, second]).0, opening(&bytes));
    }
}
