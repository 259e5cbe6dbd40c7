// SPDX-License-Identifier: Apache-2.0
//! Whose the other end of a loopback connection is. A program that serves its own proxy on loopback asks, so
//! that nobody else on the machine can speak as that proxy. Linux tells; elsewhere nobody is trusted.
//!
//! The kernel is asked for this one socket (`sock_diag(7)`), which costs the same however many there are. Its table in `/proc` is
//! read only where it doesn't answer such questions: that takes milliseconds for each thousand, of all that the reactor has to do.
//! An end that was closed is nobody's: the kernel says of it that it is root's, whosever it was.

use std::net::SocketAddr;

/// Whether the socket at `remote` that is connected to `local` belongs to the user that this process runs as, and is open.
pub fn is_own_user(remote: SocketAddr, local: SocketAddr) -> bool {
    owner(remote, local).is_some_and(|uid| uid == rustix::process::geteuid().as_raw())
}

#[cfg(target_os = "linux")]
use linux::owner;

#[cfg(not(target_os = "linux"))]
fn owner(_: SocketAddr, _: SocketAddr) -> Option<u32> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};
    use std::fs;
    use std::net::{SocketAddr, SocketAddrV4};
    use std::sync::OnceLock;

    /// Lines of the kernel's table that are looked at.
    const LINES_MAX: usize = 100_000;
    /// `TCP_ESTABLISHED`, as the kernel's table writes it, too.
    const ESTABLISHED: u8 = 1;

    /// Set once the kernel has answered: then it isn't for want of the module that it doesn't.
    static ANSWERS: OnceLock<()> = OnceLock::new();

    pub(super) fn owner(remote: SocketAddr, local: SocketAddr) -> Option<u32> {
        let (SocketAddr::V4(near), SocketAddr::V4(far)) = (remote, local) else { return None };
        match ask(near, far) {
            Ok(owner) => {
                let _ = ANSWERS.set(());
                owner
            }
            Err(_) if ANSWERS.get().is_some() => None,
            Err(_) => in_table(near, far),
        }
    }

    /// The user of the open socket at `near` that is connected to `far`, as `linux/inet_diag.h` has it asked.
    pub(super) fn ask(near: SocketAddrV4, far: SocketAddrV4) -> Result<Option<u32>, Errno> {
        /// Of a `nlmsghdr`, and where its type stands.
        const HEAD: usize = 16;
        const KIND: usize = 4;
        /// Of a `nlmsghdr` with an `inet_diag_req_v2`, whose `inet_diag_sockid` begins there.
        const ASKED: usize = 72;
        const LENGTH: u32 = 72;
        const ASKED_ID: usize = 24;
        /// Where in a `nlmsghdr` with an `inet_diag_msg` the state, the `inet_diag_sockid` and the user stand.
        const STATE: usize = 17;
        const ID: usize = 20;
        const USER: usize = 80;
        /// Ports and both addresses within an `inet_diag_sockid`.
        const SOCKET: usize = 36;
        const SOCK_DIAG_BY_FAMILY: u16 = 20;
        const NLMSG_ERROR: u16 = 2;
        const NLM_F_REQUEST: u16 = 1;
        const AF_INET: u8 = 2;
        const IPPROTO_TCP: u8 = 6;

        let mut id = [0; SOCKET];
        id[..2].copy_from_slice(&near.port().to_be_bytes());
        id[2..4].copy_from_slice(&far.port().to_be_bytes());
        id[4..8].copy_from_slice(&near.ip().octets());
        id[20..24].copy_from_slice(&far.ip().octets());
        let mut asked = [0; ASKED];
        asked[..KIND].copy_from_slice(&LENGTH.to_ne_bytes());
        asked[KIND..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        asked[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        asked[HEAD..18].copy_from_slice(&[AF_INET, IPPROTO_TCP]);
        // Any state; the last eight bytes are the cookie, of which all set is none.
        asked[20..ASKED_ID].fill(0xff);
        asked[ASKED_ID..ASKED_ID + SOCKET].copy_from_slice(&id);
        asked[ASKED - 8..].fill(0xff);

        let kernel =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
        send(&kernel, &asked, SendFlags::empty())?;
        let mut told = [0; 512];
        // It has answered when the question is sent.
        let (_, length) = recv(&kernel, &mut told[..], RecvFlags::DONTWAIT)?;
        let told = told.get(..length).unwrap_or_default();
        match part(told, KIND).map(u16::from_ne_bytes) {
            Some(SOCK_DIAG_BY_FAMILY) => {}
            Some(NLMSG_ERROR) => {
                let code = part(told, HEAD).map(i32::from_ne_bytes).unwrap_or_default();
                return Err(Errno::from_raw_os_error(code.saturating_neg()));
            }
            _ => return Err(Errno::PROTO),
        }
        // Where there is no such connection it may tell of who listens.
        let is_it = part(told, ID) == Some(id) && part(told, STATE) == Some([ESTABLISHED]);
        Ok(part(told, USER).map(u32::from_ne_bytes).filter(|_| is_it))
    }

    /// So many bytes from there on.
    fn part<const N: usize>(bytes: &[u8], from: usize) -> Option<[u8; N]> {
        bytes.get(from..from.checked_add(N)?)?.try_into().ok()
    }

    /// The same by the kernel's table.
    pub(super) fn in_table(near: SocketAddrV4, far: SocketAddrV4) -> Option<u32> {
        let print = |address: SocketAddrV4| {
            // The table prints the address as the machine's own number.
            format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
        };
        let (near, far, open) = (print(near), print(far), format!("{ESTABLISHED:02X}"));
        let text = fs::read_to_string("/proc/net/tcp").ok()?;
        text.lines().skip(1).take(LINES_MAX).find_map(|line| {
            // sl, local address, remote address, state, queues, timer, retransmits, uid
            let mut fields = line.split_ascii_whitespace().skip(1);
            let fits = [&near, &far, &open].into_iter().all(|wanted| fields.next() == Some(wanted.as_str()));
            if fits { fields.nth(3)?.parse().ok() } else { None }
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::{SocketAddrV4, TcpListener, TcpStream};

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        let SocketAddr::V4(address) = address else { unreachable!("{address}") };
        address
    }

    #[test]
    fn the_other_end_of_an_own_connection_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, far) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(is_own_user(near, far));
        let own = Some(rustix::process::geteuid().as_raw());
        assert_eq!(owner(near, far), own);
        assert_eq!(linux::in_table(v4(near), v4(far)), own, "the table says the same");
        // Where the kernel is asked it says so at once, however long its table is.
        assert!(linux::ask(v4(near), v4(far)).is_err() || linux::ask(v4(near), v4(far)) == Ok(own));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(!is_own_user(nobody, far), "a connection that isn't there is nobody's");
        assert!(!is_own_user(far, nobody), "nor is it who listens there");
    }

    /// Whoever asked it of the kernel as root was told that it's root's.
    #[test]
    fn the_other_end_of_a_connection_that_was_closed_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, far) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        drop(client);
        assert!(!is_own_user(near, far));
        assert_eq!(linux::in_table(v4(near), v4(far)), None);
    }
}
