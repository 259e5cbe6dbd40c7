// SPDX-License-Identifier: Apache-2.0
//! What is tried again, when, where, and how often on a whole path.

use crate::fixtures::*;
use crate::{Effect, Failure};
use byrnie_model::Protocol;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Balance, Eject, Hash, HashOn, Rate, RetryBudget};
use byrnie_model::resource::DefaultAccess;
use byrnie_model::route::{Match, Retry, Rule};
use std::time::Duration;

const RESET: Failure = Failure::ResetBeforeHead { request_sent: true };

/// One call of one hop: the tries at the next program, each answered with 503 and the header that `next` gives.
fn hop(world: &mut World, budget: Option<&str>, at: u64, next: &mut dyn FnMut(Option<String>) -> Option<String>) {
    let headers: Vec<(&str, &str)> = budget.iter().map(|value| ("x-byrnie-retry-budget", *value)).collect();
    let mut head = head("GET", "payments/", &headers);
    let (mut exchange, mut effect) = world.begin(&mut head, ms(at));
    while let Effect::Send(planned) = effect {
        if planned.again.attempt > 1 {
            planned.stamp(&mut head, ms(at));
        }
        let left = head.get("x-byrnie-retry-budget").map(|value| String::from_utf8_lossy(value).into_owned());
        let said = next(left);
        let headers: Vec<(&str, &str)> = said.iter().map(|value| ("x-byrnie-retry-budget", value.as_str())).collect();
        effect = exchange.on_response(&mut world.shard, &mut response(503, &headers), ms(at));
    }
}

/// What the proxy of the same workload tells its caller when the program answers so.
fn says(world: &mut World, status: u16, at: u64) -> Option<String> {
    let (mut exchange, effect) = world.begin_inbound(Some(&identity("bob")), &mut head("GET", "web/", &[]), ms(at));
    plan(effect);
    let mut response = response(status, &[]);
    exchange.on_response(&mut world.shard, &mut response, ms(at));
    response.get("x-byrnie-retry-budget").map(|value| String::from_utf8_lossy(value).into_owned())
}

/// A service whose calls are tried again on 503.
fn retrying(endpoints: u8, attempts: u8, backoff: Option<Duration>) -> World {
    let mut world = World::payments(endpoints);
    let retry = Retry { codes: vec![503], attempts, backoff };
    let rule = Rule { retry: Some(retry), ..rule(vec![Match::default()], vec![backend("payments", 1)]) };
    world.put(vec![route("payments", "payments", vec![rule])]);
    world
}

#[test]
fn of_four_hops_only_the_last_retries() {
    // Each hop may retry on 503; the last program always fails. 1,000 requests a second, for ten seconds.
    for passes_on in [true, false] {
        let [mut first, mut second, mut third] = [(); 3].map(|()| served(retrying(4, 2, None)));
        let (mut last, offered) = (0, 10_000);
        for at in 0..offered {
            hop(&mut first, None, at, &mut |left| {
                let left = left.filter(|_| passes_on);
                hop(&mut second, left.as_deref(), at, &mut |left| {
                    let left = left.filter(|_| passes_on);
                    hop(&mut third, left.as_deref(), at, &mut |_| {
                        last += 1;
                        None
                    });
                    says(&mut third, 503, at)
                });
                says(&mut second, 503, at)
            });
        }
        assert!(last <= offered * 121 / 100, "{last} of {offered}");
        assert!(third.shard.counts().retries > 1_000, "the hop next to the failure did retry");
        assert!(first.shard.counts().retries + second.shard.counts().retries < 20);
    }
}

/// The own program is called too.
fn served(mut world: World) -> World {
    world.put(vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), own_workload()]);
    world
}

