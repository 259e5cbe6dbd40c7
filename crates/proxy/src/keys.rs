// SPDX-License-Identifier: Apache-2.0
//! What a core needs to open and accept mesh connections under the proxy's one identity. Made by the
//! agent when a certificate comes, handed to cores beside the snapshot.

use crate::Error;
use byrnie_engine::Snapshot;
use byrnie_model::code::SITE_UNFIT;
use byrnie_net::tls::{
    self, ALPN_H2, ALPN_HOP, ALPN_HTTP1, ALPN_TCP, ALPN_UDP, ClientTls, Credentials, Roots, ServerTls,
};

/// What a core needs to open and accept mesh connections.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// For accepting.
    pub(crate) server: ServerTls,
    /// For opening.
    pub(crate) client: ClientTls,
    /// Raised at each renewal, so that pools tell old connections from new ones.
    pub(crate) generation: u64,
    /// When the certificate ends, in seconds since 1970.
    pub(crate) not_after: u64,
}

impl Keys {
    /// From credentials; `sites` vouch for peers of other meshes.
    pub(crate) fn new(credentials: &Credentials, sites: &[Roots], generation: u64) -> Result<Self, Error> {
        let unusable = |error: tls::Error| Error::Credentials { cause: error.to_string() };
        Ok(Self {
            server: tls::server_among(credentials, sites, &[ALPN_HOP, ALPN_H2, ALPN_HTTP1, ALPN_TCP, ALPN_UDP])
                .map_err(unusable)?,
            client: tls::client_among(credentials, sites).map_err(unusable)?,
            generation,
            not_after: credentials.not_after().as_secs(),
        })
    }
}

/// Who vouches for the identities of other sites. One whose authorities can't be read, or that would speak for the `own` trust
/// domain, vouches for nobody.
pub(crate) fn of_sites(snapshot: &Snapshot, own: &str) -> Vec<Roots> {
    let sites = snapshot.sites().iter().filter(|(_, site)| *site.trust_domain != *own);
    let read = sites.filter_map(|(name, site)| {
        Roots::from_pem(&site.authorities, &site.trust_domain)
            .inspect_err(|error| tracing::warn!(code = SITE_UNFIT.id, %name, %error, "nobody of this site is believed"))
            .ok()
    });
    read.collect()
}
