// SPDX-License-Identifier: Apache-2.0
//! A listening socket of datagrams at work: whose each of them is.

use super::inbox::{End, Fate, Inbox, One};
use super::{BUFFER_BYTES, Datagrams, Dropped, Out, PAUSE, count, fits};
use crate::runtime;
use byrnie_base::Instant;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// Flows of one listening socket that take what comes; as many more may be about to end. Beyond them those that have rested
/// longest make room: a resolver asks each question from a port of its own, and never says that it's done.
pub const FLOWS_MAX: usize = 2048;
/// So many make room at once.
pub(super) const ENDED_AT_ONCE: usize = FLOWS_MAX / 16;
/// Who has rested for less makes none.
const REST_MIN: Duration = Duration::from_secs(1);
/// Sources that are known before those are looked for whose flows are gone.
const SWEPT_AT_MIN: usize = 64;

/// Tells flows apart by their sources. Dropped, it takes no more of any: each of them ends in order.
#[derive(Debug)]
pub struct Door {
    socket: Rc<UdpSocket>,
    flows: HashMap<SocketAddr, Rc<RefCell<Inbox>>>,
    /// Those that take what comes.
    open: Rc<Cell<usize>>,
    /// These, and those that are about to end.
    all: Rc<Cell<usize>>,
    /// Bytes that wait in all inboxes.
    queued: Rc<Cell<usize>>,
    swept_at: usize,
    buffer: Vec<u8>,
}

impl Door {
    pub(super) fn new(socket: Rc<UdpSocket>) -> Self {
        let buffer = vec![0; BUFFER_BYTES];
        let (open, all, queued) = (Rc::default(), Rc::default(), Rc::default());
        Self { socket, flows: HashMap::new(), open, all, queued, swept_at: SWEPT_AT_MIN, buffer }
    }

    /// The next flow, and its source; its first datagram waits in it. Cancelling it loses nothing. What comes for other flows is
    /// handed to them only while this is awaited.
    pub async fn accept(&mut self) -> (Datagrams, SocketAddr) {
        loop {
            match self.socket.recv_from(&mut self.buffer).await {
                Ok((length, remote)) => {
                    if let Some(flow) = self.take(length, remote) {
                        return (flow, remote);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a datagram can't be read");
                    runtime::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Gives the datagram in the buffer to its flow; a new one is returned.
    fn take(&mut self, length: usize, remote: SocketAddr) -> Option<Datagrams> {
        let (datagram, now) = (&self.buffer[..length], runtime::coarse().mono);
        match self.flows.get(&remote).map(|inbox| inbox.borrow_mut().offer(datagram, now)) {
            Some(Fate::Kept | Fate::Dropped) => return None,
            Some(Fate::Anew) | None => {}
        }
        if !fits(datagram) {
            return None;
        }
        if self.open.get() >= FLOWS_MAX {
            end_rested(&self.flows, now);
        }
        if self.open.get() >= FLOWS_MAX || self.all.get() >= 2 * FLOWS_MAX {
            count(Dropped::Flows);
            return None;
        }
        if self.flows.len() >= self.swept_at {
            self.flows.retain(|_, inbox| !inbox.borrow().is_past(now));
            self.swept_at = (2 * self.flows.len()).max(SWEPT_AT_MIN);
        }
        let mut inbox = Inbox::new(Rc::clone(&self.queued), Some(One::among(&self.open)));
        inbox.put(datagram);
        let inbox = Rc::new(RefCell::new(inbox));
        self.flows.insert(remote, Rc::clone(&inbox));
        let (socket, one) = (Rc::clone(&self.socket), One::among(&self.all));
        Some(Datagrams::new(inbox, Out::Caller { socket, to: remote, _one: one, shuts: false }))
    }
}

/// Ends those that have rested longest.
fn end_rested(flows: &HashMap<SocketAddr, Rc<RefCell<Inbox>>>, now: Instant) {
    let rested = |inbox: &&Rc<RefCell<Inbox>>| {
        let inbox = inbox.borrow();
        inbox.is_open() && now.since(inbox.moved_at) >= REST_MIN
    };
    let mut rested: Vec<_> = flows.values().filter(rested).collect();
    rested.sort_unstable_by_key(|inbox| inbox.borrow().moved_at);
    for inbox in rested.into_iter().take(ENDED_AT_ONCE) {
        inbox.borrow_mut().end(End::Over);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        for inbox in self.flows.values() {
            inbox.borrow_mut().end(End::Over);
        }
    }
}
