// SPDX-License-Identifier: Apache-2.0
//! byrnie. A pair as users run it: `byrnie up`, `byrnie run` for the app, and `byrnie run --uses` for its
//! caller, whose sidecar is where the client enters; both sidecars are counted, the control plane isn't.
//! One hop alone is a proxy of the same code and defaults, whose configuration is given to it.

use super::peers::version_in;
use super::process::{Process, Side, Stage, binary, free_port, life, wait_for};
use super::round::Subject;
use super::workload::Path;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// Starts what `path` needs; `app` in clear, `secure` over mutual TLS.
pub(super) fn start(stage: &Stage, path: Path, app: SocketAddr, secure: &[SocketAddr]) -> Result<Subject> {
    match path {
        Path::Pair => pair(stage, app),
        Path::Tls | Path::Hop | Path::Edits | Path::Http2 => hop(stage, &hop_words(stage, path, app, secure)),
    }
}

/// What a proxy at the caller's side is told.
fn caller_words(path: Path, secure: &[SocketAddr]) -> Vec<String> {
    let next = if path == Path::Edits { secure } else { &secure[..1] };
    let next = next.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut words = vec!["role=caller".to_owned(), format!("next={next}")];
    match path {
        Path::Edits => words.push("edits=1".to_owned()),
        Path::Http2 => words.push("protocol=http2".to_owned()),
        Path::Hop | Path::Tls | Path::Pair => {}
    }
    words
}

/// How one proxy is started.
pub(super) fn hop_words(stage: &Stage, path: Path, app: SocketAddr, secure: &[SocketAddr]) -> Vec<String> {
    let mut words = match path {
        Path::Tls => vec!["role=callee".to_owned(), format!("next={app}")],
        _ => caller_words(path, secure),
    };
    let state = stage.dir.join("state");
    words.extend([format!("pki={}", stage.pki.display()), format!("state={}", state.display())]);
    words.insert(0, "proxy".to_owned());
    words
}

fn hop(stage: &Stage, words: &[String]) -> Result<Subject> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let proxy = stage.tool(Side::Proxy, "byrnie-hop", &words)?;
    let entry = said_ready(stage, "byrnie-hop")?;
    Ok(Subject { name: "byrnie", version: VERSION.to_owned(), entry, proxies: vec![proxy], beside: Vec::new() })
}

/// Where the proxy whose log this is says that it takes connections.
pub(super) fn said_ready(stage: &Stage, name: &str) -> Result<SocketAddr> {
    let mut entry = None;
    wait_for(&format!("{name} is ready"), || {
        entry = ready_in(stage, name);
        entry.is_some()
    })?;
    entry.context("no address")
}

/// The same, if it has said so by now.
pub(super) fn ready_in(stage: &Stage, name: &str) -> Option<SocketAddr> {
    let said = std::fs::read_to_string(stage.dir.join(format!("{name}.log"))).ok()?;
    said.lines().find_map(|line| line.strip_prefix("ready ")?.parse().ok())
}

/// The version of everything in the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Starts a mesh with one app and one caller.
fn pair(stage: &Stage, app: SocketAddr) -> Result<Subject> {
    let binary = binary(&stage.root, "BYRNIE", "byrnie")?;
    let said = Command::new(&binary).arg("version").output().context("cannot start byrnie")?;
    let version = version_in(&String::from_utf8_lossy(&said.stdout));
    let data = stage.dir.join("mesh");
    if data.exists() {
        std::fs::remove_dir_all(&data)?;
    }
    let mesh = Mesh { stage, binary, data: data.to_string_lossy().into_owned() };
    let console = format!("127.0.0.1:{}", free_port()?);
    let up = mesh.start(Side::Load, "byrnie-up", &["up", "--listen", &console])?;
    wait_for("byrnie up", || data.join("ports.json").exists() && data.join("token").exists())?;
    let (port, life) = (app.port().to_string(), life());
    let b = mesh.start(Side::Proxy, "byrnie-b", &["run", "--name", "app", "--port", &port, "--", "sleep", &life])?;
    mesh.allow("web", "app")?;
    // The program of the caller tells where its sidecar takes calls to the app, and sleeps.
    let told = data.join("url");
    let script = format!("printf %s \"$BYRNIE_APP_URL\" > '{}'; exec sleep {life}", told.display());
    // Its own port is the app's: nobody calls it there, but something must listen.
    let words = ["run", "--name", "web", "--port", &port, "--uses", "app", "--", "sh", "-c", &script];
    let a = mesh.start(Side::Proxy, "byrnie-a", &words)?;
    let mut entry = None;
    wait_for("byrnie run --uses app", || {
        entry = entry_in(&std::fs::read_to_string(&told).unwrap_or_default());
        entry.is_some()
    })?;
    let entry = entry.context("no address of the app in its caller's environment")?;
    Ok(Subject { name: "byrnie", version, entry, proxies: vec![a, b], beside: vec![up] })
}

