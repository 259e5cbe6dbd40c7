// SPDX-License-Identifier: Apache-2.0
//! `GET /openapi.json`: what the console serves, in OpenAPI 3.1. Written by hand beside the routes of
//! `answer`; a test holds the two together.

use serde_json::{Map, Value, json};

/// One operation: method, path, summary, query parameters, media type of the body (empty for none).
type Operation = (&'static str, &'static str, &'static str, &'static [&'static str], &'static str);

/// Every operation under `/api/v1`.
pub(super) const OPERATIONS: &[Operation] = &[
    (
        "post",
        "/apply",
        "Apply documents, all or none",
        &["dryRun", "namespace", "file", "user", "why"],
        "application/yaml",
    ),
    ("post", "/undo", "Take back a change", &["revision", "user"], ""),
    ("get", "/resources", "List resources", &["kind", "namespace"], ""),
    ("get", "/resources/{kind}/{namespace}/{name}", "Read a resource", &[], ""),
    ("delete", "/resources/{kind}/{namespace}/{name}", "Delete a resource", &[], ""),
    ("get", "/watch", "Revisions as server-sent events", &[], ""),
    ("get", "/status", "Whether all is well", &[], ""),
    ("get", "/workloads", "Running instances", &[], ""),
    ("get", "/services", "Services, their endpoints and what is attached to them", &[], ""),
    ("get", "/routes", "Routes", &[], ""),
    ("get", "/proxies", "Proxies and what they have", &[], ""),
    ("get", "/certificates", "Certificates in use", &[], ""),
    ("get", "/revisions", "Changes of configuration, newest first", &[], ""),
    ("get", "/edges", "Who calls whom", &["window"], ""),
    ("get", "/stats", "Golden metrics", &["by", "window", "service", "source", "seconds"], ""),
    ("get", "/records", "Recent decision records, newest first", &["status", "service", "failed", "limit"], ""),
    ("get", "/records/{id}", "One decision record", &[], ""),
    ("post", "/explain", "Why a request is treated as it is", &[], "application/json"),
    (
        "post",
        "/lint",
        "What is wrong with documents, or with what is in force",
        &["namespace", "file"],
        "application/yaml",
    ),
    ("get", "/tokens", "Join tokens that still hold", &[], ""),
    ("post", "/tokens", "Make a join token", &[], "application/json"),
];

/// The document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for (method, path, summary, queries, body) in OPERATIONS {
        let path_item = paths.entry(format!("/api/v1{path}")).or_insert_with(|| json!({}));
        path_item[*method] = operation(path, summary, queries, body);
    }
    for (path, summary) in [("/healthz", "Alive"), ("/readyz", "Ready"), ("/metrics", "Metrics of the control plane")] {
        paths.insert(
            path.to_owned(),
            json!({"get": {"summary": summary, "security": [], "responses": {"200": {"description": "OK"}}}}),
        );
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "byrnie console", "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "security": [{"bearer": []}, {"basic": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "Any user; the token as password."},
            },
            "schemas": {"Problem": problem()},
        },
    })
}

fn operation(path: &str, summary: &str, queries: &[&str], body: &str) -> Value {
    let in_path = path.split('{').skip(1).filter_map(|part| part.split('}').next());
    let parameter = |name: &str, place: &str| json!({"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}});
    let parameters: Vec<Value> = in_path
        .map(|name| parameter(name, "path"))
        .chain(queries.iter().map(|name| parameter(name, "query")))
        .collect();
    let media = if path == "/watch" { "text/event-stream" } else { "application/json" };
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "content": {media: {}}},
            "default": {
                "description": "A problem",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    });
    if !body.is_empty() {
        operation["requestBody"] = json!({"content": {body: {}}});
    }
    operation
}

fn problem() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["status", "code", "detail", "where", "next"],
        "properties": {
            "status": {"type": "integer"}, "title": text, "code": text, "detail": text, "where": text, "next": text,
            "diagnostics": {"type": "array", "items": {"type": "object"}},
        },
    })
}
