// SPDX-License-Identifier: Apache-2.0
//! One connection and all that its streams share. A task of its own drives it: it reads, hands out what
//! came, and sends what was gathered; flows write into it from their own tasks. One worker, no lock.

#[cfg(test)]
mod tests;

use super::lane::{End, Lane, Lanes};
use super::server::Arrival;
use super::{
    BYPASS_BYTES, CORK_BYTES_MAX, CORK_FRAMES_MAX, GOODBYE_TIMEOUT, IDLE_OPENER, IDLE_SERVER, OPENER_WAITING_BYTES_MAX,
    PING_AFTER, PING_TIMEOUT, REQUEST_BYPASS_BYTES, SERVER_WAITING_BYTES_MAX, TEND_EVERY, TURN_BYTES_MAX,
};
use crate::http::{Alarm, Error, scratch};
use crate::io::Stream;
use crate::runtime;
use byrnie_base::{Instant, assert_size};
use byrnie_codec::hop::{
    Action, Frame, Grants, Kind, Piece, RESETS_EVERY, Reader, STREAMS_MAX, Session, Side, StreamId, Writer, Wrong,
    code, parse_trailers,
};
use byrnie_codec::{Head, Limits};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;

/// Heads kept for streams to come.
const HEADS_SPARE_MAX: usize = 64;

/// A connection. Its state is borrowed within one poll and never across a call of somebody else's code.
#[derive(Debug)]
pub(super) struct Link(pub(super) RefCell<State>);

#[derive(Debug)]
pub(super) struct State {
    /// None once it has ended.
    stream: Option<Stream>,
    pub(super) session: Session,
    pub(super) lanes: Lanes,
    pub(super) writer: Writer,
    pub(super) inward: Inward,
    outward: Outward,
    care: Care,
}

assert_size!(State, 752);

/// What comes in.
#[derive(Debug)]
pub(super) struct Inward {
    pub(super) limits: Limits,
    reader: Reader,
    /// What the frame under way is.
    action: Action,
    /// Streams that nobody has taken yet.
    pub(super) arrivals: VecDeque<Arrival>,
    /// Memory for heads.
    #[expect(clippy::vec_box, reason = "heads change hands, and a box is moved at a sixteenth of the price")]
    pub(super) heads: Vec<Box<Head>>,
    /// The target that the last stream named, as the next will probably name it too.
    pub(super) target: byrnie_base::Text,
}

/// What goes out.
#[derive(Debug, Default)]
struct Outward {
    /// The task that drives the connection.
    driver: Option<Waker>,
    /// It has been woken to send.
    called: bool,
    /// The socket takes no more.
    blocked: bool,
    /// What was given to TLS since it last held no records that the socket hasn't taken.
    sealed: usize,
    /// Lanes that wait for room or credit.
    queue: Vec<u32>,
    /// Streams whose other side can't be told yet that they are given up, and with which code; and when it's tried again.
    resets: VecDeque<(StreamId, u32)>,
    resets_due: Alarm,
}

/// What keeps a connection honest while nothing happens.
#[derive(Debug)]
struct Care {
    side: Side,
    alarm: Alarm,
    heard: Instant,
    pinged: Option<Instant>,
    goodbye: Option<Instant>,
    used: Instant,
}

impl Link {
    pub(super) fn new(stream: Stream, side: Side, limits: Limits) -> Self {
        let now = runtime::coarse().mono;
        let mut alarm = Alarm::new();
        alarm.set(Some(now + TEND_EVERY));
        Self(RefCell::new(State {
            stream: Some(stream),
            session: Session::new(side),
            lanes: Lanes::default(),
            writer: Writer::default(),
            inward: Inward {
                limits,
                reader: Reader::default(),
                action: Action::Nothing,
                arrivals: VecDeque::new(),
                heads: Vec::new(),
                target: byrnie_base::Text::default(),
            },
            outward: Outward::default(),
            care: Care { side, alarm, heard: now, pinged: None, goodbye: None, used: now },
        }))
    }

    /// Reads, hands out and sends. Ready once the connection has ended; also pending when streams arrived, which
    /// are then in `inward.arrivals`.
    pub(super) fn drive(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.0.borrow_mut();
        state.drive(cx)
    }
}

