// SPDX-License-Identifier: Apache-2.0
//! Requests under an idempotency key, over real sockets: what the program sees, what the caller is told, and
//! what the ledger holds, when all goes well and when each part fails.

use crate::control::{Plane, TOKEN, config, ready, until};
use crate::world::{self, Peer, Program, header, status};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};
use byrnie_model::{Kind, Protocol, Resource, Spec};
use byrnie_net::runtime::{Core, Trigger};
use byrnie_proxy::{Ports, Running, start};
use byrnie_saga::ledger::State;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const POLICY: Idempotency = Idempotency {
    mode: KeyMode::Required,
    guarantee: Guarantee::G1,
    key_ttl: Duration::from_secs(3600),
    lease: Duration::from_secs(30),
    on_ambiguous: OnAmbiguous::Hold,
    on_server_error: OnServerError::Ambiguous,
    mint_keys: false,
    status_only: false,
    enlist: Vec::new(),
};

fn protect(idempotency: Idempotency) -> Resource {
    let policy =
        TrafficPolicy { targets: vec![world::service("web")], idempotency: Some(idempotency), ..Default::default() };
    world::resource(Kind::TrafficPolicy, "keys", Spec::Traffic(Arc::new(policy)))
}

/// A program that counts what it is asked to do, and does it in the way that the path names.
struct Shop {
    program: Program,
    acts: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
    /// Lets one request for `/slow` be answered.
    gate: SyncSender<()>,
    /// Says that one has come.
    slow: Receiver<()>,
}

fn shop() -> Shop {
    let (acts, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (gate, wait) = sync_channel(16);
    let (came, slow) = sync_channel(16);
    let (count, log, wait) = (Arc::clone(&acts), Arc::clone(&seen), Mutex::new(wait));
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            let body = peer.read_body_of(&head);
            log.lock().unwrap().push(head.clone());
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            if head.starts_with("GET ") {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                continue;
            }
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            match path.as_str() {
                "/die" => return,
                "/fail" => peer.send("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"),
                "/large" => {
                    peer.send("HTTP/1.1 201 Made\r\ncontent-length: 200000\r\n\r\n");
                    peer.send(vec![b'x'; 200_000]);
                }
                "/cut" => {
                    peer.send("HTTP/1.1 201 Made\r\ncontent-length: 100\r\n\r\nhalf");
                    return;
                }
                "/trailers" => {
                    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-act: 1\r\n\r\n");
                    peer.send(format!("1\r\n{n}\r\n0\r\nx-sum: 9\r\n\r\n"));
                }
                "/slow" => {
                    came.send(()).unwrap();
                    wait.lock().unwrap().recv().unwrap();
                    peer.send(format!("HTTP/1.1 201 Made\r\nx-act: {n}\r\ncontent-length: 4\r\n\r\nslow"));
                }
                _ => {
                    let text = format!("act {n}: {}", String::from_utf8_lossy(&body));
                    peer.send(format!(
                        "HTTP/1.1 201 Made\r\nx-act: {n}\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nidempotency-status: forged\r\ncontent-length: {}\r\n\r\n{text}",
                        text.len()
                    ));
                }
            }
        }
    });
    Shop { program, acts, seen, gate, slow }
}

/// One sidecar, whose program calls itself: caller and callee at once.
struct Mesh {
    plane: Arc<Plane>,
    serving: Option<(Trigger, Core)>,
    _running: Running,
    ports: Ports,
}

impl Mesh {
    fn new(port: u16, idempotency: Idempotency) -> Self {
        let mesh = Self::new_unreached(port, idempotency);
        until(mesh.outbound(), 200);
        mesh
    }

    /// One whose program doesn't listen.
    fn new_unreached(port: u16, idempotency: Idempotency) -> Self {
        let view = vec![
            world::allow_all(),
            world::workload_of("web", port, Protocol::Http1),
            world::service_of("web", port, Protocol::Http1),
            protect(idempotency),
        ];
        let plane = Plane::new(view);
        let (address, trigger, core) = plane.serve();
        let mut running = start(config(&plane, address, port, TOKEN)).unwrap();
        let ports = ready(&mut running).unwrap();
        plane.put(world::endpoint_of("web", 0, ports.inbound.unwrap()));
        Self { plane, serving: Some((trigger, core)), _running: running, ports }
    }

    fn outbound(&self) -> SocketAddr {
        self.ports.outbound[0].address
    }

