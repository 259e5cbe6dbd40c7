// SPDX-License-Identifier: Apache-2.0
//! `Embedded`: the store in one file of this machine. One thread writes, and makes everything that
//! waits durable in one step; reads come from memory. Opened by the control plane, once per file.

use crate::core::{Core, Done, Job};
use crate::disk::{Disk, FileDisk};
use crate::persist::OpenError;
use crate::queue::{Limits, Queue};
use crate::state::Shared;
use crate::store::{Entry, Lease, Pending, Store, TXN_BYTES_MAX, Txn};
use crate::watch::Watch;
use byrnie_base::{Clock, Text};
use byrnie_model::Revision;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Most transactions that share one durable step.
pub const GROUP_MAX: usize = 256;
/// Most bytes that share one durable step, beyond the first transaction.
pub const GROUP_BYTES_MAX: usize = TXN_BYTES_MAX;
/// The writer looks at the clock at least this often while leases are alive, and waits this long before
/// it tries again to end leases on a disk that refuses.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A store in a file. Dropping it finishes what was begun, then closes the file.
pub struct Embedded {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    queue: Arc<Jobs>,
    writer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens or creates the store at `path`, reading all of it. `clock` is for leases.
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
        let core = Core::open(disk, clock.clone())?;
        let shared = core.shared.clone();
        let weigh = |job: &Job| if let Job::Commit(txn) = job { txn.bytes() } else { 0 };
        let queue = Arc::new(Queue::new(Limits { jobs: GROUP_MAX, bytes: GROUP_BYTES_MAX, weigh }));
        let jobs = queue.clone();
        let writer = std::thread::Builder::new().name("store".into()).spawn(move || write_all(core, &jobs))?;
        Ok(Self { shared, clock, queue, writer: Some(writer) })
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Entry>> {
        Box::pin(async move { Ok(self.shared.read().entries.get(key).cloned()) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Pending<'a, (Vec<Entry>, Revision)> {
        Box::pin(async move { Ok(self.shared.read().list(prefix)) })
    }

    fn commit(&self, txn: Txn) -> Pending<'_, Revision> {
        Box::pin(async move { self.queue.run(Job::Commit(txn)).await?.revision() })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Watch {
        Watch::new(self.shared.clone(), Text::from(prefix), from)
    }

    fn grant(&self, span: Duration) -> Pending<'_, Lease> {
        Box::pin(async move { self.queue.run(Job::Grant(span)).await?.lease() })
    }

    fn keep_alive(&self, lease: Lease) -> Pending<'_, ()> {
        Box::pin(async move {
            // The clock is read under the lock, so that a lease the writer has seen end stays ended.
            let mut state = self.shared.write();
            state.keep_alive(lease, self.clock.now().mono)
        })
    }

    fn revoke(&self, lease: Lease) -> Pending<'_, ()> {
        Box::pin(async move { self.queue.run(Job::Revoke(lease)).await.map(|_| ()) })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has answered nobody since; there is nothing left to save here.
            let _ = writer.join();
        }
        self.shared.announce(true);
    }
}

type Jobs = Queue<Job, Done>;

/// The writer thread.
fn write_all(mut core: Core, queue: &Jobs) {
    let mut refused = false;
    loop {
        let next_end = core.shared.read().next_end();
        let patience = next_end.map(|end| if refused { SWEEP_EVERY } else { end.since(core.now()).min(SWEEP_EVERY) });
        let Some(group) = queue.take(patience) else { return };
        let (jobs, replies): (Vec<Job>, Vec<_>) = group.into_iter().map(|next| (next.job, next.reply)).unzip();
        if jobs.is_empty() {
            let swept = core.sweep();
            if let (Err(error), false) = (&swept, refused) {
                tracing::error!(%error, "leases that are over can't be ended; will try again");
            }
            refused = swept.is_err();
            continue;
        }
        for (reply, result) in replies.into_iter().zip(core.run(&jobs)) {
            // Whoever no longer waits doesn't need the answer.
            let _ = reply.send(result);
        }
    }
}
