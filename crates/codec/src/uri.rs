// SPDX-License-Identifier: Apache-2.0
//! The canonical form of paths and hosts: the one form that routing, access, logs and forwarding
//! share, so that no two of them can read a request in two ways. [`crate::Head`] holds nothing else.
//!
//! Path: percent-encoded unreserved bytes are decoded, other encodings get upper-case digits, bytes
//! that RFC 3986 doesn't allow are encoded, `//` becomes `/`, dot segments are resolved (never above
//! the root). Encoded slashes, backslashes, NUL and `..;x` are refused; `;` and double encodings
//! (`%252F`) stay as they are. Query: as it came, but that `"<>` are encoded.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::reject::RejectReason;

/// Longest host name in bytes (RFC 1035 2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// Longest label of a host name in bytes (RFC 1035 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Appends the canonical form of `input` (empty: `/`) to `out`, which must be empty, and tells how
/// many of its bytes are the path; a `?` and the query follow.
///
/// # Errors
/// If `input` isn't an absolute path with an optional query, or can be read in more than one way.
pub fn path_and_query(input: &[u8], out: &mut String) -> Result<usize, RejectReason> {
    let plain = plain_prefix(input);
    let (path, query) = match input[plain..].iter().position(|&b| b == b'?') {
        Some(at) => (&input[..plain + at], Some(&input[plain + at + 1..])),
        None => (input, None),
    };
    canonical_path(path, plain, out)?;
    let path_len = out.len();
    if let Some(query) = query {
        out.push('?');
        push_query(query, out)?;
    }
    Ok(path_len)
}

/// The canonical form of a path alone, for those who compare against one (route and policy matches).
///
/// # Errors
/// If it isn't an absolute path, or can be read in more than one way.
pub fn path(input: &str) -> Result<String, RejectReason> {
    let mut out = String::with_capacity(input.len());
    if input.contains('?') {
        return Err(RejectReason::Path);
    }
    canonical_path(input.as_bytes(), plain_prefix(input.as_bytes()), &mut out)?;
    Ok(out)
}

/// Appends the canonical form of `path`, whose first `plain` bytes are known to be canonical.
fn canonical_path(path: &[u8], plain: usize, out: &mut String) -> Result<(), RejectReason> {
    if path.is_empty() {
        out.push('/');
        return Ok(());
    }
    if path[0] != b'/' {
        return Err(RejectReason::Path);
    }
    match std::str::from_utf8(path) {
        Ok(text) if plain >= path.len() => out.push_str(text),
        _ => rewrite(path, out)?,
    }
    Ok(())
}

/// How many bytes at the start are canonical already, as nearly always the whole path is.
fn plain_prefix(path: &[u8]) -> usize {
    let mut rest = path;
    while let Some((&b, after)) = rest.split_first() {
        if !PLAIN[b as usize] || (b == b'/' && matches!(after.first(), Some(b'/' | b'.'))) {
            break;
        }
        rest = after;
    }
    path.len() - rest.len()
}

/// Bytes that stand for themselves in a canonical path (RFC 3986 `pchar` without `%`, and `/`).
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = is_unreserved(b as u8)
            || matches!(
                b as u8,
                b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/'
            );
        b += 1;
    }
    table
};

const fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// Appends the canonical form of a path that isn't canonical. First every byte is put into its one
/// spelling, then segments are resolved: the other order would miss `%2e%2e`.
fn rewrite(path: &[u8], out: &mut String) -> Result<(), RejectReason> {
    let mut segment = String::new();
    let mut rest = path;
    let mut ends_open = false;
    while let Some(after) = rest.strip_prefix(b"/") {
        let len = after.iter().position(|&b| b == b'/').unwrap_or(after.len());
        segment.clear();
        spell(&after[..len], &mut segment)?;
        rest = &after[len..];
        ends_open = push_segment(&segment, out)?;
    }
    if ends_open || out.is_empty() {
        out.push('/');
    }
    Ok(())
}

/// Appends `/segment`, or resolves it. True if the path would end in a slash if it ended here.
fn push_segment(segment: &str, out: &mut String) -> Result<bool, RejectReason> {
    let (name, has_parameters) = match segment.split_once(';') {
        Some((name, _)) => (name, true),
        None => (segment, false),
    };
    match name {
        "." | ".." if has_parameters => return Err(RejectReason::AmbiguousPath),
        // An empty segment: the slashes around it merge.
        "" if !has_parameters => {}
        "." => {}
        ".." => out.truncate(out.rfind('/').unwrap_or(0)),
        _ => {
            out.push('/');
            out.push_str(segment);
            return Ok(false);
        }
    }
    Ok(true)
}

