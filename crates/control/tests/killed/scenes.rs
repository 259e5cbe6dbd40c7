// SPDX-License-Identifier: Apache-2.0
//! The scenes: for each mode what a client and an operator do, and what must come of it. A script is played again from its
//! top after the coordinator was killed, so that each of its requests is one that a client would repeat.

use crate::coordinator::Child;
use crate::shop::Shop;
use byrnie_saga::Mode;
use serde_json::{Value, json};

/// What the client has been told so far; it outlives the coordinator.
#[derive(Default)]
pub(crate) struct Seen {
    begun: bool,
    /// Branches that are known to have joined.
    joined: Vec<String>,
}

type Script = Box<dyn Fn(&Child, &Shop, &mut Seen) -> std::io::Result<String> + Send + Sync>;

/// One scene.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) mode: Mode,
    pub(crate) state: &'static str,
    pub(crate) effects: &'static str,
    pub(crate) script: Script,
}

/// Begins it; what was acknowledged once is never new again.
fn begin(child: &Child, seen: &mut Seen, place: &str, mut body: Value) -> std::io::Result<Value> {
    body["id"] = json!("t");
    let (status, said) = child.ask("POST", place, &body.to_string())?;
    assert!(status == 200 || (status == 201 && !seen.begun), "{status} {said}");
    seen.begun = true;
    Ok(said)
}

fn join(child: &Child, seen: &mut Seen, mut body: Value) -> std::io::Result<()> {
    let name = body["name"].as_str().unwrap().to_owned();
    body["retry"] = soon();
    let (status, said) = child.ask("POST", "t/branches", &body.to_string())?;
    // Repeated after the scope was closed, it is over; but then it had been told that it had joined.
    assert!(status == 201 || (status == 409 && seen.joined.contains(&name)), "{status} {said}");
    seen.joined.push(name);
    Ok(())
}

/// Asks for something, unless the transaction has come further already.
fn command(child: &Child, verb: &str, body: &Value) -> std::io::Result<()> {
    let (status, said) = child.ask("POST", &format!("t:{verb}"), &body.to_string())?;
    assert!(matches!(status, 200 | 409), "{verb}: {status} {said}");
    Ok(())
}

/// What it ends as; whatever is stuck on the way is left to `operator`.
fn end(child: &Child, operator: impl Fn(&Value) -> std::io::Result<()>) -> std::io::Result<String> {
    loop {
        let (_, now) = child.ask("GET", "t", "")?;
        match now["state"].as_str().unwrap() {
            "STUCK" => operator(&now)?,
            "SUCCEEDED" | "COMPENSATED" | "DELIVERED" | "ABORTED" | "CONFIRMED" | "CANCELLED" | "CLOSED"
            | "RESOLVED" => {
                return Ok(now["state"].as_str().unwrap().to_owned());
            }
            _ => std::thread::yield_now(),
        }
    }
}

fn soon() -> Value {
    json!({"first_ms": 1, "cap_ms": 100})
}

/// Every branch in a row, each called again soon.
fn rows(branches: Value, ordered: bool) -> Value {
    let Value::Array(mut branches) = branches else { panic!("no list") };
    let names: Vec<Value> = branches.iter().map(|branch| branch["name"].clone()).collect();
    for (at, branch) in branches.iter_mut().enumerate() {
        // A saga within has retries of its own.
        match branch.get("saga").cloned() {
            Some(within) => branch["saga"]["branches"] = rows(within["branches"].clone(), true),
            None => branch["retry"] = soon(),
        }
        if ordered && at > 0 {
            branch["after"] = json!([names[at - 1]]);
        }
    }
    Value::Array(branches)
}

/// The branch that is stuck and the word for its call.
fn stuck(now: &Value) -> Option<(String, String)> {
    now["branches"].as_array()?.iter().find_map(|branch| {
        let calls = branch["calls"].as_object()?;
        let (op, _) = calls.iter().find(|(_, call)| call["state"] == "stuck")?;
        Some((branch["name"].as_str()?.to_owned(), op.clone()))
    })
}

/// An operator who has what is stuck repaired and called again.
fn repairs(child: &Child, shop: &Shop, now: &Value) -> std::io::Result<()> {
    let Some((branch, op)) = stuck(now) else { return Ok(()) };
    shop.repair(&format!("{branch}:{op}"));
    command(child, "retry", &json!({}))
}

