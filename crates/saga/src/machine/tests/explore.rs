// SPDX-License-Identifier: Apache-2.0
//! Every interleaving of bounded worlds, breadth first: answers, lost answers, refusals, crashes, late
//! calls of a dead coordinator, cancels and deadlines. Each promise has a planted bug that must be found.

use super::world::*;
use crate::{Branch, Mode, Parent, Spec};
use byrnie_base::Timestamp;
use std::collections::{HashSet, VecDeque};

/// More than any of these worlds has; a model that grows beyond it is a mistake.
const WORLDS_MAX: usize = 400_000;

const SOME: Budget = Budget { lost: 1, crashes: 1, refusals: 1, asks: 1 };

/// Explores from one spec. Returns the number of worlds, and the first broken promise with the way there.
fn explore(spec: &Spec, budget: &Budget, bug: Bug) -> (usize, Option<String>) {
    let first = World::new(spec.clone(), budget.clone(), bug);
    let mut seen = HashSet::from([first.key()]);
    let mut queue = VecDeque::from([(first, Vec::<String>::new())]);
    while let Some((world, way)) = queue.pop_front() {
        for step in world.steps() {
            let mut next = world.clone();
            next.step(&step);
            let mut way = way.clone();
            way.push(format!("{step:?}"));
            if let Some(broken) = &next.broken {
                return (seen.len(), Some(format!("{broken}, after {}", way.join(", "))));
            }
            if seen.insert(next.key()) {
                assert!(seen.len() < WORLDS_MAX, "more than {WORLDS_MAX} worlds");
                queue.push_back((next, way));
            }
        }
    }
    (seen.len(), None)
}

fn with_deadline(mut spec: Spec) -> Spec {
    spec.deadline = Some(Timestamp::from_millis(5_000));
    spec
}

fn open(mode: Mode) -> Spec {
    let joined =
        |name: &str, after: &[u16]| Branch { action: None, confirm: Some(call("/yes")), ..branch(name, after) };
    let mut spec = spec(mode, vec![joined("a", &[]), joined("b", &[0])]);
    spec.open = true;
    with_deadline(spec)
}

fn tried() -> Spec {
    let tried = |name: &str| Branch { confirm: Some(call("/yes")), ..branch(name, &[]) };
    with_deadline(spec(Mode::Tcc, vec![tried("a"), tried("b")]))
}

fn message() -> Spec {
    let sent = |name: &str, after: &[u16]| Branch {
        action: None,
        undo: None,
        confirm: Some(call("/do")),
        ..branch(name, after)
    };
    let mut spec = spec(Mode::Message, vec![sent("a", &[]), sent("b", &[])]);
    spec.open = true;
    spec.check = Some(call("/check"));
    with_deadline(spec)
}

/// One that is a part of another: all of it can be taken back, and it has a part of that kind itself.
fn within() -> Spec {
    let mut spec =
        spec(Mode::Saga, vec![branch("a", &[]), Branch { confirm: Some(call("/keep")), ..branch("b", &[0]) }]);
    spec.parent = Some(Parent { id: "p".into(), branch: "x".into(), depth: 1 });
    with_deadline(spec)
}

/// The shapes, by name: a row of three, two side by side before a pivot and one after it, and the other modes.
fn shapes() -> Vec<(&'static str, Spec)> {
    let row = spec(Mode::Saga, vec![branch("a", &[]), branch("b", &[0])]);
    let order = vec![branch("stock", &[]), branch("pay", &[]), pivot("ship", &[0, 1])];
    let after = vec![branch("a", &[]), pivot("b", &[0]), branch("c", &[1])];
    let known = vec![answered("a", &[]), answered("b", &[0]), branch("c", &[])];
    vec![
        ("row", with_deadline(row)),
        ("order", with_deadline(spec(Mode::Saga, order))),
        ("pivot in the middle", with_deadline(spec(Mode::Saga, after))),
        ("undone by their answers", with_deadline(spec(Mode::Saga, known))),
        ("tcc, driven", tried()),
        ("tcc, joined", open(Mode::Tcc)),
        ("scope", open(Mode::Scope)),
        ("message", message()),
        ("within another", within()),
    ]
}

#[test]
fn every_promise_holds_in_every_world() {
    for (name, spec) in shapes() {
        let (worlds, broken) = explore(&spec, &SOME, Bug::None);
        println!("{name}: {worlds} worlds");
        assert_eq!(broken, None, "{name}");
        assert!(worlds > 50, "{name}: only {worlds} worlds");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let shapes = shapes();
    let cases = [
        (Bug::ForgetsTurn, "direction"),
        (Bug::ForgetsSent, "end: undone"),
        (Bug::IgnoresOrder, "order"),
        (Bug::IgnoresPivot, "pivot"),
        (Bug::UndoesUnanswered, "answer"),
        (Bug::BelievesSilence, "end: done"),
        (Bug::EndsAlone, "held"),
        (Bug::Sleeps, "progress"),
        (Bug::DropsReplies, "progress"),
    ];
    for (bug, promise) in cases {
        let found: Vec<String> = shapes.iter().filter_map(|(_, spec)| explore(spec, &SOME, bug).1).collect();
        assert!(found.iter().any(|what| what.contains(promise)), "{bug:?} was not found as {promise}: {found:?}");
    }
}
