// SPDX-License-Identifier: Apache-2.0
//! Traces and metrics of a real mesh, as a collector under TLS gets them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod mesh;

use byrnie_net::listen::{self, Share};
use byrnie_net::runtime;
use byrnie_net::serve::caller::{Caller, Outgoing};
use byrnie_net::serve::unary::{self, Refusal, Status};
use byrnie_net::serve::{self, HeaderValue, Method, header};
use mesh::otlp::{ExportMetrics, ExportTraces, KeyValue, Span, Value};
use mesh::participant::{Asked, Participant, fine, listen};
use mesh::{ENVIRONMENT, Mesh, PATIENCE, Program, file, free_port, http, until};
use prost::Message;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};

const SECRET: &str = "s3cr3t-of-the-collector";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// A span, and who sent it.
#[derive(Clone, Debug)]
struct Told {
    service: String,
    span: Span,
}

impl Told {
    fn word(&self, name: &str) -> String {
        word(&self.span.attributes, name)
    }
}

fn word(attributes: &[KeyValue], name: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == name).and_then(|found| found.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::Text(text)) => text,
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Bool(yes)) => yes.to_string(),
        None => String::new(),
    }
}

/// What a collector was sent.
#[derive(Default)]
struct Heard {
    spans: Vec<Told>,
    metrics: Vec<ExportMetrics>,
    /// Values of `authorization`, and of whose spans they are.
    tokens: Vec<String>,
}

struct Collector {
    port: u16,
    ca: String,
    heard: Arc<Mutex<Heard>>,
}

impl Collector {
    /// Under TLS, by an authority of its own.
    fn start() -> Self {
        let (port, heard) = (free_port(), Arc::<Mutex<Heard>>::default());
        let (ca, config) = authority();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let log = Arc::clone(&heard);
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (config, log) = (Arc::clone(&config), Arc::clone(&log));
                std::thread::spawn(move || {
                    let session = rustls::ServerConnection::new(config).unwrap();
                    serve_collector(rustls::StreamOwned::new(session, tcp), &log);
                });
            }
        });
        Self { port, ca, heard }
    }

    /// The Mesh that sends everything here.
    fn mesh(&self, percent: u8) -> String {
        let ca: String = self.ca.lines().map(|line| format!("        {line}\n")).collect();
        let port = self.port;
        format!(
            "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec:\n  telemetry:\n    otlp:\n      \
             endpoint: https://localhost:{port}\n      ca: |\n{ca}      \
             headers: [{{name: authorization, env: OTLP_TOKEN}}, {{name: X-Scope-OrgID, env: OTLP_TENANT}}]\n      \
             traces: {{samplePercent: {percent}}}\n      metrics: {{every: 1s}}\n"
        )
    }

    fn spans(&self) -> Vec<Told> {
        self.heard.lock().unwrap().spans.clone()
    }

    /// The spans of a trace, once `wanted` of them are there.
    fn trace(&self, id: &str, wanted: usize) -> Vec<Told> {
        let of_trace = || -> Vec<Told> { self.spans().into_iter().filter(|t| hex(&t.span.trace_id) == id).collect() };
        until("the spans of a trace", || outline(&of_trace()), || of_trace().len() >= wanted);
        let spans = of_trace();
        assert_eq!(spans.len(), wanted, "{}", outline(&spans));
        spans
    }
}

fn authority() -> (String, Arc<rustls::ServerConfig>) {
    let (own, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let ca = params.self_signed(&own).unwrap().pem();
    let issuer = Issuer::new(params, own);
    let signed = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.der().clone()], private)
        .unwrap();
    (ca, Arc::new(config))
}

