// SPDX-License-Identifier: Apache-2.0
//! The only door to redb: a [`State`] read from a [`Disk`], and batches made durable on it, many in one
//! commit. It decides whether a failed write is known not to have happened. It keeps no copy in memory.

use crate::disk::Disk;
use crate::encode;
use crate::state::{Batch, Span, State};
use crate::store::{Error, Lease};
use byrnie_base::{Instant, Text};
use byrnie_model::Revision;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The file that holds a state.
pub(crate) struct Persist {
    disk: Arc<dyn Disk>,
    sync_failed: Arc<AtomicBool>,
    file: File,
}

/// What memory knows before a write.
pub(crate) struct Known {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
}

/// Whether the file can be written.
enum File {
    Open(Database),
    /// A write failed and the file couldn't be opened again; the next write tries that first.
    Lost(Text),
    /// Only a restart tells what is durable.
    Uncertain(Text),
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
    #[error("the store has format {found}, this program knows up to {SCHEMA}: use the newer program that wrote it")]
    Newer {
        /// The format found.
        found: u64,
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
        let sync_failed = Arc::new(AtomicBool::new(false));
        let database = database(disk.clone(), sync_failed.clone())?;
        initialize(&database)?;
        let state = load(&database, now)?;
        Ok((Self { disk, sync_failed, file: File::Open(database) }, state))
    }

    /// Makes `batches` durable together. History that memory forgot is dropped. An error means that the
    /// caller must not apply them.
    pub(crate) fn write(&mut self, known: &Known, batches: &[Arc<Batch>]) -> Result<(), Error> {
        if let File::Lost(_) = self.file {
            self.reopen(known.revision);
        }
        let database = match &self.file {
            File::Open(database) => database,
            File::Lost(why) => return Err(Error::Refused(why.clone())),
            File::Uncertain(why) => return Err(Error::Uncertain(why.clone())),
        };
        let Err(error) = write(database, known, batches) else { return Ok(()) };
        let why = Text::from(describe(&error));
        self.file = File::Lost(why.clone());
        if self.sync_failed.load(Ordering::Acquire) {
            self.file = File::Uncertain(why.clone());
            return Err(Error::Uncertain(why));
        }
        // redb refuses everything after an I/O error until the file is opened anew. The reopened file
        // tells whether the write happened.
        self.reopen(known.revision);
        match &self.file {
            File::Open(_) => Err(Error::Refused(why)),
            File::Lost(_) | File::Uncertain(_) => Err(Error::Uncertain(why)),
        }
    }

    fn reopen(&mut self, expected: Revision) {
        let why = match &self.file {
            File::Lost(why) => why.clone(),
            File::Open(_) | File::Uncertain(_) => return,
        };
        self.file = match database(self.disk.clone(), self.sync_failed.clone()) {
            Ok(database) if stored_revision(&database).is_ok_and(|found| found == expected) => File::Open(database),
            Ok(_) => File::Uncertain(why),
            Err(_) => File::Lost(why),
        };
    }
}

fn database(disk: Arc<dyn Disk>, sync_failed: Arc<AtomicBool>) -> Result<Database, OpenError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder.create_with_backend(Bridge { disk, sync_failed }).map_err(|error| open_error(error.into()))
}

fn initialize(database: &Database) -> Result<(), OpenError> {
    match stored_schema(database).map_err(open_error)? {
        Some(found) if found > SCHEMA => Err(OpenError::Newer { found }),
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

fn open_error(error: redb::Error) -> OpenError {
    match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => OpenError::Io(error),
        other => OpenError::Corrupt(describe(&other)),
    }
}

fn describe(error: &redb::Error) -> String {
    match error {
        redb::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What redb takes for a file.
#[derive(Debug)]
struct Bridge {
    disk: Arc<dyn Disk>,
    sync_failed: Arc<AtomicBool>,
}

impl StorageBackend for Bridge {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.disk.sync();
        if synced.is_err() {
            self.sync_failed.store(true, Ordering::Release);
        }
        synced
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(offset, bytes)
    }
}
