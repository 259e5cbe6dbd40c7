// SPDX-License-Identifier: Apache-2.0
//! What gateways have callers prove: what is said of it, and what the edge is told.

use super::*;
use byrnie_model::gateway::Validation;
use byrnie_model::yaml::{Defaults, parse};
use serde_json::Value;

/// A gateway of `ns` that asks callers at its HTTPS listeners, port 443 and 8443, for a certificate, and takes sets.
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec:
  gatewayClassName: byrnie
  allowedListeners: {namespaces: {from: All}}
  tls:
    frontend:
      default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: partners}]}}
      perPort: [{port: 8443, tls: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: others, namespace: far}]}}}]
  listeners:
  - {name: main, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: own}]}}
  - {name: more, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: own}]}}
  - {name: clear, port: 80, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: added, namespace: far}
spec:
  parentRef: {name: gw, namespace: ns}
  listeners: [{name: late, port: 9443, protocol: HTTPS, tls: {certificateRefs: [{name: own}]}}]
";

const GRANT: &str = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: authorities, namespace: far}
spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: ns}], to: [{group: '', kind: ConfigMap}]}
";

fn authorities(namespace: &str, name: &str) -> Change {
    let spec = Spec::Bundle(Bundle { pem: "PEM".into() }.into());
    let Change::Put(any) = put(Kind::ConfigMap, name, Labels::new(), spec) else { panic!() };
    let key = Key::new(Kind::ConfigMap, namespace, name);
    Change::Put(Arc::new(Resource { key, ..(*any).clone() }))
}

fn apply(catalog: &mut Catalog, text: &str, created: u64) {
    let parsed = parse("gateway.yaml", text, &Defaults::default());
    let said: String = parsed.diagnostics.iter().map(byrnie_model::Diagnostic::render).collect();
    assert!(!parsed.has_errors(), "{said}");
    for document in parsed.documents {
        let (created, revision) = (Revision(created), Revision(created));
        let resource = Resource { created, revision, ..document.resource };
        catalog.apply(&Change::Put(Arc::new(resource)));
    }
}

/// The gateway and its set, with a Secret for each.
fn world() -> Catalog {
    let mut catalog = with(&[super::attach::secret("ns", "own"), super::attach::secret("far", "own")]);
    apply(&mut catalog, GATEWAY, 1);
    catalog
}

fn status(catalog: &Catalog, kind: Kind, namespace: &str, name: &str) -> Value {
    let resource = catalog.resource(&Key::new(kind, namespace, name)).unwrap();
    catalog.upstream_status(resource, &|_| None).unwrap()
}

/// `STATUS REASON` of Accepted, Programmed and ResolvedRefs of a listener.
fn listener(status: &Value, at: usize) -> [String; 3] {
    ["Accepted", "Programmed", "ResolvedRefs"].map(|kind| {
        let all = status["listeners"][at]["conditions"].as_array().unwrap();
        let one = all.iter().find(|condition| condition["type"] == kind).unwrap();
        format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())
    })
}

const FINE: [&str; 3] = ["True Accepted", "True Programmed", "True ResolvedRefs"];

/// What the edge is told: the ConfigMaps, and how many of them each listener of the gateway and of the set believes.
fn told(catalog: &Catalog) -> (Vec<String>, Vec<Option<usize>>) {
    let view = catalog.view(&NodeSpec::gateway("byrnie", "edge"));
    let bundles = view.resources.iter().filter(|r| r.key.kind == Kind::ConfigMap).map(|r| r.key.to_string());
    let gateways = view.resources.iter().filter_map(|r| match &r.spec {
        Spec::Gateway(gateway) => Some(gateway),
        _ => None,
    });
    let asked = |said: &Validation| said.authorities.len();
    let asks = gateways.flat_map(|of| of.listeners.iter().map(move |l| of.frontend.of(l).map(asked)));
    (bundles.collect(), asks.collect())
}

