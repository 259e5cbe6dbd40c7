// SPDX-License-Identifier: Apache-2.0
//! Scopes over a real mesh: programs in Python that know of transactions only the header that they pass on, and the calls that take
//! back or finish. Their proxies have them take part before any call of theirs is forwarded.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Answer, Mesh, Program, free_port, until};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// Takes `PORT` and perhaps the URL of a service that it calls before it answers itself.
const PROGRAM: &str = r#"
import http.server, json, os, sys, urllib.request

held, kept, calls = {}, [], []

class Program(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.say(200, {"held": sorted(held.values()), "kept": kept, "calls": calls})

    def do_POST(self):
        what = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        txn, branch, op = (self.headers.get("Txn-" + name) for name in ("Id", "Branch", "Op"))
        calls.append(f"{self.path} {op}")
        if self.path == "/take":
            held[txn, branch] = what
            for url in sys.argv[2:]:
                further = urllib.request.Request(url + "/take", what.encode(), {"Txn-Id": txn} if txn else {})
                urllib.request.urlopen(further).read()
        elif self.path == "/back":
            held.pop((txn, branch), None)
        elif self.path == "/keep":
            kept.append(held.pop((txn, branch)))
        self.say(200, "fine")

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Program).serve_forever()
"#;

const POLICY: &str = "
apiVersion: mesh.byrnie.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: taking-part}
spec:
  targetRefs: [{name: shop}, {name: stock}]
  idempotency:
    mode: Optional
    enlist: [{call: POST /take, compensate: POST /back, complete: POST /keep}]
";

