// SPDX-License-Identifier: Apache-2.0
//! Gateways to real callers from outside: curl with OpenSSL asks for what a gateway serves under TLS.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, file, free_port, until};
use rcgen::{CertificateParams, KeyPair};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// A certificate signed by its own key.
struct Pair {
    chain: String,
    key: String,
}

fn pair(names: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let chain = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
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

    // All of it is there after a restart, and gone with the gateway.
    drop(mesh.up.take());
    mesh.start(&[]);
    let _hello = mesh.echo("hello", "v1", &[]);
    answers(&mesh, &second, "200 2");
    mesh.ok(&["delete", "gateway", "public"]);
    until("the port is closed", String::new, || TcpStream::connect(("127.0.0.1", secure)).is_err());
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
