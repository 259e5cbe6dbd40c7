// SPDX-License-Identifier: Apache-2.0
//! TLS towards hosts outside the mesh. This side shows no identity of the mesh, but perhaps a certificate that was made
//! for the host; the other proves by a certificate of the public
//! kind, or of an authority that is named, that it's one of the hosts expected. The proxies by which calls leave the
//! mesh make one [`Outward`] for each policy and hold on to it: sessions are resumed by it.

use super::edge::Certificate;
use super::{ALPN_H2, ALPN_HTTP1, CHAIN_CERTIFICATES_MAX, Error, HANDSHAKE_TIMEOUT, Peer, ROOTS_MAX, certificates};
use crate::io::{Stream, TcpStream, Tls};
use crate::socket::Socket;
use byrnie_base::Text;
use byrnie_model::outside::AltName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConfig, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio_rustls::TlsConnector;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// What is spoken under TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; a host that doesn't agree to it is refused.
    Http2,
    /// Something of which TLS isn't told.
    Opaque,
}

/// How hosts outside are verified, and what they are shown.
#[derive(Clone, Debug)]
pub struct Outward {
    id: u64,
    hostname: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    opaque: Arc<ClientConfig>,
}

impl Outward {
    /// Asks for `hostname`, and accepts a certificate for one of `names` that leads to one of `roots` (PEM) or, without
    /// these, to an authority that the system trusts. A host that asks for a certificate is shown `shown`, or none.
    ///
    /// # Errors
    /// If a name isn't a host's, or the roots aren't certificates, are too many or none.
    pub fn new(
        hostname: &str,
        names: &[AltName],
        roots: Option<&str>,
        shown: Option<&Certificate>,
    ) -> Result<Self, Error> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let name = |name: &str| ServerName::try_from(name.to_owned()).map_err(|_| Error::ServerName(name.to_owned()));
        let hostname_sent = name(hostname)?;
        let accepted = |of: &AltName| match of {
            AltName::Host(host) => name(host).map(Accepted::Host),
            AltName::Uri(uri) => Ok(Accepted::Uri(uri.clone())),
        };
        let names = names.iter().map(accepted).collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err(Error::Amount("names"));
        }
        let roots = roots.map_or_else(system, |pem| read(pem).map(Arc::new))?;
        let provider = super::edge::provider();
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|_| Error::Malformed("roots"))?;
        let algorithms = provider.signature_verification_algorithms;
        let base = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(Error::Handshake)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OneOf { inner, roots, algorithms, names }));
        let base = match shown {
            Some(certificate) => {
                base.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&certificate.shown))))
            }
            None => base.with_no_client_auth(),
        };
        let speaking = |alpn: &[&[u8]]| {
            let mut config = base.clone();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            hostname: hostname_sent,
            http1: speaking(&[ALPN_HTTP1]),
            http2: speaking(&[ALPN_H2]),
            opaque: speaking(&[]),
        })
    }

    /// Which check this is, among all of this process; never 0.
    pub const fn id(&self) -> u64 {
        self.id
    }
}

/// Whether `pem` holds certificates that can vouch for hosts.
///
/// # Errors
/// If it doesn't, or holds too many.
pub fn check_roots(pem: &str) -> Result<(), Error> {
    read(pem).map(drop)
}

/// Carries out the handshake on a connected socket, within [`HANDSHAKE_TIMEOUT`].
///
/// # Errors
/// If the host can't prove to be one of those expected, is too slow, or doesn't speak what was asked for.
pub async fn connect(tcp: TcpStream, outward: &Outward, speaks: Speaks) -> Result<(Stream, Peer), Error> {
    let config = match speaks {
        Speaks::Http1 => &outward.http1,
        Speaks::Http2 => &outward.http2,
        Speaks::Opaque => &outward.opaque,
    };
    let handshake = TlsConnector::from(Arc::clone(config)).connect(outward.hostname.clone(), Socket(tcp));
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| Error::Timeout)?;
    let stream = stream.map_err(|error| match Error::from_handshake(error) {
        Error::Handshake(error @ rustls::Error::InvalidCertificate(_)) => Error::Unproven(error),
        error => error,
    })?;
    let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    if speaks == Speaks::Http2 && alpn.as_deref() != Some(ALPN_H2) {
        return Err(Error::Handshake(rustls::Error::NoApplicationProtocol));
    }
    let peer = Peer { alpn, ..Peer::default() };
    let tls = Tls::new(stream.into(), None);
    // Many servers say no `close_notify`. Of a protocol that nobody looks into, their end passes as one, as Envoy passes it (an end of
    // stream where `SSL_read` sees the socket close: `SslSocket::doRead` in source/common/tls/ssl_socket.cc). A reset stays an error.
    let tls = if speaks == Speaks::Opaque { tls.ending_unsaid() } else { tls };
    Ok((Stream::Tls(Box::new(tls)), peer))
}

fn read(pem: &str) -> Result<RootCertStore, Error> {
    let certificates = certificates(pem)?;
    if certificates.is_empty() || certificates.len() > ROOTS_MAX {
        return Err(Error::Amount("roots"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|_| Error::Malformed("root"))?;
    }
    Ok(roots)
}

/// The authorities that the system trusts, read once.
fn system() -> Result<Arc<RootCertStore>, Error> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = SYSTEM.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        // Some systems keep certificates that are no good; the others count.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() { Err(Error::Amount("authorities that the system trusts")) } else { Ok(Arc::clone(roots)) }
}

/// A name that is accepted.
#[derive(Debug)]
enum Accepted {
    Host(ServerName<'static>),
    Uri(Text),
}

/// Accepts a certificate that is for one of several names.
#[derive(Debug)]
struct OneOf {
    /// For signatures.
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    names: Vec<Accepted>,
}

impl OneOf {
    fn fits(&self, leaf: &CertificateDer<'_>) -> Result<bool, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let uris = uris(leaf);
        Ok(self.names.iter().any(|name| match name {
            Accepted::Host(host) => verify_server_name(&parsed, host).is_ok(),
            Accepted::Uri(uri) => uris.iter().any(|found| *found == **uri),
        }))
    }
}

/// The URIs among a certificate's names; none if they can't be read.
fn uris(leaf: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(uri).collect()
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _asked: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding));
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, chain, now, self.algorithms.all)?;
        match self.fits(leaf)? {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
