// SPDX-License-Identifier: Apache-2.0
//! Questions about a small shop: web may POST to payments, refunds may not.

use super::{Answer, Puzzle, Question, ask, past};
use byrnie_base::{Now, Text};
use byrnie_catalog::Catalog;
use byrnie_model::yaml::{Defaults, parse};
use byrnie_model::{Change, Record, Revision};
use std::sync::Arc;

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: payments}
spec: {selector: {app: payments}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Workload
metadata: {name: payments-1, labels: {app: payments}}
spec: {address: 127.0.0.1, serviceAccount: payments, ports: [{port: 8080}], inbound: "127.0.0.1:9001"}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Workload
metadata: {name: web-1, labels: {app: web}}
spec: {address: 127.0.0.1, serviceAccount: web, ports: [{port: 8081}], inbound: "127.0.0.1:9002"}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Workload
metadata: {name: refunds-1, labels: {app: refunds}}
spec: {address: 127.0.0.1, serviceAccount: refunds, ports: [{port: 8082}], inbound: "127.0.0.1:9003"}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: AccessPolicy
metadata: {name: payments}
spec:
  targetRefs: [{group: "", kind: Service, name: payments}]
  action: ALLOW
  rules:
  - sources: [{type: ServiceAccount, serviceAccount: {name: web}}]
    http: [{methods: [POST], paths: [/charge]}, {methods: [POST], paths: [/closed]}]
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: AccessPolicy
metadata: {name: closed}
spec:
  targetRefs: [{group: "", kind: Service, name: payments}]
  action: DENY
  rules: [{http: [{paths: [/closed]}]}]
"#;

fn check(request: &str, from: &str) -> Result<Answer, Puzzle> {
    let parsed = parse("shop.yaml", SHOP, &Defaults::default());
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let mut catalog = Catalog::new();
    for document in parsed.documents {
        catalog.apply(&Change::Put(Arc::new(document.resource)));
    }
    let (method, path) = request.split_once(' ').unwrap();
    let question = Question {
        method: method.into(),
        scheme: "http".into(),
        authority: "payments".into(),
        path: path.into(),
        headers: vec![],
        from: from.into(),
        namespace: "default".into(),
    };
    ask(&catalog, &Text::from("mesh.local"), &question, Revision(1), Now::default())
}

#[test]
fn what_a_policy_allows_is_allowed_and_says_by_which_rule() {
    let answer = check("POST /charge", "web").unwrap();
    assert_eq!(answer.decision, "allow", "{answer:#?}");
    assert!(answer.steps.iter().any(|step| step.place == "AccessPolicy/default/payments"), "{answer:#?}");
    assert_eq!(answer.next, "");
}

#[test]
fn what_no_policy_allows_is_denied_and_says_how_to_allow_it() {
    let answer = check("GET /charge", "web-1").unwrap();
    assert_eq!((answer.decision.as_str(), answer.status), ("deny", 403), "{answer:#?}");
    assert!(!answer.nearest.is_empty() && answer.code == "BYR-R001", "{answer:#?}");
    let answer = check("POST /charge", "refunds").unwrap();
    assert_eq!(answer.decision, "deny", "{answer:#?}");
    assert_eq!(answer.next, "byrnie allow refunds payments \"POST /charge\"");
}

#[test]
fn what_a_policy_denies_is_not_to_be_had_by_allowing_it() {
    let answer = check("POST /closed", "web").unwrap();
    assert_eq!(answer.decision, "deny", "{answer:#?}");
    let next = "`byrnie get accesspolicy closed -n default` shows what denies it; no `byrnie allow` outweighs that";
    assert_eq!(answer.next, next);
    let text = r#"{"id":"k3f9","at":1,"proxy":"default/payments-1","direction":"inbound","request":{"protocol":"http/1.1",
        "method":"POST","host":"payments","path":"/closed"},"source":"spiffe://mesh.local/ns/default/sa/web",
        "destination":"payments.default","decision":{"code":"BYR-R001","reason":"access_denied","route":"",
        "rule":"default/closed[0]","nearest":"","revision":3},"attempts":[],"status":403,"durationUs":72}"#;
    assert_eq!(past(&serde_json::from_str::<Record>(text).unwrap(), "web").next, next);
}

#[test]
fn a_caller_that_is_not_there_is_guessed() {
    assert_eq!(check("GET /", "refund"), Err(Puzzle::NoCaller(Some("refunds".into()))));
}

#[test]
fn a_record_tells_whose_failure_it_was() {
    let text = r#"{"id":"k3f9","at":1,"proxy":"default/web-1","direction":"outbound","request":{"protocol":"http/1.1",
        "method":"POST","host":"payments","path":"/charge"},"source":"spiffe://mesh.local/ns/default/sa/web",
        "destination":"payments.default","decision":{"code":"","reason":"","route":"default","rule":"","nearest":"","revision":3},
        "attempts":[{"endpoint":"payments-1","address":"127.0.0.1:9001","outcome":"status 503","durationUs":71000}],
        "status":503,"durationUs":72000}"#;
    let answer = past(&serde_json::from_str::<Record>(text).unwrap(), "web");
    assert_eq!((answer.decision.as_str(), answer.status), ("fail", 503));
    assert!(answer.steps.iter().any(|step| step.detail.contains("the program itself")), "{answer:#?}");
    // What the other proxy says of its own is not the program's.
    let text = text.replace(r#""nearest":"","#, r#""nearest":"","peer":"m8q2","#);
    let answer = past(&serde_json::from_str::<Record>(&text).unwrap(), "web");
    assert_eq!((answer.decision.as_str(), answer.status), ("fail", 503));
    assert!(
        answer.steps.iter().any(|step| step.detail.contains("the proxy of payments-1 answered, not its program: 503"))
    );
    assert!(answer.next.starts_with("byrnie explain m8q2"), "{answer:#?}");
}

/// A denied one is closed as one that broke off is: there is no answer that could say why.
#[test]
fn a_connection_that_was_closed_has_no_answer() {
    let text = r#"{"id":"k3f9","at":1,"proxy":"default/web-1","direction":"outbound","request":{"protocol":"tcp",
        "method":"","host":"","path":""},"source":"","destination":"db.default","decision":{"code":"BYR-R031",
        "reason":"upstream_reset","route":"default","rule":"","nearest":"","revision":3},
        "attempts":[{"endpoint":"db-1","address":"127.0.0.1:9001","outcome":"closed before an answer","durationUs":200}],
        "status":0,"durationUs":200}"#;
    let answer = past(&serde_json::from_str::<Record>(text).unwrap(), "web");
    let last = &answer.steps.last().unwrap().detail;
    assert_eq!(
        (answer.code.as_str(), last.as_str()),
        ("BYR-R031", "byrnie closed the connection (upstream_reset) after 0.2 ms")
    );
    assert!(answer.next.contains("explain \"tcp://db.default\" --from web"), "{}", answer.next);
}
