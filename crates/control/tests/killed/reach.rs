// SPDX-License-Identifier: Apache-2.0
//! What the machine can have written down, found by walking it: whatever may happen to a transaction of each mode happens, at
//! random and by seed.

use byrnie_base::{Rng, Timestamp};
use byrnie_saga::{
    Ask, Branch, Call, Child, Effect, Entry, Event, Machine, Mode, Op, Order, Outcome, Parent, Phase, Reply, Retry,
    Rules, Spec, Target,
};
use std::collections::BTreeSet;

/// Walks through each mode. With a tenth of them the same entries are found.
const WALKS: u64 = 3_000;
/// Events of one walk; most end sooner.
const EVENTS_MAX: usize = 60;

/// What an entry says, but for who, when and about what: its members that have but a few values.
pub(crate) fn kind(entry: &Entry) -> String {
    let value: serde_json::Value = serde_json::from_slice(&entry.encode()).unwrap();
    let members = ["what", "op", "slot", "to", "end"].into_iter().filter_map(|name| value[name].as_str());
    members.collect::<Vec<_>>().join(" ")
}

/// The kinds of entries, each with its mode.
pub(crate) fn entries() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for mode in [Mode::Saga, Mode::Message, Mode::Tcc, Mode::Scope] {
        for seed in 0..WALKS {
            walk(mode, &mut Rng::new(seed), &mut |entry| {
                found.insert(format!("{}: {}", mode.name(), kind(entry)));
            });
        }
    }
    found
}

fn call() -> Option<Call> {
    let target = Target { method: "POST".into(), authority: "shop.default".into(), path: "/".into(), raw: false };
    Some(Call { target, body: None, kind: "application/json".into(), headers: Vec::new(), late: None })
}

fn branch(mode: Mode, name: &str, tries: bool) -> Branch {
    let with = |wanted: bool| call().filter(|_| wanted);
    Branch {
        name: name.into(),
        action: with(mode == Mode::Saga || (mode == Mode::Tcc && tries)),
        confirm: with(mode != Mode::Saga),
        undo: with(mode != Mode::Message),
        retry: Retry { attempts: 4, for_ms: 50, first_ms: 1, cap_ms: 1, ..Retry::default() },
        ..Branch::default()
    }
}

fn spec(mode: Mode, dice: &mut Rng) -> Spec {
    let open = mode == Mode::Scope || (mode != Mode::Saga && dice.percent(50));
    let tries = !open;
    // One within another; and a part of it may be another in turn, which is kept as it ends.
    let within = mode == Mode::Saga && dice.percent(50);
    let mut branches: Vec<Branch> = if open && mode != Mode::Message {
        Vec::new()
    } else {
        ["a", "b"].map(|name| branch(mode, name, tries)).to_vec()
    };
    if mode == Mode::Saga {
        branches[1].after = vec![0];
        branches[1].pivot = dice.percent(30);
        branches[0].answer_first = dice.percent(30);
        if dice.percent(50) {
            let child = Child::Defined { definition: "n/s".into(), input: None, late: None };
            byrnie_saga::nested::adopt(&mut branches[0], child, true);
        }
    }
    Spec {
        mode,
        creator: "operator".into(),
        created: Timestamp::from_millis(1_000),
        deadline: Some(Timestamp::from_millis(1_000 + dice.below(300))),
        open,
        check: call().filter(|_| open && mode == Mode::Message),
        branches,
        rules: Rules::default(),
        definition: "".into(),
        input: None,
        fingerprint: "".into(),
        parent: within.then(|| Parent { id: "p".into(), branch: "x".into(), depth: 1 }),
    }
}

fn walk(mode: Mode, dice: &mut Rng, seen: &mut impl FnMut(&Entry)) {
    let mut now = Timestamp::from_millis(1_000);
    let (mut machine, first) = Machine::begin(spec(mode, dice), now);
    seen(&first);
    let mut calls: Vec<Order> = Vec::new();
    let mut event = Event::Wake;
    for _ in 0..EVENTS_MAX {
        for effect in machine.on(now, event).unwrap_or_default() {
            match effect {
                Effect::Persist { entries, .. } => entries.iter().for_each(&mut *seen),
                Effect::Call(order) => calls.push(order),
                Effect::Wake(_) | Effect::End(_) => {}
            }
        }
        if matches!(machine.state().phase, Phase::Ended(_)) {
            return;
        }
        now = now + std::time::Duration::from_millis(dice.below(20));
        event = match dice.below(10) {
            0 => Event::Wake,
            1 => Event::Ask { ask: ask(mode, dice), by: "operator".into() },
            _ if calls.is_empty() => Event::Ask { ask: ask(mode, dice), by: "operator".into() },
            _ => {
                let at = usize::try_from(dice.below(calls.len() as u64)).unwrap();
                let Order { branch, op, attempt, .. } = calls.remove(at);
                // What a saga confirms is a saga within it: that is done, or takes its time (`saga/nested`).
                let released = mode == Mode::Saga && op == Op::Confirm;
                let outcome = if released { release(dice) } else { outcome(dice) };
                Event::Reply(Reply { branch, op, attempt, outcome, roll: 0 })
            }
        };
    }
}

fn outcome(dice: &mut Rng) -> Outcome {
    let reason = "it says so".into();
    match dice.below(6) {
        0 | 1 => Outcome::Done { answer: reason },
        2 => Outcome::Rejected { reason },
        3 => Outcome::Ongoing { after: Some(std::time::Duration::ZERO), location: Some("/later".into()) },
        4 => Outcome::Unknown { reason, after: None, over: false },
        _ => Outcome::Misdirected { reason },
    }
}

fn release(dice: &mut Rng) -> Outcome {
    if dice.percent(50) { Outcome::Done { answer: "".into() } } else { byrnie_saga::nested::ongoing(false) }
}

fn ask(mode: Mode, dice: &mut Rng) -> Ask {
    let name = if dice.percent(50) { "a" } else { "b" };
    match dice.below(9) {
        0 => Ask::Go,
        7 => Ask::Parent { keep: true },
        8 => Ask::Parent { keep: false },
        1 => Ask::Back { reason: "asked".into() },
        2 => Ask::Enlist(Box::new(branch(mode, name, false))),
        3 => Ask::Complete { branch: name.into(), outcome: outcome(dice) },
        4 => Ask::Retry,
        5 => Ask::Skip { branch: name.into() },
        _ => Ask::Resolve { reason: "settled".into() },
    }
}
