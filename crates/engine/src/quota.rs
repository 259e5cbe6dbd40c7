// SPDX-License-Identifier: Apache-2.0
//! How many requests the own program is asked for in a time, of one caller, with one value of a header, or in all.
//! Asked by inbound exchanges, after access; counted over all cores, by instance or over all instances. These hold leases, so that
//! most requests wait for nobody; what they are based on is the control plane's count. What is left is told in the words of
//! "RateLimit header fields for HTTP" (draft-ietf-httpapi-ratelimit-headers-10).

use crate::exchange::{Decision, Exchange};
use crate::shard::Shard;
use crate::snapshot::Subtree;
use crate::{Answer, Arrival, Effect, Reason};
use byrnie_base::share::{Admitted, Lease, Leased, Leases, Paces};
use byrnie_base::{Instant, Now, Text};
use byrnie_codec::Head;
use byrnie_model::ServiceRef;
use byrnie_model::policy::traffic::{By, Quota};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Callers, or values of a header, that one quota tells apart at the same time: 256 KiB, or 512 KiB if it's shared.
const KEYS_MAX: usize = 16 * 1024;
/// The share of a quota that one lease may hold: what of it isn't used is lost to other instances.
const LEASE_SHARE: u32 = 20;
/// How long instances count for themselves once the control plane could not be asked.
const ALONE: Duration = Duration::from_secs(3);
/// The field that says what the quota is.
pub(crate) const POLICY_FIELD: &str = "ratelimit-policy";
/// The field that says what is left of it.
pub(crate) const LEFT_FIELD: &str = "ratelimit";

/// A quota, with what was used of it.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Whose policy says so.
    service: ServiceRef,
    pub(crate) quota: Quota,
    /// `"NAME";q=REQUESTS;w=SECONDS`.
    pub(crate) policy: Text,
    /// By this instance; of a quota that is shared, while nobody can be asked.
    paces: Paces,
    leases: Option<Leases>,
}

/// What the control plane is asked before a request may be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaAsk {
    /// The service whose policy says so.
    pub service: ServiceRef,
    /// The quota.
    pub quota: Quota,
    /// Whose requests.
    pub key: u64,
    /// How many: this one, and those that are to come.
    pub requests: u32,
}

/// What it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// So many requests.
    Leased(Lease),
    /// None for so long.
    Wait(Duration),
    /// It could not be asked, or knows of no such quota.
    Unknown,
}

/// Where a request stands with the quotas of its service.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// What the caller is to be told.
    pub(crate) left: Option<Left>,
    /// Under which of the quotas, and by which key, more requests were asked for.
    asking: Option<(usize, u64)>,
}

/// What is left after a request.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    /// See [`Counted::policy`].
    pub(crate) policy: Text,
    /// `"NAME";r=REQUESTS;t=SECONDS`.
    pub(crate) left: Text,
    requests: u32,
}

/// What a request comes to under one quota.
enum Verdict {
    Admitted(Admitted),
    Over(Duration),
    Ask { key: u64, requests: u32 },
}

impl From<Result<Admitted, Duration>> for Verdict {
    fn from(admitted: Result<Admitted, Duration>) -> Self {
        admitted.map_or_else(Self::Over, Self::Admitted)
    }
}

impl Counted {
    /// A quota of which nothing was used.
    pub(crate) fn new(service: &ServiceRef, quota: &Quota) -> Self {
        let seconds = quota.rate.per.as_millis().div_ceil(1000);
        let policy = format!("\"{}\";q={};w={seconds}", name(&quota.by), quota.rate.requests).into();
        let keys = if quota.by == By::All { 1 } else { KEYS_MAX };
        let leases = quota.shared.then(|| Leases::new(keys));
        let (service, quota) = (service.clone(), quota.clone());
        Self { service, quota, policy, paces: Paces::new(keys), leases }
    }

    /// Whose request it is. All instances come to the same.
    fn key(&self, arrival: &Arrival<'_>, head: &Head) -> u64 {
        match &self.quota.by {
            By::All => 1,
            By::Caller => hash(arrival.source),
            By::Header(name) => hash(head.get(name)),
        }
    }

    /// One more request.
    fn admit(&self, key: u64, shard: &mut Shard, now: Instant) -> Verdict {
        match self.leases.as_ref().map(|leases| leases.take(key, now, self.quota.rate.requests / LEASE_SHARE)) {
            None => self.alone(key, now),
            Some(Leased::Taken(admitted)) => Verdict::Admitted(admitted),
            Some(Leased::Refused(wait)) => Verdict::Over(wait),
            Some(Leased::Ask(requests)) => Verdict::Ask { key, requests },
            Some(Leased::Alone) => {
                shard.counts.quotas_alone += 1;
                self.alone(key, now)
            }
        }
    }

