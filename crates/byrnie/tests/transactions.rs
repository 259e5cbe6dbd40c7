// SPDX-License-Identifier: Apache-2.0
//! Transactions over a real mesh: participants are listeners of this test behind real sidecars; the
//! coordinator runs in `byrnie up` and is killed while it works.
#![expect(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "a test's harness")]

mod mesh;

use mesh::console::{operator, send};
use mesh::participant::{Participant, fine, listen, listen_at};
use mesh::{Answer, Mesh, free_port, until};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn order(id: &str) -> Value {
    json!({"id": id, "branches": [
        {"name": "stock", "action": "POST inventory/reserve", "compensate": "POST inventory/release", "body": {"n": 2}},
        {"name": "pay", "action": "POST payments/charge", "compensate": "POST payments/refund", "body": {"amount": 30},
         "after": ["stock"]}]})
}

#[test]
fn an_order_succeeds_or_is_taken_back_and_a_repeated_request_is_the_same_order() {
    let mesh = Mesh::up(&[]);
    let inventory = Participant::new(&mesh, "inventory", |_, _| fine());
    let payments = Participant::new(&mesh, "payments", |asked, _| {
        if asked.body.contains("300") { (409, "card declined".to_owned()) } else { fine() }
    });
    let (status, first) = operator(&mesh, "POST", "/txn/v1/sagas", &order("order-1"));
    assert_eq!((status, &first["state"]), (201, &json!("SUCCEEDED")), "{first}");
    let charge = payments.asked("/charge");
    assert_eq!(charge.headers["txn-id"], "order-1");
    assert_eq!(charge.headers["txn-op"], "action");
    assert_eq!(charge.headers["idempotency-key"], "\"order-1/pay/action\"");
    assert_eq!(charge.headers["forwarded-client-identity"], "spiffe://mesh.local/ns/byrnie/sa/transactions");
    assert_eq!(charge.body, "{\"amount\":30}");
    // The same again, and something else under the same name.
    let (status, again) = operator(&mesh, "POST", "/txn/v1/sagas", &order("order-1"));
    assert_eq!((status, &again["state"]), (200, &json!("SUCCEEDED")), "{again}");
    // Nor does the order of members say anything, at any depth.
    let turned = r#"{"branches": [
        {"body": {"n": 2}, "compensate": "POST inventory/release", "action": "POST inventory/reserve", "name": "stock"},
        {"after": ["stock"], "compensate": "POST payments/refund", "body": {"amount": 30},
         "name": "pay", "action": "POST payments/charge"}], "id": "order-1"}"#;
    let token = std::fs::read_to_string(mesh.data.join("token")).unwrap();
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    let turned = send(console, "POST", "/txn/v1/sagas", &format!("Authorization: Bearer {token}\r\n"), turned);
    assert_eq!(turned.status, 200, "{}", turned.body);
    let mut other = order("order-1");
    other["branches"][1]["body"]["amount"] = json!(31);
    assert_eq!(operator(&mesh, "POST", "/txn/v1/sagas", &other).0, 422);
    assert_eq!(payments.calls(), ["/charge"]);
    // An id that begins like another's is another's.
    let mut dear = order("order-1000");
    dear["branches"][1]["body"]["amount"] = json!(300);
    let (_, back) = operator(&mesh, "POST", "/txn/v1/sagas", &dear);
    assert_eq!((&back["state"], &back["reason"]), (&json!("COMPENSATED"), &json!("pay: 409 card declined")));
    let release = inventory.asked("/release");
    assert_eq!(release.headers["txn-op"], "compensate");
    let told: Value = serde_json::from_str(&release.body).unwrap();
    assert_eq!(told, json!({"request": {"n": 2}, "response": {"id": 7}}), "the compensation knows what was answered");
    assert!(!payments.calls().contains(&"/refund".to_owned()), "who said no has nothing to take back");
    // The newest comes first, whatever ids clients choose.
    let (_, newest) = operator(&mesh, "POST", "/txn/v1/sagas", &order("a-later-one"));
    assert_eq!(newest["state"], "SUCCEEDED", "{newest}");
    let all = mesh.json(&["saga", "list"]);
    let ids: Vec<&str> = all.as_array().unwrap().iter().filter_map(|row| row["id"].as_str()).collect();
    assert_eq!(ids, ["a-later-one", "order-1000", "order-1"]);
    let listed = mesh.json(&["saga", "list", "--state", "COMPENSATED"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &json!("order-1000")));
    let shown = mesh.ok(&["saga", "show", "order-1000"]);
    assert!(shown.contains("card declined") && shown.contains("compensating"), "{shown}");
}

/// In a body, an input, an answer and a path; nothing is computed with what can't be held exactly.
#[test]
fn numbers_arrive_as_they_were_written() {
    const NUMBERS: &str = r#"{"amount":12345678901234567.89,"id":12345678901234567890123,"price":1.10}"#;
    let mesh = Mesh::up(&[]);
    let shop = Participant::new(&mesh, "shop", |_, _| (200, NUMBERS.to_owned()));
    let file = format!(
        r#"{{"branches": [{{"name": "a", "action": "POST shop/do", "compensate": "none", "body": {NUMBERS}}}]}}"#
    );
    mesh.ok(&["saga", "start", &mesh::file(&mesh, "s.json", &file), "--wait", "20"]);
    assert_eq!(shop.asked("/do").body, NUMBERS);
    let saga = |name: &str, steps: &str| {
        format!(
            "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Saga\nmetadata: {{name: {name}}}\nspec: {{steps: [{steps}]}}\n"
        )
    };
    let steps = r#"{name: x, call: "POST shop/x/{input.id}", body: input, undo: none}, {name: y, call: POST shop/y, body: "{'answer': x}", undo: none}"#;
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "s.yaml", &saga("kept", steps))]);
    mesh.ok(&["saga", "start", "kept", "--input", NUMBERS, "--wait", "20"]);
    assert_eq!(shop.asked("/x/12345678901234567890123").body, NUMBERS);
    assert_eq!(shop.asked("/y").body, format!("{{\"answer\":{}}}", NUMBERS.replace("1.10", "1.1")));
    let steps = r#"{name: x, call: POST shop/sum, body: "input.amount * 2.0", undo: none}"#;
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "s.yaml", &saga("sum", steps))]);
    let refused = mesh.cli(&["saga", "start", "sum", "--input", NUMBERS]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("nothing is computed with 12345678901234567.89"), "{said}");
}

