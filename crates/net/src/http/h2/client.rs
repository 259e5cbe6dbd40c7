// SPDX-License-Identifier: Apache-2.0
//! A connection to an HTTP/2 server, shared by the streams of one worker and one identity.

use super::flow::Flow;
use super::guard::Sender;
use super::link::Link;
use crate::http::Error;
use crate::io::Stream;
use crate::runtime;
use byrnie_base::Instant;
use byrnie_codec::h2::{STREAMS_MAX, Session, Side};
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A connection to an HTTP/2 server. Clones are the same connection, which ends when the last clone
/// and the last stream are gone.
#[derive(Clone, Debug)]
pub struct Client {
    hold: Rc<Hold>,
}

/// Keeps the connection open.
#[derive(Debug)]
pub(super) struct Hold {
    link: Rc<Link>,
    /// Flows that live, whether they have a stream yet or not.
    open: Cell<usize>,
    /// When the last of them ended, or the connection began.
    used: Cell<Instant>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Ok(mut state) = self.link.0.try_borrow_mut() {
            state.say_goodbye();
        }
    }
}

/// Counts one flow until it's dropped.
#[derive(Debug)]
pub(super) struct Open(Rc<Hold>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.used.set(runtime::coarse().mono);
    }
}

/// How long the other side's system may leave what was sent unacknowledged, or its window closed, before the connection is given up with
/// all its streams: as long as a body may stand still. A server that doesn't read for so long is gone, stands, or has never accepted the
/// connection. It's also the limit for `keep_alive`'s questions, which the system would give up after fewer. gRPC sets `TCP_USER_TIMEOUT` too (its proposal A18), to 20 s, but only where keepalives are on.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(60);

/// Speaks HTTP/2 on a fresh connection, and starts the task that moves its streams.
pub fn connect(stream: Stream) -> Client {
    begin(stream, Session::new(Side::Client))
}

/// The same to a program near by, which knows nothing of newcomers: see [`Session::narrow`].
pub fn connect_narrow(stream: Stream) -> Client {
    begin(stream, Session::narrow())
}

fn begin(stream: Stream, session: Session) -> Client {
    #[cfg(target_os = "linux")]
    {
        // Without it, it lasts longer.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(stream.tcp(), UNACKNOWLEDGED_MAX.as_millis() as u32);
    }
    let link = Rc::new(Link::with(session, stream, Vec::new(), Sender::Server));
    let driven = Gone(Rc::clone(&link));
    runtime::spawn_local("h2 client", async move {
        poll_fn(|cx| driven.0.drive(cx)).await;
    });
    Client { hold: Rc::new(Hold { link, open: Cell::new(0), used: Cell::new(runtime::coarse().mono) }) }
}

/// Ends the connection, however its task ends.
struct Gone(Rc<Link>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.0.try_borrow_mut() {
            state.end();
        }
    }
}

impl Client {
    /// Whether it can't be used any more.
    pub fn is_ended(&self) -> bool {
        let state = self.hold.link.0.borrow();
        state.is_ended() || state.session.is_leaving()
    }

    /// Whether the server takes no further stream just now.
    pub fn is_full(&self) -> bool {
        self.open_streams() >= self.streams_max()
    }

    /// Whether another connection had better be used, if there may be one: the other side's cores share work by connections.
    pub fn is_short(&self) -> bool {
        self.open_streams() >= STREAMS_MAX as usize
    }

    /// Streams that are open, or about to be.
    pub fn open_streams(&self) -> usize {
        self.hold.open.get()
    }

    /// Since when there has been none; `None` while there is any.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.open_streams() == 0).then(|| self.hold.used.get())
    }

    /// How many the server takes.
    pub fn streams_max(&self) -> usize {
        self.hold.link.0.borrow().session.streams_max()
    }

    /// Ready when a stream may be opened.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.is_ended() {
            return Poll::Ready(Err(Error::Closed));
        }
        if self.is_full() {
            self.hold.link.0.borrow_mut().wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// A stream, for [`Flow::send_request`].
    pub fn open(&self) -> Flow {
        self.hold.open.set(self.hold.open.get() + 1);
        Flow::opened(Rc::clone(&self.hold.link), Open(Rc::clone(&self.hold)))
    }
}
