// SPDX-License-Identifier: Apache-2.0
//! Planted mistakes: each is found, with its code, and the text that is wrong is underlined.

use crate::Catalog;
use byrnie_model::yaml::{Defaults, parse};
use byrnie_model::{Change, Diagnostic};
use std::sync::Arc;

/// A shop without a mistake.
const SHOP: &str = "
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomain: mesh.local}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: payments}
spec: {selector: {app: payments}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders-db}
spec: {selector: {app: orders-db}, ports: [{port: 5432, appProtocol: tcp}]}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Workload
metadata: {name: web-1, labels: {app: web}}
spec: {address: 127.0.0.1, serviceAccount: web, inbound: '127.0.0.1:7001', ports: [{name: http, port: 8080}], uses: [payments]}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Workload
metadata: {name: payments-1, labels: {app: payments}}
spec: {address: 127.0.0.1, serviceAccount: payments, inbound: '127.0.0.1:7002', ports: [{name: http, port: 9090}]}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Workload
metadata: {name: db-1, labels: {app: orders-db}}
spec: {address: 127.0.0.1, serviceAccount: db, inbound: '127.0.0.1:7003', ports: [{port: 5432, protocol: tcp}]}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: AccessPolicy
metadata: {name: payments}
spec:
  targetRefs: [{name: payments}]
  action: ALLOW
  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: web}}]}]
";

/// Checks the shop with one more text; what is said of it, as `CODE text`.
fn said(more: &str) -> (Vec<String>, String) {
    let text = format!("{SHOP}---\n{more}");
    let parsed = parse("shop.yaml", &text, &Defaults::default());
    let errors: String = parsed.diagnostics.iter().map(Diagnostic::render).collect();
    assert!(!parsed.has_errors(), "{errors}");
    let mut catalog = Catalog::new();
    for document in &parsed.documents {
        catalog.apply(&Change::Put(Arc::new(document.resource.clone())));
    }
    let mut found = catalog.check();
    parsed.place(&text, &mut found);
    let underlined = |d: &Diagnostic| {
        let line = d.snippet.clone().unwrap_or_default();
        line.chars().skip(d.column.saturating_sub(1) as usize).take(d.width as usize).collect::<String>()
    };
    let told = found.iter().map(|d| format!("{} {}", &d.code.id[4..], underlined(d))).collect();
    (told, found.iter().map(Diagnostic::render).collect())
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n")
}

fn workload(name: &str, app: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec: {{address: 127.0.0.1, {spec}}}\n---\n"
    )
}

fn slice(service: &str, rest: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\n{rest}\n---\n"
    )
}

fn route(name: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{group: '', kind: Service, {parent}}}]\n  rules: [{rules}]\n---\n"
    )
}

fn access(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
    )
}

fn traffic(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
    )
}

#[test]
fn a_shop_without_mistakes_is_told_nothing() {
    let (told, text) = said("");
    assert!(told.is_empty(), "{text}");
}

/// A route of connections whose bytes nobody looks at.
fn opaque(kind: &str, parent: &str, hostnames: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}Route\nmetadata: {{name: db}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: {parent}}}]\n{hostnames}  rules: [{{backendRefs: [{{name: orders-db, port: 5432}}]}}]\n---\n"
    )
}

/// An answer of a route's own.
const CLOSED: &str = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: HTTPRouteFilter\nmetadata: {name: closed}\nspec: {directResponse: {statusCode: 503}}\n---\n";

