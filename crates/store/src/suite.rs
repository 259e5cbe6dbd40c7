// SPDX-License-Identifier: Apache-2.0
//! The behaviour that every store must pass: random operations against a naive model, and the
//! guarantees of watches. A backend's tests call it with a [`Subject`] that can be opened again.

use crate::store::*;
use crate::watch::{Changes, Ended};
use byrnie_base::{Clock, Instant, Now, Timestamp};
use byrnie_model::Revision;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// A clock that stands still until it is moved.
#[derive(Default)]
pub(crate) struct Stopped(AtomicU64);

impl Stopped {
    pub(crate) fn advance(&self, span: Duration) {
        self.0.fetch_add(span.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for Stopped {
    fn now(&self) -> Now {
        let nanos = self.0.load(Ordering::SeqCst);
        Now { mono: Instant::from_nanos(nanos), wall: Timestamp::from_millis(nanos / 1_000_000) }
    }
}

/// Waits for `future` on this thread.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A store under test.
pub(crate) struct Subject {
    pub(crate) store: Option<Box<dyn Store>>,
    pub(crate) clock: Arc<Stopped>,
    pub(crate) open: Box<dyn FnMut() -> Box<dyn Store>>,
}

impl Subject {
    pub(crate) fn new(clock: Arc<Stopped>, mut open: impl FnMut() -> Box<dyn Store> + 'static) -> Self {
        Self { store: Some(open()), clock, open: Box::new(open) }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_deref().unwrap()
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some((self.open)());
    }

    /// Moves the clock and has the store look at it.
    fn advance(&self, span: Duration) {
        self.clock.advance(span);
        wait(self.store().commit(Txn::new().delete("/nothing"))).unwrap();
    }
}

/// One thing that a client does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Commit(Vec<(u8, Ask)>, Vec<(u8, Want)>),
    Grant(u64),
    KeepAlive(usize),
    Revoke(usize),
    Advance(u64),
    Reopen,
}

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Put(u8),
    PutLeased(u8, usize),
    Delete,
}

#[derive(Clone, Debug)]
pub(crate) enum Want {
    Any,
    Absent,
    Right,
    Wrong,
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let ask = prop_oneof![
        4 => any::<u8>().prop_map(Ask::Put),
        2 => (any::<u8>(), 0..6usize).prop_map(|(value, lease)| Ask::PutLeased(value, lease)),
        2 => Just(Ask::Delete),
    ];
    let want =
        prop_oneof![1 => Just(Want::Any), 1 => Just(Want::Absent), 4 => Just(Want::Right), 1 => Just(Want::Wrong)];
    let commit = (proptest::collection::vec((0..12u8, ask), 0..5), proptest::collection::vec((0..12u8, want), 0..2));
    let op = prop_oneof![
        12 => commit.prop_map(|(asks, wants)| Op::Commit(asks, wants)),
        2 => (1..5_000u64).prop_map(Op::Grant),
        2 => (0..6usize).prop_map(Op::KeepAlive),
        1 => (0..6usize).prop_map(Op::Revoke),
        2 => (0..3_000u64).prop_map(Op::Advance),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..60)
}

/// What the store should be, written as simply as can be.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) history: Vec<Changes>,
    leases: BTreeMap<Lease, (Duration, Duration)>,
    now: Duration,
    granted: Vec<Lease>,
}

