// SPDX-License-Identifier: Apache-2.0
//! The certificate authority of one trust domain. The control plane holds it and decides who gets which
//! identity; this file only turns that decision into a certificate. Nothing that a request asks for is
//! ever copied into a certificate, except its public key.

use super::keys::{Key, SecretText, pem};
use super::{Error, Roots, certificates};
use byrnie_base::{Text, Timestamp};
use byrnie_model::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use std::net::IpAddr;
use std::time::Duration;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

#[cfg(test)]
mod tests;

/// Life of a root: as long as Kubernetes' and Istio's.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far before the moment of signing a certificate begins to be valid, for peers whose clocks are behind.
pub const BACKDATING: Duration = Duration::from_secs(5 * 60);

/// The same for a root. A clock that is set back by no more than this leaves a mesh that was made a moment ago
/// with an authority that holds: leaves are signed anew, and a root can't be.
pub const ROOT_BACKDATING: Duration = Duration::from_secs(7 * 24 * 3600);

/// Largest request read, in bytes. One for a P-256 key takes about 300, one for RSA-4096 about 1,100.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// DNS names and addresses that a certificate may carry beside the identity.
pub const NAMES_MAX: usize = 32;

/// A root and its key.
#[derive(Debug)]
pub struct Authority {
    trust_domain: Text,
    certificate: CertificateDer<'static>,
    key: Key,
}

