// SPDX-License-Identifier: Apache-2.0
//! The document of a Mesh.

use super::names;
use super::reader::Reader;
use super::traffic::{self, LimitsSpec};
use crate::policy::traffic::Limits;
use crate::resource::{DefaultAccess, Mesh};
use crate::telemetry::{CA_BYTES_MAX, EVERY, Endpoint, HEADERS_MAX, Header, Otlp, Share};
use crate::{code, identity};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Defaults of the whole mesh.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshSpec {
    /// The trust domain of every identity. It cannot change once the mesh has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust_domain: Option<String>,
    /// What happens to a call that no AccessPolicy names.
    #[serde(default)]
    default_access: Verdict,
    /// What is sent to those who watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    telemetry: Option<TelemetrySpec>,
    /// How much is let through to each service of which no TrafficPolicy says it, matter by matter: all but `quotas`, which
    /// are a service's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsSpec>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
enum Verdict {
    /// Refuse it.
    #[default]
    Deny,
    /// Let it through.
    Allow,
}

/// What is sent to those who watch. Nothing is, unless it stands here.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct TelemetrySpec {
    /// Traces and metrics by OTLP.
    otlp: OtlpSpec,
}

/// Traces and metrics by OTLP over HTTP, to a collector or a backend that understands it.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OtlpSpec {
    /// The base URL, `http://HOST[:PORT][/PATH]` or the same with `https`; most collectors listen at port 4318. `/v1/traces` and `/v1/metrics` follow it.
    endpoint: String,
    /// Certificates (PEM) of authorities that may vouch for an `https` endpoint. Without them, those that the system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
    /// Header fields that go with each request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderSpec>,
    /// Traces. Not sent if `metrics` alone stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traces: Option<TracesSpec>,
    /// Metrics. Not sent if `traces` alone stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metrics: Option<MetricsSpec>,
}

/// A header field whose value never stands in a resource.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeaderSpec {
    /// Its name.
    name: String,
    /// The variable of each process' environment that holds its value, or whose name with `_FILE` after it names a file that
    /// does. It begins with `OTLP_`.
    env: String,
}

/// Traces.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TracesSpec {
    /// Of the traces that begin in the mesh, so many percent are sent, from 0 to 100 in steps of 0.0001. Whoever brings a
    /// `traceparent` has decided already.
    sample_percent: f64,
}

impl Default for TracesSpec {
    fn default() -> Self {
        Self { sample_percent: 1.0 }
    }
}

/// Metrics.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct MetricsSpec {
    /// Time between two reports, from 1s to 1h.
    every: String,
}

impl Default for MetricsSpec {
    fn default() -> Self {
        Self { every: "30s".to_owned() }
    }
}

impl From<&Mesh> for MeshSpec {
    fn from(mesh: &Mesh) -> Self {
        let default_access = match mesh.default_access {
            DefaultAccess::Deny => Verdict::Deny,
            DefaultAccess::Allow => Verdict::Allow,
        };
        let telemetry = mesh.otlp.as_ref().map(|otlp| TelemetrySpec { otlp: OtlpSpec::from(&**otlp) });
        let limits = Some(&*mesh.limits).filter(|limits| **limits != Limits::default()).map(LimitsSpec::from);
        Self { trust_domain: Some(mesh.trust_domain.to_string()), default_access, telemetry, limits }
    }
}

impl From<&Otlp> for OtlpSpec {
    fn from(otlp: &Otlp) -> Self {
        let header = |header: &Header| HeaderSpec { name: header.name.to_string(), env: header.env.to_string() };
        let traces = |share: Share| TracesSpec { sample_percent: f64::from(share.millionths()) / PERCENT };
        Self {
            endpoint: otlp.endpoint.to_string(),
            ca: otlp.ca.as_ref().map(ToString::to_string),
            headers: otlp.headers.iter().map(header).collect(),
            traces: otlp.traces.map(traces),
            metrics: otlp.metrics.map(|every| MetricsSpec { every: names::duration_text(every) }),
        }
    }
}

