// SPDX-License-Identifier: Apache-2.0
//! What hops do to headers, a line per case.

use super::*;
use crate::{Limits, Version};

fn head(lines: &str) -> Head {
    let mut head = Head::new();
    let message = format!("GET / HTTP/1.1|Host: a|{lines}||").replace("||", "|").replace('|', "\r\n") + "\r\n";
    crate::h1::parse_request(message.as_bytes(), &Limits::default(), &mut head).unwrap();
    head
}

fn lines(head: &Head) -> String {
    let lines: Vec<_> = head.headers().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v))).collect();
    lines.join("|")
}

#[test]
fn hop_by_hop() {
    let check = |input: &str, expected: &str| {
        let mut head = head(input);
        strip_hop_by_hop(&mut head);
        assert_eq!(lines(&head), expected, "{input}");
    };
    check("A: 1", "A: 1");
    check("Connection: A|A: 1|B: 2", "B: 2");
    check("Connection: a , b|Connection: C|A: 1|B: 2|C: 3|D: 4", "D: 4");
    check("Connection: close|Close: 1", "Close: 1");
    check("Keep-Alive: 5|Proxy-Connection: x|Proxy-Authorization: y|TE: gzip|A: 1", "A: 1");
    check("Upgrade: websocket|A: 1", "A: 1");
    check("Connection: upgrade|Upgrade: websocket|A: 1", "Upgrade: websocket|A: 1");
    // Naming them in Connection must not hide them from the next server.
    for kept in [
        "Authorization: x",
        "Cookie: x",
        "X-Forwarded-For: 1.2.3.4",
        "forwarded-client-identity: x",
        "X-Request-Id: x",
        "Traceparent: x",
        "Content-Type: x",
        "X-Byrnie-New: x",
        "Idempotency-Key: x",
        "Txn-Id: x",
        "Origin: x",
        "Cache-Control: x",
        "Expect: 100-continue",
    ] {
        let name = kept.split(':').next().unwrap();
        check(&format!("Connection: {name}|{kept}"), kept);
    }
    let mut framed = head("Connection: Host, Content-Length|Content-Length: 5");
    strip_hop_by_hop(&mut framed);
    assert_eq!((framed.authority(), framed.framing()), ("a", crate::Framing::Length(5)));
    let many = (0..40).map(|i| format!("X{i}")).collect::<Vec<_>>().join(",");
    check(&format!("Connection: {many}|X0: 1|X39: 1"), "X39: 1");
}

#[test]
fn te_trailers_passes_http2_alone() {
    let mut head = Head::new();
    head.start_request("POST", "http", "a", "/").unwrap();
    head.append("te", b"trailers").unwrap();
    head.set_version(Version::Http2);
    strip_hop_by_hop(&mut head);
    assert_eq!(head.get("te"), Some(&b"trailers"[..]));
    head.set_version(Version::Http11);
    strip_hop_by_hop(&mut head);
    assert_eq!(head.get("te"), None);
}

#[test]
fn untrusted() {
    let check = |input: &str, outside: &str, program: &str, mesh: &str| {
        for (sender, expected) in [(Sender::Outside, outside), (Sender::Program, program), (Sender::Mesh, mesh)] {
            let mut head = head(input);
            strip_untrusted(&mut head, sender);
            assert_eq!(lines(&head), expected, "{input} from {sender:?}");
        }
    };
    let both = "A: 1|Cookie: x";
    check(both, both, both, both);
    check("Forwarded-Client-Identity: spiffe://x", "", "", "");
    check("X-Forwarded-Client-Cert: x", "", "", "");
    let mut of_edge = head("X-Forwarded-Client-Cert: x|Forwarded-Client-Identity: y|X-Forwarded_Client_Cert: z|A: 1");
    strip_untrusted(&mut of_edge, Sender::Edge);
    assert_eq!(lines(&of_edge), "X-Forwarded-Client-Cert: x|A: 1", "the edge alone has seen the certificate");
    check("X-Byrnie-Newcomer: 1", "", "", "X-Byrnie-Newcomer: 1");
    for lookalike in
        ["Forwarded_Client_Identity: x", "forwarded-client_identity: x", "Content_Length: 5", "x_byrnie_new: 1"]
    {
        check(lookalike, "", "", "");
    }
    check("my_own: 1", "my_own: 1", "my_own: 1", "my_own: 1");
    for claimed in ["X-Byrnie-Decision: 1", "Idempotency-Status: x"] {
        check(claimed, "", "", claimed);
    }
    for inside in [
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: b",
        "X-Forwarded-Port: 1",
        "X-Real-IP: 1.2.3.4",
        "Forwarded: for=x",
        "X-Byrnie-Deadline-Ms: 100",
        "X-Byrnie-Retry-Budget: 3",
        "X-Byrnie-Criticality: high",
        "X-Byrnie-Whatever: 3",
        "Txn-Id: x",
        "Txn-Op: x",
    ] {
        check(inside, "", inside, inside);
    }
    let id = "X-Request-Id: 0af7651916cd43dd";
    check(id, id, id, id);
    for malformed in [
        "X-Request-Id: a b",
        "X-Request-Id: a\"b",
        "X-Request-Id:",
        "X-Request-Id: a|X-Request-Id: b",
        "Grpc-Timeout: 5x",
        "Grpc-Timeout: 999999999S",
        "Grpc-Timeout: 1S|Grpc-Timeout: 2S",
        "X-Byrnie-Deadline-Ms: -1",
        "X-Byrnie-Deadline-Ms: 9999999999",
        "X-Byrnie-Deadline-Ms: 1|X-Byrnie-Deadline-Ms: 2",
        "Traceparent: x|Tracestate: y",
    ] {
        check(malformed, "", "", "");
    }
    // Dropped, it would leave its request unprotected where it was meant to be: the engine refuses it.
    let key = "Idempotency-Key: |Idempotency-Key: b";
    check(key, key, key, key);
    let long = format!("X-Request-Id: {}", "x".repeat(129));
    check(&long, "", "", "");
}

