// SPDX-License-Identifier: Apache-2.0
//! Whether a caller comes back to the endpoint that it had (GEP-1619). What the caller carries names the
//! endpoint and says when the session began and was last used; it is no secret and no proof: whoever
//! changes it chooses an endpoint of the same rule, and nothing else. Any proxy can read it, so that none
//! has to remember anything.

use crate::cluster::Member;
use crate::{Tls, snapshot::Snapshot};
use byrnie_base::{Text, Timestamp};
use byrnie_codec::{Head, Known};
use byrnie_model::ServiceRef;
use byrnie_model::route::{Carrier, Session};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// Most cookies of a request that are looked at.
const COOKIES_MAX: usize = 100;

/// What a caller brings: three numbers in hexadecimal, joined by dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    token: u64,
    /// In seconds since 1970.
    begun: u64,
    used: u64,
}

/// A session as an exchange knows it.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    ticket: Option<Ticket>,
}

/// What names an endpoint to callers (FNV-1a, 64 bits): the same at every proxy, and after restarts of
/// any of them. Two endpoints of one rule that share it, one of 2^64, would share their sessions.
pub(crate) fn token(service: &ServiceRef, workload: &str) -> u64 {
    let parts = [&*service.namespace, &*service.name, workload];
    let bytes = parts.iter().flat_map(|part| part.bytes().chain(std::iter::once(0)));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Visit {
    /// The session that a request brings along, unless it has ended.
    pub(crate) fn of(session: &Session, head: &Head, now: Timestamp) -> Self {
        let value = match session.carrier {
            Carrier::Header => head.get(&session.name).and_then(|value| std::str::from_utf8(value).ok()),
            Carrier::Cookie | Carrier::PermanentCookie => cookie(head, &session.name),
        };
        let lasts = |since: u64, most: Option<Duration>| {
            most.is_none_or(|most| now.as_secs().saturating_sub(since) < most.as_secs().max(1))
        };
        let ticket =
            value.and_then(Ticket::parse).filter(|t| lasts(t.begun, session.absolute) && lasts(t.used, session.idle));
        Self { ticket }
    }

    /// Whether this is the endpoint that the caller had.
    pub(crate) fn had(&self, member: &Member) -> bool {
        self.ticket.is_some_and(|ticket| ticket.token == member.token)
    }

    /// The place of the backend, and the endpoint, that the caller had, if it may still be sent requests.
    pub(crate) fn find(
        &self,
        snapshot: &Snapshot,
        clusters: impl Iterator<Item = (u16, crate::slot::Slot)>,
    ) -> Option<(u16, Arc<Member>)> {
        self.ticket?;
        for (at, slot) in clusters {
            let found = snapshot.cluster(slot)?.members().iter().find(|member| self.had(member));
            if let Some(member) = found {
                return Some((at, Arc::clone(member)));
            }
        }
        None
    }

    /// Tells the caller which endpoint answered, if it doesn't know or must be told anew.
    pub(crate) fn tell(&self, session: &Session, member: &Member, tls: Tls, now: Timestamp, head: &mut Head) {
        let seconds = now.as_secs();
        let begun = self.ticket.filter(|_| self.had(member)).map(|ticket| ticket.begun);
        if begun.is_some() && session.idle.is_none() {
            return;
        }
        let ticket = Ticket { token: member.token, begun: begun.unwrap_or(seconds), used: seconds };
        let value = ticket.text();
        match session.carrier {
            Carrier::Header => head.set(&session.name, value.as_bytes()),
            Carrier::Cookie | Carrier::PermanentCookie => {
                let mut line = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax", session.name);
                if let (Carrier::PermanentCookie, Some(absolute)) = (session.carrier, session.absolute) {
                    let left = absolute.as_secs().saturating_sub(seconds.saturating_sub(ticket.begun));
                    write!(line, "; Max-Age={left}").ok();
                }
                if tls == Tls::Simple {
                    line.push_str("; Secure");
                }
                head.append(Known::SetCookie.name(), line.as_bytes())
            }
        }
        // An answer without room for it begins another session next time.
        .ok();
    }
}

impl Ticket {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            let fits = (1..=16).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            fits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        });
        let ticket = Self { token: parts.next()??, begun: parts.next()??, used: parts.next()?? };
        parts.next().is_none().then_some(ticket)
    }

    fn text(self) -> Text {
        format!("{:x}.{:x}.{:x}", self.token, self.begun, self.used).into()
    }
}

/// The first cookie of this name (RFC 6265 5.4).
fn cookie<'a>(head: &'a Head, name: &str) -> Option<&'a str> {
    let lines = head.values(Known::Cookie.name()).filter_map(|line| std::str::from_utf8(line).ok());
    let pairs = lines.flat_map(|line| line.split(';')).take(COOKIES_MAX);
    pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(found, _)| *found == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{World, head, response, sref};
    use proptest::prelude::*;

    const NAME: &str = "s";

    fn session(carrier: Carrier) -> Session {
        Session { name: NAME.into(), carrier, absolute: None, idle: None }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// What an answer of the first endpoint tells a caller that brings `request`.
    fn told(session: &Session, request: &Head, now: u64) -> Vec<String> {
        let world = World::payments(2);
        let snapshot = world.snapshot();
        let member = &snapshot.endpoints(&sref("payments"))[0];
        let mut answer = response(200, &[]);
        Visit::of(session, request, at(now)).tell(session, member, Tls::None, at(now), &mut answer);
        answer.headers().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect()
    }

    #[test]
    fn a_caller_is_told_once_and_again_where_a_session_may_lie_idle() {
        let cookie = session(Carrier::Cookie);
        let first = told(&cookie, &head("GET", "h/", &[]), 1000);
        let value = first[0].split_once("s=").unwrap().1.split(';').next().unwrap().to_owned();
        assert_eq!(first, [format!("set-cookie: s={value}; Path=/; HttpOnly; SameSite=Lax")]);
        let back = head("GET", "h/", &[("cookie", &format!("a=b; s={value}; c=d"))]);
        assert_eq!(told(&cookie, &back, 2000), Vec::<String>::new());
        let idle = Session { idle: Some(Duration::from_secs(5000)), ..cookie.clone() };
        assert_eq!(told(&idle, &back, 2000).len(), 1);
        let header = told(&session(Carrier::Header), &head("GET", "h/", &[]), 1000);
        assert_eq!(header, [format!("s: {value}")]);
    }

    #[test]
    fn a_permanent_cookie_ends_with_its_session() {
        let absolute = Some(Duration::from_secs(100));
        let permanent = Session { absolute, ..session(Carrier::PermanentCookie) };
        let first = told(&permanent, &head("GET", "h/", &[]), 1000);
        assert!(first[0].contains("; Max-Age=100"), "{first:?}");
        let value = first[0].split_once("s=").unwrap().1.split(';').next().unwrap().to_owned();
        let back = head("GET", "h/", &[("cookie", &format!("s={value}"))]);
        assert_eq!(told(&permanent, &back, 1099).len(), 0);
        assert_eq!(told(&permanent, &back, 1100).len(), 1, "after its time it's a new one");
    }

    proptest! {
        #[test]
        fn what_callers_bring_is_read_or_ignored(text in "\\PC{0,60}") {
            if let Some(ticket) = Ticket::parse(&text) {
                prop_assert_eq!(Ticket::parse(&ticket.text()), Some(ticket));
            }
        }

        #[test]
        fn tickets_come_back_the_same(token: u64, begun: u64, used: u64) {
            let ticket = Ticket { token, begun, used };
            prop_assert_eq!(Ticket::parse(&ticket.text()), Some(ticket));
        }
    }
}
