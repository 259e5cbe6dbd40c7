// SPDX-License-Identifier: Apache-2.0
//! The ledger in one file of this machine. One thread decides and writes, and makes everything that
//! waits durable in one step. Opened by the control plane, once per file.

use super::{Done, Job, Ledger};
use crate::disk::{Disk, FileDisk};
use crate::persist::OpenError;
use crate::persist::keys::Keys;
use crate::queue::{Limits, Queue};
use crate::store::{Error, Pending};
use byrnie_base::Clock;
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Entry, Finished, Name};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Most jobs that share one durable step.
const GROUP_MAX: usize = 256;
/// Most bytes of answers that share one durable step, beyond the first.
const GROUP_BYTES_MAX: usize = 4 << 20;

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

    async fn run(&self, job: Job) -> Result<Done, Error> {
        job.check()?;
        self.queue.run(job).await
    }
}

impl Ledger for Embedded {
    fn begin(&self, name: Name, ask: Begin) -> Pending<'_, Begun> {
        Box::pin(async move { self.run(Job::Begin(name, ask)).await?.begun() })
    }

    fn finish(&self, name: Name, claim: Claim, ending: Ending) -> Pending<'_, Finished> {
        Box::pin(async move { self.run(Job::Finish(name, claim, ending)).await?.finished() })
    }

    fn read(&self, name: Name) -> Pending<'_, Option<Entry>> {
        Box::pin(async move { self.run(Job::Read(name)).await?.entry() })
    }

    fn sweep(&self) -> Pending<'_, usize> {
        Box::pin(async move { self.run(Job::Sweep).await?.swept() })
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
