// SPDX-License-Identifier: Apache-2.0
//! The part of a Workload's document that says how its program is asked whether it is well, in the words of a pod's
//! probes.

use super::reader::Reader;
use crate::code;
use crate::policy::HealthCheck;
use crate::policy::health::Check;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How the program is asked whether it is well: exactly one of `httpGet`, `grpc` and `tcpSocket`.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProbeSpec {
    /// By a GET that is to be answered by a status from 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http_get: Option<HttpGet>,
    /// By `grpc.health.v1.Health/Check`, to be answered `SERVING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grpc: Option<Grpc>,
    /// By a connection that is to be accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<TcpSocket>,
    /// Time between two checks in seconds, from 1 to 3600; 5 unless given.
    #[serde(default = "period")]
    period_seconds: u16,
    /// An answer that takes longer is none, in seconds; 1 unless given.
    #[serde(default = "timeout")]
    timeout_seconds: u16,
    /// So many failures in a row make it unhealthy, from 1 to 100.
    #[serde(default = "sick_after")]
    failure_threshold: u8,
    /// So many successes in a row make it healthy again, from 1 to 100.
    #[serde(default = "well_after")]
    success_threshold: u8,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct HttpGet {
    /// Such as `/healthz`.
    path: String,
    /// The program's port.
    port: u16,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Grpc {
    /// The program's port.
    port: u16,
    /// The service asked about; the whole server unless given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    service: String,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct TcpSocket {
    /// The program's port.
    port: u16,
}

const AT: &str = "spec.health";
const THRESHOLD_MAX: u8 = 100;

const fn period() -> u16 {
    5
}

const fn timeout() -> u16 {
    1
}

const fn sick_after() -> u8 {
    HealthCheck::SICK_AFTER
}

const fn well_after() -> u8 {
    HealthCheck::WELL_AFTER
}

pub(super) fn read(reader: &mut Reader<'_>, spec: &ProbeSpec) -> Option<HealthCheck> {
    let (how, port, word) = match (&spec.http_get, &spec.grpc, &spec.tcp_socket) {
        (Some(http), None, None) => {
            let check = Check::Http(http.path.as_str().into());
            (reader.check(check, &format!("{AT}.httpGet.path")), http.port, "httpGet")
        }
        (None, Some(grpc), None) => {
            let check = Check::Grpc(grpc.service.as_str().into());
            (reader.check(check, &format!("{AT}.grpc.service")), grpc.port, "grpc")
        }
        (None, None, Some(tcp)) => (Check::Tcp, tcp.port, "tcpSocket"),
        (None, None, None) => {
            reader.fault(&code::MISSING_FIELD, AT, "a health check needs one of httpGet, grpc and tcpSocket");
            return None;
        }
        _ => {
            let message = "a health check has one of httpGet, grpc and tcpSocket, not several";
            reader.fault(&code::CONTRADICTION, AT, message);
            return None;
        }
    };
    reader.require(port != 0, &format!("{AT}.{word}.port"), "0 is not a port; ports go from 1 to 65535");
    let period = (1..=3600).contains(&spec.period_seconds);
    reader.require(period, &format!("{AT}.periodSeconds"), "must be from 1 to 3600");
    let timeout = (1..=spec.period_seconds.max(1)).contains(&spec.timeout_seconds);
    reader.require(timeout, &format!("{AT}.timeoutSeconds"), "must be from 1 to the period");
    for (count, field) in [(spec.failure_threshold, "failureThreshold"), (spec.success_threshold, "successThreshold")] {
        reader.require((1..=THRESHOLD_MAX).contains(&count), &format!("{AT}.{field}"), "must be from 1 to 100");
    }
    Some(HealthCheck {
        how,
        port: Some(port),
        interval: Duration::from_secs(spec.period_seconds.into()),
        timeout: Duration::from_secs(spec.timeout_seconds.into()),
        sick_after: spec.failure_threshold,
        well_after: spec.success_threshold,
    })
}

impl From<&HealthCheck> for ProbeSpec {
    fn from(check: &HealthCheck) -> Self {
        let port = check.port.unwrap_or_default();
        let (mut http_get, mut grpc, mut tcp_socket) = (None, None, None);
        match &check.how {
            Check::Http(path) => http_get = Some(HttpGet { path: path.to_string(), port }),
            Check::Grpc(service) => grpc = Some(Grpc { port, service: service.to_string() }),
            Check::Tcp => tcp_socket = Some(TcpSocket { port }),
        }
        let seconds = |span: Duration| u16::try_from(span.as_secs()).unwrap_or(u16::MAX).max(1);
        Self {
            http_get,
            grpc,
            tcp_socket,
            period_seconds: seconds(check.interval),
            timeout_seconds: seconds(check.timeout),
            failure_threshold: check.sick_after,
            success_threshold: check.well_after,
        }
    }
}
