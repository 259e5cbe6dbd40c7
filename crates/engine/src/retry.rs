// SPDX-License-Identifier: Apache-2.0
//! Whether a failed try may be followed by another. Pure rules and the retry budget; `course` asks
//! after each failure. An inbound proxy never repeats what its program may have seen, nor looks for one that
//! isn't there: its caller's proxy does, at another endpoint.

use crate::cluster::Call;
use crate::window::Window;
use byrnie_base::Instant;
use byrnie_model::route::Retry;
use std::time::Duration;

/// Tries of one exchange, the first included, unless its route says otherwise.
pub(crate) const TRIES_MAX: u8 = 3;
/// Tries of one exchange if none but the last met anybody who answered, or could have: where a third of many endpoints is gone at
/// once, three tries in a row meet such in one of 27 cases. What has been sent without an answer counts only if it may be repeated.
pub(crate) const TRIES_UNMET_MAX: u8 = 8;
/// Tries of one request at the same program if it gives all but the last back unprocessed: a server that has a connection carry 100
/// requests leaves out what was sent behind them, and so may the next. They cost nothing of a budget, as nothing is done twice.
pub(crate) const TRIES_UNPROCESSED_MAX: u8 = 3;
/// Such tries go on for no longer than this while nobody of the mesh answers this core.
pub(crate) const UNMET_FOR: Duration = Duration::from_secs(3);
/// And for no longer than this while others answer: by then the registry knows who is silent.
pub(crate) const SILENT_FOR: Duration = Duration::from_secs(5);
/// Where the absent stay in service, tries for nothing in the budget go on for so long after an endpoint has last answered.
pub(crate) const FREE_FOR: Duration = Duration::from_secs(5);
/// A try is never given up sooner than this, however quick the cluster usually is.
const PATIENCE_MIN: Duration = Duration::from_millis(250);
/// When a try is given up while the cluster's usual time isn't known.
const PATIENCE_UNKNOWN: Duration = Duration::from_secs(1);
/// So many times the 99th percentile is too long for a try.
const PATIENCE_FACTOR: u32 = 3;
/// Longest first pause before a try at an endpoint that has just failed.
pub(crate) const PAUSE_SAME_ENDPOINT: Duration = Duration::from_millis(50);
/// Longest first pause before a third try, if at yet another endpoint.
pub(crate) const PAUSE_OTHER_ENDPOINT: Duration = Duration::from_millis(10);
/// Longest pause, unless a route asks for more.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);
/// An endpoint that asks to be left alone for longer, and is the only one, isn't asked again: the caller
/// learns when to come back.
pub(crate) const HOLD_MAX: Duration = Duration::from_secs(2);
/// For so long after an outbound call was given up, errors of the own program are taken to come from it.
pub(crate) const SPENT_FOR: Duration = Duration::from_secs(1);

/// What one exchange may do after a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Tries in all, the first included.
    pub(crate) tries_max: u8,
    /// The same, if all but the last found nobody.
    pub(crate) tries_unmet_max: u8,
    /// Tries in which the request was sent, if nothing was heard of any of their endpoints.
    pub(crate) tries_silent_max: u8,
    /// Whether the request may be processed twice.
    pub(crate) repeatable: bool,
    /// Whether the proxy still holds the whole request.
    pub(crate) body_held: bool,
    /// Whether it's repeatable because of its key: then a second try never runs beside a first.
    pub(crate) keyed: bool,
}

impl Policy {
    /// For the side that never retries.
    pub(crate) const NEVER: Self = Self {
        tries_max: 1,
        tries_unmet_max: 1,
        tries_silent_max: 1,
        repeatable: false,
        body_held: false,
        keyed: false,
    };

    /// For a request to the own program, or the one host that it is for: again only if it was given back unprocessed. Nothing was done
    /// with it, so it isn't one of the tries that its caller leaves to those behind it.
    pub(crate) const PROGRAM: Self = Self { tries_max: TRIES_UNPROCESSED_MAX, body_held: true, ..Self::NEVER };

