// SPDX-License-Identifier: Apache-2.0
//! Recent decision records: failures are kept apart, so that no crowd of successes pushes them out.

use byrnie_base::Text;
use byrnie_model::Record;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most failures kept.
pub(super) const FAILURES_MAX: usize = 2_000;
/// Most successes kept.
pub(super) const SUCCESSES_MAX: usize = 1_000;

/// Recent records, oldest first in each part.
#[derive(Debug, Default)]
pub(super) struct Records {
    failures: VecDeque<Arc<Record>>,
    successes: VecDeque<Arc<Record>>,
}

/// Which records are asked for. What is absent fits all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// This status.
    pub status: Option<u16>,
    /// This service is the destination or, by its account, the source.
    pub service: Option<Text>,
    /// Only failures.
    pub failed: bool,
    /// At most so many.
    pub limit: usize,
}

/// Whether the exchange of a record failed: by the mesh, or by the program with a 5xx.
pub(super) fn failed(record: &Record) -> bool {
    record.status >= 500 || !record.decision.reason.is_empty()
}

impl Records {
    pub(super) fn push(&mut self, record: Record) {
        let (ring, most) =
            if failed(&record) { (&mut self.failures, FAILURES_MAX) } else { (&mut self.successes, SUCCESSES_MAX) };
        if ring.len() >= most {
            ring.pop_front();
        }
        ring.push_back(Arc::new(record));
    }

    /// The records of this id, the caller's side before the other's.
    pub(super) fn find(&self, id: &str) -> Vec<Arc<Record>> {
        let all = self.failures.iter().chain(&self.successes);
        let mut found: Vec<_> = all.filter(|record| record.id == *id).cloned().collect();
        found.sort_by_key(|record| record.direction == "inbound");
        found
    }

    /// The newest that fit, newest first.
    pub(super) fn newest(&self, wanted: &Wanted) -> Vec<Arc<Record>> {
        let fits = |record: &&Arc<Record>| {
            wanted.status.is_none_or(|status| record.status == status)
                && wanted.service.as_ref().is_none_or(|service| concerns(record, service))
        };
        let most = wanted.limit.max(1);
        let mut found: Vec<_> = self.failures.iter().rev().filter(fits).take(most).cloned().collect();
        if !wanted.failed {
            found.extend(self.successes.iter().rev().filter(fits).take(most).cloned());
        }
        found.sort_by_key(|record| std::cmp::Reverse(record.at));
        found.truncate(most);
        found
    }
}

fn concerns(record: &Record, service: &str) -> bool {
    let names = [super::collect::short(&record.destination), super::collect::short(&record.source)];
    names.iter().any(|name| **name == *service || super::collect::short(service) == *name)
}
