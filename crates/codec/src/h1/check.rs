// SPDX-License-Identifier: Apache-2.0
//! What requests and responses have in common: the shape of lines, and the headers that frame a
//! message. Called by the two parsers and by the trailer parser; knows nothing of start lines.

use crate::fields::Fields;
use crate::head::{Head, Version};
use crate::known::Known;
use crate::reject::RejectReason;
use crate::{Limits, Parsed};

/// Above this many bytes a partial head isn't tokenised again before it has doubled or ended.
const RETOKENISE_BYTES: usize = 1024;

/// True if the buffer was seen before but for a few bytes that end nothing, so that it needn't be
/// tokenised again. Between two calls with one head a buffer may only grow.
pub(super) fn is_still_partial(buf: &[u8], limits: &Limits, head: &mut Head) -> bool {
    let seen = head.progress;
    let grown = buf.len() > seen.searched && seen.tokenised > RETOKENISE_BYTES;
    if !grown || buf.len() >= seen.tokenised.saturating_mul(2) || buf.len() >= limits.head_bytes_max {
        return false;
    }
    // An end may lie across the border: up to three bytes of it were there before.
    let fresh = &buf[seen.searched.saturating_sub(3)..];
    if fresh.windows(2).any(|w| w == b"\n\n") || fresh.windows(3).any(|w| w == b"\n\r\n") {
        return false;
    }
    head.progress.searched = buf.len();
    true
}

/// Notes that the buffer holds no whole head, or says that it never will.
pub(super) fn partial(buf: &[u8], limits: &Limits, head: &mut Head) -> Result<Parsed, RejectReason> {
    if buf.len() >= limits.head_bytes_max {
        return Err(RejectReason::HeadTooLarge);
    }
    head.progress.tokenised = buf.len();
    head.progress.searched = buf.len();
    Ok(Parsed::Partial)
}

/// Lines of the message before are nobody's where none has come in its place.
pub(super) fn forget_unless_whole(parsed: &Result<Parsed, RejectReason>, head: &mut Head) {
    if !matches!(parsed, Ok(Parsed::Complete(_))) {
        head.fields.clear();
    }
}

/// Reads `HTTP/1.0` or `HTTP/1.1` at the start, and what follows it; `None` if it isn't whole.
pub(super) fn version(bytes: &[u8]) -> Result<Option<(Version, &[u8])>, RejectReason> {
    match bytes.split_first_chunk() {
        Some((b"HTTP/1.1", rest)) => Ok(Some((Version::Http11, rest))),
        Some((b"HTTP/1.0", rest)) => Ok(Some((Version::Http10, rest))),
        None if b"HTTP/1.".starts_with(bytes) => Ok(None),
        _ => Err(RejectReason::Version),
    }
}

/// What the headers say of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    Nothing,
    Length(u64),
    Chunked,
}

/// What Content-Length and Transfer-Encoding say together, if it is one thing.
pub(super) fn announced(fields: &Fields, version: Version) -> Result<Announced, RejectReason> {
    if !fields.has(Known::TransferEncoding) && !fields.has(Known::ContentLength) {
        return Ok(Announced::Nothing);
    }
    let mut encodings = fields.typed(Known::TransferEncoding);
    let mut lengths = fields.typed(Known::ContentLength);
    let (encoding, length) = (encodings.next(), lengths.next());
    if lengths.next().is_some() {
        return Err(RejectReason::ContentLengthRepeated);
    }
    let Some(encoding) = encoding else {
        return Ok(match length {
            Some(value) => Announced::Length(content_length(value)?),
            None => Announced::Nothing,
        });
    };
    if version == Version::Http10 {
        return Err(RejectReason::EncodingInHttp10);
    }
    if length.is_some() {
        return Err(RejectReason::LengthAndEncoding);
    }
    if encodings.next().is_some() || !encoding.eq_ignore_ascii_case(b"chunked") {
        return Err(RejectReason::TransferEncoding);
    }
    Ok(Announced::Chunked)
}

/// Parses a Content-Length: decimal digits alone, at most 2^63 - 1.
pub(crate) fn content_length(value: &[u8]) -> Result<u64, RejectReason> {
    if value.is_empty() || value.len() > 19 {
        return Err(RejectReason::ContentLength);
    }
    let mut length = 0u64;
    for &b in value {
        if !b.is_ascii_digit() {
            return Err(RejectReason::ContentLength);
        }
        // 19 digits stay below 2^64.
        length = length * 10 + u64::from(b - b'0');
    }
    if length > i64::MAX as u64 { Err(RejectReason::ContentLength) } else { Ok(length) }
}

/// What the Connection headers say, `close` winning over `keep-alive`.
pub(super) struct Connection {
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

pub(super) fn connection(fields: &Fields, version: Version) -> Connection {
    if !fields.has(Known::Connection) {
        return Connection { keep_alive: version == Version::Http11, upgrade: false };
    }
    let (mut close, mut keep, mut upgrade) = (false, false, false);
    for token in fields.typed(Known::Connection).flat_map(tokens) {
        close |= token.eq_ignore_ascii_case(b"close");
        keep |= token.eq_ignore_ascii_case(b"keep-alive");
        upgrade |= token.eq_ignore_ascii_case(b"upgrade");
    }
    let keep_alive = !close && (keep || version == Version::Http11);
    Connection { keep_alive, upgrade: upgrade && version == Version::Http11 }
}

/// The elements of a comma-separated list without the blanks around them; empty ones are skipped.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// True if `protocol` may be switched to: one token other than a form of HTTP/2, which would hide
/// requests from us.
pub(super) fn is_upgradable(protocol: &[u8]) -> bool {
    !protocol.is_empty()
        && protocol.iter().all(|&b| crate::fields::is_token_byte(b) || b == b'/')
        && !protocol.eq_ignore_ascii_case(b"h2c")
        && !protocol.eq_ignore_ascii_case(b"h2")
        && !protocol.get(..5).is_some_and(|p| p.eq_ignore_ascii_case(b"http/"))
        && !protocol.get(..4).is_some_and(|p| p.eq_ignore_ascii_case(b"tls/"))
}
