// SPDX-License-Identifier: Apache-2.0
//! Calls that leave the mesh, to real hosts outside it: who may make them, and whom they reach.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "outside/chosen.rs"]
mod chosen;
mod mesh;

use mesh::{Mesh, file, free_port, until};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// An authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // OpenSSL takes one whose name is its issuer's for signed by itself.
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

/// A host outside, on one port: answers each request with its head. It ends when it's dropped.
struct Host {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Host {
    /// Under TLS, with a certificate for these names.
    fn new(port: u16, authority: &Authority, names: &[&str]) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], port)), authority, names)
    }

    /// The same, at an address of this machine.
    fn at(address: SocketAddr, authority: &Authority, names: &[&str]) -> Self {
        Self::secure(address, (authority, names), &[], answer)
    }

    /// The same with other answers.
    fn secure(
        address: SocketAddr,
        (authority, names): (&Authority, &[&str]),
        speaks: &[&str],
        serve: impl Fn(&mut rustls::StreamOwned<rustls::ServerConnection, TcpStream>) + Clone + Send + 'static,
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let signed = CertificateParams::new(names).unwrap().signed_by(&key, &authority.issuer).unwrap();
        let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![signed.der().clone()], private)
                .unwrap();
        config.alpn_protocols = speaks.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let config = Arc::new(config);
        Self::serving(address, move |tcp| {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            serve(&mut rustls::StreamOwned::new(session, tcp));
        })
    }

    fn serving(address: SocketAddr, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let (listener, over) = (TcpListener::bind(address).unwrap(), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&over);
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                std::thread::spawn(move || serve(tcp));
            }
        });
        Self { address, over }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(std::net::TcpStream::connect(self.address));
    }
}

/// Answers one request with its own head, then closes.
fn answer(stream: &mut (impl Read + Write)) {
    let mut asked = Vec::new();
    let mut byte = [0];
    while !asked.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => asked.push(byte[0]),
            _ => return,
        }
    }
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", asked.len());
    let _ = stream.write_all(&[head.as_bytes(), &asked].concat()).and_then(|()| stream.flush());
}

/// The bank, at a port of `localhost`: HTTP under TLS at 80, and whatever the program speaks itself at 443.
fn bank(port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: bank}}
spec:
  type: ExternalName
  externalName: localhost
  ports:
  - {{name: api, port: 80, targetPort: {port}}}
  - {{name: raw, port: 443, targetPort: {port}, appProtocol: tcp}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: bank}}
spec:
  targetRefs: [{{group: '', kind: Service, name: bank, sectionName: api}}]
  validation: {{hostname: api.bank.test, caCertificateRefs: [{{group: '', kind: ConfigMap, name: bank-ca}}]}}
"
    )
}

fn bundle(pem: &str) -> String {
    let block: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: bank-ca}}\ndata:\n  ca.crt: |\n{block}")
}

