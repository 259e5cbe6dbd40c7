// SPDX-License-Identifier: Apache-2.0
//! Who is let in, and who isn't.

use super::{Operator, base64};
use byrnie_net::serve::{HeaderMap, HeaderValue, Request};
use std::net::SocketAddr;

fn request(headers: &[(&'static str, &str)]) -> Request {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    Request {
        method: byrnie_net::serve::Method::GET,
        path: "/".into(),
        query: None,
        headers: map,
        body: bytes::Bytes::new(),
        remote: SocketAddr::from(([127, 0, 0, 1], 1)),
    }
}

#[test]
fn only_the_token_opens() {
    let operator = Operator::new("0123456789abcdef", vec![]);
    for (authorization, lets_in) in [
        ("Bearer 0123456789abcdef", true),
        ("bearer 0123456789abcdef", true),
        // byrnie:0123456789abcdef
        ("Basic YnlybmllOjAxMjM0NTY3ODlhYmNkZWY=", true),
        ("Basic MDEyMzQ1Njc4OWFiY2RlZg==", false),
        ("Basic !", false),
        ("Bearer 0123456789abcdeg", false),
        ("Bearer ", false),
        ("0123456789abcdef", false),
    ] {
        assert_eq!(operator.knows(&request(&[("authorization", authorization)])), lets_in, "{authorization}");
    }
    assert!(!operator.knows(&request(&[])));
    assert!(!Operator::new("", vec![]).knows(&request(&[("authorization", "Bearer ")])), "no token opens nothing");
}

#[test]
fn foreign_names_and_pages_are_turned_away() {
    let operator = Operator::new("", vec!["mesh.example".into()]);
    for (host, own) in [
        ("localhost:7777", true),
        ("127.0.0.1:7777", true),
        ("[::1]:7777", true),
        ("console.localhost", true),
        ("MESH.example:1", true),
        ("evil.example:7777", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
    ] {
        assert_eq!(operator.is_addressed(&request(&[("host", host)])), own, "{host}");
    }
    assert!(!operator.is_addressed(&request(&[])));
    for (origin, own) in [("http://localhost:7777", true), ("http://evil.example", false), ("null", false)] {
        let page = request(&[("host", "localhost:7777"), ("origin", origin)]);
        assert_eq!(operator.is_own_page(&page), own, "{origin}");
    }
    // What a page asks for without saying where it's from: an image, or a link.
    for (site, own) in [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false)] {
        let page = request(&[("host", "localhost:7777"), ("sec-fetch-site", site)]);
        assert_eq!(operator.is_own_page(&page), own, "{site}");
    }
}

#[test]
fn base64_is_read_strictly() {
    for (text, bytes) in [
        ("", Some("")),
        ("YQ==", Some("a")),
        ("YWI", Some("ab")),
        ("YWJj", Some("abc")),
        ("Y", None),
        ("YR", None),
        ("Y-==", None),
    ] {
        assert_eq!(base64(text), bytes.map(|b| b.as_bytes().to_vec()), "{text}");
    }
}
