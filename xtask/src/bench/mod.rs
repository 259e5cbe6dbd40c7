// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: the data plane beside its peers, on loopback. The main figure is CPU time of the
//! proxies per request, as the scheduler counted it: on a shared machine it moves by a few percent where
//! rates and latencies move by tens. Subjects take turns in every round; medians are printed.

mod byrnie;
mod cpu;
mod envoy;
mod failover;
mod load;
mod options;
mod origin;
mod peers;
mod pki;
mod process;
mod report;
mod round;

use anyhow::{Result, bail};
use options::Options;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// client -> proxy -> app, in clear.
    Http,
    /// client -> A -> mTLS -> B -> app.
    Mtls,
}

impl Workload {
    const ALL: [Self; 2] = [Self::Http, Self::Mtls];

    const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mtls => "mtls",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Http => "client -> proxy -> app in clear: what one hop costs here (byrnie has no clear hop: no row)",
            Self::Mtls => "client -> A -> mTLS -> B -> app, HTTP/1.1 at both ends: CPU of A and B together",
        }
    }
}

/// Programs that the bench starts from its own binary.
const TOOLS: [&str; 3] = ["bench-load", "bench-origin", "bench-relay"];

/// Whether `word` names one of the bench's own programs.
pub(crate) fn is_tool(word: &str) -> bool {
    TOOLS.contains(&word)
}

/// Runs one of the bench's own programs.
pub(crate) fn run_tool(tool: &str, args: &[&str]) -> Result<()> {
    match tool {
        "bench-load" => load::run(args),
        "bench-origin" => origin::run_origin(args),
        _ => origin::run_relay(args),
    }
}

/// Measures and prints. Fails if a cell had errors.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<()> {
    let options = match args {
        ["--list"] => {
            for workload in Workload::ALL {
                println!("{:<6} {}", workload.name(), workload.about());
            }
            println!("{:<6} {}", "failover", failover::ABOUT);
            return Ok(());
        }
        ["failover", rest @ ..] => return failover::run(root, rest),
        ["--help" | "-h"] => {
            print!("{}", options::USAGE);
            return Ok(());
        }
        _ => Options::parse(args)?,
    };
    let stage = process::Stage::new(root)?;
    let mut failed = Vec::new();
    for workload in options.workloads() {
        let cells = round::measure(&stage, &options, workload)?;
        report::print(&options, workload, &cells)?;
        failed.extend(cells.iter().filter_map(|cell| cell.failure()));
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed cells:\n  {}", failed.join("\n  ")) }
}

/// The time.
#[expect(clippy::disallowed_methods, reason = "a developer's tool measures by the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

/// Longest life of anything the bench starts: nothing outlives a bench that was killed by more than this.
const LIFE_MAX: Duration = Duration::from_secs(1800);
