// SPDX-License-Identifier: Apache-2.0
//! Compression of header lines (RFC 9204) by the table that never changes alone: what is written is read without
//! anything that came before, and a block that refers to more than was offered can't be read.

use crate::fields::Fields;
use crate::h2::hpack::{Broken, Line, Named, huffman, is_clean, read_integer, write_integer};
use crate::h2::message::{self, Blocks};
use crate::head::Head;
use crate::known::Known;
use std::ops::Range;

/// RFC 9204 appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 99] = [
    (":authority", ""), (":path", "/"), ("age", "0"), ("content-disposition", ""), ("content-length", "0"),
    ("cookie", ""), ("date", ""), ("etag", ""), ("if-modified-since", ""), ("if-none-match", ""),
    ("last-modified", ""), ("link", ""), ("location", ""), ("referer", ""), ("set-cookie", ""),
    (":method", "CONNECT"), (":method", "DELETE"), (":method", "GET"), (":method", "HEAD"), (":method", "OPTIONS"),
    (":method", "POST"), (":method", "PUT"), (":scheme", "http"), (":scheme", "https"), (":status", "103"),
    (":status", "200"), (":status", "304"), (":status", "404"), (":status", "503"), ("accept", "*/*"),
    ("accept", "application/dns-message"), ("accept-encoding", "gzip, deflate, br"), ("accept-ranges", "bytes"),
    ("access-control-allow-headers", "cache-control"), ("access-control-allow-headers", "content-type"),
    ("access-control-allow-origin", "*"), ("cache-control", "max-age=0"), ("cache-control", "max-age=2592000"),
    ("cache-control", "max-age=604800"), ("cache-control", "no-cache"), ("cache-control", "no-store"),
    ("cache-control", "public, max-age=31536000"), ("content-encoding", "br"), ("content-encoding", "gzip"),
    ("content-type", "application/dns-message"), ("content-type", "application/javascript"),
    ("content-type", "application/json"), ("content-type", "application/x-www-form-urlencoded"),
    ("content-type", "image/gif"), ("content-type", "image/jpeg"), ("content-type", "image/png"),
    ("content-type", "text/css"), ("content-type", "text/html; charset=utf-8"), ("content-type", "text/plain"),
    ("content-type", "text/plain;charset=utf-8"), ("range", "bytes=0-"),
    ("strict-transport-security", "max-age=31536000"),
    ("strict-transport-security", "max-age=31536000; includesubdomains"),
    ("strict-transport-security", "max-age=31536000; includesubdomains; preload"), ("vary", "accept-encoding"),
    ("vary", "origin"), ("x-content-type-options", "nosniff"), ("x-xss-protection", "1; mode=block"),
    (":status", "100"), (":status", "204"), (":status", "206"), (":status", "302"), (":status", "400"),
    (":status", "403"), (":status", "421"), (":status", "425"), (":status", "500"), ("accept-language", ""),
    ("access-control-allow-credentials", "FALSE"), ("access-control-allow-credentials", "TRUE"),
    ("access-control-allow-headers", "*"), ("access-control-allow-methods", "get"),
    ("access-control-allow-methods", "get, post, options"), ("access-control-allow-methods", "options"),
    ("access-control-expose-headers", "content-length"), ("access-control-request-headers", "content-type"),
    ("access-control-request-method", "get"), ("access-control-request-method", "post"), ("alt-svc", "clear"),
    ("authorization", ""), ("content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'"),
    ("early-data", "1"), ("expect-ct", ""), ("forwarded", ""), ("if-range", ""), ("origin", ""),
    ("purpose", "prefetch"), ("server", ""), ("timing-allow-origin", "*"), ("upgrade-insecure-requests", "1"),
    ("user-agent", ""), ("x-forwarded-for", ""), ("x-frame-options", "deny"), ("x-frame-options", "sameorigin"),
];

/// Where `:status` is for the first time.
const STATUS: usize = 24;

/// Where each known name is for the first time; [`ABSENT`] if it isn't there.
const FIRST: [u8; Known::COUNT] = {
    let mut first = [ABSENT; Known::COUNT];
    let mut at = STATIC.len();
    while at > 0 {
        at -= 1;
        let mut known = 1;
        while known < Known::COUNT {
            if is_same(Known::name_at(known).as_bytes(), STATIC[at].0.as_bytes()) {
                first[known] = at as u8;
            }
            known += 1;
        }
    }
    first
};
const ABSENT: u8 = u8::MAX;

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    if a.len() != b.len() {
        return false;
    }
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Reads header blocks, each by itself.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Strings as they were before they were coded.
    text: Vec<u8>,
}

