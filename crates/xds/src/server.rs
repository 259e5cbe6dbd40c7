// SPDX-License-Identifier: Apache-2.0
//! The server's half of delta ADS for one stream: what the other side has, what it lacks, and the
//! next bytes to send. Driven by the control plane's hub. Never knows what is right for a node: it's
//! told by [`Session::offer`].
//!
//! At most one batch is on its way. While it's unacknowledged, changes are merged by resource, so
//! that what a slow reader costs is bounded by the size of its view.

#[cfg(test)]
mod tests;

use crate::proto::byrnie::v1::Refusal;
use crate::proto::envoy::config::core::v3::ControlPlane;
use crate::proto::envoy::service::discovery::v3 as discovery;
use crate::proto::google::protobuf::Any;
use crate::proto::google::rpc::Status;
use crate::proto::{Bytes, Message};
use crate::{clip, name};
use byrnie_base::Text;
use byrnie_model::{Delta, Key, Kind, Resource, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// Longest request that is read: a proxy that lists what it has of 50,000 resources stays below.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Most resources that a request may say it has.
pub const HELD_MAX: usize = 100_000;
/// A response is closed when its resources reach this size; gRPC clients take 4 MiB by default.
pub const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// No further response is sent while so many bytes are unanswered.
pub const UNANSWERED_BYTES_MAX: usize = 2 << 20;
/// What a resource costs beside its name (which it holds twice at most) and value: type URL, version
/// and tags.
const ENVELOPE_BYTES: usize = 96;
/// Most refusals that are remembered for one stream.
pub const NACKS_MAX: usize = 1_000;
/// Longest reason that is remembered, in bytes.
pub const REASON_BYTES_MAX: usize = 512;
/// Most types that aren't served which one stream may ask for: a proxy of a newer version knows some.
pub const STRANGE_MAX: usize = 64;
/// What the control plane calls itself in each first response.
const IDENTIFIER: &str = "byrnie";

/// Who says it's at the other end. Not proven: the hub compares it with the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `NAMESPACE/WORKLOAD`, or `byrnie/edge`.
    pub id: Text,
    /// Version of its program.
    pub version: Text,
    /// Whether its program names whom it calls in each request.
    pub forwards: bool,
}

/// What a request meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The first request: who is there. Offer it its view.
    Hello(Node),
    /// Another kind is wanted.
    Subscribed(Kind),
    /// A type is wanted that isn't served. The answer is that there is nothing of it.
    Strange(Text),
    /// A response was accepted.
    Accepted,
    /// A response was refused, for these reasons.
    Refused(Vec<Nack>),
    /// It acknowledges nothing that is on its way.
    Stale,
}

/// A resource that the other side refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Which.
    pub key: Key,
    /// At which revision.
    pub revision: Revision,
    /// Why, in its words.
    pub reason: Text,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The newest revision of which everything was answered.
    pub revision: Revision,
    /// Whether nothing waits and nothing is on its way.
    pub in_sync: bool,
    /// Resources that it has.
    pub held: usize,
    /// Resources that it refused, at the revision last sent.
    pub refused: usize,
}

/// Why a stream must be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request isn't a message of the protocol.
    Undecodable,
    /// The request is longer than [`REQUEST_BYTES_MAX`].
    TooLong,
    /// It says that it has more than [`HELD_MAX`] resources.
    TooMany,
    /// The first request has no node id, or one that is no name.
    NoNode,
    /// It asks for more than [`STRANGE_MAX`] types that aren't served; this is the last of them.
    UnknownType(Text),
    /// It asks for single resources, or ends a subscription.
    NotWhole,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable => f.write_str("the request is no DeltaDiscoveryRequest"),
            Self::TooLong => write!(f, "the request is longer than {REQUEST_BYTES_MAX} bytes"),
            Self::TooMany => write!(f, "the request names more than {HELD_MAX} resources"),
            Self::NoNode => f.write_str("the first request names no node"),
            Self::UnknownType(url) => {
                write!(f, "resources of type {url} are not served, nor are {STRANGE_MAX} other types it asks for")
            }
            Self::NotWhole => f.write_str("a type is subscribed as a whole, for the life of the stream"),
        }
    }
}

impl std::error::Error for Error {}

/// One stream.
#[derive(Debug, Default)]
pub struct Session {
    node: Option<Node>,
    kinds: [OfKind; name::ORDER.len()],
    /// Types that were asked for and aren't served, and whether that was said.
    strange: BTreeMap<Text, bool>,
    /// The rest of the batch that is on its way.
    planned: VecDeque<Part>,
    /// What of it was sent and not yet answered.
    unanswered: Vec<Sent>,
    nonce: u64,
    /// Of the newest offer.
    offered: Revision,
    /// Of the batch that is on its way.
    batch: Revision,
    /// Of the last batch that was answered.
    answered: Revision,
}

