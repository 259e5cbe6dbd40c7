// SPDX-License-Identifier: Apache-2.0
//! byrnie. A pair as users run it: `byrnie up`, `byrnie run` for the app, and `byrnie run --uses` for its
//! caller, whose sidecar is where the client enters; both sidecars are counted, the control plane isn't.
//! One hop alone is a proxy of the same code and defaults, whose configuration is given to it.

use super::peers::version_in;
use super::process::{Process, Side, Stage, free_port, life, loopback, wait_for};
use super::round::Subject;
use super::workload::Path;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

/// Starts what `path` needs; `app` in clear, `secure` over mutual TLS.
pub(super) fn start(stage: &Stage, path: Path, app: SocketAddr, secure: &[SocketAddr]) -> Result<Subject> {
    match path {
        Path::Pair => pair(stage, app, None),
        Path::Tcp => pair(stage, app, Some("tcp")),
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
        Path::Hop | Path::Tls | Path::Pair | Path::Tcp => {}
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
    let version = stage.version(VERSION);
    Ok(Subject { name: "byrnie", version, entry, proxies: vec![proxy], beside: Vec::new() })
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
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Starts a mesh with one app, whose protocol may be declared, and one caller.
fn pair(stage: &Stage, app: SocketAddr, protocol: Option<&str>) -> Result<Subject> {
    let (mesh, version) = Mesh::new(stage, "mesh")?;
    let up = mesh.up(stage, Side::Load, "byrnie-up", &[])?;
    let b = mesh.serve_as(stage, "byrnie-b", ("app", protocol), app)?;
    mesh.allow(stage, "web", "app")?;
    let (a, entries) = mesh.caller(stage, "byrnie-a", &["app"], app)?;
    Ok(Subject { name: "byrnie", version, entry: entries[0], proxies: vec![a, b], beside: vec![up] })
}

/// The address in `SCHEME://IP:PORT`.
fn entry_in(url: &str) -> Option<SocketAddr> {
    url.trim().split_once("://")?.1.trim_end_matches('/').parse().ok()
}

/// A mesh in which an app has several instances, and one caller.
pub(super) struct Shared {
    mesh: Mesh,
    pub(super) version: String,
}

impl Shared {
    /// Starts its control plane.
    pub(super) fn start(stage: &Stage) -> Result<(Self, Process)> {
        let (mesh, version) = Mesh::new(stage, "mesh-shared")?;
        let up = mesh.up(stage, Side::Load, "shared-up", &[])?;
        Ok((Self { mesh, version }, up))
    }

    /// Starts one instance, whose program listens on `port`.
    pub(super) fn instance(&self, stage: &Stage, at: usize, port: u16) -> Result<Process> {
        let (port, life) = (port.to_string(), life());
        let words = ["run", "--name", "app", "--port", &port, "--", "sleep", &life];
        self.mesh.start(stage, Side::Load, &format!("shared-{at}"), &words)
    }

    /// Starts the caller; where its sidecar takes calls to the app.
    pub(super) fn caller(&self, stage: &Stage, port: u16) -> Result<(Process, SocketAddr)> {
        wait_for("the app is known", || self.mesh.allow(stage, "web", "app").is_ok())?;
        let (caller, entries) = self.mesh.caller(stage, "shared-caller", &["app"], loopback(port))?;
        Ok((caller, entries[0]))
    }
}

/// A mesh as users run it: the program, and where it keeps what is its own.
#[derive(Clone)]
pub(super) struct Mesh {
    binary: PathBuf,
    data: PathBuf,
}

impl Mesh {
    /// A mesh that is kept in `dir` of the stage and has nothing yet, not started; and the version of the program.
    pub(super) fn new(stage: &Stage, dir: &str) -> Result<(Self, String)> {
        let binary = stage.byrnie()?;
        let said = Command::new(&binary).arg("version").output().context("cannot start byrnie")?;
        let version = stage.version(&version_in(&String::from_utf8_lossy(&said.stdout)));
        let data = stage.dir.join(dir);
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        Ok((Self { binary, data }, version))
    }

    pub(super) fn start(&self, stage: &Stage, side: Side, name: &str, args: &[&str]) -> Result<Process> {
        let data = self.data.to_string_lossy();
        stage.start(side, name, &self.binary, &[&["--data-dir", &data, "--quiet"], args].concat())
    }

    /// Starts its control plane, with these arguments as well, and waits until it's there.
    pub(super) fn up(&self, stage: &Stage, side: Side, name: &str, more: &[&str]) -> Result<Process> {
        let console = loopback(free_port()?).to_string();
        let up = self.start(stage, side, name, &[&["up", "--listen", &console], more].concat())?;
        self.wait()?;
        Ok(up)
    }

    /// Waits until its control plane is there.
    pub(super) fn wait(&self) -> Result<()> {
        wait_for("byrnie up", || ["ports.json", "token"].iter().all(|file| self.data.join(file).exists()))
    }

    /// The operator's credentials.
    pub(super) fn token(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.data.join("token"))?.trim().to_owned())
    }

    /// Starts the sidecar of `app`, which runs already, as the service `name`.
    pub(super) fn serve(&self, stage: &Stage, log: &str, name: &str, app: SocketAddr) -> Result<Process> {
        self.serve_as(stage, log, (name, None), app)
    }

    /// The same of a program that speaks `protocol`, if that is declared.
    fn serve_as(
        &self,
        stage: &Stage,
        log: &str,
        (name, protocol): (&str, Option<&str>),
        app: SocketAddr,
    ) -> Result<Process> {
        let (port, life) = (app.port().to_string(), life());
        let mut words = vec!["run", "--name", name, "--port", &port];
        words.extend(protocol.iter().flat_map(|protocol| ["--protocol", protocol]));
        words.extend(["--", "sleep", &life]);
        self.start(stage, Side::Proxy, log, &words)
    }

    /// Starts the workload `web`, which calls `services`; where its sidecar takes calls to each.
    pub(super) fn caller(
        &self,
        stage: &Stage,
        log: &str,
        services: &[&str],
        app: SocketAddr,
    ) -> Result<(Process, Vec<SocketAddr>)> {
        // The program of the caller tells where its sidecar takes calls, and sleeps.
        let told = self.data.join("url");
        let urls: Vec<String> = services.iter().map(|name| format!("$BYRNIE_{}_URL", name.to_uppercase())).collect();
        let script = format!("printf %s \"{}\" > '{}'; exec sleep {}", urls.join(" "), told.display(), life());
        let port = app.port().to_string();
        // Its own port is the app's: nobody calls it there, but something must listen.
        let mut words = vec!["run", "--name", "web", "--port", &port];
        words.extend(services.iter().flat_map(|name| ["--uses", name]));
        words.extend(["--", "sh", "-c", &script]);
        let caller = self.start(stage, Side::Proxy, log, &words)?;
        let mut entries = Vec::new();
        wait_for("byrnie run --uses", || {
            let text = std::fs::read_to_string(&told).unwrap_or_default();
            entries = text.split(' ').filter_map(entry_in).collect();
            entries.len() == services.len()
        })?;
        Ok((caller, entries))
    }

    /// Lets `source` call `destination`: nothing is allowed otherwise.
    pub(super) fn allow(&self, stage: &Stage, source: &str, destination: &str) -> Result<()> {
        self.tell(stage, &["allow", source, destination])
    }

    /// Runs one of its commands to the end.
    pub(super) fn tell(&self, stage: &Stage, words: &[&str]) -> Result<()> {
        self.ask(stage, words).map(drop)
    }

    /// What one of its commands says.
    pub(super) fn ask(&self, stage: &Stage, words: &[&str]) -> Result<String> {
        let data = self.data.to_string_lossy();
        let args = [&["--data-dir", &data, "--quiet"], words].concat();
        let output = stage.command(Side::Load, &self.binary, &args).output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        bail!("byrnie {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_read_from_a_url() {
        assert_eq!(entry_in("http://127.0.0.1:81"), "127.0.0.1:81".parse().ok());
        assert_eq!(entry_in("tcp://127.0.0.1:81"), "127.0.0.1:81".parse().ok());
        assert_eq!(entry_in(""), None);
    }
}
