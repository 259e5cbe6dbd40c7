// SPDX-License-Identifier: Apache-2.0
//! What hostile clients make two proxies hold, together with this test's own end of it.

use crate::frame::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Link, Out, RST_STREAM};
use crate::hpack::Block;
use crate::world::{Peer, Proxy, World, get, identity, status};
use crate::{alone, aside, giving, giving_streams, giving_to_many, held, metrics, pair, pair_of};
use byrnie_codec::h2::code::REFUSED_STREAM;
use byrnie_codec::hop::STREAM_CREDIT_BYTES;
use byrnie_model::Protocol;
use byrnie_net::{io, runtime, tls};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;

/// How long a client waits for what a burst leaves of processor time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The least that isn't taken for none.
const WINDOW_BYTES: u32 = 4 * 1024;

fn out() -> Out {
    Out::default()
}

#[test]
fn a_client_that_is_slow_with_a_head_costs_a_few_kibibytes() {
    alone(|| assert!(held_by_slow("GET /2 HTTP/1.1\r\nhost: echo\r\nx-slow: ") <= 16 * KIB));
}

#[test]
fn a_client_that_is_slow_with_a_body_costs_some_kibibytes() {
    alone(|| {
        let each = held_by_slow("POST /2 HTTP/1.1\r\nhost: echo\r\ncontent-length: 1000000\r\n\r\nx");
        assert!(each <= 64 * KIB);
    });
}

/// What both proxies hold for each client that does nothing after `opening`.
fn held_by_slow(opening: &str) -> i64 {
    const CLIENTS: i64 = 1_000;
    let program = giving();
    let (_world, _server, caller) = pair(&program);
    let entry = caller.outbound("echo");
    let mut good = Peer::connect(entry);
    assert_eq!(good.ask(&get("/2")).0, 200);
    let before = held();
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| TcpStream::connect(entry).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.write_all(opening.as_bytes()).unwrap());
    // Whoever came before has been looked at when the next one is answered.
    (0..20).for_each(|_| serves(&mut good));
    let each = (held() - before) / CLIENTS;
    println!("{each} bytes for each client");
    each
}

/// Clients with little windows: what they were sent stays where it came from, and another doesn't notice.
#[test]
fn answers_that_nobody_reads_stay_where_they_came_from() {
    alone(|| {
        let each = held_by_unread(1, 250);
        assert!(each <= 120 * KIB, "{each}");
    });
}

#[test]
fn many_answers_that_nobody_reads_cost_less_each() {
    alone(|| {
        let each = held_by_unread(5, 100);
        assert!(each <= 88 * KIB, "{each}");
    });
}

/// What both proxies hold for each of so many answers of 16 MiB on so many connections, with what is under way between the two:
/// there may be 32 MiB of that, whatever is asked for.
fn held_by_unread(clients: u32, streams: u32) -> i64 {
    let program = giving();
    let (_world, _server, caller) = pair(&program);
    let entry = caller.outbound("echo");
    let mut good = Peer::connect(entry);
    assert_eq!(good.ask(&get("/2")).0, 200);
    let before = held();
    let mut greedy: Vec<Link> = (0..clients).map(|_| Link::client(entry, out().setting(4, WINDOW_BYTES))).collect();
    for link in &mut greedy {
        for n in 0..streams {
            link.send(out().whole(1 + 2 * n, Block::get("/16777216")));
        }
        for _ in 0..streams {
            while link.read().expect("a head").kind != HEADERS {}
        }
    }
    for _ in 0..50 {
        let (status, body) = good.ask(&get("/1000"));
        // Of processor time a busy machine may be short whatever is held.
        assert!(status == 200 || body.contains("\"reason\":\"strain\""), "{status}: {body}");
    }
    let each = (held() - before) / i64::from(clients * streams);
    println!("{clients} clients with {streams} answers each: {each} bytes for each answer");
    each
}

