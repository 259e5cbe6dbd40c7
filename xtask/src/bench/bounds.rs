// SPDX-License-Identifier: Apache-2.0
//! What a request may cost at most on its ways through byrnie, in counts that no neighbour disturbs: instructions, which callgrind
//! counts between two of its dumps, and system calls, which strace counts. A part of `cargo xtask test`, of the build that the
//! tests have made.

use super::byrnie;
use super::count::{CONNECTIONS, Tracer, ask, callgrind, total_in};
use super::process::{Process, Side, Stage, wait_open};
use super::round::App;
use super::workload::{Path, WORKLOADS, Workload};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// Requests before those that are counted, and these.
const WARMING: u64 = 500;
const COUNTED: u64 = 1000;
/// Streams of each HTTP/2 connection meanwhile: those that are under way at the end are paid for and not counted. With all connections no
/// more than a core serves however slow it is, as it is under callgrind.
const STREAMS: usize = 2;
/// Requests while system calls are counted: what 64 connections need to begin is hardly seen beside them.
const TRACED: u64 = 20_000;
/// How often is counted at most. A neighbour that takes the processor cuts a batch of events short, which only ever adds
/// waits, and what is done by the clock is more the longer it takes: the least count is the code's own.
const ROUNDS: usize = 4;

/// What one proxy may do for a request.
struct Bound {
    /// In a build without optimisation, where the same code makes about five times as many.
    instructions: f64,
    /// On one of the load's connections, with one request at a time.
    syscalls: f64,
}

/// Proxies that are started once, and the loads that pass them, with the bounds of each proxy: the one that the client calls first.
struct Course {
    path: Path,
    loads: &'static [(&'static str, &'static [Bound])],
}

/// All of them a twenty-fifth or so above what was counted when last looked at: rare enough to be raised by accident. Two receives
/// and two sends are all that a request in clear needs, with a share of one wait for many, and of what a process does by the clock;
/// between two proxies, one record carries several: how many depends on who else has the machine, so that these bounds are wider, and
/// what they would tell is that each has a record, and a call, of its own again.
const COURSES: [Course; 3] = [
    Course { path: Path::Hop, loads: &[("http-64", &[bound(108_000.0, 4.15)])] },
    Course {
        path: Path::Pair,
        loads: &[
            ("mtls-64", &[bound(107_500.0, 3.2), bound(122_500.0, 3.2)]),
            ("body-10k", &[bound(171_000.0, 3.2), bound(173_500.0, 3.2)]),
        ],
    },
    Course { path: Path::Http2, loads: &[("h2", &[bound(133_000.0, 3.6)]), ("grpc", &[bound(170_500.0, 3.6)])] },
];

const fn bound(instructions: f64, syscalls: f64) -> Bound {
    Bound { instructions, syscalls }
}

/// Counts, prints, and says at the end what is above its bound.
pub(super) fn check(stage: &Stage) -> Result<()> {
    let app = App::start(stage)?;
    let mut above = Vec::new();
    for course in COURSES {
        let instructions = instructions(stage, &course, &app)?;
        let calls = calls(stage, &course, &app)?;
        for (at, (load, bounds)) in course.loads.iter().enumerate() {
            for (proxy, bound) in bounds.iter().enumerate() {
                let (instructions, calls) = (instructions[at][proxy], calls[at][proxy]);
                let text = format!("{load}, proxy {} of {}", proxy + 1, bounds.len());
                println!("{text}: {instructions:.0} instructions (unoptimised) and {calls:.2} system calls a request");
                if instructions > bound.instructions {
                    above.push(format!("{text}: more than {} instructions a request", bound.instructions));
                }
                if calls > bound.syscalls {
                    above.push(format!("{text}: more than {} system calls a request", bound.syscalls));
                }
            }
        }
    }
    if above.is_empty() { Ok(()) } else { bail!("{}", above.join("\n")) }
}

fn load(name: &str) -> Result<Workload> {
    WORKLOADS.into_iter().find(|workload| workload.name == name).with_context(|| format!("no workload {name}"))
}

/// The least of the figures of each proxy, which are counted again while one is above its bound.
fn least(most: &[f64], mut count: impl FnMut() -> Result<Vec<f64>>) -> Result<Vec<f64>> {
    let mut least = vec![f64::INFINITY; most.len()];
    for _ in 0..ROUNDS {
        for (least, figure) in least.iter_mut().zip(count()?) {
            *least = least.min(figure);
        }
        if least.iter().zip(most).all(|(least, most)| least <= most) {
            break;
        }
    }
    Ok(least)
}

/// Proxies that run, and where a client enters.
struct Way {
    proxies: Vec<Process>,
    entry: SocketAddr,
}

