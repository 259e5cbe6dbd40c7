// SPDX-License-Identifier: Apache-2.0
//! The API as a client sees it, over a store in memory.

mod register;

use super::{Asset, Console, answer, openapi};
use crate::access::Operator;
use crate::{State, ingest};
use byrnie_base::clock::SystemClock;
use byrnie_net::runtime;
use byrnie_net::serve::{HeaderMap, HeaderValue, Method, Request};
use bytes::Bytes;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {selector: {app: cart}, ports: [{port: 80}]}\n";

fn console() -> Console {
    let store = Arc::new(
        byrnie_store::Memory::open(&byrnie_store::disk::RamDisk::new(), Arc::new(SystemClock::new())).unwrap(),
    );
    let state = Arc::new(State::new(store, Arc::new(SystemClock::new()), "mesh.local".into()));
    let assets = Arc::new(|path: &str| {
        (path == "index.html").then(|| Asset { mime: "text/html", bytes: Bytes::from_static(b"<!doctype html>") })
    });
    Console::new(state, Operator::new(TOKEN, vec![]), assets)
}

async fn ask(console: &Console, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.to_owned())));
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("localhost:7777"));
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap());
    let request = Request {
        method: method.parse::<Method>().unwrap(),
        path: path.to_owned(),
        query,
        headers,
        body: Bytes::copy_from_slice(body.as_bytes()),
        remote: SocketAddr::from(([127, 0, 0, 1], 1)),
    };
    read(answer(console, request).await)
}

fn read(response: byrnie_net::serve::Response) -> (u16, Value) {
    let body = response.body.bytes().cloned().unwrap_or_default();
    let value = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
    (response.status.as_u16(), value)
}

/// With a catalog that follows the store, as ever: what was written is there for whoever asks next.
fn run(test: impl AsyncFnOnce(Console)) {
    runtime::block_on(async {
        let console = console();
        let watch = ingest::list(&console.state).await.unwrap();
        let _follows = runtime::spawn("ingest", ingest::follow(Arc::clone(&console.state), watch));
        test(console).await;
    })
    .unwrap();
}

#[test]
fn what_is_applied_can_be_read_undone_and_deleted() {
    run(async |console| {
        let (status, applied) = ask(&console, "POST", "/api/v1/apply", SERVICE).await;
        assert_eq!((status, &applied["results"][0]["action"]), (200, &json!("created")), "{applied}");
        let (status, read) = ask(&console, "GET", "/api/v1/resources/svc/default/cart", "").await;
        assert_eq!((status, &read["metadata"]["name"]), (200, &json!("cart")), "{read}");
        let (_, dry) = ask(&console, "POST", "/api/v1/apply?dryRun=true", SERVICE).await;
        assert_eq!((&dry["dryRun"], &dry["results"][0]["action"]), (&json!(true), &json!("unchanged")));
        let (status, undone) = ask(&console, "POST", "/api/v1/undo", "").await;
        assert_eq!((status, &undone["results"][0]["action"]), (200, &json!("deleted")), "{undone}");
        let (status, gone) = ask(&console, "GET", "/api/v1/resources/svc/default/cart", "").await;
        assert_eq!((status, &gone["code"]), (404, &json!("BYR-C037")).clone(), "{gone}");
        let (_, revisions) = ask(&console, "GET", "/api/v1/revisions", "").await;
        assert_eq!(revisions.as_array().unwrap().len(), 2, "{revisions}");
    });
}

/// Who reads, thinks and writes may say when it has read.
#[test]
fn what_somebody_has_written_meanwhile_is_not_overwritten() {
    run(async |console| {
        let service = |name: &str, port: u16| {
            let spec = json!({"selector": {"app": name}, "ports": [{"port": port}]});
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
        };
        let write = async |document: &Value, query: &str| {
            let (status, said) = ask(&console, "POST", &format!("/api/v1/apply{query}"), &document.to_string()).await;
            (status, said)
        };
        let port = async |name: &str| {
            let (_, read) = ask(&console, "GET", &format!("/api/v1/resources/svc/default/{name}"), "").await;
            read["spec"]["ports"][0]["port"].clone()
        };
        let revision = write(&service("cart", 80), "").await.1["revision"].clone();
        let since = format!("?since={revision}");
        // As it was: it's written, once.
        assert_eq!(write(&service("cart", 81), &since).await.0, 200);
        for document in [service("cart", 82), json!([service("other", 80), service("cart", 82)])] {
            let (status, said) = write(&document, &since).await;
            assert_eq!((status, &said["code"]), (409, &json!("BYR-C032")), "{said}");
            assert_eq!((port("cart").await, port("other").await), (json!(81), Value::Null), "all or none");
        }
        let gone = format!("/api/v1/resources/svc/default/cart{since}");
        let (status, said) = ask(&console, "DELETE", &gone, "").await;
        assert_eq!((status, &said["code"], port("cart").await), (409, &json!("BYR-C032"), json!(81)), "{said}");
        // What wasn't there is made, unless somebody has made it, or made and deleted it, since.
        assert_eq!(write(&service("fresh", 80), &since).await.0, 200);
        assert_eq!(write(&service("fresh", 81), &since).await.1["code"], "BYR-C032");
        let newest = write(&service("last", 80), "").await.1["revision"].clone();
        let gone = format!("/api/v1/resources/svc/default/fresh?since={newest}");
        assert_eq!(ask(&console, "DELETE", &gone, "").await.0, 200);
        let (status, said) = write(&service("fresh", 82), &format!("?since={newest}")).await;
        assert_eq!((status, &said["code"], port("fresh").await), (409, &json!("BYR-C032"), Value::Null), "{said}");
        let (status, said) = write(&service("cart", 83), "?since=yesterday").await;
        assert_eq!((status, &said["code"]), (400, &json!("BYR-S040")), "{said}");
    });
}

