// SPDX-License-Identifier: Apache-2.0
//! Copies, sessions, permissions for origins, and whose routes count, through whole exchanges.

use crate::fixtures::*;
use crate::{Effect, Exchange, Outcome, Reason};
use byrnie_codec::Head;
use byrnie_model::resource::{Resource, Spec};
use byrnie_model::route::{
    Carrier, Cors, Destination, Direct, DirectResponse, HeaderEdits, Mirror, Parent, PathEdit, Redirect, Rewrite,
    Route, RouteFilter, Rule, Session, Standing,
};
use byrnie_model::{Kind, Protocol, Revision};
use std::collections::BTreeSet;
use std::sync::Arc;

fn mirror(service: &str, share: u32, of: u32) -> RouteFilter {
    RouteFilter::Mirror(Mirror { to: Destination::new(sref(service), 80), share, of })
}

/// `payments` (p1 to p3) with these rules, and `other` (o1, o2).
fn routed(rules: Vec<Rule>) -> World {
    let mut world = World::payments(3);
    let others = (1..=2).map(|n| of_endpoint(endpoint("other", &format!("o{n}"), 10 + n)));
    world.put(std::iter::once(service("other", Protocol::Http1)).chain(others).collect());
    assert_eq!(world.put(vec![route("r", "payments", rules)]), []);
    world
}

fn with(filters: Vec<RouteFilter>) -> Vec<Rule> {
    vec![Rule { filters, ..rule(vec![prefix("/")], vec![backend("payments", 1)]) }]
}

#[test]
fn copies_go_where_the_route_says_as_the_route_has_edited_them() {
    let edits = HeaderEdits { set: vec![("x-set".into(), "1".into())], ..HeaderEdits::default() };
    let own = HeaderEdits { set: vec![("x-own".into(), "1".into())], ..HeaderEdits::default() };
    let mut rules = with(vec![RouteFilter::RequestHeaders(edits), mirror("other", 1, 1), mirror("other", 1, 1)]);
    rules[0].backends[0].filters = vec![RouteFilter::RequestHeaders(own), mirror("other", 1, 1)];
    let mut world = routed(rules);
    let mut request = head("POST", "payments/a?b", &[]);
    let (mut exchange, effect) = world.begin(&mut request, ms(0));
    assert!(endpoint_of(&plan(effect)).starts_with('p'));
    assert_eq!(request.get("x-own"), Some(&b"1"[..]));
    let copies = exchange.take_copies();
    assert_eq!(copies.len(), 3);
    assert!(exchange.take_copies().is_empty(), "each is sent once");
    for copy in copies {
        assert!(endpoint_of(&copy.plan).starts_with('o'));
        assert_eq!((copy.head.method(), copy.head.path_and_query()), ("POST", "/a?b"));
        assert_eq!((copy.head.get("x-set"), copy.head.get("x-own")), (Some(&b"1"[..]), None));
        assert_eq!(copy.plan.again.attempt, 1);
        copy.finish(&mut world.shard, Ok(500), ms(1));
    }
    let busy =
        |world: &World| -> u64 { world.snapshot().clusters().flat_map(|c| c.members()).map(|m| m.in_flight()).sum() };
    assert_eq!(busy(&world), 1, "the request itself");
    drop(exchange);
    assert_eq!(busy(&world), 0);
}

#[test]
fn a_share_of_the_requests_is_copied() {
    let mut world = routed(with(vec![mirror("other", 1, 4), mirror("nobody", 1, 1), mirror("other", 0, 1)]));
    let mut copied = 0;
    for n in 0..2000 {
        let (mut exchange, _) = world.begin(&mut head("GET", "payments/", &[]), ms(n));
        copied += exchange.take_copies().len();
    }
    assert!((400..600).contains(&copied), "{copied} of 2000, where a quarter is asked for");
}

/// What follows for a request whose only answer is the route's.
fn told(world: &mut World, request: &mut Head, at: u64) -> (Exchange, Head, String) {
    let (mut exchange, effect) = world.begin(request, ms(at));
    let endpoint = endpoint_of(&plan(effect));
    let mut answer = response(200, &[]);
    assert!(matches!(exchange.on_response(&mut world.shard, &mut answer, ms(at)), Effect::Forward));
    (exchange, answer, endpoint)
}

fn session(carrier: Carrier) -> Vec<Rule> {
    let session = Some(Session { name: "s".into(), carrier, absolute: None, idle: None });
    let backends = vec![backend("payments", 1), backend("other", 1)];
    vec![Rule { session, ..rule(vec![prefix("/")], backends) }]
}

