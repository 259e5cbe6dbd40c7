// SPDX-License-Identifier: Apache-2.0
//! What the authority puts into a certificate, and what it doesn't.

use super::*;
use crate::tls::tests::{HOUR, authority, credentials, identity, now};
use crate::tls::{Credentials, csr};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

fn signed(authority: &Authority, request: &[u8], names: &[Name]) -> Result<String, Error> {
    authority.sign(request, &identity("web"), HOUR, names, now())
}

#[test]
fn a_certificate_says_what_was_decided_and_nothing_that_was_asked_for() {
    let authority = authority();
    let key = Key::generate().unwrap();
    let mut asks = CertificateParams::default();
    asks.subject_alt_names = vec![
        uri_san("spiffe://mesh.local/ns/byrnie/sa/control").unwrap(),
        SanType::DnsName("evil".try_into().unwrap()),
    ];
    asks.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    asks.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    asks.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    asks.distinguished_name.push(DnType::CommonName, "spiffe://mesh.local/ns/byrnie/sa/control");
    let request = asks.serialize_request(&key).unwrap();
    let chain = signed(&authority, request.der(), &[]).unwrap();
    let der = certificates(&chain).unwrap().remove(0);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.as_slice(), [GeneralName::URI("spiffe://mesh.local/ns/default/sa/web")]);
    assert!(!leaf.is_ca() && leaf.subject().iter().count() == 0);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digital signature alone");
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.code_signing && !purposes.any);
    assert!(leaf.raw_serial().len() == 16 && leaf.raw_serial()[0] < 0x80);
    let lasts = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(u64::try_from(lasts).unwrap(), (HOUR + BACKDATING).as_secs());
}

#[test]
fn a_certificate_ends_with_its_root_at_the_latest() {
    let authority = authority();
    let request = csr(&Key::generate().unwrap(), &identity("web")).unwrap();
    for lifetime in [ROOT_LIFETIME * 2, Duration::MAX] {
        let chain = authority.sign(&request, &identity("web"), lifetime, &[], now()).unwrap();
        let leaf = certificates(&chain).unwrap().remove(0);
        let ends =
            |der: &CertificateDer<'_>| X509Certificate::from_der(der).unwrap().1.validity().not_after.timestamp();
        assert_eq!(ends(&leaf), ends(&certificates(&authority.roots_pem()).unwrap()[0]));
    }
}

#[test]
fn serials_differ() {
    let authority = authority();
    let request = csr(&Key::generate().unwrap(), &identity("web")).unwrap();
    let serial = || {
        let der = certificates(&signed(&authority, &request, &[]).unwrap()).unwrap().remove(0);
        X509Certificate::from_der(&der).unwrap().1.raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn names_stand_beside_the_identity() {
    let authority = authority();
    let names = [Name::Dns("localhost".into()), Name::Ip("::1".parse().unwrap())];
    let key = Key::generate().unwrap();
    let chain = signed(&authority, &csr(&key, &identity("web")).unwrap(), &names).unwrap();
    let der = certificates(&chain).unwrap().remove(0);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 3);
    let made = Credentials::new(&chain, key, authority.roots().unwrap(), now()).unwrap();
    assert_eq!(*made.identity(), identity("web"));
    let many = vec![Name::Dns("a".into()); NAMES_MAX + 1];
    assert!(signed(&authority, &csr(&Key::generate().unwrap(), &identity("web")).unwrap(), &many).is_err());
}

#[test]
fn a_request_must_prove_that_its_key_is_held() {
    let authority = authority();
    let good = csr(&Key::generate().unwrap(), &identity("web")).unwrap();
    assert!(signed(&authority, &good, &[]).is_ok());
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(signed(&authority, &forged, &[]).is_err());
    let mut longer = good.clone();
    longer.push(0);
    for bad in [&longer[..], &good[..good.len() - 1], b"", b"hello", &vec![0x30; REQUEST_BYTES_MAX + 1]] {
        assert!(signed(&authority, bad, &[]).is_err());
    }
}

#[test]
fn mangled_requests_never_panic_and_never_change_the_key() {
    let authority = authority();
    let key = Key::generate().unwrap();
    let good = csr(&key, &identity("web")).unwrap();
    let mut signed_anyway = 0;
    for at in 0..good.len() {
        for flip in [0x01, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            // The count of unused bits before the proof is beyond the proof, and means nothing.
            if let Ok(chain) = signed(&authority, &bad, &[]) {
                signed_anyway += 1;
                Credentials::new(&chain, key.clone(), authority.roots().unwrap(), now()).unwrap();
            }
        }
    }
    assert!(signed_anyway <= 2, "{signed_anyway}");
}

#[test]
fn an_unusual_key_is_not_signed() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let refused = signed(&authority(), request.der(), &[]).unwrap_err();
    assert_eq!(refused.refusal(), Some(&crate::tls::Refusal::WeakKey));
}

#[test]
fn an_authority_signs_for_its_own_domain_alone() {
    let foreign = Identity::new("evil.local", "default", "web").unwrap();
    let request = csr(&Key::generate().unwrap(), &foreign).unwrap();
    assert!(authority().sign(&request, &foreign, HOUR, &[], now()).is_err());
    assert!(Authority::create("Evil Local", now()).is_err());
}

#[test]
fn an_authority_survives_its_files() {
    let made = authority();
    let (root, key) = made.to_pem();
    let read = Authority::from_pem(&root, key.expose(), "mesh.local").unwrap();
    assert_eq!((read.roots_pem(), &**read.trust_domain()), (root.clone(), "mesh.local"));
    let chain = credentials(&read, &identity("web"), HOUR).chain_pem();
    assert!(chain.starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert!(matches!(
        Authority::from_pem(&root, authority().to_pem().1.expose(), "mesh.local"),
        Err(Error::KeyMismatch)
    ));
    assert!(Authority::from_pem("", key.expose(), "mesh.local").is_err());
}