impl Model {
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.history.len() as u64)
    }

    fn lease(&self, index: usize) -> Lease {
        self.granted.get(index).copied().unwrap_or(Lease(999))
    }

    /// The transaction that `asks` and `wants` mean.
    pub(crate) fn txn(&self, asks: &[(u8, Ask)], wants: &[(u8, Want)]) -> Txn {
        let mut txn = Txn::new();
        for (key, want) in wants {
            let key = format!("/k/{key}");
            let found = self.entries.get(&key).map(|entry| entry.modified);
            let expect = match (want, found) {
                (Want::Any, _) => Expect::Any,
                (Want::Absent, _) | (Want::Right, None) => Expect::Absent,
                (Want::Right, Some(found)) => Expect::At(found),
                (Want::Wrong, found) => Expect::At(Revision(found.map_or(1, |found| found.0 + 1))),
            };
            txn = txn.expect(key.as_str(), expect);
        }
        for (key, ask) in asks {
            let key = format!("/k/{key}");
            txn = match ask {
                Ask::Put(value) => txn.put(key.as_str(), vec![*value; 3]),
                Ask::PutLeased(value, lease) => txn.put_leased(key.as_str(), vec![*value], self.lease(*lease)),
                Ask::Delete => txn.delete(key.as_str()),
            };
        }
        txn
    }

    pub(crate) fn commit(&mut self, txn: &Txn) -> Result<Revision, Error> {
        let mut keys: Vec<_> = txn.writes.iter().map(Write::key).collect();
        keys.sort();
        keys.dedup();
        if keys.len() < txn.writes.len() {
            return Err(Error::Malformed("a key is written twice"));
        }
        for (key, expect) in &txn.expects {
            let found = self.entries.get(&**key).map(|entry| entry.modified);
            let holds = *expect == Expect::Any
                || (*expect == Expect::Absent && found.is_none())
                || found.is_some_and(|found| *expect == Expect::At(found));
            if !holds {
                return Err(Error::Conflict { key: key.clone(), expect: *expect, found });
            }
        }
        for write in &txn.writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && !self.leases.contains_key(lease)
            {
                return Err(Error::UnknownLease(*lease));
            }
        }
        self.write(&txn.writes);
        Ok(self.revision())
    }

    fn write(&mut self, writes: &[Write]) {
        let revision = Revision(self.history.len() as u64 + 1);
        let mut events = Vec::new();
        for write in writes {
            let before = self.entries.remove(&**write.key());
            let after = match write {
                Write::Put { key, value, lease } => Some(Entry {
                    key: key.clone(),
                    value: value.clone(),
                    created: before.as_ref().map_or(revision, |before| before.created),
                    modified: revision,
                    lease: *lease,
                }),
                Write::Delete { .. } => None,
            };
            if let Some(after) = &after {
                self.entries.insert(after.key.to_string(), after.clone());
            }
            if before.is_some() || after.is_some() {
                events.push(Event { key: write.key().clone(), before, after });
            }
        }
        if !events.is_empty() {
            self.history.push(Changes { revision, events });
        }
    }

    fn end(&mut self, leases: &[Lease]) {
        let held = |entry: &&Entry| entry.lease.is_some_and(|lease| leases.contains(&lease));
        let deletes = self.entries.values().filter(held).map(|entry| Write::Delete { key: entry.key.clone() });
        let deletes: Vec<Write> = deletes.collect();
        self.write(&deletes);
        self.leases.retain(|lease, _| !leases.contains(lease));
    }
}

/// Runs `ops` on both and compares every answer, then all that can be read, then the same once more
/// after a restart.
pub(crate) fn check(subject: &mut Subject, ops: &[Op]) {
    let mut model = Model::default();
    for op in ops {
        step(subject, &mut model, op);
        assert_eq!(contents(subject.store()), (model.entries.values().cloned().collect(), model.revision()), "{op:?}");
    }
    check_history(subject.store(), &model);
    subject.reopen();
    assert_eq!(contents(subject.store()), (model.entries.values().cloned().collect(), model.revision()));
    check_history(subject.store(), &model);
}

fn step(subject: &mut Subject, model: &mut Model, op: &Op) {
    match op {
        Op::Commit(asks, wants) => {
            let txn = model.txn(asks, wants);
            assert_eq!(wait(subject.store().commit(txn.clone())), model.commit(&txn));
        }
        Op::Grant(millis) => {
            let span = Duration::from_millis(*millis);
            let lease = wait(subject.store().grant(span)).unwrap();
            assert!(!model.granted.contains(&lease), "a lease number is used once");
            model.granted.push(lease);
            model.leases.insert(lease, (span, model.now + span));
        }
        Op::KeepAlive(index) => {
            let lease = model.lease(*index);
            let now = model.now;
            let known = model.leases.get_mut(&lease).map(|(span, ends)| *ends = now + *span);
            assert_eq!(wait(subject.store().keep_alive(lease)), known.ok_or(Error::UnknownLease(lease)));
        }
        Op::Revoke(index) => {
            let lease = model.lease(*index);
            let known = model.leases.contains_key(&lease).then_some(()).ok_or(Error::UnknownLease(lease));
            assert_eq!(wait(subject.store().revoke(lease)), known);
            model.end(&[lease]);
        }
        Op::Advance(millis) => {
            let span = Duration::from_millis(*millis);
            subject.advance(span);
            model.now += span;
            let over: Vec<Lease> =
                model.leases.iter().filter(|(_, (_, ends))| *ends <= model.now).map(|(lease, _)| *lease).collect();
            model.end(&over);
        }
        Op::Reopen => {
            subject.reopen();
            for (span, ends) in model.leases.values_mut() {
                *ends = model.now + *span;
            }
        }
    }
}

