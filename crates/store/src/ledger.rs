// SPDX-License-Identifier: Apache-2.0
//! `trait Ledger`: what is remembered of idempotency keys, durably. The control plane calls it for
//! proxies. The rules are `saga`'s; here they become one atomic, durable write. [`Embedded`] is one file of
//! this machine, [`Memory`] the same code without threads on a simulated disk; `suite` holds both to the
//! same promises.

mod embedded;
mod memory;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;

pub use embedded::Embedded;
pub use memory::Memory;

use crate::store::{Error, Pending};
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Entry, Finished, KEPT_BYTES_MAX, Name};

/// Keys, each with what became of its request.
///
/// What was answered survives a crash of the process and of the machine. Calls for one name happen one
/// after the other; an answer tells of nothing that a crash could take back.
pub trait Ledger: Send + Sync {
    /// A proxy wants to forward a request.
    fn begin(&self, name: Name, ask: Begin) -> Pending<'_, Begun>;

    /// The execution `claim` has ended.
    fn finish(&self, name: Name, claim: Claim, ending: Ending) -> Pending<'_, Finished>;

    /// What is remembered of a key.
    fn read(&self, name: Name) -> Pending<'_, Option<Entry>>;

    /// Forgets what is over, at most [`SWEEP_MAX`] keys at a time: how many there were.
    fn sweep(&self) -> Pending<'_, usize>;
}

/// Most keys remembered at once. Beyond it nothing new begins, and proxies refuse keyed requests.
pub const KEYS_MAX: u64 = 10_000_000;
/// Most bytes of all keys and kept answers.
pub const BYTES_MAX: u64 = 8 << 30;
/// Most keys that one sweep forgets, so that it never holds up requests for long.
pub const SWEEP_MAX: usize = 1000;

/// Something to be decided and made durable.
pub(crate) enum Job {
    Begin(Name, Begin),
    Finish(Name, Claim, Ending),
    Read(Name),
    Sweep,
}

/// What became of a job.
pub(crate) enum Done {
    Begun(Begun),
    Finished(Finished),
    Read(Option<Entry>),
    Swept(usize),
}

impl Job {
    /// Refuses what no proxy of ours asks.
    fn check(&self) -> Result<(), Error> {
        let (name, kept) = match self {
            Self::Begin(name, _) | Self::Read(name) => (name, 0),
            Self::Finish(name, _, Ending::Done(kept)) => (name, kept.len()),
            Self::Finish(name, ..) => (name, 0),
            Self::Sweep => return Ok(()),
        };
        if !name.is_valid() {
            return Err(Error::Malformed("a part of an idempotency key's name is empty or too long"));
        }
        if kept > KEPT_BYTES_MAX {
            return Err(Error::Limit { what: "an answer to be kept, in bytes", size: kept, max: KEPT_BYTES_MAX });
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Finish(_, _, Ending::Done(kept)) => kept.len(),
            _ => 0,
        }
    }
}

impl Done {
    fn begun(self) -> Result<Begun, Error> {
        if let Self::Begun(begun) = self { Ok(begun) } else { Err(Error::Closed) }
    }

    fn finished(self) -> Result<Finished, Error> {
        if let Self::Finished(finished) = self { Ok(finished) } else { Err(Error::Closed) }
    }

    fn entry(self) -> Result<Option<Entry>, Error> {
        if let Self::Read(entry) = self { Ok(entry) } else { Err(Error::Closed) }
    }

    fn swept(self) -> Result<usize, Error> {
        if let Self::Swept(count) = self { Ok(count) } else { Err(Error::Closed) }
    }
}
