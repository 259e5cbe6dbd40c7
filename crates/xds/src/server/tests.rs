// SPDX-License-Identifier: Apache-2.0
//! Both halves of the protocol against each other, and the server's half against the hostile.

use super::*;
use crate::client::{Client, Refused, Update};
use crate::proto::envoy::config::core::v3 as core;
use byrnie_model::service::{Endpoint, PortPair, Service, ServicePort, TargetPort};
use byrnie_model::{Health, Identity, Protocol, Route, ServiceRef, Spec, route};
use proptest::prelude::*;

fn service(name: &str, revision: u64) -> Arc<Resource> {
    let port = ServicePort {
        name: "".into(),
        port: 80,
        target: TargetPort::Number(8080),
        protocol: Protocol::Http1,
        prefixed: false,
    };
    let spec = Spec::Service(Service {
        ports: vec![port],
        selector: [("app".into(), name.into())].into(),
        outside: None,
        publish_not_ready: false,
        pool: None,
    });
    resource(Kind::Service, name, revision, spec)
}

fn route(name: &str, to: &str, revision: u64) -> Arc<Resource> {
    let spec = Route {
        parents: vec![route::Parent::service(ServiceRef::new("default", to), None)],
        hostnames: vec![],
        rules: vec![],
    };
    resource(Kind::HttpRoute, name, revision, Spec::Route(Arc::new(spec)))
}

fn endpoint(service: &str, workload: &str, revision: u64) -> Arc<Resource> {
    let spec = Endpoint {
        service: ServiceRef::new("default", service),
        workload: workload.into(),
        way: None,
        identity: Identity::new("mesh.local", "default", service).unwrap(),
        address: "127.0.0.1:7781".parse().unwrap(),
        ports: vec![PortPair { service: 80, target: 8080 }],
        labels: [("app".into(), service.into())].into(),
        locality: Default::default(),
        weight: 1,
        health: Health::Healthy,
    };
    resource(Kind::Endpoint, &format!("{service}/{workload}"), revision, Spec::Endpoint(Box::new(spec)))
}

fn resource(kind: Kind, name: &str, revision: u64, spec: Spec) -> Arc<Resource> {
    let key = Key::new(kind, "default", name);
    Arc::new(Resource {
        key,
        revision: Revision(revision),
        created: Revision(0),
        labels: Default::default(),
        origin: None,
        spec,
    })
}

/// A stream between both halves, without a transport.
struct Pair {
    client: Client,
    session: Session,
    /// What the client has, by applying deltas.
    has: BTreeMap<Key, Arc<Resource>>,
    /// Kinds and removals in the order in which they came.
    log: Vec<String>,
    bytes: usize,
}

impl Pair {
    fn new() -> Self {
        Self {
            client: Client::new("default/web-1", "0"),
            session: Session::new(),
            has: BTreeMap::new(),
            log: vec![],
            bytes: 0,
        }
    }

    /// Connects anew: the hub offers the whole view once it's told who is there.
    fn connect(&mut self, view: &[Arc<Resource>], revision: u64) {
        self.session = Session::new();
        for request in self.client.connect() {
            if let Outcome::Hello(node) = self.session.on_request(&request).unwrap() {
                assert_eq!(&*node.id, "default/web-1");
                let delta = Delta { changed: view.to_vec(), removed: vec![] };
                self.session.offer(&delta, Revision(revision));
            }
            self.exchange(|_| vec![]);
        }
    }

    fn offer(&mut self, changed: &[Arc<Resource>], removed: &[Key], revision: u64) {
        let delta = Delta { changed: changed.to_vec(), removed: removed.to_vec() };
        self.session.offer(&delta, Revision(revision));
    }

    /// Exchanges messages until nothing is left to say. `judge` says what the client refuses.
    fn exchange(&mut self, judge: impl Fn(&Delta) -> Vec<Refused>) {
        loop {
            let responses = self.session.flush(|resource| crate::wire::encode(resource));
            if responses.is_empty() {
                return;
            }
            for response in responses {
                self.bytes += response.len();
                let update = self.client.on_response(&response).unwrap();
                assert!(update.unreadable.is_empty(), "{update:?}");
                let refusals = judge(&update.delta);
                let answer = if refusals.is_empty() {
                    self.apply(&update.delta);
                    self.client.accept(&update)
                } else {
                    self.client.refuse(&update, &refusals)
                };
                self.session.on_request(&answer).unwrap();
            }
        }
    }