fn serve_collector(stream: impl Read + Write, heard: &Mutex<Heard>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut length, mut token, mut kind) = (String::new(), 0, String::new(), String::new());
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap().to_owned();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => token.insert_str(0, value),
                "x-scope-orgid" => token += &format!(" of {value}"),
                "content-type" => kind = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(kind, "application/x-protobuf");
        let mut heard = heard.lock().unwrap();
        heard.tokens.push(token);
        match path.as_str() {
            "/v1/traces" => {
                for of_resource in ExportTraces::decode(&*body).unwrap().resource_spans {
                    let resource = of_resource.resource.unwrap();
                    let service = word(&resource.attributes, "service.name");
                    let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                    heard.spans.extend(spans.map(|span| Told { service: service.clone(), span }));
                }
            }
            "/v1/metrics" => heard.metrics.push(ExportMetrics::decode(&*body).unwrap()),
            other => panic!("nothing is sent to {other}"),
        }
        drop(heard);
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if stream.get_mut().write_all(answer.as_bytes()).and_then(|()| stream.get_mut().flush()).is_err() {
            return;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Spans for people, in order of time.
fn outline(spans: &[Told]) -> String {
    let mut lines: Vec<_> = spans
        .iter()
        .map(|t| {
            let (id, parent) = (hex(&t.span.span_id), hex(&t.span.parent_span_id));
            (
                t.span.start_time_unix_nano,
                format!("{id} below {parent:16} {} {} {}", t.service, t.span.kind, t.span.name),
            )
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

/// The one span of a service and kind below `parent`.
fn below<'a>(spans: &'a [Told], parent: &str, service: &str, kind: i32) -> &'a Told {
    let fits = |t: &&Told| hex(&t.span.parent_span_id) == parent && t.service == service && t.span.kind == kind;
    let found: Vec<&Told> = spans.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "one {service} {kind} below {parent} in\n{}", outline(spans));
    found[0]
}

fn id(told: &Told) -> String {
    hex(&told.span.span_id)
}

/// A mesh, its collector, and two services of which the first calls the second and hands the trace on.
struct Shop {
    mesh: Mesh,
    collector: Collector,
    front: Program,
    back: Participant,
    asked: Arc<Mutex<Vec<Asked>>>,
}

fn shop(percent: u8) -> Shop {
    ENVIRONMENT.get_or_init(|| {
        let tenant = std::env::temp_dir().join(format!("byrnie-tenant-{}", std::process::id()));
        std::fs::write(&tenant, "shop\n").unwrap();
        let token = ("OTLP_TOKEN".to_owned(), format!("Bearer {SECRET}"));
        vec![token, ("OTLP_TENANT_FILE".to_owned(), tenant.to_string_lossy().into_owned())]
    });
    let collector = Collector::start();
    let mesh = Mesh::up(&[]);
    mesh.ok(&["apply", &file(&mesh, "mesh.yaml", &collector.mesh(percent))]);
    let broken = collector.mesh(100).replace("MII", "XXX");
    let refused = mesh.cli(&["apply", &file(&mesh, "broken.yaml", &broken)]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success() && told.contains("malformed root"), "{told}");
    // It loses one answer.
    let back = Participant::new(&mesh, "back", |asked, before| match asked.path.as_str() {
        "/flaky" if before == 0 => (0, String::new()),
        _ => fine(),
    });
    let url: Arc<OnceLock<String>> = Arc::default();
    let known = Arc::clone(&url);
    let (port, asked) = listen(move |asked, _| {
        let traceparent = asked.headers.get("traceparent").cloned().unwrap_or_default();
        let mut to = TcpStream::connect(known.get().unwrap()).unwrap();
        let (path, trace) = (&asked.path, format!("traceparent: {traceparent}\r\n"));
        let head = format!("GET {path} HTTP/1.1\r\nHost: back\r\nConnection: close\r\n{trace}\r\n");
        to.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        to.read_to_string(&mut text).unwrap();
        (text.split(' ').nth(1).unwrap().parse().unwrap(), "front".to_owned())
    });
    let front = mesh.run(&["--name", "front", "--port", &port.to_string(), "--uses", "back"], &["sleep", "1000"]);
    front.wait_for_line("BYRNIE_BACK_URL=");
    url.set(front.value("BYRNIE_BACK_URL").trim_start_matches("http://").to_owned()).unwrap();
    mesh.ok(&["allow", "front", "back"]);
    // It all stands once a call has come through.
    mesh.ask_until("front", "/ready", |answer| answer.status == 200);
    Shop { mesh, collector, front, back, asked }
}

impl Shop {
    /// One GET of the front by the edge, as a browser that traces.
    fn browse(&self, path: &str, traceparent: &str) -> u16 {
        let edge = SocketAddr::from(([127, 0, 0, 1], self.mesh.port("edge")));
        let host = format!("front.default.mesh.localhost\r\ntraceparent: {traceparent}");
        http(edge, &host, path).unwrap().status
    }
}

#[test]
fn a_trace_goes_from_the_browser_through_the_edge_and_two_services() {
    let shop = shop(100);
    let (trace, browser) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    assert_eq!(shop.browse("/tree", &format!("00-{trace}-{browser}-01")), 200);
    let spans = shop.collector.trace(trace, 5);
    let edge = below(&spans, browser, "edge", SERVER);
    let leaving = below(&spans, &id(edge), "edge", CLIENT);
    let front = below(&spans, &id(leaving), "front", SERVER);
    let calling = below(&spans, &id(front), "front", CLIENT);
    let back = below(&spans, &id(calling), "back", SERVER);
    for (told, name, value) in [
        (edge, "url.path", "/tree"),
        (edge, "http.request.method", "GET"),
        (edge, "http.response.status_code", "200"),
        (edge, "server.address", "front.default.mesh.localhost"),
        (leaving, "peer.service", "front.default"),
        (leaving, "byrnie.destination.identity", "spiffe://mesh.local/ns/default/sa/front"),
        (front, "byrnie.source.identity", "spiffe://mesh.local/ns/byrnie/sa/edge"),
        (front, "network.protocol.version", "1.1"),
        (calling, "url.full", "http://back/tree"),
        (back, "byrnie.source.identity", "spiffe://mesh.local/ns/default/sa/front"),
        (back, "byrnie.rule", "default/allow-front-to-back[0]"),
    ] {
        assert_eq!(told.word(name), value, "{name} of {told:?}");
    }
    for told in &spans {
        assert!(
            told.span.start_time_unix_nano <= told.span.end_time_unix_nano && told.span.status.is_none(),
            "{told:?}"
        );
        assert_eq!((told.span.name.as_str(), told.word("byrnie.decision").len()), ("GET", 13), "{told:?}");
    }
    // What a program is told is what its proxy tells the collector.
    let told = shop.asked.lock().unwrap().iter().find(|a| a.path == "/tree").unwrap().headers["traceparent"].clone();
    assert_eq!(told, format!("00-{trace}-{}-01", id(front)));
    let told = shop.back.asked("/tree").headers["traceparent"].clone();
    assert_eq!(told, format!("00-{trace}-{}-01", id(back)));

    // A try that got no answer, and the one after it.
    let trace = "1af7651916cd43dd8448eb211c80319c";
    assert_eq!(shop.browse("/flaky", &format!("00-{trace}-{browser}-01")), 200);
    let spans = shop.collector.trace(trace, 6);
    let edge = below(&spans, browser, "edge", SERVER);
    let front = below(&spans, &id(below(&spans, &id(edge), "edge", CLIENT)), "front", SERVER);
    let calling = below(&spans, &id(front), "front", CLIENT);
    assert_eq!(calling.word("http.request.resend_count"), "1");
    let outcomes: Vec<String> = calling.span.events.iter().map(|e| word(&e.attributes, "byrnie.outcome")).collect();
    assert_eq!(outcomes, ["closed before an answer", "status 200"]);
    let backs: Vec<&Told> = spans.iter().filter(|t| hex(&t.span.parent_span_id) == id(calling)).collect();
    assert!(backs.len() == 2 && backs.iter().all(|t| t.service == "back"), "{}", outline(&spans));
    assert!(backs.iter().any(|t| t.span.status.as_ref().is_some_and(|status| status.code == 2)), "{backs:?}");

    // Whoever asks has decided that nothing is recorded, and is passed on as it is.
    let quiet = format!("00-2af7651916cd43dd8448eb211c80319c-{browser}-00");
    assert_eq!(shop.browse("/quiet", &quiet), 200);
    assert_eq!(shop.back.asked("/quiet").headers["traceparent"], quiet);

    a_call_by_grpc_is_told_in_its_own_words(&shop);
    an_order_that_is_taken_back_is_one_tree(&shop);
    metrics_are_those_of_a_scrape(&shop);

    let quiet = shop.collector.spans().into_iter().filter(|t| t.word("url.path") == "/quiet").count();
    assert_eq!(quiet, 0, "nothing is told of what nobody wants recorded");
    let heard = shop.collector.heard.lock().unwrap();
    assert!(heard.tokens.iter().all(|token| *token == format!("Bearer {SECRET} of shop")), "{:?}", heard.tokens);
    let logs = format!("{}{}", shop.mesh.up.as_ref().unwrap().log(), shop.front.log());
    assert!(!logs.contains(SECRET) && !shop.mesh.ok(&["get", "mesh", "-o", "yaml"]).contains(SECRET));
}

fn a_call_by_grpc_is_told_in_its_own_words(shop: &Shop) {
    let port = free_port();
    let (ready, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let answer: serve::Answer = Arc::new(|request| {
            let fine = request.path.ends_with("/Quote");
            let outcome = if fine { Ok(b"9".to_vec()) } else { Err(Refusal::new(Status::NotFound, "no such ring")) };
            Box::pin(std::future::ready(unary::answer(outcome)))
        });
        let served = async {
            let listener = listen::bind(SocketAddr::from(([127, 0, 0, 1], port)), Share::Alone).unwrap();
            ready.send(()).unwrap();
            let (_trigger, shutdown) = runtime::shutdown();
            serve::serve(listener, answer, shutdown).await;
        };
        runtime::block_on(served).unwrap();
    });
    bound.recv().unwrap();
    let args = ["--name", "quotes", "--port", &port.to_string(), "--protocol", "grpc"];
    let quotes = shop.mesh.run(&args, &["sleep", "1000"]);
    quotes.wait_for_line("joined as");
    let trace = "3af7651916cd43dd8448eb211c80319c";
    let call = |method: &str, trace: &str| {
        let to = SocketAddr::from(([127, 0, 0, 1], shop.mesh.port("edge")));
        let traceparent = format!("00-{trace}-b7ad6b7169203331-01");
        let outgoing = Outgoing {
            to,
            method: Method::POST,
            uri: format!("http://quotes.default.mesh.localhost/shop.v1.Shipping/{method}"),
            headers: vec![
                (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
                (header::TE, HeaderValue::from_static("trailers")),
                (serve::HeaderName::from_static("traceparent"), HeaderValue::from_str(&traceparent).unwrap()),
            ],
            body: unary::body(b"ring"),
            answer_bytes_max: 1 << 20,
            http2: true,
        };
        let reply = runtime::block_on(async { Caller::new().send(outgoing, PATIENCE).await }).unwrap().unwrap();
        unary::status(&reply).0
    };
    until("quotes", String::new, || call("Quote", "4af7651916cd43dd8448eb211c80319c") == Status::Ok);
    assert_eq!(call("Find", trace), Status::NotFound);
    let spans = shop.collector.trace(trace, 3);
    let edge = below(&spans, "b7ad6b7169203331", "edge", SERVER);
    let leaving = below(&spans, &id(edge), "edge", CLIENT);
    let served = below(&spans, &id(leaving), "quotes", SERVER);
    for told in &spans {
        assert_eq!(told.span.name, "shop.v1.Shipping/Find");
        assert_eq!(told.word("rpc.system.name"), "grpc");
        assert_eq!(told.word("rpc.response.status_code"), "NOT_FOUND");
    }
    // The server is well, the client has got no answer.
    assert!(edge.span.status.is_none() && served.span.status.is_none());
    assert_eq!((leaving.span.status.as_ref().unwrap().code, leaving.word("error.type").as_str()), (2, "NOT_FOUND"));
}

fn an_order_that_is_taken_back_is_one_tree(shop: &Shop) {
    let _inventory = Participant::new(&shop.mesh, "inventory", |_, _| fine());
    let payments = Participant::new(&shop.mesh, "payments", |_, _| (409, "card declined".to_owned()));
    let body = r#"{"id": "order-1", "branches": [
        {"name": "stock", "action": "POST inventory/reserve", "compensate": "POST inventory/release"},
        {"name": "pay", "action": "POST payments/charge", "compensate": "POST payments/refund", "after": ["stock"]}]}"#;
    let token = std::fs::read_to_string(shop.mesh.data.join("token")).unwrap();
    let console = SocketAddr::from(([127, 0, 0, 1], shop.mesh.port("console")));
    let (trace, starter) = ("5af7651916cd43dd8448eb211c80319c", "c7ad6b7169203331");
    let mut to = TcpStream::connect(console).unwrap();
    let head = format!(
        "POST /txn/v1/sagas HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Prefer: wait=20\r\ntraceparent: 00-{trace}-{starter}-01\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    to.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    to.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"COMPENSATED\""), "{answer}");
    // The whole, and for each of three calls: the call, the coordinator's proxy, the participant's.
    let spans = shop.collector.trace(trace, 10);
    let whole = below(&spans, starter, "transactions", 1);
    assert_eq!(
        (whole.word("byrnie.txn.id").as_str(), whole.word("byrnie.txn.state").as_str()),
        ("order-1", "COMPENSATED")
    );
    assert_eq!((whole.span.name.as_str(), whole.span.status.as_ref().unwrap().code), ("saga", 2));
    for (name, outcome, service) in [
        ("action stock", "done", "inventory"),
        ("action pay", "rejected", "payments"),
        ("compensate stock", "done", "inventory"),
    ] {
        let call = spans.iter().find(|told| told.span.name == name).unwrap_or_else(|| panic!("{}", outline(&spans)));
        assert_eq!((hex(&call.span.parent_span_id), call.word("byrnie.txn.outcome")), (id(whole), outcome.to_owned()));
        let proxy = below(&spans, &id(call), "transactions", CLIENT);
        let served = below(&spans, &id(proxy), service, SERVER);
        assert!(whole.span.start_time_unix_nano <= call.span.start_time_unix_nano, "{call:?}");
        assert!(served.span.end_time_unix_nano <= whole.span.end_time_unix_nano, "{served:?}");
    }
    let everything = format!("{spans:?}");
    assert!(!everything.contains("card declined"), "what participants answer is theirs");
    assert!(payments.asked("/charge").headers["traceparent"].starts_with(&format!("00-{trace}-")));
}