/// Where a string is.
enum Text<'a> {
    /// In the block, or in the table.
    There(&'a [u8]),
    /// In `Decoder::text`.
    Here(Range<usize>),
}

impl Blocks for Decoder {
    /// As RFC 9204 4.5 has them.
    fn read(&mut self, block: &[u8], mut take: impl FnMut(Line<'_>)) -> Result<(), Broken> {
        let mut rest = block;
        // Nothing was ever inserted into a table, so nothing can be required of it.
        if read_integer(&mut rest, 8)? != 0 {
            return Err(Broken);
        }
        read_integer(&mut rest, 7)?;
        while let Some(first) = rest.first() {
            match first {
                0xc0.. => {
                    let (name, value) = STATIC.get(read_integer(&mut rest, 6)?).ok_or(Broken)?;
                    let (name, value) = (name.as_bytes(), value.as_bytes());
                    take(Line { named: Named::of(name), name, value, clean: true });
                }
                0x50..=0x5f | 0x70..=0x7f => {
                    let (name, _) = STATIC.get(read_integer(&mut rest, 4)?).ok_or(Broken)?;
                    self.literal(Text::There(name.as_bytes()), &mut rest, &mut take)?;
                }
                0x20..=0x3f => {
                    self.text.clear();
                    let name = string(&mut rest, 3, &mut self.text)?;
                    self.literal(name, &mut rest, &mut take)?;
                }
                // They refer to the other table.
                _ => return Err(Broken),
            }
        }
        Ok(())
    }
}

impl Decoder {
    fn literal(&mut self, name: Text<'_>, rest: &mut &[u8], take: &mut impl FnMut(Line<'_>)) -> Result<(), Broken> {
        if matches!(name, Text::There(_)) {
            self.text.clear();
        }
        let value = string(rest, 7, &mut self.text)?;
        let find = |there| match there {
            Text::There(bytes) => bytes,
            Text::Here(range) => &self.text[range],
        };
        let (name, value) = (find(name), find(value));
        take(Line { named: Named::of(name), name, value, clean: is_clean(value) });
        Ok(())
    }
}

/// A string whose length shares `prefix` bits of its first byte, below the one that says whether it's coded.
fn string<'a>(rest: &mut &'a [u8], prefix: u32, text: &mut Vec<u8>) -> Result<Text<'a>, Broken> {
    let coded = rest.first().is_some_and(|first| first & 1 << prefix != 0);
    let length = read_integer(rest, prefix)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = after;
    if !coded {
        return Ok(Text::There(bytes));
    }
    let from = text.len();
    huffman::decode(bytes, text)?;
    Ok(Text::Here(from..text.len()))
}

/// What stands before the lines of a block that refers to the static table alone.
const PREFIX: [u8; 2] = [0, 0];

/// Writes the block of a response's head.
pub(super) fn write_response(head: &Head, out: &mut Vec<u8>) {
    out.extend_from_slice(&PREFIX);
    let status = head.status();
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    match STATIC.iter().position(|(name, value)| *name == ":status" && value.as_bytes() == digits) {
        Some(index) => write_integer(index, 6, 0xc0, out),
        None => literal(STATUS, false, &digits, out),
    }
    message::each_field(head, None, |known, name, value| field(known, name, value, out));
}

/// Writes the block of trailers.
pub(super) fn write_trailers(fields: &Fields, out: &mut Vec<u8>) {
    out.extend_from_slice(&PREFIX);
    message::each_trailer(fields, |known, name, value| field(known, name, value, out));
}

/// Writes a header line; its name in any case.
fn field(known: Known, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let first = usize::from(FIRST[known as usize]);
    if first == usize::from(ABSENT) {
        let name = if known == Known::Other { name } else { known.name().as_bytes() };
        write_integer(name.len(), 3, 0x20, out);
        out.extend(name.iter().map(u8::to_ascii_lowercase));
        return text(value, out);
    }
    let secret = matches!(known, Known::Authorization | Known::ProxyAuthorization | Known::Cookie | Known::SetCookie);
    let same = STATIC[first..].iter().take_while(|(name, _)| *name == known.name());
    match same.zip(first..).find(|((_, whole), _)| whole.as_bytes() == value) {
        Some((_, index)) if !secret => write_integer(index, 6, 0xc0, out),
        _ => literal(first, secret, value, out),
    }
}

/// A line whose name is the table's; `secret`: no table on the way may keep it (RFC 9204 7.1.3).
fn literal(index: usize, secret: bool, value: &[u8], out: &mut Vec<u8>) {
    write_integer(index, 4, if secret { 0x70 } else { 0x50 }, out);
    text(value, out);
}

fn text(text: &[u8], out: &mut Vec<u8>) {
    write_integer(text.len(), 7, 0, out);
    out.extend_from_slice(text);
}
