// SPDX-License-Identifier: Apache-2.0
//! Who runs the engine, and what knocks at its door. Made by a proxy's mount and its listeners; read
//! by the compiler and by every exchange. Nothing here decides.

use byrnie_base::Text;
use byrnie_model::gateway::Port;
use byrnie_model::service::Locality;
use byrnie_model::{Identity, ServiceRef};
use std::net::SocketAddr;

/// The proxy for which a snapshot is compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name of its workload.
    pub name: Text,
    /// Namespace of its workload: what a bare service name means.
    pub namespace: Text,
    /// Who it is to others.
    pub identity: Identity,
    /// Where it runs, for failover.
    pub locality: Locality,
    /// What it is for.
    pub role: Role,
}

impl Node {
    /// Whether calls leave the mesh by it.
    pub fn is_exit(&self) -> bool {
        self.role == Role::Sidecar && self.identity.is_egress()
    }
}

/// What a proxy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It stands beside one workload.
    Sidecar,
    /// It lets the outside in.
    Gateway,
    /// It is a library in the program itself.
    InProcess,
}

/// A request or connection as it comes in: all that the engine learns besides the head.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Which door it came through.
    pub direction: Direction<'a>,
    /// Who the certificate of the other side proves; `None` without one.
    pub source: Option<&'a Identity>,
    /// The other side's address. Never a ground for trust.
    pub remote: SocketAddr,
    /// How the connection is protected.
    pub tls: Tls,
}

/// The door that something came through.
#[derive(Clone, Copy, Debug)]
pub enum Direction<'a> {
    /// A listener that stands for one service port (`BYRNIE_<SVC>_URL`, capture).
    Service {
        /// The service asked for.
        service: &'a ServiceRef,
        /// Its port.
        port: u16,
        /// The host that its client's TLS asks for, where routes tell connections apart by it.
        sni: Option<&'a str>,
    },
    /// The forward HTTP proxy: the authority names the service.
    Forward,
    /// The edge: the host names the service.
    Edge(Gate<'a>),
    /// A gateway for other sites: SNI names the service. Nothing of what comes is read, and nobody's word is taken for who
    /// it is; that is for the proxy to which it's passed on.
    Site {
        /// The service asked for.
        service: &'a ServiceRef,
        /// Its port, as callers name it.
        port: u16,
    },
    /// The mTLS listener: SNI names the service.
    Inbound {
        /// The service asked for.
        service: &'a ServiceRef,
        /// Its port, as callers name it.
        port: u16,
    },
}

impl Direction<'_> {
    /// By which port of the edge; its own for what didn't come that way.
    pub(crate) const fn gate(&self) -> Gate<'_> {
        match self {
            Self::Edge(gate) => *gate,
            _ => Gate::Own,
        }
    }

    /// Which side of the workload this is.
    pub const fn side(&self) -> Side {
        match self {
            Self::Service { .. } | Self::Forward => Side::Outbound,
            Self::Edge(_) | Self::Site { .. } => Side::Edge,
            Self::Inbound { .. } => Side::Inbound,
        }
    }
}

/// By which port of the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate<'a> {
    /// The edge's own: for names of the mesh, and for every listener in the clear.
    Own,
    /// One that listeners of gateways name, for these alone.
    Port {
        /// Its number.
        number: u16,
        /// The name that the handshake asked for; `None` if there was none.
        sni: Option<&'a str>,
        /// What is told of the certificate by which the caller has proven who it is, if it has.
        certificate: Option<&'a str>,
    },
    /// The same of UDP, by its number.
    Datagrams(u16),
}

impl<'a> Gate<'a> {
    /// The port that listeners of gateways name.
    pub(crate) const fn at(&self) -> Option<Port> {
        match self {
            Self::Own => None,
            Self::Port { number, .. } => Some(Port::Tcp(*number)),
            Self::Datagrams(number) => Some(Port::Udp(*number)),
        }
    }

    /// Its number.
    pub(crate) fn port(&self) -> Option<u16> {
        self.at().map(Port::number)
    }

    /// The name that the handshake asked for.
    pub(crate) const fn sni(&self) -> Option<&'a str> {
        match self {
            Self::Own | Self::Datagrams(_) => None,
            Self::Port { sni, .. } => *sni,
        }
    }

    /// What is told of the caller's certificate.
    pub(crate) const fn certificate(&self) -> Option<&'a str> {
        match self {
            Self::Own | Self::Datagrams(_) => None,
            Self::Port { certificate, .. } => *certificate,
        }
    }
}

/// On which side of a workload an exchange is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// It comes to the workload.
    Inbound,
    /// It comes from the workload.
    Outbound,
    /// It comes from outside the mesh.
    Edge,
}

impl Side {
    /// The metric label `direction`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Edge => "edge",
        }
    }

    /// Where an answer of the mesh's own was made, in words for its caller: nothing that it can't know.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Inbound => "the callee's proxy",
            Self::Outbound => "the caller's proxy",
            Self::Edge => "the edge",
        }
    }
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// Both sides have shown certificates.
    Mutual,
    /// Only the server has. So it's called at the edge too where a caller from outside has shown one: that is no identity.
    Simple,
    /// Not at all.
    None,
}

impl Tls {
    /// The metric label `tls`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mutual => "mutual",
            Self::Simple => "simple",
            Self::None => "none",
        }
    }
}