#[test]
fn calls_leave_the_mesh_to_hosts_that_prove_who_they_are_if_a_policy_allows_it() {
    let mesh = Mesh::up(&[]);
    let (trusted, other, port) = (authority(), authority(), free_port());
    let told = mesh.cli(&["apply", "-f", &file(&mesh, "bank.yaml", &bank(port))]);
    let warned = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && warned.contains("BYR-C067") && !warned.contains("BYR-C064"), "{warned}");

    // Without the authorities that the policy names nobody could tell who answers: nothing is sent.
    let host = Host::new(port, &trusted, &["api.bank.test", "localhost"]);
    let refused = mesh.ask_until("bank", "/x", |answer| answer.status == 500);
    assert!(refused.body.contains("ConfigMap/default/bank-ca, which is absent"), "{}", refused.body);
    let apply = |pem: &str| mesh.ok(&["apply", "-f", &file(&mesh, "ca.yaml", &bundle(pem))]);
    apply(&other.pem);
    mesh.ask_until("bank", "/x", |answer| answer.status == 502);
    apply(&trusted.pem);
    let seen = mesh.ask_until("bank", "/x?y=1", |answer| answer.status == 200).body.to_ascii_lowercase();
    assert!(seen.starts_with("get /x?y=1 ") && seen.contains(&format!("host: localhost:{port}\r\n")), "{seen}");
    for word in ["x-byrnie", "spiffe://", "forwarded-client-identity"] {
        assert!(!seen.contains(word), "{word} left the mesh:\n{seen}");
    }
    let torn = bundle("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----");
    let unfit = mesh.cli(&["apply", "-f", &file(&mesh, "torn.yaml", &torn)]);
    let said = String::from_utf8_lossy(&unfit.stderr).into_owned() + &String::from_utf8_lossy(&unfit.stdout);
    assert!(!unfit.status.success() && said.contains("BYR-C067"), "{said}");

    // A workload may only once a policy says so; what it speaks itself reaches the host as it is.
    let script = "while :; do curl -s -m 9 -o /dev/null -w 'asked %{http_code}\\n' $BYRNIE_BANK_URL/; \
        curl -s -m 9 -o /dev/null -w 'through %{http_code}\\n' --noproxy '' -x $HTTP_PROXY --cacert \"$0\" https://localhost/; done";
    let args = ["--name", "teller", "--port", "1", "--uses", "bank", "--http-proxy"];
    let teller = mesh.run(&args, &["bash", "-c", script, &file(&mesh, "trusted.pem", &trusted.pem)]);
    teller.wait_for_line("asked 403");
    let why = mesh.ok(&["explain", "GET http://bank.mesh.localhost/", "--from", "edge"]);
    assert!(why.contains(&format!("localhost:{port} outside the mesh (TLS, verified as api.bank.test)")), "{why}");
    let denied = mesh.cli(&["explain", "GET http://bank/", "--from", "teller"]);
    let denied = String::from_utf8_lossy(&denied.stdout).into_owned();
    assert!(denied.contains("byrnie allow teller bank"), "{denied}");
    mesh.ok(&["allow", "teller", "bank"]);
    teller.wait_for_line("asked 200");
    teller.wait_for_line("through 200");

    // A host that is gone is told as such, and found again when it's back.
    drop(host);
    let gone = mesh.ask_until("bank", "/", |answer| answer.status == 503);
    assert!(gone.body.contains("connect failed"), "{}", gone.body);
    let _host = Host::new(port, &trusted, &["api.bank.test"]);
    mesh.ask_until("bank", "/", |answer| answer.status == 200);

    // Without the policy, and no port of a program's own, its requests would go in the clear: that is told.
    mesh.ok(&["delete", "backendtlspolicy", "bank"]);
    let outside = bank(port).split("---").next().unwrap().replace("externalName: localhost", "externalName: bank.test");
    let told = mesh.cli(&["apply", "-f", &file(&mesh, "bare.yaml", &outside)]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("BYR-C064"), "{told:?}");
    until(
        "nobody finds it",
        || mesh.ok(&["status"]),
        || mesh.ask("bank", "/").is_ok_and(|answer| answer.status == 503),
    );
}

#[test]
fn a_program_reaches_the_hosts_below_a_domain_by_tls_of_its_own() {
    let mesh = Mesh::up(&[]);
    let (trusted, port) = (authority(), free_port());
    let _host = Host::new(port, &trusted, &["*.bank.localhost", "other.localhost"]);
    let banks = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: banks}}
spec:
  type: ExternalName
  externalName: '*.bank.localhost'
  ports: [{{name: tls, port: 443, targetPort: {port}, appProtocol: tcp}}]
"
    );
    mesh.ok(&["apply", "-f", &file(&mesh, "banks.yaml", &banks)]);
    // The second names a host by its tunnel, and another one by its TLS.
    let script = "ask() { curl -s -m 9 -o /dev/null -w \"$1 %{http_code}\\n\" --noproxy '' -x $HTTP_PROXY --cacert \"$0\" $2 $3 $4; }; \
        while :; do ask well https://one.bank.localhost/; \
        ask other --connect-to other.localhost:443:one.bank.localhost:443 https://other.localhost/; done";
    let args = ["--name", "teller", "--port", "1", "--uses", "banks", "--http-proxy"];
    let teller = mesh.run(&args, &["bash", "-c", script, &file(&mesh, "trusted.pem", &trusted.pem)]);
    teller.wait_for_line("well 000");
    mesh.ok(&["allow", "teller", "banks"]);
    teller.wait_for_line("well 200");
    let asked = || teller.log().lines().filter(|line| line.starts_with("other ")).count();
    let before = asked();
    until("the other was asked again", || teller.log(), || asked() > before + 1);
    assert!(!teller.log().contains("other 200"), "{}", teller.log());
}

