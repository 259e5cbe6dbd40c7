// SPDX-License-Identifier: Apache-2.0
//! What goes wrong on a machine, with the real binary: each gives one clear message with a code, a place
//! and what to do next, and nothing is lost.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Meter, Program, byrnie, file, free_port, http, http_by_proxy, limited, now, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// Runs `up` on a data directory that it can't use; returns what it said.
fn refused_up(data: &Path) -> String {
    let output = byrnie().arg("--data-dir").arg(data).arg("up").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// One message: the code, where, and what to do next.
fn check(said: &str, code: &str, place: &str) {
    assert_eq!(said.matches("error[").count(), 1, "one message: {said}");
    assert!(said.contains(&format!("error[{code}]: ")), "no {code} in {said}");
    assert!(said.contains(&format!("\n  --> {place}")), "no place {place} in {said}");
    assert!(said.contains("\n   = next: "), "nothing to do next in {said}");
}

/// A mesh that had a service, stopped.
fn stopped() -> Mesh {
    let mut mesh = Mesh::up(&[]);
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: kept}\nspec: {ports: [{port: 80}]}\n";
    mesh.ok(&["apply", "-f", &file(&mesh, "kept.yaml", text)]);
    let mut up = mesh.up.take().unwrap();
    up.signal("TERM");
    assert!(up.wait().success());
    mesh
}

#[test]
fn a_store_of_a_newer_version_is_left_as_it_is() {
    let mut mesh = stopped();
    let path = mesh.data.join("store.redb");
    let set = |schema: u64| {
        let database = redb::Database::open(&path).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("schema", schema).unwrap();
        txn.commit().unwrap();
    };
    set(byrnie_store::SCHEMA + 1);
    check(&refused_up(&mesh.data), "BYR-S006", &path.to_string_lossy());
    set(byrnie_store::SCHEMA);
    mesh.start(&[]);
    mesh.ok(&["get", "service", "kept"]);
}

#[test]
fn a_damaged_store_is_left_as_it_is() {
    let mut mesh = stopped();
    let path = mesh.data.join("store.redb");
    let whole = std::fs::read(&path).unwrap();
    for damaged in [whole[..whole.len() / 3].to_vec(), vec![0x5a; whole.len()]] {
        std::fs::write(&path, &damaged).unwrap();
        check(&refused_up(&mesh.data), "BYR-S005", &path.to_string_lossy());
        assert!(std::fs::read(&path).unwrap() == damaged, "the file was changed");
    }
    std::fs::write(&path, &whole).unwrap();
    mesh.start(&[]);
    mesh.ok(&["get", "service", "kept"]);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "not a folder").unwrap();
    check(&refused_up(&taken), "BYR-S004", &taken.to_string_lossy());
    check(&refused_up(Path::new("/proc/nowhere")), "BYR-S004", "/proc/nowhere");
}

#[test]
fn a_data_directory_in_use_is_not_used_twice() {
    let mesh = Mesh::up(&[]);
    check(&refused_up(&mesh.data), "BYR-S016", &mesh.data.join("store.redb").to_string_lossy());
    assert_eq!(mesh.json(&["status"])["ok"], true);
}

