// SPDX-License-Identifier: Apache-2.0
//! The hub with real clients on its streams and no transport.

use super::*;
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::service::{Service, ServicePort, TargetPort};
use byrnie_model::workload::WorkloadPort;
use byrnie_model::{Health, Protocol, ServiceRef, Workload};
use byrnie_xds::client::Client;

fn identity(account: &str) -> Identity {
    Identity::new("mesh.local", "default", account).unwrap()
}

fn put(kind: Kind, name: &str, revision: u64, labels: &[(&str, &str)], spec: Spec) -> Change {
    let namespace = if kind.namespaced() { "default" } else { "" };
    let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let key = Key::new(kind, namespace, name);
    Change::Put(Arc::new(Resource {
        key,
        revision: Revision(revision),
        created: Revision(0),
        labels,
        origin: None,
        spec,
    }))
}

fn service(name: &str, revision: u64) -> Change {
    let (target, protocol) = (TargetPort::Number(8080), Protocol::Http1);
    let ports = vec![ServicePort { name: "".into(), port: 80, target, protocol, prefixed: false }];
    let spec = Service {
        ports,
        selector: [("app".into(), name.into())].into(),
        outside: None,
        publish_not_ready: false,
        pool: None,
    };
    put(Kind::Service, name, revision, &[], Spec::Service(spec))
}

fn workload(name: &str, app: &str, uses: &[&str], weight: u32, revision: u64) -> Change {
    let spec = Workload {
        identity: identity(app),
        address: "127.0.0.1".parse().unwrap(),
        ports: vec![WorkloadPort { name: "".into(), port: 8080, protocol: Protocol::Http1 }],
        inbound: Some("127.0.0.1:7781".parse().unwrap()),
        admin: Some("127.0.0.1:7779".parse().unwrap()),
        uses: uses.iter().map(|name| ServiceRef::new("default", *name)).collect(),
        locality: Default::default(),
        weight,
        health: Health::Healthy,
        check: None,
    };
    put(Kind::Workload, name, revision, &[("app", app)], Spec::Workload(Box::new(spec)))
}

fn mesh(revision: u64) -> Change {
    let spec = Mesh {
        trust_domain: "mesh.local".into(),
        default_access: DefaultAccess::Deny,
        otlp: None,
        limits: Box::default(),
    };
    put(Kind::Mesh, "mesh", revision, &[], Spec::Mesh(spec))
}

/// A hub, and a client on each stream that answers at once unless it's stalled.
struct Town {
    hub: Hub,
    clients: BTreeMap<SessionId, Client>,
    stalled: Vec<SessionId>,
    bytes: BTreeMap<SessionId, usize>,
    closed: Vec<(SessionId, Close)>,
}

impl Town {
    fn new() -> Self {
        Self {
            hub: Hub::new("mesh.local".into()),
            clients: BTreeMap::new(),
            stalled: vec![],
            bytes: BTreeMap::new(),
            closed: vec![],
        }
    }

    fn change(&mut self, changes: &[Change]) {
        let outs = self.hub.on_changes(changes);
        self.carry(outs);
    }

    fn connect(&mut self, identity: Identity, node: &str) -> SessionId {
        let id = self.hub.on_connect(identity).unwrap();
        self.clients.insert(id, Client::new(node, "0"));
        self.subscribe(id);
        id
    }

    fn subscribe(&mut self, id: SessionId) {
        let requests = self.clients.get_mut(&id).unwrap().connect();
        for request in requests {
            let outs = self.hub.on_request(id, &request);
            self.carry(outs);
        }
    }

    /// Brings messages to and fro until all is quiet.
    fn carry(&mut self, mut outs: Vec<(SessionId, Out)>) {
        while !outs.is_empty() {
            let mut next = vec![];
            for (id, out) in outs {
                match out {
                    Out::Close(close) => self.closed.push((id, close)),
                    Out::Send(bytes) => {
                        *self.bytes.entry(id).or_default() += bytes.len();
                        if !self.stalled.contains(&id) {
                            next.extend(self.answer(id, &bytes));
                        }
                    }
                }
            }
            outs = next;
        }
    }

