// SPDX-License-Identifier: Apache-2.0
//! Fingerprints, and every course that a few executions under one key can take: all interleavings of beginning,
//! acting, losing, dying, telling late and time passing. Each property has a planted bug that breaks it.

use super::*;
use std::collections::{HashSet, VecDeque};

#[test]
fn fingerprints_differ_in_every_part() {
    let of = |method, path, credentials: &[&[u8]], body: &[u8]| {
        let begun = Fingerprinting::new(method, path);
        credentials.iter().fold(begun, |print, value| print.credential(value)).body(body)
    };
    let all = [
        of("POST", "/a", &[], b"x"),
        of("PATCH", "/a", &[], b"x"),
        of("POST", "/a?b", &[], b"x"),
        of("POST", "/a", &[], b"y"),
        of("POST", "/a", &[], b""),
        of("POST", "/a", &[b"Bearer 1"], b"x"),
        of("POST", "/a", &[b"Bearer 2"], b"x"),
        of("POST", "/a", &[b"x"], b""),
        of("POST", "/", &[], b"ax"),
    ];
    for (n, one) in all.iter().enumerate() {
        assert!(!all[n + 1..].contains(one), "{n}");
    }
    assert_eq!(of("POST", "/a", &[], b"x"), all[0]);
}

/// The rules, or a broken version of them.
#[derive(Clone, Copy)]
struct Rules {
    begin: fn(Option<&Entry>, &Begin, Timestamp) -> (Begun, Change),
    finish: fn(Option<&Entry>, Claim, Ending, Timestamp) -> (Finished, Change),
}

const RULES: Rules = Rules { begin, finish };

/// What one execution, and the client that waits for it, has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Waiting,
    /// It asked, and the answer was lost.
    Asked,
    /// As a repetition that is admitted to be one, or not.
    Granted {
        again: bool,
    },
    /// The program acted: this was its so-manieth act.
    Acted(u8),
    /// The client was told that act's answer.
    Told(u8),
    /// The client was told that it is not known, under way, or another request's key.
    Refused,
    /// The proxy died; the client knows nothing.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    entry: Option<Entry>,
    now: u64,
    runs: [Phase; 3],
    acts: u8,
    /// Acts after a grant that admitted to being a repetition.
    admitted: u8,
    /// The execution whose grant was of another request than the first.
    print_of_act: [u8; 4],
}

/// What is tried.
#[derive(Clone, Copy)]
struct Setting {
    rules: Rules,
    again: bool,
    /// The request of each execution.
    prints: [u8; 3],
    lease: u64,
    ttl: u64,
    end: u64,
}

const SAME: Setting = Setting { rules: RULES, again: false, prints: [1, 1, 1], lease: 2, ttl: 100, end: 4 };

fn at(now: u64) -> Timestamp {
    Timestamp::from_millis(1_000 + now)
}

fn kept(act: u8) -> Kept {
    Arc::from([act])
}

impl World {
    fn apply(&mut self, change: Change) {
        match change {
            Change::None => {}
            Change::Put(entry) => self.entry = Some(entry),
            Change::Remove => self.entry = None,
        }
    }

    fn end(&mut self, setting: &Setting, run: usize, ending: Ending) -> Finished {
        let claim = Claim(run as u64);
        let (finished, change) = (setting.rules.finish)(self.entry.as_ref(), claim, ending, at(self.now));
        self.apply(change);
        finished
    }

    fn begin(&mut self, setting: &Setting, run: usize) {
        let ask = Begin {
            fingerprint: Fingerprint([setting.prints[run]; 32]),
            claim: Claim(run as u64),
            lease: Duration::from_millis(setting.lease),
            ttl: Duration::from_millis(setting.ttl),
            again: setting.again,
        };
        let (begun, change) = (setting.rules.begin)(self.entry.as_ref(), &ask, at(self.now));
        self.apply(change);
        self.runs[run] = match begun {
            Begun::Granted { again } => Phase::Granted { again },
            Begun::Done(kept) => Phase::Told(kept[0]),
            Begun::InFlight(left) => {
                assert!(!left.is_zero());
                Phase::Refused
            }
            Begun::Mismatch | Begun::Ambiguous => Phase::Refused,
        };
    }

