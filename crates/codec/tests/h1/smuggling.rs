// SPDX-License-Identifier: Apache-2.0
//! Requests that hide another one. Some thousand payloads are made from the known ways to frame a
//! message twice. Whatever is accepted must look the same to every lenient server of a large family,
//! both as it came (someone may stand before us) and as it is forwarded.

use byrnie_codec::h1::{emit_request, parse_request};
use byrnie_codec::headers::{Sender, strip_hop_by_hop, strip_untrusted};
use byrnie_codec::{Head, Limits, Parsed};

use crate::cases;
use crate::payloads::{Reading, family, payloads};

#[test]
fn nothing_ambiguous_is_accepted_or_forwarded() {
    let payloads = payloads();
    assert!(payloads.len() >= 2000, "{}", payloads.len());
    let (mut accepted, mut refused) = (0, std::collections::BTreeMap::new());
    for payload in &payloads {
        let mut head = Head::new();
        let used = match parse_request(payload, &Limits::default(), &mut head) {
            Ok(Parsed::Complete(used)) => used,
            Ok(Parsed::Partial) => panic!("waits for more: {}", payload.escape_ascii()),
            Err(reject) => {
                *refused.entry(reject.reason.label()).or_insert(0) += 1;
                continue;
            }
        };
        accepted += 1;
        // As it came. Underscores are the forwarder's to care for: they hide nothing from who stands before us.
        let raw = &payload[..used];
        let mut family_reads = family().filter(|s| !s.underscores).map(|server| server.reads(raw));
        let first = family_reads.next().unwrap();
        assert!(first != Reading::Both, "{}", raw.escape_ascii());
        assert!(family_reads.all(|other| other == first), "{}", raw.escape_ascii());
        // As it is forwarded.
        strip_untrusted(&mut head, Sender::Outside);
        strip_hop_by_hop(&mut head);
        let mut out = Vec::new();
        emit_request(&head, &mut out);
        let mut family_reads = family().map(|server| server.reads(&out));
        let first = family_reads.next().unwrap();
        assert!(first != Reading::Both, "{}", out.escape_ascii());
        assert!(family_reads.all(|other| other == first), "{}", out.escape_ascii());
    }
    println!("{} payloads, {accepted} accepted, refused: {refused:?}", payloads.len());
    assert!(accepted > 0 && refused.len() >= 6);
}

/// What stands behind a body is the next request only if the body ended where everybody sees it end.
#[test]
fn bodies_end_where_they_say() {
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let next = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (body, refused) in [
        ("0\r\n\r\n", false),
        ("1\r\nZ\r\n0\r\n\r\n", false),
        ("0\r\nX: y\r\n\r\n", false),
        ("0\n\n", true),
        ("0\r\n\n", true),
        ("0\n\r\n", true),
        ("1\r\nZ\n0\r\n\r\n", true),
        ("1\r\nZZ\r\n0\r\n\r\n", true),
        ("1;\nZ\r\n0\r\n\r\n", true),
        ("1;a\rZ\r\n0\r\n\r\n", true),
        ("1 \r\nZ\r\n0\r\n\r\n", true),
        ("1\0\r\nZ\r\n0\r\n\r\n", true),
        ("0x1\r\nZ\r\n0\r\n\r\n", true),
        ("+1\r\nZ\r\n0\r\n\r\n", true),
        ("-1\r\nZ\r\n0\r\n\r\n", true),
        ("1,0\r\nZ\r\n0\r\n\r\n", true),
        ("10000000000000001\r\nZ\r\n0\r\n\r\n", true),
        ("ffffffffffffffff\r\nZ\r\n0\r\n\r\n", true),
        ("fffffffffffffff0\r\nZ\r\n0\r\n\r\n", true),
        ("0\r\nContent-Length: 5\r\n\r\n", true),
        ("0\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        ("0\r\nHost: b\r\n\r\n", true),
        ("0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("0\r\nX: y\r\n z\r\n\r\n", true),
        ("0\r\n : y\r\n\r\n", true),
        ("\r\n0\r\n\r\n", true),
        ("0;\"\r\n\r\n", false),
    ] {
        let (seen, reason, _) = cases::serve(format!("{chunked}{body}{next}").as_bytes());
        match refused {
            true => assert!(seen.is_empty() && reason.is_some(), "{body:?}"),
            false => assert!(seen.len() == 2 && reason.is_none() && seen[1].path_and_query == "/smuggled", "{body:?}"),
        }
    }
}
