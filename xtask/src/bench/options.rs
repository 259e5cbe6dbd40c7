// SPDX-License-Identifier: Apache-2.0
//! What the bench is asked for.

use super::process::Build;
use super::workload::{Load, WORKLOADS, Workload};
use anyhow::{Context, Result, bail};
use std::time::Duration;

pub(super) const USAGE: &str = "\
usage: cargo xtask bench [NAME] [OPTIONS]

  NAME                 a bench (all its workloads), or one workload; all without it
  --list               the benches and their workloads
  --peer P             only this peer beside byrnie; repeat it (relay, haproxy, haproxy-h2, nginx, envoy, envoy-h2)
  --rounds N           rounds; subjects take turns in each (5)
  --secs S             seconds of load per subject and round (3)
  --connections N      connections that the client keeps open, in place of the workload's own
  --rate R             requests a second in all, in place of the workload's own; 0: as fast as answers come
  --size BYTES         size of the answer's body, in place of the workload's own
  --dist               byrnie as `cargo xtask dist` has built it; its version says so
  -o json              machine-readable

BYRNIE and BYRNIE_BENCH name binaries to use (else they are built with --release), ENVOY_BIN one of Envoy.
BENCH_PROXY_CPU (0) and BENCH_LOAD_CPU (1) are the processors of the proxies, and of the client and the app.
";

/// What peers may be named.
pub(super) const PEERS: [&str; 6] = ["relay", "haproxy", "haproxy-h2", "nginx", "envoy", "envoy-h2"];

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    name: Option<String>,
    pub(super) peers: Vec<String>,
    pub(super) rounds: usize,
    span: Option<Duration>,
    connections: Option<usize>,
    rate: Option<u64>,
    size: Option<usize>,
    dist: bool,
    pub(super) json: bool,
}

impl Options {
    pub(super) fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self { rounds: 5, ..Self::default() };
        let mut words = args.iter().copied();
        while let Some(word) = words.next() {
            if !word.starts_with('-') {
                if !WORKLOADS.iter().any(|workload| workload.bench == word || workload.name == word) {
                    bail!("no bench is called `{word}`; --list names them");
                }
                options.name = Some(word.to_owned());
                continue;
            }
            if word == "--dist" {
                options.dist = true;
                continue;
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
            "--secs" => self.span = Some(Duration::from_secs(number(value, 1, 60)? as u64)),
            "--connections" => self.connections = Some(number(value, 1, 4096)?),
            "--rate" => self.rate = Some(number(value, 0, 1_000_000)? as u64),
            "--size" => self.size = Some(number(value, 0, 16 * 1024 * 1024)?),
            "-o" if value == "json" => self.json = true,
            _ => bail!("not understood\n{USAGE}"),
        }
        Ok(())
    }

    /// Which build is measured.
    pub(super) fn build(&self) -> Build {
        if self.dist { Build::Dist } else { Build::Release }
    }

    /// The workloads to run, with the load that was asked for.
    pub(super) fn workloads(&self) -> Vec<Workload> {
        let named = |workload: &&Workload| {
            self.name.as_ref().is_none_or(|name| name == workload.bench || name == workload.name)
        };
        let with = |workload: &Workload| {
            let own = workload.load;
            let load = Load {
                connections: self.connections.unwrap_or(own.connections),
                rate: self.rate.unwrap_or(own.rate),
                size: self.size.unwrap_or(own.size),
                span: self.span.unwrap_or(own.span),
                ..own
            };
            Workload { load, ..*workload }
        };
        WORKLOADS.iter().filter(named).map(with).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_bench_or_a_workload() {
        let names = |args: &[&str]| {
            let workloads = Options::parse(args).unwrap().workloads();
            workloads.iter().map(|workload| workload.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&["tls"]), ["tls-kept", "tls-new"]);
        assert_eq!(names(&["http-edits", "--rounds", "1"]), ["http-edits"]);
        assert_eq!(names(&[]).len(), WORKLOADS.len());
        assert!(Options::parse(&["unknown"]).is_err());
        let asked = Options::parse(&["h2", "--connections", "2", "--size", "5"]).unwrap().workloads()[0].load;
        assert_eq!((asked.connections, asked.streams, asked.size), (2, 32, 5));
        assert!(matches!(Options::parse(&["h2", "--dist", "--secs", "1"]).unwrap().build(), Build::Dist));
        assert!(matches!(Options::parse(&["h2"]).unwrap().build(), Build::Release));
    }
}
