// SPDX-License-Identifier: Apache-2.0
//! The ledger in one file of this machine. One thread decides and writes, and makes everything that
//! waits durable in one step. Opened by the control plane, once per file.

use super::run::{Done, Job, Run};
use super::{GROUP_BYTES_MAX, GROUP_MAX};
use crate::disk::{Disk, FileDisk};
use crate::persist::OpenError;
use crate::persist::keys::Keys;
use crate::queue::{Limits, Queue};
use crate::store::{Error, Pending};
use byrnie_base::Clock;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A ledger in a file. Dropping it finishes what was begun, then closes the file.
pub struct Embedded {
    queue: Arc<Queue<Job, Done>>,
    writer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens or creates the ledger at `path`. `clock` is for leases and expiry, which outlast the process:
    /// its wall clock counts.
    ///
    /// # Errors
    /// [`OpenError`], in words for the person who started the program.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::on(Arc::new(FileDisk::open(path)?), clock)
    }

    /// As [`Embedded::open`], on any disk.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn on(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let mut keys = Keys::open(disk)?;
        let limits = Limits { jobs: GROUP_MAX, bytes: GROUP_BYTES_MAX, weigh: Job::bytes };
        let queue = Arc::new(Queue::new(limits));
        let jobs = Arc::clone(&queue);
        let write = move || {
            while let Some(group) = jobs.take(None) {
                let (jobs, replies): (Vec<Job>, Vec<_>) = group.into_iter().map(|next| (next.job, next.reply)).unzip();
                for (reply, result) in replies.into_iter().zip(keys.run(&jobs, clock.now().wall)) {
                    // Whoever no longer waits doesn't need the answer.
                    let _ = reply.send(result);
                }
            }
        };
        let writer = std::thread::Builder::new().name("ledger".into()).spawn(write)?;
        Ok(Self { queue, writer: Some(writer) })
    }
}

impl Run for Embedded {
    fn run<T: Send + 'static>(&self, job: Job, read: fn(Done) -> Option<T>) -> Pending<'_, T> {
        Box::pin(async move {
            job.check()?;
            read(self.queue.run(job).await?).ok_or(Error::Closed)
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has answered nobody since; there is nothing left to save here.
            let _ = writer.join();
        }
    }
}
