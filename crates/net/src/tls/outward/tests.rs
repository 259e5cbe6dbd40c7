// SPDX-License-Identifier: Apache-2.0
//! Which hosts outside are believed, through whole handshakes on loopback.

use super::*;
use crate::runtime::block_on;
use crate::tls::accept;
use crate::tls::edge::{self, Alpn, Certificate, Site};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

impl Authority {
    fn sign(&self, names: &[&str], end: i32) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let name = |name: &&str| match name.contains(':') {
            true => rcgen::SanType::URI((*name).try_into().unwrap()),
            false => rcgen::SanType::DnsName((*name).try_into().unwrap()),
        };
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(name).collect();
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        Certificate::from_pem(&signed.pem(), &key.serialize_pem()).unwrap()
    }
}

/// What comes of calling a host that shows `certificate`: the protocol agreed on.
fn call(certificate: &Certificate, outward: &Outward, speaks: Speaks, alpn: Alpn) -> Result<Option<Vec<u8>>, Error> {
    let site = Site { hostname: None, certificates: vec![certificate.clone()] };
    let server = edge::server(vec![site], alpn, None).unwrap();
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let serving = async {
            let (mut stream, peer) = accept(listener.accept().await.unwrap().0, &server).await.ok()?;
            stream.write_all(b"x").await.ok()?;
            stream.flush().await.ok()?;
            Some(peer.sni.unwrap())
        };
        let calling = async {
            let (mut stream, peer) = connect(tcp, outward, speaks).await?;
            stream.read_exact(&mut [0]).await.unwrap();
            Ok(peer.alpn)
        };
        let (asked, called) = tokio::join!(serving, calling);
        if called.is_ok() {
            assert_eq!(asked.as_deref(), Some("api.bank.test"));
        }
        called
    })
    .unwrap()
}

fn outward(names: &[&str], roots: &str) -> Outward {
    let name = |name: &&str| match name.contains(':') {
        true => AltName::Uri((*name).into()),
        false => AltName::Host((*name).into()),
    };
    let names: Vec<AltName> = names.iter().map(name).collect();
    Outward::new("api.bank.test", &names, Some(roots), None).unwrap()
}

#[test]
fn a_host_is_believed_by_its_name_and_whose_word_counts() {
    let (trusted, other) = (authority(), authority());
    let own = outward(&["api.bank.test"], &trusted.pem);
    let asks = |certificate: &Certificate, outward: &Outward| call(certificate, outward, Speaks::Http1, Alpn::Http);
    let good = trusted.sign(&["api.bank.test"], 4096);
    assert_eq!(asks(&good, &own).unwrap().as_deref(), Some(ALPN_HTTP1));
    let refused = |certificate: &Certificate, outward: &Outward| {
        let error = asks(certificate, outward).unwrap_err();
        assert!(matches!(error, Error::Unproven(_)), "{error}");
    };
    refused(&trusted.sign(&["api.other.test"], 4096), &own);
    refused(&trusted.sign(&["api.bank.test"], 2020), &own);
    refused(&other.sign(&["api.bank.test"], 4096), &own);
    // Both of two authorities count; whom the system trusts doesn't vouch for this one.
    let both = outward(&["api.bank.test"], &format!("{}\n{}", other.pem, trusted.pem));
    asks(&good, &both).unwrap();
    if let Ok(system) = Outward::new("api.bank.test", &[AltName::Host("api.bank.test".into())], None, None) {
        refused(&good, &system);
    }
    // Other names take the place of the one that is asked for.
    let named = outward(&["one.bank.test", "two.bank.test"], &trusted.pem);
    asks(&trusted.sign(&["two.bank.test"], 4096), &named).unwrap();
    asks(&trusted.sign(&["*.bank.test"], 4096), &named).unwrap();
    refused(&trusted.sign(&["api.bank.test.evil.test"], 4096), &named);
}

#[test]
fn a_host_is_believed_by_a_uri_if_one_is_expected() {
    let (trusted, other) = (authority(), authority());
    let (one, two) = ("spiffe://bank.test/ns/a/sa/b", "spiffe://bank.test/ns/a/sa/c");
    let asks = |authority: &Authority, names: &[&str], outward: &Outward| {
        call(&authority.sign(names, 4096), outward, Speaks::Http1, Alpn::Any)
    };
    let by_uri = outward(&[one], &trusted.pem);
    asks(&trusted, &[one], &by_uri).unwrap();
    asks(&trusted, &["any.test", two, one], &by_uri).unwrap();
    // The host that is asked for counts no more, and letters that look alike are others.
    for names in [&["api.bank.test"][..], &[two], &["spiffe://bank.test/ns/a/sa/B"], &["spiffe://bank.test/ns/a/sa/bb"]]
    {
        assert!(matches!(asks(&trusted, names, &by_uri), Err(Error::Unproven(_))), "{names:?}");
    }
    assert!(matches!(asks(&other, &[one], &by_uri), Err(Error::Unproven(_))));
    let either = outward(&[one, "api.bank.test"], &trusted.pem);
    asks(&trusted, &["api.bank.test"], &either).unwrap();
    asks(&trusted, &[one], &either).unwrap();
}

