// SPDX-License-Identifier: Apache-2.0
//! The HTTP/1.1 client: connections that ask for the same thing again and again, as fast as answers come
//! or at a fixed rate, in clear or over TLS, kept open or made anew for each request.

use crate::app::end_of_head;
use crate::pki;
use crate::streams;
use crate::tally::{self, Tally, WARM_UP, now, say};
use crate::words::Words;
use anyhow::{Context, Result, bail};
use byrnie_model::Identity;
use byrnie_net::io::{self, Stream};
use byrnie_net::runtime;
use byrnie_net::tls::{self, ClientTls};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, mpsc};

/// Requests that may be due and not sent; what is due beyond counts as an error.
const DUE_MAX: usize = 1 << 16;
/// A request that takes longer is an error.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A connection that can't be opened within this is an error.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Pause of a connection that failed.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// What a client does.
#[derive(Clone)]
struct Plan {
    to: SocketAddr,
    tls: Option<Rc<(ClientTls, Identity)>>,
    /// A new connection for each request.
    anew: bool,
    size: usize,
    request: Rc<[u8]>,
    /// The next idempotency key, if requests have one.
    key: Option<Rc<Cell<u64>>>,
    due: Due,
}

/// Moments at which requests are due, if there is a rate.
pub(crate) type Due = Option<Rc<Mutex<mpsc::Receiver<Instant>>>>;

/// `load to=ADDR ...`.
pub(crate) fn run(words: &Words) -> Result<()> {
    let kind = words.text("kind").unwrap_or("plain");
    let connections: usize = words.number("connections", 64)?;
    let span = Duration::from_secs(words.number("secs", 3)?);
    let (size, rate): (usize, u64) = (words.number("size", 100)?, words.number("rate", 0)?);
    let (to, requests) = (words.address("to")?, words.number("requests", 0)?);
    let tls = match kind {
        "tls" | "tls-new" => {
            let credentials = pki::credentials(&words.path("pki")?, "web")?;
            Some(Rc::new((tls::client(&credentials)?, pki::identity("app")?)))
        }
        _ => None,
    };
    let streams: usize = words.number("streams", 32)?;
    let anew = matches!(kind, "new" | "tls-new");
    let mut request = request(size, words.flag("many"), anew);
    if words.flag("pieces") {
        // The same size, answered in pieces.
        request[5] = b'p';
    }
    let key: u64 = words.number("key", 0)?;
    if key > 0 {
        request = keyed_request(size);
    }
    let (request, key) = (request.into(), (key > 0).then(|| Rc::new(Cell::new(key))));
    runtime::block_on(async move {
        let tally = Rc::new(Tally::default());
        let due = (rate > 0).then(|| Rc::new(Mutex::new(pace(rate, WARM_UP + span))));
        let plan = Plan { to, tls, anew, size, request, key, due };
        for _ in 0..connections {
            let tally = Rc::clone(&tally);
            match kind {
                "h2" | "grpc" => streams::start(to, streams, size, kind == "grpc", tally),
                "plain" | "new" | "tls" | "tls-new" => {
                    tokio::task::spawn_local(keep_asking(plan.clone(), tally));
                }
                other => bail!("kind={other}"),
            }
        }
        tally::measure(&tally, span, requests).await
    })?
}

/// `hold to=ADDR connections=N secs=N`: one request on each connection, then silence. Says `held N`.
pub(crate) fn hold(words: &Words) -> Result<()> {
    let (to, connections): (_, usize) = (words.address("to")?, words.number("connections", 1000)?);
    let span = Duration::from_secs(words.number("secs", 10)?);
    runtime::block_on(async move {
        let (request, mut answer, mut held) = (request(100, false, false), Vec::new(), Vec::new());
        for _ in 0..connections {
            let mut stream = Stream::from(io::connect(to, CONNECT_MAX).await?);
            ask(&mut stream, &request, &mut answer, 100).await?;
            held.push(stream);
        }
        say(&format!("held {}", held.len()))?;
        runtime::sleep(span).await;
        Ok(())
    })?
}

/// A thread that says when the next request is due: timers of a reactor are too coarse for it.
pub(crate) fn pace(rate: u64, span: Duration) -> mpsc::Receiver<Instant> {
    let (sender, receiver) = mpsc::channel(DUE_MAX);
    let start = now();
    std::thread::spawn(move || {
        for number in 0u64.. {
            let offset = Duration::from_nanos(number.saturating_mul(1_000_000_000) / rate);
            if offset > span {
                return;
            }
            let due = start + offset;
            std::thread::sleep(due.saturating_duration_since(now()));
            if sender.blocking_send(due).is_err() {
                return;
            }
        }
    });
    receiver
}

/// One connection's life. A connection that failed is counted once and opened anew.
async fn keep_asking(plan: Plan, tally: Rc<Tally>) {
    loop {
        if let Err(error) = ask_on_one(&plan, &tally).await {
            tally.failed(&error);
            runtime::sleep(FAILED_PAUSE).await;
        }
    }
}

async fn connect(plan: &Plan) -> Result<Stream> {
    let tcp = io::connect(plan.to, CONNECT_MAX).await?;
    match plan.tls.as_deref() {
        Some((client, expected)) => Ok(tls::connect(tcp, client, expected, pki::SNI, &[]).await?.0),
        None => Ok(tcp.into()),
    }
}

