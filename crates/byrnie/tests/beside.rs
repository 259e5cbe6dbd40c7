// SPDX-License-Identifier: Apache-2.0
//! Money between three banks on PostgreSQL by sagas of dtm's own API, asked of byrnie or of dtm itself (`DTM` names its program), which
//! is killed as the banks are, while calls are lost, doubled and late. What became of the money stands in the banks' books; of
//! byrnie not a cent may be missing, of dtm it is told. `cargo xtask transfers --beside dtm` runs it for both.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bank;
mod mesh;

use byrnie_base::Rng;
use mesh::{Mesh, Program, Stopwatch, free_port};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BANKS: [&str; 3] = ["bank-a", "bank-b", "bank-c"];
/// Transfers at one time.
const CLIENTS: u64 = 16;
/// All ought to have ended so long after the last fault.
const SETTLED: Duration = Duration::from_secs(30);
/// What hasn't ended so long after the last fault counts as stuck.
const STUCK: Duration = Duration::from_secs(120);

/// One transfer as it is asked for.
struct Transfer {
    n: u64,
    from: usize,
    to: usize,
    account: i64,
    into: i64,
    amount: i64,
}

impl Transfer {
    fn new(n: u64, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let from = rng.below(3) as usize;
        let open = |rng: &mut Rng| rng.below(bank::CLOSED as u64) as i64;
        let (account, into) = (open(&mut rng), open(&mut rng));
        Self {
            n,
            from,
            to: (from + 1 + rng.below(2) as usize) % 3,
            account,
            // One in ten is refused by whoever is to get it, and one in ten is more than anybody has.
            into: if rng.percent(10) { bank::CLOSED } else { into },
            amount: if rng.percent(10) { 1_000_000 } else { 1 + rng.below(50) as i64 },
        }
    }

    /// Of one length, so that no id begins with another: dtm would mistake one for the other.
    fn gid(&self) -> String {
        format!("t{:07}", self.n)
    }

    fn request(&self, ports: [u16; 3]) -> Value {
        let step = |bank: usize, path: &str, undo: &str| {
            let at = format!("http://127.0.0.1:{}", ports[bank]);
            json!({"action": format!("{at}{path}"), "compensate": format!("{at}{undo}")})
        };
        let payload = |account: i64| json!({"account": account, "amount": self.amount}).to_string();
        json!({"gid": self.gid(), "trans_type": "saga", "retry_interval": 1, "request_timeout": 5,
            "steps": [step(self.from, "/take", "/untake"), step(self.to, "/give", "/ungive")],
            "payloads": [payload(self.account), payload(self.into)]})
    }
}

/// Whose API it is.
enum Subject {
    Byrnie(Mesh),
    Dtm { program: PathBuf, folder: tempfile::TempDir, port: u16, running: Option<Program> },
}

impl Subject {
    fn start() -> Self {
        let Some(program) = std::env::var_os("DTM") else { return Self::Byrnie(Mesh::up(&[])) };
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        // BoltDB, its own default.
        let conf = format!(
            "Store:\n  Driver: boltdb\nHttpPort: {port}\nGrpcPort: {}\nJsonRpcPort: {}\nLogLevel: error\n",
            free_port(),
            free_port()
        );
        std::fs::write(folder.path().join("conf.yml"), conf).unwrap();
        let mut dtm = Self::Dtm { program: program.into(), folder, port, running: None };
        dtm.again();
        dtm
    }

    fn again(&mut self) {
        match self {
            Self::Byrnie(mesh) => mesh.start(&[]),
            Self::Dtm { program, folder, port, running } => {
                let mut command = Command::new(program);
                command.args(["-c", "conf.yml"]).current_dir(folder.path());
                *running = Some(Program::spawn(command));
                let at = SocketAddr::from(([127, 0, 0, 1], *port));
                mesh::until("dtm to listen", String::new, || TcpStream::connect(at).is_ok());
            }
        }
    }

    fn kill(&mut self) {
        let running = match self {
            Self::Byrnie(mesh) => &mut mesh.up,
            Self::Dtm { running, .. } => running,
        };
        let mut program = running.take().unwrap();
        program.signal("KILL");
        program.wait();
    }

    /// How it is reached; known by whoever asks, however often it is started again.
    fn door(&self) -> Door {
        match self {
            Self::Byrnie(mesh) => Door { data: Some(mesh.data.clone()), port: 0 },
            Self::Dtm { port, .. } => Door { data: None, port: *port },
        }
    }
}

/// The way to the API.
struct Door {
    data: Option<PathBuf>,
    port: u16,
}

impl Door {
    fn ask(&self, method: &str, verb: &str, body: &str) -> Result<(u16, Value), std::io::Error> {
        let (mut port, mut token) = (self.port, String::new());
        if let Some(data) = &self.data {
            let ports: Value = serde_json::from_str(&std::fs::read_to_string(data.join("ports.json"))?)?;
            port = ports["console"].as_u64().and_then(|port| port.try_into().ok()).unwrap();
            token = std::fs::read_to_string(data.join("token"))?.trim().to_owned();
        }
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let head = format!(
            "{method} /api/dtmsvr/{verb} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        // A body in chunks begins with the length of the first.
        let json = body.find('{').and_then(|at| body.get(at..=body.rfind('}')?)).unwrap_or("null");
        Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, serde_json::from_str(json).unwrap_or_default()))
    }

    /// Asks until it is taken.
    fn submit(&self, transfer: &Transfer, ports: [u16; 3]) {
        let (body, waited) = (transfer.request(ports).to_string(), Stopwatch::start());
        let mut last = None;
        while waited.passed() < mesh::PATIENCE {
            match self.ask("POST", "submit", &body) {
                // dtm's 409: it was taken before, and may even have ended well.
                Ok((200 | 409, _)) => return,
                other => last = Some(other),
            }
            std::thread::yield_now();
        }
        panic!("{} wasn't taken: {last:?}", transfer.gid());
    }

    fn status(&self, transfer: &Transfer) -> String {
        let answer = self.ask("GET", &format!("query?gid={}", transfer.gid()), "");
        answer.map_or_else(
            |error| error.to_string(),
            |(_, body)| body["transaction"]["status"].as_str().unwrap_or("unknown").to_owned(),
        )
    }
}

