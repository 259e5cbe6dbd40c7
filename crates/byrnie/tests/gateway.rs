// SPDX-License-Identifier: Apache-2.0
//! Gateways to real callers from outside: curl with OpenSSL asks for what a gateway serves under TLS.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, file, free_port, until};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

/// A certificate signed by its own key.
struct Pair {
    chain: String,
    key: String,
}

fn pair(names: &[&str]) -> Pair {
    pair_until(names, 4096)
}

/// One that ends with this year's beginning.
fn pair_until(names: &[&str], year: i32) -> Pair {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let chain = params.self_signed(&key).unwrap().pem();
    Pair { chain, key: key.serialize_pem() }
}

fn secret(name: &str, chain: &str, key: &str) -> String {
    let block = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n{}  tls.key: |\n{}",
        block(chain),
        block(key)
    )
}

/// A gateway with a listener under TLS, one in the clear that sends callers there, and a route to `hello`.
fn gateway(secure: u16, clear: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public}}
spec:
  gatewayClassName: byrnie
  listeners:
  - {{name: https, port: {secure}, protocol: HTTPS, hostname: '*.shop.test', tls: {{certificateRefs: [{{name: shop-tls}}]}}}}
  - {{name: http, port: {clear}, protocol: HTTP}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop}}
spec:
  parentRefs: [{{name: public, sectionName: https}}]
  rules: [{{backendRefs: [{{name: hello, port: 80}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: to-https}}
spec:
  parentRefs: [{{name: public, sectionName: http}}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{scheme: https, port: {secure}, statusCode: 301}}}}]}}]
"
    )
}

/// What curl makes of a URL: `STATUS VERSION REDIRECT`, or why it fails.
fn curl(mesh: &Mesh, trusted: &str, url: &str, more: &[&str]) -> String {
    let host = url.split('/').nth(2).unwrap();
    let mut command = Command::new("curl");
    command.args(["-sS", "-o", "/dev/null", "-m", "10", "-w", "%{http_code} %{http_version} %{redirect_url}"]);
    command.args(["--cacert", &file(mesh, "trusted.pem", trusted), "--resolve", &format!("{host}:127.0.0.1")]);
    let output = command.args(more).arg(url).output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    String::from_utf8_lossy(&said).trim().to_owned()
}

fn listener(mesh: &Mesh, condition: &str) -> String {
    let gateway = mesh.json(&["get", "gateway", "public"]);
    let all = gateway["status"]["listeners"][0]["conditions"].as_array().unwrap().clone();
    let one = all.iter().find(|c| c["type"] == condition).unwrap().clone();
    format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())
}

/// So many names, unless `BYRNIE_SNI_NAMES` says otherwise.
const NAMES: u64 = 1_000;

/// Every connection asks for another host by its handshake, another path and under another agent; half of the hosts are served.
#[test]
fn hosts_that_never_come_twice_leave_little_behind_at_a_port_under_tls() {
    let wanted = std::env::var("BYRNIE_SNI_NAMES").map_or(NAMES, |text| text.parse().unwrap());
    let mesh = Mesh::up(&[]);
    let _hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let (pair, secure) = (pair(&["*.shop.test"]), free_port());
    mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret("shop-tls", &pair.chain, &pair.key))]);
    mesh.ok(&["apply", "-f", &file(&mesh, "gateway.yaml", &gateway(secure, free_port()))]);
    let url = format!("https://www.shop.test:{secure}/");
    let said = || curl(&mesh, &pair.chain, &url, &[]);
    until("the gateway", said, || said() == "200 2");
    // One process of curl, and a handshake for each name.
    let ask = |from: u64, to: u64| {
        let each = |(n, domain)| {
            format!(
                "url = \"https://h{n}.{domain}.test:{secure}/{domain}/{n}?q={n}\"\nuser-agent = \"{domain}/{n}\"\ninsecure\nsilent\n\
                 output = \"/dev/null\"\nwrite-out = \"%{{http_code}}\\n\"\nconnect-to = \"::127.0.0.1:\"\n"
            )
        };
        let asked = (from..=to).flat_map(|n| ["shop", "other"].map(|domain| (n, domain)));
        let asked: Vec<String> = asked.map(each).collect();
        let output = Command::new("curl").args(["-K", &file(&mesh, "names", &asked.join("next\n"))]).output().unwrap();
        let statuses = String::from_utf8(output.stdout).unwrap();
        let served = statuses.lines().filter(|status| *status == "200").count() as u64;
        assert_eq!(served, to - from + 1, "those that are served");
        assert_eq!(statuses.lines().count() as u64, 2 * served, "those that aren't");
    };
    let seen = || {
        let (pid, console) = (mesh.up.as_ref().unwrap().pid(), mesh.json(&["proxies"]));
        let edge = console.as_array().unwrap().iter().find(|proxy| proxy["name"].as_str().unwrap().ends_with("/edge"));
        let admin = edge.unwrap_or_else(|| panic!("{console}"))["admin"].as_str().unwrap().parse().unwrap();
        let metrics = mesh::http(admin, "localhost", "/metrics").unwrap().body;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: i64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        (kib, metrics.lines().filter(|line| !line.starts_with('#')).count())
    };
    ask(1, 100);
    let before = seen();
    ask(101, wanted / 2);
    let after = seen();
    println!("{wanted} names: {} KiB more, {} series, where there were {}", after.0 - before.0, after.1, before.1);
    assert!(after.0 - before.0 <= 32 * 1024, "{before:?}, then {after:?} KiB");
    assert!(after.1 <= before.1 + 10 && after.1 <= 10_000, "{before:?}, then {after:?} series");
}

