// SPDX-License-Identifier: Apache-2.0
//! Endpoints that fail again and again are left out for a while. Each core learns by itself, from its
//! own tries, so that nothing is shared: an endpoint that is down is found by every core within a few
//! tries. Called by `course` after each try and by `balance` before each.

use crate::balance::warm;
use crate::cluster::{Cluster, Member};
use crate::shard::Shard;
use byrnie_base::Instant;

/// How a try speaks for or against its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It answered.
    Good,
    /// It failed.
    Bad,
    /// It provably took nothing of the request: nobody is there.
    Absent,
}

/// What a core knows of one endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// Failures in a row.
    consecutive: u32,
    /// Ejections that count for the length of the next one.
    ejections: u32,
    /// It's left out until then.
    until: Instant,
    /// It has just come back: the next failure ejects it again.
    probation: bool,
}

/// Most times by which the span of an ejection is multiplied.
const MULTIPLIER_MAX: u32 = 10;
/// An ejection is lengthened at random by up to this share, so that endpoints don't come back together.
const JITTER_PERCENT: u32 = 10;

/// Whether the endpoint is left out now.
pub(crate) fn ejected(shard: &Shard, member: &Member, now: Instant) -> bool {
    shard.members.peek(member.slot).is_some_and(|standing| standing.until > now)
}

/// Takes note of how a try ended.
pub(crate) fn note(shard: &mut Shard, cluster: &Cluster, member: &Member, sign: Sign, now: Instant) {
    let rule = &cluster.call.eject.rule;
    let Some(standing) = shard.members.entry(member.slot) else { return };
    match sign {
        Sign::Good => {
            let back = std::mem::take(&mut standing.probation);
            standing.consecutive = 0;
            // It answered although it was left out (all were, or it was the last one untried): it's back.
            standing.until = standing.until.min(now);
            // A span of peace for each ejection takes back one.
            if standing.ejections > 0 && now > standing.until + rule.span.saturating_mul(standing.ejections) {
                standing.ejections -= 1;
            }
            if back {
                warm::restart(shard, member, now);
            }
            return;
        }
        Sign::Bad | Sign::Absent if standing.until > now => return,
        Sign::Bad | Sign::Absent => standing.consecutive = standing.consecutive.saturating_add(1),
    }
    let due = standing.probation || standing.consecutive >= rule.consecutive_errors.max(1);
    // The cap bounds what suspicion may do. Whoever isn't there serves nobody, and each request sent to
    // it costs a retry, of which there are few; if all are left out, all are asked again.
    let certain = sign == Sign::Absent && cluster.members.len() >= 2;
    if due && (certain || may_eject(shard, cluster, now)) {
        eject(shard, cluster, member, now);
    }
}

/// Whether the cap leaves room for one more: never more than the share, but always one of two or more.
fn may_eject(shard: &Shard, cluster: &Cluster, now: Instant) -> bool {
    let size = cluster.members.len();
    let out = cluster.members.iter().filter(|m| ejected(shard, m, now)).count();
    let share = usize::from(cluster.call.eject.rule.ejected_percent_max);
    size >= 2 && (out == 0 || (out + 1) * 100 <= share * size)
}

fn eject(shard: &mut Shard, cluster: &Cluster, member: &Member, now: Instant) {
    let jitter = u32::try_from(shard.rng.below(u64::from(JITTER_PERCENT) + 1)).unwrap_or(0);
    let Some(standing) = shard.members.entry(member.slot) else { return };
    standing.ejections = (standing.ejections + 1).min(MULTIPLIER_MAX);
    let span = cluster.call.eject.rule.span.saturating_mul(standing.ejections);
    standing.until = now + span + (span / 100).saturating_mul(jitter);
    standing.consecutive = 0;
    standing.probation = true;
    let until = standing.until;
    shard.counts.ejections += 1;
    if let Some(memory) = shard.clusters.entry(cluster.slot) {
        memory.ejected_until = memory.ejected_until.max(until);
    }
}