fn bank(at: usize, url: &str, port: u16) -> Program {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["the_program_of_a_bank", "--exact", "--ignored", "--nocapture"]);
    command.env(bank::NAME, BANKS[at]).env(bank::PORT, port.to_string()).env(bank::URL, url);
    // Nobody sends messages here.
    command.env(bank::LATE_MS, "500").env("BYRNIE_TRANSACTIONS_URL", "http://127.0.0.1:1");
    let bank = Program::spawn(command);
    bank.wait_for_line("bank is open");
    bank
}

/// Not a test: what is started for a bank.
#[test]
#[ignore = "it is the program of a bank, which the test below starts"]
fn the_program_of_a_bank() {
    if std::env::var_os(bank::NAME).is_some() {
        bank::serve();
    }
}

/// What a transfer did at each bank, by its books.
fn effects(runtime: &tokio::runtime::Runtime, books: &[PgPool]) -> Vec<BTreeMap<String, i64>> {
    let query = "select txn, sum(balance)::bigint from effect group by 1";
    let read = |pool| runtime.block_on(sqlx::query_as::<_, (String, i64)>(query).fetch_all(pool)).unwrap();
    books.iter().map(|pool| read(pool).into_iter().collect()).collect()
}

#[test]
#[ignore = "it needs PostgreSQL; `cargo xtask transfers --beside dtm` runs it"]
fn sagas_by_dtms_api_under_fire() {
    let told = |name: &str, usual: u64| std::env::var(name).map_or(usual, |told| told.parse().unwrap());
    let (count, kills, seed) = (told("TRANSFERS", 500), told("KILLS", 10), told("SEED", 1));
    let url = mesh::postgres();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let books: Vec<PgPool> = BANKS.iter().map(|name| runtime.block_on(bank::open(&url, name))).collect();
    let ports = [free_port(), free_port(), free_port()];
    let mut banks: Vec<Program> = (0..3).map(|at| bank(at, &url, ports[at])).collect();
    let mut subject = Subject::start();
    let door = subject.door();
    let (begun, done, mut rng) = (Stopwatch::start(), AtomicU64::new(0), Rng::new(seed));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (door, done) = (&door, &done);
                scope.spawn(move || {
                    for n in (client..count).step_by(CLIENTS as usize) {
                        door.submit(&Transfer::new(n, seed), ports);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for kill in 1..=kills {
            let reached = || done.load(Ordering::Relaxed) >= count * kill / (kills + 1);
            mesh::until("transfers to be taken", String::new, || {
                reached() || clients.iter().all(std::thread::ScopedJoinHandle::is_finished)
            });
            if rng.below(2) == 0 {
                subject.kill();
                subject.again();
            } else {
                let at = rng.below(3) as usize;
                banks[at].signal("KILL");
                banks[at].wait();
                banks[at] = bank(at, &url, ports[at]);
            }
        }
    });
    let last_fault = Stopwatch::start();
    let mut open: BTreeMap<u64, Transfer> = (0..count).map(|n| (n, Transfer::new(n, seed))).collect();
    let mut ended: BTreeMap<u64, bool> = BTreeMap::new();
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    let mut settled = last_fault.passed();
    while !open.is_empty() && last_fault.passed() < STUCK {
        open.retain(|n, transfer| {
            let status = door.status(transfer);
            let over = matches!(status.as_str(), "succeed" | "failed");
            if over {
                ended.insert(*n, status == "succeed");
                *statuses.entry(status).or_default() += 1;
                settled = last_fault.passed();
            }
            !over
        });
    }
    let done = effects(&runtime, &books);
    let mut wrong = Vec::new();
    for transfer in ended.keys().map(|n| Transfer::new(*n, seed)) {
        for (bank, found) in done.iter().enumerate() {
            let found = found.get(&transfer.gid()).copied().unwrap_or_default();
            let wanted = match (ended[&transfer.n], bank) {
                (true, bank) if bank == transfer.from => -transfer.amount,
                (true, bank) if bank == transfer.to => transfer.amount,
                _ => 0,
            };
            if found != wanted {
                wrong.push(format!("{} at {}: {found} for {wanted}", transfer.gid(), BANKS[bank]));
            }
        }
    }
    let sums = "select sum(balance)::bigint from account";
    let sum: i64 =
        books.iter().map(|pool| runtime.block_on(sqlx::query_scalar::<_, i64>(sums).fetch_one(pool)).unwrap()).sum();
    let missing = 3 * bank::ACCOUNTS * bank::OPENING - sum;
    let name = if door.data.is_some() { "byrnie" } else { "dtm" };
    println!(
        "{name}: {count} sagas in {:.1?}, {kills} kills; ended {statuses:?}, the last {settled:.1?} after the last kill, {} still open after \
         {STUCK:?}; {} wrong in the books, {missing} missing from the sum",
        begun.passed(),
        open.len(),
        wrong.len(),
    );
    for line in wrong.iter().take(10) {
        println!("  {line}");
    }
    if name == "byrnie" {
        assert!(wrong.is_empty() && open.is_empty() && missing == 0, "{wrong:#?}");
        assert!(settled < SETTLED, "the last ended {settled:?} after the last kill");
    }
}
