// SPDX-License-Identifier: Apache-2.0
//! Where a body ends. A connection feeds what it has read to [`Body::decode`] piece by piece and
//! passes the payload ranges on; nothing is copied. Chunk lines and trailers are checked strictly
//! and never passed on as they came: whoever sends writes its own with [`chunk_start`] and the like.

use super::lines;
use crate::fields::Fields;
use crate::head::Framing;
use crate::known::Known;
use crate::reject::{Reject, RejectReason};
use crate::{Limits, Parsed, uri};

/// Longest chunk size in digits, leading zeros included.
const SIZE_DIGITS_MAX: u8 = 16;

/// The decoder of one body.
#[derive(Clone, Debug)]
pub struct Body {
    state: State,
    /// Bytes of chunk extensions so far.
    extension_bytes: usize,
    trailers: Option<Box<Trailers>>,
    limits: BodyLimits,
}

// There is one for each direction of a connection.
byrnie_base::assert_size!(Body, 64);

#[derive(Clone, Copy, Debug)]
struct BodyLimits {
    extension: u32,
    extensions: u32,
    trailer: u32,
    trailers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// In the digits of a chunk size.
    Size {
        size: u64,
        digits: u8,
    },
    /// In blanks after a chunk size, which must lead to an extension.
    Blank {
        size: u64,
    },
    /// In an extension.
    Extension {
        size: u64,
        bytes: u32,
    },
    /// After the CR of a chunk line.
    SizeEnd {
        size: u64,
    },
    Payload {
        left: u64,
    },
    PayloadCr,
    PayloadLf,
    Trailer,
    Done,
}

/// Trailer lines as they arrive, and what they were parsed to.
#[derive(Clone, Debug, Default)]
struct Trailers {
    bytes: Vec<u8>,
    fields: Fields,
}

/// What became of some input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of the input that were used; feed the others again, with more.
    pub consumed: usize,
    /// The bytes of the input that are payload; may be empty.
    pub payload: std::ops::Range<usize>,
    /// True if the body has ended: what was not consumed is the next message.
    pub done: bool,
}

impl Body {
    /// A decoder for a message of such framing. An HTTP/2 stream needs none: it is taken as without an end.
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            state: match framing {
                Framing::None | Framing::Length(0) => State::Done,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::Size { size: 0, digits: 0 },
                Framing::UntilClose | Framing::Stream => State::UntilClose,
            },
            extension_bytes: 0,
            trailers: None,
            limits: BodyLimits {
                extension: narrow(limits.chunk_extension_bytes_max),
                extensions: narrow(limits.body_extension_bytes_max),
                trailer: narrow(limits.trailer_bytes_max),
                trailers: narrow(limits.trailers_max),
            },
        }
    }

    /// True if the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes still to come, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// The trailer lines of a body that has ended, if there are any.
    pub fn into_trailers(self) -> Option<Fields> {
        let done = self.is_done();
        self.trailers.filter(|_| done).map(|trailers| trailers.fields)
    }

    /// Uses input up to and including the next run of payload. All input is used unless the body ends
    /// within it or more payload follows behind a chunk line: call again until `done` or nothing is left.
    ///
    /// # Errors
    /// If chunks or trailers aren't well formed. The body can't go on then, nor its connection.
    pub fn decode(&mut self, input: &[u8]) -> Result<Piece, Reject> {
        match self.state {
            State::Done => Ok(Piece { consumed: 0, payload: 0..0, done: true }),
            State::UntilClose => Ok(Piece { consumed: input.len(), payload: 0..input.len(), done: false }),
            State::Length(left) => {
                let taken = take(left, input.len());
                let left = left - taken as u64;
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                Ok(Piece { consumed: taken, payload: 0..taken, done: left == 0 })
            }
            _ => Ok(self.chunked(input)?),
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// If the body hadn't.
    pub fn end(&mut self) -> Result<(), Reject> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(RejectReason::Truncated.into()),
        }
    }

    fn chunked(&mut self, input: &[u8]) -> Result<Piece, RejectReason> {
        let mut at = 0;
        while at < input.len() {
            if let State::Payload { left } = self.state {
                let taken = take(left, input.len() - at);
                let left = left - taken as u64;
                self.state = if left == 0 { State::PayloadCr } else { State::Payload { left } };
                return Ok(Piece { consumed: at + taken, payload: at..at + taken, done: false });
            }
            if self.state == State::Trailer {
                let (used, done) = self.trailer(&input[at..])?;
                return Ok(Piece { consumed: at + used, payload: 0..0, done });
            }
            self.state = self.line_byte(input[at])?;
            at += 1;
        }
        Ok(Piece { consumed: at, payload: 0..0, done: false })
    }

    /// The state after one byte of the lines around payload.
    fn line_byte(&mut self, b: u8) -> Result<State, RejectReason> {
        match (self.state, b) {
            (State::Size { size, digits }, _) if uri::hex(b).is_some() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(RejectReason::ChunkSize);
                }
                let size = size.checked_mul(16).ok_or(RejectReason::ChunkSize)? + u64::from(uri::hex(b).unwrap_or(0));
                if size > i64::MAX as u64 {
                    return Err(RejectReason::ChunkSize);
                }
                Ok(State::Size { size, digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => Err(RejectReason::ChunkSize),
            (State::Size { size, .. }, b'\r') => Ok(State::SizeEnd { size }),
            (State::Size { size, .. } | State::Blank { size }, b';') => self.extension(size, 0),
            (State::Size { size, .. } | State::Blank { size }, b' ' | b'\t') => {
                self.extension(size, 0)?;
                Ok(State::Blank { size })
            }
            (State::Size { .. }, b'\n') => Err(RejectReason::LineEnd),
            (State::Size { .. }, _) => Err(RejectReason::ChunkSize),
            (State::Blank { .. }, _) => Err(RejectReason::ChunkExtension),
            (State::Extension { size, .. }, b'\r') => Ok(State::SizeEnd { size }),
            (State::Extension { .. }, b'\n') => Err(RejectReason::LineEnd),
            (State::Extension { size, bytes }, _) if crate::fields::is_value_byte(b) => self.extension(size, bytes),
            (State::Extension { .. }, _) => Err(RejectReason::ChunkExtension),
            (State::SizeEnd { size: 0 }, b'\n') => Ok(State::Trailer),
            (State::SizeEnd { size }, b'\n') => Ok(State::Payload { left: size }),
            (State::SizeEnd { .. }, _) => Err(RejectReason::LineEnd),
            (State::PayloadCr, b'\r') => Ok(State::PayloadLf),
            (State::PayloadLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::PayloadCr | State::PayloadLf, _) => Err(RejectReason::ChunkEnd),
            // Not reached: the caller serves the other states itself.
            (other, _) => Ok(other),
        }
    }

    /// One more byte of an extension.
    fn extension(&mut self, size: u64, bytes: u32) -> Result<State, RejectReason> {
        self.extension_bytes += 1;
        if bytes >= self.limits.extension || self.extension_bytes > self.limits.extensions as usize {
            return Err(RejectReason::ChunkExtensionTooLong);
        }
        Ok(State::Extension { size, bytes: bytes + 1 })
    }

    /// Bytes of the trailer section: (used, whether it ended).
    fn trailer(&mut self, input: &[u8]) -> Result<(usize, bool), RejectReason> {
        // The plain end, as nearly all bodies have it, needs no memory.
        if self.trailers.is_none() && input.starts_with(b"\r\n") {
            self.state = State::Done;
            return Ok((2, true));
        }
        let trailers = self.trailers.get_or_insert_default();
        for (i, &b) in input.iter().enumerate() {
            if trailers.bytes.len() >= self.limits.trailer as usize {
                return Err(RejectReason::TrailersTooLarge);
            }
            if b == b'\n' && trailers.bytes.last() != Some(&b'\r') {
                return Err(RejectReason::LineEnd);
            }
            trailers.bytes.push(b);
            if trailers.bytes == b"\r\n" || trailers.bytes.ends_with(b"\r\n\r\n") {
                trailers.parse(self.limits.trailers as usize)?;
                self.state = State::Done;
                return Ok((i + 1, true));
            }
        }
        Ok((input.len(), false))
    }
}