    /// For connections, and for what may not be repeated outside: another address only if one can't have seen it.
    pub(crate) const FAR: Self =
        Self { tries_max: TRIES_MAX, tries_unmet_max: TRIES_MAX, body_held: true, ..Self::NEVER };

    /// For a request of `method` to addresses outside. Its caller's proxy sees the one by which it leaves, not them: what may be
    /// repeated is repeated here, as often as that one leaves to those behind it (`allowed`).
    pub(crate) fn far(method: &str, call: &Call, allowed: Option<u8>) -> Self {
        let tries = allowed.map_or(TRIES_MAX, |allowed| TRIES_MAX.min(allowed.saturating_add(1)));
        if tries < 2 || !(is_idempotent(method) || call.unsafe_retry) {
            return Self::FAR;
        }
        Self { tries_max: tries, tries_silent_max: tries, repeatable: true, ..Self::FAR }
    }

    /// For a request of `method`. `allowed` is what the caller left for us (`x-byrnie-retry-budget`).
    pub(crate) fn of(method: &str, call: &Call, route: Option<&Retry>, allowed: Option<u8>) -> Self {
        let wanted = route.map_or(TRIES_MAX, |retry| retry.attempts.saturating_add(1));
        let tries_max = allowed.map_or(wanted, |allowed| wanted.min(allowed.saturating_add(1)));
        // Where a route says how many, so many it is.
        let tries_unmet_max = if route.is_none() && tries_max > 1 { TRIES_UNMET_MAX } else { tries_max };
        // Whoever falls silent may have the request all the same: it's sent no more often than the caller allows.
        let tries_silent_max =
            allowed.map_or(tries_unmet_max, |allowed| tries_unmet_max.min(allowed.saturating_add(1)));
        let repeatable = is_idempotent(method) || call.unsafe_retry;
        Self { tries_max, tries_unmet_max, tries_silent_max, repeatable, body_held: true, keyed: false }
    }
}

/// Whether RFC 9110 (9.2.2) lets a request of this method be repeated without asking. TRACE isn't
/// forwarded at all.
pub(crate) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

/// How long a try may take before another one is worth more than waiting.
pub(crate) fn patience(p99: Option<Duration>) -> Duration {
    p99.map_or(PATIENCE_UNKNOWN, |p99| (p99 * PATIENCE_FACTOR).max(PATIENCE_MIN))
}

/// Requests and retries of the last interval, by one core. The share is of this core's own requests, so
/// the plain path touches nothing shared; the least rate is shared by all cores and asked only when the
/// share is used up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget(Window<Tally>);

#[derive(Clone, Debug, Default)]
struct Tally {
    requests: u32,
    retries: u32,
}

impl Budget {
    /// Counts a request that isn't a retry.
    pub(crate) fn request(&mut self, call: &Call, now: Instant) {
        let tally = self.0.turn_to(call.budget.interval, now);
        tally.requests = tally.requests.saturating_add(1);
    }

    /// Takes one retry out of the budget, if there is one.
    pub(crate) fn withdraw(&mut self, call: &Call, now: Instant) -> bool {
        self.0.turn_to(call.budget.interval, now);
        let (requests, retries) = self.0.iter().fold((0, 0), |(requests, retries), tally| {
            (requests + u64::from(tally.requests), retries + u64::from(tally.retries))
        });
        let within = (retries + 1) * 100 <= requests * u64::from(call.budget.percent);
        let least = &call.budget.least;
        let step = least.per.checked_div(least.requests);
        let granted = match step {
            // Those within the share count for the least rate too: it is a floor for quiet times, no addition.
            Some(step) if within => {
                call.share.retries.charge(now, step, least.requests);
                true
            }
            Some(step) => call.share.retries.admit(now, step, least.requests).is_ok(),
            None => within,
        };
        if granted {
            let tally = self.0.turn_to(call.budget.interval, now);
            tally.retries = tally.retries.saturating_add(1);
        }
        granted
    }
}

#[cfg(test)]
mod tests;
