// SPDX-License-Identifier: Apache-2.0
//! TLS towards callers from outside the mesh: they ask for one of several hosts, and show a certificate where they have to
//! ([`Callers`]). The proxy at the edge makes one [`server`] for each port; the control plane asks [`Certificate::from_pem`]
//! what a certificate is worth before it is stored.
//!
//! Here sessions are resumed, as nobody's identity is in them: a ticket ([`super::tickets`]) holds for the same name alone, and for
//! as long as what is shown at the port stays as it is. Where callers have to prove who they are, they do so each time.

use super::accept::ServerTls;
use super::callers::Callers;
use super::tickets::{self, Seed};
use super::{ALPN_H2, ALPN_HTTP1, Error, PEM_BYTES_MAX, certificates};
use byrnie_base::{Text, Timestamp};
use byrnie_model::gateway::{host_fits, host_rank};
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use std::sync::{Arc, OnceLock};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// Certificates of one chain that are shown.
const CHAIN_CERTIFICATES_MAX: usize = 10;

/// A certificate for hosts, with those that vouch for it and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(super) shown: Arc<CertifiedKey>,
    pub(super) seed: Seed,
    names: Vec<Text>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Certificate {
    /// From PEM: the chain, the certificate itself first, and its key (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// If either is malformed or of an algorithm that isn't known, or they don't belong together.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, Error> {
        let chain = certificates(chain)?;
        if chain.is_empty() || chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(Error::Amount("certificates"));
        }
        if key.len() > PEM_BYTES_MAX {
            return Err(Error::Amount("bytes of PEM"));
        }
        let (mut names, mut not_before, mut not_after) =
            (Vec::new(), Timestamp::default(), Timestamp::from_millis(u64::MAX));
        for (at, der) in chain.iter().enumerate() {
            let Ok(([], read)) = X509Certificate::from_der(der) else { return Err(Error::Malformed("certificate")) };
            let time = |time: ASN1Time| {
                Timestamp::from_millis(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
            };
            not_after = not_after.min(time(read.validity().not_after));
            if at == 0 {
                (names, not_before) = (hosts(&read)?, time(read.validity().not_before));
            }
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Error::Malformed("key PEM"))?;
        let seed = Seed::of(key.secret_der());
        let shown = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Error::KeyMismatch,
            _ => Error::Malformed("key"),
        })?;
        Ok(Self { shown: Arc::new(shown), seed, names, not_before, not_after })
    }

    /// The hosts that it's for, perhaps with a leading `*.`.
    pub fn names(&self) -> &[Text] {
        &self.names
    }

    /// Start of its validity.
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// End of validity of the shortest-lived certificate of the chain.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether it's for this host (RFC 6125 6.4.3: a star stands for one label).
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(end) => host.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest == end),
            None => **name == *host,
        })
    }
}

fn hosts(certificate: &X509Certificate<'_>) -> Result<Vec<Text>, Error> {
    let names = certificate.subject_alternative_name().map_err(|_| Error::Malformed("certificate"))?;
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(Text::from(name.to_ascii_lowercase())),
        _ => None,
    };
    Ok(names.map(|names| names.value.general_names.iter().filter_map(name).collect()).unwrap_or_default())
}

/// What is shown to those who ask for a host.
#[derive(Clone, Debug)]
pub struct Site {
    /// The host, perhaps with a leading `*.`; `None` means any, also for those who ask for none.
    pub hostname: Option<Text>,
    /// To choose from; without any, nobody is let in.
    pub certificates: Vec<Certificate>,
}

/// What is spoken under TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2 or else HTTP/1.1; a caller that offers other names alone is refused.
    Http,
    /// Whatever the caller likes: what it offers is passed over.
    Any,
}

/// Accepts anybody who asks for a host of these, or those of them that `callers` lets in. TLS 1.2 too, as some callers know no
/// later one.
///
/// # Errors
/// If the crypto library fails.
pub fn server(sites: Vec<Site>, alpn: Alpn, callers: Option<Callers>) -> Result<ServerTls, Error> {
    let alpn: &[&[u8]] = match alpn {
        Alpn::Http => &[ALPN_H2, ALPN_HTTP1],
        Alpn::Any => &[],
    };
    let config = config(sites, (&[&rustls::version::TLS13, &rustls::version::TLS12], alpn), callers.as_ref())?;
    Ok(ServerTls::new(config, callers))
}

/// The same for HTTP/3, whose TLS is part of QUIC and of no earlier version than 1.3 (RFC 9001 4.2).
#[cfg(feature = "http3")]
pub(crate) fn quic(sites: Vec<Site>, callers: Option<&Callers>) -> Result<ServerConfig, Error> {
    config(sites, (&[&rustls::version::TLS13], &[super::ALPN_H3]), callers)
}

fn config(
    sites: Vec<Site>,
    (versions, alpn): (&[&'static SupportedProtocolVersion], &[&[u8]]),
    callers: Option<&Callers>,
) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(versions).map_err(Error::Handshake)?;
    let builder = match callers {
        Some(callers) => builder.with_client_cert_verifier(callers.verifier()),
        None => builder.with_no_client_auth(),
    };
    let alpn: Vec<_> = alpn.iter().map(|name| name.to_vec()).collect();
    let tickets = match callers {
        // A ticket would vouch for its holder after its certificate has ended.
        Some(_) => None,
        None => tickets::of(&sites, &alpn)?,
    };
    let mut config = builder.with_cert_resolver(Arc::new(Sites(sites)));
    config.alpn_protocols = alpn;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match tickets {
        Some(tickets) => config.ticketer = tickets,
        None => config.send_tls13_tickets = 0,
    }
    config.max_early_data_size = 0;
    Ok(config)
}

#[derive(Debug)]
struct Sites(Vec<Site>);

impl Sites {
    /// The certificate for a host: of the sites with the most special host that fits it, the first that covers it
    /// and that the caller can verify; or the first at all, so that the caller says what is wrong with it.
    fn choose(&self, host: &str, verifiable: impl Fn(&Certificate) -> bool) -> Option<&Certificate> {
        let fitting = || self.0.iter().filter(|site| host_fits(site.hostname.as_deref(), host));
        let best = fitting().map(|site| host_rank(site.hostname.as_deref())).max();
        let all = || {
            let sites = fitting().filter(|site| Some(host_rank(site.hostname.as_deref())) == best);
            sites.flat_map(|site| &site.certificates)
        };
        let mut covering = all().filter(|certificate| certificate.covers(host));
        covering.find(|certificate| verifiable(certificate)).or_else(|| all().find(|c| verifiable(c)))
    }
}

impl ResolvesServerCert for Sites {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let schemes = hello.signature_schemes();
        let verifiable = |certificate: &Certificate| certificate.shown.key.choose_scheme(schemes).is_some();
        self.choose(&host, verifiable).map(|certificate| Arc::clone(&certificate.shown))
    }
}

/// The library's own choice of algorithms, as callers from outside may be of any age; the hybrid X25519MLKEM768 first.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(default_provider())))
}

#[cfg(test)]
mod tests;