fn resolves(child: &Child) -> std::io::Result<()> {
    command(child, "resolve", &json!({"reason": "by hand"}))
}

fn scene(
    name: &'static str,
    mode: Mode,
    state: &'static str,
    effects: &'static str,
    script: impl Fn(&Child, &Shop, &mut Seen) -> std::io::Result<String> + Send + Sync + 'static,
) -> Scene {
    Scene { name, mode, state, effects, script: Box::new(script) }
}

fn step(name: &str, action: &str, undo: &str) -> Value {
    json!({"name": name, "action": format!("POST shop/{action}"), "compensate": format!("POST shop/{undo}")})
}

fn trial(name: &str, action: &str, confirm: &str, cancel: &str) -> Value {
    let to = |path: &str| format!("POST shop/{path}");
    json!({"name": name, "try": to(action), "confirm": to(confirm), "cancel": to(cancel)})
}

fn joins(mode: Mode, name: &str, confirm: &str, undo: &str) -> Value {
    let (yes, no) = if mode == Mode::Tcc { ("confirm", "cancel") } else { ("complete", "compensate") };
    json!({"name": name, yes: format!("POST shop/{confirm}"), no: format!("POST shop/{undo}")})
}

pub(crate) fn all() -> Vec<Scene> {
    [sagas(), messages(), trials(), scopes()].into_iter().flatten().collect()
}

fn sagas() -> Vec<Scene> {
    let saga = |name, state, effects, steps: Value, by_hand: &'static str| {
        let body = json!({"branches": rows(steps, true)});
        scene(name, Mode::Saga, state, effects, move |child, shop, seen| {
            begin(child, seen, "sagas", body.clone())?;
            end(child, |now| match by_hand {
                "resolve" => resolves(child),
                "skip" => {
                    let Some((branch, _)) = stuck(now) else { return Ok(()) };
                    command(child, "skip", &json!({"branch": branch}))
                }
                _ => repairs(child, shop, now),
            })
        })
    };
    let forth = json!([step("a", "fine", "fine"), step("b", "slow", "fine"), step("c", "fine", "fine")]);
    let back = json!([step("a", "fine", "slow"), step("b", "fine", "fine"), step("c", "no", "fine")]);
    let stuck = json!([step("a", "fine", "stuck"), step("b", "stuck", "fine"), step("c", "no", "fine")]);
    let half = json!([step("a", "fine", "stuck"), step("b", "no", "fine")]);
    vec![
        saga("a saga", "SUCCEEDED", "a:action b:action c:action", forth, ""),
        saga("a saga that goes back", "COMPENSATED", "a:action b:action b:compensate a:compensate", back, ""),
        saga("a stuck saga", "COMPENSATED", "a:action b:action b:compensate a:compensate", stuck, ""),
        saga("a saga that is skipped", "COMPENSATED", "a:action", half.clone(), "skip"),
        saga("a saga that is resolved", "RESOLVED", "a:action", half, "resolve"),
        saga("a saga within a saga", "SUCCEEDED", "a:action x:action y:action z:action c:action", within("fine"), ""),
        saga(
            "a saga within one that goes back",
            "COMPENSATED",
            "a:action x:action y:action z:action z:compensate y:compensate x:compensate a:compensate",
            within("no"),
            "",
        ),
    ]
}

/// Three, one within the other; the last step of the outermost does so.
fn within(last: &str) -> Value {
    let innermost = json!({"branches": [step("y", "fine", "fine"), step("z", "fine", "fine")]});
    let inner = json!({"branches": [step("x", "fine", "fine"), {"name": "deep", "saga": innermost}]});
    json!([step("a", "fine", "fine"), {"name": "inner", "saga": inner}, step("c", last, "fine")])
}