impl Trailers {
    fn parse(&mut self, lines_max: usize) -> Result<(), RejectReason> {
        if parse_trailers(&self.bytes, lines_max, &mut self.fields)? != Parsed::Complete(self.bytes.len()) {
            return Err(RejectReason::LineEnd);
        }
        self.bytes = Vec::new();
        Ok(())
    }
}

/// Reads a trailer section of so many lines at most into `fields`, in place of what they held.
pub(crate) fn parse_trailers(section: &[u8], lines_max: usize, fields: &mut Fields) -> Result<Parsed, RejectReason> {
    let limits = Limits { headers_max: lines_max, ..Limits::default() };
    let parsed = lines::take(section, &limits, fields).map_err(|reason| match reason {
        RejectReason::TooManyHeaders => RejectReason::TrailersTooLarge,
        reason => reason,
    })?;
    if fields.names().any(|name| is_forbidden(Known::of(name.as_bytes()), name.as_bytes())) {
        return Err(RejectReason::TrailerForbidden);
    }
    Ok(parsed)
}

/// True for a field that frames, routes, authenticates or controls a message, or that the mesh itself
/// believes: read too late in a trailer, it would be read by some and not by others.
pub(crate) fn is_forbidden(known: Known, name: &[u8]) -> bool {
    let begins = |with: &str| name.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with.as_bytes()));
    match known {
        Known::Other => begins(":") || begins("x-byrnie-") || begins("if-"),
        Known::GrpcStatus | Known::GrpcMessage | Known::GrpcStatusDetails => false,
        Known::Date | Known::Server | Known::Via | Known::UserAgent | Known::Origin | Known::Referer => false,
        _ => true,
    }
}

fn take(left: u64, have: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(have)
}

/// Appends the line before a chunk of `len` bytes; `len` must not be 0, which would end the body.
pub fn chunk_start(len: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut shift = (usize::BITS - 1 - len.max(1).leading_zeros()) / 4 * 4;
    loop {
        out.push(DIGITS[(len >> shift) & 15]);
        if shift == 0 {
            break;
        }
        shift -= 4;
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends what follows the bytes of a chunk.
pub fn chunk_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body, with trailers if there are any.
pub fn last_chunk(trailers: Option<&Fields>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.emit(out, |_| false);
    }
    out.extend_from_slice(b"\r\n");
}
