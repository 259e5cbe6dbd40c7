// SPDX-License-Identifier: Apache-2.0
//! Health checks of real programs: one that hangs is left out before anybody's request finds it, and comes back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Program, command, descendants, file, free_port, kill, until};

fn policy(name: &str, check: &str) -> String {
    format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: {name}}}]\n  \
         endpoints: {{healthCheck: {{{check}, interval: 500ms, timeout: 500ms, unhealthyThreshold: 2}}}}\n"
    )
}

/// The program that a `run` keeps.
fn program_of(run: &Program) -> u32 {
    let all = descendants(run.pid());
    let mut programs =
        all.into_iter().filter(|pid| command(*pid).contains(" demo-service ") && !command(*pid).contains(" child "));
    programs.next().unwrap()
}

/// Instances that are not healthy.
fn sick(mesh: &Mesh) -> Vec<String> {
    let workloads = mesh.json(&["get", "workload"]);
    let unhealthy = workloads.as_array().unwrap().iter().filter(|workload| workload["status"]["health"] == "Unhealthy");
    unhealthy.map(|workload| workload["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_program_that_hangs_is_left_out_before_a_request_finds_it_and_comes_back() {
    let mesh = Mesh::up(&[]);
    let _first = mesh.echo("hello", "v1", &[]);
    let second = mesh.echo("hello", "v2", &[]);
    mesh.ask_until("hello", "/", |answer| answer.is_of("v2"));
    mesh.ok(&["apply", "-f", &file(&mesh, "check.yaml", &policy("hello", "http: {path: /healthz}"))]);
    kill(program_of(&second), "STOP");
    until("it is sick", || format!("{:?}", mesh.json(&["get", "workload"])), || sick(&mesh).len() == 1);
    second.wait_for_line("BYR-S018");
    mesh.until_in_sync();
    // Not even a request that may not be sent twice finds it.
    for n in 0..40 {
        let answer = mesh.ask("hello", "/").unwrap();
        assert!(answer.is_of("v1"), "request {n}: {answer:?}");
    }
    kill(program_of(&second), "CONT");
    until("it is well", || format!("{:?}", sick(&mesh)), || sick(&mesh).is_empty());
    mesh.ask_until("hello", "/", |answer| answer.is_of("v2"));
    // Without a check nothing is held against a program.
    kill(program_of(&second), "STOP");
    until("it is sick again", || format!("{:?}", sick(&mesh)), || sick(&mesh).len() == 1);
    mesh.ok(&["delete", "trafficpolicy", "hello"]);
    until("nobody checks", || format!("{:?}", sick(&mesh)), || sick(&mesh).is_empty());
    kill(program_of(&second), "CONT");
}

#[test]
fn checks_speak_what_the_program_speaks() {
    let mesh = Mesh::up(&[]);
    let (http, grpc, tcp) = (free_port().to_string(), free_port().to_string(), free_port().to_string());
    let mut program = mesh::echo_program(&http, "v1");
    program.extend(["--port", &grpc, "--port", &tcp].map(str::to_owned));
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let ports = ["--port", &http, "--port", &format!("{grpc}/grpc"), "--port", &format!("{tcp}/tcp")];
    let run = mesh.run(&[&["--name", "many"][..], &ports].concat(), &program);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: many}\nspec:\n  selector: {app: many}\n  \
                   ports: [{name: http, port: 80, targetPort: http}, {name: grpc, port: 81, targetPort: grpc, appProtocol: grpc}, \
                   {name: tcp, port: 82, targetPort: tcp, appProtocol: tcp}]\n";
    mesh.ok(&["apply", "-f", &file(&mesh, "many.yaml", service)]);
    mesh.ask_until("many", "/", |answer| answer.status == 200);
    let checks = [
        "grpc: {}, port: 81",
        "tcp: {}, port: 82",
        "http: {path: /}, port: 80",
        // Whom the gRPC side doesn't know it answers all the same, by HTTP/2.
        "http: {path: /}, port: 81",
    ];
    for check in checks {
        mesh.ok(&["apply", "-f", &file(&mesh, "check.yaml", &policy("many", check))]);
        kill(program_of(&run), "STOP");
        // A program that hangs still has its connections accepted, by the kernel: to a mere connection it's well.
        if !check.starts_with("tcp") {
            until("it is sick", || format!("{check}: {}", run.log()), || sick(&mesh).len() == 1);
        }
        kill(program_of(&run), "CONT");
        until("it is well", || format!("{check}: {}", run.log()), || sick(&mesh).is_empty());
        // The control plane is the first to know.
        mesh.until_in_sync();
        assert_eq!(mesh.ask("many", "/").unwrap().status, 200, "{check}");
    }
}

#[test]
fn a_program_that_is_started_with_a_check_gets_no_request_before_it_says_that_it_is_well() {
    let mesh = Mesh::up(&[]);
    let (port, pages) = (free_port().to_string(), mesh.data.join("pages"));
    std::fs::create_dir(&pages).unwrap();
    let program =
        ["python3", "-m", "http.server", &port, "--bind", "127.0.0.1", "--directory", pages.to_str().unwrap()];
    let run = mesh.run(&["--name", "site", "--port", &port, "--health", "/healthz"], &program);
    until("it is sick", || run.log(), || sick(&mesh).len() == 1);
    assert_eq!(mesh.ask("site", "/").unwrap().status, 503);
    let shown = mesh.json(&["get", "workload"]).to_string();
    assert!(shown.contains("\"httpGet\":{\"path\":\"/healthz\""), "{shown}");
    std::fs::write(pages.join("healthz"), "yes").unwrap();
    until("it is well", || run.log(), || sick(&mesh).is_empty());
    mesh.ask_until("site", "/", |answer| answer.status == 200);
    let refused =
        mesh.cli(&["run", "--name", "db", "--port", "1", "--protocol", "tcp", "--health", "/x", "--", "true"]);
    assert_eq!(refused.status.code(), Some(2));
}