#[test]
fn untrusted_responses() {
    let check = |sender, expected: &str| {
        let mut head = Head::new();
        head.start_response(200);
        for name in
            ["X-Byrnie-Decision", "x_byrnie_decision", "X-Byrnie-New", "Idempotency-Status", "Server", "Retry-After"]
        {
            head.append(name, b"1").unwrap();
        }
        strip_untrusted_response(&mut head, sender);
        assert_eq!(lines(&head), expected);
    };
    check(Sender::Program, "Server: 1|Retry-After: 1");
    check(Sender::Outside, "Server: 1|Retry-After: 1");
    let all =
        "X-Byrnie-Decision: 1|x_byrnie_decision: 1|X-Byrnie-New: 1|Idempotency-Status: 1|Server: 1|Retry-After: 1";
    check(Sender::Mesh, all);
}

#[test]
fn trace_parents() {
    let ok = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert!(is_traceparent(ok.as_bytes()));
    assert!(is_traceparent(format!("cc{}-what", &ok[2..]).as_bytes()));
    for bad in [
        "",
        "00",
        &ok[..54],
        &format!("{ok}-x"),
        &ok.to_uppercase(),
        &format!("ff{}", &ok[2..]),
        &ok.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
        &ok.replace("b7ad6b7169203331", &"0".repeat(16)),
        &ok.replace('-', "_"),
        &format!("cc{}x", &ok[2..]),
    ] {
        assert!(!is_traceparent(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn forwarded() {
    let mut first = head("A: 1");
    add_forwarded(&mut first, [192, 0, 2, 1].into(), true).unwrap();
    assert_eq!(lines(&first), "A: 1|x-forwarded-for: 192.0.2.1|x-forwarded-proto: https|x-forwarded-host: a");
    let mut second = head("X-Forwarded-For: 1.1.1.1|X-Forwarded-For: 2.2.2.2|X-Forwarded-Host: b");
    add_forwarded(&mut second, "::1".parse().unwrap(), false).unwrap();
    assert_eq!(lines(&second), "X-Forwarded-Host: b|x-forwarded-for: 1.1.1.1, 2.2.2.2, ::1|x-forwarded-proto: http");
    let mut long = head(&format!("X-Forwarded-For: {}", ["10.0.0.1"; 200].join(", ")));
    add_forwarded(&mut long, [192, 0, 2, 1].into(), false).unwrap();
    let chain = String::from_utf8(long.get("x-forwarded-for").unwrap().to_vec()).unwrap();
    assert!(
        chain.len() < FORWARDED_FOR_BYTES_MAX + 20 && chain.ends_with(", 192.0.2.1") && chain.starts_with("10.0.0.1, ")
    );
    let mut endless = head(&format!("X-Forwarded-For: {}", "x".repeat(3000)));
    add_forwarded(&mut endless, [192, 0, 2, 1].into(), false).unwrap();
    assert_eq!(endless.get("x-forwarded-for"), Some(&b"192.0.2.1"[..]));
}

#[test]
fn identities_and_ids() {
    let mut head = head("Forwarded-Client-Identity: spiffe://liar|forwarded-client-identity: two");
    set_client_identity(&mut head, Some("spiffe://mesh.local/ns/a/sa/b")).unwrap();
    assert_eq!(lines(&head), "forwarded-client-identity: spiffe://mesh.local/ns/a/sa/b");
    set_client_identity(&mut head, None).unwrap();
    assert_eq!(lines(&head), "");
    assert!(set_client_identity(&mut head, Some("a\r\nb: c")).is_err());
    ensure_request_id(&mut head, |id| id.push_str("one")).unwrap();
    ensure_request_id(&mut head, |id| id.push_str("two")).unwrap();
    assert_eq!(lines(&head), "x-request-id: one");
}

#[test]
fn every_name_of_the_mesh_is_one_of_those_for_it_alone() {
    for number in 0..Known::COUNT {
        let own = is_own(Known::name_at(number).as_bytes());
        assert!(!own || INTERNAL >> number & 1 == 1, "{}", Known::name_at(number));
    }
}