#[test]
fn a_caller_that_comes_back_finds_its_endpoint() {
    let mut world = routed(session(Carrier::Cookie));
    let mut seen = BTreeSet::new();
    for n in 0..40 {
        let (_, answer, first) = told(&mut world, &mut head("GET", "payments/", &[]), n);
        let cookie = String::from_utf8(answer.get("set-cookie").unwrap().to_vec()).unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        for _ in 0..5 {
            let mut request = head("GET", "payments/", &[("cookie", &format!("a=b; {cookie}"))]);
            let (_, answer, again) = told(&mut world, &mut request, n);
            assert_eq!((again, answer.get("set-cookie")), (first.clone(), None));
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 5, "new callers are spread over both backends: {seen:?}");
}

/// One request of a caller that carries `ticket`, to a service behind the egress, which answers for the address with `token`; what
/// the egress was asked, and what the caller is told.
fn by_egress(world: &mut World, ticket: &str, token: Option<&str>) -> (Option<String>, Option<String>) {
    let mut request = head("GET", "payments/", &[("s", ticket), ("x-byrnie-session", "77")]);
    let (mut exchange, effect) = world.begin(&mut request, ms(0));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    let asked = request.get("x-byrnie-session").map(text).filter(|_| endpoint_of(&plan(effect)).starts_with("egress"));
    let lines: Vec<_> = token.map(|token| ("x-byrnie-session", token)).into_iter().collect();
    let mut answer = response(200, &lines);
    exchange.on_response(&mut world.shard, &mut answer, ms(0));
    assert_eq!(answer.get("x-byrnie-session"), None, "that is between proxies");
    (asked, answer.get("s").map(text))
}

#[test]
fn a_caller_finds_the_address_again_that_the_egress_chose_for_it_whichever_egress_is_asked() {
    let mut world = routed(session(Carrier::Header));
    let far = (1..=2).map(|n| {
        let mut one = endpoint("payments", &format!("egress-{n}"), 50 + n);
        one.identity = byrnie_model::Identity::new("demo.local", "byrnie", "egress").unwrap();
        of_endpoint(one)
    });
    let gone = (1..=3).map(|n| byrnie_model::Key::new(Kind::Endpoint, "shop", format!("payments/p{n}")));
    world.put(far.collect());
    world.remove(gone.collect());
    let (asked, ticket) =
        std::iter::repeat_with(|| by_egress(&mut world, "", Some("abc"))).find(|(a, _)| a.is_some()).unwrap();
    assert_eq!(asked.as_deref(), Some("0"), "the word of the program itself is nobody's");
    let ticket = ticket.unwrap();
    assert!(ticket.starts_with("abc.") && ticket.split('.').count() == 4, "{ticket}");
    let mut egresses = BTreeSet::new();
    for _ in 0..40 {
        assert_eq!(by_egress(&mut world, &ticket, Some("abc")), (Some("abc".to_owned()), None));
        let (_, effect) = world.begin(&mut head("GET", "payments/", &[("s", &ticket)]), ms(0));
        egresses.insert(endpoint_of(&plan(effect)));
    }
    assert_eq!(egresses.len(), 2, "either of them keeps it");
    // The address is gone: the egress has chosen another.
    let (asked, told) = by_egress(&mut world, &ticket, Some("def"));
    assert!(asked.as_deref() == Some("abc") && told.is_some_and(|told| told.starts_with("def.")));
    // One that names another service is nothing here, nor is what can't be read.
    for forged in
        [ticket.rsplit_once('.').unwrap().0.to_owned() + ".1", ticket.clone() + ".1", ticket.replace('.', "-")]
    {
        let asked: BTreeSet<_> = (0..40).filter_map(|_| by_egress(&mut world, &forged, Some("abc")).0).collect();
        assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["0"], "{forged}");
    }
}

#[test]
fn a_caller_whose_endpoint_is_gone_gets_another() {
    let mut world = routed(session(Carrier::Header));
    let (_, answer, first) = told(&mut world, &mut head("GET", "payments/", &[]), 0);
    let ticket = String::from_utf8(answer.get("s").unwrap().to_vec()).unwrap();
    // A retry leaves it, too.
    let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[("s", &ticket)]), ms(1));
    assert_eq!(endpoint_of(&plan(effect)), first);
    let effect = exchange.on_failure(&mut world.shard, crate::Failure::Connect, ms(1));
    assert_ne!(endpoint_of(&plan(effect)), first);
    let service = if first.starts_with('p') { "payments" } else { "other" };
    world.remove(vec![byrnie_model::Key::new(Kind::Endpoint, "shop", format!("{service}/{first}"))]);
    let (_, answer, next) = told(&mut world, &mut head("GET", "payments/", &[("s", &ticket)]), 2);
    assert_ne!(next, first);
    assert!(answer.get("s").is_some_and(|told| told != ticket.as_bytes()));
}