#[test]
fn an_error_after_retries_below_is_not_retried_above() {
    let mut world = served(World::payments(2));
    // The own program calls payments, in vain.
    let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    plan(effect);
    plan(exchange.on_failure(&mut world.shard, RESET, ms(0)));
    plan(exchange.on_failure(&mut world.shard, RESET, ms(0)));
    answer(exchange.on_failure(&mut world.shard, RESET, ms(0)));
    // And then fails its own caller.
    assert_eq!(says(&mut world, 503, 500), Some("0".to_owned()));
    assert_eq!((says(&mut world, 200, 500), says(&mut world, 503, 1_500)), (None, None));
    // Whose proxy doesn't retry then, and tells nobody.
    let mut other = retrying(2, 2, None);
    let (mut exchange, effect) = other.begin(&mut head("GET", "payments/", &[]), ms(0));
    plan(effect);
    let mut spent = response(503, &[("x-byrnie-retry-budget", "0")]);
    assert!(matches!(exchange.on_response(&mut other.shard, &mut spent, ms(0)), Effect::Forward));
    assert_eq!(spent.get("x-byrnie-retry-budget"), None);
}

#[test]
fn a_call_that_ends_at_once_is_retried_by_what_its_status_is_in_http() {
    let retried = |unsafe_retry: bool, status: &str| {
        let mut world = retrying(2, 2, None);
        world.put(vec![traffic("payments", TrafficPolicy { unsafe_retry, ..TrafficPolicy::default() })]);
        let mut call = head("POST", "payments/shop.Cart/Add", &[("content-type", "application/grpc")]);
        let (mut exchange, effect) = world.begin(&mut call, ms(0));
        plan(effect);
        let mut ended = response(200, &[("content-type", "application/grpc"), ("grpc-status", status)]);
        matches!(exchange.on_response(&mut world.shard, &mut ended, ms(1)), Effect::Send(_))
    };
    // UNAVAILABLE is 503; OK, NOT_FOUND and INTERNAL aren't.
    assert_eq!(["14", "0", "5", "13"].map(|status| retried(true, status)), [true, false, false, false]);
    assert!(!retried(false, "14"), "a call may have had its effect, unless a policy says that it may be repeated");
}

