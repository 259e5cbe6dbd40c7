// SPDX-License-Identifier: Apache-2.0
//! Mutual TLS by SPIFFE identity: who one is ([`Credentials`]), whom one trusts ([`Roots`]), and who the other
//! side proved to be ([`Peer`]). TLS 1.3 only, hybrid post-quantum key exchange first. Proxies, gRPC and the
//! CA call it; it is the only door to rustls, webpki, rcgen and x509-parser. It never accepts a name in
//! place of an identity.
//!
//! Sessions are never resumed between identities: every connection is a full handshake, so that no ticket can carry an
//! identity past its expiry, past a change of roots, or to another caller. Pools make handshakes rare, and resuming would
//! spare little of them (`docs/decisions/0019-resumption.md`).

mod accept;
pub mod ca;
pub mod callers;
mod connect;
pub mod edge;
mod keyring;
pub mod keys;
pub mod outward;
mod seal;
pub mod secret;
pub(crate) mod session;
#[cfg(feature = "http3")]
pub(crate) mod signed;
mod tickets;
mod verify;

pub use accept::{ServerTls, accept, server, server_among, server_optional_client};
pub use connect::{ClientTls, client, client_among, client_without_certificate, connect};
pub use keyring::{Form, Keyring, Unreadable};
pub use keys::{Key, Outlives, csr};
pub use seal::Seal;
pub use verify::{CHAIN_CERTIFICATES_MAX, Expected, Refusal, Usage, verify};

use byrnie_base::{Text, Timestamp};
use byrnie_model::Identity;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[cfg(test)]
pub(crate) mod tests;

/// Time that a handshake may take, from the accepted or opened socket to both sides proven. Generous
/// against a loaded peer, short against one that stalls on purpose.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes that one [`ServerTls`] carries out at the same time. More wait within their own time-out, so
/// that in a storm of reconnects the first are done before the last begin. One that waits for its peer isn't counted: who
/// stalls on purpose, with however many connections, is in nobody's way.
pub const HANDSHAKES_MAX: usize = 256;
/// How long a peer may take for its next word until it's being waited for.
const TURN: Duration = Duration::from_millis(20);

/// Longest time between two looks at the wall clock by [`Peer::expired`].
pub const EXPIRY_CHECK: Duration = Duration::from_secs(15);

/// Roots that a bundle may hold.
pub const ROOTS_MAX: usize = 64;

/// Longest PEM text read, in bytes.
pub const PEM_BYTES_MAX: usize = 1024 * 1024;

/// ALPN name of HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN name of HTTP/3.
#[cfg(feature = "http3")]
pub const ALPN_H3: &[u8] = b"h3";
/// ALPN name of HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// ALPN name of the framing between two proxies (`docs/reference/hop.md`), with its version.
pub const ALPN_HOP: &[u8] = b"byrnie/1";
/// ALPN name of an opaque stream of bytes between two proxies.
pub const ALPN_TCP: &[u8] = b"byrnie-tcp";
/// Datagrams as capsules, one flow a connection.
pub const ALPN_UDP: &[u8] = b"byrnie-udp";

