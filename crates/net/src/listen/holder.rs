// SPDX-License-Identifier: Apache-2.0
//! Who holds a port: a hint for the message that refuses a busy one, called on that failure alone, by `listen`; and whether
//! somebody waits for datagrams. Linux tells in `/proc`; elsewhere, and of processes of other users, nothing is known.

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// Lines of the kernel's table, and processes, that are looked at.
const LOOKED_AT_MAX: usize = 10_000;

/// The name and id of a process that listens on `address` or on its port at every address.
pub(super) fn holder(address: SocketAddr) -> Option<String> {
    let inode = inode(address)?;
    let link = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten().take(LOOKED_AT_MAX) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = files
            .flatten()
            .take(LOOKED_AT_MAX)
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// Whether a socket of this machine takes datagrams to `port`, from whoever sends them; taken for granted where nothing is known.
pub(crate) fn takes_datagrams(port: u16) -> bool {
    let port = format!(":{port:04X}");
    let tables: Vec<String> =
        ["/proc/net/udp", "/proc/net/udp6"].into_iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    let takes = |line: &str| {
        // sl, local address, remote address, state: 07 for one that isn't connected
        let fields: Vec<&str> = line.split_ascii_whitespace().take(4).collect();
        matches!(fields.as_slice(), [_, local, _, "07"] if local.ends_with(&port))
    };
    tables.is_empty() || tables.iter().any(|text| text.lines().skip(1).take(LOOKED_AT_MAX).any(takes))
}

/// The inode of the socket that listens there.
fn inode(address: SocketAddr) -> Option<String> {
    let port = format!(":{:04X}", address.port());
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1).take(LOOKED_AT_MAX) {
            // sl, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (Some(local), Some(&"0A"), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
                continue;
            };
            if local.ends_with(&port) && covers(local, address.ip()) {
                return Some((*inode).to_owned());
            }
        }
    }
    None
}

/// Whether a local address of the table is `ip`, or every address.
fn covers(local: &str, ip: IpAddr) -> bool {
    let Some((hex, _)) = local.split_once(':') else { return false };
    if hex.bytes().all(|digit| digit == b'0') || ip.is_unspecified() {
        return true;
    }
    // The table prints each 32-bit word of the address as the machine's own number.
    let words: Vec<[u8; 4]> = (0..hex.len() / 8)
        .filter_map(|at| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok())
        .map(u32::to_ne_bytes)
        .collect();
    match ip {
        IpAddr::V4(v4) => words.last() == Some(&v4.octets()),
        IpAddr::V6(v6) => words.concat() == v6.octets(),
    }
}
