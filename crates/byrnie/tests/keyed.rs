// SPDX-License-Identifier: Apache-2.0
//! Keyed payments to a program without a barrier, while sidecars, control planes and the program are killed, and calls are late, doubled
//! and their answers lost: no payment is ever made twice behind anybody's back, and every one whose end nobody knows is
//! reported as such. `cargo xtask payments --count 20000 --kills 800` for longer, `--coordinators 2` for as many control planes that share
//! a ledger in PostgreSQL, and `--programs 1` to kill the program as well.
#![expect(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a test's harness")]

mod mesh;

use byrnie_base::Rng;
use mesh::{Mesh, PATIENCE, Program, free_port, until};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Clients at once.
const CLIENTS: u64 = 8;
/// Of a hundred calls: so many are late, as many come twice, and as many lose their answer.
const TROUBLE_PERCENT: u64 = 5;
/// The name and the port of the program, and the file of its books, in its environment.
const BOOKS: &str = "PAYMENTS_BOOKS";
const PORT: &str = "PAYMENTS_PORT";
/// A key whose payment the program doesn't outlive.
const FATAL: &str = "fatal";
const POLICY: &str = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: keys}\n\
                      spec: {targetRefs: [{name: payments}], idempotency: {mode: Required, lease: 3s}}\n";

/// How much, and who is killed.
#[derive(Clone, Copy, Debug)]
struct Fire {
    payments: u64,
    kills: u64,
    seed: u64,
    late_ms: u64,
    /// More than one share a database.
    control_planes: usize,
    /// Whether the program is killed, too.
    programs: bool,
}

/// What has time in a run of all tests.
const SMALL: Fire = Fire { payments: 160, kills: 8, seed: 1, late_ms: 200, control_planes: 1, programs: false };

/// The program: it writes each payment into its books as it makes it, and never looks there.
fn serve(port: u16, books: &Path) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let books = Arc::new(OpenOptions::new().create(true).append(true).open(books).unwrap());
    for stream in listener.incoming().flatten() {
        let books = Arc::clone(&books);
        std::thread::spawn(move || answer(stream, &books));
    }
}

fn answer(stream: TcpStream, books: &File) -> Option<()> {
    static MADE: AtomicUsize = AtomicUsize::new(0);
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
        // One write, whole or not at all.
        let mut books = books;
        books.write_all(format!("{key}\n").as_bytes()).unwrap();
        if key == FATAL {
            std::process::abort();
        }
        // Work takes a moment, so that kills find payments that were made and not yet answered.
        std::thread::sleep(Duration::from_millis(3));
        let receipt = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::SeqCst));
        let head = format!("HTTP/1.1 201 Made\r\ncontent-length: {}\r\n\r\n", receipt.len());
        writer.write_all((head + &receipt).as_bytes()).ok()?;
    }
}

/// Not a test: what `run` starts for the program.
#[test]
#[ignore = "it is the program, which the tests below start"]
fn the_program_of_payments() {
    let Ok(port) = std::env::var(PORT) else { return };
    println!("the books are open");
    serve(port.parse().unwrap(), Path::new(&std::env::var(BOOKS).unwrap()));
}

/// An answer: its status, its mark, and its body.
type Answer = (u16, String, String);

/// Sends one payment through the edge of a mesh.
fn send(ports: &Path, key: &str) -> Option<TcpStream> {
    let ports: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(ports).ok()?).ok()?;
    send_to(SocketAddr::from(([127, 0, 0, 1], u16::try_from(ports["edge"].as_u64()?).ok()?)), key)
}

fn send_to(at: SocketAddr, key: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = format!(
        "POST /pay HTTP/1.1\r\nHost: payments.default.mesh.localhost\r\nIdempotency-Key: \"{key}\"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n30"
    );
    stream.write_all(head.as_bytes()).ok()?;
    Some(stream)
}

fn hear(mut stream: TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let head = head.to_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mark = head.lines().find_map(|line| line.strip_prefix("idempotency-status:")).unwrap_or_default();
    Some((status, mark.trim().to_owned(), body.to_owned()))
}

fn pay(ports: &Path, key: &str) -> Option<Answer> {
    hear(send(ports, key)?)
}

/// How a client's payment ended.
#[derive(Clone, Debug, PartialEq)]
enum End {
    /// With this receipt.
    Paid(String),
    Ambiguous,
}

fn end_of(answer: Option<&Answer>) -> Option<End> {
    match answer {
        Some((201, _, receipt)) => Some(End::Paid(receipt.clone())),
        Some((409, mark, _)) if mark == "ambiguous" => Some(End::Ambiguous),
        _ => None,
    }
}

