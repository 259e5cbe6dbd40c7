// SPDX-License-Identifier: Apache-2.0
//! What only its owner may know (`Secret`): the certificate and key that a gateway shows to callers from
//! outside, or the egress to hosts there. Nothing here prints a key.

use byrnie_base::Text;
use std::fmt;

/// The only type of Secret that is kept: a certificate with its key.
pub const TLS_TYPE: &str = "kubernetes.io/tls";
/// The entry of `data` with the certificates.
pub const CHAIN: &str = "tls.crt";
/// The entry of `data` with the key.
pub const KEY: &str = "tls.key";

/// A certificate and its key. That they belong together is checked where there is a crypto library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The certificate, and those that vouch for it, as PEM; the certificate itself first.
    pub chain: Text,
    /// The key, as PEM.
    pub key: Private,
}

/// Text that `Debug` doesn't print.
#[derive(Clone, PartialEq, Eq)]
pub struct Private(Text);

impl Private {
    /// Keeps `text` from being printed.
    pub fn new(text: impl Into<Text>) -> Self {
        Self(text.into())
    }

    /// The text itself. Whoever takes it must not log it, nor send it to anybody but its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Private(..)")
    }
}
