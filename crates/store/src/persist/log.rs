// SPDX-License-Identifier: Apache-2.0
//! The journal's file: jobs done in order, many in one durable step, each judged on its own. Keys are tuples of
//! whole ids and numbers, so that an id which begins like another's never meets its entries. A step that only appends is written to
//! `wal` alone; the tables take over many of them in one commit. `shards` is what
//! several coordinators know of each other.

mod shards;
mod wal;

use self::wal::Wal;
use super::OpenError;
use super::guard::{Guard, open_error};
use crate::disk::Disk;
use crate::encode;
use crate::log::run::{Done, Job};
use crate::log::{Append, Heading, Story};
use crate::store::{Error, Expect, Value};
use byrnie_base::{Text, Timestamp};
use byrnie_model::Revision;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Memory for pages of the file.
const CACHE_BYTES: usize = 32 << 20;

/// `schema`, `commits`: how many durable steps there were, `salt`: of the log, and `letters`: the number of the last one.
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

/// The format whose tables are all there is. An older program reads it.
const WHOLE: u64 = 1;
/// The format that has a log besides.
const LOGGED: u64 = 2;

/// The file of the journal, and its log.
pub(crate) struct LogFile {
    /// What the log has and the file doesn't have yet, as tables. Ends before the file that it is of.
    ahead: Option<WriteTransaction>,
    guard: Guard,
    wal: Wal,
    /// Steps so far.
    steps: u64,
    /// The file says of itself that there is a log.
    logged: bool,
}

impl LogFile {
    /// Opens what is on `disk`, with a log of `log_bytes` on `log`; empty disks included.
    pub(crate) fn open(disk: Arc<dyn Disk>, log: Arc<dyn Disk>, log_bytes: usize) -> Result<Self, OpenError> {
        let (guard, Stored { format, steps: last, salt }) = Guard::open(disk, CACHE_BYTES, initialize)?;
        let logged = format == LOGGED;
        // There was one before the file was told so.
        if logged && log.len()? < log_bytes as u64 {
            return Err(OpenError::Corrupt("its log (.wal), which has what came last, isn't beside it".to_owned()));
        }
        let salt = if logged { salt } else { random() };
        let wal = Wal::new(log, log_bytes, salt, guard.sync_failed());
        if logged && !wal.is_own()? {
            return Err(OpenError::Corrupt("the log (.wal) beside it is damaged, or of another journal".to_owned()));
        }
        if !logged {
            // One that its maker didn't finish looks as whole as any.
            wal.clear()?;
        }
        let steps = last + wal.read(last)?.len() as u64;
        // What can't be taken over shows now. What was read may be in memory alone, as after a failed sync, or if its writer died before
        // it: the tables make it durable before anybody acts on it.
        let ahead = guard.read(|database| {
            let ahead = resume(database, &wal)?;
            if wal.is_empty() {
                return Ok(Some(ahead));
            }
            commit(ahead, steps, LOGGED, salt)?;
            wal.restart();
            Ok(None)
        })?;
        Ok(Self { ahead, guard, wal, steps, logged })
    }