/// Why a TLS operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer's certificate was refused; the refusal says why.
    #[error("peer refused: {0}")]
    Refused(#[from] Refusal),
    /// The handshake took longer than [`HANDSHAKE_TIMEOUT`].
    #[error("handshake timed out")]
    Timeout,
    /// The connection broke during the handshake.
    #[error("connection broke during the handshake: {0}")]
    Io(#[source] io::Error),
    /// The protocol failed otherwise: no version, cipher or ALPN in common, an alert from the peer
    /// (it may have refused our certificate), or not TLS at all.
    #[error("handshake failed: {0}")]
    Handshake(#[source] rustls::Error),
    /// A host outside the mesh couldn't prove who it is.
    #[error("host not proven: {0}")]
    Unproven(#[source] rustls::Error),
    /// A name that can't be sent as SNI.
    #[error("not a server name: {0}")]
    ServerName(String),
    /// Text or bytes that aren't the certificate, key or request they should be.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The certificate wasn't issued for this key.
    #[error("certificate and key do not belong together")]
    KeyMismatch,
    /// A bundle with more than [`ROOTS_MAX`] roots, a text longer than [`PEM_BYTES_MAX`], or none at all.
    #[error("too many or too few {0}")]
    Amount(&'static str),
    /// A file of credentials couldn't be read or written, or others may read it.
    #[error("credentials file: {0}")]
    File(#[source] io::Error),
    /// The crypto library refused; no cause is given by it.
    #[error("cryptographic operation failed: {0}")]
    Crypto(&'static str),
}

impl Error {
    /// Why the peer's certificate was refused by this side, if that's what happened.
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    fn from_handshake(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(tls) => verify::refusal_of(tls).map_or_else(|| Self::Handshake(tls.clone()), Self::Refused),
            None => Self::Io(error),
        }
    }
}

/// The other side of a connection, as proven by the handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Who it is; `None` if it showed no certificate where none was required.
    pub identity: Option<Identity>,
    /// The server name that the client asked for, lower case.
    pub sni: Option<Text>,
    /// The protocol agreed on.
    pub alpn: Option<Vec<u8>>,
    /// End of validity of the shortest-lived certificate it showed. A connection must take no new work
    /// after it.
    pub not_after: Option<Timestamp>,
    /// What is told of the certificate by which a caller from outside has proven who it is, as `x-forwarded-client-cert`.
    pub certificate: Option<Text>,
    /// Whether it went on with an earlier session. Nobody with an identity does.
    pub resumed: bool,
}

impl Peer {
    /// Waits until the peer's certificate has expired; forever if it showed none. After it, a
    /// connection must take no new work. Looks at the wall clock every [`EXPIRY_CHECK`], so that a clock that
    /// was set or a machine that slept is noticed.
    pub async fn expired(&self) {
        let Some(not_after) = self.not_after else { return std::future::pending().await };
        loop {
            let now = crate::runtime::now().wall;
            if now > not_after {
                return;
            }
            let left = Duration::from_millis(not_after.as_millis() - now.as_millis() + 1);
            crate::runtime::sleep(left.min(EXPIRY_CHECK)).await;
        }
    }
}

/// The certificate authorities that vouch for one trust domain.
#[derive(Clone)]
pub struct Roots {
    trust_domain: Text,
    pem: Text,
    anchors: Arc<Anchors>,
}

/// What the verifier needs of each root, index by index.
struct Anchors {
    /// Of these in this process: what was found by others isn't taken for theirs.
    id: u64,
    anchors: Vec<TrustAnchor<'static>>,
    not_after: Vec<Timestamp>,
}

impl Roots {
    /// The bundle `pem` of one or more certificates, as the authorities of `trust_domain`.
    ///
    /// # Errors
    /// If the text is no PEM, holds a certificate that isn't a CA's, or too many or none.
    pub fn from_pem(pem: &str, trust_domain: &str) -> Result<Self, Error> {
        byrnie_model::identity::check_domain(trust_domain).map_err(|_| Error::Malformed("trust domain"))?;
        let certificates = certificates(pem)?;
        if certificates.is_empty() || certificates.len() > ROOTS_MAX {
            return Err(Error::Amount("roots"));
        }
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let mut bundle = Anchors { id, anchors: Vec::new(), not_after: Vec::new() };
        for certificate in &certificates {
            let not_after = verify::check_root(certificate)?;
            let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| Error::Malformed("root"))?;
            bundle.anchors.push(anchor.to_owned());
            bundle.not_after.push(not_after);
        }
        Ok(Self { trust_domain: trust_domain.into(), pem: pem.into(), anchors: Arc::new(bundle) })
    }

    /// The domain whose identities these roots vouch for.
    pub const fn trust_domain(&self) -> &Text {
        &self.trust_domain
    }

    /// When the last of them ends.
    pub fn not_after(&self) -> Timestamp {
        self.anchors.not_after.iter().copied().max().unwrap_or_default()
    }

    /// The bundle's text.
    pub const fn pem(&self) -> &Text {
        &self.pem
    }
}

impl std::fmt::Debug for Roots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roots({}, {})", self.trust_domain, self.anchors.anchors.len())
    }
}

/// Who a process is, with the proof and the key: what it takes to open or accept mesh connections.
#[derive(Clone, Debug)]
pub struct Credentials {
    identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    key: Key,
    roots: Roots,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Credentials {
    /// Credentials from a signed chain (leaf first, PEM), the key it was issued for, and the roots.
    ///
    /// The chain must hold for the trust domain at `now`, so that a wrong answer of an authority is
    /// noticed here and not by every peer.
    ///
    /// # Errors
    /// If the chain is malformed, doesn't lead to the roots, or belongs to another key.
    pub fn new(chain_pem: &str, key: Key, roots: Roots, now: Timestamp) -> Result<Self, Error> {
        let chain = certificates(chain_pem)?;
        let proven = verify(&chain, &roots, Usage::Server, Expected::AnyOfDomain, now)?;
        verify(&chain, &roots, Usage::Client, Expected::Identity(&proven.identity), now)?;
        if !verify::is_for_key(chain.first().ok_or(Error::Amount("certificates"))?, &key)? {
            return Err(Error::KeyMismatch);
        }
        Ok(Self {
            identity: proven.identity,
            chain,
            key,
            roots,
            not_before: proven.not_before,
            not_after: proven.not_after,
        })
    }

    /// The same, for connections on which others are trusted.
    #[must_use]
    pub fn trusting(&self, roots: Roots) -> Self {
        Self { roots, ..self.clone() }
    }

    /// Who this is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whom this side trusts.
    pub const fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The domain that this identity belongs to.
    pub fn trust_domain(&self) -> &Text {
        self.identity.trust_domain()
    }

    /// Start of validity of the youngest certificate of the chain.
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// End of validity of the shortest-lived certificate of the chain.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The chain as PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| keys::pem("CERTIFICATE", certificate)).collect()
    }

    /// The key.
    pub const fn key(&self) -> &Key {
        &self.key
    }
}

/// The certificates of a PEM text, in order.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    if pem.len() > PEM_BYTES_MAX {
        return Err(Error::Amount("bytes of PEM"));
    }
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Error::Malformed("certificate PEM"))
}

/// The algorithms of the mesh: TLS 1.3 suites with AES-128-GCM first, the hybrid X25519MLKEM768 first.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
            ..rustls::crypto::aws_lc_rs::default_provider()
        })
    });
    Arc::clone(provider)
}
