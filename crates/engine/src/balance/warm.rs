// SPDX-License-Identifier: Apache-2.0
//! Slow start: an endpoint that is new, or back from an ejection, gets its full share by and by. The share
//! grows with its age (as Envoy's `slow_start_config` with aggression 1), but not ahead of its speed: one
//! that still answers half as fast as the others has half a share, however old it is. Each core keeps its
//! own count of age, from when it first met the endpoint.

use crate::cluster::{Cluster, Member};
use crate::shard::Shard;
use byrnie_base::Instant;
use std::time::Duration;

/// How warm one endpoint is, to one core.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Warmth {
    /// Never met.
    #[default]
    Unknown,
    /// Getting its share since then.
    Warming(Instant),
    /// At full share.
    Warm,
}

/// Least share (percent), so that a cold endpoint gets warm at all.
const SHARE_PERCENT_MIN: u64 = 10;
/// An endpoint that never gets as fast as the others has its full share after so many windows: it's
/// slower, not colder, and balancing by latency or load knows what to do.
const WINDOWS_MAX: u32 = 4;

/// Draws whether `member` may have this try.
pub(crate) fn admits(cluster: &Cluster, member: &Member, shard: &mut Shard, now: Instant) -> bool {
    let Some(window) = cluster.call.choice.rule.slow_start else { return true };
    let typical = shard.clusters.peek(cluster.slot).map_or(0, |memory| memory.typical);
    let Some(warmth) = shard.warmth.entry(member.slot) else { return true };
    let since = match *warmth {
        Warmth::Warm => return true,
        Warmth::Warming(since) => since,
        Warmth::Unknown => now,
    };
    *warmth = Warmth::Warming(since);
    let age = now.since(since);
    let speed = match member.load.latency(now) {
        Some(own) if typical > 0 && own > 2 * typical => 200 * typical / own,
        _ => 100,
    };
    if age >= window && speed >= 100 || age >= window * WINDOWS_MAX {
        *warmth = Warmth::Warm;
        return true;
    }
    shard.rng.percent(share(age, window).min(speed).max(SHARE_PERCENT_MIN))
}

/// The endpoint is back: it starts once more.
pub(crate) fn restart(shard: &mut Shard, member: &Member, now: Instant) {
    if let Some(warmth) = shard.warmth.entry(member.slot) {
        *warmth = Warmth::Warming(now);
    }
}

fn share(age: Duration, window: Duration) -> u64 {
    let share = age.as_nanos().saturating_mul(100).checked_div(window.as_nanos()).unwrap_or(100);
    u64::try_from(share).unwrap_or(100).min(100)
}
