// SPDX-License-Identifier: Apache-2.0
//! dtm's gRPC service over a real mesh: clients at the console's address and through a sidecar, participants that are
//! called by gRPC, directly and as services.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod mesh;

use byrnie_net::listen::{self, Share};
use byrnie_net::runtime;
use byrnie_net::serve::caller::{Caller, Outgoing};
use byrnie_net::serve::unary::{self, Refusal, Status};
use byrnie_net::serve::{self, HeaderMap, HeaderValue, Method, header};
use byrnie_xds::proto::dtmgimp::{DtmBranchRequest, DtmGidReply, DtmRequest, DtmTransOptions};
use byrnie_xds::proto::{Bytes, Message};
use mesh::{Mesh, Program, free_port, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// No text, and no message that anybody could read.
const PAYLOAD: &[u8] = &[0, 255, 254, 10, 37, 0];

/// What a participant was asked.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    headers: HeaderMap,
    message: Vec<u8>,
}

impl Asked {
    fn told(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Seen = Arc<Mutex<Vec<Asked>>>;

/// A gRPC server on a port of this test. `script` is told how often the method was called before.
fn participant(port: u16, script: fn(&str, usize) -> Status) -> Seen {
    let seen = Seen::default();
    let log = Arc::clone(&seen);
    let answer: serve::Answer = Arc::new(move |request| {
        let method = request.path.rsplit('/').next().unwrap().to_owned();
        let message = unary::message(&request, 1 << 20).unwrap().to_vec();
        let before = {
            let mut log = log.lock().unwrap();
            let before = log.iter().filter(|asked| asked.method == method).count();
            log.push(Asked { method: method.clone(), headers: request.headers, message });
            before
        };
        let outcome = match script(&method, before) {
            Status::Ok => Ok(b"done".to_vec()),
            status => Err(Refusal::new(status, format!("{method} says no"))),
        };
        Box::pin(std::future::ready(unary::answer(outcome)))
    });
    let (ready, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let served = async {
            let listener = listen::bind(SocketAddr::from(([127, 0, 0, 1], port)), Share::Alone).unwrap();
            ready.send(()).unwrap();
            let (_trigger, shutdown) = runtime::shutdown();
            serve::serve(listener, answer, shutdown).await;
        };
        runtime::block_on(served).unwrap();
    });
    bound.recv().unwrap();
    seen
}

/// One call of a method of `dtmgimp.Dtm`.
fn call(to: SocketAddr, token: &str, method: &str, message: &[u8]) -> (Status, String, Bytes) {
    let mut headers = vec![
        (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto")),
        (header::TE, HeaderValue::from_static("trailers")),
    ];
    if !token.is_empty() {
        headers.push((header::AUTHORIZATION, HeaderValue::from_str(token).unwrap()));
    }
    let outgoing = Outgoing {
        to,
        method: Method::POST,
        uri: format!("http://{to}/dtmgimp.Dtm/{method}"),
        headers,
        body: unary::body(message),
        answer_bytes_max: 1 << 20,
        http2: true,
    };
    let reply = runtime::block_on(async { Caller::new().send(outgoing, PATIENCE).await }).unwrap().unwrap();
    let (status, text) = unary::status(&reply);
    (status, text, reply.body.slice(reply.body.len().min(5)..))
}

/// An operator's client.
struct Client {
    to: SocketAddr,
    token: String,
}

impl Client {
    fn ask(&self, method: &str, message: &impl Message) -> (Status, String, Bytes) {
        call(self.to, &self.token, method, &message.encode_to_vec())
    }
}

fn console(mesh: &Mesh) -> (SocketAddr, String) {
    let token = std::fs::read_to_string(mesh.data.join("token")).unwrap();
    (SocketAddr::from(([127, 0, 0, 1], mesh.port("console"))), format!("Bearer {}", token.trim()))
}

fn saga(gid: &str, steps: &[(String, String)]) -> DtmRequest {
    let list: Vec<Value> = steps.iter().map(|(action, back)| json!({"action": action, "compensate": back})).collect();
    DtmRequest {
        gid: gid.into(),
        trans_type: "saga".into(),
        trans_options: Some(DtmTransOptions {
            wait_result: true,
            branch_headers: [("x-tenant".to_owned(), "blue".to_owned())].into(),
            ..DtmTransOptions::default()
        }),
        bin_payloads: steps.iter().map(|_| Bytes::from_static(PAYLOAD)).collect(),
        steps: json!(list).to_string(),
        ..DtmRequest::default()
    }
}

fn calls(seen: &Seen, gid: &str) -> Vec<String> {
    let all = seen.lock().unwrap();
    all.iter().filter(|asked| asked.told("dtm-gid") == gid).map(|asked| asked.method.clone()).collect()
}

#[test]
fn clients_of_dtm_run_sagas_messages_and_tcc_by_grpc() {
    let mesh = Mesh::up(&[]);
    let (to, token) = console(&mesh);
    let port = free_port();
    let seen = participant(port, |method, before| match method {
        "Slow" if before == 0 => Status::FailedPrecondition,
        "Flaky" if before == 0 => Status::Internal,
        "Refuse" => Status::Aborted,
        _ => Status::Ok,
    });
    let at = |method: &str| format!("127.0.0.1:{port}/busi.Busi/{method}");
    let client = Client { to, token };
    let (status, _, gid) = client.ask("NewGid", &DtmGidReply::default());
    let gid = DtmGidReply::decode(gid).unwrap().gid;
    assert!(status == Status::Ok && !gid.is_empty());
    // OK is done, FAILED_PRECONDITION is at it, and anything else isn't known: it's asked again.
    let steps = [(at("Out"), at("OutBack")), (at("Slow"), at("SlowBack")), (at("Flaky"), String::new())];
    assert_eq!(client.ask("Submit", &saga(&gid, &steps)).0, Status::Ok);
    assert_eq!(calls(&seen, &gid), ["Out", "Slow", "Slow", "Flaky", "Flaky"]);
    let first = seen.lock().unwrap()[0].clone();
    assert_eq!(first.message, PAYLOAD, "the payload is sent byte by byte");
    let told = ["dtm-trans_type", "dtm-branch_id", "dtm-op", "x-tenant", "content-type", "te", "txn-id"];
    let expected = ["saga", "01", "action", "blue", "application/grpc", "trailers", &gid];
    assert_eq!(told.map(|name| first.told(name)), expected, "{first:?}");
    // The same again is the same; something else under its name is refused.
    assert_eq!(client.ask("Submit", &saga(&gid, &steps)).0, Status::Ok);
    assert_eq!(calls(&seen, &gid).len(), 5);
    assert_eq!(client.ask("Submit", &saga(&gid, &steps[..2])).0, Status::Aborted);
    // ABORTED takes the way back, with the payload of the action.
    let steps = [(at("Out"), at("OutBack")), (at("Refuse"), at("RefuseBack"))];
    let (status, text, _) = client.ask("Submit", &saga("no-1", &steps));
    assert!(status == Status::Aborted && text.contains("Refuse says no"), "{status:?} {text}");
    assert_eq!(calls(&seen, "no-1"), ["Out", "Refuse", "RefuseBack", "OutBack"]);
    let back = seen.lock().unwrap().iter().find(|asked| asked.method == "OutBack").cloned().unwrap();
    assert_eq!((back.told("dtm-op"), &*back.message), ("compensate", PAYLOAD));
    // A message whose creator never says is asked for; one that it forgets isn't sent.
    for (gid, check) in [("m1", "Prepared"), ("m2", "Refuse")] {
        let mut message = saga(gid, &[(at("Mail"), String::new())]);
        message.trans_type = "msg".into();
        message.query_prepared = at(check);
        message.trans_options = Some(DtmTransOptions { timeout_to_fail: 1, ..DtmTransOptions::default() });
        assert_eq!(client.ask("Prepare", &message).0, Status::Ok);
    }
    until("the message", || format!("{:?}", seen.lock().unwrap()), || calls(&seen, "m1") == ["Prepared", "Mail"]);
    until("the other check", || format!("{:?}", seen.lock().unwrap()), || calls(&seen, "m2") == ["Refuse"]);
    let check = seen.lock().unwrap().iter().find(|asked| asked.method == "Prepared").cloned().unwrap();
    assert_eq!((check.told("dtm-branch_id"), check.told("dtm-op")), ("00", "msg"));
    // TCC, both ways.
    for (gid, verb, end) in [("c1", "Submit", "Confirm"), ("c2", "Abort", "Cancel")] {
        let tcc =
            DtmRequest { gid: gid.into(), trans_type: "tcc".into(), steps: "null".into(), ..DtmRequest::default() };
        assert_eq!(client.ask("Prepare", &tcc).0, Status::Ok);
        let joins = DtmBranchRequest {
            gid: gid.into(),
            trans_type: "tcc".into(),
            branch_id: "01".into(),
            data: [("confirm".to_owned(), at("Confirm")), ("cancel".to_owned(), at("Cancel"))].into(),
            busi_payload: Bytes::from_static(PAYLOAD),
            ..DtmBranchRequest::default()
        };
        assert_eq!(client.ask("RegisterBranch", &joins).0, Status::Ok);
        assert_eq!(client.ask(verb, &tcc).0, Status::Ok);
        until("the end", || format!("{:?}", seen.lock().unwrap()), || calls(&seen, gid) == [end]);
        assert_eq!(client.ask("RegisterBranch", &joins).0, Status::Aborted, "nobody joins what is over");
    }
    assert_eq!(calls(&seen, "m2"), ["Refuse"], "a message that was taken back is never sent");
    refuses_what_it_should(&client);
}

fn refuses_what_it_should(client: &Client) {
    let Client { to, token } = client;
    let one = |target: &str| saga("bad", &[(target.to_owned(), String::new())]);
    for (target, status, words) in [
        ("192.0.2.1:80/busi.Busi/Out", Status::PermissionDenied, "not on this machine"),
        ("nosuch/busi.Busi/Out", Status::Aborted, "no service nosuch"),
        ("busi.Busi/Out", Status::InvalidArgument, "PACKAGE.SERVICE/METHOD"),
        ("http://shop/x", Status::InvalidArgument, "not UTF-8"),
    ] {
        let (found, text, _) = client.ask("Submit", &one(target));
        assert!(found == status && text.contains(words), "{target}: {found:?} {text}");
    }
    assert_eq!(client.ask("Submit", &saga("no good id", &[])).0, Status::InvalidArgument);
    assert_eq!(client.ask("Abort", &DtmRequest { gid: "nobody".into(), ..DtmRequest::default() }).0, Status::NotFound);
    assert_eq!(client.ask("PrepareWorkflow", &DtmRequest::default()).0, Status::Unimplemented);
    assert_eq!(call(*to, token, "Submit", &[0xff; 9]).0, Status::InvalidArgument);
    assert_eq!(call(*to, token, "Submit", &vec![0; 5 << 20]).0, Status::ResourceExhausted);
    for wrong in ["", "Bearer 00000000000000000000000000000000"] {
        let (status, text, _) = call(*to, wrong, "NewGid", &[]);
        assert!(status == Status::Unauthenticated && text.contains("authorization"), "{status:?} {text}");
    }
}

#[test]
fn a_workload_starts_by_grpc_what_it_may_do_itself() {
    let mesh = Mesh::up(&[]);
    let port = free_port();
    let seen = participant(port, |method, _| if method == "Refuse" { Status::Aborted } else { Status::Ok });
    let shop: Program =
        mesh.run(&["--name", "shop", "--port", &port.to_string(), "--protocol", "grpc"], &["sleep", "1000"]);
    shop.wait_for_line("joined as");
    let workload = |name: &str| {
        let port = free_port().to_string();
        let run = mesh.run(&["--name", name, "--port", &port, "--uses", "transactions.byrnie"], &["sleep", "1000"]);
        run.wait_for_line("BYRNIE_TRANSACTIONS_36790_URL");
        let url = run.value("BYRNIE_TRANSACTIONS_36790_URL");
        (run, url.strip_prefix("http://").unwrap().parse::<SocketAddr>().unwrap())
    };
    let ((_web, web), (_thief, thief)) = (workload("web"), workload("thief"));
    let order = |gid: &str, second: &str| {
        let at = |method: &str| format!("shop/shop.v1.Shop/{method}");
        saga(
            gid,
            &[
                (at("Reserve"), at("Release")),
                (format!("discovery:///shop.default/shop.v1.Shop/{second}"), at("Refund")),
            ],
        )
    };
    let submit = |from: SocketAddr, gid: &str, second: &str| {
        let (status, text, _) = call(from, "", "Submit", &order(gid, second).encode_to_vec());
        (status, text)
    };
    // The mesh itself refuses, then the coordinator, as the proxy of the service would.
    assert_eq!(submit(web, "w1", "Pay").0, Status::PermissionDenied);
    for name in ["web", "thief"] {
        mesh.ok(&["allow", name, "transactions.byrnie"]);
    }
    for from in [web, thief] {
        until("the coordinator", String::new, || call(from, "", "NewGid", &[]).0 == Status::Ok);
    }
    let (status, text) = submit(web, "w1", "Pay");
    assert!(status == Status::PermissionDenied && text.contains("may not call POST shop.default"), "{status:?} {text}");
    mesh.ok(&["allow", "web", "shop"]);
    until("web's order", || format!("{:?}", submit(web, "w1", "Pay")), || submit(web, "w1", "Pay").0 == Status::Ok);
    assert_eq!(calls(&seen, "w1"), ["Reserve", "Pay"]);
    let first = seen.lock().unwrap()[0].clone();
    assert_eq!((first.told("dtm-branch_id"), &*first.message), ("01", PAYLOAD));
    assert_eq!(first.told("forwarded-client-identity"), "spiffe://mesh.local/ns/byrnie/sa/transactions");
    let (status, text) = submit(web, "w2", "Refuse");
    assert!(status == Status::Aborted && text.contains("ABORTED: Refuse says no"), "{status:?} {text}");
    assert_eq!(calls(&seen, "w2"), ["Reserve", "Refuse", "Refund", "Release"]);
    // What is web's is not the thief's to end, nor is an address its to have called.
    let abort = DtmRequest { gid: "w1".into(), ..DtmRequest::default() };
    assert_eq!(call(thief, "", "Abort", &abort.encode_to_vec()).0, Status::PermissionDenied);
    let raw = saga("t1", &[(format!("127.0.0.1:{port}/shop.v1.Shop/Pay"), String::new())]);
    assert_eq!(call(thief, "", "Submit", &raw.encode_to_vec()).0, Status::PermissionDenied);
    let lines = audit(&mesh);
    let line = |who: &str, verb: &str, status: u16| {
        let caller = format!("spiffe://mesh.local/ns/default/sa/{who}");
        lines.iter().any(|line| line["caller"] == *caller && line["verb"] == verb && line["status"] == status)
    };
    for (who, verb, status) in
        [("web", "submit", 403), ("web", "submit", 200), ("web", "submit", 409), ("thief", "abort", 403)]
    {
        assert!(line(who, verb, status), "{who} {verb} {status} is not in {lines:?}");
    }
}

fn audit(mesh: &Mesh) -> Vec<Value> {
    let (to, token) = console(mesh);
    let outgoing = Outgoing {
        to,
        method: Method::GET,
        uri: "/txn/v1/audit".to_owned(),
        headers: vec![
            (header::HOST, HeaderValue::from_static("localhost")),
            (header::AUTHORIZATION, HeaderValue::from_str(&token).unwrap()),
        ],
        body: Bytes::new(),
        answer_bytes_max: 1 << 20,
        http2: false,
    };
    let reply = runtime::block_on(async { Caller::new().send(outgoing, PATIENCE).await }).unwrap().unwrap();
    serde_json::from_slice(&reply.body).unwrap()
}

#[test]
fn a_mesh_that_an_older_version_made_gets_the_port_for_grpc() {
    let mut mesh = Mesh::up(&[]);
    let old = "apiVersion: v1\nkind: Service\nmetadata: {name: transactions, namespace: byrnie}\nspec:\n  \
        selector: {app: transactions}\n  ports: [{name: http, port: 80, targetPort: http}]\n";
    mesh.ok(&["apply", "-f", &mesh::file(&mesh, "old.yaml", old)]);
    drop(mesh.up.take());
    mesh.start(&[]);
    let services = mesh.json(&["get", "service"]);
    let own =
        services.as_array().unwrap().iter().find(|service| service["metadata"]["name"] == "transactions").unwrap();
    let ports: Vec<u64> =
        own["spec"]["ports"].as_array().unwrap().iter().filter_map(|port| port["port"].as_u64()).collect();
    assert_eq!(ports, [80, 36_790], "{own}");
}
