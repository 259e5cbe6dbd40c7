// SPDX-License-Identifier: Apache-2.0
//! `byrnie edges`: who talks to whom, and how it's protected.

use crate::console::{self, Console};
use crate::failure::Exit;
use crate::globals::Globals;
use crate::output::{self, Table, cell, millis, number};
use serde_json::Value;

/// Show who talks to whom, and whether it's encrypted
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie edges
  byrnie edges --window 30s
  byrnie edges -o json")]
pub(crate) struct Args {
    /// Over how long: 30s, 5m, 1h at most
    #[arg(long, default_value = "1h", value_name = "SPAN")]
    window: String,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let path = format!("/api/v1/edges{}", console::query(&[("window", &args.window)]));
    let answer = Console::find(globals)?.get(&path)?;
    output::print(globals, &answer, |wide| draw(&answer, wide))?;
    Ok(Exit::Fine)
}

fn draw(answer: &Value, wide: bool) -> String {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "nobody called anybody in this time\n".to_owned();
    }
    let columns = ["SOURCE", "DESTINATION", "TLS", "REQUESTS", "OK%", "RPS", "P50", "P99"];
    let mut table = Table::new(&columns).narrow(5).numbers(&[3, 4, 5, 6, 7]);
    for row in rows {
        let source = if row["source"] == "" { "outside".to_owned() } else { cell(row, "source") };
        table.rows.push(vec![
            source,
            cell(row, "destination"),
            cell(row, "tls"),
            cell(row, "requests"),
            number(row, "okPercent"),
            number(row, "rps"),
            millis(row, "p50Ms"),
            millis(row, "p99Ms"),
        ]);
    }
    table.render(wide)
}