    /// One more, counted here alone.
    fn alone(&self, key: u64, now: Instant) -> Verdict {
        let rate = self.quota.rate;
        self.paces.admit(key, now, rate.per / rate.requests.max(1), rate.requests).into()
    }

    /// The request that asked.
    fn granted(&self, key: u64, grant: Allowance, shard: &mut Shard, now: Instant) -> Verdict {
        match (&self.leases, grant) {
            (Some(leases), Allowance::Leased(lease)) => Verdict::Admitted(leases.put(key, now, lease)),
            (Some(leases), Allowance::Wait(wait)) => {
                leases.close(key, now, wait);
                Verdict::Over(wait)
            }
            (leases, _) => {
                if let Some(leases) = leases {
                    leases.leave_alone(now, ALONE);
                }
                shard.counts.quotas_alone += 1;
                self.alone(key, now)
            }
        }
    }

    fn left(&self, requests: u32, rests_in: Duration) -> Left {
        let mut left = String::with_capacity(32);
        let seconds = rests_in.as_millis().div_ceil(1000);
        write!(left, "\"{}\";r={requests};t={seconds}", name(&self.quota.by)).ok();
        Left { policy: self.policy.clone(), left: left.into(), requests }
    }
}

impl Exchange {
    /// One more request under all quotas of its service.
    pub(crate) fn count(
        &mut self,
        tree: &Subtree,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &Head,
        now: Instant,
    ) -> Result<Option<Box<QuotaAsk>>, Box<Answer>> {
        self.count_from(tree, (0, None), shard, (arrival, head), now)
    }

    /// One more request under the quotas from this place on, the first of which was granted what is given.
    fn count_from(
        &mut self,
        tree: &Subtree,
        (first, mut granted): (usize, Option<(u64, Allowance)>),
        shard: &mut Shard,
        (arrival, head): (&Arrival<'_>, &Head),
        now: Instant,
    ) -> Result<Option<Box<QuotaAsk>>, Box<Answer>> {
        for (at, counted) in tree.quotas.iter().enumerate().skip(first) {
            let verdict = match granted.take() {
                Some((key, grant)) => counted.granted(key, grant, shard, now),
                None => counted.admit(counted.key(arrival, head), shard, now),
            };
            match verdict {
                Verdict::Admitted(Admitted { left, rests_in }) => {
                    let told = &mut self.aside().quota.left;
                    if told.as_ref().is_none_or(|told| left < told.requests) {
                        *told = Some(counted.left(left, rests_in));
                    }
                }
                Verdict::Over(wait) => {
                    let left = counted.left(0, wait);
                    let mut answer = self.refuse(Reason::RateLimited, format!("{} is used up", left.policy));
                    (answer.retry_after, answer.fields) = (Some(wait), left.fields());
                    return Err(answer);
                }
                Verdict::Ask { key, requests } => {
                    self.aside().quota.asking = Some((at, key));
                    let (service, quota) = (counted.service.clone(), counted.quota.clone());
                    return Ok(Some(Box::new(QuotaAsk { service, quota, key, requests })));
                }
            }
        }
        Ok(None)
    }

    /// Takes in what the control plane said to [`Effect::Lease`]. `head` is the request's.
    pub fn on_allowance(
        &mut self,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        grant: Allowance,
        now: Now,
    ) -> Effect {
        let (at, key) = self.aside().quota.asking.take().unwrap_or_default();
        let counted = match self.service.clone() {
            Some(tree) => self.count_from(&tree, (at, Some((key, grant))), shard, (arrival, head), now.mono),
            None => Ok(None),
        };
        let decided = match counted {
            Err(answer) => Err(answer),
            Ok(Some(asked)) => Ok(Decision::Lease(asked)),
            Ok(None) => self.return_inbound(shard, arrival, head, now.mono),
        };
        self.effect_of(decided, head, now)
    }
}

/// Adds what is left to the head of an answer, unless its program says so itself.
pub(crate) fn tell(left: &Left, head: &mut Head) {
    if head.get(LEFT_FIELD).is_none() {
        // A head without room for it goes on without.
        head.append(POLICY_FIELD, left.policy.as_bytes()).ok();
        head.append(LEFT_FIELD, left.left.as_bytes()).ok();
    }
}

impl Left {
    /// The same as header lines of an answer that the mesh makes.
    pub(crate) fn fields(self) -> Vec<(&'static str, Text)> {
        debug_assert_eq!(self.requests, 0, "only who is refused is answered by the mesh");
        vec![(POLICY_FIELD, self.policy), (LEFT_FIELD, self.left)]
    }
}

fn name(by: &By) -> &str {
    match by {
        By::All => "all",
        By::Caller => "caller",
        By::Header(name) => name,
    }
}

fn hash(of: impl Hash) -> u64 {
    let mut hash = DefaultHasher::new();
    of.hash(&mut hash);
    hash.finish()
}

#[cfg(test)]
mod tests;
