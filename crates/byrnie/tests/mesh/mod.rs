// SPDX-License-Identifier: Apache-2.0
//! A real mesh for a test: the binary itself, in a folder of its own, on free ports. Everything that a
//! test starts is ended by pid when it drops.
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part of this")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test's harness")]

pub mod console;
pub mod load;
pub mod otlp;
pub mod participant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything in these tests: generous, as the machine may be busy. Nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `byrnie up`.
pub struct Mesh {
    pub data: PathBuf,
    pub up: Option<Program>,
    _folder: Option<tempfile::TempDir>,
}

/// A child process with what it says kept.
pub struct Program {
    pid: u32,
    seen: Arc<Seen>,
}

/// What a program has said, and how it ended; whoever waits for either is woken.
#[derive(Default)]
struct Seen {
    now: Mutex<(String, Option<ExitStatus>)>,
    news: Condvar,
}

impl Seen {
    /// Waits until something holds, for [`PATIENCE`] at most; nothing if it never does.
    fn wait<T>(
        &self,
        patience: Duration,
        mut holds: impl FnMut(&(String, Option<ExitStatus>)) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut now = self.now.lock().unwrap();
        loop {
            if let Some(found) = holds(&now) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            now = self.news.wait_timeout(now, left).unwrap().0;
        }
    }

    fn change(&self, change: impl FnOnce(&mut (String, Option<ExitStatus>))) {
        change(&mut self.now.lock().unwrap());
        self.news.notify_all();
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Whether an echo program of this version has given it: the ids of a refusal may hold any two letters.
    pub fn is_of(&self, version: &str) -> bool {
        self.status == 200 && self.body.starts_with(&format!("echo version {version}:"))
    }
}

/// What every program of a test finds in its environment.
pub static ENVIRONMENT: std::sync::OnceLock<Vec<(String, String)>> = std::sync::OnceLock::new();

pub fn byrnie() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byrnie"));
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command.envs(ENVIRONMENT.get().into_iter().flatten().map(|(name, value)| (name, value)));
    command
}

/// The binary under a limit, in the words of the shell's `ulimit`.
pub fn limited(limit: &str) -> Command {
    let own = byrnie();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\"")).arg(own.get_program());
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    command
}

impl Mesh {
    /// Starts a mesh and waits until it's ready.
    pub fn up(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mesh = Self { data: folder.path().join("data"), up: None, _folder: Some(folder) };
        mesh.start(args);
        mesh
    }

    /// A mesh that runs already.
    pub fn of(data: PathBuf, up: Program) -> Self {
        Self { data, up: Some(up), _folder: None }
    }

    /// The same, by a command that stands for the binary.
    pub fn up_by(binary: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mesh = Self { data: folder.path().join("data"), up: None, _folder: Some(folder) };
        mesh.start_by(binary, &[]);
        mesh
    }

    /// Starts `up` on this mesh's data.
    pub fn start(&mut self, args: &[&str]) {
        self.start_by(byrnie(), args);
    }

    /// The same, by a command that stands for the binary.
    pub fn start_by(&mut self, mut command: Command, args: &[&str]) {
        let ports = self.data.join("ports.json");
        drop(std::fs::remove_file(&ports));
        command.arg("--data-dir").arg(&self.data).arg("up").args(args);
        let up = Program::spawn(command);
        up.wait_for_line("ready after");
        assert!(ports.exists(), "ports.json is there when `ready` is printed: {}", up.log());
        self.up = Some(up);
    }

    /// A port from `ports.json`.
    pub fn port(&self, name: &str) -> u16 {
        let text = std::fs::read_to_string(self.data.join("ports.json")).unwrap();
        let ports: serde_json::Value = serde_json::from_str(&text).unwrap();
        u16::try_from(ports[name].as_u64().unwrap()).unwrap()
    }

