// SPDX-License-Identifier: Apache-2.0
//! After any sequence of changes, joins and asks, what a node was told piece by piece equals its view
//! computed from scratch, by the catalog and without it.

use super::attach::secret;
use super::naive::World;
use super::*;
use crate::NodeId;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::collections::{BTreeMap, BTreeSet};

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];
const WORKLOADS: [&str; 4] = ["w1", "w2", "w3", "w4"];
const APPS: [&str; 3] = ["", "x", "y"];
const ACCOUNTS: [&str; 3] = ["p", "q", "r"];

#[derive(Clone, Debug)]
enum Step {
    Apply(Change),
    Ask(usize),
    Join(usize),
    Leave(usize),
}

fn nodes() -> Vec<(NodeId, NodeSpec)> {
    let mut nodes: Vec<(NodeId, NodeSpec)> = WORKLOADS.iter().map(|w| (format!("ns/{w}").into(), sidecar(w))).collect();
    // One names whom it calls in each request.
    nodes[0].1.forwards = true;
    nodes.push(("byrnie/edge".into(), NodeSpec::gateway("byrnie", "edge")));
    // A second sidecar of one workload, as while it restarts.
    nodes.push(("ns/w1-old".into(), sidecar("w1")));
    nodes.push(("byrnie/out".into(), NodeSpec::sidecar("byrnie", "out")));
    nodes
}

fn some(names: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(names.to_vec(), 0..=2)
}

fn unhealthy(change: Change, to: u8) -> Change {
    let Change::Put(resource) = &change else { return change };
    let mut resource = (**resource).clone();
    if let Spec::Workload(workload) = &mut resource.spec {
        match to {
            0 => workload.inbound = None,
            1 => workload.health = Health::Unhealthy,
            2 => workload.ports.clear(),
            _ => {}
        }
    }
    Change::Put(Arc::new(resource))
}

fn change() -> impl Strategy<Value = Change> {
    let source = prop_oneof![
        select(&ACCOUNTS[..]).prop_map(|n| Source::ServiceAccount { namespace: "ns".into(), name: n.into() }),
        Just(Source::Namespace("ns".into())),
        Just(Source::Namespace("other".into())),
        select(&ACCOUNTS[..]).prop_map(|n| Source::Identity(Identity::new("mesh.local", "ns", n).unwrap())),
    ];
    let policy = (select(vec!["p1", "p2"]), any::<bool>(), some(&SERVICES), proptest::collection::vec(source, 0..3));
    let policy = (policy, 0u8..6).prop_map(|((name, deny, targets, sources), shape)| {
        let action = if deny { Action::Deny } else { Action::Allow };
        let Change::Put(resource) = access(name, action, &targets, sources) else { unreachable!() };
        let mut resource = (*resource).clone();
        if let Spec::Access(policy) = &mut resource.spec {
            let policy = Arc::make_mut(policy);
            match shape {
                0 => policy.mode = Mode::Shadow,
                1 => policy.rules.clear(),
                _ => {}
            }
        }
        Change::Put(Arc::new(resource))
    });
    let gone = prop_oneof![
        select(&SERVICES[..]).prop_map(|n| delete(Kind::Service, n)),
        select(&WORKLOADS[..]).prop_map(|n| delete(Kind::Workload, n)),
        select(vec!["r1", "r2"]).prop_map(|n| delete(Kind::HttpRoute, n)),
        select(vec!["p1", "p2"]).prop_map(|n| delete(Kind::AccessPolicy, n)),
        select(vec!["t1", "t2"]).prop_map(|n| delete(Kind::TrafficPolicy, n)),
    ];
    prop_oneof![
        3 => (select(&SERVICES[..]), select(&APPS[..])).prop_map(|(n, app)| service(n, app)),
        3 => (select(&WORKLOADS[..]), select(&APPS[..]), select(&ACCOUNTS[..]), some(&SERVICES), 0u8..8)
            .prop_map(|(n, app, account, uses, to)| unhealthy(workload(n, app, account, &uses), to)),
        3 => (select(vec!["r1", "r2"]), some(&SERVICES), some(&SERVICES)).prop_map(|(n, p, b)| route(n, &p, &b)),
        2 => policy,
        1 => (select(vec!["t1", "t2"]), select(&SERVICES[..])).prop_map(|(n, target)| traffic(n, target)),
        1 => (select(vec!["t1", "t2"]), select(&SERVICES[..])).prop_map(|(n, target)| keyed(n, target)),
        1 => (select(vec!["t1", "t2"]), select(&SERVICES[..])).prop_map(|(n, target)| checked(n, target)),
        3 => gone,
        2 => outward(),
        2 => sites(),
    ]
}

/// What concerns other meshes: sites with what they serve, and what is exported.
fn sites() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (select(vec!["east", "north"]), some(&SERVICES), 1u8..3).prop_map(|(name, serves, gateways)| site(name, &serves, gateways)),
        1 => select(vec!["east", "north"]).prop_map(no_site),
        2 => select(&SERVICES[..]).prop_map(export),
        1 => select(&SERVICES[..]).prop_map(|name| delete(Kind::ServiceExport, name)),
    ]
}

