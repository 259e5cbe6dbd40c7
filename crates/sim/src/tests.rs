// SPDX-License-Identifier: Apache-2.0
//! Seeds that must pass, and checkers that must see.

use super::*;

/// Seeds run by `cargo test`; more by `cargo xtask sim`.
const SEEDS: u64 = 100;

fn options() -> Options {
    Options::short()
}

#[test]
fn every_promise_holds_under_every_seed() {
    let mut failed = Vec::new();
    for seed in 0..SEEDS {
        let report = run(seed, &options());
        if !report.passed() {
            println!("{report}\n{}", report.lines.join("\n"));
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..10 {
        let (one, two) = (run(seed, &options()), run(seed, &options()));
        assert_eq!((one.hash, one.events), (two.hash, two.events), "seed {seed} has two runs");
    }
}

#[test]
fn a_clock_that_jumps_ends_no_registration() {
    let mut jumps = 0;
    for seed in 0..20 {
        let report = run(seed, &Options { faults: Faults { clock: true, ..Faults::NONE }, ..options() });
        assert!(report.passed() && report.breaks == 0, "{report}");
        jumps += report.counts.faults;
    }
    assert!(jumps > 5, "{jumps} jumps");
}

#[test]
fn a_calm_mesh_is_never_apart() {
    let report = run(1, &Options { faults: Faults::NONE, ..options() });
    assert!(report.passed() && report.counts.faults == 0 && report.counts.commits > 0, "{report}");
}
