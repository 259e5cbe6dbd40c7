// SPDX-License-Identifier: Apache-2.0
//! What callers from outside are shown, through whole handshakes on loopback.

use super::*;
use crate::runtime::block_on;
use crate::tls::accept;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A certificate for these names, signed by its own key; and the key.
fn pem(names: &[&str]) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    (CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn certificate(names: &[&str]) -> Certificate {
    let (chain, key) = pem(names);
    Certificate::from_pem(&chain, &key).unwrap()
}

fn site(hostname: Option<&str>, certificates: Vec<Certificate>) -> Site {
    Site { hostname: hostname.map(Text::from), certificates }
}

/// A caller that believes everything: what it was shown is looked at afterwards.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn client(version: &'static rustls::SupportedProtocolVersion, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// What a caller saw: the names of the certificate, version, ALPN, and whether a session was resumed.
type Seen = (Vec<Text>, ProtocolVersion, Option<Vec<u8>>, bool);

async fn call(tls: &ServerTls, config: &Arc<ClientConfig>, host: &str) -> Option<Seen> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (mut stream, peer) = accept(listener.accept().await.unwrap().0, tls).await.ok()?;
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(peer.identity, None);
        Some(peer.sni)
    };
    let calling = async {
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect(ServerName::try_from(host.to_owned()).unwrap(), tcp).await.ok()?;
        // Tickets come with the first bytes.
        stream.read_exact(&mut [0]).await.ok()?;
        let session = stream.get_ref().1;
        let leaf = session.peer_certificates().unwrap()[0].clone();
        let names = hosts(&X509Certificate::from_der(&leaf).unwrap().1).unwrap();
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        Some((names, session.protocol_version().unwrap(), session.alpn_protocol().map(<[u8]>::to_vec), resumed))
    };
    let (served, seen) = tokio::join!(serving, calling);
    assert_eq!(served.is_some(), seen.is_some());
    seen
}

#[test]
fn the_most_special_host_decides_and_of_its_certificates_one_that_covers_the_name() {
    let tls = server(
        vec![
            site(None, vec![certificate(&["any.test"])]),
            site(Some("*.shop.test"), vec![certificate(&["other.test"]), certificate(&["*.shop.test"])]),
            site(Some("pay.shop.test"), vec![certificate(&["pay.shop.test"])]),
            site(Some("bare.shop.test"), vec![]),
        ],
        Alpn::Http,
        None,
    )
    .unwrap();
    for (host, shown) in [
        ("pay.shop.test", Some("pay.shop.test")),
        ("PAY.shop.test", Some("pay.shop.test")),
        ("www.shop.test", Some("*.shop.test")),
        // A star stands for one label in a certificate, and for any number in a listener.
        ("a.b.shop.test", Some("other.test")),
        ("else.test", Some("any.test")),
        ("192.0.2.7", Some("any.test")),
        ("bare.shop.test", None),
    ] {
        let config = client(&rustls::version::TLS13, &["h2", "http/1.1"]);
        let seen = block_on(call(&tls, &config, host)).unwrap();
        assert_eq!(seen.as_ref().map(|seen| &*seen.0[0]), shown, "{host}");
        assert!(seen.is_none_or(|seen| seen.2.as_deref() == Some(b"h2") && !seen.3));
    }
}

#[test]
fn callers_of_any_age_are_let_in_and_come_back_cheaply() {
    let certificate = certificate(&["a.test"]);
    let tls = server(vec![site(Some("a.test"), vec![certificate.clone()])], Alpn::Http, None).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = client(version, &[]);
        let (names, spoken, alpn, resumed) = block_on(call(&tls, &config, "a.test")).unwrap().unwrap();
        assert_eq!((&*names[0], spoken, alpn, resumed), ("a.test", version.version, None, false));
        assert!(block_on(call(&tls, &config, "a.test")).unwrap().unwrap().3, "a session is resumed");
        assert_eq!(block_on(call(&tls, &config, "b.test")).unwrap(), None, "nothing is shown for other hosts");
    }
    let seen = block_on(call(&tls, &client(&rustls::version::TLS13, &["acme-tls/1"]), "a.test")).unwrap();
    assert_eq!(seen, None, "nothing in common to speak");
    // What isn't HTTP may be called what it likes.
    let opaque = server(vec![site(None, vec![certificate])], Alpn::Any, None).unwrap();
    let seen = block_on(call(&opaque, &client(&rustls::version::TLS13, &["postgresql"]), "a.test")).unwrap();
    assert_eq!(seen.unwrap().2, None);
}

