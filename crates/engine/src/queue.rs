// SPDX-License-Identifier: Apache-2.0
//! Requests that wait until a service has room for one more (`limits.maxPending`), where a policy lets some wait
//! (`limits.maxQueued`). Of one core; its shard holds the lines. A core that sees an exchange end, or looks
//! up while somebody waits, since other cores free room too, calls [`Shard::call`](crate::Shard::call) and wakes whom it names.
//!
//! As Facebook does it (Maurer, "Fail at Scale", 2015): a line that empties now and then is a burst, and is served in its order; one
//! that has stood for longer is too much ("Controlling Queue Delay": Nichols, Jacobson, 2012), and then the newest goes
//! first, whose caller is the surest to be still there, and whoever has waited for longer than a moment is refused, so that it can go
//! elsewhere. Nobody is let wait whose deadline could not be met by an answer as quick as usual.

use crate::aside::Parked;
use crate::cluster::{Busy, Cluster, Pending, Share};
use crate::compress::Coders;
use crate::concurrency::RETRY_AFTER;
use crate::exchange::{Decision, Exchange};
use crate::shard::Shard;
use crate::{Answer, Arrival, Effect, Reason};
use byrnie_base::{Instant, Now};
use byrnie_codec::Head;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A line that has not been empty for so long stands; nobody waits for longer. At least, or as long as an answer takes in the mean.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// How long one waits in a line that stands. At least, or a quarter of the time that an answer takes in the mean.
const WAIT_STANDING_MAX: Duration = Duration::from_millis(5);

/// A place in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub ticket: u64,
    /// Until when it's worth to wait.
    pub until: Instant,
}

/// The lines of one core, and what there is so much room for that nobody waits.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: Vec<Line>,
    /// Whose turn it is, with what they may take; `None`: too late.
    called: Vec<(u64, Option<Busy>)>,
    tickets: u64,
    /// For answers that are being compressed.
    pub(crate) coders: Coders,
}

/// Those that wait for one service; there is none that nobody waits for.
#[derive(Debug)]
struct Line {
    share: Arc<Share>,
    pending: Pending,
    /// Since when it has not been empty.
    since: Instant,
    /// How long an answer takes in the mean.
    typical: Duration,
    /// The oldest first.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    since: Instant,
    /// When an answer as quick as usual would be too late.
    until: Option<Instant>,
}

impl Line {
    fn stands(&self, now: Instant) -> bool {
        now.since(self.since) > WAIT_MAX.max(self.typical)
    }

    fn wait_max(&self, now: Instant) -> Duration {
        let standing = WAIT_STANDING_MAX.max(self.typical / 4);
        if self.stands(now) { standing } else { WAIT_MAX.max(self.typical) }
    }

    /// How many more may be under way.
    fn room(&self) -> u64 {
        u64::from(self.pending.max).saturating_sub(self.share.pending.value())
    }

    /// The room that there is for one that has waited for long enough, unless its answer would be too late.
    fn room_for(&self, ticket: u64, now: Instant) -> Option<Busy> {
        let waiting = self.waiting.iter().find(|waiting| waiting.ticket == ticket)?;
        let fits = self.room() > 0 && waiting.until.is_none_or(|until| until > now);
        fits.then(|| Busy::on(&self.share.pending))
    }

    /// The next, if there is one that it isn't too late for; those it is too late for go to `late`. Where there is room for all that
    /// wait, nobody has waited for too long: it was freed elsewhere, meanwhile.
    fn next(&mut self, now: Instant, late: &mut Vec<(u64, Option<Busy>)>) -> Option<u64> {
        let roomy = self.room() >= self.waiting.len() as u64;
        let wait_max = if roomy { Duration::MAX } else { self.wait_max(now) };
        loop {
            let next = if self.stands(now) && !roomy { self.waiting.pop_back() } else { self.waiting.pop_front() }?;
            if now.since(next.since) <= wait_max && next.until.is_none_or(|until| until > now) {
                return Some(next.ticket);
            }
            late.push((next.ticket, None));
        }
    }
}

