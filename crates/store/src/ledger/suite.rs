// SPDX-License-Identifier: Apache-2.0
//! The behaviour that every ledger must pass: random calls against the bare rules on a map, with restarts
//! in between. A backend's tests call it with a [`Subject`] that can be opened again.

use super::*;
use crate::Error;
use crate::suite::{Stopped, wait};
use byrnie_base::{Clock, Timestamp};
use byrnie_saga::ledger::{self as rules, Change, Fingerprint};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A ledger under test.
pub(crate) struct Subject {
    pub(crate) ledger: Option<Box<dyn Ledger>>,
    pub(crate) clock: Arc<Stopped>,
    pub(crate) open: Box<dyn FnMut() -> Box<dyn Ledger>>,
    /// Hears what time it is now, where the ledger has a clock of its own.
    pub(crate) told: Box<dyn FnMut(Timestamp)>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Begin { name: u8, print: u8, claim: u64, lease: u64, ttl: u64, again: bool },
    Finish { name: u8, claim: u64, ending: u8, size: usize },
    Read(u8),
    Sweep,
    Advance(u64),
    Reopen,
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let begin = (0..4u8, 0..2u8, 0..6u64, 1..60u64, 1..200u64, any::<bool>())
        .prop_map(|(name, print, claim, lease, ttl, again)| Op::Begin { name, print, claim, lease, ttl, again });
    let finish = (0..4u8, 0..6u64, 0..4u8, 0..5000usize).prop_map(|(name, claim, ending, size)| Op::Finish {
        name,
        claim,
        ending,
        size,
    });
    let op = prop_oneof![
        6 => begin,
        6 => finish,
        2 => (0..4u8).prop_map(Op::Read),
        1 => Just(Op::Sweep),
        3 => (0..80u64).prop_map(Op::Advance),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..60)
}

pub(crate) fn name(n: u8) -> Name {
    // The first three would be one name if their parts were only put together.
    let (service, caller, key) =
        [("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"), ("pay.shop", "x", "k")][usize::from(n)];
    Name { service: service.into(), caller: caller.into(), key: key.into() }
}

pub(crate) fn begin_of(print: u8, claim: u64, lease: u64, ttl: u64, again: bool) -> Begin {
    Begin {
        fingerprint: Fingerprint([print; 32]),
        claim: Claim(claim),
        lease: Duration::from_millis(lease),
        ttl: Duration::from_millis(ttl),
        again,
    }
}

pub(crate) fn ending_of(ending: u8, size: usize) -> Ending {
    match ending {
        0 => Ending::Unsent,
        1 => Ending::Ambiguous,
        _ => Ending::Done(vec![ending; size].into()),
    }
}

/// The rules on a map.
#[derive(Default)]
pub(crate) struct Model(BTreeMap<Name, Entry>);

impl Model {
    fn apply(&mut self, name: Name, change: Change) {
        match change {
            Change::None => None,
            Change::Put(entry) => self.0.insert(name, entry),
            Change::Remove => self.0.remove(&name),
        };
    }

    pub(crate) fn begin(&mut self, name: Name, ask: &Begin, now: Timestamp) -> Begun {
        let (begun, change) = rules::begin(self.0.get(&name), ask, now);
        self.apply(name, change);
        begun
    }

    pub(crate) fn finish(&mut self, name: Name, claim: Claim, ending: Ending, now: Timestamp) -> Finished {
        let (finished, change) = rules::finish(self.0.get(&name), claim, ending, now);
        self.apply(name, change);
        finished
    }

    pub(crate) fn read(&self, name: &Name, now: Timestamp) -> Option<Entry> {
        self.0.get(name).filter(|entry| !entry.is_over(now)).cloned()
    }

    fn sweep(&mut self, now: Timestamp) -> usize {
        let before = self.0.len();
        self.0.retain(|_, entry| !entry.is_over(now));
        before - self.0.len()
    }
}

pub(crate) fn check(subject: &mut Subject, ops: &[Op]) {
    let mut model = Model::default();
    for op in ops {
        let now = subject.clock.now().wall;
        let Some(ledger) = subject.ledger.as_deref() else { panic!("no ledger") };
        match op.clone() {
            Op::Begin { name: n, print, claim, lease, ttl, again } => {
                let ask = begin_of(print, claim, lease, ttl, again);
                assert_eq!(wait(ledger.begin(name(n), ask)), Ok(model.begin(name(n), &ask, now)), "{op:?}");
            }
            Op::Finish { name: n, claim, ending, size } => {
                let ending = ending_of(ending, size);
                let found = wait(ledger.finish(name(n), Claim(claim), ending.clone()));
                assert_eq!(found, Ok(model.finish(name(n), Claim(claim), ending, now)), "{op:?}");
            }
            Op::Read(n) => assert_eq!(wait(ledger.read(name(n))), Ok(model.read(&name(n), now))),
            Op::Sweep => assert_eq!(wait(ledger.sweep()), Ok(model.sweep(now))),
            Op::Advance(millis) => {
                subject.clock.advance(Duration::from_millis(millis));
                (subject.told)(subject.clock.now().wall);
            }
            Op::Reopen => {
                subject.ledger = None;
                subject.ledger = Some((subject.open)());
            }
        }
    }
}

/// What no proxy of ours asks is refused, and leaves no trace.
pub(crate) fn check_limits(subject: &mut Subject) {
    let Some(ledger) = subject.ledger.as_deref() else { panic!("no ledger") };
    let ask = begin_of(1, 1, 10, 10, false);
    let bad = [
        Name { key: "".into(), ..name(0) },
        Name { key: "k".repeat(rules::KEY_BYTES_MAX + 1).into(), ..name(0) },
        Name { caller: "".into(), ..name(0) },
        Name { service: "s".repeat(rules::SCOPE_BYTES_MAX + 1).into(), ..name(0) },
    ];
    for name in bad {
        assert!(matches!(wait(ledger.begin(name, ask)), Err(Error::Malformed(_))));
    }
    assert_eq!(wait(ledger.begin(name(0), ask)), Ok(Begun::Granted { again: false }));
    let large = Ending::Done(vec![0; rules::KEPT_BYTES_MAX + 1].into());
    assert!(matches!(wait(ledger.finish(name(0), Claim(1), large)), Err(Error::Limit { .. })));
    let largest = Ending::Done(vec![0; rules::KEPT_BYTES_MAX].into());
    assert_eq!(wait(ledger.finish(name(0), Claim(1), largest)), Ok(Finished::Recorded));
}
