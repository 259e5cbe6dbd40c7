// SPDX-License-Identifier: Apache-2.0
//! Listening sockets, of TCP and of UDP. Planes bind here, one socket per core and address if they want the kernel to spread
//! connections. It never reads from what it accepts.

mod holder;
mod owner;

pub(crate) use holder::takes_datagrams;
pub use owner::is_own_user;

use crate::io::TcpStream;
use crate::socket::{choose_congestion, keep_alive};
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Connections that may wait to be accepted, per socket. The kernel lowers it to its own limit
/// (`net.core.somaxconn`, 4096 on current Linux).
pub const BACKLOG: i32 = 4096;

/// Ports that [`bind_or_next`] tries after a busy one.
pub const NEXT_PORTS_MAX: u16 = 100;

/// First pause after the process ran out of descriptors or memory; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// Longest pause between two tries to accept.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Bytes that the system may hold of a socket of datagrams until they are read; it lowers it to its own limit (`net.core.rmem_max`).
pub(crate) const RECEIVE_BYTES: usize = 4 * 1024 * 1024;

/// What comes in by a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connections of TCP.
    Connections,
    /// Datagrams of UDP.
    Datagrams,
}

/// A bound socket that listens, for connections or for datagrams. Bound anywhere; it belongs to the reactor that accepts first.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<Bound>,
    address: SocketAddr,
    registered: OnceLock<tokio::net::TcpListener>,
}

#[derive(Debug)]
enum Bound {
    Connections(TcpListener),
    Datagrams(UdpSocket),
}

impl Listener {
    /// The address bound, with the real port if port 0 was asked for.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The next connection and where it comes from, with small writes sent at once (`TCP_NODELAY`).
    ///
    /// It never fails: a connection that broke before it was accepted is skipped, and when the process is
    /// out of descriptors it pauses between tries instead of spinning. Cancelling it loses no connection.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        let mut pause = PAUSE_MIN;
        loop {
            let accepted = match self.registered() {
                Ok(listener) => listener.accept().await,
                Err(error) => Err(error),
            };
            match accepted {
                Ok((tcp, remote)) => {
                    if tcp.set_nodelay(true).is_ok() {
                        return (tcp, remote);
                    }
                    // The peer is gone already: some systems refuse options on a reset socket.
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(listener = %self.address, %error, pause_ms = pause.as_millis(), "can't accept connections; check the limit of open files");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// The same socket for another reactor. It listens until the last of them is dropped, here and in any process
    /// that was given it: what waits to be accepted is lost only then.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { socket: Arc::clone(&self.socket), address: self.address, registered: OnceLock::new() }
    }

    /// A socket that another process has opened.
    ///
    /// # Errors
    /// If it doesn't listen.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let deaf = || io::Error::new(io::ErrorKind::InvalidInput, "it does not listen");
        if rustix::net::sockopt::socket_type(&fd)? == rustix::net::SocketType::DGRAM {
            let socket = UdpSocket::from(fd);
            socket.set_nonblocking(true)?;
            // One of another family has no such address.
            let address = socket.local_addr().ok().filter(|address| address.port() > 0).ok_or_else(deaf)?;
            return Ok(Self::new(Bound::Datagrams(socket), address));
        }
        if !rustix::net::sockopt::socket_acceptconn(&fd)? {
            return Err(deaf());
        }
        let socket = TcpListener::from(fd);
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        keep_alive(&socket, address);
        Ok(Self::new(Bound::Connections(socket), address))
    }

    fn new(socket: Bound, address: SocketAddr) -> Self {
        Self { socket: Arc::new(socket), address, registered: OnceLock::new() }
    }

    /// Its socket, if datagrams come in by it, at this thread's reactor.
    pub(crate) fn datagrams(&self) -> io::Result<tokio::net::UdpSocket> {
        match &*self.socket {
            Bound::Datagrams(socket) => tokio::net::UdpSocket::from_std(socket.try_clone()?),
            Bound::Connections(_) => Err(of_other_kind()),
        }
    }

    fn registered(&self) -> io::Result<&tokio::net::TcpListener> {
        if let Some(listener) = self.registered.get() {
            return Ok(listener);
        }
        let Bound::Connections(socket) = &*self.socket else { return Err(of_other_kind()) };
        let listener = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
        Ok(self.registered.get_or_init(|| listener))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.socket {
            Bound::Connections(socket) => socket.as_fd(),
            Bound::Datagrams(socket) => socket.as_fd(),
        }
    }
}

fn of_other_kind() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a socket of the other kind")
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Whether several sockets may share an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// One socket alone; a second bind is refused.
    Alone,
    /// One socket per core of this process: the kernel spreads connections over them by hash
    /// (`SO_REUSEPORT`). Every one of them must be bound so.
    PerCore,
}

