// SPDX-License-Identifier: Apache-2.0
//! Bad policies.

use super::check_bad;

fn check(kind: &str, spec: &str, code: &str, place: &str) {
    check_bad(
        &format!("apiVersion: mesh.byrnie.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{spec}}}"),
        code,
        place,
    );
}

#[test]
fn access() {
    for (spec, code, place) in [
        ("rules: []", "C005", "spec"),
        ("action: Allow", "C011", "Allow"),
        ("action: ALLOW, mode: Audit", "C011", "Audit"),
        ("action: ALLOW, targetRefs: [{kind: Gateway, name: a}]", "C010", "Gateway"),
        ("action: ALLOW, targetRefs: [{name: A}]", "C008", "A"),
        ("action: ALLOW, targetRefs: [{name: a, namespace: b}]", "C002", "namespace"),
        ("action: ALLOW, targetRefs: [{name: a}, {name: a}]", "C028", "a"),
        ("action: ALLOW, rules: [{source: []}]", "C002", "source"),
        ("action: ALLOW, rules: [{sources: []}]", "C028", "sources"),
        ("action: ALLOW, rules: [{http: []}]", "C028", "http"),
        ("action: ALLOW, rules: [{sources: [{type: User}]}]", "C011", "User"),
        ("action: ALLOW, rules: [{sources: [{}]}]", "C005", "{"),
        ("action: ALLOW, rules: [{sources: [{type: ServiceAccount}]}]", "C005", "{"),
        ("action: ALLOW, rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: A}}]}]", "C008", "A"),
        ("action: ALLOW, rules: [{sources: [{type: ServiceAccount, namespace: a}]}]", "C028", "a"),
        ("action: ALLOW, rules: [{sources: [{type: Namespace, namespace: '*'}]}]", "C008", "'*'"),
        ("action: ALLOW, rules: [{sources: [{type: SPIFFE, spiffe: 'spiffe://a/b'}]}]", "C011", "'spiffe://a/b'"),
        (
            "action: ALLOW, rules: [{sources: [{type: SPIFFE, spiffe: 'spiffe://A/ns/b/sa/c'}]}]",
            "C011",
            "'spiffe://A/ns/b/sa/c'",
        ),
        ("action: ALLOW, rules: [{networkAttributes: {ports: []}}]", "C028", "ports"),
        ("action: ALLOW, rules: [{networkAttributes: {ports: [0]}}]", "C011", "0"),
        ("action: ALLOW, rules: [{networkAttributes: {port: [1]}}]", "C002", "port"),
        ("action: ALLOW, rules: [{http: [{methods: [get]}]}]", "C011", "get"),
        ("action: ALLOW, rules: [{http: [{methods: []}]}]", "C028", "methods"),
        ("action: ALLOW, rules: [{http: [{paths: [x]}]}]", "C011", "x"),
        ("action: ALLOW, rules: [{http: [{paths: ['/a*']}]}]", "C011", "'/a*'"),
        ("action: ALLOW, rules: [{http: [{paths: ['/*/a']}]}]", "C011", "'/*/a'"),
        ("action: ALLOW, rules: [{http: [{paths: [//]}]}]", "C011", "//"),
        ("action: ALLOW, rules: [{http: [{paths: [/a/../b]}]}]", "C011", "/a/../b"),
        ("action: ALLOW, rules: [{http: [{paths: ['/a/{}']}]}]", "C011", "'/a/{}'"),
        ("action: ALLOW, rules: [{http: [{paths: ['/a/x{id}']}]}]", "C011", "'/a/x{id}'"),
        ("action: ALLOW, rules: [{http: [{paths: ['/a/{id}/*']}]}]", "C011", "'/a/{id}/*'"),
        ("action: ALLOW, rules: [{http: [{hosts: [a]}]}]", "C002", "hosts"),
        ("action: ALLOW, rules: {}", "C004", "rules"),
    ] {
        check("AccessPolicy", spec, code, place);
    }
}

