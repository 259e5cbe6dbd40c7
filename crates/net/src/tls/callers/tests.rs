// SPDX-License-Identifier: Apache-2.0
//! Who is let in by a server that asks callers from outside for a certificate, through whole handshakes on loopback.

use super::*;
use crate::io::TcpStream;
use crate::runtime::block_on;
use crate::tls::edge::{self, Alpn, Certificate, Site};
use crate::tls::{ServerTls, accept};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const HOST: &str = "shop.test";

/// A chain that is shown, and its key; or none.
type Pair = Option<(String, String)>;

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority_until(year: i32, key: KeyPair) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "callers");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

fn authority() -> Authority {
    authority_until(4096, KeyPair::generate().unwrap())
}

impl Authority {
    /// A certificate as `make` changes it, and its key.
    fn sign(&self, make: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["pay.partner.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "partner");
        make(&mut params);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn below(&self, end: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "between");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
}

/// The server's own certificate, and one that trusts it.
struct Shop {
    certificate: Certificate,
    roots: Arc<RootCertStore>,
}

fn shop() -> Shop {
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec![HOST.to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.der().clone()).unwrap();
    Shop { certificate: Certificate::from_pem(&own.pem(), &key.serialize_pem()).unwrap(), roots: Arc::new(roots) }
}

impl Shop {
    fn serves(&self, callers: Option<Callers>) -> ServerTls {
        let site = Site { hostname: None, certificates: vec![self.certificate.clone()] };
        edge::server(vec![site], Alpn::Http, callers).unwrap()
    }

    /// A client that shows this chain.
    fn client(
        &self,
        shown: Option<&(String, String)>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(edge::provider()).with_protocol_versions(&[version]).unwrap();
        let builder = builder.with_root_certificates(Arc::clone(&self.roots));
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                let pair = CertifiedKey::from_der(certificates(chain).unwrap(), key, &edge::provider()).unwrap();
                // Whatever authorities the server names.
                let always: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(pair));
                builder.with_client_cert_resolver(always)
            }
        };
        config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).into();
        Arc::new(config)
    }
}

/// What a caller comes to: who it is to the server, and whether its session was resumed; or `None` if it isn't let in.
async fn call(tls: &ServerTls, config: &Arc<ClientConfig>) -> Option<(Peer, bool)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (mut stream, peer) = accept(listener.accept().await.unwrap().0, tls).await.ok()?;
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        Some(peer)
    };
    let calling = async {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect(ServerName::try_from(HOST).unwrap(), tcp).await.ok()?;
        // Tickets, and refusals under TLS 1.3, come with the first bytes.
        stream.read_exact(&mut [0]).await.ok()?;
        Some(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed))
    };
    let (served, resumed) = tokio::join!(serving, calling);
    assert_eq!(served.is_some(), resumed.is_some());
    served.zip(resumed)
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn ymd(year: i32) -> u64 {
    u64::try_from(rcgen::date_time_ymd(year, 1, 1).unix_timestamp()).unwrap()
}

