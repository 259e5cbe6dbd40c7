// SPDX-License-Identifier: Apache-2.0
//! `byrnie cert list|show`: who has which certificate, and until when.

use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output::{self, Table, cell};
use byrnie_model::code;
use serde_json::Value;

/// Show certificates
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Verb,
}

const EXAMPLES: &str = "Examples:
  byrnie cert list
  byrnie cert list -o json
  byrnie cert show default/web-1f3a";

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Every proxy's certificate, and until when it holds
    #[command(after_help = EXAMPLES)]
    List,
    /// One proxy's
    #[command(after_help = EXAMPLES)]
    Show {
        /// NAMESPACE/WORKLOAD
        name: String,
    },
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let all = Console::find(globals)?.get("/api/v1/certificates")?;
    let answer = match &args.command {
        Verb::List => all,
        Verb::Show { name } => {
            let full = if name.contains('/') { name.clone() } else { format!("{}/{name}", globals.namespace()) };
            let found = all.as_array().into_iter().flatten().find(|row| row["name"] == *full).cloned();
            found.ok_or_else(|| {
                Failure::new(code::NOT_FOUND.id, format!("no proxy {full} is connected"))
                    .next("`byrnie cert list` lists all")
            })?
        }
    };
    output::print(globals, &answer, |wide| draw(&answer, wide))?;
    Ok(Exit::Fine)
}

fn draw(answer: &Value, wide: bool) -> String {
    let rows = match answer {
        Value::Array(rows) => rows.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut table = Table::new(&["NAME", "IDENTITY", "VALID FOR", "UNTIL", "BY", "SERIAL"]).narrow(4);
    for row in rows {
        let left = row["secondsLeft"].as_u64().map_or_else(|| "not reported yet".to_owned(), span);
        let until = row["notAfter"].as_u64().map_or_else(|| "-".to_owned(), super::history::when);
        let (by, serial) = (cell(row, "by"), cell(row, "serial"));
        table.rows.push(vec![cell(row, "name"), cell(row, "identity"), left, until, by, serial]);
    }
    table.render(wide)
}

fn span(seconds: u64) -> String {
    match seconds {
        0 => "expired".to_owned(),
        1..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
