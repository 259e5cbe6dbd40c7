// SPDX-License-Identifier: Apache-2.0
//! How a service is called.

use super::fault::Fault;
use crate::policy::{HealthCheck, Idempotency};
use crate::service::{Area, Locality};
use crate::{Labels, ServiceRef};
use byrnie_base::Text;
use std::time::Duration;

/// How callers' proxies treat the targets. What is absent keeps the mesh's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// The services that it's for; at least one.
    pub targets: Vec<ServiceRef>,
    /// How an endpoint is chosen.
    pub balance: Option<Balance>,
    /// What the hashing rules look at; present with these only.
    pub hash: Option<Hash>,
    /// Which endpoints are used, and how fast new ones are.
    pub endpoints: Option<Choice>,
    /// Which endpoints are preferred.
    pub failover: Option<Failover>,
    /// When an endpoint is left out for a while.
    pub eject: Option<Eject>,
    /// How much is let through.
    pub limits: Option<Limits>,
    /// How many retries are let through.
    pub retry_budget: Option<RetryBudget>,
    /// Retry POST and PATCH like idempotent methods (`unsafeRetry`).
    pub unsafe_retry: bool,
    /// What callers suffer on purpose.
    pub fault: Option<Fault>,
    /// Most time to open a connection; 1 s unless given.
    pub connect_timeout: Option<Duration>,
    /// How requests with an idempotency key are protected.
    pub idempotency: Option<Idempotency>,
    /// Which answers are compressed; none unless given.
    pub compression: Option<Compression>,
}

impl TrafficPolicy {
    /// Whether it says something that the callee's own proxy sees to.
    pub const fn is_for_callee(&self) -> bool {
        let asked = self.health_check().is_some() || self.load_report().is_some();
        self.idempotency.is_some() || self.compression.is_some() || asked || self.has_quotas()
    }

    const fn has_quotas(&self) -> bool {
        match &self.limits {
            Some(limits) => !limits.quotas.is_empty(),
            None => false,
        }
    }

    /// Which endpoints are used, if it says so; how they are checked is a matter of its own.
    pub fn choice(&self) -> Option<&Choice> {
        let says = |c: &Choice| {
            !c.labels.is_empty() || c.most.is_some() || c.slow_start.is_some() || c.panic_percent.is_some()
        };
        self.endpoints.as_ref().filter(|choice| says(choice))
    }

    /// The matters on which it decides, by the fields that say it. Of several policies for a service, the first by name
    /// that speaks of a matter decides it.
    pub fn matters(&self) -> Vec<&'static str> {
        let limited = |says: fn(&Limits) -> bool| self.limits.as_ref().is_some_and(says);
        let said = [
            ("balance", self.balance.is_some()),
            ("endpoints", self.choice().is_some()),
            ("endpoints.healthCheck", self.health_check().is_some()),
            ("endpoints.loadReport", self.load_report().is_some()),
            ("failover", self.failover.is_some()),
            ("eject", self.eject.is_some()),
            ("limits.maxPending", limited(|limits| limits.pending_max.is_some())),
            ("limits.rate", limited(|limits| limits.rate.is_some())),
            ("limits.maxIdle", limited(|limits| limits.idle_max.is_some())),
            ("limits.quotas", limited(|limits| !limits.quotas.is_empty())),
            ("limits.admission", limited(|limits| limits.admission.is_some())),
            ("retryConstraint", self.retry_budget.is_some()),
            ("unsafeRetry", self.unsafe_retry),
            ("connectTimeout", self.connect_timeout.is_some()),
            ("fault", self.fault.is_some()),
            ("idempotency", self.idempotency.is_some()),
            ("compression", self.compression.is_some()),
        ];
        said.into_iter().filter(|(_, is)| *is).map(|(matter, _)| matter).collect()
    }

    /// How instances are checked.
    pub const fn health_check(&self) -> Option<&HealthCheck> {
        match &self.endpoints {
            Some(choice) => choice.health_check.as_ref(),
            None => None,
        }
    }

    /// How instances are asked for their load.
    pub const fn load_report(&self) -> Option<&LoadReport> {
        match &self.endpoints {
            Some(choice) => choice.load_report.as_ref(),
            None => None,
        }
    }
}

/// Which answers are compressed for callers that take them so, by the callee's own proxy. The rules themselves, with their
/// sources, are in `engine/compress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Answers whose length is known are, from so many bytes on.
    pub bytes_min: u32,
    /// Media types in lower case, such as `text/html` or `text/*`; empty: those that grow smaller by it.
    pub kinds: Vec<Text>,
}

