// SPDX-License-Identifier: Apache-2.0
//! Signs certificates and writes down each: the root key, who may be given which identity, and the list
//! of what was issued. Called for `/byrnie.v1.Identity/Sign`, and for byrnie's own roles in this process.

use super::token;
use crate::State;
use byrnie_base::{Text, Timestamp};
use byrnie_model::Identity;
use byrnie_net::tls::ca::Name;
use byrnie_net::tls::{self, Credentials, Key, Roots, keys};
use byrnie_store::Txn;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::Duration;

/// The file of the root and its key, in the data directory (mode 0600).
pub const FILE: &str = "ca.pem";
/// Where issued certificates are written down: `/certificates/NOT_AFTER-SERIAL`.
pub const CERTIFICATES: &str = "/certificates/";
/// Most certificates that are kept in the list; those that end first go first.
pub const CERTIFICATES_MAX: usize = 10_000;
/// Shortest life of a leaf that may be configured: half of it must outlast a restart.
pub const LEAF_LIFETIME_MIN: Duration = Duration::from_secs(60);
/// Longest life of a leaf that may be configured.
pub const LEAF_LIFETIME_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// Says in the file whose root it is.
const DOMAIN_LINE: &str = "# trust domain ";

/// Holds the root.
#[derive(Debug)]
pub struct Authority {
    root: tls::ca::Authority,
    roots: Roots,
    leaf_lifetime: Duration,
}

/// Who asks for a certificate, and by what right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Holds a join token.
    Token(String),
    /// Holds a certificate of this identity: a renewal.
    Peer(Identity),
    /// One of byrnie's own roles in this process, which has this identity.
    Own(Identity),
}

/// A certificate as it's listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Unique.
    pub serial: Text,
    /// Whom it names.
    pub identity: Identity,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// By what right: `token ID`, `renewal` or `own`.
    pub by: Text,
}

/// What is answered to one who asks.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The chain, leaf first, PEM.
    pub chain_pem: String,
    /// What is written down about it.
    pub certificate: Certificate,
}

