// SPDX-License-Identifier: Apache-2.0
//! Where this process' own log goes: standard error, one event a line, levels by `BYRNIE_LOG`.

use crate::globals::Globals;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts the log. `BYRNIE_LOG` takes `tracing` directives such as `info` or `byrnie_proxy=debug`;
/// unless given, warnings and errors are shown, and who stepped into which transaction.
pub(crate) fn start(globals: &Globals) {
    let filter = EnvFilter::try_from_env("BYRNIE_LOG").unwrap_or_else(|_| EnvFilter::new("warn,audit=info"));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(!globals.no_color && std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal());
    // A second start in one process keeps the first log.
    drop(format.try_init());
}