    /// Does `jobs` in order with at most one durable step. Each may be refused alone. Leases are judged by `now`.
    pub(crate) fn run(&mut self, jobs: &[Job], now: Timestamp) -> Vec<Result<Done, Error>> {
        let before = self.steps;
        let Self { ahead, guard, wal, steps, logged } = self;
        let done = guard.write(&unwritten(wal, before), |database| {
            let txn = match ahead.take() {
                Some(txn) => txn,
                None => resume(database, wal)?,
            };
            let (results, changed) = {
                let mut tables = Tables::open(&txn, now)?;
                let results = jobs.iter().map(|job| tables.run(job)).collect::<Result<Vec<_>, _>>()?;
                (results, tables.changed)
            };
            if !changed {
                *ahead = Some(txn);
                return Ok(results);
            }
            match group(jobs, &results).filter(|group| *logged && wal.fits(group.len())) {
                Some(group) => {
                    wal.append(before + 1, &group)?;
                    *ahead = Some(txn);
                }
                None => {
                    commit(txn, before + 1, LOGGED, wal.salt())?;
                    wal.restart();
                    *logged = true;
                }
            }
            *steps = before + 1;
            Ok(results)
        });
        match done {
            Ok(results) => results,
            // One large append on a disk that is nearly full must not fail its neighbours.
            Err(Error::Refused(_)) if jobs.len() > 1 => {
                let mut alone = |job| self.run(std::slice::from_ref(job), now).pop().unwrap_or(Err(Error::Closed));
                jobs.iter().map(&mut alone).collect()
            }
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

impl Drop for LogFile {
    /// Leaves a file that an older program reads, if nothing is wrong with it; else the log is read at the next start.
    fn drop(&mut self) {
        let Self { ahead, guard, wal, steps, logged } = self;
        if !*logged {
            return;
        }
        let closed = guard.write(&unwritten(wal, *steps), |database| {
            let txn = match ahead.take() {
                Some(txn) => txn,
                None => resume(database, wal)?,
            };
            commit(txn, *steps, WHOLE, wal.salt())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "the journal's log isn't taken over by its file; that is done at the next start");
        }
    }
}

/// Whether a file and its log have these steps and no more.
fn unwritten(wal: &Wal, steps: u64) -> impl Fn(&Database) -> Result<bool, redb::Error> {
    move |database| {
        let last = stored(database)?.steps;
        Ok(wal.read(last).is_ok_and(|records| last + records.len() as u64 == steps))
    }
}

fn commit(txn: WriteTransaction, steps: u64, format: u64, salt: u64) -> Result<(), redb::Error> {
    {
        let mut meta = txn.open_table(META)?;
        meta.insert("commits", steps)?;
        meta.insert("schema", format)?;
        meta.insert("salt", salt)?;
    }
    txn.commit()?;
    Ok(())
}

/// The tables as they are with all that was logged since their last commit.
fn resume(database: &Database, wal: &Wal) -> Result<WriteTransaction, redb::Error> {
    let txn = database.begin_write()?;
    if wal.is_empty() {
        return Ok(txn);
    }
    let damaged = || redb::Error::Corrupted("the log of the journal doesn't go on where its file ends".to_owned());
    let records = wal.read(stored(database)?.steps).map_err(|_| damaged())?;
    {
        let mut tables = Tables::open(&txn, Timestamp::default())?;
        for (_, group) in records {
            for append in encode::read_appends(&group).ok_or_else(damaged)? {
                tables.append(&append)?.map_err(|_| damaged())?;
            }
        }
    }
    Ok(txn)
}

/// What is to be logged of jobs that did nothing but append and look; nothing if there are others.
fn group(jobs: &[Job], results: &[Result<Done, Error>]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for (job, result) in jobs.iter().zip(results) {
        match job {
            Job::Append(append) if result.is_ok() => encode::append(&mut bytes, append),
            Job::Append(_) | Job::Read(_) | Job::Unfinished(_) | Job::List(..) => {}
            Job::Forget(..) | Job::Beat(_) | Job::Post(..) | Job::Letters(_) | Job::Reply(..) | Job::Answer(_) => {
                return None;
            }
        }
    }
    Some(bytes)
}

fn initialize(database: &Database) -> Result<Stored, OpenError> {
    let fresh = match database.begin_read().map_err(|e| open_error(e.into()))?.open_table(META) {
        Ok(_) => false,
        Err(TableError::TableDoesNotExist(_)) => true,
        Err(error) => return Err(open_error(error.into())),
    };
    if fresh {
        create(database).map_err(open_error)?;
    }
    match stored(database).map_err(open_error)? {
        Stored { format: found, .. } if found > LOGGED => Err(OpenError::Newer { found, known: LOGGED }),
        known => Ok(known),
    }
}

fn create(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    txn.open_table(META)?.insert("schema", WHOLE)?;
    drop(Tables::open(&txn, Timestamp::default())?);
    txn.commit()?;
    Ok(())
}

/// The file's format, how many steps it has, and the salt of its log if it has one.
struct Stored {
    format: u64,
    steps: u64,
    salt: u64,
}

/// A number that nobody outside foresees: std seeds its hashers by the system's randomness.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

fn stored(database: &Database) -> Result<Stored, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let number = |name| meta.get(name).map(|found| found.map_or(0, |found| found.value()));
    Ok(Stored { format: number("schema")?, steps: number("commits")?, salt: number("salt")? })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{RamDisk, split};
    use crate::log::ID_BYTES_MAX;
    use byrnie_saga::Term;

    const LOG_BYTES: usize = 64 << 10;

    fn open(medium: &RamDisk) -> Result<LogFile, OpenError> {
        let (log, disk) = split(medium.attach(), LOG_BYTES as u64);
        LogFile::open(disk, log, LOG_BYTES)
    }

    fn append(file: &mut LogFile, after: u32) {
        let append = Append {
            term: Term::default(),
            id: "t".into(),
            after,
            entries: vec![Value::from(&[7; ID_BYTES_MAX][..])],
            summary: Value::from(&b"s"[..]),
            ended: None,
        };
        assert!(file.run(&[Job::Append(append)], Timestamp::default())[0].is_ok());
    }

    /// What an older program would find.
    fn tables(medium: &RamDisk) -> (u64, u64) {
        let (_, disk) = split(medium.attach(), LOG_BYTES as u64);
        let found = Guard::open(disk, CACHE_BYTES, |database| stored(database).map_err(open_error)).unwrap().1;
        (found.format, found.steps)
    }

    #[test]
    fn an_older_program_reads_what_was_closed_and_refuses_what_has_a_log() {
        let medium = RamDisk::new();
        let mut file = open(&medium).unwrap();
        (0..5).for_each(|after| append(&mut file, after));
        medium.crash();
        drop(file);
        assert_eq!(tables(&medium), (LOGGED, 1), "four are in the log alone");
        let mut file = open(&medium).unwrap();
        append(&mut file, 5);
        drop(file);
        assert_eq!(tables(&medium), (WHOLE, 6));
        // What such a program writes counts on; the log of before isn't taken for something that comes after.
        let mut file = open(&medium).unwrap();
        (6..8).for_each(|after| append(&mut file, after));
        assert_eq!(file.steps, 8);
    }

    #[test]
    fn a_damaged_log_is_told() {
        let medium = RamDisk::new();
        let mut file = open(&medium).unwrap();
        (0..5).for_each(|after| append(&mut file, after));
        medium.crash();
        drop(file);
        medium.flip(4096 + 100);
        let refused = open(&medium).map(drop).unwrap_err().to_string();
        assert!(refused.contains("damaged") && refused.contains("step 3 where 2 should come first"), "{refused}");
    }

    #[test]
    fn a_half_made_log_is_made_again() {
        let (medium, log) = (RamDisk::new(), RamDisk::new());
        let both = || LogFile::open(medium.attach(), log.attach(), LOG_BYTES);
        // Its length is as it should be, and none of it is durable.
        let half = log.attach();
        half.write(LOG_BYTES as u64 - 1, &[0]).unwrap();
        log.give_up_a_sync();
        half.sync().unwrap_err();
        let mut file = both().unwrap();
        (0..5).for_each(|after| append(&mut file, after));
        medium.crash();
        log.crash();
        drop(file);
        assert_eq!(log.used_bytes(), LOG_BYTES);
        assert_eq!(both().unwrap().steps, 5);
    }

    #[test]
    fn a_missing_log_is_told() {
        let (medium, log) = (RamDisk::new(), RamDisk::new());
        let both = |log: &RamDisk| LogFile::open(medium.attach(), log.attach(), LOG_BYTES);
        let mut file = both(&log).unwrap();
        (0..5).for_each(|after| append(&mut file, after));
        medium.crash();
        drop(file);
        let refused = both(&RamDisk::new()).map(drop).unwrap_err().to_string();
        assert!(refused.contains("isn't beside it"), "{refused}");
        let other = RamDisk::new();
        let mut file = LogFile::open(RamDisk::new().attach(), other.attach(), LOG_BYTES).unwrap();
        (0..5).for_each(|after| append(&mut file, after));
        let refused = both(&other).map(drop).unwrap_err().to_string();
        assert!(refused.contains("of another journal"), "{refused}");
        assert_eq!(both(&log).unwrap().steps, 5);
    }
}
