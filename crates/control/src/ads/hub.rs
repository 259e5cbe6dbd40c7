// SPDX-License-Identifier: Apache-2.0
//! `Hub`: the catalog and every stream to a proxy, as a pure struct. Events go in, bytes to send come
//! out; `serve` and the simulator drive it. A stream that isn't read has one batch on its way and
//! merges the rest by resource, so that it costs others nothing and its memory is bounded by its view.

#[cfg(test)]
mod tests;

use crate::state::Refusal;
use byrnie_base::Text;
use byrnie_catalog::{Catalog, NodeId, NodeSpec};
use byrnie_model::{Change, Identity, Key, Kind, Resource, Revision, Spec};
use byrnie_xds::server::{self, Outcome, Session};
use byrnie_xds::{Bytes, wire};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The node id of the edge.
pub const EDGE: &str = "byrnie/edge";
/// Most streams at once.
pub const SESSIONS_MAX: usize = 20_000;
/// Most wire forms kept for later streams.
const ENCODED_MAX: usize = 100_000;

/// One stream, for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What is to be done for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// Send this.
    Send(Bytes),
    /// End it. The hub has forgotten it already.
    Close(Close),
}

/// Why a stream is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// What came isn't of the protocol.
    Protocol(server::Error),
    /// The node id isn't that of a workload with the identity in the certificate.
    NotYours {
        /// The node id claimed.
        node: Text,
        /// Who is there, by certificate.
        identity: Identity,
    },
    /// No such workload is registered (yet): register, then connect again.
    Unknown(Text),
    /// The same node has connected anew.
    Replaced,
    /// There are [`SESSIONS_MAX`] streams already.
    Full,
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => error.fmt(f),
            Self::NotYours { node, identity } => {
                write!(f, "node {node} has another identity than the certificate's {identity}")
            }
            Self::Unknown(node) => write!(f, "node {node} is not registered"),
            Self::Replaced => f.write_str("the node has connected anew"),
            Self::Full => write!(f, "the control plane has {SESSIONS_MAX} streams already"),
        }
    }
}

/// What `proxies` shows of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its node id.
    pub name: Text,
    /// Its stream.
    pub session: SessionId,
    /// Who it is, by certificate.
    pub identity: Identity,
    /// Version of its program.
    pub version: Text,
    /// The configuration that it has.
    pub revision: Revision,
    /// Whether that is all of the newest, as far as is known: never while it's silent.
    pub in_sync: bool,
    /// For how long nothing was heard of it, if that is longer than a proxy that works is silent. The hub has no
    /// clock and leaves it empty.
    pub silent: Option<std::time::Duration>,
    /// Resources that it refused.
    pub refused: usize,
    /// Its admin listener, if its workload says.
    pub admin: Option<SocketAddr>,
    /// Its inbound listener, if its workload says.
    pub inbound: Option<SocketAddr>,
}

/// The catalog and all streams.
pub struct Hub {
    trust_domain: Text,
    catalog: Catalog,
    sessions: BTreeMap<SessionId, Stream>,
    by_node: BTreeMap<NodeId, SessionId>,
    encoded: Encoded,
    revision: Revision,
    next_id: u64,
}

struct Stream {
    identity: Identity,
    session: Session,
}

impl Hub {
    /// A hub with an empty catalog.
    pub fn new(trust_domain: Text) -> Self {
        Self {
            trust_domain,
            catalog: Catalog::new(),
            sessions: BTreeMap::new(),
            by_node: BTreeMap::new(),
            encoded: Encoded::default(),
            revision: Revision(0),
            next_id: 0,
        }
    }