#[test]
fn pauses_are_drawn_from_a_growing_span() {
    let spans = |seed, endpoints, backoff: Option<Duration>| {
        let mut world = retrying(endpoints, 4, backoff);
        world.shard = crate::Shard::new(seed);
        let (mut exchange, mut effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
        let mut spans = Vec::new();
        while let Effect::Send(plan) = effect {
            spans.push(plan.delay);
            effect = exchange.on_response(&mut world.shard, &mut response(503, &[]), ms(0));
        }
        spans
    };
    let millis = Duration::from_millis;
    let many: Vec<_> = (0..50).map(|seed| spans(seed, 1, None)).collect();
    for (n, most) in [(1, millis(50)), (2, millis(100)), (3, millis(200)), (4, millis(400))] {
        let found: Vec<Duration> = many.iter().map(|spans| spans[n]).collect();
        assert!(found.iter().all(|span| *span < most), "{n}");
        assert!(found.iter().any(|span| *span > most / 2) && found.iter().any(|span| *span < most / 4), "{n}");
    }
    assert!(many.iter().all(|spans| spans.len() == 5 && spans[0].is_zero()));
    assert!(spans(1, 5, None)[1].is_zero(), "another endpoint is asked at once");
    assert!(spans(1, 5, Some(millis(30)))[1..].iter().all(|span| *span >= millis(30)), "no sooner than the route says");
}

#[test]
fn a_retry_waits_as_long_as_the_only_endpoint_asks_for() {
    let ask = |endpoints, seconds: &str, deadline: &[(&str, &str)]| {
        let mut world = retrying(endpoints, 1, None);
        let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", deadline), ms(0));
        plan(effect);
        match exchange.on_response(&mut world.shard, &mut response(503, &[("retry-after", seconds)]), ms(0)) {
            Effect::Send(plan) => Some(plan.delay),
            _ => None,
        }
    };
    assert!(ask(1, "1", &[]).is_some_and(|delay| delay >= Duration::from_secs(1)));
    assert_eq!(ask(1, "30", &[]), None, "the caller is told to come back instead");
    assert_eq!(ask(1, "1", &[("x-byrnie-deadline-ms", "900")]), None);
    assert_eq!(ask(2, "30", &[]), Some(Duration::ZERO), "another endpoint didn't ask for anything");
}

#[test]
fn who_refuses_is_left_alone_as_long_as_it_asks_for() {
    type Say = fn(&mut World, &mut crate::Exchange, bool);
    fn say(world: &mut World, exchange: &mut crate::Exchange, mut head: byrnie_codec::Head) {
        exchange.on_response(&mut world.shard, &mut head, ms(0));
    }
    let answers: [Say; 4] = [
        |world, exchange, bad| say(world, exchange, response(if bad { 503 } else { 200 }, &[])),
        |world, exchange, bad| say(world, exchange, response(if bad { 429 } else { 200 }, &[("retry-after", "5")])),
        |world, exchange, bad| say(world, exchange, response(200, &[("grpc-status", if bad { "8" } else { "0" })])),
        |world, exchange, bad| {
            say(world, exchange, response(200, &[]));
            let mut trailers = byrnie_codec::Fields::new();
            trailers.append("grpc-status", if bad { b"8" } else { b"0" }).unwrap();
            exchange.on_trailers(&trailers, ms(0));
        },
    ];
    for (kind, answer) in answers.into_iter().enumerate() {
        let mut world = World::payments(3);
        let mut asked = 0;
        for _ in 0..200 {
            let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
            let bad = endpoint_of(&plan(effect)) == "p1";
            asked += u32::from(bad);
            answer(&mut world, &mut exchange, bad);
        }
        assert!(asked <= 1, "{kind}: asked {asked} times");
    }
}

#[test]
fn a_user_stays_with_an_endpoint() {
    let hash = Hash { on: HashOn::Header("x-user".into()), load_percent_max: Some(200) };
    let policy = TrafficPolicy { balance: Some(Balance::Maglev), hash: Some(hash), ..TrafficPolicy::default() };
    let mut world = World::payments(5);
    world.put(vec![traffic("payments", policy)]);
    let mut ask = |user: &str| {
        let (_exchange, effect) = world.begin(&mut head("GET", "payments/", &[("x-user", user)]), ms(0));
        endpoint_of(&plan(effect))
    };
    let homes: Vec<String> = (0..50).map(|n| ask(&format!("u{n}"))).collect();
    assert!((0..50).all(|n| ask(&format!("u{n}")) == homes[n]));
    assert_eq!(homes.iter().collect::<std::collections::BTreeSet<_>>().len(), 5);
    // Retries go on in the user's own order.
    let retry = |world: &mut World| {
        let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[("x-user", "bob")]), ms(0));
        let first = endpoint_of(&plan(effect));
        (first, endpoint_of(&plan(exchange.on_failure(&mut world.shard, Failure::Connect, ms(0)))))
    };
    assert_eq!(retry(&mut world), retry(&mut world));
}

/// The endpoints that a GET tries while none of them says anything for a second each; one of the others answers somebody else
/// meanwhile, if `one_answers`.
fn tries_in_silence(one_answers: bool, headers: &[(&str, &str)]) -> (Vec<String>, Option<String>) {
    let mut world = World::payments(20);
    let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", headers), ms(10_000));
    let mut asked = vec![endpoint_of(&plan(effect))];
    let answered = one_answers.then(|| {
        loop {
            let (mut other, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(10_001));
            let endpoint = endpoint_of(&plan(effect));
            if endpoint != asked[0] {
                other.on_response(&mut world.shard, &mut response(200, &[]), ms(10_005));
                break endpoint;
            }
        }
    });
    for second in 11.. {
        match exchange.on_failure(&mut world.shard, Failure::TryTimeout, ms(second * 1_000)) {
            Effect::Send(plan) => asked.push(endpoint_of(&plan)),
            Effect::Wait => break,
            other => panic!("{other:?}"),
        }
    }
    (asked, answered)
}

#[test]
fn in_silence_one_is_asked_who_has_answered_meanwhile_and_others_as_long_as_anybody_does() {
    let (asked, answered) = tries_in_silence(true, &[]);
    assert_eq!(asked.get(1), answered.as_ref());
    assert_eq!(asked.len(), 5, "one a second, for five seconds");
    assert_eq!(tries_in_silence(false, &[]).0.len(), 3, "where nobody answers it's rather this proxy that is cut off");
}

