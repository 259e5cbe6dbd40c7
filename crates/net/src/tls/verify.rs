// SPDX-License-Identifier: Apache-2.0
//! Decides who a chain of certificates proves its holder to be, for both sides of a connection. The TLS library
//! calls it during the handshake; the CA and credentials call it on their own chains. The names of DNS
//! play no part, nothing is normalised, and what isn't understood is refused.
//!
//! Rules: X.509-SVID (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>) on top of RFC 5280
//! path validation, made strict where the standard says "should".

use super::keys::Key;
use super::{Error, Roots};
use byrnie_base::{Text, Timestamp};
use byrnie_model::{Identity, identity};
use known::Fingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

mod known;
#[cfg(test)]
mod tests;

/// Certificates that a peer may show, leaf included.
pub const CHAIN_CERTIFICATES_MAX: usize = 6;

/// Smallest RSA modulus accepted, in bits (NIST SP 800-57).
const RSA_BITS_MIN: usize = 2048;

/// Why a peer's certificate was refused. Each is a metric label ([`Refusal::label`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate was shown.
    #[error("no certificate")]
    NoCertificate,
    /// More than [`CHAIN_CERTIFICATES_MAX`] certificates.
    #[error("more than {CHAIN_CERTIFICATES_MAX} certificates")]
    ChainTooLong,
    /// Not DER, not X.509 version 3, or with trailing or duplicated parts.
    #[error("malformed certificate")]
    Malformed,
    /// A certificate of the chain isn't valid yet; check both clocks.
    #[error("certificate is not valid yet")]
    NotYetValid,
    /// A certificate of the chain, or its root, has expired.
    #[error("certificate has expired")]
    Expired,
    /// The chain leads to none of the roots.
    #[error("unknown issuer")]
    UnknownIssuer,
    /// A signature in the chain is wrong, or of an algorithm that isn't accepted.
    #[error("bad signature in the chain")]
    BadSignature,
    /// The leaf is a CA (`CA:TRUE`, or may sign certificates or revocation lists), so it is nobody's identity.
    #[error("the leaf is a certificate authority")]
    LeafIsAuthority,
    /// A certificate that may not sign others did.
    #[error("an issuer is not a certificate authority")]
    IssuerIsNotAuthority,
    /// The extended key usage is absent, or lacks this side's purpose.
    #[error("certificate is not meant for this side of TLS")]
    ExtendedKeyUsage,
    /// The key usage is absent, or lacks `digitalSignature`.
    #[error("certificate is not meant for signatures")]
    KeyUsage,
    /// A critical extension that byrnie doesn't know.
    #[error("unknown critical extension")]
    UnknownCritical,
    /// A name constraint or path length of an issuer is violated.
    #[error("a constraint of an issuer is violated")]
    Constraint,
    /// The key isn't P-256, P-384, Ed25519, or RSA of at least 2048 bits.
    #[error("weak or unknown kind of key")]
    WeakKey,
    /// No URI among the subject's alternative names.
    #[error("no identity in the certificate")]
    NoIdentity,
    /// More than one URI: which of them is meant would be a guess.
    #[error("several identities in one certificate")]
    SeveralIdentities,
    /// The URI isn't an identity in canonical form.
    #[error("{0}")]
    NotAnIdentity(identity::Error),
    /// An identity of another trust domain than the roots vouch for.
    #[error("identity of the foreign trust domain {0}")]
    TrustDomain(Text),
    /// A valid identity, but not the one expected here.
    #[error("expected {expected}, found {found}")]
    Identity {
        /// Whom the connection was meant for.
        expected: Identity,
        /// Who answered.
        found: Identity,
    },
}

impl Refusal {
    /// The reason as a metric label: lower case, stable.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong => "chain_too_long",
            Self::Malformed => "malformed",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::LeafIsAuthority => "leaf_is_authority",
            Self::IssuerIsNotAuthority => "issuer_is_not_authority",
            Self::ExtendedKeyUsage => "extended_key_usage",
            Self::KeyUsage => "key_usage",
            Self::UnknownCritical => "unknown_critical",
            Self::Constraint => "constraint",
            Self::WeakKey => "weak_key",
            Self::NoIdentity => "no_identity",
            Self::SeveralIdentities => "several_identities",
            Self::NotAnIdentity(_) => "not_an_identity",
            Self::TrustDomain(_) => "trust_domain",
            Self::Identity { .. } => "identity",
        }
    }
}

