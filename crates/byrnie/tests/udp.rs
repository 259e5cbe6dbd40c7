// SPDX-License-Identifier: Apache-2.0
//! Datagrams between programs: a real one that sends back what it gets, real proxies, and clients of this process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Program, byrnie, file, free_port, http, limited, until};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Sends back what it gets, but says its name to who asks for it.
const ECHO: &str = "
import socket, sys
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(('127.0.0.1', int(sys.argv[1])))
print('takes datagrams', flush=True)
while True:
    said, peer = own.recvfrom(65536)
    own.sendto(sys.argv[2].encode() if said == b'who' else said, peer)
";
/// How long an answer is waited for before it's asked again, as resolvers do.
const AGAIN: Duration = Duration::from_millis(200);

fn echo(mesh: &Mesh, name: &str) -> Program {
    let (port, script) = (free_port().to_string(), file(mesh, "echo.py", ECHO));
    let run = mesh.run(&["--name", "echo", "--port", &format!("{port}/udp")], &["python3", &script, &port, name]);
    run.wait_for_line("takes datagrams");
    run
}

fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(AGAIN)).unwrap();
    socket
}

/// What is answered, if anything is before it would be asked again.
fn answer(client: &UdpSocket) -> Option<Vec<u8>> {
    let mut answer = vec![0; 65_536];
    let length = client.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

fn ask(client: &UdpSocket, what: &[u8]) -> Option<Vec<u8>> {
    client.send(what).unwrap();
    answer(client)
}

/// Asks until it's answered so.
fn ask_until(client: &UdpSocket, what: &[u8], fits: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let last = std::cell::RefCell::new(None);
    until(
        "an answer that fits",
        || format!("{:?}", last.borrow().as_ref().map(|last: &Vec<u8>| last.len())),
        || {
            let answered = ask(client, what);
            let good = answered.as_deref().is_some_and(&fits);
            last.replace(answered);
            good
        },
    );
    last.take().unwrap()
}

/// The lines of a proxy's metrics with these words, by the name of its program.
fn metrics(mesh: &Mesh, program: &str, words: &[&str]) -> Vec<(String, f64)> {
    let proxies = mesh.sidecars();
    let name = format!("default/{program}");
    let proxy = proxies.iter().find(|proxy| proxy["name"].as_str().unwrap().starts_with(&name)).unwrap();
    let admin = proxy["admin"].as_str().unwrap().parse().unwrap();
    let text = mesh::http(admin, "localhost", "/metrics").unwrap().body;
    let lines = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(line, value)| (line.to_owned(), value.parse().unwrap()))
        .collect()
}

fn sum(found: &[(String, f64)]) -> f64 {
    found.iter().map(|(_, value)| value).sum()
}

#[test]
fn datagrams_come_back_whole_whatever_their_size_and_many_flows_at_once() {
    let mesh = Mesh::up(&[]);
    let _echo = echo(&mesh, "v1");
    mesh.ok(&["allow", "caller", "echo"]);
    let caller = mesh.beside("caller", None, &["--uses", "echo"]);
    assert!(caller.value("BYRNIE_ECHO_URL").starts_with("udp://127.0.0.1:"), "{}", caller.log());
    let to = caller.address("BYRNIE_ECHO_URL");
    let one = client(to);
    ask_until(&one, b"hello", |answer| answer == b"hello");
    for length in [0, 1, 63, 512, 1_472, 16_384, 65_507] {
        let sent: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        ask_until(&one, &sent, |answer| answer == sent);
    }
    let clients: Vec<UdpSocket> = (0..300).map(|_| client(to)).collect();
    for (number, client) in (0..300_u32).zip(&clients) {
        client.send(&number.to_be_bytes()).unwrap();
    }
    for (number, client) in (0..300_u32).zip(&clients) {
        // What a full socket of the system has lost is asked again.
        let sent = number.to_be_bytes();
        if answer(client).is_none_or(|answer| answer != sent) {
            ask_until(client, &sent, |answer| answer == sent);
        }
    }
    // By a proxy that speaks no `byrnie/1`, each flow has a connection of its own.
    mesh.ok(&["allow", "plain", "echo"]);
    let mut command = byrnie();
    command.env("BYRNIE_HOP", "http1");
    let plain = mesh.run_by(command, &["--name", "plain", "--uses", "echo"], &["tail", "-f", "/dev/null"]);
    let of_plain = client(plain.address("BYRNIE_ECHO_URL"));
    ask_until(&of_plain, &[7; 65_507], |answer| answer == [7; 65_507]);
    let open = sum(&metrics(&mesh, "caller", &["byrnie_connections{"]));
    assert!(open >= 301.0, "{open} flows are open");
    let explained = mesh.json(&["explain", "udp://echo:80", "--from", "caller"]);
    assert_eq!(explained["decision"], "allow", "{explained}");
    let explained = mesh.json(&["explain", "tcp://echo:80", "--from", "caller"]);
    assert_eq!(explained["decision"], "fail", "no connection is taken there: {explained}");
}

