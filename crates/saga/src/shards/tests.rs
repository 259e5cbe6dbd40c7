// SPDX-License-Identifier: Apache-2.0
//! Coordinators over the simplest journal that keeps its word: whatever comes and goes, shards spread fairly, and no two
//! believe at once to hold one.

use super::*;
use byrnie_base::Rng;
use std::collections::BTreeMap;

/// What the journal knows, with time in milliseconds.
#[derive(Default)]
struct Journal {
    seats: BTreeMap<u16, (u64, Text)>,
    members: BTreeMap<Text, u64>,
}

impl Journal {
    fn step(&mut self, now: u64, beat: &Beat) -> Board {
        self.members.insert(beat.name.clone(), now + LEASE.as_millis() as u64);
        self.members.retain(|_, until| *until > now);
        for term in &beat.give {
            let seat = self.seats.get_mut(&term.shard).filter(|seat| seat.0 == term.epoch);
            let _ = seat.map(|seat| *seat = (seat.0 + 1, Text::default()));
        }
        if beat.leaves {
            self.members.remove(&beat.name);
        }
        let mut taken = Vec::new();
        for shard in &beat.take {
            let seat = self.seats.entry(*shard).or_default();
            if seat.1 == beat.name || !self.members.contains_key(&seat.1) {
                *seat = (seat.0 + 1, beat.name.clone());
                taken.push(Term { shard: *shard, epoch: seat.0 });
            }
        }
        let seat = |(shard, (epoch, owner)): (&u16, &(u64, Text))| Seat {
            term: Term { shard: *shard, epoch: *epoch },
            owner: self.members.contains_key(owner).then(|| owner.clone()),
        };
        let members = self.members.keys().cloned().collect();
        Board { taken, seats: self.seats.iter().map(seat).collect(), members }
    }
}

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

/// A beat, and those that follow at once.
fn beat(journal: &mut Journal, tenure: &mut Tenure, now: u64) {
    for _ in 0..3 {
        let board = journal.step(now, &tenure.beat());
        if !tenure.on_board(at(now), &board).again {
            return;
        }
    }
}

fn tenure(name: &str) -> Tenure {
    Tenure::new(name.into(), Some(LEASE))
}

fn rounds(journal: &mut Journal, all: &mut [Tenure], now: &mut u64, rounds: usize) -> Vec<usize> {
    for _ in 0..rounds {
        *now += BEAT.as_millis() as u64;
        all.iter_mut().for_each(|tenure| beat(journal, tenure, *now));
    }
    all.iter().map(Tenure::held).collect()
}

#[test]
fn one_alone_takes_all_at_once() {
    let (mut journal, mut now) = (Journal::default(), 0);
    assert_eq!(rounds(&mut journal, &mut [tenure("a")], &mut now, 1), [64]);
}

#[test]
fn whoever_comes_gets_a_fair_part_and_what_stays_is_not_moved() {
    for count in [2, 3, 5, 40, 64] {
        let (mut journal, mut now) = (Journal::default(), 0);
        let mut all = vec![tenure("a")];
        rounds(&mut journal, &mut all, &mut now, 1);
        all.extend((1..count).map(|n| tenure(&format!("b{n:02}"))));
        let held = rounds(&mut journal, &mut all, &mut now, 6);
        let (least, most) = (64 / count, 64_usize.div_ceil(count));
        assert!(held.iter().all(|held| (least..=most).contains(held)), "{count}: {held:?}");
        assert_eq!(held.iter().sum::<usize>(), 64);
        let before: Vec<Beat> = all.iter().map(Tenure::beat).collect();
        rounds(&mut journal, &mut all, &mut now, 3);
        assert_eq!(all.iter().map(Tenure::beat).collect::<Vec<_>>(), before, "nothing moves any more");
    }
}

