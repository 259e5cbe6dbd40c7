// SPDX-License-Identifier: Apache-2.0
//! Whose the other end of a loopback connection is. A program that serves its own proxy on loopback asks, so
//! that nobody else on the machine can speak as that proxy. Linux tells in `/proc`; elsewhere nobody is trusted.

use std::fs;
use std::net::SocketAddr;

/// Lines of the kernel's table that are looked at.
const LINES_MAX: usize = 100_000;

/// Whether the socket at `remote` that is connected to `local` belongs to the user that this process runs as.
pub fn is_own_user(remote: SocketAddr, local: SocketAddr) -> bool {
    cfg!(target_os = "linux") && owner(remote, local).is_some_and(|uid| uid == rustix::process::geteuid().as_raw())
}

fn owner(remote: SocketAddr, local: SocketAddr) -> Option<u32> {
    let (SocketAddr::V4(near), SocketAddr::V4(far)) = (remote, local) else { return None };
    let print = |address: std::net::SocketAddrV4| {
        // The table prints the address as the machine's own number.
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let (near, far) = (print(near), print(far));
    let text = fs::read_to_string("/proc/net/tcp").ok()?;
    text.lines().skip(1).take(LINES_MAX).find_map(|line| {
        // sl, local address, remote address, state, queues, timer, retransmits, uid
        let mut fields = line.split_ascii_whitespace().skip(1);
        let fits = fields.next() == Some(near.as_str()) && fields.next() == Some(far.as_str());
        if fits { fields.nth(4)?.parse().ok() } else { None }
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_other_end_of_an_own_connection_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, far) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(is_own_user(near, far));
        assert_eq!(owner(near, far), Some(rustix::process::geteuid().as_raw()));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(!is_own_user(nobody, far), "a connection that isn't there is nobody's");
    }
}
