// SPDX-License-Identifier: Apache-2.0
//! The console as a program asks it, without the command line.

use super::{Answer, Mesh};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One request with a body, on a connection of its own.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(70))).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// The operator's question to the console.
pub fn operator(mesh: &Mesh, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let token = std::fs::read_to_string(mesh.data.join("token")).unwrap();
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = format!("Authorization: Bearer {token}\r\nPrefer: wait=20\r\n");
    let answer = send(console, method, path, &headers, &body);
    let value = serde_json::from_str(&answer.body).unwrap_or_else(|_| json!(answer.body));
    (answer.status, value)
}
