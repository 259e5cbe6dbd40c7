// SPDX-License-Identifier: Apache-2.0
//! `Memory`: the store on a simulated disk, for tests and the simulator. It runs in the caller's own
//! thread and reads the clock it was given, so a run is repeatable. It never touches a real disk.

use crate::core::{Core, Done, Job};
use crate::state::{Shared, State};
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
    /// An empty store that reads `clock` for its leases.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared::new(State::default()));
        Self { shared: shared.clone(), core: Mutex::new(Core::new(shared, clock)) }
    }

    /// Ends the leases that are over by now.
    pub fn sweep(&self) {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).run(&[]);
    }

    fn run(&self, job: Job) -> Result<Done, Error> {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.run(&[job]).pop().unwrap_or(Err(Error::Closed))
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Entry>> {
        Box::pin(async move {
            self.sweep();
            Ok(self.shared.read().entries.get(key).cloned())
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Pending<'a, (Vec<Entry>, Revision)> {
        Box::pin(async move {
            self.sweep();
            let state = self.shared.read();
            Ok((state.under(prefix).cloned().collect(), state.revision))
        })
    }

    fn commit(&self, txn: Txn) -> Pending<'_, Revision> {
        Box::pin(async move {
            match self.run(Job::Commit(txn))? {
                Done::Committed(revision) => Ok(revision),
                Done::Granted(_) | Done::Revoked => Err(Error::Closed),
            }
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Watch {
        Watch::new(self.shared.clone(), Text::from(prefix), from)
    }

    fn grant(&self, span: Duration) -> Pending<'_, Lease> {
        Box::pin(async move {
            match self.run(Job::Grant(span))? {
                Done::Granted(lease) => Ok(lease),
                Done::Committed(_) | Done::Revoked => Err(Error::Closed),
            }
        })
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