#[test]
fn those_are_let_in_for_whom_an_authority_vouches_and_others_only_where_that_is_allowed() {
    let (shop, own, other, foreign) = (shop(), authority(), authority(), authority());
    let between = own.below(2050);
    let of = |callers: &Authority, optional| Callers::new([&*callers.pem, &*other.pem], optional).unwrap();
    let (strict, lax) = (shop.serves(Some(of(&own, false))), shop.serves(Some(of(&own, true))));
    let usual = |_: &mut CertificateParams| ();
    let (long, (leaf, key)) = (own.sign(usual), between.sign(usual));
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["pay.partner.test".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let only_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let an_authority = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cases: [(&str, Pair, bool); 12] = [
        ("one of the first authority", Some(own.sign(usual)), true),
        ("one of the second", Some(other.sign(usual)), true),
        ("one by way of another", Some((format!("{leaf}{}", between.pem), key.clone())), true),
        ("the same without the one between", Some((leaf, key)), false),
        ("a foreign one", Some(foreign.sign(usual)), false),
        ("one that nobody vouches for", Some(self_signed), false),
        ("an ended one", Some(own.sign(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))), false),
        ("an early one", Some(own.sign(|params| params.not_before = rcgen::date_time_ymd(4000, 1, 1))), false),
        ("one for servers", Some(own.sign(only_servers)), false),
        ("an authority itself", Some(own.sign(an_authority)), false),
        ("a chain that is too long", Some((long.0.repeat(CHAIN_CERTIFICATES_MAX + 1), long.1)), false),
        ("none", None, false),
    ];
    for (case, shown, holds) in &cases {
        for version in VERSIONS {
            let config = shop.client(shown.as_ref(), version);
            let seen = block_on(call(&strict, &config)).unwrap();
            assert_eq!(seen.is_some(), *holds, "{case} by {version:?}");
            let (peer, _) = block_on(call(&lax, &config)).unwrap().unwrap_or_else(|| panic!("{case} by {version:?}"));
            assert_eq!((peer.certificate.is_some(), peer.not_after.is_some()), (*holds, *holds), "{case}");
            assert_eq!((peer.identity, peer.alpn.as_deref()), (None, Some(&b"h2"[..])), "{case}");
            if let Some((peer, _)) = seen {
                let ends = if *case == "one by way of another" { ymd(2050) } else { ymd(4096) };
                assert_eq!(peer.not_after.unwrap().as_secs(), ends, "the shortest life of the chain: {case}");
                let told = peer.certificate.unwrap();
                assert!(
                    told.starts_with("Hash=") && told.ends_with(";Subject=\"CN=partner\";DNS=pay.partner.test"),
                    "{told}"
                );
            }
        }
    }
}

#[test]
fn nobody_comes_back_without_proving_it_again() {
    let (shop, first, second) = (shop(), authority(), authority());
    let of = |authority: &Authority| Some(Callers::new([&*authority.pem], false).unwrap());
    let (open, strict, other) = (shop.serves(None), shop.serves(of(&first)), shop.serves(of(&second)));
    let pair = first.sign(|_| ());
    for version in VERSIONS {
        let is_resumed = |tls: &ServerTls, config: &Arc<ClientConfig>| {
            block_on(call(tls, config)).unwrap().map(|(_, resumed)| resumed)
        };
        // A ticket of a port that asks for nothing is none at one that does.
        let stranger = shop.client(None, version);
        assert_eq!(is_resumed(&open, &stranger), Some(false));
        assert_eq!(is_resumed(&open, &stranger), Some(true));
        assert_eq!(is_resumed(&strict, &stranger), None);
        // What was proven is proven each time, and at each port by itself.
        let known = shop.client(Some(&pair), version);
        assert_eq!(is_resumed(&open, &known), Some(false));
        assert_eq!([is_resumed(&strict, &known), is_resumed(&strict, &known)], [Some(false); 2]);
        assert_eq!(is_resumed(&other, &known), None);
        // Once other authorities count, a caller of the first is one of nobody; and the other way round.
        let (port, stranger) = (shop.serves(None), shop.client(None, version));
        assert_eq!(is_resumed(&port, &stranger), Some(false));
        port.renew(&strict);
        assert_eq!((is_resumed(&port, &stranger), is_resumed(&port, &known)), (None, Some(false)));
        // When nobody is asked again, what was given while nobody was asked counts again, if others may open it.
        port.renew(&shop.serves(None));
        assert_eq!(is_resumed(&port, &stranger), Some(version.version == ProtocolVersion::TLSv1_3));
        // What the ports that ask would open, had they a ticket of another process that asks nobody: nothing.
        let lax = shop.serves(Some(Callers::new([&*first.pem], true).unwrap()));
        for (tls, let_in) in [(&strict, None), (&other, None), (&lax, Some(false))] {
            let fresh = shop.client(None, version);
            assert_eq!(is_resumed(&shop.serves(None), &fresh), Some(false));
            assert_eq!(is_resumed(tls, &fresh), let_in);
        }
    }
}

