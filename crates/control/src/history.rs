// SPDX-License-Identifier: Apache-2.0
//! What was changed by whom: one record for each [`crate::apply`], written in the same transaction, with
//! the values before and after, so that each can be undone. Registrations aren't recorded: they come
//! and go by themselves.

use crate::State;
use crate::apply::{self, Action};
use crate::ingest::{self, document, resource_key, store_key};
use byrnie_base::{Text, Timestamp};
use byrnie_model::{Key, Revision};
use byrnie_store::{Entry, Expect, Txn};
use serde::{Deserialize, Serialize};

/// Where records are kept: `/history/MILLISECONDS-NUMBER/PART`. The revision of an entry is the
/// record's own.
pub const HISTORY: &str = "/history/";
/// Records that are kept; the oldest go first.
pub const RECORDS_MAX: usize = 1_000;
/// Bytes of the records that are kept together; the oldest go first.
pub const RECORDS_BYTES_MAX: usize = 64 << 20;
/// A record is split when its text reaches this size: a value of the store is at most 1 MiB, of which
/// one change may take all.
const PART_BYTES_MAX: usize = 256 << 10;

/// One change of configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When it was written; 0 before that.
    pub revision: Revision,
    /// Who asked: an identity, or an operator's name.
    pub who: Text,
    /// What for: `apply`, `delete`, `undo 12`...
    pub why: Text,
    /// When.
    pub at: Timestamp,
    /// What changed, in the order asked for.
    pub changes: Vec<Changed>,
}

/// One resource, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub key: Key,
    /// Its document (JSON) before; `None` if it didn't exist.
    pub before: Option<String>,
    /// Its document since; `None` if it's gone.
    pub after: Option<String>,
}

/// Why a change can't be undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There's no such record, or no longer.
    #[error("no change was recorded at revision {0}; `byrnie history` lists those that can be undone")]
    Unknown(Revision),
    /// A resource was changed again since.
    #[error("{key} was changed again at revision {since}; undo that first")]
    Superseded {
        /// Which.
        key: Key,
        /// When.
        since: Revision,
    },
    /// A document of the past is no longer valid.
    #[error("{key} can not be restored: {problem}")]
    Invalid {
        /// Which.
        key: Key,
        /// What is wrong with it.
        problem: Text,
    },
    /// The write failed.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The store doesn't answer.
    #[error(transparent)]
    Store(#[from] byrnie_store::Error),
}

/// The newest records first, at most `limit`.
///
/// # Errors
/// If the store doesn't answer.
pub async fn list(state: &State, limit: usize) -> Result<Vec<Record>, byrnie_store::Error> {
    let (entries, _) = state.store.list(HISTORY).await?;
    let mut records: Vec<Record> = Vec::new();
    for entry in &entries {
        let Some(stored) = parse(entry) else { continue };
        // Parts of one record follow each other and share their revision.
        match records.last_mut().filter(|last| last.revision == entry.created) {
            Some(last) => last.changes.extend(stored.changes()),
            None => records.push(stored.record(entry.created)),
        }
    }
    records.reverse();
    records.truncate(limit);
    Ok(records)
}

/// All of the history, the newest first.
///
/// # Errors
/// If the store can't be read.
pub(crate) async fn all(state: &State) -> Result<Vec<Record>, byrnie_store::Error> {
    list(state, RECORDS_MAX).await
}

/// When a resource was changed last, by [`all`]; of one that no record names any more, when it may have been at the latest.
pub(crate) fn last_change(records: &[Record], key: &Key) -> Option<Revision> {
    let named = records.iter().find(|record| record.changes.iter().any(|changed| changed.key == *key));
    named.or(records.last()).map(|record| record.revision)
}

/// Why a registration made a Service: not a change that an operator would want to take back unasked.
pub(crate) const WHY_RUN: &str = "run";
/// Why the registration of an address did: the same.
pub(crate) const WHY_REGISTER: &str = "register";
/// Why the first start wrote what every mesh begins with: the same.
pub const WHY_FIRST_START: &str = "first start";

