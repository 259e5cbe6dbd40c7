// SPDX-License-Identifier: Apache-2.0
//! The ledger's suite on a real PostgreSQL, and what only a database and other control planes can do to it. `cargo xtask test
//! postgres` starts one.

use super::super::suite::*;
use super::super::{Embedded, Ledger as _, Neighbour};
use super::*;
use crate::postgres::tests::{DOMAIN, Database};
use crate::suite::{Stopped, wait};
use crate::tests::all;
use byrnie_base::Clock as _;
use byrnie_saga::ledger::{Begun, Claim, Ending, Finished, Name, State};
use proptest::test_runner::{Config, TestRunner};
use std::rc::Rc;
use std::time::Duration;

/// So long that nothing ends by itself.
const LONG: u64 = 600_000;

impl Database {
    /// A ledger there. No file is moved.
    fn ledger(&self) -> Postgres {
        self.ledger_from(Path::new("/nowhere/ledger.redb"), Timestamp::from_millis(0)).unwrap()
    }

    fn ledger_from(&self, file: &Path, now: Timestamp) -> Result<Postgres, OpenError> {
        Postgres::open(&self.url, DOMAIN, (file, now))
    }

    /// Has the database's clock stand still.
    fn stop_clock(&self) {
        self.run(
            "create table public.clock (ms int8); insert into public.clock values (0);
             create or replace function byrnie.ledger_now() returns int8 language sql volatile as 'select ms from public.clock'",
        );
    }

    fn tell_time(&self, now: Timestamp) {
        self.run(&format!("update public.clock set ms = {}", now.as_millis()));
    }

    /// Whether it counts what there is.
    fn check_counts(&self) {
        let wrong = "
            select count(*) from
              (select count(*) as keys, coalesce(sum(octet_length(name) * 2 + 57 + octet_length(kept)), 0) as bytes
               from byrnie.ledger_key) k,
              (select sum(keys) as keys, sum(bytes) as bytes from byrnie.ledger_part) p
            where k.keys <> p.keys or k.bytes <> p.bytes";
        assert_eq!(self.count(wrong), 0, "keys or bytes are counted wrong");
    }
}

fn key(key: &str) -> Name {
    Name { key: key.into(), ..name(3) }
}

