// SPDX-License-Identifier: Apache-2.0
//! Pools of inference servers: what is kept of them, and what is refused.

use super::*;
use crate::Protocol;

fn pool(rest: &str) -> String {
    format!(
        "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {{name: models}}\nspec:\n{rest}"
    )
}

#[test]
fn a_pool_says_who_serves_and_who_picks() {
    let text = pool(
        "  selector: {matchLabels: {app: vllm}}\n  targetPorts: [{number: 8000}, {number: 8001}]\n  \
         endpointPickerRef: {name: epp, port: {number: 9002}}\n",
    );
    let Spec::Pool(said) = good(&text).remove(0).spec else { panic!("no pool") };
    let picker = said.picker.as_ref().unwrap();
    assert_eq!((&*said.ports, said.protocol), (&[8000, 8001][..], Protocol::Http1));
    assert_eq!((&*picker.service, picker.port, picker.fail_open), ("epp", 9002, false));
    let text =
        pool("  selector: {matchLabels: {app: a}}\n  targetPorts: [{number: 1}]\n  appProtocol: kubernetes.io/h2c\n");
    let Spec::Pool(said) = good(&text).remove(0).spec else { panic!("no pool") };
    assert_eq!((said.protocol, &said.picker), (Protocol::Http2, &None));
}

#[test]
fn pools_that_cannot_be_followed_are_refused() {
    let of = |ports: &str, picker: &str| {
        format!(
            "  selector: {{matchLabels: {{app: a}}}}\n  targetPorts: [{ports}]\n  endpointPickerRef: {{{picker}}}\n"
        )
    };
    let picker = "name: epp, port: {number: 1}";
    let many = (1..=9).map(|n| format!("{{number: {n}}}")).collect::<Vec<_>>().join(", ");
    for (rest, place) in [
        (of("", picker), "spec.targetPorts"),
        (of(&many, picker), "spec.targetPorts"),
        (of("{number: 0}", picker), "spec.targetPorts[0].number"),
        (of("{number: 1}, {number: 1}", picker), "spec.targetPorts[1].number"),
        (of("{number: 1}", "name: epp"), "spec.endpointPickerRef"),
        (of("{number: 1}", "name: e, kind: Pod, port: {number: 1}"), "spec.endpointPickerRef.kind"),
        (of("{number: 1}", "name: e, failureMode: Open, port: {number: 1}"), "spec.endpointPickerRef.failureMode"),
        ("  selector: {matchLabels: {}}\n  targetPorts: [{number: 1}]\n".to_owned(), "spec.selector.matchLabels"),
    ] {
        let parsed = parse("pool.yaml", &pool(&rest), &Defaults::default());
        let places: Vec<&str> = parsed.diagnostics.iter().map(|found| &*found.path).collect();
        assert_eq!(places, [place], "{rest}");
    }
}

#[test]
fn a_route_to_a_pool_needs_no_port_and_heeds_none() {
    let route = |more: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: gw}}]\n  \
             rules: [{{backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: models{more}}}]}}]\n"
        )
    };
    for more in ["", ", port: 8000"] {
        let Spec::Route(said) = good(&route(more)).remove(0).spec else { panic!("no route") };
        let to = said.destinations().next().unwrap();
        assert!(to.is_pool() && to.standing == crate::route::Standing::Granted, "{to:?}");
    }
}
