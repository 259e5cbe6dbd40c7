// SPDX-License-Identifier: Apache-2.0
//! `byrnie stat [svc|edge|route]`: golden metrics.

use crate::console::{self, Console};
use crate::failure::Exit;
use crate::globals::Globals;
use crate::output::{self, Table, cell, millis, number};
use serde_json::Value;

/// Show golden metrics: rate, success, latency
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie stat
  byrnie stat route --service payments
  byrnie stat edge --window 10m -o json")]
pub(crate) struct Args {
    /// What to tell apart by
    #[arg(value_enum, default_value_t)]
    by: By,
    /// Over how long: 30s, 5m, 1h at most
    #[arg(long, default_value = "1m", value_name = "SPAN")]
    window: String,
    /// Only calls of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
enum By {
    /// The service called
    #[default]
    #[value(name = "svc", alias = "service", alias = "services")]
    Service,
    /// Caller and service called
    #[value(alias = "edges")]
    Edge,
    /// Service called, method and route
    #[value(alias = "routes")]
    Route,
    /// Instance that answered
    #[value(alias = "instances")]
    Instance,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let by = match args.by {
        By::Service => "service",
        By::Edge => "edge",
        By::Route => "route",
        By::Instance => "instance",
    };
    let service = args.service.as_deref().unwrap_or_default();
    let path =
        format!("/api/v1/stats{}", console::query(&[("by", by), ("window", &args.window), ("service", service)]));
    let answer = Console::find(globals)?.get(&path)?;
    output::print(globals, &answer, |wide| draw(by, &answer, wide))?;
    Ok(Exit::Fine)
}

fn draw(by: &str, answer: &Value, wide: bool) -> String {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "no traffic in this time; services are listed by `byrnie get services`\n".to_owned();
    }
    let title = match by {
        "service" => "SERVICE",
        "edge" => "EDGE",
        "route" => "ROUTE",
        _ => "INSTANCE",
    };
    let columns = [title, "RPS", "OK%", "P50", "P99", "REQUESTS", "RETRIES"];
    let mut table = Table::new(&columns).narrow(6).numbers(&[1, 2, 3, 4, 5, 6]);
    for row in rows {
        table.rows.push(vec![
            cell(row, "name"),
            number(row, "rps"),
            number(row, "okPercent"),
            millis(row, "p50Ms"),
            millis(row, "p99Ms"),
            cell(row, "requests"),
            cell(row, "retries"),
        ]);
    }
    table.render(wide)
}