/// `legacy`, at addresses: HTTP at 80, and bytes at 81.
fn legacy(port: u16, addresses: &[&str]) -> String {
    let endpoint = |address: &&str| format!("  - {{addresses: [{address}]}}\n");
    let endpoints: String = addresses.iter().map(endpoint).collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: legacy}}
spec:
  ports: [{{name: web, port: 80}}, {{name: raw, port: 81, appProtocol: tcp}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: legacy-1, labels: {{kubernetes.io/service-name: legacy}}}}
addressType: IPv4
ports: [{{name: web, port: {port}}}, {{name: raw, port: {port}}}]
endpoints:
{endpoints}"
    )
}

/// A host outside that says in each answer at which address it was asked.
fn plain(address: &str, port: u16) -> Host {
    let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    Host::serving(address, |mut tcp| {
        let here = tcp.local_addr().unwrap().ip().to_string();
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{here}", here.len());
        let asked = tcp.read(&mut [0; 4096]);
        let _ = asked.and_then(|_| tcp.write_all(head.as_bytes()));
    })
}

#[test]
fn addresses_of_slices_are_reached_by_those_whom_a_policy_allows_and_one_that_fails_is_left_out() {
    let mesh = Mesh::up(&[]);
    let port = free_port();
    let (one, two) = (plain("127.0.0.1", port), plain("127.0.0.2", port));
    mesh.ok(&["apply", "-f", &file(&mesh, "legacy.yaml", &legacy(port, &["127.0.0.1", "127.0.0.2"]))]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    let mut reached = std::collections::BTreeSet::new();
    until(
        "both are asked",
        || mesh.ok(&["status"]),
        || {
            reached.insert(mesh.ask("legacy", "/").unwrap().body);
            reached.len() == 2
        },
    );
    let why = mesh.ok(&["explain", "GET http://legacy.mesh.localhost/", "--from", "edge"]);
    for words in [format!("127.0.0.1:{port} at"), format!("127.0.0.2:{port} at"), "outside the mesh".to_owned()] {
        assert!(why.contains(&words), "{words} in {why}");
    }
    let table = mesh.ok(&["get", "endpointslices"]);
    assert!(table.contains("legacy") && table.contains("127.0.0.1,127.0.0.2"), "{table}");

    // A workload may only once a policy says so, whatever it speaks.
    let script = "while :; do curl -s -m 9 -o /dev/null -w 'asked %{http_code}\\n' $BYRNIE_LEGACY_URL/; \
        curl -s -m 9 -o /dev/null -w 'through %{http_code}\\n' --noproxy '' -p -x $HTTP_PROXY http://legacy:81/; done";
    let args = ["--name", "teller", "--port", "1", "--uses", "legacy", "--http-proxy"];
    let teller = mesh.run(&args, &["bash", "-c", script]);
    teller.wait_for_line("asked 403");
    teller.wait_for_line("through 000");
    mesh.ok(&["allow", "teller", "legacy"]);
    teller.wait_for_line("asked 200");
    teller.wait_for_line("through 200");

    // Nobody notices that one of them is gone, nor that they move.
    drop(one);
    for _ in 0..20 {
        let answer = mesh.ask("legacy", "/").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "127.0.0.2"));
    }
    let _third = plain("127.0.0.3", port);
    mesh.ok(&["apply", "-f", &file(&mesh, "moved.yaml", &legacy(port, &["127.0.0.3"]))]);
    mesh.ask_until("legacy", "/", |answer| answer.body == "127.0.0.3");
    drop(two);
    assert_eq!(mesh.ask("legacy", "/").unwrap().body, "127.0.0.3");
    mesh.ok(&["delete", "endpointslice", "legacy-1"]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 503);
}

/// A host outside that takes every request and answers none, as a program that is stopped does; and how many it took.
fn mute(address: &str, port: u16) -> (Host, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let host = Host::serving(SocketAddr::new(address.parse::<IpAddr>().unwrap(), port), move |mut tcp| {
        let mut some = [0; 4096];
        if tcp.read(&mut some).is_ok_and(|count| count > 0) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        while tcp.read(&mut some).is_ok_and(|count| count > 0) {}
    });
    (host, taken)
}

