// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench consistency`: byrnie's coordinator of transactions beside dtm, by the same requests of dtm's own
//! API, with the same participants, on one disk, in one run. Every effect is counted at the participants:
//! one that is lost or doubled fails the bench. And what the ledger of keys costs, of byrnie alone.

mod disk;
mod driver;
mod figures;
mod keys;
mod options;
mod postgres;
mod subjects;

use super::process::Stage;
use anyhow::{Context, Result, bail};
use driver::{Faults, Load, Loaded, Parked, Waiting};
use figures::Figures;
use options::Options;
use postgres::Postgres;
use std::path::Path;
pub(crate) use subjects::install as install_dtm;
use subjects::{Subject, missing};

pub(super) const ABOUT: &str = "sagas beside dtm: rate, latency, a crash with many unfinished; keyed posts";

/// Clients of the load.
const CLIENTS: usize = 64;
/// Sagas a second where everybody gets the same.
const SAGA_RATE: u64 = 50;
/// Posts a second where their latency is measured.
const KEYED_RATE: u64 = 300;
/// Sagas that wait for participants which are down.
const WAITING: usize = 200;
/// Longest time that a recovery is waited for, in seconds, and that healing is, beyond the time of being down.
const RECOVERY_MAX: u64 = 240;

/// Measures and prints. Fails if an effect was lost or doubled, a saga was taken back, or a request failed.
pub(super) fn run(root: &Path, args: &[&str]) -> Result<()> {
    if args.first().is_some_and(|word| ["--help", "-h"].contains(word)) {
        print!("{}", options::USAGE);
        return Ok(());
    }
    let options = Options::parse(args)?;
    let stage = Stage::new(root)?;
    let mut bench = Bench { stage, options, figures: Figures::default(), bad: Vec::new(), runs: 0 };
    bench.all()?;
    if !bench.options.json {
        println!("\nconsistency: {ABOUT}");
        println!("{CLIENTS} clients; all of a subject on one processor, clients and participants on another");
    }
    bench.figures.print(bench.options.json)?;
    if !bench.options.json {
        println!(
            "\nONE/OTHER: the figure of one by that of the other, of the same round. Rates: above 1 is better; times: below 1."
        );
    }
    if bench.bad.is_empty() { Ok(()) } else { bail!("failed:\n  {}", bench.bad.join("\n  ")) }
}

/// Loads byrnie alone with sagas, then with keyed posts, for so many seconds each; how many of both were done.
pub(super) fn train(stage: &Stage, secs: u64) -> Result<(u64, u64)> {
    let subject = Subject::own(stage)?;
    subject.wait()?;
    let sagas = driver::load(stage, &subject, 1, Load { clients: CLIENTS, rate: None, secs })?;
    if sagas.errors > 0 {
        bail!("{} sagas failed", sagas.errors);
    }
    let pids = subject.processes();
    drop(subject);
    stage.have_counted(&pids)?;
    let mut pair = keys::Pair::start(stage, "keys", None)?;
    let posts = pair.load(stage, pair.entries[0], 0, secs)?;
    let pids = pair.pids();
    drop(pair);
    stage.have_counted(&pids)?;
    Ok((sagas.requests, posts.requests))
}

struct Bench {
    stage: Stage,
    options: Options,
    figures: Figures,
    /// What must not be.
    bad: Vec<String>,
    /// Loads so far: each has ids of its own.
    runs: u32,
}

