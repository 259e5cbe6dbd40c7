// SPDX-License-Identifier: Apache-2.0
//! The journal's file and its log: what is refused, and what a program of before finds.

use super::*;
use crate::disk::{Fate, RamDisk, split};
use crate::log::{Append, ID_BYTES_MAX};
use crate::store::Value;
use byrnie_saga::Term;
use std::io;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

const LOG_BYTES: usize = 64 << 10;

fn open(medium: &RamDisk) -> Result<LogFile, OpenError> {
    let (log, disk) = split(medium.attach(), LOG_BYTES as u64);
    LogFile::open(disk, log, LOG_BYTES, Pace::Late)
}

fn append(file: &mut LogFile, after: u32) {
    try_append(file, after).unwrap();
}

fn try_append(file: &mut LogFile, after: u32) -> Result<Done, Error> {
    let append = Append {
        term: Term::default(),
        id: "t".into(),
        after,
        entries: vec![Value::from(&[7; ID_BYTES_MAX][..])],
        summary: Value::from(&b"s"[..]),
        ended: None,
    };
    file.run(&[Job::Append(append)], Timestamp::default()).remove(0)
}

/// How many entries the one transaction has.
fn count(file: &mut LogFile) -> usize {
    match file.run(&[Job::Read("t".into())], Timestamp::default()).remove(0) {
        Ok(Done::Story(story)) => story.entries.len(),
        other => panic!("{other:?}"),
    }
}

/// What an older program would find.
fn tables(medium: &RamDisk) -> (u64, u64) {
    let (_, disk) = split(medium.attach(), LOG_BYTES as u64);
    let found = Guard::open(disk, CACHE_BYTES, |database| stored(database).map_err(open_error)).unwrap().1;
    (found.format, found.steps)
}

#[test]
fn an_older_program_reads_what_was_closed_and_refuses_what_has_a_log() {
    let medium = RamDisk::new();
    let mut file = open(&medium).unwrap();
    (0..5).for_each(|after| append(&mut file, after));
    medium.crash();
    drop(file);
    assert_eq!(tables(&medium), (LOGGED, 1), "four are in the log alone");
    let mut file = open(&medium).unwrap();
    append(&mut file, 5);
    drop(file);
    assert_eq!(tables(&medium), (WHOLE, 6));
    // What such a program writes counts on; the log of before isn't taken for something that comes after.
    let mut file = open(&medium).unwrap();
    (6..8).for_each(|after| append(&mut file, after));
    assert_eq!(file.steps, 8);
}

#[test]
fn a_damaged_log_is_told() {
    let medium = RamDisk::new();
    let mut file = open(&medium).unwrap();
    (0..5).for_each(|after| append(&mut file, after));
    medium.crash();
    drop(file);
    medium.flip(4096 + 100);
    let refused = open(&medium).map(drop).unwrap_err().to_string();
    assert!(refused.contains("damaged") && refused.contains("step 3 where 2 should come first"), "{refused}");
}

#[test]
fn a_half_made_log_is_made_again() {
    let (medium, log) = (RamDisk::new(), RamDisk::new());
    let both = || LogFile::open(medium.attach(), log.attach(), LOG_BYTES, Pace::Late);
    // Its length is as it should be, and none of it is durable.
    let half = log.attach();
    half.write(LOG_BYTES as u64 - 1, &[0]).unwrap();
    log.give_up_a_sync();
    half.sync().unwrap_err();
    let mut file = both().unwrap();
    (0..5).for_each(|after| append(&mut file, after));
    medium.crash();
    log.crash();
    drop(file);
    assert_eq!(log.used_bytes(), LOG_BYTES);
    assert_eq!(both().unwrap().steps, 5);
}

#[test]
fn a_missing_log_is_told() {
    let (medium, log) = (RamDisk::new(), RamDisk::new());
    let both = |log: &RamDisk| LogFile::open(medium.attach(), log.attach(), LOG_BYTES, Pace::Late);
    let mut file = both(&log).unwrap();
    (0..5).for_each(|after| append(&mut file, after));
    medium.crash();
    drop(file);
    let refused = both(&RamDisk::new()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("isn't beside it"), "{refused}");
    let other = RamDisk::new();
    let mut file = LogFile::open(RamDisk::new().attach(), other.attach(), LOG_BYTES, Pace::Late).unwrap();
    (0..5).for_each(|after| append(&mut file, after));
    let refused = both(&other).map(drop).unwrap_err().to_string();
    assert!(refused.contains("of another journal"), "{refused}");
    assert_eq!(both(&log).unwrap().steps, 5);
}

