// SPDX-License-Identifier: Apache-2.0
//! One request at a time through the whole state machine.

use super::*;
use crate::fixtures::*;
use crate::{Target, resolve};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::access::{Action, Mode, Rule as AccessRule};
use byrnie_model::policy::traffic::{Balance, Eject, Limits, Rate, RetryBudget};
use byrnie_model::resource::{DefaultAccess, Resource};
use byrnie_model::route::{HeaderEdits, PathEdit, Redirect, Retry, Rewrite, RouteFilter, Rule};
use byrnie_model::{Identity, Protocol};
use proptest::prelude::*;

const RESET: Failure = Failure::ResetBeforeHead { request_sent: true };
const NOT_SENT: Failure = Failure::ResetBeforeHead { request_sent: false };

/// Endpoints tried for a request whose every try fails in the same way, and the status at last.
fn tries(world: &mut World, method: &str, failure: Failure) -> (Vec<String>, u16) {
    let mut head = head(method, "payments/", &[]);
    let (mut exchange, mut effect) = world.begin(&mut head, ms(0));
    let mut tried = Vec::new();
    loop {
        match effect {
            Effect::Send(plan) => tried.push(endpoint_of(&plan)),
            Effect::Reply(answer) => return (tried, answer.status),
            Effect::Forward => return (tried, 0),
            Effect::Wait => return (tried, 1),
            other => panic!("{other:?}"),
        }
        effect = exchange.on_failure(&mut world.shard, failure, ms(0));
    }
}

fn check_tries(method: &str, failure: Failure, count: usize, status: u16) {
    let mut world = World::payments(5);
    let (mut tried, got) = tries(&mut world, method, failure);
    assert_eq!((tried.len(), got), (count, status), "{method} {failure:?}");
    tried.sort();
    tried.dedup();
    assert_eq!(tried.len(), count, "each try goes to another endpoint");
}

#[test]
fn what_is_tried_again() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        // Whoever isn't there costs nothing: each of the five is asked.
        check_tries(method, Failure::Connect, 5, 503);
        check_tries(method, RESET, 3, 503);
    }
    for method in ["POST", "PATCH", "get", "MADEUP"] {
        check_tries(method, Failure::Connect, 5, 503);
        check_tries(method, Failure::ConnectTimeout, 5, 503);
        check_tries(method, Failure::Refused, 3, 503);
        check_tries(method, NOT_SENT, 3, 503);
        check_tries(method, RESET, 1, 503);
        check_tries(method, Failure::TryTimeout, 1, 1);
    }
    check_tries("GET", Failure::TlsIdentity, 3, 502);
    check_tries("GET", Failure::Deadline, 1, 504);
    check_tries("GET", Failure::BadResponse("odd"), 1, 502);
    // The last try is waited for, however long it takes.
    check_tries("GET", Failure::TryTimeout, 3, 1);
}

#[test]
fn unsafe_retry_is_asked_for_by_a_policy() {
    let mut world = World::payments(5);
    world.put(vec![traffic("payments", TrafficPolicy { unsafe_retry: true, ..TrafficPolicy::default() })]);
    assert_eq!(tries(&mut world, "POST", RESET).0.len(), 3);
}

#[test]
fn a_lone_endpoint_is_asked_again_after_a_pause() {
    let mut world = World::payments(1);
    let (mut exchange, effect) = world.begin(&mut head("POST", "payments/", &[]), ms(0));
    let first = plan(effect);
    assert_eq!((first.delay, first.try_deadline), (Duration::ZERO, None));
    let second = plan(exchange.on_failure(&mut world.shard, Failure::Connect, ms(0)));
    assert!(second.delay >= Duration::from_millis(25) && second.delay < Duration::from_millis(40));
    assert_eq!((second.again.attempt, second.again.keep_body), (2, true));
    let third = plan(exchange.on_failure(&mut world.shard, Failure::Connect, ms(0)));
    assert!(third.delay >= Duration::from_millis(50) && !third.again.keep_body);
}

#[test]
fn a_body_that_is_gone_is_not_sent_again() {
    let mut world = World::payments(3);
    let (mut exchange, effect) = world.begin(&mut head("PUT", "payments/", &[]), ms(0));
    assert!(plan(effect).again.keep_body);
    exchange.body_gone();
    assert_eq!(answer(exchange.on_failure(&mut world.shard, RESET, ms(0))).status, 503);
    // A connection that never was has taken nothing.
    let (mut exchange, effect) = world.begin(&mut head("PUT", "payments/", &[]), ms(0));
    plan(effect);
    exchange.body_gone();
    plan(exchange.on_failure(&mut world.shard, Failure::Connect, ms(0)));
}

#[test]
fn the_budget_bounds_retries() {
    let mut world = World::payments(3);
    let least = Rate { requests: 1, per: Duration::from_secs(1) };
    let budget = RetryBudget { percent: 20, interval: Duration::from_secs(10), least, hedge: None };
    world.put(vec![traffic("payments", TrafficPolicy { retry_budget: Some(budget), ..TrafficPolicy::default() })]);
    let sent: usize = (0..1000).map(|_| tries(&mut world, "GET", RESET).0.len()).sum();
    assert!((1195..=1202).contains(&sent), "{sent}");
    assert!(world.shard.counts().retries_over_budget > 0);
}