/// A name beside the identity, for clients that know no identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl Authority {
    /// A new root for `trust_domain`: P-256, valid from just before `now` for [`ROOT_LIFETIME`].
    ///
    /// It carries the domain as its own SPIFFE id. X.509 could constrain it to that domain's URIs, but the
    /// path validation in use refuses every chain under such a constraint, so the domain is checked
    /// by [`super::verify`] against the bundle instead.
    ///
    /// # Errors
    /// If the name can't be a trust domain, or the crypto library fails.
    pub fn create(trust_domain: &str, now: Timestamp) -> Result<Self, Error> {
        byrnie_model::identity::check_domain(trust_domain).map_err(|_| Error::Malformed("trust domain"))?;
        let key = Key::generate()?;
        let mut params = blank(now, ROOT_LIFETIME)?;
        params.not_before -= ROOT_BACKDATING;
        params.distinguished_name.push(DnType::OrganizationName, "byrnie");
        // Serial in the name: two roots of one domain must differ in name, or path building mixes them up.
        let serial = params.serial_number.as_ref().map(ToString::to_string).unwrap_or_default().replace(':', "");
        let short = serial.get(..8).unwrap_or_default();
        params.distinguished_name.push(DnType::CommonName, format!("byrnie root {short}"));
        let uri = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![uri_san(&uri)?];
        // One step below the root: room for a new root signed by the old one during a rotation.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|_| Error::Crypto("root"))?;
        Ok(Self { trust_domain: trust_domain.into(), certificate: certificate.der().clone(), key })
    }

    /// A root from what [`Authority::to_pem`] gave.
    ///
    /// # Errors
    /// If the texts are malformed, don't belong together, or the root is of another trust domain.
    pub fn from_pem(root_pem: &str, key_pem: &str, trust_domain: &str) -> Result<Self, Error> {
        Roots::from_pem(root_pem, trust_domain)?;
        let certificate = certificates(root_pem)?.into_iter().next().ok_or(Error::Amount("certificates"))?;
        let key = Key::from_pem(key_pem)?;
        if !super::verify::is_for_key(&certificate, &key)? {
            return Err(Error::KeyMismatch);
        }
        Ok(Self { trust_domain: trust_domain.into(), certificate, key })
    }

    /// Root and key, for the control plane's own private files.
    pub fn to_pem(&self) -> (String, SecretText) {
        (self.roots_pem(), self.key.to_pem())
    }

    /// The root as PEM: what everybody of the domain must hold.
    pub fn roots_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// The root as a bundle.
    ///
    /// # Errors
    /// Never for a root made here; kept for one read from a file.
    pub fn roots(&self) -> Result<Roots, Error> {
        Roots::from_pem(&self.roots_pem(), &self.trust_domain)
    }

    /// The domain it vouches for.
    pub const fn trust_domain(&self) -> &Text {
        &self.trust_domain
    }

    /// Signs a certificate and answers its chain alone: [`Authority::issue`] without the particulars.
    ///
    /// # Errors
    /// Those of [`Authority::issue`].
    pub fn sign(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        lifetime: Duration,
        names: &[Name],
        now: Timestamp,
    ) -> Result<String, Error> {
        self.issue(csr_der, identity, lifetime, names, now).map(|issued| issued.chain_pem)
    }

    /// Signs a certificate for `identity` and the key of the request `csr_der`, valid from [`BACKDATING`]
    /// before `now` until `lifetime` after it (or the root's end), with `names` beside the identity. Answers the chain as
    /// PEM, leaf first, without the root.
    ///
    /// The request must prove possession of its key. Whatever else it asks for is ignored.
    ///
    /// # Errors
    /// If the request is malformed, its proof is wrong, its key is weak, the identity is of another
    /// domain, or there are more than [`NAMES_MAX`] names.
    pub fn issue(
        &self,
        csr_der: &[u8],
        identity: &Identity,
        lifetime: Duration,
        names: &[Name],
        now: Timestamp,
    ) -> Result<Issued, Error> {
        if *identity.trust_domain() != self.trust_domain {
            return Err(Error::Malformed("trust domain of the identity"));
        }
        if names.len() > NAMES_MAX {
            return Err(Error::Amount("names"));
        }
        let public_key = requested_key(csr_der)?;
        let root_ends = super::verify::check_root(&self.certificate)?;
        let left = Duration::from_secs(root_ends.as_secs().saturating_sub(now.as_secs()));
        let mut params = blank(now, lifetime.min(left))?;
        params.subject_alt_names.push(uri_san(&identity.to_string())?);
        for name in names {
            params.subject_alt_names.push(match name {
                Name::Dns(name) => {
                    SanType::DnsName(name.as_str().try_into().map_err(|_| Error::Malformed("DNS name"))?)
                }
                Name::Ip(ip) => SanType::IpAddress(*ip),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(|_| Error::Malformed("root"))?;
        let serial = params.serial_number.as_ref().map(ToString::to_string).unwrap_or_default().replace(':', "");
        let leaf = params.signed_by(&public_key, &issuer).map_err(|_| Error::Crypto("signature"))?;
        let not_after = Timestamp::from_millis(now.as_secs() * 1000) + lifetime;
        Ok(Issued { chain_pem: pem("CERTIFICATE", leaf.der()), serial, not_after })
    }
}

/// A certificate that was just signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The chain as PEM, leaf first, without the root.
    pub chain_pem: String,
    /// Its serial number, random and unique, in hexadecimal.
    pub serial: String,
    /// When it ends.
    pub not_after: Timestamp,
}

/// The public key of a request, once its proof of possession holds.
fn requested_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    if csr_der.len() > REQUEST_BYTES_MAX {
        return Err(Error::Amount("bytes of a request"));
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(csr_der) else {
        return Err(Error::Malformed("request"));
    };
    let spki = &request.certification_request_info.subject_pki;
    super::verify::check_public_key(spki)?;
    request.verify_signature().map_err(|_| Error::Malformed("proof of possession"))?;
    SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| Error::Malformed("public key"))
}

/// Parameters with a random serial and the span of validity, and nothing else.
fn blank(now: Timestamp, lifetime: Duration) -> Result<CertificateParams, Error> {
    let mut serial = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| Error::Crypto("randomness"))?;
    // A serial is a positive number of at most 20 bytes (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let starts = now.as_secs().saturating_sub(BACKDATING.as_secs());
    params.not_before = epoch + Duration::from_secs(starts);
    params.not_after = epoch + Duration::from_secs(now.as_secs()) + lifetime;
    Ok(params)
}

fn uri_san(uri: &str) -> Result<SanType, Error> {
    Ok(SanType::URI(uri.try_into().map_err(|_| Error::Malformed("identity"))?))
}
