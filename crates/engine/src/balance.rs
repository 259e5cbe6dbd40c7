// SPDX-License-Identifier: Apache-2.0
//! Which endpoint of a cluster gets a try. Nearest tier first, then by the service's rule; whoever was
//! tried already or is left out comes last. If all healthy endpoints are left out, the ejections are
//! ignored ("panic": they're more likely to share one cause than to be all broken). Endpoints that
//! discovery calls draining or unhealthy are never chosen: they aren't in the cluster's members.

use crate::cluster::{Cluster, Member};
use crate::outlier;
use crate::shard::Shard;
use byrnie_base::Instant;
use byrnie_model::policy::traffic::Balance;
use std::sync::Arc;

/// How often a random draw is repeated before the members are gone through one by one.
const DRAWS_MAX: u32 = 4;

/// What a candidate must be.
#[derive(Clone, Copy)]
struct Wish {
    /// `members[..end]` may be chosen.
    end: usize,
    fresh: bool,
    in_service: bool,
}

/// The endpoint for the next try, or `None` if the cluster has none. `tried` tells which ones this
/// exchange has tried already.
pub(crate) fn pick<'c>(
    cluster: &'c Cluster,
    shard: &mut Shard,
    tried: &dyn Fn(&Member) -> bool,
    now: Instant,
) -> Option<&'c Arc<Member>> {
    let all = cluster.members.len();
    let near = near_end(cluster, shard, now);
    let wishes = [
        Wish { end: near, fresh: true, in_service: true },
        Wish { end: all, fresh: true, in_service: true },
        // One that was left out may be back; one that this exchange has just seen fail is not.
        Wish { end: all, fresh: true, in_service: false },
        Wish { end: all, fresh: false, in_service: true },
        Wish { end: all, fresh: false, in_service: false },
    ];
    wishes.iter().find_map(|wish| choose(cluster, shard, *wish, tried, now)).map(|index| &cluster.members[index])
}

/// Where the members end that are near enough: the first tier of which enough is usable.
pub(crate) fn near_end(cluster: &Cluster, shard: &Shard, now: Instant) -> usize {
    let quiet = shard.clusters.peek(cluster.slot).is_none_or(|memory| memory.ejected_until <= now);
    let mut start = 0;
    for tier in &cluster.tiers {
        let end = tier.end as usize;
        let usable = if quiet {
            end - start
        } else {
            cluster.members[start..end].iter().filter(|m| !outlier::ejected(shard, m, now)).count()
        };
        if usable > 0 && usable * 100 >= usize::from(cluster.call.below_percent) * tier.total as usize {
            return end;
        }
        start = end;
    }
    cluster.members.len()
}

fn choose(
    cluster: &Cluster,
    shard: &mut Shard,
    wish: Wish,
    tried: &dyn Fn(&Member) -> bool,
    now: Instant,
) -> Option<usize> {
    let fits = |shard: &Shard, index: usize| {
        let member = &cluster.members[index];
        let unwished = wish.fresh && tried(member) || wish.in_service && outlier::ejected(shard, member, now);
        !unwished
    };
    match cluster.call.balance {
        Balance::Random => draw(cluster, shard, wish.end, &fits),
        Balance::RoundRobin => turn(cluster, shard, wish.end, &fits),
        Balance::LeastRequest => {
            let first = draw(cluster, shard, wish.end, &fits)?;
            if wish.end == 1 {
                return Some(first);
            }
            let second = draw(cluster, shard, wish.end, &|shard, index| index != first && fits(shard, index));
            Some(second.filter(|second| less_busy(cluster, *second, first)).unwrap_or(first))
        }
    }
}

/// Whether `a` is less busy than `b`, in proportion to their weights. Equals stay in the order drawn,
/// which is by weight already.
fn less_busy(cluster: &Cluster, a: usize, b: usize) -> bool {
    score(&cluster.members[a]).0 * score(&cluster.members[b]).1
        < score(&cluster.members[b]).0 * score(&cluster.members[a]).1
}

/// (tries under way, weight): the smaller the quotient, the better.
pub(crate) fn score(member: &Member) -> (u64, u64) {
    (member.in_flight(), u64::from(member.endpoint.weight.max(1)))
}

/// One of `members[..end]` that fits, at random by weight.
fn draw(cluster: &Cluster, shard: &mut Shard, end: usize, fits: &dyn Fn(&Shard, usize) -> bool) -> Option<usize> {
    if end == 0 {
        return None;
    }
    for _ in 0..DRAWS_MAX {
        let index = sample(cluster, shard, end);
        if fits(shard, index) {
            return Some(index);
        }
    }
    // Few fit: go through all from a random one on.
    let start = sample(cluster, shard, end);
    (start..end).chain(0..start).find(|index| fits(shard, *index))
}

fn sample(cluster: &Cluster, shard: &mut Shard, end: usize) -> usize {
    let Some(total) = end.checked_sub(1).and_then(|last| cluster.cumulative.get(last)) else {
        return usize::try_from(shard.rng.below(end as u64)).unwrap_or(0);
    };
    let ticket = shard.rng.below(*total);
    cluster.cumulative[..end].partition_point(|sum| *sum <= ticket)
}

/// The next of `members[..end]` that fits, by turns. With weights: the smooth weighted round robin of
/// nginx (each gains its weight; the richest is chosen and pays the total).
fn turn(cluster: &Cluster, shard: &mut Shard, end: usize, fits: &dyn Fn(&Shard, usize) -> bool) -> Option<usize> {
    if cluster.cumulative.is_empty() {
        let memory = shard.clusters.entry(cluster.slot)?;
        let start = memory.turn as usize % end.max(1);
        let index = (start..end).chain(0..start).find(|index| fits(shard, *index))?;
        if let Some(memory) = shard.clusters.entry(cluster.slot) {
            memory.turn = u32::try_from(index + 1).unwrap_or(0);
        }
        return Some(index);
    }
    let (mut best, mut total) = (None::<(usize, i64)>, 0);
    for index in 0..end {
        if !fits(shard, index) {
            continue;
        }
        let member = &cluster.members[index];
        let weight = i64::from(member.endpoint.weight);
        let Some(credit) = shard.credits.entry(member.slot) else { continue };
        *credit += weight;
        total += weight;
        if best.is_none_or(|(_, most)| *credit > most) {
            best = Some((index, *credit));
        }
    }
    let (index, _) = best?;
    if let Some(credit) = shard.credits.entry(cluster.members[index].slot) {
        *credit -= total;
    }
    Some(index)
}

#[cfg(test)]
mod tests;
