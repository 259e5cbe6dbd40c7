// SPDX-License-Identifier: Apache-2.0
//! `byrnie delete KIND NAME`.

use crate::console::{self, Console};
use crate::documents;
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output;

/// Delete a resource
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie delete httproute payments
  byrnie delete accesspolicy allow-hello-to-payments -n shop
  byrnie delete tp/payments")]
pub(crate) struct Args {
    /// What it is; or KIND/NAME
    kind: String,
    /// What it's called
    name: Option<String>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let (kind, name) = super::get::target(&args.kind, args.name.as_deref())?;
    let name = name.ok_or_else(|| Failure::usage("which one? give its name").next("byrnie delete KIND NAME"))?;
    let path = super::get::path(kind, globals.namespace(), &name);
    let answer = Console::find(globals)?.delete(&(path + &console::query(&[("user", &console::user())])))?;
    super::apply::warn(documents::place(&answer["diagnostics"], &[]));
    output::print(globals, &answer, |_| super::apply::draw(&answer, globals.quiet))?;
    Ok(Exit::Fine)
}
