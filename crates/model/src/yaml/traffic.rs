// SPDX-License-Identifier: Apache-2.0
//! The document of a TrafficPolicy (the retry budget in the words of XBackendTrafficPolicy).

use self::admission::AdmissionSpec;
use self::balance::{BalanceWord, ChoiceSpec, FailoverSpec, HashSpec};
use self::compression::CompressionSpec;
use self::eject::EjectSpec;
use self::fault::FaultSpec;
use self::quota::QuotaSpec;
use super::idempotency::IdempotencySpec;
use super::names;
use super::reader::{Reader, TargetRef};
use crate::code;
use crate::policy::TrafficPolicy;
use crate::policy::traffic::{Balance, Hedge, Limits, Rate, RetryBudget};
use serde::{Deserialize, Serialize};
use std::time::Duration;

mod admission;
mod balance;
mod compression;
mod eject;
mod fault;
mod health;
mod load;
mod quota;

/// How callers' proxies treat the targets. What is absent keeps the mesh's defaults.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct TrafficSpec {
    /// The services that it's for; at least one.
    target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen; `PeakEwma` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    balance: Option<BalanceWord>,
    /// What `RingHash` and `Maglev` look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<HashSpec>,
    /// Which endpoints are used, and how fast new ones are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoints: Option<ChoiceSpec>,
    /// Which endpoints are preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failover: Option<FailoverSpec>,
    /// When an endpoint is left out for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eject: Option<EjectSpec>,
    /// How much is let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<LimitsSpec>,
    /// How many retries are let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_constraint: Option<RetrySpec>,
    /// Retry POST and PATCH like idempotent methods.
    #[serde(default, skip_serializing_if = "is_false")]
    unsafe_retry: bool,
    /// Most time to open a connection, such as `1s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect_timeout: Option<String>,
    /// What callers suffer on purpose, until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<FaultSpec>,
    /// How requests with an idempotency key are protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency: Option<IdempotencySpec>,
    /// Which answers are compressed for callers that take them so; none unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compression: Option<CompressionSpec>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// How much one proxy lets through, and for how long it lets it rest.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LimitsSpec {
    /// Requests at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_pending: Option<u32>,
    /// Requests that wait for a moment when there are so many; more are refused at once, as all are unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_queued: Option<u32>,
    /// Requests per time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<RateSpec>,
    /// A call of whose bodies nothing moves for so long is ended, and so is a connection, such as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_idle: Option<String>,
    /// Requests per time to one instance, counted at its own proxy; all of them hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    quotas: Vec<QuotaSpec>,
    /// When requests are refused as too many of them fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admission: Option<AdmissionSpec>,
}

/// Requests per time.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct RateSpec {
    /// So many.
    requests: u32,
    /// In each, such as `1s`.
    per: String,
}

/// How many retries are let through.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetrySpec {
    /// A share of the requests.
    #[serde(default)]
    budget: BudgetSpec,
    /// So many whatever the share.
    #[serde(default)]
    min_retry_rate: LeastSpec,
    /// When a call that may be repeated is also sent to another endpoint, within the budget; the quicker answer counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hedge: Option<HedgeSpec>,
}

/// When a call is also sent to another endpoint: one of the two.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct HedgeSpec {
    /// After the time within which this share of answers comes, in percent, from 50 to 99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    percentile: Option<u8>,
    /// After this time, such as `50ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
}

impl From<Hedge> for HedgeSpec {
    fn from(hedge: Hedge) -> Self {
        match hedge {
            Hedge::Percentile(percent) => Self { percentile: Some(percent), delay: None },
            Hedge::Delay(span) => Self { percentile: None, delay: Some(names::duration_text(span)) },
        }
    }
}

/// A share of the requests.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct BudgetSpec {
    /// Percent of the requests of the last interval, from 0 to 100.
    percent: u8,
    /// Over which requests are counted, such as `10s`.
    interval: String,
}

