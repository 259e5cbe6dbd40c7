// SPDX-License-Identifier: Apache-2.0
//! QUIC (RFC 9000) for callers from outside: sockets, handshakes and their limits. With `http/h3` the only door
//! to quinn. A socket and all its connections stay on the core that was given it: whoever moved one of
//! them would have to move its packets too, which the kernel spreads by a hash that knows no connections.

use crate::listen;
use crate::runtime;
use crate::tls::callers::Callers;
use crate::tls::signed::{Shown, Signed};
use crate::tls::{self, HANDSHAKE_TIMEOUT, Peer, edge};
use byrnie_base::Text;
use byrnie_codec::h2::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS_MAX};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{AsyncTimer, AsyncUdpSocket, EndpointConfig, IdleTimeout, Runtime, TokioRuntime, TransportConfig, VarInt};
use rustls_pki_types::CertificateDer;
use socket2::{Domain, Protocol, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Streams for control that a client may have open: the three that HTTP/3 has, and some that are to be passed over (RFC 9114
/// 6.2.3).
const UNI_STREAMS_MAX: u32 = 8;
/// Bytes of a connection that may be under way to its client, and are kept until it says that they have come.
const SEND_WINDOW_BYTES: u64 = 1024 * 1024;
/// How long a client may be silent, of which nothing says that it is still there.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How often a client that is silent is asked.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// Bytes of packets that wait for their core: all connections of a port share one socket.
const RECEIVE_BYTES: usize = 2 * 1024 * 1024;
/// Clients that nobody has looked at yet, and bytes that each of them and all together may have sent.
const WAITING_MAX: usize = 1024;
const WAITING_BYTES_MAX: u64 = 16 * 1024;
const WAITING_BYTES_ALL: u64 = 4 * 1024 * 1024;

/// Handshakes that one socket carries out at the same time; more clients are refused.
pub const HANDSHAKES_MAX: usize = tls::HANDSHAKES_MAX;
/// Beyond so many of them, a client has to show first that it is where it says (RFC 9000 8.1.2): it costs a round trip, and
/// packets from addresses of others cost nothing but an answer.
pub const HANDSHAKES_UNPROVEN_MAX: usize = HANDSHAKES_MAX / 4;

/// What clients are shown.
#[derive(Clone, Debug)]
pub struct Config {
    quic: quinn::ServerConfig,
    tls: Shown,
    /// What they have to prove, if they have to.
    callers: Option<Callers>,
}

/// Accepts anybody who asks for a host of these and speaks HTTP/3, or those of them that `callers` lets in. Nothing is taken before the handshake is done (no 0-RTT):
/// it could have been sent before.
///
/// # Errors
/// If the crypto library fails.
pub fn config(sites: Vec<edge::Site>, callers: Option<Callers>) -> Result<Config, tls::Error> {
    let tls = Arc::new(edge::quic(sites, callers.as_ref())?);
    let mut config = quinn::ServerConfig::with_crypto(crypto(Arc::clone(&tls))?);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(IdleTimeout::try_from(SILENCE_MAX).ok())
        .keep_alive_interval(Some(ASK_AFTER))
        .datagram_receive_buffer_size(None);
    config
        .transport_config(Arc::new(transport))
        .max_incoming(WAITING_MAX)
        .incoming_buffer_size(WAITING_BYTES_MAX)
        .incoming_buffer_size_total(WAITING_BYTES_ALL);
    Ok(Config { quic: config, tls, callers })
}

fn crypto(tls: Shown) -> Result<Arc<QuicServerConfig>, tls::Error> {
    QuicServerConfig::try_from(tls).map(Arc::new).map_err(|_| tls::Error::Crypto("QUIC"))
}

impl Config {
    /// What one client is shown, of whose handshake it's noted whether it was a full one.
    fn watched_by(&self, signed: &Signed) -> Result<Arc<quinn::ServerConfig>, tls::Error> {
        let mut quic = self.quic.clone();
        quic.crypto = crypto(signed.watch(&self.tls))?;
        Ok(Arc::new(quic))
    }
}

/// A bound socket, which may be given to another core.
#[derive(Debug)]
pub struct Socket(UdpSocket);

/// Takes a port for this process alone. An IPv6 address takes IPv6 only.
///
/// # Errors
/// If the address is busy, isn't this machine's, or needs a right that the process lacks.
pub fn bind(address: SocketAddr) -> Result<Socket, listen::Error> {
    let bound = || {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // What the system gives of it is enough.
        let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bound().map(Socket).map_err(|error| listen::Error { address, error, holder: None })
}

/// A socket at work. Dropped, its connections go on, and it closes with the last of them.
#[derive(Debug)]
pub struct Acceptor(quinn::Endpoint);

impl Acceptor {
    /// Puts a socket to work on this core. `config` vouches for addresses; what a client is shown is said when it's
    /// accepted.
    ///
    /// # Errors
    /// If the reactor doesn't take the socket.
    pub fn new(socket: Socket, config: &Config) -> io::Result<Self> {
        let config = Some(config.quic.clone());
        quinn::Endpoint::new(EndpointConfig::default(), config, socket.0, Arc::new(Reactor)).map(Self)
    }

    /// The next client; `None` if the socket has failed.
    pub async fn accept(&self) -> Option<Incoming> {
        self.0.accept().await.map(Incoming)
    }

    /// Refuses all clients that come from now on.
    pub fn refuse(&self) {
        self.0.set_server_config(None);
    }
}

/// A client that wants to be let in.
#[derive(Debug)]
pub struct Incoming(quinn::Incoming);

impl Incoming {
    /// Where it says that it is.
    pub fn remote(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Whether it has shown that it is there.
    pub fn is_proven(&self) -> bool {
        self.0.remote_address_validated()
    }

    /// Tells it to come again, and to show then that it is where it says.
    pub fn come_again(self) {
        // One that has done so needn't again, and is refused by that.
        let _ = self.0.retry();
    }

    /// Tells it that it can't be let in.
    pub fn refuse(self) {
        self.0.refuse();
    }

    /// Carries out the handshake, within [`HANDSHAKE_TIMEOUT`].
    ///
    /// # Errors
    /// If the client is too slow, asks for no host that is here, doesn't speak HTTP/3, or can't prove what it has to.
    pub async fn accept(self, config: &Config) -> Result<(Connection, Peer), tls::Error> {
        let failed = |error: quinn::ConnectionError| tls::Error::Io(error.into());
        let signed = Signed::default();
        let connecting = self.0.accept_with(config.watched_by(&signed)?).map_err(failed)?;
        let connection = runtime::timeout(HANDSHAKE_TIMEOUT, connecting).await;
        let connection = connection.map_err(|_| tls::Error::Timeout)?.map_err(failed)?;
        let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let (sni, alpn) = data.map_or((None, None), |data| (data.server_name.map(Text::from), data.protocol));
        let mut peer = Peer { sni, alpn, resumed: !signed.is_full(), ..Peer::default() };
        if let Some(callers) = &config.callers {
            let chain = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'_>>>().ok());
            peer = callers.peer(chain.as_deref().map(Vec::as_slice), peer, runtime::now().wall)?;
        }
        Ok((Connection(connection), peer))
    }
}

/// A connection to a client, which has proven its address, and what it had to.
#[derive(Clone, Debug)]
pub struct Connection(pub(crate) quinn::Connection);

impl Connection {
    /// Where the client is by now.
    pub fn remote(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Ends the connection, and tells the client why.
    pub(crate) fn close(&self, code: u64) {
        self.0.close(number(code), &[]);
    }
}

/// A code as QUIC has it. All are small.
pub(crate) fn number(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

/// Tasks and time as quinn wants them. Its tasks are counted as others are if they panic.
#[derive(Debug)]
struct Reactor;

impl Runtime for Reactor {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        runtime::spawn("quic", future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}
