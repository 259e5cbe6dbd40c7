// SPDX-License-Identifier: Apache-2.0
//! The behaviour that every journal must pass, on each backend, and what only a disk can do to it.

use super::*;
use crate::Error;
use crate::disk::{Fate, RamDisk};
use crate::suite::{Stopped, wait};
use crate::tests::{Counted, all};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A journal under test that can be opened again.
pub(super) struct Subject {
    journal: Option<Box<dyn Journal>>,
    open: Box<dyn FnMut() -> Box<dyn Journal>>,
    /// Lets the time of a lease pass.
    age: Box<dyn Fn()>,
}

impl Subject {
    pub(super) fn new(mut open: impl FnMut() -> Box<dyn Journal> + 'static, age: impl Fn() + 'static) -> Self {
        Self { journal: Some(open()), open: Box::new(open), age: Box::new(age) }
    }

    pub(super) fn journal(&self) -> &dyn Journal {
        self.journal.as_deref().unwrap()
    }

    fn reopen(&mut self) {
        self.journal = None;
        self.journal = Some((self.open)());
    }
}

fn memory() -> Subject {
    let (medium, clock) = (RamDisk::new(), Arc::new(Stopped::default()));
    let own = Arc::clone(&clock);
    let age = move || clock.advance(byrnie_saga::shards::LEASE);
    Subject::new(move || Box::new(Memory::open(&medium, own.clone()).unwrap()), age)
}

fn subjects() -> Vec<Subject> {
    let two = RamDisk::new();
    vec![memory(), Subject::new(move || Box::new(Embedded::on(two.attach()).unwrap()), || {})]
}

fn open(medium: &RamDisk) -> Memory {
    Memory::open(medium, Arc::new(Stopped::default())).unwrap()
}

pub(super) fn append(id: &str, after: u32, entries: &[&str], ended: Option<u64>) -> Append {
    Append {
        term: Term::default(),
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
pub(super) enum Op {
    Append(u8, i8, u8, bool),
    Forget(u8),
    Reopen,
}

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0..8u8, -1..=1i8, 0..4u8, any::<bool>()).prop_map(|(id, off, n, end)| Op::Append(id, off, n, end)),
        1 => (0..60u8).prop_map(Op::Forget),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..50)
}

/// Ids of which some begin like others.
const IDS: [&str; 8] = ["order-1", "order-10", "order-1000", "order-1000000", "o", "order-2", "é", "order-1\u{0}"];

pub(super) fn check(subject: &mut Subject, ops: &[Op]) {
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
        assert_eq!(texts(&wait(journal.read(id)).unwrap().entries), expected, "{id}");
    }
    let unfinished: Vec<Text> =
        model.iter().filter(|(_, (_, e))| e.is_none()).map(|(id, _)| id.as_str().into()).collect();
    assert_eq!(wait(journal.unfinished(vec![0])).unwrap(), unfinished);
    let all: Vec<&str> = model.keys().rev().map(String::as_str).collect();
    let mut listed = Vec::new();
    let mut seen: Vec<Text> = Vec::new();
    loop {
        let page = wait(journal.list(seen.last().map(|id| &**id), 2)).unwrap();
        if page.is_empty() {
            break;
        }
        for heading in page {
            let (entries, ended) = &model[&*heading.id];
            assert_eq!(heading.ended.map(Timestamp::as_millis), *ended);
            assert_eq!(texts(std::slice::from_ref(&heading.summary)), [format!("{}@{}", heading.id, entries.len())]);
            seen.push(heading.id.clone());
            listed.push(heading);
        }
    }
    assert_eq!(seen.iter().map(|id| &**id).collect::<Vec<_>>(), all);
    let mut named = wait(journal.headings(IDS.map(Text::from).to_vec())).unwrap();
    named.sort_unstable_by(|one, other| other.id.cmp(&one.id));
    assert_eq!(named, listed, "those that are there, by their names");
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
    subjects().iter().for_each(check_limits);
}