#[test]
fn planted_mistakes_in_routes() {
    let to = "{backendRefs: [{name: payments, port: 80}]}";
    for (mistake, expected) in [
        (
            route(
                "r",
                "name: payments",
                "{filters: [{type: ExtensionRef, extensionRef: {group: mesh.byrnie.dev, kind: HTTPRouteFilter, name: close}}]}",
            ) + CLOSED,
            "C085 close",
        ),
        (route("r", "name: payments", "{backendRefs: [{name: paymens, port: 80}]}"), "C012 paymens"),
        (route("r", "name: payments", "{backendRefs: [{name: payments, port: 8080}]}"), "C013 8080"),
        (route("r", "name: payment", to), "C014 payment"),
        (
            route("r", "name: payments", to)
                .replace("  parentRefs: [{group: '', kind: Service, name: payments}]\n", ""),
            "C054 spec",
        ),
        (route("r", "name: payments, port: 443", to), "C013 443"),
        (route("r", "name: orders-db", to), "C031 orders-db"),
        (route("r", "name: orders-db, port: 5432", to), "C031 5432"),
        (route("r", "name: payments", "{backendRefs: [{name: payments, port: 80, weight: 0}]}"), "C018 backendRefs"),
        (route("r", "name: payments", "{matches: [{method: GET}]}"), "C023 {"),
        (
            service("all", "selector: {app: payments}, ports: [{port: 81, targetPort: http}]")
                + &route("r", "name: payments", "{backendRefs: [{name: payments, port: 80}, {name: all, port: 81}]}"),
            "C078 all",
        ),
        (route("r", "name: payments", &format!("{to}, {to}")), "C019 {"),
        (
            route(
                "r",
                "name: payments",
                "{matches: [{method: POST}], retry: {codes: [503]}, backendRefs: [{name: payments, port: 80}]}",
            ),
            "C020 retry",
        ),
        (route("a", "name: payments", to) + &route("b", "name: payments, port: 80", to), "C024 {"),
        (
            opaque("TCP", "orders-db", "") + &opaque("TLS", "orders-db, port: 5432", "  hostnames: [a.db.test]\n"),
            "C024 {",
        ),
    ] {
        check(&mistake, expected);
    }
}

#[test]
fn planted_mistakes_in_services_and_workloads() {
    for (mistake, expected) in [
        (service("x", "ports: [{port: 80}], selector: {app: nobody}"), "C017 selector"),
        (service("x", "ports: [{port: 80}]"), "C017 spec"),
        (service("x", "ports: [{port: 80, targetPort: grpc}], selector: {app: payments}"), "C021 grpc"),
        (service("x", "ports: [{port: 81, targetPort: 81}], selector: {app: payments}"), "C021 81"),
        (
            service("x", "ports: [{port: 80, targetPort: http, appProtocol: grpc}], selector: {app: payments}"),
            "C027 grpc",
        ),
        (service("x", "ports: [{port: 80, targetPort: http}], selector: {app: payments}"), "C026 selector"),
        (
            workload(
                "p2",
                "payments",
                "serviceAccount: other, inbound: '127.0.0.1:7009', ports: [{name: http, port: 1}]",
            ),
            "C022 selector",
        ),
        (workload("p2", "payments", "serviceAccount: payments, inbound: '127.0.0.1:7002'"), "C039 '127.0.0.1:7002'"),
        (workload("w2", "web", "serviceAccount: web, uses: [paymnets]"), "C036 paymnets"),
        (workload("w2", "web", "serviceAccount: web, uses: [orders-db]"), "A008 orders-db"),
    ] {
        check(&mistake, expected);
    }
}

#[test]
fn planted_mistakes_in_slices() {
    let db = service("db", "ports: [{name: sql, port: 5432, appProtocol: tcp}]");
    let out = "ports: [{name: sql, port: 5432}]\nendpoints: [{addresses: [192.0.2.1]}]";
    for (mistake, expected) in [
        (slice("dc", out), "C074 dc"),
        (slice("payments", out), "C074 payments"),
        (db.clone() + &slice("db", &out.replace("sql", "sq")), "C074 sq"),
        (db.clone() + &slice("db", &out.replace("sql", "sq")), "C021 sql"),
        (
            service("db", "ports: [{port: 80}]")
                + &slice("db", "ports: [{port: 80}]\nendpoints: [{addresses: [192.0.2.1]}]"),
            "C064 {",
        ),
    ] {
        check(&mistake, expected);
    }
    let (told, text) = said(&(db.clone() + &slice("db", out)));
    assert!(told.is_empty(), "{text}");
    // Nobody is on the way to this machine itself.
    let here = "ports: [{port: 80}]\nendpoints: [{addresses: [127.0.0.1]}]";
    let (told, text) = said(&(service("db", "ports: [{port: 80}]") + &slice("db", here)));
    assert!(told.is_empty(), "{text}");
    let tls = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: db}\nspec:\n  targetRefs: [{group: '', kind: Service, name: db}]\n  validation: {hostname: db.test, wellKnownCACertificates: System}\n";
    let (told, text) =
        said(&(service("db", "ports: [{port: 80}]") + &slice("db", &here.replace("127.0.0.1", "192.0.2.1")) + tls));
    assert!(told.is_empty(), "{text}");
    check(
        &(service("db", "ports: [{port: 80}]")
            + &slice("db", here)
            + tls
            + "  options: {mesh.byrnie.dev/client-certificate: own}\n"),
        "C069 own",
    );
    let many = (0..=5000).map(|n| format!("{{addresses: [10.0.{}.{}]}}", n / 250, 1 + n % 250)).collect::<Vec<_>>();
    let slices = many.chunks(1000).enumerate().map(|(i, some)| {
        let rest = format!("ports: [{{name: sql, port: 5432}}]\nendpoints: [{}]", some.join(","));
        slice("db", &rest).replace("name: s,", &format!("name: s{i},"))
    });
    check(&(db.clone() + &slices.collect::<String>()), "C075 apiVersion");
}

