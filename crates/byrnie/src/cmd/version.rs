// SPDX-License-Identifier: Apache-2.0
//! `byrnie version`: which byrnie this is.

use crate::failure::Exit;
use crate::globals::Globals;
use crate::output;
use serde_json::json;

/// Say which byrnie this is
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie version
  byrnie version -o json
  byrnie --version")]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let version = env!("CARGO_PKG_VERSION");
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let features: &[&str] = if cfg!(feature = "http3") { &["http3"] } else { &[] };
    let answer = json!({"version": version, "os": system, "arch": machine, "features": features});
    let with: String = features.iter().map(|feature| format!(" {feature}")).collect();
    output::print(globals, &answer, |_| format!("byrnie {version} {system}/{machine}{with}\n"))?;
    Ok(Exit::Fine)
}