pub(super) fn check_limits(subject: &Subject) {
    let journal = subject.journal();
    let large = Append { summary: vec![0; APPEND_BYTES_MAX].into(), ..append("x", 0, &["a"], None) };
    for refused in [append("", 0, &["a"], None), append(&"x".repeat(129), 0, &["a"], None), large] {
        let answer = wait(journal.append(refused));
        assert!(matches!(answer, Err(Error::Limit { .. } | Error::Malformed(_))), "{answer:?}");
    }
    assert_eq!(wait(journal.list(None, 9)).unwrap(), []);
    let letter = wait(journal.post(0, vec![0; LETTER_BYTES_MAX + 1].into()));
    assert!(matches!(letter, Err(Error::Limit { .. })), "{letter:?}");
}

#[test]
fn appends_that_nobody_waits_for_keep_their_order() {
    subjects().iter_mut().for_each(check_order);
}

pub(super) fn check_order(subject: &mut Subject) {
    for n in 0..50 {
        drop(subject.journal().append(append("ordered", n, &[&n.to_string()], None)));
        // In between comes what is refused.
        drop(subject.journal().append(append("ordered", n, &["late"], None)));
    }
    wait(subject.journal().append(append("ordered", 50, &["last"], None))).unwrap();
    subject.reopen();
    assert_eq!(wait(subject.journal().read("ordered")).unwrap().entries.len(), 51);
}

fn beat(journal: &dyn Journal, name: &str, take: &[u16]) -> Board {
    wait(journal.beat(Beat { name: name.into(), take: take.to_vec(), ..Beat::default() })).unwrap()
}

#[test]
fn who_was_deposed_writes_nothing_more() {
    let mut subjects = subjects();
    subjects.iter().for_each(check_terms);
    check_leases(&subjects.remove(0));
}

/// Terms as two coordinators pass them to each other.
pub(super) fn check_terms(subject: &Subject) {
    let journal = subject.journal();
    let took = beat(journal, "a", &[3, 5]).taken;
    assert_eq!(took.iter().map(|term| term.shard).collect::<Vec<_>>(), [3, 5]);
    let in_term = |term: Term, id: &str, after: u32| Append { term, ..append(id, after, &["x"], None) };
    wait(journal.append(in_term(took[0], "t", 0))).unwrap();
    wait(journal.append(in_term(took[1], "u", 0))).unwrap();
    assert_eq!(wait(journal.read("t")).unwrap().shard, 3);
    assert_eq!(wait(journal.unfinished(vec![3])).unwrap(), ["t"]);
    let board = beat(journal, "b", &[3]);
    assert_eq!(board.taken, [], "it's held");
    let seat = board.seats.iter().find(|seat| seat.term == took[0]).unwrap();
    assert_eq!((seat.owner.as_deref(), board.members.len()), (Some("a"), 2));
    // What was sent before it is given back counts still; what comes after it doesn't.
    let before = journal.append(in_term(took[0], "t", 1));
    let give = Beat { name: "a".into(), give: vec![took[0]], ..Beat::default() };
    let board = wait(journal.beat(give)).unwrap();
    wait(before).unwrap();
    assert!(board.seats.iter().any(|seat| seat.term.shard == 3 && seat.owner.is_none()), "{board:?}");
    let deposed = wait(journal.append(in_term(took[0], "t", 2)));
    assert_eq!(deposed, Err(Error::Deposed { shard: 3 }));
    let newer = beat(journal, "b", &[3]).taken[0];
    assert!(newer.epoch > took[0].epoch, "{newer:?}");
    // Refused is one of those that are written together, and no other.
    let together = [in_term(took[0], "t", 2), in_term(newer, "t", 2), in_term(took[1], "u", 1)];
    let together: Vec<_> = wait(all(together.map(|append| journal.append(append)).into()));
    assert_eq!(together, [Err(Error::Deposed { shard: 3 }), Ok(()), Ok(())]);
    // Neither does anybody write to a transaction by the term of another shard.
    let elsewhere = wait(journal.append(in_term(took[1], "t", 3)));
    assert!(matches!(elsewhere, Err(Error::Conflict { .. })), "{elsewhere:?}");
    assert_eq!(wait(journal.read("t")).unwrap().entries.len(), 3);
    // In doubt one takes over one's own, so that nothing of before counts any more.
    let again = beat(journal, "b", &[3]).taken[0];
    assert!(again.epoch > newer.epoch);
    assert_eq!(wait(journal.append(in_term(newer, "t", 3))), Err(Error::Deposed { shard: 3 }));
}

