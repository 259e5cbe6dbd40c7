// SPDX-License-Identifier: Apache-2.0
//! The write-ahead log of the journal: groups of appends, each made durable by one write and one sync, until the tables take them over
//! together (as in ARIES, Mohan et al. 1992, but redone only: nothing reaches the tables before it is whole). A group is one record: it begins at a block, says
//! which group it is and carries a digest. Groups have consecutive numbers. The log has two halves: while the tables take over what is in one, groups go
//! to the other, which begins at its front once the tables have all that it had.
//! A record is written only after the one before it is durable, so only the last can be torn: a hole before a whole one is damage,
//! and is told, not skipped. The digests begin with a salt that nobody outside knows: what a client has written into a group never looks like
//! a record, and the log of another journal, whose first block tells, isn't taken for this one's.

use super::super::OpenError;
use crate::disk::Disk;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What records are aligned to, in bytes.
const BLOCK: usize = 4096;
/// Where the first record begins.
const FIRST: usize = BLOCK;
/// Number, length and digest, 8 bytes each.
const HEAD_BYTES: usize = 24;

/// The log.
pub(super) struct Wal {
    disk: Arc<dyn Disk>,
    size: usize,
    /// The journal's own.
    salt: u64,
    /// Set when a sync fails; shared with the tables' file.
    sync_failed: Arc<AtomicBool>,
    /// Where the next record goes, and where the half ends in which that is.
    at: usize,
    end: usize,
}

/// One group as it was logged: its number, and what was appended.
pub(super) type Record = (u64, Vec<u8>);

impl Wal {
    /// A log of `size` bytes, a multiple of a block, on `disk`.
    pub(super) fn new(disk: Arc<dyn Disk>, size: usize, salt: u64, sync_failed: Arc<AtomicBool>) -> Self {
        let mut wal = Self { disk, size, salt, sync_failed, at: FIRST, end: FIRST };
        wal.restart();
        wal
    }

    /// Where the second half begins.
    fn middle(&self) -> usize {
        FIRST + (self.size - FIRST) / 2 / BLOCK * BLOCK
    }

    /// What the digests of the journal begin with.
    pub(super) fn salt(&self) -> u64 {
        self.salt
    }

    /// Whether it was made for the journal.
    pub(super) fn is_own(&self) -> io::Result<bool> {
        let mut head = [0; 8];
        self.disk.read(0, &mut head)?;
        Ok(head == self.head())
    }

    /// What its first block begins with.
    fn head(&self) -> [u8; 8] {
        digest(self.salt, 0, &[]).to_le_bytes()
    }

    /// Makes it empty and durable, whatever was left of it: room that is there already is made durable more quickly than room that has to be
    /// found.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut bytes = vec![0; self.size];
        bytes[..8].copy_from_slice(&self.head());
        self.disk.write(0, &bytes)?;
        self.disk.sync()
    }

    /// Gives it more room, durably. What it has must have been read before, and stands in the tables before more is written.
    pub(super) fn grow(&mut self, size: usize) -> io::Result<()> {
        self.disk.write(self.size as u64, &vec![0; size - self.size])?;
        self.disk.sync()?;
        self.size = size;
        self.restart();
        Ok(())
    }

    /// Whether a group of so many bytes finds room in this half.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.at + blocks(bytes) <= self.end
    }

    /// Whether it would in an empty one.
    pub(super) fn may_fit(&self, bytes: usize) -> bool {
        FIRST + blocks(bytes) <= self.middle()
    }

    /// Makes a group durable.
    pub(super) fn append(&mut self, number: u64, group: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(blocks(group.len()));
        record.extend_from_slice(&number.to_le_bytes());
        record.extend_from_slice(&(group.len() as u64).to_le_bytes());
        record.extend_from_slice(&digest(self.salt, number, group).to_le_bytes());
        record.extend_from_slice(group);
        record.resize(blocks(group.len()), 0);
        self.disk.write(self.at as u64, &record)?;
        self.disk.sync().inspect_err(|_| self.sync_failed.store(true, Ordering::Release))?;
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("a sync of the tables has failed"));
        }
        self.at += record.len();
        Ok(())
    }

    /// Whether a group is there as a whole although its write failed.
    pub(super) fn may_hold(&self, number: u64) -> bool {
        let mut bytes = vec![0; self.size - self.at];
        self.disk.read(self.at as u64, &mut bytes).is_err()
            || record(self.salt, &bytes).is_some_and(|(found, _)| found == number)
    }

    /// The tables have everything.
    pub(super) fn restart(&mut self) {
        (self.at, self.end) = (FIRST, self.middle());
    }

    /// The tables have all of the other half: what comes goes there.
    pub(super) fn turn(&mut self) {
        let middle = self.middle();
        (self.at, self.end) = if self.end == middle { (middle, self.size) } else { (FIRST, middle) };
    }

    /// The groups after the one that the tables have last.
    pub(super) fn read(&self, last: u64) -> Result<Vec<Record>, OpenError> {
        let mut bytes = vec![0; self.size];
        self.disk.read(0, &mut bytes)?;
        let mut found = BTreeMap::new();
        for front in [FIRST, self.middle()] {
            let (mut at, mut next) = (front, None);
            // One of before follows when the half isn't as full as it was then.
            while let Some((number, group)) = record(self.salt, &bytes[at..])
                && next.is_none_or(|next| number == next)
            {
                found.insert(number, group);
                at += blocks(group.len());
                next = Some(number + 1);
            }
        }
        let mut records = Vec::new();
        let mut next = last + 1;
        while let Some(group) = found.get(&next) {
            records.push((next, group.to_vec()));
            next += 1;
        }
        let later = (FIRST..self.size).step_by(BLOCK).filter_map(|at| record(self.salt, &bytes[at..]));
        match later.map(|(number, _)| number).find(|number| *number >= next) {
            Some(found) => Err(OpenError::Corrupt(format!("its log has step {found} where {next} should come first"))),
            None => Ok(records),
        }
    }
}