#[test]
fn a_session_goes_on_with_whoever_shows_the_same_on_the_same_terms_and_with_nobody_else() {
    let (chain, key) = pem(&["*.test"]);
    let read = || Certificate::from_pem(&chain, &key).unwrap();
    let shows = |sites, alpn| server(sites, alpn, None).unwrap();
    let usual = || shows(vec![site(Some("a.test"), vec![read()]), site(Some("b.test"), vec![read()])], Alpn::Http);
    let others = [
        ("another certificate", shows(vec![site(Some("a.test"), vec![certificate(&["*.test"])])], Alpn::Http)),
        ("one host only", shows(vec![site(Some("a.test"), vec![read()])], Alpn::Http)),
        ("no HTTP", shows(vec![site(Some("a.test"), vec![read()]), site(Some("b.test"), vec![read()])], Alpn::Any)),
    ];
    // As two processes have it that read the same Secret.
    let (here, there) = (usual(), usual());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let shared = version.version == ProtocolVersion::TLSv1_3;
        let comes_back = |tls: &ServerTls, host: &str| {
            let config = client(version, &["h2"]);
            assert!(!block_on(call(&here, &config, "a.test")).unwrap().unwrap().3);
            block_on(call(tls, &config, host)).unwrap().unwrap().3
        };
        assert!(comes_back(&here, "a.test"));
        assert_eq!(comes_back(&there, "a.test"), shared, "{version:?}: a ticket of TLS 1.2 stays with its process");
        for (terms, tls) in &others {
            assert!(!comes_back(tls, "a.test"), "{version:?}, {terms}");
        }
    }
}

/// A caller that keeps what it's given for one host, and offers it to another.
#[derive(Debug)]
struct Mixed(Arc<dyn rustls::client::ClientSessionStore>);

fn one() -> ServerName<'static> {
    ServerName::try_from("one.test").unwrap()
}

impl rustls::client::ClientSessionStore for Mixed {
    fn set_kx_hint(&self, _: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(one(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(&one())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: rustls::client::Tls12ClientSessionValue) {
        self.0.set_tls12_session(one(), session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&one())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&one());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, session: rustls::client::Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(one(), session);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&one())
    }
}

#[test]
fn a_ticket_of_one_host_is_none_for_another() {
    let tls = server(vec![site(None, vec![certificate(&["*.test"])])], Alpn::Http, None).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = (*client(version, &[])).clone();
        let sessions = Mixed(Arc::new(rustls::client::ClientSessionMemoryCache::new(8)));
        config.resumption = rustls::client::Resumption::store(Arc::new(sessions));
        let config = Arc::new(config);
        let resumed = |host: &str| block_on(call(&tls, &config, host)).unwrap().unwrap().3;
        assert_eq!(["a.test", "a.test", "b.test"].map(resumed), [false, true, false], "{version:?}");
    }
}

#[test]
fn what_is_no_certificate_with_its_key_is_refused() {
    let ((chain, key), (other, _)) = (pem(&["a.test"]), pem(&["b.test"]));
    let refused = |chain: &str, key: &str| Certificate::from_pem(chain, key).unwrap_err().to_string();
    assert_eq!(refused(&other, &key), "certificate and key do not belong together");
    assert_eq!(refused("", &key), "too many or too few certificates");
    assert_eq!(refused(&key, &key), "too many or too few certificates");
    assert_eq!(refused(&chain.repeat(11), &key), "too many or too few certificates");
    assert_eq!(refused(&chain, &chain), "malformed key PEM");
    assert_eq!(refused(&chain, ""), "malformed key PEM");
    let broken = chain.replacen("MII", "AII", 1);
    assert!(refused(&broken, &key).starts_with("malformed"));
    let whole = Certificate::from_pem(&format!("{chain}{other}"), &key).unwrap();
    assert_eq!(whole.names(), ["a.test"]);
    assert!(!format!("{whole:?}").contains("PRIVATE"));
}
