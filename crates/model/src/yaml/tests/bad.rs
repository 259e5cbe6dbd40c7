// SPDX-License-Identifier: Apache-2.0
//! Bad envelopes, services, workloads and meshes.

use super::check_bad;

#[test]
fn text_that_is_not_yaml() {
    for (text, code, place) in [
        ("a: [1, 2", "C001", ""),
        ("a: b: c", "C001", ""),
        ("{a: 1", "C001", ""),
        ("\"abc", "C001", ""),
        ("a: &x 1\nb: *y", "C001", ""),
        ("kind: Service\nkind: Service", "C003", ""),
        ("metadata: {name: a, name: b}", "C003", ""),
        ("{\"kind\": \"Service\", \"kind\": \"Mesh\"}", "C003", ""),
        ("base: &b {a: 1}\nx: {<<: *b}", "C001", ""),
        ("? [a, b]\n: c", "C001", ""),
    ] {
        let found = super::said(text);
        assert!(found.iter().any(|(id, _)| *id == code), "expected {code} {place}, got {found:?} for {text}");
    }
}

#[test]
fn a_slip_in_one_document_does_not_hide_the_others() {
    let service = |name: &str, field: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{field}: [{{port: 80}}]}}\n")
    };
    let good = service("a", "ports");
    let wrong = service("b", "prots");
    for slip in ["a: [1, 2\n", "a: b: c\n", "\"abc\n", "a: |\n  x\n b\n", "{a: 1, a: 2}\n", "a: *nobody\n"] {
        let text = format!("%YAML 1.2\n---\n{good}---\n{slip}---\n{wrong}--- # the end\n{slip}");
        let parsed = super::parse("t.yaml", &text, &super::Defaults::default());
        let found: Vec<(&str, u32)> = parsed.diagnostics.iter().map(|d| (&d.code.id[4..], d.line)).collect();
        let (first, last) = (8, 8 + u32::try_from(slip.lines().count()).unwrap() + 6);
        assert!(
            found.iter().any(|(code, line)| matches!(*code, "C001" | "C003") && (first - 1..first + 4).contains(line)),
            "{slip}: {found:?}"
        );
        assert!(found.contains(&("C002", last - 2)), "{slip}: {found:?} lacks C002 at {}", last - 2);
        assert!(found.iter().any(|(_, line)| *line >= last - 1), "{slip}: {found:?} ends before {last}");
        assert!(found.is_sorted_by_key(|(_, line)| *line), "{found:?}");
        assert_eq!(parsed.documents.len(), 1, "{slip}");
    }
    // Together they're no larger than one may be.
    let bomb: String = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
        let p = i - 1;
        text + &format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n")
    });
    let text = format!("a: [1\n---\n{}", format!("{bomb}---\n").repeat(50));
    assert!(super::said(&text).len() <= 3, "{:?}", super::said(&text));
}

#[test]
fn bombs_are_refused() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..9 {
        let p = i - 1;
        laughs += &format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n");
    }
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let long = "a".repeat(super::super::INPUT_BYTES_MAX + 1);
    let many = "---\n{}\n".repeat(super::super::DOCUMENTS_MAX + 2);
    let labels: String = (0..65).map(|i| format!("l{i}: v, ")).collect();
    let labels = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: a, labels: {{{labels}}}}}}}");
    for (name, text, codes) in [
        ("laughs", laughs, &["C009"][..]),
        ("deep", deep, &["C009", "C001"]),
        ("long", long, &["C009"]),
        ("many", many, &["C009"]),
        ("labels", labels, &["C011"]),
        ("messages", "---\n[]\n".repeat(super::super::DIAGNOSTICS_MAX + 1), &["C009"]),
    ] {
        let found = super::said(&text);
        assert!(found.iter().any(|(id, _)| codes.contains(id)), "{name}: {found:?}");
    }
}

