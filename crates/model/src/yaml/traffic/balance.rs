// SPDX-License-Identifier: Apache-2.0
//! The parts of a TrafficPolicy's document that say which endpoint gets a request.

use super::health::{self, HealthSpec};
use super::load::{self, LoadSpec};
use crate::Labels;
use crate::code;
use crate::policy::traffic::{AREAS_MAX, Balance, Choice, Distribution, Failover, Hash, HashOn, Nearness};
use crate::service::Area;
use crate::yaml::meta;
use crate::yaml::names;
use crate::yaml::reader::Reader;
use byrnie_base::Text;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub(super) enum BalanceWord {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
    WeightedRoundRobin,
    RingHash,
    Maglev,
}

/// What `RingHash` and `Maglev` look at: exactly one of `header`, `cookie`, `query` and `source`.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HashSpec {
    /// The name of a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    /// The name of a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cookie: Option<String>,
    /// The name of a parameter in the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<String>,
    /// Who calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<bool>,
    /// No endpoint gets more than this share of the mean load, such as `125%`; from 101% to 1000%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_load: Option<String>,
}

/// Which endpoints are used, and how fast new ones are.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ChoiceSpec {
    /// Only those whose workloads have all these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    /// Each caller uses so many at most of each tier of `failover.prefer`, and of each place of `failover.distribute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    most: Option<u32>,
    /// A new endpoint, or one that comes back, gets its full share after this time, such as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slow_start: Option<String>,
    /// When less than this share is usable, such as `30%`, health is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    panic_below: Option<String>,
    /// How the proxy of each instance checks its own program; one that fails is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health_check: Option<HealthSpec>,
    /// How the proxy of each instance asks its own program for its load, beside the requests; with `WeightedRoundRobin` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    load_report: Option<LoadSpec>,
}

/// Which endpoints are preferred.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FailoverSpec {
    /// Nearest first; at least one, unless `distribute` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefer: Option<Vec<NearnessWord>>,
    /// A tier of which less than this share is usable hands the lacking part on, such as `70%`.
    #[serde(default = "most")]
    below: String,
    /// The share of requests meant for each of `prefer`, such as `[80%, 20%]`; all for the first unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shares: Vec<String>,
    /// The share of requests meant for places by name, for callers at a place by name. The first that fits is the one that
    /// says most of where the caller is; where none fits, `shares` and `prefer` count alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    distribute: Vec<DistributionSpec>,
}

/// How calls from one place are shared out among places. A place is `REGION/ZONE`, `REGION` (all its zones), or `*` (everywhere).
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct DistributionSpec {
    /// Where the callers are.
    from: String,
    /// The share of each place, such as `{eu/a: 80%, us: 20%}`; together 100%. An endpoint is of the place that says most of where it is.
    to: BTreeMap<String, String>,
}

fn most() -> String {
    "70%".to_owned()
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
enum NearnessWord {
    SameZone,
    SameRegion,
    Any,
}

/// Longest slow start.
const SLOW_START_MAX: Duration = Duration::from_secs(3600);
/// Most places whose callers' calls are shared out by name.
const DISTRIBUTIONS_MAX: usize = 64;
/// Most endpoints that a subset can have.
const MOST_MAX: u32 = 10_000;

/// A rule that hashes and what it hashes come together.
pub(super) fn require_pair(reader: &mut Reader<'_>, balance: Option<Balance>, hash: Option<&HashSpec>) {
    match (balance.is_some_and(Balance::hashes), hash) {
        (true, None) => {
            let message = "RingHash and Maglev need hash: what in a request decides";
            reader.fault(&code::MISSING_FIELD, "spec.balance", message);
        }
        (false, Some(_)) => {
            reader.fault(&code::CONTRADICTION, "spec.hash", "only balance RingHash and Maglev look at a hash");
        }
        _ => {}
    }
}

pub(super) fn read_hash(reader: &mut Reader<'_>, spec: &HashSpec) -> Hash {
    let at = "spec.hash";
    let mut name = |text: &Option<String>, field: &str| {
        let text = text.as_ref()?;
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_token_byte);
        reader.require(fits, &format!("{at}.{field}"), "must be a name of letters, digits, - and _");
        Some(Text::from(text.as_str()))
    };
    let named = [
        name(&spec.header, "header").map(|name| HashOn::Header(name.to_ascii_lowercase().into())),
        name(&spec.cookie, "cookie").map(HashOn::Cookie),
        name(&spec.query, "query").map(HashOn::Query),
        spec.source.filter(|on| *on).map(|_| HashOn::Source),
    ];
    let mut given: Vec<HashOn> = named.into_iter().flatten().collect();
    reader.require(given.len() == 1, at, "exactly one of header, cookie, query and source: true");
    let load_percent_max = spec.max_load.as_ref().map(|text| {
        let share = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).filter(|n| (101..=1000).contains(n));
        reader.require(share.is_some(), "spec.hash.maxLoad", "must be a share from 101% to 1000%");
        share.unwrap_or(1000)
    });
    Hash { on: given.pop().unwrap_or(HashOn::Source), load_percent_max }
}