#[test]
fn planted_mistakes_in_policies() {
    let web = "{type: ServiceAccount, serviceAccount: {name: web}}";
    for (mistake, expected) in [
        (access("x", "targetRefs: [{name: payment}], action: ALLOW, rules: [{}]"), "C015 payment"),
        (access("x", "targetRefs: [{name: payments}], action: ALLOW"), "A001 spec"),
        (access("x", "targetRefs: [{name: payments}], action: DENY, rules: []"), "A001 rules"),
        (access("x", "targetRefs: [{name: payments}], action: ALLOW, rules: [{}]"), "A002 {"),
        (
            access(
                "x",
                "targetRefs: [{name: payments}], action: ALLOW, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: wep}}]}]",
            ),
            "A003 wep",
        ),
        (
            access(
                "x",
                "targetRefs: [{name: payments}], action: ALLOW, rules: [{sources: [{type: Namespace, namespace: shop}]}]",
            ),
            "A003 shop",
        ),
        (
            access(
                "x",
                "targetRefs: [{name: payments}], action: ALLOW, rules: [{sources: [{type: SPIFFE, spiffe: spiffe://else/ns/default/sa/web}]}]",
            ),
            "A004 spiffe://else/ns/default/sa/web",
        ),
        (access("x", "targetRefs: [{name: payments}], action: DENY, rules: [{}]"), "A005 {"),
        (
            access(
                "x",
                &format!(
                    "targetRefs: [{{name: payments}}], action: ALLOW, rules: [{{sources: [{web}], networkAttributes: {{ports: [80]}}}}]"
                ),
            ),
            "A006 80",
        ),
        (
            access(
                "x",
                &format!(
                    "targetRefs: [{{name: orders-db}}], action: ALLOW, rules: [{{sources: [{web}], http: [{{methods: [GET]}}]}}]"
                ),
            ),
            "A007 http",
        ),
        (traffic("x", "targetRefs: [{name: payment}]"), "C015 payment"),
        (traffic("x", "targetRefs: [{name: payments}], endpoints: {healthCheck: {tcp: {}, port: 81}}"), "C013 81"),
        (
            traffic(
                "x",
                "targetRefs: [{name: payments}], balance: WeightedRoundRobin, endpoints: {loadReport: {port: 81}}",
            ),
            "C013 81",
        ),
        (
            service("far", "type: ExternalName, externalName: far.test, ports: [{port: 443, appProtocol: grpc}]")
                + &traffic("x", "targetRefs: [{name: far}], balance: WeightedRoundRobin, endpoints: {loadReport: {}}"),
            "C010 loadReport",
        ),
        (
            service("many", "type: ExternalName, externalName: '*.many.test', ports: [{port: 443, appProtocol: tcp}]")
                + &traffic("x", "targetRefs: [{name: many}], endpoints: {healthCheck: {tcp: {}}}"),
            "C010 healthCheck",
        ),
        (
            traffic("x", "targetRefs: [{name: payments}]") + &traffic("y", "targetRefs: [{name: payments}]"),
            "C025 payments",
        ),
        (
            traffic("x", "targetRefs: [{name: payments}], balance: Random")
                + &traffic("y", "targetRefs: [{name: payments}], balance: RoundRobin, unsafeRetry: true"),
            "C025 payments",
        ),
        (traffic("x", "targetRefs: [{name: payments}], endpoints: {labels: {app: paymens}}"), "C076 labels"),
        (
            traffic(
                "x",
                "targetRefs: [{name: payments}], failover: {distribute: [{from: '*', to: {'*': 50%, atlantis: 50%}}]}",
            ),
            "C077 to",
        ),
    ] {
        check(&mistake, expected);
    }
}

