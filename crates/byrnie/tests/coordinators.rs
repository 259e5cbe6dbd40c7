// SPDX-License-Identifier: Apache-2.0
//! Several coordinators, each a `byrnie up` of its own, share their transactions through one PostgreSQL: whichever is asked
//! answers, and what one leaves others go on with. `cargo xtask test postgres` runs those that need a database.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod mesh;

use mesh::participant::{fine, listen};
use mesh::{Mesh, Program, Stopwatch, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Sagas under way when a coordinator is killed.
const SAGAS: usize = 60;
/// Who begin sagas at one time.
const CLIENTS: usize = 8;
/// A shard is driven by another so long after its coordinator was killed: a lease, a beat, and what a busy machine adds.
const TAKEN_OVER: Duration = Duration::from_secs(5);
/// After a clean exit nobody waits for a lease.
const HANDED_BACK: Duration = Duration::from_millis(2_500);

fn on(url: &str) -> Command {
    let mut command = mesh::byrnie();
    command.env("BYRNIE_TRANSACTIONS", url);
    command
}

/// The operator's question to the console of one of them.
fn ask(mesh: &Mesh, method: &str, path: &str, wait: u64, body: &Value) -> (u16, Value) {
    ask_at(&console(mesh), method, path, wait, body)
}

/// Where an operator asks, and by which token.
type Console = (SocketAddr, String);

fn console(mesh: &Mesh) -> Console {
    let token = std::fs::read_to_string(mesh.data.join("token")).unwrap();
    (SocketAddr::from(([127, 0, 0, 1], mesh.port("console"))), token)
}

fn ask_at((at, token): &Console, method: &str, path: &str, wait: u64, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(mesh::PATIENCE)).unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nPrefer: wait={wait}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
}

/// Shards that it drives.
fn shards(mesh: &Mesh) -> u64 {
    metric(mesh, "byrnie_txn_shards")
}

fn metric(mesh: &Mesh, name: &str) -> u64 {
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    let answer = mesh::http(console, "localhost", "/metrics").unwrap();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    answer.body.lines().find_map(value).unwrap()
}

fn until_shared(meshes: &[&Mesh]) -> Duration {
    let (waited, fair) = (Stopwatch::start(), 64 / meshes.len() as u64);
    let held = || meshes.iter().map(|mesh| shards(mesh)).collect::<Vec<_>>();
    until(
        "a fair part of the shards with each",
        || format!("{:?}", held()),
        || {
            let held = held();
            held.iter().sum::<u64>() == 64 && held.iter().all(|held| (fair..=fair + 1).contains(held))
        },
    );
    waited.passed()
}

