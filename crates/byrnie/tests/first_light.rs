// SPDX-License-Identifier: Apache-2.0
//! What a new user does on the first day, with the real binary and real processes.

mod mesh;

use mesh::{Mesh, byrnie, descendants, file, free_port, is_alive, until};

#[test]
fn an_ordinary_program_is_reached_through_the_edge() {
    let mesh = Mesh::up(&[]);
    let _hello = mesh.echo("hello", "v1", &[]);
    let answer = mesh.ask_until("hello", "/greet", |a| a.status == 200);
    assert!(answer.is_of("v1"), "{answer:?}");
}

#[test]
fn calls_between_programs_are_denied_until_allowed() {
    let mesh = Mesh::up(&[]);
    let _payments = mesh.echo("payments", "v1", &[]);
    mesh.ask_until("payments", "/", |a| a.status == 200);
    let hello = mesh.echo("hello", "v1", &["--uses", "payments"]);
    hello.wait_for_line("byrnie allow hello payments");
    // The echo program calls the service named in the path, by the URL in its environment.
    let denied = mesh.ask_until("hello", "/call/payments/charge", |a| a.body.contains("403"));
    assert_eq!(denied.status, 200, "{denied:?}");
    let explained = mesh.json(&["explain", "GET http://payments/charge", "--from", "hello"]);
    assert_eq!(explained["decision"], "deny", "{explained}");
    mesh.ok(&["allow", "hello", "payments"]);
    mesh.ask_until("hello", "/call/payments/charge", |a| a.body.contains("200"));
    let explained = mesh.json(&["explain", "GET http://payments/charge", "--from", "hello"]);
    assert_eq!(explained["decision"], "allow", "{explained}");
}

#[test]
fn a_route_takes_effect_without_a_restart_and_undo_takes_it_back() {
    let mesh = Mesh::up(&[]);
    let _v1 = mesh.echo("greeter", "v1", &[]);
    let _v2 = mesh.echo("greeter", "v2", &[]);
    let route = |v1: u8, v2: u8| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: greeter-v1}}\n\
             spec: {{selector: {{app: greeter, version: v1}}, ports: [{{port: 80, targetPort: http}}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: greeter-v2}}\n\
             spec: {{selector: {{app: greeter, version: v2}}, ports: [{{port: 80, targetPort: http}}]}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: greeter}}\n\
             spec:\n  parentRefs: [{{group: '', kind: Service, name: greeter}}]\n  rules:\n  - backendRefs:\n    \
             - {{name: greeter-v1, port: 80, weight: {v1}}}\n    - {{name: greeter-v2, port: 80, weight: {v2}}}\n"
        )
    };
    mesh.ok(&["apply", "-f", &file(&mesh, "v1.yaml", &route(1, 0))]);
    mesh.ask_until("greeter", "/", |a| a.is_of("v1"));
    for _ in 0..30 {
        assert!(mesh.ask("greeter", "/").unwrap().is_of("v1"));
    }
    mesh.ok(&["apply", "-f", &file(&mesh, "v2.yaml", &route(0, 1))]);
    mesh.ask_until("greeter", "/", |a| a.is_of("v2"));
    for _ in 0..30 {
        assert!(mesh.ask("greeter", "/").unwrap().is_of("v2"));
    }
    // A program that joins meanwhile makes a service; that's not what `undo` takes back.
    let _late = mesh.echo("late", "v1", &[]);
    mesh.ask_until("late", "/", |a| a.status == 200);
    mesh.ok(&["undo"]);
    mesh.ask_until("greeter", "/", |a| a.is_of("v1"));
    assert_eq!(mesh.ask("late", "/").unwrap().status, 200);
}

#[test]
fn killing_an_instance_loses_no_idempotent_request() {
    let mesh = Mesh::up(&[]);
    let _a = mesh.echo("shop", "a", &[]);
    let _b = mesh.echo("shop", "b", &[]);
    let mut doomed = mesh.echo("shop", "c", &[]);
    for version in ["a", "b", "c"] {
        mesh.ask_until("shop", "/", |answer| answer.body.contains(&format!("version {version}")));
    }
    let mut failed = Vec::new();
    for request in 0..600 {
        if request == 200 {
            doomed.signal("KILL");
        }
        match mesh.ask("shop", "/") {
            Ok(answer) if answer.status == 200 => {}
            other => failed.push(format!("{request}: {other:?}")),
        }
    }
    doomed.wait();
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
    let gone = || mesh.json(&["get", "workload"]).to_string();
    // The coordinator of transactions is one too, in a namespace of the system's.
    let own = |all: &Vec<serde_json::Value>| all.iter().filter(|w| w["metadata"]["namespace"] == "default").count();
    until("two workloads left", gone, || mesh.json(&["get", "workload"]).as_array().is_some_and(|all| own(all) == 2));
}

#[test]
fn killing_up_loses_no_configuration_and_leaves_no_orphan() {
    let mut mesh = Mesh::up(&["--demo"]);
    mesh.ok(&["allow", "web", "payments"]);
    let mut up = mesh.up.take().unwrap();
    let pid = up.pid();
    // Each service and each sidecar is a process.
    until("18 processes", || format!("{:?}", descendants(pid)), || descendants(pid).len() >= 18);
    let children = descendants(pid);
    up.signal("KILL");
    up.wait();
    until("the end of all children", || format!("{children:?}"), || !children.iter().any(|&pid| is_alive(pid)));
    mesh.start(&[]);
    assert!(mesh.ok(&["get", "accesspolicy"]).contains("allow-web-to-payments"));
}

