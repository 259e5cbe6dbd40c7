// SPDX-License-Identifier: Apache-2.0
//! Two tries beside each other, and what they gain in a queueing simulation by seed.

use super::*;
use crate::fixtures::*;
use crate::{Effect, Failure, Outcome};
use byrnie_base::Rng;
use byrnie_model::Protocol;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Rate, RetryBudget};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

const DOCS: &str = include_str!("../../../../docs/explanation/resilience.md");
const DELAY: Duration = Duration::from_millis(20);

fn policy(hedge: Option<Hedge>, percent: u8) -> TrafficPolicy {
    let second = Duration::from_secs(1);
    let least = Rate { requests: if percent == 100 { 10 } else { 0 }, per: second };
    let retry_budget = Some(RetryBudget { percent, interval: second, least, hedge });
    TrafficPolicy { retry_budget, ..TrafficPolicy::default() }
}

fn hedged(endpoints: u8, percent: u8) -> World {
    let mut world = World::payments(endpoints);
    world.put(vec![traffic("payments", policy(Some(Hedge::Delay(DELAY)), percent))]);
    world
}

fn answer(status: u16) -> Head {
    response(status, &[])
}

fn begun(world: &mut World, method: &str) -> (Exchange, Plan) {
    let mut head = head(method, "payments/", &[]);
    let (exchange, effect) = world.begin(&mut head, ms(0));
    (exchange, plan(effect))
}

#[test]
fn the_quicker_of_two_tries_counts_and_the_other_is_given_up() {
    let mut world = hedged(3, 100);
    let (mut exchange, first) = begun(&mut world, "GET");
    assert_eq!(first.hedge_at, Some(ms(20).mono));
    let (slow, second) = exchange.on_slow(&mut world.shard, ms(20)).unwrap();
    assert_eq!((slow, second.again.attempt, second.hedge_at, second.again.budget), (1, 2, None, Some(0)));
    assert_ne!(endpoint_of(&first), endpoint_of(&second));
    exchange.won(&mut world.shard, 2, 1, ms(25));
    assert!(matches!(exchange.on_response(&mut world.shard, &mut answer(200), ms(25)), Effect::Forward));
    let counts = world.shard.counts();
    assert_eq!((counts.hedges, counts.hedges_won, counts.retries, counts.retries_won), (1, 1, 0, 0));
    let verdict = exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(25));
    let endings: Vec<_> = verdict.attempts.iter().map(|attempt| attempt.ending().unwrap()).collect();
    assert_eq!(endings, [Ending::Beaten, Ending::Status(200)]);
    let busy: u64 = world.snapshot().clusters().flat_map(|cluster| cluster.members()).map(|m| m.in_flight()).sum();
    drop(verdict);
    assert_eq!(busy, 1, "only who answered is busy until the end");
}

#[test]
fn when_one_of_two_fails_the_other_goes_on() {
    let mut world = hedged(3, 100);
    let (mut exchange, first) = begun(&mut world, "GET");
    let (slow, second) = exchange.on_slow(&mut world.shard, ms(20)).unwrap();
    let fallen = (slow, Ending::Failed(Failure::ResetBeforeHead { request_sent: true }));
    exchange.fell(&mut world.shard, fallen, second.again.attempt, ms(30));
    // The other fails too: a third try, elsewhere.
    let effect = exchange.on_failure(&mut world.shard, Failure::Connect, ms(31));
    let third = plan(effect);
    assert_eq!(third.again.attempt, 3);
    assert!(![endpoint_of(&first), endpoint_of(&second)].contains(&endpoint_of(&third)));
    assert!(matches!(exchange.on_failure(&mut world.shard, Failure::Connect, ms(32)), Effect::Reply(_)));
}

#[test]
fn what_may_not_be_repeated_is_never_sent_beside() {
    for (method, may) in [("GET", true), ("PUT", true), ("POST", false), ("PATCH", false)] {
        assert_eq!(begun(&mut hedged(3, 100), method).1.hedge_at.is_some(), may, "{method}");
    }
    assert_eq!(begun(&mut hedged(1, 100), "GET").1.hedge_at, None, "nobody else is there");
    assert_eq!(begun(&mut World::payments(3), "GET").1.hedge_at, None, "nobody asked for it");
    let mut world = hedged(3, 0);
    let (mut exchange, _) = begun(&mut world, "GET");
    assert!(exchange.on_slow(&mut world.shard, ms(20)).is_none(), "the budget is used up");
    assert_eq!(world.shard.counts().retries_over_budget, 1);
    // The answers of two tries that aren't worth more than to wait for the other.
    assert!(exchange.is_worth_taking(&answer(500)) && !exchange.is_worth_taking(&answer(503)));
}

#[test]
fn a_percentile_is_known_after_some_answers() {
    let mut world = World::payments(3);
    world.put(vec![traffic("payments", policy(Some(Hedge::Percentile(95)), 20))]);
    for n in 0..200 {
        let (mut exchange, plan) = begun(&mut world, "GET");
        assert!(n >= 64 || plan.hedge_at.is_none(), "{n}");
        let span = if n % 50 == 0 { 900 } else { 10 };
        exchange.on_response(&mut world.shard, &mut answer(200), ms(span));
    }
    let after = begun(&mut world, "GET").1.hedge_at.unwrap().since(ms(0).mono);
    assert!((10..15).contains(&after.as_millis()), "{after:?}");
}

