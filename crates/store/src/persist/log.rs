// SPDX-License-Identifier: Apache-2.0
//! The journal's file: jobs done in order, many in one durable step, each judged on its own. Keys are tuples of
//! whole ids and numbers, so that an id which begins like another's never meets its entries. A step that only appends is written to
//! `wal` alone; the tables take over many of them in one commit, beside the steps that come meanwhile (`ahead`). `shards` is what
//! several coordinators know of each other.

mod ahead;
mod shards;
#[cfg(test)]
mod tests;
mod wal;

use self::ahead::{Ahead, Look};
use self::wal::Wal;
use super::OpenError;
use super::guard::{Guard, open_error};
use crate::disk::Disk;
use crate::encode;
use crate::log::run::{Done, Job};
use crate::store::Error;
use byrnie_base::{Text, Timestamp};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread::JoinHandle;

/// About as much takes an append in the log besides its own bytes.
const APPEND_BYTES: usize = 64;

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
/// The format that has a log besides, in one piece: it is read, and written no more.
const LOGGED_WHOLE: u64 = 2;
/// The format that has a log besides, in two halves. That of 3 was as large as [`SMALL_LOG_BYTES`] says: it is read, and made larger.
const LOGGED: u64 = 4;

/// The room of the log in formats before [`LOGGED`].
const SMALL_LOG_BYTES: usize = 512 << 10;

/// Whether the tables take over what was logged while further steps are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// In a thread of their own.
    Beside,
    /// When the room is needed, in the caller's thread: a run is repeatable.
    Late,
}

/// The file of the journal, and its log.
pub(crate) struct LogFile {
    guard: Guard,
    wal: Wal,
    pace: Pace,
    /// What this half of the log has and the tables don't have.
    fresh: Ahead,
    /// The other half, which they take over.
    going: Option<Going>,
    /// They couldn't, or a group may stand half-written in the log: nothing is logged before they have everything.
    stuck: bool,
    /// Steps so far.
    steps: u64,
    /// The file says of itself that there is a log.
    logged: bool,
}

/// A half of the log on its way into the tables.
struct Going {
    ahead: Arc<Ahead>,
    work: Work,
}

enum Work {
    Later(Box<dyn FnOnce() -> Result<(), redb::Error> + Send>),
    Thread(JoinHandle<Result<(), redb::Error>>),
}

