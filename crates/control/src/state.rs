// SPDX-License-Identifier: Apache-2.0
//! `State`: what every role of the control plane shares. The hub behind it is a pure struct; its lock
//! is held for the time of one event and never while waiting.

use crate::ads::{Close, EDGE, Hub, Out, Proxy, SessionId};
use crate::observe::Observer;
use byrnie_base::{Clock, Now, Text};
use byrnie_catalog::Catalog;
use byrnie_model::{Identity, Key, Revision};
use byrnie_store::Store;
use byrnie_xds::server::Nack;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

/// Most stored entries that are reported as unreadable.
const BAD_ENTRIES_MAX: usize = 1_000;

/// What the roles share.
pub struct State {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The domain of every identity.
    pub trust_domain: Text,
    hub: Mutex<Hub>,
    observer: Mutex<Observer>,
    bad: Mutex<BTreeMap<Text, Text>>,
    revision: watch::Sender<Revision>,
    streams: Mutex<BTreeMap<SessionId, UnboundedSender<Out>>>,
    edge_admin: OnceLock<SocketAddr>,
}

/// What proxies made of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The proxy.
    pub proxy: Text,
    /// What it refused and why.
    pub nack: Nack,
}

impl State {
    /// A state that knows nothing yet.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, trust_domain: Text) -> Self {
        Self {
            hub: Mutex::new(Hub::new(trust_domain.clone())),
            observer: Mutex::default(),
            store,
            clock,
            trust_domain,
            bad: Mutex::default(),
            revision: watch::Sender::new(Revision(0)),
            streams: Mutex::default(),
            edge_admin: OnceLock::new(),
        }
    }

    /// The time now.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Asks the catalog. Nothing else happens meanwhile: be brief, never wait inside.
    pub fn catalog<T>(&self, ask: impl FnOnce(&Catalog) -> T) -> T {
        ask(self.hub().catalog())
    }

    /// Tells or asks what proxies saw. Be brief, never wait inside.
    pub fn observe<T>(&self, ask: impl FnOnce(&mut Observer) -> T) -> T {
        ask(&mut self.observer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest revision that the catalog has taken in.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Learns of each newer revision, after the catalog has taken it in.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Every proxy that has a stream, in order of name.
    pub fn proxies(&self) -> Vec<Proxy> {
        let mut proxies = self.hub().proxies();
        // The edge has no Workload that would say it.
        for edge in proxies.iter_mut().filter(|proxy| *proxy.name == *EDGE) {
            edge.admin = self.edge_admin.get().copied();
        }
        proxies
    }

    /// Learns where the edge beside this control plane has its admin listener; the first time counts.
    pub fn edge_listens(&self, admin: SocketAddr) {
        self.edge_admin.get_or_init(|| admin);
    }

    /// Which proxies refused a resource, and why.
    pub fn refusals(&self, key: &Key) -> Vec<Refusal> {
        self.hub().refusals(key)
    }

    /// Whether a node of this name may be spoken for by this identity.
    pub fn owns(&self, node: &str, identity: &Identity) -> bool {
        self.hub().owns(node, identity)
    }

    /// Stored entries that couldn't be read: the store's key, and why.
    pub fn bad_entries(&self) -> Vec<(Text, Text)> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.iter().map(|(key, why)| (key.clone(), why.clone())).collect()
    }

    /// Lets an event happen in the hub and hands what comes of it to the streams. Nothing waits: what
    /// is unanswered on one stream is bounded by the session, not by its queue.
    pub(crate) fn drive(&self, event: impl FnOnce(&mut Hub) -> Vec<(SessionId, Out)>) {
        let mut hub = self.hub();
        let outs = event(&mut hub);
        if outs.is_empty() {
            return;
        }
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, out) in outs {
            // A stream that is gone already has no use for it.
            match &out {
                Out::Send(_) => drop(streams.get(&id).map(|stream| stream.send(out))),
                Out::Close(_) => drop(streams.remove(&id).map(|stream| stream.send(out))),
            }
        }
    }

    /// Begins a stream to a proxy. What is for it arrives at the receiver.
    pub(crate) fn open_stream(&self, identity: Identity) -> Result<(SessionId, UnboundedReceiver<Out>), Close> {
        let id = self.hub().on_connect(identity)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        Ok((id, receiver))
    }

    /// Ends a stream.
    pub(crate) fn close_stream(&self, id: SessionId) {
        self.hub().on_disconnect(id);
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn advance(&self, revision: Revision) {
        self.revision.send_if_modified(|newest| {
            let newer = revision > *newest;
            *newest = revision.max(*newest);
            newer
        });
    }

    /// Remembers that a stored entry can't be read, or that it can again.
    pub(crate) fn judge(&self, store_key: &Text, problem: Option<Text>) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            None => {
                bad.remove(store_key);
            }
            Some(problem) if bad.len() < BAD_ENTRIES_MAX || bad.contains_key(store_key) => {
                bad.insert(store_key.clone(), problem);
            }
            Some(_) => {}
        }
    }
}
