// SPDX-License-Identifier: Apache-2.0
//! Whether a caller comes back to the endpoint that it had (GEP-1619). What the caller carries names the
//! endpoint and says when the session began and was last used; it is no secret and no proof: whoever
//! changes it chooses an endpoint of the same rule, and nothing else. Any proxy can read it, so that none
//! has to remember anything.
//!
//! Where the egress chooses among addresses (`compile/far`), the caller's proxy tells it which one the caller had, if any
//! (`x-byrnie-session`, a number in hexadecimal, 0 for none), and is told which one has answered. A number that no address of the
//! service has now means nothing. What the caller carries names the service then too, as its proxy doesn't know the addresses.

use crate::cluster::{Cluster, Member};
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

/// What a caller brings: three numbers in hexadecimal, joined by dots, or four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    host: Host,
    /// In seconds since 1970.
    begun: u64,
    used: u64,
}

/// Whom a caller had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host {
    token: u64,
    /// The token of the service, if it's one of the addresses among which the egress chooses.
    far: Option<u64>,
}

/// A session as an exchange knows it.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    ticket: Option<Ticket>,
    /// The address that answered, by the egress's word.
    told: Option<u64>,
}

/// Where the caller was before, of the backends of a rule.
pub(crate) struct Found {
    /// The place of the backend.
    pub(crate) at: u16,
    /// The endpoint; `None` if the egress knows it.
    pub(crate) member: Option<Arc<Member>>,
}

/// What names an endpoint to callers (FNV-1a, 64 bits): the same at every proxy, and after restarts of
/// any of them. Two endpoints of one rule that share it, one of 2^64, would share their sessions. It hides a name or address from
/// who reads it, not from who guesses it.
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
        Self { ticket, told: None }
    }

    /// Where the caller was before, if it may still be sent requests.
    pub(crate) fn find(
        &self,
        snapshot: &Snapshot,
        clusters: impl Iterator<Item = (u16, crate::slot::Slot)>,
    ) -> Option<Found> {
        let host = self.ticket?.host;
        for (at, slot) in clusters {
            let cluster = snapshot.cluster(slot)?;
            if host.far.is_some_and(|far| far == of_service(cluster)) {
                return Some(Found { at, member: None });
            }
            let found = cluster.members().iter().find(|member| host == Host { token: member.token, far: None });
            if let Some(member) = found {
                return Some(Found { at, member: Some(Arc::clone(member)) });
            }
        }
        None
    }

    /// Has the egress keep the session, where it chooses among addresses.
    pub(crate) fn ask(&self, cluster: &Cluster, head: &mut Head) {
        if !cluster.members().iter().any(|member| member.identity().is_egress()) {
            return;
        }
        let had = self.ticket.map(|ticket| ticket.host).filter(|host| host.far == Some(of_service(cluster)));
        set_token(head, had.map_or(0, |host| host.token));
    }

    /// Takes from an answer what the egress says of the address.
    pub(crate) fn hear(&mut self, head: &mut Head) {
        self.told = head.header(Known::ByrnieSession).and_then(read_token).filter(|token| *token != 0);
        head.remove_known(Known::ByrnieSession);
    }

    /// Tells the caller which endpoint answered, if it doesn't know or must be told anew.
    pub(crate) fn tell(&self, session: &Session, member: &Member, tls: Tls, now: Timestamp, head: &mut Head) {
        let seconds = now.as_secs();
        let host = match self.told {
            Some(token) => Host { token, far: Some(token_of(&member.endpoint.service)) },
            None => Host { token: member.token, far: None },
        };
        let begun = self.ticket.filter(|ticket| ticket.host == host).map(|ticket| ticket.begun);
        if begun.is_some() && session.idle.is_none() {
            return;
        }
        let ticket = Ticket { host, begun: begun.unwrap_or(seconds), used: seconds };
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

/// The address of `cluster` that a caller had, by the word of its own proxy.
pub(crate) fn wanted(cluster: &Cluster, said: &[u8]) -> Option<Arc<Member>> {
    let token = read_token(said)?;
    cluster.members().iter().find(|member| member.token == token).map(Arc::clone)
}

/// Tells the caller's proxy which address has answered.
pub(crate) fn confess(member: &Member, head: &mut Head) {
    set_token(head, member.token);
}

fn set_token(head: &mut Head, token: u64) {
    // A head without room for it goes on without its session.
    head.set_known(Known::ByrnieSession, format!("{token:x}").as_bytes()).ok();
}

fn read_token(said: &[u8]) -> Option<u64> {
    number(std::str::from_utf8(said).ok()?)
}

/// 1 to 16 digits in hexadecimal.
fn number(text: &str) -> Option<u64> {
    let fits = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// What names a service to callers.
fn token_of(service: &ServiceRef) -> u64 {
    token(service, "")
}

fn of_service(cluster: &Cluster) -> u64 {
    token_of(cluster.service())
}

impl Ticket {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(number);
        let (token, begun, used) = (parts.next()??, parts.next()??, parts.next()??);
        let far = match parts.next() {
            Some(far) => Some(far?),
            None => None,
        };
        parts.next().is_none().then_some(Self { host: Host { token, far }, begun, used })
    }

    fn text(self) -> Text {
        let Self { host: Host { token, far }, begun, used } = self;
        match far {
            Some(far) => format!("{token:x}.{begun:x}.{used:x}.{far:x}").into(),
            None => format!("{token:x}.{begun:x}.{used:x}").into(),
        }
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
        fn tickets_come_back_the_same(token: u64, begun: u64, used: u64, far: Option<u64>) {
            let ticket = Ticket { host: Host { token, far }, begun, used };
            prop_assert_eq!(Ticket::parse(&ticket.text()), Some(ticket));
        }
    }
}
