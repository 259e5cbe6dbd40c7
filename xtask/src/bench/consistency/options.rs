// SPDX-License-Identifier: Apache-2.0
//! What `bench consistency` is asked for.

use super::subjects::PEERS;
use anyhow::{Context, Result, bail};

pub(super) const USAGE: &str = "\
usage: cargo xtask bench consistency [OPTIONS]

  --rounds N           rounds; subjects take turns in each (3)
  --secs S             seconds of each load (5)
  --parked N           unfinished sagas that a crash of byrnie leaves (10000)
  --peer-parked N      the same for peers, which take them up one by one (300)
  --down S             also measure healing: participants are down for so many seconds (300 is the claim's; 0: not)
  --quick              one round of short loads and few sagas
  --peer P             only this one beside byrnie; repeat it (dtm, dtm-postgres, byrnie-postgres)
  --part P             only this part; repeat it (sagas, recovery, healing, keys)
  -o json              machine-readable

dtm is installed by Go where Go is there; what is on PostgreSQL needs its initdb and postgres on PATH.
";

/// What can be measured by itself.
pub(super) const PARTS: [&str; 4] = ["sagas", "recovery", "healing", "keys"];

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) rounds: usize,
    pub(super) secs: u64,
    /// Unfinished sagas of byrnie and of peers.
    pub(super) parked: (usize, usize),
    /// Seconds for which participants are down.
    pub(super) down: u64,
    pub(super) json: bool,
    peers: Vec<String>,
    parts: Vec<String>,
}

impl Options {
    pub(super) fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self {
            rounds: 3,
            secs: 5,
            parked: (10_000, 300),
            down: 0,
            json: false,
            peers: Vec::new(),
            parts: Vec::new(),
        };
        if args.contains(&"--quick") {
            options = Self { rounds: 1, secs: 2, parked: (1_000, 30), ..options };
        }
        let mut words = args.iter().copied().filter(|word| *word != "--quick");
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("not understood: {word}\n{USAGE}"))?;
            match word {
                "--rounds" => options.rounds = number(word, value, 1, 100)?,
                "--secs" => options.secs = number(word, value, 1, 60)? as u64,
                "--parked" => options.parked.0 = number(word, value, 1, 50_000)?,
                "--peer-parked" => options.parked.1 = number(word, value, 1, 50_000)?,
                "--down" => options.down = number(word, value, 0, 600)? as u64,
                "--peer" if PEERS.contains(&value) => options.peers.push(value.to_owned()),
                "--peer" => bail!("no such peer: {value}; there are {}", PEERS.join(", ")),
                "--part" if PARTS.contains(&value) => options.parts.push(value.to_owned()),
                "--part" => bail!("no such part: {value}; there are {}", PARTS.join(", ")),
                "-o" if value == "json" => options.json = true,
                _ => bail!("not understood: {word} {value}\n{USAGE}"),
            }
        }
        if options.parts.iter().any(|part| part == "healing") && options.down == 0 {
            bail!("healing needs --down SECONDS");
        }
        Ok(options)
    }

    /// Whether `peer` takes part, and must be there as it was asked for by name.
    pub(super) fn wants(&self, peer: &str) -> (bool, bool) {
        let named = self.peers.iter().any(|named| named == peer);
        (self.peers.is_empty() || named, named)
    }

    pub(super) fn has(&self, part: &str) -> bool {
        let named = self.parts.is_empty() || self.parts.iter().any(|named| named == part);
        named && (part != "healing" || self.down > 0)
    }
}

fn number(word: &str, text: &str, least: usize, most: usize) -> Result<usize> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => bail!("{word} {text}: not a number from {least} to {most}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_measured_and_nothing_else() {
        let all = Options::parse(&[]).unwrap();
        assert!(all.has("sagas") && all.has("keys") && !all.has("healing"));
        assert_eq!(all.wants("dtm"), (true, false));
        let some = Options::parse(&["--part", "recovery", "--quick", "--peer", "dtm", "--rounds", "2"]).unwrap();
        assert!(some.has("recovery") && !some.has("sagas"));
        assert_eq!((some.rounds, some.parked.0, some.wants("dtm")), (2, 1_000, (true, true)));
        assert_eq!(some.wants("dtm-postgres"), (false, false));
        for bad in [&["--part", "healing"][..], &["--peer", "seata"], &["--rounds", "0"], &["--secs"]] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }
}