#[test]
fn callers_from_outside_are_let_in_under_tls() {
    let mut mesh = Mesh::up(&[]);
    let _hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let (secure, clear) = (free_port(), free_port());
    let url = format!("https://www.shop.test:{secure}/");
    let told = mesh.cli(&["apply", "-f", &file(&mesh, "gateway.yaml", &gateway(secure, clear))]);
    let warned = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && warned.contains("BYR-C057"), "{warned}");
    assert_eq!(listener(&mesh, "ResolvedRefs"), "False InvalidCertificateRef");
    assert!(mesh.ok(&["status"]).contains("BYR-C057"), "an operator who looks sees it too");
    let first = pair(&["*.shop.test"]);
    let answers = |mesh: &Mesh, pair: &Pair, wanted: &str| {
        let last = std::cell::RefCell::new(String::new());
        let holds = || {
            *last.borrow_mut() = curl(mesh, &pair.chain, &url, &[]);
            *last.borrow() == wanted
        };
        until(wanted, || last.borrow().clone(), holds);
    };
    // Without a certificate the port is there, and nobody is let in.
    until("the port is open", String::new, || TcpStream::connect(("127.0.0.1", secure)).is_ok());
    let refused = |said: String| assert!(said.contains("curl: (35)") && said.contains("alert"), "{said}");
    refused(curl(&mesh, &first.chain, &url, &[]));

    mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret("shop-tls", &first.chain, &first.key))]);
    answers(&mesh, &first, "200 2");
    assert_eq!(listener(&mesh, "Programmed"), "True Programmed");
    let addresses = mesh.json(&["get", "gateway", "public"])["status"]["addresses"].clone();
    assert_eq!(addresses, serde_json::json!([{"type": "IPAddress", "value": "127.0.0.1"}]));
    // A change of the gateway is seen, and what stays true is true since then.
    let conditions = |mesh: &Mesh| {
        let gateway = mesh.json(&["get", "gateway", "public"]);
        let generation = gateway["metadata"]["generation"].as_u64().unwrap();
        let all = gateway["status"]["listeners"][0]["conditions"].as_array().unwrap().clone();
        assert!(all.iter().all(|condition| condition["observedGeneration"] == generation), "{gateway}");
        let since = all.iter().map(|condition| condition["lastTransitionTime"].as_str().unwrap().to_owned());
        (generation, since.collect::<Vec<_>>())
    };
    let before = conditions(&mesh);
    mesh.ok(&[
        "apply",
        "-f",
        &file(
            &mesh,
            "more.yaml",
            &gateway(secure, clear)
                .replace("name: http,", "name: http2,")
                .replace("sectionName: http}", "sectionName: http2}"),
        ),
    ]);
    let after = conditions(&mesh);
    assert!(after.0 > before.0 && after.1 == before.1, "{before:?} {after:?}");
    assert_eq!(curl(&mesh, &first.chain, &url, &["--http1.1"]), "200 1.1");
    assert_eq!(curl(&mesh, &first.chain, &url, &["--tlsv1.2", "--tls-max", "1.2"]), "200 2");
    let plain = format!("http://www.shop.test:{clear}/a?b=c");
    assert_eq!(curl(&mesh, &first.chain, &plain, &[]), format!("301 1.1 https://www.shop.test:{secure}/a?b=c"));
    // Other hosts, and what the mesh calls its own, are not for the outside.
    refused(curl(&mesh, &first.chain, &format!("https://www.other.test:{secure}/"), &[]));
    for (host, status) in [("other.test", "421 2"), ("hello.default.mesh.localhost", "421 2")] {
        assert_eq!(curl(&mesh, &first.chain, &url, &["-H", &format!("Host: {host}")]), status, "{host}");
    }
    let explained = mesh.ok(&["explain", &format!("GET {url}"), "--from", "edge"]);
    assert!(explained.contains("default/public/https"), "{explained}");

    // A renewed certificate is shown from the next connection on; one that fits no key changes nothing.
    let second = pair(&["*.shop.test"]);
    let bad = mesh.cli(&["apply", "-f", &file(&mesh, "bad.yaml", &secret("shop-tls", &second.chain, &first.key))]);
    let said = String::from_utf8_lossy(&bad.stderr).into_owned() + &String::from_utf8_lossy(&bad.stdout);
    assert!(!bad.status.success() && said.contains("BYR-C058"), "{said}");
    assert_eq!(curl(&mesh, &first.chain, &url, &[]), "200 2");
    mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret("shop-tls", &second.chain, &second.key))]);
    answers(&mesh, &second, "200 2");

    // Nobody is shown a key, wherever they look.
    let secrets = [mesh.ok(&["get", "secret"]), mesh.ok(&["get", "secret", "shop-tls", "-o", "yaml"])];
    assert!(secrets[0].contains("*.shop.test") && secrets[1].contains("not shown"), "{secrets:?}");
    let everywhere = [
        secrets.concat(),
        mesh.ok(&["history", "-o", "json"]),
        mesh.ok(&["get", "gateway", "-o", "json"]),
        said,
        mesh.up.as_ref().unwrap().log(),
    ];
    for key in [&first.key, &second.key] {
        let line = key.lines().nth(1).unwrap();
        let coded = data_encoding::BASE64.encode(key.as_bytes());
        for text in &everywhere {
            assert!(!text.contains(line) && !text.contains(&coded[60..120]), "a key is shown:\n{text}");
        }
    }

    // Somebody else adds a listener of their own.
    let more = free_port();
    let allowed =
        gateway(secure, clear).replacen("spec:\n", "spec:\n  allowedListeners: {namespaces: {from: All}}\n", 1);
    let set = format!(
        "{allowed}---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{name: more}}
spec:
  parentRef: {{name: public}}
  listeners: [{{name: more, port: {more}, protocol: HTTPS, tls: {{certificateRefs: [{{name: shop-tls}}]}}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: more}}
spec:
  parentRefs: [{{kind: ListenerSet, name: more}}]
  rules: [{{backendRefs: [{{name: hello, port: 80}}]}}]
"
    );
    mesh.ok(&["apply", "-f", &file(&mesh, "set.yaml", &set)]);
    let added = format!("https://www.shop.test:{more}/");
    until("the set's listener", || mesh.ok(&["status"]), || curl(&mesh, &second.chain, &added, &[]) == "200 2");

    // All of it is there after a restart, and gone with the gateway.
    drop(mesh.up.take());
    mesh.start(&[]);
    let _hello = mesh.echo("hello", "v1", &[]);
    answers(&mesh, &second, "200 2");
    mesh.ok(&["delete", "gateway", "public"]);
    let closed = |port| TcpStream::connect(("127.0.0.1", port)).is_err();
    until("its ports are closed", String::new, || closed(secure) && closed(more));
}

