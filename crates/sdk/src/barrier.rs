// SPDX-License-Identifier: Apache-2.0
//! The barrier of a participant (guarantee G2): a row in the program's own database, written in the same transaction as the
//! business, so that a call which comes again, too late, or before what it takes back, does no harm. The protocol is
//! that of `barrier/README.md`, shared with the libraries for other languages; the idea is dtm's sub-transaction barrier
//! (<https://en.dtm.pub/practice/barrier.html>).
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn charge(pool: sqlx::PgPool, header: impl Fn(&str) -> Option<String>) -> Result<(), byrnie_sdk::barrier::Failure> {
//! use byrnie_sdk::barrier::{self, Call};
//!
//! let call = Call::of(header)?;
//! let answer = barrier::run(&pool, &call, async |tx| {
//!     sqlx::query("update account set balance = balance - 30 where id = 7").execute(&mut **tx).await?;
//!     Ok("{\"receipt\": 1}".to_owned())
//! })
//! .await?;
//! // answer.status and answer.body are the response.
//! # Ok(()) }
//! ```

mod call;
mod database;

pub use call::{BRANCH_BYTES_MAX, Call, Malformed, OP_BYTES_MAX, Op, TXN_BYTES_MAX};
pub use database::Database;
use sqlx::{Pool, Transaction};

/// How often a transaction is run that the database broke off for another's sake.
pub const RUNS_MAX: u32 = 10;

/// The table, once for each database: in PostgreSQL, MySQL, MariaDB and SQLite alike.
pub const TABLE: &str = "create table if not exists mesh_barrier (\
    txn varchar(160) not null, branch varchar(64) not null, op varchar(16) not null, \
    by_op varchar(16) not null, response text, primary key (txn, branch, op))";

/// What the program answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// What the business answered, now or the first time.
    pub body: String,
    /// Whether the business ran now.
    pub ran: bool,
}

impl Answer {
    const fn bare(status: u16) -> Self {
        Self { status, body: String::new(), ran: false }
    }
}

/// Why there is no answer. Nothing was done then.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The call can't be told from others: 400.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The business says no, for good: its status, 400 to 499, and body.
    #[error("refused with {0}: {1}")]
    Refused(u16, String),
    /// The database failed: 500; the call comes again.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Failure {
    /// The status that says it.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Refused(status, _) => *status,
            Self::Database(_) => 500,
        }
    }
}

/// Answers a call: runs `business` in a transaction if this is the first time and it isn't too late, and keeps what it
/// answered. Another's transaction on the same rows makes the database break this one off; it is then run again, up to
/// [`RUNS_MAX`] times, so `business` must touch nothing but its transaction.
///
/// # Errors
/// What `business` returns, or the database. The barrier's row is rolled back with the business, so that the call may come
/// again.
pub async fn run<DB: Database>(
    pool: &Pool<DB>,
    call: &Call,
    mut business: impl AsyncFnMut(&mut Transaction<'static, DB>) -> Result<String, Failure>,
) -> Result<Answer, Failure> {
    let mut runs = 0;
    loop {
        runs += 1;
        match once(pool, call, &mut business).await {
            Err(Failure::Database(error)) if runs < RUNS_MAX && DB::is_conflict(&error) => {}
            ended => return ended,
        }
    }
}

async fn once<DB: Database>(
    pool: &Pool<DB>,
    call: &Call,
    business: &mut impl AsyncFnMut(&mut Transaction<'static, DB>) -> Result<String, Failure>,
) -> Result<Answer, Failure> {
    let mut tx = DB::begin(pool).await?;
    let answer = match enter(&mut tx, call).await? {
        Entry::First => {
            let body = business(&mut tx).await?;
            DB::keep(&mut tx, call, &body).await?;
            Answer { status: 200, body, ran: true }
        }
        Entry::Again(body) => Answer { body, ..Answer::bare(200) },
        Entry::Nothing => Answer::bare(200),
        Entry::Late => Answer::bare(409),
    };
    tx.commit().await?;
    Ok(answer)
}

enum Entry {
    First,
    Again(String),
    /// There is nothing to take back.
    Nothing,
    /// It was taken back already, or its creator gave it up.
    Late,
}

async fn enter<DB: Database>(tx: &mut Transaction<'static, DB>, call: &Call) -> Result<Entry, sqlx::Error> {
    if call.op == Op::Check {
        DB::insert(tx, &call.txn, "00", "msg", "rollback").await?;
        let (by, _) = DB::found(tx, &call.txn, "00", "msg").await?;
        return Ok(if by == "rollback" { Entry::Late } else { Entry::Nothing });
    }
    let op = call.op.name();
    if let Some(undone) = call.op.undoes()
        && DB::insert(tx, &call.txn, &call.branch, undone, op).await?
    {
        return Ok(Entry::Nothing);
    }
    if DB::insert(tx, &call.txn, &call.branch, op, op).await? {
        return Ok(Entry::First);
    }
    let (by, response) = DB::found(tx, &call.txn, &call.branch, op).await?;
    Ok(if by == op { Entry::Again(response) } else { Entry::Late })
}

/// Marks, in the transaction in which the creator of a prepared message does its own part, that the message counts; false
/// means that it was asked about before and given up: roll back.
///
/// # Errors
/// If the database fails, or the id is longer than [`TXN_BYTES_MAX`].
pub async fn message<DB: Database>(tx: &mut Transaction<'static, DB>, id: &str) -> Result<bool, Failure> {
    call::fits("Txn-Id", id, TXN_BYTES_MAX)?;
    DB::insert(tx, id, "00", "msg", "msg").await?;
    Ok(DB::found(tx, id, "00", "msg").await?.0 == "msg")
}
