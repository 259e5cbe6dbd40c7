// SPDX-License-Identifier: Apache-2.0
//! What must not make things worse: retries along a path, and a load that was too much for a while. With real processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Program, Stopwatch, file, free_port, http, load, until};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::time::Duration;

/// A program of this process that answers each request by its path, and its sidecar, which uses other services.
fn serving(mesh: &Mesh, name: &str, uses: &str, answer: impl Fn(&str) -> u16 + Send + Sync + 'static) -> Program {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            std::thread::Builder::new().stack_size(256 * 1024).spawn(move || serve(stream, &*answer)).unwrap();
        }
    });
    let port = port.to_string();
    let mut args = vec!["--name", name, "--port", &port];
    if !uses.is_empty() {
        args.extend(["--uses", uses]);
    }
    mesh.run(&args, &["tail", "-f", "/dev/null"])
}

fn serve(mut stream: TcpStream, answer: &(impl Fn(&str) -> u16 + ?Sized)) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut line, mut first) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            if first.is_empty() {
                first.clone_from(&line);
            }
        }
        let status = answer(first.split(' ').nth(1)?);
        stream.write_all(format!("HTTP/1.1 {status} Said\r\ncontent-length: 2\r\n\r\nok").as_bytes()).ok()?;
    }
}

#[test]
fn retries_add_up_along_a_path_and_never_multiply() {
    // The edge calls a, a calls b, b calls c, c calls d, which fails; each hop would try three times.
    let mesh = Mesh::up(&[]);
    let reached = Arc::new(AtomicUsize::new(0));
    let mut routes = String::new();
    let mut programs = Vec::new();
    for (name, next) in [("d", ""), ("c", "d"), ("b", "c"), ("a", "b")] {
        let (reached, onward) = (Arc::clone(&reached), Arc::new(OnceLock::<SocketAddr>::new()));
        let to = Arc::clone(&onward);
        // It knows nothing of retries, and passes on no header.
        let program = serving(&mesh, name, next, move |path| match to.get() {
            Some(to) => http(*to, next, path).map_or(502, |answer| answer.status),
            None if path == "/fails" => {
                reached.fetch_add(1, Ordering::SeqCst);
                503
            }
            None => 200,
        });
        if !next.is_empty() {
            let variable = format!("BYRNIE_{}_URL", next.to_uppercase());
            program.wait_for_line(&variable);
            onward.set(program.value(&variable).trim_start_matches("http://").parse().unwrap()).unwrap();
            mesh.ok(&["allow", name, next]);
        }
        routes += &format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: {name}}}]\n  \
             rules: [{{retry: {{codes: [503], attempts: 2, backoff: 1ms}}, backendRefs: [{{name: {name}, port: 80}}]}}]\n"
        );
        programs.push(program);
    }
    mesh.ask_until("a", "/well", |answer| answer.status == 200);
    mesh.ok(&["apply", "-f", &file(&mesh, "routes.yaml", &routes)]);
    mesh.ask_until("a", "/well", |answer| answer.status == 200);
    // As soon as the routes are everywhere, what fails is tried again.
    until(
        "a retry",
        || reached.load(Ordering::SeqCst).to_string(),
        || {
            let before = reached.load(Ordering::SeqCst);
            mesh.ask("a", "/fails").is_ok_and(|answer| answer.status == 503)
                && reached.load(Ordering::SeqCst) > before + 1
        },
    );
    reached.store(0, Ordering::SeqCst);
    let (watch, offered) = (Stopwatch::start(), 300);
    for _ in 0..offered {
        assert_eq!(mesh.ask("a", "/fails").unwrap().status, 503);
    }
    // A fifth more, or ten a second where that is more.
    let reached = reached.load(Ordering::SeqCst);
    let seconds = usize::try_from(watch.passed().as_secs()).unwrap() + 2;
    let most = offered + (offered / 5).max(10 * seconds);
    assert!((offered..=most).contains(&reached), "{reached} of {offered} reached the last one in {seconds} s");
}

/// So many that work at once.
struct Workers {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Workers {
    fn work(&self, span: Duration) {
        let mut free = self.free.lock().unwrap();
        while *free == 0 {
            free = self.freed.wait(free).unwrap();
        }
        *free -= 1;
        drop(free);
        let watch = Stopwatch::start();
        while let Some(left) = span.checked_sub(watch.passed()) {
            std::thread::park_timeout(left);
        }
        *self.free.lock().unwrap() += 1;
        self.freed.notify_one();
    }
}

/// What came of requests: how many were answered well, and what became of the others.
#[derive(Debug, Default)]
struct Offered {
    well: usize,
    others: Vec<String>,
}

impl Offered {
    fn is_well(&self) -> bool {
        self.well * 100 >= (self.well + self.others.len()) * 99
    }
}

/// Asks `rate` times a second for `seconds`, whatever comes of it within ten seconds each. On a busy machine it takes longer, rather
/// than to ask for several at once. `sent` is called when the last is asked.
fn offer(edge: SocketAddr, rate: u32, seconds: u32, sent: impl FnOnce()) -> Offered {
    let offered = Mutex::new(Offered::default());
    std::thread::scope(|scope| {
        for _ in 0..rate * seconds {
            let watch = Stopwatch::start();
            let ask = || {
                let answer = http(edge, "busy.default.mesh.localhost", "/");
                let mut offered = offered.lock().unwrap();
                match answer {
                    Ok(answer) if answer.status == 200 => offered.well += 1,
                    other => offered.others.push(other.map_or_else(|error| error, |answer| answer.body)),
                }
            };
            std::thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, ask).unwrap();
            while let Some(left) = (Duration::from_secs(1) / rate).checked_sub(watch.passed()) {
                std::thread::park_timeout(left);
            }
        }
        sent();
    });
    offered.into_inner().unwrap()
}