/// What is known about one kind of resource.
#[derive(Debug, Default)]
struct OfKind {
    subscribed: bool,
    /// Whether a response of this kind was sent: the first is sent even when empty, so that the other
    /// side knows that it has everything.
    greeted: bool,
    /// What the other side has.
    held: BTreeMap<Key, Revision>,
    /// What it lacks; `None` is a removal.
    pending: BTreeMap<Key, Option<Arc<Resource>>>,
    refused: BTreeMap<Key, Nack>,
}

#[derive(Debug)]
struct Sent {
    nonce: String,
    rank: usize,
    entries: Entries,
    bytes: usize,
}

impl Session {
    /// A stream on which nothing was said yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who is there, once it has said.
    pub const fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Takes in a request.
    ///
    /// # Errors
    /// If the stream must be closed.
    pub fn on_request(&mut self, bytes: &[u8]) -> Result<Outcome, Error> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let request = discovery::DeltaDiscoveryRequest::decode(bytes).map_err(|_| Error::Undecodable)?;
        let hello = if self.node.is_none() { Some(hello(&request)?) } else { None };
        let whole = request.resource_names_subscribe.iter().all(|name| name == "*");
        if !whole || !request.resource_names_unsubscribe.is_empty() {
            return Err(Error::NotWhole);
        }
        let outcome = match name::kind(&request.type_url).and_then(name::rank) {
            None => self.on_strange(clip(&request.type_url, REASON_BYTES_MAX), &request.response_nonce)?,
            Some(rank) if self.kinds[rank].subscribed => self.on_answer(&request),
            Some(rank) => {
                self.subscribe(rank, &request.initial_resource_versions)?;
                Outcome::Subscribed(name::ORDER[rank])
            }
        };
        Ok(match hello {
            Some(node) => {
                self.node = Some(node.clone());
                Outcome::Hello(node)
            }
            None => outcome,
        })
    }

    /// Tells what the other side should have. Without effect on what it has already.
    pub fn offer(&mut self, delta: &Delta, revision: Revision) {
        self.offered = self.offered.max(revision);
        for resource in &delta.changed {
            if let Some(rank) = name::rank(resource.key.kind) {
                self.kinds[rank].pending.insert(resource.key.clone(), Some(Arc::clone(resource)));
            }
        }
        for key in &delta.removed {
            let Some(rank) = name::rank(key.kind) else { continue };
            // What is on its way may be this: `take` looks again once that was answered.
            if self.is_busy() || self.kinds[rank].held.contains_key(key) {
                self.kinds[rank].pending.insert(key.clone(), None);
            } else {
                self.kinds[rank].pending.remove(key);
            }
            self.kinds[rank].refused.remove(key);
        }
    }

    /// The responses to send now, in this order: those of the batch that is on its way, as far as
    /// they fit [`UNANSWERED_BYTES_MAX`], or of the next batch once all of the last was answered.
    /// `encode` gives the wire form of a resource's spec.
    pub fn flush(&mut self, mut encode: impl FnMut(&Arc<Resource>) -> Bytes) -> Vec<Bytes> {
        if self.planned.is_empty() && self.unanswered.is_empty() {
            self.plan();
        }
        let mut responses = self.say_strange();
        while self.unanswered.iter().map(|sent| sent.bytes).sum::<usize>() < UNANSWERED_BYTES_MAX {
            let Some(part) = self.planned.pop_front() else { break };
            responses.push(self.respond(part, &mut encode));
        }
        responses
    }

    /// Writes the response of a part, or of as much of it as fits one response.
    fn respond(&mut self, part: Part, encode: &mut impl FnMut(&Arc<Resource>) -> Bytes) -> Bytes {
        self.nonce += 1;
        let mut response = discovery::DeltaDiscoveryResponse {
            type_url: name::type_url(name::ORDER[part.rank]).unwrap_or_default().to_owned(),
            nonce: self.nonce.to_string(),
            ..Default::default()
        };
        if !std::mem::replace(&mut self.kinds[part.rank].greeted, true) {
            response.control_plane = Some(ControlPlane { identifier: IDENTIFIER.to_owned() });
        }
        let Part { rank, entries: mut rest } = part;
        let (mut entries, mut bytes) = (Entries::new(), 0);
        while bytes < RESPONSE_BYTES_MAX
            && let Some((key, resource)) = rest.pop_front()
        {
            let name = name::of(&key);
            bytes += 2 * name.len() + ENVELOPE_BYTES;
            match &resource {
                Some(resource) => {
                    let value = encode(resource);
                    bytes += value.len();
                    response.resources.push(discovery::Resource {
                        version: resource.revision.to_string(),
                        resource: Some(Any { type_url: response.type_url.clone(), value }),
                        name,
                        aliases: Vec::new(),
                    });
                }
                None => response.removed_resources.push(name),
            }
            entries.push_back((key, resource));
        }
        if !rest.is_empty() {
            self.planned.push_front(Part { rank, entries: rest });
        }
        if self.planned.is_empty() {
            response.system_version_info = self.batch.to_string();
        }
        self.unanswered.push(Sent { nonce: response.nonce.clone(), rank, entries, bytes });
        response.encode_to_vec().into()
    }

    /// Where the stream stands.
    pub fn state(&self) -> State {
        let waiting = self.is_busy() || self.kinds.iter().any(|kind| kind.subscribed && !kind.pending.is_empty());
        State {
            revision: self.answered,
            in_sync: !waiting && self.kinds.iter().any(|kind| kind.greeted),
            held: self.kinds.iter().map(|kind| kind.held.len()).sum(),
            refused: self.kinds.iter().map(|kind| kind.refused.len()).sum(),
        }
    }

    /// What the other side refused and wasn't replaced since.
    pub fn nacks(&self) -> impl Iterator<Item = &Nack> {
        self.kinds.iter().flat_map(|kind| kind.refused.values())
    }

    fn subscribe(&mut self, rank: usize, has: &BTreeMap<String, String>) -> Result<(), Error> {
        let held: usize = self.kinds.iter().map(|kind| kind.held.len()).sum();
        if held + has.len() > HELD_MAX {
            return Err(Error::TooMany);
        }
        let of_kind = &mut self.kinds[rank];
        of_kind.subscribed = true;
        for (name, version) in has {
            let Some(key) = name::parse(name::ORDER[rank], name) else { return Err(Error::Undecodable) };
            // A version that is no number is one that was never sent from here: it will differ.
            let revision = Revision(version.parse().unwrap_or(u64::MAX));
            // What isn't offered is to go. The offer may still come: it takes this back.
            of_kind.pending.entry(key.clone()).or_insert(None);
            of_kind.held.insert(key, revision);
        }
        Ok(())
    }

    /// A proxy that is newer than this program asks for kinds that nobody here knows. It is told that there is nothing of them, as
    /// what it has is the whole only once it has heard of every kind.
    fn on_strange(&mut self, url: Text, nonce: &str) -> Result<Outcome, Error> {
        if !nonce.is_empty() {
            return Ok(Outcome::Stale);
        }
        if self.strange.len() >= STRANGE_MAX && !self.strange.contains_key(&url) {
            return Err(Error::UnknownType(url));
        }
        self.strange.entry(url.clone()).or_default();
        Ok(Outcome::Strange(url))
    }

    /// Answers what was asked for and isn't served, between two batches: after the last, so that what comes next is a state, or at once if
    /// nothing else is to be said.
    fn say_strange(&mut self) -> Vec<Bytes> {
        let mut responses = Vec::new();
        if !self.unanswered.is_empty() {
            return responses;
        }
        let whole = self.planned.is_empty();
        for (url, said) in self.strange.iter_mut().filter(|(_, said)| !**said) {
            *said = true;
            self.nonce += 1;
            let response = discovery::DeltaDiscoveryResponse {
                type_url: url.to_string(),
                nonce: self.nonce.to_string(),
                system_version_info: if whole { self.batch.to_string() } else { String::new() },
                ..Default::default()
            };
            responses.push(response.encode_to_vec().into());
        }
        responses
    }

    fn on_answer(&mut self, request: &discovery::DeltaDiscoveryRequest) -> Outcome {
        let Some(at) = self.unanswered.iter().position(|sent| sent.nonce == request.response_nonce) else {
            return Outcome::Stale;
        };
        let sent = self.unanswered.remove(at);
        let outcome = match &request.error_detail {
            None => {
                self.kinds[sent.rank].accepted(sent.entries);
                Outcome::Accepted
            }
            Some(status) => Outcome::Refused(self.kinds[sent.rank].refused(sent.entries, status)),
        };
        if !self.is_busy() {
            self.answered = self.batch;
        }
        outcome
    }

    /// Whether a batch is on its way.
    fn is_busy(&self) -> bool {
        !self.planned.is_empty() || !self.unanswered.is_empty()
    }

    /// Makes the next batch of what is pending.
    fn plan(&mut self) {
        let mut changed: Vec<Part> = Vec::new();
        let mut removed: Vec<Part> = Vec::new();
        for (rank, of_kind) in self.kinds.iter_mut().enumerate().filter(|(_, of_kind)| of_kind.subscribed) {
            let (puts, gone) = of_kind.take();
            let silent = puts.is_empty() && gone.is_empty();
            if !puts.is_empty() || (silent && !of_kind.greeted) {
                changed.push(Part { rank, entries: puts });
            }
            if !gone.is_empty() {
                removed.push(Part { rank, entries: gone });
            }
        }
        // Within one kind there's no order to keep, and one message is better than two. The last kind
        // to change is the first to lose.
        if let (Some(last), Some(first)) = (changed.last_mut(), removed.last())
            && last.rank == first.rank
            && let Some(part) = removed.pop()
        {
            last.entries.extend(part.entries);
        }
        self.batch = self.offered;
        self.planned = changed.into_iter().chain(removed.into_iter().rev()).collect();
        if self.planned.is_empty() && self.kinds.iter().any(|kind| kind.greeted) {
            self.answered = self.batch;
        }
    }
}

