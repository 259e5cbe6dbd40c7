// SPDX-License-Identifier: Apache-2.0
//! A simulated disk: it loses power when told, keeps or tears what wasn't synced as told, and runs full
//! or fails to sync when told. For the simulator and for tests; decided by them, never by the store.

use super::Disk;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A medium that outlives whoever is attached to it. Clones are the same medium.
#[derive(Clone, Debug, Default)]
pub struct RamDisk(Arc<Mutex<Medium>>);

/// What becomes of one write that wasn't synced when the power was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never reached the medium.
    Lost,
    /// It did.
    Kept,
    /// Only this many of its first bytes did.
    Torn(usize),
}

#[derive(Debug, Default)]
struct Medium {
    /// What survives a loss of power for certain.
    durable: Vec<u8>,
    /// What a reader sees.
    live: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// How many of these a failed sync gave up: no later one makes them durable.
    given_up: usize,
    /// The next failing sync gives up.
    gives_up: bool,
    /// What outlives a program and not the machine.
    doubted: bool,
    /// Counts losses of power; who was attached before one gets errors only.
    power: u64,
    capacity: Option<usize>,
    failing_syncs: u32,
    /// Operations until the power is lost on its own.
    fuse: Option<u32>,
}

#[derive(Debug)]
enum Unsynced {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug)]
struct Attached {
    medium: Arc<Mutex<Medium>>,
    power: u64,
}

impl RamDisk {
    /// An empty medium.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plugs it in, until the next loss of power.
    pub fn attach(&self) -> Arc<dyn Disk> {
        let mut medium = self.medium();
        medium.fuse = None;
        medium.failing_syncs = 0;
        medium.gives_up = false;
        Arc::new(Attached { medium: self.0.clone(), power: medium.power })
    }

    /// Loses power, and with it every write since the last sync.
    pub fn crash(&self) {
        self.crash_with(|_| Fate::Lost);
    }

    /// Loses power; `fate` decides each write since the last sync, in the order they were made.
    pub fn crash_with(&self, mut fate: impl FnMut(usize) -> Fate) {
        let mut medium = self.medium();
        let medium = &mut *medium;
        medium.power += 1;
        medium.given_up = 0;
        medium.doubted = false;
        for (index, unsynced) in std::mem::take(&mut medium.unsynced).into_iter().enumerate() {
            match (fate(index), unsynced) {
                (Fate::Lost, _) => {}
                (Fate::Torn(bytes), Unsynced::Write(offset, mut written)) => {
                    written.truncate(bytes);
                    write_at(&mut medium.durable, offset, &written);
                }
                (_, Unsynced::Write(offset, written)) => write_at(&mut medium.durable, offset, &written),
                (_, Unsynced::Length(len)) => medium.durable.resize(len, 0),
            }
        }
        medium.live = medium.durable.clone();
    }

    /// The next `count` syncs fail; what they should have made durable is as uncertain as ever.
    pub fn fail_syncs(&self, count: u32) {
        self.medium().failing_syncs = count;
    }

    /// The next sync fails. What it should have made durable is read still, but no later sync makes it durable, unless it's written again:
    /// the pages count as clean (as on Linux, fsync(2)).
    pub fn give_up_a_sync(&self) {
        let mut medium = self.medium();
        medium.failing_syncs = 1;
        medium.gives_up = true;
    }

    /// Power is lost after `operations` more writes and syncs; [`RamDisk::crash_with`] then decides what is left.
    pub fn cut_power_after(&self, operations: u32) {
        self.medium().fuse = Some(operations);
    }

    /// Writes beyond `bytes` fail as on a full disk; `None` ends that.
    pub fn limit(&self, bytes: Option<usize>) {
        self.medium().capacity = bytes;
    }

    /// Its length as a reader sees it, in bytes.
    pub fn used_bytes(&self) -> usize {
        self.medium().live.len()
    }

    /// Changes a byte that is durable already, as a failing medium does.
    pub fn flip(&self, offset: usize) {
        let mut medium = self.medium();
        for bytes in [0, 1] {
            let side = if bytes == 0 { &mut medium.live } else { &mut medium.durable };
            if let Some(byte) = side.get_mut(offset) {
                *byte ^= 0x5a;
            }
        }
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attached {
    /// The medium, for a read.
    fn medium(&self) -> io::Result<MutexGuard<'_, Medium>> {
        let medium = self.medium.lock().unwrap_or_else(PoisonError::into_inner);
        if medium.power != self.power || medium.fuse == Some(0) {
            return Err(io::Error::other("the disk has lost power"));
        }
        Ok(medium)
    }

    /// The medium, for something that changes it.
    fn burn(&self) -> io::Result<MutexGuard<'_, Medium>> {
        let mut medium = self.medium()?;
        if let Some(fuse) = &mut medium.fuse {
            *fuse -= 1;
        }
        Ok(medium)
    }
}

impl Disk for Attached {
    fn len(&self) -> io::Result<u64> {
        Ok(self.medium()?.live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let medium = self.medium()?;
        let start = position(offset)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(medium.live.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut medium = self.burn()?;
        let start = position(offset)?;
        if medium.capacity.is_some_and(|capacity| start + bytes.len() > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        write_at(&mut medium.live, start, bytes);
        medium.unsynced.push(Unsynced::Write(start, bytes.to_vec()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut medium = self.burn()?;
        let len = position(len)?;
        medium.live.resize(len, 0);
        medium.unsynced.push(Unsynced::Length(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut medium = self.burn()?;
        if medium.failing_syncs > 0 {
            medium.failing_syncs -= 1;
            if std::mem::take(&mut medium.gives_up) {
                medium.given_up = medium.unsynced.len();
            }
            return Err(io::Error::other("the disk failed to sync"));
        }
        let medium = &mut *medium;
        let given_up = std::mem::take(&mut medium.given_up);
        for unsynced in std::mem::take(&mut medium.unsynced).into_iter().skip(given_up) {
            match unsynced {
                Unsynced::Write(offset, written) => write_at(&mut medium.durable, offset, &written),
                Unsynced::Length(len) => medium.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    fn doubt(&self, doubted: bool) -> io::Result<()> {
        self.medium()?.doubted = doubted;
        Ok(())
    }

    fn is_doubted(&self) -> io::Result<bool> {
        Ok(self.medium()?.doubted)
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

fn write_at(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}
