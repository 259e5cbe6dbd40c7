// SPDX-License-Identifier: Apache-2.0
//! What a core needs to open and accept mesh connections under the proxy's one identity. Made by the
//! agent when a certificate comes, handed to cores beside the snapshot.

use crate::Error;
use byrnie_net::tls::{self, ALPN_H2, ALPN_HOP, ALPN_HTTP1, ALPN_TCP, ClientTls, Credentials, ServerTls};

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
    /// From credentials.
    pub(crate) fn new(credentials: &Credentials, generation: u64) -> Result<Self, Error> {
        let unusable = |error: tls::Error| Error::Credentials { cause: error.to_string() };
        Ok(Self {
            server: tls::server(credentials, &[ALPN_HOP, ALPN_H2, ALPN_HTTP1, ALPN_TCP]).map_err(unusable)?,
            client: tls::client(credentials).map_err(unusable)?,
            generation,
            not_after: credentials.not_after().as_secs(),
        })
    }
}
