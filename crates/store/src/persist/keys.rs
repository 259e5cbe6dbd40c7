// SPDX-License-Identifier: Apache-2.0
//! The file of the ledger: what is remembered of each key, and in which order it is forgotten. A group of
//! jobs is decided by the rules of `saga` and made durable in one commit; a group that changes nothing
//! costs none. Not all of it is held in memory.

use super::guard::{Guard, open_error};
use super::{OpenError, SCHEMA};
use crate::disk::Disk;
use crate::ledger::SWEEP_MAX;
use crate::ledger::run::{Done, FIXED_BYTES, Job, full, key_of, size_of};
use crate::store::Error;
use byrnie_base::Timestamp;
use byrnie_saga::ledger::{Begun, Change, Claim, Entry, Fingerprint, State};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError};
use std::ops::Bound;
use std::sync::Arc;

/// Memory for pages of the file.
const CACHE_BYTES: usize = 32 << 20;

/// `schema`, `commits` and `bytes`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Name to entry.
const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
/// When an entry is forgotten (8 bytes, big-endian milliseconds), then its name.
const EXPIRIES: TableDefinition<'_, &[u8], ()> = TableDefinition::new("expiries");

/// The file of the ledger.
pub(crate) struct Keys {
    guard: Guard,
    totals: Totals,
}

/// Numbers kept with the keys.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    /// Commits so far.
    commits: u64,
    /// Bytes of all names and entries.
    bytes: u64,
}

impl Keys {
    /// Opens what is on `disk`, an empty disk included.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let (guard, totals) = Guard::open(disk, CACHE_BYTES, initialize)?;
        Ok(Self { guard, totals })
    }

    /// Up to `limit` names with their entries in order, from above `after` if given.
    pub(crate) fn page(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Entry)>, OpenError> {
        self.guard.read(|database| {
            let keys = database.begin_read()?.open_table(KEYS)?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut page = Vec::new();
            for row in keys.range::<&[u8]>((from, Bound::Unbounded))?.take(limit) {
                let (name, entry) = row?;
                let entry =
                    read(entry.value()).ok_or_else(|| redb::Error::Corrupted("an entry of the ledger".into()))?;
                page.push((name.value().to_vec(), entry));
            }
            Ok(page)
        })
    }

    /// Does `jobs` in order with at most one durable step. Each may be refused alone; an error of the disk
    /// is everybody's.
    pub(crate) fn run(&mut self, jobs: &[Job], now: Timestamp) -> Vec<Result<Done, Error>> {
        let before = self.totals;
        let unwritten = |database: &Database| Ok(stored_totals(database)?.commits == before.commits);
        match self.guard.write(&unwritten, |database| write(database, before, jobs, now)) {
            Ok((results, totals)) => {
                self.totals = totals;
                results
            }
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

fn initialize(database: &Database) -> Result<Totals, OpenError> {
    let schema = match database.begin_read().map_err(|e| open_error(e.into()))?.open_table(META) {
        Ok(meta) => meta.get("schema").map_err(|e| open_error(e.into()))?.map(|found| found.value()),
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(open_error(error.into())),
    };
    match schema {
        Some(found) if found > SCHEMA => return Err(OpenError::Newer { found, known: SCHEMA }),
        Some(_) => {}
        None => create(database).map_err(open_error)?,
    }
    stored_totals(database).map_err(open_error)
}

fn create(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        txn.open_table(META)?.insert("schema", SCHEMA)?;
        txn.open_table(KEYS)?;
        txn.open_table(EXPIRIES)?;
    }
    txn.commit()?;
    Ok(())
}

fn stored_totals(database: &Database) -> Result<Totals, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let number = |name| meta.get(name).map(|found| found.map_or(0, |found| found.value()));
    Ok(Totals { commits: number("commits")?, bytes: number("bytes")? })
}

type Written = (Vec<Result<Done, Error>>, Totals);

fn write(database: &Database, totals: Totals, jobs: &[Job], now: Timestamp) -> Result<Written, redb::Error> {
    let txn = database.begin_write()?;
    let (results, totals, changed) = {
        let mut group =
            Group { keys: txn.open_table(KEYS)?, expiries: txn.open_table(EXPIRIES)?, totals, now, changed: false };
        let mut results = Vec::with_capacity(jobs.len());
        for job in jobs {
            results.push(group.run(job)?);
        }
        (results, group.totals, group.changed)
    };
    if !changed {
        txn.abort()?;
        return Ok((results, totals));
    }
    let totals = Totals { commits: totals.commits + 1, ..totals };
    {
        let mut meta = txn.open_table(META)?;
        meta.insert("commits", totals.commits)?;
        meta.insert("bytes", totals.bytes)?;
    }
    txn.commit()?;
    Ok((results, totals))
}

