// SPDX-License-Identifier: Apache-2.0
//! Which requests are asked about, what each word of the ledger leads to, and what is told at the end.

use super::*;
use crate::fixtures::*;
use crate::{Outcome, Target};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::idempotency::Guarantee;
use byrnie_model::policy::traffic::{Rate, RetryBudget};
use byrnie_model::resource::{DefaultAccess, Resource};
use byrnie_model::{Labels, Protocol, Spec};

const KEY: (&str, &str) = ("idempotency-key", "\"k1\"");
const LOST: Failure = Failure::ResetBeforeHead { request_sent: true };

fn policy(mode: KeyMode) -> Idempotency {
    Idempotency {
        mode,
        guarantee: Guarantee::G1,
        key_ttl: Duration::from_secs(3600),
        lease: Duration::from_secs(60),
        on_ambiguous: OnAmbiguous::Hold,
        on_server_error: OnServerError::Ambiguous,
        mint_keys: false,
        status_only: false,
        enlist: Vec::new(),
    }
}

fn protect(service: &str, idempotency: Idempotency) -> Resource {
    traffic(service, TrafficPolicy { idempotency: Some(idempotency), ..TrafficPolicy::default() })
}

/// The callee: `web` serves itself, under this policy.
fn callee(idempotency: Idempotency) -> World {
    let resources = vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), own_workload()];
    let mut world = World::new(resources);
    assert_eq!(world.put(vec![protect("web", idempotency)]), []);
    world
}

fn begin(world: &mut World, method: &str, headers: &[(&str, &str)]) -> (Exchange, Effect, Head) {
    let mut head = head(method, "web/charge", headers);
    let (exchange, effect) = world.begin_inbound(Some(&identity("checkout")), &mut head, ms(0));
    (exchange, effect, head)
}

fn claim_of(effect: Effect) -> Claim {
    match effect {
        Effect::Claim(claim) => *claim,
        other => panic!("expected a claim, got {other:?}"),
    }
}

fn status_of(answer: &Answer, exchange: &Exchange) -> (u16, Option<String>) {
    let mut head = Head::new();
    answer.write(exchange.id(), &mut head);
    let status = head.get("idempotency-status").map(|value| String::from_utf8_lossy(value).into_owned());
    (head.status(), status)
}