    fn client(&self) -> Peer {
        Peer::connect(self.outbound())
    }

    /// The control plane goes away.
    fn lose_control(&mut self) {
        if let Some((trigger, core)) = self.serving.take() {
            drop(trigger);
            core.join().unwrap();
        }
    }

    fn regain_control(&mut self) {
        let (_, trigger, core) = self.plane.serve();
        self.serving = Some((trigger, core));
    }

    fn states(&self) -> Vec<State> {
        self.plane.keys.lock().unwrap().values().map(|entry| entry.state.clone()).collect()
    }
}

fn post(path: &str, key: &str, body: &str) -> String {
    let key = if key.is_empty() { String::new() } else { format!("idempotency-key: \"{key}\"\r\n") };
    format!("POST {path} HTTP/1.1\r\nhost: web\r\n{key}content-length: {}\r\n\r\n{body}", body.len())
}

/// Asks once on a connection of its own: status, mark, head and body.
fn ask(mesh: &Mesh, request: &str) -> (u16, String, String, String) {
    let mut client = mesh.client();
    client.send(request);
    let (head, body) = client.response();
    let mark = header(&head, "idempotency-status").unwrap_or_default().to_owned();
    (status(&head), mark, head, String::from_utf8(body).unwrap())
}

#[test]
fn a_repetition_is_given_the_first_answer_and_the_program_acts_once() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    let first = ask(&mesh, &post("/charge", "k1", "30 euro"));
    assert_eq!((first.0, &*first.1, &*first.3), (201, "", "act 1: 30 euro"));
    for _ in 0..3 {
        let again = ask(&mesh, &post("/charge", "k1", "30 euro"));
        assert_eq!((again.0, &*again.1, &again.3), (201, "replayed", &first.3));
        assert_eq!(header(&again.2, "x-act"), Some("1"));
        assert_eq!(again.2.matches("set-cookie").count(), 2, "{}", again.2);
    }
    assert_eq!(shop.acts.load(Ordering::SeqCst), 1);
    // The key is passed on, so that the program can keep a barrier of its own.
    assert!(shop.seen.lock().unwrap().iter().any(|head| header(head, "idempotency-key") == Some("\"k1\"")));
    let other = ask(&mesh, &post("/charge", "k2", "30 euro"));
    assert_eq!((other.0, &*other.3), (201, "act 2: 30 euro"));
}

#[test]
fn trailers_are_replayed_too_and_connections_go_on() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    let mut client = mesh.client();
    for _ in 0..3 {
        client.send(post("/trailers", "k", ""));
        let head = client.read_head().unwrap();
        assert_eq!(status(&head), 200);
        assert_eq!(client.read_chunks(), b"1|x-sum: 9");
    }
    assert_eq!(shop.acts.load(Ordering::SeqCst), 1);
}

#[test]
fn what_is_no_repetition_is_refused_and_reaches_no_program() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    assert_eq!(ask(&mesh, &post("/charge", "k", "30")).0, 201);
    for (request, expected, code) in [
        (post("/charge", "k", "31"), 422, "BYR-R041"),
        (post("/refund", "k", "30"), 422, "BYR-R041"),
        (post("/charge", "k", "30").replace("POST", "PATCH"), 422, "BYR-R041"),
        (post("/charge", "k", "30").replace("host: web", "host: web\r\nauthorization: Bearer x"), 422, "BYR-R041"),
        (post("/charge", "", "30"), 400, "BYR-R040"),
        (post("/charge", "a\"b", "30"), 400, "BYR-R040"),
        (post("/charge", "k\"\r\nidempotency-key: \"l", "30"), 400, "BYR-R040"),
    ] {
        let (status, _, _, body) = ask(&mesh, &request);
        assert_eq!(status, expected, "{request} {body}");
        assert!(body.contains(code), "{body}");
    }
    let large = "x".repeat(1024 * 1024 + 1);
    assert_eq!(ask(&mesh, &post("/charge", "large", &large)).0, 413);
    assert_eq!(ask(&mesh, &post("/charge", "fits", &large[1..])).0, 201);
    assert_eq!(shop.acts.load(Ordering::SeqCst), 2);
    // Reading needs no key.
    until(mesh.outbound(), 200);
}