fn metrics_are_those_of_a_scrape(shop: &Shop) {
    let point = |name: &str| -> Option<(i64, u64, u64)> {
        let heard = shop.collector.heard.lock().unwrap();
        let of_edge =
            heard.metrics.iter().rev().flat_map(|request| &request.resource_metrics).find(|of_resource| {
                word(&of_resource.resource.as_ref().unwrap().attributes, "service.name") == "edge"
            })?;
        let metric = of_edge.scope_metrics[0].metrics.iter().find(|metric| metric.name == name)?;
        if let Some(sum) = &metric.sum {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
            let of_front = |attributes: &[KeyValue]| {
                word(attributes, "destination") == "front.default" && word(attributes, "status") == "200"
            };
            let point = sum.data_points.iter().find(|point| of_front(&point.attributes))?;
            return Some((point.as_int, point.start_time_unix_nano, point.time_unix_nano));
        }
        let histogram = metric.histogram.as_ref()?;
        assert_eq!((histogram.aggregation_temporality, metric.unit.as_str()), (2, "s"));
        let points = &mut histogram.data_points.iter();
        let point = points.find(|point| word(&point.attributes, "destination") == "front.default")?;
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
        Some((i64::try_from(point.count).unwrap(), point.start_time_unix_nano, point.time_unix_nano))
    };
    // The calls to the front above: ready, tree, flaky, quiet.
    until(
        "4 requests",
        || format!("{:?}", point("byrnie_requests_total")),
        || point("byrnie_requests_total").is_some_and(|(count, began, now)| count >= 4 && began < now),
    );
    until("as many durations", String::new, || {
        point("byrnie_request_duration_seconds").is_some_and(|(count, ..)| count >= 4)
    });
}