/// One POST to `legacy` by the edge, given up after more time than another address would be waited for; the body of its answer.
fn post(edge: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(edge).ok()?;
    stream.set_read_timeout(Some(std::time::Duration::from_millis(1200))).ok()?;
    let asked =
        "POST / HTTP/1.1\r\nHost: legacy.default.mesh.localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(asked.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// `legacy` is at two addresses, of which one takes requests and answers none: that costs no request that may be repeated, and it's left
/// out.
fn the_mute_one_is_left_out(mesh: &Mesh, text: &str, well: &str, taken: &AtomicUsize) {
    let rule = "---\napiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: legacy}\nspec:\n  \
        targetRefs: [{group: '', kind: Service, name: legacy}]\n  balance: RoundRobin\n  \
        eject: {consecutiveErrors: 2, for: 60s}\n";
    mesh.ok(&["apply", "-f", &file(mesh, "legacy.yaml", &(text.to_owned() + rule))]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    let count = || taken.load(Ordering::SeqCst);
    let asks = || {
        let before = count();
        for _ in 0..20 {
            assert_eq!(mesh.ask("legacy", "/").unwrap().body, well);
        }
        count() - before
    };
    until("it's left out", || count().to_string(), || asks() == 0 && count() > 0);
}

#[test]
fn an_address_of_a_host_that_takes_requests_and_answers_none_costs_none_that_may_be_repeated_and_is_left_out() {
    // Names below `localhost` have two addresses, where the machine has both kinds.
    let Ok(_six) = TcpListener::bind("[::1]:0") else { return };
    let (mesh, port) = (Mesh::up(&[]), free_port());
    let ((_silent, taken), _well) = (mute("127.0.0.1", port), plain("::1", port));
    let host = at_host(port).replace("externalName: localhost", "externalName: legacy.localhost");
    the_mute_one_is_left_out(&mesh, &host, "::1", &taken);
}

#[test]
fn an_address_that_takes_requests_and_answers_none_costs_none_that_may_be_repeated_and_is_left_out() {
    let (mesh, port) = (Mesh::up(&[]), free_port());
    let (_well, (_silent, taken)) = (plain("127.0.0.1", port), mute("127.0.0.2", port));
    the_mute_one_is_left_out(&mesh, &legacy(port, &["127.0.0.1", "127.0.0.2"]), "127.0.0.1", &taken);
    let count = |taken: &AtomicUsize| taken.load(Ordering::SeqCst);

    // What may not be repeated is given up by its callers, and that is learnt from too.
    let (_other, taken) = mute("127.0.0.3", port);
    mesh.ok(&["apply", "-f", &file(&mesh, "moved.yaml", &legacy(port, &["127.0.0.1", "127.0.0.3"]))]);
    let edge = SocketAddr::from(([127, 0, 0, 1], mesh.port("edge")));
    let posts = || {
        let before = count(&taken);
        let answered = std::thread::scope(|scope| {
            let posts: Vec<_> = (0..16).map(|_| scope.spawn(|| post(edge))).collect();
            posts.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        answered.iter().all(|body| body.as_deref() == Some("127.0.0.1")) && count(&taken) == before
    };
    until("the other is asked", || count(&taken).to_string(), || !posts() && count(&taken) > 0);
    until("it's left out too", || count(&taken).to_string(), posts);
}

/// How `legacy` proves who it is.
const SECURE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: legacy}
spec:
  targetRefs: [{group: '', kind: Service, name: legacy, sectionName: web}]
  validation: {hostname: legacy.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: bank-ca}]}
";

const BY_HTTP: &str = "http: {path: /healthz}";
/// The service after which a check by gRPC asks.
const CHECKED: &str = "legacy.Health";

/// Answers whatever it's asked by where it is, but may say of itself that it can't work, and does if it's asked by another name.
fn confess(stream: &mut (impl Read + Write), here: &str, sick: &AtomicBool) {
    let mut asked = [0; 4096];
    let count = stream.read(&mut asked).unwrap_or(0);
    let asked = String::from_utf8_lossy(&asked[..count]).to_ascii_lowercase();
    let unwell = sick.load(Ordering::SeqCst) || !asked.contains(&format!("host: {here}:"));
    let status = if asked.starts_with("get /healthz ") && unwell { "500 Sick" } else { "200 OK" };
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{here}", here.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.flush());
}

/// How `legacy` is checked.
fn checks(check: &str) -> String {
    format!(
        "---\napiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: legacy}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: legacy}}]\n  \
         balance: RoundRobin\n  \
         endpoints: {{healthCheck: {{{check}, interval: 1s, unhealthyThreshold: 2}}}}\n"
    )
}

/// Two addresses, of which the second fails its check for a while.
fn one_fails_its_check(check: &str, more: &str, host: impl Fn(SocketAddr, Arc<AtomicBool>) -> Host) {
    let mesh = Mesh::up(&[]);
    let (port, sick) = (free_port(), Arc::new(AtomicBool::new(false)));
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), port);
    let _one = host(at("127.0.0.1"), Arc::default());
    let _two = host(at("127.0.0.2"), Arc::clone(&sick));
    let text = legacy(port, &["127.0.0.1", "127.0.0.2"]) + &checks(check) + more;
    mesh.ok(&["apply", "-f", &file(&mesh, "legacy.yaml", &text)]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    let reached = || {
        let answers = (0..20).map(|_| mesh.ask("legacy", "/").unwrap());
        let bodies = answers.inspect(|answer| assert_eq!(answer.status, 200)).map(|answer| answer.body);
        bodies.collect::<std::collections::BTreeSet<String>>()
    };
    until("both are asked", || mesh.ok(&["status"]), || reached().len() == 2);
    sick.store(true, Ordering::SeqCst);
    until("one is left out", || mesh.ok(&["status"]), || reached().len() == 1);
    assert_eq!(reached(), ["127.0.0.1".to_owned()].into());
    sick.store(false, Ordering::SeqCst);
    until("it's back", || mesh.ok(&["status"]), || reached().len() == 2);
}

