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
    Quota { rate: Rate { requests, per: Duration::from_secs(seconds) }, by, shared: false }
}

fn shared(quota: Quota) -> Quota {
    Quota { shared: true, ..quota }
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
    ask_leasing(world, caller, headers, at, |asked| panic!("{asked:?}"))
}

/// The same where `grant` answers for the control plane.
fn ask_leasing(
    world: &mut World,
    caller: &str,
    headers: &[(&str, &str)],
    at: u64,
    mut grant: impl FnMut(QuotaAsk) -> Allowance,
) -> (u16, String) {
    let mut request = head("GET", "web/", headers);
    let source = identity(caller);
    let (mut exchange, mut effect) = world.begin_inbound(Some(&source), &mut request, ms(at));
    while let Effect::Lease(asked) = effect {
        let (service, remote) = (sref("web"), std::net::SocketAddr::from(([10, 0, 0, 9], 1)));
        let direction = crate::Direction::Inbound { service: &service, port: 80 };
        let arrival = Arrival { direction, source: Some(&source), remote, tls: crate::Tls::Mutual };
        effect = exchange.on_allowance(&mut world.shard, &arrival, &mut request, grant(*asked), ms(at));
    }
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

/// The control plane's part: it counts for all instances.
fn limiter() -> impl FnMut(QuotaAsk, u64) -> Allowance {
    let paces = Paces::new(8);
    move |asked, at| {
        let rate = asked.quota.rate;
        match paces.admit_some(asked.key, ms(at).mono, (rate.per / rate.requests, rate.requests), asked.requests) {
            Ok((deeds, left)) => Allowance::Leased(Lease { deeds, left }),
            Err(wait) => Allowance::Wait(wait),
        }
    }
}

#[test]
fn instances_share_a_quota_by_leases() {
    let quotas = || vec![shared(quota(100, 60, By::Caller))];
    let (mut limiter, mut asked) = (limiter(), 0);
    let mut instances = [callee(quotas()), callee(quotas()), callee(quotas())];
    let mut admitted = 0;
    for n in 0..300 {
        let (status, told) = ask_leasing(&mut instances[n % 3], "a", &[], n as u64, |want| {
            asked += 1;
            assert_eq!((&*want.service.name, want.quota.rate.requests), ("web", 100));
            limiter(want, n as u64)
        });
        admitted += u32::from(status == 200);
        assert!(told.contains("\"caller\";q=100;w=60"), "{told}");
        // Whoever is refused is told when to come back.
        assert_eq!(status == 429, told.split(' ').count() == 3, "{told}");
        assert!(status == 200 || told.contains(";r=0;"), "{told}");
    }
    assert!((94..=100).contains(&admitted), "{admitted}");
    assert!(asked < 100, "most requests ask nobody: {asked} asked");
    // Another caller has its own.
    assert_eq!(ask_leasing(&mut instances[0], "b", &[], 300, |want| limiter(want, 300)).0, 200);
}

#[test]
fn while_nobody_can_be_asked_each_instance_counts_for_itself() {
    let mut world = callee(vec![shared(quota(2, 60, By::Caller))]);
    let mut asked = 0;
    let mut unknown = |_| {
        asked += 1;
        Allowance::Unknown
    };
    for (at, status) in [(0, 200), (1, 200), (2, 429), (2999, 429), (3100, 429)] {
        assert_eq!(ask_leasing(&mut world, "a", &[], at, &mut unknown).0, status, "{at}");
    }
    assert_eq!(asked, 2, "it's asked again after three seconds");
    assert_eq!(world.shard.counts().quotas_alone, 5);
}

#[test]
fn a_request_counts_once_under_each_quota_however_many_are_asked_for() {
    let quotas =
        vec![quota(3, 60, By::All), shared(quota(9, 60, By::Caller)), shared(quota(2, 60, By::Header("x-k".into())))];
    let mut world = callee(quotas);
    let mut limiters = [limiter(), limiter()];
    let mut ask = |caller: &str, key: &str| {
        ask_leasing(&mut world, caller, &[("x-k", key)], 0, |want| {
            limiters[usize::from(want.quota.by != By::Caller)](want, 0)
        })
    };
    assert!(ask("a", "1").1.contains("\"x-k\";r=1;"), "the tightest is told");
    assert_eq!(ask("a", "1").0, 200);
    let (status, told) = ask("b", "1");
    assert_eq!(status, 429);
    assert!(told.starts_with("\"x-k\";q=2;w=60 \"x-k\";r=0;"), "{told}");
    assert!(ask("b", "2").1.starts_with("\"all\""), "three have come, whatever became of them");
}
