// SPDX-License-Identifier: Apache-2.0
use crate::http1::pair;
use crate::world::{ADMIN_TOKEN, Peer, Program, World, get};

fn ask(peer: &mut Peer, method: &str, path: &str, token: &str) -> (u16, String) {
    peer.ask(&format!(
        "{method} {path} HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
    ))
}

#[test]
fn what_was_counted_and_decided_can_be_read() {
    let (world, program) = (World::new(), Program::echo());
    let (server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    for _ in 0..5 {
        assert_eq!(client.ask(&get("/path?secret")).0, 200);
    }
    drop(program);
    let mut admin = Peer::connect(caller.ports.admin);
    assert_eq!(ask(&mut admin, "GET", "/livez", "").0, 200);
    assert_eq!(ask(&mut admin, "GET", "/readyz", "").0, 200);
    let line = r#"byrnie_requests_total{direction="outbound",source="caller.default",destination="echo.default",route="default",method="GET",status="200",reason="",tls="mutual"} 5"#;
    // The last exchange is counted when its answer has left: the client may be the first to know.
    let metrics = loop {
        let (code, metrics) = ask(&mut admin, "GET", "/metrics", "");
        assert_eq!(code, 200);
        let counted = metrics.lines().find_map(|found| found.strip_prefix(line.strip_suffix('5')?));
        let counted: u32 = counted.map_or(0, |count| count.parse().unwrap());
        assert!(counted <= 5, "{metrics}");
        if counted == 5 {
            break metrics;
        }
    };
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() && name.starts_with("byrnie_"), "{line}");
    }
    let mut inbound = Peer::connect(server.ports.admin);
    let (_, metrics) = ask(&mut inbound, "GET", "/metrics", "");
    assert!(metrics.contains(r#"direction="inbound",source="caller.default",destination="echo.default""#), "{metrics}");
}

#[test]
fn what_tells_secrets_or_changes_anything_needs_the_token() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    let nobody = "GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
    let (code, problem) = client.ask(nobody);
    let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
    assert_eq!((code, &problem["code"], &problem["where"]), (400, &"BYR-R008".into(), &"the caller's proxy".into()));
    assert!(!problem["next"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty());
    let mut admin = Peer::connect(caller.ports.admin);
    for (method, path) in [("GET", "/config"), ("GET", "/records"), ("POST", "/drain")] {
        assert_eq!(ask(&mut admin, method, path, "").0, 401);
        assert_eq!(ask(&mut admin, method, path, "operatox").0, 401);
    }
    let (code, config) = ask(&mut admin, "GET", "/config", ADMIN_TOKEN);
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!((code, &config["revision"]), (200, &1.into()));
    assert_eq!(config["services"][0]["service"], "echo.default");
    assert_eq!(ask(&mut admin, "POST", "/drain", ADMIN_TOKEN).0, 202);
    assert_eq!(ask(&mut admin, "GET", "/readyz", "").0, 503);
}

#[test]
fn a_failure_leaves_a_record_and_every_request_a_line() {
    let (world, program) = (World::new(), Program::start(drop));
    let (_server, mut caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    client.send("GET /lost?secret=1 HTTP/1.1\r\nhost: echo\r\n\r\n");
    let (head, _) = client.response();
    let id = crate::world::header(&head, "x-byrnie-decision").unwrap_or_default().to_owned();
    let mut admin = Peer::connect(caller.ports.admin);
    let record = loop {
        let (_, records) = ask(&mut admin, "GET", "/records", ADMIN_TOKEN);
        let records: Vec<serde_json::Value> = serde_json::from_str(&records).unwrap();
        if let Some(record) = records.first() {
            break record.clone();
        }
    };
    assert_eq!(record["request"]["path"], "/lost");
    assert_eq!(record["request"]["method"], "GET");
    assert!(!record["decision"]["reason"].as_str().unwrap().is_empty() || record["status"].as_u64().unwrap() >= 500);
    if !id.is_empty() {
        assert_eq!(record["id"].as_str().unwrap().len(), id.len());
    }
    drop(client);
    caller.drain(std::time::Duration::from_secs(10));
    let log = world.log("caller");
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&line["path"], &line["direction"]), (&"/lost".into(), &"outbound".into()));
    assert!(!log.contains("secret"), "{log}");
}

/// Who asks for the id of a record can have it explained, though all went well and nothing failed.
#[test]
fn who_asks_for_the_record_of_a_request_gets_its_id() {
    let program = Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let asked = crate::world::header(&head, "x-byrnie-decision").is_some();
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nx-byrnie-decision: forged\r\nx-asked: {asked}\r\ncontent-length: 0\r\n\r\n"
            ));
        }
    });
    let world = World::new();
    let (_server, caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    let mut ids = Vec::new();
    for n in 0..5 {
        client.send(get("/"));
        assert_eq!(crate::world::header(&client.response().0, "x-byrnie-decision"), None);
        client.send(format!("GET /{n} HTTP/1.1\r\nhost: echo\r\nx-byrnie-decision: 1\r\n\r\n"));
        let (head, _) = client.response();
        assert_eq!(crate::world::header(&head, "x-asked"), Some("false"));
        ids.push(crate::world::header(&head, "x-byrnie-decision").unwrap().to_owned());
    }
    let mut admin = Peer::connect(caller.ports.admin);
    // The record of the last is written when its answer has left.
    loop {
        let (_, records) = ask(&mut admin, "GET", "/records", ADMIN_TOKEN);
        let records: Vec<serde_json::Value> = serde_json::from_str(&records).unwrap();
        let kept = |n: usize, id: &String| {
            records.iter().any(|record| record["id"] == **id && record["request"]["path"] == format!("/{n}"))
        };
        if ids.iter().enumerate().all(|(n, id)| kept(n, id)) {
            break;
        }
    }
}

#[test]
fn metrics_are_open_metrics_for_those_who_ask_for_it() {
    let (world, program) = (World::new(), Program::echo());
    let (_server, caller) = pair(&world, &program);
    let mut admin = Peer::connect(caller.ports.admin);
    admin.send("GET /metrics HTTP/1.1\r\nhost: admin\r\naccept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3\r\n\r\n");
    let (head, body) = admin.response();
    let kind = crate::world::header(&head, "content-type");
    assert_eq!(kind, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let body = String::from_utf8(body).unwrap();
    assert!(body.ends_with("\n# EOF\n") && body.contains("# TYPE byrnie_requests counter\n"), "{body}");
    // Counters end in `_total`, and nothing else does.
    let (mut family, mut counter) = ("", false);
    for line in body.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            (family, counter) = (name, kind == "counter");
            assert!(!family.ends_with("_total"), "{line}");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name == format!("{family}_total"), counter, "{line}");
        }
    }
}

#[test]
fn connections_that_stay_are_spread_over_the_cores() {
    let (mut world, program) = (World::new(), Program::echo());
    world.workers = 3;
    let (_server, caller) = pair(&world, &program);
    let mut clients = Vec::new();
    for _ in 0..9 {
        let mut client = Peer::connect(caller.outbound("echo"));
        assert_eq!(client.ask(&get("/")).0, 200);
        clients.push(client);
    }
    let mut admin = Peer::connect(caller.ports.admin);
    let (_, metrics) = ask(&mut admin, "GET", "/metrics", "");
    let open: Vec<&str> = metrics.lines().filter(|line| line.starts_with("byrnie_connections{")).collect();
    let even = ["0", "1", "2"].map(|core| format!("byrnie_connections{{core=\"{core}\"}} 3"));
    assert_eq!(open, even);
    for client in &mut clients {
        assert_eq!(client.ask(&get("/again")).0, 200);
    }
}
