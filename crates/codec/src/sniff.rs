// SPDX-License-Identifier: Apache-2.0
//! What a client speaks, told from its first bytes, and whom it asks for, told from a TLS
//! ClientHello. Listeners peek with it. It decides as soon as it can, and the listener must not wait
//! for bytes of a protocol whose server speaks first: no answer is needed to connect upstream then.

use crate::fields::is_token_byte;

/// Most bytes that [`sniff`] ever asks for: the preface of HTTP/2 is the longest thing it must see.
pub const BYTES_MAX: usize = PREFACE.len();

/// How a client of HTTP/2 begins (RFC 9113 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// It can't be told yet; more bytes are needed.
    NeedMore,
    /// An HTTP/1 request.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS handshake.
    Tls,
    /// Something else: an opaque stream.
    Other,
}

/// Methods by which HTTP/1 is recognised; a request with another one is an opaque stream to a port
/// whose protocol isn't declared.
const METHODS: &[&[u8]] =
    &[b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// Tells what `bytes`, the first of a connection, begin.
pub fn sniff(bytes: &[u8]) -> Sniff {
    match bytes {
        [] => return Sniff::NeedMore,
        // A handshake record: type 22, version 3.x, and within it a ClientHello (type 1).
        [0x16] | [0x16, 0x03] => return Sniff::NeedMore,
        [0x16, 0x03, 0..=4, rest @ ..] => {
            return match rest {
                [_, _, 1, ..] => Sniff::Tls,
                [_, _, _, ..] => Sniff::Other,
                _ => Sniff::NeedMore,
            };
        }
        _ => {}
    }
    // One empty line before a request is allowed.
    let request = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) {
        return Sniff::Http2;
    }
    if METHODS.iter().any(|method| request.starts_with(method)) {
        return Sniff::Http1;
    }
    let begins = |whole: &[u8]| whole.starts_with(bytes);
    let may_be_request = matches!(bytes, b"\r") || METHODS.iter().any(|method| method.starts_with(request));
    if begins(PREFACE) || may_be_request { Sniff::NeedMore } else { Sniff::Other }
}

/// Most bytes that [`opening`] is asked about: no server takes a longer request line.
pub const OPENING_BYTES_MAX: usize = 64 * 1024;

/// What bytes that shall not be a request begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It can't be told yet; more bytes are needed.
    NeedMore,
    /// No request that any specification knows, so nobody need wait for more. A lenient server might still take its first line for one:
    /// what follows is asked of [`FirstLine::read`] before it passes.
    Unlikely(FirstLine),
    /// Nothing that a server of HTTP could take for a request with header lines.
    Opaque,
    /// A request line, or what a lenient server might take for one.
    Request,
}

/// Tells whether the first line could be one of HTTP, whatever its method, and however leniently it is read: blank lines before it are passed
/// over, words are of any bytes and apart by anything that any language takes for a blank, and the version is wherever `HTTP/` is. Unlike
/// [`sniff`] it never guesses: bytes are opaque once they can't be HTTP.
pub fn opening(bytes: &[u8]) -> Opening {
    // As Unicode's `White_Space` in Latin-1, and what Python's `str.split` adds.
    let is_blank = |b: &u8| matches!(b, b'\t'..=b'\r' | 0x1c..=0x20 | 0x85 | 0xa0);
    let Some(begin) = bytes.iter().position(|b| !is_blank(b)) else {
        return if bytes.len() < OPENING_BYTES_MAX { Opening::NeedMore } else { Opening::Request };
    };
    let line = &bytes[begin..];
    let word = line.iter().position(|b| !is_token_byte(*b)).unwrap_or(line.len());
    if word == 0 || line.get(word).is_some_and(|b| !is_blank(b)) {
        return FirstLine { is_tls: line[0] == 0x16, ..FirstLine::default() }.read(line);
    }
    let end = line.iter().position(|b| *b == b'\n');
    let seen = &line[..end.unwrap_or(line.len())];
    // A line without a version is one of HTTP/0.9, and there are servers that read header lines even so. Of one word it's none: a frame of
    // STOMP begins with a lone `CONNECT`.
    let is_method = METHODS.iter().any(|method| method.strip_suffix(b" ") == Some(&line[..word]));
    if is_method && seen[word.min(seen.len())..].iter().any(|b| !is_blank(b)) {
        return Opening::Request;
    }
    if seen.windows(5).any(|window| window.eq_ignore_ascii_case(b"HTTP/")) {
        return Opening::Request;
    }
    match end {
        Some(_) => Opening::Opaque,
        None if bytes.len() < OPENING_BYTES_MAX => Opening::NeedMore,
        None => Opening::Request,
    }
}

/// A first line that begins as no request does, looked through while it passes. It may be of any length, as nothing of it is kept: what has
/// passed before its version and its end is no request to anybody yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstLine {
    /// The last eight bytes, the newest lowest.
    last: u64,
    /// Whether it has more than blanks and control characters, of which some servers strip a line: an empty one is passed over.
    has_begun: bool,
    is_tls: bool,
}

