// SPDX-License-Identifier: Apache-2.0
//! The law of admission by seed: an overloaded program does more where fewer are sent, the less important are refused first, nobody is
//! where all succeed, and it ends when the failures do.

use crate::fixtures::*;
use crate::{Answer, Effect, Exchange, Failure, Outcome, Reason, Shard};
use byrnie_codec::Fields;
use byrnie_model::Protocol;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Admission, Limits};
use byrnie_model::resource::DefaultAccess;
use std::time::Duration;

/// What a policy has that says no more than that it wants it.
const RULE: Admission = Admission {
    success_percent: 50,
    window: Duration::from_secs(10),
    volume: 50,
    rejected_percent_max: 80,
    codes: Vec::new(),
};
/// Milliseconds of a step of the simulation.
const STEP: u64 = 100;

fn world(rule: Option<Admission>, seed: u64) -> World {
    let mut world = World::payments(1);
    let limits = Limits { admission: rule, ..Limits::default() };
    world.put(vec![traffic("payments", TrafficPolicy { limits: Some(limits), ..TrafficPolicy::default() })]);
    world.shard = Shard::new(seed);
    world
}

/// A request of a class; the exchange if it's sent.
fn ask(world: &mut World, class: &str, at: u64) -> Result<Exchange, Box<Answer>> {
    ask_with(world, "text/plain", class, at)
}

fn ask_with(world: &mut World, kind: &str, class: &str, at: u64) -> Result<Exchange, Box<Answer>> {
    let mut head = head("GET", "payments/", &[("x-byrnie-criticality", class), ("content-type", kind)]);
    match world.begin(&mut head, ms(at)) {
        (exchange, Effect::Send(_)) => Ok(exchange),
        (exchange, Effect::Reply(answer)) => {
            exchange.finish(&mut world.shard, Outcome { status: answer.status, failure: None }, ms(at));
            Err(answer)
        }
        (_, other) => panic!("{other:?}"),
    }
}

fn end(world: &mut World, mut exchange: Exchange, status: u16, at: u64) {
    exchange.on_response(&mut world.shard, &mut response(status, &[]), ms(at));
    exchange.finish(&mut world.shard, Outcome { status, failure: None }, ms(at));
}

fn all_fail(world: &mut World, times: usize, at: u64) {
    for _ in 0..times {
        if let Ok(exchange) = ask(world, "critical", at) {
            end(world, exchange, 503, at);
        }
    }
}

/// What came of a second's requests: those that succeeded, and those refused, by class.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    good: u64,
    refused: [u64; 2],
}

/// A program that does `capacity` a second; to turn one away costs it two fifths of doing it. `rate` says how many sheddable and
/// how many critical ones it's asked for in each second.
fn simulate(
    world: &mut World,
    seconds: u64,
    capacity: impl Fn(u64) -> u64,
    rate: impl Fn(u64) -> [u64; 2],
) -> Vec<Second> {
    let mut seen = vec![Second::default(); usize::try_from(seconds).unwrap()];
    for step in 0..seconds * 1000 / STEP {
        let (at, second) = (step * STEP, step * STEP / 1000);
        let told = &mut seen[usize::try_from(second).unwrap()];
        let mut sent = Vec::new();
        for (place, class) in ["sheddable", "critical"].into_iter().enumerate() {
            for _ in 0..rate(second)[place] * STEP / 1000 {
                match ask(world, class, at) {
                    Ok(exchange) => sent.push(exchange),
                    Err(_) => told.refused[place] += 1,
                }
            }
        }
        // What remains after all have been looked at, three fifths for each that is done.
        let (room, count) = (capacity(second) * STEP / 1000, sent.len() as u64);
        let done = ((5 * room).saturating_sub(2 * count) / 3).min(count).min(room);
        told.good += done;
        for (n, exchange) in sent.into_iter().enumerate() {
            end(world, exchange, if (n as u64) < done { 200 } else { 503 }, at);
        }
    }
    seen
}

