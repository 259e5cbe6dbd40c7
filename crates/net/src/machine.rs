// SPDX-License-Identifier: Apache-2.0
//! What this process uses of the machine, and may: memory and files. Read by cores some times a second. Linux tells
//! in `/proc` and in the control groups; elsewhere nothing is known, and a most of 0 says so.

use super::runtime;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Levels of control groups that are looked at, from the process' own up.
const LEVELS_MAX: usize = 64;
/// A limit above this is none: version 1 of control groups has no other word for that.
const LIMIT_MAX: u64 = 1 << 60;
/// Room for `/proc/PID/statm`: seven numbers.
const STATM_BYTES_MAX: usize = 160;

/// How long a process is taken to be starting.
const START: Duration = Duration::from_secs(3);

/// What this process uses, and may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in memory (the resident set), and the most there may be.
    pub memory: (u64, u64),
    /// Open files, and the most there may be.
    pub files: (u64, u64),
}

/// The most memory that this process is meant to use; 0: as much as it may.
static CEILING: AtomicU64 = AtomicU64::new(0);

/// Says how much memory this process is to use at most, in bytes, from the next [`Meter`] on.
pub fn limit_memory(bytes: u64) {
    CEILING.store(bytes, Ordering::Relaxed);
}

/// Measures this process.
#[derive(Clone, Debug)]
pub struct Meter {
    /// `/proc/PID/statm`, kept open: to read it again is one call.
    statm: Option<Arc<File>>,
    memory_max: u64,
    files_max: u64,
}

impl Meter {
    /// One that takes the least of what [`limit_memory`] said, what the control groups allow, and what the machine has,
    /// for the most memory there may be.
    pub fn new() -> Self {
        let told = Some(CEILING.load(Ordering::Relaxed)).filter(|ceiling| *ceiling > 0);
        let memory_max = [told, group_limit(), total()].into_iter().flatten().min().unwrap_or(0);
        let files_max = runtime::open_files_max();
        let statm = File::open("/proc/self/statm").ok().map(Arc::new);
        Self { statm, memory_max, files_max: if files_max == u64::MAX { 0 } else { files_max } }
    }

    /// What is in use now. Nothing, where that can't be read.
    pub fn read(&self) -> Usage {
        let memory = self.statm.as_deref().and_then(resident).unwrap_or(0);
        Usage { memory: (memory, self.memory_max), files: (open_files().unwrap_or(0), self.files_max) }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

/// The resident set of `/proc/PID/statm`, which counts pages: size, resident, shared...
fn resident(statm: &File) -> Option<u64> {
    let mut bytes = [0; STATM_BYTES_MAX];
    let count = statm.read_at(&mut bytes, 0).ok()?;
    let pages: u64 = std::str::from_utf8(bytes.get(..count)?).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * page_bytes())
}

/// By the C library: rustix looks for it in the vDSO's memory, at which valgrind gives up.
fn page_bytes() -> u64 {
    unsafe extern "C" {
        safe fn getpagesize() -> i32;
    }
    u64::try_from(getpagesize()).unwrap_or(0)
}

fn open_files() -> Option<u64> {
    let folder = "/proc/self/fd";
    // The folder's size is their number since Linux 6.2, and 0 before.
    match fs::metadata(folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as u64),
        count => Some(count),
    }
}

/// What the machine has.
fn total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes: u64 = text.lines().next()?.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The least that the control groups of this process allow.
fn group_limit() -> Option<u64> {
    least(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The least limit of the groups that `own` (`/proc/PID/cgroup`) names and of those above them, below `root`.
fn least(root: &Path, own: &str) -> Option<u64> {
    let of_line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        climb(&base, path, file)
    };
    own.lines().filter_map(of_line).min()
}

/// The least limit on the way from `path` up to `base`. In a container `path` may be the host's name for what
/// stands at `base`: what isn't there is passed over.
fn climb(base: &Path, path: &str, file: &str) -> Option<u64> {
    let full: PathBuf = base.join(path);
    let levels = full.ancestors().take_while(|level| level.starts_with(base)).take(LEVELS_MAX);
    let limit = |level: &Path| fs::read_to_string(level.join(file)).ok()?.trim().parse().ok();
    levels.filter_map(limit).filter(|limit: &u64| (1..LIMIT_MAX).contains(limit)).min()
}

/// Asks the allocator to give back to the system what is free. It takes some milliseconds.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> i32;
        }
        malloc_trim(0);
    }
}