#[test]
fn while_the_first_is_under_way_others_are_told_so() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    let mut first = mesh.client();
    first.send(post("/slow", "k", ""));
    shop.slow.recv().unwrap();
    let (status, mark, head, body) = ask(&mesh, &post("/slow", "k", ""));
    assert_eq!((status, &*mark), (409, "in-flight"), "{body}");
    assert!(header(&head, "retry-after").is_some());
    // In a transaction 409 would mean that the program refused.
    let within = post("/slow", "k", "").replace("host: web", "host: web\r\ntxn-id: t1");
    let (status, mark, ..) = ask(&mesh, &within);
    assert_eq!((status, &*mark), (425, "in-flight"));
    shop.gate.send(()).unwrap();
    assert_eq!(first.response().1, b"slow");
    let (status, mark, ..) = ask(&mesh, &post("/slow", "k", ""));
    assert_eq!((status, &*mark), (201, "replayed"));
    assert_eq!(shop.acts.load(Ordering::SeqCst), 1);
}

#[test]
fn a_caller_that_gave_up_finds_the_answer_when_it_comes_again() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    let mut first = mesh.client();
    first.send(post("/slow", "k", ""));
    shop.slow.recv().unwrap();
    drop(first);
    shop.gate.send(()).unwrap();
    let answer = loop {
        let answer = ask(&mesh, &post("/slow", "k", ""));
        if answer.0 != 409 {
            break answer;
        }
    };
    assert_eq!((answer.0, &*answer.1, &*answer.3), (201, "replayed", "slow"));
    assert_eq!(shop.acts.load(Ordering::SeqCst), 1);
}

#[test]
fn an_end_that_nobody_knows_is_reported_and_never_run_again() {
    for path in ["/die", "/cut", "/fail"] {
        let shop = shop();
        let mesh = Mesh::new(shop.program.port, POLICY);
        let (status, mark, ..) = ask(&mesh, &post(path, "k", ""));
        assert!(status >= 500, "{path} {status}");
        assert_eq!(mark, "ambiguous", "{path}");
        for _ in 0..2 {
            let (status, mark, _, body) = ask(&mesh, &post(path, "k", ""));
            assert_eq!((status, &*mark), (409, "ambiguous"), "{path} {body}");
            assert!(body.contains("BYR-R043"), "{body}");
        }
        assert_eq!(shop.acts.load(Ordering::SeqCst), 1, "{path}");
        assert_eq!(mesh.states(), [State::Ambiguous]);
    }
}

#[test]
fn where_the_policy_asks_for_it_an_unknown_end_is_run_again_and_the_program_is_told() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, Idempotency { on_ambiguous: OnAmbiguous::Reexecute, ..POLICY });
    // The caller's proxy tries three times, each marked for the program but the first.
    assert_eq!(ask(&mesh, &post("/die", "k", "")).1, "ambiguous");
    let seen = shop.seen.lock().unwrap();
    let marks: Vec<_> = seen
        .iter()
        .filter(|head| head.starts_with("POST"))
        .map(|head| header(head, "idempotency-status").unwrap_or_default())
        .collect();
    assert_eq!(marks, ["", "ambiguous", "ambiguous"]);
}

#[test]
fn a_program_that_was_never_reached_leaves_the_key_free() {
    let closed = world::Reserved::new();
    let mesh = Mesh::new_unreached(closed.address().port(), POLICY);
    let (status, mark, _, body) = loop {
        let answer = ask(&mesh, &post("/charge", "k", ""));
        // Until the endpoint is known.
        if !answer.3.contains("no endpoint") {
            break answer;
        }
    };
    assert_eq!((status, &*mark), (503, ""), "{body}");
    assert!(body.contains("BYR-R010"), "{body}");
    assert_eq!(mesh.states(), []);
}

#[test]
fn without_the_ledger_nothing_goes_through_but_what_needs_no_key() {
    let shop = shop();
    let mut mesh = Mesh::new(shop.program.port, Idempotency { mode: KeyMode::Optional, ..POLICY });
    assert_eq!(ask(&mesh, &post("/charge", "k", "")).0, 201);
    mesh.lose_control();
    let (status, _, _, body) = ask(&mesh, &post("/charge", "k", ""));
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("BYR-R044"), "{body}");
    assert_eq!(shop.acts.load(Ordering::SeqCst), 1);
    // Optional means that a program may do without; such a request is as good as ever.
    assert_eq!(ask(&mesh, &post("/charge", "", "")).0, 201);
    mesh.regain_control();
    let answer = loop {
        let answer = ask(&mesh, &post("/charge", "k", ""));
        if answer.0 != 503 {
            break answer;
        }
    };
    assert_eq!((answer.0, &*answer.1, &*answer.3), (201, "replayed", "act 1: "));
}

