// SPDX-License-Identifier: Apache-2.0
//! Callers from outside who prove to a gateway who they are (`spec.tls.frontend`): curl and openssl with certificates of
//! their own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Program, file, free_port, until};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/peers/http3.py");
const HOST: &str = "www.shop.test";

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate, and its key.
struct Pair {
    chain: String,
    key: String,
}

fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

impl Authority {
    fn sign(&self, make: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "partner");
        params.subject_alt_names = vec![SanType::URI("spiffe://partner.test/ns/a/sa/b".try_into().unwrap())];
        make(&mut params);
        Pair { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

fn block(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn bundle(name: &str, authorities: &[&Authority]) -> String {
    let pem: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n{}", block(&pem))
}

/// A gateway with an HTTPS listener at each port, and a route to `seen`, which tells what reaches it.
struct Edge {
    mesh: Mesh,
    ports: [u16; 3],
    ca: String,
    _seen: Program,
}

impl Edge {
    fn open() -> Self {
        let mesh = Mesh::up(&[]);
        let own = free_port().to_string();
        let seen = mesh.run(&["--name", "seen", "--port", &own], &["python3", PEER, "serve", &own]);
        mesh.ask_until("seen", "/", |answer| answer.status == 200);
        let key = KeyPair::generate().unwrap();
        let chain = CertificateParams::new(vec!["*.shop.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop-tls}}\ntype: kubernetes.io/tls\nstringData:\n  \
             tls.crt: |\n{}  tls.key: |\n{}",
            block(&chain),
            block(&key.serialize_pem())
        );
        mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret)]);
        let ca = file(&mesh, "trusted.pem", &chain);
        Self { mesh, ports: [free_port(), free_port(), free_port()], ca, _seen: seen }
    }

    fn apply(&self, document: &str) -> String {
        let output = self.mesh.cli(&["apply", "-f", &file(&self.mesh, "document.yaml", document)]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Applies the gateway; what is said of it.
    fn gateway(&self, frontend: &str) -> String {
        let listener = |(at, port): (usize, &u16)| {
            format!(
                "  - {{name: l{at}, port: {port}, protocol: HTTPS, hostname: '*.shop.test', tls: {{certificateRefs: [{{name: shop-tls}}]}}}}\n"
            )
        };
        let listeners: String = self.ports.iter().enumerate().map(listener).collect();
        let tls = if frontend.is_empty() { String::new() } else { format!("  tls: {{frontend: {{{frontend}}}}}\n") };
        self.apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public}}
spec:
  gatewayClassName: byrnie
{tls}  listeners:
{listeners}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: seen}}
spec:
  parentRefs: [{{name: public}}]
  rules: [{{backendRefs: [{{name: seen, port: 80}}]}}]
"
        ))
    }

    /// Files of a certificate and its key.
    fn files(&self, name: &str, pair: &Pair) -> [String; 2] {
        [("crt", &pair.chain), ("key", &pair.key)].map(|(end, text)| file(&self.mesh, &format!("{name}.{end}"), text))
    }

    /// What curl gets at a port: the status and the version, and what the program has seen; or why it gets nothing.
    fn curl(&self, port: u16, shown: Option<&[String; 2]>, more: &[&str]) -> (String, String) {
        let (resolve, url) = (format!("{HOST}:{port}:127.0.0.1"), format!("https://{HOST}:{port}/"));
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "20", "-w", "\n%{http_code} %{http_version}", "--cacert", &self.ca]);
        curl.args(["--resolve", &resolve]).args(more);
        if let Some([chain, key]) = shown {
            curl.args(["--cert", chain, "--key", key]);
        }
        let output = curl.arg(url).output().unwrap();
        if !output.status.success() {
            return (String::from_utf8_lossy(&output.stderr).into_owned(), String::new());
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (seen, status) = said.rsplit_once('\n').unwrap();
        (status.to_owned(), seen.to_owned())
    }

    /// What a caller is told of at a port by the program behind: the header in which its certificate is.
    fn told(&self, port: u16, shown: Option<&[String; 2]>, more: &[&str]) -> Option<String> {
        let (status, seen) = self.curl(port, shown, more);
        assert!(status.starts_with("200"), "{status}");
        let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
        seen.get("x-forwarded-client-cert").map(|told| told.as_str().unwrap().to_owned())
    }

    fn until(&self, port: u16, shown: Option<&[String; 2]>, wanted: &str) {
        let said = || self.curl(port, shown, &[]).0;
        until(wanted, said, || said() == wanted);
    }

    /// Until a caller is let in no more.
    fn until_refused(&self, port: u16, shown: Option<&[String; 2]>) {
        let said = || self.curl(port, shown, &[]).0;
        until("nobody is let in", said, || is_refused(&said()));
    }

    /// `TYPE STATUS REASON` of the conditions of a listener, and of the gateway.
    fn conditions(&self, listener: usize) -> [Vec<String>; 2] {
        let gateway = self.mesh.json(&["get", "gateway", "public"]);
        let status = &gateway["status"];
        [&status["listeners"][listener], status].map(|holder| {
            let word = |of: &serde_json::Value, field: &str| of[field].as_str().unwrap().to_owned();
            let one = |of| [word(of, "type"), word(of, "status"), word(of, "reason")].join(" ");
            holder["conditions"].as_array().unwrap().iter().map(one).collect()
        })
    }

    /// Handshakes that the edge has counted as failed.
    fn failed(&self) -> u64 {
        let proxies = self.mesh.json(&["proxies"]);
        let edge = proxies.as_array().unwrap().iter().find(|proxy| proxy["name"].as_str().unwrap().ends_with("/edge"));
        let admin = edge.unwrap()["admin"].as_str().unwrap().parse().unwrap();
        let metrics = mesh::http(admin, "localhost", "/metrics").unwrap().body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("byrnie_handshakes_failed_total "));
        line.unwrap().parse().unwrap()
    }
}