#[test]
fn an_operator_is_told_how_it_stands() {
    let mesh = Mesh::up(&[]);
    let shop = Participant::new(&mesh, "shop", |_, _| (503, String::new()));
    let said = |args: &[&str]| {
        let done = mesh.cli(args);
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let branches = r#"{"branches": [{"name": "a", "action": "POST shop/do", "compensate": "none"}]}"#;
    let file = mesh::file(&mesh, "s.json", branches);
    // Whoever waited for an outcome and got none doesn't go on.
    let (code, waited) = said(&["saga", "start", &file, "--id", "late", "--wait", "1"]);
    assert!(code == Some(1) && waited.contains("still RUNNING after 1 s; `byrnie saga show late`"), "{waited}");
    mesh.ok(&["saga", "start", &file, "--id", "late"]);
    assert_eq!(mesh.json(&["saga", "list", "--state", "running"])[0]["id"], "late");
    let (code, typo) = said(&["saga", "list", "--state", "RUNING"]);
    assert!(code == Some(1) && typo.contains("COMPENSATING") && typo.contains("RUNNING"), "{typo}");
    // What says one thing twice begins nothing, by the command line and by the API.
    let twice = branches.replace("\"name\": \"a\"", "\"name\": \"a\", \"body\": {\"n\": 1, \"n\": 2}");
    let (code, said_twice) = said(&["saga", "start", &mesh::file(&mesh, "twice.json", &twice)]);
    assert!(code == Some(2) && said_twice.contains("\"n\" stands twice"), "{said_twice}");
    let token = std::fs::read_to_string(mesh.data.join("token")).unwrap();
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    let answer = send(console, "POST", "/txn/v1/sagas", &format!("Authorization: Bearer {token}\r\n"), &twice);
    assert!(answer.status == 400 && answer.body.contains("stands twice"), "{}", answer.body);
    // An id that the audit's path would hide.
    let (code, reserved) = said(&["saga", "start", &file, "--id", "audit"]);
    assert!(code == Some(1) && reserved.contains("an id is"), "{reserved}");
    let steps = json!([{"action": "http://shop/do", "compensate": ""}]);
    let one = json!({"gid": "from-dtm", "trans_type": "saga", "steps": steps, "payloads": ["{}"]});
    assert_eq!(operator(&mesh, "POST", "/api/dtmsvr/submit", &one).0, 200);
    let (_, audit) = operator(&mesh, "GET", "/txn/v1/audit", &Value::Null);
    for (verb, id) in [("start", "late"), ("submit", "from-dtm")] {
        let told = audit.as_array().unwrap().iter().any(|line| line["verb"] == verb && line["id"] == id);
        assert!(told, "{verb} of {id}: {audit}");
    }
    drop(shop);
}

#[test]
fn a_coordinator_that_is_killed_goes_on_where_it_was() {
    let mut mesh = Mesh::up(&[]);
    let gate = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let inventory = Participant::new(&mesh, "inventory", |_, _| fine());
    let open = Arc::clone(&gate);
    // Until the gate opens, it commits and then loses its answer.
    let payments = Participant::new(&mesh, "payments", move |_, _| {
        if open.load(std::sync::atomic::Ordering::SeqCst) { fine() } else { (503, String::new()) }
    });
    let asked = order("order-2");
    let (status, begun) = {
        let token = std::fs::read_to_string(mesh.data.join("token")).unwrap();
        let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
        let answer =
            send(console, "POST", "/txn/v1/sagas", &format!("Authorization: Bearer {token}\r\n"), &asked.to_string());
        (answer.status, answer.body)
    };
    assert_eq!(status, 201, "{begun}");
    until("a call of payments", || format!("{:?}", payments.calls()), || !payments.calls().is_empty());
    let up = mesh.up.take().unwrap();
    up.signal("KILL");
    drop(up);
    gate.store(true, std::sync::atomic::Ordering::SeqCst);
    mesh.start(&[]);
    let (status, after) = operator(&mesh, "POST", "/txn/v1/sagas", &asked);
    assert_eq!((status, &after["state"]), (200, &json!("SUCCEEDED")), "{after}");
    assert_eq!(inventory.calls(), ["/reserve"], "what was done is not done again");
}

/// No registry tells that it's back, and the next calls by the clock are up to 30 s away: that all of them come early
/// is no chance.
#[test]
fn participants_named_by_address_are_called_as_soon_as_they_listen_again() {
    const SAGAS: usize = 12;
    let mesh = Mesh::up(&[]);
    let port = free_port();
    let id = |n: usize| format!("late-{n}");
    for n in 0..SAGAS {
        let steps = json!([{"action": format!("http://127.0.0.1:{port}/charge/{n}"), "compensate": ""}]);
        let one = json!({"gid": id(n), "trans_type": "saga", "steps": steps, "payloads": ["{}"], "retry_interval": 30});
        let (status, begun) = operator(&mesh, "POST", "/api/dtmsvr/submit", &one);
        assert_eq!(status, 200, "{begun}");
    }
    let saga = |n: usize| operator(&mesh, "GET", &format!("/txn/v1/{}", id(n)), &Value::Null).1;
    let all = |test: &dyn Fn(&Value) -> bool| (0..SAGAS).all(|n| test(&saga(n)));
    until("calls that fail", || saga(0).to_string(), || all(&|saga| saga["branches"][0]["attempts"] == 1));
    let back = std::time::Instant::now();
    let seen = listen_at(port, |_, _| fine());
    until("the ends", || saga(0).to_string(), || all(&|saga| saga["state"] == "SUCCEEDED"));
    assert!(back.elapsed() < Duration::from_secs(12), "{:?}", back.elapsed());
    assert_eq!(seen.lock().unwrap().len(), SAGAS);
}

/// They take connections, and close them or say that nobody is there: only a call tells whether they are well. One is made
/// each second for all that wait, whose own next calls are up to 30 s away.
#[test]
fn participants_that_take_connections_and_do_not_answer_are_found_well_for_all_that_wait() {
    const SAGAS: usize = 24;
    let mesh = Mesh::up(&[]);
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let away = |status| {
        let (port, gate) = (free_port(), Arc::clone(&well));
        let answer =
            move || if gate.load(std::sync::atomic::Ordering::SeqCst) { fine() } else { (status, String::new()) };
        (port, listen_at(port, move |_, _| answer()))
    };
    let shops = [away(0), away(503)];
    let id = |n: usize| format!("mute-{n}");
    for n in 0..SAGAS {
        let port = shops[n % 2].0;
        let steps = json!([{"action": format!("http://127.0.0.1:{port}/charge/{n}"), "compensate": ""}]);
        let one = json!({"gid": id(n), "trans_type": "saga", "steps": steps, "payloads": ["{}"], "retry_interval": 30});
        let (status, begun) = operator(&mesh, "POST", "/api/dtmsvr/submit", &one);
        assert_eq!(status, 200, "{begun}");
    }
    let saga = |n: usize| operator(&mesh, "GET", &format!("/txn/v1/{}", id(n)), &Value::Null).1;
    let calls = || shops.each_ref().map(|(_, seen)| seen.lock().unwrap().len());
    let probed = || calls().iter().all(|calls| *calls >= SAGAS / 2 + 2);
    until("a call of each and two more at both", || format!("{:?}", calls()), probed);
    let back = std::time::Instant::now();
    well.store(true, std::sync::atomic::Ordering::SeqCst);
    let all = || (0..SAGAS).all(|n| saga(n)["state"] == "SUCCEEDED");
    until("the ends", || saga(0).to_string(), all);
    assert!(back.elapsed() < Duration::from_secs(12), "{:?}", back.elapsed());
}

/// Calls that are under way at once, and the most that were.
#[derive(Default)]
struct Together {
    now: Mutex<(usize, usize)>,
    news: std::sync::Condvar,
}

impl Together {
    /// One more call, which waits for others to come beside it, but not for ever.
    fn join(&self, enough: usize) {
        let mut now = self.now.lock().unwrap();
        now.0 += 1;
        now.1 = now.1.max(now.0);
        self.news.notify_all();
        let (mut now, _) = self.news.wait_timeout_while(now, mesh::PATIENCE / 6, |now| now.1 < enough).unwrap();
        now.0 -= 1;
    }
}

/// dtm takes up what was unfinished one by one after a restart.
#[test]
fn what_a_crash_left_unfinished_goes_on_side_by_side() {
    const SAGAS: usize = 30;
    const BESIDE: usize = 20;
    let mut mesh = Mesh::up(&[]);
    let (open, together) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), Arc::new(Together::default()));
    let (gate, beside) = (Arc::clone(&open), Arc::clone(&together));
    let _shop = Participant::new(&mesh, "shop", move |_, _| {
        if !gate.load(std::sync::atomic::Ordering::SeqCst) {
            return (503, String::new());
        }
        beside.join(BESIDE);
        fine()
    });
    let token = std::fs::read_to_string(mesh.data.join("token")).unwrap();
    for n in 0..SAGAS {
        let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
        let one = json!({"id": format!("s{n}"), "branches": [{"name": "a", "action": format!("POST shop/{n}")}]});
        let begun =
            send(console, "POST", "/txn/v1/sagas", &format!("Authorization: Bearer {token}\r\n"), &one.to_string());
        assert_eq!(begun.status, 201, "{}", begun.body);
    }
    let up = mesh.up.take().unwrap();
    up.signal("KILL");
    drop(up);
    open.store(true, std::sync::atomic::Ordering::SeqCst);
    mesh.start(&[]);
    let state = |n: usize| operator(&mesh, "GET", &format!("/txn/v1/s{n}"), &Value::Null).1["state"].clone();
    until(
        "all to end",
        || (0..SAGAS).map(|n| state(n).to_string()).collect(),
        || (0..SAGAS).all(|n| state(n) == "SUCCEEDED"),
    );
    let most = together.now.lock().unwrap().1;
    assert!(most >= BESIDE, "at most {most} at once");
}

