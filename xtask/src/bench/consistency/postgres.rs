// SPDX-License-Identifier: Apache-2.0
//! A PostgreSQL of the bench's own: fresh, durable as it comes, on loopback. It refuses to run as root, so
//! root runs it as somebody else.

use super::super::process::{Process, Side, Stage, free_port, loopback, wait_open};
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Users that it runs as where the bench is root's; the first that exists.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// A server that runs; its directory is removed with the next one's start.
pub(super) struct Postgres {
    pub(super) port: u16,
    server: Process,
}

impl Postgres {
    /// Makes a cluster, puts `schema` into its database `postgres`, and starts it.
    pub(super) fn start(stage: &Stage, schema: &str) -> Result<Self> {
        let dir = stage.dir.join("postgres");
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        let way = way(&dir)?;
        let place = dir.to_string_lossy().into_owned();
        let words = |program: &'static str, rest: &[&str]| -> Vec<String> {
            let words = way.iter().map(String::as_str).chain([program]).chain(rest.iter().copied());
            words.map(str::to_owned).collect()
        };
        let init = words("initdb", &["-D", &place, "-U", "postgres", "--auth=trust", "--no-instructions"]);
        let made = command(&init).output().context("initdb")?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
        fill(&words("postgres", &["--single", "-D", &place, "postgres"]), schema)?;
        let port = free_port()?;
        let serve = words(
            "postgres",
            &["-D", &place, "-h", "127.0.0.1", "-p", &port.to_string(), "-k", "", "-c", "max_connections=150"],
        );
        let rest: Vec<&str> = serve[1..].iter().map(String::as_str).collect();
        let server = stage.start(Side::Proxy, "postgres", &serve[0], &rest)?;
        wait_open("postgres", loopback(port))?;
        Ok(Self { port, server })
    }

    pub(super) fn pid(&self) -> u32 {
        self.server.pid()
    }
}

/// What stands before its programs: nothing, or for root a change to a user that owns the directory from now on.
fn way(dir: &Path) -> Result<Vec<String>> {
    let said = |args: &[&str]| -> Option<String> {
        let output = Command::new("id").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if said(&["-u"]).is_none_or(|id| id != "0") {
        return Ok(Vec::new());
    }
    let user = USERS.into_iter().find_map(|user| Some((said(&["-u", user])?, said(&["-g", user])?)));
    let (user, group) = user.context("postgres doesn't run as root, and there is no user `postgres` or `nobody`")?;
    let owned = Command::new("chown").arg(format!("{user}:{group}")).arg(dir).status()?;
    if !owned.success() {
        bail!("{} can't be given to user {user}", dir.display());
    }
    Ok(["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"].map(str::to_owned).to_vec())
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Runs statements by the server's single-user mode, which takes one a line.
fn fill(words: &[String], schema: &str) -> Result<()> {
    let mut child = command(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("postgres --single")?;
    let lines: String =
        schema.split(';').map(|one| one.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect();
    child.stdin.take().context("no input")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || said.contains("ERROR:") {
        bail!("postgres --single: {said}");
    }
    Ok(())
}
