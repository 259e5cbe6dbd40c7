// SPDX-License-Identifier: Apache-2.0
//! The journal's suite on a real PostgreSQL, and what only a database can do to it. `cargo xtask test postgres` starts one.

use super::super::tests::{
    Subject, append, check, check_leases, check_letters, check_limits, check_order, check_terms, ops,
};
use super::super::{Append, Journal as _, Peers as _};
use super::*;
use crate::postgres::tests::{DOMAIN, Database};
use crate::suite::wait;
use crate::tests::all;
use byrnie_saga::Term;
use byrnie_saga::shards::Beat;
use proptest::test_runner::{Config, TestRunner};
use sqlx::{Connection as _, PgConnection};

impl Database {
    fn open(&self) -> Postgres {
        Postgres::open(&self.url, DOMAIN).unwrap()
    }

    fn refused(&self) -> String {
        Postgres::open(&self.url, DOMAIN).err().unwrap().to_string()
    }
}

fn subject(name: &str) -> (std::rc::Rc<Database>, Subject) {
    let database = std::rc::Rc::new(Database::make(name));
    let (opened, aged) = (database.clone(), database.clone());
    let age = move || aged.run("update byrnie.member set until = until - interval '3 s'");
    let subject = Subject::new(move || Box::new(opened.open()), age);
    (database, subject)
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_journal_in_postgres_keeps_what_it_was_given() {
    let (database, mut subject) = subject("suite");
    let mut runner = TestRunner::new(Config { cases: 12, ..Config::default() });
    let each = |ops: Vec<_>| {
        database.run("truncate byrnie.txn, byrnie.entry");
        check(&mut subject, &ops);
        Ok(())
    };
    let each = std::cell::RefCell::new(each);
    runner.run(&ops(), |ops| each.borrow_mut()(ops)).unwrap();
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_journal_in_postgres_holds_limits_terms_leases_and_letters() {
    let (_database, mut subject) = subject("terms");
    check_limits(&subject);
    check_order(&mut subject);
    check_terms(&subject);
    check_leases(&subject);
    check_letters(&subject);
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn transactions_beside_each_other_share_a_commit() {
    let database = Database::make("shared");
    let journal = database.open();
    let asked = (0..1000).map(|n| journal.append(append(&format!("t{n}"), 0, &["begun"], None))).collect();
    assert!(wait(all(asked)).iter().all(Result::is_ok));
    let commits = database.count("select count(distinct xmin::text) from byrnie.txn");
    assert!(commits < 100, "{commits} commits for 1000 transactions");
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_database_that_will_not_do_is_refused_in_words() {
    let database = Database::make("strange");
    drop(database.open());
    database.run("alter database strange set synchronous_commit = off");
    assert!(database.refused().contains("synchronous_commit is off"), "{}", database.refused());
    database.run("alter database strange reset synchronous_commit");
    database.run("alter database strange set default_transaction_read_only = on");
    assert!(database.refused().contains("read-only"), "{}", database.refused());
    database.run("set transaction_read_only = off; alter database strange reset default_transaction_read_only");
    // A stricter default than what the statements are written for is no hindrance.
    database.run("alter database strange set default_transaction_isolation = 'serializable'");
    let journal = database.open();
    wait(journal.append(append("t", 0, &["x"], None))).unwrap();
    drop(journal);
    let other = Postgres::open(&database.url, "demo.local").err().unwrap().to_string();
    assert!(other.contains("mesh mesh.local, and this one is demo.local"), "{other}");
    database.run("update byrnie.meta set version = 2");
    assert!(database.refused().contains("format 2, this program knows up to 1"), "{}", database.refused());
    let secret = "postgresql://user:hunter2@127.0.0.1:1/none";
    let away = Postgres::open(secret, DOMAIN).err().unwrap().to_string();
    assert!(!away.contains("hunter2"), "{away}");
    assert!(matches!(Postgres::open("hunter2", DOMAIN), Err(OpenError::Url)));
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_lost_connection_is_opened_again() {
    let database = Database::make("lost");
    let journal = database.open();
    wait(journal.append(append("t", 0, &["x"], None))).unwrap();
    let news = journal.news();
    database.run(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'lost' and application_name = 'byrnie'",
    );
    // The first to notice is told that nobody knows.
    let first = wait(journal.append(append("t", 1, &["x"], None)));
    assert!(matches!(first, Err(Error::Doubtful(_))), "{first:?}");
    wait(journal.append(append("t", 1, &["x"], None))).unwrap();
    database.run_elsewhere("alter database lost with allow_connections false");
    database.run_elsewhere("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'lost'");
    assert!(wait(journal.append(append("t", 2, &["x"], None))).is_err());
    let refused = wait(journal.append(append("t", 2, &["x"], None)));
    assert!(matches!(&refused, Err(Error::Unreachable(why)) if why.contains("not currently accepting")), "{refused:?}");
    database.run_elsewhere("alter database lost with allow_connections true");
    while wait(journal.append(append("t", 2, &["x"], None))).is_err() {
        std::thread::yield_now();
    }
    assert_eq!(wait(journal.read("t")).unwrap().entries.len(), 3);
    drop(news);
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn what_the_database_refuses_of_one_does_not_fail_its_neighbours() {
    let database = Database::make("refuses");
    let journal = database.open();
    database.run("alter table byrnie.entry add constraint short check (length(body) < 100)");
    let long = "x".repeat(100);
    let asked: Vec<_> = (0..50)
        .map(|n| journal.append(append(&format!("t{n}"), 0, &[if n == 7 { &long } else { "x" }], None)))
        .collect();
    let answers = wait(all(asked));
    let refused: Vec<usize> = (0..50).filter(|n| matches!(answers[*n], Err(Error::Refused(_)))).collect();
    assert_eq!(refused, [7], "{answers:?}");
    assert_eq!(wait(journal.unfinished(vec![0])).unwrap().len(), 49);
}

/// A write that is under way when its shard is taken over is either whole before that, or not at all.
#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_take_over_waits_for_writes_of_the_epoch_before() {
    let database = Database::make("waits");
    let journal = database.open();
    let beat = |name: &str| Beat { name: name.into(), take: vec![9], ..Beat::default() };
    let held = wait(journal.beat(beat("a"))).unwrap().taken[0];
    let (url, other) = (database.url.clone(), database.open());
    let (locked, lock) = mpsc::channel();
    let (go, wait_for_it) = mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        runtime().unwrap().block_on(async {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            let mut tx = connection.begin().await.unwrap();
            sqlx::query("select epoch from byrnie.seat where shard = 9 for key share").execute(&mut *tx).await.unwrap();
            locked.send(()).unwrap();
            wait_for_it.recv().unwrap();
            tx.commit().await.unwrap();
        });
    });
    lock.recv().unwrap();
    database.run("update byrnie.member set until = '-infinity'");
    let taking = other.beat(beat("b"));
    while database
        .count("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%for update%'")
        == 0
    {
        std::thread::yield_now();
    }
    go.send(()).unwrap();
    writer.join().unwrap();
    assert_eq!(wait(taking).unwrap().taken, [Term { shard: 9, epoch: held.epoch + 1 }]);
    let late = wait(journal.append(Append { term: held, ..append("t", 0, &["x"], None) }));
    assert_eq!(late, Err(Error::Deposed { shard: 9 }));
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn news_come_by_themselves() {
    let database = Database::make("news");
    let (one, two) = (database.open(), database.open());
    let mut news = two.news();
    // The listener may just have begun.
    let number = wait(one.post(4, crate::Value::from(&b"?"[..]))).unwrap();
    wait(news.changed()).unwrap();
    assert_eq!(wait(two.letters(vec![4])).unwrap()[0].number, number);
}