#[test]
fn who_is_not_let_in_gets_nothing_is_counted_and_needs_no_restart_to_be_let_in() {
    let mesh = Mesh::up(&[]);
    let _echo = echo(&mesh, "v1");
    // One whom no policy names, and one who may call another port. Both proxies know the way; the callee's lets nobody in.
    let policy = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: elsewhere}\nspec:\n  \
                  action: ALLOW\n  targetRefs: [{group: '', kind: Service, name: echo}]\n  \
                  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: near}}], networkAttributes: {ports: [1]}}]\n";
    mesh.ok(&["apply", "-f", &file(&mesh, "policy.yaml", policy)]);
    let stranger = mesh.beside("stranger", None, &["--uses", "echo"]);
    let near = mesh.beside("near", None, &["--uses", "echo"]);
    stranger.wait_for_line("byrnie allow stranger echo");
    let clients = [(&stranger, "stranger"), (&near, "near")];
    let clients = clients.map(|(run, name)| (client(run.address("BYRNIE_ECHO_URL")), name));
    for (client, name) in &clients {
        let source = format!("source=\"{name}.default\"");
        let denied = || metrics(&mesh, "echo", &["byrnie_requests_total{", &source, "access_denied"]);
        until(
            "a denial that is counted",
            || format!("{:?}", metrics(&mesh, "echo", &["byrnie_requests_total{"])),
            || {
                assert_eq!(ask(client, b"let me in"), None, "{name}");
                sum(&denied()) >= 1.0
            },
        );
    }
    for (client, name) in &clients {
        mesh.ok(&["allow", name, "echo"]);
        ask_until(client, b"let me in", |answer| answer == b"let me in");
    }
}

#[test]
fn flows_of_an_instance_that_dies_go_on_with_another() {
    let mesh = Mesh::up(&[]);
    let (first, _second) = (echo(&mesh, "first"), echo(&mesh, "second"));
    mesh.ok(&["allow", "caller", "echo"]);
    let caller = mesh.beside("caller", None, &["--uses", "echo"]);
    let to = caller.address("BYRNIE_ECHO_URL");
    // Each flow stays with one, and both have some.
    let clients = std::cell::RefCell::new(Vec::new());
    until(
        "flows of both",
        || format!("{:?}", clients.borrow()),
        || {
            let client = client(to);
            let name = ask_until(&client, b"who", |answer| !answer.is_empty());
            assert_eq!(ask_until(&client, b"who", |_| true), name, "a flow stays where it is");
            clients.borrow_mut().push((client, name));
            let has = |one: &&str| clients.borrow().iter().any(|(_, name)| name == one.as_bytes());
            ["first", "second"].iter().all(has)
        },
    );
    first.signal("KILL");
    for (client, _) in clients.borrow().iter() {
        ask_until(client, b"who", |answer| answer == b"second");
    }
}

#[test]
fn a_flow_that_rests_is_ended_and_counted_as_no_failure() {
    let mesh = Mesh::up(&[]);
    let _echo = echo(&mesh, "v1");
    mesh.ok(&["allow", "caller", "echo"]);
    let policy = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: echo}\n\
                  spec: {targetRefs: [{group: '', kind: Service, name: echo}], limits: {maxIdle: 1s}}\n";
    mesh.ok(&["apply", "-f", &file(&mesh, "policy.yaml", policy)]);
    let caller = mesh.beside("caller", None, &["--uses", "echo"]);
    let client = client(caller.address("BYRNIE_ECHO_URL"));
    ask_until(&client, b"hello", |answer| answer == b"hello");
    let ended =
        |at: &str| metrics(&mesh, at, &["byrnie_requests_total{", "destination=\"echo.default\"", "reason=\"\""]);
    for at in ["caller", "echo"] {
        until("the end of the flow", || format!("{:?}", ended(at)), || sum(&ended(at)) >= 1.0);
    }
    assert_eq!(sum(&metrics(&mesh, "caller", &["byrnie_connections{"])), 0.0);
    // The next datagram begins another.
    ask_until(&client, b"again", |answer| answer == b"again");
}

#[test]
fn a_proxy_that_is_replaced_goes_on_at_the_same_address() {
    let mesh = Mesh::up(&[]);
    let _echo = echo(&mesh, "v1");
    mesh.ok(&["allow", "caller", "echo"]);
    let caller = mesh.beside("caller", None, &["--uses", "echo"]);
    let client = client(caller.address("BYRNIE_ECHO_URL"));
    ask_until(&client, b"before", |answer| answer == b"before");
    for _ in 0..2 {
        let upgrade = {
            let mut command = byrnie();
            command.arg("--data-dir").arg(&mesh.data).args(["upgrade", "caller"]);
            Program::spawn(command)
        };
        upgrade.wait_for_line("is served by process");
        ask_until(&client, b"by the next", |answer| answer == b"by the next");
        // What was open has an end, and isn't waited for up to the deadline.
        upgrade.wait_for_line("ended, nothing was cut");
        ask_until(&client, b"after", |answer| answer == b"after");
    }
}

#[test]
fn flows_take_no_place_from_connections() {
    let mesh = Mesh::up(&[]);
    let _echo = echo(&mesh, "v1");
    let hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    mesh.ok(&["allow", "caller", "echo"]);
    mesh.ok(&["allow", "caller", "hello"]);
    // So few files that it may have a hundred connections from its program, or some more where it has more cores than six.
    let uses = ["--name", "caller", "--uses", "echo,hello"];
    let caller = mesh.run_by(limited("-n 256"), &uses, &["tail", "-f", "/dev/null"]);
    caller.wait_for_line("BYRNIE_HELLO_URL");
    let (to, calls) = (caller.address("BYRNIE_ECHO_URL"), caller.address("BYRNIE_HELLO_URL"));
    let is_answered = || http(calls, "hello", "/").is_ok_and(|answer| answer.status == 200);
    until("an answer", || hello.log() + &caller.log(), is_answered);
    let clients: Vec<UdpSocket> = (0..400).map(|_| client(to)).collect();
    // Who has asked twice may rest for a minute.
    for (number, client) in (0..800_u32).zip(clients.iter().cycle()) {
        let sent = number.to_be_bytes();
        ask_until(client, &sent, |answer| answer == sent);
    }
    let open = sum(&metrics(&mesh, "caller", &["byrnie_connections{"]));
    assert!(open > 200.0, "{open} flows are open");
    assert!(is_answered(), "{}", caller.log());
}
