// SPDX-License-Identifier: Apache-2.0
//! `byrnie proxies`: every proxy and the configuration it has.

use crate::console::Console;
use crate::failure::Exit;
use crate::globals::Globals;
use crate::output::{self, Table, cell};
use serde_json::Value;

/// Show every proxy and the configuration it has
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie proxies
  byrnie proxies -o wide
  byrnie proxies -o json")]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let answer = Console::find(globals)?.get("/api/v1/proxies")?;
    output::print(globals, &answer, |wide| draw(&answer, wide))?;
    Ok(Exit::Fine)
}

fn draw(answer: &Value, wide: bool) -> String {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "no proxy is connected\n".to_owned();
    }
    let columns = ["NAME", "SYNC", "REVISION", "INBOUND", "ADMIN", "VERSION", "IDENTITY"];
    let mut table = Table::new(&columns).narrow(5).numbers(&[2]);
    for row in rows {
        let sync = match (row["refused"].as_u64().unwrap_or(0), row["inSync"] == true, row["silentMs"].as_u64()) {
            (_, _, Some(millis)) => format!("stale {} s", millis / 1000),
            (0, true, None) => "ok".to_owned(),
            (0, false, None) => "behind".to_owned(),
            (refused, _, None) => format!("refused {refused}"),
        };
        let mut cells = vec![cell(row, "name"), sync];
        cells.extend(["revision", "inbound", "admin", "version", "identity"].map(|name| cell(row, name)));
        table.rows.push(cells);
    }
    table.render(wide)
}
