// SPDX-License-Identifier: Apache-2.0
//! `Resource`: the unit of storage, of distribution and of status.

use crate::gateway::{Gateway, GatewayClass, Grant};
use crate::outside::{BackendTls, Bundle};
use crate::policy::traffic::Limits;
use crate::policy::{AccessPolicy, TrafficPolicy};
use crate::route::DirectResponse;
use crate::telemetry::Otlp;
use crate::{Endpoint, InferencePool, Protocol, Route, Saga, Secret, Service, Site, Slice, Workload};
use byrnie_base::Text;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Labels of an object.
pub type Labels = BTreeMap<Text, Text>;

/// What sort of thing a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// core/v1 `Namespace`.
    Namespace,
    /// Mesh-wide defaults.
    Mesh,
    /// core/v1 `Service`.
    Service,
    /// discovery.k8s.io `EndpointSlice`: addresses that serve a service.
    EndpointSlice,
    /// Gateway API Inference Extension `InferencePool`: workloads that serve models, and who picks among them.
    InferencePool,
    /// core/v1 `Secret`: a certificate and its key, for a gateway or for calls that leave the mesh.
    Secret,
    /// core/v1 `ConfigMap`: certificates of authorities, for calls that leave the mesh.
    ConfigMap,
    /// A running instance.
    Workload,
    /// Gateway API `HTTPRoute`.
    HttpRoute,
    /// Gateway API `GRPCRoute`.
    GrpcRoute,
    /// Gateway API `TLSRoute`.
    TlsRoute,
    /// Gateway API `TCPRoute`.
    TcpRoute,
    /// Gateway API `UDPRoute`.
    UdpRoute,
    /// What rules of an HTTPRoute do that Gateway API has no filter for: an answer of their own.
    HttpRouteFilter,
    /// Gateway API `Gateway`.
    Gateway,
    /// Gateway API `ListenerSet`.
    ListenerSet,
    /// Gateway API `GatewayClass`.
    GatewayClass,
    /// Gateway API `ReferenceGrant`.
    ReferenceGrant,
    /// Gateway API `BackendTLSPolicy`.
    BackendTlsPolicy,
    /// Who may call what.
    AccessPolicy,
    /// How a service is called.
    TrafficPolicy,
    /// The definition of a transaction.
    Saga,
    /// Another mesh.
    Site,
    /// multicluster.x-k8s.io `ServiceExport`: other sites may reach the service of this name.
    ServiceExport,
    /// An address that serves a service. Derived by the catalog, never stored, never applied.
    Endpoint,
}

impl Kind {
    /// Every kind that a user may apply.
    pub const APPLICABLE: [Self; 24] = [
        Self::Namespace,
        Self::Mesh,
        Self::Service,
        Self::EndpointSlice,
        Self::InferencePool,
        Self::Secret,
        Self::ConfigMap,
        Self::Workload,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::UdpRoute,
        Self::HttpRouteFilter,
        Self::Gateway,
        Self::ListenerSet,
        Self::GatewayClass,
        Self::ReferenceGrant,
        Self::BackendTlsPolicy,
        Self::AccessPolicy,
        Self::TrafficPolicy,
        Self::Saga,
        Self::Site,
        Self::ServiceExport,
    ];

