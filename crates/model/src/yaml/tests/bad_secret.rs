// SPDX-License-Identifier: Apache-2.0
//! Secrets: what is kept of them, what is refused, and that nothing said of one shows a line of it.

use super::{Defaults, good, parse};
use crate::Spec;
use crate::yaml::{from_json, redact, to_json};

const HEAD: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: shop.example.com}\ntype: kubernetes.io/tls\n";
const CRT: &str = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\\nhush\\n-----END PRIVATE KEY-----\\n";
/// `KEY`, as Kubernetes codes it.
const CODED: &str = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCmh1c2gKLS0tLS1FTkQgUFJJVkFURSBLRVktLS0tLQo=";

#[test]
fn a_certificate_is_read_in_code_and_in_plain_and_its_key_is_shown_to_nobody() {
    let plain = format!("{HEAD}stringData: {{tls.crt: \"{CRT}\", tls.key: \"{KEY}\"}}");
    let mixed = format!("{HEAD}stringData: {{tls.crt: \"{CRT}\"}}\ndata: {{tls.key: {CODED}, tls.crt: AAAA}}");
    let (resource, other) = (good(&plain).remove(0), good(&mixed).remove(0));
    assert_eq!(resource.spec, other.spec, "what is said in plain comes first");
    assert!(!format!("{resource:?}").contains("hush"));
    let mut document = to_json(&resource);
    assert_eq!(from_json(&document, &Defaults::default()).unwrap().spec, resource.spec);
    assert!(document.to_string().contains(CODED));
    redact(&mut document);
    assert!(!document.to_string().contains(CODED), "{document}");
    assert_ne!(document["data"]["tls.crt"], document["data"]["tls.key"]);
    let refused = from_json(&document, &Defaults::default()).unwrap_err();
    assert!(refused[0].message.contains("shows nobody a key"), "{}", refused[0].message);
}

#[test]
fn what_else_a_secret_holds_is_dropped_aloud() {
    let text = format!("{HEAD}stringData: {{tls.crt: \"{CRT}\", tls.key: \"{KEY}\", ca.crt: x}}");
    let parsed = parse("t.yaml", &text, &Defaults::default());
    assert!(!parsed.has_errors());
    assert!(parsed.diagnostics[0].message.contains("\"ca.crt\" is dropped"), "{:?}", parsed.diagnostics);
    assert!(matches!(parsed.documents[0].resource.spec, Spec::Secret(_)));
}

#[test]
fn secrets_that_are_refused() {
    let crt = format!("tls.crt: \"{CRT}\"");
    let key = format!("tls.key: \"{KEY}\"");
    for (body, code, path) in [
        (format!("stringData: {{{crt}}}"), "C005", "data"),
        (format!("stringData: {{{key}}}"), "C005", "data"),
        (format!("stringData: {{{crt}, tls.key: hush}}"), "C011", "stringData[\"tls.key\"]"),
        (format!("stringData: {{{key}, tls.crt: hush}}"), "C011", "stringData[\"tls.crt\"]"),
        (format!("stringData: {{{crt}}}\ndata: {{tls.key: 'hu sh'}}"), "C011", "data"),
        (format!("stringData: {{{crt}, {key}}}\nimmutable: true"), "C010", "immutable"),
        (format!("stringData: {{{crt}, {key}}}\nspec: {{}}"), "C002", "spec"),
        (format!("stringData: {{{crt}, {key}}}\ndate: {{}}"), "C002", "date"),
        (format!("stringData: [{key}]"), "C004", "stringData"),
    ] {
        let text = format!("{HEAD}{body}\n");
        let parsed = parse("t.yaml", &text, &Defaults::default());
        let found: Vec<_> = parsed.diagnostics.iter().map(|d| (&d.code.id[4..], &*d.path)).collect();
        assert!(
            found.iter().any(|(id, at)| *id == code && at.starts_with(path)),
            "{code} {path}: {found:?} for {text}"
        );
        let told: String = parsed.diagnostics.iter().map(|d| format!("{}{d:?}", d.render())).collect();
        assert!(parsed.has_errors() && !told.contains("hush") && !told.contains("hu sh"), "{told}");
    }
    let opaque = HEAD.replace("kubernetes.io/tls", "Opaque");
    super::check_bad(&format!("{opaque}data: {{a: YQ==}}"), "C010", "");
}