fn check(mistake: &str, expected: &str) {
    let (told, text) = said(mistake);
    assert!(told.iter().any(|line| line == expected), "expected {expected}, got {told:?} for\n{mistake}\n{text}");
}

#[test]
fn what_is_meant_is_no_mistake() {
    for fine in [
        // A service that only holds a route.
        service("split", "ports: [{port: 80}]")
            + &route("r", "name: split", "{backendRefs: [{name: payments, port: 80}]}"),
        // A more special rule after a more general one wins all the same.
        route(
            "r",
            "name: payments",
            "{backendRefs: [{name: payments, port: 80}]}, {matches: [{method: GET}], backendRefs: [{name: payments, port: 80}]}",
        ),
        // Neither does an answer of its own.
        route(
            "r",
            "name: payments",
            "{filters: [{type: ExtensionRef, extensionRef: {group: mesh.byrnie.dev, kind: HTTPRouteFilter, name: closed}}]}",
        ) + CLOSED,
        // A redirect needs no backend.
        route("r", "name: payments", "{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}"),
        // Two policies that speak of different matters, and labels that somebody has.
        traffic("a", "targetRefs: [{name: payments}], balance: Random, endpoints: {healthCheck: {tcp: {}}}")
            + &traffic("b", "targetRefs: [{name: payments}], endpoints: {labels: {app: payments}}"),
        // Places that hold somebody.
        traffic("x", "targetRefs: [{name: payments}], failover: {distribute: [{from: atlantis, to: {'*': 100%}}]}"),
        // Of a service that nobody serves yet, labels say nothing.
        service("later", "ports: [{port: 80}]")
            + &route("r", "name: later", "{backendRefs: [{name: payments, port: 80}]}")
            + &traffic("a", "targetRefs: [{name: later}], endpoints: {labels: {version: v2}}"),
        // Repeating is said to be safe.
        route(
            "r",
            "name: payments",
            "{matches: [{method: POST}], retry: {codes: [503]}, backendRefs: [{name: payments, port: 80}]}",
        ) + &traffic("t", "targetRefs: [{name: payments}], unsafeRetry: true"),
        // The edge may call, though no workload runs under its account.
        access(
            "edge",
            "action: ALLOW, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: edge, namespace: byrnie}}]}]",
        ),
    ] {
        let (told, text) = said(&fine);
        assert!(told.is_empty(), "{text}\n{fine}");
    }
}

#[test]
fn planted_mistakes_in_sagas() {
    let saga = |step: &str| {
        format!(
            "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Saga\nmetadata: {{name: s}}\nspec: {{steps: [{{name: a, {step}}}]}}\n"
        )
    };
    check(&saga("call: POST paymens/charge"), "C055 POST paymens/charge");
    check(&saga("call: POST payments/charge, undo: POST payments.books/refund"), "C055 POST payments.books/refund");
    let (told, text) = said(&saga("call: POST payments/charge, undo: 'POST payments.default:80/refund/{a.id}'"));
    assert!(told.is_empty(), "{text}");
}

#[test]
fn a_lease_that_ends_before_callers_give_up_is_told() {
    let keyed = |lease| {
        traffic("t", &format!("targetRefs: [{{name: payments}}], idempotency: {{mode: Required, lease: {lease}}}"))
    };
    let route = route("r", "name: payments", "{timeouts: {request: 30s}, backendRefs: [{name: payments, port: 80}]}");
    let saga = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Saga\nmetadata: {name: s}\nspec: {steps: [{name: a, call: POST payments/charge, retry: {timeout: 30s}}]}\n";
    for caller in [route.as_str(), saga] {
        let (told, text) = said(&(keyed("5s") + caller));
        assert_eq!(told.len(), 1, "{text}");
        assert!(text.contains("C084") && text.contains("30s") && text.contains("5s"), "{text}");
        let (told, text) = said(&(keyed("30s") + caller));
        assert!(told.is_empty(), "{text}");
    }
}