impl Compression {
    /// Unless a policy says otherwise: what goes into one packet all the same isn't worth it.
    pub const BYTES_MIN: u32 = 1024;
}

/// How an endpoint is chosen. The rules themselves, with their sources, are in `engine/balance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two taken at random, the one with the lesser latency times tries under way.
    #[default]
    PeakEwma,
    /// The less busy of two taken at random.
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// In proportion to the load that endpoints report of themselves (ORCA).
    WeightedRoundRobin,
    /// By hash, on a ring.
    RingHash,
    /// By hash, in a table.
    Maglev,
}

impl Balance {
    /// Whether it needs a [`Hash`].
    pub const fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// What the hashing rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    /// Requests that are equal in this go to one endpoint. Those that lack it are spread at random.
    pub on: HashOn,
    /// No endpoint gets more than this share (percent, above 100) of the mean load; the next one in the
    /// order of the hash takes the rest. `None`: no bound.
    pub load_percent_max: Option<u32>,
}

/// The part of a request that is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The first value of this header.
    Header(Text),
    /// The cookie of this name.
    Cookie(Text),
    /// The parameter of this name in the query.
    Query(Text),
    /// Who calls: the workload, or at an edge the client's address.
    Source,
}

/// Which endpoints are used, and how fast new ones are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Only those with all these labels.
    pub labels: Labels,
    /// Each caller uses so many of each tier and named place at most.
    pub most: Option<u32>,
    /// A new endpoint, or one that comes back, gets its full share after this time.
    pub slow_start: Option<Duration>,
    /// Below this share (percent) of usable endpoints, health is ignored: so many are more likely to be
    /// called sick wrongly than to be sick.
    pub panic_percent: Option<u8>,
    /// How the proxy of each instance checks its own program.
    pub health_check: Option<HealthCheck>,
    /// How the proxy of each instance asks its own program for its load.
    pub load_report: Option<LoadReport>,
}

/// How the proxy of each instance asks its own program for the load under which it stands: by a stream of reports beside the
/// requests (ORCA; gRFC A51). Only [`Balance::WeightedRoundRobin`] looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadReport {
    /// The port of the service whose program is asked; the first one that speaks HTTP/2 unless given.
    pub port: Option<u16>,
    /// How often it's to report, from [`LoadReport::INTERVAL_MIN`] to [`LoadReport::INTERVAL_MAX`].
    pub interval: Duration,
}

impl LoadReport {
    /// The interval unless given: Envoy's `oob_reporting_period`, and gRPC's.
    pub const INTERVAL: Duration = Duration::from_secs(10);
    /// Shortest interval.
    pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
    /// Longest interval: three of them are the time for which gRPC believes a report.
    pub const INTERVAL_MAX: Duration = Duration::from_secs(60);
}

impl Choice {
    /// Whether an endpoint with these labels is one of those.
    pub fn admits(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }

    /// The labels as one writes them in a line: `a=1,b=2`.
    pub fn wanted(&self) -> String {
        self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
    }
}

/// Which endpoints are preferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Nearest first.
    pub prefer: Vec<Nearness>,
    /// A tier of which less than this share (percent) is usable hands the lacking part on.
    pub below_percent: u8,
    /// The share (percent) of requests meant for each of `prefer`; together 100. Empty: all for the first.
    pub shares: Vec<u8>,
    /// Shares of places by name, for callers at a place by name: where one fits, `shares` doesn't count, and `prefer` only
    /// orders the places that aren't named.
    pub distribute: Vec<Distribution>,
}

/// Most places among which the calls from one place are shared out.
pub const AREAS_MAX: usize = 16;

/// How calls from one place are shared out among places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Where the callers are.
    pub from: Area,
    /// The share (percent) of requests meant for each place; together 100. From 1 to [`AREAS_MAX`], each once, none of them 0.
    /// An endpoint is of the place that says most of where it is.
    pub to: Vec<(Area, u8)>,
}

impl Failover {
    /// How calls of one who is there are shared out, if that is said: by the entry that says most of where it is.
    pub fn distribution(&self, at: &Locality) -> Option<&Distribution> {
        let fitting = self.distribute.iter().filter(|entry| entry.from.has(at));
        fitting.max_by_key(|entry| entry.from.detail())
    }
}

