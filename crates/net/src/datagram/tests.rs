// SPDX-License-Identifier: Apache-2.0
//! Real sockets: a program that sends back what it gets, a door before it, and a relay between them, without a hop.

use super::*;
use crate::listen::{Kind, Ports, bind_per_core};
use crate::relay::{self, Passes, Pipe};
use crate::runtime::{Task, block_on, spawn_local, timeout};
use byrnie_codec::capsule;
use rustix::io::ioctl_fionread;
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

/// Sends a datagram by a flow.
async fn say(flow: &mut Datagrams, datagram: &[u8]) {
    let mut bytes = Vec::new();
    capsule::emit(datagram, &mut bytes);
    let written = std::future::poll_fn(|cx| Pin::new(&mut *flow).poll_write(cx, &bytes)).await.unwrap();
    assert_eq!(written, bytes.len());
    std::future::poll_fn(|cx| Pin::new(&mut *flow).poll_flush(cx)).await.unwrap();
}

/// The next datagram of a flow, where no other waits behind it.
async fn hear(flow: &mut Datagrams) -> Vec<u8> {
    let (mut reader, mut room) = (Reader::default(), vec![0; BUFFER_BYTES]);
    let heard = async {
        loop {
            let mut buf = ReadBuf::new(&mut room);
            std::future::poll_fn(|cx| Pin::new(&mut *flow).poll_read(cx, &mut buf)).await.unwrap();
            let mut rest = buf.filled();
            assert!(!rest.is_empty(), "it has ended");
            if let Some(datagram) = reader.next(&mut rest).unwrap() {
                assert!(rest.is_empty(), "another follows");
                return datagram.to_vec();
            }
        }
    };
    timeout(PATIENCE, heard).await.unwrap()
}

/// Reads so many bytes of a flow.
async fn read(flow: &mut Datagrams, count: usize) {
    let (mut read, mut room) = (0, [0; 4096]);
    while read < count {
        let mut buf = ReadBuf::new(&mut room);
        std::future::poll_fn(|cx| Pin::new(&mut *flow).poll_read(cx, &mut buf)).await.unwrap();
        read += buf.filled().len();
    }
    assert_eq!(read, count);
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

/// It's somebody else's who goes through the ports.
#[test]
fn what_came_before_a_socket_was_the_programs_is_taken_for_no_answer_of_it() {
    block_on(async {
        let (program, _echo) = echo().await;
        let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(socket2::Protocol::UDP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&loopback().into()).unwrap();
        let own = socket.local_addr().unwrap().as_socket().unwrap();
        let other = UdpSocket::bind(loopback()).await.unwrap();
        for _ in 0..3 {
            other.send_to(b"forged", own).await.unwrap();
        }
        let mut flow = connect_by(socket, program).unwrap();
        other.send_to(b"forged", own).await.unwrap();
        for question in [&b"first"[..], b"second"] {
            say(&mut flow, question).await;
            assert_eq!(hear(&mut flow).await, question);
        }
    })
    .unwrap();
}

#[test]
fn a_flow_that_was_asked_one_thing_and_answered_rests_for_less() {
    block_on(async {
        let (mut door, address) = door();
        let client = client(address).await;
        client.send(b"name?").await.unwrap();
        let (mut flow, _) = door.accept().await;
        let rests = |flow: &Datagrams, span| {
            let inbox = flow.inbox.borrow();
            inbox.rests_until(span).since(inbox.moved_at)
        };
        assert_eq!(hear(&mut flow).await, b"name?");
        assert_eq!(rests(&flow, IDLE), IDLE, "it's to be answered yet");
        say(&mut flow, b"192.0.2.1").await;
        assert_eq!(answer(&client).await, b"192.0.2.1");
        assert_eq!(rests(&flow, IDLE), ANSWERED_IDLE);
        assert_eq!(rests(&flow, ANSWERED_IDLE / 10), ANSWERED_IDLE / 10, "never longer than is said of all");
        // Whoever says more may go on.
        client.send(b"and this?").await.unwrap();
        let _door = spawn_local("door", async move { drop(door.accept().await) }).abort_on_drop();
        assert_eq!(hear(&mut flow).await, b"and this?");
        assert_eq!(rests(&flow, IDLE), IDLE);
        say(&mut flow, b"192.0.2.2").await;
        assert_eq!(rests(&flow, IDLE), IDLE);
    })
    .unwrap();
}

#[test]
fn what_programs_send_and_nobody_reads_is_kept_up_to_a_limit_over_all_their_flows() {
    const EACH: usize = 4;
    const BYTES: usize = 60_000;
    const FLOWS: usize = QUEUED_ALL_BYTES_MAX / (EACH * BYTES) + 10;
    block_on(async {
        let program = UdpSocket::bind(loopback()).await.unwrap();
        let (mut flows, mut callers) = (Vec::new(), Vec::new());
        for _ in 0..FLOWS {
            let mut flow = connect(program.local_addr().unwrap()).unwrap();
            say(&mut flow, b"more").await;
            callers.push(program.recv_from(&mut [0; 16]).await.unwrap().1);
            flows.push(flow);
        }
        let send = async |flow: &Datagrams, to: SocketAddr| {
            program.send_to(&[7; BYTES], to).await.unwrap();
            let Out::Program { socket, .. } = &flow.out else { unreachable!() };
            let taken = async {
                while ioctl_fionread(&**socket).unwrap() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, taken).await.unwrap();
        };
        for (flow, to) in flows.iter().zip(&callers) {
            for _ in 0..EACH {
                send(flow, *to).await;
            }
        }
        let most = QUEUED_ALL_BYTES_MAX / BYTES;
        let lost = usize::try_from(dropped()[Dropped::Queue as usize]).unwrap();
        assert!(lost >= FLOWS * EACH - most, "{lost} of {} were dropped, and {most} have room", FLOWS * EACH);
        // Those kept come whole; once they're read there is room again.
        for flow in &mut flows[..(FLOWS * EACH - lost) / EACH] {
            timeout(PATIENCE, read(flow, EACH * (BYTES + capsule::OVERHEAD_BYTES_MAX))).await.unwrap();
        }
        let (last, to) = (flows.last_mut().unwrap(), callers.last().unwrap());
        send(last, *to).await;
        assert!(hear(last).await == [7; BYTES]);
        assert_eq!(usize::try_from(dropped()[Dropped::Queue as usize]).unwrap(), lost);
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
        read(&mut flow, 4 * 60_006).await;
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
