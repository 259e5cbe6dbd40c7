// SPDX-License-Identifier: Apache-2.0
//! Watches the frames that a peer sends before the session takes them: refuses sizes and settings with the
//! code that RFC 9113 asks for, and counts what costs work and carries nothing. Sans-IO; one per
//! connection. It reads frame headers and SETTINGS, never header blocks or bodies.

use byrnie_base::Instant;
use std::cell::Cell;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Frames that carry no message (PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`, empty DATA, unknown ones...) that
/// may come in a burst.
pub(super) const IDLE_FRAMES_MAX: u32 = 10_000;
/// How many of them each second gives back.
const IDLE_FRAMES_PER_SECOND: u32 = 2_000;
/// How many of them a kibibyte gives back that we sent: windows are opened in proportion to it, by some peers
/// twice for each message, of which a kibibyte holds sixteen or so. A PING's answer, the largest that such a frame
/// brings, gives back half of one, so that no flood pays for itself.
const IDLE_FRAMES_PER_KIB: u32 = 32;
const _: () = assert!((HEADER_BYTES as u32 + 8) * IDLE_FRAMES_PER_KIB < 1024);
/// Streams that a peer may reset in a burst, whatever became of the work that it had begun with them.
pub(super) const RESETS_MAX: u32 = 200;
/// How many resets each second gives back.
const RESETS_PER_SECOND: u32 = 100;
/// By how much another proxy's limits are higher: the resets of its many callers come by one connection.
const PROXY_FACTOR: u32 = 10;
/// How many resets a stream gives back that was answered to its end: a peer that lets most of its
/// streams end may reset as many others.
const RESETS_PER_ANSWER: u32 = 1;
/// Frames of one header block after the first; the session has a lower limit of its own.
const BLOCK_FRAMES_MAX: u32 = 64;

/// How often limits are filled up again.
const REFILL_STEP: Duration = Duration::from_millis(100);

const PREFACE_BYTES: usize = byrnie_codec::sniff::PREFACE.len();
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM_OR_ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Whose frames are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client, whoever it may be.
    Client,
    /// Another proxy of the mesh, proven by its certificate.
    Proxy,
    /// A server: it may reset what it was asked as often as it was asked.
    Server,
}

/// Why a connection is given up, as a code of RFC 9113 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Protocol = 1,
    FlowControl = 3,
    FrameSize = 6,
    EnhanceYourCalm = 11,
}

/// What the streams of a connection tell its guard.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Streams answered to their end since the guard last looked.
    pub(super) answered: Cell<u32>,
}

/// The guard of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) notes: Notes,
    pub(super) sender: Sender,
    /// Bytes of the preface still to come.
    preface: usize,
    /// A frame's header as it comes.
    header: [u8; HEADER_BYTES],
    header_len: usize,
    /// Payload still to come.
    payload: usize,
    /// The entry of SETTINGS that is being read, if that is what the payload is.
    setting: Option<([u8; 6], usize)>,
    block_frames: u32,
    idle_left: u32,
    resets_left: u32,
    sent_bytes: u32,
    refilled: Instant,
}

impl Guard {
    /// For what `sender` will send.
    pub(super) fn new(sender: Sender, now: Instant) -> Self {
        Self {
            notes: Notes::default(),
            sender,
            preface: if sender == Sender::Server { 0 } else { PREFACE_BYTES },
            header: [0; HEADER_BYTES],
            header_len: 0,
            payload: 0,
            setting: None,
            block_frames: 0,
            idle_left: IDLE_FRAMES_MAX * factor(sender),
            resets_left: RESETS_MAX * factor(sender),
            sent_bytes: 0,
            refilled: now,
        }
    }

    /// Notes that so many bytes were written.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes = self.sent_bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Looks at bytes that came. `Err` says how many of them may still be passed on, and why no more.
    pub(super) fn look(&mut self, bytes: &[u8], now: Instant) -> Result<(), (usize, Verdict)> {
        self.refill(now);
        let mut at = self.preface.min(bytes.len());
        self.preface -= at;
        while at < bytes.len() {
            if self.payload > 0 {
                let taken = self.payload.min(bytes.len() - at);
                if self.setting.is_some() {
                    self.settings(&bytes[at..at + taken]).map_err(|verdict| (at, verdict))?;
                }
                self.payload -= taken;
                at += taken;
                continue;
            }
            let taken = (HEADER_BYTES - self.header_len).min(bytes.len() - at);
            self.header[self.header_len..][..taken].copy_from_slice(&bytes[at..at + taken]);
            self.header_len += taken;
            if self.header_len == HEADER_BYTES {
                self.header_len = 0;
                // What came of this header before can't be called back; the session never sees it whole.
                self.frame().map_err(|verdict| (at, verdict))?;
            }
            at += taken;
        }
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let factor = factor(self.sender);
        let answered = self.notes.answered.take();
        let kib = self.sent_bytes / 1024;
        self.sent_bytes %= 1024;
        let mut idle = kib.saturating_mul(IDLE_FRAMES_PER_KIB);
        let mut resets = answered.saturating_mul(RESETS_PER_ANSWER);
        let elapsed = now.since(self.refilled);
        // In steps, so that what a busy connection earns isn't lost to rounding.
        if elapsed >= REFILL_STEP {
            self.refilled = now;
            let tenths = u32::try_from(elapsed.as_millis() / REFILL_STEP.as_millis()).unwrap_or(u32::MAX);
            idle = idle.saturating_add(tenths.saturating_mul(IDLE_FRAMES_PER_SECOND / 10 * factor));
            resets = resets.saturating_add(tenths.saturating_mul(RESETS_PER_SECOND / 10 * factor));
        }
        self.idle_left = self.idle_left.saturating_add(idle).min(IDLE_FRAMES_MAX * factor);
        self.resets_left = self.resets_left.saturating_add(resets).min(RESETS_MAX * factor);
    }

    /// A frame's header is whole.
    fn frame(&mut self) -> Result<(), Verdict> {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.payload = length;
        self.setting = None;
        let fits = match kind {
            PRIORITY => length == 5,
            RST_STREAM | WINDOW_UPDATE => length == 4,
            SETTINGS if flags & END_STREAM_OR_ACK != 0 => length == 0,
            SETTINGS => length % 6 == 0,
            PING => length == 8,
            GOAWAY => length >= 8,
            _ => true,
        };
        if !fits {
            return Err(Verdict::FrameSize);
        }
        match kind {
            DATA if length > 0 || flags & END_STREAM_OR_ACK != 0 => return Ok(()),
            HEADERS => {
                self.block_frames = 0;
                return Ok(());
            }
            CONTINUATION => {
                self.block_frames += 1;
                let endless = self.block_frames > BLOCK_FRAMES_MAX && flags & END_HEADERS == 0;
                return if endless { Err(Verdict::EnhanceYourCalm) } else { Ok(()) };
            }
            RST_STREAM if self.sender == Sender::Server => return Ok(()),
            RST_STREAM => return take(&mut self.resets_left),
            SETTINGS if length > 0 => self.setting = Some(([0; 6], 0)),
            _ => {}
        }
        take(&mut self.idle_left)
    }

    /// Looks at some payload of SETTINGS.
    fn settings(&mut self, bytes: &[u8]) -> Result<(), Verdict> {
        let Some((entry, len)) = &mut self.setting else { return Ok(()) };
        for byte in bytes {
            entry[*len] = *byte;
            *len += 1;
            if *len < entry.len() {
                continue;
            }
            *len = 0;
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            // RFC 9113 6.5.2.
            match u16::from_be_bytes([entry[0], entry[1]]) {
                INITIAL_WINDOW_SIZE if value > i32::MAX as u32 => return Err(Verdict::FlowControl),
                ENABLE_PUSH if value > 0 && self.sender == Sender::Server => return Err(Verdict::Protocol),
                _ => {}
            }
            // Every entry is work.
            take(&mut self.idle_left)?;
        }
        Ok(())
    }
}

const fn factor(sender: Sender) -> u32 {
    match sender {
        Sender::Proxy => PROXY_FACTOR,
        Sender::Client | Sender::Server => 1,
    }
}

fn take(left: &mut u32) -> Result<(), Verdict> {
    *left = left.checked_sub(1).ok_or(Verdict::EnhanceYourCalm)?;
    Ok(())
}