#[test]
fn a_bad_document_is_refused_with_its_place() {
    run(async |console| {
        let bad = SERVICE.replace("selector", "selectr");
        let (status, problem) = ask(&console, "POST", "/api/v1/apply?file=a.yaml", &bad).await;
        assert_eq!(status, 422, "{problem}");
        assert!(problem["where"].as_str().unwrap().starts_with("a.yaml:4:"), "{problem}");
        assert!(problem["diagnostics"][0]["code"].as_str().unwrap().starts_with("BYR-C"), "{problem}");
        let (status, found) = ask(&console, "POST", "/api/v1/lint", &bad).await;
        assert_eq!((status, found.as_array().unwrap().len()), (200, 1), "{found}");
    });
}

#[test]
fn without_token_or_from_afar_nothing_is_told() {
    run(async |console| {
        for (name, value, expected) in [
            ("authorization", "Bearer wrong", 401),
            ("host", "evil.example", 403),
            ("origin", "http://evil.example", 403),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_static("localhost:7777"));
            headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {TOKEN}")).unwrap());
            headers.insert(name, HeaderValue::from_static(value));
            let (method, path) = (Method::GET, "/api/v1/status".to_owned());
            let remote = SocketAddr::from(([127, 0, 0, 1], 1));
            let request = Request { method, path, query: None, headers, body: Bytes::new(), remote };
            let (status, problem) = read(answer(&console, request).await);
            assert_eq!(status, expected, "{name}: {problem}");
            assert!(problem["next"].as_str().is_some_and(|next| !next.is_empty()), "{problem}");
        }
    });
}

#[test]
fn every_operation_described_is_served() {
    run(async |console| {
        for (method, path, ..) in openapi::OPERATIONS {
            let path = format!("/api/v1{path}").replace("{kind}", "svc").replace("{namespace}", "default");
            let path = path.replace("{name}", "x").replace("{id}", "x");
            let (status, body) = ask(&console, &method.to_ascii_uppercase(), &path, "").await;
            assert!(!body["detail"].as_str().unwrap_or_default().starts_with("there is nothing at"), "{path}");
            assert_ne!(status, 405, "{path}");
        }
        let (_, document) = ask(&console, "GET", "/openapi.json", "").await;
        let named = |path: &str, method: &str| -> Vec<String> {
            let parameters = document["paths"][path][method]["parameters"].as_array().unwrap();
            parameters.iter().map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(named("/api/v1/resources/{kind}/{name}", "delete"), ["kind", "name", "user", "since"]);
        let namespaced = named("/api/v1/resources/{kind}/{namespace}/{name}", "delete");
        assert_eq!(namespaced, ["kind", "namespace", "name", "user", "since"]);
        for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/", "/service/cart"] {
            assert_eq!(ask(&console, "GET", path, "").await.0, 200, "{path}");
        }
        assert_eq!(ask(&console, "GET", "/assets/none.js", "").await.0, 404);
        assert_eq!(ask(&console, "GET", "/api/v1/stats?window=2h", "").await.0, 400);
    });
}

