// SPDX-License-Identifier: Apache-2.0
//! `BackendTls` and `Bundle` on the wire: for the proxies by which calls leave the mesh.

use super::Error;
use super::check::{self, LIST_MAX, invalid, labels, labels_out, message, missing};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_base::Text;
use byrnie_model::outside::{AltName, BackendTls, Bundle, Target, Trust};
use byrnie_model::{Labels, Revision, Spec};

pub(super) fn encode(policy: &BackendTls, created: Revision, labels: &Labels) -> Bytes {
    let target = |target: &Target| pb::TlsTarget {
        service: Some(check::service_ref_out(&target.service)),
        section: target.section.as_ref().map(Text::to_string),
    };
    let texts = |texts: &[Text]| texts.iter().map(Text::to_string).collect();
    let bundles = match &policy.trust {
        Trust::System => Vec::new(),
        Trust::Bundles(bundles) => texts(bundles),
    };
    let message = pb::BackendTls {
        labels: labels_out(labels),
        targets: policy.targets.iter().map(target).collect(),
        hostname: policy.hostname.to_string(),
        names: policy.names.iter().map(AltName::to_string).collect(),
        bundles,
        created: created.0,
        certificate: policy.certificate.as_ref().map(Text::to_string),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels, Revision), Error> {
    let policy: pb::BackendTls = message("policy", bytes)?;
    let target = |target: pb::TlsTarget| {
        let section = target.section.map(|name| check::name("targetRefs[].sectionName", name.as_str())).transpose()?;
        Ok(Target { service: check::service_ref("targetRefs", target.service)?, section })
    };
    let targets = check::list("targetRefs", LIST_MAX, policy.targets, target)?;
    if targets.is_empty() {
        return Err(missing("targetRefs"));
    }
    let name = |field| move |text: String| check::name(field, &text);
    let bundles = check::list("caCertificateRefs", LIST_MAX, policy.bundles, name("caCertificateRefs"))?;
    let spec = BackendTls {
        targets,
        hostname: check::name("hostname", &policy.hostname)?,
        names: check::list("subjectAltNames", LIST_MAX, policy.names, alt_name)?,
        certificate: policy.certificate.map(|text| check::name("options", &text)).transpose()?,
        trust: if bundles.is_empty() { Trust::System } else { Trust::Bundles(bundles) },
    };
    Ok((Spec::BackendTls(spec.into()), labels("labels", policy.labels)?, Revision(policy.created)))
}

/// Only a URI has a colon.
fn alt_name(text: String) -> Result<AltName, Error> {
    let field = "subjectAltNames";
    match text.contains(':') {
        true => check::text(field, &text).map(AltName::Uri),
        false => check::name(field, &text).map(AltName::Host),
    }
}

pub(super) fn encode_bundle(bundle: &Bundle, labels: &Labels) -> Bytes {
    pb::Bundle { labels: labels_out(labels), pem: bundle.pem.to_string() }.encode_to_vec().into()
}

pub(super) fn decode_bundle(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let bundle: pb::Bundle = message("bundle", bytes)?;
    if bundle.pem.is_empty() || !bundle.pem.is_ascii() {
        return Err(invalid("data[ca.crt]"));
    }
    Ok((Spec::Bundle(Bundle { pem: bundle.pem.into() }.into()), labels("labels", bundle.labels)?))
}
