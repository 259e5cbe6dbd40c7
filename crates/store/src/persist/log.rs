// SPDX-License-Identifier: Apache-2.0
//! The journal's file: jobs done in order, many in one commit, each judged on its own. Keys are tuples of
//! whole ids and numbers, so that an id which begins like another's never meets its entries.

use super::guard::{Guard, open_error};
use super::{OpenError, SCHEMA};
use crate::disk::Disk;
use crate::log::{Append, Done, Heading, Job};
use crate::store::{Error, Expect, Value};
use byrnie_base::{Text, Timestamp};
use byrnie_model::Revision;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use std::sync::Arc;

/// Memory for pages of the file.
const CACHE_BYTES: usize = 32 << 20;

/// `schema`, and `commits`: how many durable steps there were.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Transaction and number to entry.
const ENTRIES: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("entries");
/// Transaction to number of entries, moment of its end (0: none) and summary.
const HEADINGS: TableDefinition<'_, &str, (u32, u64, &[u8])> = TableDefinition::new("headings");
/// Transactions that haven't ended.
const UNFINISHED: TableDefinition<'_, &str, ()> = TableDefinition::new("unfinished");
/// Moment of the end and transaction, for those that have.
const ENDED: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("ended");

/// The file of the journal.
pub(crate) struct LogFile {
    guard: Guard,
    commits: u64,
}

impl LogFile {
    /// Opens what is on `disk`, an empty disk included.
    pub(crate) fn open(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let (guard, commits) = Guard::open(disk, CACHE_BYTES, initialize)?;
        Ok(Self { guard, commits })
    }

    /// Does `jobs` in order with at most one durable step. Each may be refused alone.
    pub(crate) fn run(&mut self, jobs: &[Job]) -> Vec<Result<Done, Error>> {
        let before = self.commits;
        let unwritten = |database: &Database| Ok(stored_commits(database)? == before);
        match self.guard.write(&unwritten, |database| write(database, before, jobs)) {
            Ok((results, commits)) => {
                self.commits = commits;
                results
            }
            // One large append on a disk that is nearly full must not fail its neighbours.
            Err(Error::Refused(_)) if jobs.len() > 1 => {
                jobs.iter().map(|job| self.run(std::slice::from_ref(job)).pop().unwrap_or(Err(Error::Closed))).collect()
            }
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

fn initialize(database: &Database) -> Result<u64, OpenError> {
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
    stored_commits(database).map_err(open_error)
}

fn create(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    txn.open_table(META)?.insert("schema", SCHEMA)?;
    drop(Tables::open(&txn)?);
    txn.commit()?;
    Ok(())
}

fn stored_commits(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get("commits")?.map_or(0, |found| found.value()))
}

type Written = (Vec<Result<Done, Error>>, u64);

fn write(database: &Database, commits: u64, jobs: &[Job]) -> Result<Written, redb::Error> {
    let txn = database.begin_write()?;
    let (results, changed) = {
        let mut tables = Tables::open(&txn)?;
        let results = jobs.iter().map(|job| tables.run(job)).collect::<Result<Vec<_>, _>>()?;
        (results, tables.changed)
    };
    if !changed {
        txn.abort()?;
        return Ok((results, commits));
    }
    txn.open_table(META)?.insert("commits", commits + 1)?;
    txn.commit()?;
    Ok((results, commits + 1))
}

/// The tables of one durable step.
struct Tables<'txn> {
    entries: Table<'txn, (&'static str, u32), &'static [u8]>,
    headings: Table<'txn, &'static str, (u32, u64, &'static [u8])>,
    unfinished: Table<'txn, &'static str, ()>,
    ended: Table<'txn, (u64, &'static str), ()>,
    changed: bool,
}

impl<'txn> Tables<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            entries: txn.open_table(ENTRIES)?,
            headings: txn.open_table(HEADINGS)?,
            unfinished: txn.open_table(UNFINISHED)?,
            ended: txn.open_table(ENDED)?,
            changed: false,
        })
    }

    /// The outer error fails the whole step, the inner one this job alone.
    fn run(&mut self, job: &Job) -> Result<Result<Done, Error>, redb::Error> {
        match job {
            Job::Append(append) => Ok(self.append(append)?.map(|()| Done::Appended)),
            Job::Read(id) => {
                let rows = self.entries.range((&**id, 0)..=(&**id, u32::MAX))?;
                let entries = rows.map(|row| Ok(Value::from(row?.1.value()))).collect::<Result<_, redb::Error>>()?;
                Ok(Ok(Done::Entries(entries)))
            }
            Job::Unfinished => {
                let rows = self.unfinished.iter()?;
                let ids = rows.map(|row| Ok(Text::from(row?.0.value()))).collect::<Result<_, redb::Error>>()?;
                Ok(Ok(Done::Ids(ids)))
            }
            Job::List(below, limit) => Ok(Ok(Done::Headings(self.list(below.as_deref(), *limit)?))),
            Job::Forget(before, limit) => Ok(Ok(Done::Forgotten(self.forget(before.as_millis(), *limit)?))),
        }
    }

    fn append(&mut self, append: &Append) -> Result<Result<(), Error>, redb::Error> {
        let id: &str = &append.id;
        let known = self.headings.get(id)?.map(|heading| (heading.value().0, heading.value().1));
        let (count, was_ended) = known.unwrap_or((0, 0));
        if count != append.after {
            let found = known.map(|(count, _)| Revision(u64::from(count)));
            let expect = Expect::At(Revision(u64::from(append.after)));
            return Ok(Err(Error::Conflict { key: append.id.clone(), expect, found }));
        }
        self.changed = true;
        for (number, entry) in (count..).zip(&append.entries) {
            self.entries.insert((id, number), &**entry)?;
        }
        let count = count.saturating_add(u32::try_from(append.entries.len()).unwrap_or(u32::MAX));
        let ended = append.ended.map_or(0, Timestamp::as_millis);
        self.headings.insert(id, (count, ended, &*append.summary))?;
        if was_ended > 0 {
            self.ended.remove((was_ended, id))?;
        }
        if ended > 0 {
            self.unfinished.remove(id)?;
            self.ended.insert((ended, id), ())?;
        } else {
            self.unfinished.insert(id, ())?;
        }
        Ok(Ok(()))
    }

    fn list(&self, below: Option<&str>, limit: usize) -> Result<Vec<Heading>, redb::Error> {
        let rows = match below {
            Some(below) => self.headings.range(..below)?,
            None => self.headings.iter()?,
        };
        rows.rev()
            .take(limit)
            .map(|row| {
                let (id, heading) = row?;
                let (_, ended, summary) = heading.value();
                let ended = Some(ended).filter(|ended| *ended > 0).map(Timestamp::from_millis);
                Ok(Heading { id: id.value().into(), summary: summary.into(), ended })
            })
            .collect()
    }

    fn forget(&mut self, before: u64, limit: usize) -> Result<usize, redb::Error> {
        let mut old: Vec<(u64, Text)> = Vec::new();
        for row in self.ended.range(..(before, ""))?.take(limit) {
            let key = row?.0;
            let (ended, id) = key.value();
            old.push((ended, id.into()));
        }
        for (ended, id) in &old {
            let id: &str = id;
            self.changed = true;
            self.ended.remove((*ended, id))?;
            let count = self.headings.remove(id)?.map_or(0, |heading| heading.value().0);
            for number in 0..count {
                self.entries.remove((id, number))?;
            }
        }
        Ok(old.len())
    }
}
