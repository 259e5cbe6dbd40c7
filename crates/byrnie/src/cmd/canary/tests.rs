// SPDX-License-Identifier: Apache-2.0
//! What canaries write.

use super::*;
use byrnie_model::yaml::{Defaults, parse};

fn workload(name: &str, version: Option<&str>) -> Value {
    let mut labels = json!({"app": "pay"});
    if let Some(version) = version {
        labels[VERSION] = json!(version);
    }
    json!({"metadata": {"name": name, "labels": labels}})
}

fn service(name: &str, selector: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// `pay` in `shop`, served by these.
fn scene(workloads: Vec<Value>) -> Scene {
    Scene {
        target: ServiceRef::new("shop", "pay"),
        revision: "1".to_owned(),
        services: vec![service("pay", &json!({"app": "pay"}))],
        workloads,
        policies: Vec::new(),
        routes: Vec::new(),
    }
}

/// What a route gives to whom, in one line.
fn shares(documents: &[Value]) -> String {
    let backends = backends(documents.last().unwrap());
    backends.map(|b| format!("{} {}", text(&b["name"]), weight(b))).collect::<Vec<_>>().join(", ")
}

/// As after what was written was applied.
fn apply(scene: &mut Scene, documents: &[Value]) {
    for document in documents {
        let list = match text(&document["kind"]) {
            "Service" => &mut scene.services,
            "HTTPRoute" => &mut scene.routes,
            _ => &mut scene.policies,
        };
        list.retain(|known| known["metadata"]["name"] != document["metadata"]["name"]);
        list.push(document.clone());
    }
}

#[test]
fn versions_by_label_get_the_shares_that_were_said() {
    let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v1")), workload("c", Some("v2"))]);
    for (percent, expected) in
        [(10, "pay-v1 9, pay-v2 1"), (0, "pay-v1 1, pay-v2 0"), (100, "pay-v1 0, pay-v2 1"), (50, "pay-v1 1, pay-v2 1")]
    {
        let documents = scene.documents("v2", percent).unwrap();
        assert_eq!(shares(&documents), expected, "{percent}");
        apply(&mut scene, &documents);
    }
    // A third one, which isn't there yet.
    assert_eq!(scene.documents("v3", 10).unwrap_err().code, "BYR-C037");
    let documents = scene.documents("v3", 0).unwrap();
    assert_eq!(shares(&documents), "pay-v1 1, pay-v2 1, pay-v3 0");
    apply(&mut scene, &documents);
    scene.workloads.push(workload("d", Some("v3")));
    assert_eq!(shares(&scene.documents("v3", 20).unwrap()), "pay-v1 2, pay-v2 2, pay-v3 1");
    for document in &documents {
        let parsed = parse("t.yaml", &crate::output::yaml::emit(document), &Defaults::default());
        assert!(parsed.diagnostics.is_empty() && parsed.documents.len() == 1, "{document}: {:?}", parsed.diagnostics);
    }
}

#[test]
fn others_share_the_rest_by_how_many_they_are() {
    let all = [("a", "v1"), ("b", "v1"), ("c", "v2"), ("d", "v3")];
    let scene = scene(all.map(|(name, version)| workload(name, Some(version))).into());
    assert_eq!(shares(&scene.documents("v3", 40).unwrap()), "pay-v1 2, pay-v2 1, pay-v3 2");
}

#[test]
fn the_service_itself_is_no_backend_beside_a_version_of_it() {
    let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
    scene.services.push(service("pay-v2", &json!({"app": "pay", "version": "v2"})));
    assert_eq!(shares(&scene.documents("v2", 30).unwrap()), "pay-v1 7, pay-v2 3");
    // As an earlier canary, or somebody's hand, wrote it.
    scene.routes = vec![json!({
        "metadata": {"name": "r", "namespace": "shop"},
        "spec": {"parentRefs": [{"kind": "Service", "name": "pay"}], "rules": [{"backendRefs": [
            {"name": "pay", "port": 80, "weight": 90}, {"name": "pay-v2", "port": 80, "weight": 10},
        ]}]},
    })];
    assert_eq!(shares(&scene.documents("v2", 30).unwrap()), "pay-v1 7, pay-v2 3");
    // One that has instances of its own is the rest as it is.
    scene.routes.clear();
    scene.services = vec![service("pay", &json!({"version": "v1"})), service("pay-v2", &json!({"version": "v2"}))];
    assert_eq!(shares(&scene.documents("v2", 30).unwrap()), "pay 7, pay-v2 3");
}

#[test]
fn who_cannot_be_told_apart_is_named() {
    let refused = |workloads| scene(workloads).documents("v2", 10).unwrap_err();
    let failure = refused(vec![workload("a", None), workload("b", Some("v2"))]);
    assert_eq!(failure.code, "BYR-C078", "{failure}");
    assert!(failure.detail.starts_with("a serves pay.shop"), "{failure}");
    let failure = refused(vec![workload("b", Some("v2"))]);
    assert!(failure.detail.contains("nobody to take the rest"), "{failure}");
    let mut both = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
    both.services.push(service("pay-v1", &json!({"app": "pay"})));
    assert_eq!(both.documents("v2", 10).unwrap_err().code, "BYR-C078");
    // Nobody gets two shares where one of them has none.
    assert_eq!(shares(&both.documents("v2", 100).unwrap()), "pay-v1 0, pay-v2 1");
}

#[test]
fn policies_of_the_service_hold_for_its_versions() {
    let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
    let policy = |name: &str, target: &str| {
        json!({"kind": "AccessPolicy", "metadata": {"name": name, "namespace": "shop"}, "status": {},
               "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": target}]}})
    };
    scene.policies = vec![policy("own", "pay"), policy("other", "cart")];
    let documents = scene.documents("v2", 10).unwrap();
    let widened: Vec<&Value> = documents.iter().filter(|document| document["kind"] == "AccessPolicy").collect();
    assert_eq!(widened.len(), 1, "{documents:?}");
    let names: Vec<&str> = each(&widened[0]["spec"]["targetRefs"]).map(|target| text(&target["name"])).collect();
    assert_eq!(names, ["pay", "pay-v1", "pay-v2"]);
    apply(&mut scene, &documents);
    assert_eq!(scene.documents("v2", 20).unwrap().len(), 1, "the route alone");
}

