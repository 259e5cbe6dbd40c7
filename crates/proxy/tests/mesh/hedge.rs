// SPDX-License-Identifier: Apache-2.0
//! A second try beside a slow one: the caller has one answer, the quicker, and nobody goes on with the other.

use crate::world::*;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Balance, Hedge, Rate, RetryBudget};
use byrnie_model::{Kind, Protocol, Spec};
use byrnie_net::runtime;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn hedged() -> byrnie_model::Resource {
    let second = Duration::from_secs(1);
    let budget = RetryBudget {
        percent: 100,
        interval: second,
        least: Rate { requests: 1000, per: second },
        hedge: Some(Hedge::Delay(Duration::from_millis(20))),
    };
    let policy = TrafficPolicy {
        targets: vec![service("echo")],
        balance: Some(Balance::RoundRobin),
        retry_budget: Some(budget),
        ..TrafficPolicy::default()
    };
    resource(Kind::TrafficPolicy, "echo", Spec::Traffic(Arc::new(policy)))
}

#[test]
fn a_slow_try_is_overtaken_and_given_up() {
    let (asked, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&asked), Arc::clone(&left));
    // It never answers, and sees whether it is still waited for.
    let slow = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            peer.read_body_of(&head);
            counts.0.fetch_add(1, Ordering::SeqCst);
            peer.read_to_end();
            counts.1.fetch_add(1, Ordering::SeqCst);
        }
    });
    let quick = Program::echo();
    let world = World::new();
    let servers = [&slow, &quick].map(|program| world.serving("echo", program.port, Protocol::Http1));
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&servers[0], &servers[1]])]);
    caller.apply(vec![hedged()]);
    let mut client = Peer::connect(caller.outbound("echo"));
    // A busy machine may keep a try from its program until it's given up.
    let deadline = runtime::now().mono + PATIENCE;
    for n in 0.. {
        if n >= 10 && asked.load(Ordering::SeqCst) >= 3 {
            break;
        }
        assert!(runtime::now().mono < deadline, "{asked:?} of {n} were sent to the slow one");
        let length = format!("body{n}").len();
        let put = format!("PUT /{n} HTTP/1.1\r\nhost: echo\r\ncontent-length: {length}\r\n\r\nbody{n}");
        let (request, text) = if n % 4 < 2 {
            (get(&format!("/{n}")), format!("GET /{n} HTTP/1.1\n"))
        } else {
            (put, format!("PUT /{n} HTTP/1.1\nbody{n}"))
        };
        assert_eq!(client.ask(&request), (200, text));
    }
    while left.load(Ordering::SeqCst) < asked.load(Ordering::SeqCst) {
        assert!(runtime::now().mono < deadline, "{left:?} of {asked:?} were given up");
        std::thread::yield_now();
    }
    caller.wait_for_record(&["another try was quicker"]);
}
