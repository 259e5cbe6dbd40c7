// SPDX-License-Identifier: Apache-2.0
//! Calls for the addresses of slices, at the proxy by which they leave: which of them is asked, and when another.

use crate::fixtures::*;
use crate::{
    Arrival, Compiler, Direction, Effect, Exchange, Failure, Node, Outcome, Plan, Role, Shard, Snapshot, Target, Tls,
    Told, Tunnel, Word,
};
use byrnie_base::Now;
use byrnie_codec::Head;
use byrnie_model::policy::access::{Action, Mode, Rule as AccessRule};
use byrnie_model::policy::health::{Check, HealthCheck};
use byrnie_model::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};
use byrnie_model::policy::traffic::{Balance, Choice, Failover, Nearness, TrafficPolicy};
use byrnie_model::resource::Spec;
use byrnie_model::service::{Locality, ServicePort, TargetPort};
use byrnie_model::slice::{ADDRESSES_MAX, Address, Slice, SlicePort};
use byrnie_model::{Delta, Health, Identity, Key, Kind, Labels, Protocol, Resource, Revision, Service};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// `db`: port 80 named `web`, port 81 named `raw` that carries bytes.
fn db() -> Resource {
    let port = |name: &str, port, protocol| ServicePort {
        name: name.into(),
        port,
        target: TargetPort::Name("whatever".into()),
        protocol,
        prefixed: false,
    };
    let ports = vec![port("web", 80, Protocol::Http1), port("raw", 81, Protocol::Tcp)];
    let spec = Service { ports, ..Service::default() };
    resource(Kind::Service, "shop", "db", Spec::Service(spec))
}

fn address(text: &str) -> Address {
    Address { ip: text.parse().unwrap(), health: Health::Healthy, locality: Locality::default(), zones: Vec::new() }
}

fn slice(name: &str, ports: &[(&str, u16)], endpoints: Vec<Address>) -> Resource {
    let ports = ports.iter().map(|(name, port)| SlicePort { name: (*name).into(), port: *port }).collect();
    let spec = Slice { service: "db".into(), ports, endpoints };
    resource(Kind::EndpointSlice, "shop", name, Spec::Slice(spec.into()))
}

const PORTS: &[(&str, u16)] = &[("web", 8080), ("raw", 5432)];

/// A proxy by which calls leave the mesh, in zone `a` of `eu`.
struct Exit {
    compiler: Compiler,
    shard: Shard,
    revision: u64,
}

impl Exit {
    fn new(resources: Vec<Resource>) -> Self {
        let node = Node {
            name: "egress-1".into(),
            namespace: "byrnie".into(),
            identity: Identity::new("demo.local", "byrnie", "egress").unwrap(),
            locality: Locality { region: "eu".into(), zone: "a".into() },
            role: Role::Sidecar,
        };
        let mut own = own_workload();
        own.key = Key::new(Kind::Workload, "byrnie", "egress-1");
        let rule = AccessRule { sources: vec![account("web")], ..AccessRule::default() };
        let allowed = access("db", "db", Action::Allow, Mode::Enforce, vec![rule]);
        let mut exit = Self { compiler: Compiler::new(node), shard: Shard::new(7), revision: 0 };
        exit.apply(resources, Vec::new());
        exit.apply(vec![own, allowed], Vec::new());
        exit
    }

    fn apply(&mut self, changed: Vec<Resource>, removed: Vec<Key>) {
        self.revision += 1;
        let changed = changed.into_iter().map(Arc::new).collect();
        assert_eq!(self.compiler.apply(&Delta { changed, removed }, Revision(self.revision)), []);
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.compiler.snapshot()
    }

    fn begin(&mut self, from: &str, head: &mut Head) -> (Exchange, Effect) {
        self.begin_at(ms(0), from, head)
    }

    fn begin_at(&mut self, at: Now, from: &str, head: &mut Head) -> (Exchange, Effect) {
        let (service, source) = (sref("db"), identity(from));
        Exchange::begin(&self.snapshot(), &mut self.shard, &arrival(&service, &source, 80), head, at)
    }

