// SPDX-License-Identifier: Apache-2.0
//! The client of sagas and its participants, as a process beside the subjects. What it's told of a subject is an
//! address and credentials; the requests are the same for all.

use super::super::byrnie::Mesh;
use super::super::cpu;
use super::super::process::{Process, Stage, free_port, loopback, wait_for};
use super::subjects::Subject;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

/// What a load showed.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Loaded {
    /// Sagas that were done within the span.
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) seconds: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    /// Calls of branches within the span.
    pub(super) calls: u64,
    #[serde(flatten)]
    pub(super) faults: Faults,
    /// CPU time of the subject for each of them, in microseconds.
    #[serde(skip)]
    pub(super) cpu_us: f64,
}

/// What took effect and shouldn't have, or didn't and should have.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Faults {
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) undone: u64,
}

/// What became of sagas that stood still.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Parked {
    pub(super) sagas: usize,
    /// Those that didn't stand still as they should have.
    pub(super) early: usize,
    /// From the crash, or from participants being well, to the end of the first saga and of the last.
    pub(super) first: f64,
    pub(super) seconds: f64,
    pub(super) finished: usize,
    /// Those of which the coordinator says that they are done.
    pub(super) said: usize,
    #[serde(flatten)]
    pub(super) faults: Faults,
}

/// The load of one measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) clients: usize,
    /// Sagas a second in all; as fast as they are done if there is none.
    pub(super) rate: Option<u64>,
    pub(super) secs: u64,
}

/// Ends the client when it's dropped.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Client {
    fn start(
        stage: &Stage,
        subject: &Subject,
        run: u32,
        words: &[String],
    ) -> Result<(Self, Lines<BufReader<ChildStdout>>)> {
        let mut args = vec![
            "sagas".to_owned(),
            format!("to={}", subject.to),
            format!("token={}", subject.token),
            // Of one length, so that no id begins with another.
            format!("run={run:06}"),
        ];
        args.extend_from_slice(words);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = stage.client(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("no output")?;
        Ok((Self(child), BufReader::new(out).lines()))
    }

    /// Tells it that participants can be reached from now on.
    fn go(&mut self) -> Result<()> {
        Ok(writeln!(self.0.stdin.as_mut().context("no input")?, "go")?)
    }
}

fn accepted(lines: &mut Lines<BufReader<ChildStdout>>, count: usize) -> Result<()> {
    let said = next(lines)?;
    if said == format!("parked {count}") { Ok(()) } else { bail!("of {count} sagas that were to be accepted: {said}") }
}

fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    lines.next().context("the client of sagas ended early")?.context("the client of sagas")
}

/// Runs a load; `run` has to differ from that of any other at the same subject.
pub(super) fn load(stage: &Stage, subject: &Subject, run: u32, load: Load) -> Result<Loaded> {
    let words = [
        format!("clients={}", load.clients),
        format!("secs={}", load.secs),
        format!("rate={}", load.rate.unwrap_or(0)),
    ];
    let (_client, mut lines) = Client::start(stage, subject, run, &words)?;
    let processes = subject.processes();
    let mut nanos = |word: &str| -> Result<u64> {
        let line = next(&mut lines)?;
        if line == word { Ok(cpu::nanos(&processes)) } else { bail!("`{line}` where `{word}` was expected") }
    };
    let (before, after) = (nanos("begin")?, nanos("end")?);
    let mut loaded: Loaded = serde_json::from_str(&next(&mut lines)?)?;
    loaded.cpu_us = after.saturating_sub(before) as f64 / 1000.0 / loaded.calls.max(1) as f64;
    Ok(loaded)
}

/// Has `count` sagas accepted whose calls get no answer, ends the coordinator without a word and starts it again.
pub(super) fn recover(stage: &Stage, subject: &mut Subject, run: u32, count: usize, limit: u64) -> Result<Parked> {
    let words = [format!("park={count}"), format!("limit={limit}")];
    let (mut client, mut lines) = Client::start(stage, subject, run, &words)?;
    accepted(&mut lines, count)?;
    subject.crash(stage)?;
    client.go()?;
    let parked = serde_json::from_str(&next(&mut lines)?)?;
    subject.wait()?;
    Ok(parked)
}

/// Sagas that wait for participants which are down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) count: usize,
    /// For how long, in seconds, and how long their end is waited for.
    pub(super) down: u64,
    pub(super) limit: u64,
}

/// Participants at addresses, whose connections are closed for a while.
pub(super) fn heal(stage: &Stage, subject: &Subject, run: u32, waiting: Waiting) -> Result<Parked> {
    let Waiting { count, down, limit } = waiting;
    let words = [format!("park={count}"), format!("down={down}"), format!("limit={limit}")];
    let (_client, mut lines) = Client::start(stage, subject, run, &words)?;
    accepted(&mut lines, count)?;
    Ok(serde_json::from_str(&next(&mut lines)?)?)
}

/// Participants that are services of the subject's own mesh, and whose sidecars are killed and come back after a
/// while. The time counts from the start of the new ones.
pub(super) fn heal_services(
    stage: &Stage,
    (subject, mesh): (&Subject, &Mesh),
    run: u32,
    waiting: Waiting,
) -> Result<Parked> {
    const HOSTS: [&str; 2] = ["one", "two"];
    let Waiting { count, down, limit } = waiting;
    let places = [loopback(free_port()?), loopback(free_port()?)];
    let serve = || -> Result<Vec<Process>> {
        let each = HOSTS.iter().zip(places);
        each.map(|(name, at)| mesh.serve(stage, &format!("healing-{name}"), name, at)).collect()
    };
    // A service is known once it has run.
    let listeners: Vec<TcpListener> = places.iter().map(TcpListener::bind).collect::<Result<_, _>>()?;
    let mut sidecars = serve()?;
    for name in HOSTS {
        wait_for(&format!("{name} is known"), || mesh.tell(stage, &["get", "service", name]).is_ok())?;
        mesh.allow(stage, "web", name)?;
    }
    for sidecar in &mut sidecars {
        sidecar.kill()?;
    }
    drop(listeners);
    let words = [
        format!("park={count}"),
        "open=1".to_owned(),
        format!("limit={limit}"),
        format!("listen={},{}", places[0], places[1]),
        format!("hosts={}", HOSTS.join(",")),
    ];
    let (mut client, mut lines) = Client::start(stage, subject, run, &words)?;
    accepted(&mut lines, count)?;
    std::thread::sleep(Duration::from_secs(down));
    let _sidecars = serve()?;
    client.go()?;
    Ok(serde_json::from_str(&next(&mut lines)?)?)
}
