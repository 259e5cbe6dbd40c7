// SPDX-License-Identifier: Apache-2.0
//! Which endpoint of a cluster gets a try. First the tier of nearness or the place by name, then one of it by the service's rule;
//! whoever was tried already or is left out comes last. If all are left out, or so many that the policy
//! calls it a panic, the ejections are ignored: they're more likely to share one cause than to be all
//! broken. What the rules promise, and how they compare, is in `docs/explanation/balancing.md`.

pub(crate) mod hash;
pub(crate) mod load;
pub(crate) mod report;
#[cfg(test)]
mod simulation;
pub(crate) mod tiers;
pub(crate) mod warm;

use crate::cluster::{Cluster, Member};
use crate::outlier;
use crate::outlier::zone::{self, ZoneSet};
use crate::shard::Shard;
use byrnie_base::Instant;
use byrnie_model::policy::traffic::Balance;
use std::num::NonZeroU64;
use std::sync::Arc;

/// How often a random draw is repeated before the members are gone through one by one.
const DRAWS_MAX: u32 = 4;
/// Of two costs within this factor (in halves) the smaller says nothing: the less busy endpoint is taken.
const ALIKE_HALVES: u128 = 3;

/// Who has answered within so many milliseconds before a try that waits in vain is likely to be there still, the likelier the fewer.
const LATELY: [u64; 3] = [100, 1_000, 10_000];

/// Endpoints of this mesh that one exchange tries before another site is asked, if one serves it too.
const HOME_TRIES_MAX: usize = 2;

/// What came before this try.
#[derive(Clone, Copy)]
pub(crate) struct Past<'a> {
    /// Whether this exchange has tried an endpoint already.
    pub(crate) tried: &'a dyn Fn(&Member) -> bool,
    /// Zones in which it found nobody.
    pub(crate) zones: ZoneSet,
    /// When the first try was begun that waited for an answer in vain.
    pub(crate) silent_since: Option<Instant>,
    /// Whether it may not leave for another site.
    pub(crate) stays: bool,
}

/// What a candidate must be.
#[derive(Clone, Copy)]
struct Wish {
    /// `members[start..end]` may be chosen.
    range: (usize, usize),
    fresh: bool,
    in_service: bool,
    /// In these zones nobody may be chosen, nor in one that is left out; `None`: the zone doesn't matter.
    beyond: Option<ZoneSet>,
    /// It has answered somebody since then.
    heard_since: Option<Instant>,
}

/// A choice under way.
struct Search<'a> {
    cluster: &'a Cluster,
    past: Past<'a>,
    now: Instant,
    wish: Wish,
}

/// The endpoint for the next try, or `None` if the cluster has none. `key` is what the request hashes to.
pub(crate) fn pick<'c>(
    cluster: &'c Cluster,
    shard: &mut Shard,
    key: Option<NonZeroU64>,
    past: Past<'_>,
    now: Instant,
) -> Option<&'c Arc<Member>> {
    let home = (0, cluster.at_home().len());
    let all = if past.stays { home } else { (0, cluster.members.len()) };
    let away = if past.stays { None } else { away(cluster, past.tried) };
    let range = away.unwrap_or_else(|| tiers::draw(cluster, shard, key, now));
    let range = if range.1 <= all.1 { range } else { all };
    let careful = !tiers::panics(cluster, shard, now);
    // Where no zone is in doubt, none has to be looked at.
    let zoned = !past.zones.is_empty() || zone::any(shard);
    let beyond = zoned.then_some(ZoneSet::NONE);
    let near = Wish { range, fresh: true, in_service: careful, beyond, heard_since: None };
    // Where one found nobody another is worth less than one elsewhere, whatever is near: as Envoy's
    // `previous_priorities`, and as for previous hosts.
    let lost = past.silent_since.map_or(past.zones, |then| past.zones.unheard(shard, then));
    let elsewhere = Wish { range: home, beyond: Some(lost), ..near };
    let moves = away.is_none() && !lost.is_empty();
    let since = past.silent_since.filter(|_| away.is_none());
    let first = since.and_then(|then| recent(cluster, shard, key, past, (near, home, then, moves), now));
    let mut choose = |wish| Search { cluster, past, now, wish }.choose(shard, key);
    // Nearly always this is all that has to be asked.
    let first = first.or_else(|| if moves { None } else { choose(near) });
    let any_zone = Wish { range: all, beyond: None, ..near };
    // Places by name stand together.
    let named = cluster.named().filter(|_| away.is_none());
    let others = || {
        [
            named.filter(|_| moves).map(|range| Wish { range, ..elsewhere }),
            moves.then_some(elsewhere),
            moves.then_some(near),
            named.map(|range| Wish { range, ..near }),
            Some(Wish { range: all, ..near }),
            zoned.then_some(any_zone),
            // One that was left out may be back; one that this exchange has just seen fail is not.
            Some(Wish { in_service: false, ..any_zone }),
            Some(Wish { fresh: false, ..any_zone }),
            Some(Wish { fresh: false, in_service: false, ..any_zone }),
        ]
    };
    let found = first.or_else(|| others().into_iter().flatten().find_map(choose));
    let member = &cluster.members[found?];
    outlier::chosen(shard, member, now);
    if let Some(memory) = shard.clusters.entry(cluster.slot) {
        memory.used = now;
    }
    Some(member)
}

