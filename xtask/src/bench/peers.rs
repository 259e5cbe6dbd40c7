// SPDX-License-Identifier: Apache-2.0
//! The peers: a bare relay as the floor, haproxy and nginx, each with one worker and the same TLS 1.3
//! cipher, both certificates verified, connections kept open on every hop.

use super::options::{Options, PEERS};
use super::pki::{self, SERVER_NAME};
use super::process::{Process, Side, Stage, free_port, is_on_path, loopback};
use super::round::Subject;
use super::{Workload, envoy};
use anyhow::{Result, bail};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// What a proxy is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role<'a> {
    pub(super) name: &'a str,
    pub(super) listen: SocketAddr,
    pub(super) next: SocketAddr,
    pub(super) tls: Tls<'a>,
}

/// Which side of a proxy is mTLS, and where its certificates are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tls<'a> {
    None,
    /// It asks its next hop for mTLS (A).
    Upstream(&'a Path),
    /// It asks its clients for mTLS (B).
    Downstream(&'a Path),
}

/// Starts every peer that was asked for, or that is there.
pub(super) fn start(stage: &Stage, options: &Options, workload: Workload, app: SocketAddr) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for name in PEERS {
        let (wanted, named) = options.wants(name);
        let there = match name {
            "relay" => true,
            "envoy" => envoy::binary().is_some(),
            _ => is_on_path(name),
        };
        match (wanted, there) {
            (true, true) => subjects.push(subject(stage, name, workload, app)?),
            (true, false) if named => bail!("{name} isn't here (PATH; for Envoy, ENVOY names its binary)"),
            (true, false) => eprintln!("skipped: {name} isn't here"),
            (false, _) => {}
        }
    }
    Ok(subjects)
}

fn subject(stage: &Stage, name: &'static str, workload: Workload, app: SocketAddr) -> Result<Subject> {
    let entry = loopback(free_port()?);
    let mut proxies = Vec::new();
    match workload {
        Workload::Http => {
            let role = Role { name: &format!("{name}-http"), listen: entry, next: app, tls: Tls::None };
            proxies.push(proxy(stage, name, role)?);
        }
        Workload::Mtls => {
            let (pki, middle) = (pki::make(stage)?, loopback(free_port()?));
            let (a, b) = (format!("{name}-a"), format!("{name}-b"));
            proxies.push(proxy(stage, name, Role { name: &a, listen: entry, next: middle, tls: Tls::Upstream(&pki) })?);
            proxies.push(proxy(stage, name, Role { name: &b, listen: middle, next: app, tls: Tls::Downstream(&pki) })?);
        }
    }
    Ok(Subject { name, version: version(name), entry, proxies, beside: Vec::new() })
}

fn proxy(stage: &Stage, peer: &str, role: Role<'_>) -> Result<Process> {
    match peer {
        "haproxy" => {
            let file = stage.write(&format!("{}.cfg", role.name), &haproxy(role))?;
            stage.start(Side::Proxy, role.name, "haproxy", &["-db", "-f", &file.to_string_lossy()])
        }
        "nginx" => {
            let file = stage.write(&format!("{}.conf", role.name), &nginx(&stage.dir, role))?;
            let prefix = stage.dir.to_string_lossy().into_owned();
            stage.start(
                Side::Proxy,
                role.name,
                "nginx",
                &["-p", &prefix, "-e", "stderr", "-c", &file.to_string_lossy()],
            )
        }
        "envoy" => envoy::start(stage, role),
        _ => {
            let (listen, next) = (role.listen.to_string(), role.next.to_string());
            stage.tool(Side::Proxy, role.name, &["bench-relay", &listen, &next])
        }
    }
}

