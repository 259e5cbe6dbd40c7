// SPDX-License-Identifier: Apache-2.0
//! `byrnie upgrade`: new processes take over from the proxies that run, and nothing is refused or lost.

use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::handover::{DOOR, FORMAT, Request};
use crate::join;
use crate::output::{self, Table, cell};
use anyhow::{Context, Result};
use byrnie_model::code;
use byrnie_net::local::Talk;
use byrnie_net::runtime;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Name of what `up` runs: the edge, the egress, the proxy of the coordinator, and the control plane.
const MESH: &str = "mesh";
/// Longest time for the old to end.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// Replace running proxies by this version, without a gap
///
/// The new process takes over the listening sockets; the old one accepts nothing more, lets what it has under way end
/// until the deadline, and goes. Programs beside proxies stay as they are. It waits until the old ones have ended.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie upgrade
  byrnie upgrade hello payments-1f3a --drain 5m
  byrnie upgrade mesh --binary /opt/byrnie-0.2/byrnie")]
pub(crate) struct Args {
    /// Instances or services of `byrnie run`, and `mesh` for what `byrnie up` runs; all of this data directory unless given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How long what is under way may take to end: 500ms, 30s, 5m, 1h
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    drain: String,
    /// The new binary, if it isn't this one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, globals: &Globals) -> Result<Exit> {
    let drain = super::fault::span_of(&args.drain).filter(|drain| *drain <= DRAIN_MAX);
    let drain =
        drain.ok_or_else(|| Failure::usage("--drain: not a time of at most 24h, such as 500ms, 30s, 5m or 1h"))?;
    let binary = match &args.binary {
        Some(path) => path.canonicalize().map_err(|error| crate::failure::of_file(path, &error))?,
        None => std::env::current_exe().context("cannot find this binary's own path")?,
    };
    let request =
        Request { format: FORMAT, binary, drain_millis: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX) };
    let rows = runtime::block_on(upgrade(args, globals, &request)).context("cannot start the runtime")??;
    output::print(globals, &Value::Array(rows.clone()), |wide| draw(&rows, wide))?;
    Ok(Exit::Fine)
}

/// One after the other takes over; then all that were before end at once, and the control plane goes on in the new version.
async fn upgrade(args: &Args, globals: &Globals, request: &Request) -> Result<Vec<Value>> {
    let mut talks = Vec::new();
    let mut rows: Vec<Value> = Vec::new();
    let targets = targets(args, globals).await?;
    let asked = serde_json::to_string(request).context("cannot say what to do")?;
    for (name, door) in targets {
        let mut talk = Talk::open(&door).await.with_context(|| format!("{name} has ended"))?;
        talk.say(&asked).await.with_context(|| format!("{name} has ended"))?;
        let expected = if name == MESH { crate::mesh::PROXIES } else { 1 };
        for _ in 0..expected {
            let line = talk.next().await?.with_context(|| format!("{name} has ended"))?;
            let news: Value =
                serde_json::from_str(&line).with_context(|| format!("{name} says what makes no sense"))?;
            if news["news"] != "serves" {
                return Err(refusal(&name, news).into());
            }
            say(globals, &news);
            rows.push(news);
        }
        talks.push((name, talk));
    }
    let mut failed = None;
    for (name, mut talk) in talks {
        // Of the mesh, the control plane comes last.
        let mut open = name == MESH;
        while let Some(line) = talk.next().await? {
            let news: Value = serde_json::from_str(&line).unwrap_or_default();
            match news["news"].as_str() {
                Some("ended") => {
                    if let Some(row) = rows.iter_mut().find(|row| row["proxy"] == news["proxy"]) {
                        row["whole"] = news["whole"].clone();
                    }
                }
                Some("serves") => {
                    open = false;
                    say(globals, &news);
                    rows.push(news);
                }
                _ => {
                    open = false;
                    failed = Some(refusal("the control plane", news));
                }
            }
        }
        if open {
            failed = Some(Failure::new(code::HAND_OVER.id, "the control plane has not said that it goes on"));
        }
    }
    failed.map_or(Ok(rows), |failure| Err(failure.into()))
}

fn say(globals: &Globals, news: &Value) {
    if !globals.quiet {
        let (proxy, pid, millis) = (cell(news, "proxy"), cell(news, "pid"), cell(news, "millis"));
        eprintln!("  ✓ {proxy} is served by process {pid} after {millis} ms");
    }
}

fn refusal(name: &str, news: Value) -> Failure {
    let failure: Failure = serde_json::from_value(news).unwrap_or_default();
    let detail = format!("{name} is not upgraded: {}", failure.detail);
    Failure { exit: Exit::Problem, detail, ..failure }
}

/// Who is to be asked, and where: the mesh first.
async fn targets(args: &Args, globals: &Globals) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut found = Vec::new();
    let mut unknown = args.names.clone();
    let mut places = vec![(MESH.to_owned(), globals.data_dir.clone())];
    places.extend(join::instances(&globals.data_dir));
    for (name, folder) in places {
        let service = if name == MESH { None } else { join::owner(&folder) };
        let means = |word: &String| *word == name || Some(word.as_str()) == service;
        if !args.names.is_empty() && !args.names.iter().any(means) {
            continue;
        }
        let door = folder.join(DOOR);
        // One that was killed leaves its folder.
        if Talk::open(&door).await.is_ok() {
            unknown.retain(|word| !means(word));
            found.push((name, door));
        }
    }
    if found.is_empty() || !unknown.is_empty() {
        let what = match unknown.first() {
            Some(name) => format!("nothing called {name} runs here that could be upgraded"),
            None => "nothing runs here that could be upgraded".to_owned(),
        };
        let failure = Failure::new(code::NOT_FOUND.id, what).at(globals.data_dir.display().to_string());
        return Err(
            failure.next("check --data-dir and `byrnie proxies`; only the user who started a proxy may upgrade it")
        );
    }
    Ok(found)
}

fn draw(rows: &[Value], wide: bool) -> String {
    let mut table = Table::new(&["PROXY", "VERSION", "PROCESS", "TOOK", "THE OLD ONE"]);
    for row in rows {
        let ended = match row["whole"].as_bool() {
            Some(true) => "ended, nothing was cut".to_owned(),
            Some(false) => "ended; what was still open at the deadline was cut".to_owned(),
            None => "went on as the new one".to_owned(),
        };
        let took = format!("{} ms", cell(row, "millis"));
        table.rows.push(vec![cell(row, "proxy"), cell(row, "version"), cell(row, "pid"), took, ended]);
    }
    table.render(wide)
}
