// SPDX-License-Identifier: Apache-2.0
//! `Core`: one group of jobs after the other is planned, made durable, applied, announced. Driven by
//! the writer thread of `embedded` or, step by step, by `memory`. It never waits for anything but the disk.

use crate::state::{Group, Shared};
use crate::store::{Error, Lease, Txn};
use byrnie_base::{Clock, Instant};
use byrnie_model::Revision;
use std::sync::Arc;
use std::time::Duration;

/// The one writer of a store.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

/// Something to be made durable.
pub(crate) enum Job {
    Commit(Txn),
    Grant(Duration),
    Revoke(Lease),
}

/// What became of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done {
    Committed(Revision),
    Granted(Lease),
    Revoked,
}

impl Core {
    pub(crate) fn new(shared: Arc<Shared>, clock: Arc<dyn Clock>) -> Self {
        Self { shared, clock }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now().mono
    }

    /// Performs `jobs` in order with one durable step, after ending the leases that are over.
    pub(crate) fn run(&mut self, jobs: &[Job]) -> Vec<Result<Done, Error>> {
        let now = self.now();
        let (batches, results) = {
            let state = self.shared.read();
            let mut group = Group::new(&state, now);
            group.expire();
            let results: Vec<Result<Done, Error>> = jobs.iter().map(|job| plan(&mut group, job)).collect();
            (group.batches, results)
        };
        if batches.is_empty() {
            return results;
        }
        {
            let mut state = self.shared.write();
            for batch in batches {
                state.apply(batch, now);
            }
        }
        self.shared.announce(false);
        results
    }
}

fn plan(group: &mut Group<'_>, job: &Job) -> Result<Done, Error> {
    match job {
        Job::Commit(txn) => group.commit(txn).map(Done::Committed),
        Job::Grant(span) => group.grant(*span).map(Done::Granted),
        Job::Revoke(lease) => group.revoke(*lease).map(|()| Done::Revoked),
    }
}