#[test]
fn three_times_too_much_is_over_when_it_ends() {
    let mesh = Mesh::up(&[]);
    // 50 a second.
    let workers = Workers { free: Mutex::new(4), freed: Condvar::new() };
    let _busy = serving(&mesh, "busy", "", move |_| {
        workers.work(Duration::from_millis(80));
        200
    });
    mesh.ask_until("busy", "/", |answer| answer.status == 200);
    let edge = SocketAddr::from(([127, 0, 0, 1], mesh.port("edge")));
    let offered = offer(edge, 25, 2, || ());
    assert!(offered.is_well(), "while there is room: {offered:?}");
    // Were none of it refused, that would keep it busy for 16 s more.
    let (ends, ended) = mpsc::channel();
    let overload = std::thread::spawn(move || offer(edge, 150, 8, || ends.send(()).unwrap()));
    ended.recv().unwrap();
    offer(edge, 25, 3, || ());
    let offered = offer(edge, 25, 4, || ());
    assert!(offered.is_well(), "three seconds after: {offered:?}");
    overload.join().unwrap();
}

#[test]
fn a_rolling_restart_of_every_instance_costs_no_request() {
    let mesh = Mesh::up(&[]);
    let mut instances = [mesh.echo("hello", "v1", &[]), mesh.echo("hello", "v2", &[])];
    let seen = |version: &str| drop(mesh.ask_until("hello", "/", |answer| answer.body.contains(version)));
    ["v1", "v2"].into_iter().for_each(seen);
    let edge = SocketAddr::from(([127, 0, 0, 1], mesh.port("edge")));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load: Vec<_> =
            (0..4).map(|_| scope.spawn(|| load::keep_asking(edge, "hello.default.mesh.localhost", &over))).collect();
        for round in 0..6 {
            let instance = &mut instances[round % 2];
            instance.signal("TERM");
            instance.wait();
            let version = format!("v{}", round + 3);
            *instance = mesh.echo("hello", &version, &[]);
            seen(&version);
        }
        over.store(true, Ordering::SeqCst);
        for one in load {
            let answered = one.join().unwrap().unwrap();
            assert!(answered > 20, "only {answered} were answered");
        }
    });
}

#[test]
fn a_rolling_restart_costs_no_call_no_stream_and_no_connection() {
    let mesh = Mesh::up(&[]);
    let kinds = [("rpc", "grpc", [load::rpc(), load::rpc()]), ("db", "tcp", [load::repeater(), load::repeater()])];
    let start =
        |name: &str, protocol: &str, server: &load::Server| mesh.beside(name, Some((server.port, protocol)), &[]);
    let mut instances: Vec<Vec<Program>> = Vec::new();
    for (name, protocol, servers) in &kinds {
        instances.push(servers.iter().map(|server| start(name, protocol, server)).collect());
    }
    mesh.ok(&["allow", "caller", "db"]);
    let caller = mesh.beside("caller", None, &["--uses", "db"]);
    let to_db = caller.address("BYRNIE_DB_URL");
    let (edge, rpc) = (SocketAddr::from(([127, 0, 0, 1], mesh.port("edge"))), "rpc.default.mesh.localhost");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let mut load = Vec::new();
        for _ in 0..3 {
            load.push(("HTTP/2", scope.spawn(move || load::call(edge, rpc, over))));
            load.push(("gRPC streams", scope.spawn(move || load::stream(edge, rpc, over))));
            load.push(("TCP", scope.spawn(move || load::talk(to_db, over))));
        }
        let rolled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..2 {
                for ((name, protocol, servers), instances) in kinds.iter().zip(&mut instances) {
                    let server = &servers[round % 2];
                    let serves = || {
                        let before = server.served();
                        until("a turn of the instance", String::new, || server.served() > before);
                    };
                    serves();
                    instances[round % 2].signal("TERM");
                    instances[round % 2].wait();
                    instances[round % 2] = start(name, protocol, server);
                    serves();
                }
            }
        }));
        over.store(true, Ordering::SeqCst);
        for (what, one) in load {
            let done = one.join().unwrap().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(done > 3, "{what}: only {done}");
        }
        rolled.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}
