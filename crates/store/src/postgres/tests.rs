// SPDX-License-Identifier: Apache-2.0
//! A database for each test of what keeps something in PostgreSQL. `cargo xtask test postgres` starts one.

use super::*;
use sqlx::AssertSqlSafe;

/// The mesh of these tests.
pub(crate) const DOMAIN: &str = "mesh.local";

/// A database of one test's own.
pub(crate) struct Database {
    pub(crate) url: String,
    runtime: Runtime,
}

impl Database {
    pub(crate) fn make(name: &str) -> Self {
        let server = std::env::var("BYRNIE_POSTGRES")
            .expect("BYRNIE_POSTGRES names a database; `cargo xtask test postgres` does");
        let own = Self { url: server.clone(), runtime: runtime().unwrap() };
        own.run(&format!("drop database if exists {name} with (force)"));
        own.run(&format!("create database {name}"));
        Self { url: format!("{}/{name}", server.rsplit_once('/').unwrap().0), ..own }
    }

    pub(crate) fn run(&self, statement: &str) {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        });
    }

    pub(crate) fn count(&self, query: &str) -> i64 {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut connection).await.unwrap()
        })
    }

    /// Asks the server by way of another database.
    pub(crate) fn run_elsewhere(&self, statement: &str) {
        let url = std::env::var("BYRNIE_POSTGRES").unwrap();
        Self { url, runtime: runtime().unwrap() }.run(statement);
    }
}
