// SPDX-License-Identifier: Apache-2.0
//! The only door to redb: a [`State`] read from a [`Disk`], and batches made durable on it, many in one
//! commit. It keeps no copy in memory. `guard` is what every such file has in common, `keys` the file of
//! the ledger, `log` that of the journal.

mod guard;
pub(crate) mod keys;
pub(crate) mod log;

use self::guard::{Guard, open_error};
use crate::disk::Disk;
use crate::encode;
use crate::state::{Batch, Span, State};
use crate::store::{Error, Lease};
use byrnie_base::Instant;
use byrnie_model::Revision;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The file that holds a state.
pub(crate) struct Persist {
    guard: Guard,
}

/// What memory knows before a write.
pub(crate) struct Known {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
}

/// Why a store can't be opened. The message is for the person who started it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store is in use{}: stop it, or choose another directory", holder.as_ref().map_or_else(String::new, |h| format!(" by {h}")))]
    Locked {
        /// Which process it probably is.
        holder: Option<String>,
    },
    /// The disk or the file system refuses.
    #[error("the store can't be opened: {0}")]
    Io(#[from] io::Error),
    /// The file isn't a store, or was damaged from outside.
    #[error("the store is damaged ({0}): restore a backup, or move the file away to start empty")]
    Corrupt(String),
    /// A newer program wrote it.
    #[error("the store has format {found}, this program knows up to {known}: use the newer program that wrote it")]
    Newer {
        /// The format found.
        found: u64,
        /// The newest that this program knows.
        known: u64,
    },
}

/// The format that this program writes. Format 1: tables `meta`, `entries`, `history`, `leases` as below.
pub const SCHEMA: u64 = 1;

/// Memory for pages of the file. The state is in memory already, so this only serves writes.
const CACHE_BYTES: usize = 4 << 20;

/// `schema`, `revision` and `next_lease`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Key to entry.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
/// Revision to its events.
const HISTORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");
/// Lease to its span in microseconds.
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");

impl Persist {
    /// Opens what is on `disk`, an empty disk included. Leases start their spans at `now`.
    pub(crate) fn open(disk: Arc<dyn Disk>, now: Instant) -> Result<(Self, State), OpenError> {
        let (guard, state) = Guard::open(disk, CACHE_BYTES, |database| {
            initialize(database)?;
            load(database, now)
        })?;
        Ok((Self { guard }, state))
    }

    /// Makes `batches` durable together. History that memory forgot is dropped. An error means that the
    /// caller must not apply them.
    pub(crate) fn write(&mut self, known: &Known, batches: &[Arc<Batch>]) -> Result<(), Error> {
        let unwritten = |database: &Database| Ok(stored_revision(database)? == known.revision);
        self.guard.write(&unwritten, |database| write(database, known, batches))
    }
}

fn initialize(database: &Database) -> Result<(), OpenError> {
    match stored_schema(database).map_err(open_error)? {
        Some(found) if found > SCHEMA => Err(OpenError::Newer { found, known: SCHEMA }),
        Some(_) => Ok(()),
        None => create_tables(database).map_err(open_error),
    }
}

fn stored_schema(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get("schema")?.map(|found| found.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn stored_revision(database: &Database) -> Result<Revision, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(Revision(meta.get("revision")?.map_or(0, |found| found.value())))
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert("schema", SCHEMA)?;
        meta.insert("revision", 0)?;
        meta.insert("next_lease", 1)?;
        txn.open_table(ENTRIES)?;
        txn.open_table(HISTORY)?;
        txn.open_table(LEASES)?;
    }
    txn.commit()?;
    Ok(())
}

fn load(database: &Database, now: Instant) -> Result<State, OpenError> {
    let txn = database.begin_read().map_err(|error| open_error(error.into()))?;
    read(&txn, now).map_err(open_error)?.ok_or_else(|| OpenError::Corrupt("a record can't be read".into()))
}

/// `None` if a record can't be understood.
fn read(txn: &redb::ReadTransaction, now: Instant) -> Result<Option<State>, redb::Error> {
    let mut state = State::default();
    let meta = txn.open_table(META)?;
    let number = |name| meta.get(name).map(|found| found.map_or(0, |found| found.value()));
    state.revision = Revision(number("revision")?);
    state.next_lease = number("next_lease")?;
    for row in txn.open_table(LEASES)?.iter()? {
        let (lease, span) = row?;
        let span = Duration::from_micros(span.value());
        state.leases.insert(Lease(lease.value()), Span { span, ends: now + span, keys: BTreeSet::new() });
    }
    for row in txn.open_table(ENTRIES)?.iter()? {
        let (key, bytes) = row?;
        let Some(entry) = encode::read_entry(key.value(), bytes.value()) else { return Ok(None) };
        state.restore(entry);
    }
    state.compacted = state.revision;
    for row in txn.open_table(HISTORY)?.iter()? {
        let (revision, bytes) = row?;
        let revision = Revision(revision.value());
        let Some(batch) = encode::read_events(revision, bytes.value()) else { return Ok(None) };
        state.compacted = state.compacted.min(Revision(revision.0.saturating_sub(1)));
        state.remember(Arc::new(batch));
    }
    Ok(Some(state))
}

fn write(database: &Database, known: &Known, batches: &[Arc<Batch>]) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        let mut entries = txn.open_table(ENTRIES)?;
        let mut history = txn.open_table(HISTORY)?;
        let mut leases = txn.open_table(LEASES)?;
        for batch in batches {
            for event in &batch.events {
                match &event.after {
                    Some(after) => entries.insert(&*event.key, &*encode::entry(after))?,
                    None => entries.remove(&*event.key)?,
                };
            }
            if !batch.events.is_empty() {
                history.insert(batch.revision.0, &*encode::events(batch))?;
                meta.insert("revision", batch.revision.0)?;
            }
            if let Some((lease, span)) = batch.granted {
                leases.insert(lease.0, u64::try_from(span.as_micros()).unwrap_or(u64::MAX))?;
                meta.insert("next_lease", lease.0 + 1)?;
            }
            for lease in &batch.ended {
                leases.remove(lease.0)?;
            }
        }
        // One write behind memory, which forgot these already.
        while history.first()?.is_some_and(|(revision, _)| revision.value() <= known.compacted.0) {
            history.pop_first()?;
        }
    }
    txn.commit()?;
    Ok(())
}