impl OfKind {
    /// What differs from what the other side has and what it refused, and no longer waits.
    fn take(&mut self) -> (Entries, Entries) {
        let (mut puts, mut gone) = (Entries::new(), Entries::new());
        for (key, resource) in std::mem::take(&mut self.pending) {
            match resource {
                Some(resource) => {
                    let has = self.held.get(&key) == Some(&resource.revision);
                    let refused = self.refused.get(&key).is_some_and(|nack| nack.revision == resource.revision);
                    if has {
                        self.refused.remove(&key);
                    } else if !refused {
                        puts.push_back((key, Some(resource)));
                    }
                }
                None if self.held.contains_key(&key) => gone.push_back((key, None)),
                None => {}
            }
        }
        (puts, gone)
    }

    fn accepted(&mut self, entries: Entries) {
        for (key, resource) in entries {
            self.refused.remove(&key);
            match resource {
                Some(resource) => self.held.insert(key, resource.revision),
                None => self.held.remove(&key),
            };
        }
    }

    /// Remembers what was refused. What was only in bad company is to be sent again: each refusal
    /// names one resource at least, so this ends.
    fn refused(&mut self, entries: Entries, status: &Status) -> Vec<Nack> {
        let reasons = reasons(status);
        let blamed = |key: &Key| reasons.get(&name::of(key));
        let known = entries.iter().any(|(key, _)| blamed(key).is_some());
        let mut nacks = Vec::new();
        for (key, resource) in entries {
            let reason = match (known, blamed(&key)) {
                (true, None) => {
                    self.pending.entry(key).or_insert(resource);
                    continue;
                }
                (_, Some(reason)) => reason.clone(),
                (false, None) => clip(&status.message, REASON_BYTES_MAX),
            };
            let revision = resource.map_or(Revision(0), |resource| resource.revision);
            let nack = Nack { key: key.clone(), revision, reason };
            if self.refused.len() < NACKS_MAX || self.refused.contains_key(&key) {
                self.refused.insert(key, nack.clone());
            }
            nacks.push(nack);
        }
        nacks
    }
}

/// Puts and removals (`None`).
type Entries = VecDeque<(Key, Option<Arc<Resource>>)>;

/// What one or more responses say about one kind.
#[derive(Debug)]
struct Part {
    rank: usize,
    entries: Entries,
}

fn hello(request: &discovery::DeltaDiscoveryRequest) -> Result<Node, Error> {
    let node = request.node.as_ref().ok_or(Error::NoNode)?;
    let fits = (1..=name::NAME_BYTES_MAX).contains(&node.id.len()) && node.id.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        return Err(Error::NoNode);
    }
    Ok(Node {
        id: node.id.as_str().into(),
        version: clip(&node.user_agent_version, REASON_BYTES_MAX),
        forwards: node.client_features.iter().any(|feature| feature == name::FORWARDS),
    })
}

/// The reasons of a NACK by the resource's name.
fn reasons(status: &Status) -> BTreeMap<String, Text> {
    status
        .details
        .iter()
        .take(NACKS_MAX)
        .filter(|any| any.type_url == crate::client::REFUSAL_TYPE)
        .filter_map(|any| Refusal::decode(any.value.clone()).ok())
        .map(|refusal| (refusal.name, clip(&refusal.reason, REASON_BYTES_MAX)))
        .collect()
}
