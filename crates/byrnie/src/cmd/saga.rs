// SPDX-License-Identifier: Apache-2.0
//! `byrnie saga`: transactions across services. Lists them, shows one with all that happened to it, starts
//! one from a file, and lets an operator step in.

use crate::console::{Console, query};
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output::{self, Table, Tone, cell};
use serde_json::{Value, json};
use std::io::Read as _;

const EXAMPLES: &str = "Examples:
  byrnie saga list --state STUCK
  byrnie saga show 01995b5e-8d1c-7a30-9d4e-2f6a1c0b7e55
  byrnie saga start order.json --wait 10
  byrnie saga start - --mode message < order.json
  byrnie saga start place-order --input '{\"order\": 42, \"sku\": \"a1\", \"amount\": 30}' --wait 10";

const START_EXAMPLES: &str = "Examples:
  byrnie saga start order.json --wait 10
  byrnie saga start place-order --input '{\"order\": 42, \"sku\": \"a1\", \"amount\": 30}' --wait 10

What order.json may hold:
  {\"branches\": [
    {\"name\": \"stock\", \"action\": \"POST inventory/reserve\", \"compensate\": \"POST inventory/release\", \"body\": {\"sku\": \"a1\"}},
    {\"name\": \"pay\", \"action\": \"POST payments/charge\", \"pivot\": true, \"after\": [\"stock\"], \"body\": {\"amount\": 30}}]}";

/// Transactions across services: list, show, start, cancel, retry, skip, resolve
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// The newest transactions
    #[command(after_help = EXAMPLES)]
    List {
        /// Only those in this state, such as RUNNING, COMPENSATED, STUCK
        #[arg(long, default_value = "")]
        state: String,
        /// Only those that call this service
        #[arg(long, default_value = "")]
        service: String,
    },
    /// One transaction: how it stands, and everything that happened
    #[command(after_help = EXAMPLES)]
    Show {
        /// Its id
        id: String,
    },
    /// Begin a transaction; with --wait, the exit status says whether it was done within that time
    #[command(after_help = START_EXAMPLES)]
    Start {
        /// A file with its JSON, `-` for standard input; with --input, the name of a Saga
        what: std::path::PathBuf,
        /// What to start a Saga with: JSON, or @FILE
        #[arg(long, value_name = "JSON", conflicts_with = "mode")]
        input: Option<String>,
        /// The id of what is started; the same id is the same transaction
        #[arg(long)]
        id: Option<String>,
        /// What a file holds
        #[arg(long, value_enum, default_value_t)]
        mode: Mode,
        /// Wait for its outcome, at most so many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=25))]
        wait: u64,
    },
    /// Take the way back: undo what was done
    #[command(after_help = EXAMPLES)]
    Cancel {
        /// Its id
        id: String,
        /// Why
        #[arg(long, default_value = "cancelled by an operator")]
        reason: String,
    },
    /// Have what is stuck called again
    #[command(after_help = EXAMPLES)]
    Retry {
        /// Its id
        id: String,
    },
    /// Take what is stuck in one branch for done, as it was done by other means
    #[command(after_help = EXAMPLES)]
    Skip {
        /// Its id
        id: String,
        /// The branch
        branch: String,
    },
    /// Declare all of a stuck transaction settled; nobody is called any more
    #[command(after_help = EXAMPLES)]
    Resolve {
        /// Its id
        id: String,
        /// In what way it was settled
        #[arg(long)]
        reason: String,
    },
}

/// Kinds of transactions.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
enum Mode {
    /// Actions in an order, each with a compensation
    #[default]
    Saga,
    /// Calls that are made until they succeed
    Message,
    /// Try, then confirm or cancel
    Tcc,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let console = Console::find(globals)?;
    let command = |id: &str, verb: &str, body: &Value| -> anyhow::Result<Exit> {
        let answer = console.post(&format!("/txn/v1/{id}:{verb}"), body)?;
        output::print(globals, &answer, |_| line(globals, &answer))?;
        Ok(Exit::Fine)
    };
    match &args.command {
        Verb::List { state, service } => {
            let path = format!("/txn/v1{}", query(&[("state", state), ("service", service)]));
            let (answer, cut) = console.read_with(&path, "txn-list-cut")?;
            output::print(globals, &answer, |wide| list(&answer, wide))?;
            if let Some(cut) = cut {
                eprintln!("note: {cut}; --state and --service narrow the list");
            }
            Ok(Exit::Fine)
        }
        Verb::Show { id } => {
            let mut answer = console.get(&format!("/txn/v1/{id}"))?;
            answer["events"] = console.get(&format!("/txn/v1/{id}/events"))?;
            output::print(globals, &answer, |_| show(globals, &answer))?;
            Ok(Exit::Fine)
        }
        Verb::Start { what, input, id, mode, wait } => {
            let asked = match input {
                Some(input) => json!({
                    "definition": named(what, globals)?,
                    "input": read_input(input)?,
                    "id": id,
                }),
                None => with_id(read(what)?, id.as_deref())?,
            };
            let place = match mode {
                Mode::Saga => "sagas",
                Mode::Message => "messages",
                Mode::Tcc => "tcc",
            };
            let answer = console.post(&format!("/txn/v1/{place}?wait={wait}"), &asked)?;
            output::print(globals, &answer, |_| line(globals, &answer))?;
            Ok(match answer["state"].as_str().unwrap_or_default() {
                "SUCCEEDED" | "DELIVERED" | "CONFIRMED" => Exit::Fine,
                "COMPENSATED" | "CANCELLED" | "ABORTED" | "STUCK" | "RESOLVED" => Exit::Problem,
                _ if *wait == 0 => Exit::Fine,
                state => {
                    let id = cell(&answer, "id");
                    eprintln!("note: still {state} after {wait} s; `byrnie saga show {id}` says how it goes on");
                    Exit::Problem
                }
            })
        }
        Verb::Cancel { id, reason } => command(id, "cancel", &json!({"reason": reason})),
        Verb::Retry { id } => command(id, "retry", &json!({})),
        Verb::Skip { id, branch } => command(id, "skip", &json!({"branch": branch})),
        Verb::Resolve { id, reason } => command(id, "resolve", &json!({"reason": reason})),
    }
}

/// A transaction as a file has it, under this id if one is given.
fn with_id(mut asked: Value, id: Option<&str>) -> Result<Value, Failure> {
    let Some(id) = id else { return Ok(asked) };
    if let Some(other) = asked["id"].as_str().filter(|other| *other != id) {
        return Err(Failure::usage(format!("--id is {id}, and the file says {other}")).next("give one of the two"));
    }
    // What is no object is refused as such by the console.
    if let Some(members) = asked.as_object_mut() {
        members.insert("id".to_owned(), json!(id));
    }
    Ok(asked)
}

/// `NAMESPACE/NAME` of a Saga.
fn named(what: &std::path::Path, globals: &Globals) -> Result<String, Failure> {
    let name = what.to_str().map(|name| name.strip_prefix("saga/").unwrap_or(name));
    let plain = name.filter(|name| !name.is_empty() && !name.contains('/'));
    let name = plain.ok_or_else(|| {
        Failure::usage(format!("{}: with --input, this is the name of a Saga", what.display()))
            .next("byrnie get sagas; -n NAMESPACE names its namespace")
    })?;
    Ok(format!("{}/{name}", globals.namespace()))
}

fn read_input(input: &str) -> Result<Value, Failure> {
    match input.strip_prefix('@') {
        Some(file) => read(std::path::Path::new(file)),
        None => parse(input, "--input", "--input '{\"order\": 7}', or --input @FILE"),
    }
}

fn read(file: &std::path::Path) -> Result<Value, Failure> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|error| {
        let failure = crate::failure::of_file(file, &error);
        let bare = file.components().count() == 1 && error.kind() == std::io::ErrorKind::NotFound;
        if bare {
            failure.next("write a path of a file, or --input JSON to start the Saga of this name")
        } else {
            failure
        }
    })?;
    parse(&text, &file.display().to_string(), "see examples/06-saga/order.json")
}

