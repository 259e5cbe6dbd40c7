// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: the data plane beside its peers, on loopback. The main figure is CPU time of the
//! proxies per request, as the scheduler counted it: on a shared machine it moves by a few percent where
//! rates and latencies move by tens. Subjects take turns in every round; medians are printed.

mod attacks;
mod bounds;
mod byrnie;
mod consistency;
mod count;
mod cpu;
mod envoy;
mod failover;
mod haproxy;
mod idle;
mod loss;
mod nginx;
mod options;
mod peers;
pub(crate) mod process;
mod report;
mod round;
pub(crate) mod train;
mod workload;

use anyhow::{Result, bail};
pub(crate) use consistency::install_dtm;
use options::Options;
use process::Build;
use std::path::Path;
use std::time::{Duration, Instant};
use workload::WORKLOADS;

/// Measures and prints. Fails if a cell had errors.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<()> {
    let options = match args {
        ["--list"] => {
            for workload in WORKLOADS {
                println!("{:<7} {:<11} {}", workload.bench, workload.name, workload.about);
            }
            println!("{:<19} {}", "attacks", attacks::ABOUT);
            println!("{:<19} {}", "failover", failover::ABOUT);
            println!("{:<19} {}", "consistency", consistency::ABOUT);
            println!("{:<19} {}", "loss", loss::ABOUT);
            return Ok(());
        }
        ["attacks", rest @ ..] => return attacks::run(root, rest),
        ["failover", rest @ ..] => return failover::run(root, rest),
        ["consistency", rest @ ..] => return consistency::run(root, rest),
        ["loss", rest @ ..] => return loss::run(root, rest),
        ["--help" | "-h"] => {
            print!("{}", options::USAGE);
            return Ok(());
        }
        _ => Options::parse(args)?,
    };
    let stage = process::Stage::with(root, options.build())?;
    let mut failed = Vec::new();
    for workload in options.workloads() {
        let table = match workload.bench {
            "idle" => idle::measure(&stage, &options, &workload)?,
            "count" => count::measure(&stage, &options, &workload)?,
            _ => {
                let cells = round::measure(&stage, &options, &workload)?;
                failed.extend(cells.iter().filter_map(round::Cell::failure));
                report::table(&workload, &cells)
            }
        };
        table.print(options.json)?;
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed cells:\n  {}", failed.join("\n  ")) }
}

/// Whether requests still cost what they should, by a build that the tests have made already.
pub(crate) fn check_counts(root: &Path) -> Result<()> {
    let stage = process::Stage::with(root, Build::Plain(process::target(root).join("debug")))?;
    bounds::check(&stage)
}

/// The time.
#[expect(clippy::disallowed_methods, reason = "a developer's tool measures by the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

/// Longest life of anything the bench starts: nothing outlives a bench that was killed by more than this.
const LIFE_MAX: Duration = Duration::from_secs(1800);

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_bench_tells_how_it_is_used() {
        let benches = ["attacks", "failover", "consistency", "loss"].map(|bench| vec![bench, "--help"]);
        for args in [vec!["-h"]].into_iter().chain(benches) {
            super::run(Path::new("/nowhere"), &args).unwrap();
        }
    }
}