pub(crate) fn contents(store: &dyn Store) -> (Vec<Entry>, Revision) {
    wait(store.list("")).unwrap()
}

/// A watch from every revision sees each later change once, whole, in order; under a prefix it sees
/// that part; a revision that never was is answered by the order to read anew.
pub(crate) fn check_history(store: &dyn Store, model: &Model) {
    for from in 0..=model.history.len() {
        let seen = drain(store, "", Revision(from as u64));
        assert_eq!(seen, model.history[from..]);
    }
    let part = |changes: &Changes| {
        let events: Vec<Event> = changes.events.iter().filter(|e| e.key.starts_with("/k/1")).cloned().collect();
        (!events.is_empty()).then_some(Changes { revision: changes.revision, events })
    };
    let expected: Vec<Changes> = model.history.iter().filter_map(part).collect();
    assert_eq!(drain(store, "/k/1", Revision(0)), expected);
    let never = Revision(model.history.len() as u64 + 1);
    assert!(matches!(store.watch("", never).try_next(), Err(Ended::Compacted { .. })));
    for (key, entry) in &model.entries {
        assert_eq!(wait(store.get(key)).unwrap().as_ref(), Some(entry));
    }
}

/// Everything that a watch has to say now.
pub(crate) fn drain(store: &dyn Store, prefix: &str, from: Revision) -> Vec<Changes> {
    let mut watch = store.watch(prefix, from);
    let mut seen = Vec::new();
    while let Some(changes) = watch.try_next().unwrap() {
        assert_eq!(watch.revision(), changes.revision);
        seen.push(changes);
    }
    seen
}

/// The limits are held, and what they refuse leaves no trace.
pub(crate) fn check_limits(subject: &mut Subject) {
    let store = subject.store();
    let refused = [
        Txn::new().put("k".repeat(KEY_BYTES_MAX + 1), *b"v"),
        Txn::new().put("/k", vec![0; VALUE_BYTES_MAX + 1]),
        Txn::new().put("", *b"v"),
        Txn::new().put("/k", *b"1").delete("/k"),
        (0..=TXN_WRITES_MAX).fold(Txn::new(), |txn, n| txn.put(format!("/k/{n}"), *b"v")),
        (0..17).fold(Txn::new(), |txn, n| txn.put(format!("/k/{n}"), vec![0; VALUE_BYTES_MAX])),
        (0..=TXN_WRITES_MAX).fold(Txn::new(), |txn, n| txn.expect(format!("/k/{n}"), Expect::Any)),
    ];
    for txn in refused {
        let answer = wait(store.commit(txn));
        assert!(matches!(answer, Err(Error::Limit { .. } | Error::Malformed(_))), "{answer:?}");
    }
    assert!(wait(store.grant(Duration::ZERO)).is_err());
    assert!(wait(store.grant(LEASE_SPAN_MAX + Duration::from_secs(1))).is_err());
    assert_eq!(contents(store), (vec![], Revision(0)));
}

/// History is bounded: who is too far behind is told to read anew, who isn't resumes, before and
/// after a restart.
pub(crate) fn check_compaction(subject: &mut Subject) {
    let writes = 1000;
    for round in 0..HISTORY_EVENTS_MAX / writes + 2 {
        let value = round.to_string();
        let txn = (0..writes).fold(Txn::new(), |txn, n| txn.put(format!("/k/{n}"), value.clone().into_bytes()));
        wait(subject.store().commit(txn)).unwrap();
    }
    for _ in 0..2 {
        let newest = contents(subject.store()).1;
        let Err(Ended::Compacted { oldest }) = subject.store().watch("", Revision(0)).try_next() else {
            panic!("history has no end")
        };
        let kept = drain(subject.store(), "", oldest);
        assert_eq!(kept.iter().map(|changes| changes.events.len()).sum::<usize>(), HISTORY_EVENTS_MAX);
        assert_eq!(kept.last().unwrap().revision, newest);
        subject.reopen();
    }
}

/// A waiting watch is woken by the write it waits for, and by the end of the store.
pub(crate) fn check_waking(subject: &mut Subject) {
    let mut watch = subject.store().watch("/k", Revision(0));
    let waiter = std::thread::spawn(move || (wait(watch.next()), wait(watch.next())));
    wait(subject.store().commit(Txn::new().put("/other", *b"v"))).unwrap();
    let revision = wait(subject.store().commit(Txn::new().put("/k", *b"v"))).unwrap();
    subject.store = None;
    let (first, second) = waiter.join().unwrap();
    assert_eq!(first.unwrap().revision, revision);
    assert_eq!(second, Err(Ended::Closed));
}
