// SPDX-License-Identifier: Apache-2.0
//! Datagrams between programs: a real one that sends back what it gets, real proxies, and clients of this process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::console::operator;
use mesh::{Mesh, Program, byrnie, file, free_port, http, limited, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
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
    echo_as(mesh, "echo", name)
}

/// The same as an instance of this service; its name is its version too.
fn echo_as(mesh: &Mesh, service: &str, name: &str) -> Program {
    let (port, script, version) = (free_port().to_string(), file(mesh, "echo.py", ECHO), format!("version={name}"));
    let args = ["--name", service, "--port", &format!("{port}/udp"), "--labels", &version];
    let run = mesh.run(&args, &["python3", &script, &port, name]);
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

/// The lines of a proxy's metrics with these words, by the name of its program, or `edge`.
fn metrics(mesh: &Mesh, program: &str, words: &[&str]) -> Vec<(String, f64)> {
    let proxies = mesh.json(&["proxies"]);
    let name = if program == "edge" { "byrnie/edge".to_owned() } else { format!("default/{program}") };
    let mut all = proxies.as_array().unwrap().iter();
    let proxy = all.find(|proxy| proxy["name"].as_str().unwrap().starts_with(&name)).unwrap();
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

/// A gateway with listeners of these names, protocols and ports.
fn gateway(listeners: &[(&str, &str, u16)]) -> String {
    let one = |(name, protocol, port): &(&str, &str, u16)| {
        format!("  - {{name: {name}, protocol: {protocol}, port: {port}}}\n")
    };
    let listeners: String = listeners.iter().map(one).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public}}\n\
         spec:\n  gatewayClassName: byrnie\n  listeners:\n{listeners}---\n"
    )
}

/// A route of this kind from that gateway to ports of services, by weight.
fn route(kind: &str, name: &str, section: &str, to: &[(&str, u16, u32)]) -> String {
    let one = |(name, port, weight): &(&str, u16, u32)| format!("{{name: {name}, port: {port}, weight: {weight}}}");
    let to: Vec<String> = to.iter().map(one).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n\
         spec:\n  parentRefs: [{{name: public, sectionName: {section}}}]\n  rules: [{{backendRefs: [{}]}}]\n---\n",
        to.join(", ")
    )
}

fn apply(mesh: &Mesh, what: &[String]) {
    mesh.ok(&["apply", "-f", &file(mesh, "gateway.yaml", &what.concat())]);
}

fn outside(port: u16) -> UdpSocket {
    client(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Asks by new flows until one is answered so.
fn ask_anew_until(port: u16, fits: impl Fn(Option<Vec<u8>>) -> bool) {
    until("a flow that goes so", String::new, || fits(ask(&outside(port), b"who")));
}

/// What is said of a resource: a condition of its first parent or, of a gateway, of the listener of that name.
fn condition(mesh: &Mesh, kind: &str, name: &str, at: &str, condition: &str) -> String {
    let status = mesh.json(&["get", kind, name])["status"].clone();
    let holder = match status["listeners"].as_array() {
        Some(listeners) => listeners.iter().find(|one| one["name"] == at).unwrap(),
        None => &status["parents"][0],
    };
    let found = holder["conditions"].as_array().unwrap().iter().find(|one| one["type"] == condition).unwrap();
    format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap())
}

/// A program that says `tcp` to who connects. It runs in the test itself.
fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|mut tcp| drop(tcp.write_all(b"tcp")))
    });
    port
}

fn greeting(port: u16) -> String {
    let mut said = String::new();
    let Ok(mut tcp) = TcpStream::connect(("127.0.0.1", port)) else { return said };
    drop(tcp.set_read_timeout(Some(AGAIN)));
    drop(tcp.read_to_string(&mut said));
    said
}

