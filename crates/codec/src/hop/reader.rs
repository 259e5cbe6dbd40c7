// SPDX-License-Identifier: Apache-2.0
//! Frames out of bytes, wherever the network cut them. Bodies are handed on piece by piece as they come;
//! only heads and trailers that were cut are put together first.

use super::frame::HEADER_BYTES;
use super::{Frame, Wrong};

/// A buffer for cut heads that grew beyond this isn't kept.
const HOLD_BYTES_KEPT: usize = 4 * 1024;

/// Reads the frames of one connection.
#[derive(Debug, Default)]
pub struct Reader {
    header: [u8; HEADER_BYTES],
    have: usize,
    /// The frame under way, and how much of it is still to come.
    current: Option<(Frame, usize)>,
    /// What has come of a payload that is of use only as a whole.
    hold: Vec<u8>,
    /// The last piece was in `hold`.
    held: bool,
}

/// A frame, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// How the frame began.
    pub frame: Frame,
    /// Of its payload; may be empty.
    pub payload: &'a [u8],
    /// The first piece of the frame.
    pub first: bool,
    /// The last piece of the frame.
    pub last: bool,
}

impl Reader {
    /// The next piece in `input`, which is cut to what follows it. `None`: all is used.
    ///
    /// # Errors
    /// If no frame begins so. The connection can't go on then.
    pub fn next<'p, 'b: 'p>(&'p mut self, input: &mut &'b [u8]) -> Result<Option<Piece<'p>>, Wrong> {
        if std::mem::take(&mut self.held) {
            self.hold.clear();
            self.hold.shrink_to(HOLD_BYTES_KEPT);
        }
        let (frame, left, first) = match self.current {
            Some((frame, left)) => (frame, left, false),
            None => {
                let Some(frame) = self.header(input)? else { return Ok(None) };
                (frame, frame.payload_bytes(), true)
            }
        };
        let (here, rest) = input.split_at(left.min(input.len()));
        if here.is_empty() && !first && left > 0 {
            return Ok(None);
        }
        *input = rest;
        let left = left - here.len();
        self.current = Some((frame, left)).filter(|_| left > 0);
        if !frame.kind.is_whole() {
            return Ok(Some(Piece { frame, payload: here, first, last: left == 0 }));
        }
        if self.hold.is_empty() && left == 0 {
            return Ok(Some(Piece { frame, payload: here, first: true, last: true }));
        }
        self.hold.extend_from_slice(here);
        if left > 0 {
            return Ok(None);
        }
        self.held = true;
        Ok(Some(Piece { frame, payload: &self.hold, first: true, last: true }))
    }

    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Wrong> {
        if self.have == 0
            && let Some((header, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return Frame::from_bytes(*header).map(Some);
        }
        let taken = input.len().min(HEADER_BYTES - self.have);
        self.header[self.have..self.have + taken].copy_from_slice(&input[..taken]);
        *input = &input[taken..];
        self.have += taken;
        if self.have < HEADER_BYTES {
            return Ok(None);
        }
        self.have = 0;
        Frame::from_bytes(self.header).map(Some)
    }
}