    /// The catalog, to ask.
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// A stream begins; `identity` was proven by certificate.
    ///
    /// # Errors
    /// If there are too many.
    pub fn on_connect(&mut self, identity: Identity) -> Result<SessionId, Close> {
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Close::Full);
        }
        self.next_id += 1;
        let id = SessionId(self.next_id);
        self.sessions.insert(id, Stream { identity, session: Session::new() });
        Ok(id)
    }

    /// Bytes came.
    pub fn on_request(&mut self, id: SessionId, bytes: &[u8]) -> Vec<(SessionId, Out)> {
        let Some(stream) = self.sessions.get_mut(&id) else { return Vec::new() };
        let mut out = Vec::new();
        match stream.session.on_request(bytes) {
            Err(error) => return self.close(id, Close::Protocol(error)),
            Ok(Outcome::Hello(node)) => {
                let identity = stream.identity.clone();
                match self.admit(&node.id, &identity) {
                    Err(close) => return self.close(id, close),
                    Ok(spec) => self.seat(id, node.id, spec.forwarding(node.forwards), &mut out),
                }
            }
            Ok(
                Outcome::Subscribed(_) | Outcome::Strange(_) | Outcome::Accepted | Outcome::Refused(_) | Outcome::Stale,
            ) => {}
        }
        self.flush(id, &mut out);
        out
    }

    /// The store changed.
    pub fn on_change(&mut self, change: &Change) -> Vec<(SessionId, Out)> {
        self.on_changes(std::slice::from_ref(change))
    }

    /// The store changed in one revision: each stream is told of all of it at once.
    pub fn on_changes(&mut self, changes: &[Change]) -> Vec<(SessionId, Out)> {
        let mut affected = std::collections::BTreeSet::new();
        let mut out = Vec::new();
        for change in changes {
            let revision = match change {
                Change::Put(resource) => resource.revision,
                Change::Delete { revision, .. } => *revision,
            };
            self.revision = self.revision.max(revision);
            affected.extend(self.catalog.apply(change).nodes);
            self.encoded.forget(change.key());
            self.dismiss(change.key(), &mut out);
        }
        for node in affected {
            let Some(&id) = self.by_node.get(&node) else { continue };
            // A workload that is gone while its proxy still speaks has lost its lease for a moment, or is
            // draining. What it has stays; the catalog remembers what to tell it when it's back.
            if node != EDGE && self.workload(&node).is_none() {
                continue;
            }
            let delta = self.catalog.delta(&node);
            let Some(stream) = self.sessions.get_mut(&id) else { continue };
            stream.session.offer(&delta, self.revision);
            self.encoded.forget_all(&delta.removed);
            self.flush(id, &mut out);
        }
        out
    }

    /// A stream has ended.
    pub fn on_disconnect(&mut self, id: SessionId) {
        let Some(stream) = self.sessions.remove(&id) else { return };
        let Some(node) = stream.session.node().map(|node| node.id.clone()) else { return };
        if self.by_node.get(&node) == Some(&id) {
            self.by_node.remove(&node);
            self.catalog.leave(&node);
        }
    }

    /// Every proxy that has said who it is, in order of name.
    pub fn proxies(&self) -> Vec<Proxy> {
        self.by_node.iter().filter_map(|(node, id)| self.proxy(node, *id)).collect()
    }

    /// Which proxies refused a resource, and why.
    pub fn refusals(&self, key: &Key) -> Vec<Refusal> {
        let of = |(node, id): (&NodeId, &SessionId)| {
            let nack = self.sessions.get(id)?.session.nacks().find(|nack| nack.key == *key)?;
            Some(Refusal { proxy: node.clone(), nack: nack.clone() })
        };
        self.by_node.iter().filter_map(of).collect()
    }

    /// Whether a node of this name may be spoken for by this identity.
    pub fn owns(&self, node: &str, identity: &Identity) -> bool {
        self.admit(&node.into(), identity).is_ok()
    }

    /// The newest revision taken in.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Wire forms made since the beginning: the measure of encoding.
    pub const fn encoded(&self) -> u64 {
        self.encoded.made
    }

    /// Streams at the moment.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    fn proxy(&self, node: &NodeId, id: SessionId) -> Option<Proxy> {
        let stream = self.sessions.get(&id)?;
        let state = stream.session.state();
        let workload = self.workload(node);
        Some(Proxy {
            name: node.clone(),
            session: id,
            silent: None,
            identity: stream.identity.clone(),
            version: stream.session.node()?.version.clone(),
            // What came since didn't concern it, or it would not be in sync.
            revision: if state.in_sync { self.revision } else { state.revision },
            in_sync: state.in_sync,
            refused: state.refused,
            admin: workload.and_then(|workload| workload.admin),
            inbound: workload.and_then(|workload| workload.inbound),
        })
    }

    fn workload(&self, node: &str) -> Option<&byrnie_model::Workload> {
        let (namespace, name) = node.split_once('/')?;
        match &self.catalog.resource(&Key::new(Kind::Workload, namespace, name))?.spec {
            Spec::Workload(workload) => Some(workload),
            _ => None,
        }
    }

    /// What a node may see, if the certificate's identity is the node's own.
    fn admit(&self, node: &Text, identity: &Identity) -> Result<NodeSpec, Close> {
        let refused = || Close::NotYours { node: node.clone(), identity: identity.clone() };
        if *node == *EDGE {
            let edge = Identity::new(&self.trust_domain, Identity::SYSTEM_NAMESPACE, "edge");
            let fits = edge.is_ok_and(|edge| edge == *identity);
            return if fits { Ok(NodeSpec::gateway(Identity::SYSTEM_NAMESPACE, "edge")) } else { Err(refused()) };
        }
        let workload = self.workload(node).ok_or_else(|| Close::Unknown(node.clone()))?;
        if workload.identity != *identity {
            return Err(refused());
        }
        let (namespace, name) = node.split_once('/').ok_or_else(refused)?;
        Ok(NodeSpec::sidecar(namespace, name))
    }

    /// Gives a stream its whole view. An older stream of the same node is ended: its connection is
    /// dead, or its process was replaced.
    fn seat(&mut self, id: SessionId, node: NodeId, spec: NodeSpec, out: &mut Vec<(SessionId, Out)>) {
        if let Some(old) = self.by_node.insert(node.clone(), id) {
            self.sessions.remove(&old);
            out.push((old, Out::Close(Close::Replaced)));
        }
        self.catalog.join(node.clone(), spec);
        let view = self.catalog.delta(&node);
        if let Some(stream) = self.sessions.get_mut(&id) {
            stream.session.offer(&view, self.revision);
        }
    }

    /// Ends the stream of a workload that has become somebody else's, or nobody's.
    fn dismiss(&mut self, key: &Key, out: &mut Vec<(SessionId, Out)>) {
        if key.kind != Kind::Workload {
            return;
        }
        let node: NodeId = format!("{}/{}", key.namespace, key.name).into();
        let Some(&id) = self.by_node.get(&node) else { return };
        let Some(stream) = self.sessions.get(&id) else { return };
        if self.workload(&node).is_some_and(|workload| workload.identity != stream.identity) {
            let identity = stream.identity.clone();
            out.extend(self.close(id, Close::NotYours { node, identity }));
        }
    }

    fn close(&mut self, id: SessionId, why: Close) -> Vec<(SessionId, Out)> {
        self.on_disconnect(id);
        vec![(id, Out::Close(why))]
    }

    fn flush(&mut self, id: SessionId, out: &mut Vec<(SessionId, Out)>) {
        let Some(stream) = self.sessions.get_mut(&id) else { return };
        let encoded = &mut self.encoded;
        let responses = stream.session.flush(|resource| encoded.of(resource));
        out.extend(responses.into_iter().map(|bytes| (id, Out::Send(bytes))));
    }
}

/// Wire forms by resource, so that each is made once however many streams it goes to.
#[derive(Default)]
struct Encoded {
    forms: BTreeMap<Key, (Arc<Resource>, Bytes)>,
    made: u64,
}

impl Encoded {
    fn of(&mut self, resource: &Arc<Resource>) -> Bytes {
        // A name is no work, and others have the same service in full.
        if matches!(&resource.spec, Spec::Service(service) if service.is_bare()) {
            return wire::encode(resource);
        }
        if let Some((held, bytes)) = self.forms.get(&resource.key)
            && (Arc::ptr_eq(held, resource) || held == resource)
        {
            return bytes.clone();
        }
        let bytes = wire::encode(resource);
        self.made += 1;
        if self.forms.len() < ENCODED_MAX || self.forms.contains_key(&resource.key) {
            self.forms.insert(resource.key.clone(), (Arc::clone(resource), bytes.clone()));
        }
        bytes
    }

    fn forget(&mut self, key: &Key) {
        self.forms.remove(key);
    }

    /// Endpoints vanish without a change of their own.
    fn forget_all(&mut self, keys: &[Key]) {
        keys.iter().filter(|key| key.kind == Kind::Endpoint).for_each(|key| self.forget(key));
    }
}
