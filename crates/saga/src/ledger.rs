// SPDX-License-Identifier: Apache-2.0
//! What becomes of a keyed request. `ABSENT -> IN_FLIGHT(claim, lease) -> DONE(answer) -> forgotten`; a
//! lease that lapses without an answer leaves the request AMBIGUOUS: its program may or may not have
//! acted. A store applies these functions to what it keeps, inside one atomic write; proxies learn the
//! outcome. Nothing here ever decides to run an ambiguous request again unless it was asked to.

mod fingerprint;
#[cfg(test)]
mod tests;

pub use fingerprint::{Fingerprint, Fingerprinting};

use byrnie_base::{Text, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest name of a service, and longest identity of a caller, in bytes.
pub const SCOPE_BYTES_MAX: usize = 512;
/// Most bytes that are kept of one answer, in the form in which they rest.
pub const KEPT_BYTES_MAX: usize = 80 * 1024;
/// Largest answer that is kept for replay, its head included, in bytes: there is room for a seal around it.
pub const ANSWER_BYTES_MAX: usize = KEPT_BYTES_MAX - 64;
/// Longest time that one execution may be under way before it counts as ambiguous.
pub const LEASE_MAX: Duration = Duration::from_secs(3600);
/// Longest time that a key is remembered.
pub const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// One key in its scope. Two callers never meet under one name, and neither do two services.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The service that is protected, as `NAME.NAMESPACE`.
    pub service: Text,
    /// The caller's identity, as its certificate proved it.
    pub caller: Text,
    /// The key.
    pub key: Text,
}

impl Name {
    /// Whether every part is there and within its limit.
    pub fn is_valid(&self) -> bool {
        let scoped = |text: &Text| !text.is_empty() && text.len() <= SCOPE_BYTES_MAX;
        scoped(&self.service) && scoped(&self.caller) && !self.key.is_empty() && self.key.len() <= KEY_BYTES_MAX
    }
}

/// One execution of a request: drawn by the proxy that wants to forward it, new each time. It fences:
/// only the execution that holds the key can say how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim(pub u64);

/// An answer as a proxy kept it; nobody but proxies looks inside.
pub type Kept = Arc<[u8]>;

/// What is remembered of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What the first request was.
    pub fingerprint: Fingerprint,
    /// The execution that holds the key.
    pub claim: Claim,
    /// How far it is.
    pub state: State,
    /// When all of this is forgotten.
    pub expires: Timestamp,
}

/// How far the execution is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Under way; ambiguous once this time has passed.
    InFlight {
        /// When the lease ends.
        lapses: Timestamp,
        /// An earlier execution ended nobody knows how; without an answer it is as unknown as before.
        again: bool,
    },
    /// Done, with this answer.
    Done(Kept),
    /// Its end is unknown: the program may have acted.
    Ambiguous,
}

impl Entry {
    /// Whether it is forgotten at `now`. An execution under way is never forgotten.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires <= now
    }

    /// The state as it is at `now`: a lease that has lapsed is ambiguity.
    pub fn standing(&self, now: Timestamp) -> State {
        match self.state {
            State::InFlight { lapses, .. } if lapses <= now => State::Ambiguous,
            ref state => state.clone(),
        }
    }
}

/// A proxy wants to forward a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// What the request is.
    pub fingerprint: Fingerprint,
    /// The execution that would begin.
    pub claim: Claim,
    /// How long it may be under way: the proxy answers the caller, one way or another, before that.
    pub lease: Duration,
    /// How long the key is remembered from now on: from this execution or, while nobody knows how it ended, from the last
    /// time that it was asked for.
    pub ttl: Duration,
    /// Run the request again if its end is unknown: its policy says that the program can take it.
    pub again: bool,
}

