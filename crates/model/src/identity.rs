// SPDX-License-Identifier: Apache-2.0
//! Who a workload is: a SPIFFE id of the one form that byrnie issues and accepts.

use byrnie_base::Text;
use std::fmt;

/// A SPIFFE id `spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`
/// (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>).
///
/// Compared byte by byte. Nothing is ever normalised: an id that isn't already in the canonical form
/// is refused, so that no look-alike can equal another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    trust_domain: Text,
    namespace: Text,
    service_account: Text,
}

impl Identity {
    /// Longest URI accepted, in bytes: the SPIFFE standard asks implementations to support 2048.
    pub const URI_BYTES_MAX: usize = 2048;
    /// Namespace that holds byrnie's own identities (`edge`, `egress`, `control`, `transactions`).
    pub const SYSTEM_NAMESPACE: &'static str = "byrnie";
    /// Service account, in that namespace, of the proxies by which calls leave the mesh.
    pub const EGRESS_ACCOUNT: &'static str = "egress";

    /// Whether this is a proxy by which calls leave the mesh.
    pub fn is_egress(&self) -> bool {
        *self.namespace == *Self::SYSTEM_NAMESPACE && *self.service_account == *Self::EGRESS_ACCOUNT
    }

    /// Service account, in that namespace, of the proxy at the mesh's edge.
    pub const EDGE_ACCOUNT: &'static str = "edge";

    /// Whether this is the proxy at the edge of its mesh.
    pub fn is_edge(&self) -> bool {
        *self.namespace == *Self::SYSTEM_NAMESPACE && *self.service_account == *Self::EDGE_ACCOUNT
    }

    /// An id from its parts, each checked.
    ///
    /// # Errors
    /// If a part is empty, too long, or has a character outside its set.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, Error> {
        check_domain(trust_domain)?;
        check_segment(namespace)?;
        check_segment(service_account)?;
        Ok(Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// An id from its URI.
    ///
    /// # Errors
    /// If the URI isn't exactly of byrnie's form.
    pub fn parse(uri: &str) -> Result<Self, Error> {
        if uri.len() > Self::URI_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let rest = uri.strip_prefix("spiffe://").ok_or(Error::Scheme)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Path);
        };
        Self::new(domain, namespace, account)
    }

    /// The domain that vouches for this id.
    pub fn trust_domain(&self) -> &Text {
        &self.trust_domain
    }

    /// The namespace of the workload.
    pub fn namespace(&self) -> &Text {
        &self.namespace
    }

    /// The service account of the workload.
    pub fn service_account(&self) -> &Text {
        &self.service_account
    }

    /// Appends the URI to `out`: what requests need, without the machinery of formatting.
    pub fn push_to(&self, out: &mut String) {
        self.parts().into_iter().for_each(|part| out.push_str(part));
    }

    fn parts(&self) -> [&str; 6] {
        ["spiffe://", &self.trust_domain, "/ns/", &self.namespace, "/sa/", &self.service_account]
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().into_iter().try_for_each(|part| f.write_str(part))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let uri = String::deserialize(deserializer)?;
        Self::parse(&uri).map_err(serde::de::Error::custom)
    }
}

/// Why text isn't an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It doesn't begin with `spiffe://` in lower case.
    Scheme,
    /// The trust domain is empty, longer than 255 bytes, or has a character outside `[a-z0-9._-]`.
    TrustDomain,
    /// The path isn't `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    Path,
    /// A path segment is empty, a dot segment, longer than 253 bytes, or has a character outside
    /// `[A-Za-z0-9._-]`.
    Segment,
    /// It's longer than [`Identity::URI_BYTES_MAX`].
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "identity does not begin with spiffe://",
            Self::TrustDomain => "trust domain must be 1 to 255 of a-z, 0-9, '.', '_', '-'",
            Self::Path => "identity path is not /ns/NAMESPACE/sa/SERVICE_ACCOUNT",
            Self::Segment => "identity segment must be 1 to 253 of A-Z, a-z, 0-9, '.', '_', '-', and not '.' or '..'",
            Self::TooLong => "identity is longer than 2048 bytes",
        })
    }
}

impl std::error::Error for Error {}

/// Whether `domain` can be a trust domain.
///
/// # Errors
/// [`Error::TrustDomain`] if not.
pub fn check_domain(domain: &str) -> Result<(), Error> {
    let fits = (1..=255).contains(&domain.len())
        && domain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    if fits { Ok(()) } else { Err(Error::TrustDomain) }
}

fn check_segment(segment: &str) -> Result<(), Error> {
    let fits = (1..=253).contains(&segment.len())
        && segment != "."
        && segment != ".."
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits { Ok(()) } else { Err(Error::Segment) }
}
