// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask transfers`: money between three banks while everything is killed, for as long as one has time for; see
//! `crates/byrnie/tests/transfers.rs`. A PostgreSQL of its own is started for it.

use crate::bench::process::target;
use crate::databases::Postgres;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// How long it goes on: what the test is told, in its variables.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    count: u64,
    kills: u64,
    seed: u64,
    late_ms: u64,
}

impl Extent {
    /// What a run of all tests has time for.
    pub(crate) const USUAL: Self = Self { count: 2_000, kills: 40, seed: 1, late_ms: 500 };

    /// Reads arguments.
    ///
    /// # Errors
    /// If one makes no sense.
    pub(crate) fn of(args: &[&str]) -> Result<Self> {
        let mut extent = Self { late_ms: 3_000, ..Self::USUAL };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let number = words.next().with_context(|| format!("{word} needs a number"))?;
            let number = number.parse().with_context(|| format!("{word}: {number} is no number"))?;
            match *word {
                "--count" => extent.count = number,
                "--kills" => extent.kills = number,
                "--seed" => extent.seed = number,
                _ => bail!("unknown argument {word}; usage: cargo xtask transfers [--count N] [--kills N] [--seed S]"),
            }
        }
        Ok(extent)
    }
}

/// Runs it, and the `others` of the tests that need PostgreSQL; false if one failed, `None` without PostgreSQL.
///
/// # Errors
/// If something can't be started.
pub(crate) fn run(root: &Path, extent: Extent, others: &[&str]) -> Result<Option<bool>> {
    let scratch = std::path::absolute(target(root).join("transfers"))?;
    std::fs::create_dir_all(&scratch)?;
    let Some(postgres) = Postgres::start(&scratch)? else { return Ok(None) };
    let Extent { count, kills, seed, late_ms } = extent;
    let mut test = Command::new(env!("CARGO"));
    // With the features of the whole workspace, so that what the tests have built is used again.
    test.args(["test", "--locked", "--workspace", "--no-fail-fast", "--test", "transfers"]);
    test.args(others.iter().flat_map(|other| ["--test", *other]));
    test.args(["--", "--ignored", "--nocapture"]).env("BYRNIE_POSTGRES", postgres.url("plain")).current_dir(root);
    for (name, value) in [("TRANSFERS", count), ("KILLS", kills), ("SEED", seed), ("LATE_MS", late_ms)] {
        test.env(name, value.to_string());
    }
    Ok(Some(test.status()?.success()))
}
