// SPDX-License-Identifier: Apache-2.0
//! A gateway behind a balancer: who a caller is, is what the balancer says, and nobody else may say it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, file, free_port, until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The program: answers each request with its own head.
fn program() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut tcp in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut asked = Vec::new();
                let mut byte = [0];
                while tcp.read(&mut byte).is_ok_and(|count| count > 0) {
                    asked.push(byte[0]);
                    if asked.ends_with(b"\r\n\r\n") {
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", asked.len());
                        if tcp.write_all(&[head.as_bytes(), &asked].concat()).is_err() {
                            return;
                        }
                        asked.clear();
                    }
                }
            });
        }
    });
    port
}

fn gateway(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public}}
spec:
  gatewayClassName: byrnie
  infrastructure:
    annotations: {{mesh.byrnie.dev/proxy-protocol-from: '127.0.0.1, 10.0.0.0/8'}}
  listeners:
  - {{name: http, port: {port}, protocol: HTTP}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{name: public}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
"
    )
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n";

/// What comes back of these bytes until the end of the connection.
fn say(port: u16, words: &str) -> String {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Whoever is refused may be so before the last byte.
    let _ = tcp.write_all(words.as_bytes());
    let mut heard = Vec::new();
    let _ = tcp.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).to_ascii_lowercase()
}

fn curl(args: &[&str], port: u16) -> String {
    let url = format!("http://127.0.0.1:{port}/");
    let output = Command::new("curl").args(["-s", "-m", "10"]).args(args).arg(url).output().unwrap();
    String::from_utf8_lossy(&output.stdout).to_ascii_lowercase()
}

/// A child that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_client_is_whom_the_balancer_names() {
    let mesh = Mesh::up(&[]);
    let (behind, port) = (program(), free_port());
    let _web = mesh.run(&["--name", "web", "--port", &behind.to_string()], &["sleep", "600"]);
    mesh.ask_until("web", "/", |answer| answer.status == 200);
    mesh.ok(&["apply", "-f", &file(&mesh, "gateway.yaml", &gateway(port))]);
    let proxied = format!("PROXY TCP4 203.0.113.9 192.0.2.1 5555 80\r\n{REQUEST}");
    until(
        "the gateway is open",
        || mesh.ok(&["status"]),
        || TcpStream::connect(("127.0.0.1", port)).is_ok() && say(port, &proxied).contains("http/1.1 200"),
    );
    assert!(say(port, &proxied).contains("\r\nx-forwarded-for: 203.0.113.9\r\n"), "{}", say(port, &proxied));
    // What the client says of itself is no better than without a balancer.
    let lying = proxied.replace("connection:", "x-forwarded-for: 198.51.100.1\r\nconnection:");
    assert!(!say(port, &lying).contains("x-forwarded-for: 198.51.100.1\r\n"), "{}", say(port, &lying));
    // The balancer's own check, which is for nobody.
    assert!(say(port, &format!("PROXY UNKNOWN\r\n{REQUEST}")).contains("x-forwarded-for: 127.0.0.1\r\n"));

    // Without a header, with one that is broken, or from elsewhere: nothing is served.
    for refused in [REQUEST.to_owned(), proxied.replace("TCP4", "TCP5"), proxied.replace("203.0.113.9", "203.0.113")] {
        assert_eq!(say(port, &refused), "", "{refused}");
    }
    assert_eq!(curl(&["--interface", "127.0.0.2", "--haproxy-protocol"], port), "");
    assert!(curl(&["--haproxy-protocol"], port).contains("x-forwarded-for: 127.0.0.1\r\n"));
    // Nor at the edge's own port, where no balancer stands.
    let elsewhere = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "host: web.test"])
        .arg(format!("http://127.0.0.1:{}/", mesh.port("edge")))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&elsewhere.stdout), "404");

    by_haproxy(&mesh, port);
}

/// The same by a real balancer, if there is one here.
fn by_haproxy(mesh: &Mesh, port: u16) {
    if Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_err() {
        return;
    }
    for version in ["send-proxy", "send-proxy-v2"] {
        let front = free_port();
        let config = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
             listen front\n  bind 127.0.0.1:{front}\n  server gateway 127.0.0.1:{port} {version}\n"
        );
        let path = file(mesh, &format!("{version}.cfg"), &config);
        let haproxy = Command::new("haproxy").args(["-db", "-f", &path]).stderr(Stdio::null()).spawn().unwrap();
        let _haproxy = Ends(haproxy);
        until("haproxy listens", String::new, || TcpStream::connect(("127.0.0.1", front)).is_ok());
        let seen = curl(&["--interface", "127.0.0.9"], front);
        assert!(seen.contains("x-forwarded-for: 127.0.0.9\r\n"), "{version}: {seen}");
    }
}
