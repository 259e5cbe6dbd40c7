// SPDX-License-Identifier: Apache-2.0
//! What lies outside the mesh: how a proxy that leads out to a service there makes sure whom it reached
//! (`BackendTLSPolicy`) and what it shows of itself, and the authorities it trusts for that (`ConfigMap`). The service
//! itself is a `Service` with the name of a host.

use crate::ServiceRef;
use byrnie_base::Text;
use std::fmt;

/// The entry of a ConfigMap's `data` with certificates of authorities.
pub const BUNDLE: &str = "ca.crt";
/// The entry of a BackendTLSPolicy's `options` that names a Secret of its namespace.
pub const CLIENT_CERTIFICATE: &str = "mesh.byrnie.dev/client-certificate";

/// Whether the host of a service outside is a pattern (`*.DOMAIN`), for all hosts below a domain.
pub fn is_pattern(host: &str) -> bool {
    host.starts_with("*.")
}

/// TLS towards a service outside (Gateway API `BackendTLSPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTls {
    /// Whom it's for, in the policy's own namespace.
    pub targets: Vec<Target>,
    /// The host that is asked for in the handshake, and that the certificate must be for unless `names` says otherwise.
    pub hostname: Text,
    /// Names of which the certificate must be for one; empty means `hostname`.
    pub names: Vec<AltName>,
    /// Whose word counts.
    pub trust: Trust,
    /// The Secret, in the policy's own namespace, with the certificate that is shown to a host which asks for one.
    pub certificate: Option<Text>,
}

/// A name that a certificate may be for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AltName {
    /// A host.
    Host(Text),
    /// A URI, such as a SPIFFE id, compared letter by letter.
    Uri(Text),
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Host(name) | Self::Uri(name)) = self;
        f.write_str(name)
    }
}

/// A service, or one port of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The service.
    pub service: ServiceRef,
    /// The name of its port; `None` means all.
    pub section: Option<Text>,
}

/// Whose word counts for who a host outside is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that the proxy's own system trusts.
    System,
    /// Those of these ConfigMaps, in the policy's own namespace. Never empty.
    Bundles(Vec<Text>),
}

/// Certificates of authorities (core/v1 `ConfigMap`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// As PEM. That they are certificates is checked where there is a crypto library.
    pub pem: Text,
}
