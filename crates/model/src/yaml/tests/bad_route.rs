// SPDX-License-Identifier: Apache-2.0
//! Bad routes: the CRD's rules, and what isn't enforced.

use super::super::{Defaults, parse};
use super::check_bad;

const HEAD: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\n";

#[test]
fn specs() {
    let parent = "parentRefs: [{group: '', kind: Service, name: a}]";
    let sixteen = vec!["{}"; 17].join(", ");
    for (spec, code, place) in [
        ("parentRefs: [{kind: Service, name: a}]", "C010", "{"),
        ("parentRefs: [{group: gateway.networking.k8s.io, kind: Mesh, name: a}]", "C010", "{"),
        ("parentRefs: [{name: a}, {name: a, sectionName: b}]", "C028", "{"),
        ("parentRefs: [{name: a, sectionName: 'a b'}]", "C011", "'a b'"),
        ("parentRefs: [{group: '', kind: Service, name: A}]", "C008", "A"),
        ("parentRefs: [{group: '', kind: Service}]", "C005", "{"),
        ("parentRefs: [{group: '', kind: Service, name: a, namespace: Other}]", "C008", "Other"),
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
        (&format!("{parent}, hostnames: ['a.*']"), "C011", "'a.*'"),
        (&format!("{parent}, hostnames: [10.0.0.1]"), "C011", "10.0.0.1"),
        (&format!("{parent}, hostnames: [A.example]"), "C011", "A.example"),
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
        ("filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a}}}]", "C005", "backendRef"),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 101}}]",
            "C011",
            "101",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: -1}}]",
            "C011",
            "-1",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 1, fraction: {numerator: 1}}}]",
            "C028",
            "fraction",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 3, denominator: 2}}}]",
            "C011",
            "fraction",
        ),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 0, denominator: 0}}}]",
            "C011",
            "fraction",
        ),
        ("filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}]", "C010", "ExtensionRef"),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: mesh.byrnie.dev, kind: HTTPRouteFilter, name: A_b}}]",
            "C011",
            "A_b",
        ),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: mesh.byrnie.dev, kind: HTTPRouteFilter, name: a}}], backendRefs: [{name: b, port: 1}]",
            "C028",
            "backendRefs",
        ),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: mesh.byrnie.dev, kind: HTTPRouteFilter, name: a}}, {type: RequestRedirect, requestRedirect: {}}]",
            "C028",
            "filters",
        ),
        (
            "backendRefs: [{name: b, port: 1, filters: [{type: ExtensionRef, extensionRef: {group: mesh.byrnie.dev, kind: HTTPRouteFilter, name: a}}]}]",
            "C028",
            "filters",
        ),
        ("filters: [{type: CORS}]", "C005", "{"),
        ("filters: [{type: CORS, cors: {allowOrigins: ['*', 'https://a.b']}}]", "C028", "allowOrigins"),
        ("filters: [{type: CORS, cors: {allowOrigins: [a.b]}}]", "C011", "a.b"),
        ("filters: [{type: CORS, cors: {allowOrigins: ['https://a.b/c']}}]", "C011", "'https://a.b/c'"),
        ("filters: [{type: CORS, cors: {allowOrigins: ['https://a.*.b']}}]", "C011", "'https://a.*.b'"),
        ("filters: [{type: CORS, cors: {allowMethods: [get]}}]", "C011", "get"),
        ("filters: [{type: CORS, cors: {allowMethods: ['*', GET]}}]", "C028", "allowMethods"),
        ("filters: [{type: CORS, cors: {allowHeaders: ['a b']}}]", "C011", "'a b'"),
        ("filters: [{type: CORS, cors: {maxAge: 0}}]", "C011", "0"),
        ("filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]", "C028", "CORS"),
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
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Forwarded-Client-Cert, value: x}]}}]",
            "C011",
            "X-Forwarded-Client-Cert",
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
        ("backendRefs: [{name: b, port: 80, kind: 'a b', group: x}]", "C011", "'a b'"),
        ("backendRefs: [{name: b, port: 80, namespace: Other}]", "C008", "Other"),
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
        ("sessionPersistence: {sessionName: 'a b'}", "C011", "'a b'"),
        ("sessionPersistence: {type: Query}", "C011", "Query"),
        ("sessionPersistence: {absoluteTimeout: 0s}", "C011", "0s"),
        ("sessionPersistence: {idleTimeout: soon}", "C011", "soon"),
        ("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}", "C005", "sessionPersistence"),
        ("sessionPersistence: {type: Header, cookieConfig: {lifetimeType: Session}}", "C028", "cookieConfig"),
        ("sessionPersistence: {type: Header, sessionName: Host}", "C011", "Host"),
    ] {
        check_rule(rule, code, place);
    }
}