#[test]
fn an_authority_that_has_ended_vouches_for_nobody_unless_it_was_renewed() {
    let shop = shop();
    let key = KeyPair::generate().unwrap();
    let copy = || KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let (old, new) = (authority_until(2020, copy()), authority_until(2060, copy()));
    let config = shop.client(Some(&old.sign(|_| ())), &rustls::version::TLS13);
    let ends = |roots: &[&str]| {
        let tls = shop.serves(Some(Callers::new(roots.iter().copied(), false).unwrap()));
        block_on(call(&tls, &config)).unwrap().map(|(peer, _)| peer.not_after.unwrap().as_secs())
    };
    assert_eq!(ends(&[&old.pem]), None);
    assert_eq!(ends(&[&old.pem, &new.pem]), Some(ymd(2060)));
}

#[test]
fn what_is_no_authority_is_refused() {
    let good = authority().pem;
    let refused = |texts: &[&str]| Callers::new(texts.iter().copied(), true).unwrap_err().to_string();
    assert_eq!(refused(&[]), "too many or too few roots");
    assert_eq!(refused(&["", "no PEM"]), "too many or too few roots");
    assert_eq!(refused(&[&good.repeat(ROOTS_MAX + 1)]), "too many or too few roots");
    assert!(refused(&[&good, &good.replacen("MII", "AII", 1)]).starts_with("malformed"));
    // So many that they can't all be named are all believed.
    let many: Vec<String> = (0..8).map(|_| good.repeat(ROOTS_MAX)).collect();
    let callers = Callers::new(many.iter().map(String::as_str), false).unwrap();
    assert_eq!((callers.0.anchors.len(), callers.0.hints.len()), (8 * ROOTS_MAX, 8 * ROOTS_MAX));
    let long = authority_named(&"x".repeat(2000)).pem;
    let callers = Callers::new([&*long.repeat(16)], false).unwrap();
    assert_eq!((callers.0.anchors.len(), callers.0.hints.len()), (16, 0));
}

fn authority_named(name: &str) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

#[test]
fn what_is_told_of_a_certificate_can_not_be_mistaken() {
    let tell = |make: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        make(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let told = told(certificate.der()).unwrap();
        let hash = told.strip_prefix("Hash=").unwrap();
        let mut expected = String::new();
        push_hex(&mut expected, digest(&SHA256, certificate.der()).as_ref());
        hash.strip_prefix(expected.as_str()).unwrap().to_owned()
    };
    let named = |parts: &[(DnType, &str)]| {
        tell(&|params| parts.iter().for_each(|(kind, value)| params.distinguished_name.push(kind.clone(), *value)))
    };
    assert_eq!(tell(&|_| ()), "");
    let parts = [(DnType::CountryName, "DE"), (DnType::OrganizationName, "A B"), (DnType::CommonName, "x.y")];
    assert_eq!(named(&parts), ";Subject=\"CN=x.y,O=A B,C=DE\"");
    let forged = named(&[(DnType::CommonName, "a\";Hash=0,By=b\\\" ; = + #<>\u{e9}\r\n")]);
    let escaped = "a\\22\\3bHash\\3d0\\2cBy\\3db\\5c\\22 \\3b \\3d \\2b \\23\\3c\\3e\\c3\\a9\\0d\\0a";
    assert_eq!(forged, format!(";Subject=\"CN={escaped}\""));
    assert_eq!(named(&[(DnType::CommonName, " a ")]), ";Subject=\"CN=\\20a\\20\"");
    let other = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
    assert_eq!(named(&[(other, "a@b")]), ";Subject=\"1.2.840.113549.1.9.1=a@b\"");
    // What doesn't fit is left out.
    assert_eq!(named(&[(DnType::CommonName, &"x".repeat(TOLD_BYTES_MAX))]), "");
    let names = |uris: &[&str], hosts: &[&str]| {
        tell(&|params| {
            let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
            let hosts = hosts.iter().map(|host| SanType::DnsName((*host).try_into().unwrap()));
            params.subject_alt_names = uris.chain(hosts).collect();
        })
    };
    let spiffe = "spiffe://partner.test/ns/a/sa/b";
    assert_eq!(names(&[spiffe, "urn:x"], &["*.a.test"]), format!(";URI={spiffe};URI=urn:x;DNS=*.a.test"));
    for bad in ["x:a;URI=spiffe://admin", "x:a,Hash=0", "x:\"", "x:a\\", "x:a b", "x:a\r\nhost: b"] {
        assert_eq!(names(&[bad, spiffe], &[bad]), format!(";URI={spiffe}"), "{bad}");
    }
}
