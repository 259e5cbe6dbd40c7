// SPDX-License-Identifier: Apache-2.0
//! `State`: what every role of the control plane shares. The hub behind it is a pure struct; its lock
//! is held for the time of one event and never while waiting.

use crate::ads::{Close, EDGE, Hub, Out, Proxy, SessionId};
use crate::conditions::Conditions;
use crate::export::Tracer;
use crate::observe::Observer;
use byrnie_base::{Clock, Instant, Now, Text};
use byrnie_catalog::Catalog;
use byrnie_model::gateway::Port;
use byrnie_model::{Identity, Key, Revision};
use byrnie_store::Store;
use byrnie_xds::proto::byrnie::v1::ReportRequest;
use byrnie_xds::server::Nack;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

/// A proxy of which nothing was heard for so long is stale: it reports each second, and a workload that is
/// silent for so long is taken out of every proxy.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);

/// A report older than this doesn't speak for its proxy any more.
pub(crate) const REPORT_FRESH: Duration = Duration::from_secs(5);

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
    conditions: Mutex<Conditions>,
    bad: Mutex<BTreeMap<Text, Text>>,
    revision: watch::Sender<Revision>,
    reports: watch::Sender<()>,
    streams: Mutex<BTreeMap<SessionId, Line>>,
    edge_admin: OnceLock<SocketAddr>,
    /// Where spans go.
    pub(crate) tracer: Tracer,
}

/// The way to one proxy.
#[derive(Debug)]
struct Line {
    outs: UnboundedSender<Out>,
    /// When it last said anything on its stream.
    heard: Instant,
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
            conditions: Mutex::default(),
            store,
            clock,
            trust_domain,
            bad: Mutex::default(),
            revision: watch::Sender::new(Revision(0)),
            reports: watch::Sender::default(),
            streams: Mutex::default(),
            edge_admin: OnceLock::new(),
            tracer: Tracer::default(),
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

    /// Takes in what the proxy `node` reported; who it is was checked by the caller.
    pub(crate) fn collect(&self, node: &str, report: &ReportRequest) {
        let now = self.now().mono;
        self.observe(|observer| observer.collect(node, report, now));
        self.reports.send_replace(());
    }

    /// Learns of each report, after the observer has taken it in.
    pub(crate) fn reports(&self) -> watch::Receiver<()> {
        self.reports.subscribe()
    }

    /// Asks since when conditions are as they are. Never wait inside.
    pub(crate) fn conditions<T>(&self, ask: impl FnOnce(&mut Conditions) -> T) -> T {
        ask(&mut self.conditions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ports of gateways that a proxy says it doesn't serve, and why.
    pub(crate) fn closed_ports(&self) -> BTreeMap<Port, Text> {
        let now = self.now().mono;
        self.observe(|observer| {
            let fresh = observer.nodes().filter(|(_, node)| now.since(node.seen) < REPORT_FRESH);
            fresh.flat_map(|(_, node)| node.closed.iter().cloned()).collect()
        })
    }

    /// The newest revision that the catalog has taken in.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Learns of each newer revision, after the catalog has taken it in.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Every proxy that has a stream, in order of name. Of one that is silent nobody knows what it has.
    pub fn proxies(&self) -> Vec<Proxy> {
        let mut proxies = self.hub().proxies();
        let now = self.now().mono;
        for proxy in &mut proxies {
            proxy.silent = Some(now.since(self.heard(proxy))).filter(|silence| *silence > SILENCE_MAX);
            proxy.in_sync &= proxy.silent.is_none();
        }
        // The edge has no Workload that would say it.
        for edge in proxies.iter_mut().filter(|proxy| *proxy.name == *EDGE) {
            edge.admin = self.edge_admin.get().copied();
        }
        proxies
    }

    /// When a proxy last said anything, on its stream or in a report.
    fn heard(&self, proxy: &Proxy) -> Instant {
        let lines = self.lines();
        let on_stream = lines.get(&proxy.session).map_or(Instant::default(), |line| line.heard);
        self.observe(|observer| observer.node(&proxy.name).map_or(on_stream, |node| node.seen.max(on_stream)))
    }

    /// Learns where the edge beside this control plane has its admin listener; the first time counts.
    pub fn edge_listens(&self, admin: SocketAddr) {
        self.edge_admin.get_or_init(|| admin);
    }

    /// The address at which the edge's ports are, once it's known: that of its admin listener.
    pub(crate) fn edge_address(&self) -> Option<IpAddr> {
        self.edge_admin.get().map(SocketAddr::ip)
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
        let mut lines = self.lines();
        for (id, out) in outs {
            // A stream that is gone already has no use for it.
            match &out {
                Out::Send(_) => drop(lines.get(&id).map(|line| line.outs.send(out))),
                Out::Close(_) => drop(lines.remove(&id).map(|line| line.outs.send(out))),
            }
        }
    }

    /// Begins a stream to a proxy. What is for it arrives at the receiver.
    ///
    /// # Errors
    /// If there are too many.
    pub fn open_stream(&self, identity: Identity) -> Result<(SessionId, UnboundedReceiver<Out>), Close> {
        let id = self.hub().on_connect(identity)?;
        let (outs, receiver) = mpsc::unbounded_channel();
        self.lines().insert(id, Line { outs, heard: self.now().mono });
        Ok((id, receiver))
    }

    /// A proxy said something.
    pub fn on_request(&self, id: SessionId, bytes: &[u8]) {
        if let Some(line) = self.lines().get_mut(&id) {
            line.heard = self.now().mono;
        }
        self.drive(|hub| hub.on_request(id, bytes));
    }

    /// Ends a stream.
    pub fn close_stream(&self, id: SessionId) {
        self.hub().on_disconnect(id);
        self.lines().remove(&id);
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<SessionId, Line>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
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
