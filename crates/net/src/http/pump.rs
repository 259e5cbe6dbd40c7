// SPDX-License-Identifier: Apache-2.0
//! One direction of an exchange: pulls a body out of one wire and pushes it into another, with
//! backpressure, keeps a copy of a small one while another try may need it, and compresses it where that is asked for.

use super::{Error, Progress, Wire, scratch};
use crate::http::Chunk;
use byrnie_codec::Fields;
use byrnie_codec::gzip::{Flush, Gzip};
use std::task::{Context, Poll, ready};

/// Largest body of which a copy is kept for another try.
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a body that are compressed before others have their turn on this core: some tenths of a millisecond's worth.
const CODED_SLICE_BYTES: u64 = 64 * 1024;
/// Bytes that are read at once to be compressed.
const CODED_READ_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a compressed body that are handed on at once.
const CODED_BYTES: usize = 4 * 1024;

/// One direction of an exchange.
#[derive(Debug)]
pub struct Pump {
    /// Payload moved so far as it was read, in bytes, replays not counted again.
    pub bytes: u64,
    source_ended: bool,
    trailers: Option<Box<Fields>>,
    /// The end has been written to the target.
    ended: bool,
    /// It has been sent, and everything before it.
    sent: bool,
    /// Nothing more is read until the target takes more.
    blocked: bool,
    /// Nothing is read as long as anything waits for the target.
    curbed: bool,
    /// Trailers that are read and not sent on.
    withheld: &'static [&'static str],
    copy: Copy,
}

// Two of them stand in each exchange.
byrnie_base::assert_size!(Pump, 72);

/// What is made of a body beside moving it.
#[derive(Debug)]
enum Copy {
    /// Nothing: no other try will follow, or the body grew too large.
    Off,
    /// All that was read; `replay` says that it must be written before more is read.
    Kept { bytes: Vec<u8>, replay: bool },
    /// What is written is compressed, and nothing is kept.
    Coded(Box<Coded>),
}

/// What a body is compressed by.
#[derive(Debug, Default)]
struct Coded {
    gzip: Gzip,
    /// What was gathered before that was said.
    before: Vec<u8>,
}

/// How much of a body was gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// All of it, with its trailers.
    Whole,
    /// More than was asked for; the rest is still to be read.
    Part,
}

/// Whose fault it was.
#[derive(Debug)]
pub enum Fault {
    /// The wire that was read.
    Source(Error),
    /// The wire that was written.
    Target(Error),
}

impl Pump {
    /// The trailers that came with the body's end, if there were any.
    pub fn trailers(&self) -> Option<&Fields> {
        self.trailers.as_deref()
    }

