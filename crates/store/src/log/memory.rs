// SPDX-License-Identifier: Apache-2.0
//! The journal on a simulated disk, for tests and the simulator. It runs in the caller's own thread, so a
//! run is repeatable; every append is a durable step of its own. Several coordinators may share it.

use super::Commits;
use super::commits::Counted;
use super::run::{Done, Job, Run};
use crate::disk::{RamDisk, split};
use crate::persist::OpenError;
use crate::persist::log::{LogFile, Pace};
use crate::store::{Error, Pending};
use byrnie_base::Clock;
use byrnie_saga::shards::LEASE;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Size of the log before the tables: few steps, so that it's often full.
const LOG_BYTES: usize = 64 << 10;

/// A journal without threads.
pub struct Memory {
    file: Mutex<LogFile>,
    clock: Arc<dyn Clock>,
    counted: Counted,
    news: watch::Sender<()>,
}

impl Memory {
    /// Opens what `medium` holds; an empty medium is an empty journal. `clock` is for leases.
    ///
    /// # Errors
    /// As for a file: a medium that fails, is damaged or was written by a newer program.
    pub fn open(medium: &RamDisk, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let (log, disk) = split(medium.attach(), LOG_BYTES as u64);
        let file = Mutex::new(LogFile::open(disk, log, LOG_BYTES, Pace::Late)?);
        Ok(Self { file, clock, counted: Counted::default(), news: watch::Sender::new(()) })
    }

    fn step(&self, job: Job) -> Result<Done, Error> {
        job.check()?;
        let news = job.is_news();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = [job];
        let done = file.run(&jobs, self.clock.now().wall).pop().unwrap_or(Err(Error::Closed));
        drop(file);
        self.counted.note(&jobs, std::iter::once(done.is_ok()));
        if news {
            self.news.send_replace(());
        }
        done
    }
}

impl Run for Memory {
    fn run<T: Send + 'static>(&self, job: Job, read: fn(Done) -> Option<T>) -> Pending<'static, T> {
        let result = self.step(job).and_then(|done| read(done).ok_or(Error::Closed));
        Box::pin(async move { result })
    }

    fn counted(&self) -> Commits {
        self.counted.seen()
    }

    fn span(&self) -> Option<Duration> {
        Some(LEASE)
    }

    fn bell(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}
