// SPDX-License-Identifier: Apache-2.0
//! The process of the control plane: the real store on a simulated disk, the real state with catalog and
//! hub, the real ingest and registry, and the shell around them that `mesh` drives instead of sockets and
//! timers. It dies and comes back; what it keeps is the medium.

use crate::net::{Conn, Message, Who};
use crate::shop::{self, Place, State as Resources};
use byrnie_base::{Clock, Instant};
use byrnie_control::ads::{Out, SessionId};
use byrnie_control::registry::lease::{self, Seat};
use byrnie_control::registry::{self, Registry};
use byrnie_control::{State, ingest};
use byrnie_model::Revision;
use byrnie_store::disk::RamDisk;
use byrnie_store::{Error, Memory, Store, Txn, Watch};
use byrnie_xds::wire;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::mpsc::UnboundedReceiver;

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
    pub store: Arc<Memory>,
    /// Since when it runs.
    pub since: Instant,
    state: State,
    registry: Registry,
    watch: Watch,
    streams: BTreeMap<Conn, (SessionId, UnboundedReceiver<Out>)>,
    seats: BTreeMap<Conn, Seat>,
    /// Registrations whose connection broke a moment ago.
    lost: BTreeMap<Conn, Seat>,
    /// What it refused and should not have.
    refused: Vec<String>,
}

/// What the process does to a connection.
#[derive(Debug)]
pub enum Reply {
    /// It sends this.
    Send(Message),
    /// It closes it.
    Close,
}

/// What the end of a connection leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// [`Up::gone`], when the workload had its time to come back.
    Gone,
}

impl Control {
    /// A control plane that was never started.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { medium: RamDisk::new(), up: None, clock }
    }

    /// Starts the process from what is on the disk.
    ///
    /// # Errors
    /// If the store can't be opened or read: after a mere loss of power that is a fault of the store.
    pub fn start(&mut self) -> Result<(), String> {
        let told = |error: &dyn Display| error.to_string();
        let store = Arc::new(Memory::open(&self.medium, self.clock.clone()).map_err(|error| told(&error))?);
        let shared: Arc<dyn Store> = Arc::<Memory>::clone(&store);
        let state = State::new(shared, self.clock.clone(), shop::TRUST_DOMAIN.into());
        let watch = at_once(ingest::list(&state)).map_err(|error| told(&error))?;
        self.up = Some(Up {
            store,
            since: self.clock.now().mono,
            state,
            registry: Registry::new(),
            watch,
            streams: BTreeMap::new(),
            seats: BTreeMap::new(),
            lost: BTreeMap::new(),
            refused: Vec::new(),
        });
        Ok(())
    }

    /// Stops the process where it stands. Returns whether it ran.
    pub fn stop(&mut self) -> bool {
        self.up.take().is_some()
    }
}

impl Up {
    /// Takes in all that changed in the store since the last time.
    ///
    /// # Errors
    /// If the store can't be read.
    pub fn ingest(&mut self) -> Result<Vec<(Conn, Reply)>, Error> {
        loop {
            match self.watch.try_next() {
                Ok(Some(changes)) => ingest::take(&self.state, &changes),
                Ok(None) | Err(byrnie_store::Ended::Closed) => return Ok(self.replies()),
                Err(byrnie_store::Ended::Compacted { .. }) => self.watch = at_once(ingest::list(&self.state))?,
            }
        }
    }

    /// Stored entries that can't be read, and registrations that were refused: there should be none.
    pub fn complaints(&mut self) -> Vec<String> {
        let unreadable = self.state.bad_entries().into_iter().map(|(key, why)| format!("{key} can't be read: {why}"));
        self.refused.drain(..).chain(unreadable).collect()
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
        match self.state.open_stream(place.identity.clone()) {
            Ok(stream) => {
                self.streams.insert(conn, stream);
                Vec::new()
            }
            Err(_) => vec![(conn, Reply::Close)],
        }
    }