/// Whom to ask after a try, begun `then`, that waited in vain: one of those who have answered somebody since is there for certain,
/// however much was lost at that moment. If there is none, but others of the zone have answered, so that it's not lost as a whole,
/// one of those who answered lately is the likeliest to be there. Among each of them the service's rule chooses: whoever waits does so
/// together with many.
fn recent(
    cluster: &Cluster,
    shard: &mut Shard,
    key: Option<NonZeroU64>,
    past: Past<'_>,
    (near, home, then, moves): (Wish, (usize, usize), Instant, bool),
    now: Instant,
) -> Option<usize> {
    // A zone without a name is never lost, but where nobody at all has answered nothing is known of it.
    let nobody = moves || shard.zones.heard <= then;
    let since = Wish { heard_since: Some(then), ..near };
    let mut of = |wish| Search { cluster, past, now, wish }.choose(shard, key);
    if let Some(found) = of(since).or_else(|| of(Wish { range: home, ..since })) {
        return Some(found);
    }
    if nobody {
        return None;
    }
    LATELY.into_iter().find_map(|millis| {
        let from = Instant::from_nanos(then.as_nanos().saturating_sub(millis * 1_000_000));
        of(Wish { heard_since: Some(from), ..near })
    })
}

/// The one for a connection from another site: of this mesh, so that none goes to and fro between sites.
pub(crate) fn pick_at_home<'c>(
    cluster: &'c Cluster,
    shard: &mut Shard,
    past: Past<'_>,
    now: Instant,
) -> Option<&'c Arc<Member>> {
    let range = (0, cluster.at_home().len());
    let wishes =
        [true, false].map(|in_service| Wish { range, fresh: true, in_service, beyond: None, heard_since: None });
    let mut found = wishes.iter().filter_map(|wish| {
        let search = Search { cluster, past, now, wish: *wish };
        search.better_of_two(shard, less_busy)
    });
    let member = cluster.members.get(found.next()?)?;
    outlier::chosen(shard, member, now);
    Some(member)
}

/// The ways to other sites, once enough of this mesh were tried: what they have in common may be why they fail, and
/// the last try is better made elsewhere.
fn away(cluster: &Cluster, tried: &dyn Fn(&Member) -> bool) -> Option<(usize, usize)> {
    let (home, all) = (cluster.at_home().len(), cluster.members.len());
    let enough =
        || cluster.at_home().iter().filter(|member| tried(member)).take(HOME_TRIES_MAX).count() == HOME_TRIES_MAX;
    (home < all && enough()).then_some((home, all))
}