impl FirstLine {
    /// What all that has come begins, now that `bytes` have as well: never [`Opening::NeedMore`].
    pub fn read(mut self, bytes: &[u8]) -> Opening {
        /// In a ClientHello it stands behind its length (RFC 7301 3.1), in no request: that is no blank to anybody.
        const ALPN: u64 = u64::from_be_bytes(*b"\0\0\x08http/");
        const VERSION: u64 = u64::from_be_bytes(*b"\0\0\0http/");
        const LOWER: u64 = u64::from_be_bytes([0, 0, 0, 0x20, 0x20, 0x20, 0x20, 0]);
        for byte in bytes {
            if *byte == b'\n' && self.has_begun {
                return Opening::Opaque;
            }
            self.has_begun |= *byte > b' ';
            self.last = self.last << 8 | u64::from(*byte);
            let is_version = (self.last | LOWER) & 0xff_ffff_ffff == VERSION;
            if is_version && !(self.is_tls && self.last & 0xffff_ffff_ffff == ALPN) {
                return Opening::Request;
            }
        }
        Opening::Unlikely(self)
    }
}

/// What a ClientHello says of the name it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// The hello isn't whole yet.
    NeedMore,
    /// It is whole and names no server.
    Absent,
    /// It asks for this name, in lower case and without a trailing dot.
    Name(String),
    /// It isn't a ClientHello, is larger than 16 KiB, or its name isn't a host name.
    Malformed,
}

/// Most bytes of a ClientHello that are looked at. The largest common ones, with a post-quantum key
/// share, take 2 KiB.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;

/// The server name (SNI) in the ClientHello that `bytes` begin with (RFC 8446 4.1.2, RFC 6066 3). The
/// bytes are only looked at: TLS reads them again.
pub fn server_name(bytes: &[u8]) -> ServerName {
    match hello(bytes) {
        Ok(Some(hello)) => name_in(&hello).unwrap_or(ServerName::Malformed),
        Ok(None) if bytes.len() >= HELLO_BYTES_MAX => ServerName::Malformed,
        Ok(None) => ServerName::NeedMore,
        Err(Malformed) => ServerName::Malformed,
    }
}

/// How many bytes there must be until [`server_name`], which wants more than these, may say something else: up to the end of the record that
/// they break off in, or of its header.
pub fn hello_bytes_wanted(bytes: &[u8]) -> usize {
    const HEADER_BYTES: usize = 5;
    let mut end = 0;
    while end <= bytes.len() {
        end += match bytes[end..].first_chunk::<HEADER_BYTES>() {
            Some(&[_, _, _, high, low]) => HEADER_BYTES + (usize::from(high) << 8 | usize::from(low)),
            None => HEADER_BYTES,
        };
    }
    end.min(HELLO_BYTES_MAX)
}

struct Malformed;

/// The body of the ClientHello, put together from the records it came in; `None` if it isn't whole.
fn hello(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut message = Vec::new();
    loop {
        let wanted = match message.first_chunk::<4>() {
            Some(&[1, a, b, c]) => 4 + (usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)),
            Some(_) => return Err(Malformed),
            None => 4,
        };
        if wanted > HELLO_BYTES_MAX {
            return Err(Malformed);
        }
        if message.len() >= wanted && wanted > 4 {
            message.truncate(wanted);
            message.drain(..4);
            return Ok(Some(message));
        }
        let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<5>() else {
            return if bytes.first().is_some_and(|kind| *kind != 0x16) { Err(Malformed) } else { Ok(None) };
        };
        let len = usize::from(high) << 8 | usize::from(low);
        // RFC 8446 5.1: no empty handshake records, none above 2^14.
        if kind != 0x16 || major != 3 || len == 0 || len > 1 << 14 {
            return Err(Malformed);
        }
        let fragment = &bytes[5..];
        message.extend_from_slice(&fragment[..len.min(fragment.len())]);
        bytes = fragment.get(len..).unwrap_or_default();
    }
}

/// A reader of vectors with a length before them; `None` where they don't fit.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    fn vector(&mut self, length_bytes: usize) -> Option<Self> {
        let len = self.number(length_bytes)?;
        self.take(len).map(Cursor)
    }
}

fn name_in(hello: &[u8]) -> Option<ServerName> {
    let mut hello = Cursor(hello);
    hello.take(2 + 32)?; // legacy version, random
    hello.vector(1)?; // session id
    hello.vector(2)?; // cipher suites
    hello.vector(1)?; // compression methods
    if hello.0.is_empty() {
        return Some(ServerName::Absent);
    }
    let mut extensions = hello.vector(2)?;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let mut body = extensions.vector(2)?;
        if kind != 0 {
            continue;
        }
        let mut names = body.vector(2)?;
        // The only kind of name there is (RFC 6066 3): host_name.
        if names.number(1)? != 0 {
            return None;
        }
        let name = names.vector(2)?.0;
        let mut host = String::new();
        crate::uri::authority(name, &mut host).ok()?;
        // A literal address or a port is no name.
        return if host.contains(':') { None } else { Some(ServerName::Name(host)) };
    }
    Some(ServerName::Absent)
}

#[cfg(test)]
mod tests;