impl Distribution {
    /// Of which of its places one who is there is.
    pub fn place(&self, at: &Locality) -> Option<&Area> {
        self.to.iter().map(|(area, _)| area).filter(|area| area.has(at)).max_by_key(|area| area.detail())
    }
}

/// How near an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearness {
    /// The same region and zone.
    SameZone,
    /// The same region.
    SameRegion,
    /// Wherever.
    Any,
}

/// When an endpoint is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eject {
    /// After so many failures in a row, statuses from 500 up included.
    pub consecutive_errors: Option<u32>,
    /// After so many failures of the connection, 502, 503 and 504 in a row.
    pub consecutive_gateway_errors: Option<u32>,
    /// After so many failures of the connection in a row.
    pub consecutive_local_errors: Option<u32>,
    /// Whose share of successes is below the mean by so many (percent) of its standard deviations.
    pub deviation_percent: Option<u32>,
    /// Who fails in this share (percent) of its requests.
    pub failure_percent: Option<u8>,
    /// Who takes so many percent of the median time to answer.
    pub latency_percent: Option<u32>,
    /// How often endpoints are compared.
    pub interval: Duration,
    /// Endpoints with fewer requests in an interval are not compared.
    pub volume: u32,
    /// For so long, doubled with each ejection.
    pub span: Duration,
    /// Never more than this share (percent) of the endpoints, but always allowing one of two or more.
    pub ejected_percent_max: u8,
}

impl Eject {
    /// Whether endpoints are compared with each other.
    pub const fn compares(&self) -> bool {
        self.deviation_percent.is_some() || self.failure_percent.is_some() || self.latency_percent.is_some()
    }

    /// Whether failures of the connection in a row are enough, so that whoever isn't there is left out soon.
    pub const fn counts_rows(&self) -> bool {
        self.consecutive_errors.is_some()
            || self.consecutive_gateway_errors.is_some()
            || self.consecutive_local_errors.is_some()
    }
}

/// Without a policy, failures count and nothing is compared.
impl Default for Eject {
    fn default() -> Self {
        Self {
            consecutive_errors: Some(5),
            consecutive_gateway_errors: None,
            consecutive_local_errors: None,
            deviation_percent: None,
            failure_percent: None,
            latency_percent: None,
            interval: Duration::from_secs(10),
            volume: 100,
            span: Duration::from_secs(10),
            ejected_percent_max: 50,
        }
    }
}

/// How much is let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once from one proxy.
    pub pending_max: Option<u32>,
    /// Requests that wait for one of these to end; none unless given, and only with `pending_max`.
    pub queued_max: Option<u32>,
    /// Requests per time from one proxy.
    pub rate: Option<Rate>,
    /// A call of whose bodies nothing moves for so long is ended, and so is a connection; no such limit for calls, and 1 h
    /// for connections, unless given.
    pub idle_max: Option<Duration>,
    /// Requests per time to instances, counted at their own proxies; all of them hold.
    pub quotas: Vec<Quota>,
    /// When requests are refused as too many of them fail.
    pub admission: Option<Admission>,
}

/// When requests are refused as too many of them fail. The law, with its source, is in `engine/admission`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Where less than this share (percent) of them succeeds.
    pub success_percent: u8,
    /// Over which they are counted.
    pub window: Duration,
    /// While fewer have ended within it none is refused.
    pub volume: u32,
    /// Never more than this share (percent) is.
    pub rejected_percent_max: u8,
    /// Statuses of those that fail; empty: 429, and from 500 up.
    pub codes: Vec<u16>,
}

/// So many requests per time to one instance, or to all together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// How many; that many at once too.
    pub rate: Rate,
    /// Whose are counted together.
    pub by: By,
    /// Over all instances, by leases of the control plane; at each instance by itself if not.
    pub shared: bool,
}

/// Which requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// All.
    All,
    /// Those of one identity.
    Caller,
    /// Those with one value of this header, in lower case; those without it are counted together too.
    Header(Text),
}

/// Requests per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// So many.
    pub requests: u32,
    /// In each.
    pub per: Duration,
}

/// How many retries are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Percent of the requests of the last interval.
    pub percent: u8,
    /// Over which requests are counted.
    pub interval: Duration,
    /// So many are let through whatever the share.
    pub least: Rate,
    /// When a call that may be repeated is also sent to another endpoint, within the budget; the quicker answer counts.
    pub hedge: Option<Hedge>,
}

/// When a try is taken to be slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedge {
    /// After the time within which this share (percent, from 50 to 99) of answers comes.
    Percentile(u8),
    /// After this time.
    Delay(Duration),
}