fn send(at: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Result<Answer, String> {
    let mut stream = TcpStream::connect(at).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(mesh::PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nPrefer: wait=20\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).map_err(|error| error.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no head: {text}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

struct World {
    mesh: Mesh,
    shop: u16,
    stock: u16,
    /// What `web` and a stranger reach their services by.
    web: Doors,
    thief: Doors,
    _programs: Vec<Program>,
}

struct Doors {
    transactions: SocketAddr,
    shop: SocketAddr,
}

impl World {
    fn new() -> Self {
        let mesh = Mesh::up(&[]);
        let program = mesh::file(&mesh, "program.py", PROGRAM);
        let (shop, stock) = (free_port(), free_port());
        let run = |name: &str, port: u16, more: &[&str], args: &[&str]| {
            let port = port.to_string();
            let command = [&["python3", &program, &port], args].concat();
            mesh.run(&[&["--name", name, "--port", &port], more].concat(), &command)
        };
        let behind = run("stock", stock, &[], &[]);
        // It finds the service that it uses by its environment, as any program does.
        let port = shop.to_string();
        let script = format!("exec python3 {program} {port} $BYRNIE_STOCK_URL");
        let front = mesh.run(&["--name", "shop", "--port", &port, "--uses", "stock"], &["sh", "-c", &script]);
        let caller = |name: &str| {
            let port = free_port().to_string();
            let run =
                mesh.run(&["--name", name, "--port", &port, "--uses", "transactions.byrnie,shop"], &["sleep", "1000"]);
            run.wait_for_line("BYRNIE_SHOP_URL");
            let door = |name: &str| run.value(name).strip_prefix("http://").unwrap().parse().unwrap();
            let doors = Doors { transactions: door("BYRNIE_TRANSACTIONS_URL"), shop: door("BYRNIE_SHOP_URL") };
            (doors, run)
        };
        let ((web, one), (thief, other)) = (caller("web"), caller("thief"));
        for name in ["web", "thief"] {
            mesh.ok(&["allow", name, "transactions.byrnie"]);
            mesh.ok(&["allow", name, "shop"]);
        }
        mesh.ok(&["allow", "shop", "stock"]);
        mesh.ok(&["apply", "-f", &mesh::file(&mesh, "policy.yaml", POLICY)]);
        let world = Self { mesh, shop, stock, web, thief, _programs: vec![behind, front, one, other] };
        // Until the policy and all leaves are in force.
        let reserved = || send(world.web.shop, "POST", "/back", "", "").is_ok_and(|answer| answer.status == 403);
        until("the policy to be in force", String::new, reserved);
        for doors in [&world.web, &world.thief] {
            let taken = || send(doors.transactions, "GET", "/txn/v1", "", "").is_ok_and(|answer| answer.status == 200);
            until("the coordinator to be reached", String::new, taken);
        }
        // A call outside of any transaction is an ordinary one.
        until("shop to reach stock", String::new, || world.buy(&world.web, "", "apples").status == 200);
        world
    }

    /// Without an id: outside of any transaction.
    fn buy(&self, by: &Doors, id: &str, what: &str) -> Answer {
        let headers = if id.is_empty() { String::new() } else { format!("Txn-Id: {id}\r\n") };
        send(by.shop, "POST", "/take", &headers, what).unwrap()
    }

    fn scope(&self, id: &str) {
        let body = json!({"id": id, "deadline_ms": 600_000}).to_string();
        let answer = send(self.web.transactions, "POST", "/txn/v1/scopes", "", &body).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    fn end(&self, id: &str, verb: &str) -> Value {
        let answer = send(self.web.transactions, "POST", &format!("/txn/v1/{id}:{verb}"), "", "").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    /// What a program says of itself.
    fn of(port: u16) -> Value {
        let answer = send(SocketAddr::from(([127, 0, 0, 1], port)), "GET", "/", "", "").unwrap();
        serde_json::from_str(&answer.body).unwrap()
    }

    fn both(&self, member: &str) -> [Value; 2] {
        [self.shop, self.stock].map(|port| Self::of(port)[member].clone())
    }
}

#[test]
fn who_is_called_within_a_scope_takes_part_and_does_nothing_for_it() {
    let world = World::new();
    let nothing = || [json!(["apples"]), json!(["apples"])];
    assert_eq!(world.both("held"), nothing(), "what is in no transaction stays as it is");
    // Both programs take part, the second one because the first one passes the header on.
    world.scope("s1");
    assert_eq!(world.buy(&world.web, "s1", "pears").status, 200);
    let closed = world.end("s1", "close");
    assert_eq!((&closed["state"], closed["branches"].as_array().unwrap().len()), (&json!("CLOSED"), 2), "{closed}");
    assert_eq!((world.both("held"), world.both("kept")), (nothing(), [json!(["pears"]), json!(["pears"])]));
    world.scope("s2");
    assert_eq!(world.buy(&world.web, "s2", "plums").status, 200);
    assert_eq!(world.buy(&world.web, "s2", "figs").status, 200);
    assert_eq!(World::of(world.stock)["held"], json!(["apples", "figs", "plums"]));
    let back = world.end("s2", "cancel");
    assert_eq!((&back["state"], back["branches"].as_array().unwrap().len()), (&json!("CANCELLED"), 4), "{back}");
    assert_eq!(world.both("held"), nothing());
    // A repetition under the same key is the same part.
    world.scope("s3");
    for _ in 0..2 {
        let headers = "Txn-Id: s3\r\nIdempotency-Key: \"k\"\r\n";
        assert_eq!(send(world.web.shop, "POST", "/take", headers, "nuts").unwrap().status, 200);
    }
    let back = world.end("s3", "cancel");
    assert_eq!((&back["state"], back["branches"].as_array().unwrap().len()), (&json!("CANCELLED"), 2), "{back}");
    assert_eq!(world.both("held"), nothing());
}

#[test]
fn what_takes_part_in_nothing_is_not_forwarded() {
    let mut world = World::new();
    world.scope("open");
    world.scope("closed");
    world.end("closed", "close");
    let saga = json!({"id": "saga", "branches": [{"name": "a", "action": "POST shop/x", "compensate": "none"}]});
    assert_eq!(send(world.web.transactions, "POST", "/txn/v1/sagas", "", &saga.to_string()).unwrap().status, 201);
    let before = World::of(world.shop)["calls"].clone();
    for (by, id, status, code) in [
        (&world.web, "none", 412, "BYR-R048"),
        (&world.web, "closed", 412, "BYR-R048"),
        (&world.web, "saga", 412, "BYR-R048"),
        (&world.thief, "open", 403, "BYR-R047"),
        (&world.web, "not/an/id", 400, "BYR-R008"),
    ] {
        let answer = world.buy(by, id, "melons");
        assert_eq!(answer.status, status, "{id}: {}", answer.body);
        assert!(answer.body.contains(code), "{id}: {}", answer.body);
    }
    // What ends a part is the coordinator's alone, whatever the call says of itself.
    for path in ["/back", "/keep"] {
        let answer = send(world.web.shop, "POST", path, "Txn-Id: open\r\nTxn-Op: compensate\r\n", "").unwrap();
        assert!(answer.status == 403 && answer.body.contains("BYR-R046"), "{}", answer.body);
    }
    assert_eq!(World::of(world.shop)["calls"], before, "none of these has come through");
    // Nor without its coordinator; what it has promised, it knows when it is back.
    assert_eq!(world.buy(&world.web, "open", "melons").status, 200);
    let up = world.mesh.up.take().unwrap();
    up.signal("KILL");
    drop(up);
    let before = World::of(world.shop)["calls"].clone();
    let answer = world.buy(&world.web, "open", "limes");
    assert!(answer.status == 503 && answer.body.contains("BYR-R049"), "{}", answer.body);
    assert_eq!(World::of(world.shop)["calls"], before);
    world.mesh.start(&[]);
    let state = || {
        let answer = send(world.web.transactions, "POST", "/txn/v1/open:cancel", "", "");
        answer.ok().and_then(|answer| serde_json::from_str::<Value>(&answer.body).ok()).unwrap_or_default()
    };
    until("the scope to be cancelled", || state().to_string(), || state()["state"] == "CANCELLED");
    assert_eq!(world.both("held"), [json!(["apples"]), json!(["apples"])]);
    let log = world.mesh.ok(&["saga", "show", "open"]);
    assert!(log.contains("shop-") && log.contains("stock-"), "{log}");
}