fn check_grpc(rule: &str, code: &str, place: &str) {
    let head = HEAD.replace("HTTPRoute", "GRPCRoute");
    let parent = "parentRefs: [{group: '', kind: Service, name: a}]";
    check_bad(&format!("{head}spec:\n  {parent}\n  rules:\n  - {{{rule}}}"), code, place);
}

#[test]
fn grpc_routes() {
    for (rule, code, place) in [
        ("matches: [{method: {}}]", "C005", "method"),
        ("matches: [{method: {service: ''}}]", "C005", "method"),
        ("matches: [{method: {service: a/b}}]", "C011", "a/b"),
        ("matches: [{method: {service: .a}}]", "C011", ".a"),
        ("matches: [{method: {method: 1a}}]", "C011", "1a"),
        ("matches: [{method: {method: a.b}}]", "C011", "a.b"),
        ("matches: [{method: {type: RegularExpression, method: '('}}]", "C011", "'('"),
        ("matches: [{method: {type: Prefix, method: a}}]", "C011", "Prefix"),
        ("matches: [{path: {value: /}}]", "C002", "path"),
        ("matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}]", "C028", "A"),
        ("filters: [{type: URLRewrite}]", "C011", "URLRewrite"),
        ("filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}]", "C010", "ExtensionRef"),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: mesh.byrnie.dev, kind: HTTPRouteFilter, name: a}}]",
            "C010",
            "ExtensionRef",
        ),
        ("timeouts: {request: 1s}", "C002", "timeouts"),
        ("backendRefs: [{name: b}]", "C005", "{"),
    ] {
        check_grpc(rule, code, place);
    }
}

#[test]
fn answers_of_a_routes_own() {
    let head = HEAD
        .replace("HTTPRoute", "HTTPRouteFilter")
        .replace("gateway.networking.k8s.io/v1", "mesh.byrnie.dev/v1alpha1");
    for (says, code, place) in [
        ("statusCode: 100", "C011", "100"),
        ("statusCode: 600", "C011", "600"),
        ("statusCode: 204, body: {inline: gone}", "C028", "gone"),
        ("contentType: text/html", "C028", "text/html"),
        ("contentType: html, body: {inline: a}", "C011", "html"),
        ("body: {}", "C005", "body"),
        ("body: {type: ValueRef, inline: a}", "C011", "ValueRef"),
    ] {
        check_bad(&format!("{head}spec: {{directResponse: {{{says}}}}}"), code, place);
    }
    check_bad(&format!("{head}spec: {{}}"), "C005", "spec");
    for (bytes, fits) in [(4096, true), (4097, false)] {
        let body = "a".repeat(bytes);
        let text = format!("{head}spec: {{directResponse: {{body: {{inline: {body}}}}}}}");
        assert_eq!(!parse("f", &text, &Defaults::default()).has_errors(), fits, "{bytes}");
    }
}

fn check_gateway(spec: &str, code: &str, place: &str) {
    let head = HEAD.replace("HTTPRoute", "Gateway");
    check_bad(&format!("{head}spec: {{gatewayClassName: byrnie, {spec}}}"), code, place);
}