#[test]
fn whoever_is_not_there_costs_none_of_the_budget() {
    let mut world = World::payments(20);
    let least = Rate { requests: 1, per: Duration::from_secs(1) };
    let budget = RetryBudget { percent: 0, interval: Duration::from_secs(10), least, hedge: None };
    world.put(vec![traffic("payments", TrafficPolicy { retry_budget: Some(budget), ..TrafficPolicy::default() })]);
    let sent: Vec<usize> = (0..100).map(|_| tries(&mut world, "POST", Failure::Connect).0.len()).collect();
    assert!(sent[..20].iter().all(|count| *count >= 3), "{sent:?}");
    assert!(sent[1..20].iter().all(|count| *count == 3), "looking further is within it");
    assert!(sent[50..].iter().all(|count| *count == 1), "nobody is left in service");
}

#[test]
fn a_caller_may_forbid_retries_and_retries_forbid_them_behind() {
    let mut world = World::payments(3);
    let mut request = head("GET", "payments/", &[("x-byrnie-retry-budget", "1")]);
    let (mut exchange, effect) = world.begin(&mut request, ms(0));
    assert_eq!(plan(effect).again.attempt, 1);
    assert_eq!(request.get("x-byrnie-retry-budget"), Some(&b"1"[..]));
    let second = plan(exchange.on_failure(&mut world.shard, RESET, ms(0)));
    second.stamp(&mut request, ms(0));
    assert_eq!(request.get("x-byrnie-retry-budget"), Some(&b"0"[..]));
    answer(exchange.on_failure(&mut world.shard, RESET, ms(0)));
    let (mut exchange, effect) = world.begin(&mut request, ms(0));
    plan(effect);
    answer(exchange.on_failure(&mut world.shard, RESET, ms(0)));
}

#[test]
fn the_other_proxy_says_whether_its_program_saw_the_request() {
    for (method, said, retried) in [
        ("POST", "unsent", true),
        ("GET", "unsent", true),
        ("POST", "lost", false),
        ("GET", "lost", true),
        ("GET", "x", false),
    ] {
        let mut world = World::payments(3);
        let (mut exchange, effect) = world.begin(&mut head(method, "payments/", &[]), ms(0));
        plan(effect);
        let mut answer = response(503, &[("x-byrnie-failure", said)]);
        let effect = exchange.on_response(&mut world.shard, &mut answer, ms(1));
        assert_eq!(matches!(effect, Effect::Send(_)), retried, "{method} {said}");
    }
}

#[test]
fn an_inbound_proxy_answers_for_its_program_and_never_retries() {
    let mut world = serving(vec![AccessRule::default()]);
    let (mut exchange, effect) = world.begin_inbound(Some(&identity("bob")), &mut head("GET", "web/", &[]), ms(0));
    let Target::Program { program, .. } = plan(effect).target else { panic!() };
    assert_eq!(program.beside().unwrap().to_string(), "127.0.0.1:8080");
    let refused = answer(exchange.on_failure(&mut world.shard, Failure::Connect, ms(0)));
    let mut written = Head::new();
    refused.write(exchange.id(), &mut written);
    assert_eq!((written.status(), written.get("x-byrnie-failure")), (503, Some(&b"unsent"[..])));
    // What the program says in the mesh's name is dropped.
    let (mut exchange, _) = world.begin_inbound(Some(&identity("bob")), &mut head("GET", "web/", &[]), ms(0));
    let mut said = response(503, &[("x-byrnie-failure", "unsent"), ("x-byrnie-decision", "aaaaaaaaaaaaa")]);
    assert!(matches!(exchange.on_response(&mut world.shard, &mut said, ms(1)), Effect::Forward));
    assert_eq!(said.headers().count(), 0);
}

fn serving(rules: Vec<AccessRule>) -> World {
    let policy = access("web", "web", Action::Allow, Mode::Enforce, rules);
    World::new(vec![own_workload(), service("web", Protocol::Http1), policy])
}

#[test]
fn refusals_name_the_closest_rule_to_kin_only() {
    let mut world = serving(vec![AccessRule { sources: vec![account("checkout")], ..AccessRule::default() }]);
    let (exchange, effect) = world.begin_inbound(Some(&identity("refunds")), &mut head("GET", "web/", &[]), ms(0));
    let refusal = answer(effect);
    assert_eq!((refusal.status, refusal.grpc_status(), refusal.reason), (403, 7, Reason::AccessDenied));
    assert!(refusal.detail.contains("closest rule web[0] allows checkout; you are refunds"), "{}", refusal.detail);
    let verdict = exchange.finish(&mut world.shard, Outcome { status: 403, failure: None }, ms(1));
    assert_eq!((*verdict.decided.rule).to_string(), "default");
    assert!(verdict.decided.nearest.unwrap().contains("checkout"));
    let stranger = Identity::new("demo.local", "other", "refunds").unwrap();
    let (exchange, effect) = world.begin_inbound(Some(&stranger), &mut head("GET", "web/", &[]), ms(0));
    assert_eq!(*answer(effect).detail, *"web.shop does not let you make this call");
    drop(exchange);
}