/// Which side of a connection the chain is shown on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// By the side that accepts.
    Server,
    /// By the side that opens.
    Client,
}

/// Who may be on the other side.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Exactly this one.
    Identity(&'a Identity),
    /// Anybody of the roots' trust domain; what it may do is decided later.
    AnyOfDomain,
}

/// What a chain proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Who its holder is.
    pub identity: Identity,
    /// Latest start of validity in the chain.
    pub not_before: Timestamp,
    /// Earliest end of validity in the chain, its root included.
    pub not_after: Timestamp,
}

/// Checks a chain (leaf first) against `roots` at `now`.
///
/// That the peer holds the leaf's key isn't shown by a chain: TLS proves it with the handshake's signature.
///
/// # Errors
/// The first reason found to refuse it.
pub fn verify(
    chain: &[CertificateDer<'_>],
    roots: &Roots,
    usage: Usage,
    expected: Expected<'_>,
    now: Timestamp,
) -> Result<Proven, Refusal> {
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(Refusal::ChainTooLong);
    }
    let fingerprint = Fingerprint::of(chain, roots, usage);
    let proven = match fingerprint.and_then(|fingerprint| known::recall(&fingerprint, now)) {
        Some(proven) => proven,
        None => {
            let proven = prove(chain, roots, usage, now)?;
            if let Some(fingerprint) = fingerprint {
                known::keep(fingerprint, proven.clone());
            }
            proven
        }
    };
    match expected {
        Expected::Identity(expected) if *expected != proven.identity => {
            Err(Refusal::Identity { expected: expected.clone(), found: proven.identity })
        }
        _ => Ok(proven),
    }
}

/// What a chain proves, to whoever isn't expected to be somebody else.
fn prove(chain: &[CertificateDer<'_>], roots: &Roots, usage: Usage, now: Timestamp) -> Result<Proven, Refusal> {
    let (leaf, issuers) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    let parsed = parse(leaf)?;
    // The leaf's own form first: the reasons are clearer than those of path building.
    check_leaf(&parsed, usage)?;
    let identity = identity_of(&parsed)?;
    let end_entity = EndEntityCert::try_from(leaf).map_err(|error| refusal_of_path(&error))?;
    let path = build_path(&end_entity, issuers, roots, usage, now)?;
    let (mut not_before, mut not_after) = validity(&parsed);
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let issuer = parse(&der)?;
        check_issuer(&issuer)?;
        let (from, to) = validity(&issuer);
        (not_before, not_after) = (not_before.max(from), not_after.min(to));
    }
    let root_ends = root_not_after(&path, roots).ok_or(Refusal::UnknownIssuer)?;
    if now > root_ends {
        return Err(Refusal::Expired);
    }
    if identity.trust_domain() != roots.trust_domain() {
        return Err(Refusal::TrustDomain(identity.trust_domain().clone()));
    }
    Ok(Proven { identity, not_before, not_after: not_after.min(root_ends) })
}

/// Who a chain that [`verify`] has accepted stands for, until the first of its certificates ends. Proves nothing
/// by itself.
pub(super) fn read_verified(chain: &[CertificateDer<'_>]) -> Result<Proven, Refusal> {
    let leaf = parse(chain.first().ok_or(Refusal::NoCertificate)?)?;
    let (mut not_before, mut not_after) = validity(&leaf);
    for shown in &chain[1..] {
        let (from, to) = validity(&parse(shown)?);
        (not_before, not_after) = (not_before.max(from), not_after.min(to));
    }
    Ok(Proven { identity: identity_of(&leaf)?, not_before, not_after })
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refusal::Malformed),
    }
}

