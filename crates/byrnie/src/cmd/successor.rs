// SPDX-License-Identifier: Apache-2.0
//! `byrnie successor` (hidden): takes over from a proxy that runs. See `handover`.

use crate::failure::Exit;
use crate::globals::Globals;
use crate::{handover, supervise};
use anyhow::Result;

/// Arguments of `successor`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The form in which what is to be done is said.
    #[arg(long)]
    format: u32,
    /// Process id of the process that started this one.
    #[arg(long)]
    parent: u32,
}

/// Runs the command.
pub(crate) fn run(args: &Args, globals: &Globals) -> Result<Exit> {
    supervise::take_means()?;
    handover::run(args.format, args.parent, globals)
}