#[test]
fn envelopes() {
    for (text, code, place) in [
        ("just text", "C004", "just text"),
        ("[1, 2]", "C004", "["),
        ("kind: Service\nmetadata: {name: a}", "C005", "kind"),
        ("apiVersion: v1\nmetadata: {name: a}", "C005", "apiVersion"),
        ("apiVersion: 1\nkind: Service", "C004", "1"),
        ("apiVersion: v1\nkind: [Service]", "C004", "kind"),
        ("apiVersion: v1\nkind: Servce", "C006", "Servce"),
        ("apiVersion: v1\nkind: Nonsense", "C006", "Nonsense"),
        ("apiVersion: v2\nkind: Service", "C029", "v2"),
        ("apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute", "C029", "gateway.networking.k8s.io/v1beta1"),
        ("apiVersion: v1\nkind: HTTPRoute", "C029", "v1"),
        ("apiVersion: mesh.byrnie.dev/v1\nkind: AccessPolicy", "C029", "mesh.byrnie.dev/v1"),
        ("apiVersion: v1\nkind: Event", "C007", "Event"),
        ("apiVersion: v1\nkind: Pod", "C007", "Pod"),
        ("apiVersion: apps/v1\nkind: Deployment", "C007", "Deployment"),
        ("apiVersion: networking.istio.io/v1\nkind: VirtualService", "C007", "VirtualService"),
        ("apiVersion: gateway.networking.k8s.io/v1beta1\nkind: UDPRoute", "C029", "gateway.networking.k8s.io/v1beta1"),
        (
            "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy",
            "C007",
            "XBackendTrafficPolicy",
        ),
        ("apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Endpoint", "C034", "Endpoint"),
        ("apiVersion: v1\nkind: Namespace", "C005", "apiVersion"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {}", "C005", "metadata"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: A}", "C008", "A"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: ''}", "C008", "''"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: 5}", "C004", "5"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}", "C028", "b"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, lables: {}}", "C002", "lables"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nspecs: {}", "C002", "specs"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nspec: {x: 1}", "C002", "x"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {-a: b}}", "C008", "b"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {a: 'b c'}}", "C011", "'b c'"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {a: 1}}", "C004", "1"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, ownerReferences: []}", "C002", "ownerReferences"),
    ] {
        check_bad(text, code, place);
    }
}

#[test]
fn twice_the_same() {
    let one = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
    check_bad(&format!("{one}---\n{one}"), "C016", "a");
}