fn check_leaf(leaf: &X509Certificate<'_>, usage: Usage) -> Result<(), Refusal> {
    let constraints = leaf.basic_constraints().map_err(|_| Refusal::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Refusal::LeafIsAuthority);
    }
    let key_usage = leaf.key_usage().map_err(|_| Refusal::Malformed)?.ok_or(Refusal::KeyUsage)?.value;
    if key_usage.key_cert_sign() || key_usage.crl_sign() {
        return Err(Refusal::LeafIsAuthority);
    }
    if !key_usage.digital_signature() {
        return Err(Refusal::KeyUsage);
    }
    let extended = leaf.extended_key_usage().map_err(|_| Refusal::Malformed)?.ok_or(Refusal::ExtendedKeyUsage)?.value;
    let fits = match usage {
        Usage::Server => extended.server_auth,
        Usage::Client => extended.client_auth,
    };
    if !fits {
        return Err(Refusal::ExtendedKeyUsage);
    }
    check_public_key(leaf.public_key())
}

fn check_issuer(issuer: &X509Certificate<'_>) -> Result<(), Refusal> {
    let constraints = issuer.basic_constraints().map_err(|_| Refusal::Malformed)?;
    let usage = issuer.key_usage().map_err(|_| Refusal::Malformed)?;
    let signs = usage.is_some_and(|usage| usage.value.key_cert_sign());
    if !signs || !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Refusal::IssuerIsNotAuthority);
    }
    check_public_key(issuer.public_key())
}

/// Object identifiers of the two curves accepted (RFC 5480).
const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];

/// Object identifier of Ed25519 keys (RFC 8410).
const ED25519: &str = "1.3.101.112";

/// Whether a key is of a kind and size accepted.
pub(super) fn check_public_key(spki: &SubjectPublicKeyInfo<'_>) -> Result<(), Refusal> {
    if spki.algorithm.algorithm.to_id_string() == ED25519 {
        return Ok(());
    }
    let strong = match spki.parsed().map_err(|_| Refusal::WeakKey)? {
        PublicKey::EC(_) => {
            let parameters = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            parameters.is_some_and(|curve| CURVES.contains(&curve.to_id_string().as_str()))
        }
        PublicKey::RSA(rsa) => rsa.key_size() >= RSA_BITS_MIN,
        _ => false,
    };
    if strong { Ok(()) } else { Err(Refusal::WeakKey) }
}

fn identity_of(leaf: &X509Certificate<'_>) -> Result<Identity, Refusal> {
    let names = leaf.subject_alternative_name().map_err(|_| Refusal::Malformed)?.ok_or(Refusal::NoIdentity)?;
    let mut found = None;
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) if found.is_none() => found = Some(*uri),
            GeneralName::URI(_) => return Err(Refusal::SeveralIdentities),
            GeneralName::Invalid(..) => return Err(Refusal::Malformed),
            // DNS names and addresses are there for programs that know no identities; they prove nothing here.
            _ => {}
        }
    }
    Identity::parse(found.ok_or(Refusal::NoIdentity)?).map_err(Refusal::NotAnIdentity)
}

fn build_path<'p>(
    leaf: &'p EndEntityCert<'p>,
    issuers: &'p [CertificateDer<'p>],
    roots: &'p Roots,
    usage: Usage,
    now: Timestamp,
) -> Result<VerifiedPath<'p>, Refusal> {
    let usage = match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    let time = UnixTime::since_unix_epoch(Duration::from_millis(now.as_millis()));
    leaf.verify_for_usage(ALGORITHMS, &roots.anchors.anchors, issuers, time, usage, None, None)
        .map_err(|error| refusal_of_path(&error))
}

/// Signatures accepted between certificates.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ED25519,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

pub(super) fn refusal_of_path(error: &webpki::Error) -> Refusal {
    use webpki::Error as E;
    match error {
        E::CertNotValidYet { .. } => Refusal::NotYetValid,
        E::CertExpired { .. } | E::InvalidCertValidity => Refusal::Expired,
        E::CaUsedAsEndEntity => Refusal::LeafIsAuthority,
        E::EndEntityUsedAsCa => Refusal::IssuerIsNotAuthority,
        E::UnknownIssuer => Refusal::UnknownIssuer,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Refusal::ExtendedKeyUsage,
        E::UnsupportedCriticalExtension => Refusal::UnknownCritical,
        E::NameConstraintViolation
        | E::PathLenConstraintViolated
        | E::MalformedNameConstraint
        | E::InvalidNetworkMaskConstraint
        | E::MaximumNameConstraintComparisonsExceeded => Refusal::Constraint,
        E::MaximumPathBuildCallsExceeded | E::MaximumPathDepthExceeded | E::MaximumSignatureChecksExceeded => {
            Refusal::ChainTooLong
        }
        E::InvalidSignatureForPublicKey
        | E::SignatureAlgorithmMismatch
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Refusal::BadSignature,
        _ => Refusal::Malformed,
    }
}

