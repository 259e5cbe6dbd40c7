// SPDX-License-Identifier: Apache-2.0
//! From which tier of nearness an endpoint is taken. Each tier is meant to carry its share; what it can't
//! carry goes to the others, nearest first. A tier can carry `usable / total / below`, at most all: as in
//! Envoy's priority levels, whose overprovisioning factor is `1 / below`, it spills by and by instead of
//! at once, and comes back the same way.

use crate::cluster::{Cluster, Member};
use crate::outlier::{self, zone};
use crate::shard::Shard;
use byrnie_base::Instant;
use std::sync::Arc;

/// Tiers that a cluster can have: one for each nearness, one for whoever fits none, and one for other sites.
pub(crate) const TIERS_MAX: usize = 5;
/// Loads are in thousandths.
pub(crate) const WHOLE: u64 = 1000;

/// The thousandths of requests that each tier gets now. All zero: nobody is usable.
pub(crate) fn loads(cluster: &Cluster, shard: &Shard, now: Instant) -> [u64; TIERS_MAX] {
    let quiet = is_quiet(cluster, shard, now);
    let mut able = [0; TIERS_MAX];
    let mut loads = [0; TIERS_MAX];
    for (at, tier) in cluster.tiers.iter().enumerate().take(TIERS_MAX) {
        let (start, end) = cluster.range(at);
        let usable = if quiet { end - start } else { usable(&cluster.members[start..end], shard, now) } as u64;
        let wanted = u64::from(cluster.call.below_percent) * u64::from(tier.total);
        able[at] = if usable == 0 { 0 } else { (usable * 100 * WHOLE).checked_div(wanted).unwrap_or(WHOLE).min(WHOLE) };
        loads[at] = able[at] * u64::from(tier.share_percent) / 100;
    }
    let mut rest = WHOLE.saturating_sub(loads.iter().sum());
    for at in 0..TIERS_MAX {
        let more = rest.min(able[at] - loads[at]);
        loads[at] += more;
        rest -= more;
    }
    // Nobody can carry the rest: each carries it in proportion to what it carries already.
    loads
}

/// Where the members of the tier drawn for one try begin and end.
pub(crate) fn draw(cluster: &Cluster, shard: &mut Shard, now: Instant) -> (usize, usize) {
    let all = (0, cluster.members.len());
    if cluster.tiers.len() <= 1 {
        return all;
    }
    let loads = loads(cluster, shard, now);
    let total: u64 = loads.iter().sum();
    if let Some(only) = loads.iter().position(|load| *load == total && total > 0) {
        return cluster.range(only);
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
