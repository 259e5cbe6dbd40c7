// SPDX-License-Identifier: Apache-2.0
//! The coordinator is killed at each durable step that it makes: once before the step is written, once after it is
//! durable and before anybody hears of it. Then it starts again, and everything must come to the same end by the same effects,
//! as if nothing had been.
//!
//! The steps aren't listed by hand. An undisturbed run of a scene tells what the machine had written; these are its
//! steps, and each is struck. What the machine *can* have written is found by walking it at random (`reach`): an entry that no
//! scene has is a failure. The coordinator is the real one over the real journal on a real disk, in a process of its own that
//! gets SIGKILL. It stands still at the step because its journal is wrapped, here in the test, by one that counts: the
//! product has no failpoint in it, and so none to pay for or to leave on. Participants commit, and lose their first answer.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod coordinator;
mod deposed;
mod reach;
mod scenes;
mod shop;
mod striking;
mod unwatched;

use coordinator::{Child, Strike};
use scenes::Scene;
use shop::Shop;
use std::collections::BTreeSet;

/// Not a test: the process that is killed.
#[test]
fn the_coordinator() {
    if std::env::var_os(coordinator::FOLDER).is_some() {
        coordinator::serve();
    }
}

/// What came of one run of a scene.
#[derive(Debug, PartialEq)]
struct Outcome {
    state: String,
    /// What took effect at the participants, in order.
    effects: Vec<String>,
}

/// Plays a scene on a fresh disk; the coordinator is struck as told, and starts again. Returns what came of it, and the
/// steps that were made until the strike or the end.
fn play(scene: &Scene, strike: Option<Strike>) -> (Outcome, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open();
    let mut child = Child::start(folder.path(), shop.port, strike);
    let mut seen = scenes::Seen::default();
    let mut steps = None;
    let state = loop {
        match (scene.script)(&child, &shop, &mut seen) {
            Ok(state) => break state,
            Err(gone) => {
                assert!(strike.is_some() && steps.is_none(), "{}: it went away by itself: {gone}", scene.name);
                steps = Some(child.ended());
                child = Child::start(folder.path(), shop.port, None);
            }
        }
    };
    let steps = steps.unwrap_or_else(|| child.kill());
    (Outcome { state, effects: shop.effects() }, steps)
}

/// Every step of a scene, struck before and after. Returns the entries that were struck.
fn strike_all(scene: &Scene) -> BTreeSet<String> {
    let (wanted, steps) = play(scene, None);
    assert_eq!((&*wanted.state, &*wanted.effects.join(" ")), (scene.state, scene.effects), "{}", scene.name);
    let mut struck = BTreeSet::new();
    for (at, step) in steps.iter().enumerate() {
        for after in [false, true] {
            let (found, made) = play(scene, Some(Strike { at, after }));
            let place = format!("{}: killed {} step {at}, {step}", scene.name, if after { "after" } else { "before" });
            assert_eq!(made.get(at), Some(step), "{place}: another step was struck");
            assert_eq!(found, wanted, "{place}");
        }
        struck.extend(step.split(", ").map(|entry| format!("{}: {entry}", scene.mode.name())));
    }
    println!("{}: {} steps, {} kills: {}", scene.name, steps.len(), 2 * steps.len(), steps.join(" | "));
    struck
}

#[test]
fn killed_at_every_durable_step_it_comes_to_the_same_end() {
    // Side by side: most of the time of a scene is spent waiting for a disk or for a process to start.
    let struck: BTreeSet<String> = std::thread::scope(|scope| {
        let scenes = scenes::all();
        let lanes: Vec<Vec<Scene>> = lanes(scenes, 4);
        let running: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(move || lane.iter().flat_map(strike_all).collect::<BTreeSet<_>>()))
            .collect();
        running.into_iter().flat_map(|lane| lane.join().unwrap()).collect()
    });
    let reachable = reach::entries();
    let missed: Vec<&String> = reachable.difference(&struck).collect();
    assert!(missed.is_empty(), "the machine writes what no scene is killed at: {missed:#?}");
    println!("{} kinds of entries that the machine can write, each struck before and after", reachable.len());
}

fn lanes(scenes: Vec<Scene>, count: usize) -> Vec<Vec<Scene>> {
    let mut lanes: Vec<Vec<Scene>> = (0..count).map(|_| Vec::new()).collect();
    for (at, scene) in scenes.into_iter().enumerate() {
        lanes[at % count].push(scene);
    }
    lanes
}