/// An endpoint: busy workers, and (request, attempt, span) that wait.
type Place = (usize, VecDeque<(usize, u8, u64)>);

/// Six endpoints of four workers that take 5 ms in the mean, but one of 50 requests takes 20 times as long (a pause, a
/// lock, a disk), offered `rate` a second. Milliseconds at these per mille, and tries for each request.
fn run(hedge: Option<Hedge>, rate: u64) -> (f64, f64, f64) {
    const REQUESTS: u64 = 20_000;
    let mut resources = vec![service("s", Protocol::Http1), traffic("s", policy(hedge, 20))];
    resources.extend((0..6).map(|n| of_endpoint(endpoint("s", &format!("e{n}"), n + 1))));
    let mut world = World::new(resources);
    let snapshot = world.snapshot();
    let cluster = snapshot.clusters().next().unwrap();
    let mut dice = Rng::new(11);
    let exponential = |dice: &mut Rng, mean: u64| {
        let unit = (dice.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64;
        ((-unit.ln()) * mean as f64) as u64 + 1
    };
    let at = |micros: u64| {
        let now = ms(0);
        Now { mono: now.mono + Duration::from_micros(micros), wall: now.wall }
    };
    let index = |plan: &Plan| {
        let to = endpoint_of(plan);
        cluster.members().iter().position(|member| *member.name() == *to).unwrap()
    };
    let mut places: Vec<Place> = (0..6).map(|_| (0, VecDeque::new())).collect();
    let mut open: Vec<Option<(Exchange, u64, Option<u8>)>> = Vec::new();
    let (mut spans, mut tries) = (Vec::new(), 0u64);
    // (when, kind, request, attempt, endpoint); kind 0: an arrival, 1: slow, 2: an answer.
    let mut events = BinaryHeap::from([Reverse((0u64, 0u8, 0usize, 0u8, 0usize))]);
    while let Some(Reverse((now, kind, request, attempt, place))) = events.pop() {
        let mut sent = None;
        match kind {
            0 => {
                if request as u64 + 1 < REQUESTS {
                    events.push(Reverse((now + exponential(&mut dice, 1_000_000 / rate), 0, request + 1, 0, 0)));
                }
                let mut head = head("GET", "s/", &[]);
                let (exchange, effect) = world.begin(&mut head, at(now));
                let plan = plan(effect);
                if let Some(due) = plan.hedge_at {
                    let micros = u64::try_from(due.since(at(0).mono).as_micros()).unwrap();
                    events.push(Reverse((micros, 1, request, 0, 0)));
                }
                open.push(Some((exchange, now, None)));
                sent = Some(plan);
            }
            1 => {
                if let Some((exchange, _, second)) = &mut open[request]
                    && let Some((_, plan)) = exchange.on_slow(&mut world.shard, at(now))
                {
                    *second = Some(plan.again.attempt);
                    sent = Some(plan);
                }
            }
            _ => {
                if let Some((mut exchange, begun, second)) = open[request].take() {
                    if let Some(second) = second {
                        exchange.won(&mut world.shard, attempt, if attempt == second { 1 } else { second }, at(now));
                    }
                    exchange.on_response(&mut world.shard, &mut answer(200), at(now));
                    exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, at(now));
                    spans.push(now - begun);
                }
                // A try that was given up before it began costs nothing.
                places[place].1.retain(|(waiting, _, _)| open[*waiting].is_some());
                match places[place].1.pop_front() {
                    Some((next, attempt, span)) => events.push(Reverse((now + span, 2, next, attempt, place))),
                    None => places[place].0 -= 1,
                }
            }
        }
        let Some(plan) = sent else { continue };
        tries += 1;
        let (place, slow) = (index(&plan), dice.below(50) == 0);
        let span = exponential(&mut dice, if slow { 100_000 } else { 5_000 });
        let work = (request, plan.again.attempt, span);
        if places[place].0 < 4 {
            places[place].0 += 1;
            events.push(Reverse((now + span, 2, request, work.1, place)));
        } else {
            places[place].1.push_back(work);
        }
    }
    spans.sort_unstable();
    let percentile = |per_mille: usize| spans[(spans.len() - 1) * per_mille / 1000] as f64 / 1000.0;
    (percentile(990), percentile(999), tries as f64 / REQUESTS as f64)
}

#[test]
fn the_documented_gain_holds() {
    let mut table = String::new();
    let mut seen = Vec::new();
    for (name, hedge) in [
        ("none", None),
        ("`percentile: 99`", Some(Hedge::Percentile(99))),
        ("`percentile: 95`", Some(Hedge::Percentile(95))),
        ("`delay: 20ms`", Some(Hedge::Delay(DELAY))),
    ] {
        let (calm, busy) = (run(hedge, 1000), run(hedge, 2500));
        table += &format!(
            "| {name} | {:.0} / {:.0} | {:.2} | {:.0} / {:.0} | {:.2} |\n",
            calm.0, calm.1, calm.2, busy.0, busy.1, busy.2
        );
        seen.push((calm, busy));
    }
    assert!(DOCS.contains(&table), "docs/explanation/resilience.md is to contain:\n{table}");
    let (without, with) = (seen[0], seen[2]);
    assert!(with.0.0 * 2.0 < without.0.0 && with.0.2 < 1.2, "{seen:?}");
    assert!(with.1.1 < without.1.1 && with.1.2 < 1.21, "never more than the budget: {seen:?}");
}
