// SPDX-License-Identifier: Apache-2.0
//! The peers: a bare relay as the floor, haproxy, nginx and Envoy, each with one worker and in its
//! best-known tuning: the same TLS 1.3 cipher, both certificates verified where there are any, connections
//! kept open on every hop, no access log.

use super::options::{Options, PEERS};
use super::process::{Process, Side, Stage, free_port, is_on_path, loopback};
use super::round::Subject;
use super::workload::Path;
use super::{envoy, haproxy, nginx};
use anyhow::{Result, bail};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// The name that a server proves and its client checks.
pub(super) const SERVER_NAME: &str = "app.bench.mesh";

/// What a proxy is to do.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) listen: SocketAddr,
    /// One server or several.
    pub(super) next: Vec<SocketAddr>,
    pub(super) tls: Tls,
    /// HTTP/2 on the side that is named.
    pub(super) http2: Http2,
    /// Thirteen routes, edits of both heads, request ids, forwarded-for.
    pub(super) edits: bool,
    /// Bytes of TCP, whatever they are.
    pub(super) opaque: bool,
}

/// Which side of a proxy is mTLS, and where its certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tls {
    None,
    /// It asks its next hop for mTLS (A).
    Upstream(PathBuf),
    /// It asks its clients for mTLS (B).
    Downstream(PathBuf),
}

/// Which side of a proxy speaks HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http2 {
    Neither,
    Upstream,
    Downstream,
    Both,
}

impl Http2 {
    pub(super) fn is_up(self) -> bool {
        matches!(self, Self::Upstream | Self::Both)
    }

    pub(super) fn is_down(self) -> bool {
        matches!(self, Self::Downstream | Self::Both)
    }
}

/// Paths of the twelve routes before the one that fits.
pub(super) fn other_paths() -> impl Iterator<Item = String> {
    (0..12).map(|at| format!("/other/{at}"))
}

/// Starts every peer of `path` that was asked for, or that is there.
pub(super) fn start(stage: &Stage, options: &Options, path: Path, app: &[SocketAddr]) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for name in PEERS.into_iter().filter(|name| path.peers().contains(name)) {
        let (wanted, named) = options.wants(name);
        match (wanted, is_there(name)) {
            (true, true) => subjects.push(subject(stage, name, path, app)?),
            (true, false) if named => bail!("{name} isn't here (PATH; for Envoy, ENVOY_BIN names its binary)"),
            (true, false) => eprintln!("skipped: {name} isn't here"),
            (false, _) => {}
        }
    }
    Ok(subjects)
}

/// Whether a peer is on this machine.
pub(super) fn is_there(name: &str) -> bool {
    match program(name) {
        "relay" => true,
        "envoy" => envoy::binary().is_some(),
        program => is_on_path(program),
    }
}

fn program(name: &str) -> &str {
    name.trim_end_matches("-h2")
}

fn subject(stage: &Stage, name: &'static str, path: Path, app: &[SocketAddr]) -> Result<Subject> {
    let entry = loopback(free_port()?);
    let role = Role {
        name: format!("{name}-p"),
        listen: entry,
        next: if path == Path::Edits { app.to_vec() } else { app[..1].to_vec() },
        tls: Tls::None,
        http2: if path == Path::Http2 { Http2::Both } else { Http2::Neither },
        edits: path == Path::Edits,
        opaque: path == Path::Tcp,
    };
    let mut proxies = Vec::new();
    match path {
        Path::Hop | Path::Edits | Path::Http2 => proxies.push(proxy(stage, name, &role)?),
        Path::Tls => proxies.push(proxy(stage, name, &Role { tls: Tls::Downstream(stage.pki.clone()), ..role })?),
        Path::Pair | Path::Tcp => {
            for half in &halves(stage, name, &role, loopback(free_port()?)) {
                proxies.push(proxy(stage, name, half)?);
            }
        }
    }
    Ok(Subject { name, version: version(name), entry, proxies, beside: Vec::new() })
}

/// What the two proxies are to do that share a role between them, the second of which listens at `middle`.
pub(super) fn halves(stage: &Stage, name: &str, role: &Role, middle: SocketAddr) -> [Role; 2] {
    let between = |http2| if name.ends_with("-h2") { http2 } else { Http2::Neither };
    let a = Role {
        name: format!("{name}-a"),
        next: vec![middle],
        tls: Tls::Upstream(stage.pki.clone()),
        http2: between(Http2::Upstream),
        ..role.clone()
    };
    let b = Role {
        name: format!("{name}-b"),
        listen: middle,
        tls: Tls::Downstream(stage.pki.clone()),
        http2: between(Http2::Downstream),
        ..role.clone()
    };
    [a, b]
}

fn proxy(stage: &Stage, peer: &str, role: &Role) -> Result<Process> {
    let (program, args) = command(stage, peer, role)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    stage.start(Side::Proxy, &role.name, program, &args)
}

/// The program of a peer and its arguments, with its configuration written.
pub(super) fn command(stage: &Stage, peer: &str, role: &Role) -> Result<(PathBuf, Vec<String>)> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Ok(match program(peer) {
        "haproxy" => {
            let file = stage.write(&format!("{}.cfg", role.name), &haproxy::configuration(role))?;
            ("haproxy".into(), words(&["-db", "-f", &file.to_string_lossy()]))
        }
        "nginx" => {
            let file = stage.write(&format!("{}.conf", role.name), &nginx::configuration(&stage.dir, role))?;
            let prefix = stage.dir.to_string_lossy();
            ("nginx".into(), words(&["-p", &prefix, "-e", "stderr", "-c", &file.to_string_lossy()]))
        }
        "envoy" => envoy::command(stage, role)?,
        _ => {
            let (listen, next) = (format!("listen={}", role.listen), format!("next={}", role.next[0]));
            (stage.tool.clone(), words(&["relay", &listen, &next]))
        }
    })
}

/// The first thing that looks like a version in what a peer's program says of itself.
pub(super) fn version(peer: &str) -> String {
    let said = match program(peer) {
        "relay" => return "-".to_owned(),
        "envoy" => envoy::binary().and_then(|binary| Command::new(binary).arg("--version").output().ok()),
        program => Command::new(program).arg("-v").output().ok(),
    };
    let said = said.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    // What stands before may be the path of the program, with a version of something else.
    version_in(said.split_once("version").map_or(&*said, |(_, after)| after))
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