impl Search<'_> {
    fn choose(&self, shard: &mut Shard, key: Option<NonZeroU64>) -> Option<usize> {
        match (self.cluster.call.balance, key) {
            (Balance::RingHash | Balance::Maglev, Some(key)) => self.by_key(shard, key),
            // Without what is to be hashed, anywhere is as good as anywhere.
            (Balance::RingHash | Balance::Maglev, None) | (Balance::Random, _) => self.draw(shard, None),
            (Balance::RoundRobin, _) => self.turn(shard),
            (Balance::WeightedRoundRobin, _) => self.turn_by_report(shard),
            (Balance::LeastRequest, _) => self.better_of_two(shard, less_busy),
            // How long it takes to connect says little about a connection's load.
            (Balance::PeakEwma, _) if !self.cluster.protocol.is_http() => self.better_of_two(shard, less_busy),
            (Balance::PeakEwma, _) => self.better_of_two(shard, cheaper),
        }
    }

    fn fits(&self, shard: &Shard, index: usize) -> bool {
        let Some(member) = self.cluster.members.get(index) else { return false };
        let within = (self.wish.range.0..self.wish.range.1).contains(&index);
        let out = self.wish.in_service && outlier::waits(shard, member, self.now);
        let lost = |beyond: ZoneSet| beyond.has(member.zone) || zone::out(shard, member, self.now);
        let stale = self.wish.fresh && (self.past.tried)(member);
        let heard = self.wish.heard_since.is_none_or(|then| member.load.heard_at() > then);
        within && heard && !(out || stale || self.wish.beyond.is_some_and(lost))
    }

    fn warm(&self, shard: &mut Shard, index: usize) -> bool {
        warm::admits(self.cluster, &self.cluster.members[index], shard, self.now)
    }

    /// Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    fn better_of_two(&self, shard: &mut Shard, better: Better) -> Option<usize> {
        let first = self.draw(shard, None)?;
        if self.wish.range.1 - self.wish.range.0 == 1 {
            return Some(first);
        }
        let Some(second) = self.draw(shard, Some(first)) else { return Some(first) };
        let members = &self.cluster.members;
        Some(if better(self.cluster, &members[second], &members[first], self.now) { second } else { first })
    }

    /// One that fits, at random by weight, but not `besides`.
    fn draw(&self, shard: &mut Shard, besides: Option<usize>) -> Option<usize> {
        let (start, end) = self.wish.range;
        if start >= end {
            return None;
        }
        for _ in 0..DRAWS_MAX {
            let index = self.sample(shard);
            if besides != Some(index) && self.fits(shard, index) && self.warm(shard, index) {
                return Some(index);
            }
        }
        // Few fit: go through all from a random one on.
        let from = self.sample(shard);
        (from..end).chain(start..from).find(|index| besides != Some(*index) && self.fits(shard, *index))
    }

    fn sample(&self, shard: &mut Shard) -> usize {
        let (start, end) = self.wish.range;
        let sums = &self.cluster.cumulative;
        let Some(total) = end.checked_sub(1).and_then(|last| sums.get(last)) else {
            return start + usize::try_from(shard.rng.below((end - start) as u64)).unwrap_or(0);
        };
        let before = start.checked_sub(1).map_or(0, |last| sums[last]);
        let ticket = before + shard.rng.below(total - before);
        start + sums[start..end].partition_point(|sum| *sum <= ticket)
    }

    /// The next one that fits, by turns.
    fn turn(&self, shard: &mut Shard) -> Option<usize> {
        if !self.cluster.cumulative.is_empty() {
            return self.smooth(shard, |member| i64::from(member.endpoint.weight.max(1)));
        }
        let (start, end) = self.wish.range;
        // Each tier has turns of its own.
        let tier = self.cluster.tiers.iter().position(|tier| tier.end as usize >= end).unwrap_or(0);
        let turns = &shard.clusters.entry(self.cluster.slot)?.turns;
        let turn = turns.get(tier).copied().unwrap_or(0) as usize;
        let from = start + turn % (end - start).max(1);
        let mut fitting = (from..end).chain(start..from).filter(|index| self.fits(shard, *index));
        let first = fitting.next()?;
        let others: Vec<usize> =
            if self.cluster.call.choice.rule.slow_start.is_some() { fitting.collect() } else { Vec::new() };
        let mut candidates = std::iter::once(first).chain(others);
        let index = candidates.find(|index| self.warm(shard, *index)).unwrap_or(first);
        if let Some(memory) = shard.clusters.entry(self.cluster.slot) {
            if memory.turns.len() <= tier {
                memory.turns.resize(tier + 1, 0);
            }
            memory.turns[tier] = u32::try_from(index + 1 - start).unwrap_or(0);
        }
        Some(index)
    }

    /// The next one by turns, in proportion to what endpoints report. One that has reported nothing counts as
    /// much as the mean of the others (gRFC A58); if nobody has, all are alike.
    fn turn_by_report(&self, shard: &mut Shard) -> Option<usize> {
        let (start, end) = self.wish.range;
        let reports = self.cluster.members[start..end].iter().filter_map(|member| member.load.capacity(self.now));
        let (sum, count) = reports.fold((0u64, 0u64), |(sum, count), one| (sum.saturating_add(one), count + 1));
        let Some(mean) = sum.checked_div(count) else { return self.turn(shard) };
        self.smooth(shard, |member| i64::try_from(member.load.capacity(self.now).unwrap_or(mean)).unwrap_or(1).max(1))
    }

    /// Smooth weighted round robin, as in nginx: each gains its weight; the richest is chosen and pays the
    /// sum. It looks at every member: see `endpoints.most` for large services.
    fn smooth(&self, shard: &mut Shard, weight: impl Fn(&Member) -> i64) -> Option<usize> {
        let (mut best, mut total) = (None::<(usize, i64)>, 0i64);
        for index in self.wish.range.0..self.wish.range.1 {
            if !self.fits(shard, index) || !self.warm(shard, index) {
                continue;
            }
            let member = &self.cluster.members[index];
            let weight = weight(member);
            let Some(credit) = shard.credits.entry(member.slot) else { continue };
            *credit = credit.saturating_add(weight);
            total = total.saturating_add(weight);
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let Some((index, _)) = best else { return self.draw(shard, None) };
        if let Some(credit) = shard.credits.entry(self.cluster.members[index].slot) {
            *credit = credit.saturating_sub(total);
        }
        Some(index)
    }

    /// The first in the key's order that fits and isn't too full: Mirrokni, Thorup, Zadimoghaddam,
    /// "Consistent Hashing with Bounded Loads", SODA 2018. Their bound is a share of the mean over the bins that there are: here
    /// over those that fit, so that somebody always has room.
    fn by_key(&self, shard: &Shard, key: NonZeroU64) -> Option<usize> {
        let mut walk = self.cluster.table.walk(key).filter(|index| self.fits(shard, *index));
        let first = walk.next()?;
        let bound = self.cluster.call.hash.as_ref().and_then(|hash| hash.load_percent_max);
        // Whoever has nothing under way has room whatever the mean: of a large service that's nearly everybody.
        let Some(percent) = bound.filter(|_| self.cluster.members[first].in_flight() > 0) else { return Some(first) };
        let whole = self.whole(shard);
        // Only another core can have filled all of them meanwhile.
        std::iter::once(first).chain(walk).find(|index| self.has_room(*index, percent, whole)).or(Some(first))
    }

    /// What those that fit have under way together, and their weights.
    fn whole(&self, shard: &Shard) -> (u64, u64) {
        let fitting = (self.wish.range.0..self.wish.range.1).filter(|index| self.fits(shard, *index));
        let scores = fitting.map(|index| score(&self.cluster.members[index]));
        scores.fold((0, 0), |(busy, weights), (one, own)| (busy + one, weights + own))
    }

    /// Whether one more request leaves the member within `percent` of the mean load, by weight.
    fn has_room(&self, index: usize, percent: u32, (busy, weights): (u64, u64)) -> bool {
        let (own_busy, own) = score(&self.cluster.members[index]);
        let share = u128::from(busy + 1) * u128::from(percent) * u128::from(own);
        u128::from(own_busy) < share.div_ceil(100 * u128::from(weights.max(1)))
    }
}

