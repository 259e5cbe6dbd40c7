// SPDX-License-Identifier: Apache-2.0
//! Bytes on the disk for entries, for the events of a revision, and for what is appended to a journal. Used by `persist` alone. Decoding
//! answers `None` for anything that `encode` can't have written; it never panics.

use crate::log::Append;
use crate::state::Batch;
use crate::store::{Entry, Event, Lease};
use byrnie_base::{Text, Timestamp};
use byrnie_model::Revision;
use byrnie_saga::Term;

/// The bytes of everything about `entry` but its key.
pub(crate) fn entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + entry.value.len());
    put_entry(&mut out, entry);
    out
}

/// The entry `key` with the bytes that [`entry`] made.
pub(crate) fn read_entry(key: &str, bytes: &[u8]) -> Option<Entry> {
    Reader(bytes).entry(Text::from(key), bytes.len())
}

/// The bytes of the events of `batch`.
pub(crate) fn events(batch: &Batch) -> Vec<u8> {
    let mut out = Vec::new();
    for event in &batch.events {
        put_chunk(&mut out, event.key.as_bytes());
        for side in [&event.before, &event.after] {
            put_chunk(&mut out, &side.as_ref().map_or_else(Vec::new, entry));
        }
    }
    out
}

/// The batch with the bytes that [`events`] made.
pub(crate) fn read_events(revision: Revision, bytes: &[u8]) -> Option<Batch> {
    let mut reader = Reader(bytes);
    let mut events = Vec::new();
    while !reader.0.is_empty() {
        let key = Text::from(std::str::from_utf8(reader.chunk()?).ok()?);
        let (before, after) = (reader.side(&key)?, reader.side(&key)?);
        events.push(Event { key, before, after });
    }
    Some(Batch { revision, events, ..Batch::default() })
}

/// Adds the bytes of an append.
pub(crate) fn append(out: &mut Vec<u8>, append: &Append) {
    let count = append.entries.len() as u64;
    for number in [u64::from(append.term.shard), append.term.epoch, u64::from(append.after), count] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    // 0 is for what hasn't ended, as in the tables.
    out.extend_from_slice(&append.ended.map_or(0, Timestamp::as_millis).to_le_bytes());
    put_chunk(out, append.id.as_bytes());
    put_chunk(out, &append.summary);
    append.entries.iter().for_each(|entry| put_chunk(out, entry));
}

/// All that [`append`] has added.
pub(crate) fn read_appends(bytes: &[u8]) -> Option<Vec<Append>> {
    let mut reader = Reader(bytes);
    let mut appends = Vec::new();
    while !reader.0.is_empty() {
        let term = Term { shard: u16::try_from(reader.number()?).ok()?, epoch: reader.number()? };
        let (after, count) = (u32::try_from(reader.number()?).ok()?, reader.number()?);
        let ended = Some(reader.number()?).filter(|ended| *ended > 0).map(Timestamp::from_millis);
        let id = Text::from(std::str::from_utf8(reader.chunk()?).ok()?);
        let summary = reader.chunk()?.into();
        // Each takes four bytes at least, so that a false number ends with the bytes.
        let entries = (0..count).map(|_| Some(reader.chunk()?.into())).collect::<Option<_>>()?;
        appends.push(Append { term, id, after, entries, summary, ended });
    }
    Some(appends)
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.extend_from_slice(&entry.created.0.to_le_bytes());
    out.extend_from_slice(&entry.modified.0.to_le_bytes());
    // Leases are numbered from 1.
    out.extend_from_slice(&entry.lease.map_or(0, |lease| lease.0).to_le_bytes());
    out.extend_from_slice(&entry.value);
}

fn put_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    // A chunk is at most a value and its 24 bytes of numbers, far below 4 GiB.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn chunk(&mut self) -> Option<&'a [u8]> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(len).ok()?)
    }

    /// An entry that takes up the next `len` bytes.
    fn entry(&mut self, key: Text, len: usize) -> Option<Entry> {
        let (created, modified) = (Revision(self.number()?), Revision(self.number()?));
        let lease = Some(self.number()?).filter(|lease| *lease > 0).map(Lease);
        let value = self.take(len.checked_sub(24)?)?.into();
        Some(Entry { key, value, created, modified, lease })
    }

    fn side(&mut self, key: &Text) -> Option<Option<Entry>> {
        match self.chunk()? {
            [] => Some(None),
            chunk => Some(Some(read_entry(key, chunk)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_entry() -> impl Strategy<Value = Entry> {
        (any::<u64>(), any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(created, modified, lease, value)| Entry {
                key: "/k".into(),
                value: value.into(),
                created: Revision(created),
                modified: Revision(modified),
                lease: Some(lease).filter(|lease| *lease > 0).map(Lease),
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(sides in proptest::collection::vec((proptest::option::of(any_entry()), proptest::option::of(any_entry())), 0..5)) {
            let events = sides.into_iter().map(|(before, after)| Event { key: "/k".into(), before, after }).collect();
            let batch = Batch { revision: Revision(7), events, ..Batch::default() };
            prop_assert_eq!(read_events(Revision(7), &super::events(&batch)), Some(batch));
        }

        #[test]
        fn what_is_appended_is_read(told in proptest::collection::vec((any::<u16>(), any::<u32>(), proptest::option::of(1..u64::MAX), proptest::collection::vec(".{0,9}", 0..4)), 0..5)) {
            let value = |text: &String| crate::Value::from(text.as_bytes());
            let appends: Vec<Append> = told.into_iter().map(|(shard, after, ended, texts)| Append {
                term: Term { shard, epoch: u64::from(after) << 20 },
                id: format!("id-{after}").into(),
                after,
                entries: texts.iter().map(value).collect(),
                summary: value(&format!("{shard}")),
                ended: ended.map(Timestamp::from_millis),
            }).collect();
            let mut bytes = Vec::new();
            appends.iter().for_each(|append| super::append(&mut bytes, append));
            prop_assert_eq!(read_appends(&bytes), Some(appends));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_events(Revision(1), &bytes);
            let _ = read_entry("/k", &bytes);
            let _ = read_appends(&bytes);
        }
    }
}