impl Way {
    /// Starts them `under` a program.
    fn start(stage: &Stage, path: Path, app: &App, under: &[String]) -> Result<Self> {
        let proxy = |name: &str, path, next: &[SocketAddr]| -> Result<(Process, SocketAddr)> {
            let mut words = byrnie::hop_words(stage, path, app.clear[0], next);
            words.push(format!("state={}", stage.dir.join(name).display()));
            let tool = stage.tool.to_string_lossy().into_owned();
            let words: Vec<&str> = under.iter().chain([&tool]).chain(&words).map(String::as_str).collect();
            let process = stage.start(Side::Proxy, name, words[0], &words[1..])?;
            let entry = byrnie::said_ready(stage, name)?;
            wait_open(name, entry)?;
            Ok((process, entry))
        };
        if path != Path::Pair {
            let (one, entry) = proxy("counted", path, &app.secure)?;
            return Ok(Self { proxies: vec![one], entry });
        }
        let (callee, inbound) = proxy("counted-callee", Path::Tls, &app.secure)?;
        let (caller, entry) = proxy("counted-caller", Path::Hop, &[inbound])?;
        Ok(Self { proxies: vec![caller, callee], entry })
    }
}

/// Instructions of a request of each load, in each proxy.
fn instructions(stage: &Stage, course: &Course, app: &App) -> Result<Vec<Vec<f64>>> {
    let (pattern, under) = callgrind(stage)?;
    let way = Way::start(stage, course.path, app, &under)?;
    // What was counted since the dump before, by each.
    let mut dumps = 0;
    let mut dump = || -> Result<Vec<u64>> {
        dumps += 1;
        let total = |proxy: &Process| {
            let pid = proxy.pid().to_string();
            let said = Command::new("callgrind_control").args(["--dump", &pid]).stdin(Stdio::null()).output()?;
            let path = format!("{}.{pid}.{dumps}", pattern.display());
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("{path}: {}", String::from_utf8_lossy(&said.stdout)))?;
            std::fs::remove_file(&path)?;
            total_in(&text).context("callgrind counted nothing")
        };
        way.proxies.iter().map(total).collect()
    };
    let more = [format!("connections={CONNECTIONS}"), format!("streams={STREAMS}")];
    let of_load = |(name, bounds): &(&str, &[Bound])| {
        let load = load(name)?;
        ask(stage, &load, way.entry, WARMING, &more)?;
        dump()?;
        let most: Vec<f64> = bounds.iter().map(|bound| bound.instructions).collect();
        least(&most, || {
            let requests = ask(stage, &load, way.entry, COUNTED, &more)?;
            Ok(dump()?.into_iter().map(|sum| sum as f64 / requests as f64).collect())
        })
    };
    course.loads.iter().map(of_load).collect()
}

/// System calls of a request of each load, in each proxy.
fn calls(stage: &Stage, course: &Course, app: &App) -> Result<Vec<Vec<f64>>> {
    let way = Way::start(stage, course.path, app, &[])?;
    let more = ["streams=1".to_owned()];
    let of_load = |(name, bounds): &(&str, &[Bound])| {
        let load = load(name)?;
        // What only the first requests need isn't a request's price.
        ask(stage, &load, way.entry, WARMING, &more)?;
        let most: Vec<f64> = bounds.iter().map(|bound| bound.syscalls).collect();
        least(&most, || {
            let tracers = (way.proxies.iter().enumerate())
                .map(|(at, proxy)| Tracer::attach(stage, &format!("strace-{at}"), proxy.pid()))
                .collect::<Result<Vec<_>>>()?;
            let requests = ask(stage, &load, way.entry, TRACED, &more)?;
            tracers.into_iter().map(|tracer| Ok(tracer.calls()? as f64 / requests as f64)).collect()
        })
    };
    course.loads.iter().map(of_load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_its_bound_is_counted_again_and_the_least_counts() {
        let mut rounds = [vec![9.0, 5.0], vec![7.0, 6.0], vec![8.0, 3.0], vec![7.5, 9.0], vec![0.0, 0.0]].into_iter();
        assert_eq!(least(&[7.0, 5.5], || rounds.next().context("no more")).unwrap(), [7.0, 5.0]);
        // What stays above it is told as it is.
        assert_eq!(least(&[1.0, 9.0], || Ok(vec![2.0, 3.0])).unwrap(), [2.0, 3.0]);
    }

    #[test]
    fn every_load_that_is_counted_is_a_workload() {
        for (name, bounds) in COURSES.iter().flat_map(|course| course.loads) {
            assert!(load(name).is_ok() && !bounds.is_empty(), "{name}");
        }
    }
}
