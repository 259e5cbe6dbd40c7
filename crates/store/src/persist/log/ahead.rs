// SPDX-License-Identifier: Apache-2.0
//! What the log has and the tables don't have yet: by transaction, what its appends come to together. An append is judged, and a read is
//! answered, by these and by the tables beneath them, which meanwhile take over what was logged before: nobody waits for that. Where a
//! transaction begins and ends within one lap, the tables never learn that it was unfinished.

use super::{ENTRIES, HEADINGS, PLACES, Tables, UNFINISHED, epoch_in, shards};
use crate::log::{Append, Heading, Story};
use crate::store::{Error, Expect, Value};
use byrnie_base::{Text, Timestamp};
use byrnie_model::Revision;
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable};
use std::collections::{BTreeMap, BTreeSet};

/// What was appended since the tables were told.
#[derive(Clone, Default)]
pub(super) struct Ahead(BTreeMap<Text, Row>);

/// One transaction.
#[derive(Clone)]
struct Row {
    shard: u16,
    /// How many entries the tables have.
    first: u32,
    entries: Vec<Value>,
    summary: Value,
    ended: u64,
}

/// What is known of a transaction.
struct Known {
    shard: u16,
    count: u32,
}

impl Row {
    fn known(&self) -> Known {
        let count = self.first.saturating_add(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        Known { shard: self.shard, count }
    }

    fn heading(&self, id: &Text) -> Heading {
        let ended = Some(self.ended).filter(|ended| *ended > 0).map(Timestamp::from_millis);
        Heading { id: id.clone(), summary: self.summary.clone(), ended }
    }
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what came after it.
    pub(super) fn merge(&mut self, later: Self) {
        for (id, row) in later.0 {
            match self.0.get_mut(&id) {
                Some(known) => {
                    known.entries.extend(row.entries);
                    (known.summary, known.ended) = (row.summary, row.ended);
                }
                None => drop(self.0.insert(id, row)),
            }
        }
    }

    /// Writes it into the tables, whether or not they have a part of it already.
    pub(super) fn apply(&self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        for (id, row) in &self.0 {
            let id: &str = id;
            for (number, entry) in (row.first..).zip(&row.entries) {
                tables.entries.insert((id, number), &**entry)?;
            }
            let heading = (row.known().count, row.ended, &*row.summary);
            // When it had ended, so far as it was known; 0 if it hadn't.
            let before = tables.headings.insert(id, heading)?.map(|before| before.value().1);
            if before.is_none() && row.shard > 0 {
                tables.places.insert(id, row.shard)?;
            }
            if let Some(ended) = before.filter(|ended| *ended > 0) {
                tables.ended.remove((ended, id))?;
            }
            if row.ended > 0 {
                if before == Some(0) {
                    tables.unfinished.remove(id)?;
                }
                tables.ended.insert((row.ended, id), ())?;
            } else if before != Some(0) {
                tables.unfinished.insert(id, ())?;
            }
        }
        Ok(())
    }
}

/// The tables as they were last committed, and what lies upon them, lowest first.
pub(super) struct Look<'a> {
    tables: ReadTransaction,
    headings: ReadOnlyTable<&'static str, (u32, u64, &'static [u8])>,
    places: ReadOnlyTable<&'static str, u16>,
    seats: ReadOnlyTable<u16, (u64, &'static str)>,
    layers: Vec<&'a Ahead>,
}

impl<'a> Look<'a> {
    pub(super) fn new(database: &Database, layers: Vec<&'a Ahead>) -> Result<Self, redb::Error> {
        let tables = database.begin_read()?;
        let (headings, places) = (tables.open_table(HEADINGS)?, tables.open_table(PLACES)?);
        Ok(Self { headings, places, seats: tables.open_table(shards::SEATS)?, tables, layers })
    }

    /// What a transaction is, with `staged` on top.
    fn known(&self, staged: &Ahead, id: &str) -> Result<Option<Known>, redb::Error> {
        let mut layers = std::iter::once(staged).chain(self.layers.iter().rev().copied());
        if let Some(row) = layers.find_map(|layer| layer.0.get(id)) {
            return Ok(Some(row.known()));
        }
        let Some(heading) = self.headings.get(id)? else { return Ok(None) };
        Ok(Some(Known { shard: self.place(id)?, count: heading.value().0 }))
    }

    /// The shard of a transaction that the tables have.
    fn place(&self, id: &str) -> Result<u16, redb::Error> {
        Ok(self.places.get(id)?.map_or(0, |place| place.value()))
    }

