// SPDX-License-Identifier: Apache-2.0
//! Names on the wire: type URLs, and the names of resources under them. Used by `wire`, `client`
//! and `server`.

use byrnie_model::{Key, Kind};

/// What every type URL begins with.
const TYPE_PREFIX: &str = "type.googleapis.com/byrnie.v1.";

/// Longest name of a resource, in bytes: three DNS names of 253 and two slashes, rounded up.
pub const NAME_BYTES_MAX: usize = 800;

/// What a client says that has a forward listener, among its features.
pub(crate) const FORWARDS: &str = "byrnie.forwards";

/// The kinds that proxies are sent, in the order in which a change is sent: what others name comes
/// before what names it, and policies before the services that they protect, so that no state in
/// between is weaker than the one before or the one after. Removals go the other way round.
pub const ORDER: [Kind; 19] = [
    Kind::Mesh,
    Kind::AccessPolicy,
    Kind::TrafficPolicy,
    Kind::Workload,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::BackendTlsPolicy,
    Kind::EndpointSlice,
    Kind::Site,
    Kind::ServiceExport,
    Kind::Service,
    Kind::Endpoint,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::UdpRoute,
];

/// The place of a kind in [`ORDER`]; `None` for kinds that proxies aren't sent.
pub fn rank(kind: Kind) -> Option<usize> {
    ORDER.iter().position(|other| *other == kind)
}

/// The type URL of a kind; `None` for kinds that proxies aren't sent.
pub const fn type_url(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Mesh => "type.googleapis.com/byrnie.v1.Mesh",
        Kind::AccessPolicy => "type.googleapis.com/byrnie.v1.AccessPolicy",
        Kind::TrafficPolicy => "type.googleapis.com/byrnie.v1.TrafficPolicy",
        Kind::Workload => "type.googleapis.com/byrnie.v1.Workload",
        Kind::Service => "type.googleapis.com/byrnie.v1.Service",
        Kind::Endpoint => "type.googleapis.com/byrnie.v1.Endpoint",
        Kind::HttpRoute => "type.googleapis.com/byrnie.v1.Route",
        Kind::Secret => "type.googleapis.com/byrnie.v1.Secret",
        Kind::EndpointSlice => "type.googleapis.com/byrnie.v1.Slice",
        Kind::Site => "type.googleapis.com/byrnie.v1.Site",
        Kind::ServiceExport => "type.googleapis.com/byrnie.v1.ServiceExport",
        Kind::ConfigMap => "type.googleapis.com/byrnie.v1.Bundle",
        Kind::BackendTlsPolicy => "type.googleapis.com/byrnie.v1.BackendTls",
        Kind::Gateway => "type.googleapis.com/byrnie.v1.Gateway",
        Kind::ListenerSet => "type.googleapis.com/byrnie.v1.ListenerSet",
        Kind::GrpcRoute => "type.googleapis.com/byrnie.v1.GrpcRoute",
        Kind::TlsRoute => "type.googleapis.com/byrnie.v1.TlsRoute",
        Kind::TcpRoute => "type.googleapis.com/byrnie.v1.TcpRoute",
        Kind::UdpRoute => "type.googleapis.com/byrnie.v1.UdpRoute",
        _ => return None,
    })
}

/// The kind of a type URL.
pub fn kind(type_url: &str) -> Option<Kind> {
    Some(match type_url.strip_prefix(TYPE_PREFIX)? {
        "Mesh" => Kind::Mesh,
        "AccessPolicy" => Kind::AccessPolicy,
        "TrafficPolicy" => Kind::TrafficPolicy,
        "Workload" => Kind::Workload,
        "Service" => Kind::Service,
        "Endpoint" => Kind::Endpoint,
        "Route" => Kind::HttpRoute,
        "Secret" => Kind::Secret,
        "Slice" => Kind::EndpointSlice,
        "Site" => Kind::Site,
        "ServiceExport" => Kind::ServiceExport,
        "Bundle" => Kind::ConfigMap,
        "BackendTls" => Kind::BackendTlsPolicy,
        "Gateway" => Kind::Gateway,
        "ListenerSet" => Kind::ListenerSet,
        "GrpcRoute" => Kind::GrpcRoute,
        "TlsRoute" => Kind::TlsRoute,
        "TcpRoute" => Kind::TcpRoute,
        "UdpRoute" => Kind::UdpRoute,
        _ => return None,
    })
}

/// The name of a resource on the wire: `NAMESPACE/NAME`, or `NAME` alone for kinds that live in no
/// namespace. An endpoint's own name is `SERVICE/WORKLOAD`.
pub fn of(key: &Key) -> String {
    if key.kind.namespaced() { format!("{}/{}", key.namespace, key.name) } else { key.name.to_string() }
}

/// The key that a name on the wire stands for; `None` if it isn't of the form of [`of`].
pub fn parse(kind: Kind, name: &str) -> Option<Key> {
    if name.len() > NAME_BYTES_MAX || name.bytes().any(|b| !b.is_ascii_graphic()) {
        return None;
    }
    let mut parts = name.split('/');
    let slashes = match kind {
        Kind::Mesh | Kind::Namespace | Kind::GatewayClass | Kind::Site => 0,
        Kind::Endpoint => 2,
        _ => 1,
    };
    if name.matches('/').count() != slashes || parts.any(str::is_empty) {
        return None;
    }
    match name.split_once('/') {
        Some((namespace, rest)) => Some(Key::new(kind, namespace, rest)),
        None => Some(Key::new(kind, "", name)),
    }
}
