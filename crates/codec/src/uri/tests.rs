// SPDX-License-Identifier: Apache-2.0
//! Canonical forms, a line per case.

use super::*;
use RejectReason as R;
use proptest::prelude::*;

#[track_caller]
fn check(input: &str, expected: Result<&str, R>) {
    let mut out = String::new();
    let found = path_and_query(input.as_bytes(), &mut out);
    assert_eq!(found.map(|_| out.as_str()), expected, "{input:?}");
    if let (Ok(len), Ok(text)) = (found, expected) {
        assert_eq!(len, text.find('?').unwrap_or(text.len()));
        let mut again = String::new();
        assert_eq!(path_and_query(out.as_bytes(), &mut again), Ok(len));
        assert_eq!(again, out, "not a fixed point");
    }
}

#[test]
fn paths() {
    for same in [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a.b",
        "/.a",
        "/..a",
        "/a..",
        "/...",
        "/~u",
        "/a;v=1",
        "/a;/b",
        "/a:b@c",
        "/!$&'()*+,=",
    ] {
        check(same, Ok(same));
    }
    check("", Ok("/"));
    check("//", Ok("/"));
    check("///a///b///", Ok("/a/b/"));
    check("/.", Ok("/"));
    check("/./", Ok("/"));
    check("/..", Ok("/"));
    check("/../", Ok("/"));
    check("/../../a", Ok("/a"));
    check("/a/.", Ok("/a/"));
    check("/a/./b", Ok("/a/b"));
    check("/a/..", Ok("/"));
    check("/a/../b", Ok("/b"));
    check("/a/b/..", Ok("/a/"));
    check("/a/b/../c", Ok("/a/c"));
    check("/a//../b", Ok("/b"));
    check("/a/..//../b", Ok("/b"));
    check("/%2e%2e/a", Ok("/a"));
    check("/a/%2E./b", Ok("/b"));
    check("/a/.%2e/b", Ok("/b"));
    check("/%2e", Ok("/"));
    check("/%61%62%7e%2d%5F", Ok("/ab~-_"));
    check("/%3b%3d", Ok("/%3B%3D"));
    check("/%c3%a9", Ok("/%C3%A9"));
    check("/%20", Ok("/%20"));
    check("/%25", Ok("/%25"));
    check("/%252e%252e/", Ok("/%252e%252e/"));
    check("/%252fa", Ok("/%252fa"));
    check("/a\"b", Ok("/a%22b"));
    check("/<a>{b}|^`[c]", Ok("/%3Ca%3E%7Bb%7D%7C%5E%60%5Bc%5D"));
}

#[test]
fn refused_paths() {
    check("a", Err(R::Path));
    check("*", Err(R::Path));
    check("http://a/", Err(R::Path));
    check("/a b", Err(R::Path));
    check("/a\tb", Err(R::Path));
    check("/a\u{0}", Err(R::Path));
    check("/a\u{7f}", Err(R::Path));
    check("/\u{e9}", Err(R::Path));
    check("/a#", Err(R::Fragment));
    check("/a%23", Ok("/a%23"));
    check("/a%2fb", Err(R::AmbiguousPath));
    check("/a%2Fb", Err(R::AmbiguousPath));
    check("/a%5cb", Err(R::AmbiguousPath));
    check("/a%5Cb", Err(R::AmbiguousPath));
    check("/a\\b", Err(R::AmbiguousPath));
    check("/\\..\\a", Err(R::AmbiguousPath));
    check("/a%00", Err(R::AmbiguousPath));
    check("/a/..;/b", Err(R::AmbiguousPath));
    check("/a/..;x=1/b", Err(R::AmbiguousPath));
    check("/a/.;/b", Err(R::AmbiguousPath));
    check("/a/%2e%2e;/b", Err(R::AmbiguousPath));
    check("/;/a", Ok("/;/a"));
    check("/%", Err(R::PercentEncoding));
    check("/%2", Err(R::PercentEncoding));
    check("/%g1", Err(R::PercentEncoding));
    check("/%u0041", Err(R::PercentEncoding));
    check("/%-1", Err(R::PercentEncoding));
    check("/%/2e", Err(R::PercentEncoding));
}