    /// Judges an append, and adds it to `staged`. The outer error fails the whole step, the inner one this append alone.
    pub(super) fn append(&self, staged: &mut Ahead, append: &Append) -> Result<Result<(), Error>, redb::Error> {
        let term = append.term;
        if epoch_in(&self.seats, term.shard)? != term.epoch {
            return Ok(Err(Error::Deposed { shard: term.shard }));
        }
        let known = self.known(staged, &append.id)?;
        let count = known.as_ref().map_or(0, |known| known.count);
        let elsewhere = known.as_ref().is_some_and(|known| known.shard != term.shard);
        if count != append.after || elsewhere {
            let found = known.map(|known| Revision(u64::from(known.count)));
            let expect = Expect::At(Revision(u64::from(append.after)));
            return Ok(Err(Error::Conflict { key: append.id.clone(), expect, found }));
        }
        let row = staged.0.entry(append.id.clone()).or_insert_with(|| Row {
            shard: term.shard,
            first: count,
            entries: Vec::new(),
            summary: Value::default(),
            ended: 0,
        });
        row.entries.extend_from_slice(&append.entries);
        row.summary = append.summary.clone();
        row.ended = append.ended.map_or(0, Timestamp::as_millis);
        Ok(Ok(()))
    }

    pub(super) fn story(&self, staged: &Ahead, id: &str) -> Result<Story, redb::Error> {
        let layers = self.layers.iter().copied().chain([staged]);
        let rows: Vec<&Row> = layers.filter_map(|layer| layer.0.get(id)).collect();
        let end = rows.first().map_or(u32::MAX, |row| row.first);
        let table = self.tables.open_table(ENTRIES)?;
        let found = table.range((id, 0)..(id, end))?;
        let mut entries: Vec<Value> =
            found.map(|row| Ok(Value::from(row?.1.value()))).collect::<Result<_, redb::Error>>()?;
        entries.extend(rows.iter().flat_map(|row| row.entries.iter().cloned()));
        let shard = match rows.first() {
            Some(row) => row.shard,
            None => self.place(id)?,
        };
        Ok(Story { shard, entries })
    }

    pub(super) fn heading(&self, staged: &Ahead, id: &Text) -> Result<Option<Heading>, redb::Error> {
        let mut layers = std::iter::once(staged).chain(self.layers.iter().rev().copied());
        if let Some(row) = layers.find_map(|layer| layer.0.get(id)) {
            return Ok(Some(row.heading(id)));
        }
        Ok(self.headings.get(&**id)?.map(|heading| written(id.clone(), heading.value())))
    }

    pub(super) fn unfinished(&self, staged: &Ahead, shards: &[u16]) -> Result<Vec<Text>, redb::Error> {
        let mut ids = BTreeSet::new();
        for row in self.tables.open_table(UNFINISHED)?.iter()? {
            let id = Text::from(row?.0.value());
            if shards.contains(&self.place(&id)?) {
                ids.insert(id);
            }
        }
        for (id, row) in self.layers.iter().copied().chain([staged]).flat_map(|layer| &layer.0) {
            if row.ended > 0 {
                ids.remove(id);
            } else if shards.contains(&row.shard) {
                ids.insert(id.clone());
            }
        }
        Ok(ids.into_iter().collect())
    }

    pub(super) fn list(&self, staged: &Ahead, below: Option<&Text>, limit: usize) -> Result<Vec<Heading>, redb::Error> {
        let rows = match below {
            Some(below) => self.headings.range(..&**below)?,
            None => self.headings.iter()?,
        };
        let mut found = BTreeMap::new();
        for row in rows.rev().take(limit) {
            let (id, heading) = row?;
            let id = Text::from(id.value());
            found.insert(id.clone(), written(id, heading.value()));
        }
        for layer in self.layers.iter().copied().chain([staged]) {
            let before = |(id, _): &(&Text, &Row)| below.is_none_or(|below| *id < below);
            let last = layer.0.iter().rev().skip_while(|row| !before(row)).take(limit);
            found.extend(last.map(|(id, row)| (id.clone(), row.heading(id))));
        }
        Ok(found.into_values().rev().take(limit).collect())
    }
}

/// A transaction as the tables have it.
fn written(id: Text, (_, ended, summary): (u32, u64, &[u8])) -> Heading {
    let ended = Some(ended).filter(|ended| *ended > 0).map(Timestamp::from_millis);
    Heading { id, summary: summary.into(), ended }
}
