// SPDX-License-Identifier: Apache-2.0
//! Two meshes, each with a control plane and authorities of its own, that fail over to each other through gateways.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "how long a move takes is measured, and a test fails by panicking"
)]

mod mesh;

use byrnie_net::runtime;
use byrnie_net::tls::ca::Authority;
use mesh::{Mesh, Program, file, free_port, http, load, until};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a mesh needs to let others in to `orders`, by a gateway at this port.
fn export(port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: sites}}
spec:
  gatewayClassName: byrnie
  listeners: [{{name: sites, port: {port}, protocol: mesh.byrnie.dev/sites}}]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {{name: orders}}
"
    )
}

/// Who of another mesh may call `orders`, if only by GET.
fn admit(identity: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: from-afar}}
spec:
  targetRefs: [{{group: '', kind: Service, name: orders}}]
  action: ALLOW
  rules: [{{sources: [{{type: SPIFFE, spiffe: '{identity}'}}]}}]
"
    )
}

/// Answers each request with its own word and who the mesh says has called.
const ORDERS: &str = "import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = (sys.argv[2] + ' ' + str(self.headers.get('forwarded-client-identity'))).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

/// Asks again and again, in lines of `STATUS WORD IDENTITY`.
const CALLER: &str = "import http.client, os, sys, time, urllib.parse
url = urllib.parse.urlparse(os.environ['BYRNIE_ORDERS_URL'])
while True:
    began = time.monotonic()
    try:
        one = http.client.HTTPConnection(url.hostname, url.port, timeout=9)
        one.request('GET', '/x')
        answer = one.getresponse()
        said = '%d %s' % (answer.status, answer.read().decode().replace('\\n', ' ')[:120])
        one.close()
    except Exception as error:
        said = 'broken ' + str(error)
    print(said, '%dms' % ((time.monotonic() - began) * 1000), flush=True)
    time.sleep(0.01)
";

fn orders(mesh: &Mesh, word: &str) -> Program {
    let (script, port) = (file(mesh, "orders.py", ORDERS), free_port().to_string());
    let program = mesh.run(&["--name", "orders", "--port", &port], &["python3", &script, &port, word]);
    program.wait_for_line("joined as");
    program
}

/// The lines of a caller's log since it had so many, by their first two words.
fn since(caller: &Program, from: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in caller.log().lines().skip(from) {
        let words: Vec<&str> = line.split(' ').take(2).collect();
        *counts.entry(words.join(" ")).or_default() += 1;
    }
    counts
}

fn lines(caller: &Program) -> usize {
    caller.log().lines().count()
}

/// Lets each mesh know the other; `port` is that of the east's gateway.
fn introduce(west: &Mesh, east: &Mesh, port: u16) {
    east.ok(&["apply", "-f", &file(east, "export.yaml", &export(port))]);
    let site = west.ok(&["site", "west"]);
    assert!(!site.contains("PRIVATE"), "{site}");
    east.ok(&["apply", "-f", &file(east, "west.yaml", &site)]);
    let site = east.ok(&["site", "east"]);
    assert!(site.contains(&format!("127.0.0.1:{port}")) && site.contains("serviceAccount: orders"), "{site}");
    west.ok(&["apply", "-f", &file(west, "east.yaml", &site)]);
}

