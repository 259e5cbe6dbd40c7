// SPDX-License-Identifier: Apache-2.0
//! Pairs of proxies at rest: memory when nothing has happened, how much each idle connection adds, and
//! how long it takes from the start of the pair to the first answer through it.

use super::options::Options;
use super::process::{Process, Side, Stage, first_line};
use super::report::{Draw, Figure, Metric, Row, Table};
use super::round::{self, App, Subject};
use super::workload::{Path, Workload};
use super::{byrnie, count, cpu, now};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

/// Idle connections through a pair.
const CONNECTIONS: u64 = 1000;
/// How long they're held: longer than it takes to read memory.
const HELD_SECONDS: u64 = 3;
const KIB: f64 = 1024.0;
/// Starts of which the median is taken.
const STARTS: usize = 5;
/// How often it's asked whether a proxy that was started answers.
const GLANCE: Duration = Duration::from_millis(1);
/// When it's given up.
const START_MAX: Duration = Duration::from_secs(10);

/// Measures each subject by itself.
pub(super) fn measure(stage: &Stage, options: &Options, workload: &Workload) -> Result<Table> {
    let app = App::start(stage)?;
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    let subjects = round::subjects(stage, options, Path::Pair, &app)?;
    for subject in &subjects {
        match row(stage, subject, &app) {
            Ok(row) => rows.push(row),
            Err(error) => failed.push(format!("{} {}: {error:#}", workload.name, subject.name)),
        }
    }
    let metric = |name, title, draw| Metric { name, title, draw };
    let metrics = vec![
        metric("idle_pair_connection_kib", "KiB/connection", Draw::Main),
        metric("idle_rss_a_mib", "A idle MiB", Draw::Tenths),
        metric("idle_rss_b_mib", "B idle MiB", Draw::Tenths),
        metric("first_answer_ms", "start ms", Draw::Tenths),
    ];
    let head = format!(
        "{CONNECTIONS} connections, one request each, then silence: PSS, growth of A and B together; start: one hop, \
         from its exec to the first answer through it, median of {STARTS}"
    );
    Ok(Table { workload: *workload, head, metrics, rows, failed })
}

fn row(stage: &Stage, subject: &Subject, app: &App) -> Result<Row> {
    let before: Vec<u64> = subject.proxies.iter().map(memory).collect();
    let grown = held(stage, subject)?.saturating_sub(before.iter().sum());
    let mib = |bytes: u64| bytes as f64 / KIB / KIB;
    let each = grown as f64 / CONNECTIONS as f64 / KIB;
    let figures = vec![each, mib(before[0]), mib(before.get(1).copied().unwrap_or(0))];
    let mut figures: Vec<Figure> = figures.into_iter().map(|figure| Figure::among(vec![figure])).collect();
    let starts = (0..STARTS).map(|_| first_answer(stage, subject.name, app)).collect::<Result<Vec<_>>>()?;
    figures.push(Figure::among(starts));
    Ok(Row { subject: subject.name, version: subject.version.clone(), figures, remark: String::new() })
}

/// Milliseconds from the start of one hop to the first answer through it.
fn first_answer(stage: &Stage, name: &str, app: &App) -> Result<f64> {
    let (program, args, listen) = count::command(stage, name, app)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let start = now();
    let _process = stage.start(Side::Proxy, "started", program, &args)?;
    loop {
        let entry = listen.or_else(|| byrnie::ready_in(stage, "started"));
        if entry.and_then(first_line).is_some_and(|line| line.contains(" 200")) {
            return Ok(start.elapsed().as_secs_f64() * 1000.0);
        }
        if start.elapsed() > START_MAX {
            bail!("no answer after {} s", START_MAX.as_secs());
        }
        std::thread::sleep(GLANCE);
    }
}

/// Memory of the proxies while the connections are held.
fn held(stage: &Stage, subject: &Subject) -> Result<u64> {
    let words = [
        "hold".to_owned(),
        format!("to={}", subject.entry),
        format!("connections={CONNECTIONS}"),
        format!("secs={HELD_SECONDS}"),
    ];
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut client = stage.client(&args).stdout(Stdio::piped()).spawn()?;
    let said = BufReader::new(client.stdout.take().context("no output")?).lines().next();
    let memory = subject.proxies.iter().map(memory).sum();
    let ended = client.wait()?;
    match said {
        Some(Ok(line)) if line == format!("held {CONNECTIONS}") && ended.success() => Ok(memory),
        other => bail!("connections could not be held: {other:?}"),
    }
}

/// Bytes that a proxy's processes hold; its wrapped program (`sleep`, `sh`) isn't the proxy's.
fn memory(proxy: &Process) -> u64 {
    cpu::memory(&[proxy.pid()], &["sleep", "sh"])
}
