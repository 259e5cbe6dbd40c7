// SPDX-License-Identifier: Apache-2.0
//! What a picker's word leads to, and what is done without it.

use super::*;
use crate::Outcome;
use crate::fixtures::*;
use byrnie_model::pool::{InferencePool, Picker};
use byrnie_model::resource::{Kind, Spec};
use byrnie_model::service::PortPair;
use byrnie_model::{Labels, Protocol, Resource};

/// `models`, with a member at each of these addresses and ports, and its picker `epp`.
fn world(members: &[(u8, u16)], fail_open: bool) -> World {
    let picker = Picker { service: "epp".into(), port: 80, fail_open };
    let selector = Labels::from([("app".into(), "vllm".into())]);
    let ports = vec![8000, 8001];
    let pool = InferencePool { selector, ports, protocol: Protocol::Http1, picker: Some(picker) };
    let spec = Spec::Service(Arc::new(pool).as_service());
    let mut resources = vec![service("epp", Protocol::Grpc), of_endpoint(endpoint("epp", "epp-1", 99))];
    resources.push(resource(Kind::Service, "shop", "models", spec));
    resources.extend(members.iter().map(|(byte, port)| member(*byte, *port)));
    World::new(resources)
}

fn member(byte: u8, port: u16) -> Resource {
    let ports = vec![PortPair { service: port, target: port }];
    of_endpoint(byrnie_model::Endpoint { ports, ..endpoint("models", &format!("m{byte}"), byte) })
}

fn asked(world: &mut World, head: &mut Head) -> (Exchange, Pick) {
    let (exchange, effect) = world.begin(head, ms(0));
    let Effect::Pick(pick) = effect else { panic!("{effect:?}") };
    (exchange, *pick)
}

fn said(endpoints: &str) -> Picked {
    Picked::Said { edits: vec![Edit::Set(PICKED.into(), endpoints.into())], endpoints: "".into() }
}

fn answer(effect: Effect) -> (u16, Option<&'static str>, String) {
    let Effect::Reply(answer) = effect else { panic!("{effect:?}") };
    (answer.status, answer.reason.code().map(|code| code.id), answer.detail.to_string())
}

#[test]
fn the_first_member_named_is_asked_and_after_a_failure_the_next() {
    let mut world = world(&[(1, 8000), (2, 8000), (3, 8001)], false);
    let mut head = head("POST", "models:8000/", &[(PICKED, "10.0.0.1:8000")]);
    let (mut exchange, pick) = asked(&mut world, &mut head);
    assert_eq!(head.get(PICKED), None, "nobody but a picker says where a request goes");
    assert_eq!(endpoint_of(&pick.plan), "epp-1");
    let told = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8001"].map(Text::from);
    assert_eq!(pick.members.as_deref(), Some(&told[..]));
    let word = said("192.0.2.1:8000,10.0.0.3:8001, 10.0.0.2:8000,nobody,10.0.0.1:8001");
    let first = plan(exchange.on_picked(&mut world.shard, &mut head, word, ms(1)));
    assert_eq!(endpoint_of(&first), "m3");
    assert_eq!(exchange.served_by().as_deref(), Some("10.0.0.3:8001"));
    // The request was not sent: whoever is named next gets it, at its own port.
    let second = plan(exchange.on_failure(&mut world.shard, Failure::Connect, ms(2)));
    assert_eq!(endpoint_of(&second), "m2");
    assert_eq!(exchange.served_by().as_deref(), Some("10.0.0.2:8000"));
    exchange.finish(&mut world.shard, Outcome::default(), ms(3));
}

