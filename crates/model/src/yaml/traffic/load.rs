// SPDX-License-Identifier: Apache-2.0
//! The part of a TrafficPolicy's document that says how instances are asked for their load.

use crate::code;
use crate::policy::traffic::{Balance, LoadReport};
use crate::yaml::names;
use crate::yaml::reader::Reader;
use serde::{Deserialize, Serialize};

/// How the proxy of each instance asks its own program for its load: by `xds.service.orca.v3.OpenRcaService` (ORCA out of band). A
/// program without that service is left alone.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoadSpec {
    /// The service's port; the first one that speaks HTTP/2 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// How often it's to report, such as `10s`; from 100ms to 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
}

const AT: &str = "spec.endpoints.loadReport";

pub(super) fn read(reader: &mut Reader<'_>, spec: &LoadSpec, balance: Option<Balance>) -> LoadReport {
    if balance != Some(Balance::WeightedRoundRobin) {
        reader.fault(&code::CONTRADICTION, AT, "only balance WeightedRoundRobin looks at load that is reported");
    }
    reader.require(spec.port != Some(0), &format!("{AT}.port"), "0 is not a port; ports go from 1 to 65535");
    let interval = spec.interval.as_deref().map_or(LoadReport::INTERVAL, |text| {
        let at = format!("{AT}.interval");
        let span = reader.some_time(text, &at);
        let range = LoadReport::INTERVAL_MIN..=LoadReport::INTERVAL_MAX;
        // Nothing at all was said to be wrong already.
        reader.require(span.is_zero() || range.contains(&span), &at, "must be from 100ms to 60s");
        span
    });
    LoadReport { port: spec.port, interval }
}

impl From<&LoadReport> for LoadSpec {
    fn from(report: &LoadReport) -> Self {
        Self { port: report.port, interval: Some(names::duration_text(report.interval)) }
    }
}