#[test]
fn origins_are_answered_by_the_route() {
    let cors = Cors { origins: vec!["https://a.b".into()], methods: vec!["PUT".into()], max_age: 5, ..Cors::default() };
    let mut world = routed(with(vec![RouteFilter::Cors(cors)]));
    let asks = [("origin", "https://a.b"), ("access-control-request-method", "PUT")];
    let (exchange, effect) = world.begin(&mut head("OPTIONS", "payments/", &asks), ms(0));
    let mut written = Head::new();
    let body = answer(effect).write(exchange.id(), &mut written);
    assert_eq!((written.status(), body.len()), (204, 0));
    assert_eq!(written.get("access-control-allow-methods"), Some(&b"PUT"[..]));
    let (_, answered, _) = told(&mut world, &mut head("PUT", "payments/", &asks[..1]), 1);
    assert_eq!(answered.get("access-control-allow-origin"), Some(&b"https://a.b"[..]));
    let (_, answered, _) = told(&mut world, &mut head("PUT", "payments/", &[("origin", "https://x.y")]), 1);
    assert_eq!(answered.get("access-control-allow-origin"), None);
}

#[test]
fn a_route_answers_by_itself() {
    let says = DirectResponse { status: 410, content_type: Some("text/html".into()), body: "<p>gone".into() };
    let direct = |response| RouteFilter::Direct(Direct { filter: "gone".into(), response });
    let edits = HeaderEdits { set: vec![("cache-control".into(), "no-store".into())], ..HeaderEdits::default() };
    let cors = Cors { origins: vec!["https://a.b".into()], methods: vec!["*".into()], ..Cors::default() };
    let filters = vec![direct(Some(says.into())), RouteFilter::ResponseHeaders(edits), RouteFilter::Cors(cors)];
    let mut world = routed(vec![rule_without(filters), rule(vec![prefix("/")], vec![backend("payments", 1)])]);
    let mut written = Head::new();
    // A call of gRPC that an HTTPRoute answers is answered so too.
    for asked in [&[("origin", "https://a.b")][..], &[("origin", "https://a.b"), ("content-type", "application/grpc")]]
    {
        let (exchange, effect) = world.begin(&mut head("POST", "payments/old", asked), ms(0));
        let answer = answer(effect);
        assert_eq!((answer.reason, answer.reason.label()), (Reason::DirectResponse, "direct_response"));
        assert_eq!(answer.detail, *"answered by shop/r[0] as HTTPRouteFilter gone says");
        assert_eq!(exchange.write(&answer, &mut written), b"<p>gone");
        assert_eq!((written.status(), written.get("content-type")), (410, Some(&b"text/html"[..])));
        assert_eq!(written.get("cache-control"), Some(&b"no-store"[..]));
        assert_eq!(written.get("access-control-allow-origin"), Some(&b"https://a.b"[..]));
        let verdict = exchange.finish(&mut world.shard, Outcome { status: 410, failure: None }, ms(1));
        assert_eq!((verdict.reason, verdict.attempts.count()), (Some(Reason::DirectResponse), 0));
    }
    let asks = [("origin", "https://a.b"), ("access-control-request-method", "PUT")];
    let (_, effect) = world.begin(&mut head("OPTIONS", "payments/old", &asks), ms(2));
    assert_eq!(answer(effect).reason, Reason::Preflight);
    // Where nobody says what it is, the request goes nowhere else either.
    let mut world = routed(vec![rule_without(vec![direct(None)])]);
    let (_, effect) = world.begin(&mut head("GET", "payments/old", &[]), ms(3));
    let answer = answer(effect);
    assert_eq!((answer.status, answer.reason), (500, Reason::BackendAbsent));
    assert!(answer.detail.contains("HTTPRouteFilter gone says, which does not exist"), "{}", answer.detail);
}

/// A rule for `/old` that sends nothing to backends.
fn rule_without(filters: Vec<RouteFilter>) -> Rule {
    Rule { filters, ..rule(vec![prefix("/old")], vec![]) }
}

