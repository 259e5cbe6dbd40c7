// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: everything that must hold, in the order that fails soonest.

mod clock;

use super::bench::process::is_on_path;
use super::peers;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many of the slowest parts are named at the end.
const SLOWEST_NAMED: usize = 10;

/// One part of the run.
struct Part {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

enum Outcome {
    Passed,
    Failed,
    Skipped(String),
}

/// Runs every part, or `only` one; fails at the end if one failed, so that one run shows all that is wrong.
#[expect(clippy::disallowed_methods, reason = "a developer's tool measures itself")]
pub(crate) fn run(root: &Path, fast: bool, only: Option<&str>) -> Result<()> {
    let mut parts: Vec<Part> = Vec::new();
    for (name, slow, action) in plan().into_iter().filter(|(name, ..)| only.is_none_or(|only| only == *name)) {
        println!("\n== {name}");
        let start = Instant::now();
        let outcome = if fast && slow { Outcome::Skipped("--fast".to_owned()) } else { action(root)? };
        parts.push(Part { name, outcome, took: start.elapsed() });
    }
    report(&mut parts)
}

type Action = fn(&Path) -> Result<Outcome>;

/// The parts: name, whether `--fast` leaves it out, and what to do.
fn plan() -> Vec<(&'static str, bool, Action)> {
    vec![
        ("format", false, |root| cargo(root, &["fmt", "--all", "--check"])),
        ("tidy", false, |root| {
            Ok(match super::tidy::run(root) {
                Ok(()) => Outcome::Passed,
                Err(error) => {
                    println!("{error}");
                    Outcome::Failed
                }
            })
        }),
        ("lints", false, |root| {
            cargo(root, &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])
        }),
        ("tests", false, tests),
        ("dtm's client", true, |root| Ok(if super::dtm::run(root)? { Outcome::Passed } else { Outcome::Failed })),
        ("counts", true, counts),
        ("clock", true, clock::run),
        ("h2spec", true, |root| judged("go", || peers::conformance(root))),
        ("grpc", true, |root| judged("python3", || peers::grpc(root))),
        ("pools", true, |root| judged("python3", || peers::pools(root))),
        ("websocket", true, |root| judged("python3", || peers::websocket(root))),
        ("origins", true, |root| judged("python3", || peers::origins(root))),
        ("http3", true, |root| judged("python3", || peers::http3(root))),
        ("barrier", true, |root| Ok(if super::barrier::run(root)? { Outcome::Passed } else { Outcome::Failed })),
        ("postgres", true, postgres),
        ("supply chain", true, deny),
    ]
}

/// Where what parsers are fed is changed from (`fuzz/bodies/replay.rs`).
const FUZZ_SEED: &str = "BYRNIE_FUZZ_SEED";

/// All tests. Parsers are fed something else each time, unless who runs this says what.
fn tests(root: &Path) -> Result<Outcome> {
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis()).to_string();
    let seed = std::env::var(FUZZ_SEED).unwrap_or_else(|_| fresh());
    println!("{FUZZ_SEED}={seed}: it has parsers fed with the same again");
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--locked", "--workspace", "--no-fail-fast"]).env(FUZZ_SEED, seed).current_dir(root);
    Ok(if command.status()?.success() { Outcome::Passed } else { Outcome::Failed })
}

/// What requests cost, in figures that no neighbour disturbs: instructions and system calls.
fn counts(root: &Path) -> Result<Outcome> {
    const TOOLS: [&str; 2] = ["valgrind", "strace"];
    let missing = || TOOLS.iter().any(|tool| Command::new(tool).arg("--version").output().is_err());
    if missing() {
        // Only root may; anybody else is told.
        let _ = Command::new("apt-get").args(["install", "-y", "-qq"]).args(TOOLS).status();
    }
    if missing() {
        return Ok(Outcome::Skipped(format!("apt-get install {}", TOOLS.join(" "))));
    }
    // All of the workspace's features, so that what the tests have built is used again.
    let status = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--workspace", "--bin", "byrnie-bench"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        return Ok(Outcome::Failed);
    }
    Ok(match super::bench::check_counts(root) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            println!("{error:#}");
            Outcome::Failed
        }
    })
}

/// Licences, bans and sources. The advisory database is left to machines that reach it.
fn deny(root: &Path) -> Result<Outcome> {
    let args = ["--locked", "check", "bans", "licenses", "sources"];
    judged("python3", || {
        let mut deny = Command::new(peers::cargo_deny(root)?);
        Ok(deny.args(args).env("CARGO", env!("CARGO")).current_dir(root).status()?.success())
    })
}

/// What needs a PostgreSQL: money between three banks while everything is killed, coordinators that share one, and the outbox.
fn postgres(root: &Path) -> Result<Outcome> {
    Ok(match super::transfers::run_all(root)? {
        Some(true) => Outcome::Passed,
        Some(false) => Outcome::Failed,
        None => Outcome::Skipped("it needs PostgreSQL: apt-get install postgresql".to_owned()),
    })
}

/// A part that a peer judges, which `tool` installs.
fn judged(tool: &str, judge: impl FnOnce() -> Result<bool>) -> Result<Outcome> {
    if !is_on_path(tool) {
        return Ok(Outcome::Skipped(format!("{tool} isn't installed: it fetches the peer")));
    }
    Ok(match judge() {
        Ok(true) => Outcome::Passed,
        Ok(false) => Outcome::Failed,
        Err(error) => {
            println!("{error:#}");
            Outcome::Failed
        }
    })
}

fn cargo(root: &Path, args: &[&str]) -> Result<Outcome> {
    let status = Command::new(env!("CARGO")).args(args).current_dir(root).status()?;
    Ok(if status.success() { Outcome::Passed } else { Outcome::Failed })
}

fn report(parts: &mut [Part]) -> Result<()> {
    if parts.is_empty() {
        bail!("no such part; the parts are: {}", plan().iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", "));
    }
    parts.sort_by_key(|part| std::cmp::Reverse(part.took));
    println!("\nslowest parts:");
    for part in parts.iter().take(SLOWEST_NAMED) {
        println!("  {:>6.1} s  {}", part.took.as_secs_f64(), part.name);
    }
    for part in parts.iter() {
        if let Outcome::Skipped(why) = &part.outcome {
            println!("skipped: {} ({why})", part.name);
        }
    }
    let failed = parts.iter().filter(|p| matches!(p.outcome, Outcome::Failed)).map(|p| p.name).collect::<Vec<_>>();
    let passed = parts.iter().filter(|p| matches!(p.outcome, Outcome::Passed)).count();
    let skipped = parts.len() - passed - failed.len();
    println!("{passed} passed, {} failed, {skipped} skipped", failed.len());
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}
