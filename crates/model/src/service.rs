// SPDX-License-Identifier: Apache-2.0
//! What callers ask for (`Service`) and what serves it (`Endpoint`).

use crate::outside::is_pattern;
use crate::site::Way;
use crate::{Identity, InferencePool, Labels};
use byrnie_base::Text;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The name of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: Text,
    /// Its name there.
    pub name: Text,
}

impl ServiceRef {
    /// The service of this name.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The service named by `word` (`NAME` or `NAME.NAMESPACE`), where a bare name means the
    /// namespace given.
    pub fn from_word(word: &str, namespace: &str) -> Self {
        match word.split_once('.') {
            Some((name, ns)) => Self::new(ns, name),
            None => Self::new(namespace, word),
        }
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// A name and ports that callers ask for: the *logical* destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// At least one, but where a proxy is told of the name alone; numbers and names are unique.
    pub ports: Vec<ServicePort>,
    /// A workload of the same namespace with all these labels serves it. Never empty in a service
    /// that has endpoints inside; empty means that nothing is selected.
    pub selector: Labels,
    /// The host outside the mesh that serves it (`externalName`): a DNS name in lower case, an IPv4 address, or a pattern
    /// `*.DOMAIN` for all hosts below a domain. It's reached by the mesh's egress. Such a service selects nothing, and its target ports are numbers.
    pub outside: Option<Text>,
    /// Whether addresses that EndpointSlices call unready are sent requests all the same. Only of a service that takes
    /// its endpoints from these.
    pub publish_not_ready: bool,
    /// The pool of inference servers that it stands for, whose name it has.
    pub pool: Option<Arc<InferencePool>>,
}

impl Service {
    /// Whether no more is told of it than its name: who is told so may not call it.
    pub fn is_bare(&self) -> bool {
        self.ports.is_empty()
    }

    /// Whether EndpointSlices say what serves it: nothing is selected, and no host is named.
    pub fn takes_slices(&self) -> bool {
        self.selector.is_empty() && self.outside.is_none()
    }

    /// What is asked of the host outside by callers who can't know its name: its authority, without a port that
    /// clients of HTTP leave out. `None` for a pattern, of which callers name a host.
    pub fn outside_authority(&self, port: &ServicePort) -> Option<Text> {
        let host = self.outside.as_ref().filter(|host| !is_pattern(host))?;
        Some(match port.target {
            TargetPort::Number(80 | 443) | TargetPort::Name(_) => host.clone(),
            TargetPort::Number(number) => format!("{host}:{number}").into(),
        })
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty if it has none.
    pub name: Text,
    /// What callers ask for.
    pub port: u16,
    /// Where the workload listens.
    pub target: TargetPort,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Whether that was said in Kubernetes' own word ([`Protocol::prefixed_name`]), and so is shown in it. It means the same.
    pub prefixed: bool,
}

impl ServicePort {
    /// What `appProtocol` says of it; `None` where nobody said anything.
    pub fn app_protocol(&self) -> Option<&'static str> {
        let own = (self.protocol != Protocol::Undeclared).then(|| self.protocol.name());
        if self.prefixed { self.protocol.prefixed_name().or(own) } else { own }
    }
}

/// A workload's port, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// This number.
    Number(u16),
    /// The number that the workload gives this name.
    Name(Text),
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.1, with upgrade.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// Nobody said: HTTP where a client begins so, of the version that it speaks; opaque bytes otherwise.
    Undeclared,
}

impl Protocol {
    /// The word for it on a command line and in `appProtocol`, where what is undeclared is left out, and `udp` says `protocol`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Undeclared => "undeclared",
        }
    }

    /// The word that Kubernetes has for it in `appProtocol` under its own prefix (its Service documentation, "Application
    /// protocol"), if it has one.
    pub const fn prefixed_name(self) -> Option<&'static str> {
        match self {
            Self::Http1 => Some("kubernetes.io/ws"),
            Self::Http2 => Some("kubernetes.io/h2c"),
            Self::Grpc | Self::Tcp | Self::Udp | Self::Undeclared => None,
        }
    }

    /// Whether requests can be told apart, if there are any.
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether opaque bytes may pass.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Undeclared)
    }

    /// What is spoken for a request where this may be undeclared.
    #[must_use]
    pub const fn for_request(self, h2: bool) -> Self {
        match self {
            Self::Undeclared if h2 => Self::Http2,
            Self::Undeclared => Self::Http1,
            declared => declared,
        }
    }

    /// Whether HTTP/2 is spoken.
    pub const fn is_h2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

/// One address that serves a service, as a caller's proxy needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The service that it serves: the parent.
    pub service: ServiceRef,
    /// The workload behind it, in the service's namespace. Of a way to another site, the way's name.
    pub workload: Text,
    /// The site behind whose gateway it is; `None` for what is of this mesh.
    pub way: Option<Way>,
    /// Who must be found there.
    pub identity: Identity,
    /// The inbound listener of the workload's proxy, or the site's gateway, which passes on to one.
    pub address: SocketAddr,
    /// For each port of the service, the workload's own.
    pub ports: Vec<PortPair>,
    /// Labels of the workload.
    pub labels: Labels,
    /// Where it runs.
    pub locality: Locality,
    /// Share of traffic beside its siblings; at least 1.
    pub weight: u32,
    /// Whether it may be sent requests.
    pub health: Health,
}

/// A port of a service and the workload's port behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPair {
    /// What callers ask for.
    pub service: u16,
    /// Where the workload listens.
    pub target: u16,
}

/// Where something runs. Empty parts mean "unknown".
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Such as `eu-west`.
    pub region: Text,
    /// Such as `a`, within the region.
    pub zone: Text,
}

/// Whether an endpoint may be sent requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Yes.
    #[default]
    Healthy,
    /// It's leaving: no new requests, running ones may end.
    Draining,
    /// No.
    Unhealthy,
}

/// A part of the world: a zone, a region, or all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Area {
    /// Empty: any region, and no zone is said.
    pub region: Text,
    /// Empty: all zones of the region.
    pub zone: Text,
}

impl Area {
    /// Whether one who is there is within it.
    pub fn has(&self, at: &Locality) -> bool {
        (self.region.is_empty() || self.region == at.region) && (self.zone.is_empty() || self.zone == at.zone)
    }

    /// How much it says: of two that one is within, the one that says more counts.
    pub fn detail(&self) -> u8 {
        u8::from(!self.region.is_empty()) + u8::from(!self.zone.is_empty())
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.region, &*self.zone) {
            ("", _) => f.write_str("*"),
            (region, "") => f.write_str(region),
            (region, zone) => write!(f, "{region}/{zone}"),
        }
    }
}
