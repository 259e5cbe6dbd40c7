// SPDX-License-Identifier: Apache-2.0
//! Which kinds are served, which are known but not served yet, and which are nothing at all.

use super::de::Fault;
use crate::diagnostic::nearest;
use crate::{Kind, code};

/// Kinds of others that people keep in the same files: refused by a code that says so.
const UNSERVED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "Endpoints",
            "Event",
            "LimitRange",
            "List",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "ServiceAccount",
        ],
    ),
    ("gateway.networking.x-k8s.io", &["XBackendTrafficPolicy", "XListenerSet", "XMesh", "XBackend"]),
];

/// Groups of which no kind is served: whatever it's called, it's known not to be ours.
const FOREIGN_GROUPS: &[&str] = &[
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "cert-manager.io",
    "consul.hashicorp.com",
    "coordination.k8s.io",
    "gateway.envoyproxy.io",
    "kuma.io",
    "linkerd.io",
    "networking.istio.io",
    "networking.k8s.io",
    "policy",
    "policy.linkerd.io",
    "rbac.authorization.k8s.io",
    "security.istio.io",
    "storage.k8s.io",
    "telemetry.istio.io",
];

/// The version of TLSRoute that needs no hosts.
pub(crate) const TLS_ROUTE_EARLY: &str = "gateway.networking.k8s.io/v1alpha2";

/// The kind that a document says it is.
pub(crate) fn resolve(api_version: &str, kind: &str) -> Result<Kind, Fault> {
    // Served upstream in several versions, with the same fields (but that the first TLSRoute needs no host).
    let api_version = match (kind, api_version) {
        ("ReferenceGrant", "gateway.networking.k8s.io/v1beta1") => Kind::ReferenceGrant.api_version(),
        ("TLSRoute", TLS_ROUTE_EARLY | "gateway.networking.k8s.io/v1alpha3") => Kind::TlsRoute.api_version(),
        ("TCPRoute", "gateway.networking.k8s.io/v1") => Kind::TcpRoute.api_version(),
        ("UDPRoute", "gateway.networking.k8s.io/v1alpha2") => Kind::UdpRoute.api_version(),
        ("BackendTLSPolicy", "gateway.networking.k8s.io/v1alpha3") => Kind::BackendTlsPolicy.api_version(),
        _ => api_version,
    };
    if let Some(found) = Kind::APPLICABLE.into_iter().find(|k| k.name() == kind && k.api_version() == api_version) {
        return Ok(found);
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let served = Kind::APPLICABLE.into_iter().filter(|k| group_of(*k) == group);
    if let Some(found) = served.clone().find(|k| k.name() == kind) {
        let wanted = found.api_version();
        let message = format!("{kind} is served as \"{wanted}\", not in version \"{version}\"");
        return Err(
            Fault::new(&code::WRONG_VERSION, "apiVersion", message).fixed(format!("Write `apiVersion: {wanted}`."))
        );
    }
    if kind == "Endpoint" && group == "mesh.byrnie.dev" {
        return Err(Fault::new(&code::UNDERIVABLE, "kind", "an Endpoint is derived from a Service and a Workload"));
    }
    let known = UNSERVED.iter().filter(|(g, _)| *g == group).flat_map(|(_, kinds)| kinds.iter().copied());
    if FOREIGN_GROUPS.contains(&group) || known.clone().any(|k| k == kind) {
        let group = if group.is_empty() { "core" } else { group };
        return Err(Fault::new(&code::KIND_UNSERVED, "kind", format!("byrnie does not serve {kind} ({group}) yet")));
    }
    if let Some(right) = Kind::APPLICABLE.into_iter().find(|k| k.name() == kind) {
        let wanted = right.api_version();
        let message = format!("{kind} belongs to \"{wanted}\", not to \"{api_version}\"");
        return Err(
            Fault::new(&code::WRONG_VERSION, "apiVersion", message).fixed(format!("Write `apiVersion: {wanted}`."))
        );
    }
    let meant = nearest(kind, served.map(Kind::name).chain(known));
    let meant = meant.or_else(|| nearest(kind, Kind::APPLICABLE.into_iter().map(Kind::name)));
    let mut message = format!("no kind \"{kind}\" in \"{api_version}\"");
    if let Some(meant) = meant.filter(|meant| *meant != kind) {
        message.push_str(&format!("; did you mean \"{meant}\"?"));
    }
    Err(Fault::new(&code::UNKNOWN_KIND, "kind", message))
}

/// The group of a kind; empty for core.
pub(crate) fn group_of(kind: Kind) -> &'static str {
    kind.api_version().split_once('/').map_or("", |(group, _)| group)
}
