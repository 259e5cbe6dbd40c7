// SPDX-License-Identifier: Apache-2.0
//! dtm's API against a real mesh: its own Python client runs its sagas, messages and TCC unchanged over HTTP, and
//! gRPC's Python library calls its gRPC service and is called by it. Installs both from the package index, pinned, into
//! `target/`.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The client and what it needs, and gRPC.
const PACKAGES: [&str; 3] = ["dtmcli==1.7.7.0", "requests>=2.31,<3", "grpcio==1.85.1"];
/// What is run, one after the other, with the console's port and the token.
const SCRIPTS: [&str; 2] = ["dtmcli_peer.py", "dtmgrpc_peer.py"];
/// How long the mesh may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// Runs the scripts; false if something of them failed.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let python = install(root)?;
    let built = Command::new(env!("CARGO")).args(["build", "--locked", "-p", "byrnie"]).current_dir(root).status()?;
    if !built.success() {
        return Ok(false);
    }
    let data = root.join("target/dtm-client/data");
    drop(std::fs::remove_dir_all(&data));
    std::fs::create_dir_all(&data)?;
    let up = Command::new(root.join("target/debug/byrnie"))
        .arg("--data-dir")
        .arg(&data)
        .args(["--quiet", "up"])
        .stdout(Stdio::null())
        .spawn()
        .context("byrnie up")?;
    let _up = Up(up);
    let port = console_port(&data)?;
    let token = std::fs::read_to_string(data.join("token"))?;
    for script in SCRIPTS {
        let script = root.join("xtask/peers").join(script);
        if !Command::new(&python).arg(script).arg(port.to_string()).arg(token.trim()).status()?.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A Python with them in it.
fn install(root: &Path) -> Result<std::path::PathBuf> {
    let place = root.join("target/dtm-client/python");
    let python = place.join("bin/python");
    let works = || {
        Command::new(&python).args(["-c", "import dtmcli, grpc, requests"]).output().is_ok_and(|o| o.status.success())
    };
    if works() {
        return Ok(python);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&place).status().context("python3 -m venv")?;
    let installed = made.success()
        && Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES).status()?.success();
    if !installed || !works() {
        bail!("the clients can't be installed: apt-get install python3-venv, and let pip reach its index");
    }
    Ok(python)
}

/// Ends the mesh when the script is done.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        // It keeps nothing that anybody needs.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[expect(clippy::disallowed_methods, reason = "a developer's tool waits by the clock")]
fn console_port(data: &Path) -> Result<u16> {
    let start = Instant::now();
    while start.elapsed() < READY {
        if let Ok(text) = std::fs::read_to_string(data.join("ports.json"))
            && let Some((_, rest)) = text.split_once("\"console\":")
        {
            let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
            return digits.parse().context("ports.json");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("byrnie up is not ready after {} s", READY.as_secs())
}
