// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask transfers`: money between three banks while everything is killed, for as long as one has time for; see
//! `crates/byrnie/tests/transfers.rs`, and `crates/byrnie/tests/beside.rs` for dtm under the same fire (`--beside dtm`). `cargo xtask takeover`: one coordinator is killed and another goes on with all that it left; see
//! `crates/byrnie/tests/coordinators.rs`. `cargo xtask payments`: keyed payments to a program without a barrier, under the same fire; see
//! `crates/byrnie/tests/keyed.rs`. A PostgreSQL of its own is started for each.

use crate::bench::process::target;
use crate::databases::Postgres;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Most coordinators: each is a mesh with a proxy before each bank.
const COORDINATORS_MAX: u64 = 8;

/// How long it goes on: what the test is told, in its variables.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    count: u64,
    kills: u64,
    seed: u64,
    late_ms: u64,
    coordinators: u64,
    /// Whether dtm is asked for the same, by sagas of its own API.
    dtm: bool,
}

impl Extent {
    /// What a run of all tests has time for.
    pub(crate) const USUAL: Self = Self { count: 2_000, kills: 40, seed: 1, late_ms: 500, coordinators: 1, dtm: false };

    /// And for that by several coordinators on one database.
    pub(crate) const SHARED: Self = Self { count: 500, kills: 10, coordinators: 3, ..Self::USUAL };

    /// Reads arguments.
    ///
    /// # Errors
    /// If one makes no sense.
    pub(crate) fn of(args: &[&str]) -> Result<Self> {
        let mut extent = Self { late_ms: 3_000, ..Self::USUAL };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let number = words.next().with_context(|| format!("{word} needs a value"))?;
            if (*word, *number) == ("--beside", "dtm") {
                extent.dtm = true;
                continue;
            }
            let number = number.parse().with_context(|| format!("{word}: {number} is no number"))?;
            match *word {
                "--count" => extent.count = number,
                "--kills" => extent.kills = number,
                "--seed" => extent.seed = number,
                "--coordinators" if (1..=COORDINATORS_MAX).contains(&number) => extent.coordinators = number,
                _ => bail!(
                    "unknown argument {word} {number}; usage: cargo xtask transfers [--count N] [--kills N] [--seed S] \
                     [--coordinators 1..{COORDINATORS_MAX}] [--beside dtm]"
                ),
            }
        }
        Ok(extent)
    }
}

/// Runs it; false if it failed, `None` without PostgreSQL.
///
/// # Errors
/// If something can't be started.
pub(crate) fn run(root: &Path, extent: Extent) -> Result<Option<bool>> {
    let Some(postgres) = start(root)? else { return Ok(None) };
    if extent.dtm {
        return beside_dtm(root, &postgres, extent).map(Some);
    }
    transfers(root, &postgres, extent, &[]).map(Some)
}

/// byrnie and dtm, each asked for the same by dtm's API; what dtm makes of it is printed and fails nothing.
fn beside_dtm(root: &Path, postgres: &Postgres, extent: Extent) -> Result<bool> {
    let program = crate::bench::install_dtm(root)?;
    let mut passed = true;
    for dtm in [None, Some(&program)] {
        let mut test = test(root, postgres, &["--test", "beside"]);
        test.args(["--", "--ignored", "--nocapture", "sagas_by_dtms_api"]);
        for (name, value) in [("TRANSFERS", extent.count), ("KILLS", extent.kills), ("SEED", extent.seed)] {
            test.env(name, value.to_string());
        }
        test.envs(dtm.map(|program| ("DTM", program)));
        passed &= test.status()?.success();
    }
    Ok(passed)
}

/// Kills a coordinator with so many unfinished transactions (`[--count N]`, 10,000 unless given); the same.
///
/// # Errors
/// If something can't be started, or an argument makes no sense.
pub(crate) fn take_over(root: &Path, args: &[&str]) -> Result<Option<bool>> {
    let count: u64 = match args {
        [] => 10_000,
        ["--count", number] => number.parse().with_context(|| format!("--count: {number} is no number"))?,
        _ => bail!("usage: cargo xtask takeover [--count N]"),
    };
    let Some(postgres) = start(root)? else { return Ok(None) };
    let mut test = test(root, &postgres, &["--test", "coordinators"]);
    test.args(["--", "--ignored", "--nocapture", "another_takes_over"]).env("UNFINISHED", count.to_string());
    Ok(Some(test.status()?.success()))
}

/// Pays for as long as one has time for: `[--programs 1]` kills the program, too. The same.
///
/// # Errors
/// If something can't be started, or an argument makes no sense.
pub(crate) fn pay(root: &Path, args: &[&str]) -> Result<Option<bool>> {
    let (programs, others): (Vec<&[&str]>, Vec<&[&str]>) = args.chunks(2).partition(|pair| pair[0] == "--programs");
    let programs = match programs[..] {
        [] | [["--programs", "0"]] => 0,
        [["--programs", "1"]] => 1,
        _ => bail!("--programs is 0 or 1"),
    };
    let Extent { count, kills, seed, late_ms, coordinators, .. } = Extent::of(&others.concat())?;
    let Some(postgres) = start(root)? else { return Ok(None) };
    let mut test = test(root, &postgres, &["--test", "keyed"]);
    test.args(["--", "--ignored", "--nocapture", "several_control_planes"]);
    test.env("PAYMENTS", format!("{count} {kills} {seed} {late_ms} {coordinators} {programs}"));
    Ok(Some(test.status()?.success()))
}

/// Runs all that needs a PostgreSQL; the same.
///
/// # Errors
/// If something can't be started.
pub(crate) fn run_all(root: &Path) -> Result<Option<bool>> {
    let Some(postgres) = start(root)? else { return Ok(None) };
    let first = transfers(root, &postgres, Extent::USUAL, &["outbox", "coordinators", "keyed"])?;
    let shared = transfers(root, &postgres, Extent::SHARED, &[])?;
    let mut store = test(root, &postgres, &["--lib", "--test", "ledger"]);
    store.args(["--", "--ignored", "log::postgres", "ledger::postgres", "killed_in_postgres"]);
    Ok(Some(store.status()?.success() && first && shared))
}

fn start(root: &Path) -> Result<Option<Postgres>> {
    let scratch = std::path::absolute(target(root).join("transfers"))?;
    std::fs::create_dir_all(&scratch)?;
    Postgres::start(&scratch)
}

/// Tests, with the features of the whole workspace, so that what the tests have built is used again.
fn test(root: &Path, postgres: &Postgres, which: &[&str]) -> Command {
    let mut test = Command::new(env!("CARGO"));
    test.args(["test", "--locked", "--workspace", "--no-fail-fast"]).args(which);
    test.env("BYRNIE_POSTGRES", postgres.url("plain")).current_dir(root);
    test
}

fn transfers(root: &Path, postgres: &Postgres, extent: Extent, others: &[&str]) -> Result<bool> {
    let mut test = test(root, postgres, &["--test", "transfers"]);
    test.args(others.iter().flat_map(|other| ["--test", *other]));
    test.args(["--", "--ignored", "--nocapture"]);
    let Extent { count, kills, seed, late_ms, coordinators, .. } = extent;
    let told =
        [("TRANSFERS", count), ("KILLS", kills), ("SEED", seed), ("LATE_MS", late_ms), ("COORDINATORS", coordinators)];
    for (name, value) in told {
        test.env(name, value.to_string());
    }
    Ok(test.status()?.success())
}