#[test]
fn what_is_asked_about() {
    use KeyMode::{Off, Optional, Required};
    let bad = ("idempotency-key", "\"unfinished");
    for (mode, method, headers, expected) in [
        (Optional, "POST", vec![KEY], "claim"),
        (Optional, "PATCH", vec![KEY], "claim"),
        (Optional, "PUT", vec![KEY], "claim"),
        (Optional, "DELETE", vec![KEY], "claim"),
        (Required, "POST", vec![KEY], "claim"),
        (Optional, "POST", vec![], "send"),
        (Required, "POST", vec![], "400"),
        (Required, "PATCH", vec![], "400"),
        (Required, "PUT", vec![], "send"),
        (Required, "GET", vec![KEY], "send"),
        (Required, "HEAD", vec![], "send"),
        (Optional, "POST", vec![bad], "400"),
        (Optional, "POST", vec![KEY, KEY], "400"),
        (Off, "POST", vec![KEY], "send"),
        (Off, "POST", vec![bad], "send"),
    ] {
        let mut world = callee(policy(mode));
        let (_, effect, _) = begin(&mut world, method, &headers);
        let found = match effect {
            Effect::Claim(_) => "claim".to_owned(),
            Effect::Send(_) => "send".to_owned(),
            Effect::Reply(answer) => answer.status.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{mode:?} {method} {headers:?}");
    }
}

#[test]
fn a_claim_says_whose_key_it_is_and_outlasts_the_request() {
    let mut world = callee(policy(KeyMode::Optional));
    let claim = claim_of(begin(&mut world, "POST", &[KEY]).1);
    assert_eq!((&*claim.service, &*claim.key, claim.again), ("web.shop", "k1", false));
    assert_eq!(&*claim.caller, "spiffe://demo.local/ns/shop/sa/checkout");
    assert_eq!(claim.lease, Duration::from_secs(60) + LEASE_MARGIN);
    let short = begin(&mut world, "POST", &[KEY, ("x-byrnie-deadline-ms", "500")]);
    let shorter = claim_of(short.1);
    assert_eq!(shorter.lease, Duration::from_millis(500) + crate::deadline::LATER + LEASE_MARGIN);
    assert_ne!(shorter.id, claim.id);
    // Without a deadline of the caller's, the policy's lease is the deadline.
    let (mut exchange, effect, mut head) = begin(&mut world, "POST", &[KEY]);
    claim_of(effect);
    let sent = plan(exchange.on_word(&mut world.shard, &mut head, Word::Granted { again: false }, ms(5)));
    assert_eq!(sent.deadline, Some(ms(0).mono + Duration::from_secs(60)));
    assert!(matches!(sent.target, Target::Program { .. }));
    assert_eq!(head.get("idempotency-status"), None);
}

#[test]
fn each_word_leads_to_one_answer() {
    let txn = ("txn-id", "t1");
    for (word, headers, status, mark) in [
        (Word::InFlight(Duration::from_secs(9)), vec![KEY], 409, Some("in-flight")),
        (Word::InFlight(Duration::from_secs(9)), vec![KEY, txn], 425, Some("in-flight")),
        (Word::Mismatch, vec![KEY], 422, None),
        (Word::Ambiguous, vec![KEY], 409, Some("ambiguous")),
        (Word::Unreachable, vec![KEY], 503, None),
        (Word::BodyTooLarge, vec![KEY], 413, None),
    ] {
        let mut world = callee(policy(KeyMode::Optional));
        let (mut exchange, _, mut head) = begin(&mut world, "POST", &headers);
        let effect = exchange.on_word(&mut world.shard, &mut head, word, ms(1));
        let answer = answer(effect);
        assert_eq!(status_of(&answer, &exchange), (status, mark.map(str::to_owned)), "{word:?}");
        assert_eq!(answer.retry_after.is_some(), matches!(word, Word::InFlight(_)));
        let verdict = exchange.finish(&mut world.shard, Outcome { status, failure: None }, ms(2));
        assert_eq!(verdict.decided.keyed.unwrap().0, Guarantee::G1);
        assert_eq!(verdict.attempts.count(), 0, "nothing reached the program");
    }
    let mut world = callee(policy(KeyMode::Optional));
    let (mut exchange, _, mut head) = begin(&mut world, "POST", &[KEY]);
    assert!(matches!(exchange.on_word(&mut world.shard, &mut head, Word::Done, ms(1)), Effect::Replay));
    let verdict = exchange.finish(&mut world.shard, Outcome { status: 201, failure: None }, ms(2));
    assert_eq!((verdict.reason, verdict.decided.keyed.unwrap().1), (None, "replayed"));
}

#[test]
fn grpc_callers_are_told_in_their_own_codes_and_never_aborted() {
    let grpc = ("content-type", "application/grpc");
    for (word, code) in [
        (Word::InFlight(Duration::from_secs(9)), 14),
        (Word::Mismatch, 3),
        (Word::Ambiguous, 2),
        (Word::Unreachable, 14),
    ] {
        let mut world = callee(policy(KeyMode::Optional));
        let (mut exchange, _, mut head) = begin(&mut world, "POST", &[KEY, grpc]);
        let answer = answer(exchange.on_word(&mut world.shard, &mut head, word, ms(1)));
        assert!(answer.grpc);
        assert_eq!(answer.grpc_status(), code, "{word:?}");
    }
}

/// A granted request, as far as its try.
fn granted(world: &mut World) -> (Exchange, Head) {
    let (mut exchange, _, mut head) = begin(world, "POST", &[KEY]);
    plan(exchange.on_word(&mut world.shard, &mut head, Word::Granted { again: false }, ms(1)));
    (exchange, head)
}

/// What comes of it if every try fails like this.
fn fails(world: &mut World, exchange: &mut Exchange, failure: Failure) -> Effect {
    loop {
        match exchange.on_failure(&mut world.shard, failure, ms(2)) {
            Effect::Send(_) => {}
            other => return other,
        }
    }
}

#[test]
fn a_failed_try_tells_the_ledger_before_the_caller() {
    for (failure, told, mark) in [
        (Failure::Connect, Told::Unsent, None),
        (Failure::Refused, Told::Unsent, None),
        (LOST, Told::Ambiguous, Some("ambiguous")),
        (Failure::Deadline, Told::Ambiguous, Some("ambiguous")),
        (Failure::BadResponse("odd"), Told::Ambiguous, Some("ambiguous")),
    ] {
        let mut world = callee(policy(KeyMode::Optional));
        let (mut exchange, _) = granted(&mut world);
        let Effect::Settle(found, answer) = fails(&mut world, &mut exchange, failure) else { panic!() };
        assert_eq!(found, told, "{failure:?}");
        assert_eq!(status_of(&answer, &exchange).1, mark.map(str::to_owned), "{failure:?}");
        // Where an ambiguous end is held, another proxy could do no more.
        assert_eq!(answer.failure.is_some(), told == Told::Unsent);
    }
    let mut world = callee(Idempotency { on_ambiguous: OnAmbiguous::Reexecute, ..policy(KeyMode::Optional) });
    let (mut exchange, _) = granted(&mut world);
    let Effect::Settle(_, answer) = exchange.on_failure(&mut world.shard, LOST, ms(2)) else { panic!() };
    assert_eq!(answer.failure, Some(FAILURE_LOST), "the caller's proxy may have it run again");
}

#[test]
fn an_answer_is_kept_before_it_is_given() {
    for (status, grpc, rule, told) in [
        (200, None, OnServerError::Ambiguous, Told::Done),
        (404, None, OnServerError::Ambiguous, Told::Done),
        (409, None, OnServerError::Ambiguous, Told::Done),
        (500, None, OnServerError::Ambiguous, Told::Ambiguous),
        (500, None, OnServerError::Keep, Told::Done),
        (503, None, OnServerError::Release, Told::Unsent),
        (200, Some(0), OnServerError::Ambiguous, Told::Done),
        (200, Some(10), OnServerError::Ambiguous, Told::Done),
        (200, Some(14), OnServerError::Ambiguous, Told::Ambiguous),
        (200, Some(13), OnServerError::Keep, Told::Done),
    ] {
        let mut world = callee(Idempotency { on_server_error: rule, ..policy(KeyMode::Optional) });
        let (mut exchange, _) = granted(&mut world);
        let mut head = response(status, &[("idempotency-status", "replayed")]);
        assert!(matches!(exchange.on_response(&mut world.shard, &mut head, ms(3)), Effect::Keep));
        assert_eq!(head.get("idempotency-status"), None, "a program can't say what the mesh says");
        assert_eq!(exchange.told(status, grpc), told, "{status} {grpc:?} {rule:?}");
        assert!(matches!(exchange.on_heard(&mut head, told, Heard::Recorded), Effect::Forward));
        let mark = (told == Told::Ambiguous).then_some(&b"ambiguous"[..]);
        assert_eq!(head.get("idempotency-status"), mark);
    }
}

#[test]
fn an_answer_that_could_not_be_kept_is_not_given() {
    for (heard, status) in [(Heard::Fenced, 409), (Heard::Unreachable, 503)] {
        let mut world = callee(policy(KeyMode::Optional));
        let (mut exchange, _) = granted(&mut world);
        let mut head = response(201, &[]);
        exchange.on_response(&mut world.shard, &mut head, ms(3));
        let answer = answer(exchange.on_heard(&mut head, Told::Done, heard));
        assert_eq!(status_of(&answer, &exchange), (status, Some("ambiguous".into())));
        assert_eq!(answer.failure, None, "nobody may try it elsewhere");
        assert_eq!(answer.retry_after.is_some(), heard == Heard::Fenced, "the other one's answer can be come for");
    }
}

#[test]
fn a_repetition_after_ambiguity_is_marked_for_the_program() {
    let mut world = callee(Idempotency { on_ambiguous: OnAmbiguous::Reexecute, ..policy(KeyMode::Optional) });
    let (mut exchange, effect, mut head) = begin(&mut world, "POST", &[KEY]);
    assert!(claim_of(effect).again);
    plan(exchange.on_word(&mut world.shard, &mut head, Word::Granted { again: true }, ms(1)));
    assert_eq!(head.get("idempotency-status"), Some(&b"ambiguous"[..]));
    let verdict = exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(2));
    assert_eq!(verdict.decided.keyed.unwrap().1, "again");
}

