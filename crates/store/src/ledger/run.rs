// SPDX-License-Identifier: Apache-2.0
//! What a ledger is told to do, as plain jobs, and what comes of them by the rules of `saga`. Every backend does jobs; that makes it a
//! [`Ledger`].

use super::{BYTES_MAX, KEYS_MAX, Ledger, Neighbour};
use crate::store::{Error, Pending};
use byrnie_base::Timestamp;
use byrnie_saga::ledger::{self, Begin, Begun, Change, Claim, Ending, Entry, Finished, KEPT_BYTES_MAX, Name, State};

/// Something to be decided and made durable.
#[derive(Debug)]
pub enum Job {
    Begin(Name, Begin),
    Finish(Name, Claim, Ending),
    Read(Name),
    Sweep,
    Meet(Neighbour),
}

/// What became of a job.
#[derive(Debug)]
pub enum Done {
    Begun(Begun),
    Finished(Finished),
    Read(Option<Entry>),
    Swept(usize),
    Met(Vec<Neighbour>),
}

impl Job {
    /// Refuses what no proxy of ours asks.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Some(name) = self.name() else { return Ok(()) };
        if !name.is_valid() {
            return Err(Error::Malformed("a part of an idempotency key's name is empty or too long"));
        }
        let kept = self.bytes();
        if kept > KEPT_BYTES_MAX {
            return Err(Error::Limit { what: "an answer to be kept, in bytes", size: kept, max: KEPT_BYTES_MAX });
        }
        Ok(())
    }

    /// How much it adds to a group.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Finish(_, _, Ending::Done(kept)) => kept.len(),
            _ => 0,
        }
    }

    /// The key that it is about, if it's one.
    pub(crate) fn name(&self) -> Option<&Name> {
        match self {
            Self::Begin(name, _) | Self::Finish(name, ..) | Self::Read(name) => Some(name),
            Self::Sweep | Self::Meet(_) => None,
        }
    }

    /// What becomes of a job about one key, and what is to be written.
    pub(crate) fn decide(&self, entry: Option<&Entry>, now: Timestamp) -> (Done, Change) {
        match self {
            Self::Begin(_, ask) => {
                let (begun, change) = ledger::begin(entry, ask, now);
                (Done::Begun(begun), change)
            }
            Self::Finish(_, claim, ending) => {
                let (finished, change) = ledger::finish(entry, *claim, ending.clone(), now);
                (Done::Finished(finished), change)
            }
            Self::Read(_) => (Done::Read(entry.filter(|entry| !entry.is_over(now)).cloned()), Change::None),
            Self::Sweep => (Done::Swept(0), Change::None),
            Self::Meet(_) => (Done::Met(Vec::new()), Change::None),
        }
    }
}

/// Why no further request may begin, with so much in a ledger. Those that have begun may always end.
pub(crate) fn full(keys: u64, bytes: u64) -> Option<Error> {
    let limit = |what, size: u64, max: u64| {
        let number = |n| usize::try_from(n).unwrap_or(usize::MAX);
        (size >= max).then(|| Error::Limit { what, size: number(size), max: number(max) })
    };
    limit("the number of idempotency keys", keys, KEYS_MAX)
        .or_else(|| limit("the size of the ledger in bytes", bytes, BYTES_MAX))
}

/// A name as backends keep it: length before each part but the last, so that no two names give the same bytes.
pub(crate) fn key_of(name: &Name) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.service.len() + name.caller.len() + name.key.len());
    for part in [&name.service, &name.caller] {
        // A part has at most 512 bytes.
        out.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(name.key.as_bytes());
    out
}

/// Fingerprint, claim, expiry, state, lapse.
pub(crate) const FIXED_BYTES: usize = 32 + 8 + 8 + 1 + 8;

/// How much an entry counts for [`BYTES_MAX`].
pub(crate) fn size_of(key: &[u8], entry: &Entry) -> u64 {
    let kept = if let State::Done(kept) = &entry.state { kept.len() } else { 0 };
    (2 * key.len() + FIXED_BYTES + kept) as u64
}

/// A backend.
pub trait Run: Send + Sync {
    /// [`Ledger::is_shared`].
    const SHARED: bool = false;

    /// Does a job, and reads what came of it.
    fn run<T: Send + 'static>(&self, job: Job, read: fn(Done) -> Option<T>) -> Pending<'_, T>;
}

/// The answer, as what was asked for.
macro_rules! of {
    ($variant:ident) => {
        |done| if let Done::$variant(found) = done { Some(found) } else { None }
    };
}

impl<R: Run> Ledger for R {
    fn begin(&self, name: Name, ask: Begin) -> Pending<'_, Begun> {
        self.run(Job::Begin(name, ask), of!(Begun))
    }

    fn finish(&self, name: Name, claim: Claim, ending: Ending) -> Pending<'_, Finished> {
        self.run(Job::Finish(name, claim, ending), of!(Finished))
    }

    fn read(&self, name: Name) -> Pending<'_, Option<Entry>> {
        self.run(Job::Read(name), of!(Read))
    }

    fn sweep(&self) -> Pending<'_, usize> {
        self.run(Job::Sweep, of!(Swept))
    }

    fn is_shared(&self) -> bool {
        R::SHARED
    }

    fn meet(&self, own: Neighbour) -> Pending<'_, Vec<Neighbour>> {
        self.run(Job::Meet(own), of!(Met))
    }
}
