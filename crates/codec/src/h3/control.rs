// SPDX-License-Identifier: Apache-2.0
//! The streams that a client opens for its connection: one for control (RFC 9114 6.2.1) and two for the tables of header
//! lines (RFC 9204 4.2), which stay empty. All of them are read, so that rules are kept; nothing that they say changes
//! what a server does.

use super::frame::{Frames, Piece, kind, read_number};
use super::{IDLE_FRAMES_MAX, code};

/// Kinds of streams.
const CONTROL: u64 = super::CONTROL;
const PUSH: u64 = 1;
const ENCODER: u64 = 2;
const DECODER: u64 = 3;

/// Longest payload of SETTINGS that is looked at.
const SETTINGS_BYTES_MAX: u64 = 4 * 1024;
/// Settings of HTTP/2 that HTTP/3 hasn't (RFC 9114 7.2.4.1).
const OF_HTTP2: std::ops::RangeInclusive<u64> = 2..=5;
/// Settings that may be said.
const SETTINGS_MAX: usize = 256;

/// Which of its streams a client has opened.
#[derive(Debug, Default)]
pub struct Opened([bool; 4]);

/// One of them.
#[derive(Debug)]
pub struct Uni(Kind);

#[derive(Debug)]
enum Kind {
    /// Its kind has not come yet.
    Unknown(Vec<u8>),
    Control(Control),
    Encoder,
    /// Whether an instruction goes on.
    Decoder(bool),
}

impl Default for Uni {
    fn default() -> Self {
        Self(Kind::Unknown(Vec::new()))
    }
}

impl Uni {
    /// Takes what came on the stream. False if it's of a kind that isn't known, so that nothing more of it is to be read.
    ///
    /// # Errors
    /// With one of [`code`], if the connection can't go on.
    pub fn take(&mut self, mut bytes: &[u8], opened: &mut Opened) -> Result<bool, u64> {
        while let Kind::Unknown(kind) = &mut self.0 {
            let Some((byte, rest)) = bytes.split_first() else { return Ok(true) };
            bytes = rest;
            kind.push(*byte);
            let Some((kind, _)) = read_number(kind) else { continue };
            if let Some(once) = opened.0.get_mut(kind as usize)
                && (kind == PUSH || std::mem::replace(once, true))
            {
                return Err(code::STREAM_CREATION_ERROR);
            }
            self.0 = match kind {
                CONTROL => Kind::Control(Control::default()),
                ENCODER => Kind::Encoder,
                DECODER => Kind::Decoder(false),
                _ => return Ok(false),
            };
        }
        match &mut self.0 {
            Kind::Unknown(_) => {}
            Kind::Control(control) => control.take(bytes)?,
            // All that may be said to a table of no size is that it has none.
            Kind::Encoder if bytes.iter().all(|byte| *byte == 0x20) => {}
            Kind::Encoder => return Err(code::ENCODER_STREAM_ERROR),
            Kind::Decoder(goes_on) => bytes.iter().try_for_each(|byte| decoder_byte(goes_on, *byte))?,
        }
        Ok(true)
    }

    /// The client has ended the stream.
    ///
    /// # Errors
    /// As [`Uni::take`].
    pub const fn end(&self) -> Result<(), u64> {
        match self.0 {
            // One that was never said to be anything.
            Kind::Unknown(_) => Ok(()),
            _ => Err(code::CLOSED_CRITICAL_STREAM),
        }
    }
}

/// Of a peer's decoder, a stream may be cancelled (RFC 9204 4.4.2), and nothing can be acknowledged.
const fn decoder_byte(goes_on: &mut bool, byte: u8) -> Result<(), u64> {
    match (*goes_on, byte) {
        (true, _) => *goes_on = byte & 0x80 != 0,
        (false, 0x40..=0x7f) => *goes_on = byte == 0x7f,
        (false, _) => return Err(code::DECODER_STREAM_ERROR),
    }
    Ok(())
}

/// The control stream.
#[derive(Debug, Default)]
struct Control {
    frames: Frames,
    settled: bool,
    /// The payload of a frame as it comes.
    payload: Vec<u8>,
    /// The last number of GOAWAY, and of `MAX_PUSH_ID`.
    goaway: Option<u64>,
    push_max: Option<u64>,
    /// Frames so far.
    seen: u32,
}

impl Control {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), u64> {
        while let Some(piece) = self.frames.next(&mut bytes) {
            self.piece(piece)?;
        }
        Ok(())
    }

    fn piece(&mut self, piece: Piece<'_>) -> Result<(), u64> {
        if piece.first {
            self.seen += 1;
            match (piece.kind, self.settled) {
                (kind::SETTINGS, false) => self.settled = true,
                (_, false) => return Err(code::MISSING_SETTINGS),
                (kind::SETTINGS | kind::DATA | kind::HEADERS | kind::PUSH_PROMISE, true) => {
                    return Err(code::FRAME_UNEXPECTED);
                }
                (of_http2, true) if kind::is_of_http2(of_http2) => return Err(code::FRAME_UNEXPECTED),
                _ if self.seen > IDLE_FRAMES_MAX => return Err(code::EXCESSIVE_LOAD),
                _ => {}
            }
        }
        let most = match piece.kind {
            kind::SETTINGS => SETTINGS_BYTES_MAX,
            kind::CANCEL_PUSH | kind::GOAWAY | kind::MAX_PUSH_ID => 8,
            _ => return Ok(()),
        };
        if piece.length > most {
            return Err(if piece.kind == kind::SETTINGS { code::EXCESSIVE_LOAD } else { code::FRAME_ERROR });
        }
        self.payload.extend_from_slice(piece.bytes);
        if !piece.last {
            return Ok(());
        }
        let payload = std::mem::take(&mut self.payload);
        if piece.kind == kind::SETTINGS {
            return settings(&payload);
        }
        let number = read_number(&payload).filter(|(_, used)| *used == payload.len());
        let (number, _) = number.ok_or(code::FRAME_ERROR)?;
        let fine = match piece.kind {
            // Nothing was ever pushed.
            kind::CANCEL_PUSH => false,
            kind::GOAWAY => self.goaway.replace(number).is_none_or(|before| number <= before),
            _ => self.push_max.replace(number).is_none_or(|before| number >= before),
        };
        if fine { Ok(()) } else { Err(code::ID_ERROR) }
    }
}

/// Looks at settings; none of them changes anything here.
fn settings(mut payload: &[u8]) -> Result<(), u64> {
    let mut seen = Vec::new();
    while !payload.is_empty() {
        let (name, used) = read_number(payload).ok_or(code::FRAME_ERROR)?;
        let (_, more) = read_number(&payload[used..]).ok_or(code::FRAME_ERROR)?;
        payload = &payload[used + more..];
        if OF_HTTP2.contains(&name) || seen.contains(&name) {
            return Err(code::SETTINGS_ERROR);
        }
        if seen.len() >= SETTINGS_MAX {
            return Err(code::EXCESSIVE_LOAD);
        }
        seen.push(name);
    }
    Ok(())
}