/// Where a trace begins, a share of all is drawn; what fails is told all the same.
#[test]
fn what_fails_is_told_even_where_nothing_else_is() {
    let shop = shop(0);
    let edge = SocketAddr::from(([127, 0, 0, 1], shop.mesh.port("edge")));
    let host = |name: &str| format!("{name}.default.mesh.localhost");
    assert_eq!(http(edge, &host("front"), "/fine").unwrap().status, 200);
    assert_eq!(http(edge, &host("nothing"), "/failed").unwrap().status, 404);
    // What failed before all of it stood is told as well.
    let told = || -> Vec<Told> {
        let early = |told: &Told| (told.word("url.path") + &told.word("url.full")).ends_with("/ready");
        shop.collector.spans().into_iter().filter(|told| !early(told)).collect()
    };
    until("a failure", || outline(&shop.collector.spans()), || !told().is_empty());
    let spans = told();
    assert_eq!(spans.len(), 1, "{}", outline(&spans));
    assert_eq!((spans[0].word("url.path").as_str(), spans[0].word("byrnie.code").as_str()), ("/failed", "BYR-R002"));
    assert!(spans[0].span.parent_span_id.is_empty());
    // Those behind know that nothing is recorded.
    let told = shop.back.asked("/fine").headers["traceparent"].clone();
    assert!(told.ends_with("-00"), "{told}");
}