#[test]
fn weights_that_somebody_chose_stay_in_proportion() {
    let target = ServiceRef::new("shop", "pay");
    let parts = |version: &str| Parts {
        version: Part { name: version.into(), ports: vec![80], instances: 1 },
        rest: Vec::new(),
        fresh: Vec::new(),
        ports: 1,
    };
    let route = |weights: &[(&str, u64)]| {
        let backends: Vec<Value> =
            weights.iter().map(|(name, weight)| json!({"name": name, "port": 80, "weight": weight})).collect();
        json!({"metadata": {"name": "r"}, "spec": {"rules": [{"backendRefs": backends}]}})
    };
    let three = route(&[("a", 3), ("b", 1)]);
    assert_eq!(shares(&[shifted(three, &target, &parts("c"), 20).unwrap().unwrap()]), "a 3, b 1, c 1");
    assert!(shifted(route(&[("c", 1)]), &target, &parts("c"), 20).is_err());
    // However often they are changed, they stay what a route may say.
    let mut long = route(&[("a", 1), ("b", 1)]);
    for (version, percent) in [("c", 7), ("b", 13), ("c", 9), ("b", 11)] {
        long = shifted(long, &target, &parts(version), percent).unwrap().unwrap();
    }
    let weights: Vec<u64> = backends(&long).map(weight).collect();
    assert!(weights.iter().all(|weight| (1..=WEIGHT_MAX).contains(weight)), "{weights:?}");
    let (b, all) = (weights[1] * 10_000, weights.iter().sum::<u64>());
    assert_eq!((b + all / 2) / all, 1_100, "{weights:?}");
    let mut tiny = [json!({"weight": 3}), json!({"weight": 0}), json!({"weight": 7 * WEIGHT_MAX * WEIGHT_MAX})];
    reduce(&mut tiny);
    assert_eq!(tiny.each_ref().map(weight), [1, 0, WEIGHT_MAX]);
}

/// A route in `shop` with this parent, all of whose calls go to one backend.
fn route(name: &str, parent: &Value, backend: &str, port: u64) -> Value {
    json!({
        "apiVersion": Kind::HttpRoute.api_version(), "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"parentRefs": [parent], "rules": [{"backendRefs": [{"name": backend, "port": port}]}]},
    })
}

