// SPDX-License-Identifier: Apache-2.0
//! Who is attacked. Peers run with the configuration that their packages bring, or with none where that means their
//! defaults; what had to be said so that they take 10,000 connections, HTTP/2 or TLS is said in a line of its own.

use super::super::byrnie::Mesh;
use super::super::envoy;
use super::super::peers::version;
use super::super::process::{Process, Side, Stage, free_port, is_on_path, loopback, wait_open, wait_well};
use super::rows::Entry;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Their names.
pub(super) const NAMES: [&str; 4] = ["byrnie", "haproxy", "nginx", "envoy"];

/// How long an answer of a small program may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The program behind the proxies.
pub(super) struct App {
    pub(super) address: SocketAddr,
    _process: Process,
}

impl App {
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let address = loopback(free_port()?);
        let process = stage.tool(Side::Load, "attacks-app", &["app", &format!("listen={address}")])?;
        wait_well("the app", address)?;
        Ok(Self { address, _process: process })
    }

    /// Requests of attackers that it saw.
    pub(super) fn counted(&self) -> Result<u64> {
        Ok(ask(self.address, "/count")?.trim().parse()?)
    }
}

/// The body of a small answer.
fn ask(address: SocketAddr, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    write!(socket, "GET {path} HTTP/1.1\r\nhost: app\r\n\r\n")?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let read = socket.read(&mut chunk)?;
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            anyhow::ensure!(read > 0, "no answer to {path}");
            continue;
        };
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let length = lines.clone().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        match length.and_then(|(_, value)| value.parse().ok()) {
            Some(length) if body.len() >= length => return Ok(body.to_owned()),
            _ if read == 0 => return Ok(body.to_owned()),
            _ => {}
        }
    }
}

/// One that runs.
pub(super) struct Subject {
    pub(super) version: String,
    /// Where the good client enters, and attackers by HTTP/1.
    pub(super) entry: SocketAddr,
    pub(super) http2: SocketAddr,
    pub(super) secure: Option<SocketAddr>,
    /// That of the entry first.
    pub(super) proxies: Vec<Process>,
    admin: Option<SocketAddr>,
    _beside: Vec<Process>,
}