#[test]
fn what_makes_no_sense_has_a_code_and_a_wrong_method_the_right_ones() {
    run(async |console| {
        for (method, path, status, code) in [
            ("GET", "/api/v1/stats?window=2h", 400, "BYR-S040"),
            ("GET", "/api/v1/records?limit=x", 400, "BYR-S040"),
            ("GET", "/api/v1/nothing", 404, "BYR-S041"),
            ("GET", "/api/v1/apply", 405, "BYR-S042"),
            ("PATCH", "/api/v1/resources/svc/default/cart", 405, "BYR-S042"),
            ("POST", "/healthz", 405, "BYR-S042"),
        ] {
            let (answered, problem) = ask(&console, method, path, "").await;
            assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{method} {path}: {problem}");
            assert!(problem["next"].as_str().is_some_and(|next| !next.is_empty()), "{problem}");
        }
        assert_eq!(openapi::methods(&["apply"]), "POST");
        assert_eq!(openapi::methods(&["resources", "svc", "default", "cart"]), "GET, DELETE");
    });
}

#[test]
fn json_in_any_form_is_applied() {
    run(async |console| {
        let one = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string();
        let (a, b) = (one("a"), one("b"));
        for body in [format!("[{a},{b}]"), format!("{a}{b}"), format!("{a}\n{b}\n")] {
            let (status, applied) = ask(&console, "POST", "/api/v1/apply?dryRun=true", &body).await;
            assert_eq!((status, applied["results"].as_array().map(Vec::len)), (200, Some(2)), "{body}: {applied}");
        }
        let (status, problem) = ask(&console, "POST", "/api/v1/apply?file=a.json", &format!("{a}\n{}", one("B"))).await;
        assert_eq!((status, &problem["code"]), (422, &json!("BYR-C008")), "{problem}");
        assert!(problem["where"].as_str().unwrap().starts_with("a.json:2:"), "{problem}");
    });
}

/// The shapes that `/openapi.json` promises are those of what is answered.
#[test]
fn answers_have_the_shapes_that_are_described() {
    run(async |console| {
        ask(&console, "POST", "/api/v1/apply", SERVICE).await;
        let (_, document) = ask(&console, "GET", "/openapi.json", "").await;
        for path in ["/txn/v1", "/txn/v1/{id}/branches/{branch}:complete", "/api/dtmsvr/submit"] {
            assert!(document["paths"][path].is_object(), "{path}");
        }
        for (method, path, body) in [
            ("get", "/api/v1/status", ""),
            ("get", "/api/v1/resources", ""),
            ("get", "/api/v1/edges", ""),
            ("get", "/api/v1/stats", ""),
            ("get", "/api/v1/proxies", ""),
            ("post", "/api/v1/lint", SERVICE),
            ("post", "/api/v1/apply", SERVICE),
        ] {
            let schema = &document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"];
            let (_, answer) = ask(&console, &method.to_ascii_uppercase(), path, body).await;
            let (items, of) = match answer.as_array() {
                Some(items) => (items.clone(), &schema["items"]),
                None => (vec![answer], schema),
            };
            assert!(of["required"].is_array(), "{path}: {schema}");
            for (item, name) in
                items.iter().flat_map(|item| of["required"].as_array().unwrap().iter().map(move |n| (item, n)))
            {
                assert!(item.get(name.as_str().unwrap()).is_some(), "{method} {path} lacks {name}: {item}");
            }
        }
    });
}

#[test]
fn metrics_are_open_metrics_for_those_who_ask_for_it() {
    run(async |console| {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost:7777"));
        headers.insert("accept", HeaderValue::from_static("application/openmetrics-text; version=1.0.0"));
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        let path = "/metrics".to_owned();
        let request = Request { method: Method::GET, path, query: None, headers, body: Bytes::new(), remote };
        let response = answer(&console, request).await;
        let kind = response.headers["content-type"].to_str().unwrap();
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let (_, text) = read(response);
        let text = text.as_str().unwrap();
        assert!(
            text.contains("# TYPE byrnie_reports counter\nbyrnie_reports_total ") && text.ends_with("\n# EOF\n"),
            "{text}"
        );
    });
}

/// The codes of `status`, with where each is.
async fn warned(console: &Console) -> Vec<String> {
    let (_, status) = ask(console, "GET", "/api/v1/status", "").await;
    let line = |w: &Value| format!("{} {}", w["code"].as_str().unwrap(), w["where"].as_str().unwrap());
    status["warnings"].as_array().unwrap().iter().map(line).collect()
}

fn workload(health: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Workload\nmetadata: {{name: cart-1, labels: {{app: cart}}}}\n\
         spec: {{address: 127.0.0.1, serviceAccount: cart, inbound: '127.0.0.1:7001', ports: [{{port: 80}}]}}\n{health}"
    )
}

fn traffic(name: &str, says: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: cart}}], {says}}}\n"
    )
}

