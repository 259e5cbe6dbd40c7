// SPDX-License-Identifier: Apache-2.0
//! The part of a TrafficPolicy's document that says how instances are checked.

use crate::code;
use crate::policy::health::{Check, HealthCheck};
use crate::yaml::names;
use crate::yaml::reader::Reader;
use serde::{Deserialize, Serialize};

/// How the proxy of each instance checks its own program: exactly one of `http`, `grpc` and `tcp`.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HealthSpec {
    /// By a GET that is to be answered by a status from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<HttpSpec>,
    /// By `grpc.health.v1.Health/Check`, to be answered `SERVING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grpc: Option<GrpcSpec>,
    /// By a connection that is to be accepted: `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpSpec>,
    /// The service's port; its first one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// Time between two checks, such as `5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    /// An answer that takes longer is none, such as `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    /// So many failures in a row make an instance unhealthy, from 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unhealthy_threshold: Option<u8>,
    /// So many successes in a row make it healthy again, from 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    healthy_threshold: Option<u8>,
}

/// What is asked by HTTP.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct HttpSpec {
    /// Such as `/healthz`.
    path: String,
}

/// What is asked by gRPC.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct GrpcSpec {
    /// The service asked about; the whole server unless given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    service: String,
}

/// Nothing to say.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct TcpSpec {}

const AT: &str = "spec.endpoints.healthCheck";
const THRESHOLD_MAX: u8 = 100;

pub(super) fn read(reader: &mut Reader<'_>, spec: &HealthSpec) -> HealthCheck {
    let how = match (&spec.http, &spec.grpc, &spec.tcp) {
        (Some(http), None, None) => reader.check(Check::Http(http.path.as_str().into()), &format!("{AT}.http.path")),
        (None, Some(grpc), None) => {
            reader.check(Check::Grpc(grpc.service.as_str().into()), &format!("{AT}.grpc.service"))
        }
        (None, None, Some(_)) => Check::Tcp,
        (None, None, None) => {
            reader.fault(&code::MISSING_FIELD, AT, "a health check needs one of http, grpc and tcp");
            Check::Tcp
        }
        _ => {
            reader.fault(&code::CONTRADICTION, AT, "a health check has one of http, grpc and tcp, not several");
            Check::Tcp
        }
    };
    reader.require(spec.port != Some(0), &format!("{AT}.port"), "0 is not a port; ports go from 1 to 65535");
    let at = format!("{AT}.interval");
    let interval = spec.interval.as_deref().map_or(HealthCheck::INTERVAL, |text| {
        let span = reader.some_time(text, &at);
        let range = HealthCheck::INTERVAL_MIN..=HealthCheck::INTERVAL_MAX;
        // Nothing at all was said to be wrong already.
        reader.require(span.is_zero() || range.contains(&span), &at, "must be from 100ms to 1h");
        span
    });
    let at = format!("{AT}.timeout");
    let timeout = spec.timeout.as_deref().map_or(HealthCheck::TIMEOUT.min(interval), |text| {
        let span = reader.some_time(text, &at);
        reader.require(span <= interval, &at, "must be at most the interval");
        span
    });
    let mut threshold = |count: Option<u8>, usual, field| {
        let count = count.unwrap_or(usual);
        reader.require((1..=THRESHOLD_MAX).contains(&count), &format!("{AT}.{field}"), "must be from 1 to 100");
        count
    };
    let sick_after = threshold(spec.unhealthy_threshold, HealthCheck::SICK_AFTER, "unhealthyThreshold");
    let well_after = threshold(spec.healthy_threshold, HealthCheck::WELL_AFTER, "healthyThreshold");
    HealthCheck { how, port: spec.port, interval, timeout, sick_after, well_after }
}

impl From<&HealthCheck> for HealthSpec {
    fn from(check: &HealthCheck) -> Self {
        let (mut http, mut grpc, mut tcp) = (None, None, None);
        match &check.how {
            Check::Http(path) => http = Some(HttpSpec { path: path.to_string() }),
            Check::Grpc(service) => grpc = Some(GrpcSpec { service: service.to_string() }),
            Check::Tcp => tcp = Some(TcpSpec {}),
        }
        Self {
            http,
            grpc,
            tcp,
            port: check.port,
            interval: Some(names::duration_text(check.interval)),
            timeout: Some(names::duration_text(check.timeout)),
            unhealthy_threshold: Some(check.sick_after),
            healthy_threshold: Some(check.well_after),
        }
    }
}