impl State {
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.outward.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.outward.driver = Some(cx.waker().clone());
        }
        self.send_resets(cx);
        if std::mem::take(&mut self.outward.called) || self.outward.blocked {
            self.outward.blocked = false;
            self.flush();
            self.call_queue();
        }
        let mut turn = 0;
        while !self.is_clogged()
            && let Some(mut stream) = self.stream.take()
        {
            let mut taken = Ok(true);
            let read = stream.poll_pieces(cx, &mut |bytes| {
                turn += bytes.len();
                if taken == Ok(true) {
                    taken = self.take(bytes);
                }
            });
            self.stream = Some(stream);
            match (read, taken) {
                (_, Err(wrong)) => {
                    tracing::debug!(reason = wrong.label(), "the other proxy broke the rules of the hop");
                    self.end(wrong.label());
                }
                (_, Ok(false)) => self.end("closed by the other side"),
                (Poll::Ready(Err(_)), _) => self.end("broken"),
                (Poll::Pending, _) => break,
                (Poll::Ready(Ok(())), _) => {}
            }
            if turn >= TURN_BYTES_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            if !self.inward.arrivals.is_empty() {
                break;
            }
        }
        self.tend(cx);
        if self.stream.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether so much waits to be sent that nothing more is to be read. Ends an opener's connection.
    fn is_clogged(&mut self) -> bool {
        let most = match self.care.side {
            Side::Server => SERVER_WAITING_BYTES_MAX,
            Side::Opener => OPENER_WAITING_BYTES_MAX,
        };
        if self.writer.waiting().len() <= most {
            return false;
        }
        // If the socket takes no more, the driver is woken once it does.
        self.flush();
        let clogged = self.writer.waiting().len() > most;
        if clogged && self.care.side == Side::Opener {
            tracing::debug!("the other proxy of a hop doesn't read");
            self.end("the other side doesn't read");
        }
        clogged
    }

    /// Resets a stream, with a code if the other side knows of it. While an opener has no budget for that, the stream keeps its place.
    pub(super) fn give_up(&mut self, id: StreamId, code: Option<u32>) {
        let Some(code) = code else { return self.session.close(id) };
        let resets = &mut self.outward.resets;
        if resets.is_empty() && self.session.may_reset(runtime::coarse().mono) {
            self.session.close(id);
            return self.control(Frame::new(id, Kind::Reset, code));
        }
        self.session.forsake(id);
        if resets.len() >= STREAMS_MAX as usize {
            // Others have ended meanwhile.
            resets.retain(|(id, _)| self.session.is_forsaken(*id));
        }
        resets.push_back((id, code));
        self.call_driver();
    }

    /// Tells the other side which streams were given up, as far as the budget goes.
    fn send_resets(&mut self, cx: &mut Context<'_>) {
        let now = runtime::coarse().mono;
        while let Some((id, code)) = self.outward.resets.front().copied() {
            if self.session.is_forsaken(id) {
                if !self.session.may_reset(now) {
                    self.outward.resets_due.set(Some(now + RESETS_EVERY));
                    if self.outward.resets_due.poll(cx).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                    return;
                }
                self.session.close(id);
                self.control(Frame::new(id, Kind::Reset, code));
            }
            self.outward.resets.pop_front();
        }
    }

    /// Takes what was read; false at the end.
    fn take(&mut self, bytes: &[u8]) -> Result<bool, Wrong> {
        if bytes.is_empty() {
            return Ok(false);
        }
        let now = runtime::coarse().mono;
        (self.care.heard, self.care.pinged) = (now, None);
        let mut reader = std::mem::take(&mut self.inward.reader);
        let mut rest = bytes;
        let read = loop {
            match reader.next(&mut rest) {
                Ok(Some(piece)) => {
                    if let Err(wrong) = self.piece(&piece, now) {
                        break Err(wrong);
                    }
                }
                Ok(None) => break Ok(true),
                Err(wrong) => break Err(wrong),
            }
        };
        self.inward.reader = reader;
        read
    }

    fn piece(&mut self, piece: &Piece<'_>, now: Instant) -> Result<(), Wrong> {
        let (frame, payload) = (&piece.frame, piece.payload);
        if piece.first {
            self.inward.action = self.session.receive(frame, now)?;
            if self.session.runs_short() {
                let owed: Vec<_> = self.session.owed().collect();
                owed.into_iter().for_each(|(id, stream)| self.grant(id, Grants { stream, connection: 0 }));
            }
        }
        match self.inward.action {
            Action::Open { key: None } => self.arrive(frame, payload)?,
            Action::Open { key: Some(key) } => {
                self.deliver(key, payload, |lane| (lane.headed, lane.answered) = (true, true));
            }
            Action::Interim { key } => self.deliver(key, payload, |lane| {
                lane.interims += 1;
                lane.answered = true;
            }),
            Action::Data { key } => self.deliver(key, payload, |_| {}),
            Action::Trailers { key } => self.trailers(key, frame.stream, payload),
            Action::Reset { key, code, complete } => {
                self.finish(key, if complete { End::Complete } else { End::Reset(code) });
            }
            Action::Credit { key: Some(key) } => self.deliver(key, &[], |_| {}),
            Action::Credit { key: None } => self.call_queue(),
            Action::Ping(value) => self.control(Frame::new(StreamId::CONNECTION, Kind::Pong, value)),
            Action::Pong(_) => {}
            Action::Goodbye => self.say_goodbye(),
            Action::Nothing => {
                let connection = self.session.discard(payload.len());
                self.grant(frame.stream, Grants { stream: 0, connection });
            }
        }
        if piece.last && frame.end {
            self.session.received_end(frame.stream);
            let key = match self.inward.action {
                Action::Open { key: Some(key) } | Action::Data { key } | Action::Trailers { key } => key,
                // A new stream's end is known to its lane already.
                _ => return Ok(()),
            };
            self.finish(key, End::Ended);
        }
        Ok(())
    }

    fn deliver(&mut self, key: u32, payload: &[u8], mark: impl FnOnce(&mut Lane)) {
        let Some(lane) = self.lanes.get(key) else { return };
        lane.keep(payload);
        mark(lane);
        lane.wake();
    }

    fn trailers(&mut self, key: u32, id: StreamId, payload: &[u8]) {
        // They are of no use to the window of the stream, which ends with them.
        let connection = self.session.discard(payload.len());
        self.grant(id, Grants { stream: 0, connection });
        let Some(lane) = self.lanes.get(key) else { return };
        let mut fields = scratch::trailers();
        match parse_trailers(payload, &self.inward.limits, &mut fields) {
            Ok(()) => lane.trailers = Some(fields).filter(|fields| !fields.is_empty()),
            Err(_) => lane.end = End::Reset(code::MALFORMED),
        }
    }

    fn finish(&mut self, key: u32, end: End) {
        let Some(lane) = self.lanes.get(key) else { return };
        if matches!(lane.end, End::Open | End::Ended) {
            lane.end = end;
        }
        lane.wake();
    }

    /// Wakes those who wait for room, in the order in which they came.
    fn call_queue(&mut self) {
        if self.outward.blocked {
            return;
        }
        for key in self.outward.queue.drain(..) {
            if let Some(lane) = self.lanes.get(key) {
                lane.queued = false;
                lane.wake();
            }
        }
    }

    /// Waits, on the lane, for room to send or for credit.
    pub(super) fn wait_for_room(&mut self, key: u32, cx: &Context<'_>) {
        let Some(lane) = self.lanes.get(key) else { return };
        lane.wait(cx);
        if !std::mem::replace(&mut lane.queued, true) {
            self.outward.queue.push(key);
        }
    }

    pub(super) fn grant(&mut self, id: StreamId, grants: Grants) {
        if grants.stream > 0 {
            self.control(Frame::new(id, Kind::Credit, grants.stream));
        }
        if grants.connection > 0 {
            self.control(Frame::new(StreamId::CONNECTION, Kind::Credit, grants.connection));
        }
    }

    pub(super) fn control(&mut self, frame: Frame) {
        self.writer.control(frame);
        self.call_driver();
    }

    /// Sees to it that what was gathered is sent: by the driver, when it's its turn behind the tasks that are
    /// ready now. They may add to it; and it can't be starved by tasks that become ready later.
    pub(super) fn call_driver(&mut self) {
        if !std::mem::replace(&mut self.outward.called, true)
            && let Some(driver) = &self.outward.driver
        {
            driver.wake_by_ref();
        }
    }

    /// Sends at once if enough was gathered, and soon if not.
    pub(super) fn wrote(&mut self) {
        if self.writer.frames() >= CORK_FRAMES_MAX || self.gathered() >= CORK_BYTES_MAX {
            self.flush();
        }
        if self.gathered() > 0 {
            self.call_driver();
        }
    }

    /// Bytes that wait to be sent, sealed or not.
    fn gathered(&self) -> usize {
        self.writer.waiting().len() + self.outward.sealed
    }

    /// How much of a body may be written on a stream in one frame.
    pub(super) fn room(&mut self, id: StreamId) -> usize {
        if self.outward.blocked { 0 } else { self.session.may_send(id) }
    }

    /// Writes a piece of a body on a stream; answers how much was taken.
    pub(super) fn write(&mut self, id: StreamId, piece: &[u8]) -> Result<usize, Error> {
        let mut taken = 0;
        while taken < piece.len() {
            // Not right behind a piece: its end, if it's the last, goes with it.
            if self.gathered() >= CORK_BYTES_MAX {
                self.flush();
            }
            if self.stream.is_none() || !self.session.is_open(id) {
                return Err(Error::Closed);
            }
            let room = self.room(id);
            if room == 0 {
                break;
            }
            let part = &piece[taken..piece.len().min(taken + room)];
            self.session.sent(id, part.len());
            taken += part.len();
            // What a request has sent counts: the longer it's known that nothing of it has left, the better.
            let bypass = if self.care.side == Side::Server { BYPASS_BYTES } else { REQUEST_BYPASS_BYTES };
            if part.len() < bypass {
                self.writer.data(id, part);
            } else {
                self.write_through(id, part);
            }
        }
        Ok(taken)
    }

    /// Seals what was gathered and `part` without copying it together. They are sent with what else there will be.
    fn write_through(&mut self, id: StreamId, part: &[u8]) {
        self.writer.data_header(id, part.len());
        let waited = self.writer.waiting().len();
        let slices = [IoSlice::new(self.writer.waiting()), IoSlice::new(part)];
        let taken = match (&mut self.stream, &self.outward.driver) {
            (Some(stream), Some(driver)) => stream.seal(&mut Context::from_waker(driver), &slices),
            _ => {
                self.outward.blocked = true;
                Ok(0)
            }
        };
        let Ok(taken) = taken else { return self.end("broken") };
        // As if it had been in the buffer.
        self.writer.advance(taken.min(waited));
        let left = part.len() - taken.saturating_sub(waited);
        self.writer.skip(part.len() - left);
        if self.stream.as_ref().is_some_and(Stream::is_tls) {
            self.outward.sealed += taken;
        }
        if left > 0 {
            self.writer.rest(&part[part.len() - left..]);
            self.flush();
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
        if self.outward.blocked {
            return;
        }
        let (Some(stream), Some(driver)) = (&mut self.stream, &self.outward.driver) else { return };
        let cx = &mut Context::from_waker(driver);
        let broken = loop {
            if self.writer.waiting().is_empty() {
                break false;
            }
            match Pin::new(&mut *stream).poll_write(cx, self.writer.waiting()) {
                Poll::Ready(Ok(0) | Err(_)) => break true,
                Poll::Ready(Ok(written)) => {
                    self.writer.advance(written);
                    self.outward.sealed += if stream.is_tls() { written } else { 0 };
                }
                Poll::Pending => {
                    self.outward.blocked = true;
                    return;
                }
            }
        };
        if broken {
            return self.end("broken");
        }
        if self.outward.sealed > 0 {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.outward.sealed = 0,
                Poll::Ready(Err(_)) => self.end("broken"),
                Poll::Pending => self.outward.blocked = true,
            }
        }
    }

    /// Whether the connection has ended.
    pub(super) const fn is_ended(&self) -> bool {
        self.stream.is_none()
    }

    /// Ends the connection; all streams learn it.
    pub(super) fn end(&mut self, why: &'static str) {
        let Some(stream) = self.stream.take() else { return };
        drop(stream);
        tracing::trace!(why, side = ?self.care.side, "hop ended");
        for lane in self.lanes.all() {
            if lane.end == End::Open {
                lane.end = End::Lost;
            }
            lane.wake();
        }
        if let Some(driver) = self.outward.driver.take() {
            driver.wake();
        }
    }

    /// Opens no more streams, and asks the other side for the same.
    pub(super) fn say_goodbye(&mut self) {
        if self.session.say_goodbye() {
            self.care.goodbye = Some(runtime::coarse().mono);
            self.control(Frame::new(StreamId::CONNECTION, Kind::Goaway, 0));
        }
    }

    /// Gives memory for a head back.
    pub(super) fn keep_head(&mut self, head: Box<Head>) {
        if self.inward.heads.len() < HEADS_SPARE_MAX {
            self.inward.heads.push(head);
        }
    }

    /// Notices who is gone, idle or done.
    fn tend(&mut self, cx: &mut Context<'_>) {
        if self.session.is_over() && self.gathered() == 0 {
            return self.end("over");
        }
        while self.stream.is_some() && self.care.alarm.poll(cx).is_ready() {
            let now = runtime::coarse().mono;
            self.care.alarm.set(Some(now + TEND_EVERY));
            self.look_after(now);
        }
    }

    fn look_after(&mut self, now: Instant) {
        let late = |since: Option<Instant>, most| since.is_some_and(|since| now.since(since) >= most);
        if late(self.care.pinged, PING_TIMEOUT) {
            tracing::debug!("the other proxy of a hop no longer answers");
            return self.end("silent");
        }
        if self.session.awaits_goodbye() && late(self.care.goodbye, GOODBYE_TIMEOUT) {
            return self.end("goodbye unanswered");
        }
        if self.session.open_streams() > 0 {
            self.care.used = now;
            if self.care.pinged.is_none() && now.since(self.care.heard) >= PING_AFTER {
                self.care.pinged = Some(now);
                self.control(Frame::new(StreamId::CONNECTION, Kind::Ping, 0));
            }
            return;
        }
        let most = if self.care.side == Side::Opener { IDLE_OPENER } else { IDLE_SERVER };
        if now.since(self.care.used.max(self.care.heard)) >= most {
            self.say_goodbye();
        }
    }
}
