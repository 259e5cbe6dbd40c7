// SPDX-License-Identifier: Apache-2.0
//! Envoy as a peer, if `ENVOY` names its binary: a static bootstrap, one worker, a router and nothing
//! else.

use super::peers::{Role, Tls};
use super::pki::SERVER_NAME;
use super::process::{Process, Side, Stage};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The binary that `ENVOY` names.
pub(super) fn binary() -> Option<OsString> {
    std::env::var_os("ENVOY")
}

/// Starts one.
pub(super) fn start(stage: &Stage, role: Role<'_>) -> Result<Process> {
    let file = stage.write(&format!("{}.json", role.name), &bootstrap(role).to_string())?;
    let binary = binary().context("ENVOY isn't set")?;
    let file = file.to_string_lossy();
    let args = ["-c", &*file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
    stage.start(Side::Proxy, role.name, binary, &args)
}

fn bootstrap(role: Role<'_>) -> Value {
    let Role { listen, next, tls, .. } = role;
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in", "codec_type": "HTTP1", "generate_request_id": false,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "router",
            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")}}],
    });
    let mut chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
    let mut cluster = json!({
        "name": "next", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": 8192, "max_pending_requests": 8192,
            "max_requests": 8192}]},
        "load_assignment": {"cluster_name": "next",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(next)}}]}]},
    });
    match tls {
        Tls::None => {}
        Tls::Upstream(pki) => cluster["transport_socket"] = upstream(pki),
        Tls::Downstream(pki) => chain["transport_socket"] = downstream(pki),
    }
    let listener = json!({"name": "in", "address": address(listen), "filter_chains": [chain]});
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
}

pub(super) fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn upstream(pki: &Path) -> Value {
    let mut context = context(pki, "client");
    let name = json!([{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}]);
    context["validation_context"]["match_typed_subject_alt_names"] = name;
    let kind = format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext");
    let typed = json!({"@type": kind, "sni": SERVER_NAME, "common_tls_context": context});
    json!({"name": "tls", "typed_config": typed})
}

fn downstream(pki: &Path) -> Value {
    let kind = format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext");
    let context = context(pki, "server");
    let typed = json!({"@type": kind, "require_client_certificate": true, "common_tls_context": context});
    json!({"name": "tls", "typed_config": typed})
}

fn context(pki: &Path, who: &str) -> Value {
    let file = |name: String| json!({"filename": pki.join(name).to_string_lossy()});
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file(format!("{who}.crt")),
            "private_key": file(format!("{who}.key"))}],
        "validation_context": {"trusted_ca": file("ca.crt".to_owned())},
    })
}