/// Sends one payment, by any of the edges, until it is paid or reported as ambiguous, as a careful client does on a bad network.
fn settle(doors: &[PathBuf], key: &str, rng: &mut Rng, late_ms: u64) -> End {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < deadline {
        let door = &doors[rng.below(doors.len() as u64) as usize];
        if rng.percent(TROUBLE_PERCENT) {
            std::thread::sleep(Duration::from_millis(rng.below(1 + late_ms)));
        }
        let twin = rng.percent(TROUBLE_PERCENT).then(|| send(&doors[rng.below(doors.len() as u64) as usize], key));
        let sent = send(door, key);
        if rng.percent(TROUBLE_PERCENT) {
            continue;
        }
        let answers = [sent.and_then(hear), twin.flatten().and_then(hear)];
        let ends: Vec<End> = answers.iter().filter_map(|answer| end_of(answer.as_ref())).collect();
        let mut receipts = ends.iter().filter(|end| **end != End::Ambiguous);
        if let Some(paid) = receipts.next() {
            assert!(receipts.all(|other| other == paid), "{key} was told {ends:?}");
            return paid.clone();
        }
        if !ends.is_empty() {
            return End::Ambiguous;
        }
        last = answers.into_iter().next();
        // Whatever else: the same payment again, under the same key.
        std::thread::sleep(Duration::from_millis(30));
    }
    panic!("{key} never ended; last: {last:?}");
}

/// Everything that may be killed.
struct World {
    fire: Fire,
    meshes: Vec<Mesh>,
    port: u16,
    books: PathBuf,
    /// Of each mesh one.
    sidecars: Vec<Program>,
    database: Option<String>,
}

impl World {
    fn start(fire: Fire, folder: &Path) -> Self {
        let database = (fire.control_planes > 1).then(|| mesh::database(&format!("payments_{}", fire.seed)));
        let meshes = (0..fire.control_planes).map(|_| Mesh::up_by(up(database.as_deref()))).collect();
        Self::on(meshes, database, fire, folder)
    }

    /// The same, on meshes that run.
    fn on(meshes: Vec<Mesh>, database: Option<String>, fire: Fire, folder: &Path) -> Self {
        let (port, books) = (free_port(), folder.join("books"));
        let mut world = Self { fire, meshes, port, books, sidecars: Vec::new(), database };
        if !fire.programs {
            let (port, books) = (world.port, world.books.clone());
            std::thread::spawn(move || serve(port, &books));
        }
        world.sidecars = (0..fire.control_planes).map(|at| world.sidecar(at)).collect();
        for (mesh, ports) in world.meshes.iter().zip(world.doors()) {
            mesh.ok(&["apply", "-f", &mesh::file(mesh, "keys.yaml", POLICY)]);
            // A payment without a key is refused once the policy is in force.
            until("the policy", String::new, || pay(&ports, "").is_some_and(|(status, ..)| status == 400));
        }
        // What was made until then, without a key, is nobody's.
        OpenOptions::new().create(true).write(true).truncate(true).open(&world.books).unwrap();
        world
    }

    fn doors(&self) -> Vec<PathBuf> {
        self.meshes.iter().map(|mesh| mesh.data.join("ports.json")).collect()
    }

    /// The sidecar in one mesh; in the first, with the program if that may be killed.
    fn sidecar(&self, at: usize) -> Program {
        let port = self.port.to_string();
        let args = ["--name", "payments", "--port", &port];
        if at > 0 || !self.fire.programs {
            let run = self.meshes[at].run(&args, &["sleep", "100000"]);
            run.wait_for_line("joined as");
            return run;
        }
        let mut command = mesh::byrnie();
        command.env(PORT, &port).env(BOOKS, &self.books);
        let own = std::env::current_exe().unwrap();
        let program = [own.to_str().unwrap(), "the_program_of_payments", "--exact", "--ignored", "--nocapture"];
        let run = self.meshes[at].run_by(command, &args, &program);
        run.wait_for_line("the books are open");
        run
    }