#[test]
fn the_mesh_default_decides_where_no_rule_does() {
    let mut world = World::new(vec![own_workload(), service("web", Protocol::Http1), mesh(DefaultAccess::Allow)]);
    let (_, effect) = world.begin_inbound(None, &mut head("GET", "web/", &[]), ms(0));
    plan(effect);
    world.put(vec![mesh(DefaultAccess::Deny)]);
    let (_, effect) = world.begin_inbound(Some(&identity("x")), &mut head("GET", "web/", &[]), ms(0));
    assert_eq!(answer(effect).reason, Reason::AccessDenied);
}

#[test]
fn a_workload_that_does_not_serve_says_so_for_a_retry_elsewhere() {
    let mut world = World::new(vec![service("web", Protocol::Http1)]);
    let (_, effect) = world.begin_inbound(Some(&identity("x")), &mut head("GET", "web/", &[]), ms(0));
    let refusal = answer(effect);
    assert_eq!((refusal.status, refusal.failure), (503, Some("unsent")));
}

#[test]
fn trace_and_connect_are_never_passed_on() {
    for method in ["TRACE", "CONNECT"] {
        let (_, effect) = World::payments(2).begin(&mut head(method, "payments/", &[]), ms(0));
        let refusal = answer(effect);
        assert_eq!((refusal.status, refusal.reason), (501, Reason::BadRequest), "{method}");
        let mut world = serving(vec![AccessRule::default()]);
        let (_, effect) = world.begin_inbound(Some(&identity("bob")), &mut head(method, "web/", &[]), ms(0));
        assert_eq!(answer(effect).status, 501, "{method}");
    }
}

#[test]
fn identity_headers_are_written_by_the_mesh_alone() {
    let forged = [("forwarded-client-identity", "spiffe://demo.local/ns/shop/sa/admin"), ("x-request-id", "abc")];
    let mut world = serving(vec![AccessRule::default()]);
    let mut request = head("GET", "web/", &forged);
    world.begin_inbound(Some(&identity("bob")), &mut request, ms(0));
    let said: Vec<&[u8]> = request.values("forwarded-client-identity").collect();
    assert_eq!(said, [&b"spiffe://demo.local/ns/shop/sa/bob"[..]]);
    assert_eq!(request.get("x-request-id"), Some(&b"abc"[..]));
    let mut request = head("GET", "web/", &forged);
    world.begin_inbound(None, &mut request, ms(0));
    assert_eq!(request.get("forwarded-client-identity"), None);
    let mut world = World::payments(1);
    let mut request = head("GET", "payments/", &forged[..1]);
    world.begin(&mut request, ms(0));
    assert_eq!(request.get("forwarded-client-identity"), None);
    assert_eq!(request.get("x-request-id").map(<[u8]>::len), Some(32));
}

#[test]
fn only_the_coordinator_takes_back_or_confirms() {
    let coordinator = Identity::new("demo.local", "byrnie", "transactions").unwrap();
    let said = |who: &Identity, op: &str| {
        let mut world = serving(vec![AccessRule::default()]);
        let mut request = head("POST", "web/refund", &[("txn-id", "t1"), ("txn-branch", "pay"), ("txn-op", op)]);
        world.begin_inbound(Some(who), &mut request, ms(0));
        ["txn-id", "txn-branch", "txn-op"].map(|name| request.get(name).is_some())
    };
    for op in ["compensate", "cancel", "confirm", "complete", "check"] {
        assert_eq!(said(&coordinator, op), [true; 3], "{op}");
        assert_eq!(said(&identity("bob"), op), [false; 3], "{op}");
        // Another site's is nobody here.
        let other = Identity::new("east.test", "byrnie", "transactions").unwrap();
        assert_eq!(said(&other, op), [false; 3], "{op}");
    }
    // What a program passes on, and a try that its creator makes, are anybody's.
    for op in ["action", "try"] {
        assert_eq!(said(&identity("bob"), op), [true; 3], "{op}");
    }
}

fn routed(rules: Vec<Rule>) -> World {
    let mut world = World::payments(2);
    let other = vec![service("other", Protocol::Http1), of_endpoint(endpoint("other", "o1", 50))];
    assert_eq!(world.put(other), []);
    assert_eq!(world.put(vec![route("r", "payments", rules)]), []);
    world
}

