// SPDX-License-Identifier: Apache-2.0
//! `byrnie explain`: why. A past request by its id, the newest one that fits (`last`), a request that
//! might be made, or a code.

use crate::console::Console;
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output::{self, Tone, cell};
use byrnie_model::code::Code;
use serde_json::{Value, json};

/// Ask why: a past request, one that might be made, or a code
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie explain \"POST http://payments/charge\" --from web
  byrnie explain last --status 503
  byrnie explain BYR-C012")]
pub(crate) struct Args {
    /// A record's id (the header x-byrnie-decision), `last`, "METHOD URL", or a BYR- code
    what: String,
    /// Who would ask: a workload, its service account, or `edge`
    #[arg(long, value_name = "WORKLOAD")]
    from: Option<String>,
    /// A header of the request, as NAME:VALUE; of a tcp:// connection sni, the host that its TLS asks for
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// With `last`: the newest of this status (else the newest failure)
    #[arg(long)]
    status: Option<u16>,
    /// With `last`: the newest of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    if args.what.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("BYR-")) {
        return explain_code(&args.what, globals);
    }
    let asked = if args.what.contains("://") || args.from.is_some() {
        let from = args.from.as_deref().ok_or_else(|| Failure::usage("who asks? give --from WORKLOAD"))?;
        let mut headers = serde_json::Map::new();
        for header in &args.headers {
            let (name, value) = header.split_once(':').ok_or_else(|| Failure::usage("a header is NAME:VALUE"))?;
            headers.insert(name.trim().to_owned(), json!(value.trim()));
        }
        json!({"request": args.what, "from": from, "namespace": globals.namespace(), "headers": headers})
    } else {
        json!({"record": args.what, "status": args.status, "service": args.service.as_deref().unwrap_or_default()})
    };
    let answer = Console::find(globals)?.post("/api/v1/explain", &asked)?;
    output::print(globals, &answer, |wide| draw(args, globals, &answer, wide))?;
    // That a call would be refused is the answer, not a failure of the question.
    Ok(Exit::Fine)
}

fn explain_code(id: &str, globals: &Globals) -> anyhow::Result<Exit> {
    let code = Code::find(id).ok_or_else(|| {
        Failure::new(byrnie_model::code::NOT_FOUND.id, format!("there is no code {id}"))
            .next("codes look like BYR-C012")
    })?;
    let answer = json!({"code": code.id, "title": code.title, "effect": code.effect, "next": code.next});
    output::print(globals, &answer, |_| {
        format!("{}: {}\n  effect  {}\n  next    {}\n", code.id, code.title, code.effect, code.next)
    })?;
    Ok(Exit::Fine)
}

fn draw(args: &Args, globals: &Globals, answer: &Value, wide: bool) -> String {
    let word = match answer["decision"].as_str() {
        Some("allow") => output::paint(globals, Tone::Good, "ALLOWED"),
        Some("deny") => output::paint(globals, Tone::Bad, "DENIED"),
        _ => output::paint(globals, Tone::Bad, "FAILED"),
    };
    let status = answer["status"].as_u64().filter(|status| *status > 0).map_or(String::new(), |s| format!(" {s}"));
    let record = &answer["record"];
    let what = if record.is_null() {
        format!("{} → {}", args.from.as_deref().unwrap_or_default(), args.what)
    } else {
        let (request, at) = (&record["request"], record["at"].as_u64().map_or_else(String::new, super::history::when));
        let path = format!(
            "{} {}",
            request["method"].as_str().unwrap_or_default(),
            request["path"].as_str().unwrap_or_default()
        );
        format!(
            "{} → {}  {}  {at}  id {}",
            cell(record, "sourceName"),
            cell(record, "destinationName"),
            path.trim(),
            cell(record, "id")
        )
    };
    let mut out = format!("{word}{status}  {what}\n");
    for (index, step) in answer["steps"].as_array().into_iter().flatten().enumerate() {
        let place = match (step["where"].as_str().unwrap_or_default(), wide) {
            ("", false) => String::new(),
            (place, false) => format!("  ({place})"),
            (place, true) => format!("  ({place} at {})", cell(step, "proxy")),
        };
        out.push_str(&format!("{:2} {:<9} {}{place}\n", index + 1, cell(step, "hop"), cell(step, "detail")));
    }
    for (label, member) in [("code", "code"), ("nearest", "nearest"), ("next", "next")] {
        if let Some(text) = answer[member].as_str().filter(|text| !text.is_empty()) {
            out.push_str(&format!("{label:<12} {text}\n"));
        }
    }
    out
}