#[test]
fn calls_go_to_another_site_when_nobody_is_left_here_and_come_home_again() {
    let (west, east) = (Mesh::up(&["--trust-domain", "west.test"]), Mesh::up(&["--trust-domain", "east.test"]));
    let (near, far) = ([orders(&west, "near-1"), orders(&west, "near-2")], orders(&east, "far"));
    introduce(&west, &east, free_port());
    west.ok(&["allow", "web", "orders"]);
    west.until_in_sync();
    let caller = file(&west, "caller.py", CALLER);
    let web = west.run(&["--name", "web", "--uses", "orders"], &["python3", &caller]);
    web.wait_for_line("200 near");
    // Nobody of another mesh may anything until a policy names it.
    let foreign = "spiffe://west.test/ns/default/sa/web";
    let why = ["explain", "GET http://orders/x", "--from", foreign];
    let denied = String::from_utf8_lossy(&east.cli(&why).stdout).into_owned();
    assert!(denied.starts_with("DENIED 403") && denied.contains("type: SPIFFE"), "{denied}");
    east.ok(&["apply", "-f", &file(&east, "admit.yaml", &admit(foreign))]);
    let told = east.ok(&why);
    assert!(told.contains("ServiceExport/default/orders") && told.contains(foreign), "{told}");
    let seen = west.ok(&["explain", "GET http://orders/x", "--from", "web"]);
    assert!(seen.contains("of site east") && seen.contains("farther away"), "{seen}");

    // All that serve it here are killed at once: no request fails, and within a second the other site is asked.
    let before = lines(&web);
    assert!(since(&web, 0).keys().all(|words| words.starts_with("200 near") || !words.starts_with(char::is_numeric)));
    let killed = Instant::now();
    near.iter().for_each(|program| program.signal("KILL"));
    until("the other site answers", || web.log(), || since(&web, before).contains_key("200 far"));
    let moved = killed.elapsed();
    let at = lines(&web);
    until("it goes on", || web.log(), || since(&web, at).get("200 far").is_some_and(|count| *count > 50));
    let counts = since(&web, before);
    assert!(counts.keys().all(|words| words.starts_with("200 ")), "{counts:?}");
    assert!(moved.as_millis() < 1000, "{moved:?}");
    // The callee sees who really calls: what stands between has no part in it.
    assert!(web.log().contains(&format!("200 far {foreign}")), "{}", web.log());
    until(
        "status tells of it",
        || west.ok(&["status"]),
        || String::from_utf8_lossy(&west.cli(&["status"]).stdout).contains("BYR-S030"),
    );
    let edges = || east.ok(&["edges"]);
    until("the callee's mesh names the caller", edges, || edges().contains("web.default@west.test"));
    assert!(since(&web, before).keys().all(|words| words.starts_with("200 ")), "{:?}", since(&web, before));

    // Back home as soon as somebody serves it there.
    let at = lines(&web);
    let _home = orders(&west, "near-3");
    until("it's answered at home", || web.log(), || since(&web, at).contains_key("200 near-3"));
    let at = lines(&web);
    until("it stays", || web.log(), || lines(&web) > at + 50);
    let counts = since(&web, at);
    assert!(counts.keys().all(|words| *words == "200 near-3"), "{counts:?}");
    drop(far);
}

/// A service that nobody serves here.
fn empty(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n"
    )
}

#[test]
fn a_gateway_lets_nobody_in_but_to_what_is_exported_and_whom_a_policy_names() {
    let (west, east) = (Mesh::up(&["--trust-domain", "west.test"]), Mesh::up(&["--trust-domain", "east.test"]));
    let _orders = orders(&east, "far");
    let port = free_port();
    west.ok(&["apply", "-f", &file(&west, "empty.yaml", &empty("orders"))]);
    introduce(&west, &east, port);
    // Known, exported, and named by no policy; then another is named, and at last the one that asks.
    let refused = west.ask_until("orders", "/x", |answer| answer.status == 403);
    assert!(refused.body.contains("BYR-R001"), "{}", refused.body);
    east.ok(&["apply", "-f", &file(&east, "other.yaml", &admit("spiffe://west.test/ns/default/sa/web"))]);
    assert_eq!(west.ask("orders", "/x").unwrap().status, 403);
    let edge = "spiffe://west.test/ns/byrnie/sa/edge";
    east.ok(&["apply", "-f", &file(&east, "edge.yaml", &admit(edge))]);
    let answer = west.ask_until("orders", "/x", |answer| answer.status == 200);
    assert_eq!(answer.body, format!("far {edge}"));

    // What is no more exported is closed at once, whoever has a connection already; and again open when it is.
    east.ok(&["delete", "serviceexport", "orders"]);
    until("it's closed", String::new, || west.ask("orders", "/x").is_ok_and(|answer| answer.status != 200));
    east.ok(&["apply", "-f", &file(&east, "again.yaml", &export(port))]);
    west.ask_until("orders", "/x", |answer| answer.status == 200);

    // A site whose authorities are replaced by others' is another one; so is one that claims to be this mesh.
    let site = east.ok(&["site", "east"]);
    let own = west.cli(&["apply", "-f", &file(&west, "own.yaml", &site.replace("east.test", "west.test"))]);
    let told = String::from_utf8_lossy(&own.stderr).into_owned() + &String::from_utf8_lossy(&own.stdout);
    assert!(told.contains("BYR-C080"), "{told}");
    west.ok(&["apply", "-f", &file(&west, "east.yaml", &site)]);
    west.ask_until("orders", "/x", |answer| answer.status == 200);

    // Without its gateway the answer is quick and says so.
    let status = || String::from_utf8_lossy(&west.cli(&["status"]).stdout).into_owned();
    until("nothing is said of it", status, || !status().contains("BYR-S031"));
    east.up.as_ref().unwrap().signal("KILL");
    let gone = west.ask_until("orders", "/x", |answer| answer.status == 503);
    let began = Instant::now();
    let again = west.ask("orders", "/x").unwrap();
    assert!(again.status == 503 && began.elapsed().as_millis() < 1000, "{:?} {again:?}", began.elapsed());
    assert!(gone.body.contains("east.") && again.body.contains("connect failed"), "{} {}", gone.body, again.body);
    let told = || west.ask("orders", "/x").is_ok() && status().contains("orders.default is not reached at site east");
    until("status tells of it", status, told);
    assert!(status().contains("BYR-S031"), "{}", status());
}

