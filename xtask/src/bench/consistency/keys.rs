// SPDX-License-Identifier: Apache-2.0
//! Posts with an idempotency key through a pair of sidecars: to a service that a policy protects, whose
//! ledger makes two durable steps of each, in its file or in a PostgreSQL, and to the same program as a service without one.

use super::super::byrnie::Mesh;
use super::super::process::{Process, Side, Stage, free_port, loopback, wait_for, wait_open};
use super::super::round::Seen;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const POLICY: &str = "\
apiVersion: mesh.byrnie.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: keys}
spec:
  targetRefs: [{name: app}]
  idempotency: {mode: Required, guarantee: G1}
";
/// Keys that one load may use.
const KEYS_EACH: u64 = 1 << 32;
/// How long one answer may take while the mesh is made.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A mesh with the two services, and their caller.
pub(super) struct Pair {
    pub(super) version: String,
    /// Where calls enter: to the service with the policy, and to the one without.
    pub(super) entries: [SocketAddr; 2],
    loads: u64,
    /// byrnie's: they end before the app.
    processes: Vec<Process>,
    _app: Process,
}

impl Pair {
    /// With its ledger in a file, or in the database of this URL; `log` is how its processes are called.
    pub(super) fn start(stage: &Stage, log: &str, database: Option<&str>) -> Result<Self> {
        let app = loopback(free_port()?);
        let program = stage.tool(Side::Load, &format!("{log}-app"), &["app", &format!("listen={app}")])?;
        wait_open("the app", app)?;
        let (mesh, version) = Mesh::new(stage, &format!("mesh-{log}"))?;
        let transactions = database.map(|url| ["--transactions", url]);
        let up = mesh.up(stage, Side::Proxy, &format!("{log}-up"), transactions.as_ref().map_or(&[], |words| words))?;
        let mut processes = Vec::new();
        for name in ["app", "open"] {
            processes.push(mesh.serve(stage, &format!("{log}-{name}"), name, app)?);
            mesh.allow(stage, "web", name)?;
        }
        let policy = stage.write("keys.yaml", POLICY)?;
        mesh.tell(stage, &["apply", "-f", &policy.to_string_lossy()])?;
        let (caller, entries) = mesh.caller(stage, &format!("{log}-caller"), &["app", "open"], app)?;
        let entries: [SocketAddr; 2] = entries.try_into().ok().context("two entries")?;
        wait_for("a repeated post is answered from the ledger", || status(entries[0]).is_ok_and(|kept| kept))?;
        wait_for("the service without a policy answers", || status(entries[1]).is_ok_and(|kept| !kept))?;
        processes.extend([caller, up]);
        Ok(Self { version, entries, loads: 0, processes, _app: program })
    }

    /// The processes of byrnie's.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Posts for `secs`, each under a key of its own, at `rate` or as fast as they are answered.
    pub(super) fn load(&mut self, stage: &Stage, entry: SocketAddr, rate: u64, secs: u64) -> Result<Seen> {
        self.loads += 1;
        let words = [
            "load".to_owned(),
            format!("to={entry}"),
            "connections=64".to_owned(),
            format!("key={}", self.loads * KEYS_EACH),
            format!("rate={rate}"),
            format!("secs={secs}"),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = stage.client(&words).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let seen: Seen = serde_json::from_str(said.lines().last().context("the client said nothing")?)?;
        if seen.errors > 0 {
            bail!("{} errors: {}", seen.errors, String::from_utf8_lossy(&output.stderr));
        }
        Ok(seen)
    }
}

/// Posts twice under one key; whether the second answer was the first one, kept. An error if either isn't a 200.
fn status(entry: SocketAddr) -> Result<bool> {
    let mut kept = false;
    for _ in 0..2 {
        let mut socket = TcpStream::connect_timeout(&entry, ANSWER_MAX)?;
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        let request = "POST /b/100 HTTP/1.1\r\nhost: app\r\ncontent-length: 0\r\nidempotency-key: \"ready\"\r\n\
                       connection: close\r\n\r\n";
        socket.write_all(request.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("{}", answer.lines().next().unwrap_or_default());
        }
        kept = answer.to_ascii_lowercase().contains("idempotency-status: replayed");
    }
    Ok(kept)
}