    /// Trailers of these names, in lower case, are read and not sent on.
    pub fn withhold(&mut self, names: &'static [&'static str]) {
        self.withheld = names;
    }

    /// A direction that has moved nothing; `keep` says that a copy is wanted.
    pub fn new(keep: bool) -> Self {
        let copy = if keep { Copy::Kept { bytes: Vec::new(), replay: false } } else { Copy::Off };
        Self {
            bytes: 0,
            source_ended: false,
            trailers: None,
            ended: false,
            sent: false,
            blocked: false,
            curbed: false,
            withheld: &[],
            copy,
        }
    }

    /// The same towards a client of which it isn't known that it takes anything: nothing more is read before it has taken what
    /// came, so that its credit isn't given back for what only lies here.
    pub fn curbed() -> Self {
        let mut pump = Self::new(false);
        pump.curbed = true;
        pump
    }

    /// Says whether a body of which nothing has been written yet is compressed.
    pub fn set_compressed(&mut self, compressed: bool) {
        if compressed {
            let before = match &mut self.copy {
                Copy::Kept { bytes, replay: true } => std::mem::take(bytes),
                _ => Vec::new(),
            };
            self.copy = Copy::Coded(Box::new(Coded { before, ..Coded::default() }));
        }
    }

    /// Whether the whole body has been written to the target (perhaps not sent yet).
    pub fn is_done(&self) -> bool {
        self.ended
    }

    /// Whether it is the target that keeps it from moving on.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether the body can be sent again from its beginning.
    pub fn is_replayable(&self) -> bool {
        self.bytes == 0 || matches!(self.copy, Copy::Kept { .. })
    }

    /// The whole body, if all of it was read and a copy of it was kept; without its trailers.
    pub fn whole(&self) -> Option<&[u8]> {
        match &self.copy {
            Copy::Kept { bytes, .. } if self.source_ended => Some(bytes),
            Copy::Off if self.source_ended && self.bytes == 0 => Some(&[]),
            Copy::Kept { .. } | Copy::Off | Copy::Coded(_) => None,
        }
    }

    /// Begins anew with the copy, towards another target.
    pub fn rewind(&mut self) {
        (self.ended, self.sent) = (false, false);
        if let Copy::Kept { replay, .. } = &mut self.copy {
            *replay = true;
        }
    }

    /// Lets the copy go: no other try will follow.
    pub fn forget(&mut self) {
        if !matches!(self.copy, Copy::Kept { replay: true, .. }) {
            self.copy = Copy::Off;
        }
    }

    /// Reads the body of `source` into the copy before any of it is written, until its end or until there
    /// are more than `bytes_max`. [`Pump::poll`] then writes what was gathered, and goes on.
    pub fn gather(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Wire,
        bytes_max: usize,
    ) -> Poll<Result<Gathered, Error>> {
        while !self.source_ended {
            if matches!(self.copy, Copy::Off) {
                self.copy = Copy::Kept { bytes: Vec::new(), replay: true };
            }
            let Copy::Kept { bytes, replay } = &mut self.copy else { break };
            *replay = true;
            if bytes.len() > bytes_max {
                return Poll::Ready(Ok(Gathered::Part));
            }
            let total = &mut self.bytes;
            let progress = source.poll_body(cx, &mut |_, chunk| {
                *total += chunk.as_slice().len() as u64;
                bytes.extend_from_slice(chunk.as_slice());
                Ok(())
            });
            if let Progress::End(trailers) = ready!(progress)? {
                self.source_ended = true;
                self.trailers = trailers;
            }
        }
        let whole = self.gathered().len() <= bytes_max;
        Poll::Ready(Ok(if whole { Gathered::Whole } else { Gathered::Part }))
    }

    /// Lets go what was gathered of a body that goes nowhere.
    pub fn discard(&mut self) {
        self.copy = Copy::Off;
    }

    /// What was gathered of the body.
    pub fn gathered(&self) -> &[u8] {
        match &self.copy {
            Copy::Kept { bytes, .. } => bytes,
            Copy::Off | Copy::Coded(_) => &[],
        }
    }

    /// Whether what was gathered is still to be written.
    pub fn is_gathered(&self) -> bool {
        matches!(self.copy, Copy::Kept { replay: true, .. })
    }

    /// Puts another body in the place of what was gathered, which was all. Its trailers stay.
    pub fn replace(&mut self, bytes: Vec<u8>) {
        self.copy = Copy::Kept { bytes, replay: true };
    }

    /// Moves what can be moved. Ready when all is written and sent.
    pub fn poll(&mut self, cx: &mut Context<'_>, source: &mut Wire, target: &mut Wire) -> Poll<Result<(), Fault>> {
        // Nearly always it's asked again only because the answer has come.
        if self.sent {
            return Poll::Ready(Ok(()));
        }
        self.replay(cx, target).map_err(Fault::Target)?;
        let before = self.bytes;
        while !self.source_ended {
            let coded = matches!(self.copy, Copy::Coded(_));
            if coded && self.bytes - before >= CODED_SLICE_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.blocked = true;
            // The head goes out with the first piece.
            let most = if self.curbed && self.bytes > 0 { 1 } else { target.unsent_max() };
            if target.unsent() >= most {
                ready!(target.poll_flush(cx)).map_err(Fault::Target)?;
            }
            let room = ready!(target.poll_room(cx));
            source.read_at_most(if coded { room.min(CODED_READ_BYTES_MAX) } else { room });
            self.blocked = false;
            let Poll::Ready(progress) = self.pull(cx, source, target) else {
                self.code(cx, target, Flush::Now)?;
                // What waits may go out, but it isn't the end.
                if let Poll::Ready(Err(error)) = target.poll_flush(cx) {
                    return Poll::Ready(Err(Fault::Target(error)));
                }
                return Poll::Pending;
            };
            if let Progress::End(trailers) = progress? {
                self.source_ended = true;
                self.trailers = trailers;
            }
        }
        if !self.ended {
            self.code(cx, target, Flush::End)?;
            self.end(target).map_err(Fault::Target)?;
            self.ended = true;
        }
        ready!(target.poll_flush(cx)).map_err(Fault::Target)?;
        self.sent = true;
        Poll::Ready(Ok(()))
    }

    fn end(&self, target: &mut Wire) -> Result<(), Error> {
        match &self.trailers {
            Some(trailers) if !self.withheld.is_empty() => {
                let mut told = trailers.clone();
                for name in self.withheld {
                    told.remove(name);
                }
                target.end(Some(&told))
            }
            trailers => target.end(trailers.as_deref()),
        }
    }

    fn pull(&mut self, cx: &mut Context<'_>, source: &mut Wire, target: &mut Wire) -> Poll<Result<Progress, Fault>> {
        let Self { bytes, copy, .. } = self;
        let mut failed = None;
        let progress = source.poll_body(cx, &mut |cx, chunk| {
            *bytes += chunk.as_slice().len() as u64;
            // Its error is the target's: the source must not be blamed for it.
            let pushed = match copy {
                Copy::Coded(coded) => push_coded(&mut coded.gzip, cx, chunk.as_slice(), Flush::No, target),
                _ => {
                    copy.add(chunk.as_slice());
                    target.push(cx, chunk)
                }
            };
            match pushed {
                Ok(()) => Ok(()),
                Err(error) => {
                    failed = Some(error);
                    Err(Error::Closed)
                }
            }
        });
        match failed {
            Some(error) => Poll::Ready(Err(Fault::Target(error))),
            None => progress.map_err(Fault::Source),
        }
    }

    /// Has the coder, if there is one, hand out what it holds.
    fn code(&mut self, cx: &mut Context<'_>, target: &mut Wire, flush: Flush) -> Result<(), Fault> {
        let Copy::Coded(coded) = &mut self.copy else { return Ok(()) };
        if flush == Flush::Now && !coded.gzip.holds() {
            return Ok(());
        }
        push_coded(&mut coded.gzip, cx, &[], flush, target).map_err(Fault::Target)?;
        if flush == Flush::End {
            self.copy = Copy::Off;
        }
        Ok(())
    }

    fn replay(&mut self, cx: &mut Context<'_>, target: &mut Wire) -> Result<(), Error> {
        match &mut self.copy {
            Copy::Kept { bytes, replay } => {
                if std::mem::take(replay) && !bytes.is_empty() {
                    target.push(cx, Chunk::Slice(bytes))?;
                }
            }
            Copy::Coded(coded) if !coded.before.is_empty() => {
                let before = std::mem::take(&mut coded.before);
                push_coded(&mut coded.gzip, cx, &before, Flush::No, target)?;
            }
            Copy::Coded(_) | Copy::Off => {}
        }
        Ok(())
    }
}

