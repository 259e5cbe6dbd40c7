// SPDX-License-Identifier: Apache-2.0
//! Far more than a proxy has memory for, with real processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "how long clients wait is what is tested")]

mod mesh;

use mesh::{Mesh, Meter, PATIENCE, Program, byrnie, file, free_port, http, http_within, limited, until};
use rustix::net::sockopt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The most memory that a proxy is given, as `128MiB`.
const CEILING_KIB: u64 = 128 * 1024;
/// Callers that behave, and what each wants answered.
const GOOD: usize = 8;
const WANTED: usize = 60;
/// A 128th of a large answer.
const PIECE: &[u8] = &[b'x'; 64 * 1024];

/// A program beside the test: `/large` is answered by 8 MiB, `/held` never, anything else by `ok`.
fn program(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::Builder::new().stack_size(256 * 1024).spawn(move || serve(stream)).unwrap();
        }
    });
}

fn serve(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut line = String::new();
        let mut head = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            head.push_str(&line);
        }
        if head.contains("/held") {
            std::io::copy(&mut reader, &mut std::io::sink()).ok()?;
        }
        if head.contains("/large") {
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 128 * PIECE.len()).as_bytes())
                .ok()?;
            for _ in 0..128 {
                stream.write_all(PIECE).ok()?;
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
    }
}

/// A mesh with two programs, and a caller of both.
struct World {
    mesh: Mesh,
    caller: Program,
    programs: [Program; 2],
}

impl World {
    /// One whose first program's proxy, and caller's, have these ceilings.
    fn new(of_program: &str, of_caller: &str) -> Self {
        let mesh = Mesh::up(&[]);
        let run = |ceiling: &str, args: &[&str]| {
            let mut command = byrnie();
            command.env("BYRNIE_MEMORY_MAX", ceiling);
            mesh.run_by(command, args, &["tail", "-f", "/dev/null"])
        };
        let programs = [("first", of_program), ("second", "")].map(|(name, ceiling)| {
            let port = free_port();
            program(port);
            let proxy = run(ceiling, &["--name", name, "--port", &port.to_string()]);
            mesh.ask_until(name, "/small", |answer| answer.status == 200);
            mesh.ok(&["allow", "caller", name]);
            proxy
        });
        let caller = run(of_caller, &["--name", "caller", "--uses", "first,second"]);
        caller.wait_for_line("BYRNIE_SECOND_URL");
        let world = Self { mesh, caller, programs };
        for name in ["first", "second"] {
            let small = || http(world.address(name), name, "/small").is_ok_and(|answer| answer.status == 200);
            until("a call", || world.caller.log(), small);
        }
        world
    }

    /// Where the caller calls a program.
    fn address(&self, name: &str) -> SocketAddr {
        let url = self.caller.value(&format!("BYRNIE_{}_URL", name.to_uppercase()));
        url.trim_start_matches("http://").parse().unwrap()
    }

    /// How often those who behave were refused until each had all that it wanted.
    fn good(&self, name: &str) -> usize {
        let address = self.address(name);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..GOOD).map(|_| scope.spawn(move || good(address))).collect();
            all.into_iter().map(|one| one.join().unwrap()).sum()
        })
    }
}

/// What a busy machine makes a proxy say, however much memory it has.
const OF_TIME: &str = "short of processor time";

/// Asks until it was answered as often as it wants, and comes again when it's told to; how often it was refused for anything
/// but want of time.
fn good(address: SocketAddr) -> usize {
    let (mut done, mut refused) = (0, 0);
    while done < WANTED {
        let answer = http_within(PATIENCE, address, "program", "/small").unwrap();
        if answer.status == 200 {
            assert_eq!(answer.body, "ok");
            done += 1;
            continue;
        }
        assert!(answer.status == 503 && answer.head.contains("retry-after: 1"), "{answer:?}");
        refused += usize::from(!answer.body.contains(OF_TIME));
        std::thread::park_timeout(Duration::from_secs(1));
    }
    refused
}