/// The caller: `web` calls `payments`, which is under this policy.
fn caller(endpoints: u8, idempotency: Idempotency) -> World {
    let mut world = World::payments(endpoints);
    assert_eq!(world.put(vec![protect("payments", idempotency)]), []);
    world
}

#[test]
fn with_a_key_a_lost_post_is_tried_elsewhere_and_without_one_it_is_not() {
    for (mode, headers, tries) in [
        (KeyMode::Optional, vec![KEY], 3),
        (KeyMode::Required, vec![KEY], 3),
        (KeyMode::Optional, vec![], 1),
        (KeyMode::Off, vec![KEY], 1),
        (KeyMode::Optional, vec![("idempotency-key", "\"bad")], 1),
    ] {
        let mut world = caller(5, policy(mode));
        let mut head = head("POST", "payments/charge", &headers);
        let (mut exchange, mut effect) = world.begin(&mut head, ms(0));
        let mut count = 0;
        while let Effect::Send(plan) = effect {
            count += 1;
            assert_eq!(plan.try_deadline, None, "a second try never runs beside a first");
            effect = exchange.on_failure(&mut world.shard, LOST, ms(count));
        }
        assert_eq!(count, tries, "{mode:?} {headers:?}");
    }
}

#[test]
fn where_no_ledger_keeps_keys_they_are_asked_for_and_nothing_is_repeated_for_them() {
    let unkept = |mode| Idempotency { guarantee: Guarantee::G0, mint_keys: true, ..policy(mode) };
    for (mode, headers, status) in [
        (KeyMode::Required, vec![KEY], None),
        (KeyMode::Required, vec![], Some(400)),
        (KeyMode::Required, vec![("idempotency-key", "\"bad")], Some(400)),
        (KeyMode::Optional, vec![KEY], None),
        (KeyMode::Optional, vec![], None),
    ] {
        let mut world = callee(unkept(mode));
        let (exchange, effect, head) = begin(&mut world, "POST", &headers);
        match (effect, status) {
            (Effect::Send(_), None) => assert_eq!(head.get("idempotency-key").is_some(), !headers.is_empty()),
            (Effect::Reply(answer), Some(status)) => assert_eq!(status_of(&answer, &exchange).0, status),
            (other, _) => panic!("{mode:?} {headers:?}: {other:?}"),
        }
    }
    // Its caller's proxy makes the key that is asked for, and sends it once.
    let mut world = caller(5, unkept(KeyMode::Required));
    let mut head = head("POST", "payments/charge", &[]);
    let (mut exchange, effect) = world.begin(&mut head, ms(0));
    plan(effect);
    assert!(head.get("idempotency-key").is_some());
    assert!(!matches!(exchange.on_failure(&mut world.shard, LOST, ms(1)), Effect::Send(_)));
    let shown = callee(unkept(KeyMode::Required));
    let (service, source) = (sref("web"), identity("checkout"));
    let arrival = Arrival {
        direction: crate::Direction::Inbound { service: &service, port: 80 },
        source: Some(&source),
        remote: ([10, 0, 0, 9], 5555).into(),
        tls: crate::Tls::Mutual,
    };
    let head = crate::fixtures::head("POST", "web/charge", &[KEY]);
    let found = crate::explain(&shown.snapshot(), &arrival, &head, ms(0));
    let step = found.steps.iter().find(|step| step.hop == "idempotency").unwrap();
    assert!(step.detail.contains("G0 (at least once); the key is the program's own affair"), "{}", step.detail);
}