#[test]
fn addresses_of_slices_that_fail_their_check_are_left_out_though_they_answer() {
    one_fails_its_check(BY_HTTP, "", |address, sick| {
        let here = address.ip().to_string();
        Host::serving(address, move |mut tcp| confess(&mut tcp, &here, &sick))
    });
}

#[test]
fn addresses_of_slices_are_checked_under_the_tls_that_their_policy_says() {
    let trusted = authority();
    one_fails_its_check(BY_HTTP, &format!("{SECURE}---\n{}", bundle(&trusted.pem)), |address, sick| {
        let here = address.ip().to_string();
        Host::secure(address, (&trusted, &["legacy.test"]), &[], move |stream| confess(stream, &here, &sick))
    });
}

/// A host under TLS that answers its check by gRPC.
fn by_grpc(address: SocketAddr, trusted: &Authority, here: String, sick: Arc<AtomicBool>) -> Host {
    Host::secure(address, (trusted, &["legacy.test"]), &["h2", "http/1.1"], move |stream| {
        // Calls are of HTTP/1.1, and only the check is of HTTP/2.
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                return;
            }
        }
        match stream.conn.alpn_protocol() {
            Some(b"h2") => drop(tell_health(stream, &sick)),
            _ => confess(stream, &here, &sick),
        }
    })
}

#[test]
fn addresses_of_slices_are_checked_by_grpc_under_the_tls_that_their_policy_says() {
    let trusted = authority();
    let check = format!("grpc: {{service: {CHECKED}}}");
    one_fails_its_check(&check, &format!("{SECURE}---\n{}", bundle(&trusted.pem)), |address, sick| {
        by_grpc(address, &trusted, address.ip().to_string(), sick)
    });
}

/// `legacy`, at a port of `localhost`.
fn at_host(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: legacy}}\nspec:\n  type: ExternalName\n  externalName: localhost\n  \
         ports: [{{name: web, port: 80, targetPort: {port}}}]\n"
    )
}

