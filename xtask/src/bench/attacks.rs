// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench attacks`: what clients that mean harm cost, beside a good client at a fixed rate. byrnie is the
//! pair of `byrnie up` and `byrnie run`, as it comes, both of whose proxies are counted; peers are one proxy each, as
//! they come but for what it takes to hold so many connections. Everything is seen from outside: memory, processor
//! time and sockets from `/proc`, begun requests from the app, the rest from the good client. It fails where byrnie breaks
//! what it promises whatever the machine does: see [`gates`].

mod gates;
mod rows;
mod subjects;
mod watch;

use super::process::{Side, Stage};
use super::round::Seen;
use anyhow::{Context, Result, bail};
use rows::{Entry, ROWS, Row};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use subjects::{App, Subject};
use watch::{Course, Watch};

pub(super) const ABOUT: &str = "slow, greedy and lying clients beside a good one: memory, CPU, who is cut, who suffers";

/// The good client.
const GOOD_RATE: u64 = 500;
const GOOD_CONNECTIONS: usize = 16;
/// How long it's alone, to compare.
const IDLE_SECONDS: u64 = 4;
/// Files that every program here may open, if the system lets them: 10,000 connections, and as many upstream.
const FILES: u64 = 20_000;
/// How long it asks once the attackers are gone.
const AFTER_SECONDS: u64 = 1;
/// How long an attack is held; longer than byrnie's longest patience.
const SECONDS: u64 = 75;

const USAGE: &str = "\
usage: cargo xtask bench attacks [ROW...] [OPTIONS]

  ROW                  only these rows; --list names them
  --secs S             how long slow clients are held (75)
  --connections N      connections of slow clients (10000)
  --peer P             only this subject; repeat it (byrnie, haproxy, nginx, envoy)
  -o json              machine-readable

It fails if byrnie's own row breaks what it promises: answers lost, memory, who is cut, that it serves afterwards.
";

struct Options {
    rows: Vec<&'static Row>,
    seconds: u64,
    connections: Option<usize>,
    named: Vec<String>,
    json: bool,
}

impl Options {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut options =
            Self { rows: Vec::new(), seconds: SECONDS, connections: None, named: Vec::new(), json: false };
        let mut words = args.iter().copied();
        while let Some(word) = words.next() {
            if !word.starts_with('-') {
                let row = ROWS.iter().find(|row| row.name == word);
                options.rows.push(row.with_context(|| format!("no row is called `{word}`; --list names them"))?);
                continue;
            }
            let value = words.next().with_context(|| format!("not understood: {word}\n{USAGE}"))?;
            match word {
                "--secs" => options.seconds = value.parse()?,
                "--connections" => options.connections = Some(value.parse()?),
                "--peer" if subjects::NAMES.contains(&value) => options.named.push(value.to_owned()),
                "-o" if value == "json" => options.json = true,
                _ => bail!("not understood: {word} {value}\n{USAGE}"),
            }
        }
        if options.rows.is_empty() {
            options.rows = ROWS.iter().collect();
        }
        Ok(options)
    }
}

/// What the good client saw.
struct Good {
    /// Alone.
    idle: Seen,
    /// Beside the attackers.
    held: Seen,
    /// When they were gone.
    after: Seen,
}

/// What one subject showed under one attack.
struct Outcome {
    row: &'static Row,
    name: &'static str,
    version: String,
    good: Good,
    course: Course,
    /// Attackers that were connected, those that were cut, as far as they could notice, and frames or requests that they sent.
    begun: u64,
    cut: u64,
    sent: u64,
    /// How long they were at it, in seconds.
    lasted: f64,
    /// Requests of theirs that the app saw.
    reached: u64,
    /// Lines of `/metrics` and its bytes; byrnie alone.
    series: Option<(usize, usize)>,
}