#[test]
fn flows_from_outside_come_in_by_a_gateway_beside_connections_at_the_same_number() {
    let mesh = Mesh::up(&[]);
    let (_echo, _tcp) = (echo(&mesh, "v1"), mesh.beside("greeter", Some((greeter(), "tcp")), &[]));
    let port = free_port();
    let both = [("tcp", "TCP", port), ("udp", "UDP", port)];
    let (by_tcp, by_udp) =
        (route("TCPRoute", "r", "tcp", &[("greeter", 80, 1)]), route("UDPRoute", "r", "udp", &[("echo", 80, 1)]));
    apply(&mesh, &[gateway(&both), by_tcp.clone(), by_udp.clone()]);
    let one = outside(port);
    ask_until(&one, b"hello", |answer| answer == b"hello");
    for length in [0, 1, 1_472, 65_507] {
        let sent: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        ask_until(&one, &sent, |answer| answer == sent);
    }
    until("a connection is greeted", String::new, || greeting(port) == "tcp");
    let clients: Vec<UdpSocket> = (0..100).map(|_| outside(port)).collect();
    for (number, client) in (0..100_u32).zip(&clients) {
        let sent = number.to_be_bytes();
        ask_until(client, &sent, |answer| answer == sent);
    }
    for (kind, listener) in [("tcproute", "tcp"), ("udproute", "udp")] {
        for wanted in ["Accepted", "ResolvedRefs"] {
            assert_eq!(condition(&mesh, kind, "r", "", wanted), format!("True {wanted}"));
        }
        assert_eq!(condition(&mesh, "gateway", "public", listener, "Programmed"), "True Programmed");
    }
    let told = mesh.ok(&["explain", &format!("udp://localhost:{port}"), "--from", "edge"]);
    assert!(told.contains("UDPRoute/default/r") && told.contains("echo.default"), "{told}");
    assert!(mesh.ok(&["get", "udproutes"]).contains("public"));
    let (_, listed) = operator(&mesh, "GET", "/api/v1/routes", &serde_json::Value::Null);
    assert!(listed.as_array().unwrap().iter().any(|route| route["kind"] == "UDPRoute"), "{listed}");
    assert_eq!(mesh.json(&["status"])["resources"]["UDPRoute"], 1);

    // The one port goes and the other stays.
    apply(&mesh, &[gateway(&both[..1]), by_tcp]);
    until("nothing is answered any more", String::new, || ask(&outside(port), b"who").is_none());
    until("a connection is greeted still", String::new, || greeting(port) == "tcp");
    assert_eq!(condition(&mesh, "udproute", "r", "", "Accepted"), "False NoMatchingParent");
    until("the port is free", String::new, || UdpSocket::bind(("127.0.0.1", port)).is_ok());
    apply(&mesh, &[gateway(&both[1..]), by_udp]);
    ask_until(&one, b"again", |answer| answer == b"again");
    until("no connection is taken", String::new, || TcpStream::connect(("127.0.0.1", port)).is_err());
    // Else each program would wait for flows that the edge keeps open.
    drop(mesh);
}

#[test]
fn a_gateways_flows_are_shared_out_by_weight_and_leave_an_instance_that_dies() {
    let mesh = Mesh::up(&[]);
    let (_one, first, second) =
        (echo_as(&mesh, "one", "one"), echo_as(&mesh, "two", "two-a"), echo_as(&mesh, "two", "two-b"));
    let port = free_port();
    apply(&mesh, &[gateway(&[("udp", "UDP", port)]), route("UDPRoute", "r", "udp", &[("one", 80, 1), ("two", 80, 3)])]);
    let asked = |client: &UdpSocket| ask_until(client, b"who", |answer| !answer.is_empty());
    let known = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let all = || known.borrow_mut().insert(asked(&outside(port))) && known.borrow().len() == 3;
    until("flows to all three", || format!("{:?}", known.borrow()), all);
    let mut flows: Vec<(UdpSocket, Vec<u8>)> = Vec::new();
    for _ in 0..100 {
        let client = outside(port);
        let name = asked(&client);
        assert_eq!(asked(&client), name, "a flow stays where it is");
        flows.push((client, name));
    }
    let of = |wanted: &[u8]| flows.iter().filter(|(_, name)| name == wanted).count();
    // A quarter, of which a fair share misses this range less than once in a million times.
    assert!((4..50).contains(&of(b"one")), "{} of 100", of(b"one"));
    assert!(of(b"two-a") > 0 && of(b"two-b") > 0);
    first.signal("KILL");
    // What is on its way to nobody ends each flow; the next datagram begins another.
    for (client, _) in &flows {
        client.send(b"who").unwrap();
    }
    for (client, name) in &flows {
        let dead = name == b"two-a";
        ask_until(client, b"who", |answer| if dead { answer != b"two-a" } else { answer == &name[..] });
    }
    assert!(second.is_running());
    apply(&mesh, &[route("UDPRoute", "r", "udp", &[("one", 80, 0), ("two", 80, 1)])]);
    until("one gets no more flows", String::new, || (0..20).all(|_| asked(&outside(port)) == b"two-b"));
    // Else each program would wait for flows that the edge keeps open.
    drop(mesh);
}

