// SPDX-License-Identifier: Apache-2.0
//! The tries of one exchange: the first in place, further ones on the heap, as they're rare. Kept by
//! `course`, read by verdicts and records.

use crate::Failure;
use crate::cluster::{Member, Underway};
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
}

impl Attempt {
    /// The workload tried; `None`: the own program.
    pub fn endpoint(&self) -> Option<&Text> {
        self.member.as_ref().map(|member| member.name())
    }

    /// How it ended; `None` while it goes on.
    pub fn ending(&self) -> Option<Ending> {
        self.ended.map(|(_, ending)| ending)
    }

    pub(crate) fn begun(&self) -> Instant {
        self.begun
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
            Some(Ending::Status(status)) => format!("status {status}").into(),
            Some(Ending::Failed(failure)) => failure.label().into(),
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

    pub(crate) fn tried(&self, member: &Member) -> bool {
        self.iter().any(|attempt| attempt.member.as_ref().is_some_and(|m| m.slot == member.slot))
    }

    pub(crate) fn begin(&mut self, member: Option<Arc<Member>>, now: Instant) {
        let busy = member.as_deref().map(Underway::at);
        let attempt = Attempt { member, begun: now, ended: None, busy };
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
        let last = self.more.last_mut().or(self.first.as_mut()).filter(|attempt| attempt.ended.is_none());
        let Some(attempt) = last else { return Duration::ZERO };
        attempt.ended = Some((now, ending));
        // A response's body still keeps the endpoint busy; what failed doesn't.
        if matches!(ending, Ending::Failed(_)) {
            attempt.busy = None;
        }
        attempt.duration()
    }

    /// Frees the endpoint of the last try, whose answer isn't wanted.
    pub(crate) fn release(&mut self) {
        if let Some(attempt) = self.more.last_mut().or(self.first.as_mut()) {
            attempt.busy = None;
        }
    }

    pub(crate) fn last(&self) -> Option<&Attempt> {
        self.more.last().or(self.first.as_ref())
    }
}
