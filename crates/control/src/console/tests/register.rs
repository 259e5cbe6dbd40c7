// SPDX-License-Identifier: Apache-2.0
//! What is registered by address, and what isn't.

use super::{Console, ask, openapi, run};
use crate::ingest;
use byrnie_model::slice::ADDRESSES_MAX;
use byrnie_net::runtime;
use serde_json::{Value, json};
use std::sync::Arc;

/// As [`run`], with a catalog that follows the store.
fn follow(test: impl AsyncFnOnce(Console)) {
    run(async |console| {
        let watch = ingest::list(&console.state).await.unwrap();
        let following = runtime::spawn("ingest", ingest::follow(Arc::clone(&console.state), watch));
        test(console).await;
        following.abort();
    });
}

async fn register(console: &Console, body: &Value) -> (u16, Value) {
    ask(console, "POST", "/api/v1/register", &body.to_string()).await
}

#[test]
fn what_can_not_be_registered_is_refused_with_its_place() {
    follow(async |console| {
        let good = json!({"service": "legacy.shop", "address": "192.0.2.1", "port": 80, "locality": "eu/a"});
        for (field, value, place) in [
            ("address", json!("db.example"), "address"),
            ("address", json!("192.0.2.1:81"), "port"),
            ("address", json!("169.254.169.254"), ""),
            ("address", json!("0.0.0.0"), ""),
            ("port", Value::Null, "port"),
            ("port", json!(0), ""),
            ("port", json!(65_536), ""),
            ("service", json!("Legacy"), ""),
            ("service", json!("a/b"), ""),
            ("service", Value::Null, ""),
            ("namespace", json!("other"), "namespace"),
            ("servicePort", json!("web"), ""),
            ("servicePort", json!([]), "servicePort"),
            ("protocol", json!("mysql"), ""),
            ("locality", json!("/a"), "locality"),
            ("locality", json!("eu/a/b"), "locality"),
            ("locality", json!("e u"), ""),
            ("ttlSeconds", json!(0), "ttlSeconds"),
            ("ttlSeconds", json!(3601), "ttlSeconds"),
            ("ttlSeconds", json!(-1), ""),
            ("colour", json!("red"), ""),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let (status, problem) = register(&console, &bad).await;
            assert_eq!((status, &problem["code"]), (400, &json!("BYR-S040")), "{bad}: {problem}");
            assert_eq!(problem["where"], place, "{bad}: {problem}");
        }
        for id in ["legacy", "legacy.shop", "a.b.c", "%2e"] {
            let (status, problem) = ask(&console, "PUT", &format!("/api/v1/register/{id}/heartbeat"), "").await;
            assert_eq!(status, 404, "{id}: {problem}");
        }
        assert_eq!(ask(&console, "PUT", "/api/v1/register/a.b/heartbeat", "{\"health\": \"fine\"}").await.0, 400);
        let (_, all) = ask(&console, "GET", "/api/v1/resources?kind=Service", "").await;
        assert_eq!(all, json!([]), "nothing of it was written");
        let (status, registered) = register(&console, &good).await;
        assert_eq!((status, &registered["namespace"]), (201, &json!("shop")), "{registered}");
    });
}

#[test]
fn the_name_of_a_pool_is_no_other_services() {
    follow(async |console| {
        let pool = "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: models}\nspec: \
                    {selector: {matchLabels: {app: vllm}}, targetPorts: [{number: 8000}]}\n";
        let (status, applied) = ask(&console, "POST", "/api/v1/apply", pool).await;
        assert_eq!(status, 200, "{applied}");
        let own = json!({"service": "models", "address": "192.0.2.1", "port": 80});
        let (status, problem) = register(&console, &own).await;
        assert_eq!((status, &problem["code"]), (409, &json!("BYR-C030")), "{problem}");
        assert!(problem.to_string().contains("InferencePool"), "{problem}");
    });
}