/// What both proxies hold for each of a hundred clients with a hundred streams, no window, and heads of ninety lines. The proxies alone
/// are counted.
fn held_by_starved((_world, _server, caller): (World, Proxy, Proxy)) -> i64 {
    const CLIENTS: i64 = 100;
    let entry = caller.outbound("echo");
    let mut good = Peer::connect(entry);
    assert_eq!(good.ask(&get("/2")).0, 200);
    aside();
    let before = held();
    let mut block = Block::get("/16777216").kept("cookie", &"v".repeat(40)).0;
    block.extend(std::iter::repeat_n(0xbe, 90));
    let mut starved = Vec::new();
    for _ in 0..CLIENTS {
        let mut link = Link::client(entry, out().setting(4, 0));
        for id in (1..200).step_by(2) {
            link.send(bombing(id, &block));
        }
        let (mut heads, mut refused) = (0, 0);
        while heads + refused < 100 {
            let frame = link.read().expect("an answer or a refusal");
            heads += usize::from(frame.kind == HEADERS);
            refused += usize::from(frame.kind == RST_STREAM && frame.number(0) == REFUSED_STREAM);
        }
        assert!((1..=20).contains(&heads), "{heads} are served");
        starved.push(link);
        assert_eq!(good.ask(&get("/2")).0, 200);
    }
    let each = (held() - before) / CLIENTS;
    println!("clients without windows: {each} bytes for each connection");
    each
}

#[test]
fn clients_without_windows_cost_little_and_are_refused_what_they_could_not_be_sent() {
    alone(|| {
        let program = giving_to_many();
        let each = held_by_starved(pair(&program));
        assert!(each <= 256 * KIB, "{each}");
    });
}

/// The same where the program speaks HTTP/2, and sends what it's given windows for. Others get all of a large answer at once.
#[test]
fn clients_without_windows_cost_little_where_the_program_speaks_http2_too() {
    alone(|| {
        let each = held_by_starved(pair_of(giving_streams(), Protocol::Http2));
        assert!(each <= 256 * KIB, "{each}");
    });
}

/// Answers of a gibibyte to readers of a kilobyte now and then, over both versions of HTTP: each holds two windows at most, and
/// other streams of the same connection go on.
#[test]
fn slow_readers_hold_less_than_two_windows_and_stop_no_other_stream() {
    const READERS: u32 = 100;
    const SIP_BYTES: u32 = 1000;
    alone(|| {
        let program = giving();
        let (_world, _server, caller) = pair(&program);
        let entry = caller.outbound("echo");
        let mut good = Peer::connect(entry);
        assert_eq!(good.ask(&get("/2")).0, 200);
        let before = held();
        let mut link = Link::client(entry, out().setting(4, WINDOW_BYTES).window(0, 1 << 30));
        let mut plain: Vec<Peer> = (0..READERS).map(|_| Peer::connect(entry)).collect();
        for (id, plain) in (1..).step_by(2).zip(&mut plain) {
            link.send(out().whole(id, Block::get("/1073741824")));
            plain.send(get("/1073741824"));
            // Not all at once: the program's threads take the processors until their sockets are full.
            serves(&mut good);
        }
        let (mut sipped, mut other) = (0, 1001);
        for round in 0..20 {
            for (id, plain) in (1..).step_by(2).zip(&mut plain) {
                link.send(out().window(id, SIP_BYTES));
                let mut sip = [0; SIP_BYTES as usize];
                plain.stream.read_exact(&mut sip).unwrap();
                assert!(round > 0 || sip.starts_with(b"HTTP/1.1 200 "), "{}", sip.escape_ascii());
            }
            sipped += passes_by(&mut link, &mut other, 100_000);
        }
        let (windows, sips) = (READERS * WINDOW_BYTES, 19 * READERS * SIP_BYTES);
        assert!(sipped >= (windows + sips) as usize * 9 / 10, "{sipped} bytes went to slow readers");
        let each = (held() - before) / i64::from(2 * READERS);
        println!("slow readers: {each} bytes for each");
        assert!(each <= 2 * i64::from(STREAM_CREDIT_BYTES), "{each}");
    });
}