/// Measures and prints.
pub(super) fn run(root: &Path, args: &[&str]) -> Result<()> {
    if args == ["--list"] {
        ROWS.iter().for_each(|row| println!("{:<13} {}", row.name, row.about));
        return Ok(());
    }
    if args.first().is_some_and(|word| ["--help", "-h"].contains(word)) {
        print!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(args)?;
    let stage = Stage::new(root)?;
    let most = raise_files()?;
    let mut outcomes = Vec::new();
    for row in &options.rows {
        for name in subjects::NAMES {
            if !options.named.is_empty() && !options.named.iter().any(|named| named == name) {
                continue;
            }
            match measure(&stage, &options, row, name, most)? {
                Some(outcome) => {
                    if !options.json {
                        print(&outcome, outcomes.last().is_none_or(|last: &Outcome| last.row.name != row.name));
                    }
                    outcomes.push(outcome);
                }
                None => eprintln!("skipped: {name} isn't here (PATH; for Envoy, ENVOY_BIN names its binary)"),
            }
        }
    }
    if options.json {
        println!("{}", serde_json::to_string(&document(&outcomes))?);
    } else {
        println!("\n{LEGEND}");
    }
    let broken: Vec<String> = outcomes.iter().flat_map(gates::broken).collect();
    for what in &broken {
        eprintln!("broken: {what}");
    }
    if broken.is_empty() { Ok(()) } else { bail!("byrnie broke {} of what it promises", broken.len()) }
}

const LEGEND: &str = "\
grown: most resident memory above that before the attack, all proxies together, and by each attacking connection.
CPU: of all proxies while the attackers are held, above that of the good client alone; percent of one processor.
cut: of slow clients, when the first and the last connection was closed by the proxy after most were open (`held`: not while
they were watched); of others, how many had been, and when it was over.
reached: requests of attackers that the app saw. good: its errors, and its latency alone and under attack.";

/// Lets this process and its children open as many files as it takes; how many connections that is.
fn raise_files() -> Result<usize> {
    let (own, wanted) = (std::process::id().to_string(), format!("--nofile={FILES}:"));
    // Refused where the system allows less; what there is counts.
    let _ = Command::new("prlimit").args(["--pid", &own, &wanted]).stderr(Stdio::null()).status();
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit of open files")?;
    let soft = line.split_whitespace().nth(3).context("no limit of open files")?.parse().unwrap_or(FILES);
    if soft < FILES {
        eprintln!("only {soft} files may be open here, {FILES} are wanted: slow clients are {} at most", soft / 2);
    }
    Ok(usize::try_from(soft.min(FILES) / 2)?)
}

fn measure(
    stage: &Stage,
    options: &Options,
    row: &'static Row,
    name: &'static str,
    most: usize,
) -> Result<Option<Outcome>> {
    let app = App::start(stage)?;
    let Some(subject) = Subject::start(stage, name, &app, row.entry)? else { return Ok(None) };
    let slow = row.is_slow();
    let connections = if slow { options.connections.unwrap_or(row.connections).min(most) } else { row.connections };
    let seconds = if slow { options.seconds } else { row.seconds };
    let alone = watch::cpu_of(&subject.proxies);
    let idle = Load::start(stage, &subject, IDLE_SECONDS)?.end()?;
    let alone = (watch::cpu_of(&subject.proxies) - alone) as f64 / (idle.seconds * 1e9);
    let before = app.counted()?;
    let load = Load::start(stage, &subject, seconds + 2)?;
    let watch = Watch::begin(&subject.proxies);
    let told = attack(stage, row, &subject, connections, seconds)?;
    let end = super::now();
    let held = load.end()?;
    let course = watch.end(end, alone);
    let reached = app.counted()?.saturating_sub(before);
    let number = |key: &str| told.get(key).and_then(Value::as_u64).unwrap_or(0);
    let after = Load::start(stage, &subject, AFTER_SECONDS)?.end()?;
    let series = if row.counts_series { subject.series() } else { None };
    let version = subject.version.clone();
    let (begun, cut, sent) = (number("begun"), number("cut"), number("sent"));
    let lasted = told.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
    let good = Good { idle, held, after };
    Ok(Some(Outcome { row, name, version, good, course, begun, cut, sent, lasted, reached, series }))
}

/// Runs the attackers to their end, with less claim to the processor than anybody good.
fn attack(stage: &Stage, row: &Row, subject: &Subject, connections: usize, seconds: u64) -> Result<Value> {
    let to = match row.entry {
        Entry::Http1 => subject.entry,
        Entry::Http2 => subject.http2,
        Entry::Tls => subject.secure.context("no TLS entry")?,
    };
    let mut words = vec![format!("to={to}"), format!("connections={connections}"), format!("secs={seconds}")];
    words.extend(row.words.iter().map(|word| (*word).to_owned()));
    let tool = stage.tool.to_string_lossy();
    let mut args = vec!["-n", "15", &tool, "attack"];
    args.extend(words.iter().map(String::as_str));
    let output = stage.command(Side::Load, "nice", &args).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let last = text.lines().next_back().context("the attackers said nothing")?;
    serde_json::from_str(last).with_context(|| format!("the attackers said `{last}`"))
}

/// The good client.
struct Load(Child);

impl Load {
    /// Starts it; it has warmed up.
    fn start(stage: &Stage, subject: &Subject, seconds: u64) -> Result<Self> {
        let (to, secs) = (format!("to={}", subject.entry), format!("secs={seconds}"));
        let (rate, connections) = (format!("rate={GOOD_RATE}"), format!("connections={GOOD_CONNECTIONS}"));
        let mut load = Self(stage.client(&["load", &to, &secs, &rate, &connections]).stdout(Stdio::piped()).spawn()?);
        let mut line = String::new();
        // Unbuffered, so that the rest is still there for `end`.
        let out = load.0.stdout.as_mut().context("no output")?;
        BufReader::with_capacity(1, out).read_line(&mut line)?;
        if line.starts_with("begin") { Ok(load) } else { bail!("the good client said `{}`", line.trim()) }
    }

    fn end(mut self) -> Result<Seen> {
        let out = self.0.stdout.take().context("no output")?;
        let last = BufReader::new(out).lines().last().context("the good client said nothing")??;
        self.0.wait()?;
        serde_json::from_str(&last).with_context(|| format!("the good client said `{last}`"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn print(outcome: &Outcome, first: bool) {
    let Outcome { row, name, version, good, course, begun, cut, sent, lasted, reached, series } = outcome;
    let Good { idle, held, .. } = good;
    if first {
        println!("\n{}: {}\n", row.name, row.about);
        println!(
            "{:<8} {:<8} {:>9} {:>10} {:>9} {:>9} {:>6} {:>14} {:>9} {:>9} {:>11} {:>13}",
            "subject",
            "version",
            "attackers",
            "sent",
            "grown MiB",
            "KiB each",
            "CPU %",
            "cut",
            "reached",
            "good err",
            "p50 us",
            "p99 us"
        );
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let each = course.grown as f64 / 1024.0 / (*begun).max(1) as f64;
    let left = match course.left {
        Some((first, last)) if row.is_slow() => format!("{:.1}-{:.1} s", first.as_secs_f64(), last.as_secs_f64()),
        None if row.is_slow() => "held".to_owned(),
        _ => format!("{cut} in {lasted:.1} s"),
    };
    println!(
        "{name:<8} {version:<8} {begun:>9} {sent:>10} {:>9.1} {each:>9.1} {:>6.1} {left:>14} {reached:>9} {:>9} {:>11} {:>13}",
        mib(course.grown),
        course.cpu * 100.0,
        held.errors,
        format!("{}/{}", idle.p50_us, held.p50_us),
        format!("{}/{}", idle.p99_us, held.p99_us),
    );
    if let Some((lines, bytes)) = series {
        println!("{:<8} {lines} series in {} KiB of /metrics", "", bytes / 1024);
    }
}

fn document(outcomes: &[Outcome]) -> Value {
    let mut rows = Vec::new();
    for outcome in outcomes {
        let Outcome { row, name, version, good, course, begun, cut, sent, reached, series, .. } = outcome;
        let Good { idle, held, after } = good;
        let mut metrics = vec![
            ("attackers", *begun as f64),
            ("attackers_cut", *cut as f64),
            ("attackers_sent", *sent as f64),
            ("rss_growth_bytes", course.grown as f64),
            ("cpu_cores_held", course.cpu),
            ("requests_reached", *reached as f64),
            ("good_errors", held.errors as f64),
            ("good_errors_after", after.errors as f64),
            ("good_p50_us", held.p50_us as f64),
            ("good_p99_us", held.p99_us as f64),
            ("good_idle_p50_us", idle.p50_us as f64),
            ("good_idle_p99_us", idle.p99_us as f64),
        ];
        if let Some((first, last)) = course.left {
            metrics.extend([("left_first_s", first.as_secs_f64()), ("left_last_s", last.as_secs_f64())]);
        }
        if let Some((lines, bytes)) = series {
            metrics.extend([("metrics_series", *lines as f64), ("metrics_bytes", *bytes as f64)]);
        }
        let workload = format!("attack-{}", row.name);
        rows.extend(metrics.into_iter().map(|(metric, value)| {
            json!({"workload": workload, "subject": name, "version": version, "metric": metric,
                "median": value, "min": value, "max": value, "rounds": 1})
        }));
    }
    json!({"bench": "attacks", "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name() {
        assert_eq!(Options::parse(&["slow-heads", "resets"]).unwrap().rows.len(), 2);
        assert_eq!(Options::parse(&[]).unwrap().rows.len(), ROWS.len());
        assert!(Options::parse(&["unknown"]).is_err());
        assert!(Options::parse(&["--peer", "squid"]).is_err());
    }
}
