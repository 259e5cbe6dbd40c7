// SPDX-License-Identifier: Apache-2.0
//! A file that only one process may use at a time. Opened by `embedded`.

#[cfg(test)]
mod tests;

use super::Disk;
use crate::persist::OpenError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A locked file; the lock ends with the value, or with the process however it ends. The value gives the
/// lock back by name: a child that is between fork and exec has the file too, and closing ours would
/// leave the lock with it for that moment (flock(2): a lock belongs to the open file, not to one descriptor).
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    /// A file that is there while it's doubted.
    doubt: PathBuf,
}

impl FileDisk {
    /// Opens or creates `path`, readable by its owner alone, and locks it. Creates its directory.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let at = |error: io::Error| explain(path, &error);
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(at)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(at)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { holder: holder(path) }),
            Err(TryLockError::Error(error)) => return Err(at(error).into()),
        }
        // For the message above, in whoever comes second; without it the message names nobody.
        let _ = std::fs::write(pid_path(path), format!("{}\n", std::process::id()));
        // Always: whoever made the file may have died before this.
        sync_directory(path).map_err(at)?;
        Ok(Self { file, doubt: beside(path, ".doubt") })
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        // What can't be unlocked is unlocked by closing it, which comes next.
        let _ = self.file.unlock();
    }
}

impl Disk for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// It has to outlive the program alone: with the machine, what was in memory is gone as well.
    fn doubt(&self, doubted: bool) -> io::Result<()> {
        if doubted { std::fs::write(&self.doubt, b"") } else { std::fs::remove_file(&self.doubt) }
    }

    fn is_doubted(&self) -> io::Result<bool> {
        self.doubt.try_exists()
    }
}

/// A new file survives a loss of power only once its directory is durable too.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn pid_path(path: &Path) -> PathBuf {
    beside(path, ".pid")
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

/// The process that has this file, in words.
pub fn holder(path: &Path) -> Option<String> {
    let pid: u32 = std::fs::read_to_string(pid_path(path)).ok()?.trim().parse().ok()?;
    // The number of one that has ended may be another's by now.
    if !has_open(pid, path) {
        return None;
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("process {pid} ({})", name.trim()))
}

/// Whether a process has this file open, as far as this one may know.
fn has_open(pid: u32, path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(open) => open.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|at| at == path)),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
