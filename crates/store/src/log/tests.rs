// SPDX-License-Identifier: Apache-2.0
//! The behaviour that every journal must pass, on each backend, and what only a disk can do to it.

use super::*;
use crate::Error;
use crate::disk::{Fate, RamDisk};
use crate::suite::wait;
use crate::tests::{Counted, all};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A journal under test that can be opened again.
struct Subject {
    journal: Option<Box<dyn Journal>>,
    open: Box<dyn FnMut() -> Box<dyn Journal>>,
}

impl Subject {
    fn new(mut open: impl FnMut() -> Box<dyn Journal> + 'static) -> Self {
        Self { journal: Some(open()), open: Box::new(open) }
    }

    fn journal(&self) -> &dyn Journal {
        self.journal.as_deref().unwrap()
    }

    fn reopen(&mut self) {
        self.journal = None;
        self.journal = Some((self.open)());
    }
}

fn subjects() -> Vec<Subject> {
    let (one, two) = (RamDisk::new(), RamDisk::new());
    vec![
        Subject::new(move || Box::new(Memory::open(&one).unwrap())),
        Subject::new(move || Box::new(Embedded::on(two.attach()).unwrap())),
    ]
}

fn append(id: &str, after: u32, entries: &[&str], ended: Option<u64>) -> Append {
    Append {
        id: id.into(),
        after,
        entries: entries.iter().map(|entry| Value::from(entry.as_bytes())).collect(),
        summary: Value::from(format!("{id}@{}", after as usize + entries.len()).as_bytes()),
        ended: ended.map(Timestamp::from_millis),
    }
}

fn texts(values: &[Value]) -> Vec<String> {
    values.iter().map(|value| String::from_utf8(value.to_vec()).unwrap()).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Append(u8, i8, u8, bool),
    Forget(u8),
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0..8u8, -1..=1i8, 0..4u8, any::<bool>()).prop_map(|(id, off, n, end)| Op::Append(id, off, n, end)),
        1 => (0..60u8).prop_map(Op::Forget),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..50)
}

/// Ids of which some begin like others.
const IDS: [&str; 8] = ["order-1", "order-10", "order-1000", "order-1000000", "o", "order-2", "é", "order-1\u{0}"];

fn check(subject: &mut Subject, ops: &[Op]) {
    let mut model: BTreeMap<String, (Vec<String>, Option<u64>)> = BTreeMap::new();
    for (moment, op) in (1u64..).zip(ops) {
        match op {
            Op::Append(id, off, count, end) => {
                let id = IDS[usize::from(*id)];
                let has = model.get(id).map_or(0, |(entries, _)| entries.len());
                let after = u32::try_from(has as i64 + i64::from(*off)).unwrap_or(7);
                let entries: Vec<String> = (0..*count).map(|n| format!("{moment}/{n}")).collect();
                let borrowed: Vec<&str> = entries.iter().map(String::as_str).collect();
                let answer = wait(subject.journal().append(append(id, after, &borrowed, end.then_some(moment))));
                if after as usize == has {
                    answer.unwrap();
                    let known = model.entry(id.to_owned()).or_default();
                    known.0.extend(entries);
                    known.1 = end.then_some(moment);
                } else {
                    assert!(matches!(answer, Err(Error::Conflict { .. })), "{answer:?}");
                }
            }
            Op::Forget(before) => {
                let old = |(_, (_, ended)): &(&String, &(Vec<String>, Option<u64>))| {
                    ended.is_some_and(|e| e < u64::from(*before))
                };
                let gone: Vec<String> = model.iter().filter(old).map(|(id, _)| id.clone()).collect();
                let count = wait(subject.journal().forget(Timestamp::from_millis(u64::from(*before)), 100)).unwrap();
                assert_eq!(count, gone.len());
                model.retain(|id, _| !gone.contains(id));
            }
            Op::Reopen => subject.reopen(),
        }
    }
    for _ in 0..2 {
        compare(subject.journal(), &model);
        subject.reopen();
    }
}

fn compare(journal: &dyn Journal, model: &BTreeMap<String, (Vec<String>, Option<u64>)>) {
    for id in IDS {
        let expected = model.get(id).map(|(entries, _)| entries.clone()).unwrap_or_default();
        assert_eq!(texts(&wait(journal.read(id)).unwrap()), expected, "{id}");
    }
    let unfinished: Vec<Text> =
        model.iter().filter(|(_, (_, e))| e.is_none()).map(|(id, _)| id.as_str().into()).collect();
    assert_eq!(wait(journal.unfinished()).unwrap(), unfinished);
    let all: Vec<&str> = model.keys().rev().map(String::as_str).collect();
    let mut seen: Vec<Text> = Vec::new();
    loop {
        let page = wait(journal.list(seen.last().map(|id| &**id), 2)).unwrap();
        if page.is_empty() {
            break;
        }
        for heading in page {
            let (entries, ended) = &model[&*heading.id];
            assert_eq!(heading.ended.map(Timestamp::as_millis), *ended);
            assert_eq!(texts(&[heading.summary]), [format!("{}@{}", heading.id, entries.len())]);
            seen.push(heading.id);
        }
    }
    assert_eq!(seen.iter().map(|id| &**id).collect::<Vec<_>>(), all);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_journal_keeps_what_it_was_given(ops in ops()) {
        for mut subject in subjects() {
            check(&mut subject, &ops);
        }
    }
}