#[test]
fn a_port_that_is_taken_is_told_and_opened_once_it_is_free() {
    let mesh = Mesh::up(&[]);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let first = pair(&["*.shop.test"]);
    mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret("shop-tls", &first.chain, &first.key))]);
    mesh.ok(&["apply", "-f", &file(&mesh, "gateway.yaml", &gateway(port, free_port()))]);
    let status = || mesh.ok(&["status"]);
    until("it is told", status, || status().contains("BYR-S019"));
    assert_eq!(listener(&mesh, "Accepted"), "False PortUnavailable");
    drop(other);
    until("it is open", status, || listener(&mesh, "Accepted") == "True Accepted");
    let url = format!("https://www.shop.test:{port}/");
    assert_eq!(curl(&mesh, &first.chain, &url, &[]), "500 2", "its backend is absent");
}

#[test]
fn a_certificate_that_has_ended_is_told() {
    let mesh = Mesh::up(&[]);
    let old = pair_until(&["old.test"], 2020);
    mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret("old", &old.chain, &old.key))]);
    let status = mesh.ok(&["status"]);
    assert!(status.contains("BYR-C059") && status.contains("the certificate for old.test has ended"), "{status}");
    let good = pair(&["good.test"]);
    mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret("old", &good.chain, &good.key))]);
    assert!(!mesh.ok(&["status"]).contains("BYR-C059"));
}