/// Why no certificate is issued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token isn't accepted.
    #[error(transparent)]
    Token(#[from] token::Error),
    /// Neither a token nor a certificate of this trust domain.
    #[error("a certificate is issued for a join token or for a current certificate of {0}")]
    NoProof(Text),
    /// The request itself, or the crypto library.
    #[error("the certificate request is refused: {0}")]
    Request(#[source] tls::Error),
    /// The root key's file.
    #[error("the authority's file {path}: {problem}")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The store doesn't answer.
    #[error(transparent)]
    Store(#[from] byrnie_store::Error),
}

impl Authority {
    /// Certificates that vouch for every identity of the mesh, PEM.
    pub fn roots_pem(&self) -> String {
        self.root.roots_pem()
    }

    /// The authority of `trust_domain` whose root is kept in `data_dir`; made there at the first start.
    ///
    /// # Errors
    /// If the file can't be read or written, may be read by others, or is another domain's.
    pub fn open(data_dir: &Path, trust_domain: &str, leaf_lifetime: Duration, now: Timestamp) -> Result<Self, Error> {
        let path = data_dir.join(FILE);
        let wrong = |problem: String| Error::File { path: path.display().to_string(), problem };
        let root = match keys::read_private_text(&path) {
            Ok(text) => {
                let text = text.expose();
                let domain = text.lines().next().and_then(|line| line.strip_prefix(DOMAIN_LINE)).unwrap_or_default();
                if domain != trust_domain {
                    return Err(wrong(format!(
                        "it is the root of {domain}, not of {trust_domain}; the trust domain of a mesh can not change"
                    )));
                }
                tls::ca::Authority::from_pem(text, text, trust_domain).map_err(|error| wrong(error.to_string()))?
            }
            Err(tls::Error::File(error)) if error.kind() == io::ErrorKind::NotFound => {
                let root = tls::ca::Authority::create(trust_domain, now).map_err(Error::Request)?;
                let (certificate, key) = root.to_pem();
                let head = format!("{DOMAIN_LINE}{trust_domain}\n");
                keys::write_private(&path, &[&head, &certificate, key.expose()])
                    .map_err(|error| wrong(error.to_string()))?;
                root
            }
            Err(error) => return Err(wrong(error.to_string())),
        };
        let roots = root.roots().map_err(Error::Request)?;
        let leaf_lifetime = leaf_lifetime.clamp(LEAF_LIFETIME_MIN, LEAF_LIFETIME_MAX);
        Ok(Self { root, roots, leaf_lifetime })
    }

    /// What everybody of the domain must trust.
    pub const fn roots(&self) -> &Roots {
        &self.roots
    }

    /// How long a leaf holds.
    pub const fn leaf_lifetime(&self) -> Duration {
        self.leaf_lifetime
    }

    /// Issues a certificate for the key of a request to whoever has the right to one. What the request
    /// asks for beside that is ignored.
    ///
    /// # Errors
    /// If there's no right to one, or the request is malformed, or the store refuses to write it down.
    pub async fn issue(&self, state: &State, asker: Asker, csr_der: &[u8], names: &[Name]) -> Result<Answer, Error> {
        let (identity, by) = match asker {
            Asker::Token(text) => {
                let grant = token::redeem(state, &text).await?;
                (grant.identity, format!("token {}", grant.id))
            }
            Asker::Peer(identity) => (identity, "renewal".to_owned()),
            Asker::Own(identity) => (identity, "own".to_owned()),
        };
        if identity.trust_domain() != self.root.trust_domain() {
            return Err(Error::NoProof(self.root.trust_domain().clone()));
        }
        let now = state.now().wall;
        let issued = self.root.issue(csr_der, &identity, self.leaf_lifetime, names, now).map_err(Error::Request)?;
        let certificate = Certificate {
            serial: issued.serial.into(),
            identity,
            issued: now,
            not_after: issued.not_after,
            by: by.into(),
        };
        record(state, &certificate).await?;
        tracing::info!(identity = %certificate.identity, serial = %certificate.serial, by = %certificate.by, "certificate issued");
        Ok(Answer { chain_pem: issued.chain_pem, certificate })
    }

    /// Credentials for one of byrnie's own roles in this process (`control`, `edge`...), with a fresh key
    /// that never leaves it.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub async fn own(&self, state: &State, account: &str, names: &[Name]) -> Result<Credentials, Error> {
        let identity = Identity::new(self.root.trust_domain(), Identity::SYSTEM_NAMESPACE, account)
            .map_err(|_| Error::NoProof(self.root.trust_domain().clone()))?;
        let key = Key::generate().map_err(Error::Request)?;
        let csr = tls::csr(&key, &identity).map_err(Error::Request)?;
        let answer = self.issue(state, Asker::Own(identity), &csr, names).await?;
        Credentials::new(&answer.chain_pem, key, self.roots.clone(), state.now().wall).map_err(Error::Request)
    }
}

/// Certificates that were issued and still hold, those that end first in front.
///
/// # Errors
/// If the store doesn't answer.
pub async fn list(state: &State) -> Result<Vec<Certificate>, byrnie_store::Error> {
    let now = state.now().wall;
    let (entries, _) = state.store.list(CERTIFICATES).await?;
    let read = entries.iter().filter_map(|entry| serde_json::from_slice::<Certificate>(&entry.value).ok());
    Ok(read.filter(|certificate| certificate.not_after > now).collect())
}

/// Writes a certificate down, and forgets those that have ended.
async fn record(state: &State, certificate: &Certificate) -> Result<(), byrnie_store::Error> {
    let (entries, _) = state.store.list(CERTIFICATES).await?;
    let place = |at: Timestamp| format!("{CERTIFICATES}{:015}", at.as_millis());
    let now = place(state.now().wall);
    let excess = entries.len().saturating_sub(CERTIFICATES_MAX);
    // The keys are in the order of their ends.
    let ended = entries.iter().enumerate().filter(|(at, entry)| *at < excess || *entry.key < *now.as_str());
    let ended = ended.take(byrnie_store::store::TXN_WRITES_MAX / 2);
    let txn = ended.fold(Txn::new(), |txn, (_, entry)| txn.delete(entry.key.clone()));
    let key = format!("{}-{}", place(certificate.not_after), certificate.serial);
    // Serialising strings and numbers can't fail.
    let value = serde_json::to_vec(certificate).unwrap_or_default();
    state.store.commit(txn.put(key, value)).await?;
    Ok(())
}
