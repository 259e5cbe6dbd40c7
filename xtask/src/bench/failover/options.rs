// SPDX-License-Identifier: Apache-2.0
//! What `bench failover` is asked for.

use super::{Mode, subjects};
use anyhow::{Context, Result, bail};

pub(super) const USAGE: &str = "\
usage: cargo xtask bench failover [OPTIONS]

  --requests N         requests for each subject (100000)
  --rate R             requests a second (2000)
  --connections N      connections that the client keeps open (32)
  --mode kill|stop     what happens to an endpoint (kill)
  --peer P             only this subject; repeat it (byrnie, haproxy, envoy, envoy-tuned)
  -o json              machine-readable
";

/// What was asked for.
pub(super) struct Options {
    pub(super) load: Load,
    pub(super) mode: Mode,
    pub(super) json: bool,
    named: Vec<String>,
}

/// The load.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) requests: u64,
    pub(super) rate: u64,
    pub(super) connections: usize,
}

impl Options {
    pub(super) fn parse(args: &[&str]) -> Result<Self> {
        let load = Load { requests: 100_000, rate: 2000, connections: 32 };
        let mut options = Self { load, mode: Mode::Kill, json: false, named: Vec::new() };
        let mut words = args.iter().copied();
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("not understood: {word}\n{USAGE}"))?;
            match word {
                "--requests" => options.load.requests = value.parse()?,
                "--rate" => options.load.rate = value.parse()?,
                "--connections" => options.load.connections = value.parse()?,
                "--mode" if value == "kill" => options.mode = Mode::Kill,
                "--mode" if value == "stop" => options.mode = Mode::Stop,
                "--peer" if subjects::NAMES.contains(&value) => options.named.push(value.to_owned()),
                "-o" if value == "json" => options.json = true,
                _ => bail!("not understood: {word} {value}\n{USAGE}"),
            }
        }
        if options.load.rate == 0 || options.load.connections == 0 {
            bail!("--rate and --connections are at least 1");
        }
        Ok(options)
    }

    /// Whether `name` takes part.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.named.is_empty() || self.named.iter().any(|named| named == name)
    }
}