/// Compresses a piece, and writes what comes of it so far. Apart, so that other bodies don't pay for its buffer.
#[inline(never)]
fn push_coded(
    gzip: &mut Gzip,
    cx: &mut Context<'_>,
    mut piece: &[u8],
    flush: Flush,
    target: &mut Wire,
) -> Result<(), Error> {
    let mut out = [0; CODED_BYTES];
    loop {
        // It ends once, when all has come.
        let (taken, made) = gzip.step(piece, &mut out, flush).map_err(|_| Error::Closed)?;
        if made > 0 {
            target.push(cx, Chunk::Slice(&out[..made]))?;
        }
        piece = &piece[taken..];
        if piece.is_empty() && made < out.len() {
            return Ok(());
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if let Some(trailers) = self.trailers.take() {
            scratch::recycle_trailers(trailers);
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Self::Kept { bytes, .. } = self {
            scratch::recycle(std::mem::take(bytes));
        }
    }
}

impl Copy {
    fn add(&mut self, piece: &[u8]) {
        if let Self::Kept { bytes, .. } = self {
            // Where memory is short, no more is kept than may wait to be sent.
            if bytes.len() + piece.len() > REPLAY_BYTES_MAX.min(scratch::read_max()) {
                *self = Self::Off;
            } else {
                if bytes.capacity() == 0 {
                    *bytes = scratch::buffer_for_copy(piece.len());
                }
                bytes.extend_from_slice(piece);
            }
        }
    }
}
