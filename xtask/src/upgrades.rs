// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask upgrades`: every proxy is replaced again and again under load, and nothing is refused, cut or lost; see
//! `crates/byrnie/tests/upgrade.rs`, which a run of all tests does a few times.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// How often, unless said.
const ROUNDS: u64 = 20;
/// The one test.
const TEST: &str = "every_proxy_is_replaced_under_load_and_nothing_is_refused_cut_or_lost";

/// Runs it (`[--rounds N]`), and prints how much each kind of load got done.
///
/// # Errors
/// If something was refused, cut or lost, or an argument makes no sense.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<()> {
    let rounds = match args {
        [] => ROUNDS,
        ["--rounds", number] => number.parse().with_context(|| format!("--rounds: {number} is no number"))?,
        _ => bail!("usage: cargo xtask upgrades [--rounds N]"),
    };
    let mut test = Command::new(env!("CARGO"));
    test.current_dir(root).env("UPGRADES", rounds.to_string());
    test.args(["test", "--locked", "-p", "byrnie", "--test", "upgrade", "--", "--exact", "--nocapture", TEST]);
    if test.status()?.success() { Ok(()) } else { bail!("it failed: see above") }
}
