// SPDX-License-Identifier: Apache-2.0
//! The side that accepted the connection: hands out its streams. It must be polled for any of them to move.

use super::flow::Flow;
use super::lane::{End, Lane};
use super::link::{Link, State};
use crate::io::Stream;
use byrnie_base::Text;
use byrnie_codec::hop::{Asks, Frame, Side, StreamId, Wrong, parse_preamble, parse_request};
use byrnie_codec::{Head, Known, Limits, Reject};
use std::rc::Rc;
use std::task::{Context, Poll};

/// A connection from another proxy.
#[derive(Debug)]
pub struct Server {
    pub(super) link: Rc<Link>,
}

/// A stream that the other proxy opened.
#[derive(Debug)]
pub struct Accepted {
    /// The stream. Dropped, it is reset.
    pub flow: Flow,
    /// The service port asked for, as a server name.
    pub target: Text,
    /// What is asked.
    pub asked: Asked,
}

/// What a stream was opened for.
#[derive(Debug)]
pub enum Asked {
    /// An exchange: its request. Give the memory back with [`Server::reuse`].
    Request(Box<Head>),
    /// An exchange whose head is malformed (answer with the status given).
    Malformed(Reject),
    /// An opaque connection: [`Flow::agree`] once it stands.
    Bytes,
    /// A flow of datagrams, likewise.
    Datagrams,
}

/// A stream that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Arrival {
    key: u32,
    id: StreamId,
    target: Text,
    asked: Asked,
}

impl Server {
    /// Speaks `byrnie/1` on an accepted connection.
    pub fn new(stream: Stream, limits: Limits) -> Self {
        Self { link: Rc::new(Link::new(stream, Side::Server, limits)) }
    }

    /// The next stream; `None` once the connection has ended. Moves all streams of the connection.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Accepted>> {
        loop {
            let arrival = self.link.0.borrow_mut().inward.arrivals.pop_front();
            if let Some(Arrival { key, id, target, asked }) = arrival {
                let mut flow = Flow::new(Rc::clone(&self.link), key, id, None);
                match &asked {
                    Asked::Request(head) => flow.begin_serving(head),
                    Asked::Malformed(_) => {}
                    Asked::Bytes | Asked::Datagrams => flow.begin_bytes(),
                }
                return Poll::Ready(Some(Accepted { flow, target, asked }));
            }
            if self.link.drive(cx).is_ready() {
                return Poll::Ready(None);
            }
            if self.link.0.borrow().inward.arrivals.is_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Tells the other side to open no more streams; those that run may end.
    pub fn say_goodbye(&mut self) {
        self.link.0.borrow_mut().say_goodbye();
    }

    /// Gives the memory of a request's head back.
    pub fn reuse(&mut self, head: Box<Head>) {
        self.link.0.borrow_mut().keep_head(head);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut state) = self.link.0.try_borrow_mut() {
            state.end("its task has ended");
        }
    }
}

impl State {
    /// A new stream.
    pub(super) fn arrive(&mut self, frame: &Frame, payload: &[u8]) -> Result<(), Wrong> {
        let id = frame.stream;
        let last = self.inward.target.clone();
        let (asks, target, rest) = parse_preamble(payload, &last)?;
        let mut lane = Lane::new();
        (lane.headed, lane.answered) = (true, true);
        if frame.end {
            lane.end = End::Ended;
        }
        let mut newcomer = false;
        let (asked, used) = match asks {
            Asks::Bytes => (Asked::Bytes, 0),
            Asks::Datagrams => (Asked::Datagrams, 0),
            Asks::Exchange => {
                let mut head = self.inward.heads.pop().unwrap_or_default();
                match parse_request(rest, frame.end, &self.inward.limits, &mut head) {
                    Ok(used) => {
                        newcomer = head.header(Known::ByrnieNewcomer).is_some();
                        (Asked::Request(head), used)
                    }
                    Err(reject) => (Asked::Malformed(reject), rest.len()),
                }
            }
        };
        lane.keep(&rest[used..]);
        let key = self.lanes.add(lane);
        self.session.bind(id, key);
        if newcomer {
            self.session.curb(id);
        }
        let head_bytes = payload.len() - (rest.len() - used);
        let grants = self.session.consume(id, head_bytes);
        self.grant(id, grants);
        let target = if last.as_str() == target { last } else { Text::from(target) };
        self.inward.target = target.clone();
        self.inward.arrivals.push_back(Arrival { key, id, target, asked });
        Ok(())
    }
}
