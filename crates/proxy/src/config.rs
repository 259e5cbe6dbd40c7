// SPDX-License-Identifier: Apache-2.0
//! What a proxy is told when it starts. Everything else comes from the control plane.

use byrnie_base::Text;
use byrnie_engine::Snapshot;
use byrnie_model::{Identity, Labels, Workload};
use byrnie_net::BoxFuture;
use byrnie_net::tls::Credentials;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What a proxy is told when it starts.
#[derive(Debug)]
pub struct Config {
    /// The workload's namespace; `byrnie` for the edge.
    pub namespace: Text,
    /// The workload's name, unique in its namespace (`web-1f3a`); `edge` for the edge.
    pub name: Text,
    /// Who it is. Its own certificate must say the same.
    pub identity: Identity,
    /// Which listeners exist.
    pub mount: Mount,
    /// Where configuration and credentials come from.
    pub source: Source,
    /// Holds the private key (0600), the last certificate and the last good view.
    pub state_dir: PathBuf,
    /// Where `/metrics` and its siblings are served. Port 0 takes any.
    pub admin: SocketAddr,
    /// What `/config`, `/records` and `/drain` ask for; `None` closes them.
    pub admin_token: Option<Text>,
    /// Refuse a busy port, rather than take the next free one.
    pub strict_ports: bool,
    /// Threads that move traffic, each with a listener of its own; at least 1.
    pub workers: usize,
    /// Where access-log lines go.
    pub access_log: AccessLog,
    /// What is spoken to other proxies.
    pub hop: Hop,
}

/// What is spoken to other proxies for services of HTTP/1 and of opaque TCP. Both are always understood
/// from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hop {
    /// Streams of one connection, in byrnie's own framing; HTTP/1 with whoever doesn't know it.
    #[default]
    Framed,
    /// HTTP/1.1 and a connection each, which other tools can read once decrypted.
    Http1,
}

/// Which listeners a proxy has, and what it stands for.
#[derive(Debug)]
pub enum Mount {
    /// Beside one program.
    Sidecar(Box<Sidecar>),
    /// At the edge of the mesh.
    Gateway(Gateway),
}

/// A proxy beside one program.
#[derive(Debug)]
pub struct Sidecar {
    /// The instance, as it's written to the registry. `inbound` and `admin` are filled in by the proxy;
    /// `uses` decides the outbound listeners.
    pub workload: Workload,
    /// Labels of the instance; `app=NAME` among them.
    pub labels: Labels,
    /// The service that the instance serves, made with port 80 if it's absent; empty for none.
    pub service: Text,
    /// Where other proxies connect (mutual TLS). Port 0 takes any.
    pub inbound: SocketAddr,
    /// Where the forward (HTTP proxy) listener is, if any. Loopback only. Port 0 takes any.
    pub forward: Option<SocketAddr>,
    /// Who on this machine may use that listener, and with it the workload's identity.
    pub forward_for: Users,
    /// Whether the program listens: until it does, its instance is unhealthy. `None` where nobody looks, and it's taken to.
    pub listening: Option<watch::Receiver<bool>>,
}

/// Users of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Users {
    /// Any of them.
    #[default]
    Any,
    /// The one that the proxy runs as.
    Own,
}

/// A proxy at the edge.
#[derive(Debug)]
pub struct Gateway {
    /// Where plain HTTP/1.1 and h2c come in.
    pub edge: SocketAddr,
}

/// Where configuration and credentials come from.
#[derive(Debug)]
pub enum Source {
    /// A control plane.
    Control(Box<Control>),
    /// The starter itself, which compiles snapshots and holds credentials: another mount of byrnie in
    /// the same process, benchmarks, tests.
    Given {
        /// The newest is in force.
        snapshots: watch::Receiver<Arc<Snapshot>>,
        /// Used as long as the proxy runs.
        credentials: Box<Credentials>,
    },
}

/// A control plane, and what is needed to trust it and to be trusted by it.
#[derive(Debug)]
pub struct Control {
    /// Where its gRPC port is (7778, unless that was busy).
    pub address: Address,
    /// Certificates that vouch for it, PEM.
    pub roots_pem: String,
    /// Who must be found there: `spiffe://DOMAIN/ns/byrnie/sa/control`.
    pub identity: Identity,
    /// Where join tokens come from; asked when the state directory holds no valid certificate, and when one
    /// has ended before it could be renewed.
    pub tokens: Option<Tokens>,
    /// At the first start, how long the proxy waits for the control plane before it stops with
    /// [`crate::Error::Unreachable`]. Once it serves, it never gives up.
    pub patience: Duration,
    /// Keep the last good view in the state directory, and begin with it when the control plane is away.
    pub keep_view: bool,
}

/// Where the control plane is, asked before each try to reach it: one that comes back may find its port taken
/// meanwhile, and listen on another.
#[derive(Clone)]
pub struct Address(Arc<dyn Fn() -> SocketAddr + Send + Sync>);

impl Address {
    /// An address by a function that comes back at once.
    pub fn new(find: impl Fn() -> SocketAddr + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    /// Where it is now.
    pub fn now(&self) -> SocketAddr {
        (self.0)()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::new(move || address)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.now().fmt(f)
    }
}

/// Gives a join token each time one is needed.
#[derive(Clone)]
pub struct Tokens(Arc<dyn Fn() -> BoxFuture<'static, Result<Text, String>> + Send + Sync>);

impl Tokens {
    /// Tokens by a function, which may take a while and says in words why it has none.
    pub fn new(give: impl Fn() -> BoxFuture<'static, Result<Text, String>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(give))
    }

    /// One token, over and over.
    pub fn one(token: impl Into<Text>) -> Self {
        let token = token.into();
        Self::new(move || {
            let token = token.clone();
            Box::pin(async move { Ok(token) })
        })
    }

    pub(crate) async fn next(&self) -> Result<Text, String> {
        (self.0)().await
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(..)")
    }
}

/// Where access-log lines go: one JSON object a line.
#[derive(Debug)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}