    /// Everything that can happen next.
    fn successors(&self, setting: &Setting) -> Vec<World> {
        let mut next = Vec::new();
        let mut add = |change: &dyn Fn(&mut World)| {
            let mut world = self.clone();
            change(&mut world);
            next.push(world);
        };
        if self.now < setting.end {
            add(&|world| world.now += 1);
        }
        for run in 0..self.runs.len() {
            match self.runs[run] {
                Phase::Waiting | Phase::Asked => {
                    add(&|world| world.begin(setting, run));
                    add(&|world| {
                        world.begin(setting, run);
                        world.runs[run] = Phase::Asked;
                    });
                    // It gives up, and takes back what may stand.
                    add(&|world| {
                        world.end(setting, run, Ending::Unsent);
                        world.runs[run] = Phase::Refused;
                    });
                }
                Phase::Granted { again } => {
                    add(&|world| {
                        world.acts += 1;
                        world.admitted += u8::from(again);
                        world.print_of_act[usize::from(world.acts)] = setting.prints[run];
                        world.runs[run] = Phase::Acted(world.acts);
                    });
                    add(&|world| {
                        world.end(setting, run, Ending::Unsent);
                        world.runs[run] = Phase::Refused;
                    });
                    add(&|world| world.runs[run] = Phase::Dead);
                }
                Phase::Acted(act) => {
                    add(&|world| {
                        world.runs[run] = match world.end(setting, run, Ending::Done(kept(act))) {
                            Finished::Recorded => Phase::Told(act),
                            Finished::Fenced => Phase::Refused,
                        };
                    });
                    add(&|world| {
                        world.end(setting, run, Ending::Ambiguous);
                        world.runs[run] = Phase::Refused;
                    });
                    // Recorded, but the client never hears it.
                    add(&|world| {
                        world.end(setting, run, Ending::Done(kept(act)));
                        world.runs[run] = Phase::Dead;
                    });
                    add(&|world| world.runs[run] = Phase::Dead);
                }
                Phase::Told(_) | Phase::Refused | Phase::Dead => {}
            }
        }
        next
    }

    /// What must hold at every moment.
    fn fault(&self, setting: &Setting) -> Option<String> {
        if self.acts > 1 + self.admitted {
            return Some(format!("acted {} times, {} of them admitted", self.acts, self.admitted));
        }
        if !setting.again && self.admitted > 0 {
            return Some("ran an ambiguous request again unasked".into());
        }
        let told: HashSet<u8> =
            self.runs.iter().filter_map(|run| if let Phase::Told(act) = run { Some(*act) } else { None }).collect();
        if told.len() > 1 {
            return Some(format!("told {told:?}"));
        }
        let wrong = self
            .runs
            .iter()
            .zip(setting.prints)
            .any(|(run, print)| matches!(run, Phase::Told(act) if self.print_of_act[usize::from(*act)] != print));
        wrong.then(|| "gave the answer of another request".into())
    }
}