#[test]
fn a_gateways_flows_are_let_in_by_policy_and_what_is_refused_is_counted_and_told() {
    let mesh = Mesh::up(&[]);
    let (_echo, _tcp) = (echo(&mesh, "v1"), mesh.beside("greeter", Some((greeter(), "tcp")), &[]));
    let (port, astray) = (free_port(), free_port());
    mesh.ok(&["delete", "accesspolicy", "edge", "-n", "byrnie"]);
    let listeners = gateway(&[("udp", "UDP", port), ("astray", "UDP", astray)]);
    // One whose backend takes no datagrams beside one whose does.
    let bad = route("UDPRoute", "bad", "astray", &[("greeter", 80, 1)]);
    apply(&mesh, &[listeners, route("UDPRoute", "r", "udp", &[("echo", 80, 1)]), bad]);
    mesh.until_in_sync();
    let refused = |at: &str, words: &[&str]| sum(&metrics(&mesh, at, &[&["byrnie_requests_total{"], words].concat()));
    // Who refuses says why, and the edge that it was refused.
    for (at, reason) in [("echo", "access_denied"), ("edge", "upstream_reset")] {
        let reason = format!("reason=\"{reason}\"");
        until(
            "a denial that is counted",
            || format!("{:?}", metrics(&mesh, at, &["byrnie_requests_total{"])),
            || {
                assert_eq!(ask(&outside(port), b"let me in"), None);
                refused(at, &["source=\"edge.byrnie\"", "destination=\"echo.default\"", &reason]) >= 1.0
            },
        );
    }
    mesh.ok(&["allow", "edge", "echo"]);
    ask_anew_until(port, |answer| answer.as_deref() == Some(b"v1"));
    assert_eq!(condition(&mesh, "udproute", "bad", "", "ResolvedRefs"), "False UnsupportedProtocol");
    let lint = mesh.cli(&["lint"]);
    assert!(String::from_utf8_lossy(&lint.stdout).contains("BYR-C099"), "{lint:?}");
    until(
        "a flow that leads nowhere is counted",
        || format!("{:?}", metrics(&mesh, "edge", &["byrnie_requests_total{"])),
        || {
            assert_eq!(ask(&outside(astray), b"who"), None);
            refused("edge", &["reason=\"not_served\""]) >= 1.0
        },
    );

    // A route that goes takes new flows with it, and one that comes brings them.
    mesh.ok(&["delete", "udproute", "r"]);
    ask_anew_until(port, |answer| answer.is_none());
    until("it is counted", String::new, || refused("edge", &["reason=\"no_route\""]) >= 1.0);
    apply(&mesh, &[route("UDPRoute", "r", "udp", &[("echo", 80, 1)])]);
    ask_anew_until(port, |answer| answer.as_deref() == Some(b"v1"));
    let policy = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: echo}\n\
                  spec: {targetRefs: [{group: '', kind: Service, name: echo}], limits: {maxIdle: 1s}}\n";
    mesh.ok(&["apply", "-f", &file(&mesh, "policy.yaml", policy)]);
    ask_anew_until(port, |answer| answer.as_deref() == Some(b"v1"));
    let open = || sum(&metrics(&mesh, "edge", &["byrnie_connections{"]));
    until("flows that rest have ended", || format!("{} are open", open()), || open() == 0.0);
    // Else each program would wait for flows that the edge keeps open.
    drop(mesh);
}