fn granted(again: bool) -> Result<Begun, Error> {
    Ok(Begun::Granted { again })
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_ledger_in_postgres_keeps_the_rules() {
    let database = Rc::new(Database::make("keys_suite"));
    drop(database.ledger());
    database.stop_clock();
    let mut runner = TestRunner::new(Config { cases: 16, ..Config::default() });
    let run = |ops: Vec<Op>| {
        database.run("truncate byrnie.ledger_key; update byrnie.ledger_part set keys = 0, bytes = 0");
        let (opened, told, clock) = (database.clone(), database.clone(), Arc::new(Stopped::default()));
        database.tell_time(clock.now().wall);
        let mut subject = Subject {
            ledger: Some(Box::new(database.ledger())),
            clock,
            open: Box::new(move || Box::new(opened.ledger())),
            told: Box::new(move |now| told.tell_time(now)),
        };
        check(&mut subject, &ops);
        database.check_counts();
        Ok(())
    };
    runner.run(&ops(), run).unwrap();
    let mut subject = Subject {
        ledger: Some(Box::new(database.ledger())),
        clock: Arc::default(),
        open: Box::new(|| unreachable!("limits need no restart")),
        told: Box::new(drop),
    };
    database.run("truncate byrnie.ledger_key");
    check_limits(&mut subject);
}

/// Whoever asks, of whichever: one is granted, and all are told the same.
#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn of_several_control_planes_one_grants_a_key() {
    let database = Database::make("keys_shared");
    let ledgers: Vec<Postgres> = (0..3).map(|_| database.ledger()).collect();
    let begin = |ledger: &Postgres, n: u64, claim: u64| {
        wait(ledger.begin(key(&format!("{n}")), begin_of(1, claim, LONG, LONG, false))).unwrap()
    };
    let grants: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let asking = |(at, ledger)| {
            scope.spawn(move || {
                let mine = (0..200).filter(|n| matches!(begin(ledger, *n, at), Begun::Granted { .. }));
                mine.map(|n| (n, at)).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..).zip(&ledgers).map(asking).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(grants.len(), 200, "each once: {grants:?}");
    for (n, claim) in grants {
        let name = key(&format!("{n}"));
        let ending = Ending::Done(n.to_be_bytes()[..].into());
        // Told to any, once or twice; known to all.
        let told = &ledgers[n as usize % 3];
        assert_eq!(wait(told.finish(name.clone(), Claim(claim + 7), Ending::Ambiguous)), Ok(Finished::Fenced));
        for _ in 0..2 {
            assert_eq!(wait(told.finish(name.clone(), Claim(claim), ending.clone())), Ok(Finished::Recorded));
        }
        let Begun::Done(kept) = begin(&ledgers[(n as usize + 1) % 3], n, 99) else { panic!("{n} isn't replayed") };
        assert_eq!(kept[..], n.to_be_bytes());
    }
    database.check_counts();
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn keys_beside_each_other_share_a_commit() {
    let database = Database::make("keys_grouped");
    let ledger = database.ledger();
    let names: Vec<Name> = (0..1000).map(|n| key(&format!("{n}"))).collect();
    let begun = names.iter().map(|name| ledger.begin(name.clone(), begin_of(1, 1, LONG, LONG, false))).collect();
    assert!(wait(all(begun)).iter().all(|begun| *begun == granted(false)));
    let commits = "select count(distinct xmin::text) from byrnie.ledger_key";
    assert!(database.count(commits) < 100, "{} commits to begin 1000", database.count(commits));
    let ended = names.iter().map(|name| ledger.finish(name.clone(), Claim(1), ending_of(2, 100))).collect();
    assert!(wait(all(ended)).iter().all(|ended| *ended == Ok(Finished::Recorded)));
    assert!(database.count(commits) < 100, "{} commits to end 1000", database.count(commits));
    database.check_counts();
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn no_key_is_looked_for_among_all() {
    let database = Database::make("keys_found");
    let ledger = database.ledger();
    let ask = |n: u64| {
        let (name, ask) = (key(&format!("{n}")), begin_of(1, n, LONG, LONG, false));
        wait(ledger.begin(name.clone(), ask)).unwrap();
        wait(ledger.finish(name.clone(), Claim(n), ending_of(2, 9))).unwrap();
        wait(ledger.begin(name, ask)).unwrap();
    };
    let scans = |of: &str| {
        database.count(&format!("select coalesce({of}, 0) from pg_stat_user_tables where relname = 'ledger_key'"))
    };
    // What was done is counted within a second or so.
    let mut n = 0;
    while scans("idx_scan") < 100 {
        ask(n);
        n += 1;
    }
    assert_eq!(scans("seq_tup_read"), 0);
    let (read, found) = (scans("idx_tup_fetch"), scans("idx_scan"));
    assert!(read <= found, "{read} rows read to find {found}");
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_repetition_is_answered_without_a_write() {
    let database = Database::make("keys_repeated");
    let ledger = database.ledger();
    let ask = |claim| wait(ledger.begin(key("k"), begin_of(1, claim, LONG, LONG, false))).unwrap();
    // Neither by a lock, which is a write, too.
    let touched = "select xmax::text::int8 from byrnie.ledger_key";
    assert_eq!(ask(1), Begun::Granted { again: false });
    assert!(matches!(ask(2), Begun::InFlight(_)));
    assert_eq!(database.count(touched), 0);
    assert_eq!(wait(ledger.finish(key("k"), Claim(1), ending_of(2, 9))), Ok(Finished::Recorded));
    assert!(matches!(ask(3), Begun::Done(_)));
    assert_eq!(wait(ledger.finish(key("k"), Claim(1), ending_of(2, 9))), Ok(Finished::Recorded));
    assert_eq!(wait(ledger.finish(key("k"), Claim(3), ending_of(2, 9))), Ok(Finished::Fenced));
    assert!(matches!(wait(ledger.read(key("k"))), Ok(Some(_))));
    assert_eq!(database.count(touched), 0);
}

/// All of one key in one group: one after the other, as they came.
#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_crowd_at_one_key_is_answered_in_order() {
    let database = Database::make("keys_crowd");
    let ledger = database.ledger();
    let begun = (0..300).map(|claim| ledger.begin(key("k"), begin_of(1, claim, LONG, LONG, false))).collect();
    let begun = wait(all(begun));
    let grants = begun.iter().filter(|begun| **begun == granted(false)).count();
    let waits = begun.iter().filter(|begun| matches!(begun, Ok(Begun::InFlight(_)))).count();
    assert_eq!((grants, waits), (1, 299));
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn leases_go_by_the_clock_of_the_database_alone() {
    let database = Database::make("keys_clock");
    let (one, other) = (database.ledger(), database.ledger());
    database.stop_clock();
    let ask = |claim| begin_of(1, claim, 1_000, LONG, true);
    assert_eq!(wait(one.begin(key("k"), ask(1))), granted(false));
    // However much time passes for either of them.
    database.tell_time(Timestamp::from_millis(999));
    assert_eq!(wait(other.begin(key("k"), ask(2))), Ok(Begun::InFlight(Duration::from_millis(1))));
    database.tell_time(Timestamp::from_millis(1_000));
    assert_eq!(wait(other.begin(key("k"), ask(2))), granted(true));
    // Whose answer was lost is told the same once more, and what it takes back is as ambiguous as it was.
    assert_eq!(wait(one.begin(key("k"), ask(2))), granted(true));
    assert_eq!(wait(one.finish(key("k"), Claim(2), Ending::Unsent)), Ok(Finished::Recorded));
    assert_eq!(wait(other.begin(key("k"), begin_of(1, 3, 1_000, LONG, false))), Ok(Begun::Ambiguous));
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_lost_database_grants_nothing_and_comes_back() {
    let database = Database::make("keys_lost");
    let ledger = database.ledger();
    let ask = |n: u64| wait(ledger.begin(key(&format!("{n}")), begin_of(1, n, LONG, LONG, false)));
    assert_eq!(ask(0), granted(false));
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'keys_lost'";
    database.run_elsewhere(end);
    // The first to notice is told that nobody knows; the same question again gives the same answer, whatever became of it.
    assert!(matches!(ask(1), Err(Error::Doubtful(_))));
    assert_eq!(ask(1), granted(false));
    database.run_elsewhere("alter database keys_lost with allow_connections false");
    database.run_elsewhere(end);
    assert!(ask(2).is_err());
    assert!(matches!(ask(2), Err(Error::Unreachable(_))));
    assert!(wait(ledger.finish(key("0"), Claim(0), ending_of(2, 9))).is_err());
    database.run_elsewhere("alter database keys_lost with allow_connections true");
    while ask(2) != granted(false) {
        std::thread::yield_now();
    }
    assert_eq!(wait(ledger.finish(key("0"), Claim(0), ending_of(2, 9))), Ok(Finished::Recorded));
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_database_without_room_refuses_and_limits_hold_over_all() {
    let database = Database::make("keys_full");
    let (ledger, other) = (database.ledger(), database.ledger());
    let ask = |ledger: &Postgres, n: u64| wait(ledger.begin(key(&format!("{n}")), begin_of(1, n, LONG, LONG, false)));
    assert_eq!(ask(&ledger, 0), granted(false));
    database.run(
        "create function public.full() returns trigger language plpgsql as
         $$ begin raise exception using errcode = '53100', message = 'no space left on device'; end $$;
         create trigger full_disk before insert or update on byrnie.ledger_key for each row execute function public.full()",
    );
    assert!(matches!(ask(&ledger, 1), Err(Error::Refused(why)) if why.contains("no space left")));
    assert!(matches!(wait(ledger.finish(key("0"), Claim(0), ending_of(2, 9))), Err(Error::Refused(_))));
    database.run("drop trigger full_disk on byrnie.ledger_key");
    assert_eq!(ask(&ledger, 1), granted(false));
    database.run(&format!("update byrnie.ledger_part set keys = {} where part = 0", super::super::KEYS_MAX));
    for ledger in [&ledger, &other] {
        assert!(matches!(ask(ledger, 2), Err(Error::Limit { what: "the number of idempotency keys", .. })));
    }
    assert_eq!(
        wait(other.finish(key("0"), Claim(0), ending_of(2, 9))),
        Ok(Finished::Recorded),
        "what has begun may end"
    );
    assert!(matches!(ask(&other, 0), Ok(Begun::Done(_))), "and is replayed");
}

/// Another's transaction that holds a key, or began one and hasn't said so, is waited for and then heard.
#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn what_another_is_about_to_begin_is_waited_for() {
    let database = Database::make("keys_waits");
    let ledger = database.ledger();
    let (url, (begun, heard), (go, wait_for_it)) = (database.url.clone(), mpsc::channel(), mpsc::channel::<()>());
    let other = std::thread::spawn(move || {
        use sqlx::Connection as _;
        runtime().unwrap().block_on(async {
            let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
            let mut tx = connection.begin().await.unwrap();
            let job = super::super::run::Job::Begin(key("k"), begin_of(1, 7, LONG, LONG, false));
            let plain = sql::Plain::of(&[(0, &job)]);
            assert_eq!(sql::write_plain(&mut tx, sql::Part::own(), &plain).await.unwrap().len(), 1);
            begun.send(()).unwrap();
            wait_for_it.recv().unwrap();
            tx.commit().await.unwrap();
        });
    });
    heard.recv().unwrap();
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| wait(ledger.begin(key("k"), begin_of(1, 8, LONG, LONG, false))));
        let waiting =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%ledger_key%'";
        while database.count(waiting) == 0 {
            std::thread::yield_now();
        }
        go.send(()).unwrap();
        asking.join().unwrap()
    });
    other.join().unwrap();
    assert!(matches!(asked, Ok(Begun::InFlight(_))), "{asked:?}");
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn what_a_file_remembers_is_moved_whole() {
    let (database, folder, clock) =
        (Database::make("keys_moved"), tempfile::tempdir().unwrap(), Arc::<Stopped>::default());
    let path = folder.path().join("ledger.redb");
    // A clock of its own, far from the database's.
    let file = Embedded::open(&path, clock.clone()).unwrap();
    let begin = |ledger: &dyn super::super::Ledger, n: u64, claim: u64, lease: u64| {
        wait(ledger.begin(key(&format!("{n:03}")), begin_of(1, claim, lease, LONG, false))).unwrap()
    };
    for n in 0..250 {
        assert_eq!(begin(&file, n, n, if n == 1 { 10 } else { LONG }), Begun::Granted { again: false });
    }
    for n in 2..240u64 {
        let ending = Ending::Done(n.to_be_bytes()[..].into());
        wait(file.finish(key(&format!("{n:03}")), Claim(n), ending)).unwrap();
    }
    assert_eq!(wait(file.begin(key("short"), begin_of(1, 1, 1, 2, false))), granted(false));
    clock.advance(Duration::from_millis(20));
    let now = clock.now().wall;
    // While somebody has the file, it isn't taken away.
    let busy = database.ledger_from(&path, now).err().unwrap().to_string();
    assert!(busy.contains("in use") && path.exists(), "{busy}");
    drop(file);
    // What the database knows of a key already counts.
    assert_eq!(begin(&database.ledger(), 239, 77, LONG), Begun::Granted { again: false });
    let ledger = database.ledger_from(&path, now).unwrap();
    assert!(!path.exists(), "the file is removed");
    database.check_counts();
    for n in 2..239u64 {
        let Begun::Done(kept) = begin(&ledger, n, 99, LONG) else { panic!("{n} isn't replayed") };
        assert_eq!(kept[..], n.to_be_bytes());
    }
    assert!(matches!(begin(&ledger, 239, 99, LONG), Begun::InFlight(_)));
    assert_eq!(begin(&ledger, 1, 99, LONG), Begun::Ambiguous, "its lease had lapsed");
    assert!(matches!(begin(&ledger, 245, 99, LONG), Begun::InFlight(left) if left > Duration::from_millis(LONG / 2)));
    // Who began it may still end it.
    assert_eq!(wait(ledger.finish(key("245"), Claim(245), ending_of(2, 5))), Ok(Finished::Recorded));
    assert_eq!(wait(ledger.begin(key("short"), begin_of(1, 9, LONG, LONG, false))), granted(false), "it was over");
    assert!(database.ledger_from(&path, now).is_ok(), "there is nothing left to move");
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn tables_of_a_newer_program_are_refused() {
    let database = Database::make("keys_newer");
    drop(database.ledger());
    database.run("update byrnie.ledger_meta set version = 2");
    let refused = database.ledger_from(Path::new("/nowhere"), Timestamp::from_millis(0)).err().unwrap().to_string();
    assert!(refused.contains("format 2, this program knows up to 1"), "{refused}");
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn what_is_over_is_forgotten_in_parts_by_whoever_comes() {
    let database = Database::make("keys_swept");
    let (one, other) = (database.ledger(), database.ledger());
    database.stop_clock();
    let names = (0..1500).map(|n| key(&format!("{n}")));
    let begun = names.map(|name| one.begin(name, begin_of(1, 1, 1, 10, false))).collect();
    assert!(wait(all(begun)).iter().all(|begun| *begun == granted(false)));
    assert_eq!(wait(other.sweep()), Ok(0));
    database.tell_time(Timestamp::from_millis(10));
    assert_eq!((wait(other.sweep()), wait(one.sweep()), wait(other.sweep())), (Ok(1000), Ok(500), Ok(0)));
    assert_eq!(wait(one.read(key("3"))), Ok(None));
    database.check_counts();
    let again = begin_of(2, 5, LONG, LONG, false);
    assert_eq!(wait(one.begin(key("3"), again)), granted(false), "a key that was forgotten is free");
    assert!(matches!(wait(other.read(key("3"))), Ok(Some(entry)) if matches!(entry.state, State::InFlight { .. })));
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn control_planes_of_one_ledger_know_where_the_others_are() {
    let database = Database::make("keys_met");
    let (one, other) = (database.ledger(), database.ledger());
    let at = |port: u16, roots: &str| Neighbour { address: format!("127.0.0.1:{port}").into(), roots: roots.into() };
    assert_eq!(wait(one.meet(at(1, "A"))), Ok(Vec::new()));
    assert_eq!(wait(other.meet(at(2, "B"))), Ok(vec![at(1, "A")]));
    // One that starts again elsewhere is the same.
    assert_eq!(wait(one.meet(at(3, "A"))), Ok(vec![at(2, "B")]));
    assert_eq!(wait(other.meet(at(2, "B"))), Ok(vec![at(3, "A")]));
    database.run("update byrnie.ledger_keeper set seen = seen - interval '25 h' where roots = 'A'");
    wait(other.meet(at(2, "B"))).unwrap();
    assert_eq!(wait(other.meet(at(2, "B"))), Ok(Vec::new()), "one that is gone is forgotten");
    assert!(
        one.is_shared()
            && !Embedded::open(&tempfile::tempdir().unwrap().path().join("l"), Arc::<Stopped>::default())
                .unwrap()
                .is_shared()
    );
}