/// What takes back that which was done at `revision` or, if `None`, the last thing that somebody did on purpose; and when
/// that was.
///
/// # Errors
/// If there is nothing to take back, or others have changed the same since.
pub async fn way_back(state: &State, revision: Option<Revision>) -> Result<(Revision, Vec<Action>), Error> {
    let records = list(state, RECORDS_MAX).await?;
    let found = match revision {
        Some(revision) => records.into_iter().find(|record| record.revision == revision),
        None => {
            let unasked = [WHY_RUN, WHY_REGISTER, WHY_FIRST_START];
            records.into_iter().find(|record| !unasked.contains(&&*record.why))
        }
    };
    let record = found.ok_or(Error::Unknown(revision.unwrap_or_default()))?;
    let mut actions = Vec::new();
    for changed in &record.changes {
        let now = state.store.get(&store_key(&changed.key)).await?;
        let same = now.as_ref().map(|entry| document(&entry.value)) == changed.after;
        if !same {
            let since = now.map_or(Revision(0), |entry| entry.modified);
            return Err(Error::Superseded { key: changed.key.clone(), since });
        }
        actions.push(match &changed.before {
            None => Action::Delete(changed.key.clone()),
            Some(text) => Action::Put(restore(state, &changed.key, text)?),
        });
    }
    Ok((record.revision, actions))
}

/// Adds the writes of a record to a transaction, and removes records that are too old.
pub(crate) async fn add(state: &State, mut txn: Txn, record: Record) -> Result<Txn, byrnie_store::Error> {
    let (entries, _) = state.store.list(HISTORY).await?;
    let mut bytes: usize = entries.iter().map(|entry| entry.value.len()).sum();
    let mut count = entries.len();
    let mut number = 0;
    let stem = |number: usize| format!("{HISTORY}{:015}-{number:06}/", record.at.as_millis());
    while entries.iter().any(|entry| entry.key.starts_with(&*stem(number))) {
        number += 1;
    }
    for (part, text) in parts(&record).into_iter().enumerate() {
        bytes += text.len();
        count += 1;
        let key = format!("{}{part:04}", stem(number));
        txn = txn.expect(key.clone(), Expect::Absent).put(key, text.into_bytes());
    }
    for entry in entries {
        if count <= RECORDS_MAX && bytes <= RECORDS_BYTES_MAX {
            break;
        }
        count -= 1;
        bytes -= entry.value.len();
        txn = txn.delete(entry.key);
    }
    Ok(txn)
}

fn restore(state: &State, key: &Key, text: &str) -> Result<byrnie_model::Resource, Error> {
    let entry = Entry {
        key: store_key(key),
        value: text.as_bytes().into(),
        created: Revision(0),
        modified: Revision(0),
        lease: None,
    };
    ingest::read(&entry, &state.trust_domain).map_err(|problem| Error::Invalid { key: key.clone(), problem })
}

/// A record as it's written down.
#[derive(Serialize, Deserialize)]
struct Stored {
    who: Text,
    why: Text,
    at: Timestamp,
    changes: Vec<StoredChange>,
}

#[derive(Serialize, Deserialize)]
struct StoredChange {
    key: Text,
    before: Option<String>,
    after: Option<String>,
}

impl Stored {
    fn changes(self) -> impl Iterator<Item = Changed> {
        self.changes.into_iter().filter_map(|change| {
            let key = resource_key(&change.key)?;
            Some(Changed { key, before: change.before, after: change.after })
        })
    }

    fn record(self, revision: Revision) -> Record {
        let (who, why, at) = (self.who.clone(), self.why.clone(), self.at);
        Record { revision, who, why, at, changes: self.changes().collect() }
    }
}

fn parse(entry: &Entry) -> Option<Stored> {
    serde_json::from_slice(&entry.value).ok()
}

fn parts(record: &Record) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = record.changes.iter().peekable();
    while rest.peek().is_some() {
        let mut part = Stored { who: record.who.clone(), why: record.why.clone(), at: record.at, changes: Vec::new() };
        let mut bytes = 0;
        while bytes < PART_BYTES_MAX
            && let Some(change) = rest.next()
        {
            let size = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            bytes += size(&change.before) + size(&change.after);
            part.changes.push(StoredChange {
                key: store_key(&change.key),
                before: change.before.clone(),
                after: change.after.clone(),
            });
        }
        // Serialising strings and numbers can't fail.
        parts.push(serde_json::to_string(&part).unwrap_or_default());
    }
    parts
}
