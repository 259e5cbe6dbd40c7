// SPDX-License-Identifier: Apache-2.0
//! Proxies and a collector that is away, slow, full or picky. What spans look like is for the tests of the whole mesh.

use crate::http1::pair;
use crate::world::{DOMAIN, Peer, Program, Proxy, Reserved, World, header, loopback, resource, until};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::telemetry::{Endpoint, Otlp, Share};
use byrnie_model::{Kind, Resource, Spec};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// More than are gathered for one request to a collector, and wait for the next ones.
const REQUESTS: usize = 2_900;
const AT_ONCE: usize = 100;

/// The Mesh that sends all traces to `address`.
fn telling(address: SocketAddr) -> Resource {
    let otlp = Otlp {
        endpoint: Endpoint::parse(&format!("http://{address}/otlp")).unwrap(),
        ca: None,
        headers: Vec::new(),
        traces: Share::of_millionths(Share::ALL),
        metrics: None,
    };
    let (trust_domain, default_access) = (DOMAIN.into(), DefaultAccess::Allow);
    resource(
        Kind::Mesh,
        "mesh",
        Spec::Mesh(Mesh { trust_domain, default_access, otlp: Some(Arc::new(otlp)), limits: Box::default() }),
    )
}

/// A program that answers with the `traceparent` it got.
fn mirror() -> Program {
    Program::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let told = header(&head, "traceparent").unwrap_or("none").to_owned();
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{told}", told.len()));
        }
    })
}

fn ask(client: &mut Peer, more: &str) -> String {
    let (status, body) = client.ask(&format!("GET /told HTTP/1.1\r\nhost: echo\r\n{more}\r\n"));
    assert_eq!(status, 200);
    body
}

/// A counter of a proxy.
fn count(proxy: &Proxy, name: &str) -> u64 {
    let text = proxy.metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

fn dropped(proxy: &Proxy, cause: &str) -> u64 {
    count(proxy, &format!("byrnie_spans_dropped_total{{cause=\"{cause}\"}}"))
}

/// Paths and bodies.
type Heard = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// What a collector was sent. `script` gives the answer to each request.
fn collect(listener: TcpListener, script: fn(usize) -> &'static str) -> Heard {
    let heard = Heard::default();
    let log = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut peer = Peer::new(stream);
            while let Some(head) = peer.read_head() {
                let body = peer.read_body_of(&head);
                let number = {
                    let mut log = log.lock().unwrap();
                    log.push((head.split(' ').nth(1).unwrap().to_owned(), body));
                    log.len() - 1
                };
                peer.send(script(number));
            }
        }
    });
    heard
}

#[test]
fn what_b3_says_of_a_trace_holds_where_no_traceparent_came() {
    let (mut world, program) = (World::new(), mirror());
    world.logs = false;
    let (_server, mut caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    let nobody = Reserved::new();
    caller.apply(vec![telling(nobody.address())]);
    until("a trace", || ask(&mut client, "").ends_with("-01"));
    let (trace, span) = (&PARENT[3..35], &PARENT[36..52]);
    for said in [
        format!("b3: {trace}-{span}-1\r\n"),
        format!("x-b3-traceid: {trace}\r\nx-b3-spanid: {span}\r\nx-b3-sampled: 1\r\n"),
        format!("traceparent: {PARENT}\r\nb3: 0\r\n"),
    ] {
        let told = ask(&mut client, &said);
        assert!(told.starts_with(&PARENT[..36]) && told.ends_with("-01") && told != PARENT, "{said}: {told}");
    }
    // Whoever asks has decided that nothing is sent, and those behind are told so, whether they read B3 or not.
    assert_eq!(ask(&mut client, &format!("b3: {trace}-{span}-0\r\n")), format!("00-{trace}-{span}-00"));
    for said in ["x-b3-sampled: 0\r\n", "b3: 0\r\n"] {
        let told = ask(&mut client, said);
        assert!(told.len() == PARENT.len() && told.ends_with("-00"), "{said}: {told}");
    }
}

#[test]
fn a_collector_that_is_away_full_or_picky_holds_no_request_up() {
    let (mut world, program) = (World::new(), mirror());
    world.logs = false;
    let (_server, mut caller) = pair(&world, &program);
    let mut client = Peer::connect(caller.outbound("echo"));
    // Without a word of traces they pass as they are.
    assert_eq!(ask(&mut client, &format!("traceparent: {PARENT}\r\n")), PARENT);
    assert_eq!(ask(&mut client, ""), "none");
    let away = Reserved::new();
    caller.apply(vec![telling(away.address())]);
    let mut told = 0;
    until("a trace", || {
        told += usize::from(ask(&mut client, "").ends_with("-01"));
        told > 0
    });
    let other = ask(&mut client, &format!("traceparent: {PARENT}\r\n"));
    assert!(other.starts_with(&PARENT[..36]) && other.ends_with("-01") && other != PARENT, "{other}");
    told += 1;
    let request = "GET /told HTTP/1.1\r\nhost: echo\r\n\r\n".repeat(AT_ONCE);
    for _ in 0..REQUESTS / AT_ONCE {
        client.send(&request);
        for _ in 0..AT_ONCE {
            let (head, _) = client.response();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        }
    }
    told += REQUESTS;
    until("spans dropped for want of room", || dropped(&caller, "full") > 0);
    // Now it comes: it has no room at first, takes one batch, refuses the next, and leaves three spans of the third out.
    let heard = collect(away.listen(), |number| match number {
        0 => "HTTP/1.1 503 X\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
        2 => "HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n",
        3 => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\x0a\x02\x08\x03",
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    });
    let ended = || {
        let (sent, refused) = (count(&caller, "byrnie_spans_sent_total"), dropped(&caller, "refused"));
        (sent, refused, sent + refused + dropped(&caller, "full"))
    };
    until("every span to end somewhere", || ended().2 == told as u64);
    let (sent, refused, _) = ended();
    assert!(sent > 1_000 && refused > 3 && refused <= 515, "{sent} sent, {refused} refused");
    assert_eq!(dropped(&caller, "unreached"), 0);
    let heard = heard.lock().unwrap();
    assert!(heard.iter().all(|(path, _)| path == "/otlp/v1/traces"));
    assert!(heard[0].1 == heard[1].1 && heard[1].1 != heard[2].1, "the same batch comes again, and no refused one");
}

#[test]
fn what_is_left_is_told_when_a_proxy_ends() {
    let (world, program) = (World::new(), mirror());
    let (_server, mut caller) = pair(&world, &program);
    let listener = TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let heard = collect(listener, |_| "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    caller.apply(vec![telling(address)]);
    let mut client = Peer::connect(caller.outbound("echo"));
    let mut trace = String::new();
    until("a trace", || {
        trace = ask(&mut client, "");
        trace.ends_with("-01")
    });
    drop(client);
    // Well within the second for which spans are gathered.
    assert!(caller.drain(Duration::from_secs(5)));
    let id: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&trace[3 + 2 * at..5 + 2 * at], 16).unwrap()).collect();
    let heard = heard.lock().unwrap();
    assert!(heard.iter().any(|(_, body)| body.windows(16).any(|part| part == id)), "{} requests", heard.len());
    assert!(world.log("caller").contains(&format!("\"trace\":\"{}\"", &trace[3..35])));
}
