// SPDX-License-Identifier: Apache-2.0
//! The ledger on a simulated disk, for tests and the simulator. It runs in the caller's own thread and
//! reads the clock it was given, so a run is repeatable.

use super::run::{Done, Job, Run};
use crate::disk::RamDisk;
use crate::persist::OpenError;
use crate::persist::keys::Keys;
use crate::store::{Error, Pending};
use byrnie_base::Clock;
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
}

impl Run for Memory {
    fn run<T: Send + 'static>(&self, job: Job, read: fn(Done) -> Option<T>) -> Pending<'_, T> {
        Box::pin(async move {
            job.check()?;
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            read(keys.run(&[job], self.clock.now().wall).pop().unwrap_or(Err(Error::Closed))?).ok_or(Error::Closed)
        })
    }
}
