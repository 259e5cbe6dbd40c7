// SPDX-License-Identifier: Apache-2.0
//! Who is turned away when, and what each is told, through whole exchanges.

use super::*;
use crate::fixtures::*;
use crate::{Effect, Outcome};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Limits, Rate};
use byrnie_model::resource::{DefaultAccess, Resource};
use byrnie_model::{Protocol, Spec};

fn quota(requests: u32, seconds: u64, by: By) -> Quota {
    Quota { rate: Rate { requests, per: Duration::from_secs(seconds) }, by }
}

fn policy(service: &str, quotas: Vec<Quota>) -> Resource {
    let limits = Some(Limits { quotas, ..Limits::default() });
    traffic(service, TrafficPolicy { limits, ..TrafficPolicy::default() })
}

/// The callee: `web` serves itself, under these quotas.
fn callee(quotas: Vec<Quota>) -> World {
    let resources = vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), own_workload()];
    let mut world = World::new(resources);
    world.put(vec![policy("web", quotas)]);
    world
}

/// What a request of `caller` comes to: its status, and what it's told of quotas and of coming back.
fn ask(world: &mut World, caller: &str, headers: &[(&str, &str)], at: u64) -> (u16, String) {
    let mut request = head("GET", "web/", headers);
    let (mut exchange, effect) = world.begin_inbound(Some(&identity(caller)), &mut request, ms(at));
    let mut answer = match effect {
        Effect::Send(_) => {
            let mut answer = response(200, &[]);
            assert!(matches!(exchange.on_response(&mut world.shard, &mut answer, ms(at)), Effect::Forward));
            answer
        }
        Effect::Reply(refusal) => {
            let mut answer = response(0, &[]);
            refusal.write(exchange.id(), &mut answer);
            answer
        }
        other => panic!("{other:?}"),
    };
    exchange.finish(&mut world.shard, Outcome::default(), ms(at));
    let mut field = |name: &str| {
        let value = answer.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
        answer.remove(name);
        value.unwrap_or_default()
    };
    let told = [field(POLICY_FIELD), field(LEFT_FIELD), field("retry-after")].join(" ");
    (answer.status(), told.trim_end().to_owned())
}

#[test]
fn each_caller_has_a_quota_of_its_own_and_is_told_of_it() {
    let mut world = callee(vec![quota(2, 10, By::Caller)]);
    let policy = "\"caller\";q=2;w=10";
    assert_eq!(ask(&mut world, "a", &[], 0), (200, format!("{policy} \"caller\";r=1;t=5")));
    assert_eq!(ask(&mut world, "a", &[], 0), (200, format!("{policy} \"caller\";r=0;t=10")));
    assert_eq!(ask(&mut world, "a", &[], 1000), (429, format!("{policy} \"caller\";r=0;t=4 4")));
    assert_eq!(ask(&mut world, "b", &[], 1000).0, 200);
    assert_eq!(ask(&mut world, "a", &[], 5000).0, 200);
}

#[test]
fn values_of_a_header_are_counted_apart_and_none_is_a_value_too() {
    let mut world = callee(vec![quota(1, 60, By::Header("x-api-key".into()))]);
    for (key, status) in [(Some("k1"), 200), (Some("k2"), 200), (None, 200), (Some("k1"), 429), (None, 429)] {
        let headers: Vec<_> = key.map(|key| ("x-api-key", key)).into_iter().collect();
        assert_eq!(ask(&mut world, "a", &headers, 0).0, status, "{key:?}");
    }
    assert_eq!(ask(&mut world, "b", &[("X-API-KEY", "k1")], 0).0, 429, "whoever sends it");
}

#[test]
fn all_quotas_hold_and_the_tightest_is_told() {
    let mut world = callee(vec![quota(10, 1, By::All), quota(2, 1, By::Caller)]);
    assert!(ask(&mut world, "a", &[], 0).1.starts_with("\"caller\";q=2;w=1 \"caller\";r=1;"));
    let mut admitted = 0;
    for caller in 0..10 {
        for _ in 0..2 {
            admitted += u32::from(ask(&mut world, &format!("c{caller}"), &[], 0).0 == 200);
        }
    }
    assert_eq!(admitted, 9, "ten in all");
    assert!(ask(&mut world, "x", &[], 0).1.starts_with("\"all\";q=10;w=1 \"all\";r=0;"));
}

#[test]
fn what_was_used_is_remembered_as_long_as_the_quota_stays_as_it_is() {
    let mut world = callee(vec![quota(1, 60, By::Caller)]);
    assert_eq!(ask(&mut world, "a", &[], 0).0, 200);
    world.put(vec![service("web", Protocol::Http1), policy("web", vec![quota(1, 60, By::Caller)])]);
    assert_eq!(ask(&mut world, "a", &[], 0).0, 429);
    world.put(vec![policy("web", vec![quota(2, 60, By::Caller)])]);
    assert_eq!(ask(&mut world, "a", &[], 0).0, 200);
    world.put(vec![policy("web", vec![])]);
    assert_eq!(ask(&mut world, "a", &[], 0), (200, String::new()));
}

#[test]
fn a_part_of_a_service_is_no_way_around_its_quota() {
    let mut world = callee(vec![quota(1, 60, By::Caller)]);
    let Spec::Service(mut part) = service("web", Protocol::Http1).spec else { panic!() };
    part.selector.insert("version".into(), "v1".into());
    let mut own = own_workload();
    own.labels.insert("version".into(), "v1".into());
    world.put(vec![own, resource(byrnie_model::Kind::Service, "shop", "web-v1", Spec::Service(part))]);
    assert_eq!(ask(&mut world, "a", &[], 0).0, 200);
    let part = sref("web-v1");
    let mut request = head("GET", "web-v1/", &[]);
    let direction = crate::Direction::Inbound { service: &part, port: 80 };
    let caller = identity("a");
    let remote = std::net::SocketAddr::from(([10, 0, 0, 9], 1));
    let arrival = Arrival { direction, source: Some(&caller), remote, tls: crate::Tls::Mutual };
    let snapshot = world.snapshot();
    let (_, effect) = crate::Exchange::begin(&snapshot, &mut world.shard, &arrival, &mut request, ms(0));
    assert_eq!(answer(effect).status, 429);
}