#[test]
fn routes_lead_to_backends_or_to_an_answer() {
    let mut world = routed(vec![
        rule(vec![prefix("/other")], vec![backend("other", 1)]),
        rule(vec![prefix("/absent")], vec![backend("nobody", 1)]),
        rule(vec![prefix("/zero")], vec![backend("other", 0), backend("payments", 0)]),
        rule(vec![prefix("/none")], vec![]),
    ]);
    let (exchange, effect) = world.begin(&mut head("GET", "payments/other/x", &[]), ms(0));
    assert_eq!(endpoint_of(&plan(effect)), "o1");
    let verdict = exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(3));
    assert_eq!((&*verdict.decided.route, &*verdict.labels.destination), ("shop/r[0]", "payments.shop"));
    for (path, status, grpc) in [("/absent", 500, 14), ("/zero", 500, 14), ("/none", 500, 14), ("/x", 404, 12)] {
        let (_, effect) = world.begin(&mut head("GET", &format!("payments{path}"), &[]), ms(0));
        let answer = answer(effect);
        assert_eq!((answer.status, answer.grpc_status()), (status, grpc), "{path}");
    }
    let (exchange, _) = world.begin(&mut head("GET", "payments/x", &[]), ms(0));
    assert_eq!(exchange.nearest.as_deref(), Some("closest rule shop/r[1]: the path is not /absent or below"));
    // A service without routes gets its requests straight.
    let (_, effect) = world.begin(&mut head("GET", "other/", &[]), ms(0));
    assert_eq!(endpoint_of(&plan(effect)), "o1");
}

#[test]
fn weights_are_shares() {
    let mut world = routed(vec![rule(vec![prefix("/")], vec![backend("payments", 90), backend("other", 10)])]);
    let mut other = 0;
    for _ in 0..20_000 {
        let (_, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
        other += u32::from(endpoint_of(&plan(effect)) == "o1");
    }
    assert!((1850..2150).contains(&other), "{other}");
}

#[test]
fn filters_edit_requests_and_responses() {
    let edits = |name: &str| HeaderEdits {
        set: vec![(name.into(), "set".into())],
        add: vec![("x-many".into(), name.into())],
        remove: vec!["x-secret".into()],
    };
    let rewrite = Rewrite { hostname: Some("inner".into()), path: Some(PathEdit::Prefix("/v2".into())) };
    let mut first = rule(vec![prefix("/api")], vec![backend("payments", 1)]);
    first.filters = vec![
        RouteFilter::RequestHeaders(edits("x-rule")),
        RouteFilter::Rewrite(rewrite),
        RouteFilter::ResponseHeaders(edits("x-answer")),
    ];
    first.backends[0].filters = vec![RouteFilter::RequestHeaders(edits("x-backend"))];
    let mut world = routed(vec![first]);
    let mut request = head("GET", "payments/api/a?b=c", &[("x-secret", "s"), ("x-rule", "old")]);
    let (mut exchange, effect) = world.begin(&mut request, ms(0));
    plan(effect);
    assert_eq!((request.authority(), request.path_and_query()), ("inner", "/v2/a?b=c"));
    assert_eq!(request.get("x-secret"), None);
    assert_eq!(request.values("x-rule").collect::<Vec<_>>(), [b"set"]);
    assert_eq!(request.values("x-many").collect::<Vec<_>>(), [&b"x-rule"[..], b"x-backend"]);
    let mut said = response(200, &[("x-secret", "s")]);
    assert!(matches!(exchange.on_response(&mut world.shard, &mut said, ms(1)), Effect::Forward));
    assert_eq!((said.get("x-answer"), said.get("x-secret")), (Some(&b"set"[..]), None));
}

#[test]
fn redirects_are_answered() {
    let mut first = rule(vec![prefix("/old")], vec![]);
    let path = Some(PathEdit::Prefix("/new".into()));
    let redirect = Redirect { scheme: Some("https".into()), hostname: None, path, port: None, status: 308 };
    first.filters = vec![RouteFilter::Redirect(redirect)];
    let mut world = routed(vec![first]);
    let (exchange, effect) = world.begin(&mut head("GET", "payments/old/x?y", &[]), ms(0));
    let moved = answer(effect);
    let mut written = Head::new();
    assert!(moved.write(exchange.id(), &mut written).is_empty());
    assert_eq!((written.status(), written.get("location")), (308, Some(&b"https://payments/new/x?y"[..])));
}

#[test]
fn deadlines_come_from_headers_and_routes_and_go_on_lowered() {
    let mut first = rule(vec![prefix("/")], vec![backend("payments", 1)]);
    first.timeout = Some(Duration::from_secs(2));
    first.backend_timeout = Some(Duration::from_millis(800));
    let mut world = routed(vec![first]);
    let mut request = head("GET", "payments/", &[]);
    let (mut exchange, effect) = world.begin(&mut request, ms(0));
    let planned = plan(effect);
    assert_eq!((planned.deadline, planned.try_deadline), (Some(ms(2000).mono), Some(ms(800).mono)));
    assert_eq!(request.get("x-byrnie-deadline-ms"), Some(&b"1999"[..]));
    let again = plan(exchange.on_failure(&mut world.shard, Failure::TryTimeout, ms(800)));
    again.stamp(&mut request, ms(800));
    assert_eq!(request.get("x-byrnie-deadline-ms"), Some(&b"1199"[..]));
    let last = plan(exchange.on_failure(&mut world.shard, Failure::TryTimeout, ms(1600)));
    assert_eq!(last.try_deadline, None, "the whole ends before the try would");
    assert_eq!(answer(exchange.on_failure(&mut world.shard, Failure::Deadline, ms(2000))).status, 504);
    // A hard time-out of the route is not waited beyond.
    let (mut exchange, effect) = world.begin(&mut head("POST", "payments/", &[]), ms(0));
    plan(effect);
    assert_eq!(answer(exchange.on_failure(&mut world.shard, Failure::TryTimeout, ms(800))).status, 504);
    let mut request = head("POST", "payments/", &[("x-byrnie-deadline-ms", "100")]);
    let (_, effect) = world.begin(&mut request, ms(0));
    assert_eq!(plan(effect).deadline, Some(ms(100).mono));
    let (_, effect) = world.begin(&mut head("GET", "payments/", &[("x-byrnie-deadline-ms", "0")]), ms(0));
    assert_eq!(answer(effect).reason, Reason::Timeout);
}

#[test]
fn a_slow_try_is_given_up_for_another_endpoint() {
    let mut world = World::payments(2);
    let patience = |world: &mut World, at: u64| {
        let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(at));
        let deadline = plan(effect).try_deadline.unwrap().since(ms(at).mono);
        exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(at + 200));
        exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(at + 200));
        deadline
    };
    assert_eq!(patience(&mut world, 0), Duration::from_secs(1), "nothing is known yet");
    for at in 1..100 {
        patience(&mut world, at);
    }
    let known = patience(&mut world, 1000);
    assert!(known > Duration::from_millis(600) && known < Duration::from_millis(800), "{known:?}");
    let (_, effect) = world.begin(&mut head("POST", "payments/", &[]), ms(0));
    assert_eq!(plan(effect).try_deadline, None);
}