#[test]
fn a_key_is_made_once_for_all_tries_where_the_policy_asks_for_it() {
    let mut world = caller(3, Idempotency { mint_keys: true, ..policy(KeyMode::Required) });
    let mut head = head("POST", "payments/charge", &[]);
    let (mut exchange, effect) = world.begin(&mut head, ms(0));
    plan(effect);
    let key = head.get("idempotency-key").unwrap().to_vec();
    assert!(key.starts_with(b"\"byrnie-"), "{}", key.escape_ascii());
    let again = plan(exchange.on_failure(&mut world.shard, LOST, ms(1)));
    again.stamp(&mut head, ms(1));
    assert_eq!(head.get("idempotency-key").unwrap(), key);
    let mut other = crate::fixtures::head("POST", "payments/charge", &[]);
    world.begin(&mut other, ms(0));
    assert_ne!(other.get("idempotency-key").unwrap(), key);
    // The program's own key stays, and reading needs none.
    let mut own = crate::fixtures::head("POST", "payments/charge", &[KEY]);
    world.begin(&mut own, ms(0));
    assert_eq!(own.get("idempotency-key"), Some(KEY.1.as_bytes()));
    let mut read = crate::fixtures::head("GET", "payments/charge", &[]);
    world.begin(&mut read, ms(0));
    assert_eq!(read.get("idempotency-key"), None);
}

