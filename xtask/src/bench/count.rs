// SPDX-License-Identifier: Apache-2.0
//! What doesn't depend on the machine's mood: user-space instructions of each request, counted by
//! callgrind as the difference of a long and a short run, and system calls, counted by strace while a
//! load runs.

use super::options::Options;
use super::peers::{self, Http2, Role, Tls};
use super::process::{Process, Side, Stage, free_port, is_on_path, loopback, wait_open};
use super::report::{Draw, Figure, Metric, Row, Table};
use super::round::{self, App};
use super::workload::{Path, Workload};
use super::{byrnie, cpu};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Requests of the short and of the long run.
const SHORT: u64 = 500;
const LONG: u64 = 2500;
/// Requests while system calls are counted: what 64 connections need to begin is hardly seen beside them.
const CALLS_REQUESTS: u64 = 20_000;
/// Connections while instructions are counted: the order of events hardly matters then.
pub(super) const CONNECTIONS: usize = 8;

/// Counts for each subject that isn't too slow under callgrind.
pub(super) fn measure(stage: &Stage, options: &Options, workload: &Workload) -> Result<Table> {
    for tool in ["valgrind", "strace"] {
        if !is_on_path(tool) {
            bail!("{tool} is needed (Debian: {tool})");
        }
    }
    let app = App::start(stage)?;
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    let peers = ["haproxy", "nginx", "envoy"];
    for name in peers.into_iter().filter(|name| options.wants(name).0).chain(["byrnie"]) {
        match row(stage, workload, name, &app) {
            Ok(row) => rows.push(row),
            Err(error) => failed.push(format!("{} {name}: {error:#}", workload.name)),
        }
    }
    let metric = |name, title, draw| Metric { name, title, draw };
    let metrics = vec![
        metric("user_instructions_per_request", "instructions", Draw::Main),
        metric("syscalls_per_request", "system calls", Draw::Hundredths),
    ];
    let head = format!("{} B answers; instructions at {CONNECTIONS} connections, calls at 64", workload.load.size);
    Ok(Table { workload: *workload, head, metrics, rows, failed })
}

fn row(stage: &Stage, workload: &Workload, name: &'static str, app: &App) -> Result<Row> {
    let short = instructions(stage, workload, name, app, SHORT)?;
    let long = instructions(stage, workload, name, app, LONG)?;
    let each = long.saturating_sub(short) as f64 / (LONG - SHORT) as f64;
    let calls = calls(stage, workload, name, app)?;
    let figures = [each, calls].into_iter().map(|figure| Figure::among(vec![figure])).collect();
    let version = if name == "byrnie" { stage.version(byrnie::VERSION) } else { String::new() };
    Ok(Row { subject: name, version, figures, remark: String::new() })
}

/// How one hop of a subject is started, and where it takes connections if that's known before.
pub(super) fn command(stage: &Stage, name: &str, app: &App) -> Result<(PathBuf, Vec<String>, Option<SocketAddr>)> {
    if name == "byrnie" {
        return Ok((stage.tool.clone(), byrnie::hop_words(stage, Path::Hop, app.clear[0], &app.secure), None));
    }
    let listen = loopback(free_port()?);
    let role = Role {
        name: format!("{name}-count"),
        listen,
        next: app.clear[..1].to_vec(),
        tls: Tls::None,
        http2: Http2::Neither,
        edits: false,
        opaque: false,
    };
    let (program, mut args) = peers::command(stage, name, &role)?;
    if name == "nginx" {
        // A master that ends first takes its worker's count with it.
        args.extend(["-g".to_owned(), "master_process off;".to_owned()]);
    }
    Ok((program, args, Some(listen)))
}

fn start(stage: &Stage, name: &str, app: &App, under: &[String]) -> Result<(Process, SocketAddr)> {
    let (program, args, listen) = command(stage, name, app)?;
    let program = program.to_string_lossy().into_owned();
    let words: Vec<&str> = under.iter().chain([&program]).chain(&args).map(String::as_str).collect();
    let process = stage.start(Side::Proxy, "counted", words[0], &words[1..])?;
    let entry = match listen {
        Some(listen) => listen,
        None => byrnie::said_ready(stage, "counted")?,
    };
    wait_open(name, entry)?;
    Ok((process, entry))
}

