// SPDX-License-Identifier: Apache-2.0
//! From which tier of nearness, or which place by name, an endpoint is taken. Each tier is meant to carry its share; what it can't
//! carry goes to the others, nearest first. A tier can carry `usable / total / below`, at most all: as in
//! Envoy's priority levels, whose overprovisioning factor is `1 / below`, it spills by and by instead of
//! at once, and comes back the same way.
//!
//! Places by name are one level before all others, of which each gets `share x min(1, usable / total / below)` in proportion: Envoy's
//! locality weights. What one lacks goes to the others as they share; the level as a whole spills like a tier, to who is nearest.

use super::hash::hash;
use crate::cluster::{Cluster, Member};
use crate::outlier::{self, zone};
use crate::shard::Shard;
use byrnie_base::Instant;
use byrnie_model::policy::traffic::AREAS_MAX;
use std::num::NonZeroU64;
use std::sync::Arc;

/// How near an endpoint can be, by as many words.
pub(crate) const NEARNESSES: usize = 3;
/// Tiers that a cluster can have: one for each place and each nearness, one for whoever fits none, and one for other sites.
pub(crate) const TIERS_MAX: usize = AREAS_MAX + NEARNESSES + 2;
/// Loads are in millionths: fine enough that to round them moves hardly a key.
pub(crate) const WHOLE: u64 = 1_000_000;

/// The millionths of requests that each tier gets now. All zero: nobody is usable.
pub(crate) fn loads(cluster: &Cluster, shard: &Shard, now: Instant) -> [u64; TIERS_MAX] {
    let quiet = is_quiet(cluster, shard, now);
    let able = |usable: u64, total: u64| {
        let wanted = u64::from(cluster.call.below_percent) * total;
        if usable == 0 { 0 } else { (usable * 100 * WHOLE).checked_div(wanted).unwrap_or(WHOLE).min(WHOLE) }
    };
    let (tiers, places) = (cluster.tiers.len().min(TIERS_MAX), cluster.places());
    let mut free = [0; TIERS_MAX];
    let mut loads = [0; TIERS_MAX];
    // What all places have together: usable ones, all, and shares of those that can carry theirs.
    let (mut level, mut shares) = ((0, 0), 0);
    for (at, tier) in cluster.tiers.iter().enumerate().take(tiers) {
        let (start, end) = cluster.range(at);
        let usable = if quiet { end - start } else { usable(&cluster.members[start..end], shard, now) } as u64;
        let (able, share) = (able(usable, tier.total.into()), u64::from(tier.share_percent));
        if at < places {
            loads[at] = able * share;
            shares += loads[at];
            level = (level.0 + usable, level.1 + u64::from(tier.total));
        } else {
            loads[at] = able * share / 100;
            free[at] = able - loads[at];
        }
    }
    // Rounded so that together they are exactly what the level carries.
    let (carried, mut before) = (able(level.0, level.1), 0);
    for load in &mut loads[..places.min(tiers)] {
        let after = before + *load;
        let upto = |sum: u64| (sum * carried).checked_div(shares).unwrap_or(0);
        (*load, before) = (upto(after) - upto(before), after);
    }
    let mut rest = WHOLE.saturating_sub(loads.iter().sum());
    for at in 0..tiers {
        let more = rest.min(free[at]);
        loads[at] += more;
        rest -= more;
    }
    // Nobody can carry the rest: each carries it in proportion to what it carries already.
    loads
}

/// Where the members of the tier drawn for one try begin and end. What has a key goes where it went before, as long as that
/// tier carries as much as it did beside the others.
pub(crate) fn draw(cluster: &Cluster, shard: &mut Shard, key: Option<NonZeroU64>, now: Instant) -> (usize, usize) {
    let all = (0, cluster.members.len());
    if cluster.tiers.len() <= 1 {
        return all;
    }
    let loads = loads(cluster, shard, now);
    let total: u64 = loads.iter().sum();
    if let Some(only) = loads.iter().position(|load| *load == total && total > 0) {
        return cluster.range(only);
    }
    if let Some(key) = key.filter(|_| total > 0) {
        return cluster.range(of_key(key, &loads));
    }
    let mut ticket = shard.rng.below(total);
    for (at, load) in loads.iter().enumerate() {
        if ticket < *load {
            return cluster.range(at);
        }
        ticket -= load;
    }
    all
}

/// The tier of a key: whoever has the least of `-ln(hash) / load`, so that of all keys each has its share, and where one's
/// load falls only keys of its own move, to all others as they share (weighted rendezvous hashing: Schindelhauer and Schomaker,
/// "Weighted Distributed Hash Tables", 2005).
fn of_key(key: NonZeroU64, loads: &[u64]) -> usize {
    let loaded = loads.iter().enumerate().filter(|(_, load)| **load > 0);
    let scores = loaded.map(|(at, load)| {
        let drawn = hash(&key.get().to_le_bytes(), at as u64 + 1);
        // The upper 53 bits are what fits exactly between 0 and 1; never 0 itself.
        let part = ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        (at, -part.ln() / *load as f64)
    });
    scores.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(at, _)| at)
}

/// Whether so few are usable that health says more about the one who judges than about them.
pub(crate) fn panics(cluster: &Cluster, shard: &Shard, now: Instant) -> bool {
    let Some(least) = cluster.call.choice.rule.panic_percent else { return false };
    let quiet = is_quiet(cluster, shard, now);
    !quiet && usable(&cluster.members, shard, now) * 100 < usize::from(least) * cluster.members.len()
}

/// Whether nobody is left out.
fn is_quiet(cluster: &Cluster, shard: &Shard, now: Instant) -> bool {
    let checked = cluster.beyond.is_some();
    !checked && !zone::any(shard) && shard.clusters.peek(cluster.slot).is_none_or(|memory| memory.ejected_until <= now)
}

fn usable(members: &[Arc<Member>], shard: &Shard, now: Instant) -> usize {
    members.iter().filter(|member| !outlier::out_of_service(shard, member, now)).count()
}

#[cfg(test)]
mod tests;
