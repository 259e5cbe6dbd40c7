// SPDX-License-Identifier: Apache-2.0
//! Services outside the mesh, policies for TLS towards them, and authorities: what is kept, and what is refused.

use super::{Defaults, check_bad, good, parse};
use crate::Spec;
use crate::outside::{AltName, Target, Trust};

const PEM: &str = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n";

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bank}}\nspec: {{{spec}}}\n")
}

fn policy(targets: &str, validation: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: bank}}\nspec:\n  \
         targetRefs: [{targets}]\n  validation: {{{validation}}}\n"
    )
}

fn bundle(rest: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: bank-ca}}\n{rest}\n")
}

const BANK: &str = "{group: '', kind: Service, name: bank}";
const SYSTEM: &str = "hostname: api.bank.test, wellKnownCACertificates: System";

#[test]
fn services_outside_are_read() {
    let text = service("type: ExternalName, externalName: api.bank.test., ports: [{port: 80, targetPort: 8443}]");
    let Spec::Service(service) = good(&text).remove(0).spec else { panic!() };
    assert_eq!(service.outside.as_deref(), Some("api.bank.test"));
    assert_eq!(service.outside_authority(&service.ports[0]).as_deref(), Some("api.bank.test:8443"));
    let many = super::good(&self::service("type: ExternalName, externalName: '*.bank.test', ports: [{port: 80}]"));
    let Spec::Service(service) = &many[0].spec else { panic!() };
    assert_eq!((service.outside.as_deref(), service.outside_authority(&service.ports[0])), (Some("*.bank.test"), None));
    let address = super::good(&self::service("type: ExternalName, externalName: 192.0.2.7, ports: [{port: 80}]"));
    let Spec::Service(service) = &address[0].spec else { panic!() };
    assert_eq!(service.outside_authority(&service.ports[0]).as_deref(), Some("192.0.2.7"));
}

#[test]
fn services_that_are_neither_inside_nor_outside() {
    let ports = "ports: [{port: 80}]";
    for (spec, code, place) in [
        (format!("type: ExternalName, {ports}"), "C005", "spec"),
        (format!("externalName: a.test, {ports}"), "C028", "a.test"),
        (format!("type: ClusterIP, externalName: a.test, {ports}"), "C028", "a.test"),
        (format!("type: ExternalName, externalName: '*', {ports}"), "C011", "'*'"),
        (format!("type: ExternalName, externalName: 'a.*.test', {ports}"), "C011", "'a.*.test'"),
        (format!("type: ExternalName, externalName: '*.1.2.3.4', {ports}"), "C011", "'*.1.2.3.4'"),
        (format!("type: ExternalName, externalName: A.test, {ports}"), "C011", "A.test"),
        (format!("type: ExternalName, externalName: 'a.test:80', {ports}"), "C011", "'a.test:80'"),
        (format!("type: ExternalName, externalName: '', {ports}"), "C011", "''"),
        (format!("type: ExternalName, externalName: a.test, selector: {{app: x}}, {ports}"), "C028", "selector"),
        ("type: ExternalName, externalName: a.test".to_owned(), "C005", "spec"),
        ("type: ExternalName, externalName: a.test, ports: [{port: 80, targetPort: web}]".to_owned(), "C011", "web"),
        (format!("type: LoadBalancer, {ports}"), "C010", "LoadBalancer"),
    ] {
        check_bad(&service(&spec), code, place);
    }
}

#[test]
fn policies_for_tls_are_read() {
    let text = policy(
        "{group: '', kind: Service, name: bank, sectionName: api}",
        "hostname: api.bank.test, subjectAltNames: [{type: Hostname, hostname: one.test}], \
         caCertificateRefs: [{group: '', kind: ConfigMap, name: bank-ca}]",
    );
    let Spec::BackendTls(read) = good(&text).remove(0).spec else { panic!() };
    assert_eq!(read.targets[0].section.as_deref(), Some("api"));
    assert_eq!((&*read.hostname, &read.names[0]), ("api.bank.test", &AltName::Host("one.test".into())));
    assert_eq!(read.trust, Trust::Bundles(vec!["bank-ca".into()]));
    let uri = "hostname: a.test, wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: 'spiffe://x/y'}]";
    let Spec::BackendTls(read) = good(&policy(BANK, uri)).remove(0).spec else { panic!() };
    assert_eq!(read.names, [AltName::Uri("spiffe://x/y".into())]);
    let Spec::BackendTls(read) = good(&policy(BANK, SYSTEM)).remove(0).spec else { panic!() };
    assert_eq!(read.certificate, None);
    let own = policy(BANK, SYSTEM) + "  options: {mesh.byrnie.dev/client-certificate: own}\n";
    let Spec::BackendTls(shown) = good(&own).remove(0).spec else { panic!() };
    assert_eq!(shown.certificate.as_deref(), Some("own"));
    let whole = |target: &Target| target.section.is_none() && *target.service.namespace == *"default";
    assert!(whole(&read.targets[0]) && read.trust == Trust::System);
    good(&bundle(&format!("data: {{ca.crt: \"{PEM}\"}}")));
}

