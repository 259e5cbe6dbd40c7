// SPDX-License-Identifier: Apache-2.0
//! What is remembered of the last requests holds as long as the configuration that it was found in; what nobody may call is denied.

use super::*;
use crate::fixtures::*;
use crate::{Arrival, Effect, Exchange, Tls};
use byrnie_model::resource::DefaultAccess;
use byrnie_model::{Kind, Protocol, Spec};

#[test]
fn what_was_found_for_the_last_request_is_not_taken_for_the_next_once_something_has_changed() {
    let straight = |to: &str| route("r", "payments", vec![rule(vec![prefix("/")], vec![backend(to, 1)])]);
    let mut world = World::payments(2);
    let other = vec![service("other", Protocol::Http1), of_endpoint(endpoint("other", "o1", 50))];
    assert_eq!(world.put(other), []);
    assert_eq!(world.put(vec![own_workload(), service("web", Protocol::Http1)]), []);
    let (payments, web, caller) = (sref("payments"), sref("web"), identity("bob"));
    let remote = ([127, 0, 0, 1], 1).into();
    let to_payments = Direction::Service { service: &payments, port: 80, sni: None };
    let to_web = Direction::Inbound { service: &web, port: 80 };
    let ask = |world: &mut World, direction, source| {
        let arrival = Arrival { direction, source, remote, tls: Tls::Mutual };
        // The second time it is known.
        [(); 2].map(|()| {
            let mut head = head("GET", "payments/", &[]);
            match Exchange::begin(&world.snapshot(), &mut world.shard, &arrival, &mut head, ms(0)).1 {
                Effect::Send(plan) => endpoint_of(&plan),
                effect => answer(effect).status.to_string(),
            }
        })
    };
    for (to, endpoint) in [("other", "o1"), ("nobody", "500"), ("other", "o1")] {
        assert_eq!(world.put(vec![straight(to)]), []);
        assert_eq!(ask(&mut world, to_payments, None), [endpoint; 2]);
        assert_eq!(ask(&mut world, Direction::Service { service: &payments, port: 81, sni: None }, None), ["404"; 2]);
    }
    for (default, got) in [(DefaultAccess::Allow, "program"), (DefaultAccess::Deny, "403")] {
        assert_eq!(world.put(vec![mesh(default)]), []);
        assert_eq!(ask(&mut world, to_web, Some(&caller)), [got; 2]);
        assert_eq!(ask(&mut world, to_payments, None), ["o1"; 2], "it isn't mixed up with the other");
    }
    world.remove(vec![service("payments", Protocol::Http1).key]);
    assert_eq!(ask(&mut world, to_payments, None), ["404"; 2]);
}

#[test]
fn what_no_policy_lets_the_caller_call_is_denied_and_not_lost() {
    let bare = Spec::Service(byrnie_model::Service::default());
    let known = resource(Kind::Service, "shop", "payments", bare);
    // The own service is known in full, as it's served here, but for who serves it.
    let own = service("web", Protocol::Http1);
    let mut world = World::new(vec![own_workload(), own, known]);
    let status = |world: &mut World, host: &str| answer(world.begin(&mut head("GET", host, &[]), ms(0)).1).status;
    for (host, expected) in [("payments/", 403), ("web/", 403), ("payments:81/", 403), ("nobody/", 404)] {
        assert_eq!(status(&mut world, host), expected, "{host}");
    }
    let (_, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    assert!(answer(effect).detail.contains("byrnie allow web.shop payments"));
    // Once a policy lets it call itself, it's told who serves it; being sick is something else then.
    let mut sick = endpoint("web", "web-1", 1);
    sick.health = byrnie_model::Health::Unhealthy;
    world.put(vec![of_endpoint(sick)]);
    assert_eq!(status(&mut world, "web/"), 503);
    // Where everybody may call, nothing is denied for want of a policy.
    world.put(vec![mesh(DefaultAccess::Allow)]);
    assert_eq!(status(&mut world, "payments/"), 404);
}