impl Lines {
    /// Whether nobody waits.
    pub(crate) fn are_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A place at the end, unless there is none left.
    fn join(&mut self, cluster: &Cluster, typical: Duration, deadline: Option<Instant>, now: Instant) -> Option<Place> {
        let (share, pending) = (&cluster.call.share, cluster.call.bounds.pending?);
        let until = deadline.map(|deadline| Instant::from_nanos(deadline.as_nanos().saturating_sub(nanos(typical))));
        let known = self.lines.iter().position(|line| Arc::ptr_eq(&line.share, share));
        let waiting = known.map_or(0, |at| self.lines[at].waiting.len());
        if waiting >= pending.queued_max as usize || until.is_some_and(|until| until <= now) {
            return None;
        }
        let at = known.unwrap_or_else(|| {
            let (share, waiting) = (Arc::clone(share), VecDeque::new());
            self.lines.push(Line { share, pending, since: now, typical, waiting });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        (line.pending, line.typical) = (pending, typical);
        self.tickets += 1;
        let wait = now + line.wait_max(now);
        line.waiting.push_back(Waiting { ticket: self.tickets, since: now, until });
        Some(Place { ticket: self.tickets, until: until.map_or(wait, |until| until.min(wait)) })
    }

    /// Gives what room there is to those whose turn it is. Who is named is to be woken.
    pub(crate) fn call(&mut self, now: Instant) -> Vec<u64> {
        let before = self.called.len();
        let called = &mut self.called;
        self.lines.retain_mut(|line| {
            while line.room() > 0
                && let Some(ticket) = line.next(now, called)
            {
                called.push((ticket, Some(Busy::on(&line.share.pending))));
            }
            !line.waiting.is_empty()
        });
        self.called[before..].iter().map(|(ticket, _)| *ticket).collect()
    }

    /// Who was called takes what there was room for; so does whoever has waited to the end, if there is room by then: another core
    /// frees it and calls nobody here.
    fn turn(&mut self, ticket: u64, now: Instant) -> Option<Busy> {
        let busy = self.lines.iter().find_map(|line| line.room_for(ticket, now));
        let called = self.leave(ticket);
        called.or(busy)
    }

    /// The place is given up. What it was called for, if it was and came in time.
    pub(crate) fn leave(&mut self, ticket: u64) -> Option<Busy> {
        if let Some(at) = self.called.iter().position(|(called, _)| *called == ticket) {
            return self.called.swap_remove(at).1;
        }
        self.lines.retain_mut(|line| {
            line.waiting.retain(|waiting| waiting.ticket != ticket);
            !line.waiting.is_empty()
        });
        None
    }
}

impl Exchange {
    /// The first try, if the service asked for has room; a place in its line otherwise.
    pub(crate) fn park_or_launch(
        &mut self,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        (asked, cluster, keyed): (&Arc<Cluster>, Arc<Cluster>, bool),
        at: Now,
    ) -> Result<Decision, Box<Answer>> {
        self.heed_success(shard, &cluster, head, at.mono)?;
        if let Some(place) = self.admit(shard, asked, at.mono)? {
            let (ticket, since, asked) = (place.ticket, at.mono, Arc::clone(asked));
            self.aside().parked = Some(Parked { ticket, since, asked, cluster, keyed });
            return Ok(Decision::Queue(place));
        }
        self.launch(shard, arrival, head, (asked, cluster, keyed), at)
    }

    /// It was called, or it's no longer worth to wait ([`Effect::Queue`]). `head` as it was left by [`Exchange::begin`].
    pub fn on_turn(&mut self, shard: &mut Shard, arrival: &Arrival<'_>, head: &mut Head, now: Now) -> Effect {
        let decided = self.turn(shard, arrival, head, now);
        self.effect_of(decided, head, now)
    }

    fn turn(
        &mut self,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        at: Now,
    ) -> Result<Decision, Box<Answer>> {
        let parked = self.aside().parked.take().ok_or_else(|| self.refuse(Reason::Internal, "it does not wait"))?;
        let Some(busy) = shard.lines.turn(parked.ticket, at.mono) else {
            return Err(self.too_many(&parked.asked, Some(at.mono.since(parked.since))));
        };
        self.course.pending = Some(busy);
        self.keep_pace(&parked.asked, at.mono)?;
        self.launch(shard, arrival, head, (&parked.asked, parked.cluster, parked.keyed), at)
    }

    /// Takes one of the places of the service asked for. A place in its line, if there is none now.
    fn admit(&mut self, shard: &mut Shard, asked: &Cluster, now: Instant) -> Result<Option<Place>, Box<Answer>> {
        let bounded = asked.call.hash.as_ref().is_some_and(|hash| hash.load_percent_max.is_some());
        if asked.call.bounds.pending.is_some() || bounded {
            let busy = Busy::on(&asked.call.share.pending);
            if let Some(pending) = asked.call.bounds.pending
                && asked.call.share.pending.value() > u64::from(pending.max)
            {
                drop(busy);
                let typical = shard.clusters.peek(asked.slot).map_or(0, |memory| memory.typical);
                let place = shard.lines.join(asked, Duration::from_nanos(typical), self.course.deadline, now);
                return place.map(Some).ok_or_else(|| self.too_many(asked, None));
            }
            self.course.pending = Some(busy);
        }
        self.keep_pace(asked, now).map(|()| None)
    }

    /// The rate limit of the service asked for.
    fn keep_pace(&self, asked: &Cluster, now: Instant) -> Result<(), Box<Answer>> {
        let Some(wait) = asked.over_rate(now) else { return Ok(()) };
        let mut answer = self.refuse(Reason::RateLimited, "the rate limit of the service is reached");
        answer.retry_after = Some(wait);
        Err(answer)
    }

    /// Too many are under way, and it has waited in vain, if it has.
    fn too_many(&self, asked: &Cluster, waited: Option<Duration>) -> Box<Answer> {
        let most = asked.call.bounds.pending.map_or(0, |pending| pending.max);
        let waited = waited.map(|waited| format!("; it has waited for {} ms", waited.as_millis())).unwrap_or_default();
        let mut answer = self.refuse(Reason::Overload, format!("{most} requests are under way already{waited}"));
        answer.retry_after = Some(RETRY_AFTER);
        answer
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
