// SPDX-License-Identifier: Apache-2.0
//! The journal in one file of this machine. One thread writes, and makes all that waits durable in one
//! step: while the disk syncs one group, the next gathers.

use super::{Append, Done, GROUP_BYTES_MAX, GROUP_MAX, Heading, Job, Journal};
use crate::disk::{Disk, FileDisk};
use crate::persist::OpenError;
use crate::persist::log::LogFile;
use crate::queue::{Limits, Queue};
use crate::store::{Error, Pending, Value};
use byrnie_base::{Text, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A journal in a file. Dropping it finishes what was begun, then closes the file.
pub struct Embedded {
    queue: Arc<Queue<Job, Done>>,
    writer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens or creates the journal at `path`.
    ///
    /// # Errors
    /// [`OpenError`], in words for the person who started the program.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::on(Arc::new(FileDisk::open(path)?))
    }

    /// As [`Embedded::open`], on any disk.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn on(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let mut file = LogFile::open(disk)?;
        let queue = Arc::new(Queue::new(Limits { jobs: GROUP_MAX, bytes: GROUP_BYTES_MAX, weigh: Job::bytes }));
        let jobs = Arc::clone(&queue);
        let write = move || {
            while let Some(group) = jobs.take(None) {
                let (jobs, replies): (Vec<Job>, Vec<_>) = group.into_iter().map(|next| (next.job, next.reply)).unzip();
                for (reply, result) in replies.into_iter().zip(file.run(&jobs)) {
                    // Whoever no longer waits doesn't need the answer.
                    let _ = reply.send(result);
                }
            }
        };
        let writer = std::thread::Builder::new().name("journal".into()).spawn(write)?;
        Ok(Self { queue, writer: Some(writer) })
    }

    fn send<T>(&self, job: Job, read: impl FnOnce(Done) -> Result<T, Error> + Send + 'static) -> Pending<'static, T>
    where
        T: Send + 'static,
    {
        let sent = job.check().and_then(|()| self.queue.send(job));
        Box::pin(async move { read(sent?.await.unwrap_or(Err(Error::Closed))?) })
    }
}

impl Journal for Embedded {
    fn append(&self, append: Append) -> Pending<'static, ()> {
        self.send(Job::Append(append), |_| Ok(()))
    }

    fn read(&self, id: &str) -> Pending<'static, Vec<Value>> {
        self.send(Job::Read(id.into()), Done::entries)
    }

    fn unfinished(&self) -> Pending<'static, Vec<Text>> {
        self.send(Job::Unfinished, Done::ids)
    }

    fn list(&self, below: Option<&str>, limit: usize) -> Pending<'static, Vec<Heading>> {
        self.send(Job::List(below.map(Text::from), limit), Done::headings)
    }

    fn forget(&self, before: Timestamp, limit: usize) -> Pending<'static, usize> {
        self.send(Job::Forget(before, limit), Done::forgotten)
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
