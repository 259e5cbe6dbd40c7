// SPDX-License-Identifier: Apache-2.0
//! `AccessPolicy` and `TrafficPolicy` on the wire. A word of an access policy that isn't known is
//! always an error: skipping it would widen who may call.

use super::check::{self, LIST_MAX, invalid, labels, labels_out, list, message, missing};
use super::{Error, fault};
use super::{health, idempotency};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_base::Text;
use byrnie_model::policy::access::{AccessPolicy, Action, HttpMatch, Mode, PathPattern, Rule, Source};
use byrnie_model::policy::traffic::{
    AREAS_MAX, Admission, Balance, By, Choice, Compression, Distribution, Eject, Failover, Hash, HashOn, Hedge, Limits,
    Nearness, Quota, Rate, RetryBudget, TrafficPolicy,
};
use byrnie_model::service::{Area, Locality};
use byrnie_model::{Labels, ServiceRef, Spec};
use std::sync::Arc;

pub(super) fn encode_access(policy: &AccessPolicy, labels: &Labels) -> Bytes {
    let mode = match policy.mode {
        Mode::Enforce => pb::AccessMode::Enforce,
        Mode::Shadow => pb::AccessMode::Shadow,
    };
    let action = match policy.action {
        Action::Allow => pb::AccessAction::Allow,
        Action::Deny => pb::AccessAction::Deny,
    };
    let message = pb::AccessPolicy {
        labels: labels_out(labels),
        mode: mode.into(),
        targets: policy.targets.iter().map(check::service_ref_out).collect(),
        action: action.into(),
        rules: policy.rules.iter().map(rule_out).collect(),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode_access(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let policy: pb::AccessPolicy = message("accessPolicy", bytes)?;
    let mode = match pb::AccessMode::try_from(policy.mode) {
        Ok(pb::AccessMode::Enforce) => Mode::Enforce,
        Ok(pb::AccessMode::Shadow) => Mode::Shadow,
        Ok(pb::AccessMode::Unspecified) | Err(_) => return Err(invalid("mode")),
    };
    let action = match pb::AccessAction::try_from(policy.action) {
        Ok(pb::AccessAction::Allow) => Action::Allow,
        Ok(pb::AccessAction::Deny) => Action::Deny,
        Ok(pb::AccessAction::Unspecified) | Err(_) => return Err(invalid("action")),
    };
    let spec = AccessPolicy {
        mode,
        targets: targets(policy.targets)?,
        action,
        rules: list("rules", LIST_MAX, policy.rules, rule)?,
    };
    Ok((Spec::Access(Arc::new(spec)), labels("labels", policy.labels)?))
}

fn targets(from: Vec<pb::ServiceRef>) -> Result<Vec<ServiceRef>, Error> {
    list("targetRefs", LIST_MAX, from, |target| check::service_ref("targetRefs[]", Some(target)))
}

fn rule(from: pb::AccessRule) -> Result<Rule, Error> {
    Ok(Rule {
        sources: list("rules[].sources", LIST_MAX, from.sources, source)?,
        ports: list("rules[].ports", LIST_MAX, from.ports, |port| check::port("rules[].ports", port))?,
        http: list("rules[].http", LIST_MAX, from.http, http)?,
    })
}

fn rule_out(from: &Rule) -> pb::AccessRule {
    pb::AccessRule {
        sources: from.sources.iter().map(source_out).collect(),
        ports: from.ports.iter().map(|port| u32::from(*port)).collect(),
        http: from.http.iter().map(http_out).collect(),
    }
}

fn source(from: pb::Source) -> Result<Source, Error> {
    const FIELD: &str = "rules[].sources[]";
    Ok(match from.source.ok_or_else(|| missing(FIELD))? {
        pb::source::Source::ServiceAccount(account) => Source::ServiceAccount {
            namespace: check::name(FIELD, &account.namespace)?,
            name: check::name(FIELD, &account.name)?,
        },
        pb::source::Source::Namespace(namespace) => Source::Namespace(check::name(FIELD, &namespace)?),
        pb::source::Source::Identity(uri) => Source::Identity(check::identity(FIELD, &uri)?),
    })
}

fn source_out(from: &Source) -> pb::Source {
    let source = match from {
        Source::ServiceAccount { namespace, name } => pb::source::Source::ServiceAccount(pb::ServiceRef {
            namespace: namespace.to_string(),
            name: name.to_string(),
        }),
        Source::Namespace(namespace) => pb::source::Source::Namespace(namespace.to_string()),
        Source::Identity(identity) => pb::source::Source::Identity(identity.to_string()),
    };
    pb::Source { source: Some(source) }
}

fn http(from: pb::HttpMatch) -> Result<HttpMatch, Error> {
    const METHODS: &str = "rules[].http[].methods";
    let method = |method: String| match check::token(METHODS, &method)? {
        method if method.bytes().any(|b| b.is_ascii_lowercase()) => Err(invalid(METHODS)),
        method => Ok(method),
    };
    Ok(HttpMatch {
        methods: list(METHODS, LIST_MAX, from.methods, method)?,
        paths: list("rules[].http[].paths", LIST_MAX, from.paths, pattern)?,
    })
}

fn http_out(from: &HttpMatch) -> pb::HttpMatch {
    pb::HttpMatch {
        methods: from.methods.iter().map(Text::to_string).collect(),
        paths: from.paths.iter().map(pattern_out).collect(),
    }
}

fn pattern(from: pb::PathPattern) -> Result<PathPattern, Error> {
    const FIELD: &str = "rules[].http[].paths[]";
    let path = |text: String| {
        if text.starts_with('/') { check::text(FIELD, &text) } else { Err(invalid(FIELD)) }
    };
    let segment = |segment: pb::PathSegment| match segment.text {
        Some(text) if text.contains('/') => Err(invalid(FIELD)),
        Some(text) => check::text(FIELD, &text).map(Some),
        None => Ok(None),
    };
    Ok(match from.pattern.ok_or_else(|| missing(FIELD))? {
        pb::path_pattern::Pattern::Exact(text) => PathPattern::Exact(path(text)?),
        pb::path_pattern::Pattern::Below(text) => PathPattern::Below(path(text)?),
        pb::path_pattern::Pattern::Template(template) => {
            PathPattern::Template(list(FIELD, LIST_MAX, template.segments, segment)?)
        }
    })
}

fn pattern_out(from: &PathPattern) -> pb::PathPattern {
    let segment = |text: &Option<Text>| pb::PathSegment { text: text.as_ref().map(Text::to_string) };
    let pattern = match from {
        PathPattern::Exact(text) => pb::path_pattern::Pattern::Exact(text.to_string()),
        PathPattern::Below(text) => pb::path_pattern::Pattern::Below(text.to_string()),
        PathPattern::Template(segments) => {
            pb::path_pattern::Pattern::Template(pb::PathTemplate { segments: segments.iter().map(segment).collect() })
        }
    };
    pb::PathPattern { pattern: Some(pattern) }
}

pub(super) fn encode_traffic(policy: &TrafficPolicy, labels: &Labels) -> Bytes {
    let message = pb::TrafficPolicy {
        labels: labels_out(labels),
        targets: policy.targets.iter().map(check::service_ref_out).collect(),
        balance: policy.balance.map_or(pb::Balance::Unspecified, balance_out).into(),
        hash: policy.hash.as_ref().map(hash_out),
        endpoints: policy.endpoints.as_ref().map(choice_out),
        failover: policy.failover.as_ref().map(failover_out),
        eject: policy.eject.as_ref().map(|eject| pb::Eject {
            consecutive_errors: eject.consecutive_errors,
            span: Some(check::duration_out(eject.span)),
            ejected_percent_max: eject.ejected_percent_max.into(),
            consecutive_gateway_errors: eject.consecutive_gateway_errors,
            consecutive_local_errors: eject.consecutive_local_errors,
            deviation_percent: eject.deviation_percent,
            failure_percent: eject.failure_percent.map(u32::from),
            latency_percent: eject.latency_percent,
            interval: Some(check::duration_out(eject.interval)),
            volume: eject.volume,
        }),
        limits: policy.limits.as_ref().map(limits_out),
        retry_budget: policy.retry_budget.map(|budget| pb::RetryBudget {
            percent: budget.percent.into(),
            interval: Some(check::duration_out(budget.interval)),
            least: Some(rate_out(&budget.least)),
            hedge: budget.hedge.map(hedge_out),
        }),
        unsafe_retry: policy.unsafe_retry,
        fault: policy.fault.as_ref().map(fault::encode),
        connect_timeout: policy.connect_timeout.map(check::duration_out),
        idempotency: policy.idempotency.as_ref().map(idempotency::encode),
        compression: policy.compression.as_ref().map(compression_out),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode_traffic(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let policy: pb::TrafficPolicy = message("trafficPolicy", bytes)?;
    let targets = targets(policy.targets)?;
    if targets.is_empty() {
        return Err(missing("targetRefs"));
    }
    let balance = balance(policy.balance)?;
    let hash = policy.hash.map(hash).transpose()?;
    if hash.is_none() && balance.is_some_and(Balance::hashes) {
        return Err(missing("hash"));
    }
    let spec = TrafficPolicy {
        targets,
        balance,
        hash,
        endpoints: policy.endpoints.map(choice).transpose()?,
        failover: policy.failover.map(failover).transpose()?,
        eject: policy.eject.map(eject).transpose()?,
        limits: policy.limits.map(limits).transpose()?,
        retry_budget: policy.retry_budget.map(budget).transpose()?,
        unsafe_retry: policy.unsafe_retry,
        fault: policy.fault.map(fault::decode).transpose()?,
        connect_timeout: check::optional_duration("connectTimeout", policy.connect_timeout)?,
        idempotency: policy.idempotency.map(idempotency::decode).transpose()?,
        compression: policy.compression.map(compression).transpose()?,
    };
    Ok((Spec::Traffic(Arc::new(spec)), labels("labels", policy.labels)?))
}

fn balance(number: i32) -> Result<Option<Balance>, Error> {
    Ok(Some(match pb::Balance::try_from(number) {
        Ok(pb::Balance::Unspecified) => return Ok(None),
        Ok(pb::Balance::PeakEwma) => Balance::PeakEwma,
        Ok(pb::Balance::LeastRequest) => Balance::LeastRequest,
        Ok(pb::Balance::RoundRobin) => Balance::RoundRobin,
        Ok(pb::Balance::Random) => Balance::Random,
        Ok(pb::Balance::WeightedRoundRobin) => Balance::WeightedRoundRobin,
        Ok(pb::Balance::RingHash) => Balance::RingHash,
        Ok(pb::Balance::Maglev) => Balance::Maglev,
        Err(_) => return Err(invalid("balance")),
    }))
}

const fn balance_out(from: Balance) -> pb::Balance {
    match from {
        Balance::PeakEwma => pb::Balance::PeakEwma,
        Balance::LeastRequest => pb::Balance::LeastRequest,
        Balance::RoundRobin => pb::Balance::RoundRobin,
        Balance::Random => pb::Balance::Random,
        Balance::WeightedRoundRobin => pb::Balance::WeightedRoundRobin,
        Balance::RingHash => pb::Balance::RingHash,
        Balance::Maglev => pb::Balance::Maglev,
    }
}

fn hash(from: pb::Hash) -> Result<Hash, Error> {
    let on = match from.on.ok_or_else(|| missing("hash"))? {
        pb::hash::On::Header(name) => HashOn::Header(check::token("hash.header", &name)?),
        pb::hash::On::Cookie(name) => HashOn::Cookie(check::token("hash.cookie", &name)?),
        pb::hash::On::Query(name) => HashOn::Query(check::token("hash.query", &name)?),
        pb::hash::On::Source(_) => HashOn::Source,
    };
    if from.load_percent_max.is_some_and(|share| share <= 100) {
        return Err(invalid("hash.maxLoad"));
    }
    Ok(Hash { on, load_percent_max: from.load_percent_max })
}

fn hash_out(from: &Hash) -> pb::Hash {
    let on = match &from.on {
        HashOn::Header(name) => pb::hash::On::Header(name.to_string()),
        HashOn::Cookie(name) => pb::hash::On::Cookie(name.to_string()),
        HashOn::Query(name) => pb::hash::On::Query(name.to_string()),
        HashOn::Source => pb::hash::On::Source(pb::HashSource {}),
    };
    pb::Hash { on: Some(on), load_percent_max: from.load_percent_max }
}

fn choice(from: pb::Choice) -> Result<Choice, Error> {
    const PANIC: &str = "endpoints.panicBelow";
    Ok(Choice {
        labels: labels("endpoints.labels", from.labels)?,
        most: from.most.map(|most| check::weight("endpoints.most", most)).transpose()?,
        slow_start: check::optional_duration("endpoints.slowStart", from.slow_start)?,
        panic_percent: from.panic_percent.map(|share| check::percent(PANIC, share)).transpose()?,
        health_check: from.health_check.map(health::decode).transpose()?,
        load_report: from.load_report.map(health::decode_load).transpose()?,
    })
}

fn choice_out(from: &Choice) -> pb::Choice {
    pb::Choice {
        labels: labels_out(&from.labels),
        most: from.most,
        slow_start: from.slow_start.map(check::duration_out),
        panic_percent: from.panic_percent.map(u32::from),
        health_check: from.health_check.as_ref().map(health::encode),
        load_report: from.load_report.as_ref().map(health::encode_load),
    }
}

fn failover(from: pb::Failover) -> Result<Failover, Error> {
    let nearness = |number: i32| match pb::Nearness::try_from(number) {
        Ok(pb::Nearness::SameZone) => Ok(Nearness::SameZone),
        Ok(pb::Nearness::SameRegion) => Ok(Nearness::SameRegion),
        Ok(pb::Nearness::Any) => Ok(Nearness::Any),
        Ok(pb::Nearness::Unspecified) | Err(_) => Err(invalid("failover.prefer")),
    };
    Ok(Failover {
        prefer: list("failover.prefer", LIST_MAX, from.prefer, nearness)?,
        below_percent: check::percent("failover.below", from.below_percent)?,
        shares: list("failover.shares", LIST_MAX, from.shares, |share| check::percent("failover.shares", share))?,
        distribute: list(DISTRIBUTE, LIST_MAX, from.distribute, distribution)?,
    })
}

const DISTRIBUTE: &str = "failover.distribute";

fn distribution(from: pb::Distribution) -> Result<Distribution, Error> {
    let share = |one: pb::AreaShare| Ok((area(one.area)?, check::percent(DISTRIBUTE, one.percent)?));
    let to = list(DISTRIBUTE, AREAS_MAX, from.to, share)?;
    // Whatever is shared out, all of it is.
    if to.iter().map(|(_, share)| u32::from(*share)).sum::<u32>() != 100 {
        return Err(invalid(DISTRIBUTE));
    }
    Ok(Distribution { from: area(from.from)?, to })
}

fn area(from: Option<pb::Locality>) -> Result<Area, Error> {
    let Locality { region, zone } = check::locality(from)?;
    if region.is_empty() && !zone.is_empty() { Err(invalid(DISTRIBUTE)) } else { Ok(Area { region, zone }) }
}

fn area_out(area: &Area) -> Option<pb::Locality> {
    check::locality_out(&Locality { region: area.region.clone(), zone: area.zone.clone() })
}

fn distribution_out(from: &Distribution) -> pb::Distribution {
    let share = |(area, share): &(Area, u8)| pb::AreaShare { area: area_out(area), percent: (*share).into() };
    pb::Distribution { from: area_out(&from.from), to: from.to.iter().map(share).collect() }
}

fn failover_out(from: &Failover) -> pb::Failover {
    let nearness = |nearness: &Nearness| {
        (match nearness {
            Nearness::SameZone => pb::Nearness::SameZone,
            Nearness::SameRegion => pb::Nearness::SameRegion,
            Nearness::Any => pb::Nearness::Any,
        })
        .into()
    };
    pb::Failover {
        prefer: from.prefer.iter().map(nearness).collect(),
        below_percent: from.below_percent.into(),
        shares: from.shares.iter().map(|share| u32::from(*share)).collect(),
        distribute: from.distribute.iter().map(distribution_out).collect(),
    }
}

fn eject(from: pb::Eject) -> Result<Eject, Error> {
    Ok(Eject {
        consecutive_errors: from.consecutive_errors,
        consecutive_gateway_errors: from.consecutive_gateway_errors,
        consecutive_local_errors: from.consecutive_local_errors,
        deviation_percent: from.deviation_percent,
        failure_percent: from.failure_percent.map(|share| check::percent("eject.failures", share)).transpose()?,
        latency_percent: from.latency_percent,
        interval: check::duration("eject.every", from.interval.ok_or_else(|| missing("eject.every"))?)?,
        volume: from.volume,
        span: check::duration("eject.for", from.span.ok_or_else(|| missing("eject.for"))?)?,
        ejected_percent_max: check::percent("eject.maxEjected", from.ejected_percent_max)?,
    })
}

fn compression(from: pb::Compression) -> Result<Compression, Error> {
    const FIELD: &str = "compression.contentTypes";
    let kinds = list(FIELD, LIST_MAX, from.kinds, |kind| check::text(FIELD, &kind))?;
    Ok(Compression { bytes_min: from.bytes_min, kinds })
}

fn compression_out(from: &Compression) -> pb::Compression {
    pb::Compression { bytes_min: from.bytes_min, kinds: from.kinds.iter().map(Text::to_string).collect() }
}

pub(super) fn limits_out(limits: &Limits) -> pb::Limits {
    pb::Limits {
        pending_max: limits.pending_max,
        queued_max: limits.queued_max,
        rate: limits.rate.as_ref().map(rate_out),
        idle_max: limits.idle_max.map(check::duration_out),
        quotas: limits.quotas.iter().map(quota_out).collect(),
        admission: limits.admission.as_ref().map(admission_out),
    }
}

pub(super) fn limits(from: pb::Limits) -> Result<Limits, Error> {
    Ok(Limits {
        pending_max: from.pending_max,
        queued_max: from.queued_max,
        rate: from.rate.map(|from| rate("limits.rate", from)).transpose()?,
        idle_max: check::optional_duration("limits.maxIdle", from.idle_max)?,
        quotas: list(QUOTAS, LIST_MAX, from.quotas, quota)?,
        admission: from.admission.map(admission).transpose()?,
    })
}

fn admission(from: pb::Admission) -> Result<Admission, Error> {
    const FIELD: &str = "limits.admission";
    let share = |number| {
        check::percent(FIELD, number).and_then(|share| match share {
            0 => Err(invalid(FIELD)),
            share => Ok(share),
        })
    };
    let code = |code: u32| u16::try_from(code).map_err(|_| invalid(FIELD));
    let window = check::duration(FIELD, from.window.ok_or_else(|| missing(FIELD))?)?;
    Ok(Admission {
        success_percent: share(from.success_percent)?,
        window: if window.is_zero() { return Err(invalid(FIELD)) } else { window },
        volume: from.volume,
        rejected_percent_max: share(from.rejected_percent_max)?,
        codes: list(FIELD, LIST_MAX, from.codes, code)?,
    })
}

fn admission_out(from: &Admission) -> pb::Admission {
    pb::Admission {
        success_percent: from.success_percent.into(),
        window: Some(check::duration_out(from.window)),
        volume: from.volume,
        rejected_percent_max: from.rejected_percent_max.into(),
        codes: from.codes.iter().map(|code| u32::from(*code)).collect(),
    }
}

const QUOTAS: &str = "limits.quotas";

/// A question about a quota of a service; whose requests, and how many, is left open.
pub fn quota_ask_out(service: &byrnie_model::ServiceRef, quota: &Quota) -> pb::QuotaAsk {
    let service = pb::ServiceRef { namespace: service.namespace.to_string(), name: service.name.to_string() };
    pb::QuotaAsk { service: Some(service), quota: Some(quota_out(quota)), key: 0, requests: 0 }
}

/// Which quota of which service is meant.
///
/// # Errors
/// If that isn't said as it has to be.
pub fn quota_ask(from: pb::QuotaAsk) -> Result<(byrnie_model::ServiceRef, Quota), Error> {
    let service = from.service.ok_or_else(|| missing(QUOTAS))?;
    let service = byrnie_model::ServiceRef::new(service.namespace, service.name);
    Ok((service, quota(from.quota.ok_or_else(|| missing(QUOTAS))?)?))
}

fn quota_out(quota: &Quota) -> pb::Quota {
    let by = match &quota.by {
        By::All => pb::quota::By::All(true),
        By::Caller => pb::quota::By::Caller(true),
        By::Header(name) => pb::quota::By::Header(name.to_string()),
    };
    pb::Quota { rate: Some(rate_out(&quota.rate)), shared: quota.shared, by: Some(by) }
}

fn quota(from: pb::Quota) -> Result<Quota, Error> {
    let by = match from.by.ok_or_else(|| missing(QUOTAS))? {
        pb::quota::By::All(_) => By::All,
        pb::quota::By::Caller(_) => By::Caller,
        pb::quota::By::Header(name) => By::Header(check::text(QUOTAS, &name)?),
    };
    let rate = rate(QUOTAS, from.rate.ok_or_else(|| missing(QUOTAS))?)?;
    Ok(Quota { rate, by, shared: from.shared })
}

fn budget(from: pb::RetryBudget) -> Result<RetryBudget, Error> {
    const FIELD: &str = "retryBudget";
    Ok(RetryBudget {
        percent: check::percent(FIELD, from.percent)?,
        interval: check::duration(FIELD, from.interval.ok_or_else(|| missing(FIELD))?)?,
        least: rate(FIELD, from.least.ok_or_else(|| missing(FIELD))?)?,
        hedge: from.hedge.map(hedge).transpose()?,
    })
}

fn hedge(from: pb::Hedge) -> Result<Hedge, Error> {
    const FIELD: &str = "hedge";
    Ok(match from.after.ok_or_else(|| missing(FIELD))? {
        pb::hedge::After::Percentile(percent) => Hedge::Percentile(check::percent(FIELD, percent)?),
        pb::hedge::After::Delay(span) => Hedge::Delay(check::duration(FIELD, span)?),
    })
}

fn hedge_out(from: Hedge) -> pb::Hedge {
    let after = match from {
        Hedge::Percentile(percent) => pb::hedge::After::Percentile(percent.into()),
        Hedge::Delay(span) => pb::hedge::After::Delay(check::duration_out(span)),
    };
    pb::Hedge { after: Some(after) }
}

fn rate(field: &'static str, from: pb::Rate) -> Result<Rate, Error> {
    let per = check::duration(field, from.per.ok_or_else(|| missing(field))?)?;
    if per.is_zero() { Err(invalid(field)) } else { Ok(Rate { requests: from.requests, per }) }
}

fn rate_out(from: &Rate) -> pb::Rate {
    pb::Rate { requests: from.requests, per: Some(check::duration_out(from.per)) }
}