#[test]
fn a_listener_lets_nobody_in_as_long_as_nobody_could_vouch_for_a_caller() {
    let mut catalog = world();
    let refused = |why: &str| ["False NoValidCACertificate".to_owned(), "False Invalid".into(), format!("False {why}")];
    let all = |catalog: &Catalog| {
        let gateway = status(catalog, Kind::Gateway, "ns", "gw");
        let set = status(catalog, Kind::ListenerSet, "far", "added");
        [listener(&gateway, 0), listener(&gateway, 1), listener(&gateway, 2), listener(&set, 0)]
    };
    let absent = refused("InvalidCACertificateRef");
    assert_eq!(all(&catalog), [absent.clone(), refused("RefNotPermitted"), FINE.map(Into::into), absent.clone()]);
    assert_eq!(told(&catalog), (vec![], vec![Some(0), Some(0), None, Some(0)]));
    let lint = |catalog: &Catalog| catalog.check().iter().filter(|found| found.code.id == "BYR-C101").count();
    assert_eq!(lint(&catalog), 2);
    let of_set = status(&catalog, Kind::ListenerSet, "far", "added");
    assert_eq!(of_set["conditions"][0]["reason"], "ListenersNotValid");

    // The edge is told of each change at once: of authorities that come, of a grant, of those that go.
    let edge = "byrnie/edge".into();
    catalog.join("byrnie/edge".into(), NodeSpec::gateway("byrnie", "edge"));
    catalog.delta(&edge);
    let next = |catalog: &mut Catalog| {
        let delta = catalog.delta(&edge);
        let changed = delta.changed.iter().map(|r| format!("+{}", r.key));
        changed.chain(delta.removed.iter().map(|key| format!("-{key}"))).collect::<Vec<_>>()
    };
    catalog.apply(&authorities("ns", "partners"));
    catalog.apply(&authorities("ns", "unnamed"));
    assert_eq!(next(&mut catalog), ["+ConfigMap/ns/partners", "+Gateway/ns/gw", "+ListenerSet/far/added"]);
    let fine = FINE.map(str::to_owned);
    assert_eq!(all(&catalog), [fine.clone(), refused("RefNotPermitted"), fine.clone(), fine.clone()]);
    assert_eq!(told(&catalog).1, [Some(1), Some(0), None, Some(1)]);
    catalog.apply(&authorities("far", "others"));
    assert_eq!(next(&mut catalog), Vec::<String>::new(), "what may not be named isn't told");
    apply(&mut catalog, GRANT, 2);
    assert_eq!(next(&mut catalog), ["+ConfigMap/far/others", "+Gateway/ns/gw", "+ListenerSet/far/added"]);
    assert_eq!(all(&catalog), [(); 4].map(|()| fine.clone()));
    assert_eq!(lint(&catalog), 0);
    catalog.apply(&Change::Delete { key: Key::new(Kind::ConfigMap, "ns", "partners"), revision: Revision(9) });
    let gone = ["+Gateway/ns/gw", "+ListenerSet/far/added", "-ConfigMap/ns/partners"];
    assert_eq!(next(&mut catalog), gone);
    assert_eq!(all(&catalog), [absent.clone(), fine.clone(), fine, absent]);
}

#[test]
fn one_of_several_authorities_is_enough() {
    let mut catalog = world();
    catalog.apply(&authorities("ns", "partners"));
    let more = "name: partners}, {group: '', kind: Service, name: x}, {group: '', kind: ConfigMap, name: y}]";
    apply(&mut catalog, &GATEWAY.replace("name: partners}]", more), 1);
    let gateway = status(&catalog, Kind::Gateway, "ns", "gw");
    assert_eq!(listener(&gateway, 0), ["True Accepted", "True Programmed", "False InvalidCACertificateKind"]);
    assert_eq!(told(&catalog).1[0], Some(1));
    // Nothing of another kind counts.
    apply(&mut catalog, &GATEWAY.replace("kind: ConfigMap, name: partners}]", "kind: Secret, name: own}]"), 1);
    let gateway = status(&catalog, Kind::Gateway, "ns", "gw");
    assert_eq!(
        listener(&gateway, 0),
        ["False NoValidCACertificate", "False Invalid", "False InvalidCACertificateKind"]
    );
    // Where the port says that nothing is asked for, nothing is.
    apply(&mut catalog, &GATEWAY.replace("port: 8443, tls: {", "port: 443, tls: {}}, {port: 8443, tls: {"), 1);
    let gateway = status(&catalog, Kind::Gateway, "ns", "gw");
    assert_eq!(listener(&gateway, 0), FINE);
    assert_eq!(told(&catalog).1[0], None);
}

