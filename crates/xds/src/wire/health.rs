// SPDX-License-Identifier: Apache-2.0
//! What a TrafficPolicy says of programs that are asked how they are, on the wire: `healthCheck` and `loadReport`.

use super::Error;
use super::check::{self, invalid, missing};
use crate::proto::byrnie::v1 as pb;
use byrnie_model::policy::health::{Check, HealthCheck};
use byrnie_model::policy::traffic::LoadReport;
use pb::health_check::How;
use std::time::Duration;

pub(super) fn encode(from: &HealthCheck) -> pb::HealthCheck {
    let how = match &from.how {
        Check::Http(path) => How::Http(path.to_string()),
        Check::Grpc(service) => How::Grpc(service.to_string()),
        Check::Tcp => How::Tcp(pb::TcpCheck {}),
    };
    pb::HealthCheck {
        how: Some(how),
        port: from.port.map(u32::from),
        interval: Some(check::duration_out(from.interval)),
        timeout: Some(check::duration_out(from.timeout)),
        sick_after: from.sick_after.into(),
        well_after: from.well_after.into(),
    }
}

pub(super) fn decode(from: pb::HealthCheck) -> Result<HealthCheck, Error> {
    let how = match from.how.ok_or_else(|| missing("healthCheck.how"))? {
        How::Http(path) if path.starts_with('/') => Check::Http(path.into()),
        How::Http(_) => return Err(invalid("healthCheck.http.path")),
        How::Grpc(service) => Check::Grpc(service.into()),
        How::Tcp(_) => Check::Tcp,
    };
    let threshold =
        |field, count: u32| u8::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| invalid(field));
    Ok(HealthCheck {
        how,
        port: port("healthCheck.port", from.port)?,
        interval: span("healthCheck.interval", from.interval)?,
        timeout: span("healthCheck.timeout", from.timeout)?,
        sick_after: threshold("healthCheck.unhealthyThreshold", from.sick_after)?,
        well_after: threshold("healthCheck.healthyThreshold", from.well_after)?,
    })
}

pub(super) fn encode_load(from: &LoadReport) -> pb::LoadReport {
    pb::LoadReport { port: from.port.map(u32::from), interval: Some(check::duration_out(from.interval)) }
}

pub(super) fn decode_load(from: pb::LoadReport) -> Result<LoadReport, Error> {
    Ok(LoadReport { port: port("loadReport.port", from.port)?, interval: span("loadReport.interval", from.interval)? })
}

fn span(field: &'static str, span: Option<pb::Duration>) -> Result<Duration, Error> {
    let span = check::duration(field, span.ok_or_else(|| missing(field))?)?;
    if span.is_zero() { Err(invalid(field)) } else { Ok(span) }
}

fn port(field: &'static str, port: Option<u32>) -> Result<Option<u16>, Error> {
    port.map(|port| u16::try_from(port).map_err(|_| invalid(field))).transpose()
}
