// SPDX-License-Identifier: Apache-2.0
//! The statements. An id is bytes, in byte order, as in the file; a number that PostgreSQL can't hold was never written.

use super::super::run::{Done, Job};
use super::CHANNEL;
use crate::log::{Append, Heading, LETTER_LIFE, LETTERS_MAX, Letter, Story};
use crate::store::{Error, Value};
use byrnie_base::{Text, Timestamp};
use byrnie_saga::Term;
use byrnie_saga::shards::{Beat, Board, LEASE, SHARDS, Seat};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};
use std::collections::{HashMap, HashSet};

type Sql<T> = Result<T, sqlx::Error>;

/// Makes the tables if they aren't there; their format, and whose they are.
pub(super) async fn prepare(connection: &mut PgConnection, version: i32, trust_domain: &str) -> Sql<(i32, String)> {
    let there = "select to_regclass('byrnie.meta') is not null";
    if !sqlx::query_scalar::<_, bool>(there).fetch_one(&mut *connection).await? {
        let mut tx = connection.begin().await?;
        // Several may start at the same moment. The number is of the word `byrnie`.
        sqlx::query("select pg_advisory_xact_lock(108171102677349)").execute(&mut *tx).await?;
        if !sqlx::query_scalar::<_, bool>(there).fetch_one(&mut *tx).await? {
            sqlx::raw_sql(include_str!("schema.sql")).execute(&mut *tx).await?;
            let seats = "insert into byrnie.seat (shard) select generate_series(0, $1 - 1)";
            sqlx::query(seats).bind(i32::from(SHARDS)).execute(&mut *tx).await?;
            let meta = "insert into byrnie.meta (version, trust_domain) values ($1, $2)";
            sqlx::query(meta).bind(version).bind(trust_domain).execute(&mut *tx).await?;
        }
        tx.commit().await?;
    }
    sqlx::query_as("select version, trust_domain from byrnie.meta").fetch_one(connection).await
}

/// What is to be added, as columns.
#[derive(Default)]
pub(super) struct Rows {
    shards: Vec<i16>,
    epochs: Vec<i64>,
    ids: Vec<Vec<u8>>,
    after: Vec<i32>,
    counts: Vec<i32>,
    ended: Vec<i64>,
    summaries: Vec<Vec<u8>>,
    entry_ids: Vec<Vec<u8>>,
    numbers: Vec<i32>,
    bodies: Vec<Vec<u8>>,
}

impl Rows {
    /// Adds the entries of one transaction, from its `first` append of these to its `last`.
    pub(super) fn push<'v>(&mut self, first: &Append, last: &Append, entries: impl Iterator<Item = &'v Value>) {
        let id = first.id.as_bytes().to_vec();
        let after = int(first.after);
        let mut count = 0;
        for (number, entry) in (after..).zip(entries) {
            self.entry_ids.push(id.clone());
            self.numbers.push(number);
            self.bodies.push(entry.to_vec());
            count += 1;
        }
        self.shards.push(small(first.term.shard));
        self.epochs.push(long(first.term.epoch));
        self.ids.push(id);
        self.after.push(after);
        self.counts.push(count);
        self.ended.push(last.ended.map_or(0, |ended| long(ended.as_millis())));
        self.summaries.push(last.summary.to_vec());
    }
}

/// The lock of a seat's row keeps others from taking it over until this is committed, and is one that doesn't get in the way
/// of other writes. After a wait for a take-over it shows the new epoch.
const APPEND: &str = "
with fence as materialized (
  select shard, epoch from byrnie.seat where shard = any($1) order by shard for key share),
asked as (
  select a.* from unnest($1::int2[], $2::int8[], $3::bytea[], $4::int4[], $5::int4[], $6::int8[], $7::bytea[])
    as a(shard, epoch, id, after, count, ended, summary)
  join fence f on f.shard = a.shard and f.epoch = a.epoch
  order by a.id),
begun as (
  insert into byrnie.txn as t (id, shard, entries, ended, summary)
  select id, shard, count, ended, summary from asked where after = 0
  on conflict (id) do update set entries = excluded.entries, ended = excluded.ended, summary = excluded.summary
    where t.entries = 0 and t.shard = excluded.shard
  returning t.id),
grown as (
  update byrnie.txn t set entries = t.entries + a.count, ended = a.ended, summary = a.summary
  from asked a where t.id = a.id and a.after > 0 and t.entries = a.after and t.shard = a.shard
  returning t.id),
written as (select id from begun union all select id from grown),
added as (
  insert into byrnie.entry (id, number, body)
  select e.id, e.number, e.body from unnest($8::bytea[], $9::int4[], $10::bytea[]) as e(id, number, body)
  where e.id in (select id from written))
select id, null::int2 as shard, null::int8 as epoch from written
union all select null, shard, epoch from fence";

