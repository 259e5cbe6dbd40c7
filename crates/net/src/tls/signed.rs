// SPDX-License-Identifier: Apache-2.0
//! Whether a handshake of QUIC was a full one, which its library tells nobody: then, and only then, the server proves by a signature
//! that it has the certificate's key (RFC 8446 2.2). Called by [`crate::quic`] for each handshake.

use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What clients are shown, as the library of QUIC takes it.
pub(crate) type Shown = Arc<ServerConfig>;

/// What is noted of one handshake.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signed(Arc<AtomicBool>);

impl Signed {
    /// The same as `shown`, for this handshake alone.
    pub(crate) fn watch(&self, shown: &Shown) -> Shown {
        let mut config = ServerConfig::clone(shown);
        config.cert_resolver = Arc::new(Watched { watched: config.cert_resolver, signed: self.clone() });
        Arc::new(config)
    }

    /// Whether something was signed.
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Watched<T: ?Sized> {
    signed: Signed,
    watched: Arc<T>,
}

impl ResolvesServerCert for Watched<dyn ResolvesServerCert> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = CertifiedKey::clone(&*self.watched.resolve(hello)?);
        shown.key = Arc::new(Watched { watched: shown.key, signed: self.signed.clone() });
        Some(Arc::new(shown))
    }
}

impl SigningKey for Watched<dyn SigningKey> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.signed.0.store(true, Ordering::Relaxed);
        self.watched.choose_scheme(offered)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.watched.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.watched.algorithm()
    }
}