/// Two steps; of every third the second is a saga within it.
fn saga(n: usize) -> Value {
    let stock =
        json!({"name": "stock", "action": "POST shop/reserve", "compensate": "POST shop/release", "body": {"n": n}});
    let mut pay = json!({"name": "pay", "action": "POST shop/charge", "compensate": "POST shop/refund", "body": {"n": n},
        "retry": {"first_ms": 50, "cap_ms": 500}});
    if n.is_multiple_of(3) {
        pay = json!({"name": "within", "saga": {"branches": [pay]}});
    }
    pay["after"] = json!(["stock"]);
    json!({"id": format!("s{n}"), "branches": [stock, pay]})
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn three_share_what_they_do_and_go_on_with_what_one_leaves() {
    let url = mesh::database("three");
    let mut meshes: Vec<Mesh> = (0..3).map(|_| Mesh::up_by(on(&url))).collect();
    let joined = until_shared(&meshes.iter().collect::<Vec<_>>());
    let gate = Arc::new(AtomicBool::new(false));
    let open = Arc::clone(&gate);
    let (port, seen) = listen(move |asked, _| match (&*asked.path, open.load(Ordering::SeqCst)) {
        ("/charge", false) => (503, String::new()),
        _ => fine(),
    });
    // One program, which has joined all three.
    let sidecars: Vec<Program> = meshes
        .iter()
        .map(|mesh| mesh.run(&["--name", "shop", "--port", &port.to_string()], &["sleep", "1000"]))
        .collect();
    sidecars.iter().for_each(|sidecar| sidecar.wait_for_line("joined as"));
    for n in 0..SAGAS {
        let (status, begun) = ask(&meshes[n % 3], "POST", "/txn/v1/sagas", 0, &saga(n));
        assert_eq!(status, 201, "{begun}");
    }
    // Whichever is asked knows all of them, and which it is of a saga that it is asked for again.
    for mesh in &meshes {
        let known = || mesh.json(&["saga", "list"]).as_array().unwrap().len();
        until("all of them to be known", || known().to_string(), || known() == SAGAS + SAGAS.div_ceil(3));
        for n in 0..3 {
            assert_eq!(ask(mesh, "GET", &format!("/txn/v1/s{n}"), 0, &Value::Null).1["state"], "RUNNING");
            assert_eq!(ask(mesh, "POST", "/txn/v1/sagas", 0, &saga(n)).0, 200);
        }
    }
    // What is asked of one that another drives is handed to that one, and so is its no.
    let (status, cancelled) = ask(&meshes[2], "POST", "/txn/v1/s1:cancel", 20, &Value::Null);
    assert_eq!((status, &cancelled["state"]), (200, &json!("COMPENSATED")), "{cancelled}");
    let (status, refused) = ask(&meshes[1], "POST", "/txn/v1/s2:resolve", 0, &Value::Null);
    assert_eq!((status, &refused["code"]), (409, &json!("BYR-T004")), "{refused}");

    meshes[0].up.take().unwrap().signal("KILL");
    let taken = until_shared(&[&meshes[1], &meshes[2]]);
    assert!(taken < TAKEN_OVER, "taken over after {taken:?}");
    gate.store(true, Ordering::SeqCst);
    let opened = Stopwatch::start();
    let state = |n: usize| {
        ask(&meshes[1 + n % 2], "GET", &format!("/txn/v1/s{n}"), 0, &Value::Null).1["state"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let left = || (0..SAGAS).filter(|n| *n != 1 && state(*n) != "SUCCEEDED").count();
    until("all sagas to succeed", || format!("{} are left", left()), || left() == 0);
    let drained = opened.passed();
    for n in (0..SAGAS).step_by(3) {
        let within = ask(&meshes[1], "GET", &format!("/txn/v1/s{n}.within"), 20, &Value::Null).1;
        assert_eq!(within["state"], "SUCCEEDED", "{within}");
    }
    // One key for each call, however often it was made; nothing is undone but what was cancelled.
    let mut keys: BTreeMap<String, usize> = BTreeMap::new();
    for asked in seen.lock().unwrap().iter() {
        *keys.entry(asked.headers["idempotency-key"].clone()).or_default() += 1;
    }
    let of = |end: &str| keys.keys().filter(|key| key.ends_with(end)).count();
    assert_eq!((of("/stock/action\""), of("/pay/action\"")), (SAGAS, SAGAS));
    let undone: Vec<&String> = keys.keys().filter(|key| key.ends_with("/compensate\"")).collect();
    assert_eq!(undone, ["\"s1/pay/compensate\"", "\"s1/stock/compensate\""]);

    meshes[0].start_by(on(&url), &[]);
    let rejoined = until_shared(&meshes.iter().collect::<Vec<_>>());
    let mut up = meshes[2].up.take().unwrap();
    up.signal("TERM");
    up.wait();
    let handed = until_shared(&[&meshes[0], &meshes[1]]);
    assert!(handed < HANDED_BACK, "handed back after {handed:?}");
    println!(
        "shared after {joined:.1?}; killed: taken over after {taken:.1?}, {SAGAS} sagas ended {drained:.1?} after the shop was well; \
         back after {rejoined:.1?}; clean exit: taken over after {handed:.1?}"
    );
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn another_takes_over_within_five_seconds_however_much_is_unfinished() {
    let count: usize = std::env::var("UNFINISHED").map_or(500, |count| count.parse().unwrap());
    let url = mesh::database("unfinished");
    let mut meshes = [Mesh::up_by(on(&url)), Mesh::up_by(on(&url))];
    until_shared(&meshes.iter().collect::<Vec<_>>());
    // By their keys, the calls that were done.
    let (gate, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
    let (open, doing) = (Arc::clone(&gate), Arc::clone(&done));
    let (port, _seen) = listen(move |asked, _| {
        if !open.load(Ordering::SeqCst) {
            return (503, String::new());
        }
        doing.lock().unwrap().insert(asked.headers["idempotency-key"].clone());
        fine()
    });
    let join = |mesh: &Mesh| mesh.run(&["--name", "shop", "--port", &port.to_string()], &["sleep", "1000"]);
    let sidecars = meshes.each_ref().map(join);
    sidecars.iter().for_each(|sidecar| sidecar.wait_for_line("joined as"));
    let first = console(&meshes[0]);
    let begun = Stopwatch::start();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let first = &first;
            scope.spawn(move || {
                for n in (client..count).step_by(CLIENTS) {
                    let branch = json!({"name": "pay", "action": "POST shop/charge", "compensate": "POST shop/refund",
                        "retry": {"first_ms": 5_000, "cap_ms": 20_000}});
                    let saga = json!({"id": format!("u{n}"), "branches": [branch]});
                    assert_eq!(ask_at(first, "POST", "/txn/v1/sagas", 0, &saga).0, 201);
                }
            });
        }
    });
    let begun = begun.passed();
    meshes[0].up.take().unwrap().signal("KILL");
    gate.store(true, Ordering::SeqCst);
    let killed = Stopwatch::start();
    until("the other to hold every shard", || shards(&meshes[1]).to_string(), || shards(&meshes[1]) == 64);
    let taken = killed.passed();
    // However long it takes all in all, it goes on.
    let made = || done.lock().unwrap().len();
    while made() < count {
        let before = made();
        until("another one to be done", || format!("{before} of {count}"), || made() > before);
    }
    let left = || metric(&meshes[1], "byrnie_txn_running");
    until("the last to end", || format!("{} are left", left()), || left() == 0);
    println!(
        "{count} sagas begun in {begun:.1?}; their coordinator killed: another has taken over after {taken:.1?}, and all have ended after {:.1?}",
        killed.passed()
    );
    assert!(done.lock().unwrap().iter().all(|key| key.ends_with("/pay/action\"")), "nothing is undone");
    assert_eq!(made(), count, "each by one key");
    assert!(taken < TAKEN_OVER, "taken over after {taken:?}");
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn without_its_database_nothing_is_accepted_and_with_it_everything_goes_on() {
    let (server, url) = (mesh::postgres(), mesh::database("outage"));
    let mesh = Mesh::up_by(on(&url));
    let gate = Arc::new(AtomicBool::new(false));
    let open = Arc::clone(&gate);
    let (port, _seen) = listen(move |_, _| if open.load(Ordering::SeqCst) { fine() } else { (503, String::new()) });
    let sidecar = mesh.run(&["--name", "shop", "--port", &port.to_string()], &["sleep", "1000"]);
    sidecar.wait_for_line("joined as");
    assert_eq!(ask(&mesh, "POST", "/txn/v1/sagas", 0, &saga(0)).0, 201);
    mesh::run_sql(&server, "alter database outage with allow_connections false");
    mesh::run_sql(&server, "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'outage'");
    let (status, refused) = ask(&mesh, "POST", "/txn/v1/sagas", 0, &saga(1));
    assert_eq!((status, &refused["code"]), (503, &json!("BYR-T007")), "{refused}");
    let meter = mesh::Meter::of(mesh.up.as_ref().unwrap().pid());
    // Long enough that the lease is over too.
    until("the shards to be lost", || shards(&mesh).to_string(), || shards(&mesh) == 0);
    let (status, refused) = ask(&mesh, "POST", "/txn/v1/sagas", 0, &saga(1));
    assert_eq!((status, &refused["code"]), (503, &json!("BYR-T007")), "{refused}");
    assert!(meter.share() < 0.5, "it doesn't wait busily: {}", meter.share());
    gate.store(true, Ordering::SeqCst);
    mesh::run_sql(&server, "alter database outage with allow_connections true");
    until(
        "it to accept again",
        || format!("{:?}", ask(&mesh, "POST", "/txn/v1/sagas", 0, &saga(1))),
        || matches!(ask(&mesh, "POST", "/txn/v1/sagas", 20, &saga(1)), (200 | 201, saga) if saga["state"] == "SUCCEEDED"),
    );
    let state = || ask(&mesh, "GET", "/txn/v1/s0", 0, &Value::Null).1["state"].clone();
    until("what was under way to go on", || state().to_string(), || state() == "SUCCEEDED");
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_file_with_transactions_under_way_is_not_left_for_a_database() {
    let url = mesh::database("moved");
    let mut mesh = Mesh::up(&[]);
    let (port, _seen) = listen(|_, _| (503, String::new()));
    let sidecar = mesh.run(&["--name", "shop", "--port", &port.to_string()], &["sleep", "1000"]);
    sidecar.wait_for_line("joined as");
    assert_eq!(ask(&mesh, "POST", "/txn/v1/sagas", 0, &saga(0)).0, 201);
    let mut up = mesh.up.take().unwrap();
    up.signal("TERM");
    up.wait();
    let mut command = on(&url);
    let refused = command.arg("--data-dir").arg(&mesh.data).arg("up").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("BYR-T008") && said.contains("1 transactions in"), "{said}");
}

#[test]
fn a_password_is_neither_taken_from_a_command_line_nor_shown() {
    let folder = tempfile::tempdir().unwrap();
    let url = "postgresql://byrnie:hunter2@127.0.0.1:9/none";
    let up = |command: &mut Command, args: &[&str]| {
        let output = command.arg("--data-dir").arg(folder.path()).arg("up").args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (status, said) = up(&mut mesh::byrnie(), &["--transactions", url]);
    assert!(
        status == Some(2) && said.contains("BYRNIE_TRANSACTIONS") && !said.contains("hunter2"),
        "{status:?} {said}"
    );
    let (status, said) = up(&mut on(url), &[]);
    assert!(status == Some(1) && said.contains("BYR-T008") && !said.contains("hunter2"), "{status:?} {said}");
}
