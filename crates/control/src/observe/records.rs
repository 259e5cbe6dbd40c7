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

    /// The newest that fit, newest first. Each proxy reports by itself, so that what came last isn't always the newest.
    pub(super) fn newest(&self, wanted: &Wanted) -> Vec<Arc<Record>> {
        let fits = |record: &&Arc<Record>| {
            wanted.status.is_none_or(|status| record.status == status)
                && wanted.service.as_ref().is_none_or(|service| concerns(record, service))
        };
        let successes = (!wanted.failed).then_some(&self.successes);
        let all = [Some(&self.failures), successes].into_iter().flatten().flat_map(|ring| ring.iter().rev());
        let mut found: Vec<_> = all.filter(fits).collect();
        found.sort_by_key(|record| std::cmp::Reverse(record.at));
        found.into_iter().take(wanted.limit.max(1)).cloned().collect()
    }
}

fn concerns(record: &Record, service: &str) -> bool {
    let names = [super::collect::short(&record.destination), super::collect::short(&record.source)];
    names.iter().any(|name| **name == *service || super::collect::short(service) == *name)
}
