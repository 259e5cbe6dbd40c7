// SPDX-License-Identifier: Apache-2.0
//! Real sockets on loopback.

use super::*;
use crate::runtime::{block_on, timeout};

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// As processes do that start at the same moment: each thread's sockets could share a port with another's.
#[test]
fn who_binds_for_its_cores_never_shares_a_port_with_another_nor_fails_by_it() {
    let base = bind(any(), Share::Alone).unwrap().local_addr();
    for _ in 0..50 {
        let each = || bind_per_core(base, 2, Ports::Next, Kind::Connections).unwrap();
        let all: Vec<Vec<Listener>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(each)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut ports: Vec<u16> = all.iter().map(|own| own[0].local_addr().port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        assert!(all.iter().all(|own| own.len() == 2 && own[0].local_addr() == own[1].local_addr()));
    }
}

#[test]
fn a_connection_is_accepted_with_its_origin() {
    block_on(async {
        let listener = bind(any(), Share::Alone).unwrap();
        let opened = TcpStream::connect(listener.local_addr()).await.unwrap();
        let (accepted, remote) = timeout(Duration::from_secs(10), listener.accept()).await.unwrap();
        assert_eq!((remote, accepted.nodelay().unwrap()), (opened.local_addr().unwrap(), true));
    })
    .unwrap();
}

/// What listens everywhere is asked at 0.0.0.0, which Linux takes for this machine: as addresses go it's none of loopback.
#[cfg(target_os = "linux")]
#[test]
fn the_system_asks_after_whoever_is_silent_on_connections_that_leave_the_machine() {
    use rustix::net::sockopt;
    let asks = |socket: &dyn AsFd| {
        let socket = socket.as_fd();
        let times = [sockopt::tcp_keepidle(socket).unwrap(), sockopt::tcp_keepintvl(socket).unwrap()];
        let noticed_after = times[0] + times[1] * sockopt::tcp_keepcnt(socket).unwrap();
        sockopt::socket_keepalive(socket).unwrap().then_some((times[0].as_secs(), noticed_after.as_secs()))
    };
    block_on(async {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let handed_over = std::net::TcpListener::bind(everywhere).unwrap();
        let handed_over = Listener::from_fd(handed_over.into()).unwrap();
        for (listener, expected) in [
            (bind(everywhere, Share::Alone).unwrap(), Some((15, 30))),
            (handed_over, Some((15, 30))),
            (bind(any(), Share::Alone).unwrap(), None),
        ] {
            let opened = crate::io::connect(listener.local_addr(), Duration::from_secs(10)).await.unwrap();
            let (accepted, _) = timeout(Duration::from_secs(10), listener.accept()).await.unwrap();
            assert_eq!([asks(&opened), asks(&accepted)], [expected; 2], "{listener:?}");
        }
    })
    .unwrap();
}

#[test]
fn a_busy_port_is_refused_or_the_next_one_taken() {
    let first = bind(any(), Share::Alone).unwrap();
    let busy = first.local_addr();
    let refused = bind_or_next(busy, Share::Alone, Ports::Strict).unwrap_err();
    assert_eq!((refused.address, refused.error.kind()), (busy, io::ErrorKind::AddrInUse));
    assert!(refused.to_string().contains(&busy.to_string()));
    let next = bind_or_next(busy, Share::Alone, Ports::Next).unwrap();
    assert!((busy.port() + 1..=busy.port() + NEXT_PORTS_MAX).contains(&next.local_addr().port()));
    assert!(bind(busy, Share::PerCore).is_err(), "a port held alone is not shared");
}

#[cfg(target_os = "linux")]
#[test]
fn the_holder_of_a_busy_port_is_named() {
    let first = bind(any(), Share::Alone).unwrap();
    let refused = bind(first.local_addr(), Share::Alone).unwrap_err();
    let holder = refused.holder.clone().unwrap();
    assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
    assert!(refused.to_string().ends_with(&format!("; probably held by {holder}")));
}

#[cfg(target_os = "linux")]
#[test]
fn cores_share_an_address() {
    let first = bind(any(), Share::PerCore).unwrap();
    let second = bind(first.local_addr(), Share::PerCore).unwrap();
    assert_eq!(first.local_addr(), second.local_addr());
}

#[test]
fn an_address_of_another_machine_is_refused() {
    let refused = bind_or_next("192.0.2.1:80".parse().unwrap(), Share::Alone, Ports::Next).unwrap_err();
    assert_eq!(refused.error.kind(), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn ipv6_takes_ipv6_alone() {
    let Ok(six) = bind("[::1]:0".parse().unwrap(), Share::Alone) else { return };
    let four = bind(SocketAddr::new([127, 0, 0, 1].into(), six.local_addr().port()), Share::Alone);
    assert!(six.local_addr().is_ipv6());
    assert!(four.is_ok_and(|four| four.local_addr().port() == six.local_addr().port()));
}

#[test]
fn only_errors_of_the_process_make_it_pause() {
    for (number, of_one) in [(103, true), (104, true), (4, true), (24, false), (23, false), (12, false), (105, false)] {
        assert_eq!(is_of_one_connection(&io::Error::from_raw_os_error(number)), of_one, "errno {number}");
    }
}

/// The listener has it itself: chosen for each connection it would come too late, as those of BBR are paced from their first step on.
#[cfg(target_os = "linux")]
#[test]
fn nothing_is_paced_on_loopback_and_the_system_chooses_elsewhere() {
    use rustix::net::sockopt::tcp_congestion;
    block_on(async {
        let everywhere = bind("0.0.0.0:0".parse().unwrap(), Share::Alone).unwrap();
        let chosen = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        assert_eq!(tcp_congestion(&everywhere).unwrap(), chosen.trim());
        let listener = bind(any(), Share::Alone).unwrap();
        assert_eq!(tcp_congestion(&listener).unwrap(), "reno");
        let opened = crate::io::connect(listener.local_addr(), Duration::from_secs(10)).await.unwrap();
        let (accepted, _) = timeout(Duration::from_secs(10), listener.accept()).await.unwrap();
        assert_eq!([opened, accepted].map(|end| tcp_congestion(&end).unwrap()), ["reno", "reno"]);
    })
    .unwrap();
}