    /// Runs a command of the CLI to its end.
    pub fn cli(&self, args: &[&str]) -> Output {
        byrnie().arg("--data-dir").arg(&self.data).args(args).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "byrnie {args:?} failed: {text}{}\n-- up:\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.up.as_ref().map(Program::log).unwrap_or_default()
        );
        text
    }

    /// Runs a command with `-o json` and parses what it printed.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.ok(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("byrnie {args:?} printed no JSON ({error}): {text}"))
    }

    /// Handshakes that the edge has carried out: in full, and by going on with an earlier session. `None` while it's being replaced.
    pub fn handshakes(&self) -> Option<(u64, u64)> {
        let proxies = self.json(&["proxies"]);
        let edge = proxies.as_array().unwrap().iter().find(|proxy| proxy["name"].as_str().unwrap().ends_with("/edge"));
        let admin = edge?["admin"].as_str()?.parse().unwrap();
        let metrics = http(admin, "localhost", "/metrics").ok()?.body;
        let of = |kind: &str| {
            let name = format!("byrnie_handshakes_total{{kind=\"{kind}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
        };
        Some((of("full"), of("resumed")))
    }

    /// The proxies of programs, leaving out those of the mesh itself.
    pub fn sidecars(&self) -> Vec<serde_json::Value> {
        let all = self.json(&["proxies"]);
        let of_program = |proxy: &&serde_json::Value| proxy["name"].as_str().unwrap().starts_with("default/");
        all.as_array().unwrap().iter().filter(of_program).cloned().collect()
    }

    /// Waits until every proxy has confirmed all that the control plane knows by now.
    pub fn until_in_sync(&self) {
        let all = || self.json(&["proxies"]);
        let in_sync = || all().as_array().unwrap().iter().all(|proxy| proxy["inSync"] == true);
        until("every proxy in sync", || all().to_string(), in_sync);
    }

    /// Starts `byrnie run` with these arguments.
    pub fn run(&self, args: &[&str], program: &[&str]) -> Program {
        self.run_by(byrnie(), args, program)
    }

    /// The same, by a command that stands for the binary.
    pub fn run_by(&self, mut command: Command, args: &[&str], program: &[&str]) -> Program {
        command.arg("--data-dir").arg(&self.data).arg("run").args(args).arg("--").args(program);
        Program::spawn(command)
    }

    /// Starts a sidecar for a program of this process, if it's for one.
    pub fn beside(&self, name: &str, port: Option<(u16, &str)>, more: &[&str]) -> Program {
        let port = port.map(|(port, protocol)| (port.to_string(), protocol));
        let mut args = vec!["--name", name];
        if let Some((port, protocol)) = &port {
            args.extend(["--port", port, "--protocol", protocol]);
        }
        args.extend(more);
        let run = self.run(&args, &["tail", "-f", "/dev/null"]);
        run.wait_for_line("joined as");
        run
    }

    /// Starts an instance of an echo service.
    pub fn echo(&self, name: &str, version: &str, more: &[&str]) -> Program {
        let port = free_port().to_string();
        let labels = format!("version={version}");
        let args = [&["--name", name, "--port", &port, "--labels", &labels], more].concat();
        let program = echo_program(&port, version);
        self.run(&args, &program.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Asks a service through the edge.
    pub fn ask(&self, service: &str, path: &str) -> Result<Answer, String> {
        let host = format!("{service}.default.mesh.localhost");
        http(SocketAddr::from(([127, 0, 0, 1], self.port("edge"))), &host, path)
    }

    /// Asks through the edge until the answer is as wanted.
    pub fn ask_until(&self, service: &str, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let mut last = String::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.ask(service, path) {
                Ok(answer) if wanted(&answer) => return answer,
                other => last = format!("{other:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{service}{path} never answered as wanted; last: {last}");
    }
}

/// One of a program's outputs, of which two threads take what there is.
struct Said {
    pipe: File,
    /// What has come of a line that hasn't ended.
    begun: Mutex<Vec<u8>>,
    seen: Arc<Seen>,
}

impl Said {
    fn by(pipe: OwnedFd, seen: &Arc<Seen>) -> Self {
        fcntl_setfl(&pipe, OFlags::NONBLOCK).unwrap();
        Self { pipe: pipe.into(), begun: Mutex::default(), seen: Arc::clone(seen) }
    }

    /// Waits for more; whether there may be more still.
    fn wait(&self) -> bool {
        // A signal is no news.
        let _ = poll(&mut [PollFd::new(&self.pipe, PollFlags::IN)], None);
        self.take()
    }

    /// Takes what is there, without waiting; whether there may be more.
    fn take(&self) -> bool {
        let mut begun = self.begun.lock().unwrap();
        let mut some = [0; 4096];
        loop {
            let read = (&self.pipe).read(&mut some);
            match &read {
                Ok(read @ 1..) => begun.extend_from_slice(&some[..*read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                _ => {}
            }
            let ended = read.as_ref().is_ok_and(|read| *read == 0);
            if ended && !begun.is_empty() && !begun.ends_with(b"\n") {
                begun.push(b'\n');
            }
            let whole = begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            if whole > 0 {
                let lines: Vec<u8> = begun.drain(..whole).collect();
                self.seen.change(|now| now.0.push_str(&String::from_utf8_lossy(&lines)));
            }
            if ended || read.is_err() {
                return !ended;
            }
        }
    }
}

impl Program {
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (pid, seen) = (child.id(), Arc::<Seen>::default());
        let pipes: [OwnedFd; 2] = [child.stdout.take().unwrap().into(), child.stderr.take().unwrap().into()];
        let outputs = pipes.map(|pipe| Arc::new(Said::by(pipe, &seen)));
        for output in &outputs {
            let output = Arc::clone(output);
            std::thread::spawn(move || while output.wait() {});
        }
        let ended = Arc::clone(&seen);
        std::thread::spawn(move || {
            let status = child.wait().unwrap();
            // What it said last comes before its end; others may hold its output for longer.
            for output in &outputs {
                output.take();
            }
            ended.change(|now| now.1 = Some(status));
        });
        Self { pid, seen }
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.seen.now.lock().unwrap().0.clone()
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it prints a line with these words.
    pub fn wait_for_line(&self, words: &str) {
        let found = self.seen.wait(PATIENCE, |now| now.0.lines().any(|line| line.contains(words)).then_some(()));
        assert!(found.is_some(), "never saw a line with {words:?}:\n{}", self.log());
    }

    /// Whether it hasn't ended.
    pub fn is_running(&self) -> bool {
        self.seen.now.lock().unwrap().1.is_none()
    }

    /// The value of a variable that `run` says it gives, once it has said so: it prints them one by one.
    pub fn value(&self, name: &str) -> String {
        let words = format!("✓ {name}=");
        self.wait_for_line(&words);
        let log = self.log();
        log.lines().find_map(|line| line.split_once(&words)).unwrap().1.to_owned()
    }

    /// Where such a URL leads.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.value(name).rsplit('/').next().unwrap().parse().unwrap()
    }

    /// Sends a signal by name, such as `KILL`.
    pub fn signal(&self, name: &str) {
        kill(self.pid(), name);
    }

    /// Waits for its end and returns its status.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.seen.wait(PATIENCE, |now| now.1);
        status.unwrap_or_else(|| panic!("it never ended: {}", self.log()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_running() {
            // It may be ending by itself.
            drop(Command::new("kill").arg("-TERM").arg(self.pid.to_string()).stderr(Stdio::null()).status());
            if self.seen.wait(Duration::from_secs(20), |now| now.1).is_none() {
                drop(Command::new("kill").arg("-KILL").arg(self.pid.to_string()).status());
            }
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- up:\n{}", self.up.as_ref().map(Program::log).unwrap_or_default());
        }
    }
}

/// Polls until something holds; `state` is shown if it never does.
pub fn until(what: &str, state: impl Fn() -> String, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("never saw {what}; last state:\n{}", state());
}

/// A port that is free, from below the range of outgoing connections; nobody else is given it while this process lives.
pub fn free_port() -> u16 {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    static GIVEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let start = u16::try_from(std::process::id() % 8_000).unwrap();
    loop {
        let port = 10_000 + (start + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) % 10_000;
        // Others' tests look for theirs, too: a name is one process' alone, and gone with it.
        let name = format!("byrnie-test-port-{port}");
        let name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let Ok(given) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            GIVEN.lock().unwrap().push(given);
            return port;
        }
    }
}

/// One GET by an HTTP proxy.
pub fn http_by_proxy(proxy: SocketAddr, url: &str) -> Result<Answer, String> {
    let host = url.split('/').nth(2).unwrap();
    http(proxy, host, url)
}

/// One GET on a connection of its own, given up after ten seconds without a word.
pub fn http(address: SocketAddr, host: &str, path: &str) -> Result<Answer, String> {
    http_within(Duration::from_secs(10), address, host, path)
}

/// The same, given up after another time.
pub fn http_within(patience: Duration, address: SocketAddr, host: &str, path: &str) -> Result<Answer, String> {
    let mut stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(patience)).map_err(|e| e.to_string())?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no head: {text}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("no status: {head}"))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Every descendant of a process, by `/proc`.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let path = format!("/proc/{0}/task/{0}/children", found[at]);
        let children = std::fs::read_to_string(path).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        at += 1;
    }
    found.remove(0);
    found
}

/// The command of an echo program.
pub fn echo_program(port: &str, version: &str) -> Vec<String> {
    let words = [env!("CARGO_BIN_EXE_byrnie"), "demo-service", "echo", "--port", port, "--version", version];
    words.map(str::to_owned).to_vec()
}

/// The PostgreSQL of tests that need one, and are ignored unless it's there.
pub fn postgres() -> String {
    std::env::var("BYRNIE_POSTGRES")
        .unwrap_or_else(|_| panic!("BYRNIE_POSTGRES names no database: `cargo xtask test postgres` starts one"))
}

/// A database of a test's own on the server of tests.
pub fn database(name: &str) -> String {
    let server = postgres();
    run_sql(&server, &format!("drop database if exists {name} with (force)"));
    run_sql(&server, &format!("create database {name}"));
    format!("{}/{name}", server.rsplit_once('/').unwrap().0)
}

/// Has a database do something.
pub fn run_sql(url: &str, statement: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    });
}

