// SPDX-License-Identifier: Apache-2.0
//! How many requests the own program is asked for in a time, of one caller, with one value of a header, or in all.
//! Asked by inbound exchanges, after access; counted over all cores, by instance. What is left is told in the words of
//! "RateLimit header fields for HTTP" (draft-ietf-httpapi-ratelimit-headers-10).

use crate::Arrival;
use byrnie_base::share::{Admitted, Paces};
use byrnie_base::{Instant, Text};
use byrnie_codec::Head;
use byrnie_model::policy::traffic::{By, Quota};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Callers, or values of a header, that one quota tells apart at the same time: 256 KiB.
const KEYS_MAX: usize = 16 * 1024;
/// The field that says what the quota is.
pub(crate) const POLICY_FIELD: &str = "ratelimit-policy";
/// The field that says what is left of it.
pub(crate) const LEFT_FIELD: &str = "ratelimit";

/// A quota, with what was used of it.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) quota: Quota,
    /// `"NAME";q=REQUESTS;w=SECONDS`.
    pub(crate) policy: Text,
    paces: Paces,
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

impl Counted {
    /// A quota of which nothing was used.
    pub(crate) fn new(quota: &Quota) -> Self {
        let seconds = quota.rate.per.as_millis().div_ceil(1000);
        let policy = format!("\"{}\";q={};w={seconds}", name(&quota.by), quota.rate.requests).into();
        let keys = if quota.by == By::All { 1 } else { KEYS_MAX };
        Self { quota: quota.clone(), policy, paces: Paces::new(keys) }
    }

    /// One more request.
    ///
    /// # Errors
    /// How long to wait, if it's too many.
    fn admit(&self, arrival: &Arrival<'_>, head: &Head, now: Instant) -> Result<Admitted, Duration> {
        let rate = self.quota.rate;
        let key = match &self.quota.by {
            By::All => 1,
            By::Caller => hash(arrival.source),
            By::Header(name) => hash(head.get(name)),
        };
        self.paces.admit(key, now, rate.per / rate.requests.max(1), rate.requests)
    }

    fn left(&self, requests: u32, rests_in: Duration) -> Left {
        let mut left = String::with_capacity(32);
        let seconds = rests_in.as_millis().div_ceil(1000);
        write!(left, "\"{}\";r={requests};t={seconds}", name(&self.quota.by)).ok();
        Left { policy: self.policy.clone(), left: left.into(), requests }
    }
}

/// One more request under all of `quotas`: what is left of the one of which least is.
///
/// # Errors
/// The quota that it exceeds, with how long to wait.
pub(crate) fn admit(
    quotas: &[Counted],
    arrival: &Arrival<'_>,
    head: &Head,
    now: Instant,
) -> Result<Option<Left>, (Left, Duration)> {
    let mut least: Option<(&Counted, Admitted)> = None;
    for counted in quotas {
        let admitted = counted.admit(arrival, head, now).map_err(|wait| (counted.left(0, wait), wait))?;
        if least.is_none_or(|(_, other)| admitted.left < other.left) {
            least = Some((counted, admitted));
        }
    }
    Ok(least.map(|(counted, admitted)| counted.left(admitted.left, admitted.rests_in)))
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
