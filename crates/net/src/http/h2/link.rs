// SPDX-License-Identifier: Apache-2.0
//! One connection and all that its streams share. A task of its own drives it: it reads, hands out what
//! came, and sends what was gathered; flows write into it from their own tasks. One worker, no lock.

use super::guard::{Guard, Sender};
use super::lane::{End, Lanes};
use super::server::Arrival;
use super::{
    CLOSE_MAX, CORK_BYTES_MAX, GOODBYE_TIMEOUT, LINGER_BYTES_MAX, LINGER_MAX, RESETS_PENDING_MAX, TURN_BYTES_MAX,
    UNREAD_BYTES_MAX,
};
use crate::http::{Alarm, Error, scratch};
use crate::io::Stream;
use crate::runtime;
use byrnie_base::assert_size;
use byrnie_codec::h2::{Event, Session, Side, Why, Wrong, code};
use byrnie_codec::hop::NEWCOMER;
use byrnie_codec::{Known, RejectReason};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite;

/// A connection. Its state is borrowed within one poll and never across a call of somebody else's code.
#[derive(Debug)]
pub(super) struct Link(pub(super) RefCell<State>);

#[derive(Debug)]
pub(super) struct State {
    /// None once it has ended.
    stream: Option<Stream>,
    pub(super) session: Session,
    pub(super) guard: Guard,
    pub(super) lanes: Lanes,
    /// Read before it was known that this is HTTP/2.
    prefix: Vec<u8>,
    /// Streams that nobody has taken yet.
    pub(super) arrivals: VecDeque<Arrival>,
    /// Of those, how many were reset since one was taken.
    unseen_resets: usize,
    /// Why others were no requests. No more than the session lets a peer have.
    pub(super) malformed: Vec<RejectReason>,
    outward: Outward,
    /// Those who wait for room for a stream, or for SETTINGS.
    waiters: Vec<Waker>,
    closing: Option<Closing>,
    /// Goes off when a goodbye went unanswered; or when a server that takes nothing any more should have been heard to its end.
    goodbye: Alarm,
}

assert_size!(State, 1040);

/// What goes out.
#[derive(Debug, Default)]
struct Outward {
    /// The task that drives the connection.
    driver: Option<Waker>,
    /// It has been woken to send.
    called: bool,
    /// The socket takes no more.
    blocked: bool,
    /// TLS holds records that the socket hasn't taken.
    sealed: bool,
    /// The server takes nothing any more: nothing is sent, and what it had said before is read.
    deaf: bool,
    /// Lanes that wait for room or a window.
    queue: Vec<u32>,
}

/// What waits is sent, our direction is closed, and what still comes is read and forgotten.
#[derive(Debug)]
struct Closing {
    sent: bool,
    forgotten: usize,
    alarm: Alarm,
}

impl Link {
    /// `prefix` has been read of `stream` already; `sender` is at the other end.
    pub(super) fn new(stream: Stream, prefix: Vec<u8>, sender: Sender) -> Self {
        let session = match sender {
            Sender::Client => Session::new(Side::Server),
            Sender::Proxy => Session::for_proxy(),
            Sender::Server => Session::new(Side::Client),
        };
        Self::with(session, stream, prefix, sender)
    }

    /// The same with this session.
    pub(super) fn with(session: Session, stream: Stream, prefix: Vec<u8>, sender: Sender) -> Self {
        Self(RefCell::new(State {
            stream: Some(stream),
            session,
            guard: Guard::new(sender, runtime::coarse().mono),
            lanes: Lanes::default(),
            prefix,
            arrivals: VecDeque::new(),
            unseen_resets: 0,
            malformed: Vec::new(),
            outward: Outward { called: true, ..Outward::default() },
            waiters: Vec::new(),
            closing: None,
            goodbye: Alarm::new(),
        }))
    }

    /// Reads, hands out and sends. Ready once the connection has ended; also pending when streams arrived, which
    /// are then in `arrivals`.
    pub(super) fn drive(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow_mut().drive(cx)
    }
}

