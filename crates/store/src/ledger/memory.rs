// SPDX-License-Identifier: Apache-2.0
//! The ledger on a simulated disk, for tests and the simulator. It runs in the caller's own thread and
//! reads the clock it was given, so a run is repeatable.

use super::{Done, Job, Ledger};
use crate::disk::RamDisk;
use crate::persist::OpenError;
use crate::persist::keys::Keys;
use crate::store::{Error, Pending};
use byrnie_base::Clock;
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Entry, Finished, Name};
use std::sync::{Arc, Mutex, PoisonError};

/// A ledger without threads.
pub struct Memory {
    keys: Mutex<Keys>,
    clock: Arc<dyn Clock>,
}

impl Memory {
    /// Opens what `medium` holds; an empty medium is an empty ledger.
    ///
    /// # Errors
    /// As for a file: a medium that fails, is damaged or was written by a newer program.
    pub fn open(medium: &RamDisk, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Ok(Self { keys: Mutex::new(Keys::open(medium.attach())?), clock })
    }

    fn run(&self, job: Job) -> Result<Done, Error> {
        job.check()?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.run(&[job], self.clock.now().wall).pop().unwrap_or(Err(Error::Closed))
    }
}

impl Ledger for Memory {
    fn begin(&self, name: Name, ask: Begin) -> Pending<'_, Begun> {
        Box::pin(async move { self.run(Job::Begin(name, ask))?.begun() })
    }

    fn finish(&self, name: Name, claim: Claim, ending: Ending) -> Pending<'_, Finished> {
        Box::pin(async move { self.run(Job::Finish(name, claim, ending))?.finished() })
    }

    fn read(&self, name: Name) -> Pending<'_, Option<Entry>> {
        Box::pin(async move { self.run(Job::Read(name))?.entry() })
    }

    fn sweep(&self) -> Pending<'_, usize> {
        Box::pin(async move { self.run(Job::Sweep)?.swept() })
    }
}