fn parse(text: &str, place: &str, next: &str) -> Result<Value, Failure> {
    let why = match serde_json::from_str(text) {
        Ok(value) => match byrnie_model::json::repeated(text.as_bytes()) {
            None => return Ok(value),
            Some(why) => why,
        },
        Err(error) => format!("not JSON: {error}"),
    };
    Err(Failure::usage(format!("{place}: {why}")).next(next))
}

fn list(answer: &Value, wide: bool) -> String {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "there is no such transaction\n".to_owned();
    }
    let mut table = Table::new(&["ID", "MODE", "STATE", "CREATED", "REASON", "CREATOR"]).narrow(5);
    for row in rows {
        let created = row["created"].as_u64().map_or_else(|| "-".to_owned(), super::history::when);
        let cells = [
            cell(row, "id"),
            cell(row, "mode"),
            cell(row, "state"),
            created,
            cell(row, "reason"),
            cell(row, "creator"),
        ];
        table.rows.push(cells.to_vec());
    }
    table.render(wide)
}

/// State and reason in one line.
fn line(globals: &Globals, answer: &Value) -> String {
    let state = cell(answer, "state");
    let tone = match state.as_str() {
        "COMPENSATED" | "CANCELLED" | "ABORTED" | "STUCK" | "RESOLVED" => Tone::Bad,
        _ => Tone::Good,
    };
    let reason = answer["reason"].as_str().filter(|reason| !reason.is_empty());
    let reason = reason.map_or_else(String::new, |reason| format!("  {reason}"));
    format!("{}  {}{reason}\n", output::paint(globals, tone, &state), cell(answer, "id"))
}

