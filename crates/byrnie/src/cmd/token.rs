// SPDX-License-Identifier: Apache-2.0
//! `byrnie token create|list`: join tokens, each good for one identity.

use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output::{self, Table, cell};
use serde_json::{Value, json};

/// Make and list join tokens
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Verb,
}

const EXAMPLES: &str = "Examples:
  byrnie token create --workload shop/payments
  byrnie token create --workload shop/payments --ttl 1h --uses 3
  byrnie token list";

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Make a token; it is shown this once
    #[command(after_help = EXAMPLES)]
    Create {
        /// Who its holder becomes: NAMESPACE/SERVICE_ACCOUNT
        #[arg(long, value_name = "NS/SA")]
        workload: String,
        /// How long it holds: 30s, 15m, 24h
        #[arg(long, default_value = "15m", value_name = "SPAN")]
        ttl: String,
        /// How often it may be used
        #[arg(long, default_value_t = 1, value_name = "N")]
        uses: u32,
    },
    /// Tokens that still hold, without their secrets
    #[command(after_help = EXAMPLES)]
    List,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let console = Console::find(globals)?;
    match &args.command {
        Verb::Create { workload, ttl, uses } => {
            let asked = json!({"workload": workload, "ttlSeconds": seconds(ttl)?, "uses": uses});
            let answer = console.post("/api/v1/tokens", &asked)?;
            // The bare token, so that it can be piped.
            output::print(globals, &answer, |_| format!("{}\n", cell(&answer, "token")))?;
        }
        Verb::List => {
            let answer = console.get("/api/v1/tokens")?;
            output::print(globals, &answer, |wide| draw(&answer, wide))?;
        }
    }
    Ok(Exit::Fine)
}

fn draw(answer: &Value, wide: bool) -> String {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "no join token holds\n".to_owned();
    }
    let mut table = Table::new(&["ID", "IDENTITY", "USES LEFT", "UNTIL"]);
    for row in rows {
        let until = row["expires"].as_u64().map_or_else(|| "-".to_owned(), super::history::when);
        table.rows.push(vec![cell(row, "id"), cell(row, "identity"), cell(row, "uses_left"), until]);
    }
    table.render(wide)
}

fn seconds(span: &str) -> Result<u64, Failure> {
    let (digits, unit) = span.split_at(span.find(|c: char| !c.is_ascii_digit()).unwrap_or(span.len()));
    let scale = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => 0,
    };
    let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).filter(|n| *n > 0);
    seconds.ok_or_else(|| Failure::usage(format!("--ttl {span} is not a span of time")).next("--ttl 15m"))
}