/// Whether curl failed otherwise than for want of a listener or of time: each way in which a server refuses a handshake has
/// codes of its own.
fn is_refused(said: &str) -> bool {
    said.contains("curl: (") && !["curl: (7)", "curl: (28)"].iter().any(|code| said.contains(code))
}

const AUTHORITIES: &str = "validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: partners}]}";

#[test]
fn callers_are_let_in_by_a_certificate_of_the_authorities_that_are_named_for_their_port() {
    let (edge, partners, others) = (Edge::open(), authority("partners"), authority("others"));
    let [main, other, open] = edge.ports;
    edge.apply(&format!("{}---\n{}", bundle("partners", &[&partners]), bundle("others", &[&others])));
    let frontend = format!(
        "default: {{{AUTHORITIES}}}, perPort: [{{port: {other}, tls: {{{}}}}}, {{port: {open}, tls: {{}}}}]",
        AUTHORITIES.replace("partners", "others")
    );
    assert_eq!(edge.gateway(&frontend), "");
    let good = edge.files("good", &partners.sign(|_| ()));
    let foreign = edge.files("foreign", &others.sign(|_| ()));
    let expired = edge.files("expired", &partners.sign(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)));
    for (port, shown) in [(main, Some(&good)), (other, Some(&foreign)), (open, None)] {
        edge.until(port, shown, "200 2");
    }
    let before = edge.failed();
    let mut refused = 0;
    for more in
        [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"], &["--http1.1"], &["--http1.1", "--tls-max", "1.2"]]
    {
        let version = if more.contains(&"--http1.1") { "200 1.1" } else { "200 2" };
        for (port, own, not) in [(main, &good, &foreign), (other, &foreign, &good)] {
            assert_eq!(edge.curl(port, Some(own), more).0, version, "{more:?}");
            for shown in [Some(not), Some(&expired), None] {
                let said = edge.curl(port, shown, more).0;
                assert!(is_refused(&said), "{more:?} {shown:?}: {said}");
                refused += 1;
            }
        }
        assert_eq!(edge.curl(open, None, more).0, version);
    }
    assert_eq!(edge.failed() - before, refused, "each is counted");
    let [listener, gateway] = edge.conditions(0);
    assert!(listener.contains(&"ResolvedRefs True ResolvedRefs".to_owned()), "{listener:?}");
    assert!(!gateway.iter().any(|condition| condition.contains("Insecure")), "{gateway:?}");

    for (port, who) in [(main, "partners"), (other, "others")] {
        let explained = edge.mesh.ok(&["explain", &format!("GET https://{HOST}:{port}/"), "--from", "edge"]);
        let said = format!("only callers with a certificate of ConfigMap/default/{who} are let in");
        assert!(explained.contains(&said), "{explained}");
    }

    // The program behind is told what was proven, and nothing that a caller only says.
    let forged = ["-H", "x-forwarded-client-cert: Hash=0", "-H", "x_forwarded_client_cert: Hash=0"];
    let told = edge.told(main, Some(&good), &forged).unwrap();
    let (hash, rest) = told.strip_prefix("Hash=").unwrap().split_once(';').unwrap();
    assert_eq!(rest, "Subject=\"CN=partner\";URI=spiffe://partner.test/ns/a/sa/b");
    let openssl = ["x509", "-in", &good[0], "-noout", "-fingerprint", "-sha256"];
    let printed = String::from_utf8(Command::new("openssl").args(openssl).output().unwrap().stdout).unwrap();
    let fingerprint = printed.trim().rsplit_once('=').unwrap().1;
    assert_eq!(hash, fingerprint.replace(':', "").to_lowercase());
    assert_eq!(edge.told(open, None, &forged), None);
    assert_eq!(edge.told(open, Some(&good), &forged), None, "it isn't asked for there");
    // Who may call what is decided by the edge's identity, whatever its callers have proven.
    edge.mesh.ok(&["delete", "accesspolicy", "edge", "-n", "byrnie"]);
    edge.until(main, Some(&good), "403 2");
}

