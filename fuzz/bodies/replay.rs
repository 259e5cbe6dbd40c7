// SPDX-License-Identifier: Apache-2.0
//! Runs a body over its seeds and over changed ones, without a fuzzer, where tests run: each time alike, unless
//! `BYRNIE_FUZZ_SEED` has the changes begin elsewhere. `cargo xtask test` has them begin elsewhere each time.

use byrnie_base::Rng;
use std::path::Path;

/// Changed inputs made of each seed.
const CHANGED: u64 = 200;
/// Says where changes begin: a number.
const SEED: &str = "BYRNIE_FUZZ_SEED";
/// Where they begin otherwise.
const SEED_USUAL: u64 = 7;
/// Longest input, in bytes.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Every line of `seeds/NAME.hex`, as it is and changed, goes through `run`. Panics with what can be kept as a line.
pub(crate) fn replay(name: &str, run: fn(&[u8])) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name).with_extension("hex");
    let text = std::fs::read_to_string(&path).unwrap();
    let seeds: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(bytes).collect();
    assert!(!seeds.is_empty(), "no seeds in {}", path.display());
    let seed = std::env::var(SEED).map_or(SEED_USUAL, |text| text.parse().unwrap());
    println!("{name}: {SEED}={seed}");
    let mut dice = Rng::new(seed);
    let try_one = |input: &[u8]| {
        let outcome = std::panic::catch_unwind(|| run(input));
        assert!(outcome.is_ok(), "{name} fails with {SEED}={seed} on {}", hex(input));
    };
    for seed in &seeds {
        try_one(seed);
        for _ in 0..CHANGED {
            let mut input = seed.clone();
            for _ in 0..=dice.below(3) {
                change(&mut input, &seeds, &mut dice);
            }
            input.truncate(INPUT_BYTES_MAX);
            try_one(&input);
        }
    }
}

fn hex(input: &[u8]) -> String {
    input.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// One change: a bit, a byte, a piece less, a piece twice, or a piece of another seed.
fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Rng) {
    let mut below = |bound: usize| dice.below(bound as u64) as usize;
    let (at, len) = (below(input.len()), below(16.min(input.len() + 1)));
    let end = input.len().min(at + len);
    match below(5) {
        0 if at < input.len() => input[at] ^= 1 << below(8),
        1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b' ', b'\r', b'\n'][below(8)],
        2 => drop(input.drain(at..end)),
        3 => {
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            let other = &seeds[below(seeds.len())];
            let from = below(other.len());
            let to = other.len().min(from + 1 + below(64));
            input.splice(at..at, other[from..to].iter().copied());
        }
    }
}