    fn apply(&mut self, delta: &Delta) {
        for resource in &delta.changed {
            self.log.push(format!("+{}", resource.key));
            self.has.insert(resource.key.clone(), Arc::clone(resource));
        }
        for key in &delta.removed {
            self.log.push(format!("-{key}"));
            self.has.remove(key);
        }
    }

    fn drain_log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }
}

#[test]
fn a_first_stream_brings_everything_in_order_and_says_that_it_did() {
    let mut pair = Pair::new();
    pair.connect(&[route("r", "a", 3), endpoint("a", "a-1", 2), service("a", 1)], 3);
    assert_eq!(pair.drain_log(), "+Service/default/a +Endpoint/default/a/a-1 +HTTPRoute/default/r");
    assert!(pair.client.is_complete());
    assert_eq!(pair.client.revision(), Revision(3));
    assert_eq!(pair.session.state(), State { revision: Revision(3), in_sync: true, held: 3, refused: 0 });
}

#[test]
fn an_empty_view_is_complete_too() {
    let mut pair = Pair::new();
    pair.connect(&[], 0);
    assert!(pair.client.is_complete() && pair.session.state().in_sync);
}

#[test]
fn a_second_stream_brings_only_what_differs() {
    let mut pair = Pair::new();
    pair.connect(&[service("a", 1), service("b", 2), service("c", 3)], 3);
    pair.drain_log();
    pair.connect(&[service("a", 1), service("b", 2), service("c", 3)], 3);
    assert_eq!(pair.drain_log(), "");
    pair.connect(&[service("a", 1), service("b", 5)], 5);
    assert_eq!(pair.drain_log(), "+Service/default/b -Service/default/c");
    assert_eq!(pair.client.held().len(), 2);
}

#[test]
fn a_restarted_client_goes_on_from_what_it_kept() {
    let mut pair = Pair::new();
    pair.client.resume(&[service("a", 1), service("gone", 1)]);
    pair.connect(&[service("a", 1)], 4);
    assert_eq!(pair.drain_log(), "-Service/default/gone");
}

#[test]
fn what_names_goes_after_what_is_named_and_leaves_before_it() {
    let mut pair = Pair::new();
    pair.connect(&[], 0);
    pair.offer(&[route("r", "a", 1), service("a", 1), endpoint("a", "a-1", 1)], &[], 1);
    pair.exchange(|_| vec![]);
    pair.drain_log();
    let gone = [service("a", 1), endpoint("a", "a-1", 1), route("r", "a", 1)].map(|r| r.key.clone());
    pair.offer(&[service("b", 2)], &gone, 2);
    pair.exchange(|_| vec![]);
    let expected = "+Service/default/b -HTTPRoute/default/r -Endpoint/default/a/a-1 -Service/default/a";
    assert_eq!(pair.drain_log(), expected);
}

#[test]
fn a_stream_that_is_not_read_merges_by_resource() {
    let mut pair = Pair::new();
    pair.connect(&[service("a", 1)], 1);
    pair.offer(&[service("a", 2)], &[], 2);
    let on_its_way = pair.session.flush(|resource| crate::wire::encode(resource));
    assert_eq!(on_its_way.len(), 1);
    for revision in 3..1_000 {
        pair.offer(&[service("a", revision)], &[], revision);
        assert!(pair.session.flush(|_| panic!("nothing may be encoded meanwhile")).is_empty());
    }
    pair.offer(&[service("b", 1_000)], &[], 1_000);
    pair.offer(&[], &[service("b", 1_000).key.clone()], 1_001);
    let update = pair.client.on_response(&on_its_way[0]).unwrap();
    let answer = pair.client.accept(&update);
    pair.session.on_request(&answer).unwrap();
    pair.drain_log();
    pair.exchange(|_| vec![]);
    assert_eq!(pair.drain_log(), "+Service/default/a");
    assert_eq!(pair.client.held()[&service("a", 0).key], Revision(999));
}

#[test]
fn what_is_removed_while_on_its_way_is_removed_afterwards() {
    let mut pair = Pair::new();
    pair.connect(&[], 0);
    pair.offer(&[service("a", 1)], &[], 1);
    let sent = pair.session.flush(|resource| crate::wire::encode(resource));
    pair.offer(&[], &[service("a", 1).key.clone()], 2);
    let update = pair.client.on_response(&sent[0]).unwrap();
    let answer = pair.client.accept(&update);
    pair.session.on_request(&answer).unwrap();
    pair.exchange(|_| vec![]);
    assert!(pair.client.held().is_empty() && pair.session.state().held == 0);
}