/// Another stream of a connection is answered to its end; how many bytes others were sent meanwhile. `id` is the next one's then.
fn passes_by(link: &mut Link, id: &mut u32, bytes: u32) -> usize {
    let (deadline, mut others) = (runtime::now().mono + PATIENCE, 0);
    loop {
        link.send(out().whole(*id, Block::get(&format!("/{bytes}"))).window(*id, bytes));
        let (mut body, mut ended) = (Vec::new(), false);
        while !ended {
            let frame = link.read().expect("more of the answer");
            assert!(frame.kind != RST_STREAM, "{frame:?}");
            match frame.kind {
                DATA if frame.id == *id => body.extend_from_slice(&frame.payload),
                DATA => others += frame.payload.len(),
                _ => {}
            }
            ended = frame.id == *id && matches!(frame.kind, HEADERS | DATA) && frame.has(END_STREAM);
        }
        *id += 2;
        if body.len() == bytes as usize {
            return others;
        }
        let body = String::from_utf8_lossy(&body);
        assert!(is_short(&body) && runtime::now().mono < deadline, "{body}");
    }
}

/// Whether this says that processor time, or what the program is given, is short for a moment.
fn is_short(body: &str) -> bool {
    ["strain", "overload"].iter().any(|why| body.contains(&format!("\"reason\":\"{why}\"")))
}

/// A client is answered. While a burst is taken in, processor time and what the program is given may be short for a
/// moment, never streams.
fn serves(client: &mut Peer) {
    let deadline = runtime::now().mono + PATIENCE;
    loop {
        let (status, body) = client.ask(&get("/2"));
        if status == 200 {
            return;
        }
        assert!(is_short(&body) && runtime::now().mono < deadline, "{status}: {body}");
    }
}

/// More of them than there are streams between two proxies.
#[test]
fn thousands_of_answers_that_nobody_reads_cost_little_each() {
    const CLIENTS: u32 = 18;
    const STREAMS: u32 = 250;
    alone(|| {
        let program = giving_to_many();
        let (_world, _server, caller) = pair(&program);
        let entry = caller.outbound("echo");
        let mut good = Peer::connect(entry);
        assert_eq!(good.ask(&get("/2")).0, 200);
        let before = held();
        let mut greedy = Vec::new();
        for _ in 0..CLIENTS {
            let mut link = Link::client(entry, out().setting(4, WINDOW_BYTES));
            (0..STREAMS).for_each(|n| link.send(out().whole(1 + 2 * n, Block::get("/16777216"))));
            greedy.push(link);
            serves(&mut good);
        }
        let each = (held() - before) / i64::from(CLIENTS * STREAMS);
        println!("{} answers that nobody reads: {each} bytes for each", CLIENTS * STREAMS);
        assert!(each <= 24 * KIB, "{each}");
    });
}

/// Nobody can be told to make room, as all wait for the program.
#[test]
fn the_last_streams_to_another_proxy_are_for_clients_that_have_read_an_answer() {
    alone(|| {
        let program = giving_to_many();
        let (_world, _server, caller) = pair(&program);
        let entry = caller.outbound("echo");
        let mut known = Peer::connect(entry);
        assert_eq!(known.ask(&get("/2")).0, 200);
        let mut others = Vec::new();
        for _ in 0..18 {
            let mut link = Link::client(entry, out());
            (0..250).for_each(|n| link.send(out().whole(1 + 2 * n, Block::get("/nothing"))));
            others.push(link);
        }
        let (mut refused, mut tries) = (0, 0);
        while refused != 503 && tries < 1000 {
            // Of the burst some may have been refused for want of time.
            let mut link = Link::client(entry, out());
            link.send(out().whole(1, Block::get("/nothing")));
            others.push(link);
            refused = Peer::connect(entry).ask(&get("/2")).0;
            tries += 1;
        }
        assert_eq!(refused, 503, "one that nothing is known of");
        (0..50).for_each(|_| serves(&mut known));
    });
}

