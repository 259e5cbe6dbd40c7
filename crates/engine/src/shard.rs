// SPDX-License-Identifier: Apache-2.0
//! One core's own memory: dice, and what it has learnt of clusters and endpoints. It outlives
//! snapshots. The core that owns it passes it with each event; no other core ever sees it.

use crate::DecisionId;
use crate::admission::Seen;
use crate::balance::warm::Warmth;
use crate::concurrency::{Samples, Traffic};
use crate::latency::Latency;
use crate::outlier::Standing;
use crate::outlier::zone::Zones;
use crate::overload::{Overload, Strain};
use crate::queue::Lines;
use crate::resolve::Recent;
use crate::retry::Budget;
use crate::slot::Memory;
use byrnie_base::hash::BuildQuick;
use byrnie_base::{Instant, Rng, Text};
use byrnie_model::Identity;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

/// One core's own memory.
#[derive(Debug)]
pub struct Shard {
    pub(crate) rng: Rng,
    pub(crate) clusters: Memory<ClusterMemory>,
    pub(crate) members: Memory<Standing>,
    pub(crate) zones: Zones,
    /// Round robin's credits, by endpoint.
    pub(crate) credits: Memory<i64>,
    pub(crate) warmth: Memory<Warmth>,
    pub(crate) counts: Counts,
    callers: Callers,
    /// For building short texts without asking for memory.
    pub(crate) scratch: String,
    /// How short this core's proxy is of what it lives by.
    pub(crate) overload: Overload,
    /// Requests that wait for room.
    pub(crate) lines: Lines,
    /// Service ports that were asked for last.
    pub(crate) recent: Recent,
}

/// What a core knows of one cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterMemory {
    pub(crate) latency: Latency,
    pub(crate) budget: Budget,
    /// How requests went, where a policy asks.
    pub(crate) seen: Option<Box<Seen>>,
    /// When the last ejection now in force ends: until then members are asked one by one.
    pub(crate) ejected_until: Instant,
    /// When its endpoints were last compared.
    pub(crate) compared: Instant,
    /// Round robin's place in each tier; empty until there is one.
    pub(crate) turns: Vec<u32>,
    /// How long an answer takes here in the mean, in nanoseconds; 0 if none has come yet.
    pub(crate) typical: u64,
    /// How long the own program takes, if it serves this.
    pub(crate) samples: Samples,
    /// When it was last asked.
    pub(crate) used: Instant,
    /// Whether, where nothing is declared, it was the server that spoke first.
    pub(crate) server_first: bool,
}

impl ClusterMemory {
    /// How requests went, from now on at least.
    pub(crate) fn seen(&mut self) -> &mut Seen {
        self.seen.get_or_insert_default()
    }

    /// Takes note of how long an answer took.
    pub(crate) fn note(&mut self, span: Duration) {
        self.latency.note(span);
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.typical = if self.typical == 0 { nanos } else { self.typical - self.typical / 16 + nanos / 16 };
    }
}

/// What happened so far, for `byrnie_retries_total` and `byrnie_ejections_total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tries after the first.
    pub retries: u64,
    /// Exchanges that a retry saved.
    pub retries_won: u64,
    /// Retries that the budget did not let through.
    pub retries_over_budget: u64,
    /// Tries begun beside a slow one.
    pub hedges: u64,
    /// Of these, those that answered first.
    pub hedges_won: u64,
    /// Endpoints left out.
    pub ejections: u64,
    /// Tries sent to other sites.
    pub elsewhere: u64,
    /// Requests under quotas that instances share, counted by this one alone as nobody could be asked.
    pub quotas_alone: u64,
    /// Requests for pools balanced over all members, as their pickers could not be asked.
    pub unpicked: u64,
    /// Requests and connections refused as the proxy was short of something, by [`Short`](crate::Short).
    pub shed: [u64; 3],
}

/// Those who call.
#[derive(Debug, Default)]
struct Callers {
    known: HashMap<Identity, Caller, BuildQuick>,
    /// What they send in the mean, and when that was reckoned.
    mean: (Instant, u64),
}

/// One caller.
#[derive(Debug)]
struct Caller {
    label: Text,
    traffic: Traffic,
    /// Whether it was found greedy since callers were last forgotten.
    greedy: bool,
}

/// How long the mean of what callers send is taken to hold.
const MEAN_AGE_MAX: Duration = Duration::from_millis(100);
/// Callers of which a core remembers how they are called and what they have just sent. One more, and it forgets all but the greedy
/// ones: no crowd of names that never come again makes those that come later strangers, or a greedy one ordinary.
const CALLERS_MAX: usize = 4096;

