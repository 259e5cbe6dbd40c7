// SPDX-License-Identifier: Apache-2.0
//! The barrier by the suite that it shares with the libraries for other languages (`barrier/cases.json`): on SQLite, and on
//! the databases that `BARRIER_POSTGRES` and `BARRIER_MYSQL` name, as `cargo xtask test barrier` sets them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use byrnie_sdk::barrier::{self, Answer, Call, Conflict, Database, Message, MessageId};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Pool};
use std::cell::Cell;
use std::rc::Rc;

/// A business fails.
#[derive(Debug)]
enum Boom {
    Own,
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Boom {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Conflict for Boom {
    fn database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) => Some(error),
            Self::Own => None,
        }
    }
}

fn add(step: &Value) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("update account set balance = balance + ({}) where id = 1", step["add"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn answered(answer: &Value) -> Answer {
    Answer::new(u16::try_from(answer["status"].as_u64().unwrap()).unwrap(), text(&answer["body"]))
}

/// The suite on one database: its name in the cases, its type, what makes it break a transaction off.
macro_rules! suite {
    ($name:ident, $db:ty, $schema:literal, $columns:literal, $lost:literal) => {
        mod $name {
            use super::*;

            async fn call(pool: Pool<$db>, step: Value, ran: Rc<Cell<u64>>) -> Value {
                let headers = step["headers"].as_object().unwrap();
                let call = match Call::of(headers.iter().map(|(name, value)| (name, text(value)))) {
                    Ok(call) => call,
                    Err(why) => return json!({"status": 400, "body": why.to_string()}),
                };
                let plan = &step["business"];
                let business = async |tx: &mut sqlx::Transaction<'static, $db>| {
                    ran.set(ran.get() + 1);
                    sqlx::query(add(plan)).execute(&mut **tx).await?;
                    if plan["conflicts"].as_u64().unwrap_or(0) >= ran.get() {
                        return Err(sqlx::raw_sql($lost).execute(&mut **tx).await.unwrap_err().into());
                    }
                    if plan["raises"] == true {
                        return Err(Boom::Own);
                    }
                    if plan["swallows"] == true {
                        let hidden = sqlx::query("select * from there_is_no_such_table").execute(&mut **tx).await;
                        assert!(hidden.is_err());
                        return Ok(Answer::new(200, ""));
                    }
                    Ok(answered(if plan["rejects"].is_null() { plan } else { &plan["rejects"] }))
                };
                match barrier::run(&pool, &call, business).await {
                    Ok(answer) => json!({"status": answer.status, "body": answer.body}),
                    Err(error) => json!({"raises": true, "error": format!("{error:?}")}),
                }
            }

            /// The creator of a message: its own change and the message, in one transaction.
            async fn make(pool: &Pool<$db>, step: &Value) -> Value {
                let id = match MessageId::new(text(&step["message"])) {
                    Ok(id) => id,
                    Err(why) => return json!({"status": 400, "body": why.to_string()}),
                };
                let mut tx = <$db as Database>::begin(pool).await.unwrap();
                sqlx::query(add(step)).execute(&mut *tx).await.unwrap();
                match barrier::message(&mut tx, &id).await.unwrap() {
                    Message::Made => {
                        tx.commit().await.unwrap();
                        json!({"status": 200})
                    }
                    Message::Exists | Message::GivenUp => json!({"status": 409}),
                }
            }

            async fn run(pool: &Pool<$db>, case: &Value) {
                let tables = include_str!(concat!("../../../barrier/schema/", $schema, ".sql"));
                let statements = [
                    "drop table if exists mesh_barrier",
                    "drop table if exists account",
                    tables,
                    "create table account (id int primary key, balance int not null)",
                    "insert into account values (1, 100)",
                ];
                for statement in statements {
                    sqlx::query(statement).execute(pool).await.unwrap();
                }
                for (at, step) in case["steps"].as_array().unwrap().iter().enumerate() {
                    let place = format!("{}, step {}", case["name"], at + 1);
                    let ran = Rc::new(Cell::new(0));
                    let answers = if step["message"].is_null() {
                        let copies = (0..step["copies"].as_u64().unwrap_or(1)).map(|_| {
                            tokio::task::spawn_local(call(pool.clone(), step.clone(), Rc::clone(&ran)))
                        });
                        let mut answers = Vec::new();
                        for copy in copies.collect::<Vec<_>>() {
                            answers.push(copy.await.unwrap());
                        }
                        answers
                    } else {
                        vec![make(pool, step).await]
                    };
                    let runs = step["expect"]["runs"].as_u64().unwrap_or(0);
                    assert_eq!(ran.get(), runs, "{place}: how often the business ran; {answers:?}");
                    for (name, wanted) in step["expect"].as_object().unwrap().iter().filter(|(name, _)| *name != "runs") {
                        // A message's creator is told why by a type, not by a text.
                        let own = !step["message"].is_null() && name == "body";
                        assert!(own || answers.iter().all(|answer| &answer[name] == wanted), "{place}: {answers:?}");
                    }
                }
                let balance: (i32,) = sqlx::query_as("select balance from account").fetch_one(pool).await.unwrap();
                assert_eq!(json!(balance.0), case["balance"], "{}", case["name"]);
                let select = concat!("select ", $columns, ", by_op, response from mesh_barrier");
                let rows = sqlx::query_as::<_, (String, String, String, String, Option<String>)>(select);
                let rows = rows.fetch_all(pool).await.unwrap();
                let mut found: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
                let mut wanted: Vec<String> =
                    case["rows"].as_array().unwrap().iter().map(Value::to_string).collect();
                found.sort();
                wanted.sort();
                assert_eq!(found, wanted, "{}", case["name"]);
            }

            pub(super) fn all(url: &str) {
                let cases: Value = serde_json::from_str(include_str!("../../../barrier/cases.json")).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                tokio::task::LocalSet::new().block_on(&runtime, async {
                    let pool = Pool::<$db>::connect(url).await.unwrap();
                    let of_this = |case: &&Value| match case["on"].as_array() {
                        Some(on) => on.contains(&json!($schema)),
                        None => true,
                    };
                    let cases: Vec<&Value> = cases["cases"].as_array().unwrap().iter().filter(of_this).collect();
                    assert!(cases.len() > 30, "the suite is there");
                    for case in cases {
                        run(&pool, case).await;
                    }
                });
            }
        }
    };
}

suite!(sqlite, sqlx::Sqlite, "sqlite", "txn, branch, op", "");
suite!(
    postgres,
    sqlx::Postgres,
    "postgres",
    "txn, branch, op",
    "do $$ begin raise exception using errcode = '40001'; end $$"
);
suite!(
    mysql,
    sqlx::MySql,
    "mysql",
    "cast(txn as char), cast(branch as char), cast(op as char)",
    "signal sqlstate '40001' set mysql_errno = 1213"
);

#[test]
fn sqlite_keeps_the_barrier() {
    let folder = tempfile::tempdir().unwrap();
    sqlite::all(&format!("sqlite://{}?mode=rwc", folder.path().join("test.db").display()));
}

#[test]
fn postgres_keeps_the_barrier() {
    match std::env::var("BARRIER_POSTGRES") {
        Ok(url) => postgres::all(&url),
        Err(_) => println!("skipped: BARRIER_POSTGRES names no database"),
    }
}

#[test]
fn mysql_keeps_the_barrier() {
    match std::env::var("BARRIER_MYSQL") {
        Ok(url) => mysql::all(&url),
        Err(_) => println!("skipped: BARRIER_MYSQL names no database"),
    }
}
