// SPDX-License-Identifier: Apache-2.0
//! The statements of the barrier, in each database's own words.

use super::Call;
use sqlx::{Error, Pool, Transaction};
use std::future::Future;

/// A database that can hold the barrier: `sqlx::Postgres`, `sqlx::MySql` and `sqlx::Sqlite`, by the features of their names.
pub trait Database: sqlx::Database + sealed::Sealed {
    /// Begins a transaction in which an insert waits for whoever holds the same row.
    #[doc(hidden)]
    fn begin(pool: &Pool<Self>) -> impl Future<Output = Result<Transaction<'static, Self>, Error>> + Send;

    /// Whether the row wasn't there.
    #[doc(hidden)]
    fn insert(
        tx: &mut Transaction<'static, Self>,
        txn: &str,
        branch: &str,
        op: &str,
        by: &str,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Who wrote the row, and what was answered.
    #[doc(hidden)]
    fn found(
        tx: &mut Transaction<'static, Self>,
        txn: &str,
        branch: &str,
        op: &str,
    ) -> impl Future<Output = Result<(String, String), Error>> + Send;

    /// Keeps the answer.
    #[doc(hidden)]
    fn keep(
        tx: &mut Transaction<'static, Self>,
        call: &Call,
        response: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Whether the transaction was broken off for the sake of another.
    #[doc(hidden)]
    fn is_conflict(error: &Error) -> bool;
}

mod sealed {
    pub trait Sealed {}
}

/// `$begin`, how an insert meets a row that is there, a locking read, parameters, and the codes of conflicts.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
macro_rules! database {
    ($db:ty, $begin:literal, $insert:literal, $select:literal, $update:literal, $conflicts:expr) => {
        impl sealed::Sealed for $db {}
        impl Database for $db {
            async fn begin(pool: &Pool<Self>) -> Result<Transaction<'static, Self>, Error> {
                pool.begin_with($begin).await
            }

            async fn insert(
                tx: &mut Transaction<'static, Self>,
                txn: &str,
                branch: &str,
                op: &str,
                by: &str,
            ) -> Result<bool, Error> {
                let insert = sqlx::query($insert).bind(txn).bind(branch).bind(op).bind(by);
                Ok(insert.execute(&mut **tx).await?.rows_affected() == 1)
            }

            async fn found(
                tx: &mut Transaction<'static, Self>,
                txn: &str,
                branch: &str,
                op: &str,
            ) -> Result<(String, String), Error> {
                let select = sqlx::query_as::<_, (String, Option<String>)>($select).bind(txn).bind(branch).bind(op);
                let (by, response) = select.fetch_one(&mut **tx).await?;
                Ok((by, response.unwrap_or_default()))
            }

            async fn keep(tx: &mut Transaction<'static, Self>, call: &Call, response: &str) -> Result<(), Error> {
                let update = sqlx::query($update)
                    .bind(response)
                    .bind(call.txn.as_str())
                    .bind(call.branch.as_str())
                    .bind(call.op.row());
                update.execute(&mut **tx).await.map(drop)
            }

            fn is_conflict(error: &Error) -> bool {
                let code = error.as_database_error().and_then(|error| error.code());
                code.is_some_and(|code| $conflicts.contains(&&*code))
            }
        }
    };
}

// Serialization failure and deadlock.
#[cfg(feature = "postgres")]
database!(
    sqlx::Postgres,
    "begin",
    "insert into mesh_barrier (txn, branch, op, by_op) values ($1, $2, $3, $4) on conflict do nothing",
    "select by_op, response from mesh_barrier where txn = $1 and branch = $2 and op = $3",
    "update mesh_barrier set response = $1 where txn = $2 and branch = $3 and op = $4",
    ["40001", "40P01"]
);

// A deadlock. The read takes a lock because a plain one shows the state of the transaction's first read.
#[cfg(feature = "mysql")]
database!(
    sqlx::MySql,
    "start transaction",
    "insert ignore into mesh_barrier (txn, branch, op, by_op) values (?, ?, ?, ?)",
    "select by_op, response from mesh_barrier where txn = ? and branch = ? and op = ? for update",
    "update mesh_barrier set response = ? where txn = ? and branch = ? and op = ?",
    ["40001"]
);

// SQLITE_BUSY and SQLITE_BUSY_SNAPSHOT, past the connection's own patience.
#[cfg(feature = "sqlite")]
database!(
    sqlx::Sqlite,
    "begin immediate",
    "insert or ignore into mesh_barrier (txn, branch, op, by_op) values (?, ?, ?, ?)",
    "select by_op, response from mesh_barrier where txn = ? and branch = ? and op = ?",
    "update mesh_barrier set response = ? where txn = ? and branch = ? and op = ?",
    ["5", "517"]
);