/// Appends the bytes of one segment in their one spelling.
fn spell(segment: &[u8], out: &mut String) -> Result<(), RejectReason> {
    let mut i = 0;
    while i < segment.len() {
        let b = segment[i];
        i += 1;
        if PLAIN[b as usize] {
            out.push(b as char);
            continue;
        }
        match b {
            b'%' => {
                let decoded = decode(&segment[i..])?;
                i += 2;
                match decoded {
                    b'/' | b'\\' | 0 => return Err(RejectReason::AmbiguousPath),
                    b if is_unreserved(b) => out.push(b as char),
                    b => push_encoded(b, out),
                }
            }
            b'\\' => return Err(RejectReason::AmbiguousPath),
            b'#' => return Err(RejectReason::Fragment),
            0x21..=0x7e => push_encoded(b, out),
            _ => return Err(RejectReason::Path),
        }
    }
    Ok(())
}

/// The byte that two hexadecimal digits at the start of `digits` stand for.
fn decode(digits: &[u8]) -> Result<u8, RejectReason> {
    match digits {
        [high, low, ..] => match (hex(*high), hex(*low)) {
            (Some(high), Some(low)) => Ok(high << 4 | low),
            _ => Err(RejectReason::PercentEncoding),
        },
        _ => Err(RejectReason::PercentEncoding),
    }
}

pub(crate) const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn push_encoded(b: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(DIGITS[(b >> 4) as usize] as char);
    out.push(DIGITS[(b & 15) as usize] as char);
}

fn push_query(query: &[u8], out: &mut String) -> Result<(), RejectReason> {
    let mut encodes = false;
    for &b in query {
        if PLAIN[b as usize] {
            continue;
        }
        match b {
            b'#' => return Err(RejectReason::Fragment),
            b'"' | b'<' | b'>' => encodes = true,
            0x21..=0x7e => {}
            _ => return Err(RejectReason::Path),
        }
    }
    match std::str::from_utf8(query) {
        Ok(text) if !encodes => out.push_str(text),
        _ => query.iter().for_each(|&b| match b {
            b'"' | b'<' | b'>' => push_encoded(b, out),
            _ => out.push(b as char),
        }),
    }
    Ok(())
}

/// Appends the canonical form of `host[:port]` to `out`, which must be empty: lower case, without a
/// trailing dot, without an empty port, IPv6 addresses in their shortest spelling.
///
/// # Errors
/// If it isn't a host name (letters, digits, `-`, `_`, `.`), an IPv4 or a bracketed IPv6 address with
/// an optional port from 1 to 65535. Percent-encoding and zone ids, which RFC 3986 allows, are refused.
pub fn authority(input: &[u8], out: &mut String) -> Result<(), RejectReason> {
    let Ok(text) = std::str::from_utf8(input) else {
        return Err(RejectReason::Host);
    };
    // The end of an IPv6 address, else of a name: both borders are ASCII.
    let (border, after) = if input.first() == Some(&b'[') { (b']', 1) } else { (b':', 0) };
    let end = match input.iter().position(|&b| b == border) {
        Some(at) => at + after,
        None if after == 1 => return Err(RejectReason::Host),
        None => input.len(),
    };
    let (host, port) = text.split_at(end);
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => {
            let address: Ipv6Addr = address.parse().map_err(|_| RejectReason::Host)?;
            // Writing to a String can't fail.
            let _ = write!(out, "[{address}]");
        }
        None => host_name(host, out)?,
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        None => Err(RejectReason::Host),
        Some("") => Ok(()),
        Some(digits) => {
            let port = port_number(digits)?;
            let _ = write!(out, ":{port}");
            Ok(())
        }
    }
}

fn port_number(digits: &str) -> Result<u16, RejectReason> {
    if digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RejectReason::Host);
    }
    match digits.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(RejectReason::Host),
    }
}

fn host_name(host: &str, out: &mut String) -> Result<(), RejectReason> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return Err(RejectReason::Host);
    }
    let mut label = 0usize;
    for b in host.bytes() {
        label = match b {
            _ if HOST[b as usize] => label + 1,
            b'.' if label > 0 && label <= LABEL_BYTES_MAX => 0,
            b'@' => return Err(RejectReason::Userinfo),
            _ => return Err(RejectReason::Host),
        };
    }
    // `..` at the end: the dot that was cut left another one.
    if label == 0 || label > LABEL_BYTES_MAX {
        return Err(RejectReason::Host);
    }
    out.push_str(host);
    out.make_ascii_lowercase();
    Ok(())
}

/// Bytes of a label of a host name.
const HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = (b as u8).is_ascii_alphanumeric() || matches!(b as u8, b'-' | b'_');
        b += 1;
    }
    table
};

/// Splits a canonical authority into host and port.
pub fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// The IP address that a canonical host is, if it is one.
pub fn address(host: &str) -> Option<std::net::IpAddr> {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(Into::into),
        None => host.parse::<Ipv4Addr>().ok().map(Into::into),
    }
}

#[cfg(test)]
mod tests;
