// SPDX-License-Identifier: Apache-2.0
//! Connections to upstreams, of one core. Idle HTTP/1 connections are kept last-in first-out, HTTP/2
//! connections are shared by their streams. A connection is only ever used for the address, peer
//! identity, server name and own credentials it was opened with. Never asked by another core.

mod places;

pub use places::{Asked, Key, Speaks};

use crate::hop;
use crate::http::h2;
use crate::http::{Error, h1};
use crate::runtime;
use byrnie_base::{Instant, Timestamp};
use places::Places;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Idle HTTP/1 connections kept to one upstream.
pub const IDLE_PER_KEY_MAX: usize = 512;
/// Idle HTTP/1 connections kept in all.
pub const IDLE_MAX: usize = 4096;
/// How long a connection is kept idle: below the 60 s of most servers, so that we close first.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// HTTP/2 connections to one upstream; the second is opened when the first is full, or has as many streams as a client may have.
pub const SHARED_PER_KEY_MAX: usize = 4;
/// Those of them that clients have to share that aren't known to take their answers, until these have no more streams to give.
pub const CROWD_PER_KEY_MAX: usize = 2;

/// Connections of one core.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Places<Vec<Idle>>,
    idle_count: usize,
    shared: Places<Rc<Shared<h2::Client>>>,
    hops: Places<Rc<Shared<hop::Client>>>,
}

/// An HTTP/1 connection at rest.
#[derive(Debug)]
struct Idle {
    conn: Box<h1::Conn>,
    since: Instant,
    not_after: Option<Timestamp>,
}

/// Connections to one upstream that are shared by their streams.
#[derive(Debug)]
pub struct Shared<C> {
    clients: RefCell<Vec<(C, Option<Timestamp>)>>,
    /// Held while one more is opened, so that a burst doesn't open one each; when that last failed.
    pub opening: Arc<tokio::sync::Mutex<Option<Instant>>>,
    /// Until when the upstream is taken to speak something else.
    foreign: Cell<Option<Instant>>,
    /// Streams of clients that aren't known to take their answers.
    crowd: Rc<Cell<usize>>,
}

/// A stream of a client that isn't known to take its answers, counted until this is dropped.
#[derive(Debug)]
pub struct Crowd(Rc<Cell<usize>>);

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl<C> Default for Shared<C> {
    fn default() -> Self {
        Self { clients: RefCell::default(), opening: Arc::default(), foreign: Cell::default(), crowd: Rc::default() }
    }
}

/// A connection that streams share.
pub trait Connection: Clone {
    /// Whether no stream may be opened any more.
    fn is_ended(&self) -> bool;
    /// Whether no stream may be opened just now.
    fn is_full(&self) -> bool;
    /// Whether another connection had better be used, if there may be one.
    fn is_short(&self) -> bool {
        false
    }
}

impl Connection for h2::Client {
    fn is_ended(&self) -> bool {
        Self::is_ended(self)
    }

    fn is_full(&self) -> bool {
        Self::is_full(self)
    }

    fn is_short(&self) -> bool {
        Self::is_short(self)
    }
}

impl Connection for hop::Client {
    fn is_ended(&self) -> bool {
        Self::is_ended(self)
    }

    fn is_full(&self) -> bool {
        Self::is_full(self)
    }

    fn is_short(&self) -> bool {
        Self::is_short(self)
    }
}

/// A connection at work, and what it takes to give it back.
#[derive(Debug)]
pub struct Lease {
    /// Its key.
    pub key: Rc<Key>,
    /// Whether it was idle before.
    pub reused: bool,
    /// When the peer's certificate ends.
    pub not_after: Option<Timestamp>,
}

impl Pool {
    /// An idle HTTP/1 connection that is alive, the one that came last.
    pub fn take(&mut self, cx: &mut Context<'_>, asked: &Asked<'_>, wall: Timestamp) -> Option<(Box<h1::Conn>, Lease)> {
        let (key, idle) = self.idle.get(asked)?;
        while let Some(mut found) = idle.pop() {
            self.idle_count -= 1;
            let expired = found.not_after.is_some_and(|not_after| not_after <= wall);
            // Asks the reactor's note of readiness, without a system call.
            let alive = found.conn.is_silent() || found.conn.poll_gone(cx) == Poll::Pending && found.conn.is_clean();
            if alive && !expired {
                let lease = Lease { key: Rc::clone(key), reused: true, not_after: found.not_after };
                return Some((found.conn, lease));
            }
        }
        None
    }