/// Jobs that share one commit.
struct Group<'txn> {
    keys: Table<'txn, &'static [u8], &'static [u8]>,
    expiries: Table<'txn, &'static [u8], ()>,
    totals: Totals,
    now: Timestamp,
    changed: bool,
}

impl Group<'_> {
    fn run(&mut self, job: &Job) -> Result<Result<Done, Error>, redb::Error> {
        let Some(name) = job.name() else {
            let nobody = Done::Met(Vec::new());
            return Ok(Ok(if matches!(job, Job::Sweep) { Done::Swept(self.sweep()?) } else { nobody }));
        };
        let key = key_of(name);
        let entry = self.entry(&key)?;
        let (done, change) = job.decide(entry.as_ref(), self.now);
        if matches!(done, Done::Begun(Begun::Granted { .. }))
            && let Some(full) = full(self.keys.len()?, self.totals.bytes)
        {
            return Ok(Err(full));
        }
        self.apply(&key, entry.as_ref(), change)?;
        Ok(Ok(done))
    }

    fn entry(&self, key: &[u8]) -> Result<Option<Entry>, redb::Error> {
        let Some(found) = self.keys.get(key)? else { return Ok(None) };
        read(found.value()).map(Some).ok_or_else(|| redb::Error::Corrupted("an entry of the ledger".into()))
    }

    fn apply(&mut self, key: &[u8], before: Option<&Entry>, change: Change) -> Result<(), redb::Error> {
        let after = match change {
            Change::None => return Ok(()),
            Change::Put(entry) => Some(entry),
            Change::Remove => None,
        };
        self.changed = true;
        if let Some(before) = before {
            self.totals.bytes = self.totals.bytes.saturating_sub(size_of(key, before));
            if after.as_ref().is_none_or(|after| after.expires != before.expires) {
                self.expiries.remove(&*expiry_of(before.expires, key))?;
            }
        }
        let Some(after) = after else {
            self.keys.remove(key)?;
            return Ok(());
        };
        self.totals.bytes += size_of(key, &after);
        self.keys.insert(key, &*bytes_of(&after))?;
        if before.is_none_or(|before| before.expires != after.expires) {
            self.expiries.insert(&*expiry_of(after.expires, key), ())?;
        }
        Ok(())
    }

    /// Forgets what is over, oldest first.
    fn sweep(&mut self) -> Result<usize, redb::Error> {
        let mut swept = 0;
        while swept < SWEEP_MAX {
            let Some(first) = self.expiries.first()?.map(|(row, _)| row.value().to_vec()) else { break };
            let Some((expires, key)) = first.split_first_chunk().map(|(at, key)| (u64::from_be_bytes(*at), key)) else {
                return Err(redb::Error::Corrupted("an expiry of the ledger".into()));
            };
            if expires > self.now.as_millis() {
                break;
            }
            if let Some(entry) = self.entry(key)? {
                self.apply(key, Some(&entry), Change::Remove)?;
            }
            self.expiries.remove(&*first)?;
            self.changed = true;
            swept += 1;
        }
        Ok(swept)
    }
}

fn expiry_of(expires: Timestamp, key: &[u8]) -> Vec<u8> {
    [&expires.as_millis().to_be_bytes(), key].concat()
}

fn bytes_of(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED_BYTES);
    out.extend_from_slice(&entry.fingerprint.0);
    out.extend_from_slice(&entry.claim.0.to_le_bytes());
    out.extend_from_slice(&entry.expires.as_millis().to_le_bytes());
    match &entry.state {
        State::InFlight { lapses, again } => {
            out.push(if *again { 4 } else { 1 });
            out.extend_from_slice(&lapses.as_millis().to_le_bytes());
        }
        State::Done(kept) => {
            out.push(2);
            out.extend_from_slice(kept);
        }
        State::Ambiguous => out.push(3),
    }
    out
}

/// `None` for anything that [`bytes_of`] can't have written.
fn read(bytes: &[u8]) -> Option<Entry> {
    let (fingerprint, rest) = bytes.split_first_chunk()?;
    let (claim, rest) = rest.split_first_chunk()?;
    let (expires, rest) = rest.split_first_chunk()?;
    let (state, rest) = rest.split_first()?;
    let state = match state {
        1 | 4 => State::InFlight {
            lapses: Timestamp::from_millis(u64::from_le_bytes(rest.try_into().ok()?)),
            again: *state == 4,
        },
        2 => State::Done(rest.into()),
        3 if rest.is_empty() => State::Ambiguous,
        _ => return None,
    };
    Some(Entry {
        fingerprint: Fingerprint(*fingerprint),
        claim: Claim(u64::from_le_bytes(*claim)),
        state,
        expires: Timestamp::from_millis(u64::from_le_bytes(*expires)),
    })
}