/// Visits every world that can be reached: how many, or the first fault.
fn explore(setting: &Setting) -> Result<usize, String> {
    let first = World { entry: None, now: 0, runs: [Phase::Waiting; 3], acts: 0, admitted: 0, print_of_act: [0; 4] };
    let mut seen = HashSet::from([first.clone()]);
    let mut queue = VecDeque::from([first]);
    while let Some(world) = queue.pop_front() {
        if let Some(fault) = world.fault(setting) {
            return Err(fault);
        }
        for next in world.successors(setting) {
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn no_course_acts_twice_unasked_or_tells_two_answers() {
    for again in [false, true] {
        for prints in [[1, 1, 1], [1, 2, 1], [1, 1, 2]] {
            let seen = explore(&Setting { again, prints, ..SAME }).unwrap();
            assert!(seen > 500, "only {seen} worlds");
        }
    }
    // Forgotten early, but never before the lease has lapsed and could be seen to have.
    explore(&Setting { ttl: 0, lease: 3, end: 5, ..SAME }).unwrap();
}

#[test]
fn an_ambiguous_key_is_not_forgotten_while_it_is_asked_for() {
    let (day, lease) = (Duration::from_secs(24 * 3600), Duration::from_secs(60));
    let ask = |claim| Begin { fingerprint: Fingerprint([1; 32]), claim: Claim(claim), lease, ttl: day, again: false };
    let mut world =
        World { entry: None, now: 0, runs: [Phase::Waiting; 3], acts: 0, admitted: 0, print_of_act: [0; 4] };
    world.apply(begin(None, &ask(0), at(0)).1);
    world.apply(finish(world.entry.as_ref(), Claim(0), Ending::Ambiguous, at(1)).1);
    // Every hour of a month: no time is the last, and it is written twice a day at most.
    let mut written = 0;
    for hour in 1..24 * 30 {
        let (begun, change) = begin(world.entry.as_ref(), &ask(hour), at(hour * 3_600_000));
        assert_eq!(begun, Begun::Ambiguous, "in hour {hour}");
        written += u32::from(change != Change::None);
        world.apply(change);
    }
    assert!((30..=60).contains(&written), "{written}");
    // Nobody asks any more: it is forgotten in its time. Another's request doesn't keep it.
    let last = at((24 * 30 - 1) * 3_600_000);
    let other = Begin { fingerprint: Fingerprint([2; 32]), ..ask(9) };
    assert_eq!(begin(world.entry.as_ref(), &other, last), (Begun::Mismatch, Change::None));
    assert!(world.entry.unwrap().is_over(last + day));
    // One that nobody ended is kept as well.
    let lapsed = Entry {
        fingerprint: ask(0).fingerprint,
        claim: Claim(0),
        state: State::InFlight { lapses: at(60_000), again: false },
        expires: at(120_000),
    };
    let (begun, change) = begin(Some(&lapsed), &ask(1), at(110_000));
    assert_eq!((begun, change), (Begun::Ambiguous, Change::Put(Entry { expires: at(110_000) + day, ..lapsed })));
}

/// Breaks one rule, and expects the exploration to notice.
fn plant(rules: Rules, again: bool, prints: [u8; 3], symptom: &str) {
    let fault = explore(&Setting { rules, again, prints, ..SAME }).unwrap_err();
    assert!(fault.contains(symptom), "{fault}");
}

#[test]
fn a_lapsed_lease_that_frees_the_key_is_found() {
    let begin = |entry: Option<&Entry>, ask: &Begin, now: Timestamp| {
        super::begin(entry.filter(|entry| entry.standing(now) != State::Ambiguous), ask, now)
    };
    plant(Rules { begin, ..RULES }, false, [1, 1, 1], "acted 2 times");
}

#[test]
fn a_lost_answer_that_frees_the_key_is_found() {
    let finish = |entry: Option<&Entry>, claim: Claim, ending: Ending, now: Timestamp| {
        let ending = if ending == Ending::Ambiguous { Ending::Unsent } else { ending };
        super::finish(entry, claim, ending, now)
    };
    plant(Rules { finish, ..RULES }, false, [1, 1, 1], "acted 2 times");
}

#[test]
fn a_finish_that_is_not_fenced_is_found() {
    let finish = |entry: Option<&Entry>, _: Claim, ending: Ending, now: Timestamp| {
        super::finish(entry, entry.map_or(Claim(0), |entry| entry.claim), ending, now)
    };
    plant(Rules { finish, ..RULES }, true, [1, 1, 1], "acted 2 times");
}

#[test]
fn a_silent_repetition_is_found() {
    let begin = |entry: Option<&Entry>, ask: &Begin, now: Timestamp| match super::begin(entry, ask, now) {
        (Begun::Granted { .. }, change) => (Begun::Granted { again: false }, change),
        other => other,
    };
    plant(Rules { begin, ..RULES }, true, [1, 1, 1], "acted 2 times");
}

/// Forgets that an execution under way is a repetition.
fn plain((done, change): (Begun, Change)) -> (Begun, Change) {
    let plain = |entry: Entry| match entry.state {
        State::InFlight { lapses, .. } => Entry { state: State::InFlight { lapses, again: false }, ..entry },
        _ => entry,
    };
    match change {
        Change::Put(entry) => (done, Change::Put(plain(entry))),
        other => (done, other),
    }
}

#[test]
fn a_repetition_that_is_forgotten_to_be_one_is_found() {
    plant(Rules { begin: |entry, ask, now| plain(begin(entry, ask, now)), ..RULES }, true, [1, 1, 1], "acted 2 times");
}

#[test]
fn a_key_that_serves_two_requests_is_found() {
    let begin = |entry: Option<&Entry>, ask: &Begin, now: Timestamp| {
        let fingerprint = entry.map_or(ask.fingerprint, |entry| entry.fingerprint);
        super::begin(entry, &Begin { fingerprint, ..*ask }, now)
    };
    plant(Rules { begin, ..RULES }, false, [1, 2, 1], "another request");
}

#[test]
fn a_second_finish_that_overwrites_the_first_is_found() {
    let finish = |entry: Option<&Entry>, claim: Claim, ending: Ending, now: Timestamp| match (entry, ending) {
        (Some(entry), Ending::Done(kept)) => {
            (Finished::Recorded, Change::Put(Entry { state: State::Done(kept), claim, ..entry.clone() }))
        }
        (entry, ending) => super::finish(entry, claim, ending, now),
    };
    plant(Rules { finish, ..RULES }, true, [1, 1, 1], "told");
}