    /// Keeps a connection for the next exchange. One that isn't clean is closed instead.
    pub fn give(&mut self, conn: Box<h1::Conn>, lease: Lease, now: Instant) {
        if !conn.is_clean() || self.idle_count >= IDLE_MAX {
            return;
        }
        let idle = self.idle.of(lease.key);
        if idle.len() < IDLE_PER_KEY_MAX {
            idle.push(Idle { conn, since: now, not_after: lease.not_after });
            self.idle_count += 1;
        }
    }

    /// The HTTP/2 connections to an upstream.
    pub fn shared(&mut self, asked: &Asked<'_>) -> Rc<Shared<h2::Client>> {
        let known = self.shared.get(asked).map(|(_, shared)| Rc::clone(shared));
        known.unwrap_or_else(|| Rc::clone(self.shared.of(asked.key())))
    }

    /// The mesh hops to another proxy.
    pub fn hops(&mut self, asked: &Asked<'_>) -> Rc<Shared<hop::Client>> {
        let known = self.hops.get(asked).map(|(_, shared)| Rc::clone(shared));
        known.unwrap_or_else(|| Rc::clone(self.hops.of(asked.key())))
    }

    /// What is left of the mesh hops to another proxy under earlier credentials, which are good until [`Pool::retire`].
    pub fn older_hops(&mut self, asked: &Asked<'_>) -> Option<Rc<Shared<hop::Client>>> {
        self.hops.older(asked).map(Rc::clone)
    }

    /// The same of HTTP/2 connections.
    pub fn older_shared(&mut self, asked: &Asked<'_>) -> Option<Rc<Shared<h2::Client>>> {
        self.shared.older(asked).map(Rc::clone)
    }

    /// Closes what has been idle for too long, and forgets what has ended. Call it every few seconds.
    pub fn sweep(&mut self, now: Instant) {
        let mut left = 0;
        self.idle.retain(|_, idle| {
            idle.retain(|idle| now.since(idle.since) < IDLE_TIMEOUT);
            left += idle.len();
            !idle.is_empty()
        });
        self.idle_count = left;
        self.shared.retain(|_, shared| {
            let is_idle =
                |client: &h2::Client| client.idle_since().is_some_and(|since| now.since(since) >= IDLE_TIMEOUT);
            // The last clone that is dropped says goodbye.
            shared.clients.borrow_mut().retain(|(client, _)| !client.is_ended() && !is_idle(client));
            Rc::strong_count(shared) > 1 || !shared.clients.borrow().is_empty()
        });
        self.hops.retain(|_, shared| {
            shared.prune();
            let foreign = shared.foreign.get().is_some_and(|until| until > now);
            foreign || Rc::strong_count(shared) > 1 || !shared.clients.borrow().is_empty()
        });
    }

    /// Closes every idle connection.
    pub fn close_idle(&mut self) {
        self.idle.clear();
        self.idle_count = 0;
    }

    /// Closes every idle connection and lets the shared ones end with their streams.
    pub fn clear(&mut self) {
        self.close_idle();
        self.shared.clear();
        self.hops.values().for_each(|shared| shared.say_goodbye());
        self.hops.clear();
    }

    /// Lets go of connections opened with older credentials, as soon as they are idle.
    pub fn retire(&mut self, generation: u64) {
        let mut left = 0;
        self.idle.retain(|key, idle| {
            let keep = key.hop.is_none() || key.generation >= generation;
            left += if keep { idle.len() } else { 0 };
            keep
        });
        self.idle_count = left;
        self.shared.retain(|key, _| key.hop.is_none() || key.generation >= generation);
        self.hops.retain(|key, shared| {
            let keep = key.generation >= generation;
            if !keep {
                shared.say_goodbye();
            }
            keep
        });
    }

    /// Idle HTTP/1 connections, and connections that streams share.
    pub fn sizes(&self) -> (usize, usize) {
        let http2: usize = self.shared.values().map(|shared| shared.clients.borrow().len()).sum();
        let hops: usize = self.hops.values().map(|shared| shared.clients.borrow().len()).sum();
        (self.idle_count, http2 + hops)
    }
}

impl<C: Connection> Shared<C> {
    /// A connection with room for another stream.
    pub fn with_room(&self, wall: Timestamp) -> Option<C> {
        let mut clients = self.clients.borrow_mut();
        clients.retain(|(client, not_after)| !client.is_ended() && not_after.is_none_or(|end| end > wall));
        clients.iter().find(|(client, _)| !client.is_full() && !client.is_short()).map(|(client, _)| client.clone())
    }

