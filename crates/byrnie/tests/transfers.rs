// SPDX-License-Identifier: Apache-2.0
//! Money between three banks on PostgreSQL, by sagas, sagas within sagas, TCC and messages, while the coordinator, the proxies and the banks are
//! killed and calls are lost, doubled and late: not a cent comes or goes, and everything ends. `cargo xtask test postgres`
//! runs it; `cargo xtask transfers --count 50000 --kills 2000` for longer, and `--coordinators 3` for as many that share a
//! database, each with proxies of its own before the same banks.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bank;
mod mesh;

use byrnie_base::Rng;
use mesh::{Mesh, Program, free_port, until};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const BANKS: [&str; 3] = ["bank-a", "bank-b", "bank-c"];
/// Transfers at one time.
const CLIENTS: u64 = 16;
/// All have ended so long after the last fault.
const SETTLED: Duration = Duration::from_secs(30);

/// One transfer as it was asked for.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    n: u64,
    kind: Kind,
    from: usize,
    to: usize,
    account: i64,
    into: i64,
    amount: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Saga,
    /// A saga of two that are sagas.
    Nested,
    Tcc,
    Message,
}

impl Transfer {
    fn new(n: u64, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let kind = [Kind::Saga, Kind::Nested, Kind::Tcc, Kind::Message][rng.below(4) as usize];
        let from = rng.below(3) as usize;
        let to = (from + 1 + rng.below(2) as usize) % 3;
        let open = |rng: &mut Rng| rng.below(bank::CLOSED as u64) as i64;
        let account = open(&mut rng);
        // A message has no way back, so it is for accounts that take what comes.
        let into = if kind != Kind::Message && rng.percent(10) { bank::CLOSED } else { open(&mut rng) };
        // One in ten is more than anybody has.
        let amount = if rng.percent(10) { 1_000_000 } else { 1 + rng.below(50) as i64 };
        Self { n, kind, from, to, account, into, amount }
    }

    fn id(&self) -> String {
        format!("t{}", self.n)
    }

    /// Where it's sent, and as what.
    fn request(&self) -> (&'static str, Value) {
        let (from, to) = (BANKS[self.from], BANKS[self.to]);
        let out = json!({"account": self.account, "amount": self.amount});
        let into = json!({"account": self.into, "amount": self.amount});
        let retry = json!({"first_ms": 20, "cap_ms": 500, "timeout_ms": 5_000});
        match self.kind {
            Kind::Saga | Kind::Nested => {
                let take = json!({"name": "take", "action": format!("POST {from}/take"),
                    "compensate": format!("POST {from}/untake"), "body": out, "retry": retry});
                let give = json!({"name": "give", "action": format!("POST {to}/give"),
                    "compensate": format!("POST {to}/ungive"), "body": into, "retry": retry});
                let after = |mut branch: Value| {
                    branch["after"] = json!(["take"]);
                    branch
                };
                let within = |branch: Value| json!({"name": branch["name"], "saga": {"branches": [branch]}});
                let branches = match self.kind {
                    Kind::Nested => [within(take), after(within(give))],
                    _ => [take, after(give)],
                };
                ("/txn/v1/sagas", json!({"id": self.id(), "branches": branches}))
            }
            Kind::Tcc => {
                let take = json!({"name": "take", "try": format!("POST {from}/hold"), "body": out, "retry": retry,
                    "confirm": format!("POST {from}/settle"), "cancel": format!("POST {from}/release")});
                let give = json!({"name": "give", "try": format!("POST {to}/promise"), "body": into, "retry": retry,
                    "confirm": format!("POST {to}/keep"), "cancel": format!("POST {to}/forget")});
                ("/txn/v1/tcc", json!({"id": self.id(), "deadline_ms": 60_000, "branches": [take, give]}))
            }
            Kind::Message => {
                let pay = json!({"id": self.id(), "account": self.account, "amount": self.amount, "to": to, "into": self.into});
                ("/pay", pay)
            }
        }
    }

    /// What each bank's books must say of it.
    fn effect(&self, bank: usize, succeeded: bool) -> (i64, i64) {
        let amount = if !succeeded {
            0
        } else if bank == self.from {
            -self.amount
        } else if bank == self.to {
            self.amount
        } else {
            0
        };
        (amount, 0)
    }
}

/// How far the clients are.
struct Progress {
    done: Mutex<u64>,
    news: Condvar,
}

/// What clients need to reach the mesh, which is killed under them.
struct Doors {
    data: Vec<PathBuf>,
    banks: [SocketAddr; 3],
}

impl Doors {
    /// Asks until there is an answer that says what became of it.
    fn start(&self, transfer: &Transfer) {
        let (path, body) = transfer.request();
        let waited = mesh::Stopwatch::start();
        let mut last = None;
        let mut door = transfer.n as usize;
        while waited.passed() < mesh::PATIENCE {
            let answer = match transfer.kind {
                Kind::Message => ask(self.banks[transfer.from], "POST", path, "", &body),
                _ => self.operator(door, "POST", path, &body),
            };
            door += 1;
            match answer {
                Ok((200 | 201 | 409, _)) => return,
                other => last = Some(other),
            }
            std::thread::yield_now();
        }
        panic!("{transfer:?} wasn't taken: {last:?}");
    }