#[test]
fn a_refused_resource_holds_up_no_other_and_is_not_sent_again_until_it_changes() {
    let bad = |delta: &Delta| {
        let bad = delta.changed.iter().filter(|resource| *resource.key.name == *"bad" && resource.revision.0 < 9);
        bad.map(|resource| Refused { name: name::of(&resource.key).into(), reason: "no good".into() }).collect()
    };
    let mut pair = Pair::new();
    pair.connect(&[], 0);
    pair.offer(&[service("a", 1), service("bad", 1), service("c", 1)], &[], 1);
    pair.exchange(bad);
    assert_eq!(pair.drain_log(), "+Service/default/a +Service/default/c");
    let nacks: Vec<_> = pair.session.nacks().cloned().collect();
    assert_eq!(nacks, [Nack { key: service("bad", 1).key.clone(), revision: Revision(1), reason: "no good".into() }]);
    pair.offer(&[service("bad", 1)], &[], 2);
    pair.exchange(|_| panic!("nothing new to say"));
    pair.offer(&[service("bad", 9)], &[], 9);
    pair.exchange(bad);
    assert_eq!(pair.drain_log(), "+Service/default/bad");
    assert_eq!(pair.session.state(), State { revision: Revision(9), in_sync: true, held: 3, refused: 0 });
}

#[test]
fn a_client_that_refuses_everything_without_a_name_is_left_in_peace() {
    let mut pair = Pair::new();
    pair.connect(&[], 0);
    pair.offer(&[service("a", 1), service("b", 1)], &[], 1);
    pair.exchange(|_| vec![Refused { name: "?".into(), reason: "never".into() }]);
    assert_eq!(pair.session.state().refused, 2);
    assert!(pair.session.flush(|_| panic!("nothing")).is_empty());
}

#[test]
fn a_large_view_comes_in_responses_that_a_client_takes() {
    let mut pair = Pair::new();
    let view: Vec<_> = (0..20_000).map(|n| endpoint("a", &format!("a-{n}"), 1)).collect();
    pair.session = Session::new();
    for request in pair.client.connect() {
        if let Outcome::Hello(_) = pair.session.on_request(&request).unwrap() {
            pair.session.offer(&Delta { changed: view.clone(), removed: vec![] }, Revision(1));
        }
    }
    let first = pair.session.flush(|resource| crate::wire::encode(resource));
    let longest = first.iter().map(Bytes::len).max().unwrap();
    let all: usize = first.iter().map(Bytes::len).sum();
    assert!(longest < 2 * RESPONSE_BYTES_MAX && all < 2 * UNANSWERED_BYTES_MAX, "{longest} {all}");
    assert!(!pair.client.is_complete());
    for response in first {
        let update = pair.client.on_response(&response).unwrap();
        pair.apply(&update.delta);
        let answer = pair.client.accept(&update);
        pair.session.on_request(&answer).unwrap();
    }
    pair.exchange(|_| vec![]);
    assert!(pair.client.is_complete());
    assert_eq!(pair.has.len(), 20_000);
}

/// What a client answers that takes all it can read.
fn answer(client: &mut Client, update: &Update) -> Bytes {
    if update.unreadable.is_empty() { client.accept(update) } else { client.refuse(update, &update.unreadable) }
}

/// A control plane that is newer may send what an older proxy can't read, alone of its kind at that.
#[test]
fn what_cannot_be_read_holds_up_nothing_else_on_any_stream() {
    let mut client = Client::new("default/web-1", "0");
    let view = [service("a", 1), route("r", "a", 1)];
    let garble = |resource: &Arc<Resource>| match resource.key.kind {
        Kind::HttpRoute => Bytes::from_static(b"\xff\xff"),
        _ => crate::wire::encode(resource),
    };
    for stream in 1..4 {
        let mut session = Session::new();
        for request in client.connect() {
            if let Outcome::Hello(_) = session.on_request(&request).unwrap() {
                session.offer(&Delta { changed: view.to_vec(), removed: vec![] }, Revision(stream * 10));
            }
        }
        let mut reached = None;
        let mut follow = |session: &mut Session, client: &mut Client| {
            loop {
                let responses = session.flush(garble);
                if responses.is_empty() {
                    return;
                }
                for response in responses {
                    let update = client.on_response(&response).unwrap();
                    session.on_request(&answer(client, &update)).unwrap();
                    reached = update.revision.or(reached);
                }
            }
        };
        follow(&mut session, &mut client);
        assert_eq!(client.held().len(), 1, "all but the route");
        // An endpoint comes later: it's to be in force.
        let later = Delta { changed: vec![endpoint("a", &format!("a-{stream}"), stream * 10 + 1)], removed: vec![] };
        session.offer(&later, Revision(stream * 10 + 1));
        follow(&mut session, &mut client);
        assert!(client.is_complete());
        assert_eq!((reached, client.revision()), (Some(Revision(stream * 10 + 1)), Revision(stream * 10 + 1)));
        assert_eq!(session.nacks().count(), 1);
    }
}

