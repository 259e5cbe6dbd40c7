// SPDX-License-Identifier: Apache-2.0
//! Keyed payments while sidecars and the control plane are killed: no payment is ever made twice behind
//! anybody's back, and every one whose end nobody knows is reported as such.
#![expect(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a test's harness")]

mod mesh;

use mesh::{Mesh, PATIENCE, Program, free_port};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Clients at once.
const CLIENTS: usize = 4;
/// Sidecars killed, and control planes.
const KILLS: (usize, usize) = (6, 2);

/// The program: how often each key's payment was made. It outlives every sidecar.
#[derive(Clone, Default)]
struct Payments(Arc<Mutex<BTreeMap<String, u32>>>);

impl Payments {
    fn serve(&self) -> u16 {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let payments = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let payments = payments.clone();
                std::thread::spawn(move || payments.answer(stream));
            }
        });
        port
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut writer = stream.try_clone().ok()?;
        let mut reader = BufReader::new(stream);
        loop {
            let (mut key, mut length, mut line) = (String::new(), 0, String::new());
            loop {
                line.clear();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                let Some((name, value)) = line.split_once(':') else {
                    if line.trim().is_empty() {
                        break;
                    }
                    continue;
                };
                match name.to_ascii_lowercase().as_str() {
                    "idempotency-key" => key = value.trim().trim_matches('"').to_owned(),
                    "content-length" => length = value.trim().parse().ok()?,
                    _ => {}
                }
            }
            reader.read_exact(&mut vec![0; length]).ok()?;
            let made = {
                let mut all = self.0.lock().unwrap();
                let made = all.entry(key).or_default();
                *made += 1;
                *made
            };
            // Work takes a moment, so that kills find payments that were made and not yet answered.
            std::thread::sleep(Duration::from_millis(3));
            writer.write_all(format!("HTTP/1.1 201 Made\r\ncontent-length: 1\r\n\r\n{made}").as_bytes()).ok()?;
        }
    }
}

/// One payment: its status and mark, if anybody answered.
fn pay(ports: &Path, key: &str) -> Option<(u16, String)> {
    let ports: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(ports).ok()?).ok()?;
    let edge = SocketAddr::from(([127, 0, 0, 1], u16::try_from(ports["edge"].as_u64()?).ok()?));
    let mut stream = TcpStream::connect(edge).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = format!(
        "POST /pay HTTP/1.1\r\nHost: payments.default.mesh.localhost\r\nIdempotency-Key: \"{key}\"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n30"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).to_lowercase();
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let mark = text.lines().find_map(|line| line.strip_prefix("idempotency-status:")).unwrap_or_default();
    Some((status, mark.trim().to_owned()))
}

/// How a client's payment ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Paid,
    Ambiguous,
}

/// Sends one payment until it is paid or reported as ambiguous, as a careful client does.
fn settle(ports: &Path, key: &str) -> End {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < deadline {
        last = pay(ports, key);
        match &last {
            Some((201, _)) => return End::Paid,
            Some((409, mark)) if mark == "ambiguous" => return End::Ambiguous,
            // Whatever else: the same payment again, under the same key.
            _ => std::thread::sleep(Duration::from_millis(30)),
        }
    }
    panic!("{key} never ended; last: {last:?}");
}

fn start_sidecar(mesh: &Mesh, port: u16) -> Program {
    let run = mesh.run(&["--name", "payments", "--port", &port.to_string()], &["sleep", "1000"]);
    run.wait_for_line("joined as");
    run
}

#[test]
fn no_payment_is_made_twice_behind_anybodys_back() {
    let payments = Payments::default();
    let port = payments.serve();
    let mut mesh = Mesh::up(&[]);
    let policy = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: keys}\n\
                  spec: {targetRefs: [{name: payments}], idempotency: {mode: Required, lease: 3s}}\n";
    let mut sidecar = start_sidecar(&mesh, port);
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "keys.yaml", policy)]);
    let ports = mesh.data.join("ports.json");
    // A payment without a key is refused once the policy is in force.
    mesh::until("the policy", String::new, || pay(&ports, "").is_some_and(|(status, _)| status == 400));

    let (stop, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (stop, ends, ports) = (Arc::clone(&stop), Arc::clone(&ends), ports.clone());
            std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let key = format!("{client}-{n}");
                    let end = settle(&ports, &key);
                    ends.lock().unwrap().insert(key, end);
                }
            })
        })
        .collect();
    let ended = || ends.lock().unwrap().len();
    for kill in 0..KILLS.0 + KILLS.1 {
        let before = ended();
        mesh::until("some payments", || format!("{}", ended()), || ended() >= before + 15);
        if kill % 4 == 3 {
            mesh.up.as_ref().unwrap().signal("KILL");
            mesh.up.as_mut().unwrap().wait();
            mesh.start(&[]);
        }
        // After a control plane too: on a busy machine the next one may have other ports.
        sidecar.signal("KILL");
        sidecar.wait();
        sidecar = start_sidecar(&mesh, port);
    }
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    drop(sidecar);

    let (made, ends) = (payments.0.lock().unwrap(), ends.lock().unwrap());
    for (key, end) in ends.iter() {
        let times = made.get(key).copied().unwrap_or(0);
        assert!(times <= 1, "{key} was made {times} times; its client was told {end:?}");
        assert!(*end == End::Ambiguous || times == 1, "{key} was never made, but its client was told it was");
    }
    let ambiguous = ends.values().filter(|end| **end == End::Ambiguous).count();
    println!("{} payments over {KILLS:?} kills: 0 twice, {ambiguous} ambiguous, all reported", ends.len());
    assert!(ends.len() >= 100, "only {}", ends.len());
}
