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
        &["dryRun", "namespace", "file", "user", "why", "since"],
        "application/yaml",
    ),
    ("post", "/undo", "Take back a change", &["revision", "user"], ""),
    ("get", "/resources", "List resources", &["kind", "namespace"], ""),
    ("get", "/resources/{kind}/{name}", "Read a resource of no namespace, or of `default`", &[], ""),
    (
        "delete",
        "/resources/{kind}/{name}",
        "Delete a resource of no namespace, or of `default`",
        &["user", "since"],
        "",
    ),
    ("get", "/resources/{kind}/{namespace}/{name}", "Read a resource", &[], ""),
    ("delete", "/resources/{kind}/{namespace}/{name}", "Delete a resource", &["user", "since"], ""),
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
    (
        "post",
        "/register",
        "Register the address of a program without a proxy, or keep it: service, address, port; namespace, servicePort, protocol, locality, ttlSeconds",
        &["user"],
        "application/json",
    ),
    ("put", "/register/{id}/heartbeat", "Keep an address, and tell its health", &[], "application/json"),
    ("delete", "/register/{id}", "Take an address out", &[], ""),
];

/// Those of transactions, which another role answers under the same port.
pub(super) const TRANSACTIONS: &[Operation] = &[
    ("get", "/txn/v1", "List transactions, newest first", &["state", "service", "creator", "since", "limit"], ""),
    ("get", "/txn/v1/audit", "Who changed what", &["limit"], ""),
    ("post", "/txn/v1/sagas", "Begin a saga, of branches or of a definition", &["wait"], "application/json"),
    ("post", "/txn/v1/messages", "Begin a message", &["prepare", "wait"], "application/json"),
    ("post", "/txn/v1/tcc", "Begin a TCC transaction", &["wait"], "application/json"),
    ("post", "/txn/v1/scopes", "Begin a scope", &["wait"], "application/json"),
    ("get", "/txn/v1/{id}", "One transaction", &[], ""),
    ("get", "/txn/v1/{id}/events", "Its history", &[], ""),
    (
        "post",
        "/txn/v1/{id}:{verb}",
        "Steer it: submit, confirm, close, cancel, abort, retry, skip or resolve",
        &["wait"],
        "application/json",
    ),
    ("post", "/txn/v1/{id}/branches", "Add a branch", &[], "application/json"),
    ("post", "/txn/v1/{id}/branches/{branch}:complete", "Tell how a branch ended", &[], "application/json"),
    ("get", "/api/dtmsvr/newGid", "dtm: an id", &[], ""),
    ("get", "/api/dtmsvr/version", "dtm: the version", &[], ""),
    ("get", "/api/dtmsvr/query", "dtm: one transaction", &["gid"], ""),
    (
        "get",
        "/api/dtmsvr/all",
        "dtm: transactions, newest first",
        &["gid", "position", "limit", "status", "transType", "createTimeStart", "createTimeEnd"],
        "",
    ),
    ("get", "/api/dtmsvr/resetCronTime", "dtm: call at once what waits or is stuck", &["timeout", "limit"], ""),
    ("post", "/api/dtmsvr/resetNextCronTime", "dtm: the same of one transaction", &[], "application/json"),
    ("post", "/api/dtmsvr/forceStop", "dtm: end one where it stands", &[], "application/json"),
    ("post", "/api/dtmsvr/prepare", "dtm: prepare", &[], "application/json"),
    ("post", "/api/dtmsvr/submit", "dtm: submit", &[], "application/json"),
    ("post", "/api/dtmsvr/abort", "dtm: abort", &[], "application/json"),
    ("post", "/api/dtmsvr/registerBranch", "dtm: add a branch", &[], "application/json"),
];

/// What an answer has at least: members of one object, or of each of a list, and their types.
type Shape = (&'static str, bool, &'static [(&'static str, &'static str)]);

/// A registration.
const REGISTERED: &[(&str, &str)] = &[
    ("id", "string"),
    ("resource", "string"),
    ("service", "string"),
    ("namespace", "string"),
    ("address", "string"),
    ("port", "integer"),
    ("health", "string"),
    ("ttlSeconds", "integer"),
    ("heartbeatSeconds", "number"),
];

