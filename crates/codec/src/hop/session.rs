// SPDX-License-Identifier: Apache-2.0
//! The state of one connection: which streams are open, how far each direction is, what credit is left,
//! and whether a peer keeps the rules. It holds no payload and sends nothing; whoever drives it
//! does what the [`Action`] says.

use super::{
    Budget, CONNECTION_CREDIT_BYTES, CREDIT_BYTES_MAX, CURB_BYTES, FRAME_BYTES_MAX, Frame, HEADS_OVERDRAW_BYTES_MAX,
    IDLES_BURST, IDLES_EVERY, IDLES_PER_BYTES, IDLES_PER_CLOSED, IDLES_PER_FRAME, INTERIMS_MAX, Kind, PINGS_BURST,
    PINGS_EVERY, RESETS_BURST, RESETS_EVERY, RESETS_LATE_BURST, STREAM_CREDIT_BYTES, STREAMS_MAX, StreamId, Window,
    Wrong,
};
use byrnie_base::Instant;

/// Each stream may have this much under way, whatever the others have: streams whose readers don't read leave it to those that
/// are opened later.
const RESERVED_BYTES: i64 = 2 * 1024;
const RESERVED_BYTES_ALL: i64 = RESERVED_BYTES * STREAMS_MAX as i64;
/// Of what is left of the rest a stream may have this part under way: "Dynamic queue length thresholds for
/// shared-memory packet switches" (Choudhury and Hahne, 1998).
const SHARE: i64 = 8;
/// Less than this isn't worth a frame, where something is under way.
const SHARE_BYTES_MIN: i64 = 512;
/// Credit on the connection is given back in such steps.
const STEP_BYTES: u32 = 1024 * 1024;
/// With less credit left on the connection a share may be less than a stream's window: then all that has been passed on is
/// given back at once, as who may send little never makes up half a window.
const SHORT_BYTES: i64 = RESERVED_BYTES_ALL + (STREAM_CREDIT_BYTES as i64 + SHARE_BYTES_MIN) * SHARE + 256 * 1024;
const _: () = assert!(SHORT_BYTES + 2 * (STEP_BYTES as i64) < CONNECTION_CREDIT_BYTES as i64);

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It made the connection and opens the streams.
    Opener,
    /// It accepted the connection and serves the streams.
    Server,
}

/// What a frame asks of the driver. `key` is what the driver calls the stream by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A new stream, or the head of its answer, with the start of the body. A new one must be given its
    /// key with [`Session::bind`], or be refused with [`Session::close`] and a RESET.
    Open {
        /// Whose it is; none if it is new.
        key: Option<u32>,
    },
    /// The head of an interim answer.
    Interim {
        /// Whose it is.
        key: u32,
    },
    /// A piece of a body.
    Data {
        /// Whose it is.
        key: u32,
    },
    /// The trailers.
    Trailers {
        /// Whose they are.
        key: u32,
    },
    /// The stream has ended in both directions.
    Reset {
        /// Which one.
        key: u32,
        /// Why; see [`super::code`].
        code: u32,
        /// The other direction had already ended in order.
        complete: bool,
    },
    /// More may be sent on a stream, or (none) in all.
    Credit {
        /// Which one.
        key: Option<u32>,
    },
    /// Answer with a PONG of this value.
    Ping(u32),
    /// The answer to a PING of this value.
    Pong(u32),
    /// Open no more streams, and say so.
    Goodbye,
    /// Of a stream that is gone. Its payload is to be given to [`Session::discard`].
    Nothing,
}

/// Credit to be given back now; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// On the stream.
    pub stream: u32,
    /// On the connection.
    pub connection: u32,
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    side: Side,
    /// By slot; the first is never used.
    slots: Vec<Slot>,
    free: Vec<StreamId>,
    open: u32,
    send: i64,
    /// What streams have under way of what is reserved for them.
    reserved: i64,
    window: Window,
    /// What may still come is little.
    short: bool,
    goodbye: Goodbye,
    budgets: Budgets,
}