#[test]
fn what_is_spoken_is_agreed_on() {
    let trusted = authority();
    let (own, shown) = (outward(&["api.bank.test"], &trusted.pem), trusted.sign(&["api.bank.test"], 4096));
    assert_eq!(call(&shown, &own, Speaks::Http2, Alpn::Http).unwrap().as_deref(), Some(ALPN_H2));
    assert_eq!(call(&shown, &own, Speaks::Opaque, Alpn::Any).unwrap(), None);
    // One that knows no ALPN speaks HTTP/1, and can't be asked for HTTP/2.
    assert_eq!(call(&shown, &own, Speaks::Http1, Alpn::Any).unwrap(), None);
    assert!(call(&shown, &own, Speaks::Http2, Alpn::Any).is_err());
}

/// What a host has said before it's closed without a word, as each protocol reads it.
#[test]
fn a_host_that_closes_without_a_word_has_ended_where_bytes_are_opaque_and_is_cut_elsewhere() {
    let trusted = authority();
    let own = outward(&["api.bank.test"], &trusted.pem);
    let site = Site { hostname: None, certificates: vec![trusted.sign(&["api.bank.test"], 4096)] };
    for (speaks, whole) in [(Speaks::Opaque, true), (Speaks::Http1, false)] {
        let server = edge::server(vec![site.clone()], Alpn::Any, None).unwrap();
        for (said, resets) in [(&b"all"[..], false), (b"", false), (b"a part", true)] {
            let read = block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let (read, mut reset) = tokio::sync::oneshot::channel();
                let serving = async {
                    let (mut stream, _) = accept(listener.accept().await.unwrap().0, &server).await.unwrap();
                    stream.write_all(said).await.unwrap();
                    stream.flush().await.unwrap();
                    if resets {
                        // Once what came before it has been read.
                        (&mut reset).await.unwrap();
                        stream.tcp().set_zero_linger().unwrap();
                    }
                };
                let calling = async {
                    let (mut stream, _) = connect(tcp, &own, speaks).await.unwrap();
                    let mut heard = vec![0; said.len()];
                    stream.read_exact(&mut heard).await.unwrap();
                    assert_eq!(heard, said);
                    let _ = read.send(());
                    stream.read(&mut [0]).await.map_err(|error| error.kind())
                };
                tokio::join!(serving, calling).1
            });
            let expected = match (resets, whole) {
                (false, true) => Ok(0),
                (false, false) => Err(std::io::ErrorKind::UnexpectedEof),
                (true, _) => Err(std::io::ErrorKind::ConnectionReset),
            };
            assert_eq!(read.unwrap(), expected, "{speaks:?} {said:?}");
        }
    }
}

#[test]
fn authorities_are_certificates() {
    assert!(check_roots(&authority().pem).is_ok());
    for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x"] {
        assert!(check_roots(bad).is_err(), "{bad}");
    }
    let many: String = (0..=ROOTS_MAX).map(|_| authority().pem).collect();
    assert!(matches!(check_roots(&many), Err(Error::Amount(_))));
}

/// What comes of calling a host that lets in callers of an authority alone, by one version of TLS: what it was shown.
fn shown_to(
    host: &Certificate,
    callers: &Authority,
    outward: &Outward,
    (speaks, version): (Speaks, &'static rustls::SupportedProtocolVersion),
) -> Option<CertificateDer<'static>> {
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        read(&callers.pem).unwrap().into(),
        edge::provider(),
    );
    let mut config = rustls::ServerConfig::builder_with_provider(edge::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&host.shown))));
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let serving = async {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.ok()?;
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            Some(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
        };
        let calling = async { connect(tcp, outward, speaks).await.ok()?.0.read_exact(&mut [0]).await.ok() };
        let (shown, called) = tokio::join!(serving, calling);
        assert_eq!(shown.is_some(), called.is_some());
        shown
    })
    .unwrap()
}

#[test]
fn a_host_that_asks_who_calls_is_shown_a_certificate_whatever_is_spoken() {
    let (trusted, callers) = (authority(), authority());
    let host = trusted.sign(&["api.bank.test"], 4096);
    let (own, strange) = (callers.sign(&["mesh.test"], 4096), trusted.sign(&["mesh.test"], 4096));
    let names = [AltName::Host("api.bank.test".into())];
    let showing = |shown| Outward::new("api.bank.test", &names, Some(&trusted.pem), shown).unwrap();
    let (with, without, with_another) = (showing(Some(&own)), showing(None), showing(Some(&strange)));
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Opaque] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let how = (speaks, version);
            assert_eq!(shown_to(&host, &callers, &with, how).as_ref(), Some(&own.shown.cert[0]), "{how:?}");
            for refused in [&without, &with_another] {
                assert!(shown_to(&host, &callers, refused, how).is_none(), "{how:?}");
            }
        }
    }
    // Nobody who can't prove to be the host is shown it.
    let other = callers.sign(&["api.bank.test"], 4096);
    assert!(shown_to(&other, &callers, &with, (Speaks::Http1, &rustls::version::TLS13)).is_none());
}
