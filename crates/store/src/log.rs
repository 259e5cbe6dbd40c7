// SPDX-License-Identifier: Apache-2.0
//! `trait Journal`: the histories of transactions, each a row of entries that only grows. The coordinator
//! writes and reads it; entries and summaries are bytes that nobody here looks into. [`Embedded`] is one
//! file with one writer; [`Memory`] is the same code on a simulated disk, without threads.

mod embedded;
mod memory;
#[cfg(test)]
mod tests;

pub use embedded::Embedded;
pub use memory::Memory;

use crate::store::{Error, Pending, Value};
use byrnie_base::{Text, Timestamp};

/// The histories of transactions.
///
/// What was acknowledged survives a crash of the process and of the machine. Reads show durable entries only.
pub trait Journal: Send + Sync {
    /// Adds entries to a transaction, all or none. The write is on its way when this returns, in the order
    /// of calls, whether or not anybody waits; it's durable when the answer comes. [`Error::Conflict`] if the
    /// transaction doesn't have exactly as many entries as expected: somebody else writes it.
    fn append(&self, append: Append) -> Pending<'static, ()>;

    /// Every entry of a transaction, in order; none if it isn't there.
    fn read(&self, id: &str) -> Pending<'static, Vec<Value>>;

    /// Transactions that haven't ended, in order of id.
    fn unfinished(&self) -> Pending<'static, Vec<Text>>;

    /// Up to `limit` transactions in falling order of id, from below `below` if given.
    fn list(&self, below: Option<&str>, limit: usize) -> Pending<'static, Vec<Heading>>;

    /// Removes up to `limit` transactions that ended before `before`. Returns how many.
    fn forget(&self, before: Timestamp, limit: usize) -> Pending<'static, usize>;
}

/// Entries to be added to one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Which; at most [`ID_BYTES_MAX`] bytes. Ids that grow with time are written fastest.
    pub id: Text,
    /// How many entries it has already.
    pub after: u32,
    /// What is added.
    pub entries: Vec<Value>,
    /// What lists show of it from now on.
    pub summary: Value,
    /// When it ended, if it has.
    pub ended: Option<Timestamp>,
}

/// A transaction as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heading {
    /// Which.
    pub id: Text,
    /// Its newest summary.
    pub summary: Value,
    /// When it ended, if it has.
    pub ended: Option<Timestamp>,
}

impl Append {
    fn bytes(&self) -> usize {
        self.id.len() + self.summary.len() + self.entries.iter().map(|entry| entry.len()).sum::<usize>()
    }

    fn check(&self) -> Result<(), Error> {
        let limit = |what, size, max| if size > max { Err(Error::Limit { what, size, max }) } else { Ok(()) };
        if self.id.is_empty() {
            return Err(Error::Malformed("the id of a transaction is empty"));
        }
        limit("the id of a transaction, in bytes,", self.id.len(), ID_BYTES_MAX)?;
        limit("an append, in bytes,", self.bytes(), APPEND_BYTES_MAX)?;
        let entries = usize::try_from(self.after).unwrap_or(usize::MAX).saturating_add(self.entries.len());
        limit("the number of entries of a transaction", entries, ENTRIES_MAX)
    }
}

/// Something for the writer to do.
pub(crate) enum Job {
    Append(Append),
    Read(Text),
    Unfinished,
    List(Option<Text>, usize),
    Forget(Timestamp, usize),
}

/// What became of it.
pub(crate) enum Done {
    Appended,
    Entries(Vec<Value>),
    Ids(Vec<Text>),
    Headings(Vec<Heading>),
    Forgotten(usize),
}

impl Job {
    fn bytes(&self) -> usize {
        if let Self::Append(append) = self { append.bytes() } else { 0 }
    }

    fn check(&self) -> Result<(), Error> {
        if let Self::Append(append) = self { append.check() } else { Ok(()) }
    }
}

/// The answers, each of its own job.
impl Done {
    fn entries(self) -> Result<Vec<Value>, Error> {
        if let Self::Entries(entries) = self { Ok(entries) } else { Err(Error::Closed) }
    }

    fn ids(self) -> Result<Vec<Text>, Error> {
        if let Self::Ids(ids) = self { Ok(ids) } else { Err(Error::Closed) }
    }

    fn headings(self) -> Result<Vec<Heading>, Error> {
        if let Self::Headings(headings) = self { Ok(headings) } else { Err(Error::Closed) }
    }

    fn forgotten(self) -> Result<usize, Error> {
        if let Self::Forgotten(count) = self { Ok(count) } else { Err(Error::Closed) }
    }
}

/// Longest id, in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Most bytes of one append. The largest entry is a beginning with all its bodies.
pub const APPEND_BYTES_MAX: usize = 24 << 20;
/// Most entries of one transaction.
pub const ENTRIES_MAX: usize = 100_000;
/// Most jobs that share one durable step.
pub const GROUP_MAX: usize = 512;
/// Most bytes that share one durable step, beyond the first append.
pub const GROUP_BYTES_MAX: usize = 16 << 20;