/// What costs work and carries nothing.
#[derive(Debug)]
struct Budgets {
    /// Streams reset: of an opener those that it resets, of a server those that it's told of.
    resets: Budget,
    pings: Budget,
    idles: Budget,
    /// Idle frames that what this side did has brought about, and more; not cut at any height, as the peer may be late with them.
    idles_due: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Goodbye {
    said: bool,
    heard: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Of the stream that has it, or had it last.
    generation: u16,
    stream: Option<Stream>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    key: u32,
    headed: bool,
    interims: u8,
    got_end: bool,
    sent_end: bool,
    /// Given up by this side, which hasn't said so yet.
    forsaken: bool,
    send: i64,
    window: Window,
    /// What has still to be given back of an answer before it's like others; see [`CURB_BYTES`].
    curb: u32,
}

impl Stream {
    const fn new(key: u32, headed: bool) -> Self {
        let window = Window::new(STREAM_CREDIT_BYTES);
        let send = STREAM_CREDIT_BYTES as i64;
        Self { key, headed, interims: 0, got_end: false, sent_end: false, forsaken: false, send, window, curb: 0 }
    }

    /// What was sent and hasn't been given back.
    fn under_way(&self) -> i64 {
        (i64::from(STREAM_CREDIT_BYTES) - self.send).max(0)
    }

    fn reserved(&self) -> i64 {
        self.under_way().min(RESERVED_BYTES)
    }

    /// So much was given back, by the side that reads the answer.
    const fn gave(&mut self, bytes: u32) {
        if self.curb > 0 {
            self.curb = self.curb.saturating_sub(bytes);
            if self.curb == 0 {
                self.window.set_step(STREAM_CREDIT_BYTES / 2);
            }
        }
    }
}

impl Session {
    /// A fresh connection.
    pub const fn new(side: Side) -> Self {
        let resets_burst = match side {
            Side::Opener => RESETS_BURST,
            Side::Server => RESETS_LATE_BURST,
        };
        Self {
            side,
            slots: Vec::new(),
            free: Vec::new(),
            open: 0,
            send: CONNECTION_CREDIT_BYTES as i64,
            reserved: 0,
            window: Window::in_steps(CONNECTION_CREDIT_BYTES, STEP_BYTES),
            short: false,
            goodbye: Goodbye { said: false, heard: false },
            budgets: Budgets {
                resets: Budget::new(resets_burst, RESETS_EVERY),
                pings: Budget::new(PINGS_BURST, PINGS_EVERY),
                idles: Budget::new(IDLES_BURST, IDLES_EVERY),
                idles_due: 0,
            },
        }
    }

    /// Streams that are open.
    pub const fn open_streams(&self) -> u32 {
        self.open
    }

    /// Whether a stream may be opened just now.
    pub const fn has_room(&self) -> bool {
        let starves = self.send <= 0 || self.window.left() <= RESERVED_BYTES;
        !self.is_leaving() && !starves && self.open < STREAMS_MAX
    }

    /// Whether a stream had better be opened elsewhere: here are clients that don't read.
    pub const fn is_short(&self) -> bool {
        self.window.left() <= (CONNECTION_CREDIT_BYTES / 8) as i64
    }

    /// Opens a stream, if there is room.
    pub fn open(&mut self, key: u32) -> Option<StreamId> {
        if self.side != Side::Opener || !self.has_room() {
            return None;
        }
        let id = match self.free.pop() {
            Some(last) => last.next(),
            None => StreamId::new(u32::try_from(self.slots.len().max(1)).ok()?, 1),
        };
        self.fill(id, Stream::new(key, false));
        Some(id)
    }