#[test]
fn a_caller_that_allows_one_retry_gets_no_more_in_silence_but_as_much_looking() {
    let one = [("x-byrnie-retry-budget", "1")];
    assert_eq!(tries_in_silence(true, &one).0.len(), 2);
    let mut world = World::payments(20);
    let (mut exchange, mut effect) = world.begin(&mut head("GET", "payments/", &one), ms(0));
    let mut tries = 0;
    while let Effect::Send(_) = effect {
        tries += 1;
        effect = exchange.on_failure(&mut world.shard, Failure::Connect, ms(0));
    }
    assert_eq!(tries, 8, "no program has seen it");
}

/// Each of the endpoints answers somebody.
fn all_answer(world: &mut World, at: u64) {
    let cluster = std::sync::Arc::clone(world.snapshot().clusters().next().unwrap());
    for _ in cluster.members() {
        let (mut other, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(at - 5));
        plan(effect);
        other.on_response(&mut world.shard, &mut response(200, &[]), ms(at));
    }
    cluster.members().iter().for_each(|member| member.load.heard(ms(at).mono));
}

#[test]
fn a_slow_request_is_no_silence_while_its_endpoints_answer_others() {
    let mut world = World::payments(10);
    all_answer(&mut world, 1_000);
    all_answer(&mut world, 1_500);
    let deadline = [("x-byrnie-deadline-ms", "3000")];
    let (mut exchange, effect) = world.begin(&mut head("GET", "payments/report", &deadline), ms(2_000));
    let first = plan(effect).try_deadline.unwrap();
    assert_eq!(first, ms(2_250).mono);
    let mut at = 2_250;
    all_answer(&mut world, at - 50);
    let mut effect = exchange.on_failure(&mut world.shard, Failure::TryTimeout, ms(at));
    let mut tries = 1;
    while let Effect::Send(_) = effect {
        tries += 1;
        at += 250;
        all_answer(&mut world, at - 50);
        effect = exchange.on_failure(&mut world.shard, Failure::TryTimeout, ms(at));
    }
    assert!(matches!(effect, Effect::Wait), "{effect:?}");
    assert_eq!(tries, 3, "the third is waited for");
}

#[test]
fn it_is_learned_at_once_how_slow_those_are_who_answer_others() {
    let mut world = World::payments(10);
    let cluster = std::sync::Arc::clone(world.snapshot().clusters().next().unwrap());
    let patience = |world: &mut World, second: u64| {
        let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(second * 1_000));
        let given = plan(effect).try_deadline.unwrap().since(ms(second * 1_000).mono);
        cluster.members().iter().for_each(|member| member.load.heard(ms(second * 1_000 + 500).mono));
        exchange.on_failure(&mut world.shard, Failure::TryTimeout, ms(second * 1_000 + 1_000));
        given
    };
    let given: Vec<Duration> = (1..=17).map(|second| patience(&mut world, second)).collect();
    assert!(given[..16].iter().all(|given| *given == Duration::from_secs(1)), "{given:?}");
    assert!(given[16] >= Duration::from_secs(3), "{given:?}");
}

/// How many tries there are for a request whose every try fails in the same way.
fn tries_at(world: &mut World, method: &str, failure: Failure, at: u64) -> usize {
    let (mut exchange, mut effect) = world.begin(&mut head(method, "payments/", &[]), ms(at));
    let mut tries = 0;
    while let Effect::Send(_) = effect {
        tries += 1;
        effect = exchange.on_failure(&mut world.shard, failure, ms(at));
    }
    tries
}

/// `payments`, with one retry a second besides those that cost none of the budget.
fn with_one_retry(endpoints: u8, policy: TrafficPolicy) -> World {
    let mut world = World::payments(endpoints);
    let least = Rate { requests: 1, per: Duration::from_secs(1) };
    let budget = RetryBudget { percent: 0, interval: Duration::from_secs(10), least, hedge: None };
    world.put(vec![traffic("payments", TrafficPolicy { retry_budget: Some(budget), ..policy })]);
    world
}