/// Neither the first start nor a later one clears a log whose file is gone.
#[test]
fn a_log_without_its_file_is_told_and_kept() {
    let log = RamDisk::new();
    let both = |medium: &RamDisk| LogFile::open(medium.attach(), log.attach(), LOG_BYTES, Pace::Late);
    let medium = RamDisk::new();
    let mut file = both(&medium).unwrap();
    (0..5).for_each(|after| append(&mut file, after));
    medium.crash();
    drop(file);
    let empty = RamDisk::new();
    for _ in 0..2 {
        let refused = both(&empty).map(drop).unwrap_err().to_string();
        assert!(refused.contains("missing or empty"), "{refused}");
    }
    assert_eq!(both(&medium).unwrap().steps, 5);
}

/// A disk that makes nothing durable while it's held.
#[derive(Debug)]
struct Held {
    disk: Arc<dyn Disk>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    held: Mutex<bool>,
    changed: Condvar,
}

/// So long is held what nobody lets go of.
const HELD_MAX: Duration = Duration::from_secs(10);

impl Gate {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.changed.notify_all();
    }
}

impl Disk for Held {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let held = self.gate.held.lock().unwrap();
        let (held, waited) = self.gate.changed.wait_timeout_while(held, HELD_MAX, |held| *held).unwrap();
        assert!(!waited.timed_out(), "whoever lets go waits for it");
        drop(held);
        self.disk.sync()
    }

    fn doubt(&self, doubted: bool) -> io::Result<()> {
        self.disk.doubt(doubted)
    }

    fn is_doubted(&self) -> io::Result<bool> {
        self.disk.is_doubted()
    }
}

#[test]
fn nobody_waits_for_the_tables_while_they_take_over() {
    let (medium, log, gate) = (RamDisk::new(), RamDisk::new(), Arc::new(Gate::default()));
    let tables = Arc::new(Held { disk: medium.attach(), gate: Arc::clone(&gate) });
    let mut file = LogFile::open(tables, log.attach(), LOG_BYTES, Pace::Beside).unwrap();
    append(&mut file, 0);
    gate.hold(true);
    // Seven fill a half; what comes next is in the other.
    (1..14).for_each(|after| append(&mut file, after));
    assert!(file.going.is_some());
    assert_eq!(count(&mut file), 14, "what is in neither is read from where it is");
    gate.hold(false);
    (14..60).for_each(|after| append(&mut file, after));
    medium.crash();
    log.crash();
    drop(file);
    let mut file = LogFile::open(medium.attach(), log.attach(), LOG_BYTES, Pace::Beside).unwrap();
    assert_eq!((file.steps, count(&mut file)), (60, 60));
}

/// What is acknowledged stays in the log until the tables have it, and room is made once they can.
#[test]
fn tables_that_find_no_room_hold_up_the_log_and_lose_nothing() {
    for pace in [Pace::Beside, Pace::Late] {
        let (medium, log) = (RamDisk::new(), RamDisk::new());
        let mut file = LogFile::open(medium.attach(), log.attach(), LOG_BYTES, pace).unwrap();
        append(&mut file, 0);
        medium.limit(Some(0));
        let refused = (1..).find(|after| try_append(&mut file, *after).is_err()).unwrap();
        assert!((8..=16).contains(&refused), "{refused}");
        assert!(matches!(try_append(&mut file, refused), Err(Error::Refused(_))));
        medium.limit(None);
        (refused..refused + 30).for_each(|after| append(&mut file, after));
        medium.crash();
        log.crash();
        drop(file);
        let mut file = LogFile::open(medium.attach(), log.attach(), LOG_BYTES, pace).unwrap();
        assert_eq!(count(&mut file), refused as usize + 30);
    }
}

/// No thread gets the stack that this asks for.
const STACK: &str = "RUST_MIN_STACK";

