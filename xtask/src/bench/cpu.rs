// SPDX-License-Identifier: Apache-2.0
//! How long processes ran, from `/proc`. Read only between two phases of a load.

use std::collections::HashMap;
use std::fs;

/// Nanoseconds that all threads of these processes and their children have run, user and kernel.
/// Threads that ended take their time with them: proxies keep theirs.
pub(super) fn nanos(roots: &[u32]) -> u64 {
    tree(roots).into_iter().map(of_process).sum()
}

fn of_process(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Bytes of memory that these processes and their children hold, their share of what is shared counted
/// once (PSS); programs of the names in `without` aren't counted.
pub(super) fn memory(roots: &[u32], without: &[&str]) -> u64 {
    tree(roots).into_iter().filter(|pid| !without.contains(&name(*pid).as_str())).map(held).sum()
}

/// The processes and all below them, without programs of the names in `without`.
pub(super) fn others(roots: &[u32], without: &[&str]) -> Vec<u32> {
    tree(roots).into_iter().filter(|pid| !without.contains(&name(*pid).as_str())).collect()
}

/// Bytes of memory that are resident for these processes.
pub(super) fn resident(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok())
    };
    pids.iter().filter_map(of).sum::<u64>() * 1024
}

/// Sockets that these processes have open.
pub(super) fn sockets(pids: &[u32]) -> usize {
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    };
    let of = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).ok();
    pids.iter().filter_map(of).flatten().flatten().filter(is_socket).count()
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn held(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The processes and all below them.
pub(super) fn tree(roots: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok()) {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = roots.to_vec();
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    found
}

/// The fourth field of `stat`, counted after the name, which may hold anything but ends with `)`.
fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Nanoseconds that all processors have been busy since boot, with whatever; grains of 10 ms.
pub(super) fn machine_nanos() -> u64 {
    const GRAIN_NANOS: u64 = 10_000_000;
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let numbers: Vec<u64> = fields.filter_map(|word| word.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal; guests are counted in user already.
    [0, 1, 2, 5, 6, 7].into_iter().filter_map(|at| numbers.get(at)).sum::<u64>() * GRAIN_NANOS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_run_and_is_its_own_tree() {
        let own = std::process::id();
        assert!(tree(&[own]).contains(&own));
        assert!(nanos(&[own]) > 0);
        assert!(machine_nanos() > 0);
    }
}
