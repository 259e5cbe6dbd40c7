// SPDX-License-Identifier: Apache-2.0
//! The loads by which a build learns what is often done: those that the bench measures, each for a few seconds, on
//! byrnie alone. What none of them does counts as rare, and is built to be small: so each kind of work has one.

use super::consistency;
use super::process::{Build, Stage};
use super::round;
use super::workload::{Load, WORKLOADS, Workload};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// How long each lasts; its warm-up comes before.
const SPAN: Duration = Duration::from_secs(3);
/// One of each kind: the others differ from these in how many connections there are, or how fast requests come.
const LOADS: [&str; 12] = [
    "http-64",
    "http-1",
    "http-edits",
    "mtls-64",
    "h2",
    "grpc",
    "tls-kept",
    "tls-new",
    "body-10k",
    "body-1m",
    "pieces",
    "h2-body-1m",
];

/// Loads `build`, in about a minute.
///
/// # Errors
/// If a request failed, or a process was killed before it had written its counts.
pub(crate) fn train(root: &Path, build: Build) -> Result<()> {
    let stage = Stage::with(root, build)?;
    for workload in WORKLOADS.iter().filter(|workload| LOADS.contains(&workload.name)) {
        let workload = Workload { load: Load { span: SPAN, ..workload.load }, ..*workload };
        let requests = round::train(&stage, &workload).context(workload.name)?;
        println!("{:<11} {requests} requests", workload.name);
    }
    let (sagas, posts) = consistency::train(&stage, SPAN.as_secs()).context("consistency")?;
    println!("{:<11} {sagas} sagas, {posts} keyed posts", "consistency");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_one_of_the_bench() {
        for name in LOADS {
            assert!(WORKLOADS.iter().any(|workload| workload.name == name), "{name}");
        }
    }
}