#[test]
fn statuses_are_retried_where_the_route_says_so() {
    let retrying = |codes: Vec<u16>| {
        let mut first = rule(vec![prefix("/")], vec![backend("payments", 1)]);
        first.retry = Some(Retry { codes, attempts: 1, backoff: Some(Duration::from_millis(10)) });
        routed(vec![first])
    };
    for (method, codes, retried) in
        [("GET", vec![503], true), ("POST", vec![503], false), ("GET", vec![500], false), ("GET", vec![], false)]
    {
        let mut world = retrying(codes);
        let (mut exchange, effect) = world.begin(&mut head(method, "payments/", &[]), ms(0));
        let first = endpoint_of(&plan(effect));
        let effect = exchange.on_response(&mut world.shard, &mut response(503, &[]), ms(1));
        assert_eq!(matches!(effect, Effect::Send(_)), retried, "{method}");
        if let Effect::Send(second) = effect {
            assert_ne!(endpoint_of(&second), first);
            assert!(second.delay >= Duration::from_millis(10));
            let effect = exchange.on_response(&mut world.shard, &mut response(503, &[]), ms(2));
            assert!(matches!(effect, Effect::Forward), "one retry was allowed");
        }
    }
}

fn limited(limits: Limits) -> World {
    let mut world = World::payments(2);
    world.put(vec![traffic("payments", TrafficPolicy { limits: Some(limits), ..TrafficPolicy::default() })]);
    world
}

#[test]
fn limits_answer_before_anything_is_sent() {
    let mut world = limited(Limits { pending_max: Some(2), ..Limits::default() });
    let (first, _) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    let (_second, _) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    let (refused, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    let overload = answer(effect);
    assert_eq!((overload.status, overload.grpc_status(), overload.retry_after.is_some()), (503, 14, true));
    drop((refused, first));
    let (_, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    plan(effect);
    let mut world =
        limited(Limits { rate: Some(Rate { requests: 3, per: Duration::from_secs(1) }), ..Limits::default() });
    let mut ask = |at| world.begin(&mut head("GET", "payments/", &[]), ms(at)).1;
    for _ in 0..3 {
        plan(ask(0));
    }
    let limited = answer(ask(0));
    assert_eq!((limited.status, limited.grpc_status(), limited.retry_after.is_some()), (429, 8, true));
    plan(ask(400));
}

/// One second of requests of two callers to a program that takes `millis` for each: how many of each got in.
fn serve(world: &mut World, second: u64, millis: u64, often: u64) -> [u32; 2] {
    let mut admitted = [0; 2];
    let mut waiting = std::collections::VecDeque::new();
    for n in 0..1000 {
        let at = second * 1000 + n;
        while let Some((_, mut exchange)) = waiting.pop_front_if(|(end, _): &mut (u64, _)| *end <= at) {
            let exchange: &mut crate::Exchange = &mut exchange;
            exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(at));
        }
        let modest = n % often == 0;
        let caller = identity(if modest { "bob" } else { "eve" });
        let (exchange, effect) = world.begin_inbound(Some(&caller), &mut head("GET", "web/", &[]), ms(at));
        if matches!(effect, Effect::Send(_)) {
            admitted[usize::from(!modest)] += 1;
            waiting.push_back((at + millis, exchange));
        } else {
            assert_eq!(answer(effect).retry_after, Some(Duration::from_secs(1)));
        }
    }
    admitted
}

#[test]
fn a_program_gets_what_it_can_take_and_each_caller_its_part() {
    let mut world = World::payments(1);
    world.put(vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), own_workload()]);
    assert_eq!(serve(&mut world, 0, 5, 10), [100, 900], "no limit while all is well");
    // It gets slower and slower: there must be a queue.
    for second in 1..4 {
        serve(&mut world, second, 400, 10);
    }
    let [modest, greedy] = serve(&mut world, 4, 400, 10);
    assert!(greedy < 300, "{greedy} of 900");
    assert!(modest * 3 > greedy, "the modest caller has {modest} of 100, the greedy one {greedy} of 900");
}