    fn fill(&mut self, id: StreamId, stream: Stream) {
        let slot = id.slot() as usize;
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, Slot::default());
        }
        self.slots[slot] = Slot { generation: id.generation(), stream: Some(stream) };
        self.open += 1;
    }

    fn stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        let slot = self.slots.get_mut(id.slot() as usize)?;
        if slot.generation == id.generation() { slot.stream.as_mut() } else { None }
    }

    /// Gives a new stream its key.
    pub fn bind(&mut self, id: StreamId, key: u32) {
        if let Some(stream) = self.stream(id) {
            stream.key = key;
        }
    }

    /// What is answered on the stream is for a newcomer: see [`CURB_BYTES`]. Of no effect where the other side doesn't know of it.
    pub fn curb(&mut self, id: StreamId) {
        let side = self.side;
        if let Some(stream) = self.stream(id) {
            stream.curb = CURB_BYTES;
            if side == Side::Opener {
                stream.window.set_step(CURB_BYTES);
            }
        }
    }

    /// Whether the stream is still open in any direction, and not forsaken.
    pub fn is_open(&mut self, id: StreamId) -> bool {
        self.stream(id).is_some_and(|stream| !stream.forsaken)
    }

    /// Whether the other side may be sent a RESET now, which is then to be sent. An opener keeps to its budget; a server has none.
    pub fn may_reset(&mut self, now: Instant) -> bool {
        self.side == Side::Server || self.budgets.resets.take(now)
    }

    /// Nobody cares for the stream any more, and the other side can't be told yet ([`Session::may_reset`]): what comes on it is for
    /// nobody, and it keeps its place until it's reset or has ended.
    pub fn forsake(&mut self, id: StreamId) {
        if let Some(stream) = self.stream(id) {
            stream.forsaken = true;
        }
    }

    /// Whether the stream is forsaken and still has its place.
    pub fn is_forsaken(&mut self, id: StreamId) -> bool {
        self.stream(id).is_some_and(|stream| stream.forsaken)
    }

    /// Ends a stream in both directions: it was reset by this side.
    pub fn close(&mut self, id: StreamId) {
        let Some(slot) = self.slots.get_mut(id.slot() as usize) else { return };
        if slot.generation != id.generation() {
            return;
        }
        let Some(stream) = slot.stream.take() else { return };
        self.reserved -= stream.reserved();
        self.open -= 1;
        self.budgets.idles_due += IDLES_PER_CLOSED;
        if self.side == Side::Opener {
            self.free.push(id);
        }
    }

    /// How much of a body may be sent on the stream in one frame. It may overdraw the stream's credit, but none follows.
    pub fn may_send(&mut self, id: StreamId) -> usize {
        let (left, others, side) = (self.send, RESERVED_BYTES_ALL - self.reserved, self.side);
        let Some(stream) = self.stream(id).filter(|stream| left > 0 && stream.send > 0) else { return 0 };
        let (under_way, reserved) = (stream.under_way(), stream.reserved());
        let share = ((left - others) / SHARE - (under_way - reserved)).max(0);
        let curb = if side == Side::Server && stream.curb > 0 { i64::from(CURB_BYTES) - under_way } else { i64::MAX };
        let room = RESERVED_BYTES - reserved + share;
        let room = if room < SHARE_BYTES_MIN { 0 } else { room.min(curb) };
        usize::try_from(room).unwrap_or(0).min(FRAME_BYTES_MAX)
    }

    /// Whether a head may be sent.
    pub const fn may_send_head(&self) -> bool {
        self.send > -HEADS_OVERDRAW_BYTES_MAX / 2
    }

    /// So much payload has been written on the stream.
    pub fn sent(&mut self, id: StreamId, bytes: usize) {
        self.send -= bytes as i64;
        self.budgets.idles_due += IDLES_PER_FRAME + bytes as u64 / IDLES_PER_BYTES;
        if let Some(stream) = self.stream(id) {
            let before = stream.reserved();
            stream.send -= bytes as i64;
            let taken = stream.reserved() - before;
            self.reserved += taken;
        }
    }

    /// This side's direction has ended.
    pub fn end(&mut self, id: StreamId) {
        let Some(stream) = self.stream(id) else { return };
        stream.sent_end = true;
        let over = stream.got_end;
        if self.side == Side::Server {
            self.budgets.resets.earn(1);
        }
        if over {
            self.close(id);
        }
    }

    /// So much of what came on the stream has been passed on.
    pub fn consume(&mut self, id: StreamId, bytes: usize) -> Grants {
        let connection = self.discard(bytes);
        let (short, side) = (self.short, self.side);
        let stream = self.stream(id).filter(|stream| !stream.got_end);
        let stream = stream.map_or(0, |stream| {
            let granted = match stream.window.consume(bytes) {
                0 if short => stream.window.give_back(),
                granted => granted,
            };
            // What is given back of a request says nothing of its answer.
            if side == Side::Opener {
                stream.gave(granted);
            }
            granted
        });
        Grants { stream, connection }
    }

    /// Whether what may still come has just become little. Then everything in [`Session::owed`] is to be given back.
    pub fn runs_short(&mut self) -> bool {
        self.window.left() < SHORT_BYTES && !std::mem::replace(&mut self.short, true)
    }

    /// What has been passed on and not been given back, of each stream.
    pub fn owed(&mut self) -> impl Iterator<Item = (StreamId, u32)> {
        let side = self.side;
        self.slots.iter_mut().enumerate().filter_map(move |(slot, Slot { generation, stream })| {
            let stream = stream.as_mut().filter(|stream| !stream.got_end)?;
            let granted = stream.window.give_back();
            if side == Side::Opener {
                stream.gave(granted);
            }
            let id = StreamId::new(u32::try_from(slot).ok()?, *generation);
            (granted > 0).then_some((id, granted))
        })
    }

    /// So much came for nobody. Answers the credit to be given back on the connection.
    pub fn discard(&mut self, bytes: usize) -> u32 {
        let granted = match self.window.consume(bytes) {
            0 if self.short => self.window.give_back(),
            granted => granted,
        };
        self.short &= self.window.left() < SHORT_BYTES + i64::from(STEP_BYTES);
        granted
    }

    /// This side says goodbye; true if it hadn't before.
    pub const fn say_goodbye(&mut self) -> bool {
        !std::mem::replace(&mut self.goodbye.said, true)
    }

    /// Whether either side has said goodbye.
    pub const fn is_leaving(&self) -> bool {
        self.goodbye.said || self.goodbye.heard
    }

    /// Whether both sides have said goodbye and no stream is left.
    pub const fn is_over(&self) -> bool {
        self.goodbye.said && self.goodbye.heard && self.open == 0
    }

    /// Whether this side has said goodbye and the other hasn't.
    pub const fn awaits_goodbye(&self) -> bool {
        self.goodbye.said && !self.goodbye.heard
    }

    /// A frame has begun to arrive.
    ///
    /// # Errors
    /// If the peer broke a rule: the connection must be closed.
    pub fn receive(&mut self, frame: &Frame, now: Instant) -> Result<Action, Wrong> {
        if frame.kind.has_payload() {
            let action = self.payload(frame)?;
            let ends = frame.end || frame.kind != Kind::Data;
            if frame.payload_bytes() == 0 && (!ends || action == Action::Nothing) {
                self.idle(now)?;
            }
            return Ok(action);
        }
        match frame.kind {
            Kind::Reset => self.reset(frame, now),
            Kind::Credit => {
                self.idle(now)?;
                self.credit(frame)
            }
            Kind::Ping if self.budgets.pings.take(now) => Ok(Action::Ping(frame.value)),
            Kind::Ping => Err(Wrong::Pings),
            Kind::Pong => {
                self.idle(now)?;
                Ok(Action::Pong(frame.value))
            }
            _ if std::mem::replace(&mut self.goodbye.heard, true) => Err(Wrong::Goodbye),
            _ => Ok(Action::Goodbye),
        }
    }

    /// The frame with the mark of the end has arrived whole.
    pub fn received_end(&mut self, id: StreamId) {
        let Some(stream) = self.stream(id) else { return };
        stream.got_end = true;
        let over = stream.sent_end;
        if self.side == Side::Opener {
            self.budgets.resets.earn(1);
        }
        if over {
            self.close(id);
        }
    }

    /// A frame has come that carries nothing.
    fn idle(&mut self, now: Instant) -> Result<(), Wrong> {
        match self.budgets.idles_due.checked_sub(1) {
            Some(left) => self.budgets.idles_due = left,
            None if self.budgets.idles.take(now) => {}
            None => return Err(Wrong::Idles),
        }
        Ok(())
    }

    fn payload(&mut self, frame: &Frame) -> Result<Action, Wrong> {
        let (id, bytes) = (frame.stream, frame.payload_bytes());
        let floor = if frame.kind == Kind::Data { 0 } else { -HEADS_OVERDRAW_BYTES_MAX };
        if bytes > 0 && self.window.left() <= floor {
            return Err(Wrong::Overdrawn);
        }
        self.window.receive(bytes);
        if id.slot() > STREAMS_MAX {
            return Err(Wrong::Slot);
        }
        if frame.kind == Kind::Open && self.side == Side::Server {
            return self.accept(frame);
        }
        if frame.kind == Kind::Interim && self.side == Side::Server {
            return Err(Wrong::Opened);
        }
        if id.slot() as usize >= self.slots.len() {
            return Err(Wrong::Slot);
        }
        let Some(stream) = self.stream(id) else { return Ok(Action::Nothing) };
        if stream.got_end {
            return Err(Wrong::AfterEnd);
        }
        if frame.kind == Kind::Data && bytes > 0 && stream.window.left() <= 0 {
            return Err(Wrong::Overdrawn);
        }
        stream.window.receive(bytes);
        let (key, forsaken) = (stream.key, stream.forsaken);
        let action = match (frame.kind, stream.headed) {
            (Kind::Open | Kind::Interim, true) => Err(Wrong::SecondHead),
            (Kind::Data | Kind::Trailers, false) => Err(Wrong::BeforeHead),
            (Kind::Interim, false) => {
                stream.interims += 1;
                if stream.interims > INTERIMS_MAX { Err(Wrong::Interims) } else { Ok(Action::Interim { key }) }
            }
            (Kind::Trailers, true) => Ok(Action::Trailers { key }),
            (Kind::Data, true) => Ok(Action::Data { key }),
            (_, _) => {
                stream.headed = true;
                Ok(Action::Open { key: Some(key) })
            }
        };
        if forsaken { action.map(|_| Action::Nothing) } else { action }
    }

    fn accept(&mut self, frame: &Frame) -> Result<Action, Wrong> {
        let id = frame.stream;
        if self.goodbye.heard {
            return Err(Wrong::AfterGoodbye);
        }
        // The credit as it was before this frame.
        if self.window.left() + frame.payload_bytes() as i64 <= 0 {
            return Err(Wrong::Overdrawn);
        }
        let slot = self.slots.get(id.slot() as usize).copied().unwrap_or_default();
        if slot.stream.is_some() {
            return Err(Wrong::Occupied);
        }
        if slot.generation == id.generation() {
            return Err(Wrong::Opened);
        }
        let mut stream = Stream::new(u32::MAX, true);
        stream.window.receive(frame.payload_bytes());
        self.fill(id, stream);
        Ok(Action::Open { key: None })
    }

    fn reset(&mut self, frame: &Frame, now: Instant) -> Result<Action, Wrong> {
        if self.side == Side::Server && !self.budgets.resets.take(now) {
            return Err(Wrong::Resets);
        }
        let id = frame.stream;
        let Some(stream) = self.stream(id).copied() else {
            if self.side == Side::Opener {
                self.idle(now)?;
            }
            return Ok(Action::Nothing);
        };
        self.close(id);
        if stream.forsaken {
            return Ok(Action::Nothing);
        }
        Ok(Action::Reset { key: stream.key, code: frame.value, complete: stream.got_end })
    }

    fn credit(&mut self, frame: &Frame) -> Result<Action, Wrong> {
        let granted = i64::from(frame.value);
        let (held, key) = if frame.stream == StreamId::CONNECTION {
            self.send += granted;
            (self.send, None)
        } else {
            let Some(stream) = self.stream(frame.stream) else { return Ok(Action::Nothing) };
            let before = stream.reserved();
            stream.send += granted;
            stream.curb = stream.curb.saturating_sub(frame.value);
            let (held, key, back) = (stream.send, (!stream.forsaken).then_some(stream.key), before - stream.reserved());
            self.reserved -= back;
            if key.is_none() && held <= CREDIT_BYTES_MAX {
                return Ok(Action::Nothing);
            }
            (held, key)
        };
        if held > CREDIT_BYTES_MAX { Err(Wrong::Credit) } else { Ok(Action::Credit { key }) }
    }
}
