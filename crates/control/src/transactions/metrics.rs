// SPDX-License-Identifier: Apache-2.0
//! Numbers of the coordinator, as Prometheus text: what began, how it ended, what was called, and what an
//! operator should look at.

use super::run::Coordinator;
use super::trouble::Trouble;
use byrnie_saga::{End, Mode, Outcome};
use byrnie_store::log::{Commits, SIZES};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

const MODES: [Mode; 4] = [Mode::Saga, Mode::Message, Mode::Tcc, Mode::Scope];
const ENDS: [(End, &str); 3] = [(End::Done, "done"), (End::Undone, "undone"), (End::Resolved, "resolved")];
const OUTCOMES: [&str; 6] = ["done", "rejected", "ongoing", "unknown", "misdirected", "ambiguous"];

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub(super) struct Counts {
    started: [AtomicU64; 4],
    ended: [[AtomicU64; 3]; 4],
    calls: [AtomicU64; 6],
    pub(super) trouble: Trouble,
}

impl Counts {
    pub(super) fn started(&self, mode: Mode) {
        add(MODES.iter().position(|m| *m == mode).and_then(|at| self.started.get(at)));
    }

    pub(super) fn ended(&self, mode: Mode, end: End) {
        let ends = MODES.iter().position(|m| *m == mode).and_then(|at| self.ended.get(at));
        let at = ENDS.iter().position(|(e, _)| *e == end);
        add(ends.zip(at).and_then(|(ends, at)| ends.get(at)));
    }

    pub(super) fn called(&self, outcome: &Outcome) {
        let at = match outcome {
            Outcome::Done { .. } => 0,
            Outcome::Rejected { .. } => 1,
            Outcome::Ongoing { .. } => 2,
            Outcome::Unknown { .. } => 3,
            Outcome::Misdirected { .. } | Outcome::Elsewhere { .. } => 4,
            Outcome::Ambiguous { .. } => 5,
        };
        add(self.calls.get(at));
    }
}

fn add(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Coordinator {
    /// The numbers, as Prometheus text.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "# HELP byrnie_txn_started_total Transactions accepted.\n# TYPE byrnie_txn_started_total counter"
        );
        for (mode, count) in MODES.iter().zip(&self.counts.started) {
            let _ =
                writeln!(out, "byrnie_txn_started_total{{mode=\"{}\"}} {}", mode.name(), count.load(Ordering::Relaxed));
        }
        let _ = writeln!(
            out,
            "# HELP byrnie_txn_ended_total Transactions that ended.\n# TYPE byrnie_txn_ended_total counter"
        );
        for (mode, ends) in MODES.iter().zip(&self.counts.ended) {
            for ((_, end), count) in ENDS.iter().zip(ends) {
                let (mode, count) = (mode.name(), count.load(Ordering::Relaxed));
                let _ = writeln!(out, "byrnie_txn_ended_total{{mode=\"{mode}\",end=\"{end}\"}} {count}");
            }
        }
        let _ = writeln!(
            out,
            "# HELP byrnie_txn_calls_total Calls of participants.\n# TYPE byrnie_txn_calls_total counter"
        );
        for (outcome, count) in OUTCOMES.iter().zip(&self.counts.calls) {
            let _ = writeln!(out, "byrnie_txn_calls_total{{outcome=\"{outcome}\"}} {}", count.load(Ordering::Relaxed));
        }
        let refused = self.counts.trouble.refused();
        let _ = writeln!(
            out,
            "# HELP byrnie_txn_journal_refused_total Writes that the journal refused.\n# TYPE byrnie_txn_journal_refused_total counter\nbyrnie_txn_journal_refused_total {refused}"
        );
        let now = self.now().as_millis();
        let shards = u64::try_from(self.terms.shards().len()).unwrap_or(u64::MAX);
        let (mut running, mut stuck, mut oldest) = (0, 0, 0);
        for handle in self.live().values() {
            let sight = handle.sight.borrow();
            running += 1;
            stuck += u64::from(sight.state.is_stuck());
            oldest = oldest.max(now.saturating_sub(sight.state.spec.created.as_millis()));
        }
        for (name, help, value) in [
            ("byrnie_txn_running", "Transactions that run in this coordinator.", running),
            ("byrnie_txn_stuck", "Transactions that wait for an operator.", stuck),
            ("byrnie_txn_shards", "Shards of the journal that this coordinator drives.", shards),
            ("byrnie_txn_oldest_seconds", "Age of the oldest transaction that has not ended.", oldest / 1000),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        commit_sizes(&mut out, &self.journal.commits());
        out.push_str(&self.state.tracer.metrics());
        out
    }
}

/// How many appends each durable step of the journal had.
fn commit_sizes(out: &mut String, commits: &Commits) {
    let name = "byrnie_txn_commit_batch_size";
    let _ = writeln!(out, "# HELP {name} Appends to transactions that one step made durable.\n# TYPE {name} histogram");
    let mut steps = 0;
    for (size, count) in SIZES.iter().zip(commits.steps) {
        steps += count;
        let _ = writeln!(out, "{name}_bucket{{le=\"{size}\"}} {steps}");
    }
    let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {steps}\n{name}_sum {}\n{name}_count {steps}", commits.appends);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_commits_add_up() {
        let mut out = String::new();
        commit_sizes(&mut out, &Commits { steps: [3, 0, 1, 0, 0, 0, 0, 0, 0, 1], appends: 407 });
        for line in [
            "# TYPE byrnie_txn_commit_batch_size histogram",
            "byrnie_txn_commit_batch_size_bucket{le=\"1\"} 3",
            "byrnie_txn_commit_batch_size_bucket{le=\"4\"} 4",
            "byrnie_txn_commit_batch_size_bucket{le=\"512\"} 5",
            "byrnie_txn_commit_batch_size_bucket{le=\"+Inf\"} 5",
            "byrnie_txn_commit_batch_size_sum 407",
            "byrnie_txn_commit_batch_size_count 5",
        ] {
            assert!(out.lines().any(|of| of == line), "{line} in {out}");
        }
    }
}