/// The mesh's defaults, which are those of XBackendTrafficPolicy.
impl Default for BudgetSpec {
    fn default() -> Self {
        Self { percent: 20, interval: "10s".to_owned() }
    }
}

/// So many retries whatever the share.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct LeastSpec {
    /// So many.
    count: u32,
    /// In each, such as `1s`.
    interval: String,
}

impl Default for LeastSpec {
    fn default() -> Self {
        Self { count: 10, interval: "1s".to_owned() }
    }
}

/// Longest time to open a connection.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Longest time of rest.
const IDLE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Largest count of requests or failures in a policy.
const COUNT_MAX: u32 = 1_000_000;
/// Most requests that wait for one service.
const QUEUED_MAX: u32 = 10_000;
/// Longest interval over which requests or retries are counted.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<TrafficPolicy> {
    let spec: TrafficSpec = reader.spec()?;
    if spec.target_refs.is_empty() {
        reader.fault(&code::MISSING_FIELD, "spec.targetRefs", "a traffic policy needs at least one target");
    }
    let targets = reader.targets(&spec.target_refs, "spec.targetRefs");
    let connect_timeout = spec.connect_timeout.as_deref().map(|text| {
        let span = reader.some_time(text, "spec.connectTimeout");
        reader.require(span <= CONNECT_TIMEOUT_MAX, "spec.connectTimeout", "must be at most 60s");
        span
    });
    let balance = spec.balance.map(Balance::from);
    balance::require_pair(reader, balance, spec.hash.as_ref());
    Some(TrafficPolicy {
        targets,
        balance,
        hash: spec.hash.as_ref().map(|hash| balance::read_hash(reader, hash)),
        endpoints: spec.endpoints.as_ref().map(|choice| balance::read_choice(reader, choice, balance)),
        failover: spec.failover.as_ref().map(|failover| balance::read_failover(reader, failover)),
        eject: spec.eject.as_ref().map(|eject| eject::read(reader, eject)),
        limits: spec.limits.as_ref().map(|limits| read_limits(reader, limits)),
        retry_budget: spec.retry_constraint.as_ref().map(|retry| read_retry(reader, retry)),
        unsafe_retry: spec.unsafe_retry,
        fault: spec.fault.as_ref().map(|fault| fault::read(reader, fault)),
        connect_timeout,
        idempotency: spec.idempotency.as_ref().map(|spec| spec.read(reader)),
        compression: spec.compression.as_ref().map(|spec| compression::read(reader, spec)),
    })
}

pub(super) fn read_limits(reader: &mut Reader<'_>, spec: &LimitsSpec) -> Limits {
    let some = spec.max_pending.is_some() || spec.rate.is_some() || spec.max_idle.is_some();
    if !some && spec.quotas.is_empty() && spec.admission.is_none() {
        let message = "limits need maxPending, rate, maxIdle, quotas or admission";
        reader.fault(&code::MISSING_FIELD, "spec.limits", message);
    }
    if let Some(pending) = spec.max_pending {
        reader.require((1..=COUNT_MAX).contains(&pending), "spec.limits.maxPending", "must be from 1 to 1000000");
    }
    if let Some(queued) = spec.max_queued {
        let at = "spec.limits.maxQueued";
        reader.require((1..=QUEUED_MAX).contains(&queued), at, "must be from 1 to 10000");
        reader.require(spec.max_pending.is_some(), at, "needs maxPending: what is to be waited for otherwise?");
    }
    let rate = spec.rate.as_ref().map(|rate| {
        let range = "must be from 1 to 1000000";
        reader.require((1..=COUNT_MAX).contains(&rate.requests), "spec.limits.rate.requests", range);
        Rate { requests: rate.requests, per: interval(reader, &rate.per, "spec.limits.rate.per") }
    });
    let idle_max = spec.max_idle.as_deref().map(|text| {
        let span = reader.some_time(text, "spec.limits.maxIdle");
        reader.require(span <= IDLE_MAX, "spec.limits.maxIdle", "must be at most 24h");
        span
    });
    Limits {
        pending_max: spec.max_pending,
        queued_max: spec.max_queued,
        rate,
        idle_max,
        quotas: quota::read(reader, &spec.quotas),
        admission: spec.admission.as_ref().map(|admission| admission::read(reader, admission)),
    }
}