#[test]
fn traffic() {
    for (fields, code, place) in [
        ("balance: Fastest", "C011", "Fastest"),
        ("balance: {}", "C004", "balance"),
        ("failover: {prefer: []}", "C011", "prefer"),
        ("failover: {prefer: [near]}", "C011", "near"),
        ("failover: {prefer: [any, sameZone]}", "C028", "sameZone"),
        ("failover: {prefer: [sameZone, sameZone]}", "C028", "sameZone"),
        ("failover: {prefer: [sameRegion, sameZone]}", "C028", "sameZone"),
        ("failover: {prefer: [any], below: 70}", "C004", "70"),
        ("failover: {prefer: [any], below: 101%}", "C011", "101%"),
        ("failover: {below: 70%}", "C005", "failover"),
        ("balance: Maglev", "C005", "Maglev"),
        ("balance: Random, hash: {source: true}", "C028", "hash"),
        ("balance: Maglev, hash: {}", "C011", "hash"),
        ("balance: Maglev, hash: {header: a, cookie: b}", "C011", "hash"),
        ("balance: RingHash, hash: {header: 'a b'}", "C011", "'a b'"),
        ("balance: RingHash, hash: {header: a, maxLoad: 100%}", "C011", "100%"),
        ("endpoints: {most: 0}", "C011", "0"),
        ("endpoints: {slowStart: 2h}", "C011", "2h"),
        ("endpoints: {panicBelow: 101%}", "C011", "101%"),
        ("failover: {prefer: [sameZone, any], shares: [80%]}", "C011", "shares"),
        ("failover: {prefer: [sameZone, any], shares: [80%, 30%]}", "C011", "shares"),
        ("eject: {for: 30s}", "C005", "eject"),
        ("eject: {consecutiveErrors: 0, for: 30s}", "C011", "0"),
        ("eject: {consecutiveLocalErrors: 0, for: 30s}", "C011", "0"),
        ("eject: {successRate: 190, for: 30s}", "C004", "190"),
        ("eject: {successRate: 0%, for: 30s}", "C011", "0%"),
        ("eject: {failures: 101%, for: 30s}", "C011", "101%"),
        ("eject: {latency: 100%, for: 30s}", "C011", "100%"),
        ("eject: {failures: 50%, every: 0s, for: 30s}", "C011", "0s"),
        ("eject: {failures: 50%, volume: 0, for: 30s}", "C011", "0"),
        ("eject: {consecutiveErrors: 5, for: 0s}", "C011", "0s"),
        ("eject: {consecutiveErrors: 5, for: 2h}", "C011", "2h"),
        ("eject: {consecutiveErrors: 5, for: 30s, maxEjected: half}", "C011", "half"),
        ("limits: {}", "C005", "limits"),
        ("limits: {maxPending: 0}", "C011", "0"),
        ("limits: {maxPending: many}", "C004", "many"),
        ("limits: {rate: {requests: 1}}", "C005", "rate"),
        ("limits: {rate: {requests: 0, per: 1s}}", "C011", "0"),
        ("limits: {rate: {requests: 1, per: 0s}}", "C011", "0s"),
        ("retryConstraint: {budget: {percent: 101}}", "C011", "101"),
        ("retryConstraint: {budget: {percent: 300}}", "C011", "300"),
        ("retryConstraint: {minRetryRate: {count: 1, interval: x}}", "C011", "x"),
        ("unsafeRetry: yes", "C004", "yes"),
        ("connectTimeout: 2m", "C011", "2m"),
        ("endpoints: {healthCheck: {}}", "C005", "healthCheck"),
        ("endpoints: {healthCheck: {tcp: {}, http: {path: /}}}", "C028", "healthCheck"),
        ("endpoints: {healthCheck: {http: {}}}", "C005", "http"),
        ("endpoints: {healthCheck: {http: {path: healthz}}}", "C011", "healthz"),
        ("endpoints: {healthCheck: {http: {path: '/a b'}}}", "C011", "'/a b'"),
        ("endpoints: {healthCheck: {grpc: {service: 'a b'}}}", "C011", "'a b'"),
        ("endpoints: {healthCheck: {tcp: {}, port: 0}}", "C011", "0"),
        ("endpoints: {healthCheck: {tcp: {}, interval: 50ms}}", "C011", "50ms"),
        ("endpoints: {healthCheck: {tcp: {}, interval: 2h}}", "C011", "2h"),
        ("endpoints: {healthCheck: {tcp: {}, interval: 0s}}", "C011", "0s"),
        ("endpoints: {healthCheck: {tcp: {}, interval: 1s, timeout: 2s}}", "C011", "2s"),
        ("endpoints: {healthCheck: {tcp: {}, unhealthyThreshold: 0}}", "C011", "0"),
        ("endpoints: {healthCheck: {tcp: {}, healthyThreshold: 101}}", "C011", "101"),
        ("idempotency: {}", "C005", "idempotency"),
        ("idempotency: {mode: Sometimes}", "C011", "Sometimes"),
        ("idempotency: {mode: Required, guarantee: G0}", "C028", "G0"),
        ("idempotency: {mode: Off, guarantee: G1}", "C028", "G1"),
        ("idempotency: {mode: Off, mintKeys: true}", "C028", "true"),
        ("idempotency: {mode: Required, onAmbiguous: Probe}", "C010", "Probe"),
        ("idempotency: {mode: Required, keyTTL: 1000h}", "C011", "1000h"),
        ("idempotency: {mode: Required, keyTTL: 1s}", "C011", "1s"),
        ("idempotency: {mode: Required, lease: 2h}", "C011", "2h"),
        ("idempotency: {mode: Required, lease: soon}", "C011", "soon"),
        ("fault: {delay: 1s}", "C005", "fault"),
        ("fault: {until: '2030-01-01T00:00:00Z'}", "C005", "fault"),
        ("fault: {delay: 1s, until: tomorrow}", "C011", "tomorrow"),
        ("fault: {delay: 1h, until: '2030-01-01T00:00:00Z'}", "C011", "1h"),
        ("fault: {abort: 99, until: '2030-01-01T00:00:00Z'}", "C011", "99"),
        ("fault: {abort: 503, reset: true, until: '2030-01-01T00:00:00Z'}", "C028", "true"),
        ("fault: {reset: true, percent: 101%, until: '2030-01-01T00:00:00Z'}", "C011", "101%"),
        ("fault: {reset: true, match: {path: x}, until: '2030-01-01T00:00:00Z'}", "C011", "x"),
        ("fault: {reset: true, match: {method: get}, until: '2030-01-01T00:00:00Z'}", "C011", "get"),
        ("timeout: 1s", "C002", "timeout"),
    ] {
        check("TrafficPolicy", &format!("targetRefs: [{{name: a}}], {fields}"), code, place);
    }
    check("TrafficPolicy", "balance: Random", "C005", "spec");
    check("TrafficPolicy", "targetRefs: []", "C005", "targetRefs");
}
