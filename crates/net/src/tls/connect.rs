// SPDX-License-Identifier: Apache-2.0
//! The opening side of a TLS connection. Pools and channels call it with a connected socket and the identity they
//! expect; anybody else who answers is refused during the handshake, before a byte of the program's is sent.

use super::accept::peer;
use super::verify::Verifier;
use super::{Credentials, Error, HANDSHAKE_TIMEOUT, Peer, Roots};
use crate::io::{Stream, TcpStream, Tls};
use crate::socket::Socket;
use byrnie_base::Text;
use byrnie_model::Identity;
use rustls::client::{ClientConfig, Resumption};
use rustls_pki_types::ServerName;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// What it takes to open connections under one identity, or under none.
#[derive(Clone, Debug)]
pub struct ClientTls {
    shown: Option<Arc<rustls::sign::CertifiedKey>>,
    pub(super) roots: Roots,
    foreign: Arc<[Roots]>,
}

impl ClientTls {
    /// Whom this side trusts.
    pub const fn roots(&self) -> &Roots {
        &self.roots
    }
}

/// Opens connections as `credentials`, to peers of the same trust domain and to those of the domains that `foreign` roots vouch for.
///
/// # Errors
/// If the key can't be used.
pub fn client_among(credentials: &Credentials, foreign: &[Roots]) -> Result<ClientTls, Error> {
    Ok(ClientTls { foreign: foreign.into(), ..client(credentials)? })
}

/// Opens connections as `credentials`.
///
/// # Errors
/// If the key can't be used.
pub fn client(credentials: &Credentials) -> Result<ClientTls, Error> {
    let shown = rustls::sign::CertifiedKey::new(credentials.chain.clone(), credentials.key().signing()?);
    Ok(ClientTls { shown: Some(Arc::new(shown)), roots: credentials.roots().clone(), foreign: Arc::default() })
}

/// Opens connections as nobody, for one who has only the roots yet and asks for a first certificate.
pub fn client_without_certificate(roots: &Roots) -> ClientTls {
    ClientTls { shown: None, roots: roots.clone(), foreign: Arc::default() }
}

/// Carries out the handshake on a connected socket, within [`HANDSHAKE_TIMEOUT`]: the peer must prove to be
/// `expected`. `sni` is sent as it is; it tells the peer what is wanted and proves nothing.
///
/// # Errors
/// If the peer is anybody else, is too slow, or doesn't speak our TLS.
pub async fn connect(
    tcp: TcpStream,
    tls: &ClientTls,
    expected: &Identity,
    sni: &str,
    alpn: &[&[u8]],
) -> Result<(Stream, Peer), Error> {
    let name = ServerName::try_from(sni.to_owned()).map_err(|_| Error::ServerName(sni.to_owned()))?;
    let config = config(tls, expected, alpn)?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, Socket(tcp));
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| Error::Timeout)?
        .map_err(Error::from_handshake)?;
    let session = stream.get_ref().1;
    let peer = peer(session, Some(Text::from(sni)))?;
    if peer.alpn.is_none() && !alpn.is_empty() {
        return Err(Error::Handshake(rustls::Error::NoApplicationProtocol));
    }
    let tls = Tls::new(stream.into(), peer.not_after);
    Ok((Stream::Tls(Box::new(tls)), peer))
}

/// One configuration per connection: the expected identity is part of the verifier, so that it can't be
/// mixed up between connections that share anything.
fn config(tls: &ClientTls, expected: &Identity, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
    let (roots, foreign) = (tls.roots.clone(), Arc::clone(&tls.foreign));
    let verifier = Verifier { roots, foreign, expected: Some(expected.clone()), mandatory: true };
    let builder = ClientConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::Handshake)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.shown {
        Some(shown) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(shown))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}
