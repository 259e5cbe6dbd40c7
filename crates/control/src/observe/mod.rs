// SPDX-License-Identifier: Apache-2.0
//! What proxies saw, gathered: counts and latencies for each flow over the last hour, and recent
//! decision records. The reports role feeds an [`Observer`]; the console asks it. It is a pure struct:
//! time comes with each event, and every part of it is bounded, whatever a proxy reports.

mod collect;
mod flow;
mod query;
mod records;
#[cfg(test)]
mod tests;

pub use collect::short;
pub use flow::{Flow, Total};
pub use query::{By, Edge, Filter, Stat};
pub use records::Wanted;

use byrnie_base::{Instant, Text, Timestamp};
use byrnie_model::gateway::Port;
use flow::Track;
use records::Records;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most flows kept apart; the counts of further ones go to a flow whose route and method are `other`.
pub const FLOWS_MAX: usize = 1_000;
/// Most proxies remembered.
pub const NODES_MAX: usize = 10_000;
/// How far back one can look.
pub const WINDOW_MAX: Duration = Duration::from_secs(3600);

/// What all proxies saw.
#[derive(Debug, Default)]
pub struct Observer {
    flows: BTreeMap<Flow, Track>,
    records: Records,
    nodes: BTreeMap<Text, Node>,
    /// When the first report came: rates are over the time since then if it's short.
    first: Option<Instant>,
    /// Reports taken in.
    reports: u64,
}

/// What a proxy last said of itself.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// When.
    pub seen: Instant,
    /// The configuration in force.
    pub revision: u64,
    /// When its certificate ends; 0 if it didn't say.
    pub certificate_not_after: Timestamp,
    /// Records that it dropped for want of room, in all.
    pub records_dropped: u64,
    /// Endpoints as it sees them.
    pub endpoints: Vec<Endpoint>,
    /// What its own program has under way.
    pub programs: Vec<Load>,
    /// Ports of gateways that it can't serve, and why.
    pub closed: Vec<(Port, Text)>,
}

/// What the program beside a proxy has under way for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The service.
    pub destination: Text,
    /// Requests under way.
    pub in_flight: u32,
    /// How many it's given at once; `None` while that isn't limited, as it answers as quickly as ever.
    pub limit: Option<u32>,
}

/// How much the instances of a service have to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Saturation {
    /// Requests under way.
    pub in_flight: u64,
    /// How many those instances are given at once that are limited; 0 if none is.
    pub limit: u64,
    /// In flight by limit, in the mean of the instances. One without a limit counts as idle: its program is no slower
    /// than ever.
    pub share: f64,
}

/// One endpoint as one proxy sees it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The service.
    pub destination: Text,
    /// The workload behind it.
    pub workload: Text,
    /// Whether it's left out for a while.
    pub ejected: bool,
    /// Requests on their way there.
    pub in_flight: u32,
}

impl Observer {
    /// An observer that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a proxy last said of itself.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Every proxy that has reported, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&Text, &Node)> {
        self.nodes.iter()
    }

    /// How much the instances of a service have to do, by reports no older than `fresh`; `None` if none says.
    pub fn saturation(&self, service: &str, fresh: Duration, now: Instant) -> Option<Saturation> {
        let awake = self.nodes.values().filter(|node| now.since(node.seen) < fresh);
        let programs = awake.flat_map(|node| &node.programs).filter(|program| *program.destination == *service);
        let (mut sum, mut count) = (Saturation::default(), 0_u32);
        for program in programs {
            let limit = program.limit.unwrap_or(0);
            sum.in_flight += u64::from(program.in_flight);
            sum.limit += u64::from(limit);
            sum.share += if limit == 0 { 0.0 } else { f64::from(program.in_flight) / f64::from(limit) };
            count += 1;
        }
        (count > 0).then(|| Saturation { share: sum.share / f64::from(count), ..sum })
    }

    /// Reports taken in so far.
    pub const fn reports(&self) -> u64 {
        self.reports
    }

    /// Flows kept apart at the moment.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }
}