#[test]
fn limits_are_held_and_leave_no_trace() {
    for subject in subjects() {
        let journal = subject.journal();
        let large = Append { summary: vec![0; APPEND_BYTES_MAX].into(), ..append("x", 0, &["a"], None) };
        for refused in [append("", 0, &["a"], None), append(&"x".repeat(129), 0, &["a"], None), large] {
            let answer = wait(journal.append(refused));
            assert!(matches!(answer, Err(Error::Limit { .. } | Error::Malformed(_))), "{answer:?}");
        }
        assert_eq!(wait(journal.list(None, 9)).unwrap(), []);
    }
}

#[test]
fn appends_that_nobody_waits_for_keep_their_order() {
    for mut subject in subjects() {
        for n in 0..50 {
            drop(subject.journal().append(append("t", n, &[&n.to_string()], None)));
        }
        wait(subject.journal().append(append("t", 50, &["last"], None))).unwrap();
        subject.reopen();
        assert_eq!(wait(subject.journal().read("t")).unwrap().len(), 51);
    }
}

/// dtm's own file has one commit, with syncs of its own, for every change.
#[test]
fn transactions_beside_each_other_share_a_sync() {
    let syncs = Arc::new(AtomicUsize::new(0));
    let disk = Counted(RamDisk::new().attach(), Arc::clone(&syncs));
    let journal = Embedded::on(Arc::new(disk)).unwrap();
    let asked = (0..1000).map(|n| journal.append(append(&format!("t{n}"), 0, &["begun"], None))).collect();
    // The futures are polled together, so most of them wait while the first is made durable.
    assert!(wait(all(asked)).iter().all(Result::is_ok));
    let syncs = syncs.load(Ordering::SeqCst);
    assert!(syncs < 500, "{syncs} syncs for 1000 transactions");
}

/// Power is lost after every number of disk operations; what was acknowledged is there, whole, and nothing else.
#[test]
fn a_loss_of_power_keeps_what_was_acknowledged() {
    for cut in 1..60 {
        for torn in [false, true] {
            let medium = RamDisk::new();
            let journal = Memory::open(&medium).unwrap();
            medium.cut_power_after(cut);
            let mut acked = 0;
            while wait(journal.append(append("t", acked * 2, &["first half", "second half"], None))).is_ok() {
                acked += 1;
            }
            medium.crash_with(|index| match (torn, index % 3) {
                (true, 0) => Fate::Torn(7),
                (true, 1) => Fate::Kept,
                _ => Fate::Lost,
            });
            let found = wait(Memory::open(&medium).unwrap().read("t")).unwrap().len();
            let whole = found.is_multiple_of(2) && (found == 2 * acked as usize || found == 2 * acked as usize + 2);
            assert!(whole, "cut after {cut}, torn {torn}: {acked} acknowledged, {found} entries found");
        }
    }
}

#[test]
fn a_full_disk_refuses_whole_appends_until_there_is_room() {
    let medium = RamDisk::new();
    let journal = Memory::open(&medium).unwrap();
    wait(journal.append(append("a", 0, &["1"], None))).unwrap();
    medium.limit(Some(medium.used_bytes()));
    let large = "x".repeat(4 << 20);
    let refused = wait(journal.append(append("b", 0, &[&large], None)));
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(wait(journal.unfinished()).unwrap(), ["a"], "reads go on");
    medium.limit(None);
    wait(journal.append(append("b", 0, &[&large], None))).unwrap();
}

#[test]
fn a_failed_sync_is_never_taken_for_a_good_one() {
    let medium = RamDisk::new();
    let journal = Memory::open(&medium).unwrap();
    medium.fail_syncs(1);
    assert!(matches!(wait(journal.append(append("a", 0, &["1"], None))), Err(Error::Uncertain(_))));
    assert!(matches!(wait(journal.append(append("b", 0, &["1"], None))), Err(Error::Uncertain(_))), "until a restart");
    medium.crash();
    let journal = Memory::open(&medium).unwrap();
    wait(journal.append(append("b", 0, &["1"], None))).unwrap();
}