#[test]
fn only_who_may_starts_cancels_joins_and_forces() {
    let mesh = Mesh::up(&[]);
    let _inventory =
        Participant::new(
            &mesh,
            "inventory",
            |asked, _| {
                if asked.path == "/release" { (409, "never".to_owned()) } else { fine() }
            },
        );
    let _payments = Participant::new(&mesh, "payments", |_, _| (409, "no".to_owned()));
    let uses = ["--uses", "transactions.byrnie"];
    let workload = |name: &str| {
        let port = free_port().to_string();
        let run = mesh.run(&[&["--name", name, "--port", &port], &uses[..]].concat(), &["sleep", "1000"]);
        run.wait_for_line("BYRNIE_TRANSACTIONS_URL");
        let url = run.value("BYRNIE_TRANSACTIONS_URL");
        (run, url.strip_prefix("http://").unwrap().parse::<SocketAddr>().unwrap())
    };
    let (_web, web) = workload("web");
    let (_thief, thief) = workload("thief");
    let ask = |from: SocketAddr, path: &str, body: &Value| {
        let answer = send(from, "POST", path, "Prefer: wait=20\r\n", &body.to_string());
        (answer.status, answer.body)
    };
    // Nobody may begin anything before a policy says so: the mesh itself refuses.
    assert_eq!(ask(web, "/txn/v1/sagas", &order("w1")).0, 403);
    for name in ["web", "thief"] {
        mesh.ok(&["allow", name, "transactions.byrnie"]);
    }
    let allowed = |from| send(from, "GET", "/txn/v1", "", "").status == 200;
    until("web at the coordinator", String::new, || allowed(web));
    until("thief at the coordinator", String::new, || allowed(thief));
    // Nor what it may not do itself.
    let (status, why) = ask(web, "/txn/v1/sagas", &order("w1"));
    assert!(status == 403 && why.contains("may not call"), "{status} {why}");
    mesh.ok(&["allow", "web", "inventory"]);
    mesh.ok(&["allow", "web", "payments"]);
    let last = Mutex::new(String::new());
    until(
        "web's order to be taken",
        || last.lock().unwrap().clone(),
        || {
            let (status, body) = ask(web, "/txn/v1/sagas", &order("w1"));
            *last.lock().unwrap() = body;
            status != 403
        },
    );
    let stuck = || operator(&mesh, "GET", "/txn/v1/w1", &Value::Null).1;
    until("the order to be stuck", || stuck().to_string(), || stuck()["state"] == "STUCK");
    let kept = stuck();
    assert_eq!(kept["creator"], "spiffe://mesh.local/ns/default/sa/web");
    // Another workload sees and does nothing with it; a forged header and a direct connection change nothing.
    for path in ["w1:cancel", "w1:retry", "w1:skip", "w1:resolve", "w1/branches/stock:complete"] {
        let (status, body) = ask(thief, &format!("/txn/v1/{path}"), &json!({}));
        assert_eq!(status, 403, "{path}: {body}");
    }
    // Its creator may have it called again, but not declare it settled: that is an operator's word.
    for path in ["w1:skip", "w1:resolve"] {
        let (status, body) = ask(web, &format!("/txn/v1/{path}"), &json!({"branch": "stock", "reason": "fine"}));
        assert!(status == 403 && body.contains("operator"), "{path}: {status} {body}");
    }
    assert_eq!(stuck()["state"], "STUCK");
    // To be asked itself what became of its message, it needs nobody's leave.
    let message =
        json!({"id": "m1", "check": "GET web/check", "branches": [{"name": "a", "action": "POST inventory/mail"}]});
    assert_eq!(ask(web, "/txn/v1/messages?prepare", &message).0, 201);
    assert_eq!(ask(web, "/txn/v1/m1:abort", &json!({})).0, 200);
    // A stranger may join a scope with calls to itself alone.
    assert_eq!(ask(web, "/txn/v1/scopes", &json!({"id": "w2"})).0, 201);
    let joins = |call: &str| ask(thief, "/txn/v1/w2/branches", &json!({"name": "t", "compensate": call}));
    let (status, body) = joins("POST inventory/release");
    assert!(status == 403 && body.contains("only itself"), "{status} {body}");
    assert_eq!(joins("POST thief/undo").0, 201);
    assert_eq!(send(thief, "GET", "/txn/v1/w1", "", "").status, 403);
    let forged = "forwarded-client-identity: spiffe://mesh.local/ns/default/sa/web\r\n";
    assert_eq!(send(thief, "GET", "/txn/v1/w1", forged, "").status, 403);
    assert_eq!(send(thief, "GET", "/txn/v1/audit", "", "").status, 403);
    let seen: Value = serde_json::from_str(&send(thief, "GET", "/txn/v1", "", "").body).unwrap();
    assert_eq!(seen, json!([]), "a list shows one's own");
    // Without an identity: the edge speaks for strangers.
    let edge = SocketAddr::from(([127, 0, 0, 1], mesh.port("edge")));
    let host = "X-Host: x\r\n";
    let through = send_to(edge, "transactions.byrnie.mesh.localhost", "/txn/v1/sagas", host, &order("e1").to_string());
    assert_eq!(through.status, 403, "{}", through.body);
    // Another user of this machine can't speak as the coordinator's proxy.
    let workloads = mesh.json(&["get", "workload"]);
    let own = workloads.as_array().unwrap().iter().find(|w| w["spec"]["serviceAccount"] == "transactions").unwrap();
    let door = own["spec"]["ports"][0]["port"].as_u64().unwrap();
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{door}; printf 'GET /txn/v1/w1 HTTP/1.1\r\nhost: x\r\n{}\r\n' >&3; timeout 5 cat <&3",
        forged.replace('\r', "\\r").replace('\n', "\\n")
    );
    match Command::new("bash").args(["-c", &script]).uid(65_534).output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), ""),
        Err(error) => println!("skipped: this user may not act as another ({error})"),
    }
    // The console wants the token.
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    assert_eq!(send(console, "POST", "/txn/v1/sagas", "", "{}").status, 401);
    // The operator may, and all of it was written down.
    let (_, settled) = operator(&mesh, "POST", "/txn/v1/w1:resolve", &json!({"reason": "by hand"}));
    assert_eq!(settled["state"], "RESOLVED", "{settled}");
    let (_, audit) = operator(&mesh, "GET", "/txn/v1/audit", &Value::Null);
    let refused = |verb: &str| {
        let of = |line: &&Value| line["verb"] == verb && line["caller"] == "spiffe://mesh.local/ns/default/sa/thief";
        audit.as_array().unwrap().iter().filter(of).all(|line| line["status"] == 403)
            && audit.as_array().unwrap().iter().any(|line| of(&line))
    };
    for verb in ["cancel", "retry", "skip", "resolve", "complete", "show", "audit"] {
        assert!(refused(verb), "{verb} is not in the audit: {audit}");
    }
}