/// Adds what can be added: the transactions that were written, and the epochs of the shards.
pub(super) async fn append(connection: &mut PgConnection, rows: &Rows) -> Sql<(HashSet<Vec<u8>>, HashMap<u16, u64>)> {
    let query = sqlx::query(APPEND).bind(&rows.shards).bind(&rows.epochs).bind(&rows.ids).bind(&rows.after);
    let query = query.bind(&rows.counts).bind(&rows.ended).bind(&rows.summaries);
    let query = query.bind(&rows.entry_ids).bind(&rows.numbers).bind(&rows.bodies);
    let (mut written, mut epochs) = (HashSet::new(), HashMap::new());
    for row in query.fetch_all(connection).await? {
        if let Some(id) = row.try_get::<Option<Vec<u8>>, _>("id")? {
            written.insert(id);
        } else {
            epochs.insert(shard(row.try_get("shard")?), number(row.try_get("epoch")?));
        }
    }
    Ok((written, epochs))
}

/// Does one job. The outer error is the database's, the inner one a limit of ours.
pub(super) async fn step(connection: &mut PgConnection, job: &Job) -> Sql<Result<Done, Error>> {
    Ok(Ok(match job {
        // These are done together.
        Job::Append(_) => return Ok(Err(Error::Closed)),
        Job::Read(id) => Done::Story(story(connection, id).await?),
        Job::Unfinished(shards) => {
            let query = "select id from byrnie.txn where ended = 0 and shard = any($1) order by id";
            let ids: Vec<Vec<u8>> = sqlx::query_scalar(query).bind(smalls(shards)).fetch_all(connection).await?;
            Done::Ids(ids.iter().map(|id| text(id)).collect())
        }
        Job::List(below, limit) => Done::Headings(list(connection, below.as_deref(), *limit).await?),
        Job::Headings(ids) => {
            let query = "select id, ended, summary from byrnie.txn where id = any($1)";
            let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes()).collect();
            Done::Headings(headings(&sqlx::query(query).bind(ids).fetch_all(connection).await?)?)
        }
        Job::Forget(before, limit) => {
            let query = "
                with old as (select id from byrnie.txn where ended > 0 and ended < $1 order by ended limit $2 for update skip locked),
                gone as (delete from byrnie.entry e using old where e.id = old.id),
                forgotten as (delete from byrnie.txn t using old where t.id = old.id returning t.id)
                select count(*) from forgotten";
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            let query = sqlx::query_scalar(query).bind(long(before.as_millis())).bind(limit);
            let count: i64 = query.fetch_one(connection).await?;
            Done::Forgotten(usize::try_from(count).unwrap_or(0))
        }
        Job::Beat(told) => Done::Board(beat(connection, told).await?),
        Job::Post(shard, body) => {
            let query = "
                with put as (insert into byrnie.letter (shard, body)
                  select $1, $2 where (select count(*) from byrnie.letter) < $3 returning number)
                select number, pg_notify($4, '') is null from put";
            let query = sqlx::query(query).bind(small(*shard)).bind(&body[..]);
            let query = query.bind(i64::try_from(LETTERS_MAX).unwrap_or(i64::MAX)).bind(CHANNEL);
            match query.fetch_optional(connection).await? {
                Some(row) => Done::Posted(number(row.try_get("number")?)),
                None => return Ok(Err(Error::Busy)),
            }
        }
        Job::Letters(shards) => {
            let query =
                "select number, body from byrnie.letter where answer is null and shard = any($1) order by number";
            let rows = sqlx::query(query).bind(smalls(shards)).fetch_all(connection).await?;
            let letter = |row: &PgRow| -> Sql<Letter> {
                Ok(Letter { number: number(row.try_get("number")?), body: row.try_get::<Vec<u8>, _>("body")?.into() })
            };
            Done::Letters(rows.iter().map(letter).collect::<Sql<_>>()?)
        }
        Job::Reply(number, body) => {
            let query = "
                with put as (update byrnie.letter set answer = $2, body = '' where number = $1 returning number)
                select pg_notify($3, '') is null from put";
            sqlx::query(query).bind(long(*number)).bind(&body[..]).bind(CHANNEL).execute(connection).await?;
            Done::Replied
        }
        Job::Answer(number) => {
            let query = "delete from byrnie.letter where number = $1 and answer is not null returning answer";
            let answer: Option<Vec<u8>> =
                sqlx::query_scalar(query).bind(long(*number)).fetch_optional(connection).await?;
            Done::Answer(answer.map(Value::from))
        }
    }))
}

async fn story(connection: &mut PgConnection, id: &str) -> Sql<Story> {
    let query = "
        select t.shard, e.body from byrnie.txn t left join byrnie.entry e on e.id = t.id
        where t.id = $1 order by e.number";
    let mut story = Story::default();
    for row in sqlx::query(query).bind(id.as_bytes()).fetch_all(connection).await? {
        story.shard = shard(row.try_get("shard")?);
        let body: Option<Vec<u8>> = row.try_get("body")?;
        story.entries.extend(body.map(Value::from));
    }
    Ok(story)
}