#[test]
fn gateways_that_share_a_port_ask_for_the_same_there() {
    let mut catalog = world();
    catalog.apply(&authorities("ns", "partners"));
    let late = |frontend: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: late, namespace: ns}}
spec:
  gatewayClassName: byrnie
{frontend}
  listeners: [{{name: l, hostname: late.test, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: own}}]}}}}]
"
        )
    };
    let said = |catalog: &Catalog| listener(&status(catalog, Kind::Gateway, "ns", "late"), 0)[0].clone();
    let asks = "  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: partners}]}}}}";
    apply(&mut catalog, &late(""), 5);
    assert_eq!(said(&catalog), "False ProtocolConflict");
    let clash = catalog.check().into_iter().find(|found| found.code.id == "BYR-C062").unwrap();
    assert!(clash.message.contains("has callers prove something else"), "{}", clash.message);
    apply(&mut catalog, &late(&asks.replace("]}}", "], mode: AllowInsecureFallback}}")), 5);
    assert_eq!(said(&catalog), "False ProtocolConflict");
    apply(&mut catalog, &late(asks), 5);
    assert_eq!(said(&catalog), "True Accepted");
}

#[test]
fn who_is_let_in_unproven_and_who_is_not_asked_is_told() {
    let mut catalog = world();
    catalog.apply(&authorities("ns", "partners"));
    catalog.apply(&authorities("far", "others"));
    apply(&mut catalog, GRANT, 2);
    let codes = |catalog: &Catalog| {
        let found = catalog.check();
        let codes = found.iter().map(|found| found.code.id).filter(|id| *id >= "BYR-C101" && *id <= "BYR-C103");
        codes.collect::<Vec<_>>()
    };
    let insecure = |catalog: &Catalog| {
        let status = status(catalog, Kind::Gateway, "ns", "gw");
        let all = status["conditions"].as_array().unwrap().clone();
        let one = all.iter().find(|condition| condition["type"] == "InsecureFrontendValidationMode")?.clone();
        Some(format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap()))
    };
    assert_eq!((codes(&catalog), insecure(&catalog)), (vec![], None));
    for (from, to) in [
        ("name: partners}]", "name: partners}], mode: AllowInsecureFallback"),
        ("namespace: far}]", "namespace: far}], mode: AllowInsecureFallback"),
    ] {
        apply(&mut catalog, &GATEWAY.replace(from, to), 1);
        assert_eq!(
            (codes(&catalog), insecure(&catalog).as_deref()),
            (vec!["BYR-C102"], Some("True ConfigurationChanged"))
        );
    }
    // Its own TLS ends at a listener for connections, where nothing is asked for; and at a port that nobody has.
    let opaque =
        GATEWAY.replace("- {name: main, port: 443, protocol: HTTPS", "- {name: main, port: 443, protocol: TLS");
    apply(&mut catalog, &opaque, 1);
    assert_eq!((codes(&catalog), insecure(&catalog)), (vec!["BYR-C103"], None));
    apply(&mut catalog, &GATEWAY.replace("perPort: [{port: 8443", "perPort: [{port: 8444"), 1);
    assert_eq!(codes(&catalog), ["BYR-C103"]);
    apply(&mut catalog, &GATEWAY.replace("perPort: [{port: 8443", "perPort: [{port: 9443"), 1);
    assert_eq!(codes(&catalog), Vec::<&str>::new(), "a set's listener is there");
}