fn send_to(address: SocketAddr, host: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
}

#[test]
fn messages_tcc_and_scopes_end_as_their_creator_says() {
    let mesh = Mesh::up(&[]);
    let shop = Participant::new(&mesh, "shop", |asked, before| match asked.path.as_str() {
        "/later" if before == 0 => (202, String::new()),
        "/flaky" if before < 2 => (503, String::new()),
        "/check" => (200, String::new()),
        _ => fine(),
    });
    // A message is delivered until it arrives.
    let sent = json!({"branches": [{"name": "a", "action": "POST shop/flaky", "retry": {"first_ms": 1}}]});
    assert_eq!(operator(&mesh, "POST", "/txn/v1/messages", &sent).1["state"], "DELIVERED");
    // It has no way back that an end of its tries could lead to.
    let ending = json!({"branches": [{"name": "a", "action": "POST shop/flaky", "retry": {"attempts": 3}}]});
    let (status, why) = operator(&mesh, "POST", "/txn/v1/messages", &ending);
    assert!(status == 400 && why["detail"].as_str().unwrap().contains("retry.attempts"), "{status} {why}");
    // A prepared one whose creator never says is asked for.
    let prepared = json!({"id": "m1", "check": "GET shop/check", "check_after_ms": 50,
        "branches": [{"name": "a", "action": "POST shop/mail"}]});
    assert_eq!(operator(&mesh, "POST", "/txn/v1/messages?prepare", &prepared).1["state"], "PREPARED");
    let state = || operator(&mesh, "GET", "/txn/v1/m1", &Value::Null).1["state"].clone();
    until("the check to be made", || state().to_string(), || state() == "DELIVERED");
    // TCC that the coordinator drives, and one whose creator makes the tries.
    let part = |name: &str| {
        json!({"name": name, "try": format!("POST shop/try-{name}"),
        "confirm": format!("POST shop/confirm-{name}"), "cancel": format!("POST shop/cancel-{name}")})
    };
    let driven = json!({"branches": [part("x"), part("y")]});
    assert_eq!(operator(&mesh, "POST", "/txn/v1/tcc", &driven).1["state"], "CONFIRMED");
    assert_eq!(operator(&mesh, "POST", "/txn/v1/tcc", &json!({"id": "t1"})).1["state"], "TRYING");
    let joined = json!({"name": "z", "confirm": "POST shop/confirm-z", "cancel": "POST shop/cancel-z"});
    assert_eq!(operator(&mesh, "POST", "/txn/v1/t1/branches", &joined).0, 201);
    assert_eq!(operator(&mesh, "POST", "/txn/v1/t1:abort", &Value::Null).1["state"], "CANCELLED");
    assert_eq!(operator(&mesh, "POST", "/txn/v1/t1:confirm", &Value::Null).0, 409);
    // A scope undoes whoever joined, last first.
    assert_eq!(operator(&mesh, "POST", "/txn/v1/scopes", &json!({"id": "s1"})).1["state"], "ACTIVE");
    for name in ["one", "two"] {
        let joined = json!({"name": name, "compensate": format!("POST shop/undo-{name}")});
        assert_eq!(operator(&mesh, "POST", "/txn/v1/s1/branches", &joined).0, 201);
    }
    assert_eq!(operator(&mesh, "POST", "/txn/v1/s1:cancel", &Value::Null).1["state"], "CANCELLED");
    let calls = shop.calls();
    let at = |path: &str| calls.iter().position(|call| call == path).unwrap_or_else(|| panic!("{path} in {calls:?}"));
    assert!(at("/undo-two") < at("/undo-one"));
    assert!(at("/try-x") < at("/confirm-y") && at("/try-y") < at("/confirm-x"));
    assert!(calls.contains(&"/cancel-z".to_owned()) && !calls.contains(&"/confirm-z".to_owned()));
    let metrics =
        mesh::http(SocketAddr::from(([127, 0, 0, 1], mesh.port("console"))), "localhost", "/metrics").unwrap();
    assert!(metrics.body.contains("byrnie_txn_ended_total{mode=\"message\",end=\"done\"} 2"), "{}", metrics.body);
}

