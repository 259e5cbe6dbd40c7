// SPDX-License-Identifier: Apache-2.0
//! What is remembered of the last requests holds as long as the configuration that it was found in.

use super::*;
use crate::fixtures::*;
use crate::{Arrival, Effect, Exchange, Tls};
use byrnie_model::Protocol;
use byrnie_model::resource::DefaultAccess;

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
