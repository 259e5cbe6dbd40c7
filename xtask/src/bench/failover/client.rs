// SPDX-License-Identifier: Apache-2.0
//! The client: keep-alive connections, requests at a fixed rate, every tenth a post with a number of its
//! own. What isn't answered with 200 within the limit is lost.

use super::options::Load;
use crate::bench::now;
use anyhow::Result;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A request that takes longer is lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What the client saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) requests: u64,
    /// Requests that may be repeated and weren't answered.
    pub(super) failed: u64,
    pub(super) failed_posts: u64,
    /// What came in place of a good answer, and how often.
    pub(super) causes: BTreeMap<String, u64>,
    pub(super) p99_us: u64,
    pub(super) worst_us: u64,
}

/// Sends all requests.
pub(super) fn run(entry: SocketAddr, load: Load) -> Result<Seen> {
    let (next, start) = (AtomicU64::new(0), now());
    let parts = std::thread::scope(|scope| {
        let ask = || scope.spawn(|| connection(entry, load, &next, start));
        let threads: Vec<_> = (0..load.connections).map(|_| ask()).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<_>>()
    });
    let mut seen = Seen::default();
    let mut latencies = Vec::new();
    for (part, own) in parts {
        seen.requests += part.requests;
        seen.failed += part.failed;
        seen.failed_posts += part.failed_posts;
        for (cause, times) in part.causes {
            *seen.causes.entry(cause).or_default() += times;
        }
        latencies.extend(own);
    }
    latencies.sort_unstable();
    seen.p99_us = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(0);
    seen.worst_us = latencies.last().copied().unwrap_or(0);
    Ok(seen)
}

/// One connection: takes the next number, waits until it's due, asks.
fn connection(entry: SocketAddr, load: Load, next: &AtomicU64, start: Instant) -> (Seen, Vec<u64>) {
    let (mut seen, mut latencies, mut wire) = (Seen::default(), Vec::new(), None);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= load.requests {
            return (seen, latencies);
        }
        let due = start + Duration::from_nanos(number.saturating_mul(1_000_000_000) / load.rate);
        std::thread::sleep(due.saturating_duration_since(now()));
        let post = number % 10 == 9;
        let sent = now();
        let lost = ask(&mut wire, entry, post.then_some(number)).err();
        latencies.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
        seen.requests += 1;
        if let Some(cause) = lost {
            wire = None;
            *seen.causes.entry(cause).or_default() += 1;
            *(if post { &mut seen.failed_posts } else { &mut seen.failed }) += 1;
        }
    }
}

/// Asks once; what came in place of a good answer.
fn ask(wire: &mut Option<BufReader<TcpStream>>, entry: SocketAddr, post: Option<u64>) -> Result<(), String> {
    let lost = |error: std::io::Error| error.kind().to_string();
    if wire.is_none() {
        let stream = TcpStream::connect_timeout(&entry, ANSWER_MAX).map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(lost)?;
        *wire = Some(BufReader::new(stream));
    }
    let Some(reader) = wire.as_mut() else { return Err("not connected".to_owned()) };
    let request = match post {
        None => "GET /b/1 HTTP/1.1\r\nhost: app\r\n\r\n".to_owned(),
        Some(number) => {
            format!("POST /b/1 HTTP/1.1\r\nhost: app\r\nx-post: {number}\r\ncontent-length: 4\r\n\r\nbody")
        }
    };
    reader.get_mut().write_all(request.as_bytes()).map_err(lost)?;
    let status = line(reader)?;
    let (mut length, mut close) = (0, false);
    loop {
        let text = line(reader)?.to_ascii_lowercase();
        match text.split_once(':') {
            Some(("content-length", number)) => {
                length = number.trim().parse::<usize>().map_err(|error| error.to_string())?;
            }
            Some(("connection", word)) => close = word.trim() == "close",
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length.min(1 << 20)];
    reader.read_exact(&mut body).map_err(lost)?;
    if close {
        *wire = None;
    }
    if status.contains(" 200 ") { Ok(()) } else { Err(cause(&status, &body)) }
}

/// The next line of an answer's head.
fn line(reader: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut line = String::new();
    match reader.read_line(&mut line) {
        Ok(0) => Err("closed".to_owned()),
        Ok(_) => Ok(line.trim().to_owned()),
        Err(error) => Err(error.kind().to_string()),
    }
}

/// The status, and the code if it's an answer of byrnie's own.
fn cause(status: &str, body: &[u8]) -> String {
    let status = status.split(' ').nth(1).unwrap_or("no status");
    let said: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    match said.as_ref().and_then(|said| said["code"].as_str()) {
        Some(code) => format!("{status} {code}"),
        None => status.to_owned(),
    }
}
