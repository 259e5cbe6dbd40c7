// SPDX-License-Identifier: Apache-2.0
//! The journal on a simulated disk, for tests and the simulator. It runs in the caller's own thread, so a
//! run is repeatable; every append is a durable step of its own.

use super::{Append, Done, Heading, Job, Journal};
use crate::disk::RamDisk;
use crate::persist::OpenError;
use crate::persist::log::LogFile;
use crate::store::{Error, Pending, Value};
use byrnie_base::{Text, Timestamp};
use std::sync::{Mutex, PoisonError};

/// A journal without threads.
pub struct Memory(Mutex<LogFile>);

impl Memory {
    /// Opens what `medium` holds; an empty medium is an empty journal.
    ///
    /// # Errors
    /// As for a file: a medium that fails, is damaged or was written by a newer program.
    pub fn open(medium: &RamDisk) -> Result<Self, OpenError> {
        LogFile::open(medium.attach()).map(|file| Self(Mutex::new(file)))
    }

    fn run<T: Send + 'static>(&self, job: Job, read: impl FnOnce(Done) -> Result<T, Error>) -> Pending<'static, T> {
        let done = job.check().and_then(|()| {
            let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            file.run(&[job]).pop().unwrap_or(Err(Error::Closed))
        });
        let result = done.and_then(read);
        Box::pin(async move { result })
    }
}

impl Journal for Memory {
    fn append(&self, append: Append) -> Pending<'static, ()> {
        self.run(Job::Append(append), |_| Ok(()))
    }

    fn read(&self, id: &str) -> Pending<'static, Vec<Value>> {
        self.run(Job::Read(id.into()), Done::entries)
    }

    fn unfinished(&self) -> Pending<'static, Vec<Text>> {
        self.run(Job::Unfinished, Done::ids)
    }

    fn list(&self, below: Option<&str>, limit: usize) -> Pending<'static, Vec<Heading>> {
        self.run(Job::List(below.map(Text::from), limit), Done::headings)
    }

    fn forget(&self, before: Timestamp, limit: usize) -> Pending<'static, usize> {
        self.run(Job::Forget(before, limit), Done::forgotten)
    }
}