#[test]
fn services() {
    for (spec, code, place) in [
        ("", "C005", "apiVersion"),
        ("spec: {}", "C005", "spec"),
        ("spec: []", "C004", "spec"),
        ("spec: {ports: []}", "C005", "ports"),
        ("spec: {ports: {}}", "C004", "ports"),
        ("spec: {ports: [{}]}", "C005", "{"),
        ("spec: {ports: [{port: 0}]}", "C011", "0"),
        ("spec: {ports: [{port: 65536}]}", "C011", "65536"),
        ("spec: {ports: [{port: -1}]}", "C011", "-1"),
        ("spec: {ports: [{port: '80'}]}", "C004", "'80'"),
        ("spec: {ports: [{port: 99999999999}]}", "C011", "99999999999"),
        ("spec: {ports: [{port: 80}, {port: 81}]}", "C005", "{"),
        ("spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}", "C028", "80"),
        ("spec: {ports: [{name: a, port: 80}, {name: a, port: 81}]}", "C028", "a"),
        ("spec: {ports: [{name: A, port: 80}]}", "C008", "A"),
        ("spec: {ports: [{port: 80, protocol: SCTP}]}", "C010", "SCTP"),
        ("spec: {selector: {a: b}, ports: [{port: 53, protocol: UDP, appProtocol: dns}]}", "C010", "dns"),
        ("spec: {ports: [{port: 53, protocol: UDP}]}", "C010", "UDP"),
        ("spec: {selector: {a: b}, ports: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53}]}", "C028", "53"),
        ("spec: {ports: [{port: 80, appProtocol: mysql}]}", "C011", "mysql"),
        ("spec: {ports: [{port: 80, appProtocol: HTTPS}]}", "C010", "HTTPS"),
        ("spec: {ports: [{port: 80, appProtocol: kubernetes.io/wss}]}", "C010", "kubernetes.io/wss"),
        ("spec: {ports: [{port: 80, appprotocol: http}]}", "C002", "appprotocol"),
        ("spec: {ports: [{port: 80, targetPort: 0}]}", "C011", "0"),
        ("spec: {ports: [{port: 80, targetPort: '8080'}]}", "C011", "'8080'"),
        ("spec: {ports: [{port: 80, targetPort: Web}]}", "C011", "Web"),
        ("spec: {ports: [{port: 80, nodePort: 30000}]}", "C010", "30000"),
        ("spec: {ports: [{port: 80}], type: LoadBalancer}", "C010", "LoadBalancer"),
        ("spec: {ports: [{port: 80}], type: NodePort}", "C010", "NodePort"),
        ("spec: {ports: [{port: 80}], clusterIP: 10.0.0.7}", "C010", "10.0.0.7"),
        ("spec: {ports: [{port: 80}], sessionAffinity: ClientIP}", "C010", "ClientIP"),
        ("spec: {ports: [{port: 80}], externalName: a.example}", "C028", "a.example"),
        ("spec: {ports: [{port: 80}], selector: {app: 1}}", "C004", "1"),
        ("spec: {ports: [{port: 80}], selector: {app: 'a b'}}", "C011", "'a b'"),
        ("spec: {ports: [{port: 80}], selectors: {app: a}}", "C002", "selectors"),
        ("spec: {port: 80}", "C002", "port"),
    ] {
        check_bad(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n{spec}"), code, place);
    }
}

#[test]
fn workloads() {
    for (fields, code, place) in [
        ("serviceAccount: a", "C005", "spec"),
        ("address: 10.0.0.1", "C005", "spec"),
        ("address: host, serviceAccount: a", "C011", "host"),
        ("address: 0.0.0.0, serviceAccount: a", "C011", "0.0.0.0"),
        ("address: 224.0.0.1, serviceAccount: a", "C011", "224.0.0.1"),
        ("address: 10.0.0.1, serviceAccount: A", "C008", "A"),
        ("address: 10.0.0.1, serviceAccount: a/b", "C008", "a/b"),
        ("address: 10.0.0.1, serviceAccount: a, ports: [{port: 0}]", "C011", "0"),
        ("address: 10.0.0.1, serviceAccount: a, ports: [{name: 'a b', port: 1}]", "C011", "'a b'"),
        ("address: 10.0.0.1, serviceAccount: a, ports: [{port: 1}, {port: 1}]", "C028", "1"),
        ("address: 10.0.0.1, serviceAccount: a, ports: [{port: 1, protocol: sctp}]", "C011", "sctp"),
        ("address: 10.0.0.1, serviceAccount: a, ports: [{port: 1, protocol: HTTP}]", "C011", "HTTP"),
        ("address: 10.0.0.1, serviceAccount: a, inbound: '10.0.0.1'", "C011", "'10.0.0.1'"),
        ("address: 10.0.0.1, serviceAccount: a, inbound: '10.0.0.1:0'", "C011", "'10.0.0.1:0'"),
        ("address: 10.0.0.1, serviceAccount: a, uses: [B]", "C008", "B"),
        ("address: 10.0.0.1, serviceAccount: a, uses: [b.c.d]", "C008", "b.c.d"),
        ("address: 10.0.0.1, serviceAccount: a, uses: [b, b.default]", "C028", "b.default"),
        ("address: 10.0.0.1, serviceAccount: a, locality: /a", "C011", "/a"),
        ("address: 10.0.0.1, serviceAccount: a, locality: a/b/c", "C011", "a/b/c"),
        ("address: 10.0.0.1, serviceAccount: a, weight: 0", "C011", "0"),
        ("address: 10.0.0.1, serviceAccount: a, weight: -1", "C011", "-1"),
        ("address: 10.0.0.1, serviceAccount: a, health: {httpGet: {path: /}}", "C005", "httpGet"),
        ("address: 10.0.0.1, serviceAccount: a, health: {}", "C005", "health"),
        ("address: 10.0.0.1, serviceAccount: a, health: {httpGet: {path: x, port: 80}}", "C011", "x"),
        ("address: 10.0.0.1, serviceAccount: a, health: {tcpSocket: {port: 0}}", "C011", "0"),
        ("address: 10.0.0.1, serviceAccount: a, health: {tcpSocket: {port: 1}, grpc: {port: 1}}", "C028", "health"),
        ("address: 10.0.0.1, serviceAccount: a, health: {tcpSocket: {port: 1}, timeoutSeconds: 6}", "C011", "6"),
        ("address: 10.0.0.1, serviceAccount: a, health: {tcpSocket: {port: 1}, failureThreshold: 0}", "C011", "0"),
        ("address: 10.0.0.1, serviceaccount: a", "C002", "serviceaccount"),
    ] {
        let head = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Workload\nmetadata: {name: a}\n";
        check_bad(&format!("{head}spec: {{{fields}}}"), code, place);
    }
    check_bad(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Workload\nmetadata: {name: a}\nspec: {address: 10.0.0.1, serviceAccount: a}\nstatus: {health: Sick}",
        "C011",
        "Sick",
    );
}

#[test]
fn meshes() {
    for (text, code, place) in [
        ("metadata: {name: other}\nspec: {}", "C011", "other"),
        ("metadata: {name: mesh, namespace: a}\nspec: {}", "C028", "a"),
        ("metadata: {name: mesh}\nspec: {trustDomain: A}", "C011", "A"),
        ("metadata: {name: mesh}\nspec: {trustDomain: ''}", "C011", "''"),
        ("metadata: {name: mesh}\nspec: {defaultAccess: Maybe}", "C011", "Maybe"),
        ("metadata: {name: mesh}\nspec: {defaultAccess: {}}", "C004", "defaultAccess"),
        ("metadata: {name: mesh}\nspec: {telemetries: {}}", "C002", "telemetries"),
        ("metadata: {name: mesh}\nspec: {telemetry: {}}", "C005", "telemetry"),
        ("metadata: {name: mesh}\nspec: {telemetry: {jaeger: {}}}", "C002", "jaeger"),
    ] {
        check_bad(&format!("apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Mesh\n{text}"), code, place);
    }
}
