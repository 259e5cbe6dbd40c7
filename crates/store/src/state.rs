// SPDX-License-Identifier: Apache-2.0
//! `State`: all keys, leases and recent history in memory, and the rules of a transaction. Pure: the
//! `core` makes a batch durable between `plan` and `apply`. It never touches a disk or a clock.

use crate::store::{
    Entry, Error, Event, Expect, HISTORY_BYTES_MAX, HISTORY_EVENTS_MAX, KEY_BYTES_MAX, LEASE_SPAN_MAX, LEASES_MAX,
    Lease, STORE_BYTES_MAX, TXN_BYTES_MAX, TXN_WRITES_MAX, Txn, VALUE_BYTES_MAX, Write,
};
use crate::watch::{Changes, Newest};
use byrnie_base::{Instant, Text};
use byrnie_model::Revision;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// The state as readers, watchers and the writer share it.
pub(crate) struct Shared {
    state: RwLock<State>,
    pub(crate) newest: tokio::sync::watch::Sender<Newest>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        let newest = Newest { revision: state.revision, closed: false };
        Self { state: RwLock::new(state), newest: tokio::sync::watch::Sender::new(newest) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes every watcher; to be called after the state was changed.
    pub(crate) fn announce(&self, closed: bool) {
        let revision = self.read().revision;
        self.newest.send_modify(|newest| *newest = Newest { revision, closed: closed || newest.closed });
    }
}

/// Everything the store knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    /// History reaches back to, and doesn't include, this revision.
    pub(crate) compacted: Revision,
    pub(crate) next_lease: u64,
    pub(crate) entries: BTreeMap<Text, Entry>,
    pub(crate) leases: BTreeMap<Lease, Span>,
    log: VecDeque<Arc<Batch>>,
    log_events: usize,
    log_bytes: usize,
    bytes: usize,
}

/// What is known of one lease.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) span: Duration,
    pub(crate) ends: Instant,
    pub(crate) keys: BTreeSet<Text>,
}

/// What one transaction changes: the unit that is made durable and shown to watchers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Event>,
    pub(crate) granted: Option<(Lease, Duration)>,
    pub(crate) ended: Vec<Lease>,
}

impl Batch {
    fn bytes(&self) -> usize {
        let size = |entry: &Option<Entry>| entry.as_ref().map_or(0, |entry| entry.value.len());
        self.events.iter().map(|event| event.key.len() + size(&event.before) + size(&event.after)).sum()
    }
}

/// What a watch finds behind its cursor.
pub(crate) enum Read {
    Compacted(Revision),
    Changes(Changes),
    UpToDate(Revision),
}

impl State {
    /// The first revision after `seen` that touches `prefix`.
    pub(crate) fn after(&self, seen: Revision, prefix: &str) -> Read {
        // A watcher that has seen what never was holds the truth of another store: it must read anew.
        if seen < self.compacted || seen > self.revision {
            return Read::Compacted(self.compacted);
        }
        let start = self.log.partition_point(|batch| batch.revision <= seen);
        for batch in self.log.range(start..) {
            let events: Vec<Event> =
                batch.events.iter().filter(|event| event.key.starts_with(prefix)).cloned().collect();
            if !events.is_empty() {
                return Read::Changes(Changes { revision: batch.revision, events });
            }
        }
        Read::UpToDate(self.revision)
    }

    /// Every entry whose key starts with `prefix`, and the newest revision.
    pub(crate) fn list(&self, prefix: &str) -> (Vec<Entry>, Revision) {
        let from = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let under = from.map(|(_, entry)| entry).take_while(|entry| entry.key.starts_with(prefix));
        (under.cloned().collect(), self.revision)
    }

