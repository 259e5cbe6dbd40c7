// SPDX-License-Identifier: Apache-2.0
//! A second try beside a slow one, at another endpoint; the quicker answer counts, and the other try is given up
//! ("hedged requests": Dean, Barroso, "The Tail at Scale", 2013; gRPC's proposal A6). Off unless a policy asks for it, only for what
//! may be repeated, and within the retry budget, so that a service where all is slow is not sent twice as much. Never
//! for a request under an idempotency key: at another instance the second would only be told that the first is under way.
//!
//! A proxy that finds no response head at `Plan::hedge_at` asks [`Exchange::on_slow`]. While two tries are open, it
//! says what becomes of each ([`Exchange::fell`], [`Exchange::won`]), and goes on with the one that is left as ever.

use crate::attempts::Ending;
use crate::cluster::{Cluster, Member};
use crate::course::Course;
use crate::exchange::Exchange;
use crate::shard::Shard;
use crate::{Plan, outlier};
use byrnie_base::Now;
use byrnie_codec::Head;
use byrnie_model::policy::traffic::Hedge;
use std::sync::Arc;
use std::time::Duration;

/// A try is never taken to be slow sooner than this: another one would not be quicker.
const DELAY_MIN: Duration = Duration::from_millis(1);

/// After how long the try that begins is slow, if another may be begun beside it.
pub(crate) fn delay(course: &Course, cluster: &Cluster, shard: &Shard) -> Option<Duration> {
    let hedge = cluster.call.budget.hedge?;
    let policy = &course.policy;
    let may =
        policy.repeatable && policy.body_held && !policy.keyed && !course.is_picked() && cluster.members.len() > 1;
    if !may || course.attempts.count() >= usize::from(policy.tries_max) {
        return None;
    }
    let span = match hedge {
        Hedge::Delay(span) => span,
        Hedge::Percentile(percent) => shard.clusters.peek(cluster.slot)?.latency.percentile(percent)?,
    };
    Some(span.max(DELAY_MIN))
}

impl Exchange {
    /// The try under way is slow: its number and one to begin beside it, if there may be one. The proxy still holds the
    /// whole request.
    pub fn on_slow(&mut self, shard: &mut Shard, now: Now) -> Option<(u8, Plan)> {
        let course = &mut self.course;
        let cluster = Arc::clone(course.cluster()?);
        let fresh =
            |member: &Arc<Member>| !course.attempts.tried(member) && !outlier::out_of_service(shard, member, now.mono);
        let elsewhere = cluster.members.iter().any(fresh);
        if !elsewhere || !course.has_time(now.mono) || !course.withdraw(shard, now.mono) {
            return None;
        }
        let slow = course.attempts.number();
        let plan = course.dispatch(shard, now.mono).ok()?;
        shard.counts.hedges += 1;
        Some((slow, Plan { hedge_at: None, ..plan }))
    }

    /// Whether this response head, of one of two tries, is worth more than to wait for the other.
    pub fn is_worth_taking(&self, head: &Head) -> bool {
        !matches!(head.status(), 502..=504)
    }

    /// Of two tries, the one of this number ended, and the other, of number `other`, goes on.
    pub fn fell(&mut self, shard: &mut Shard, (number, ending): (u8, Ending), other: u8, now: Now) {
        self.course.attempts.keep(number);
        self.course.end(shard, ending, now.mono);
        self.course.attempts.keep(other);
    }

    /// Of two tries, the one of number `number` is gone on with, and the other, of number `beaten`, given up.
    pub fn won(&mut self, shard: &mut Shard, number: u8, beaten: u8, now: Now) {
        self.fell(shard, (beaten, Ending::Beaten), number, now);
        shard.counts.hedges_won += u64::from(number > beaten);
    }
}

#[cfg(test)]
mod tests;