    fn answer(&mut self, id: SessionId, bytes: &[u8]) -> Vec<(SessionId, Out)> {
        let client = self.clients.get_mut(&id).unwrap();
        let update = client.on_response(bytes).unwrap();
        let answer = client.accept(&update);
        self.hub.on_request(id, &answer)
    }

    fn held(&self, id: SessionId) -> String {
        self.clients[&id].held().keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn one_endpoint_of_5000_services_costs_those_who_use_it_little_and_others_nothing() {
    let mut town = Town::new();
    let mut changes = vec![mesh(1)];
    for n in 0..5_000 {
        changes.push(service(&format!("s{n}"), 2));
        let uses = if (1_000..1_100).contains(&n) && n % 2 == 0 { "s0".to_owned() } else { format!("s{}", n / 2) };
        changes.push(workload(&format!("s{n}-1"), &format!("s{n}"), &[&uses], 1, 3));
    }
    // Of those that are connected every second one uses s0; and there's the edge, which sees everything.
    town.change(&changes);
    let ids: Vec<(usize, SessionId)> =
        (1_000..1_100).map(|n| (n, town.connect(identity(&format!("s{n}")), &format!("default/s{n}-1")))).collect();
    let edge = town.connect(Identity::new("mesh.local", "byrnie", "edge").unwrap(), EDGE);
    assert!(town.closed.is_empty());
    assert!(town.clients.values().all(Client::is_complete));
    assert!(town.held(edge).contains("Service/default/s4999"));

    town.bytes.clear();
    let (visited, encoded) = (town.hub.catalog().visited(), town.hub.encoded());
    town.change(&[workload("s0-1", "s0", &["s0"], 2, 4)]);
    let affected = ids.iter().filter(|(n, _)| n % 2 == 0).count() + 1;
    let visited = town.hub.catalog().visited() - visited;
    assert_eq!(town.bytes.len(), affected, "streams that were sent anything");
    let most = town.bytes.values().max().copied().unwrap_or_default();
    assert!(most <= 2_000, "{most} bytes on one stream");
    assert!(visited <= 10 * affected as u64, "{visited} visited for {affected} affected");
    assert!(town.hub.encoded() - encoded <= 2, "the endpoint is encoded once, whoever is sent it");
    assert!(town.hub.proxies().iter().all(|proxy| proxy.in_sync && proxy.revision == Revision(4)));
}

#[test]
fn who_is_not_the_node_is_refused() {
    let mut town = Town::new();
    town.change(&[mesh(1), service("web", 2), workload("web-1", "web", &[], 1, 3)]);
    let check = |town: &mut Town, identity: Identity, node: &str, expected: fn(&Close) -> bool| {
        town.closed.clear();
        town.connect(identity, node);
        assert!(town.closed.first().is_some_and(|(_, close)| expected(close)), "{node}: {:?}", town.closed);
    };
    let not_yours = |close: &Close| matches!(close, Close::NotYours { .. });
    check(&mut town, identity("cart"), "default/web-1", not_yours);
    check(&mut town, identity("web"), EDGE, not_yours);
    check(&mut town, identity("edge"), EDGE, not_yours);
    check(&mut town, Identity::new("other", "byrnie", "edge").unwrap(), EDGE, not_yours);
    check(&mut town, Identity::new("other", "default", "web").unwrap(), "default/web-1", not_yours);
    check(&mut town, identity("web"), "default/web-2", |close| matches!(close, Close::Unknown(_)));
    check(&mut town, identity("web"), "nonsense", |close| matches!(close, Close::Unknown(_)));
    assert_eq!(town.hub.sessions(), 0);
    assert!(town.hub.owns("default/web-1", &identity("web")) && !town.hub.owns("default/web-1", &identity("cart")));
}

#[test]
fn a_node_that_connects_anew_replaces_its_older_stream_and_is_sent_nothing_twice() {
    let mut town = Town::new();
    town.change(&[mesh(1), service("web", 2), workload("web-1", "web", &[], 1, 3)]);
    let old = town.connect(identity("web"), "default/web-1");
    let client = town.clients.remove(&old).unwrap();
    let new = town.hub.on_connect(identity("web")).unwrap();
    town.clients.insert(new, client);
    let before = town.hub.encoded();
    town.subscribe(new);
    assert_eq!(town.closed, [(old, Close::Replaced)]);
    assert_eq!(town.hub.encoded(), before);
    assert_eq!(town.hub.proxies().len(), 1);
    town.hub.on_disconnect(old);
    assert_eq!(town.hub.proxies().len(), 1, "the older stream's end is not the newer's");
}

#[test]
fn a_stream_that_is_not_read_delays_no_other_and_catches_up() {
    let mut town = Town::new();
    town.change(&[
        mesh(1),
        service("web", 2),
        workload("web-1", "web", &[], 1, 3),
        workload("web-2", "web", &[], 1, 3),
    ]);
    let slow = town.connect(identity("web"), "default/web-1");
    let quick = town.connect(identity("web"), "default/web-2");
    town.stalled.push(slow);
    town.bytes.clear();
    for revision in 4..500 {
        town.change(&[service("web", revision), mesh(revision)]);
        town.change(&[Change::Put(Arc::new(match service("web", revision) {
            Change::Put(resource) => {
                let mut resource = (*resource).clone();
                resource.labels.insert("n".into(), revision.to_string().into());
                resource
            }
            Change::Delete { .. } => unreachable!(),
        }))]);
    }
    assert!(town.bytes[&slow] < 1_000, "{} bytes wait for the slow one", town.bytes[&slow]);
    assert!(town.bytes[&quick] > 50_000);
    let proxies = town.hub.proxies();
    assert_eq!(proxies.iter().map(|proxy| proxy.in_sync).collect::<Vec<_>>(), [false, true]);
    assert_eq!(proxies[1].inbound, Some("127.0.0.1:7781".parse().unwrap()));
}

#[test]
fn a_workload_that_is_away_for_a_moment_keeps_its_view() {
    let mut town = Town::new();
    town.change(&[mesh(1), service("web", 2), service("cart", 2), workload("web-1", "web", &["cart"], 1, 3)]);
    let id = town.connect(identity("web"), "default/web-1");
    let before = town.held(id);
    assert!(before.contains("Service/default/cart"), "{before}");
    let key = Key::new(Kind::Workload, "default", "web-1");
    town.change(&[Change::Delete { key, revision: Revision(4) }]);
    assert_eq!(town.held(id), before);
    town.change(&[workload("web-1", "web", &[], 1, 5)]);
    assert!(!town.held(id).contains("cart"), "{}", town.held(id));
    town.change(&[workload("web-1", "thief", &[], 1, 6)]);
    assert!(matches!(town.closed.as_slice(), [(closed, Close::NotYours { .. })] if *closed == id));
}

#[test]
fn garbage_ends_its_own_stream_only() {
    let mut town = Town::new();
    town.change(&[mesh(1), service("web", 2), workload("web-1", "web", &[], 1, 3)]);
    town.connect(identity("web"), "default/web-1");
    let bad = town.hub.on_connect(identity("web")).unwrap();
    let outs = town.hub.on_request(bad, b"\xff\xff\xff");
    assert!(matches!(outs.as_slice(), [(id, Out::Close(Close::Protocol(_)))] if *id == bad));
    assert!(town.hub.on_request(bad, b"").is_empty());
    assert_eq!(town.hub.proxies().len(), 1);
}