/// Longest name of a header, cookie or parameter.
const NAME_BYTES_MAX: usize = 128;

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

pub(super) fn read_choice(reader: &mut Reader<'_>, spec: &ChoiceSpec, balance: Option<Balance>) -> Choice {
    let labels: Labels = meta::labels(reader, &spec.labels, "spec.endpoints.labels");
    if let Some(most) = spec.most {
        reader.require((1..=MOST_MAX).contains(&most), "spec.endpoints.most", "must be from 1 to 10000");
    }
    let slow_start = spec.slow_start.as_ref().map(|text| {
        let span = reader.some_time(text, "spec.endpoints.slowStart");
        reader.require(span <= SLOW_START_MAX, "spec.endpoints.slowStart", "must be at most 1h");
        span
    });
    let panic_percent = spec.panic_below.as_ref().map(|text| reader.percent(text, "spec.endpoints.panicBelow"));
    let health_check = spec.health_check.as_ref().map(|check| health::read(reader, check));
    let load_report = spec.load_report.as_ref().map(|report| load::read(reader, report, balance));
    Choice { labels, most: spec.most, slow_start, panic_percent, health_check, load_report }
}

pub(super) fn read_failover(reader: &mut Reader<'_>, spec: &FailoverSpec) -> Failover {
    let path = "spec.failover.prefer";
    let prefer: Vec<Nearness> = spec.prefer.iter().flatten().map(|word| Nearness::from(*word)).collect();
    match &spec.prefer {
        None if spec.distribute.is_empty() => {
            reader.fault(&code::MISSING_FIELD, "spec.failover", "needs prefer, distribute or both");
        }
        Some(words) if words.is_empty() => {
            reader.fault(&code::BAD_VALUE, path, "at least one of sameZone, sameRegion, any");
        }
        _ => {}
    }
    for (i, nearness) in prefer.iter().enumerate() {
        if prefer[..i].contains(nearness) {
            reader.fault(&code::CONTRADICTION, format!("{path}[{i}]"), "stands twice");
        } else if i > 0 && prefer[i - 1] == Nearness::Any {
            reader.fault(&code::CONTRADICTION, format!("{path}[{i}]"), "nothing is left after \"any\"");
        } else if *nearness == Nearness::SameZone && prefer[..i].contains(&Nearness::SameRegion) {
            reader.fault(&code::CONTRADICTION, format!("{path}[{i}]"), "the zone is within the region: put it first");
        }
    }
    let at = "spec.failover.shares";
    let shares: Vec<u8> =
        spec.shares.iter().enumerate().map(|(i, text)| reader.percent(text, &format!("{at}[{i}]"))).collect();
    if !shares.is_empty() {
        let sum: u32 = shares.iter().map(|share| u32::from(*share)).sum();
        let fits = shares.len() == prefer.len() && sum == 100;
        reader.require(fits, at, "one for each of prefer, together 100%");
    }
    let distribute = read_distribute(reader, &spec.distribute);
    Failover { prefer, below_percent: reader.percent(&spec.below, "spec.failover.below"), shares, distribute }
}

fn read_distribute(reader: &mut Reader<'_>, said: &[DistributionSpec]) -> Vec<Distribution> {
    let at = "spec.failover.distribute";
    reader.at_most(said.len(), DISTRIBUTIONS_MAX, at);
    let mut found: Vec<Distribution> = Vec::new();
    for (i, entry) in said.iter().enumerate() {
        let path = format!("{at}[{i}].from");
        let from = area(reader, &entry.from, &path);
        if found.iter().any(|other| other.from == from) {
            reader.fault(&code::CONTRADICTION, path, format!("callers at {from} stand twice"));
        }
        let path = format!("{at}[{i}].to");
        reader.at_most(entry.to.len(), AREAS_MAX, &path);
        let mut to: Vec<(Area, u8)> = Vec::new();
        for (place, share) in &entry.to {
            let path = format!("{path}.{place}");
            let place = area(reader, place, &path);
            if to.iter().any(|(other, _)| *other == place) {
                reader.fault(&code::CONTRADICTION, &path, format!("{place} stands twice"));
            }
            let share = reader.percent(share, &path);
            reader.require(share > 0, &path, "must be from 1%: leave out a place that is to get nothing");
            to.push((place, share));
        }
        let sum: u32 = to.iter().map(|(_, share)| u32::from(*share)).sum();
        reader.require(sum == 100, &path, format!("the shares are {sum}%; together they must be 100%"));
        found.push(Distribution { from, to });
    }
    found
}

