// SPDX-License-Identifier: Apache-2.0
//! Good documents, and what they mean.

use super::super::*;
use super::{good, said, underlined};
use crate::policy::access::{PathPattern, Source};
use crate::policy::health::{Check, HealthCheck};
use crate::policy::idempotency::{Guarantee, KeyMode, OnAmbiguous, OnServerError};
use crate::route::{PathMatch, RouteFilter};
use crate::saga::Undo;
use crate::service::TargetPort;
use crate::{Protocol, ServiceRef};
use std::time::Duration;

/// The samples of the documentation.
const SAMPLES: &str = r#"
apiVersion: v1                        # --- service
kind: Service
metadata: {name: payments, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}], selector: {app: payments}, clusterIP: None}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Workload
metadata: {name: payments-vm1, namespace: shop, labels: {app: payments, version: v1}}
spec: {address: 10.0.0.7, serviceAccount: payments, locality: eu-west/a, uses: [bank, ledger.books], inbound: "10.0.0.7:7781", ports: [{name: http, port: 8080, protocol: http2}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: payments, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: payments, port: 80}]
  rules:
  - matches: [{method: POST, path: {type: PathPrefix, value: /charge/}}]
    timeouts: {request: 2s, backendRequest: 800ms}
    retry: {codes: [503], attempts: 2, backoff: 50ms}
    backendRefs: [{name: payments-v1, port: 80, weight: 90}, {name: payments-v2, port: 80, weight: 10}]
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: AccessPolicy
metadata: {name: payments, namespace: shop}
spec:
  mode: Shadow
  targetRefs: [{group: "", kind: Service, name: payments}]
  action: ALLOW
  rules:
  - sources: [{type: ServiceAccount, serviceAccount: {name: checkout}}]
    networkAttributes: {ports: [8080]}
    http: [{methods: [POST], paths: [/charge, "/x/*", "/x/{id}/y", /, "/*"]}]
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: payments, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: payments}]
  failover: {prefer: [sameZone, sameRegion, any], below: 70%}
  eject: {consecutiveErrors: 5, for: 30s, maxEjected: 50%}
  limits: {maxPending: 100, rate: {requests: 200, per: 1s}}
  retryConstraint: {budget: {percent: 20, interval: 10s}, minRetryRate: {count: 10, interval: 1s}}
  endpoints: {healthCheck: {http: {path: /healthz}}}
  idempotency:
    {mode: Required, guarantee: G2, keyTTL: 48h, lease: 90s, onServerError: Keep, mintKeys: true, statusOnly: true,
     enlist: [{call: POST /charge, compensate: POST /refund, complete: PUT /final}, {call: POST /holds/*, compensate: DELETE /holds}]}
---
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Saga
metadata: {name: place-order, namespace: shop}
spec:
  deadline: 30s
  key: request.headers["idempotency-key"]
  rejected: [402, 409]
  steps:
  - {name: reserve, call: POST inventory/reservations, body: input.items, undo: "DELETE inventory/reservations/{reserve.id}"}
  - {name: look, call: "GET stock.books:8080/of/{input.id}", after: [], undo: none}
  - {name: pack, saga: stores/pack, after: [reserve], input: "{'n': reserve.n}"}
  - {name: charge, call: POST payments/charge, after: [reserve, look, pack], body: "{'n': reserve.n}", undo: POST payments/refunds, undoBody: charge.id, pivot: true}
  - {name: ship, call: POST shipping/orders, retry: {attempts: 9, for: 24h, backoff: 1s..5m, timeout: 30s}}
---
{"apiVersion": "mesh.byrnie.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": "mesh"}, "spec": {"trustDomain": "demo.local"}}
"#;

#[test]
fn the_samples_are_read() {
    let resources = good(SAMPLES);
    assert_eq!(resources.len(), 7);
    let Spec::Service(service) = &resources[0].spec else { panic!() };
    assert_eq!((service.ports[0].protocol, &service.ports[0].target), (Protocol::Http2, &TargetPort::Number(8080)));
    let Spec::Workload(workload) = &resources[1].spec else { panic!() };
    assert_eq!(workload.identity.to_string(), "spiffe://mesh.local/ns/shop/sa/payments");
    assert_eq!(workload.uses, [ServiceRef::new("shop", "bank"), ServiceRef::new("books", "ledger")]);
    let Spec::Route(route) = &resources[2].spec else { panic!() };
    assert_eq!(route.rules[0].matches[0].path, PathMatch::Prefix("/charge".into()));
    assert_eq!(route.rules[0].backend_timeout, Some(Duration::from_millis(800)));
    let Spec::Access(policy) = &resources[3].spec else { panic!() };
    assert_eq!(policy.rules[0].sources, [Source::ServiceAccount { namespace: "shop".into(), name: "checkout".into() }]);
    assert_eq!(
        policy.rules[0].http[0].paths,
        [
            PathPattern::Exact("/charge".into()),
            PathPattern::Below("/x/".into()),
            PathPattern::Template(vec![Some("x".into()), None, Some("y".into())]),
            PathPattern::Exact("/".into()),
            PathPattern::Below("/".into()),
        ]
    );
    let Spec::Traffic(policy) = &resources[4].spec else { panic!() };
    let usual = HealthCheck {
        how: Check::Http("/healthz".into()),
        port: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        sick_after: 3,
        well_after: 1,
    };
    assert_eq!(policy.health_check(), Some(&usual));
    let keyed = policy.idempotency.as_ref().unwrap();
    assert_eq!((keyed.mode, keyed.guarantee), (KeyMode::Required, Guarantee::G2));
    assert!(keyed.mint_keys && keyed.status_only);
    assert_eq!((keyed.key_ttl, keyed.lease), (Duration::from_secs(48 * 3600), Duration::from_secs(90)));
    // Whose programs have a barrier of their own can take a repetition.
    assert_eq!((&keyed.on_ambiguous, keyed.on_server_error), (&OnAmbiguous::Reexecute, OnServerError::Keep));
    assert!(keyed.enlist[0].reserves("PUT", "/final") && keyed.enlist[1].call.covers("POST", "/holds/7"));
    let Spec::Saga(saga) = &resources[5].spec else { panic!() };
    let after: Vec<&[u16]> = saga.steps.iter().map(|step| &*step.after).collect();
    assert_eq!(after, [&[][..], &[], &[0], &[0, 1, 2], &[3]], "the step above, unless it says");
    assert_eq!(saga.steps[1].undo, Some(Undo::Nothing));
    assert_eq!(saga.steps[4].retry.backoff, Some((Duration::from_secs(1), Duration::from_secs(300))));
    let origin = resources[2].origin.as_ref().unwrap();
    assert_eq!((&*origin.file, origin.line), ("t.yaml", 12));
}

#[test]
fn canonical_documents_read_back() {
    for mut resource in good(SAMPLES) {
        resource.origin = None;
        let read = from_json(&to_json(&resource), &Defaults::default()).unwrap();
        assert_eq!(read, resource);
    }
}

#[test]
fn defaults_are_the_api_servers() {
    let text = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a.b}, spec: {parentRefs: [{group: '', kind: Service, name: a}]}}";
    let resources = good(text);
    let Spec::Route(route) = &resources[0].spec else { panic!() };
    assert_eq!(&*resources[0].key.namespace, "default");
    assert_eq!(route.rules[0].matches[0].path, PathMatch::Prefix("/".into()));
    let text = text.replace("name: a}]", "name: a}], rules: [{timeouts: {request: 0s}, backendRefs: [{name: b, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-A]}}]}]}]");
    let resources = good(&text);
    let Spec::Route(route) = &resources[0].spec else { panic!() };
    assert_eq!((route.rules[0].timeout, route.rules[0].backends[0].weight), (None, 1));
    let RouteFilter::RequestHeaders(edits) = &route.rules[0].backends[0].filters[0] else { panic!() };
    assert_eq!(edits.remove, ["x-a"]);
}

#[test]
fn what_a_server_adds_can_be_applied_again() {
    let resources = good(
        "{apiVersion: v1, kind: Service, metadata: {name: a, uid: x, resourceVersion: '5', generation: 1}, \
         spec: {type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster, ports: [{port: 80, protocol: TCP}]}, \
         status: {loadBalancer: {}}}",
    );
    assert_eq!(resources.len(), 1);
}

#[test]
fn annotations_are_told_to_be_dropped() {
    let text = "{apiVersion: v1, kind: Namespace, metadata: {name: a, annotations: {x: y}}}";
    let parsed = parse("t.yaml", text, &Defaults::default());
    assert_eq!((parsed.documents.len(), parsed.has_errors()), (1, false));
    assert_eq!(said(text), [("C010", "annotations".to_owned())]);
}

#[test]
fn one_bad_document_does_not_hide_others() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: A}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n---\napiVersion: v1\nkind: Nope\n";
    let parsed = parse("t.yaml", text, &Defaults::default());
    assert_eq!(parsed.documents.len(), 1);
    let lines: Vec<u32> = parsed.diagnostics.iter().map(|d| d.line).collect();
    assert_eq!(lines, [3, 10]);
}

#[test]
fn all_unknown_fields_are_told_at_once() {
    let text = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  targetRefs: [{name: a}]\n  balanse: Random\n  ejct: {}\n";
    assert_eq!(said(text), [("C002", "balanse".to_owned()), ("C002", "ejct".to_owned())]);
    let parsed = parse("t.yaml", text, &Defaults::default());
    assert!(parsed.diagnostics[0].message.contains("did you mean \"balance\"?"));
}

#[test]
fn json_values_are_checked_as_strictly() {
    let value = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 0}]}});
    let errors = from_json(&value, &Defaults::default()).unwrap_err();
    assert_eq!((errors[0].code.id, &*errors[0].path, errors[0].line), ("BYR-C011", "spec.ports[0].port", 0));
    let mut deep = serde_json::json!(1);
    for _ in 0..100 {
        deep = serde_json::json!([deep]);
    }
    assert_eq!(from_json(&deep, &Defaults::default()).unwrap_err()[0].code.id, "BYR-C009");
}

#[test]
fn lists_and_streams_of_json_are_documents_too() {
    let one = |name: &str| {
        format!("{{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {{\"name\": \"{name}\"}}}}")
    };
    let (a, b) = (one("a"), one("b"));
    let list = |items: &str| format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": {items}}}");
    for text in [
        format!("[{a}, {b}]"),
        format!("{a}\n{b}\n"),
        format!("{a} {b}"),
        format!("[{a}]\n{}", list(&format!("[{b}]"))),
        list(&format!("[{a}, {b}]")),
        format!("apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n- {a}\n- {b}\n"),
        format!("- {a}\n- {b}\n"),
    ] {
        let names: Vec<String> = good(&text).iter().map(|resource| resource.key.name.to_string()).collect();
        assert_eq!(names, ["a", "b"], "{text}");
    }
    assert!(good("[]").is_empty());
}

#[test]
fn what_is_wrong_in_a_list_or_stream_of_json_is_told_at_its_place() {
    let bad = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"ä\", \"labels\": {\"x\": \"{}\\\"\"}}}";
    let fine = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"b\"}}";
    for (text, line) in [
        (format!("[\n{fine},\n{bad}]"), 3),
        (format!("{fine}\n{bad}\n"), 2),
        (format!("{bad} {fine}"), 1),
        (format!("{fine} {bad}"), 1),
        (format!("{fine}\n\n  {bad}\n"), 3),
    ] {
        let parsed = parse("t.yaml", &text, &Defaults::default());
        let at = |code: &str| parsed.diagnostics.iter().find(|d| d.code.id == code).unwrap();
        assert_eq!((at("BYR-C008").line, underlined(at("BYR-C008"))), (line, "\"ä\"".to_owned()), "{text}");
        assert_eq!(parsed.documents.len(), 1, "{text}");
    }
    // A value that isn't JSON hides no other, and a number among documents isn't one.
    let parsed = parse("t.yaml", &format!("{fine}\n{{\"a\": [}}\n{}", fine.replace('b', "c")), &Defaults::default());
    let found: Vec<_> = parsed.diagnostics.iter().map(|d| (d.code.id, d.line)).collect();
    assert_eq!(found, [("BYR-C001", 2)]);
    assert_eq!(said(&format!("[{fine}, 7]")), [("C004", "7".to_owned())]);
    assert_eq!(said(&"{}\n".repeat(DOCUMENTS_MAX + 1)).first().map(|(code, _)| *code), Some("C009"));
}

#[test]
fn what_is_spoken_comes_back_in_the_word_it_was_said_in() {
    for (word, protocol) in [
        ("http", Protocol::Http1),
        ("kubernetes.io/ws", Protocol::Http1),
        ("http2", Protocol::Http2),
        ("kubernetes.io/h2c", Protocol::Http2),
        ("grpc", Protocol::Grpc),
        ("tcp", Protocol::Tcp),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{selector: {{app: a}}, ports: [{{port: 80, appProtocol: {word}}}]}}\n"
        );
        let resource = &good(&text)[0];
        let Spec::Service(service) = &resource.spec else { panic!("no Service") };
        assert_eq!(service.ports[0].protocol, protocol, "{word}");
        assert_eq!(to_json(resource)["spec"]["ports"][0]["appProtocol"], word);
    }
}
