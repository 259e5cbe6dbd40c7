// SPDX-License-Identifier: Apache-2.0
//! Bytes to frames, however they are cut. Bodies are handed out as they come; every other payload once it is whole.

use super::frame::{Frame, HEADER_BYTES, flag, kind};
use super::{FRAME_BYTES_MAX, Wrong, code};
use crate::sniff::PREFACE;
use std::borrow::Cow;

/// A frame, or a part of one.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// A whole frame that isn't DATA. Of a kind that nobody knows the payload is left out.
    Whole(Frame, Cow<'a, [u8]>),
    /// A part of a DATA frame.
    Body {
        frame: Frame,
        /// Bytes of the frame's body in all, if this is its first part.
        first: Option<usize>,
        bytes: &'a [u8],
        last: bool,
    },
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub(super) struct Reader {
    state: State,
    /// What came of a header or a payload that isn't whole.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So much of the client's preface has come.
    Preface(usize),
    Header,
    Payload(Frame),
    /// The length of the padding comes next.
    Padding(Frame),
    Body {
        frame: Frame,
        begun: bool,
        left: usize,
        padding: usize,
    },
    Skip(usize),
}

impl Reader {
    /// `preface`: a client's preface comes first.
    pub(super) const fn new(preface: bool) -> Self {
        let state = if preface { State::Preface(0) } else { State::Header };
        Self { state, partial: Vec::new() }
    }

    /// Takes memory back that came with a whole frame.
    pub(super) fn reuse(&mut self, mut memory: Vec<u8>) {
        memory.clear();
        self.partial = memory;
    }

    /// The next piece of `rest`; none if all of it was taken.
    ///
    /// # Errors
    /// If it isn't HTTP/2.
    pub(super) fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Wrong> {
        loop {
            match self.state {
                State::Preface(had) => {
                    let Some(byte) = take_byte(rest) else { return Ok(None) };
                    if PREFACE.get(had) != Some(&byte) {
                        return Err(Wrong(code::PROTOCOL_ERROR));
                    }
                    self.state = if had + 1 == PREFACE.len() { State::Header } else { State::Preface(had + 1) };
                }
                State::Header => {
                    let Some(header) = self.header(rest) else { return Ok(None) };
                    let frame = Frame::parse(header);
                    if frame.length > FRAME_BYTES_MAX {
                        return Err(Wrong(code::FRAME_SIZE_ERROR));
                    }
                    let (begun, left, padding) = (false, frame.length, 0);
                    self.state = match frame.kind {
                        kind::DATA if frame.has(flag::PADDED) => State::Padding(frame),
                        kind::DATA => State::Body { frame, begun, left, padding },
                        kind::HEADERS..=kind::CONTINUATION => State::Payload(frame),
                        _ => {
                            self.state = State::Skip(frame.length);
                            return Ok(Some(Piece::Whole(frame, Cow::Borrowed(&[]))));
                        }
                    };
                }
                State::Payload(frame) => {
                    let Some(payload) = self.payload(frame.length, rest) else { return Ok(None) };
                    self.state = State::Header;
                    return Ok(Some(Piece::Whole(frame, payload)));
                }
                State::Padding(frame) => {
                    if frame.length == 0 {
                        return Err(Wrong(code::FRAME_SIZE_ERROR));
                    }
                    let Some(byte) = take_byte(rest) else { return Ok(None) };
                    let padding = usize::from(byte);
                    // RFC 9113 6.1.
                    let left = (frame.length - 1).checked_sub(padding).ok_or(Wrong(code::PROTOCOL_ERROR))?;
                    self.state = State::Body { frame, begun: false, left, padding };
                }
                State::Body { frame, begun, left, padding } => {
                    if rest.is_empty() && (left > 0 || padding > 0) {
                        return Ok(None);
                    }
                    let bytes = take(rest, left);
                    let ending = left == bytes.len();
                    let dropped = if ending { take(rest, padding).len() } else { 0 };
                    let last = ending && dropped == padding;
                    let first = (!begun).then_some(left);
                    let (left, padding) = (left - bytes.len(), padding - dropped);
                    self.state = if last { State::Header } else { State::Body { frame, begun: true, left, padding } };
                    if last || first.is_some() || !bytes.is_empty() {
                        return Ok(Some(Piece::Body { frame, first, bytes, last }));
                    }
                }
                State::Skip(left) => {
                    let left = left - take(rest, left).len();
                    self.state = if left == 0 { State::Header } else { State::Skip(left) };
                    if left > 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn header(&mut self, rest: &mut &[u8]) -> Option<[u8; HEADER_BYTES]> {
        if self.partial.is_empty()
            && let Some((header, after)) = rest.split_first_chunk()
        {
            *rest = after;
            return Some(*header);
        }
        self.partial.extend_from_slice(take(rest, HEADER_BYTES - self.partial.len()));
        let header = self.partial.first_chunk().copied()?;
        self.partial.clear();
        Some(header)
    }

    fn payload<'a>(&mut self, length: usize, rest: &mut &'a [u8]) -> Option<Cow<'a, [u8]>> {
        if self.partial.is_empty() && rest.len() >= length {
            return Some(Cow::Borrowed(take(rest, length)));
        }
        self.partial.extend_from_slice(take(rest, length - self.partial.len()));
        (self.partial.len() == length).then(|| Cow::Owned(std::mem::take(&mut self.partial)))
    }
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

/// Takes up to `most` bytes.
fn take<'a>(rest: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(most.min(rest.len()));
    *rest = after;
    taken
}
