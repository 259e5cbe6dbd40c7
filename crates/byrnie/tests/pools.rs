// SPDX-License-Identifier: Apache-2.0
//! Pools of inference servers: a picker on grpcio and two servers of models, behind a gateway and as a service of the mesh.
//! Needs grpcio: `cargo xtask test` installs it and names its place in `PYTHONPATH`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Answer, Mesh, Program, file, free_port, until};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

/// A gateway with a route to a pool of two servers, and who picks between them.
struct World {
    mesh: Mesh,
    gate: u16,
    picker: Program,
    _servers: Vec<Program>,
}

fn script(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../xtask/peers").join(name);
    root.canonicalize().unwrap().to_string_lossy().into_owned()
}

fn pool(ports: &[String], mode: &str) -> String {
    let ports: Vec<String> = ports.iter().map(|port| format!("{{number: {port}}}")).collect();
    format!(
        "apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {{name: models}}
spec:
  selector: {{matchLabels: {{app: vllm}}}}
  targetPorts: [{}]
  endpointPickerRef: {{name: picker, port: {{number: 80}}, failureMode: {mode}}}
",
        ports.join(", ")
    )
}

impl World {
    fn new(mode: &str) -> Self {
        let mesh = Mesh::up(&[]);
        let (ports, gate) = ([free_port().to_string(), free_port().to_string()], free_port());
        let serve = |(port, name): (&String, &str)| {
            let args = ["--name", "vllm", "--port", port, "--protocol", "http"];
            mesh.run(&args, &["python3", &script("model.py"), port, name])
        };
        let servers = ports.iter().zip(["small", "large"]).map(serve).collect();
        let picker_port = free_port().to_string();
        let serving = [format!("small={}", ports[0]), format!("large={}", ports[1])];
        let picker = mesh.run(
            &["--name", "picker", "--port", &picker_port, "--protocol", "grpc"],
            &["python3", &script("picker.py"), &picker_port, &serving[0], &serving[1]],
        );
        picker.wait_for_line("picks");
        let gateway = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public}}
spec:
  gatewayClassName: byrnie
  listeners: [{{name: http, port: {gate}, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: models}}
spec:
  parentRefs: [{{name: public}}]
  rules: [{{backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: models}}]}}]
---
{}",
            pool(&ports, mode)
        );
        mesh.ok(&["apply", "-f", &file(&mesh, "pool.yaml", &gateway)]);
        Self { mesh, gate, picker, _servers: servers }
    }

    fn post(&self, body: &str) -> Result<Answer, String> {
        post(SocketAddr::from(([127, 0, 0, 1], self.gate)), "models.test", body)
    }

    /// What the gateway answers to a request for a model.
    fn ask(&self, model: &str) -> (u16, Value) {
        let answer = self.post(&format!("{{\"model\": \"{model}\"}}")).unwrap();
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
    }

    /// Waits until both servers have been reached.
    fn is_ready(&self) {
        for model in ["small", "large"] {
            let said = || format!("{:?}\n{}", self.post(&format!("{{\"model\": \"{model}\"}}")), self.picker.log());
            until(model, said, || self.post(&format!("{{\"model\": \"{model}\"}}")).is_ok_and(|a| a.status == 200));
        }
    }
}