/// The shapes of answers, by method and path. More members may follow.
const SHAPES: &[Shape] = &[
    (
        "get /api/v1/status",
        false,
        &[
            ("ok", "boolean"),
            ("warnings", "array"),
            ("proxies", "integer"),
            ("inSync", "integer"),
            ("revision", "integer"),
        ],
    ),
    (
        "get /api/v1/proxies",
        true,
        &[
            ("name", "string"),
            ("identity", "string"),
            ("revision", "integer"),
            ("inSync", "boolean"),
            ("admin", "string?"),
            ("inbound", "string?"),
        ],
    ),
    (
        "get /api/v1/edges",
        true,
        &[
            ("source", "string"),
            ("destination", "string"),
            ("tls", "string"),
            ("requests", "integer"),
            ("ok", "integer"),
        ],
    ),
    (
        "get /api/v1/stats",
        true,
        &[
            ("name", "string"),
            ("requests", "integer"),
            ("rps", "number"),
            ("okPercent", "number?"),
            ("p50Ms", "number?"),
            ("p99Ms", "number?"),
        ],
    ),
    (
        "post /api/v1/explain",
        false,
        &[
            ("decision", "string"),
            ("code", "string"),
            ("reason", "string"),
            ("steps", "array"),
            ("nearest", "string"),
            ("next", "string"),
        ],
    ),
    (
        "post /api/v1/lint",
        true,
        &[
            ("code", "string"),
            ("severity", "string"),
            ("file", "string"),
            ("line", "integer"),
            ("column", "integer"),
            ("message", "string"),
            ("fix", "string"),
        ],
    ),
    (
        "post /api/v1/apply",
        false,
        &[("revision", "integer"), ("dryRun", "boolean"), ("results", "array"), ("diagnostics", "array")],
    ),
    (
        "get /api/v1/resources",
        true,
        &[("apiVersion", "string"), ("kind", "string"), ("metadata", "object"), ("status", "object")],
    ),
    (
        "get /api/v1/records",
        true,
        &[("id", "string"), ("at", "integer"), ("proxy", "string"), ("direction", "string"), ("status", "integer")],
    ),
    (
        "get /api/v1/records/{id}",
        true,
        &[("id", "string"), ("at", "integer"), ("proxy", "string"), ("direction", "string"), ("status", "integer")],
    ),
    ("post /api/v1/register", false, REGISTERED),
    ("put /api/v1/register/{id}/heartbeat", false, REGISTERED),
    ("delete /api/v1/register/{id}", false, REGISTERED),
    ("get /txn/v1", true, &[("id", "string"), ("state", "string")]),
    (
        "get /txn/v1/{id}",
        false,
        &[
            ("id", "string"),
            ("mode", "string"),
            ("state", "string"),
            ("reason", "string"),
            ("creator", "string"),
            ("branches", "array"),
        ],
    ),
    ("post /txn/v1/sagas", false, &[("id", "string"), ("state", "string"), ("branches", "array")]),
];

/// The methods that a path under `/api/v1` has, as `Allow` says them; empty if there is nothing there.
pub(super) fn methods(path: &[&str]) -> String {
    let fits = |pattern: &str| {
        let pattern: Vec<&str> = pattern.split('/').skip(1).collect();
        pattern.len() == path.len() && pattern.iter().zip(path).all(|(of, is)| of.starts_with('{') || of == is)
    };
    let methods =
        OPERATIONS.iter().filter(|(_, pattern, ..)| fits(pattern)).map(|(method, ..)| method.to_ascii_uppercase());
    methods.collect::<Vec<_>>().join(", ")
}

/// The document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    let own = OPERATIONS.iter().map(|of| (format!("/api/v1{}", of.1), of));
    for (path, operation) in own.chain(TRANSACTIONS.iter().map(|of| (of.1.to_owned(), of))) {
        let made = self::operation(&path, operation);
        paths.entry(path).or_insert_with(|| json!({}))[operation.0] = made;
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

fn operation(path: &str, (method, _, summary, queries, body): &Operation) -> Value {
    let in_path = path.split('{').skip(1).filter_map(|part| part.split('}').next());
    let parameter = |name: &str, place: &str| json!({"name": name, "in": place, "required": place == "path", "schema": {"type": "string"}});
    let parameters: Vec<Value> = in_path
        .map(|name| parameter(name, "path"))
        .chain(queries.iter().map(|name| parameter(name, "query")))
        .collect();
    let media = if path.ends_with("/watch") { "text/event-stream" } else { "application/json" };
    let shape = SHAPES.iter().find(|(of, ..)| of.strip_prefix(method).is_some_and(|of| of[1..] == *path));
    let content = shape.map_or_else(|| json!({}), |shape| json!({"schema": schema(shape)}));
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "content": {media: content}},
            "default": {
                "description": "A problem",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    });
    if !body.is_empty() {
        operation["requestBody"] = json!({"content": {*body: {}}});
    }
    operation
}

/// A type with `?` may be null.
fn schema((_, is_list, members): &Shape) -> Value {
    let kind = |kind: &str| match kind.strip_suffix('?') {
        Some(kind) => json!({"type": [kind, "null"]}),
        None => json!({"type": kind}),
    };
    let properties: Map<_, _> = members.iter().map(|(name, of)| ((*name).to_owned(), kind(of))).collect();
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let object = json!({"type": "object", "required": names, "properties": properties});
    if *is_list { json!({"type": "array", "items": object}) } else { object }
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
