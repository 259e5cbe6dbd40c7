// SPDX-License-Identifier: Apache-2.0
//! The journal's file: jobs done in order, many in one commit, each judged on its own. Keys are tuples of
//! whole ids and numbers, so that an id which begins like another's never meets its entries. `shards` is what
//! several coordinators know of each other.

mod shards;

use super::guard::{Guard, open_error};
use super::{OpenError, SCHEMA};
use crate::disk::Disk;
use crate::log::run::{Done, Job};
use crate::log::{Append, Heading, Story};
use crate::store::{Error, Expect, Value};
use byrnie_base::{Text, Timestamp};
use byrnie_model::Revision;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use std::sync::Arc;

/// Memory for pages of the file.
const CACHE_BYTES: usize = 32 << 20;

/// `schema`, `commits`: how many durable steps there were, and `letters`: the number of the last one.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Transaction and number to entry.
const ENTRIES: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("entries");
/// Transaction to number of entries, moment of its end (0: none) and summary.
const HEADINGS: TableDefinition<'_, &str, (u32, u64, &[u8])> = TableDefinition::new("headings");
/// Transactions that haven't ended.
const UNFINISHED: TableDefinition<'_, &str, ()> = TableDefinition::new("unfinished");
/// Moment of the end and transaction, for those that have.
const ENDED: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("ended");

/// The shard of a transaction, unless it is 0.
const PLACES: TableDefinition<'_, &str, u16> = TableDefinition::new("places");

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

    /// Does `jobs` in order with at most one durable step. Each may be refused alone. Leases are judged by `now`.
    pub(crate) fn run(&mut self, jobs: &[Job], now: Timestamp) -> Vec<Result<Done, Error>> {
        let before = self.commits;
        let unwritten = |database: &Database| Ok(stored_commits(database)? == before);
        match self.guard.write(&unwritten, |database| write(database, before, jobs, now)) {
            Ok((results, commits)) => {
                self.commits = commits;
                results
            }
            // One large append on a disk that is nearly full must not fail its neighbours.
            Err(Error::Refused(_)) if jobs.len() > 1 => {
                let mut alone = |job| self.run(std::slice::from_ref(job), now).pop().unwrap_or(Err(Error::Closed));
                jobs.iter().map(&mut alone).collect()
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
    drop(Tables::open(&txn, Timestamp::default())?);
    txn.commit()?;
    Ok(())
}

fn stored_commits(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get("commits")?.map_or(0, |found| found.value()))
}

type Written = (Vec<Result<Done, Error>>, u64);

fn write(database: &Database, commits: u64, jobs: &[Job], now: Timestamp) -> Result<Written, redb::Error> {
    let txn = database.begin_write()?;
    let (results, changed) = {
        let mut tables = Tables::open(&txn, now)?;
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
    meta: Table<'txn, &'static str, u64>,
    places: Table<'txn, &'static str, u16>,
    seats: Table<'txn, u16, (u64, &'static str)>,
    members: Table<'txn, &'static str, u64>,
    letters: Table<'txn, u64, (u16, u64, bool, &'static [u8])>,
    now: u64,
    changed: bool,
}

impl<'txn> Tables<'txn> {
    fn open(txn: &'txn WriteTransaction, now: Timestamp) -> Result<Self, redb::Error> {
        Ok(Self {
            entries: txn.open_table(ENTRIES)?,
            headings: txn.open_table(HEADINGS)?,
            unfinished: txn.open_table(UNFINISHED)?,
            ended: txn.open_table(ENDED)?,
            meta: txn.open_table(META)?,
            places: txn.open_table(PLACES)?,
            seats: txn.open_table(shards::SEATS)?,
            members: txn.open_table(shards::MEMBERS)?,
            letters: txn.open_table(shards::LETTERS)?,
            now: now.as_millis(),
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
                Ok(Ok(Done::Story(Story { shard: self.place(id)?, entries })))
            }
            Job::Unfinished(shards) => {
                let mut ids = Vec::new();
                for row in self.unfinished.iter()? {
                    let id = Text::from(row?.0.value());
                    if shards.contains(&self.place(&id)?) {
                        ids.push(id);
                    }
                }
                Ok(Ok(Done::Ids(ids)))
            }
            Job::List(below, limit) => Ok(Ok(Done::Headings(self.list(below.as_deref(), *limit)?))),
            Job::Forget(before, limit) => Ok(Ok(Done::Forgotten(self.forget(before.as_millis(), *limit)?))),
            Job::Beat(beat) => Ok(Ok(Done::Board(self.beat(beat)?))),
            Job::Post(shard, body) => Ok(self.post(*shard, body)?.map(Done::Posted)),
            Job::Letters(shards) => Ok(Ok(Done::Letters(self.waiting(shards)?))),
            Job::Reply(number, body) => {
                self.reply(*number, body)?;
                Ok(Ok(Done::Replied))
            }
            Job::Answer(number) => Ok(Ok(Done::Answer(self.answer(*number)?))),
        }
    }

    /// The shard of a transaction that is there.
    fn place(&self, id: &str) -> Result<u16, redb::Error> {
        Ok(self.places.get(id)?.map_or(0, |place| place.value()))
    }

    fn append(&mut self, append: &Append) -> Result<Result<(), Error>, redb::Error> {
        let (id, term): (&str, _) = (&append.id, append.term);
        if self.epoch(term.shard)? != term.epoch {
            return Ok(Err(Error::Deposed { shard: term.shard }));
        }
        let known = self.headings.get(id)?.map(|heading| (heading.value().0, heading.value().1));
        let (count, was_ended) = known.unwrap_or((0, 0));
        let elsewhere = known.is_some() && self.place(id)? != term.shard;
        if count != append.after || elsewhere {
            let found = known.map(|(count, _)| Revision(u64::from(count)));
            let expect = Expect::At(Revision(u64::from(append.after)));
            return Ok(Err(Error::Conflict { key: append.id.clone(), expect, found }));
        }
        self.changed = true;
        if known.is_none() && term.shard > 0 {
            self.places.insert(id, term.shard)?;
        }
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
        } else if known.is_none() || was_ended > 0 {
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
            self.places.remove(id)?;
            let count = self.headings.remove(id)?.map_or(0, |heading| heading.value().0);
            for number in 0..count {
                self.entries.remove((id, number))?;
            }
        }
        Ok(old.len())
    }
}