#[test]
fn a_ticket_lets_nobody_in_who_has_nothing_to_show() {
    let (edge, partners) = (Edge::open(), authority("partners"));
    let [main, _, open] = edge.ports;
    edge.apply(&bundle("partners", &[&partners]));
    edge.gateway("");
    edge.until(main, None, "200 2");
    let session = file(&edge.mesh, "session.pem", "");
    // What openssl says of a request at a port, by a session that is kept or taken up again.
    let openssl = |port: u16, more: &[&str]| {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", "-servername", HOST, "-connect", &format!("127.0.0.1:{port}")]).args(more);
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}:{port}\r\nconnection: close\r\n\r\n");
        // A server that has refused the handshake takes nothing.
        let _ = client.stdin.take().unwrap().write_all(request.as_bytes());
        let output = client.wait_with_output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let frontend = format!("default: {{{AUTHORITIES}}}, perPort: [{{port: {open}, tls: {{}}}}]");
        edge.gateway("");
        edge.until(main, None, "200 2");
        // Before it's asked for, at the port itself, a ticket is given and holds.
        assert!(openssl(main, &[version, "-sess_out", &session]).contains("200 OK"));
        assert!(openssl(main, &[version, "-sess_in", &session]).contains("200 OK"));
        edge.gateway(&frontend);
        edge.until_refused(main, None);
        let said = openssl(main, &[version, "-sess_in", &session]);
        assert!(!said.contains("200 OK"), "{version}: {said}");
        // One of another port, where nothing is asked for.
        assert!(openssl(open, &[version, "-sess_out", &session]).contains("200 OK"));
        let said = openssl(main, &[version, "-sess_in", &session]);
        assert!(!said.contains("200 OK"), "{version}: {said}");
    }
}

