// SPDX-License-Identifier: Apache-2.0
//! What the bench is asked for.

use super::Workload;
use anyhow::{Context, Result, bail};
use std::time::Duration;

pub(super) const USAGE: &str = "\
usage: cargo xtask bench [NAME] [OPTIONS]

  --list               the workloads
  --peer P             only this peer beside byrnie; repeat it (relay, haproxy, nginx, envoy)
  --rounds N           rounds; subjects take turns in each (5)
  --secs S             seconds of load per subject and round (3)
  --connections N      connections that the client keeps open (64)
  --rate R             requests a second in all; 0: as fast as answers come (0)
  --size BYTES         size of the answer's body (100)
  -o json              machine-readable

BYRNIE names a binary to measure (else one is built with --release), ENVOY one of Envoy. BENCH_PROXY_CPU
(0) and BENCH_LOAD_CPU (1) are the processors of the proxies, and of the client and the app.
";

/// What peers may be named.
pub(super) const PEERS: [&str; 4] = ["relay", "haproxy", "nginx", "envoy"];

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) struct Options {
    workload: Option<Workload>,
    pub(super) peers: Vec<String>,
    pub(super) rounds: usize,
    pub(super) load: Load,
    pub(super) json: bool,
}

/// The load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) connections: usize,
    /// Requests a second in all; 0: a closed loop.
    pub(super) rate: u64,
    /// Bytes of the answer's body.
    pub(super) size: usize,
    /// How long is measured.
    pub(super) span: Duration,
}

impl Options {
    pub(super) fn parse(args: &[&str]) -> Result<Self> {
        let load = Load { connections: 64, rate: 0, size: 100, span: Duration::from_secs(3) };
        let mut options = Self { workload: None, peers: Vec::new(), rounds: 5, load, json: false };
        let mut words = args.iter().copied();
        while let Some(word) = words.next() {
            if let Some(workload) = Workload::ALL.into_iter().find(|w| w.name() == word) {
                options.workload = Some(workload);
                continue;
            }
            if !word.starts_with('-') {
                bail!("no bench is called `{word}`; --list names them");
            }
            let value = words.next().with_context(|| format!("unknown option, or one without a value: {word}"))?;
            options.set(word, value).with_context(|| format!("{word} {value}"))?;
        }
        Ok(options)
    }

    fn set(&mut self, word: &str, value: &str) -> Result<()> {
        match word {
            "--peer" if PEERS.contains(&value) => self.peers.push(value.to_owned()),
            "--peer" => bail!("no such peer; there are {}", PEERS.join(", ")),
            "--rounds" => self.rounds = number(value, 1, 100)?,
            "--secs" => self.load.span = Duration::from_secs(number(value, 1, 60)? as u64),
            "--connections" => self.load.connections = number(value, 1, 4096)?,
            "--rate" => self.load.rate = number(value, 0, 1_000_000)? as u64,
            "--size" => self.load.size = number(value, 0, 16 * 1024 * 1024)?,
            "-o" if value == "json" => self.json = true,
            _ => bail!("not understood\n{USAGE}"),
        }
        Ok(())
    }

    /// The workloads to run.
    pub(super) fn workloads(&self) -> Vec<Workload> {
        self.workload.map_or_else(|| Workload::ALL.to_vec(), |one| vec![one])
    }

    /// Whether `peer` takes part, and must be there as it was asked for by name.
    pub(super) fn wants(&self, peer: &str) -> (bool, bool) {
        let named = self.peers.iter().any(|p| p == peer);
        (self.peers.is_empty() || named, named)
    }
}

fn number(text: &str, least: usize, most: usize) -> Result<usize> {
    let number: usize = text.parse().context("not a number")?;
    if (least..=most).contains(&number) { Ok(number) } else { bail!("not between {least} and {most}") }
}
