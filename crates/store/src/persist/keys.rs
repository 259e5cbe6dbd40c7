// SPDX-License-Identifier: Apache-2.0
//! The file of the ledger: what is remembered of each key, and in which order it is forgotten. A group of
//! jobs is decided by the rules of `saga` and made durable in one commit; a group that changes nothing
//! costs none. Not all of it is held in memory.

use super::guard::{Guard, open_error};
use super::{OpenError, SCHEMA};
use crate::disk::Disk;
use crate::ledger::{BYTES_MAX, Done, Job, KEYS_MAX, SWEEP_MAX};
use crate::store::Error;
use byrnie_base::Timestamp;
use byrnie_saga::ledger::{self, Begun, Change, Claim, Entry, Fingerprint, Name, State};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError};
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
        Some(found) if found > SCHEMA => return Err(OpenError::Newer { found }),
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
        match job {
            Job::Begin(name, ask) => {
                let key = key_of(name);
                let entry = self.entry(&key)?;
                let (begun, change) = ledger::begin(entry.as_ref(), ask, self.now);
                if matches!(begun, Begun::Granted { .. })
                    && let Some(full) = self.full()?
                {
                    return Ok(Err(full));
                }
                self.apply(&key, entry.as_ref(), change)?;
                Ok(Ok(Done::Begun(begun)))
            }
            Job::Finish(name, claim, ending) => {
                let key = key_of(name);
                let entry = self.entry(&key)?;
                let (finished, change) = ledger::finish(entry.as_ref(), *claim, ending.clone(), self.now);
                self.apply(&key, entry.as_ref(), change)?;
                Ok(Ok(Done::Finished(finished)))
            }
            Job::Read(name) => {
                let entry = self.entry(&key_of(name))?;
                Ok(Ok(Done::Read(entry.filter(|entry| !entry.is_over(self.now)))))
            }
            Job::Sweep => Ok(Ok(Done::Swept(self.sweep()?))),
        }
    }

    /// Why no further request may begin. Those that have begun may always end.
    fn full(&self) -> Result<Option<Error>, redb::Error> {
        let keys = self.keys.len()?;
        let limit = |what, size: u64, max: u64| {
            let number = |n| usize::try_from(n).unwrap_or(usize::MAX);
            (size >= max).then(|| Error::Limit { what, size: number(size), max: number(max) })
        };
        Ok(limit("the number of idempotency keys", keys, KEYS_MAX)
            .or_else(|| limit("the size of the ledger in bytes", self.totals.bytes, BYTES_MAX)))
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

/// Length before each part but the last, so that no two names give the same bytes.
fn key_of(name: &Name) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.service.len() + name.caller.len() + name.key.len());
    for part in [&name.service, &name.caller] {
        // A part has at most 512 bytes.
        out.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(name.key.as_bytes());
    out
}

fn expiry_of(expires: Timestamp, key: &[u8]) -> Vec<u8> {
    [&expires.as_millis().to_be_bytes(), key].concat()
}

fn size_of(key: &[u8], entry: &Entry) -> u64 {
    let kept = if let State::Done(kept) = &entry.state { kept.len() } else { 0 };
    (2 * key.len() + FIXED_BYTES + kept) as u64
}

/// Fingerprint, claim, expiry, state, lapse.
const FIXED_BYTES: usize = 32 + 8 + 8 + 1 + 8;

fn bytes_of(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIXED_BYTES);
    out.extend_from_slice(&entry.fingerprint.0);
    out.extend_from_slice(&entry.claim.0.to_le_bytes());
    out.extend_from_slice(&entry.expires.as_millis().to_le_bytes());
    match &entry.state {
        State::InFlight { lapses } => {
            out.push(1);
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
        1 => State::InFlight { lapses: Timestamp::from_millis(u64::from_le_bytes(rest.try_into().ok()?)) },
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