fn show(globals: &Globals, answer: &Value) -> String {
    let mut out = line(globals, answer);
    let above = answer["parent"]["id"].as_str().map_or_else(String::new, |id| format!(", a part of {id}"));
    out.push_str(&format!("{} by {}{above}\n\n", cell(answer, "mode"), cell(answer, "creator")));
    let mut branches = Table::new(&["BRANCH", "CALL", "TARGET", "STATE", "AFTER"]);
    for branch in answer["branches"].as_array().into_iter().flatten() {
        let after: Vec<&str> = branch["after"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (op, call) in branch["calls"].as_object().into_iter().flatten() {
            let mut target = cell(call, "target");
            if let Some(id) = branch["child"]["id"].as_str() {
                target = format!("{target}: {id} {}", cell(&branch["child"], "state"));
            }
            let row = [cell(branch, "name"), op.clone(), target, cell(call, "state"), after.join(",")];
            branches.rows.push(row.to_vec());
        }
    }
    out.push_str(&branches.render(true));
    let begun = answer["created"].as_u64().unwrap_or_default();
    let mut events = Table::new(&["AFTER", "WHAT", "BRANCH", "CALL", "TRY", "DETAIL"]).numbers(&[0, 4]);
    for event in answer["events"].as_array().into_iter().flatten() {
        let after = event["at"].as_u64().unwrap_or_default().saturating_sub(begun);
        let mut detail = event["detail"].as_str().unwrap_or_default().replace('\n', " ");
        if let Some(by) = event["by"].as_str().filter(|by| !by.is_empty()) {
            detail = format!("{detail} (by {by})").trim().to_owned();
        }
        let row = [
            format!("{after}ms"),
            cell(event, "what"),
            cell(event, "branch"),
            cell(event, "op"),
            cell(event, "attempt"),
            detail,
        ];
        events.rows.push(row.to_vec());
    }
    out.push('\n');
    out.push_str(&events.render(true));
    out
}
