// SPDX-License-Identifier: Apache-2.0
//! Rounds: every subject of a workload is started once, then they take turns, beginning with another
//! one each time, so that a noisy minute hits all of them alike.

use super::options::Options;
use super::process::{Process, Side, Stage, free_port, wait_open, wait_well};
use super::workload::{Path, Workload};
use super::{byrnie, cpu, peers};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
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

/// What the client saw in the measured span.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Seen {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) seconds: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

/// The app, in clear and over mutual TLS, each at four addresses.
pub(super) struct App {
    pub(super) clear: Vec<SocketAddr>,
    pub(super) secure: Vec<SocketAddr>,
    /// Both processes.
    pub(super) processes: Vec<Process>,
}

/// Addresses of the app: so many endpoints has the workload with edits.
const ADDRESSES: u8 = 4;

impl App {
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let at = |port: u16| -> Vec<SocketAddr> {
            (1..=ADDRESSES).map(|last| (Ipv4Addr::new(127, 0, 0, last), port).into()).collect()
        };
        let (clear, secure) = (at(free_port()?), at(free_port()?));
        let listen = |addresses: &[SocketAddr]| {
            format!("listen={}", addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        };
        let pki = format!("pki={}", stage.pki.display());
        let processes = vec![
            stage.tool(Side::Load, "app", &["app", &listen(&clear)])?,
            stage.tool(Side::Load, "app-secure", &["app", &listen(&secure), &pki])?,
        ];
        wait_well("the app", clear[0])?;
        wait_open("the app", secure[0])?;
        Ok(Self { clear, secure, processes })
    }
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
        let of = |what: &str| format!("{} {}: {what}", self.workload.name, self.subject);
        if let Some(error) = &self.error {
            return Some(of(error));
        }
        let errors: u64 = self.samples.iter().map(|sample| sample.seen.errors).sum();
        (errors > 0).then(|| of(&format!("{errors} errors")))
    }
}

/// Measures all subjects of a workload.
pub(super) fn measure(stage: &Stage, options: &Options, workload: &Workload) -> Result<Vec<Cell>> {
    let app = App::start(stage)?;
    let subjects = subjects(stage, options, workload.path, &app)?;
    let mut cells: Vec<Cell> = subjects.iter().map(|subject| cell(*workload, subject)).collect();
    for round in 0..options.rounds {
        for turn in 0..subjects.len() {
            let at = (round + turn) % subjects.len();
            if cells[at].error.is_some() {
                continue;
            }
            match sample(stage, workload, &subjects[at], &app) {
                Ok(sample) => cells[at].samples.push(sample),
                Err(error) => cells[at].error = Some(format!("{error:#}")),
            }
        }
    }
    Ok(cells)
}

/// Starts everybody, and waits until all answer.
pub(super) fn subjects(stage: &Stage, options: &Options, path: Path, app: &App) -> Result<Vec<Subject>> {
    let mut subjects = peers::start(stage, options, path, &app.clear)?;
    subjects.push(byrnie::start(stage, path, app.clear[0], &app.secure)?);
    subjects.iter().try_for_each(|subject| wait(subject, path))?;
    Ok(subjects)
}

fn wait(subject: &Subject, path: Path) -> Result<()> {
    match path {
        Path::Hop | Path::Pair | Path::Tcp => wait_well(subject.name, subject.entry),
        // What asks for more than a plain request shows in the warm-up.
        Path::Edits | Path::Tls | Path::Http2 => wait_open(subject.name, subject.entry),
    }
}

/// Loads byrnie alone, until its processes have ended; how many requests it answered.
pub(super) fn train(stage: &Stage, workload: &Workload) -> Result<u64> {
    let app = App::start(stage)?;
    let subject = byrnie::start(stage, workload.path, app.clear[0], &app.secure)?;
    wait(&subject, workload.path)?;
    let seen = sample(stage, workload, &subject, &app)?.seen;
    if seen.errors > 0 {
        bail!("{} errors", seen.errors);
    }
    let pids: Vec<u32> = subject.proxies.iter().chain(&subject.beside).map(Process::pid).collect();
    drop(subject);
    stage.have_counted(&pids)?;
    Ok(seen.requests)
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

fn read(subject: &Subject, load: u32, app: &App) -> Reading {
    let each: Vec<u64> = subject.proxies.iter().map(|proxy| cpu::nanos(&[proxy.pid()])).collect();
    let mut others = vec![load];
    others.extend(app.processes.iter().map(Process::pid));
    others.extend(subject.beside.iter().map(Process::pid));
    let own = each.iter().sum::<u64>() + cpu::nanos(&others);
    Reading { each, own, machine: cpu::machine_nanos() }
}

fn sample(stage: &Stage, workload: &Workload, subject: &Subject, app: &App) -> Result<Sample> {
    let words = words(stage, workload, subject.entry);
    let args: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = Load(stage.client(&args).stdout(Stdio::piped()).spawn()?);
    let pid = child.0.id();
    let mut lines = BufReader::new(child.0.stdout.take().context("no output")?).lines();
    let mut next = || lines.next().context("the load ended early")?.context("the load's output");
    let first = mark(&next()?, "begin")?;
    let before = read(subject, pid, app);
    let last = mark(&next()?, "end")?;
    let after = read(subject, pid, app);
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

/// How the client is told what to do.
pub(super) fn words(stage: &Stage, workload: &Workload, to: SocketAddr) -> Vec<String> {
    let load = workload.load;
    vec![
        "load".to_owned(),
        format!("to={to}"),
        format!("kind={}", load.kind),
        format!("pki={}", stage.pki.display()),
        format!("connections={}", load.connections),
        format!("streams={}", load.streams),
        format!("rate={}", load.rate),
        format!("size={}", load.size),
        format!("many={}", u8::from(load.many)),
        format!("pieces={}", u8::from(load.pieces)),
        format!("secs={}", load.span.as_secs()),
    ]
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