    /// The same for a client that isn't known to take its answers: one of the first [`CROWD_PER_KEY_MAX`], until these have no more
    /// streams to give. What such clients leave lying lies there then, and not on all of them; and who takes answers after all gets
    /// none that is short of room as long as another of these may be opened.
    pub fn with_room_for_unknown(&self, wall: Timestamp) -> Option<C> {
        let found = self.with_room(wall);
        let clients = self.clients.borrow();
        let mut crowd =
            clients.iter().map(|(client, _)| client).take(CROWD_PER_KEY_MAX).filter(|client| !client.is_full());
        match crowd.clone().find(|client| !client.is_short()) {
            None if clients.len() < CROWD_PER_KEY_MAX => None,
            roomy => roomy.or_else(|| crowd.next()).cloned().or(found),
        }
    }

    /// Counts a stream of such a client.
    pub fn enter_crowd(&self) -> Crowd {
        self.crowd.set(self.crowd.get() + 1);
        Crowd(Rc::clone(&self.crowd))
    }

    /// How many of them there are.
    pub fn crowd(&self) -> usize {
        self.crowd.get()
    }

    /// Whether there is a connection with room that lasts until then.
    pub fn lasts(&self, until: Timestamp) -> bool {
        let lasts = |end: &Option<Timestamp>| end.is_none_or(|end| end > until);
        self.clients.borrow().iter().any(|(client, end)| !client.is_ended() && !client.is_full() && lasts(end))
    }

    /// The same, where no further connection may be opened.
    pub fn with_any_room(&self) -> Option<C> {
        self.clients.borrow().iter().map(|(client, _)| client).find(|client| !client.is_full()).cloned()
    }

    /// Whether no further connection may be opened.
    pub fn is_crowded(&self) -> bool {
        self.clients.borrow().len() >= SHARED_PER_KEY_MAX
    }

    /// Adds what comes of `opening`, unless there is one meanwhile that lasts until then, or as many as there may be; whether there
    /// is one now.
    pub async fn ahead(&self, until: Timestamp, opening: impl Future<Output = Option<(C, Option<Timestamp>)>>) -> bool {
        let mut failed_at = self.opening.lock().await;
        if self.lasts(until) {
            return true;
        }
        if self.is_crowded() {
            return false;
        }
        let opened = opening.await;
        let is_open = opened.is_some();
        if !is_open {
            *failed_at = Some(runtime::now().mono);
        }
        self.clients.borrow_mut().extend(opened);
        is_open
    }

    /// Adds a connection.
    pub fn add(&self, client: C, not_after: Option<Timestamp>) {
        self.clients.borrow_mut().push((client, not_after));
    }

    /// Forgets a connection that refused a stream or failed to open one.
    pub fn prune(&self) {
        self.clients.borrow_mut().retain(|(client, _)| !client.is_ended());
    }
}

impl Shared<h2::Client> {
    /// Waits until one of them takes another stream.
    ///
    /// # Errors
    /// If all have ended.
    pub async fn ready(&self) -> Result<h2::Client, Error> {
        std::future::poll_fn(|cx| {
            let mut waits = false;
            for (client, _) in self.clients.borrow_mut().iter_mut() {
                match client.poll_ready(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Ok(client.clone())),
                    Poll::Ready(Err(_)) => {}
                    Poll::Pending => waits = true,
                }
            }
            if waits { Poll::Pending } else { Poll::Ready(Err(Error::Closed)) }
        })
        .await
    }

    /// Streams that are open on all of them, and how many there may be if there are as many connections as there may be; 0 before that.
    pub fn streams(&self) -> (usize, usize) {
        let clients = self.clients.borrow();
        let (mut open, mut most) = (0, 0_usize);
        for (client, _) in clients.iter() {
            open += client.open_streams();
            most = most.saturating_add(client.streams_max());
        }
        (open, if clients.len() < SHARED_PER_KEY_MAX { 0 } else { most })
    }
}

impl Shared<hop::Client> {
    /// Streams that are open on all of them.
    pub fn open_streams(&self) -> usize {
        self.clients.borrow().iter().map(|(client, _)| client.open_streams()).sum()
    }

    /// Notes that the upstream, asked for a hop, chose to speak something else; it is asked again later.
    pub fn is_foreign_until(&self, until: Instant) {
        self.foreign.set(Some(until));
    }

    /// Whether the upstream is taken to speak something else.
    pub fn is_foreign(&self, now: Instant) -> bool {
        self.foreign.get().is_some_and(|until| until > now)
    }

    fn say_goodbye(&self) {
        self.clients.borrow().iter().for_each(|(client, _)| client.say_goodbye());
    }
}
