// SPDX-License-Identifier: Apache-2.0
//! What byrnie must show under every attack, however busy the machine is: counts, memory, and that it serves. Latencies are
//! printed and judged by nobody here: they are the machine's as much as anybody's.

use super::{Outcome, Row};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Streams that a client may have open (`STREAMS_MAX`, `codec/h2`), and requests beyond them that one connection which resets may
/// make reach the app: the first burst of what it may reset.
const BEGUN_MAX: u64 = 256 + 100;
/// Memory for 10,000 slow clients, both proxies together.
const SLOW_BYTES_MAX: u64 = 200 * MIB;
/// Memory for floods and bombs of up to a hundred connections, both proxies together.
const FLOOD_BYTES_MAX: u64 = 64 * MIB;
/// Memory for each of them, where they are many enough to tell: a quarter of a mebibyte in each proxy.
const EACH_BYTES_MAX: u64 = 2 * 256 * 1024;
const MANY: u64 = 100;
/// Memory and lines of metrics for 10^6 hosts, paths and agents.
const PATHS_BYTES_MAX: u64 = 32 * MIB;
const SERIES_MAX: usize = 10_000;
/// When the last slow client is gone: a second after its deadline (`HEAD_MAX`, `proxy/connection`; `HANDSHAKE_TIMEOUT`, `net/tls`). When
/// a post's is depends on what it has sent already.
const HEADS_LEFT_MAX: Duration = Duration::from_secs(15 + 1);
const HANDSHAKES_LEFT_MAX: Duration = Duration::from_secs(5 + 1);

/// What a flood's connections are all cut for; other floods are borne.
const CUT: [&str; 9] =
    ["resets", "provoked", "bomb-4000", "bomb-16000", "bomb-large", "continuation", "pings", "settings", "empty-data"];

/// The most memory that byrnie may take under an attack, both proxies together.
const fn bytes_max(row: &Row) -> u64 {
    if row.is_slow() {
        SLOW_BYTES_MAX
    } else if row.counts_series {
        PATHS_BYTES_MAX
    } else {
        FLOOD_BYTES_MAX
    }
}

/// What byrnie broke; nothing of others.
pub(super) fn broken(outcome: &Outcome) -> Vec<String> {
    let Outcome { row, good, course, begun, cut, reached, series, .. } = outcome;
    let mut found = Vec::new();
    let mut demand = |holds: bool, what: String| {
        if !holds {
            found.push(format!("{}: {what}", row.name));
        }
    };
    if outcome.name != "byrnie" {
        return found;
    }
    demand(*begun > 0, "nobody attacked".to_owned());
    demand(good.held.requests > 0 && good.held.errors == 0, format!("{} good requests went wrong", good.held.errors));
    let after = good.after;
    demand(
        after.requests > 0 && after.errors == 0,
        format!("of {} good requests afterwards {} failed", after.requests, after.errors),
    );
    let most = bytes_max(row);
    demand(course.grown <= most, format!("{} MiB of memory, {} at most", course.grown / MIB, most / MIB));
    if !row.is_slow() && *begun >= MANY {
        let each = course.grown / begun;
        demand(
            each <= EACH_BYTES_MAX,
            format!("{} KiB for each attacker, {} at most", each >> 10, EACH_BYTES_MAX >> 10),
        );
    }
    if CUT.contains(&row.name) {
        demand(cut == begun, format!("{cut} of {begun} attackers were cut"));
    }
    if ["resets", "provoked"].contains(&row.name) {
        let most = begun * BEGUN_MAX;
        demand(*reached <= most, format!("{reached} requests of attackers reached the app, {most} at most"));
    }
    let deadline = match row.name {
        "slow-heads" => Some(HEADS_LEFT_MAX),
        "handshakes" => Some(HANDSHAKES_LEFT_MAX),
        _ => None,
    };
    if let Some(deadline) = deadline {
        let last = course.left.map(|(_, last)| last);
        demand(
            last.is_some_and(|last| last <= deadline),
            format!("the last was closed after {last:?}, {deadline:?} at most"),
        );
    }
    if row.counts_series {
        let lines = series.map(|(lines, _)| lines);
        demand(lines.is_some_and(|lines| lines <= SERIES_MAX), format!("{lines:?} series, {SERIES_MAX} at most"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::rows::ROWS;
    use super::super::watch::Course;
    use super::super::{Good, Seen};
    use super::*;

    fn outcome(name: &str, subject: &'static str) -> Outcome {
        let well = Seen { requests: 100, errors: 0, seconds: 1.0, p50_us: 1, p99_us: 1 };
        Outcome {
            row: ROWS.iter().find(|row| row.name == name).unwrap(),
            name: subject,
            version: String::new(),
            good: Good { idle: well, held: well, after: well },
            course: Course { grown: MIB, cpu: 0.0, left: Some((Duration::from_secs(4), Duration::from_secs(5))) },
            begun: 100,
            cut: 100,
            sent: 0,
            lasted: 1.0,
            reached: 0,
            series: Some((60, 1000)),
        }
    }

    #[test]
    fn what_is_within_every_bound_is_let_be() {
        for row in &ROWS {
            assert_eq!(broken(&outcome(row.name, "byrnie")), Vec::<String>::new());
        }
    }

    #[test]
    fn each_bound_is_demanded_of_byrnie_alone() {
        let count = |change: fn(&mut Outcome), row: &str| {
            let [mut ours, mut other] = ["byrnie", "envoy"].map(|subject| outcome(row, subject));
            change(&mut ours);
            change(&mut other);
            assert_eq!(broken(&other), Vec::<String>::new());
            broken(&ours).len()
        };
        assert_eq!(count(|outcome| outcome.good.held.errors = 1, "pings"), 1);
        assert_eq!(count(|outcome| outcome.good.after.requests = 0, "pings"), 1);
        assert_eq!(count(|outcome| outcome.course.grown = 201 * MIB, "slow-heads"), 1);
        assert_eq!(count(|outcome| outcome.course.grown = 51 * MIB, "bomb-90"), 1);
        assert_eq!(count(|outcome| outcome.course.grown = 33 * MIB, "paths"), 1);
        assert_eq!(count(|outcome| outcome.cut = 99, "pings"), 1);
        assert_eq!(count(|outcome| outcome.cut = 99, "streams"), 0);
        assert_eq!(count(|outcome| outcome.reached = 100 * BEGUN_MAX + 1, "resets"), 1);
        assert_eq!(count(|outcome| outcome.course.left = None, "handshakes"), 1);
        assert_eq!(count(|outcome| outcome.series = None, "paths"), 1);
        assert_eq!(count(|outcome| (outcome.begun, outcome.cut) = (0, 0), "streams"), 1);
    }

    #[test]
    fn every_row_that_is_cut_exists() {
        assert!(CUT.iter().all(|name| ROWS.iter().any(|row| row.name == *name)));
    }
}
