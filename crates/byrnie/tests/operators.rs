// SPDX-License-Identifier: Apache-2.0
//! What operators and their scripts ask of the console by its API, of a real mesh.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::console::{operator, send};
use mesh::participant::listen;
use mesh::{Mesh, file, until};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// Registers an address of this machine for a service: what the console says, and the id.
fn register(mesh: &Mesh, port: u16, more: &Value) -> (u16, Value) {
    let mut asked = json!({"service": "legacy", "address": "127.0.0.1", "port": port});
    asked.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    operator(mesh, "POST", "/api/v1/register", &asked)
}

fn addresses(mesh: &Mesh) -> Vec<String> {
    let (_, slices) = operator(mesh, "GET", "/api/v1/resources?kind=EndpointSlice", &Value::Null);
    let name = |slice: &Value| slice["metadata"]["name"].as_str().unwrap().to_owned();
    slices.as_array().unwrap().iter().map(name).collect()
}

/// Every mesh begins with a policy that lets its edge in. An operator may take that back for good.
#[test]
fn a_policy_of_the_beginning_that_was_deleted_stays_deleted() {
    let mut mesh = Mesh::up(&[]);
    let (port, _) = listen(|_, _| (200, "legacy".to_owned()));
    assert_eq!(register(&mesh, port, &json!({"protocol": "http"})).0, 201);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    mesh.ok(&["delete", "accesspolicy", "edge", "-n", "byrnie"]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 403);
    let mut up = mesh.up.take().unwrap();
    up.signal("TERM");
    up.wait();
    mesh.start(&[]);
    let policies = mesh.ok(&["get", "accesspolicy", "-n", "byrnie"]);
    assert!(!policies.contains("edge") && policies.contains("transactions"), "{policies}");
    mesh.ask_until("legacy", "/", |answer| answer.status == 403);
    mesh.ok(&["allow", "edge", "legacy"]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
}

#[test]
fn a_registered_address_is_served_while_heartbeats_come_and_outlives_the_control_plane() {
    let mut mesh = Mesh::up(&[]);
    let (port, _) = listen(|_, _| (200, "legacy".to_owned()));
    let (status, first) = register(&mesh, port, &json!({"protocol": "http"}));
    assert_eq!((status, &first["serviceCreated"], &first["ttlSeconds"]), (201, &json!(true), &json!(30)), "{first}");
    let at = format!("/api/v1/register/{}", first["id"].as_str().unwrap());
    mesh.ask_until("legacy", "/", |answer| answer.status == 200 && answer.body == "legacy");
    let table = mesh.ok(&["get", "endpointslice"]);
    assert!(table.contains("legacy") && table.contains(&format!("127.0.0.1 : {port}")), "{table}");
    // A program that starts again registers again: it's the same registration. Its service isn't `undo`'s to take.
    let (status, again) = register(&mesh, port, &json!({"protocol": "http"}));
    assert_eq!((status, &again["id"], &again["revision"]), (200, &first["id"], &first["revision"]), "{again}");
    assert!(!mesh.cli(&["undo"]).status.success());
    // Nor does the time that it's given, which is longer from here on than any machine is busy.
    let (status, again) = register(&mesh, port, &json!({"protocol": "http", "ttlSeconds": 3600}));
    assert_eq!((status, &again["id"], &again["ttlSeconds"]), (200, &first["id"], &json!(3600)), "{again}");
    // Registering grants nothing.
    let _teller = mesh.beside("teller", None, &[]);
    assert_eq!(mesh.json(&["explain", "GET http://legacy/", "--from", "teller"])["decision"], "deny");

    // What says of itself that it isn't well is asked nothing until it is.
    let beat = |mesh: &Mesh, body: Value| operator(mesh, "PUT", &format!("{at}/heartbeat"), &body);
    assert_eq!(beat(&mesh, json!({"health": "unhealthy"})).1["health"], "unhealthy");
    mesh.ask_until("legacy", "/", |answer| answer.status == 503);
    assert_eq!(beat(&mesh, json!({"health": "healthy"})).1["health"], "healthy");
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);

    // The control plane dies: what was registered before goes on by the same id.
    mesh.up = None;
    mesh.start(&[]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 200);
    assert_eq!(beat(&mesh, Value::Null).0, 200);

    let (status, gone) = operator(&mesh, "DELETE", &at, &Value::Null);
    assert_eq!((status, &gone["id"]), (200, &first["id"]), "{gone}");
    assert_eq!(addresses(&mesh), [""; 0]);
    mesh.ask_until("legacy", "/", |answer| answer.status == 503);
    for (method, path) in [("PUT", format!("{at}/heartbeat")), ("DELETE", at.clone())] {
        let (status, problem) = operator(&mesh, method, &path, &Value::Null);
        assert_eq!((status, &problem["code"]), (404, &json!("BYR-S043")), "{problem}");
    }
}

