// SPDX-License-Identifier: Apache-2.0
//! The side that opened the connection, shared by the exchanges of one worker and one identity.

use super::flow::Flow;
use super::lane::Lane;
use super::link::Link;
use crate::http::Error;
use crate::io::Stream;
use crate::runtime;
use byrnie_base::Text;
use byrnie_codec::Limits;
use byrnie_codec::hop::Side;
use std::future::poll_fn;
use std::rc::Rc;

/// A connection to another proxy. Clones are the same connection. It ends when it is told to and its last
/// stream has ended, when it has been idle for long, or when the other side goes.
#[derive(Clone, Debug)]
pub struct Client {
    link: Rc<Link>,
}

/// Speaks `byrnie/1` on a fresh connection, and starts the task that drives it.
pub fn connect(stream: Stream, limits: Limits) -> Client {
    let link = Rc::new(Link::new(stream, Side::Opener, limits));
    let driven = Gone(Rc::clone(&link));
    runtime::spawn_local("hop", async move {
        poll_fn(|cx| driven.0.drive(cx)).await;
    });
    Client { link }
}

/// Ends the connection, however its task ends.
struct Gone(Rc<Link>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.0.try_borrow_mut() {
            state.end("its task has ended");
        }
    }
}

impl Client {
    /// Whether no stream may be opened any more.
    pub fn is_ended(&self) -> bool {
        let state = self.link.0.borrow();
        state.is_ended() || state.session.is_leaving()
    }

    /// Streams that are open.
    pub fn open_streams(&self) -> usize {
        self.link.0.borrow().session.open_streams() as usize
    }

    /// Whether no stream may be opened just now: there are too many, or too many don't read.
    pub fn is_full(&self) -> bool {
        !self.link.0.borrow().session.has_room()
    }

    /// Whether another connection had better be used: here are clients that don't read.
    pub fn is_short(&self) -> bool {
        self.link.0.borrow().session.is_short()
    }

    /// Opens no more streams; the connection ends with its last one.
    pub fn say_goodbye(&self) {
        self.link.0.borrow_mut().say_goodbye();
    }

    /// A stream to the service port `target`; [`Flow::send_request`] or [`Flow::ask_for`] comes next.
    ///
    /// # Errors
    /// If there is no room; nothing was sent.
    pub fn open(&self, target: Text) -> Result<Flow, Error> {
        let mut state = self.link.0.borrow_mut();
        if state.is_ended() {
            return Err(Error::Refused);
        }
        let key = state.lanes.next_key();
        let id = state.session.open(key).ok_or(Error::Refused)?;
        state.lanes.add(Lane::new());
        drop(state);
        Ok(Flow::new(Rc::clone(&self.link), key, id, Some(target)))
    }
}
