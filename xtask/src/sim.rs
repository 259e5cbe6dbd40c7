// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask sim`: the simulated mesh by seed, the same runs as its tests make, as many as one has time
//! for. Every run is made twice: it must be the same to the bit. `cargo xtask sim failover`: what it costs a
//! mesh of 100,000 endpoints to lose a third of them, or a zone. Called by `main` alone.

use anyhow::{Context, Result, bail};
use byrnie_sim::failover::{self, Loss, Size, Way};
use byrnie_sim::{Options, Report, run};
use std::time::Instant;

/// Seeds that are run unless told otherwise.
const SEEDS: u64 = 100;
/// How often it is said how far it has come.
const SAID_EVERY: u64 = 50;

/// Runs the seeds that the arguments name, from 0 on or from one on.
///
/// # Errors
/// If an argument makes no sense, or a seed failed: its report is printed then.
pub(crate) fn run_all(args: &[&str]) -> Result<()> {
    if args == ["failover"] {
        print_failover();
        return Ok(());
    }
    let (mut seeds, mut first) = (None, 0);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let number = words.next().with_context(|| format!("{word} needs a number"))?;
        let number = number.parse().with_context(|| format!("{word}: {number} is no number"))?;
        match *word {
            "--seeds" => seeds = Some(number),
            "--seed" => {
                first = number;
                seeds = seeds.or(Some(1));
            }
            _ => bail!("unknown argument {word}; usage: cargo xtask sim [failover | [--seeds N] [--seed S]]"),
        }
    }
    several(first, seeds.unwrap_or(SEEDS))
}

/// The table of `docs/explanation/resilience.md`.
fn print_failover() {
    println!(
        "| services x endpoints | lost | how | failed | POSTs failed | more tries | moved | p99 |\n|---|---|---|---|---|---|---|---|"
    );
    for (services, endpoints) in [(1, 9), (100, 9), (1_000, 100)] {
        for (loss, lost) in [(Loss::Zone, "a zone"), (Loss::Third, "a third")] {
            for (way, by) in [(Way::Killed, "killed"), (Way::Silent, "silent")] {
                let report = failover::run(1, Size { services, endpoints, rate: 10_000 }, loss, way);
                println!("| {services} x {endpoints} | {lost} | {by} | {} |", report.cells());
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a developer's tool measures itself")]
fn several(first: u64, seeds: u64) -> Result<()> {
    let began = Instant::now();
    let mut failed = Vec::new();
    let (mut events, mut faults, mut hash) = (0, 0, 0_u64);
    for seed in first..first.saturating_add(seeds) {
        let report = run(seed, &Options::short());
        let again = run(seed, &Options::short());
        if !report.passed() || (again.hash, again.events) != (report.hash, report.events) {
            tell(&report, &again);
            failed.push(seed);
        } else if seeds == 1 {
            println!("{report}");
        }
        (events, faults) = (events + report.events, faults + report.counts.faults);
        hash = hash.rotate_left(1) ^ report.hash;
        let done = seed - first + 1;
        if done.is_multiple_of(SAID_EVERY) && done < seeds {
            println!("{done} of {seeds} seeds, {} failed", failed.len());
        }
    }
    println!(
        "{seeds} seeds from {first}, each twice with the same hash: {events} events, {faults} faults, hash of all {hash:016x}, {:.1} s",
        began.elapsed().as_secs_f64()
    );
    if failed.is_empty() { Ok(()) } else { bail!("failed seeds: {failed:?}; run one by `cargo xtask sim --seed S`") }
}

/// What is known of a seed that failed.
fn tell(report: &Report, again: &Report) {
    println!("{report}");
    if again.hash != report.hash {
        println!("  the second run was another: hash {:016x}, {} events", again.hash, again.events);
    }
    report.lines.iter().for_each(|line| println!("    {line}"));
}