#[test]
fn policies_that_would_trust_nobody_knows_whom() {
    for (targets, validation, code, place) in [
        ("", SYSTEM, "C011", "targetRefs"),
        ("{group: apps, kind: Deployment, name: bank}", SYSTEM, "C010", "Deployment"),
        ("{group: '', kind: Service, name: b}, {group: '', kind: Service, name: b}", SYSTEM, "C028", "b"),
        (
            "{group: '', kind: Service, name: b}, {group: '', kind: Service, name: b, sectionName: x}",
            SYSTEM,
            "C028",
            "b",
        ),
        (BANK, "hostname: api.bank.test", "C005", "validation"),
        (BANK, "wellKnownCACertificates: System", "C005", "validation"),
        (BANK, "hostname: api.bank.test, wellKnownCACertificates: Mine", "C010", "Mine"),
        (BANK, "hostname: '*.bank.test', wellKnownCACertificates: System", "C011", "'*.bank.test'"),
        (BANK, "hostname: 192.0.2.7, wellKnownCACertificates: System", "C011", "192.0.2.7"),
        (
            BANK,
            "hostname: a.test, wellKnownCACertificates: System, caCertificateRefs: [{group: '', kind: ConfigMap, name: x}]",
            "C028",
            "validation",
        ),
        (BANK, "hostname: a.test, caCertificateRefs: [{group: '', kind: Secret, name: x}]", "C010", "Secret"),
        (BANK, "hostname: a.test, insecure: true, wellKnownCACertificates: System", "C002", "insecure"),
        (
            BANK,
            "hostname: a.test, wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: 'x/y'}]",
            "C011",
            "'x/y'",
        ),
        (BANK, "hostname: a.test, wellKnownCACertificates: System, subjectAltNames: [{type: Hostname}]", "C005", "{"),
    ] {
        check_bad(&policy(targets, validation), code, place);
    }
    for (options, code, place) in [
        ("a.test/x: y", "C010", "y"),
        ("mesh.byrnie.dev/client-certificate: own, mesh.byrnie.dev/x: y", "C010", "y"),
        ("mesh.byrnie.dev/client-certificate: ''", "C011", "''"),
        ("mesh.byrnie.dev/client-certificate: ns/own", "C011", "ns/own"),
    ] {
        check_bad(&(policy(BANK, SYSTEM) + &format!("  options: {{{options}}}\n")), code, place);
    }
}

#[test]
fn config_maps_hold_certificates_and_nothing_else() {
    for (rest, code) in [
        ("data: {app.conf: x}".to_owned(), "C005"),
        (String::new(), "C005"),
        ("data: {ca.crt: x}".to_owned(), "C011"),
        ("data: {ca.crt: \"-----BEGIN PRIVATE KEY-----\"}".to_owned(), "C011"),
        (format!("data: {{ca.crt: \"{PEM}\"}}\nbinaryData: {{a: AAAA}}"), "C010"),
        (format!("data: {{ca.crt: \"{PEM}\"}}\nimmutable: true"), "C010"),
        (format!("data: {{ca.crt: \"{PEM}\"}}\nspec: {{}}"), "C002"),
    ] {
        let found = super::said(&bundle(&rest));
        assert!(found.iter().any(|(id, _)| *id == code), "expected {code}, got {found:?} for {rest}");
    }
    let more = parse("t.yaml", &bundle(&format!("data: {{ca.crt: \"{PEM}\", app.conf: x}}")), &Defaults::default());
    assert!(!more.has_errors());
    assert!(more.diagnostics[0].message.contains("\"app.conf\" is dropped"), "{:?}", more.diagnostics);
}