#[test]
fn queries() {
    check("/?", Ok("/?"));
    check("?a", Ok("/?a"));
    check("/?a=b&c", Ok("/?a=b&c"));
    check("/?a=/../%2f%zz//", Ok("/?a=/../%2f%zz//"));
    check("/?a?b", Ok("/?a?b"));
    check("/?[a]{b}|\\", Ok("/?[a]{b}|\\"));
    check("/?\"<>%3c", Ok("/?%22%3C%3E%3c"));
    check("/?a#b", Err(R::Fragment));
    check("/?a b", Err(R::Path));
    check("/?\u{e9}", Err(R::Path));
    check("/?a\u{0}", Err(R::Path));
    assert_eq!(path("/a/../b"), Ok("/b".to_owned()));
    assert_eq!(path("/a?b"), Err(R::Path));
}

#[test]
fn authorities() {
    let check = |input: &str, expected: Result<&str, R>| {
        let mut out = String::new();
        let found = authority(input.as_bytes(), &mut out);
        assert_eq!(found.map(|()| out.as_str()), expected, "{input:?}");
    };
    check("a", Ok("a"));
    check("A.B-c_d.Example", Ok("a.b-c_d.example"));
    check("a.", Ok("a"));
    check("a.:80", Ok("a:80"));
    check("a:", Ok("a"));
    check("a:80", Ok("a:80"));
    check("a:0080", Ok("a:80"));
    check("a:65535", Ok("a:65535"));
    check("127.0.0.1:80", Ok("127.0.0.1:80"));
    check("xn--bcher-kva.example", Ok("xn--bcher-kva.example"));
    check("[::1]", Ok("[::1]"));
    check("[0:0:0:0:0:0:0:1]:80", Ok("[::1]:80"));
    check("[2001:DB8::A]", Ok("[2001:db8::a]"));
    for bad in [
        "",
        ".",
        "..",
        "a..",
        "a..b",
        ".a",
        ":80",
        "a:0",
        "a:65536",
        "a:99999",
        "a:000080",
        "a:-1",
        "a:+80",
        "a:8 0",
        "a:80:80",
        "a:x",
        "a b",
        "a/b",
        "a\\b",
        "a?b",
        "a#b",
        "a,b",
        "a;b",
        "a%41",
        "a\0",
        "\u{e9}",
        "[::1",
        "::1",
        "[::1]x",
        "[::1%25eth0]",
        "[v1.x]",
        "[]",
        "[127.0.0.1]",
        "a]",
        "a!b",
        "a*",
        "*",
    ] {
        check(bad, Err(R::Host));
    }
    check("u@a", Err(R::Userinfo));
    check(&"a".repeat(63), Ok(&"a".repeat(63)));
    check(&"a".repeat(64), Err(R::Host));
    check(&["a".repeat(63).as_str(); 4].join("."), Err(R::Host));
    assert_eq!(authority(b"\xff", &mut String::new()), Err(R::Host));
}

#[test]
fn parts_of_authorities() {
    assert_eq!(split_port("a"), ("a", None));
    assert_eq!(split_port("a:80"), ("a", Some(80)));
    assert_eq!(split_port("[::1]"), ("[::1]", None));
    assert_eq!(split_port("[::1]:80"), ("[::1]", Some(80)));
    assert_eq!(split_port(""), ("", None));
    assert_eq!(address("10.0.0.1"), Some([10, 0, 0, 1].into()));
    assert_eq!(address("[::1]"), Some(Ipv6Addr::LOCALHOST.into()));
    assert_eq!(address("a"), None);
}

proptest! {
    #[test]
    fn canonical_is_final_and_unambiguous(input in "(/|/a|/\\.|/\\.\\.|;|%2e|%2E|%41|%5b|%25|%2f|\\\\|\\?|[!-~]){0,12}") {
        let mut once = String::new();
        if let Ok(len) = path_and_query(input.as_bytes(), &mut once) {
            let mut twice = String::new();
            prop_assert_eq!(path_and_query(once.as_bytes(), &mut twice), Ok(len));
            prop_assert_eq!(&once, &twice);
            let path = &once[..len];
            prop_assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\\'));
            prop_assert!(path.split('/').all(|s| s != "." && s != ".." && !s.starts_with("..;")));
            prop_assert!(!path.contains("%2F") && !path.contains("%2f") || input.contains("%25"));
        }
    }

    #[test]
    fn any_bytes(input in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = path_and_query(&input, &mut String::new());
        let mut once = String::new();
        if authority(&input, &mut once).is_ok() {
            let mut twice = String::new();
            prop_assert_eq!(authority(once.as_bytes(), &mut twice), Ok(()));
            prop_assert_eq!(once, twice);
        }
    }
}
