// SPDX-License-Identifier: Apache-2.0
//! What must not make things worse: retries along a path, and a load that was too much for a while. With real processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Program, Stopwatch, file, free_port, http, until};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
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

/// Asks `rate` times a second for `seconds`, whatever comes of it; how many were answered well, and within ten seconds.
fn offer(edge: SocketAddr, rate: u32, seconds: u32) -> (usize, usize) {
    let well = AtomicUsize::new(0);
    let watch = Stopwatch::start();
    std::thread::scope(|scope| {
        for n in 0..rate * seconds {
            while let Some(left) = (Duration::from_secs(1) * n / rate).checked_sub(watch.passed()) {
                std::thread::park_timeout(left);
            }
            let ask = || {
                if http(edge, "busy.default.mesh.localhost", "/").is_ok_and(|answer| answer.status == 200) {
                    well.fetch_add(1, Ordering::SeqCst);
                }
            };
            std::thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, ask).unwrap();
        }
    });
    ((rate * seconds) as usize, well.into_inner())
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
    let (offered, well) = offer(edge, 25, 2);
    assert!(well * 100 >= offered * 99, "{well} of {offered} while there is room");
    // Were none of it refused, that would keep it busy for 16 s more.
    let watch = Stopwatch::start();
    let overload = std::thread::spawn(move || offer(edge, 150, 8));
    while let Some(left) = Duration::from_secs(8).checked_sub(watch.passed()) {
        std::thread::park_timeout(left);
    }
    offer(edge, 25, 3);
    let (offered, well) = offer(edge, 25, 4);
    assert!(well * 100 >= offered * 99, "{well} of {offered}, three seconds after");
    overload.join().unwrap();
}

/// Asks over and over by one connection, by GET and POST in turns; how often it was answered. What isn't answered as
/// it must be is told.
fn keep_asking(edge: SocketAddr, over: &AtomicBool) -> Result<usize, String> {
    let (mut stream, mut answered) = (None, 0);
    while !over.load(Ordering::SeqCst) {
        let mut reader: BufReader<TcpStream> = match stream.take() {
            Some(reader) => reader,
            None => {
                let stream = TcpStream::connect(edge).map_err(|error| format!("connect: {error}"))?;
                stream.set_read_timeout(Some(mesh::PATIENCE)).unwrap();
                BufReader::new(stream)
            }
        };
        let method = if answered % 2 == 0 { "GET" } else { "POST" };
        let ask = format!("{method} / HTTP/1.1\r\nhost: hello.default.mesh.localhost\r\ncontent-length: 0\r\n\r\n");
        reader.get_mut().write_all(ask.as_bytes()).map_err(|error| format!("{method}: {error}"))?;
        let (mut head, mut line) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            match reader.read_line(&mut line) {
                Ok(0) => return Err(format!("{method}: closed after {head:?}")),
                Ok(_) => head += &line,
                Err(error) => return Err(format!("{method}: {error}")),
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|n| n.parse().unwrap());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).map_err(|error| format!("{method}: {error} within the body"))?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(format!("{method}: {head}{}", String::from_utf8_lossy(&body)));
        }
        answered += 1;
        stream = (!head.contains("connection: close")).then_some(reader);
    }
    Ok(answered)
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
        let load: Vec<_> = (0..4).map(|_| scope.spawn(|| keep_asking(edge, &over))).collect();
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
