// SPDX-License-Identifier: Apache-2.0
//! The seam between the store and a disk: a file of a real machine, or a simulated medium that can
//! lose power. Whoever opens a store chooses; the store can't tell them apart.

mod file;
mod ram;
#[cfg(test)]
mod tests;

pub use file::{FileDisk, holder};
pub use ram::{Fate, RamDisk};

use std::fmt;
use std::io;
use std::sync::Arc;

/// One growable array of bytes that survives, up to the last [`Disk::sync`], a loss of power.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a disk is empty")]
pub trait Disk: Send + Sync + fmt::Debug {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Fills `out` from `offset`; an error if that reaches past the end.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes at `offset`, growing as needed. Not durable before the next sync.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or grows with zeros. Not durable before the next sync.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes every earlier write durable.
    fn sync(&self) -> io::Result<()>;
    /// Remembers beyond the end of the program that a sync has failed, or that all of it was written anew since.
    fn doubt(&self, doubted: bool) -> io::Result<()>;
    /// Whether that is so.
    fn is_doubted(&self) -> io::Result<bool>;
}

/// How much is written anew at a time, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Makes sure of what a failed sync has left: it may be in memory alone, where it's read, and no later sync makes it durable unless it's written
/// again (fsync(2); Rebello et al., "Can Applications Recover from fsync Failures?", 2020). Whoever opens a disk does this before it believes anything there.
pub(crate) fn make_sure(disk: &dyn Disk) -> io::Result<()> {
    if !disk.is_doubted()? {
        return Ok(());
    }
    let (mut at, len) = (0, disk.len()?);
    let mut piece = vec![0; PIECE_BYTES];
    while at < len {
        let bytes = usize::try_from(len - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        disk.read(at, &mut piece[..bytes])?;
        disk.write(at, &piece[..bytes])?;
        at += bytes as u64;
    }
    disk.sync()?;
    disk.doubt(false)
}

/// The first `at` bytes of a disk, and the rest of it, each as a disk of its own.
pub(crate) fn split(disk: Arc<dyn Disk>, at: u64) -> (Arc<dyn Disk>, Arc<dyn Disk>) {
    (Arc::new(Part { disk: Arc::clone(&disk), from: 0 }), Arc::new(Part { disk, from: at }))
}

/// A disk from an offset on. Nobody writes behind the end of the first.
#[derive(Debug)]
struct Part {
    disk: Arc<dyn Disk>,
    from: u64,
}

impl Disk for Part {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.len()?.saturating_sub(self.from))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(self.from + offset, out)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(self.from + offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(self.from + len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn doubt(&self, doubted: bool) -> io::Result<()> {
        self.disk.doubt(doubted)
    }

    fn is_doubted(&self) -> io::Result<bool> {
        self.disk.is_doubted()
    }
}