/// A place; `REGION/*` is the same as `REGION`.
fn area(reader: &mut Reader<'_>, text: &str, at: &str) -> Area {
    if text == "*" {
        return Area::default();
    }
    let (region, zone) = text.split_once('/').unwrap_or((text, "*"));
    let fits = |name: &str| !name.is_empty() && names::is_label_value(name);
    let good = fits(region) && (zone == "*" || fits(zone));
    reader.require(good, at, format!("\"{text}\" is none of REGION, REGION/ZONE and \"*\""));
    Area { region: region.into(), zone: if zone == "*" { Text::default() } else { zone.into() } }
}

impl From<BalanceWord> for Balance {
    fn from(word: BalanceWord) -> Self {
        match word {
            BalanceWord::PeakEwma => Self::PeakEwma,
            BalanceWord::LeastRequest => Self::LeastRequest,
            BalanceWord::RoundRobin => Self::RoundRobin,
            BalanceWord::Random => Self::Random,
            BalanceWord::WeightedRoundRobin => Self::WeightedRoundRobin,
            BalanceWord::RingHash => Self::RingHash,
            BalanceWord::Maglev => Self::Maglev,
        }
    }
}

impl From<Balance> for BalanceWord {
    fn from(balance: Balance) -> Self {
        match balance {
            Balance::PeakEwma => Self::PeakEwma,
            Balance::LeastRequest => Self::LeastRequest,
            Balance::RoundRobin => Self::RoundRobin,
            Balance::Random => Self::Random,
            Balance::WeightedRoundRobin => Self::WeightedRoundRobin,
            Balance::RingHash => Self::RingHash,
            Balance::Maglev => Self::Maglev,
        }
    }
}

impl From<NearnessWord> for Nearness {
    fn from(word: NearnessWord) -> Self {
        match word {
            NearnessWord::SameZone => Self::SameZone,
            NearnessWord::SameRegion => Self::SameRegion,
            NearnessWord::Any => Self::Any,
        }
    }
}

impl From<&Nearness> for NearnessWord {
    fn from(nearness: &Nearness) -> Self {
        match nearness {
            Nearness::SameZone => Self::SameZone,
            Nearness::SameRegion => Self::SameRegion,
            Nearness::Any => Self::Any,
        }
    }
}

impl From<&Hash> for HashSpec {
    fn from(hash: &Hash) -> Self {
        let max_load = hash.load_percent_max.map(|share| format!("{share}%"));
        let spec = Self { max_load, ..Self::default() };
        match &hash.on {
            HashOn::Header(name) => Self { header: Some(name.to_string()), ..spec },
            HashOn::Cookie(name) => Self { cookie: Some(name.to_string()), ..spec },
            HashOn::Query(name) => Self { query: Some(name.to_string()), ..spec },
            HashOn::Source => Self { source: Some(true), ..spec },
        }
    }
}

impl From<&Choice> for ChoiceSpec {
    fn from(choice: &Choice) -> Self {
        Self {
            labels: choice.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            most: choice.most,
            slow_start: choice.slow_start.map(names::duration_text),
            panic_below: choice.panic_percent.map(|share| format!("{share}%")),
            health_check: choice.health_check.as_ref().map(HealthSpec::from),
            load_report: choice.load_report.as_ref().map(LoadSpec::from),
        }
    }
}

impl From<&Failover> for FailoverSpec {
    fn from(failover: &Failover) -> Self {
        Self {
            prefer: Some(failover.prefer.iter().map(NearnessWord::from).collect())
                .filter(|all: &Vec<_>| !all.is_empty()),
            below: format!("{}%", failover.below_percent),
            shares: failover.shares.iter().map(|share| format!("{share}%")).collect(),
            distribute: failover.distribute.iter().map(DistributionSpec::from).collect(),
        }
    }
}

impl From<&Distribution> for DistributionSpec {
    fn from(one: &Distribution) -> Self {
        let to = one.to.iter().map(|(place, share)| (place.to_string(), format!("{share}%")));
        Self { from: one.from.to_string(), to: to.collect() }
    }
}
