// SPDX-License-Identifier: Apache-2.0
//! Who is measured: byrnie without any policy, HAProxy with redispatch, Envoy as it comes and Envoy tuned.

use super::super::process::{Process, Side, Stage, free_port, is_on_path, loopback};
use super::super::{byrnie, envoy, peers};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Their names.
pub(super) const NAMES: [&str; 4] = ["byrnie", "haproxy", "envoy", "envoy-tuned"];

/// A proxy, or a mesh, with three endpoints behind.
pub(super) struct Subject {
    pub(super) entry: SocketAddr,
    pub(super) version: String,
    endpoints: Endpoints,
    /// What runs as long as the subject; dropped last.
    _beside: Vec<Process>,
}

/// What is killed.
enum Endpoints {
    /// A workload of the mesh each: its proxy and the program beside it.
    Mesh { mesh: byrnie::Shared, running: Vec<Option<Process>>, ports: Vec<u16> },
    /// A relay each, from its address to the origin's.
    Relays { running: Vec<Option<Process>>, pairs: Vec<(SocketAddr, SocketAddr)> },
}

impl Subject {
    /// `None`: it isn't on this machine.
    pub(super) fn start(stage: &Stage, name: &'static str, ports: &[u16]) -> Result<Option<Self>> {
        let there = match name {
            "byrnie" => return mesh(stage, ports).map(Some),
            "haproxy" => is_on_path("haproxy"),
            _ => envoy::binary().is_some(),
        };
        if !there {
            return Ok(None);
        }
        let mut pairs = Vec::new();
        for port in ports {
            pairs.push((loopback(free_port()?), loopback(*port)));
        }
        let entry = loopback(free_port()?);
        let relays: Vec<SocketAddr> = pairs.iter().map(|(relay, _)| *relay).collect();
        let proxy = match name {
            "haproxy" => {
                let file = stage.write("failover-haproxy.cfg", &haproxy(entry, &relays))?;
                stage.start(Side::Proxy, "failover-haproxy", "haproxy", &["-db", "-f", &file.to_string_lossy()])?
            }
            _ => {
                let file = stage
                    .write("failover-envoy.json", &bootstrap(entry, &relays, name == "envoy-tuned").to_string())?;
                let binary = envoy::binary().context("ENVOY_BIN isn't set")?;
                let file = file.to_string_lossy();
                let args = ["-c", &*file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
                stage.start(Side::Proxy, "failover-envoy", binary, &args)?
            }
        };
        let endpoints = Endpoints::Relays { running: ports.iter().map(|_| None).collect(), pairs };
        let version = peers::version(name.split('-').next().unwrap_or(name));
        let mut subject = Self { entry, version, endpoints, _beside: vec![proxy] };
        for at in 0..ports.len() {
            subject.revive(stage, at)?;
        }
        Ok(Some(subject))
    }

    /// Ends an endpoint without a word.
    pub(super) fn kill(&mut self, at: usize) -> Result<()> {
        match self.running().get_mut(at).and_then(Option::take) {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Sends an endpoint a signal.
    pub(super) fn signal(&mut self, at: usize, signal: &str) -> Result<()> {
        match self.running().get(at).and_then(Option::as_ref) {
            Some(process) => process.signal(signal),
            None => Ok(()),
        }
    }

    /// Starts an endpoint again.
    pub(super) fn revive(&mut self, stage: &Stage, at: usize) -> Result<()> {
        let process = match &self.endpoints {
            Endpoints::Mesh { mesh, ports, .. } => mesh.instance(stage, at, ports[at])?,
            Endpoints::Relays { pairs, .. } => {
                let (relay, origin) = (pairs[at].0.to_string(), pairs[at].1.to_string());
                stage.tool(
                    Side::Load,
                    &format!("failover-relay-{at}"),
                    &["relay", &format!("listen={relay}"), &format!("next={origin}")],
                )?
            }
        };
        self.running()[at] = Some(process);
        Ok(())
    }

    fn running(&mut self) -> &mut Vec<Option<Process>> {
        match &mut self.endpoints {
            Endpoints::Mesh { running, .. } | Endpoints::Relays { running, .. } => running,
        }
    }
}

fn mesh(stage: &Stage, ports: &[u16]) -> Result<Subject> {
    let (mesh, up) = byrnie::Shared::start(stage)?;
    let mut running = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        running.push(Some(mesh.instance(stage, at, *port)?));
    }
    let (caller, entry) = mesh.caller(stage, ports[0])?;
    let version = mesh.version.clone();
    let endpoints = Endpoints::Mesh { mesh, running, ports: ports.to_vec() };
    Ok(Subject { entry, version, endpoints, _beside: vec![caller, up] })
}

fn haproxy(entry: SocketAddr, servers: &[SocketAddr]) -> String {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 8192\n\
         defaults\n  mode http\n  retries 3\n  option redispatch\n  retry-on conn-failure empty-response response-timeout\n  \
         timeout connect 1s\n  timeout client 300s\n  timeout server 1s\n  http-reuse always\n\
         frontend in\n  bind {entry}\n  http-request disable-l7-retry if METH_POST\n  default_backend next\nbackend next\n  \
         balance roundrobin\n"
    );
    for (at, server) in servers.iter().enumerate() {
        writeln!(text, "  server s{at} {server}").ok();
    }
    text
}

fn bootstrap(entry: SocketAddr, servers: &[SocketAddr], tuned: bool) -> Value {
    const TYPES: &str = "type.googleapis.com/envoy.extensions";
    let endpoints: Vec<Value> =
        servers.iter().map(|server| json!({"endpoint": {"address": envoy::address(*server)}})).collect();
    let mut route = json!({"cluster": "next", "timeout": "0s", "retry_policy":
        {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 2}});
    let mut cluster = json!({"name": "next", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": endpoints}]}});
    if tuned {
        route["retry_policy"]["num_retries"] = json!(3);
        route["retry_policy"]["per_try_timeout"] = json!("1s");
        route["retry_policy"]["retry_host_predicate"] = json!([{"name": "previous", "typed_config":
            {"@type": format!("{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate")}}]);
        route["retry_policy"]["host_selection_retry_max_attempts"] = json!(5);
        cluster["circuit_breakers"] = json!({"thresholds": [{"max_retries": 1024, "max_connections": 8192,
            "max_pending_requests": 8192, "max_requests": 8192}]});
        cluster["outlier_detection"] = json!({"consecutive_local_origin_failure": 5,
            "split_external_local_origin_errors": true});
    }
    // A post is never sent again by a rule that asks for the method.
    let mut plain = route.clone();
    plain["retry_policy"] = json!({"retry_on": "connect-failure,refused-stream", "num_retries": 2});
    let post = json!({"match": {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]},
        "route": plain});
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in", "codec_type": "HTTP1",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [post, {"match": {"prefix": "/"}, "route": route}]}]},
        "http_filters": [{"name": "router",
            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")}}],
    });
    let chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
    let listener = json!({"name": "in", "address": envoy::address(entry), "filter_chains": [chain]});
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
}
