// SPDX-License-Identifier: Apache-2.0
//! `trait Journal`: the histories of transactions, each a row of entries that only grows. Coordinators write and read
//! it; entries and summaries are bytes that nobody here looks into. [`Embedded`] is one file with one writer, for one
//! coordinator; [`Memory`] is the same code on a simulated disk, without threads; [`Postgres`] is a database that
//! several coordinators share. What those say to each other through it is [`Peers`].

mod commits;
mod embedded;
mod memory;
pub mod postgres;
pub(crate) mod run;
#[cfg(test)]
mod tests;

pub use commits::{Commits, SIZES};
pub use embedded::Embedded;
pub use memory::Memory;
pub use postgres::Postgres;

use crate::store::{Error, Pending, Value};
use byrnie_base::{Text, Timestamp};
use byrnie_saga::Term;
use byrnie_saga::shards::{Beat, Board};
use std::time::Duration;
use tokio::sync::watch;

/// The histories of transactions.
///
/// What was acknowledged survives a crash of the process and of the machine. Reads show durable entries only.
pub trait Journal: Peers {
    /// Adds entries to a transaction, all or none. The write is on its way when this returns, in the order
    /// of calls, whether or not anybody waits; it's durable when the answer comes. [`Error::Deposed`] if the
    /// term is over. [`Error::Conflict`] if the transaction doesn't have exactly as many entries as expected.
    fn append(&self, append: Append) -> Pending<'static, ()>;

    /// Every entry of a transaction, in order; none if it isn't there.
    fn read(&self, id: &str) -> Pending<'static, Story>;

    /// Transactions of these shards that haven't ended, in order of id.
    fn unfinished(&self, shards: Vec<u16>) -> Pending<'static, Vec<Text>>;

    /// Up to `limit` transactions in falling order of id, from below `below` if given.
    fn list(&self, below: Option<&str>, limit: usize) -> Pending<'static, Vec<Heading>>;

    /// Those of these transactions that are there, in any order.
    fn headings(&self, ids: Vec<Text>) -> Pending<'static, Vec<Heading>>;

    /// Removes up to `limit` transactions that ended before `before`. Returns how many.
    fn forget(&self, before: Timestamp, limit: usize) -> Pending<'static, usize>;

    /// How many appends its steps have made durable.
    fn commits(&self) -> Commits;
}

/// What coordinators that share a journal know of each other, and ask each other: who is there, who drives which shard,
/// and letters to whoever drives a shard.
pub trait Peers: Send + Sync {
    /// How long a shard stays with a coordinator that isn't heard of; for ever if nobody else can open the journal.
    fn lease(&self) -> Option<Duration>;

    /// Tells of oneself, and gives, keeps and takes shards, durably, in one step.
    fn beat(&self, beat: Beat) -> Pending<'static, Board>;

    /// Asks something of whoever drives a shard: the number of the question.
    fn post(&self, shard: u16, body: Value) -> Pending<'static, u64>;

    /// Questions to these shards that nobody has answered.
    fn letters(&self, shards: Vec<u16>) -> Pending<'static, Vec<Letter>>;

    /// Answers a question; one that nobody waits for any more isn't there any more.
    fn reply(&self, number: u64, body: Value) -> Pending<'static, ()>;

    /// Takes the answer to a question, if there is one.
    fn answer(&self, number: u64) -> Pending<'static, Option<Value>>;

    /// Changes when there may be a question, an answer or a free shard to be seen. That may be missed: look now and then.
    fn news(&self) -> watch::Receiver<()>;
}

/// A transaction as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// Whose it is to drive.
    pub shard: u16,
    /// Every entry, in order; none if it isn't there.
    pub entries: Vec<Value>,
}

/// A question to whoever drives a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its number.
    pub number: u64,
    /// What is asked.
    pub body: Value,
}

/// Entries to be added to one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// In which term; the shard is the transaction's from its first entry on.
    pub term: Term,
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

/// Longest id, in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Largest letter, in bytes: it may hold a branch with all its bodies.
pub const LETTER_BYTES_MAX: usize = 4 << 20;
/// Most letters that are kept at once.
pub const LETTERS_MAX: usize = 10_000;
/// How long a letter is kept, answered or not.
pub const LETTER_LIFE: Duration = Duration::from_secs(60);
/// Most bytes of one append. The largest entry is a beginning with all its bodies.
pub const APPEND_BYTES_MAX: usize = 24 << 20;
/// Most entries of one transaction.
pub const ENTRIES_MAX: usize = 100_000;
/// Most jobs that share one durable step.
pub const GROUP_MAX: usize = 512;
/// Most bytes that share one durable step, beyond the first append.
pub const GROUP_BYTES_MAX: usize = 16 << 20;