/// The rule that goes on asking endpoints that fail, until ejection stops it.
fn least_request() -> TrafficPolicy {
    TrafficPolicy { balance: Some(Balance::LeastRequest), ..TrafficPolicy::default() }
}

#[test]
fn ejection_keeps_requests_from_a_broken_endpoint() {
    let mut world = World::payments(3);
    world.put(vec![traffic("payments", least_request())]);
    let mut bad = 0;
    for at in 0..200 {
        let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(at));
        let mut effect = effect;
        while let Effect::Send(planned) = effect {
            let broken = endpoint_of(&planned) == "p1";
            bad += u32::from(broken);
            effect = if broken {
                exchange.on_failure(&mut world.shard, Failure::Connect, ms(at))
            } else {
                exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(at))
            };
        }
        assert!(matches!(effect, Effect::Forward), "no request is lost");
    }
    assert_eq!((bad, world.shard.counts().ejections), (5, 1));
}

#[test]
fn the_last_of_three_carries_all_while_two_are_down() {
    let mut world = World::payments(3);
    world.put(vec![traffic("payments", least_request())]);
    for at in 0..2_000 {
        let (mut exchange, mut effect) = world.begin(&mut head("GET", "payments/", &[]), ms(at));
        while let Effect::Send(planned) = effect {
            effect = if endpoint_of(&planned) == "p1" {
                exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(at))
            } else {
                exchange.on_failure(&mut world.shard, Failure::Refused, ms(at))
            };
        }
        assert!(matches!(effect, Effect::Forward), "lost after {at} ms");
    }
    // Each once, and once more when its probe after a second failed.
    assert_eq!(world.shard.counts().ejections, 4);
}

#[test]
fn a_retry_prefers_one_left_out_over_one_that_just_failed() {
    let mut world = World::payments(2);
    let mut ask = |at, down: &str| {
        let (mut exchange, mut effect) = world.begin(&mut head("GET", "payments/", &[]), ms(at));
        let mut tried = Vec::new();
        while let Effect::Send(planned) = effect {
            tried.push(endpoint_of(&planned));
            effect = if tried.last().is_some_and(|name| name == down) {
                exchange.on_failure(&mut world.shard, Failure::Connect, ms(at))
            } else {
                exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(at))
            };
        }
        tried
    };
    (0..100).for_each(|at| drop(ask(at, "p1")));
    // p1 is back, but still left out; p2 goes.
    assert_eq!(ask(101, "p2"), ["p2", "p1"]);
}

#[test]
fn statuses_eject_only_where_a_policy_says_so() {
    let eject = Eject { consecutive_errors: Some(3), span: Duration::from_secs(30), ..Eject::default() };
    for (policy, ejections) in [(None, 0), (Some(eject), 1)] {
        let mut world = World::payments(2);
        world.put(vec![traffic("payments", TrafficPolicy { eject: policy, ..least_request() })]);
        for at in 0..20 {
            let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(at));
            let status = if endpoint_of(&plan(effect)) == "p1" { 500 } else { 200 };
            exchange.on_response(&mut world.shard, &mut response(status, &[]), ms(at));
        }
        assert_eq!(world.shard.counts().ejections, ejections);
    }
}

#[test]
fn verdicts_tell_every_try() {
    let mut world = World::payments(2);
    let (mut exchange, effect) = world.begin(&mut head("GET", "payments/x?secret=1", &[]), ms(0));
    let first = endpoint_of(&plan(effect));
    plan(exchange.on_failure(&mut world.shard, RESET, ms(5)));
    exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(9));
    let verdict = exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(10));
    let labels = &verdict.labels;
    assert_eq!((&*labels.source, &*labels.destination, labels.method), ("web.shop", "payments.shop", "GET"));
    assert_eq!((labels.side, labels.tls, verdict.status, verdict.reason), (Side::Outbound, Tls::Mutual, 200, None));
    assert_eq!((&*verdict.decided.route, &*verdict.decided.rule), ("default", ""));
    let record = verdict.record(ms(0).wall, "web-1".into(), Default::default(), "".into());
    assert_eq!(record.id.len(), 13);
    assert_eq!(record.attempts[0].endpoint, first.as_str());
    assert_eq!((&*record.attempts[0].outcome, record.attempts[0].duration_us), ("closed before an answer", 5000));
    assert_eq!((&*record.attempts[1].outcome, record.duration_us), ("status 200", 10_000));
    let (exchange, effect) = world.begin(&mut head("FROB", "nowhere/", &[]), ms(0));
    assert_eq!(answer(effect).status, 404);
    let verdict = exchange.finish(&mut world.shard, Outcome { status: 404, failure: None }, ms(1));
    assert_eq!((&*verdict.labels.destination, verdict.labels.method), ("unknown", "OTHER"));
    assert_eq!(verdict.reason.and_then(Reason::code).map(|code| code.id), Some("BYR-R002"));
}