    /// Kills one, and starts it again.
    fn strike(&mut self, rng: &mut Rng) -> &'static str {
        let at = rng.below(self.meshes.len() as u64) as usize;
        let kinds = if self.fire.programs { 3 } else { 2 };
        let who = match rng.below(kinds) {
            0 => {
                let mut killed = self.meshes[at].up.take().unwrap();
                killed.signal("KILL");
                killed.wait();
                self.meshes[at].start_by(up(self.database.as_deref()), &[]);
                return "control plane";
            }
            1 => {
                self.sidecars[at].signal("KILL");
                "sidecar"
            }
            _ => {
                for pid in mesh::descendants(self.sidecars[0].pid()) {
                    mesh::strike(pid);
                }
                self.sidecars[0].wait();
                self.sidecars[0] = self.sidecar(0);
                return "program";
            }
        };
        self.sidecars[at].wait();
        self.sidecars[at] = self.sidecar(at);
        who
    }

    /// How often the book says that each payment was made.
    fn made(&self) -> BTreeMap<String, u32> {
        let mut made = BTreeMap::new();
        for key in std::fs::read_to_string(&self.books).unwrap().lines() {
            *made.entry(key.to_owned()).or_default() += 1;
        }
        made
    }

    /// What all proxies have counted of keys with this outcome.
    fn counted(&self, outcome: &str) -> u64 {
        // An exchange is counted when its answer has left, and before the proxy's only core answers the next one.
        for ports in self.doors() {
            until("an answer", String::new, || pay(&ports, "").is_some_and(|(status, ..)| status == 400));
        }
        let line = format!("byrnie_txn_keys_total{{outcome=\"{outcome}\"}} ");
        let proxies = self.meshes.iter().flat_map(Mesh::sidecars);
        let count = |proxy: serde_json::Value| -> u64 {
            let at = proxy["admin"].as_str().unwrap().parse().unwrap();
            let metrics = mesh::http(at, "localhost", "/metrics").unwrap().body;
            metrics.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap()
        };
        proxies.map(count).sum()
    }
}

/// What starts a mesh; of several, all on the same database.
fn up(database: Option<&str>) -> Command {
    let mut command = mesh::byrnie();
    command.envs(database.map(|url| ("BYRNIE_TRANSACTIONS", url)));
    command
}

/// Pays under fire, and looks.
fn run(fire: Fire) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start(fire, folder.path());
    let doors = world.doors();
    let begun = mesh::Stopwatch::start();
    let ends: Arc<Mutex<BTreeMap<String, End>>> = Arc::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (ends, doors) = (Arc::clone(&ends), doors.clone());
            let mut rng = Rng::new(fire.seed ^ (client + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            std::thread::spawn(move || {
                for n in (client..fire.payments).step_by(CLIENTS as usize) {
                    let key = format!("p{n}");
                    let end = settle(&doors, &key, &mut rng, fire.late_ms);
                    ends.lock().unwrap().insert(key, end);
                }
            })
        })
        .collect();
    let mut rng = Rng::new(fire.seed);
    let mut struck: BTreeMap<&str, u64> = BTreeMap::new();
    for kill in 1..=fire.kills {
        let enough = (fire.payments * kill / (fire.kills + 1)) as usize;
        let ended = || ends.lock().unwrap().len();
        let stopped = || clients.iter().all(std::thread::JoinHandle::is_finished);
        until("some payments", || format!("{} of {enough}", ended()), || ended() >= enough || stopped());
        *struck.entry(world.strike(&mut rng)).or_default() += 1;
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    let took = begun.passed();

    let (made, ends) = (world.made(), ends.lock().unwrap());
    for (key, end) in ends.iter() {
        let times = made.get(key).copied().unwrap_or(0);
        assert!(times <= 1, "{key} was made {times} times; its client was told {end:?}");
        assert!(*end == End::Ambiguous || times == 1, "{key} was never made, but its client was told it was");
    }
    let untold: Vec<_> = made.keys().filter(|key| !ends.contains_key(*key)).collect();
    assert!(untold.is_empty(), "every payment that was made has been told of: {untold:?}");
    // Who was killed last may not be known again yet.
    world.meshes.iter().for_each(|mesh| until("its sidecar", String::new, || mesh.sidecars().len() == 1));
    // Whoever is asked again says the same, or knows by now.
    let (counted, mut asked) = (world.counted("ambiguous"), 0);
    for (n, (key, end)) in ends.iter().enumerate() {
        // Who was killed last may not be there again yet.
        let mut again = None;
        until(
            "an answer",
            || key.clone(),
            || {
                again = pay(&doors[n % doors.len()], key);
                end_of(again.as_ref()).is_some()
            },
        );
        match (end, end_of(again.as_ref())) {
            (End::Ambiguous, Some(End::Ambiguous)) => asked += 1,
            (told, Some(now)) if *told == now || *told == End::Ambiguous => {
                assert!(again.is_some_and(|(_, mark, _)| mark == "replayed"), "{key}");
            }
            _ => panic!("{key} was told {end:?}, and now {again:?}"),
        }
    }
    assert_eq!(world.counted("ambiguous"), counted + asked, "proxies count what they report");
    let ambiguous = ends.iter().filter(|(_, end)| **end == End::Ambiguous);
    let (acted, idle): (Vec<&String>, Vec<_>) = ambiguous.map(|(key, _)| key).partition(|key| made.contains_key(*key));
    println!(
        "{} payments in {took:.1?} by {} control planes, {} kills {struck:?}: 0 made twice; {} ambiguous, all reported, {} of them made",
        ends.len(),
        fire.control_planes,
        fire.kills,
        acted.len() + idle.len(),
        acted.len()
    );
    assert_eq!(ends.len() as u64, fire.payments);
    if fire.programs {
        check_fatal(&mut world);
    }
}

