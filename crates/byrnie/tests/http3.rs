// SPDX-License-Identifier: Apache-2.0
//! HTTP/3 at the edge, asked by aioquic. It needs the feature `http3`, and aioquic where Python finds it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod mesh;

use mesh::{Mesh, Program, file, free_port, load, until};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::process::Command;

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/peers/http3.py");
const HOST: &str = "www.shop.test";
/// RFC 9114 8.1.
const NO_ERROR: u64 = 0x100;
const FRAME_UNEXPECTED: u64 = 0x105;
const EXCESSIVE_LOAD: u64 = 0x107;
const MESSAGE_ERROR: u64 = 0x10e;

/// A mesh with a gateway that serves HTTPS.
struct Edge {
    mesh: Mesh,
    port: u16,
    ca: String,
    _program: Program,
}

/// A certificate signed by its own key, as a Secret; and the certificate.
fn secret() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let chain = CertificateParams::new(vec!["*.shop.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let block = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let document = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop-tls}}\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n{}  tls.key: |\n{}",
        block(&chain),
        block(&key.serialize_pem())
    );
    (document, chain)
}

/// The gateway; `more`: annotations.
fn gateway(port: u16, more: &str) -> String {
    gateway_that_asks(port, more, "")
}

/// The same; `frontend`: what callers have to prove.
fn gateway_that_asks(port: u16, more: &str, frontend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public}}
spec:
  gatewayClassName: byrnie
  infrastructure: {{annotations: {{{more}}}}}
  tls: {{{frontend}}}
  listeners:
  - {{name: https, port: {port}, protocol: HTTPS, hostname: '*.shop.test', tls: {{certificateRefs: [{{name: shop-tls}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop}}
spec:
  parentRefs: [{{name: public}}]
  hostnames: [{HOST}]
  rules:
  - matches: [{{path: {{value: /rpc}}}}]
    backendRefs: [{{name: rpc, port: 80}}]
  - backendRefs: [{{name: hello, port: 80}}]
"
    )
}

impl Edge {
    /// One before `hello`.
    fn open() -> Self {
        let mesh = Mesh::up(&[]);
        let own = free_port().to_string();
        let program = mesh.run(&["--name", "hello", "--port", &own], &["python3", PEER, "serve", &own]);
        mesh.ask_until("hello", "/", |answer| answer.status == 200);
        let port = free_port();
        let (document, chain) = secret();
        let ca = file(&mesh, "trusted.pem", &chain);
        mesh.ok(&["apply", "-f", &file(&mesh, "secret.yaml", &document)]);
        mesh.ok(&["apply", "-f", &file(&mesh, "gateway.yaml", &gateway(port, ""))]);
        let edge = Self { mesh, port, ca, _program: program };
        until("HTTP/3 is offered", || edge.curl(), || edge.curl().contains(&edge.offer()));
        edge
    }

    /// What clients of other versions are told.
    fn offer(&self) -> String {
        format!("alt-svc: h3=\":{}\"; ma=3600", self.port)
    }

    /// The head of an answer over HTTP/2.
    fn curl(&self) -> String {
        let resolve = format!("{HOST}:{}:127.0.0.1", self.port);
        let url = format!("https://{HOST}:{}/", self.port);
        let output = Command::new("curl")
            .args(["-sS", "-m", "10", "-o", "/dev/null", "-D", "-", "--cacert", &self.ca, "--resolve", &resolve, &url])
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    fn peer(&self, verb: &str, plan: &Value) -> Command {
        let mut peer = Command::new("python3");
        peer.args([PEER, verb, &self.port.to_string(), &self.ca, HOST, &plan.to_string()]);
        peer
    }

    /// What comes of a plan (see the peer).
    fn ask(&self, plan: &Value) -> Value {
        self.ask_as("ask", plan)
    }

    fn ask_as(&self, verb: &str, plan: &Value) -> Value {
        told_by(&mut self.peer(verb, plan))
    }

    /// What comes of asking with the ticket that the browser has, if it has one; it keeps the last that it's given. It shows this.
    fn comes_back(&self, browser: &str, shown: &[String]) -> Value {
        let ticket = self.mesh.data.with_file_name(format!("{browser}.ticket"));
        told_by(self.peer("again", &json!([{"path": "/fine"}])).arg(ticket).args(shown))
    }

    /// The answers, of one connection that goes on.
    fn answers(&self, plan: &Value) -> Vec<Value> {
        let told = self.ask(plan);
        assert_eq!(told["closed"], Value::Null, "{told}");
        told["answers"].as_array().unwrap().clone()
    }
}

fn told_by(peer: &mut Command) -> Value {
    let output = peer.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn a_gateway_answers_http_3_as_it_does_the_other_versions() {
    let edge = Edge::open();
    let rpc = load::rpc();
    let _rpc = edge.mesh.beside("rpc", Some((rpc.port, "grpc")), &[]);
    let large = 3 * 1024 * 1024;
    let call = [("content-type", "application/grpc"), ("te", "trailers")];
    let plan = json!([
        {"path": "/a?b=c", "headers": [["cookie", "a=1"], ["cookie", "b=2"], ["x-forwarded-for", "9.9.9.9"]]},
        {"body": large},
        {"body": 3, "headers": [["content-length", "3"]]},
        {"body": 70_000, "trailers": [["x-sum", "7"]]},
        {"path": "/trailers"},
        {"path": "/early"},
        {"path": format!("/large?{large}")},
        {"method": "HEAD"},
        {"method": "CONNECT", "lines": [[":method", "CONNECT"], [":authority", "www.shop.test:443"]]},
        {"path": "/rpc/Say", "method": "POST", "headers": call, "body": 9, "grpc": true},
    ]);
    // The route is there once the service is.
    until("gRPC", || edge.ask(&plan).to_string(), || edge.answers(&plan)[9]["trailers"]["grpc-status"] == "0");
    let answers = edge.answers(&plan);
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_str().unwrap_or("none")).collect();
    assert_eq!(statuses[..8], ["200"; 8], "{answers:?}");
    assert_ne!(statuses[8], "200", "a gateway is nobody's way to elsewhere");
    let seen: Value = serde_json::from_str(answers[0]["text"].as_str().unwrap()).unwrap();
    assert_eq!((&seen["path"], &seen["host"], &seen["cookie"]), (&json!("/a?b=c"), &json!(HOST), &json!("a=1; b=2")));
    assert_eq!((&seen["x-forwarded-proto"], &seen["x-forwarded-for"]), (&json!("https"), &json!("127.0.0.1")));
    assert_eq!(answers[0]["headers"].get("alt-svc"), None, "who has come by it needn't be told");
    assert!(
        answers[0]["headers"].get("x-byrnie-decision").is_none() && answers[0]["headers"].get("connection").is_none()
    );
    for (nth, length) in [(1, large), (2, 3), (3, 70_000), (6, large)] {
        assert_eq!((&answers[nth]["length"], &answers[nth]["whole"]), (&json!(length), &json!(true)), "{nth}");
    }
    assert_eq!(answers[3]["headers"]["x-trailer"], "x-sum: 7");
    assert_eq!((&answers[4]["trailers"]["x-end"], &answers[4]["text"]), (&json!("yes"), &json!("hello")));
    assert_eq!(answers[5]["interim"][0]["link"], "</a.css>");
    assert_eq!(answers[7]["length"], 0);
    let many = edge.answers(&Value::from_iter(vec![json!({"path": "/large?20000"}); 200]));
    for (nth, answer) in many.iter().enumerate() {
        let (status, length) = (&answer["status"], &answer["length"]);
        assert_eq!((status, length), (&json!("200"), &json!(20_000)), "many at once, {nth}: {answer:?}");
    }
    // Whoever asks why is told by which version.
    let missing = edge.answers(&json!([{"host": "other.shop.test"}]));
    let decision = missing[0]["headers"]["x-byrnie-decision"].as_str().unwrap().to_owned();
    assert_eq!(missing[0]["status"], "404");
    until("a record", String::new, || edge.mesh.cli(&["explain", &decision]).status.success());
    let explained = edge.mesh.ok(&["explain", &decision, "-o", "json"]);
    assert!(explained.contains("http/3"), "{explained}");
}

#[test]
fn wrong_input_by_http_3_ends_what_it_is_wrong_for_and_nothing_else() {
    let edge = Edge::open();
    let head = [[":method", "GET"], [":scheme", "https"], [":authority", HOST], [":path", "/"]];
    let lines = |more: &[[&str; 2]]| json!({"lines": ([&head[..], more].concat())});
    let plan = json!([
        lines(&[[":path", "/again"]]),
        lines(&[["connection", "close"]]),
        lines(&[["transfer-encoding", "chunked"]]),
        json!({"lines": head[..3]}),
        lines(&[["Upper", "x"]]),
        {"body": 3, "headers": [["content-length", "5"]]},
        {"lines": [[":method", "CONNECT"], [":protocol", "websocket"], [":scheme", "https"], [":authority", HOST], [":path", "/"]]},
        lines(&[["host", "other.shop.test"]]),
        lines(&[["x", &"v".repeat(40_000)], ["y", &"v".repeat(40_000)]]),
        lines(&[["expect", "a miracle"]]),
        {"host": "other.test"},
        {"path": "/a/..%2f"},
        {"path": "/fine"},
    ]);
    let answers = edge.answers(&plan);
    for (nth, answer) in answers[..7].iter().enumerate() {
        assert_eq!((&answer["reset"], &answer["status"]), (&json!(MESSAGE_ERROR), &Value::Null), "{nth}: {answer}");
    }
    for (nth, status) in [(7, "400"), (8, "431"), (9, "417"), (10, "421"), (11, "400"), (12, "200")] {
        assert_eq!(answers[nth]["status"], status, "{nth}: {}", answers[nth]);
    }
    // Rules of a connection: a body before its head, a frame of HTTP/2, two control streams, a push, a table that was not offered,
    // and one who opens nothing but to give it up.
    for (plan, code) in [
        (json!([{"frames": "000161"}]), FRAME_UNEXPECTED),
        (json!([{"frames": "0200"}]), FRAME_UNEXPECTED),
        (json!([{"opens": "000400"}]), 0x103),
        (json!([{"opens": "01"}]), 0x103),
        (json!([{"frames": "0103010080"}]), 0x200),
        (json!([{"opens": "21616263"}, {"frames": "000161"}]), FRAME_UNEXPECTED),
        (
            Value::from_iter(
                vec![json!({"path": "/hang", "leave": true}); 255].into_iter().chain([json!({"path": "/hang"})]),
            ),
            EXCESSIVE_LOAD,
        ),
    ] {
        assert_eq!(edge.ask(&plan)["closed"], code, "{plan}");
    }
    // Who gives up is given up for upstream.
    let left =
        edge.answers(&json!([{"path": "/hang"}, {"path": "/came"}, {"path": "/left", "then": true, "cancel": 1}]));
    assert_eq!((&left[1]["text"], &left[2]["text"]), (&json!("True"), &json!("True")), "{left:?}");
    // Where many begin and nobody goes on, one has to show where it is, and is served.
    let fine = json!([{"path": "/fine"}]);
    assert_eq!(edge.ask(&fine)["retried"], false);
    let flooded = edge.ask_as("flood", &fine);
    assert_eq!((&flooded["retried"], &flooded["answers"][0]["status"]), (&json!(true), &json!("200")), "{flooded}");
    let status = edge.mesh.ok(&["status"]);
    assert!(status.contains("mesh ok"), "{status}");
}

#[test]
fn a_gateway_changes_what_it_serves_by_http_3_while_it_is_asked() {
    let mut edge = Edge::open();
    let stays = |edge: &Edge| Program::spawn(edge.peer("ask", &json!([{"path": "/fine"}, "stay"])));
    let first = stays(&edge);
    first.wait_for_line("\"200\"");

    // A renewed certificate is shown from the next connection on; those that are open go on.
    let (document, chain) = secret();
    edge.mesh.ok(&["apply", "-f", &file(&edge.mesh, "secret.yaml", &document)]);
    let old = std::mem::replace(&mut edge.ca, file(&edge.mesh, "renewed.pem", &chain));
    let fine = json!([{"path": "/fine"}]);
    until("the new one", String::new, || edge.ask(&fine)["answers"][0]["status"] == "200");
    assert!(!first.log().contains("goaway"), "{}", first.log());
    edge.ca = old;
    assert_eq!(edge.ask(&fine)["closed"], "no handshake", "the old one is not shown any more");
    edge.ca = file(&edge.mesh, "renewed.pem", &chain);

    // Behind a balancer nobody could say who asks: HTTP/3 ends, in order.
    let balanced = "mesh.byrnie.dev/proxy-protocol-from: 127.0.0.0/8";
    edge.mesh.ok(&["apply", "-f", &file(&edge.mesh, "gateway.yaml", &gateway(edge.port, balanced))]);
    first.wait_for_line(&format!("\"closed\": {NO_ERROR}"));
    assert!(first.log().contains(&format!("\"goaway\": {}", (1_u64 << 62) - 4)), "{}", first.log());
    let free = || UdpSocket::bind(("127.0.0.1", edge.port));
    until("the port is free", String::new, || free().is_ok());
    // Somebody else has the port meanwhile: HTTPS goes on without, and says nothing of HTTP/3.
    let other = free().unwrap();
    edge.mesh.ok(&["apply", "-f", &file(&edge.mesh, "gateway.yaml", &gateway(edge.port, ""))]);
    until("HTTPS", || edge.curl(), || edge.curl().contains("200"));
    assert!(!edge.curl().contains("alt-svc"), "{}", edge.curl());
    drop(other);
    until("it is offered again", || edge.curl(), || edge.curl().contains(&edge.offer()));
    assert_eq!(edge.answers(&fine)[0]["status"], "200");

    // Where a gateway asks for datagrams, those at the port are its own.
    let plain = gateway(edge.port, "");
    let udp = format!("listeners:\n  - {{name: udp, port: {}, protocol: UDP}}\n", edge.port);
    let both = plain.replace("listeners:\n", &udp);
    edge.mesh.ok(&["apply", "-f", &file(&edge.mesh, "gateway.yaml", &both)]);
    until("HTTPS alone", || edge.curl(), || edge.curl().contains("200") && !edge.curl().contains("alt-svc"));
    edge.mesh.ok(&["apply", "-f", &file(&edge.mesh, "gateway.yaml", &plain)]);
    until("it is offered again", || edge.curl(), || edge.curl().contains(&edge.offer()));
    assert_eq!(edge.answers(&fine)[0]["status"], "200");

    // Another process takes the edge over: who is there is told goodbye, and finds HTTP/3 again soon.
    let before = stays(&edge);
    before.wait_for_line("\"200\"");
    edge.mesh.ok(&["upgrade", "mesh", "--drain", "10s"]);
    before.wait_for_line(&format!("\"closed\": {NO_ERROR}"));
    until("it is offered by the next", || edge.curl(), || edge.curl().contains(&edge.offer()));
    assert_eq!(edge.answers(&fine)[0]["status"], "200");

    // What is under way when the mesh ends is answered, and the client is told to go elsewhere.
    let last = stays(&edge);
    last.wait_for_line("\"200\"");
    let mut up = edge.mesh.up.take().unwrap();
    up.signal("TERM");
    last.wait_for_line(&format!("\"closed\": {NO_ERROR}"));
    assert!(last.log().contains("goaway") && up.wait().success(), "{}", last.log());
}

#[test]
fn sessions_by_http_3_go_on_where_the_same_is_shown_and_are_counted() {
    let mut edge = Edge::open();
    let is_resumed = |edge: &Edge| {
        let told = edge.comes_back("browser", &[]);
        assert_eq!(told["answers"][0]["status"], "200", "{told}");
        assert_ne!(told["tickets"], 0, "{told}");
        told["resumed"].as_bool().unwrap()
    };
    let (full, resumed) = edge.mesh.handshakes().unwrap();
    assert!(!is_resumed(&edge));
    assert_eq!(edge.mesh.handshakes(), Some((full + 1, resumed)));
    assert!(is_resumed(&edge));
    assert_eq!(edge.mesh.handshakes(), Some((full + 1, resumed + 1)));

    // The next process has the same keys, without having been told any.
    edge.mesh.ok(&["upgrade", "mesh", "--drain", "5s"]);
    until("the new edge is asked", String::new, || edge.mesh.handshakes().is_some_and(|(_, resumed)| resumed == 0));
    until("it is offered by the next", || edge.curl(), || edge.curl().contains(&edge.offer()));
    assert!(is_resumed(&edge), "after an upgrade");
    assert_eq!(edge.mesh.handshakes().map(|(_, resumed)| resumed), Some(1));

    // What was given on other terms isn't taken.
    let (document, chain) = secret();
    edge.mesh.ok(&["apply", "-f", &file(&edge.mesh, "secret.yaml", &document)]);
    edge.ca = file(&edge.mesh, "renewed.pem", &chain);
    until("the renewed certificate is shown", String::new, || !is_resumed(&edge));
    assert!(is_resumed(&edge));
}

#[test]
fn callers_by_http_3_prove_who_they_are_where_others_have_to() {
    let edge = Edge::open();
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        (rcgen::Issuer::new(params, key), pem)
    };
    let ((partners, pem), (others, _)) = (authority("partners"), authority("others"));
    let pair = |name: &str, issuer: &rcgen::Issuer<'static, KeyPair>| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let chain = params.signed_by(&key, issuer).unwrap().pem();
        [("crt", chain), ("key", key.serialize_pem())]
            .map(|(end, text)| file(&edge.mesh, &format!("{name}.{end}"), &text))
    };
    let (good, foreign) = (pair("good", &partners), pair("foreign", &others));
    let plan = json!([{"path": "/fine", "headers": [["x-forwarded-client-cert", "Hash=0"]]}]);
    let ask = |shown: Option<&[String; 2]>| {
        let output = edge.peer("ask", &plan).args(shown.into_iter().flatten()).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let seen = told["answers"][0]["text"].as_str().unwrap_or_default();
        serde_json::from_str::<Value>(seen).map(|seen| seen["x-forwarded-client-cert"].clone()).ok()
    };
    assert_eq!(ask(None), Some(Value::Null), "nothing is asked for yet");
    for (browser, tickets) in [("stranger", 2), ("partner", 2)] {
        assert_eq!(edge.comes_back(browser, &[])["tickets"], tickets);
    }
    let document = |mode: &str| {
        let block = pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let refs = "caCertificateRefs: [{group: '', kind: ConfigMap, name: partners}]";
        let frontend = format!("frontend: {{default: {{validation: {{mode: {mode}, {refs}}}}}}}");
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: partners}}\ndata:\n  ca.crt: |\n{block}---\n{}",
            gateway_that_asks(edge.port, "", &frontend)
        )
    };
    edge.mesh.ok(&["apply", "-f", &file(&edge.mesh, "asks.yaml", &document("AllowValidOnly"))]);
    until("it's asked for", String::new, || ask(None).is_none());
    assert_eq!(ask(Some(&foreign)), None);
    // A ticket proves nothing, and none is given.
    assert_eq!(edge.comes_back("stranger", &[])["answers"][0]["status"], Value::Null);
    for _ in 0..2 {
        let told = edge.comes_back("partner", &good);
        let seen = [&told["answers"][0]["status"], &told["resumed"], &told["tickets"]];
        assert_eq!(seen, [&json!("200"), &json!(false), &json!(0)]);
    }
    let told = ask(Some(&good)).unwrap();
    assert!(told.as_str().unwrap().ends_with(";Subject=\"CN=good\""), "{told}");
    edge.mesh.ok(&["apply", "-f", &file(&edge.mesh, "asks.yaml", &document("AllowInsecureFallback"))]);
    until("anybody is let in", String::new, || ask(None) == Some(Value::Null));
    assert_eq!(ask(Some(&foreign)), Some(Value::Null), "nothing that isn't proven is told");
    assert_eq!(ask(Some(&good)), Some(told));
    // Where nobody could prove anything, there is no HTTP/3 at all.
    edge.mesh.ok(&["delete", "configmap", "partners"]);
    until("the port is closed", String::new, || UdpSocket::bind(("127.0.0.1", edge.port)).is_ok());
}
