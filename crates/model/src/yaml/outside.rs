// SPDX-License-Identifier: Apache-2.0
//! The documents of BackendTLSPolicy, read with Gateway API's own type, and of ConfigMap. Of ConfigMaps only those
//! with certificates of authorities are kept: nothing else here has a use.

use super::de;
use super::names;
use super::reader::{Reader, TargetRef};
use crate::code;
use crate::outside::{AltName, BUNDLE, BackendTls, Bundle, CLIENT_CERTIFICATE, Target, Trust};
use byrnie_base::Text;
use gateway_api::backendtlspolicies as upstream;
use gateway_api::backendtlspolicies::BackendTlsPolicyValidationSubjectAltNamesType as Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What stands in a ConfigMap beside `metadata`; there is no `spec`.
pub(crate) const FIELDS: [&str; 7] = ["apiVersion", "kind", "metadata", "data", "binaryData", "immutable", "status"];
/// Limits of the CRD.
const BUNDLES_MAX: usize = 8;
const NAMES_MAX: usize = 5;

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<BackendTls> {
    let spec: upstream::BackendTlsPolicySpec = reader.spec()?;
    let certificate = certificate(reader, &spec.options.unwrap_or_default());
    let targets = targets(reader, &spec.target_refs);
    let said = &spec.validation;
    let hostname = host(reader, &said.hostname, "spec.validation.hostname");
    let names = names(reader, said.subject_alt_names.as_deref().unwrap_or_default());
    let trust = trust(reader, said)?;
    Some(BackendTls { targets, hostname, names, trust, certificate })
}

/// The Secret that `options` name; nothing else may stand there.
fn certificate(reader: &mut Reader<'_>, said: &BTreeMap<String, String>) -> Option<Text> {
    let mut found = None;
    for (option, value) in said {
        let at = format!("spec.options[\"{option}\"]");
        if option != CLIENT_CERTIFICATE {
            reader.unenforced(at, &format!("the option \"{option}\" of TLS; only \"{CLIENT_CERTIFICATE}\""));
            continue;
        }
        let message = format!("\"{value}\" is not the name of a Secret in the policy's own namespace");
        reader.require(names::is_subdomain(value), &at, message);
        found = Some(value.as_str().into());
    }
    found
}

fn targets(reader: &mut Reader<'_>, said: &[upstream::BackendTlsPolicyTargetRefs]) -> Vec<Target> {
    reader.require(!said.is_empty(), "spec.targetRefs", "at least one target");
    let mut targets: Vec<Target> = Vec::new();
    for (i, said) in said.iter().enumerate() {
        let at = format!("spec.targetRefs[{i}]");
        let plain = TargetRef { group: said.group.clone(), kind: said.kind.clone(), name: said.name.clone() };
        let service = reader.target(&plain, &at);
        let section = said.section_name.as_deref().map(|name| reader.label(name, &format!("{at}.sectionName")));
        let target = Target { service, section };
        // As upstream: each once, and as a whole or by its sections.
        let other = targets.iter().filter(|other| other.service == target.service);
        let (whole, same) = (target.section.is_none(), |other: &&Target| other.section == target.section);
        let twice = other.clone().any(|other| whole || other.section.is_none()) || other.clone().any(|o| same(&o));
        if twice {
            reader.fault(&code::CONTRADICTION, format!("{at}.name"), format!("\"{}\" is targeted twice", said.name));
        }
        targets.push(target);
    }
    reader.at_most(said.len(), super::reader::TARGETS_MAX, "spec.targetRefs");
    targets
}

fn host(reader: &mut Reader<'_>, name: &str, at: &str) -> Text {
    let fits = names::is_hostname(name) && !name.starts_with("*.");
    reader.require(fits, at, format!("\"{name}\" is not the name of one host"));
    name.into()
}

fn names(reader: &mut Reader<'_>, said: &[upstream::BackendTlsPolicyValidationSubjectAltNames]) -> Vec<AltName> {
    reader.at_most(said.len(), NAMES_MAX, "spec.validation.subjectAltNames");
    let mut found = Vec::new();
    for (i, said) in said.iter().enumerate() {
        let at = format!("spec.validation.subjectAltNames[{i}]");
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (word, wanted, other, field) = match said.r#type {
            Kind::Hostname => ("Hostname", text(&said.hostname), text(&said.uri), "hostname"),
            Kind::Uri => ("URI", text(&said.uri), text(&said.hostname), "uri"),
        };
        if other.is_some() {
            reader.fault(&code::CONTRADICTION, at, format!("a name of type {word} has \"{field}\" and nothing else"));
            continue;
        }
        let at_field = format!("{at}.{field}");
        match (&said.r#type, wanted) {
            (_, None) => {
                reader.fault(&code::MISSING_FIELD, at, format!("a name of type {word} needs \"{field}\""));
            }
            (Kind::Hostname, Some(name)) => found.push(AltName::Host(host(reader, &name, &at_field))),
            (Kind::Uri, Some(uri)) => {
                let message = format!("\"{uri}\" is not SCHEME://REST");
                reader.require(names::is_uri(&uri), &at_field, message);
                found.push(AltName::Uri(uri.into()));
            }
        }
    }
    found
}

