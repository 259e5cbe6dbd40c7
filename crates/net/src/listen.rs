// SPDX-License-Identifier: Apache-2.0
//! Listening sockets. Planes bind here, one socket per core and address if they want the kernel to spread
//! connections. It never reads from what it accepts.

mod holder;
mod owner;

pub use owner::is_own_user;

use crate::io::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
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

/// A bound, listening TCP socket. Bound anywhere; it belongs to the reactor that accepts first.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<TcpListener>,
    address: SocketAddr,
    registered: OnceLock<tokio::net::TcpListener>,
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
        if !rustix::net::sockopt::socket_acceptconn(&fd)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        let socket = TcpListener::from(fd);
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket: Arc::new(socket), address, registered: OnceLock::new() })
    }

    fn registered(&self) -> io::Result<&tokio::net::TcpListener> {
        if let Some(listener) = self.registered.get() {
            return Ok(listener);
        }
        let listener = tokio::net::TcpListener::from_std(self.socket.try_clone()?)?;
        Ok(self.registered.get_or_init(|| listener))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
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
    fn new(address: SocketAddr, error: io::Error) -> Self {
        let busy = error.kind() == io::ErrorKind::AddrInUse;
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
    open(address, share).map_err(|error| Error::new(address, error))
}

/// Listens on `address` or, if its port is busy and `ports` says so, on the next free port.
/// The caller tells the user when [`Listener::local_addr`] isn't what was asked for.
///
/// # Errors
/// As [`bind`]; the address in the error is the one asked for.
pub fn bind_or_next(address: SocketAddr, share: Share, ports: Ports) -> Result<Listener, Error> {
    let error = match open(address, share) {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if ports == Ports::Next && error.kind() == io::ErrorKind::AddrInUse {
        for step in 1..=NEXT_PORTS_MAX {
            let Some(port) = address.port().checked_add(step) else { break };
            match open(SocketAddr::new(address.ip(), port), share) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                other => return other.map_err(|error| Error::new(address, error)),
            }
        }
    }
    Err(Error::new(address, error))
}

/// Listens as [`bind_or_next`] does, by one socket for each of `cores` if there are several. No other process has the port, nor
/// gets it meanwhile.
///
/// # Errors
/// As [`bind_or_next`].
pub fn bind_per_core(address: SocketAddr, cores: usize, ports: Ports) -> Result<Vec<Listener>, Error> {
    let alone = bind_or_next(address, Share::Alone, ports)?;
    if cores <= 1 {
        return Ok(vec![alone]);
    }
    // Who shares a port from the start may share it with another process, and never hears of it. So it's held alone first, and
    // until the others have it: whoever wants it finds it busy at any moment.
    let address = alone.local_addr();
    #[cfg(unix)]
    socket2::SockRef::from(&alone).set_reuse_port(true).map_err(|error| Error::new(address, error))?;
    (0..cores).map(|_| bind(address, Share::PerCore)).collect()
}

fn open(address: SocketAddr, share: Share) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Without it, a restart would wait for the old connections' TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    if share == Share::PerCore {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from(socket);
    let address = socket.local_addr()?;
    Ok(Listener { socket: Arc::new(socket), address, registered: OnceLock::new() })
}

/// Whether `ip` can only be reached from this machine.
pub const fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback()
}