impl LogFile {
    /// Opens what is on `disk`, with a log of `log_bytes` on `log`; empty disks included.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        log: Arc<dyn Disk>,
        log_bytes: usize,
        pace: Pace,
    ) -> Result<Self, OpenError> {
        let (guard, Stored { format, steps: last, salt }) =
            Guard::open(disk, CACHE_BYTES, |database| initialize(database, &*log))?;
        let logged = format >= LOGGED_WHOLE;
        let older = logged && format < LOGGED;
        let room = if older { log_bytes.min(SMALL_LOG_BYTES) } else { log_bytes };
        // There was one before the file was told so.
        if logged && log.len()? < room as u64 {
            return Err(OpenError::Corrupt("its log (.wal), which has what came last, isn't beside it".to_owned()));
        }
        let salt = if logged { salt } else { random() };
        let mut wal = Wal::new(log, room, salt, guard.sync_failed());
        if logged && !wal.is_own()? {
            return Err(OpenError::Corrupt("the log (.wal) beside it is damaged, or of another journal".to_owned()));
        }
        if !logged {
            // One that its maker didn't finish looks as whole as any.
            wal.clear()?;
        }
        let records = wal.read(last)?;
        let steps = last + records.len() as u64;
        // What can't be taken over shows now. What was read may be in memory alone, as after a failed sync, or if its writer died before
        // it: the tables make it durable before anybody acts on it. So does a log in one piece, or of less room, begin anew.
        if older {
            wal.grow(log_bytes)?;
        }
        if !records.is_empty() || older {
            guard.read(|database| take_over(database, &[&read_again(database, &records)?], steps, salt))?;
        }
        let fresh = Ahead::default();
        Ok(Self { guard, wal, pace, fresh, going: None, stuck: false, steps, logged })
    }

    /// Does `jobs` in order, with one durable step for those that follow each other and append. Each may be refused alone. Leases are
    /// judged by `now`.
    pub(crate) fn run(&mut self, jobs: &[Job], now: Timestamp) -> Vec<Result<Done, Error>> {
        let mut all = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunk_by(|one, next| one.is_logged() == next.is_logged()) {
            self.settle(false);
            let done = if jobs[0].is_logged() { self.log(jobs) } else { self.write(jobs, now) };
            match done {
                Ok(results) => all.extend(results),
                // One large append on a disk that is nearly full must not fail its neighbours.
                Err(Error::Refused(_)) if jobs.len() > 1 => {
                    let mut alone = |job| self.run(std::slice::from_ref(job), now).pop().unwrap_or(Err(Error::Closed));
                    all.extend(jobs.iter().map(&mut alone));
                }
                Err(error) => all.extend(jobs.iter().map(|_| Err(error.clone()))),
            }
        }
        all
    }

    /// Jobs that append or look: judged by what was logged, and logged.
    fn log(&mut self, jobs: &[Job]) -> Result<Vec<Result<Done, Error>>, Error> {
        let database = self.database()?;
        let mut staged = Ahead::default();
        let going = self.going.as_ref().map(|going| Arc::clone(&going.ahead));
        let layers = going.as_deref().into_iter().chain([&self.fresh]).collect();
        let looked = Look::new(&database, layers)
            .and_then(|look| jobs.iter().map(|job| answer(&look, &mut staged, job)).collect::<Result<Vec<_>, _>>());
        // Whoever holds it keeps it from being opened anew.
        drop((database, going));
        let results = match looked {
            Ok(results) => results,
            Err(error) => return Err(self.fail(error)),
        };
        if staged.is_empty() {
            return Ok(results);
        }
        let group = group(jobs, &results);
        if self.logged && !self.stuck && !self.wal.fits(group.len()) && self.wal.may_fit(group.len()) {
            self.turn()?;
        }
        if self.logged && !self.stuck && self.wal.fits(group.len()) {
            if let Err(error) = self.wal.append(self.steps + 1, &group) {
                // Nobody writes to the file meanwhile that may be opened anew.
                self.settle(true);
                self.stuck = true;
                let known = !self.guard.has_failed_to_sync() && !self.wal.may_hold(self.steps + 1);
                return Err(if known { Error::Refused(error.to_string().into()) } else { self.guard.doubt(&error) });
            }
            self.steps += 1;
            self.fresh.merge(staged);
            return Ok(results);
        }
        self.settle(true);
        let (before, salt) = (self.steps, self.wal.salt());
        self.guard.write(&unwritten(&self.wal, before), |database| {
            take_over(database, &[&self.fresh, &staged], before + 1, salt)
        })?;
        self.all_written();
        Ok(results)
    }

    /// Jobs that are for the tables themselves, with all that was logged before.
    fn write(&mut self, jobs: &[Job], now: Timestamp) -> Result<Vec<Result<Done, Error>>, Error> {
        self.settle(true);
        let (before, salt) = (self.steps, self.wal.salt());
        let (results, changed) = self.guard.write(&unwritten(&self.wal, before), |database| {
            let txn = database.begin_write()?;
            let (results, changed) = {
                let mut tables = Tables::open(&txn, now)?;
                self.fresh.apply(&mut tables)?;
                let results = jobs.iter().map(|job| tables.run(job)).collect::<Result<Vec<_>, _>>()?;
                (results, tables.changed)
            };
            if changed {
                commit(txn, before + 1, LOGGED, salt)?;
            } else {
                txn.abort()?;
            }
            Ok((results, changed))
        })?;
        if changed {
            self.all_written();
        }
        Ok(results)
    }

    /// The tables have everything, by one step more.
    fn all_written(&mut self) {
        self.steps += 1;
        self.fresh = Ahead::default();
        self.wal.restart();
        (self.stuck, self.logged) = (false, true);
    }

    /// Goes on in the other half of the log, while the tables take over this one.
    fn turn(&mut self) -> Result<(), Error> {
        self.settle(true);
        if self.stuck {
            return Ok(());
        }
        let database = self.database()?;
        let ahead = Arc::new(std::mem::take(&mut self.fresh));
        let (taken, steps, salt) = (Arc::clone(&ahead), self.steps, self.wal.salt());
        let work = move || {
            let (database, taken) = (Arc::clone(&database), Arc::clone(&taken));
            move || take_over(&database, &[&taken], steps, salt)
        };
        let beside = || std::thread::Builder::new().name("journal tables".into()).spawn(work()).ok();
        let thread = if self.pace == Pace::Beside { beside() } else { None };
        // Without a thread it is taken over by the step that finds no room.
        let work = thread.map_or_else(|| Work::Later(Box::new(work())), Work::Thread);
        self.going = Some(Going { ahead, work });
        self.wal.turn();
        Ok(())
    }

    /// Hears of the half that the tables take over, if they are done; waits for that if it's asked for.
    fn settle(&mut self, wait: bool) {
        let done = |going: &mut Going| wait || matches!(&going.work, Work::Thread(thread) if thread.is_finished());
        let Some(Going { ahead, work }) = self.going.take_if(done) else { return };
        let taken = match work {
            Work::Later(work) => work(),
            Work::Thread(thread) => {
                thread.join().unwrap_or_else(|_| Err(redb::Error::Corrupted("the tables' thread panicked".into())))
            }
        };
        if let Err(error) = self.guard.judge(&unwritten(&self.wal, self.steps), taken) {
            tracing::warn!(%error, "the journal's file can't take over its log; it is tried again");
            let mut all = Ahead::clone(&ahead);
            all.merge(std::mem::take(&mut self.fresh));
            (self.fresh, self.stuck) = (all, true);
        }
    }

    fn database(&mut self) -> Result<Arc<Database>, Error> {
        self.guard.database(&unwritten(&self.wal, self.steps))
    }

    /// What a look that failed comes to.
    fn fail(&mut self, error: redb::Error) -> Error {
        // Nobody writes to the file meanwhile that may be opened anew.
        self.settle(true);
        match self.guard.judge::<()>(&unwritten(&self.wal, self.steps), Err(error)) {
            Err(error) => error,
            Ok(()) => Error::Closed,
        }
    }
}