fn trust(reader: &mut Reader<'_>, said: &upstream::BackendTlsPolicyValidation) -> Option<Trust> {
    let at = "spec.validation";
    let refs = said.ca_certificate_refs.as_deref().unwrap_or_default();
    match (said.well_known_ca_certificates.as_deref(), refs) {
        (Some("System"), []) => Some(Trust::System),
        (Some(word), []) => {
            let at = format!("{at}.wellKnownCACertificates");
            reader.unenforced(at, &format!("the well-known authorities \"{word}\"; only \"System\""));
            None
        }
        (None, []) => {
            let message = "one of caCertificateRefs and wellKnownCACertificates is needed: whose word counts?";
            reader.fault(&code::MISSING_FIELD, at, message);
            None
        }
        (Some(_), _) => {
            let message = "caCertificateRefs and wellKnownCACertificates can't stand together";
            reader.fault(&code::CONTRADICTION, at, message);
            None
        }
        (None, refs) => {
            reader.at_most(refs.len(), BUNDLES_MAX, &format!("{at}.caCertificateRefs"));
            let mut bundles = Vec::new();
            for (i, said) in refs.iter().enumerate() {
                let at = format!("{at}.caCertificateRefs[{i}]");
                if (said.group.as_str(), said.kind.as_str()) != ("", "ConfigMap") {
                    let what = format!("authorities from a {} (group \"{}\"); only ConfigMap", said.kind, said.group);
                    reader.unenforced(format!("{at}.kind"), &what);
                }
                let message = format!("\"{}\" is not a DNS name", said.name);
                reader.require(names::is_subdomain(&said.name), &format!("{at}.name"), message);
                bundles.push(said.name.as_str().into());
            }
            Some(Trust::Bundles(bundles))
        }
    }
}

/// The spec as a document says it.
pub(crate) fn to_value(policy: &BackendTls) -> Value {
    let target = |target: &Target| {
        let mut value = json!({"group": "", "kind": "Service", "name": target.service.name});
        if let Some(section) = &target.section {
            value["sectionName"] = json!(section);
        }
        value
    };
    let mut validation = json!({"hostname": policy.hostname});
    if !policy.names.is_empty() {
        let name = |name: &AltName| match name {
            AltName::Host(host) => json!({"type": "Hostname", "hostname": host}),
            AltName::Uri(uri) => json!({"type": "URI", "uri": uri}),
        };
        validation["subjectAltNames"] = policy.names.iter().map(name).collect();
    }
    match &policy.trust {
        Trust::System => validation["wellKnownCACertificates"] = json!("System"),
        Trust::Bundles(bundles) => {
            let bundle = |name: &Text| json!({"group": "", "kind": "ConfigMap", "name": name});
            validation["caCertificateRefs"] = bundles.iter().map(bundle).collect();
        }
    }
    let mut value =
        json!({"targetRefs": policy.targets.iter().map(target).collect::<Vec<_>>(), "validation": validation});
    if let Some(certificate) = &policy.certificate {
        value["options"] = json!({CLIENT_CERTIFICATE: certificate});
    }
    value
}

pub(crate) fn bundle(reader: &mut Reader<'_>) -> Option<Bundle> {
    let said: BTreeMap<String, String> = match reader.root.field("data") {
        None => BTreeMap::new(),
        Some(node) => de::read(node, "data", reader.root.locate("data"), &mut reader.faults)?,
    };
    for field in ["binaryData", "immutable"].into_iter().filter(|field| reader.root.field(field).is_some()) {
        reader.unenforced(field, &format!("{field} of ConfigMaps"));
    }
    let Some(pem) = said.get(BUNDLE) else {
        let message = format!("only ConfigMaps with certificates of authorities are kept: data has no \"{BUNDLE}\"");
        reader.fault(&code::MISSING_FIELD, "data", message);
        return None;
    };
    for name in said.keys().filter(|name| *name != BUNDLE) {
        let message = format!("only {BUNDLE} is kept: \"{name}\" is dropped");
        reader.warnings.push(de::Fault::new(&code::NOT_ENFORCED, format!("data[\"{name}\"]"), message));
    }
    let fits = pem.contains("-----BEGIN CERTIFICATE-----") && pem.contains("-----END CERTIFICATE-----");
    let shows_key = pem.contains("PRIVATE KEY");
    let at = format!("data[\"{BUNDLE}\"]");
    reader.require(!shows_key, &at, "there is a private key in it: it belongs in no ConfigMap");
    let message = "not PEM text with certificates";
    reader.require(fits && pem.is_ascii(), &at, message).then(|| Bundle { pem: pem.as_str().into() })
}

/// All of it, as the store keeps it.
pub(crate) fn write(bundle: &Bundle, document: &mut Value) {
    document["data"] = json!({BUNDLE: bundle.pem});
}
