// SPDX-License-Identifier: Apache-2.0
//! What coordinators that share a journal know of each other, in its file: seats, members and letters.

use super::Tables;
use crate::log::{LETTER_LIFE, LETTERS_MAX, Letter};
use crate::store::{Error, Value};
use byrnie_base::Text;
use byrnie_saga::Term;
use byrnie_saga::shards::{Beat, Board, LEASE, Seat};
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition};

/// Shard to epoch and owner, which counts for as long as it is a member.
pub(super) const SEATS: TableDefinition<'_, u16, (u64, &str)> = TableDefinition::new("seats");
/// Coordinator to the moment until which it counts as being there.
pub(super) const MEMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("members");
/// Number to shard, moment, whether it is answered, and the question or its answer.
pub(super) const LETTERS: TableDefinition<'_, u64, (u16, u64, bool, &[u8])> = TableDefinition::new("letters");

impl Tables<'_> {
    /// The newest epoch of a shard; 0 before the first.
    pub(super) fn epoch(&self, shard: u16) -> Result<u64, redb::Error> {
        super::epoch_in(&self.seats, shard)
    }

    /// Whose a shard is, if it's still there.
    fn owner(&self, shard: u16) -> Result<Option<Text>, redb::Error> {
        let owner = self.seats.get(shard)?.map(|seat| Text::from(seat.value().1));
        let Some(owner) = owner else { return Ok(None) };
        Ok(self.members.get(&*owner)?.map(|_| owner))
    }

    pub(super) fn beat(&mut self, beat: &Beat) -> Result<Board, redb::Error> {
        self.changed = true;
        let until = self.now.saturating_add(u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX));
        let name: &str = &beat.name;
        let (now, life) = (self.now, u64::try_from(LETTER_LIFE.as_millis()).unwrap_or(u64::MAX));
        self.letters.retain(|_, letter| letter.1.saturating_add(life) > now)?;
        self.members.insert(name, until)?;
        self.members.retain(|_, until| until > now)?;
        for term in &beat.give {
            if self.epoch(term.shard)? == term.epoch {
                self.seats.insert(term.shard, (term.epoch + 1, ""))?;
            }
        }
        if beat.leaves {
            self.members.remove(name)?;
        }
        let mut board = Board::default();
        for shard in &beat.take {
            if self.owner(*shard)?.is_none_or(|owner| *owner == *name) {
                let term = Term { shard: *shard, epoch: self.epoch(*shard)? + 1 };
                self.seats.insert(term.shard, (term.epoch, name))?;
                board.taken.push(term);
            }
        }
        for row in self.seats.iter()? {
            let (shard, seat) = row?;
            let term = Term { shard: shard.value(), epoch: seat.value().0 };
            board.seats.push(Seat { term, owner: self.owner(term.shard)? });
        }
        for row in self.members.iter()? {
            board.members.insert(row?.0.value().into());
        }
        Ok(board)
    }

    pub(super) fn post(&mut self, shard: u16, body: &Value) -> Result<Result<u64, Error>, redb::Error> {
        if self.letters.len()? >= u64::try_from(LETTERS_MAX).unwrap_or(u64::MAX) {
            return Ok(Err(Error::Busy));
        }
        self.changed = true;
        let number = self.meta.get("letters")?.map_or(0, |number| number.value()) + 1;
        self.meta.insert("letters", number)?;
        self.letters.insert(number, (shard, self.now, false, &**body))?;
        Ok(Ok(number))
    }

    pub(super) fn waiting(&self, shards: &[u16]) -> Result<Vec<Letter>, redb::Error> {
        let mut found = Vec::new();
        for row in self.letters.iter()? {
            let (number, letter) = row?;
            let (shard, _, answered, body) = letter.value();
            if !answered && shards.contains(&shard) {
                found.push(Letter { number: number.value(), body: body.into() });
            }
        }
        Ok(found)
    }

    pub(super) fn reply(&mut self, number: u64, body: &Value) -> Result<(), redb::Error> {
        let known = self.letters.get(number)?.map(|letter| (letter.value().0, letter.value().1));
        if let Some((shard, at)) = known {
            self.changed = true;
            self.letters.insert(number, (shard, at, true, &**body))?;
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, number: u64) -> Result<Option<Value>, redb::Error> {
        let letter = self.letters.get(number)?;
        let answer =
            letter.as_ref().map(|letter| letter.value()).filter(|letter| letter.2).map(|letter| letter.3.into());
        drop(letter);
        if answer.is_some() {
            self.changed = true;
            self.letters.remove(number)?;
        }
        Ok(answer)
    }
}
