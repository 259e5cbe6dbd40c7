// SPDX-License-Identifier: Apache-2.0
//! `Core`: one group of jobs after the other is planned, made durable, applied, announced. Driven by
//! the writer thread of `embedded` or, step by step, by `memory`. It never waits for anything but the disk.

use crate::disk::Disk;
use crate::persist::{Known, OpenError, Persist};
use crate::state::{Group, Shared};
use crate::store::{Error, Lease, Txn};
use byrnie_base::{Clock, Instant};
use byrnie_model::Revision;
use std::sync::Arc;
use std::time::Duration;

/// The one writer of a store.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    persist: Persist,
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
    pub(crate) fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let (persist, state) = Persist::open(disk, clock.now().mono)?;
        Ok(Self { shared: Arc::new(Shared::new(state)), persist, clock })
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now().mono
    }

    /// Performs `jobs` in order with one durable step, after ending the leases that are over.
    pub(crate) fn run(&mut self, jobs: &[Job]) -> Vec<Result<Done, Error>> {
        match self.run_together(jobs) {
            Ok(results) => results,
            // One large transaction on a disk that is nearly full must not fail its neighbours.
            Err(Error::Refused(_)) if jobs.len() > 1 => jobs.iter().map(|job| self.run_alone(job)).collect(),
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Ends the leases that are over.
    pub(crate) fn sweep(&mut self) -> Result<(), Error> {
        self.run_together(&[]).map(|_| ())
    }

    fn run_alone(&mut self, job: &Job) -> Result<Done, Error> {
        self.run_together(std::slice::from_ref(job))?.pop().unwrap_or(Err(Error::Closed))
    }

    fn run_together(&mut self, jobs: &[Job]) -> Result<Vec<Result<Done, Error>>, Error> {
        let now = self.now();
        // Planned under the lock, made durable without it: nobody but this writer changes what was read
        // (a lease that is over here can't be kept alive any more), and readers must not wait for the disk.
        let (batches, results, before) = {
            let state = self.shared.read();
            let mut group = Group::new(&state, now);
            group.expire();
            let results: Vec<Result<Done, Error>> = jobs.iter().map(|job| plan(&mut group, job)).collect();
            (group.batches, results, Known { revision: state.revision, compacted: state.compacted })
        };
        if batches.is_empty() {
            return Ok(results);
        }
        self.persist.write(&before, &batches)?;
        {
            let mut state = self.shared.write();
            for batch in batches {
                state.apply(batch, now);
            }
        }
        self.shared.announce(false);
        Ok(results)
    }
}

impl Done {
    pub(crate) fn revision(self) -> Result<Revision, Error> {
        match self {
            Self::Committed(revision) => Ok(revision),
            Self::Granted(_) | Self::Revoked => Err(Error::Closed),
        }
    }

    pub(crate) fn lease(self) -> Result<Lease, Error> {
        match self {
            Self::Granted(lease) => Ok(lease),
            Self::Committed(_) | Self::Revoked => Err(Error::Closed),
        }
    }
}

fn plan(group: &mut Group<'_>, job: &Job) -> Result<Done, Error> {
    match job {
        Job::Commit(txn) => group.commit(txn).map(Done::Committed),
        Job::Grant(span) => group.grant(*span).map(Done::Granted),
        Job::Revoke(lease) => group.revoke(*lease).map(|()| Done::Revoked),
    }
}