/// Listeners for connections, one under TLS that ends here and one under TLS that ends at the backend, all to `hello`.
fn opaque(raw: u16, (tcp, tls, passes): (u16, u16, u16)) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public}}
spec:
  gatewayClassName: byrnie
  listeners:
  - {{name: tcp, port: {tcp}, protocol: TCP}}
  - {{name: tls, port: {tls}, protocol: TLS, tls: {{certificateRefs: [{{name: shop-tls}}]}}}}
  - {{name: passes, port: {passes}, protocol: TLS, hostname: '*.shop.test', tls: {{mode: Passthrough}}}}
  - {{name: beside, port: {passes}, protocol: TLS, hostname: own.shop.test, tls: {{certificateRefs: [{{name: shop-tls}}]}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: raw}}
spec:
  selector: {{app: hello}}
  ports: [{{port: 81, targetPort: {raw}, appProtocol: tcp}}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: raw}}
spec:
  parentRefs: [{{name: public, sectionName: tcp}}, {{name: public, sectionName: tls}}, {{name: public, sectionName: beside}}]
  rules: [{{backendRefs: [{{name: raw, port: 81}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: raw}}
spec:
  parentRefs: [{{name: public, sectionName: passes}}]
  hostnames: [www.shop.test]
  rules: [{{backendRefs: [{{name: raw, port: 81}}]}}]
"
    )
}

/// A program that sends back what it gets, under TLS if its caller begins with a handshake. It runs in the test itself.
fn echo_server(shown: &Pair) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(shown.chain.as_bytes()).unwrap()];
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let mut first = [0];
                if stream.peek(&mut first).is_ok_and(|read| read == 1) && first == [0x16] {
                    let session = rustls::ServerConnection::new(config).unwrap();
                    repeat(rustls::StreamOwned::new(session, stream));
                } else {
                    repeat(stream);
                }
            });
        }
    });
    port
}

fn repeat(mut stream: impl Read + Write) {
    let mut bytes = [0; 64];
    while let Ok(read @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..read]).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

