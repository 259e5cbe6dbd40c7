// SPDX-License-Identifier: Apache-2.0
//! Answers byte by byte, and over real sockets on loopback.

use super::server::{REMOTE_ANSWERS_PER_SECOND, Rate, STREAMS_MAX};
use super::*;
use crate::listen::Ports;
use crate::runtime::{block_on, shutdown, spawn, timeout};
use byrnie_base::{Instant, Rng};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A mesh of three names.
struct Mesh;

impl Names for Mesh {
    fn lookup(&self, name: &str) -> Known {
        match name {
            "web.default.mesh" => Known::Addresses(vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]),
            "big.default.mesh" => {
                Known::Addresses((0..200).map(|at| IpAddr::from([10, 0, 1, u8::try_from(at).unwrap()])).collect())
            }
            "later.default.mesh" => Known::Unsure,
            _ => Known::Nothing,
        }
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(message: &Message, transport: Transport) -> Message {
    Message::from_vec(&answer(&message.to_vec().unwrap(), &Mesh, transport).unwrap()).unwrap()
}

#[track_caller]
fn check(name: &str, kind: RecordType, code: ResponseCode, answers: &[&str]) {
    let reply = ask(&query(name, kind), Transport::Udp);
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (4711, MessageType::Response));
    assert_eq!(reply.metadata.response_code, code, "{name} {kind}");
    let data: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, answers, "{name} {kind}");
    let absent = matches!(code, ResponseCode::NXDomain) || (code == ResponseCode::NoError && answers.is_empty());
    assert_eq!(reply.authorities.len(), usize::from(absent), "{name} {kind}");
    assert!(reply.answers.iter().all(|record| record.ttl == TTL));
}

#[test]
fn names_are_answered_by_what_is_known() {
    use ResponseCode as R;
    check("web.default.mesh.", RecordType::A, R::NoError, &["10.0.0.1"]);
    check("web.default.mesh.", RecordType::AAAA, R::NoError, &["fd00::1"]);
    check("web.default.mesh.", RecordType::ANY, R::NoError, &["10.0.0.1", "fd00::1"]);
    check("WEB.Default.Mesh.", RecordType::A, R::NoError, &["10.0.0.1"]);
    check("web.default.mesh.", RecordType::MX, R::NoError, &[]);
    check("big.default.mesh.", RecordType::AAAA, R::NoError, &[]);
    check("mesh.", RecordType::A, R::NoError, &[]);
    check("cart.default.mesh.", RecordType::A, R::NXDomain, &[]);
    check("later.default.mesh.", RecordType::A, R::ServFail, &[]);
    check("example.com.", RecordType::A, R::Refused, &[]);
    check("web.default.xmesh.", RecordType::A, R::Refused, &[]);
    check(".", RecordType::A, R::Refused, &[]);
}

#[test]
fn the_case_of_the_question_is_kept() {
    let reply = ask(&query("wEb.deFault.mesh.", RecordType::A), Transport::Udp);
    assert_eq!(reply.queries[0].name().to_ascii(), "wEb.deFault.mesh.");
    assert!(reply.metadata.authoritative && reply.metadata.recursion_desired && !reply.metadata.recursion_available);
}

#[test]
fn other_classes_operations_and_counts_are_refused() {
    let mut chaos = query("web.default.mesh.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask(&chaos, Transport::Udp).metadata.response_code, ResponseCode::Refused);
    let mut notify = query("web.default.mesh.", RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(ask(&notify, Transport::Udp).metadata.response_code, ResponseCode::NotImp);
    let mut two = query("web.default.mesh.", RecordType::A);
    two.queries.push(two.queries[0].clone());
    assert_eq!(ask(&two, Transport::Udp).metadata.response_code, ResponseCode::FormErr);
    let none = Message::new(1, MessageType::Query, OpCode::Query);
    assert_eq!(ask(&none, Transport::Udp).metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn an_answer_too_large_for_a_datagram_is_truncated() {
    let mut big = query("big.default.mesh.", RecordType::A);
    let reply = ask(&big, Transport::Udp);
    assert!(reply.metadata.truncation && reply.answers.is_empty());
    let reply = ask(&big, Transport::Tcp);
    assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, ADDRESSES_MAX));
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    big.set_edns(edns);
    let bytes = answer(&big.to_vec().unwrap(), &Mesh, Transport::Udp).unwrap();
    assert!(bytes.len() <= usize::from(UDP_BYTES_MAX));
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, ADDRESSES_MAX));
    assert_eq!(reply.edns.unwrap().max_payload(), UDP_BYTES_MAX);
}