fn post(to: SocketAddr, host: &str, body: &str) -> Result<Answer, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(mesh::PATIENCE))?;
        let length = body.len();
        let head = format!("POST /v1/completions HTTP/1.1\r\nhost: {host}\r\nx-secret: s\r\n");
        write!(
            stream,
            "{head}content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        stream.write_all(body.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(|error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("cut: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

#[test]
fn a_picker_sends_each_request_to_the_member_that_serves_its_model() {
    let world = World::new("FailClose");
    world.is_ready();
    for model in ["small", "large", "large", "small"] {
        let (status, said) = world.ask(model);
        assert_eq!((status, said["server"].as_str()), (200, Some(model)), "{said}");
        // The server is told too whom the picker named.
        assert!(said["picked"].as_str().unwrap().starts_with("127.0.0.1:"), "{said}");
    }
    // A body in many pieces, told and given back whole.
    let long = format!("{{\"model\": \"large\", \"prompt\": \"{}\"}}", "word ".repeat(100_000));
    let answer = world.post(&long).unwrap();
    let said: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((said["server"].as_str(), said["length"].as_u64()), (Some("large"), Some(long.len() as u64)));
    // Another body and other header lines in their place.
    let (_, said) = world.ask("adapter");
    assert_eq!((said["server"].as_str(), said["model"].as_str()), (Some("small"), Some("small-v2")), "{said}");
    assert_eq!((said["for"].as_str(), &said["secret"]), (Some("adapter"), &Value::Null), "{said}");
    // It was told both members, and of each answer who gave it; and knows when that was through.
    let log = || world.picker.log();
    assert!(log().contains("asked POST /v1/completions of 2, modes [4] None"), "{}", log());
    until("the picker is told", log, || log().matches("served 200 by 127.0.0.1:").count() >= 6);
    until("the picker knows what is through", log, || log().matches("ended").count() >= 6);
    // The first that it names is none of the pool; the next is.
    let (status, said) = world.ask("either");
    assert_eq!((status, said["server"].as_str()), (200, Some("large")), "{said}");
    let parents = world.mesh.json(&["get", "inferencepool", "models"])["status"]["parents"].clone();
    let conditions = parents[0]["conditions"].as_array().unwrap().iter();
    let conditions: Vec<_> = conditions.map(|c| (c["type"].as_str().unwrap(), c["status"].as_str().unwrap())).collect();
    assert_eq!(conditions, [("Accepted", "True"), ("ResolvedRefs", "True")], "{parents}");
    assert_eq!(parents[0]["parentRef"]["name"], "public");
}

#[test]
fn what_a_picker_answers_itself_or_names_outside_the_pool_reaches_no_server() {
    let world = World::new("FailOpen");
    world.is_ready();
    let answer = world.post("{\"model\": \"busy\"}").unwrap();
    assert_eq!((answer.status, &*answer.body), (429, "{\"error\": \"too busy\"}"), "{answer:?}");
    assert!(answer.head.to_ascii_lowercase().contains("retry-after: 7"), "{}", answer.head);
    assert!(answer.head.contains("application/json"), "{}", answer.head);
    // Whatever the mode: the picker was asked, and this is what it said.
    let (status, said) = world.ask("outside");
    assert_eq!((status, said["code"].as_str()), (503, Some("BYR-R039")), "{said}");
    assert!(said["detail"].as_str().unwrap().contains("192.0.2.7:80"), "{said}");
    // More than is read of a body to pick by.
    let long = format!("{{\"model\": \"large\", \"prompt\": \"{}\"}}", "word ".repeat(300_000));
    let answer = world.post(&long).unwrap();
    assert!(answer.status == 413 && answer.body.contains("BYR-R011"), "{answer:?}");
}

#[test]
fn without_its_picker_a_pool_that_fails_closed_answers_503_and_one_that_fails_open_is_balanced() {
    let mut world = World::new("FailClose");
    world.is_ready();
    // One that takes too long is given up.
    let (status, said) = world.ask("late");
    assert_eq!((status, said["code"].as_str()), (503, Some("BYR-R039")), "{said}");
    world.picker.wait_for_line("given up");
    world.picker.signal("KILL");
    world.picker.wait();
    let said = || format!("{:?}", world.ask("small"));
    until("it's closed", said, || {
        let (status, said) = world.ask("small");
        status == 503 && said["code"] == "BYR-R039"
    });
    let open = world.mesh.ok(&["get", "inferencepool", "models", "-o", "yaml"]).replace("FailClose", "FailOpen");
    world.mesh.ok(&["apply", "-f", &file(&world.mesh, "open.yaml", &open)]);
    let mut seen = std::collections::BTreeSet::new();
    until("both are asked", said, || {
        let (status, said) = world.ask("large");
        seen.extend(said["server"].as_str().filter(|_| status == 200).map(str::to_owned));
        seen.len() == 2
    });
}