#[test]
fn no_more_than_two_tries_are_free_however_many_a_route_allows() {
    let mut world = with_one_retry(20, TrafficPolicy::default());
    let retry = Retry { codes: Vec::new(), attempts: 9, backoff: None };
    let rule = Rule { retry: Some(retry), ..rule(vec![Match::default()], vec![backend("payments", 1)]) };
    world.put(vec![route("r", "payments", vec![rule])]);
    let sent: Vec<usize> = (0..5).map(|_| tries_at(&mut world, "POST", Failure::Connect, 0)).collect();
    assert_eq!(sent, [4, 3, 3, 3, 3]);
}

#[test]
fn where_the_absent_stay_in_service_looking_is_free_only_while_somebody_answers() {
    let eject = Eject { consecutive_errors: None, failure_percent: Some(85), ..Eject::default() };
    let mut world = with_one_retry(20, TrafficPolicy { eject: Some(eject), ..TrafficPolicy::default() });
    let sent = |world: &mut World, at| tries_at(world, "POST", Failure::Connect, at);
    assert_eq!([0, 1, 2].map(|at| sent(&mut world, at)), [2, 1, 1], "nobody ever has");
    let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(3));
    plan(effect);
    exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(4));
    let often: Vec<usize> = (5..25).map(|at| sent(&mut world, at)).collect();
    assert!(often.contains(&3) && often.iter().all(|count| *count <= 3), "{often:?}");
    let late: Vec<usize> = (5_100..5_110).map(|at| sent(&mut world, at)).collect();
    assert_eq!(late, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1], "no more");
}

#[test]
fn a_connection_to_one_who_answers_others_meanwhile_is_no_free_try() {
    let answers = |meanwhile: bool| {
        let mut world = with_one_retry(20, TrafficPolicy::default());
        tries_at(&mut world, "GET", RESET, 0);
        let (mut exchange, effect) = world.begin(&mut head("POST", "payments/", &[]), ms(0));
        let crate::Target::Mesh(hop) = plan(effect).target else { panic!() };
        if meanwhile {
            hop.member().load.heard(ms(10).mono);
        }
        matches!(exchange.on_failure(&mut world.shard, Failure::ConnectTimeout, ms(20)), Effect::Send(_))
    };
    assert_eq!((answers(false), answers(true)), (true, false));
}

#[test]
fn a_request_that_is_slow_to_come_speaks_against_nobody() {
    let ejected = |failure| {
        let mut world = World::payments(3);
        for n in 0..60 {
            let at = n * 3000;
            let mut head = head("PUT", "payments/", &[("x-byrnie-deadline-ms", "2000")]);
            let (mut exchange, effect) = world.begin(&mut head, ms(at));
            plan(effect);
            if failure == Failure::CallerSlow {
                // Its time for another try is over: nobody else would be quicker.
                let waits = exchange.on_failure(&mut world.shard, failure, ms(at + 1000));
                assert!(matches!(waits, Effect::Wait), "{waits:?}");
            }
            let told = answer(exchange.on_failure(&mut world.shard, failure, ms(at + 2000)));
            assert_eq!((told.status, told.reason), (504, crate::Reason::Timeout));
        }
        world.shard.counts().ejections
    };
    assert!(ejected(Failure::Deadline) > 0);
    assert!(ejected(Failure::DeadlineUnmet) > 0);
    assert_eq!(ejected(Failure::CallerSlow), 0);
}

/// Nothing that its caller did, and no time that was too short for anybody, has an endpoint left out.
#[test]
fn what_a_caller_does_is_no_endpoints_fault() {
    for failure in [Failure::DeadlineUnmet, Failure::Deadline, Failure::BadHead, Failure::BadBody, Failure::NotSwitched]
    {
        let mut world = World::payments(2);
        for n in 0..40 {
            let mut head = head("POST", "payments/", &[("x-byrnie-deadline-ms", "3")]);
            let (mut exchange, effect) = world.begin(&mut head, ms(n * 10));
            plan(effect);
            let told = answer(exchange.on_failure(&mut world.shard, failure, ms(n * 10 + 3)));
            assert_eq!(told.reason, crate::Reason::of(failure), "{failure:?}");
        }
        assert_eq!(world.shard.counts().ejections, 0, "{failure:?}");
    }
}