impl Bench {
    fn all(&mut self) -> Result<()> {
        let others = ["sagas", "recovery", "healing"];
        if others.iter().any(|part| self.options.has(part)) {
            let mut subjects = Subject::all(&self.stage, &self.options)?;
            for round in 0..self.options.rounds {
                self.disk()?;
                for turn in 0..subjects.len() {
                    let at = (round + turn) % subjects.len();
                    let subject = &mut subjects[at];
                    self.one(subject).with_context(|| subject.name)?;
                }
            }
            for metric in ["branch_calls_per_second", "cpu_us_per_branch_call"] {
                self.figures.compare("sagas-64", metric);
            }
            for workload in ["sagas-1", "sagas-half", "sagas-paced"] {
                self.figures.compare(workload, "latency_p50_us");
                self.figures.compare(workload, "latency_p99_us");
            }
            self.figures.compare("recovery", "recovered_per_second");
            self.figures.compare("healing", "healing_seconds");
        }
        if self.options.has("keys") {
            self.keys()?;
        }
        Ok(())
    }

    fn disk(&mut self) -> Result<()> {
        let (rate, median) = disk::measure(&self.stage)?;
        self.figures.put("disk", ("fdatasync", "-"), "syncs_per_second", rate);
        self.figures.put("disk", ("fdatasync", "-"), "latency_p50_us", median);
        Ok(())
    }

    /// One subject's turn of a round.
    fn one(&mut self, subject: &mut Subject) -> Result<()> {
        if self.options.has("sagas") {
            self.loads(subject)?;
        }
        if self.options.has("recovery") {
            self.recovery(subject)?;
        }
        if self.options.has("healing") {
            self.healing(subject)?;
        }
        Ok(())
    }

