// SPDX-License-Identifier: Apache-2.0
//! Numbers and spans of time in documents, at the edges of what machines can hold: taken as what they are, or refused.

use super::super::*;
use crate::resource::Spec;
use std::time::Duration;

const EDGES: [i128; 22] = [
    -(1 << 63) - 1,
    -(1 << 63),
    -(1 << 31) - 1,
    -1,
    0,
    1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 31) + 1,
    (1 << 32) - 1,
    1 << 32,
    (1 << 32) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 63) + 1,
    (1 << 64) - 1,
    1 << 64,
    (1 << 64) + 1,
    100_000_000_000_000_000_000,
    1_000_000,
    1_000_001,
    99_999,
];

/// The one resource in `text`, if it's taken without a word.
fn taken(text: &str) -> Option<Spec> {
    let parsed = parse("t.yaml", text, &Defaults::default());
    if parsed.has_errors() {
        return None;
    }
    Some(parsed.documents.into_iter().next().unwrap().resource.spec)
}

fn rule(rule: &str) -> Option<crate::route::Rule> {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a}}\nspec:\n  parentRefs: [{{group: \
         '', kind: Service, name: a}}]\n  rules:\n  - {{{rule}}}"
    );
    match taken(&text)? {
        Spec::Route(route) => Some(route.rules[0].clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn weights() {
    for n in EDGES {
        let weight = rule(&format!("backendRefs: [{{name: b, port: 80, weight: {n}}}]")).map(|r| r.backends[0].weight);
        assert_eq!(weight.map(i128::from), Some(n).filter(|n| (0..=1_000_000).contains(n)), "{n}");
        let workload = taken(&format!(
            "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Workload\nmetadata: {{name: a}}\nspec: {{address: 10.0.0.1, \
             serviceAccount: a, weight: {n}}}"
        ));
        let weight = workload.map(|spec| match spec {
            Spec::Workload(workload) => i128::from(workload.weight),
            other => panic!("{other:?}"),
        });
        assert_eq!(weight, weight.filter(|_| n > 0).map(|_| n), "{n}");
        assert!(weight.is_some() || n != 1);
    }
}

#[test]
fn ports() {
    for n in EDGES {
        let port = rule(&format!("backendRefs: [{{name: b, port: {n}}}]")).map(|r| r.backends[0].to.port);
        assert_eq!(port.map(i128::from), Some(n).filter(|n| (1..=65_535).contains(n)), "{n}");
    }
}

#[test]
fn spans() {
    for n in EDGES {
        for (unit, millis) in [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)] {
            let timeout = rule(&format!("backendRefs: [{{name: b, port: 80}}], timeouts: {{request: {n}{unit}}}"));
            let Some(timeout) = timeout else {
                assert!(!(1..=60).contains(&n), "{n}{unit}");
                continue;
            };
            let span = (n > 0).then(|| Duration::from_millis(u64::try_from(n).unwrap() * millis));
            // 0 stands for none.
            assert_eq!(timeout.timeout.filter(|span| !span.is_zero()), span, "{n}{unit}");
            assert!(n <= 99_999, "{n}{unit}");
        }
    }
}