    /// The name in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Mesh => "Mesh",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::InferencePool => "InferencePool",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Workload => "Workload",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::UdpRoute => "UDPRoute",
            Self::HttpRouteFilter => "HTTPRouteFilter",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::GatewayClass => "GatewayClass",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::AccessPolicy => "AccessPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::Saga => "Saga",
            Self::Site => "Site",
            Self::ServiceExport => "ServiceExport",
            Self::Endpoint => "Endpoint",
        }
    }

    /// The text in `apiVersion:`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Service | Self::Secret | Self::ConfigMap => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::HttpRoute
            | Self::GrpcRoute
            | Self::TlsRoute
            | Self::UdpRoute
            | Self::Gateway
            | Self::ListenerSet
            | Self::GatewayClass
            | Self::ReferenceGrant
            | Self::BackendTlsPolicy => "gateway.networking.k8s.io/v1",
            Self::InferencePool => "inference.networking.k8s.io/v1",
            Self::TcpRoute => "gateway.networking.k8s.io/v1alpha2",
            Self::ServiceExport => "multicluster.x-k8s.io/v1alpha1",
            Self::Mesh
            | Self::HttpRouteFilter
            | Self::Workload
            | Self::AccessPolicy
            | Self::TrafficPolicy
            | Self::Saga
            | Self::Site
            | Self::Endpoint => "mesh.byrnie.dev/v1alpha1",
        }
    }

    /// The kind that a person means: its name in any case, its plural, or its usual short form
    /// (`svc`, `ns`, `wl`, `ap`, `tp`).
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "namespace" | "namespaces" | "ns" => Self::Namespace,
            "mesh" | "meshes" => Self::Mesh,
            "service" | "services" | "svc" => Self::Service,
            "endpointslice" | "endpointslices" => Self::EndpointSlice,
            "inferencepool" | "inferencepools" | "infpool" => Self::InferencePool,
            "secret" | "secrets" => Self::Secret,
            "configmap" | "configmaps" | "cm" => Self::ConfigMap,
            "workload" | "workloads" | "wl" => Self::Workload,
            "httproute" | "httproutes" | "route" | "routes" => Self::HttpRoute,
            "httproutefilter" | "httproutefilters" => Self::HttpRouteFilter,
            "gateway" | "gateways" | "gtw" => Self::Gateway,
            "listenerset" | "listenersets" => Self::ListenerSet,
            "gatewayclass" | "gatewayclasses" | "gc" => Self::GatewayClass,
            "referencegrant" | "referencegrants" | "refgrant" => Self::ReferenceGrant,
            "backendtlspolicy" | "backendtlspolicies" | "btlspolicy" => Self::BackendTlsPolicy,
            "grpcroute" | "grpcroutes" => Self::GrpcRoute,
            "tlsroute" | "tlsroutes" => Self::TlsRoute,
            "tcproute" | "tcproutes" => Self::TcpRoute,
            "udproute" | "udproutes" => Self::UdpRoute,
            "accesspolicy" | "accesspolicies" | "ap" => Self::AccessPolicy,
            "trafficpolicy" | "trafficpolicies" | "tp" => Self::TrafficPolicy,
            "saga" | "sagas" => Self::Saga,
            "site" | "sites" => Self::Site,
            "serviceexport" | "serviceexports" | "svcex" => Self::ServiceExport,
            _ => return None,
        })
    }

    /// The kinds of routes.
    pub const ROUTES: [Self; 5] = [Self::HttpRoute, Self::GrpcRoute, Self::TlsRoute, Self::TcpRoute, Self::UdpRoute];

    /// Whether it's a kind of route.
    pub const fn is_route(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute) || self.is_opaque()
    }

    /// Whether it's a kind of route for what nobody looks at: bytes of connections, or datagrams.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::TlsRoute | Self::TcpRoute | Self::UdpRoute)
    }

    /// Whether routes of this kind may stand on a port that speaks `protocol`.
    pub const fn stands_on(self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp => matches!(self, Self::TlsRoute | Self::TcpRoute),
            Protocol::Udp => matches!(self, Self::UdpRoute),
            _ => self.is_route() && !self.is_opaque(),
        }
    }

    /// What has listeners, the first to be asked first.
    pub const GATEWAYS: [Self; 2] = [Self::Gateway, Self::ListenerSet];

    /// Whether it has listeners.
    pub const fn is_gateway(self) -> bool {
        matches!(self, Self::Gateway | Self::ListenerSet)
    }

    /// Whether names may have dots, as those of Gateway API's kinds.
    pub const fn has_dots(self) -> bool {
        self.is_route()
            || self.is_gateway()
            || matches!(
                self,
                Self::HttpRouteFilter
                    | Self::GatewayClass
                    | Self::ReferenceGrant
                    | Self::BackendTlsPolicy
                    | Self::Secret
                    | Self::ConfigMap
                    | Self::EndpointSlice
            )
    }

    /// Whether objects of this kind live in a namespace. The others have an empty namespace.
    pub const fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Mesh | Self::GatewayClass | Self::Site)
    }
}

/// The name of a resource, unique in a mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Where it lives; empty for kinds that live in no namespace.
    pub namespace: Text,
    /// What it's called there.
    pub name: Text,
}

impl Key {
    /// The key of these parts.
    pub fn new(kind: Kind, namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind.name(), self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind.name(), self.namespace, self.name)
        }
    }
}

/// A position in the store's history. Later is greater; 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a resource was written down, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, as the user named it.
    pub file: Text,
    /// The line where the document begins, from 1.
    pub line: u32,
}

/// One valid object at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its name.
    pub key: Key,
    /// When it was last changed; 0 if it isn't stored yet.
    pub revision: Revision,
    /// When it began to exist, which makes it older or younger than others; 0 if it isn't stored yet.
    pub created: Revision,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Where it came from, if a file.
    pub origin: Option<Origin>,
    /// What it says.
    pub spec: Spec,
}

/// What a resource says, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// A namespace says nothing more than its name.
    Namespace,
    /// Mesh-wide defaults.
    Mesh(Mesh),
    /// A name and ports that callers ask for.
    Service(Service),
    /// Addresses that serve a service.
    Slice(Arc<Slice>),
    /// Workloads that serve models, and who picks among them.
    Pool(Arc<InferencePool>),
    /// A certificate and its key.
    Secret(Arc<Secret>),
    /// Certificates of authorities.
    Bundle(Arc<Bundle>),
    /// A running instance.
    Workload(Box<Workload>),
    /// Match to weighted backends, for every kind of route.
    Route(Arc<Route>),
    /// An answer that rules of routes give themselves.
    Direct(Arc<DirectResponse>),
    /// Where requests enter from outside, for a Gateway and for a ListenerSet.
    Gateway(Arc<Gateway>),
    /// Who serves gateways of a class.
    GatewayClass(GatewayClass),
    /// References from other namespaces.
    Grant(Arc<Grant>),
    /// TLS towards a service outside.
    BackendTls(Arc<BackendTls>),
    /// Who may call what.
    Access(Arc<AccessPolicy>),
    /// How a service is called.
    Traffic(Arc<TrafficPolicy>),
    /// The definition of a transaction.
    Saga(Arc<Saga>),
    /// Another mesh.
    Site(Arc<Site>),
    /// Other sites may reach the service of the same name.
    Export,
    /// One address that serves a service.
    Endpoint(Box<Endpoint>),
}

/// Defaults of the whole mesh; the resource is named `mesh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The trust domain of every identity. It can't change once a mesh has a certificate authority.
    pub trust_domain: Text,
    /// What happens to a call that no policy names.
    pub default_access: DefaultAccess,
    /// Where traces and metrics are sent, if they are.
    pub otlp: Option<Arc<Otlp>>,
    /// How much is let through to each service of which no TrafficPolicy says it, matter by matter. There are no quotas in it.
    pub limits: Box<Limits>,
}

/// The answer to a call that no access policy names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultAccess {
    /// Refuse it.
    #[default]
    Deny,
    /// Let it through.
    Allow,
}