#[test]
fn whose_word_counts_may_change_and_without_any_nobody_is_let_in() {
    let (mut edge, first, second) = (Edge::open(), authority("first"), authority("second"));
    let [main, other, _] = edge.ports;
    let one = edge.files("one", &first.sign(|_| ()));
    let two = edge.files("two", &second.sign(|_| ()));
    // The authorities aren't there yet: the ports are, and let nobody in.
    let frontend = format!("default: {{{AUTHORITIES}}}");
    assert!(edge.gateway(&frontend).contains("BYR-C101"));
    until("the port is open", String::new, || TcpStream::connect(("127.0.0.1", main)).is_ok());
    let unprovable = |edge: &Edge| {
        for port in [main, other] {
            for shown in [Some(&one), Some(&two), None] {
                let said = edge.curl(port, shown, &[]).0;
                assert!(is_refused(&said), "{said}");
            }
        }
        let [listener, _] = edge.conditions(0);
        for condition in [
            "Accepted False NoValidCACertificate",
            "Programmed False Invalid",
            "ResolvedRefs False InvalidCACertificateRef",
        ] {
            assert!(listener.contains(&condition.to_owned()), "{listener:?}");
        }
        assert!(edge.mesh.ok(&["status"]).contains("BYR-C101"));
    };
    unprovable(&edge);

    edge.apply(&bundle("partners", &[&first]));
    edge.until(main, Some(&one), "200 2");
    edge.until(other, Some(&one), "200 2");
    assert!(is_refused(&edge.curl(main, Some(&two), &[]).0));
    // Others are believed in their place, and then both.
    edge.apply(&bundle("partners", &[&second]));
    edge.until(main, Some(&two), "200 2");
    edge.until(other, Some(&two), "200 2");
    for port in [main, other] {
        assert!(is_refused(&edge.curl(port, Some(&one), &[]).0));
    }
    edge.apply(&bundle("partners", &[&first, &second]));
    edge.until(main, Some(&one), "200 2");
    assert_eq!(edge.curl(main, Some(&two), &[]).0, "200 2");
    // What is no bundle changes nothing.
    let broken = bundle("partners", &[&first]).replacen("MII", "AII", 1);
    let refused = edge.mesh.cli(&["apply", "-f", &file(&edge.mesh, "broken.yaml", &broken)]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("BYR-C067"), "{refused:?}");
    assert_eq!(edge.curl(main, Some(&two), &[]).0, "200 2");

    // A process that takes over, and one that begins anew, ask as well.
    edge.mesh.ok(&["upgrade", "mesh", "--drain", "5s"]);
    edge.until(main, Some(&one), "200 2");
    assert!(is_refused(&edge.curl(main, None, &[]).0));
    drop(edge.mesh.up.take());
    edge.mesh.start(&[]);
    let own = free_port().to_string();
    edge._seen = edge.mesh.run(&["--name", "seen", "--port", &own], &["python3", PEER, "serve", &own]);
    edge.until(main, Some(&one), "200 2");
    assert!(is_refused(&edge.curl(main, None, &[]).0));

    edge.mesh.ok(&["delete", "configmap", "partners"]);
    edge.until_refused(main, Some(&one));
    edge.until_refused(other, Some(&one));
    unprovable(&edge);
}

#[test]
fn where_it_is_allowed_callers_that_prove_nothing_are_let_in_and_told_apart() {
    let (edge, partners) = (Edge::open(), authority("partners"));
    let [main, other, _] = edge.ports;
    edge.apply(&bundle("partners", &[&partners]));
    let lax = AUTHORITIES.replace("]}", "], mode: AllowInsecureFallback}");
    let warned = edge.gateway(&format!("default: {{{lax}}}, perPort: [{{port: {other}, tls: {{{AUTHORITIES}}}}}]"));
    assert!(warned.contains("BYR-C102"), "{warned}");
    let good = edge.files("good", &partners.sign(|_| ()));
    let foreign = edge.files("foreign", &authority("others").sign(|_| ()));
    let expired = edge.files("expired", &partners.sign(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)));
    edge.until(main, None, "200 2");
    edge.until(other, Some(&good), "200 2");
    for more in [&["--tlsv1.3"][..], &["--tls-max", "1.2"], &["--http1.1"]] {
        assert!(edge.told(main, Some(&good), more).unwrap().contains("CN=partner"));
        for shown in [Some(&foreign), Some(&expired), None] {
            assert_eq!(edge.told(main, shown, more), None, "nothing that isn't proven is told: {shown:?}");
        }
    }
    assert!(is_refused(&edge.curl(other, None, &[]).0), "each port by itself");
    let insecure = "InsecureFrontendValidationMode True ConfigurationChanged".to_owned();
    assert!(edge.conditions(0)[1].contains(&insecure));
    assert!(edge.mesh.ok(&["status"]).contains("BYR-C102"), "an operator who looks sees it too");
    // Where there is nobody whose word counts, that is no reason to let everybody in.
    edge.mesh.ok(&["delete", "configmap", "partners"]);
    edge.until_refused(main, None);
    edge.apply(&bundle("partners", &[&partners]));
    edge.until(main, None, "200 2");
    edge.gateway(&format!("default: {{{AUTHORITIES}}}"));
    edge.until_refused(main, None);
    assert!(!edge.conditions(0)[1].contains(&insecure));
}