    /// The lease that ends first, and when.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.leases.values().map(|span| span.ends).min()
    }

    /// Starts the span of `lease` anew. Leases aren't written down for this: a restart gives each its
    /// whole span again.
    pub(crate) fn keep_alive(&mut self, lease: Lease, now: Instant) -> Result<(), Error> {
        match self.leases.get_mut(&lease) {
            Some(span) if span.ends > now => {
                span.ends = now + span.span;
                Ok(())
            }
            _ => Err(Error::UnknownLease(lease)),
        }
    }

    /// Takes in a batch that is durable. `now` is when a granted lease starts.
    pub(crate) fn apply(&mut self, batch: Arc<Batch>, now: Instant) {
        if let Some((lease, span)) = batch.granted {
            self.next_lease = self.next_lease.max(lease.0 + 1);
            self.leases.insert(lease, Span { span, ends: now + span, keys: BTreeSet::new() });
        }
        for event in &batch.events {
            self.apply_event(event);
        }
        for lease in &batch.ended {
            self.leases.remove(lease);
        }
        if batch.events.is_empty() {
            return;
        }
        self.revision = batch.revision;
        self.remember(batch);
    }

    /// Puts `batch` at the end of history and forgets the oldest revisions beyond the limits.
    pub(crate) fn remember(&mut self, batch: Arc<Batch>) {
        self.log_events += batch.events.len();
        self.log_bytes += batch.bytes();
        self.log.push_back(batch);
        while self.log.len() > 1 && (self.log_events > HISTORY_EVENTS_MAX || self.log_bytes > HISTORY_BYTES_MAX) {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_events -= oldest.events.len();
            self.log_bytes -= oldest.bytes();
            self.compacted = oldest.revision;
        }
    }

    /// Puts in an entry that was read from the disk.
    pub(crate) fn restore(&mut self, entry: Entry) {
        let event = Event { key: entry.key.clone(), before: None, after: Some(entry) };
        self.apply_event(&event);
    }

    fn apply_event(&mut self, event: &Event) {
        if let Some(before) = self.entries.remove(&event.key) {
            self.bytes -= before.key.len() + before.value.len();
            if let Some(span) = before.lease.and_then(|lease| self.leases.get_mut(&lease)) {
                span.keys.remove(&before.key);
            }
        }
        if let Some(after) = &event.after {
            self.bytes += after.key.len() + after.value.len();
            if let Some(span) = after.lease.and_then(|lease| self.leases.get_mut(&lease)) {
                span.keys.insert(after.key.clone());
            }
            self.entries.insert(after.key.clone(), after.clone());
        }
    }
}

/// Transactions that will become durable together, planned one upon the other over a state that
/// doesn't change meanwhile.
pub(crate) struct Group<'a> {
    state: &'a State,
    now: Instant,
    revision: Revision,
    next_lease: u64,
    staged: BTreeMap<Text, Option<Entry>>,
    ended: BTreeSet<Lease>,
    granted: usize,
    grown: usize,
    pub(crate) batches: Vec<Arc<Batch>>,
}

impl<'a> Group<'a> {
    pub(crate) fn new(state: &'a State, now: Instant) -> Self {
        Self {
            state,
            now,
            revision: state.revision,
            next_lease: state.next_lease,
            staged: BTreeMap::new(),
            ended: BTreeSet::new(),
            granted: 0,
            grown: 0,
            batches: Vec::new(),
        }
    }