    /// Where calls go, of so many that each address would have been asked.
    fn reached(&mut self) -> BTreeSet<String> {
        (0..60)
            .map(|_| match self.begin("web", &mut head("GET", "db/", &[])) {
                (_, Effect::Send(plan)) => to(&plan),
                (_, Effect::Reply(answer)) => format!("{} {}", answer.status, answer.reason.label()),
                (_, other) => panic!("{other:?}"),
            })
            .collect()
    }
}

fn arrival<'a>(service: &'a byrnie_model::ServiceRef, source: &'a Identity, port: u16) -> Arrival<'a> {
    Arrival {
        direction: Direction::Inbound { service, port },
        source: Some(source),
        remote: SocketAddr::from(([10, 0, 0, 9], 5555)),
        tls: Tls::Mutual,
    }
}

fn to(plan: &Plan) -> String {
    let Target::Program { program, .. } = &plan.target else { panic!("{plan:?}") };
    program.to_string().trim_end_matches(" outside the mesh").to_owned()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn slices_of_one_service_come_together_and_each_address_counts_once() {
    let both = || vec![address("192.0.2.1"), address("192.0.2.2")];
    let mut exit = Exit::new(vec![db(), slice("one", PORTS, both())]);
    assert_eq!(exit.reached(), set(&["192.0.2.1:8080", "192.0.2.2:8080"]));
    let six = || slice("six", &[("web", 9090)], vec![address("2001:db8::6")]);
    exit.apply(vec![six(), slice("two", PORTS, vec![address("192.0.2.2")])], Vec::new());
    assert_eq!(exit.reached(), set(&["192.0.2.1:8080", "192.0.2.2:8080", "[2001:db8::6]:9090"]));
    assert_eq!(exit.snapshot().endpoints(&sref("db")).len(), 3);
    // One that is in two slices is there until it's in none.
    exit.apply(Vec::new(), vec![Key::new(Kind::EndpointSlice, "shop", "one")]);
    assert_eq!(exit.reached(), set(&["192.0.2.2:8080", "[2001:db8::6]:9090"]));
    exit.apply(Vec::new(), vec![Key::new(Kind::EndpointSlice, "shop", "two"), six().key]);
    assert_eq!(exit.snapshot().served().count(), 0, "a service without slices leads nowhere");
}

#[test]
fn whoever_may_not_call_reaches_no_address() {
    let mut exit = Exit::new(vec![db(), slice("one", PORTS, vec![address("192.0.2.1")])]);
    let refused = answer(exit.begin("cart", &mut head("GET", "db/", &[])).1);
    assert_eq!((refused.status, refused.reason), (403, crate::Reason::AccessDenied));
    let mut asked = head("GET", "db.shop/", &[("x-byrnie-deadline-ms", "500"), ("accept", "*/*")]);
    assert_eq!(to(&plan(exit.begin("web", &mut asked).1)), "192.0.2.1:8080");
    assert_eq!(asked.get("x-byrnie-deadline-ms"), None, "the words of the mesh stay inside");
    assert_eq!(asked.authority(), "db.shop", "nobody knows another name of it");
}

#[test]
fn conditions_say_who_is_asked() {
    let of = |health: &[Health]| {
        let of = |(i, health): (usize, &Health)| Address { health: *health, ..address(&format!("192.0.2.{i}")) };
        slice("one", PORTS, health.iter().enumerate().map(of).collect())
    };
    let (well, leaving, sick) = (Health::Healthy, Health::Draining, Health::Unhealthy);
    for (health, reached) in [
        (&[well, leaving, sick][..], &["192.0.2.0:8080"][..]),
        // Those that leave are better than none.
        (&[sick, leaving], &["192.0.2.1:8080"]),
        (&[sick], &["503 no_endpoint"]),
        (&[], &["503 no_endpoint"]),
    ] {
        assert_eq!(Exit::new(vec![db(), of(health)]).reached(), set(reached), "{health:?}");
    }
    // As upstream: while it moves, an address may be in two slices, and is ready if one of them says so.
    let mut exit = Exit::new(vec![db(), of(&[sick]), slice("two", PORTS, vec![address("192.0.2.0")])]);
    assert_eq!(exit.reached(), set(&["192.0.2.0:8080"]));
    let mut all = db();
    let Spec::Service(service) = &mut all.spec else { panic!() };
    service.publish_not_ready = true;
    exit.apply(vec![all, of(&[sick, leaving]), slice("two", PORTS, Vec::new())], Vec::new());
    assert_eq!(exit.reached(), set(&["192.0.2.0:8080", "192.0.2.1:8080"]));
}

#[test]
fn the_nearest_addresses_are_asked_first_and_farther_ones_when_these_fail() {
    let at = |last: u8, region: &str, zone: &str, hints: &[&str]| Address {
        ip: IpAddr::from([192, 0, 2, last]),
        locality: Locality { region: region.into(), zone: zone.into() },
        zones: hints.iter().map(|zone| (*zone).into()).collect(),
        health: Health::Healthy,
    };
    let failover = Failover {
        prefer: vec![Nearness::SameZone, Nearness::Any],
        below_percent: 0,
        shares: Vec::new(),
        distribute: Vec::new(),
    };
    let near = traffic("db", TrafficPolicy { failover: Some(failover), ..TrafficPolicy::default() });
    let endpoints = |first: Address| vec![first, at(2, "eu", "b", &[]), at(3, "us", "a", &[])];
    let mut exit = Exit::new(vec![db(), near]);
    for first in [at(1, "eu", "a", &[]), at(1, "", "a", &[]), at(1, "", "b", &["c", "a"])] {
        exit.apply(vec![slice("one", PORTS, endpoints(first))], Vec::new());
        assert_eq!(exit.reached(), set(&["192.0.2.1:8080"]));
    }
    let away = Address { health: Health::Unhealthy, ..at(1, "eu", "a", &[]) };
    exit.apply(vec![slice("one", PORTS, endpoints(away))], Vec::new());
    assert_eq!(exit.reached(), set(&["192.0.2.2:8080", "192.0.2.3:8080"]));
    // A hint for other zones says that ours is not meant to ask.
    exit.apply(vec![slice("one", PORTS, vec![at(1, "eu", "a", &["b"]), at(2, "eu", "b", &["a"])])], Vec::new());
    assert_eq!(exit.reached(), set(&["192.0.2.2:8080"]));
}

#[test]
fn another_address_is_tried_if_one_cannot_have_seen_the_request_and_a_bad_one_is_left_out() {
    let all = || vec![address("192.0.2.1"), address("192.0.2.2"), address("192.0.2.3")];
    let turns = TrafficPolicy { balance: Some(Balance::RoundRobin), ..TrafficPolicy::default() };
    let mut exit = Exit::new(vec![db(), slice("one", PORTS, all()), traffic("db", turns)]);
    let (mut exchange, effect) = exit.begin("web", &mut head("POST", "db/", &[]));
    let first = plan(effect);
    assert!(first.again.keep_body, "there may be another try");
    let (first, second) = (to(&first), to(&plan(exchange.on_failure(&mut exit.shard, Failure::Connect, ms(1)))));
    assert_ne!(first, second);
    // What may have been seen and may not be repeated is the caller's to decide on.
    let lost = exchange.on_failure(&mut exit.shard, Failure::ResetBeforeHead { request_sent: true }, ms(2));
    let told = answer(lost);
    assert_eq!((told.status, told.failure), (503, Some(crate::answer::FAILURE_LOST)));
    let verdict = exchange.finish(&mut exit.shard, Outcome::default(), ms(3));
    assert_eq!((verdict.attempts.count(), verdict.labels.tls), (2, Tls::Mutual));
    for at in 0..40 {
        let (mut exchange, effect) = exit.begin("web", &mut head("GET", "db/", &[]));
        if to(&plan(effect)) == first {
            exchange.on_failure(&mut exit.shard, Failure::Connect, ms(4 + at));
        }
    }
    assert!(!exit.reached().contains(&first), "{:?} without {first}", exit.reached());
    // It stays out while others come and go.
    exit.apply(vec![slice("two", PORTS, vec![address("192.0.2.4")])], Vec::new());
    let reached = exit.reached();
    assert!(!reached.contains(&first) && reached.contains("192.0.2.4:8080"), "{reached:?} without {first}");
}

/// Three addresses, asked in turn.
fn in_turn() -> Exit {
    let turns = TrafficPolicy { balance: Some(Balance::RoundRobin), ..TrafficPolicy::default() };
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(address).to_vec();
    Exit::new(vec![db(), slice("one", PORTS, all), traffic("db", turns)])
}

#[test]
fn what_may_be_repeated_waits_for_no_address_that_says_nothing() {
    let mut exit = in_turn();
    let (mut exchange, effect) = exit.begin("web", &mut head("GET", "db/", &[("x-byrnie-retry-budget", "2")]));
    let first = plan(effect);
    let waits = first.try_deadline.unwrap().since(ms(0).mono);
    assert_eq!((waits, first.again.keep_body), (Duration::from_secs(1), true), "how long it takes isn't known yet");
    let second = plan(exchange.on_failure(&mut exit.shard, Failure::TryTimeout, ms(1000)));
    let third = plan(exchange.on_failure(&mut exit.shard, Failure::ResetBeforeHead { request_sent: true }, ms(1001)));
    assert_eq!([&first, &second, &third].map(to).into_iter().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(third.try_deadline, None, "the last one is waited for");
    for (method, left, tries) in [("POST", "2", 1), ("GET", "0", 1), ("GET", "1", 2), ("PUT", "200", 3), ("GET", "", 3)]
    {
        let left: &[_] = if left.is_empty() { &[] } else { &[("x-byrnie-retry-budget", left)] };
        let (mut exchange, mut effect) = exit.begin("web", &mut head(method, "db/", left));
        let mut had = 0;
        while let Effect::Send(sent) = effect {
            had += 1;
            assert_eq!(sent.try_deadline.is_some(), had < tries, "{method} {left:?}");
            effect = exchange.on_failure(&mut exit.shard, Failure::ResetBeforeHead { request_sent: true }, ms(5000));
        }
        assert_eq!(had, tries, "{method} {left:?}");
        assert_eq!(answer(effect).failure, Some(crate::answer::FAILURE_LOST));
    }
}

#[test]
fn a_request_under_a_key_is_sent_to_one_address() {
    let keys = Idempotency {
        mode: KeyMode::Required,
        guarantee: Guarantee::G1,
        key_ttl: Duration::from_secs(3600),
        lease: Duration::from_secs(60),
        on_ambiguous: OnAmbiguous::Hold,
        on_server_error: OnServerError::Ambiguous,
        mint_keys: false,
        status_only: false,
        enlist: Vec::new(),
    };
    let mut exit = in_turn();
    exit.apply(vec![traffic("db", TrafficPolicy { idempotency: Some(keys), ..TrafficPolicy::default() })], Vec::new());
    let mut asked = head("PUT", "db/", &[("idempotency-key", "\"k1\"")]);
    let (mut exchange, effect) = exit.begin("web", &mut asked);
    assert!(matches!(effect, Effect::Claim(_)), "{effect:?}");
    let granted = exchange.on_word(&mut exit.shard, &mut asked, Word::Granted { again: false }, ms(1));
    assert_eq!(plan(granted).try_deadline, None);
    let lost = exchange.on_failure(&mut exit.shard, Failure::ResetBeforeHead { request_sent: true }, ms(2));
    assert!(matches!(lost, Effect::Settle(Told::Ambiguous, _)), "{lost:?}");
}

#[test]
fn an_address_at_which_callers_wait_in_vain_is_left_out() {
    let frozen = |failure, waited: u64, others: bool| {
        let mut exit = in_turn();
        let mut bad = None;
        for n in 0..40 {
            let at = n * 10_000;
            let (mut exchange, effect) = exit.begin_at(ms(at), "web", &mut head("POST", "db/", &[]));
            let reached = to(&plan(effect));
            if *bad.get_or_insert_with(|| reached.clone()) != reached {
                continue;
            }
            if others {
                // Somebody else is answered meanwhile: it's slow with this one.
                exchange.course.attempts.last().unwrap().member.as_ref().unwrap().load.heard(ms(at + 1).mono);
            }
            exchange.on_failure(&mut exit.shard, failure, ms(at + waited));
            exchange.finish(&mut exit.shard, Outcome::default(), ms(at + waited));
        }
        !exit.reached().contains(&bad.unwrap())
    };
    assert!(frozen(Failure::Forsaken, 1000, false));
    assert!(!frozen(Failure::Forsaken, 999, false), "they left early");
    assert!(!frozen(Failure::Forsaken, 1000, true));
    assert!(!frozen(Failure::DownstreamGone, 1000, false), "their request wasn't sent whole");
}

#[test]
fn connections_that_carry_bytes_reach_the_addresses_too() {
    let both = vec![address("192.0.2.1"), address("192.0.2.2")];
    let mut exit = Exit::new(vec![db(), slice("one", PORTS, both)]);
    let (service, source) = (sref("db"), identity("web"));
    let (mut tunnel, effect) = Tunnel::begin(&exit.snapshot(), &mut exit.shard, &arrival(&service, &source, 81), ms(0));
    let first = to(&plan(effect));
    let second = to(&plan(tunnel.on_failure(&mut exit.shard, Failure::Connect, ms(1))));
    assert_eq!(BTreeSet::from([first, second]), set(&["192.0.2.1:5432", "192.0.2.2:5432"]));
}

#[test]
fn a_service_has_no_more_addresses_than_are_used() {
    let last = u32::try_from(ADDRESSES_MAX).unwrap() + 100;
    let addresses = (1..=last).map(|n| address(&std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string()));
    let exit = Exit::new(vec![db(), slice("one", PORTS, addresses.collect())]);
    assert_eq!(exit.snapshot().endpoints(&sref("db")).len(), ADDRESSES_MAX);
}

#[test]
fn a_workload_beside_a_program_leads_to_no_addresses() {
    let mut own = own_workload();
    own.labels = Labels::new();
    let world = World::new(vec![own, db(), slice("one", PORTS, vec![address("192.0.2.1")])]);
    assert_eq!(world.snapshot().served().count(), 0);
    assert!(world.snapshot().endpoints(&sref("db")).is_empty());
}

#[test]
fn addresses_that_fail_their_check_are_asked_last() {
    let check = HealthCheck::new(Check::Http("/healthz".into()), None);
    let choice = Choice { health_check: Some(check), ..Choice::default() };
    let policy = TrafficPolicy { endpoints: Some(choice), ..TrafficPolicy::default() };
    let addresses = ["10.9.0.1", "10.9.0.2"].map(address).to_vec();
    let mut exit = Exit::new(vec![db(), slice("db-1", PORTS, addresses), traffic("db", policy)]);
    let snapshot = exit.snapshot();
    let checked: Vec<_> = snapshot.checked().map(|(_, one)| one).collect();
    let at = [0, 1].map(|one: usize| checked[one].probe.address.to_string());
    assert_eq!(at, ["10.9.0.1:8080", "10.9.0.2:8080"], "each once, at the first port");
    assert_eq!(snapshot.probes().count(), 0, "the own program has no check");
    let both = set(&at.each_ref().map(String::as_str));
    assert_eq!(exit.reached(), both);
    checked[0].judge(false);
    assert_eq!(exit.reached(), set(&[&at[1]]));
    // If nobody is left, all are asked.
    checked[1].judge(false);
    assert_eq!(exit.reached(), both);
    checked[0].judge(true);
    assert_eq!(exit.reached(), set(&[&at[0]]));
    // What is known of an address outlives a change of its slice.
    let more = ["10.9.0.1", "10.9.0.2", "10.9.0.3"].map(address).to_vec();
    exit.apply(vec![slice("db-1", PORTS, more)], Vec::new());
    assert_eq!(exit.reached(), set(&[&at[0], "10.9.0.3:8080"]));
}

/// `db`, at `db.test`: port 80 leads to 8080.
fn at_host(protocol: Protocol) -> Resource {
    let port =
        ServicePort { name: "web".into(), port: 80, target: TargetPort::Number(8080), protocol, prefixed: false };
    let spec = Service { ports: vec![port], outside: Some("db.test".into()), ..Service::default() };
    resource(Kind::Service, "shop", "db", Spec::Service(spec))
}

#[test]
fn the_addresses_of_a_host_are_asked_as_those_of_slices_are_once_they_are_known() {
    let turns = TrafficPolicy { balance: Some(Balance::RoundRobin), ..TrafficPolicy::default() };
    let mut exit = Exit::new(vec![at_host(Protocol::Http1), traffic("db", turns)]);
    let locate = |exit: &mut Exit, all: &[&str]| {
        exit.compiler.locate(&"db.test".into(), all.iter().map(|ip| ip.parse().unwrap()).collect())
    };
    assert_eq!(exit.reached(), set(&["db.test:8080"]), "whoever is asked first finds out");
    assert!(locate(&mut exit, &["192.0.2.1"]));
    assert_eq!(exit.reached(), set(&["db.test:8080"]), "nothing to choose from");
    assert!(locate(&mut exit, &["192.0.2.2", "2001:db8::6", "192.0.2.1"]));
    let (one, two) = ("192.0.2.1:8080", "192.0.2.2:8080");
    assert_eq!(exit.reached(), set(&[one, two]), "the others are for when these fail");
    assert!(!locate(&mut exit, &["192.0.2.1", "2001:db8::6", "192.0.2.2"]), "the resolver's dice");

    // One that says nothing costs its caller no more than its patience, and then nobody.
    let mut asked = |begun| {
        let (mut exchange, effect) = exit.begin_at(ms(begun), "web", &mut head("GET", "db/", &[]));
        let (mut sent, mut waited) = (plan(effect), 0);
        while to(&sent) == one {
            assert!(waited == 0 && sent.try_deadline.unwrap().since(ms(begun).mono) <= Duration::from_secs(1));
            waited = 1000;
            sent = plan(exchange.on_failure(&mut exit.shard, Failure::TryTimeout, ms(begun + waited)));
        }
        assert_eq!(to(&sent), two);
        exchange.on_response(&mut exit.shard, &mut response(200, &[]), ms(begun + waited + 5));
        waited > 0
    };
    let waits: Vec<bool> = (0..60).map(|at| asked(at * 10)).collect();
    assert!(waits.contains(&true) && !waits[30..].contains(&true), "{waits:?}");
    assert_eq!(exit.reached(), set(&[two]));
    // It stays out while others come and go.
    assert!(locate(&mut exit, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
    assert_eq!(exit.reached(), set(&[two, "192.0.2.3:8080"]));
    // Where the one kind fails the other serves.
    assert!(locate(&mut exit, &["192.0.2.1", "2001:db8::6"]));
    assert_eq!(exit.reached(), set(&["[2001:db8::6]:8080"]));
    assert!(locate(&mut exit, &[]));
    assert_eq!(exit.reached(), set(&["db.test:8080"]));
}

#[test]
fn an_address_of_a_host_that_fails_its_check_is_not_asked_and_what_the_caller_speaks_says_nothing_of_it() {
    let check = HealthCheck::new(Check::Tcp, None);
    let choice = Choice { health_check: Some(check), ..Choice::default() };
    let checked = traffic("db", TrafficPolicy { endpoints: Some(choice), ..TrafficPolicy::default() });
    let mut exit = Exit::new(vec![at_host(Protocol::Undeclared), checked]);
    let both: Vec<IpAddr> = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap()).to_vec();
    exit.compiler.locate(&"db.test".into(), both.clone());
    assert_eq!(exit.reached(), set(&["192.0.2.1:8080", "192.0.2.2:8080"]));
    let judge = |exit: &Exit, ip: IpAddr, well| {
        let snapshot = exit.snapshot();
        let (_, watched) = snapshot.watched().next().unwrap();
        assert_eq!(watched.addresses, both);
        watched.located(2);
        watched.at(ip).judge(well);
    };
    judge(&exit, both[0], false);
    assert_eq!(exit.reached(), set(&["192.0.2.2:8080"]));
    judge(&exit, both[1], false);
    assert_eq!(exit.reached(), set(&["503 no_endpoint"]));
    judge(&exit, both[0], true);
    assert_eq!(exit.reached(), set(&["192.0.2.1:8080"]));
    let mut by_h2 = head("GET", "db/", &[]);
    by_h2.set_version(byrnie_codec::Version::Http2);
    assert_eq!(plan(exit.begin("web", &mut by_h2).1).target.protocol(), Protocol::Http1);
}

/// What the caller's proxy is told for its word about a session, and who answered.
fn kept(exit: &mut Exit, had: &str) -> (String, String) {
    let mut asked = head("GET", "db/", &[("x-byrnie-session", had)]);
    let (mut exchange, effect) = exit.begin("web", &mut asked);
    assert_eq!(asked.get("x-byrnie-session"), None, "the words of the mesh stay inside");
    let mut answer = response(200, &[("x-byrnie-session", "1")]);
    exchange.on_response(&mut exit.shard, &mut answer, ms(0));
    let told = answer.get("x-byrnie-session").map(|told| String::from_utf8(told.to_vec()).unwrap());
    (told.unwrap_or_default(), to(&plan(effect)))
}

#[test]
fn a_session_holds_among_addresses_and_a_number_that_is_none_of_theirs_means_nothing() {
    let all: Vec<Address> = (1..=5).map(|n| address(&format!("192.0.2.{n}"))).collect();
    let mut exit = Exit::new(vec![db(), slice("one", PORTS, all.clone())]);
    let mut tokens = std::collections::BTreeMap::new();
    for _ in 0..60 {
        let (told, first) = kept(&mut exit, "0");
        assert_eq!(*tokens.entry(first.clone()).or_insert_with(|| told.clone()), told, "an address has one number");
        assert_eq!((0..5).map(|_| kept(&mut exit, &told)).collect::<BTreeSet<_>>().len(), 1);
        assert_eq!(kept(&mut exit, &told), (told, first));
    }
    assert_eq!(tokens.len(), 5, "new callers are spread: {tokens:?}");
    for forged in ["1", "ffffffffffffffff", "c0a80001", "192.0.2.1:8080", "", "12345678901234567"] {
        let reached: BTreeSet<_> = (0..60).map(|_| kept(&mut exit, forged)).collect();
        assert_eq!(reached.len(), 5, "{forged}: {reached:?}");
    }
    // One that is gone, or fails, is left for another, of which the caller's proxy is told.
    let (address, token) = tokens.pop_first().unwrap();
    exit.apply(vec![slice("one", PORTS, all[1..].to_vec())], Vec::new());
    let (told, next) = kept(&mut exit, &token);
    assert!(told != token && next != address && tokens.get(&next) == Some(&told), "{next}: {told}");
    let mut asked = head("GET", "db/", &[("x-byrnie-session", &told)]);
    let (mut exchange, effect) = exit.begin("web", &mut asked);
    assert_eq!(to(&plan(effect)), next);
    let effect = exchange.on_failure(&mut exit.shard, Failure::Connect, ms(0));
    let other = to(&plan(effect));
    let mut answer = response(200, &[]);
    exchange.on_response(&mut exit.shard, &mut answer, ms(0));
    assert!(other != next && answer.get("x-byrnie-session") == Some(tokens[&other].as_bytes()));
    // Where nobody asks, nothing is told.
    let (mut exchange, _) = exit.begin("web", &mut head("GET", "db/", &[]));
    exchange.on_response(&mut exit.shard, &mut answer, ms(0));
    assert_eq!(answer.get("x-byrnie-session"), None);
}