/// A transaction that outlives its coordinator is told as one, by the one who ends it.
#[test]
fn an_order_that_outlives_its_coordinator_keeps_its_trace() {
    let mut shop = shop(100);
    let gate = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let open = Arc::clone(&gate);
    let payments = Participant::new(&shop.mesh, "payments", move |_, _| {
        if open.load(std::sync::atomic::Ordering::SeqCst) { fine() } else { (503, String::new()) }
    });
    let body = r#"{"id": "order-2", "branches": [{"name": "pay", "action": "POST payments/charge", "compensate": "POST payments/refund"}]}"#;
    let token = std::fs::read_to_string(shop.mesh.data.join("token")).unwrap();
    let mut to = TcpStream::connect(("127.0.0.1", shop.mesh.port("console"))).unwrap();
    let head = format!(
        "POST /txn/v1/sagas HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    to.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    to.read_to_string(&mut answer).unwrap();
    until("a call of payments", || answer.clone(), || !payments.calls().is_empty());
    let up = shop.mesh.up.take().unwrap();
    up.signal("KILL");
    drop(up);
    gate.store(true, std::sync::atomic::Ordering::SeqCst);
    shop.mesh.start(&[]);
    let whole = || shop.collector.spans().into_iter().find(|told| told.word("byrnie.txn.state") == "SUCCEEDED");
    until("the whole", || outline(&shop.collector.spans()), || whole().is_some());
    let whole = whole().unwrap();
    assert!(whole.span.parent_span_id.is_empty());
    let done = |told: &Told| told.span.name == "action pay" && told.word("byrnie.txn.outcome") == "done";
    until("the call", || outline(&shop.collector.spans()), || shop.collector.spans().iter().any(done));
    let call = shop.collector.spans().into_iter().find(done).unwrap();
    assert_eq!((&call.span.trace_id, &call.span.parent_span_id), (&whole.span.trace_id, &whole.span.span_id));
    // What was asked before the crash belongs to the same trace.
    for asked in payments.seen.lock().unwrap().iter() {
        assert!(asked.headers["traceparent"].contains(&hex(&whole.span.trace_id)), "{asked:?}");
    }
}