#[test]
fn a_system_that_gives_no_thread_costs_no_file() {
    if std::env::var_os(STACK).is_none() {
        let mut own = std::process::Command::new(std::env::current_exe().unwrap());
        own.args(["--exact", "persist::log::tests::a_system_that_gives_no_thread_costs_no_file", "--test-threads=1"]);
        let done = own.env(STACK, (1_u64 << 60).to_string()).output().unwrap();
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && told.contains("1 passed"), "{told} {}", String::from_utf8_lossy(&done.stderr));
        return;
    }
    assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    let (medium, log) = (RamDisk::new(), RamDisk::new());
    let mut file = LogFile::open(medium.attach(), log.attach(), LOG_BYTES, Pace::Beside).unwrap();
    append(&mut file, 0);
    let opened = Arc::downgrade(&file.database().unwrap());
    (1..60).for_each(|after| append(&mut file, after));
    assert_eq!(count(&mut file), 60);
    assert!(opened.ptr_eq(&Arc::downgrade(&file.database().unwrap())), "it's opened anew after a failure only");
}

#[test]
fn a_log_in_one_piece_is_taken_over() {
    let medium = RamDisk::new();
    let mut file = open(&medium).unwrap();
    (0..5).for_each(|after| append(&mut file, after));
    // As a program of before says it.
    let salt = file.wal.salt();
    file.guard
        .read(|database| {
            let txn = database.begin_write()?;
            commit(txn, 1, LOGGED_WHOLE, salt)
        })
        .unwrap();
    medium.crash();
    drop(file);
    let mut file = open(&medium).unwrap();
    assert_eq!((file.steps, count(&mut file)), (5, 5));
    (5..40).for_each(|after| append(&mut file, after));
    medium.crash();
    drop(file);
    assert_eq!(tables(&medium).0, LOGGED);
    assert_eq!(count(&mut open(&medium).unwrap()), 40);
}

/// As a program of before left it when it was killed.
#[test]
fn a_log_of_less_room_is_taken_over_and_grows() {
    let (medium, log) = (RamDisk::new(), RamDisk::new());
    let open = |room| LogFile::open(medium.attach(), log.attach(), room, Pace::Late).unwrap();
    let mut file = open(SMALL_LOG_BYTES);
    (0..200).for_each(|after| append(&mut file, after));
    assert!(file.steps == 200 && file.going.is_some(), "both halves are in use");
    let salt = file.wal.salt();
    file.settle(true);
    file.guard
        .read(|database| {
            let last = stored(database)?.steps;
            commit(database.begin_write()?, last, 3, salt)
        })
        .unwrap();
    medium.crash();
    log.crash();
    drop(file);
    for room in [4 * SMALL_LOG_BYTES, 4 * SMALL_LOG_BYTES] {
        let mut file = open(room);
        assert_eq!(log.used_bytes(), room);
        let found = u32::try_from(count(&mut file)).unwrap();
        assert!(found >= 200);
        (found..found + 300).for_each(|after| append(&mut file, after));
        medium.crash();
        log.crash();
        drop(file);
    }
    assert_eq!(count(&mut open(4 * SMALL_LOG_BYTES)), 800);
}

/// Power is lost after every number of disk operations of the tables, whatever the log is at meanwhile.
#[test]
fn a_loss_of_power_while_the_tables_take_over_keeps_what_was_acknowledged() {
    for pace in [Pace::Beside, Pace::Late] {
        for cut in 1..60 {
            let (medium, log) = (RamDisk::new(), RamDisk::new());
            let mut file = LogFile::open(medium.attach(), log.attach(), LOG_BYTES, pace).unwrap();
            append(&mut file, 0);
            medium.cut_power_after(cut);
            let acked = (1..200).find(|after| try_append(&mut file, *after).is_err()).unwrap_or(200);
            medium.crash_with(|index| match index % 3 {
                0 => Fate::Torn(7),
                1 => Fate::Kept,
                _ => Fate::Lost,
            });
            log.crash();
            drop(file);
            let mut file = LogFile::open(medium.attach(), log.attach(), LOG_BYTES, pace).unwrap();
            let found = u32::try_from(count(&mut file)).unwrap();
            assert!((acked..=acked + 1).contains(&found), "cut after {cut}: {acked} acknowledged, {found} found");
            append(&mut file, found);
        }
    }
}