/// Gives back what only its start needed, once a process that goes on has started: free memory, and the pages of the
/// program itself. Those are the file's, and come back one by one as they are used.
pub async fn settle() {
    runtime::sleep(START).await;
    trim();
    forget_program();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn forget_program() {
    use rustix::mm::{Advice, madvise};
    // The linker's: where the program's read-only segments begin and end.
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let start = (&raw const __executable_start).cast_mut();
    let pages = ((&raw const etext).addr() - start.addr()) as u64 / page_bytes();
    let Ok(bytes) = usize::try_from(pages * page_bytes()) else { return };
    // SAFETY: nobody can have written to these segments, so that what is dropped of them is read again from the file.
    // What isn't dropped is no harm.
    let _ = unsafe { madvise(start.cast(), bytes, Advice::LinuxDontNeed) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
const fn forget_program() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        let meter = Meter::new();
        let before = meter.read();
        assert!(before.memory.0 > 1 << 20 && before.memory.1 >= before.memory.0, "{before:?}");
        assert!(before.files.0 >= 3 && before.files.1 > before.files.0, "{before:?}");
        let files: Vec<_> = (0..200).map(|_| fs::File::open("/proc/self/statm").unwrap()).collect();
        let bytes = vec![1u8; 64 << 20];
        let after = meter.read();
        assert!(after.files.0 >= before.files.0 + 150, "{before:?} {after:?}");
        assert!(after.memory.0 >= before.memory.0 + (48 << 20), "{before:?} {after:?}");
        drop((files, bytes));
        limit_memory(12_345_678);
        assert_eq!(Meter::new().read().memory.1, 12_345_678);
    }

    /// Set in the process that runs one test.
    const ALONE: &str = "BYRNIE_NET_TEST_ALONE";

    #[test]
    fn a_process_that_has_started_gives_back_what_its_start_took() {
        if std::env::var_os(ALONE).is_none() {
            // What runs beside it takes some of it back meanwhile.
            let name = "machine::tests::a_process_that_has_started_gives_back_what_its_start_took";
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            let run = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&run.stdout);
            assert!(
                run.status.success() && said.contains("1 passed"),
                "{said}{}",
                String::from_utf8_lossy(&run.stderr)
            );
            return;
        }
        let program = || {
            let maps = fs::read_to_string("/proc/self/smaps").unwrap();
            let own = std::env::current_exe().unwrap();
            let (mut is_own, mut kilobytes) = (false, 0);
            for line in maps.lines() {
                let words: Vec<_> = line.split_whitespace().collect();
                match words[..] {
                    ["Rss:", size, _] if is_own => kilobytes += size.parse::<u64>().unwrap(),
                    [_, rights, _, _, _, path] => is_own = !rights.contains('w') && Path::new(path) == own,
                    _ => {}
                }
            }
            kilobytes
        };
        let before = program();
        forget_program();
        let after = program();
        assert!(after * 4 < before * 3, "{before} KiB, then {after}");
    }

    #[test]
    fn the_least_limit_of_all_groups_above_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("pods/one/memory.max", "max\n");
        put("pods/memory.max", "134217728\n");
        assert_eq!(least(root, "0::/pods/one\n"), Some(134_217_728));
        put("pods/one/memory.max", "1000000\n");
        assert_eq!(least(root, "0::/pods/one\n"), Some(1_000_000));
        put("memory/box/memory.limit_in_bytes", "9223372036854771712\n");
        put("memory/memory.limit_in_bytes", "5000000\n");
        assert_eq!(least(root, "5:cpu,memory:/box\n3:cpuset:/\n"), Some(5_000_000));
        assert_eq!(least(root, "4:cpu:/\n"), None);
        // A name of the host's, seen from within a container.
        put("memory.max", "7000000\n");
        assert_eq!(least(root, "0::/host/only/path\n"), Some(7_000_000));
    }
}