fn messages() -> Vec<Scene> {
    let mail = |name: &str, action: &str| json!({"name": name, "action": format!("POST shop/{action}")});
    let message = |name, state, effects, check: Option<&'static str>, branches: Value, resolve: bool| {
        let mut body = json!({"branches": rows(branches, true)});
        if let Some(check) = check {
            body["check"] = json!(format!("GET shop/{check}"));
            body["check_after_ms"] = json!(1);
        }
        let place = if check.is_some() { "messages?prepare" } else { "messages" };
        scene(name, Mode::Message, state, effects, move |child, shop, seen| {
            begin(child, seen, place, body.clone())?;
            end(child, |now| if resolve { resolves(child) } else { repairs(child, shop, now) })
        })
    };
    vec![
        message(
            "a message",
            "DELIVERED",
            "a:action b:action c:action",
            None,
            json!([mail("a", "fine"), mail("b", "slow"), mail("c", "stuck")]),
            false,
        ),
        message(
            "a message that is asked about",
            "DELIVERED",
            "00:check a:action",
            Some("fine"),
            json!([mail("a", "fine")]),
            false,
        ),
        message("a message that is dropped", "ABORTED", "", Some("no"), json!([mail("a", "fine")]), false),
        message("a message that is resolved", "RESOLVED", "", None, json!([mail("a", "stuck")]), true),
    ]
}

fn trials() -> Vec<Scene> {
    let driven = |name, state, effects, branches: Value, resolve: bool| {
        let body = json!({"branches": rows(branches, false), "deadline_ms": 600_000});
        scene(name, Mode::Tcc, state, effects, move |child, shop, seen| {
            begin(child, seen, "tcc", body.clone())?;
            end(child, |now| if resolve { resolves(child) } else { repairs(child, shop, now) })
        })
    };
    vec![
        driven("tcc", "CONFIRMED", "a:try a:confirm", json!([trial("a", "slow", "slow", "fine")]), false),
        driven("tcc that stuck", "CONFIRMED", "a:try a:confirm", json!([trial("a", "stuck", "stuck", "fine")]), false),
        driven("tcc that is refused", "CANCELLED", "", json!([trial("a", "no", "fine", "fine")]), false),
        driven("tcc that is resolved", "RESOLVED", "a:try", json!([trial("a", "fine", "stuck", "fine")]), true),
        joined("tcc, joined", Mode::Tcc, "CONFIRMED", "a:confirm", ("confirm", "fine", "fine")),
        joined("tcc, cancelled", Mode::Tcc, "CANCELLED", "a:cancel", ("cancel", "fine", "slow")),
        joined("tcc, cancelled and stuck", Mode::Tcc, "CANCELLED", "a:cancel", ("cancel", "fine", "stuck")),
    ]
}

/// Participants join, and the client says how it ends.
fn joined(
    name: &'static str,
    mode: Mode,
    state: &'static str,
    effects: &'static str,
    (verb, confirm, undo): (&'static str, &'static str, &'static str),
) -> Scene {
    scene(name, mode, state, effects, move |child, shop, seen| {
        let place = if mode == Mode::Tcc { "tcc" } else { "scopes" };
        begin(child, seen, place, json!({"deadline_ms": 600_000}))?;
        join(child, seen, joins(mode, "a", confirm, undo))?;
        command(child, verb, &json!({}))?;
        end(child, |now| if state == "RESOLVED" { resolves(child) } else { repairs(child, shop, now) })
    })
}

fn scopes() -> Vec<Scene> {
    let two = |name, state, effects, verb: &'static str| {
        scene(name, Mode::Scope, state, effects, move |child, shop, seen| {
            begin(child, seen, "scopes", json!({"deadline_ms": 600_000}))?;
            join(child, seen, joins(Mode::Scope, "a", "fine", "slow"))?;
            join(child, seen, joins(Mode::Scope, "b", "slow", "fine"))?;
            command(child, verb, &json!({}))?;
            end(child, |now| repairs(child, shop, now))
        })
    };
    vec![
        two("a scope that is closed", "CLOSED", "a:complete b:complete", "close"),
        two("a scope that is cancelled", "CANCELLED", "b:compensate a:compensate", "cancel"),
        joined("a scope, stuck", Mode::Scope, "CLOSED", "a:complete", ("close", "stuck", "fine")),
        joined("a scope, cancelled and stuck", Mode::Scope, "CANCELLED", "a:compensate", ("cancel", "fine", "stuck")),
        joined("a scope that is resolved", Mode::Scope, "RESOLVED", "", ("close", "stuck", "fine")),
    ]
}
