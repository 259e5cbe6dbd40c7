// SPDX-License-Identifier: Apache-2.0
//! What is told about a request agrees with what happens to it.

use super::*;
use crate::fixtures::*;
use crate::{Direction, Tls};
use byrnie_model::policy::access::{Action, Mode, Rule as AccessRule};
use byrnie_model::{Identity, Protocol};
use std::net::SocketAddr;

fn arrival<'a>(direction: Direction<'a>, source: Option<&'a Identity>) -> Arrival<'a> {
    Arrival { direction, source, remote: SocketAddr::from(([127, 0, 0, 1], 1)), tls: Tls::None }
}

fn told(explanation: &Explanation) -> Vec<String> {
    explanation.steps.iter().map(|s| format!("{} {}: {}", s.hop, s.rule, s.detail)).collect()
}

#[test]
fn an_outbound_request_is_followed_to_its_endpoint() {
    let mut world = World::payments(1);
    let charge = byrnie_model::route::Match { method: Some("POST".into()), ..prefix("/charge") };
    let rules =
        vec![rule(vec![charge], vec![backend("payments", 1)]), rule(vec![prefix("/")], vec![backend("payments", 3)])];
    world.put(vec![route("r", "payments", rules)]);
    let snapshot = world.snapshot();
    let request = head("GET", "payments/charge", &[]);
    let explanation = explain(&snapshot, &arrival(Direction::Forward, None), &request, ms(0));
    assert_eq!(*explanation.decision, *"sent");
    assert_eq!(
        told(&explanation),
        [
            "service : payments.shop port 80 (http)",
            "route shop/r[0]: does not fit: the method is not POST",
            "route shop/r[1]: fits; backend payments.shop weight 3",
            "endpoint : chosen: p1 at 10.0.0.1:7781, 0 under way, weight 1",
        ]
    );
    assert_eq!(*explanation.steps[1].at, *"HTTPRoute/shop/r");
    let onward = explanation.onward.unwrap();
    assert_eq!((onward.service.to_string().as_str(), onward.port, &*onward.endpoint), ("payments.shop", 80, "p1"));
    assert_eq!(snapshot.endpoints(&sref("payments"))[0].in_flight(), 0);
}

#[test]
fn a_refusal_comes_with_code_and_nearest_rule() {
    let rule = AccessRule { sources: vec![account("checkout")], ..AccessRule::default() };
    let policy = access("web", "web", Action::Allow, Mode::Enforce, vec![rule]);
    let world = World::new(vec![own_workload(), service("web", Protocol::Http1), policy]);
    let (service, from) = (sref("web"), identity("refunds"));
    let arrival_of = |from| arrival(Direction::Inbound { service: &service, port: 80 }, Some(from));
    let refused = explain(&world.snapshot(), &arrival_of(&from), &head("GET", "web/", &[]), ms(0));
    assert_eq!(
        (&*refused.decision, &*refused.code, &*refused.reason, refused.status),
        ("denied", "BYR-R001", "access_denied", 403)
    );
    assert_eq!(*refused.nearest, *"closest rule web[0] allows checkout; you are refunds");
    let from = identity("checkout");
    let allowed = explain(&world.snapshot(), &arrival_of(&from), &head("GET", "web/", &[]), ms(0));
    assert_eq!((&*allowed.decision, &*allowed.code), ("allowed", ""));
    assert_eq!(allowed.steps[1].at, "AccessPolicy/shop/web");
    assert_eq!(told(&allowed)[2], "program : to the program at 127.0.0.1:8080, which speaks http");
    let tcp = explain_tunnel(&world.snapshot(), (&arrival_of(&from), Opaque::Bytes), ms(0));
    assert_eq!((&*tcp.decision, &*tcp.nearest), ("denied", "web.shop speaks http on port 80, not opaque TCP"));
}

#[test]
fn a_policy_that_leaves_no_endpoint_is_named() {
    let mut world = World::payments(2);
    let labels = [("version".into(), "v9".into())].into();
    let endpoints = Some(byrnie_model::policy::traffic::Choice { labels, ..Default::default() });
    world.put(vec![traffic("payments", byrnie_model::policy::TrafficPolicy { endpoints, ..Default::default() })]);
    let request = head("GET", "payments/", &[]);
    let explanation = explain(&world.snapshot(), &arrival(Direction::Forward, None), &request, ms(0));
    assert_eq!((&*explanation.decision, explanation.status), ("answered", 503));
    assert_eq!(
        told(&explanation).pop().unwrap(),
        "answer : 503 payments.shop has no endpoint with the labels version=v9, which TrafficPolicy shop/payments wants"
    );
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let world = World::payments(1);
    let explanation =
        explain(&world.snapshot(), &arrival(Direction::Forward, None), &head("GET", "paymens/", &[]), ms(0));
    assert_eq!((&*explanation.decision, &*explanation.code), ("answered", "BYR-R002"));
    assert_eq!(told(&explanation)[0], "service : none of this name; known here: payments.shop");
    assert!(!explanation.next.is_empty());
}