/// A burst of requests with heads as large as may be, over many streams and one after the other; then nothing.
#[test]
fn connections_that_rest_keep_little_of_what_they_have_carried() {
    const CLIENTS: i64 = 20;
    const WARMING: i64 = 5;
    const STREAMS: u32 = 100;
    alone(|| {
        for (lines, value) in [(3, 1000), (13, 4000)] {
            // What it keeps of such heads itself isn't counted.
            let program = giving_to_many();
            let (_world, _server, caller) = pair(&program);
            let entry = caller.outbound("echo");
            let mut good = Peer::connect(entry);
            assert_eq!(good.ask(&get("/2")).0, 200);
            let value = "v".repeat(value);
            let (mut streamed, mut plain, mut before) = (Vec::new(), Vec::new(), 0);
            for n in 0..WARMING + CLIENTS {
                // What the first make both proxies keep, others use too: the more the more of a burst runs at once.
                if n == WARMING {
                    before = held();
                }
                let mut link = Link::client(entry, out());
                let mut all = out();
                for n in 0..STREAMS {
                    let block = (0..lines).fold(Block::get("/2"), |block, n| block.line(format!("x-{n}"), &value));
                    all = in_frames(all, 1 + 2 * n, &block.0);
                }
                link.send(all);
                let mut ended = 0;
                while ended < STREAMS {
                    ended += u32::from(link.read().expect("an answer").has(END_STREAM));
                }
                streamed.push(link);
                let mut client = Peer::connect(entry);
                let lines: String = (0..lines).map(|n| format!("x-{n}: {value}\r\n")).collect();
                assert_eq!(client.ask(&format!("GET /2 HTTP/1.1\r\nhost: echo\r\n{lines}\r\n")).0, 200);
                plain.push(client);
                assert_eq!(good.ask(&get("/2")).0, 200);
            }
            let each = || (held() - before) / CLIENTS;
            // They rest once all that was answered has been put away.
            let deadline = runtime::now().mono + PATIENCE;
            while each() > 256 * KIB && runtime::now().mono < deadline {
                std::thread::yield_now();
            }
            println!("{lines} lines of {} bytes: {} bytes for each two connections", value.len(), each());
            assert!(each() <= 256 * KIB, "{}", each());
        }
    });
}

/// A request in one HEADERS frame, and as many CONTINUATIONs as it takes.
fn in_frames(sends: Out, id: u32, block: &[u8]) -> Out {
    let mut parts = block.chunks(16_000).enumerate().peekable();
    let mut sends = sends;
    while let Some((at, part)) = parts.next() {
        let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
        let (kind, end) = if at == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
        sends = sends.frame(kind, end | last, id, part);
    }
    sends
}

/// A byte stands for a line of forty, or of four thousand.
#[test]
fn header_blocks_that_unfold_are_given_up_before_they_have() {
    alone(|| give_bombs(4_000, 40));
}

#[test]
fn header_blocks_that_unfold_far_are_given_up_before_they_have() {
    alone(|| give_bombs(16_000, 40));
}

#[test]
fn header_blocks_that_unfold_to_long_lines_are_given_up_before_they_have() {
    alone(|| give_bombs(16_000, 3_900));
}

fn give_bombs(references: usize, value: usize) {
    let program = giving();
    let (_world, _server, caller) = pair(&program);
    let entry = caller.outbound("echo");
    let mut good = Peer::connect(entry);
    assert_eq!(good.ask(&get("/2")).0, 200);
    let before = held();
    let mut block = Block::get("/2").kept("cookie", &"v".repeat(value)).0;
    block.extend(std::iter::repeat_n(0xbe, references));
    let mut bombs = Vec::new();
    for _ in 0..20 {
        let mut bomb = Link::client(entry, out().setting(4, 0));
        for id in (1..200).step_by(2) {
            bomb.send(bombing(id, &block));
        }
        bombs.push(bomb);
    }
    assert_eq!(good.ask(&get("/2")).0, 200);
    let each = (held() - before) / 20;
    println!("{references} references to {value} bytes: {each} bytes for each connection");
    assert!(each <= 256 * KIB, "{each}");
    assert_eq!(runtime::panics(), 0);
}

fn bombing(id: u32, block: &[u8]) -> Out {
    let mut sends = out().frame(HEADERS, END_STREAM, id, []);
    let mut rest = block.chunks(16_000).peekable();
    while let Some(part) = rest.next() {
        sends = sends.frame(CONTINUATION, if rest.peek().is_none() { END_HEADERS } else { 0 }, id, part);
    }
    sends
}