/// The address in `http://IP:PORT`.
fn entry_in(url: &str) -> Option<SocketAddr> {
    url.trim().strip_prefix("http://")?.trim_end_matches('/').parse().ok()
}

/// A mesh in which an app has several instances, and one caller.
pub(super) struct Shared {
    binary: PathBuf,
    data: PathBuf,
    pub(super) version: String,
}

impl Shared {
    /// Starts its control plane.
    pub(super) fn start(stage: &Stage) -> Result<(Self, Process)> {
        let binary = binary(&stage.root, "BYRNIE", "byrnie")?;
        let said = Command::new(&binary).arg("version").output().context("cannot start byrnie")?;
        let version = version_in(&String::from_utf8_lossy(&said.stdout));
        let data = stage.dir.join("mesh-shared");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let shared = Self { binary, data, version };
        let console = format!("127.0.0.1:{}", free_port()?);
        let up = shared.mesh(stage).start(Side::Load, "shared-up", &["up", "--listen", &console])?;
        wait_for("byrnie up", || shared.data.join("ports.json").exists() && shared.data.join("token").exists())?;
        Ok((shared, up))
    }

    fn mesh<'a>(&self, stage: &'a Stage) -> Mesh<'a> {
        Mesh { stage, binary: self.binary.clone(), data: self.data.to_string_lossy().into_owned() }
    }

    /// Starts one instance, whose program listens on `port`.
    pub(super) fn instance(&self, stage: &Stage, at: usize, port: u16) -> Result<Process> {
        let (port, life) = (port.to_string(), life());
        let words = ["run", "--name", "app", "--port", &port, "--", "sleep", &life];
        self.mesh(stage).start(Side::Load, &format!("shared-{at}"), &words)
    }

    /// Starts the caller; where its sidecar takes calls to the app.
    pub(super) fn caller(&self, stage: &Stage, port: u16) -> Result<(Process, SocketAddr)> {
        let mesh = self.mesh(stage);
        wait_for("the app is known", || mesh.allow("web", "app").is_ok())?;
        let (told, life, port) = (self.data.join("url"), life(), port.to_string());
        let script = format!("printf %s \"$BYRNIE_APP_URL\" > '{}'; exec sleep {life}", told.display());
        let words = ["run", "--name", "web", "--port", &port, "--uses", "app", "--", "sh", "-c", &script];
        let caller = mesh.start(Side::Proxy, "shared-caller", &words)?;
        let mut entry = None;
        wait_for("byrnie run --uses app", || {
            entry = entry_in(&std::fs::read_to_string(&told).unwrap_or_default());
            entry.is_some()
        })?;
        Ok((caller, entry.context("no address of the app in its caller's environment")?))
    }
}

struct Mesh<'a> {
    stage: &'a Stage,
    binary: PathBuf,
    data: String,
}

impl Mesh<'_> {
    fn start(&self, side: Side, name: &str, args: &[&str]) -> Result<Process> {
        let args = [&["--data-dir", &self.data, "--quiet"], args].concat();
        self.stage.start(side, name, &self.binary, &args)
    }

    /// Lets `source` call `destination`: nothing is allowed otherwise.
    fn allow(&self, source: &str, destination: &str) -> Result<()> {
        let args = ["--data-dir", &self.data, "--quiet", "allow", source, destination];
        let output = self.stage.command(Side::Load, &self.binary, &args).output()?;
        if output.status.success() {
            return Ok(());
        }
        bail!("byrnie allow {source} {destination}: {}", String::from_utf8_lossy(&output.stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_read_from_a_url() {
        assert_eq!(entry_in("http://127.0.0.1:81"), "127.0.0.1:81".parse().ok());
        assert_eq!(entry_in(""), None);
    }
}
