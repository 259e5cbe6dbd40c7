// SPDX-License-Identifier: Apache-2.0
//! Every state that the store ever acknowledged, and what a restarted store may be: the last of them,
//! or one further by the whole of the one write that was never answered.

use crate::shop::{self, State};
use byrnie_model::{Kind, Resource, Revision};
use byrnie_store::{Changes, Txn};
use std::sync::Arc;

/// States by revision, from 0.
#[derive(Debug)]
pub struct History {
    states: Vec<Arc<State>>,
    unanswered: Option<Unanswered>,
}

/// A write that the store died over.
#[derive(Debug)]
enum Unanswered {
    Commit(Txn),
    /// The end of leases: some workloads are gone.
    Expiry,
}

impl Default for History {
    fn default() -> Self {
        Self { states: vec![Arc::default()], unanswered: None }
    }
}

impl History {
    /// The newest state.
    pub fn newest(&self) -> &Arc<State> {
        // There is always the empty one.
        &self.states[self.states.len() - 1]
    }

    /// Its revision.
    pub fn revision(&self) -> Revision {
        Revision(self.states.len() as u64 - 1)
    }

    /// The state at a revision, or the nearest that is known.
    pub fn at(&self, revision: Revision) -> &Arc<State> {
        let index = usize::try_from(revision.0).unwrap_or(usize::MAX).min(self.states.len() - 1);
        &self.states[index]
    }

    /// States from `revision` to the newest.
    pub fn since(&self, revision: Revision) -> &[Arc<State>] {
        let index = usize::try_from(revision.0).unwrap_or(usize::MAX).min(self.states.len() - 1);
        &self.states[index..]
    }

    /// Takes in what the store shows next.
    ///
    /// # Errors
    /// If revisions don't follow one another.
    pub fn follow(&mut self, changes: &Changes) -> Result<(), String> {
        if changes.revision.0 != self.revision().0 + 1 {
            return Err(format!("revision {} follows {}", changes.revision, self.revision()));
        }
        let mut next = (**self.newest()).clone();
        for event in &changes.events {
            let Some(key) = shop::parse_key(&event.key) else { continue };
            match event.after.as_ref().and_then(shop::read) {
                Some(resource) => next.insert(key, Arc::new(resource)),
                None => next.remove(&key),
            };
        }
        self.states.push(Arc::new(next));
        Ok(())
    }

    /// The store died without an answer to this.
    pub fn unanswered(&mut self, txn: Txn) {
        self.unanswered = Some(Unanswered::Commit(txn));
    }

    /// The store died while it ended leases.
    pub fn unanswered_expiry(&mut self) {
        self.unanswered = Some(Unanswered::Expiry);
    }

    /// Judges what a restarted store has.
    ///
    /// # Errors
    /// If that is neither of the two possible states.
    pub fn restarted(&mut self, found: State, revision: Revision) -> Result<(), String> {
        let unanswered = self.unanswered.take();
        if revision == self.revision() {
            return if found == **self.newest() {
                Ok(())
            } else {
                Err(format!("revision {revision} is not what it was"))
            };
        }
        let Some(unanswered) = unanswered.filter(|_| revision.0 == self.revision().0 + 1) else {
            return Err(format!("revision {} became {revision}", self.revision()));
        };
        match &unanswered {
            Unanswered::Commit(txn) => self.check_whole(txn, &found, revision)?,
            Unanswered::Expiry => self.check_expiry(&found, revision)?,
        }
        self.states.push(Arc::new(found));
        Ok(())
    }

    /// Nothing but workloads is gone.
    fn check_expiry(&self, found: &State, revision: Revision) -> Result<(), String> {
        let newest = self.newest();
        let kept = found.iter().all(|(key, resource)| newest.get(key) == Some(resource));
        let gone = newest.keys().filter(|key| !found.contains_key(*key)).all(|key| key.kind == Kind::Workload);
        if kept && gone { Ok(()) } else { Err(format!("more than leases ended at revision {revision}")) }
    }

    fn check_whole(&self, txn: &Txn, found: &State, revision: Revision) -> Result<(), String> {
        let mut expected = (**self.newest()).clone();
        for write in &txn.writes {
            let Some(key) = shop::parse_key(write.key()) else { continue };
            // What is there already was created when it was.
            let created = expected.get(&key).map_or(revision, |resource: &Arc<Resource>| resource.created);
            let entry = match write {
                byrnie_store::Write::Put { key, value, lease } => Some(byrnie_store::Entry {
                    key: key.clone(),
                    value: value.clone(),
                    created,
                    modified: revision,
                    lease: *lease,
                }),
                byrnie_store::Write::Delete { .. } => None,
            };
            match entry.as_ref().and_then(shop::read) {
                Some(resource) => expected.insert(key, Arc::new(resource)),
                None => expected.remove(&key),
            };
        }
        if *found == expected { Ok(()) } else { Err(format!("half a transaction at revision {revision}")) }
    }
}