/// A client that has asked for more before it's answered, all the time.
#[test]
fn requests_without_end_on_one_connection_leave_nothing_behind() {
    const REQUESTS: u32 = 20_000;
    const AHEAD: u32 = 500;
    alone(|| {
        let program = giving();
        let (_world, _server, caller) = pair(&program);
        let mut client = Peer::connect(caller.outbound("echo"));
        let padding = "p".repeat(200);
        let request = format!("GET /2 HTTP/1.1\r\nhost: echo\r\nx-padding: {padding}\r\n\r\n");
        let ahead = request.repeat(AHEAD as usize);
        client.send(&ahead);
        let mut before = 0;
        for n in 0..REQUESTS {
            if n % AHEAD == 0 {
                client.send(&ahead);
            }
            let (head, body) = client.response();
            assert_eq!((status(&head), body.len()), (200, 2), "{head}");
            if n == REQUESTS / 4 {
                before = held();
            }
        }
        let grown = held() - before;
        println!("{REQUESTS} requests, each sent before the last was answered: {grown} bytes more");
        assert!(grown <= MIB, "{grown}");
    });
}

#[test]
fn hosts_paths_and_methods_that_never_come_twice_leave_no_trace_in_metrics() {
    const REQUESTS: u32 = 3_000;
    alone(|| {
        let program = giving();
        let (_world, server, caller) = pair(&program);
        let mut client = Peer::connect(caller.outbound("echo"));
        let mut ask = |n: u32| {
            client.ask(&format!(
                "M{n} /2/{n}?q={n} HTTP/1.1\r\nhost: h{n}.example\r\nuser-agent: a{n}\r\nx-request-id: {n}\r\ncontent-length: 0\r\n\r\n"
            ))
        };
        (0..500).for_each(|n| assert_eq!(ask(n).0, 200));
        let (before, first) = (held(), metrics(&caller).lines().count());
        (500..REQUESTS).for_each(|n| assert_eq!(ask(n).0, 200));
        let (grown, lines) = (held() - before, metrics(&caller).lines().count());
        println!("{REQUESTS} requests unlike each other: {lines} lines of metrics, {grown} bytes more");
        assert!(lines <= first + 10 && lines < 300, "{first}, then {lines}");
        assert!(metrics(&server).lines().count() < 300);
        assert!(grown <= 4 * MIB, "{grown}");
    });
}

/// So many callers, unless `BYRNIE_IDENTITIES` says otherwise.
const IDENTITIES: u64 = 1_500;

/// Every one proves another identity by a handshake of its own, and half of them ask by SNI for services that don't exist.
#[test]
fn identities_and_names_that_never_come_twice_leave_little_behind() {
    let wanted = std::env::var("BYRNIE_IDENTITIES").map_or(IDENTITIES, |text| text.parse().unwrap());
    alone(|| {
        let program = giving();
        let (world, server, _caller) = pair(&program);
        let inbound = server.inbound();
        let ask = |n: u64| {
            let client = tls::client(&world.credentials(&format!("caller-{n}"))).unwrap();
            let name = if n.is_multiple_of(2) { "echo".to_owned() } else { format!("echo-{n}") };
            runtime::block_on(async {
                let tcp = io::connect(inbound, PATIENCE).await.unwrap();
                let sni = format!("80.{name}.default.mesh");
                let opened = tls::connect(tcp, &client, &identity("echo"), &sni, &[tls::ALPN_HTTP1]).await;
                let (mut stream, _) = opened.unwrap();
                let request = format!("GET /2 HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                let status = status(&String::from_utf8_lossy(&answer));
                assert_eq!(status == 200, n.is_multiple_of(2), "{status}");
            })
            .unwrap();
        };
        (0..100).for_each(ask);
        let before = held();
        (100..wanted).for_each(ask);
        let (grown, text) = (held() - before, metrics(&server));
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        println!("{wanted} identities: {series} series of metrics, {grown} bytes more");
        assert!(series <= 10_000, "{series}");
        assert!(grown <= 8 * MIB, "{grown}");
        assert!(text.contains("source=\"other\""));
    });
}
