// SPDX-License-Identifier: Apache-2.0
//! Sagas within sagas over a real mesh: one whose step is another, by name or as it was asked for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::console::operator;
use mesh::participant::{Participant, fine};
use mesh::{Mesh, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

const DEFINITIONS: &str = r#"
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Saga
metadata: {name: place-order}
spec:
  steps:
  - {name: reserve, call: POST shop/reserve, body: input.items, undo: POST shop/unreserve}
  - {name: pay, saga: take-payment, input: "{'amount': input.amount, 'stock': reserve.id}"}
  - {name: ship, call: "POST shop/ship/{pay.charge.id}", undo: POST shop/unship}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Saga
metadata: {name: take-payment}
spec:
  steps:
  - {name: charge, call: POST shop/charge, body: input, undo: POST shop/refund}
  - {name: book, call: POST shop/book, undo: POST shop/unbook}
"#;

/// What `/book` and `/ship` answer: a test changes it.
struct World {
    mesh: Mesh,
    shop: Participant,
    book: Arc<AtomicU16>,
    ship: Arc<AtomicU16>,
}

impl World {
    fn new() -> Self {
        let mesh = Mesh::up(&[]);
        let (book, ship) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
        let (booked, shipped) = (Arc::clone(&book), Arc::clone(&ship));
        let shop = Participant::new(&mesh, "shop", move |asked, _| match asked.path.as_str() {
            "/book" => (booked.load(Ordering::SeqCst), "book".to_owned()),
            path if path.starts_with("/ship") => (shipped.load(Ordering::SeqCst), "ship".to_owned()),
            _ => fine(),
        });
        mesh.ok(&["apply", "-f", &mesh::file(&mesh, "sagas.yaml", DEFINITIONS)]);
        Self { mesh, shop, book, ship }
    }

    fn start(&self, id: &str, wait: &str) -> Value {
        let input = r#"{"items": ["a1"], "amount": 30}"#;
        let args = ["saga", "start", "place-order", "--input", input, "--id", id, "--wait", wait, "-o", "json"];
        serde_json::from_slice(&self.mesh.cli(&args).stdout).unwrap()
    }

    fn state(&self, id: &str) -> String {
        let shown = self.mesh.cli(&["saga", "show", id, "-o", "json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        shown["state"].as_str().unwrap_or_default().to_owned()
    }

    fn wait_for(&self, id: &str, state: &str) {
        until(&format!("{id} to be {state}"), || self.state(id), || self.state(id) == state);
    }

    /// What was called since it was last asked.
    fn calls(&self) -> Vec<String> {
        self.shop.seen.lock().unwrap().drain(..).map(|asked| asked.path).collect()
    }
}

#[test]
fn a_step_that_is_a_saga_is_done_and_taken_back_as_a_whole() {
    let world = World::new();
    let done = world.start("o1", "20");
    assert_eq!(done["state"], "SUCCEEDED", "{done}");
    let charge = world.shop.asked("/charge");
    assert_eq!(charge.body, r#"{"amount":30,"stock":7}"#, "its input knows what was answered before");
    assert_eq!(charge.headers["txn-id"], "o1.pay");
    assert_eq!(world.calls(), ["/reserve", "/charge", "/book", "/ship/7"], "and what comes after knows its answers");
    world.wait_for("o1.pay", "SUCCEEDED");
    // What comes after it says no: what it has done is taken back, in the opposite order.
    world.ship.store(409, Ordering::SeqCst);
    let back = world.start("o2", "20");
    assert_eq!((&back["state"], &back["reason"]), (&json!("COMPENSATED"), &json!("ship: 409 ship")), "{back}");
    assert_eq!(world.state("o2.pay"), "COMPENSATED");
    let calls = world.calls();
    let forth = ["/reserve", "/charge", "/book", "/ship/7"];
    assert_eq!(calls, [&forth[..], &["/unbook", "/refund", "/unreserve"]].concat());
    // It says no itself, having taken back what it did.
    world.ship.store(200, Ordering::SeqCst);
    world.book.store(409, Ordering::SeqCst);
    let refused = world.start("o3", "20");
    assert_eq!(
        (&refused["state"], &refused["reason"]),
        (&json!("COMPENSATED"), &json!("pay: book: 409 book")),
        "{refused}"
    );
    assert_eq!(world.calls(), ["/reserve", "/charge", "/book", "/refund", "/unreserve"]);
    let shown = world.mesh.ok(&["saga", "show", "o3"]);
    assert!(shown.contains("saga default/take-payment: o3.pay COMPENSATED"), "{shown}");
    assert!(world.mesh.ok(&["saga", "show", "o3.pay"]).contains("a part of o3"));
}

#[test]
fn what_stops_one_reaches_the_other() {
    let mut world = World::new();
    // A part that is stuck holds up the whole, which says so; an operator helps the part.
    world.book.store(403, Ordering::SeqCst);
    world.start("o1", "0");
    world.wait_for("o1.pay", "STUCK");
    assert_eq!(world.state("o1"), "RUNNING");
    assert!(world.mesh.ok(&["saga", "show", "o1"]).contains("o1.pay STUCK"));
    world.book.store(200, Ordering::SeqCst);
    world.mesh.ok(&["saga", "retry", "o1.pay"]);
    world.wait_for("o1", "SUCCEEDED");
    // Done and held, it waits for the whole, and nobody else ends it, also after a crash.
    world.ship.store(503, Ordering::SeqCst);
    world.start("o2", "0");
    world.wait_for("o2.pay", "HELD");
    let up = world.mesh.up.take().unwrap();
    up.signal("KILL");
    drop(up);
    world.mesh.start(&[]);
    let refused = world.mesh.cli(&["saga", "cancel", "o2.pay"]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && why.contains("the saga that it is a part of decides it"), "{why}");
    assert_eq!(world.state("o2.pay"), "HELD");
    drop(world.calls());
    world.mesh.ok(&["saga", "cancel", "o2"]);
    world.wait_for("o2", "COMPENSATED");
    assert_eq!(world.state("o2.pay"), "COMPENSATED");
    let undone: Vec<String> = world.calls().into_iter().filter(|path| !path.starts_with("/ship")).collect();
    assert_eq!(undone, ["/unship", "/unbook", "/refund", "/unreserve"]);
    // The whole is cancelled while its part is under way.
    world.book.store(503, Ordering::SeqCst);
    world.start("o3", "0");
    until("a call of the part", String::new, || world.shop.calls().iter().any(|path| path == "/book"));
    world.mesh.ok(&["saga", "cancel", "o3"]);
    world.wait_for("o3", "COMPENSATED");
    assert_eq!(world.state("o3.pay"), "COMPENSATED");
}

#[test]
fn what_is_stopped_is_stopped_with_all_that_is_within_it() {
    let world = World::new();
    let stop = |id: &str| operator(&world.mesh, "POST", "/api/dtmsvr/forceStop", &json!({"gid": id})).0;
    // Its part is done, and held; or under way; or has one of its own that is.
    world.ship.store(503, Ordering::SeqCst);
    world.start("o1", "0");
    world.wait_for("o1.pay", "HELD");
    world.book.store(503, Ordering::SeqCst);
    world.start("o2", "0");
    world.wait_for("o2.pay", "RUNNING");
    let leaf = json!({"branches": [{"name": "a", "action": "POST shop/book", "compensate": "POST shop/back"}]});
    let nested = json!({"branches": [{"name": "in", "saga": {"branches": [{"name": "in", "saga": leaf}]}}]});
    let file = mesh::file(&world.mesh, "start.json", &nested.to_string());
    world.mesh.cli(&["saga", "start", &file, "--id", "o3", "--wait", "0"]);
    world.wait_for("o3.in.in", "RUNNING");
    // The one above decides, for as long as it's there.
    assert_eq!((stop("o1.pay"), world.state("o1.pay").as_str()), (409, "HELD"));
    for (id, within) in [("o1", &["o1.pay"][..]), ("o2", &["o2.pay"]), ("o3", &["o3.in", "o3.in.in"])] {
        assert_eq!(stop(id), 200, "{id}");
        for one in [&[id], within].concat() {
            assert_eq!(world.state(one), "RESOLVED", "{one}");
            assert_eq!(stop(one), 409, "{one} is over");
        }
    }
    let shown = world.mesh.json(&["saga", "show", "o3.in.in"]);
    assert!(shown["reason"].as_str().unwrap().contains("o3 was stopped by operator"), "{shown}");
    // What was done stays done.
    let back = ["/unreserve", "/refund", "/unbook", "/unship", "/back"];
    assert!(world.calls().iter().all(|path| !back.contains(&&**path)));
}

#[test]
fn sagas_end_somewhere_and_have_a_way_back() {
    let world = World::new();
    let start = |body: Value| {
        let file = mesh::file(&world.mesh, "start.json", &body.to_string());
        let said = world.mesh.cli(&["saga", "start", &file, "--wait", "20", "-o", "json"]);
        (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap())
    };
    // A circle: each can be kept by itself, lint names it, and no start gets into it.
    let circle = DEFINITIONS
        .replace("{name: book, call: POST shop/book, undo: POST shop/unbook}", "{name: book, saga: place-order}");
    let file = mesh::file(&world.mesh, "circle.yaml", &circle);
    let lint = world.mesh.cli(&["lint", "-f", &file]);
    let lint = String::from_utf8([lint.stdout, lint.stderr].concat()).unwrap();
    world.mesh.cli(&["apply", "-f", &file]);
    let started = world.mesh.cli(&["saga", "start", "place-order", "--input", r#"{"items": [], "amount": 1}"#]);
    let why = String::from_utf8(started.stderr).unwrap();
    assert!(why.contains("is a part of itself"), "{why}");
    assert!(lint.contains("BYR-C068"), "{lint}");
    // As deep as it goes, and no deeper.
    let leaf = json!({"branches": [{"name": "a", "action": "POST shop/leaf", "compensate": "POST shop/back"}]});
    let nest =
        |depth: usize| (0..depth).fold(leaf.clone(), |inner, _| json!({"branches": [{"name": "in", "saga": inner}]}));
    let (done, _) = start(nest(4));
    assert!(done.contains("SUCCEEDED"), "{done}");
    assert_eq!(world.calls(), ["/leaf"]);
    let (_, why) = start(nest(5));
    assert!(why.contains("4 deep"), "{why}");
    // What can't be taken back stands where nothing comes after it.
    let pivot = json!({"branches": [{"name": "a", "action": "POST shop/leaf", "pivot": true}]});
    let after = json!({"name": "b", "action": "POST shop/leaf", "compensate": "POST shop/back", "after": ["in"]});
    let (_, why) = start(json!({"branches": [{"name": "in", "saga": pivot}, after]}));
    assert!(why.contains("has no compensation"), "{why}");
    let (done, why) = start(json!({"branches": [{"name": "in", "saga": pivot}]}));
    assert!(done.contains("SUCCEEDED"), "{done}{why}");
    let (_, why) = start(json!({"branches": [{"name": "in", "saga": leaf, "action": "POST shop/x"}]}));
    assert!(why.contains("has no calls"), "{why}");
}
