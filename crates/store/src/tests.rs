// SPDX-License-Identifier: Apache-2.0
//! The suite on each backend, and what only a disk can do to a store.

use crate::disk::{Disk, Fate, RamDisk};
use crate::store::*;
use crate::suite::*;
use crate::{Embedded, Memory, OpenError};
use byrnie_model::Revision;
use proptest::prelude::*;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn memory() -> Subject {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let for_leases = clock.clone();
    Subject::new(clock, move || Box::new(Memory::open(&medium, for_leases.clone()).unwrap()))
}

fn embedded() -> Subject {
    let (clock, directory) = (Arc::new(Stopped::default()), tempfile::tempdir().unwrap());
    let for_leases = clock.clone();
    Subject::new(clock, move || {
        Box::new(Embedded::open(&directory.path().join("state.redb"), for_leases.clone()).unwrap())
    })
}

fn open(path: &Path) -> Result<Embedded, OpenError> {
    Embedded::open(path, Arc::new(Stopped::default()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn memory_is_the_model(ops in ops()) {
        check(&mut memory(), &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn embedded_is_the_model(ops in ops()) {
        check(&mut embedded(), &ops);
    }
}

#[test]
fn both_hold_their_limits() {
    check_limits(&mut memory());
    check_limits(&mut embedded());
}

#[test]
fn both_bound_their_history() {
    check_compaction(&mut memory());
    check_compaction(&mut embedded());
}

#[test]
fn both_wake_their_watchers() {
    check_waking(&mut memory());
    check_waking(&mut embedded());
}

/// A power cut at any point of a write, with any part of what wasn't synced on the medium.
fn check_crash(ops: &[Op], cut: u32, fates: &[u8]) {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let store = Memory::open(&medium, clock.clone()).unwrap();
    let mut model = Model::default();
    medium.cut_power_after(cut);
    let mut in_flight = None;
    for op in ops {
        let Op::Commit(asks, wants) = op else { continue };
        let txn = model.txn(asks, wants);
        match wait(store.commit(txn.clone())) {
            Err(Error::Refused(_) | Error::Uncertain(_)) => {
                in_flight = Some(txn);
                break;
            }
            answer => assert_eq!(answer, model.commit(&txn)),
        }
    }
    medium.crash_with(|index| match fates[index % fates.len()] {
        fate if fate < 80 => Fate::Lost,
        fate if fate < 160 => Fate::Kept,
        fate => Fate::Torn(usize::from(fate) * 16),
    });
    drop(store);
    let store = Memory::open(&medium, clock).unwrap();
    if let Some(txn) = in_flight
        && contents(&store).1 > model.revision()
    {
        model.commit(&txn).unwrap();
    }
    assert_eq!(contents(&store), (model.entries.values().cloned().collect(), model.revision()));
    check_history(&store, &model);
    wait(store.commit(Txn::new().put("/k/after", *b"v"))).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn no_power_cut_loses_an_acknowledged_write_or_halves_one(
        ops in ops(),
        cut in 0..300u32,
        fates in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        check_crash(&ops, cut, &fates);
    }

    #[test]
    fn damage_is_named_and_never_a_panic(at in any::<prop::sample::Index>(), count in 1..50usize) {
        let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
        let store = Memory::open(&medium, clock.clone()).unwrap();
        for n in 0..20 {
            wait(store.commit(Txn::new().put(format!("/k/{n}"), vec![n; 200]))).unwrap();
        }
        let before = contents(&store);
        drop(store);
        let offset = at.index(medium.used_bytes());
        (0..count).for_each(|n| medium.flip(offset + n));
        match Memory::open(&medium, clock) {
            Ok(store) => assert_eq!(contents(&store), before, "damage in a place that holds nothing"),
            Err(OpenError::Corrupt(_) | OpenError::Io(_) | OpenError::Newer { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_full_disk_refuses_whole_writes_and_takes_them_again_once_there_is_room() {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let store = Memory::open(&medium, clock).unwrap();
    let mut written = 0;
    medium.limit(Some(medium.used_bytes() + (1 << 20)));
    let refused = loop {
        let txn =
            Txn::new().put(format!("/a/{written}"), vec![7; 60_000]).put(format!("/b/{written}"), vec![7; 60_000]);
        match wait(store.commit(txn)) {
            Ok(_) => written += 1,
            Err(refused) => break refused,
        }
        assert!(written < 1000, "the disk never ran full");
    };
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    assert!(written > 1);
    assert_eq!(contents(&store).0.len(), written * 2);
    medium.limit(None);
    wait(store.commit(Txn::new().put("/c", *b"room"))).unwrap();
    assert_eq!(contents(&store).1, Revision(written as u64 + 1));
}

#[test]
fn a_failed_sync_acknowledges_nothing_more_until_a_restart() {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let store = Memory::open(&medium, clock.clone()).unwrap();
    wait(store.commit(Txn::new().put("/k", *b"1"))).unwrap();
    medium.fail_syncs(1);
    for _ in 0..2 {
        let answer = wait(store.commit(Txn::new().put("/k", *b"2")));
        assert!(matches!(answer, Err(Error::Uncertain(_))), "{answer:?}");
    }
    assert_eq!(&*wait(store.get("/k")).unwrap().unwrap().value, b"1");
    medium.crash();
    drop(store);
    let store = Memory::open(&medium, clock).unwrap();
    assert_eq!(&*wait(store.get("/k")).unwrap().unwrap().value, b"1");
    wait(store.commit(Txn::new().put("/k", *b"3"))).unwrap();
}

#[test]
fn what_is_read_after_a_failed_sync_is_made_durable_first() {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let store = Memory::open(&medium, clock.clone()).unwrap();
    // So many that what is written later leaves most pages as they are.
    for n in 0..100 {
        wait(store.commit(Txn::new().put(format!("/k{n:02}"), vec![1; 2000]))).unwrap();
    }
    medium.give_up_a_sync();
    assert!(matches!(wait(store.commit(Txn::new().put("/k00", *b"2"))), Err(Error::Uncertain(_))));
    drop(store);
    // The program starts anew, the machine doesn't.
    let store = Memory::open(&medium, clock.clone()).unwrap();
    let seen = wait(store.get("/k00")).unwrap();
    wait(store.commit(Txn::new().put("/other", *b"3"))).unwrap();
    medium.crash();
    drop(store);
    let store = Memory::open(&medium, clock).unwrap();
    assert_eq!(wait(store.get("/k00")).unwrap(), seen, "somebody acted on it");
    assert!(wait(store.get("/other")).unwrap().is_some());
    assert_eq!(wait(store.list("/k")).unwrap().0.len(), 100);
}

#[test]
fn a_sync_that_fails_while_the_file_is_opened_anew_is_not_forgotten() {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let store = Memory::open(&medium, clock).unwrap();
    wait(store.commit(Txn::new().put("/k", *b"1"))).unwrap();
    // It finds no room, so the file is opened anew, which writes and syncs.
    medium.limit(Some(medium.used_bytes()));
    medium.fail_syncs(1);
    assert!(wait(store.commit(Txn::new().put("/large", vec![2; 400_000]))).is_err());
    medium.limit(None);
    // What that sync gave up would not be written by the next one.
    assert!(matches!(wait(store.commit(Txn::new().put("/k", *b"3"))), Err(Error::Uncertain(_))));
    assert_eq!(&*wait(store.get("/k")).unwrap().unwrap().value, b"1");
}

/// A disk that counts its syncs.
#[derive(Debug)]
pub(crate) struct Counted(pub(crate) Arc<dyn Disk>, pub(crate) Arc<AtomicUsize>);

impl Disk for Counted {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.sync()
    }

    fn doubt(&self, doubted: bool) -> io::Result<()> {
        self.0.doubt(doubted)
    }

    fn is_doubted(&self) -> io::Result<bool> {
        self.0.is_doubted()
    }
}

#[test]
fn many_waiting_writes_share_a_sync() {
    let syncs = Arc::new(AtomicUsize::new(0));
    let disk = Counted(RamDisk::new().attach(), syncs.clone());
    let store = Embedded::on(Arc::new(disk), Arc::new(Stopped::default())).unwrap();
    let asked: Vec<_> = (0..2000).map(|n| store.commit(Txn::new().put(format!("/k/{n}"), *b"v"))).collect();
    // The futures are polled together, so most of them wait while the first is made durable.
    let answers = wait(all(asked));
    let mut revisions: Vec<u64> = answers.into_iter().map(|answer| answer.unwrap().0).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=2000).collect::<Vec<u64>>());
    let syncs = syncs.load(Ordering::SeqCst);
    assert!(syncs < 1000, "{syncs} syncs for 2000 writes");
}

pub(crate) async fn all<T>(mut pending: Vec<Pending<'_, T>>) -> Vec<Result<T, Error>> {
    let mut answers: Vec<Option<Result<T, Error>>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (slot, future) in answers.iter_mut().zip(&mut pending) {
            if slot.is_none()
                && let std::task::Poll::Ready(answer) = future.as_mut().poll(context)
            {
                *slot = Some(answer);
            }
        }
        if answers.iter().any(Option::is_none) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(answers.iter_mut().filter_map(Option::take).collect())
    })
    .await
}

#[test]
fn a_store_in_use_names_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/er/state.redb");
    let first = open(&path).unwrap();
    let Err(second) = open(&path) else { panic!("opened twice") };
    assert!(second.to_string().contains(&format!("process {}", std::process::id())), "{second}");
    drop(first);
    open(&path).unwrap();
}

#[test]
fn what_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, [b'x'; 9000]).unwrap();
    let Err(error) = open(&garbage) else { panic!("opened garbage") };
    assert!(matches!(error, OpenError::Corrupt(_)), "{error:?}");
    let Err(error) = open(Path::new("/proc/nowhere/state.redb")) else { panic!("opened in /proc") };
    assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    let Err(error) = open(directory.path()) else { panic!("opened a directory") };
    assert!(matches!(error, OpenError::Io(_)), "{error:?}");
}

#[test]
fn a_newer_format_is_refused_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    drop(open(&path).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<&str, u64>::new("meta"))
        .unwrap()
        .insert("schema", crate::SCHEMA + 1)
        .unwrap();
    txn.commit().unwrap();
    drop(database);
    let Err(error) = open(&path) else { panic!("opened a newer format") };
    assert!(matches!(error, OpenError::Newer { found, .. } if found == crate::SCHEMA + 1), "{error:?}");
}

#[test]
fn a_lease_ends_without_a_call() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(byrnie_base::clock::SystemClock::new());
    let store = Embedded::open(&directory.path().join("state.redb"), clock).unwrap();
    // Long enough for a busy disk: what comes by a lease has to come before its end.
    let lease = wait(store.grant(Duration::from_secs(2))).unwrap();
    let revision = wait(store.commit(Txn::new().put_leased("/k", *b"v", lease))).unwrap();
    let mut watch = store.watch("/k", revision);
    let gone = wait(watch.next()).unwrap();
    assert_eq!(gone.events[0].after, None);
    assert_eq!(wait(store.keep_alive(lease)), Err(Error::UnknownLease(lease)));
}
