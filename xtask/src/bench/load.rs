// SPDX-License-Identifier: Apache-2.0
//! The client: keep-alive connections that ask for the same thing again and again, as fast as answers
//! come or at a fixed rate. It warms up, then says `begin N` and at the end `end N` with the requests
//! answered so far, so that whoever started it reads CPU times at these moments; then one line of JSON.

use super::now;
use super::origin::end_of_head;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

/// Load before the measured span: connections, handshakes, pools and caches settle.
const WARM_UP: Duration = Duration::from_millis(700);
/// Requests that may be due and not sent; what is due beyond counts as an error.
const DUE_MAX: usize = 1 << 16;
/// A request that takes longer is an error.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Latencies kept; later ones are left out.
const LATENCIES_MAX: usize = 16 << 20;

/// What the client saw in the measured span.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Seen {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) seconds: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

/// What connections of the load share.
#[derive(Default)]
struct Tally {
    answered: Cell<u64>,
    errors: Cell<u64>,
    measuring: Cell<bool>,
    latencies: RefCell<Vec<u32>>,
}

/// Moments at which requests are due, if there is a rate.
type Due = Option<Rc<Mutex<mpsc::Receiver<Instant>>>>;

/// `bench-load ADDRESS CONNECTIONS RATE SIZE SECONDS`.
pub(super) fn run(args: &[&str]) -> Result<()> {
    let [address, connections, rate, size, seconds] = args else {
        bail!("usage: bench-load ADDRESS CONNECTIONS RATE SIZE SECONDS")
    };
    let (address, connections): (SocketAddr, usize) = (address.parse()?, connections.parse()?);
    let (rate, size): (u64, usize) = (rate.parse()?, size.parse()?);
    let span = Duration::from_secs(seconds.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let seen = local.block_on(&runtime, async move {
        let tally = Rc::new(Tally::default());
        let due = (rate > 0).then(|| Rc::new(Mutex::new(pace(rate, WARM_UP + span))));
        for _ in 0..connections {
            tokio::task::spawn_local(keep_asking(address, size, Rc::clone(&tally), due.clone()));
        }
        measure(&tally, span).await
    })?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

async fn measure(tally: &Tally, span: Duration) -> Result<Seen> {
    tokio::time::sleep(WARM_UP).await;
    tally.measuring.set(true);
    let (start, before) = (now(), tally.answered.get());
    say(&format!("begin {before}"))?;
    tokio::time::sleep(span).await;
    let (took, after) = (start.elapsed(), tally.answered.get());
    say(&format!("end {after}"))?;
    let mut latencies = tally.latencies.take();
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).copied().map_or(0, u64::from)
    };
    let errors = tally.errors.get();
    let requests = after - before;
    Ok(Seen { requests, errors, seconds: took.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99) })
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// A thread that says when the next request is due: timers of a reactor are too coarse for it.
fn pace(rate: u64, span: Duration) -> mpsc::Receiver<Instant> {
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
async fn keep_asking(address: SocketAddr, size: usize, tally: Rc<Tally>, due: Due) {
    loop {
        if let Err(_error) = ask_on_one(address, size, &tally, &due).await {
            tally.errors.set(tally.errors.get() + 1);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn ask_on_one(address: SocketAddr, size: usize, tally: &Tally, due: &Due) -> Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let request = request(size);
    let mut answer = Vec::with_capacity(64 * 1024);
    loop {
        let start = match due {
            None => now(),
            // Waiting for a turn and for a moment: both belong to the latency only from the moment on.
            Some(due) => match due.lock().await.recv().await {
                Some(moment) => moment,
                None => std::future::pending().await,
            },
        };
        let asked = async {
            socket.write_all(&request).await?;
            read_answer(&mut socket, &mut answer, size).await
        };
        if due.is_some() {
            tokio::time::timeout(ANSWER_MAX, asked).await.context("no answer in time")??;
        } else {
            // The end of the measured span is limit enough, and a timer per request is not free.
            asked.await?;
        }
        tally.answered.set(tally.answered.get() + 1);
        let mut latencies = tally.latencies.borrow_mut();
        if tally.measuring.get() && latencies.len() < LATENCIES_MAX {
            latencies.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
}

/// Reads one whole answer, which must be a 200 with `size` bytes.
async fn read_answer(socket: &mut TcpStream, answer: &mut Vec<u8>, size: usize) -> Result<()> {
    answer.clear();
    let mut whole = usize::MAX;
    while answer.len() < whole {
        if socket.read_buf(answer).await? == 0 {
            bail!("closed within an answer");
        }
        if whole == usize::MAX
            && let Some(end) = end_of_head(answer)
        {
            check(&answer[..end], size)?;
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

/// A request as a program behind a browser sends it: eleven headers, about 650 bytes.
fn request(size: usize) -> Vec<u8> {
    format!(
        "GET /b/{size} HTTP/1.1\r\nhost: app\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 \
         Firefox/128.0\r\naccept: application/json, text/plain;q=0.9, */*;q=0.8\r\naccept-encoding: gzip, deflate, \
         br, zstd\r\naccept-language: en-GB,en;q=0.7,de;q=0.3\r\ncookie: session=0d3f1b6cbb5a4f6b8d9e2c71a4f05e93; \
         theme=dark; region=eu-central\r\nreferer: http://web.example.test/shop/items?page=3&sort=price\r\n\
         cache-control: no-cache\r\nx-tenant: 4f1c8a52-6f0e-4e0f-9f6d-2f3f0f6d1c11\r\ntraceparent: \
         00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nauthorization: Bearer \
         c2VydmljZTp3ZWI6MTcwMDAwMDAwMDpmZmZmZmZmZmZmZmZmZmZm\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_200_of_the_right_size_will_do() {
        assert!(check(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5).is_ok());
        assert!(check(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", 5).is_err());
        assert!(check(b"HTTP/1.1 503 no\r\ncontent-length: 5\r\n\r\n", 5).is_err());
        assert!(check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", 5).is_err());
        assert_eq!(request(100).iter().filter(|&&b| b == b'\n').count(), 13);
    }
}