/// What the proxy is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Begun {
    /// Forward it.
    Granted {
        /// An earlier execution ended nobody knows how, and the policy asked to run it again.
        again: bool,
    },
    /// It was done already: give this answer.
    Done(Kept),
    /// It is under way; this much of its lease is left.
    InFlight(Duration),
    /// The key was used for another request.
    Mismatch,
    /// It was begun once, and nobody knows how it ended.
    Ambiguous,
}

/// How an execution ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// With this answer.
    Done(Kept),
    /// The program provably never saw it: the key is free again, or as ambiguous as it was before.
    Unsent,
    /// The program may have acted.
    Ambiguous,
}

/// What a proxy learns when it reports an ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finished {
    /// It is so.
    Recorded,
    /// Another execution holds the key by now, or the key was forgotten: this one's answer doesn't count.
    Fenced,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// This, in place of what was there.
    Put(Entry),
    /// The key is free.
    Remove,
}

/// A proxy wants to forward a request whose key has this entry.
pub fn begin(entry: Option<&Entry>, ask: &Begin, now: Timestamp) -> (Begun, Change) {
    let Some(entry) = entry.filter(|entry| !entry.is_over(now)) else {
        return (Begun::Granted { again: false }, Change::Put(granted(ask, false, now)));
    };
    if entry.fingerprint != ask.fingerprint {
        return (Begun::Mismatch, Change::None);
    }
    match entry.standing(now) {
        State::Done(kept) => (Begun::Done(kept), Change::None),
        // The same proxy asks once more, as it lost the answer.
        State::InFlight { again, .. } if entry.claim == ask.claim => (Begun::Granted { again }, Change::None),
        State::InFlight { lapses, .. } => {
            (Begun::InFlight(Duration::from_millis(lapses.as_millis() - now.as_millis())), Change::None)
        }
        State::Ambiguous if ask.again && entry.claim != ask.claim => {
            (Begun::Granted { again: true }, Change::Put(granted(ask, true, now)))
        }
        State::Ambiguous => (Begun::Ambiguous, remembered(entry, ask.ttl.min(TTL_MAX), now)),
    }
}

/// An ambiguous key that is asked for again is remembered from now on: forgotten, it would be run again silently. Whoever
/// asks often has that written twice per `ttl` at most.
fn remembered(entry: &Entry, ttl: Duration, now: Timestamp) -> Change {
    if entry.expires >= now + ttl / 2 {
        return Change::None;
    }
    Change::Put(Entry { expires: now + ttl, ..entry.clone() })
}

/// The execution `claim` of a request whose key has this entry has ended.
pub fn finish(entry: Option<&Entry>, claim: Claim, ending: Ending, now: Timestamp) -> (Finished, Change) {
    let Some(entry) = entry.filter(|entry| !entry.is_over(now) && entry.claim == claim) else {
        return (Finished::Fenced, Change::None);
    };
    let state = match (&entry.state, ending) {
        // Told twice, or too late: what was recorded first is what others were told.
        (State::Done(_), _) | (State::Ambiguous, Ending::Ambiguous | Ending::Unsent) => {
            return (Finished::Recorded, Change::None);
        }
        (State::InFlight { again: false, .. }, Ending::Unsent) => return (Finished::Recorded, Change::Remove),
        (State::InFlight { .. }, Ending::Ambiguous | Ending::Unsent) => State::Ambiguous,
        // Late, but nobody else has run it meanwhile.
        (State::InFlight { .. } | State::Ambiguous, Ending::Done(kept)) => State::Done(kept),
    };
    (Finished::Recorded, Change::Put(Entry { state, ..entry.clone() }))
}

fn granted(ask: &Begin, again: bool, now: Timestamp) -> Entry {
    let (lease, ttl) = (ask.lease.min(LEASE_MAX), ask.ttl.min(TTL_MAX));
    Entry {
        fingerprint: ask.fingerprint,
        claim: ask.claim,
        state: State::InFlight { lapses: now + lease, again },
        // Ambiguity must be there to be seen for at least as long as the execution might have lasted.
        expires: now + ttl.max(lease * 2),
    }
}
