// SPDX-License-Identifier: Apache-2.0
//! The stream of one request, as it comes from a client: a head, a body, perhaps trailers (RFC 9114 4.1).

use super::frame::{Frames, Piece, kind};
use super::qpack::Decoder;
use super::{HEADER_LIST_BYTES_MAX, IDLE_FRAMES_MAX, Wrong, code};
use crate::Limits;
use crate::fields::Fields;
use crate::h2::hpack::Broken;
use crate::h2::message::{self, Flaw};
use crate::head::{Framing, Head, Version};
use crate::reject::RejectReason;

/// What has come of a request.
#[derive(Debug)]
pub enum Event<'a> {
    /// The head, to be read by [`Request::head`].
    Head,
    /// A piece of the body.
    Body(&'a [u8]),
    /// The trailers.
    Trailers(Fields),
}

/// Reads one request.
#[derive(Debug, Default)]
pub struct Request {
    frames: Frames,
    phase: Phase,
    /// A header block as it comes.
    block: Vec<u8>,
    /// What must still come of a body whose length its head named.
    left: Option<u64>,
    /// Frames that carried nothing.
    idle: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Head,
    Body,
    Trailed,
}

impl Request {
    /// The next event; `None` once all of `rest` is used.
    ///
    /// # Errors
    /// If what came breaks a rule; nothing more is read then.
    pub fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<Event<'a>>, Wrong> {
        while let Some(piece) = self.frames.next(rest) {
            let event = match (piece.kind, self.phase) {
                (kind::DATA, Phase::Body) => self.body(piece)?,
                (kind::HEADERS, Phase::Head | Phase::Body) => self.block(piece)?,
                (
                    kind::DATA
                    | kind::HEADERS
                    | kind::CANCEL_PUSH
                    | kind::SETTINGS
                    | kind::PUSH_PROMISE
                    | kind::GOAWAY
                    | kind::MAX_PUSH_ID,
                    _,
                ) => return Err(Wrong::Connection(code::FRAME_UNEXPECTED)),
                (of_http2, _) if kind::is_of_http2(of_http2) => return Err(Wrong::Connection(code::FRAME_UNEXPECTED)),
                // What isn't known is passed over (RFC 9114 9).
                _ => {
                    if piece.first {
                        self.count_idle()?;
                    }
                    None
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn count_idle(&mut self) -> Result<(), Wrong> {
        self.idle += 1;
        if self.idle > IDLE_FRAMES_MAX { Err(Wrong::Connection(code::EXCESSIVE_LOAD)) } else { Ok(()) }
    }

    fn body<'a>(&mut self, piece: Piece<'a>) -> Result<Option<Event<'a>>, Wrong> {
        if piece.first {
            if piece.length == 0 {
                self.count_idle()?;
            }
            if let Some(left) = &mut self.left {
                *left = left.checked_sub(piece.length).ok_or(Wrong::Stream(code::MESSAGE_ERROR))?;
            }
        }
        Ok((!piece.bytes.is_empty()).then_some(Event::Body(piece.bytes)))
    }

    fn block<'a>(&mut self, piece: Piece<'_>) -> Result<Option<Event<'a>>, Wrong> {
        if piece.length > u64::from(HEADER_LIST_BYTES_MAX) {
            return Err(match self.phase {
                Phase::Head => Wrong::Refused(RejectReason::HeadTooLarge.into()),
                Phase::Body | Phase::Trailed => Wrong::Stream(code::EXCESSIVE_LOAD),
            });
        }
        self.block.extend_from_slice(piece.bytes);
        if !piece.last {
            return Ok(None);
        }
        if self.phase == Phase::Head {
            self.phase = Phase::Body;
            return Ok(Some(Event::Head));
        }
        self.phase = Phase::Trailed;
        let block = std::mem::take(&mut self.block);
        let mut fields = Fields::new();
        message::read_trailers(&mut Decoder::default(), &block, true, &mut fields)?.map_err(Wrong::from)?;
        Ok(Some(Event::Trailers(fields)))
    }

    /// Reads the head into `head`, after [`Event::Head`]; `ended`: no body follows. By the rules of HTTP/2; nothing but plain
    /// requests, as no extended CONNECT is offered.
    ///
    /// # Errors
    /// If it's no request, or one to be refused.
    pub fn head(&mut self, ended: bool, head: &mut Head) -> Result<(), Wrong> {
        let block = std::mem::take(&mut self.block);
        message::read_request(&mut Decoder::default(), &block, ended, head, &mut Vec::new())??;
        if head.upgrade().is_some() {
            return Err(Wrong::Stream(code::MESSAGE_ERROR));
        }
        head.check_lines(Limits::default().headers_max).map_err(Flaw::from)?;
        head.set_version(Version::Http3);
        self.left = match head.framing() {
            Framing::Length(length) => Some(length),
            Framing::None => Some(0),
            _ => None,
        };
        Ok(())
    }

    /// The client has ended the stream.
    ///
    /// # Errors
    /// If more should have come.
    pub fn end(&self) -> Result<(), Wrong> {
        if self.frames.is_within() {
            return Err(Wrong::Connection(code::FRAME_ERROR));
        }
        match (self.phase, self.left) {
            (Phase::Head, _) => Err(Wrong::Stream(code::REQUEST_INCOMPLETE)),
            (_, Some(1..)) => Err(Wrong::Stream(code::MESSAGE_ERROR)),
            _ => Ok(()),
        }
    }
}

impl From<Flaw> for Wrong {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(_) => Self::Stream(code::MESSAGE_ERROR),
            Flaw::Refused(reject) => Self::Refused(reject),
        }
    }
}

impl From<Broken> for Wrong {
    fn from(_: Broken) -> Self {
        Self::Connection(code::DECOMPRESSION_FAILED)
    }
}