impl Subject {
    /// `None`: it isn't on this machine.
    pub(super) fn start(stage: &Stage, name: &'static str, app: &App, attacked: Entry) -> Result<Option<Self>> {
        let there = match name {
            "byrnie" => return mesh(stage, app, attacked).map(Some),
            "envoy" => envoy::binary().is_some(),
            name => is_on_path(name),
        };
        if !there {
            return Ok(None);
        }
        let ports = Ports { http1: free()?, http2: free()?, tls: free()? };
        let log = format!("attacks-{name}");
        let proxy = match name {
            "haproxy" => {
                let file = stage.write("attacks-haproxy.cfg", &haproxy(stage, &ports, app.address))?;
                stage.start(Side::Proxy, &log, name, &["-db", "-f", &file.to_string_lossy()])?
            }
            "nginx" => {
                let file = stage.write("attacks-nginx.conf", &nginx(stage, &ports, app.address))?;
                let (prefix, file) = (stage.dir.to_string_lossy(), file.to_string_lossy());
                stage.start(Side::Proxy, &log, name, &["-p", &prefix, "-e", "stderr", "-c", &file])?
            }
            _ => {
                let file = stage.write("attacks-envoy.json", &bootstrap(stage, &ports, app.address).to_string())?;
                let binary = envoy::binary().context("ENVOY_BIN isn't set")?;
                let file = file.to_string_lossy();
                let args = ["-c", &*file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
                stage.start(Side::Proxy, &log, binary, &args)?
            }
        };
        wait_well(name, ports.http1)?;
        wait_open(name, ports.tls)?;
        let subject = Self {
            version: version(name),
            entry: ports.http1,
            http2: ports.http2,
            secure: Some(ports.tls),
            proxies: vec![proxy],
            admin: None,
            _beside: Vec::new(),
        };
        Ok(Some(subject))
    }

    /// Lines and bytes of its metrics, if it has any.
    pub(super) fn series(&self) -> Option<(usize, usize)> {
        let text = ask(self.admin?, "/metrics").ok()?;
        Some((text.lines().filter(|line| !line.starts_with('#')).count(), text.len()))
    }
}

fn free() -> Result<SocketAddr> {
    Ok(loopback(free_port()?))
}

/// A mesh of one app and one caller. Of handshakes the callee's sidecar is the victim.
fn mesh(stage: &Stage, app: &App, attacked: Entry) -> Result<Subject> {
    let (mesh, version) = Mesh::new(stage, "mesh-attacks")?;
    let up = mesh.up(stage, Side::Load, "attacks-up", &[])?;
    let callee = mesh.serve(stage, "attacks-b", "app", app.address)?;
    mesh.allow(stage, "web", "app")?;
    let (caller, entries) = mesh.caller(stage, "attacks-a", &["app"], app.address)?;
    wait_well("byrnie", entries[0])?;
    let place = |service: &str, what: &str| -> Result<SocketAddr> {
        let workloads: Value = serde_json::from_str(&mesh.ask(stage, &["get", "workloads", "-o", "json"])?)?;
        let all = workloads.as_array().context("no workloads")?;
        let found = all.iter().find(|workload| workload["metadata"]["labels"]["app"] == service);
        let address = found.and_then(|workload| workload["spec"][what].as_str()).context("no such workload")?;
        Ok(address.parse()?)
    };
    let (secure, admin) = (place("app", "inbound")?, place("web", "admin")?);
    let proxies = if attacked == Entry::Tls { vec![callee, caller] } else { vec![caller, callee] };
    let entry = entries[0];
    Ok(Subject { version, entry, http2: entry, secure: Some(secure), proxies, admin: Some(admin), _beside: vec![up] })
}

/// Where a peer listens.
struct Ports {
    http1: SocketAddr,
    http2: SocketAddr,
    tls: SocketAddr,
}

/// The time-outs are those of Debian's `haproxy.cfg`: without any it warns and waits for ever.
fn haproxy(stage: &Stage, ports: &Ports, app: SocketAddr) -> String {
    let (pki, Ports { http1, http2, tls }) = (stage.pki.display(), ports);
    format!(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5000\n  timeout client 50000\n  \
         timeout server 50000\nfrontend in\n  bind {http1}\n  bind {http2} proto h2\n  bind {tls} ssl crt {pki}/app.pem\n  \
         default_backend next\nbackend next\n  server app {app}\n"
    )
}

/// Debian's own file has 768 connections for each worker. Answers that nobody reads it would keep in files, a gigabyte each: not on
/// this machine's disk.
fn nginx(stage: &Stage, ports: &Ports, app: SocketAddr) -> String {
    let (pki, Ports { http1, http2, tls }) = (stage.pki.display(), ports);
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {};\n", stage.dir.join("temp").display()))
        .concat();
    format!(
        "daemon off;\nworker_processes 1;\nerror_log stderr crit;\npid attacks-nginx.pid;\n\
         worker_rlimit_nofile 20000;\nevents {{ worker_connections 19900; }}\nhttp {{\n{temporary}  access_log off;\n  \
         server {{\n    listen {http1};\n    listen {http2} http2;\n    listen {tls} ssl;\n    \
         ssl_certificate {pki}/app.crt;\n    ssl_certificate_key {pki}/app.key;\n    \
         location / {{ proxy_pass http://{app}; proxy_max_temp_file_size 0; }}\n  }}\n}}\n"
    )
}

fn bootstrap(stage: &Stage, ports: &Ports, app: SocketAddr) -> Value {
    const TYPES: &str = "type.googleapis.com/envoy.extensions";
    let manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes":
            [{"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")}}],
    });
    let listener = |name: &str, at: SocketAddr, tls: bool| {
        let mut chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
        if tls {
            let file = |end: &str| json!({"filename": stage.pki.join(format!("app.{end}")).to_string_lossy()});
            let certificates = json!([{"certificate_chain": file("crt"), "private_key": file("key")}]);
            chain["transport_socket"] = json!({"name": "tls", "typed_config": {
                "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {"tls_certificates": certificates}}});
        }
        json!({"name": name, "address": envoy::address(at), "filter_chains": [chain]})
    };
    let endpoint = json!({"endpoint": {"address": envoy::address(app)}});
    let cluster = json!({"name": "next", "type": "STATIC",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]}});
    let listeners =
        [listener("in", ports.http1, false), listener("in2", ports.http2, false), listener("tls", ports.tls, true)];
    json!({"static_resources": {"listeners": listeners, "clusters": [cluster]}})
}