async fn ask_on_one(plan: &Plan, tally: &Tally) -> Result<()> {
    let mut stream = if plan.anew { None } else { Some(connect(plan).await?) };
    let mut answer = Vec::with_capacity(64 * 1024);
    let mut request = plan.request.to_vec();
    loop {
        if let Some(key) = &plan.key {
            put_key(&mut request, key.replace(key.get() + 1));
        }
        let start = match &plan.due {
            None => now(),
            // Waiting for a turn and for a moment: both belong to the latency only from the moment on.
            Some(due) => match due.lock().await.recv().await {
                Some(moment) => moment,
                None => std::future::pending().await,
            },
        };
        let asked = async {
            match &mut stream {
                Some(stream) => ask(stream, &request, &mut answer, plan.size).await,
                None => ask(&mut connect(plan).await?, &request, &mut answer, plan.size).await,
            }
        };
        if plan.due.is_some() {
            runtime::timeout(ANSWER_MAX, asked).await.context("no answer in time")??;
        } else {
            // The end of the measured span is limit enough, and a timer per request is not free.
            asked.await?;
        }
        tally.answered(start);
    }
}

/// Asks, and reads one whole answer, which must be a 200 with `size` bytes.
async fn ask(stream: &mut Stream, request: &[u8], answer: &mut Vec<u8>, size: usize) -> Result<()> {
    stream.write_all(request).await?;
    stream.flush().await?;
    answer.clear();
    let mut whole = usize::MAX;
    while answer.len() < whole {
        if stream.read_buf(answer).await? == 0 {
            bail!("closed within an answer");
        }
        if whole == usize::MAX
            && let Some(end) = end_of_head(answer)
        {
            check(&answer[..end], size).with_context(|| reason(&answer[end..]))?;
            whole = end + size;
        }
    }
    if answer.len() == whole { Ok(()) } else { bail!("more than one answer") }
}

fn check(head: &[u8], size: usize) -> Result<()> {
    let text = std::str::from_utf8(head)?;
    if !text.starts_with("HTTP/1.1 200") {
        bail!("not a 200: {}", text.lines().next().unwrap_or_default());
    }
    let length = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| {
        // Peers write it in capitals.
        name.eq_ignore_ascii_case("content-length")
    });
    match length.and_then(|(_, value)| value.trim().parse::<usize>().ok()) {
        Some(length) if length == size => Ok(()),
        other => bail!("a length of {other:?} where {size} was expected"),
    }
}

/// Why a proxy of byrnie's refused, as far as the body that came with the head says so; else that it wasn't said.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let said = text.split_once("\"reason\":\"").and_then(|(_, rest)| rest.split('"').next());
    format!("refused, reason: {}", said.unwrap_or("not said"))
}

/// A request: as a small program sends it, or as one behind a browser does: eleven headers, about 650 bytes.
fn request(size: usize, many: bool, last: bool) -> Vec<u8> {
    let many = if many {
        "accept-encoding: gzip, deflate, br, zstd\r\naccept-language: en-GB,en;q=0.7,de;q=0.3\r\ncookie: \
         session=0d3f1b6cbb5a4f6b8d9e2c71a4f05e93; theme=dark; region=eu-central\r\nreferer: \
         http://web.example.test/shop/items?page=3&sort=price\r\ncache-control: no-cache\r\nx-tenant: \
         4f1c8a52-6f0e-4e0f-9f6d-2f3f0f6d1c11\r\ntraceparent: \
         00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nauthorization: Bearer \
         c2VydmljZTp3ZWI6MTcwMDAwMDAwMDpmZmZmZmZmZmZmZmZmZmZm\r\n"
    } else {
        ""
    };
    let last = if last { "connection: close\r\n" } else { "" };
    format!("GET /b/{size} HTTP/1.1\r\nhost: app\r\nuser-agent: load/1\r\naccept: */*\r\n{many}{last}\r\n").into_bytes()
}

/// A request that changes something, with a place for its idempotency key.
fn keyed_request(size: usize) -> Vec<u8> {
    let zeros = "0".repeat(KEY_DIGITS);
    format!("POST /b/{size} HTTP/1.1\r\nhost: app\r\ncontent-length: 0\r\nidempotency-key: \"{zeros}\"\r\n\r\n")
        .into_bytes()
}

/// Digits of a key.
const KEY_DIGITS: usize = 16;

/// Writes a key into its place in such a request.
fn put_key(request: &mut [u8], key: u64) {
    let end = request.len() - "\"\r\n\r\n".len();
    request[end - KEY_DIGITS..end].copy_from_slice(format!("{key:016x}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_in_its_place() {
        let mut request = keyed_request(100);
        put_key(&mut request, 0xab);
        let text = String::from_utf8(request).unwrap();
        assert!(text.ends_with("\r\nidempotency-key: \"00000000000000ab\"\r\n\r\n"), "{text}");
    }

    #[test]
    fn a_refusal_is_told_by_its_reason() {
        assert_eq!(reason(b"{\"status\":503,\"reason\":\"strain\",\"detail\":\"\"}"), "refused, reason: strain");
        assert_eq!(reason(b"<html>"), "refused, reason: not said");
    }

    #[test]
    fn only_a_whole_200_of_the_right_size_will_do() {
        assert!(check(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5).is_ok());
        assert!(check(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", 5).is_err());
        assert!(check(b"HTTP/1.1 503 no\r\ncontent-length: 5\r\n\r\n", 5).is_err());
        assert!(check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 5).is_err());
        let lines = |many| request(100, many, false).iter().filter(|&&b| b == b'\n').count();
        assert_eq!((lines(false), lines(true)), (5, 13));
    }
}
