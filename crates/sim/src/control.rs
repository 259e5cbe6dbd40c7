// SPDX-License-Identifier: Apache-2.0
//! The process of the control plane: the real store on a simulated disk, the real catalog and hub, and
//! the shell around them that `mesh` drives. It dies and comes back; what it keeps is the medium.

use crate::net::{Conn, Message, Who};
use crate::shop::{self, Place, State};
use byrnie_base::{Clock, Instant};
use byrnie_control::ads::{Hub, Out, SessionId};
use byrnie_model::{Change, Revision};
use byrnie_store::disk::RamDisk;
use byrnie_store::{Error, Expect, Lease, Memory, OpenError, Pending, Store, Txn, Watch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A workload that isn't heard of for so long is taken to be gone: half a second is left of the three
/// that are promised, for the way to the proxies.
pub const LEASE_SPAN: Duration = Duration::from_millis(2_500);

/// The control plane, dead or alive.
pub struct Control {
    /// Its disk.
    pub medium: RamDisk,
    /// Its process, if it runs.
    pub up: Option<Up>,
    clock: Arc<dyn Clock>,
}

/// A running process.
pub struct Up {
    /// Its store.
    pub store: Memory,
    /// Its catalog and streams.
    pub hub: Hub,
    /// Since when it runs.
    pub since: Instant,
    watch: Watch,
    streams: BTreeMap<Conn, SessionId>,
    conns: BTreeMap<SessionId, Conn>,
    leases: BTreeMap<Conn, Lease>,
}

/// What the process does to a connection.
#[derive(Debug)]
pub enum Reply {
    /// It sends this.
    Send(Message),
    /// It closes it.
    Close,
}

impl Control {
    /// A control plane that was never started.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { medium: RamDisk::new(), up: None, clock }
    }

    /// Starts the process from what is on the disk.
    ///
    /// # Errors
    /// If the store can't be opened: after a mere loss of power that is a fault of the store.
    pub fn start(&mut self) -> Result<(), OpenError> {
        let store = Memory::open(&self.medium, self.clock.clone())?;
        let watch = store.watch(shop::PREFIX, Revision(0));
        let mut up = Up {
            store,
            hub: Hub::new(shop::TRUST_DOMAIN.into()),
            since: self.clock.now().mono,
            watch,
            streams: BTreeMap::new(),
            conns: BTreeMap::new(),
            leases: BTreeMap::new(),
        };
        up.relist();
        self.up = Some(up);
        Ok(())
    }

    /// Stops the process where it stands. Returns whether it ran.
    pub fn stop(&mut self) -> bool {
        self.up.take().is_some()
    }
}

impl Up {
    /// Takes in all that changed in the store since the last time.
    pub fn ingest(&mut self) -> Vec<(Conn, Reply)> {
        let mut replies = Vec::new();
        loop {
            match self.watch.try_next() {
                Ok(Some(changes)) => {
                    let changes: Vec<Change> =
                        changes.events.iter().filter_map(|e| change(e, changes.revision)).collect();
                    let out = self.hub.on_changes(&changes);
                    self.answer(out, &mut replies);
                }
                Ok(None) | Err(byrnie_store::Ended::Closed) => return replies,
                Err(byrnie_store::Ended::Compacted { .. }) => self.relist(),
            }
        }
    }

    /// Writes, and answers once it's durable.
    ///
    /// # Errors
    /// As the store.
    pub fn commit(&self, txn: Txn) -> Result<Revision, Error> {
        at_once(self.store.commit(txn))
    }

    /// A connection was opened by `place`, which its certificate proves.
    pub fn on_open_ads(&mut self, conn: Conn, place: &Place) -> Vec<(Conn, Reply)> {
        match self.hub.on_connect(place.identity.clone()) {
            Ok(session) => {
                self.streams.insert(conn, session);
                self.conns.insert(session, conn);
                Vec::new()
            }
            Err(_) => vec![(conn, Reply::Close)],
        }
    }

    /// A message came.
    pub fn on_message(&mut self, conn: Conn, place: &Place, message: &Message) -> Result<Vec<(Conn, Reply)>, Error> {
        let mut replies = Vec::new();
        match message {
            Message::Ads(bytes) => {
                let Some(&session) = self.streams.get(&conn) else { return Ok(vec![(conn, Reply::Close)]) };
                let out = self.hub.on_request(session, bytes);
                self.answer(out, &mut replies);
            }
            Message::Join(bytes) => {
                let Some(workload) = &place.workload else { return Ok(replies) };
                let lease = at_once(self.store.grant(LEASE_SPAN))?;
                let key = shop::store_key(&workload.key);
                self.commit(Txn::new().expect(key.clone(), Expect::Any).put_leased(key, &**bytes, lease))?;
                self.leases.insert(conn, lease);
            }
            Message::Heartbeat => {
                let Some(&lease) = self.leases.get(&conn) else { return Ok(vec![(conn, Reply::Close)]) };
                if at_once(self.store.keep_alive(lease)).is_err() {
                    self.leases.remove(&conn);
                    replies.push((conn, Reply::Close));
                }
            }
        }
        Ok(replies)
    }

    /// A connection is gone. A registration outlives it by its lease.
    pub fn on_broken(&mut self, conn: Conn) {
        self.leases.remove(&conn);
        if let Some(session) = self.streams.remove(&conn) {
            self.conns.remove(&session);
            self.hub.on_disconnect(session);
        }
    }

    /// Ends the leases that are over.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sweep(&self) -> Result<(), Error> {
        self.store.sweep()
    }

    fn relist(&mut self) {
        let Ok((entries, revision)) = at_once(self.store.list(shop::PREFIX)) else { return };
        self.watch = self.store.watch(shop::PREFIX, revision);
        let changes: Vec<Change> =
            entries.iter().filter_map(|entry| Some(Change::Put(Arc::new(shop::read(entry)?)))).collect();
        self.hub.on_changes(&changes);
    }

    fn answer(&mut self, out: Vec<(SessionId, Out)>, replies: &mut Vec<(Conn, Reply)>) {
        for (session, out) in out {
            let Some(&conn) = self.conns.get(&session) else { continue };
            match out {
                Out::Send(bytes) => replies.push((conn, Reply::Send(Message::Ads(bytes)))),
                Out::Close(_) => {
                    self.conns.remove(&session);
                    self.streams.remove(&conn);
                    replies.push((conn, Reply::Close));
                }
            }
        }
    }
}

/// Every resource in a store.
pub fn contents(store: &Memory) -> (State, Revision) {
    let (entries, revision) = at_once(store.list(shop::PREFIX)).unwrap_or_default();
    let resources = entries.iter().filter_map(shop::read).map(|resource| (resource.key.clone(), Arc::new(resource)));
    (resources.collect(), revision)
}

/// What an event of the store means to a catalog.
pub fn change(event: &byrnie_store::Event, revision: Revision) -> Option<Change> {
    match &event.after {
        Some(after) => Some(Change::Put(Arc::new(shop::read(after)?))),
        None => Some(Change::Delete { key: shop::parse_key(&event.key)?, revision }),
    }
}

/// The answer of a store that never waits.
pub fn at_once<T>(mut pending: Pending<'_, T>) -> Result<T, Error> {
    match pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => Err(Error::Busy),
    }
}

/// Whose certificate it is that a connection shows.
pub fn place(places: &[Place], who: Who) -> Option<&Place> {
    places.get(who)
}