    /// A message came.
    ///
    /// # Errors
    /// As the store.
    pub fn on_message(&mut self, conn: Conn, place: &Place, message: &Message) -> Result<Vec<(Conn, Reply)>, Error> {
        match message {
            Message::Ads(bytes) => {
                let Some((session, _)) = self.streams.get(&conn) else { return Ok(vec![(conn, Reply::Close)]) };
                self.state.on_request(*session, bytes);
                Ok(self.replies())
            }
            Message::Join(bytes) => self.on_join(conn, place, bytes),
            Message::Heartbeat => {
                let Some(seat) = self.seats.get_mut(&conn) else { return Ok(vec![(conn, Reply::Close)]) };
                let beaten = at_once(self.registry.beat(&self.state, seat));
                self.registered(conn, beaten.map(|()| None))
            }
        }
    }

    fn on_join(&mut self, conn: Conn, place: &Place, bytes: &[u8]) -> Result<Vec<(Conn, Reply)>, Error> {
        let Some(workload) = &place.workload else { return Ok(Vec::new()) };
        let Ok(resource) = wire::decode(workload.key.clone(), Revision(0), bytes) else {
            return Ok(vec![(conn, Reply::Close)]);
        };
        let service = place.serves.as_ref().map_or("", |service| service.name.as_str());
        let joined = at_once(self.registry.register(&self.state, &place.identity, resource, service));
        self.registered(conn, joined.map(Some))
    }

    /// What comes of an answer of the registry.
    fn registered(
        &mut self,
        conn: Conn,
        answer: Result<Option<Seat>, registry::Error>,
    ) -> Result<Vec<(Conn, Reply)>, Error> {
        match answer {
            Ok(seat) => {
                self.seats.extend(seat.map(|seat| (conn, seat)));
                Ok(Vec::new())
            }
            Err(registry::Error::Store(error @ Error::Uncertain(_))) => Err(error),
            Err(registry::Error::Store(_)) => {
                self.seats.remove(&conn);
                Ok(vec![(conn, Reply::Close)])
            }
            Err(error) => {
                self.refused.push(error.to_string());
                Ok(vec![(conn, Reply::Close)])
            }
        }
    }

    /// A connection is gone. A registration outlives it for a moment.
    pub fn on_broken(&mut self, conn: Conn) -> After {
        if let Some((session, _)) = self.streams.remove(&conn) {
            self.state.close_stream(session);
        }
        match self.seats.remove(&conn) {
            Some(seat) => {
                self.lost.insert(conn, seat);
                After::Gone
            }
            None => After::Nothing,
        }
    }

    /// The moment is over.
    ///
    /// # Errors
    /// As the store.
    pub fn gone(&mut self, conn: Conn) -> Result<(), Error> {
        let Some(seat) = self.lost.remove(&conn) else { return Ok(()) };
        match at_once(self.registry.gone(&self.state, &seat)) {
            Err(registry::Error::Store(error)) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Keeps every stored registration, as a control plane does for a while after its start.
    ///
    /// # Errors
    /// As the store.
    pub fn keep_stored(&self) -> Result<(), Error> {
        at_once(lease::keep_stored(&self.state))
    }

    /// Ends the leases that are over.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sweep(&self) -> Result<(), Error> {
        self.store.sweep()
    }

    /// What the streams have to send.
    fn replies(&mut self) -> Vec<(Conn, Reply)> {
        let mut replies = Vec::new();
        let mut closed = Vec::new();
        for (conn, (_, queue)) in &mut self.streams {
            while let Ok(out) = queue.try_recv() {
                match out {
                    Out::Send(bytes) => replies.push((*conn, Reply::Send(Message::Ads(bytes)))),
                    Out::Close(_) => {
                        closed.push(*conn);
                        replies.push((*conn, Reply::Close));
                    }
                }
            }
        }
        for conn in closed {
            if let Some((session, _)) = self.streams.remove(&conn) {
                self.state.close_stream(session);
            }
        }
        replies
    }
}

/// Every resource in a store.
pub fn contents(store: &Memory) -> (Resources, Revision) {
    let (entries, revision) = at_once(store.list(shop::PREFIX)).unwrap_or_default();
    let resources = entries.iter().filter_map(shop::read).map(|resource| (resource.key.clone(), Arc::new(resource)));
    (resources.collect(), revision)
}

/// The answer of a part that waits for nothing but the store, which never waits here.
pub fn at_once<T, E: From<Error>>(pending: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    match pin!(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => Err(Error::Busy.into()),
    }
}

/// Whose certificate it is that a connection shows.
pub fn place(places: &[Place], who: Who) -> Option<&Place> {
    places.get(who)
}
