// SPDX-License-Identifier: Apache-2.0
//! Precedence and matching, by the words of the Gateway API reference.

mod naive;

use super::*;
use crate::fixtures::head;
use crate::slot::Slots;
use byrnie_model::route::{Match, NamedMatch, PathMatch, Route, ValueMatch};
use byrnie_model::{Key, Kind, Revision};

fn exact(path: &str) -> Match {
    Match { path: PathMatch::Exact(path.into()), ..Match::default() }
}

fn prefix(path: &str) -> Match {
    Match { path: PathMatch::Prefix(path.into()), ..Match::default() }
}

fn regex(path: &str) -> Match {
    Match { path: PathMatch::Regex(path.into()), ..Match::default() }
}

fn with_method(method: &str, m: Match) -> Match {
    Match { method: Some(method.into()), ..m }
}

fn named(name: &str, value: &str) -> NamedMatch {
    NamedMatch { name: name.into(), value: ValueMatch::Exact(value.into()) }
}

fn with_headers(headers: &[(&str, &str)], m: Match) -> Match {
    Match { headers: headers.iter().map(|(n, v)| named(n, v)).collect(), ..m }
}

fn with_query(query: &[(&str, &str)], m: Match) -> Match {
    Match { query: query.iter().map(|(n, v)| named(n, v)).collect(), ..m }
}

fn compiled(name: &str, rules: Vec<Vec<Match>>) -> Arc<CompiledRoute> {
    aged(Kind::HttpRoute, name, 0, rules)
}

fn aged(kind: Kind, name: &str, created: u64, rules: Vec<Vec<Match>>) -> Arc<CompiledRoute> {
    let mut slots = Slots::default();
    let rules = rules.into_iter().map(|matches| crate::fixtures::rule(matches, Vec::new())).collect();
    let spec = Arc::new(Route { parents: Vec::new(), hostnames: Vec::new(), rules });
    let route = CompiledRoute::new(&Key::new(kind, "shop", name), Revision(created), &spec, |_| slots.take());
    Arc::new(route.unwrap())
}

/// Each match is a rule of its own in route `r`; the expected label is of the one that is chosen.
fn check(matches: Vec<Match>, method: &str, url: &str, headers: &[(&str, &str)], expected: Option<usize>) {
    let table = Table::new([&compiled("r", matches.iter().map(|m| vec![m.clone()]).collect())]);
    let chosen = table.choose(&head(method, url, headers)).map(|chosen| chosen.label().to_string());
    assert_eq!(chosen, expected.map(|i| format!("shop/r[{i}]")), "{method} {url} {headers:?} among {matches:?}");
}

#[test]
fn paths_come_first_exact_then_longest_prefix_then_regex() {
    let all = || vec![prefix("/"), regex("/a/.*"), prefix("/a"), prefix("/a/b"), exact("/a/b")];
    check(all(), "GET", "h/a/b", &[], Some(4));
    check(all(), "GET", "h/a/b/c", &[], Some(3));
    check(all(), "GET", "h/a/c", &[], Some(2));
    check(all(), "GET", "h/x", &[], Some(0));
    // A prefix of `/` is no condition: a regular expression beats it.
    check(vec![prefix("/"), regex("/v[0-9]+/.*")], "GET", "h/v12/x", &[], Some(1));
    check(vec![regex("/v[0-9]+/.*"), prefix("/v12")], "GET", "h/v12/x", &[], Some(1));
}

