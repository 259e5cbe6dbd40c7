// SPDX-License-Identifier: Apache-2.0
//! A machine that sleeps for hours, and one whose clock is set back: real processes under a clock that the
//! test sets. Needs libfaketime: `cargo xtask test` finds or installs it and names it in `BYRNIE_FAKETIME`.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test measures what it waits for, and fails by panicking"
)]

mod mesh;

use mesh::{ENVIRONMENT, Mesh, free_port, until};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is promised after the clock was set or the machine slept.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// What is promised for a connection whose certificate has ended.
const CLOSED_MAX: Duration = Duration::from_secs(60);

fn set_clock(file: &Path, offset: &str) -> Instant {
    std::fs::write(file, offset).unwrap();
    Instant::now()
}

/// Each proxy's certificate: when it ends, and how long that is from now.
fn certificates(mesh: &Mesh) -> BTreeMap<String, (u64, u64)> {
    let rows = mesh.json(&["cert", "list"]);
    let row = |row: &serde_json::Value| {
        let name = row["name"].as_str()?.to_owned();
        let shown = name.starts_with("default/") || name == "byrnie/edge";
        shown.then_some((name, (row["notAfter"].as_u64()?, row["secondsLeft"].as_u64()?)))
    };
    rows.as_array().unwrap().iter().filter_map(row).collect()
}

#[test]
fn a_clock_that_jumps_is_survived_unaided() {
    let library = std::env::var("BYRNIE_FAKETIME").expect("BYRNIE_FAKETIME: run this by `cargo xtask test`");
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    set_clock(&clock, "+0");
    let environment = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    ENVIRONMENT.set(environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()).unwrap();

    let mesh = Mesh::up(&[]);
    let lines = "apiVersion: v1\nkind: Service\nmetadata: {name: lines}\n\
                 spec: {selector: {app: server}, ports: [{port: 82, targetPort: tcp, appProtocol: tcp}]}\n";
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "lines.yaml", lines)]);
    let (grpc, tcp) = (free_port().to_string(), free_port().to_string());
    let http = free_port().to_string();
    let mut program = mesh::echo_program(&http, "s");
    program.extend(["--port", &grpc, "--port", &tcp].map(str::to_owned));
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let ports = [("--port", http.clone()), ("--port", format!("{grpc}/grpc")), ("--port", format!("{tcp}/tcp"))];
    let mut args = vec!["--name", "server"];
    args.extend(ports.iter().flat_map(|(flag, port)| [*flag, port]));
    let _server = mesh.run(&args, &program);
    mesh.ask_until("server", "/", |answer| answer.status == 200);
    let client = mesh.echo("client", "c", &["--uses", "server,lines"]);
    for service in ["server", "lines"] {
        mesh.ok(&["allow", "client", service]);
    }
    let call = || mesh.ask("client", "/call/server/x");
    let works = || call().is_ok_and(|answer| answer.body.contains("200 echo version s"));
    until("a call", || format!("{call:?}", call = call()), works);
    let url = client.value("BYRNIE_LINES_URL");
    let open = || {
        let mut stream = TcpStream::connect(url.strip_prefix("tcp://").unwrap()).unwrap();
        stream.set_read_timeout(Some(CLOSED_MAX + Duration::from_secs(5))).unwrap();
        stream.write_all(b"stock ring\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        let read = reader.read_line(&mut line);
        (reader, read.is_ok_and(|bytes| bytes > 0))
    };
    let (mut tunnel, answered) = open();
    assert!(answered, "the tunnel carries nothing");

    // Every certificate is past its half; then every one has ended; then none has begun yet.
    for offset in ["+16h", "+47h", "-10h"] {
        until("three certificates", || format!("{:?}", certificates(&mesh)), || certificates(&mesh).len() == 3);
        let before = certificates(&mesh);
        let set = set_clock(&clock, offset);
        let renewed = || {
            let now = certificates(&mesh);
            now.len() == 3 && now.iter().all(|(name, (ends, left))| before[name].0 != *ends && *left > 23 * 3600)
        };
        until("every certificate renewed", || format!("{:?}", certificates(&mesh)), renewed);
        until("a call", || format!("{:?}", call()), works);
        assert!(set.elapsed() < RECOVERY_MAX, "{offset}: recovered after {:?}", set.elapsed());
        let workloads = mesh.json(&["get", "workload"]);
        let of_programs = workloads.as_array().unwrap().iter().filter(|w| w["metadata"]["namespace"] == "default");
        assert_eq!(of_programs.count(), 2, "{offset}: {workloads}");
        if offset == "+47h" {
            let mut line = String::new();
            let ended = tunnel.read_line(&mut line).map_or(true, |bytes| bytes == 0);
            assert!(ended && set.elapsed() < CLOSED_MAX, "the tunnel outlived its certificate: {:?}", set.elapsed());
            let (_, answered) = open();
            assert!(answered, "a new tunnel carries nothing");
        }
    }
    mesh.up.as_ref().unwrap().wait_for_line("BYR-S009");
    until(
        "every proxy in sync",
        || format!("{:?}", mesh.sidecars()),
        || {
            let all = mesh.sidecars();
            all.len() == 2 && all.iter().all(|proxy| proxy["inSync"] == true)
        },
    );
}