impl Shard {
    /// The memory of a core that has seen nothing, with dice from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            clusters: Memory::default(),
            members: Memory::default(),
            zones: Zones::default(),
            credits: Memory::default(),
            warmth: Memory::default(),
            counts: Counts::default(),
            callers: Callers::default(),
            scratch: String::with_capacity(256),
            overload: Overload::default(),
            lines: Lines::default(),
            recent: Recent::default(),
        }
    }

    /// Something of this core has panicked: what may be half changed is forgotten, with new dice, as the same would come of the old ones. Those
    /// who wait keep their places: they have tickets for them, and nobody else would call them.
    pub fn renew(&mut self, seed: u64) {
        let lines = std::mem::take(&mut self.lines);
        *self = Self { lines, ..Self::new(seed) };
    }

    /// Another snapshot is in force: lets go of what was found in the one before, which nothing else may hold any more.
    pub fn forget_recent(&mut self) {
        self.recent = Recent::default();
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Who of those that wait ([`Effect::Queue`](crate::Effect::Queue)) is to report with `on_turn` now, by their tickets. To be asked
    /// whenever an exchange of this core has ended.
    pub fn call(&mut self, now: Instant) -> Vec<u64> {
        if self.lines.are_empty() { Vec::new() } else { self.lines.call(now) }
    }

    /// Whoever waited by this ticket is gone, or has reported.
    pub fn leave(&mut self, ticket: u64) {
        self.lines.leave(ticket);
    }

    /// How short this core's proxy is of what it lives by: its core tells what it measures.
    pub fn strain(&mut self) -> &mut Strain {
        &mut self.overload.strain
    }

    /// How many exchanges and tunnels this core has under way, and whether the client of the one that begins is known to take its
    /// answers: to be told before each begins.
    pub fn set_underway(&mut self, count: usize, known: bool) {
        (self.overload.underway, self.overload.newcomer) = (count, !known);
    }

    /// An id for the record of something that never became an exchange.
    pub fn draw_id(&mut self) -> DecisionId {
        DecisionId::draw(&mut self.rng)
    }

    /// The metric label of a caller: `ACCOUNT.NAMESPACE`, and `@DOMAIN` if it's not of the trust domain `own`. Made once.
    pub(crate) fn caller(&mut self, identity: &Identity, own: &str) -> Text {
        if let Some(caller) = self.callers.known.get(identity) {
            return caller.label.clone();
        }
        if self.callers.known.len() >= CALLERS_MAX {
            self.callers.known.retain(|_, caller| std::mem::take(&mut caller.greedy));
            if self.callers.known.len() > CALLERS_MAX / 2 {
                self.callers.known.clear();
            }
        }
        let label = label_within(identity, own);
        let caller = Caller { label: label.clone(), traffic: Traffic::default(), greedy: false };
        self.callers.known.insert(identity.clone(), caller);
        label
    }

    /// Counts a request of a caller; whether it sends half as much again as callers send in the mean (of two
    /// callers none can send more than twice the mean). Asked only while there is too much of it all. Callers without a name count as one.
    pub(crate) fn is_greedy(&mut self, identity: Option<&Identity>, now: Instant) -> bool {
        let Some(caller) = identity.and_then(|identity| self.callers.known.get_mut(identity)) else { return true };
        caller.traffic.count(now);
        let own = caller.traffic.rate(now);
        if now.since(self.callers.mean.0) >= MEAN_AGE_MAX {
            let rates = self.callers.known.values_mut().map(|caller| caller.traffic.rate(now)).filter(|rate| *rate > 0);
            let (sum, count) = rates.fold((0u64, 0u64), |(sum, count), rate| (sum + rate, count + 1));
            self.callers.mean = (now, sum.checked_div(count).unwrap_or(0));
        }
        let greedy = 2 * own > 3 * self.callers.mean.1;
        if greedy && let Some(caller) = identity.and_then(|identity| self.callers.known.get_mut(identity)) {
            caller.greedy = true;
        }
        greedy
    }
}

/// How a caller is called in the mesh of the trust domain `own`.
fn label_within(identity: &Identity, own: &str) -> Text {
    let label = label_of(identity);
    match **identity.trust_domain() == *own {
        true => label,
        false => format!("{label}@{}", identity.trust_domain()).into(),
    }
}

/// `ACCOUNT.NAMESPACE`.
pub(crate) fn label_of(identity: &Identity) -> Text {
    let mut label = String::new();
    write!(label, "{}.{}", identity.service_account(), identity.namespace()).ok();
    label.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_names_takes_no_more_memory_and_makes_none_that_comes_later_a_stranger() {
        const OWN: &str = "demo.local";
        let mut shard = Shard::new(1);
        let named = |n: u32| Identity::new(OWN, "shop", &format!("a{n}")).unwrap();
        for n in 0..200_000 {
            shard.caller(&named(n), OWN);
            assert!(shard.callers.known.len() <= CALLERS_MAX);
        }
        let late = [named(1_000_000), named(1_000_001)];
        assert_eq!(&*shard.caller(&late[0], OWN), "a1000000.shop");
        assert_eq!(&*shard.caller(&late[1], OWN), "a1000001.shop");
        let greedy = (0..100).map(|n| {
            let now = Instant::from_nanos(5_000_000_000 + n * 100_000_000);
            late.iter().any(|caller| shard.is_greedy(Some(caller), now))
        });
        assert!(greedy.skip(10).all(|greedy| !greedy), "both ask as often");
    }

    #[test]
    fn a_crowd_of_names_makes_no_greedy_caller_ordinary() {
        const OWN: &str = "demo.local";
        let mut shard = Shard::new(1);
        let named = |name: String| Identity::new(OWN, "shop", &name).unwrap();
        let (one, other) = (named("one".to_owned()), named("other".to_owned()));
        let at = |millis: u64| Instant::from_nanos(5_000_000_000 + millis * 1_000_000);
        let mut asks = |identity: &Identity, now| {
            shard.caller(identity, OWN);
            shard.is_greedy(Some(identity), now)
        };
        (0..10).for_each(|n| _ = asks(&other, at(n)));
        assert!((0..100).map(|n| asks(&one, at(100 + n))).last().unwrap_or_default());
        (0..CALLERS_MAX).for_each(|n| _ = asks(&named(format!("a{n}")), at(300)));
        assert!(!asks(&other, at(400)) && asks(&one, at(400)));
        // Once it asks no more than others it is forgotten like them, the next time but one.
        for round in 0..2 * CALLERS_MAX {
            asks(&named(format!("b{round}")), at(10_000));
        }
        assert!(!shard.callers.known.contains_key(&one));
    }
}