#[test]
fn the_mesh_waits_for_its_own_earlier_try_instead_of_telling_the_caller_of_a_conflict() {
    let mut world = caller(3, policy(KeyMode::Optional));
    let mut head = head("POST", "payments/charge", &[KEY]);
    let (mut exchange, effect) = world.begin(&mut head, ms(0));
    plan(effect);
    plan(exchange.on_failure(&mut world.shard, LOST, ms(1)));
    let mut conflict = response(409, &[("idempotency-status", "in-flight")]);
    let third = plan(exchange.on_response(&mut world.shard, &mut conflict, ms(2)));
    assert!(third.delay >= Duration::from_millis(500));
    let mut replayed = response(201, &[("idempotency-status", "replayed")]);
    assert!(matches!(exchange.on_response(&mut world.shard, &mut replayed, ms(600)), Effect::Forward));
    assert_eq!(replayed.get("idempotency-status"), Some(&b"replayed"[..]));
    // A conflict on the first try is the caller's own affair.
    let mut head = crate::fixtures::head("POST", "payments/charge", &[KEY]);
    let (mut exchange, _) = world.begin(&mut head, ms(0));
    let mut conflict = response(409, &[("idempotency-status", "in-flight")]);
    assert!(matches!(exchange.on_response(&mut world.shard, &mut conflict, ms(2)), Effect::Forward));
}

#[test]
fn a_service_and_its_parts_share_their_keys() {
    let mut part = service("web-v1", Protocol::Http1);
    if let Spec::Service(spec) = &mut part.spec {
        spec.selector = Labels::from([("app".into(), "web".into()), ("version".into(), "1".into())]);
    }
    let mut own = own_workload();
    own.labels.insert("version".into(), "1".into());
    let resources = vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), part, own];
    let mut world = World::new(resources);
    let ask = |world: &mut World, service: &str| {
        let service = sref(service);
        let arrival = Arrival {
            direction: crate::Direction::Inbound { service: &service, port: 80 },
            source: Some(&identity("checkout")),
            remote: ([10, 0, 0, 9], 5555).into(),
            tls: crate::Tls::Mutual,
        };
        let mut head = head("POST", "web/charge", &[KEY]);
        let snapshot = world.snapshot();
        Exchange::begin(&snapshot, &mut world.shard, &arrival, &mut head, ms(0)).1
    };
    assert!(matches!(ask(&mut world, "web-v1"), Effect::Send(_)));
    world.put(vec![protect("web", policy(KeyMode::Optional))]);
    for name in ["web", "web-v1"] {
        assert_eq!(&*claim_of(ask(&mut world, name)).service, "web.shop", "{name}");
    }
    // Even if the part has a policy of its own.
    world.put(vec![protect("web-v1", policy(KeyMode::Optional))]);
    assert_eq!(&*claim_of(ask(&mut world, "web-v1")).service, "web.shop");
    world.remove(vec![byrnie_model::Key::new(byrnie_model::Kind::TrafficPolicy, "shop", "web")]);
    assert_eq!(&*claim_of(ask(&mut world, "web-v1")).service, "web-v1.shop");
    assert!(matches!(ask(&mut world, "web"), Effect::Send(_)));
}

