// SPDX-License-Identifier: Apache-2.0
//! Bad routes: the CRD's rules, and what isn't enforced.

use super::check_bad;

const HEAD: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n";

#[test]
fn specs() {
    let parent = "parentRefs: [{group: '', kind: Service, name: a}]";
    let sixteen = vec!["{}"; 17].join(", ");
    for (spec, code, place) in [
        ("rules: []", "C005", "spec"),
        ("parentRefs: []", "C005", "parentRefs"),
        ("parentRefs: [{name: a}]", "C010", "{"),
        ("parentRefs: [{kind: Service, name: a}]", "C010", "{"),
        ("parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]", "C010", "{"),
        ("parentRefs: [{group: '', kind: Service, name: A}]", "C008", "A"),
        ("parentRefs: [{group: '', kind: Service}]", "C005", "{"),
        ("parentRefs: [{group: '', kind: Service, name: a, namespace: other}]", "C010", "other"),
        ("parentRefs: [{group: '', kind: Service, name: a, sectionName: http}]", "C010", "http"),
        ("parentRefs: [{group: '', kind: Service, name: a, port: 0}]", "C011", "0"),
        ("parentRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a}]", "C028", "{"),
        (
            "parentRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: a, port: 80}]",
            "C028",
            "{",
        ),
        (&format!("{parent}, ruels: []"), "C002", "ruels"),
        (&format!("{parent}, rules: []"), "C011", "rules"),
        (&format!("{parent}, rules: [{sixteen}]"), "C011", "rules"),
        (&format!("{parent}, rules: {{}}"), "C004", "rules"),
        (&format!("{parent}, hostnames: [a.example]"), "C010", "hostnames"),
        (&format!("{parent}, useDefaultGateways: All"), "C010", "All"),
        (&format!("{parent}, rules: [{{name: A}}]"), "C011", "A"),
        (&format!("{parent}, rules: [{{name: a}}, {{name: a}}]"), "C028", "a"),
    ] {
        check_bad(&format!("{HEAD}spec: {{{spec}}}"), code, place);
    }
}

fn check_rule(rule: &str, code: &str, place: &str) {
    check_bad(
        &format!("{HEAD}spec:\n  parentRefs: [{{group: '', kind: Service, name: a}}]\n  rules:\n  - {{{rule}}}"),
        code,
        place,
    );
}

#[test]
fn matches() {
    let many = vec!["{}"; 65].join(", ");
    let headers: String = (0..17).map(|i| format!("{{name: h{i}, value: v}}, ")).collect();
    for (rule, code, place) in [
        ("matches: [{path: {value: x}}]", "C011", "x"),
        ("matches: [{path: {type: Exact, value: ''}}]", "C011", "''"),
        ("matches: [{path: {value: /a//b}}]", "C011", "/a//b"),
        ("matches: [{path: {value: /a/../b}}]", "C011", "/a/../b"),
        ("matches: [{path: {value: /a/./b}}]", "C011", "/a/./b"),
        ("matches: [{path: {value: /a/..}}]", "C011", "/a/.."),
        ("matches: [{path: {value: /a%2Fb}}]", "C011", "/a%2Fb"),
        ("matches: [{path: {value: '/a#b'}}]", "C011", "'/a#b'"),
        ("matches: [{path: {value: '/a b'}}]", "C011", "'/a b'"),
        ("matches: [{path: {value: /a%zz}}]", "C011", "/a%zz"),
        ("matches: [{path: {type: Prefix, value: /a}}]", "C011", "Prefix"),
        ("matches: [{path: {type: RegularExpression, value: '/a('}}]", "C011", "'/a('"),
        ("matches: [{path: {type: RegularExpression, value: '(a{500}){500}'}}]", "C011", "'(a{500}){500}'"),
        ("matches: [{path: /a}]", "C004", "/a"),
        ("matches: [{paths: {value: /a}}]", "C002", "paths"),
        ("matches: [{method: get}]", "C011", "get"),
        ("matches: [{method: PURGE}]", "C011", "PURGE"),
        ("matches: [{method: CONNECT}]", "C010", "CONNECT"),
        ("matches: [{headers: [{name: 'a b', value: v}]}]", "C011", "'a b'"),
        ("matches: [{headers: [{name: a}]}]", "C005", "{"),
        ("matches: [{headers: [{name: a, value: ''}]}]", "C011", "''"),
        ("matches: [{headers: [{name: a, value: 1}]}]", "C004", "1"),
        ("matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}]", "C028", "A"),
        ("matches: [{headers: [{name: a, type: Prefix, value: c}]}]", "C011", "Prefix"),
        ("matches: [{headers: [{name: a, type: RegularExpression, value: '['}]}]", "C011", "'['"),
        (&format!("matches: [{{headers: [{headers}]}}]"), "C011", "headers"),
        ("matches: [{queryParams: [{name: a, value: b}, {name: a, value: c}]}]", "C028", "a"),
        ("matches: [{queryParams: [{name: '', value: b}]}]", "C011", "''"),
        (&format!("matches: [{many}]"), "C011", "matches"),
    ] {
        check_rule(rule, code, place);
    }
}