#[test]
fn a_registered_address_that_falls_silent_is_taken_out_and_comes_back_by_registering() {
    let mesh = Mesh::up(&[]);
    let [(one, _), (two, _)] = ["one", "two"].map(|name| listen(move |_, _| (200, name.to_owned())));
    let first = register(&mesh, one, &json!({"ttlSeconds": 3600})).1;
    let second = register(&mesh, two, &json!({"ttlSeconds": 1})).1;
    let beat = |registered: &Value| {
        operator(
            &mesh,
            "PUT",
            &format!("/api/v1/register/{}/heartbeat", registered["id"].as_str().unwrap()),
            &Value::Null,
        )
    };
    // One has time yet, the other hasn't.
    let silent = second["id"].as_str().unwrap().split('.').next().unwrap().to_owned();
    until("the silent one taken out", || format!("{:?}", addresses(&mesh)), || !addresses(&mesh).contains(&silent));
    assert_eq!((addresses(&mesh).len(), beat(&first).0), (1, 200));
    assert_eq!(beat(&second).1["code"], "BYR-S043");
    let (status, back) = register(&mesh, two, &json!({"ttlSeconds": 60}));
    assert_eq!((status, &back["id"], &back["ttlSeconds"]), (201, &second["id"], &json!(60)), "{back}");

    // Nobody registers anything without the token, nor for a name that workloads have.
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    assert_eq!(send(console, "POST", "/api/v1/register", "", "{}").status, 401);
    let _shop = mesh.echo("shop", "v1", &[]);
    mesh.ask_until("shop", "/", |answer| answer.status == 200);
    let (status, taken) = register(&mesh, one, &json!({"service": "shop"}));
    assert_eq!((status, &taken["code"]), (409, &json!("BYR-C030")), "{taken}");
    let run = mesh.run(&["--name", "legacy", "--port", &mesh::free_port().to_string()], &["sleep", "1000"]);
    run.wait_for_line("served by addresses");
}

/// A participant that asks to be asked again in an hour, but at `/fine` and `/back`; and the paths that it was asked at.
fn patient() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<String>>>::default());
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut path, mut line, mut length) = (String::new(), String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if path.is_empty() {
                    path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                }
                let lower = line.to_ascii_lowercase();
                length = lower.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().unwrap_or(0));
                line.clear();
            }
            if path.is_empty() || reader.read_exact(&mut vec![0; length]).is_err() {
                continue;
            }
            let status = if path.starts_with("/fine") || path.starts_with("/back") { 200 } else { 425 };
            log.lock().unwrap().push(path);
            let head =
                format!("HTTP/1.1 {status} X\r\nretry-after: 3600\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
        }
    });
    (port, seen)
}