#[test]
fn explain_shows_the_promise_and_whether_the_request_is_under_it() {
    let world = callee(policy(KeyMode::Required));
    for (method, headers, expected) in [
        ("POST", vec![KEY], "G1 (once, but for ambiguous ends, which are reported); the ledger is asked"),
        ("POST", vec![], "needs a key"),
        ("GET", vec![], "changes nothing"),
    ] {
        let (service, source) = (sref("web"), identity("checkout"));
        let arrival = Arrival {
            direction: crate::Direction::Inbound { service: &service, port: 80 },
            source: Some(&source),
            remote: ([10, 0, 0, 9], 5555).into(),
            tls: crate::Tls::Mutual,
        };
        let found = crate::explain(&world.snapshot(), &arrival, &head(method, "web/charge", &headers), ms(0));
        let step = found.steps.iter().find(|step| step.hop == "idempotency").unwrap();
        assert!(step.detail.contains(expected), "{}", step.detail);
        assert_eq!(&*step.at, "TrafficPolicy/shop/web");
    }
}

/// An ambiguous request under a policy that has the program asked, at the moment in which the ledger lets this one ask.
fn recalled(grpc: bool) -> (World, Exchange, Effect, Head) {
    let on_ambiguous = OnAmbiguous::Probe("/keys".into());
    let mut world = callee(Idempotency { on_ambiguous, ..policy(KeyMode::Required) });
    let content: &[(&str, &str)] = if grpc { &[KEY, ("content-type", "application/grpc")] } else { &[KEY] };
    let (mut exchange, effect, mut head) = begin(&mut world, "POST", content);
    assert!(claim_of(effect).again, "the key is held while the program is asked");
    let effect = exchange.on_word(&mut world.shard, &mut head, Word::Granted { again: true }, ms(1));
    (world, exchange, effect, head)
}

#[test]
fn nothing_is_run_again_before_the_program_has_said_what_became_of_it() {
    // A first request is run like any other.
    let on_ambiguous = OnAmbiguous::Probe("/keys".into());
    let mut world = callee(Idempotency { on_ambiguous, ..policy(KeyMode::Required) });
    let (mut exchange, _, mut head) = begin(&mut world, "POST", &[KEY]);
    let effect = exchange.on_word(&mut world.shard, &mut head, Word::Granted { again: false }, ms(1));
    assert!(matches!(effect, Effect::Send(_)), "{effect:?}");
    let said = |recalled_as: Recalled| {
        let (_, mut exchange, effect, mut head) = recalled(false);
        let Effect::Recall(recall) = effect else { panic!("{effect:?}") };
        assert_eq!(&*recall.path, "/keys");
        let effect = exchange.on_recalled(&mut head, recalled_as, ms(2));
        (exchange, effect, head)
    };
    let (_, effect, head) = said(Recalled::Absent);
    assert!(matches!(effect, Effect::Send(plan) if plan.again.attempt == 1));
    assert_eq!(head.get("idempotency-status"), None, "it is known not to have been done");
    let (_, effect, _) = said(Recalled::Answered(Heard::Recorded));
    assert!(matches!(effect, Effect::Replay));
    let (exchange, effect, _) = said(Recalled::UnderWay(Some(Duration::from_secs(3))));
    let Effect::Settle(Told::Ambiguous, answer) = effect else { panic!("{effect:?}") };
    assert_eq!(status_of(&answer, &exchange), (409, Some("in-flight".into())));
    assert_eq!(answer.retry_after, Some(Duration::from_secs(3)));
    let (exchange, effect, _) = said(Recalled::Unknown("status 500".into()));
    let Effect::Settle(Told::Ambiguous, answer) = effect else { panic!("{effect:?}") };
    assert_eq!(status_of(&answer, &exchange), (409, Some("ambiguous".into())));
    assert!(answer.detail.contains("status 500"));
    assert!(answer.retry_after.is_some(), "it is asked again, and may know then");
    for (heard, status) in [(Heard::Fenced, 409), (Heard::Unreachable, 503)] {
        let (exchange, effect, _) = said(Recalled::Answered(heard));
        let Effect::Reply(answer) = effect else { panic!("{effect:?}") };
        assert_eq!(status_of(&answer, &exchange), (status, Some("ambiguous".into())), "{heard:?}");
    }
    let (_, _, effect, _) = recalled(true);
    let Effect::Settle(Told::Ambiguous, answer) = effect else { panic!("a GET says nothing to gRPC: {effect:?}") };
    assert_eq!(answer.retry_after, None, "nor will it");
}