#[test]
fn then_method_then_headers_then_query() {
    let a = |m| with_headers(&[("x", "1")], m);
    check(vec![a(prefix("/")), with_method("GET", prefix("/"))], "GET", "h/", &[("x", "1")], Some(1));
    let two = with_headers(&[("x", "1"), ("y", "2")], prefix("/"));
    check(vec![a(prefix("/")), two], "GET", "h/", &[("x", "1"), ("y", "2")], Some(1));
    let query = with_query(&[("q", "1")], prefix("/"));
    check(vec![query.clone(), a(prefix("/"))], "GET", "h/?q=1", &[("x", "1")], Some(1));
    let queries = with_query(&[("q", "1"), ("r", "2")], prefix("/"));
    check(vec![query, queries], "GET", "h/?q=1&r=2", &[], Some(1));
    // A longer path counts more than any method or header.
    check(vec![with_method("GET", a(prefix("/a"))), prefix("/a/b")], "GET", "h/a/b", &[("x", "1")], Some(1));
}

fn grpc(service: &str, method: &str) -> Match {
    let value = |text: &str| match text.strip_prefix('~') {
        Some(pattern) => Some(ValueMatch::Regex(pattern.into())),
        None => (!text.is_empty()).then(|| ValueMatch::Exact(text.into())),
    };
    Match { path: PathMatch::Grpc { service: value(service), method: value(method) }, ..Match::default() }
}

#[test]
fn grpc_calls_are_told_apart_by_service_and_method() {
    let all = || vec![grpc("", "Hi"), grpc("a.Greeter", ""), grpc("a.Greeter", "Hi"), grpc("~a[.].*", "~H.*")];
    check(all(), "POST", "h/a.Greeter/Hi", &[], Some(2));
    check(all(), "POST", "h/a.Greeter/Bye", &[], Some(1));
    check(all(), "POST", "h/b.Greeter/Hi", &[], Some(0));
    check(all(), "POST", "h/a.Other/Hello", &[], Some(3));
    check(all(), "POST", "h/b.Other/Hello", &[], None);
    for path in ["h/a.Greeter", "h/a.Greeter/Hi/more", "h/A.Greeter/Bye", "h/"] {
        check(vec![grpc("a.Greeter", "")], "POST", path, &[], None);
    }
    // A longer service counts more than any method, a method more than any header.
    check(vec![grpc("~.*", "LongMethodName"), grpc("a.Bcd", "")], "POST", "h/a.Bcd/LongMethodName", &[], Some(1));
    // A name comes before a pattern, however long that is.
    check(vec![grpc("~a[.]Bcd", "~(Hi|Hello)"), grpc("a.Bcd", "Hi")], "POST", "h/a.Bcd/Hi", &[], Some(1));
    check(vec![grpc("a.Bcd", "~(Hi|Hello)"), grpc("a.Bcd", "Hi")], "POST", "h/a.Bcd/Hi", &[], Some(1));
    check(vec![grpc("a.Bcd", "Hi"), grpc("~a[.]Bcd", "Hi")], "POST", "h/a.Bcd/Hi", &[], Some(0));
    check(vec![grpc("a.Bcd", ""), grpc("a.Bcd", "~H.")], "POST", "h/a.Bcd/Hi", &[], Some(1));
    let headed = with_headers(&[("x", "1")], grpc("a.B", ""));
    check(vec![headed, grpc("a.B", "C")], "POST", "h/a.B/C", &[("x", "1")], Some(1));
}

#[test]
fn ties_go_to_the_first_route_by_name_and_the_first_rule() {
    check(vec![prefix("/"), prefix("/")], "GET", "h/", &[], Some(0));
    let (late, early) = (compiled("b", vec![vec![prefix("/")]]), compiled("a", vec![vec![prefix("/")]]));
    let table = Table::new([&late, &early]);
    assert_eq!(*table.choose(&head("GET", "h/", &[])).unwrap().label(), *"shop/a[0]");
    // Age comes before names.
    let late = aged(Kind::HttpRoute, "a", 7, vec![vec![prefix("/")]]);
    let early = aged(Kind::HttpRoute, "b", 6, vec![vec![prefix("/")]]);
    let table = Table::new([&late, &early]);
    assert_eq!(*table.choose(&head("GET", "h/", &[])).unwrap().label(), *"shop/b[0]");
}

