// SPDX-License-Identifier: Apache-2.0
//! How much is looked at: in proportion to the nodes affected, whatever is stored.

use super::*;
use crate::NodeId;

const SERVICES: usize = 5000;
/// Nodes that use service 7.
const USERS: usize = 20;

/// Five thousand services with a workload each; every workload uses the next service, and some use the
/// seventh.
fn large() -> Catalog {
    let mut catalog = Catalog::new();
    for i in 0..SERVICES {
        let (name, next) = (format!("s{i}"), format!("s{}", (i + 1) % SERVICES));
        catalog.apply(&service(&name, &name));
        catalog.apply(&allow(&name, &[&name], &[&format!("s{}", (i + SERVICES - 1) % SERVICES)]));
        let uses: &[&str] = if (100..100 + USERS).contains(&i) { &[&next, "s7"] } else { &[&next] };
        catalog.apply(&workload(&name, &name, &name, uses));
        catalog.apply(&route(&name, &[&name], &[&name]));
    }
    for i in 0..SERVICES {
        let id: NodeId = format!("ns/s{i}").into();
        catalog.join(id.clone(), sidecar(&format!("s{i}")));
        catalog.delta(&id);
    }
    catalog.join("byrnie/edge".into(), NodeSpec::gateway("byrnie", "edge"));
    catalog.delta(&"byrnie/edge".into());
    catalog
}

#[test]
fn the_work_of_a_change_is_that_of_the_nodes_it_concerns() {
    let mut catalog = large();
    let moved = {
        let Change::Put(resource) = workload("s7", "s7", "s7", &["s8"]) else { unreachable!() };
        let mut resource = (*resource).clone();
        let Spec::Workload(workload) = &mut resource.spec else { unreachable!() };
        workload.inbound = Some(([127, 0, 0, 2], 9999).into());
        Change::Put(Arc::new(resource))
    };
    // Its own node, the one before it, its users, the edge.
    let affected = 1 + 1 + USERS + 1;
    for (name, change, nodes, told_to_each, visits) in [
        ("an endpoint", moved, affected, 1, 10),
        ("a service", service("s7", "s8"), affected, 4, 10),
        ("a route", route("s7", &["s7"], &["s8"]), affected - 1, 3, 12),
        ("a policy", allow("s7", &["s7"], &["s6", "s200"]), 2, 5, 12),
        ("nothing", allow("s7", &["s7"], &["s6", "s200"]), 0, 0, 0),
    ] {
        let before = catalog.visited();
        let who = catalog.apply(&change).nodes;
        assert!(who.len() <= nodes + 1, "{name}: {} nodes", who.len());
        for id in &who {
            let delta = catalog.delta(id);
            assert!(delta.changed.len() + delta.removed.len() <= told_to_each, "{name}, {id}: {:?}", told(&delta));
        }
        let visited = usize::try_from(catalog.visited() - before).unwrap();
        assert!(visited <= visits * who.len(), "{name}: {visited} visited for {} nodes", who.len());
        for i in 0..SERVICES {
            let id = format!("ns/s{i}").into();
            assert!(who.contains(&id) || catalog.delta(&id).is_empty(), "{name}: {id} was told something");
        }
    }
}

/// A service that many may call and few do: half by what they say, half by a policy of their own, and one
/// sidecar of each hundred listens.
fn idle() -> (Catalog, usize) {
    let mut catalog = with(&[service("pay", "pay"), workload("pay", "pay", "pay", &[])]);
    for i in 0..SERVICES {
        let name = format!("w{i}");
        let uses: &[&str] = if i % 2 == 0 { &["pay"] } else { &[] };
        catalog.apply(&workload(&name, "", &name, uses));
        if i % 2 == 1 {
            catalog.apply(&allow(&format!("{name}-to-pay"), &["pay"], &[&name]));
        }
    }
    let listen: Vec<usize> = (0..SERVICES).filter(|i| i % 100 == 0 || i % 100 == 51).collect();
    for i in &listen {
        let id: NodeId = format!("ns/w{i}").into();
        catalog.join(id.clone(), sidecar(&format!("w{i}")));
        catalog.delta(&id);
    }
    (catalog, listen.len())
}

fn moved(port: u16) -> Change {
    let Change::Put(resource) = workload("pay", "pay", "pay", &[]) else { unreachable!() };
    let mut resource = (*resource).clone();
    let Spec::Workload(workload) = &mut resource.spec else { unreachable!() };
    workload.inbound = Some(([127, 0, 0, 2], port).into());
    Change::Put(Arc::new(resource))
}

#[test]
fn those_who_do_not_listen_cost_nothing() {
    let (mut catalog, listen) = idle();
    let cost = |catalog: &mut Catalog, port: u16| {
        let before = catalog.visited();
        let who = catalog.apply(&moved(port)).nodes;
        for id in &who {
            assert_eq!(told(&catalog.delta(id)), ["+Endpoint/ns/pay/pay"], "{id}");
        }
        (who.len(), usize::try_from(catalog.visited() - before).unwrap())
    };
    let (affected, visited) = cost(&mut catalog, 1);
    assert_eq!(affected, listen);
    assert!(visited <= 10 * affected, "{visited} visited for {affected} nodes");
    // Those who leave are forgotten, and those who come are found.
    for i in (0..SERVICES).step_by(200) {
        catalog.leave(&format!("ns/w{i}").into());
    }
    catalog.join("ns/w3".into(), sidecar("w3"));
    catalog.delta(&"ns/w3".into());
    let (affected, visited) = cost(&mut catalog, 2);
    assert_eq!(affected, listen - SERVICES / 200 + 1);
    assert!(visited <= 10 * affected, "{visited} visited for {affected} nodes");
}