/// Whether the first member is to be preferred to the second, which was drawn before it.
type Better = fn(&Cluster, &Member, &Member, Instant) -> bool;

/// Whether `a` is less busy than `b`, in proportion to their weights. Equals stay in the order drawn,
/// which is by weight already.
fn less_busy(_: &Cluster, a: &Member, b: &Member, _: Instant) -> bool {
    score(a).0 * score(b).1 < score(b).0 * score(a).1
}

/// Whether `a` is expected to answer sooner than `b`: latency times (1 + tries under way / weight), where a
/// weight is relative to the mean. One that nobody has heard of yet is taken to be as quick as the other.
fn cheaper(cluster: &Cluster, a: &Member, b: &Member, now: Instant) -> bool {
    let (one, other) = match (a.load.latency(now), b.load.latency(now)) {
        (Some(one), Some(other)) => (one, other),
        _ => (1, 1),
    };
    let least = u64::try_from(load::LATENCY_MIN.as_nanos()).unwrap_or(1);
    let sum = cluster.cumulative.last().copied().unwrap_or(0);
    let mean = sum.checked_div(cluster.members.len() as u64).unwrap_or(0);
    let cost = |latency: u64, of: &Member, beside: &Member| {
        let (busy, own) = score(of);
        // With equal weights there are no sums: the mean is the weight itself.
        let mean = if mean == 0 { own } else { mean };
        let burden = u128::from(busy) * u128::from(mean) + u128::from(own);
        u128::from(latency.max(least)) * burden * u128::from(score(beside).1)
    };
    let (one, other) = (cost(one, a, b), cost(other, b, a));
    let alike = one.max(other) * 2 <= one.min(other) * ALIKE_HALVES;
    if alike { less_busy(cluster, a, b, now) } else { one < other }
}

/// (tries under way, weight): the smaller the quotient, the better.
pub(crate) fn score(member: &Member) -> (u64, u64) {
    (member.in_flight(), u64::from(member.endpoint.weight.max(1)))
}

#[cfg(test)]
mod tests;