#[test]
fn what_was_unknown_stays_so_if_its_repetition_never_arrives() {
    let mut world = callee(Idempotency { on_ambiguous: OnAmbiguous::Reexecute, ..policy(KeyMode::Required) });
    for (again, told) in [(false, Told::Unsent), (true, Told::Ambiguous)] {
        let (mut exchange, _, mut head) = begin(&mut world, "POST", &[KEY]);
        exchange.on_word(&mut world.shard, &mut head, Word::Granted { again }, ms(1));
        let effect = fails(&mut world, &mut exchange, Failure::Refused);
        assert!(matches!(effect, Effect::Settle(said, _) if said == told), "{again}: {effect:?}");
    }
}

#[test]
fn a_request_under_a_key_never_leaves_for_another_site() {
    let mut way = endpoint("payments", "east.0", 200);
    way.way = Some(byrnie_model::site::Way { site: "east".into(), number: 0 });
    let mut world = caller(0, policy(KeyMode::Optional));
    assert_eq!(world.put(vec![of_endpoint(way)]), []);
    let mut ask = |headers: &[(&str, &str)]| world.begin(&mut head("POST", "payments/charge", headers), ms(0)).1;
    assert_eq!(endpoint_of(&plan(ask(&[]))), "east.0");
    let refused = answer(ask(&[KEY]));
    assert_eq!((refused.status, refused.reason), (503, Reason::NoEndpoint));
    assert!(refused.detail.contains("no other site knows"), "{}", refused.detail);
}

#[test]
fn a_request_under_a_key_comes_back_to_the_only_one_that_can_know_it() {
    let mut way = endpoint("payments", "east.0", 200);
    way.way = Some(byrnie_model::site::Way { site: "east".into(), number: 0 });
    let mut world = caller(1, policy(KeyMode::Optional));
    assert_eq!(world.put(vec![of_endpoint(way)]), []);
    let (mut exchange, effect) = world.begin(&mut head("POST", "payments/charge", &[KEY]), ms(0));
    let first = endpoint_of(&plan(effect));
    for _ in 0..2 {
        let again = plan(exchange.on_failure(&mut world.shard, Failure::Connect, ms(0)));
        assert_eq!(endpoint_of(&again), first);
    }
    let effect = exchange.on_failure(&mut world.shard, Failure::Connect, ms(0));
    assert!(matches!(effect, Effect::Reply(_)), "a way that it may not take is no further one: {effect:?}");
}

#[test]
fn a_way_that_a_request_under_a_key_may_not_take_makes_no_try_free() {
    let mut way = endpoint("payments", "east.0", 200);
    way.way = Some(byrnie_model::site::Way { site: "east".into(), number: 0 });
    let mut world = caller(1, policy(KeyMode::Optional));
    let least = Rate { requests: 1, per: Duration::from_secs(10) };
    let budget = RetryBudget { percent: 0, interval: Duration::from_secs(10), least, hedge: None };
    let both = TrafficPolicy {
        retry_budget: Some(budget),
        idempotency: Some(policy(KeyMode::Optional)),
        ..TrafficPolicy::default()
    };
    assert_eq!(world.put(vec![of_endpoint(way), traffic("payments", both)]), []);
    let again = [0, 1].map(|at| {
        let (mut exchange, effect) = world.begin(&mut head("POST", "payments/charge", &[KEY]), ms(at));
        plan(effect);
        matches!(exchange.on_failure(&mut world.shard, Failure::Connect, ms(at)), Effect::Send(_))
    });
    assert_eq!(again, [true, false], "both are within the budget");
}