#[test]
fn gateways_and_grants() {
    for (spec, code, place) in [
        (
            "infrastructure: {annotations: {mesh.byrnie.dev/proxy-protocol-from: 10.0.0.1/8}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "10.0.0.1/8",
        ),
        (
            "infrastructure: {annotations: {mesh.byrnie.dev/proxy-protocol-from: ''}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "''",
        ),
        ("infrastructure: {annotations: {a.test/b: c}}, listeners: [{name: a, port: 80, protocol: HTTP}]", "C010", "c"),
        (
            "infrastructure: {parametersRef: {group: a.b, kind: P, name: 'X y'}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "'X y'",
        ),
        ("infrastructure: {labels: {a: b}}, listeners: [{name: a, port: 80, protocol: HTTP}]", "C010", "labels"),
        (
            "tls: {backend: {clientCertificateRef: {name: a}}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C010",
            "backend",
        ),
        ("tls: {frontend: {}}, listeners: [{name: a, port: 80, protocol: HTTP}]", "C005", "frontend"),
        (
            "tls: {frontend: {default: {validation: {caCertificateRefs: []}}}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "caCertificateRefs",
        ),
        (
            "tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: A}]}}}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "A",
        ),
        (
            "tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: 'a b', name: a}]}}}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "'a b'",
        ),
        (
            "tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: a}], mode: Maybe}}}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "Maybe",
        ),
        (
            "tls: {frontend: {default: {}, perPort: [{port: 0, tls: {}}]}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "0",
        ),
        (
            "tls: {frontend: {default: {}, perPort: [{port: 443, tls: {}}, {port: 443, tls: {}}]}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C028",
            "443",
        ),
        (
            "tls: {frontend: {default: {}, perPort: [{port: 443, tls: {validation: {caCertificateRefs: []}}}]}}, listeners: [{name: a, port: 80, protocol: HTTP}]",
            "C011",
            "caCertificateRefs",
        ),
        ("listeners: []", "C011", "listeners"),
        ("listeners: [{name: a, port: 0, protocol: HTTP}]", "C011", "0"),
        ("listeners: [{name: A, port: 80, protocol: HTTP}]", "C011", "A"),
        ("listeners: [{name: a, port: 80, protocol: HTTPS}]", "C005", "{"),
        ("listeners: [{name: a, port: 80, protocol: TLS}]", "C005", "{"),
        (
            "listeners: [{name: a, port: 80, protocol: TLS, tls: {mode: Passthrough, certificateRefs: [{name: a}]}}]",
            "C028",
            "certificateRefs",
        ),
        ("listeners: [{name: a, port: 80, protocol: TCP, hostname: a.b}]", "C028", "a.b"),
        ("listeners: [{name: a, port: 80, protocol: TCP, tls: {mode: Passthrough}}]", "C028", "tls"),
        (
            "listeners: [{name: a, hostname: a.b, port: 80, protocol: TLS, tls: {mode: Passthrough}}, {name: b, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}]",
            "C028",
            "HTTPS",
        ),
        ("listeners: [{name: a, port: 80, protocol: HTTPS, tls: {certificateRefs: []}}]", "C005", "{"),
        ("listeners: [{name: a, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: A}]}}]", "C011", "A"),
        (
            "listeners: [{name: a, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: a, namespace: A}]}}]",
            "C008",
            "A",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: a, kind: 'a b'}]}}]",
            "C011",
            "'a b'",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTPS, tls: {mode: Passthrough, certificateRefs: [{name: a}]}}]",
            "C028",
            "Passthrough",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTPS, tls: {options: {a.b/c: d}, certificateRefs: [{name: a}]}}]",
            "C010",
            "d",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, hostname: b.c, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}]",
            "C028",
            "HTTPS",
        ),
        ("listeners: [{name: a, port: 53, protocol: UDP, hostname: a.b}]", "C028", "a.b"),
        ("listeners: [{name: a, port: 53, protocol: UDP, tls: {}}]", "C028", "tls"),
        ("listeners: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53, protocol: UDP}]", "C028", "{"),
        (
            "listeners: [{name: a, port: 53, protocol: UDP}], infrastructure: {annotations: {mesh.byrnie.dev/proxy-protocol-from: 10.0.0.0/8}}",
            "C028",
            "UDP",
        ),
        ("listeners: [{name: a, port: 80, protocol: GOPHER}]", "C011", "GOPHER"),
        ("listeners: [{name: a, port: 80, protocol: HTTP, tls: {}}]", "C028", "tls"),
        ("listeners: [{name: a, port: 80, protocol: HTTP, hostname: 'a.*'}]", "C011", "'a.*'"),
        ("listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]", "C028", "a"),
        ("listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}]", "C028", "{"),
        (
            "listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}]",
            "C005",
            "namespaces",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}}}]",
            "C028",
            "values",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In}]}}}}]",
            "C005",
            "{",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}}}]",
            "C011",
            "Is",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a/, operator: Exists}]}}}}]",
            "C008",
            "a/",
        ),
        (
            "listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In, values: ['b c']}]}}}}]",
            "C011",
            "'b c'",
        ),
        ("addresses: [{value: 10.0.0.1}], listeners: [{name: a, port: 80, protocol: HTTP}]", "C010", "addresses"),
        ("listener: []", "C002", "listener"),
    ] {
        check_gateway(spec, code, place);
    }
    let set = HEAD.replace("HTTPRoute", "ListenerSet");
    let of = "parentRef: {name: gw}";
    for (spec, code, place) in [
        ("listeners: [{name: a, port: 80, protocol: HTTP}]".to_owned(), "C005", "spec"),
        (format!("{of}, listeners: []"), "C011", "listeners"),
        (format!("{of}, listeners: [{{name: a, port: 0, protocol: HTTP}}]"), "C011", "0"),
        ("parentRef: {name: A}, listeners: [{name: a, port: 80, protocol: HTTP}]".to_owned(), "C011", "A"),
        (
            "parentRef: {name: a, kind: Service, group: ''}, listeners: [{name: a, port: 80, protocol: HTTP}]"
                .to_owned(),
            "C010",
            "Service",
        ),
        (
            format!("{of}, gatewayClassName: a, listeners: [{{name: a, port: 80, protocol: HTTP}}]"),
            "C002",
            "gatewayClassName",
        ),
    ] {
        check_bad(&format!("{set}spec: {{{spec}}}"), code, place);
    }
    let grant = HEAD.replace("HTTPRoute", "ReferenceGrant");
    for (spec, code, place) in [
        ("from: [], to: [{group: '', kind: Service}]", "C011", "from"),
        ("from: [{group: a.b, kind: HTTPRoute, namespace: A}], to: [{group: '', kind: Service}]", "C008", "A"),
        ("from: [{group: a.b, kind: HTTPRoute}], to: [{group: '', kind: Service}]", "C005", "{"),
        ("from: [{group: a.b, kind: 'a b', namespace: a}], to: [{group: '', kind: Service}]", "C011", "'a b'"),
    ] {
        check_bad(&format!("{grant}spec: {{{spec}}}"), code, place);
    }
    let class = HEAD.replace("HTTPRoute", "GatewayClass");
    check_bad(&format!("{class}spec: {{controllerName: me}}"), "C011", "me");
    // Whose class it is, judges its parameters.
    let parameters = "parametersRef: {group: a.b, kind: P, name: p}";
    let own = format!("{class}spec: {{controllerName: mesh.byrnie.dev/gateway, {parameters}}}");
    check_bad(&own, "C010", "parametersRef");
    super::good(&format!("{class}spec: {{controllerName: acme.io/gateway-controller, {parameters}}}"));
}