/// What concerns hosts outside: services, the workload by which calls leave, policies and authorities.
fn outward() -> impl Strategy<Value = Change> {
    let at_exit = |kind, key: &str| Change::Delete { key: Key::new(kind, "byrnie", key), revision: Revision(2) };
    prop_oneof![
        select(&SERVICES[..]).prop_map(outside),
        (0u8..3).prop_map(|to| unhealthy(exit(), to)),
        (0u8..1).prop_map(move |_| at_exit(Kind::Workload, "out")),
        (select(vec!["b1", "b2"]), select(&SERVICES[..]), select(vec!["", "c1", "c2"]))
            .prop_map(|(name, target, bundle)| backend_tls(name, target, bundle)),
        (select(vec!["b1", "b2"]), select(&SERVICES[..]), select(vec!["k1", "k2"]))
            .prop_map(|(name, target, shown)| showing(shown, backend_tls(name, target, ""))),
        select(vec!["c1", "c2"]).prop_map(bundle),
        select(vec!["k1", "k2"]).prop_map(|name| secret("ns", name)),
        select(vec!["k1", "k2"]).prop_map(|name| delete(Kind::Secret, name)),
        (select(vec!["s1", "s2"]), select(&SERVICES[..])).prop_map(|(name, of)| slice(name, of)),
        select(vec!["s1", "s2"]).prop_map(|name| delete(Kind::EndpointSlice, name)),
        select(&SERVICES[..]).prop_map(|name| service(name, "")),
        select(vec!["b1", "b2"]).prop_map(|name| delete(Kind::BackendTlsPolicy, name)),
        select(vec!["c1", "c2"]).prop_map(|name| delete(Kind::ConfigMap, name)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => change().prop_map(Step::Apply),
        2 => (0usize..7).prop_map(Step::Ask),
        1 => (0usize..7).prop_map(Step::Join),
        1 => (0usize..7).prop_map(Step::Leave),
    ]
}

/// What one node holds, as its client keeps it.
#[derive(Default)]
struct Held(BTreeMap<Key, Arc<Resource>>);

impl Held {
    /// Takes a difference in, checking on the way that nothing is named before it's there.
    fn take(&mut self, delta: &Delta) {
        for resource in &delta.changed {
            if let Spec::Endpoint(endpoint) = &resource.spec {
                let parent = Key::new(Kind::Service, endpoint.service.namespace.clone(), endpoint.service.name.clone());
                assert!(self.0.contains_key(&parent), "{} before its service", resource.key);
            }
            self.0.insert(resource.key.clone(), Arc::clone(resource));
        }
        for key in &delta.removed {
            assert!(self.0.remove(key).is_some(), "{key} removed, but never sent");
        }
    }

    fn specs(&self) -> BTreeMap<Key, Spec> {
        self.0.iter().map(|(key, resource)| (key.clone(), resource.spec.clone())).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn piece_by_piece_equals_from_scratch(steps in proptest::collection::vec(step(), 1..60)) {
        let nodes = nodes();
        let mut catalog = Catalog::new();
        let mut stored: BTreeMap<Key, Arc<Resource>> = BTreeMap::new();
        let mut held: BTreeMap<NodeId, Held> = BTreeMap::new();
        let mut pending: BTreeSet<NodeId> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Apply(change) => {
                    match &change {
                        Change::Put(resource) => stored.insert(resource.key.clone(), Arc::clone(resource)),
                        Change::Delete { key, .. } => stored.remove(key),
                    };
                    pending.extend(catalog.apply(&change).nodes);
                }
                Step::Ask(i) => {
                    if let Some(held) = held.get_mut(&nodes[i].0) {
                        held.take(&catalog.delta(&nodes[i].0));
                        pending.remove(&nodes[i].0);
                    }
                }
                Step::Join(i) => {
                    catalog.join(nodes[i].0.clone(), nodes[i].1.clone());
                    held.insert(nodes[i].0.clone(), Held::default());
                    pending.insert(nodes[i].0.clone());
                }
                Step::Leave(i) => {
                    catalog.leave(&nodes[i].0);
                    held.remove(&nodes[i].0);
                }
            }
        }
        for (id, spec) in &nodes {
            let scratch = World(&stored).view(spec);
            let whole: BTreeMap<Key, Spec> = catalog.view(spec).resources.iter().map(|r| (r.key.clone(), r.spec.clone())).collect();
            prop_assert_eq!(&whole, &scratch, "view of {}", id);
            if let Some(held) = held.get_mut(id) {
                let delta = catalog.delta(id);
                prop_assert!(pending.contains(id) || delta.is_empty(), "{} changed but was not said to be affected", id);
                held.take(&delta);
                prop_assert_eq!(&held.specs(), &scratch, "what {} was told", id);
                prop_assert!(catalog.delta(id).is_empty());
            }
        }
    }
}