/// A host that fails its check for a while: nothing is sent there then, and all once it does well again.
fn a_host_fails_its_check(check: &str, more: &str, host: impl Fn(SocketAddr, Arc<AtomicBool>) -> Host) {
    let mesh = Mesh::up(&[]);
    let (port, sick) = (free_port(), Arc::new(AtomicBool::new(false)));
    let _host = host(SocketAddr::from(([127, 0, 0, 1], port)), Arc::clone(&sick));
    let text = at_host(port) + &checks(check) + more;
    mesh.ok(&["apply", "-f", &file(&mesh, "legacy.yaml", &text)]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    sick.store(true, Ordering::SeqCst);
    let refused = mesh.ask_until("legacy", "/", |answer| answer.status == 503);
    let why = "no address of localhost passes its health check";
    assert!(refused.body.contains(why) && refused.body.contains("BYR-R003"), "{}", refused.body);
    sick.store(false, Ordering::SeqCst);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
}

#[test]
fn a_host_that_fails_its_check_by_its_own_name_is_not_asked_though_it_answers() {
    a_host_fails_its_check(BY_HTTP, "", |address, sick| {
        Host::serving(address, move |mut tcp| confess(&mut tcp, "localhost", &sick))
    });
}

#[test]
fn a_host_is_checked_by_http_and_by_grpc_under_the_tls_that_its_policy_says() {
    let trusted = authority();
    let more = format!("{SECURE}---\n{}", bundle(&trusted.pem));
    a_host_fails_its_check(BY_HTTP, &more, |address, sick| {
        Host::secure(address, (&trusted, &["legacy.test"]), &[], move |stream| confess(stream, "localhost", &sick))
    });
    a_host_fails_its_check(&format!("grpc: {{service: {CHECKED}}}"), &more, |address, sick| {
        by_grpc(address, &trusted, "localhost".to_owned(), sick)
    });
}

#[test]
fn a_host_where_nobody_listens_fails_its_check_and_is_asked_all_the_same_where_health_is_ignored() {
    let mesh = Mesh::up(&[]);
    let port = free_port();
    mesh.ok(&["apply", "-f", &file(&mesh, "legacy.yaml", &(at_host(port) + &checks("tcp: {}")))]);
    mesh.ask_until("legacy", "/", |answer| answer.body.contains("passes its health check"));
    let ignored = checks("tcp: {}").replace("endpoints: {", "endpoints: {panicBelow: 1%, ");
    mesh.ok(&["apply", "-f", &file(&mesh, "ignored.yaml", &ignored)]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 503 && answer.body.contains("connect failed"));
    mesh.ok(&["apply", "-f", &file(&mesh, "again.yaml", &checks("tcp: {}"))]);
    mesh.ask_until("legacy", "/", |answer| answer.body.contains("passes its health check"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let _host = Host::serving(address, |mut tcp| confess(&mut tcp, "localhost", &AtomicBool::new(false)));
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
}

#[test]
fn addresses_of_slices_prove_by_tls_who_they_are() {
    let mesh = Mesh::up(&[]);
    let (trusted, other, port) = (authority(), authority(), free_port());
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), port);
    let _true = Host::at(at("127.0.0.1"), &trusted, &["legacy.test"]);
    let _false = Host::at(at("127.0.0.2"), &other, &["legacy.test"]);
    let text = legacy(port, &["127.0.0.1", "127.0.0.2"]) + SECURE + "---\n" + &bundle(&trusted.pem);
    mesh.ok(&["apply", "-f", &file(&mesh, "legacy.yaml", &text)]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    // One that is somebody else is never asked, and another is in its place.
    for _ in 0..20 {
        assert_eq!(mesh.ask("legacy", "/").unwrap().status, 200);
    }
    mesh.ok(&["apply", "-f", &file(&mesh, "false.yaml", &legacy(port, &["127.0.0.2"]))]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 502);
}

/// A certificate for a caller and its key, as PEM, and what a host says that it was shown.
struct Shown {
    chain: String,
    key: String,
    mark: String,
}

impl Authority {
    fn caller(&self) -> Shown {
        let key = KeyPair::generate().unwrap();
        let signed =
            CertificateParams::new(vec!["mesh.test".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Shown { chain: signed.pem(), key: key.serialize_pem(), mark: mark(signed.der()) }
    }
}

/// What tells a certificate from others: its last bytes, which are of its signature.
fn mark(certificate: &CertificateDer<'_>) -> String {
    certificate.iter().rev().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn secret(chain: &str, key: &str) -> String {
    let block = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: own}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        block(chain),
        block(key)
    )
}

/// A host that lets in only callers with a certificate of `callers`. It speaks HTTP/1.1 and HTTP/2, keeps connections
/// open, and answers with what it was shown and the number of the request on its connection. Beside it: how many
/// connections it has taken.
fn strict(address: SocketAddr, own: &Authority, names: &[&str], callers: &Authority) -> (Host, Arc<AtomicUsize>) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let signed = CertificateParams::new(names).unwrap().signed_by(&key, &own.issuer).unwrap();
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(callers.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .build()
        .unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![signed.der().clone()], private)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (config, taken) = (Arc::new(config), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&taken);
    let host = Host::serving(address, move |tcp| {
        count.fetch_add(1, Ordering::SeqCst);
        let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::clone(&config)).unwrap(), tcp);
        // An error is the refusal of a caller, who is told why.
        while stream.conn.is_handshaking() {
            if stream.conn.complete_io(&mut stream.sock).is_err() {
                return;
            }
        }
        let shown = mark(&stream.conn.peer_certificates().unwrap()[0]);
        let _ = match stream.conn.alpn_protocol() {
            Some(b"h2") => answer_h2(&mut stream, &shown),
            _ => answer_all(&mut stream, &shown),
        };
    });
    (host, taken)
}

