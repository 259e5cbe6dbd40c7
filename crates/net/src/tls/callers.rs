// SPDX-License-Identifier: Apache-2.0
//! Callers from outside who prove who they are by a certificate of their own: by whose word it holds, and what is told of it.
//! [`super::edge`] and [`crate::quic`] ask for it in the handshake. It's nobody's identity in the mesh, so the rules are those
//! of the public kind (RFC 5280), with the end of authorities looked at too. Revocation isn't known.

use super::verify::{Refusal, parse, refusal_of_path, validity};
use super::{CHAIN_CERTIFICATES_MAX, Error, Peer, ROOTS_MAX, certificates};
use aws_lc_rs::digest::{SHA256, digest};
use byrnie_base::{Text, Timestamp};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::X509Name;

/// Bytes of names of authorities that callers are told of, by which programs find which of their certificates is meant. Where
/// they would be more, none is named, which means any (RFC 8446 4.2.4).
const HINT_BYTES_MAX: usize = 16 * 1024;
/// Bytes told of a certificate; names that don't fit are left out.
const TOLD_BYTES_MAX: usize = 2048;

/// Whose word counts for callers, and whether those who prove nothing are let in as well.
#[derive(Clone, Debug)]
pub struct Callers(Arc<Believed>);

#[derive(Debug)]
struct Believed {
    anchors: Vec<TrustAnchor<'static>>,
    /// When each ends.
    ends: Vec<Timestamp>,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    optional: bool,
}

