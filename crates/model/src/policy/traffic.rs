// SPDX-License-Identifier: Apache-2.0
//! How a service is called.

use crate::ServiceRef;
use std::time::Duration;

/// How callers' proxies treat the targets. What is absent keeps the mesh's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// The services that it's for; at least one.
    pub targets: Vec<ServiceRef>,
    /// How an endpoint is chosen.
    pub balance: Option<Balance>,
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
    /// Most time to open a connection; 1 s unless given.
    pub connect_timeout: Option<Duration>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// The less busy of two taken at random (Mitzenmacher, "The Power of Two Choices", 2001).
    #[default]
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
}

/// Which endpoints are preferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Nearest first.
    pub prefer: Vec<Nearness>,
    /// Go on to the next when less than this share (percent) is healthy.
    pub below_percent: u8,
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
    /// After so many failures in a row.
    pub consecutive_errors: u32,
    /// For so long, times the number of ejections so far (at most 10).
    pub span: Duration,
    /// Never more than this share (percent) of the endpoints, but always allowing one of two or more.
    pub ejected_percent_max: u8,
}

/// How much is let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once from one proxy.
    pub pending_max: Option<u32>,
    /// Requests per time from one proxy.
    pub rate: Option<Rate>,
}

/// Requests per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}
