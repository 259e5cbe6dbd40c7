// SPDX-License-Identifier: Apache-2.0
//! `byrnie status`: whether all is well, on one screen.

use crate::console::Console;
use crate::failure::Exit;
use crate::globals::Globals;
use crate::output::{self, Tone, cell};
use serde_json::Value;

/// Say whether all is well, on one screen
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie status
  byrnie status -o json
  byrnie status --server http://127.0.0.1:7777 --token \"$TOKEN\"")]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let answer = Console::find(globals)?.get("/api/v1/status")?;
    output::print(globals, &answer, |_| draw(globals, &answer))?;
    Ok(if answer["ok"] == true { Exit::Fine } else { Exit::Problem })
}

fn draw(globals: &Globals, status: &Value) -> String {
    let warnings = status["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let word = match status["ok"] == true {
        true => output::paint(globals, Tone::Good, "ok"),
        false => output::paint(globals, Tone::Bad, "NOT ok"),
    };
    let (proxies, in_sync) = (cell(status, "proxies"), cell(status, "inSync"));
    let sync = if proxies == in_sync {
        format!("{proxies} proxies in sync")
    } else {
        format!("{in_sync} of {proxies} proxies in sync")
    };
    let mut out = format!(
        "mesh {word} · {} · {sync} · revision {} · trust domain {}\n",
        output::count(warnings.len(), "warning"),
        cell(status, "revision"),
        cell(status, "trustDomain"),
    );
    for warning in warnings {
        let (severity, code) = (cell(warning, "severity"), cell(warning, "code"));
        out.push_str(&format!("{severity}[{code}]: {}\n", cell(warning, "message")));
        out.push_str(&format!("  --> {}\n   = next: {}\n", cell(warning, "where"), cell(warning, "next")));
    }
    out
}
