// SPDX-License-Identifier: Apache-2.0
//! The choice of a table, held against the words of the reference, read one by one: every fitting match of
//! every route is found by other means than the table's, and of those the first by each criterion in turn
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>).

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::cmp::Reverse;

/// A request in plain pieces.
#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

/// A route in plain pieces: its name, its age, its rules.
type Plain = (&'static str, u64, Vec<Vec<Match>>);

/// Which values of a request a condition looks at, by hand.
fn holds(wanted: &NamedMatch, values: &[(&str, &str)]) -> bool {
    let found = values.iter().find(|(name, _)| *name == &*wanted.name).map(|(_, value)| *value);
    match (&wanted.value, found) {
        (_, None) => false,
        (ValueMatch::Exact(text), Some(value)) => **text == *value,
        // The patterns tried here are a letter and a star.
        (ValueMatch::Regex(pattern), Some(value)) => value.bytes().all(|b| b == pattern.as_bytes()[0]),
    }
}

fn path_fits(wanted: &PathMatch, path: &str) -> bool {
    let segments = |text: &str| text.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
    match wanted {
        PathMatch::Exact(text) => **text == *path,
        PathMatch::Prefix(text) if **text == *"/" => true,
        PathMatch::Prefix(text) => {
            let (wanted, found) = (segments(text), segments(path));
            found.len() >= wanted.len() && found[..wanted.len()] == wanted[..]
        }
        // `/a.*` alone is tried.
        PathMatch::Regex(_) => path.starts_with("/a"),
        PathMatch::Grpc { service, method } => {
            let parts = segments(path);
            let fits = |wanted: &Option<ValueMatch>, found: &str| match wanted {
                None => true,
                Some(ValueMatch::Exact(text)) => **text == *found,
                Some(ValueMatch::Regex(_)) => found.starts_with('a'),
            };
            parts.len() == 2 && fits(service, &parts[0]) && fits(method, &parts[1])
        }
    }
}

fn fits(m: &Match, request: &Request) -> bool {
    path_fits(&m.path, &request.path)
        && m.method.as_ref().is_none_or(|method| **method == *request.method)
        && m.headers.iter().all(|wanted| holds(wanted, &request.headers))
        && m.query.iter().all(|wanted| holds(wanted, &request.query))
}

/// The criteria in their order, the smaller the better.
fn criteria(m: &Match) -> impl Ord + use<> {
    // The reference counts characters alone; which of them a pattern fits it doesn't say.
    let len = |value: &Option<ValueMatch>| match value {
        Some(ValueMatch::Exact(text)) => (true, text.len()),
        Some(ValueMatch::Regex(text)) => (false, text.len()),
        None => (false, 0),
    };
    let exact = matches!(m.path, PathMatch::Exact(_));
    let prefix = if let PathMatch::Prefix(text) = &m.path { text.len() } else { 0 };
    // The reference leaves the place of regular expressions open; here: between `/` and other prefixes.
    let regex = if let PathMatch::Regex(text) = &m.path { text.len() } else { 0 };
    let (service, method) = if let PathMatch::Grpc { service, method } = &m.path {
        (len(service), len(method))
    } else {
        ((false, 0), (false, 0))
    };
    let longer = if prefix > 1 { prefix } else { 0 };
    let words = (m.method.is_some(), m.headers.len(), m.query.len());
    Reverse((exact, longer, regex, service, method, words))
}

/// The label of the rule that must be chosen.
fn expected(routes: &[Plain], request: &Request) -> Option<String> {
    let mut fitting = Vec::new();
    for (name, age, rules) in routes {
        for (index, matches) in rules.iter().enumerate() {
            for m in matches.iter().filter(|m| fits(m, request)) {
                fitting.push((criteria(m), *age, *name, index));
            }
        }
    }
    fitting.into_iter().min().map(|(_, _, name, index)| format!("shop/{name}[{index}]"))
}

fn conditions() -> impl Strategy<Value = Vec<NamedMatch>> {
    let value = prop_oneof![
        select(vec!["a", "b", "aa"]).prop_map(|text| ValueMatch::Exact(text.into())),
        select(vec!["a*", "b*"]).prop_map(|text| ValueMatch::Regex(text.into())),
    ];
    proptest::collection::btree_map(select(vec!["x", "y", "z"]), value, 0..3)
        .prop_map(|map| map.into_iter().map(|(name, value)| NamedMatch { name: name.into(), value }).collect())
}

fn path_match(grpc: bool) -> BoxedStrategy<PathMatch> {
    let paths = || select(vec!["/", "/a", "/a/b", "/a/b/c", "/ab", "/b"]);
    let word = || {
        let exact = select(vec!["a", "ab", "b"]).prop_map(|text| ValueMatch::Exact(text.into()));
        proptest::option::of(prop_oneof![exact, Just(ValueMatch::Regex("a.*".into()))])
    };
    if grpc {
        return prop_oneof![
            Just(PathMatch::default()),
            (word(), word()).prop_map(|(service, method)| PathMatch::Grpc { service, method })
        ]
        .boxed();
    }
    prop_oneof![
        paths().prop_map(|path| PathMatch::Exact(path.into())),
        paths().prop_map(|path| PathMatch::Prefix(path.into())),
        Just(PathMatch::Regex("/a.*".into())),
    ]
    .boxed()
}

fn one(grpc: bool) -> impl Strategy<Value = Match> {
    let method = proptest::option::of(select(vec![Text::from("GET"), Text::from("POST")]));
    (path_match(grpc), conditions(), conditions(), method).prop_map(move |(path, headers, query, method)| Match {
        path,
        headers,
        query: if grpc { vec![] } else { query },
        method: method.filter(|_| !grpc),
    })
}

fn table() -> impl Strategy<Value = (Kind, Vec<Plain>)> {
    any::<bool>().prop_flat_map(|grpc| {
        let rules = vec(vec(one(grpc), 1..4), 1..4);
        let routes = vec((0u64..3, rules), 1..5).prop_map(|routes| {
            let names = ["a", "b", "c", "d"];
            routes.into_iter().zip(names).map(|((age, rules), name)| (name, age, rules)).collect()
        });
        (Just(if grpc { Kind::GrpcRoute } else { Kind::HttpRoute }), routes.prop_shuffle())
    })
}

fn request() -> impl Strategy<Value = Request> {
    let pairs = || {
        proptest::collection::btree_map(select(vec!["x", "y", "z"]), select(vec!["a", "b", "aa"]), 0..4)
            .prop_map(|map| map.into_iter().collect::<Vec<_>>())
    };
    (select(vec!["GET", "POST", "PUT"]), "(/(a|b|ab|c)){1,3}/?", pairs(), pairs())
        .prop_map(|(method, path, headers, query)| Request { method, path, headers, query })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_choice_is_the_one_that_the_reference_asks_for((kind, routes) in table(), request in request()) {
        let compiled: Vec<_> = routes.iter().map(|(name, age, rules)| aged(kind, name, *age, rules.clone())).collect();
        let query: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let url = format!("h{}?{}", request.path, query.join("&"));
        let head = head(request.method, &url, &request.headers);
        let chosen = Table::new(&compiled).choose(&head).map(|chosen| chosen.label().to_string());
        prop_assert_eq!(chosen, expected(&routes, &request));
    }
}
