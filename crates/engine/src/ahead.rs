// SPDX-License-Identifier: Apache-2.0
//! Connections ahead of requests. A service that is in use is about to ask its nearest endpoints again, so there is to be a
//! connection to each of them before: when one joins, when the own certificate is renewed or the peer's is about to end,
//! when the peer has closed. Until there is one, or for a second, others are asked first. What is open only the pool
//! knows: here is said for whom there should be one, and when it may be tried.

use crate::plan::{Again, Hop, Plan, Target};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use byrnie_base::Instant;
use std::sync::Arc;
use std::time::Duration;

/// A service that was not asked for so long isn't in use.
const USED_FOR: Duration = Duration::from_secs(60);
/// Endpoints of one service to which there is a connection ahead: the nearest. Each is shared by all requests, and by all
/// services behind the same proxy.
const PER_SERVICE_MAX: usize = 16;
/// The same over all services.
const ALL_MAX: usize = 256;
/// Pause between two tries at one endpoint: where nobody is, ejection and the registry know what to do.
const PAUSE: Duration = Duration::from_secs(5);
/// How long others are asked first.
const COLD_MAX: Duration = Duration::from_secs(1);
/// Each caller of a new endpoint waits up to so long, so that it isn't met by all at once.
const JITTER_MAX: Duration = Duration::from_millis(100);

impl Shard {
    /// The endpoints to which there is to be a connection.
    pub fn ahead(&self, snapshot: &Snapshot, now: Instant) -> Vec<Hop> {
        let in_use = snapshot.clusters.iter().flatten().filter(|cluster| {
            let used = self.clusters.peek(cluster.slot).map(|memory| memory.used);
            cluster.beyond.is_none() && used.is_some_and(|at| at != Instant::default() && now.since(at) < USED_FOR)
        });
        let nearest = in_use.flat_map(|cluster| {
            let members = cluster.at_home().iter().take(PER_SERVICE_MAX);
            members.map(|member| {
                let protocol = cluster.protocol.for_request(false);
                Hop { member: Arc::clone(member), cluster: Arc::clone(cluster), protocol }
            })
        });
        nearest.take(ALL_MAX).collect()
    }

    /// There is no connection to an endpoint, or one that is about to end (`ends`). How to open one, if it's time to; if there is
    /// none, others are asked first until [`Shard::joined`].
    pub fn missing(&mut self, hop: &Hop, ends: bool, now: Instant) -> Option<Plan> {
        let jitter = u64::try_from(JITTER_MAX.as_nanos()).unwrap_or(u64::MAX);
        let delay = Duration::from_nanos(self.rng.below(jitter));
        let standing = self.members.entry(hop.member.slot)?;
        if standing.ahead_at > now {
            return None;
        }
        standing.ahead_at = now + PAUSE;
        if !ends {
            standing.cold_until = now + COLD_MAX;
        }
        Some(Plan {
            target: Target::Mesh(hop.clone()),
            deadline: None,
            try_deadline: None,
            hedge_at: None,
            connect_timeout: hop.cluster.call.patience.connect,
            idle_timeout: None,
            delay,
            again: Again { attempt: 1, keep_body: false, budget: None },
        })
    }

    /// There is a connection to it by now.
    pub fn joined(&mut self, hop: &Hop) {
        if let Some(standing) = self.members.entry(hop.member.slot) {
            standing.cold_until = Instant::default();
        }
    }
}

#[cfg(test)]
mod tests;
