// SPDX-License-Identifier: Apache-2.0
//! The whole mesh on a virtual world: the real store, catalog, hub, xDS and engine, with a seeded
//! clock, network and disk around them. One seed is one run, to the bit. `byrnie simulate` and `cargo
//! xtask sim` call [`run`]; a failure is told by its seed.

pub mod checker;
pub mod control;
pub mod failover;
pub mod fault;
pub mod mesh;
pub mod net;
pub mod proxy;
pub mod shop;
#[cfg(test)]
mod tests;
pub mod transactions;
pub mod world;

use byrnie_base::Instant;
use checker::Violation;
use fault::Faults;
use mesh::{Counts, Mesh};
use std::fmt;
use std::time::Duration;

/// How a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// For how long things go wrong, in virtual time.
    pub faulty: Duration,
    /// How long the mesh then has to find its way back.
    pub settle: Duration,
    /// What goes wrong.
    pub faults: Faults,
}

impl Options {
    /// A short run, of which many are made. A partition may last 12 s beyond the last fault.
    pub const fn short() -> Self {
        Self { faulty: Duration::from_secs(20), settle: Duration::from_secs(20), faults: Faults::ALL }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { faulty: Duration::from_secs(60), settle: Duration::from_secs(30), faults: Faults::ALL }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed: the same seed and options give the same report.
    pub seed: u64,
    /// Hash of everything that happened.
    pub hash: u64,
    /// How many things happened.
    pub events: u64,
    /// How long it took, in virtual time.
    pub elapsed: Duration,
    /// What happened how often.
    pub counts: Counts,
    /// Connections that broke.
    pub breaks: u64,
    /// Broken promises; a run ends at the first.
    pub violations: Vec<Violation>,
    /// The last of what happened, for whoever looks for the cause.
    pub lines: Vec<String>,
}

impl Report {
    /// Whether every promise held.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { commits, conflicts, faults, control_starts, published, requests } = self.counts;
        let verdict = if self.passed() { "ok" } else { "FAILED" };
        write!(
            f,
            "seed {} {verdict}: {} s, {} events, hash {:016x}; {faults} faults, {} breaks, {control_starts} starts of \
             the control plane; {commits} commits, {conflicts} conflicts; {published} configurations in force, \
             {requests} requests judged",
            self.seed,
            self.elapsed.as_secs(),
            self.events,
            self.hash,
            self.breaks,
        )?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

/// Runs the mesh once.
pub fn run(seed: u64, options: &Options) -> Report {
    let end = Instant::default() + options.faulty + options.settle;
    match Mesh::new(seed, options.faults, options.faulty) {
        Ok(mut mesh) => {
            mesh.run(end);
            report(seed, &mesh)
        }
        // The identities of the simulated mesh are constants of the right form.
        Err(_) => unreachable!("the simulated mesh has identities of the right form"),
    }
}

fn report(seed: u64, mesh: &Mesh) -> Report {
    Report {
        seed,
        hash: mesh.world.log.hash(),
        events: mesh.world.log.count(),
        elapsed: mesh.world.now().since(Instant::default()),
        counts: mesh.counts,
        breaks: mesh.net.breaks,
        violations: mesh.violations.clone(),
        lines: mesh.world.log.lines().map(str::to_owned).collect(),
    }
}
