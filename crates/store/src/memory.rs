// SPDX-License-Identifier: Apache-2.0
//! `Memory`: the store on a simulated disk, for tests and the simulator. It runs in the caller's own
//! thread and reads the clock it was given, so a run is repeatable. It never touches a real disk.

use crate::core::{Core, Done, Job};
use crate::disk::RamDisk;
use crate::persist::OpenError;
use crate::state::Shared;
use crate::store::{Entry, Error, Lease, Pending, Store, Txn};
use crate::watch::Watch;
use byrnie_base::{Clock, Text};
use byrnie_model::Revision;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A store without threads. Leases are ended at each call and by [`Memory::sweep`], never by waiting.
pub struct Memory {
    shared: Arc<Shared>,
    core: Mutex<Core>,
}

impl Memory {
    /// Opens what `medium` holds; an empty medium is an empty store. `clock` is for leases.
    ///
    /// # Errors
    /// As for a file: a medium that fails, is damaged or was written by a newer program.
    pub fn open(medium: &RamDisk, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let core = Core::open(medium.attach(), clock)?;
        Ok(Self { shared: core.shared.clone(), core: Mutex::new(core) })
    }

    /// Ends the leases that are over by now, and says why if the disk refuses.
    pub fn sweep(&self) -> Result<(), Error> {
        let next_end = self.shared.read().next_end();
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        if next_end.is_some_and(|end| end <= core.now()) {
            core.sweep()?;
        }
        Ok(())
    }

    fn run(&self, job: Job) -> Result<Done, Error> {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.run(&[job]).pop().unwrap_or(Err(Error::Closed))
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Entry>> {
        Box::pin(async move {
            // Reads are answered even if the disk refuses the end of a lease.
            let _ = self.sweep();
            Ok(self.shared.read().entries.get(key).cloned())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Pending<'a, (Vec<Entry>, Revision)> {
        Box::pin(async move {
            let _ = self.sweep();
            Ok(self.shared.read().list(prefix))
        })
    }

    fn commit(&self, txn: Txn) -> Pending<'_, Revision> {
        Box::pin(async move { self.run(Job::Commit(txn))?.revision() })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Watch {
        Watch::new(self.shared.clone(), Text::from(prefix), from)
    }

    fn grant(&self, span: Duration) -> Pending<'_, Lease> {
        Box::pin(async move { self.run(Job::Grant(span))?.lease() })
    }

    fn keep_alive(&self, lease: Lease) -> Pending<'_, ()> {
        Box::pin(async move {
            let now = self.core.lock().unwrap_or_else(PoisonError::into_inner).now();
            self.shared.write().keep_alive(lease, now)
        })
    }

    fn revoke(&self, lease: Lease) -> Pending<'_, ()> {
        Box::pin(async move { self.run(Job::Revoke(lease)).map(|_| ()) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.announce(true);
    }
}
