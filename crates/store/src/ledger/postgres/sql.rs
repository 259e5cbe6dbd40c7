// SPDX-License-Identifier: Apache-2.0
//! The statements. What is counted is counted last, so that who counts in the same row never waits for a key meanwhile.

use super::super::run::{Done, Job, full, key_of, size_of};
use super::link::{Outcome, Placed};
use super::{PARTS, VERSION};
use crate::ledger::{BYTES_MAX, KEYS_MAX, NEIGHBOUR_LIFE, NEIGHBOURS_MAX, Neighbour};
use crate::postgres::{OpenError, unusable};
use byrnie_base::Timestamp;
use byrnie_saga::ledger::{self, Begun, Change, Claim, Ending, Entry, Fingerprint, State};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

type Sql<T> = Result<T, sqlx::Error>;

/// The row in which a control plane counts.
#[derive(Clone, Copy)]
pub(super) struct Part(i16);

impl Part {
    /// One that control planes of the same database are unlikely to share.
    pub(super) fn own() -> Self {
        Self(i16::try_from(std::process::id() % PARTS).unwrap_or_default())
    }
}

const UNDER_WAY: i16 = 1;
const DONE: i16 = 2;
const AMBIGUOUS: i16 = 3;
const UNDER_WAY_AGAIN: i16 = 4;

/// A plan that was made while the table was small is kept while it grows: keys are always to be found by their index.
const BY_INDEX: &str = "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off";

/// Makes the tables if they aren't there.
pub(super) async fn prepare(connection: &mut PgConnection) -> Result<(), OpenError> {
    sqlx::raw_sql(BY_INDEX).execute(&mut *connection).await.map_err(unusable)?;
    let found = version(connection).await.map_err(unusable)?;
    if found > VERSION { Err(OpenError::Newer { found, known: VERSION }) } else { Ok(()) }
}

async fn version(connection: &mut PgConnection) -> Sql<i32> {
    let there = "select to_regclass('byrnie.ledger_meta') is not null";
    if !sqlx::query_scalar::<_, bool>(there).fetch_one(&mut *connection).await? {
        let mut tx = connection.begin().await?;
        // Several may start at the same moment; `meta` is the journal's, and there.
        sqlx::query("select from byrnie.meta for update").execute(&mut *tx).await?;
        if !sqlx::query_scalar::<_, bool>(there).fetch_one(&mut *tx).await? {
            sqlx::raw_sql(include_str!("schema.sql")).execute(&mut *tx).await?;
            let parts = "insert into byrnie.ledger_part (part) select generate_series(0, $1 - 1)";
            sqlx::query(parts).bind(i32::try_from(PARTS).unwrap_or(1)).execute(&mut *tx).await?;
        }
        tx.commit().await?;
    }
    sqlx::query_scalar("select version from byrnie.ledger_meta").fetch_one(connection).await
}

/// Entries as columns.
#[derive(Default)]
struct Rows {
    names: Vec<Vec<u8>>,
    fingerprints: Vec<Vec<u8>>,
    claims: Vec<i64>,
    states: Vec<i16>,
    lapses: Vec<i64>,
    kept: Vec<Vec<u8>>,
    expires: Vec<i64>,
}

impl Rows {
    fn push(&mut self, name: Vec<u8>, entry: &Entry) {
        let (state, lapses, kept) = match &entry.state {
            State::InFlight { lapses, again: false } => (UNDER_WAY, *lapses, Vec::new()),
            State::InFlight { lapses, again: true } => (UNDER_WAY_AGAIN, *lapses, Vec::new()),
            State::Done(kept) => (DONE, Timestamp::from_millis(0), kept.to_vec()),
            State::Ambiguous => (AMBIGUOUS, Timestamp::from_millis(0), Vec::new()),
        };
        self.names.push(name);
        self.fingerprints.push(entry.fingerprint.0.to_vec());
        self.claims.push(entry.claim.0.cast_signed());
        self.states.push(state);
        self.lapses.push(millis(lapses));
        self.kept.push(kept);
        self.expires.push(millis(entry.expires));
    }
}

/// Jobs to be tried together without a look: times are from now on.
pub(super) struct Plain {
    begun: Rows,
    ended: Rows,
}