#[test]
fn load_is_given_back_however_an_exchange_ends() {
    let mut world = World::payments(1);
    let load = |world: &World| world.snapshot().endpoints(&sref("payments"))[0].in_flight();
    let (exchange, _) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    assert_eq!(load(&world), 1);
    drop(exchange);
    assert_eq!(load(&world), 0);
    let (mut exchange, _) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    plan(exchange.on_failure(&mut world.shard, Failure::Connect, ms(0)));
    assert_eq!(load(&world), 1);
    exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(1));
    assert_eq!(load(&world), 1, "the body is still under way");
    drop(exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(2)));
    assert_eq!(load(&world), 0);
}

#[test]
fn answers_are_problems_or_trailers() {
    let mut world = World::new(Vec::new());
    let (exchange, effect) = world.begin(&mut head("GET", "no\u{2d}where/", &[]), ms(0));
    let mut written = Head::new();
    let body = String::from_utf8(answer(effect).write(exchange.id(), &mut written)).unwrap();
    assert_eq!(written.get("content-type"), Some(&b"application/problem+json"[..]));
    assert_eq!(written.get("x-byrnie-decision"), Some(exchange.id().as_str().as_bytes()));
    assert!(body.starts_with("{\"title\":\"") && body.contains("\"code\":\"BYR-R002\""), "{body}");
    let grpc = [("content-type", "application/grpc")];
    let (exchange, effect) = world.begin(&mut head("POST", "nowhere/", &grpc), ms(0));
    assert!(answer(effect).write(exchange.id(), &mut written).is_empty());
    assert_eq!((written.status(), written.get("grpc-status")), (200, Some(&b"12"[..])));
}

#[test]
fn a_draining_proxy_sends_callers_elsewhere() {
    let mut world = World::payments(2);
    let draining = Answer::new(Reason::Draining, false, "shutting down");
    let mut said = Head::new();
    draining.write(&world.shard.draw_id(), &mut said);
    let (mut exchange, effect) = world.begin(&mut head("POST", "payments/", &[]), ms(0));
    let first = endpoint_of(&plan(effect));
    let second = plan(exchange.on_response(&mut world.shard, &mut said, ms(1)));
    assert_ne!(endpoint_of(&second), first);
}

fn names() -> Vec<Resource> {
    vec![service("payments", Protocol::Http1), of_endpoint(endpoint("payments", "e", 1))]
}

#[test]
fn names_are_found_by_door() {
    let mut world = World::new(names());
    world.put(vec![service("hello.default", Protocol::Http1), of_endpoint(endpoint("hello.default", "h", 2))]);
    let snapshot = world.snapshot();
    for (direction, host, found) in [
        (crate::Direction::Forward, "payments", Some("payments.shop")),
        (crate::Direction::Forward, "payments:80", Some("payments.shop")),
        (crate::Direction::Forward, "payments:81", None),
        (crate::Direction::Forward, "payments.shop", Some("payments.shop")),
        (crate::Direction::Forward, "payments.shop.mesh", Some("payments.shop")),
        (crate::Direction::Forward, "payments.shop.svc.cluster.local", Some("payments.shop")),
        (crate::Direction::Forward, "payments.other", None),
        (crate::Direction::Forward, "example.com", None),
        (crate::Direction::Edge(crate::Gate::Own), "payments.shop.mesh.localhost:7780", Some("payments.shop")),
        (crate::Direction::Edge(crate::Gate::Own), "hello.mesh.localhost", Some("hello.default")),
        (crate::Direction::Edge(crate::Gate::Own), "hello.default.mesh.localhost:7780", Some("hello.default")),
        (crate::Direction::Edge(crate::Gate::Own), "payments", None),
        (crate::Direction::Edge(crate::Gate::Own), ".mesh.localhost", None),
        (crate::Direction::Edge(crate::Gate::Own), "a.b.c.mesh.localhost", None),
    ] {
        let (host, port) = byrnie_codec::uri::split_port(host);
        let label =
            resolve::resolve(&snapshot, &direction, || (host, port)).ok().map(|(tree, _)| tree.label.to_string());
        assert_eq!(label.as_deref(), found, "{direction:?} {host}");
    }
}

/// Requests through a chain of services of which the last one breaks every connection; how many reach it.
fn chain(hops: &mut [World], at: u64) -> u32 {
    let Some((first, rest)) = hops.split_first_mut() else { return 1 };
    let last = rest.is_empty();
    let (mut exchange, mut effect) = first.begin(&mut head("GET", "payments/", &[]), ms(at));
    let mut reached = 0;
    while let Effect::Send(_) = effect {
        reached += chain(rest, at);
        // The last one's proxy tells that its program broke off; the other programs answer 502 themselves.
        let headers: &[(&str, &str)] = if last { &[("x-byrnie-failure", "lost")] } else { &[] };
        effect = exchange.on_response(&mut first.shard, &mut response(if last { 503 } else { 502 }, headers), ms(at));
    }
    reached
}

