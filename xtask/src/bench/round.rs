// SPDX-License-Identifier: Apache-2.0
//! Rounds: every subject of a workload is started once, then they take turns, beginning with another
//! one each time, so that a noisy minute hits all of them alike.

use super::load::Seen;
use super::options::Options;
use super::process::{Process, Side, Stage, free_port, loopback, wait_well};
use super::{Workload, byrnie, cpu, peers};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

/// A proxy, or a pair of them, that runs.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) version: String,
    /// Where the client enters.
    pub(super) entry: SocketAddr,
    /// The proxies, whose CPU time is counted: A before B.
    pub(super) proxies: Vec<Process>,
    /// What must run beside and isn't counted.
    pub(super) beside: Vec<Process>,
}

/// One subject's measurements, one per round.
pub(super) struct Cell {
    pub(super) workload: Workload,
    pub(super) subject: &'static str,
    pub(super) version: String,
    pub(super) samples: Vec<Sample>,
    error: Option<String>,
}

/// What one round showed.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) seen: Seen,
    /// CPU microseconds per request, of each proxy.
    pub(super) each: Vec<f64>,
    /// Processors that were busy with something else meanwhile.
    pub(super) noise: f64,
}

impl Cell {
    /// What was wrong, if anything.
    pub(super) fn failure(&self) -> Option<String> {
        let of = |what: &str| format!("{} {}: {what}", self.workload.name(), self.subject);
        if let Some(error) = &self.error {
            return Some(of(error));
        }
        let errors: u64 = self.samples.iter().map(|sample| sample.seen.errors).sum();
        (errors > 0).then(|| of(&format!("{errors} errors")))
    }
}

/// Measures all subjects of a workload.
pub(super) fn measure(stage: &Stage, options: &Options, workload: Workload) -> Result<Vec<Cell>> {
    let app = loopback(free_port()?);
    let origin = stage.tool(Side::Load, "origin", &["bench-origin", &app.to_string()])?;
    wait_well("the app", app)?;
    let mut subjects = peers::start(stage, options, workload, app)?;
    if workload == Workload::Mtls {
        subjects.push(byrnie::start(stage, app)?);
    }
    let mut cells: Vec<Cell> = subjects.iter().map(|subject| cell(workload, subject)).collect();
    for subject in &subjects {
        wait_well(subject.name, subject.entry)?;
    }
    for round in 0..options.rounds {
        for turn in 0..subjects.len() {
            let at = (round + turn) % subjects.len();
            if cells[at].error.is_some() {
                continue;
            }
            match sample(stage, options, &subjects[at], &origin) {
                Ok(sample) => cells[at].samples.push(sample),
                Err(error) => cells[at].error = Some(format!("{error:#}")),
            }
        }
    }
    Ok(cells)
}

fn cell(workload: Workload, subject: &Subject) -> Cell {
    Cell { workload, subject: subject.name, version: subject.version.clone(), samples: Vec::new(), error: None }
}

/// CPU times at one moment.
struct Reading {
    each: Vec<u64>,
    /// Of all that belongs to the bench.
    own: u64,
    machine: u64,
}

fn read(subject: &Subject, load: u32, origin: &Process) -> Reading {
    let each: Vec<u64> = subject.proxies.iter().map(|proxy| cpu::nanos(&[proxy.pid()])).collect();
    let mut others = vec![load, origin.pid()];
    others.extend(subject.beside.iter().map(Process::pid));
    let own = each.iter().sum::<u64>() + cpu::nanos(&others);
    Reading { each, own, machine: cpu::machine_nanos() }
}

fn sample(stage: &Stage, options: &Options, subject: &Subject, origin: &Process) -> Result<Sample> {
    let load = options.load;
    let words = [
        "bench-load".to_owned(),
        subject.entry.to_string(),
        load.connections.to_string(),
        load.rate.to_string(),
        load.size.to_string(),
        load.span.as_secs().to_string(),
    ];
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = Load(stage.load(&args).stdout(Stdio::piped()).spawn()?);
    let pid = child.0.id();
    let mut lines = BufReader::new(child.0.stdout.take().context("no output")?).lines();
    let mut next = || lines.next().context("the load ended early")?.context("the load's output");
    let first = mark(&next()?, "begin")?;
    let before = read(subject, pid, origin);
    let last = mark(&next()?, "end")?;
    let after = read(subject, pid, origin);
    let seen: Seen = serde_json::from_str(&next()?)?;
    let requests = last - first;
    if requests == 0 {
        bail!("no request was answered, {} errors", seen.errors);
    }
    let per_request = |(after, before): (&u64, &u64)| after.saturating_sub(*before) as f64 / requests as f64 / 1000.0;
    let each = after.each.iter().zip(&before.each).map(per_request).collect();
    let others = (after.machine - before.machine).saturating_sub(after.own.saturating_sub(before.own));
    Ok(Sample { seen, each, noise: others as f64 / 1e9 / seen.seconds })
}

/// The load generator; it ends by itself, and with its owner.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mark(line: &str, word: &str) -> Result<u64> {
    let number = line.strip_prefix(word).with_context(|| format!("`{line}` where `{word} N` was expected"))?;
    Ok(number.trim().parse()?)
}