impl Plain {
    pub(super) fn of(jobs: &[Placed<'_>]) -> Self {
        let mut plain = Self { begun: Rows::default(), ended: Rows::default() };
        let never = Timestamp::from_millis(0);
        for (_, job) in jobs {
            match job {
                Job::Begin(name, ask) => {
                    if let (_, Change::Put(entry)) = ledger::begin(None, ask, never) {
                        plain.begun.push(key_of(name), &entry);
                    }
                }
                Job::Finish(name, claim, ending) => {
                    let state = match ending {
                        Ending::Done(kept) => State::Done(kept.clone()),
                        Ending::Ambiguous => State::Ambiguous,
                        Ending::Unsent => continue,
                    };
                    let entry = Entry { fingerprint: Fingerprint([0; 32]), claim: *claim, state, expires: never };
                    plain.ended.push(key_of(name), &entry);
                }
                Job::Read(_) | Job::Sweep | Job::Meet(_) => {}
            }
        }
        plain
    }
}

/// What is remembered of a key counts for so much; see `size_of`.
macro_rules! size {
    () => {
        "octet_length(k.name) * 2 + 57 + octet_length(k.kept)"
    };
}

/// A key that nobody remembers is granted; an execution under way that still holds its key ends. Anything else is left. The
/// `+ 0` keeps the index of `expires` out of it: of an empty table, by which plans are made, all that hasn't expired looks like
/// less than one name, and that would be read for every group.
const PLAIN: &str = concat!(
    "
with t as materialized (select byrnie.ledger_now() as now),
room as materialized (select sum(keys) < $12 and sum(bytes) < $13 as yes from byrnie.ledger_part),
granted as (
  insert into byrnie.ledger_key as k (name, fingerprint, claim, state, lapses, kept, expires)
  select b.name, b.fingerprint, b.claim, b.state, t.now + b.lapses, '', t.now + b.expires
  from unnest($1::bytea[], $2::bytea[], $3::int8[], $4::int2[], $5::int8[], $6::int8[])
    as b(name, fingerprint, claim, state, lapses, expires), t, room
  where room.yes order by b.name
  on conflict (name) do nothing
  returning k.name, ",
    size!(),
    " as size),
ended as (
  update byrnie.ledger_key k set state = e.state, kept = e.kept
  from unnest($7::bytea[], $8::int8[], $9::int2[], $10::bytea[]) as e(name, claim, state, kept), t
  where k.name = e.name and k.claim = e.claim and k.state in (1, 4) and k.expires + 0 > t.now
  returning k.name, octet_length(k.kept) as more),
counted as (
  update byrnie.ledger_part
  set keys = keys + (select count(*) from granted),
    bytes = bytes + (select coalesce(sum(size), 0) from granted) + (select coalesce(sum(more), 0) from ended)
  where part = $11 and ((select count(*) from granted) > 0 or (select count(*) from ended) > 0))
select name from granted union all select name from ended"
);

/// Tries it: the names of those that were done.
pub(super) async fn write_plain(
    connection: &mut PgConnection,
    Part(part): Part,
    plain: &Plain,
) -> Sql<HashSet<Vec<u8>>> {
    let Plain { begun, ended } = plain;
    let query = sqlx::query_scalar(PLAIN).bind(&begun.names).bind(&begun.fingerprints).bind(&begun.claims);
    let query = query.bind(&begun.states).bind(&begun.lapses).bind(&begun.expires);
    let query = query.bind(&ended.names).bind(&ended.claims).bind(&ended.states).bind(&ended.kept);
    let query = query.bind(part).bind(long(KEYS_MAX)).bind(long(BYTES_MAX));
    Ok(query.fetch_all(connection).await?.into_iter().collect())
}

/// What the rules make of jobs that change nothing, such as repetitions, without a lock or a commit. What others have committed
/// is durable. Jobs of a key of which one changes something are left, and so is whatever the time since may have changed.
pub(super) async fn look(connection: &mut PgConnection, jobs: &[Placed<'_>]) -> Sql<Vec<Outcome>> {
    const LOOK: &str = "
        select name, fingerprint, claim, state, lapses, kept, expires, byrnie.ledger_now() as now from byrnie.ledger_key
        where name = any($1)";
    let mut found = HashMap::new();
    for row in sqlx::query(LOOK).bind(names_of(jobs)).fetch_all(connection).await? {
        let ((name, entry), now) = (read(&row)?, timestamp(row.try_get("now")?));
        if !entry.is_over(now) && entry.standing(now) == entry.state {
            found.insert(name, (entry, now));
        }
    }
    let mut outcomes = Vec::with_capacity(jobs.len());
    for (at, job) in jobs {
        let Some(name) = job.name().map(key_of) else { continue };
        let Some((entry, now)) = found.get(&name) else { continue };
        match job.decide(Some(entry), *now) {
            // One that is granted again is subject to limits.
            (done, Change::None) if !matches!(done, Done::Begun(Begun::Granted { .. })) => {
                outcomes.push((name, (*at, Ok(done))));
            }
            _ => drop(found.remove(&name)),
        }
    }
    outcomes.retain(|(name, _)| found.contains_key(name));
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// The keys that jobs are about, in order, each once.
fn names_of(jobs: &[Placed<'_>]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = jobs.iter().filter_map(|(_, job)| job.name()).map(key_of).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What the rules make of each job, with the keys locked. `None` if somebody else began one of them meanwhile.
pub(super) async fn decide(
    connection: &mut PgConnection,
    part: Part,
    jobs: &[Placed<'_>],
) -> Sql<Option<Vec<Outcome>>> {
    let mut tx = connection.begin().await?;
    let names = names_of(jobs);
    let found = "
        select name, fingerprint, claim, state, lapses, kept, expires from byrnie.ledger_key
        where name = any($1) order by name for update";
    let found = sqlx::query(found).bind(&names).fetch_all(&mut *tx).await?;
    let before = found.iter().map(read).collect::<Sql<BTreeMap<Vec<u8>, Entry>>>()?;
    // The time after the locks, which may have been waited for.
    let (now, mut keys, mut bytes) = standing(&mut tx).await?;
    let mut after = before.clone();
    let mut outcomes = Vec::with_capacity(jobs.len());
    for (at, job) in jobs {
        let Some(name) = job.name().map(key_of) else { continue };
        let entry = after.get(&name);
        let (done, change) = job.decide(entry, now);
        if matches!(done, Done::Begun(Begun::Granted { .. }))
            && let Some(full) = full(keys, bytes)
        {
            outcomes.push((*at, Err(full)));
            continue;
        }
        outcomes.push((*at, Ok(done)));
        match change {
            Change::None => {}
            Change::Put(entry) => {
                (keys, bytes) = (keys + u64::from(!after.contains_key(&name)), bytes + size_of(&name, &entry));
                after.insert(name, entry);
            }
            Change::Remove => drop(after.remove(&name)),
        }
    }
    let mut changes = Changes::default();
    for name in names {
        match (before.get(&name), after.remove(&name)) {
            (None, Some(entry)) => changes.new.push(name, &entry),
            (Some(old), Some(entry)) if *old != entry => {
                changes.bytes += long(size_of(&name, &entry)) - long(size_of(&name, old));
                changes.changed.push(name, &entry);
            }
            (Some(old), None) => {
                changes.bytes -= long(size_of(&name, old));
                changes.gone.push(name);
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
    if write(&mut tx, part, &changes).await? < changes.new.names.len() {
        tx.rollback().await?;
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(outcomes))
}

/// The time, and how many keys and bytes there are.
async fn standing(connection: &mut PgConnection) -> Sql<(Timestamp, u64, u64)> {
    let query = "select byrnie.ledger_now(), sum(keys)::int8, sum(bytes)::int8 from byrnie.ledger_part";
    let (now, keys, bytes): (i64, i64, i64) = sqlx::query_as(query).fetch_one(connection).await?;
    let number = |long| u64::try_from(long).unwrap_or_default();
    Ok((Timestamp::from_millis(number(now)), number(keys), number(bytes)))
}

/// What is to be written.
#[derive(Default)]
struct Changes {
    new: Rows,
    changed: Rows,
    gone: Vec<Vec<u8>>,
    /// By how much the changed and the gone make it larger.
    bytes: i64,
}

const WRITE: &str = concat!(
    "
with put as (
  insert into byrnie.ledger_key as k (name, fingerprint, claim, state, lapses, kept, expires)
  select * from unnest($1::bytea[], $2::bytea[], $3::int8[], $4::int2[], $5::int8[], $6::bytea[], $7::int8[]) as n(name)
  order by n.name
  on conflict (name) do nothing
  returning ",
    size!(),
    " as size),
changed as (
  update byrnie.ledger_key k
  set fingerprint = c.fingerprint, claim = c.claim, state = c.state, lapses = c.lapses, kept = c.kept, expires = c.expires
  from unnest($8::bytea[], $9::bytea[], $10::int8[], $11::int2[], $12::int8[], $13::bytea[], $14::int8[])
    as c(name, fingerprint, claim, state, lapses, kept, expires)
  where k.name = c.name),
gone as (delete from byrnie.ledger_key where name = any($15)),
counted as (
  update byrnie.ledger_part
  set keys = keys + (select count(*) from put) - cardinality($15::bytea[]),
    bytes = bytes + (select coalesce(sum(size), 0) from put) + $16
  where part = $17)
select count(*) from put"
);

/// Writes it: how many of the new ones weren't there.
async fn write(connection: &mut PgConnection, Part(part): Part, changes: &Changes) -> Sql<usize> {
    let Changes { new, changed, gone, bytes } = changes;
    if new.names.is_empty() && changed.names.is_empty() && gone.is_empty() {
        return Ok(0);
    }
    let mut query = sqlx::query_scalar(WRITE);
    for rows in [new, changed] {
        query = query.bind(&rows.names).bind(&rows.fingerprints).bind(&rows.claims).bind(&rows.states);
        query = query.bind(&rows.lapses).bind(&rows.kept).bind(&rows.expires);
    }
    let put: i64 = query.bind(gone).bind(bytes).bind(part).fetch_one(connection).await?;
    Ok(usize::try_from(put).unwrap_or_default())
}

/// Takes in entries by whose clock it is `now`: how many of them weren't there.
pub(super) async fn adopt(
    connection: &mut PgConnection,
    part: Part,
    entries: &[(Vec<u8>, Entry)],
    now: Timestamp,
) -> Sql<usize> {
    let (own, ..) = standing(connection).await?;
    let at = |time: Timestamp| own + Duration::from_millis(time.as_millis().saturating_sub(now.as_millis()));
    let mut changes = Changes::default();
    for (name, entry) in entries {
        let state = match &entry.state {
            State::InFlight { lapses, again } => State::InFlight { lapses: at(*lapses), again: *again },
            other => other.clone(),
        };
        changes.new.push(name.clone(), &Entry { state, expires: at(entry.expires), ..entry.clone() });
    }
    write(connection, part, &changes).await
}

/// Forgets what is over, oldest first. What another control plane is about to forget is left to it.
pub(super) async fn sweep(connection: &mut PgConnection, Part(part): Part, limit: usize) -> Sql<usize> {
    const SWEEP: &str = concat!(
        "
        with old as (
          select name from byrnie.ledger_key where expires <= (select byrnie.ledger_now())
          order by expires limit $1 for update skip locked),
        gone as (delete from byrnie.ledger_key k using old where k.name = old.name returning ",
        size!(),
        " as size),
        counted as (
          update byrnie.ledger_part
          set keys = keys - (select count(*) from gone), bytes = bytes - (select coalesce(sum(size), 0) from gone)
          where part = $2 and (select count(*) from gone) > 0)
        select count(*) from gone"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let swept: i64 = sqlx::query_scalar(SWEEP).bind(limit).bind(part).fetch_one(connection).await?;
    Ok(usize::try_from(swept).unwrap_or_default())
}

/// Tells of oneself, and names the others.
pub(super) async fn meet(connection: &mut PgConnection, own: &Neighbour) -> Sql<Vec<Neighbour>> {
    let told = "
        with old as (
          delete from byrnie.ledger_keeper where seen < clock_timestamp() - $3 * interval '1 ms' and id <> md5($2))
        insert into byrnie.ledger_keeper (id, address, roots) values (md5($2), $1, $2)
        on conflict (id) do update set address = excluded.address, seen = clock_timestamp()";
    let life = i64::try_from(NEIGHBOUR_LIFE.as_millis()).unwrap_or(i64::MAX);
    sqlx::query(told).bind(&*own.address).bind(&*own.roots).bind(life).execute(&mut *connection).await?;
    let others = "select address, roots from byrnie.ledger_keeper where id <> md5($1) order by seen desc limit $2";
    let limit = i64::try_from(NEIGHBOURS_MAX).unwrap_or(i64::MAX);
    let others: Vec<(String, String)> =
        sqlx::query_as(others).bind(&*own.roots).bind(limit).fetch_all(connection).await?;
    Ok(others.into_iter().map(|(address, roots)| Neighbour { address: address.into(), roots: roots.into() }).collect())
}

fn read(row: &PgRow) -> Sql<(Vec<u8>, Entry)> {
    let strange = || sqlx::Error::Decode("an entry of the ledger that this program can't have written".into());
    let fingerprint: Vec<u8> = row.try_get("fingerprint")?;
    let lapses = timestamp(row.try_get("lapses")?);
    let state = match row.try_get("state")? {
        UNDER_WAY => State::InFlight { lapses, again: false },
        UNDER_WAY_AGAIN => State::InFlight { lapses, again: true },
        DONE => State::Done(row.try_get::<Vec<u8>, _>("kept")?.into()),
        AMBIGUOUS => State::Ambiguous,
        _ => return Err(strange()),
    };
    let entry = Entry {
        fingerprint: Fingerprint(fingerprint.try_into().map_err(|_| strange())?),
        claim: Claim(row.try_get::<i64, _>("claim")?.cast_unsigned()),
        state,
        expires: timestamp(row.try_get("expires")?),
    };
    Ok((row.try_get("name")?, entry))
}

fn timestamp(long: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(long).unwrap_or_default())
}

fn millis(time: Timestamp) -> i64 {
    long(time.as_millis())
}

fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