#[test]
fn clients_of_dtm_get_what_it_promises_without_its_faults() {
    let mesh = Mesh::up(&[]);
    let (port, seen) = listen(|asked, before| match asked.path.split('?').next().unwrap() {
        "/shouts" => (200, "{\"note\": \"no FAILURE, nothing ONGOING\"}".to_owned()),
        "/created" => (201, String::new()),
        "/empty" => (204, String::new()),
        "/refuses" => (409, "{\"dtm_result\":\"FAILURE\"}".to_owned()),
        "/flaky" if before == 0 => (500, String::new()),
        "/slow" if before == 0 => (425, String::new()),
        "/never" => (425, String::new()),
        _ => fine(),
    });
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let dtm = |verb: &str, body: &Value| operator(&mesh, "POST", &format!("/api/dtmsvr/{verb}"), body);
    let query = |gid: &str| operator(&mesh, "GET", &format!("/api/dtmsvr/query?gid={gid}"), &Value::Null).1;
    let status = |gid: &str| query(gid)["transaction"]["status"].as_str().unwrap_or_default().to_owned();
    // The members and nulls that the Python client sends.
    let saga = |gid: &str, paths: &[(&str, &str)], wait: bool| {
        let steps: Vec<Value> = paths.iter().map(|(a, c)| json!({"action": url(a), "compensate": url(c)})).collect();
        json!({"gid": gid, "trans_type": "saga", "custom_data": null, "steps": steps,
            "payloads": paths.iter().map(|_| "{\"amount\": 30}").collect::<Vec<_>>(), "query_prepared": null,
            "protocol": null, "wait_result": wait, "timeout_to_fail": 0, "request_timeout": 8, "retry_interval": 0,
            "passthrough_headers": [], "branch_headers": {}, "concurrent": false})
    };
    let ok = json!({"dtm_result": "SUCCESS"});
    // What takes longer than Python's client waits for an answer is told to be under way before that.
    let (console, token) = (SocketAddr::from(([127, 0, 0, 1], mesh.port("console"))), mesh.data.join("token"));
    let headers = format!("Authorization: Bearer {}\r\n", std::fs::read_to_string(token).unwrap());
    let long = saga("long", &[("/never", "/back")], true).to_string();
    let waiting = std::thread::spawn(move || {
        let begun = std::time::Instant::now();
        (send(console, "POST", "/api/dtmsvr/submit", &headers, &long), begun.elapsed())
    });
    let gid = operator(&mesh, "GET", "/api/dtmsvr/newGid", &Value::Null).1["gid"].as_str().unwrap().to_owned();
    // Words in a body mean nothing; every 2xx is a success; pauses are milliseconds.
    let all = [("/shouts", "/u1"), ("/created", "/u2"), ("/empty", "/u3"), ("/flaky", "/u4"), ("/slow", "/u5")];
    assert_eq!(dtm("submit", &saga(&gid, &all, true)), (200, ok.clone()));
    // Repeated after the end, it's the same transaction, and nothing is done again.
    assert_eq!(dtm("submit", &saga(&gid, &all, true)), (200, ok.clone()));
    let calls = || -> Vec<String> { seen.lock().unwrap().iter().map(|asked| asked.path.clone()).collect() };
    assert_eq!(calls().iter().filter(|path| path.starts_with("/created")).count(), 1, "{:?}", calls());
    assert!(calls().contains(&format!("/shouts?gid={gid}&trans_type=saga&branch_id=01&op=action")), "{:?}", calls());
    assert_eq!(status(&gid), "succeed");
    assert_eq!(dtm("submit", &saga(&gid, &all[..2], false)).0, 409, "another transaction of the same name");
    // A no takes the way back, and what said no is undone too, as dtm's barrier expects.
    let (code, said) = dtm("submit", &saga("order-1", &[("/fine", "/back"), ("/refuses", "/back2")], true));
    assert_eq!((code, &said["dtm_result"]), (409, &json!("FAILURE")), "{said}");
    assert_eq!(status("order-1"), "failed");
    let undone: Vec<String> = calls().into_iter().filter(|path| path.contains("op=compensate")).collect();
    assert_eq!(undone.len(), 2, "{undone:?}");
    assert!(undone[0].starts_with("/back2") && undone[1].starts_with("/back?"), "{undone:?}");
    let body = seen.lock().unwrap().iter().find(|asked| asked.path.starts_with("/back?")).unwrap().body.clone();
    assert_eq!(body, "{\"amount\": 30}");
    // An id that begins like another's, and more custom data than a column holds.
    let mut large = saga("order-1000", &[("/fine", "/back")], true);
    large["custom_data"] = json!(format!("{{\"concurrent\":true,\"note\":\"{}\"}}", "x".repeat(5_000)));
    assert_eq!(dtm("submit", &large), (200, ok.clone()));
    // A message: prepared, then submitted; and one whose creator never says.
    let message = |gid: &str| {
        json!({"gid": gid, "trans_type": "msg", "steps": [{"action": url("/mail")}],
        "payloads": ["{}"], "query_prepared": url("/asked"), "timeout_to_fail": 1})
    };
    assert_eq!(dtm("prepare", &message("m1")), (200, ok.clone()));
    assert_eq!(status("m1"), "prepared");
    assert_eq!(dtm("submit", &message("m1")), (200, ok.clone()));
    assert_eq!(dtm("prepare", &message("m2")), (200, ok.clone()));
    for gid in ["m1", "m2"] {
        until("the message to be sent", || query(gid).to_string(), || status(gid) == "succeed");
    }
    assert!(calls().iter().any(|path| path.starts_with("/asked?gid=m2&trans_type=msg&branch_id=00&op=msg")));
    // TCC, both ways.
    for (gid, verb, op, end) in [("c1", "submit", "confirm", "succeed"), ("c2", "abort", "cancel", "failed")] {
        let tcc = json!({"gid": gid, "trans_type": "tcc"});
        assert_eq!(dtm("prepare", &tcc), (200, ok.clone()));
        let joins = json!({"gid": gid, "branch_id": "01", "trans_type": "tcc", "status": "prepared", "data": "{}",
            "confirm": url("/confirm"), "cancel": url("/cancel")});
        assert_eq!(dtm("registerBranch", &joins), (200, ok.clone()));
        assert_eq!(dtm(verb, &tcc), (200, ok.clone()));
        until("its end", || query(gid).to_string(), || status(gid) == end);
        assert!(calls().contains(&format!("/{op}?gid={gid}&trans_type=tcc&branch_id=01&op={op}")), "{:?}", calls());
        assert_eq!(dtm("registerBranch", &joins).0, 409, "nobody joins what is over");
    }
    // A saga can be aborted; nobody asks anything without the token, or of a stranger's machine.
    assert_eq!(dtm("abort", &json!({"gid": "order-1", "trans_type": "saga"})), (200, ok));
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    assert_eq!(send(console, "POST", "/api/dtmsvr/submit", "", &saga("x", &all, false).to_string()).status, 401);
    let mut far = saga("far", &[("/fine", "/back")], false);
    far["steps"][0]["action"] = json!("http://192.0.2.1/steal");
    assert_eq!(dtm("submit", &far).0, 403);
    let (answer, waited) = waiting.join().unwrap();
    assert!(answer.status == 425 && answer.body.contains("ONGOING"), "{} {}", answer.status, answer.body);
    assert!(waited < Duration::from_secs(8), "{waited:?}");
}

