// SPDX-License-Identifier: Apache-2.0
//! Who asked what of the coordinator, and whether it was let in: one line each, the newest kept in memory for
//! the operator. The log has refusals and what changed the course of a transaction; who began one or joined it stands in
//! its own history, for as long as that is kept.

use super::Caller;
use byrnie_base::{Text, Timestamp};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Lines kept.
pub(super) const LINES_MAX: usize = 10_000;

/// What every transaction comes by, which would fill a log.
const STEPS: [&str; 9] =
    ["start", "enlist", "confirm", "close", "complete", "prepare", "submit", "registerBranch", "registerTccBranch"];

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// When.
    pub at: Timestamp,
    /// Who: an identity, `operator`, or `anonymous`.
    pub caller: Text,
    /// What: `start`, `cancel`, `enlist` and so on.
    pub verb: Text,
    /// The transaction; empty if it has none yet.
    pub id: Text,
    /// The status of the answer.
    pub status: u16,
}

/// The newest lines.
#[derive(Debug, Default)]
pub(super) struct Audit(Mutex<VecDeque<Line>>);

impl Audit {
    pub(super) fn note(&self, at: Timestamp, caller: Option<&Caller>, verb: &str, id: &str, status: u16) {
        let caller = caller.map_or_else(|| Text::from("anonymous"), Caller::name);
        if matches!(status, 401 | 403) {
            tracing::warn!(target: "audit", %caller, verb, id, status, "refused");
        } else if STEPS.contains(&verb) {
            tracing::debug!(target: "audit", %caller, verb, id, status, "asked");
        } else {
            tracing::info!(target: "audit", %caller, verb, id, status, "asked");
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(Line { at, caller, verb: verb.into(), id: id.into(), status });
    }

    /// Newest first.
    pub(super) fn newest(&self, count: usize) -> Vec<Line> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().rev().take(count).cloned().collect()
    }
}