/// A program that made the payment and was gone: that is ambiguous for whoever asks, at once and for ever, and is to be seen.
fn check_fatal(world: &mut World) {
    let doors = world.doors();
    let first = pay(&doors[0], FATAL).unwrap();
    assert!(first.0 >= 500 && first.1 == "ambiguous", "{first:?}");
    world.sidecars[0].wait();
    let seen = || world.meshes[0].json(&["explain", "last", "--service", "payments"]).to_string();
    world.sidecars[0] = world.sidecar(0);
    for ports in &doors {
        until(
            "it to be reported",
            || format!("{:?}", pay(ports, FATAL)),
            || end_of(pay(ports, FATAL).as_ref()) == Some(End::Ambiguous),
        );
    }
    assert_eq!(world.made()[FATAL], 1, "it isn't made again");
    until("`explain` to say it", seen, || seen().contains("ambiguous"));
    assert!(world.counted("ambiguous") >= doors.len() as u64, "the proxies have counted it");
}

#[test]
fn no_payment_is_made_twice_behind_anybodys_back() {
    run(SMALL);
}

#[test]
fn what_dies_with_the_program_is_reported() {
    run(Fire { payments: 120, kills: 6, seed: 2, programs: true, ..SMALL });
}

/// Asks a control plane to stop, and waits until it has.
fn end(mesh: &mut Mesh) {
    let mut up = mesh.up.take().unwrap();
    up.signal("TERM");
    up.wait();
}