/// Sends a call on a connection of its own.
fn call(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// The most memory that a process has used, in KiB.
fn peak(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn answers_that_nobody_reads_take_no_more_memory_than_there_is() {
    // What waits for each of them is 256 KiB and more, were there room.
    let world = World::new("128MiB", "");
    let slow = b"GET /large HTTP/1.1\r\nhost: first\r\n\r\n";
    let calls: Vec<_> = (0..1200).map(|_| call(world.address("first"), slow)).collect();
    assert_eq!(world.good("second"), 0, "the caller's own proxy has room");
    drop(calls);
    world.mesh.ask_until("first", "/small", |answer| answer.status == 200);
    let peak = peak(&world.programs[0]);
    assert!(peak < CEILING_KIB, "{peak} KiB at the most");
}

#[test]
fn the_less_important_are_refused_before_memory_ends_and_the_others_served() {
    // Each body is kept for another try: 160 MiB and more in all, were there room.
    let world = World::new("", "128MiB");
    let head = b"PUT /held HTTP/1.1\r\nhost: first\r\nx-byrnie-criticality: sheddable\r\ncontent-length: 61440\r\n\r\n";
    let held = [&head[..], &PIECE[..61440]].concat();
    let calls: Vec<_> = (0..2800).map(|_| call(world.address("first"), &held)).collect();
    // Those who behave have their turn between others that are let in, so that it takes a while until all of these are.
    let (mut refused, mut answered, mut shed) = (0, 0, 0);
    until(
        "more than 100 refused",
        || world.caller.log(),
        || {
            refused += world.good("second");
            answered += GOOD * WANTED;
            shed += calls.iter().filter(|call| is_shed(call)).count();
            shed > 100
        },
    );
    assert!(refused * 4 <= answered, "{refused} refused for {answered} answered");
    // Whoever refused them.
    let counts = || -> Vec<(String, usize)> {
        let of = |proxy: &serde_json::Value| {
            let admin = proxy["admin"].as_str().unwrap().parse().unwrap();
            let metrics = http(admin, "localhost", "/metrics").unwrap().body;
            let of_memory = "byrnie_shed_total{resource=\"memory\"}";
            let lines = metrics.lines().filter_map(|line| line.strip_prefix(of_memory)?.split_once(' '));
            (proxy["name"].to_string(), lines.map(|(_, count)| count.parse::<usize>().unwrap()).sum())
        };
        world.mesh.sidecars().iter().map(of).collect()
    };
    let counted = || counts().iter().map(|(_, count)| count).sum::<usize>();
    let state = || format!("{:?} of {shed}\n{}\n{}", counts(), world.caller.log(), world.programs[0].log());
    until("all that were refused", state, || counted() >= shed);
    let peak = peak(&world.caller);
    assert!(peak < CEILING_KIB, "{peak} KiB at the most");
}

/// Whether a call was refused for want of memory.
fn is_shed(mut call: &TcpStream) -> bool {
    call.set_nonblocking(true).unwrap();
    let mut answer = [0; 4096];
    let read = call.read(&mut answer).unwrap_or(0);
    let answer = String::from_utf8_lossy(&answer[..read]);
    let refused = answer.contains("BYR-R034");
    if refused {
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
        assert!(answer.contains("short of memory") || answer.contains(OF_TIME), "{answer}");
    }
    refused && !answer.contains(OF_TIME)
}

/// Requests that a picker is to see whole, and how much of each comes of what it says will: far more than there is room for.
const PICKED: usize = 400;
const PICKED_BYTES: usize = 600 * 1024;
/// So much of each comes at once, and then of the others: a proxy looks ten times a second at what it has left.
const PICKED_PIECE_BYTES: usize = 8 * 1024;
const PICKED_PACE: Duration = Duration::from_millis(20);

/// Begins a request whose body is wanted before anybody is asked.
fn begin(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let head = "POST / HTTP/1.1\r\nhost: models\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    let mut told = Vec::new();
    while !told.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        told.push(byte[0]);
    }
    told.starts_with(b"HTTP/1.1 100").then_some(stream)
}

#[test]
fn requests_that_are_read_for_a_picker_take_no_more_memory_than_there_is() {
    let mesh = Mesh::up(&[]);
    let [model, picker] = [free_port(), free_port()];
    program(model);
    // It's there, and isn't asked before a request is.
    let _listens = TcpListener::bind(("127.0.0.1", picker)).unwrap();
    let _model = mesh.beside("vllm", Some((model, "http")), &[]);
    let _picker = mesh.beside("picker", Some((picker, "grpc")), &[]);
    let pool = format!(
        "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {{name: models}}\nspec:\n  selector: \
         {{matchLabels: {{app: vllm}}}}\n  targetPorts: [{{number: {model}}}]\n  endpointPickerRef: {{name: picker, port: \
         {{number: 80}}}}\n"
    );
    mesh.ok(&["apply", "-f", &file(&mesh, "pool.yaml", &pool)]);
    for callee in ["models", "picker"] {
        mesh.ok(&["allow", "caller", callee]);
    }
    let mut command = byrnie();
    command.env("BYRNIE_MEMORY_MAX", "128MiB");
    let caller = mesh.run_by(command, &["--name", "caller", "--uses", "models"], &["tail", "-f", "/dev/null"]);
    let address = caller.address("BYRNIE_MODELS_URL");
    until("a request that is read", || caller.log(), || begin(address).is_some());
    let mut calls: Vec<TcpStream> = (0..PICKED).map(|_| begin(address).unwrap()).collect();
    for call in &calls {
        call.set_nonblocking(true).unwrap();
    }
    for _ in 0..PICKED_BYTES / PICKED_PIECE_BYTES {
        // Those that are refused are closed.
        calls.retain_mut(|call| match call.write(&PIECE[..PICKED_PIECE_BYTES]) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        std::thread::park_timeout(PICKED_PACE);
    }
    let refused = || -> f64 {
        let proxies = mesh.sidecars();
        let own = proxies.iter().find(|proxy| proxy["name"].as_str().unwrap().starts_with("default/caller")).unwrap();
        let text = http(own["admin"].as_str().unwrap().parse().unwrap(), "localhost", "/metrics").unwrap().body;
        let lines = text.lines().filter(|line| line.contains("byrnie_requests_total{") && line.contains("\"strain\""));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    };
    until("refusals for want of memory", || format!("{} of {PICKED}", refused()), || refused() > 50.0);
    let peak = peak(&caller);
    assert!(peak < CEILING_KIB, "{peak} KiB at the most");
    drop(calls);
}

/// Clients that rest.
const RESTING: usize = 300;
/// What each of them would wait for, were it for others to go by themselves.
const REST_MAX: Duration = Duration::from_secs(75);

/// A program beside the test, and a caller of it whose proxy has so few files that it may have a hundred connections from its program,
/// or some more where it has more cores than six.
fn confined() -> (Mesh, [Program; 2]) {
    let (mesh, port) = (Mesh::up(&[]), free_port());
    program(port);
    let callee = mesh.beside("first", Some((port, "http")), &[]);
    mesh.ask_until("first", "/small", |answer| answer.status == 200);
    mesh.ok(&["allow", "caller", "first"]);
    let caller = mesh.run_by(limited("-n 256"), &["--name", "caller", "--uses", "first"], &["tail", "-f", "/dev/null"]);
    let address = caller.address("BYRNIE_FIRST_URL");
    until("a call", || caller.log(), || http(address, "first", "/small").is_ok_and(|answer| answer.status == 200));
    (mesh, [callee, caller])
}

/// Reads the answer to `GET /small`, and no more; whether it came.
fn is_told(mut client: &TcpStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut told = Vec::new();
    let mut byte = [0];
    while !told.ends_with(b"\r\n\r\nok") {
        if client.read_exact(&mut byte).is_err() {
            return false;
        }
        told.push(byte[0]);
    }
    told.starts_with(b"HTTP/1.1 200")
}

/// How often the proxy of the caller closed a connection for want of room.
fn not_kept(mesh: &Mesh) -> u64 {
    let proxies = mesh.sidecars();
    let own = proxies.iter().find(|proxy| proxy["name"].as_str().unwrap().starts_with("default/caller")).unwrap();
    let text = http(own["admin"].as_str().unwrap().parse().unwrap(), "localhost", "/metrics").unwrap().body;
    let count = text.lines().find_map(|line| line.strip_prefix("byrnie_not_kept_total ")).unwrap();
    count.parse().unwrap()
}

#[test]
fn clients_that_rest_make_room_for_others_and_may_come_back() {
    const SMALL: &[u8] = b"GET /small HTTP/1.1\r\nhost: first\r\n\r\n";
    let (mesh, [_callee, caller]) = confined();
    let address = caller.address("BYRNIE_FIRST_URL");
    let busy: Vec<_> = (0..8).map(|_| call(address, b"GET /held HTTP/1.1\r\nhost: first\r\n\r\n")).collect();
    let begun = Instant::now();
    let resting: Vec<_> = (0..RESTING).map(|_| call(address, SMALL)).collect();
    for (number, client) in resting.iter().enumerate() {
        assert!(is_told(client), "{number} after {:?}: {}", begun.elapsed(), caller.log());
    }
    assert_eq!(http_within(PATIENCE, address, "first", "/small").unwrap().status, 200, "a newcomer");
    let took = begun.elapsed();
    assert!(took < REST_MAX / 2, "{took:?}");
    for mut client in &busy {
        client.set_nonblocking(true).unwrap();
        let gone = client.read(&mut [0]);
        assert!(!matches!(gone, Ok(0)), "whose request is under way isn't at rest");
    }
    let closed = resting.iter().filter(|client| {
        client.set_nonblocking(true).unwrap();
        matches!((&mut &**client).read(&mut [0]), Ok(0))
    });
    let closed = closed.count();
    assert!(closed > 50, "{closed} have made room");
    assert!(not_kept(&mesh) >= closed as u64, "{} for {closed}", not_kept(&mesh));
    let back: Vec<_> = (0..50).map(|_| call(address, SMALL)).collect();
    assert!(back.iter().all(is_told), "{}", caller.log());
    let took = begun.elapsed();
    assert!(took < REST_MAX, "{took:?}");
}

#[test]
fn connections_without_streams_or_a_word_make_room_too() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for said in [PREFACE, b""] {
        let (_mesh, [_callee, caller]) = confined();
        let address = caller.address("BYRNIE_FIRST_URL");
        let begun = Instant::now();
        let quiet: Vec<_> = (0..RESTING).map(|_| call(address, said)).collect();
        assert_eq!(http_within(PATIENCE, address, "first", "/small").unwrap().status, 200, "{}", caller.log());
        let took = begun.elapsed();
        assert!(took < REST_MAX / 2, "{took:?}");
        let mut told = Vec::new();
        // The end may be a reset.
        let _ = (&quiet[0]).read_to_end(&mut told);
        assert_eq!(last_frame(&told), (!said.is_empty()).then_some((7, 0)), "GOAWAY, for no fault: {told:?}");
    }
}

/// How long proxies are watched while half of something is held, and the most that each may use of a processor: who waits for the
/// rest has nothing to do. What looks again and again uses a whole one.
const WATCHED: Duration = Duration::from_secs(2);
const WAITING_SHARE_MAX: f64 = 0.1;

/// A PING that was cut short kept HAProxy before 3.4.7 busy for as long as it was held.
#[test]
fn half_of_a_frame_that_is_held_takes_no_processor_time() {
    let world = World::new("", "");
    let address = world.address("first");
    let greeted = |rest: &[u8]| [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], rest].concat();
    let halves = [
        greeted(b"\0\0\x08\x06\0\0\0\0\0half"),
        greeted(b"\0\0\x08\x06"),
        greeted(b"\0\0\x40\x01\x05\0\0\0\x01\x82\x86"),
        greeted(b"\0\0\x01\x01\x01\0\0\0\x01\x82\0\0\x40\x09\0\0\0\0\x01\x86"),
        b"PRI * HTTP/2.0\r\n\r".to_vec(),
        b"GET /small HTTP/1.1\r\nhost: fir".to_vec(),
        b"POST /small HTTP/1.1\r\nhost: first\r\ntransfer-encoding: chunked\r\n\r\n1000".to_vec(),
        b"POST /small HTTP/1.1\r\nhost: first\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab".to_vec(),
    ];
    let held: Vec<_> = (0..8).flat_map(|_| &halves).map(|half| call(address, half)).collect();
    // Whoever came before has been looked at when this is answered.
    assert_eq!(http_within(PATIENCE, address, "first", "/small").unwrap().status, 200);
    let proxies = [("its caller's", &world.caller), ("the program's", &world.programs[0])];
    let meters = proxies.map(|(whose, proxy)| (whose, Meter::of(proxy.pid())));
    std::thread::park_timeout(WATCHED);
    for (whose, meter) in meters {
        let share = meter.share();
        println!("{whose} proxy: {share:.3} of a processor");
        assert!(share < WAITING_SHARE_MAX, "{whose} proxy uses {share} of a processor for what doesn't come");
    }
    for mut client in &held {
        client.set_nonblocking(true).unwrap();
        let gone = client.read(&mut [0; 1024]);
        assert!(!matches!(gone, Ok(0)), "it's held, not closed");
    }
}

/// The kind of the last frame of HTTP/2 among these, and its last four bytes.
fn last_frame(mut frames: &[u8]) -> Option<(u8, u32)> {
    let mut last = None;
    while let Some(head) = frames.first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (frame, rest) = frames.split_at_checked(9 + length)?;
        last = Some((head[3], u32::from_be_bytes(*frame.last_chunk()?)));
        frames = rest;
    }
    last
}
