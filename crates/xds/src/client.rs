// SPDX-License-Identifier: Apache-2.0
//! The client's half of delta ADS: subscribes every kind as a whole, turns responses into
//! [`Delta`]s, and answers each. Driven by the proxy's agent, which owns the connection. It keeps
//! the versions of what was accepted, so that after a reconnect only differences are sent.
//!
//! What is good of a response is taken, and the answer names the rest, of which the last good stays in force: what comes
//! later may count on the good ones, as policies do for services. The server sends those again.

use crate::proto::byrnie::v1::Refusal;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::service::discovery::v3 as discovery;
use crate::proto::google::protobuf::Any;
use crate::proto::google::rpc::Status;
use crate::proto::{Bytes, Message};
use crate::{clip, name, wire};
use byrnie_base::Text;
use byrnie_model::{Delta, Key, Kind, Resource, Revision};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Type URL of the details of a NACK.
pub const REFUSAL_TYPE: &str = "type.googleapis.com/byrnie.v1.Refusal";
/// Longest response that is read. The server closes a response at 1 MiB and one resource is at most
/// [`wire::RESOURCE_BYTES_MAX`].
pub const RESPONSE_BYTES_MAX: usize = 8 << 20;
/// Most refusals that one NACK explains.
pub const REFUSALS_MAX: usize = 100;
/// gRPC's `INVALID_ARGUMENT`, the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;

/// One subscriber. It outlives its connections.
#[derive(Debug)]
pub struct Client {
    node: Text,
    version: Text,
    forwards: bool,
    held: BTreeMap<Key, Revision>,
    seen: [bool; name::ORDER.len()],
    complete: bool,
    revision: Revision,
}

/// A response, read and found well-formed. Give it back to [`Client::accept`] or
/// [`Client::refuse`].
#[derive(Debug, PartialEq)]
#[must_use = "every response must be answered"]
pub struct Update {
    /// What it changes.
    pub delta: Delta,
    /// The configuration that is reached with this response; `None` in the middle of a batch, and until
    /// every kind was heard on this stream. Only then is what is held a state to put in force.
    pub revision: Option<Revision>,
    /// What of it can't be read.
    pub unreadable: Vec<Refused>,
    kind: Kind,
    nonce: String,
}

/// Why a resource isn't accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name on the wire.
    pub name: Text,
    /// Why.
    pub reason: Text,
}

/// Why a stream can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It's no message of the protocol.
    Undecodable,
    /// It's longer than [`RESPONSE_BYTES_MAX`].
    TooLong,
    /// It's of a type that wasn't subscribed.
    UnknownType,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable => f.write_str("the response is no DeltaDiscoveryResponse"),
            Self::TooLong => write!(f, "the response is longer than {RESPONSE_BYTES_MAX} bytes"),
            Self::UnknownType => f.write_str("the response is of a type that was not subscribed"),
        }
    }
}

impl std::error::Error for Error {}

impl Client {
    /// A subscriber that has nothing. `node` is `NAMESPACE/WORKLOAD` or `byrnie/edge`, `version` that
    /// of the program.
    pub fn new(node: impl Into<Text>, version: impl Into<Text>) -> Self {
        Self {
            node: node.into(),
            version: version.into(),
            forwards: false,
            held: BTreeMap::new(),
            seen: [false; name::ORDER.len()],
            complete: false,
            revision: Revision(0),
        }
    }

    /// The same, with or without a forward listener: with one it's told of services that its program may not call.
    #[must_use]
    pub fn forwarding(self, forwards: bool) -> Self {
        Self { forwards, ..self }
    }