impl Drop for LogFile {
    /// Leaves a file that an older program reads, if nothing is wrong with it; else the log is read at the next start.
    fn drop(&mut self) {
        self.settle(true);
        if !self.logged {
            return;
        }
        let (steps, salt) = (self.steps, self.wal.salt());
        let closed = self.guard.write(&unwritten(&self.wal, steps), |database| {
            let txn = database.begin_write()?;
            self.fresh.apply(&mut Tables::open(&txn, Timestamp::default())?)?;
            commit(txn, steps, WHOLE, salt)
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

/// Has the tables take over what was logged up to a step, lowest first.
fn take_over(database: &Database, layers: &[&Ahead], steps: u64, salt: u64) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut tables = Tables::open(&txn, Timestamp::default())?;
        layers.iter().try_for_each(|ahead| ahead.apply(&mut tables))?;
    }
    commit(txn, steps, LOGGED, salt)
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

/// What was logged and the tables don't have.
fn read_again(database: &Database, records: &[wal::Record]) -> Result<Ahead, redb::Error> {
    let damaged = || redb::Error::Corrupted("the log of the journal doesn't go on where its file ends".to_owned());
    let look = Look::new(database, Vec::new())?;
    let mut ahead = Ahead::default();
    for (_, group) in records {
        for append in encode::read_appends(group).ok_or_else(damaged)? {
            look.append(&mut ahead, &append)?.map_err(|_| damaged())?;
        }
    }
    Ok(ahead)
}

/// The outer error fails the whole step, the inner one this job alone.
fn answer(look: &Look<'_>, staged: &mut Ahead, job: &Job) -> Result<Result<Done, Error>, redb::Error> {
    Ok(match job {
        Job::Append(append) => look.append(staged, append)?.map(|()| Done::Appended),
        Job::Read(id) => Ok(Done::Story(look.story(staged, id)?)),
        Job::Unfinished(shards) => Ok(Done::Ids(look.unfinished(staged, shards)?)),
        Job::List(below, limit) => Ok(Done::Headings(look.list(staged, below.as_ref(), *limit)?)),
        Job::Headings(ids) => {
            let found = ids.iter().map(|id| look.heading(staged, id));
            Ok(Done::Headings(found.filter_map(Result::transpose).collect::<Result<_, _>>()?))
        }
        // Asked of the tables alone.
        Job::Forget(..) | Job::Beat(_) | Job::Post(..) | Job::Letters(_) | Job::Reply(..) | Job::Answer(_) => {
            Err(Error::Closed)
        }
    })
}

/// What is to be logged of jobs that append or look.
fn group(jobs: &[Job], results: &[Result<Done, Error>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(jobs.iter().map(|job| job.bytes() + APPEND_BYTES).sum());
    for (job, result) in jobs.iter().zip(results) {
        if let (Job::Append(append), Ok(_)) = (job, result) {
            encode::append(&mut bytes, append);
        }
    }
    bytes
}

/// Looks at the file, or makes its tables: unless its log says that it had some before.
fn initialize(database: &Database, log: &dyn Disk) -> Result<Stored, OpenError> {
    let fresh = match database.begin_read().map_err(|e| open_error(e.into()))?.open_table(META) {
        Ok(_) => false,
        Err(TableError::TableDoesNotExist(_)) => true,
        Err(error) => return Err(open_error(error.into())),
    };
    if fresh {
        if wal::is_used(log)? {
            let why = "it is missing or empty, and the log (.wal) beside it has what was acknowledged; \
                       to start empty, that one is moved away too";
            return Err(OpenError::Corrupt(why.to_owned()));
        }
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

/// The newest epoch of a shard; 0 before the first.
fn epoch_in(seats: &impl ReadableTable<u16, (u64, &'static str)>, shard: u16) -> Result<u64, redb::Error> {
    Ok(seats.get(shard)?.map_or(0, |seat| seat.value().0))
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
            Job::Forget(before, limit) => Ok(Ok(Done::Forgotten(self.forget(before.as_millis(), *limit)?))),
            Job::Beat(beat) => Ok(Ok(Done::Board(self.beat(beat)?))),
            Job::Post(shard, body) => Ok(self.post(*shard, body)?.map(Done::Posted)),
            Job::Letters(shards) => Ok(Ok(Done::Letters(self.waiting(shards)?))),
            Job::Reply(number, body) => {
                self.reply(*number, body)?;
                Ok(Ok(Done::Replied))
            }
            Job::Answer(number) => Ok(Ok(Done::Answer(self.answer(*number)?))),
            // Answered by what was logged as well.
            Job::Append(_) | Job::Read(_) | Job::Unfinished(_) | Job::List(..) | Job::Headings(_) => {
                Ok(Err(Error::Closed))
            }
        }
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