impl Callers {
    /// Believes those for whom one of the authorities of these texts (PEM, each of at most [`ROOTS_MAX`]) vouches. If that's
    /// `optional`, they're asked, and let in whatever they show.
    ///
    /// # Errors
    /// If a text isn't certificates, holds too many, or there are none at all.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>, optional: bool) -> Result<Self, Error> {
        let (mut anchors, mut ends) = (Vec::new(), Vec::new());
        for pem in texts {
            let found = certificates(pem)?;
            if found.len() > ROOTS_MAX {
                return Err(Error::Amount("roots"));
            }
            for root in &found {
                let anchor = webpki::anchor_from_trusted_cert(root).map_err(|_| Error::Malformed("root"))?;
                anchors.push(anchor.to_owned());
                ends.push(validity(&parse(root)?).1);
            }
        }
        if anchors.is_empty() {
            return Err(Error::Amount("roots"));
        }
        let named: usize = anchors.iter().map(|anchor| anchor.subject.len()).sum();
        let hints = anchors.iter().filter(|_| named <= HINT_BYTES_MAX);
        let hints = hints.map(|anchor| DistinguishedName::in_sequence(&anchor.subject)).collect();
        let algorithms = super::edge::provider().signature_verification_algorithms;
        Ok(Self(Arc::new(Believed { anchors, ends, hints, algorithms, optional })))
    }

    /// What the TLS library is to ask.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0) as Arc<dyn ClientCertVerifier>
    }

    /// The caller of a finished handshake, in which it has proven to have the key of the certificate that it showed.
    ///
    /// # Errors
    /// If it has to prove something, and what it showed doesn't hold any more.
    pub(crate) fn peer(&self, chain: Option<&[CertificateDer<'_>]>, peer: Peer, now: Timestamp) -> Result<Peer, Error> {
        let proven = match chain.and_then(<[_]>::split_first) {
            Some((leaf, issuers)) => self.0.prove(leaf, issuers, now).map(|end| (leaf, end)),
            None => Err(Refusal::NoCertificate),
        };
        match proven {
            Ok((leaf, end)) => Ok(Peer { not_after: Some(end), certificate: told(leaf).map(Text::from), ..peer }),
            // Nothing that isn't proven is told.
            Err(_) if self.0.optional => Ok(peer),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl Believed {
    /// When what a caller has shown ends, its authority included, if it holds at `now`.
    fn prove(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Timestamp, Refusal> {
        if issuers.len() >= CHAIN_CERTIFICATES_MAX {
            return Err(Refusal::ChainTooLong);
        }
        let end_entity = EndEntityCert::try_from(leaf).map_err(|error| refusal_of_path(&error))?;
        let time = UnixTime::since_unix_epoch(Duration::from_millis(now.as_millis()));
        // Another authority may vouch for the same one, and not have ended.
        let lasting = |path: &VerifiedPath<'_>| match self.end_of(path) {
            end if end < now => {
                let not_after = UnixTime::since_unix_epoch(Duration::from_millis(end.as_millis()));
                Err(webpki::Error::CertExpired { time, not_after })
            }
            _ => Ok(()),
        };
        let (all, usage) = (self.algorithms.all, KeyUsage::client_auth());
        let path = end_entity.verify_for_usage(all, &self.anchors, issuers, time, usage, None, Some(&lasting));
        let path = path.map_err(|error| refusal_of_path(&error))?;
        let mut end = validity(&parse(leaf)?).1.min(self.end_of(&path));
        for issuer in path.intermediate_certificates() {
            end = end.min(validity(&parse(&issuer.der())?).1);
        }
        Ok(end)
    }

    /// When the authority ends that a path leads to; of two with one key and name (a renewed one), the longer-lived counts.
    fn end_of(&self, path: &VerifiedPath<'_>) -> Timestamp {
        let anchor = path.anchor();
        let same = |(root, _): &(&TrustAnchor<'_>, &Timestamp)| {
            root.subject == anchor.subject && root.subject_public_key_info == anchor.subject_public_key_info
        };
        self.anchors.iter().zip(&self.ends).filter(same).map(|(_, end)| *end).max().unwrap_or_default()
    }
}

impl ClientCertVerifier for Believed {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let now = Timestamp::from_millis(now.as_secs().saturating_mul(1000));
        match self.prove(leaf, issuers, now) {
            Err(refusal) if !self.optional => Err(rustls::Error::InvalidCertificate(alert_of(&refusal))),
            // What it's worth is seen once the handshake is done.
            _ => Ok(ClientCertVerified::assertion()),
        }
    }

    // Whoever doesn't have the key of the certificate that it shows is let in by nobody (RFC 8446 4.4.3).
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// By this the library finds the alert that tells a caller what is wrong with its certificate.
fn alert_of(refusal: &Refusal) -> CertificateError {
    match refusal {
        Refusal::Expired => CertificateError::Expired,
        Refusal::NotYetValid => CertificateError::NotValidYet,
        Refusal::UnknownIssuer => CertificateError::UnknownIssuer,
        Refusal::BadSignature => CertificateError::BadSignature,
        Refusal::ExtendedKeyUsage => CertificateError::InvalidPurpose,
        Refusal::Malformed => CertificateError::BadEncoding,
        _ => CertificateError::ApplicationVerificationFailure,
    }
}

/// What is told of a caller's certificate, in the form of Envoy's `x-forwarded-client-cert`: the SHA-256 of its DER, its subject
/// (RFC 4514), and the URIs and hosts that it's for. Programs take such a text apart by `,`, `;`, `=` and quotes, and not all
/// alike: whatever has one of these in it is escaped, or left out.
fn told(leaf: &CertificateDer<'_>) -> Option<String> {
    let certificate = parse(leaf).ok()?;
    let mut told = String::from("Hash=");
    push_hex(&mut told, digest(&SHA256, leaf).as_ref());
    let mut add = |name: &str, value: &str| {
        let bytes = name.len() + value.len();
        if told.len() + bytes <= TOLD_BYTES_MAX {
            told.push_str(name);
            told.push_str(value);
        }
    };
    if let Some(subject) = subject(certificate.subject()).filter(|subject| !subject.is_empty()) {
        add(";Subject=", &format!("\"{subject}\""));
    }
    let (uris, hosts) = names(&certificate);
    uris.iter().for_each(|uri| add(";URI=", uri));
    hosts.iter().for_each(|host| add(";DNS=", host));
    Some(told)
}

/// The URIs and hosts of a certificate that can be told as they stand.
fn names<'a>(certificate: &'a X509Certificate<'_>) -> (Vec<&'a str>, Vec<&'a str>) {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return (Vec::new(), Vec::new()) };
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b",;=\"\\".contains(&byte));
    let (mut uris, mut hosts) = (Vec::new(), Vec::new());
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) if is_plain(uri) => uris.push(*uri),
            GeneralName::DNSName(host) if is_plain(host) => hosts.push(*host),
            _ => {}
        }
    }
    (uris, hosts)
}

/// Attribute types with a short name (RFC 4514 3).
const TYPES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// A name in the form of RFC 4514, the last part first; `None` if a part of it is no text.
fn subject(name: &X509Name<'_>) -> Option<String> {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (at, part) in parts.into_iter().rev().enumerate() {
        out.push_str(if at == 0 { "" } else { "," });
        for (at, attribute) in part.iter().enumerate() {
            let oid = attribute.attr_type().to_id_string();
            let short = TYPES.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
            out.push_str(if at == 0 { "" } else { "+" });
            out.push_str(short.unwrap_or(&oid));
            out.push('=');
            push_escaped(&mut out, attribute.as_str().ok()?);
        }
    }
    Some(out)
}

/// A value, of which only what can't be mistaken stands as it is; every other byte as two digits (RFC 4514 2.4).
fn push_escaped(out: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let inner = at > 0 && at < last;
        let is_plain = byte.is_ascii_alphanumeric() || b"-._:/@()'*&!?".contains(&byte) || (byte == b' ' && inner);
        if is_plain {
            out.push(char::from(byte));
        } else {
            out.push('\\');
            push_hex(out, &[byte]);
        }
    }
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // A String takes all that is written.
        let _ = write!(out, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests;
