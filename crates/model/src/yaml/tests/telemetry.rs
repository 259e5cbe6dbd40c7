// SPDX-License-Identifier: Apache-2.0
//! What a Mesh says about OTLP: any that is valid, and what is refused.

use super::check_bad;
use crate::telemetry::{Endpoint, Header, Otlp, Share};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::time::Duration;

/// Any that survives its own document.
pub(super) fn otlp() -> impl Strategy<Value = Otlp> {
    let endpoint = "https://([a-z0-9]{1,9}|\\[::1\\])(:[1-9][0-9]{0,3})?(/[a-z]{1,4}){0,2}";
    let endpoint = endpoint.prop_map(|url| Endpoint::parse(&url).unwrap());
    let header = Header::new("authorization", "OTLP_TOKEN").unwrap();
    let headers = vec(Just(header), 0..2);
    let traces = (0..=Share::ALL).prop_map(|share| Share::of_millionths(share).unwrap());
    let metrics = option::of((1_000_u64..=3_600_000).prop_map(Duration::from_millis));
    (endpoint, headers, traces, metrics).prop_map(|(endpoint, headers, traces, metrics)| Otlp {
        endpoint,
        ca: None,
        headers,
        traces: Some(traces),
        metrics,
    })
}

#[test]
fn telemetry() {
    for (text, code, place) in [
        ("{}", "C005", "otlp"),
        ("{endpoint: 'grpc://a:4317'}", "C011", "'grpc://a:4317'"),
        ("{endpoint: 'http://u:secret@a'}", "C011", "'http://u:secret@a'"),
        ("{endpoint: 'http://a', protocol: grpc}", "C002", "protocol"),
        ("{endpoint: 'http://a', headers: [{name: authorization, value: secret}]}", "C002", "value"),
        ("{endpoint: 'http://a', headers: [{name: authorization, env: HOME}]}", "C011", "HOME"),
        ("{endpoint: 'http://a', headers: [{name: Authorization, env: OTLP_A}]}", "C028", "Authorization"),
        ("{endpoint: 'http://a', headers: [{name: a, env: OTLP_A}, {name: A, env: OTLP_B}]}", "C028", "A"),
        ("{endpoint: 'http://a', traces: {samplePercent: 101}}", "C011", "101"),
        ("{endpoint: 'http://a', traces: {samplePercent: -0.5}}", "C011", "-0.5"),
        ("{endpoint: 'http://a', traces: {ratio: 1}}", "C002", "ratio"),
        ("{endpoint: 'http://a', metrics: {every: 10ms}}", "C011", "10ms"),
        ("{endpoint: 'https://a', ca: none}", "C011", "none"),
        ("{endpoint: 'http://a', ca: '-----BEGIN CERTIFICATE-----'}", "C028", "'-----BEGIN CERTIFICATE-----'"),
    ] {
        let head = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh}\n";
        check_bad(&format!("{head}spec: {{telemetry: {{otlp: {text}}}}}"), code, place);
    }
}
