// SPDX-License-Identifier: Apache-2.0
//! `Mesh` on the wire.

use super::check::{invalid, labels, labels_out, message};
use super::{Error, policy};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_model::policy::traffic::Limits;
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::telemetry::{CA_BYTES_MAX, EVERY, Endpoint, HEADERS_MAX, Header, Otlp, Share};
use byrnie_model::{Labels, Spec, identity};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn encode(mesh: &Mesh, labels: &Labels) -> Bytes {
    let default_access = match mesh.default_access {
        DefaultAccess::Deny => pb::DefaultAccess::Deny,
        DefaultAccess::Allow => pb::DefaultAccess::Allow,
    };
    let message = pb::Mesh {
        labels: labels_out(labels),
        trust_domain: mesh.trust_domain.to_string(),
        default_access: default_access.into(),
        otlp: mesh.otlp.as_ref().map(|otlp| otlp_out(otlp)),
        limits: Some(&*mesh.limits).filter(|limits| **limits != Limits::default()).map(policy::limits_out),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let mesh: pb::Mesh = message("mesh", bytes)?;
    identity::check_domain(&mesh.trust_domain).map_err(|_| invalid("trustDomain"))?;
    // An access that this version doesn't know must never be read as "allow".
    let default_access = match pb::DefaultAccess::try_from(mesh.default_access) {
        Ok(pb::DefaultAccess::Deny) => DefaultAccess::Deny,
        Ok(pb::DefaultAccess::Allow) => DefaultAccess::Allow,
        Ok(pb::DefaultAccess::Unspecified) | Err(_) => return Err(invalid("defaultAccess")),
    };
    let labels = labels("labels", mesh.labels)?;
    let otlp = mesh.otlp.map(otlp).transpose()?.map(Arc::new);
    let limits = Box::new(mesh.limits.map(policy::limits).transpose()?.unwrap_or_default());
    Ok((Spec::Mesh(Mesh { trust_domain: mesh.trust_domain.into(), default_access, otlp, limits }), labels))
}

fn otlp_out(otlp: &Otlp) -> pb::Otlp {
    let header = |header: &Header| pb::OtlpHeader { name: header.name.to_string(), env: header.env.to_string() };
    pb::Otlp {
        endpoint: otlp.endpoint.to_string(),
        ca: otlp.ca.as_ref().map(ToString::to_string),
        headers: otlp.headers.iter().map(header).collect(),
        traces: otlp.traces.map(Share::millionths),
        metrics_every_ms: otlp.metrics.map(|every| u32::try_from(every.as_millis()).unwrap_or(u32::MAX)),
    }
}

fn otlp(otlp: pb::Otlp) -> Result<Otlp, Error> {
    let header = |header: pb::OtlpHeader| Header::new(&header.name, &header.env).map_err(|_| invalid("otlp.headers"));
    let share = |share| Share::of_millionths(share).ok_or_else(|| invalid("otlp.traces"));
    let every = otlp.metrics_every_ms.map(|ms| Duration::from_millis(ms.into()));
    if every.is_some_and(|every| !(EVERY.0..=EVERY.1).contains(&every)) {
        return Err(invalid("otlp.metricsEveryMs"));
    }
    if otlp.headers.len() > HEADERS_MAX || otlp.ca.as_ref().is_some_and(|ca| ca.len() > CA_BYTES_MAX) {
        return Err(invalid("otlp"));
    }
    Ok(Otlp {
        endpoint: Endpoint::parse(&otlp.endpoint).map_err(|_| invalid("otlp.endpoint"))?,
        ca: otlp.ca.map(Into::into),
        headers: otlp.headers.into_iter().map(header).collect::<Result<_, _>>()?,
        traces: otlp.traces.map(share).transpose()?,
        metrics: every,
    })
}
