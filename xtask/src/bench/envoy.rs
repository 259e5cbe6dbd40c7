// SPDX-License-Identifier: Apache-2.0
//! Envoy as a peer, if `ENVOY_BIN` names its binary or one is on the path: a static bootstrap, one
//! worker, a router and nothing else.

use super::peers::{Role, SERVER_NAME, Tls, other_paths};
use super::process::{Stage, is_on_path};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The binary.
pub(super) fn binary() -> Option<PathBuf> {
    std::env::var_os("ENVOY_BIN").map(PathBuf::from).or_else(|| is_on_path("envoy").then(|| "envoy".into()))
}

/// How to start one.
pub(super) fn command(stage: &Stage, role: &Role) -> Result<(PathBuf, Vec<String>)> {
    let file = stage.write(&format!("{}.json", role.name), &bootstrap(role).to_string())?;
    let binary = binary().context("ENVOY_BIN isn't set")?;
    let file = file.to_string_lossy();
    let args = ["-c", &*file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
    Ok((binary, args.map(str::to_owned).to_vec()))
}

fn bootstrap(role: &Role) -> Value {
    let routes = if role.edits {
        let other =
            |path: String| json!({"match": {"path_separated_prefix": path}, "direct_response": {"status": 404}});
        let header = json!({"name": "cache-control", "string_match": {"exact": "no-cache"}});
        let mut last =
            json!({"match": {"prefix": "/b/", "headers": [header]}, "route": {"cluster": "next", "timeout": "0s"}});
        edit(&mut last);
        other_paths().map(other).chain([last]).collect()
    } else {
        vec![json!({"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}})]
    };
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in", "codec_type": if role.http2.is_down() { "HTTP2" } else { "HTTP1" },
        "generate_request_id": role.edits, "use_remote_address": role.edits,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config":
            {"@type": format!("{TYPES}.filters.http.router.v3.Router"), "suppress_envoy_headers": true}}],
    });
    let opaque = json!({"@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "in", "cluster": "next"});
    let mut chain = json!({"filters": [{"name": "in", "typed_config": if role.opaque { opaque } else { manager }}]});
    let endpoints: Vec<Value> = role.next.iter().map(|next| json!({"endpoint": {"address": address(*next)}})).collect();
    let mut cluster = json!({
        "name": "next", "type": "STATIC", "connect_timeout": "5s",
        "lb_policy": if role.next.len() > 1 { "LEAST_REQUEST" } else { "ROUND_ROBIN" },
        "circuit_breakers": {"thresholds": [{"max_connections": 8192, "max_pending_requests": 8192,
            "max_requests": 8192}]},
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": endpoints}]},
    });
    if role.http2.is_up() {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {}}}});
    }
    match &role.tls {
        Tls::None => {}
        Tls::Upstream(pki) => cluster["transport_socket"] = upstream(pki, role.http2.is_up()),
        Tls::Downstream(pki) => chain["transport_socket"] = downstream(pki, role.http2.is_down()),
    }
    let listener = json!({"name": "in", "address": address(role.listen), "filter_chains": [chain],
        "tcp_backlog_size": 4096});
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
}

fn edit(route: &mut Value) {
    let line = |name: &str, value: &str, action: &str| json!({"header": {"key": name, "value": value}, "append_action": action});
    let set = |name: &str| line(name, "1", "OVERWRITE_IF_EXISTS_OR_ADD");
    let add = || line("x-added", "by the route", "APPEND_IF_EXISTS_OR_ADD");
    route["request_headers_to_add"] = json!([set("x-set"), add()]);
    route["request_headers_to_remove"] = json!(["referer"]);
    route["response_headers_to_add"] = json!([set("x-answered"), add()]);
    route["response_headers_to_remove"] = json!(["server"]);
}

pub(super) fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn upstream(pki: &Path, http2: bool) -> Value {
    let mut context = context(pki, "web", http2);
    let name = json!([{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}]);
    context["validation_context"]["match_typed_subject_alt_names"] = name;
    let kind = format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext");
    let typed = json!({"@type": kind, "sni": SERVER_NAME, "max_session_keys": 0, "common_tls_context": context});
    json!({"name": "tls", "typed_config": typed})
}

fn downstream(pki: &Path, http2: bool) -> Value {
    let kind = format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext");
    let context = context(pki, "app", http2);
    let typed = json!({"@type": kind, "require_client_certificate": true, "common_tls_context": context,
        "disable_stateless_session_resumption": true, "disable_stateful_session_resumption": true});
    json!({"name": "tls", "typed_config": typed})
}

fn context(pki: &Path, who: &str, http2: bool) -> Value {
    let file = |name: String| json!({"filename": pki.join(name).to_string_lossy()});
    json!({
        // The same key exchange as byrnie's.
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519MLKEM768", "X25519"]},
        "tls_certificates": [{"certificate_chain": file(format!("{who}.crt")),
            "private_key": file(format!("{who}.key"))}],
        "validation_context": {"trusted_ca": file("ca.crt".to_owned())},
        "alpn_protocols": if http2 { json!(["h2"]) } else { json!([]) },
    })
}