#[test]
fn a_port_of_udp_that_is_taken_is_told_and_a_gateway_that_is_replaced_goes_on_at_its_own() {
    let mesh = Mesh::up(&[]);
    let _echo = echo(&mesh, "v1");
    // One of TCP that is free, and so rarely taken of UDP.
    let taken = || UdpSocket::bind(("127.0.0.1", free_port()));
    let other = std::iter::repeat_with(taken).find_map(Result::ok).unwrap();
    let port = other.local_addr().unwrap().port();
    let routes = [("tcp", "TCP", port), ("udp", "UDP", port)];
    apply(&mesh, &[gateway(&routes), route("UDPRoute", "r", "udp", &[("echo", 80, 1)])]);
    let accepted = |at: &str| condition(&mesh, "gateway", "public", at, "Accepted");
    until("it is told", || accepted("udp"), || accepted("udp") == "False PortUnavailable");
    assert_eq!(accepted("tcp"), "True Accepted", "which is another port");
    drop(other);
    until("it is open", || accepted("udp"), || accepted("udp") == "True Accepted");
    let client = outside(port);
    ask_until(&client, b"before", |answer| answer == b"before");
    for _ in 0..2 {
        mesh.ok(&["upgrade", "mesh", "--drain", "10s"]);
        ask_until(&client, b"after", |answer| answer == b"after");
    }
    // Else each program would wait for flows that the edge keeps open.
    drop(mesh);
}

#[test]
fn a_route_on_a_service_shares_out_its_flows() {
    let mesh = Mesh::up(&[]);
    let _echoes = [echo_as(&mesh, "dns", "old"), echo_as(&mesh, "dns-next", "new")];
    for to in ["dns", "dns-next"] {
        mesh.ok(&["allow", "caller", to]);
    }
    let split = |old: u32, new: u32| {
        route("UDPRoute", "dns", "", &[("dns", 80, old), ("dns-next", 80, new)])
            .replace("{name: public, sectionName: }", "{group: '', kind: Service, name: dns}")
    };
    apply(&mesh, &[split(1, 1)]);
    let caller = mesh.beside("caller", None, &["--uses", "dns"]);
    let to = caller.address("BYRNIE_DNS_URL");
    let names = std::cell::RefCell::new(std::collections::BTreeSet::new());
    until(
        "flows to both",
        || format!("{:?}", names.borrow()),
        || {
            names.borrow_mut().extend(ask(&client(to), b"who"));
            names.borrow().len() == 2
        },
    );
    assert_eq!(condition(&mesh, "udproute", "dns", "", "Accepted"), "True Accepted");
    apply(&mesh, &[split(0, 1)]);
    until("new flows to the next alone", String::new, || {
        (0..20).all(|_| ask_until(&client(to), b"who", |answer| !answer.is_empty()) == b"new")
    });
}

#[test]
fn a_canary_shares_out_flows() {
    let mesh = Mesh::up(&[]);
    let _echoes = [echo(&mesh, "v1"), echo(&mesh, "v2")];
    mesh.ok(&["allow", "caller", "echo"]);
    let caller = mesh.beside("caller", None, &["--uses", "echo"]);
    let to = caller.address("BYRNIE_ECHO_URL");
    let all_by = |version: &str| {
        until(version, String::new, || {
            (0..20).all(|_| ask_until(&client(to), b"who", |answer| !answer.is_empty()) == version.as_bytes())
        });
    };
    mesh.ok(&["canary", "echo", "v2", "100"]);
    all_by("v2");
    mesh.ok(&["canary", "echo", "v2", "0"]);
    all_by("v1");
    assert!(mesh.ok(&["get", "udproutes"]).contains("echo"));
    mesh.ok(&["canary", "echo", "--off"]);
    ask_until(&client(to), b"who", |answer| !answer.is_empty());
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
