// SPDX-License-Identifier: Apache-2.0
//! What some routes ask for beside sending a request: copies of it elsewhere, a session, permission for
//! another origin. Kept apart so that exchanges without any of it pay one word.

use crate::admission::Admitted;
use crate::cluster::Cluster;
use crate::compress::Coding;
use crate::course::{Course, Goal};
use crate::quota;
use crate::session::Visit;
use crate::shard::Shard;
use crate::trace::Trace;
use crate::{Failure, Plan, attempts::Ending};
use byrnie_base::{Instant, Now, Text};
use byrnie_codec::Head;
use std::sync::Arc;
use std::time::Duration;

/// What an exchange does beside sending its request.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    /// Copies that are still to be sent.
    pub(crate) copies: Vec<Copy>,
    /// The session that the caller has or begins.
    pub(crate) visit: Option<Visit>,
    /// The caller's proxy keeps a session among the addresses of which this one chooses, and is to be told which it was.
    pub(crate) sticks: bool,
    /// The origin that is to be told of its permission.
    pub(crate) origin: Option<Text>,
    /// How long the body of the answer is held back on purpose.
    pub(crate) slow_body: Duration,
    /// Where it stands with the quotas of its service.
    pub(crate) quota: quota::Standing,
    /// What is done when it's its turn, while it waits.
    pub(crate) parked: Option<Parked>,
    /// What a policy of admission counts it as.
    pub(crate) admitted: Option<Admitted>,
    /// It came with words that are the coordinator's alone, which are gone from it.
    pub(crate) posed: bool,
    pub(crate) records: Records,
    /// How its answer comes.
    pub(crate) coding: Coding,
    /// Where it stands in its trace.
    pub(crate) trace: Option<Box<Trace>>,
}

/// What is said of decision records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// The caller wants to be told the id of this exchange's, which is kept.
    pub(crate) asked: bool,
    /// The other proxy's, where the answer is its own.
    pub(crate) peer: Option<Text>,
}

/// A request that waits until its service has room.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) ticket: u64,
    pub(crate) since: Instant,
    /// The service that was asked for.
    pub(crate) asked: Arc<Cluster>,
    /// Where its routes lead.
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) keyed: bool,
}

/// A copy of a request, to be sent once, whatever becomes of it. Nobody waits for its answer. Dropping it
/// without [`Copy::finish`] gives back all that it holds.
#[derive(Debug)]
pub struct Copy {
    /// The request as it is to be sent, but for its body.
    pub head: Head,
    /// Where to.
    pub plan: Plan,
    course: Course,
}

impl Copy {
    /// A copy of `head` to an endpoint of `cluster`; `None` if it has none, or is at its limits.
    pub(crate) fn new(cluster: &Arc<Cluster>, head: &Head, shard: &mut Shard, now: Now) -> Option<Self> {
        if cluster.over_rate(now.mono).is_some() {
            return None;
        }
        let mut course = Course::new();
        course.goal = Goal::Cluster(Arc::clone(cluster));
        let plan = course.dispatch(shard, now.mono).ok()?;
        let mut head = head.clone();
        if let Some(authority) = &cluster.outside {
            head.set_authority(authority).ok()?;
        }
        // Whoever fails to answer a copy is not asked again, here or behind.
        head.set("x-byrnie-retry-budget", b"0").ok()?;
        Some(Self { head, plan, course })
    }

    /// Says what came of it: the status of the answer, or what went wrong.
    pub fn finish(mut self, shard: &mut Shard, outcome: Result<u16, Failure>, now: Now) {
        let ending = match outcome {
            Ok(status) => Ending::Status(status),
            Err(failure) => Ending::Failed(failure),
        };
        self.course.end(shard, ending, now.mono);
    }
}

#[cfg(test)]
mod tests;