#[test]
fn the_demo_is_encrypted_and_its_planted_fault_is_seen() {
    let mut mesh = Mesh::up(&["--demo"]);
    let mutual = |mesh: &Mesh| {
        let edges = mesh.json(&["edges"]);
        edges.as_array().map_or(0, |edges| edges.iter().filter(|e| e["tls"] == "mutual").count())
    };
    until("8 encrypted edges", || mesh.ok(&["edges"]), || mutual(&mesh) >= 8);
    let plain = mesh.json(&["edges"]);
    assert!(plain.as_array().unwrap().iter().all(|e| e["tls"] == "mutual"), "{plain}");
    let failing = || {
        let records = mesh.cli(&["explain", "last", "--status", "503"]);
        String::from_utf8_lossy(&records.stdout).into_owned()
    };
    until("the fault that payments v2 plants", failing, || failing().contains("payments"));
    let proxies = || mesh.json(&["proxies"]);
    until(
        "every proxy in sync",
        || proxies().to_string(),
        || proxies().as_array().is_some_and(|all| all.len() >= 10 && all.iter().all(|p| p["inSync"] == true)),
    );
    // Ctrl-C ends everything in order.
    let mut up = mesh.up.take().unwrap();
    let children = descendants(up.pid());
    up.signal("INT");
    assert!(up.wait().success(), "{}", up.log());
    assert!(!children.iter().any(|&pid| is_alive(pid)));
}

#[test]
fn bad_input_is_refused_with_its_place_and_nothing_is_applied() {
    let mesh = Mesh::up(&[]);
    let before = mesh.json(&["status"])["revision"].clone();
    let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n---\n\
               apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec:\n  ports: [{port: 80}]\n  selectr: {app: bad}\n";
    let path = file(&mesh, "bad.yaml", bad);
    let output = mesh.cli(&["apply", "-f", &path]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("bad.yaml:11:3") && said.contains("selectr") && said.contains("selector"), "{said}");
    assert!(said.contains("BYR-C"), "{said}");
    assert_eq!(mesh.json(&["status"])["revision"], before, "nothing was applied");
    assert!(!mesh.cli(&["get", "service", "good"]).status.success());
}

#[test]
fn a_name_taken_by_another_protocol_or_account_is_refused() {
    let mesh = Mesh::up(&[]);
    let _first = mesh.echo("shop", "a", &[]);
    mesh.ask_until("shop", "/", |a| a.status == 200);
    for more in [["--protocol", "tcp"], ["--service-account", "thief"]] {
        let mut second = mesh.echo("shop", "b", &more);
        assert!(!second.wait().success(), "{}", second.log());
        assert!(second.log().contains("BYR-C030") && second.log().contains("shop"), "{}", second.log());
    }
}

#[test]
fn a_busy_port_is_passed_by_or_refused_as_asked() {
    let mesh = Mesh::up(&[]);
    let folder = tempfile::tempdir().unwrap();
    let output = byrnie()
        .arg("--data-dir")
        .arg(folder.path())
        .args(["up", "--strict-ports", "--listen", &format!("127.0.0.1:{}", mesh.port("console"))])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("BYR-S") && said.contains("busy"), "{said}");

    let said_of = |asked: u16| {
        let other = Mesh::up(&["--listen", &format!("127.0.0.1:{asked}")]);
        (other.up.as_ref().unwrap().log(), other.port("console"))
    };
    let busy = mesh.port("console");
    let (said, taken) = said_of(busy);
    assert!(said.contains(&format!("port {busy} for console is busy; it listens on {taken} instead")), "{said}");
    let free = free_port();
    let (said, taken) = said_of(free);
    assert!(taken == free && !said.contains("for console is busy"), "{said}");
}

#[test]
fn a_client_without_a_mesh_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let output = byrnie().arg("--data-dir").arg(folder.path()).arg("status").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("byrnie up"), "{said}");
}

#[test]
fn run_refuses_what_makes_no_workload_and_leaves_nothing_behind() {
    let mesh = Mesh::up(&[]);
    let run = |flags: &[&str]| {
        let mut args = vec!["run", "--port", "3000"];
        args.extend(flags);
        args.extend(["--", "true"]);
        let output = mesh.cli(&args);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for flags in
        [&["--name", "Bad_Name"][..], &["--name", "good", "--labels", "a b=c"], &["--name", "good", "--uses", "N/O"]]
    {
        let (status, said) = run(flags);
        assert_eq!(status, Some(2), "{flags:?}: {said}");
        assert!(said.contains("no valid workload"), "{said}");
    }
    let (status, said) = run(&["--name", "good", "--token", "wrong"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("BYR-A"), "{said}");
    assert_eq!(mesh.json(&["status"])["ok"], true);
    let proxies = mesh.json(&["proxies"]);
    assert!(proxies.as_array().unwrap().iter().all(|proxy| proxy["admin"].is_string()), "{proxies}");
}
