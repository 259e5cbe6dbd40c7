// SPDX-License-Identifier: Apache-2.0
//! From the bytes of a query to the bytes of its answer, without any socket. The server calls it for each message
//! (RFC 1035, 2308, 6891). Whatever the bytes are, it answers or stays silent; it never panics.

use super::{ADDRESSES_MAX, Known, Names, TTL, ZONE};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::IpAddr;
use std::str::FromStr;

/// How a query came in: it bounds the size of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram: 512 bytes, or what the asker's EDNS allows up to [`UDP_BYTES_MAX`].
    Udp,
    /// A stream, with two bytes of length before each message.
    Tcp,
}

/// Largest datagram sent, in bytes: fits every path's MTU (DNS flag day 2020).
pub const UDP_BYTES_MAX: u16 = 1232;

/// Largest datagram without EDNS, in bytes (RFC 1035, 4.2.1).
const UDP_BYTES_PLAIN: u16 = 512;

/// Bytes of a message's header.
const HEADER_BYTES: usize = 12;

/// The answer to `query`. `None` if it is no query that may be answered at all: shorter than a header, or itself
/// an answer (replying to those lets two servers talk for ever).
pub fn answer(query: &[u8], names: &dyn Names, transport: Transport) -> Option<Vec<u8>> {
    let header: &[u8; HEADER_BYTES] = query.get(..HEADER_BYTES)?.try_into().ok()?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let Ok(asked) = Message::from_vec(query) else {
        return encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), UDP_BYTES_PLAIN);
    };
    let mut reply = Message::new(id, MessageType::Response, asked.metadata.op_code);
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.response_code = fill(&mut reply, &asked, names);
    let mut bytes_max = if transport == Transport::Tcp { u16::MAX } else { UDP_BYTES_PLAIN };
    if let Some(edns) = &asked.edns {
        let mut own = Edns::new();
        own.set_max_payload(UDP_BYTES_MAX);
        if edns.version() > 0 {
            reply.metadata.response_code = ResponseCode::BADVERS;
        }
        own.set_rcode_high(reply.metadata.response_code.high());
        reply.edns = Some(own);
        if transport == Transport::Udp {
            bytes_max = edns.max_payload().clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX);
        }
    }
    encode(&reply, bytes_max)
}

/// Fills in the sections; answers the code.
fn fill(reply: &mut Message, asked: &Message, names: &dyn Names) -> ResponseCode {
    if asked.metadata.op_code != OpCode::Query {
        return ResponseCode::NotImp;
    }
    let [query] = asked.queries.as_slice() else { return ResponseCode::FormErr };
    reply.queries.push(query.clone());
    if query.query_class() != DNSClass::IN {
        return ResponseCode::Refused;
    }
    let name = query.name().to_lowercase().to_ascii();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if name != ZONE && !name.strip_suffix(ZONE).is_some_and(|rest| rest.ends_with('.')) {
        return ResponseCode::Refused;
    }
    reply.metadata.authoritative = true;
    let known = if name == ZONE { Known::Addresses(Vec::new()) } else { names.lookup(name) };
    match known {
        Known::Unsure => {
            reply.metadata.authoritative = false;
            ResponseCode::ServFail
        }
        Known::Nothing => {
            reply.authorities.extend(start_of_authority());
            ResponseCode::NXDomain
        }
        Known::Addresses(addresses) => {
            reply.answers.extend(records(query, &addresses));
            if reply.answers.is_empty() {
                reply.authorities.extend(start_of_authority());
            }
            ResponseCode::NoError
        }
    }
}

fn records(query: &Query, addresses: &[IpAddr]) -> Vec<Record> {
    let wanted = |family: RecordType| matches!(query.query_type(), kind if kind == family || kind == RecordType::ANY);
    let rdata = |address: &IpAddr| match address {
        IpAddr::V4(v4) if wanted(RecordType::A) => Some(RData::A(A(*v4))),
        IpAddr::V6(v6) if wanted(RecordType::AAAA) => Some(RData::AAAA(AAAA(*v6))),
        _ => None,
    };
    let record = |rdata| Record::from_rdata(query.name().clone(), TTL, rdata);
    addresses.iter().filter_map(rdata).take(ADDRESSES_MAX).map(record).collect()
}

/// Says how long an absence may be kept (RFC 2308, 3).
fn start_of_authority() -> Option<Record> {
    let zone = Name::from_str("mesh.").ok()?;
    let (server, person) = (Name::from_str("dns.byrnie.mesh.").ok()?, Name::from_str("byrnie.mesh.").ok()?);
    let seconds = TTL.cast_signed();
    let soa = SOA::new(server, person, 1, seconds, seconds, seconds, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

/// The message in at most `bytes_max` bytes: if it doesn't fit, no records and the flag that says so, on which
/// the asker comes back over TCP.
fn encode(message: &Message, bytes_max: u16) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= usize::from(bytes_max) {
        return Some(bytes);
    }
    message.truncate().to_vec().ok()
}