#[test]
fn of_several_kinds_only_the_most_special_counts() {
    let http = aged(Kind::HttpRoute, "a", 1, vec![vec![exact("/a.B/C")]]);
    let grpc = aged(Kind::GrpcRoute, "b", 2, vec![vec![grpc("a.B", "")]]);
    let table = Table::new([&http, &grpc]);
    assert_eq!(*table.choose(&head("POST", "h/a.B/C", &[])).unwrap().label(), *"shop/b[0]");
    assert!(table.choose(&head("POST", "h/x.Y/C", &[])).is_none());
}

#[test]
fn prefixes_end_at_segment_borders() {
    for (path, fits) in
        [("/abc", true), ("/abc/", true), ("/abc/d", true), ("/abcd", false), ("/ab", false), ("/ABC", false)]
    {
        check(vec![prefix("/abc")], "GET", &format!("h{path}"), &[], fits.then_some(0));
    }
    check(vec![prefix("/abc/")], "GET", "h/abc", &[], Some(0));
    check(vec![exact("/abc")], "GET", "h/abc/", &[], None);
}

#[test]
fn regular_expressions_are_about_the_whole_value() {
    check(vec![regex("/a|/b")], "GET", "h/b", &[], Some(0));
    check(vec![regex("/a|/b")], "GET", "h/bc", &[], None);
    check(vec![regex("a")], "GET", "h/a", &[], None);
    let header = NamedMatch { name: "x".into(), value: ValueMatch::Regex("[0-9]+".into()) };
    let m = Match { headers: vec![header], ..Match::default() };
    check(vec![m.clone()], "GET", "h/", &[("X", "12")], Some(0));
    check(vec![m.clone()], "GET", "h/", &[("X", "12a")], None);
    check(vec![m], "GET", "h/", &[("X", "\u{fc}12")], None);
}

#[test]
fn a_pattern_can_not_escape_its_group() {
    for pattern in ["a)|(b", "(", "(?P<", "[", "(?x) a #"] {
        let key = Key::new(Kind::HttpRoute, "shop", "r");
        let rules = vec![crate::fixtures::rule(vec![regex(pattern)], Vec::new())];
        let spec = Arc::new(Route { parents: Vec::new(), hostnames: Vec::new(), rules });
        let mut slots = Slots::default();
        let error = CompiledRoute::new(&key, Revision(0), &spec, |_| slots.take()).unwrap_err();
        assert!(error.contains("rule 0") && error.contains("malformed"), "{error}");
    }
}

#[test]
fn headers_and_queries_are_compared_in_full() {
    let m = || vec![with_headers(&[("version", "v2")], prefix("/"))];
    check(m(), "GET", "h/", &[("Version", "v2")], Some(0));
    check(m(), "GET", "h/", &[("version", "V2")], None);
    check(m(), "GET", "h/", &[("version", "v2"), ("version", "v3")], None);
    let joined = vec![with_headers(&[("version", "v2,v3")], prefix("/"))];
    check(joined, "GET", "h/", &[("version", "v2"), ("version", "v3")], Some(0));
    let q = || vec![with_query(&[("animal", "whale shark")], prefix("/"))];
    for (query, fits) in [
        ("animal=whale+shark", true),
        ("a=b&animal=whale%20shark", true),
        ("%61nimal=whale%20shark", true),
        ("animal=whale", false),
        ("animal=x&animal=whale+shark", false),
        ("animal=whale%2", false),
        ("", false),
    ] {
        check(q(), "GET", &format!("h/?{query}"), &[], fits.then_some(0));
    }
}

#[test]
fn a_near_miss_is_told() {
    let table = Table::new([&compiled("r", vec![vec![with_method("POST", prefix("/charge"))]])]);
    let told: Vec<String> = table
        .misses(&head("GET", "h/charge", &[]))
        .map(|(entry, miss)| format!("{}: {}", entry.label(), miss.unwrap()))
        .collect();
    assert_eq!(told, ["shop/r[0]: the method is not POST"]);
}
