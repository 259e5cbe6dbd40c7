// SPDX-License-Identifier: Apache-2.0
//! New processes take over from proxies that run: with the real binary, real sockets and constant load.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Program, Stopwatch, byrnie, descendants, file, free_port, is_alive, load, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The processes below `run` and `up` that are proxies.
fn heirs(pid: u32) -> Vec<u32> {
    descendants(pid).into_iter().filter(|&pid| mesh::command(pid).contains(" successor ")).collect()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public}
spec:
  gatewayClassName: byrnie
  listeners: [{name: http, port: PORT, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all}
spec:
  parentRefs: [{name: public}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

#[test]
fn every_proxy_is_replaced_under_load_and_nothing_is_refused_cut_or_lost() {
    // `cargo xtask upgrades` has time for more.
    let rounds: u32 = std::env::var("UPGRADES").map_or(5, |rounds| rounds.parse().unwrap());
    let mesh = Mesh::up(&["--workers", "2"]);
    let _web = mesh.beside("web", Some((load::web().port, "http")), &["--workers", "2"]);
    let _rpc = mesh.beside("rpc", Some((load::rpc().port, "grpc")), &[]);
    let _db = mesh.beside("db", Some((load::repeater().port, "tcp")), &[]);
    ["web", "db"].into_iter().for_each(|name| drop(mesh.ok(&["allow", "caller", name])));
    let caller = mesh.beside("caller", None, &["--uses", "web,db"]);
    let gate = free_port();
    mesh.ok(&["apply", "-f", &file(&mesh, "gateway.yaml", &GATEWAY.replace("PORT", &gate.to_string()))]);
    let edge = SocketAddr::from(([127, 0, 0, 1], mesh.port("edge")));
    let gate = SocketAddr::from(([127, 0, 0, 1], gate));
    let (to_web, to_db) = (caller.address("BYRNIE_WEB_URL"), caller.address("BYRNIE_DB_URL"));
    let (web, rpc) = ("web.default.mesh.localhost", "rpc.default.mesh.localhost");
    mesh.ask_until("web", "/", |answer| answer.status == 200);
    // Each kind works once before it has to work all the time.
    let once = AtomicBool::new(true);
    let works = || mesh::http(gate, web, "/").is_ok_and(|answer| answer.status == 200);
    until("the gateway's port", || format!("{:?}", mesh::http(gate, web, "/")), works);
    let called = || mesh::http(to_web, "web", "/").is_ok_and(|answer| answer.status == 200);
    until("a call of the caller", || format!("{:?}", mesh::http(to_web, "web", "/")), called);
    load::talk(to_db, &once).unwrap();
    let over = AtomicBool::new(false);
    type Load<'a> = (&'static str, Box<dyn Fn(&AtomicBool) -> load::Outcome + Send + Sync + 'a>);
    let kinds: Vec<Load> = vec![
        ("keep-alive at the edge", Box::new(move |over| load::keep_asking(edge, web, over))),
        ("new connections at the edge", Box::new(move |over| load::ask_anew(edge, web, over))),
        ("new connections at the gateway's port", Box::new(move |over| load::ask_anew(gate, web, over))),
        ("keep-alive of the caller", Box::new(move |over| load::keep_asking(to_web, "web", over))),
        ("new connections of the caller", Box::new(move |over| load::ask_anew(to_web, "web", over))),
        ("HTTP/2", Box::new(move |over| load::call(edge, rpc, over))),
        ("gRPC streams", Box::new(move |over| load::stream(edge, rpc, over))),
        ("TCP", Box::new(move |over| load::talk(to_db, over))),
        ("WebSocket", Box::new(move |over| load::talk_by_websocket(edge, web, over))),
    ];
    std::thread::scope(|scope| {
        let over = &over;
        let each = kinds.iter().flat_map(|kind| std::iter::repeat_n(kind, 3));
        let loads: Vec<_> = each.map(|(name, run)| (name, scope.spawn(move || run(over)))).collect();
        let upgraded = std::panic::catch_unwind(|| {
            for round in 0..rounds {
                let output = mesh.cli(&["upgrade", "--drain", "30s", "-o", "json"]);
                assert!(output.status.success(), "round {round}: {}", words(&output));
                let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                let rows = rows.as_array().unwrap();
                // The edge, the egress, the coordinator's, those of four programs, and the control plane.
                assert_eq!(rows.len(), 8, "{rows:?}");
                let whole = |row: &&serde_json::Value| row["whole"] == true;
                assert_eq!(rows.iter().filter(whole).count(), 7, "{rows:?}");
            }
        });
        over.store(true, Ordering::SeqCst);
        for (name, load) in loads {
            let done = load.join().unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(done > 3, "{name}: only {done}");
            println!("{rounds} upgrades, {name}: {done}");
        }
        upgraded.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A connection to the repeater that stays.
fn hold(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(mesh::PATIENCE)).unwrap();
    assert!(echoes(&stream));
    stream
}

fn echoes(mut stream: &TcpStream) -> bool {
    let mut heard = [0; 8];
    stream.write_all(b"are you?").is_ok() && stream.read_exact(&mut heard).is_ok() && heard == *b"are you?"
}

/// A repeater that a caller reaches, once it does.
fn repeater(mesh: &Mesh) -> (Program, Program, SocketAddr) {
    let db = mesh.beside("db", Some((load::repeater().port, "tcp")), &[]);
    mesh.ok(&["allow", "caller", "db"]);
    let caller = mesh.beside("caller", None, &["--uses", "db"]);
    let to = caller.address("BYRNIE_DB_URL");
    until("a connection through both", String::new, || {
        TcpStream::connect(to).is_ok_and(|stream| {
            drop(stream.set_read_timeout(Some(mesh::PATIENCE)));
            echoes(&stream)
        })
    });
    (db, caller, to)
}

#[test]
fn a_connection_stays_until_the_deadline_and_a_second_upgrade_waits_for_that() {
    let mesh = Mesh::up(&[]);
    let (_db, caller, to) = repeater(&mesh);
    let stream = hold(to);
    let watch = Stopwatch::start();
    let upgrade = {
        let mut command = byrnie();
        command.arg("--data-dir").arg(&mesh.data).args(["upgrade", "caller", "--drain", "8s"]);
        Program::spawn(command)
    };
    upgrade.wait_for_line("is served by process");
    // What is new is served by the new one, and what is open by the old one.
    assert!(echoes(&hold(to)) && echoes(&stream));
    let second = mesh.cli(&["upgrade", "caller"]);
    assert_eq!(second.status.code(), Some(1), "{}", words(&second));
    assert!(words(&second).contains("error[BYR-S021]: caller-"), "{}", words(&second));
    assert!(words(&second).contains("= next: "), "{}", words(&second));
    while echoes(&stream) {}
    assert!(watch.passed() >= Duration::from_secs(8), "it was cut after {:?}", watch.passed());
    upgrade.wait_for_line("what was still open at the deadline was cut");
    assert_eq!(heirs(caller.pid()).len(), 1);
    // Now another one may come, and hands over what its predecessor had.
    mesh.ok(&["upgrade", "caller"]);
    assert!(echoes(&hold(to)));
    assert_eq!(heirs(caller.pid()).len(), 1);
}

/// An executable file with this text.
fn script(mesh: &Mesh, name: &str, text: &str) -> String {
    let path = file(mesh, name, &format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_binary_that_does_not_serve_is_named_and_the_old_one_goes_on() {
    let mesh = Mesh::up(&[]);
    let hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let own = env!("CARGO_BIN_EXE_byrnie");
    let cases = [
        (file(&mesh, "text", "no program"), "cannot be started"),
        (script(&mesh, "fails", "exit 3"), "it ended before it served (status 3)"),
        (script(&mesh, "older", "exit 2"), "it does not know how to take over"),
        (script(&mesh, "crashes", "kill -9 $$"), "it ended before it served (signal 9)"),
        (
            script(&mesh, "newer", &format!("exec {own} successor --format 999 --parent $PPID")),
            "it hands over in form 999, and this version takes over in form 1",
        ),
    ];
    for target in ["hello", "mesh"] {
        for (binary, why) in &cases {
            let output = mesh.cli(&["upgrade", target, "--binary", binary]);
            let said = words(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("error[BYR-S020]: ") && said.contains(why), "{why}: {said}");
            assert!(said.contains(&format!("--> {binary}")) && said.contains("= next: "), "{said}");
            assert_eq!(mesh.ask("hello", "/").unwrap().status, 200);
        }
    }
    let left = || [heirs(hello.pid()), heirs(mesh.up.as_ref().unwrap().pid())].concat();
    until("the end of what did not serve", || format!("{:?}", left()), || left().is_empty());
    // It is still known, and hears of changes.
    let all = || mesh.sidecars();
    until("its proxy in sync", || format!("{:?}", all()), || all().len() == 1 && all()[0]["inSync"] == true);
    let output = mesh.cli(&["upgrade", "nobody"]);
    assert!(words(&output).contains("nothing called nobody runs here"), "{}", words(&output));
    let output = mesh.cli(&["upgrade", "--drain", "soon"]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
}

#[test]
fn the_control_plane_goes_on_as_the_new_version_in_its_process() {
    let mesh = Mesh::up(&[]);
    let up = mesh.up.as_ref().unwrap();
    let _hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let service = |name: &str| {
        let text =
            format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n");
        mesh.ok(&["apply", "-f", &file(&mesh, name, &text)]);
    };
    service("before");
    let own = env!("CARGO_BIN_EXE_byrnie");
    let new = mesh.data.join("byrnie-new");
    std::fs::hard_link(own, &new).or_else(|_| std::fs::copy(own, &new).map(drop)).unwrap();
    let (pid, ports) = (up.pid(), std::fs::read(mesh.data.join("ports.json")).unwrap());
    let console = SocketAddr::from(([127, 0, 0, 1], mesh.port("console")));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut answered = 0;
            while !over.load(Ordering::SeqCst) {
                // What is open there ends; nobody finds the port closed.
                let asks = TcpStream::connect(console).map_err(|error| format!("{error} after {answered}"))?;
                drop(asks);
                answered += usize::from(mesh::http(console, "localhost", "/").is_ok_and(|answer| answer.status == 200));
            }
            Ok::<_, String>(answered)
        });
        let output = mesh.cli(&["upgrade", "mesh", "--binary", &new.to_string_lossy()]);
        over.store(true, Ordering::SeqCst);
        assert!(output.status.success(), "{}\n{}", words(&output), up.log());
        assert!(words(&output).contains(&format!("control is served by process {pid} ")), "{}", words(&output));
        assert!(asked.join().unwrap().unwrap() > 0);
    });
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(), new.canonicalize().unwrap());
    assert_eq!(std::fs::read(mesh.data.join("ports.json")).unwrap(), ports);
    mesh.ok(&["get", "service", "before"]);
    service("after");
    let all = || mesh.sidecars();
    until("its proxy in sync", || format!("{:?}", all()), || all().len() == 1 && all()[0]["inSync"] == true);
    assert_eq!(mesh.ask("hello", "/").unwrap().status, 200);

    // One whose arguments are strange to it, one that can't go on with them, and the same again.
    let serves_proxies = |name: &str, else_: &str| {
        script(&mesh, name, &format!("case \"$*\" in *successor*) exec {own} \"$@\";; esac\n{else_}"))
    };
    let strange = serves_proxies("strange", &format!("exec {own} \"$@\" --unheard-of"));
    let fails =
        serves_proxies("fails", &format!("exec {own} \"$@\" --transactions postgresql://nobody@127.0.0.1:1/none"));
    for (binary, why) in [(strange, "does not understand the arguments"), (fails, "BYR-T008")] {
        let output = mesh.cli(&["upgrade", "mesh", "--binary", &binary]);
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        let said = words(&output);
        assert!(said.contains("error[BYR-S020]: the control plane is not upgraded: ") && said.contains(why), "{said}");
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(), new.canonicalize().unwrap());
        mesh.ok(&["get", "service", "after"]);
        assert_eq!(mesh.ask("hello", "/").unwrap().status, 200);
    }
    mesh.ok(&["upgrade"]);
    let log = up.log();
    up.signal("TERM");
    until("the end of its children", || log.clone(), || heirs(pid).is_empty());
}

#[test]
fn the_program_stays_the_same_and_is_looked_after_as_before() {
    let mesh = Mesh::up(&[]);
    // By a name that is gone when it is needed again, as it is when a package was replaced.
    let old = mesh.data.join("byrnie-old");
    std::fs::hard_link(env!("CARGO_BIN_EXE_byrnie"), &old)
        .or_else(|_| std::fs::copy(env!("CARGO_BIN_EXE_byrnie"), &old).map(drop))
        .unwrap();
    let mut command = std::process::Command::new(&old);
    command.env("NO_COLOR", "1");
    let port = free_port().to_string();
    let program = mesh::echo_program(&port, "v1");
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let mut hello = mesh.run_by(command, &["--name", "hello", "--port", &port, "--restart", "on-failure"], &program);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let service = |run: &Program| {
        let all = descendants(run.pid());
        all.into_iter()
            .find(|&pid| mesh::command(pid).contains("demo-service") && !mesh::command(pid).contains("child"))
    };
    let before = service(&hello).unwrap();
    std::fs::remove_file(&old).unwrap();
    mesh.ok(&["upgrade", "hello", "--drain", "5s"]);
    assert_eq!(service(&hello), Some(before));
    assert_eq!(mesh.ask("hello", "/").unwrap().status, 200);

    mesh::kill(before, "KILL");
    hello.wait_for_line("hello ended (status 137); starting it again");
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    let after = service(&hello).unwrap();
    assert_ne!(after, before);
    hello.signal("TERM");
    assert!(hello.wait().success(), "{}", hello.log());
    until("the end of all", String::new, || !is_alive(after));
    assert!(mesh.sidecars().is_empty(), "{:?}", mesh.sidecars());
}

#[test]
fn a_proxy_that_is_killed_is_started_again_and_refuses_nobody() {
    let mesh = Mesh::up(&[]);
    let hello = mesh.echo("hello", "v1", &[]);
    mesh.ask_until("hello", "/", |answer| answer.status == 200);
    mesh.ok(&["upgrade"]);
    let up = mesh.up.as_ref().unwrap();
    let edge = SocketAddr::from(([127, 0, 0, 1], mesh.port("edge")));
    let edge_of = || heirs(up.pid()).into_iter().find(|&pid| listens(pid, edge.port()));
    for round in 0..2 {
        for killed in [edge_of().unwrap(), heirs(hello.pid())[0]] {
            mesh::kill(killed, "KILL");
            // Asked while nobody is there: it waits in the socket's queue, and is answered by who comes.
            let answer = mesh.ask_until("hello", "/", |answer| answer.status == 200);
            assert_eq!(answer.status, 200, "round {round}");
            assert!(!is_alive(killed));
        }
        TcpStream::connect(edge).unwrap();
    }
    hello.wait_for_line("the proxy of hello-");
    up.wait_for_line("the proxy of edge ended (signal 9); starting it again");
    // Who held them all takes everything along, as ever.
    let all = descendants(hello.pid());
    hello.signal("KILL");
    until("the end of all below it", || format!("{all:?}"), || !all.iter().any(|&pid| is_alive(pid)));
}

/// Whether a process listens on a port of loopback.
fn listens(pid: u32, port: u16) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let inodes: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mine = words[1].ends_with(&format!(":{port:04X}")) && words[3] == "0A";
            mine.then(|| format!("socket:[{}]", words[9]))
        })
        .collect();
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links: Vec<PathBuf> = files.filter_map(|file| std::fs::read_link(file.path()).ok()).collect();
    inodes.iter().any(|inode| links.iter().any(|link| link.as_os_str() == inode.as_str()))
}