/// What is spoken across sites, by whom: programs of this process, in the east.
const KINDS: [(&str, &str); 3] = [("web", "http"), ("rpc", "grpc"), ("db", "tcp")];

/// The east serves all kinds and exports them to one identity of the west, where nobody serves any of them, through a gateway
/// at this port.
fn of_all_kinds(west: &Mesh, east: &Mesh, port: u16) -> ([Program; 3], [load::Server; 3]) {
    let servers = [load::web(), load::rpc(), load::repeater()];
    let programs = [0, 1, 2].map(|at| east.beside(KINDS[at].0, Some((servers[at].port, KINDS[at].1)), &[]));
    let mut exports = export(port).replace("orders", KINDS[0].0);
    let mut empties = String::new();
    for (name, protocol) in KINDS {
        if name != KINDS[0].0 {
            exports += &format!(
                "---\napiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {{name: {name}}}\n"
            );
        }
        let policy = admit("spiffe://west.test/ns/default/sa/caller");
        exports += &format!("---\n{}", policy.replace("from-afar", name).replace("orders", name));
        empties += &empty(name).replace("{port: 80}", &format!("{{port: 80, appProtocol: {protocol}}}"));
        empties += "---\n";
    }
    east.ok(&["apply", "-f", &file(east, "exports.yaml", &exports)]);
    west.ok(&["apply", "-f", &file(west, "empties.yaml", &empties)]);
    east.ok(&["apply", "-f", &file(east, "west.yaml", &west.ok(&["site", "west"]))]);
    (programs, servers)
}

fn caller(west: &Mesh) -> (Program, [SocketAddr; 3]) {
    let names = KINDS.map(|(name, _)| name).join(",");
    let caller = west.beside("caller", None, &["--uses", &names]);
    let to = KINDS.map(|(name, _)| caller.address(&format!("BYRNIE_{}_URL", name.to_uppercase())));
    let works = || http(to[0], "web", "/").is_ok_and(|answer| answer.status == 200);
    until("the other site answers", || format!("{:?}", http(to[0], "web", "/")), works);
    (caller, to)
}

/// The same Site, for which one more authority vouches.
fn with_another_authority(site: &str) -> String {
    let other = Authority::create("east.test", runtime::now().wall).unwrap().roots_pem();
    site.replacen("authorities: \"", &format!("authorities: \"{}", other.replace('\n', "\\n")), 1)
}

