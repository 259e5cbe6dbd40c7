// SPDX-License-Identifier: Apache-2.0
//! The accepting side of a TLS connection. Listeners of the proxies and of the control port call it with a fresh
//! socket; they get a stream and the proven peer, or a reason. It never reads beyond the handshake.

use super::callers::Callers;
use super::verify::{Verifier, read_verified};
use super::{Credentials, Error, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, Peer, Roots, TURN};
use crate::io::{Stream, TcpStream, Tls};
use crate::socket::Socket;
use byrnie_base::Text;
use rustls::HandshakeKind;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// What it takes to accept connections under one identity. Clones share the cap on handshakes.
#[derive(Clone, Debug)]
pub struct ServerTls {
    accepts: Arc<RwLock<Accepts>>,
    handshakes: Arc<Semaphore>,
}

/// What is shown and asked for.
#[derive(Clone, Debug)]
struct Accepts {
    config: Arc<ServerConfig>,
    /// What callers from outside have to prove, if they have to.
    callers: Option<Callers>,
}

impl ServerTls {
    pub(super) fn new(config: ServerConfig, callers: Option<Callers>) -> Self {
        let accepts = Accepts { config: Arc::new(config), callers };
        Self { accepts: Arc::new(RwLock::new(accepts)), handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)) }
    }

    /// Lets every clone show `newer`'s certificate and trust its roots from the next handshake on: for renewals
    /// under the same identity. Connections that are open aren't touched.
    pub fn renew(&self, newer: &Self) {
        let accepts = newer.current();
        *self.accepts.write().unwrap_or_else(PoisonError::into_inner) = accepts;
    }

    fn current(&self) -> Accepts {
        self.accepts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Accepts peers of the same trust domain and nobody else; `alpn` in order of preference. A peer that
/// offers ALPN but none of these is refused.
///
/// # Errors
/// If the key can't be used.
pub fn server(credentials: &Credentials, alpn: &[&[u8]]) -> Result<ServerTls, Error> {
    server_with(credentials, alpn, (true, &[]))
}

/// As [`server`], and also accepts peers of the trust domains that `foreign` roots vouch for, each for its own.
///
/// # Errors
/// If the key can't be used.
pub fn server_among(credentials: &Credentials, foreign: &[Roots], alpn: &[&[u8]]) -> Result<ServerTls, Error> {
    server_with(credentials, alpn, (true, foreign))
}

/// As [`server`], but a peer may show no certificate at all: then its [`Peer::identity`] is `None`. For the
/// control port, where a newcomer has only a token. A certificate that is shown must hold.
///
/// # Errors
/// If the key can't be used.
pub fn server_optional_client(credentials: &Credentials, alpn: &[&[u8]]) -> Result<ServerTls, Error> {
    server_with(credentials, alpn, (false, &[]))
}

fn server_with(
    credentials: &Credentials,
    alpn: &[&[u8]],
    (mandatory, foreign): (bool, &[Roots]),
) -> Result<ServerTls, Error> {
    let (roots, foreign) = (credentials.roots().clone(), foreign.into());
    let verifier = Verifier { roots, foreign, expected: None, mandatory };
    let shown = rustls::sign::CertifiedKey::new(credentials.chain.clone(), credentials.key().signing()?);
    let mut config = ServerConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Handshake)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(ServerTls::new(config, None))
}

/// Carries out the handshake on an accepted socket, within [`HANDSHAKE_TIMEOUT`].
///
/// # Errors
/// If the peer isn't who it must be, is too slow, or doesn't speak our TLS.
pub async fn accept(tcp: TcpStream, tls: &ServerTls) -> Result<(Stream, Peer), Error> {
    let mut asked = None;
    let handshake = async {
        tcp.readable().await.map_err(Error::Io)?;
        // The semaphore is never closed, so no permit means none is needed.
        let permit = tls.handshakes.acquire().await.ok();
        let Accepts { config, callers } = tls.current();
        asked = callers;
        let mut accepting = std::pin::pin!(TlsAcceptor::from(config).accept(Socket(tcp)));
        // What has come is looked at before the time that has passed.
        let done = tokio::select! {
            biased;
            done = &mut accepting => Some(done),
            () = tokio::time::sleep(TURN) => None,
        };
        drop(permit);
        match done {
            Some(done) => done,
            None => accepting.await,
        }
        .map_err(Error::from_handshake)
    };
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| Error::Timeout)??;
    let session = stream.get_ref().1;
    let sni = session.server_name().map(Text::from);
    let peer = match asked {
        None => peer(session, sni)?,
        Some(callers) => {
            let peer = Peer { sni, alpn: session.alpn_protocol().map(<[u8]>::to_vec), ..Peer::default() };
            callers.peer(session.peer_certificates(), peer, crate::runtime::now().wall)?
        }
    };
    let tls = Tls::new(stream.into(), peer.not_after);
    Ok((Stream::Tls(Box::new(tls)), peer))
}

/// The peer of a finished handshake. Its chain was verified during it (sessions with an identity are never
/// resumed), so here it is only read.
pub(super) fn peer<Side>(session: &rustls::ConnectionCommon<Side>, sni: Option<Text>) -> Result<Peer, Error> {
    let shown = session.peer_certificates().filter(|chain| !chain.is_empty()).map(read_verified).transpose()?;
    Ok(Peer {
        sni,
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        not_after: shown.as_ref().map(|shown| shown.not_after),
        identity: shown.map(|shown| shown.identity),
        certificate: None,
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
    })
}