#[test]
fn an_answer_that_could_not_be_kept_is_not_given() {
    let shop = shop();
    let mut mesh = Mesh::new(shop.program.port, POLICY);
    let mut first = mesh.client();
    first.send(post("/slow", "k", ""));
    shop.slow.recv().unwrap();
    mesh.lose_control();
    shop.gate.send(()).unwrap();
    let (head, _) = first.response();
    assert_eq!((status(&head), header(&head, "idempotency-status")), (503, Some("ambiguous")));
    mesh.regain_control();
    let (status, mark, ..) = loop {
        let answer = ask(&mesh, &post("/slow", "k", ""));
        if answer.0 != 503 {
            break answer;
        }
    };
    assert_eq!(status, 409);
    assert!(mark == "in-flight" || mark == "ambiguous");
    assert_eq!(shop.acts.load(Ordering::SeqCst), 1);
}

#[test]
fn an_ending_that_the_ledger_is_not_sure_of_is_told_again() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    let mut first = mesh.client();
    first.send(post("/slow", "k", ""));
    shop.slow.recv().unwrap();
    mesh.plane.unsure.store(2, Ordering::SeqCst);
    shop.gate.send(()).unwrap();
    let (head, _) = first.response();
    assert_eq!((status(&head), header(&head, "idempotency-status")), (201, None));
    assert_eq!(&*ask(&mesh, &post("/slow", "k", "")).1, "replayed");
    assert_eq!((shop.acts.load(Ordering::SeqCst), mesh.plane.unsure.load(Ordering::SeqCst)), (1, 0));
}

#[test]
fn a_claim_that_the_ledger_is_not_sure_of_is_taken_back() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    mesh.plane.unsure.store(1, Ordering::SeqCst);
    // Nothing was forwarded, so it may be tried again, and nobody is left to say for long that it is under way.
    let answer = loop {
        let answer = ask(&mesh, &post("/charge", "k", ""));
        if answer.0 != 503 && answer.1 != "in-flight" {
            break answer;
        }
    };
    assert_eq!((answer.0, &*answer.1), (201, ""));
    assert_eq!((shop.acts.load(Ordering::SeqCst), mesh.plane.unsure.load(Ordering::SeqCst)), (1, 0));
}

#[test]
fn an_answer_too_large_to_keep_arrives_whole_and_its_status_is_replayed() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    let first = ask(&mesh, &post("/large", "k", ""));
    assert_eq!((first.0, first.3.len()), (201, 200_000));
    let again = ask(&mesh, &post("/large", "k", ""));
    assert_eq!((again.0, &*again.1), (201, "replayed"));
    assert!(again.3.contains("BYR-R045"), "{}", again.3);
    assert_eq!(shop.acts.load(Ordering::SeqCst), 1);
}

#[test]
fn nothing_but_the_status_of_an_answer_is_written_down_where_the_policy_says_so() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, Idempotency { status_only: true, ..POLICY });
    let first = ask(&mesh, &post("/charge", "k", "hi"));
    assert_eq!((first.0, &*first.3), (201, "act 1: hi"), "the first caller gets all of it");
    {
        let keys = mesh.plane.keys.lock().unwrap();
        let State::Done(kept) = &keys.values().next().unwrap().state else { panic!("it isn't done") };
        assert!(kept.len() < 10, "{kept:?}");
    }
    let again = ask(&mesh, &post("/charge", "k", "hi"));
    assert_eq!((again.0, &*again.1), (201, "replayed"));
    assert!(again.3.contains("BYR-R045") && again.3.contains("only the status is kept"), "{}", again.3);
    assert_eq!(shop.acts.load(Ordering::SeqCst), 1);
}

#[test]
fn a_client_that_waits_to_be_asked_for_its_body_is() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, POLICY);
    let mut client = mesh.client();
    client.send("POST /charge HTTP/1.1\r\nhost: web\r\nidempotency-key: \"k\"\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
    assert!(client.read_head().unwrap().starts_with("HTTP/1.1 100"));
    client.send("hi");
    let (head, body) = client.response();
    assert_eq!((status(&head), &*body), (201, &b"act 1: hi"[..]));
}