#[test]
fn whoever_leaves_or_dies_is_replaced() {
    let (mut journal, mut now) = (Journal::default(), 0);
    let mut all = vec![tenure("a"), tenure("b"), tenure("c")];
    rounds(&mut journal, &mut all, &mut now, 6);
    let mut left = all.remove(0);
    journal.step(now, &left.leave());
    assert_eq!(rounds(&mut journal, &mut all, &mut now, 2), [32, 32], "within two beats of a clean exit");
    all.remove(0);
    let beats = LEASE.as_millis().div_ceil(BEAT.as_millis()) as usize;
    assert_eq!(rounds(&mut journal, &mut all, &mut now, beats), [64], "within a lease of a death");
}

#[test]
fn a_term_ends_by_refusal_by_time_and_by_doubt() {
    let (mut journal, mut a) = (Journal::default(), tenure("a"));
    beat(&mut journal, &mut a, 1_000);
    let term = a.term(7, at(1_000)).unwrap();
    assert!(a.term(7, at(3_999)).is_some());
    assert!(a.term(7, at(4_000)).is_none(), "not by one moment longer than the journal grants");
    assert!(a.depose(term) && !a.depose(term));
    assert_eq!((a.held(), a.lapse(at(3_999)).len(), a.lapse(at(4_000)).len()), (63, 0, 63));
    beat(&mut journal, &mut a, 4_100);
    let newer = a.term(7, at(4_100)).unwrap();
    assert!(newer.epoch > term.epoch, "{newer:?}");
    assert_eq!(a.drop_all().len(), 64);
    beat(&mut journal, &mut a, 4_200);
    assert!(a.term(7, at(4_200)).unwrap().epoch > newer.epoch, "in doubt even the own shards are taken over");
}

/// Whoever drops everything in doubt while somebody else comes keeps no shard from both.
#[test]
fn what_is_dropped_and_not_wanted_any_more_is_given_back() {
    let (mut journal, mut now) = (Journal::default(), 0);
    let mut all = vec![tenure("a")];
    rounds(&mut journal, &mut all, &mut now, 1);
    all.push(tenure("b"));
    beat(&mut journal, &mut all[1], now);
    all[0].drop_all();
    assert_eq!(rounds(&mut journal, &mut all, &mut now, 3), [32, 32]);
}

#[test]
fn without_a_lease_there_is_one_shard_and_it_stays() {
    let (mut journal, mut alone) = (Journal::default(), Tenure::new("a".into(), None));
    beat(&mut journal, &mut alone, 0);
    assert_eq!((alone.lapse(at(u64::MAX / 1_000_000)).len(), alone.held()), (0, 1));
}

/// Beats are late or lost, answers are lost, coordinators pause and come back: no shard is ever believed to be held by two.
#[test]
fn no_shard_is_driven_twice_at_one_moment() {
    for seed in 0..60 {
        let (mut journal, mut dice) = (Journal::default(), Rng::new(seed));
        let mut all: Vec<Tenure> = ["a", "b", "c"].map(tenure).into();
        let mut gained = 0;
        for now in (0..60_000).step_by(50) {
            for tenure in &mut all {
                match dice.below(40) {
                    0 | 1 => {
                        let board = journal.step(now, &tenure.beat());
                        let change = tenure.on_board(at(now), &board);
                        gained += change.gained.len();
                        for term in change.gained {
                            assert!(journal.seats[&term.shard].0 >= term.epoch);
                        }
                    }
                    // The answer is lost.
                    2 => drop(journal.step(now, &tenure.beat())),
                    3 => drop(tenure.lapse(at(now))),
                    4 if dice.percent(3) => drop(tenure.drop_all()),
                    _ => {}
                }
            }
            for shard in 0..SHARDS {
                let holders: Vec<&Tenure> = all.iter().filter(|t| t.term(shard, at(now)).is_some()).collect();
                assert!(holders.len() < 2, "seed {seed}, at {now}: {holders:?} hold {shard}");
            }
        }
        assert!(gained > 64, "seed {seed}: {gained}");
    }
}
