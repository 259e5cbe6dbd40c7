// SPDX-License-Identifier: Apache-2.0
//! `byrnie undo [REV]`: takes a change back, as a change of its own.

use crate::console::{self, Console};
use crate::documents;
use crate::failure::Exit;
use crate::globals::Globals;
use crate::output;
use serde_json::{Value, json};

/// Take back the last change of configuration, or the one named
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie undo
  byrnie undo 41
  byrnie history && byrnie undo 41 -o json")]
pub(crate) struct Args {
    /// The revision to take back
    revision: Option<u64>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let revision = args.revision.map(|revision| revision.to_string()).unwrap_or_default();
    let path = format!("/api/v1/undo{}", console::query(&[("revision", &revision), ("user", &console::user())]));
    let answer = Console::find(globals)?.post(&path, &json!({}))?;
    super::apply::warn(documents::place(&answer["diagnostics"], &[]));
    output::print(globals, &answer, |_| draw(&answer, globals.quiet))?;
    Ok(Exit::Fine)
}

fn draw(answer: &Value, quiet: bool) -> String {
    if quiet { String::new() } else { super::apply::draw(answer, false) }
}