#[test]
fn retries_do_not_multiply_along_a_chain() {
    let mut hops: Vec<World> = (0..4).map(|_| World::payments(3)).collect();
    let reached: u32 = (0..2000).map(|at| chain(&mut hops, at)).sum();
    // A fifth more, and ten a second for two seconds.
    assert!((2000..=2430).contains(&reached), "{reached}");
}

fn any_failure() -> impl Strategy<Value = Failure> {
    prop::sample::select(vec![
        Failure::Connect,
        Failure::ConnectTimeout,
        Failure::TlsIdentity,
        Failure::Refused,
        RESET,
        NOT_SENT,
        Failure::TryTimeout,
        Failure::Deadline,
        Failure::BadResponse("odd"),
        Failure::ResetAfterHead,
        Failure::DownstreamGone,
        Failure::Forsaken,
        Failure::BodyTooLarge,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Whatever comes in, in whatever order: no panic, an end after few steps, and no load left behind.
    #[test]
    fn no_request_and_no_order_of_events_does_harm(
        method in "[A-Za-z]{1,8}",
        host in prop::sample::select(vec!["payments", "payments:80", "web", "x.y.z", "[::1]", "127.0.0.1:1"]),
        path in "/[a-z/%.;=]{0,12}",
        headers in prop::collection::vec(("[a-z-]{1,20}|x-byrnie-deadline-ms|grpc-timeout|x-byrnie-retry-budget", "[ -~]{0,20}|[0-9]{1,30}[HMSmun]?"), 0..6),
        inbound in any::<bool>(),
        events in prop::collection::vec((any_failure(), 0u16..700, any::<bool>(), 0u64..5000), 0..8),
    ) {
        let mut world = routed(vec![rule(vec![prefix("/")], vec![backend("payments", 1), backend("other", 1)])]);
        world.put(vec![own_workload(), service("web", Protocol::Http1)]);
        let mut head = Head::new();
        prop_assume!(head.start_request(&method, "http", host, &path).is_ok());
        for (name, value) in &headers {
            head.append(name, value.as_bytes()).ok();
        }
        let from = identity("bob");
        let (mut exchange, mut effect) =
            if inbound { world.begin_inbound(Some(&from), &mut head, ms(0)) } else { world.begin(&mut head, ms(0)) };
        let mut at = 0;
        for (failure, status, responds, span) in events {
            at += span;
            if matches!(effect, Effect::Reply(_) | Effect::Forward) {
                break;
            }
            effect = if responds {
                exchange.on_response(&mut world.shard, &mut response(status, &[]), ms(at))
            } else {
                exchange.on_failure(&mut world.shard, failure, ms(at))
            };
        }
        prop_assert!(exchange.course.attempts.count() <= 3);
        drop(exchange.finish(&mut world.shard, Outcome::default(), ms(at)));
        for service in ["payments", "other"] {
            for member in world.snapshot().endpoints(&sref(service)) {
                prop_assert_eq!(member.in_flight(), 0);
            }
        }
    }
}

#[test]
fn nobody_is_looked_for_without_end() {
    let mut world = World::payments(20);
    assert_eq!(tries(&mut world, "GET", Failure::Connect).0.len(), 8);
    // Three seconds are enough.
    let mut world = World::payments(20);
    let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    plan(effect);
    for second in 1..3 {
        plan(exchange.on_failure(&mut world.shard, Failure::ConnectTimeout, ms(second * 1_000)));
    }
    let effect = exchange.on_failure(&mut world.shard, Failure::ConnectTimeout, ms(3_000));
    assert_eq!(answer(effect).status, 503);
    // Whoever had the request counts, whoever else was looked for.
    let mut world = World::payments(20);
    let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
    plan(effect);
    for failure in [Failure::Connect, RESET, Failure::Connect] {
        plan(exchange.on_failure(&mut world.shard, failure, ms(0)));
    }
    assert!(matches!(exchange.on_failure(&mut world.shard, RESET, ms(0)), Effect::Reply(_)));
}

#[test]
fn where_a_route_says_how_often_so_often_it_is() {
    let mut world = World::payments(20);
    let retry = Retry { attempts: 1, codes: Vec::new(), backoff: None };
    let once = Rule { retry: Some(retry), ..rule(vec![prefix("/")], vec![backend("payments", 1)]) };
    world.put(vec![route("once", "payments", vec![once])]);
    assert_eq!(tries(&mut world, "GET", Failure::Connect).0.len(), 2);
}

/// Whatever the program says itself.
#[test]
fn the_other_proxy_is_told_which_clients_have_taken_no_answer_yet() {
    let mut world = World::payments(1);
    for (known, said, told) in
        [(false, None, true), (true, None, false), (true, Some("1"), false), (false, Some("0"), true)]
    {
        world.shard.set_underway(1, known);
        let lines: Vec<_> = said.map(|said| ("x-byrnie-newcomer", said)).into_iter().collect();
        let mut request = head("GET", "payments/", &lines);
        plan(world.begin(&mut request, ms(0)).1);
        assert_eq!(request.get("x-byrnie-newcomer"), told.then_some(&b"2"[..]), "{known} {said:?}");
    }
}