#[test]
fn a_backend_may_have_filters_of_its_own() {
    let redirect = Redirect { scheme: None, hostname: Some("new.test".into()), path: None, port: None, status: 308 };
    let rewrite = Rewrite { hostname: None, path: Some(PathEdit::Full("/v1".into())) };
    let mut moved = rule(vec![prefix("/moved")], vec![backend("payments", 1)]);
    moved.backends[0].filters = vec![RouteFilter::Redirect(redirect)];
    let mut rewritten = rule(vec![prefix("/")], vec![backend("payments", 1)]);
    rewritten.backends[0].filters = vec![RouteFilter::Rewrite(rewrite)];
    let mut world = routed(vec![moved, rewritten]);
    let (_, effect) = world.begin(&mut head("GET", "payments/moved", &[]), ms(0));
    let answer = answer(effect);
    assert_eq!((answer.status, answer.fields), (308, vec![("location", "http://new.test/moved".into())]));
    let mut request = head("GET", "payments/x", &[]);
    world.begin(&mut request, ms(0));
    assert_eq!(request.path(), "/v1");
}

#[test]
fn what_may_not_be_named_is_never_reached() {
    for (standing, says) in [
        (Standing::Foreign, "which no ReferenceGrant allows"),
        (Standing::Unserved("ServiceImport.multicluster.x-k8s.io".into()), "of kind ServiceImport"),
    ] {
        let mut rules = with(vec![mirror("other", 1, 1)]);
        rules[0].backends[0].to.standing = standing.clone();
        let RouteFilter::Mirror(copied) = &mut rules[0].filters[0] else { panic!() };
        copied.to.standing = standing;
        let mut world = routed(rules);
        let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
        let answer = answer(effect);
        assert_eq!(answer.status, 500);
        assert!(answer.detail.contains(says), "{}", answer.detail);
        assert!(exchange.take_copies().is_empty());
    }
}

/// A route in `namespace` on `payments` of the namespace `shop`, for everything, to `to`.
fn route_of(namespace: &str, name: &str, to: &str) -> Resource {
    let rules = vec![rule(vec![prefix("/")], vec![backend(to, 1)])];
    let spec = Route { parents: vec![Parent::service(sref("payments"), None)], hostnames: Vec::new(), rules };
    let mut resource = resource(Kind::HttpRoute, namespace, name, Spec::Route(Arc::new(spec)));
    resource.created = Revision(1);
    resource
}

#[test]
fn a_consumers_routes_are_for_its_own_namespace_and_replace_the_producers() {
    let chosen = |world: &mut World, service: &str| {
        let (_, effect) = world.begin(&mut head("GET", &format!("{service}/"), &[]), ms(0));
        endpoint_of(&plan(effect))
    };
    // The caller lives in `shop`; the service `books.away` in another namespace.
    let mut world = routed(vec![rule(vec![prefix("/")], vec![backend("payments", 1)])]);
    world.put(vec![route_of("elsewhere", "mine", "other")]);
    assert!(chosen(&mut world, "payments").starts_with('p'), "a route of strangers is none of ours");
    world.put(vec![service("books.away", Protocol::Http1), of_endpoint(endpoint("books.away", "b1", 30))]);
    let on_books = |namespace: &str, name: &str, to: &str| {
        let rules = vec![rule(vec![prefix("/")], vec![backend(to, 1)])];
        let spec = Route { parents: vec![Parent::service(sref("books.away"), None)], hostnames: Vec::new(), rules };
        resource(Kind::HttpRoute, namespace, name, Spec::Route(Arc::new(spec)))
    };
    world.put(vec![on_books("away", "producer", "payments")]);
    assert!(chosen(&mut world, "books.away").starts_with('p'));
    world.put(vec![on_books("shop", "consumer", "other")]);
    assert!(chosen(&mut world, "books.away").starts_with('o'), "the caller's own route replaces the producer's");
    world.remove(vec![byrnie_model::Key::new(Kind::HttpRoute, "shop", "consumer")]);
    assert!(chosen(&mut world, "books.away").starts_with('p'));
}

#[test]
fn an_answer_of_the_other_proxy_is_told_apart_from_its_programs() {
    let mut world = World::payments(1);
    for (lines, peer) in [(&[][..], None), (&[("x-byrnie-decision", "m8q2")][..], Some("m8q2"))] {
        let (mut exchange, effect) = world.begin(&mut head("GET", "payments/", &[]), ms(0));
        plan(effect);
        exchange.on_response(&mut world.shard, &mut response(502, lines), ms(1));
        let verdict = exchange.finish(&mut world.shard, Outcome { status: 502, failure: None }, ms(1));
        assert_eq!(verdict.decided.peer.as_deref(), peer);
        let record = verdict.record(ms(0).wall, "web-1".into(), Default::default(), "".into());
        assert_eq!(record.decision.peer, peer.unwrap_or_default());
    }
}
