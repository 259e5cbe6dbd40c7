// SPDX-License-Identifier: Apache-2.0
//! Certificates for peers, made by `openssl`: one P-256 authority, one server, one client, as byrnie's
//! own are P-256 too.

use super::process::Stage;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The name that the server proves and the client checks.
pub(super) const SERVER_NAME: &str = "server.bench.mesh";

/// Makes all certificates in a folder of the stage: `ca.crt`, and NAME.crt, NAME.key and NAME.pem (both)
/// for `server` and `client`. What a former run made is used again.
pub(super) fn make(stage: &Stage) -> Result<PathBuf> {
    let dir = stage.dir.join("pki");
    if dir.join("done").exists() {
        return Ok(dir);
    }
    std::fs::create_dir_all(&dir)?;
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "365"];
    let ca = ["req", "-x509", "-subj", "/CN=bench authority", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&dir, &[&ca[..], &curve[..]].concat())?;
    for (name, host) in [("server", SERVER_NAME), ("client", "client.bench.mesh")] {
        let (key, crt) = (format!("{name}.key"), format!("{name}.crt"));
        let (subject, names) = (format!("/CN={host}"), format!("subjectAltName=DNS:{host}"));
        let leaf = ["req", "-x509", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", &subject, "-addext", &names];
        let rest = ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &crt];
        openssl(&dir, &[&leaf[..], &rest[..], &curve[..]].concat())?;
        let both = std::fs::read_to_string(dir.join(&crt))? + &std::fs::read_to_string(dir.join(&key))?;
        std::fs::write(dir.join(format!("{name}.pem")), both)?;
    }
    std::fs::write(dir.join("done"), "")?;
    Ok(dir)
}

fn openssl(dir: &std::path::Path, args: &[&str]) -> Result<()> {
    let output = Command::new("openssl").args(args).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.context("openssl is needed to make the peers' certificates")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("openssl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr))
}