#[test]
fn routes_for_connections() {
    let to = "backendRefs: [{name: db, port: 5432}]";
    let tls = HEAD.replace("HTTPRoute", "TLSRoute");
    for (spec, code, place) in [
        (format!("rules: [{{{to}}}]"), "C005", "spec"),
        (format!("hostnames: [], rules: [{{{to}}}]"), "C011", "hostnames"),
        (format!("hostnames: [A.b], rules: [{{{to}}}]"), "C011", "A.b"),
        ("hostnames: [a.b], rules: []".to_owned(), "C011", "rules"),
        ("hostnames: [a.b], rules: [{backendRefs: []}]".to_owned(), "C005", "{"),
        (format!("hostnames: [a.b], rules: [{{{to}, filters: []}}]"), "C002", "filters"),
        (format!("hostnames: [a.b], rules: [{{{to}}}, {{{to}}}]"), "C010", "rules"),
    ] {
        check_bad(&format!("{tls}spec: {{{spec}}}"), code, place);
    }
    let tcp = HEAD.replace("HTTPRoute", "TCPRoute").replace("k8s.io/v1", "k8s.io/v1alpha2");
    for (spec, code, place) in [
        ("rules: [{backendRefs: []}]".to_owned(), "C005", "{"),
        (format!("rules: [{{{to}}}, {{{to}}}]"), "C010", "rules"),
        (format!("hostnames: [a.b], rules: [{{{to}}}]"), "C002", "hostnames"),
        ("rules: [{backendRefs: [{name: db}]}]".to_owned(), "C005", "{"),
        ("rules: [{backendRefs: [{name: db, port: 1, weight: -1}]}]".to_owned(), "C011", "-1"),
    ] {
        check_bad(&format!("{tcp}spec: {{{spec}}}"), code, place);
    }
    check_bad(&tcp.replace("v1alpha2", "v1beta1"), "C029", "gateway.networking.k8s.io/v1beta1");
    let udp = HEAD.replace("HTTPRoute", "UDPRoute");
    for (spec, code, place) in [
        ("rules: [{backendRefs: []}]".to_owned(), "C005", "{"),
        (format!("rules: [{{{to}}}, {{{to}}}]"), "C010", "rules"),
        (format!("useDefaultGateways: All, rules: [{{{to}}}]"), "C010", "All"),
        (format!("rules: [{{{to}, filters: []}}]"), "C002", "filters"),
        ("rules: [{backendRefs: [{name: db, port: 0}]}]".to_owned(), "C011", "0"),
    ] {
        check_bad(&format!("{udp}spec: {{{spec}}}"), code, place);
    }
    let flows = format!("{udp}spec: {{parentRefs: [{{name: gw, sectionName: dns}}], rules: [{{{to}}}]}}");
    assert_eq!(super::good(&flows), super::good(&flows.replace("k8s.io/v1", "k8s.io/v1alpha2")));
    let on_service = format!(
        "{tls}spec: {{parentRefs: [{{group: '', kind: Service, name: db}}], hostnames: [a.b], rules: [{{{to}}}]}}"
    );
    assert!(super::good(&on_service).len() == 1, "its hosts mean something there");
    // The first version has none, and keeps none.
    let anywhere = format!("{tls}spec: {{parentRefs: [{{name: gw}}], rules: [{{{to}}}]}}");
    let mut read = super::good(&anywhere.replace("k8s.io/v1", "k8s.io/v1alpha2")).remove(0);
    read.origin = None;
    assert_eq!(crate::yaml::from_json(&crate::yaml::to_json(&read), &crate::yaml::Defaults::default()).unwrap(), read);
    let good = format!("{tls}spec: {{parentRefs: [{{name: gw}}], hostnames: [a.b], rules: [{{{to}}}]}}");
    for version in ["v1alpha2", "v1alpha3"] {
        assert_eq!(
            super::good(&good).remove(0),
            super::good(&good.replace("k8s.io/v1", &format!("k8s.io/{version}"))).remove(0)
        );
    }
}