/// What the own program's tries fail by, and how the request is answered at last; from the second failure on without a body.
fn at_the_program(protocol: Protocol, failures: &[Failure], holds: bool) -> (usize, Option<(String, Option<String>)>) {
    let mut world = World::new(vec![mesh(DefaultAccess::Allow), own_workload(), service("web", protocol)]);
    let (mut exchange, mut effect) = world.begin_inbound(Some(&identity("bob")), &mut head("POST", "web/", &[]), ms(0));
    let mut tries = 0;
    for failure in failures {
        tries += 1;
        assert_eq!(endpoint_of(&plan(effect)), "program");
        if !holds {
            exchange.body_gone();
        }
        effect = exchange.on_failure(&mut world.shard, *failure, ms(0));
        if let Effect::Reply(answer) = effect {
            let mut told = crate::fixtures::response(200, &[]);
            answer.write(exchange.id(), &mut told);
            let failure = told.get("x-byrnie-failure").map(|value| String::from_utf8_lossy(value).into_owned());
            return (tries, Some((answer.reason.label().to_owned(), failure)));
        }
    }
    (tries, None)
}

#[test]
fn a_program_is_asked_again_only_for_what_it_gave_back_unprocessed() {
    let unsent = Failure::ResetBeforeHead { request_sent: false };
    let told = |reason: &str, failure: &str| Some((reason.to_owned(), Some(failure.to_owned())));
    for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
        let ask = |failures: &[Failure]| at_the_program(protocol, failures, true);
        assert_eq!(ask(&[Failure::Refused, unsent]), (2, None), "{protocol:?}: a third may take it");
        assert_eq!(ask(&[Failure::Refused; 9]), (3, told("unprocessed", "unsent")), "{protocol:?}");
        assert_eq!(ask(&[RESET]), (1, told("upstream_reset", "lost")), "{protocol:?}");
        assert_eq!(ask(&[Failure::Connect]), (1, told("connect_failure", "unsent")), "{protocol:?}: others listen");
        assert_eq!(ask(&[Failure::Full]), (1, told("overload", "unsent")), "{protocol:?}");
        let gone = at_the_program(protocol, &[Failure::Refused], false);
        assert_eq!(gone, (1, told("unprocessed", "unsent")), "{protocol:?}: its body is gone");
    }
}

#[test]
fn a_body_is_kept_for_programs_that_may_give_it_back() {
    for (protocol, keeps) in [(Protocol::Http1, false), (Protocol::Http2, true), (Protocol::Grpc, true)] {
        let mut world = World::new(vec![mesh(DefaultAccess::Allow), own_workload(), service("web", protocol)]);
        let (mut exchange, effect) = world.begin_inbound(Some(&identity("bob")), &mut head("PUT", "web/", &[]), ms(0));
        let (first, mut kept) = (plan(effect), Vec::new());
        assert_eq!((first.delay, first.again.keep_body), (Duration::ZERO, keeps), "{protocol:?}");
        for _ in 1..3 {
            let next = plan(exchange.on_failure(&mut world.shard, Failure::Refused, ms(0)));
            assert!(next.delay < Duration::from_millis(20), "{:?}", next.delay);
            kept.push(next.again.keep_body);
        }
        assert_eq!(kept, [keeps, false], "{protocol:?}");
    }
}

#[test]
fn a_proxy_that_has_no_stream_left_leaves_nobody_out() {
    let mut world = World::payments(3);
    for n in 0..60 {
        let (mut exchange, mut effect) = world.begin(&mut head("GET", "payments/", &[]), ms(n * 100));
        while let Effect::Send(_) = effect {
            effect = exchange.on_failure(&mut world.shard, Failure::Full, ms(n * 100));
        }
    }
    assert_eq!(world.shard.counts().ejections, 0);
}