#[test]
fn an_address_serves_the_port_that_it_is_registered_for() {
    follow(async |console| {
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: legacy}\nspec: {ports: [{name: web, port: 80, \
                       appProtocol: http}, {name: sql, port: 5432, appProtocol: tcp}]}\n";
        assert_eq!(ask(&console, "POST", "/api/v1/apply", service).await.0, 200);
        let at = |more: Value| {
            let mut body = json!({"name": "legacy", "address": "2001:db8::1", "port": 9000});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        assert_eq!(register(&console, &at(json!({}))).await.0, 400, "it has two");
        let (status, problem) = register(&console, &at(json!({"servicePort": "web", "protocol": "tcp"}))).await;
        assert_eq!((status, &problem["code"]), (409, &json!("BYR-C030")), "{problem}");
        for (port, name) in [(json!("sql"), "sql"), (json!(80), "web")] {
            let (_, registered) = register(&console, &at(json!({"servicePort": port}))).await;
            let path = format!("/api/v1/resources/{}", registered["resource"].as_str().unwrap());
            let (_, slice) = ask(&console, "GET", &path, "").await;
            assert_eq!((&slice["ports"][0]["name"], &slice["addressType"]), (&json!(name), &json!("IPv6")), "{slice}");
        }
        // What has the operation's shape in the description has it in truth.
        let (_, document) = ask(&console, "GET", "/openapi.json", "").await;
        let (_, registered) = register(&console, &at(json!({"servicePort": 80}))).await;
        let schema = &document["paths"]["/api/v1/register"]["post"]["responses"]["200"]["content"]["application/json"];
        for name in schema["schema"]["required"].as_array().unwrap() {
            assert!(registered.get(name.as_str().unwrap()).is_some(), "{name}: {registered}");
        }
        assert_eq!(openapi::methods(&["register", "x", "heartbeat"]), "PUT");
    });
}

#[test]
fn a_slice_of_an_operators_own_is_left_alone_and_a_service_takes_no_more_addresses_than_are_used() {
    follow(async |console| {
        let slice = |name: &str, count: usize| {
            let endpoints: Vec<String> =
                (0..count).map(|n| format!("{{addresses: [10.{}.{}.1]}}", n / 250, n % 250)).collect();
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: \
                 legacy}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{}]\n",
                endpoints.join(", ")
            )
        };
        let own = json!({"service": "legacy", "address": "192.0.2.1", "port": 80});
        assert_eq!(ask(&console, "POST", "/api/v1/apply", &slice("legacy-192-0-2-1-80", 1)).await.0, 200);
        let (status, problem) = register(&console, &own).await;
        assert_eq!((status, &problem["code"]), (409, &json!("BYR-C030")), "{problem}");
        let (status, problem) =
            ask(&console, "PUT", "/api/v1/register/legacy-192-0-2-1-80.default/heartbeat", "").await;
        assert_eq!((status, &problem["code"]), (404, &json!("BYR-S043")), "{problem}");
        ask(&console, "DELETE", "/api/v1/resources/endpointslice/default/legacy-192-0-2-1-80", "").await;

        let (status, registered) = register(&console, &own).await;
        assert_eq!(status, 201, "{registered}");
        let many: Vec<String> = (0..ADDRESSES_MAX / 1000)
            .map(|n| slice(&format!("many-{n}"), 1000).replace("[10.", &format!("[1{n}.")))
            .collect();
        let (status, applied) = ask(&console, "POST", "/api/v1/apply", &many.join("---\n")).await;
        assert_eq!(status, 200, "{applied}");
        ingest::list(&console.state).await.unwrap();
        // The one that is there may go on; a newcomer would get no calls.
        assert_eq!(register(&console, &own).await.0, 200);
        let newcomer = json!({"service": "legacy", "address": "192.0.2.2", "port": 80});
        let (status, problem) = register(&console, &newcomer).await;
        assert_eq!((status, &problem["code"]), (409, &json!("BYR-S044")), "{problem}");
    });
}