fn sum(seen: &[Second], range: std::ops::Range<usize>) -> Second {
    seen[range].iter().fold(Second::default(), |sum, second| Second {
        good: sum.good + second.good,
        refused: [sum.refused[0] + second.refused[0], sum.refused[1] + second.refused[1]],
    })
}

#[test]
fn an_overloaded_program_does_more_where_fewer_are_sent_and_all_is_well_once_it_ends() {
    let rate = |second| if (10..40).contains(&second) { [0, 300] } else { [0, 80] };
    for seed in 1..=5 {
        let without = simulate(&mut world(None, seed), 60, |_| 100, rate);
        assert_eq!(sum(&without, 10..40).good, 0, "it's busy turning requests away");
        let seen = simulate(&mut world(Some(RULE), seed), 60, |_| 100, rate);
        assert_eq!(sum(&seen, 0..10).refused, [0, 0]);
        let good = sum(&seen, 20..40).good / 20;
        assert!((60..=75).contains(&good), "{good} a second, 71 by the law: seed {seed}");
        assert_eq!((sum(&seen, 50..60).good, sum(&seen, 50..60).refused), (800, [0, 0]), "seed {seed}");
    }
}

#[test]
fn a_program_that_was_gone_is_used_again_and_meanwhile_it_is_seen_whether_it_is_back() {
    for seed in 1..=5 {
        let back = |second| if (10..40).contains(&second) { 0 } else { 200 };
        let seen = simulate(&mut world(Some(RULE), seed), 70, back, |_| [0, 100]);
        let refused = sum(&seen, 20..40).refused[1] / 20;
        assert!((75..=85).contains(&refused), "{refused} a second, 80 of a hundred by the policy: seed {seed}");
        assert!(sum(&seen, 40..46).good > 90, "seed {seed}: {:?}", sum(&seen, 40..46));
        assert_eq!(sum(&seen, 57..70).refused, [0, 0], "seed {seed}");
    }
}

#[test]
fn the_less_important_are_refused_before_any_other() {
    for seed in 1..=5 {
        let seen = simulate(&mut world(Some(RULE), seed), 60, |_| 100, |_| [200, 100]);
        let Second { refused: [sheddable, critical], .. } = sum(&seen, 10..60);
        assert!(sheddable > 5_000 && critical * 100 < sheddable, "seed {seed}: {sheddable} and {critical}");
        // Where there are too few of them, the others follow.
        let seen = simulate(&mut world(Some(RULE), seed), 60, |_| 100, |_| [50, 250]);
        let Second { refused: [sheddable, critical], .. } = sum(&seen, 10..60);
        assert!(sheddable > 2_300 && critical > 4_000, "seed {seed}: {sheddable} of 2500 and {critical} of 12500");
    }
}

#[test]
fn whoever_is_slow_to_ask_has_nobody_refused() {
    let strict = Admission { success_percent: 100, volume: 1, rejected_percent_max: 100, ..RULE };
    let mut world = world(Some(strict), 1);
    for n in 0..100 {
        let mut head = head("PUT", "payments/", &[("x-byrnie-deadline-ms", "5")]);
        let (mut exchange, effect) = world.begin(&mut head, ms(n * 10));
        assert!(matches!(effect, Effect::Send(_)), "it was never the program's doing: {effect:?}");
        let told = answer(exchange.on_failure(&mut world.shard, Failure::CallerSlow, ms(n * 10 + 5)));
        exchange.finish(&mut world.shard, Outcome { status: told.status, failure: None }, ms(n * 10 + 5));
    }
}

#[test]
fn nobody_is_refused_where_all_succeed_or_few_ask() {
    for seed in 1..=20 {
        let strict = Admission { success_percent: 100, volume: 1, rejected_percent_max: 100, ..RULE };
        let mut world = world(Some(strict), seed);
        let mut slow = Vec::new();
        for n in 0..2_000 {
            let exchange = ask(&mut world, "sheddable", n * seed).unwrap();
            // One in three takes for ever, which is no failure.
            match n % 3 {
                0 => slow.push(exchange),
                _ => end(&mut world, exchange, 200 + u16::try_from(n % 200).unwrap(), n * seed),
            }
        }
    }
    let mut few = world(Some(RULE), 1);
    for n in 0..500 {
        let exchange = ask(&mut few, "sheddable", n * 250).expect("four a second are 40 within the window");
        end(&mut few, exchange, 503, n * 250);
    }
}

