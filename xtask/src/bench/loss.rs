// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench loss`: pairs of proxies over a network that is slow and loses packets, at a fixed rate. A pair's caller and its
//! client are in one network namespace, its callee and the app in another; `byrnie-bench link` carries packets between the two.

mod options;
mod subject;
mod wire;

use super::process::{Side, Stage, free_port, is_on_path, loopback, wait_for};
use anyhow::{Context, Result, bail};
use options::{Condition, Options};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use subject::Subject;
use wire::{Carried, Wire, borrowed};

pub(super) const ABOUT: &str = "a pair at a fixed rate over a network with a delay that loses packets: latencies";

/// What the client saw in the measured span.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Seen {
    requests: u64,
    errors: u64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
}

/// What one subject showed under one condition.
struct Row {
    condition: Condition,
    name: &'static str,
    version: String,
    seen: Seen,
    carried: Carried,
}

/// Measures and prints. Fails if byrnie had errors.
pub(super) fn run(root: &Path, args: &[&str]) -> Result<()> {
    if args.first().is_some_and(|word| ["--help", "-h"].contains(word)) {
        print!("{}", options::USAGE);
        return Ok(());
    }
    let options = Options::parse(args)?;
    if let Some(lack) = lack() {
        eprintln!("skipped: {lack}");
        return Ok(());
    }
    let names = subject::names().filter(|name| options.wants(name));
    let (there, away): (Vec<_>, Vec<_>) = names.partition(|name| subject::is_there(name));
    for name in away {
        eprintln!("skipped: {name} isn't here (PATH; for Envoy, ENVOY_BIN names its binary)");
    }
    let stage = Stage::new(root)?;
    let mut rows = Vec::new();
    for condition in options.conditions() {
        for name in there.iter().copied() {
            rows.push(measure(&stage, &options, condition, name).with_context(|| format!("{name}, {condition}"))?);
        }
    }
    print(&options, &rows)?;
    let bad = |row: &&Row| row.name == "byrnie" && row.seen.errors > 0;
    match rows.iter().find(bad) {
        Some(row) => bail!("byrnie had {} errors, {}", row.seen.errors, row.condition),
        None => Ok(()),
    }
}

/// What this machine lacks for such a network, if anything.
fn lack() -> Option<String> {
    if let Some(program) = ["unshare", "nsenter", "setpriv", "ip"].into_iter().find(|program| !is_on_path(program)) {
        return Some(format!("{program} isn't here (Debian: util-linux, iproute2)"));
    }
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        return Some(format!("no device can be made: /dev/net/tun: {error}"));
    }
    let made = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
    match made {
        Ok(status) if status.success() => None,
        _ => Some("network namespaces aren't allowed (root may have them)".to_owned()),
    }
}

fn measure(stage: &Stage, options: &Options, condition: Condition, name: &'static str) -> Result<Row> {
    let wire = Wire::start(stage, options, condition)?;
    let app = loopback(free_port()?);
    let app_process = wire.far.start(stage, Side::Load, "loss-app", &stage.tool, &["app", &format!("listen={app}")])?;
    let subject = Subject::start(stage, &wire, name, app)?;
    wait_for(&format!("{name} answers"), || {
        load(stage, &wire, &once(subject.entry)).is_ok_and(|(seen, _)| seen.requests > 0)
    })?;
    let (seen, errors) = load(stage, &wire, &options.load.words(subject.entry))?;
    eprint!("{errors}");
    let version = subject.version.clone();
    drop((subject, app_process));
    Ok(Row { condition, name, version, seen, carried: wire.end(stage)? })
}

/// One request, sent until it's answered.
fn once(to: SocketAddr) -> Vec<String> {
    ["load", &format!("to={to}"), "connections=1", "requests=1", "secs=5"].map(str::to_owned).to_vec()
}

/// Runs the client to its end; what it saw, and what it says of errors.
fn load(stage: &Stage, wire: &Wire, words: &[String]) -> Result<(Seen, String)> {
    let output = wire.near.command(stage, Side::Load, &stage.tool, &borrowed(words)).stdin(Stdio::null()).output()?;
    let [said, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let last = said.lines().last().with_context(|| errors.clone())?;
    Ok((serde_json::from_str(last)?, errors))
}

fn print(options: &Options, rows: &[Row]) -> Result<()> {
    if options.json {
        println!("{}", serde_json::to_string(&document(rows))?);
        return Ok(());
    }
    println!("\nloss: {ABOUT}");
    let machines = std::fs::read_to_string(wire::CONGESTION).unwrap_or_default();
    let congestion = options.congestion.as_deref().unwrap_or(machines.trim());
    println!("{}; congestion control {congestion}; seed {}", options.load.text(), options.seed);
    let mut before = None;
    for Row { condition, name, version, seen, carried } in rows {
        if before != Some(*condition) {
            println!("\n{condition}");
            println!(
                "{:<12} {:<9} {:>9} {:>7} {:>9} {:>9} {:>9} {:>10} {:>8}",
                "subject", "version", "requests", "errors", "p50 ms", "p99 ms", "p99.9 ms", "packets", "lost"
            );
            before = Some(*condition);
        }
        let ms = |micros: u64| micros as f64 / 1000.0;
        let without_room = match carried.without_room {
            0 => String::new(),
            packets => format!("  and {packets} for want of room"),
        };
        println!(
            "{name:<12} {version:<9} {:>9} {:>7} {:>9.1} {:>9.1} {:>9.1} {:>10} {:>8}{without_room}",
            seen.requests,
            seen.errors,
            ms(seen.p50_us),
            ms(seen.p99_us),
            ms(seen.p999_us),
            carried.packets,
            carried.lost
        );
    }
    println!("\npackets: all that were sent between the two namespaces, both ways, start and warm-up included.");
    Ok(())
}

fn document(rows: &[Row]) -> Value {
    let figures = rows.iter().flat_map(|Row { condition, name, version, seen, carried }| {
        let metrics = [
            ("requests", seen.requests),
            ("errors", seen.errors),
            ("latency_p50_us", seen.p50_us),
            ("latency_p99_us", seen.p99_us),
            ("latency_p999_us", seen.p999_us),
            ("packets", carried.packets),
            ("packets_lost", carried.lost),
            ("packets_without_room", carried.without_room),
        ];
        let workload = format!("loss-{}us-{}ppm", condition.delay.as_micros(), condition.loss);
        metrics.map(|(metric, value)| {
            json!({"workload": workload, "subject": name, "version": version, "metric": metric,
                "median": value, "min": value, "max": value, "rounds": 1})
        })
    });
    json!({"bench": "loss", "rows": figures.collect::<Vec<_>>()})
}