#[test]
fn one_bad_resource_refuses_its_response_with_a_reason() {
    let mut session = Session::new();
    let mut client = Client::new("default/web-1", "0");
    for request in client.connect() {
        if let Outcome::Hello(_) = session.on_request(&request).unwrap() {
            session.offer(&Delta { changed: vec![service("a", 1), service("b", 1)], removed: vec![] }, Revision(1));
        }
    }
    let mut nacks = vec![];
    loop {
        let garble = |resource: &Arc<Resource>| match &*resource.key.name {
            "a" => Bytes::from_static(b"\xff\xff"),
            _ => crate::wire::encode(resource),
        };
        let responses = session.flush(garble);
        if responses.is_empty() {
            break;
        }
        for response in responses {
            let update = client.on_response(&response).unwrap();
            nacks.extend(update.unreadable.clone());
            session.on_request(&answer(&mut client, &update)).unwrap();
        }
    }
    assert_eq!(nacks, [Refused { name: "default/a".into(), reason: "service is malformed".into() }]);
    assert_eq!(session.nacks().count(), 1);
    assert_eq!(client.held().keys().map(|key| key.name.to_string()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn requests_that_make_no_sense_end_the_stream() {
    let node = || Some(core::Node { id: "default/web-1".into(), ..Default::default() });
    let url = name::type_url(Kind::Service).unwrap().to_owned();
    let good = discovery::DeltaDiscoveryRequest { node: node(), type_url: url, ..Default::default() };
    let check = |change: &dyn Fn(&mut discovery::DeltaDiscoveryRequest), expected: Error| {
        let mut request = good.clone();
        change(&mut request);
        assert_eq!(Session::new().on_request(&request.encode_to_vec()), Err(expected));
    };
    check(&|request| request.node = None, Error::NoNode);
    check(&|request| request.node = Some(core::Node::default()), Error::NoNode);
    check(&|request| request.node = Some(core::Node { id: "a b".into(), ..Default::default() }), Error::NoNode);
    check(&|request| request.resource_names_subscribe = vec!["default/a".into()], Error::NotWhole);
    check(&|request| request.resource_names_unsubscribe = vec!["*".into()], Error::NotWhole);
    check(&|request| drop(request.initial_resource_versions.insert("..".into(), "1".into())), Error::Undecodable);
    assert_eq!(Session::new().on_request(b"\xff"), Err(Error::Undecodable));
    assert_eq!(Session::new().on_request(&vec![0; REQUEST_BYTES_MAX + 1]), Err(Error::TooLong));
    let many = (0..=HELD_MAX).map(|n| (format!("n/{n}"), "1".to_owned())).collect();
    let request = discovery::DeltaDiscoveryRequest { initial_resource_versions: many, ..good };
    assert_eq!(Session::new().on_request(&request.encode_to_vec()), Err(Error::TooMany));
}

/// A control plane of an earlier version doesn't know `UdpRoute`, say.
#[test]
fn a_newer_proxy_has_everything_of_what_an_older_control_plane_knows() {
    let (known, strange) = (name::type_url(Kind::UdpRoute).unwrap(), "type.googleapis.com/byrnie.v1.Future");
    let route = |request: &Bytes| {
        let mut request = discovery::DeltaDiscoveryRequest::decode(&**request).unwrap();
        if request.type_url == known {
            request.type_url = strange.to_owned();
        }
        request.encode_to_vec()
    };
    // The unknown kind is asked for first, and last; the hub has something to say, or nothing; all requests come at once, or each by itself.
    for case in 0..8 {
        let (mut client, mut session) = (Client::new("default/web-1", "0"), Session::new());
        let view = if case & 1 == 0 { vec![] } else { vec![service("a", 3)] };
        let mut requests = client.connect();
        if case & 2 != 0 {
            let last = requests.pop().unwrap();
            requests.insert(1, last);
        }
        let mut exchange = |session: &mut Session| {
            loop {
                let responses = session.flush(|resource| crate::wire::encode(resource));
                if responses.is_empty() {
                    return;
                }
                for response in responses {
                    let mut response = discovery::DeltaDiscoveryResponse::decode(&*response).unwrap();
                    if response.type_url == strange {
                        response.type_url = known.to_owned();
                    }
                    let update = client.on_response(&response.encode_to_vec()).unwrap();
                    session.on_request(&route(&client.accept(&update))).unwrap();
                }
            }
        };
        for (n, request) in requests.iter().enumerate() {
            session.on_request(&route(request)).unwrap();
            if n == 0 {
                session.offer(&Delta { changed: view.clone(), removed: vec![] }, Revision(3));
            }
            if case & 4 != 0 {
                exchange(&mut session);
            }
        }
        exchange(&mut session);
        assert!(session.state().in_sync, "case {case}");
        session.offer(&Delta { changed: vec![service("b", 4)], removed: vec![] }, Revision(4));
        exchange(&mut session);
        assert_eq!(client.held().len(), view.len() + 1, "case {case}");
        assert!(client.is_complete() && client.revision() == Revision(4), "case {case}: {client:?}");
    }
}

#[test]
fn who_asks_for_no_end_of_unknown_types_is_shown_out() {
    let node = Some(core::Node { id: "default/web-1".into(), ..Default::default() });
    let ask = |n: usize| {
        let type_url = format!("x{n}");
        discovery::DeltaDiscoveryRequest { node: node.clone(), type_url, ..Default::default() }.encode_to_vec()
    };
    let mut session = Session::new();
    // The same one twice is one.
    for n in (0..STRANGE_MAX).chain([0]) {
        session.on_request(&ask(n)).unwrap();
    }
    assert_eq!(session.flush(|_| Bytes::new()).len(), STRANGE_MAX);
    assert!(session.flush(|_| Bytes::new()).is_empty(), "each is told once");
    let last: Text = format!("x{STRANGE_MAX}").into();
    assert_eq!(session.on_request(&ask(STRANGE_MAX)), Err(Error::UnknownType(last)));
}

#[test]
fn an_answer_to_nothing_is_passed_over() {
    let mut pair = Pair::new();
    pair.connect(&[service("a", 1)], 1);
    let url = name::type_url(Kind::Service).unwrap().to_owned();
    for nonce in ["", "1", "99", "x"] {
        let stale = discovery::DeltaDiscoveryRequest {
            type_url: url.clone(),
            response_nonce: nonce.into(),
            ..Default::default()
        };
        assert_eq!(pair.session.on_request(&stale.encode_to_vec()), Ok(Outcome::Stale));
    }
    assert!(pair.session.state().in_sync);
}

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, bool),
    Remove(u8),
    Exchange,
    Reconnect,
}

proptest! {
    #[test]
    fn requests_of_random_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Session::new().on_request(&bytes);
        let _ = Client::new("default/a", "0").on_response(&bytes);
    }

    /// However changes, exchanges and reconnects fall, in the end both sides agree.
    #[test]
    fn both_sides_agree_in_the_end(steps in proptest::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        let mut truth: BTreeMap<Key, Arc<Resource>> = BTreeMap::new();
        let mut revision = 1;
        pair.connect(&[], revision);
        for step in steps {
            revision += 1;
            match step {
                Step::Put(n, is_route) => {
                    let name = format!("n{n}");
                    let put = if is_route { route(&name, "n0", revision) } else { service(&name, revision) };
                    truth.insert(put.key.clone(), Arc::clone(&put));
                    pair.offer(&[put], &[], revision);
                }
                Step::Remove(n) => {
                    let key = service(&format!("n{n}"), 0).key.clone();
                    truth.remove(&key);
                    pair.offer(&[], &[key], revision);
                }
                Step::Exchange => pair.exchange(|_| vec![]),
                Step::Reconnect => {
                    let view: Vec<_> = truth.values().cloned().collect();
                    pair.connect(&view, revision);
                }
            }
        }
        pair.exchange(|_| vec![]);
        prop_assert_eq!(&pair.has, &truth);
        prop_assert!(pair.session.state().in_sync);
        let held: Vec<_> = pair.client.held().keys().cloned().collect();
        prop_assert_eq!(held, truth.keys().cloned().collect::<Vec<_>>());
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..6, any::<bool>()).prop_map(|(n, is_route)| Step::Put(n, is_route)),
        2 => (0_u8..6).prop_map(Step::Remove),
        2 => Just(Step::Exchange),
        1 => Just(Step::Reconnect),
    ]
}