/// Leases, on a journal that has a clock.
pub(super) fn check_leases(subject: &Subject) {
    let journal = subject.journal();
    let held = beat(journal, "c", &[7]).taken[0];
    (subject.age)();
    // Nobody has taken it meanwhile.
    assert!(beat(journal, "c", &[]).seats.iter().any(|seat| seat.term == held && seat.owner.is_some()));
    (subject.age)();
    let board = beat(journal, "d", &[7]);
    assert_eq!(board.taken, [Term { shard: 7, epoch: held.epoch + 1 }]);
    assert_eq!(board.members.iter().map(|name| &**name).collect::<Vec<_>>(), ["d"]);
    let late = wait(journal.append(Append { term: held, ..append("v", 0, &["x"], None) }));
    assert_eq!(late, Err(Error::Deposed { shard: 7 }));
    let leaves = Beat { name: "d".into(), give: board.taken, leaves: true, ..Beat::default() };
    assert!(wait(journal.beat(leaves)).unwrap().members.is_empty());
    assert_eq!(beat(journal, "e", &[7]).taken[0].shard, 7, "at once");
}

#[test]
fn letters_reach_who_drives_the_shard_and_are_answered_once() {
    subjects().iter().for_each(check_letters);
}

pub(super) fn check_letters(subject: &Subject) {
    let journal = subject.journal();
    let value = |text: &str| Value::from(text.as_bytes());
    let one = wait(journal.post(1, value("one?"))).unwrap();
    let two = wait(journal.post(2, value("two?"))).unwrap();
    assert_eq!(wait(journal.letters(vec![2, 3])).unwrap(), [Letter { number: two, body: value("two?") }]);
    assert_eq!(wait(journal.answer(two)).unwrap(), None);
    wait(journal.reply(two, value("two!"))).unwrap();
    assert_eq!(wait(journal.letters(vec![1, 2])).unwrap().len(), 1, "what is answered is asked no more");
    assert_eq!(wait(journal.answer(two)).unwrap(), Some(value("two!")));
    assert_eq!(wait(journal.answer(two)).unwrap(), None);
    wait(journal.reply(one, value("one!"))).unwrap();
    assert_eq!(wait(journal.answer(one)).unwrap(), Some(value("one!")));
    // A late answer is for nobody, least of all for whoever asks next.
    let three = wait(journal.post(1, value("three?"))).unwrap();
    wait(journal.reply(one, value("one, again"))).unwrap();
    assert_eq!(wait(journal.answer(three)).unwrap(), None);
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
    for cut in 1..120 {
        for torn in [false, true] {
            let medium = RamDisk::new();
            let journal = open(&medium);
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
            let found = wait(open(&medium).read("t")).unwrap().entries.len();
            let whole = found.is_multiple_of(2) && (found == 2 * acked as usize || found == 2 * acked as usize + 2);
            assert!(whole, "cut after {cut}, torn {torn}: {acked} acknowledged, {found} entries found");
        }
    }
}

#[test]
fn a_full_disk_refuses_whole_appends_until_there_is_room() {
    let medium = RamDisk::new();
    let journal = open(&medium);
    wait(journal.append(append("a", 0, &["1"], None))).unwrap();
    medium.limit(Some(medium.used_bytes()));
    let large = "x".repeat(4 << 20);
    let refused = wait(journal.append(append("b", 0, &[&large], None)));
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(wait(journal.unfinished(vec![0])).unwrap(), ["a"], "reads go on");
    medium.limit(None);
    wait(journal.append(append("b", 0, &[&large], None))).unwrap();
    // Not even the log takes it.
    medium.limit(Some(0));
    wait(journal.append(append("b", 1, &["2"], None))).unwrap_err();
    medium.limit(None);
    assert_eq!(wait(journal.read("b")).unwrap().entries.len(), 1);
    wait(journal.append(append("b", 1, &["2"], None))).unwrap();
    medium.crash();
    assert_eq!(wait(open(&medium).read("b")).unwrap().entries.len(), 2);
}

