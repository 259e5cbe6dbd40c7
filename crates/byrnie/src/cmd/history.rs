// SPDX-License-Identifier: Apache-2.0
//! `byrnie history`: every change of configuration, newest first.

use crate::console::Console;
use crate::failure::Exit;
use crate::globals::Globals;
use crate::output::{self, Table, cell};
use serde_json::Value;

/// Show every change of configuration: when, who, what
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie history
  byrnie history -o yaml
  byrnie history -o ndjson | head -1")]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let answer = Console::find(globals)?.get("/api/v1/revisions")?;
    output::print(globals, &answer, |wide| draw(&answer, wide))?;
    Ok(Exit::Fine)
}

fn draw(answer: &Value, wide: bool) -> String {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "nothing was changed yet\n".to_owned();
    }
    let mut table = Table::new(&["REVISION", "WHEN", "WHO", "WHY", "WHAT"]).numbers(&[0]);
    for row in rows {
        let changes = row["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let shown = if wide { changes.len() } else { 2 };
        let mut what: Vec<String> = changes
            .iter()
            .take(shown)
            .map(|c| format!("{} {}", cell(c, "action"), super::apply::reference(c)))
            .collect();
        if changes.len() > shown {
            what.push(format!("and {} more", changes.len() - shown));
        }
        let at = row["at"].as_u64().map_or_else(|| "-".to_owned(), when);
        table.rows.push(vec![cell(row, "revision"), at, cell(row, "who"), cell(row, "why"), what.join(", ")]);
    }
    table.render(wide)
}

/// A time in milliseconds since 1970, for people (UTC).
pub(super) fn when(millis: u64) -> String {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}
