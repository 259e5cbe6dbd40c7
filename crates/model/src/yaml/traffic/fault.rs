// SPDX-License-Identifier: Apache-2.0
//! The part of a TrafficPolicy's document that says what callers suffer on purpose.

use crate::code;
use crate::policy::fault::Fault;
use crate::yaml::names;
use crate::yaml::reader::Reader;
use byrnie_base::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What callers suffer, until when: at least one of `delay`, `abort`, `reset` and `slowBody`.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultSpec {
    /// The share of the requests that fit, such as `10%`.
    #[serde(default = "all")]
    percent: String,
    /// They wait so long first, such as `200ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    /// They are answered with this status, from 200 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    abort: Option<u16>,
    /// Their connection is cut.
    #[serde(default, skip_serializing_if = "is_false")]
    reset: bool,
    /// The body of their answer comes so long after its head, such as `2s`.
    #[serde(default, rename = "slowBody", skip_serializing_if = "Option::is_none")]
    slow_body: Option<String>,
    /// Only requests that fit; all unless given.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    matches: Option<MatchSpec>,
    /// When it's over, in UTC, such as `2030-01-31T12:00:00Z`.
    until: String,
}

/// Which requests.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct MatchSpec {
    /// The method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// At or below this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// With this header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<HeaderSpec>,
}

/// A header and its value.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeaderSpec {
    /// Its name.
    name: String,
    /// Its whole value.
    value: String,
}

fn all() -> String {
    "100%".to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Longest delay, of an answer or of its body.
const DELAY_MAX: Duration = Duration::from_secs(300);

pub(super) fn read(reader: &mut Reader<'_>, spec: &FaultSpec) -> Fault {
    let at = "spec.fault";
    if spec.delay.is_none() && spec.abort.is_none() && !spec.reset && spec.slow_body.is_none() {
        reader.fault(&code::MISSING_FIELD, at, "a fault needs delay, abort, reset or slowBody");
    }
    if spec.slow_body.is_some() && (spec.abort.is_some() || spec.reset) {
        let message = "what is answered by the mesh or cut has no body of the program: slowBody, or abort or reset";
        reader.fault(&code::CONTRADICTION, format!("{at}.slowBody"), message);
    }
    if spec.abort.is_some() && spec.reset {
        reader.fault(&code::CONTRADICTION, format!("{at}.reset"), "what is cut has no status: abort or reset");
    }
    let mut span = |text: Option<&str>, at: &str| {
        text.map(|text| {
            let span = reader.some_time(text, at);
            reader.require(span <= DELAY_MAX, at, "must be at most 5m");
            span
        })
    };
    let delay = span(spec.delay.as_deref(), "spec.fault.delay");
    let slow_body = span(spec.slow_body.as_deref(), "spec.fault.slowBody");
    let status = spec.abort.is_none_or(|status| (200..=599).contains(&status));
    reader.require(status, "spec.fault.abort", "must be a status from 200 to 599");
    let none = MatchSpec::default();
    let matches = spec.matches.as_ref().unwrap_or(&none);
    let method = matches.method.as_ref().is_none_or(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_uppercase()));
    reader.require(method, "spec.fault.match.method", "must be a method in capitals");
    let path = matches.path.as_ref().is_none_or(|path| path.starts_with('/') && path.len() <= 1024);
    reader.require(path, "spec.fault.match.path", "must begin with / and have at most 1024 bytes");
    if let Some(header) = &matches.header {
        reader.require(names::is_header_name(&header.name), "spec.fault.match.header.name", "is no header's name");
        reader.require(names::is_header_value(&header.value), "spec.fault.match.header.value", "is no header's value");
    }
    let until = names::timestamp(&spec.until);
    reader.require(until.is_some(), "spec.fault.until", "must be a time in UTC such as 2030-01-31T12:00:00Z");
    Fault {
        percent: reader.percent(&spec.percent, "spec.fault.percent"),
        delay,
        abort: spec.abort,
        reset: spec.reset,
        slow_body,
        method: matches.method.as_deref().map(Into::into),
        path_prefix: matches.path.as_deref().map(Into::into),
        header: matches.header.as_ref().map(|h| (h.name.to_ascii_lowercase().into(), h.value.as_str().into())),
        until: until.unwrap_or(Timestamp::from_millis(0)),
    }
}

impl From<&Fault> for FaultSpec {
    fn from(fault: &Fault) -> Self {
        let header = fault.header.as_ref().map(|(n, v)| HeaderSpec { name: n.to_string(), value: v.to_string() });
        let text = |text: &Option<byrnie_base::Text>| text.as_ref().map(ToString::to_string);
        let matches = MatchSpec { method: text(&fault.method), path: text(&fault.path_prefix), header };
        let any = matches.method.is_some() || matches.path.is_some() || matches.header.is_some();
        Self {
            percent: format!("{}%", fault.percent),
            delay: fault.delay.map(names::duration_text),
            abort: fault.abort,
            reset: fault.reset,
            slow_body: fault.slow_body.map(names::duration_text),
            matches: any.then_some(matches),
            until: names::timestamp_text(fault.until),
        }
    }
}