fn root_not_after(path: &VerifiedPath<'_>, roots: &Roots) -> Option<Timestamp> {
    let anchor = path.anchor();
    let same = |root: &rustls_pki_types::TrustAnchor<'_>| {
        root.subject == anchor.subject && root.subject_public_key_info == anchor.subject_public_key_info
    };
    // Of two roots with one key and name (a renewed root), the longer-lived decides.
    let ends = roots.anchors.anchors.iter().zip(&roots.anchors.not_after);
    ends.filter(|(root, _)| same(root)).map(|(_, ends)| *ends).max()
}

pub(super) fn validity(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    let at = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_millis(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
    };
    (at(certificate.validity().not_before), at(certificate.validity().not_after))
}

/// End of validity of a root, if it is one.
pub(super) fn check_root(root: &CertificateDer<'_>) -> Result<Timestamp, Error> {
    let root = parse(root)?;
    check_issuer(&root)?;
    Ok(validity(&root).1)
}

/// Whether the leaf was issued for `key`.
pub(super) fn is_for_key(leaf: &CertificateDer<'_>, key: &Key) -> Result<bool, Error> {
    let leaf = parse(leaf)?;
    Ok(leaf.public_key().raw == rcgen::PublicKeyData::subject_public_key_info(key))
}

/// The refusal that travelled through the TLS library inside its own error.
pub(super) fn refusal_of(error: &rustls::Error) -> Option<Refusal> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<Refusal>().cloned()
        }
        rustls::Error::NoCertificatesPresented => Some(Refusal::NoCertificate),
        _ => None,
    }
}

fn into_tls(refusal: Refusal) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

/// The verifier as the TLS library wants it, for one expectation.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) roots: Roots,
    /// Those of other trust domains, each of which vouches for its own identities alone.
    pub(super) foreign: Arc<[Roots]>,
    pub(super) expected: Option<Identity>,
    pub(super) mandatory: bool,
}

impl Verifier {
    /// Whose word counts for the identity that a leaf claims. An own one is vouched for by the own roots alone, and so is
    /// what isn't read, which then is refused.
    fn vouching(&self, leaf: &CertificateDer<'_>) -> Vec<&Roots> {
        let claimed =
            (!self.foreign.is_empty()).then(|| parse(leaf).and_then(|leaf| identity_of(&leaf)).ok()).flatten();
        let domain = claimed.as_ref().map(Identity::trust_domain).filter(|domain| *domain != self.roots.trust_domain());
        let foreign: Vec<&Roots> = self.foreign.iter().filter(|roots| Some(roots.trust_domain()) == domain).collect();
        if foreign.is_empty() { vec![&self.roots] } else { foreign }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if issuers.len() >= CHAIN_CERTIFICATES_MAX {
            return Err(into_tls(Refusal::ChainTooLong));
        }
        let chain: Vec<_> = std::iter::once(leaf).chain(issuers).cloned().collect();
        let expected = self.expected.as_ref().map_or(Expected::AnyOfDomain, Expected::Identity);
        let now = Timestamp::from_millis(now.as_secs().saturating_mul(1000));
        let mut last = None;
        for roots in self.vouching(leaf) {
            match verify(&chain, roots, usage, expected, now) {
                Ok(_) => return Ok(()),
                Err(refusal) => last = Some(refusal),
            }
        }
        Err(into_tls(last.unwrap_or(Refusal::UnknownIssuer)))
    }
}

fn check_signature(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = super::provider().signature_verification_algorithms;
    rustls::crypto::verify_tls13_signature(message, leaf, signed, &algorithms)
}

fn refuse_old() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
}

fn schemes() -> Vec<SignatureScheme> {
    super::provider().signature_verification_algorithms.supported_schemes()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, issuers, Usage::Server, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // None: a client has one certificate and shows it; hints would only tell strangers about us.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(leaf, issuers, Usage::Client, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