#[test]
fn a_key_is_made_for_a_caller_that_knows_nothing_of_keys() {
    let shop = shop();
    let mesh = Mesh::new(shop.program.port, Idempotency { mint_keys: true, ..POLICY });
    for n in 1..=2 {
        assert_eq!(ask(&mesh, &post("/charge", "", "same")).3, format!("act {n}: same"));
    }
    let keys = mesh.plane.keys.lock().unwrap();
    assert_eq!(keys.len(), 2);
    assert!(keys.keys().all(|name| name.key.starts_with("byrnie-")));
}

/// What a program that remembers its keys does: whether it dies of a request, and what it says when asked for a key.
#[derive(Default)]
struct Memory {
    dies: bool,
    says: String,
    /// Heads of questions for keys.
    asked: Vec<String>,
}

fn remembering() -> (Program, Arc<AtomicUsize>, Arc<Mutex<Memory>>) {
    let (acts, memory) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Memory>>::default());
    let (count, kept) = (Arc::clone(&acts), Arc::clone(&memory));
    let program = Program::start(move |mut peer| {
        while let Some(head) = peer.read_head() {
            peer.read_body_of(&head);
            let mut memory = kept.lock().unwrap();
            if head.starts_with("GET /keys ") {
                peer.send(memory.says.clone());
                memory.asked.push(head);
            } else if head.starts_with("GET ") {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            } else {
                let n = count.fetch_add(1, Ordering::SeqCst) + 1;
                if memory.dies {
                    return;
                }
                peer.send(format!("HTTP/1.1 201 Made\r\ncontent-length: 5\r\n\r\nact {n}"));
            }
        }
    });
    (program, acts, memory)
}

#[test]
fn a_program_is_asked_what_became_of_a_request_before_it_is_run_again() {
    let (program, acts, memory) = remembering();
    let mesh = Mesh::new(program.port, Idempotency { on_ambiguous: OnAmbiguous::Probe("/keys".into()), ..POLICY });
    let says = |status: &str, more: &str, body: &str| {
        let length = body.len();
        memory.lock().unwrap().says = format!("HTTP/1.1 {status}\r\n{more}content-length: {length}\r\n\r\n{body}");
    };
    let dies = |dies: bool| memory.lock().unwrap().dies = dies;
    says("500 No", "", "");
    dies(true);
    assert_ne!(ask(&mesh, &post("/charge", "k", "")).0, 201);
    dies(false);
    // Whatever it says that isn't an answer to the question: nothing is run.
    for status in ["500 No", "302 There", "403 No", "400 What"] {
        says(status, "", "");
        let (status, mark, ..) = ask(&mesh, &post("/charge", "k", ""));
        assert_eq!((status, &*mark), (409, "ambiguous"));
    }
    says("425 Early", "retry-after: 3\r\n", "");
    let mut client = mesh.client();
    client.send(post("/charge", "k", ""));
    let (head, _) = client.response();
    assert_eq!((status(&head), header(&head, "idempotency-status")), (409, Some("in-flight")));
    assert_eq!(header(&head, "retry-after"), Some("3"));
    assert_eq!(acts.load(Ordering::SeqCst), 1);
    // It was done: what it answers now is the answer, for good.
    says("202 Done", "x-receipt: 7\r\n", "receipt");
    for _ in 0..2 {
        let (status, mark, _, body) = ask(&mesh, &post("/charge", "k", ""));
        assert_eq!((status, &*mark, &*body), (202, "replayed", "receipt"));
        says("500 No", "", "");
    }
    assert_eq!(acts.load(Ordering::SeqCst), 1);
    let asked = memory.lock().unwrap().asked.clone();
    assert!(asked.iter().all(|head| header(head, "idempotency-key") == Some("\"k\"")), "{asked:?}");
    // It knows nothing of it: now, and not before, it is run.
    dies(true);
    assert_ne!(ask(&mesh, &post("/charge", "other", "")).0, 201);
    dies(false);
    let before = acts.load(Ordering::SeqCst);
    says("404 None", "", "");
    let (status, mark, _, body) = ask(&mesh, &post("/charge", "other", ""));
    assert_eq!((status, &*mark, body), (201, "", format!("act {}", before + 1)));
    assert_eq!(ask(&mesh, &post("/charge", "other", "")).1, "replayed");
    assert_eq!(acts.load(Ordering::SeqCst), before + 1);
}