    /// By any of the coordinators.
    fn operator(&self, door: usize, method: &str, path: &str, body: &Value) -> Result<(u16, String), std::io::Error> {
        let data = &self.data[door % self.data.len()];
        let token = std::fs::read_to_string(data.join("token"))?;
        let headers = format!("Authorization: Bearer {token}\r\nPrefer: wait=2\r\n");
        ask(console(data)?, method, path, &headers, body)
    }

    fn state(&self, transfer: &Transfer) -> String {
        let answer = self.operator(transfer.n as usize, "GET", &format!("/txn/v1/{}", transfer.id()), &Value::Null);
        match answer {
            Ok((200, body)) => {
                let body: Value = serde_json::from_str(&body).unwrap_or_default();
                body["state"].as_str().unwrap_or_default().to_owned()
            }
            // A message that was never prepared.
            Ok((404, _)) => "NONE".to_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// A coordinator that starts again may find another port.
fn console(data: &Path) -> Result<SocketAddr, std::io::Error> {
    let ports: Value = serde_json::from_str(&std::fs::read_to_string(data.join("ports.json"))?)?;
    let port = ports["console"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap();
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Transactions that run in a coordinator.
fn running(data: &Path) -> Option<u64> {
    let answer = mesh::http(console(data).ok()?, "localhost", "/metrics").ok()?;
    answer.body.lines().find_map(|line| line.strip_prefix("byrnie_txn_running ")?.parse().ok())
}

fn ask(at: SocketAddr, method: &str, path: &str, headers: &str, body: &Value) -> Result<(u16, String), std::io::Error> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body.to_owned()))
}

/// Everything that may be killed.
struct World {
    /// One with a file of its own, or several with one database.
    meshes: Vec<Mesh>,
    url: String,
    late_ms: String,
    ports: [u16; 3],
    banks: Vec<Program>,
    /// Proxies of the banks in the meshes beyond the first.
    beside: Vec<Program>,
}

impl World {
    /// What starts a mesh; of several, all on the same database.
    fn up(url: &str, coordinators: usize) -> Command {
        let mut command = mesh::byrnie();
        if coordinators > 1 {
            command.env("BYRNIE_TRANSACTIONS", url);
        }
        command
    }

    fn bank(&self, at: usize) -> Program {
        let mut command = mesh::byrnie();
        command.env(bank::NAME, BANKS[at]).env(bank::PORT, self.ports[at].to_string());
        command.env(bank::URL, &self.url).env(bank::LATE_MS, &self.late_ms);
        let own = std::env::current_exe().unwrap();
        let program = [own.to_str().unwrap(), "the_program_of_a_bank", "--exact", "--ignored", "--nocapture"];
        let port = self.ports[at].to_string();
        self.meshes[0].run_by(
            command,
            &["--name", BANKS[at], "--port", &port, "--uses", "transactions.byrnie"],
            &program,
        )
    }

    /// Kills one, and starts it again.
    fn strike(&mut self, rng: &mut Rng) -> &'static str {
        let at = rng.below(3) as usize;
        match rng.below(3) {
            0 => {
                let coordinators = self.meshes.len();
                let mesh = &mut self.meshes[rng.below(coordinators as u64) as usize];
                let up = mesh.up.take().unwrap();
                up.signal("KILL");
                drop(up);
                mesh.start_by(Self::up(&self.url, coordinators), &[]);
                "coordinator"
            }
            1 => {
                // The program goes with its proxy.
                self.banks[at].signal("KILL");
                self.banks[at].wait();
                self.banks[at] = self.bank(at);
                "proxy and bank"
            }
            _ => {
                // The program goes with the first of them, perhaps before it's struck itself.
                for pid in mesh::descendants(self.banks[at].pid()) {
                    mesh::strike(pid);
                }
                self.banks[at].wait();
                self.banks[at] = self.bank(at);
                "bank"
            }
        }
    }
}

/// Not a test: what `run` starts for a bank.
#[test]
#[ignore = "it is the program of a bank, which the test below starts"]
fn the_program_of_a_bank() {
    if std::env::var_os(bank::NAME).is_some() {
        bank::serve();
    }
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn not_a_cent_comes_or_goes() {
    let told = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let url = mesh::postgres();
    let count: u64 = told("TRANSFERS", "2000").parse().unwrap();
    let kills: u64 = told("KILLS", "40").parse().unwrap();
    let seed: u64 = told("SEED", "1").parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let books: Vec<PgPool> = BANKS.iter().map(|name| runtime.block_on(bank::open(&url, name))).collect();
    let coordinators: usize = told("COORDINATORS", "1").parse().unwrap();
    runtime.block_on(sqlx::raw_sql("drop schema if exists byrnie cascade").execute(&books[0])).unwrap();
    let meshes = (0..coordinators).map(|_| Mesh::up_by(World::up(&url, coordinators))).collect();
    let ports = [free_port(), free_port(), free_port()];
    let (late_ms, beside) = (told("LATE_MS", "500"), Vec::new());
    let mut world = World { meshes, url, late_ms, ports, banks: Vec::new(), beside };
    world.banks = (0..3).map(|at| world.bank(at)).collect();
    for mesh in world.meshes.iter().skip(1) {
        for (name, port) in BANKS.iter().zip(ports) {
            world.beside.push(mesh.run(&["--name", name, "--port", &port.to_string()], &["sleep", "100000"]));
        }
    }
    for bank in &world.banks {
        bank.wait_for_line("bank is open");
    }
    world.beside.iter().for_each(|proxy| proxy.wait_for_line("joined as"));
    for mesh in &world.meshes {
        for from in BANKS {
            mesh.ok(&["allow", from, "transactions.byrnie"]);
            for to in BANKS.iter().filter(|to| **to != from) {
                mesh.ok(&["allow", from, to]);
            }
        }
    }
    let doors = Arc::new(Doors {
        data: world.meshes.iter().map(|mesh| mesh.data.clone()).collect(),
        banks: ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))),
    });
    let begun = mesh::Stopwatch::start();
    let progress = Arc::new(Progress { done: Mutex::new(0), news: Condvar::new() });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (doors, progress) = (Arc::clone(&doors), Arc::clone(&progress));
            std::thread::spawn(move || {
                for n in (client..count).step_by(CLIENTS as usize) {
                    doors.start(&Transfer::new(n, seed));
                    *progress.done.lock().unwrap() += 1;
                    progress.news.notify_all();
                }
            })
        })
        .collect();
    let mut rng = Rng::new(seed);
    let mut struck: BTreeMap<&str, u64> = BTreeMap::new();
    for kill in 1..=kills {
        let at = count * kill / (kills + 1);
        let stopped = || clients.iter().all(std::thread::JoinHandle::is_finished);
        let mut done = progress.done.lock().unwrap();
        while *done < at && !stopped() {
            done = progress.news.wait_timeout(done, Duration::from_secs(1)).unwrap().0;
        }
        drop(done);
        *struck.entry(world.strike(&mut rng)).or_default() += 1;
    }
    let last_fault = mesh::Stopwatch::start();
    for client in clients {
        client.join().unwrap();
    }
    // Of several, nobody drives what one has left until its lease is over.
    let running = || match &doors.data[..] {
        [alone] => running(alone),
        _ => runtime
            .block_on(sqlx::query_scalar("select count(*) from byrnie.txn where ended = 0").fetch_one(&books[0]))
            .ok()
            .and_then(|count: i64| u64::try_from(count).ok()),
    };
    until("every transfer to end", || format!("{:?} run", running()), || running() == Some(0));
    let (settled, took) = (last_fault.passed(), begun.passed());
    let mut ended: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut outcome = BTreeMap::new();
    for transfer in (0..count).map(|n| Transfer::new(n, seed)) {
        let state = doors.state(&transfer);
        let succeeded = match state.as_str() {
            "SUCCEEDED" | "CONFIRMED" | "DELIVERED" => true,
            "COMPENSATED" | "CANCELLED" | "ABORTED" | "NONE" => false,
            _ => panic!("{}: {state}", transfer.id()),
        };
        *ended.entry((format!("{:?}", transfer.kind), state)).or_default() += 1;
        outcome.insert(transfer.n, succeeded);
    }
    println!(
        "{count} transfers by {coordinators} coordinators in {took:.1?}, {kills} kills {struck:?}, all ended {settled:.1?} after the last: {ended:?}"
    );
    let mut sum = 0;
    let mut wrong = Vec::new();
    for (bank, pool) in books.iter().enumerate() {
        let (own, held): (i64, i64) = runtime
            .block_on(sqlx::query_as("select sum(balance)::bigint, sum(held)::bigint from account").fetch_one(pool))
            .unwrap();
        sum += own;
        assert_eq!(held, 0, "{} holds what nobody claims", BANKS[bank]);
        let effects: Vec<(String, i64, i64)> = runtime
            .block_on(
                // What is done within a saga is done by `ID.STEP`.
                sqlx::query_as(
                    "select split_part(txn, '.', 1), sum(balance)::bigint, sum(held)::bigint from effect group by 1",
                )
                .fetch_all(pool),
            )
            .unwrap();
        let effects: BTreeMap<String, (i64, i64)> = effects.into_iter().map(|(t, b, h)| (t, (b, h))).collect();
        for transfer in (0..count).map(|n| Transfer::new(n, seed)) {
            let found = effects.get(&transfer.id()).copied().unwrap_or_default();
            let wanted = transfer.effect(bank, outcome[&transfer.n]);
            if found != wanted {
                wrong.push(format!("{} at {}: {found:?} for {wanted:?}; {transfer:?}", transfer.id(), BANKS[bank]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
    assert_eq!(sum, 3 * bank::ACCOUNTS * bank::OPENING, "the sum of all money");
    assert!(settled < SETTLED, "the last ended {settled:?} after the last fault");
    for kind in ["Saga", "Nested", "Tcc", "Message"] {
        let ends = ended.keys().filter(|(of, _)| of == kind).count();
        assert!(ends >= 2, "{kind}: some end well and some don't: {ended:?}");
    }
}