impl State {
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.outward.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.outward.driver = Some(cx.waker().clone());
        }
        if std::mem::take(&mut self.outward.called) || self.outward.blocked {
            self.outward.blocked = false;
            self.flush();
            self.call_queue();
        }
        if self.closing.is_none() {
            self.read(cx);
            if self.goodbye.poll(cx).is_ready() {
                self.goodbye.set(None);
                if self.outward.deaf {
                    self.end();
                }
                self.session.close_door();
                self.call_driver();
            }
            if self.session.is_over() && self.arrivals.is_empty() {
                self.close(CLOSE_MAX);
            }
        }
        if self.closing.is_some() && self.poll_close(cx).is_ready() {
            self.end();
        }
        if self.stream.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn read(&mut self, cx: &mut Context<'_>) {
        let mut turn = 0;
        let prefix = std::mem::take(&mut self.prefix);
        if !prefix.is_empty() {
            self.take(&prefix);
        }
        // A server is always read: if each side waited for the other to read, neither ever would.
        let is_server = self.guard.sender == Sender::Server;
        while self.closing.is_none() && (is_server || self.session.waiting().len() < UNREAD_BYTES_MAX) {
            let Some(mut stream) = self.stream.take() else { return };
            let read = scratch::poll_read(&mut stream, cx, |_, bytes| {
                turn += bytes.len();
                self.take(bytes);
                !bytes.is_empty()
            });
            self.stream = Some(stream);
            match read {
                Poll::Pending => return,
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false) | Err(_)) => return self.end(),
            }
            if turn >= TURN_BYTES_MAX {
                cx.waker().wake_by_ref();
                return;
            }
            // Who is about to be found gone has nobody ask for him.
            if !self.arrivals.is_empty() && !self.is_about_to_end() {
                return;
            }
        }
    }

    /// Takes what was read.
    fn take(&mut self, bytes: &[u8]) {
        let (mut rest, verdict) = match self.guard.look(bytes, runtime::coarse().mono) {
            Ok(()) => (bytes, None),
            Err((passed, verdict)) => (&bytes[..passed], Some(verdict)),
        };
        loop {
            match self.session.next(&mut rest) {
                Ok(Some(event)) => self.event(event),
                Ok(None) => break,
                Err(Wrong(code)) => {
                    self.refuse_unserved();
                    return self.give_up(code);
                }
            }
        }
        match verdict {
            Some(verdict) => self.give_up(verdict as u32),
            None if self.unseen_resets > RESETS_PENDING_MAX => self.give_up(code::ENHANCE_YOUR_CALM),
            // Windows may have been given back, and control frames answered.
            None if !self.session.waiting().is_empty() => self.call_driver(),
            None => {}
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Opened { id, head, ended } => {
                let end = if ended { End::Ended } else { End::Open };
                let key = self.lanes.add(end);
                self.session.bind(id, key);
                if self.guard.sender == Sender::Proxy
                    && head.as_ref().is_ok_and(|head| head.header(Known::ByrnieNewcomer) == Some(NEWCOMER))
                {
                    self.session.curb(id);
                }
                self.arrivals.push_back(Arrival { key, id, head });
            }
            Event::Malformed { reason } => self.malformed.push(reason),
            Event::Answered { key, head, interim, ended } => {
                let Some(lane) = self.lanes.get(key) else { return };
                lane.answered = true;
                lane.heads.push_back((head, interim));
                if ended { lane.finish(End::Ended) } else { lane.wake() }
            }
            Event::Body { key, bytes, ended } => {
                let Some(lane) = self.lanes.get(key) else { return };
                lane.keep(bytes);
                if ended { lane.finish(End::Ended) } else { lane.wake() }
            }
            Event::Trailers { key, fields } => {
                let Some(lane) = self.lanes.get(key) else { return };
                lane.trailers = Some(fields).filter(|fields| !fields.is_empty());
                lane.finish(End::Ended);
                self.session.reuse_trailers(scratch::trailers());
            }
            Event::Reset { key, why } => self.reset(key, why),
            Event::Room { key: Some(key) } => {
                if let Some(lane) = self.lanes.get(key) {
                    lane.wake();
                }
            }
            Event::Room { key: None } => self.call_queue(),
            Event::Settled => {
                self.call_queue();
                self.call_waiters();
            }
            Event::Goodbye => {
                self.session.close_door();
                self.refuse_unserved();
                self.call_waiters();
            }
        }
    }

    /// Streams that the server's goodbye leaves out may be asked for elsewhere.
    fn refuse_unserved(&mut self) {
        for key in self.session.take_refused() {
            self.reset(key, Why::Refused);
        }
    }

    fn reset(&mut self, key: u32, why: Why) {
        let Some(lane) = self.lanes.get(key) else { return };
        lane.finish(End::Reset(why));
        if let Some(at) = self.arrivals.iter().position(|arrival| arrival.key == key) {
            // Nobody has looked at it yet, and now nobody will.
            self.arrivals.remove(at);
            self.unseen_resets += 1;
            if let Why::Malformed(reject) = why {
                self.malformed.push(reject.reason);
            }
            self.drop_lane(key, 0);
        }
    }

    /// The next stream that a client opened.
    pub(super) fn next_arrival(&mut self) -> Option<Arrival> {
        let arrival = self.arrivals.pop_front()?;
        self.unseen_resets = 0;
        Some(arrival)
    }

    /// Forgets a lane, and gives back the window that lies in it or is `held` by its flow.
    pub(super) fn drop_lane(&mut self, key: u32, held: usize) {
        let Self { lanes, session, .. } = self;
        lanes.remove(key, |lane| {
            session.discard(held + lane.inbox.len());
            scratch::recycle(std::mem::take(&mut lane.inbox));
            lane.heads.drain(..).for_each(|(head, _)| session.reuse(head));
        });
    }

    /// A stream was answered to its end.
    pub(super) fn note_answered(&self) {
        let answered = &self.guard.notes.answered;
        answered.set(answered.get().saturating_add(1));
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

    /// Waits, on the lane, for room to send or for a window.
    pub(super) fn wait_for_room(&mut self, key: u32, cx: &Context<'_>) {
        let Some(lane) = self.lanes.get(key) else { return };
        lane.wait(cx);
        if !std::mem::replace(&mut lane.queued, true) {
            self.outward.queue.push(key);
        }
    }

    /// Waits for room for a stream, or for SETTINGS.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiters.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiters.push(cx.waker().clone());
        }
    }

    pub(super) fn call_waiters(&mut self) {
        self.waiters.drain(..).for_each(Waker::wake);
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
        if self.session.waiting().len() >= CORK_BYTES_MAX {
            self.flush();
        }
        if !self.session.waiting().is_empty() {
            self.call_driver();
        }
    }

    /// Writes a piece of a body on a stream; answers how much was taken.
    pub(super) fn write(&mut self, id: u32, piece: &[u8]) -> Result<usize, Error> {
        let mut taken = 0;
        while taken < piece.len() && !self.outward.blocked {
            if self.is_ended() {
                return Err(Error::Closed);
            }
            match self.session.write(id, &piece[taken..]).map_err(|_| Error::Closed)? {
                0 => break,
                more => taken += more,
            }
            if self.session.waiting().len() >= CORK_BYTES_MAX {
                self.flush();
            }
        }
        Ok(taken)
    }

    /// Sends what waits, as far as the socket takes it.
    fn flush(&mut self) {
        if self.outward.blocked || self.outward.deaf {
            return;
        }
        let (Some(stream), Some(driver)) = (&mut self.stream, &self.outward.driver) else { return };
        let cx = &mut Context::from_waker(driver);
        let broken = loop {
            if self.session.waiting().is_empty() {
                break false;
            }
            match Pin::new(&mut *stream).poll_write(cx, self.session.waiting()) {
                Poll::Ready(Ok(0) | Err(_)) => break true,
                Poll::Ready(Ok(written)) => {
                    self.session.advance(written);
                    self.guard.sent(written);
                    self.outward.sealed = stream.is_tls();
                }
                Poll::Pending => {
                    self.outward.blocked = true;
                    return;
                }
            }
        };
        if broken {
            return self.unheard();
        }
        if self.outward.sealed {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.outward.sealed = false,
                Poll::Ready(Err(_)) => self.unheard(),
                Poll::Pending => self.outward.blocked = true,
            }
        }
    }

    /// The other side takes nothing any more. Servers that have answered close without waiting for what is on its way to them: their
    /// answers lie in the system, and the reactor may have noted nothing yet.
    fn unheard(&mut self) {
        if self.guard.sender != Sender::Server {
            return self.end();
        }
        self.outward.deaf = true;
        self.goodbye.after(LINGER_MAX);
        // Whoever waits for room, a window or a stream learns it when it looks.
        self.call_queue();
        self.call_waiters();
        if let Some(driver) = &self.outward.driver {
            driver.wake_by_ref();
        }
    }

    /// Whether nothing can be sent any more, though the other side may still be heard.
    pub(super) const fn is_deaf(&self) -> bool {
        self.outward.deaf && self.stream.is_some() && self.closing.is_none()
    }

    /// Whether the connection has ended, or is about to.
    pub(super) const fn is_ended(&self) -> bool {
        self.stream.is_none() || self.closing.is_some() || self.outward.deaf
    }

    /// Whether it's known without a read that the other side has closed, while what it said before is still to be read.
    pub(super) fn is_about_to_end(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.socket().is_closing())
    }

    /// Opens no more streams, and tells the other side.
    pub(super) fn say_goodbye(&mut self) {
        if self.session.say_goodbye() && !self.outward.deaf {
            self.goodbye.after(GOODBYE_TIMEOUT);
            self.call_driver();
        }
    }

    /// Serves no streams but those that have come, and tells the other side.
    pub(super) fn leave(&mut self) {
        self.say_goodbye();
        self.session.close_door();
        self.call_driver();
    }

    /// Ends the connection for what the peer did, and tells it why.
    fn give_up(&mut self, code: u32) {
        self.session.give_up(code);
        self.close(LINGER_MAX);
    }

    /// Ends the connection once what waits is sent, within `span`.
    fn close(&mut self, span: std::time::Duration) {
        if self.closing.is_none() {
            let mut alarm = Alarm::new();
            alarm.after(span);
            self.closing = Some(Closing { sent: false, forgotten: 0, alarm });
            self.lose();
        }
    }

    /// Sends what waits, closes our direction and reads for a while what a client still sends.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.flush();
        let (Some(closing), Some(stream)) = (&mut self.closing, &mut self.stream) else { return Poll::Ready(()) };
        if closing.alarm.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.outward.blocked {
            return Poll::Pending;
        }
        if !closing.sent {
            if ready!(Pin::new(&mut *stream).poll_shutdown(cx)).is_err() || self.guard.sender == Sender::Server {
                return Poll::Ready(());
            }
            closing.sent = true;
            closing.alarm.after(LINGER_MAX);
        }
        while closing.forgotten < LINGER_BYTES_MAX && closing.alarm.poll(cx).is_pending() {
            match ready!(scratch::poll_read(stream, cx, |_, new| new.len())) {
                Ok(0) | Err(_) => break,
                Ok(read) => closing.forgotten += read,
            }
        }
        Poll::Ready(())
    }

    /// Ends the connection now.
    pub(super) fn end(&mut self) {
        if self.stream.take().is_none() {
            return;
        }
        self.lose();
        if let Some(driver) = self.outward.driver.take() {
            driver.wake();
        }
    }

    /// All streams learn that the connection is gone.
    fn lose(&mut self) {
        for arrival in std::mem::take(&mut self.arrivals) {
            self.drop_lane(arrival.key, 0);
        }
        self.lanes.all().for_each(|lane| lane.finish(End::Lost));
        self.call_waiters();
    }
}