#[test]
fn a_service_that_answers_nobody_is_a_warning() {
    run(async |console| {
        let mesh = format!("{SERVICE}---\n{}", workload(""));
        ask(&console, "POST", "/api/v1/apply", &mesh).await;
        assert_eq!(warned(&console).await, [""; 0]);
        let (_, applied) =
            ask(&console, "POST", "/api/v1/apply", &traffic("t", "endpoints: {labels: {version: v9}}")).await;
        assert_eq!(applied["diagnostics"][0]["code"], "BYR-C076", "{applied}");
        assert_eq!(warned(&console).await, ["BYR-C076 TrafficPolicy/default/t"]);
        ask(&console, "DELETE", "/api/v1/resources/trafficpolicy/default/t", "").await;
        for health in ["Unhealthy", "Draining"] {
            ask(&console, "POST", "/api/v1/apply", &workload(&format!("status: {{health: {health}}}\n"))).await;
            assert_eq!(warned(&console).await, ["BYR-S032 Service/default/cart"], "{health}");
        }
        // As after the last one fell silent and was taken out.
        let (_, deleted) = ask(&console, "DELETE", "/api/v1/resources/workload/default/cart-1", "").await;
        assert_eq!(deleted["diagnostics"][0]["code"], "BYR-C017", "{deleted}");
        assert_eq!(warned(&console).await, ["BYR-C017 Service/default/cart"]);
    });
}

#[test]
fn a_policy_that_another_keeps_out_of_force_is_not_accepted() {
    run(async |console| {
        ask(&console, "POST", "/api/v1/apply", &format!("{SERVICE}---\n{}", workload(""))).await;
        let both = format!(
            "{}---\n{}",
            traffic("aa", "unsafeRetry: true, connectTimeout: 2s"),
            traffic("zz", "unsafeRetry: true")
        );
        ask(&console, "POST", "/api/v1/apply", &both).await;
        assert_eq!(warned(&console).await, ["BYR-C025 TrafficPolicy/default/zz"]);
        for (name, accepted, reason) in [("aa", true, "Accepted"), ("zz", false, "Conflicted")] {
            let (_, read) = ask(&console, "GET", &format!("/api/v1/resources/tp/default/{name}"), "").await;
            let status = &read["status"];
            assert_eq!(status["accepted"], accepted, "{status}");
            let condition = &status["ancestors"][0]["conditions"][0];
            assert_eq!(condition["reason"], reason, "{status}");
            assert!(condition["lastTransitionTime"].is_string(), "{status}");
        }
    });
}

const BANK: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: bank}\nspec: {type: ExternalName, externalName: \
                    api.bank.example, ports: [{port: 80, targetPort: 443}]}\n";
const BANK_TLS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: bank}\nspec:\n  \
                        targetRefs: [{group: '', kind: Service, name: bank}]\n  \
                        validation: {hostname: api.bank.example, wellKnownCACertificates: System}\n";

#[test]
fn what_is_wrong_once_a_change_is_taken_back_is_told_with_that() {
    run(async |console| {
        ask(&console, "POST", "/api/v1/apply", BANK).await;
        ask(&console, "POST", "/api/v1/apply", BANK_TLS).await;
        assert_eq!(warned(&console).await, [""; 0]);
        let (_, undone) = ask(&console, "POST", "/api/v1/undo", "").await;
        let told = &undone["diagnostics"];
        assert_eq!((told.as_array().unwrap().len(), &told[0]["code"]), (1, &json!("BYR-C064")), "{undone}");
        assert_eq!(warned(&console).await, ["BYR-C064 Service/default/bank"]);
        let (_, back) = ask(&console, "POST", "/api/v1/undo", "").await;
        assert_eq!(back["diagnostics"], json!([]), "all is well again: {back}");
        assert_eq!(back["undone"], undone["revision"], "{back}");
    });
}

#[test]
fn what_is_wrong_once_a_resource_is_gone_is_told_with_its_deletion() {
    run(async |console| {
        let (status, applied) = ask(&console, "POST", "/api/v1/apply", &format!("{BANK}---\n{BANK_TLS}")).await;
        assert_eq!((status, &applied["diagnostics"]), (200, &json!([])), "{applied}");
        assert_eq!(warned(&console).await, [""; 0]);
        let (_, deleted) = ask(&console, "DELETE", "/api/v1/resources/backendtlspolicy/default/bank", "").await;
        let told = &deleted["diagnostics"];
        assert_eq!((told.as_array().unwrap().len(), &told[0]["code"]), (1, &json!("BYR-C064")), "{deleted}");
        assert_eq!(warned(&console).await, ["BYR-C064 Service/default/bank"]);
        let (_, deleted) = ask(&console, "DELETE", "/api/v1/resources/svc/default/bank", "").await;
        assert_eq!(deleted["diagnostics"], json!([]), "what it ends is no news: {deleted}");
    });
}