/// An operator who loses the keys loses neither payments nor transactions, and has nothing run twice; with the keys everything is back, without a
/// restart.
#[test]
fn answers_come_back_with_the_keys_that_sealed_them() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let (first, second) = ("a1".repeat(32), "b2".repeat(32));
    let write = |lines: &[&str]| {
        let new = folder.path().join("keys.new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new).unwrap();
        file.write_all(lines.join("\n").as_bytes()).unwrap();
        std::fs::rename(&new, &keys).unwrap();
    };
    write(&[&first]);
    let args = ["--ledger-keys", keys.to_str().unwrap()];
    let mut world = World::on(vec![Mesh::up(&args)], None, SMALL, folder.path());
    let ports = world.doors().remove(0);
    let paid = pay(&ports, "k").unwrap();
    assert_eq!((paid.0, &*paid.1), (201, ""));
    let saga = r#"{"id": "s", "branches": [{"name": "pay", "action": "POST payments/pay", "compensate": "POST payments/back", "body": {}}]}"#;
    let saga = mesh::file(&world.meshes[0], "saga.json", saga);
    let told = world.meshes[0].ok(&["saga", "start", &saga, "--wait", "20"]);
    assert!(told.contains("SUCCEEDED"), "{told}");
    let replayed = || pay(&ports, "k").is_some_and(|again| again.1 == "replayed" && again.2 == paid.2);
    let state = || format!("{:?}", pay(&ports, "k"));

    end(&mut world.meshes[0]);
    world.meshes[0].start(&args);
    until("the payment to be replayed", state, replayed);
    assert!(world.meshes[0].ok(&["saga", "show", "s"]).contains("SUCCEEDED"));

    // Another file, and the ledger answers for what comes new.
    write(&[&second]);
    end(&mut world.meshes[0]);
    world.meshes[0].start(&args);
    until("new payments", String::new, || pay(&ports, "new").is_some_and(|paid| paid.0 == 201));
    let refused = pay(&ports, "k").unwrap();
    assert!(refused.0 == 503 && refused.2.contains("BYR-R044"), "{refused:?}");
    let log = world.meshes[0].up.as_ref().unwrap().log();
    assert!(log.contains("put its key back") && log.contains("sealed by the key "), "{log}");
    let refused = world.meshes[0].cli(&["saga", "show", "s"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("BYR-T010") && said.contains("sealed by the key "), "{said}");

    write(&[&second, &first]);
    until("the payment to be replayed again", state, replayed);
    assert!(world.meshes[0].ok(&["saga", "show", "s"]).contains("SUCCEEDED"));
    assert_eq!(world.made()["k"], 1, "it was never made again");
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn several_control_planes_know_each_others_payments() {
    let told = std::env::var("PAYMENTS").unwrap_or_else(|_| "240 10 3 200 2 0".to_owned());
    let told: Vec<u64> = told.split(' ').map(|word| word.parse().unwrap()).collect();
    let [payments, kills, seed, late_ms, control_planes, programs] = told[..] else { panic!("six numbers: {told:?}") };
    run(Fire { payments, kills, seed, late_ms, control_planes: control_planes as usize, programs: programs > 0 });
}

/// A program that calls payments, in one mesh: where its calls enter.
fn caller(mesh: &Mesh) -> (Program, SocketAddr) {
    let web = mesh.beside("web", None, &["--uses", "payments"]);
    let at = web.address("BYRNIE_PAYMENTS_URL");
    mesh.ok(&["allow", "web", "payments"]);
    (web, at)
}

fn pay_at(at: SocketAddr, key: &str) -> Option<Answer> {
    hear(send_to(at, key)?)
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn another_control_plane_answers_for_one_that_is_dead() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start(Fire { control_planes: 2, ..SMALL }, folder.path());
    let (web, at) = caller(&world.meshes[0]);
    let (_other_web, other) = caller(&world.meshes[1]);
    let paid = |at, key: &str| {
        let mut last = None;
        until(
            "a payment",
            || format!("{key} at {at}"),
            || {
                last = pay_at(at, key);
                last.as_ref().is_some_and(|(status, ..)| *status == 201)
            },
        );
        last.unwrap()
    };
    let first = paid(at, "first");
    // Each proxy has heard of the other control plane.
    let keepers = |mesh: &Mesh| {
        let proxies = mesh.sidecars();
        let of = |proxy: &serde_json::Value| {
            mesh::http(proxy["admin"].as_str().unwrap().parse().unwrap(), "localhost", "/metrics")
        };
        proxies.iter().filter(|proxy| of(proxy).unwrap().body.contains("byrnie_txn_keepers 1")).count()
    };
    until(
        "both to know of the other",
        || keepers(&world.meshes[0]).to_string(),
        || world.meshes.iter().all(|mesh| keepers(mesh) == 2),
    );
    world.meshes[0].up.take().unwrap().signal("KILL");
    // At once, not after some patience.
    let second = pay_at(at, "second").unwrap();
    assert_eq!((second.0, &*second.1), (201, ""), "{second:?}");
    for (key, before) in [("first", &first), ("second", &second)] {
        for at in [at, other] {
            let again = pay_at(at, key).unwrap();
            assert_eq!((again.0, &*again.1, &again.2), (201, "replayed", &before.2), "{key} at {at}");
        }
    }
    // Nobody is left: nothing is sent on, and no more is lost than patience.
    let mut killed = world.meshes[1].up.take().unwrap();
    killed.signal("KILL");
    killed.wait();
    assert_eq!(pay_at(at, "third").unwrap().0, 503);
    assert_eq!(world.made().get("third"), None);
    world.meshes[0].start_by(up(world.database.as_deref()), &[]);
    let third = paid(at, "third");
    assert_eq!(pay_at(at, "third").unwrap().2, third.2);
    assert_eq!(world.made().values().max(), Some(&1), "{:?}", world.made());
    drop(web);
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn what_a_file_remembers_goes_on_in_the_database() {
    let (folder, url) = (tempfile::tempdir().unwrap(), mesh::database("moved_keys"));
    let mut world = World::start(SMALL, folder.path());
    let ports = world.doors().remove(0);
    let paid = pay(&ports, "k").unwrap();
    assert_eq!((paid.0, &*paid.1), (201, ""));
    end(&mut world.meshes[0]);
    world.meshes[0].start_by(up(Some(&url)), &[]);
    let replayed = || pay(&ports, "k").is_some_and(|again| again.1 == "replayed" && again.2 == paid.2);
    until("the file's payment to be replayed", || format!("{:?}", pay(&ports, "k")), replayed);
    assert!(!world.meshes[0].data.join("ledger.redb").exists());
    end(&mut world.meshes[0]);
    // Without it a payment might be made twice.
    let refused = up(None).arg("--data-dir").arg(&world.meshes[0].data).arg("up").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("BYR-T008") && said.contains("ledger.moved"), "{said}");
    assert_eq!(world.made()["k"], 1);
}
