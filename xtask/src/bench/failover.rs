// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench failover`: one of three endpoints dies (or stands still) every two seconds, under load.
//! Counts what a client notices: requests that fail, and what an origin notices: extra requests, and posts
//! that come twice. byrnie runs without any TrafficPolicy; what is killed there is the endpoint's proxy with all
//! that belongs to it. For peers it is a relay before the same origin.

mod client;
mod options;
mod origin;
mod subjects;

use super::process::Stage;
use anyhow::{Result, bail};
use client::Seen;
use options::Options;
use origin::Origins;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use subjects::Subject;

pub(super) const ABOUT: &str =
    "1 of 3 endpoints killed (or stopped) every 2 s: requests lost, extra load, posts sent twice";

/// Endpoints of the service.
const ENDPOINTS: usize = 3;
/// How often one of them goes.
const PERIOD: Duration = Duration::from_secs(2);
/// How long it is away.
const AWAY: Duration = Duration::from_millis(900);

/// What one subject showed.
struct Outcome {
    name: &'static str,
    version: String,
    seen: Seen,
    /// Requests that reached an origin, for each that was sent.
    upstream: f64,
    twice: usize,
    ejected: u32,
}

/// Measures and prints. Fails if byrnie lost a request that may be repeated, or sent a post twice.
pub(super) fn run(root: &Path, args: &[&str]) -> Result<()> {
    if args.first().is_some_and(|word| ["--help", "-h"].contains(word)) {
        print!("{}", options::USAGE);
        return Ok(());
    }
    let options = Options::parse(args)?;
    let stage = Stage::new(root)?;
    let mut outcomes = Vec::new();
    for name in subjects::NAMES {
        if !options.wants(name) {
            continue;
        }
        match measure(&stage, &options, name)? {
            Some(outcome) => outcomes.push(outcome),
            None => eprintln!("skipped: {name} isn't here (PATH; for Envoy, ENVOY_BIN names its binary)"),
        }
    }
    print(&options, &outcomes)?;
    let bad: Vec<String> = outcomes.iter().filter(|outcome| outcome.name == "byrnie").filter_map(wrong).collect();
    if bad.is_empty() { Ok(()) } else { bail!("byrnie: {}", bad.join(", ")) }
}

/// What no subject should do, and byrnie must not.
fn wrong(outcome: &Outcome) -> Option<String> {
    let Outcome { seen, twice, upstream, .. } = outcome;
    if seen.failed > 0 || *twice > 0 || *upstream > 1.2 {
        return Some(format!("{} lost, {twice} posts came twice, {upstream:.3} of the load upstream", seen.failed));
    }
    None
}

fn measure(stage: &Stage, options: &Options, name: &'static str) -> Result<Option<Outcome>> {
    let origins = Origins::start(ENDPOINTS)?;
    let Some(mut subject) = Subject::start(stage, name, &origins.ports)? else { return Ok(None) };
    super::process::wait_well(name, subject.entry)?;
    let before = origins.counts().0;
    let stop = Arc::new(AtomicBool::new(false));
    let (entry, load, ended) = (subject.entry, options.load, Arc::clone(&stop));
    let client = std::thread::spawn(move || {
        let seen = client::run(entry, load);
        ended.store(true, Ordering::SeqCst);
        seen
    });
    let ejected = harass(stage, &mut subject, options.mode, &stop)?;
    let seen = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    let (requests, twice) = origins.counts();
    let sent = seen.requests.max(1) as f64;
    let version = subject.version.clone();
    Ok(Some(Outcome { name, version, seen, upstream: (requests - before) as f64 / sent, twice, ejected }))
}

/// What happens to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// SIGKILL, and a new one after a while.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Stop,
}

/// Takes one endpoint after the other away until the load has ended; how often.
fn harass(stage: &Stage, subject: &mut Subject, mode: Mode, stop: &AtomicBool) -> Result<u32> {
    let mut times = 0;
    let rest = |span: Duration| {
        let start = super::now();
        while start.elapsed() < span && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    while !stop.load(Ordering::SeqCst) {
        let victim = times as usize % ENDPOINTS;
        times += 1;
        match mode {
            Mode::Kill => subject.kill(victim)?,
            Mode::Stop => subject.signal(victim, "-STOP")?,
        }
        rest(AWAY);
        match mode {
            Mode::Kill => subject.revive(stage, victim)?,
            Mode::Stop => subject.signal(victim, "-CONT")?,
        }
        rest(PERIOD - AWAY);
    }
    Ok(times)
}

fn print(options: &Options, outcomes: &[Outcome]) -> Result<()> {
    if options.json {
        println!("{}", serde_json::to_string(&document(options, outcomes))?);
        return Ok(());
    }
    println!("\nfailover: {ABOUT}");
    println!(
        "{} requests at {} a second, every tenth a post; {} connections; mode {:?}\n",
        options.load.requests, options.load.rate, options.load.connections, options.mode
    );
    println!(
        "{:<14} {:<9} {:>6} {:>9} {:>11} {:>12} {:>9} {:>10} {:>9} {:>9}",
        "subject",
        "version",
        "times",
        "requests",
        "lost (GET)",
        "lost (POST)",
        "twice",
        "upstream",
        "p99 ms",
        "worst ms"
    );
    for outcome in outcomes {
        let Outcome { name, version, seen, upstream, twice, ejected } = outcome;
        let ms = |micros: u64| micros as f64 / 1000.0;
        println!(
            "{name:<14} {version:<9} {ejected:>6} {:>9} {:>11} {:>12} {twice:>9} {upstream:>10.4} {:>9.1} {:>9.1}",
            seen.requests,
            seen.failed,
            seen.failed_posts,
            ms(seen.p99_us),
            ms(seen.worst_us)
        );
    }
    for Outcome { name, seen, .. } in outcomes.iter().filter(|outcome| !outcome.seen.causes.is_empty()) {
        let causes: Vec<_> = seen.causes.iter().map(|(cause, times)| format!("{times} x {cause}")).collect();
        println!("\n{name} lost: {}", causes.join(", "));
    }
    println!(
        "\nupstream: requests at the origins for each that a client sent. Posts that were not answered are no fault"
    );
    println!("of a proxy that may not send them twice.");
    Ok(())
}

fn document(options: &Options, outcomes: &[Outcome]) -> Value {
    let mut rows = Vec::new();
    for Outcome { name, version, seen, upstream, twice, .. } in outcomes {
        let metrics = [
            ("requests", seen.requests as f64),
            ("failed_idempotent", seen.failed as f64),
            ("failed_posts", seen.failed_posts as f64),
            ("posts_twice", *twice as f64),
            ("upstream_per_request", *upstream),
            ("latency_p99_us", seen.p99_us as f64),
            ("latency_max_us", seen.worst_us as f64),
        ];
        let workload = format!("failover-{:?}", options.mode).to_lowercase();
        rows.extend(metrics.map(|(metric, value)| {
            json!({"workload": workload, "subject": name, "version": version, "metric": metric,
                "median": value, "min": value, "max": value, "rounds": 1})
        }));
    }
    json!({"bench": "failover", "rows": rows})
}