#[test]
fn the_old_or_the_new_one_may_be_killed_in_the_middle() {
    let mesh = Mesh::up(&[]);
    let (_db, caller, to) = repeater(&mesh);
    // The new one, before it serves.
    let sleeper = script(&mesh, "sleeps", "exec sleep 1000");
    let begin = |binary: Option<&str>| {
        let mut command = byrnie();
        command.arg("--data-dir").arg(&mesh.data).args(["upgrade", "caller", "--drain", "20s"]);
        command.args(binary.iter().flat_map(|binary| ["--binary", binary]));
        Program::spawn(command)
    };
    let mut upgrade = begin(Some(&sleeper));
    // It's called by its arguments until it sleeps, which the caller's own program never does.
    let is_new = |pid: &u32| {
        let command = mesh::command(*pid);
        command.contains("successor") || command.starts_with("sleep ")
    };
    let mut new = None;
    until(
        "the new process",
        || format!("{:?}", descendants(caller.pid())),
        || {
            new = descendants(caller.pid()).into_iter().find(is_new);
            new.is_some()
        },
    );
    mesh::kill(new.unwrap(), "KILL");
    assert_eq!(upgrade.wait().code(), Some(1), "{}", upgrade.log());
    assert!(upgrade.log().contains("error[BYR-S020]"), "{}", upgrade.log());
    assert!(echoes(&hold(to)));

    // The old one, a process of its own, while it ends what it has.
    mesh.ok(&["upgrade", "caller"]);
    let old = heirs(caller.pid())[0];
    let stream = hold(to);
    let mut upgrade = begin(None);
    upgrade.wait_for_line("is served by process");
    mesh::kill(old, "KILL");
    assert!(!echoes(&stream), "what was open ends with it");
    assert!(upgrade.wait().success(), "{}", upgrade.log());
    assert!(upgrade.log().contains("was cut"), "{}", upgrade.log());
    assert!(echoes(&hold(to)));

    // And the new one, at the same time.
    let old = heirs(caller.pid())[0];
    let stream = hold(to);
    let mut upgrade = begin(None);
    upgrade.wait_for_line("is served by process");
    let new = heirs(caller.pid()).into_iter().find(|&pid| pid != old).unwrap();
    mesh::kill(new, "KILL");
    until("its end", String::new, || !is_alive(new));
    assert!(echoes(&stream), "the old one ends what it has");
    assert!(echoes(&hold(to)), "and there is a third");
    drop(stream);
    assert!(upgrade.wait().success(), "{}", upgrade.log());
    assert_eq!(heirs(caller.pid()).len(), 1);
}

#[test]
fn an_upgrade_needs_no_control_plane() {
    let mut mesh = Mesh::up(&[]);
    let (db, caller, to) = repeater(&mesh);
    let mut up = mesh.up.take().unwrap();
    up.signal("KILL");
    up.wait();
    mesh.ok(&["upgrade", "db", "caller"]);
    assert_eq!((heirs(db.pid()).len(), heirs(caller.pid()).len()), (1, 1));
    assert!(echoes(&hold(to)));
    mesh.start(&[]);
    let all = || mesh.sidecars();
    let known = || all().len() == 2 && all().iter().all(|proxy| proxy["inSync"] == true);
    until("both proxies in sync", || format!("{:?}", all()), known);
}