#[test]
fn an_unknown_version_of_edns_is_named() {
    let mut asked = query("web.default.mesh.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    asked.set_edns(edns);
    // The number has two names: BADSIG where there is a signature, BADVERS where there is EDNS.
    assert_eq!(u16::from(ask(&asked, Transport::Udp).metadata.response_code), u16::from(ResponseCode::BADVERS));
}

#[test]
fn answers_and_scraps_are_met_with_silence() {
    let mut reply = query("web.default.mesh.", RecordType::A);
    reply.metadata.message_type = MessageType::Response;
    assert_eq!(answer(&reply.to_vec().unwrap(), &Mesh, Transport::Udp), None);
    for length in 0..12 {
        assert_eq!(answer(&[0; 12][..length], &Mesh, Transport::Udp), None);
    }
    let malformed = answer(&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0], &Mesh, Transport::Udp).unwrap();
    let malformed = Message::from_vec(&malformed).unwrap();
    assert_eq!((malformed.metadata.id, malformed.metadata.response_code), (7, ResponseCode::FormErr));
}

#[test]
fn no_bytes_make_it_panic() {
    let mut rng = Rng::new(53);
    let mut edns = Edns::new();
    edns.set_max_payload(1400);
    let mut seed = query("web.default.mesh.", RecordType::A);
    seed.set_edns(edns);
    let seed = seed.to_vec().unwrap();
    for round in 0..40_000 {
        let mut bytes = seed.clone();
        if round % 4 == 0 {
            bytes = (0..rng.below(80)).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
        }
        for _ in 0..=rng.below(6) {
            if !bytes.is_empty() {
                let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
                bytes[at] = u8::try_from(rng.below(256)).unwrap();
            }
        }
        bytes.truncate(usize::try_from(rng.below(bytes.len() as u64 + 20)).unwrap());
        let transport = if rng.percent(50) { Transport::Udp } else { Transport::Tcp };
        if let Some(reply) = answer(&bytes, &Mesh, transport) {
            assert!(reply.len() >= 12 && reply[2] & 0x80 != 0);
            assert!(transport == Transport::Tcp || reply.len() <= usize::from(UDP_BYTES_MAX));
        }
    }
}

#[test]
fn both_sockets_answer() {
    block_on(async {
        let server = bind("127.0.0.1:0".parse().unwrap(), Ports::Strict).unwrap();
        let address = server.local_addr();
        let (trigger, stop) = shutdown();
        let task = spawn("dns", async move { serve(server, Arc::new(Mesh), stop).await.unwrap() });
        let asked = query("web.default.mesh.", RecordType::A).to_vec().unwrap();
        let exchange = async {
            let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let mut reply = [0; 1500];
            // Scraps before it change nothing.
            udp.send_to(b"x", address).await.unwrap();
            udp.send_to(&asked, address).await.unwrap();
            let length = udp.recv(&mut reply).await.unwrap();
            assert_eq!(Message::from_vec(&reply[..length]).unwrap().answers.len(), 1);
            let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            for _ in 0..3 {
                tcp.write_u16(u16::try_from(asked.len()).unwrap()).await.unwrap();
                tcp.write_all(&asked).await.unwrap();
                let length = usize::from(tcp.read_u16().await.unwrap());
                tcp.read_exact(&mut reply[..length]).await.unwrap();
                assert_eq!(Message::from_vec(&reply[..length]).unwrap().answers.len(), 1);
            }
            // An answer instead of a query ends the stream.
            tcp.write_all(&[0, 12, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
            assert_eq!(tcp.read(&mut reply).await.unwrap_or(0), 0);
        };
        timeout(Duration::from_secs(20), exchange).await.unwrap();
        trigger.fire();
        task.ended().await;
    })
    .unwrap();
}

#[test]
fn streams_beyond_the_cap_are_closed() {
    block_on(async {
        let server = bind("127.0.0.1:0".parse().unwrap(), Ports::Strict).unwrap();
        let address = server.local_addr();
        let (_trigger, stop) = shutdown();
        spawn("dns", async move { serve(server, Arc::new(Mesh), stop).await.unwrap() });
        let crowd = async {
            let mut held = Vec::new();
            for _ in 0..STREAMS_MAX {
                held.push(tokio::net::TcpStream::connect(address).await.unwrap());
            }
            let mut late = tokio::net::TcpStream::connect(address).await.unwrap();
            assert_eq!(late.read(&mut [0; 1]).await.unwrap_or(0), 0);
        };
        timeout(Duration::from_secs(20), crowd).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_busy_port_is_refused_or_the_next_one_taken() {
    let first = bind("127.0.0.1:0".parse().unwrap(), Ports::Strict).unwrap();
    let refused = bind(first.local_addr(), Ports::Strict).unwrap_err();
    assert_eq!(refused.address, first.local_addr());
    let next = bind(first.local_addr(), Ports::Next).unwrap();
    assert!(next.local_addr().port() > first.local_addr().port());
}

#[test]
fn the_rate_bounds_each_second() {
    let mut rate = Rate::new(REMOTE_ANSWERS_PER_SECOND);
    let at = |millis: u64| Instant::from_nanos(1_000_000_000 + millis * 1_000_000);
    let taken = (0..10_000).filter(|_| rate.take(at(1))).count();
    assert_eq!(taken, REMOTE_ANSWERS_PER_SECOND as usize);
    assert!(!rate.take(at(999)));
    assert!(rate.take(at(1001)));
}