/// A connection under TLS that trusts this certificate alone.
fn secured(port: u16, trusted: &Pair, host: &str) -> impl Read + Write {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.chain.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    rustls::StreamOwned::new(session, TcpStream::connect(("127.0.0.1", port)).unwrap())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A line sent, and what comes back of it; `None` if the connection ends before that.
fn echo(mut stream: impl Read + Write) -> Option<String> {
    stream.write_all(b"ping\n").and_then(|()| stream.flush()).ok()?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn connections_from_outside_are_passed_on() {
    let mesh = Mesh::up(&[]);
    let (own, of_the_program) = (pair(&["*.shop.test"]), pair(&["www.shop.test"]));
    let raw = echo_server(&of_the_program);
    let run = mesh.run(&["--name", "hello", "--port", &format!("{raw}/tcp")], &["tail", "-f", "/dev/null"]);
    let (tcp, tls, passes) = (free_port(), free_port(), free_port());
    mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret("shop-tls", &own.chain, &own.key))]);
    mesh.ok(&["apply", "-f", &file(&mesh, "gateway.yaml", &opaque(raw, (tcp, tls, passes)))]);
    let plain = || TcpStream::connect(("127.0.0.1", tcp)).ok().and_then(echo);
    until("bytes come back", || run.log(), || plain().as_deref() == Some("ping\n"));
    assert_eq!(echo(secured(tls, &own, "www.shop.test")).as_deref(), Some("ping\n"), "TLS ends at the gateway");
    let passed = echo(secured(passes, &of_the_program, "www.shop.test"));
    assert_eq!(passed.as_deref(), Some("ping\n"), "TLS ends at the program");
    let beside = echo(secured(passes, &own, "own.shop.test"));
    assert_eq!(beside.as_deref(), Some("ping\n"), "and at the gateway for another host of the same port");
    assert_eq!(echo(secured(passes, &own, "www.shop.test")), None, "nobody else shows a certificate there");
    assert_eq!(echo(secured(passes, &of_the_program, "other.shop.test")), None, "no route is for this host");
    let nonsense = TcpStream::connect(("127.0.0.1", passes)).unwrap();
    assert_ne!(echo(nonsense).as_deref(), Some("ping\n"), "only handshakes are let in");
    let explained = mesh.ok(&["explain", &format!("tcp://www.shop.test:{passes}"), "--from", "edge"]);
    assert!(explained.contains("TLSRoute/default/raw") && explained.contains("raw.default"), "{explained}");
}

/// `db`, whose connections go by the host that their TLS asks for to one of two.
fn by_host(ports: [u16; 2]) -> String {
    let mut text = String::new();
    for (name, app, port) in [("db", "one", ports[0]), ("first", "one", ports[0]), ("second", "two", ports[1])] {
        text += &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {app}}}\n  \
             ports: [{{port: 5432, targetPort: {port}, appProtocol: tcp}}]\n---\n"
        );
    }
    for (name, host) in [("first", "'*.db.test'"), ("second", "two.db.test")] {
        text += &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: {name}}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: db}}]\n  hostnames: [{host}]\n  \
             rules: [{{backendRefs: [{{name: {name}, port: 5432}}]}}]\n---\n"
        );
    }
    text
}

#[test]
fn connections_in_the_mesh_go_by_the_host_that_their_tls_asks_for() {
    let mesh = Mesh::up(&[]);
    let shown = [pair(&["one.db.test", "other.test"]), pair(&["two.db.test"])];
    let raw = [echo_server(&shown[0]), echo_server(&shown[1])];
    let run = |name: &str, raw: u16| mesh.beside(name, Some((raw, "tcp")), &[]);
    let _programs = [run("one", raw[0]), run("two", raw[1])];
    mesh.ok(&["apply", "-f", &file(&mesh, "by-host.yaml", &by_host(raw))]);
    assert!(!mesh.ok(&["lint"]).contains("TLSRoute"));
    mesh.ok(&["allow", "web", "first"]);
    let web = mesh.beside("web", None, &["--uses", "db"]);
    let to = web.address("BYRNIE_DB_URL").port();
    let asks = |at: usize, host: &str| echo(secured(to, &shown[at], host));
    until("the first answers", || web.log(), || asks(0, "one.db.test").as_deref() == Some("ping\n"));
    // What a route leads to decides itself who may.
    assert_eq!(asks(1, "two.db.test"), None, "no policy lets it in there");
    mesh.ok(&["allow", "web", "second"]);
    until("the second answers", || web.log(), || asks(1, "two.db.test").as_deref() == Some("ping\n"));
    assert_eq!(asks(0, "other.test"), None, "no route is for this host");
    let plain = TcpStream::connect(("127.0.0.1", to)).unwrap();
    assert_ne!(echo(plain).as_deref(), Some("ping\n"), "what asks for no host is for nobody");
    let told = mesh.ok(&["explain", "tcp://db:5432", "--from", "web", "--header", "sni: two.db.test"]);
    assert!(told.contains("TLSRoute/default/second") && told.contains("second.default"), "{told}");
    let status = mesh.json(&["get", "tlsroute", "second"]).to_string();
    assert!(status.contains("\"Accepted\"") && status.contains("\"ResolvedRefs\""), "{status}");
}

/// A browser that keeps its sessions: it speaks this version of TLS and trusts this certificate alone.
struct Browser(Arc<rustls::ClientConfig>);