/// Millionths of one percent.
const PERCENT: f64 = 10_000.0;

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Mesh> {
    let spec: MeshSpec = reader.spec()?;
    let trust_domain = spec.trust_domain.map_or_else(|| reader.defaults.trust_domain.clone(), Into::into);
    if let Err(error) = identity::check_domain(&trust_domain) {
        reader.fault(&code::BAD_VALUE, "spec.trustDomain", error.to_string());
    }
    let default_access = match spec.default_access {
        Verdict::Deny => DefaultAccess::Deny,
        Verdict::Allow => DefaultAccess::Allow,
    };
    let otlp = spec.telemetry.and_then(|telemetry| otlp(reader, telemetry.otlp)).map(Arc::new);
    let mut limits = spec.limits.map(|limits| traffic::read_limits(reader, &limits)).unwrap_or_default();
    if !std::mem::take(&mut limits.quotas).is_empty() {
        reader.unenforced(
            "spec.limits.quotas",
            "quotas for every service alike (a TrafficPolicy has those of its targets)",
        );
    }
    Some(Mesh { trust_domain, default_access, otlp, limits: Box::new(limits) })
}

fn otlp(reader: &mut Reader<'_>, spec: OtlpSpec) -> Option<Otlp> {
    const AT: &str = "spec.telemetry.otlp";
    let endpoint = Endpoint::parse(&spec.endpoint)
        .map_err(|why| reader.fault(&code::BAD_VALUE, format!("{AT}.endpoint"), why))
        .ok();
    if let Some(ca) = &spec.ca {
        let at = format!("{AT}.ca");
        let fits = ca.len() <= CA_BYTES_MAX && ca.contains("-----BEGIN CERTIFICATE-----");
        reader.require(fits, &at, "must be certificates in PEM, of 64 KiB at most");
        if endpoint.as_ref().is_some_and(|endpoint| !endpoint.https) {
            reader.fault(&code::CONTRADICTION, at, "an endpoint without https shows no certificate");
        }
    }
    reader.at_most(spec.headers.len(), HEADERS_MAX, &format!("{AT}.headers"));
    let mut headers: Vec<Header> = Vec::new();
    for (i, header) in spec.headers.iter().enumerate() {
        let at = format!("{AT}.headers[{i}]");
        match Header::new(&header.name, &header.env) {
            Ok(header) if headers.iter().any(|other| other.name == header.name) => {
                reader.fault(&code::CONTRADICTION, format!("{at}.name"), format!("{} stands here twice", header.name));
            }
            Ok(header) => {
                let clear = endpoint.as_ref().is_some_and(|endpoint| !endpoint.https && !endpoint.is_loopback());
                if clear && *header.name == *"authorization" {
                    let why = "it would travel in the clear: the endpoint is neither https nor on this machine";
                    reader.fault(&code::CONTRADICTION, format!("{at}.name"), why);
                }
                headers.push(header);
            }
            Err((field, why)) => reader.fault(&code::BAD_VALUE, format!("{at}.{field}"), why),
        }
    }
    let both = spec.traces.is_none() && spec.metrics.is_none();
    let traces = spec.traces.or_else(|| both.then(TracesSpec::default)).and_then(|traces| share(reader, &traces));
    let metrics = spec.metrics.or_else(|| both.then(MetricsSpec::default)).map(|metrics| every(reader, &metrics));
    Some(Otlp { endpoint: endpoint?, ca: spec.ca.map(Into::into), headers, traces, metrics })
}

fn share(reader: &mut Reader<'_>, spec: &TracesSpec) -> Option<Share> {
    let percent = spec.sample_percent;
    let fits = reader.require(
        (0.0..=100.0).contains(&percent),
        "spec.telemetry.otlp.traces.samplePercent",
        format!("{percent} is not from 0 to 100"),
    );
    // Within 0 and a million then.
    fits.then(|| Share::of_millionths((percent * PERCENT).round() as u32)).flatten()
}

fn every(reader: &mut Reader<'_>, spec: &MetricsSpec) -> Duration {
    let at = "spec.telemetry.otlp.metrics.every";
    let before = reader.faults.len();
    let every = reader.duration(&spec.every, at);
    if reader.faults.len() == before {
        reader.require((EVERY.0..=EVERY.1).contains(&every), at, "must be from 1s to 1h");
    }
    every
}
