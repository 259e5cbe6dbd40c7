// SPDX-License-Identifier: Apache-2.0
//! The tries of one exchange: the first in place, further ones on the heap, as they're rare. Kept by
//! `course`, read by verdicts and records.

use crate::Failure;
use crate::cluster::{Member, Underway};
use crate::outlier::zone::ZoneSet;
use byrnie_base::{Instant, Text};
use byrnie_model::record;
use std::sync::Arc;
use std::time::Duration;

/// One try.
#[derive(Debug)]
pub struct Attempt {
    /// Where it went; `None`: to the own program.
    pub(crate) member: Option<Arc<Member>>,
    begun: Instant,
    ended: Option<(Instant, Ending)>,
    /// Counted as load of the endpoint until the exchange ends.
    busy: Option<Underway>,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a response of this status.
    Status(u16),
    /// A tunnel was closed in good order.
    Closed,
    /// Without an answer.
    Failed(Failure),
    /// Given up for another one, begun beside it, that answered first.
    Beaten,
}

impl Attempt {
    /// The workload tried; `None`: the own program.
    pub fn endpoint(&self) -> Option<&Text> {
        self.member.as_ref().map(|member| member.name())
    }

    /// The endpoint tried; `None`: the own program.
    pub fn member(&self) -> Option<&Arc<Member>> {
        self.member.as_ref()
    }

    /// How it ended; `None` while it goes on.
    pub fn ending(&self) -> Option<Ending> {
        self.ended.map(|(_, ending)| ending)
    }

    /// When it was begun.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether its endpoint has answered nobody since it was begun: one that has is slow with this request rather than gone.
    pub(crate) fn is_unheard(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.load.heard_at() <= self.begun)
    }

    fn end(&mut self, ending: Ending, now: Instant) -> Duration {
        self.ended = Some((now, ending));
        // A response's body still keeps the endpoint busy; what failed doesn't.
        if matches!(ending, Ending::Failed(_) | Ending::Beaten) {
            self.busy = None;
        }
        self.duration()
    }

    /// How long it took, up to the response head; zero while it goes on.
    pub fn duration(&self) -> Duration {
        self.ended.map_or(Duration::ZERO, |(at, _)| at.since(self.begun))
    }

    /// As decision records hold it.
    pub fn record(&self) -> record::Attempt {
        let (endpoint, address) = match &self.member {
            Some(member) => (member.name().clone(), member.address_text.clone()),
            None => ("".into(), "program".into()),
        };
        let outcome = match self.ending() {
            None => "none".into(),
            Some(Ending::Closed) => "closed".into(),
            Some(Ending::Beaten) => "another try was quicker".into(),
            Some(Ending::Status(status)) => format!("status {status}").into(),
            Some(Ending::Failed(failure)) => failure.to_string().into(),
        };
        let duration_us = u64::try_from(self.duration().as_micros()).unwrap_or(u64::MAX);
        record::Attempt { endpoint, address, outcome, duration_us }
    }
}

/// The tries of one exchange, in order.
#[derive(Debug, Default)]
pub struct Attempts {
    first: Option<Attempt>,
    more: Vec<Attempt>,
    /// Number, from 1, of the one that counts as the last, if it isn't: another was begun beside it, and lost.
    kept: Option<u8>,
}

impl Attempts {
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.first.iter().chain(&self.more)
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Whether another try came before, rather than beside.
    pub(crate) fn is_retried(&self) -> bool {
        self.iter().filter(|attempt| attempt.ending() != Some(Ending::Beaten)).count() > 1
    }

    /// Whether there is no use in trying a member: it was tried, or another way by a gateway that lets nobody through.
    pub(crate) fn tried(&self, member: &Member) -> bool {
        self.iter().any(|attempt| {
            let shut = matches!(attempt.ending(), Some(Ending::Failed(Failure::Connect | Failure::ConnectTimeout)));
            let by = |m: &Member| m.site().is_some() && m.site() == member.site() && m.address() == member.address();
            attempt.member.as_ref().is_some_and(|m| m.slot == member.slot || shut && by(m))
        })
    }

    /// How many ended without having met anybody.
    pub(crate) fn unmet(&self) -> usize {
        self.iter().filter(|one| matches!(one.ending(), Some(Ending::Failed(failure)) if failure.unmet())).count()
    }

    /// When the first try was begun of which nothing was heard until its time was over.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        let late = |ending| matches!(ending, Ending::Failed(Failure::ConnectTimeout | Failure::TryTimeout));
        self.iter().find(|attempt| attempt.ending().is_some_and(late)).map(Attempt::begun)
    }

    /// How many were given up as they took too long.
    pub(crate) fn given_up(&self) -> usize {
        self.iter().filter(|one| one.ending() == Some(Ending::Failed(Failure::TryTimeout))).count()
    }

    /// Whether nothing has been heard of any endpoint of those that ended.
    pub(crate) fn all_silent(&self) -> bool {
        self.iter().all(|attempt| match attempt.ending() {
            None => true,
            Some(Ending::Failed(failure)) => failure.unmet() || failure.silent() && attempt.is_unheard(),
            Some(_) => false,
        })
    }

    /// Zones in which nobody answered.
    pub(crate) fn lost_zones(&self) -> ZoneSet {
        let lost = self.iter().filter(|attempt| matches!(attempt.ending(), Some(Ending::Failed(_))));
        lost.filter_map(|attempt| attempt.member.as_ref()).fold(ZoneSet::NONE, |zones, member| zones.with(member.zone))
    }

    pub(crate) fn begin(&mut self, member: Option<Arc<Member>>, now: Instant) {
        let busy = member.as_deref().map(Underway::at);
        let attempt = Attempt { member, begun: now, ended: None, busy };
        self.kept = None;
        match &self.first {
            None => self.first = Some(attempt),
            Some(_) => self.more.push(attempt),
        }
    }

    /// The try under way.
    pub(crate) fn open(&self) -> Option<&Attempt> {
        self.last().filter(|attempt| attempt.ended.is_none())
    }

    /// Ends the try under way; how long it took.
    pub(crate) fn end(&mut self, ending: Ending, now: Instant) -> Duration {
        let last = self.last_mut().filter(|attempt| attempt.ended.is_none());
        last.map_or(Duration::ZERO, |attempt| attempt.end(ending, now))
    }

    /// From now on the try of this number, from 1, counts as the last.
    pub(crate) fn keep(&mut self, number: u8) {
        self.kept = Some(number);
    }

    /// The number of the try that counts as the last.
    pub(crate) fn number(&self) -> u8 {
        self.kept.unwrap_or_else(|| u8::try_from(self.count()).unwrap_or(u8::MAX))
    }

    /// Frees the endpoint of the last try, whose answer isn't wanted.
    pub(crate) fn release(&mut self) {
        if let Some(attempt) = self.last_mut() {
            attempt.busy = None;
        }
    }

    pub(crate) fn last(&self) -> Option<&Attempt> {
        match self.number() {
            0 | 1 => self.first.as_ref(),
            number => self.more.get(usize::from(number) - 2),
        }
    }

    fn last_mut(&mut self) -> Option<&mut Attempt> {
        match self.number() {
            0 | 1 => self.first.as_mut(),
            number => self.more.get_mut(usize::from(number) - 2),
        }
    }
}