/// The time, for measuring.
pub fn now() -> Instant {
    Instant::now()
}

/// Sends a signal by name.
pub fn kill(pid: u32, name: &str) {
    assert!(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap().success());
}

/// Kills a process, if it's still there.
pub fn strike(pid: u32) {
    let _gone_or_killed =
        Command::new("kill").arg("-KILL").arg(pid.to_string()).stderr(Stdio::null()).status().unwrap();
}

/// The command line of a process.
pub fn command(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// How long something takes.
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn passed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How much of a processor a process uses.
pub struct Meter {
    pid: u32,
    used: Duration,
    begun: Instant,
}

impl Meter {
    pub fn of(pid: u32) -> Self {
        Self { pid, used: used(pid), begun: Instant::now() }
    }

    /// The share since the meter was made.
    pub fn share(&self) -> f64 {
        (used(self.pid) - self.used).as_secs_f64() / self.begun.elapsed().as_secs_f64()
    }
}

/// Processor time that a process has used so far, in the hundredths of a second that `/proc` counts.
fn used(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()))
}

/// Whether a process runs (a zombie doesn't).
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// A file in a mesh's folder with this text.
pub fn file(mesh: &Mesh, name: &str, text: &str) -> String {
    let path: PathBuf = Path::new(&mesh.data).join(name);
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}