#[test]
fn a_wrong_token_is_said_to_be_wrong() {
    let mesh = Mesh::up(&[]);
    for args in [&["status"][..], &["get", "services"], &["allow", "a", "b"], &["undo"]] {
        let output = mesh.cli(&[args, &["--token", "wrong"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("error[BYR-A") && said.contains("= next: "), "{args:?}: {said}");
    }
}

#[test]
fn what_makes_no_policy_is_said_in_words_of_the_command_line() {
    let mesh = Mesh::up(&[]);
    for (args, status, says) in [
        (
            &["allow", "web/shop", "payments"][..],
            2,
            "\"web/shop\" and \"payments\" are not both NAME or NAME.NAMESPACE",
        ),
        (&["deny", "web", "payments", "POST /a*"], 1, "error[BYR-C011]: "),
    ] {
        let output = mesh.cli(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(says) && said.contains("= next: ") && !said.contains("line 1"), "{args:?}: {said}");
    }
}

#[test]
fn a_word_that_is_meant_for_somebody_else_is_said_to_fit_nobody() {
    let mesh = Mesh::up(&[]);
    let _hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let warned = |args: &[&str]| {
        let output = mesh.cli(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (args, code, meant) in [
        (&["deny", "helo", "hello"][..], "BYR-A003", "did you mean \"hello\"?"),
        (&["allow", "hello", "helo"], "BYR-C015", "did you mean \"hello\" (1 healthy)?"),
        (&["allow", "hello", "transactions"], "BYR-C015", "did you mean \"transactions.byrnie\"?"),
        (&["fault", "helo", "--delay", "1ms", "--for", "1m"], "BYR-C015", "did you mean \"hello\""),
    ] {
        let said = warned(args);
        assert!(said.contains(&format!("warning[{code}]: ")) && said.contains(meant), "{args:?}: {said}");
    }
    let again = warned(&["fault", "helo", "--abort", "418", "--for", "1m"]);
    assert!(again.contains("takes the place of a fault of helo.default that would have lasted until "), "{again}");
    // The edge is known by its bare name, as it is to `explain`.
    assert_eq!(warned(&["deny", "edge", "hello"]), "");
    mesh.ask_until("hello", "/", |answer| answer.status == 403);
    let explained = mesh.json(&["explain", "GET http://hello.mesh.localhost/", "--from", "edge"]);
    assert_eq!(explained["decision"], "deny", "{explained}");
    let next = explained["next"].as_str().unwrap();
    assert!(next.contains("`byrnie get accesspolicy deny-byrnie-edge-to-hello -n default`"), "{explained}");
    // What comes back by being taken back is judged as what is applied.
    assert_eq!(warned(&["delete", "accesspolicy", "deny-helo-to-hello"]), "");
    let back = warned(&["undo"]);
    assert!(back.contains("warning[BYR-A003]: ") && back.contains("did you mean \"hello\"?"), "{back}");
}

#[test]
fn a_program_that_never_listens_is_named_and_its_callers_get_503() {
    let mesh = Mesh::up(&[]);
    let port = free_port().to_string();
    let run = mesh.run(&["--name", "mute", "--port", &port], &["sleep", "1000"]);
    let answer = mesh.ask_until("mute", "/", |answer| answer.status == 503);
    assert!(answer.body.contains("BYR-R"), "{answer:?}");
    run.wait_for_line("warning[BYR-S010]");
    run.wait_for_line(&format!("mute does not listen on 127.0.0.1:{port}"));
    // Its last line, which may come a moment later.
    run.wait_for_line("= next: ");
    // Nobody takes it for one that could be called, until it can.
    let healthy = |count: u64| {
        let workloads = mesh.json(&["get", "workload"]);
        let of = |workload: &&serde_json::Value| workload["metadata"]["name"].as_str().unwrap().starts_with("mute-");
        let well = |workload: &&serde_json::Value| workload["status"]["health"] != "Unhealthy";
        workloads.as_array().unwrap().iter().filter(of).filter(well).count() as u64 == count
    };
    assert!(healthy(0), "{:?}", mesh.json(&["get", "workload"]));
    let _listens = std::net::TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    until("it is known to listen", || format!("{:?}", mesh.json(&["get", "workload"])), || healthy(1));
}

#[test]
fn every_document_of_a_file_is_judged_and_none_applied_if_one_is_bad() {
    let mesh = Mesh::up(&[]);
    let good = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}\n";
    for (slip, code) in [
        ("a: [1, 2\n", "BYR-C001"),
        ("a: \"b\n", "BYR-C001"),
        ("a: *nobody\n", "BYR-C001"),
        ("a: 1\na: 2\n", "BYR-C003"),
        ("just words\n", "BYR-C004"),
        ("apiVersion: v1\nkind: Servce\nmetadata: {name: x}\n", "BYR-C006"),
    ] {
        let wrong = good.replace("good", "wrong").replace("ports", "prots");
        let path = file(&mesh, "bad.yaml", &format!("{good}---\n{slip}---\n{wrong}"));
        let output = mesh.cli(&["apply", "-f", &path]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{slip}: {said}");
        assert!(said.contains(code) && said.contains("bad.yaml:"), "{slip}: no {code} in {said}");
        assert!(said.contains("BYR-C002") && said.contains("prots"), "{slip} hides what is wrong after it: {said}");
        assert!(!mesh.cli(&["get", "service", "good"]).status.success(), "{slip}: something was applied");
    }
}

/// A mesh whose data directory is a small disk of its own, in a mount namespace.
fn on_small_disk(folder: &Path) -> Program {
    let disk = folder.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=3m none {0} && exec {1} --data-dir {0}/data up",
        disk.display(),
        env!("CARGO_BIN_EXE_byrnie")
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", &script]).env("NO_COLOR", "1");
    let up = Program::spawn(command);
    up.wait_for_line("ready");
    up
}

/// Starts a saga of one call, to a service that answers anything.
fn saga(mesh: &Mesh, folder: &Path) -> Output {
    let path = folder.join("saga.json");
    std::fs::write(&path, r#"{"branches": [{"name": "one", "action": "GET hello/"}]}"#).unwrap();
    mesh.cli(&["saga", "start", &path.to_string_lossy(), "--wait", "10"])
}

#[test]
fn a_full_disk_refuses_what_is_new_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let up = on_small_disk(folder.path());
    let disk = Path::new("/proc")
        .join(up.pid().to_string())
        .join("root")
        .join(folder.path().strip_prefix("/").unwrap().join("disk"));
    let mesh = Mesh::of(disk.join("data"), up);
    let _hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let service = |name: &str| {
        let text =
            format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n");
        let path = folder.path().join(format!("{name}.yaml"));
        std::fs::write(&path, text).unwrap();
        mesh.cli(&["apply", "-f", &path.to_string_lossy()])
    };
    let first = service("first");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let filling = disk.join("filling");
    assert!(std::fs::write(&filling, vec![0; 4 << 20]).is_err(), "the disk is not full");
    // What room the store's file still has in itself is used up first.
    let mut kept = vec!["first".to_owned()];
    let said = (0..2_000).find_map(|n| {
        let name = format!("more-{n}");
        let output = service(&name);
        if output.status.success() {
            kept.push(name);
            return None;
        }
        Some(String::from_utf8_lossy(&output.stderr).into_owned())
    });
    let said = said.unwrap();
    assert!(said.contains("error[BYR-S015]") && said.contains("= next: "), "{said}");
    assert_eq!(mesh.ask("hello", "/").unwrap().status, 200, "traffic goes on");
    // The journal has its log in advance.
    let refused = (0..2_000).map(|_| saga(&mesh, folder.path())).find(|begun| !begun.status.success()).unwrap();
    let refused = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.contains("error[BYR-T007]") && refused.contains("No space left"), "{refused}");
    assert!(!saga(&mesh, folder.path()).status.success());
    let told = || String::from_utf8(mesh.cli(&["status"]).stdout).unwrap();
    assert!(told().contains("BYR-T007") && told().contains("No space left"), "{}", told());
    std::fs::remove_file(&filling).unwrap();
    let begun = saga(&mesh, folder.path());
    assert!(begun.status.success(), "{}", String::from_utf8_lossy(&begun.stderr));
    assert!(!told().contains("BYR-T007"), "{}", told());
    // It's written by and by what is told at once.
    mesh.up.as_ref().unwrap().wait_for_line("can be written again");
    let log = mesh.up.as_ref().unwrap().log();
    assert_eq!(log.matches("the journal of transactions can't be written").count(), 1, "{log}");
    assert_eq!(log.matches("can be written again").count(), 1, "{log}");
    let after = service("after");
    assert!(after.status.success(), "{}", String::from_utf8_lossy(&after.stderr));
    kept.push("after".to_owned());
    for name in kept {
        mesh.ok(&["get", "service", &name]);
    }
}

#[test]
fn a_mesh_that_is_killed_and_comes_back_finds_its_programs() {
    let mut mesh = Mesh::up(&[]);
    let hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    for signal in ["KILL", "TERM"] {
        let mut up = mesh.up.take().unwrap();
        up.signal(signal);
        up.wait();
        // The sidecar says so once, and serves on.
        assert!(hello.is_running(), "{}", hello.log());
        mesh.start(&[]);
        mesh.ask_until("hello", "/", |answer| answer.status == 200);
        until(
            "its proxy in sync",
            || format!("{:?}", mesh.sidecars()),
            || {
                let all = mesh.sidecars();
                all.len() == 1 && all[0]["inSync"] == true
            },
        );
    }
    let admin = mesh.json(&["proxies"]);
    let admin = admin.as_array().unwrap().iter().find_map(|proxy| proxy["admin"].as_str()).unwrap().parse().unwrap();
    assert_eq!(http(admin, "localhost", "/livez").unwrap().status, 200);
}

#[test]
fn a_mesh_whose_control_port_was_taken_meanwhile_is_found_at_its_new_one() {
    let mut mesh = Mesh::up(&[]);
    let hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let before = mesh.port("control");
    let mut up = mesh.up.take().unwrap();
    up.signal("KILL");
    up.wait();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", before)).unwrap();
    mesh.start(&[]);
    assert_ne!(mesh.port("control"), before);
    until(
        "its proxy in sync",
        || format!("{:?}\n{}", mesh.sidecars(), hello.log()),
        || mesh.sidecars().iter().any(|proxy| proxy["inSync"] == true),
    );
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
}

#[test]
fn a_caller_that_has_had_its_share_is_told_when_to_come_again() {
    let mesh = Mesh::up(&[]);
    let _hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let quota = |requests: u32| {
        format!(
            "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: hello}}\nspec:\n  \
             targetRefs: [{{group: '', kind: Service, name: hello}}]\n  \
             limits: {{quotas: [{{requests: {requests}, per: 1h, by: Caller}}]}}\n"
        )
    };
    mesh.ok(&["apply", "-f", &file(&mesh, "quota.yaml", &quota(3))]);
    let told = mesh.ask_until("hello", "/", |answer| answer.head.contains("ratelimit:"));
    assert!(
        told.head.contains("ratelimit-policy: \"caller\";q=3;w=3600\r\nratelimit: \"caller\";r=2;"),
        "{}",
        told.head
    );
    let statuses: Vec<u16> = (0..3).map(|_| mesh.ask("hello", "/").unwrap().status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    let refused = mesh.ask("hello", "/").unwrap();
    assert!(refused.head.contains("retry-after:") && refused.body.contains("BYR-R0"), "{refused:?}");
    mesh.ok(&["delete", "trafficpolicy", "hello"]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
}

#[test]
fn instances_that_share_a_quota_let_through_no_more_together_and_go_on_without_the_control_plane() {
    let mut mesh = Mesh::up(&[]);
    let _hello = ["v1", "v2", "v3"].map(|version| mesh.echo("hello", version, &[]));
    let caller = mesh.echo("caller", "v1", &["--uses", "hello", "--http-proxy"]);
    mesh.ok(&["allow", "caller", "hello"]);
    mesh.ask_until("caller", "/", |answer| answer.status == 200);
    let proxy = caller.value("HTTP_PROXY");
    let proxy = proxy.strip_prefix("http://").unwrap().parse().unwrap();
    let ask = || http_by_proxy(proxy, "http://hello/").unwrap();
    until(
        "all three are asked",
        || caller.log(),
        || {
            let told: Vec<String> =
                (0..12).filter_map(|_| http_by_proxy(proxy, "http://hello/").ok()).map(|a| a.body).collect();
            ["v1", "v2", "v3"].iter().all(|version| told.iter().any(|body| body.contains(version)))
        },
    );
    let quota = |requests: u32| {
        format!(
            "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: hello}}\nspec:\n  \
             targetRefs: [{{group: '', kind: Service, name: hello}}]\n  \
             limits: {{quotas: [{{requests: {requests}, per: 1h, shared: true}}]}}\n"
        )
    };
    // Whoever has the new quota tells of it.
    let in_force = |requests: u32| {
        let words = format!("q={requests};");
        let mut counted = 0;
        until(
            "the quota is in force",
            || caller.log(),
            || {
                let answers: Vec<_> = (0..9).map(|_| ask()).collect();
                counted += answers.iter().filter(|a| a.status == 200 && a.head.contains(&words)).count();
                answers.iter().all(|answer| answer.head.contains(&words))
            },
        );
        counted
    };
    // So small a quota is leased request by request: not one is lost.
    mesh.ok(&["apply", "-f", &file(&mesh, "quota.yaml", &quota(60))]);
    let begun = in_force(60);
    let admitted = (0..90).filter(|_| ask().status == 200).count();
    assert_eq!(begun + admitted, 60, "in all, whoever is asked");
    let refused = ask();
    assert!(refused.status == 429 && refused.head.contains("ratelimit: \"all\";r=0;"), "{refused:?}");

    // A larger one by the handful: what one has and doesn't use in time is lost.
    mesh.ok(&["apply", "-f", &file(&mesh, "quota.yaml", &quota(600))]);
    let begun = in_force(600);
    let admitted = begun + (0..800).filter(|_| ask().status == 200).count();
    assert!((500..=600).contains(&admitted), "{admitted}");

    // Without the control plane each instance counts for itself.
    let mut up = mesh.up.take().unwrap();
    up.signal("KILL");
    up.wait();
    until("requests pass again", || caller.log(), || ask().status == 200);
    let admitted = (0..900).filter(|_| ask().status == 200).count();
    assert!(admitted >= 600, "{admitted}");
}

/// What a process may have open: soft limit by `/proc`.
fn open_files(pid: u32) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

/// Callers of a process that may have 256 files open: four times as many.
const CALLERS: usize = 1024;
/// How long it's watched while it's full, and the most that it may use of a processor meanwhile: it has nothing to do, but the
/// control plane's own, and a debug build does that slowly. What spins uses a whole one.
const FULL: Duration = Duration::from_secs(3);
const FULL_SHARE_MAX: f64 = 0.15;
/// How soon the first is served once there are files again.
const BACK_MAX: Duration = Duration::from_secs(2);

#[test]
fn more_callers_than_files_wait_and_harm_nobody() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // Hard limit and all, so that nothing can be raised.
    let mesh = Mesh::up_by(limited("-n 256"));
    let hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let edge = mesh.up.as_ref().unwrap().pid();
    assert_eq!(open_files(edge), 256);
    let address = SocketAddr::from(([127, 0, 0, 1], mesh.port("edge")));
    // Heads that don't end: for so long none of them makes room for another.
    let begin = |_| {
        let mut caller = TcpStream::connect(address).unwrap();
        caller.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\nx-slow: ").unwrap();
        caller
    };
    let callers: Vec<_> = (0..CALLERS).map(begin).collect();
    let admin = SocketAddr::from(([127, 0, 0, 1], mesh.port("admin")));
    let serves = || {
        for path in ["/livez", "/metrics"] {
            assert_eq!(http(admin, "localhost", path).unwrap().status, 200, "{}", hello.log());
        }
        assert_eq!(mesh.sidecars().len(), 1, "the control plane answers");
    };
    serves();
    let meter = Meter::of(edge);
    std::thread::park_timeout(FULL);
    let share = meter.share();
    println!("{share:.3} of a processor while it's full");
    assert!(share < FULL_SHARE_MAX, "{share} of a processor: it spins");
    serves();
    let files = std::fs::read_dir(format!("/proc/{edge}/fd")).unwrap().count();
    assert!((100..220).contains(&files), "{files} files are open: it's full, and some are left for what is upstream");
    drop(callers);
    let free = now();
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let back = free.elapsed();
    println!("back after {back:?}");
    assert!(back < BACK_MAX, "{back:?}");
}

#[test]
fn a_program_may_open_what_it_could_without_a_mesh() {
    let mesh = Mesh::up_by(limited("-Sn 300"));
    assert!(open_files(mesh.up.as_ref().unwrap().pid()) > 300, "a proxy takes what it may have");
    let port = free_port().to_string();
    let says = "echo limit $(ulimit -Sn) $BYRNIE_OPEN_FILES.; exec tail -f /dev/null";
    let run = mesh.run_by(limited("-Sn 300"), &["--name", "hello", "--port", &port], &["sh", "-c", says]);
    run.wait_for_line("limit 300 .");
    assert!(open_files(run.pid()) > 300);
}
