// SPDX-License-Identifier: Apache-2.0
//! `byrnie child` (hidden): ties itself to its parent and becomes a program, or keeps one.

use crate::failure::Exit;
use crate::supervise;
use anyhow::{Context, Result};
use std::ffi::OsString;

/// Arguments of `child`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Process id of the process that started this one.
    #[arg(long)]
    parent: u32,
    /// Stay above the program, and end whatever it started.
    #[arg(long)]
    keep: bool,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs the command; without `--keep` it comes back only with an error.
pub(crate) fn run(args: &Args) -> Result<Exit> {
    let (program, rest) = args.command.split_first().context("no program given")?;
    if args.keep {
        return supervise::keep(args.parent, program, rest).map(Exit::Program);
    }
    match supervise::become_program(args.parent, program, rest)? {}
}
