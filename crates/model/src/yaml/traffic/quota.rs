// SPDX-License-Identifier: Apache-2.0
//! `limits.quotas` of a TrafficPolicy.

use super::{COUNT_MAX, interval};
use crate::code;
use crate::policy::traffic::{By, Quota, Rate};
use crate::yaml::names;
use crate::yaml::reader::Reader;
use serde::{Deserialize, Serialize};

/// Most quotas of one policy: each is asked for each request.
const QUOTAS_MAX: usize = 8;

/// Requests per time to one instance, or to all together.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotaSpec {
    /// So many, and that many at once.
    requests: u32,
    /// In each, such as `1s`.
    per: String,
    /// Which are counted together; all unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<ByWord>,
    /// The header, for `by: Header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    /// Counted over all instances, and not at each by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
}

/// Which requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
enum ByWord {
    /// All.
    All,
    /// Those of one identity.
    Caller,
    /// Those with one value of a header; those without it are counted together too.
    Header,
}

pub(super) fn read(reader: &mut Reader<'_>, said: &[QuotaSpec]) -> Vec<Quota> {
    let path = "spec.limits.quotas";
    reader.at_most(said.len(), QUOTAS_MAX, path);
    let mut quotas: Vec<Quota> = Vec::new();
    for (i, said) in said.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let range = "must be from 1 to 1000000";
        reader.require((1..=COUNT_MAX).contains(&said.requests), &format!("{at}.requests"), range);
        let rate = Rate { requests: said.requests, per: interval(reader, &said.per, &format!("{at}.per")) };
        let by = by(reader, said, &at);
        if quotas.iter().any(|other| other.by == by && other.rate.per == rate.per) {
            reader.fault(&code::CONTRADICTION, &at, "another quota counts the same requests over the same time");
        }
        quotas.push(Quota { rate, by, shared: said.shared });
    }
    quotas
}

fn by(reader: &mut Reader<'_>, said: &QuotaSpec, at: &str) -> By {
    match (said.by.unwrap_or(ByWord::All), &said.header) {
        (ByWord::Header, Some(name)) => {
            let fits = names::is_header_name(name);
            reader.require(fits, &format!("{at}.header"), format!("\"{name}\" is not the name of a header"));
            By::Header(name.to_ascii_lowercase().into())
        }
        (ByWord::Header, None) => {
            reader.fault(&code::MISSING_FIELD, at, "by: Header needs the field \"header\"");
            By::All
        }
        (word, header) => {
            if header.is_some() {
                reader.fault(&code::CONTRADICTION, format!("{at}.header"), "a header is for by: Header alone");
            }
            if word == ByWord::Caller { By::Caller } else { By::All }
        }
    }
}

impl From<&Quota> for QuotaSpec {
    fn from(quota: &Quota) -> Self {
        let (by, header) = match &quota.by {
            By::All => (None, None),
            By::Caller => (Some(ByWord::Caller), None),
            By::Header(name) => (Some(ByWord::Header), Some(name.to_string())),
        };
        Self {
            requests: quota.rate.requests,
            per: names::duration_text(quota.rate.per),
            by,
            header,
            shared: quota.shared,
        }
    }
}