#[test]
fn what_no_member_is_gets_nothing_and_nobody_picked_depends_on_the_mode() {
    for (fail_open, members) in [(false, 2), (true, 2)] {
        let members: Vec<_> = [(1, 8000), (2, 8001)].into_iter().take(members).collect();
        let mut world = world(&members, fail_open);
        let mut head = head("POST", "models:8000/", &[]);
        let (mut exchange, _) = asked(&mut world, &mut head);
        let effect = exchange.on_picked(&mut world.shard, &mut head, said("10.0.0.9:8000"), ms(1));
        let (status, code, detail) = answer(effect);
        assert_eq!((status, code), (503, Some("BYR-R039")));
        assert!(detail.contains("10.0.0.9:8000"), "{detail}");
        let (mut exchange, _) = asked(&mut world, &mut head);
        let effect = exchange.on_picked(&mut world.shard, &mut head, Picked::Failed("it is away".into()), ms(1));
        if fail_open {
            assert!(["m1", "m2"].contains(&&*endpoint_of(&plan(effect))));
            assert_eq!(world.shard.counts().unpicked, 1);
        } else {
            let (status, code, detail) = answer(effect);
            assert_eq!((status, code), (503, Some("BYR-R039")));
            assert!(detail.contains("it is away"), "{detail}");
        }
    }
    // Over all ports in the mean, by how many members have each.
    let mut world = world(&[(1, 8000), (2, 8001), (3, 8001)], true);
    let mut counts = [0; 2];
    for _ in 0..300 {
        let mut head = head("POST", "models:8000/", &[]);
        let (mut exchange, _) = asked(&mut world, &mut head);
        let effect = exchange.on_picked(&mut world.shard, &mut head, Picked::Failed("".into()), ms(1));
        counts[usize::from(endpoint_of(&plan(effect)) == "m1")] += 1;
        exchange.finish(&mut world.shard, Outcome::default(), ms(1));
    }
    assert!(counts[1] > 60 && counts[1] < 140, "{counts:?}");
}

#[test]
fn a_picker_changes_lines_that_are_its_affair_and_no_others() {
    let mut head = head("POST", "models:8000/v1", &[("x-a", "1"), ("x-b", "2"), ("x-byrnie-criticality", "Critical")]);
    let set = |name: &str| Edit::Set(name.into(), b"new".to_vec());
    let mut edits = vec![Edit::Remove("X-A".into()), set("x-b"), Edit::Append("x-b".into(), b"more".to_vec())];
    edits.extend([Edit::Add("x-b".into(), b"no".to_vec()), Edit::Replace("x-c".into(), b"no".to_vec())]);
    edits.extend([":path", "host", "content-length", "x-byrnie-criticality", "txn-id", "te"].map(set));
    // Neither what nobody edits nor what a route may.
    let others = ["Transfer-Encoding", "Forwarded-Client-Identity", "Expect", "X-Forwarded-Client-Cert"];
    edits.extend(others.map(set));
    edit(&mut head, edits);
    assert_eq!(others.map(|name| head.get(name)), [None; 4]);
    let values: Vec<&[u8]> = head.values("x-b").collect();
    assert_eq!(values, [&b"new"[..], b"more"]);
    assert_eq!((head.get("x-a"), head.get("x-c"), head.get("txn-id")), (None, None, None));
    assert_eq!((head.path(), head.authority()), ("/v1", "models:8000"));
    assert_eq!(head.get("x-byrnie-criticality"), Some(&b"Critical"[..]));
}

#[test]
fn a_pickers_own_answer_is_the_callers_and_a_picker_that_is_away_is_not_asked() {
    let mut world = world(&[(1, 8000)], false);
    let mut head = head("POST", "models:8000/", &[]);
    let (mut exchange, _) = asked(&mut world, &mut head);
    let fields = vec![("Retry-After".into(), "3".into()), ("content-type".into(), "application/json".into())];
    let word = Picked::Answered { status: 429, fields, body: "{}".into() };
    let Effect::Reply(said) = exchange.on_picked(&mut world.shard, &mut head, word, ms(1)) else { panic!("no reply") };
    let mut response = Head::new();
    assert_eq!(exchange.write(&said, &mut response), b"{}");
    assert_eq!((response.status(), response.get("retry-after")), (429, Some(&b"3"[..])));
    assert_eq!(response.get("content-type"), Some(&b"application/json"[..]));
    world.remove(vec![byrnie_model::Key::new(Kind::Endpoint, "shop", "epp/epp-1")]);
    let (_, effect) = world.begin(&mut head, ms(2));
    let (status, code, detail) = answer(effect);
    assert_eq!((status, code), (503, Some("BYR-R039")));
    assert!(detail.contains("epp.shop:80"), "{detail}");
}
