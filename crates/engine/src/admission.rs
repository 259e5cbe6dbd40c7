// SPDX-License-Identifier: Apache-2.0
//! Requests that a caller's proxy doesn't send, as too many of those to the same service fail: refusing costs a program that has too
//! much to do work as well. Off unless a policy asks for it (`limits.admission`); each core decides by what it has seen itself.
//!
//! The law is that of client-side throttling ("Site Reliability Engineering", 2016, chapter 21): of the requests of the last while,
//! those refused here included, `(requests - K * accepts) / (requests + 1)` aren't sent, where `K` is one by the share of successes that
//! the policy asks for. So the service gets `K` times what it can take. It is bounded as Envoy's `admission_control` is: no less than a
//! share is sent, by which it's seen that the service is back, and nothing is refused while there are few requests.
//! That share is of all: the least important (`x-byrnie-criticality`) go first, up to all of them, before one of the next class does.
//!
//! A request counts once it has ended, after its retries, so that nobody is refused for slowness alone; one that nothing was
//! sent of doesn't count, nor one that its caller gave up.

use crate::attempts::Ending;
use crate::cluster::Cluster;
use crate::concurrency::{Criticality, RETRY_AFTER};
use crate::exchange::Exchange;
use crate::shard::Shard;
use crate::window::Window;
use crate::{Answer, Blame, Failure, Reason};
use byrnie_base::{Instant, Rng};
use byrnie_codec::{Head, Known};
use byrnie_model::policy::traffic::Admission;

/// What one core has seen of requests to one cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Window<Tally>);

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// By [`Criticality`].
    requests: [u32; 4],
    accepts: u32,
}

/// A request that was let through, until it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    class: Criticality,
}

impl Seen {
    /// Whether one more request of this class is not to be sent.
    fn refuses(&mut self, rule: &Admission, class: Criticality, dice: &mut Rng, now: Instant) -> bool {
        self.0.turn_to(rule.window, now);
        let (mut requests, mut accepts) = ([0; 4], 0);
        for tally in self.0.iter() {
            requests.iter_mut().zip(tally.requests).for_each(|(sum, count)| *sum += u64::from(count));
            accepts += u64::from(tally.accepts);
        }
        let all: u64 = requests.iter().sum();
        if all < u64::from(rule.volume) {
            return false;
        }
        // How many of all and this one to refuse, each `success_percent` hundredths: for the law, times `success_percent`.
        let percent = u64::from(rule.success_percent);
        let most = (all + 1) * percent * u64::from(rule.rejected_percent_max) / 100;
        let refused = (all * percent).saturating_sub(accepts * 100).min(most);
        let (lower, own) = requests.split_at(class as usize);
        let left = refused.saturating_sub(lower.iter().sum::<u64>() * percent);
        left > 0 && dice.below((own.first().unwrap_or(&0) + 1) * percent) < left
    }

    fn count(&mut self, rule: &Admission, class: Criticality, accepted: bool, now: Instant) {
        let tally = self.0.turn_to(rule.window, now);
        let requests = &mut tally.requests[class as usize];
        *requests = requests.saturating_add(1);
        tally.accepts = tally.accepts.saturating_add(u32::from(accepted));
    }
}

impl Exchange {
    /// Refuses a request to a service that too few requests succeed at.
    pub(crate) fn heed_success(
        &mut self,
        shard: &mut Shard,
        cluster: &Cluster,
        head: &Head,
        now: Instant,
    ) -> Result<(), Box<Answer>> {
        let Some(rule) = &cluster.call.bounds.admission else { return Ok(()) };
        let Some(memory) = shard.clusters.entry(cluster.slot) else { return Ok(()) };
        let class = Criticality::of(head.header(Known::ByrnieCriticality));
        if !memory.seen().refuses(rule, class, &mut shard.rng, now) {
            self.aside().admitted = Some(Admitted { class });
            return Ok(());
        }
        memory.seen().count(rule, class, false, now);
        // Whoever calls the own program is not to try again either.
        self.spend(now);
        let label = &cluster.name.label;
        let detail = format!("too few of the last requests to {label} succeeded: this one was not sent");
        let mut answer = self.refuse(Reason::NotAdmitted, detail);
        answer.retry_after = Some(RETRY_AFTER);
        Err(answer)
    }

    /// Takes note of how a request ended: by a status of HTTP, a call of gRPC by the one that says the same.
    pub(crate) fn learn_success(&mut self, shard: &mut Shard, status: u16, now: Instant) {
        let Some(admitted) = self.aside.as_mut().and_then(|aside| aside.admitted.take()) else { return };
        let Some(cluster) = self.course.cluster().filter(|_| self.course.attempts.count() > 0) else { return };
        let Some(rule) = &cluster.call.bounds.admission else { return };
        // Whoever is slow to ask says nothing of who is asked.
        let slow = Some(Ending::Failed(Failure::CallerSlow));
        if self.course.attempts.last().is_some_and(|last| last.ending() == slow) {
            return;
        }
        match self.reason().map(Reason::blame) {
            None => {}
            Some(Blame::Upstream) => return note(shard, cluster, rule, admitted.class, false, now),
            Some(Blame::Downstream | Blame::Policy | Blame::Mesh) => return,
        }
        let failed = if rule.codes.is_empty() { status == 429 || status >= 500 } else { rule.codes.contains(&status) };
        note(shard, cluster, rule, admitted.class, !failed, now);
    }
}

fn note(shard: &mut Shard, cluster: &Cluster, rule: &Admission, class: Criticality, accepted: bool, now: Instant) {
    if let Some(memory) = shard.clusters.entry(cluster.slot) {
        memory.seen().count(rule, class, accepted, now);
    }
}

#[cfg(test)]
mod tests;
