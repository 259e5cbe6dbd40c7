// SPDX-License-Identifier: Apache-2.0
//! `limits.admission` of a TrafficPolicy.

use super::{COUNT_MAX, INTERVAL_MAX};
use crate::policy::traffic::Admission;
use crate::yaml::names;
use crate::yaml::reader::Reader;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Shortest time over which requests are counted: a tenth of it is the least step.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// With more, those refused keep others from being let in long after all is well again; with all, for ever.
const SUCCESS_PERCENT_MAX: u8 = 90;
/// Most statuses: there are no more of them.
const CODES_MAX: usize = 200;

/// When a proxy refuses requests, the less important first, as too many of them fail.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct AdmissionSpec {
    /// Where less than this share of them succeeds, such as `50%`: the service gets as many as succeed, divided by it.
    success_rate: String,
    /// Over which they are counted, such as `10s`.
    window: String,
    /// While fewer have ended within it, on one core of a proxy, none is refused.
    volume: u32,
    /// Never more than this share is refused, such as `80%`: by the others it's seen that the service is back.
    max_rejected: String,
    /// Statuses of those that fail; 429, and from 500 up, unless given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    codes: Vec<u16>,
}

impl Default for AdmissionSpec {
    fn default() -> Self {
        Self {
            success_rate: "50%".to_owned(),
            window: "10s".to_owned(),
            volume: 50,
            max_rejected: "80%".to_owned(),
            codes: Vec::new(),
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>, spec: &AdmissionSpec) -> Admission {
    let at = |name: &str| format!("spec.limits.admission.{name}");
    let mut percent = |text: &str, name: &str, most: u8| {
        let share = names::percent(text).filter(|share| (1..=most).contains(share));
        reader.require(share.is_some(), &at(name), format!("\"{text}\" is not a share from 1% to {most}%"));
        share.unwrap_or(most)
    };
    let success_percent = percent(&spec.success_rate, "successRate", SUCCESS_PERCENT_MAX);
    let rejected_percent_max = percent(&spec.max_rejected, "maxRejected", 100);
    let window = reader.some_time(&spec.window, &at("window"));
    reader.require((WINDOW_MIN..=INTERVAL_MAX).contains(&window), &at("window"), "must be from 1s to 1h");
    reader.require((1..=COUNT_MAX).contains(&spec.volume), &at("volume"), "must be from 1 to 1000000");
    reader.at_most(spec.codes.len(), CODES_MAX, &at("codes"));
    for (i, status) in spec.codes.iter().enumerate() {
        let fits = (400..600).contains(status);
        reader.require(fits, &at(&format!("codes[{i}]")), format!("{status} is no failure; codes go from 400 to 599"));
    }
    Admission { success_percent, window, volume: spec.volume, rejected_percent_max, codes: spec.codes.clone() }
}

impl From<&Admission> for AdmissionSpec {
    fn from(admission: &Admission) -> Self {
        Self {
            success_rate: format!("{}%", admission.success_percent),
            window: names::duration_text(admission.window),
            volume: admission.volume,
            max_rejected: format!("{}%", admission.rejected_percent_max),
            codes: admission.codes.clone(),
        }
    }
}
