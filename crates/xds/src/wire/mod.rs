// SPDX-License-Identifier: Apache-2.0
//! Resources to bytes and back. Each file below has both directions of one kind, so that a round
//! trip is one test. Decoding takes bytes from anywhere: it never panics, and what it returns is
//! valid by the model's rules or isn't returned.

mod check;
mod endpoint;
mod fault;
mod filter;
mod gateway;
mod health;
mod idempotency;
mod mesh;
mod outside;
mod policy;
mod route;
mod secret;
mod service;
mod site;
mod slice;
mod workload;

#[cfg(test)]
mod tests;

pub use check::{health as health_of, health_out};
pub use policy::{quota_ask, quota_ask_out};

use crate::proto::Bytes;
use byrnie_model::{Key, Kind, Labels, Resource, Revision, Spec};
use std::fmt;

/// Largest resource that is read, in bytes. Kubernetes refuses objects above 1.5 MiB.
pub const RESOURCE_BYTES_MAX: usize = 2 << 20;

/// Why bytes aren't a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The field, such as `rules[].backends[].port`.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What may be wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The bytes are no protobuf message of this type, or too long.
    Malformed,
    /// It must be there.
    Missing,
    /// It's outside its range or set.
    Invalid,
    /// There are more than allowed.
    TooMany,
    /// The same name twice.
    Repeated,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.problem {
            Problem::Malformed => "is malformed",
            Problem::Missing => "is missing",
            Problem::Invalid => "is invalid",
            Problem::TooMany => "has too many entries",
            Problem::Repeated => "has a name twice",
        };
        write!(f, "{} {problem}", self.field)
    }
}

impl std::error::Error for Error {}

/// The wire form of what a resource says. Its name and version travel beside it. Empty for kinds
/// that proxies aren't sent.
pub fn encode(resource: &Resource) -> Bytes {
    let labels = &resource.labels;
    match &resource.spec {
        Spec::Mesh(spec) => mesh::encode(spec, labels),
        Spec::Service(spec) => service::encode(spec, labels),
        Spec::Workload(spec) => workload::encode(spec, labels),
        Spec::Endpoint(spec) => endpoint::encode(spec, labels),
        Spec::Slice(spec) => slice::encode(spec, labels),
        Spec::Site(spec) => site::encode(spec, labels),
        Spec::Export => site::encode_export(labels),
        Spec::Secret(spec) => secret::encode(spec, labels),
        Spec::Bundle(spec) => outside::encode_bundle(spec, labels),
        Spec::BackendTls(spec) => outside::encode(spec, resource.created, labels),
        Spec::Gateway(spec) => gateway::encode(spec, resource.created, labels),
        Spec::Route(spec) => route::encode(spec, resource.created, labels),
        Spec::Access(spec) => policy::encode_access(spec, labels),
        Spec::Traffic(spec) => policy::encode_traffic(spec, labels),
        Spec::Namespace | Spec::GatewayClass(_) | Spec::Grant(_) | Spec::Saga(_) | Spec::Direct(_) | Spec::Pool(_) => {
            Bytes::new()
        }
    }
}

/// The resource that bytes stand for.
///
/// # Errors
/// If the bytes say anything that the model forbids.
pub fn decode(key: Key, revision: Revision, bytes: &[u8]) -> Result<Resource, Error> {
    if bytes.len() > RESOURCE_BYTES_MAX {
        return Err(Error { field: "resource", problem: Problem::Malformed });
    }
    let (spec, labels): (Spec, Labels) = match key.kind {
        Kind::Mesh => mesh::decode(bytes)?,
        Kind::Service => service::decode(bytes)?,
        Kind::Workload => workload::decode(bytes)?,
        Kind::Endpoint => endpoint::decode(&key, bytes)?,
        Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::TlsRoute
        | Kind::TcpRoute
        | Kind::UdpRoute
        | Kind::Gateway
        | Kind::ListenerSet
        | Kind::BackendTlsPolicy => {
            let decode = match key.kind {
                Kind::Gateway | Kind::ListenerSet => gateway::decode,
                Kind::BackendTlsPolicy => outside::decode,
                _ => route::decode,
            };
            let (spec, labels, created) = decode(bytes)?;
            return Ok(Resource { key, revision, created, labels, origin: None, spec });
        }
        Kind::EndpointSlice => slice::decode(bytes)?,
        Kind::Site => site::decode(bytes)?,
        Kind::ServiceExport => site::decode_export(bytes)?,
        Kind::Secret => secret::decode(bytes)?,
        Kind::ConfigMap => outside::decode_bundle(bytes)?,
        Kind::AccessPolicy => policy::decode_access(bytes)?,
        Kind::TrafficPolicy => policy::decode_traffic(bytes)?,
        Kind::Namespace
        | Kind::GatewayClass
        | Kind::ReferenceGrant
        | Kind::Saga
        | Kind::HttpRouteFilter
        | Kind::InferencePool => {
            return Err(Error { field: "type", problem: Problem::Invalid });
        }
    };
    Ok(Resource { key, revision, created: Revision::default(), labels, origin: None, spec })
}
