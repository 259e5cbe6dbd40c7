// SPDX-License-Identifier: Apache-2.0
//! The PROXY protocol, versions 1 and 2: who a connection really comes from, told by a balancer in
//! front. A listener reads it only where its configuration says that the peer may speak it, and then
//! always: it is never guessed. Also written, for programs that want to know (haproxy.org,
//! proxy-protocol.txt).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Parsed;
use crate::reject::{Reject, RejectReason};

/// How a version 2 header begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest version 1 header with its CRLF, in bytes (proxy-protocol.txt 2.1).
const LINE_BYTES_MAX: usize = 107;
/// Longest version 2 header that is accepted, in bytes; the length field allows 64 KiB, addresses and
/// customary TLVs take less than 1 KiB.
const HEADER_BYTES_MAX: usize = 4096;

/// Who a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The balancer itself (a health check), or a family that is not told: the socket's own addresses count.
    Local,
    /// A client: its address, and the one it connected to.
    Proxied {
        /// Where the client connected from.
        client: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
}

/// Parses the header that `bytes` begin with, of either version; tells what was used.
///
/// # Errors
/// If it isn't a PROXY header, is malformed, or larger than 4 KiB.
pub fn parse(bytes: &[u8]) -> Result<(Parsed, Source), Reject> {
    let parsed = match bytes {
        [b'P', ..] => parse_line(bytes),
        _ => parse_binary(bytes),
    };
    match parsed {
        Some(Some((used, source))) => Ok((Parsed::Complete(used), source)),
        Some(None) => Ok((Parsed::Partial, Source::Local)),
        None => Err(RejectReason::ProxyHeader.into()),
    }
}

/// What a parser found: nothing wrong but not whole, or (bytes used, source). `None` outside is an error.
type Found = Option<Option<(usize, Source)>>;

/// `PROXY TCP4 192.0.2.1 192.0.2.2 1234 80 CRLF`.
fn parse_line(bytes: &[u8]) -> Found {
    const START: &[u8] = b"PROXY ";
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    if !seen.starts_with(&START[..seen.len().min(START.len())]) {
        return None;
    }
    let Some(end) = seen.iter().position(|&b| b == b'\n') else {
        return if bytes.len() >= LINE_BYTES_MAX { None } else { Some(None) };
    };
    let line = std::str::from_utf8(seen[..end].strip_suffix(b"\r")?).ok()?;
    let mut words = line.get(START.len()..)?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What follows is to be ignored up to the end of the line.
        return Some(Some((end + 1, Source::Local)));
    }
    let (client, destination) = (words.next()?, words.next()?);
    let (client_port, destination_port) = (decimal_port(words.next()?)?, decimal_port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let client = SocketAddr::new(address(client)?, client_port);
    let destination = SocketAddr::new(address(destination)?, destination_port);
    Some(Some((end + 1, Source::Proxied { client, destination })))
}

/// Decimal without leading zeros or signs.
fn decimal_port(text: &str) -> Option<u16> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    if canonical { text.parse().ok() } else { None }
}

fn parse_binary(bytes: &[u8]) -> Found {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] {
        return None;
    }
    let Some(start) = bytes.first_chunk::<16>() else { return Some(None) };
    let (version, command, family) = (start[12] >> 4, start[12] & 15, start[13]);
    let length = usize::from(u16::from_be_bytes([start[14], start[15]]));
    let used = 16 + length;
    if version != 2 || command > 1 || used > HEADER_BYTES_MAX {
        return None;
    }
    let Some(body) = bytes.get(16..used) else { return Some(None) };
    let (source, addresses) = match (command, family) {
        // LOCAL: whatever the family says is to be ignored.
        (0, _) => return Some(Some((used, Source::Local))),
        (_, 0x11) => (v4(body.first_chunk()?), 12),
        (_, 0x21) => (v6(body.first_chunk()?), 36),
        // Datagrams and unix sockets carry no connection of ours; UNSPEC tells nothing.
        (_, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => return Some(Some((used, Source::Local))),
        _ => return None,
    };
    if !tlvs_fit(&body[addresses..]) {
        return None;
    }
    Some(Some((used, source)))
}

fn v4(b: &[u8; 12]) -> Source {
    let ip = |at: usize| IpAddr::from([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    Source::Proxied {
        client: SocketAddr::new(ip(0), u16::from_be_bytes([b[8], b[9]])),
        destination: SocketAddr::new(ip(4), u16::from_be_bytes([b[10], b[11]])),
    }
}

fn v6(b: &[u8; 36]) -> Source {
    let ip = |at: usize| {
        let mut octets = [0u8; 16];
        octets.copy_from_slice(&b[at..at + 16]);
        IpAddr::from(octets)
    };
    Source::Proxied {
        client: SocketAddr::new(ip(0), u16::from_be_bytes([b[32], b[33]])),
        destination: SocketAddr::new(ip(16), u16::from_be_bytes([b[34], b[35]])),
    }
}

/// True if type-length-values fill what is left exactly: one that reaches beyond would take bytes of
/// the request for its own (CVE-2026-47692 in another proxy). Their contents are not used.
fn tlvs_fit(mut rest: &[u8]) -> bool {
    while let Some(&[_, high, low]) = rest.first_chunk::<3>() {
        let length = 3 + usize::from(u16::from_be_bytes([high, low]));
        match rest.get(length..) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Appends a version 1 header. Addresses of different families can't be told: `UNKNOWN` is written.
pub fn emit_v1(source: &Source, out: &mut Vec<u8>) {
    let line = match source {
        Source::Proxied { client, destination } if client.is_ipv4() == destination.is_ipv4() => format!(
            "PROXY {} {} {} {} {}\r\n",
            if client.is_ipv4() { "TCP4" } else { "TCP6" },
            client.ip(),
            destination.ip(),
            client.port(),
            destination.port()
        ),
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    };
    out.extend_from_slice(line.as_bytes());
}

/// Appends a version 2 header without TLVs. Addresses of different families are told as LOCAL.
pub fn emit_v2(source: &Source, out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    match source {
        Source::Proxied { client, destination } => match (client.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend_from_slice(&[0x21, 0x11, 0, 12]);
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                out.extend_from_slice(&[0x21, 0x21, 0, 36]);
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
            }
            _ => return out.extend_from_slice(&[0x20, 0, 0, 0]),
        },
        Source::Local => return out.extend_from_slice(&[0x20, 0, 0, 0]),
    }
    if let Source::Proxied { client, destination } = source {
        out.extend_from_slice(&client.port().to_be_bytes());
        out.extend_from_slice(&destination.port().to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