impl Browser {
    fn new(version: &'static rustls::SupportedProtocolVersion, trusted: &[&Pair]) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        for pair in trusted {
            roots.add(CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap()).unwrap();
        }
        let builder = rustls::ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]);
        Self(Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth()))
    }

    /// Whether the first connection that is let in goes on with an earlier session. The gateway answers in the end.
    fn comes_back(&self, port: u16) -> bool {
        let (mut first, last) = (None, std::cell::RefCell::new(String::new()));
        until(
            "an answer",
            || last.borrow().clone(),
            || match self.ask(port) {
                Ok((resumed, answer)) => {
                    first.get_or_insert(resumed);
                    *last.borrow_mut() = answer;
                    last.borrow().starts_with("HTTP/1.1 200 ")
                }
                Err(error) => {
                    *last.borrow_mut() = error.to_string();
                    false
                }
            },
        );
        first.unwrap()
    }

    fn ask(&self, port: u16) -> std::io::Result<(bool, String)> {
        let name = ServerName::try_from("www.shop.test").unwrap();
        let mut session = rustls::ClientConnection::new(Arc::clone(&self.0), name).unwrap();
        let mut tcp = TcpStream::connect(("127.0.0.1", port))?;
        session.complete_io(&mut tcp)?;
        let mut stream = rustls::StreamOwned::new(session, tcp);
        stream.write_all(b"GET / HTTP/1.1\r\nhost: www.shop.test\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok((stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed), answer))
    }
}

#[test]
fn sessions_go_on_with_any_process_of_a_gateway_and_after_it_was_replaced() {
    let (shop, other) = (pair(&["*.shop.test"]), pair(&["*.shop.test"]));
    // One that is replaced, one that stands beside it, and one that shows another certificate for the same hosts.
    let begin = |shown: &Pair, port: u16| {
        let mesh = Mesh::up(&[]);
        mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &secret("shop-tls", &shown.chain, &shown.key))]);
        mesh.ok(&["apply", "-f", &file(&mesh, "gateway.yaml", &gateway(port, free_port()))]);
        let hello = mesh.echo("hello", "v1", &[]);
        (mesh, hello)
    };
    let ports = [free_port(), free_port(), free_port()];
    let (mut mesh, hello) = begin(&shop, ports[0]);
    let (_beside, _foreign) = (begin(&shop, ports[1]), begin(&other, ports[2]));
    let new = Browser::new(&rustls::version::TLS13, &[&shop, &other]);
    let old = Browser::new(&rustls::version::TLS12, &[&shop, &other]);
    for browser in [&new, &old] {
        assert!(!browser.comes_back(ports[0]));
        assert!(browser.comes_back(ports[0]));
    }
    // What is sealed for others holds wherever the same is shown; a ticket of TLS 1.2 stays with its process.
    assert_eq!([&new, &old].map(|browser| browser.comes_back(ports[1])), [true, false]);
    assert_eq!([&new, &old].map(|browser| browser.comes_back(ports[2])), [false; 2]);

    let known = Browser::new(&rustls::version::TLS13, &[&shop]);
    assert!(!known.comes_back(ports[0]));
    let told = mesh.handshakes().unwrap();
    assert!(known.comes_back(ports[0]));
    assert_eq!(mesh.handshakes(), Some((told.0, told.1 + 1)));
    mesh.ok(&["upgrade", "--drain", "5s"]);
    until("the new edge is asked", String::new, || mesh.handshakes().is_some_and(|(full, _)| full < told.0));
    assert!(known.comes_back(ports[0]), "after an upgrade");
    drop((hello, mesh.up.take()));
    mesh.start(&[]);
    let _hello = mesh.echo("hello", "v1", &[]);
    assert!(known.comes_back(ports[0]), "after a restart");
    mesh.ok(&["apply", "-f", &file(&mesh, "renewed.yaml", &secret("shop-tls", &other.chain, &other.key))]);
    // Whoever trusts the former certificate alone isn't led past the new one by a ticket.
    until("the renewed certificate is shown", String::new, || known.ask(ports[0]).is_err());
    assert!(!Browser::new(&rustls::version::TLS13, &[&other]).comes_back(ports[0]));
}