/// What to do about a busy port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Refuse.
    Strict,
    /// Take the next free one, at most [`NEXT_PORTS_MAX`] further.
    Next,
}

/// An address couldn't be bound.
#[derive(Debug)]
pub struct Error {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system answered.
    pub error: io::Error,
    /// Who probably holds the port, where the system tells.
    pub holder: Option<String>,
}

impl Error {
    fn new(address: SocketAddr, error: io::Error, kind: Kind) -> Self {
        let busy = error.kind() == io::ErrorKind::AddrInUse && kind == Kind::Connections;
        Self { address, holder: if busy { holder::holder(address) } else { None }, error }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't listen on {}: {}", self.address, self.error)?;
        match &self.holder {
            Some(holder) => write!(f, "; probably held by {holder}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Listens on `address`; port 0 takes any free one. An IPv6 address takes IPv6 only.
///
/// # Errors
/// If the address is busy, isn't this machine's, or needs a right that the process lacks.
pub fn bind(address: SocketAddr, share: Share) -> Result<Listener, Error> {
    open(address, share, Kind::Connections).map_err(|error| Error::new(address, error, Kind::Connections))
}

/// Listens on `address` or, if its port is busy and `ports` says so, on the next free port.
/// The caller tells the user when [`Listener::local_addr`] isn't what was asked for.
///
/// # Errors
/// As [`bind`]; the address in the error is the one asked for.
pub fn bind_or_next(address: SocketAddr, share: Share, ports: Ports) -> Result<Listener, Error> {
    next(address, share, ports, Kind::Connections)
}

fn next(address: SocketAddr, share: Share, ports: Ports, kind: Kind) -> Result<Listener, Error> {
    let error = match open(address, share, kind) {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if ports == Ports::Next && error.kind() == io::ErrorKind::AddrInUse {
        for step in 1..=NEXT_PORTS_MAX {
            let Some(port) = address.port().checked_add(step) else { break };
            match open(SocketAddr::new(address.ip(), port), share, kind) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                other => return other.map_err(|error| Error::new(address, error, kind)),
            }
        }
    }
    Err(Error::new(address, error, kind))
}

/// Listens as [`bind_or_next`] does, by one socket for each of `cores` if there are several. No other process has the port, nor
/// gets it meanwhile.
///
/// # Errors
/// As [`bind_or_next`].
pub fn bind_per_core(address: SocketAddr, cores: usize, ports: Ports, kind: Kind) -> Result<Vec<Listener>, Error> {
    let alone = next(address, Share::Alone, ports, kind)?;
    if cores <= 1 {
        return Ok(vec![alone]);
    }
    // Who shares a port from the start may share it with another process, and never hears of it. So it's held alone first, and
    // until the others have it: whoever wants it finds it busy at any moment.
    let address = alone.local_addr();
    #[cfg(unix)]
    socket2::SockRef::from(&alone).set_reuse_port(true).map_err(|error| Error::new(address, error, kind))?;
    let one = |_| open(address, Share::PerCore, kind).map_err(|error| Error::new(address, error, kind));
    (0..cores).map(one).collect()
}

fn open(address: SocketAddr, share: Share, kind: Kind) -> io::Result<Listener> {
    let (form, protocol) = match kind {
        Kind::Connections => (Type::STREAM, Protocol::TCP),
        Kind::Datagrams => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), form, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match kind {
        // Without it, a restart would wait for the old connections' TIME_WAIT.
        #[cfg(unix)]
        Kind::Connections => socket.set_reuse_address(true)?,
        #[cfg(not(unix))]
        Kind::Connections => {}
        // What the system gives of it is enough.
        Kind::Datagrams => drop(socket.set_recv_buffer_size(RECEIVE_BYTES)),
    }
    #[cfg(unix)]
    if share == Share::PerCore {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let bound = match kind {
        Kind::Connections => {
            // Each connection has what its listener has.
            choose_congestion(&socket, address);
            keep_alive(&socket, address);
            socket.listen(BACKLOG)?;
            Bound::Connections(socket.into())
        }
        Kind::Datagrams => Bound::Datagrams(socket.into()),
    };
    let address = match &bound {
        Bound::Connections(socket) => socket.local_addr()?,
        Bound::Datagrams(socket) => socket.local_addr()?,
    };
    Ok(Listener::new(bound, address))
}

/// Whether `ip` can only be reached from this machine.
pub const fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback()
}
