// SPDX-License-Identifier: Apache-2.0
//! The barrier of a participant (guarantee G2): a row in the program's own database, written in the same transaction as the
//! business, so that a call which comes again, too late, or before what it takes back, does no harm. The protocol is
//! that of `barrier/README.md`, shared with the libraries for other languages, and the table is that of `barrier/schema`; the idea is dtm's sub-transaction barrier
//! (<https://en.dtm.pub/practice/barrier.html>).
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn charge(pool: sqlx::PgPool, headers: Vec<(String, String)>) -> Result<(), Box<dyn std::error::Error>> {
//! use byrnie_sdk::barrier::{self, Answer, Call};
//!
//! let call = Call::of(headers)?; // an error of this is the caller's: 400
//! let answer = barrier::run(&pool, &call, async |tx| {
//!     let sql = "update account set balance = balance - 30 where id = 7 and balance >= 30";
//!     let paid = sqlx::query(sql).execute(&mut **tx).await?.rows_affected() == 1;
//!     Ok::<_, sqlx::Error>(if paid { Answer::new(201, "paid") } else { Answer::new(409, "not enough") })
//! })
//! .await?;
//! // `answer` is the response.
//! # drop(answer); Ok(()) }
//! ```

mod call;
mod database;

pub use call::{BRANCH_BYTES_MAX, Call, Malformed, MessageId, OP_BYTES_MAX, Op, TXN_BYTES_MAX};
pub use database::Database;
use sqlx::{Pool, Transaction};

/// How often a transaction is run that the database broke off for another's sake.
pub const RUNS_MAX: u32 = 10;

/// What the program answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// Text without U+0000, which PostgreSQL doesn't keep.
    pub body: String,
}

impl Answer {
    /// An answer of these.
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, body: body.into() }
    }

    /// As it stands in the table.
    fn kept(&self) -> String {
        format!("{} {}", self.status, self.body)
    }

    fn of(kept: &str) -> Result<Self, sqlx::Error> {
        let read = kept.split_once(' ').and_then(|(status, body)| Some(Self::new(status.parse().ok()?, body)));
        read.ok_or_else(|| sqlx::Error::Decode(format!("mesh_barrier.response is {kept:?}").into()))
    }
}

/// Lets `business` run in a transaction if the call hasn't taken effect before, and gives what is to be answered.
///
/// An answer of `business` of 400 and above is a no: the transaction is rolled back, the barrier's row with it, and the
/// answer passes on. Any other is kept and given again to a repetition. Where the database breaks a transaction off for the
/// sake of another, it is run again, up to [`RUNS_MAX`] times: `business` must touch nothing but its transaction. A call for
/// `check` doesn't run it.
///
/// # Errors
/// What `business` returns, or the database. Nothing was done then, and the call may come again.
pub async fn run<DB: Database, E: Conflict>(
    pool: &Pool<DB>,
    call: &Call,
    mut business: impl AsyncFnMut(&mut Transaction<'static, DB>) -> Result<Answer, E>,
) -> Result<Answer, E> {
    let mut runs = 0;
    loop {
        runs += 1;
        match once(pool, call, &mut business).await {
            Err(error) if runs < RUNS_MAX && error.database().is_some_and(DB::is_conflict) => {}
            ended => return ended,
        }
    }
}

/// An error of a business, which may be one of the database.
pub trait Conflict: From<sqlx::Error> {
    /// The database's own, if it's one.
    fn database(&self) -> Option<&sqlx::Error>;
}

impl Conflict for sqlx::Error {
    fn database(&self) -> Option<&sqlx::Error> {
        Some(self)
    }
}

async fn once<DB: Database, E: Conflict>(
    pool: &Pool<DB>,
    call: &Call,
    business: &mut impl AsyncFnMut(&mut Transaction<'static, DB>) -> Result<Answer, E>,
) -> Result<Answer, E> {
    let mut tx = DB::begin(pool).await?;
    let Some(answer) = enter(&mut tx, call).await? else {
        let answer = business(&mut tx).await?;
        if answer.status >= 400 {
            tx.rollback().await?;
            return Ok(answer);
        }
        // Kept for every operation: where the business has hidden an error of the database, this fails.
        DB::keep(&mut tx, call, &answer.kept()).await?;
        tx.commit().await?;
        return Ok(answer);
    };
    tx.commit().await?;
    Ok(answer)
}

/// What is answered without the business; `None` if it's to run.
async fn enter<DB: Database>(tx: &mut Transaction<'static, DB>, call: &Call) -> Result<Option<Answer>, sqlx::Error> {
    let (txn, branch, op) = (call.txn.as_str(), call.branch.as_str(), call.op.row());
    if call.op == Op::Check {
        let sent =
            !DB::insert(tx, txn, "00", "msg", "rollback").await? && DB::found(tx, txn, "00", "msg").await?.0 == "msg";
        return Ok(Some(if sent { Answer::new(200, "") } else { Answer::new(409, "the message was never sent") }));
    }
    if let Some(undone) = call.op.undoes() {
        // Whoever takes back what never came holds its place, so that it comes too late. A repetition finds its own row.
        if DB::insert(tx, txn, branch, undone, op).await? || DB::found(tx, txn, branch, undone).await?.0 == op {
            return Ok(Some(Answer::new(200, "")));
        }
    }
    if DB::insert(tx, txn, branch, op, op).await? {
        return Ok(None);
    }
    if !matches!(call.op, Op::Action | Op::Try) {
        return Ok(Some(Answer::new(200, "")));
    }
    let (by, response) = DB::found(tx, txn, branch, op).await?;
    let late = || Ok(Answer::new(409, format!("too late: {by} came first")));
    if by == op { Answer::of(&response) } else { late() }.map(Some)
}

/// What a message's creator finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// It counts from the commit of this transaction on.
    Made,
    /// An earlier transaction has made it, and the creator's own part with it: roll back.
    Exists,
    /// Its check came first, and it is given up: roll back.
    GivenUp,
}

/// Says, in the transaction in which the creator of a prepared message does its own part, that the message is made.
///
/// # Errors
/// If the database fails.
pub async fn message<DB: Database>(tx: &mut Transaction<'static, DB>, id: &MessageId) -> Result<Message, sqlx::Error> {
    if DB::insert(tx, &id.0, "00", "msg", "msg").await? {
        return Ok(Message::Made);
    }
    let made = DB::found(tx, &id.0, "00", "msg").await?.0 == "msg";
    Ok(if made { Message::Exists } else { Message::GivenUp })
}
