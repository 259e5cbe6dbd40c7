// SPDX-License-Identifier: Apache-2.0
//! A redb file that may fail under a write. Decides whether a failed write is known not to have happened:
//! then later ones may succeed; if nobody can tell, nothing is written any more.

use super::OpenError;
use crate::disk::{Disk, make_sure};
use crate::store::Error;
use byrnie_base::Text;
use redb::{Database, StorageBackend};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file, and whether it can be written.
pub(super) struct Guard {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    sync_failed: Arc<AtomicBool>,
    file: File,
}

enum File {
    Open(Arc<Database>),
    /// A write failed and the file couldn't be opened again; the next write tries that first.
    Lost(Text),
    /// Only a restart tells what is durable.
    Uncertain(Text),
}

/// Tells of an opened file whether the write that failed is not in it.
type Unwritten<'a> = &'a dyn Fn(&Database) -> Result<bool, redb::Error>;

impl Guard {
    /// Opens what is on `disk`, an empty disk included, and has `read` look at it.
    pub(super) fn open<T>(
        disk: Arc<dyn Disk>,
        cache_bytes: usize,
        read: impl FnOnce(&Database) -> Result<T, OpenError>,
    ) -> Result<(Self, T), OpenError> {
        make_sure(&*disk)?;
        let sync_failed = Arc::new(AtomicBool::new(false));
        let database = database(disk.clone(), cache_bytes, sync_failed.clone())?;
        let found = read(&database)?;
        Ok((Self { disk, cache_bytes, sync_failed, file: File::Open(Arc::new(database)) }, found))
    }

    /// Set once a sync has failed.
    pub(super) fn sync_failed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.sync_failed)
    }

    /// Whether one has.
    pub(super) fn has_failed_to_sync(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Has `read` look at it.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, OpenError> {
        match &self.file {
            File::Open(database) => read(database).map_err(open_error),
            File::Lost(why) | File::Uncertain(why) => Err(OpenError::Corrupt(why.to_string())),
        }
    }

    /// Has `write` write and commit. An error means that the caller must go on as if nothing was written.
    pub(super) fn write<T>(
        &mut self,
        unwritten: Unwritten<'_>,
        write: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        let database = self.database(unwritten)?;
        let written = write(&database);
        drop(database);
        self.judge(unwritten, written)
    }

    /// The file, if it's known what is in it: for a write that happens meanwhile. Whoever holds it lets go of it before it's judged.
    pub(super) fn database(&mut self, unwritten: Unwritten<'_>) -> Result<Arc<Database>, Error> {
        if let File::Lost(_) = self.file {
            self.reopen(unwritten);
        }
        match &self.file {
            File::Open(database) => Ok(Arc::clone(database)),
            File::Lost(why) => Err(Error::Refused(why.clone())),
            File::Uncertain(why) => Err(Error::Uncertain(why.clone())),
        }
    }

    /// Nothing is written any more: nobody can tell what is.
    pub(super) fn doubt(&mut self, why: &io::Error) -> Error {
        let why = Text::from(why.to_string());
        self.file = File::Uncertain(why.clone());
        Error::Uncertain(why)
    }

    /// What came of a write. An error means that the caller must go on as if nothing was written.
    pub(super) fn judge<T>(&mut self, unwritten: Unwritten<'_>, written: Result<T, redb::Error>) -> Result<T, Error> {
        let error = match written {
            Ok(written) => return Ok(written),
            Err(error) => error,
        };
        let why = Text::from(describe(&error));
        self.file = File::Lost(why.clone());
        if self.sync_failed.load(Ordering::Acquire) {
            self.file = File::Uncertain(why.clone());
            return Err(Error::Uncertain(why));
        }
        // redb refuses everything after an I/O error until the file is opened anew. The reopened file
        // tells whether the write happened.
        self.reopen(unwritten);
        match &self.file {
            File::Open(_) => Err(Error::Refused(why)),
            File::Lost(_) | File::Uncertain(_) => Err(Error::Uncertain(why)),
        }
    }

    fn reopen(&mut self, unwritten: Unwritten<'_>) {
        let why = match &self.file {
            File::Lost(why) => why.clone(),
            File::Open(_) | File::Uncertain(_) => return,
        };
        self.file = match database(self.disk.clone(), self.cache_bytes, self.sync_failed.clone()) {
            Ok(database) if unwritten(&database).is_ok_and(|unwritten| unwritten) => File::Open(Arc::new(database)),
            Ok(_) => File::Uncertain(why.clone()),
            Err(_) => File::Lost(why.clone()),
        };
        // To open it writes and syncs, too: the next sync would find the pages clean that this one gave up.
        if self.sync_failed.load(Ordering::Acquire) {
            self.file = File::Uncertain(why);
        }
    }
}

fn database(disk: Arc<dyn Disk>, cache_bytes: usize, sync_failed: Arc<AtomicBool>) -> Result<Database, OpenError> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
    builder.create_with_backend(Bridge { disk, sync_failed }).map_err(|error| open_error(error.into()))
}

pub(super) fn open_error(error: redb::Error) -> OpenError {
    match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => OpenError::Io(error),
        other => OpenError::Corrupt(describe(&other)),
    }
}

fn describe(error: &redb::Error) -> String {
    match error {
        redb::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What redb takes for a file.
#[derive(Debug)]
struct Bridge {
    disk: Arc<dyn Disk>,
    sync_failed: Arc<AtomicBool>,
}

impl StorageBackend for Bridge {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.disk.sync();
        if synced.is_err() {
            self.sync_failed.store(true, Ordering::Release);
            if let Err(error) = self.disk.doubt(true) {
                tracing::error!(%error, "that a sync has failed can't be remembered: restart the machine, not the program alone");
            }
        }
        synced
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(offset, bytes)
    }
}
