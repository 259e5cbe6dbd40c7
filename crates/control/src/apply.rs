// SPDX-License-Identifier: Apache-2.0
//! Writes resources: all of a request in one transaction with its record in the history, or nothing.
//! The console's apply and delete, the registry's services and `undo` come through here. Whether
//! resources fit each other was asked before; here only what would break the mesh itself is refused.

use crate::ingest::{document, store_key};
use crate::{State, history};
use byrnie_base::Text;
use byrnie_model::{Key, Kind, Resource, Revision, Spec, yaml};
use byrnie_store::{Expect, Txn};
use std::collections::BTreeSet;

/// How often a transaction is tried when somebody else wrote first.
const TRIES_MAX: usize = 5;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// The resource is to be this.
    Put(Resource),
    /// The resource is to be gone. That it's absent already is an error.
    Delete(Key),
}

impl Action {
    const fn key(&self) -> &Key {
        match self {
            Self::Put(resource) => &resource.key,
            Self::Delete(key) => key,
        }
    }
}

/// What was done to one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It didn't exist.
    Created,
    /// It said something else.
    Changed,
    /// It said the same: nothing was written.
    Unchanged,
    /// It's gone.
    Deleted,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The revision that all of it shares; the newest one if nothing was written.
    pub revision: Revision,
    /// For each action, in order.
    pub outcomes: Vec<(Key, Outcome)>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A resource to delete doesn't exist.
    #[error("{0} does not exist")]
    Absent(Key),
    /// The kind is derived, not written.
    #[error("{0} can not be written: the mesh derives it")]
    Derived(Key),
    /// Two actions are for the same resource.
    #[error("{0} is named twice")]
    Twice(Key),
    /// The trust domain of a mesh never changes: every certificate carries it.
    #[error("the trust domain is {now} and can not become {wanted}: every certificate carries it")]
    TrustDomain {
        /// What it is.
        now: Text,
        /// What was asked for.
        wanted: Text,
    },
    /// A resource isn't as it was when it was read.
    #[error("{key} was changed at revision {at}, after it was read")]
    Stale {
        /// Which.
        key: Key,
        /// When, at the latest.
        at: Revision,
    },
    /// The store refused. A conflict means that others wrote the same resources at the same moment.
    #[error(transparent)]
    Store(#[from] byrnie_store::Error),
}

/// Does all of `actions`, or nothing. `who` is an identity or an operator's name, `why` a word such as
/// `apply`.
///
/// # Errors
/// If an action makes no sense, or the store refuses.
pub async fn apply(state: &State, actions: &[Action], who: &str, why: &str) -> Result<Applied, Error> {
    apply_since(state, actions, None, (who, why)).await
}

/// The same, where each of the resources is as it was at revision `since`: unchanged, or still absent.
///
/// # Errors
/// The same; and if one of them was written after that.
pub async fn apply_since(
    state: &State,
    actions: &[Action],
    since: Option<Revision>,
    (who, why): (&str, &str),
) -> Result<Applied, Error> {
    check(state, actions)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let plan = plan(state, actions, since).await?;
        if plan.record.changes.is_empty() {
            return Ok(Applied { revision: state.revision(), outcomes: plan.outcomes });
        }
        let record = history::Record { who: who.into(), why: why.into(), at: state.now().wall, ..plan.record };
        let txn = history::add(state, plan.txn, record).await?;
        match state.store.commit(txn).await {
            Ok(revision) => return Ok(Applied { revision, outcomes: plan.outcomes }),
            Err(byrnie_store::Error::Conflict { .. }) if tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether [`apply_since`] would be done now.
///
/// # Errors
/// As there.
pub(crate) async fn preview(state: &State, actions: &[Action], since: Option<Revision>) -> Result<(), Error> {
    check(state, actions)?;
    plan(state, actions, since).await.map(drop)
}

/// Refuses what can't be done whatever is stored.
fn check(state: &State, actions: &[Action]) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for action in actions {
        let key = action.key();
        if !Kind::APPLICABLE.contains(&key.kind) {
            return Err(Error::Derived(key.clone()));
        }
        if !seen.insert(key) {
            return Err(Error::Twice(key.clone()));
        }
        if let Action::Put(Resource { spec: Spec::Mesh(mesh), .. }) = action
            && mesh.trust_domain != state.trust_domain
        {
            let (now, wanted) = (state.trust_domain.clone(), mesh.trust_domain.clone());
            return Err(Error::TrustDomain { now, wanted });
        }
    }
    Ok(())
}

struct Plan {
    txn: Txn,
    record: history::Record,
    outcomes: Vec<(Key, Outcome)>,
}

/// What the actions come to, beside what is stored now. The transaction holds only if that is still so.
async fn plan(state: &State, actions: &[Action], since: Option<Revision>) -> Result<Plan, Error> {
    let mut plan = Plan { txn: Txn::new(), record: history::Record::default(), outcomes: Vec::new() };
    let mut records: Option<Vec<history::Record>> = None;
    for action in actions {
        let key = action.key();
        let at = store_key(key);
        let before = state.store.get(&at).await?;
        if let Some(since) = since {
            // What is written between this and the commit is a conflict there.
            let at = match (&before, &records) {
                (Some(entry), _) => Some(entry.modified),
                (None, Some(records)) => history::last_change(records, key),
                (None, None) => history::last_change(records.insert(history::all(state).await?), key),
            };
            if let Some(at) = at.filter(|at| *at > since) {
                return Err(Error::Stale { key: key.clone(), at });
            }
        }
        let expect = before.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.modified));
        let (outcome, after) = match (action, &before) {
            (Action::Put(resource), before) => {
                let after = yaml::to_json(resource).to_string();
                let outcome = match before {
                    None => Outcome::Created,
                    Some(entry) if *entry.value == *after.as_bytes() => Outcome::Unchanged,
                    Some(_) => Outcome::Changed,
                };
                (outcome, Some(after))
            }
            (Action::Delete(_), Some(_)) => (Outcome::Deleted, None),
            (Action::Delete(_), None) => return Err(Error::Absent(key.clone())),
        };
        plan.outcomes.push((key.clone(), outcome));
        if outcome == Outcome::Unchanged {
            if since.is_some() {
                plan.txn = std::mem::take(&mut plan.txn).expect(at, expect);
            }
            continue;
        }
        let txn = std::mem::take(&mut plan.txn).expect(at.clone(), expect);
        plan.txn = match &after {
            Some(after) => txn.put(at, after.as_bytes()),
            None => txn.delete(at),
        };
        plan.record.changes.push(history::Changed {
            key: key.clone(),
            before: before.map(|entry| document(&entry.value)),
            after,
        });
    }
    Ok(plan)
}
