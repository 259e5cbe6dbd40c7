// SPDX-License-Identifier: Apache-2.0
//! The suite on both backends of this machine, and what only a disk can do to a ledger.

use super::suite::*;
use super::*;
use crate::disk::{Fate, RamDisk};
use crate::suite::{Stopped, wait};
use crate::{Error, OpenError, ledger};
use byrnie_base::Clock;
use byrnie_saga::ledger::State;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn memory() -> Subject {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let own = clock.clone();
    subject(clock, move || Box::new(ledger::Memory::open(&medium, own.clone()).unwrap()))
}

fn embedded() -> Subject {
    let (clock, directory) = (Arc::new(Stopped::default()), tempfile::tempdir().unwrap());
    let own = clock.clone();
    let open = move || ledger::Embedded::open(&directory.path().join("ledger.redb"), own.clone());
    subject(clock, move || Box::new(open().unwrap()))
}

fn subject(clock: Arc<Stopped>, mut open: impl FnMut() -> Box<dyn Ledger> + 'static) -> Subject {
    Subject { ledger: Some(open()), clock, open: Box::new(open), told: Box::new(drop) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn memory_keeps_the_rules(ops in ops()) {
        check(&mut memory(), &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn embedded_keeps_the_rules(ops in ops()) {
        check(&mut embedded(), &ops);
    }
}

#[test]
fn both_hold_their_limits() {
    check_limits(&mut memory());
    check_limits(&mut embedded());
}

/// A power cut at any point of a write, with any part of what wasn't synced on the medium: what was
/// answered is there, and what wasn't happened whole or not at all.
fn check_crash(ops: &[Op], cut: u32, fates: &[u8]) {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let ledger = ledger::Memory::open(&medium, clock.clone()).unwrap();
    let mut model = Model::default();
    medium.cut_power_after(cut);
    let mut torn = None;
    for op in ops {
        let now = clock.now().wall;
        let failed = match op.clone() {
            Op::Begin { name: n, print, claim, lease, ttl, again } => {
                let ask = begin_of(print, claim, lease, ttl, again);
                match wait(ledger.begin(name(n), ask)) {
                    Ok(begun) => {
                        assert_eq!(begun, model.begin(name(n), &ask, now));
                        None
                    }
                    Err(_) => Some(n),
                }
            }
            Op::Finish { name: n, claim, ending, size } => {
                let ending = ending_of(ending, size);
                match wait(ledger.finish(name(n), Claim(claim), ending.clone())) {
                    Ok(finished) => {
                        assert_eq!(finished, model.finish(name(n), Claim(claim), ending, now));
                        None
                    }
                    Err(_) => Some(n),
                }
            }
            Op::Advance(millis) => {
                clock.advance(Duration::from_millis(millis));
                None
            }
            Op::Read(_) | Op::Sweep | Op::Reopen => None,
        };
        if failed.is_some() {
            torn = failed;
            break;
        }
    }
    drop(ledger);
    let mut fates = fates.iter().cycle();
    medium.crash_with(|_| match fates.next().copied().unwrap_or(0) {
        fate @ 0..=84 => Fate::Torn(usize::from(fate) * 97),
        85..=169 => Fate::Lost,
        _ => Fate::Kept,
    });
    let ledger = ledger::Memory::open(&medium, clock.clone()).unwrap();
    for n in (0..4).filter(|n| Some(*n) != torn) {
        assert_eq!(wait(ledger.read(name(n))).unwrap(), model.read(&name(n), clock.now().wall), "name {n}");
    }
    // The torn one can be read, too, and still be begun or told about.
    let _ = torn.map(|n| wait(ledger.read(name(n))).unwrap());
    wait(ledger.sweep()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_power_cut_loses_no_answer(ops in ops(), cut in 0..160u32, fates in proptest::collection::vec(any::<u8>(), 1..40)) {
        check_crash(&ops, cut, &fates);
    }
}

#[test]
fn a_disk_that_fails_answers_nobody_as_if_it_had_written() {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let ledger = ledger::Memory::open(&medium, clock.clone()).unwrap();
    medium.limit(Some(medium.used_bytes()));
    let mut begun = 0;
    let refused = (0..2000u64).find_map(|n| {
        let name = Name { key: format!("{n}").into(), ..name(0) };
        match wait(ledger.begin(name.clone(), begin_of(1, n, 10, 10, false))) {
            Ok(_) => {
                begun += 1;
                let ending = Ending::Done(vec![7; 60_000].into());
                wait(ledger.finish(name, Claim(n), ending)).err()
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(refused, Some(Error::Refused(_))), "{refused:?} after {begun}");
    // With room it goes on, and remembers what it answered.
    medium.limit(None);
    assert_eq!(wait(ledger.begin(name(3), begin_of(1, 9, 10, 10, false))), Ok(Begun::Granted { again: false }));
    medium.fail_syncs(1);
    assert!(matches!(wait(ledger.begin(name(2), begin_of(1, 9, 10, 10, false))), Err(Error::Uncertain(_))));
    assert!(matches!(wait(ledger.begin(name(1), begin_of(1, 9, 10, 10, false))), Err(Error::Uncertain(_))));
    drop(ledger);
    medium.crash();
    let ledger = ledger::Memory::open(&medium, clock).unwrap();
    let entry = wait(ledger.read(name(3))).unwrap().unwrap();
    assert!(matches!(entry.state, State::InFlight { .. }));
}

#[test]
fn what_is_read_after_a_failed_sync_is_made_durable_first() {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let open = || ledger::Memory::open(&medium, clock.clone()).unwrap();
    let name = |n: u64| Name { key: format!("{n:03}").into(), ..name(0) };
    let begin = |ledger: &ledger::Memory, n| wait(ledger.begin(name(n), begin_of(1, 9, 1000, 1000, false)));
    let first = open();
    // So many that what is written later leaves most pages as they are.
    for n in 1..400 {
        begin(&first, n).unwrap();
    }
    medium.give_up_a_sync();
    assert!(matches!(begin(&first, 0), Err(Error::Uncertain(_))));
    drop(first);
    // The program starts anew, the machine doesn't.
    let second = open();
    let seen = wait(second.read(name(0))).unwrap();
    begin(&second, 999).unwrap();
    medium.crash();
    drop(second);
    let third = open();
    assert_eq!(wait(third.read(name(0))).unwrap(), seen, "somebody acted on it");
    for n in [1, 399, 999] {
        assert!(wait(third.read(name(n))).unwrap().is_some(), "{n}");
    }
}

#[test]
fn a_damaged_or_newer_file_is_refused_not_guessed_at() {
    let (clock, medium) = (Arc::new(Stopped::default()), RamDisk::new());
    let ledger = ledger::Memory::open(&medium, clock.clone()).unwrap();
    for n in 0..50u64 {
        let name = Name { key: format!("{n}").into(), ..name(0) };
        wait(ledger.begin(name, begin_of(1, n, 1000, 1000, false))).unwrap();
    }
    drop(ledger);
    medium.crash();
    let length = medium.used_bytes();
    for offset in [0, 9, 4096 * 3 + 100, length / 2] {
        medium.flip(offset);
        match ledger::Memory::open(&medium, clock.clone()) {
            Err(OpenError::Corrupt(_) | OpenError::Io(_)) => {}
            Err(other) => panic!("{other}"),
            // A byte that nothing uses.
            Ok(ledger) => assert!(wait(ledger.read(Name { key: "7".into(), ..name(0) })).unwrap().is_some()),
        }
        medium.flip(offset);
    }
    assert!(ledger::Memory::open(&medium, clock).is_ok());
}