    /// Starts from resources that were kept across a restart, which the caller has in force.
    pub fn resume<'a>(&mut self, kept: impl IntoIterator<Item = &'a Arc<Resource>>) {
        self.held = kept.into_iter().map(|resource| (resource.key.clone(), resource.revision)).collect();
    }

    /// The first messages of a new stream, to be sent in this order.
    pub fn connect(&mut self) -> Vec<Bytes> {
        self.seen = [false; name::ORDER.len()];
        let mut node = Some(core::Node {
            id: self.node.to_string(),
            user_agent_name: "byrnie".to_owned(),
            user_agent_version: self.version.to_string(),
            client_features: self.forwards.then(|| name::FORWARDS.to_owned()).into_iter().collect(),
            ..Default::default()
        });
        let subscribe = |kind: &Kind| {
            let of_kind = self.held.iter().filter(|(key, _)| key.kind == *kind);
            discovery::DeltaDiscoveryRequest {
                node: node.take(),
                type_url: name::type_url(*kind).unwrap_or_default().to_owned(),
                resource_names_subscribe: vec!["*".to_owned()],
                initial_resource_versions: of_kind.map(|(key, at)| (name::of(key), at.to_string())).collect(),
                ..Default::default()
            }
        };
        name::ORDER.iter().map(subscribe).map(|request| request.encode_to_vec().into()).collect()
    }

    /// Reads a response. Changes nothing yet.
    ///
    /// # Errors
    /// If it's no response at all: close the stream and connect again.
    pub fn on_response(&self, bytes: &[u8]) -> Result<Update, Error> {
        if bytes.len() > RESPONSE_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let response = discovery::DeltaDiscoveryResponse::decode(bytes).map_err(|_| Error::Undecodable)?;
        let kind = name::kind(&response.type_url).ok_or(Error::UnknownType)?;
        let mut delta = Delta::default();
        let mut unreadable = Vec::new();
        for resource in response.resources {
            match read(kind, &resource) {
                Ok(resource) => delta.changed.push(Arc::new(resource)),
                Err(reason) => unreadable.push(Refused { name: clip(&resource.name, name::NAME_BYTES_MAX), reason }),
            }
        }
        for name in response.removed_resources {
            match name::parse(kind, &name) {
                Some(key) => delta.removed.push(key),
                None => unreadable.push(Refused { name: clip(&name, name::NAME_BYTES_MAX), reason: "no name".into() }),
            }
        }
        // On a new stream the server may close a batch before it has heard of every subscription. What is
        // held of the other kinds is then older than that revision, and no state to put in force: policies
        // of one revision beside defaults of another could let through what both refuse.
        let whole = name::ORDER.iter().zip(self.seen).all(|(other, seen)| seen || *other == kind);
        let revision = response.system_version_info.parse().ok().map(Revision).filter(|_| whole);
        Ok(Update { delta, revision, unreadable, kind, nonce: response.nonce })
    }

    /// Takes a response as in force, all of which could be read. Returns the ACK to send.
    pub fn accept(&mut self, update: &Update) -> Bytes {
        for resource in &update.delta.changed {
            self.held.insert(resource.key.clone(), resource.revision);
        }
        for key in &update.delta.removed {
            self.held.remove(key);
        }
        self.mark(update);
        answer(update.kind, &update.nonce, &[])
    }

    /// Takes a response but for what these reasons name. Returns the NACK to send.
    pub fn refuse(&mut self, update: &Update, refusals: &[Refused]) -> Bytes {
        self.mark(update);
        answer(update.kind, &update.nonce, refusals)
    }

    /// Whether everything that the server had to say at some moment was heard, on any stream so far.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The newest configuration that was reached.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// What is in force: names and versions.
    pub const fn held(&self) -> &BTreeMap<Key, Revision> {
        &self.held
    }

    fn mark(&mut self, update: &Update) {
        if let Some(rank) = name::rank(update.kind) {
            self.seen[rank] = true;
        }
        if let Some(revision) = update.revision {
            self.revision = revision;
            self.complete |= self.seen.iter().all(|seen| *seen);
        }
    }
}

fn read(kind: Kind, resource: &discovery::Resource) -> Result<Resource, Text> {
    let key = name::parse(kind, &resource.name).ok_or("its name is not NAMESPACE/NAME")?;
    let revision = resource.version.parse().map(Revision).map_err(|_| "its version is no number")?;
    let any = resource.resource.as_ref().ok_or("it is empty")?;
    if name::kind(&any.type_url) != Some(kind) {
        return Err("it is of another type than the response".into());
    }
    wire::decode(key, revision, &any.value).map_err(|error| error.to_string().into())
}

fn answer(kind: Kind, nonce: &str, refusals: &[Refused]) -> Bytes {
    let error_detail = refusals.first().map(|first| Status {
        code: INVALID_ARGUMENT,
        message: format!("{}: {}", first.name, first.reason),
        details: refusals.iter().take(REFUSALS_MAX).map(detail).collect(),
    });
    let request = discovery::DeltaDiscoveryRequest {
        type_url: name::type_url(kind).unwrap_or_default().to_owned(),
        response_nonce: nonce.to_owned(),
        error_detail,
        ..Default::default()
    };
    request.encode_to_vec().into()
}

fn detail(refused: &Refused) -> Any {
    let refusal = Refusal { name: refused.name.to_string(), reason: refused.reason.to_string() };
    Any { type_url: REFUSAL_TYPE.to_owned(), value: refusal.encode_to_vec().into() }
}
