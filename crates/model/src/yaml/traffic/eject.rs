// SPDX-License-Identifier: Apache-2.0
//! The part of a TrafficPolicy's document that says when an endpoint is left out.

use super::{COUNT_MAX, INTERVAL_MAX};
use crate::code;
use crate::policy::traffic::Eject;
use crate::yaml::names;
use crate::yaml::reader::Reader;
use serde::{Deserialize, Serialize};

/// When an endpoint is left out: at least one of `consecutiveErrors`, `consecutiveGatewayErrors`,
/// `consecutiveLocalErrors`, `successRate`, `failures` and `latency`.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EjectSpec {
    /// After so many failures in a row, statuses from 500 up included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consecutive_errors: Option<u32>,
    /// After so many failures of the connection, 502, 503 and 504 in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consecutive_gateway_errors: Option<u32>,
    /// After so many failures of the connection in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consecutive_local_errors: Option<u32>,
    /// Whose share of successes is below the mean by this part of its standard deviation, such as `190%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    success_rate: Option<String>,
    /// Who fails in this share of its requests, such as `85%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failures: Option<String>,
    /// Who takes this part of the median time to answer, such as `300%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latency: Option<String>,
    /// How often `successRate`, `failures` and `latency` are compared, such as `10s`.
    #[serde(default = "ten_seconds", skip_serializing_if = "is_ten_seconds")]
    every: String,
    /// Endpoints with fewer requests in that time are not compared.
    #[serde(default = "hundred", skip_serializing_if = "is_hundred")]
    volume: u32,
    /// For so long, such as `30s`, doubled with each ejection.
    #[serde(rename = "for")]
    span: String,
    /// Never more than this share of the endpoints, such as `50%`.
    #[serde(default = "half")]
    max_ejected: String,
}

fn half() -> String {
    "50%".to_owned()
}

fn ten_seconds() -> String {
    "10s".to_owned()
}

fn is_ten_seconds(text: &str) -> bool {
    text == "10s"
}

const fn hundred() -> u32 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_hundred(number: &u32) -> bool {
    *number == 100
}

pub(super) fn read(reader: &mut Reader<'_>, spec: &EjectSpec) -> Eject {
    let at = "spec.eject";
    let rows = [
        ("consecutiveErrors", spec.consecutive_errors),
        ("consecutiveGatewayErrors", spec.consecutive_gateway_errors),
        ("consecutiveLocalErrors", spec.consecutive_local_errors),
    ];
    for (name, count) in rows {
        let fits = count.is_none_or(|count| (1..=COUNT_MAX).contains(&count));
        reader.require(fits, &format!("{at}.{name}"), "must be from 1 to 1000000");
    }
    let compares = spec.success_rate.is_some() || spec.failures.is_some() || spec.latency.is_some();
    if !compares && rows.iter().all(|(_, count)| count.is_none()) {
        let message = "eject needs consecutiveErrors, consecutiveGatewayErrors, consecutiveLocalErrors, successRate, \
                       failures or latency";
        reader.fault(&code::MISSING_FIELD, at, message);
    }
    let mut part = |text: &Option<String>, name: &str, least: u32| {
        let text = text.as_ref()?;
        let share =
            text.strip_suffix('%').and_then(|digits| digits.parse().ok()).filter(|n| (least..=PART_MAX).contains(n));
        let path = format!("{at}.{name}");
        reader.require(share.is_some(), &path, format!("must be from {least}% to {PART_MAX}%"));
        share
    };
    let deviation_percent = part(&spec.success_rate, "successRate", 1);
    let latency_percent = part(&spec.latency, "latency", 101);
    let failure_percent = spec.failures.as_ref().map(|text| reader.percent(text, "spec.eject.failures").max(1));
    reader.require((1..=COUNT_MAX).contains(&spec.volume), "spec.eject.volume", "must be from 1 to 1000000");
    let mut time = |text: &str, name: &str| {
        let path = format!("{at}.{name}");
        let span = reader.some_time(text, &path);
        reader.require(span <= INTERVAL_MAX, &path, "must be at most 1h");
        span
    };
    let (interval, span) = (time(&spec.every, "every"), time(&spec.span, "for"));
    Eject {
        consecutive_errors: spec.consecutive_errors,
        consecutive_gateway_errors: spec.consecutive_gateway_errors,
        consecutive_local_errors: spec.consecutive_local_errors,
        deviation_percent,
        failure_percent,
        latency_percent,
        interval,
        volume: spec.volume,
        span,
        ejected_percent_max: reader.percent(&spec.max_ejected, "spec.eject.maxEjected"),
    }
}

/// Largest part of a deviation or a median, in percent.
const PART_MAX: u32 = 10_000;

impl From<&Eject> for EjectSpec {
    fn from(eject: &Eject) -> Self {
        let part = |share: Option<u32>| share.map(|share| format!("{share}%"));
        Self {
            consecutive_errors: eject.consecutive_errors,
            consecutive_gateway_errors: eject.consecutive_gateway_errors,
            consecutive_local_errors: eject.consecutive_local_errors,
            success_rate: part(eject.deviation_percent),
            failures: eject.failure_percent.map(|share| format!("{share}%")),
            latency: part(eject.latency_percent),
            every: names::duration_text(eject.interval),
            volume: eject.volume,
            span: names::duration_text(eject.span),
            max_ejected: format!("{}%", eject.ejected_percent_max),
        }
    }
}