/// Answers requests of HTTP/1.1 without bodies, until the caller goes.
fn answer_all(stream: &mut (impl Read + Write), shown: &str) -> std::io::Result<()> {
    for number in 1.. {
        let (mut asked, mut byte) = (Vec::new(), [0]);
        while !asked.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            asked.push(byte[0]);
        }
        let body = format!("{shown} {number}");
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        stream.flush()?;
    }
    Ok(())
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// A frame of HTTP/2 (RFC 9113 4.1).
fn frame(kind: u8, flags: u8, id: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id, payload].concat()
}

/// Serves HTTP/2, of which this knows as much as it takes: `answer` says what follows a frame of this kind, on this stream and with this payload.
fn serve_h2(
    stream: &mut (impl Read + Write),
    mut answer: impl FnMut(u8, [u8; 4], &[u8]) -> Vec<u8>,
) -> std::io::Result<()> {
    const PREFACE: usize = 24;
    const SETTINGS: u8 = 4;
    stream.read_exact(&mut [0; PREFACE])?;
    stream.write_all(&frame(SETTINGS, 0, [0; 4], &[]))?;
    loop {
        stream.flush()?;
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload)?;
        let id = [head[5], head[6], head[7], head[8]];
        match (head[3], head[4] & 1) {
            (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, 1, id, &[]))?,
            (kind, _) => stream.write_all(&answer(kind, id, &payload))?,
        }
    }
}

/// The same of HTTP/2.
fn answer_h2(stream: &mut (impl Read + Write), shown: &str) -> std::io::Result<()> {
    let mut number = 0;
    serve_h2(stream, |kind, id, _| {
        if kind != HEADERS {
            return Vec::new();
        }
        number += 1;
        // 8 of HPACK's table is `:status: 200`; flags end the headers, and the stream.
        [frame(HEADERS, 4, id, &[0x88]), frame(DATA, 1, id, format!("{shown} {number}").as_bytes())].concat()
    })
}

/// Answers `grpc.health.v1.Health/Check` of the one service there is.
fn tell_health(stream: &mut (impl Read + Write), sick: &AtomicBool) -> std::io::Result<()> {
    const SERVING: u8 = 1;
    const NOT_SERVING: u8 = 2;
    serve_h2(stream, |kind, id, asked| {
        if kind != DATA || asked.is_empty() {
            return Vec::new();
        }
        assert!(asked.ends_with(CHECKED.as_bytes()), "{asked:?}");
        let status = if sick.load(Ordering::SeqCst) { NOT_SERVING } else { SERVING };
        // `:status: 200`, then literals of HPACK: 31 of its table is `content-type`.
        let head = [&[0x88, 0x0f, 0x10, 16][..], b"application/grpc"].concat();
        let trailers = [&[0, 11][..], b"grpc-status", &[1], b"0"].concat();
        let message = [0, 0, 0, 0, 2, 8, status];
        [frame(HEADERS, 4, id, &head), frame(DATA, 0, id, &message), frame(HEADERS, 5, id, &trailers)].concat()
    })
}

