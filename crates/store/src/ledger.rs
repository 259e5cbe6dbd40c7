// SPDX-License-Identifier: Apache-2.0
//! `trait Ledger`: what is remembered of idempotency keys, durably. The control plane calls it for
//! proxies. The rules are `saga`'s; here they become one atomic, durable write. [`Embedded`] is one file of
//! this machine, [`Memory`] the same code without threads on a simulated disk, [`Postgres`] a database that several
//! control planes share; `suite` holds all to the same promises.

mod embedded;
mod memory;
mod postgres;
pub(crate) mod run;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;

pub use embedded::Embedded;
pub use memory::Memory;
pub use postgres::Postgres;

use crate::store::Pending;
use byrnie_base::Text;
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Entry, Fingerprint, Finished, Name};
use std::time::Duration;

/// Keys, each with what became of its request.
///
/// What was answered survives a crash of the process and of the machine. Calls for one name happen one
/// after the other; an answer tells of nothing that a crash could take back.
pub trait Ledger: Send + Sync {
    /// A proxy wants to forward a request.
    fn begin(&self, name: Name, ask: Begin) -> Pending<'_, Begun>;

    /// The execution `claim` has ended.
    fn finish(&self, name: Name, claim: Claim, ending: Ending) -> Pending<'_, Finished>;

    /// The same, by whoever knows which request it was: where answers are sealed, this one is for that request alone.
    fn finish_request(&self, name: Name, _: Fingerprint, claim: Claim, ending: Ending) -> Pending<'_, Finished> {
        self.finish(name, claim, ending)
    }

    /// What is remembered of a key.
    fn read(&self, name: Name) -> Pending<'_, Option<Entry>>;

    /// Forgets what is over, at most [`SWEEP_MAX`] keys at a time: how many there were.
    fn sweep(&self) -> Pending<'_, usize>;

    /// Whether several control planes may keep it.
    fn is_shared(&self) -> bool;

    /// Tells the others who keep it of this control plane, and names those that were heard of within [`NEIGHBOUR_LIFE`],
    /// [`NEIGHBOURS_MAX`] at most. Nobody, if it isn't shared.
    fn meet(&self, own: Neighbour) -> Pending<'_, Vec<Neighbour>>;
}

/// A control plane that answers for a ledger which several keep.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// Where, as IP:PORT.
    pub address: Text,
    /// Certificates that vouch for it and for its proxies, PEM. By these it is told from others.
    pub roots: Text,
}

/// How long a control plane that isn't heard of is still named: as long as certificates of its proxies may hold.
pub const NEIGHBOUR_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Most that are named.
pub const NEIGHBOURS_MAX: usize = 16;

/// Most keys remembered at once. Beyond it nothing new begins, and proxies refuse keyed requests.
pub const KEYS_MAX: u64 = 10_000_000;
/// Most bytes of all keys and kept answers.
pub const BYTES_MAX: u64 = 8 << 30;
/// Most keys that one sweep forgets, so that it never holds up requests for long.
pub const SWEEP_MAX: usize = 1000;
/// Most jobs that share one durable step.
pub(crate) const GROUP_MAX: usize = 256;
/// Most bytes of answers that share one durable step, beyond the first.
pub(crate) const GROUP_BYTES_MAX: usize = 4 << 20;
