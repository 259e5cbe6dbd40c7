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
    let answer = json!({"version": version, "os": system, "arch": machine});
    output::print(globals, &answer, |_| format!("byrnie {version} {system}/{machine}\n"))?;
    Ok(Exit::Fine)
}