async fn list(connection: &mut PgConnection, below: Option<&str>, limit: usize) -> Sql<Vec<Heading>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = match below {
        Some(below) => {
            let query = "select id, ended, summary from byrnie.txn where id < $1 order by id desc limit $2";
            sqlx::query(query).bind(below.as_bytes()).bind(limit).fetch_all(connection).await?
        }
        None => {
            let query = "select id, ended, summary from byrnie.txn order by id desc limit $1";
            sqlx::query(query).bind(limit).fetch_all(connection).await?
        }
    };
    headings(&rows)
}

fn headings(rows: &[PgRow]) -> Sql<Vec<Heading>> {
    rows.iter()
        .map(|row| {
            let ended = number(row.try_get("ended")?);
            Ok(Heading {
                id: text(&row.try_get::<Vec<u8>, _>("id")?),
                summary: row.try_get::<Vec<u8>, _>("summary")?.into(),
                ended: Some(ended).filter(|ended| *ended > 0).map(Timestamp::from_millis),
            })
        })
        .collect()
}

/// Beats happen one after the other, as each locks the one row of `meta`; the statements of one see what those before it
/// have committed. Whoever is not a member any more has lost its seats; it is removed by the others alone, so that a late
/// beat either finds it removed, or keeps it.
async fn beat(connection: &mut PgConnection, told: &Beat) -> Sql<Board> {
    let mut tx = connection.begin().await?;
    sqlx::query("select from byrnie.meta for update").execute(&mut *tx).await?;
    let here = "
        insert into byrnie.member (name, until) values ($1, clock_timestamp() + $2 * interval '1 ms')
        on conflict (name) do update set until = excluded.until";
    let lease = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
    sqlx::query(here).bind(&*told.name).bind(lease).execute(&mut *tx).await?;
    sqlx::query("delete from byrnie.member where until < clock_timestamp()").execute(&mut *tx).await?;
    let life = i64::try_from(LETTER_LIFE.as_millis()).unwrap_or(i64::MAX);
    let old = "delete from byrnie.letter where at < clock_timestamp() - $1 * interval '1 ms'";
    sqlx::query(old).bind(life).execute(&mut *tx).await?;
    if !told.give.is_empty() {
        let give = "
            with given as (
              update byrnie.seat s set epoch = s.epoch + 1, owner = ''
              from unnest($1::int2[], $2::int8[]) as g(shard, epoch) where s.shard = g.shard and s.epoch = g.epoch
              returning s.shard)
            select pg_notify($3, '') is null from given limit 1";
        let shards: Vec<i16> = told.give.iter().map(|term| small(term.shard)).collect();
        let epochs: Vec<i64> = told.give.iter().map(|term| long(term.epoch)).collect();
        sqlx::query(give).bind(shards).bind(epochs).bind(CHANNEL).execute(&mut *tx).await?;
    }
    if told.leaves {
        sqlx::query("delete from byrnie.member where name = $1").bind(&*told.name).execute(&mut *tx).await?;
    }
    let mut board = Board::default();
    if !told.take.is_empty() {
        // The lock waits for writes of the epoch before.
        let take = "
            with free as (
              select shard from byrnie.seat s
              where shard = any($1) and (owner = $2 or not exists (select from byrnie.member m where m.name = s.owner))
              order by shard for update)
            update byrnie.seat s set epoch = s.epoch + 1, owner = $2 from free where s.shard = free.shard
            returning s.shard, s.epoch";
        let rows: Vec<(i16, i64)> =
            sqlx::query_as(take).bind(smalls(&told.take)).bind(&*told.name).fetch_all(&mut *tx).await?;
        board.taken = rows.into_iter().map(|(of, epoch)| Term { shard: shard(of), epoch: number(epoch) }).collect();
    }
    let seats = "
        select s.shard, s.epoch, m.name from byrnie.seat s left join byrnie.member m on m.name = s.owner order by s.shard";
    let rows: Vec<(i16, i64, Option<String>)> = sqlx::query_as(seats).fetch_all(&mut *tx).await?;
    let seat = |(of, epoch, owner): (i16, i64, Option<String>)| Seat {
        term: Term { shard: shard(of), epoch: number(epoch) },
        owner: owner.map(Text::from),
    };
    board.seats = rows.into_iter().map(seat).collect();
    let members: Vec<String> = sqlx::query_scalar("select name from byrnie.member").fetch_all(&mut *tx).await?;
    board.members = members.into_iter().map(Text::from).collect();
    tx.commit().await?;
    Ok(board)
}

fn small(shard: u16) -> i16 {
    i16::try_from(shard).unwrap_or(i16::MAX)
}

fn smalls(shards: &[u16]) -> Vec<i16> {
    shards.iter().map(|shard| small(*shard)).collect()
}

fn shard(small: i16) -> u16 {
    u16::try_from(small).unwrap_or(u16::MAX)
}

fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn long(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(long: i64) -> u64 {
    u64::try_from(long).unwrap_or(u64::MAX)
}

/// An id was text when it was written.
fn text(id: &[u8]) -> Text {
    String::from_utf8_lossy(id).into_owned().into()
}