#[test]
fn a_connection_takes_nothing_more_once_its_callers_certificate_has_ended() {
    let (edge, partners) = (Edge::open(), authority("partners"));
    let main = edge.ports[0];
    edge.apply(&bundle("partners", &[&partners]));
    edge.gateway(&format!("default: {{{AUTHORITIES}}}"));
    edge.until(main, Some(&edge.files("good", &partners.sign(|_| ()))), "200 2");
    // Long enough for a busy machine to begin with.
    let end = SystemTime::now() + Duration::from_secs(15);
    let pair = partners.sign(|params| params.not_after = end.into());
    let mut kept = Kept::open(&edge, main, Some(&pair));
    let mut answers = 0;
    let is_over = || {
        let answered = kept.is_answered();
        answers += usize::from(answered);
        !answered
    };
    until("its connection is closed", String::new, is_over);
    // A certificate names seconds.
    assert!(answers > 0 && SystemTime::now() + Duration::from_secs(1) >= end, "{answers} answers");
}

#[test]
fn a_connection_takes_nothing_more_once_others_are_let_in_than_its_caller() {
    let (edge, first, second) = (Edge::open(), authority("first"), authority("second"));
    let [main, other, _] = edge.ports;
    let good = first.sign(|_| ());
    let files = edge.files("good", &good);
    edge.apply(&bundle("partners", &[&first]));
    edge.gateway(&format!("default: {{}}, perPort: [{{port: {other}, tls: {{{AUTHORITIES}}}}}]"));
    edge.until(main, None, "200 2");
    edge.until(other, Some(&files), "200 2");
    let (mut unasked, mut known) = (Kept::open(&edge, main, None), Kept::open(&edge, other, Some(&good)));
    assert!(unasked.is_answered() && known.is_answered());
    edge.gateway(&format!("default: {{{AUTHORITIES}}}"));
    edge.until_refused(main, None);
    let mut last = String::new();
    until("who was never asked is shut out", String::new, || {
        last = unasked.ask();
        last != "HTTP/1.1 200"
    });
    assert_eq!(last, "HTTP/1.1 421", "it may come again");
    assert!(known.is_answered(), "what its port asks for is what it was");
    // Who is let in besides changes nothing for who was.
    let another = edge.files("another", &second.sign(|_| ()));
    edge.apply(&bundle("partners", &[&first, &second]));
    edge.until(other, Some(&another), "200 2");
    assert!(known.is_answered());
    edge.apply(&bundle("partners", &[&second]));
    edge.until_refused(other, Some(&files));
    until("for whom nobody vouches any more is shut out", String::new, || !known.is_answered());
}

/// A connection of TLS that is kept open between requests.
struct Kept {
    stream: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    request: String,
}

impl Kept {
    fn open(edge: &Edge, port: u16, pair: Option<&Pair>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&edge.ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match pair {
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let session = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(HOST).unwrap()).unwrap();
        let stream = rustls::StreamOwned::new(session, TcpStream::connect(("127.0.0.1", port)).unwrap());
        stream.sock.set_read_timeout(Some(mesh::PATIENCE)).unwrap();
        Self { stream, request: format!("HEAD / HTTP/1.1\r\nhost: {HOST}:{port}\r\n\r\n") }
    }

    /// Asks once more; whether it's answered well.
    fn is_answered(&mut self) -> bool {
        self.ask() == "HTTP/1.1 200"
    }

    /// Asks once more; the version and status of the answer, or nothing.
    fn ask(&mut self) -> String {
        let mut answer = Vec::new();
        let mut said = self.stream.write_all(self.request.as_bytes());
        while said.is_ok() && !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            said = self.stream.read_exact(&mut byte);
            answer.push(byte[0]);
        }
        let whole = if said.is_ok() { &answer[..12] } else { &[] };
        String::from_utf8_lossy(whole).into_owned()
    }
}