    fn next_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs
    }

    fn loads(&mut self, subject: &Subject) -> Result<()> {
        let secs = self.options.secs;
        let peak = self.load("sagas-64", subject, Load { clients: CLIENTS, rate: None, secs })?;
        self.load("sagas-1", subject, Load { clients: 1, rate: None, secs })?;
        let half = (peak.requests as f64 / peak.seconds / 2.0).round().max(1.0) as u64;
        self.load("sagas-half", subject, Load { clients: CLIENTS, rate: Some(half), secs })?;
        self.load("sagas-paced", subject, Load { clients: CLIENTS, rate: Some(SAGA_RATE), secs })?;
        Ok(())
    }

    fn load(&mut self, workload: &'static str, subject: &Subject, load: Load) -> Result<Loaded> {
        let run = self.next_run();
        let loaded = driver::load(&self.stage, subject, run, load).context(workload)?;
        let mut put = |metric, value| self.figures.put(workload, (subject.name, &subject.version), metric, value);
        put("branch_calls_per_second", loaded.calls as f64 / loaded.seconds);
        put("sagas_per_second", loaded.requests as f64 / loaded.seconds);
        put("latency_p50_us", loaded.p50_us as f64);
        put("latency_p99_us", loaded.p99_us as f64);
        put("cpu_us_per_branch_call", loaded.cpu_us);
        let name = subject.name;
        if loaded.errors > 0 {
            self.bad.push(format!("{workload} {name}: {} sagas failed", loaded.errors));
        }
        self.bad.extend(wrong(workload, name, loaded.faults));
        Ok(loaded)
    }

    fn recovery(&mut self, subject: &mut Subject) -> Result<()> {
        let run = self.next_run();
        let (own, peers) = self.options.parked;
        let count = if subject.mesh().is_some() { own } else { peers };
        let parked = driver::recover(&self.stage, subject, run, count, RECOVERY_MAX).context("recovery")?;
        let name = (subject.name, &*subject.version);
        self.figures.put("recovery", name, "unfinished_sagas", parked.sagas as f64);
        self.figures.put("recovery", name, "recovery_seconds", parked.seconds);
        self.figures.put("recovery", name, "first_seconds", parked.first);
        let taken = (parked.seconds - parked.first).max(0.001);
        self.figures.put("recovery", name, "recovered_per_second", parked.finished as f64 / taken);
        self.bad.extend(unfinished("recovery", subject.name, parked));
        Ok(())
    }

    fn healing(&mut self, subject: &Subject) -> Result<()> {
        let waiting = Waiting { count: WAITING, down: self.options.down, limit: self.options.down * 2 + RECOVERY_MAX };
        let mut put = |name: &str, parked: Parked| {
            self.figures.put("healing", (name, &subject.version), "first_seconds", parked.first);
            self.figures.put("healing", (name, &subject.version), "healing_seconds", parked.seconds);
            self.bad.extend(unfinished("healing", name, parked));
        };
        self.runs += 2;
        put(subject.name, driver::heal(&self.stage, subject, self.runs - 1, waiting).context("healing")?);
        if let Some(mesh) = subject.mesh().filter(|_| subject.name == "byrnie") {
            let parked = driver::heal_services(&self.stage, (subject, mesh), self.runs, waiting);
            put("byrnie-services", parked.context("healing of services")?);
        }
        Ok(())
    }

    fn keys(&mut self) -> Result<()> {
        let secs = self.options.secs;
        let mut pair = keys::Pair::start(&self.stage, "keys", None).context("keys")?;
        let mut entries = vec![(pair.entries[0], "byrnie"), (pair.entries[1], "byrnie-no-policy")];
        let database = match missing(&["initdb", "postgres"]) {
            None => Some(Postgres::start(&self.stage, "")?),
            Some(program) => {
                eprintln!("skipped: byrnie-postgres needs {program} on PATH");
                None
            }
        };
        let shared = database.as_ref().map(|database| {
            let url = format!("postgresql://postgres@127.0.0.1:{}/postgres", database.port);
            keys::Pair::start(&self.stage, "keys-postgres", Some(&url)).context("keys in PostgreSQL")
        });
        let shared = shared.transpose()?;
        entries.extend(shared.iter().map(|shared| (shared.entries[0], "byrnie-postgres")));
        for round in 0..self.options.rounds {
            if !self.options.has("sagas") {
                self.disk()?;
            }
            let mut medians = vec![0.0; entries.len()];
            for turn in 0..entries.len() {
                let at = (round + turn) % entries.len();
                let (entry, subject) = entries[at];
                let full = pair.load(&self.stage, entry, 0, secs).context(subject)?;
                let paced = pair.load(&self.stage, entry, KEYED_RATE, secs).context(subject)?;
                let mut put = |workload, metric, value| {
                    self.figures.put(workload, (subject, &pair.version), metric, value);
                };
                put("keys-64", "requests_per_second", full.requests as f64 / full.seconds);
                put("keys-64", "latency_p50_us", full.p50_us as f64);
                put("keys-64", "latency_p99_us", full.p99_us as f64);
                put("keys-paced", "latency_p50_us", paced.p50_us as f64);
                put("keys-paced", "latency_p99_us", paced.p99_us as f64);
                medians[at] = paced.p50_us as f64;
            }
            for ((_, subject), median) in
                entries.iter().zip(&medians).filter(|((_, name), _)| *name != "byrnie-no-policy")
            {
                let added = median - medians[1];
                self.figures.put("keys-paced", (subject, &pair.version), "latency_p50_added_us", added);
            }
        }
        Ok(())
    }
}

/// What must not have happened to effects.
fn wrong(workload: &str, name: &str, faults: Faults) -> Option<String> {
    let Faults { lost, doubled, undone } = faults;
    let bad = lost + doubled + undone > 0;
    bad.then(|| format!("{workload} {name}: {lost} effects lost, {doubled} doubled, {undone} taken back"))
}

/// After a crash or a time of being down a repeated call is nothing bad by itself, but here none has had an effect
/// before: so each has one at last, and no more.
fn unfinished(workload: &str, name: &str, parked: Parked) -> Vec<String> {
    let Parked { sagas, early, finished, said, faults, .. } = parked;
    let early = (early > 0).then(|| format!("{workload} {name}: {early} of {sagas} sagas didn't wait for it"));
    let short = finished < sagas || said < sagas;
    let short = short
        .then(|| format!("{workload} {name}: of {sagas} sagas {finished} took effect, {said} are said to be done"));
    early.into_iter().chain(short).chain(wrong(workload, name, faults)).collect()
}