#[test]
fn a_refusal_says_why_and_is_tried_again_by_nobody() {
    let mut world = world(Some(RULE), 1);
    world.put(vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), own_workload()]);
    all_fail(&mut world, 200, 0);
    let answer = (0..100).find_map(|_| ask(&mut world, "critical", 10).err()).unwrap();
    assert_eq!((answer.status, answer.reason, answer.grpc_status()), (503, Reason::NotAdmitted, 14));
    assert_eq!(answer.retry_after, Some(Duration::from_secs(1)));
    assert_eq!(answer.reason.code().unwrap().id, "BYR-R035");
    assert!(answer.detail.contains("payments.shop"), "{}", answer.detail);
    // The own program fails for it: its callers' proxies are told to let it be.
    let (mut exchange, effect) = world.begin_inbound(Some(&identity("bob")), &mut head("GET", "web/", &[]), ms(20));
    plan(effect);
    let mut failed = response(503, &[]);
    exchange.on_response(&mut world.shard, &mut failed, ms(20));
    assert_eq!(failed.get("x-byrnie-retry-budget"), Some(&b"0"[..]));
}

/// Whether so many exchanges that end so are held against the service.
fn counts(rule: Admission, finish: impl FnMut(&mut Shard, Exchange)) -> bool {
    counts_of("text/plain", rule, finish)
}

fn counts_of(kind: &str, rule: Admission, mut finish: impl FnMut(&mut Shard, Exchange)) -> bool {
    let mut world = world(Some(rule), 1);
    for _ in 0..200 {
        if let Ok(exchange) = ask_with(&mut world, kind, "critical", 0) {
            finish(&mut world.shard, exchange);
        }
    }
    (0..100).any(|_| ask(&mut world, "critical", 1).is_err())
}

#[test]
fn what_counts_as_a_failure_is_what_the_service_did_and_the_policy_says() {
    let status = |rule: &Admission, status| {
        counts(rule.clone(), |shard, mut exchange| {
            exchange.on_response(shard, &mut response(status, &[]), ms(0));
            exchange.finish(shard, Outcome { status, failure: None }, ms(0));
        })
    };
    let own = Admission { codes: vec![418, 503], ..RULE };
    let told = |rule: &Admission| [200, 404, 418, 429, 500, 503].map(|code| status(rule, code));
    assert_eq!(told(&RULE), [false, false, false, true, true, true]);
    assert_eq!(told(&own), [false, false, true, false, false, true]);
    let grpc = |code: &'static str| {
        counts_of("application/grpc", RULE, |shard, mut exchange| {
            exchange.on_response(shard, &mut response(200, &[]), ms(0));
            let mut trailers = Fields::default();
            trailers.append("grpc-status", code.as_bytes()).unwrap();
            exchange.on_trailers(&trailers, ms(0));
            exchange.finish(shard, Outcome { status: 200, failure: None }, ms(0));
        })
    };
    assert_eq!(["0", "3", "5", "8", "13", "14"].map(grpc), [false, false, false, true, true, true]);
    let broken = |failure| {
        counts(RULE, |shard, mut exchange| {
            exchange.on_response(shard, &mut response(200, &[]), ms(0));
            exchange.finish(shard, Outcome { status: 200, failure: Some(failure) }, ms(0));
        })
    };
    assert_eq!([Failure::ResetAfterHead, Failure::DownstreamGone].map(broken), [true, false]);
    // Whoever isn't there counts once for each request, whatever was tried.
    let absent = counts(RULE, |shard, mut exchange| {
        let mut effect = exchange.on_failure(shard, Failure::Connect, ms(0));
        while let Effect::Send(_) = effect {
            effect = exchange.on_failure(shard, Failure::Connect, ms(0));
        }
        let status = answer(effect).status;
        exchange.finish(shard, Outcome { status, failure: None }, ms(0));
    });
    assert!(absent);
}