fn read_retry(reader: &mut Reader<'_>, spec: &RetrySpec) -> RetryBudget {
    let at = "spec.retryConstraint";
    reader.require(spec.budget.percent <= 100, &format!("{at}.budget.percent"), "must be from 0 to 100");
    let per = interval(reader, &spec.budget.interval, &format!("{at}.budget.interval"));
    let least = &spec.min_retry_rate;
    reader.require(least.count <= COUNT_MAX, &format!("{at}.minRetryRate.count"), "must be from 0 to 1000000");
    let least_per = interval(reader, &least.interval, &format!("{at}.minRetryRate.interval"));
    let hedge = spec.hedge.as_ref().and_then(|hedge| read_hedge(reader, hedge));
    let least = Rate { requests: least.count, per: least_per };
    RetryBudget { percent: spec.budget.percent, interval: per, least, hedge }
}

fn read_hedge(reader: &mut Reader<'_>, spec: &HedgeSpec) -> Option<Hedge> {
    let at = "spec.retryConstraint.hedge";
    match (spec.percentile, spec.delay.as_deref()) {
        (Some(percent), None) => {
            let range = "must be from 50 to 99";
            reader.require((50..=99).contains(&percent), &format!("{at}.percentile"), range);
            Some(Hedge::Percentile(percent))
        }
        (None, Some(text)) => Some(Hedge::Delay(interval(reader, text, &format!("{at}.delay")))),
        _ => {
            reader.fault(&code::MISSING_FIELD, at, "hedge needs percentile or delay, and not both");
            None
        }
    }
}

fn interval(reader: &mut Reader<'_>, text: &str, path: &str) -> Duration {
    let span = reader.some_time(text, path);
    reader.require(span <= INTERVAL_MAX, path, "must be at most 1h");
    span
}

impl From<&Limits> for LimitsSpec {
    fn from(limits: &Limits) -> Self {
        let text = names::duration_text;
        Self {
            max_pending: limits.pending_max,
            max_queued: limits.queued_max,
            rate: limits.rate.as_ref().map(|rate| RateSpec { requests: rate.requests, per: text(rate.per) }),
            max_idle: limits.idle_max.map(text),
            quotas: limits.quotas.iter().map(QuotaSpec::from).collect(),
            admission: limits.admission.as_ref().map(AdmissionSpec::from),
        }
    }
}

impl From<&TrafficPolicy> for TrafficSpec {
    fn from(policy: &TrafficPolicy) -> Self {
        let text = names::duration_text;
        Self {
            target_refs: policy.targets.iter().map(TargetRef::from).collect(),
            balance: policy.balance.map(BalanceWord::from),
            hash: policy.hash.as_ref().map(HashSpec::from),
            endpoints: policy.endpoints.as_ref().map(ChoiceSpec::from),
            failover: policy.failover.as_ref().map(FailoverSpec::from),
            eject: policy.eject.as_ref().map(EjectSpec::from),
            limits: policy.limits.as_ref().map(LimitsSpec::from),
            retry_constraint: policy.retry_budget.as_ref().map(|budget| RetrySpec {
                budget: BudgetSpec { percent: budget.percent, interval: text(budget.interval) },
                min_retry_rate: LeastSpec { count: budget.least.requests, interval: text(budget.least.per) },
                hedge: budget.hedge.map(HedgeSpec::from),
            }),
            unsafe_retry: policy.unsafe_retry,
            connect_timeout: policy.connect_timeout.map(text),
            fault: policy.fault.as_ref().map(FaultSpec::from),
            idempotency: policy.idempotency.as_ref().map(IdempotencySpec::from),
            compression: policy.compression.as_ref().map(CompressionSpec::from),
        }
    }
}
