// SPDX-License-Identifier: Apache-2.0
//! Datagrams on a stream: capsules (RFC 9297 3.2) of the type DATAGRAM, whose payload is a UDP datagram behind its context
//! (RFC 9298 5; always 0). `net/datagram` moves them. No peer makes a [`Reader`] panic or hold more than one datagram.

use crate::h3::{read_number, write_number};
use std::fmt;

#[cfg(test)]
mod tests;

/// Most payload of a datagram, in bytes: what UDP over IPv4 has room for.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// What a capsule adds to a datagram at most, in bytes: a type, a length of four, a context.
pub const OVERHEAD_BYTES_MAX: usize = 6;
/// Longest capsule of another type that is passed over, in bytes of payload.
pub const UNKNOWN_BYTES_MAX: usize = 64 * 1024;

/// The type DATAGRAM.
const DATAGRAM: u64 = 0;
/// The context of whole UDP payloads.
const PAYLOAD: u64 = 0;
/// Bytes of the longest type, length and context.
const HEADER_BYTES_MAX: usize = 3 * 8;

/// Appends a datagram of at most [`DATAGRAM_BYTES_MAX`].
pub fn emit(datagram: &[u8], out: &mut Vec<u8>) {
    write_number(DATAGRAM, out);
    write_number(datagram.len() as u64 + 1, out);
    write_number(PAYLOAD, out);
    out.extend_from_slice(datagram);
}

/// Why bytes are no capsules: the stream can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// A datagram longer than [`DATAGRAM_BYTES_MAX`], or another capsule longer than [`UNKNOWN_BYTES_MAX`].
    Length,
    /// A datagram without room for its context.
    Context,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a capsule is too long",
            Self::Context => "a datagram has no context",
        })
    }
}

impl std::error::Error for Wrong {}

/// Takes the capsules of one stream apart, wherever its bytes are cut.
#[derive(Debug, Default)]
pub struct Reader {
    /// What has come of a type, length and context.
    header: Vec<u8>,
    step: Step,
    /// What has come of a datagram whose end hasn't.
    held: Vec<u8>,
    /// What was held has been handed out.
    given: bool,
}

/// What comes next, and how much of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Header,
    Payload(usize),
    Skip(usize),
}

impl Reader {
    /// The next datagram that is whole; `None` once all of `rest` is read. What is of another type or context is passed over
    /// (RFC 9297 3.2, RFC 9298 4).
    ///
    /// # Errors
    /// If it breaks a limit or the form. Nothing that follows can be read then.
    pub fn next<'s, 'b: 's>(&'s mut self, rest: &mut &'b [u8]) -> Result<Option<&'s [u8]>, Wrong> {
        if std::mem::take(&mut self.given) {
            // Most never need it: a datagram is seldom cut.
            self.held = Vec::new();
        }
        loop {
            match self.step {
                Step::Header => {
                    let Some((first, more)) = rest.split_first() else { return Ok(None) };
                    *rest = more;
                    self.header.push(*first);
                    self.step = begun(&self.header)?;
                    if self.step != Step::Header {
                        self.header.clear();
                    }
                }
                Step::Skip(left) => {
                    let whole: &'b [u8] = rest;
                    let (skipped, more) = whole.split_at(left.min(whole.len()));
                    let left = left - skipped.len();
                    *rest = more;
                    self.step = if left == 0 { Step::Header } else { Step::Skip(left) };
                    if left > 0 {
                        return Ok(None);
                    }
                }
                Step::Payload(left) => {
                    let whole: &'b [u8] = rest;
                    let (piece, more) = whole.split_at(left.min(whole.len()));
                    *rest = more;
                    let left = left - piece.len();
                    self.step = if left == 0 { Step::Header } else { Step::Payload(left) };
                    if left == 0 && self.held.is_empty() {
                        return Ok(Some(piece));
                    }
                    self.held.extend_from_slice(piece);
                    if left > 0 {
                        return Ok(None);
                    }
                    self.given = true;
                    break;
                }
            }
        }
        Ok(Some(&self.held))
    }
}

/// What follows a header of which so much has come.
fn begun(header: &[u8]) -> Result<Step, Wrong> {
    debug_assert!(header.len() <= HEADER_BYTES_MAX, "each number is whole within eight bytes");
    let Some((kind, used)) = read_number(header) else { return Ok(Step::Header) };
    let header = &header[used..];
    let Some((length, used)) = read_number(header) else { return Ok(Step::Header) };
    if kind != DATAGRAM {
        let length = usize::try_from(length).ok().filter(|length| *length <= UNKNOWN_BYTES_MAX);
        return length.map(Step::Skip).ok_or(Wrong::Length);
    }
    let header = &header[used..];
    // The context is of the length.
    let most = DATAGRAM_BYTES_MAX + HEADER_BYTES_MAX / 3;
    let length = usize::try_from(length).ok().filter(|length| *length <= most).ok_or(Wrong::Length)?;
    if length == 0 {
        return Err(Wrong::Context);
    }
    let Some((context, used)) = read_number(header) else {
        return if header.len() < length { Ok(Step::Header) } else { Err(Wrong::Context) };
    };
    let payload = length.checked_sub(used).ok_or(Wrong::Context)?;
    match context {
        PAYLOAD if payload > DATAGRAM_BYTES_MAX => Err(Wrong::Length),
        PAYLOAD => Ok(Step::Payload(payload)),
        _ => Ok(Step::Skip(payload)),
    }
}
