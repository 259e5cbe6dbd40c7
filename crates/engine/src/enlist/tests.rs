// SPDX-License-Identifier: Apache-2.0
//! Which calls take part, who may end a part, and what each word of the coordinator leads to.

use super::*;
use crate::fixtures::*;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::enlist::Enlist;
use byrnie_model::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};
use byrnie_model::resource::DefaultAccess;
use byrnie_model::{Identity, Protocol};
use std::time::Duration;

const TXN: (&str, &str) = ("txn-id", "t1");

fn act(text: &str) -> Act {
    let (method, path) = text.split_once(' ').unwrap();
    Act { method: method.into(), path: path.into() }
}

/// The callee: `web` serves itself, and takes part by some of its calls.
fn callee(mode: KeyMode) -> World {
    let enlist = vec![
        Enlist { call: act("POST /orders"), compensate: act("POST /undo"), complete: Some(act("PUT /done")) },
        Enlist { call: act("POST /holds/*"), compensate: act("DELETE /holds"), complete: None },
    ];
    let idempotency = Idempotency {
        mode,
        guarantee: Guarantee::G1,
        key_ttl: Duration::from_secs(3600),
        lease: Duration::from_secs(60),
        on_ambiguous: OnAmbiguous::Hold,
        on_server_error: OnServerError::Ambiguous,
        mint_keys: false,
        status_only: false,
        enlist,
    };
    let mut world = World::new(vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), own_workload()]);
    let policy = TrafficPolicy { idempotency: Some(idempotency), ..TrafficPolicy::default() };
    assert_eq!(world.put(vec![traffic("web", policy)]), []);
    world
}

fn coordinator() -> Identity {
    Identity::new("demo.local", Identity::SYSTEM_NAMESPACE, "transactions").unwrap()
}

fn begin(world: &mut World, by: &Identity, call: &str, headers: &[(&str, &str)]) -> (Exchange, Effect, Head) {
    let (method, path) = call.split_once(' ').unwrap();
    let mut head = head(method, &format!("web{path}"), headers);
    let (exchange, effect) = world.begin_inbound(Some(by), &mut head, ms(0));
    (exchange, effect, head)
}

#[test]
fn what_is_asked_for_a_call_that_takes_part() {
    let mut world = callee(KeyMode::Off);
    let by = identity("checkout");
    let (_, effect, _) = begin(&mut world, &by, "POST /orders?a=1", &[TXN, ("idempotency-key", "\"k\"")]);
    let Effect::Enlist(asked) = effect else { panic!("{effect:?}") };
    assert_eq!((&*asked.service, asked.port, &*asked.transaction, &*asked.key), ("web.shop", Some(80), "t1", "k"));
    assert_eq!(&*asked.caller, "spiffe://demo.local/ns/shop/sa/checkout");
    assert_eq!((asked.compensate, asked.complete), (act("POST /undo"), Some(act("PUT /done"))));
    let (_, below, _) = begin(&mut world, &by, "POST /holds/7", &[TXN]);
    assert!(matches!(below, Effect::Enlist(asked) if asked.compensate == act("DELETE /holds") && asked.key.is_empty()));
    // Without a transaction, by another call, and what the coordinator itself calls.
    for (by, call, headers) in [
        (&by, "POST /orders", &[][..]),
        (&by, "GET /orders", &[TXN]),
        (&by, "POST /orders/1", &[TXN]),
        (&coordinator(), "POST /orders", &[TXN]),
    ] {
        let (_, effect, _) = begin(&mut world, by, call, headers);
        assert!(matches!(effect, Effect::Send(_)), "{call}: {effect:?}");
    }
    for headers in [&[("txn-id", "a b")][..], &[TXN, ("txn-id", "t2")], &[("txn-id", "")]] {
        let (_, effect, _) = begin(&mut world, &by, "POST /orders", headers);
        assert!(matches!(effect, Effect::Reply(answer) if answer.status == 400), "{headers:?}");
    }
}

