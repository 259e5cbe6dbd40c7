// SPDX-License-Identifier: Apache-2.0
//! The ledger in PostgreSQL, for several control planes: each answers for every key. One thread writes over one connection. What
//! begins and ends without meeting anything else is one statement for all that waits; the rest is read under lock, decided by the
//! rules and written. Leases and expiry go by the database's clock, so that control planes needn't agree on the time.

mod link;
mod sql;
#[cfg(test)]
mod tests;

use self::link::Link;
use super::run::{Done, Job, Run};
use super::{GROUP_BYTES_MAX, GROUP_MAX};
use crate::disk::FileDisk;
use crate::persist::keys::Keys;
use crate::postgres::{OpenError, options, runtime};
use crate::queue::{Limits, Queue};
use crate::store::{Error, Pending};
use byrnie_base::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// The format that this program writes: see `schema.sql`.
const VERSION: i32 = 1;
/// Rows among which control planes spread what they count.
const PARTS: u32 = 16;
/// Entries of a file that are moved in one step.
const MOVED_MAX: usize = 100;

/// A ledger in a database. Dropping it finishes what was begun, then closes the connection.
pub struct Postgres {
    queue: Arc<Queue<Job, Done>>,
    writer: Option<JoinHandle<()>>,
}

/// A file whose keys are to be moved, and the time now by the clock that wrote it.
type Moving = (PathBuf, Timestamp);

impl Postgres {
    /// Connects to the database at `url` and makes its tables, if they aren't there. They are for the mesh of this trust domain
    /// alone. What the file at `from` remembers, if there is one, is moved there, and the file removed: `now` is the time
    /// by the clock that wrote it. Waits for the database's answer.
    ///
    /// # Errors
    /// [`OpenError`], in words for the person who started the program.
    pub fn open(url: &str, trust_domain: &str, (from, now): (&Path, Timestamp)) -> Result<Self, OpenError> {
        let options = options(url)?;
        let limits = Limits { jobs: GROUP_MAX, bytes: GROUP_BYTES_MAX, weigh: Job::bytes };
        let queue = Arc::new(Queue::new(limits));
        let (opened, answer) = mpsc::channel();
        let (jobs, link) = (Arc::clone(&queue), Link::new(options, trust_domain));
        let moving = (from.to_owned(), now);
        let write = move || write_all(link, moving, &jobs, &opened);
        let writer = std::thread::Builder::new().name("ledger".into()).spawn(write)?;
        answer.recv().map_err(|_| OpenError::Unreachable("the writer has ended".to_owned()))??;
        Ok(Self { queue, writer: Some(writer) })
    }
}

impl Run for Postgres {
    const SHARED: bool = true;

    fn run<T: Send + 'static>(&self, job: Job, read: fn(Done) -> Option<T>) -> Pending<'_, T> {
        Box::pin(async move {
            job.check()?;
            read(self.queue.run(job).await?).ok_or(Error::Closed)
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has answered nobody since; there is nothing left to save here.
            let _ = writer.join();
        }
    }
}

/// The writer thread.
fn write_all(mut link: Link, moving: Moving, queue: &Queue<Job, Done>, opened: &mpsc::Sender<Result<(), OpenError>>) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return drop(opened.send(Err(error.into()))),
    };
    let answer = runtime.block_on(async {
        link.open().await?;
        move_keys(&mut link, moving).await
    });
    let failed = answer.is_err();
    if opened.send(answer).is_err() || failed {
        return;
    }
    while let Some(group) = queue.take(None) {
        let (jobs, replies): (Vec<Job>, Vec<_>) = group.into_iter().map(|next| (next.job, next.reply)).unzip();
        for (reply, result) in replies.into_iter().zip(runtime.block_on(link.run(&jobs))) {
            // Whoever no longer waits doesn't need the answer.
            let _ = reply.send(result);
        }
    }
    runtime.block_on(link.close());
}

/// Moves what a file remembers. A key that the database knows already stays as it is there. Until the end the file stays whole, so
/// that whoever is killed meanwhile does all of it again.
async fn move_keys(link: &mut Link, (path, now): Moving) -> Result<(), OpenError> {
    if !path.exists() {
        return Ok(());
    }
    let at = |error| OpenError::File { file: path.display().to_string(), error };
    let keys = Keys::open(Arc::new(FileDisk::open(&path).map_err(at)?)).map_err(at)?;
    let (mut last, mut moved, mut known) = (None, 0, 0);
    loop {
        let page = keys.page(last.as_deref(), MOVED_MAX).map_err(at)?;
        let Some((name, _)) = page.last() else { break };
        last = Some(name.clone());
        let alive: Vec<_> = page.into_iter().filter(|(_, entry)| !entry.is_over(now)).collect();
        let put = link.adopt(&alive, now).await.map_err(|error| OpenError::Unreachable(error.to_string()))?;
        moved += put;
        known += alive.len() - put;
    }
    drop(keys);
    std::fs::remove_file(&path).map_err(|error| at(error.into()))?;
    tracing::info!(moved, known, "the idempotency keys of this control plane's file are in the database now");
    Ok(())
}