    /// Adds a transaction, or says why it can't be. The answer holds once the group is durable.
    pub(crate) fn commit(&mut self, txn: &Txn) -> Result<Revision, Error> {
        check_shape(txn)?;
        for (key, expect) in &txn.expects {
            self.check(key, *expect)?;
        }
        for write in &txn.writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && !self.alive(*lease)
            {
                return Err(Error::UnknownLease(*lease));
            }
        }
        let grown = self.grown.saturating_add(txn.bytes());
        let size = self.state.bytes.saturating_add(grown);
        if size > STORE_BYTES_MAX && txn.writes.iter().any(|write| matches!(write, Write::Put { .. })) {
            return Err(Error::Limit { what: "the whole store, in bytes,", size, max: STORE_BYTES_MAX });
        }
        self.grown = grown;
        let revision = Revision(self.revision.0 + 1);
        let events: Vec<Event> = txn.writes.iter().filter_map(|write| self.event(write, revision)).collect();
        self.push(Batch { revision, events, ..Batch::default() });
        Ok(self.revision)
    }

    /// Adds a new lease.
    pub(crate) fn grant(&mut self, span: Duration) -> Result<Lease, Error> {
        let leases = self.state.leases.len() + self.granted + 1;
        if leases > LEASES_MAX {
            return Err(Error::Limit { what: "the number of leases", size: leases, max: LEASES_MAX });
        }
        if span.is_zero() || span > LEASE_SPAN_MAX {
            return Err(Error::Malformed("a lease lasts more than nothing and at most a day"));
        }
        let lease = Lease(self.next_lease);
        self.next_lease += 1;
        self.granted += 1;
        self.push(Batch { granted: Some((lease, span)), ..Batch::default() });
        Ok(lease)
    }

    /// Ends `lease`, with its keys.
    pub(crate) fn revoke(&mut self, lease: Lease) -> Result<(), Error> {
        if self.ended.contains(&lease) || !self.state.leases.contains_key(&lease) {
            return Err(Error::UnknownLease(lease));
        }
        self.end(vec![lease]);
        Ok(())
    }

    /// Ends every lease whose span is over, all in one revision.
    pub(crate) fn expire(&mut self) {
        let over =
            self.state.leases.iter().filter(|(lease, span)| span.ends <= self.now && !self.ended.contains(lease));
        let over: Vec<Lease> = over.map(|(lease, _)| *lease).collect();
        if !over.is_empty() {
            self.end(over);
        }
    }

    fn end(&mut self, leases: Vec<Lease>) {
        let revision = Revision(self.revision.0 + 1);
        let mut keys: BTreeSet<Text> = BTreeSet::new();
        for lease in &leases {
            let held = |entry: &Entry| entry.lease == Some(*lease);
            let known = self.state.leases.get(lease).map(|span| &span.keys);
            keys.extend(known.into_iter().flatten().filter(|key| self.find(key).is_some_and(held)).cloned());
            keys.extend(self.staged.iter().filter(|(_, e)| e.as_ref().is_some_and(held)).map(|(key, _)| key.clone()));
        }
        let events: Vec<Event> =
            keys.into_iter().filter_map(|key| self.event(&Write::Delete { key }, revision)).collect();
        self.ended.extend(leases.iter().copied());
        self.push(Batch { revision, events, ended: leases, ..Batch::default() });
    }

    fn push(&mut self, batch: Batch) {
        if !batch.events.is_empty() {
            self.revision = batch.revision;
        } else if batch.granted.is_none() && batch.ended.is_empty() {
            return;
        }
        self.batches.push(Arc::new(batch));
    }

    fn alive(&self, lease: Lease) -> bool {
        self.state.leases.get(&lease).is_some_and(|span| span.ends > self.now) && !self.ended.contains(&lease)
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        match self.staged.get(key) {
            Some(staged) => staged.as_ref(),
            None => self.state.entries.get(key),
        }
    }

    fn check(&self, key: &Text, expect: Expect) -> Result<(), Error> {
        let found = self.find(key).map(|entry| entry.modified);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::At(revision) => found == Some(revision),
        };
        if holds { Ok(()) } else { Err(Error::Conflict { key: key.clone(), expect, found }) }
    }

    fn event(&mut self, write: &Write, revision: Revision) -> Option<Event> {
        let key = write.key().clone();
        let before = self.find(&key).cloned();
        let after = match write {
            Write::Put { value, lease, .. } => {
                let created = before.as_ref().map_or(revision, |entry| entry.created);
                Some(Entry { key: key.clone(), value: value.clone(), created, modified: revision, lease: *lease })
            }
            Write::Delete { .. } => None,
        };
        if before.is_none() && after.is_none() {
            return None;
        }
        self.staged.insert(key.clone(), after.clone());
        Some(Event { key, before, after })
    }
}

fn check_shape(txn: &Txn) -> Result<(), Error> {
    let limit = |what, size, max| if size > max { Err(Error::Limit { what, size, max }) } else { Ok(()) };
    limit("the number of writes in a transaction", txn.writes.len(), TXN_WRITES_MAX)?;
    limit("the number of demands in a transaction", txn.expects.len(), TXN_WRITES_MAX)?;
    limit("a transaction, in bytes,", txn.bytes(), TXN_BYTES_MAX)?;
    let mut keys = BTreeSet::new();
    for write in &txn.writes {
        limit("a key, in bytes,", write.key().len(), KEY_BYTES_MAX)?;
        if let Write::Put { value, .. } = write {
            limit("a value, in bytes,", value.len(), VALUE_BYTES_MAX)?;
        }
        if write.key().is_empty() {
            return Err(Error::Malformed("a key is empty"));
        }
        if !keys.insert(write.key()) {
            return Err(Error::Malformed("a key is written twice"));
        }
    }
    Ok(())
}