/// Instructions of a whole run with so many requests.
fn instructions(stage: &Stage, workload: &Workload, name: &str, app: &App, requests: u64) -> Result<u64> {
    let (_, mut under) = callgrind(stage)?;
    under.push("--trace-children=yes".to_owned());
    let (process, entry) = start(stage, name, app, &under)?;
    ask(stage, workload, entry, requests, &[format!("connections={CONNECTIONS}")])?;
    drop(process);
    let mut sum = 0;
    for path in outputs(stage)? {
        sum += total_in(&std::fs::read_to_string(&path)?).unwrap_or(0);
    }
    if sum == 0 { bail!("callgrind counted nothing") } else { Ok(sum) }
}

/// The words that run a program under callgrind, and how its files are called before their dots. Earlier ones are gone.
pub(super) fn callgrind(stage: &Stage) -> Result<(PathBuf, Vec<String>)> {
    let pattern = stage.dir.join("callgrind");
    for old in outputs(stage)? {
        std::fs::remove_file(old)?;
    }
    let file = format!("--callgrind-out-file={}.%p", pattern.display());
    Ok((pattern, vec!["valgrind".to_owned(), "--tool=callgrind".to_owned(), file]))
}

/// The instructions in one of callgrind's files.
pub(super) fn total_in(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: ")));
    total?.trim().parse().ok()
}

/// Has the client ask so often, told `more` than what its load says; how many requests were answered.
pub(super) fn ask(stage: &Stage, workload: &Workload, to: SocketAddr, requests: u64, more: &[String]) -> Result<u64> {
    let mut words = round::words(stage, workload, to);
    words.extend_from_slice(more);
    words.extend([format!("requests={requests}"), "secs=60".to_owned()]);
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = stage.client(&args).stderr(Stdio::inherit()).output()?;
    let seen: round::Seen = serde_json::from_slice(&output.stdout).context("the client's output")?;
    if seen.errors > 0 || seen.requests < requests {
        bail!("{} errors, {} of {requests} requests", seen.errors, seen.requests);
    }
    Ok(seen.requests)
}

/// The files that callgrind has left.
fn outputs(stage: &Stage) -> Result<Vec<PathBuf>> {
    let is_output =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("callgrind."));
    Ok(std::fs::read_dir(&stage.dir)?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_output).collect())
}

/// System calls of each request, on connections of which many have been asked before.
fn calls(stage: &Stage, workload: &Workload, name: &str, app: &App) -> Result<f64> {
    let (process, entry) = start(stage, name, app, &["env".to_owned()])?;
    // What only the first requests need isn't a request's price.
    ask(stage, workload, entry, SHORT, &[])?;
    let tracer = Tracer::attach(stage, "strace", process.pid())?;
    let requests = ask(stage, workload, entry, CALLS_REQUESTS, &[])?;
    Ok(tracer.calls()? as f64 / requests as f64)
}

/// An strace that counts the system calls of a process and those below it.
pub(super) struct Tracer {
    process: Process,
    file: PathBuf,
}

impl Tracer {
    /// Begins to count; its table goes to the file `name`.
    pub(super) fn attach(stage: &Stage, name: &str, pid: u32) -> Result<Self> {
        let file = stage.dir.join(name);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&file);
        let traced = cpu::tree(&[pid]);
        for pid in &traced {
            strace.args(["-p", &pid.to_string()]);
        }
        let mut process = Process::of(strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?);
        process.wait_for(" attached", traced.len())?;
        Ok(Self { process, file })
    }

    /// How many there were.
    pub(super) fn calls(self) -> Result<u64> {
        drop(self.process);
        total_calls(&std::fs::read_to_string(&self.file)?).context("strace's table")
    }
}

/// The number of calls in the last line of strace's table.
fn total_calls(table: &str) -> Option<u64> {
    let line = table.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instructions_of_a_dump_are_found() {
        assert_eq!(total_in("events: Ir\nsummary: 4217\n\nfn=main\n"), Some(4217));
        assert_eq!(total_in("events: Ir\nfn=main\ntotals: 12\n"), Some(12));
        assert_eq!(total_in("events: Ir\n"), None);
    }

    #[test]
    fn the_total_of_a_table_is_found() {
        let table = "    calls syscall\n--------- ----------------\n      100 recvfrom\n--------- ----------------\n      342 total\n";
        assert_eq!(total_calls(table), Some(342));
        assert_eq!(total_calls(""), None);
    }
}