#[test]
fn a_failed_sync_is_never_taken_for_a_good_one() {
    // At the tables, and at the log.
    for before in 0..3 {
        let medium = RamDisk::new();
        let journal = open(&medium);
        for n in 0..before {
            wait(journal.append(append("a", n, &["1"], None))).unwrap();
        }
        medium.fail_syncs(1);
        assert!(matches!(wait(journal.append(append("a", before, &["1"], None))), Err(Error::Uncertain(_))));
        assert!(
            matches!(wait(journal.append(append("b", 0, &["1"], None))), Err(Error::Uncertain(_))),
            "until a restart"
        );
        medium.crash();
        let journal = open(&medium);
        let found = wait(journal.read("a")).unwrap().entries.len();
        assert!((before..=before + 1).contains(&u32::try_from(found).unwrap()), "{found} of {before}");
        wait(journal.append(append("b", 0, &["1"], None))).unwrap();
    }
}

#[test]
fn what_is_read_after_a_failed_sync_is_made_durable_first() {
    let medium = RamDisk::new();
    let journal = open(&medium);
    for n in 0..3 {
        wait(journal.append(append("a", n, &["1"], None))).unwrap();
    }
    medium.give_up_a_sync();
    assert!(matches!(wait(journal.append(append("a", 3, &["1"], None))), Err(Error::Uncertain(_))));
    drop(journal);
    // The program starts anew, the machine doesn't.
    let journal = open(&medium);
    assert_eq!(wait(journal.read("a")).unwrap().entries.len(), 4);
    wait(journal.append(append("b", 0, &["1"], None))).unwrap();
    medium.crash();
    let journal = open(&medium);
    assert_eq!(wait(journal.read("a")).unwrap().entries.len(), 4, "somebody acted on all of them");
    assert_eq!(wait(journal.read("b")).unwrap().entries.len(), 1);
}

#[test]
fn damage_names_both_files() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["redb", "wal"].map(|name| folder.path().join("transactions").with_extension(name));
    let named = |error: String| paths.iter().all(|path| error.contains(&*path.to_string_lossy()));
    let journal = crate::log::Embedded::open(&paths[0]).unwrap();
    for n in 0..3 {
        wait(journal.append(append("a", n, &["1"], None))).unwrap();
    }
    // As it would be after a crash.
    let files = paths.clone().map(|path| std::fs::read(path).unwrap());
    drop(journal);
    let damaged = |file: usize, at: usize| {
        for (path, bytes) in paths.iter().zip(&files) {
            std::fs::write(path, bytes).unwrap();
        }
        let mut bytes = files[file].clone();
        bytes[at] ^= 0x5a;
        std::fs::write(&paths[file], bytes).unwrap();
        crate::log::Embedded::open(&paths[0]).map(drop).unwrap_err().to_string()
    };
    // The magic number of the tables; the log's own block, and its first record of two.
    for (file, at) in [(0, 0), (1, 0), (1, 4096 + 30)] {
        let error = damaged(file, at);
        assert!(error.contains("damaged") && named(error.clone()), "{error}");
    }
}

#[test]
fn what_was_appended_costs_one_write_and_one_sync() {
    let medium = RamDisk::new();
    let journal = open(&medium);
    wait(journal.append(append("a", 0, &["1"], None))).unwrap();
    // Enough for each, and for nothing else.
    medium.cut_power_after(2 * 5);
    for n in 1..6 {
        wait(journal.append(append("a", n, &["1"], None))).unwrap();
    }
    medium.crash();
    assert_eq!(wait(open(&medium).read("a")).unwrap().entries.len(), 6);
}

#[test]
fn answers_come_by_the_courier_and_without_it() {
    for works in [true, false] {
        let journal = Embedded::on(RamDisk::new().attach()).unwrap();
        let courier = journal.courier();
        let courier = works.then_some(courier).map(|courier| std::thread::spawn(move || wait(courier)));
        for after in 0..100 {
            wait(journal.append(append("t", after, &["e"], None))).unwrap();
        }
        assert_eq!(wait(journal.read("t")).unwrap().entries.len(), 100);
        // It ends with the journal.
        drop(journal);
        courier.into_iter().for_each(|courier| courier.join().unwrap());
    }
}
