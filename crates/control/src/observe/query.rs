// SPDX-License-Identifier: Apache-2.0
//! Questions to the [`Observer`]: edges, golden metrics, records. An exchange is seen by the caller's
//! proxy and by the callee's; each caller's own view counts where there is one, as it knows of calls
//! that never arrived, and the callee's for callers without a proxy.

use super::flow::{Flow, Total, Track};
use super::records::Wanted;
use super::{Observer, WINDOW_MAX};
use byrnie_base::{Instant, Text};
use byrnie_model::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Who calls whom.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The caller.
    pub source: Text,
    /// The service called.
    pub destination: Text,
    /// `mutual` if every exchange was; else the weakest that was seen.
    pub tls: Text,
    /// Exchanges a second.
    pub rps: f64,
    /// The counts.
    pub total: Total,
}

/// Golden metrics of one thing.
#[derive(Clone, Debug)]
pub struct Stat {
    /// What they're of.
    pub flow: Flow,
    /// Exchanges a second.
    pub rps: f64,
    /// The counts.
    pub total: Total,
}

/// What golden metrics are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The service called.
    Service,
    /// Caller and service called.
    Edge,
    /// Service called, route and method.
    Route,
    /// The instance that answered, as its own proxy saw it.
    Instance,
}

/// Which flows count; what is absent fits all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only calls of this service.
    pub destination: Option<Text>,
    /// Only calls by this caller.
    pub source: Option<Text>,
}

impl Filter {
    fn fits(&self, flow: &Flow) -> bool {
        self.destination.as_ref().is_none_or(|d| *d == flow.destination)
            && self.source.as_ref().is_none_or(|s| *s == flow.source)
    }
}

impl Observer {
    /// Who called whom in the last `window`, by destination and source.
    pub fn edges(&self, window: Duration, now: Instant) -> Vec<Edge> {
        let span = self.span(window, now);
        let mut edges: BTreeMap<(&Text, &Text), (Total, BTreeSet<&str>)> = BTreeMap::new();
        for (flow, track) in self.counted(&By::Edge) {
            let mut total = Total::default();
            track.total(now, window, &mut total);
            if total.requests > 0 && !flow.destination.is_empty() {
                let edge = edges.entry((&flow.source, &flow.destination)).or_default();
                // What the mesh answered itself may never have reached a connection to protect.
                if total.statuses.keys().any(|(_, reason)| reason.is_empty()) {
                    edge.1.insert(&flow.tls);
                }
                edge.0.merge(&total);
            }
        }
        let edge = |((source, destination), (total, tls)): ((&Text, &Text), (Total, BTreeSet<&str>))| Edge {
            source: source.clone(),
            destination: destination.clone(),
            tls: weakest(&tls).into(),
            rps: total.requests as f64 / span,
            total,
        };
        edges.into_iter().map(edge).collect()
    }

    /// Golden metrics over the last `window`, in order of name.
    pub fn stats(&self, by: By, filter: &Filter, window: Duration, now: Instant) -> Vec<Stat> {
        let span = self.span(window, now);
        let mut groups: BTreeMap<Flow, Total> = BTreeMap::new();
        for (flow, track) in self.counted(&by).filter(|(flow, _)| filter.fits(flow)) {
            track.total(now, window, groups.entry(group(by, flow)).or_default());
        }
        let stat = |(flow, total): (Flow, Total)| Stat { flow, rps: total.requests as f64 / span, total };
        groups
            .into_iter()
            .filter(|(flow, total)| total.requests > 0 && !flow.destination.is_empty())
            .map(stat)
            .collect()
    }

    /// Exchanges and good ones in each of the last `count` seconds, oldest first; at most a minute.
    pub fn seconds(&self, filter: &Filter, count: usize, now: Instant) -> Vec<(u64, u64)> {
        let mut seconds = vec![(0, 0); count.min(60)];
        for (_, track) in self.counted(&By::Service).filter(|(flow, _)| filter.fits(flow)) {
            track.seconds(now, &mut seconds);
        }
        seconds
    }

    /// The records of this id: the caller's side first.
    pub fn record(&self, id: &str) -> Vec<Arc<Record>> {
        self.records.find(id)
    }

    /// The newest records that fit, newest first.
    pub fn records(&self, wanted: &Wanted) -> Vec<Arc<Record>> {
        self.records.newest(wanted)
    }

    /// The flows that count, each exchange once.
    fn counted(&self, by: &By) -> impl Iterator<Item = (&Flow, &Track)> {
        let own: BTreeSet<&Text> =
            self.flows.keys().filter(|flow| flow.direction != "inbound").map(|flow| &flow.source).collect();
        let instance = *by == By::Instance;
        self.flows.iter().filter(move |(flow, _)| match (flow.direction.as_str(), instance) {
            ("inbound", true) => true,
            ("inbound", false) => !own.contains(&flow.source),
            _ => !instance,
        })
    }

    /// Seconds that a rate over `window` is divided by.
    fn span(&self, window: Duration, now: Instant) -> f64 {
        let seen = self.first.map_or(Duration::ZERO, |first| now.since(first));
        window.min(WINDOW_MAX).min(seen).max(Duration::from_secs(1)).as_secs_f64()
    }
}

fn group(by: By, flow: &Flow) -> Flow {
    let destination = flow.destination.clone();
    match by {
        By::Service => Flow { destination, ..Flow::default() },
        By::Edge => Flow { destination, source: flow.source.clone(), ..Flow::default() },
        By::Route => Flow { destination, route: flow.route.clone(), method: flow.method.clone(), ..Flow::default() },
        By::Instance => Flow { destination, proxy: flow.proxy.clone(), ..Flow::default() },
    }
}

fn weakest(kinds: &BTreeSet<&str>) -> &'static str {
    ["none", "simple", "mutual"].into_iter().find(|kind| kinds.contains(kind)).unwrap_or("none")
}