#[test]
fn what_is_spoken_goes_on_between_sites_while_their_authorities_change() {
    let (west, east) = (Mesh::up(&["--trust-domain", "west.test"]), Mesh::up(&["--trust-domain", "east.test"]));
    let _programs = of_all_kinds(&west, &east, free_port());
    let one = east.ok(&["site", "east"]);
    let two = with_another_authority(&one);
    assert_eq!(two.matches("BEGIN CERTIFICATE").count(), 2, "{two}");
    west.ok(&["apply", "-f", &file(&west, "east.yaml", &one)]);
    let (_caller, to) = caller(&west);
    let over = AtomicBool::new(false);
    type Load<'a> = (&'static str, Box<dyn Fn(&AtomicBool) -> load::Outcome + Send + Sync + 'a>);
    let kinds: Vec<Load> = vec![
        ("HTTP/1", Box::new(move |over| load::keep_asking(to[0], "web", over))),
        ("new connections", Box::new(move |over| load::ask_anew(to[0], "web", over))),
        ("WebSocket", Box::new(move |over| load::talk_by_websocket(to[0], "web", over))),
        ("HTTP/2", Box::new(move |over| load::call(to[1], "rpc", over))),
        ("gRPC streams", Box::new(move |over| load::stream(to[1], "rpc", over))),
        ("TCP", Box::new(move |over| load::talk(to[2], over))),
    ];
    std::thread::scope(|scope| {
        let over = &over;
        let loads: Vec<_> = kinds.iter().map(|(name, run)| (name, scope.spawn(move || run(over)))).collect();
        // Both vouch, as while the one takes the other's place; then only one does again.
        let changed = std::panic::catch_unwind(|| {
            for (round, site) in [&two, &one, &two, &one].into_iter().enumerate() {
                west.ok(&["apply", "-f", &file(&west, &format!("east-{round}.yaml"), site)]);
                let begun = Instant::now();
                until("some calls under these", String::new, || begun.elapsed().as_millis() > 500);
            }
        });
        over.store(true, Ordering::SeqCst);
        for (name, load) in loads {
            let done = load.join().unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(done > 1, "{name}: only {done}");
        }
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Stands before a gateway as a machine of its own: passes on what comes.
const RELAY: &str = "import socket, sys, threading
def copy(one, other):
    try:
        while True:
            some = one.recv(65536)
            if not some: break
            other.sendall(some)
        other.shutdown(socket.SHUT_WR)
    except OSError: pass
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
print('relays', flush=True)
while True:
    one, _ = listener.accept()
    other = socket.create_connection(('127.0.0.1', int(sys.argv[2])))
    for pair in [(one, other), (other, one)]:
        threading.Thread(target=copy, args=pair, daemon=True).start()
";

/// Whether somebody holds a connection to this port that was open, whether its other side has closed or not.
fn is_connected_to(port: u16) -> bool {
    /// `ESTABLISHED` and `CLOSE_WAIT`.
    const STATES: [&str; 2] = ["01", "08"];
    let (table, to) = (std::fs::read_to_string("/proc/net/tcp").unwrap(), format!(":{port:04X}"));
    let mut rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.any(|row| row[2].ends_with(&to) && STATES.contains(&row[3]))
}

#[test]
fn one_of_two_gateways_of_a_site_dies_and_calls_go_on_through_the_other() {
    let (west, east) = (Mesh::up(&["--trust-domain", "west.test"]), Mesh::up(&["--trust-domain", "east.test"]));
    let port = free_port();
    let (_programs, servers) = of_all_kinds(&west, &east, port);
    let script = file(&east, "relay.py", RELAY);
    let ways = [free_port(), free_port()];
    let relay = |at: u16| {
        let mut command = Command::new("python3");
        command.args([&script, &at.to_string(), &port.to_string()]);
        let relay = Program::spawn(command);
        relay.wait_for_line("relays");
        relay
    };
    let mut relays = ways.map(relay);
    let addresses = ways.map(|way| format!("127.0.0.1:{way}"));
    let site = east.ok(&["site", "east", "--gateway", &addresses[0], "--gateway", &addresses[1]]);
    west.ok(&["apply", "-f", &file(&west, "east.yaml", &site)]);
    let (_caller, to) = caller(&west);
    let once = |run: fn(SocketAddr, &str, &AtomicBool) -> load::Outcome, at: usize| {
        let (over, name, before) = (AtomicBool::new(false), KINDS[at].0, servers[at].served());
        std::thread::scope(|scope| {
            let load = scope.spawn(|| run(to[at], name, &over));
            until("one", String::new, || servers[at].served() > before || load.is_finished());
            over.store(true, Ordering::SeqCst);
            let done = load.join().unwrap();
            assert!(done.as_ref().is_ok_and(|done| *done > 0), "{name}: {done:?}");
        });
    };
    for dies in [0, 1] {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asks = scope.spawn(|| {
                let mut answered = 0;
                while !over.load(Ordering::SeqCst) {
                    let answer = http(to[0], "web", "/").unwrap();
                    assert_eq!(answer.status, 200, "after {answered}: {}", answer.body);
                    answered += 1;
                }
                answered
            });
            relays[dies].signal("KILL");
            relays[dies].wait();
            // What is written before the end of a connection was read may have come, and isn't sent again.
            until("the ends of its connections", String::new, || !is_connected_to(ways[dies]));
            // What is opened from now on goes by the other.
            let others = std::panic::catch_unwind(|| {
                once(load::call, 1);
                once(load::stream, 1);
                once(|to, _, over| load::talk(to, over), 2);
            });
            over.store(true, Ordering::SeqCst);
            assert!(asks.join().unwrap() > 10);
            others.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        relays[dies] = relay(ways[dies]);
    }
}