#[test]
fn a_route_that_is_for_something_else_stays() {
    let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
    let gateway = |name: &str| json!({"kind": "Gateway", "name": name});
    // One of the service's name, on a gateway of the service's name.
    scene.routes = vec![route("pay", &gateway("pay"), "pay", 80)];
    let documents = scene.documents("v2", 10).unwrap();
    let written: Vec<&Value> = documents.iter().filter(|document| document["kind"] == "HTTPRoute").collect();
    assert_eq!((written.len(), &written[0]["metadata"]["name"]), (1, &json!("pay-canary")), "{documents:?}");
    apply(&mut scene, &documents);
    assert_eq!(shares(&scene.documents("v2", 20).unwrap()), "pay-v1 4, pay-v2 1");
    scene.routes = vec![route("pay", &gateway("x"), "pay", 80), route("pay-canary", &gateway("x"), "pay", 80)];
    let failure = scene.documents("v2", 10).unwrap_err();
    assert!(failure.detail.starts_with("HTTPRoute pay and HTTPRoute pay-canary are there"), "{failure}");
}

#[test]
fn every_route_of_the_service_is_shifted() {
    let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
    let own = json!({"kind": "Service", "name": "pay"});
    scene.routes = vec![route("one", &own, "pay", 80), route("two", &own, "pay", 80)];
    let documents = scene.documents("v2", 10).unwrap();
    let written: Vec<&Value> = documents.iter().filter(|document| document["kind"] == "HTTPRoute").collect();
    assert_eq!(written.len(), 2, "{documents:?}");
    for route in written {
        assert_eq!(shares(std::slice::from_ref(route)), "pay-v1 9, pay-v2 1");
    }
}

#[test]
fn a_rule_goes_on_sending_to_its_port() {
    let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v2")), workload("c", Some("v3"))]);
    scene.services[0]["spec"]["ports"] = json!([{"port": 80}, {"port": 9090}]);
    scene.routes = vec![route("r", &json!({"kind": "Service", "name": "pay"}), "pay", 9090)];
    for version in ["v2", "v3"] {
        let documents = scene.documents(version, 10).unwrap();
        let ports: Vec<&Value> = backends(documents.last().unwrap()).map(|backend| &backend["port"]).collect();
        assert_eq!(ports, [9090, 9090, 9090], "{documents:?}");
        apply(&mut scene, &documents);
    }
    // A version's own service may lack it, and another port is something else.
    scene.services = vec![scene.services[0].clone(), service("pay-v2", &json!({"version": "v2"}))];
    scene.routes = vec![route("r", &json!({"kind": "Service", "name": "pay"}), "pay", 9090)];
    for version in ["v2", "v3"] {
        let failure = scene.documents(version, 10).unwrap_err();
        assert!(failure.detail.contains("service pay-v2 has no port 9090"), "{failure}");
    }
}

#[test]
fn who_gets_a_share_and_refuses_it_is_named() {
    let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
    scene.services.push(service("pay-v2", &json!({"app": "pay", "version": "v2"})));
    scene.policies = vec![json!({
        "kind": "AccessPolicy", "metadata": {"name": "own", "namespace": "shop"},
        "spec": {"action": "ALLOW", "targetRefs": [{"kind": "Service", "name": "pay"}], "rules": [
            {"sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "web"}}]},
            {"sources": [{"type": "ServiceAccount", "serviceAccount": {"name": "job", "namespace": "ops"}}],
             "http": [{"methods": ["POST"], "paths": ["/charge"]}]},
        ]},
    })];
    let documents = scene.documents("v2", 10).unwrap();
    let next = "byrnie allow job.ops pay-v2.shop \"POST /charge\"; byrnie allow web.shop pay-v2.shop";
    let said = "policies let callers reach pay.shop, but none lets them reach pay-v2.shop";
    assert_eq!(scene.refused(&documents), [(said.to_owned(), next.to_owned())]);
    // Whom no command names, a hand must.
    scene.policies[0]["spec"]["rules"][0]["sources"] = json!([{"type": "Namespace", "namespace": "ops"}]);
    let next = "add Service pay-v2 to the targetRefs of accesspolicy own";
    assert_eq!(scene.refused(&documents), [(said.to_owned(), next.to_owned())]);
    assert_eq!(scene.refused(&scene.documents("v2", 0).unwrap()), [], "it gets nothing");
    scene.policies[0]["spec"]["targetRefs"] = json!([{"name": "pay"}, {"name": "pay-v2"}]);
    assert_eq!(scene.refused(&documents), []);
}

#[test]
fn what_was_taken_away_is_brought_back_in_order() {
    let result = json!({"kind": "Service", "namespace": "shop", "name": "pay-v2", "action": "deleted"});
    let said = draw(&json!({"results": [result], "revisions": [41, 42]}));
    let back = "revision 41, 42  (take it back with: byrnie undo 42 && byrnie undo 41)\n";
    assert_eq!(said, format!("Service/shop/pay-v2 deleted\n{back}"));
}
