// SPDX-License-Identifier: Apache-2.0
//! Runs by seed, and planted faults that they find.

use super::*;

/// Losses of power in each run, and runs: together they take seconds. 200 seeds are 10,000 losses.
const CRASHES: u32 = 50;
const SEEDS: u64 = 40;

const ALONE: Rules = Rules { crashes: CRASHES, coordinators: 1, fault: Fault::None };
const SPLIT: Rules = Rules { crashes: 20, coordinators: 2, fault: Fault::None };

impl Report {
    fn add(&mut self, seed: u64, other: &Self) {
        assert!(other.violations.is_empty(), "seed {seed}: {:?}", other.violations);
        self.crashes += other.crashes;
        self.deposed += other.deposed;
        self.taken += other.taken;
        self.begun += other.begun;
        self.nested += other.nested;
        self.letters += other.letters;
        self.ends = (self.ends.0 + other.ends.0, self.ends.1 + other.ends.1);
    }
}

/// Whether one of the first runs with this fault shows it, in these words.
fn is_found(rules: Rules, fault: Fault, words: &str) -> bool {
    let found = |seed| run_by(seed, Rules { fault, ..rules }).violations;
    (0..15).any(|seed| found(seed).iter().any(|violation| violation.contains(words)))
}

#[test]
fn nothing_is_lost_doubled_or_left_standing_through_thousands_of_crashes() {
    let mut total = Report::default();
    for seed in 0..SEEDS {
        total.add(seed, &run(seed, CRASHES));
    }
    println!("{total:?}");
    assert!(u64::from(total.crashes) >= SEEDS * u64::from(CRASHES), "{total:?}");
    assert!(total.ends.0 > 100 && total.ends.1 > 100 && total.nested > 100, "{total:?}");
}

#[test]
fn a_disk_that_lies_is_found_out() {
    assert!((0..5).all(|seed| !run_by(seed, Rules { fault: Fault::Lies, ..ALONE }).violations.is_empty()));
}

#[test]
fn two_coordinators_that_each_believe_to_be_the_one_decide_nothing_twice() {
    let mut total = Report::default();
    for seed in 0..SEEDS / 2 {
        total.add(seed, &run_by(seed, Rules { coordinators: 2 + (seed % 2) as usize, ..SPLIT }));
    }
    println!("{total:?}");
    assert!(total.deposed > 100 && total.ends.0 > 500 && total.ends.1 > 100, "{total:?}");
    assert!(total.nested > 500 && total.letters > 100, "{total:?}");
}

#[test]
fn writes_that_are_not_held_to_their_epoch_are_found_out() {
    assert!(is_found(SPLIT, Fault::Unfenced, ""));
}

#[test]
fn a_saga_within_that_is_not_bound_to_the_one_above_is_found_out() {
    assert!(is_found(ALONE, Fault::Unheld, "something still stands"));
    assert!(is_found(SPLIT, Fault::Unheld, "something still stands"));
    assert!(is_found(Rules { coordinators: 3, ..SPLIT }, Fault::Unburied, "something still stands"));
    assert!(is_found(SPLIT, Fault::Unread, "out of order"));
}
