// SPDX-License-Identifier: Apache-2.0
//! What `bench loss` is asked for.

use super::subject;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const USAGE: &str = "\
usage: cargo xtask bench loss [OPTIONS]

  --delay MS           delay of each packet, each way; repeat it (0 and 10)
  --loss PERCENT       packets that are lost, each way; repeat it (0, 0.1 and 1)
  --congestion NAME    congestion control of all connections (the machine's), one of
                       /proc/sys/net/ipv4/tcp_allowed_congestion_control
  --rate R             requests a second (1000)
  --connections N      connections that the client keeps open (64)
  --size BYTES         size of the answer's body (100)
  --secs S             seconds of load for each subject under each condition (20)
  --seed N             which packets are lost (1)
  --peer P             only this subject; repeat it (byrnie, byrnie-http1, relay, haproxy, haproxy-h2, nginx, envoy, envoy-h2)
  -o json              machine-readable

It takes root, for network namespaces and TUN devices; without it the bench is skipped.
";

/// What was asked for.
pub(super) struct Options {
    pub(super) load: Load,
    delays: Vec<Duration>,
    losses: Vec<u64>,
    /// In place of the machine's.
    pub(super) congestion: Option<String>,
    pub(super) seed: u64,
    pub(super) json: bool,
    named: Vec<String>,
}

/// The load.
pub(super) struct Load {
    rate: u64,
    connections: usize,
    size: usize,
    secs: u64,
}

impl Load {
    /// How the client is told.
    pub(super) fn words(&self, to: SocketAddr) -> Vec<String> {
        let Self { rate, connections, size, secs } = self;
        let words = [("rate", *rate), ("connections", *connections as u64), ("size", *size as u64), ("secs", *secs)];
        let words = words.into_iter().map(|(key, value)| format!("{key}={value}"));
        ["load".to_owned(), format!("to={to}")].into_iter().chain(words).collect()
    }

    /// In words, for a table's head.
    pub(super) fn text(&self) -> String {
        let Self { rate, connections, size, secs } = self;
        format!("{connections} connections, {rate} requests/s, {size} B answers; {secs} s for each row")
    }
}

/// What the network does to packets, each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) delay: Duration,
    /// Packets in a million that are lost.
    pub(super) loss: u64,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (delay, percent) = (self.delay.as_micros() as f64 / 1000.0, self.loss as f64 / PERCENT);
        write!(f, "{delay} ms and {percent} % lost each way")
    }
}

/// Packets in a million that are a percent.
const PERCENT: f64 = 10_000.0;

impl Options {
    pub(super) fn parse(args: &[&str]) -> Result<Self> {
        let mut load = Load { rate: 1000, connections: 64, size: 100, secs: 20 };
        let (mut delays, mut losses, mut named) = (Vec::new(), Vec::new(), Vec::new());
        let (mut congestion, mut seed, mut json) = (None, 1, false);
        let mut words = args.iter().copied();
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("not understood: {word}\n{USAGE}"))?;
            let told = || format!("{word} {value}");
            match word {
                "--delay" => delays.push(Duration::from_secs_f64(within(value, 1000.0).with_context(told)? / 1000.0)),
                "--loss" => losses.push((within(value, 100.0).with_context(told)? * PERCENT).round() as u64),
                "--congestion" => congestion = Some(value.to_owned()),
                "--rate" => load.rate = value.parse().with_context(told)?,
                "--connections" => load.connections = value.parse().with_context(told)?,
                "--size" => load.size = value.parse().with_context(told)?,
                "--secs" => load.secs = value.parse().with_context(told)?,
                "--seed" => seed = value.parse().with_context(told)?,
                "--peer" if subject::names().any(|name| name == value) => named.push(value.to_owned()),
                "-o" if value == "json" => json = true,
                _ => bail!("not understood: {word} {value}\n{USAGE}"),
            }
        }
        if load.rate == 0 || load.connections == 0 || load.secs == 0 {
            bail!("--rate, --connections and --secs are at least 1");
        }
        if delays.is_empty() {
            delays = vec![Duration::ZERO, Duration::from_millis(10)];
        }
        if losses.is_empty() {
            losses = vec![0, 1000, 10_000];
        }
        Ok(Self { load, delays, losses, congestion, seed, json, named })
    }

    /// All that is asked for.
    pub(super) fn conditions(&self) -> impl Iterator<Item = Condition> {
        self.delays.iter().flat_map(|delay| self.losses.iter().map(|loss| Condition { delay: *delay, loss: *loss }))
    }

    /// Whether `name` takes part.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.named.is_empty() || self.named.iter().any(|named| named == name)
    }
}

/// A number from 0 to `most`.
fn within(text: &str, most: f64) -> Result<f64> {
    let number: f64 = text.parse().context("not a number")?;
    if (0.0..=most).contains(&number) { Ok(number) } else { bail!("not between 0 and {most}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_every_delay_with_every_loss() {
        let told =
            |args: &[&str]| Options::parse(args).unwrap().conditions().map(|one| one.to_string()).collect::<Vec<_>>();
        assert_eq!(told(&[]).len(), 6);
        assert_eq!(
            told(&["--delay", "2.5", "--loss", "0.1", "--loss", "3"]),
            ["2.5 ms and 0.1 % lost each way", "2.5 ms and 3 % lost each way"]
        );
        for bad in [["--loss", "101"], ["--delay", "-1"], ["--rate", "0"], ["--peer", "nobody"], ["--loss", "NaN"]] {
            assert!(Options::parse(&bad).is_err(), "{bad:?}");
        }
    }
}
