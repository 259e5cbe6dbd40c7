// SPDX-License-Identifier: Apache-2.0
//! A participant of transactions that a test plays itself.

use super::{Mesh, Program, free_port};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a participant was asked, and what it answers.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

type Script = dyn Fn(&Asked, usize) -> (u16, String) + Send + Sync;

/// A participant that the test plays itself; what it answers with 202 says where to ask. It is behind a sidecar of its own.
pub struct Participant {
    pub seen: Arc<Mutex<Vec<Asked>>>,
    _run: Program,
}

impl Participant {
    /// `script` is told how often the path was asked before.
    pub fn new(
        mesh: &Mesh,
        name: &str,
        script: impl Fn(&Asked, usize) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let (port, seen) = listen(script);
        let run = mesh.run(&["--name", name, "--port", &port.to_string()], &["sleep", "1000"]);
        run.wait_for_line("joined as");
        Self { seen, _run: run }
    }

    pub fn calls(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|asked| asked.path.clone()).collect()
    }

    pub fn asked(&self, path: &str) -> Asked {
        self.seen.lock().unwrap().iter().find(|asked| asked.path == path).cloned().unwrap()
    }
}

/// A participant without a sidecar, as dtm's clients name them: its port, and what it's asked.
pub fn listen(
    script: impl Fn(&Asked, usize) -> (u16, String) + Send + Sync + 'static,
) -> (u16, Arc<Mutex<Vec<Asked>>>) {
    let port = free_port();
    (port, listen_at(port, script))
}

/// As [`listen`], at a port of the test's choice.
pub fn listen_at(
    port: u16,
    script: impl Fn(&Asked, usize) -> (u16, String) + Send + Sync + 'static,
) -> Arc<Mutex<Vec<Asked>>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let seen: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let (log, script): (_, Arc<Script>) = (Arc::clone(&seen), Arc::new(script));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (log, script) = (Arc::clone(&log), Arc::clone(&script));
            std::thread::spawn(move || serve(stream, &log, &*script));
        }
    });
    seen
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, script: &Script) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let asked = Asked { path, headers, body: String::from_utf8(body).unwrap() };
        let before = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.iter().filter(|other| other.path == asked.path).count() - 1
        };
        let (status, answer) = script(&asked, before);
        if status == 0 {
            return;
        }
        let (place, answer) = if status == 202 { (answer, String::new()) } else { (String::new(), answer) };
        let place = if place.is_empty() { place } else { format!("location: {place}\r\n") };
        let head = format!("HTTP/1.1 {status} X\r\n{place}content-length: {}\r\n\r\n{answer}", answer.len());
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

pub fn fine() -> (u16, String) {
    (200, "{\"id\":7}".to_owned())
}
