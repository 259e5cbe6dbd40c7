// SPDX-License-Identifier: Apache-2.0
//! `trait Store` and the words it speaks. Every backend gives these promises, and `suite` checks them.
//! Callers see nothing of a backend beyond this file; a backend never looks inside a value.

use crate::watch::Watch;
use byrnie_base::Text;
use byrnie_model::Revision;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Revisioned keys in one order of writes.
///
/// A write that was answered with a revision survives a crash of the process and of the machine.
/// Reads are answered from the newest durable state: one never shows what a crash could take back.
pub trait Store: Send + Sync {
    /// The value of `key` now, if there is one.
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Entry>>;

    /// Every key that starts with `prefix`, in byte order, and the revision at which this is the whole
    /// truth: [`Store::watch`] from there misses nothing and repeats nothing.
    fn list<'a>(&'a self, prefix: &'a str) -> Pending<'a, (Vec<Entry>, Revision)>;

    /// Writes all of `txn` or nothing. Returns once it is durable, with the revision that all its
    /// writes share. A transaction that changes nothing (it deletes absent keys) answers the newest
    /// revision and leaves no trace.
    fn commit(&self, txn: Txn) -> Pending<'_, Revision>;

    /// What changes under `prefix` after revision `from`.
    fn watch(&self, prefix: &str, from: Revision) -> Watch;

    /// A lease that ends `span` from now unless it is kept alive. Keys written with it vanish when it
    /// ends. After a restart of the store every lease has its whole span again.
    fn grant(&self, span: Duration) -> Pending<'_, Lease>;

    /// Starts the span of `lease` anew. [`Error::UnknownLease`] once it has ended: whoever held it
    /// must take a new one and write its keys again.
    fn keep_alive(&self, lease: Lease) -> Pending<'_, ()>;

    /// Ends `lease` and removes its keys in one revision.
    fn revoke(&self, lease: Lease) -> Pending<'_, ()>;
}

/// An answer that comes later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// What a key holds; shared, never copied.
pub type Value = Arc<[u8]>;

/// One key as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Text,
    /// What it holds.
    pub value: Value,
    /// When it began to exist.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// The lease it vanishes with.
    pub lease: Option<Lease>,
}

/// One key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub key: Text,
    /// What it was before; absent if it didn't exist. With this, a revision can be undone.
    pub before: Option<Entry>,
    /// What it is since; absent if it is gone.
    pub after: Option<Entry>,
}

/// The number of a lease; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(pub u64);

/// What a transaction demands of a key before it writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    #[default]
    Any,
    /// The key doesn't exist.
    Absent,
    /// The key was last modified at exactly this revision.
    At(Revision),
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// The key holds this from now on, whatever it held.
    Put {
        /// Which key.
        key: Text,
        /// What it holds.
        value: Value,
        /// The lease it vanishes with, if any; it replaces an earlier lease of the key.
        lease: Option<Lease>,
    },
    /// The key is gone. Deleting an absent key is no change.
    Delete {
        /// Which key.
        key: Text,
    },
}

impl Write {
    /// The key that is written.
    pub const fn key(&self) -> &Text {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Demands and writes that happen together or not at all. A key may be written once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold. The first that doesn't is the answer.
    pub expects: Vec<(Text, Expect)>,
    /// What is written.
    pub writes: Vec<Write>,
}

impl Txn {
    /// An empty transaction.
    pub const fn new() -> Self {
        Self { expects: Vec::new(), writes: Vec::new() }
    }

    /// Adds a demand on `key`, which need not be written.
    #[must_use]
    pub fn expect(mut self, key: impl Into<Text>, expect: Expect) -> Self {
        self.expects.push((key.into(), expect));
        self
    }

    /// Adds a write of `value`.
    #[must_use]
    pub fn put(mut self, key: impl Into<Text>, value: impl Into<Value>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Adds a write of `value` that vanishes with `lease`.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<Text>, value: impl Into<Value>, lease: Lease) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Adds a deletion.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Text>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }

    /// Whether it neither demands nor writes anything.
    pub const fn is_empty(&self) -> bool {
        self.expects.is_empty() && self.writes.is_empty()
    }

    /// Bytes of all its keys and values.
    pub fn bytes(&self) -> usize {
        let written = self.writes.iter().map(|write| match write {
            Write::Put { key, value, .. } => key.len() + value.len(),
            Write::Delete { key } => key.len(),
        });
        written.sum::<usize>() + self.expects.iter().map(|(key, _)| key.len()).sum::<usize>()
    }
}

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// Largest value, in bytes: a resource larger than this is a mistake.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most writes, and most demands, in one transaction.
pub const TXN_WRITES_MAX: usize = 4096;
/// Most bytes of keys and values in one transaction.
pub const TXN_BYTES_MAX: usize = 16 << 20;
/// Most bytes of keys and values in the whole store, as all of it is held in memory.
pub const STORE_BYTES_MAX: usize = 1 << 30;
/// Events kept for watches that resume, for history and for undo. Older ones are compacted away,
/// whole revisions at a time; the newest revision always stays.
pub const HISTORY_EVENTS_MAX: usize = 10_000;
/// Bytes of the events kept, before and after values both counted.
pub const HISTORY_BYTES_MAX: usize = 128 << 20;
/// Most leases alive at once.
pub const LEASES_MAX: usize = 100_000;
/// Longest span of a lease.
pub const LEASE_SPAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Transactions that may wait for the writer; more are refused with [`Error::Busy`].
pub const WAITING_MAX: usize = 8192;

/// Why an answer isn't what was asked for. Unless it says otherwise, nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A demand of the transaction doesn't hold: somebody else wrote first. Read again and decide anew.
    #[error("{key} is not as expected: wanted {expect:?}, found {}", found.map_or("nothing".into(), |r| format!("revision {r}")))]
    Conflict {
        /// The key of the demand.
        key: Text,
        /// The demand.
        expect: Expect,
        /// When the key was last modified, if it exists.
        found: Option<Revision>,
    },
    /// The lease has ended, or never was.
    #[error("lease {} is unknown: it has ended", .0.0)]
    UnknownLease(Lease),
    /// A limit of this file; the message names what and how much.
    #[error("{what} is {size}, more than the limit of {max}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// How large.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// One transaction writes a key twice, or a key is empty.
    #[error("malformed transaction: {0}")]
    Malformed(&'static str),
    /// More transactions wait for the disk than [`WAITING_MAX`]. Try again later.
    #[error("the store is busy: {WAITING_MAX} writes wait for the disk already")]
    Busy,
    /// The disk, or the database, refused, so nothing was written. Later writes succeed once the cause is gone.
    #[error("the write was refused: {0}; nothing was written")]
    Refused(Text),
    /// The disk failed while the write was being made durable: only a restart tells whether it was.
    /// Until then the store answers reads and refuses writes with this.
    #[error("the disk failed to make a write durable: {0}; check the disk, then restart")]
    Uncertain(Text),
    /// Somebody else drives these transactions now: what this process knows of them is out of date.
    #[error("another coordinator has taken over shard {shard}; nothing was written")]
    Deposed {
        /// Which.
        shard: u16,
    },
    /// The database doesn't answer; nothing was written. Later writes succeed once the cause is gone.
    #[error("the database can't be used: {0}; nothing was written")]
    Unreachable(Text),
    /// The connection broke while the database made a write durable: whether it did shows only when the shard is taken over anew.
    #[error("the database didn't say whether a write is durable: {0}")]
    Doubtful(Text),
    /// What is kept is sealed by a key that this process doesn't have, or was changed.
    #[error("what is kept can't be read: {0}; look at the keys of the ledger (docs/how-to/idempotent-requests.md)")]
    Sealed(Text),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