#[test]
fn operators_of_dtm_list_stop_and_hurry_transactions() {
    let mesh = Mesh::up(&[]);
    let (port, seen) = patient();
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let submit = |gid: &str, path: &str| {
        let steps = json!([{"action": url(path), "compensate": url("/back")}]);
        let saga = json!({"gid": gid, "trans_type": "saga", "steps": steps, "payloads": ["{}"]});
        assert_eq!(operator(&mesh, "POST", "/api/dtmsvr/submit", &saga).0, 200);
    };
    let get = |path: &str| operator(&mesh, "GET", &format!("/api/dtmsvr/{path}"), &Value::Null);
    let post = |verb: &str, gid: &str| operator(&mesh, "POST", &format!("/api/dtmsvr/{verb}"), &json!({"gid": gid}));
    let status = |gid: &str| get(&format!("query?gid={gid}")).1["transaction"]["status"].clone();
    let asked = |path: &str| seen.lock().unwrap().iter().filter(|asked| asked.starts_with(path)).count();
    submit("a", "/fine");
    submit("b", "/slow");
    submit("c", "/slower");
    until("its end", || status("a").to_string(), || status("a") == "succeed");
    until("their first calls", String::new, || asked("/slow?") == 1 && asked("/slower?") == 1);

    // The newest first by their names here, page by page.
    let gids = |listed: &Value| -> Vec<String> {
        let gid = |one: &Value| one["gid"].as_str().unwrap().to_owned();
        listed["transactions"].as_array().unwrap().iter().map(gid).collect()
    };
    let (_, all) = get("all");
    assert_eq!((gids(&all), &all["next_position"]), (["c", "b", "a"].map(str::to_owned).to_vec(), &json!("")), "{all}");
    let (_, page) = get("all?limit=2");
    let next = page["next_position"].as_str().unwrap();
    assert_eq!((gids(&page).len(), gids(&get(&format!("all?limit=2&position={next}")).1)), (2, vec!["a".to_owned()]));
    assert_eq!(gids(&get("all?status=succeed").1), ["a"]);
    assert_eq!(gids(&get("all?status=submitted&transType=saga").1), ["c", "b"]);
    assert_eq!(gids(&get("all?transType=msg").1), [""; 0]);
    assert_eq!(gids(&get("all?createTimeStart=4102444800000").1), [""; 0]);
    let (_, one) = get("all?gid=a");
    let one = &one["transactions"][0];
    assert!(one["create_time"].as_str().unwrap().ends_with('Z') && one["finish_time"].is_string(), "{one}");
    assert_eq!(get("all?gid=none").1["transactions"], Value::Null);
    assert_eq!(get("all?limit=x").0, 500, "as dtm says it");

    // Nothing waits for longer than it was told to; what does is called again by one word.
    until(
        "both to wait",
        || get("resetCronTime?timeout=86400").1.to_string(),
        || {
            mesh.json(&["saga", "show", "b"])["branches"][0]["calling"] == false
                && mesh.json(&["saga", "show", "c"])["branches"][0]["calling"] == false
        },
    );
    assert_eq!(get("resetCronTime?timeout=86400").1, json!({"has_remaining": false, "succeed_count": 0}));
    assert_eq!(get("resetCronTime?timeout=60&limit=1").1, json!({"has_remaining": true, "succeed_count": 1}));
    until("the older one called again", String::new, || asked("/slow?") == 2);
    assert_eq!((asked("/slower?"), post("resetNextCronTime", "c")), (1, (200, json!({"dtm_result": "SUCCESS"}))));
    until("the other called again", String::new, || asked("/slower?") == 2);
    assert_eq!(post("resetNextCronTime", "none").0, 404);

    // One is ended where it stands: nobody is called any more, not to take back anything either.
    assert_eq!(post("forceStop", "c"), (200, json!({"dtm_result": "SUCCESS"})));
    assert_eq!(status("c"), "failed");
    let (code, said) = post("forceStop", "c");
    assert_eq!((code, &said["dtm_result"]), (409, &json!("FAILURE")), "{said}");
    assert_eq!((post("forceStop", "a").0, asked("/back")), (409, 0));
    let audit = mesh.json(&["saga", "show", "c"]);
    assert!(audit["reason"].as_str().unwrap().contains("stopped by operator"), "{audit}");
    let (_, lines) = operator(&mesh, "GET", "/txn/v1/audit", &Value::Null);
    for verb in ["forceStop", "resetCronTime", "resetNextCronTime"] {
        assert!(lines.as_array().unwrap().iter().any(|line| line["verb"] == verb), "{verb}: {lines}");
    }
    let (_, newest) = operator(&mesh, "GET", "/txn/v1/audit?limit=1", &Value::Null);
    assert_eq!(newest.as_array().map(Vec::len), Some(1), "{newest}");
    for limit in ["x", "-1", "1e3", "99999999999999999999999"] {
        let (code, said) = operator(&mesh, "GET", &format!("/txn/v1/audit?limit={limit}"), &Value::Null);
        assert_eq!((code, &said["code"]), (400, &json!("BYR-T001")), "{limit}: {said}");
    }
    let metrics =
        mesh::http(SocketAddr::from(([127, 0, 0, 1], mesh.port("console"))), "localhost", "/metrics").unwrap();
    let count = metrics.body.lines().find_map(|line| line.strip_prefix("byrnie_txn_commit_batch_size_count "));
    assert!(count.unwrap().parse::<u64>().unwrap() >= 3, "{}", metrics.body);
}

#[test]
fn limits_of_the_mesh_are_those_of_each_service_whose_policies_say_nothing_of_the_matter() {
    let mesh = Mesh::up(&[]);
    let _programs = ["one", "two"].map(|name| mesh.echo(name, "v1", &[]));
    for name in ["one", "two"] {
        mesh.ask_until(name, "/", |answer| answer.status == 200);
    }
    let limits = |said: &str| {
        let text = format!(
            "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec: {{limits: {{{said}}}}}\n"
        );
        mesh.cli(&["apply", "-f", &file(&mesh, "mesh.yaml", &text)])
    };
    let policy = |says: &str| {
        let text = format!(
            "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: two}}\nspec: {{targetRefs: [{{group: '', \
             kind: Service, name: two}}], {says}}}\n"
        );
        mesh.ok(&["apply", "-f", &file(&mesh, "policy.yaml", &text)]);
    };
    // Of another matter: the mesh's rate stays.
    policy("limits: {maxPending: 100}");
    assert!(limits("rate: {requests: 2, per: 1h}").status.success());
    for name in ["one", "two"] {
        mesh.ask_until(name, "/", |answer| answer.status == 429);
    }
    let shown = mesh.json(&["get", "mesh", "mesh"]);
    assert_eq!(shown["spec"]["limits"], json!({"rate": {"requests": 2, "per": "1h"}}), "{shown}");
    // One with a rate of its own has that.
    policy("limits: {rate: {requests: 1000, per: 1s}}");
    mesh.ask_until("two", "/", |answer| answer.status == 200);
    assert_eq!(mesh.ask("one", "/").unwrap().status, 429);
    // What isn't enforced, or known, is refused, and the old ones stay.
    for (said, code) in [
        ("quotas: [{requests: 1, per: 1s}]", "BYR-C010"),
        ("maxRequests: 1", "BYR-C002"),
        ("rate: {requests: 0, per: 1s}", "BYR-C011"),
        ("", "BYR-C005"),
    ] {
        let refused = limits(said);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
        assert!(!refused.status.success() && words.contains(code), "{said}: {words}");
    }
    assert_eq!(mesh.ask("one", "/").unwrap().status, 429);
    mesh.ok(&["delete", "mesh", "mesh"]);
    mesh.ask_until("one", "/", |answer| answer.status == 200);
}