#[test]
fn filters() {
    for (rule, code, place) in [
        ("filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}}]", "C010", "RequestMirror"),
        ("filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}]", "C010", "ExtensionRef"),
        ("filters: [{type: CORS, cors: {}}]", "C010", "CORS"),
        ("filters: [{type: Nonsense}]", "C011", "Nonsense"),
        ("filters: [{}]", "C005", "{"),
        ("filters: [{type: RequestRedirect}]", "C005", "{"),
        ("filters: [{type: RequestRedirect, urlRewrite: {hostname: a}}]", "C028", "urlRewrite"),
        ("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]", "C011", "200"),
        ("filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]", "C011", "ftp"),
        ("filters: [{type: RequestRedirect, requestRedirect: {port: 70000}}]", "C011", "70000"),
        ("filters: [{type: RequestRedirect, requestRedirect: {hostname: '*.a'}}]", "C011", "'*.a'"),
        ("filters: [{type: RequestRedirect, requestRedirect: {hostname: 10.0.0.1}}]", "C011", "10.0.0.1"),
        ("filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath}}}]", "C005", "path"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: x}}}]",
            "C011",
            "x",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /, replacePrefixMatch: /}}}]",
            "C028",
            "/",
        ),
        (
            "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
            "C028",
            "/b",
        ),
        ("filters: [{type: URLRewrite, urlRewrite: {}}]", "C011", "urlRewrite"),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}]",
            "C028",
            "URLRewrite",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: a}}, {type: RequestRedirect, requestRedirect: {}}]",
            "C028",
            "RequestRedirect",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: b, port: 1}]",
            "C028",
            "backendRefs",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}, {name: A, value: c}]}}]",
            "C028",
            "A",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: 'a:', value: b}]}}]",
            "C011",
            "'a:'",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"b\\r\\nc\"}]}}]",
            "C011",
            "\"b\\r\\nc\"",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: b}]}}]",
            "C011",
            "Host",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Content-Length]}}]",
            "C011",
            "Content-Length",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: forwarded-client-identity, value: x}]}}]",
            "C011",
            "forwarded-client-identity",
        ),
        ("filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [a, A]}}]", "C028", "A"),
        ("filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {sets: []}}]", "C002", "sets"),
    ] {
        check_rule(rule, code, place);
    }
}

#[test]
fn backends_timeouts_retries() {
    for (rule, code, place) in [
        ("backendRefs: [{name: b}]", "C005", "{"),
        ("backendRefs: [{port: 80}]", "C005", "{"),
        ("backendRefs: [{name: B, port: 80}]", "C008", "B"),
        ("backendRefs: [{name: b, port: 0}]", "C011", "0"),
        ("backendRefs: [{name: b, port: 80, weight: -1}]", "C011", "-1"),
        ("backendRefs: [{name: b, port: 80, weight: 1000001}]", "C011", "1000001"),
        ("backendRefs: [{name: b, port: 80, weigth: 1}]", "C002", "weigth"),
        (
            "backendRefs: [{name: b, port: 80, kind: ServiceImport, group: multicluster.x-k8s.io}]",
            "C010",
            "ServiceImport",
        ),
        ("backendRefs: [{name: b, port: 80, namespace: other}]", "C010", "other"),
        ("backendRefs: [{name: b, port: 80, filters: [{type: RequestRedirect, requestRedirect: {}}]}]", "C010", "{"),
        (
            "backendRefs: [{name: b, port: 80, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a}}}]}]",
            "C010",
            "RequestMirror",
        ),
        ("timeouts: {request: 1.5s}", "C011", "1.5s"),
        ("timeouts: {request: 10}", "C004", "10"),
        ("timeouts: {request: -1s}", "C011", "-1s"),
        ("timeouts: {request: 1s, backendRequest: 2s}", "C028", "2s"),
        ("timeouts: {requests: 1s}", "C002", "requests"),
        ("retry: {codes: [200]}", "C011", "200"),
        ("retry: {codes: [600]}", "C011", "600"),
        ("retry: {codes: [503, 503]}", "C028", "503"),
        ("retry: {codes: ['503']}", "C004", "'503'"),
        ("retry: {attempts: 11}", "C011", "11"),
        ("retry: {attempts: -1}", "C011", "-1"),
        ("retry: {backoff: soon}", "C011", "soon"),
        ("retry: {attempt: 1}", "C002", "attempt"),
        ("sessionPersistence: {sessionName: a}", "C010", "sessionPersistence"),
    ] {
        check_rule(rule, code, place);
    }
}
