// SPDX-License-Identifier: Apache-2.0
//! Where connections enter, and who is at the other end. Mounts say which doors there are;
//! `connection` serves them. Nothing here decides.

use crate::config::Users;
use crate::worker::Core;
use byrnie_base::{Text, Timestamp};
use byrnie_codec::{Head, Known};
use byrnie_engine::{Arrival, Direction, Gate, Opaque, Tls};
use byrnie_model::gateway::Port;
use byrnie_model::{Identity, ServiceRef};
use byrnie_net::listen::Kind;
use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;

/// What a service that isn't known is asked for: the answer says that it's not there.
pub(crate) const UNKNOWN_PORT: u16 = 80;

/// What a listener stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// One port of one service, for the program beside the proxy.
    Service(ServiceRef, u16),
    /// The same for datagrams.
    Datagrams(ServiceRef, u16),
    /// The first port of a service that wasn't known when the listener was made, whatever it turns out to be.
    Main(ServiceRef),
    /// The same for datagrams, to its first port that takes some.
    MainDatagrams(ServiceRef),
    /// The HTTP proxy for the program, and whose programs may use it.
    Forward(Users),
    /// Mutual TLS from other proxies.
    Inbound,
    /// `/metrics` and its siblings; no core serves it.
    Admin,
    /// Plain HTTP from outside.
    Edge,
    /// A port that gateways name.
    Gate(Port),
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service, port) => write!(f, "service {} {} {port}", service.namespace, service.name),
            Self::Datagrams(service, port) => write!(f, "datagrams {} {} {port}", service.namespace, service.name),
            Self::Main(service) => write!(f, "main {} {}", service.namespace, service.name),
            Self::MainDatagrams(service) => write!(f, "main-datagrams {} {}", service.namespace, service.name),
            Self::Forward(Users::Any) => f.write_str("forward any"),
            Self::Forward(Users::Own) => f.write_str("forward own"),
            Self::Inbound => f.write_str("inbound"),
            Self::Admin => f.write_str("admin"),
            Self::Edge => f.write_str("edge"),
            Self::Gate(Port::Tcp(port)) => write!(f, "gate {port}"),
            Self::Gate(Port::Udp(port)) => write!(f, "gate-datagrams {port}"),
        }
    }
}

impl Door {
    /// What comes in by it.
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Datagrams(..) | Self::MainDatagrams(_) | Self::Gate(Port::Udp(_)) => Kind::Datagrams,
            _ => Kind::Connections,
        }
    }

    /// What a listener stands for that another proxy has opened; `None` if there is no such thing here.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        Some(match words.as_slice() {
            ["service", namespace, name, port] => Self::Service(ServiceRef::new(*namespace, *name), port.parse().ok()?),
            ["datagrams", namespace, name, port] => {
                Self::Datagrams(ServiceRef::new(*namespace, *name), port.parse().ok()?)
            }
            ["main", namespace, name] => Self::Main(ServiceRef::new(*namespace, *name)),
            ["main-datagrams", namespace, name] => Self::MainDatagrams(ServiceRef::new(*namespace, *name)),
            ["forward", "any"] => Self::Forward(Users::Any),
            ["forward", "own"] => Self::Forward(Users::Own),
            ["inbound"] => Self::Inbound,
            ["admin"] => Self::Admin,
            ["edge"] => Self::Edge,
            ["gate", port] => Self::Gate(Port::Tcp(port.parse().ok()?)),
            ["gate-datagrams", port] => Self::Gate(Port::Udp(port.parse().ok()?)),
            _ => return None,
        })
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Through which door, or for which service, it came.
    pub(crate) entry: Entry,
    /// Who it proved to be.
    pub(crate) source: Option<Identity>,
    /// Its address.
    pub(crate) remote: SocketAddr,
    /// When its certificate ends: no new work after that.
    pub(crate) not_after: Option<Timestamp>,
    /// The host that its TLS asks for, where routes tell connections to a service apart by it.
    pub(crate) sni: Option<Text>,
    /// Whether it has taken an answer to its end on this connection, or said something behind a 101.
    pub(crate) reads: Cell<bool>,
    /// What passes, where nobody looks at it.
    pub(crate) opaque: Opaque,
}