#[test]
fn only_the_coordinator_ends_a_part() {
    let mut world = callee(KeyMode::Off);
    for call in ["POST /undo", "PUT /done", "DELETE /holds", "POST /undo?a=1"] {
        for headers in [&[][..], &[TXN], &[TXN, ("txn-op", "compensate")]] {
            let (_, effect, _) = begin(&mut world, &identity("checkout"), call, headers);
            let Effect::Reply(answer) = effect else { panic!("{call}: {effect:?}") };
            assert_eq!((answer.reason, answer.status), (Reason::CoordinatorOnly, 403), "{call}");
        }
        let (_, effect, _) = begin(&mut world, &coordinator(), call, &[TXN, ("txn-op", "compensate")]);
        assert!(matches!(effect, Effect::Send(_)), "{call}: {effect:?}");
    }
    // Nor do other spellings, which many programs serve by the same code.
    for call in ["POST /undo/", "POST /UNDO", "POST /undo;x", "PUT /Done;a=1/", "DELETE /holds//"] {
        let (_, effect, _) = begin(&mut world, &identity("checkout"), call, &[]);
        assert!(matches!(&effect, Effect::Reply(answer) if answer.status == 403), "{call}: {effect:?}");
    }
    let (_, effect, _) = begin(&mut world, &identity("checkout"), "GET /undo", &[]);
    assert!(matches!(effect, Effect::Send(_)), "another method is another call");
}

#[test]
fn nothing_takes_part_that_speaks_as_the_coordinator() {
    let mut world = callee(KeyMode::Off);
    let by = identity("checkout");
    for op in ["confirm", "cancel", "compensate", "complete", "check"] {
        let (_, effect, _) = begin(&mut world, &by, "POST /orders", &[TXN, ("txn-op", op)]);
        let Effect::Reply(answer) = effect else { panic!("{op}: {effect:?}") };
        assert_eq!((answer.reason, answer.status), (Reason::CoordinatorOnly, 403), "{op}");
        // A call that isn't declared goes on as an ordinary one, in no transaction.
        let (_, effect, head) = begin(&mut world, &by, "POST /other", &[TXN, ("txn-op", op)]);
        assert!(matches!(effect, Effect::Send(_)) && head.get("txn-id").is_none(), "{op}: {effect:?}");
    }
    for op in ["action", "try"] {
        let (_, effect, _) = begin(&mut world, &by, "POST /orders", &[TXN, ("txn-op", op)]);
        assert!(matches!(effect, Effect::Enlist(_)), "{op}: {effect:?}");
    }
}

#[test]
fn what_each_word_of_the_coordinator_leads_to() {
    let mut world = callee(KeyMode::Optional);
    let by = identity("checkout");
    let remote = ([10, 0, 0, 9], 5555).into();
    let mut said = |joined: Joined, headers: &[(&str, &str)]| {
        let (mut exchange, _, mut head) = begin(&mut world, &by, "POST /orders", headers);
        let service = sref("web");
        let direction = crate::Direction::Inbound { service: &service, port: 80 };
        let arrival = Arrival { direction, source: Some(&by), remote, tls: crate::Tls::Mutual };
        let effect = exchange.on_joined(&mut world.shard, &arrival, &mut head, joined, ms(1));
        (effect, head)
    };
    let (effect, head) = said(Joined::As("web-9".into()), &[TXN, ("txn-branch", "forged"), ("txn-op", "forged")]);
    assert!(matches!(effect, Effect::Send(_)), "{effect:?}");
    assert_eq!((head.get("txn-branch"), head.get("txn-op")), (Some(&b"web-9"[..]), Some(&b"action"[..])));
    // A key is asked about after that.
    let (effect, _) = said(Joined::As("web-9".into()), &[TXN, ("idempotency-key", "\"k\"")]);
    assert!(matches!(effect, Effect::Claim(_)), "{effect:?}");
    for (joined, reason, status) in [
        (Joined::Refused { status: 403, detail: "no".into() }, Reason::TransactionDenied, 403),
        (Joined::Refused { status: 404, detail: "no".into() }, Reason::TransactionClosed, 412),
        (Joined::Refused { status: 409, detail: "no".into() }, Reason::TransactionClosed, 412),
        (Joined::Unreachable, Reason::CoordinatorUnreachable, 503),
    ] {
        let (effect, _) = said(joined, &[TXN]);
        let Effect::Reply(answer) = effect else { panic!("{effect:?}") };
        assert_eq!((answer.reason, answer.status), (reason, status));
    }
}
