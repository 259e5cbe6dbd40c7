// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask`: the one door for developers. Each command lives in a file of its own; this one
//! reads arguments and nothing else.

mod barrier;
mod bench;
mod databases;
mod dist;
mod dtm;
mod r#gen;
mod peers;
mod sim;
mod test;
mod tidy;
mod transfers;
mod upgrades;

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use transfers::Extent;

const USAGE: &str = "usage: cargo xtask COMMAND

  test [--fast | PART]
                  everything that must hold: format, lints, tidy, tests, examples, docs
                  (--fast leaves out what needs a peer; PART runs one part alone)
  gen [--check]   Rust from the protobuf files (--check: only say whether it is fresh)
  sim [--seeds N] [--seed S]
                  the simulated mesh, each seed twice; --seed S shows the run of one
  transfers [--count N] [--kills N] [--seed S] [--coordinators N] [--beside dtm]
                  money between three banks while everything is killed
  payments [--count N] [--kills N] [--seed S] [--coordinators 1..8] [--programs 0|1]
                  keyed payments to a program without a barrier, under the same fire
  takeover [--count N]
                  one coordinator is killed with so many unfinished, another goes on
  upgrades [--rounds N]
                  every proxy is replaced again and again under load, and nothing is refused or cut
  tidy            floors, sizes, names, purity, doors
  dist            byrnie as it's released, built by what its bench's loads do most, in target/dist
  bench [NAME] [--list] [--peer P]... [-o json]
                  the data plane beside its peers (bench --help says more)
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Not returned: whoever asks for backtraces of tests would get one for a complaint too.
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = root();
    match words.as_slice() {
        ["test"] => test::run(&root, false, None),
        ["test", "--fast"] => test::run(&root, true, None),
        ["test", part] => test::run(&root, false, Some(*part)),
        ["gen"] => r#gen::run(false),
        ["gen", "--check"] => r#gen::run(true),
        ["sim", rest @ ..] => sim::run_all(rest),
        ["transfers", rest @ ..] => with_postgres(transfers::run(&root, Extent::of(rest)?)?),
        ["payments", rest @ ..] => with_postgres(transfers::pay(&root, rest)?),
        ["takeover", rest @ ..] => with_postgres(transfers::take_over(&root, rest)?),
        ["upgrades", rest @ ..] => upgrades::run(&root, rest),
        ["tidy"] => tidy::run(&root),
        ["dist"] => dist::run(&root),
        ["bench", rest @ ..] => bench::run(&root, rest),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown command: {}\n{USAGE}", words.join(" ")),
    }
}

fn with_postgres(succeeded: Option<bool>) -> Result<()> {
    match succeeded {
        Some(true) => Ok(()),
        Some(false) => bail!("it failed: see above"),
        None => bail!("it needs PostgreSQL: apt-get install postgresql"),
    }
}

/// The workspace's root: the folder above this crate's.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::process::Command;

    #[test]
    fn a_plain_cargo_run_runs_byrnie() {
        let args = ["metadata", "--no-deps", "--locked", "--format-version", "1"];
        let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let defaults = list(&metadata["workspace_default_members"]);
        let packages = list(&metadata["packages"]).into_iter().filter(|package| defaults.contains(&package["id"]));
        let targets = packages.flat_map(|package| list(&package["targets"]));
        let programs: Vec<Value> =
            targets.filter(|target| list(&target["kind"]).contains(&"bin".into())).map(|t| t["name"].clone()).collect();
        assert_eq!(programs, ["byrnie"], "the first command of the README needs one program to choose from");
    }
}
