// SPDX-License-Identifier: Apache-2.0
//! Real sockets: a program that sends back what it gets, a door before it, and a relay between them, without a hop.

use super::*;
use crate::listen::{Kind, Ports, bind_per_core};
use crate::relay::{self, Passes, Pipe};
use crate::runtime::{Task, block_on, spawn_local, timeout};
use std::net::Ipv4Addr;

const PATIENCE: Duration = Duration::from_secs(10);

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket.connect(to).await.unwrap();
    socket
}

async fn answer(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let length = timeout(PATIENCE, client.recv(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(length);
    buffer
}

/// Sends back what it gets.
async fn echo() -> (SocketAddr, Task) {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = spawn_local("echo", async move {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    (address, task)
}

fn door() -> (Door, SocketAddr) {
    let listener = bind_per_core(loopback(), 1, Ports::Strict, Kind::Datagrams).unwrap().remove(0);
    (open(&listener).unwrap(), listener.local_addr())
}

/// Serves the flows of a door, each of which may rest for so long; how each ended.
fn serve(mut door: Door, program: SocketAddr, rests: Duration) -> tokio::sync::mpsc::UnboundedReceiver<relay::Relayed> {
    let (told, ended) = tokio::sync::mpsc::unbounded_channel();
    spawn_local("door", async move {
        loop {
            let (mut flow, _) = door.accept().await;
            flow.rests_for(rests);
            let told = told.clone();
            spawn_local("flow", async move {
                let (mut down, mut up) = (Pipe::from(flow), Pipe::from(connect(program).unwrap()));
                let relayed = relay::relay((&mut down, Vec::new()), (&mut up, Vec::new()), Passes::All, PATIENCE);
                drop(told.send(relayed.await));
            });
        }
    });
    ended
}

#[test]
fn datagrams_of_every_size_come_back_whole_each_to_its_own_source() {
    block_on(async {
        let (program, _echo) = echo().await;
        let (door, address) = door();
        let _ended = serve(door, program, IDLE);
        let one = client(address).await;
        for length in [0, 1, 63, 1472, 16_383, 65_507] {
            let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            one.send(&sent).await.unwrap();
            assert!(answer(&one).await == sent, "{length}");
        }
        let mut clients = Vec::new();
        for number in 0..200_u32 {
            let client = client(address).await;
            client.send(&number.to_be_bytes()).await.unwrap();
            clients.push(client);
        }
        for (number, client) in (0..200_u32).zip(&clients) {
            assert_eq!(answer(client).await, number.to_be_bytes());
        }
    })
    .unwrap();
}

#[test]
fn a_flow_that_rests_ends_in_order_and_the_next_datagram_begins_another() {
    block_on(async {
        let (program, _echo) = echo().await;
        let (door, address) = door();
        let mut ended = serve(door, program, Duration::from_millis(50));
        let client = client(address).await;
        for _ in 0..2 {
            client.send(b"again").await.unwrap();
            assert_eq!(answer(&client).await, b"again");
            let relayed = timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
            assert!(matches!(relayed.end, relay::End::Closed), "{relayed:?}");
            assert_eq!((relayed.sent, relayed.received), (8, 8));
        }
    })
    .unwrap();
}

#[test]
fn a_program_that_is_gone_ends_its_flows_at_once() {
    block_on(async {
        let gone = UdpSocket::bind(loopback()).await.unwrap().local_addr().unwrap();
        let (door, address) = door();
        let mut ended = serve(door, gone, IDLE);
        client(address).await.send(b"anybody?").await.unwrap();
        let relayed = timeout(PATIENCE, ended.recv()).await.unwrap().unwrap();
        assert!(matches!(&relayed.end, relay::End::Second(error) if error.kind() == io::ErrorKind::ConnectionRefused));
    })
    .unwrap();
}

#[test]
fn what_nobody_reads_is_kept_up_to_a_limit_and_counted_beyond_it() {
    block_on(async {
        let (mut door, address) = door();
        let (one, other) = (client(address).await, client(address).await);
        one.send(&[7; 60_000]).await.unwrap();
        let (mut flow, _) = door.accept().await;
        // Until the other's comes, which is behind them, the door hands out the first one's.
        for _ in 0..9 {
            one.send(&[7; 60_000]).await.unwrap();
            tokio::task::yield_now().await;
            other.send(b"now").await.unwrap();
            let (_other, _) = door.accept().await;
        }
        assert_eq!(dropped()[Dropped::Queue as usize], 6, "four are within 256 KiB");
        let mut kept = 0;
        while kept < 4 * 60_006 {
            let mut room = [0; 4096];
            let mut buf = ReadBuf::new(&mut room);
            std::future::poll_fn(|cx| Pin::new(&mut flow).poll_read(cx, &mut buf)).await.unwrap();
            kept += buf.filled().len();
        }
        assert_eq!(kept, 4 * 60_006);
        one.send(b"room again").await.unwrap();
        other.send(b"now").await.unwrap();
        let (_other, _) = door.accept().await;
        assert_eq!(dropped()[Dropped::Queue as usize], 6);
    })
    .unwrap();
}

#[test]
fn a_source_that_was_refused_is_not_asked_about_anew_with_each_datagram() {
    block_on(async {
        let (mut door, address) = door();
        let (one, other) = (client(address).await, client(address).await);
        one.send(b"let me in").await.unwrap();
        let (mut flow, from) = door.accept().await;
        assert_eq!(from, one.local_addr().unwrap());
        flow.refuse();
        drop(flow);
        for _ in 0..3 {
            one.send(b"let me in").await.unwrap();
        }
        other.send(b"me too").await.unwrap();
        let (_flow, from) = door.accept().await;
        assert_eq!(from, other.local_addr().unwrap());
        assert_eq!(dropped()[Dropped::Refused as usize], 3);
        // Later it is.
        let later = timeout(PATIENCE, async {
            loop {
                one.send(b"let me in").await.unwrap();
                if let Ok((_flow, from)) = timeout(SHUT_FOR / 10, door.accept()).await {
                    return from;
                }
            }
        });
        assert_eq!(later.await.unwrap(), one.local_addr().unwrap());
    })
    .unwrap();
}

/// Each has an address of its own, of which Linux gives this machine sixteen million.
#[cfg(target_os = "linux")]
#[test]
fn as_many_flows_as_there_may_be_are_served_and_no_more_until_some_have_rested() {
    block_on(async {
        let (mut door, address) = door();
        let mut flows = Vec::new();
        for number in 0..FLOWS_MAX {
            let [.., high, low] = number.to_be_bytes();
            let one = UdpSocket::bind((Ipv4Addr::new(127, 1, high, low), 0)).await.unwrap();
            one.send_to(b"x", address).await.unwrap();
            flows.push(door.accept().await.0);
        }
        let late = client(address).await;
        let let_in = timeout(PATIENCE, async {
            loop {
                late.send(b"and me").await.unwrap();
                if let Ok((_flow, from)) = timeout(REST_GLANCE, door.accept()).await {
                    return from;
                }
            }
        });
        assert_eq!(let_in.await.unwrap(), late.local_addr().unwrap());
        assert!(dropped()[Dropped::Flows as usize] > 0, "none had rested at first");
        let mut ended = 0;
        for flow in &mut flows {
            let mut room = [0; 16];
            let mut buf = ReadBuf::new(&mut room);
            std::future::poll_fn(|cx| Pin::new(&mut *flow).poll_read(cx, &mut buf)).await.unwrap();
            assert_eq!(buf.filled(), [0, 2, 0, b'x'], "what came before is read all the same");
            buf.clear();
            let read = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *flow).poll_read(cx, &mut buf))).await;
            ended += usize::from(read.is_ready() && buf.filled().is_empty());
        }
        assert_eq!(ended, door::ENDED_AT_ONCE);
    })
    .unwrap();
}

/// Pause between two tries to be let in.
#[cfg(target_os = "linux")]
const REST_GLANCE: Duration = Duration::from_millis(100);

#[test]
fn a_listener_of_datagrams_travels_and_somebody_is_seen_to_listen() {
    let bound = bind_per_core(loopback(), 2, Ports::Strict, Kind::Datagrams).unwrap();
    let address = bound[0].local_addr();
    assert!(bound.iter().all(|one| one.local_addr() == address));
    assert!(is_taken(address.port()));
    let fd = std::os::fd::AsFd::as_fd(&bound[0]).try_clone_to_owned().unwrap();
    let same = Listener::from_fd(fd).unwrap();
    assert_eq!(same.local_addr(), address);
    block_on(async {
        assert!(open(&same).is_ok());
        let stream = crate::listen::bind(loopback(), crate::listen::Share::Alone).unwrap();
        assert!(open(&stream).is_err(), "connections come in there");
    })
    .unwrap();
    drop((bound, same));
    #[cfg(target_os = "linux")]
    assert!(!is_taken(address.port()));
}