const PLACE_ORDER: &str = r#"
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Saga
metadata: {name: place-order}
spec:
  deadline: 30s
  key: input.order
  steps:
  - {name: reserve, call: POST inventory/reservations, body: input.items,
     undo: "DELETE inventory/reservations/{reserve.id}?why={charge_word}"}
  - {name: charge, call: "POST payments/{input.method}", body: "{'amount': input.amount, 'stock': reserve.id}", undo: POST payments/refund}
  - {name: ship, call: POST shipping/create, body: "{'paid': charge.receipt}", pivot: true}
"#;

#[test]
fn a_defined_saga_is_started_by_name_and_knows_what_was_answered() {
    let mesh = Mesh::up(&[]);
    let inventory = Participant::new(&mesh, "inventory", |asked, times| match asked.path.as_str() {
        // It takes a while, for the order that is refused elsewhere.
        "/reservations" if asked.body.contains("late") && times < 5 => (503, "busy".to_owned()),
        "/reservations" => (200, json!({"id": format!("r {times}")}).to_string()),
        _ => fine(),
    });
    let payments = Participant::new(&mesh, "payments", |asked, _| match asked.body.contains("300") {
        true => (409, "card declined".to_owned()),
        false => (200, json!({"receipt": {"no": 5}}).to_string()),
    });
    let shipping = Participant::new(&mesh, "shipping", |_, _| fine());
    // A fault in it is told with its place, before it is kept.
    let apply = |text: &str| mesh.cli(&["apply", "-f", &mesh::file(&mesh, "saga.yaml", text)]);
    let refused = String::from_utf8(apply(PLACE_ORDER).stderr).unwrap();
    assert!(refused.contains("BYR-C056") && refused.contains("saga.yaml:10:"), "{refused}");
    assert!(refused.contains("\"charge_word\" is not known here"), "{refused}");
    let whole = PLACE_ORDER.replace("?why={charge_word}", "");
    assert!(apply(&whole).status.success());
    assert!(mesh.ok(&["get", "sagas"]).contains("reserve,charge,ship"));
    let start = |input: &Value| {
        let asked = json!({"definition": "default/place-order", "input": input});
        operator(&mesh, "POST", "/txn/v1/sagas", &asked)
    };
    let good = json!({"order": 1, "items": ["a1"], "amount": 30, "method": "card"});
    let (status, first) = start(&good);
    assert_eq!((status, &first["state"]), (201, &json!("SUCCEEDED")), "{first}");
    assert_eq!(inventory.asked("/reservations").body, r#"["a1"]"#);
    assert_eq!(payments.asked("/card").body, r#"{"amount":30,"stock":"r 0"}"#);
    assert_eq!(shipping.asked("/create").body, r#"{"paid":{"no":5}}"#);
    // One key is one run.
    let (status, again) = start(&good);
    assert_eq!((status, &again["id"]), (200, &first["id"]), "{again}");
    let (status, _) = start(&json!({"order": 1, "items": ["b2"], "amount": 30, "method": "card"}));
    assert_eq!((status, payments.calls().len()), (422, 1), "another order under the same key");
    // What was done is taken back by the name that it was answered with.
    let (_, back) = start(&json!({"order": 2, "items": [], "amount": 300, "method": "card"}));
    assert_eq!(back["state"], "COMPENSATED", "{back}");
    assert_eq!(inventory.calls().last().unwrap(), "/reservations/r%201");
    // What the definition needs and the input lacks: nothing is begun.
    let calls = inventory.calls().len();
    let (status, why) = start(&json!({"order": 3, "items": [], "amount": 30}));
    assert!(status == 400 && why["detail"].as_str().unwrap().contains("method"), "{status} {why}");
    assert_eq!(operator(&mesh, "POST", "/txn/v1/sagas", &json!({"definition": "default/none"})).0, 404);
    assert_eq!(inventory.calls().len(), calls);
    // Side by side, and the answer that the undo needs comes after the refusal.
    let beside = whole.replace("place-order", "beside").replace(
        "body: \"{'amount': input.amount, 'stock': reserve.id}\"",
        "after: [], body: \"{'amount': input.amount}\"",
    );
    let beside = beside.replace("pivot: true", "after: [reserve, charge], pivot: true");
    assert!(apply(&beside).status.success());
    let input = r#"{"order": 4, "items": ["late"], "amount": 300, "method": "card"}"#;
    let said = mesh.cli(&["saga", "start", "beside", "--input", input, "--wait", "20"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with("COMPENSATED"), "{said}");
    let of_it: Vec<String> = inventory.calls().split_off(calls);
    let reserved = of_it.iter().filter(|path| *path == "/reservations").count();
    assert_eq!(
        of_it.last().map(String::as_str),
        Some(&*format!("/reservations/r%20{}", 2 + reserved - 1)),
        "{of_it:?}"
    );
    assert!(reserved > 1, "it is called until it is answered: {of_it:?}");
}

#[test]
fn a_defined_saga_says_the_same_after_its_coordinator_was_killed() {
    let mut mesh = Mesh::up(&[]);
    let gate = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let _inventory = Participant::new(&mesh, "inventory", |_, _| (200, json!({"id": "r-9"}).to_string()));
    let open = Arc::clone(&gate);
    let payments = Participant::new(&mesh, "payments", move |_, _| {
        if open.load(std::sync::atomic::Ordering::SeqCst) { fine() } else { (503, String::new()) }
    });
    let _shipping = Participant::new(&mesh, "shipping", |_, _| fine());
    let whole = PLACE_ORDER.replace("?why={charge_word}", "").replace("charge.receipt", "charge.id");
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "saga.yaml", &whole.replace("30s", "10m"))]);
    let input = r#"{"order": 1, "items": ["a1"], "amount": 30, "method": "card"}"#;
    mesh.ok(&["saga", "start", "place-order", "--input", input]);
    until("a call of payments", || format!("{:?}", payments.calls()), || !payments.calls().is_empty());
    let up = mesh.up.take().unwrap();
    up.signal("KILL");
    drop(up);
    mesh.start(&[]);
    gate.store(true, std::sync::atomic::Ordering::SeqCst);
    let list = || mesh.json(&["saga", "list"]);
    until("the order to be done", || list().to_string(), || list()[0]["state"] == "SUCCEEDED");
    let seen = payments.seen.lock().unwrap();
    let said: std::collections::BTreeSet<(&str, &str)> =
        seen.iter().map(|asked| (&*asked.headers["idempotency-key"], &*asked.body)).collect();
    assert_eq!(said.len(), 1, "one key stands for one request: {said:?}");
    assert!(seen.len() > 1 && seen[0].body == r#"{"amount":30,"stock":"r-9"}"#, "{seen:?}");
}

const KEYED: &str = r#"
apiVersion: mesh.byrnie.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: keys}
spec:
  targetRefs: [{name: payments}]
  idempotency: {mode: Required, guarantee: G1}
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: Saga
metadata: {name: by-header}
spec:
  key: request.headers["idempotency-key"]
  steps: [{name: reserve, call: POST inventory/reserve}]
"#;

#[test]
fn what_takes_its_time_or_is_never_known_is_neither_done_nor_asked_for_ever() {
    let mesh = Mesh::up(&[]);
    let inventory = Participant::new(&mesh, "inventory", |asked, before| match asked.path.as_str() {
        "/jobs/new" => (202, "http://inventory.default/jobs/7".to_owned()),
        "/jobs/far" => (202, "http://elsewhere/jobs/7".to_owned()),
        "/jobs/7" if before == 0 => (202, String::new()),
        "/slow" => (425, String::new()),
        "/down" => (503, String::new()),
        _ => fine(),
    });
    let payments = Participant::new(&mesh, "payments", |asked, _| match asked.path.as_str() {
        "/refund" => fine(),
        _ => (500, String::new()),
    });
    let file = mesh.data.join("keyed.yaml");
    std::fs::write(&file, KEYED).unwrap();
    mesh.ok(&["apply", "-f", file.to_str().unwrap()]);
    let saga = |id: &str, branches: Value| {
        operator(&mesh, "POST", "/txn/v1/sagas", &json!({"id": id, "branches": branches})).1
    };
    // A poll that says that it's still at it is no answer.
    let done = saga("job", json!([{"name": "a", "action": "POST inventory/jobs/new", "compensate": "none"}]));
    assert_eq!(done["state"], "SUCCEEDED", "{done}");
    assert_eq!(inventory.calls(), ["/jobs/new", "/jobs/7", "/jobs/7"]);
    // Where nobody of the mesh can be asked, an operator looks.
    let far = saga("far", json!([{"name": "a", "action": "POST inventory/jobs/far", "compensate": "none"}]));
    let why = far["branches"][0]["reason"].as_str().unwrap();
    assert!(far["state"] == "STUCK" && why.contains("http://elsewhere/jobs/7"), "{far}");
    // The ledger runs it no more. What has an undo is taken back, whatever became of it.
    let charge = json!({"name": "pay", "action": "POST payments/charge", "compensate": "POST payments/refund"});
    let back = saga("back", json!([charge]));
    assert_eq!(back["state"], "COMPENSATED", "{back}");
    assert!(back["reason"].as_str().unwrap().contains("pay: nobody knows whether it was done"), "{back}");
    assert_eq!(payments.calls(), ["/charge", "/refund"]);
    // What has none is an operator's, who may say that it was done.
    let stuck = saga("stuck", json!([{"name": "pay", "action": "POST payments/final", "pivot": true}]));
    let why = stuck["branches"][0]["reason"].as_str().unwrap();
    assert!(stuck["state"] == "STUCK" && why.contains("nobody knows whether it was done"), "{stuck}");
    assert_eq!(payments.calls(), ["/charge", "/refund", "/final"]);
    let (_, skipped) = operator(&mesh, "POST", "/txn/v1/stuck:skip", &json!({"branch": "pay"}));
    assert_eq!(skipped["state"], "SUCCEEDED", "{skipped}");
    // Only a call that was made has an outcome, of no more than would be kept of an answer.
    let token = std::fs::read_to_string(mesh.data.join("token")).unwrap();
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    let headers = format!("Authorization: Bearer {token}\r\n");
    let post = |path: &str, more: &str, body: Value| {
        let answer = send(console, "POST", path, &format!("{headers}{more}"), &body.to_string());
        (answer.status, serde_json::from_str::<Value>(&answer.body).unwrap_or_else(|_| json!(answer.body)))
    };
    let branches = json!([
        {"name": "a", "action": "POST inventory/slow", "compensate": "none"},
        {"name": "b", "action": "POST inventory/down", "pivot": true, "after": ["a"]}]);
    assert_eq!(post("/txn/v1/sagas", "", json!({"id": "t", "branches": branches, "deadline_ms": 3_000})).0, 201);
    let (status, why) = post("/txn/v1/t/branches/b:complete", "", json!({"outcome": "done"}));
    assert!(status == 409 && why["detail"].as_str().unwrap().contains("not been called"), "{status} {why}");
    let large = "x".repeat(64 * 1024);
    for (told, named) in [
        (json!({"outcome": "done", "response": large}), "response"),
        (json!({"outcome": "rejected", "reason": large}), "reason"),
    ] {
        let (status, why) = post("/txn/v1/t/branches/a:complete", "", told);
        assert!(status == 400 && why.to_string().contains(named), "{status} {why}");
    }
    let (status, why) = post("/txn/v1/far:resolve", "", json!({"reason": large}));
    assert!(status == 400 && why.to_string().contains("512"), "{status} {why}");
    // Past its deadline it goes on, as its pivot may have been done; that is said.
    assert_eq!(operator(&mesh, "POST", "/txn/v1/t/branches/a:complete", &Value::Null).0, 200);
    let listed = |query: &str| operator(&mesh, "GET", &format!("/txn/v1?{query}"), &Value::Null);
    assert!(["since=abc", "limit=abc", "colour=red"].iter().all(|query| listed(query).0 == 400));
    assert_eq!(listed("since=2999-01-01T00:00:00%2B01:00"), (200, json!([])));
    assert!(listed("since=2000-01-01T00:00:00Z&limit=1").1[0]["id"].is_string());
    let shown = || mesh.ok(&["saga", "show", "t"]);
    until("its deadline", shown, || shown().contains("past its deadline"));
    assert!(mesh.ok(&["saga", "list"]).contains("past its deadline"));
    // A key in quotes and the same one bare are one.
    let start = |key: &str| {
        post("/txn/v1/sagas", &format!("Idempotency-Key: {key}\r\n"), json!({"definition": "default/by-header"})).1
    };
    let (one, same, other) = (start("\"k1\""), start("k1"), start("k2"));
    assert!(one["id"].is_string() && one["id"] == same["id"] && one["id"] != other["id"], "{one} {same} {other}");
}