fn haproxy(role: Role<'_>) -> String {
    let Role { listen, next, tls, .. } = role;
    let (bind, server) = match tls {
        Tls::None => (String::new(), String::new()),
        Tls::Upstream(pki) => {
            let pki = pki.display();
            let verify = format!("ca-file {pki}/ca.crt verify required verifyhost {SERVER_NAME}");
            (String::new(), format!("ssl crt {pki}/client.pem {verify} sni str({SERVER_NAME})"))
        }
        Tls::Downstream(pki) => {
            let pki = pki.display();
            (format!("ssl crt {pki}/server.pem ca-file {pki}/ca.crt verify required"), String::new())
        }
    };
    format!(
        "global\n  nbthread 1\n  maxconn 8192\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
         ssl-default-server-options ssl-min-ver TLSv1.3\n  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256\n  \
         ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  \
         timeout http-keep-alive 300s\n  http-reuse always\n\
         frontend in\n  bind {listen} {bind}\n  default_backend next\n\
         backend next\n  server next {next} pool-max-conn 1024 {server}\n"
    )
}

fn nginx(dir: &Path, role: Role<'_>) -> String {
    let Role { name, listen, next, tls } = role;
    let (flag, server, scheme, upstream) = match tls {
        Tls::None => ("", String::new(), "http", String::new()),
        Tls::Upstream(pki) => {
            let pki = pki.display();
            let verify = format!("proxy_ssl_verify on; proxy_ssl_trusted_certificate {pki}/ca.crt;");
            let who = format!("proxy_ssl_certificate {pki}/client.crt; proxy_ssl_certificate_key {pki}/client.key;");
            let what = format!("proxy_ssl_protocols TLSv1.3; proxy_ssl_server_name on; proxy_ssl_name {SERVER_NAME};");
            let cipher = "proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;";
            ("", String::new(), "https", format!("{verify} {who} {what} {cipher}"))
        }
        Tls::Downstream(pki) => {
            let pki = pki.display();
            let who = format!("ssl_certificate {pki}/server.crt; ssl_certificate_key {pki}/server.key;");
            let verify = format!("ssl_client_certificate {pki}/ca.crt; ssl_verify_client on; ssl_protocols TLSv1.3;");
            let cipher = "ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;";
            ("ssl", format!("{who} {verify} {cipher}"), "http", String::new())
        }
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {};\n", dir.join("temp").display()))
        .concat();
    format!(
        "daemon off;\nworker_processes 1;\nerror_log stderr crit;\npid {name}.pid;\nworker_rlimit_nofile 16384;\n\
         events {{ worker_connections 8192; }}\nhttp {{\n{temporary}  access_log off;\n  keepalive_timeout 300s;\n  \
         keepalive_requests 1000000000;\n  upstream next {{ server {next}; keepalive 1024; keepalive_timeout 300s; \
         keepalive_requests 1000000000; }}\n  server {{\n    listen {listen} {flag};\n    {server}\n    location / {{ \
         proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header connection \"\"; proxy_set_header host \
         $host; {upstream} }}\n  }}\n}}\n"
    )
}

/// The first thing that looks like a version in what the program says of itself.
pub(super) fn version(name: &str) -> String {
    let said = match name {
        "relay" => return "-".to_owned(),
        "envoy" => envoy::binary().and_then(|binary| Command::new(binary).arg("--version").output().ok()),
        _ => Command::new(name).arg("-v").output().ok(),
    };
    let said = said.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    version_in(&String::from_utf8_lossy(&said))
}

/// The first word of digits and dots.
pub(super) fn version_in(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    let mut words = words.map(|word| word.trim_matches('.')).filter(|word| word.contains('.'));
    words.next().unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version_in("HAProxy version 2.6.12-1+deb12u4 2026/10/17"), "2.6.12");
        assert_eq!(version_in("nginx version: nginx/1.22.1"), "1.22.1");
        assert_eq!(version_in("byrnie 0.1.0 linux/x86_64"), "0.1.0");
        assert_eq!(version_in("envoy  version: 5bf4b2/1.34.0/Clean/RELEASE"), "1.34.0");
    }
}
