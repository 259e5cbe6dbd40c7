// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices: what is kept of them, and what is refused.

use super::{Defaults, check_bad, good, parse};
use crate::service::{Health, Locality};
use crate::{Service, Slice, Spec};

fn slice(rest: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: db-1\n  \
         labels: {{kubernetes.io/service-name: db, topology.kubernetes.io/region: eu}}\n{rest}\n"
    )
}

fn read(rest: &str) -> Slice {
    match good(&slice(rest)).remove(0).spec {
        Spec::Slice(slice) => (*slice).clone(),
        other => panic!("{other:?}"),
    }
}

fn warnings(text: &str) -> Vec<String> {
    parse("x", text, &Defaults::default()).diagnostics.iter().map(|found| found.path.clone()).collect()
}

#[test]
fn slices_are_read_as_a_cluster_keeps_them() {
    // As `kubectl get -o yaml` shows one.
    let text = slice(
        "addressType: IPv4
ports:
- {name: sql, port: 5432, protocol: TCP, appProtocol: postgresql}
endpoints:
- addresses: [192.0.2.1]
  conditions: {ready: true, serving: true, terminating: false}
  nodeName: node-1
  targetRef: {kind: Pod, namespace: shop, name: db-0, uid: abc}
  zone: a
  hints: {forZones: [{name: b}]}
- {addresses: [192.0.2.2], conditions: {ready: false}}
- {addresses: [192.0.2.3], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [192.0.2.4], conditions: {ready: false, serving: false, terminating: true}}
- {addresses: [192.0.2.5], conditions: {}}",
    );
    assert_eq!(warnings(&text), Vec::<String>::new());
    let Spec::Slice(read) = good(&text).remove(0).spec else { panic!() };
    assert_eq!((&*read.service, read.port("sql"), read.port("web")), ("db", Some(5432), None));
    let health: Vec<Health> = read.endpoints.iter().map(|address| address.health).collect();
    assert_eq!(health, [Health::Healthy, Health::Unhealthy, Health::Draining, Health::Unhealthy, Health::Healthy]);
    assert_eq!(read.endpoints[0].locality, Locality { region: "eu".into(), zone: "a".into() });
    assert_eq!(read.endpoints[0].zones, ["b"]);
    let six = self::read("addressType: IPv6\nendpoints: [{addresses: ['2001:db8::1']}]\nports: [{port: 80}]");
    assert_eq!((six.endpoints[0].ip.to_string(), six.port("")), ("2001:db8::1".to_owned(), Some(80)));
    assert!(self::read("addressType: IPv4\nendpoints: null").endpoints.is_empty());
}

#[test]
fn what_has_no_meaning_here_is_said() {
    let text = slice(
        "addressType: IPv4\nendpoints: [{addresses: [192.0.2.1], hostname: one, hints: {forNodes: [{name: n}]}}]",
    );
    assert_eq!(warnings(&text), ["endpoints[0].hints.forNodes", "endpoints[0].hostname"]);
}

#[test]
fn slices_that_say_nothing_or_what_cannot_be() {
    let one = |address: &str| format!("addressType: IPv4\nendpoints: [{{addresses: [{address}]}}]");
    let of = |ports: &str| format!("addressType: IPv4\nports: [{ports}]");
    for (rest, code, place) in [
        ("endpoints: []".to_owned(), "C005", "apiVersion"),
        ("addressType: FQDN".to_owned(), "C010", "FQDN"),
        ("addressType: ipv4".to_owned(), "C011", "ipv4"),
        ("addressType: IPv4\nspec: {}".to_owned(), "C002", "spec"),
        ("addressType: IPv6\nendpoints: [{addresses: [192.0.2.1]}]".to_owned(), "C011", "192.0.2.1"),
        (one("192.0.2.1, 192.0.2.2"), "C011", "addresses"),
        (one(""), "C011", "addresses"),
        (one("one.test"), "C011", "one.test"),
        (one("0.0.0.0"), "C011", "0.0.0.0"),
        (one("224.0.0.1"), "C011", "224.0.0.1"),
        (one("169.254.169.254"), "C011", "169.254.169.254"),
        ("addressType: IPv6\nendpoints: [{addresses: ['fe80::1']}]".to_owned(), "C011", "'fe80::1'"),
        ("addressType: IPv6\nendpoints: [{addresses: ['::ffff:127.0.0.1']}]".to_owned(), "C011", "'::ffff:127.0.0.1'"),
        ("addressType: IPv4\nendpoints: [{addresses: [192.0.2.1], zone: 'a b'}]".to_owned(), "C011", "'a b'"),
        ("addressType: IPv4\nendpoints: [{addresses: [192.0.2.1], zones: a}]".to_owned(), "C002", "zones"),
        (of("{name: a}"), "C005", "{"),
        (of("{port: 0}"), "C011", "0"),
        (of("{name: A, port: 1}"), "C008", "A"),
        (of("{port: 53, protocol: UDP}"), "C010", "UDP"),
        (of("{name: a, port: 1}, {name: a, port: 2}"), "C028", "a"),
    ] {
        check_bad(&slice(&rest), code, place);
    }
    let nobody = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: db-1}\naddressType: IPv4\n";
    check_bad(nobody, "C005", "metadata");
    let many = (0..=1000).map(|n| format!("{{addresses: [10.0.{}.{}]}}", n / 250, 1 + n % 250)).collect::<Vec<_>>();
    let text = slice(&format!("addressType: IPv4\nendpoints: [{}]", many.join(",")));
    assert!(parse("x", &text, &Defaults::default()).has_errors());
    good(&slice(&format!("addressType: IPv4\nendpoints: [{}]", many[1..].join(","))));
}

#[test]
fn addresses_that_are_not_ready_count_only_where_slices_say_what_serves() {
    let service = |spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: db}}\nspec: {{{spec}, ports: [{{port: 80}}]}}\n")
    };
    let Spec::Service(Service { publish_not_ready, .. }) =
        good(&service("publishNotReadyAddresses: true")).remove(0).spec
    else {
        panic!()
    };
    assert!(publish_not_ready);
    good(&service("publishNotReadyAddresses: false, selector: {app: db}"));
    check_bad(&service("publishNotReadyAddresses: true, selector: {app: db}"), "C010", "true");
    check_bad(&service("publishNotReadyAddresses: true, type: ExternalName, externalName: a.test"), "C010", "true");
}