/// How a caller came in.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// To one port of one service.
    Service(ServiceRef, u16),
    /// Through the forward listener.
    Forward,
    /// Through the edge's own port.
    Edge,
    /// Through a port that gateways name.
    Gate {
        /// The port.
        port: u16,
        /// Whether it came under TLS.
        secure: bool,
        /// The name that the handshake asked for.
        sni: Option<Text>,
        /// What is told of the certificate that it has proven to have.
        certificate: Option<Text>,
        /// On which terms it was let in.
        terms: u64,
    },
    /// From another site, through a gateway that lets it in.
    Site(ServiceRef, u16),
    /// From another proxy, to a service of this workload.
    Inbound(ServiceRef, u16),
}

impl Caller {
    /// A caller without certificate.
    pub(crate) fn plain(entry: Entry, remote: SocketAddr) -> Self {
        let opaque = Opaque::Bytes;
        Self { entry, source: None, remote, not_after: None, sni: None, reads: Cell::new(false), opaque }
    }

    /// The same, whose datagrams are meant.
    pub(crate) fn with_datagrams(self) -> Self {
        Self { opaque: Opaque::Datagrams, ..self }
    }

    /// As the engine wants it.
    pub(crate) fn arrival(&self) -> Arrival<'_> {
        let direction = match &self.entry {
            Entry::Service(service, port) => Direction::Service { service, port: *port, sni: self.sni.as_deref() },
            Entry::Forward => Direction::Forward,
            Entry::Edge => Direction::Edge(Gate::Own),
            Entry::Gate { port, .. } if self.opaque == Opaque::Datagrams => Direction::Edge(Gate::Datagrams(*port)),
            Entry::Gate { port, sni, certificate, .. } => {
                let (sni, certificate) = (sni.as_deref(), certificate.as_deref());
                Direction::Edge(Gate::Port { number: *port, sni, certificate })
            }
            Entry::Site(service, port) => Direction::Site { service, port: *port },
            Entry::Inbound(service, port) => Direction::Inbound { service, port: *port },
        };
        let tls = match (&self.source, &self.entry) {
            (Some(_), _) => Tls::Mutual,
            (None, Entry::Gate { secure: true, .. }) => Tls::Simple,
            (None, _) => Tls::None,
        };
        Arrival { direction, source: self.source.as_ref(), remote: self.remote, tls }
    }

    /// Whether it's another proxy, which calls the own program.
    pub(crate) fn is_proxy(&self) -> bool {
        matches!(self.entry, Entry::Inbound(..))
    }

    /// Whether it is known to take its answers; a proxy that speaks for many clients says of which it isn't known.
    pub(crate) fn is_known(&self, request: &Head) -> bool {
        if self.is_proxy() { request.header(Known::ByrnieNewcomer).is_none() } else { self.reads.get() }
    }

    /// Whether the caller's certificate has ended, or others than it would be let in where it came in.
    pub(crate) fn is_over(&self, core: &Core, wall: Timestamp) -> bool {
        let outlived = match self.entry {
            Entry::Gate { port, terms, .. } => core.gates().terms(port) != terms,
            _ => false,
        };
        outlived || self.is_expired(wall)
    }

    fn is_expired(&self, wall: Timestamp) -> bool {
        self.not_after.is_some_and(|end| end <= wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_proxy_says_of_which_clients_it_is_not_known_that_they_take_answers() {
        let remote = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut head = Head::new();
        head.start_request("GET", "http", "cart", "/").unwrap();
        let proxy = Caller::plain(Entry::Inbound(ServiceRef::new("shop", "cart"), 80), remote);
        let program = Caller::plain(Entry::Forward, remote);
        assert_eq!((proxy.is_known(&head), program.is_known(&head)), (true, false));
        head.append("x-byrnie-newcomer", b"1").unwrap();
        program.reads.set(true);
        assert_eq!((proxy.is_known(&head), program.is_known(&head)), (false, true));
    }

    #[test]
    fn a_door_is_known_by_its_words_in_another_process() {
        let service = || ServiceRef::new("shop", "cart");
        for door in [
            Door::Service(service(), 8080),
            Door::Datagrams(service(), 53),
            Door::Main(service()),
            Door::MainDatagrams(service()),
            Door::Forward(Users::Any),
            Door::Forward(Users::Own),
            Door::Inbound,
            Door::Admin,
            Door::Edge,
            Door::Gate(Port::Tcp(443)),
            Door::Gate(Port::Udp(443)),
        ] {
            assert_eq!(Door::parse(&door.to_string()), Some(door));
        }
        for unknown in ["", "inbound ", "gate", "gate 65536", "gate-datagrams x", "service a b", "udp 53"] {
            assert_eq!(Door::parse(unknown), None, "{unknown}");
        }
    }
}