#[test]
fn a_host_that_asks_who_calls_is_shown_the_certificate_of_a_secret_and_nothing_leaves_without_it() {
    const HOSTS: [&str; 3] = ["bank", "ledger", "legacy"];
    let mesh = Mesh::up(&[]);
    let (trusted, callers, strangers, port) = (authority(), authority(), authority(), free_port());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (_host, taken) = strict(address, &trusted, &["api.bank.test"], &callers);
    let apply = |text: &str| mesh.ok(&["apply", "-f", &file(&mesh, "some.yaml", text)]);
    let all = |wanted: &dyn Fn(&mesh::Answer) -> bool| HOSTS.map(|host| mesh.ask_until(host, "/", wanted));
    // By HTTP/1.1, by HTTP/2, and at an address.
    let outside = |name: &str, protocol: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: ExternalName\n  externalName: localhost\n  \
             ports: [{{name: api, port: 80, targetPort: {port}, appProtocol: {protocol}}}]\n---\n"
        )
    };
    let policy = |options: &str| {
        let target = |host: &str| format!("{{group: '', kind: Service, name: {host}}}");
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: bank}}\nspec:\n  targetRefs: [{}]\n  \
             validation: {{hostname: api.bank.test, caCertificateRefs: [{{group: '', kind: ConfigMap, name: bank-ca}}]}}\n  \
             options: {{{options}}}\n",
            HOSTS.map(target).join(", ")
        )
    };
    let presenting = policy("mesh.byrnie.dev/client-certificate: own");
    let services = [outside("bank", "http"), outside("ledger", "kubernetes.io/h2c"), legacy(port, &["127.0.0.1"])];
    let text = services.concat() + "---\n" + &bundle(&trusted.pem) + "---\n" + &presenting;
    let told = mesh.cli(&["apply", "-f", &file(&mesh, "bank.yaml", &text)]);
    let warned = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && warned.contains("BYR-C069"), "{warned}");

    // Without the Secret nothing is sent, not even a handshake.
    for refused in all(&|answer| answer.status == 500) {
        assert!(refused.body.contains("names Secret/default/own, which is absent"), "{}", refused.body);
    }
    assert_eq!(taken.load(Ordering::SeqCst), 0);
    assert!(mesh.ok(&["status"]).contains("BYR-C069"), "{}", mesh.ok(&["status"]));

    // With it, connections are let in, and used again.
    let (first, second) = (callers.caller(), callers.caller());
    apply(&secret(&first.chain, &first.key));
    all(&|answer| answer.status == 200 && answer.body.contains(&format!("{} 3", first.mark)));
    let why = mesh.ok(&["explain", "GET http://bank.mesh.localhost/", "--from", "edge"]);
    assert!(why.contains("(TLS, verified as api.bank.test, shown Secret/default/own)"), "{why}");
    let unfit = mesh.cli(&["apply", "-f", &file(&mesh, "unfit.yaml", &secret(&first.chain, &second.key))]);
    let said = String::from_utf8_lossy(&unfit.stderr).into_owned() + &String::from_utf8_lossy(&unfit.stdout);
    assert!(!unfit.status.success() && said.contains("BYR-C058"), "{said}");

    // Once it's renewed no connection that was opened by the old one is used again.
    apply(&secret(&second.chain, &second.key));
    for host in HOSTS {
        let mut in_a_row = 0;
        until(
            "the new certificate is shown",
            || mesh.ok(&["status"]),
            || {
                let renewed = mesh.ask(host, "/").is_ok_and(|answer| answer.body.contains(&second.mark));
                in_a_row = if renewed { in_a_row + 1 } else { 0 };
                in_a_row == 20
            },
        );
    }

    // The host refuses a certificate that isn't of its callers, and callers without any.
    let stranger = strangers.caller();
    apply(&secret(&stranger.chain, &stranger.key));
    all(&|answer| answer.status == 503);
    apply(&secret(&first.chain, &first.key));
    all(&|answer| answer.body.contains(&first.mark));
    apply(&policy(""));
    all(&|answer| answer.status == 503);
    apply(&presenting);
    all(&|answer| answer.body.contains(&first.mark));
    mesh.ok(&["delete", "secret", "own"]);
    all(&|answer| answer.status == 500 && answer.body.contains("Secret/default/own"));

    // Nobody but the egress has seen a key.
    for shown in [&first, &second, &stranger] {
        let line = shown.key.lines().nth(1).unwrap();
        assert!(!mesh.up.as_ref().unwrap().log().contains(line) && !mesh.ok(&["history"]).contains(line));
    }
}