/// Whether anything was ever logged there, whichever journal's it is: the salt of its digests is in the tables.
pub(super) fn is_used(disk: &dyn Disk) -> io::Result<bool> {
    let mut block = [0; BLOCK];
    if disk.len()? < (FIRST + BLOCK) as u64 {
        return Ok(false);
    }
    // The first record is always here.
    disk.read(FIRST as u64, &mut block)?;
    Ok(block.iter().any(|byte| *byte != 0))
}

/// How many bytes a record of so many takes up.
const fn blocks(bytes: usize) -> usize {
    (HEAD_BYTES + bytes).next_multiple_of(BLOCK)
}

/// The record that begins here, if one does and it is whole.
fn record(salt: u64, bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = number(bytes)?;
    let (len, rest) = self::number(rest)?;
    let (sum, rest) = self::number(rest)?;
    let group = rest.get(..usize::try_from(len).ok()?)?;
    (number > 0 && sum == digest(salt, number, group)).then_some((number, group))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// Tells a record from one of which a part didn't reach the disk: each step is a bijection, so that no change of one word goes unseen.
fn digest(salt: u64, number: u64, group: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let (words, rest) = group.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let sum = words
        .iter()
        .fold(step(step(salt, number), group.len() as u64), |sum, word| step(sum, u64::from_le_bytes(*word)));
    let sum = step(sum, u64::from_le_bytes(last));
    sum ^ (sum >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fate, RamDisk};

    fn open(medium: &RamDisk) -> Wal {
        Wal::new(medium.attach(), 9 * BLOCK, 1, Arc::default())
    }

    fn create(medium: &RamDisk) -> Wal {
        let wal = open(medium);
        wal.clear().unwrap();
        wal
    }

    #[test]
    fn groups_are_read_in_order_lap_after_lap() {
        let medium = RamDisk::new();
        let mut wal = create(&medium);
        let (mut last, mut turned) = (0, 0);
        for number in 1..100 {
            let group = vec![number as u8; usize::try_from(number * 311 % 9000).unwrap()];
            if !wal.fits(group.len()) {
                wal.turn();
                (last, turned) = (turned, number - 1);
            }
            wal.append(number, &group).unwrap();
            let again = open(&medium);
            let found = again.read(last).unwrap();
            assert_eq!(
                found.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
                (last + 1..=number).collect::<Vec<_>>()
            );
            assert_eq!(found.last().unwrap().1, group);
            assert_eq!(again.read(number).unwrap(), [], "what the tables have already isn't read again");
        }
    }

    /// As a program wrote it that had one lap for all of it.
    #[test]
    fn a_log_in_one_piece_is_read() {
        let medium = RamDisk::new();
        let mut wal = create(&medium);
        wal.end = wal.size;
        for (number, bytes) in [(1, 10), (2, 5000), (3, 5000), (4, 5000)] {
            wal.append(number, &vec![7; bytes]).unwrap();
        }
        assert_eq!(open(&medium).read(0).unwrap().len(), 4);
        assert_eq!(open(&medium).read(2).unwrap().len(), 2);
    }

    #[test]
    fn what_a_client_wrote_is_never_taken_for_a_record() {
        // What it would be in another's log.
        let medium = RamDisk::new();
        let mut other = Wal::new(medium.attach(), 9 * BLOCK, 2, Arc::default());
        other.clear().unwrap();
        other.append(9, b"nine").unwrap();
        let mut forged = vec![0; BLOCK];
        medium.attach().read(FIRST as u64, &mut forged).unwrap();
        let group = [vec![0; BLOCK - HEAD_BYTES], forged].concat();
        let medium = RamDisk::new();
        create(&medium).append(1, &group).unwrap();
        assert_eq!(open(&medium).read(0).unwrap(), [(1, group)]);
    }

    #[test]
    fn a_torn_end_is_left_out_and_a_hole_is_told() {
        for torn in [0, 7, 30, BLOCK, BLOCK + 1] {
            let medium = RamDisk::new();
            let mut wal = create(&medium);
            wal.append(1, b"one").unwrap();
            wal.append(2, &[2; BLOCK]).unwrap();
            medium.cut_power_after(1);
            wal.append(3, &[3; BLOCK]).unwrap_err();
            medium.crash_with(|_| Fate::Torn(torn));
            assert_eq!(open(&medium).read(0).unwrap().len(), 2, "torn after {torn}");
            let mut again = open(&medium);
            (again.at, again.end) = (wal.at, wal.end);
            again.append(3, b"another").unwrap();
            assert_eq!(again.read(0).unwrap()[2], (3, b"another".to_vec()));
            medium.flip(2 * BLOCK + 100);
            let damaged = open(&medium).read(0).unwrap_err().to_string();
            assert!(damaged.contains("step 3 where 2 should come first"), "{damaged}");
        }
        // A log whose tables are gone.
        let medium = RamDisk::new();
        create(&medium).append(7, b"seven").unwrap();
        assert!(matches!(open(&medium).read(0), Err(OpenError::Corrupt(_))));
    }
}
